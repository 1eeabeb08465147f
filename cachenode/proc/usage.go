package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is the unit of the processor times in /proc, the same on every
// Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// Usage tells the processor time that a process has used since its start and
// the memory that it occupies now, in bytes.
func Usage(pid int) (cpu time.Duration, rss int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name in the second field may hold anything; what follows it does not.
	_, rest, ok := strings.Cut(string(b), ") ")
	for ok && strings.Contains(rest, ") ") {
		_, rest, _ = strings.Cut(rest, ") ")
	}
	fields := strings.Fields(rest)
	const utime, stime, pages = 11, 12, 21 // fields 14, 15 and 24, counted from the third
	if len(fields) <= pages {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	var n [3]int64
	for i, at := range []int{utime, stime, pages} {
		if n[i], err = strconv.ParseInt(fields[at], 10, 64); err != nil {
			return 0, 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
	}
	return time.Duration(n[0]+n[1]) * clockTick, n[2] * int64(os.Getpagesize()), nil
}

// Turns is how often the threads of a process were given a processor, and how
// long they had wanted one before, added up. Threads that wait side by side
// count each.
type Turns struct {
	Count  int64
	Waited time.Duration
}

// Waiting adds up the turns of one process after the other. The zero value is
// ready; it is for one goroutine.
type Waiting struct {
	pid     int
	threads map[string]Turns // by thread, as it was read last
	sum     Turns
}

// Read returns the turns of pid since the first Read of it. It fails if there is
// no such process, or the kernel does not count (CONFIG_SCHED_INFO).
func (w *Waiting) Read(pid int) (Turns, error) {
	first := w.pid != pid
	if first {
		*w = Waiting{pid: pid}
	}
	dir := fmt.Sprintf("/proc/%d/task", pid)
	threads, err := os.ReadDir(dir)
	if err != nil {
		return Turns{}, err
	}
	now := make(map[string]Turns, len(threads))
	for _, t := range threads {
		path := dir + "/" + t.Name() + "/schedstat"
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && len(threads) > 1 || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return Turns{}, err
		}
		var ran, waited, count int64
		if _, err := fmt.Sscan(string(b), &ran, &waited, &count); err != nil {
			return Turns{}, fmt.Errorf("%s: %q: %w", path, b, err)
		}
		is, was := Turns{count, time.Duration(waited)}, w.threads[t.Name()]
		now[t.Name()] = is
		if !first {
			w.sum.Count += max(0, is.Count-was.Count)
			w.sum.Waited += max(0, is.Waited-was.Waited)
		}
	}
	w.threads = now
	return w.sum, nil
}

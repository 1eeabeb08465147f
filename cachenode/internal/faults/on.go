//go:build faults

package faults

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Now is the wall clock, moved as the file named by CACHE_FAULT_CLOCK says: it
// holds an offset in nanoseconds, a drift in seconds a second, and since when it
// drifts, in nanoseconds since 1970. What was obeyed is written beside it, so
// that whoever moved the clock knows that it was looked at.
func Now() time.Time {
	now := time.Now()
	path := os.Getenv("CACHE_FAULT_CLOCK")
	data, err := os.ReadFile(path)
	if path == "" || err != nil {
		return now
	}
	var offset, since int64
	var drift float64
	if _, err := fmt.Sscan(string(data), &offset, &drift, &since); err != nil {
		panic(fmt.Sprintf("faults: %s: %v", path, err))
	}
	if err := os.WriteFile(path+".seen", data, 0o644); err != nil {
		panic(fmt.Sprintf("faults: %v", err))
	}
	return now.Add(time.Duration(offset) + time.Duration(drift*float64(now.UnixNano()-since)))
}

// armed is the point at which this process is to die; nil: none.
var armed atomic.Pointer[string]

// pollInterval is how often the file is looked at.
const pollInterval = 2 * time.Millisecond

func init() {
	if path := os.Getenv("CACHE_FAULT_POINT"); path != "" {
		go watch(path)
	}
}

// watch arms what the file names, for as long as the process lives.
func watch(path string) {
	for {
		data, _ := os.ReadFile(path) // one that is not there names nothing
		name := strings.TrimSpace(string(data))
		armed.Store(&name)
		time.Sleep(pollInterval)
	}
}

// Point ends the process as kill -9 does if this is the point that it was told
// to die at. The line in the log is the last thing that it says.
func Point(name string) {
	if p := armed.Load(); p == nil || *p != name {
		return
	}
	fmt.Fprintln(os.Stderr, "failpoint: "+name)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until the signal is delivered
}

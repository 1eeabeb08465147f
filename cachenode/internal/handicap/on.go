//go:build handicap

package handicap

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// On says whether this build can be slowed down.
const On = true

// HANDICAP_DELAY holds every answer to a write back for so long, and HANDICAP_CPU spends so much processor time on it, both
// as Go writes durations.
var (
	delay = fromEnv("HANDICAP_DELAY")
	burn  = fromEnv("HANDICAP_CPU")
	held  = make(chan answer, 1<<16) // more than the windows of all streams; when it is full, whoever delivers waits
)

type answer struct {
	due  time.Time
	give func()
}

func fromEnv(name string) time.Duration {
	text := os.Getenv(name)
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		fmt.Fprintf(os.Stderr, "%s: %q, expected a duration such as 300us\n", name, text)
		os.Exit(2)
	}
	return d
}

func init() {
	if delay > 0 {
		go release()
	}
}

// Deliver gives the answer when the handicap allows.
func Deliver(give func()) {
	for began := time.Now(); time.Since(began) < burn; {
	}
	if delay == 0 {
		give()
		return
	}
	held <- answer{time.Now().Add(delay), give}
}

// release gives answers when they are due. All wait equally long, so they are due in order. The runtime's timers are a
// millisecond coarse on an idle node, which is more than what is to be added; the kernel's are not, with the slack off.
func release() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // without it answers are 50 µs later still
	for a := range held {
		for left := time.Until(a.due); left > 0; left = time.Until(a.due) {
			ts := unix.NsecToTimespec(int64(left))
			_ = unix.Nanosleep(&ts, nil) // a signal wakes it early, and it goes on
		}
		a.give()
	}
}

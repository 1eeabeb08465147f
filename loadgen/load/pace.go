package load

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// PreciseSleep sleeps in the kernel. The runtime's own timers come from its
// network poller, which counts in milliseconds when it has nothing else to do:
// a sleep of 100 µs then takes 1.1 ms. This one is late by some tens of
// microseconds and does not spin, so that it takes nothing from a target on the
// same cores. It is meant for one goroutine that is locked to its thread.
func PreciseSleep(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	for unix.Nanosleep(&ts, &ts) == unix.EINTR {
	}
}

// coarse is the part of a pause that is left to PreciseSleep: what a timer of
// the runtime may be late by.
const coarse = 2 * time.Millisecond

// pause waits for d, in two steps: what can be interrupted, then what is
// precise. It returns early when ctx is done.
func pause(ctx context.Context, d time.Duration, sleep func(time.Duration)) {
	if d > coarse {
		timer := time.NewTimer(d - coarse)
		begin := time.Now()
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		d -= time.Since(begin)
	}
	if d > 0 {
		sleep(d)
	}
}

// prefer asks the kernel to wake this thread when it was told to, not up to 50 µs
// later, which is its default to save power, and, where that is allowed, before
// threads of ordinary priority: what is measured must not make its clock late.
func prefer() {
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -10)
}

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
// later, which is its default to save power, and before other threads: what is
// measured must not make its clock late. A thread that asks for short turns gets
// them soon, where the default is to let others end theirs of 3 ms (since Linux
// 6.12; older ones ignore it); a priority is only granted to the privileged.
func prefer() {
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL {
		return // somebody has arranged it otherwise
	}
	const turn = 100 * time.Microsecond // the shortest there is
	attr.Runtime = uint64(turn)
	_ = unix.SchedSetAttr(0, attr, 0)
	attr.Nice = -10
	_ = unix.SchedSetAttr(0, attr, 0)
}

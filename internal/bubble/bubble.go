// Package bubble runs tests in virtual time.
package bubble

import (
	"runtime"
	"testing"
	"testing/synctest"
)

// Test is [synctest.Test], on one processor while the race detector is on.
//
// The runtime runs the timers of a bubble under one context of the race detector, and two of them may run at once on
// two processors: the root advances the clock while a goroutine finds its timer due. The detector then dies with
// "ThreadSanitizer: CHECK failed: tsan_rtl.cpp" and takes the test binary with it, whatever the test
// (https://github.com/golang/go/issues/78156). With one processor there is no second. Happens-before, which is what
// the detector judges by, does not need two.
//
// The number of processors belongs to the whole process: a test that uses it must not be parallel.
func Test(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if raceEnabled {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	}
	synctest.Test(t, f)
}

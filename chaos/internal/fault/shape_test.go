package fault

import (
	"testing"
	"time"

	"github.com/hacache/hacache/internal/bubble"
)

// TestAlternate proves that what comes and goes is in force for its share of
// each period, from the beginning on, and never after it was stopped, whenever
// that is; and that without a period it is in force all the time.
func TestAlternate(t *testing.T) {
	const period, duty = time.Second, 0.3
	for _, tt := range []struct {
		period, stopped time.Duration
		want            time.Duration // in force
		times           int           // put in force
	}{
		{period, 0, 0, 1},
		{period, 200 * time.Millisecond, 200 * time.Millisecond, 1},
		{period, 500 * time.Millisecond, 300 * time.Millisecond, 1},
		{period, 10*time.Second + 100*time.Millisecond, 3*time.Second + 100*time.Millisecond, 11},
		{0, 10 * time.Second, 10 * time.Second, 1},
	} {
		bubble.Test(t, func(t *testing.T) {
			var since time.Time
			var total time.Duration
			times := 0
			stop := alternate(tt.period, duty, func() func() {
				if !since.IsZero() {
					t.Error("put in force twice")
				}
				since = time.Now()
				times++
				return func() {
					if !since.IsZero() { // a lift may be repeated
						total += time.Since(since)
					}
					since = time.Time{}
				}
			})
			time.Sleep(tt.stopped)
			stop()
			stop()
			if !since.IsZero() {
				t.Errorf("in force after it was stopped at %v", tt.stopped)
			}
			if total != tt.want || times != tt.times {
				t.Errorf("stopped after %v: in force for %v, %d times; want %v, %d times", tt.stopped, total, times, tt.want, tt.times)
			}
		})
	}
}

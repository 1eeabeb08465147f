package bubble_test

import (
	"sync"
	"testing"
	"time"

	"github.com/hacache/hacache/internal/bubble"
)

// Goroutines that each find a timer of their own due are what killed the race detector in four of five runs of this
// test when bubbles had more than one processor.
func TestTimersDueAtOnce(t *testing.T) {
	bubble.Test(t, func(*testing.T) {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 20_000 {
					timer := time.NewTimer(0)
					select {
					case <-timer.C:
					default:
					}
					timer.Stop()
				}
			})
		}
		wg.Wait()
	})
}

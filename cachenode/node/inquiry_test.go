package node

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hacache/hacache/internal/bubble"
)

// Everybody gets an answer that is no older than the question, and however many ask there is one question at a time, for
// all who came while the one before was being answered.
func TestInquiry(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var asked, now atomic.Int64
		q := newInquiry(func() int64 {
			asked.Add(1)
			at := now.Load()
			time.Sleep(10 * time.Millisecond)
			return at
		})
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Microsecond)
				now.Add(1)
				from := now.Load()
				if got := q.get(); got < from {
					t.Errorf("asked at %d, the answer is of %d", from, got)
				}
			})
		}
		wg.Wait()
		if n := asked.Load(); n < 10 || n > 12 { // in 100 ms, at 10 ms each
			t.Errorf("1000 asked, and there were %d questions", n)
		}
		before := now.Add(1)
		if got := q.get(); got != before || asked.Load() < 11 {
			t.Errorf("alone: %d, want %d", got, before)
		}
	})
}

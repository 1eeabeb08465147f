package replication

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hacache/hacache/proto/cachepb"
)

// upper is a Driven that counts what a turn brings it. Its gate, while closed, holds the runner at the end of a turn.
type upper struct {
	Driven
	held chan struct{} // closed when it is at the gate for the first time
	gate chan struct{}

	mu       sync.Mutex
	turns    int
	submits  []int // by turn
	requests []int // items of peers' messages, by turn
	order    []uint64
}

func (u *upper) Submit(Submission) { u.add(&u.submits, 1) }

func (u *upper) PeerRequest(_ int, _ uint64, req *cachepb.CacheRequest) {
	n := max(len(req.GetBatch().GetItems()), 1)
	u.add(&u.requests, n)
	u.mu.Lock()
	u.order = append(u.order, req.GetPut().GetOp().GetSeq())
	u.mu.Unlock()
}

func (u *upper) add(counts *[]int, n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(*counts) <= u.turns {
		*counts = append(*counts, 0)
	}
	(*counts)[u.turns] += n
}

func (u *upper) Flush() {}

func (u *upper) Settle() bool {
	if u.turns == 0 {
		close(u.held)
	}
	<-u.gate
	u.mu.Lock()
	defer u.mu.Unlock()
	u.turns++
	return false
}

func (u *upper) NextWake() time.Duration { return never }

func (u *upper) count(counts *[]int) (sum, most int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, n := range *counts {
		sum, most = sum+n, max(most, n)
	}
	return sum, most
}

// nowhere is a Transport without anybody at its other ends.
type nowhere struct{ Transport }

func (nowhere) Send(int, Lane, *cachepb.CacheRequest) bool { return false }
func (nowhere) SendAck(int, Lane, *cachepb.Ack) bool       { return false }
func (nowhere) Probe(int)                                  {}
func (nowhere) Reconnect()                                 {}

// other is the incarnation that runs at slot 1.
var other = uint64(HostTag("b:1"))<<(64-tagBits) | 7

// held starts a runner that is held at the end of its first turn. release lets it go on, stop ends it.
func held(t *testing.T) (r *Runner, u *upper, release, stop func()) {
	t.Helper()
	u = &upper{held: make(chan struct{}), gate: make(chan struct{})}
	core, err := New(Config{Hosts: []string{"a:1", "b:1", "c:1"}, Upper: u, Transport: nowhere{}})
	if err != nil {
		t.Fatal(err)
	}
	r = NewRunner(core, u)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	<-u.held
	r.PostUp(1, other, Incoming, LaneData)
	var once sync.Once
	release = func() { once.Do(func() { close(u.gate) }) }
	return r, u, release, func() { release(); cancel(); <-done }
}

// write is an operation of so many bytes, from 2.
func write(seq uint64, size int) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Put{Put: &cachepb.Put{
		CacheName: "c", Entry: "k", Value: make([]byte, size-2), Op: &cachepb.OpTag{Session: 1, Seq: seq},
	}}}
}

// settled waits until the runner has done everything that was posted before.
func settled(t *testing.T, r *Runner) {
	t.Helper()
	for {
		if err := r.Call(t.Context(), func(*Core) {}); err != nil {
			t.Fatal(err)
		}
		if m, o := r.Depth(); m+o == 0 {
			return
		}
	}
}

// The inbox is bounded in operations and in bytes: what is beyond is refused and counted, and what was taken comes in
// turns of a bounded size.
func TestRunnerBoundsOperations(t *testing.T) {
	for name, c := range map[string]struct{ size, want int }{
		"by number": {2, inboxOps},
		"by bytes":  {1 << 20, inboxOpBytes >> 20},
	} {
		t.Run(name, func(t *testing.T) {
			r, u, release, stop := held(t)
			defer stop()
			taken := 0
			for i := range c.want + 100 {
				if r.Submit(nil, write(uint64(i), c.size)) {
					taken++
				}
			}
			if taken != c.want || r.Full() != 100 {
				t.Errorf("%d were taken, %d refused, want %d and 100", taken, r.Full(), c.want)
			}
			release()
			settled(t, r)
			if sum, most := u.count(&u.submits); sum != taken || most > turnOps {
				t.Errorf("%d came, %d in one turn, want %d, at most %d at once", sum, most, taken, turnOps)
			}
			if !r.Submit(nil, write(0, c.size)) {
				t.Error("refused although there is room again")
			}
		})
	}
}

// What the loop has taken and does a turn's worth of at a time is still what waits: the bound is for both together.
func TestRunnerBoundsWhatItTook(t *testing.T) {
	r, u, _, stop := held(t)
	defer stop()
	for i := range inboxOps {
		if !r.Submit(nil, write(uint64(i), 2)) {
			t.Fatalf("operation %d was refused", i)
		}
	}
	u.gate <- struct{}{} // the next turn takes all, does some, and is held at its end
	for sum := 0; sum < turnOps; sum, _ = u.count(&u.submits) {
		runtime.Gosched()
	}
	room := 0
	for i := range inboxOps {
		if r.Submit(nil, write(uint64(i), 2)) {
			room++
		}
	}
	if room != 0 && room != turnOps { // by whether the loop has said already what is left
		t.Errorf("room for %d beside %d that wait, expected %d at most", room, inboxOps-turnOps, turnOps)
	}
}

// A flood on a data lane makes its reader wait, in order and without a loss, and holds up neither a control lane nor
// more than a turn's worth of work at once; and the end of the runner lets the reader go.
func TestRunnerHoldsLanesBack(t *testing.T) {
	r, u, release, stop := held(t)
	defer stop()
	const messages, size = 40, 256 << 10
	posted := make(chan int, messages)
	go func() {
		for i := range messages {
			r.PostRequest(1, other, LaneData, write(uint64(i), size))
			posted <- i
		}
		close(posted)
	}()
	for r.Waits() == 0 {
		runtime.Gosched()
	}
	if n, _ := r.Depth(); n > inboxBulk/size+1 {
		t.Errorf("%d messages of 256 KiB wait in an inbox of 4 MiB", n)
	}
	r.PostRequest(1, other, LaneControl, write(1000, 10)) // does not wait
	release()
	for range posted {
	}
	settled(t, r)
	u.mu.Lock()
	last := uint64(0)
	for _, seq := range u.order {
		if seq < 1000 && seq != 0 && seq != last+1 {
			t.Fatalf("message %d came after %d", seq, last)
		}
		if seq < 1000 {
			last = seq
		}
	}
	u.mu.Unlock()
	if last != messages-1 || r.Dropped() > 0 {
		t.Errorf("the last was %d of %d, %d were dropped", last, messages, r.Dropped())
	}
	if _, most := u.count(&u.requests); most > turnBytes/size+1 {
		t.Errorf("%d messages of 256 KiB in a turn of 1 MiB", most)
	}
}

// Messages of many operations count for as much as operations do.
func TestRunnerCountsItems(t *testing.T) {
	r, u, release, stop := held(t)
	defer stop()
	items := make([]*cachepb.CacheRequest, 1000)
	for i := range items {
		items[i] = write(uint64(i), 2)
	}
	for range 20 {
		r.PostRequest(1, other, LaneData, &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Batch{Batch: &cachepb.Requests{Items: items}}})
	}
	release()
	settled(t, r)
	if sum, most := u.count(&u.requests); sum != 20_000 || most > turnOps+1000 {
		t.Errorf("%d operations came, %d in one turn", sum, most)
	}
}

// A reader that waits for room is let go when the runner ends.
func TestRunnerEndLetsReadersGo(t *testing.T) {
	r, _, _, stop := held(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 100 {
			r.PostRequest(1, other, LaneSnapshot, write(0, 1<<20))
		}
	}()
	for r.Waits() == 0 {
		runtime.Gosched()
	}
	stop()
	<-done
}

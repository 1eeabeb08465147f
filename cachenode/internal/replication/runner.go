package replication

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hacache/hacache/proto/cachepb"
)

// ErrStopped is returned by Runner.Call when the runner has ended.
var ErrStopped = errors.New("replication: stopped")

// Responder receives the answer to one operation. Deliver never blocks and is safe for concurrent use.
type Responder interface {
	Deliver(ack *cachepb.Ack)
}

// Submission is one operation of a client of this node. Req belongs to the receiver.
type Submission struct {
	To  Responder
	Req *cachepb.CacheRequest
}

// Driven is what a Runner drives above its core. All methods are called on the runner's goroutine.
type Driven interface {
	Upper
	// Submit takes one operation of a client.
	Submit(s Submission)
	// Flush proposes or forwards what the submissions of a turn left waiting.
	Flush()
	// Settle runs after entries were applied: it answers what is due. It reports whether Flush should run again at once.
	Settle() bool
	// NextWake returns when Settle wants to run again even if nothing happens.
	NextWake() time.Duration
}

// Bounds of the runner's inbox. Peers' messages and clients' operations queue apart, so that a flood of operations
// never delays a heartbeat; a turn takes all of the former and a bounded number of the latter.
const (
	inboxPeers = 64 << 10
	inboxOps   = 64 << 10
	opsPerTurn = 4096
)

// Runner is the one goroutine that drives a core. Its Post methods and Submit never block.
type Runner struct {
	core  *Core
	upper Driven

	mu      sync.Mutex
	peers   []event // from the transport, and calls
	ops     []Submission
	stopped bool
	wake    chan struct{} // capacity 1; never closed

	view    atomic.Pointer[View]
	backlog atomic.Int64 // operations taken from the inbox that wait for the next turn
	dropped atomic.Uint64
	full    atomic.Uint64
}

// View is what other goroutines may know of the core without asking it.
type View struct {
	AsOf      time.Duration // see Core.AsOf; valid if Fresh
	Fresh     bool          // AsOf is known
	ClusterMs int64         // cluster time at At
	At        time.Duration
	Cluster   uint64
	Term      uint64
	Leader    int    // slot, or -1
	Address   string // the leader's, or ""
	Leading   bool
	Ready     bool
	Applied   uint64
	Waiting   string // see Core.Waiting
}

type eventKind uint8

const (
	eventRequest eventKind = iota
	eventAck
	eventUp
	eventDown
	eventDialFailed
	eventCall
)

type event struct {
	kind    eventKind
	dir     Direction
	lane    Lane
	refused bool
	slot    int
	id      uint64
	req     *cachepb.CacheRequest
	ack     *cachepb.Ack
	call    func(*Core)
}

// NewRunner returns a runner for core, whose Upper must be upper. It starts nothing; Run does.
func NewRunner(core *Core, upper Driven) *Runner {
	r := &Runner{core: core, upper: upper, wake: make(chan struct{}, 1)}
	r.view.Store(&View{Leader: -1})
	return r
}

// Now reads CLOCK_BOOTTIME, the clock that cores run on: it does not jump with the wall clock and, unlike the monotonic
// clock of the runtime, it counts the time that a machine was suspended.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("replication: CLOCK_BOOTTIME: " + err.Error()) // in Linux since 2.6.39
	}
	return time.Duration(ts.Nano())
}

func (r *Runner) post(e event) {
	r.mu.Lock()
	if r.stopped || (len(r.peers) >= inboxPeers && (e.kind == eventRequest || e.kind == eventAck)) {
		r.mu.Unlock()
		r.dropped.Add(1)
		return
	}
	r.peers = append(r.peers, e)
	r.mu.Unlock()
	r.signal()
}

func (r *Runner) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// PostRequest hands a peer's request to the core.
func (r *Runner) PostRequest(slot int, id uint64, lane Lane, req *cachepb.CacheRequest) {
	r.post(event{kind: eventRequest, slot: slot, id: id, lane: lane, req: req})
}

// PostAck hands a peer's answer to the core.
func (r *Runner) PostAck(slot int, id uint64, lane Lane, ack *cachepb.Ack) {
	r.post(event{kind: eventAck, slot: slot, id: id, lane: lane, ack: ack})
}

// PostUp reports a new stream.
func (r *Runner) PostUp(slot int, id uint64, dir Direction, lane Lane) {
	r.post(event{kind: eventUp, slot: slot, id: id, dir: dir, lane: lane})
}

// PostDown reports the end of a stream.
func (r *Runner) PostDown(slot int, id uint64, dir Direction, lane Lane) {
	r.post(event{kind: eventDown, slot: slot, id: id, dir: dir, lane: lane})
}

// PostDialFailed reports a failed attempt to open a stream.
func (r *Runner) PostDialFailed(slot int, refused bool) {
	r.post(event{kind: eventDialFailed, slot: slot, refused: refused})
}

// Submit queues one operation. It reports false, and has no effect, when the inbox is full or the runner has stopped.
func (r *Runner) Submit(to Responder, req *cachepb.CacheRequest) bool {
	r.mu.Lock()
	if r.stopped || len(r.ops) >= inboxOps {
		r.mu.Unlock()
		r.full.Add(1)
		return false
	}
	r.ops = append(r.ops, Submission{To: to, Req: req})
	first := len(r.ops) == 1
	r.mu.Unlock()
	if first {
		r.signal()
	}
	return true
}

// Call runs f on the runner's goroutine and waits for it. It returns ctx's error or ErrStopped if f may not have run.
func (r *Runner) Call(ctx context.Context, f func(*Core)) error {
	done := make(chan struct{})
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return ErrStopped
	}
	r.peers = append(r.peers, event{kind: eventCall, call: func(c *Core) { defer close(done); f(c) }})
	r.mu.Unlock()
	r.signal()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// View returns what was published at the end of the last turn.
func (r *Runner) View() *View { return r.view.Load() }

// Depth returns how many messages of peers and operations of clients wait for the next turn.
func (r *Runner) Depth() (messages, operations int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.peers), len(r.ops) + int(r.backlog.Load())
}

// Dropped returns how many peer messages the full inbox dropped.
func (r *Runner) Dropped() uint64 { return r.dropped.Load() }

// Full returns how many operations the full inbox refused.
func (r *Runner) Full() uint64 { return r.full.Load() }

// Run drives the core until ctx is done. Calls that wait then are run before it returns, so that nobody waits for ever.
func (r *Runner) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var peers, spare []event
	var ops, spareOps []Submission
	defer r.stop()
	for {
		r.mu.Lock()
		peers, r.peers = r.peers, spare[:0]
		if len(ops) == 0 {
			ops, r.ops = r.ops, spareOps[:0]
			spareOps = ops
		}
		r.mu.Unlock()

		r.core.Clock(Now())
		for i := range peers {
			r.dispatch(&peers[i])
		}
		clear(peers)
		spare = peers
		n := min(len(ops), opsPerTurn)
		for i := range ops[:n] {
			r.upper.Submit(ops[i])
		}
		clear(ops[:n])
		ops = ops[n:]
		r.backlog.Store(int64(len(ops)))

		again := true
		for again {
			r.upper.Flush()
			r.core.Process()
			again = r.upper.Settle()
		}
		r.publish()

		if len(ops) > 0 {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			continue
		}
		wait := min(r.core.NextWake(), r.upper.NextWake()) - Now()
		if wait <= 0 {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-r.wake:
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (r *Runner) dispatch(e *event) {
	switch e.kind {
	case eventRequest:
		r.core.ReceiveRequest(e.slot, e.id, e.lane, e.req)
	case eventAck:
		r.core.ReceiveAck(e.slot, e.id, e.lane, e.ack)
	case eventUp:
		r.core.PeerUp(e.slot, e.id, e.dir, e.lane)
	case eventDown:
		r.core.PeerDown(e.slot, e.id, e.dir, e.lane)
	case eventDialFailed:
		r.core.DialFailed(e.slot, e.refused)
	case eventCall:
		e.call(r.core)
	}
}

func (r *Runner) publish() {
	c := r.core
	asOf, fresh := c.AsOf()
	base, at := c.ClusterTime()
	v := View{
		AsOf: asOf, Fresh: fresh, ClusterMs: base, At: at, Cluster: c.cluster, Term: c.term, Leader: c.Leader(), Address: c.Host(c.Leader()),
		Leading: c.Leading(), Ready: c.Ready(), Applied: c.applied, Waiting: c.Waiting(),
	}
	if *r.view.Load() != v {
		r.view.Store(&v)
	}
}

// stop refuses further work and runs the calls that were queued meanwhile.
func (r *Runner) stop() {
	r.mu.Lock()
	r.stopped = true
	left := r.peers
	r.peers, r.ops = nil, nil
	r.mu.Unlock()
	for i := range left {
		if left[i].kind == eventCall {
			left[i].call(r.core)
		}
	}
}

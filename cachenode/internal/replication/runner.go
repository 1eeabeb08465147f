package replication

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

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

// Bounds of the runner's inbox, and of a turn.
//
// Peers' messages and clients' operations queue apart, so that a flood of operations never delays a heartbeat. The inbox
// holds little of what is large: whoever reads a data or snapshot lane waits until there is room, and with it, by flow
// control, the peer at its other end. A heartbeat on a control lane never waits to get in, and what stands before it is no
// more than inboxBulk, some tens of milliseconds.
//
// A turn takes a bounded amount of work of either kind, since between two turns nothing is sent and no tick is counted:
// thousands of operations in one turn are a heartbeat that is late at all other nodes.
const (
	inboxPeers   = 64 << 10 // messages of peers; beyond it they are dropped
	inboxBulk    = 4 << 20  // bytes of those on data and snapshot lanes; one larger message is taken alone
	inboxOps     = 64 << 10 // operations
	inboxOpBytes = 32 << 20 // and their bytes
	turnOps      = 4096     // operations of clients in a turn, and as many in messages of peers
	turnBytes    = 1 << 20  // of messages of peers
	callWork     = 8        // what a Call counts for, in operations
)

// InboxBytes is what the inbox holds at most, but for messages of the control lanes, which are small.
const InboxBytes = inboxBulk + inboxOpBytes

// Runner is the one goroutine that drives a core. Submit never blocks, nor do the Post methods but for messages on data and
// snapshot lanes, which wait while the inbox is full of them.
type Runner struct {
	core  *Core
	upper Driven

	mu      sync.Mutex
	room    sync.Cond // bulk has become less, or the runner has stopped
	peers   []event   // from the transport, and calls
	ops     []Submission
	bulk    int          // bytes of what has come on data and snapshot lanes and was not dispatched yet
	opBytes atomic.Int64 // of the operations in ops and of those taken from them that wait for the next turn; only Submit adds, under mu
	stopped bool
	wake    chan struct{} // capacity 1; never closed

	view    atomic.Pointer[View]
	behind  atomic.Int64 // messages taken from the inbox that wait for the next turn
	backlog atomic.Int64 // operations taken from the inbox that wait for the next turn
	dropped atomic.Uint64
	waits   atomic.Uint64
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
	work    int // what it counts for in a turn, in operations
	size    int // bytes, of what is counted in Runner.bulk
}

// NewRunner returns a runner for core, whose Upper must be upper. It starts nothing; Run does.
func NewRunner(core *Core, upper Driven) *Runner {
	r := &Runner{core: core, upper: upper, wake: make(chan struct{}, 1)}
	r.room.L = &r.mu
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
	if e.size > 0 && r.bulk > 0 && r.bulk+e.size > inboxBulk && !r.stopped {
		r.waits.Add(1)
		for r.bulk > 0 && r.bulk+e.size > inboxBulk && !r.stopped {
			r.room.Wait()
		}
	}
	if r.stopped || (len(r.peers) >= inboxPeers && (e.kind == eventRequest || e.kind == eventAck)) {
		r.mu.Unlock()
		r.dropped.Add(1)
		return
	}
	r.bulk += e.size
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
	e := event{kind: eventRequest, slot: slot, id: id, lane: lane, req: req, work: max(len(req.GetBatch().GetItems()), 1)}
	if lane != LaneControl {
		e.size = requestBytes(req)
	}
	r.post(e)
}

// PostAck hands a peer's answer to the core.
func (r *Runner) PostAck(slot int, id uint64, lane Lane, ack *cachepb.Ack) {
	e := event{kind: eventAck, slot: slot, id: id, lane: lane, ack: ack, work: max(len(ack.GetBatch().GetItems()), 1)}
	if lane != LaneControl {
		e.size = ackBytes(ack)
	}
	r.post(e)
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
	size := int64(operandBytes(req))
	r.mu.Lock()
	if r.stopped || len(r.ops)+int(r.backlog.Load()) >= inboxOps || r.opBytes.Load()+size > inboxOpBytes {
		r.mu.Unlock()
		r.full.Add(1)
		return false
	}
	r.opBytes.Add(size)
	r.ops = append(r.ops, Submission{To: to, Req: req})
	first := len(r.ops) == 1
	r.mu.Unlock()
	if first {
		r.signal()
	}
	return true
}

// operandBytes is what an operation's names, value and req_id take.
func operandBytes(req *cachepb.CacheRequest) int {
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Put:
		return len(m.Put.GetCacheName()) + len(m.Put.GetEntry()) + len(m.Put.GetValue()) + len(m.Put.GetReqId())
	case *cachepb.CacheRequest_Insert:
		return len(m.Insert.GetCacheName()) + len(m.Insert.GetEntry()) + len(m.Insert.GetValue()) + len(m.Insert.GetReqId())
	case *cachepb.CacheRequest_Del:
		return len(m.Del.GetCacheName()) + len(m.Del.GetEntry()) + len(m.Del.GetReqId())
	case *cachepb.CacheRequest_Remove:
		return len(m.Remove.GetCacheName()) + len(m.Remove.GetEntry()) + len(m.Remove.GetReqId())
	case *cachepb.CacheRequest_Get:
		return len(m.Get.GetCacheName()) + len(m.Get.GetEntry()) + len(m.Get.GetRead().GetReqId())
	}
	return 0
}

// messageOverhead is about what a message takes beside what is counted.
const messageOverhead = 64

// requestBytes is about what a peer's request takes. The usual ones are not measured exactly, which costs as much as to
// write them.
func requestBytes(req *cachepb.CacheRequest) int {
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Replicate:
		if m.Replicate.GetChunk() == nil {
			return messageOverhead + len(m.Replicate.GetPeer().GetRaft())
		}
	case *cachepb.CacheRequest_Batch:
		n := messageOverhead
		for _, item := range m.Batch.GetItems() {
			n += messageOverhead + operandBytes(item)
		}
		return n
	}
	return proto.Size(req)
}

// ackBytes is the same for a peer's answer.
func ackBytes(ack *cachepb.Ack) int {
	switch m := ack.GetMethod().(type) {
	case *cachepb.Ack_ReplicateAck:
		if m.ReplicateAck.GetChunkAck() == nil {
			return messageOverhead + len(m.ReplicateAck.GetPeer().GetRaft())
		}
	case *cachepb.Ack_Batch:
		n := messageOverhead
		for _, item := range m.Batch.GetItems() {
			n += messageOverhead + len(item.GetGetAck().GetValue())
		}
		return n
	}
	return proto.Size(ack)
}

// Call runs f on the runner's goroutine and waits for it. It returns ctx's error or ErrStopped if f may not have run.
func (r *Runner) Call(ctx context.Context, f func(*Core)) error {
	done := make(chan struct{})
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return ErrStopped
	}
	r.peers = append(r.peers, event{kind: eventCall, work: callWork, call: func(c *Core) { defer close(done); f(c) }})
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
	return len(r.peers) + int(r.behind.Load()), len(r.ops) + int(r.backlog.Load())
}

// Dropped returns how many peer messages the full inbox dropped.
func (r *Runner) Dropped() uint64 { return r.dropped.Load() }

// Waits returns how often a lane was not read because the inbox was full of messages like those on it.
func (r *Runner) Waits() uint64 { return r.waits.Load() }

// Full returns how many operations the full inbox refused.
func (r *Runner) Full() uint64 { return r.full.Load() }

// Run drives the core until ctx is done. Calls that wait then are run before it returns, so that nobody waits for ever.
func (r *Runner) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var peers, sparePeers []event
	var ops, spareOps []Submission
	defer func() { r.stop(peers) }()
	for {
		r.mu.Lock()
		if len(peers) == 0 {
			peers, r.peers = r.peers, sparePeers[:0]
			sparePeers = peers
		}
		if len(ops) == 0 {
			ops, r.ops = r.ops, spareOps[:0]
			spareOps = ops
		}
		r.behind.Store(int64(len(peers)))
		r.backlog.Store(int64(len(ops)))
		r.mu.Unlock()

		r.core.Clock(Now())
		n := r.dispatchSome(peers)
		clear(peers[:n])
		peers = peers[n:]
		r.behind.Store(int64(len(peers)))
		n = min(len(ops), turnOps)
		var submitted int64
		for i := range ops[:n] {
			submitted += int64(operandBytes(ops[i].Req))
			r.upper.Submit(ops[i])
		}
		r.opBytes.Add(-submitted)
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

		if len(ops)+len(peers) > 0 {
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

// dispatchSome hands as many messages to the core as a turn takes, and returns how many.
func (r *Runner) dispatchSome(peers []event) (n int) {
	work, size := 0, 0
	for n < len(peers) && work < turnOps && size < turnBytes {
		e := &peers[n]
		r.dispatch(e)
		work += e.work
		size += e.size
		n++
	}
	if size > 0 {
		r.mu.Lock()
		r.bulk -= size
		r.room.Broadcast()
		r.mu.Unlock()
	}
	return n
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

// stop refuses further work and runs the calls that were queued meanwhile: those that were taken already, and those
// that were not.
func (r *Runner) stop(taken []event) {
	r.mu.Lock()
	r.stopped = true
	left := append(taken, r.peers...)
	r.peers, r.ops = nil, nil
	r.room.Broadcast()
	r.mu.Unlock()
	for i := range left {
		if left[i].kind == eventCall {
			left[i].call(r.core)
		}
	}
}

package gateway

import (
	"bytes"
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/hacache/hacache/cachenode/internal/mutant"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/store"
	"github.com/hacache/hacache/cachenode/internal/wire"
	"github.com/hacache/hacache/proto/cachepb"
)

// Bounds. Reaching one is counted in Stats and answered OVERLOADED, or makes the operation wait its turn.
const (
	batchOps       = 1024                    // operations in one log entry or one forwarded message
	batchBytes     = 1 << 20                 // and their bytes
	batchesInLog   = 4                       // own proposals that are not applied yet; what waits meanwhile fills the next batch
	resendAfter    = 1500 * time.Millisecond // what was forwarded and not answered for so long is taken for lost
	acksPerMessage = 1024
	ackBytes       = 1 << 20
	notLeaderPause = 5 * time.Millisecond // before an operation that found no leader there is sent again
	sweepInterval  = 10 * time.Millisecond
	batchesPerTurn = 4  // forwarded in one turn of the loop, so that it comes back to its heartbeats
	maxTwins       = 64 // of one operation

	// What waits for its turn for longer than maxWait makes the node refuse more. Room in bytes alone would let small
	// operations wait for seconds, beyond their deadlines: then everything is carried out and nobody is told in time.
	// Two such waits, at the gateway and at the leader, are well within the default deadline.
	maxWait     = time.Second
	maxPatience = 60 * time.Second // of any operation: the session table forgets it then, and no copy may be sent any more

	// What a full leader has refused is sent again after a pause that doubles, until it takes something.
	overloadPauseMin = 10 * time.Millisecond
	overloadPauseMax = 160 * time.Millisecond
)

// Config describes a Gateway. The zero value of a duration or size means its default.
type Config struct {
	Store     *store.Store
	Transport replication.Transport

	Deadline    time.Duration // of an Insert or Remove that names none. Default 3 s; none is longer than 60 s
	PutPatience time.Duration // how long a Put waits for a leader that takes it before it is lost. Default 2 s
	DelPatience time.Duration // the same of a Del. Default 60 s, which is also the most
	MaxBytes    int           // operations kept, and the overlay. Default 64 MiB each
	MaxStale    time.Duration // bound of local reads. Default 500 ms

	WatchChanges int // changes kept for streams that watch. Default 131 072
	WatchBytes   int // and their bytes. Default 16 MiB

	Rand   func() uint64 // names sessions; required
	Logger *slog.Logger  // nil discards
}

// Stats counts what happened; it only grows, except Queued to OverlayBytes, Watches and WatchKept.
type Stats struct {
	Answered        uint64 // operations answered OK
	Refused         uint64 // answered with a definite code
	Indeterminate   uint64
	PutsLost        uint64 // answered Puts and Dels that no leader took in time
	Resent          uint64
	Forwarded       uint64
	ForeignTaken    uint64
	Batches         uint64
	BatchedOps      uint64
	FullPending     uint64 // refused because MaxBytes were kept
	FullWait        uint64 // refused because the queue was slow
	FullTwins       uint64 // refused because an operation had maxTwins
	FullWindow      uint64 // had to wait because the session's window was full
	SessionsRenewed uint64
	Queued          int
	Reads           int // that wait for the leader
	PendingBytes    int
	OverlayBytes    int

	Watches        int                // feeds that are open
	WatchTold      uint64             // changes and gaps, once for each feed that told them
	WatchGaps      [gapReasons]uint64 // by reason
	WatchKept      int                // changes
	WatchKeptBytes int
}

// Gateway implements replication.Driven.
type Gateway struct {
	cfg   Config
	core  *replication.Core
	store *store.Store
	log   *slog.Logger

	queue   []*op // queue[head:] waits for a leader or its turn, in order of arrival
	head    int
	back    []*op // to be put back into the queue at its place
	dead    int   // finished operations that still stand in the queue
	foreign int   // how many of queue another gateway forwarded
	n       uint64
	bytes   int
	wheel   wheel

	session   session
	byTag     map[tag]*op
	forwarded map[forwardName]*op
	stream    forwardName          // of the next forward
	arrivals  map[uint32]*arrivals // of other gateways' forwards, by host

	proposals []proposal // own entries not applied yet, by index
	once      []*op      // wait for another voter's log, by index
	settled   []*op      // answered, not applied yet
	applying  bool       // an entry is being applied: its answers are gathered
	applied   bool       // something was applied in this turn

	leaderID   uint64
	leaderTerm uint64
	breaks     uint64
	holdUntil  time.Duration // after a NOT_LEADER or OVERLOADED
	restored   bool
	checkedAt  time.Duration
	lookedAt   time.Duration // for something to sweep

	moving bool // somebody takes what is queued
	more   bool // there is more to forward than one turn may
	drain  drain

	overloadPause time.Duration // the last one; 0: the leader has taken something since
	refusedAt     time.Duration // when it began

	reads   reads
	overlay overlay
	feeds   feeds
	acks    [][]*cachepb.Ack // by slot, sent at the end of the turn
	answers []delivery       // to clients, of the entry that is being applied

	// Memory that is used again and again.
	blank   []op // to be used next
	taken   []*op
	entry   []byte // of the log
	decoder wire.Decoder
	done    *cachepb.Outcome // of the last operation that had an effect; those of one entry of the log share it

	stats Stats
}

type tag struct{ session, seq uint64 }

type proposal struct {
	index, term uint64
	batch       *cachepb.Batch
}

// New returns a Gateway; Attach completes it.
func New(cfg Config) *Gateway {
	cfg.Deadline = cmp.Or(cfg.Deadline, 3*time.Second)
	cfg.PutPatience = cmp.Or(cfg.PutPatience, 2*time.Second)
	cfg.DelPatience = cmp.Or(cfg.DelPatience, 60*time.Second)
	cfg.MaxBytes = cmp.Or(cfg.MaxBytes, 64<<20)
	cfg.MaxStale = cmp.Or(cfg.MaxStale, 500*time.Millisecond)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.WatchChanges = cmp.Or(cfg.WatchChanges, watchChanges)
	cfg.WatchBytes = cmp.Or(cfg.WatchBytes, watchBytes)
	g := &Gateway{
		cfg: cfg, store: cfg.Store, log: cfg.Logger,
		byTag: make(map[tag]*op), forwarded: make(map[forwardName]*op), arrivals: make(map[uint32]*arrivals),
	}
	g.feeds.init(&cfg)
	return g
}

// MemoryBytes is how much the operations that are kept, those of other gateways, the overlay, and the changes kept for
// streams that watch take at most. It is safe for concurrent use.
func (g *Gateway) MemoryBytes() (operations, watch int) { return 3 * g.cfg.MaxBytes, g.cfg.WatchBytes }

// Attach gives the gateway its core, whose Upper it is. It is called once, before anything else.
func (g *Gateway) Attach(core *replication.Core) {
	g.core = core
	// Answers to an earlier process at this host must not be taken for ours.
	g.stream.epoch, g.reads.n = g.cfg.Rand()>>16, g.cfg.Rand()>>16
}

// Submit implements replication.Driven.
func (g *Gateway) Submit(s replication.Submission) {
	if get := s.Req.GetGet(); get != nil {
		g.submitRead(s.To, get)
		return
	}
	o, ok := g.parse(s.Req)
	if !ok {
		return // the session has answered whatever is no operation
	}
	o.to = s.To
	if o.kind == kindInsert && mutant.On(mutant.InsertAnywhere) {
		o.kind = kindPut
	}
	now := g.core.Now()
	if o.session != 0 && o.seq != 0 {
		if first := g.byTag[tag{o.session, o.seq}]; first != nil {
			g.submitTwin(first, o)
			return
		}
	}
	switch {
	case g.bytes+o.size > g.cfg.MaxBytes || g.overlay.bytes > g.cfg.MaxBytes:
		g.stats.FullPending++
		g.answer(o, cachepb.Code_OVERLOADED, "too many operations wait at this node")
		return
	case g.wait() > maxWait:
		g.stats.FullWait++
		g.answer(o, cachepb.Code_OVERLOADED, "operations wait for too long at this node")
		return
	case o.session == 0 && o.seq != 0, o.session != 0 && o.seq == 0:
		g.answer(o, cachepb.Code_INVALID, "an operation tag needs both a session and a seq")
		return
	}
	if o.session != 0 {
		g.byTag[tag{o.session, o.seq}] = o
	}
	g.n++
	o.n, o.at = g.n, now
	if !g.admit(o, now) {
		delete(g.byTag, tag{o.session, o.seq})
		return
	}
	g.bytes += o.size
	g.wheel.add(o, now)
	g.queue = append(g.queue, o)
}

// admit sets the operation's deadline and answers Put and Del. It reports false if the operation was refused.
func (g *Gateway) admit(o *op, now time.Duration) bool {
	patience := cmp.Or(o.deadline, g.cfg.Deadline)
	switch o.kind {
	case kindPut:
		if !g.fresh(now) {
			g.answer(o, g.unavailable(), "this node is cut off, and a Put is acknowledged at once")
			return false
		}
		patience = g.cfg.PutPatience
	case kindDel:
		patience = g.cfg.DelPatience
	}
	o.deadline = now + min(patience, maxPatience)
	if !o.kind.waits() {
		g.overlay.put(o)
		g.answer(o, cachepb.Code_OK, "")
	}
	return true
}

// submitTwin lets a repeated submission of a tagged operation wait for the same outcome.
func (g *Gateway) submitTwin(first, o *op) {
	switch {
	case o.kind != first.kind || o.cache != first.cache || o.key != first.key:
		// Its own kind of ack could not tell what became of the other one.
		g.answer(o, cachepb.Code_INVALID, "another operation with this session and seq is under way")
		return
	case !o.kind.waits():
		g.answer(o, cachepb.Code_OK, "") // on arrival, as the first was
		return
	case len(first.twins) >= maxTwins:
		g.stats.FullTwins++
		g.answer(o, cachepb.Code_OVERLOADED, "the same operation was submitted too often")
		return
	}
	first.twins = append(first.twins, twin{o.to, o.reqID, o.hasReqID, o.level})
	if first.acked {
		g.answerReached(first, first.level, first.place(), first.term)
	}
	if first.waiters() > 0 && first.bucket < 0 {
		first.deadline = g.core.Now() + min(cmp.Or(o.deadline, g.cfg.Deadline), maxPatience)
		g.wheel.add(first, g.core.Now())
	}
}

func (g *Gateway) fresh(now time.Duration) bool {
	at, ok := g.core.AsOf()
	return ok && now-at <= g.cfg.MaxStale
}

// unavailable names why nothing can be done now.
func (g *Gateway) unavailable() cachepb.Code {
	if g.core.Leader() < 0 {
		return cachepb.Code_NO_LEADER
	}
	return cachepb.Code_NO_QUORUM
}

// Flush implements replication.Driven.
func (g *Gateway) Flush() {
	g.noteLeadership()
	g.merge()
	g.noteMoving()
	g.more = false
	if g.queued() > 0 {
		switch {
		case g.core.Elected():
			for g.moving && (len(g.proposals) < batchesInLog || mutant.On(mutant.OldLeaderAcks)) && g.queued() > 0 && g.propose() {
			}
		case g.moving && g.core.Now() >= g.holdUntil:
			g.refuseForeign()
			sent := 0
			for sent < batchesPerTurn && g.queued() > 0 && g.forward(g.core.Leader()) {
				sent++
			}
			g.more = sent == batchesPerTurn
		default:
			g.refuseForeign()
		}
		g.drain.turn(g.core.Now())
	}
	if !g.moving || g.queued() == 0 {
		g.drain = drain{from: g.core.Now(), at: g.core.Now()}
	}
	g.sweep()
	g.askReads()
	g.sendAcks()
}

// noteMoving notes whether somebody takes what is queued: this node as the leader, or the leader that it is linked to.
// That a full leader makes it pause is no reason to say that nobody does.
func (g *Gateway) noteMoving() {
	leader := g.core.Leader()
	g.moving = !g.core.Transferring()
	if g.core.Elected() {
		g.moving = g.moving && g.core.Leading()
	} else {
		g.moving = g.moving && leader >= 0 && g.core.Linked(leader)
	}
}

// drain is how quickly the queue is emptied, measured only while something stays in it although somebody takes as much as
// can be taken: the rate at which a queue that is emptied in each turn is emptied is that at which it is filled. The queue of a cluster without
// a leader is not slow either: who stands in it waits for a leader, up to its deadline.
type drain struct {
	from  time.Duration // since when there was always something
	at    time.Duration // of the last turn that was counted
	took  time.Duration // measured
	taken int           // bytes in that time
	now   int           // bytes in this turn
	rate  float64       // bytes a second; 0: not known
}

const (
	drainLeast  = 50 * time.Millisecond  // less is no measurement
	drainWindow = 250 * time.Millisecond // after so much it begins anew
	// drainGap is what the time between two turns counts for at most. A pause of this process says nothing about what
	// it can do when it runs, and nothing should be refused because of one.
	drainGap = 100 * time.Millisecond
)

// turn counts what was taken in a turn.
func (d *drain) turn(now time.Duration) {
	if d.now == 0 {
		return
	}
	d.took += min(now-d.at, drainGap)
	d.taken += d.now
	d.at, d.now = now, 0
	if d.took < drainLeast {
		return
	}
	d.rate = float64(d.taken) / d.took.Seconds()
	if d.took >= drainWindow {
		d.took, d.taken = 0, 0
	}
}

// wait is how long an operation will wait for its turn if it comes now, or how long the first in the queue has waited
// already. The latter alone would notice too late: when the first has waited for a second, what came in that second at
// many times the rate at which it can go is in the queue as well.
func (g *Gateway) wait() time.Duration {
	if !g.moving || g.head == len(g.queue) {
		return 0
	}
	first := g.core.Now() - max(g.queue[g.head].at, g.drain.from)
	if g.drain.rate == 0 {
		return first
	}
	return max(first, time.Duration(float64(g.bytes)/g.drain.rate*float64(time.Second)))
}

func (g *Gateway) queued() int { return len(g.queue) - g.head + len(g.back) }

// merge puts operations back into the queue at their place: operations on one key must leave in the order in which they
// came, or an older one undoes a newer one that was acknowledged.
func (g *Gateway) merge() {
	if g.dead > 1024 && g.dead > g.queued()/2 {
		// Without a leader nothing takes operations out, and those that were answered at their deadline pile up.
		g.queue = slices.DeleteFunc(g.queue[g.head:], func(o *op) bool {
			if o.state == stateDone && o.foreign {
				g.foreign--
			}
			return o.state == stateDone
		})
		g.head, g.dead = 0, 0
	}
	if len(g.back) == 0 {
		return
	}
	slices.SortFunc(g.back, func(a, b *op) int { return cmp.Compare(a.n, b.n) })
	rest := g.queue[g.head:]
	merged := make([]*op, 0, len(g.back)+len(rest))
	for _, o := range g.back {
		for len(rest) > 0 && rest[0].n < o.n {
			merged, rest = append(merged, rest[0]), rest[1:]
		}
		merged = append(merged, o)
	}
	g.queue, g.head = append(merged, rest...), 0
	clear(g.back)
	g.back = g.back[:0]
}

// giveBack lets an operation wait in the queue again.
func (g *Gateway) giveBack(o *op) {
	o.state = stateQueued
	g.back = append(g.back, o)
}

// take removes up to a batch of operations from the queue; what it returns is valid until it is called again. Each is
// tagged; one that cannot be tagged yet ends the batch, so that operations leave in their order.
func (g *Gateway) take() []*op {
	clear(g.taken)
	batch := g.taken[:0]
	bytes := 0
	for g.head < len(g.queue) && len(batch) < batchOps && bytes < batchBytes {
		o := g.queue[g.head]
		if o.state != stateDone {
			if !g.tag(o) {
				g.stats.FullWindow++
				break
			}
			if len(batch) > 0 && bytes+o.size > batchBytes {
				break
			}
			batch = append(batch, o)
			bytes += o.size
		}
		if o.foreign {
			g.foreign--
		}
		if o.state == stateDone {
			g.dead--
		}
		g.queue[g.head] = nil
		g.head++
	}
	if g.head == len(g.queue) {
		g.queue, g.head = g.queue[:0], 0
	}
	g.drain.now += bytes
	g.taken = batch
	return batch
}

// untake puts a batch back to the front of the queue.
func (g *Gateway) untake(batch []*op) {
	for _, o := range batch {
		g.drain.now -= o.size
		o.state = stateQueued
		if o.foreign {
			g.foreign++
		}
	}
	if g.head >= len(batch) {
		g.head -= len(batch)
		copy(g.queue[g.head:], batch)
		return
	}
	g.queue = slices.Concat(batch, g.queue[g.head:])
	g.head = 0
}

// propose puts one batch into the log. It reports false if that is not possible now.
func (g *Gateway) propose() bool {
	ops := g.take()
	if len(ops) == 0 {
		return false
	}
	requests := make([]*cachepb.CacheRequest, len(ops))
	for i, o := range ops {
		if o.own {
			o.first = g.session.base
		}
		requests[i] = o.logged()
	}
	index, ok := g.append(requests)
	if !ok {
		g.untake(ops)
		return false
	}
	term := g.core.Term()
	for _, o := range ops {
		o.state, o.index, o.term = stateProposed, index, term
		o.copies++
		switch {
		case !o.kind.waits() || o.level == levelQuorum && !earlyQuorum():
		case o.level == levelLeader || o.level == levelQuorum:
			g.reached(o)
		default:
			g.once = append(g.once, o)
			continue
		}
		if o.foreign {
			g.finish(o)
		}
	}
	return true
}

// earlyQuorum reports whether a planted bug answers at quorum what is only proposed.
func earlyQuorum() bool {
	return mutant.On(mutant.QuorumBeforeCommit) || mutant.On(mutant.AckBeforeApply)
}

// append puts an entry with operations into the log. It reports false if that is not possible now.
func (g *Gateway) append(ops []*cachepb.CacheRequest) (index uint64, ok bool) {
	batch := &cachepb.Batch{ClusterMs: g.core.ClusterMs(), Ops: ops}
	var err error
	if g.entry, err = wire.AppendBatch(g.entry[:0], batch.ClusterMs, ops); err != nil {
		// Strings that are not UTF-8 were refused at the door, so this is a bug.
		panic(fmt.Sprintf("gateway: marshal a batch: %v", err))
	}
	if index, err = g.core.Propose(bytes.Clone(g.entry)); err != nil { // the log keeps it for long, and nothing beyond it
		return 0, false
	}
	g.proposals = append(g.proposals, proposal{index: index, term: g.core.Term(), batch: batch})
	g.stats.Batches++
	g.stats.BatchedOps += uint64(len(ops))
	return index, true
}

// sweep puts an entry without operations into the log if no other is on its way and expired entries wait: they go with
// entries of the log only.
func (g *Gateway) sweep() {
	if len(g.proposals) > 0 || !g.core.Leading() || g.core.Transferring() || g.core.Now()-g.lookedAt < sweepInterval {
		return
	}
	g.lookedAt = g.core.Now()
	if g.store.SweepDue(g.core.ClusterMs()) {
		g.append(nil)
	}
}

// reached answers an operation whose level, leader or once, was reached in this node's own log.
func (g *Gateway) reached(o *op) {
	if o.foreign {
		g.tell(o.slot, o.ack(o.ref, true, true, g.outcome(cachepb.Code_OK, "", o.index, o.term)))
		return
	}
	g.answered(o)
}

// answered gives the positive answer of a level that comes before the operation is applied here.
func (g *Gateway) answered(o *op) {
	if !mutant.On(mutant.AckBeforeApply) {
		g.overlay.put(o)
	}
	o.acked = true
	g.answerReached(o, o.level, o.place(), o.term)
	if o.waiters() == 0 {
		g.wheel.remove(o) // else a twin at a stronger level keeps the deadline
	}
	g.settled = append(g.settled, o)
}

// forward sends one batch to the leader. It reports false if that is not possible now.
func (g *Gateway) forward(leader int) bool {
	ops := g.take()
	if len(ops) == 0 {
		return false
	}
	items := make([]*cachepb.CacheRequest, len(ops))
	for i, o := range ops {
		if o.own {
			o.first = g.session.base
		}
		o.ref = forwardName{g.stream.epoch, g.stream.n + uint64(i)}.String()
		items[i] = o.request(false)
	}
	req := items[0]
	if len(items) > 1 {
		req = &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Batch{Batch: &cachepb.Requests{Items: items}}}
	}
	if !g.cfg.Transport.Send(leader, replication.LaneData, req) {
		g.untake(ops)
		return false
	}
	g.stats.Forwarded += uint64(len(ops))
	for _, o := range ops {
		if o.copies > 0 {
			g.stats.Resent++
		}
		o.state, o.sentAt = stateForwarded, g.core.Now()
		o.copies++
		o.name = g.stream
		g.forwarded[o.name] = o
		g.stream.n++
	}
	return true
}

// refuseForeign sends back what other gateways forwarded to a node that does not lead any more.
func (g *Gateway) refuseForeign() {
	if g.foreign == 0 {
		return
	}
	kept := g.queue[:g.head]
	for _, o := range g.queue[g.head:] {
		if !o.foreign {
			kept = append(kept, o)
			continue
		}
		if o.state != stateDone {
			g.refuseTo(o, cachepb.Code_NOT_LEADER, "")
			g.finish(o)
		}
		g.dead--
	}
	clear(g.queue[len(kept):])
	g.queue, g.foreign = kept, 0
}

func (g *Gateway) refuseTo(o *op, code cachepb.Code, detail string) {
	g.tell(o.slot, o.ack(o.ref, true, false, g.outcome(code, detail, 0, g.core.Term())))
}

// PeerRequest implements replication.Upper: operations that another gateway forwards to this leader.
func (g *Gateway) PeerRequest(slot int, id uint64, req *cachepb.CacheRequest) {
	if b := req.GetBatch(); b != nil {
		for _, item := range b.GetItems() {
			if item.GetBatch() == nil {
				g.PeerRequest(slot, id, item)
			}
		}
		return
	}
	if get := req.GetGet(); get != nil {
		g.tell(slot, &cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: g.leaderRead(get)}})
		return
	}
	o, ok := g.parse(req)
	if !ok || o.session == 0 {
		return
	}
	o.foreign, o.slot, o.from, o.ref = true, slot, id, o.reqID
	if !g.core.Elected() {
		g.refuseTo(o, cachepb.Code_NOT_LEADER, "")
		return
	}
	if !g.arrive(o) {
		return
	}
	// What its client was told is done is not refused for want of room: its gateway had room for it.
	if code, detail := g.store.Validate(req); code != cachepb.Code_OK && (o.kind.waits() || code != cachepb.Code_OVERLOADED) {
		g.refuseTo(o, code, detail)
		return
	}
	g.stats.ForeignTaken++
	g.bytes += o.size
	// It has no deadline here: its gateway keeps that, and to drop it would break the order.
	g.n++
	o.n, o.at = g.n, g.core.Now()
	g.queue = append(g.queue, o)
	g.foreign++
}

// PeerAck implements replication.Upper: the leader's answers to what this gateway forwarded.
func (g *Gateway) PeerAck(slot int, id uint64, ack *cachepb.Ack) {
	var ref string
	var ok bool
	var out *cachepb.Outcome
	switch m := ack.GetMethod().(type) {
	case *cachepb.Ack_Batch:
		for _, item := range m.Batch.GetItems() {
			if item.GetBatch() == nil {
				g.PeerAck(slot, id, item)
			}
		}
		return
	case *cachepb.Ack_GetAck:
		g.lookedUp(m.GetAck)
		return
	case *cachepb.Ack_PutAck:
		ref, ok, out = m.PutAck.GetReqId(), m.PutAck.GetModRes(), m.PutAck.GetOutcome()
	case *cachepb.Ack_DelAck:
		ref, ok, out = m.DelAck.GetReqId(), m.DelAck.GetModRes(), m.DelAck.GetOutcome()
	default:
		return
	}
	name, rest, err := parseForward(ref)
	if err != nil || id != g.leaderID {
		return
	}
	if rest {
		g.unsent(name, out)
		return
	}
	o := g.forwarded[name]
	if o == nil {
		return
	}
	if ok {
		if o.to != nil && (o.level != levelQuorum || earlyQuorum()) && !o.acked {
			o.index, o.term = out.GetIndex(), out.GetTerm()
			g.answered(o)
		}
		return
	}
	g.leaderRefused(o, out)
}

// leaderRefused handles a leader's no to one forward. It is about one copy of the operation; if an earlier copy may be in
// a log, it says nothing about that one.
func (g *Gateway) leaderRefused(o *op, out *cachepb.Outcome) {
	switch out.GetCode() {
	case cachepb.Code_NOT_LEADER, cachepb.Code_NO_LEADER, cachepb.Code_NO_QUORUM:
		g.hold(notLeaderPause)
		g.requeue(stateForwarded)
	default:
		delete(g.forwarded, o.name)
		if o.copies > 1 && o.kind.waits() {
			return // an earlier copy may take effect yet: applied, or unknown at the deadline
		}
		g.answer(o, out.GetCode(), out.GetDetail())
		g.lose(o)
		g.finish(o)
	}
}

// lose counts an operation that was answered on arrival and will not take effect, or may not.
func (g *Gateway) lose(o *op) {
	if !o.kind.waits() {
		g.stats.PutsLost++
	}
}

// noteLeadership sends operations again after a change of leader, or of the connection with it: what was sent before may
// be lost. The session table makes that safe.
func (g *Gateway) noteLeadership() {
	id, term := g.core.LeaderID(), g.core.Term()
	if id == 0 {
		return // whoever led may still have our operations; wait for somebody to ask
	}
	breaks := g.core.Breaks(g.core.Leader())
	switch {
	case id != g.leaderID || term != g.leaderTerm:
		g.proposals = g.proposals[:0]
		g.closeArrivals()
		for _, o := range g.once {
			if o.foreign && o.state != stateDone {
				g.finish(o) // its own gateway sends it again
			}
		}
		g.once = g.once[:0]
		g.requeue(stateProposed, stateForwarded)
		g.holdUntil, g.overloadPause = 0, 0
	case breaks != g.breaks || g.restored || g.overdue():
		g.requeue(stateForwarded)
	}
	g.leaderID, g.leaderTerm, g.breaks, g.restored = id, term, breaks, false
}

// overdue reports whether something that was forwarded got no answer for too long. It is looked for once in a while.
func (g *Gateway) overdue() bool {
	now := g.core.Now()
	if len(g.forwarded) == 0 || now-g.checkedAt < resendAfter/4 {
		return false
	}
	g.checkedAt = now
	for _, o := range g.forwarded {
		if now-o.sentAt > resendAfter && !o.acked {
			return true
		}
	}
	return false
}

// requeue puts sent operations in one of the given states back into the queue, unless they were answered at their level,
// and begins a new stream of forwards.
func (g *Gateway) requeue(states ...state) {
	pick := func(o *op) {
		if o != nil && slices.Contains(states, o.state) && g.sendable(o) {
			g.giveBack(o)
		}
	}
	for seq := g.session.base; seq < g.session.next; seq++ {
		pick(g.session.at(seq))
	}
	for _, o := range g.byTag {
		pick(o)
	}
	clear(g.forwarded)
	g.reopen()
}

// sendable reports whether an operation may be sent again: it must not if it was answered at its level, since it could
// overwrite a later one.
func (g *Gateway) sendable(o *op) bool { return !o.acked && (o.waiters() > 0 || !o.kind.waits()) }

// Apply implements replication.StateMachine.
func (g *Gateway) Apply(index, term uint64, data []byte) {
	g.applied = true
	var batch *cachepb.Batch
	if len(g.proposals) > 0 && g.proposals[0].index == index && g.proposals[0].term == term {
		batch = g.proposals[0].batch
		g.proposals = slices.Delete(g.proposals, 0, 1)
	} else {
		var err error
		defer g.decoder.Free()
		if batch, err = decodeBatch(&g.decoder, data); err != nil {
			// Every replica reads the same bytes, so all skip it. It cannot have been proposed by a gateway of this version.
			g.log.Error("an entry of the log is not a batch", "index", index, "term", term, "error", err)
			batch = &cachepb.Batch{}
		}
		if mutant.On(mutant.RemoveOnLeader) {
			batch.Ops = slices.DeleteFunc(batch.Ops, func(req *cachepb.CacheRequest) bool { return req.GetRemove() != nil })
		}
	}
	g.core.NoteClusterMs(batch.GetClusterMs())
	watched := g.feeds.begin(g.store)
	g.applying = true
	g.store.Apply(index, batch, func(i int, r store.Result) {
		if o := g.find(opTag(batch.Ops[i])); o != nil {
			g.complete(o, r, index, term)
		}
	})
	if watched {
		g.feeds.end(index, term, g.core.Cluster())
	}
	g.applying = false
	g.handOver()
}

func opTag(req *cachepb.CacheRequest) *cachepb.OpTag {
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Put:
		return m.Put.GetOp()
	case *cachepb.CacheRequest_Insert:
		return m.Insert.GetOp()
	case *cachepb.CacheRequest_Del:
		return m.Del.GetOp()
	case *cachepb.CacheRequest_Remove:
		return m.Remove.GetOp()
	}
	return nil
}

// maxClusterMs bounds cluster time, so that a ttl can be added to it. It is in the year 287396.
const maxClusterMs = 1 << 53

// decodeBatch reads the payload of a log entry, into memory of the decoder.
func decodeBatch(d *wire.Decoder, data []byte) (*cachepb.Batch, error) {
	b, err := d.Batch(data)
	if err != nil {
		return nil, err
	}
	if len(b.GetOps()) > store.MaxBatchOps {
		return nil, fmt.Errorf("%d operations, want at most %d", len(b.GetOps()), store.MaxBatchOps)
	}
	if ms := b.GetClusterMs(); ms < 0 || ms > maxClusterMs {
		return nil, fmt.Errorf("cluster time %d ms, want 0 to %d", ms, int64(maxClusterMs))
	}
	return b, nil
}

// find returns this gateway's operation of a tag, or nil.
func (g *Gateway) find(t *cachepb.OpTag) *op {
	if t.GetSession() == g.session.id && g.session.id != 0 {
		return g.session.at(t.GetSeq())
	}
	return g.byTag[tag{t.GetSession(), t.GetSeq()}]
}

// complete ends an operation that was applied here.
func (g *Gateway) complete(o *op, r store.Result, index, term uint64) {
	if o.own {
		g.session.opened = true
	}
	if o.state == stateForwarded && o.sentAt > g.refusedAt {
		g.overloadPause = 0
	}
	if r.Code == cachepb.Code_OK {
		g.overlay.dropOlder(o)
		g.answerAt(o, cachepb.Code_OK, "", cmp.Or(r.Index, index), term)
		g.finish(o)
		return
	}
	if r.Code == cachepb.Code_SESSION_EXPIRED && o.own {
		g.expelled(o)
		return
	}
	if o.copies > 1 {
		g.answer(o, cachepb.Code_INDETERMINATE, "refused as "+r.Code.String()+"; an earlier copy may have taken effect")
	} else {
		g.answer(o, r.Code, "")
	}
	g.lose(o)
	g.finish(o)
}

// expelled handles an operation whose session, this gateway's own, is not in the session table any more. If this was its
// only copy it had no effect, and goes on under the next session.
func (g *Gateway) expelled(o *op) {
	if o.copies == 1 && g.sendable(o) {
		o.copies, o.req = 0, nil
	}
	g.renewSession()
}

// Settle implements replication.Driven.
func (g *Gateway) Settle() (again bool) {
	if len(g.once) > 0 && g.core.Elected() {
		match, n := g.core.MatchOnce(), 0
		for _, o := range g.once {
			if o.index > match {
				break
			}
			if o.state != stateDone {
				foreign := o.foreign
				g.reached(o)
				if foreign {
					g.finish(o)
				}
			}
			n++
		}
		g.once = slices.Delete(g.once, 0, n)
	}
	if len(g.settled) > 0 {
		g.settled = slices.DeleteFunc(g.settled, func(o *op) bool {
			if o.state != stateDone && (g.core.Applied() >= o.index || g.core.AppliedTerm() > o.term) {
				// Applied past it: what was not applied by now never will be, except by a copy that is still on its way.
				g.answer(o, cachepb.Code_INDETERMINATE, "lost with its leader after it was acknowledged at its level")
				g.finish(o)
			}
			return o.state == stateDone
		})
	}
	g.wheel.sweep(g.core.Now(), g.expire)
	g.settleReads()
	g.sendAcks()
	again = g.applied && g.queued() > 0 && g.core.Leading()
	g.applied = false
	return again
}

// NextWake implements replication.Driven. The core's tick is often enough for deadlines of whole milliseconds.
func (g *Gateway) NextWake() time.Duration {
	if g.more {
		return g.core.Now()
	}
	if g.holdUntil > g.core.Now() && g.queued() > 0 {
		return g.holdUntil
	}
	return 1<<63 - 1
}

// expire ends an operation whose deadline has passed.
func (g *Gateway) expire(o *op) {
	g.lose(o)
	switch {
	case o.copies > 0:
		g.answer(o, cachepb.Code_INDETERMINATE, "no answer within the deadline; it may still take effect")
	case g.moving:
		g.answer(o, cachepb.Code_OVERLOADED, "still waiting for its turn at the deadline")
	default:
		g.answer(o, g.unavailable(), "no leader took it within the deadline")
	}
	g.finish(o)
}

// finish forgets an operation.
func (g *Gateway) finish(o *op) {
	if o.state == stateDone {
		return
	}
	if o.state == stateQueued {
		g.dead++
	}
	o.state = stateDone
	o.req = nil
	g.bytes -= o.size
	g.wheel.remove(o)
	g.overlay.drop(o)
	if o.foreign {
		return
	}
	if g.forwarded[o.name] == o {
		delete(g.forwarded, o.name)
	}
	if o.own {
		g.session.release(o)
	} else if o.session != 0 {
		delete(g.byTag, tag{o.session, o.seq})
	}
	o.value = nil
}

// outcome is what became of an operation. It may be shared, and is not to be changed.
func (g *Gateway) outcome(code cachepb.Code, detail string, index, term uint64) *cachepb.Outcome {
	if d := g.done; code == cachepb.Code_OK && detail == "" && d != nil && d.Index == index && d.Term == term && d.Cluster == g.core.Cluster() {
		return d
	}
	out := &cachepb.Outcome{Code: code, Detail: detail, Cluster: g.core.Cluster(), Term: term, Index: index}
	if code == cachepb.Code_OK {
		g.done = out
	} else if l := g.core.Leader(); l >= 0 {
		out.Leader = g.core.Host(l)
	}
	return out
}

func (g *Gateway) answer(o *op, code cachepb.Code, detail string) {
	g.answerAt(o, code, detail, 0, g.core.Term())
}

// answerAt gives the one answer to each who waits for an operation.
func (g *Gateway) answerAt(o *op, code cachepb.Code, detail string, index, term uint64) {
	if o.waiters() == 0 {
		return
	}
	out := g.outcome(code, detail, index, term)
	if o.to != nil {
		g.deliver(o, twin{o.to, o.reqID, o.hasReqID, o.level}, out)
		o.to = nil
	}
	for _, t := range o.twins {
		g.deliver(o, t, out)
	}
	o.twins = nil
}

// answerReached answers those who wait for no more than the level that an operation has reached.
func (g *Gateway) answerReached(o *op, reached level, index, term uint64) {
	out := g.outcome(cachepb.Code_OK, "", index, term)
	if o.to != nil && o.level >= reached {
		g.deliver(o, twin{o.to, o.reqID, o.hasReqID, o.level}, out)
		o.to = nil
	}
	o.twins = slices.DeleteFunc(o.twins, func(t twin) bool {
		if t.level < reached {
			return false
		}
		g.deliver(o, t, out)
		return true
	})
}

// place is where an operation that is not applied yet stands in the log, 0 if that is not known: of several copies only
// the first counts, and the leader named the place of another one. A client may have sent copies through other nodes.
func (o *op) place() uint64 {
	if o.copies > 1 || !o.own {
		return 0
	}
	return o.index
}

// waiters returns how many still wait for an answer.
func (o *op) waiters() int {
	n := len(o.twins)
	if o.to != nil {
		n++
	}
	return n
}

func (g *Gateway) deliver(o *op, t twin, out *cachepb.Outcome) {
	switch out.GetCode() {
	case cachepb.Code_OK:
		g.stats.Answered++
	case cachepb.Code_INDETERMINATE:
		g.stats.Indeterminate++
	default:
		g.stats.Refused++
	}
	ack := o.ack(t.reqID, t.hasReqID, out.GetCode() == cachepb.Code_OK, out)
	if g.applying {
		g.answers = append(g.answers, delivery{t.to, ack})
		return
	}
	t.to.Deliver(ack)
}

// delivery is an answer on its way to who waits for it.
type delivery struct {
	to  replication.Responder
	ack *cachepb.Ack
}

// handOver gives the answers that were gathered to those who wait for them. Given one by one between the operations of an
// entry, each would find its stream's writer asleep again after the one before: a wake-up and a system call for each.
func (g *Gateway) handOver() {
	for _, d := range g.answers {
		d.to.Deliver(d.ack)
	}
	clear(g.answers)
	g.answers = g.answers[:0]
}

// tell queues an answer for another gateway.
func (g *Gateway) tell(slot int, ack *cachepb.Ack) {
	for slot >= len(g.acks) {
		g.acks = append(g.acks, nil)
	}
	g.acks[slot] = append(g.acks[slot], ack)
}

// sendAcks sends what this turn has to tell other gateways.
func (g *Gateway) sendAcks() {
	for slot, acks := range g.acks {
		for rest := acks; len(rest) > 0; {
			n, bytes := 0, 0
			for n < len(rest) && n < acksPerMessage && (n == 0 || bytes < ackBytes) {
				a := rest[n].GetGetAck()
				bytes += len(a.GetCacheName()) + len(a.GetEntry()) + len(a.GetValue())
				n++
			}
			ack := rest[0]
			if n > 1 {
				ack = &cachepb.Ack{Method: &cachepb.Ack_Batch{Batch: &cachepb.Acks{Items: slices.Clone(rest[:n])}}}
			}
			g.cfg.Transport.SendAck(slot, replication.LaneData, ack) // one that is lost is asked for again
			rest = rest[n:]
		}
		clear(acks)
		g.acks[slot] = acks[:0]
	}
}

// BeginSnapshot implements replication.StateMachine.
func (g *Gateway) BeginSnapshot() replication.SnapshotSource { return g.store.BeginSnapshot() }

// BeginRestore implements replication.StateMachine.
func (g *Gateway) BeginRestore(index uint64) replication.SnapshotSink {
	return &sink{g: g, r: g.store.BeginRestore(index), index: index}
}

// sink notes the moment at which a snapshot replaces the state: entries that it covers are not applied one by one, so
// operations among them must ask again.
type sink struct {
	g     *Gateway
	r     *store.Restorer
	index uint64
}

func (s *sink) Add(chunk []byte) error { return s.r.Add(chunk) }

func (s *sink) Finish() error {
	if err := s.r.Finish(); err != nil {
		return err
	}
	s.g.restored = true
	s.g.feeds.replaced(cachepb.Gap_RESTORED, max(s.index, s.g.store.CompleteAt()), s.g.core.Cluster())
	return nil
}

// Reset implements replication.StateMachine: the node left its cluster and forgets its copy.
func (g *Gateway) Reset() {
	g.store.Reset()
	g.feeds.replaced(cachepb.Gap_RESET, 0, 0)
	g.proposals = g.proposals[:0]
	for _, o := range g.once {
		if o.foreign {
			g.finish(o)
		}
	}
	g.once = g.once[:0]
	g.refuseForeign()
	g.renewSession()
	for _, o := range g.byTag {
		if o.copies > 0 {
			g.answer(o, cachepb.Code_INDETERMINATE, "the node lost its cluster")
			g.lose(o)
			g.finish(o)
		}
	}
	for _, o := range g.settled {
		g.finish(o)
	}
	g.settled = g.settled[:0]
	g.overlay.clear()
	g.failReads()
	g.leaderID, g.leaderTerm = 0, 0
}

// Stats returns the counters. It is called on the runner's goroutine.
func (g *Gateway) Stats() Stats {
	s := g.stats
	s.Queued, s.Reads, s.PendingBytes, s.OverlayBytes = g.queued(), g.reads.len(), g.bytes, g.overlay.bytes
	g.feeds.stats(&s)
	return s
}

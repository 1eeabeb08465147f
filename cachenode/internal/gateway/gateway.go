package gateway

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/store"
	"github.com/hacache/hacache/proto/cachepb"
)

// Bounds. Reaching one is counted in Stats and answered OVERLOADED, or makes the operation wait its turn.
const (
	batchOps       = 1024    // operations in one log entry or one forwarded message
	batchBytes     = 1 << 20 // and their bytes
	batchesInLog   = 4       // own proposals that are not applied yet; what waits meanwhile fills the next batch
	resendAfter    = time.Second
	notLeaderPause = 5 * time.Millisecond // before an operation that found no leader there is sent again
)

// Config describes a Gateway. The zero value of a duration or size means its default.
type Config struct {
	Store     *store.Store
	Transport replication.Transport

	Deadline    time.Duration // of an Insert or Remove that names none. Default 3 s
	PutPatience time.Duration // how long a Put waits for a leader before it is lost. Default 2 s
	DelPatience time.Duration // the same of a Del. Default 60 s
	MaxBytes    int           // operations kept, and the overlay. Default 64 MiB each
	MaxStale    time.Duration // bound of local reads. Default 500 ms
	Rand        func() uint64 // names sessions; required
	Logger      *slog.Logger  // nil discards
}

// Stats counts what happened; it only grows, except Queued, Pending and OverlayBytes.
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
	FullWindow      uint64 // had to wait because the session's window was full
	SessionsRenewed uint64
	Queued          int
	PendingBytes    int
	OverlayBytes    int
}

// Gateway implements replication.Driven.
type Gateway struct {
	cfg   Config
	core  *replication.Core
	store *store.Store
	log   *slog.Logger

	queue   []*op // queue[head:] waits for a leader or its turn, in order of arrival
	head    int
	foreign int // how many of queue another gateway forwarded
	n       uint64
	bytes   int
	wheel   wheel

	session   session
	byTag     map[tag]*op
	forwarded map[uint64]*op

	proposals []proposal // own entries not applied yet, by index
	once      []*op      // wait for another voter's log, by index
	settled   []*op      // answered, not applied yet
	applied   bool       // something was applied in this turn

	leaderID   uint64
	leaderTerm uint64
	breaks     uint64
	holdUntil  time.Duration // after a NOT_LEADER
	restored   bool

	reads   reads
	overlay overlay
	acks    [][]*cachepb.Ack // by slot, sent at the end of the turn

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
	return &Gateway{
		cfg: cfg, store: cfg.Store, log: cfg.Logger,
		byTag: make(map[tag]*op), forwarded: make(map[uint64]*op),
	}
}

// Attach gives the gateway its core, whose Upper it is. It is called once, before anything else.
func (g *Gateway) Attach(core *replication.Core) { g.core = core }

// Submit implements replication.Driven.
func (g *Gateway) Submit(s replication.Submission) {
	if get := s.Req.GetGet(); get != nil {
		g.submitRead(s.To, get)
		return
	}
	o, ok := parse(s.Req)
	if !ok {
		return // the session has answered whatever is no operation
	}
	o.to = s.To
	now := g.core.Now()
	switch {
	case g.bytes+o.size > g.cfg.MaxBytes || g.overlay.bytes > g.cfg.MaxBytes:
		g.stats.FullPending++
		g.answer(o, cachepb.Code_OVERLOADED, "too many operations wait at this node")
		return
	case o.session == 0 && o.seq != 0, o.session != 0 && o.seq == 0:
		g.answer(o, cachepb.Code_INVALID, "an operation tag needs both a session and a seq")
		return
	}
	if o.session != 0 {
		t := tag{o.session, o.seq}
		if first := g.byTag[t]; first != nil {
			g.joinTwin(first, o)
			return
		}
		g.byTag[t] = o
	}
	g.n++
	o.n, o.ref = g.n, strconv.FormatUint(g.n, 36)
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
	o.deadline = now + patience
	if !o.kind.waits() {
		g.overlay.put(o)
		g.answer(o, cachepb.Code_OK, "")
	}
	return true
}

// joinTwin lets a repeated submission of a tagged operation wait for the same outcome.
func (g *Gateway) joinTwin(first, o *op) {
	if first.to == nil { // answered at its level, not applied yet
		first.to = o.to
		first.reqID, first.hasReqID = o.reqID, o.hasReqID
		g.answerAt(first, cachepb.Code_OK, "", first.index, first.term)
		return
	}
	first.twins = append(first.twins, twin{o.to, o.reqID, o.hasReqID})
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
	if g.queued() > 0 {
		leader := g.core.Leader()
		switch {
		case g.core.Elected():
			for g.core.Leading() && !g.core.Transferring() && len(g.proposals) < batchesInLog && g.queued() > 0 && g.propose() {
			}
		case leader >= 0 && g.core.Linked(leader) && !g.core.Transferring() && g.core.Now() >= g.holdUntil:
			g.refuseForeign()
			for g.queued() > 0 && g.forward(leader) {
			}
		default:
			g.refuseForeign()
		}
	}
	g.askReads()
	g.sendAcks()
}

func (g *Gateway) queued() int { return len(g.queue) - g.head }

// take removes up to a batch of operations from the queue. Each is tagged; one that cannot be tagged yet ends the batch,
// so that operations leave in their order.
func (g *Gateway) take() []*op {
	var batch []*op
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
		g.queue[g.head] = nil
		g.head++
	}
	if g.head == len(g.queue) {
		g.queue, g.head = g.queue[:0], 0
	}
	return batch
}

// untake puts a batch back to the front of the queue.
func (g *Gateway) untake(batch []*op) {
	for _, o := range batch {
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
	batch := &cachepb.Batch{ClusterMs: g.core.ClusterMs(), Ops: make([]*cachepb.CacheRequest, len(ops))}
	for i, o := range ops {
		if o.own {
			o.first = g.session.base
		}
		batch.Ops[i] = o.request(true)
	}
	data, err := proto.Marshal(batch)
	if err != nil {
		// Strings that are not UTF-8 were refused at the door, so this is a bug.
		panic(fmt.Sprintf("gateway: marshal a batch: %v", err))
	}
	index, err := g.core.Propose(data)
	if err != nil {
		g.untake(ops)
		return false
	}
	term := g.core.Term()
	g.proposals = append(g.proposals, proposal{index: index, term: term, batch: batch})
	g.stats.Batches++
	g.stats.BatchedOps += uint64(len(ops))
	for _, o := range ops {
		o.state, o.sentBefore, o.index, o.term = stateProposed, true, index, term
		switch {
		case !o.kind.waits() || o.level == levelQuorum:
		case o.level == levelLeader:
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
	g.overlay.put(o)
	g.answerAt(o, cachepb.Code_OK, "", o.index, o.term)
	g.wheel.remove(o)
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
		if o.sentBefore {
			g.stats.Resent++
		}
		o.state, o.sentBefore = stateForwarded, true
		g.forwarded[o.n] = o
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
	o, ok := parse(req)
	if !ok || o.session == 0 {
		return
	}
	o.foreign, o.slot, o.from, o.ref = true, slot, id, o.reqID
	if code, detail := g.store.Validate(req); code != cachepb.Code_OK {
		g.refuseTo(o, code, detail)
		return
	}
	switch {
	case !g.core.Elected():
		g.refuseTo(o, cachepb.Code_NOT_LEADER, "")
	case g.bytes+o.size > 2*g.cfg.MaxBytes:
		g.stats.FullPending++
		g.refuseTo(o, cachepb.Code_OVERLOADED, "too many operations wait at the leader")
	default:
		g.stats.ForeignTaken++
		g.bytes += o.size
		o.deadline = g.core.Now() + g.cfg.Deadline
		g.wheel.add(o, g.core.Now())
		g.queue = append(g.queue, o)
		g.foreign++
	}
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
	n, err := strconv.ParseUint(ref, 36, 64)
	o := g.forwarded[n]
	if err != nil || o == nil || id != g.leaderID {
		return
	}
	if ok {
		if o.to != nil && o.level != levelQuorum {
			delete(g.forwarded, n)
			o.index, o.term = out.GetIndex(), out.GetTerm()
			g.answered(o)
		}
		return
	}
	delete(g.forwarded, n)
	g.leaderRefused(o, out)
}

// leaderRefused handles a leader's no. It is about one copy of the operation; if an earlier copy may be in a log, it says
// nothing about that one.
func (g *Gateway) leaderRefused(o *op, out *cachepb.Outcome) {
	switch out.GetCode() {
	case cachepb.Code_NOT_LEADER, cachepb.Code_NO_LEADER, cachepb.Code_NO_QUORUM:
		g.holdUntil = g.core.Now() + notLeaderPause
		g.untake([]*op{o})
	default:
		if !o.kind.waits() {
			g.stats.PutsLost++
		}
		g.answer(o, out.GetCode(), out.GetDetail())
		g.finish(o)
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
		for _, o := range g.once {
			if o.foreign && o.state != stateDone {
				g.finish(o) // its own gateway sends it again
			}
		}
		g.once = g.once[:0]
		g.requeue(stateProposed, stateForwarded)
		g.holdUntil = 0
	case breaks != g.breaks || g.restored:
		g.requeue(stateForwarded)
	}
	g.leaderID, g.leaderTerm, g.breaks, g.restored = id, term, breaks, false
}

// requeue puts sent operations in one of the given states back to the front of the queue, in their order, unless they
// were answered at their level.
func (g *Gateway) requeue(states ...state) {
	var again []*op
	pick := func(o *op) {
		if o != nil && slices.Contains(states, o.state) && (o.to != nil || !o.kind.waits()) {
			again = append(again, o)
		}
	}
	for seq := g.session.base; seq < g.session.next; seq++ {
		pick(g.session.at(seq))
	}
	for _, o := range g.byTag {
		pick(o)
	}
	clear(g.forwarded)
	if len(again) == 0 {
		return
	}
	slices.SortFunc(again, func(a, b *op) int { return cmp.Compare(a.n, b.n) })
	g.untake(again)
}

// Apply implements replication.StateMachine.
func (g *Gateway) Apply(index, term uint64, data []byte) {
	g.applied = true
	var batch *cachepb.Batch
	if len(g.proposals) > 0 && g.proposals[0].index == index && g.proposals[0].term == term {
		batch = g.proposals[0].batch
		g.proposals = slices.Delete(g.proposals, 0, 1)
	} else {
		batch = &cachepb.Batch{}
		if err := proto.Unmarshal(data, batch); err != nil {
			panic(fmt.Sprintf("gateway: entry %d: %v", index, err)) // committed by a gateway of this version
		}
	}
	g.core.NoteClusterMs(batch.GetClusterMs())
	g.store.Apply(index, batch, func(i int, r store.Result) {
		if o := g.find(opTag(batch.Ops[i])); o != nil {
			g.complete(o, r, index, term)
		}
	})
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
	switch {
	case r.Code == cachepb.Code_OK:
		g.answerAt(o, cachepb.Code_OK, "", cmp.Or(r.Index, index), term)
	case r.Code == cachepb.Code_SESSION_EXPIRED && o.own:
		// Our own session was pushed out of the table. Whether an earlier copy took effect is not known any more.
		g.answer(o, cachepb.Code_INDETERMINATE, "the session of this node was pushed out of the session table")
		g.finish(o)
		g.renewSession()
		return
	default:
		g.answer(o, r.Code, "")
	}
	g.finish(o)
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
				g.finish(o) // applied past it: what was not applied by now never will be
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
	if g.holdUntil > g.core.Now() && g.queued() > 0 {
		return g.holdUntil
	}
	return 1<<63 - 1
}

// expire ends an operation whose deadline has passed.
func (g *Gateway) expire(o *op) {
	switch {
	case o.foreign:
	case !o.kind.waits():
		g.stats.PutsLost++
	case o.sentBefore:
		g.answer(o, cachepb.Code_INDETERMINATE, "no answer within the deadline; it may still take effect")
	case g.core.Leading():
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
	o.state = stateDone
	g.bytes -= o.size
	g.wheel.remove(o)
	g.overlay.drop(o)
	if o.foreign {
		return
	}
	delete(g.forwarded, o.n)
	if o.own {
		g.session.release(o)
	} else if o.session != 0 {
		delete(g.byTag, tag{o.session, o.seq})
	}
	o.value = nil
}

func (g *Gateway) outcome(code cachepb.Code, detail string, index, term uint64) *cachepb.Outcome {
	out := &cachepb.Outcome{Code: code, Detail: detail, Cluster: g.core.Cluster(), Term: term, Index: index}
	if code != cachepb.Code_OK {
		if l := g.core.Leader(); l >= 0 {
			out.Leader = g.core.Host(l)
		}
	}
	return out
}

func (g *Gateway) answer(o *op, code cachepb.Code, detail string) {
	g.answerAt(o, code, detail, 0, g.core.Term())
}

// answerAt gives the one answer to an operation, if somebody waits for it.
func (g *Gateway) answerAt(o *op, code cachepb.Code, detail string, index, term uint64) {
	if o.to == nil {
		return
	}
	switch code {
	case cachepb.Code_OK:
		g.stats.Answered++
	case cachepb.Code_INDETERMINATE:
		g.stats.Indeterminate++
	default:
		g.stats.Refused++
	}
	out := g.outcome(code, detail, index, term)
	o.to.Deliver(o.ack(o.reqID, o.hasReqID, code == cachepb.Code_OK, out))
	o.to = nil
	for _, t := range o.twins {
		t.to.Deliver(o.ack(t.reqID, t.hasReqID, code == cachepb.Code_OK, out))
	}
	o.twins = nil
}

// tell queues an answer for another gateway.
func (g *Gateway) tell(slot int, ack *cachepb.Ack) {
	for slot >= len(g.acks) {
		g.acks = append(g.acks, nil)
	}
	g.acks[slot] = append(g.acks[slot], ack)
}

// sendAcks sends what this turn has to tell other gateways, one message each.
func (g *Gateway) sendAcks() {
	for slot, acks := range g.acks {
		if len(acks) == 0 {
			continue
		}
		ack := acks[0]
		if len(acks) > 1 {
			ack = &cachepb.Ack{Method: &cachepb.Ack_Batch{Batch: &cachepb.Acks{Items: slices.Clone(acks)}}}
		}
		g.cfg.Transport.SendAck(slot, replication.LaneData, ack)
		clear(acks)
		g.acks[slot] = acks[:0]
	}
}

// BeginSnapshot implements replication.StateMachine.
func (g *Gateway) BeginSnapshot() replication.SnapshotSource { return g.store.BeginSnapshot() }

// BeginRestore implements replication.StateMachine.
func (g *Gateway) BeginRestore(index uint64) replication.SnapshotSink {
	return &sink{g: g, r: g.store.BeginRestore(index)}
}

// sink notes the moment at which a snapshot replaces the state: entries that it covers are not applied one by one, so
// operations among them must ask again.
type sink struct {
	g *Gateway
	r *store.Restorer
}

func (s *sink) Add(chunk []byte) error { return s.r.Add(chunk) }

func (s *sink) Finish() error {
	if err := s.r.Finish(); err != nil {
		return err
	}
	s.g.restored = true
	return nil
}

// Reset implements replication.StateMachine: the node left its cluster and forgets its copy.
func (g *Gateway) Reset() {
	g.store.Reset()
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
		if o.sentBefore {
			g.answer(o, cachepb.Code_INDETERMINATE, "the node lost its cluster")
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
	s.Queued, s.PendingBytes, s.OverlayBytes = g.queued(), g.bytes, g.overlay.bytes
	return s
}

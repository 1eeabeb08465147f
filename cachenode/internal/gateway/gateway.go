package gateway

import (
	"cmp"
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
	g.wheel.sweep(now, g.expire) // after a suspension it would have no room for a deadline of now
	if !g.keep(o, now) {
		*o = op{} // its neighbors in memory may live for a minute
	}
}

// keep takes an operation. It reports false if nothing of it is kept: it was answered, or became a twin.
func (g *Gateway) keep(o *op, now time.Duration) bool {
	if o.session != 0 && o.seq != 0 {
		if first := g.byTag[tag{o.session, o.seq}]; first != nil {
			g.submitTwin(first, o)
			return false
		}
	}
	switch {
	case g.bytes+o.size > g.cfg.MaxBytes || g.overlay.bytes > g.cfg.MaxBytes:
		g.stats.FullPending++
		g.answer(o, cachepb.Code_OVERLOADED, "too many operations wait at this node")
		return false
	case g.wait() > maxWait:
		g.stats.FullWait++
		g.answer(o, cachepb.Code_OVERLOADED, "operations wait for too long at this node")
		return false
	case o.session == 0 && o.seq != 0, o.session != 0 && o.seq == 0:
		g.answer(o, cachepb.Code_INVALID, "an operation tag needs both a session and a seq")
		return false
	}
	if o.session != 0 {
		g.byTag[tag{o.session, o.seq}] = o
	}
	g.n++
	o.n, o.at = g.n, now
	if !g.admit(o, now) {
		delete(g.byTag, tag{o.session, o.seq})
		return false
	}
	g.bytes += o.size
	g.wheel.add(o, now)
	g.queue = append(g.queue, o)
	return true
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

// lose counts an operation that was answered on arrival and will not take effect, or may not.
func (g *Gateway) lose(o *op) {
	if !o.kind.waits() {
		g.stats.PutsLost++
	}
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
		o.forget()
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
	o.forget()
}

// forget lets go of what came with an operation. All of it is one piece of memory, and the operation lies beside others that
// may live for a minute.
func (o *op) forget() { o.cache, o.key, o.value, o.reqID, o.ref = "", "", nil, "", "" }

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

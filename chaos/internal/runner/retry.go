package runner

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/proto/cachepb"
)

// retrier is a load.Target that sends every operation several times under one
// session tag, each copy through another node: all at once, apart, or each when
// the one before has ended. What it tells the generator is the first good
// answer; what it records is each copy.
type retrier struct {
	run    *run
	as     writer
	target load.Target // one stream to each node
	nameOf func(addr string) string
	nodes  int
	copies int

	sessions []retrySession // by stream
	procs    atomic.Uint64
	open     sync.WaitGroup // copies
}

// Copies that are not sent at once are this late at most: long enough for
// newer writes to their keys to have come in between.
const retrySpread = 300 * time.Millisecond

// sessionAhead is how many operations of a session may be begun beyond the
// oldest one that is not over. A node remembers 4096.
const sessionAhead = 4000

func newRetrier(r *run, as writer, streams, copies int, target load.Target, nameOf func(string) string) *retrier {
	t := &retrier{run: r, as: as, target: target, nameOf: nameOf, nodes: r.Plan.Scenario.Cluster.Members, copies: copies, sessions: make([]retrySession, streams)}
	for i := range t.sessions {
		s := &t.sessions[i]
		s.rng = rand.New(rand.NewPCG(r.Plan.Seed, uint64(as)<<16|uint64(i)))
		s.eager = i%2 == 1
		s.renew()
	}
	return t
}

// retrySession is the session of one stream.
type retrySession struct {
	mu    sync.Mutex
	rng   *rand.Rand
	eager bool // gives up what was acknowledged once, though copies are on their way

	id    uint64
	next  uint64
	base  uint64          // the oldest operation that is not over; first_unacked
	over  map[uint64]bool // those from base on that are
	ready bool            // the first operation has opened it; until then there is no second
}

// renew begins another session. Called with mu held, or by the maker.
func (s *retrySession) renew() {
	s.id, s.next, s.base, s.over, s.ready = s.rng.Uint64()|1, 1, 1, map[uint64]bool{}, false
}

// begin tags an operation; false if it has to wait.
func (s *retrySession) begin() (a *attempt, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next > 1 && !s.ready || s.next-s.base >= sessionAhead {
		return nil, false
	}
	a = &attempt{s: s, id: s.id, seq: s.next, first: s.rng.IntN(1 << 16), mode: s.rng.IntN(3)}
	for i := range a.pauses {
		a.pauses[i] = time.Duration(s.rng.Int64N(int64(retrySpread)))
	}
	s.next++
	return a, true
}

// unacked is the number below which nothing will be sent again.
func (s *retrySession) unacked(id uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id != id {
		return 1 // of a session that was given up: it does not matter
	}
	return s.base
}

// note takes an answer into account: whether a session is open, or lost.
func (s *retrySession) note(a *attempt, got *client.Outcome, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id != a.id {
		return
	}
	ok := got.Status == client.StatusOK
	s.ready = s.ready || ok
	if (last || ok && s.eager) && a.seq >= s.base {
		s.over[a.seq] = true
	}
	for s.over[s.base] {
		delete(s.over, s.base)
		s.base++
	}
	if got.Code == cachepb.Code_SESSION_EXPIRED || last && !s.ready {
		s.renew()
	}
}

// maxCopies bounds the copies of an operation.
const maxCopies = scenario.MaxRetry

// attempt is one operation while its copies are on their way.
type attempt struct {
	t      *retrier
	s      *retrySession
	op     client.Op
	id     uint64 // of the session
	seq    uint64
	first  int // node of the first copy
	mode   int
	pauses [maxCopies]time.Duration
	done   func(client.Outcome)

	mu       sync.Mutex
	left     int
	answered bool
	unknown  bool
}

func (t *retrier) Streams() int { return len(t.sessions) }

// Start sends the copies. A stream whose session is not open yet is full.
func (t *retrier) Start(stream int, op *client.Op, done func(client.Outcome)) error {
	a, ok := t.sessions[stream].begin()
	if !ok {
		return client.ErrFull
	}
	a.t, a.op, a.done, a.left = t, *op, done, t.copies
	a.op.Value = slices.Clone(op.Value)
	a.op.Session, a.op.Seq = a.id, a.seq
	t.run.keys.add(op.Cache, op.Key)
	t.open.Add(t.copies)
	a.send(0)
	for n := 1; n < t.copies && a.mode < modeFollow; n++ {
		if a.mode == modeAtOnce {
			a.send(n)
		} else {
			time.AfterFunc(a.pauses[n], func() { a.send(n) })
		}
	}
	return nil
}

// How the copies of an operation follow each other.
const (
	modeAtOnce = iota
	modeApart
	modeFollow // each when the one before has ended: a retry in earnest
)

// send sends the n-th copy, through the next node that takes it.
func (a *attempt) send(n int) {
	t := a.t
	op := a.op
	op.FirstUnacked = a.s.unacked(a.id)
	h := history.Op{
		Proc: versionOf(t.as, t.procs.Add(1)-1), Kind: op.Kind.String(), Cache: op.Cache, Key: op.Key,
		Session: a.id, Seq: a.seq, Phase: history.Retry,
	}
	if op.Kind == client.KindInsert {
		v, err := decodeVersion(op.Value)
		if err != nil {
			panic("runner: a value that the source made: " + err.Error())
		}
		h.Version = v
	}
	back := func(got client.Outcome) {
		h.Return = max(t.run.now(), h.Send)
		h.Node, h.Cluster, h.Term, h.Index = t.nameOf(got.Node), got.Cluster, got.Term, got.Index
		conclude(&h, &op, &got)
		t.run.history.Record(h)
		t.run.count.add(h.Outcome)
		a.returned(n, &got)
	}
	h.Intended = t.run.now()
	h.Send = h.Intended
	var err error
	for try := range t.nodes {
		node := (a.first + n + try) % t.nodes
		h.Stream = int64(node)
		if err = t.target.Start(node, &op, back); err == nil {
			return
		}
	}
	back(client.Outcome{Status: client.StatusFail, Err: err})
}

// returned counts the answer to the n-th copy.
func (a *attempt) returned(n int, got *client.Outcome) {
	a.mu.Lock()
	a.left--
	last := a.left == 0
	a.unknown = a.unknown || got.Status == client.StatusInfo
	tell := !a.answered && (got.Status == client.StatusOK || last)
	a.answered = a.answered || tell
	out := *got
	if tell && out.Status == client.StatusFail && a.unknown {
		out.Status = client.StatusInfo // another copy may have taken effect
	}
	a.mu.Unlock()
	a.s.note(a, got, last)
	if a.mode == modeFollow && !last {
		time.AfterFunc(a.pauses[n]/4, func() { a.send(n + 1) })
	}
	if tell {
		a.done(out)
	}
	a.t.open.Done()
}

// Close waits for the copies, each of which has a deadline, and disconnects.
func (t *retrier) Close() error {
	t.open.Wait()
	return t.target.Close()
}

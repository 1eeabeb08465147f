package gateway_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/replication/replicationtest"
	"github.com/hacache/hacache/proto/cachepb"
)

// retrier is a client with a session of its own that sends each operation three times, through different nodes, whatever
// the first answers were. Each operation writes a key of its own, so that every effect can be counted.
type retrier struct {
	*world
	session, since, seq uint64
	known               bool // the session: its first operation was acknowledged
	open                map[uint64]bool
	n                   int
	what                map[string]*retried
}

type retried struct {
	answers map[cachepb.Code]int
	waiting int
	effects map[uint64]bool // log indexes
}

// step begins the next operation of the session: the first one alone.
func (r *retrier) step() {
	if len(r.open) > 0 && (!r.known || len(r.open) >= 64) {
		return
	}
	if r.session == 0 {
		l := r.sim.Leader()
		if l == nil {
			return
		}
		r.session, r.since, r.seq, r.known = r.sim.Rand().Uint64()|1, uint64(l.Core.ClusterMs()), 0, false
	}
	r.n++
	r.seq++
	key := fmt.Sprintf("%x/%d", r.session, r.seq)
	op := &retried{answers: map[cachepb.Code]int{}, effects: map[uint64]bool{}, waiting: 3}
	r.what[key] = op
	r.open[r.seq] = true
	tag := &cachepb.OpTag{Session: r.session, Seq: r.seq, FirstUnacked: slices.Min(slices.Collect(maps.Keys(r.open)))}
	if r.seq == 1 {
		tag.OpenedMs = r.since
	}
	for i, slot := range r.sim.Rand().Perm(len(r.sim.Hosts()))[:3] {
		r.sim.At(time.Duration(i*r.sim.Rand().IntN(400))*time.Millisecond, func() { r.attempt(slot, key, op, insertOf(key, "v", tag)) })
	}
}

// attempt sends an operation through one node. If that is down, or does not answer, nobody knows.
func (r *retrier) attempt(slot int, key string, op *retried, req *cachepb.CacheRequest) {
	waits := true
	end := func(code cachepb.Code) {
		if waits {
			waits = false
			op.answers[code]++
			op.waiting--
			r.note(req.GetInsert().GetOp(), op)
		}
	}
	n := r.sim.Node(slot)
	if n == nil {
		end(cachepb.Code_SHUTTING_DOWN)
		return
	}
	r.sim.At(4*time.Second, func() { end(cachepb.Code_INDETERMINATE) })
	a := &answer{w: r.world, what: key, done: func(ack *cachepb.Ack) { end(ack.GetPutAck().GetOutcome().GetCode()) }}
	n.Step(func() { r.nodes[n].gw.Submit(replication.Submission{To: a, Req: req}) })
}

// note follows the session: a new one begins when this one has no first operation, or was ended.
func (r *retrier) note(tag *cachepb.OpTag, op *retried) {
	if tag.GetSession() != r.session {
		return
	}
	r.known = r.known || tag.GetSeq() == 1 && op.answers[cachepb.Code_OK] > 0
	if op.waiting == 0 {
		delete(r.open, tag.GetSeq())
	}
	if op.answers[cachepb.Code_SESSION_EXPIRED] > 0 || op.waiting == 0 && !r.known {
		r.session = 0
		clear(r.open)
	}
}

// TestRetriesTakeEffectOnce proves that an operation under a session of a client's own, sent three times through different
// nodes while nodes die and links break, takes effect once if any answer was positive, never if all were definite
// refusals, and at most once in any case.
func TestRetriesTakeEffectOnce(t *testing.T) {
	first, last := seeds(linearizableSeeds)
	total := map[string]int{}
	for seed := first; seed <= last; seed++ {
		cryptotest.SetGlobalRandom(t, seed)
		opt := replicationtest.Options{Seed: seed, Nodes: []int{3, 5}[seed%2], Batch: seed%3 == 2}
		switch seed % 3 {
		case 0:
			opt.Loss, opt.Duplicate, opt.Reorder = 0.01, 0.02, 0.02
		case 1:
			opt.LogRetainEntries = 8
		}
		r := &retrier{world: newWorld(t, opt), open: map[uint64]bool{}, what: map[string]*retried{}}
		r.applied = func(n *replicationtest.Node, index uint64, b *cachepb.Batch) {
			for _, req := range b.GetOps() {
				key := req.GetInsert().GetEntry()
				if _, at, ok := r.nodes[n].store.Get("c", key, 0); ok && at == index {
					r.what[key].effects[index] = true
				}
			}
		}
		err := replicationtest.RunSchedule(r.sim, replicationtest.Schedule{
			KeepMajority: true, Writes: 3 * time.Millisecond, Write: r.step, Check: func() error {
				for key, op := range r.what {
					if err := op.check(total); err != nil {
						return fmt.Errorf("%s: %w", key, err)
					}
				}
				return r.err
			},
		})
		if err != nil {
			t.Errorf("seed %d: %v\nrepeat: GATEWAY_SEEDS=%d go test -run TestRetries ./cachenode/internal/gateway", seed, err, seed)
		}
	}
	t.Logf("%d schedules: %v", last-first+1, total)
}

// check compares the answers with the effects.
func (op *retried) check(total map[string]int) error {
	unknown := op.waiting + op.answers[cachepb.Code_INDETERMINATE]
	switch n := len(op.effects); {
	case n > 1:
		return fmt.Errorf("takes effect %d times, at %v; answers %v", n, slices.Collect(maps.Keys(op.effects)), op.answers)
	case n == 0 && op.answers[cachepb.Code_OK] > 0:
		return fmt.Errorf("takes no effect; answers %v", op.answers)
	case n == 1 && unknown == 0 && op.answers[cachepb.Code_OK] == 0:
		return fmt.Errorf("takes effect, and was refused for good: %v", op.answers)
	case n == 1:
		total["once"]++
	default:
		total["never"]++
	}
	for code, n := range op.answers {
		total[code.String()] += n
	}
	return nil
}

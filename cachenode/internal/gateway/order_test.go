package gateway_test

import (
	"fmt"
	"testing"
	"testing/cryptotest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/replication/replicationtest"
	"github.com/hacache/hacache/proto/cachepb"
)

// calm returns a healthy cluster of three with an empty network.
func calm(t *testing.T, seed uint64, delay time.Duration) *world {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed)
	w := newWorld(t, replicationtest.Options{Seed: seed, Nodes: 3, Delay: delay, Jitter: delay / 2})
	for slot := range 3 {
		w.sim.Start(slot)
	}
	if err := w.sim.RunUntil(2*time.Second, "healthy", w.sim.Healthy); err != nil {
		t.Fatal(err)
	}
	return w
}

// follower returns a node that does not lead.
func (w *world) follower() *replicationtest.Node {
	return w.sim.Node((w.sim.Leader().Slot() + 1) % 3)
}

// submit hands one request to a node's gateway and returns where its answer will be.
func (w *world) submit(n *replicationtest.Node, req *cachepb.CacheRequest) *answer {
	a := &answer{w: w, what: fmt.Sprint(req), done: func(*cachepb.Ack) {}}
	last := a.done
	a.done = func(ack *cachepb.Ack) { a.ack = ack; last(ack) }
	w.nodes[n].gw.Submit(replication.Submission{To: a, Req: req})
	return a
}

func putOf(key, value string) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Put{Put: &cachepb.Put{CacheName: "c", Entry: key, Value: []byte(value)}}}
}

func delOf(key string) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Del{Del: &cachepb.Del{CacheName: "c", Entry: key}}}
}

// TestOrderAcrossHandOver proves that operations of one gateway keep their order when the leader refuses them in flight,
// and when a connection breaks under them: a Put must not come back over the Del that followed it.
func TestOrderAcrossHandOver(t *testing.T) {
	for _, how := range []string{"hand-over", "broken lane"} {
		for seed := range uint64(40) {
			w := calm(t, seed, 500*time.Microsecond)
			n, l := w.follower(), w.sim.Leader()
			for i := range 20 {
				at := time.Duration(w.sim.Rand().IntN(3000)) * time.Microsecond
				w.sim.At(at, func() {
					n.Step(func() {
						w.submit(n, putOf(fmt.Sprint("k", i), "old"))
						w.submit(n, delOf(fmt.Sprint("k", i)))
					})
				})
			}
			w.sim.At(1500*time.Microsecond, func() {
				if how == "hand-over" {
					l.Step(func() { l.Core.Transfer(-1) })
				} else {
					w.sim.Break(n.Slot(), l.Slot(), replication.LaneData)
				}
			})
			if err := w.sim.Run(3 * time.Second); err != nil {
				t.Fatal(err)
			}
			for slot := range 3 {
				for i := range 20 {
					if v, _, ok := w.nodes[w.sim.Node(slot)].store.Get("c", fmt.Sprint("k", i), 0); ok {
						t.Fatalf("%s, seed %d: node %d has k%d = %q after its Del", how, seed, slot, i, v)
					}
				}
			}
		}
	}
}

// TestSlowLinearizableReads proves that a round trip longer than the retry interval does not keep reads waiting for ever.
func TestSlowLinearizableReads(t *testing.T) {
	w := calm(t, 1, 60*time.Millisecond)
	var answers []*answer
	for slot := range 3 {
		n := w.sim.Node(slot)
		n.Step(func() {
			answers = append(answers, w.submit(n, &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Get{Get: &cachepb.Get{
				CacheName: "c", Entry: "k", Read: &cachepb.ReadTag{Mode: cachepb.ReadTag_LINEARIZABLE},
			}}}))
		})
	}
	if err := w.sim.Run(2 * time.Second); err != nil {
		t.Fatal(err)
	}
	for slot, a := range answers {
		if a.got != 1 || a.ack.GetGetAck().GetOutcome().GetCode() != cachepb.Code_OK {
			t.Errorf("node %d: %d answers, %v", slot, a.got, a.ack)
		}
	}
}

// TestQueueWithoutLeader proves that what was answered at its deadline leaves memory even while nobody leads.
func TestQueueWithoutLeader(t *testing.T) {
	w := calm(t, 2, 500*time.Microsecond)
	n := w.follower()
	w.sim.Isolate(n.Slot(), true)
	w.sim.Run(time.Second)
	for i := range 20_000 {
		n.Step(func() {
			w.submit(n, &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{
				CacheName: "c", Entry: "k", ReqId: fmt.Sprint(i), Op: &cachepb.OpTag{DeadlineMs: 100},
			}}})
		})
	}
	w.sim.Run(time.Second)
	if s := w.nodes[n].gw.Stats(); s.PendingBytes != 0 || s.Queued > 2048 {
		t.Errorf("%d bytes pending, %d operations queued", s.PendingBytes, s.Queued)
	}
}

// TestTwinsWaitForTheirOwnLevel proves that repeating a tagged operation at a stronger level is not answered by what the
// weaker one has reached.
func TestTwinsWaitForTheirOwnLevel(t *testing.T) {
	w := calm(t, 3, 500*time.Microsecond)
	l := w.sim.Leader()
	w.sim.Isolate(l.Slot(), true)
	insert := func(level *cachepb.AckLevel) *cachepb.CacheRequest {
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{
			CacheName: "c", Entry: "k", Value: []byte("v"), ReqId: "r", AckLevel: level, Op: &cachepb.OpTag{Session: 7, Seq: 1, DeadlineMs: 500},
		}}}
	}
	var weak, strong *answer
	l.Step(func() {
		weak = w.submit(l, insert(&cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelLeader{LevelLeader: &cachepb.Empty{}}}))
	})
	l.Step(func() { strong = w.submit(l, insert(nil)) })
	w.sim.Run(50 * time.Millisecond)
	if weak.got != 1 || strong.got != 0 {
		t.Fatalf("isolated: %d answers at leader, %d at quorum, want 1 and 0", weak.got, strong.got)
	}
	w.sim.Run(2 * time.Second)
	if strong.got != 1 || strong.ack.GetPutAck().GetOutcome().GetCode() != cachepb.Code_INDETERMINATE {
		t.Errorf("at the deadline: %d answers, %v, want INDETERMINATE", strong.got, strong.ack)
	}
}

// TestOrderAfterLoss proves that a forward that was lost on its way does not come after the one that followed it.
func TestOrderAfterLoss(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 4)
	lost := 0
	w := newWorld(t, replicationtest.Options{Seed: 4, Nodes: 3, Eat: func(m proto.Message) bool {
		req, ok := m.(*cachepb.CacheRequest)
		if ok && req.GetPut() != nil && lost == 0 {
			lost++
			return true
		}
		return false
	}})
	for slot := range 3 {
		w.sim.Start(slot)
	}
	if err := w.sim.RunUntil(2*time.Second, "healthy", w.sim.Healthy); err != nil {
		t.Fatal(err)
	}
	n := w.follower()
	// The first operation opens the session; only then do others follow each other on the wire.
	n.Step(func() { w.submit(n, delOf("k")) })
	w.sim.Run(50 * time.Millisecond)
	n.Step(func() { w.submit(n, putOf("k", "old")) })
	var removed *answer
	n.Step(func() {
		removed = w.submit(n, &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Remove{Remove: &cachepb.Remove{CacheName: "c", Entry: "k", ReqId: "r"}}})
	})
	if err := w.sim.Run(4 * time.Second); err != nil {
		t.Fatal(err)
	}
	if lost != 1 || removed.got != 1 || !removed.ack.GetDelAck().GetModRes() {
		t.Fatalf("%d forwards lost, remove answered %d times: %v", lost, removed.got, removed.ack)
	}
	for slot := range 3 {
		if v, _, ok := w.nodes[w.sim.Node(slot)].store.Get("c", "k", 0); ok {
			t.Errorf("node %d has k = %q after a Remove that a quorum acknowledged", slot, v)
		}
	}
}

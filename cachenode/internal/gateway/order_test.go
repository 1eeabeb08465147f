package gateway_test

import (
	"fmt"
	"testing"
	"testing/cryptotest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/gateway"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/replication/replicationtest"
	"github.com/hacache/hacache/proto/cachepb"
)

// calm returns a healthy cluster of three with an empty network.
func calm(t *testing.T, seed uint64, delay time.Duration) *world {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed)
	w := newWorld(t, replicationtest.Options{Seed: seed, Nodes: 3, Delay: delay, Jitter: delay / 2})
	w.start()
	return w
}

// start starts all nodes and waits until they are healthy.
func (w *world) start() {
	w.t.Helper()
	for slot := range w.sim.Hosts() {
		w.sim.Start(slot)
	}
	if err := w.sim.RunUntil(2*time.Second, "healthy", w.sim.Healthy); err != nil {
		w.t.Fatal(err)
	}
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

func insertOf(key, value string, tag *cachepb.OpTag) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{
		CacheName: "c", Entry: key, Value: []byte(value), ReqId: "r", Op: tag,
	}}}
}

func removeOf(key string, tag *cachepb.OpTag) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Remove{Remove: &cachepb.Remove{CacheName: "c", Entry: key, ReqId: "r", Op: tag}}}
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
			w.submit(n, insertOf("k", fmt.Sprint(i), &cachepb.OpTag{DeadlineMs: 100}))
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
	w.start()
	n := w.follower()
	// The first operation opens the session; only then do others follow each other on the wire.
	n.Step(func() { w.submit(n, delOf("k")) })
	w.sim.Run(50 * time.Millisecond)
	n.Step(func() { w.submit(n, putOf("k", "old")) })
	var removed *answer
	n.Step(func() {
		removed = w.submit(n, removeOf("k", nil))
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

// TestIndexOfCopies proves that an acknowledgement at leader names no place in the log but the one at which the operation
// took effect: with two copies of it on their way, the leader knows where it put the second, and only the first counts.
func TestIndexOfCopies(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 9)
	cut, lost := false, 0
	w := newWorld(t, replicationtest.Options{Seed: 9, Nodes: 3, Eat: func(m proto.Message) bool {
		switch m := m.(type) {
		case *cachepb.CacheRequest:
			return cut && m.GetReplicate() != nil // nothing is committed meanwhile
		case *cachepb.Ack:
			if cut && lost == 0 && m.GetPutAck() != nil {
				lost++
				return true
			}
		}
		return false
	}})
	w.start()
	n := w.follower()
	n.Step(func() { w.submit(n, delOf("opens the session")) })
	w.sim.Run(50 * time.Millisecond)
	cut = true
	var acked *answer
	n.Step(func() {
		req := insertOf("k", "v", nil)
		req.GetInsert().AckLevel = &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelLeader{LevelLeader: &cachepb.Empty{}}}
		acked = w.submit(n, req)
	})
	w.sim.Run(2500 * time.Millisecond) // until the gateway takes the first copy for lost and sends another
	if lost != 1 || acked.got != 1 || !acked.ack.GetPutAck().GetModRes() {
		t.Fatalf("%d acknowledgements lost, %d answers: %v", lost, acked.got, acked.ack)
	}
	cut = false
	if err := w.sim.Run(4 * time.Second); err != nil {
		t.Fatal(err)
	}
	_, at, ok := w.nodes[n].store.Get("c", "k", 0)
	if got := acked.ack.GetPutAck().GetOutcome().GetIndex(); !ok || got != 0 && got != at {
		t.Errorf("acknowledged at index %d, took effect at %d (there: %t)", got, at, ok)
	}
}

// TestOrderUnderOverload proves that a leader without room keeps the order of what it was sent, and that what was
// acknowledged on arrival is sent again until it is taken: a Put that was refused must not come back over its Del, and
// neither of them is lost.
func TestOrderUnderOverload(t *testing.T) {
	full := uint64(0)
	for seed := range uint64(10) {
		cryptotest.SetGlobalRandom(t, seed)
		w := newWorld(t, replicationtest.Options{
			Seed: seed, Nodes: 5, Delay: 300 * time.Microsecond, Jitter: 10 * time.Microsecond, Batch: true,
		}, func(c *gateway.Config) { c.MaxBytes = 24 << 10 })
		w.start()
		for _, n := range w.followers() {
			n.Step(func() { w.submit(n, delOf("opens the session")) })
		}
		w.sim.Run(100 * time.Millisecond)
		// Four followers send four times what one gateway may keep, and a leader takes twice that.
		const pairs = 20
		var inserts []*answer
		for _, n := range w.followers() {
			n.Step(func() {
				for i := range pairs {
					key := fmt.Sprintf("k%d of %d", i, n.Slot())
					w.submit(n, putOf(key, "old"))
					w.submit(n, delOf(key))
				}
				inserts = append(inserts, w.submit(n, insertOf("last", "v", nil)))
			})
		}
		if err := w.sim.Run(4 * time.Second); err != nil {
			t.Fatal(err)
		}
		full += w.nodes[w.sim.Leader()].gw.Stats().FullPending
		for _, n := range w.followers() {
			if s := w.nodes[n].gw.Stats(); s.PutsLost != 0 || s.PendingBytes != 0 || s.OverlayBytes != 0 {
				t.Errorf("seed %d, node %d: %d lost, %d bytes pending, %d in the overlay", seed, n.Slot(), s.PutsLost, s.PendingBytes, s.OverlayBytes)
			}
			for i := range pairs {
				key := fmt.Sprintf("k%d of %d", i, n.Slot())
				if v, _, ok := w.nodes[n].store.Get("c", key, 0); ok {
					t.Errorf("seed %d: %s = %q after its Del", seed, key, v)
				}
			}
		}
		for _, a := range inserts {
			if code := a.ack.GetPutAck().GetOutcome().GetCode(); a.got != 1 || code != cachepb.Code_OK && code != cachepb.Code_OVERLOADED {
				t.Errorf("seed %d: %d answers, the last %v", seed, a.got, a.ack)
			}
		}
	}
	if full == 0 {
		t.Error("no leader was ever full")
	}
}

// followers returns the nodes that do not lead.
func (w *world) followers() []*replicationtest.Node {
	var all []*replicationtest.Node
	for slot := range w.sim.Hosts() {
		if n := w.sim.Node(slot); n != w.sim.Leader() {
			all = append(all, n)
		}
	}
	return all
}

// TestRefusalOfASecondCopy proves that a leader's refusal is definite only if no earlier copy of the operation may be in a
// log. The network eats both copies, or delivers the first one late; the refusal of the second is made by hand.
func TestRefusalOfASecondCopy(t *testing.T) {
	for _, tc := range []struct {
		name    string
		copies  int
		deliver bool // the first copy
		want    cachepb.Code
	}{
		{"of the only copy", 1, false, cachepb.Code_OVERLOADED},
		{"of the second, the first is lost", 2, false, cachepb.Code_INDETERMINATE},
		{"of the second, the first takes effect", 2, true, cachepb.Code_OK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, 5)
			var sent []*cachepb.CacheRequest
			w := newWorld(t, replicationtest.Options{Seed: 5, Nodes: 3, Eat: func(m proto.Message) bool {
				req, ok := m.(*cachepb.CacheRequest)
				if !ok || req.GetInsert() == nil {
					return false
				}
				sent = append(sent, proto.Clone(req).(*cachepb.CacheRequest))
				return true
			}})
			w.start()
			n, l := w.follower(), w.sim.Leader()
			var a *answer
			n.Step(func() { a = w.submit(n, insertOf("k", "v", &cachepb.OpTag{DeadlineMs: 1000})) })
			w.sim.Run(50 * time.Millisecond)
			if tc.copies == 2 {
				w.sim.Break(n.Slot(), l.Slot(), replication.LaneData)
				w.sim.Run(50 * time.Millisecond)
			}
			if len(sent) != tc.copies || a.got != 0 {
				t.Fatalf("%d copies sent, %d answers, want %d and 0", len(sent), a.got, tc.copies)
			}
			n.Step(func() {
				ref := sent[tc.copies-1].GetInsert().GetReqId()
				w.nodes[n].gw.PeerAck(l.Slot(), l.Core.ID(), &cachepb.Ack{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{
					ReqId: &ref, ModRes: new(false), Outcome: &cachepb.Outcome{Code: cachepb.Code_OVERLOADED},
				}}})
			})
			if tc.deliver {
				l.Step(func() { w.nodes[l].gw.PeerRequest(n.Slot(), n.Core.ID(), sent[0]) })
			}
			w.sim.Run(2 * time.Second)
			if code := a.ack.GetPutAck().GetOutcome().GetCode(); a.got != 1 || code != tc.want {
				t.Errorf("%d answers, the last %v, want %v", a.got, code, tc.want)
			}
			if _, _, ok := w.nodes[n].store.Get("c", "k", 0); ok != tc.deliver {
				t.Errorf("takes effect: %v, want %v", ok, tc.deliver)
			}
		})
	}
}

package gateway_test

import (
	"fmt"
	"testing"
	"testing/cryptotest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/replication/replicationtest"
	"github.com/hacache/hacache/proto/cachepb"
)

// localRead is a local read of key at a node, as its session would do it.
func (w *world) localRead(n *replicationtest.Node, key string) *cachepb.GetAck {
	var ack *cachepb.GetAck
	n.Step(func() {
		ack = w.nodes[n].gw.Get(viewOf(n), n.Core.Now(), &cachepb.Get{CacheName: "c", Entry: key}).GetGetAck()
	})
	return ack
}

// TestDeadlines proves that an operation is answered at its deadline, neither before nor much later, that none waits
// longer than the session table remembers it, and that one which was never sent is refused for good.
func TestDeadlines(t *testing.T) {
	const grain = 40 * time.Millisecond // of the deadline wheel, and a tick
	for _, tc := range []struct {
		name     string
		deadline uint32 // ms
		want     time.Duration
	}{
		{"default", 0, 3 * time.Second},
		{"short", 100, 100 * time.Millisecond},
		{"long", 10_000, 10 * time.Second},
		{"too long", 1_000_000, time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := calm(t, 6, 500*time.Microsecond)
			n := w.follower()
			w.sim.Isolate(n.Slot(), true)
			w.sim.Run(time.Second)
			var a *answer
			n.Step(func() { a = w.submit(n, insertOf("k", "v", &cachepb.OpTag{DeadlineMs: tc.deadline})) })
			w.sim.Run(tc.want)
			if a.got != 0 {
				t.Fatalf("answered before the deadline: %v", a.ack)
			}
			w.sim.Run(grain)
			if code := a.ack.GetPutAck().GetOutcome().GetCode(); a.got != 1 || code != cachepb.Code_NO_LEADER {
				t.Errorf("at the deadline: %d answers, %v, want NO_LEADER", a.got, a.ack)
			}
		})
	}
}

// TestPatience proves how long what was acknowledged on arrival waits for a leader: two seconds a Put, a minute a Del.
// Until then its client reads it where it wrote it; afterwards it is counted as lost and read no more.
func TestPatience(t *testing.T) {
	for _, tc := range []struct {
		name  string
		put   bool
		after time.Duration // without a leader
		lost  bool
	}{
		{"put in time", true, 1500 * time.Millisecond, false},
		{"put too late", true, 2500 * time.Millisecond, true},
		{"del in time", false, 58 * time.Second, false},
		{"del too late", false, 61 * time.Second, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := calm(t, 7, 500*time.Microsecond)
			n := w.follower()
			n.Step(func() { w.submit(n, insertOf("k", "before", nil)) })
			w.sim.Run(100 * time.Millisecond)
			w.sim.Isolate(n.Slot(), true)
			var a *answer
			n.Step(func() {
				if tc.put {
					a = w.submit(n, putOf("k", "after"))
				} else {
					a = w.submit(n, delOf("k"))
				}
			})
			if a.got != 1 {
				t.Fatalf("%d answers on arrival, want 1", a.got)
			}
			w.sim.Run(100 * time.Millisecond)
			want := ""
			if tc.put {
				want = "after"
			}
			if got := w.localRead(n, "k"); string(got.GetValue()) != want || got.GetOutcome().GetCode() != cachepb.Code_OK {
				t.Errorf("read where it was written: %v, want %q", got, want)
			}
			w.sim.Run(tc.after)
			w.sim.Isolate(n.Slot(), false)
			if err := w.sim.Run(3 * time.Second); err != nil {
				t.Fatal(err)
			}
			if tc.lost {
				want = "before"
			}
			for slot := range 3 {
				if got := w.localRead(w.sim.Node(slot), "k"); string(got.GetValue()) != want {
					t.Errorf("node %d has %v, want %q", slot, got, want)
				}
			}
			if s := w.nodes[n].gw.Stats(); (s.PutsLost == 1) != tc.lost || s.OverlayBytes != 0 {
				t.Errorf("%d lost, %d bytes in the overlay; lost: want %v", s.PutsLost, s.OverlayBytes, tc.lost)
			}
		})
	}
}

// TestRepeatedOnArrival proves that a Put or Del under the tag of one that is still under way is answered on arrival, too,
// and that the same tag on another operation is refused by an ack of that operation's kind.
func TestRepeatedOnArrival(t *testing.T) {
	w := calm(t, 8, 500*time.Microsecond)
	n := w.follower()
	w.sim.Isolate(n.Slot(), true)
	tag := func(seq uint64) *cachepb.OpTag { return &cachepb.OpTag{Session: 7, Seq: seq} }
	put, del := putOf("k", "v"), delOf("k")
	put.GetPut().Op, del.GetDel().Op = tag(1), tag(2)
	for range 2 {
		n.Step(func() {
			for _, req := range []*cachepb.CacheRequest{put, del} {
				if a := w.submit(n, req); a.got != 1 || !a.ack.GetPutAck().GetModRes() && !a.ack.GetDelAck().GetModRes() {
					t.Errorf("%v: %d answers on arrival, %v", req, a.got, a.ack)
				}
			}
		})
	}
	n.Step(func() {
		if a := w.submit(n, removeOf("k", tag(1))); a.ack.GetDelAck().GetOutcome().GetCode() != cachepb.Code_INVALID {
			t.Errorf("a Remove under the tag of a Put: %v, want a DelAck with INVALID", a.ack)
		}
		if a := w.submit(n, insertOf("k", "v", tag(2))); a.ack.GetPutAck().GetOutcome().GetCode() != cachepb.Code_INVALID {
			t.Errorf("an Insert under the tag of a Del: %v, want a PutAck with INVALID", a.ack)
		}
	})
	w.sim.Run(3 * time.Second) // the Put is given up: nobody may be left waiting for it
	if w.err != nil {
		t.Error(w.err)
	}
}

// TestEmptyValueBeforeApply proves that an empty value is read where it was written before it is applied, and is no miss.
func TestEmptyValueBeforeApply(t *testing.T) {
	w := calm(t, 9, 500*time.Microsecond)
	n := w.follower()
	req := putOf("k", "")
	req.GetPut().Value = nil // as it comes off the wire
	n.Step(func() { w.submit(n, req) })
	if got := w.localRead(n, "k"); got.Value == nil || len(got.Value) != 0 {
		t.Errorf("before it is applied: %v, want an empty value", got)
	}
	w.sim.Run(100 * time.Millisecond)
	if got := w.localRead(n, "k"); got.Value == nil || len(got.Value) != 0 {
		t.Errorf("after it was applied: %v, want an empty value", got)
	}
}

// TestOwnSession proves that a gateway goes on under its session while it is used, begins a new one after 30 idle
// seconds, and that operations lose nothing when the table has pushed theirs out.
func TestOwnSession(t *testing.T) {
	w := calm(t, 10, 500*time.Microsecond)
	n := w.follower()
	var tags []*cachepb.OpTag
	w.applied = func(at *replicationtest.Node, _ uint64, b *cachepb.Batch) {
		for _, op := range b.GetOps() {
			if at == n && op.GetInsert() != nil {
				tags = append(tags, op.GetInsert().GetOp())
			}
		}
	}
	insert := func(after time.Duration) *cachepb.OpTag {
		t.Helper()
		w.sim.Run(after)
		was := len(tags)
		var a *answer
		n.Step(func() { a = w.submit(n, insertOf("k", fmt.Sprint(was), nil)) })
		if err := w.sim.Run(200 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if !a.ack.GetPutAck().GetModRes() {
			t.Fatalf("after %v: %v", after, a.ack)
		}
		return tags[len(tags)-1]
	}
	first, second := insert(0), insert(29*time.Second)
	if first.GetSeq() != 1 || second.GetSession() != first.GetSession() || second.GetSeq() != 2 {
		t.Errorf("within 30 s: %v after %v, want seq 2 of the same session", second, first)
	}
	third := insert(31 * time.Second)
	if third.GetSession() == second.GetSession() || third.GetSeq() != 1 {
		t.Errorf("after 30 s: %v after %v, want seq 1 of another session", third, second)
	}

	// A flood of sessions pushes this one out.
	l := w.sim.Leader()
	for i := range 70 {
		b := &cachepb.Batch{ClusterMs: l.Core.ClusterMs()}
		for j := range 1000 {
			b.Ops = append(b.Ops, delOf("none"))
			b.Ops[j].GetDel().Op = &cachepb.OpTag{Session: uint64(i*1000 + j + 1), Seq: 1}
		}
		data, err := proto.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		l.Step(func() { _, err = l.Core.Propose(data) })
		if err != nil {
			t.Fatal(err)
		}
		w.sim.Run(10 * time.Millisecond)
	}
	fourth := insert(0)
	if fourth.GetSession() == third.GetSession() || fourth.GetSeq() != 1 {
		t.Errorf("after its session was pushed out: %v after %v, want seq 1 of another session", fourth, third)
	}
	if got := w.localRead(n, "k"); string(got.GetValue()) != fmt.Sprint(len(tags)-2) {
		t.Errorf("has %v, want %d: the one before it was refused", got, len(tags)-2)
	}
}

// TestUnreadableEntry proves that an entry of the log which is no batch is skipped by all replicas alike, rather than
// ending each of them.
func TestUnreadableEntry(t *testing.T) {
	w := calm(t, 11, 500*time.Microsecond)
	l := w.sim.Leader()
	large, err := proto.Marshal(&cachepb.Batch{Ops: make([]*cachepb.CacheRequest, 1<<16+1)})
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{{0xff}, large, {8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}} {
		l.Step(func() { _, err = l.Core.Propose(data) })
		if err != nil {
			t.Fatal(err)
		}
	}
	var a *answer
	l.Step(func() { a = w.submit(l, insertOf("k", "v", nil)) })
	if err := w.sim.Run(time.Second); err != nil {
		t.Fatal(err)
	}
	_, want := w.nodes[l].store.Digest()
	for slot := range 3 {
		n := w.sim.Node(slot)
		if _, hash := w.nodes[n].store.Digest(); hash != want || string(w.localRead(n, "k").GetValue()) != "v" {
			t.Errorf("node %d has state %x and %v, want %x and v", slot, hash, w.localRead(n, "k"), want)
		}
	}
	if !a.ack.GetPutAck().GetModRes() {
		t.Errorf("an operation after them: %v", a.ack)
	}
}

// TestSweepWithoutWrites proves that what has expired leaves memory, on all nodes, even if nobody writes any more.
func TestSweepWithoutWrites(t *testing.T) {
	w := calm(t, 12, 500*time.Microsecond)
	l := w.sim.Leader()
	for i := range 3000 {
		l.Step(func() { w.submit(l, insertOf(fmt.Sprint(i), "v", &cachepb.OpTag{TtlMs: 500})) })
	}
	w.sim.Run(100 * time.Millisecond)
	for slot := range 3 {
		if got := w.nodes[w.sim.Node(slot)].store.Stats().Entries; got != 3000 {
			t.Fatalf("node %d has %d entries, want 3000", slot, got)
		}
	}
	if err := w.sim.Run(2 * time.Second); err != nil {
		t.Fatal(err)
	}
	_, want := w.nodes[l].store.Digest()
	for slot := range 3 {
		st := w.nodes[w.sim.Node(slot)].store
		if _, hash := st.Digest(); st.Stats().Entries != 0 || hash != want {
			t.Errorf("node %d has %d entries and state %x, want none and %x", slot, st.Stats().Entries, hash, want)
		}
	}
	applied := l.Core.Applied()
	w.sim.Run(10 * time.Second)
	if l.Core.Applied() != applied {
		t.Errorf("%d entries were added to the log for nothing", l.Core.Applied()-applied)
	}
}

// TestWhatLiesBeneath proves that a Put is read where it was made although a later operation, acknowledged at leader, was
// lost with the leader: until the Put is in the log again, an older value must not appear.
func TestWhatLiesBeneath(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 13)
	eat := false
	w := newWorld(t, replicationtest.Options{Seed: 13, Nodes: 3, Eat: func(m proto.Message) bool {
		req, ok := m.(*cachepb.CacheRequest)
		return eat && ok && req.GetReplicate() != nil // what the leader appends reaches nobody
	}})
	w.start()
	n, l := w.follower(), w.sim.Leader()
	n.Step(func() { w.submit(n, insertOf("k", "old", nil)) })
	w.sim.Run(100 * time.Millisecond)
	eat = true
	var lost *answer
	n.Step(func() {
		w.submit(n, putOf("k", "put"))
		req := insertOf("k", "lost", nil)
		req.GetInsert().AckLevel = &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelLeader{LevelLeader: &cachepb.Empty{}}}
		lost = w.submit(n, req)
	})
	w.sim.Run(5 * time.Millisecond)
	if got := w.localRead(n, "k"); lost.got != 1 || !lost.ack.GetPutAck().GetModRes() || string(got.GetValue()) != "lost" {
		t.Fatalf("at leader: %v, reads %v", lost.ack, got)
	}
	w.sim.Crash(l.Slot())
	eat = false
	for range 3000 {
		w.sim.Run(100 * time.Microsecond)
		if got := w.localRead(n, "k"); got.GetOutcome().GetCode() == cachepb.Code_OK && string(got.GetValue()) == "old" {
			t.Fatalf("at %v the Put is not read any more", w.sim.Now())
		}
	}
	if got := w.localRead(n, "k"); string(got.GetValue()) != "put" {
		t.Errorf("in the end it reads %v, want put", got)
	}
}

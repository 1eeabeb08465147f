package gateway_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/hacache/hacache/cachenode/internal/gateway"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/replication/replicationtest"
	"github.com/hacache/hacache/proto/cachepb"
)

// TestOverloadIsRefused proves that a cluster which is sent twice what it can take refuses the rest at once instead of
// making everybody wait beyond their deadlines: what is accepted is answered within the bound of waiting and a round
// trip or two, at the leader and through a follower; and when it is over the next operation is as quick as any.
func TestOverloadIsRefused(t *testing.T) {
	for _, through := range []string{"leader", "follower"} {
		t.Run(through, func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, 3)
			// Four batches of 1 MiB in 120 ms: some 33 MiB a second is what the log takes.
			w := newWorld(t, replicationtest.Options{Seed: 3, Nodes: 3, Delay: 60 * time.Millisecond, Batch: true}, func(c *gateway.Config) {
				c.MaxBytes = 1 << 30 // so that it is not the bytes
			})
			w.start()
			n := w.sim.Leader()
			if through == "follower" {
				n = w.follower()
			}
			value := strings.Repeat("x", 256<<10)
			codes := map[cachepb.Code]int{}
			var slowest time.Duration
			open := 0
			write := func(i int) {
				at := w.sim.Now()
				a := &answer{w: w, what: fmt.Sprint("insert ", i)}
				open++
				a.done = func(ack *cachepb.Ack) {
					open--
					code := ack.GetPutAck().GetOutcome().GetCode()
					codes[code]++
					if took := w.sim.Now() - at; code == cachepb.Code_OK {
						slowest = max(slowest, took)
					} else if code == cachepb.Code_OVERLOADED && took > 2*time.Second {
						t.Errorf("refused after %v", took)
					}
				}
				n.Step(func() {
					w.nodes[n].gw.Submit(replication.Submission{To: a, Req: insertOf(fmt.Sprint("k", i%8), value, nil)})
				})
			}
			for i := range 1200 { // 75 MiB a second for four seconds
				w.sim.At(time.Duration(i)*4*time.Second/1200, func() { write(i) })
			}
			if err := w.sim.Run(6 * time.Second); err != nil {
				t.Fatal(err)
			}
			if open > 0 || w.err != nil {
				t.Errorf("%d operations were not answered, %v", open, w.err)
			}
			ok, refused := codes[cachepb.Code_OK], codes[cachepb.Code_OVERLOADED]
			if ok < 200 || refused < 200 || ok+refused != 1200 {
				t.Errorf("outcomes %v, want hundreds OK, hundreds OVERLOADED and nothing else", codes)
			}
			if slowest > 2700*time.Millisecond {
				t.Errorf("an accepted operation took %v", slowest)
			}
			slowest = 0
			write(0)
			if err := w.sim.Run(time.Second); err != nil {
				t.Fatal(err)
			}
			if slowest == 0 || slowest > 500*time.Millisecond {
				t.Errorf("afterwards an operation took %v (0: it was refused)", slowest)
			}
			var full uint64
			for _, n := range w.nodes {
				full += n.gw.Stats().FullWait
			}
			if full == 0 {
				t.Error("it was not counted")
			}
		})
	}
}

// TestWaitingForALeaderIsNoOverload proves that operations which wait because nobody leads are not taken for a queue that
// is slow: they and those that come while the new leader catches up are carried out.
func TestWaitingForALeaderIsNoOverload(t *testing.T) {
	w := calm(t, 4, time.Millisecond)
	n := w.follower()
	w.sim.Crash(w.sim.Leader().Slot())
	var all []*answer
	for range 50 { // for half a second, of which some is without a leader
		n.Step(func() { all = append(all, w.submit(n, insertOf("k", "v", nil))) })
		if err := w.sim.Run(10 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.sim.Run(4 * time.Second); err != nil {
		t.Fatal(err)
	}
	for i, a := range all {
		if code := a.ack.GetPutAck().GetOutcome().GetCode(); a.got != 1 || code != cachepb.Code_OK {
			t.Fatalf("operation %d: %d answers, the last %v", i, a.got, code)
		}
	}
	if full := w.nodes[n].gw.Stats().FullWait; full != 0 {
		t.Errorf("%d operations were refused for waiting", full)
	}
}

// TestPauseIsNoOverload proves that a queue which grew while nothing could be sent, and which is emptied at once when it
// can, is not taken for a slow one.
func TestPauseIsNoOverload(t *testing.T) {
	for name, pause := range map[string]func(w *world){
		"links":   func(w *world) { w.sim.Isolate(w.sim.Leader().Slot(), true) },
		"process": func(w *world) { w.sim.Pause(w.sim.Leader().Slot(), 150*time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			w := calm(t, 6, time.Millisecond)
			nodes := []*replicationtest.Node{w.follower(), w.sim.Leader()}
			var all []*answer
			for i := range 600 {
				w.sim.At(time.Duration(i)*time.Millisecond, func() {
					n := nodes[i%2]
					n.Step(func() {
						for range 10 {
							all = append(all, w.submit(n, insertOf("k", "v", nil)))
						}
					})
				})
			}
			w.sim.At(200*time.Millisecond, func() { pause(w) })
			w.sim.At(350*time.Millisecond, w.sim.Heal)
			if err := w.sim.Run(3 * time.Second); err != nil {
				t.Fatal(err)
			}
			for i, a := range all {
				if code := a.ack.GetPutAck().GetOutcome().GetCode(); a.got != 1 || code != cachepb.Code_OK {
					t.Fatalf("operation %d of %d: %d answers, the last %v", i, len(all), a.got, code)
				}
			}
		})
	}
}

// TestBurstIsNoOverload proves that what a node is seen to take when it has little to do is not mistaken for what it can.
func TestBurstIsNoOverload(t *testing.T) {
	for _, through := range []string{"leader", "follower"} {
		t.Run(through, func(t *testing.T) {
			w := calm(t, 7, time.Millisecond)
			n := w.sim.Leader()
			if through == "follower" {
				n = w.follower()
			}
			var all []*answer
			for range 60 {
				n.Step(func() { all = append(all, w.submit(n, insertOf("k", "v", nil))) })
				if err := w.sim.Run(20 * time.Millisecond); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				n.Step(func() {
					for range 6000 {
						all = append(all, w.submit(n, insertOf("k", "v", nil)))
					}
				})
				if err := w.sim.Run(time.Millisecond); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.sim.Run(2 * time.Second); err != nil {
				t.Fatal(err)
			}
			for i, a := range all {
				if code := a.ack.GetPutAck().GetOutcome().GetCode(); a.got != 1 || code != cachepb.Code_OK {
					t.Fatalf("operation %d of %d: %d answers, the last %v", i, len(all), a.got, code)
				}
			}
		})
	}
}

// TestTwinsAreBounded proves that one operation submitted over and over is not kept over and over.
func TestTwinsAreBounded(t *testing.T) {
	w := calm(t, 5, 20*time.Millisecond)
	n := w.follower()
	var all []*answer
	n.Step(func() {
		for range 200 {
			all = append(all, w.submit(n, insertOf("k", "v", &cachepb.OpTag{Session: 7, Seq: 1})))
		}
	})
	if err := w.sim.Run(2 * time.Second); err != nil {
		t.Fatal(err)
	}
	codes := map[cachepb.Code]int{}
	for _, a := range all {
		codes[a.ack.GetPutAck().GetOutcome().GetCode()]++
	}
	if codes[cachepb.Code_OK] != 65 || codes[cachepb.Code_OVERLOADED] != 135 {
		t.Errorf("outcomes %v, want the first and 64 copies OK, the rest OVERLOADED", codes)
	}
}

package replicationtest

import (
	"strings"
	"testing"
	"testing/cryptotest"
	"time"
)

// TestPolicies proves that nodes which were given different cache policies form no cluster together, that a majority with
// equal ones does, that who differs joins it all the same, and that each node says what it waits for.
func TestPolicies(t *testing.T) {
	tests := []struct {
		name   string
		given  [3]uint64
		former int // -1: nobody may form a cluster
	}{
		{"all alike", [3]uint64{7, 7, 7}, 0},
		{"the first differs", [3]uint64{8, 7, 7}, 1},
		{"the last differs", [3]uint64{7, 7, 8}, 0},
		{"all differ", [3]uint64{7, 8, 9}, -1},
		{"of a version that says nothing", [3]uint64{7, 0, 7}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, 1)
			s := New(Options{Seed: 1, Logger: testLogger(t), Policies: func(slot int) uint64 { return tt.given[slot] }})
			for slot := range 3 {
				s.Start(slot)
			}
			if tt.former < 0 {
				if err := s.Run(5 * time.Second); err != nil {
					t.Fatal(err)
				}
				for slot := range 3 {
					c := s.Node(slot).Core
					if c.Cluster() != 0 || c.Stats().Forms != 0 {
						t.Errorf("node %d is in cluster %x and has formed %d", slot, c.Cluster(), c.Stats().Forms)
					}
					if !strings.Contains(c.Waiting(), "other cache policies") {
						t.Errorf("node %d waits: %q", slot, c.Waiting())
					}
				}
				return
			}
			if err := s.RunUntil(5*time.Second, "healthy", s.Healthy); err != nil {
				t.Fatal(err)
			}
			for slot := range 3 {
				c := s.Node(slot).Core
				if formed := c.Stats().Forms == 1; formed != (slot == tt.former) || c.Cluster() != s.Node(0).Core.Cluster() {
					t.Errorf("node %d has formed %d clusters and is in %x", slot, c.Stats().Forms, c.Cluster())
				}
			}
			if w := s.Node(0).Core.Waiting(); w != "" {
				t.Errorf("node 0 is in a cluster and waits: %q", w)
			}
		})
	}
}

// TestStopping proves that leadership goes to nobody who is about to end, and that a leader knows when nobody is left.
func TestStopping(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	s := New(Options{Seed: 1, Logger: testLogger(t)})
	for slot := range 3 {
		s.Start(slot)
	}
	if err := s.RunUntil(5*time.Second, "healthy", s.Healthy); err != nil {
		t.Fatal(err)
	}
	leader := s.Leader()
	others := []*Node{}
	for slot := range 3 {
		if n := s.Node(slot); n != leader {
			others = append(others, n)
		}
	}
	heirs := func(want int) {
		t.Helper()
		if err := s.RunUntil(100*time.Millisecond, "heirs", func() bool { return leader.Core.Heirs() == want }); err != nil {
			t.Fatalf("%d heirs, want %d", leader.Core.Heirs(), want)
		}
	}
	heirs(2)
	others[0].Step(others[0].Core.Stop)
	heirs(1)
	if leader.Core.Transfer(others[0].slot) {
		t.Error("leadership is handed to a node that stops")
	}
	leader.Step(func() {
		if !leader.Core.Transfer(-1) {
			t.Error("the other node does not get it")
		}
	})
	if err := s.RunUntil(time.Second, "the transfer", func() bool { return s.Leader() == others[1] }); err != nil {
		t.Fatal(err)
	}
	leader.Step(leader.Core.Stop)
	leader = others[1]
	heirs(0)
	if leader.Core.Transfer(-1) {
		t.Error("leadership is handed to somebody although all others stop")
	}
}

// TestTransferTooLate proves that a node which hears of its successor, and is told to hand over, in one turn hands nothing
// over: the library would pass that on to the new leader, in a message that nodes do not exchange.
func TestTransferTooLate(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	s := New(Options{Seed: 1, Batch: true, Logger: testLogger(t)})
	for slot := range 3 {
		s.Start(slot)
	}
	if err := s.RunUntil(5*time.Second, "healthy", s.Healthy); err != nil {
		t.Fatal(err)
	}
	old := s.Leader()
	s.Pause(old.slot, 3*time.Second)
	successor := func() bool {
		for slot := range 3 {
			if n := s.Node(slot); n != old && n.Core.Elected() {
				return true
			}
		}
		return false
	}
	if err := s.RunUntil(3*time.Second, "a successor", successor); err != nil {
		t.Fatal(err)
	}
	if !old.Core.Elected() {
		t.Fatal("the paused node has noticed")
	}
	told, handed := false, false
	old.Step(func() { told, handed = true, old.Core.Transfer(-1) })
	if err := s.RunUntil(5*time.Second, "the end of the pause", func() bool { return told }); err != nil {
		t.Fatal(err)
	}
	if handed {
		t.Error("a node that no longer leads hands over")
	}
}

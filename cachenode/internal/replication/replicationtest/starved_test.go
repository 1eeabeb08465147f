package replicationtest

import (
	"fmt"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"
)

// TestStarvedElection: nodes that get a processor rarely, each at its own time, still elect somebody when their leader dies
// or falls silent: later by some turns, not by rounds of split votes. A turn of the loop is one tick at most, so that
// Raft's timeouts stretch with the wait for turns, for each node with its own. Turns that are further apart than an
// election timeout are no reason to stand still.
func TestStarvedElection(t *testing.T) {
	for _, test := range []struct {
		silent bool          // the leader is cut off; else it dies, which the others see
		turn   time.Duration // mean time between two turns of a node
		most   time.Duration // until another one leads
	}{
		{false, 20 * time.Millisecond, 500 * time.Millisecond},
		{false, 100 * time.Millisecond, 2 * time.Second},
		{false, 300 * time.Millisecond, 5 * time.Second},
		{true, 20 * time.Millisecond, 2 * time.Second},
		{true, 100 * time.Millisecond, 15 * time.Second},
		{true, 300 * time.Millisecond, 45 * time.Second},
	} {
		t.Run(fmt.Sprintf("silent %t, a turn each %v", test.silent, test.turn), func(t *testing.T) {
			var took []time.Duration
			for seed := range uint64(15) {
				took = append(took, starvedElection(t, seed, test.silent, test.turn, test.most))
			}
			slices.Sort(took)
			t.Logf("median %v, max %v", took[len(took)/2], took[len(took)-1])
		})
	}
}

// starvedElection returns how long starved nodes took to elect another leader.
func starvedElection(t *testing.T, seed uint64, silent bool, turn, most time.Duration) time.Duration {
	cryptotest.SetGlobalRandom(t, seed)
	s := New(Options{Seed: seed, Nodes: 3, Batch: true, Logger: testLogger(t)})
	for i := range 3 {
		s.Start(i)
	}
	if err := s.RunUntil(5*time.Second, "healthy", s.Healthy); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	old := s.Leader().Slot()
	for i := range 3 {
		s.starve(i, turn)
	}
	if silent {
		s.Isolate(old, true)
	} else {
		s.Crash(old)
	}
	began := s.Now()
	elected := func() bool {
		for i := range 3 {
			if n := s.Node(i); i != old && n != nil && n.Core.Leader() == i {
				return true
			}
		}
		return false
	}
	if err := s.RunUntil(most, "another leader", elected); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	return s.Now() - began
}

// starve gives a slot a turn now and then, mean apart, for ever.
func (s *Sim) starve(slot int, mean time.Duration) {
	wait := mean/2 + time.Duration(s.rng.Int64N(int64(mean)))
	s.Pause(slot, wait)
	s.At(wait+time.Millisecond, func() { s.starve(slot, mean) })
}

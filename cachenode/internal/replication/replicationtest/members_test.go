package replicationtest

import (
	"slices"
	"testing"
	"testing/cryptotest"
	"time"
)

// TestChangeHosts proves that the list of hosts can be changed under writes, growing, shrinking and replacing a host,
// without a refused proposal and without losing anything; that a node with an old configuration still finds its way; and
// that those who left become empty and do not come back.
func TestChangeHosts(t *testing.T) {
	for seed := range uint64(20) {
		cryptotest.SetGlobalRandom(t, seed)
		s := New(Options{Seed: seed, Nodes: 3, Spare: 2, Logger: testLogger(t)})
		for slot := range 5 {
			s.Start(slot)
		}
		if err := s.RunUntil(time.Second, "healthy", s.Healthy); err != nil {
			t.Fatal(err)
		}
		refused := s.Count.Refused
		var write func()
		write = func() {
			if l := s.Leader(); l != nil {
				l.Propose()
			}
			s.At(2*time.Millisecond, write)
		}
		write()
		set := func(slots ...int) {
			t.Helper()
			var list []string
			for _, slot := range slots {
				list = append(list, s.Hosts()[slot])
			}
			slices.Sort(list)
			done := func() bool {
				l := s.Leader()
				if l == nil {
					return false
				}
				if !slices.Equal(l.Core.Members(), list) && l.Core.MembersPending() == nil {
					l.Step(func() {
						if err := l.Core.SetMembers(list); err != nil {
							t.Fatal(err)
						}
					})
				}
				return slices.Equal(l.Core.Members(), list) && l.Core.MembersPending() == nil && s.Healthy()
			}
			if err := s.RunUntil(5*time.Second, "the new list", done); err != nil {
				t.Fatalf("seed %d: %v: %v", seed, list, err)
			}
		}
		set(0, 1, 2, 3, 4)
		if s.Count.Refused != refused {
			t.Errorf("seed %d: %d proposals refused while growing", seed, s.Count.Refused-refused)
		}
		// A node that restarts with the old list is let in, although its configuration knows nothing of two hosts.
		s.Crash(1)
		s.StartWith(1, s.Hosts()[:3], false)
		if err := s.RunUntil(3*time.Second, "healthy with a node of the old configuration", s.Healthy); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		set(0, 2, 4)
		for _, slot := range []int{1, 3} {
			if err := s.RunUntil(3*time.Second, "who left is empty", func() bool { return s.Node(slot).Core.Cluster() == 0 }); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		set(0, 2, 3) // a replacement
		s.Run(time.Second)
		if s.Count.Clusters != 1 {
			t.Errorf("seed %d: %d clusters", seed, s.Count.Clusters)
		}
		for _, slot := range []int{0, 2, 3} {
			if lost := s.Lost(s.Node(slot)); len(lost) > 1 { // the newest may be on its way
				t.Errorf("seed %d: node %d lost %d operations", seed, slot, len(lost))
			}
		}
	}
}

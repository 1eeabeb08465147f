package replicationtest

import (
	"testing"
	"testing/cryptotest"
	"time"
)

// TestSnapshotPace: a copy takes the time that its rate asks for, so that it leaves the processors to those who write; and
// where more is written than the rate would move, it is faster than that and comes to its end.
func TestSnapshotPace(t *testing.T) {
	for _, test := range []struct {
		name        string
		writing     bool // 31 KiB of log a second
		least, most time.Duration
	}{
		{name: "nobody writes", least: 3500 * time.Millisecond, most: 5 * time.Second},
		{name: "more is written than the rate", writing: true, least: 700 * time.Millisecond, most: 2 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, 1)
			s := New(Options{
				Seed: 1, Nodes: 3, Delay: time.Millisecond, Jitter: time.Millisecond, Logger: testLogger(t),
				LogRetainBytes: 16 << 10, SnapshotRate: 16 << 10,
			})
			for i := range 3 {
				s.Start(i)
			}
			if err := s.RunUntil(2*time.Second, "healthy", s.Healthy); err != nil {
				t.Fatal(err)
			}
			writing := true
			var write func()
			write = func() {
				if l := s.Leader(); writing && l != nil {
					l.Propose()
					s.At(time.Millisecond, write)
				}
			}
			leader := s.Leader()
			s.Isolate((leader.Slot()+1)%3, true)
			write()
			if err := s.Run(8 * time.Second); err != nil { // 64 KiB: 4 s at the rate
				t.Fatal(err)
			}
			writing = test.writing
			s.Heal()
			sending := func() bool { yes, _, _ := leader.Core.SnapshotProgress(); return yes }
			if err := s.RunUntil(2*time.Second, "a transfer", sending); err != nil {
				t.Fatal(err)
			}
			began := s.Now()
			if err := s.RunUntil(20*time.Second, "the end of the transfer", func() bool { return !sending() }); err != nil {
				t.Fatal(err)
			}
			if took := s.Now() - began; took < test.least || took > test.most {
				t.Errorf("the transfer took %v, want %v to %v", took, test.least, test.most)
			}
			if stats := leader.Core.Stats(); s.Leader() != leader || stats.SnapshotsSent != 1 || stats.SnapshotsFailed != 0 {
				t.Errorf("%d snapshots were sent, %d failed; the leader changed: %v", stats.SnapshotsSent, stats.SnapshotsFailed, s.Leader() != leader)
			}
		})
	}
}

package replicationtest

import (
	"testing"
	"testing/cryptotest"
	"time"
)

// TestPinnedLogIsBounded proves that a follower which needs a snapshot cannot make the leader keep ever more log: with
// writes that are quicker than the transfer it is given up, again and again, and the follower is taken in as soon as they
// are not.
func TestPinnedLogIsBounded(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	s := New(Options{
		Seed: 1, Nodes: 3, Delay: 20 * time.Millisecond, Jitter: time.Millisecond, Logger: testLogger(t),
		LogRetainBytes: 1 << 10, SnapshotWindow: 1, SnapshotChunk: 512, // some 12 KiB a second
	})
	for i := range 3 {
		s.Start(i)
	}
	if err := s.RunUntil(2*time.Second, "healthy", s.Healthy); err != nil {
		t.Fatal(err)
	}
	writing, most := true, uint64(0)
	var write func()
	write = func() { // entries of 32 bytes, 31 KiB a second
		if l := s.Leader(); writing && l != nil {
			l.Propose()
			_, bytes := l.Core.LogSize()
			most = max(most, bytes)
			s.At(time.Millisecond, write)
		}
	}
	behind := (s.Leader().Slot() + 1) % 3
	s.Isolate(behind, true)
	write()
	if err := s.Run(6 * time.Second); err != nil { // 190 KiB: a snapshot of 15 s
		t.Fatal(err)
	}
	s.Heal()
	leader := s.Leader()
	if err := s.Run(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	if s.Leader() != leader || leader.Core.Stats().SnapshotsFailed == 0 {
		t.Errorf("%d transfers were given up; the leader changed: %v", leader.Core.Stats().SnapshotsFailed, s.Leader() != leader)
	}
	if most > 24<<10 {
		t.Errorf("the leader kept %d bytes of log, want about 8 KiB and what one transfer moved meanwhile", most)
	}
	writing = false
	if err := s.RunUntil(90*time.Second, "healthy", s.Healthy); err != nil {
		t.Fatal(err)
	}
}

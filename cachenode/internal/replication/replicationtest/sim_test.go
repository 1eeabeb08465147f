package replicationtest

import (
	"log/slog"
	"os"
	"testing"
	"testing/cryptotest"
	"time"
)

func testLogger(t *testing.T) *slog.Logger {
	if os.Getenv("SIM_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// TestColdStart proves that nodes started together form one cluster quickly, and that writes commit.
func TestColdStart(t *testing.T) {
	for _, nodes := range []int{1, 2, 3, 5, 7} {
		cryptotest.SetGlobalRandom(t, 1)
		s := New(Options{Seed: uint64(nodes), Nodes: nodes, Logger: testLogger(t)})
		for i := range nodes {
			s.Start(i)
		}
		if err := s.RunUntil(300*time.Millisecond, "healthy", s.Healthy); err != nil {
			t.Fatal(err)
		}
		t.Log(nodes, "nodes healthy after", s.Now()-time.Second)
		if !s.Leader().Propose() {
			t.Fatal("the leader refuses a proposal")
		}
		if err := s.Run(50 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if s.Count.Acks != 1 {
			t.Fatalf("%d acks, want 1", s.Count.Acks)
		}
	}
}

// TestLeaderKilled proves the fast path: survivors elect a new leader from broken connections alone, and the restarted
// node is swapped in.
func TestLeaderKilled(t *testing.T) {
	for seed := range uint64(30) {
		cryptotest.SetGlobalRandom(t, seed)
		s := New(Options{Seed: seed, Nodes: 3, Logger: testLogger(t)})
		for i := range 3 {
			s.Start(i)
		}
		if err := s.RunUntil(300*time.Millisecond, "healthy", s.Healthy); err != nil {
			t.Fatal(err)
		}
		s.Run(time.Second + time.Duration(s.Rand().IntN(50))*time.Millisecond)
		s.Leader().Propose()
		s.Run(20 * time.Millisecond)
		old := s.Leader().slot
		s.Crash(old)
		at := s.Now()
		if err := s.RunUntil(100*time.Millisecond, "another leader", func() bool { return s.Leader() != nil }); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		t.Logf("seed %d: new leader after %v", seed, s.Now()-at)
		s.Start(old)
		if err := s.RunUntil(3*time.Second, "healthy again", s.Healthy); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for i := range 3 {
			if lost := s.Lost(s.Node(i)); len(lost) > 0 {
				t.Fatalf("seed %d: node %d lost %v", seed, i, lost)
			}
		}
	}
}

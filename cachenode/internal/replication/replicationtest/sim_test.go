package replicationtest

import (
	"fmt"
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

// TestSchedules runs random schedules and checks every invariant after each step. SIM_SEEDS=1-2000 runs more of them;
// a failure names the seed, and SIM_SEEDS=<seed> repeats it.
func TestSchedules(t *testing.T) {
	first, last := uint64(1), uint64(seedsByDefault)
	if v := os.Getenv("SIM_SEEDS"); v != "" {
		if n, _ := fmt.Sscanf(v, "%d-%d", &first, &last); n == 1 {
			last = first
		}
	}
	var total Counts
	for seed := first; seed <= last; seed++ {
		cryptotest.SetGlobalRandom(t, seed)
		s, sch := scheduleOf(seed)
		s.opt.Logger = testLogger(t)
		if err := RunSchedule(s, sch); err != nil {
			t.Errorf("seed %d: %v\nrepeat: SIM_SEEDS=%d go test -run TestSchedules ./cachenode/internal/replication/replicationtest", seed, err, seed)
			continue
		}
		total.add(s.Count)
	}
	t.Logf("%d schedules: %+v", last-first+1, total)
}

// scheduleOf returns the cluster and the schedule of a seed: every size, kind of network and severity has its seeds.
func scheduleOf(seed uint64) (*Sim, Schedule) {
	opt := Options{Seed: seed, Nodes: []int{3, 3, 5, 3, 2, 7}[seed%6]}
	switch seed % 4 {
	case 1:
		opt.Loss, opt.Duplicate, opt.Reorder = 0.01, 0.02, 0.05
		if seed%8 == 5 { // late words of snapshot transfers
			opt.LogRetainEntries, opt.Reorder, opt.Duplicate = 8, 0.2, 0.1
		}
	case 2:
		opt.Delay, opt.Jitter = 20*time.Millisecond, 15*time.Millisecond
	case 3:
		opt.LogRetainEntries = 8
	}
	sch := Schedule{KeepMajority: seed%2 == 0}
	switch seed % 12 {
	case 0: // three nodes, and a copy that takes longer than an election
		opt.SnapshotWindow, opt.SnapshotChunk = 1, 16
		sch.Succession = true
	case 6:
		opt.SnapshotWindow = 1 // a copy takes as long as a few faults
	}
	opt.Batch = seed%5 == 4
	return New(opt), sch
}

package replicationtest

import (
	"slices"
	"testing"
	"testing/cryptotest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/replication"
)

// Every message of the seed's contract has a job, and these tests take the messages away one by one. A message that could
// vanish without loss would be decoration; one whose loss breaks an invariant would carry more than its job.

// seedMessages is what nodes say to each other. Health is only asked by clients.
var seedMessages = []string{
	"Ping", "Pong", "LeaderReq", "LeaderReqAck", "LeaderAck", "LeaderAckAck", "LeaderSwitch", "LeaderSwitchAck",
	"LeaderSwitchPriority", "LeaderDead", "LeaderInfo", "Replicate", "ReplicateAck",
}

// arena is a simulated cluster whose network eats one type of message.
type arena struct {
	*Sim
	t     *testing.T
	eat   string
	eaten int // messages
}

func newArena(t *testing.T, seed uint64, opt Options) *arena {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed)
	a := &arena{t: t}
	opt.Seed = seed
	opt.Eat = func(m proto.Message) bool {
		if a.eat == "" || MessageName(m) != a.eat {
			return false
		}
		a.eaten++
		return true
	}
	a.Sim = New(opt)
	return a
}

// formed starts all nodes and waits until the cluster has been healthy for a while.
func (a *arena) formed() {
	a.t.Helper()
	for slot := range a.nodes {
		a.Start(slot)
	}
	a.within(time.Second, "healthy", a.Healthy)
	a.run(300 * time.Millisecond)
}

// run lets time pass and fails the test if an invariant breaks.
func (a *arena) run(d time.Duration) {
	a.t.Helper()
	if err := a.Run(d); err != nil {
		a.t.Fatal(err)
	}
}

// within fails the test if cond does not hold after at most d, and returns how long it took.
func (a *arena) within(d time.Duration, what string, cond func() bool) time.Duration {
	a.t.Helper()
	at := a.now
	if err := a.RunUntil(d, what, cond); err != nil {
		a.t.Fatal(err)
	}
	return a.now - at
}

// never fails the test if cond holds at any time in the next d.
func (a *arena) never(d time.Duration, what string, cond func() bool) {
	a.t.Helper()
	for end := a.now + d; a.now < end; a.run(time.Millisecond) {
		if cond() {
			a.t.Fatalf("%s, at %v\n%s", what, a.now, a.Describe())
		}
	}
}

// elected returns the node that has won an election, whether or not it serves.
func (a *arena) elected() *Node {
	for _, n := range a.nodes {
		if n != nil && n.Core.Elected() {
			return n
		}
	}
	return nil
}

func (a *arena) leads() bool   { return a.Leader() != nil }
func (a *arena) someone() bool { return a.elected() != nil }

// followerSlot returns a slot that does not lead.
func (a *arena) followerSlot() int { return (a.Leader().slot + 1) % len(a.nodes) }

// sum adds up a counter of all nodes.
func (a *arena) sum(of func(replication.Stats) uint64) uint64 {
	n := uint64(0)
	for _, node := range a.nodes {
		if node != nil {
			n += of(node.Core.Stats())
		}
	}
	return n
}

func lastIndex(n *Node) uint64 { return n.Core.Health().GetPeer().GetStatus().GetLastIndex() }

// restartedStaysOut restarts a follower and asserts that it is not promoted while the message is eaten.
func (a *arena) restartedStaysOut() *Node {
	a.t.Helper()
	slot := a.followerSlot()
	a.Crash(slot)
	a.run(50 * time.Millisecond)
	a.Start(slot)
	a.never(2*time.Second, "the restarted node is a voter", func() bool { return a.nodes[slot].Core.Voter() })
	return a.nodes[slot]
}

// broken breaks the cable between the leader and one follower, with a reset.
func (a *arena) broken() {
	l, f := a.Leader().slot, a.followerSlot()
	a.Cut(l, f, true)
	a.Cut(f, l, true)
	for _, lane := range []replication.Lane{replication.LaneControl, replication.LaneData} {
		a.Break(l, f, lane)
		a.Break(f, l, lane)
	}
	a.run(time.Second)
}

// TestAblation proves for each seed message that what the design gives it to do stops when the network eats it, and that
// nothing else does: what it loses and keeps is told in the table.
func TestAblation(t *testing.T) {
	for _, tt := range []struct {
		eaten, loses, keeps string
		prove               func(a *arena)
	}{
		{
			"Ping", "no leadership lasts, since nobody hears a heartbeat; followers cannot prove how old their view is",
			"elections", func(a *arena) {
				changes := a.Count.LeaderChanges
				known := map[*Node]time.Duration{} // when it could last know more: by leading, or before
				for _, n := range a.nodes {
					known[n] = a.now
				}
				a.never(3*time.Second, "a follower is fresh", func() bool {
					for _, n := range a.nodes {
						if n.Core.Elected() {
							known[n] = a.now
						} else if n.Core.Ready() && a.now-known[n] > 550*time.Millisecond {
							return true
						}
					}
					return false
				})
				if n := a.Count.LeaderChanges - changes; n < 3 {
					a.t.Errorf("%d leaders in 3 s, want a new one whenever followers lose patience", n)
				}
			},
		},
		{
			"Pong", "a leader does not learn that it is followed: it refuses, then steps down by itself",
			"followers hear it and do not campaign before", func(a *arena) {
				l, term := a.Leader(), a.Leader().Core.Term()
				a.within(250*time.Millisecond, "the leader refuses", func() bool { return !l.Core.Leading() })
				a.within(200*time.Millisecond, "the leader steps down", func() bool { return !l.Core.Elected() })
				if a.someone() || l.Core.Term() != term {
					a.t.Errorf("deposed by an election, want by its own quorum check\n%s", a.Describe())
				}
			},
		},
		{
			"LeaderReq", "nobody is elected: nobody can ask for a vote",
			"everything while the leader lives", func(a *arena) {
				a.never(time.Second, "the leader is lost", func() bool { return !a.leads() })
				a.Crash(a.Leader().slot)
				a.never(3*time.Second, "somebody is elected", a.someone)
			},
		},
		{
			"LeaderReqAck", "nobody is elected: no grant arrives",
			"everything while the leader lives", func(a *arena) {
				a.never(time.Second, "the leader is lost", func() bool { return !a.leads() })
				a.Crash(a.Leader().slot)
				a.never(3*time.Second, "somebody is elected", a.someone)
			},
		},
		{
			"LeaderReqAck", "nobody is let in: the request to join is one",
			"the leader leads on", func(a *arena) {
				l := a.Leader()
				if n := a.restartedStaysOut(); n.Core.Cluster() != 0 || a.Leader() != l {
					a.t.Errorf("the restarted node is in a cluster, or the leader changed\n%s", a.Describe())
				}
			},
		},
		{
			"LeaderAck", "an elected leader does not serve: the others do not get its first entry",
			"elections", func(a *arena) {
				a.Crash(a.Leader().slot)
				a.within(time.Second, "somebody elected", a.someone)
				a.never(2*time.Second, "a leader serves", a.leads)
				for _, n := range a.nodes {
					if l := a.elected(); n != nil && l != nil && n != l && lastIndex(n) >= lastIndex(l) {
						a.t.Errorf("node %d has the new leader's entry\n%s", n.slot, a.Describe())
					}
				}
			},
		},
		{
			"LeaderAckAck", "an elected leader does not serve: it is not confirmed by a quorum",
			"elections; the others have its first entry and follow", func(a *arena) {
				a.Crash(a.Leader().slot)
				a.within(time.Second, "somebody elected", a.someone)
				a.never(2*time.Second, "a leader serves", a.leads)
				a.within(time.Second, "the follower has the leader's entry", func() bool {
					l := a.elected()
					return l != nil && slices.ContainsFunc(a.nodes, func(n *Node) bool { return n != nil && n != l && lastIndex(n) == lastIndex(l) })
				})
			},
		},
		{
			"LeaderSwitch", "no transfer",
			"the leader, which leads on after one election timeout", func(a *arena) {
				l, changes := a.Leader(), a.Count.LeaderChanges
				l.Step(func() { l.Core.Transfer(-1) })
				a.run(250 * time.Millisecond)
				if a.Leader() != l || l.Core.Transferring() || !l.Propose() || a.Count.LeaderChanges != changes {
					a.t.Errorf("want the same leader serving\n%s", a.Describe())
				}
			},
		},
		{
			"LeaderSwitchAck", "the old leader does not learn that the transfer arrived: a stopping node waits for as long as it may",
			"the transfer", func(a *arena) {
				l := a.Leader()
				l.Step(func() { l.Core.Transfer(-1) })
				a.within(20*time.Millisecond, "another leader", func() bool { return a.leads() && a.Leader() != l })
				a.run(time.Second)
				if n := l.Core.SwitchAcks(); n != 0 {
					a.t.Errorf("%d acks of the switch", n)
				}
			},
		},
		{
			"LeaderSwitchPriority", "nobody withdraws: a follower with a broken cable is not told that its leader lives",
			"the leader and its term: raft's own lease holds the grant back", func(a *arena) {
				l, term := a.Leader(), a.Leader().Core.Term()
				a.broken()
				if n := a.sum(func(s replication.Stats) uint64 { return s.Withdrawals }); n != 0 {
					a.t.Errorf("%d withdrawals", n)
				}
				if a.Leader() != l || l.Core.Term() != term {
					a.t.Errorf("the leader or its term changed\n%s", a.Describe())
				}
			},
		},
		{
			"LeaderDead", "survivors do not hear of each other's suspicion: they wait 15 ms for it, in vain",
			"the fast path: each has seen its own connections break", func(a *arena) {
				a.Crash(a.Leader().slot)
				took := a.within(100*time.Millisecond, "another leader", a.leads)
				if took < 15*time.Millisecond {
					a.t.Errorf("another leader after %v, before the wait for suspicions is over", took)
				}
			},
		},
		{
			"LeaderInfo", "nothing: the Ping that follows at once carries the same status",
			"failover, joining", func(a *arena) {
				slot := a.Leader().slot
				a.Crash(slot)
				a.within(50*time.Millisecond, "another leader", a.leads)
				a.Start(slot)
				a.within(time.Second, "healthy", a.Healthy)
			},
		},
		{
			"Replicate", "nothing is replicated after the leader's first entry",
			"the leader and its term", func(a *arena) {
				a.noCommit(func(l, f *Node) bool { return lastIndex(f) < lastIndex(l) })
			},
		},
		{
			"Replicate", "no change of the configuration: a restarted node is not let in",
			"its request", func(a *arena) {
				if n := a.restartedStaysOut(); n.Core.Cluster() != 0 {
					a.t.Errorf("the restarted node is in a cluster\n%s", a.Describe())
				}
			},
		},
		{
			"Replicate", "no snapshot: a learner stays one",
			"it hears its leader", func(a *arena) {
				a.eat = ""
				slot := a.followerSlot()
				a.Crash(slot)
				a.Start(slot)
				n := a.nodes[slot]
				a.within(time.Second, "a learner", func() bool { return n.Core.Cluster() != 0 })
				a.eat = "Replicate"
				a.never(2*time.Second, "the learner is a voter", func() bool { return n.Core.Voter() })
				if n.Core.Stats().SnapshotsTaken != 0 || n.Core.Leader() < 0 {
					a.t.Errorf("want a learner without a snapshot\n%s", a.Describe())
				}
			},
		},
		{
			"ReplicateAck", "nothing is committed after the leader's first entry",
			"the leader and its term; the entries are everywhere", func(a *arena) {
				a.noCommit(func(l, f *Node) bool { return lastIndex(f) == lastIndex(l) })
			},
		},
	} {
		t.Run(tt.eaten, func(t *testing.T) {
			t.Logf("loses: %s\nkeeps: %s", tt.loses, tt.keeps)
			a := newArena(t, 1, Options{})
			a.formed()
			a.eat = tt.eaten
			tt.prove(a)
			if a.eaten == 0 {
				t.Error("nothing was eaten")
			}
			// With the message back, everything is well again.
			a.eat = ""
			a.Heal()
			for slot := range a.nodes {
				a.Start(slot)
			}
			a.within(HealWithin, "healthy after it", a.Healthy)
			if err := a.checkLost(); err != nil {
				t.Error(err)
			}
			if a.Count.Clusters > 1 {
				t.Errorf("%d clusters, want the first", a.Count.Clusters)
			}
		})
	}
}

// TestAblationBaseline proves that what TestAblation finds missing is there while nothing is eaten.
func TestAblationBaseline(t *testing.T) {
	t.Run("a follower with a broken cable withdraws", func(t *testing.T) {
		a := newArena(t, 1, Options{})
		a.formed()
		a.broken()
		if n := a.sum(func(s replication.Stats) uint64 { return s.Withdrawals }); n == 0 {
			t.Error("no withdrawal")
		}
	})
	t.Run("suspicions meet", func(t *testing.T) {
		a := newArena(t, 1, Options{})
		a.formed()
		a.Crash(a.Leader().slot)
		if took := a.within(100*time.Millisecond, "another leader", a.leads); took >= 15*time.Millisecond {
			t.Errorf("another leader after %v, want before the wait for suspicions is over", took)
		}
	})
	t.Run("a switch is acknowledged", func(t *testing.T) {
		a := newArena(t, 1, Options{})
		a.formed()
		l := a.Leader()
		l.Step(func() { l.Core.Transfer(-1) })
		a.within(20*time.Millisecond, "both acks", func() bool { return l.Core.SwitchAcks() == 2 })
	})
	t.Run("leaders last, followers are fresh", func(t *testing.T) {
		a := newArena(t, 1, Options{})
		a.formed()
		changes := a.Count.LeaderChanges
		a.never(3*time.Second, "unhealthy", func() bool { return !a.Healthy() })
		if a.Count.LeaderChanges != changes {
			t.Errorf("%d changes of leader", a.Count.LeaderChanges-changes)
		}
	})
	t.Run("restarted nodes are promoted", func(t *testing.T) {
		a := newArena(t, 1, Options{})
		a.formed()
		slot := a.followerSlot()
		a.Crash(slot)
		a.run(50 * time.Millisecond)
		a.Start(slot)
		a.within(time.Second, "promoted", a.Healthy)
	})
}

// noCommit writes, and asserts that nothing is acknowledged while the leader leads on.
func (a *arena) noCommit(logs func(leader, follower *Node) bool) {
	a.t.Helper()
	l, term, acks := a.Leader(), a.Leader().Core.Term(), a.Count.Acks
	for range 10 {
		l.Propose()
	}
	a.never(time.Second, "something is acknowledged", func() bool { return a.Count.Acks != acks })
	if a.Leader() != l || l.Core.Term() != term {
		a.t.Errorf("the leader or its term changed\n%s", a.Describe())
	}
	for _, f := range a.nodes {
		if f != l && !logs(l, f) {
			a.t.Errorf("node %d ends at %d, the leader at %d", f.slot, lastIndex(f), lastIndex(l))
		}
	}
}

// TestAblationOfForming proves what a cold start needs: to ask for votes, to grant them, to lead and to be confirmed; and
// that it does not need the rest.
func TestAblationOfForming(t *testing.T) {
	needed := map[string]bool{"LeaderReq": true, "LeaderReqAck": true, "LeaderAck": true, "LeaderAckAck": true}
	for _, name := range seedMessages {
		t.Run(name, func(t *testing.T) {
			a := newArena(t, 1, Options{})
			a.eat = name
			for slot := range a.nodes {
				a.Start(slot)
			}
			if !needed[name] {
				a.within(300*time.Millisecond, "a leader serves", a.leads)
				return
			}
			a.never(3*time.Second, "a leader serves", a.leads)
			if name == "LeaderReq" {
				if n := a.sum(func(s replication.Stats) uint64 { return s.Abandons }); n == 0 {
					t.Error("nobody gave up a cluster that never had a leader (G1)")
				}
			}
			a.eat = ""
			a.within(HealWithin, "healthy with the message back", a.Healthy)
		})
	}
}

// TestAblationIsSafe proves that no message carries safety: under random faults, with one type of message eaten, no
// invariant breaks, and when it is back the cluster heals without having lost anything.
func TestAblationIsSafe(t *testing.T) {
	for i, name := range seedMessages {
		t.Run(name, func(t *testing.T) {
			eaten := 0
			for seed := range uint64(ablationSeeds) {
				a := newArena(t, uint64(i)*20+seed+1, Options{Nodes: 3 + 2*int(seed%2), LogRetainEntries: 8})
				over := a.now + 4*time.Second // about when the faults end
				var flip func()
				flip = func() { // on and off, so that the loss hits every state
					if a.eat = name; a.now >= over {
						a.eat = ""
						return
					}
					a.At(time.Duration(a.rng.ExpFloat64()*float64(500*time.Millisecond)), func() {
						a.eat = ""
						a.At(time.Duration(a.rng.ExpFloat64()*float64(500*time.Millisecond)), flip)
					})
				}
				a.At(2*time.Second, flip)
				// Before that, the two events that send the rarer messages, in any case with the message eaten.
				for i := range 8 {
					a.At(time.Duration(500+100*i)*time.Millisecond, func() {
						a.eat = name
						if l := a.Leader(); l != nil {
							l.Step(func() { l.Core.Transfer(-1) })
						}
					})
				}
				var crash func()
				crash = func() {
					l := a.Leader()
					if l == nil || a.Failed() > 0 || a.swapping() {
						a.At(10*time.Millisecond, crash) // when there is a leader to crash and it may be
						return
					}
					if a.now < over {
						a.eat = name // flip puts it back
					}
					a.Crash(l.slot)
					a.At(300*time.Millisecond, func() { a.Start(l.slot) })
				}
				a.At(1400*time.Millisecond, crash)
				if err := RunSchedule(a.Sim, Schedule{KeepMajority: true, Length: 4 * time.Second}); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
				eaten += a.eaten
			}
			if eaten == 0 {
				t.Error("nothing was eaten")
			}
		})
	}
}

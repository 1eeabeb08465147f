package replicationtest

import (
	"fmt"
	"time"

	"github.com/hacache/hacache/cachenode/internal/replication"
)

// Schedule describes a random history of faults.
type Schedule struct {
	Length       time.Duration // of the faults; healing and the final checks come after it. Default 10 s
	KeepMajority bool          // never let a majority of slots fail at once: then no acknowledged write may be lost, and the cluster never changes
	Pace         time.Duration // mean time between two faults. Default 150 ms; negative means no faults
	Succession   bool          // after healing, the leader dies as soon as a restarted follower counts as a voter; see succession
	Writes       time.Duration // time between two calls of Write. Default 4 ms
	Write        func()        // puts load on; nil proposes through the leader of toy registers
	Check        func() error  // after healing, when all nodes have applied the same; nil looks for lost operations of toy registers
}

// HealWithin is how long a cluster may take to be healthy again once every node runs and every packet flows. Giving up a
// cluster without a majority takes a second of being leaderless, forming the next one up to a second, joining less.
const HealWithin = 5 * time.Second

// RunSchedule starts all nodes, lets faults happen for a while, heals everything and checks what is left.
func RunSchedule(s *Sim, sch Schedule) error {
	if sch.Length == 0 {
		sch.Length = 10 * time.Second
	}
	if sch.Pace == 0 {
		sch.Pace = 150 * time.Millisecond
	}
	if sch.Writes == 0 {
		sch.Writes = 4 * time.Millisecond
	}
	if sch.Write == nil {
		sch.Write = func() {
			if l := s.Leader(); l != nil {
				l.Propose()
			}
		}
	}
	if sch.Check == nil {
		sch.Check = s.checkLost
	}
	for slot := range s.nodes {
		s.At(time.Duration(s.rng.IntN(100))*time.Millisecond, func() { s.Start(slot) })
	}
	if err := s.RunUntil(HealWithin, "healthy at the start", s.Healthy); err != nil {
		return err
	}
	end := s.now + sch.Length
	var write func()
	write = func() {
		if s.now < end {
			sch.Write()
			s.At(sch.Writes, write)
		}
	}
	write()
	if sch.Pace < 0 {
		if err := s.Run(sch.Length); err != nil {
			return err
		}
	}
	for s.now < end {
		s.fault(sch)
		if err := s.Run(time.Duration(s.rng.ExpFloat64() * float64(sch.Pace))); err != nil {
			return err
		}
	}
	s.Heal()
	clear(s.slow)
	for slot := range s.nodes {
		s.Start(slot)
	}
	if err := s.RunUntil(HealWithin, "healthy after healing", s.Healthy); err != nil {
		return err
	}
	if sch.Succession {
		if err := s.succession(); err != nil {
			return err
		}
	}
	if err := s.RunUntil(time.Second, "everything applied", s.level); err != nil {
		return err
	}
	if err := sch.Check(); err != nil {
		return fmt.Errorf("%w\n%s", err, s.Describe())
	}
	if sch.KeepMajority && s.Count.Clusters > 1 {
		return fmt.Errorf("the cluster was reset although a majority was always alive\n%s", s.Describe())
	}
	return nil
}

// SucceedWithin is how long a cluster may be without a leader that serves after a single failure, on a network that
// works: twice the election timeout, and what an election takes.
const SucceedWithin = 600 * time.Millisecond

// succession restarts a follower and kills the leader in the moment in which the follower's new incarnation counts as a
// voter. That is one failure at a time, so a majority of complete copies is left and somebody else must serve soon. Were
// voters counted before they have caught up, the survivor would have to copy everything to the newcomer first: joint
// consensus keeps every acknowledged entry on a majority of the voters whatever they promise, so the price of an early
// promotion is not data but the cluster's tolerance of the next failure.
func (s *Sim) succession() error {
	calm := func() bool { return s.Healthy() && !s.swapping() }
	if err := s.RunUntil(time.Second, "no swap under way", calm); err != nil {
		return err
	}
	leader := s.Leader()
	slot := (leader.slot + 1) % len(s.nodes)
	s.Crash(slot)
	s.Start(slot)
	counts := func() bool { return s.Leader() == leader && s.Failed() == 0 && !s.swapping() }
	if err := s.RunUntil(HealWithin, "the restarted follower is a voter", counts); err != nil {
		return err
	}
	s.Crash(leader.slot)
	if err := s.RunUntil(SucceedWithin, "a leader after one failure", func() bool { return s.Leader() != nil }); err != nil {
		return err
	}
	s.Start(leader.slot)
	return s.RunUntil(HealWithin, "healthy after the succession", s.Healthy)
}

func (s *Sim) checkLost() error {
	for slot, n := range s.nodes {
		if lost := s.Lost(n); len(lost) > 0 {
			return fmt.Errorf("node %d lost %d acknowledged operations, the first is %d (I5)", slot, len(lost), lost[0])
		}
	}
	return nil
}

// swapping reports whether some node is, as far as it knows, in the middle of a swap. Then the old half still counts a
// dead incarnation, so one more failure may be a majority's.
func (s *Sim) swapping() bool {
	for _, n := range s.nodes {
		if n != nil && n.Core.Joint() {
			return true
		}
	}
	return false
}

// level reports whether all nodes have applied the same.
func (s *Sim) level() bool {
	for _, n := range s.nodes {
		if n.Core.Applied() != s.nodes[0].Core.Applied() {
			return false
		}
	}
	return true
}

// fault lets one thing happen.
func (s *Sim) fault(sch Schedule) {
	n := len(s.nodes)
	slot := s.rng.IntN(n)
	minority := (n - 1) / 2
	mayFail := !sch.KeepMajority || (s.Failed() < minority && !s.swapping())
	switch s.rng.IntN(13) {
	case 0, 1, 2: // crash one, restart it later
		if mayFail && s.nodes[slot] != nil {
			s.Crash(slot)
			s.At(time.Duration(s.rng.ExpFloat64()*float64(300*time.Millisecond)), func() { s.Start(slot) })
		}
	case 3: // crash the leader
		if l := s.Leader(); l != nil && mayFail {
			s.Crash(l.slot)
			s.At(time.Duration(s.rng.ExpFloat64()*float64(time.Second)), func() { s.Start(l.slot) })
		}
	case 4: // isolate one
		s.Isolate(slot, true)
		s.At(time.Duration(s.rng.ExpFloat64()*float64(500*time.Millisecond)), func() { s.Isolate(slot, false) })
	case 5: // one direction of one pair
		to := s.rng.IntN(n)
		s.Cut(slot, to, true)
		s.At(time.Duration(s.rng.ExpFloat64()*float64(time.Second)), func() { s.Cut(slot, to, false) })
	case 6, 7: // reset a connection
		s.Break(slot, s.rng.IntN(n), replication.Lane(s.rng.IntN(2)))
	case 8: // a slow node
		s.slow[slot] = time.Duration(s.rng.IntN(30)) * time.Millisecond
		s.At(time.Duration(s.rng.ExpFloat64()*float64(time.Second)), func() { delete(s.slow, slot) })
	case 9: // a node that does not run for a while
		s.Pause(slot, time.Duration(s.rng.ExpFloat64()*float64(300*time.Millisecond)))
	case 10: // operator
		if l := s.Leader(); l != nil {
			l.step(func() { l.Core.Transfer(-1) })
		}
	case 11: // two groups that cannot see each other
		group := uint(s.rng.IntN(1 << n))
		s.Split(group, true)
		s.At(time.Duration(s.rng.ExpFloat64()*float64(time.Second)), func() { s.Split(group, false) })
	case 12: // everything at once
		if !sch.KeepMajority && s.rng.IntN(4) == 0 {
			for other := range s.nodes {
				if s.rng.IntN(4) > 0 {
					s.Crash(other)
					s.At(time.Duration(s.rng.IntN(400))*time.Millisecond, func() { s.Start(other) })
				}
			}
		}
	}
}

func (c *Counts) add(o Counts) {
	c.Steps += o.Steps
	c.Messages += o.Messages
	c.Dropped += o.Dropped
	c.Crashes += o.Crashes
	c.Acks += o.Acks
	c.Refused += o.Refused
	c.LeaderChanges += o.LeaderChanges
	c.Abandons += o.Abandons
	c.Snapshots += o.Snapshots
	c.Clusters += o.Clusters
}

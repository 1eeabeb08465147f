package replicationtest

import (
	"errors"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/hacache/hacache/cachenode/internal/replication"
)

// growing is a simulated cluster of three hosts, and two more that wait to be let in.
type growing struct {
	*Sim
	t    *testing.T
	seed uint64
}

func newGrowing(t *testing.T, seed uint64) *growing {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed)
	g := &growing{Sim: New(Options{Seed: seed, Nodes: 3, Spare: 2, Logger: testLogger(t)}), t: t, seed: seed}
	for slot := range 5 {
		g.Start(slot)
	}
	g.until(time.Second, "healthy", g.Healthy)
	g.write()
	return g
}

// write proposes something every 2 ms, wherever somebody leads.
func (g *growing) write() {
	for slot := range g.Hosts() {
		if n := g.Node(slot); n != nil && n.Core.Leading() {
			n.Propose()
		}
	}
	g.At(2*time.Millisecond, g.write)
}

func (g *growing) until(d time.Duration, what string, cond func() bool) {
	g.t.Helper()
	if err := g.RunUntil(d, what, cond); err != nil {
		g.t.Fatalf("seed %d: %v", g.seed, err)
	}
}

// list names the hosts of slots, sorted.
func (g *growing) list(slots ...int) []string {
	var list []string
	for _, slot := range slots {
		list = append(list, g.Hosts()[slot])
	}
	slices.Sort(list)
	return list
}

// restart starts the hosts of slots again, one at a time, with a list.
func (g *growing) restart(list []string, slots ...int) {
	g.t.Helper()
	for _, slot := range slots {
		g.Crash(slot)
		g.StartWith(slot, list, false)
		g.until(3*time.Second, "healthy after a restart", g.Healthy)
	}
}

// stop stops a host and lets the others notice.
func (g *growing) stop(slot int) {
	g.Crash(slot)
	g.Run(500 * time.Millisecond)
}

// ask asks the leader for a new list once.
func (g *growing) ask(list []string, vouched bool) error {
	var err error
	l := g.Leader()
	l.Step(func() { err = l.Core.SetMembers(list, vouched) })
	return err
}

// set changes the list and asks again if the leader changed meanwhile.
func (g *growing) set(list []string, vouched bool) {
	g.t.Helper()
	done := func() bool {
		l := g.Leader()
		if l == nil {
			return false
		}
		if !slices.Equal(l.Core.Members(), list) && l.Core.MembersPending() == nil {
			if err := g.ask(list, vouched); err != nil {
				g.t.Fatalf("seed %d: %v", g.seed, err)
			}
		}
		return slices.Equal(l.Core.Members(), list) && l.Core.MembersPending() == nil && g.Healthy()
	}
	g.until(5*time.Second, "the new list", done)
}

// TestChangeHosts proves that the list of hosts can be changed under writes, growing, shrinking and replacing a host,
// without a refused proposal and without losing anything; that a node with an old configuration still finds its way; and
// that those who left become empty and do not come back.
func TestChangeHosts(t *testing.T) {
	for seed := range uint64(20) {
		g := newGrowing(t, seed)
		all := g.list(0, 1, 2, 3, 4)
		g.restart(all, 0, 1, 2)
		refused := g.Count.Refused
		g.set(all, false)
		if g.Count.Refused != refused {
			t.Errorf("seed %d: %d proposals refused while growing", seed, g.Count.Refused-refused)
		}
		// A node that restarts with the old list is let in, although its configuration knows nothing of two hosts.
		g.restart(g.list(0, 1, 2), 1)

		// Shrinking: of those that leave, one runs.
		g.stop(1)
		g.set(g.list(0, 2, 4), false)
		g.StartWith(1, g.list(0, 1, 2), false)
		for _, slot := range []int{1, 3} {
			g.until(3*time.Second, "who left is empty", func() bool { return g.Node(slot).Core.Cluster() == 0 })
		}
		g.Crash(1)

		// A replacement.
		three := g.list(0, 2, 3)
		g.restart(three, 0, 2)
		g.set(three, false)
		g.Run(time.Second)
		if g.Count.Clusters != 1 {
			t.Errorf("seed %d: %d clusters", seed, g.Count.Clusters)
		}
		for _, slot := range []int{0, 2, 3} {
			if lost := g.Lost(g.Node(slot)); len(lost) > 1 { // the newest may be on its way
				t.Errorf("seed %d: node %d lost %d operations", seed, slot, len(lost))
			}
		}
	}
}

// TestStaleHosts proves the danger that the leader's question guards against, and the guard. Three hosts grow to five,
// then two of the old ones restart and are cut off from the other three, which go on: as many failures as five hosts bear.
// Started with the list of three, the two are a majority of it and make a second cluster; the leader refuses to grow
// before the old hosts were started with the new list, and after that it cannot happen.
func TestStaleHosts(t *testing.T) {
	fail := func(g *growing, with []string) (clusters int) {
		g.Split(1<<0|1<<1, true)
		for _, slot := range []int{0, 1} {
			g.Crash(slot)
			g.StartWith(slot, with, false)
		}
		err := g.Run(3 * time.Second)
		for _, slot := range []int{2, 3, 4} {
			if n := g.Node(slot); err == nil && n.Core.LeaderID() == 0 {
				t.Fatalf("seed %d: three of five do not go on", g.seed)
			}
		}
		return g.Count.Clusters
	}
	for seed := range uint64(5) {
		g := newGrowing(t, seed)
		three, five := g.list(0, 1, 2), g.list(0, 1, 2, 3, 4)
		if _, stale := errors.AsType[*replication.StaleHostsError](g.ask(five, false)); !stale {
			t.Fatalf("seed %d: the list grows although all old hosts would come back with the old one", seed)
		}
		g.set(five, true)
		if n := fail(g, three); n != 2 {
			t.Errorf("seed %d: %d clusters; expected that without the guard there are two", seed, n)
		}

		g = newGrowing(t, seed)
		g.restart(five, 0, 1) // a single one with the old list is no majority of it
		g.set(five, false)
		if n := fail(g, five); n != 1 {
			t.Errorf("seed %d: %d clusters", seed, n)
		}
	}
}

// TestCheckStarted tells, for lists and what processes were started with, which changes a leader makes.
func TestCheckStarted(t *testing.T) {
	const seed = 1
	grown := func() *growing {
		g := newGrowing(t, seed)
		five := g.list(0, 1, 2, 3, 4)
		g.restart(five, 0, 1, 2)
		g.set(five, false)
		return g
	}
	for _, c := range []struct {
		name string
		g    func() *growing
		set  []int
		ok   bool
	}{
		{"growing, two of three with the old list", func() *growing {
			g := newGrowing(t, seed)
			g.restart(g.list(0, 1, 2, 3, 4), 0)
			return g
		}, []int{0, 1, 2, 3, 4}, false},
		{"growing, one of three with the old list", func() *growing {
			g := newGrowing(t, seed)
			g.restart(g.list(0, 1, 2, 3, 4), 0, 2)
			return g
		}, []int{0, 1, 2, 3, 4}, true},
		{"growing, new hosts that would form a cluster of the new list", func() *growing {
			g := newGrowing(t, seed)
			five := g.list(0, 1, 2, 3, 4)
			g.restart(five, 0, 1, 2)
			for _, slot := range []int{3, 4} {
				g.Crash(slot)
				g.StartWith(slot, five, false)
			}
			g.until(time.Second, "seen", g.Healthy)
			g.Run(500 * time.Millisecond)
			return g
		}, []int{0, 1, 2, 3, 4}, false},
		{"growing, a host with a third list", func() *growing {
			g := newGrowing(t, seed)
			g.restart(g.list(0, 1, 2, 3, 4), 0, 1)
			g.restart(g.list(0, 1, 2, 3), 2)
			return g
		}, []int{0, 1, 2, 3, 4}, false},
		{"shrinking to hosts that were started with the list of five, two leave and only join", grown, []int{0, 1, 2}, true},
		{"shrinking, two that would form leave", grown, []int{0, 3, 4}, false},
		{"shrinking, one of them is stopped", func() *growing {
			g := grown()
			g.stop(1)
			return g
		}, []int{0, 3, 4}, true},
		{"shrinking, the new list is written too early", func() *growing {
			g := grown()
			g.restart(g.list(0, 1, 2), 0, 1)
			return g
		}, []int{0, 1, 2}, false},
		{"replacing a dead host, the others with the old list", func() *growing {
			g := newGrowing(t, seed)
			g.stop(2)
			return g
		}, []int{0, 1, 3}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := c.g()
			err := g.ask(g.list(c.set...), false)
			if _, stale := errors.AsType[*replication.StaleHostsError](err); c.ok && err != nil || !c.ok && !stale {
				t.Errorf("got %v, want allowed: %v", err, c.ok)
			}
		})
	}
}

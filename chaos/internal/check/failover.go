package check

import (
	"cmp"
	"slices"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// failovers breaks each change of leader into its parts and checks that the
// faults that take the leader away were followed by one. The parts come from
// the observer's polls, the first acknowledged write and the gaps from the
// probes: nothing here is known better than their intervals.
func (v *Verdicts) failovers(in *Input, windows []result.Window) {
	oks := probeOKs(in.History)
	levels := make([]string, 0, len(oks))
	for _, level := range exposed {
		if len(oks[level]) > 0 {
			levels = append(levels, level)
		}
	}
	for _, level := range levels {
		v.Outages = append(v.Outages, longest(in, windows, level, oks[level]))
	}
	slices.SortStableFunc(v.Outages, func(a, b result.Outage) int { return cmp.Compare(b.To-b.From, a.To-a.From) })

	c := result.Check{Name: "failover", Verdict: result.NotExercised, Detail: "no fault took the leader away"}
	for i, w := range windows {
		p := slices.IndexFunc(in.Planned, func(p Planned) bool { return p.Name == w.Fault })
		if p < 0 || !in.Planned[p].OnLeader {
			continue
		}
		until := in.end()
		if i+1 < len(windows) {
			until = windows[i+1].From
		}
		f := breakdown(in, w, until)
		for _, level := range levels {
			r := result.Recovery{Level: level}
			if g, ok := gapAt(oks[level], w.From, min(w.To, until)); ok {
				r.Gap = g.to - g.from
			}
			// The first ok is the one that ends the gap of the failover
			// itself, not of something later in the fault's time.
			if g, ok := gapAt(oks[level], w.From, w.From+cmp.Or(f.Agreed, f.Elected, min(w.To, until)-w.From)); ok {
				r.FirstOK = g.to - w.From
			}
			f.Levels = append(f.Levels, r)
		}
		v.Failovers = append(v.Failovers, f)
		c.Checked++
		if f.NewLeader == "" && w.Action != "leader-switch" && w.To-w.From > settleWithin {
			c.Count++
			c.Examples = append(c.Examples, w.Fault+": no other node was seen to lead while "+f.OldLeader+" was away")
		}
	}
	switch {
	case c.Count > 0:
		c.Verdict, c.Detail = result.Violated, c.Examples[0]
	case c.Checked > 0:
		c.Verdict, c.Detail = result.Pass, "after every fault that took the leader away another node led"
	}
	v.add(c)
}

// settleWithin is how long a fault on the leader has to last before a new
// leader must be seen: a shorter one may end before the others have noticed.
const settleWithin = 2 * time.Second

// breakdown finds the parts of one failover among the observations between the
// injection and until.
func breakdown(in *Input, w result.Window, until time.Duration) result.Failover {
	f := result.Failover{Fault: w.Fault, Inject: w.From, Resolution: in.ProbeInterval}
	role := map[string]result.Event{} // the newest observation of each node
	for _, e := range in.Events {
		if e.Kind == result.Observe && e.T <= w.From {
			role[e.Node] = e
		}
	}
	term := uint64(0)
	for _, e := range role {
		if e.Role == result.RoleLeader && e.Term >= term {
			f.OldLeader, term = e.Node, e.Term
		}
	}
	if f.OldLeader == "" && len(w.Targets) == 1 {
		f.OldLeader = w.Targets[0]
	}
	since := func(e result.Event) time.Duration { return max(e.T-w.From, 1) }
	for _, e := range in.Events {
		if e.Kind != result.Observe || e.T <= w.From || e.T > until {
			continue
		}
		role[e.Node] = e
		if e.Node == f.OldLeader && e.Term <= term {
			continue
		}
		moved := e.Role != result.RoleFollower || e.Term > term || e.Leader != f.OldLeader
		if f.Suspect == 0 && moved {
			f.Suspect = since(e)
		}
		if f.Candidate == 0 && (e.Role == result.RoleRequested || e.Role == result.RoleLeader && e.Term > term) {
			f.Candidate = since(e)
		}
		if f.Elected == 0 && e.Role == result.RoleLeader && e.Term > term {
			f.Elected, f.NewLeader, f.Term = since(e), e.Node, e.Term
		}
		if f.Elected != 0 && f.Agreed == 0 && agreed(in.Nodes, role, &f, w) {
			f.Agreed = since(e)
		}
	}
	return f
}

// agreed reports whether every node out of the fault's reach follows the new
// leader.
func agreed(nodes []string, role map[string]result.Event, f *result.Failover, w result.Window) bool {
	for _, n := range nodes {
		if n == f.NewLeader || slices.Contains(w.Targets, n) && n != f.NewLeader {
			continue
		}
		if e := role[n]; e.Role != result.RoleFollower || e.Leader != f.NewLeader || e.Term < f.Term {
			return false
		}
	}
	return true
}

// probeOKs returns, for each level, when its probes were acknowledged, in
// order.
func probeOKs(h *history.History) map[string][]time.Duration {
	oks := map[string][]time.Duration{}
	for i := range h.Ops {
		if o := &h.Ops[i]; o.Phase == history.Probe && o.Outcome == history.OK {
			oks[o.Level] = append(oks[o.Level], o.Return)
		}
	}
	for _, ts := range oks {
		slices.Sort(ts)
	}
	return oks
}

type gap struct{ from, to time.Duration }

// gapAt returns the longest time between two oks that overlaps the fault.
// There is none if no ok came before or after.
func gapAt(oks []time.Duration, from, to time.Duration) (gap, bool) {
	var longest gap
	i, _ := slices.BinarySearch(oks, from)
	for i = max(i, 1); i < len(oks) && oks[i-1] <= to; i++ {
		if g := (gap{oks[i-1], oks[i]}); g.to-g.from > longest.to-longest.from {
			longest = g
		}
	}
	return longest, longest.to > longest.from
}

// longest returns the longest time without an ok of a level during the load.
func longest(in *Input, windows []result.Window, level string, oks []time.Duration) result.Outage {
	out := result.Outage{Level: level}
	prev := in.Facts.LoadFrom
	for _, t := range append(slices.Clone(oks), in.Facts.LoadTo) {
		if t < in.Facts.LoadFrom || t > in.Facts.LoadTo {
			continue
		}
		if t-prev > out.To-out.From {
			out.From, out.To = prev, t
		}
		prev = t
	}
	for _, w := range windows {
		if w.From <= out.To && out.From <= w.To {
			out.Fault = w.Fault
		}
	}
	return out
}

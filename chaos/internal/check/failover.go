package check

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// failovers breaks each change of leader into its parts and checks that the
// faults that take the leader away were followed by one. The parts come from
// the observer's polls, the first acknowledged write and the gaps from the
// probes: nothing here is known better than their intervals.
//
// Only what the other nodes answered counts: a client of a dead node has to
// find another one, which says nothing about how soon that one could serve it.
func (v *Verdicts) failovers(in *Input, windows []result.Window, m *machine) {
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

	endless := map[string][]probeOK{} // a gap that no ok ended lasts as long as the load
	for _, level := range levels {
		endless[level] = endAt(oks[level], in.Facts.LoadTo)
	}
	onLeader := map[string]bool{}
	for _, p := range in.Planned {
		onLeader[p.Name] = p.OnLeader
	}
	end := in.end()
	before := map[string][]time.Duration{} // gaps right before the injections
	var died []time.Duration               // how long killed processes took to end
	var excused []string                   // what the machine left no time for
	c := result.Check{Name: "failover", Verdict: result.NotExercised, Detail: "no fault took the leader away"}
	for i, w := range windows {
		if !onLeader[w.Fault] {
			continue
		}
		// Until the next one of its kind, or the first one after its heal: a milder
		// fault beside it, such as a nemesis adds, may begin before anybody has been
		// elected.
		until := end
		if next := slices.IndexFunc(windows[i+1:], func(x result.Window) bool { return onLeader[x.Fault] || x.From >= w.To }); next >= 0 {
			until = windows[i+1+next].From
		}
		f := breakdown(in, w, until)
		if d, ok := endOf(in.Events, w); ok && w.Action == "kill" {
			died = append(died, d)
		}
		for _, level := range levels {
			r := result.Recovery{Level: level}
			if g, ok := gapAt(endless[level], w.Targets, w.From, min(max(w.To, w.From+f.Agreed), until)); ok {
				r.Gap = g.to - g.from
			}
			// The first ok is the one that ends the gap of the failover
			// itself, not of something later in the fault's time.
			if g, ok := gapAt(endless[level], w.Targets, w.From, w.From+cmp.Or(f.Agreed, f.Elected, min(w.To, until)-w.From)); ok && g.to < in.Facts.LoadTo {
				r.FirstOK = max(g.to-w.From, 1)
			}
			if g, ok := gapAt(oks[level], w.Targets, w.From-controlTime, w.From-controlTime/10); ok {
				before[level] = append(before[level], g.to-g.from)
			}
			f.Levels = append(f.Levels, r)
		}
		v.Failovers = append(v.Failovers, f)
		if f.NewLeader == "" && w.To-w.From <= settleWithin {
			continue // it may have ended before the others noticed
		}
		c.Checked++
		if f.Elected == 0 || f.Elected > w.To-w.From {
			// One that was elected after the heal is none that made up for it.
			if w.Action == "leader-switch" || w.To-w.From <= settleWithin {
				continue
			}
			say := w.Fault + ": no other node was seen to lead while " + f.OldLeader + " was away"
			if f.Elected > 0 {
				say += fmt.Sprintf(", only %s, %v after it had gone", f.NewLeader, f.Elected.Round(time.Millisecond))
			}
			hit := hitDuring(in, windows, w)
			if why := m.excuse(w.From, w.To, m.others(func(n string) bool { return hit[n] }), m.majority()); why != "" {
				excused = append(excused, say+": "+why)
				continue
			}
			c.Examples = append(c.Examples, say)
		}
	}
	switch c.Count = int64(len(c.Examples)); {
	case c.Count > 0:
		c.Verdict, c.Detail = result.Violated, c.Examples[0]
		c.Examples = append(c.Examples, excused...)
	case len(excused) > 0:
		c.Verdict, c.Count, c.Detail, c.Examples = result.Unknown, int64(len(excused)), excused[0], excused
	case c.Checked > 0:
		c.Verdict, c.Detail = result.Pass, "after every fault that took the leader away another node led"
		for _, g := range Gaps(v.Failovers) {
			c.Detail += fmt.Sprintf("; gap at %s: %s", g.Level, g)
			if b := distributionOf(before[g.Level]); b.N > 0 {
				c.Detail += fmt.Sprintf(", without a fault: %s", b)
			}
		}
	}
	// A process that is killed needs a processor to die, and keeps its
	// connections until then: on a busy machine that is no part of the nodes.
	if d := distributionOf(died); d.N > 0 && c.Verdict == result.Pass {
		c.Detail += fmt.Sprintf("; the killed processes took to end: %s", d)
	}
	v.add(c)
}

// endOf returns how long after the injection the last of the processes that it
// ended was gone.
func endOf(events []result.Event, w result.Window) (d time.Duration, ok bool) {
	for _, e := range events {
		if e.Kind == result.Process && e.State == result.ProcessExited && slices.Contains(w.Targets, e.Node) && w.From <= e.T && e.T <= w.To {
			d, ok = max(d, e.T-w.From), true
		}
	}
	return d, ok
}

// controlTime is how long before an injection the same gaps are measured
// without a fault: the part of a gap that the machine, the probes and a calm
// cluster make.
const controlTime = time.Second

// Distribution is what several durations have in common. A percentile is the
// smallest of them that so many are not above.
//
// Its String is one duration if there is only one.
type Distribution struct {
	N                     int
	Min, Median, P90, Max time.Duration
}

func (d Distribution) String() string {
	r := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
	if d.N == 1 {
		return r(d.Min).String()
	}
	return fmt.Sprintf("n %d, min %v, median %v, p90 %v, max %v", d.N, r(d.Min), r(d.Median), r(d.P90), r(d.Max))
}

func distributionOf(ds []time.Duration) Distribution {
	n := len(ds)
	if n == 0 {
		return Distribution{}
	}
	slices.Sort(ds)
	at := func(q float64) time.Duration { return ds[max(0, int(math.Ceil(float64(n)*q))-1)] }
	return Distribution{N: n, Min: ds[0], Median: at(0.5), P90: at(0.9), Max: ds[n-1]}
}

// GapsOf is the distribution of one level's gaps.
type GapsOf struct {
	Level string
	Distribution
}

// Gaps returns the distribution of the gaps of several failovers for each level
// that has any.
func Gaps(fs []result.Failover) []GapsOf {
	var out []GapsOf
	for _, level := range exposed {
		ds := Distribute(fs, func(f *result.Failover) time.Duration {
			for _, l := range f.Levels {
				if l.Level == level {
					return l.Gap
				}
			}
			return 0
		})
		if ds.N > 0 {
			out = append(out, GapsOf{level, ds})
		}
	}
	return out
}

// Distribute returns the distribution of one part of several failovers; those
// in which it was not observed are left out.
func Distribute(fs []result.Failover, of func(*result.Failover) time.Duration) Distribution {
	var ds []time.Duration
	for i := range fs {
		if d := of(&fs[i]); d > 0 {
			ds = append(ds, d)
		}
	}
	return distributionOf(ds)
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

// probeOK is an acknowledged probe.
type probeOK struct {
	at   time.Duration
	node string // whose stream carried it
}

// probeOKs returns, for each level, when its probes were acknowledged and by
// which node, in order.
func probeOKs(h *history.History) map[string][]probeOK {
	oks := map[string][]probeOK{}
	for i := range h.Ops {
		if o := &h.Ops[i]; o.Phase == history.Probe && o.Outcome == history.OK {
			oks[o.Level] = append(oks[o.Level], probeOK{o.Return, o.Node})
		}
	}
	for _, ps := range oks {
		slices.SortFunc(ps, func(a, b probeOK) int { return cmp.Compare(a.at, b.at) })
	}
	return oks
}

type gap struct{ from, to time.Duration }

// gapAt returns the longest time between two oks that overlaps an interval,
// without those of some nodes. There is none if no ok came before or after.
func gapAt(oks []probeOK, without []string, from, to time.Duration) (gap, bool) {
	counts := func(p probeOK) bool { return !slices.Contains(without, p.node) }
	i, _ := slices.BinarySearchFunc(oks, from, func(p probeOK, t time.Duration) int { return cmp.Compare(p.at, t) })
	last := i - 1
	for last >= 0 && !counts(oks[last]) {
		last--
	}
	var longest gap
	for ; i < len(oks); i++ {
		if !counts(oks[i]) {
			continue
		}
		if last >= 0 {
			if oks[last].at > to {
				break
			}
			if g := (gap{oks[last].at, oks[i].at}); g.to-g.from > longest.to-longest.from {
				longest = g
			}
		}
		last = i
	}
	return longest, longest.to > longest.from
}

// endAt returns the oks before a moment, with one of nobody at that moment: what
// ends there has lasted so long at least.
func endAt(oks []probeOK, end time.Duration) []probeOK {
	i, _ := slices.BinarySearchFunc(oks, end, func(p probeOK, t time.Duration) int { return cmp.Compare(p.at, t) })
	return append(slices.Clone(oks[:i]), probeOK{at: end})
}

// longest returns the longest time without an ok of a level during the load.
func longest(in *Input, windows []result.Window, level string, oks []probeOK) result.Outage {
	out := result.Outage{Level: level}
	prev := in.Facts.LoadFrom
	for _, p := range append(slices.Clone(oks), probeOK{at: in.Facts.LoadTo}) {
		if p.at < in.Facts.LoadFrom || p.at > in.Facts.LoadTo {
			continue
		}
		if p.at-prev > out.To-out.From {
			out.From, out.To = prev, p.at
		}
		prev = p.at
	}
	for _, w := range windows {
		if w.From <= out.To && out.From <= w.To {
			out.Fault = w.Fault
		}
	}
	return out
}

// recoveries returns, for each fault, the time from its heal to the first
// quorum write that was acknowledged to a probe, by any node. If none came
// before the next fault or the end, it is the time until then.
func recoveries(in *Input, windows []result.Window) []recovered {
	var all []recovered
	oks := probeOKs(in.History)["quorum"]
	for i, w := range windows {
		until := in.Facts.LoadTo
		var beside []result.Window // still in force at the heal
		for j, x := range windows {
			switch {
			case j == i:
			case x.From >= w.To:
				until = min(until, x.From)
			case x.To > w.To:
				beside = append(beside, x)
			}
		}
		if w.Open || w.To >= until || len(hitDuring(in, beside, result.Window{From: w.To, To: w.To})) > (len(in.Nodes)-1)/2 {
			continue // there was no time after it
		}
		k, _ := slices.BinarySearchFunc(oks, w.To, func(p probeOK, t time.Duration) int { return cmp.Compare(p.at, t) })
		r := recovered{w, until - w.To, false}
		if k < len(oks) && oks[k].at < until {
			r.took, r.ok = oks[k].at-w.To, true
		}
		all = append(all, r)
	}
	return all
}

// recovered is what came after the heal of a fault.
type recovered struct {
	from result.Window
	took time.Duration // or how long it was waited for
	ok   bool
}

// disturbing are the faults that a client of the node which they hit must
// expect to notice.
var disturbing = []string{
	"kill", "term", "pause", "isolate", "partition", "leader-switch", "split", "bridge", "ring", "starve", "memory", "fd-limit", "failpoint",
}

// failedWrites counts the writes of load and probes that were not acknowledged,
// but for those through a node that a fault had hit. reasons are the most
// frequent ones.
func failedWrites(in *Input, windows []result.Window, skip func(from, to time.Duration) bool) (failed, all int, reasons string) {
	type span struct{ from, to time.Duration }
	hit := map[string][]span{}
	for i, w := range windows {
		if !slices.Contains(disturbing, w.Action) {
			continue
		}
		until := w.To + rejoin
		if i+1 < len(windows) {
			until = max(w.To, min(until, windows[i+1].From))
		}
		for _, n := range w.Targets {
			hit[n] = append(hit[n], span{w.From, until})
		}
	}
	why := map[string]int{}
	for i := range in.History.Ops {
		o := &in.History.Ops[i]
		if !o.Write() || o.Phase != history.Load && o.Phase != history.Probe || skip(o.Intended, o.Return) {
			continue
		}
		node := o.Node
		if node == "" && o.Phase == history.Probe { // probes have one stream to each node
			node = in.Nodes[o.Stream%int64(len(in.Nodes))]
		}
		if slices.ContainsFunc(hit[node], func(s span) bool { return s.from <= o.Return && o.Send <= s.to }) {
			continue
		}
		all++
		if o.Outcome != history.OK {
			failed++
			why[fmt.Sprintf("%s %s", o.Outcome, o.Reason)]++
		}
	}
	names := slices.SortedFunc(maps.Keys(why), func(a, b string) int { return cmp.Or(cmp.Compare(why[b], why[a]), strings.Compare(a, b)) })
	for _, n := range names[:min(len(names), 3)] {
		reasons += fmt.Sprintf(", %d %s", why[n], n)
	}
	return failed, all, strings.TrimPrefix(reasons, ", ")
}

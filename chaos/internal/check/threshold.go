package check

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// Threshold is one limit on a metric.
type Threshold struct {
	Metric string  // as written
	Expr   string  // as written
	Name   string  // an operation, or one of the metrics of measure
	Phase  string  // of an operation: before, during, joining, recovery; empty: all
	Level  string  // of an operation; empty: all
	Func   string  // p, max, rate, count, rss, growth
	Arg    float64 // the percentile
	// Relative compares with the same metric before the faults, memory with what
	// the node's bounds add up to: what Holds is asked about is a multiple of it.
	Relative bool
	Holds    func(v float64) bool
}

// thresholds measures what the scenario limits. A threshold that cannot be
// measured is not met, and says so: a limit on nothing must not look kept.
//
// One that is missed, but not without what happened while the machine starved
// the nodes or the harness, is not judged, nor is a latency if the generator was
// limited.
func (v *Verdicts) thresholds(in *Input, windows []result.Window, m *machine) {
	unjudged := 0
	var starved []string
	prompt := in.Facts.Generator == ""
	never := func(from, to time.Duration) bool { return false }
	for _, t := range in.Limit.Thresholds {
		r := result.Threshold{Metric: t.Metric, Expr: t.Expr}
		value, got, ok := v.measure(in, windows, &t, never)
		r.Got, r.Met = got, ok && t.Holds(value)
		if a := in.Facts.Aborted; a != nil && a.Metric == t.Metric && a.Expr == t.Expr {
			r.Got, r.Met = fmt.Sprintf("%s at %.3fs, which aborted the run", a.Got, a.At.Seconds()), false
		}
		// What was sent late counts from when it was meant to be sent. So a limit that is kept is kept; one that is not
		// may be the generator's doing, and what is compared with needs to have been on time.
		if t.latency() && !prompt && !(r.Met && (!t.compares() || punctual(in, windows))) {
			unjudged++
			continue
		}
		if !r.Met && t.timely() && len(m.poor) > 0 {
			if value, _, ok := v.measure(in, windows, &t, m.spoiled); !ok || t.Holds(value) {
				starved = append(starved, fmt.Sprintf("%s %s is not judged, it was %s: %s", t.Metric, t.Expr, r.Got, m.describe(in)))
				continue
			}
		}
		v.Thresholds = append(v.Thresholds, r)
	}
	c := result.Check{Name: "thresholds", Verdict: result.Unknown, Examples: starved}
	switch {
	case unjudged > 0:
		c.Detail = fmt.Sprintf("%d of the limits on latency cannot be judged: the generator was limited, %s", unjudged, in.Facts.Generator)
	case len(starved) > 0:
		c.Detail = starved[0]
	default:
		return
	}
	v.add(c)
}

// timely reports whether the metric depends on when things happen: all do but
// what is occupied.
func (t *Threshold) timely() bool { return t.Name != "memory" }

// latency reports whether the metric is what the generator measures.
func (t *Threshold) latency() bool {
	return !slices.Contains([]string{"errors", "failed_writes", "leader_changes", "failover", "recovery", "ready", "memory"}, t.Name)
}

// compares reports whether the metric is one in relation to the time before the
// faults.
func (t *Threshold) compares() bool { return t.Relative || t.Name == "back_to_normal" }

// punctual reports whether the load was sent on time before the faults: late by
// no more than a millisecond, or a tenth of what is measured, but once in a
// hundred times. That is what the generator itself calls limited.
func punctual(in *Input, windows []result.Window) bool {
	phase := phases(windows)
	var late, took []time.Duration
	for i := range in.History.Ops {
		if o := &in.History.Ops[i]; o.Phase == history.Load && phase(o.Intended) == "before" {
			late = append(late, o.Send-o.Intended)
			if o.Outcome == history.OK {
				took = append(took, o.Return-o.Intended)
			}
		}
	}
	if len(took) == 0 {
		return false
	}
	slices.Sort(late)
	return late[len(late)*99/100] <= max(time.Millisecond, distributionOf(took).Median/10)
}

// measure leaves out what happened in a time that skip is true of.
func (v *Verdicts) measure(in *Input, windows []result.Window, t *Threshold, skip func(from, to time.Duration) bool) (value float64, got string, ok bool) {
	switch t.Name {
	case "errors":
		var all, bad int
		for i := range in.History.Ops {
			if o := &in.History.Ops[i]; o.Phase == history.Load && !skip(o.Intended, o.Return) {
				all++
				if o.Outcome != history.OK {
					bad++
				}
			}
		}
		if all == 0 {
			return 0, "no operation", false
		}
		rate := float64(bad) / float64(all)
		return rate, fmt.Sprintf("%.3g%% (%d of %d)", 100*rate, bad, all), true
	case "leader_changes":
		n := 0
		for _, at := range leaderChanges(in.Events, in.Facts.LoadFrom, in.Facts.LoadTo) {
			if !skip(at, at) {
				n++
			}
		}
		return float64(n), fmt.Sprint(n), true
	case "failover":
		var gaps []time.Duration
		never := 0
		for _, f := range v.Failovers {
			for _, l := range f.Levels {
				if l.Level != "quorum" || l.Gap == 0 || skip(f.Inject, f.Inject+l.Gap) {
					continue
				}
				gaps = append(gaps, l.Gap)
				if l.FirstOK == 0 {
					never++
				}
			}
		}
		value, got, ok = duration(gaps, t, 1)
		if never > 0 {
			return value, fmt.Sprintf("%d of %d times writes did not go on", never, len(gaps)), false
		}
		return value, got, ok
	case "recovery":
		var times []time.Duration
		never := 0
		for _, r := range recoveries(in, windows) {
			if skip(r.from.To, r.from.To+r.took) {
				continue
			}
			times = append(times, r.took)
			if !r.ok {
				never++
			}
		}
		value, got, ok = duration(times, t, 1)
		if never > 0 {
			return value, fmt.Sprintf("%d of %d times not at all", never, len(times)), false
		}
		return value, got, ok
	case "back_to_normal":
		times, never, ok := backToNormal(in, windows, skip)
		switch {
		case !ok:
			return 0, "nothing measured", false
		case never > 0:
			return 0, fmt.Sprintf("%d of %d times not while it was looked at", never, len(times)), false
		}
		return duration(times, t, 1)
	case "ready":
		var times []time.Duration
		for _, j := range joinings(in) {
			if skip(j.from, j.to) {
				continue
			}
			if !j.ready {
				return float64(never), fmt.Sprintf("%s, started at %.3fs, not at all", j.node, j.from.Seconds()), false
			}
			times = append(times, j.to-j.from)
		}
		return duration(times, t, 1)
	case "memory":
		return memory(in, windows, t)
	case "failed_writes":
		failed, all, reasons := failedWrites(in, windows, skip)
		if all == 0 {
			return 0, "no write", false
		}
		got = fmt.Sprintf("%d of %d", failed, all)
		if reasons != "" {
			got += " (" + reasons + ")"
		}
		if t.Func == "rate" {
			return float64(failed) / float64(all), got, true
		}
		return float64(failed), got, true
	}
	value, got, ok = duration(responses(in, windows, t, t.Phase, skip), t, 10)
	if !t.Relative || !ok {
		return value, got, ok
	}
	base, gotBase, ok := duration(responses(in, windows, t, "before", skip), t, 10)
	if !ok {
		return 0, "before the faults: " + gotBase, false
	}
	return value / base, fmt.Sprintf("%.2fx (%s, before the faults %s)", value/base, got, gotBase), true
}

// responses are the response times of the acknowledged operations of the load
// that a threshold is about, in one phase or, with "", in all.
func responses(in *Input, windows []result.Window, t *Threshold, phase string, skip func(from, to time.Duration) bool) (times []time.Duration) {
	within := func(at time.Duration) bool { return phase == "" || phase == PhaseAt(windows, at) }
	if phase == "joining" {
		within = joiningAt(in)
	}
	for i := range in.History.Ops {
		o := &in.History.Ops[i]
		if o.Phase == history.Load && o.Outcome == history.OK && o.Kind == t.Name && (t.Level == "" || t.Level == o.Level) && within(o.Intended) && !skip(o.Intended, o.Return) {
			times = append(times, o.Return-o.Intended)
		}
	}
	return times
}

// duration takes a percentile or the maximum; beyond is the number of samples
// that have to lie beyond a percentile of a large sample.
func duration(ds []time.Duration, t *Threshold, beyond float64) (float64, string, bool) {
	if len(ds) == 0 {
		return 0, "nothing measured", false
	}
	slices.Sort(ds)
	d := ds[len(ds)-1]
	if t.Func == "p" {
		n := float64(len(ds))
		if n*(1-t.Arg/100) < beyond && beyond > 1 {
			return 0, fmt.Sprintf("%d samples are too few for this percentile", len(ds)), false
		}
		d = ds[max(0, int(math.Ceil(n*t.Arg/100))-1)]
	}
	return float64(d), d.Round(time.Microsecond).String(), true
}

// PhaseAt names the phase of a run at t: before the first fault, during one,
// or in recovery.
func PhaseAt(windows []result.Window, t time.Duration) string { return phases(windows)(t) }

// phases returns PhaseAt for many times. Of many faults that follow one another
// it looks at few.
func phases(windows []result.Window) func(t time.Duration) string {
	// reach[i] is the latest end of windows[:i+1], which are in the order of
	// their beginnings.
	reach := make([]time.Duration, len(windows))
	ended := never
	for i, w := range windows {
		reach[i] = w.To
		if i > 0 {
			reach[i] = max(reach[i], reach[i-1])
		}
		ended = min(ended, w.To)
	}
	return func(t time.Duration) string {
		i := sort.Search(len(windows), func(i int) bool { return windows[i].From > t })
		switch {
		case i > 0 && t < reach[i-1]:
			return "during"
		case ended <= t:
			return "recovery"
		}
		return "before"
	}
}

// LeaderChanges counts how often another leadership was observed in an
// interval than the one before.
func LeaderChanges(events []result.Event, from, to time.Duration) int {
	return len(leaderChanges(events, from, to))
}

// leaderChanges are the moments at which it was.
func leaderChanges(events []result.Event, from, to time.Duration) (changes []time.Duration) {
	type leadership struct {
		cluster string
		term    uint64
	}
	var current leadership
	for _, e := range events {
		if e.Kind != result.Observe || e.Role != result.RoleLeader || e.T > to {
			continue
		}
		l := leadership{e.Cluster, e.Term}
		if l.cluster == current.cluster && l.term <= current.term {
			continue // an old leader that does not know better yet
		}
		if current != (leadership{}) && e.T >= from {
			changes = append(changes, e.T)
		}
		current = l
	}
	return changes
}

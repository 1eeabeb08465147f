package check

import (
	"slices"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// How "back to normal" is measured: in slices of time, of which each is normal
// again if none of its operations failed and their median, relative to the
// median of the same operation before the faults, is at most abnormal. Half of
// a slice being slow is a state of the nodes; its slowest hundredth, on a
// machine with other things to do, is luck. Medians below normalFloor are all
// alike.
const (
	normalSlice = 250 * time.Millisecond
	normalFloor = time.Millisecond
	abnormal    = 2.0
	// normalWatch is how long after a heal it is looked at, and normalLeast how
	// much of that there must be.
	normalWatch = 10 * time.Second
	normalLeast = 2 * time.Second
)

// backToNormal returns how long after each heal the load was last seen not to
// be as it was before the faults, and how often it was so to the end of what was
// looked at. ok is false if there is nothing to compare with.
func backToNormal(in *Input, windows []result.Window, skip func(from, to time.Duration) bool) (times []time.Duration, never int, ok bool) {
	type kind struct{ op, level string }
	before := map[kind][]time.Duration{}
	for i := range in.History.Ops {
		o := &in.History.Ops[i]
		if o.Phase == history.Load && o.Outcome == history.OK && PhaseAt(windows, o.Intended) == "before" {
			k := kind{o.Kind, o.Level}
			before[k] = append(before[k], o.Return-o.Intended)
		}
	}
	usual := map[kind]time.Duration{}
	for k, ds := range before {
		usual[k] = max(distributionOf(ds).Median, normalFloor)
	}
	if len(usual) == 0 {
		return nil, 0, false
	}
	for i, w := range windows {
		until := min(w.To+normalWatch, in.Facts.LoadTo)
		if i+1 < len(windows) {
			until = min(until, windows[i+1].From)
		}
		n := int((until - w.To) / normalSlice)
		if until-w.To < normalLeast || skip(w.To, until) {
			continue
		}
		ratios, failed := make([][]float64, n), make([]bool, n)
		for j := range in.History.Ops {
			o := &in.History.Ops[j]
			at := int((o.Intended - w.To) / normalSlice)
			if o.Phase != history.Load || o.Intended < w.To || at >= n {
				continue
			}
			if o.Outcome != history.OK {
				failed[at] = true
				continue
			}
			if u := usual[kind{o.Kind, o.Level}]; u > 0 {
				ratios[at] = append(ratios[at], float64(max(o.Return-o.Intended, normalFloor))/float64(u))
			}
		}
		last := 0 // slices up to the last one that was not normal
		for j := range n {
			slices.Sort(ratios[j])
			if failed[j] || len(ratios[j]) == 0 || ratios[j][len(ratios[j])/2] > abnormal {
				last = j + 1
			}
		}
		times = append(times, time.Duration(last)*normalSlice)
		if last == n {
			never++
		}
	}
	return times, never, len(times) > 0
}

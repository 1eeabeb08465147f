package check

import (
	"fmt"
	"slices"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// memory measures what the processes of the nodes occupied, in bytes: with rss
// the most that one of them had at any time, with growth the most by which one
// grew over what it had when the first fault began, or without faults the load.
// Samples are half a second apart, so what was taken and given back in between
// can escape them. A relative limit is on the multiple of what the bounds of that
// node's parts add up to, as it says itself in the end.
func memory(in *Input, windows []result.Window, t *Threshold) (value float64, got string, ok bool) {
	from := in.Facts.LoadFrom
	if len(windows) > 0 {
		from = windows[0].From
	}
	base := map[string]int64{}
	var most int64
	var node string
	var at time.Duration
	for _, r := range in.Resources {
		if !slices.Contains(in.Nodes, r.Node) {
			continue
		}
		rss := r.RSS
		if t.Func == "growth" {
			if r.T <= from {
				base[r.Node] = rss
			}
			before, known := base[r.Node]
			if !known || r.T <= from {
				continue
			}
			rss -= before
		}
		if !ok || rss > most {
			most, node, at, ok = rss, r.Node, r.T, true
		}
	}
	if !ok {
		return 0, "nothing measured", false
	}
	got = fmt.Sprintf("%.1fMiB (%s at %.1fs)", float64(most)/(1<<20), node, at.Seconds())
	bound := memoryBound(in, node)
	if bound > 0 {
		got += fmt.Sprintf("; its bounds add up to %.1fMiB", bound/(1<<20))
	}
	if !t.Relative {
		return float64(most), got, true
	}
	if bound == 0 {
		return 0, got + ", and it did not say what its bounds are", false
	}
	return float64(most) / bound, fmt.Sprintf("%.2fx: %s", float64(most)/bound, got), true
}

// memoryBound is what the bounds of a node's parts add up to; 0 is unknown.
func memoryBound(in *Input, node string) float64 {
	for _, d := range in.Facts.States {
		if d.Node == node {
			return float64(d.MemoryBound)
		}
	}
	return 0
}

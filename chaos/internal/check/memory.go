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
// can escape them.
func memory(in *Input, windows []result.Window, what string) (value float64, got string, ok bool) {
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
		if what == "growth" {
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
	return float64(most), fmt.Sprintf("%.1fMiB (%s at %.1fs)", float64(most)/(1<<20), node, at.Seconds()), true
}

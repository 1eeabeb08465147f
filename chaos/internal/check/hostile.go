package check

import (
	"fmt"
	"slices"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// Hostile is what one attack of hostile clients on one node came to.
type Hostile struct {
	Fault string `json:"fault"`
	Kind  string `json:"kind"`
	Node  string `json:"node"`
	// Forbidden says that the node must serve none of them, Ends how long it may
	// let one live (0: for ever).
	Forbidden bool          `json:"forbidden,omitempty"`
	Ends      time.Duration `json:"ends_ns,omitempty"`

	Attempts int64         `json:"attempts"`
	Served   int64         `json:"served"`
	Ended    int64         `json:"ended"`
	Longest  time.Duration `json:"longest_ns"`
	// Late is by how much the clients were late to see one begin, and end, at worst.
	Late   time.Duration `json:"late_ns,omitempty"`
	Lasted time.Duration `json:"lasted_ns"`
}

// hostile checks that nobody was served who must not be, and that the node got
// rid of those that it must not keep. What they did to others is for the
// thresholds on errors, latency and memory to say.
func (v *Verdicts) hostile(in *Input) {
	planned := 0
	for _, p := range in.Planned {
		if p.Hostile {
			planned++
		}
	}
	if planned == 0 {
		return
	}
	c := result.Check{Name: "hostile clients", Verdict: result.Pass}
	seen := map[string]bool{}
	late := ""
	for _, h := range in.Facts.Hostile {
		seen[h.Fault] = true
		c.Checked += h.Attempts
		if h.Forbidden && h.Served > 0 {
			c.Examples = append(c.Examples, fmt.Sprintf("%s: %s served %d of %d", h.Fault, h.Node, h.Served, h.Attempts))
		}
		if h.Ends == 0 || h.Longest <= h.Ends {
			continue
		}
		kept := fmt.Sprintf("%s: %s kept one for %v, expected %v at most", h.Fault, h.Node, h.Longest.Round(time.Millisecond), h.Ends)
		if h.Longest-2*h.Late > h.Ends {
			c.Examples = append(c.Examples, kept)
		} else {
			late = fmt.Sprintf("%s; its clients were up to %v late to see it", kept, h.Late.Round(time.Millisecond))
		}
	}
	c.Count = int64(len(c.Examples))
	switch {
	case c.Count > 0:
		c.Verdict, c.Detail = result.Violated, c.Examples[0]
	case late != "":
		c.Verdict, c.Detail = result.Unknown, late
	case slices.ContainsFunc(in.Planned, func(p Planned) bool { return p.Hostile && !seen[p.Name] }):
		c.Verdict, c.Detail = result.Unknown, "not every attack was seen to its end"
	default:
		c.Detail = fmt.Sprintf("%d attacks with %d clients: nobody was served without the right to, nobody stayed too long", planned, c.Checked)
	}
	v.add(c)
}

// harmless reports whether a fault broke neither a node nor a link, so that it
// excuses no loss.
func (in *Input) harmless(fault string) bool {
	return slices.ContainsFunc(in.Planned, func(p Planned) bool { return p.Name == fault && p.Hostile })
}

package check

import (
	"testing"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// TestMemory proves that rss is the most that one node had at any time, that
// growth counts from what the same node had when the first fault began, and
// that neither looks at other processes or is met by nothing.
func TestMemory(t *testing.T) {
	in := evidence(t, "fault flood stream-flood n1 1000..2000\n")
	limit := func(what string, bytes float64) Threshold {
		return Threshold{Metric: what, Name: "memory", Func: what, Holds: func(v float64) bool { return v <= bytes }}
	}
	measure := func() map[string]result.Threshold {
		v := new(Verdicts)
		in.Limit.Thresholds = []Threshold{limit("rss", 300<<20), limit("growth", 50<<20)}
		v.thresholds(in, faultWindows(in.Events, in.end()), machineOf(in))
		got := map[string]result.Threshold{}
		for _, th := range v.Thresholds {
			got[th.Metric] = th
		}
		return got
	}
	if got := measure(); got["rss"].Met || got["growth"].Met || got["rss"].Got != "nothing measured" {
		t.Errorf("a limit on nothing: %+v", got)
	}
	for _, s := range []struct {
		ms   int
		node string
		mib  int64
	}{
		{500, "n1", 290},
		{500, "n2", 100},
		{900, "n1", 200},
		{900, "n2", 110},
		{900, "chaos", 4000},
		{1500, "n1", 240},
		{1500, "n2", 170},
		{2500, "n1", 230},
		{2500, "n2", 120},
	} {
		in.Resources = append(in.Resources, result.Resource{T: time.Duration(s.ms) * time.Millisecond, Node: s.node, RSS: s.mib << 20})
	}
	got := measure()
	if r := got["rss"]; !r.Met || r.Got != "290.0MiB (n1 at 0.5s)" {
		t.Errorf("rss: %+v", r)
	}
	if r := got["growth"]; r.Met || r.Got != "60.0MiB (n2 at 1.5s)" {
		t.Errorf("growth: %+v", r)
	}

	// Compared with what its bounds add up to, which it has to say.
	relative := func() result.Threshold {
		v := new(Verdicts)
		in.Limit.Thresholds = []Threshold{{Name: "memory", Func: "rss", Relative: true, Holds: func(v float64) bool { return v <= 1 }}}
		v.thresholds(in, faultWindows(in.Events, in.end()), machineOf(in))
		return v.Thresholds[0]
	}
	if r := relative(); r.Met {
		t.Errorf("relative to nothing: %+v", r)
	}
	in.Facts.States = []Digest{{Node: "n2", MemoryBound: 1 << 20}, {Node: "n1", MemoryBound: 580 << 20}}
	if r := relative(); !r.Met || r.Got != "0.50x: 290.0MiB (n1 at 0.5s); its bounds add up to 580.0MiB" {
		t.Errorf("relative: %+v", r)
	}
	in.Facts.States[1].MemoryBound = 145 << 20
	if r := relative(); r.Met {
		t.Errorf("twice what the bounds are: %+v", r)
	}
}

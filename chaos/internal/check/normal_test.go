package check

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
)

// steady is an insert every other millisecond from one time to another, each acknowledged
// so many milliseconds after it was intended.
func steady(from, to, took int) string {
	var b strings.Builder
	for at := from; at < to; at += 2 {
		fmt.Fprintf(&b, "insert k%d=%d quorum %d..%d ok\n", at, at+1, at, at+took)
	}
	return b.String()
}

// TestBackToNormal proves that it is the end of the last slice after a heal in
// which the load was slower than twice what it was before, or failed, or did not
// happen at all.
func TestBackToNormal(t *testing.T) {
	before := "fault flood overload n1 3000..5000\n" + steady(0, 3000, 4) + steady(3000, 5000, 400)
	for name, c := range map[string]struct {
		after string
		want  string
	}{
		"at once":            {steady(5000, 9000, 5), "true 0s"},
		"slow for a second":  {steady(5000, 6000, 30) + steady(6000, 9000, 4), "true 1s"},
		"a slow tenth is ok": {steady(5000, 9000, 6) + steady(5000, 5020, 300), "true 0s"},
		"slow again":         {steady(5000, 7000, 5) + steady(7000, 7600, 30) + steady(7600, 9000, 5), "false 2.5s"},
		"one failure":        {steady(5000, 9000, 5) + "insert x=9999 quorum 5600..5601 fail\n", "true 750ms"},
		"nothing for a time": {steady(5000, 5250, 5) + steady(7500, 9000, 5), "false 2.5s"},
		"never":              {steady(5000, 9000, 30), "false 1 of 1 times not while it was looked at"},
	} {
		t.Run(name, func(t *testing.T) {
			in := evidence(t, before+c.after)
			in.Facts.LoadTo = 9 * time.Second
			if got := limit(in); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	in := evidence(t, "fault flood overload n1 0..5000\n"+steady(5000, 9000, 5))
	if got := limit(in); got != "false nothing measured" {
		t.Errorf("with nothing to compare with: %q", got)
	}
}

// limit judges "back_to_normal: max <= 2s" and shows what came of it.
func limit(in *Input) string {
	v := new(Verdicts)
	in.Limit.Thresholds = []Threshold{{Name: "back_to_normal", Func: "max", Holds: func(v float64) bool { return v <= float64(2*time.Second) }}}
	v.thresholds(in, faultWindows(in.Events, in.end()), machineOf(in))
	return fmt.Sprintf("%t %s", v.Thresholds[0].Met, v.Thresholds[0].Got)
}

// TestRelative proves that a relative limit compares the phase it names with the
// time before the faults, at the same level only, and is not met where there is
// nothing to compare with.
func TestRelative(t *testing.T) {
	in := evidence(t, "fault flood overload n1 3000..5000\n"+steady(0, 3000, 4)+steady(3000, 5000, 6))
	measure := func(level string, limit float64) string {
		v := new(Verdicts)
		in.Limit.Thresholds = []Threshold{{Name: "insert", Phase: "during", Level: level, Func: "p", Arg: 99, Relative: true, Holds: func(v float64) bool { return v <= limit }}}
		v.thresholds(in, faultWindows(in.Events, in.end()), machineOf(in))
		return fmt.Sprintf("%t %s", v.Thresholds[0].Met, v.Thresholds[0].Got)
	}
	if got, want := measure("quorum", 2), "true 1.50x (6ms, before the faults 4ms)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := measure("", 1.4), "false 1.50x (6ms, before the faults 4ms)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for i := range in.History.Ops {
		if o := &in.History.Ops[i]; o.Intended < 3*time.Second {
			o.Level, o.Phase = "leader", history.Load
		}
	}
	if got, want := measure("quorum", 2), "false before the faults: nothing measured"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

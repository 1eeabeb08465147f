package check

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hacache/hacache/reports/result"
)

// TestJoinings proves that a node is joining from the start of its process to
// the first moment at which it leads or follows: not the processes that were
// there before the load, not what others observe of themselves, not a process
// that was only paused, and not one that was ended again on its way; and that
// one which is never ready is not taken for quick.
func TestJoinings(t *testing.T) {
	in := evidence(t, "")
	in.Facts.LoadFrom, in.Facts.LoadTo = time.Second, 10*time.Second
	process := func(ms int, node string, s result.State) {
		in.Events = append(in.Events, result.Event{T: time.Duration(ms) * time.Millisecond, Kind: result.Process, Node: node, State: s})
	}
	observe := func(ms int, node string, role result.Role) {
		in.Events = append(in.Events, result.Event{T: time.Duration(ms) * time.Millisecond, Kind: result.Observe, Node: node, Role: role})
	}
	for _, n := range in.Nodes {
		process(0, n, result.ProcessRunning)
		observe(500, n, result.RoleFollower)
	}
	process(1500, "n1", result.ProcessStopped)
	process(1600, "n1", result.ProcessRunning) // resumed
	observe(1650, "n1", result.RoleFollower)
	process(2000, "n2", result.ProcessExited)
	observe(2008, "n2", result.RoleUndefined)
	process(3000, "n2", result.ProcessRunning)
	observe(3001, "n1", result.RoleLeader)
	observe(3100, "n2", result.RoleUndefined)
	process(4000, "n2", result.ProcessExited)
	process(5000, "n2", result.ProcessRunning)
	observe(5100, "n2", result.RoleUndefined)
	observe(6500, "n2", result.RoleFollower)
	observe(6600, "n2", result.RoleLeader)
	ms := time.Millisecond
	want := []joining{{"n2", 5000 * ms, 6500 * ms, true}}
	if d := cmp.Diff(want, joinings(in), cmp.AllowUnexported(joining{})); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	limit := Threshold{Metric: "ready", Name: "ready", Func: "max", Holds: func(v float64) bool { return v <= float64(1500*ms) }}
	judge := func() result.Threshold {
		v := new(Verdicts)
		in.Limit.Thresholds = []Threshold{limit}
		v.thresholds(in, nil, machineOf(in))
		return v.Thresholds[0]
	}
	if got := judge(); !got.Met || got.Got != "1.5s" {
		t.Errorf("%+v", got)
	}
	process(8000, "n3", result.ProcessExited)
	process(8500, "n3", result.ProcessRunning)
	observe(8600, "n3", result.RoleUndefined)
	if got := judge(); got.Met || got.Got != "n3, started at 8.500s, not at all" {
		t.Errorf("one is never ready: %+v", got)
	}
	in.Events = nil
	if got := judge(); got.Met || got.Got != "nothing measured" {
		t.Errorf("nothing joined: %+v", got)
	}
}

// TestThreshold_joining proves that a limit on the time of a join looks at
// operations of that time, not at those while the node was down or once it was
// ready, and compares them with those before the fault.
func TestThreshold_joining(t *testing.T) {
	text := "fault cut kill n1 2000..3000\n"
	for at := 1000; at < 6000; at += 10 {
		took := 10 // milliseconds
		switch {
		case at >= 2000 && at < 3000:
			took = 900
		case at >= 3000 && at < 4000:
			took = 30
		case at >= 4000:
			took = 500
		}
		text += fmt.Sprintf("insert k%d=%d quorum %d..%d ok\n", at, at, at, at+took)
	}
	in := evidence(t, text)
	in.Events = append(in.Events,
		result.Event{T: 2 * time.Second, Kind: result.Process, Node: "n1", State: result.ProcessExited},
		result.Event{T: 3 * time.Second, Kind: result.Process, Node: "n1", State: result.ProcessRunning},
		result.Event{T: 4 * time.Second, Kind: result.Observe, Node: "n1", Role: result.RoleFollower},
	)
	for i := range in.History.Ops { // in the evidence they are sent when they were meant to be
		in.History.Ops[i].Intended = in.History.Ops[i].Send
	}
	in.Limit.Thresholds = []Threshold{{Metric: "insert", Name: "insert", Phase: "joining", Func: "max", Relative: true, Holds: func(v float64) bool { return v <= 3 }}}
	v := new(Verdicts)
	v.thresholds(in, faultWindows(in.Events, in.end()), machineOf(in))
	if got := v.Thresholds[0]; !got.Met || got.Got != "3.00x (30ms, before the faults 10ms)" {
		t.Errorf("%+v", got)
	}
}

// TestPreloaded proves each verdict on entries that were there before the load.
func TestPreloaded(t *testing.T) {
	for name, c := range map[string]struct {
		p    *Preloaded
		want result.Verdict
	}{
		"not written":   {nil, result.Unknown},
		"all there":     {&Preloaded{Entries: 9, Untouched: 5, Reads: 15, Verified: true}, result.Pass},
		"all used":      {&Preloaded{Entries: 9, Verified: true}, result.NotExercised},
		"one wrong":     {&Preloaded{Entries: 9, Untouched: 5, Reads: 15, Wrong: 1, Verified: true}, result.Violated},
		"wrong, unread": {&Preloaded{Entries: 9, Untouched: 5, Reads: 4, Wrong: 1}, result.Violated},
		"not all read":  {&Preloaded{Entries: 9, Untouched: 5, Reads: 14, Error: "1 could not be read"}, result.Unknown},
		"interrupted":   {&Preloaded{Entries: 9}, result.Unknown},
		"too few reads": {&Preloaded{Entries: 9, Untouched: 5, Reads: 10, Verified: true}, result.Unknown},
	} {
		in := evidence(t, "")
		in.Facts.Preloaded = c.p
		v := new(Verdicts)
		v.preloaded(in)
		if got := v.Checks[0].Verdict; got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

package check

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// machineOf is what the evidence says of the machine.
func machineOf(in *Input) *machine { return newMachine(in, faultWindows(in.Events, in.end())) }

// meter adds samples of a process to the evidence, five a second from 0 to 12 s:
// one that runs for a tenth of the time and waits for a fiftieth of it, but
// from one moment to another gets a fiftieth of a processor in so many turns a
// second and waits for the rest of the time.
func meter(in *Input, name string, from, to time.Duration, turns int64) {
	const step = 200 * time.Millisecond
	r := result.Resource{Node: name}
	for r.T <= 12*time.Second {
		in.Resources = append(in.Resources, r)
		ran, waited, n := step/10, step/50, int64(100)
		if r.T >= from && r.T < to {
			ran, waited, n = step/50, step*49/50, turns/5
		}
		r.T, r.CPU, r.Waited, r.Turns = r.T+step, r.CPU+ran, r.Waited+waited, r.Turns+n
	}
}

// TestStarved proves what a machine that gives processes hardly any processor
// excuses: what nodes that should have acted did too late in that very time, and
// nothing else; and that it is unknown then, never a pass.
func TestStarved(t *testing.T) {
	const s = time.Second
	steady := func(from, to int) (text string) {
		for at := from; at < to; at += 50 {
			text += fmt.Sprintf("probe quorum %d n2\n", max(at, 1))
		}
		return text
	}
	standstill := "fault k kill n1 1000..2000\nobserve n1 leader 1 500\nobserve n2 leader 2 2100\n" + steady(0, 1000) + steady(5000, 9000)
	beside := "fault k isolate n1 1000..6000\nobserve n1 leader 1 500\nobserve n2 leader 2 5400\n" + steady(0, 1000) + steady(5500, 9000)
	leaderless := "fault k kill n1 1000..6000\nobserve n1 leader 1 500\n" + steady(0, 1000) + steady(6100, 9000)
	slow := "fault k kill n1 1000..3000\nobserve n1 leader 1 500\nobserve n2 leader 2 2500\n" + steady(0, 1000) + steady(2600, 9000)
	moved := "observe n1 leader 1 500\nobserve n2 leader 2 3500\n"
	all := []string{"n1", "n2", "n3"}
	type hungry struct {
		who      []string
		from, to time.Duration
		turns    int64 // a second; 0: 25
	}
	for name, c := range map[string]struct {
		text    string
		hungry  hungry
		change  func(in *Input)
		check   string
		verdict result.Verdict
		detail  string
	}{
		"a standstill of well-fed nodes": {standstill, hungry{}, nil, "liveness", result.Violated, "no quorum write was acknowledged for 3s"},
		"of starved ones":                {standstill, hungry{all, s, 6 * s, 0}, nil, "liveness", result.Unknown, "n1 waited for a processor for 98% of 3s, 39.2ms for each turn, and got 2.0% of what it asked for"},
		"that wait a moment each":        {standstill, hungry{all, s, 6 * s, 2000}, nil, "liveness", result.Violated, ""},
		"starved before":                 {standstill, hungry{all, 0, 2 * s, 0}, nil, "liveness", result.Violated, ""},
		"starved after":                  {standstill, hungry{all, 5 * s, 9 * s, 0}, nil, "liveness", result.Violated, ""},
		"starved for a part of it":       {standstill, hungry{all, 2 * s, 3 * s, 0}, nil, "liveness", result.Violated, ""},
		"one that was not needed":        {standstill, hungry{[]string{"n3"}, s, 6 * s, 0}, nil, "liveness", result.Violated, ""},
		"two of three":                   {standstill, hungry{[]string{"n2", "n3"}, s, 6 * s, 0}, nil, "liveness", result.Unknown, "n2 waited"},
		"the harness":                    {standstill, hungry{[]string{"chaos"}, s, 6 * s, 0}, nil, "liveness", result.Unknown, "the harness waited"},
		"a host that took it all":        {standstill, hungry{[]string{"machine"}, s, 6 * s, 0}, nil, "liveness", result.Unknown, "the machine got 2.0% of 3s that it asked its host for"},
		"beside a fault":                 {beside, hungry{}, nil, "liveness", result.Violated, "during k"},
		"beside a fault, both others":    {beside, hungry{[]string{"n2", "n3"}, s, 6 * s, 0}, nil, "liveness", result.Unknown, "during k"},
		"beside a fault, one other":      {beside, hungry{[]string{"n3"}, s, 6 * s, 0}, nil, "liveness", result.Unknown, "n3 waited"},
		"beside a fault, the one it hit": {beside, hungry{[]string{"n1"}, s, 6 * s, 0}, nil, "liveness", result.Violated, ""},
		"a process that ended":           {standstill + "exit n3 4000\n", hungry{all, s, 6 * s, 0}, nil, "liveness", result.Violated, "n3 ended on its own"},
		"a panic": {standstill, hungry{all, s, 6 * s, 0}, func(in *Input) {
			in.Facts.LogFindings = []string{"n2.log:7: panic: x"}
		}, "liveness", result.Violated, "panic: x"},
		"nobody elected":           {leaderless, hungry{}, nil, "failover", result.Violated, "no other node was seen to lead"},
		"by starved nodes":         {leaderless, hungry{all, s, 6 * s, 0}, nil, "failover", result.Unknown, "got 2.0% of what it asked for"},
		"by nodes starved later":   {leaderless, hungry{all, 6 * s, 9 * s, 0}, nil, "failover", result.Violated, ""},
		"not converged":            {"", hungry{}, notConverged, "convergence", result.Violated, "not within 1s"},
		"of which one was starved": {"", hungry{[]string{"n3"}, 9 * s, 12 * s, 0}, notConverged, "convergence", result.Unknown, "n3 waited"},
		"of which one had been":    {"", hungry{[]string{"n3"}, 3 * s, 8 * s, 0}, notConverged, "convergence", result.Violated, ""},
		"a late failover":          {slow, hungry{}, failoverLimit, "", result.Violated, ""},
		"of starved nodes":         {slow, hungry{all, s, 3 * s, 0}, failoverLimit, "thresholds", result.Unknown, "failover max < 600ms is not judged, it was 1.65s: processes were starved in"},
		"of nodes starved later":   {slow, hungry{all, 6 * s, 8 * s, 0}, failoverLimit, "", result.Violated, ""},
		"another leader":           {moved, hungry{}, leaderLimit, "", result.Violated, ""},
		"while they starved":       {moved, hungry{[]string{"n1"}, 2 * s, 4 * s, 0}, leaderLimit, "thresholds", result.Unknown, "leader_changes count <= 0 is not judged"},
		"before they starved":      {moved, hungry{[]string{"n1"}, 6 * s, 8 * s, 0}, leaderLimit, "", result.Violated, ""},
		"a lost write": {"insert a=1 quorum 3000..3100 ok\nfinal a=-\n", hungry{all, s, 6 * s, 0}, func(in *Input) {
			in.Limit.LostWrites = true
		}, "lost writes", result.Violated, ""},
	} {
		in := evidence(t, c.text)
		in.Limit.LostWrites, in.Limit.Recovery = false, 1500*time.Millisecond
		in.Planned = []Planned{{Name: "k", Action: "kill", OnLeader: true}}
		if c.change != nil {
			c.change(in)
		}
		for _, n := range append([]string{"chaos", "machine"}, in.Nodes...) {
			from, to := time.Duration(0), time.Duration(0)
			for _, h := range c.hungry.who {
				if h == n {
					from, to = c.hungry.from, c.hungry.to
				}
			}
			meter(in, n, from, to, cmp.Or(c.hungry.turns, 25))
		}
		v := All(in)
		got, detail := result.Pass, ""
		for _, x := range v.Checks {
			if x.Name == c.check {
				got, detail = x.Verdict, x.Detail
			}
		}
		for _, x := range v.Thresholds {
			if c.check == "" && !x.Met {
				got = result.Violated
			}
		}
		if got != c.verdict || !strings.Contains(detail, c.detail) {
			t.Errorf("%s: %s %s, %q; want %s, %q", name, c.check, got, detail, c.verdict, c.detail)
		}
	}
}

func notConverged(in *Input) {
	in.Facts.Converged, in.Facts.ConvergeFrom, in.Facts.ConvergedIn, in.Facts.Divergence = false, 10*time.Second, time.Second, "n3 has applied 7, n1 9"
}

func failoverLimit(in *Input) {
	in.Limit.Thresholds = []Threshold{{Metric: "failover", Expr: "max < 600ms", Name: "failover", Func: "max", Holds: func(v float64) bool { return v < 600e6 }}}
}

func leaderLimit(in *Input) {
	in.Limit.Thresholds = []Threshold{{Metric: "leader_changes", Expr: "count <= 0", Name: "leader_changes", Func: "count", Holds: func(v float64) bool { return v <= 0 }}}
}

// TestStarved_measured proves what a figure is made of: the time of a process
// that ended, and of one that a fault of ours stopped, is nobody's; a harness
// whose samples come late was not there; evidence without samples excuses
// nothing.
func TestStarved_measured(t *testing.T) {
	in := evidence(t, "exit n1 5100\nfault p pause n2 3000..4000\n")
	m := machineOf(in)
	if got := m.describe(in); got != "" || m.excuse(0, 9*time.Second, in.Nodes, 2) != "" {
		t.Errorf("without samples: %q", got)
	}
	for _, n := range in.Nodes {
		meter(in, n, 3*time.Second, 6*time.Second, 25)
	}
	meter(in, "chaos", 0, 0, 0)
	m = machineOf(in)
	for _, c := range []struct {
		node     string
		from, to time.Duration
		known    bool
	}{
		{"n1", 5000 * time.Millisecond, 5200 * time.Millisecond, false},
		{"n1", 4000 * time.Millisecond, 5000 * time.Millisecond, true},
		{"n2", 3000 * time.Millisecond, 4000 * time.Millisecond, false},
		{"n2", 4400 * time.Millisecond, 5000 * time.Millisecond, true},
		{"n3", 3000 * time.Millisecond, 4000 * time.Millisecond, true},
		{"n3", 13 * time.Second, 14 * time.Second, false},
	} {
		h, known := m.of(c.node, c.from, c.to)
		if known != c.known || known && !h.starved() {
			t.Errorf("%s from %v to %v: %v, known %t", c.node, c.from, c.to, h, known)
		}
	}
	for i := range in.Resources { // the machine stood still for five seconds
		if r := &in.Resources[i]; r.T > 2*time.Second {
			r.T += 5 * time.Second
		}
	}
	if why := machineOf(in).excuse(2200*time.Millisecond, 6*time.Second, nil, 2); !strings.Contains(why, "the harness waited for a processor for 9") {
		t.Errorf("a machine that stood still: %q", why)
	}
}

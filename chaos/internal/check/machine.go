package check

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// A process counts as starved in some time if all of this is true: it had to
// wait for a processor for starvedWait of it, got less than starvedShare of what
// it asked for, and a thread that wanted one waited starvedTurn for it on
// average, which is a tick of the nodes' clocks and a twentieth of an election
// timeout. The last is what makes the difference: to elect somebody takes four
// messages, each of them some turns, so that a few ticks for each are a timeout.
// A node that waits all the time, but for a fraction of a millisecond each, is
// slow and does everything in time.
const (
	starvedWait  = 0.5
	starvedShare = 0.1
	starvedTurn  = 10 * time.Millisecond
)

// harness is the process that offers the load, probes, and relays what the
// nodes send each other: while it is starved nothing is timely.
const harness = "chaos"

// slot is the time between two samples of a process, and how long it ran and
// wanted to in it, its threads added up.
type slot struct {
	from, to    time.Duration
	ran, waited time.Duration
	turns       float64 // on a processor
}

// machine says how much the machine kept processes from running. What was
// judged by time is not judged if it was too little to be in time with.
type machine struct {
	nodes []string
	slots map[string][]slot // by process, in order of time
	// poor are the times of the load in which a process was starved, each a second
	// long at least, and the second after it, in which what was late comes.
	poor []result.Window
}

// grain is the shortest time of which it is said that a process was starved.
const grain = time.Second

func newMachine(in *Input, windows []result.Window) *machine {
	m := &machine{nodes: in.Nodes, slots: map[string][]slot{}}
	rows := map[string][]result.Resource{}
	for _, r := range in.Resources {
		rows[r.Node] = append(rows[r.Node], r)
	}
	for name, list := range rows {
		m.slots[name] = slotsOf(in, windows, name, list)
	}
	late(m.slots[harness])
	for at := in.Facts.LoadFrom; at < in.Facts.LoadTo; at += grain / 2 {
		if len(m.starvedOf(m.everyone(), at, at+grain)) == 0 {
			continue
		}
		if n := len(m.poor); n > 0 && at <= m.poor[n-1].To {
			m.poor[n-1].To = at + 2*grain
			continue
		}
		m.poor = append(m.poor, result.Window{From: at, To: at + 2*grain})
	}
	return m
}

// everyone is all processes that could be starved.
func (m *machine) everyone() []string { return append([]string{harness, result.Machine}, m.nodes...) }

// slotsOf leaves out the times in which a process ended or was started, and
// those in which a fault of ours kept it from running.
func slotsOf(in *Input, windows []result.Window, name string, rows []result.Resource) (out []slot) {
	var changes []time.Duration
	for _, e := range in.Events {
		if e.Kind == result.Process && e.Node == name && e.State != result.ProcessStopped {
			changes = append(changes, e.T)
		}
	}
	for i := 1; i < len(rows); i++ {
		s := slot{rows[i-1].T, rows[i].T, rows[i].CPU - rows[i-1].CPU, rows[i].Waited - rows[i-1].Waited, float64(rows[i].Turns - rows[i-1].Turns)}
		changed := slices.ContainsFunc(changes, func(t time.Duration) bool { return s.from <= t && t <= s.to })
		ours := slices.ContainsFunc(windows, func(w result.Window) bool {
			return (w.Action == "starve" || w.Action == "pause") && slices.Contains(w.Targets, name) && w.From <= s.to && s.from <= w.To
		})
		if s.to > s.from && s.ran >= 0 && s.waited >= 0 && s.turns >= 0 && !changed && !ours {
			out = append(out, s)
		}
	}
	return out
}

// late counts as waiting what a sample of the harness came late: a machine that
// was suspended, or a host that took it all, leaves no other trace.
func late(slots []slot) {
	if len(slots) == 0 {
		return
	}
	widths := make([]time.Duration, len(slots))
	for i, s := range slots {
		widths[i] = s.to - s.from
	}
	usual := distributionOf(widths).Median
	for i := range slots {
		s := &slots[i]
		s.waited = max(s.waited, s.to-s.from-2*usual)
	}
}

// hunger is what a process lacked in some time.
type hunger struct {
	name   string
	length time.Duration
	wait   float64       // share of the time in which it waited
	turn   time.Duration // that it waited for a turn, on average
	share  float64       // what it got of what it asked for
}

func (h hunger) String() string {
	name := h.name
	switch name {
	case harness:
		name = "the harness"
	case result.Machine:
		return fmt.Sprintf("the machine got %.1f%% of %v that it asked its host for", 100*h.share, h.length.Round(10*time.Millisecond))
	}
	return fmt.Sprintf("%s waited for a processor for %.0f%% of %v, %v for each turn, and got %.1f%% of what it asked for", name, 100*h.wait, h.length.Round(10*time.Millisecond), h.turn.Round(100*time.Microsecond), 100*h.share)
}

func (h hunger) starved() bool {
	return h.wait >= starvedWait && h.share < starvedShare && h.turn >= starvedTurn
}

// of measures one process; false if half of the time is not known.
func (m *machine) of(name string, from, to time.Duration) (hunger, bool) {
	slots := m.slots[name]
	i, _ := slices.BinarySearchFunc(slots, from, func(s slot, t time.Duration) int { return int(s.to - t) })
	var known, ran, asked, waiting, turns float64
	for ; i < len(slots) && slots[i].from < to; i++ {
		s := slots[i]
		width := float64(s.to - s.from)
		part := float64(min(s.to, to)-max(s.from, from)) / width
		known += part * width
		ran += part * float64(s.ran)
		asked += part * float64(s.ran+s.waited)
		waiting += part * min(float64(s.waited), width)
		turns += part * s.turns
	}
	if known <= 0 || known < float64(to-from)/2 {
		return hunger{}, false
	}
	h := hunger{name: name, length: to - from, wait: waiting / known, share: 1, turn: time.Duration((asked - ran) / max(turns, 1))}
	if asked > 0 {
		h.share = ran / asked
	}
	return h, true
}

func (m *machine) starvedOf(names []string, from, to time.Duration) (all []hunger) {
	for _, name := range names {
		if h, ok := m.of(name, from, to); ok && h.starved() {
			all = append(all, h)
		}
	}
	return all
}

// excuse says why what did not happen in some time cannot be held against the
// nodes; empty: it can. act are those that should have acted, and need is how
// many of them it takes.
func (m *machine) excuse(from, to time.Duration, act []string, need int) string {
	found := m.starvedOf([]string{harness, result.Machine}, from, to)
	if len(found) == 0 {
		found = m.starvedOf(act, from, to)
		if len(found) == 0 || len(act)-len(found) >= need {
			return ""
		}
	}
	return fmt.Sprintf("not judged, the machine had no time for it: from %.3fs on %s", from.Seconds(), list(found))
}

func list(hs []hunger) string {
	say := make([]string, len(hs))
	for i, h := range hs {
		say[i] = h.String()
	}
	return strings.Join(say, "; ")
}

// majority of the nodes, without which nothing goes on.
func (m *machine) majority() int { return len(m.nodes)/2 + 1 }

// others are the nodes beside those.
func (m *machine) others(hit func(node string) bool) []string {
	return slices.DeleteFunc(slices.Clone(m.nodes), hit)
}

// spoiled reports whether some time touches one in which a process was starved.
func (m *machine) spoiled(from, to time.Duration) bool {
	return slices.ContainsFunc(m.poor, func(w result.Window) bool { return w.From <= to && from <= w.To })
}

// describe says how much processes had to wait while the load ran; empty: it
// was not measured.
func (m *machine) describe(in *Input) string {
	var worst hunger
	for at := in.Facts.LoadFrom; at < in.Facts.LoadTo; at += grain / 2 {
		for _, name := range m.everyone() {
			// The machine has no turns: it is the worst only if it was starved.
			if h, ok := m.of(name, at, at+grain); ok && (name != result.Machine || h.starved()) && (worst.name == "" || h.starved() && !worst.starved() || h.starved() == worst.starved() && h.turn > worst.turn) {
				worst = h
			}
		}
	}
	if worst.name == "" {
		return ""
	}
	if len(m.poor) == 0 {
		return "no process was starved; the worst second: " + worst.String()
	}
	var sum time.Duration
	for _, w := range m.poor {
		sum += min(w.To, in.Facts.LoadTo) - w.From
	}
	return fmt.Sprintf("processes were starved in %v of %v; the worst second: %s", sum.Round(100*time.Millisecond), (in.Facts.LoadTo - in.Facts.LoadFrom).Round(100*time.Millisecond), worst)
}

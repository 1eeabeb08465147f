package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// minimum is how many acknowledged operations of a kind a run needs before it
// says anything about that kind.
const minimum = 20

// validity is the check that comes first: did the run do what it was for.
func validity(in *Input, windows []result.Window, m *machine) result.Check {
	var problems []string
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	h := in.History
	switch {
	case !h.Whole:
		problem("the history has no end: the run was killed")
	case h.Lost > 0:
		problem("%d operations are missing from the history: %s", h.Lost, in.Facts.HistoryError)
	case in.Facts.HistoryError != "":
		problem("not all of the evidence could be written: %s", in.Facts.HistoryError)
	}
	if in.Facts.LoadTo <= in.Facts.LoadFrom {
		problem("it is not known when the load ran: the run ended before, or what it noted is gone")
	}
	if in.Facts.LoadError != "" {
		problem("the load ended early: %s", in.Facts.LoadError)
	}
	oks := map[Demand]int{}
	for i := range h.Ops {
		if o := &h.Ops[i]; o.Outcome == history.OK && o.Phase == history.Load {
			oks[Demand{o.Kind, o.Level}]++
		}
	}
	for _, d := range in.Demands {
		if n := oks[d]; n < minimum && in.Facts.Aborted == nil {
			problem("only %d ok %s, expected %d at least", n, strings.TrimSpace(d.Kind+" "+d.Level), minimum)
		}
	}
	for _, say := range thinPhases(in, windows, oks) {
		problem("%s", say)
	}
	for _, say := range in.unforeseen() {
		problem("%s", say)
	}
	if in.Limit.LostWrites && len(in.Written) > 0 && !slices.ContainsFunc(in.Written, func(c string) bool { return !in.forgets(c) }) {
		problem("every cache of the load evicted entries or let them expire: what is missing cannot be told from what was lost")
	}
	took, tolerated := injections(in, windows, problem)
	if in.Limit.LostWrites && !in.Facts.FinalReads {
		problem("not every key was read on every node at the end: %s", cmp.Or(in.Facts.FinalError, "the run ended before"))
	}
	c := result.Check{Name: "run validity", Verdict: result.Pass, Checked: int64(len(h.Ops)), Examples: problems}
	if len(problems) > 0 {
		c.Verdict, c.Count, c.Detail = result.Unknown, int64(len(problems)), problems[0]
		if len(problems) > 1 {
			c.Detail += fmt.Sprintf(" (and %d more)", len(problems)-1)
		}
		if len(m.poor) > 0 {
			c.Detail += "; " + m.describe(in)
		}
		return c
	}
	c.Detail = fmt.Sprintf("%d operations recorded, %d of %d faults took effect", len(h.Ops), took, len(in.Planned))
	if a := in.Facts.Aborted; a != nil {
		c.Detail += fmt.Sprintf(", until %s %s aborted the run at %.3fs", a.Metric, a.Expr, a.At.Seconds())
	}
	if say := m.describe(in); say != "" {
		c.Detail += "; " + say
	}
	c.Examples = tolerated
	if len(tolerated) > 0 {
		c.Detail += fmt.Sprintf(" (%s)", strings.Join(tolerated, "; "))
	}
	return c
}

// thinPhases names the phases in which the load was hardly there: a load that
// stops at the first fault shows nothing about faults. How much is to be
// expected of a phase goes by its length; a tenth of that is enough. A fault
// that hits a majority leaves nothing to expect.
func thinPhases(in *Input, windows []result.Window, all map[Demand]int) (say []string) {
	length := map[string]time.Duration{}
	from := in.Facts.LoadFrom
	for _, edge := range edges(windows, in.Facts.LoadFrom, in.Facts.LoadTo) {
		length[PhaseAt(windows, from)] += edge - from
		from = edge
	}
	if len(windows) == 0 || slices.ContainsFunc(windows, func(w result.Window) bool { return len(hitDuring(in, windows, w)) > (len(in.Nodes)-1)/2 }) {
		return nil
	}
	type part struct {
		phase string
		of    Demand
	}
	oks := map[part]int{}
	phase := phases(windows)
	for i := range in.History.Ops {
		if o := &in.History.Ops[i]; o.Outcome == history.OK && o.Phase == history.Load {
			oks[part{phase(o.Intended), Demand{o.Kind, o.Level}}]++
		}
	}
	whole := float64(in.Facts.LoadTo - in.Facts.LoadFrom)
	for _, d := range in.Demands {
		for _, phase := range []string{"before", "during", "recovery"} {
			need := int(min(minimum, 0.1*float64(all[d])*float64(length[phase])/whole))
			if n := oks[part{phase, d}]; n < need {
				say = append(say, fmt.Sprintf("only %d ok %s %s faults, expected %d at least", n, strings.TrimSpace(d.Kind+" "+d.Level), map[string]string{"before": "before the", "during": "during", "recovery": "after"}[phase], need))
			}
		}
	}
	return say
}

// edges returns the moments between from and to at which a fault began or ended,
// and to, in order.
func edges(windows []result.Window, from, to time.Duration) []time.Duration {
	out := []time.Duration{to}
	for _, w := range windows {
		for _, t := range []time.Duration{w.From, w.To} {
			if from < t && t < to {
				out = append(out, t)
			}
		}
	}
	slices.Sort(out)
	return out
}

// tolerable is the share of the injections of a series that may fail without
// making the run invalid: it says less then, but what it says is true.
const tolerable = 0.1

// tolerableDrawn is the same of faults that were drawn without a look at what
// the cluster is like at that moment, such as a reset of a link that has no
// connection.
const tolerableDrawn = 0.35

// injections counts the planned injections that took effect, and reports what
// was wrong with the others: each one that stands alone, and the series of
// which too many were wrong. What was tolerated is returned.
func injections(in *Input, windows []result.Window, problem func(format string, args ...any)) (took int, tolerated []string) {
	window := map[string]*result.Window{}
	for i := range windows {
		window[windows[i].Fault] = &windows[i]
	}
	skipped := map[string]bool{}
	for _, e := range in.Events {
		if e.Kind == result.Note && e.Action == Skipped {
			skipped[e.Fault] = true
		}
	}
	type tally struct {
		all, bad, skipped int
		first             string
		drawn             bool
	}
	series := map[string]*tally{}
	var order []string
	for _, p := range in.Planned {
		wrong := ""
		switch w := window[p.Name]; {
		case w == nil && skipped[p.Name]:
			wrong = fmt.Sprintf("fault %q was skipped: the nodes were not ready", p.Name)
		case w == nil && in.Facts.Aborted != nil: // its time did not come
			continue
		case w == nil:
			wrong = fmt.Sprintf("fault %q was not injected", p.Name)
		case w.Open:
			wrong = fmt.Sprintf("fault %q was not healed", p.Name)
		case w.Bit == nil:
			wrong = fmt.Sprintf("fault %q: it is not known whether it took effect", p.Name)
		case !*w.Bit:
			wrong = fmt.Sprintf("fault %q was not seen to take effect: %s", p.Name, cmp.Or(w.Detail, "no evidence"))
		default:
			took++
		}
		if p.Series == "" {
			if wrong != "" {
				problem("%s", wrong)
			}
			continue
		}
		t := series[p.Series]
		if t == nil {
			t = new(tally)
			series[p.Series] = t
			order = append(order, p.Series)
		}
		t.all++
		t.drawn = p.Drawn
		if wrong == "" {
			continue
		}
		t.bad++
		t.first = cmp.Or(t.first, wrong)
		if skipped[p.Name] {
			t.skipped++
		}
	}
	for _, name := range order {
		t := series[name]
		say := fmt.Sprintf("%s: %d of %d injections without effect, %d of them skipped", name, t.bad, t.all, t.skipped)
		switch {
		case float64(t.bad) > map[bool]float64{false: tolerable, true: tolerableDrawn}[t.drawn]*float64(t.all):
			problem("%s; the first: %s", say, t.first)
		case t.bad > 0:
			tolerated = append(tolerated, say)
		}
	}
	return took, tolerated
}

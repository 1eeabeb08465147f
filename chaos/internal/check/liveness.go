package check

import (
	"fmt"
	"slices"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// liveness checks that no process ended that was not told to, that no node
// logged what only a defect writes, and that writes go on: within the time that
// the scenario gives, after each heal, and all the time in which at most a
// minority of the nodes is hit.
//
// How long something took is not held against nodes that the machine starved:
// that is unknown. A process that ended, or a panic, is what it is.
func liveness(in *Input, windows []result.Window, m *machine) result.Check {
	c := result.Check{Name: "liveness", Verdict: result.Pass, Checked: int64(len(in.Nodes))}
	if in.Facts.LoadFrom == 0 && len(in.Facts.LogFindings) == 0 {
		c.Verdict, c.Detail = result.NotExercised, "the run ended before the load began"
		return c
	}
	for _, e := range in.Events {
		if e.Kind != result.Process || e.State != result.ProcessExited || in.Facts.Stopping > 0 && e.T >= in.Facts.Stopping {
			continue
		}
		told := slices.ContainsFunc(windows, func(w result.Window) bool {
			return slices.Contains(ending, w.Action) && slices.Contains(w.Targets, e.Node) && w.From <= e.T+tolerance && e.T <= w.To+tolerance
		})
		if !told {
			c.Examples = append(c.Examples, fmt.Sprintf("%s ended on its own at %.3fs: %s", e.Node, e.T.Seconds(), e.Detail))
		}
	}
	c.Examples = append(c.Examples, in.Facts.LogFindings...)
	var excused []string
	if in.Limit.Recovery > 0 {
		for _, s := range standstills(in, windows) {
			if why := m.excuse(s.from, s.to, m.others(func(n string) bool { return s.hit[n] }), m.majority()); why != "" {
				excused = append(excused, s.say+": "+why)
				continue
			}
			c.Examples = append(c.Examples, s.say)
		}
	}
	if c.Count = int64(len(c.Examples)); c.Count > 0 {
		c.Verdict, c.Detail = result.Violated, c.Examples[0]
		c.Examples = append(c.Examples, excused...)
		return c
	}
	if len(excused) > 0 {
		c.Verdict, c.Count, c.Detail, c.Examples = result.Unknown, int64(len(excused)), excused[0], excused
		return c
	}
	c.Detail = "no process ended on its own, no panic or data race in a log"
	if in.Elsewhere {
		c.Detail = "nobody looked at processes and logs"
		if in.Limit.Recovery == 0 {
			c.Verdict, c.Detail = result.NotExercised, in.Cannot[c.Name]
		}
	}
	if in.Limit.Recovery > 0 {
		c.Detail += fmt.Sprintf("; quorum writes went on within %v", in.Limit.Recovery)
	}
	return c
}

// standstill is a time without a quorum write although a majority was not hit.
type standstill struct {
	say      string
	from, to time.Duration
	hit      map[string]bool // nodes
}

// standstills says where no quorum write was acknowledged for too long, as the
// probes saw it. A time that ends with the next fault or the load says nothing
// if it was shorter than the limit.
func standstills(in *Input, windows []result.Window) (all []standstill) {
	found := func(from, to time.Duration, hit map[string]bool, format string, args ...any) {
		all = append(all, standstill{fmt.Sprintf(format, args...), from, to, hit})
	}
	limit := in.Limit.Recovery
	minority := (len(in.Nodes) - 1) / 2
	for _, r := range recoveries(in, windows) {
		moment := result.Window{From: r.from.To, To: r.from.To}
		others := slices.DeleteFunc(slices.Clone(windows), func(w result.Window) bool { return w.Fault == r.from.Fault || w.To <= r.from.To })
		if hit := hitDuring(in, others, moment); r.took > limit && len(hit) <= minority {
			found(r.from.To, r.from.To+r.took, hit, "after %s was healed at %.3fs no quorum write was acknowledged for %v", r.from.Fault, r.from.To.Seconds(), r.took.Round(time.Millisecond))
		}
	}
	oks := probeOKs(in.History)["quorum"]
	for _, w := range windows {
		// What makes all links slow breaks no node, and leaves none unhit either.
		slow := !slices.Contains(disturbing, w.Action) && len(w.Targets) > minority
		hit := hitDuring(in, windows, w)
		if in.harmless(w.Fault) || slow || w.To-w.From <= limit || len(hit) > minority {
			continue
		}
		until := in.Facts.LoadTo // or the next fault, of which this one cannot be blamed
		for _, x := range windows {
			if x.From > w.To {
				until = min(until, x.From)
			}
		}
		if g, ok := gapAt(endAt(oks, until), w.Targets, w.From, w.To); ok && g.to-g.from > limit {
			found(g.from, g.to, hit, "during %s no quorum write was acknowledged through another node for %v, from %.3fs on", w.Fault, (g.to - g.from).Round(time.Millisecond), g.from.Seconds())
		} else if !ok {
			found(w.From, w.To, hit, "during %s no quorum write was acknowledged through another node", w.Fault)
		}
	}
	return all
}

// hitDuring returns the nodes that were broken at some time of a window, or had
// not yet recovered from it.
func hitDuring(in *Input, windows []result.Window, during result.Window) map[string]bool {
	hit := map[string]bool{}
	for _, w := range windows {
		if in.harmless(w.Fault) || !slices.Contains(disturbing, w.Action) || w.From > during.To || w.To+rejoin < during.From {
			continue
		}
		for _, n := range w.Targets {
			hit[n] = true
		}
	}
	return hit
}

// tolerance covers the time between a signal and its event.
const tolerance = 100 * time.Millisecond

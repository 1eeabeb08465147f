package compare

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/hacache/hacache/reports/result"
)

// Rules of the gate.
const (
	Alpha         = 0.05 // of all metrics together
	LeastPairs    = 8    // fewer rounds that both sides have are no comparison
	LeastUnpaired = 6    // runs of each side; the least p is then 1/924, and seven metrics can share 5 %
)

// Outcome is what the gate has to say, of one metric or of all.
type Outcome string

const (
	Passed       Outcome = "pass"         // no loss beyond the limit was shown
	Failed       Outcome = "FAIL"         // a loss beyond the limit, beyond doubt
	Inconclusive Outcome = "inconclusive" // it looks like one, and may be chance: more rounds
	Neutral      Outcome = "neutral"      // it still looks like one after all rounds there are to be
	Undecided    Outcome = "unknown"      // too few rounds that count
	Shown        Outcome = "not judged"   // the metric has no limit

	// Of a comparison that judges nothing.
	Better Outcome = "better" // the interval does not reach no change
	Worse  Outcome = "worse"
	Same   Outcome = "~" // no difference was shown, which is not the same as none
)

// Difference is one metric of two sides. Effect, its bounds and Change are changes as shares of the base: 0.1 is a tenth more,
// whichever way is better.
type Difference struct {
	Metric
	Base, Head []float64 // values; with pairs, in the order of Rounds
	Rounds     []string  // whose values are paired; nil without pairs
	Dropped    []string  // rounds in which the generator was the limit on a side
	Effect     Estimate  // Low <= Value <= High, each bound one-sided with 95 %
	Absolute   float64   // the estimate of head - base, in the metric's unit
	P          float64   // of a loss no larger than the limit
	Adjusted   float64   // P by Holm's method over all metrics that are judged
	Outcome    Outcome
}

// IsLoss says whether the estimate is a loss.
func (d *Difference) IsLoss() bool {
	return d.Effect.Value != 0 && (d.Effect.Value > 0) != d.HigherBetter
}

// Gate is the judgement of head against base.
type Gate struct {
	Base, Head *Side
	Paired     bool
	Alpha      float64 // that this judgement spends
	Least      int     // rounds, or runs of each side, without which a metric is not judged
	Outcome    Outcome
	Broken     []string // what fails without statistics: violated invariants, changed leaders, allocations
	Notes      []string // what a reader must know to believe the rest
	Machines   []string // that the runs were made on
	// Foreign: the two sides were measured on different machines, so that nothing is judged.
	Foreign     bool
	Differences []Difference
}

// Options of [Judge].
type Options struct {
	// Paired compares round by round, by the names of the rounds.
	Paired bool
	// Alpha is the part of [Alpha] that this judgement may spend, when more rounds may follow it and be judged again: the parts
	// of all judgements of a comparison must not add up to more, or its false alarms would. 0 is all of it.
	Alpha float64
	// Final: there will be no more rounds, so that what is inconclusive is neutral.
	Final bool
	// Describe says how the sides differ, and judges nothing. What the generator limited is not left out, but noted.
	Describe bool
}

// Judge compares head with base. An error means that there is nothing to compare.
func Judge(base, head *Side, o Options) (*Gate, error) {
	if o.Alpha < 0 || o.Alpha > Alpha {
		return nil, fmt.Errorf("alpha %g: expected more than 0 and at most %g", o.Alpha, Alpha)
	}
	g := &Gate{Base: base, Head: head, Paired: o.Paired, Alpha: cmp.Or(o.Alpha, Alpha), Machines: processors(base, head)}
	for _, m := range metrics(base, head) {
		if d := difference(m, base, head, o); d != nil {
			g.Differences = append(g.Differences, *d)
		}
	}
	if len(g.Differences) == 0 {
		return nil, errors.New("the two sides have no metric in common")
	}
	if o.Describe {
		g.describe()
		return g, nil
	}
	g.Least = g.least()
	g.Foreign = !o.Paired && !slices.Equal(slices.Sorted(slices.Values(processors(base))), slices.Sorted(slices.Values(processors(head))))
	g.adjust()
	for i := range g.Differences {
		g.judge(&g.Differences[i], o.Final)
	}
	g.Broken = slices.Concat(violations(head), moreAllocs(base.Allocs, head.Allocs), moreErrors(base, head))
	g.Notes = g.remarks()
	g.Outcome = g.worst()
	return g, nil
}

// difference measures one metric; nil if a side does not have it at all.
func difference(m Metric, base, head *Side, o Options) *Difference {
	paired := o.Paired
	bs, blimited := base.values(m.Name, o.Describe)
	hs, hlimited := head.values(m.Name, o.Describe)
	d := &Difference{Metric: m, Outcome: Shown, P: 1, Adjusted: 1}
	for i := range base.Rounds {
		name := base.Rounds[i].Name
		if blimited[name] || paired && hlimited[name] {
			d.Dropped = append(d.Dropped, name)
			continue
		}
		b, haveBase := bs[name]
		h, haveHead := hs[name]
		if haveBase && (haveHead || !paired) {
			d.Base = append(d.Base, b)
			if paired {
				d.Head, d.Rounds = append(d.Head, h), append(d.Rounds, name)
			}
		}
	}
	for i := range head.Rounds {
		name := head.Rounds[i].Name
		switch h, have := hs[name]; {
		case paired:
		case hlimited[name]:
			d.Dropped = append(d.Dropped, name)
		case have:
			d.Head = append(d.Head, h)
		}
	}
	if len(bs)+len(blimited) == 0 || len(hs)+len(hlimited) == 0 && (o.Describe || m.Limit == 0) {
		return nil // what only head has cannot be compared; what only head lacks is not known
	}
	if len(d.Base) > 0 && len(d.Head) > 0 {
		d.estimate(paired)
	}
	return d
}

// estimate fills in what follows from the values.
func (d *Difference) estimate(paired bool) {
	var loss Estimate
	if paired {
		losses, diffs := make([]float64, len(d.Base)), make([]float64, len(d.Base))
		for i := range d.Base {
			losses[i], diffs[i] = d.loss(d.Base[i], d.Head[i]), d.Head[i]-d.Base[i]
		}
		loss, d.Absolute, d.P = PairedShift(losses, Alpha), PairedShift(diffs, Alpha).Value, SignedRank(losses, d.margin())
	} else {
		// Against 1 a loss is a logarithm of its own; those of the two sides differ by the loss between them.
		logs := func(values []float64) []float64 {
			out := make([]float64, len(values))
			for i, v := range values {
				out[i] = d.loss(1, v)
			}
			return out
		}
		b, h := logs(d.Base), logs(d.Head)
		loss, d.Absolute, d.P = Shift(b, h, Alpha), Shift(d.Base, d.Head, Alpha).Value, RankSum(b, h, d.margin())
	}
	d.Effect = Estimate{d.share(loss.Value), d.share(loss.Low), d.share(loss.High)}
	if d.HigherBetter {
		d.Effect.Low, d.Effect.High = d.Effect.High, d.Effect.Low
	}
}

// least is how many rounds a metric needs: with fewer than that not even a loss in every one of them could fail, after
// Holm's correction, and to let that pass would be to say what was not looked at.
func (g *Gate) least() int {
	judged := 0
	for i := range g.Differences {
		if g.Differences[i].Limit > 0 {
			judged++
		}
	}
	if !g.Paired {
		n, ways := 1, 2.0 // to choose n of 2n
		for ; n < LeastUnpaired || float64(judged) > g.Alpha*ways; n++ {
			ways *= float64(2*n+1) * 2 / float64(n+1)
		}
		return n
	}
	n := LeastPairs
	for float64(judged) > g.Alpha*math.Exp2(float64(n)) {
		n++
	}
	return n
}

// enough says whether there are enough values to judge.
func (g *Gate) enough(d *Difference) bool {
	return min(len(d.Base), len(d.Head)) >= g.Least // of pairs there are as many of each
}

// describe says of each metric which way it went, as far as its interval tells.
func (g *Gate) describe() {
	g.Outcome = Shown
	for i := range g.Differences {
		d := &g.Differences[i]
		d.Limit, d.Outcome = 0, Same
		if d.Effect.Low > 0 || d.Effect.High < 0 {
			d.Outcome = map[bool]Outcome{true: Worse, false: Better}[d.IsLoss()]
		}
	}
	if limitedRuns(g.Base)+limitedRuns(g.Head) > 0 {
		g.Notes = append(g.Notes, "In some runs the load generator was the limit: their latencies are no verdict on the target.")
	}
	if len(g.Machines) > 1 {
		g.Notes = append(g.Notes, "The runs were made on different machines: "+strings.Join(g.Machines, "; ")+".")
	}
	if min(len(g.Base.Rounds), len(g.Head.Rounds)) < 4 {
		g.Notes = append(g.Notes, "An interval needs several runs of each side, four at least: by how much a metric moves between runs of one program is not known from one.")
	}
}

// limitedRuns counts the metrics that were limited by the generator.
func limitedRuns(s *Side) int {
	n := 0
	for i := range s.Rounds {
		for _, m := range s.Rounds[i].measurements() {
			if m.Limited {
				n++
			}
		}
	}
	return n
}

// adjust corrects the p-values for the number of metrics that are judged.
func (g *Gate) adjust() {
	var judged []int
	var ps []float64
	for i := range g.Differences {
		if d := &g.Differences[i]; d.Limit > 0 && g.enough(d) {
			judged, ps = append(judged, i), append(ps, d.P)
		}
	}
	for k, p := range Holm(ps) {
		g.Differences[judged[k]].Adjusted = p
	}
}

func (g *Gate) judge(d *Difference, final bool) {
	limit, loss := d.Limit, d.Effect.Value
	if d.HigherBetter {
		loss = -loss
	}
	material := math.Abs(d.Absolute) >= d.Floor
	switch {
	case limit == 0:
	case g.Foreign || !g.enough(d):
		d.Outcome = Undecided
	case d.Adjusted <= g.Alpha && material:
		d.Outcome = Failed
	case loss > limit && material && final:
		d.Outcome = Neutral
	case loss > limit && material:
		d.Outcome = Inconclusive
	default:
		d.Outcome = Passed
	}
}

// worst is the outcome of all: what fails outranks what is not known, which outranks what may be chance. Without a metric
// that is judged nothing is known.
func (g *Gate) worst() Outcome {
	if len(g.Broken) > 0 {
		return Failed
	}
	for _, o := range []Outcome{Failed, Undecided, Inconclusive, Neutral, Passed} {
		if slices.ContainsFunc(g.Differences, func(d Difference) bool { return d.Outcome == o }) {
			return o
		}
	}
	return Undecided
}

// ExitCode is 98 for a regression, 96 when nothing can be concluded yet, else 0.
func (g *Gate) ExitCode() int {
	switch g.Outcome {
	case Failed:
		return result.ExitRegression
	case Undecided, Inconclusive:
		return result.ExitUnknown
	}
	return result.ExitOK
}

// Unsure is the metrics that more rounds might decide.
func (g *Gate) Unsure() []string {
	var names []string
	for _, d := range g.Differences {
		if d.Outcome == Inconclusive {
			names = append(names, d.Name)
		}
	}
	return names
}

// violations is every check that a run of the side violated.
func violations(s *Side) []string {
	var out []string
	for _, round := range s.Rounds {
		for _, r := range round.Runs {
			for _, c := range r.Checks {
				if c.Verdict == result.Violated {
					out = append(out, strings.TrimSuffix(fmt.Sprintf("%s in round %s: %s: %s", r.Name, round.Name, c.Name, c.Detail), ": "))
				}
			}
		}
	}
	return out
}

// moreAllocs is every benchmark that allocates more often than before. One that is new or gone says nothing.
func moreAllocs(base, head map[string]float64) []string {
	var out []string
	for name, h := range head {
		if b, ok := base[name]; ok && h > b {
			out = append(out, fmt.Sprintf("%s: %g allocations per operation, %g before", name, h, b))
		}
	}
	slices.Sort(out)
	return out
}

// limitErrors is the largest share of operations without an ok that head may have more than the base. A percentile is of oks: a
// program that refuses the slow half of its load is not faster.
const limitErrors = 0.01

// moreErrors is every series of a load without faults of which more failed than before. The warm-up is left out, and what the
// generator limited or never sent.
func moreErrors(base, head *Side) []string {
	type tally struct{ sent, bad int64 }
	tallies := func(s *Side) (all map[string]*tally, names []string) {
		all = map[string]*tally{}
		for _, round := range s.Rounds {
			for _, r := range round.Runs {
				if r.Kind != result.KindBench || r.Saturation != nil {
					continue
				}
				for i := range r.Series {
					x := &r.Series[i]
					if x.Limited || slices.Contains(warmUp, x.Phase) {
						continue
					}
					t := all[x.ID()]
					if t == nil {
						t = new(tally)
						all[x.ID()], names = t, append(names, x.ID())
					}
					t.sent += x.Counts.Intended - x.Counts.Missed
					t.bad += x.Counts.Fail + x.Counts.Info + x.Counts.Unfinished
				}
			}
		}
		return all, names
	}
	before, _ := tallies(base)
	after, names := tallies(head)
	var out []string
	for _, name := range names {
		h, b := after[name], before[name]
		if b == nil || b.sent == 0 || h.sent == 0 {
			continue
		}
		if was, is := float64(b.bad)/float64(b.sent), float64(h.bad)/float64(h.sent); is > was+limitErrors {
			out = append(out, fmt.Sprintf("%s: %.3g %% of the operations were not ok, %.3g %% before", name, 100*is, 100*was))
		}
	}
	return out
}

func (g *Gate) remarks() []string {
	var notes []string
	if !g.Paired {
		notes = append(notes, "The runs are not paired: what the machine did between those of one side and those of the other is part of the difference. A paired gate (make gate) is the stronger test.")
	}
	for _, v := range violations(g.Base) {
		notes = append(notes, "The base is broken itself: "+v)
	}
	dropped := map[string]bool{}
	for _, d := range g.Differences {
		for _, r := range d.Dropped {
			dropped[r] = true
		}
	}
	if len(dropped) > 0 {
		notes = append(notes, fmt.Sprintf("Rounds in which the load generator was the limit on one side: %d. What it measured is left out on both.", len(dropped)))
	}
	if len(g.Machines) > 1 {
		notes = append(notes, "The runs were made on different machines: "+strings.Join(g.Machines, "; ")+".")
	}
	if g.Foreign {
		notes = append(notes, "Numbers of one machine say nothing about those of another: no metric is judged. Measure the base on this machine, or use a paired gate.")
	}
	return notes
}

// processors is the machines that the runs were made on, as far as they can be told apart.
func processors(sides ...*Side) []string {
	var out []string
	for _, s := range sides {
		for _, round := range s.Rounds {
			for _, r := range round.Runs {
				if r.Environment == nil {
					continue
				}
				cpu := fmt.Sprintf("%s, %d cores", r.Environment.CPUModel, r.Environment.Cores)
				if m := r.Environment.Memory; m > 0 { // whole gigabytes: a kernel takes a little, and not always as much
					cpu += fmt.Sprintf(", %.0f GiB", math.Ceil(float64(m)/(1<<30)))
				}
				if !slices.Contains(out, cpu) {
					out = append(out, cpu)
				}
			}
		}
	}
	return out
}

package result

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Merged is what several runs of one load are together.
type Merged struct {
	Run       *Run
	Totals    []Histogram // of each phase
	Intervals []Histogram
}

// part is one run that is merged.
type part struct {
	dir       string
	run       *Run
	shift     time.Duration // of its time axis against that of the whole
	totals    []Histogram
	intervals []Histogram
}

// name is what the whole calls the part.
func (p *part) name() string {
	if s := p.run.Segment; s != nil {
		return fmt.Sprintf("segment %d/%d", s.Index+1, s.Of)
	}
	return filepath.Base(p.dir)
}

// Merge adds up the runs of one load that several machines offered: counts by
// addition, distributions bucket by bucket, and percentiles from these. No
// percentile is ever made of percentiles. Runs that say which segment they are
// must be different segments of one load, of one seed.
func Merge(dirs []string) (*Merged, error) {
	if len(dirs) == 0 {
		return nil, errors.New("merge: no run directory")
	}
	var parts []*part
	for _, dir := range dirs {
		p, err := readPartOf(dir)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	if err := compatible(parts); err != nil {
		return nil, err
	}
	slices.SortStableFunc(parts, func(a, b *part) int {
		if a.run.Segment == nil || b.run.Segment == nil {
			return 0
		}
		return cmp.Compare(a.run.Segment.Index, b.run.Segment.Index)
	})
	started := parts[0].run.Started
	for _, p := range parts {
		if p.run.Started.Before(started) {
			started = p.run.Started
		}
	}
	for _, p := range parts {
		// Clocks that were set by hand apart, segments that start at one moment
		// differ by what it took to read the clock.
		if p.shift = p.run.Started.Sub(started); p.shift < time.Millisecond {
			p.shift = 0
		}
	}
	m := &Merged{Run: &Run{Kind: KindBench, Name: parts[0].run.Name, About: parts[0].run.About, Started: started}}
	m.mergeTotals(parts)
	m.mergeIntervals(parts)
	m.mergeRest(parts)
	m.Run.Judge()
	return m, nil
}

func readPartOf(dir string) (*part, error) {
	p := &part{dir: dir}
	var err error
	if p.run, err = Read(dir); err != nil {
		return nil, err
	}
	if p.run.Kind != KindBench {
		return nil, fmt.Errorf("%s: a run of kind %s, expected %s", dir, p.run.Kind, KindBench)
	}
	for file, into := range map[string]*[]Histogram{TotalsFile: &p.totals, HistogramLogFile: &p.intervals} {
		path := filepath.Join(dir, file)
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: not there, and percentiles cannot be merged without it", path)
		}
		if err != nil {
			return nil, err
		}
		*into, err = ReadHistograms(f, path)
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return p, p.whole()
}

// whole checks that the distributions are of all operations that were counted: a log that was cut would make percentiles of
// what is left, without a word.
func (p *part) whole() error {
	counted, there := map[Distribution]int64{}, map[Distribution]int64{}
	for _, s := range p.run.Series {
		for _, quantity := range []string{QuantityResponse, QuantityService, QuantityLag} {
			if s.Closed && quantity == QuantityLag {
				continue // it has none
			}
			of := func(outcome string) Distribution { return Distribution{s.Phase, s.Op, s.Level, outcome, quantity} }
			counted[of(OutcomeOK)] += s.Counts.OK
			counted[of(OutcomeFail)] += s.Counts.Fail
			counted[of(OutcomeInfo)] += s.Counts.Info + s.Counts.Unfinished
		}
	}
	for _, h := range p.totals {
		there[h.Distribution] += h.TotalCount()
	}
	for d, n := range counted {
		if there[d] != n {
			return fmt.Errorf("%s: %d values of %s, %s counts %d operations: not all of it is there", filepath.Join(p.dir, TotalsFile), there[d], d.Tag(), SummaryFile, n)
		}
	}
	return nil
}

// compatible checks that the runs are parts of one load.
func compatible(parts []*part) error {
	seen := map[int64]string{}
	first := parts[0]
	for _, p := range parts {
		a, b := first.run.Segment, p.run.Segment
		switch {
		case (a == nil) != (b == nil):
			return fmt.Errorf("%s is a segment of a load and %s is not", first.dir, p.dir)
		case b == nil:
			continue
		case a.Of != b.Of:
			return fmt.Errorf("%s is one of %d segments, %s one of %d", first.dir, a.Of, p.dir, b.Of)
		case seen[b.Index] != "":
			return fmt.Errorf("%s and %s are both segment %d/%d", seen[b.Index], p.dir, b.Index+1, b.Of)
		case first.run.Environment != nil && p.run.Environment != nil && first.run.Environment.Seed != p.run.Environment.Seed:
			return fmt.Errorf("%s has seed %d, %s seed %d: not parts of one load", first.dir, first.run.Environment.Seed, p.dir, p.run.Environment.Seed)
		}
		seen[b.Index] = p.dir
	}
	return nil
}

// mergeTotals adds up series and phases.
func (m *Merged) mergeTotals(parts []*part) {
	type id struct{ phase, op, level string }
	series := map[id]*Series{}
	var order []id
	for _, p := range parts {
		for _, s := range p.run.Series {
			k := id{s.Phase, s.Op, s.Level}
			sum := series[k]
			if sum == nil {
				sum = &Series{Phase: s.Phase, Op: s.Op, Level: s.Level}
				series[k] = sum
				order = append(order, k)
			}
			sum.Closed = sum.Closed || s.Closed
			sum.Limited = sum.Limited || s.Limited
			sum.Saturated = sum.Saturated || s.Saturated
			sum.InFlight += s.InFlight
			sum.Clamped += s.Clamped
			sum.Span = max(sum.Span, s.Span)
			sum.Counts.Add(&s.Counts)
		}
		for _, ph := range p.run.Phases {
			ph.From, ph.To = ph.From+p.shift, ph.To+p.shift
			i := slices.IndexFunc(m.Run.Phases, func(o Phase) bool { return o.Name == ph.Name })
			if i < 0 {
				m.Run.Phases = append(m.Run.Phases, ph)
				continue
			}
			m.Run.Phases[i].From = min(m.Run.Phases[i].From, ph.From)
			m.Run.Phases[i].To = max(m.Run.Phases[i].To, ph.To)
		}
		m.Run.Duration = max(m.Run.Duration, p.run.Duration+p.shift)
	}
	slices.SortStableFunc(m.Run.Phases, func(a, b Phase) int { return cmp.Compare(a.From, b.From) })

	sums := map[Distribution]*Histogram{}
	for _, p := range parts {
		for _, h := range p.totals {
			h.From, h.To = h.From+p.shift, h.To+p.shift
			addTo(sums, h.Distribution, h)
		}
	}
	for _, p := range parts {
		for _, h := range p.totals { // in the order in which they stand in the files
			if sum := sums[h.Distribution]; sum != nil {
				m.Totals = append(m.Totals, *sum)
				delete(sums, h.Distribution)
			}
		}
	}
	for _, k := range order {
		s := series[k]
		if s.Span > 0 {
			s.Throughput = float64(s.Counts.OK) / s.Span.Seconds()
			if !s.Closed {
				s.Offered = float64(s.Counts.Intended) / s.Span.Seconds()
			}
		}
		s.Measure(func(outcome, quantity string) *hdrhistogram.Histogram {
			i := slices.IndexFunc(m.Totals, func(h Histogram) bool {
				return h.Distribution == Distribution{s.Phase, s.Op, s.Level, outcome, quantity}
			})
			if i < 0 {
				return nil
			}
			return m.Totals[i].Histogram
		})
		m.Run.Series = append(m.Run.Series, *s)
	}
}

// addTo adds a histogram to the one with the same key.
func addTo[K comparable](sums map[K]*Histogram, k K, h Histogram) {
	sum := sums[k]
	if sum == nil {
		h.Histogram = h.Histogram.Clone()
		sums[k] = &h
		return
	}
	sum.From, sum.To = min(sum.From, h.From), max(sum.To, h.To)
	sum.Merge(h.Histogram)
}

// mergeIntervals adds up the rows of the time series, slot by slot, to the two digits of the histogram log. Rows that a
// part cut short belong to the slot in which they begin.
func (m *Merged) mergeIntervals(parts []*part) {
	width := usualWidth(parts)
	if width == 0 {
		return
	}
	slot := func(t time.Duration) time.Duration {
		return time.Duration(math.Floor(float64(t+time.Millisecond/2)/float64(width))) * width
	}
	type id struct {
		at               time.Duration
		phase, op, level string
	}
	rows := map[id]*Interval{}
	for _, p := range parts {
		for _, r := range p.run.Intervals {
			k := id{slot(r.T + p.shift), r.Phase, r.Op, r.Level}
			row := rows[k]
			if row == nil {
				row = &Interval{T: k.at, Width: width, Phase: r.Phase, Op: r.Op, Level: r.Level}
				rows[k] = row
			}
			row.OK += r.OK
			row.Fail += r.Fail
			row.Info += r.Info
			row.Missed += r.Missed
			row.Refused += r.Refused
		}
	}
	type placed struct {
		at time.Duration
		Distribution
	}
	sums := map[placed]*Histogram{}
	for _, p := range parts {
		for _, h := range p.intervals {
			at := slot(h.From + p.shift)
			h.From, h.To = at, at+width
			addTo(sums, placed{at, h.Distribution}, h)
		}
	}
	for k, r := range rows {
		of := func(outcome, quantity string) *hdrhistogram.Histogram {
			if h := sums[placed{k.at, Distribution{k.phase, k.op, k.level, outcome, quantity}}]; h != nil {
				return h.Histogram
			}
			return nil
		}
		response := of(OutcomeOK, QuantityResponse)
		q := Quantiles(response, 0.5, 0.9, 0.99)
		r.P50, r.P90, r.P99 = q[0], q[1], q[2]
		if response != nil {
			r.Max = time.Duration(response.Max())
		}
		r.LagP99 = Quantiles(SumOf(of(OutcomeOK, QuantityLag), of(OutcomeFail, QuantityLag), of(OutcomeInfo, QuantityLag)), 0.99)[0]
		m.Run.Intervals = append(m.Run.Intervals, *r)
	}
	order := func(r *Interval) int {
		return slices.IndexFunc(m.Run.Series, func(s Series) bool { return s.Phase == r.Phase && s.Op == r.Op && s.Level == r.Level })
	}
	slices.SortFunc(m.Run.Intervals, func(a, b Interval) int { return cmp.Or(cmp.Compare(a.T, b.T), order(&a)-order(&b)) })
	for _, h := range sums {
		m.Intervals = append(m.Intervals, *h)
	}
	slices.SortFunc(m.Intervals, func(a, b Histogram) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.Tag(), b.Tag())) })
}

// usualWidth is the width that most intervals have, 0 if there are none.
func usualWidth(parts []*part) time.Duration {
	count := map[time.Duration]int{}
	var usual time.Duration
	for _, p := range parts {
		for _, r := range p.run.Intervals {
			w := r.Width.Round(time.Millisecond)
			count[w]++
			if n := count[w]; w > 0 && (n > count[usual] || n == count[usual] && w > usual) {
				usual = w
			}
		}
	}
	return usual
}

// mergeRest gathers what is not added up.
func (m *Merged) mergeRest(parts []*part) {
	r := m.Run
	whole := Check{Name: "all segments are there", Verdict: Pass}
	checks := map[string]*Check{}
	var order []string
	for _, p := range parts {
		name := p.name()
		for _, n := range p.run.Nodes {
			n.Log = ""
			if !slices.ContainsFunc(r.Nodes, func(o Node) bool { return o.Name == n.Name }) {
				r.Nodes = append(r.Nodes, n)
			}
		}
		for _, w := range p.run.Warnings {
			r.Warnings = append(r.Warnings, name+": "+w)
		}
		for _, t := range p.run.Thresholds {
			t.Metric = name + ": " + t.Metric
			r.Thresholds = append(r.Thresholds, t)
		}
		for _, e := range p.run.Events {
			e.T += p.shift
			r.Events = append(r.Events, e)
		}
		for _, u := range p.run.Resources {
			if u.T += p.shift; u.Node == "loadgen" {
				u.Node = name
			}
			r.Resources = append(r.Resources, u)
		}
		for _, c := range p.run.Checks {
			sum := checks[c.Name]
			if sum == nil {
				sum = &Check{Name: c.Name, Verdict: c.Verdict}
				checks[c.Name] = sum
				order = append(order, c.Name)
			}
			if weight(c.Verdict) > weight(sum.Verdict) {
				sum.Verdict = c.Verdict
			}
			sum.Count += c.Count
			sum.Checked += c.Checked
			sum.Worst = max(sum.Worst, c.Worst)
			if c.Detail != "" {
				sum.Detail = strings.TrimPrefix(sum.Detail+"; "+name+": "+c.Detail, "; ")
			}
			for _, x := range c.Examples {
				sum.Examples = append(sum.Examples, name+": "+x)
			}
		}
		if p.run.Failure != "" {
			r.Failure = strings.TrimPrefix(r.Failure+"; "+name+": "+p.run.Failure, "; ")
		}
		r.Interrupted = cmp.Or(r.Interrupted, p.run.Interrupted)
		if r.Environment == nil && p.run.Environment != nil {
			env := *p.run.Environment
			r.Environment = &env
		}
		if s := p.run.Segment; s != nil {
			whole.Checked = s.Of
		}
	}
	for _, name := range order {
		r.Checks = append(r.Checks, *checks[name])
	}
	if missing := whole.Checked - int64(len(parts)); whole.Checked > 0 {
		if missing > 0 {
			whole.Verdict, whole.Count = Unknown, missing
			whole.Detail = fmt.Sprintf("%d of %d are missing", missing, whole.Checked)
		}
		r.Checks = append(r.Checks, whole)
	}
	r.Warnings = append(r.Warnings, fmt.Sprintf("merged from %d runs; the environment is that of %s", len(parts), parts[0].name()))
}

// weight orders verdicts of one check by which of two counts for both: what one part exercised was exercised.
func weight(v Verdict) int {
	return slices.Index([]Verdict{NotExercised, Pass, Unknown, Violated}, v)
}

// Write writes the merged run into dir, which must exist: the files of [Write],
// both histogram logs and the percentiles.
func (m *Merged) Write(dir string) error {
	files, err := WriteDistributions(dir, m.Run.Started, m.Totals)
	if err != nil {
		return err
	}
	var log strings.Builder
	w := NewLogWriter(&log, m.Run.Started)
	for _, h := range m.Intervals {
		w.Write(h)
	}
	if err := errors.Join(w.Err(), ReplaceFile(filepath.Join(dir, HistogramLogFile), []byte(log.String()))); err != nil {
		return fmt.Errorf("write %s: %w", HistogramLogFile, err)
	}
	m.Run.Files = append([]File{{Path: HistogramLogFile, About: "histograms of each interval (HdrHistogram log, ns)"}}, files...)
	return Write(dir, m.Run)
}

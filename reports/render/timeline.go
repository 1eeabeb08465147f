package render

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/hacache/hacache/reports/result"
)

// What a page draws and tells of a run, however long it was. Its size follows from these numbers and from how many series
// and nodes there are; what is left out is in the files of the run directory.
const (
	// maxBins bounds what one series of one picture draws: more than one bin a pixel shows nothing further. All series
	// together draw allBins, but each at least leastBins.
	maxBins, allBins, leastBins = 1200, 6000, 100
	// maxSamples bounds the samples of all processes in a picture.
	maxSamples = 3000
	// maxStates bounds the states in all lanes of a picture.
	maxStates = 4000
	// maxTableRows bounds the table beside a picture; one of a course over time has maxCourseRows over the whole of it, and the
	// tables of all latencies together have allRows.
	maxTableRows, maxCourseRows, allRows = 400, 240, 1200
	// maxFaultRows bounds the rows of faults that are drawn each with its name.
	maxFaultRows = 8
)

// timeline makes the pictures that share the time axis of the run.
type timeline struct {
	run      *result.Run
	from, to float64 // seconds
	windows  []result.Window
	keys     []key
	rows     map[key][]result.Interval
	series   map[key]string // class of each key in the legends
	charts   []*chart
	names    nameSet // of the pictures
}

// key names a series on the time axis.
type key struct{ op, level string }

func (k key) String() string {
	if k.level == "" {
		return k.op
	}
	return k.op + " · " + k.level
}

func (k key) write() bool { return k.op != "get" && k.op != "ping" }

// levelLook gives each acknowledgement level its colour and glyph, in every picture.
func levelLook(k key) (variable string, g glyph) {
	switch k.level {
	case "quorum":
		return blue, disc
	case "leader":
		return orange, triangle
	case "once":
		return green, square
	}
	if !k.write() {
		switch k.level {
		case "linearizable":
			return sky, ring
		case "leader_on_miss", "leader-on-miss":
			return yellow, square
		}
		return purple, diamond
	}
	return sky, ring
}

// opDashes tells operations at the same level apart.
func opDashes(op string) []vg.Length {
	switch op {
	case "put":
		return []vg.Length{7, 3}
	case "del":
		return []vg.Length{2, 2}
	case "remove":
		return []vg.Length{7, 2, 2, 2}
	}
	return nil
}

func compareKeys(a, b key) int {
	rank := func(s string, order ...string) int {
		if i := slices.Index(order, s); i >= 0 {
			return i
		}
		return len(order)
	}
	ops := []string{"insert", "put", "remove", "del", "get"}
	levels := []string{"quorum", "leader", "once"}
	return cmp.Or(rank(a.op, ops...)-rank(b.op, ops...), cmp.Compare(a.op, b.op),
		rank(a.level, levels...)-rank(b.level, levels...), cmp.Compare(a.level, b.level))
}

func seconds(d time.Duration) float64 { return d.Seconds() }

func newTimeline(r *result.Run) *timeline {
	t := &timeline{run: r, windows: r.Windows(), rows: map[key][]result.Interval{}, series: map[key]string{}, names: nameSet{}}
	end := r.Duration
	for _, row := range r.Intervals {
		k := key{row.Op, row.Level}
		if t.rows[k] == nil {
			t.keys = append(t.keys, k)
		}
		t.rows[k] = append(t.rows[k], row)
		end = max(end, row.T+row.Width)
	}
	for _, e := range r.Events {
		end = max(end, e.T)
		t.from = min(t.from, seconds(e.T))
	}
	for _, x := range r.Resources {
		end = max(end, x.T)
	}
	for _, p := range r.Phases {
		end = max(end, p.To)
		t.from = min(t.from, seconds(p.From))
	}
	t.to = max(seconds(end), t.from+1e-3)
	slices.SortFunc(t.keys, compareKeys)
	classes := nameSet{}
	for _, k := range t.keys {
		t.series[k] = classes.unique(slug("op " + k.String()))
		slices.SortStableFunc(t.rows[k], func(a, b result.Interval) int { return cmp.Compare(a.T, b.T) })
		t.rows[k] = thinOut(t.fillGaps(joinSplit(t.rows[k])), min(maxBins, max(leastBins, allBins/len(t.keys))))
	}
	return t
}

// fillGaps puts an empty interval where a series has none although its load went on: between two rows of one phase, or
// of phases that touch. Nothing was answered there, which is the very thing to be seen.
func (t *timeline) fillGaps(rows []result.Interval) []result.Interval {
	phase := func(name string) (p result.Phase, ok bool) {
		i := slices.IndexFunc(t.run.Phases, func(p result.Phase) bool { return p.Name == name })
		if i < 0 {
			return p, false
		}
		return t.run.Phases[i], true
	}
	wentOn := func(a, b result.Interval) bool {
		if a.Phase == b.Phase {
			return true
		}
		from, ok1 := phase(a.Phase)
		to, ok2 := phase(b.Phase)
		return ok1 && ok2 && to.From <= from.To+a.Width
	}
	var out []result.Interval
	for _, r := range rows {
		if n := len(out); n > 0 {
			last := out[n-1]
			if end := last.T + last.Width; r.T > end && wentOn(last, r) {
				out = append(out, result.Interval{T: end, Width: r.T - end, Phase: last.Phase, Op: r.Op, Level: r.Level})
			}
		}
		out = append(out, r)
	}
	return out
}

// joinSplit puts together the rows of an interval in which one phase ended and the next began, since each has its own,
// and adds what is left over at the end of a phase to the interval before it: in a few milliseconds a rate is noise.
func joinSplit(rows []result.Interval) []result.Interval {
	var out []result.Interval
	for _, r := range rows {
		if n := len(out); n > 0 {
			last := &out[n-1]
			if r.T == last.T && r.Width == last.Width {
				join(last, r)
				continue
			}
			if r.T == last.T+last.Width && r.Width < last.Width/2 {
				last.Width += r.Width
				join(last, r)
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// join adds the operations of r to g: counts add up, and of each percentile the worst is kept, since percentiles of
// two distributions do not make one of their sum.
func join(g *result.Interval, r result.Interval) {
	g.OK, g.Fail, g.Info, g.Missed, g.Refused = g.OK+r.OK, g.Fail+r.Fail, g.Info+r.Info, g.Missed+r.Missed, g.Refused+r.Refused
	g.P50, g.P90, g.P99, g.Max, g.LagP99 = max(g.P50, r.P50), max(g.P90, r.P90), max(g.P99, r.P99), max(g.Max, r.Max), max(g.LagP99, r.LagP99)
}

// thinOut joins neighbours until about most are left.
func thinOut(rows []result.Interval, most int) []result.Interval {
	size := (len(rows) + most - 1) / most
	if size < 2 {
		return rows
	}
	var out []result.Interval
	for group := range slices.Chunk(rows, size) {
		g := group[0]
		for _, r := range group[1:] {
			if r.T > g.T+g.Width+g.Width/100 { // never across a gap
				out = append(out, g)
				g = r
				continue
			}
			g.Width = r.T + r.Width - g.T
			join(&g, r)
		}
		out = append(out, g)
	}
	return out
}

// figures draws everything that the run has data for, from top to bottom.
func (t *timeline) figures() []figure {
	t.stages()
	t.throughput()
	t.failures()
	t.latencies()
	t.roles()
	t.links()
	t.resources()
	// What has nothing to say in words has nothing to show either, such as a processor whose counter only ever restarted.
	t.charts = slices.DeleteFunc(t.charts, func(c *chart) bool { return c.table == nil || len(c.table.Rows) == 0 })
	var left, right vg.Length
	for _, c := range t.charts {
		l, r := c.margins()
		left, right = max(left, l), max(right, r)
	}
	figures := make([]figure, len(t.charts))
	for i, c := range t.charts {
		figures[i] = c.draw(left, right)
	}
	return figures
}

// chart begins a picture on the time axis, with the faults behind the data and, for count above 0, the grid.
func (t *timeline) chart(name, title string, height float64, count int, label func(v, step float64) string) *chart {
	c := newChart(t.names.unique(name), title, wide, height)
	c.X.Min, c.X.Max = t.from, t.to
	c.X.Tick.Marker = evenTicks{count: 12, label: secondsLabel}
	if label != nil {
		c.Y.Tick.Marker = evenTicks{count: count, label: label}
	}
	if count > 0 {
		c.Add(gridLines{style: c.line(stroke{grid, 1, nil}, 1, "")})
	}
	var spans [][2]float64
	for _, w := range t.windows {
		spans = append(spans, [2]float64{seconds(w.From), seconds(w.To)})
	}
	if len(spans) > 0 {
		c.Add(shades{spans, c.line(stroke{fault, 0, nil}, 0.13, ""), c.line(stroke{fault, 1, []vg.Length{3, 2}}, 0.9, "")})
	}
	t.charts = append(t.charts, c)
	return c
}

func (c *chart) label(variable string, size vg.Length) draw.TextStyle {
	s := c.X.Tick.Label
	s.Color = c.color(paint{variable: variable, opacity: 1})
	s.Font = font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
	s.XAlign, s.YAlign = draw.XLeft, draw.YCenter
	return s
}

// laneChart begins a picture of named rows.
func (t *timeline) laneChart(name, title string, names []string) *chart {
	const row = 22.0
	c := t.chart(name, title, row*float64(len(names))+24, 0, nil)
	c.Y.Min, c.Y.Max = 0, float64(len(names))
	marks := rowNames{}
	for i, n := range names {
		marks = append(marks, rowName{float64(len(names)-i) - 0.5, plainText(n, 24)})
	}
	c.Y.Tick.Marker = marks
	return c
}

// placeRows puts spans into as few rows as possible without overlap, in order of their start.
func placeRows(spans [][2]float64, gap float64) (rows []int, count int) {
	var ends []float64
	for _, s := range spans {
		row := slices.IndexFunc(ends, func(end float64) bool { return end+gap <= s[0] })
		if row < 0 {
			row = len(ends)
			ends = append(ends, 0)
		}
		ends[row] = s[1]
		rows = append(rows, row)
	}
	return rows, len(ends)
}

// stages shows the phases of the run and its faults by name.
func (t *timeline) stages() {
	var names []string
	var segments []segment
	c := &chart{} // for its inks until the number of rows is known
	phase := look{fill: draw.LineStyle{}, height: 0.8}
	tbl := &table{Head: []string{"what", "name", "from", "to", "targets", "seen to bite", "detail"}, File: result.EventsFile}
	perPixel := (t.to - t.from) / (wide - 100)

	var spans [][2]float64
	for _, p := range t.run.Phases {
		spans = append(spans, [2]float64{seconds(p.From), seconds(p.To)})
		tbl.add("phase", p.Name, formatTime(p.From), formatTime(p.To), "", "", "")
	}
	rows, count := placeRows(spans, 0)
	for i, p := range t.run.Phases {
		segments = append(segments, segment{row: rows[i], from: spans[i][0], to: spans[i][1], look: phase, label: plainText(p.Name, 60)})
	}
	for i := range count {
		names = append(names, map[bool]string{true: "phases"}[i == 0])
	}

	type mark struct {
		at   vg.Point
		bite bool
	}
	var starts []mark
	first := len(segments)
	spans = spans[:0]
	labels := make([]string, len(t.windows))
	for i, w := range t.windows {
		labels[i] = faultLabel(w)
		// The name of a short fault stands behind it and needs room of its own.
		spans = append(spans, [2]float64{seconds(w.From), max(seconds(w.To), seconds(w.From)+float64(len(labels[i])*7+14)*perPixel)})
		to, bite := formatTime(w.To), "not recorded"
		if w.Open {
			to = "never healed"
		}
		if w.Bit != nil {
			bite = map[bool]string{true: "yes", false: "NO"}[*w.Bit]
		}
		tbl.add("fault", labels[i], formatTime(w.From), to, strings.Join(w.Targets, ", "), bite, w.Detail)
	}
	rows, faultRows := placeRows(spans, 4*perPixel)
	grouped := faultRows > maxFaultRows
	if grouped {
		rows, faultRows = rowsByName(labels)
	}
	for i, w := range t.windows {
		row := count + rows[i]
		segments = append(segments, segment{row: row, from: seconds(w.From), to: seconds(w.To)})
		starts = append(starts, mark{vg.Point{X: vg.Length(seconds(w.From)), Y: vg.Length(row)}, w.Bit == nil || *w.Bit})
	}
	for i := range faultRows {
		names = append(names, map[bool]string{true: "faults"}[i == 0])
	}
	if len(names) == 0 {
		return
	}

	title := "Phases and faults"
	if len(t.windows) == 0 {
		title = "Phases"
	}
	c = t.laneChart("stages", title, names)
	c.table = tbl
	c.desc = fmt.Sprintf("%d phases and %d faults on the time axis of the run.", len(t.run.Phases), len(t.windows))
	phase.fill, phase.edge = c.line(stroke{grid, 0, nil}, 1, ""), c.line(stroke{surface, 2, nil}, 1, "")
	fill := look{fill: c.line(stroke{fault, 0, nil}, 0.35, ""), edge: c.line(stroke{fault, 1, nil}, 1, ""), height: 0.8}
	for i := range segments {
		if i < first {
			segments[i].look = phase
		} else {
			segments[i].look = fill
		}
	}
	total := len(names)
	c.Add(lanes{rows: total, segments: segments, text: c.label(ink, 11)})
	text := c.label(ink, 11)
	for i, m := range starts {
		if labels[i] == "" {
			continue // its row is named
		}
		y := float64(total) - float64(m.at.Y) - 0.5
		n := note{x: max(float64(m.at.X), t.from), y: y, text: labels[i], style: text}
		if grouped {
			n.back = c.line(stroke{surface, 0, nil}, 0.85, "") // the next faults of the row are behind it
		}
		c.Add(n)
	}
	c.live = t.liveWindows()
}

// repetition is what a scenario puts behind the name of a fault that it repeats.
var repetition = regexp.MustCompile(` #[0-9]+$`)

// rowsByName gives the faults of each name a row of their own, the last of which the least frequent names share, and names
// each row once, where its first fault is.
func rowsByName(labels []string) (rows []int, count int) {
	number := map[string]int{}
	for i, l := range labels {
		labels[i] = repetition.ReplaceAllString(l, "")
		number[labels[i]]++
	}
	names := sortedKeys(number)
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(number[b], number[a]) })
	others := 0
	for _, n := range names[min(len(names), maxFaultRows-1):] {
		others += number[n]
	}
	named := map[int]bool{}
	for i, l := range labels {
		row := min(slices.Index(names, l), maxFaultRows-1)
		rows, count = append(rows, row), max(count, row+1)
		switch {
		case named[row]:
			labels[i] = ""
		case row == maxFaultRows-1 && others > number[l]:
			labels[i] = fmt.Sprintf("others, %d times", others)
		case number[l] > 1:
			labels[i] = fmt.Sprintf("%s, %d times", l, number[l])
		}
		named[row] = true
	}
	return rows, count
}

func faultLabel(w result.Window) string {
	name := w.Fault
	if w.Action != "" && !strings.Contains(w.Fault, w.Action) {
		name += " (" + w.Action + ")"
	}
	if w.Bit != nil && !*w.Bit {
		name = "no effect seen: " + name
	}
	return plainText(name, 48)
}

// edges is the sum of many series over time: rates are added where intervals overlap.
type edges map[float64]float64

func (e edges) add(from, to, rate float64) {
	if rate != 0 && to > from {
		e[from] += rate
		e[to] -= rate
	}
}

// bins are the stretches between the edges, at least one wherever cover has one.
func (e edges) bins(cover edges) []bin {
	at := map[float64]bool{}
	for x := range e {
		at[x] = true
	}
	for x := range cover {
		at[x] = true
	}
	xs := make([]float64, 0, len(at))
	for x := range at {
		xs = append(xs, x)
	}
	slices.Sort(xs)
	var out []bin
	level, covered := 0.0, 0.0
	for i, x := range xs[:max(0, len(xs)-1)] {
		level += e[x]
		covered += cover[x]
		if covered > 0.5 {
			out = append(out, bin{x, xs[i+1], math.Max(0, level)})
		}
	}
	return out
}

func span(row result.Interval) (from, to, width float64) {
	return seconds(row.T), seconds(row.T + row.Width), row.Width.Seconds()
}

// throughput shows the oks of each series, reads and writes apart because their rates differ.
func (t *timeline) throughput() {
	for _, side := range []struct {
		name, title string
		write       bool
	}{{"throughput-writes", "Writes: ok per second", true}, {"throughput-reads", "Reads: ok per second", false}} {
		var keys []key
		for _, k := range t.keys {
			if k.write() == side.write {
				keys = append(keys, k)
			}
		}
		if len(keys) == 0 {
			continue
		}
		c := t.chart(side.name, side.title, 170, 5, amountLabel)
		highest := 0.0
		live := &liveBins{Unit: "rate"}
		for i, k := range keys {
			var bins []bin
			for _, row := range t.rows[k] {
				from, to, width := span(row)
				rate := float64(row.OK) / width
				bins = append(bins, bin{from, to, rate})
				highest = max(highest, rate)
			}
			variable, g := levelLook(k)
			look := stroke{variable, 1.6, opDashes(k.op)}
			series := t.series[k]
			c.Add(steps{bins: bins, style: c.line(look, 1, series), glyph: g})
			c.legend = append(c.legend, entry{k.String(), series, swatch(&look, nil, g)})
			live.add(k.String(), i, bins)
		}
		c.Y.Min, c.Y.Max = 0, max(highest*1.08, 1)
		c.table, c.live = t.rateTable(keys), live
		c.desc = fmt.Sprintf("Operations answered ok per second, one line for each of %s.", keyList(keys))
	}
}

// rateTable has a row for each moment and a column for each series.
func (t *timeline) rateTable(keys []key) *table {
	tbl := &table{Head: []string{"time"}}
	cells := map[time.Duration][]string{}
	var times []time.Duration
	for i, k := range keys {
		tbl.Head = append(tbl.Head, k.String()+" ok/s")
		rows := thinOut(t.rows[k], maxCourseRows)
		tbl.joined(len(t.rows[k]), len(rows), "Counts are added.", result.TimeseriesFile)
		for _, row := range rows {
			if cells[row.T] == nil {
				times = append(times, row.T)
				cells[row.T] = slices.Repeat([]string{none}, len(keys))
			}
			cells[row.T][i] = formatRate(float64(row.OK) / row.Width.Seconds())
		}
	}
	slices.Sort(times)
	for _, at := range times {
		tbl.add(append([]string{formatTime(at)}, cells[at]...)...)
	}
	return tbl
}

func keyList(keys []key) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.String()
	}
	return strings.Join(names, ", ")
}

// failures shows everything that was not ok, by outcome, on a scale of its own: a handful of failures would be
// invisible beside thousands of oks.
func (t *timeline) failures() {
	cover := edges{}
	outcomes := []struct {
		name, about string
		look        stroke
		glyph       glyph
		count       func(result.Interval) int64
		rates       edges
	}{
		{"fail", "certainly without effect", stroke{red, 1.6, nil}, disc, func(r result.Interval) int64 { return r.Fail - r.Refused }, edges{}},
		{"info", "outcome unknown", stroke{orange, 1.6, []vg.Length{6, 2}}, triangle, func(r result.Interval) int64 { return r.Info }, edges{}},
		{"refused", "read not provably fresh", stroke{purple, 1.6, []vg.Length{2, 2}}, diamond, func(r result.Interval) int64 { return r.Refused }, edges{}},
		{"missed", "never sent", stroke{muted, 1.6, []vg.Length{8, 2, 2, 2}}, square, func(r result.Interval) int64 { return r.Missed }, edges{}},
	}
	for _, k := range t.keys {
		for _, row := range t.rows[k] {
			from, to, width := span(row)
			cover.add(from, to, 1)
			for _, o := range outcomes {
				o.rates.add(from, to, float64(o.count(row))/width)
			}
		}
	}
	some := false
	for _, o := range outcomes {
		some = some || len(o.rates) > 0
	}
	if !some {
		return
	}
	c := t.chart("not-ok", "Not ok: per second, by outcome", 120, 4, amountLabel)
	tbl := &table{Head: []string{"from", "to", "outcome", "per second"}}
	live := &liveBins{Unit: "rate"}
	highest := 0.0
	column := 0
	for _, o := range outcomes {
		if len(o.rates) == 0 {
			continue
		}
		bins := joinBins(o.rates.bins(cover), maxBins, false)
		told := joinBins(slices.Clone(bins), maxCourseRows/2, false)
		tbl.joined(len(bins), len(told), "Counts are added.", result.TimeseriesFile)
		for _, b := range bins {
			highest = max(highest, b.value)
		}
		for _, b := range told {
			if b.value > 0 {
				tbl.add(fmt.Sprintf("%.3f s", b.from), fmt.Sprintf("%.3f s", b.to), o.name, formatRate(b.value))
			}
		}
		series := "outcome-" + o.name
		// A line along zero says nothing and hides the others; only the foot of each rise is kept.
		shown, floor := slices.Clone(bins), slices.Clone(bins)
		for i := range bins {
			floor[i].value = 0
			if bins[i].value == 0 && (i == 0 || bins[i-1].value == 0) && (i+1 == len(bins) || bins[i+1].value == 0) {
				shown[i].value = math.NaN()
			}
		}
		c.Add(band{floor, shown, c.line(o.look, 0.2, series)}, steps{bins: shown, style: c.line(o.look, 1, series), glyph: o.glyph})
		c.legend = append(c.legend, entry{o.name + ": " + o.about, series, swatch(&o.look, nil, o.glyph)})
		live.add(o.name, column, bins)
		column++
	}
	c.Y.Min, c.Y.Max = 0, max(highest*1.1, 1)
	c.table, c.live = tbl, live
	c.desc = "Operations per second that were not answered ok: failed for certain, of unknown outcome, refused, or never sent."
}

// latencies shows bands, all on the same scale so that they can be compared: one picture for each series, or one for
// all of them when they were measured one after the other.
func (t *timeline) latencies() {
	lo, hi, ok := logRange(func(yield func(float64) bool) {
		for _, k := range t.keys {
			for _, row := range t.rows[k] {
				for _, d := range []time.Duration{row.P50, row.P90, row.P99, row.Max} {
					if !yield(float64(d)) {
						return
					}
				}
			}
		}
	})
	if !ok {
		return
	}
	if t.takeTurns() {
		t.latency("latency", "Latency", t.keys, lo, hi)
		return
	}
	for _, k := range t.keys {
		t.latency("latency-"+slug(k.String()), capital(k.String()), []key{k}, lo, hi)
	}
}

// takeTurns says whether there are several series and no two of them overlap in time.
func (t *timeline) takeTurns() bool {
	var all []result.Interval
	for _, k := range t.keys {
		all = append(all, t.rows[k]...)
	}
	slices.SortFunc(all, func(a, b result.Interval) int { return cmp.Compare(a.T, b.T) })
	for i := 1; i < len(all); i++ {
		if all[i].T < all[i-1].T+all[i-1].Width {
			return false
		}
	}
	return len(t.keys) > 1
}

// latency draws the bands of keys, which do not overlap, in one picture.
func (t *timeline) latency(name, title string, keys []key, lo, hi float64) {
	c := t.chart(name, title+": "+t.timeName(keys), 150, 1, nil)
	c.Y.Scale, c.Y.Min, c.Y.Max, c.Y.Tick.Marker = logScale{}, lo, hi, latencyTicks{}
	percentiles := []struct {
		name string
		pick func(result.Interval) time.Duration
		all  []bin
	}{
		{name: "p50", pick: func(r result.Interval) time.Duration { return r.P50 }},
		{name: "p90", pick: func(r result.Interval) time.Duration { return r.P90 }},
		{name: "p99", pick: func(r result.Interval) time.Duration { return r.P99 }},
		{name: "max", pick: func(r result.Interval) time.Duration { return r.Max }},
	}
	tbl := &table{Head: []string{"time", "series", "ok", "p50", "p90", "p99", "max"}}
	sample := blue
	for _, k := range keys {
		var bins [4][]bin
		for _, row := range t.rows[k] {
			from, to, _ := span(row)
			for i, p := range percentiles {
				v := math.NaN()
				if d := p.pick(row); d > 0 {
					v = float64(d)
				}
				bins[i] = append(bins[i], bin{from, to, v})
			}
		}
		told := thinOut(t.rows[k], max(1, min(maxCourseRows, max(leastBins/2, allRows/len(t.keys)))/len(keys)))
		tbl.joined(len(t.rows[k]), len(told), "Counts are added, and of each percentile the worst is kept.", result.TimeseriesFile)
		for _, row := range told {
			tbl.add(formatTime(row.T), k.String(), formatCount(row.OK), formatDuration(row.P50), formatDuration(row.P90), formatDuration(row.P99), formatDuration(row.Max))
		}
		variable, _ := levelLook(k)
		c.Add(
			band{bins[1], bins[2], c.line(stroke{variable, 0, nil}, 0.18, "p99")},
			band{bins[0], bins[1], c.line(stroke{variable, 0, nil}, 0.38, "p90")},
			steps{bins: bins[2], style: c.line(stroke{variable, 1, nil}, 1, "p99")},
			steps{bins: bins[0], style: c.line(stroke{variable, 2, nil}, 1, "p50")},
			steps{bins: bins[3], style: c.line(stroke{ink, 1.2, nil}, 0.75, "max"), apart: true},
		)
		for i := range percentiles {
			percentiles[i].all = append(percentiles[i].all, bins[i]...)
		}
		if len(keys) > 1 {
			line := stroke{variable, 2, nil}
			c.legend = append(c.legend, entry{Label: k.String(), Swatch: swatch(&line, &paint{variable, 0.3, ""}, noGlyph)})
			sample = muted
		} else {
			sample = variable
		}
	}
	c.legend = append(c.legend,
		entry{"p50", "p50", swatch(&stroke{sample, 2, nil}, nil, noGlyph)},
		entry{"to p90", "p90", swatch(nil, &paint{sample, 0.38, ""}, noGlyph)},
		entry{"to p99", "p99", swatch(&stroke{sample, 1, nil}, &paint{sample, 0.18, ""}, noGlyph)},
		entry{"max", "max", swatch(&stroke{ink, 1.2, []vg.Length{6, 3}}, nil, noGlyph)},
	)
	bare := 0 // intervals with a largest value and no median
	for i, b := range percentiles[3].all {
		if !math.IsNaN(b.value) && math.IsNaN(percentiles[0].all[i].value) {
			bare++
		}
	}
	if bare > 0 && 2*bare >= len(percentiles[3].all) {
		c.legend = append(c.legend, entry{Label: "(most intervals have too few operations for percentiles)"})
	}
	live := &liveBins{Unit: "duration"}
	for i, p := range percentiles {
		slices.SortStableFunc(p.all, func(a, b bin) int { return cmp.Compare(a.from, b.from) })
		live.add(p.name, i, p.all)
	}
	c.table, c.live = tbl, live
	c.desc = fmt.Sprintf("Latency of %s over time: median, 90th and 99th percentile and maximum of each interval, on a logarithmic scale.", keyList(keys))
}

// timeName says which time the intervals of keys hold: a closed loop has no intended time to measure from.
func (t *timeline) timeName(keys []key) string {
	open, closed := false, false
	for _, s := range t.run.Series {
		if slices.Contains(keys, key{s.Op, s.Level}) {
			open, closed = open || !s.Closed, closed || s.Closed
		}
	}
	switch {
	case closed && open:
		return "response time (service time in closed-loop phases)"
	case closed:
		return "service time, closed loop"
	}
	return "response time"
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// state is what one lane shows over a stretch of time.
type state struct {
	from, to time.Duration
	what     string // a role or a state
	label    string
}

// nodeStates is the roles of each node over time, in the order of the run's nodes. A role lasts until the next one is
// seen, or until the process is gone.
func (t *timeline) nodeStates() (names []string, states map[string][]state) {
	states = map[string][]state{}
	known := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, n := range t.run.Nodes {
		known(n.Name)
	}
	end := time.Duration(t.to * float64(time.Second))
	change := func(node string, at time.Duration, what, label string) {
		known(node)
		list := states[node]
		if n := len(list); n > 0 {
			last := &list[n-1]
			if last.what == what && last.label == label {
				return
			}
			last.to = at
			if last.to == last.from {
				list = list[:n-1]
			}
		}
		states[node] = append(list, state{from: at, to: end, what: what, label: label})
	}
	for _, e := range t.run.EventsInOrder() {
		switch e.Kind {
		case result.Observe:
			label := string(e.Role)
			if e.Term > 0 {
				label += fmt.Sprintf(" · term %d", e.Term)
			}
			if n := len(states[e.Node]); n > 0 && states[e.Node][n-1].what == string(result.ProcessExited) && e.Role == result.RoleUndefined {
				continue // that nobody answers is known already, and why
			}
			change(e.Node, e.T, string(e.Role), label)
		case result.Process:
			switch e.State {
			case result.ProcessExited, result.ProcessStopped:
				change(e.Node, e.T, string(e.State), string(e.State))
			case result.ProcessRunning:
				if len(states[e.Node]) > 0 {
					change(e.Node, e.T, "starting", "starting")
				}
			}
		}
	}
	return names, states
}

// rival is a stretch in which two nodes claimed to lead.
type rival struct {
	a, b     string
	from, to time.Duration
	labels   [2]string
}

func rivals(names []string, states map[string][]state) []rival {
	var out []rival
	for i, a := range names {
		for _, b := range names[i+1:] {
			for _, sa := range states[a] {
				for _, sb := range states[b] {
					from, to := max(sa.from, sb.from), min(sa.to, sb.to)
					if sa.what == string(result.RoleLeader) && sb.what == string(result.RoleLeader) && from < to {
						out = append(out, rival{a, b, from, to, [2]string{sa.label, sb.label}})
					}
				}
			}
		}
	}
	slices.SortStableFunc(out, func(x, y rival) int { return cmp.Compare(x.from, y.from) })
	return out
}

// roles draws a lane for each node.
func (t *timeline) roles() {
	names, states := t.nodeStates()
	if len(states) == 0 {
		return
	}
	c := t.laneChart("roles", "Nodes: role as observed", names)
	looks := map[string]look{
		string(result.RoleLeader):     {fill: c.line(stroke{blue, 0, nil}, 1, ""), height: 0.82},
		string(result.RoleFollower):   {fill: c.line(stroke{sky, 0, nil}, 0.4, ""), height: 0.42},
		string(result.RoleRequested):  {fill: c.line(stroke{orange, 0, nil}, 0.9, ""), height: 0.62},
		string(result.RoleDead):       {edge: c.line(stroke{orange, 1.2, nil}, 1, ""), height: 0.42},
		string(result.RoleUndefined):  {edge: c.line(stroke{muted, 1, []vg.Length{2, 2}}, 1, ""), height: 0.24},
		string(result.ProcessExited):  {edge: c.line(stroke{red, 1.4, nil}, 1, ""), height: 0.05},
		string(result.ProcessStopped): {edge: c.line(stroke{red, 1.2, []vg.Length{4, 2}}, 1, ""), height: 0.24},
		"starting":                    {edge: c.line(stroke{muted, 1, nil}, 1, ""), height: 0.24},
	}
	seen := map[string]bool{}
	live := &liveLanes{}
	tbl := &table{Head: []string{"node", "from", "to", "state"}, File: result.EventsFile}
	double := rivals(names, states)
	disputed := look{fill: c.line(stroke{red, 0, nil}, 1, ""), height: 0.82}
	var segments []segment
	var exits, starts []vg.Point
	told := tellStates(tbl, names, func(n string) []state { return states[n] })
	for i, n := range names {
		lane := liveLane{Name: n}
		for _, s := range t.thinStates(states[n], len(names)) {
			seen[s.what] = true
			if s.what == string(result.RoleLeader) {
				segments = append(segments, reign(i, n, s, double, looks[s.what], disputed)...)
			} else {
				segments = append(segments, segment{row: i, from: seconds(s.from), to: seconds(s.to), look: looks[s.what]})
			}
			y := vg.Length(len(names)-i) - 0.5
			switch s.what {
			case string(result.ProcessExited):
				exits = append(exits, vg.Point{X: vg.Length(seconds(s.from)), Y: y})
			case "starting":
				starts = append(starts, vg.Point{X: vg.Length(seconds(s.from)), Y: y})
			}
			lane.States = append(lane.States, liveState{seconds(s.from), seconds(s.to), s.label})
		}
		live.Lanes = append(live.Lanes, lane)
	}
	for _, d := range double {
		tbl.add(d.a+" and "+d.b, formatTime(d.from), formatTime(d.to), "TWO LEADERS: "+d.labels[0]+" and "+d.labels[1])
	}
	told()
	text := c.label(surface, 10.5)
	c.Add(lanes{rows: len(names), segments: segments, text: text})
	back := c.line(stroke{surface, 1, nil}, 1, "")
	c.Add(marks{exits, diamond, c.line(stroke{red, 1, nil}, 1, ""), back}, marks{starts, ring, c.line(stroke{ink, 1, nil}, 1, ""), back})

	sample := func(what, label string) {
		if !seen[what] {
			return
		}
		c.legend = append(c.legend, entry{Label: label, Swatch: laneSwatch(&c.inks, looks[what])})
	}
	sample(string(result.RoleLeader), "leader")
	sample(string(result.RoleFollower), "follower")
	sample(string(result.RoleRequested), "requested (asks for votes)")
	sample(string(result.RoleDead), "dead (lost its leader)")
	sample(string(result.RoleUndefined), "undefined (no answer)")
	if seen[string(result.ProcessExited)] {
		c.legend = append(c.legend, entry{Label: "process exited", Swatch: swatch(&stroke{red, 1.2, nil}, nil, diamond)})
	}
	sample(string(result.ProcessStopped), "process stopped")
	if seen["starting"] {
		c.legend = append(c.legend, entry{Label: "process started", Swatch: swatch(&stroke{ink, 1, nil}, nil, ring)})
	}
	c.desc = fmt.Sprintf("The role of each of %d nodes over time.", len(names))
	if len(double) > 0 {
		c.legend = append(c.legend, entry{Label: "two nodes say they lead", Swatch: laneSwatch(&c.inks, disputed)})
		c.desc += fmt.Sprintf(" Two nodes claimed to lead at once %d times.", len(double))
		tbl.note("A node that was cut off goes on calling itself leader at its old term until it notices; it cannot commit. Two leaders at the same term are a violation.")
	}
	c.table, c.live = tbl, live
}

// reign cuts the time that node n led at the edges of its rivalries. A lane is written on where there is room: a
// leader's is high enough, and says the term.
func reign(row int, n string, s state, double []rival, alone, disputed look) []segment {
	cuts := []time.Duration{s.from, s.to}
	for _, d := range double {
		if d.a == n || d.b == n {
			cuts = append(cuts, min(max(d.from, s.from), s.to), min(max(d.to, s.from), s.to))
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	var out []segment
	for i, from := range cuts[:len(cuts)-1] {
		seg := segment{row: row, from: seconds(from), to: seconds(cuts[i+1]), look: alone, label: s.label}
		if slices.ContainsFunc(double, func(d rival) bool { return (d.a == n || d.b == n) && d.from <= from && from < d.to }) {
			seg.look = disputed
		}
		out = append(out, seg)
	}
	return out
}

// laneSwatch is the sample of a lane's look.
func laneSwatch(in *inks, l look) string {
	find := func(s draw.LineStyle) paint { return in.list[s.Color.(code)-1] }
	height := 11 * l.height
	style := "fill:none"
	if l.fill.Color != nil {
		p := find(l.fill)
		style = fmt.Sprintf("fill:var(--%s);fill-opacity:%.3g", p.variable, p.opacity)
	}
	if l.edge.Width > 0 {
		style += fmt.Sprintf(";stroke:var(--%s)", find(l.edge).variable)
		if len(l.edge.Dashes) > 0 {
			style += ";stroke-dasharray:2,2"
		}
	}
	return fmt.Sprintf(`<svg class="swatch" viewBox="0 0 26 12" aria-hidden="true"><rect x="1" y="%.3g" width="24" height="%.3g" style="%s"/></svg>`, 6-height/2, height, style)
}

// links draws a lane for each path between two ends whose state was recorded.
func (t *timeline) links() {
	type path struct{ from, to string }
	var paths []path
	states := map[path][]state{}
	end := time.Duration(t.to * float64(time.Second))
	for _, e := range t.run.EventsInOrder() {
		if e.Kind != result.Link {
			continue
		}
		p := path{e.From, e.To}
		list := states[p]
		if list == nil {
			paths = append(paths, p)
			if e.T > 0 {
				list = []state{{to: e.T, what: string(result.LinkUp), label: "up"}}
			}
		} else {
			list[len(list)-1].to = e.T
		}
		label := string(e.State)
		if e.Detail != "" {
			label += ": " + e.Detail
		}
		states[p] = append(list, state{from: e.T, to: end, what: string(e.State), label: plainText(label, 60)})
	}
	if len(paths) == 0 {
		return
	}
	slices.SortFunc(paths, func(a, b path) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = p.from + " → " + p.to
	}
	c := t.laneChart("links", "Links: state", names)
	looks := map[string]look{
		string(result.LinkUp):       {fill: c.line(stroke{green, 0, nil}, 0.55, ""), height: 0.18},
		string(result.LinkDegraded): {fill: c.line(stroke{orange, 0, nil}, 0.38, ""), height: 0.5},
		string(result.LinkDown):     {edge: c.line(stroke{red, 1.3, nil}, 1, ""), height: 0.72},
	}
	tbl := &table{Head: []string{"link", "from", "to", "state"}, File: result.EventsFile}
	live := &liveLanes{}
	var segments []segment
	tellStates(tbl, names, func(name string) []state { return states[paths[slices.Index(names, name)]] })()
	for i, p := range paths {
		lane := liveLane{Name: names[i]}
		for _, s := range t.thinStates(states[p], len(paths)) {
			label := s.label
			if s.what == string(result.LinkUp) {
				label = ""
			}
			segments = append(segments, segment{row: i, from: seconds(s.from), to: seconds(s.to), look: looks[s.what], label: label})
			lane.States = append(lane.States, liveState{seconds(s.from), seconds(s.to), s.label})
		}
		live.Lanes = append(live.Lanes, lane)
	}
	c.Add(lanes{rows: len(names), segments: segments, text: c.label(ink, 10)})
	for _, s := range []result.State{result.LinkUp, result.LinkDegraded, result.LinkDown} {
		c.legend = append(c.legend, entry{Label: string(s), Swatch: laneSwatch(&c.inks, looks[string(s)])})
	}
	c.table, c.live = tbl, live
	c.desc = fmt.Sprintf("The state of %d directed links over time.", len(paths))
}

// resources shows memory and processor use of each process, and how long it waited for a processor, if that was measured.
func (t *timeline) resources() {
	var nodes []string
	samples := map[string][]result.Resource{}
	waiting := false
	for _, r := range t.run.Resources {
		if r.Node == result.Machine { // no process
			continue
		}
		samples[r.Node] = append(samples[r.Node], r)
		waiting = waiting || r.Turns > 0
	}
	for n, list := range samples {
		slices.SortStableFunc(list, func(a, b result.Resource) int { return cmp.Compare(a.T, b.T) })
		if len(list) > 1 && list[0].T < list[len(list)-1].T { // one sample shows no course
			nodes = append(nodes, n)
		}
	}
	if len(nodes) == 0 {
		return
	}
	slices.Sort(nodes)
	colors := []string{blue, orange, green, purple, sky, yellow, red}
	glyphs := []glyph{disc, triangle, square, diamond, ring}
	for _, kind := range []struct {
		name, title, unit string
		label             func(v, step float64) string
		format            func(float64) string
		worst             bool // of samples that are joined the highest is kept, else the mean
		value             func(before, now result.Resource) float64
	}{
		{
			"cpu", "Processor: share of one core, per process", "share", percentLabel, func(v float64) string { return fmt.Sprintf("%.1f %%", 100*v) }, false,
			func(before, now result.Resource) float64 {
				if now.CPU < before.CPU { // restarted
					return math.NaN()
				}
				return float64(now.CPU-before.CPU) / float64(now.T-before.T)
			},
		},
		{
			"memory", "Memory: resident set, per process", "bytes", bytesLabel, func(v float64) string { return formatBytes(int64(v)) }, true,
			func(_, now result.Resource) float64 { return float64(now.RSS) },
		},
		{
			"waiting", "Waiting for a processor: before each turn on one, per process", "duration",
			func(v, step float64) string { return millisecondsLabel(v/1e6, step/1e6) }, func(v float64) string { return formatDuration(time.Duration(v)) }, true,
			func(before, now result.Resource) float64 {
				if now.Waited < before.Waited || now.Turns < before.Turns { // restarted
					return math.NaN()
				}
				return float64(now.Waited-before.Waited) / float64(max(now.Turns-before.Turns, 1))
			},
		},
	} {
		if kind.name == "waiting" && !waiting {
			continue
		}
		c := t.chart(kind.name, kind.title, 120, 4, kind.label)
		tbl := &table{Head: []string{"time", "process", kind.name}}
		live := &liveBins{Unit: kind.unit}
		highest := 0.0
		classes := nameSet{}
		for i, n := range nodes {
			list := samples[n]
			var bins []bin
			pause := spacing(list)
			for j := 1; j < len(list); j++ {
				if step := list[j].T - list[j-1].T; step <= 0 || step > 3*pause {
					continue // no samples for a while: there was no process
				}
				v := kind.value(list[j-1], list[j])
				bins = append(bins, bin{seconds(list[j-1].T), seconds(list[j].T), v})
				if !math.IsNaN(v) {
					highest = max(highest, v)
				}
			}
			told := joinBins(slices.Clone(bins), max(1, maxCourseRows/len(nodes)), kind.worst)
			tbl.joined(len(bins), len(told), map[bool]string{true: "The highest is kept.", false: "What is told is the mean."}[kind.worst], result.ResourcesFile)
			for _, b := range told {
				if !math.IsNaN(b.value) {
					tbl.add(fmt.Sprintf("%.3f s", b.to), n, kind.format(b.value))
				}
			}
			bins = joinBins(bins, max(leastBins, min(maxBins, maxSamples/len(nodes))), kind.worst)
			look, g := stroke{colors[i%len(colors)], 1.5, nil}, glyphs[i%len(glyphs)]
			series := classes.unique("process-" + slug(n))
			c.Add(steps{bins: bins, style: c.line(look, 1, series), glyph: g})
			c.legend = append(c.legend, entry{n, series, swatch(&look, nil, g)})
			live.add(n, i, bins)
		}
		if highest == 0 {
			highest = 1
		}
		c.Y.Min, c.Y.Max = 0, highest*1.1
		if kind.unit == "bytes" {
			c.Y.Tick.Marker = evenTicks{count: 4, label: bytesLabel, unit: 1 << 20}
		}
		c.table, c.live = tbl, live
		c.desc = kind.title + " over time."
	}
}

// spacing is the usual time between the samples of one process.
func spacing(list []result.Resource) time.Duration {
	steps := make([]time.Duration, 0, len(list))
	for i := 1; i < len(list); i++ {
		steps = append(steps, list[i].T-list[i-1].T)
	}
	slices.Sort(steps)
	return median(steps)
}

// add appends a row unless the table is full.
func (t *table) add(cells ...string) {
	if len(t.Rows) >= maxTableRows {
		t.Left++
		return
	}
	t.Rows = append(t.Rows, cells)
}

// note adds a sentence below the table, once.
func (t *table) note(s string) {
	if !strings.Contains(t.Note, s) {
		t.Note = strings.TrimSpace(t.Note + " " + s)
	}
}

// joined notes that of so many values fewer are told.
func (t *table) joined(values, told int, how, file string) {
	if told < values {
		t.note("Neighbours are put together. " + how + " Each for itself is in " + file + ".")
	}
}

// tellStates puts the states of all lanes into the table, in the order of time; what is returned does it.
func tellStates(tbl *table, names []string, of func(name string) []state) func() {
	return func() {
		type told struct {
			name string
			state
		}
		var all []told
		for _, n := range names {
			for _, s := range of(n) {
				all = append(all, told{n, s})
			}
		}
		slices.SortStableFunc(all, func(a, b told) int { return cmp.Compare(a.from, b.from) })
		for _, s := range all {
			tbl.add(s.name, formatTime(s.from), formatTime(s.to), s.label)
		}
	}
}

// joinBins joins neighbours until about most are left, never across a gap: to the highest of them, or to their mean over
// time. It may change what bins holds.
func joinBins(bins []bin, most int, worst bool) []bin {
	size := (len(bins) + most - 1) / most
	if size < 2 {
		return bins
	}
	var out []bin
	for group := range slices.Chunk(bins, size) {
		g := group[0]
		for _, b := range group[1:] {
			if math.IsNaN(b.value) || math.IsNaN(g.value) || !touches(g.to, b) {
				out = append(out, g)
				g = b
				continue
			}
			mean := (g.value*(g.to-g.from) + b.value*(b.to-b.from)) / (b.to - g.from)
			g.value, g.to = map[bool]float64{true: max(g.value, b.value), false: mean}[worst], b.to
		}
		out = append(out, g)
	}
	return out
}

// gravity is which state is shown where several are too short to be told apart.
var gravity = []string{
	string(result.ProcessExited), string(result.ProcessStopped), string(result.LinkDown), string(result.RoleUndefined), string(result.RoleDead),
	string(result.LinkDegraded), string(result.RoleRequested), "starting", string(result.RoleLeader), string(result.RoleFollower), string(result.LinkUp),
}

// thinStates puts together the states of one of so many lanes that begin at about the same moment, until a picture can hold
// them: to the gravest of them.
func (t *timeline) thinStates(list []state, lanes int) []state {
	most := max(leastBins, maxStates/max(lanes, 1))
	if len(list) <= most {
		return list
	}
	slot := time.Duration((t.to - t.from) * float64(time.Second) / float64(most/2))
	grave := func(s state) int {
		if at := slices.Index(gravity, s.what); at >= 0 {
			return at
		}
		return len(gravity)
	}
	var out []state
	var worst state
	var until time.Duration
	count := 0 // of states in the last one; 0: it stands by itself
	for _, s := range list {
		lasts := s.to-s.from >= slot // and is neither hidden nor made longer
		if lasts || count == 0 || s.from >= until {
			out, worst, until, count = append(out, s), s, s.from+slot, 1
			if lasts {
				count = 0
			}
			continue
		}
		count++
		if grave(s) < grave(worst) {
			worst = s
		}
		last := &out[len(out)-1]
		*last = state{from: last.from, to: s.to, what: worst.what, label: fmt.Sprintf("%d changes, one of them %s", count, worst.label)}
	}
	return out
}

// What the crosshair reads out, as JSON for page.js. Times are milliseconds.

type liveBins struct {
	Unit    string   `json:"unit"` // rate, duration (ns), share, bytes
	Columns []string `json:"columns"`
	// Bins are, by column, the beginning of the first, and then the width and the value of each; null is no value.
	Bins [][]*float64 `json:"bins"`
}

func (l *liveBins) add(name string, column int, bins []bin) {
	l.Columns = append(l.Columns, name)
	l.Bins = append(l.Bins, []*float64{})
	var all []*float64
	end := 0.0
	step := func(to float64, v *float64) {
		if to > end {
			all, end = append(all, new(roundTo(to-end)), v), to
		}
	}
	for i, b := range bins {
		from, to := liveTime(b.from), liveTime(b.to)
		if i == 0 {
			all, end = append(all, new(from)), from
		}
		step(from, nil)
		if math.IsNaN(b.value) {
			step(to, nil)
			continue
		}
		v, _ := strconv.ParseFloat(strconv.FormatFloat(b.value, 'g', 4, 64), 64)
		step(to, &v)
	}
	if all != nil {
		l.Bins[column] = all
	}
}

// liveTime is seconds as the page has them: milliseconds, to a tenth.
func liveTime(seconds float64) float64 { return roundTo(seconds * 1e3) }

func roundTo(ms float64) float64 { return math.Round(ms*10) / 10 }

type liveLanes struct{ Lanes []liveLane }

type liveLane struct {
	Name   string
	States []liveState
}

type liveState struct {
	from, to float64 // seconds
	what     string
}

// MarshalJSON writes each different text of all lanes once, and the states of a lane as from, to and the number of the text.
func (l *liveLanes) MarshalJSON() ([]byte, error) {
	type lane struct {
		Name   string    `json:"name"`
		States []float64 `json:"states"`
	}
	out := struct {
		Words []string `json:"words"`
		Lanes []lane   `json:"lanes"`
	}{Words: []string{}, Lanes: []lane{}}
	number := map[string]int{}
	for _, from := range l.Lanes {
		to := lane{from.Name, []float64{}}
		for _, s := range from.States {
			n, known := number[s.what]
			if !known {
				n = len(out.Words)
				number[s.what] = n
				out.Words = append(out.Words, s.what)
			}
			to.States = append(to.States, liveTime(s.from), liveTime(s.to), float64(n))
		}
		out.Lanes = append(out.Lanes, to)
	}
	return json.Marshal(out)
}

func (t *timeline) liveWindows() *liveLanes {
	phases, faults := liveLane{Name: ""}, liveLane{Name: "fault"}
	for _, p := range t.run.Phases {
		phases.States = append(phases.States, liveState{seconds(p.From), seconds(p.To), p.Name})
	}
	for _, w := range t.windows {
		faults.States = append(faults.States, liveState{seconds(w.From), seconds(w.To), faultLabel(w)})
	}
	return &liveLanes{[]liveLane{phases, faults}}
}

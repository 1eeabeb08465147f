package render

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/hacache/hacache/reports/result"
)

// part is one stretch of a failover.
type part struct {
	name     string
	from, to time.Duration
}

// partLooks is the order of the parts; each has its own height as well as its colour.
var partLooks = []struct {
	name     string
	variable string
	height   float64
}{
	{"until suspected", red, 0.66},
	{"until a candidate", orange, 0.56},
	{"until elected", yellow, 0.46},
	{"until the first ok", blue, 0.36},
}

// failoverParts cuts a failover into the parts of partLooks. A step that was not observed, or that was observed only
// after a later one, leaves its time to the part that follows; ok is false if no step was observed at all.
func failoverParts(f result.Failover) (parts []part, ok bool) {
	steps := []time.Duration{f.Suspect, f.Candidate, f.Elected, firstOK(f)}
	next := time.Duration(math.MaxInt64)
	for i, at := range slices.Backward(steps) {
		if at <= 0 || at >= next {
			continue
		}
		if len(parts) > 0 {
			parts[0].from = at
		}
		parts = slices.Insert(parts, 0, part{name: partLooks[i].name, to: at})
		next = at
	}
	return parts, len(parts) > 0
}

// firstOK is the first ok at quorum, or at the first level there is.
func firstOK(f result.Failover) time.Duration {
	for _, l := range f.Levels {
		if l.Level == "quorum" {
			return l.FirstOK
		}
	}
	if len(f.Levels) > 0 {
		return f.Levels[0].FirstOK
	}
	return 0
}

func failoverName(f result.Failover) string {
	name := plainText(f.Fault, 18)
	if f.Repeat > 0 {
		name = fmt.Sprintf("#%d %s", f.Repeat, name)
	}
	return name
}

// Of many failovers the slowest are drawn one by one and listed; the distribution has all.
const maxBars, maxFailovers = 30, 200

// slowest is the most failovers that took longest until the first ok, in their order; none at all is longest.
func slowest(fs []result.Failover, most int) []result.Failover {
	if len(fs) <= most {
		return fs
	}
	lasted := func(i int) time.Duration {
		if d := firstOK(fs[i]); d > 0 {
			return d
		}
		return math.MaxInt64
	}
	numbers := make([]int, len(fs))
	for i := range numbers {
		numbers[i] = i
	}
	slices.SortStableFunc(numbers, func(a, b int) int { return cmp.Compare(lasted(b), lasted(a)) })
	var out []result.Failover
	for _, i := range slices.Sorted(slices.Values(numbers[:most])) {
		out = append(out, fs[i])
	}
	return out
}

// failoverBars draws one stacked bar for each failover.
func failoverBars(fs []result.Failover) (figure, bool) {
	shown := slowest(fs, maxBars)
	var longest time.Duration
	var segments []segment
	names := rowNames{}
	c := newChart("failover-parts", "Failover: its parts, from the injection", wide, float64(30*len(shown)+26))
	var agreed []vg.Point
	others := map[string][]vg.Point{}
	tbl := &table{Head: []string{"failover", "part", "from", "to"}, File: result.SummaryFile}
	for i, f := range shown {
		y := float64(len(shown)-i) - 0.5
		names = append(names, rowName{y, failoverName(f)})
		parts, _ := failoverParts(f)
		for _, p := range parts {
			look := slices.IndexFunc(partLooks, func(l struct {
				name     string
				variable string
				height   float64
			},
			) bool {
				return l.name == p.name
			})
			label := formatDuration(p.to - p.from)
			segments = append(segments, segment{
				row: i, from: p.from.Seconds() * 1e3, to: p.to.Seconds() * 1e3, label: label,
				look: lookOfPart(c, look),
			})
			tbl.add(failoverName(f), p.name, formatDuration(p.from), formatDuration(p.to))
			longest = max(longest, p.to)
		}
		if f.Agreed > 0 {
			agreed = append(agreed, vg.Point{X: vg.Length(f.Agreed.Seconds() * 1e3), Y: vg.Length(y - 0.3)})
			longest = max(longest, f.Agreed)
			tbl.add(failoverName(f), "all agree", "", formatDuration(f.Agreed))
		}
		for _, l := range f.Levels {
			if l.FirstOK > 0 && l.Level != "quorum" {
				others[l.Level] = append(others[l.Level], vg.Point{X: vg.Length(l.FirstOK.Seconds() * 1e3), Y: vg.Length(y - 0.3)})
				longest = max(longest, l.FirstOK)
				tbl.add(failoverName(f), "first ok at "+l.Level, "", formatDuration(l.FirstOK))
			}
		}
	}
	if longest == 0 {
		return figure{}, false
	}
	c.X.Min, c.X.Max = 0, longest.Seconds()*1e3*1.04
	c.X.Tick.Marker = evenTicks{count: 10, label: millisecondsLabel}
	c.Y.Min, c.Y.Max, c.Y.Tick.Marker = 0, float64(len(shown)), names
	c.Add(gridLines{c.line(stroke{grid, 1, nil}, 1, ""), true})
	c.Add(lanes{rows: len(shown), segments: segments, text: c.label(onFill, 10)})
	back := c.line(stroke{surface, 1, nil}, 1, "")
	for i := range partLooks {
		l := lookOfPart(c, i)
		c.legend = append(c.legend, entry{Label: partLooks[i].name, Swatch: laneSwatch(&c.inks, l)})
	}
	if len(agreed) > 0 {
		c.Add(marks{agreed, ring, c.line(stroke{ink, 1, nil}, 1, ""), back})
		c.legend = append(c.legend, entry{Label: "all nodes agree", Swatch: swatch(&stroke{ink, 0, nil}, nil, ring)})
	}
	for _, level := range sortedKeys(others) {
		variable, g := levelLook(key{"insert", level})
		c.Add(marks{others[level], g, c.line(stroke{variable, 1, nil}, 1, ""), back})
		c.legend = append(c.legend, entry{Label: "first ok at " + level, Swatch: swatch(&stroke{variable, 0, nil}, nil, g)})
	}
	c.table = tbl
	if len(fs) > len(shown) {
		c.title = fmt.Sprintf("Failover: its parts, from the injection; the slowest %d of %d", len(shown), len(fs))
	}
	c.desc = fmt.Sprintf("%d failovers as stacked bars: the time until the loss was suspected, until a candidate stood, until it was elected and until the first write was acknowledged.", len(shown))
	return c.draw(0, 16), true
}

func lookOfPart(c *chart, i int) look {
	return look{fill: draw.LineStyle{Color: c.color(paint{partLooks[i].variable, 0.8, ""})}, height: partLooks[i].height}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// samples is one measured step of every failover that has it, sorted.
type samples struct {
	name   string
	look   stroke
	glyph  glyph
	values []time.Duration
}

func failoverSamples(fs []result.Failover) []samples {
	var out []samples
	step := func(name string, look stroke, g glyph, pick func(result.Failover) time.Duration) {
		s := samples{name, look, g, nil}
		for _, f := range fs {
			if d := pick(f); d > 0 {
				s.values = append(s.values, d)
			}
		}
		slices.Sort(s.values)
		if len(s.values) > 0 {
			out = append(out, s)
		}
	}
	step("suspected", stroke{red, 1.6, []vg.Length{2, 2}}, noGlyph, func(f result.Failover) time.Duration { return f.Suspect })
	step("elected", stroke{orange, 1.6, []vg.Length{7, 3}}, noGlyph, func(f result.Failover) time.Duration { return f.Elected })
	step("all agree", stroke{muted, 1.6, []vg.Length{7, 2, 2, 2}}, ring, func(f result.Failover) time.Duration { return f.Agreed })
	levels := map[string]bool{}
	for _, f := range fs {
		for _, l := range f.Levels {
			levels[l.Level] = true
		}
	}
	for _, level := range sortedKeys(levels) {
		variable, g := levelLook(key{"insert", level})
		step("first ok at "+level, stroke{variable, 1.8, nil}, g, func(f result.Failover) time.Duration {
			for _, l := range f.Levels {
				if l.Level == level {
					return l.FirstOK
				}
			}
			return 0
		})
	}
	return out
}

// failoverECDF draws the distribution of each step over repeated failovers; fewer than three have none.
func failoverECDF(fs []result.Failover) (figure, bool) {
	steps := failoverSamples(fs)
	most := 0
	var longest time.Duration
	for _, s := range steps {
		most = max(most, len(s.values))
		longest = max(longest, s.values[len(s.values)-1])
	}
	if most < 3 {
		return figure{}, false
	}
	c := newChart("failover-ecdf", fmt.Sprintf("Failover: share of %d that were this fast", len(fs)), wide, 240)
	c.X.Min, c.X.Max = 0, longest.Seconds()*1e3*1.04
	c.X.Tick.Marker = evenTicks{count: 10, label: millisecondsLabel}
	c.Y.Min, c.Y.Max, c.Y.Tick.Marker = 0, 1.02, evenTicks{count: 4, label: percentLabel}
	c.Add(gridLines{c.line(stroke{grid, 1, nil}, 1, ""), true})
	tbl := &table{Head: []string{"step", "observed", "fastest", "median", "slowest"}}
	for _, s := range steps {
		points := []vg.Point{{}}
		for i, v := range s.values {
			x := vg.Length(v.Seconds() * 1e3)
			// Of all failovers: one in which the step was never seen keeps its curve below 100 %.
			points = append(points, vg.Point{X: x, Y: vg.Length(float64(i) / float64(len(fs)))}, vg.Point{X: x, Y: vg.Length(float64(i+1) / float64(len(fs)))})
		}
		series := slug(s.name)
		c.Add(curve{points, c.line(s.look, 1, series), s.glyph, 120})
		c.legend = append(c.legend, entry{s.name, series, swatch(&s.look, nil, s.glyph)})
		tbl.add(s.name, fmt.Sprintf("%d of %d", len(s.values), len(fs)), formatDuration(s.values[0]), formatDuration(median(s.values)), formatDuration(s.values[len(s.values)-1]))
	}
	c.table = tbl
	c.desc = fmt.Sprintf("Empirical distribution of the steps of %d failovers.", len(fs))
	return c.draw(0, 16), true
}

// median of sorted values; the mean of the middle two when their number is even.
func median(sorted []time.Duration) time.Duration {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	if n%2 == 1 {
		return sorted[n/2]
	}
	return time.Duration(math.Round((float64(sorted[n/2-1]) + float64(sorted[n/2])) / 2))
}

package render

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"gonum.org/v1/plot/vg"

	"github.com/hacache/hacache/reports/result"
)

// kneeFigures draws the search for the highest rate: response time and throughput against the rate that was offered.
// Each try is a mark; the curves go through the middle of each rate's tries. What lies to the right of the lowest rate
// that did not hold is shaded, and a limit on the 99th percentile is a line.
func kneeFigures(sat *result.Saturation) []figure {
	if sat == nil || len(sat.Steps) == 0 {
		return nil
	}
	steps := slices.Clone(sat.Steps)
	slices.SortStableFunc(steps, func(a, b result.SaturationStep) int { return cmp.Compare(a.Offered, b.Offered) })
	most := steps[len(steps)-1].Offered * 1.03
	tbl := &table{Head: []string{"offered/s", "held", "ok/s", "not ok", "p50", "p99", "max", "lag p99", "why not"}}
	for i := range steps {
		for _, t := range steps[i].Trials {
			held := "yes"
			if !t.Held {
				held = "no"
			}
			tbl.add(formatRate(steps[i].Offered), held, formatRate(t.Throughput), fmt.Sprintf("%.2f %%", 100*t.NotOK),
				formatDuration(t.P50), formatDuration(t.P99), formatDuration(t.Max), formatDuration(t.LagP99), t.Reason)
		}
	}
	draw := func(name, title, desc string, height float64, fill func(c *chart)) figure {
		c := newChart(name, title, wide, height)
		c.X.Min, c.X.Max, c.X.Tick.Marker = 0, most, evenTicks{count: 10, label: amountLabel}
		fill(c)
		if sat.Broken > 0 {
			c.Add(shades{[][2]float64{{sat.Broken, most}}, c.line(stroke{fault, 0, nil}, 0.13, ""), c.line(stroke{fault, 1, []vg.Length{3, 2}}, 0.9, "")})
			area := paint{fault, 0.13, ""}
			c.legend = append(c.legend, entry{Label: "does not hold", Swatch: swatch(nil, &area, noGlyph)})
		}
		c.desc = desc
		c.table = tbl
		return c.draw(52, 16)
	}
	var figures []figure
	lo, hi, measured := logRange(func(yield func(float64) bool) {
		if sat.P99Limit > 0 && !yield(float64(sat.P99Limit)) {
			return
		}
		for i := range steps {
			for _, t := range steps[i].Trials {
				if !yield(float64(t.P50)) || !yield(float64(t.P99)) {
					return
				}
			}
		}
	})
	if measured {
		figures = append(figures, draw("knee-latency", "Response time at each offered rate per second",
			fmt.Sprintf("Median and 99th percentile of the response time at %d offered rates, up to %s per second, the time on a logarithmic axis.", len(steps), formatRate(most)), 260,
			func(c *chart) {
				c.Y.Scale, c.Y.Min, c.Y.Max, c.Y.Tick.Marker = logScale{}, lo, hi, latencyTicks{}
				c.Add(gridLines{c.line(stroke{grid, 1, nil}, 1, ""), true})
				if limit := vg.Length(sat.P99Limit); limit > 0 {
					look := stroke{fault, 1.2, []vg.Length{4, 3}}
					c.Add(curve{points: []vg.Point{{X: 0, Y: limit}, {X: vg.Length(most), Y: limit}}, style: c.line(look, 1, "")})
					c.legend = append(c.legend, entry{Label: "limit on p99, " + formatDuration(sat.P99Limit), Swatch: swatch(&look, nil, noGlyph)})
				}
				kneeCurve(c, steps, "p99", orange, triangle, func(t result.SaturationTrial) float64 { return float64(t.P99) })
				kneeCurve(c, steps, "p50", blue, disc, func(t result.SaturationTrial) float64 { return float64(t.P50) })
			}))
	}
	return append(figures, draw("knee-throughput", "Throughput at each offered rate per second",
		fmt.Sprintf("Operations answered with ok per second at %d offered rates; on the straight line all that is offered is done.", len(steps)), 220,
		func(c *chart) {
			c.Y.Min, c.Y.Max, c.Y.Tick.Marker = 0, most, evenTicks{count: 5, label: amountLabel}
			c.Add(gridLines{c.line(stroke{grid, 1, nil}, 1, ""), true})
			all := stroke{muted, 1.2, []vg.Length{4, 3}}
			c.Add(curve{points: []vg.Point{{}, {X: vg.Length(most), Y: vg.Length(most)}}, style: c.line(all, 1, "")})
			c.legend = append(c.legend, entry{Label: "all that is offered", Swatch: swatch(&all, nil, noGlyph)})
			kneeCurve(c, steps, "ok/s", green, square, func(t result.SaturationTrial) float64 { return t.Throughput })
		}))
}

// kneeCurve draws one quantity of every try, and a curve through the middle ones.
func kneeCurve(c *chart, steps []result.SaturationStep, name, variable string, g glyph, of func(result.SaturationTrial) float64) {
	var middle, tries []vg.Point
	for i := range steps {
		x := vg.Length(steps[i].Offered)
		if v := of(steps[i].Middle()); v > 0 {
			middle = append(middle, vg.Point{X: x, Y: vg.Length(v)})
		}
		for _, t := range steps[i].Trials {
			if v := of(t); v > 0 {
				tries = append(tries, vg.Point{X: x, Y: vg.Length(v)})
			}
		}
	}
	look, series := stroke{variable, 1.8, nil}, slug(name)
	c.Add(curve{points: middle, style: c.line(look, 1, series)})
	c.Add(marks{tries, g, c.line(look, 1, series), c.line(stroke{surface, 1, nil}, 1, "")})
	c.legend = append(c.legend, entry{name, series, swatch(&look, nil, g)})
}

// kneeTile is the answer of the search.
func kneeTile(sat *result.Saturation) (tile, bool) {
	if sat == nil {
		return tile{}, false
	}
	t := tile{Label: "Highest rate that holds its limits", Value: formatRate(sat.Rate) + "/s", Note: sat.Ended}
	if sat.Rate == 0 {
		t.Value, t.Tone = none, "t-unknown"
		return t, true
	}
	for i := range sat.Steps {
		// Held: the same rate may have been tried before, and not have.
		if st := &sat.Steps[i]; st.Offered == sat.Rate && st.Held {
			t.Note = strings.TrimSuffix("p99 there "+formatDuration(st.Middle().P99)+"; "+t.Note, "; ")
		}
	}
	if sat.Broken > 0 && sat.Ended == "" {
		t.Note += "; " + formatRate(sat.Broken) + "/s does not hold"
	}
	return t, true
}

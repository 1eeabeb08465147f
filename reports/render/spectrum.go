package render

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/plot/vg"

	"github.com/hacache/hacache/reports/result"
)

// spectra draws the percentile spectrum of every series that has one: response and service time against 1/(1-q). Series
// of one operation share a picture, one line a level; where a series was measured in several phases each phase has a
// picture of its own. All have the same axes.
func spectra(r *result.Run) []figure {
	type pane struct{ op, phase, loop string }
	type measured struct {
		key
		closed bool
	}
	phases := map[measured]int{}
	for _, s := range r.Series {
		if len(s.Spectrum) > 1 {
			phases[measured{key{s.Op, s.Level}, s.Closed}]++
		}
	}
	var panes []pane
	members := map[pane][]result.Series{}
	highest := 0.5
	for _, s := range r.Series {
		if len(s.Spectrum) < 2 {
			continue
		}
		p := pane{op: s.Op}
		if phases[measured{key{s.Op, s.Level}, s.Closed}] > 1 {
			p.phase = s.Phase
		}
		if s.Closed {
			p.loop = "closed loop"
		}
		if !slices.Contains(panes, p) {
			panes = append(panes, p)
		}
		members[p] = append(members[p], s)
		highest = math.Max(highest, s.Spectrum[len(s.Spectrum)-1].Q)
	}
	lo, hi, ok := logRange(func(yield func(float64) bool) {
		for _, list := range members {
			for _, s := range list {
				for _, p := range s.Spectrum {
					if !yield(float64(p.Response)) || !yield(float64(p.Service)) {
						return
					}
				}
			}
		}
	})
	if !ok {
		return nil
	}
	// The panes of one operation stand in a row, its phases in the order of the run.
	slices.SortStableFunc(panes, func(a, b pane) int {
		return cmp.Or(cmp.Compare(a.loop, b.loop), compareKeys(key{op: a.op}, key{op: b.op}))
	})
	var figures []figure
	for i, p := range panes {
		title := capital(p.op)
		for _, part := range []string{p.phase, p.loop} {
			if part != "" {
				title += " · " + part
			}
		}
		c := newChart(fmt.Sprintf("spectrum-%d-%s", i+1, slug(title)), title, narrow, 300)
		c.X.Scale, c.X.Min, c.X.Max, c.X.Tick.Marker = tailScale{}, 0, highest, tailTicks{}
		c.Y.Scale, c.Y.Min, c.Y.Max, c.Y.Tick.Marker = logScale{}, lo, hi, latencyTicks{}
		c.Add(gridLines{c.line(stroke{grid, 1, nil}, 1, ""), true})
		tbl := &table{Head: []string{"level", "percentile", "response", "service"}}
		list := members[p]
		slices.SortStableFunc(list, func(a, b result.Series) int {
			return compareKeys(key{a.Op, a.Level}, key{b.Op, b.Level})
		})
		for j, s := range list {
			k := key{s.Op, s.Level}
			variable, g := levelLook(k)
			name := s.Level
			if name == "" {
				name = s.Op
			}
			if p.phase == "" && slices.ContainsFunc(list[:j], func(o result.Series) bool { return o.Level == s.Level }) {
				name += ", " + s.Phase
			}
			var response, service []vg.Point
			for _, pt := range s.Spectrum {
				if pt.Response > 0 {
					response = append(response, vg.Point{X: vg.Length(pt.Q), Y: vg.Length(pt.Response)})
				}
				if pt.Service > 0 {
					service = append(service, vg.Point{X: vg.Length(pt.Q), Y: vg.Length(pt.Service)})
				}
				tbl.add(name, formatQuantile(pt.Q), formatDuration(pt.Response), formatDuration(pt.Service))
			}
			series := fmt.Sprintf("%s-%d", slug(name), j)
			look, second := stroke{variable, 1.8, nil}, stroke{variable, 1.2, []vg.Length{4, 3}}
			if !s.Closed {
				c.Add(curve{response, c.line(look, 1, series), g, 90})
				c.Add(curve{service, c.line(second, 1, series), noGlyph, 0})
			} else {
				c.Add(curve{service, c.line(look, 1, series), g, 90})
			}
			c.legend = append(c.legend, entry{name, series, swatch(&look, nil, g)})
		}
		c.table = tbl
		c.desc = fmt.Sprintf("Latency at each percentile for %s, from the minimum to %s, both axes logarithmic.", title, formatQuantile(highest))
		figures = append(figures, c.draw(52, 24))
	}
	return figures
}

// formatQuantile writes q as a percentage with the digits its tail needs.
func formatQuantile(q float64) string {
	digits := 1
	if q < 1 {
		digits = max(1, int(math.Ceil(-math.Log10(1-q)))-1)
	}
	return fmt.Sprintf("%.*f %%", digits, 100*q)
}

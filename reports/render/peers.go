package render

import (
	"fmt"
	"math"
	"slices"
	"time"

	"gonum.org/v1/plot/vg"

	"github.com/hacache/hacache/reports/result"
)

// peerGroup is the rows of one load, as the page and the summary show them.
type peerGroup struct {
	Load string
	Rows []peerRow
}

type peerRow struct {
	System, Operation, Rate, Spread, ToEcho, P50, P50ToEcho, P99, CPU string
	NotOK                                                             string
	Bad                                                               bool
}

// peerGroups is what was measured of all systems: medians of the rounds, rows in the order of the result.
func peerGroups(p *result.Peers) []peerGroup {
	if p == nil {
		return nil
	}
	var groups []peerGroup
	for i := range p.Rows {
		r := &p.Rows[i]
		if n := len(groups); n == 0 || groups[n-1].Load != r.Load {
			groups = append(groups, peerGroup{Load: r.Load})
		}
		g := &groups[len(groups)-1]
		row := peerRow{System: r.System, Operation: r.Operation, Rate: none, Spread: none, ToEcho: none, P50: none, P50ToEcho: none, P99: none, CPU: none, NotOK: none}
		if len(r.Rounds) > 0 {
			middle := func(of func(result.Turn) time.Duration) string {
				return formatDuration(time.Duration(r.Middle(func(t result.Turn) float64 { return float64(of(t)) })))
			}
			low, high := rateSpread(r)
			notOK := int64(0)
			for _, t := range r.Rounds {
				notOK += t.NotOK
			}
			row.Rate, row.Spread = formatRate(peerRate(r)), formatRate(low)+" … "+formatRate(high)
			row.P50 = middle(func(t result.Turn) time.Duration { return t.P50 })
			row.P99 = middle(func(t result.Turn) time.Duration { return t.P99 })
			row.CPU = middle(func(t result.Turn) time.Duration { return t.CPU })
			row.NotOK, row.Bad = formatCount(notOK), notOK > 0
		}
		row.ToEcho, row.P50ToEcho = formatRatio(p.RateRatio(r)), formatRatio(p.MedianRatio(r))
		g.Rows = append(g.Rows, row)
	}
	return groups
}

func peerRate(r *result.PeerRow) float64 {
	return r.Middle(func(t result.Turn) float64 { return t.Rate })
}

// rateSpread is the slowest and the fastest round.
func rateSpread(r *result.PeerRow) (low, high float64) {
	byRate := func(a, b result.Turn) int { return int(math.Copysign(1, a.Rate-b.Rate)) }
	return slices.MinFunc(r.Rounds, byRate).Rate, slices.MaxFunc(r.Rounds, byRate).Rate
}

func formatRatio(v float64) string {
	if math.IsNaN(v) {
		return none
	}
	return fmt.Sprintf("%.2f ×", v)
}

// peerLooks is the colour and the mark of the n-th system, so that one is the same in all pictures; in order of p.Systems.
var peerLooks = []struct {
	variable string
	glyph    glyph
}{{muted, ring}, {blue, disc}, {orange, triangle}, {green, square}, {red, diamond}}

// peerFigures draws the rate of every row, one picture for each load: what was slowest and fastest as a line, the median
// as a bar that begins at nought.
func peerFigures(p *result.Peers) []figure {
	if p == nil {
		return nil
	}
	var figures []figure
	for n, g := range peerGroups(p) {
		var rows []*result.PeerRow
		most := 0.0
		for i := range p.Rows {
			if r := &p.Rows[i]; r.Load == g.Load && len(r.Rounds) > 0 {
				_, high := rateSpread(r)
				rows, most = append(rows, r), max(most, high)
			}
		}
		if len(rows) > 0 && most > 0 {
			figures = append(figures, peerFigure(p, fmt.Sprintf("peers-%d", n+1), g.Load, rows, most))
		}
	}
	return figures
}

func peerFigure(p *result.Peers, name, load string, rows []*result.PeerRow, most float64) figure {
	c := newChart(name, load+": operations a second", wide, float64(26*len(rows)+30))
	c.X.Min, c.X.Max, c.X.Tick.Marker = 0, most*1.04, evenTicks{count: 8, label: amountLabel}
	c.Y.Min, c.Y.Max = 0, float64(len(rows))
	c.Add(gridLines{c.line(stroke{grid, 1, nil}, 1, ""), true})
	tbl := &table{Head: []string{"system", "operation", "ops/s, median", "slowest round", "fastest round"}}
	names := rowNames{}
	var bars []segment
	marked := map[int][]vg.Point{}
	for i, r := range rows {
		y := float64(len(rows)-i) - 0.5
		names = append(names, rowName{y, plainText(r.System+": "+r.Operation, 48)})
		system := slices.IndexFunc(p.Systems, func(s result.Peer) bool { return s.Name == r.System }) % len(peerLooks)
		rate := peerRate(r)
		low, high := rateSpread(r)
		bars = append(bars, segment{row: i, from: 0, to: rate, look: look{fill: c.line(stroke{peerLooks[system].variable, 0, nil}, 0.45, ""), height: 0.62}})
		marked[system] = append(marked[system], vg.Point{X: vg.Length(rate), Y: vg.Length(y)})
		c.Add(curve{points: []vg.Point{{X: vg.Length(low), Y: vg.Length(y)}, {X: vg.Length(high), Y: vg.Length(y)}}, style: c.line(stroke{ink, 1.4, nil}, 1, "")})
		tbl.add(r.System, r.Operation, formatRate(rate), formatRate(low), formatRate(high))
	}
	c.Y.Tick.Marker = names
	c.Add(lanes{rows: len(rows), segments: bars, text: c.label(onFill, 10)})
	for i, s := range p.Systems {
		i %= len(peerLooks)
		if len(marked[i]) == 0 {
			continue
		}
		c.Add(marks{marked[i], peerLooks[i].glyph, c.line(stroke{peerLooks[i].variable, 1, nil}, 1, ""), c.line(stroke{surface, 1, nil}, 1, "")})
		c.legend = append(c.legend, entry{Label: s.Name, Swatch: swatch(&stroke{peerLooks[i].variable, 0, nil}, nil, peerLooks[i].glyph)})
	}
	c.table = tbl
	c.desc = fmt.Sprintf("Operations a second of %d rows, as bars from nought to the median of the rounds; a line goes from the slowest to the fastest round.", len(rows))
	return c.draw(0, 16)
}

// peerNotes says what all rows have in common.
func peerNotes(p *result.Peers) []string {
	if p == nil {
		return nil
	}
	rounds := 0
	for _, r := range p.Rows {
		rounds = max(rounds, len(r.Rounds))
	}
	return []string{
		fmt.Sprintf("Medians of %d rounds; in each round every row had its turn once, in an order drawn for that round. A closed loop: latencies are service times with that many operations in flight. “To echo” is the median of the ratios to the echo in the same round. Processor time is that of all servers of a system and of the client, for one operation.", rounds),
		fmt.Sprintf("All servers of all systems were up all the time. While nobody asked them anything they kept %.2f cores busy together, which every row has to bear.", p.Idle),
	}
}

package render

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/hacache/hacache/reports/compare"
	"github.com/hacache/hacache/reports/result"
)

// Comparison is one base and what was set against it.
type Comparison struct {
	Title string
	// Gates are one for each head, all with the same base. At least one.
	Gates []*compare.Gate
	// Judged says that the outcome of the only gate is the point, rather than the numbers.
	Judged bool
	// Command is what repeats it; may be empty.
	Command string
}

// Names of the files of a comparison.
const comparisonCSV = "comparison.csv"

// WriteComparison writes report.html, report.md, junit.xml, comparison.csv and plots/changes.svg and .png into dir, which must exist, and
// returns the path of the page.
func WriteComparison(dir string, c *Comparison) (string, error) {
	effects := effectFigure(c)
	picture, err := effects.png()
	if err != nil {
		return "", fmt.Errorf("render comparison: %w", err)
	}
	var page, md, table, junit bytes.Buffer
	for _, part := range []struct {
		buf   *bytes.Buffer
		write func(io.Writer) error
	}{{&page, c.page}, {&md, c.Markdown}, {&table, c.CSV}, {&junit, c.JUnit}} {
		if err := part.write(part.buf); err != nil {
			return "", fmt.Errorf("render comparison: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, result.PlotsDir), 0o755); err != nil {
		return "", fmt.Errorf("render comparison: %w", err)
	}
	files := map[string][]byte{
		comparisonCSV: table.Bytes(), result.MarkdownFile: md.Bytes(), result.JUnitFile: junit.Bytes(),
		result.PlotsDir + "/" + effects.Name + ".svg": effects.standalone(), result.PlotsDir + "/" + effects.Name + ".png": picture, result.ReportFile: page.Bytes(),
	}
	for _, name := range sortedKeys(files) {
		if err := result.ReplaceFile(filepath.Join(dir, filepath.FromSlash(name)), files[name]); err != nil {
			return "", fmt.Errorf("render comparison: %w", err)
		}
	}
	return filepath.Join(dir, result.ReportFile), nil
}

// formatChange writes a share with its sign: +3.2 %. A bound that is not known is none.
func formatChange(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0) || v == -1:
		return none
	case math.Abs(v) < 0.0005:
		return "0 %"
	case v < 0:
		return fmt.Sprintf("−%.1f %%", -100*v)
	}
	return fmt.Sprintf("+%.1f %%", 100*v)
}

func formatValue(u compare.Unit, v float64) string {
	switch {
	case math.IsNaN(v):
		return none
	case u == compare.Duration:
		return formatDuration(time.Duration(math.Round(v)))
	case u == compare.PerCPU:
		return formatRate(v) + "/CPU s"
	}
	return formatRate(v) + "/s"
}

// interval is the effect's bounds in words.
func interval(d *compare.Difference) string {
	low, high := formatChange(d.Effect.Low), formatChange(d.Effect.High)
	if len(d.Base) == 0 || len(d.Head) == 0 || low == none && high == none {
		return none
	}
	return low + " … " + high
}

// limitText is what a metric may lose.
func limitText(d *compare.Difference) string {
	if d.Limit == 0 {
		return none
	}
	sign := "+"
	if d.HigherBetter {
		sign = "−"
	}
	text := fmt.Sprintf("%s%g %%", sign, 100*d.Limit)
	if d.Floor > 0 {
		text += " and " + formatValue(d.Unit, d.Floor)
	}
	return text
}

func samplesText(d *compare.Difference) string {
	text := fmt.Sprintf("%d, %d", len(d.Base), len(d.Head))
	if d.Rounds != nil {
		text = fmt.Sprintf("%d pairs", len(d.Rounds))
	}
	if n := len(d.Dropped); n > 0 {
		text += fmt.Sprintf(" (%d dropped)", n)
	}
	return text
}

func probability(d *compare.Difference) string {
	if d.Limit == 0 || d.Outcome == compare.Undecided {
		return none
	}
	if d.Adjusted < 0.001 {
		return "< 0.001"
	}
	return strconv.FormatFloat(d.Adjusted, 'f', 3, 64)
}

func estimate(d *compare.Difference) string {
	if len(d.Base) == 0 || len(d.Head) == 0 {
		return none
	}
	return formatChange(d.Effect.Value)
}

// Text writes one line a metric, for a terminal.
func (c *Comparison) Text(w io.Writer) error {
	bw := bufio.NewWriter(w)
	for _, g := range c.Gates {
		tw := tabwriter.NewWriter(bw, 0, 0, 2, ' ', 0)
		fmt.Fprintf(tw, "%s\t%s\t%s\tchange\t90 %% interval\tlimit\tp\truns\toutcome\n", c.Title, g.Base.Name, g.Head.Name)
		for i := range g.Differences {
			d := &g.Differences[i]
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Name, formatValue(d.Unit, compare.Median(d.Base)), formatValue(d.Unit, compare.Median(d.Head)),
				estimate(d), interval(d), limitText(d), probability(d), samplesText(d), d.Outcome)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		for _, b := range g.Broken {
			fmt.Fprintln(bw, "broken:", b)
		}
		for _, n := range g.Notes {
			fmt.Fprintln(bw, "note:", n)
		}
		if c.Judged {
			fmt.Fprintf(bw, "%s: %s\n", g.Outcome, sentence(g))
		}
	}
	return bw.Flush()
}

// sentence says what the outcome of a gate rests on.
func sentence(g *compare.Gate) string {
	var names []string
	for i := range g.Differences {
		if d := &g.Differences[i]; d.Outcome == g.Outcome {
			name := d.Name
			if g.Outcome != compare.Undecided && g.Outcome != compare.Passed {
				name += " " + estimate(d)
			}
			names = append(names, name)
		}
	}
	list := strings.Join(names, ", ")
	switch g.Outcome {
	case compare.Failed:
		var why []string
		if len(names) > 0 {
			why = append(why, "beyond its limit, beyond doubt: "+strings.Join(names, "; "))
		}
		if n := len(g.Broken); n > 0 {
			why = append(why, fmt.Sprintf("broken without any statistics: %d", n))
		}
		return strings.Join(why, ". And ")
	case compare.Undecided:
		if list == "" {
			return "no metric could be judged"
		}
		if g.Foreign {
			return "the two sides were measured on different machines: " + strings.Join(g.Machines, "; ")
		}
		least := fmt.Sprintf("%d rounds of both sides", g.Least)
		if !g.Paired {
			least = fmt.Sprintf("%d runs of each side", g.Least)
		}
		return "fewer than " + least + " count for " + list
	case compare.Inconclusive:
		return "it looks like a loss and may be chance, more rounds can tell: " + list
	case compare.Neutral:
		return "it looks like a loss and may be chance, after all rounds: " + list
	}
	return "no loss beyond its limit was shown"
}

func outcomeTone(o compare.Outcome) verdict {
	switch o {
	case compare.Passed:
		return verdict{string(o), "✓", "t-pass"}
	case compare.Failed:
		return verdict{string(o), "✕", "t-violated"}
	case compare.Shown:
		return verdict{string(o), "–", "t-idle"}
	case compare.Same:
		return verdict{"no difference shown", "~", "t-idle"}
	case compare.Better:
		return verdict{string(o), "✓", "t-pass"}
	case compare.Worse:
		return verdict{string(o), "✕", "t-violated"}
	}
	return verdict{string(o), "?", "t-unknown"}
}

// Markdown writes the comparison for the summary of a CI job.
func (c *Comparison) Markdown(w io.Writer) error {
	bw := bufio.NewWriter(w)
	row := func(cells []string) {
		if !c.Judged {
			cells = slices.Delete(cells, 5, 7) // limit and p
		}
		for i := range cells {
			cells[i] = escapeMarkdown(cells[i])
		}
		fmt.Fprintf(bw, "| %s |\n", strings.Join(cells, " | "))
	}
	for _, g := range c.Gates {
		v := outcomeTone(g.Outcome)
		if c.Judged {
			fmt.Fprintf(bw, "# %s %s: %s\n\n%s.\n\n", v.Sign, strings.ToUpper(v.Word), escapeMarkdown(c.Title), escapeMarkdown(capital(sentence(g))))
		} else {
			fmt.Fprintf(bw, "# %s: %s against %s\n\n", escapeMarkdown(c.Title), escapeMarkdown(g.Head.Name), escapeMarkdown(g.Base.Name))
		}
		for _, b := range g.Broken {
			fmt.Fprintf(bw, "- **%s**\n", escapeMarkdown(b))
		}
		if len(g.Broken) > 0 {
			fmt.Fprintln(bw)
		}
		row([]string{"metric", g.Base.Name, g.Head.Name, "change", "90 % interval", "limit", "p", "runs", "outcome"})
		row([]string{"---", "---:", "---:", "---:", "---:", "---:", "---:", "---:", "---"})
		for i := range g.Differences {
			d := &g.Differences[i]
			row([]string{
				d.Name, formatValue(d.Unit, compare.Median(d.Base)), formatValue(d.Unit, compare.Median(d.Head)),
				estimate(d), interval(d), limitText(d), probability(d), samplesText(d), outcomeTone(d.Outcome).Sign + " " + outcomeTone(d.Outcome).Word,
			})
		}
		for _, n := range append([]string{comparisonMeta(g)}, g.Notes...) {
			fmt.Fprintf(bw, "\n%s\n", escapeMarkdown(n))
		}
		fmt.Fprintln(bw)
	}
	return bw.Flush()
}

// CSV writes one row a metric and head, with plain numbers: nanoseconds and rates, shares as fractions of one.
func (c *Comparison) CSV(w io.Writer) error {
	cw := csv.NewWriter(w)
	cw.Write([]string{"head", "metric", "unit", "base_median", "head_median", "change", "low", "high", "limit", "floor", "p", "p_adjusted", "base_runs", "head_runs", "dropped", "outcome"})
	number := func(v float64) string {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return ""
		}
		return strconv.FormatFloat(v, 'g', 8, 64)
	}
	for _, g := range c.Gates {
		for i := range g.Differences {
			d := &g.Differences[i]
			cw.Write([]string{
				g.Head.Name, d.Name, string(d.Unit), number(compare.Median(d.Base)), number(compare.Median(d.Head)), number(d.Effect.Value), number(d.Effect.Low),
				number(d.Effect.High), number(d.Limit), number(d.Floor), number(d.P), number(d.Adjusted), strconv.Itoa(len(d.Base)), strconv.Itoa(len(d.Head)), strconv.Itoa(len(d.Dropped)), string(d.Outcome),
			})
		}
	}
	cw.Flush()
	return cw.Error()
}

// comparisonPage is what the template shows.
type comparisonPage struct {
	Title, Word, Tone, Sign, Headline, Meta, Command string
	Judged                                           bool
	Alpha                                            float64
	Broken, Notes                                    []string
	Effects                                          picture
	Tables                                           []comparisonTable
	Files                                            []fileRow
	None                                             string
	CSS                                              template.CSS
	JS                                               template.JS
}

type comparisonTable struct {
	Base, Head string
	Judged     bool
	Rows       []comparisonRow
}

type comparisonRow struct {
	Name, Base, Head, Change, Interval, Limit, P, Runs string
	Outcome                                            verdict
	Worse                                              bool
	Pairs                                              [][3]string // round, base, head
}

func (c *Comparison) page(w io.Writer) error {
	p := comparisonPage{
		Title: c.Title, Command: c.Command, Judged: c.Judged, Alpha: c.Gates[0].Alpha, None: none, Effects: pictureOf(effectFigure(c), "wide", true),
		CSS: template.CSS(paletteCSS + pageCSS), JS: template.JS(pageJS),
		Files: []fileRow{{comparisonCSV, comparisonCSV, "the table above, for programs"}, {result.MarkdownFile, result.MarkdownFile, "for the summary of a CI job"}, {result.JUnitFile, result.JUnitFile, "one case a metric"}},
	}
	first := c.Gates[0]
	v := outcomeTone(first.Outcome)
	p.Word, p.Tone, p.Sign, p.Headline = v.Word, v.Tone, v.Sign, capital(sentence(first))+"."
	if !c.Judged {
		var names []string
		for _, g := range c.Gates {
			names = append(names, g.Head.Name)
		}
		p.Word, p.Tone, p.Sign, p.Headline = "comparison", "t-idle", "", strings.Join(names, ", ")+" against "+first.Base.Name
	}
	p.Meta = comparisonMeta(first)
	for _, g := range c.Gates {
		p.Broken = append(p.Broken, g.Broken...)
		for _, n := range g.Notes {
			if !slices.Contains(p.Notes, n) {
				p.Notes = append(p.Notes, n)
			}
		}
		p.Tables = append(p.Tables, tableOf(g, c.Judged))
	}
	return pageTemplate.ExecuteTemplate(w, "comparison", p)
}

// comparisonMeta says on what a comparison rests.
func comparisonMeta(g *compare.Gate) string {
	parts := []string{fmt.Sprintf("%d and %d rounds", len(g.Base.Rounds), len(g.Head.Rounds))}
	if g.Paired {
		parts[0] += " in pairs"
	}
	parts = append(parts, g.Machines...)
	if at := g.Head.Rounds[0].Runs[0].Started; !at.IsZero() {
		parts = append(parts, "started "+at.UTC().Format("2006-01-02 15:04:05 MST"))
	}
	return strings.Join(parts, " · ")
}

func tableOf(g *compare.Gate, judged bool) comparisonTable {
	t := comparisonTable{Base: g.Base.Name, Head: g.Head.Name, Judged: judged}
	for i := range g.Differences {
		d := &g.Differences[i]
		row := comparisonRow{
			Name: d.Name, Base: formatValue(d.Unit, compare.Median(d.Base)), Head: formatValue(d.Unit, compare.Median(d.Head)), Change: estimate(d), Interval: interval(d),
			Limit: limitText(d), P: probability(d), Runs: samplesText(d), Outcome: outcomeTone(d.Outcome), Worse: slices.Contains([]compare.Outcome{compare.Failed, compare.Inconclusive, compare.Neutral, compare.Worse}, d.Outcome),
		}
		for k := range max(len(d.Base), len(d.Head)) {
			cell := func(values []float64) string {
				if k < len(values) {
					return formatValue(d.Unit, values[k])
				}
				return none
			}
			name := strconv.Itoa(k + 1)
			if d.Rounds != nil {
				name = d.Rounds[k]
			}
			row.Pairs = append(row.Pairs, [3]string{name, cell(d.Base), cell(d.Head)})
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// effectFigure draws the change of every metric with its interval and its limit, all on one scale of shares.
func effectFigure(c *Comparison) figure {
	type row struct {
		name string
		d    *compare.Difference
	}
	var rows []row
	reach := 0.12
	for i := range c.Gates[0].Differences {
		name := c.Gates[0].Differences[i].Name
		for _, g := range c.Gates {
			at := slices.IndexFunc(g.Differences, func(d compare.Difference) bool { return d.Name == name })
			if at < 0 || estimate(&g.Differences[at]) == none {
				continue
			}
			d := &g.Differences[at]
			label := plainText(name, 44)
			if len(c.Gates) > 1 {
				label = plainText(name, 40) + ", " + plainText(g.Head.Name, 14)
			}
			rows = append(rows, row{label, d})
			for _, v := range []float64{d.Effect.Value, d.Effect.Low, d.Effect.High, 1.2 * d.Limit} {
				if known(v) {
					reach = max(reach, min(math.Abs(v)*1.1, 1))
				}
			}
		}
	}
	ch := newChart("changes", "Change of each metric, with the interval in which it lies", wide, float64(26*max(len(rows), 1)+40))
	ch.X.Min, ch.X.Max, ch.X.Tick.Marker = -reach, reach, evenTicks{count: 8, label: changeLabel}
	ch.Y.Min, ch.Y.Max = 0, float64(max(len(rows), 1))
	ch.Add(gridLines{ch.line(stroke{grid, 1, nil}, 1, ""), true})
	names := rowNames{}
	tbl := &table{Head: []string{"metric", "change", "interval", "limit"}}
	var effects []effect
	for i, r := range rows {
		y := float64(len(rows)-i) - 0.5
		names = append(names, rowName{y, r.name})
		variable, g := muted, ring
		switch {
		case r.d.Outcome == compare.Failed || r.d.Outcome == compare.Worse:
			variable, g = red, square
		case r.d.Outcome == compare.Inconclusive || r.d.Outcome == compare.Neutral:
			variable, g = orange, triangle
		case r.d.Outcome == compare.Passed || r.d.Outcome == compare.Better:
			variable, g = blue, disc
		}
		e := effect{y: y, estimate: r.d.Effect, look: ch.line(stroke{variable, 2, nil}, 1, ""), glyph: g, limit: math.NaN()}
		if r.d.Limit > 0 {
			e.limit = r.d.Limit
			if r.d.HigherBetter {
				e.limit = -e.limit
			}
		}
		effects = append(effects, e)
		tbl.add(r.name, estimate(r.d), interval(r.d), limitText(r.d))
	}
	ch.Y.Tick.Marker = names
	ch.Add(effectRows{effects, ch.line(stroke{ink, 1, nil}, 0.7, ""), ch.line(stroke{red, 1.4, []vg.Length{2, 2}}, 1, ""), ch.line(stroke{surface, 1, nil}, 1, "")})
	type sign struct {
		label, variable string
		glyph           glyph
	}
	signs := []sign{{"no loss beyond the limit shown", blue, disc}, {"FAIL", red, square}, {"may be chance", orange, triangle}, {"not judged", muted, ring}}
	if !c.Judged {
		signs = []sign{{"better", blue, disc}, {"worse", red, square}, {"no difference shown", muted, ring}}
	}
	for _, l := range signs {
		ch.legend = append(ch.legend, entry{Label: l.label, Swatch: swatch(&stroke{l.variable, 1.6, nil}, nil, l.glyph)})
	}
	if c.Judged {
		ch.legend = append(ch.legend, entry{Label: "limit", Swatch: swatch(&stroke{red, 1.4, []vg.Length{2, 2}}, nil, noGlyph)})
	}
	ch.table = tbl
	ch.desc = fmt.Sprintf("The relative change of %d metrics, each as a point with an interval; right of the middle is more, left is less.", len(rows))
	return ch.draw(0, 16)
}

// known says that a bound exists: so few values that there is none give an infinite loss, a change of -1 or infinity.
func known(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) && v > -1 }

func changeLabel(v, _ float64) string {
	if math.Abs(v) < 1e-9 {
		return "0"
	}
	return fmt.Sprintf("%+.3g %%", 100*v)
}

// effect is one row of effectRows.
type effect struct {
	y        float64
	estimate compare.Estimate
	limit    float64 // NaN: none
	look     draw.LineStyle
	glyph    glyph
}

// effectRows draws estimates with their intervals, a line at no change, and each row's limit. What lies beyond the axis ends at
// its edge.
type effectRows struct {
	rows                 []effect
	zero, limit, surface draw.LineStyle
}

func (e effectRows) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	within := func(v float64) vg.Length { return x(min(max(v, p.X.Min), p.X.Max)) }
	c.StrokeLine2(e.zero, x(0), c.Min.Y, x(0), c.Max.Y)
	for _, r := range e.rows {
		at := y(r.y)
		if !math.IsNaN(r.limit) {
			c.StrokeLine2(e.limit, within(r.limit), at-9, within(r.limit), at+9)
		}
		if known(r.estimate.Low) && known(r.estimate.High) {
			c.StrokeLine2(r.look, within(r.estimate.Low), at, within(r.estimate.High), at)
			for _, end := range []float64{r.estimate.Low, r.estimate.High} {
				c.StrokeLine2(r.look, within(end), at-4, within(end), at+4)
			}
		}
		drawGlyph(c, r.glyph, r.look, e.surface, vg.Point{X: within(r.estimate.Value), Y: at}, 4)
	}
}

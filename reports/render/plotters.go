package render

import (
	"cmp"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// What gonum's own plotters lack: series in bins of unequal width with gaps between them, bands, lanes of states.

// stroke is how a line looks.
type stroke struct {
	variable string
	width    float64
	dashes   []vg.Length
}

func (c *chart) line(s stroke, opacity float64, series string) draw.LineStyle {
	return draw.LineStyle{Color: c.color(paint{s.variable, opacity, series}), Width: vg.Length(s.width), Dashes: s.dashes}
}

// glyph marks points of a line, so that lines differ in more than colour.
type glyph int

const (
	noGlyph glyph = iota
	disc
	square
	triangle
	diamond
	ring
)

// outline is the shape of the glyph around the origin.
func (g glyph) outline(r vg.Length) vg.Path {
	var p vg.Path
	corners := func(points ...vg.Point) {
		p.Move(points[0])
		for _, pt := range points[1:] {
			p.Line(pt)
		}
		p.Close()
	}
	switch g {
	case disc, ring:
		p.Move(vg.Point{X: r})
		p.Arc(vg.Point{}, r, 0, 2*math.Pi)
		p.Close()
	case square:
		corners(vg.Point{X: -r, Y: -r}, vg.Point{X: r, Y: -r}, vg.Point{X: r, Y: r}, vg.Point{X: -r, Y: r})
	case triangle:
		corners(vg.Point{X: -1.2 * r, Y: -r}, vg.Point{X: 1.2 * r, Y: -r}, vg.Point{Y: 1.2 * r})
	case diamond:
		corners(vg.Point{X: -1.3 * r}, vg.Point{Y: -1.3 * r}, vg.Point{X: 1.3 * r}, vg.Point{Y: 1.3 * r})
	}
	return p
}

// drawGlyph draws g at pt; a ring is filled with the surface, if there is one, so that it hides the line below it.
func drawGlyph(c draw.Canvas, g glyph, sty draw.LineStyle, surface draw.LineStyle, pt vg.Point, r vg.Length) {
	if g == noGlyph {
		return
	}
	c.Push()
	c.Translate(pt)
	path := g.outline(r)
	if g == ring {
		if surface.Color != nil {
			c.SetColor(surface.Color)
			c.Fill(path)
		}
		c.SetLineStyle(draw.LineStyle{Color: sty.Color, Width: 1.4})
		c.Stroke(path)
	} else {
		c.SetColor(sty.Color)
		c.Fill(path)
	}
	c.Pop()
}

// bin is one value over a stretch of the horizontal axis. NaN: no value.
type bin struct{ from, to, value float64 }

// steps draws bins as a line of level stretches; it breaks where bins do not touch or have no value.
type steps struct {
	bins  []bin
	style draw.LineStyle
	apart bool // leave out the vertical parts
	glyph glyph
}

func (s steps) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	var lines [][]vg.Point
	var last float64
	for _, b := range s.bins {
		if math.IsNaN(b.value) {
			last = math.NaN()
			continue
		}
		points := []vg.Point{{X: x(b.from), Y: y(b.value)}, {X: x(b.to), Y: y(b.value)}}
		if n := len(lines); n > 0 && !s.apart && touches(last, b) {
			lines[n-1] = append(lines[n-1], points...)
		} else {
			lines = append(lines, points)
		}
		last = b.to
	}
	var path vg.Path
	for _, l := range lines {
		path.Move(l[0])
		for i, pt := range l[1:] {
			// Of three points on a level the middle one says nothing.
			if i+2 < len(l) && l[i].Y == pt.Y && l[i+2].Y == pt.Y {
				continue
			}
			path.Line(pt)
		}
	}
	if len(path) > 0 {
		c.SetLineStyle(s.style)
		c.Stroke(path)
	}
	if s.glyph == noGlyph {
		return
	}
	next := c.Min.X + 30
	for _, b := range s.bins {
		pt := vg.Point{X: (x(b.from) + x(b.to)) / 2, Y: y(b.value)}
		if !math.IsNaN(b.value) && pt.X >= next {
			drawGlyph(c, s.glyph, s.style, draw.LineStyle{}, pt, 3)
			next = pt.X + 110
		}
	}
}

func touches(end float64, b bin) bool { return math.Abs(b.from-end) <= 0.01*(b.to-b.from) }

// band fills between two series of bins with the same edges.
type band struct {
	low, high []bin
	paint     draw.LineStyle // its colour only
}

func (f band) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	var path vg.Path
	for i := 0; i < len(f.low); {
		if math.IsNaN(f.low[i].value) || math.IsNaN(f.high[i].value) {
			i++
			continue
		}
		end := i + 1
		for end < len(f.low) && touches(f.low[end-1].to, f.low[end]) && !math.IsNaN(f.low[end].value) && !math.IsNaN(f.high[end].value) {
			end++
		}
		path.Move(vg.Point{X: x(f.low[i].from), Y: y(f.low[i].value)})
		for _, b := range f.high[i:end] {
			path.Line(vg.Point{X: x(b.from), Y: y(b.value)})
			path.Line(vg.Point{X: x(b.to), Y: y(b.value)})
		}
		for j := end - 1; j >= i; j-- {
			path.Line(vg.Point{X: x(f.low[j].to), Y: y(f.low[j].value)})
			path.Line(vg.Point{X: x(f.low[j].from), Y: y(f.low[j].value)})
		}
		path.Close()
		i = end
	}
	if len(path) > 0 {
		c.SetColor(f.paint.Color)
		c.Fill(path)
	}
}

// curve joins points by straight lines.
type curve struct {
	points []vg.Point // in data coordinates
	style  draw.LineStyle
	glyph  glyph
	every  vg.Length // room between glyphs
}

func (l curve) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	pts := make([]vg.Point, len(l.points))
	next := c.Min.X + l.every/3
	for i, pt := range l.points {
		pts[i] = vg.Point{X: x(float64(pt.X)), Y: y(float64(pt.Y))}
	}
	c.StrokeLines(l.style, pts)
	for _, pt := range pts {
		if l.glyph != noGlyph && pt.X >= next {
			drawGlyph(c, l.glyph, l.style, draw.LineStyle{}, pt, 3)
			next = pt.X + l.every
		}
	}
}

// gridLines draws a line across the data at each labelled mark of the axes.
type gridLines struct {
	style    draw.LineStyle
	vertical bool
}

func (g gridLines) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	for _, t := range p.Y.Tick.Marker.Ticks(p.Y.Min, p.Y.Max) {
		if !t.IsMinor() {
			c.StrokeLine2(g.style, c.Min.X, y(t.Value), c.Max.X, y(t.Value))
		}
	}
	if !g.vertical {
		return
	}
	for _, t := range p.X.Tick.Marker.Ticks(p.X.Min, p.X.Max) {
		if !t.IsMinor() {
			c.StrokeLine2(g.style, x(t.Value), c.Min.Y, x(t.Value), c.Max.Y)
		}
	}
}

// maxEdges bounds the faults whose beginnings are lines.
const maxEdges = 80

// shades marks stretches of the horizontal axis over the whole height. Stretches that are less than a pixel apart are one:
// more cannot be seen, and there may be thousands.
type shades struct {
	spans [][2]float64
	area  draw.LineStyle // its colour only
	edge  draw.LineStyle
}

func (s shades) Plot(c draw.Canvas, p *plot.Plot) {
	x, _ := p.Transforms(&c)
	var areas, edges vg.Path
	type stretch struct{ from, to vg.Length }
	var joined []stretch
	edge := c.Min.X - 2
	for _, span := range slices.SortedFunc(slices.Values(s.spans), func(a, b [2]float64) int { return cmp.Compare(a[0], b[0]) }) {
		from, to := max(x(span[0]), c.Min.X), min(x(span[1]), c.Max.X)
		if from > c.Max.X {
			break
		}
		if from > edge+1 {
			edge = from
			edges.Move(vg.Point{X: from, Y: c.Min.Y})
			edges.Line(vg.Point{X: from, Y: c.Max.Y})
		}
		if n := len(joined); n > 0 && from < joined[n-1].to+1 {
			joined[n-1].to = max(joined[n-1].to, to)
		} else {
			joined = append(joined, stretch{from, to})
		}
	}
	if len(s.spans) > maxEdges {
		edges = nil // that many lines would hide what is behind them
	}
	for _, j := range joined {
		if len(edges) == 0 {
			j.to = max(j.to, j.from+1) // and yet none is invisible
		}
		if j.to-j.from > 0.5 {
			areas = append(areas, vg.Rectangle{Min: vg.Point{X: j.from, Y: c.Min.Y}, Max: vg.Point{X: j.to, Y: c.Max.Y}}.Path()...)
		}
	}
	if len(areas) > 0 {
		c.SetColor(s.area.Color)
		c.Fill(areas)
	}
	if len(edges) > 0 {
		c.SetLineStyle(s.edge)
		c.Stroke(edges)
	}
}

// segment is one state of one lane.
type segment struct {
	row      int // from the top
	from, to float64
	look     look
	label    string // written inside when there is room
}

// look is how a state is drawn: its colour and its height, so that it does not depend on colour alone.
type look struct {
	fill   draw.LineStyle // its colour only
	edge   draw.LineStyle // no width: none
	height float64        // share of the row
}

// same says whether two looks cannot be told apart: colours are numbers that a chart handed out.
func (l look) same(o look) bool {
	return l.fill.Color == o.fill.Color && l.edge.Color == o.edge.Color && l.edge.Width == o.edge.Width && slices.Equal(l.edge.Dashes, o.edge.Dashes) && l.height == o.height
}

// lanes draws segments in rows. The vertical axis goes from 0 to rows, the first row is the top one.
type lanes struct {
	rows     int
	segments []segment
	text     draw.TextStyle
}

func (l lanes) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	// All states of one look are one shape: there may be thousands of them. What is rarer is drawn later, so that it is not
	// covered by what is next to it.
	type shape struct {
		look  look
		boxes vg.Path
		count int
	}
	var shapes []*shape
	end := func(s segment) (from, to vg.Length) { // something that happened is never invisible
		from, to = max(x(s.from), c.Min.X), min(x(s.to), c.Max.X)
		if to < from {
			return from, to
		}
		return from, max(to, from+1)
	}
	for _, s := range l.segments {
		from, to := end(s)
		if to < from {
			continue
		}
		at := slices.IndexFunc(shapes, func(x *shape) bool { return x.look.same(s.look) })
		if at < 0 {
			at = len(shapes)
			shapes = append(shapes, &shape{look: s.look})
		}
		middle := y(float64(l.rows-s.row) - 0.5)
		half := (y(1) - y(0)) * vg.Length(s.look.height) / 2
		box := vg.Rectangle{Min: vg.Point{X: from, Y: middle - half}, Max: vg.Point{X: to, Y: middle + half}}
		shapes[at].boxes = append(shapes[at].boxes, box.Path()...)
		shapes[at].count++
	}
	slices.SortStableFunc(shapes, func(a, b *shape) int { return cmp.Compare(b.count, a.count) })
	for _, s := range shapes {
		if s.look.fill.Color != nil {
			c.SetColor(s.look.fill.Color)
			c.Fill(s.boxes)
		}
		if s.look.edge.Width > 0 {
			c.SetLineStyle(s.look.edge)
			c.Stroke(s.boxes)
		}
	}
	for _, s := range l.segments {
		from, to := end(s)
		middle := y(float64(l.rows-s.row) - 0.5)
		if s.label != "" && l.text.Width(s.label)+8 <= to-from {
			c.FillText(l.text, vg.Point{X: from + 4, Y: middle + l.text.FontExtents().Descent/2}, s.label)
		}
	}
}

// marks draws glyphs at points.
type marks struct {
	points []vg.Point // in data coordinates
	glyph  glyph
	style  draw.LineStyle
	back   draw.LineStyle
}

func (m marks) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	var all vg.Path
	outline := m.glyph.outline(4)
	for _, pt := range m.points {
		at := vg.Point{X: x(float64(pt.X)), Y: y(float64(pt.Y))}
		if !c.ContainsX(at.X) {
			continue
		}
		for _, part := range outline {
			part.Pos = part.Pos.Add(at)
			all = append(all, part)
		}
	}
	switch {
	case len(all) == 0:
	case m.glyph == ring:
		if m.back.Color != nil {
			c.SetColor(m.back.Color)
			c.Fill(all)
		}
		c.SetLineStyle(draw.LineStyle{Color: m.style.Color, Width: 1.4})
		c.Stroke(all)
	default:
		c.SetColor(m.style.Color)
		c.Fill(all)
	}
}

// note writes a text to the right of a point.
type note struct {
	x, y  float64
	text  string
	style draw.TextStyle
	back  draw.LineStyle // its colour only, behind the text; none if there is none
}

func (n note) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	at := vg.Point{X: x(n.x) + 5, Y: y(n.y) + n.style.FontExtents().Descent/2}
	if over := at.X + n.style.Width(n.text) - c.Max.X; over > 0 {
		at.X -= over // a fault close to the end is named to its left
	}
	if n.back.Color != nil {
		half := n.style.FontExtents().Height / 2
		c.SetColor(n.back.Color)
		c.Fill(vg.Rectangle{Min: vg.Point{X: at.X - 3, Y: at.Y - half}, Max: vg.Point{X: at.X + n.style.Width(n.text) + 3, Y: at.Y + half}}.Path())
	}
	c.FillText(n.style, at, n.text)
}

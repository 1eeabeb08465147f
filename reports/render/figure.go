package render

import (
	"bytes"
	"cmp"
	"fmt"
	"html"
	"image/color"
	"regexp"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	plottext "gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A picture is drawn by gonum/plot and then rewritten: every colour it uses stands for a CSS variable, so that one
// picture serves a light and a dark page, and every series gets a class, so that it can be switched off. gonum has
// room for neither, so a drawing colour is a number (see inks) that the rewriting looks up again.

// The variables of the palette. The values are those of Okabe and Ito, adapted to each background in palette.css.
const (
	blue    = "blue"
	orange  = "orange"
	green   = "green"
	sky     = "sky"
	red     = "red" // their vermillion
	purple  = "purple"
	yellow  = "yellow"
	ink     = "ink"
	muted   = "muted"
	grid    = "grid"
	surface = "surface"
	fault   = "fault"
	onFill  = "onfill" // text on a filled bar, dark on every background
)

const (
	wide     = 1140.0 // CSS pixels at full width
	narrow   = 372.0  // three beside each other
	fontSize = 11
)

// inks hands out the colours of one picture.
type inks struct{ list []paint }

type paint struct {
	variable string
	opacity  float64
	series   string // class that the legend switches; empty: always shown
}

// code is a drawing colour that stands for paint number code-1.
type code uint32

// RGBA lies half a step above the 8-bit value, because vgsvg truncates where it should round.
func (c code) RGBA() (r, g, b, a uint32) {
	part := func(shift uint) uint32 { return (uint32(c)>>shift&0xff)*257 + 128 }
	return part(16), part(8), part(0), 0xffff
}

func (in *inks) color(p paint) color.Color {
	i := slices.Index(in.list, p)
	if i < 0 {
		i = len(in.list)
		in.list = append(in.list, p)
	}
	return code(i + 1)
}

// chart is a picture in the making.
type chart struct {
	*plot.Plot
	inks
	name   string // unique in the page; names the file too
	title  string // what is shown, with its unit
	desc   string // what a reader who cannot see it should know
	width  float64
	height float64
	legend []entry
	table  *table
	live   any // what the crosshair reads out, see page.js; nil: nothing
}

// entry is one line of a legend.
type entry struct {
	Label  string
	Series string // class it switches; empty: it explains only
	Swatch string // SVG
}

// figure is a finished picture.
type figure struct {
	Name, Title, Desc string
	Legend            []entry
	Table             *table
	Live              any
	Width, Height     float64
	X0, X1            float64 // the data area, in the picture's own units
	body              string  // SVG elements, with CSS variables for colours

	// What it takes to draw it again on something else.
	inks   *inks
	text   plottext.Handler
	redraw func(draw.Canvas)
}

// table is the same thing in words.
type table struct {
	Head []string
	Rows [][]string
	Note string // sentences
	Left int    // rows that were not shown
	File string // where they are; "" for "the files of the run directory"
}

// Rest says what the table does not show.
func (t *table) Rest() string {
	if t.Left == 0 {
		return ""
	}
	return fmt.Sprintf("%s more rows are in %s.", formatCount(int64(t.Left)), cmp.Or(t.File, "the files of the run directory"))
}

func newChart(name, title string, width, height float64) *chart {
	c := &chart{Plot: plot.New(), name: name, title: title, width: width, height: height}
	c.BackgroundColor = nil
	text, line := c.color(paint{variable: muted, opacity: 1}), c.color(paint{variable: grid, opacity: 1})
	for _, a := range []*plot.Axis{&c.X, &c.Y} {
		a.Padding = 0
		a.Color, a.Width = line, 1
		a.Tick.LineStyle = draw.LineStyle{Color: line, Width: 1}
		a.Tick.Length = 4
		a.Tick.Label.Color = text
		a.Tick.Label.Font = font.Font{Typeface: "Liberation", Variant: "Sans", Size: fontSize}
		a.Label.TextStyle.Color = text
		a.Label.TextStyle.Font = a.Tick.Label.Font
	}
	c.Y.Width = 0
	c.Y.Tick.LineStyle.Width = 0 // the grid says it
	return c
}

// margins is the room that the labels of the axes take left and right of the data.
func (c *chart) margins() (left, right vg.Length) {
	canvas := draw.New(vgsvg.New(vg.Length(c.width), vg.Length(c.height)))
	data := c.DataCanvas(canvas)
	return data.Min.X - canvas.Min.X, canvas.Max.X - data.Max.X
}

// draw finishes the picture with at least the given margins, so that pictures below each other share their axis.
func (c *chart) draw(left, right vg.Length) figure {
	ownLeft, ownRight := c.margins()
	svg := vgsvg.New(vg.Length(c.width), vg.Length(c.height))
	canvas := draw.Crop(draw.New(svg), max(0, left-ownLeft), -max(0, right-ownRight), 0, -2)
	data := c.DataCanvas(canvas)
	c.Plot.Draw(canvas)
	var buf bytes.Buffer
	if _, err := svg.WriteTo(&buf); err != nil {
		panic(fmt.Sprintf("render: writing to memory failed: %v", err))
	}
	return figure{
		Name: c.name, Title: plainText(c.title, 160), Desc: plainText(c.desc, 1000), Legend: c.legend, Table: c.table, Live: c.live,
		Width: c.width, Height: c.height, X0: data.Min.X.Points(), X1: data.Max.X.Points(),
		body: c.rewrite(buf.String()),
		inks: &c.inks, text: c.Title.TextStyle.Handler,
		redraw: func(canvas draw.Canvas) {
			c.Plot.Draw(draw.Crop(canvas, max(0, left-ownLeft), -max(0, right-ownRight), 0, -2))
		},
	}
}

var (
	styleAttr = regexp.MustCompile(`\s+style="([^"]*)"`)
	pathData  = regexp.MustCompile(`<path d="([^"]*)"`)
	textFont  = regexp.MustCompile(`font-(family|variant|weight|style):[^;"]*;?`)
)

// rewrite takes the elements out of what vgsvg wrote and replaces its literal colours.
func (c *chart) rewrite(svg string) string {
	_, body, _ := strings.Cut(svg, "<svg")
	_, body, _ = strings.Cut(body, ">\n")
	body = strings.TrimSuffix(strings.TrimSpace(body), "</svg>")
	body = pathData.ReplaceAllStringFunc(body, func(attr string) string {
		return `<path d="` + compactPath(pathData.FindStringSubmatch(attr)[1]) + `"`
	})
	return styleAttr.ReplaceAllStringFunc(body, func(attr string) string {
		style := styleAttr.FindStringSubmatch(attr)[1]
		series := ""
		var kept []string
		for decl := range strings.SplitSeq(textFont.ReplaceAllString(style, ""), ";") {
			property, value, _ := strings.Cut(decl, ":")
			if hex, ok := strings.CutPrefix(value, "#"); ok {
				var n int
				if _, err := fmt.Sscanf(hex, "%06X", &n); err != nil || n < 1 || n > len(c.list) {
					panic(fmt.Sprintf("render: %s: colour %s was not handed out", c.name, value))
				}
				p := c.list[n-1]
				series = cmp.Or(series, p.series)
				decl = property + ":var(--" + p.variable + ")"
				if p.opacity < 1 {
					decl += fmt.Sprintf(";%s-opacity:%.3g", property, p.opacity)
				}
			}
			if decl != "" {
				kept = append(kept, decl)
			}
		}
		out := ` style="` + strings.Join(kept, ";") + `"`
		if series != "" {
			out = ` class="s-` + series + `"` + out
		}
		return out
	})
}

// inline is the picture as an element of a page.
func (f *figure) inline() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg id="%s" viewBox="0 0 %g %g" role="img" aria-labelledby="%s-t %s-d"`, f.Name, f.Width, f.Height, f.Name, f.Name)
	if f.Live != nil {
		fmt.Fprintf(&b, ` data-x0="%.5g" data-x1="%.5g"`, f.X0, f.X1)
	}
	fmt.Fprintf(&b, "><title id=\"%s-t\">%s</title><desc id=\"%s-d\">%s</desc>\n%s</svg>",
		f.Name, html.EscapeString(f.Title), f.Name, html.EscapeString(f.Desc), f.body)
	return b.String()
}

// standalone is the picture as a file that opens by itself, light or dark as the reader's system is.
func (f *figure) standalone() []byte {
	var b bytes.Buffer
	const title, foot = 24.0, 6.0
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%g\" height=\"%g\" viewBox=\"0 %g %g %g\" role=\"img\" aria-labelledby=\"t d\">\n",
		f.Width, f.Height+title+foot, -title, f.Width, f.Height+title+foot)
	fmt.Fprintf(&b, "<title id=\"t\">%s</title><desc id=\"d\">%s</desc>\n", html.EscapeString(f.Title), html.EscapeString(f.Desc))
	fmt.Fprintf(&b, "<style>%s\nsvg{background:var(--surface)}text{font-family:\"Liberation Sans\",Arial,Helvetica,sans-serif}</style>\n", paletteCSS)
	fmt.Fprintf(&b, "<text x=\"8\" y=\"%g\" style=\"font-size:12px;font-weight:bold;fill:var(--ink)\">%s</text>\n", 16-title, html.EscapeString(f.Title))
	b.WriteString(f.body)
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// swatch draws the sample beside a legend's label.
func swatch(line *stroke, area *paint, g glyph) string {
	var b strings.Builder
	b.WriteString(`<svg class="swatch" viewBox="0 0 26 12" aria-hidden="true">`)
	if area != nil {
		fmt.Fprintf(&b, `<rect x="1" y="1" width="24" height="10" style="fill:var(--%s);fill-opacity:%.3g"/>`, area.variable, area.opacity)
	}
	if line != nil {
		dashes := make([]string, len(line.dashes))
		for i, d := range line.dashes {
			dashes[i] = fmt.Sprintf("%g", d.Points())
		}
		fmt.Fprintf(&b, `<path d="M1,6H25" style="fill:none;stroke:var(--%s);stroke-width:%g;stroke-dasharray:%s"/>`,
			line.variable, line.width, cmp.Or(strings.Join(dashes, ","), "none"))
		switch g {
		case disc:
			fmt.Fprintf(&b, `<circle cx="13" cy="6" r="3.2" style="fill:var(--%s)"/>`, line.variable)
		case square:
			fmt.Fprintf(&b, `<rect x="10" y="3" width="6" height="6" style="fill:var(--%s)"/>`, line.variable)
		case triangle:
			fmt.Fprintf(&b, `<path d="M13,2.2L16.8,9H9.2Z" style="fill:var(--%s)"/>`, line.variable)
		case diamond:
			fmt.Fprintf(&b, `<path d="M13,2L17,6L13,10L9,6Z" style="fill:var(--%s)"/>`, line.variable)
		case ring:
			fmt.Fprintf(&b, `<circle cx="13" cy="6" r="2.8" style="fill:var(--surface);stroke:var(--%s);stroke-width:1.4"/>`, line.variable)
		}
	}
	b.WriteString(`</svg>`)
	return b.String()
}

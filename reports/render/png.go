package render

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	"github.com/hacache/hacache/reports/result"
)

// pngScale is how many pixels of a PNG stand for one of the page: text stays sharp on dense screens.
const pngScale = 2

// png is the picture in the light palette, for tools that take no SVG.
func (f *figure) png() ([]byte, error) {
	const title = 24
	width, height := vg.Length(f.Width), vg.Length(f.Height+title)
	img := vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(pngScale*int(vg.Inch)), vgimg.UseBackgroundColor(lightPalette["surface"]))
	canvas := draw.NewCanvas(painter{img, f.inks}, width, height)
	heading := draw.TextStyle{Color: f.inks.color(paint{ink, 1, ""}), Font: font.Font{Typeface: "Liberation", Variant: "Sans", Size: 12, Weight: 2}}
	heading.Handler = f.text
	canvas.FillText(heading, vg.Point{X: 8, Y: height - 16}, f.Title)
	f.redraw(draw.Crop(canvas, 0, 0, 0, -title))
	var buf bytes.Buffer
	if _, err := (vgimg.PngCanvas{Canvas: img}).WriteTo(&buf); err != nil {
		return nil, fmt.Errorf("%s as PNG: %w", f.Name, err)
	}
	return buf.Bytes(), nil
}

// painter looks the drawing colours up, which are numbers (see inks), where a picture has no CSS to do it.
type painter struct {
	vg.Canvas
	inks *inks
}

func (p painter) SetColor(c color.Color) {
	if n, ok := c.(code); ok {
		of := p.inks.list[n-1]
		rgb := lightPalette[of.variable]
		rgb.A = uint8(of.opacity*255 + 0.5)
		c = rgb
	}
	p.Canvas.SetColor(c)
}

// lightPalette is the first rule of palette.css: the variables on a light background.
var lightPalette = func() map[string]color.NRGBA {
	light, _, _ := strings.Cut(paletteCSS, "}")
	colors := map[string]color.NRGBA{}
	for _, m := range regexp.MustCompile(`--([a-z]+):#([0-9a-f]{6})`).FindAllStringSubmatch(light, -1) {
		var rgb color.NRGBA
		if _, err := fmt.Sscanf(m[2], "%02x%02x%02x", &rgb.R, &rgb.G, &rgb.B); err != nil {
			panic("palette.css: " + m[0])
		}
		rgb.A = 0xff
		colors[m[1]] = rgb
	}
	return colors
}()

// PNG writes plots/*.png beside the pictures of r in dir. It takes about a tenth of a second for each.
func PNG(dir string, r *result.Run) error {
	figures := drawAll(r).all()
	return writePNG(dir, figures)
}

func writePNG(dir string, figures []figure) error {
	for i := range figures {
		data, err := figures[i].png()
		if err != nil {
			return fmt.Errorf("render: %w", err)
		}
		if err := result.ReplaceFile(filepath.Join(dir, result.PlotsDir, figures[i].Name+".png"), data); err != nil {
			return fmt.Errorf("render: %w", err)
		}
	}
	return nil
}

// removePictures removes what an earlier rendering left in the directory of the plots.
func removePictures(plots string) error {
	for _, ext := range []string{"*.svg", "*.png"} {
		old, err := filepath.Glob(filepath.Join(plots, ext))
		if err != nil {
			return fmt.Errorf("render: %w", err)
		}
		for _, f := range old {
			if err := os.Remove(f); err != nil {
				return fmt.Errorf("render: remove an old picture: %w", err)
			}
		}
	}
	return nil
}

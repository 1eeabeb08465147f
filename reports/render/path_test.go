package render

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A compact path goes through the same points as the one it was made of, each within half of a tenth of a pixel however long
// the path is.
func TestCompactPath(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d strings.Builder
		var want [][2]float64
		level := 0.0
		for i := range rapid.IntRange(1, 60).Draw(t, "points") {
			x := float64(rapid.IntRange(0, 1_140_000).Draw(t, "x")) / 1000
			if rapid.Bool().Draw(t, "rise") {
				level = float64(rapid.IntRange(0, 200_000).Draw(t, "y")) / 1000
			}
			command := "L"
			if i == 0 || rapid.IntRange(0, 9).Draw(t, "move") == 0 {
				command = "M"
			}
			fmt.Fprintf(&d, "%s%.5g,%.5g", command, x, level)
			want = append(want, [2]float64{x, level})
			if command == "L" && rapid.IntRange(0, 9).Draw(t, "close") == 0 {
				d.WriteString("Z")
			}
		}
		got := compactPath(d.String())
		// Corners can be left out on a straight line only; what is there must be in the order of the original.
		at := 0
		for _, p := range relativePoints(t, got) {
			for at < len(want) && !near(p, want[at]) {
				at++
			}
			if at == len(want) {
				t.Fatalf("%v is not on %s, in %s", p, d.String(), got)
			}
		}
		if last := relativePoints(t, got); !strings.HasSuffix(got, "z") && !near(last[len(last)-1], want[len(want)-1]) {
			t.Fatalf("%s does not end where %s does", got, d.String())
		}
	})
	// "%.5g" of 1140.04 is 1140: the original is no more precise than that.
	for in, want := range map[string]string{
		"M1,2L3,2L5,2L5,7Z":               "m1 2h4v5z",
		"M0.04,0L10.04,0L10.08,0.03":      "m0 0h10.1",
		"M3,0A3,3 0 1 1 -3,3.6e-16":       "m3 0a3 3 0 1 1-6 0",
		"M0,0L5,5M1,1L2,1Z":               "m0 0l5 5m-4-4h1z",
		"M0,0Q1,1 2,2":                    "M0,0Q1,1 2,2",
		"M0,0L5,0L3,0":                    "m0 0h5h-2",
		"M10,10L10,10":                    "m10 10",
		"M-1.25,0.5L-1.25,-0.5L0.75,-0.5": "m-1.3 0.5v-1h2.1",
	} {
		if got := compactPath(in); got != want {
			t.Errorf("%s became %s, expected %s", in, got, want)
		}
	}
}

func near(a, b [2]float64) bool {
	return math.Abs(a[0]-b[0]) <= 0.0501+5e-5*math.Abs(b[0]) && math.Abs(a[1]-b[1]) <= 0.0501+5e-5*math.Abs(b[1])
}

var relativeStep = regexp.MustCompile(`([mlhvz])([^mlhvz]*)`)

// relativePoints is an independent reading of a relative path.
func relativePoints(t *rapid.T, d string) [][2]float64 {
	var out [][2]float64
	var x, y, fromX, fromY float64
	for _, m := range relativeStep.FindAllStringSubmatch(d, -1) {
		var n []float64
		for _, f := range strings.Fields(strings.ReplaceAll(m[2], "-", " -")) {
			v, err := strconv.ParseFloat(f, 64)
			if err != nil {
				t.Fatalf("%s: %v", d, err)
			}
			n = append(n, v)
		}
		switch m[1] {
		case "m", "l":
			x, y = x+n[0], y+n[1]
		case "h":
			x += n[0]
		case "v":
			y += n[0]
		case "z":
			x, y = fromX, fromY
			continue
		}
		if m[1] == "m" {
			fromX, fromY = x, y
		}
		out = append(out, [2]float64{x, y})
	}
	return out
}

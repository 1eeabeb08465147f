package render

import (
	"bytes"
	"encoding/csv"
	"encoding/xml"
	"fmt"
	"hash/crc32"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hacache/hacache/reports/compare"
	"github.com/hacache/hacache/reports/result"
)

// comparedSide is a side of twelve rounds: p99 and CPU are worse by the given factors, and the second round was limited.
func comparedSide(name string, rounds int, p99, cpu float64) *compare.Side {
	rng := rand.New(rand.NewPCG(7, uint64(crc32.ChecksumIEEE([]byte(name)))))
	s := &compare.Side{Name: name, Allocs: map[string]float64{"store Apply-2": 100 * cpu}}
	for i := range rounds {
		noise := func(d time.Duration, f float64) time.Duration {
			return time.Duration(float64(d) * f * (1 + 0.02*rng.NormFloat64()))
		}
		r := &result.Run{
			Kind: result.KindBench, Name: "pair", Verdict: result.Pass, Environment: sampleEnvironment("loadgen", "pair"),
			Series: []result.Series{
				{Phase: "fixed rate", Op: "insert", Level: "quorum", Limited: i == 1, Response: result.Latency{Count: 20_000, P50: noise(time.Millisecond, 1), P99: noise(5*time.Millisecond, p99), P999: noise(9*time.Millisecond, p99)}},
				{Phase: "flat out", Op: "insert", Level: "quorum", Closed: true, Throughput: float64(noise(90_000, 1/cpu))},
			},
			Costs: []result.Cost{{Phase: "fixed rate", Ops: int64(noise(30_000, 1/cpu)), CPU: time.Second}},
		}
		s.Rounds = append(s.Rounds, compare.Round{Name: fmt.Sprintf("%02d", i+1), Runs: []*result.Run{r}})
	}
	return s
}

func sampleComparisons(t testing.TB) map[string]*Comparison {
	t.Helper()
	judge := func(o compare.Options, base, head *compare.Side) *compare.Gate {
		g, err := compare.Judge(base, head, o)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	base := comparedSide("base", 12, 1, 1)
	return map[string]*Comparison{
		"gate-pass":    {Title: "gate", Judged: true, Gates: []*compare.Gate{judge(compare.Options{Paired: true}, base, comparedSide("head", 12, 1.02, 1))}},
		"gate-fail":    {Title: "gate", Judged: true, Command: "make gate BASE=0123456", Gates: []*compare.Gate{judge(compare.Options{Paired: true}, base, comparedSide("head", 12, 1.3, 1.2))}},
		"gate-unknown": {Title: "gate", Judged: true, Gates: []*compare.Gate{judge(compare.Options{}, comparedSide("base", 3, 1, 1), comparedSide("head", 3, 1, 1))}},
		"compare": {Title: "compare", Gates: []*compare.Gate{
			judge(compare.Options{Describe: true}, base, comparedSide("candidate", 12, 1.2, 1)), judge(compare.Options{Describe: true}, base, comparedSide("tuned", 12, 0.9, 0.8)),
		}},
		"compare-two": {Title: "compare", Gates: []*compare.Gate{judge(compare.Options{Describe: true}, comparedSide("old", 1, 1, 1), comparedSide("new", 1, 1.1, 1))}},
	}
}

// A comparison gets all of its files; the page stands by itself, the words agree with the gate, the table and the JUnit file
// are read back by other readers, and no bound that does not exist is shown as a number.
func TestComparison(t *testing.T) {
	root := *samplesDir
	if root == "" {
		root = t.TempDir()
	}
	for name, c := range sampleComparisons(t) {
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		path, err := WriteComparison(dir, c)
		if err != nil || path != filepath.Join(dir, result.ReportFile) {
			t.Fatalf("%s: %q, %v", name, path, err)
		}
		read := func(file string) []byte {
			data, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		if err := checkPage(string(read(result.ReportFile))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		golden(t, name+".md", string(read(result.MarkdownFile)))
		figure := effectFigure(c)
		if err := checkPicture(&figure); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, text := range []string{string(read(result.MarkdownFile)), string(read(comparisonCSV)), string(read(result.ReportFile))} {
			if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
				t.Errorf("%s: a number that is none:\n%.2000s", name, text)
			}
		}
		rows, err := csv.NewReader(bytes.NewReader(read(comparisonCSV))).ReadAll()
		if err != nil || len(rows) != 1+len(c.Gates)*len(c.Gates[0].Differences) {
			t.Errorf("%s: %d rows, %v", name, len(rows), err)
		}
		var suite struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Cases    []struct {
				Failure *struct{} `xml:"failure"`
			} `xml:"testcase"`
		}
		if err := xml.Unmarshal(read(result.JUnitFile), &suite); err != nil || suite.Tests != len(suite.Cases) {
			t.Errorf("%s: %v, %+v", name, err, suite)
		}
		if failed := name == "gate-fail"; failed != (suite.Failures > 0) {
			t.Errorf("%s: %d failures", name, suite.Failures)
		}
		img, err := png.Decode(bytes.NewReader(read("plots/changes.png")))
		if err != nil || img.Bounds().Dx() != int(pngScale*wide) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A PNG shows what the SVG shows: the colours of the light palette, and nothing of the numbers that stand for them.
func TestPNG(t *testing.T) {
	for _, f := range drawAll(sampleViolated()).all()[:3] {
		data, err := f.png()
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y += 2 {
			for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x += 2 {
				r, g, b, _ := img.At(x, y).RGBA()
				for name, c := range lightPalette {
					if r>>8 == uint32(c.R) && g>>8 == uint32(c.G) && b>>8 == uint32(c.B) {
						seen[name] = true
					}
				}
				if r>>8 == 0 && g>>8 == 0 && b>>8 > 0 && b>>8 < 32 {
					t.Fatalf("%s: a pixel %d,%d has the number of a colour", f.Name, x, y)
				}
			}
		}
		if !seen[surface] || len(seen) < 3 {
			t.Errorf("%s: colours %v", f.Name, seen)
		}
	}
}

// The cases of a run's JUnit file follow from its verdicts.
func TestJUnit(t *testing.T) {
	r := &result.Run{
		Kind: result.KindScenario, Name: "x <&>", Duration: 1500 * time.Millisecond, Failure: "it broke", Verdict: result.Violated,
		Checks: []result.Check{
			{Name: "fine", Verdict: result.Pass},
			{Name: "lost", Verdict: result.Violated, Detail: "3 of 4 \"quoted\""},
			{Name: "slow", Verdict: result.Unknown, Detail: "out of time"},
			{Name: "idle", Verdict: result.NotExercised},
		},
		Thresholds: []result.Threshold{{Metric: "insert", Expr: "p(99) < 1ms", Got: "2ms"}, {Metric: "errors", Expr: "rate < 1%", Met: true}},
	}
	var b strings.Builder
	if err := JUnit(&b, r); err != nil {
		t.Fatal(err)
	}
	golden(t, "junit.xml", b.String())
}

// A run rendered with a baseline says how it differs, in a section of its own between everything else; without one nothing of
// it is there.
func TestBaseline(t *testing.T) {
	root := *samplesDir
	if root == "" {
		root = t.TempDir()
	}
	dir := filepath.Join(root, "baseline")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	of := func(name string, r *result.Run) *compare.Side {
		return &compare.Side{Name: name, Rounds: []compare.Round{{Name: ".", Runs: []*result.Run{r}}}}
	}
	r := sampleScenario(1)
	g, err := compare.Judge(of("last week", sampleScenario(2)), of("this run", r), compare.Options{Describe: true})
	if err != nil {
		t.Fatal(err)
	}
	path, err := WriteAgainst(dir, r, g)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkPage(string(text)); err != nil {
		t.Error(err)
	}
	for _, want := range []string{`id="baseline"`, `<svg id="changes"`, "last week", "failover median"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "plots", "changes.svg")); err != nil {
		t.Error(err)
	}
	if text := page1(t, r); strings.Contains(text, `id="baseline"`) {
		t.Error("a section about a baseline that there is none of")
	}
}

// What a run cannot say must not look like an answer: no number of an unknown run is green, and a fault that nobody saw take
// effect says so where it is drawn.
func TestUnknownLooksUnknown(t *testing.T) {
	text := page1(t, sampleUnknown())
	if strings.Contains(text, `class="tile t-pass"`) {
		t.Error("a tile of an unknown run is green")
	}
	if !strings.Contains(text, "no effect seen: ") {
		t.Error("the pictures do not say that the fault had no effect")
	}
	if text := page1(t, sampleScenario(1)); !strings.Contains(text, `class="tile t-pass"`) || strings.Contains(text, "no effect seen") {
		t.Error("a run that passed looks like one that says nothing")
	}
}

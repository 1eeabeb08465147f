package render

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"
	"pgregory.net/rapid"

	"github.com/hacache/hacache/reports/result"
)

// These tests say that a page holds what the run holds, that it stands by itself, and that no run, however broken or
// hostile its contents, breaks it. How it looks is for eyes: go test -run TestDir -samples DIR keeps sample pages.

var (
	update     = flag.Bool("update", false, "rewrite the golden files")
	samplesDir = flag.String("samples", "", "keep the sample pages in this directory, to look at them")
)

// samplePages is one run for each kind of page.
func samplePages() map[string]*result.Run {
	return map[string]*result.Run{
		"pass": sampleScenario(1), "violated": sampleViolated(), "unknown": sampleUnknown(), "repeated": sampleRepeated(20), "bench": sampleBench(), "partial": samplePartial(),
		"saturation": sampleSaturation(), "peers": samplePeers(),
	}
}

func page1(t testing.TB, r *result.Run) string {
	t.Helper()
	var buf bytes.Buffer
	if err := Page(&buf, r); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// A run directory gets its page, its summary and its pictures, and none of an earlier rendering stays.
func TestDir(t *testing.T) {
	root := *samplesDir
	if root == "" {
		root = t.TempDir()
	}
	for name, r := range samplePages() {
		dir := filepath.Join(root, name)
		stale := filepath.Join(dir, result.PlotsDir, "stale.svg")
		if err := os.MkdirAll(filepath.Dir(stale), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(stale, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := result.Write(dir, r); err != nil {
			t.Fatal(err)
		}
		path, err := Dir(dir)
		if err != nil || path != filepath.Join(dir, result.ReportFile) {
			t.Fatalf("%s: %q, %v", name, path, err)
		}
		if _, err := os.Stat(stale); err == nil {
			t.Errorf("%s: a picture of an earlier rendering is still there", name)
		}
		plots, err := filepath.Glob(filepath.Join(dir, result.PlotsDir, "*.svg"))
		if err != nil || len(plots) != len(drawAll(r).all()) {
			t.Errorf("%s: %d pictures, %v; expected %d", name, len(plots), err, len(drawAll(r).all()))
		}
		for _, f := range append(plots, path, filepath.Join(dir, result.MarkdownFile)) {
			if s, err := os.Stat(f); err != nil || s.Size() == 0 {
				t.Errorf("%s: %s is empty or missing: %v", name, f, err)
			}
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, string(want)); diff != "" {
		t.Errorf("%s: got - golden (go test -update rewrites it):\n%s", file, diff)
	}
}

func TestMarkdownGolden(t *testing.T) {
	for name, r := range samplePages() {
		var buf bytes.Buffer
		if err := Markdown(&buf, r); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".md", buf.String())
	}
}

// The words of the page, without its pictures, styles and scripts.
func TestPageGolden(t *testing.T) {
	for name, r := range map[string]*result.Run{"violated": sampleViolated(), "partial": samplePartial()} {
		text := page1(t, r)
		for _, cut := range []struct{ pattern, with string }{
			{`(?s)<style>.*?</style>`, "<style/>"},
			{`(?s)<script[^>]*>.*?</script>`, "<script/>"},
			{`(?s)<svg id="([^"]*)".*?</svg>`, `<svg id="$1"/>`},
			{`(?s)<svg class="swatch".*?</svg>`, ``},
			{`(?s)(<summary>As a table</summary>.*?</thead>).*?</details>`, `$1</details>`},
		} {
			text = regexp.MustCompile(cut.pattern).ReplaceAllString(text, cut.with)
		}
		golden(t, name+".html", text)
	}
}

// The geometry of a few pictures, so that a change of the drawing is seen in a review.
func TestPictureGolden(t *testing.T) {
	all := drawAll(sampleViolated()).all()
	for _, name := range []string{"stages", "roles", "failover-parts"} {
		i := slices.IndexFunc(all, func(f figure) bool { return f.Name == name })
		if i < 0 {
			t.Fatalf("no picture %s", name)
		}
		golden(t, name+".svg", strings.ReplaceAll(string(all[i].standalone()), paletteCSS, ""))
	}
}

// The knee: a mark for each try, a curve through the middles, shade where nothing holds; a search without a step has no
// picture, and one in which nothing was answered has no latencies.
func TestKnee(t *testing.T) {
	r := sampleSaturation()
	figures := kneeFigures(r.Saturation)
	if len(figures) != 2 {
		t.Fatalf("%d pictures", len(figures))
	}
	golden(t, "knee-latency.svg", strings.ReplaceAll(string(figures[0].standalone()), paletteCSS, ""))
	if n := len(figures[0].Table.Rows); n != 3*len(r.Saturation.Steps) {
		t.Errorf("%d rows, want one a try", n)
	}
	// A rate that broke at first and held when it was tried again is told once.
	again := *r.Saturation
	broke := result.SaturationStep{Offered: again.Rate, Trials: []result.SaturationTrial{{P99: time.Second}}}
	again.Steps = append([]result.SaturationStep{broke}, again.Steps...)
	if tile, _ := kneeTile(&again); strings.Count(tile.Note, "p99 there") != 1 || strings.Contains(tile.Note, "1.00 s") {
		t.Errorf("the tile says %q", tile.Note)
	}
	if figures := kneeFigures(&result.Saturation{}); figures != nil {
		t.Errorf("a picture of nothing: %v", figures)
	}
	nothing := &result.Saturation{Steps: []result.SaturationStep{{Offered: 1, Trials: []result.SaturationTrial{{}}}}}
	if figures := kneeFigures(nothing); len(figures) != 1 {
		t.Errorf("%d pictures of a search without an answer, want the throughput", len(figures))
	}
}

// walk visits the elements of an HTML document.
func walk(n *html.Node, visit func(n *html.Node, attr map[string]string)) {
	if n.Type == html.ElementNode {
		attr := map[string]string{}
		for _, a := range n.Attr {
			attr[a.Key] = a.Val
		}
		visit(n, attr)
	}
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		walk(c, visit)
	}
}

func textOf(n *html.Node) string {
	if n.Type == html.TextNode {
		return n.Data
	}
	var b strings.Builder
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		b.WriteString(textOf(c))
	}
	return b.String()
}

// checkPage states what is true of every page. It returns the first thing that is not.
func checkPage(text string) error {
	doc, err := html.Parse(strings.NewReader(text))
	if err != nil {
		return err
	}
	ids, refs, links := map[string]int{}, map[string]bool{}, map[string]bool{}
	scripts, tables := 0, 0
	walk(doc, func(n *html.Node, attr map[string]string) {
		if id := attr["id"]; id != "" {
			ids[id]++
		}
		for ref := range strings.FieldsSeq(attr["aria-labelledby"]) {
			refs[ref] = true
		}
		if a, ok := strings.CutPrefix(attr["href"], "#"); ok {
			refs[a] = true
		} else if attr["href"] != "" {
			links[attr["href"]] = true
		}
		for _, key := range []string{"src", "srcset", "data", "action", "xlink:href", "onclick", "onload", "onerror"} {
			if attr[key] != "" {
				err = fmt.Errorf("<%s> has %s=%q", n.Data, key, attr[key])
			}
		}
		switch n.Data {
		case "svg":
			if attr["role"] != "img" && attr["aria-hidden"] != "true" {
				err = fmt.Errorf("a picture is neither named nor hidden from a screen reader: %v", attr)
			}
			if attr["role"] == "img" && (n.FirstChild == nil || n.FirstChild.Data != "title" || textOf(n.FirstChild) == "" || n.FirstChild.NextSibling.Data != "desc" || textOf(n.FirstChild.NextSibling) == "") {
				err = fmt.Errorf("picture %s has no title and description", attr["id"])
			}
		case "figure":
			have := 0
			walk(n, func(n *html.Node, _ map[string]string) {
				if n.Data == "td" {
					have++
				}
			})
			if have == 0 {
				err = fmt.Errorf("figure %q has no table in its place", strings.TrimSpace(textOf(n))[:20])
			}
		case "script":
			scripts++
		case "table":
			tables++
			if n.FirstChild == nil || textOf(n) == "" {
				err = errors.New("an empty table")
			}
		}
	})
	if err != nil {
		return err
	}
	for id, n := range ids {
		if n > 1 {
			return fmt.Errorf("id %q is there %d times", id, n)
		}
	}
	for ref := range refs {
		if ids[ref] == 0 {
			return fmt.Errorf("nothing has the id %q that something refers to", ref)
		}
	}
	for link := range links {
		if local, ok := strings.CutPrefix(link, "./"); ok && !strings.HasPrefix(local, "/") {
			continue // a name with a colon, told apart from a scheme
		}
		if strings.Contains(link, "//") || strings.Contains(link, ":") && link != "data:," {
			return fmt.Errorf("a link leaves the run directory: %q", link)
		}
	}
	if scripts > 2 {
		return fmt.Errorf("%d scripts: contents of the run became one", scripts)
	}
	if !strings.Contains(text, `default-src 'none'`) {
		return errors.New("the page does not forbid the network to itself")
	}
	if strings.Contains(text, "ZgotmplZ") {
		return errors.New("the template refused a value")
	}
	return nil
}

var (
	literalColor = regexp.MustCompile(`#[0-9A-Fa-f]{3,8}\b`)
	svgNumbers   = regexp.MustCompile(`\b(NaN|Inf)\b|[^a-z]\d+e\+\d`)
)

// checkPicture states what is true of every picture, as a file of its own.
func checkPicture(f *figure) error {
	dec := xml.NewDecoder(bytes.NewReader(f.standalone()))
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s is not XML: %w", f.Name, err)
		}
		if el, ok := tok.(xml.StartElement); ok {
			for _, a := range el.Attr {
				if svgNumbers.MatchString(" " + a.Value) {
					return fmt.Errorf("%s: <%s %s=%q>", f.Name, el.Name.Local, a.Name.Local, a.Value)
				}
			}
		}
	}
	if c := literalColor.FindString(regexp.MustCompile(`>[^<]*<`).ReplaceAllString(f.body, "><")); c != "" {
		return fmt.Errorf("%s: literal colour %s", f.Name, c)
	}
	if f.Name == "" || f.Title == "" || f.Desc == "" {
		return fmt.Errorf("%q: title %q, description %q", f.Name, f.Title, f.Desc)
	}
	return nil
}

func TestEveryPage(t *testing.T) {
	for name, r := range samplePages() {
		if err := checkPage(page1(t, r)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, f := range drawAll(r).all() {
			if err := checkPicture(&f); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// The check of the check: it must see what it is there to see.
func TestCheckPage(t *testing.T) {
	good := page1(t, sampleViolated())
	for name, bad := range map[string]string{
		"a picture from the network": strings.Replace(good, "<main>", `<main><img src="https://example.org/x.png">`, 1),
		"an id twice":                strings.Replace(good, "<main>", `<main><p id="verdict">`, 1),
		"a link to nowhere":          strings.Replace(good, "<main>", `<main><a href="#nowhere">x</a>`, 1),
		"a link outside":             strings.Replace(good, "<main>", `<main><a href="https://example.org">x</a>`, 1),
		"a script too many":          strings.Replace(good, "<main>", `<main><script>alert(1)</script>`, 1),
		"a nameless picture":         strings.Replace(good, "<main>", `<main><svg></svg>`, 1),
		"a picture without a table":  strings.Replace(good, "<main>", `<main><figure>xxxxxxxxxxxxxxxxxxxxxxxxx</figure>`, 1),
	} {
		if bad == good {
			t.Fatalf("%s: nothing was changed", name)
		}
		if checkPage(bad) == nil {
			t.Errorf("%s was not noticed", name)
		}
	}
}

// Each fault, node, check, threshold, failover and loss of a run is on its page, and each level in the legend of its
// spectrum: nothing is lost on the way.
func TestPageHasEverything(t *testing.T) {
	r := sampleViolated()
	doc, err := html.Parse(strings.NewReader(page1(t, r)))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	walk(doc, func(n *html.Node, _ map[string]string) {
		if slices.Contains([]string{"td", "th", "p", "h1", "h3", "li", "button", "span", "text", "pre", "code"}, n.Data) {
			all.WriteString(textOf(n) + "\n")
		}
	})
	text := all.String()
	var want []string
	for _, w := range r.Windows() {
		want = append(want, w.Fault, w.Detail)
	}
	for _, c := range r.Checks {
		want = append(want, c.Name, c.Detail)
		want = append(want, c.Examples...)
	}
	for _, n := range r.Nodes {
		want = append(want, n.Name)
	}
	for _, x := range r.Thresholds {
		want = append(want, x.Metric, x.Expr, x.Got)
	}
	for _, l := range r.Losses {
		want = append(want, l.Cache+"/"+l.Key, formatTime(l.AckedAt), l.Found)
	}
	want = append(want, r.Warnings...)
	want = append(want, r.Environment.CommandLine(), r.Environment.CPUModel, "insert · quorum", "leader · term 3", "TWO LEADERS", "stream broken", "189 ms", "−2.80 ms (kill-leader)")
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not on the page", w)
		}
	}
}

// A run that lacks a part still makes a page, which says what is missing and shows no empty panel.
func TestMissingParts(t *testing.T) {
	for name, c := range map[string]struct {
		remove func(*result.Run)
		says   string // in the list of what is missing
		hides  string // id of a section that must not be there
	}{
		"intervals":   {func(r *result.Run) { r.Intervals = nil }, "timeseries.csv", "throughput-writes"},
		"events":      {func(r *result.Run) { r.Events = nil }, "events.jsonl", "roles"},
		"environment": {func(r *result.Run) { r.Environment = nil }, "env.json", "nothing-hidden"},
		"series":      {func(r *result.Run) { r.Series = nil }, "totals of the load", "numbers"},
		"checks":      {func(r *result.Run) { r.Checks = nil }, "nothing was judged", "checks"},
		"failovers":   {func(r *result.Run) { r.Failovers = nil }, "", "failover"},
		"losses":      {func(r *result.Run) { r.Losses, r.Exposures = nil, nil }, "", "losses"},
		"resources":   {func(r *result.Run) { r.Resources = nil }, "", "cpu"},
		"phases":      {func(r *result.Run) { r.Phases = nil }, "", "nothing-hidden"},
		"nodes":       {func(r *result.Run) { r.Nodes = nil }, "", "nothing-hidden"},
		"spectra": {func(r *result.Run) {
			for i := range r.Series {
				r.Series[i].Spectrum = nil
			}
		}, "", "spectrum"},
		"everything": {func(r *result.Run) {
			*r = result.Run{Kind: result.KindScenario, Name: "x", Verdict: result.Unknown}
		}, "env.json", "time"},
	} {
		t.Run(name, func(t *testing.T) {
			r := sampleViolated()
			c.remove(r)
			text := page1(t, r)
			if err := checkPage(text); err != nil {
				t.Error(err)
			}
			if strings.Contains(text, `id="`+c.hides+`"`) {
				t.Errorf("the section %q is still there", c.hides)
			}
			_, list, found := strings.Cut(text, "Missing from this run")
			if c.says == "" {
				if found {
					t.Error("it says that something is missing")
				}
			} else if list, _, _ = strings.Cut(list, "</ul>"); !strings.Contains(list, c.says) {
				t.Errorf("it does not say that %q is missing: %q", c.says, list)
			}
			if err := Markdown(io.Discard, r); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whatever a run contains stays text: no tag, no script, no table row of its own making.
func TestHostileContents(t *testing.T) {
	const evil = "</script></title><script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x00\n|`{{.}}"
	r := sampleViolated()
	r.Name, r.About, r.Failure = evil, evil, evil
	r.Warnings, r.Reasons = []string{evil}, []string{evil}
	r.Checks[0].Name, r.Checks[0].Detail, r.Checks[0].Examples = evil, evil, []string{evil}
	r.Thresholds[0] = result.Threshold{Metric: evil, Expr: evil, Got: evil}
	r.Nodes[0].Name = evil
	r.Phases[1].Name = evil
	r.Files = append(r.Files, result.File{Path: "javascript:alert(1)//" + evil, About: evil})
	r.Repeats = []result.Repeat{{Dir: "javascript:alert(3)", Verdict: result.Pass}}
	r.Failovers[0].Fault = evil
	r.Losses[0].Key, r.Losses[0].Level = evil, evil
	r.Environment.Command = []string{evil}
	for i := range r.Events {
		e := &r.Events[i]
		e.Detail = evil
		for _, s := range []*string{&e.Fault, &e.Node, &e.From, &e.To} {
			if *s != "" {
				*s += evil
			}
		}
	}
	for i := range r.Intervals {
		r.Intervals[i].Level += evil
	}
	for i := range r.Series {
		r.Series[i].Level += evil
	}
	text := page1(t, r)
	if err := checkPage(strings.ReplaceAll(text, "\x00", "")); err != nil {
		t.Error(err)
	}
	doc, err := html.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	walk(doc, func(n *html.Node, attr map[string]string) {
		if n.Data == "img" || attr["onerror"] != "" || strings.HasPrefix(strings.ToLower(attr["href"]), "javascript") {
			t.Errorf("<%s %v> came out of the run", n.Data, attr)
		}
	})
	for _, f := range drawAll(r).all() {
		if err := checkPicture(&f); err != nil {
			t.Error(err)
		}
	}
	var md bytes.Buffer
	if err := Markdown(&md, r); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(md.String()) {
		if strings.Contains(line, "<script") || strings.Contains(line, "<img") {
			if !strings.Contains(line, "alert") || !insideCode(md.String(), line) {
				t.Errorf("Markdown lets through: %s", line)
			}
		}
	}
}

// insideCode says whether line stands in the fenced block of text.
func insideCode(text, line string) bool {
	before, _, _ := strings.Cut(text, line)
	return strings.Count(before, "```")%2 == 1
}

// Any valid run, however odd, gives a page and pictures that are well formed.
func TestAnyRun(t *testing.T) {
	// A picture takes a millisecond and a page has a dozen: thirty pages unless -rapid.checks asks for more.
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if checks := flag.Lookup("rapid.checks"); !asked && checks != nil {
		usual := checks.Value.String()
		if err := flag.Set("rapid.checks", "30"); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := flag.Set("rapid.checks", usual); err != nil {
				t.Fatal(err)
			}
		}()
	}
	rapid.Check(t, func(t *rapid.T) {
		duration := rapid.OneOf(rapid.Just(time.Duration(0)), rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(math.Pow(10, rapid.Float64Range(0, 13).Draw(t, "exponent")))
		}))
		d := func(name string) time.Duration { return duration.Draw(t, name) }
		count := rapid.Int64Range(0, 1e12)
		word := rapid.SampledFrom([]string{"a", "b", "quorum", "leader", "get", "insert", "<b>", "ключ", strings.Repeat("long ", 40)})
		maybe := rapid.OneOf(rapid.Just(""), word)
		name := rapid.SampledFrom([]string{"a", "b", "kill leader", "<i>"})
		few := func(do func()) {
			for range rapid.IntRange(0, 6).Draw(t, "how many") {
				do()
			}
		}
		r := &result.Run{
			Kind: rapid.SampledFrom([]result.Kind{result.KindBench, result.KindScenario}).Draw(t, "kind"), Name: "x",
			Verdict: rapid.SampledFrom([]result.Verdict{result.Pass, result.Violated, result.Unknown, result.NotExercised}).Draw(t, "verdict"), Duration: d("duration"),
		}
		few(func() { r.Nodes = append(r.Nodes, result.Node{Name: word.Draw(t, "node")}) })
		few(func() {
			from := d("from")
			r.Phases = append(r.Phases, result.Phase{Name: word.Draw(t, "phase"), From: from, To: from + d("length")})
		})
		few(func() {
			r.Intervals = append(r.Intervals, result.Interval{
				T: d("t"), Width: 1 + d("width"), Op: word.Draw(t, "op"), Level: maybe.Draw(t, "level"), OK: count.Draw(t, "ok"), Fail: count.Draw(t, "fail"),
				Info: count.Draw(t, "info"), Missed: count.Draw(t, "missed"), Refused: count.Draw(t, "refused"), P50: d("p50"), P90: d("p90"), P99: d("p99"), Max: d("max"),
			})
		})
		few(func() {
			var points []result.Point
			for _, q := range result.SpectrumQuantiles(rapid.Int64Range(0, 1e9).Draw(t, "samples")) {
				points = append(points, result.Point{Q: q, Response: d("response"), Service: d("service")})
			}
			n := count.Draw(t, "n")
			r.Series = append(r.Series, result.Series{
				Phase: maybe.Draw(t, "phase"), Op: word.Draw(t, "op"), Level: maybe.Draw(t, "level"), Closed: rapid.Bool().Draw(t, "closed"),
				Counts: result.Counts{Intended: n, OK: n}, Throughput: float64(n), Spectrum: points, Response: result.Latency{P99: d("p99")},
			})
		})
		few(func() {
			f := result.Failover{Fault: name.Draw(t, "fault"), Inject: d("inject"), Suspect: d("suspect"), Candidate: d("candidate"), Elected: d("elected"), Agreed: d("agreed")}
			few(func() {
				f.Levels = append(f.Levels, result.Recovery{Level: word.Draw(t, "level"), FirstOK: d("first ok"), Gap: d("gap")})
			})
			r.Failovers = append(r.Failovers, f)
		})
		few(func() {
			r.Resources = append(r.Resources, result.Resource{T: d("t"), Node: word.Draw(t, "node"), CPU: d("cpu"), RSS: count.Draw(t, "rss")})
		})
		few(func() {
			e := result.Event{T: d("t"), Detail: word.Draw(t, "detail") + "."}
			switch e.Kind = rapid.SampledFrom([]result.EventKind{result.Inject, result.Heal, result.Observe, result.Process, result.Link, result.Note}).Draw(t, "kind"); e.Kind {
			case result.Inject, result.Heal:
				e.Fault = name.Draw(t, "fault")
			case result.Observe:
				e.Node, e.Term = name.Draw(t, "node"), uint64(count.Draw(t, "term"))
				e.Role = rapid.SampledFrom([]result.Role{result.RoleLeader, result.RoleFollower, result.RoleRequested, result.RoleDead, result.RoleUndefined}).Draw(t, "role")
			case result.Process:
				e.Node, e.State = name.Draw(t, "node"), rapid.SampledFrom([]result.State{result.ProcessRunning, result.ProcessStopped, result.ProcessExited}).Draw(t, "state")
			case result.Link:
				e.From, e.To, e.State = name.Draw(t, "from"), name.Draw(t, "to"), rapid.SampledFrom([]result.State{result.LinkUp, result.LinkDegraded, result.LinkDown}).Draw(t, "state")
			}
			r.Events = append(r.Events, e)
		})
		if err := r.Validate(); err != nil {
			t.Fatalf("the test made an invalid run: %v", err)
		}
		drawn := drawAll(r)
		var buf bytes.Buffer
		if err := newPage(r, drawn).write(&buf); err != nil {
			t.Fatal(err)
		}
		if err := checkPage(buf.String()); err != nil {
			t.Fatal(err)
		}
		for _, f := range drawn.all() {
			if err := checkPicture(&f); err != nil {
				t.Fatal(err)
			}
		}
		if err := Markdown(io.Discard, r); err != nil {
			t.Fatal(err)
		}
	})
}

// A long run does not make a page that cannot be opened: pictures and tables are bounded.
func TestLongRunStaysSmall(t *testing.T) {
	r := sampleScenario(1)
	r.Intervals, r.Duration = nil, 3*time.Hour
	for at := time.Duration(0); at < r.Duration; at += time.Second {
		for _, k := range []key{{"insert", "quorum"}, {"insert", "leader"}, {"insert", "once"}, {"get", ""}} {
			wobble := 1 + 0.3*math.Sin(float64(at)/3e9)
			ms := func(v float64) time.Duration { return time.Duration(v * wobble * 1e6) }
			r.Intervals = append(r.Intervals, result.Interval{T: at, Width: time.Second, Op: k.op, Level: k.level, OK: int64(5000 * wobble), Fail: 3, P50: ms(1), P90: ms(2), P99: ms(4), Max: ms(9)})
		}
	}
	text := page1(t, r)
	keepSample(t, "large", text)
	if size := len(text); size > 3<<20 {
		t.Errorf("%d bytes for %d intervals, expected at most 3 MiB", size, len(r.Intervals))
	}
}

// What repeats a run of several seeds has the seed of this one.
func TestRepeatHasTheRunsSeed(t *testing.T) {
	for _, c := range []struct{ command, want string }{
		{"chaos run --for 40m --seed 1001 soak.yaml", "chaos run --for 40m --seed 1004 soak.yaml"},
		{"chaos run --seed=1001 soak.yaml", "chaos run --seed=1004 soak.yaml"},
		{"chaos run soak.yaml", "chaos run soak.yaml --seed 1004"},
	} {
		r := sampleScenario(1)
		r.Environment.Command, r.Environment.Seed = strings.Fields(c.command), 1004
		if got := newPage(r, pictures{}).Command; got != c.want {
			t.Errorf("%s: %s, expected %s", c.command, got, c.want)
		}
	}
}

// keepSample leaves a page for the browser, if it is to have any.
func keepSample(t *testing.T, name, text string) {
	t.Helper()
	if *samplesDir == "" {
		return
	}
	dir := filepath.Join(*samplesDir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, result.ReportFile), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A run with more of everything than a scenario has had so far: seven nodes in a full mesh, a fault every three seconds, a
// million operations of twelve kinds in intervals of 100 ms, hundreds of failovers and losses. Its page has every part, says of
// each what it left out, and is at most 3 MB.
func TestBusyRunStaysSmall(t *testing.T) {
	r := busyRun()
	var operations int64
	for _, s := range r.Series {
		operations += s.Counts.Intended
	}
	if err := r.Validate(); err != nil || operations < 1_000_000 {
		t.Fatalf("the test made %d operations, %v", operations, err)
	}
	text := page1(t, r)
	keepSample(t, "busy", text)
	if err := checkPage(text); err != nil {
		t.Error(err)
	}
	if size := len(text); size > 3_000_000 {
		t.Errorf("%d bytes, expected at most 3 MB", size)
	}
	for _, want := range []string{
		`id="stages"`, `id="throughput-writes"`, `id="throughput-reads"`, `id="not-ok"`, `id="latency-insert-quorum"`, `id="latency-get-linearizable"`,
		`id="roles"`, `id="links"`, `id="cpu"`, `id="memory"`, `id="failover-parts"`, `id="failover-ecdf"`, "spectrum-24-",
		"kill-leader, 80 times", "the slowest 30 of 240", "These are the slowest. 40 faster ones are in summary.json",
		"more rows are in events.jsonl", "Each for itself is in timeseries.csv", "Each for itself is in resources.csv",
		"What happened around the others than the first 40 is in summary.json. 100 more are in summary.json.", "16 more are in plots/",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(text, "spectrum-25-") {
		t.Error("there is a spectrum too many")
	}
}

// Text must be readable and lines visible on both backgrounds: WCAG asks for a contrast of 4.5 for text, 3 for pictures.
func TestContrast(t *testing.T) {
	for theme, block := range map[string]string{"light": strings.SplitN(paletteCSS, "}", 2)[0], "dark": paletteCSS[strings.LastIndex(paletteCSS, "[data-theme=dark]"):]} {
		colors := map[string]float64{}
		for _, m := range regexp.MustCompile(`--([a-z]+):#([0-9a-f]{6})`).FindAllStringSubmatch(block, -1) {
			colors[m[1]] = luminance(t, m[2])
		}
		contrast := func(a, b string) float64 {
			x, y := colors[a], colors[b]
			return (max(x, y) + 0.05) / (min(x, y) + 0.05)
		}
		for _, back := range []string{"surface", "page"} {
			for _, text := range []string{"ink", "muted", "pass", "violated", "unknown", "idle", "blue"} {
				if c := contrast(text, back); c < 4.5 {
					t.Errorf("%s: --%s on --%s has a contrast of %.2f, expected 4.5", theme, text, back, c)
				}
			}
		}
		for _, line := range []string{"blue", "orange", "green", "sky", "red", "purple", "yellow", "fault"} {
			if c := contrast(line, "surface"); c < 2.5 {
				t.Errorf("%s: --%s on --surface has a contrast of %.2f, expected 2.5", theme, line, c)
			}
			if c := contrast("onfill", line); line != "fault" && c < 3 {
				t.Errorf("%s: --onfill on --%s has a contrast of %.2f, expected 3", theme, line, c)
			}
		}
	}
}

func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	var l float64
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(n) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		l += weight * c
	}
	return l
}

// The dark palette is written twice, for the system's choice and for the reader's: they must be the same, and no
// picture may use a variable that one of the palettes lacks.
func TestPalettesAgree(t *testing.T) {
	blocks := regexp.MustCompile(`(?s)(:root[^{]*)\{([^{}]*)\}`).FindAllStringSubmatch(paletteCSS, -1)
	if len(blocks) != 3 {
		t.Fatalf("%d palettes, expected light, dark by the system, dark by choice", len(blocks))
	}
	if blocks[1][2] != blocks[2][2] {
		t.Error("the two dark palettes differ")
	}
	names := func(block string) []string {
		out := regexp.MustCompile(`--[a-z]+`).FindAllString(block, -1)
		slices.Sort(out)
		return out
	}
	light := names(blocks[0][2])
	if diff := cmp.Diff(light, names(blocks[1][2])); diff != "" {
		t.Errorf("light - dark:\n%s", diff)
	}
	used := map[string]bool{}
	for _, r := range samplePages() {
		for _, m := range regexp.MustCompile(`var\((--[a-z]+)`).FindAllStringSubmatch(page1(t, r), -1) {
			used[m[1]] = true
		}
	}
	for name := range used {
		if name != "--tone" && !slices.Contains(light, name) {
			t.Errorf("%s is used and in no palette", name)
		}
	}
	for _, name := range light {
		if !used[name] {
			t.Errorf("%s is in the palette and used nowhere; used are %v", name, slices.Sorted(maps.Keys(used)))
		}
	}
}

package render

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hacache/hacache/reports/compare"
	"github.com/hacache/hacache/reports/result"
)

var (
	//go:embed palette.css
	paletteCSS string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string
	//go:embed page.gohtml
	pageSource string
	//go:embed comparison.gohtml
	comparisonSource string

	pageTemplate = template.Must(template.New("").Parse(pageSource + comparisonSource))
)

// maxLosses bounds the losses listed on the page, maxStories those with what happened around them; summary.json has what the
// run kept. maxSpectra bounds the spectra.
const maxLosses, maxStories, maxSpectra = 200, 40, 24

// page is what the template shows.
type page struct {
	Run      *result.Run
	Verdict  verdict
	Headline string
	Reasons  []string
	Meta     string
	Command  string
	Sections []section
	Tiles    []tile
	Missing  []string
	Checks   []check
	Repeats  []repeat

	Peers           []peerGroup
	PeerPictures    []picture
	PeerNotes       []string
	Time            []picture
	Knee            []picture
	Limits          string
	Spectra         []picture
	FailoverFigures []picture
	Failovers       []failoverRow
	Levels          []string
	Resolution      string
	Exposures       []exposureRow
	Losses          []lossRow
	MoreLosses      string
	MoreFailovers   string
	MoreSpectra     string
	Baseline        *comparisonTable
	BaselineNotes   []string
	BaselinePicture picture
	Numbers         []numbersRow
	None            string
	Environment     [][2]string
	Files           []fileRow
	Footer          string

	CSS  template.CSS
	JS   template.JS
	Live any
}

// verdict is a verdict in words, with a sign and a tone so that it does not depend on colour.
type verdict struct{ Word, Sign, Tone string }

func verdictOf(v result.Verdict) verdict {
	switch v {
	case result.Pass:
		return verdict{"pass", "✓", "t-pass"}
	case result.Violated:
		return verdict{"violated", "✕", "t-violated"}
	case result.NotExercised:
		return verdict{"not exercised", "–", "t-idle"}
	}
	return verdict{"unknown", "?", "t-unknown"}
}

type section struct{ ID, Title string }

type tile struct{ Label, Value, Note, Tone string }

type check struct {
	Name, Count, Checked, Worst, Detail string
	Bad                                 bool
	Verdict                             verdict
	Examples                            []string
}

type repeat struct {
	Dir, Link string
	Seed      uint64
	Verdict   verdict
	Reasons   []string
}

type fileRow struct{ Path, Link, About string }

// link is a relative link to a file of the run directory; a name that looks like a scheme stays a name.
func link(path string) string { return (&url.URL{Path: path}).String() }

type picture struct {
	Class, Title string
	Group        bool
	Legend       []legendEntry
	SVG          template.HTML
	Table        *table
}

type legendEntry struct {
	Label, Series string
	Swatch        template.HTML
}

type failoverRow struct {
	Name, Inject, Leaders, Term, Suspect, Candidate, Elected, Agreed string
	FirstOK, Gap                                                     []string
}

type exposureRow struct {
	Level, Acked, Lost, Allowed, PerThousand, Stale, Unknown, Window string
	Bad                                                              bool
}

type numbersRow struct {
	Group                                                               string // a heading row
	Name, Phase, Flag, Offered, Throughput, OK, Fail, Info, Missed, Lag string
	Response, Service                                                   []string
}

// Page writes r as one HTML page that needs nothing but itself.
func Page(w io.Writer, r *result.Run) error {
	return newPage(r, drawAll(r)).write(w)
}

func (p *page) write(w io.Writer) error { return pageTemplate.ExecuteTemplate(w, "page", p) }

// pictures is everything drawn of one run.
type pictures struct {
	peers, time, knee, spectra, failover, baseline []figure
	against                                        *compare.Gate // nil: no baseline
}

func drawAll(r *result.Run) pictures {
	ps := pictures{peers: peerFigures(r.Peers), time: newTimeline(r).figures(), knee: kneeFigures(r.Saturation), spectra: spectra(r)}
	if f, ok := failoverBars(r.Failovers); ok {
		ps.failover = append(ps.failover, f)
	}
	if f, ok := failoverECDF(r.Failovers); ok {
		ps.failover = append(ps.failover, f)
	}
	return ps
}

func (ps pictures) all() []figure {
	return slices.Concat(ps.peers, ps.time, ps.knee, ps.spectra, ps.failover, ps.baseline)
}

func newPage(r *result.Run, ps pictures) *page {
	p := &page{
		Run: r, Verdict: verdictOf(r.Verdict), Headline: headline(r), Reasons: reasons(r), Meta: meta(r),
		Tiles: tiles(r), Missing: missing(r), Repeats: repeats(r), Failovers: nil, None: none,
		Losses: lossRows(r), Exposures: exposureRows(r), Numbers: numbersRows(r),
		Peers: peerGroups(r.Peers), PeerNotes: peerNotes(r.Peers),
		Environment: environmentRows(r.Environment),
		CSS:         template.CSS(paletteCSS + pageCSS), JS: template.JS(pageJS),
	}
	if r.Environment != nil && len(r.Environment.Command) > 0 {
		again := *r.Environment
		again.Command = withSeed(again.Command, again.Seed)
		p.Command = again.CommandLine()
		if !slices.ContainsFunc(r.Environment.Command, func(a string) bool { return strings.HasPrefix(strings.TrimLeft(a, "-"), "seed") }) {
			p.Command += fmt.Sprintf(" --seed %d", r.Environment.Seed)
		}
	}
	for _, f := range r.Files {
		p.Files = append(p.Files, fileRow{f.Path, link(f.Path), f.About})
	}
	for _, c := range r.Checks {
		row := check{c.Name, formatCount(c.Count), none, formatDuration(c.Worst), c.Detail, c.Count > 0 && c.Verdict == result.Violated, verdictOf(c.Verdict), c.Examples}
		if c.Checked > 0 {
			row.Checked = formatCount(c.Checked)
		}
		p.Checks = append(p.Checks, row)
	}
	// What went wrong comes first; the rest keeps the order in which it was judged.
	slices.SortStableFunc(p.Checks, func(a, b check) int { return toneRank(a.Verdict) - toneRank(b.Verdict) })
	for _, f := range ps.peers {
		p.PeerPictures = append(p.PeerPictures, pictureOf(f, "wide", true))
	}
	live := map[string]any{}
	for _, f := range ps.time {
		p.Time = append(p.Time, pictureOf(f, "time", false))
		if f.Live != nil {
			live[f.Name] = f.Live
		}
	}
	if len(live) > 0 {
		t := newTimeline(r)
		p.Live = map[string]any{"from": t.from, "to": t.to, "figures": live}
	}
	for _, f := range ps.knee {
		p.Knee = append(p.Knee, pictureOf(f, "wide", true))
	}
	if r.Saturation != nil {
		p.Limits = strings.Join(r.Saturation.Limits, ", ")
	}
	if n := len(ps.spectra) - maxSpectra; n > 0 {
		p.MoreSpectra = fmt.Sprintf("%d more are in %s/; what they show is in %s.", n, result.PlotsDir, result.SummaryFile)
	}
	for _, f := range ps.spectra[:min(len(ps.spectra), maxSpectra)] {
		p.Spectra = append(p.Spectra, pictureOf(f, "small", true))
	}
	for _, f := range ps.failover {
		p.FailoverFigures = append(p.FailoverFigures, pictureOf(f, "wide", true))
	}
	if g := ps.against; g != nil {
		table := tableOf(g, false)
		p.Baseline, p.BaselineNotes, p.BaselinePicture = &table, g.Notes, pictureOf(ps.baseline[0], "wide", true)
	}
	p.failovers(r.Failovers)
	if n := len(r.Losses); n > maxStories {
		p.MoreLosses = fmt.Sprintf("What happened around the others than the first %d is in %s. ", maxStories, result.SummaryFile)
	}
	if n := len(r.Losses); n > maxLosses {
		p.MoreLosses += fmt.Sprintf("%s more are in %s.", formatCount(int64(n-maxLosses)), result.SummaryFile)
	}
	p.Footer = fmt.Sprintf("Schema version %d. Times are since the start of the run, by its monotonic clock.", r.Schema)
	for _, s := range []struct {
		have bool
		section
	}{
		{true, section{"verdict", "Verdict"}},
		{len(p.Peers) > 0, section{"peers", "Side by side"}},
		{r.Peers != nil && len(r.Peers.Systems) > 0, section{"systems", "Systems"}},
		{len(p.Checks) > 0, section{"checks", "Checks"}},
		{len(r.Thresholds) > 0, section{"thresholds", "Thresholds"}},
		{len(p.Repeats) > 0, section{"repeats", "Repetitions"}},
		{len(p.Knee) > 0, section{"saturation", "Saturation"}},
		{len(p.Time) > 0, section{"time", "Over time"}},
		{len(p.Spectra) > 0, section{"spectrum", "Spectrum"}},
		{len(p.Failovers) > 0, section{"failover", "Failover"}},
		{len(p.Exposures)+len(p.Losses) > 0, section{"losses", "Lost writes"}},
		{p.Baseline != nil, section{"baseline", "Baseline"}},
		{len(p.Numbers) > 0, section{"numbers", "Numbers"}},
		{true, section{"environment", "Environment"}},
	} {
		if s.have {
			p.Sections = append(p.Sections, s.section)
		}
	}
	return p
}

// withSeed is a command whose --seed is the run's own: one that makes a run with each of several seeds names the first of them.
func withSeed(command []string, seed uint64) []string {
	out := slices.Clone(command)
	for i, arg := range out {
		if name, _, given := strings.Cut(arg, "="); strings.TrimLeft(name, "-") != "seed" || name == "seed" {
			continue
		} else if given {
			out[i] = fmt.Sprintf("%s=%d", name, seed)
		} else if i+1 < len(out) {
			out[i+1] = fmt.Sprint(seed)
		}
	}
	return out
}

func toneRank(v verdict) int {
	switch v.Tone {
	case "t-violated":
		return 0
	case "t-unknown":
		return 1
	}
	return 2
}

func pictureOf(f figure, class string, group bool) picture {
	p := picture{Class: class, Title: f.Title, Group: group, SVG: template.HTML(f.inline()), Table: f.Table}
	for _, e := range f.Legend {
		p.Legend = append(p.Legend, legendEntry{e.Label, e.Series, template.HTML(e.Swatch)})
	}
	return p
}

// headline says in one sentence what the verdict rests on.
func headline(r *result.Run) string {
	count := map[result.Verdict]int{}
	for _, c := range r.Checks {
		count[c.Verdict]++
	}
	plural := func(n int, one, many string) string {
		if n == 1 {
			return "1 " + one
		}
		return fmt.Sprintf("%d %s", n, many)
	}
	var s string
	switch r.Verdict {
	case result.Violated:
		s = plural(count[result.Violated], "check was", "checks were") + " violated."
	case result.Unknown:
		s = "Nothing can be concluded from this run."
	case result.NotExercised:
		s = "Nothing happened in this run that could have broken a promise."
	default:
		s = "The load ran to its end."
		if count[result.Pass] > 0 {
			s = plural(count[result.Pass], "check", "checks") + " passed."
			if n := count[result.NotExercised]; n > 0 {
				s += " " + plural(n, "was", "were") + " not exercised."
			}
		}
	}
	missed := 0
	for _, t := range r.Thresholds {
		if !t.Met {
			missed++
		}
	}
	if missed > 0 {
		s += fmt.Sprintf(" %d of %s missed.", missed, plural(len(r.Thresholds), "threshold was", "thresholds were"))
	}
	return s
}

// reasons is r.Reasons and whatever else ended the run early, without saying a thing twice.
func reasons(r *result.Run) []string {
	out := slices.Clone(r.Reasons)
	say := func(what, s string) {
		if what != "" && !slices.ContainsFunc(out, func(o string) bool { return strings.Contains(o, what) }) {
			out = append(out, s)
		}
	}
	say(r.Interrupted, "Partial run: interrupted by "+r.Interrupted+" after "+formatDuration(r.Duration)+".")
	say(r.Failure, "The run failed: "+r.Failure)
	return out
}

func meta(r *result.Run) string {
	parts := []string{string(r.Kind)}
	if !r.Started.IsZero() {
		parts = append(parts, "started "+r.Started.UTC().Format("2006-01-02 15:04:05 MST"))
	}
	parts = append(parts, "ran "+formatDuration(r.Duration))
	if n := len(r.Nodes); n > 0 {
		parts = append(parts, fmt.Sprintf("%d nodes", n))
	}
	if e := r.Environment; e != nil {
		parts = append(parts, "commit "+e.ShortCommit(), fmt.Sprintf("seed %d", e.Seed))
	}
	return strings.Join(parts, " · ")
}

// missing names what a run of this kind should have and this one has not.
func missing(r *result.Run) []string {
	var out []string
	want := func(have bool, what string) {
		if !have {
			out = append(out, what)
		}
	}
	if len(r.Repeats) == 0 { // the load of a repeated scenario is in its repetitions
		want(len(r.Series) > 0, "totals of the load (no series in "+result.SummaryFile+")")
		want(len(r.Intervals) > 0 || r.Peers != nil, "the course of the load over time ("+result.TimeseriesFile+")")
		if r.Kind == result.KindScenario {
			want(len(r.Events) > 0, "faults, roles and processes over time ("+result.EventsFile+")")
		}
	}
	if r.Kind == result.KindScenario {
		want(len(r.Checks) > 0, "checks: nothing was judged")
	}
	want(r.Environment != nil, "the machine and the build it ran on ("+result.EnvironmentFile+")")
	return out
}

func repeats(r *result.Run) []repeat {
	var out []repeat
	for _, x := range r.Repeats {
		out = append(out, repeat{x.Dir, link(strings.TrimSuffix(x.Dir, "/") + "/" + result.ReportFile), x.Seed, verdictOf(x.Verdict), x.Reasons})
	}
	return out
}

// totals is the counts of each operation and level over the whole run: the series of the whole run where there is
// one, else the sum of its phases.
func totals(r *result.Run) map[key]result.Counts {
	whole := map[key]bool{}
	for _, s := range r.Series {
		if s.Phase == "" {
			whole[key{s.Op, s.Level}] = true
		}
	}
	out := map[key]result.Counts{}
	for _, s := range r.Series {
		k := key{s.Op, s.Level}
		if whole[k] && s.Phase != "" {
			continue
		}
		c := out[k]
		c.Intended += s.Counts.Intended
		c.OK += s.Counts.OK
		c.Fail += s.Counts.Fail
		c.Info += s.Counts.Info
		c.Missed += s.Counts.Missed
		c.Unfinished += s.Counts.Unfinished
		out[k] = c
	}
	return out
}

// tiles is the handful of numbers that a reader wants first.
func tiles(r *result.Run) []tile {
	if r.Peers != nil {
		return nil // the highest of several systems would be nobody's
	}
	var out []tile
	if len(r.Exposures) > 0 {
		t := tile{Label: "Lost writes that a level promised to keep", Tone: "t-pass"}
		var broken, allowed int64
		var parts []string
		for _, e := range r.Exposures {
			broken += e.Lost - e.Allowed
			allowed += e.Allowed
			parts = append(parts, fmt.Sprintf("%s %s of %s", e.Level, formatCount(e.Lost), formatCount(e.Acked)))
		}
		switch {
		case broken > 0:
			t.Tone = "t-violated"
		case r.Verdict == result.Unknown: // a green nought would say what the run does not
			t.Tone = "t-unknown"
		}
		t.Value, t.Note = formatCount(broken), strings.Join(parts, " · ")
		if allowed > 0 {
			t.Note += fmt.Sprintf(" (%s allowed)", formatCount(allowed))
		}
		out = append(out, t)
	}
	for _, c := range r.Checks {
		if c.Worst > 0 && strings.Contains(c.Name, "stale") {
			out = append(out, tile{Label: "Oldest value read", Value: formatDuration(c.Worst), Note: c.Detail, Tone: map[bool]string{true: "t-violated"}[c.Verdict == result.Violated]})
		}
	}
	if len(r.Outages) > 0 {
		worst := slices.MaxFunc(r.Outages, func(a, b result.Outage) int { return cmp.Compare(a.To-a.From, b.To-b.From) })
		note := "no ok at level " + worst.Level + " from " + formatTime(worst.From)
		if worst.Fault != "" {
			note += ", during " + worst.Fault
		}
		out = append(out, tile{Label: "Longest outage", Value: formatDuration(worst.To - worst.From), Note: note})
	}
	if len(r.Failovers) > 0 {
		var oks []time.Duration
		for _, f := range r.Failovers {
			if d := firstOK(f); d > 0 {
				oks = append(oks, d)
			}
		}
		slices.Sort(oks)
		t := tile{Label: "Failover: injection to first ok", Value: formatDuration(median(oks)), Note: "no write was acknowledged afterwards", Tone: "t-unknown"}
		if len(oks) > 0 {
			t.Note, t.Tone = fmt.Sprintf("median of %d, slowest %s", len(oks), formatDuration(oks[len(oks)-1])), ""
			if len(r.Failovers) == 1 {
				t.Note = "one failover, fault " + r.Failovers[0].Fault
			} else if n := len(r.Failovers) - len(oks); n > 0 {
				t.Note += fmt.Sprintf("; %d never recovered", n)
			}
		}
		out = append(out, t)
	}
	if t, ok := kneeTile(r.Saturation); ok {
		out = append(out, t)
	}
	if t, ok := peakTile(r); ok {
		out = append(out, t)
	}
	if t, ok := latencyTile(r); ok && r.Saturation == nil { // of a search it would list every try
		out = append(out, t)
	}
	var all result.Counts
	for _, c := range totals(r) {
		all.Intended += c.Intended
		all.OK += c.OK
		all.Fail += c.Fail
		all.Info += c.Info
		all.Missed += c.Missed
	}
	if all.Intended > 0 {
		note := formatShare(all.OK, all.Intended) + " ok"
		for _, o := range []struct {
			n    int64
			name string
		}{{all.Fail, "failed"}, {all.Info, "unknown"}, {all.Missed, "missed"}} {
			if o.n > 0 {
				note += " · " + formatCount(o.n) + " " + o.name
			}
		}
		out = append(out, tile{Label: "Operations", Value: formatCount(all.Intended), Note: note})
	}
	return out
}

// peakTile is the highest throughput of a closed loop.
func peakTile(r *result.Run) (tile, bool) {
	best := -1
	for i, s := range r.Series {
		if s.Closed && (best < 0 || s.Throughput > r.Series[best].Throughput) {
			best = i
		}
	}
	if best < 0 {
		return tile{}, false
	}
	s := r.Series[best]
	note := key{s.Op, s.Level}.String()
	if s.InFlight > 0 {
		note += fmt.Sprintf(", %d in flight", s.InFlight)
	}
	return tile{Label: "Highest closed-loop throughput", Value: formatRate(s.Throughput) + "/s", Note: note}, true
}

// latencyTile is the p99 of the strongest write, phase by phase.
func latencyTile(r *result.Run) (tile, bool) {
	var list []result.Series
	for _, s := range r.Series {
		if !s.Closed && !s.Limited && !s.Saturated && s.Response.P99 > 0 {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		return tile{}, false
	}
	slices.SortStableFunc(list, func(a, b result.Series) int { return compareKeys(key{a.Op, a.Level}, key{b.Op, b.Level}) })
	first := key{list[0].Op, list[0].Level}
	t := tile{Label: "p99 response, " + first.String(), Value: formatDuration(list[0].Response.P99)}
	var parts []string
	for _, s := range list {
		if (key{s.Op, s.Level}) == first && s.Phase != "" {
			parts = append(parts, s.Phase+" "+formatDuration(s.Response.P99))
		}
	}
	t.Note = strings.Join(parts, " · ")
	if len(parts) < 2 {
		t.Note = "p50 " + formatDuration(list[0].Response.P50) + ", offered " + formatRate(list[0].Offered) + "/s"
	}
	return t, true
}

func (p *page) failovers(fs []result.Failover) {
	levels := map[string]bool{}
	resolutions := map[time.Duration]bool{}
	for _, f := range fs {
		if f.Resolution > 0 {
			resolutions[f.Resolution] = true
		}
		for _, l := range f.Levels {
			levels[l.Level] = true
		}
	}
	p.Levels = sortedKeys(levels)
	slices.SortFunc(p.Levels, func(a, b string) int { return compareKeys(key{"insert", a}, key{"insert", b}) })
	if len(resolutions) > 0 {
		var worst time.Duration
		for d := range resolutions {
			worst = max(worst, d)
		}
		p.Resolution = "None is known better than " + formatDuration(worst) + ", the interval of the probes."
	}
	shown := slowest(fs, maxFailovers)
	if n := len(fs) - len(shown); n > 0 {
		p.MoreFailovers = fmt.Sprintf("These are the slowest. %s faster ones are in %s.", formatCount(int64(n)), result.SummaryFile)
	}
	for _, f := range shown {
		row := failoverRow{
			Name: failoverName(f), Inject: formatTime(f.Inject), Leaders: cmp.Or(f.OldLeader, none) + " → " + cmp.Or(f.NewLeader, none), Term: none,
			Suspect: formatDuration(f.Suspect), Candidate: formatDuration(f.Candidate), Elected: formatDuration(f.Elected),
			Agreed: formatDuration(f.Agreed),
		}
		if f.Term > 0 {
			row.Term = fmt.Sprint(f.Term)
		}
		for _, level := range p.Levels {
			var r result.Recovery
			if i := slices.IndexFunc(f.Levels, func(l result.Recovery) bool { return l.Level == level }); i >= 0 {
				r = f.Levels[i]
			}
			row.FirstOK = append(row.FirstOK, formatDuration(r.FirstOK))
			row.Gap = append(row.Gap, formatDuration(r.Gap))
		}
		p.Failovers = append(p.Failovers, row)
	}
}

func exposureRows(r *result.Run) []exposureRow {
	var out []exposureRow
	for _, e := range r.Exposures {
		row := exposureRow{
			Level: e.Level, Acked: formatCount(e.Acked), Lost: formatCount(e.Lost), Allowed: formatCount(e.Allowed), PerThousand: none,
			Stale: formatCount(e.Stale), Unknown: formatCount(e.Unknown), Window: formatDuration(e.Window), Bad: e.Lost > e.Allowed,
		}
		if e.Acked > 0 {
			row.PerThousand = threeDigits(1000 * float64(e.Lost) / float64(e.Acked))
		}
		out = append(out, row)
	}
	return out
}

// numbersRows lists the series phase by phase, in the order of the run.
func numbersRows(r *result.Run) []numbersRow {
	list := slices.Clone(r.Series)
	order := func(phase string) int {
		if phase == "" {
			return math.MaxInt
		}
		if i := slices.IndexFunc(r.Phases, func(p result.Phase) bool { return p.Name == phase }); i >= 0 {
			return i
		}
		return len(r.Phases)
	}
	slices.SortStableFunc(list, func(a, b result.Series) int {
		return cmp.Or(cmp.Compare(order(a.Phase), order(b.Phase)), cmp.Compare(a.Phase, b.Phase), compareKeys(key{a.Op, a.Level}, key{b.Op, b.Level}))
	})
	// A heading for each phase, unless each holds a single row: then the row says it.
	phases := map[string]int{}
	for _, s := range list {
		phases[s.Phase]++
	}
	grouped := len(phases) < len(list) && (len(phases) > 1 || phases[""] == 0)
	var out []numbersRow
	for i, s := range list {
		if grouped && (i == 0 || list[i-1].Phase != s.Phase) {
			out = append(out, numbersRow{Group: cmp.Or(s.Phase, "whole run")})
		}
		row := numbersRow{
			Name: key{s.Op, s.Level}.String(), Offered: none, Throughput: formatRate(s.Throughput), OK: formatCount(s.Counts.OK),
			Fail: formatCount(s.Counts.Fail), Info: formatCount(s.Counts.Info + s.Counts.Unfinished), Missed: formatCount(s.Counts.Missed), Lag: formatDuration(s.Lag.P99),
		}
		if s.Offered > 0 {
			row.Offered = formatRate(s.Offered)
		}
		for _, d := range []time.Duration{s.Response.P50, s.Response.P90, s.Response.P99, s.Response.P999, s.Response.Max} {
			text := formatDuration(d)
			if s.Closed {
				text = none
			}
			row.Response = append(row.Response, text)
		}
		row.Service = []string{formatDuration(s.Service.P50), formatDuration(s.Service.P99)}
		if s.Closed {
			row.Flag = "closed loop"
			if s.InFlight > 0 {
				row.Flag += fmt.Sprintf(", %d in flight", s.InFlight)
			}
		}
		if s.Limited {
			row.Flag = strings.TrimPrefix(row.Flag+", generator-limited", ", ")
		}
		if s.Saturated {
			row.Flag = strings.TrimPrefix(row.Flag+", saturated", ", ")
		}
		if !grouped {
			row.Phase = s.Phase
		}
		out = append(out, row)
	}
	return out
}

func environmentRows(e *result.Environment) [][2]string {
	if e == nil {
		return nil
	}
	share := func(v float64) string {
		if v < 0 {
			return "not known"
		}
		return fmt.Sprintf("%.1f %%", 100*v)
	}
	loads := func(l []float64) string {
		if len(l) == 0 {
			return "not known"
		}
		return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(l)), ", "), "[]")
	}
	rows := [][2]string{
		{"commit", e.ShortCommit()},
		{"go", e.GoVersion + " " + e.OS + "/" + e.Arch},
		{"processor", cmp.Or(e.CPUModel, "not known")},
		{"cores", fmt.Sprintf("%d, GOMAXPROCS %d", e.Cores, e.MaxProcs)},
	}
	if e.Memory > 0 {
		rows = append(rows, [2]string{"memory", formatBytes(e.Memory)})
	}
	if e.Kernel != "" {
		rows = append(rows, [2]string{"kernel", e.Kernel})
	}
	rows = append(rows,
		[2]string{"load before, after", loads(e.LoadBefore) + "; " + loads(e.LoadAfter)},
		[2]string{"busy, stolen by the host", share(e.Busy) + ", " + share(e.Steal)},
		[2]string{"seed", fmt.Sprint(e.Seed)},
	)
	for _, m := range sortedKeys(e.Versions) {
		rows = append(rows, [2]string{m, e.Versions[m]})
	}
	return rows
}

package render

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hacache/hacache/reports/result"
)

const sec = time.Second

// What a lane shows: a role lasts until the next one is seen, a killed process has none, and that nobody answers for
// it is no news.
func TestNodeStates(t *testing.T) {
	r := &result.Run{
		Duration: 100 * sec, Nodes: []result.Node{{Name: "b"}, {Name: "a"}, {Name: "silent"}},
		Events: []result.Event{
			{T: 10 * sec, Kind: result.Observe, Node: "a", Role: result.RoleLeader, Term: 2},
			{T: 0, Kind: result.Observe, Node: "a", Role: result.RoleFollower, Term: 1},
			{T: 12 * sec, Kind: result.Observe, Node: "a", Role: result.RoleLeader, Term: 2}, // nothing new
			{T: 30 * sec, Kind: result.Process, Node: "a", State: result.ProcessExited},
			{T: 31 * sec, Kind: result.Observe, Node: "a", Role: result.RoleUndefined},
			{T: 50 * sec, Kind: result.Process, Node: "a", State: result.ProcessRunning},
			{T: 60 * sec, Kind: result.Observe, Node: "a", Role: result.RoleFollower, Term: 3},
			{T: 20 * sec, Kind: result.Observe, Node: "b", Role: result.RoleLeader, Term: 3},
			{T: 0, Kind: result.Process, Node: "b", State: result.ProcessRunning}, // it runs already: no state of its own
			{T: 5 * sec, Kind: result.Observe, Node: "late", Role: result.RoleDead},
		},
	}
	names, states := newTimeline(r).nodeStates()
	if want := []string{"b", "a", "silent", "late"}; !slices.Equal(names, want) {
		t.Errorf("lanes %q, expected %q: the nodes of the run first, in their order", names, want)
	}
	want := map[string][]state{
		"a": {
			{0, 10 * sec, "follower", "follower · term 1"},
			{10 * sec, 30 * sec, "leader", "leader · term 2"},
			{30 * sec, 50 * sec, "exited", "exited"},
			{50 * sec, 60 * sec, "starting", "starting"},
			{60 * sec, 100 * sec, "follower", "follower · term 3"},
		},
		"b":    {{20 * sec, 100 * sec, "leader", "leader · term 3"}},
		"late": {{5 * sec, 100 * sec, "dead", "dead"}},
	}
	if diff := cmp.Diff(states, want, cmp.AllowUnexported(state{})); diff != "" {
		t.Errorf("got - want:\n%s", diff)
	}
	double := rivals(names, states)
	if len(double) != 1 || double[0].from != 20*sec || double[0].to != 30*sec {
		t.Errorf("rivals %+v, expected a and b from 20 s to 30 s", double)
	}
}

// A reign is cut exactly where somebody else claimed to lead too, and nothing of it is lost.
func TestReign(t *testing.T) {
	double := []rival{{a: "x", b: "n", from: 5, to: 8}, {a: "n", b: "y", from: 8, to: 9}, {a: "x", b: "y", from: 2, to: 3}}
	alone, disputed := look{height: 1}, look{height: 2}
	got := reign(4, "n", state{from: 1, to: 20, label: "L"}, double, alone, disputed)
	at := func(ns float64) float64 { return ns / 1e9 }
	want := []segment{
		{4, at(1), at(5), alone, "L"},
		{4, at(5), at(8), disputed, "L"},
		{4, at(8), at(9), disputed, "L"},
		{4, at(9), at(20), alone, "L"},
	}
	if diff := cmp.Diff(got, want, cmp.AllowUnexported(segment{}, look{})); diff != "" {
		t.Errorf("got - want:\n%s", diff)
	}
}

// Rates summed over series of different bins lose nothing: what flows in flows out.
func TestEdgesConserve(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sum, cover := edges{}, edges{}
		var want float64
		for range rapid.IntRange(0, 20).Draw(t, "rows") {
			from := float64(rapid.IntRange(0, 50).Draw(t, "from")) / 10
			to := from + float64(rapid.IntRange(1, 20).Draw(t, "width"))/10
			rate := float64(rapid.IntRange(0, 1000).Draw(t, "rate"))
			sum.add(from, to, rate)
			cover.add(from, to, 1)
			want += rate * (to - from)
		}
		var got float64
		last := math.Inf(-1)
		for _, b := range sum.bins(cover) {
			if b.from < last || b.to <= b.from || b.value < 0 {
				t.Fatalf("bin %+v after %v", b, last)
			}
			got += b.value * (b.to - b.from)
			last = b.to
		}
		if math.Abs(got-want) > 1e-6*(1+want) {
			t.Fatalf("%v operations came out of %v", got, want)
		}
	})
}

// Joining bins keeps the counts, keeps the worst, and never bridges a gap.
func TestThinOut(t *testing.T) {
	var rows []result.Interval
	for i := range 10 * maxBins {
		at := time.Duration(i) * sec
		if i >= 5000 {
			at += time.Hour
		}
		rows = append(rows, result.Interval{T: at, Width: sec, OK: int64(i), Fail: 1, P99: time.Duration(i%977) * time.Millisecond, Max: time.Duration(i) * time.Millisecond})
	}
	got := thinOut(rows, maxBins)
	if len(got) > maxBins+1 {
		t.Errorf("%d bins, expected about %d", len(got), maxBins)
	}
	var ok, fail int64
	var p99, top, width time.Duration
	for i, r := range got {
		ok, fail, width = ok+r.OK, fail+r.Fail, width+r.Width
		p99, top = max(p99, r.P99), max(top, r.Max)
		if i > 0 && r.T < got[i-1].T+got[i-1].Width {
			t.Fatalf("bin %d overlaps the one before it", i)
		}
	}
	n := int64(len(rows))
	if ok != n*(n-1)/2 || fail != n || width != time.Duration(n)*sec {
		t.Errorf("%d ok, %d fail over %v; expected %d, %d over %v", ok, fail, width, n*(n-1)/2, n, time.Duration(n)*sec)
	}
	if p99 != 976*time.Millisecond || top != time.Duration(n-1)*time.Millisecond {
		t.Errorf("worst p99 %v, max %v: the worst must be kept", p99, top)
	}
	if short := rows[:maxBins]; len(thinOut(short, maxBins)) != maxBins {
		t.Error("few bins are left alone")
	}
}

// An interval that two phases share is one interval of the picture, and a sliver belongs to the one before it.
func TestJoinSplit(t *testing.T) {
	got := joinSplit([]result.Interval{
		{T: 0, Width: 10, Phase: "before", OK: 5, P50: 2, Max: 7},
		{T: 10, Width: 10, Phase: "before", OK: 3, Fail: 1, P50: 4, Max: 4},
		{T: 10, Width: 10, Phase: "during", OK: 1, Info: 2, P50: 9, Max: 9},
		{T: 20, Width: 10, Phase: "during", OK: 8},
		{T: 30, Width: 2, Phase: "during", OK: 4, P50: 1},
		{T: 40, Width: 2, Phase: "during", OK: 1}, // does not touch
	})
	want := []result.Interval{
		{T: 0, Width: 10, Phase: "before", OK: 5, P50: 2, Max: 7},
		{T: 10, Width: 10, Phase: "before", OK: 4, Fail: 1, Info: 2, P50: 9, Max: 9},
		{T: 20, Width: 12, Phase: "during", OK: 12, P50: 1},
		{T: 40, Width: 2, Phase: "during", OK: 1},
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("got - want:\n%s", diff)
	}
}

// While the load went on, a missing interval is an interval without an answer; between two stages it is a pause.
func TestFillGaps(t *testing.T) {
	row := func(at int, phase string) result.Interval {
		return result.Interval{T: time.Duration(at) * sec, Width: sec, Phase: phase, Op: "get", OK: 1}
	}
	tl := newTimeline(&result.Run{Duration: 60 * sec, Phases: []result.Phase{
		{Name: "before", From: 0, To: 10 * sec},
		{Name: "during", From: 10 * sec, To: 20 * sec},
		{Name: "later", From: 40 * sec, To: 50 * sec},
	}})
	var got []string
	for _, r := range tl.fillGaps([]result.Interval{row(1, "before"), row(2, "before"), row(5, "before"), row(12, "during"), row(13, "during"), row(41, "later"), row(55, "nobody knows")}) {
		got = append(got, fmt.Sprintf("%v+%v %s %d", r.T.Seconds(), r.Width.Seconds(), r.Phase, r.OK))
	}
	want := []string{"1+1 before 1", "2+1 before 1", "3+2 before 0", "5+1 before 1", "6+6 before 0", "12+1 during 1", "13+1 during 1", "41+1 later 1", "55+1 nobody knows 1"}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("got - want:\n%s", diff)
	}
}

func TestPlaceRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var spans [][2]float64
		at := 0.0
		for range rapid.IntRange(0, 30).Draw(t, "spans") {
			at += rapid.Float64Range(0, 3).Draw(t, "gap")
			spans = append(spans, [2]float64{at, at + rapid.Float64Range(0, 5).Draw(t, "length")})
		}
		rows, count := placeRows(spans, 0.5)
		ends := make([]float64, count)
		for i := range ends {
			ends[i] = math.Inf(-1)
		}
		for i, s := range spans {
			if s[0] < ends[rows[i]] {
				t.Fatalf("span %d overlaps its neighbour in row %d", i, rows[i])
			}
			ends[rows[i]] = s[1]
		}
	})
}

// Series measured one after the other share a picture; series measured at the same time do not.
func TestTakeTurns(t *testing.T) {
	row := func(op string, at int) result.Interval {
		return result.Interval{T: time.Duration(at) * sec, Width: sec, Op: op, OK: 1, P50: 1, P90: 2, P99: 3, Max: 4}
	}
	for _, c := range []struct {
		rows []result.Interval
		want bool
	}{
		{[]result.Interval{row("a", 0), row("a", 1), row("b", 2), row("b", 3)}, true},
		{[]result.Interval{row("a", 0), row("a", 1), row("b", 1)}, false},
		{[]result.Interval{row("a", 0), row("a", 1)}, false},
		{nil, false},
	} {
		tl := newTimeline(&result.Run{Duration: 10 * sec, Intervals: c.rows})
		if got := tl.takeTurns(); got != c.want {
			t.Errorf("%v: %v, expected %v", c.rows, got, c.want)
		}
	}
}

// The parts of a failover follow each other without a gap from the injection on, in their order; steps that were not
// seen, or seen out of order, leave their time to the next part.
func TestFailoverParts(t *testing.T) {
	ok := func(d time.Duration) []result.Recovery { return []result.Recovery{{Level: "quorum", FirstOK: d}} }
	for _, c := range []struct {
		f    result.Failover
		want []part
	}{
		{result.Failover{}, nil},
		{
			result.Failover{Suspect: 1, Candidate: 2, Elected: 5, Levels: ok(9)},
			[]part{{"until suspected", 0, 1}, {"until a candidate", 1, 2}, {"until elected", 2, 5}, {"until the first ok", 5, 9}},
		},
		{result.Failover{Elected: 5, Levels: ok(9)}, []part{{"until elected", 0, 5}, {"until the first ok", 5, 9}}},
		{result.Failover{Suspect: 6, Candidate: 2, Elected: 5}, []part{{"until a candidate", 0, 2}, {"until elected", 2, 5}}},
		{result.Failover{Suspect: 2, Candidate: 5, Elected: 5, Levels: ok(4)}, []part{{"until suspected", 0, 2}, {"until the first ok", 2, 4}}},
		{result.Failover{Suspect: 3, Elected: 3, Levels: ok(3)}, []part{{"until the first ok", 0, 3}}},
	} {
		got, any := failoverParts(c.f)
		if diff := cmp.Diff(got, c.want, cmp.AllowUnexported(part{})); diff != "" || any != (c.want != nil) {
			t.Errorf("%+v: %v, got - want:\n%s", c.f, any, diff)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []time.Duration
		want time.Duration
	}{{nil, 0}, {[]time.Duration{3}, 3}, {[]time.Duration{1, 9}, 5}, {[]time.Duration{1, 2, 9}, 2}, {[]time.Duration{1, 2, 4, 9}, 3}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median of %v is %v, expected %v", c.in, got, c.want)
		}
	}
}

// A logarithmic axis takes any number without a panic, stays between 0 and 1, and never turns around.
func TestLogScale(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{0, -1, math.NaN(), math.Inf(1), math.Inf(-1), 1, 1e9}))
		lo, hi := number.Draw(t, "lo"), number.Draw(t, "hi")
		x, y := number.Draw(t, "x"), number.Draw(t, "y")
		nx, ny := logScale{}.Normalize(lo, hi, x), logScale{}.Normalize(lo, hi, y)
		if !(nx >= 0 && nx <= 1) {
			t.Fatalf("%v on an axis from %v to %v is at %v", x, lo, hi, nx)
		}
		if x <= y && nx > ny {
			t.Fatalf("%v is left of %v, but drawn right of it", x, y)
		}
		var values []float64
		values = append(values, lo, hi, x, y)
		a, b, ok := logRange(slices.Values(values))
		if !(a > 0 && b/a >= 9.99) || math.IsInf(b, 1) && ok && !slices.ContainsFunc(values, func(v float64) bool { return v > 1e307 }) {
			t.Fatalf("range of %v: %v to %v", values, a, b)
		}
	})
}

// Every axis has a few labels, in order, each different from the next, none outside.
func TestTicks(t *testing.T) {
	check := func(t *rapid.T, name string, labels []string, at []float64, lo, hi float64, least int) {
		if len(at) < least || len(at) > 100 {
			t.Fatalf("%s from %v to %v: %d labels %q", name, lo, hi, len(at), labels)
		}
		for i := range at {
			if at[i] < lo-1e-9*math.Abs(lo)-1e-12 || at[i] > hi*(1+1e-2) {
				t.Fatalf("%s from %v to %v: label %q at %v", name, lo, hi, labels[i], at[i])
			}
			if i > 0 && (at[i] <= at[i-1] || labels[i] == labels[i-1]) {
				t.Fatalf("%s from %v to %v: %q at %v after %q at %v", name, lo, hi, labels[i], at[i], labels[i-1], at[i-1])
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		hi := math.Pow(10, rapid.Float64Range(-6, 12).Draw(t, "exponent"))
		for name, label := range map[string]func(v, step float64) string{"seconds": secondsLabel, "amount": amountLabel, "percent": percentLabel} {
			var labels []string
			var at []float64
			for _, tick := range (evenTicks{count: 5, label: label}).Ticks(0, hi) {
				labels, at = append(labels, tick.Label), append(at, tick.Value)
			}
			check(t, name, labels, at, 0, hi, 2)
			if labels[0] == "-0" || labels[0] == "-0 s" {
				t.Fatalf("%s starts at %q", name, labels[0])
			}
		}
		lo := math.Pow(10, rapid.Float64Range(0, 9).Draw(t, "low exponent"))
		hi = lo * math.Pow(10, rapid.Float64Range(1, 6).Draw(t, "decades"))
		var labels []string
		var at []float64
		for _, tick := range (latencyTicks{}).Ticks(lo, hi) {
			if !tick.IsMinor() {
				labels, at = append(labels, tick.Label), append(at, tick.Value)
			}
		}
		check(t, "latency", labels, at, lo, hi, 1)
	})
}

func TestTailTicks(t *testing.T) {
	var labels []string
	for _, tick := range (tailTicks{}).Ticks(0, 0.99999) {
		labels = append(labels, tick.Label)
	}
	want := []string{"50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"}
	if !slices.Equal(labels, want) {
		t.Errorf("%q, expected %q", labels, want)
	}
	// Each further nine has the same room.
	first := tailScale{}.Normalize(0, 0.9999, 0.9)
	for i, q := range []float64{0.99, 0.999, 0.9999} {
		if got, want := (tailScale{}).Normalize(0, 0.9999, q), first*float64(i+2); math.Abs(got-want) > 1e-6 {
			t.Errorf("quantile %v is at %v, expected %v", q, got, want)
		}
	}
}

func TestFormats(t *testing.T) {
	for got, want := range map[string]string{
		formatDuration(0):                         none,
		formatDuration(999):                       "999 ns",
		formatDuration(1000):                      "1.00 µs",
		formatDuration(999400):                    "999 µs",
		formatDuration(999600):                    "1.00 ms",
		formatDuration(12345678):                  "12.3 ms",
		formatDuration(123456789):                 "123 ms",
		formatDuration(999600 * time.Microsecond): "1.00 s",
		formatDuration(75 * sec):                  "75.0 s",
		formatDuration(3 * time.Hour):             "3.00 h",
		formatOffset(-2800 * time.Microsecond):    "−2.80 ms",
		formatOffset(0):                           "0",
		formatOffset(5):                           "+5 ns",
		formatTime(10137 * time.Millisecond):      "10.137 s",
		formatCount(0):                            "0",
		formatCount(999):                          "999",
		formatCount(1234567):                      "1,234,567",
		formatCount(-1000):                        "−1,000",
		formatRate(0):                             "0",
		formatRate(0.12345):                       "0.123",
		formatRate(12.345):                        "12.3",
		formatRate(99999.6):                       "100,000",
		formatBytes(1023):                         "1,023 B",
		formatBytes(8 << 30):                      "8.00 GiB",
		formatShare(0, 0):                         none,
		formatShare(0, 7):                         "0 %",
		formatShare(7, 7):                         "100 %",
		formatShare(1, 2):                         "50.0 %",
		formatShare(999_999, 1_000_000):           "99.9999 %",
		formatShare(1, 1_000_000):                 "0.0001 %",
		formatQuantile(0.5):                       "50.0 %",
		formatQuantile(0.999):                     "99.90 %",
		plainText("a\x00b\xff", 9):                "a b\ufffd",
		plainText("abcdef", 4):                    "abc…",
		slug("Insert · quorum, before"):           "insert-quorum-before",
		slug("¿?"):                                "",
	} {
		if got != want {
			t.Errorf("got %q, expected %q", got, want)
		}
	}
}

// A share is "100 %" only if it is all, and "0 %" only if it is none.
func TestFormatShareNeverHidesADifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := rapid.Int64Range(1, 10_000_000).Draw(t, "whole")
		part := rapid.Int64Range(0, whole).Draw(t, "part")
		var v float64
		if _, err := fmt.Sscanf(formatShare(part, whole), "%g %%", &v); err != nil {
			t.Fatal(err)
		}
		if (v == 0) != (part == 0) || (v == 100) != (part == whole) {
			t.Fatalf("%d of %d is %s", part, whole, formatShare(part, whole))
		}
	})
}

// Of many short states in a lane those that last are kept as they are, the gravest of what is put together is shown, and no
// time is lost or told twice.
func TestThinStates(t *testing.T) {
	tl := &timeline{from: 0, to: 1000}
	var list []state
	for i := range 20_000 {
		at := time.Duration(i) * 50 * time.Millisecond
		s := state{from: at, to: at + 50*time.Millisecond, what: string(result.RoleFollower), label: "follower"}
		switch {
		case i >= 10_000 && i < 11_000: // fifty seconds of one state
			if i > 10_000 {
				list[len(list)-1].to = s.to
				continue
			}
			s.what, s.label = string(result.RoleLeader), "leader"
		case i == 777:
			s.what, s.label = string(result.ProcessExited), "exited"
		}
		list = append(list, s)
	}
	got := tl.thinStates(list, 7)
	if most := maxStates / 7; len(got) > most+1 || len(got) < most/4 {
		t.Errorf("%d states, expected at most %d", len(got), most)
	}
	var exits, reigns int
	for i, s := range got {
		if i > 0 && s.from != got[i-1].to {
			t.Fatalf("state %d begins at %v, the one before it ended at %v", i, s.from, got[i-1].to)
		}
		switch s.what {
		case string(result.ProcessExited):
			exits++
			if s.from > list[777].from || s.to < list[777].to || !strings.HasSuffix(s.label, " changes, one of them exited") {
				t.Errorf("the exit is %+v", s)
			}
		case string(result.RoleLeader):
			reigns++
			if s.from != 500*sec || s.to != 550*sec || s.label != "leader" {
				t.Errorf("the reign is %+v", s)
			}
		}
	}
	if exits != 1 || reigns != 1 || got[len(got)-1].to != 1000*sec {
		t.Errorf("%d exits, %d reigns, the end at %v", exits, reigns, got[len(got)-1].to)
	}
	if few := list[:50]; len(tl.thinStates(few, 7)) != 50 {
		t.Error("few states are left alone")
	}
}

// Joining bins never crosses a gap, keeps the area of a mean and the height of a maximum.
func TestJoinBins(t *testing.T) {
	var bins []bin
	area, top := 0.0, 0.0
	for i := range 1000 {
		at, v := float64(i), float64(i%7)
		if i >= 500 {
			at += 100
		}
		if i == 300 {
			v = math.NaN()
		} else {
			area, top = area+v, max(top, v)
		}
		bins = append(bins, bin{at, at + 1, v})
	}
	for _, worst := range []bool{false, true} {
		got := joinBins(slices.Clone(bins), 100, worst)
		sum, highest := 0.0, 0.0
		for _, b := range got {
			if b.from < 500 && b.to > 500 {
				t.Errorf("%+v crosses the gap", b)
			}
			if !math.IsNaN(b.value) {
				sum, highest = sum+b.value*(b.to-b.from), max(highest, b.value)
			}
		}
		if len(got) > 105 || !worst && math.Abs(sum-area) > 1e-6 || worst && highest != top {
			t.Errorf("worst %v: %d bins, area %g of %g, highest %g of %g", worst, len(got), sum, area, highest, top)
		}
	}
}

// Of many failovers the slowest are kept, in their order, and one without an ok is the slowest of all.
func TestSlowest(t *testing.T) {
	var fs []result.Failover
	for i := range 10 {
		fs = append(fs, result.Failover{Fault: fmt.Sprint(i), Levels: []result.Recovery{{Level: "quorum", FirstOK: time.Duration(i) * sec}}})
	}
	names := ""
	for _, f := range slowest(fs, 3) {
		names += f.Fault
	}
	if names != "089" {
		t.Errorf("the slowest of 0 to 9, of which 0 never ended: %s, expected 089", names)
	}
}

// TestWaiting: how long processes waited for a processor is drawn where it was measured, of processes only.
func TestWaiting(t *testing.T) {
	for name, c := range map[string]struct {
		rows []result.Resource
		want bool
	}{
		"measured": {[]result.Resource{{T: sec, Node: "n1", Turns: 1}, {T: 2 * sec, Node: "n1", Turns: 21, Waited: 500 * time.Millisecond}, {T: 1, Node: result.Machine}, {T: 2 * sec, Node: result.Machine, Waited: sec}}, true},
		"older":    {[]result.Resource{{T: sec, Node: "n1", CPU: 1}, {T: 2 * sec, Node: "n1", CPU: 2}}, false},
	} {
		drawn := false
		for _, f := range newTimeline(&result.Run{Duration: 3 * sec, Resources: c.rows}).figures() {
			if f.Name != "waiting" {
				continue
			}
			drawn = true
			if got := fmt.Sprint(f.Table.Rows); got != "[[2.000 s n1 25.0 ms]]" {
				t.Errorf("%s: %s", name, got)
			}
		}
		if drawn != c.want {
			t.Errorf("%s: drawn %t", name, drawn)
		}
	}
}

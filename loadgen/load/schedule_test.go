package load

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// kolmogorov is the largest distance between the distribution of the sample,
// which it sorts, and the given one.
func kolmogorov(sample []float64, cdf func(float64) float64) float64 {
	slices.Sort(sample)
	n, worst := float64(len(sample)), 0.0
	for i, x := range sample {
		p := cdf(x)
		worst = max(worst, p-float64(i)/n, float64(i+1)/n-p)
	}
	return worst
}

// kolmogorovLimit is the 99.9th percentile of that distance for n samples.
func kolmogorovLimit(n int) float64 { return 1.95 / math.Sqrt(float64(n)) }

// rateOf is the rate of a schedule at t, written down naively.
func rateOf(s Schedule, t float64) float64 {
	switch s := s.(type) {
	case Stages:
		from := s.From
		for _, st := range s.Steps {
			if over := st.Over.Seconds(); t >= over {
				t, from = t-over, st.To
				continue
			}
			u := t / st.Over.Seconds()
			switch st.Shape {
			case ShapeStep:
				return st.To
			case ShapeSine:
				return (from+st.To)/2 - (st.To-from)/2*math.Cos(math.Pi*u)
			}
			return from + (st.To-from)*u
		}
		return 0
	case Burst:
		if math.Mod(t, (s.On+s.Off).Seconds()) < s.On.Seconds() {
			return s.High
		}
		return s.Low
	}
	return s.Rate()
}

// What is intended up to any moment is the integral of the rate, taken in small
// steps: to one operation with even gaps. All of it lies in the span, in order.
func TestRateIsFollowed(t *testing.T) {
	for _, text := range []string{
		"constant(700)", "stages(10s:2k)", "stages(from:1k,5s:1k:step,5s:3k,4s:0,2s:0,5s:2k:sine,1s:100:step,3s:0:sine)",
		"stages(3s:0:step,2s:500:step)", "stages(from:800,4s:200:sine,4s:200:sine)", "burst(1s:2k,3s:100)", "burst(700ms:1.5k,300ms:0)",
	} {
		s := mustSchedule(t, text)
		end := s.Span()
		if end == 0 {
			end = 12 * time.Second
		}
		var at []time.Duration
		for x := range s.Times(1) {
			if x >= end {
				break
			}
			at = append(at, x)
		}
		if !slices.IsSorted(at) {
			t.Errorf("%s: not in order", text)
		}
		const step = 1e-4
		sum, i := 0.0, 0
		for now := 0.0; now < end.Seconds(); now += step {
			for i < len(at) && at[i].Seconds() < now {
				i++
			}
			if math.Abs(float64(i)-sum) > 1.2 {
				t.Fatalf("%s: %d operations up to %.4f s, the rate adds up to %.2f", text, i, now, sum)
			}
			sum += rateOf(s, now+step/2) * step
		}
		if got := s.Rate(); s.Span() > 0 && math.Abs(got*end.Seconds()-float64(len(at))) > 1.2 {
			t.Errorf("%s: %d operations, its mean rate says %.2f", text, len(at), got*end.Seconds())
		}
	}
}

// Random arrivals of a changing rate become a process of rate 1 when time is
// measured by what the rate has added up to: gaps that are exponential, by
// Kolmogorov and Smirnov. Another seed gives other times.
func TestRandomArrivals(t *testing.T) {
	for _, text := range []string{
		"poisson(5k)", "poisson stages(from:1k,10s:5k,10s:500:sine,10s:4k:step)", "poisson burst(1s:5k,2s:250)",
	} {
		s := mustSchedule(t, text)
		var at []time.Duration
		for x := range s.Times(3) {
			if at = append(at, x); len(at) == 50_000 || x > 100*time.Second {
				break
			}
		}
		var gaps []float64
		const step = 1e-4
		sum, last, now := 0.0, 0.0, 0.0
		for _, x := range at {
			for ; now+step < x.Seconds(); now += step {
				sum += rateOf(s, now+step/2) * step
			}
			here := sum + rateOf(s, (now+x.Seconds())/2)*(x.Seconds()-now)
			gaps = append(gaps, here-last)
			last = here
		}
		if d := kolmogorov(gaps, func(x float64) float64 { return 1 - math.Exp(-max(x, 0)) }); d > kolmogorovLimit(len(gaps)) {
			t.Errorf("%s: %d gaps are %.5f from exponential, limit %.5f", text, len(gaps), d, kolmogorovLimit(len(gaps)))
		}
		same := 0
		i := 0
		for x := range s.Times(4) {
			if x == at[i] {
				same++
			}
			if i++; i == 1000 {
				break
			}
		}
		if same > 5 {
			t.Errorf("%s: %d of 1000 times agree between seeds", text, same)
		}
	}
}

// Any stages: the times are in order, below the span, as many as the rates add
// up to, and what String writes is read back as the same schedule.
func TestStagesProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Stages{From: float64(rapid.IntRange(0, 300).Draw(t, "from")), Random: rapid.Bool().Draw(t, "random")}
		for range rapid.IntRange(1, 5).Draw(t, "stages") {
			s.Steps = append(s.Steps, Stage{
				To:    float64(rapid.IntRange(0, 300).Draw(t, "to")),
				Over:  time.Duration(rapid.IntRange(1, 4000).Draw(t, "over")) * time.Millisecond,
				Shape: Shape(rapid.IntRange(0, 2).Draw(t, "shape")),
			})
		}
		if s.Rate() == 0 {
			return
		}
		last, n := time.Duration(0), 0.0
		for at := range s.Times(rapid.Uint64().Draw(t, "seed")) {
			if at < last || at >= s.Span() {
				t.Fatalf("%s after %s, span %s", at, last, s.Span())
			}
			last = at
			n++
		}
		if want := s.Rate() * s.Span().Seconds(); !s.Random && math.Abs(n-want) > 1.001 || s.Random && math.Abs(n-want) > 6*math.Sqrt(want)+6 {
			t.Fatalf("%g operations, want %g", n, want)
		}
		back, err := ParseSchedule(s.String(), 0)
		if err != nil || fmt.Sprint(back) != fmt.Sprint(s) {
			t.Fatalf("%s is read back as %v, %v", s, back, err)
		}
	})
}

func mustSchedule(t *testing.T, text string) Schedule {
	t.Helper()
	s, err := ParseSchedule(text, 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A schedule is written as it is read; each mistake is named.
func TestParseSchedule(t *testing.T) {
	for _, tc := range []struct {
		text string
		rate float64
		want string
	}{
		{"constant", 20, "constant(20/s)"},
		{"", 20, "constant(20/s)"},
		{"poisson", 1500, "poisson(1500/s)"},
		{"constant(2.5k/s)", 0, "constant(2500/s)"},
		{"poisson(1M)", 0, "poisson(1e+06/s)"},
		{"stages( 10s:20k , 1m:20k:step,5s:0:sine)", 0, "stages(10s:20000/s,1m0s:20000/s:step,5s:0/s:sine)"},
		{"stages(10s:5:linear)", 500, "stages(from:500/s,10s:5/s)"},
		{"poisson stages(from:7,10s:20k)", 0, "poisson stages(from:7/s,10s:20000/s)"},
		{"burst(1s:20k, 4s:500)", 0, "burst(1s:20000/s,4s:500/s)"},
		{"poisson burst(1s:2,4s:0)", 0, "poisson burst(1s:2/s,4s:0/s)"},
	} {
		s, err := ParseSchedule(tc.text, tc.rate)
		if err != nil || s.String() != tc.want {
			t.Errorf("%q: got %v, %v; want %s", tc.text, s, err, tc.want)
			continue
		}
		if again, err := ParseSchedule(s.String(), 0); err != nil || again.String() != tc.want {
			t.Errorf("%q: read back as %v, %v", tc.want, again, err)
		}
	}
	for text, want := range map[string]string{
		"sawtooth": "want constant, poisson, stages(", "constant": "rate 0/s: want more than 0", "constant(x)": `rate "x": want operations per second`,
		"stages()": `stage "": want DURATION:RATE`, "stages(10s)": `stage "10s"`, "stages(10s:1k:cubic)": `stage "10s:1k:cubic"`,
		"stages(10s:0)": "offers nothing", "stages(1s:5,from:3)": `stage "from:3"`, "stages(-1s:5)": `stage "-1s:5"`, "stages(1s:5": "want constant",
		"burst(1s:5)": "want burst(ON:RATE,OFF:RATE)", "burst(1s:0,1s:5)": "the first rate above 0", "poisson replay(x)": "want constant",
		"replay(/nonexistent)": "no such file", "poisson constant(5)": "want constant",
	} {
		if _, err := ParseSchedule(text, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	for _, text := range []string{"constant(5)", "burst(1s:5,1s:0)", "stages(from:5,1s:5)", "replay(x)"} {
		if _, err := ParseSchedule(text, 7); err == nil || !strings.Contains(err.Error(), "beside it") {
			t.Errorf("%q with a rate beside it: %v", text, err)
		}
	}
}

// A file of times is replayed as it is; what is no time or out of order is an
// error with its line.
func TestReplay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "times")
	text := "# noted yesterday\n0\n0.001\n1.5ms # the same\n1.5ms\n\n  2\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s := mustSchedule(t, "replay("+file+")")
	want := []time.Duration{0, time.Millisecond, 1500 * time.Microsecond, 1500 * time.Microsecond, 2 * time.Second}
	if got := slices.Collect(s.Times(0)); !slices.Equal(got, want) || s.Span() != 2*time.Second+1 || math.Abs(s.Rate()-2.5) > 1e-6 {
		t.Errorf("got %v, span %s, rate %g", got, s.Span(), s.Rate())
	}
	for text, want := range map[string]string{
		"1\nsoon\n": `f:2: "soon": want a time`, "2\n1\n": "f:2: 1s comes after 2s", "-1\n": "f:1: -1s comes after 0s", "# no\n": "f: no time in it",
		"NaN": "f:1:", "1e300": "f:1:",
	} {
		if _, err := ReadReplay(strings.NewReader(text), "f"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

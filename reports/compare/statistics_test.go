package compare

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"golang.org/x/perf/benchmath"
	"pgregory.net/rapid"
)

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-12*max(1, math.Abs(want)) && got != want {
		t.Errorf("%s: got %.15g, want %.15g", what, got, want)
	}
}

// The critical values of the one-sided 5 % level, as every textbook since Wilcoxon and Wilcox (1964) prints them: the
// largest sum of ranks whose probability is at most 0.05, with that probability in four digits.
func TestSignedRankTable(t *testing.T) {
	for _, row := range []struct {
		n, critical int
		p           string
	}{
		{5, 0, "0.0312"},
		{6, 2, "0.0469"},
		{7, 3, "0.0391"},
		{8, 5, "0.0391"},
		{9, 8, "0.0488"},
		{10, 10, "0.0420"},
		{11, 13, "0.0415"},
		{12, 17, "0.0461"},
		{13, 21, "0.0471"},
		{14, 25, "0.0453"},
		{15, 30, "0.0473"},
		{16, 35, "0.0467"},
		{17, 41, "0.0492"},
		{18, 47, "0.0494"},
		{19, 53, "0.0478"},
		{20, 60, "0.0487"},
		{21, 67, "0.0479"},
		{22, 75, "0.0492"},
		{23, 83, "0.0490"},
		{24, 91, "0.0475"},
		{25, 100, "0.0479"},
		{30, 151, "0.0481"},
	} {
		ranks := make([]int, row.n)
		for i := range ranks {
			ranks[i] = i + 1
		}
		sum := 0.0
		for w, p := range signedRankDistribution(ranks) {
			if w <= row.critical {
				sum += p
			} else if w == row.critical+1 && sum+p <= 0.05 {
				t.Errorf("n=%d: %d would be within 5 %% as well", row.n, w)
			}
		}
		if got := fmt.Sprintf("%.4f", sum); got != row.p {
			t.Errorf("n=%d: P(W <= %d) is %s, want %s", row.n, row.critical, got, row.p)
		}
	}
}

var (
	// Hamilton depression scale before and after: Hollander and Wolfe (1973), p. 29, the example of R's wilcox.test.
	before = []float64{1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30}
	after  = []float64{0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29}

	twelve = []float64{0.031, -0.012, 0.054, 0.021, 0.017, -0.033, 0.048, 0.062, 0.009, -0.005, 0.041, 0.026}
	// set.seed(1); round(rnorm(24, 0.03, 0.06), 4)
	twentyFour = []float64{
		-0.0076, 0.041, -0.0201, 0.1257, 0.0498, -0.0192, 0.0592, 0.0743, 0.0645, 0.0117, 0.1207, 0.0534,
		-0.0073, -0.1029, 0.0975, 0.0273, 0.029, 0.0866, 0.0793, 0.0656, 0.0851, 0.0769, 0.0345, -0.0894,
	}
)

func differences(a, b []float64) []float64 {
	d := make([]float64, len(a))
	for i := range a {
		d[i] = a[i] - b[i]
	}
	return d
}

// What R 4.2.2 prints for wilcox.test(d, mu = mu, alternative = "greater", exact = TRUE)$p.value.
func TestSignedRankAgreesWithR(t *testing.T) {
	for _, c := range []struct {
		name  string
		diffs []float64
		mu    float64
		p     float64
	}{
		{"depression", differences(before, after), 0, 0.01953125},
		{"twelve", twelve, 0, 0.01708984375},
		{"twelve, 1 %", twelve, 0.01, 0.101806640625},
		{"twelve, 2 %", twelve, 0.02, 0.3955078125},
		{"twelve, 5 %", twelve, 0.05, 0.99755859375},
		{"twenty-four, 1 %", twentyFour, 0.01, 0.00688964128494264},
		{"none", nil, 0, 1},
		{"all equal to mu", []float64{2, 2}, 2, 1},
		// With ties R gives up exactness; this is the enumeration of all 256 signs, by expand.grid.
		{"ties", []float64{1, 1, 2, -1, 3, -2, 2, 4}, 0, 0.08203125},
	} {
		near(t, c.name, SignedRank(c.diffs, c.mu), c.p)
	}
}

// What R 4.2.2 prints for wilcox.test(d, conf.int = TRUE, conf.level = 0.9), whose bounds are each of level 0.05.
func TestPairedShiftAgreesWithR(t *testing.T) {
	for _, c := range []struct {
		name  string
		diffs []float64
		want  Estimate
	}{
		{"depression", differences(before, after), Estimate{0.46, 0.175, 0.726}},
		{"twelve", twelve, Estimate{0.0225, 0.0070, 0.0375}},
		{"twenty-four", twentyFour, Estimate{0.045025, 0.022900, 0.063250}},
		{"too few for a bound", []float64{1, 2, 4}, Estimate{2.25, math.Inf(-1), math.Inf(1)}},
	} {
		got := PairedShift(c.diffs, 0.05)
		near(t, c.name+", value", got.Value, c.want.Value)
		near(t, c.name+", low", got.Low, c.want.Low)
		near(t, c.name+", high", got.High, c.want.High)
	}
}

// Permeability of a membrane at term and at 12 to 26 weeks: Hollander and Wolfe (1973), p. 69, the other example of R's
// wilcox.test. R 4.2.2: alternative = "greater" gives p 0.127206…, estimate 0.305, bound -0.08; conf.level = 0.9 the upper
// bound 0.72; mu = 0.1 gives p 0.185481….
func TestRankSumAgreesWithR(t *testing.T) {
	term := []float64{0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46}
	weeks := []float64{1.15, 0.88, 0.90, 0.74, 1.21}
	near(t, "p", RankSum(weeks, term, 0), 0.127206127206127)
	near(t, "p of 0.1", RankSum(weeks, term, 0.1), 0.185481185481185)
	got := Shift(weeks, term, 0.05)
	near(t, "value", got.Value, 0.305)
	near(t, "low", got.Low, -0.08)
	near(t, "high", got.High, 0.72)
	// Enumeration of all 462 ways to deal, by combn: R has no exact test with ties.
	near(t, "ties", RankSum([]float64{1, 2, 2, 3, 5}, []float64{2, 3, 4, 4, 6, 7}, 0), 0.0627705627705628)
	near(t, "an empty sample", RankSum(nil, term, 0), 1)
	// The least p of six against six, 1/924, from the published table of Mann and Whitney.
	near(t, "six apart", RankSum([]float64{1, 2, 3, 4, 5, 6}, []float64{7, 8, 9, 10, 11, 12}, 0), 1.0/924)
}

// Our one-sided p-values make up benchmath's two-sided one, where it is exact as well: twice the smaller, at most 1.
func TestRankSumAgreesWithBenchmath(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(0, 100), 3, 12)
		a, b := values.Draw(t, "a"), values.Draw(t, "b")
		seen := map[float64]bool{}
		for _, v := range append(append([]float64{}, a...), b...) {
			if seen[v] {
				t.Skip("ties") // benchmath then leaves exactness at small sizes
			}
			seen[v] = true
		}
		thresholds := benchmath.DefaultThresholds
		theirs := benchmath.AssumeNothing.Compare(benchmath.NewSample(append([]float64{}, a...), &thresholds), benchmath.NewSample(append([]float64{}, b...), &thresholds)).P
		ours := min(1, 2*min(RankSum(a, b, 0), RankSum(b, a, 0)))
		if math.Abs(theirs-ours) > 1e-9 {
			t.Fatalf("ours %v, benchmath %v", ours, theirs)
		}
	})
}

// A test of level alpha rejects exactly those effects that lie outside of its bound: p-values and bounds of the gate can
// never contradict each other. (Among tied means of pairs a bound is as careful as without ties, the p-value exact.)
func TestBoundsAreTheTests(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		diffs := make([]float64, rapid.IntRange(6, 24).Draw(t, "n"))
		for i := range diffs {
			diffs[i] = rng.NormFloat64()
		}
		low := PairedShift(diffs, 0.05).Low
		if p := SignedRank(diffs, low-1e-9); p > 0.05 {
			t.Fatalf("just below the bound %v: p %v", low, p)
		}
		if p := SignedRank(diffs, low+1e-9); p <= 0.05 {
			t.Fatalf("just above the bound %v: p %v", low, p)
		}
	})
}

// What R 4.2.2 prints for p.adjust(p, "holm").
func TestHolmAgreesWithR(t *testing.T) {
	for _, c := range []struct{ ps, want []float64 }{
		{[]float64{0.01, 0.02, 0.03, 0.04, 0.05}, []float64{0.05, 0.08, 0.09, 0.09, 0.09}},
		{[]float64{0.04, 0.001, 0.2, 0.012, 0.03}, []float64{0.09, 0.005, 0.2, 0.048, 0.09}},
		{[]float64{0.9, 0.8}, []float64{1, 1}},
		{nil, nil},
	} {
		got := Holm(c.ps)
		for i := range c.want {
			near(t, fmt.Sprint(c.ps), got[i], c.want[i])
		}
	}
}

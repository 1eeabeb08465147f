package compare

import (
	"math"
	"slices"
)

// SignedRank is the exact one-sided Wilcoxon signed-rank test of paired differences: the probability of differences that
// speak at least as loudly for a shift above mu, if they are symmetric about mu. A difference of exactly mu says nothing
// and is left out, as Wilcoxon had it; of equal distances each has the mean of their ranks, and the distribution is that
// of all signs of those ranks, so ties are exact too. Without any difference it is 1.
func SignedRank(diffs []float64, mu float64) float64 {
	var shifted []float64
	for _, d := range diffs {
		if d != mu {
			shifted = append(shifted, d-mu)
		}
	}
	ranks := doubledRanks(shifted, math.Abs)
	observed := 0
	for i, d := range shifted {
		if d > 0 {
			observed += ranks[i]
		}
	}
	p := 0.0
	for _, of := range slices.Backward(signedRankDistribution(ranks)[observed:]) { // small ones first, for the sum
		p += of
	}
	return min(p, 1)
}

// doubledRanks is the rank of each value by measure, from 1 on, times two: the mean rank of ties may be half a number.
func doubledRanks(values []float64, measure func(float64) float64) []int {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		switch x, y := measure(values[a]), measure(values[b]); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	ranks := make([]int, len(values))
	for from := 0; from < len(order); {
		to := from + 1
		for to < len(order) && measure(values[order[to]]) == measure(values[order[from]]) {
			to++
		}
		for _, i := range order[from:to] {
			ranks[i] = from + 1 + to // twice the mean of from+1 … to
		}
		from = to
	}
	return ranks
}

// signedRankDistribution is the probability of each sum of ranks when each rank counts or not, with the same chance. The
// probabilities are exact up to 53 ranks, and as good as a float64 beyond.
func signedRankDistribution(ranks []int) []float64 {
	total := 0
	for _, r := range ranks {
		total += r
	}
	p := make([]float64, total+1)
	p[0] = 1
	reached := 0
	for _, r := range ranks {
		reached += r
		for s := reached; s >= 0; s-- {
			with := 0.0
			if s >= r {
				with = p[s-r]
			}
			p[s] = (p[s] + with) / 2
		}
	}
	return p
}

// Estimate is an effect and the interval in which it lies. Low and High are each a one-sided bound of the same confidence,
// so that the interval between them misses the effect twice as often as either; a bound that so few values cannot give is
// infinite.
type Estimate struct {
	Value, Low, High float64
}

// PairedShift is the Hodges–Lehmann estimate of the centre of paired differences, the median of the means of all pairs of
// them (each with itself included), with the bounds that the signed-rank test of level alpha gives. diffs must not be empty.
func PairedShift(diffs []float64, alpha float64) Estimate {
	means := make([]float64, 0, len(diffs)*(len(diffs)+1)/2)
	ranks := make([]int, len(diffs))
	for i, d := range diffs {
		ranks[i] = i + 1
		for _, e := range diffs[i:] {
			means = append(means, (d+e)/2)
		}
	}
	return shiftBounds(means, signedRankDistribution(ranks), alpha)
}

// shiftBounds takes the median of values and those two of them that a rank test of level alpha does not reject:
// distribution is that of the test's statistic, which counts the values above a supposed effect.
func shiftBounds(values, distribution []float64, alpha float64) Estimate {
	slices.Sort(values)
	e := Estimate{Value: middle(values), Low: math.Inf(-1), High: math.Inf(1)}
	beyond, below := 0, 0.0
	for below+distribution[beyond] <= alpha { // it ends before the distribution does, for alpha < 1
		below += distribution[beyond]
		beyond++
	}
	if beyond > 0 {
		e.Low, e.High = values[beyond-1], values[len(values)-beyond]
	}
	return e
}

// middle is the median of sorted values.
func middle(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Median is the median of values, which are left alone; NaN of none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return middle(slices.Sorted(slices.Values(values)))
}

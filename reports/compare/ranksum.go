package compare

import "slices"

// RankSum is the exact one-sided Mann–Whitney test (also Wilcoxon's rank-sum test) of two samples: the probability of
// values that speak at least as loudly for b being above a by more than mu, if b lies exactly mu above a. Ties have the
// mean of their ranks, and the distribution is that of all ways to deal these ranks to the two samples. With an empty
// sample it is 1.
//
// benchmath of x/perf has the same test, but two-sided and against no difference only; a gate asks whether the loss is
// larger than a limit. A test holds the two equal where both can answer.
func RankSum(a, b []float64, mu float64) float64 {
	if len(a) == 0 || len(b) == 0 {
		return 1
	}
	all := slices.Clone(a)
	for _, v := range b {
		all = append(all, v-mu)
	}
	ranks := doubledRanks(all, func(v float64) float64 { return v })
	observed := 0
	for _, r := range ranks[len(a):] {
		observed += r
	}
	p := 0.0
	for _, of := range slices.Backward(rankSumDistribution(ranks, len(b))[observed:]) {
		p += of
	}
	return min(p, 1)
}

// rankSumDistribution is the probability of each sum of n of the ranks, all choices being equally likely.
func rankSumDistribution(ranks []int, n int) []float64 {
	total := 0
	for _, r := range ranks {
		total += r
	}
	ways := make([][]float64, n+1) // by how many were taken, by their sum
	for k := range ways {
		ways[k] = make([]float64, total+1)
	}
	ways[0][0] = 1
	for _, r := range ranks {
		for k := n; k > 0; k-- {
			for s := total; s >= r; s-- {
				ways[k][s] += ways[k-1][s-r]
			}
		}
	}
	all := 0.0
	for _, w := range ways[n] {
		all += w
	}
	for s := range ways[n] {
		ways[n][s] /= all
	}
	return ways[n]
}

// Shift is the Hodges–Lehmann estimate of how far b lies above a, the median of all differences between them, with the
// bounds that the Mann–Whitney test of level alpha gives. Neither sample may be empty.
func Shift(a, b []float64, alpha float64) Estimate {
	var diffs []float64
	for _, x := range a {
		for _, y := range b {
			diffs = append(diffs, y-x)
		}
	}
	// The statistic U is a sum of ranks less its least value.
	ranks := make([]int, len(a)+len(b))
	for i := range ranks {
		ranks[i] = i + 1
	}
	n := len(b)
	return shiftBounds(diffs, rankSumDistribution(ranks, n)[n*(n+1)/2:], alpha)
}

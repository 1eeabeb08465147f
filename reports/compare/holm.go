package compare

import (
	"cmp"
	"slices"
)

// Holm adjusts p-values for their number, by Holm's step-down method: whoever acts on those of at most alpha is wrong about
// any of them with probability alpha at most, however they depend on each other. The result is in the order of ps.
func Holm(ps []float64) []float64 {
	order := make([]int, len(ps))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(ps[a], ps[b]) })
	adjusted := make([]float64, len(ps))
	worst := 0.0
	for i, at := range order {
		worst = max(worst, min(1, float64(len(ps)-i)*ps[at]))
		adjusted[at] = worst
	}
	return adjusted
}

package load

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Sizes says how large values are, in bytes. One of its ways is used: Weights
// if there are any, Median if it is more than 0, else Min and Max.
type Sizes struct {
	// Min and Max bound the size, evenly distributed; both 0 is 128.
	Min, Max int
	// Weights is a list of sizes and how often each is taken.
	Weights []Weight[int]
	// Median and Sigma make the size lognormal: its logarithm is normal around
	// that of Median with standard deviation Sigma. What would be larger than
	// 1 MiB is 1 MiB.
	Median int
	Sigma  float64
}

// FixedSize is values that are all of one size; 0 is empty values.
func FixedSize(n int) Sizes { return Sizes{Weights: []Weight[int]{{n, 1}}} }

// MaxValue is the largest value a node takes.
const MaxValue = 1 << 20

func (s Sizes) String() string {
	switch {
	case len(s.Weights) == 1:
		return strconv.Itoa(s.Weights[0].Of)
	case len(s.Weights) > 0:
		var parts []string
		for _, w := range s.Weights {
			parts = append(parts, fmt.Sprintf("%d=%g", w.Of, w.Weight))
		}
		return strings.Join(parts, ",")
	case s.Median > 0:
		return fmt.Sprintf("lognormal(%d,%g)", s.Median, s.Sigma)
	case s.Max == 0:
		return "128"
	}
	return fmt.Sprintf("%d-%d", s.Min, s.Max)
}

// ParseSizes reads "128", "4KiB", a range "64-4096", weights
// "100=90,4KiB=9,1MiB=1", or "lognormal(1KiB,1.2)" with the median and the
// standard deviation of the logarithm.
func ParseSizes(text string) (Sizes, error) {
	if name, args, called := cutCall(text); called && name == "lognormal" {
		median, sigma, _ := strings.Cut(args, ",")
		m, err := parseSize(strings.TrimSpace(median))
		dev, serr := strconv.ParseFloat(strings.TrimSpace(sigma), 64)
		if err != nil || m == 0 || serr != nil || !(dev >= 0) || dev > 10 {
			return Sizes{}, fmt.Errorf("value size %q: want lognormal(MEDIAN,SIGMA) with a median above 0 and a sigma from 0 to 10", text)
		}
		return Sizes{Median: m, Sigma: dev}, nil
	}
	if strings.ContainsAny(text, "=,") {
		weights, err := parseWeights(text, parseSize)
		return Sizes{Weights: weights}, err
	}
	first, last, ranged := strings.Cut(text, "-")
	lo, err := parseSize(first)
	if err != nil || !ranged {
		return FixedSize(lo), err
	}
	hi, err := parseSize(last)
	if err != nil {
		return Sizes{}, err
	}
	if lo > hi {
		return Sizes{}, fmt.Errorf("value size %q: want min-max", text)
	}
	if hi == 0 {
		return FixedSize(0), nil
	}
	return Sizes{Min: lo, Max: hi}, nil
}

func parseSize(s string) (int, error) {
	digits, factor := strings.TrimSuffix(s, "B"), 1
	for _, unit := range []struct {
		suffix string
		bytes  int
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"kB", 1e3}, {"MB", 1e6}, {"k", 1 << 10}, {"m", 1 << 20}} {
		if rest, ok := strings.CutSuffix(s, unit.suffix); ok {
			digits, factor = rest, unit.bytes
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || int(n)*factor > MaxValue {
		return 0, fmt.Errorf("size %q: want bytes, such as 128, 4KiB or 1MiB, at most 1 MiB", s)
	}
	return int(n) * factor, nil
}

// sizes draws sizes.
type sizes struct {
	Sizes
	choice choice[int]
}

func newSizes(s Sizes) (sizes, error) {
	d := sizes{Sizes: s}
	bad := func(n int) bool { return n < 0 || n > MaxValue }
	var err error
	switch {
	case len(s.Weights) > 0:
		for _, w := range s.Weights {
			if bad(w.Of) {
				return d, fmt.Errorf("values of %d bytes: want 0 to %d", w.Of, MaxValue)
			}
		}
		d.choice, err = newChoice(s.Weights)
	case s.Median > 0:
		if bad(s.Median) || !(s.Sigma >= 0) {
			err = fmt.Errorf("values of %d bytes, sigma %g: want a median of at most %d and 0 or more", s.Median, s.Sigma, MaxValue)
		}
	case s.Min == 0 && s.Max == 0:
		d.Min, d.Max = 128, 128
	case bad(s.Min) || bad(s.Max) || s.Min > s.Max:
		err = fmt.Errorf("values of %d to %d bytes: want 0 <= min <= max <= %d", s.Min, s.Max, MaxValue)
	case s.Median < 0:
		err = errors.New("values with a median below 0 bytes")
	}
	return d, err
}

// max is the largest size that can be drawn.
func (d *sizes) max() int {
	switch {
	case d.choice.of != nil:
		largest := 0
		for _, n := range d.choice.of {
			largest = max(largest, n)
		}
		return largest
	case d.Median > 0:
		return MaxValue
	}
	return d.Max
}

func (d *sizes) of(rng *random) int {
	switch {
	case d.choice.of != nil:
		return d.choice.pick(rng)
	case d.Median > 0:
		return int(math.Round(min(float64(d.Median)*math.Exp(d.Sigma*rng.normal()), MaxValue)))
	case d.Max > d.Min:
		return d.Min + int(rng.below(uint64(d.Max-d.Min+1)))
	}
	return d.Min
}

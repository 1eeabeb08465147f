package load

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// KeyDist says which of the keys an operation takes.
type KeyDist struct {
	Kind KeyDistKind
	// Theta is the exponent of KeyZipf: the k-th most popular key is taken with
	// a probability proportional to 1/k^Theta. 0 is uniform.
	Theta float64
}

// KeyDistKind is a family of distributions.
type KeyDistKind uint8

const (
	// KeyUniform takes every key equally often. It is the zero value.
	KeyUniform KeyDistKind = iota
	// KeyZipf takes few keys often. Which ones is scattered over the key space.
	KeyZipf
	// KeySequential takes one key after the other, in the order of the
	// operations, and begins again after the last.
	KeySequential
)

func (d KeyDist) String() string {
	switch d.Kind {
	case KeyZipf:
		return fmt.Sprintf("zipf(%g)", d.Theta)
	case KeySequential:
		return "sequential"
	}
	return "uniform"
}

// ParseKeyDist reads what String writes.
func ParseKeyDist(s string) (KeyDist, error) {
	switch s {
	case "uniform", "":
		return KeyDist{}, nil
	case "sequential":
		return KeyDist{Kind: KeySequential}, nil
	case "zipf":
		return KeyDist{Kind: KeyZipf, Theta: 0.99}, nil
	}
	if arg, ok := strings.CutPrefix(s, "zipf("); ok {
		if arg, ok = strings.CutSuffix(arg, ")"); ok {
			theta, err := strconv.ParseFloat(arg, 64)
			if err == nil && theta >= 0 && theta <= 10 {
				return KeyDist{Kind: KeyZipf, Theta: theta}, nil
			}
		}
	}
	return KeyDist{}, fmt.Errorf("key distribution %q: want uniform, sequential or zipf(θ) with θ from 0 to 10", s)
}

// zipf draws ranks 1 to n with probability proportional to 1/rank^theta by
// rejection from the continuous distribution (Hörmann and Derflinger, 1996):
// no table, any n, about one draw for each rank.
type zipf struct {
	n             float64
	theta         float64
	first, last   float64 // the range of H that is drawn from
	alwaysAccepts float64
}

func newZipf(n uint64, theta float64) zipf {
	z := zipf{n: float64(n), theta: theta}
	z.first = z.integral(1.5) - 1
	z.last = z.integral(z.n + 0.5)
	z.alwaysAccepts = 2 - z.inverse(z.integral(2.5)-z.density(2))
	return z
}

func (z *zipf) density(x float64) float64 { return math.Exp(-z.theta * math.Log(x)) }

// integral is an antiderivative of density; inverse is its inverse.
func (z *zipf) integral(x float64) float64 {
	l := math.Log(x)
	if q := 1 - z.theta; math.Abs(q) > 1e-9 {
		return math.Expm1(q*l) / q
	}
	return l
}

func (z *zipf) inverse(y float64) float64 {
	if q := 1 - z.theta; math.Abs(q) > 1e-9 {
		return math.Exp(math.Log1p(max(q*y, -1)) / q)
	}
	return math.Exp(y)
}

func (z *zipf) rank(rng *random) uint64 {
	for {
		u := z.last + rng.float()*(z.first-z.last)
		x := z.inverse(u)
		k := min(max(math.Round(x), 1), z.n)
		if k-x <= z.alwaysAccepts || u >= z.integral(k+0.5)-z.density(k) {
			return uint64(k)
		}
	}
}

// scatter is a bijection of [0, n): it puts neighbouring ranks far apart.
type scatter struct{ n, factor uint64 }

func newScatter(n uint64) scatter {
	factor := uint64(float64(n)*0.6180339887) | 1
	for gcd(factor, n) != 1 {
		factor++
	}
	return scatter{n, factor}
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (s scatter) place(i uint64) uint64 {
	hi, lo := bits.Mul64(i, s.factor)
	_, rem := bits.Div64(hi%s.n, lo, s.n)
	return rem
}

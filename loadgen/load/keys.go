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
	// Theta is the exponent of KeyZipf and KeyLatest: the k-th most popular key
	// is taken with a probability proportional to 1/k^Theta. 0 is uniform.
	Theta float64
	// Decay is by how much KeyExponential falls over the key space: the most
	// popular key is taken e^Decay times as often as the least popular one. 0 is
	// uniform.
	Decay float64
	// Ops and Keys are the shares of KeyHotspot, 0 to 1: so many of the
	// operations take one of so many of the keys.
	Ops, Keys float64
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
	// KeyLatest takes what was written lately. Writes go through the keys in
	// order and begin again after the last; a read takes a key that lies behind
	// them by a distance with a Zipf distribution. How far the writes have got
	// at operation i is taken to be i times their share of the mix, so that
	// operation i remains a function of the seed and i: now and then two writes
	// take one key, or a key is left out and keeps its older value.
	KeyLatest
	// KeyHotspot takes some keys, which are scattered, most of the time and the
	// others for the rest, both evenly.
	KeyHotspot
	// KeyExponential takes keys with a popularity that decays exponentially
	// from the first to the last. Which is which is scattered.
	KeyExponential
)

func (d KeyDist) String() string {
	switch d.Kind {
	case KeyZipf:
		return fmt.Sprintf("zipf(%g)", d.Theta)
	case KeySequential:
		return "sequential"
	case KeyLatest:
		return fmt.Sprintf("latest(%g)", d.Theta)
	case KeyHotspot:
		return fmt.Sprintf("hotspot(%g,%g)", 100*d.Ops, 100*d.Keys)
	case KeyExponential:
		return fmt.Sprintf("exponential(%g)", d.Decay)
	}
	return "uniform"
}

// ParseKeyDist reads what String writes; a name alone has usual parameters.
func ParseKeyDist(s string) (KeyDist, error) {
	name, args, called := cutCall(s)
	if !called {
		usual := map[string]KeyDist{
			"": {}, "uniform": {}, "sequential": {Kind: KeySequential},
			"zipf": {Kind: KeyZipf, Theta: 0.99}, "latest": {Kind: KeyLatest, Theta: 0.99},
			"hotspot": {Kind: KeyHotspot, Ops: 0.8, Keys: 0.2}, "exponential": {Kind: KeyExponential, Decay: 5},
		}
		if d, known := usual[name]; known {
			return d, nil
		}
	}
	var numbers []float64
	for part := range strings.SplitSeq(args, ",") {
		v, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(part), "%"), 64)
		if err != nil || !(v >= 0) || v > 100 {
			v = -1
		}
		numbers = append(numbers, v)
	}
	first := numbers[0]
	one := called && len(numbers) == 1 && first >= 0
	switch {
	case name == "zipf" && one && first <= 10:
		return KeyDist{Kind: KeyZipf, Theta: first}, nil
	case name == "latest" && one && first <= 10:
		return KeyDist{Kind: KeyLatest, Theta: first}, nil
	case name == "exponential" && one:
		return KeyDist{Kind: KeyExponential, Decay: first}, nil
	case name == "hotspot" && len(numbers) == 2 && min(first, numbers[1]) > 0:
		return KeyDist{Kind: KeyHotspot, Ops: first / 100, Keys: numbers[1] / 100}, nil
	}
	return KeyDist{}, fmt.Errorf("key distribution %q: want uniform, sequential, zipf(θ) or latest(θ) with θ from 0 to 10, "+
		"hotspot(%% of operations,%% of keys) or exponential(decay) with a decay from 0 to 100", s)
}

// keys draws keys, as numbers below n.
type keys struct {
	KeyDist
	n       uint64
	zipf    zipf
	scatter scatter
	hot     uint64  // KeyHotspot: number of hot keys
	decay   float64 // KeyExponential: 1 - e^-Decay, what is drawn from
	written float64 // KeyLatest: writes for each operation
}

// newKeys prepares a distribution over n keys, n > 0. written is the share of
// operations that write a value.
func newKeys(d KeyDist, n uint64, written float64) keys {
	k := keys{KeyDist: d, n: n, scatter: newScatter(n), written: written}
	switch d.Kind {
	case KeyZipf, KeyLatest:
		k.zipf = newZipf(n, d.Theta)
	case KeyHotspot:
		k.hot = min(max(uint64(math.Round(d.Keys*float64(n))), 1), n)
	case KeyExponential:
		k.decay = -math.Expm1(-d.Decay)
	}
	return k
}

// of is the key of operation i.
func (k *keys) of(i uint64, write bool, rng *random) uint64 {
	switch k.Kind {
	case KeyZipf:
		return k.scatter.place(k.zipf.rank(rng) - 1)
	case KeySequential:
		return i % k.n
	case KeyLatest:
		head := uint64(float64(i) * k.written)
		if write {
			return head % k.n
		}
		return (head%k.n + k.n - (k.zipf.rank(rng) - 1)) % k.n
	case KeyHotspot:
		if k.hot == k.n || rng.float() < k.Ops {
			return k.scatter.place(rng.below(k.hot))
		}
		return k.scatter.place(k.hot + rng.below(k.n-k.hot))
	case KeyExponential:
		x := rng.float() // how far down the key space, 0 to 1
		if k.decay > 0 {
			x = -math.Log1p(-x*k.decay) / k.Decay
		}
		return k.scatter.place(min(uint64(x*float64(k.n)), k.n-1))
	}
	return rng.below(k.n)
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

// keyTable is the largest key space whose names are made in advance. Larger
// ones cost an allocation for each operation.
const keyTable = 1 << 20

// keyNames is the names of keys: a prefix and a number. Those made in advance lie
// one behind the other, so that where a name is follows from its length: a table
// of them would be one more place in memory to wait for, with each operation.
type keyNames struct {
	prefix string
	text   string    // empty: they are made when asked for
	groups []nameRun // by the number of digits
}

// nameRun is the names with one number of digits.
type nameRun struct {
	first uint64 // the least of their numbers
	at    int    // where its name begins
	long  int    // how long each of them is
}

// newKeyNames makes the names of the keys 0 to n-1.
func newKeyNames(prefix string, n uint64) keyNames {
	names := keyNames{prefix: prefix}
	if n > keyTable {
		return names
	}
	var text []byte
	for i, next := uint64(0), uint64(0); i < n; i++ {
		begin := len(text)
		text = strconv.AppendUint(append(text, prefix...), i, 10)
		if i == next {
			names.groups = append(names.groups, nameRun{i, begin, len(text) - begin})
			next = max(10, 10*i)
		}
	}
	names.text = string(text)
	return names
}

func (k *keyNames) of(i uint64) string {
	if k.text == "" {
		return string(strconv.AppendUint(append(make([]byte, 0, len(k.prefix)+20), k.prefix...), i, 10))
	}
	g := len(k.groups) - 1
	for i < k.groups[g].first {
		g--
	}
	run := &k.groups[g]
	at := run.at + int(i-run.first)*run.long
	return k.text[at : at+run.long]
}

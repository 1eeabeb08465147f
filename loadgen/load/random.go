package load

import (
	"math"
	"math/bits"
)

// random is a splitmix64 generator. It is small enough to be made anew for each
// operation, which is what lets operation i be a function of (seed, i) alone:
// no state is shared between streams, and a run can be split or resumed
// anywhere without changing what it does.
type random struct{ state uint64 }

// Streams of randomness that must not be correlated.
const (
	scheduleStream = 1 + iota
	operationStream
	valueStream
	turnStream
)

const golden = 0x9e3779b97f4a7c15

func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

func newRandom(seed, stream uint64) random {
	return random{mix(seed+golden) ^ mix(stream*golden)}
}

// at is the generator of operation i.
func (r random) at(i uint64) random { return random{mix(r.state + golden*(i+1))} }

func (r *random) uint64() uint64 {
	r.state += golden
	return mix(r.state)
}

// float is in [0, 1).
func (r *random) float() float64 { return float64(r.uint64()>>11) / (1 << 53) }

// normal has mean 0 and standard deviation 1 (Box and Muller).
func (r *random) normal() float64 {
	return math.Sqrt(-2*math.Log(1-r.float())) * math.Cos(2*math.Pi*r.float())
}

// below is in [0, n), n > 0. The bias is below n/2^64.
func (r *random) below(n uint64) uint64 {
	hi, _ := bits.Mul64(r.uint64(), n)
	return hi
}

// Package load offers operations to a target at the times a plan intends them,
// whatever the target does, and measures what came of each.
//
// A [Schedule] says when, a [Source] says what, a [Target] is where to, a
// [Recorder] keeps the numbers, a [Generator] does it. What the numbers mean is
// in ../DESIGN.md.
package load

import (
	"fmt"
	"iter"
	"math"
	"time"
)

// Schedule is a plan of intended times. It is a pure function: it neither
// sleeps nor looks at a clock.
type Schedule interface {
	// Times yields the intended times since the start of the load, never
	// decreasing, without end. The same seed yields the same times.
	Times(seed uint64) iter.Seq[time.Duration]
	// Rate is the mean number of operations per second.
	Rate() float64
	// String is the schedule as ParseSchedule reads it.
	String() string
}

// Constant intends an operation every 1/PerSecond, the first one at 0.
type Constant struct{ PerSecond float64 }

func (c Constant) Rate() float64  { return c.PerSecond }
func (c Constant) String() string { return fmt.Sprintf("constant(%g/s)", c.PerSecond) }

func (c Constant) Times(uint64) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		gap := float64(time.Second) / c.PerSecond
		// Each time is a product, not a sum: errors do not add up.
		for i := 0.0; yield(time.Duration(i * gap)); i++ {
		}
	}
}

// Poisson intends operations independently of each other, as many unrelated
// users would: the gaps are exponential with mean 1/PerSecond.
type Poisson struct{ PerSecond float64 }

func (p Poisson) Rate() float64  { return p.PerSecond }
func (p Poisson) String() string { return fmt.Sprintf("poisson(%g/s)", p.PerSecond) }

func (p Poisson) Times(seed uint64) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		mean := float64(time.Second) / p.PerSecond
		rng := newRandom(seed, scheduleStream)
		t := 0.0 // nanoseconds; exact to 1 ns for three months
		for {
			t -= mean * math.Log(1-rng.float())
			if !yield(time.Duration(t)) {
				return
			}
		}
	}
}

// ParseSchedule reads "constant" or "poisson", with the rate beside it.
func ParseSchedule(name string, perSecond float64) (Schedule, error) {
	if !(perSecond > 0) || math.IsInf(perSecond, 1) {
		return nil, fmt.Errorf("rate %g/s: want more than 0", perSecond)
	}
	switch name {
	case "constant", "":
		return Constant{perSecond}, nil
	case "poisson":
		return Poisson{perSecond}, nil
	}
	return nil, fmt.Errorf("schedule %q: want constant or poisson", name)
}

// Package load offers operations to a target at the times a plan intends them,
// whatever the target does, and measures what came of each.
//
// A [Schedule] says when, a [Source] says what, a [Target] is where to, a
// [Recorder] keeps the numbers, a [Generator] does it. What the numbers mean is
// in ../DESIGN.md.
package load

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"
	"time"
)

// Schedule is a plan of intended times. It is a pure function: it neither
// sleeps nor looks at a clock.
type Schedule interface {
	// Times yields the intended times since the start of the load, never
	// decreasing: all of those below Span, or without end if Span is 0. The
	// same seed yields the same times.
	Times(seed uint64) iter.Seq[time.Duration]
	// Span is how long the plan lasts; 0 is without end.
	Span() time.Duration
	// Rate is the mean number of operations per second.
	Rate() float64
	// String is the schedule as ParseSchedule reads it.
	String() string
}

// Constant intends an operation every 1/PerSecond, the first one at 0.
type Constant struct{ PerSecond float64 }

func (c Constant) Rate() float64       { return c.PerSecond }
func (c Constant) Span() time.Duration { return 0 }
func (c Constant) String() string      { return fmt.Sprintf("constant(%s)", rateText(c.PerSecond)) }

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

func (p Poisson) Rate() float64       { return p.PerSecond }
func (p Poisson) Span() time.Duration { return 0 }
func (p Poisson) String() string      { return fmt.Sprintf("poisson(%s)", rateText(p.PerSecond)) }

func (p Poisson) Times(seed uint64) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		mean := float64(time.Second) / p.PerSecond
		for x := range marks(seed, true) { // nanoseconds; exact to 1 ns for three months
			if !yield(time.Duration(x * mean)) {
				return
			}
		}
	}
}

// marks yields the points of a process of rate 1: 0, 1, 2 … or, at random,
// points with exponential gaps. A schedule whose rate changes is such a process
// on a time axis that its cumulative rate bends: exact for both, and for any
// rate.
func marks(seed uint64, random bool) iter.Seq[float64] {
	return func(yield func(float64) bool) {
		rng := newRandom(seed, scheduleStream)
		x, even := 0.0, 1.0
		if random {
			even = 0
		}
		for ; ; x += even {
			if random {
				x -= math.Log(1 - rng.float())
			}
			if !yield(x) {
				return
			}
		}
	}
}

// warmup is the load before a schedule begins: the same rate on average,
// without its shape. seed differs from the schedule's own, or the same gaps
// would come twice.
func warmup(s Schedule, seed uint64) iter.Seq[time.Duration] {
	if p, ok := s.(Poisson); ok {
		return p.Times(^seed)
	}
	return Constant{s.Rate()}.Times(seed)
}

// ParseSchedule reads what the String methods of schedules write:
//
//	constant, poisson                  at the rate given beside it
//	constant(5k/s), poisson(5k/s)      at their own
//	stages(10s:20k, 20s:20k:step)      see [Stages]; begins at the rate given beside it
//	burst(1s:20k, 4s:500)              see [Burst]
//	poisson stages(…), poisson burst(…)
//	replay(FILE)                       see [ReadReplay]
//
// perSecond 0 means that no rate is given beside it.
func ParseSchedule(text string, perSecond float64) (Schedule, error) {
	if perSecond < 0 || math.IsInf(perSecond, 1) || math.IsNaN(perSecond) {
		return nil, fmt.Errorf("rate %g/s: want more than 0", perSecond)
	}
	rest, random := strings.CutPrefix(text, "poisson ")
	name, args, called := cutCall(strings.TrimSpace(rest))
	switch {
	case !called && !random && (name == "constant" || name == "poisson" || name == ""):
		return steady(name, perSecond)
	case called && !random && (name == "constant" || name == "poisson"):
		if perSecond > 0 {
			return nil, fmt.Errorf("schedule %q: there is a rate of %s beside it; want only one of the two", text, rateText(perSecond))
		}
		rate, err := ParseRate(args)
		if err != nil {
			return nil, fmt.Errorf("schedule %q: %w", text, err)
		}
		return steady(name, rate)
	case called && name == "stages":
		return parseStages(text, args, perSecond, random)
	case called && name == "burst":
		if perSecond > 0 {
			return nil, fmt.Errorf("schedule %q: has rates of its own; want none beside it", text)
		}
		return parseBurst(text, args, random)
	case called && name == "replay" && !random:
		if perSecond > 0 {
			return nil, fmt.Errorf("schedule %q: has a rate of its own; want none beside it", text)
		}
		return openReplay(args)
	}
	return nil, fmt.Errorf("schedule %q: want constant, poisson, stages(10s:20k,…), burst(1s:20k,4s:500) or replay(FILE)", text)
}

func steady(name string, perSecond float64) (Schedule, error) {
	if perSecond <= 0 {
		return nil, errors.New("rate 0/s: want more than 0")
	}
	if name == "poisson" {
		return Poisson{perSecond}, nil
	}
	return Constant{perSecond}, nil
}

// cutCall takes "name(args)" apart; called is false if it is a name alone.
func cutCall(s string) (name, args string, called bool) {
	name, rest, open := strings.Cut(s, "(")
	args, closed := strings.CutSuffix(rest, ")")
	if !open || !closed {
		return s, "", false
	}
	return strings.TrimSpace(name), strings.TrimSpace(args), true
}

// rateText writes a rate as ParseRate reads it.
func rateText(perSecond float64) string {
	return strconv.FormatFloat(perSecond, 'g', -1, 64) + "/s"
}

// leastPerSecond keeps the gaps of a schedule within what a time.Duration holds.
const leastPerSecond = 1e-3

// ParseRate reads operations per second: 500, 20k, 2.5k/s.
func ParseRate(s string) (float64, error) {
	number, factor := strings.TrimSuffix(strings.TrimSpace(s), "/s"), 1.0
	if n, ok := strings.CutSuffix(number, "k"); ok {
		number, factor = n, 1e3
	} else if n, ok := strings.CutSuffix(number, "M"); ok {
		number, factor = n, 1e6
	}
	v, err := strconv.ParseFloat(number, 64)
	if v *= factor; err != nil || v != 0 && !(v >= leastPerSecond && v <= 1e9) {
		return 0, fmt.Errorf("rate %q: want operations per second, such as 500 or 20k, from %g to 1e9, or 0", s, leastPerSecond)
	}
	return v, nil
}

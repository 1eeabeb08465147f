package load

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// Search finds the highest offered rate at which some limits hold. From Start
// on the rate grows by half until it does not hold, then the gap is halved until
// it is within Within. At last the rate that did not hold is tried again: a
// machine that was disturbed for some seconds makes any rate break, and none
// hold; if it holds now, the search goes on from there. Only Try is required.
type Search struct {
	// Try offers a rate once. An error ends the search. A rate and repeat, which
	// counts from 0, come once together.
	Try func(ctx context.Context, rate float64, repeat int) (result.SaturationTrial, error)
	// Start is the first rate; 0 is 1000/s.
	Start float64
	// Most ends the search when it held; 0 is ten million per second.
	Most float64
	// Within is how close the answer is to the lowest rate that did not hold; 0
	// is 0.03.
	Within float64
	// Repeats is how often each rate is tried; most tries decide. 0 is 3. A try
	// in which the generator was late says nothing about the target: up to half
	// as many again take the place of such ones.
	Repeats int
}

// leastRate is where a search that goes down gives up.
const leastRate = 1

// rampFactor is by how much the rate grows at a time, and shrinks if not even
// the first one holds.
const rampFactor = 1.5

// secondLooks bounds how often a search goes on because a rate that did not hold
// does so at its end.
const secondLooks = 2

// Run carries out the search. What was found until an error is in the result.
// The rate that the generator itself cannot offer ends the search like one that
// the target does not bear, and Ended says so.
func (s Search) Run(ctx context.Context) (*result.Saturation, error) {
	if s.Start <= 0 {
		s.Start = 1000
	}
	if s.Most <= 0 {
		s.Most = 1e7
	}
	if s.Within <= 0 {
		s.Within = 0.03
	}
	if s.Repeats <= 0 {
		s.Repeats = 3
	}
	found := &result.Saturation{}
	limited := false // the generator was the limit of the step that did not hold
	step := func(rate float64) (bool, error) {
		// Whole numbers, so that a rate that is come to by another way is the same:
		// two that differ in a digit nobody sees had one name, and their sums one row.
		if rate >= 100 {
			rate = math.Round(rate)
		}
		st, err := s.step(ctx, rate, triesOf(found, rate))
		if len(st.Trials) > 0 {
			found.Steps = append(found.Steps, st)
		}
		if err != nil {
			return false, err
		}
		if st.Held {
			found.Rate = max(found.Rate, rate)
		} else {
			found.Broken, limited = rate, s.limited(st)
		}
		return st.Held, nil
	}
	err := s.bracket(found, s.Start, step)
	for looks := 0; err == nil && found.Rate > 0 && found.Broken > 0; {
		if found.Broken > found.Rate*(1+s.Within) {
			_, err = step(math.Sqrt(found.Rate * found.Broken))
			continue
		}
		if looks++; looks > secondLooks {
			break
		}
		var held bool
		if held, err = step(found.Broken); !held {
			break
		}
		// Whatever else broke at that time may hold as well.
		if found.Broken = 0; err == nil && found.Rate < s.Most {
			err = s.bracket(found, found.Rate*rampFactor, step)
		}
	}
	switch {
	case err != nil:
		found.Ended = err.Error()
	case found.Rate == 0 && limited:
		found.Ended = "no rate held: the generator was the limit"
	case found.Rate == 0:
		found.Ended = "no rate held"
	case found.Broken == 0:
		found.Ended = fmt.Sprintf("%.0f/s held, which is as far as it was to go", found.Rate)
	case limited:
		found.Ended = "the generator was the limit: the target may bear more"
	}
	return found, err
}

// bracket finds a rate that holds and one that does not, by steps of a factor.
func (s Search) bracket(found *result.Saturation, start float64, step func(float64) (bool, error)) error {
	for rate := min(start, s.Most); ; {
		held, err := step(rate)
		switch {
		case err != nil:
			return err
		case held && (found.Broken > 0 || rate >= s.Most):
			return nil
		case held:
			rate = min(rate*rampFactor, s.Most)
		case found.Rate > 0 || rate/rampFactor < leastRate:
			return nil
		default:
			rate /= rampFactor
		}
	}
}

// triesOf counts the tries of a rate so far.
func triesOf(found *result.Saturation, rate float64) (n int) {
	for _, st := range found.Steps {
		if st.Offered == rate {
			n += len(st.Trials)
		}
	}
	return n
}

func (s Search) step(ctx context.Context, rate float64, before int) (result.SaturationStep, error) {
	st := result.SaturationStep{Offered: rate}
	most := s.Repeats + (s.Repeats+1)/2
	for n := 0; n < most && count(st, judged) < s.Repeats; n++ {
		t, err := s.Try(ctx, rate, before+n)
		if err != nil {
			return st, err
		}
		st.Trials = append(st.Trials, t)
		if n+1 >= s.Repeats && 2*(count(st, judged)+most-n-1) <= s.Repeats {
			break // what is left cannot decide it any more
		}
	}
	held := count(st, func(t *result.SaturationTrial) bool { return t.Held })
	st.Held = !s.limited(st) && 2*held > count(st, judged)
	return st, nil
}

// limited says whether too few tries of a rate could be judged.
func (s Search) limited(st result.SaturationStep) bool { return 2*count(st, judged) <= s.Repeats }

// judged says of a try whether it shows what the target bears.
func judged(t *result.SaturationTrial) bool { return !t.Limited }

func count(st result.SaturationStep, is func(*result.SaturationTrial) bool) (n int) {
	for i := range st.Trials {
		if is(&st.Trials[i]) {
			n++
		}
	}
	return n
}

// Trial runs a generator, which must have a Phase of its own, and judges what it
// measured.
func Trial(ctx context.Context, g *Generator, limits []Threshold) (result.SaturationTrial, *Summary, error) {
	sum, err := g.Run(ctx)
	if err != nil {
		return result.SaturationTrial{}, nil, err
	}
	if sum.Aborted != nil {
		return result.SaturationTrial{}, sum, fmt.Errorf("interrupted at %.0f/s: %w", g.Schedule.Rate(), sum.Aborted)
	}
	g.Recorder.Flush()
	all := Sum(g.Recorder.Totals(func(phase, _, _ string) bool { return phase == g.Phase }))
	t := result.SaturationTrial{Phase: g.Phase, Held: true, Limited: sum.Limited}
	if t.Limited {
		t.Held, t.Reason = false, fmt.Sprintf("the generator was late by %s at p99", sum.Pacer.P99.Round(time.Microsecond))
	}
	t.NotOK = 1 - float64(all.Counts.OK)/max(float64(all.Counts.Intended), 1)
	if all.Span > 0 {
		t.Throughput = float64(all.Counts.OK) / all.Span.Seconds()
	}
	l := result.LatencyOf(all.Response)
	t.P50, t.P99, t.Max, t.LagP99 = l.P50, l.P99, l.Max, result.LatencyOf(all.Lag).P99
	for i := range limits {
		of := limits[i].sum(g.Recorder, g.Phase)
		if needs := limits[i].needs(showSamples); float64(of.Counts.Intended) < needs {
			return t, sum, fmt.Errorf("%.0f/s: %d operations cannot show %s; want at least %.0f in a try: a longer one, or a higher rate", g.Schedule.Rate(), of.Counts.Intended, limits[i].String(), needs)
		}
		j := limits[i].judge(of, Overload{sum.Limited, sum.Saturated}, showSamples)
		if j.Met || !t.Held {
			continue
		}
		t.Held, t.Reason = false, fmt.Sprintf("%s: %s", limits[i].String(), j.Got)
		if j.Doubt != "" {
			t.Reason = fmt.Sprintf("%s: %s", limits[i].String(), j.Doubt)
		}
	}
	return t, sum, nil
}

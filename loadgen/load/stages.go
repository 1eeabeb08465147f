package load

import (
	"fmt"
	"iter"
	"math"
	"strings"
	"time"
)

// Shape is how a [Stage] gets to its rate.
type Shape uint8

const (
	// ShapeLinear changes the rate evenly over the whole stage. It is the zero
	// value.
	ShapeLinear Shape = iota
	// ShapeStep has the new rate from the beginning of the stage.
	ShapeStep
	// ShapeSine changes the rate slowly at both ends, along half a cosine.
	ShapeSine
)

var shapeNames = [...]string{"linear", "step", "sine"}

func (s Shape) String() string { return shapeNames[s] }

// Stage is one part of [Stages].
type Stage struct {
	// To is the rate at the end of the stage, operations per second, 0 or more.
	To float64
	// Over is how long it lasts, more than 0.
	Over time.Duration
	// Shape is how the rate gets there from that of the stage before.
	Shape Shape
}

// Stages is a rate that changes in stages, and ends after the last one.
type Stages struct {
	// From is the rate at which the first stage begins.
	From  float64
	Steps []Stage
	// Random arrivals are those of a Poisson process with that rate; otherwise
	// the gaps are as even as the rate lets them be.
	Random bool
}

func (s Stages) String() string {
	var parts []string
	if s.From > 0 {
		parts = append(parts, "from:"+rateText(s.From))
	}
	for _, st := range s.Steps {
		part := fmt.Sprintf("%s:%s", st.Over, rateText(st.To))
		if st.Shape != ShapeLinear {
			part += ":" + st.Shape.String()
		}
		parts = append(parts, part)
	}
	return arrivals(s.Random) + "stages(" + strings.Join(parts, ",") + ")"
}

// arrivals is what precedes the name of a schedule with random arrivals.
func arrivals(random bool) string {
	if random {
		return "poisson "
	}
	return ""
}

func (s Stages) Span() time.Duration {
	var sum time.Duration
	for _, st := range s.Steps {
		sum += st.Over
	}
	return sum
}

func (s Stages) Rate() float64 {
	sum, from := 0.0, s.From
	for _, st := range s.Steps {
		sum += st.count(from, 1)
		from = st.To
	}
	return sum / s.Span().Seconds()
}

func (s Stages) Times(seed uint64) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		var (
			step    int
			from    = s.From
			begin   time.Duration // of the stage
			before  float64       // marks before it
			through = s.Steps[0].count(from, 1)
		)
		for x := range marks(seed, s.Random) {
			for x-before >= through {
				before += through
				begin += s.Steps[step].Over
				from = s.Steps[step].To
				if step++; step == len(s.Steps) {
					return
				}
				through = s.Steps[step].count(from, 1)
			}
			st := s.Steps[step]
			u := min(st.when(from, x-before), 1)
			// At the very end rounding must not reach what belongs to the next stage.
			at := begin + min(time.Duration(u*float64(st.Over)), st.Over-1)
			if !yield(at) {
				return
			}
		}
	}
}

// count is the number of operations in the first part u of the stage, 0 to 1.
func (st Stage) count(from, u float64) float64 {
	seconds, rise := st.Over.Seconds(), st.To-from
	switch st.Shape {
	case ShapeStep:
		return seconds * st.To * u
	case ShapeSine:
		return seconds * (from*u + rise*(u/2-math.Sin(math.Pi*u)/(2*math.Pi)))
	}
	return seconds * (from*u + rise*u*u/2)
}

// when is the inverse of count: the part of the stage after which count has
// reached x. x is below count(from, 1).
func (st Stage) when(from, x float64) float64 {
	seconds, rise := st.Over.Seconds(), st.To-from
	switch {
	case x <= 0:
		return 0
	case st.Shape == ShapeStep:
		return x / (seconds * st.To)
	case st.Shape == ShapeLinear:
		// The root of the quadratic in the form that does not subtract.
		y := x / seconds
		return 2 * y / (from + math.Sqrt(max(from*from+2*rise*y, 0)))
	}
	// Newton's method, kept between bounds that close in.
	lo, hi := 0.0, 1.0
	u := x / st.count(from, 1)
	for range 64 {
		off := st.count(from, u) - x
		if math.Abs(off) < 1e-9 {
			break
		}
		if off > 0 {
			hi = u
		} else {
			lo = u
		}
		rate := seconds * (from + rise*(1-math.Cos(math.Pi*u))/2)
		next := u - off/rate
		if !(next > lo && next < hi) {
			next = (lo + hi) / 2
		}
		u = next
	}
	return u
}

// maxStages bounds a plan; what changes more often is a file to replay.
const maxStages = 1000

// parseStages reads "10s:20k,20s:20k:step": how long, to which rate, and how.
// The first part may be "from:500".
func parseStages(text, args string, from float64, random bool) (Schedule, error) {
	s := Stages{From: from, Random: random}
	for i, part := range strings.Split(args, ",") {
		part = strings.TrimSpace(part)
		if first, ok := strings.CutPrefix(part, "from:"); ok && i == 0 {
			if from > 0 {
				return nil, fmt.Errorf("schedule %q: the rate of %s beside it says the same as from:; want only one of the two", text, rateText(from))
			}
			var err error
			if s.From, err = ParseRate(first); err != nil {
				return nil, fmt.Errorf("schedule %q: %w", text, err)
			}
			continue
		}
		st, err := parseStage(part)
		if err != nil {
			return nil, fmt.Errorf("schedule %q: %w", text, err)
		}
		s.Steps = append(s.Steps, st)
	}
	if len(s.Steps) > maxStages {
		return nil, fmt.Errorf("schedule %q: %d stages; want at most %d", text[:20], len(s.Steps), maxStages)
	}
	if len(s.Steps) == 0 || s.Rate() == 0 {
		return nil, fmt.Errorf("schedule %q: offers nothing; want a stage with a rate above 0", text)
	}
	return s, nil
}

// parseStage reads "10s:20k" or "10s:20k:step".
func parseStage(s string) (Stage, error) {
	part, shape := s, ShapeLinear
	for i, name := range shapeNames {
		if rest, ok := strings.CutSuffix(s, ":"+name); ok {
			part, shape = rest, Shape(i)
		}
	}
	over, to, err := parsePart(part)
	if err != nil {
		return Stage{}, fmt.Errorf("stage %q: want DURATION:RATE, or with :step or :sine after it: %w", s, err)
	}
	return Stage{To: to, Over: over, Shape: shape}, nil
}

// longestPart bounds a stage, so that no plan is longer than a time.Duration.
const longestPart = 1000 * time.Hour

// parsePart reads "10s:20k".
func parsePart(s string) (time.Duration, float64, error) {
	long, rate, _ := strings.Cut(s, ":")
	d, err := time.ParseDuration(long)
	if err != nil || d <= 0 || d > longestPart {
		return 0, 0, fmt.Errorf("%q: want a duration above 0, of at most %s", long, longestPart)
	}
	perSecond, err := ParseRate(rate)
	return d, perSecond, err
}

// Burst is a rate that is High for On, then Low for Off, and so on without end.
type Burst struct {
	High float64
	On   time.Duration
	Low  float64 // may be 0
	Off  time.Duration
	// Random is as in [Stages].
	Random bool
}

func (b Burst) String() string {
	return fmt.Sprintf("%sburst(%s:%s,%s:%s)", arrivals(b.Random), b.On, rateText(b.High), b.Off, rateText(b.Low))
}

func (b Burst) Span() time.Duration { return 0 }

func (b Burst) Rate() float64 {
	return (b.High*b.On.Seconds() + b.Low*b.Off.Seconds()) / (b.On + b.Off).Seconds()
}

func (b Burst) Times(seed uint64) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		on := b.High * b.On.Seconds()
		both := on + b.Low*b.Off.Seconds()
		for x := range marks(seed, b.Random) {
			rounds := math.Floor(x / both)
			at := time.Duration(rounds) * (b.On + b.Off)
			switch rest := x - rounds*both; {
			case rest < on:
				at += time.Duration(rest / b.High * float64(time.Second))
			case b.Low > 0:
				at += b.On + time.Duration((rest-on)/b.Low*float64(time.Second))
			default: // rounding: it is the first of the next round
				at += b.On + b.Off
			}
			if !yield(at) {
				return
			}
		}
	}
}

func parseBurst(text, args string, random bool) (Schedule, error) {
	high, low, two := strings.Cut(args, ",")
	b := Burst{Random: random}
	var err1, err2 error
	b.On, b.High, err1 = parsePart(strings.TrimSpace(high))
	b.Off, b.Low, err2 = parsePart(strings.TrimSpace(low))
	if !two || err1 != nil || err2 != nil || b.High == 0 {
		return nil, fmt.Errorf("schedule %q: want burst(ON:RATE,OFF:RATE), such as burst(1s:20k,4s:500), the first rate above 0", text)
	}
	return b, nil
}

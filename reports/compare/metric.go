package compare

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// Unit says what the values of a metric are, for whoever prints them.
type Unit string

const (
	Duration Unit = "ns"  // nanoseconds
	Rate     Unit = "/s"  // per second
	PerCPU   Unit = "/cs" // per second of processor time
)

// Metric is one number of a run that can be set against the same number of another run.
type Metric struct {
	Name  string // "fixed rate insert quorum p99", unique in a run
	Unit  Unit
	Phase string // of the load it was measured in; empty: of no load
	// HigherBetter says that a loss is a smaller value.
	HigherBetter bool
	// Limit is the largest loss that may pass, as a share of the base: 0.05 allows a latency of 105 % and a rate of 95 %. 0: the
	// metric is shown and never judged.
	Limit float64
	// Floor is the least difference that matters whatever its share, in the metric's unit.
	Floor float64
}

// Limits of the gate. Shares are what a change has to exceed beyond doubt; floors keep a tenth of next to nothing from
// failing a change.
const (
	limitP50, floorP50           = 0.05, float64(50 * time.Microsecond)
	limitP99, floorP99           = 0.10, float64(200 * time.Microsecond)
	limitThroughput              = 0.05
	limitFailover, floorFailover = 0.20, float64(2 * time.Millisecond)
)

// loss is how much worse head is than base, as the logarithm of a ratio: 0 equal, above it worse.
func (m Metric) loss(base, head float64) float64 {
	if m.HigherBetter {
		return math.Log(base / head)
	}
	return math.Log(head / base)
}

// margin is Limit on the scale of loss.
func (m Metric) margin() float64 {
	if m.HigherBetter {
		return -math.Log1p(-m.Limit)
	}
	return math.Log1p(m.Limit)
}

// share turns a loss into the change of the value: 0.1 is a tenth more, -0.1 a tenth less.
func (m Metric) share(loss float64) float64 {
	if m.HigherBetter {
		return math.Expm1(-loss)
	}
	return math.Expm1(loss)
}

// Measurement is a metric and its value in one run.
type Measurement struct {
	Metric
	Value float64 // above 0
	// Limited: the generator was the limit, so that the value says nothing of the target.
	Limited bool
}

// warmUp are the phases in which nothing is measured.
var warmUp = []string{"warm-up", "fill"}

// Measure returns what can be compared of a run, in the order of the run. A percentile is judged only with a hundred samples
// beyond it; with ten it is shown.
func Measure(r *result.Run) []Measurement {
	if sat := r.Saturation; sat != nil { // its phases are tries, of which some are too much on purpose
		if sat.Rate == 0 {
			return nil
		}
		return []Measurement{{Metric{Name: "highest rate that holds", Unit: Rate, HigherBetter: true}, sat.Rate, false}}
	}
	var ms []Measurement
	for i := range r.Series {
		s := &r.Series[i]
		if s.Closed || slices.Contains(warmUp, s.Phase) {
			continue
		}
		for _, q := range []struct {
			name         string
			value        time.Duration
			at           float64
			limit, floor float64
		}{
			{"p50", s.Response.P50, 0.5, limitP50, floorP50},
			{"p99", s.Response.P99, 0.99, limitP99, floorP99},
			{"p99.9", s.Response.P999, 0.999, 0, 0},
		} {
			if q.value <= 0 {
				continue
			}
			m := Metric{Name: s.ID() + " " + q.name, Unit: Duration, Phase: s.Phase, Limit: q.limit, Floor: q.floor}
			if float64(s.Response.Count)*(1-q.at) < 100-1e-6 || r.Kind == result.KindScenario { // under faults it depends on their phase
				m.Limit = 0
			}
			ms = append(ms, Measurement{m, float64(q.value), s.Limited})
		}
	}
	ms = append(ms, throughputs(r)...)
	for _, c := range r.Costs {
		if c.Ops > 0 && c.CPU > 0 {
			m := Metric{Name: cmp.Or(c.Phase, "load") + " operations per CPU second", Unit: PerCPU, Phase: c.Phase, HigherBetter: true, Limit: limitThroughput}
			if closedPhase(r, c.Phase) {
				m.Limit = 0 // it moves with how much is packed together, and the throughput says it already
			}
			ms = append(ms, Measurement{m, float64(c.Ops) / c.CPU.Seconds(), false}) // true whoever was late
		}
	}
	if gap := failoverGap(r); gap > 0 {
		ms = append(ms, Measurement{Metric{Name: "failover median", Unit: Duration, Limit: limitFailover, Floor: floorFailover}, gap, false})
	}
	return ms
}

// throughputs is what closed loops got through in each phase, all operations together: one that does fewer reads for more
// writes is not faster.
func throughputs(r *result.Run) []Measurement {
	var ms []Measurement
	for i := range r.Series {
		s := &r.Series[i]
		if !s.Closed || s.Throughput <= 0 || slices.Contains(warmUp, s.Phase) {
			continue
		}
		name := cmp.Or(s.Phase, "load") + " throughput"
		if at := slices.IndexFunc(ms, func(m Measurement) bool { return m.Name == name }); at >= 0 {
			ms[at].Value += s.Throughput
			continue
		}
		m := Metric{Name: name, Unit: Rate, Phase: s.Phase, HigherBetter: true, Limit: limitThroughput}
		ms = append(ms, Measurement{m, s.Throughput, s.Limited})
	}
	return ms
}

func closedPhase(r *result.Run, phase string) bool {
	return slices.ContainsFunc(r.Series, func(s result.Series) bool { return s.Phase == phase && s.Closed })
}

// failoverGap is the median over the failovers of r of how long quorum writes stopped, in nanoseconds; 0 without one.
func failoverGap(r *result.Run) float64 {
	var gaps []float64
	for _, f := range r.Failovers {
		for _, l := range f.Levels {
			if l.Level == "quorum" && l.Gap > 0 {
				gaps = append(gaps, float64(l.Gap))
			}
		}
	}
	if len(gaps) == 0 {
		return 0
	}
	return Median(gaps)
}

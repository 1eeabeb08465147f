package render

import (
	"math"
	"strconv"
	"time"

	"gonum.org/v1/plot"
)

// logScale is a logarithmic axis that cannot panic: what is not above zero lies on its lower end, as does everything
// below it. (plot.LogScale panics instead, and a latency of zero means no more than "nothing was measured".)
type logScale struct{}

func (logScale) Normalize(lo, hi, x float64) float64 {
	if !(lo > 0) || !(hi > lo) || math.IsInf(hi, 1) || !(x > lo) {
		return 0
	}
	return math.Min(1, (math.Log(x)-math.Log(lo))/(math.Log(hi)-math.Log(lo)))
}

// logRange is the range of a logarithmic axis that shows every value above zero, a little more than they need, and at
// least a factor of ten. ok is false if there is no such value.
func logRange(values func(yield func(float64) bool)) (lo, hi float64, ok bool) {
	lo, hi = math.Inf(1), 0
	for v := range values {
		if v > 0 && !math.IsInf(v, 1) {
			lo, hi = math.Min(lo, v), math.Max(hi, v)
		}
	}
	if hi == 0 {
		return 1, 10, false
	}
	lo, hi = lo/1.25, hi*1.25
	if hi/lo < 10 {
		middle := math.Sqrt(lo) * math.Sqrt(hi)
		lo, hi = middle/math.Sqrt(10), middle*math.Sqrt(10)
	}
	return lo, hi, true
}

// latencyTicks marks a logarithmic axis of nanoseconds: powers of ten, and 2 and 5 between them when there is room.
type latencyTicks struct{}

func (latencyTicks) Ticks(lo, hi float64) []plot.Tick {
	var ticks []plot.Tick
	decades := math.Log10(hi / lo)
	for e := math.Floor(math.Log10(lo)); e <= math.Log10(hi); e++ {
		for m := 1.0; m < 10; m++ {
			t := plot.Tick{Value: m * math.Pow(10, e)}
			if t.Value < lo*(1-1e-9) || t.Value > hi*(1+1e-9) {
				continue
			}
			if m == 1 || decades < 1.7 && (m == 2 || m == 5) {
				t.Label = tickDuration(t.Value)
			}
			ticks = append(ticks, t)
		}
	}
	return ticks
}

func tickDuration(ns float64) string {
	d := time.Duration(math.Round(ns))
	unit, name := time.Nanosecond, " ns"
	switch {
	case d >= time.Second:
		unit, name = time.Second, " s"
	case d >= time.Millisecond:
		unit, name = time.Millisecond, " ms"
	case d >= time.Microsecond:
		unit, name = time.Microsecond, " µs"
	}
	return strconv.FormatFloat(float64(d)/float64(unit), 'f', -1, 64) + name
}

// evenTicks marks a linear axis at about count round values.
type evenTicks struct {
	count int
	label func(v, step float64) string
	unit  float64 // what is counted in round numbers; 0: one
}

func (t evenTicks) Ticks(lo, hi float64) []plot.Tick {
	unit := 1.0
	if t.unit > 0 {
		unit = t.unit
	}
	step := unit * roundStep((hi-lo)/float64(t.count)/unit)
	if !(step > 0) || math.IsInf(step, 0) {
		return nil
	}
	var ticks []plot.Tick
	for i := math.Ceil(lo/step - 1e-9); i*step <= hi+step*1e-9 && len(ticks) < 100; i++ {
		v := i*step + 0 // not -0
		ticks = append(ticks, plot.Tick{Value: v, Label: t.label(v, step)})
	}
	return ticks
}

// roundStep is the smallest of 1, 2 and 5 times a power of ten that is not below step.
func roundStep(step float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(step)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= step*(1-1e-9) {
			return m * power
		}
	}
	return 10 * power
}

// secondsLabel names a time in seconds with the decimals its step needs.
func secondsLabel(v, step float64) string {
	decimals := max(0, int(math.Ceil(-math.Log10(step)-1e-9)))
	return strconv.FormatFloat(v, 'f', decimals, 64) + " s"
}

// amountLabel names a plain number: 0, 0.5, 500, 5k, 2M.
func amountLabel(v, step float64) string {
	for _, unit := range []struct {
		size float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if math.Abs(v) >= unit.size {
			return strconv.FormatFloat(math.Round(v/step)*step/unit.size, 'g', 6, 64) + unit.name
		}
	}
	decimals := max(0, int(math.Ceil(-math.Log10(step)-1e-9)))
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

func percentLabel(v, step float64) string { return amountLabel(v*100, step*100) + " %" }

func bytesLabel(v, _ float64) string {
	if v == 0 {
		return "0"
	}
	return formatBytes(int64(v))
}

// tailScale lays quantiles out by 1/(1-q), so that each further nine gets the same room.
type tailScale struct{}

func (tailScale) Normalize(lo, hi, q float64) float64 {
	nines := func(q float64) float64 { return -math.Log10(math.Max(1-q, 1e-12)) }
	return (nines(q) - nines(lo)) / (nines(hi) - nines(lo))
}

// tailTicks marks 50, 90, 99, 99.9 % and so on.
type tailTicks struct{}

func (tailTicks) Ticks(_, hi float64) []plot.Tick {
	ticks := []plot.Tick{{Value: 0.5, Label: "50 %"}}
	for nines := 1; nines <= 9; nines++ {
		tail := math.Pow(10, -float64(nines))
		if 1-tail > hi+tail/100 {
			break
		}
		ticks = append(ticks, plot.Tick{Value: 1 - tail, Label: strconv.FormatFloat(100-100*tail, 'f', max(0, nines-2), 64) + " %"})
	}
	return ticks
}

// rowNames marks a vertical axis with the names of its rows.
type rowNames []rowName

type rowName struct {
	at   float64
	name string
}

func (r rowNames) Ticks(_, _ float64) []plot.Tick {
	ticks := make([]plot.Tick, len(r))
	for i, n := range r {
		ticks[i] = plot.Tick{Value: n.at, Label: n.name}
		if n.name == "" {
			ticks[i].Label = " " // an empty label would make it a minor mark
		}
	}
	return ticks
}

func millisecondsLabel(v, step float64) string { return amountLabel(v, step) + " ms" }

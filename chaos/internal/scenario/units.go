package scenario

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Rate is a number of operations per second. In YAML: 5000/s, 300/m, 20k/s.
type Rate float64

func (r Rate) String() string { return strconv.FormatFloat(float64(r), 'g', -1, 64) + "/s" }

// Count is a number of things. In YAML: 64, 100k, 1M.
type Count int

// Size is a number of bytes. In YAML: 128B, 4KiB, 256MiB; a bare number is bytes.
type Size int

// Percent is a share of one. In YAML: 5%, 0.1%.
type Percent float64

func (p Percent) String() string { return strconv.FormatFloat(100*float64(p), 'g', 6, 64) + "%" }

// Share is a part of a time. In YAML: 30%, 99%.
type Share float64

func (s Share) String() string { return Percent(s).String() }

// Shift is a difference between clocks, ahead or behind. In YAML: 2m, -500ms.
type Shift time.Duration

// Drift is how much faster a clock goes than another. In YAML: 10%, -5%.
type Drift float64

// Schedule says when operations are intended to start. Exactly one of its
// fields is set.
type Schedule struct {
	Constant Rate
	Poisson  Rate
	Closed   int // operations in flight; there is no intended time
	Stages   []Stage
	Burst    *Burst
}

// Stage is one part of a rate that changes, from that of the stage before, or
// from nothing.
type Stage struct {
	To    Rate     `json:"to"`
	Over  Duration `json:"over"`
	Shape string   `json:"shape,omitempty"`
}

// Burst is a rate that is high for a time and low for another, in turns.
type Burst struct {
	High Rate     `json:"high"`
	On   Duration `json:"on"`
	Low  Rate     `json:"low"`
	Off  Duration `json:"off"`
}

// Span is how long stages last; 0 for what goes on.
func (s *Schedule) Span() (d Duration) {
	for _, stage := range s.Stages {
		d += stage.Over
	}
	return d
}

func (s Schedule) String() string {
	switch {
	case len(s.Stages) > 0:
		var parts []string
		for _, stage := range s.Stages {
			parts = append(parts, strings.TrimSpace(fmt.Sprintf("%v in %v %s", stage.To, stage.Over, strings.TrimPrefix(stage.Shape, "linear"))))
		}
		return "to " + strings.Join(parts, ", to ")
	case s.Burst != nil:
		return fmt.Sprintf("%v for %v and %v for %v", s.Burst.High, s.Burst.On, s.Burst.Low, s.Burst.Off)
	case s.Closed > 0:
		return fmt.Sprintf("closed loop, %d in flight", s.Closed)
	case s.Poisson > 0:
		return "poisson " + s.Poisson.String()
	}
	return "constant " + s.Constant.String()
}

// Op is the operation of a workload: one, or a mix by weight.
type Op map[string]int

// Ack holds the weights of ack levels by name: quorum, once, leader.
type Ack map[string]int

// String lists the weights in a fixed order.
func (a Ack) String() string { return weights(a) }

// String lists the weights in a fixed order.
func (o Op) String() string { return weights(o) }

// Writes reports whether the operation, or any of the mix, is a write.
func (o Op) Writes() bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(o)), func(k string) bool { return k != "get" })
}

func weights(m map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s=%d", k, m[k]))
	}
	return strings.Join(parts, ",")
}

// Dist is a distribution over keys.
type Dist struct {
	Kind  string // uniform, zipf, sequential, once
	Theta float64
}

func (d Dist) String() string {
	if d.Kind == "zipf" {
		return fmt.Sprintf("zipf(%g)", d.Theta)
	}
	return d.Kind
}

var (
	ops    = []string{"get", "put", "insert", "del", "remove"}
	levels = []string{"quorum", "once", "leader"}
	dists  = []string{"uniform", "zipf(0.99)", "sequential", "once"}
)

func (d *Duration) decode(dec *decoder, n *yaml.Node, path string) {
	v, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		dec.errorf(n, "%s: %s is not a duration; expected a number with a unit, such as 200ms, 1.5s or 2m", path, shown(n))
		return
	}
	if v < 0 {
		dec.errorf(n, "%s: %s is negative; expected zero or more", path, shown(n))
		return
	}
	*d = Duration(v)
}

func (r *Rate) decode(dec *decoder, n *yaml.Node, path string) {
	num, unit, ok := strings.Cut(n.Value, "/")
	per := map[string]float64{"s": 1, "m": 60}[unit]
	v, err := parseScaled(num)
	if n.Kind != yaml.ScalarNode || !ok || err != nil || per == 0 || v <= 0 {
		dec.errorf(n, "%s: %s is not a rate; expected operations per second or minute, such as 5000/s, 20k/s or 300/m", path, shown(n))
		return
	}
	*r = Rate(v / per)
}

func (c *Count) decode(dec *decoder, n *yaml.Node, path string) {
	v, err := parseScaled(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || v < 1 || v != math.Trunc(v) || v > 1e9 {
		dec.errorf(n, "%s: %s is not a count; expected a whole number from 1 to 1000M, such as 64, 100k or 1M", path, shown(n))
		return
	}
	*c = Count(v)
}

func (p *Percent) decode(dec *decoder, n *yaml.Node, path string) {
	num, ok := strings.CutSuffix(n.Value, "%")
	v, err := strconv.ParseFloat(num, 64)
	if n.Kind != yaml.ScalarNode || !ok || err != nil || !(v > 0 && v <= 50) {
		dec.errorf(n, "%s: %s is not a share; expected more than 0%% and 50%% at most, such as 5%%", path, shown(n))
		return
	}
	*p = Percent(v / 100)
}

func (s *Share) decode(dec *decoder, n *yaml.Node, path string) {
	v, ok := parsePercent(n)
	if !ok || v <= 0 || v >= 100 {
		dec.errorf(n, "%s: %s is not a part of a time; expected more than 0%% and less than 100%%, such as 30%%", path, shown(n))
		return
	}
	*s = Share(v / 100)
}

// maxShift is a year: further off, a clock is not wrong but of another world.
const maxShift = 366 * 24 * time.Hour

func (s *Shift) decode(dec *decoder, n *yaml.Node, path string) {
	v, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || v == 0 || v.Abs() > maxShift {
		dec.errorf(n, "%s: %s is not an offset; expected a duration ahead or behind, %v at most, such as 2m or -500ms", path, shown(n), maxShift)
		return
	}
	*s = Shift(v)
}

func (d *Drift) decode(dec *decoder, n *yaml.Node, path string) {
	v, ok := parsePercent(n)
	if !ok || v == 0 || v < -99 || v > 1000 {
		dec.errorf(n, "%s: %s is not a drift; expected -99%% to 1000%%, such as 10%% or -5%%", path, shown(n))
		return
	}
	*d = Drift(v / 100)
}

// parsePercent reads a finite number before a percent sign.
func parsePercent(n *yaml.Node) (float64, bool) {
	num, ok := strings.CutSuffix(n.Value, "%")
	v, err := strconv.ParseFloat(num, 64)
	return v, ok && err == nil && n.Kind == yaml.ScalarNode && !math.IsNaN(v) && !math.IsInf(v, 0)
}

// parseScaled reads a number with an optional k or M after it.
func parseScaled(s string) (float64, error) {
	scale := 1.0
	switch {
	case strings.HasSuffix(s, "k"):
		scale, s = 1e3, strings.TrimSuffix(s, "k")
	case strings.HasSuffix(s, "M"):
		scale, s = 1e6, strings.TrimSuffix(s, "M")
	}
	v, err := strconv.ParseFloat(s, 64)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, strconv.ErrRange
	}
	return v * scale, err
}

var sizeUnits = []struct {
	suffix string
	bytes  int
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}, {"", 1}}

func (s *Size) decode(dec *decoder, n *yaml.Node, path string) {
	v, ok := parseSize(n.Value)
	if !ok || n.Kind != yaml.ScalarNode {
		dec.errorf(n, "%s: %s is not a size; expected a whole number of B, KiB, MiB or GiB, such as 128B or 256MiB", path, shown(n))
		return
	}
	*s = v
}

func parseSize(text string) (Size, bool) {
	for _, u := range sizeUnits {
		num, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		if v, err := strconv.Atoi(num); err == nil && v > 0 && v <= math.MaxInt/u.bytes {
			return Size(v * u.bytes), true
		}
	}
	return 0, false
}

func (s *Schedule) decode(dec *decoder, n *yaml.Node, path string) {
	if n.Kind != yaml.MappingNode || len(n.Content) != 2 {
		dec.errorf(n, "%s: expected exactly one of {constant: RATE}, {poisson: RATE}, {closed: NUMBER}, {stages: [...]}, {burst: {...}}", path)
		return
	}
	key, value := n.Content[0], dec.resolve(n.Content[1])
	switch key.Value {
	case "constant":
		s.Constant.decode(dec, value, path+".constant")
	case "poisson":
		s.Poisson.decode(dec, value, path+".poisson")
	case "closed":
		dec.value(value, reflectOf(&s.Closed), path+".closed")
		if s.Closed < 1 || s.Closed > 4096 {
			dec.errorf(value, "%s.closed: %s operations in flight; expected 1 to 4096", path, shown(value))
		}
	case "stages":
		dec.value(value, reflectOf(&s.Stages), path+".stages")
		s.checkStages(dec, path+".stages")
	case "burst":
		dec.value(value, reflectOf(&s.Burst), path+".burst")
		for name, part := range map[string]Duration{"on": s.Burst.On, "off": s.Burst.Off} {
			dec.atLeast(path+".burst."+name, part, leastStage)
		}
	case "replay":
		dec.errorf(key, "%s.replay: a scenario is one file; expected one of %s (loadgen replays files)", path, strings.Join(schedules, ", "))
	default:
		dec.errorf(key, "%s: unknown schedule %s%s; expected one of %s", path, shown(key), hint(key.Value, schedules), strings.Join(schedules, ", "))
	}
}

var (
	schedules = []string{"constant", "poisson", "closed", "stages", "burst"}
	shapes    = []string{"linear", "step", "sine"}
)

// Bounds of stages, and of the parts of a burst.
const (
	maxStages  = 100
	leastStage = Duration(100 * time.Millisecond)
)

func (s *Schedule) checkStages(dec *decoder, path string) {
	if len(s.Stages) < 1 || len(s.Stages) > maxStages {
		dec.errorAt(path, "%d stages; expected 1 to %d", len(s.Stages), maxStages)
	}
	for i := range s.Stages {
		stage, at := &s.Stages[i], fmt.Sprintf("%s[%d]", path, i)
		def(&stage.Shape, "linear")
		oneOf(dec, at+".shape", stage.Shape, shapes...)
		dec.atLeast(at+".over", stage.Over, leastStage)
	}
}

// atLeast reports a duration that is given and too short.
func (dec *decoder) atLeast(path string, d, least Duration) {
	if d < least && dec.at[path] != nil {
		dec.errorAt(path, "%v; expected %v at least", d, least)
	}
}

func (o *Op) decode(dec *decoder, n *yaml.Node, path string) {
	*o = dec.weighted(n, path, "operation", ops)
}

func (a *Ack) decode(dec *decoder, n *yaml.Node, path string) {
	*a = dec.weighted(n, path, "ack level", levels)
}

func (d *Dist) decode(dec *decoder, n *yaml.Node, path string) {
	if n.Kind == yaml.ScalarNode {
		if arg, ok := strings.CutPrefix(n.Value, "zipf("); ok {
			if theta, err := strconv.ParseFloat(strings.TrimSuffix(arg, ")"), 64); err == nil && theta > 0 && theta < 1 && strings.HasSuffix(arg, ")") {
				*d = Dist{"zipf", theta}
				return
			}
			dec.errorf(n, "%s: %s; expected zipf(THETA) with 0 < THETA < 1, such as zipf(0.99)", path, shown(n))
			return
		}
		if slices.Contains(dists, n.Value) {
			*d = Dist{Kind: n.Value}
			return
		}
	}
	dec.errorf(n, "%s: unknown distribution %s%s; expected one of %s", path, shown(n), hint(n.Value, dists), strings.Join(dists, ", "))
}

// Threshold is one limit on a metric.
type Threshold struct {
	Expr  string  // as written, spaces normalised
	Func  string  // p, max, rate, count, rss, growth
	Arg   float64 // the percentile of p
	Op    string  // < or <=
	Limit float64 // nanoseconds, a fraction, a count, or bytes
	// Relative says that Limit is a multiple of what the same metric was in
	// the phase before.
	Relative bool
	// Abort ends the load as soon as the limit is not kept, looked at from After
	// on, counted from the end of the warm-up.
	Abort bool
	After Duration
}

// aborting is a threshold that may end the run, as it is written.
type aborting struct {
	Expr  string   `json:"expr"`
	Abort bool     `json:"abort,omitempty"`
	After Duration `json:"after,omitempty"`
}

// thresholdFuncs says which functions a metric has.
var thresholdFuncs = map[string][]string{
	"latency":        {"p", "max"},
	"errors":         {"rate"},
	"failed_writes":  {"count", "rate"},
	"recovery":       {"p", "max"},
	"back_to_normal": {"max"},
	"failover":       {"p", "max"},
	"ready":          {"p", "max"},
	"leader_changes": {"count"},
	"memory":         {"rss", "growth"},
}

func (t *Threshold) decode(dec *decoder, n *yaml.Node, path string) {
	var a aborting
	if n.Kind == yaml.MappingNode {
		dec.value(n, reflectOf(&a), path)
		if n = dec.at[path+".expr"]; n == nil {
			return // reported as missing
		}
		if a.After > 0 && !a.Abort {
			dec.errorf(dec.at[path+".after"], "%s.after: the limit is looked at in the end; expected abort: true too", path)
		}
	}
	err := t.parse(n.Value)
	t.Abort, t.After = a.Abort, a.After
	if err != nil || n.Kind != yaml.ScalarNode {
		dec.errorf(n, "%s: %s is not a threshold; expected \"p(99) < 20ms\", \"p(99) <= 2x\", \"max < 600ms\", \"rate < 1%%\", \"count <= 1\", \"rss <= 512MiB\" or \"rss <= 1x\"", path, shown(n))
	}
}

func (t *Threshold) parse(s string) error {
	f := strings.Fields(s)
	if len(f) != 3 || (f[1] != "<" && f[1] != "<=") {
		return fmt.Errorf("expected FUNCTION < LIMIT")
	}
	*t = Threshold{Expr: strings.Join(f, " "), Func: f[0], Op: f[1]}
	var err error
	if arg, ok := strings.CutPrefix(f[0], "p("); ok {
		t.Func = "p"
		t.Arg, err = strconv.ParseFloat(strings.TrimSuffix(arg, ")"), 64)
		if err != nil || !strings.HasSuffix(arg, ")") || !(t.Arg > 0 && t.Arg < 100) {
			return fmt.Errorf("bad percentile %s", f[0])
		}
	}
	switch t.Func {
	case "p", "max":
		if factor, relative := strings.CutSuffix(f[2], "x"); relative {
			t.Relative = true
			t.Limit, err = strconv.ParseFloat(factor, 64)
			break
		}
		var d time.Duration
		d, err = time.ParseDuration(f[2])
		t.Limit = float64(d)
	case "rss", "growth":
		if factor, relative := strings.CutSuffix(f[2], "x"); relative {
			t.Relative = true
			t.Limit, err = strconv.ParseFloat(factor, 64)
			break
		}
		v, ok := parseSize(f[2])
		if !ok {
			return fmt.Errorf("memory is a size")
		}
		t.Limit = float64(v)
	case "rate":
		num, ok := strings.CutSuffix(f[2], "%")
		if !ok {
			return fmt.Errorf("a rate is a percentage")
		}
		t.Limit, err = strconv.ParseFloat(num, 64)
		t.Limit /= 100
	case "count":
		t.Limit, err = strconv.ParseFloat(f[2], 64)
	default:
		return fmt.Errorf("unknown function %s", f[0])
	}
	if err == nil && (math.IsNaN(t.Limit) || t.Limit < 0) {
		err = fmt.Errorf("negative limit")
	}
	return err
}

// Holds reports whether a measured value is within the limit.
func (t Threshold) Holds(v float64) bool {
	if t.Op == "<=" {
		return v <= t.Limit
	}
	return v < t.Limit
}

// Metric is what a threshold limits.
type Metric struct {
	Name   string // an operation, or a key of thresholdFuncs other than latency
	Phase  string // before, during, joining, recovery; empty: the whole run
	Level  string // quorum, once, leader; empty: all
	Family string // key into the functions it has
}

// ParseMetric reads insert, insert{phase:recovery,level:quorum}, errors and so on.
func ParseMetric(s string) (Metric, error) {
	name, rest, labelled := strings.Cut(s, "{")
	m := Metric{Name: strings.TrimSpace(name)}
	switch {
	case slices.Contains(ops, m.Name):
		m.Family = "latency"
	case thresholdFuncs[m.Name] != nil && m.Name != "latency":
		m.Family = m.Name
	default:
		all := append(slices.Clone(ops), sortedKeys(thresholdFuncs)...)
		all = slices.DeleteFunc(all, func(name string) bool { return name == "latency" })
		return m, fmt.Errorf("unknown metric %q%s; expected one of %s", m.Name, hint(m.Name, all), strings.Join(all, ", "))
	}
	if !labelled {
		return m, nil
	}
	labels, ok := strings.CutSuffix(rest, "}")
	if !ok {
		return m, fmt.Errorf("metric %q lacks a closing brace", s)
	}
	if m.Family != "latency" {
		return m, fmt.Errorf("metric %s has no labels", m.Name)
	}
	for l := range strings.SplitSeq(labels, ",") {
		k, v, _ := strings.Cut(l, ":")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		switch {
		case k == "phase" && slices.Contains([]string{"before", "during", "joining", "recovery"}, v):
			m.Phase = v
		case k == "level" && slices.Contains(levels, v):
			m.Level = v
		default:
			return m, fmt.Errorf("unknown label %q; expected phase:before|during|joining|recovery or level:quorum|once|leader", strings.TrimSpace(l))
		}
	}
	return m, nil
}

package load

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/hacache/hacache/cachenode/client"
)

// Threshold is a limit on what a load measures, in the words of k6:
//
//	insert: p(99) < 20ms
//	insert{level:quorum,phase:recovery}: max < 1s, abort after 10s
//	get{time:service}: avg < 500us
//	errors: rate < 0.1%
//	throughput: rate > 4900/s
//
// and for short p99 < 5ms, which is of all operations, and errors < 0.1 %.
//
// A metric is an operation, or latency for all of them, with p(N), med, avg,
// min and max of the response time of oks; errors or missed, of what was
// intended, with rate and count; throughput, of oks, with rate and count.
// Labels choose among series: op, level and phase; time chooses service time or
// lag instead of response time.
type Threshold struct {
	Metric string // as written, without blanks
	Expr   string // as written, blanks normalised
	// Abort ends the load as soon as the limit is not kept, but not before After
	// of what is recorded has passed.
	Abort bool
	After time.Duration

	family           string // latency, errors, missed or throughput
	op, level, phase string // empty: all
	quantity         string // of latencies: response, service or lag
	function         string // p, avg, min, max, rate, count
	quantile         float64
	compare          string
	limit            float64 // nanoseconds, a share, operations per second, or a count
}

var thresholdText = regexp.MustCompile(`^([a-z]+)((?:\{[^}]*\})?)(?: *: *| +)?([a-z]*(?:\([0-9.]+\)|[0-9.]+)?) *(<=|>=|<|>) *([^ ]+ ?%?)$`)

// latencyAlone is a function of latency without a metric in front.
var latencyAlone = regexp.MustCompile(`^(p(\([0-9.]+\)|[0-9.]+)|med|avg|min|max) *[<>]`)

// ParseThreshold reads a Threshold as it is written above.
func ParseThreshold(text string) (Threshold, error) {
	t := Threshold{}
	rest := strings.TrimSpace(text)
	if body, when, cut := strings.Cut(rest, ", abort"); cut {
		rest, t.Abort = strings.TrimSpace(body), true
		if after, ok := strings.CutPrefix(when, " after "); ok {
			var err error
			if t.After, err = time.ParseDuration(strings.TrimSpace(after)); err != nil || t.After < 0 {
				return t, fmt.Errorf("threshold %q: after %q: want a duration, such as 10s", text, after)
			}
		} else if when != "" {
			return t, fmt.Errorf("threshold %q: want \", abort\" or \", abort after 10s\" at its end", text)
		}
	}
	// p99 < 5ms is latency: p(99) < 5ms.
	if latencyAlone.MatchString(rest) {
		rest = "latency: " + rest
	}
	m := thresholdText.FindStringSubmatch(rest)
	if m == nil {
		return t, fmt.Errorf("threshold %q: want METRIC: FUNCTION < LIMIT, such as \"insert: p(99) < 20ms\" or \"errors: rate < 0.1%%\"", text)
	}
	metric, labels, function, compare, limit := m[1], m[2], m[3], m[4], strings.ReplaceAll(m[5], " ", "")
	t.Metric, t.compare = metric+strings.ReplaceAll(labels, " ", ""), compare
	for _, err := range []error{t.parseMetric(metric, labels), t.parseFunction(function), t.parseLimit(limit)} {
		if err != nil {
			return t, fmt.Errorf("threshold %q: %w", text, err)
		}
	}
	name := t.function
	if name == "p" {
		name = fmt.Sprintf("p(%g)", t.quantile*100)
	}
	t.Expr = name + " " + compare + " " + limit
	return t, nil
}

func (t *Threshold) parseMetric(name, labels string) error {
	t.family, t.quantity = name, "response"
	if _, err := client.ParseKind(name); err == nil {
		t.family, t.op = "latency", name
	}
	if !slices.Contains([]string{"latency", "errors", "missed", "throughput"}, t.family) {
		return fmt.Errorf("metric %q: want get, put, insert, del, remove, latency, errors, missed or throughput", name)
	}
	labels = strings.Trim(labels, "{}")
	if strings.TrimSpace(labels) == "" {
		return nil
	}
	for label := range strings.SplitSeq(labels, ",") {
		key, value, _ := strings.Cut(label, ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		_, opErr := client.ParseKind(value)
		_, levelErr := client.ParseLevel(value)
		switch {
		case key == "phase" && value != "":
			t.phase = value
		case key == "op" && t.op == "" && opErr == nil:
			t.op = value
		case key == "level" && (levelErr == nil || value == "leader_on_miss" || value == "linearizable"):
			t.level = value
		case key == "time" && t.family == "latency" && slices.Contains(quantities[:], value):
			t.quantity = value
		default:
			return fmt.Errorf("label %q: want phase:NAME, op:OPERATION, level:LEVEL or, of latencies, time:response, time:service or time:lag", strings.TrimSpace(label))
		}
	}
	return nil
}

func (t *Threshold) parseFunction(name string) error {
	if name == "" && t.family != "latency" {
		name = "rate"
	}
	t.function = name
	if number, ok := strings.CutPrefix(name, "p"); ok {
		q, err := strconv.ParseFloat(strings.Trim(number, "()"), 64)
		if err != nil || !(q > 0 && q < 100) {
			return fmt.Errorf("percentile %q: want more than 0 and less than 100, such as p(99.9)", name)
		}
		t.function, t.quantile = "p", q/100
	}
	if name == "med" {
		t.function, t.quantile = "p", 0.5
	}
	known := []string{"rate", "count"}
	if t.family == "latency" {
		known = []string{"p", "avg", "min", "max"}
	}
	if !slices.Contains(known, t.function) {
		if t.family == "latency" {
			return fmt.Errorf("function %q: want p(N), med, avg, min or max of a latency", name)
		}
		return fmt.Errorf("function %q: want rate or count of %s", name, t.family)
	}
	return nil
}

func (t *Threshold) parseLimit(text string) error {
	var err error
	number, percent := strings.CutSuffix(text, "%")
	switch {
	case t.family == "latency":
		var d time.Duration
		d, err = time.ParseDuration(text)
		t.limit = float64(d)
	case t.function == "count":
		var n uint64
		n, err = ParseCount(text)
		t.limit = float64(n)
	case t.family == "throughput":
		t.limit, err = ParseRate(text)
	default:
		t.limit, err = strconv.ParseFloat(number, 64)
		if percent {
			t.limit /= 100
		}
		if err == nil && !(t.limit <= 1) {
			err = errors.New("more than 100 %")
		}
	}
	if err != nil || !(t.limit >= 0) {
		return fmt.Errorf("limit %q: want %s", text, map[bool]string{true: "a duration, such as 20ms", false: "a share such as 0.1%, operations per second or a count"}[t.family == "latency"])
	}
	return nil
}

// Phase is the phase that the threshold is about, "" if it is about all.
func (t *Threshold) Phase() string { return t.phase }

// OfResponse reports whether it is about response time or lag, which a closed
// loop does not have.
func (t *Threshold) OfResponse() bool { return t.family == "latency" && t.quantity != "service" }

// P99Limit is the limit on the 99th percentile of all response times, 0 if the
// threshold is another one.
func (t *Threshold) P99Limit() time.Duration {
	if !t.OfResponse() || t.quantity != "response" || t.op+t.level+t.phase != "" || t.function != "p" || t.quantile != 0.99 || t.compare[0] != '<' {
		return 0
	}
	return time.Duration(t.limit)
}

// Needs is how many operations it takes until the limit can be judged.
func (t *Threshold) Needs() float64 { return t.needs(gateSamples) }

// needs is how many operations it takes until so many lie beyond the percentile.
func (t *Threshold) needs(beyond float64) float64 {
	if t.family == "latency" && t.function == "p" {
		return math.Ceil(beyond/(1-t.quantile) - 1e-6)
	}
	return 1
}

// String is what ParseThreshold reads.
func (t *Threshold) String() string {
	s := t.Metric + ": " + t.Expr
	if t.Abort {
		s += ", abort"
		if t.After > 0 {
			s += " after " + t.After.String()
		}
	}
	return s
}

// Judgement is whether a limit was kept.
type Judgement struct {
	Met bool
	Got string // what was measured
	// Doubt, if not empty, is why it cannot be said; Met is false then.
	Doubt string
}

// gateSamples is how many samples have to lie beyond a quantile before anything
// may depend on it: ten show it, a hundred hold it still. Of several tries that
// decide together each needs to show it only.
const (
	gateSamples = 100
	showSamples = 10
)

// Overload is what of a load kept the target from getting what was offered, as in
// [Summary].
type Overload struct {
	// Limited: the generator was late. No latency proves anything.
	Limited bool
	// Saturated: the target did not take what was offered. A latency that is too
	// long is its own doing; one that is short enough is that of a lower rate.
	Saturated bool
}

// Judge compares the limit with what was recorded.
func (t *Threshold) Judge(rec *Recorder, over Overload) Judgement {
	return t.judge(t.sum(rec, t.phase), over, gateSamples)
}

// sum is what was recorded of the threshold's series in one phase, "" being all.
func (t *Threshold) sum(rec *Recorder, in string) Totals {
	return Sum(rec.Totals(func(phase, op, level string) bool {
		return (in == "" || in == phase) && (t.op == "" || t.op == op) && (t.level == "" || t.level == level)
	}))
}

// judge compares the limit with a sum; beyond is the samples that have to lie
// beyond a percentile.
func (t *Threshold) judge(sum Totals, over Overload, beyond float64) Judgement {
	c := sum.Counts
	if c.Intended == 0 {
		return Judgement{Got: "nothing measured", Doubt: "nothing was measured"}
	}
	switch t.family {
	case "latency":
		return t.judgeLatency(sum, over, beyond)
	case "throughput":
		if t.function == "count" {
			return t.met(float64(c.OK), fmt.Sprint(c.OK))
		}
		perSecond := float64(c.OK) / max(sum.Span.Seconds(), 1e-9)
		return t.met(perSecond, fmt.Sprintf("%.1f/s", perSecond))
	}
	n := c.Intended - c.OK
	if t.family == "missed" {
		n = c.Missed
	}
	if t.function == "count" {
		return t.met(float64(n), fmt.Sprint(n))
	}
	share := float64(n) / float64(c.Intended)
	return t.met(share, fmt.Sprintf("%.3g%% (%d of %d)", 100*share, n, c.Intended))
}

func (t *Threshold) judgeLatency(sum Totals, over Overload, beyond float64) Judgement {
	h := map[string]*hdrhistogram.Histogram{"response": sum.Response, "service": sum.Service, "lag": sum.Lag}[t.quantity]
	if h == nil || h.TotalCount() == 0 {
		return Judgement{Got: "nothing measured", Doubt: "nothing was measured"}
	}
	var v float64
	switch t.function {
	case "avg":
		v = h.Mean()
	case "min":
		v = float64(h.Min())
	case "max":
		v = float64(h.Max())
	default:
		v = float64(h.ValueAtPercentile(t.quantile * 100))
	}
	j := t.met(v, time.Duration(math.Round(v)).Round(time.Microsecond).String())
	switch {
	case sum.Closed && t.OfResponse():
		j.Doubt = "a closed loop has service times only"
	case over.Limited:
		j.Doubt = "the generator was limited"
	case over.Saturated && j.Met:
		j.Doubt = "the target was saturated: this is not at the rate that was offered"
	case float64(h.TotalCount()) < t.needs(beyond):
		j.Doubt = fmt.Sprintf("%d samples are too few for this percentile; want %.0f", h.TotalCount(), t.needs(beyond))
	}
	j.Met = j.Met && j.Doubt == ""
	return j
}

func (t *Threshold) met(v float64, got string) Judgement {
	switch t.compare {
	case "<":
		return Judgement{Met: v < t.limit, Got: got}
	case "<=":
		return Judgement{Met: v <= t.limit, Got: got}
	case ">":
		return Judgement{Met: v > t.limit, Got: got}
	}
	return Judgement{Met: v >= t.limit, Got: got}
}

package runner

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/hacache/hacache/chaos/internal/check"
	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/chaos/internal/scenario"
)

// abortPause is how often the limits that may abort a run are looked at.
const abortPause = 500 * time.Millisecond

// limits measures, while the load runs, what may abort it. The numbers of the
// result are made from the history in the end; these are close to them, and
// cost a lock for each operation only where a scenario asks for it. Safe for
// concurrent use.
type limits struct {
	mu  sync.Mutex
	all []*limit
}

// limit is one threshold while it is measured.
type limit struct {
	metric   string
	of       scenario.Metric
	t        scenario.Threshold
	times    *hdrhistogram.Histogram // of an operation, in microseconds
	all, bad int64                   // of errors
}

// newLimits returns nil if nothing may abort the run.
func newLimits(s *scenario.Scenario) *limits {
	l := new(limits)
	for metric, list := range s.Thresholds {
		of, err := scenario.ParseMetric(metric)
		if err != nil {
			panic(err) // the scenario was validated
		}
		for _, t := range list {
			if t.Abort {
				l.all = append(l.all, &limit{metric: metric, of: of, t: t, times: hdrhistogram.New(1, int64(10*time.Minute/time.Microsecond), 3)})
			}
		}
	}
	if len(l.all) == 0 {
		return nil
	}
	slices.SortFunc(l.all, func(a, b *limit) int { return strings.Compare(a.metric+a.t.Expr, b.metric+b.t.Expr) })
	return l
}

// observe takes an operation of the load into account, intended in a phase of
// the run.
func (l *limits) observe(o *history.Op, phase string) {
	if l == nil || o.Phase != history.Load {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range l.all {
		switch {
		case x.of.Family == "errors":
			x.all++
			if o.Outcome != history.OK {
				x.bad++
			}
		case x.of.Family == "latency" && o.Kind == x.of.Name && o.Outcome == history.OK && (x.of.Level == "" || x.of.Level == o.Level) && (x.of.Phase == "" || x.of.Phase == phase):
			took := int64((o.Return - o.Intended) / time.Microsecond)
			_ = x.times.RecordValue(min(max(took, 1), x.times.HighestTrackableValue()))
		}
	}
}

// broken returns the first limit that is not kept at a time of the timeline,
// and what was measured; nil if all are. changes counts the changes of leader.
func (l *limits) broken(at time.Duration, changes func() int) (b *limit, got string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range l.all {
		if at < x.t.After.D() {
			continue
		}
		if value, got, ok := x.measure(changes); ok && !x.t.Holds(value) {
			return x, got
		}
	}
	return nil, ""
}

// measure returns false while there is too little to say anything.
func (x *limit) measure(changes func() int) (value float64, got string, ok bool) {
	switch x.of.Family {
	case "errors":
		if x.all < leastToAbort {
			return 0, "", false
		}
		rate := float64(x.bad) / float64(x.all)
		return rate, fmt.Sprintf("%.3g%% (%d of %d)", 100*rate, x.bad, x.all), true
	case "leader_changes":
		n := changes()
		return float64(n), fmt.Sprint(n), true
	}
	n := x.times.TotalCount()
	took := x.times.Max()
	if x.t.Func == "p" {
		if float64(n)*(1-x.t.Arg/100) < 10 {
			return 0, "", false
		}
		took = x.times.ValueAtQuantile(x.t.Arg)
	}
	d := time.Duration(took) * time.Microsecond
	return float64(d), d.String(), n > 0
}

// leastToAbort is the least number of operations of which the share that failed
// may abort a run.
const leastToAbort = 100

// watchLimits ends the load through stop when a limit is not kept.
func (r *run) watchLimits(ctx context.Context, stop context.CancelCauseFunc) {
	changes := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return check.LeaderChanges(r.events, r.origin, time.Duration(math.MaxInt64))
	}
	for pause(ctx, abortPause) {
		at := r.now() - r.origin
		x, got := r.limits.broken(at, changes)
		if x == nil {
			continue
		}
		r.facts.Aborted = &check.Abort{Metric: x.metric, Expr: x.t.Expr, Got: got, At: r.now()}
		r.note("aborted: %s %s: %s", x.metric, x.t.Expr, got)
		stop(fmt.Errorf("%s %s was not kept: %s", x.metric, x.t.Expr, got))
		return
	}
}

// livePhase names the phase of the run at this moment.
func (r *run) livePhase() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(r.open) > 0:
		return "during"
	case r.injected:
		return "recovery"
	}
	return "before"
}

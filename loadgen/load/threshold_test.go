package load

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/internal/bubble"
)

// Only an upper limit on the 99th percentile of all response times is one that
// can be drawn beside them.
func TestP99Limit(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"p99 < 5ms": 5 * time.Millisecond, "latency: p(99) <= 1s": time.Second,
		"p99 > 5ms": 0, "p99.9 < 5ms": 0, "insert: p99 < 5ms": 0, "latency{level:once}: p99 < 5ms": 0, "latency{time:service}: p99 < 5ms": 0, "max < 5ms": 0, "errors < 1%": 0,
	} {
		limit, err := ParseThreshold(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := limit.P99Limit(); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

// A threshold is written back as it was meant, in one form; every mistake is
// named, and no unknown metric, label or function is taken for anything.
func TestParseThreshold(t *testing.T) {
	for text, want := range map[string]string{
		"insert: p(99) < 20ms":                    "insert: p(99) < 20ms",
		"insert{phase:recovery}: p(99.9) < 500ms": "insert{phase:recovery}: p(99.9) < 500ms",
		"p99 < 5ms":                  "latency: p(99) < 5ms",
		"p(99.9)<5ms":                "latency: p(99.9) < 5ms",
		"max <= 1s":                  "latency: max <= 1s",
		"errors < 0.1 %":             "errors: rate < 0.1%",
		"errors: rate<1%":            "errors: rate < 1%",
		"errors{op:get}: count <= 3": "errors{op:get}: count <= 3",
		"throughput: rate > 4.9k/s":  "throughput: rate > 4.9k/s",
		"missed: count < 1k, abort":  "missed: count < 1k, abort",
		"get{ time:service , level:quorum }: med < 500us": "get{time:service,level:quorum}: p(50) < 500us",
		"latency{time:lag}: p(99) < 1ms, abort after 10s": "latency{time:lag}: p(99) < 1ms, abort after 10s",
		"latency: avg >= 1us":                             "latency: avg >= 1us",
	} {
		got, err := ParseThreshold(text)
		if err != nil || got.String() != want {
			t.Errorf("%q: got %s, %v; want %s", text, got.String(), err, want)
		}
		if again, err := ParseThreshold(want); err != nil || again.String() != want {
			t.Errorf("%q: read back as %s, %v", want, again.String(), err)
		}
	}
	for text, want := range map[string]string{
		"": "want METRIC: FUNCTION < LIMIT", "insert": "want METRIC", "insert: p(99)": "want METRIC", "insert: p(99) = 5ms": "want METRIC",
		"isnert: p(99) < 5ms": `metric "isnert"`, "insert{stage:1}: p(99) < 5ms": `label "stage:1"`, "insert{op:get}: p(99) < 5ms": `label "op:get"`,
		"errors{time:lag}: rate < 1%": `label "time:lag"`, "insert{level:all}: p(99) < 5ms": `label "level:all"`, "insert: p(100) < 5ms": "percentile",
		"insert: p(0) < 5ms": "percentile", "insert: rate < 5ms": `function "rate"`, "insert: < 5ms": `function ""`, "errors: p(99) < 1%": `function "p(99)"`,
		"insert: p(99) < 5": `limit "5"`, "errors: rate < 120%": `limit "120%"`, "errors: rate < -1%": `limit "-1%"`, "errors: count < 1.5": `limit "1.5"`,
		"errors: rate < 1%, abort later": "at its end", "errors: rate < 1%, abort after soon": `after "soon"`, "throughput: rate > fast": `limit "fast"`,
	} {
		if got, err := ParseThreshold(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %s, %v; want %q", text, got.String(), err, want)
		}
	}
}

// Limits are judged on what was measured, by series and phase; not on too few
// samples, not on response times of a closed loop or of a generator that was
// late.
func TestThresholds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := Generator{
			// 2000 operations each in a and in b; of a 1 in 100 takes 50 ms, of b 1 in
			// 20, the others 1 ms; 1 in 50 of all fails.
			Target: &Scripted{Serve: func(n uint64, op *client.Op) (time.Duration, client.Outcome) {
				slow := uint64(100)
				if n >= 2000 {
					slow = 20
				}
				switch {
				case n%50 == 7:
					return time.Millisecond, client.Outcome{Status: client.StatusFail, Err: client.ErrBroken}
				case n%slow == 0:
					return 50 * time.Millisecond, client.Outcome{}
				}
				return time.Millisecond, client.Outcome{}
			}},
			Source:   mustSource(t, Workload{Mix: []Weight[client.Kind]{{client.KindInsert, 1}}}),
			Recorder: NewRecorder(RecorderConfig{}), Sleep: time.Sleep, InFlight: 100,
			Schedule: Constant{1000}, Duration: 4 * time.Second, Phases: []PhaseSpan{{"a", 2 * time.Second}, {"b", 1}},
		}
		if _, err := g.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.Recorder.Flush()
		judge := func(text string, over Overload) string {
			th, err := ParseThreshold(text)
			if err != nil {
				t.Fatal(err)
			}
			j := th.Judge(g.Recorder, over)
			return fmt.Sprintf("%v %s (%s)", j.Met, j.Got, j.Doubt)
		}
		for text, want := range map[string]string{
			"insert{phase:a}: p(95) < 2ms":       "false 1ms (1960 samples are too few for this percentile; want 2000)",
			"insert: p(96.5) < 1.1ms":            "true 1ms ()",
			"insert{phase:b}: p(94) < 1.1ms":     "true 1ms ()",
			"insert: p(97.4) < 45ms":             "false 50.004ms ()",
			"insert{phase:a}: avg < 2ms":         "true 1.5ms ()",
			"insert{phase:b}: avg < 2ms":         "false 3.5ms ()",
			"max > 49ms":                         "true 50.004ms ()",
			"insert{time:lag}: max < 10us":       "true 1µs ()",
			"latency{level:once}: max < 1s":      "false nothing measured (nothing was measured)",
			"get: p(50) < 1s":                    "false nothing measured (nothing was measured)",
			"errors: rate < 2.1%":                "true 2% (80 of 4000) ()",
			"errors: rate < 2%":                  "false 2% (80 of 4000) ()",
			"errors{phase:a}: count <= 40":       "true 40 ()",
			"missed: count < 1":                  "true 0 ()",
			"throughput: count >= 3920":          "true 3920 ()",
			"throughput{phase:a}: rate > 950":    "true 980.0/s ()",
			"insert{level:quorum}: p(90) <= 1ms": "false 1ms ()",
		} {
			if got := judge(text, Overload{}); got != want {
				t.Errorf("%s: got %s, want %s", text, got, want)
			}
		}
		// A generator that was late proves nothing, a target that was overloaded only
		// what was too slow; neither says anything against counts.
		for text, want := range map[string][2]string{
			"max < 1s":          {"false 50.004ms (the generator was limited)", "false 50.004ms (the target was saturated: this is not at the rate that was offered)"},
			"max < 1ms":         {"false 50.004ms (the generator was limited)", "false 50.004ms ()"},
			"errors: rate < 3%": {"true 2% (80 of 4000) ()", "true 2% (80 of 4000) ()"},
		} {
			for i, over := range []Overload{{Limited: true}, {Saturated: true}} {
				if got := judge(text, over); got != want[i] {
					t.Errorf("%s, %+v: got %s, want %s", text, over, got, want[i])
				}
			}
		}
		closed := Generator{Target: Null{}, Source: g.Source, Recorder: NewRecorder(RecorderConfig{}), Ops: 100_000}
		if _, err := closed.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		closed.Recorder.Flush()
		g.Recorder = closed.Recorder
		if got := judge("p(50) < 1s", Overload{}); !strings.Contains(got, "a closed loop has service times only") {
			t.Errorf("closed loop: %s", got)
		}
		if got := judge("insert{time:service}: p(50) < 1s", Overload{}); !strings.HasPrefix(got, "true ") {
			t.Errorf("closed loop: %s", got)
		}
	})
}

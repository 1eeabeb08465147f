package compare

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// made is the numbers of one round of a side.
type made struct {
	p50, p99   time.Duration
	throughput float64
	perCPU     float64
	gap        time.Duration
	limited    bool
}

var usual = made{p50: time.Millisecond, p99: 5 * time.Millisecond, throughput: 90_000, perCPU: 30_000, gap: 15 * time.Millisecond}

// side makes a side of rounds that go through change.
func side(name string, rounds int, change func(round int, m *made)) *Side {
	s := &Side{Name: name}
	for i := range rounds {
		m := usual
		change(i, &m)
		load := &result.Run{
			Kind: result.KindBench, Name: "pair", Verdict: result.Pass,
			Series: []result.Series{
				{Phase: "warm-up", Op: "insert", Level: "quorum", Response: result.Latency{Count: 20_000, P50: time.Hour}},
				{Phase: "fixed rate", Op: "insert", Level: "quorum", Limited: m.limited, Response: result.Latency{Count: 20_000, P50: m.p50, P99: m.p99}},
				{Phase: "flat out", Op: "insert", Level: "quorum", Closed: true, Throughput: m.throughput / 2},
				{Phase: "flat out", Op: "get", Closed: true, Throughput: m.throughput / 2},
			},
			Costs: []result.Cost{{Phase: "fixed rate", Ops: int64(m.perCPU), CPU: time.Second}},
		}
		kill := &result.Run{
			Kind: result.KindScenario, Name: "failover", Verdict: result.Pass,
			Series:    []result.Series{{Phase: "during", Op: "insert", Level: "quorum", Response: result.Latency{Count: 20_000, P50: m.gap}}},
			Failovers: []result.Failover{{Fault: "kill", Levels: []result.Recovery{{Level: "once", Gap: 1}, {Level: "quorum", Gap: m.gap}}}},
		}
		s.Rounds = append(s.Rounds, Round{Name: fmt.Sprintf("%02d", i+1), Runs: []*result.Run{load, kill}})
	}
	return s
}

// noisy scales everything by a factor of its own for each round, which both sides share, and a little more that they do not.
func noisy(seed uint64, own float64, then func(*made)) func(int, *made) {
	mine := rand.New(rand.NewPCG(seed, uint64(len(fmt.Sprint(own)))))
	return func(round int, m *made) {
		shared := rand.New(rand.NewPCG(seed>>1, uint64(round)))
		f := func() float64 { return math.Exp(0.3*shared.NormFloat64() + own*mine.NormFloat64()) }
		for _, d := range []*time.Duration{&m.p50, &m.p99, &m.gap} {
			*d = time.Duration(float64(*d) * f())
		}
		m.throughput, m.perCPU = m.throughput*f(), m.perCPU*f()
		if then != nil {
			then(m)
		}
	}
}

func judge(t *testing.T, base, head *Side, o Options) *Gate {
	t.Helper()
	g, err := Judge(base, head, o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func outcomes(g *Gate) map[string]Outcome {
	m := map[string]Outcome{}
	for _, d := range g.Differences {
		m[d.Name] = d.Outcome
	}
	return m
}

// The rule, metric by metric: what is beyond its limit in every round fails, what is within passes, what is beyond in share
// but below the floor passes, what is beyond in the middle but not in every round is inconclusive, and neutral in the end.
func TestGateRule(t *testing.T) {
	const rounds = 12
	mostly := func(round int) bool { return round%6 > 0 } // ten of twelve
	for _, c := range []struct {
		name   string
		change func(round int, m *made)
		final  bool
		metric string
		want   Outcome
	}{
		{"equal", func(int, *made) {}, false, "fixed rate insert quorum p50", Passed},
		{"p50 + 4 %", func(_ int, m *made) { m.p50 += 40 * time.Microsecond }, false, "fixed rate insert quorum p50", Passed},
		{"p50 + 6 %", func(_ int, m *made) { m.p50 += 60 * time.Microsecond }, false, "fixed rate insert quorum p50", Failed},
		{"p50 faster", func(_ int, m *made) { m.p50 /= 2 }, false, "fixed rate insert quorum p50", Passed},
		{"p99 + 9 %", func(_ int, m *made) { m.p99 += 450 * time.Microsecond }, false, "fixed rate insert quorum p99", Passed},
		{"p99 + 11 %", func(_ int, m *made) { m.p99 += 550 * time.Microsecond }, false, "fixed rate insert quorum p99", Failed},
		{"p99 in ten rounds of twelve", func(i int, m *made) {
			if mostly(i) {
				m.p99 += 700 * time.Microsecond
			}
		}, false, "fixed rate insert quorum p99", Inconclusive},
		{"the same at the end", func(i int, m *made) {
			if mostly(i) {
				m.p99 += 700 * time.Microsecond
			}
		}, true, "fixed rate insert quorum p99", Neutral},
		{"throughput - 4 %", func(_ int, m *made) { m.throughput *= 0.96 }, false, "flat out throughput", Passed},
		{"throughput - 6 %", func(_ int, m *made) { m.throughput *= 0.94 }, false, "flat out throughput", Failed},
		{"CPU + 20 %", func(_ int, m *made) { m.perCPU /= 1.2 }, false, "fixed rate operations per CPU second", Failed},
		{"failover + 10 %", func(_ int, m *made) { m.gap += m.gap / 10 }, false, "failover median", Passed},
		{"failover + 30 %", func(_ int, m *made) { m.gap += m.gap * 3 / 10 }, false, "failover median", Failed},
	} {
		g := judge(t, side("base", rounds, func(int, *made) {}), side("head", rounds, c.change), Options{Paired: true, Final: c.final})
		got := outcomes(g)
		if got[c.metric] != c.want {
			t.Errorf("%s: %s is %q, want %q", c.name, c.metric, got[c.metric], c.want)
		}
		want := map[Outcome]int{Failed: result.ExitRegression, Inconclusive: result.ExitUnknown}[c.want]
		if g.Outcome != c.want || g.ExitCode() != want {
			t.Errorf("%s: outcome %q, exit code %d, want %q, %d", c.name, g.Outcome, g.ExitCode(), c.want, want)
		}
		if len(got) != 6 || got["during insert quorum p50"] != Shown {
			t.Errorf("%s: metrics %v, want 5, one of a scenario that is not judged, and nothing of the warm-up", c.name, got)
		}
	}
	// A tenth of next to nothing: 60 % more, and 30 µs.
	tiny := func(d time.Duration) func(int, *made) { return func(_ int, m *made) { m.p50 = d } }
	g := judge(t, side("base", rounds, tiny(50*time.Microsecond)), side("head", rounds, tiny(80*time.Microsecond)), Options{Paired: true})
	if got := outcomes(g)["fixed rate insert quorum p50"]; got != Passed {
		t.Errorf("below the floor: %q", got)
	}
}

// Rounds in which the generator was the limit are dropped on both sides, by name and not by position; with fewer than eight
// left nothing is known, but what other metrics show still counts.
func TestGateDropsLimitedRounds(t *testing.T) {
	limited := func(which ...int) func(int, *made) {
		return func(i int, m *made) {
			if slices.Contains(which, i) {
				m.limited, m.p50, m.p99 = true, time.Minute, time.Minute
			}
		}
	}
	g := judge(t, side("base", 12, limited(0, 1)), side("head", 12, limited(1, 5)), Options{Paired: true})
	for _, d := range g.Differences {
		if strings.HasPrefix(d.Name, "fixed rate insert") && strings.HasSuffix(d.Name, "p50") && (len(d.Rounds) != 9 || !slices.Equal(d.Dropped, []string{"01", "02", "06"}) || d.Effect.Value != 0) {
			t.Errorf("%d rounds, dropped %q, effect %v", len(d.Rounds), d.Dropped, d.Effect)
		}
	}
	if g.Outcome != Passed || !strings.Contains(strings.Join(g.Notes, " "), "on one side: 3.") {
		t.Errorf("outcome %q, notes %q", g.Outcome, g.Notes)
	}
	g = judge(t, side("base", 12, limited(0, 1, 2)), side("head", 12, limited(3, 4)), Options{Paired: true})
	if g.Outcome != Undecided || g.ExitCode() != result.ExitUnknown {
		t.Errorf("7 rounds left: %q, exit code %d", g.Outcome, g.ExitCode())
	}
	g = judge(t, side("base", 12, limited(0, 1, 2, 3, 4)), side("head", 12, func(_ int, m *made) { m.throughput /= 2 }), Options{Paired: true})
	if g.Outcome != Failed {
		t.Errorf("half the throughput and 7 rounds of latencies: %q", g.Outcome)
	}
}

// Without pairs the same arithmetic needs six runs a side, and says that it is the weaker test.
func TestGateUnpaired(t *testing.T) {
	slow := func(_ int, m *made) { m.p50 += m.p50 / 10 }
	for runs, want := range map[int]Outcome{5: Undecided, 6: Failed} {
		g := judge(t, side("base", runs, func(i int, m *made) { m.p50 += time.Duration(i) }), side("head", 7, slow), Options{})
		if got := outcomes(g)["fixed rate insert quorum p50"]; got != want {
			t.Errorf("%d runs: %q, want %q", runs, got, want)
		}
		if !strings.Contains(strings.Join(g.Notes, " "), "stronger test") {
			t.Errorf("notes %q", g.Notes)
		}
	}
}

// A violated invariant or a leader that changed fails without statistics, as do allocations; the base's own faults are told.
func TestGateWithoutStatistics(t *testing.T) {
	base, head := side("base", 8, func(int, *made) {}), side("head", 8, func(int, *made) {})
	base.Allocs = map[string]float64{"store BenchmarkApply": 100, "gone": 3, "fewer": 7}
	head.Allocs = map[string]float64{"store BenchmarkApply": 101, "new": 9, "fewer": 6}
	head.Rounds[2].Runs[0].Checks = []result.Check{{Name: result.CheckLeaderKept, Verdict: result.Violated, Detail: "term 2 became 3 without a fault"}}
	base.Rounds[3].Runs[1].Checks = []result.Check{{Name: "lost writes", Verdict: result.Violated, Detail: "one"}}
	g := judge(t, base, head, Options{Paired: true})
	want := []string{
		"pair in round 03: leader kept: term 2 became 3 without a fault",
		"store BenchmarkApply: 101 allocations per operation, 100 before",
	}
	if !slices.Equal(g.Broken, want) || g.Outcome != Failed {
		t.Errorf("outcome %q, broken %q", g.Outcome, g.Broken)
	}
	if !slices.Contains(g.Notes, "The base is broken itself: failover in round 04: lost writes: one") {
		t.Errorf("notes %q", g.Notes)
	}
}

// A head of which most operations fail is not faster, however fast the rest is; and a judged metric that it does not have any
// more is unknown, and no pass.
func TestGateOfWhatIsNotThere(t *testing.T) {
	counts := func(s *Side, ok, fail int64) *Side {
		for _, round := range s.Rounds {
			round.Runs[0].Series[1].Counts = result.Counts{Intended: ok + fail, OK: ok, Fail: fail}
		}
		return s
	}
	plain := func(int, *made) {}
	for _, c := range []struct {
		name string
		fail int64
		want Outcome
	}{{"as before", 20, Passed}, {"within the limit", 200, Passed}, {"a fifth fails", 4000, Failed}} {
		g := judge(t, counts(side("base", 12, plain), 20_000, 20), counts(side("head", 12, plain), 20_000-c.fail, c.fail), Options{Paired: true})
		if g.Outcome != c.want || (len(g.Broken) > 0) != (c.want == Failed) {
			t.Errorf("%s: %q, %q", c.name, g.Outcome, g.Broken)
		}
	}
	head := side("head", 12, plain)
	for _, round := range head.Rounds {
		round.Runs[0].Series = round.Runs[0].Series[:2] // it ended before it was to go as fast as it could
	}
	g := judge(t, side("base", 12, plain), head, Options{Paired: true})
	if got := outcomes(g)["flat out throughput"]; got != Undecided || g.ExitCode() != result.ExitUnknown {
		t.Errorf("throughput %q, exit code %d", got, g.ExitCode())
	}
}

// How often the rule is wrong on made-up noise, by seeds: rounds vary by 30 %, and each side by 6 % of its own. (What the gate
// does on real nodes is measured by make gate-calibrate.)
func TestGateErrorRates(t *testing.T) {
	const tries = 200
	count := func(then func(*made)) (failed int) {
		for seed := range uint64(tries) {
			base, head := side("base", 12, noisy(2*seed, 0.06, nil)), side("head", 12, noisy(2*seed+1, 0.06, then))
			if judge(t, base, head, Options{Paired: true}).Outcome == Failed {
				failed++
			}
		}
		return failed
	}
	if n := count(nil); n > tries/20 {
		t.Errorf("nothing has changed: FAIL in %d of %d", n, tries)
	}
	if n := count(func(m *made) { m.p50 += m.p50 / 4 }); n < tries*19/20 {
		t.Errorf("p50 + 25 %%: FAIL in %d of %d", n, tries)
	}
	if n := count(func(m *made) { m.perCPU /= 1.2 }); n < tries*19/20 {
		t.Errorf("CPU + 20 %%: FAIL in %d of %d", n, tries)
	}
}

// A side is read from a run directory, a directory of them, or one of rounds with several each; repetitions inside of a run
// are no runs of their own. A percentile with too few samples beyond it is shown and not judged.
func TestReadSide(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"01/load", "01/failover", "01/failover/repeat-1", "02/load", "10/load"} {
		full := filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(full, 0o755); err != nil {
			t.Fatal(err)
		}
		r := side("", 1, func(int, *made) {}).Rounds[0].Runs[0]
		for i := range r.Series {
			r.Series[i].Response.Count = 9_999
		}
		if err := result.Write(full, r); err != nil {
			t.Fatal(err)
		}
	}
	allocs := "pkg: x/store\nBenchmarkApply-2 \t 100\t 5 ns/op\t 0 B/op\t 3 allocs/op\nBenchmarkApply-2 \t 100\t 5 ns/op\t 0 B/op\t 2 allocs/op\n"
	if err := os.WriteFile(filepath.Join(dir, AllocsFile), []byte(allocs), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := ReadSide(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range s.Rounds {
		got = append(got, fmt.Sprintf("%s:%d", r.Name, len(r.Runs)))
	}
	if fmt.Sprint(got) != "[01:2 02:1 10:1]" {
		t.Errorf("rounds %v", got)
	}
	if len(s.Allocs) != 1 || s.Allocs["store Apply-2"] != 2 {
		t.Errorf("allocations %v", s.Allocs)
	}
	for _, m := range metrics(s) {
		if strings.HasSuffix(m.Name, "p99") && m.Limit != 0 || m.Name == "fixed rate insert quorum p50" && m.Limit == 0 {
			t.Errorf("%s: limit %v of 9999 samples", m.Name, m.Limit)
		}
	}
	if one, err := ReadSide(filepath.Join(dir, "02", "load")); err != nil || len(one.Rounds) != 1 {
		t.Errorf("a run directory: %v, %+v", err, one)
	}
	if _, err := ReadSide(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no run in it") {
		t.Errorf("an empty directory: %v", err)
	}
}

// A row a side, medians of its rounds; a new metric gets a column and leaves the old rows empty; the same runs twice are an
// error; what is written is read back.
func TestTrend(t *testing.T) {
	stamp := func(s *Side, hour int) *Side {
		s.Rounds[0].Runs[0].Started = time.Date(2026, 1, 2, hour, 0, 0, 0, time.UTC)
		s.Rounds[0].Runs[0].Environment = &result.Environment{Commit: "0123456789abcdef", CPUModel: "one", Cores: 2}
		return s
	}
	loads := stamp(side("a", 3, func(i int, m *made) { m.p50 += time.Duration(i) * time.Millisecond }), 3)
	for i := range loads.Rounds {
		loads.Rounds[i].Runs = loads.Rounds[i].Runs[:1]
	}
	var trend Trend
	for _, s := range []*Side{loads, stamp(side("b", 1, func(int, *made) {}), 4)} {
		if err := trend.Append(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := trend.Append(loads); err == nil {
		t.Error("the same runs were taken twice")
	}
	var b strings.Builder
	if err := trend.WriteCSV(&b); err != nil {
		t.Fatal(err)
	}
	elsewhere := stamp(side("c", 1, func(int, *made) {}), 5)
	elsewhere.Rounds[0].Runs[0].Environment.Cores = 4
	if err := trend.Append(elsewhere); err == nil || !strings.Contains(err.Error(), `"one, 4 cores", the table has "one, 2 cores"`) {
		t.Errorf("runs of another machine: %v", err)
	}
	want := "time,commit,runs,machine,fixed_rate_insert_quorum_p50_ns,fixed_rate_insert_quorum_p99_ns,flat_out_throughput_per_s,fixed_rate_operations_per_CPU_second,failover_median_ns,during_insert_quorum_p50_ns\n" +
		"2026-01-02T03:00:00Z,0123456789ab,3,\"one, 2 cores\",2000000,5000000,90000,30000,,\n" +
		"2026-01-02T04:00:00Z,0123456789ab,1,\"one, 2 cores\",1000000,5000000,90000,30000,15000000,15000000\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	back, err := ReadTrend(strings.NewReader(b.String()), "trend.csv")
	if err != nil || len(back.Rows) != 2 || !slices.Equal(back.Columns, trend.Columns) {
		t.Errorf("read back: %v %+v", err, back)
	}
	if _, err := ReadTrend(strings.NewReader("a,b\n"), "trend.csv"); err == nil || !strings.HasPrefix(err.Error(), "trend.csv:1: ") {
		t.Errorf("another table: %v", err)
	}
	b.Reset()
	if err := trend.WriteOtava(&b, "trend.csv"); err != nil || !strings.Contains(b.String(), "failover_median_ns:\n        column: failover_median_ns\n        direction: -1") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

// A judgement that may be followed by another spends its part of the false alarms: the same loss that fails with all of 5 %
// is inconclusive with a fiftieth of it, rounds that could not fail at all are not judged, and a part above the whole is an error.
func TestGateSpendsAlpha(t *testing.T) {
	const rounds = 11
	mostly := func(i int, m *made) { // one of eleven speaks against it, with a middling rank
		m.p99 += 700*time.Microsecond + time.Duration(i)*10*time.Microsecond
		if i == 3 {
			m.p99 = usual.p99 + 270*time.Microsecond
		}
	}
	const metric = "fixed rate insert quorum p99"
	adjusted := 0.0
	for alpha, want := range map[float64]Outcome{0: Failed, 0.001: Undecided} {
		g := judge(t, side("base", rounds, func(int, *made) {}), side("head", rounds, func(i int, m *made) { m.p99 += m.p99 / 5 }), Options{Paired: true, Alpha: alpha})
		if got := outcomes(g)[metric]; got != want {
			t.Errorf("alpha %g: %q, want %q", alpha, got, want)
		}
	}
	for _, d := range judge(t, side("base", rounds, func(int, *made) {}), side("head", rounds, mostly), Options{Paired: true}).Differences {
		if d.Name == metric {
			adjusted = d.Adjusted
		}
	}
	if adjusted <= 0.02 {
		t.Fatalf("the test's loss has p %g", adjusted)
	}
	if g := judge(t, side("base", rounds, func(int, *made) {}), side("head", rounds, mostly), Options{Paired: true, Alpha: 0.02}); outcomes(g)[metric] == Failed {
		t.Errorf("p %g fails with alpha 0.02", adjusted)
	}
	for alpha, want := range map[float64]int{0.05: 8, 0.02: 8, 0.005: 10} { // 5 metrics: 5/2^8 = 0.0195, 5/2^10 = 0.0049
		if g := judge(t, side("base", 12, func(int, *made) {}), side("head", 12, func(int, *made) {}), Options{Paired: true, Alpha: alpha}); g.Least != want {
			t.Errorf("alpha %g: at least %d rounds, want %d", alpha, g.Least, want)
		}
	}
	// 5/C(12,6) = 0.0054, 5/C(14,7) = 0.0015.
	for alpha, want := range map[float64]int{0.05: 6, 0.005: 7} {
		if g := judge(t, side("base", 12, func(int, *made) {}), side("head", 12, func(int, *made) {}), Options{Alpha: alpha}); g.Least != want {
			t.Errorf("alpha %g, no pairs: at least %d runs, want %d", alpha, g.Least, want)
		}
	}
	if _, err := Judge(side("base", 8, func(int, *made) {}), side("head", 8, func(int, *made) {}), Options{Alpha: 0.06}); err == nil {
		t.Error("alpha 0.06 is accepted")
	}
}

// Numbers of another machine are not judged, however different they are; a paired gate is of one machine by construction.
func TestGateOfAnotherMachine(t *testing.T) {
	on := func(cpu string, memory int64, change func(int, *made)) *Side {
		s := side(cpu, 8, change)
		for _, round := range s.Rounds {
			for _, r := range round.Runs {
				r.Environment = &result.Environment{CPUModel: cpu, Cores: 2, Memory: memory}
			}
		}
		return s
	}
	slow := func(_ int, m *made) { m.p50 *= 3 }
	for _, c := range []struct {
		name   string
		cpu    string
		memory int64
		want   Outcome
	}{{"same", "one", 8<<30 - 200<<20, Failed}, {"another processor", "two", 8 << 30, Undecided}, {"more memory", "one", 16 << 30, Undecided}} {
		g := judge(t, on("one", 8<<30-100<<20, func(int, *made) {}), on(c.cpu, c.memory, slow), Options{})
		if g.Outcome != c.want || g.Foreign != (c.want == Undecided) {
			t.Errorf("%s: %q, foreign %v", c.name, g.Outcome, g.Foreign)
		}
		if said := strings.Contains(strings.Join(g.Notes, " "), "no metric is judged"); said != g.Foreign {
			t.Errorf("%s: notes %q", c.name, g.Notes)
		}
	}
}

package render

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// Runs made up for these tests: believable in shape, measured by nobody.

// sampleScenario is a run of three nodes whose leader is killed, brought back, and later slowed down.
func sampleScenario(seed uint64) *result.Run {
	rng := rand.New(rand.NewPCG(seed, 1))
	at := func(s float64) time.Duration { return time.Duration(s * 1e9) }
	r := &result.Run{
		Schema: result.SchemaVersion, Kind: result.KindScenario, Name: "leader-kill",
		About:   "The leader is killed under load and comes back empty; nothing that a quorum acknowledged may be lost.",
		Started: time.Date(2026, 3, 4, 2, 17, 33, 0, time.UTC), Duration: at(32),
		Checks: []result.Check{
			{Name: "run validity", Verdict: result.Pass, Checked: 7, Detail: "every fault was seen to bite, the generator kept up"},
			{Name: "lost writes", Verdict: result.Pass, Checked: 148213, Detail: "every write acknowledged by a quorum was read on all three nodes"},
			{Name: "stale reads", Verdict: result.Pass, Checked: 61203, Worst: 212 * time.Millisecond, Detail: "oldest value read, the promise is 500 ms"},
			{Name: "dual leader", Verdict: result.Pass, Checked: 3, Detail: "no term had two leaders"},
			{Name: "convergence", Verdict: result.Pass, Checked: 3, Detail: "equal state at index 163114 after 0.41 s"},
			{Name: "linearizability", Verdict: result.NotExercised, Detail: "no key had more than one writer"},
		},
		Thresholds: []result.Threshold{
			{Metric: "insert", Expr: "p(99) < 20ms", Got: "6.81 ms", Met: true},
			{Metric: "failover", Expr: "max < 600ms", Got: "241 ms", Met: true},
		},
		Nodes: []result.Node{
			{Name: "n1", Identity: "127.0.0.1:7001", Log: "nodes/n1.log"},
			{Name: "n2", Identity: "127.0.0.1:7002", Log: "nodes/n2.log"},
			{Name: "n3", Identity: "127.0.0.1:7003", Log: "nodes/n3.log"},
		},
		Phases: []result.Phase{{Name: "warm-up", To: at(2)}, {Name: "before", From: at(2), To: at(10)}, {Name: "during", From: at(10), To: at(24)}, {Name: "recovery", From: at(24), To: at(32)}},
		Events: []result.Event{
			{T: 0, Kind: result.Observe, Node: "n1", Role: result.RoleFollower, Term: 2, Leader: "n2"},
			{T: 0, Kind: result.Observe, Node: "n2", Role: result.RoleLeader, Term: 2, Leader: "n2"},
			{T: 0, Kind: result.Observe, Node: "n3", Role: result.RoleFollower, Term: 2, Leader: "n2"},
			{T: at(10.137), Kind: result.Inject, Fault: "kill-leader", Action: "kill", Targets: []string{"n2"}, Detail: "SIGKILL, pid 4711"},
			{T: at(10.138), Kind: result.Process, Node: "n2", State: result.ProcessExited, Detail: "signal: killed"},
			{T: at(10.155), Kind: result.Observe, Node: "n1", Role: result.RoleDead, Term: 2},
			{T: at(10.160), Kind: result.Observe, Node: "n3", Role: result.RoleDead, Term: 2},
			{T: at(10.230), Kind: result.Observe, Node: "n3", Role: result.RoleRequested, Term: 3},
			{T: at(10.305), Kind: result.Observe, Node: "n3", Role: result.RoleLeader, Term: 3, Leader: "n3"},
			{T: at(10.312), Kind: result.Observe, Node: "n1", Role: result.RoleFollower, Term: 3, Leader: "n3"},
			{T: at(15.140), Kind: result.Heal, Fault: "kill-leader", Bit: new(true), Detail: "process was gone for 5.0 s"},
			{T: at(15.140), Kind: result.Process, Node: "n2", State: result.ProcessRunning},
			{T: at(15.6), Kind: result.Observe, Node: "n2", Role: result.RoleUndefined},
			{T: at(16.3), Kind: result.Observe, Node: "n2", Role: result.RoleFollower, Term: 3, Leader: "n3"},
			{T: at(20), Kind: result.Inject, Fault: "slow-leader", Action: "latency", Targets: []string{"n3"}, Detail: "100 ms ± 20 ms"},
			{T: at(20), Kind: result.Link, From: "n1", To: "n3", State: result.LinkDegraded, Detail: "latency 100 ms"},
			{T: at(20), Kind: result.Link, From: "n2", To: "n3", State: result.LinkDegraded, Detail: "latency 100 ms"},
			{T: at(23.9), Kind: result.Heal, Fault: "slow-leader", Bit: new(true), Detail: "318 kB held back"},
			{T: at(23.9), Kind: result.Link, From: "n1", To: "n3", State: result.LinkUp},
			{T: at(23.9), Kind: result.Link, From: "n2", To: "n3", State: result.LinkUp},
		},
		Failovers: []result.Failover{{
			Fault: "kill-leader", Inject: at(10.137), OldLeader: "n2", NewLeader: "n3", Term: 3,
			Suspect: at(0.018), Candidate: at(0.093), Elected: at(0.168), Agreed: at(0.175), Resolution: 5 * time.Millisecond,
			Levels: []result.Recovery{
				{Level: "quorum", FirstOK: at(0.189), Gap: at(0.193)},
				{Level: "leader", FirstOK: at(0.184), Gap: at(0.188)},
				{Level: "once", FirstOK: at(0.186), Gap: at(0.190)},
			},
		}},
		Outages: []result.Outage{
			{Level: "quorum", From: at(10.133), To: at(10.326), Fault: "kill-leader"},
			{Level: "leader", From: at(10.133), To: at(10.321), Fault: "kill-leader"},
			{Level: "once", From: at(10.133), To: at(10.323), Fault: "kill-leader"},
		},
		Exposures: []result.Exposure{
			{Level: "quorum", Acked: 103749, Unknown: 41},
			{Level: "once", Acked: 14821, Unknown: 6},
			{Level: "leader", Acked: 29643, Lost: 3, Allowed: 3, Unknown: 12, Window: 4200 * time.Microsecond},
		},
		Losses: []result.Loss{
			sampleLoss("k00041877", "leader", 10.1366, -0.0004, true),
			sampleLoss("k00009210", "leader", 10.1342, -0.0028, true),
			sampleLoss("k00077121", "leader", 10.1328, -0.0042, true),
		},
		Files: []result.File{
			{Path: result.SummaryFile, About: "totals, checks and verdicts"},
			{Path: result.TimeseriesFile, About: "every interval behind the pictures"},
			{Path: result.EventsFile, About: "faults, roles, processes and links"},
			{Path: result.HistoryFile, About: "every operation"},
			{Path: "nodes/n1.log"},
			{Path: "nodes/n2.log"},
			{Path: "nodes/n3.log"},
		},
		Environment: sampleEnvironment("chaos", "run", "scenarios/leader-kill.yaml", "--seed", "42"),
	}
	type load struct {
		op, level  string
		rate, base float64 // per second; median in ms
	}
	loads := []load{{"insert", "quorum", 3500, 1.9}, {"insert", "leader", 1000, 0.7}, {"insert", "once", 500, 1.2}, {"get", "", 8000, 0.35}}
	totals := map[string]*result.Series{}
	for t := 2.0; t < 32-1e-9; {
		width := 1.0
		if t >= 9-1e-9 && t < 12-1e-9 || t >= 15-1e-9 && t < 17-1e-9 {
			width = 0.1
		}
		phase := "before"
		if t >= 10-1e-9 {
			phase = "during"
		}
		if t >= 24-1e-9 {
			phase = "recovery"
		}
		for _, l := range loads {
			jitter := func(scale float64) float64 { return math.Exp(scale * rng.NormFloat64()) }
			slow, ok, fail, info, refused := 1.0, 1.0, 0.0, 0.0, 0.0
			switch write := l.op != "get"; {
			case write && t > 10.05 && t < 10.25:
				ok, fail, info = 0.02, 0.1, 0.012
				if t > 10.15 {
					ok, fail, info = 0, 0.16, 0
				}
				slow = 40
			case write && t > 10.25 && t < 10.45:
				ok, slow = 1.5, 60
			case write && t >= 20 && t < 24 && l.level != "leader":
				slow = 50
			case !write && t > 10.05 && t < 10.35:
				ok, refused = 0.7, 0.02
			}
			n := l.rate * width
			row := result.Interval{
				T: at(t), Width: at(width), Phase: phase, Op: l.op, Level: l.level,
				OK: int64(n * ok * jitter(0.01)), Fail: int64(n * (fail + refused)), Info: int64(n * info), Refused: int64(n * refused), LagP99: 60 * time.Microsecond,
			}
			if row.OK > 0 {
				ms := func(v float64) time.Duration { return time.Duration(v * 1e6) }
				row.P50 = ms(l.base * slow * jitter(0.04))
				row.P90 = ms(l.base * slow * 1.5 * jitter(0.05))
				row.P99 = ms(l.base * slow * 2.9 * jitter(0.12))
				row.Max = max(row.P99, ms(l.base*slow*5*jitter(0.4)))
			}
			r.Intervals = append(r.Intervals, row)
			id := phase + "/" + l.op + "/" + l.level
			s := totals[id]
			if s == nil {
				s = &result.Series{Phase: phase, Op: l.op, Level: l.level, Offered: l.rate}
				totals[id] = s
			}
			s.Counts.OK += row.OK
			s.Counts.Fail += row.Fail
			s.Counts.Info += row.Info
			s.Counts.Refused += row.Refused
			s.Span += row.Width
		}
		t += width
	}
	for _, phase := range []string{"before", "during", "recovery"} {
		for _, l := range loads {
			s := totals[phase+"/"+l.op+"/"+l.level]
			s.Counts.Intended = s.Counts.OK + s.Counts.Fail + s.Counts.Info
			s.Throughput = float64(s.Counts.OK) / s.Span.Seconds()
			tail := 0.9
			if phase == "during" && l.op != "get" {
				tail = 2.2
			}
			sampleSpectrum(s, l.base, tail)
			r.Series = append(r.Series, *s)
		}
	}
	for t := 0.0; t <= 32; t += 0.5 {
		for i, n := range []string{"n1", "n2", "n3", "harness"} {
			if n == "n2" && t > 10 && t < 15.5 {
				continue
			}
			used := 0.2 + 0.08*float64(i)
			cpu := at(t * used)
			if n == "n2" && t >= 15.5 {
				cpu = at((t - 15.2) * used)
			}
			r.Resources = append(r.Resources, result.Resource{T: at(t), Node: n, CPU: cpu, RSS: int64(38<<20 + t*1.1e6 + float64(i)*3e6)})
		}
	}
	r.Judge()
	return r
}

// sampleSpectrum fills the latencies of s from a curve that rises with the logarithm of the tail.
func sampleSpectrum(s *result.Series, base, tail float64) {
	value := func(q, factor float64) time.Duration {
		nines := -math.Log10(1 - q)
		return time.Duration(base * factor * 1e6 * (0.55 + 0.55*nines + 0.1*math.Pow(nines, 1+tail)))
	}
	for _, q := range result.SpectrumQuantiles(s.Counts.OK) {
		wait := 1.0
		if q > 0.9 {
			wait = 1 + (q-0.9)*4*tail
		}
		s.Spectrum = append(s.Spectrum, result.Point{Q: q, Response: time.Duration(float64(value(q, 1)) * wait), Service: value(q, 0.9)})
	}
	fill := func(l *result.Latency, factor float64) {
		l.Count = s.Counts.OK
		l.Mean = value(0.6, factor)
		l.P50, l.P90, l.P99, l.P999, l.Max = value(0.5, factor), value(0.9, factor), value(0.99, factor), value(0.999, factor), value(0.99995, factor)
	}
	fill(&s.Response, 1)
	fill(&s.Service, 0.9)
	s.Lag = result.Latency{Count: s.Counts.Intended, Mean: 12 * time.Microsecond, P50: 9 * time.Microsecond, P90: 22 * time.Microsecond, P99: 61 * time.Microsecond, Max: 410 * time.Microsecond}
}

func sampleLoss(name, level string, acked, from float64, allowed bool) result.Loss {
	at := time.Duration(acked * 1e9)
	return result.Loss{
		Kind: result.Lost, Cache: "bench", Key: name, Version: 7, Level: level, Node: "n1, n3", Found: "version 6", Allowed: allowed,
		AckedAt: at, Fault: "kill-leader", FromFault: time.Duration(from * 1e9),
		History: []result.Operation{
			{Proc: 11, Kind: "insert", Version: 6, Level: level, Node: "n2", Invoke: at - 1312*time.Millisecond, Return: at - 1311*time.Millisecond, Outcome: "ok"},
			{Proc: 11, Kind: "insert", Version: 7, Level: level, Node: "n2", Invoke: at - 600*time.Microsecond, Return: at, Outcome: "ok"},
			{Proc: 11, Kind: "insert", Version: 8, Level: level, Node: "n2", Invoke: at + 900*time.Microsecond, Outcome: "info", Reason: "stream broken"},
			{Proc: 23, Kind: "get", Version: 6, Node: "n3", Invoke: at + 850*time.Millisecond, Return: at + 851*time.Millisecond, Outcome: "ok"},
		},
	}
}

func sampleEnvironment(command ...string) *result.Environment {
	return &result.Environment{
		Commit: "4610085c0ffee0123456789abcdef0123456789a", GoVersion: "go1.26.8", OS: "linux", Arch: "amd64", Kernel: "6.8.0-45-generic",
		CPUModel: "AMD EPYC 7B13", Cores: 2, MaxProcs: 2, Memory: 8 << 30, Seed: 42, Command: command,
		Versions:   map[string]string{"google.golang.org/grpc": "v1.85.0", "go.etcd.io/raft/v3": "v3.7.0", "github.com/Shopify/toxiproxy/v2": "v2.12.0"},
		LoadBefore: []float64{0.21, 0.35, 0.4}, LoadAfter: []float64{1.62, 0.71, 0.5}, Steal: 0.004, Busy: 0.81,
	}
}

// sampleViolated is a run that goes wrong in every way the page can show.
func sampleViolated() *result.Run {
	r := sampleScenario(7)
	r.Name, r.About = "leader-isolated-with-clients", "The leader loses its followers but keeps its clients."
	r.Checks[1] = result.Check{
		Name: "lost writes", Verdict: result.Violated, Count: 2, Checked: 148213,
		Detail: "2 writes acknowledged by a quorum are absent on every node", Examples: []string{"bench/k00041877 version 7, acked at 10.137 s", "bench/k00009210 version 7, acked at 10.134 s"},
	}
	r.Checks[3] = result.Check{Name: "dual leader", Verdict: result.Violated, Count: 1, Checked: 3, Detail: "n2 and n3 both acknowledged writes at term 3"}
	r.Thresholds[1] = result.Threshold{Metric: "failover", Expr: "max < 150ms", Got: "189 ms"}
	r.Exposures[0].Lost, r.Exposures[0].Window = 2, 2800*time.Microsecond
	r.Losses[0] = sampleLoss("k00041877", "quorum", 10.1366, -0.0004, false)
	r.Losses[1] = sampleLoss("k00009210", "quorum", 10.1342, -0.0028, false)
	for i := range r.Events {
		if e := &r.Events[i]; e.Fault == "kill-leader" {
			e.Fault, e.Action, e.Detail = "isolate-leader", "partition", "blackhole, both ways"
		}
	}
	at := func(s float64) time.Duration { return time.Duration(s * 1e9) }
	var kept []result.Event
	for _, e := range r.Events {
		if e.Kind == result.Process || e.Node == "n2" && e.T > 0 {
			continue
		}
		kept = append(kept, e)
	}
	r.Events = append(kept,
		result.Event{T: at(11.9), Kind: result.Observe, Node: "n2", Role: result.RoleUndefined},
		result.Event{T: at(15.3), Kind: result.Observe, Node: "n2", Role: result.RoleFollower, Term: 3, Leader: "n3"},
		result.Event{T: at(10.137), Kind: result.Link, From: "n2", To: "n1", State: result.LinkDown, Detail: "blackhole"},
		result.Event{T: at(15.14), Kind: result.Link, From: "n2", To: "n1", State: result.LinkUp},
		result.Event{T: at(10.137), Kind: result.Link, From: "n2", To: "n3", State: result.LinkDown, Detail: "blackhole"},
		result.Event{T: at(15.14), Kind: result.Link, From: "n2", To: "n3", State: result.LinkUp},
	)
	r.Warnings = []string{"the generator was the limit for 0.4 s: p99 of the lag was 3.1 ms there"}
	r.Judge()
	return r
}

// sampleUnknown is a run of which nothing can be concluded: its fault was never seen to bite, and a checker ran out of time.
func sampleUnknown() *result.Run {
	r := sampleScenario(5)
	r.Name, r.About = "follower-isolated", "A follower hears nothing from the others for 5 s."
	r.Checks[0] = result.Check{Name: "run validity", Verdict: result.Unknown, Count: 1, Checked: 9, Detail: "the fault isolate-follower was injected and never seen to take effect"}
	r.Checks[len(r.Checks)-1] = result.Check{Name: "linearizability", Verdict: result.Unknown, Checked: 64, Detail: "3 of 64 keys were not decided within 30 s each"}
	r.Losses = nil
	for i := range r.Exposures {
		r.Exposures[i].Lost, r.Exposures[i].Allowed, r.Exposures[i].Window = 0, 0, 0
	}
	for i := range r.Events {
		if e := &r.Events[i]; e.Kind == result.Heal {
			e.Bit = new(false)
		}
	}
	r.Judge()
	return r
}

// sampleRepeated is the summary of a repeated scenario.
func sampleRepeated(n int) *result.Run {
	r := sampleScenario(3)
	rng := rand.New(rand.NewPCG(3, 3))
	one := r.Failovers[0]
	r.Failovers, r.Events, r.Intervals, r.Resources, r.Phases, r.Thresholds = nil, nil, nil, nil, nil, nil
	r.Losses, r.Files = nil, r.Files[:1]
	for i := range n {
		f := one
		f.Repeat = i + 1
		grow := func(d time.Duration) time.Duration {
			return time.Duration(float64(d) * math.Exp(0.3*rng.NormFloat64()))
		}
		f.Suspect = grow(one.Suspect)
		f.Candidate = f.Suspect + grow(one.Candidate-one.Suspect)
		f.Elected = f.Candidate + grow(one.Elected-one.Candidate)
		f.Agreed = f.Elected + grow(one.Agreed-one.Elected)
		f.Levels = nil
		for _, l := range one.Levels {
			ok := f.Elected + grow(l.FirstOK-one.Elected)
			f.Levels = append(f.Levels, result.Recovery{Level: l.Level, FirstOK: ok, Gap: ok + 4*time.Millisecond})
		}
		r.Failovers = append(r.Failovers, f)
		r.Repeats = append(r.Repeats, result.Repeat{Dir: fmt.Sprint(i + 1), Seed: uint64(42 + i), Verdict: result.Pass})
	}
	r.Repeats[n-1].Verdict, r.Repeats[n-1].Reasons = result.Unknown, []string{"run validity: the generator could not keep up"}
	return r
}

// sampleBench is a benchmark without faults: a stage for each level, then a closed loop.
func sampleBench() *result.Run {
	rng := rand.New(rand.NewPCG(9, 9))
	r := &result.Run{
		Schema: result.SchemaVersion, Kind: result.KindBench, Name: "bench-s", About: "Each acknowledgement level and Get at a fixed rate, then as fast as it goes.",
		Started: time.Date(2026, 3, 4, 2, 20, 0, 0, time.UTC), Environment: sampleEnvironment("loadgen", "bench", "--size", "s"),
		Checks: []result.Check{{Name: "run validity", Verdict: result.Pass, Checked: 6, Detail: "the generator kept up in every stage"}},
		Files:  []result.File{{Path: result.SummaryFile, About: "totals"}, {Path: result.BenchFile, About: "for benchstat"}},
	}
	var now time.Duration
	for _, s := range []struct {
		phase, op, level string
		rate, base       float64
		closed           bool
	}{
		{"insert quorum", "insert", "quorum", 5000, 1.8, false},
		{"insert leader", "insert", "leader", 5000, 0.6, false},
		{"insert once", "insert", "once", 5000, 1.1, false},
		{"get", "get", "", 20000, 0.2, false},
		{"closed insert quorum", "insert", "quorum", 31000, 4, true},
		{"closed get", "get", "", 88000, 2.4, true},
	} {
		series := result.Series{Phase: s.phase, Op: s.op, Level: s.level, Closed: s.closed, Offered: s.rate, Span: 8 * time.Second}
		if s.closed {
			series.Offered, series.InFlight = 0, 128
		}
		from := now
		for range 8 {
			n := int64(s.rate * math.Exp(0.01*rng.NormFloat64()))
			v := func(f float64) time.Duration {
				return time.Duration(s.base * f * math.Exp(0.05*rng.NormFloat64()) * 1e6)
			}
			r.Intervals = append(r.Intervals, result.Interval{
				T: now, Width: time.Second, Phase: s.phase, Op: s.op, Level: s.level, OK: n,
				P50: v(1), P90: v(1.6), P99: v(3), Max: v(7),
			})
			series.Counts.OK += n
			now += time.Second
		}
		series.Counts.Intended = series.Counts.OK
		series.Throughput = float64(series.Counts.OK) / 8
		sampleSpectrum(&series, s.base, 0.9)
		r.Series = append(r.Series, series)
		r.Phases = append(r.Phases, result.Phase{Name: s.phase, From: from, To: now})
		now += 500 * time.Millisecond
	}
	r.Duration = now
	r.Judge()
	return r
}

// samplePartial is a run that was interrupted before it had anything but a little load.
func samplePartial() *result.Run {
	full := sampleScenario(1)
	r := &result.Run{
		Schema: result.SchemaVersion, Kind: result.KindScenario, Name: "leader-kill", Started: full.Started, Duration: 7 * time.Second,
		Interrupted: "SIGINT", Series: full.Series[:1], Nodes: full.Nodes,
	}
	r.Judge()
	return r
}

// sampleSaturation is a search that found the knee at 9000/s.
func sampleSaturation() *result.Run {
	r := &result.Run{
		Schema: result.SchemaVersion, Kind: result.KindBench, Name: "saturate", About: "the highest rate that holds latency: p(99) < 12.5ms; insert",
		Started: time.Date(2026, 3, 4, 2, 17, 33, 0, time.UTC), Duration: 90 * time.Second, Verdict: result.Pass,
		Checks:      []result.Check{{Name: "highest rate found", Verdict: result.Pass, Checked: 6, Detail: "9000/s held, 9270/s did not"}},
		Environment: sampleEnvironment("loadgen", "saturate"),
	}
	sat := &result.Saturation{Limits: []string{"latency: p(99) < 12.5ms"}, P99Limit: 12500 * time.Microsecond, Rate: 9000, Broken: 9270}
	for _, offered := range []float64{4000, 6000, 9000, 13500, 11022, 9270} {
		st := result.SaturationStep{Offered: offered, Held: offered <= 9000}
		for n := range 3 {
			p99 := time.Duration(1e6 / (1 - min(offered, 9990)/10000) * (1 + 0.1*float64(n)))
			t := result.SaturationTrial{
				Phase: fmt.Sprintf("%.0f/s, try %d", offered, n+1), Held: st.Held,
				Throughput: min(offered, 10000), NotOK: max(0, 1-10000/offered), P50: p99 / 6, P99: p99, Max: 2 * p99, LagP99: time.Duration(offered * 20),
			}
			if !t.Held {
				t.Reason = "latency: p(99) < 12.5ms: " + p99.String()
			}
			st.Trials = append(st.Trials, t)
			r.Series = append(r.Series, result.Series{
				Phase: t.Phase, Op: "insert", Level: "quorum", Counts: result.Counts{Intended: 1000, OK: 1000}, Offered: offered, Throughput: t.Throughput,
				Response: result.Latency{Count: 1000, Mean: t.P50, P50: t.P50, P90: t.P99 / 2, P99: t.P99, Max: t.Max},
			})
		}
		sat.Steps = append(sat.Steps, st)
	}
	r.Saturation = sat
	return r
}

// busyRun is twenty minutes of seven nodes that are not left in peace.
func busyRun() *result.Run {
	rng := rand.New(rand.NewPCG(7, 7))
	r := sampleScenario(7)
	const length = 20 * time.Minute
	r.Name, r.Duration, r.Nodes, r.Events, r.Intervals, r.Resources, r.Series, r.Failovers, r.Losses = "busy", length, nil, nil, nil, nil, nil, nil, nil
	r.Phases = []result.Phase{{Name: "before", To: 10 * time.Second}, {Name: "during", From: 10 * time.Second, To: length - 10*time.Second}, {Name: "recovery", From: length - 10*time.Second, To: length}}
	var names []string
	for i := range 7 {
		name := fmt.Sprintf("n%d", i+1)
		names = append(names, name)
		r.Nodes = append(r.Nodes, result.Node{Name: name, Identity: "127.0.0.1:" + fmt.Sprint(7001+i)})
	}
	up := func(at time.Duration, node string, role result.Role, term uint64) {
		r.Events = append(r.Events, result.Event{T: at, Kind: result.Observe, Node: node, Role: role, Term: term})
	}
	for i := range 240 {
		at, leader, term := 10*time.Second+time.Duration(i)*4900*time.Millisecond, names[i%7], uint64(i+2)
		fault := []string{"kill-leader", "cut-off", "slow-links"}[i%3]
		r.Events = append(r.Events, result.Event{T: at, Kind: result.Inject, Fault: fmt.Sprintf("%s #%d", fault, i), Action: fault, Targets: []string{leader}})
		if fault == "kill-leader" {
			r.Events = append(r.Events, result.Event{T: at, Kind: result.Process, Node: leader, State: result.ProcessExited}, result.Event{T: at + time.Second, Kind: result.Process, Node: leader, State: result.ProcessRunning})
		} else {
			for _, to := range names {
				if to != leader {
					state := map[string]result.State{"cut-off": result.LinkDown, "slow-links": result.LinkDegraded}[fault]
					r.Events = append(r.Events, result.Event{T: at, Kind: result.Link, From: leader, To: to, State: state}, result.Event{T: at + 2*time.Second, Kind: result.Link, From: leader, To: to, State: result.LinkUp},
						result.Event{T: at, Kind: result.Link, From: to, To: leader, State: state}, result.Event{T: at + 2*time.Second, Kind: result.Link, From: to, To: leader, State: result.LinkUp})
				}
			}
		}
		for _, n := range names {
			up(at+time.Duration(100+rng.IntN(50))*time.Millisecond, n, result.RoleDead, term-1)
			up(at+time.Duration(200+rng.IntN(50))*time.Millisecond, n, result.RoleRequested, term)
			up(at+time.Duration(300+rng.IntN(50))*time.Millisecond, n, map[bool]result.Role{true: result.RoleLeader, false: result.RoleFollower}[n == names[(i+1)%7]], term)
		}
		r.Events = append(r.Events, result.Event{T: at + 2*time.Second, Kind: result.Heal, Fault: fmt.Sprintf("%s #%d", fault, i), Bit: new(true)})
		ms := func(n int) time.Duration { return time.Duration(n+rng.IntN(60)) * time.Millisecond }
		r.Failovers = append(r.Failovers, result.Failover{
			Fault: fault, Inject: at, Suspect: ms(100), Candidate: ms(200), Elected: ms(300), Agreed: ms(420), Term: term, OldLeader: leader, NewLeader: names[(i+1)%7],
			Levels: []result.Recovery{{Level: "quorum", FirstOK: ms(400), Gap: ms(400)}, {Level: "leader", FirstOK: ms(380), Gap: ms(400)}, {Level: "once", FirstOK: ms(150), Gap: ms(150)}},
		})
	}
	var keys []key
	for _, op := range []string{"insert", "put", "remove"} {
		for _, level := range []string{"quorum", "leader", "once"} {
			keys = append(keys, key{op, level})
		}
	}
	keys = append(keys, key{"get", "eventual"}, key{"get", "linearizable"}, key{"get", "leader_on_miss"})
	for _, k := range keys {
		for at := time.Duration(0); at < length; at += 100 * time.Millisecond {
			ms := func(v float64) time.Duration { return time.Duration(v * (0.7 + rng.Float64()) * 1e6) }
			row := result.Interval{T: at, Width: 100 * time.Millisecond, Op: k.op, Level: k.level, OK: int64(5 + rng.IntN(5)), P50: ms(1), P90: ms(2.5), P99: ms(6), Max: ms(20)}
			if rng.IntN(10) == 0 {
				row.Fail, row.Info = int64(rng.IntN(3)), int64(rng.IntN(3))
			}
			r.Intervals = append(r.Intervals, row)
		}
		for phase := range 10 { // a spectrum for each operation
			s := sampleScenario(7).Series[0]
			s.Phase, s.Op, s.Level = fmt.Sprintf("part %d", phase), k.op, k.level
			s.Counts = result.Counts{Intended: 10_000, OK: 10_000}
			r.Series = append(r.Series, s)
		}
	}
	for _, n := range append(names, "loadgen") {
		var cpu time.Duration
		for at := time.Duration(0); at < length; at += time.Second {
			cpu += time.Duration(rng.IntN(900)) * time.Millisecond
			r.Resources = append(r.Resources, result.Resource{T: at + time.Duration(rng.IntN(1e6)), Node: n, CPU: cpu, RSS: 100<<20 + rng.Int64N(1<<27)})
		}
	}
	for i := range 300 {
		at := 10*time.Second + time.Duration(i)*3*time.Second
		l := result.Loss{Kind: result.Lost, Cache: "c", Key: fmt.Sprintf("key-%06d", i), Version: int64(i + 1), Level: "once", Node: "n1", Found: "nothing", AckedAt: at, Fault: "kill-leader", FromFault: -time.Millisecond, Allowed: true}
		for j := range 200 {
			begin := at + time.Duration(j-100)*20*time.Millisecond
			l.History = append(l.History, result.Operation{Kind: "put", Version: int64(j + 1), Level: "once", Node: "n1", Outcome: "ok", Invoke: begin, Return: begin + time.Millisecond})
		}
		r.Losses = append(r.Losses, l)
	}
	return r
}

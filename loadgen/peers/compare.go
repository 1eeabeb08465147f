package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/proc"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/internal/interrupt"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/render"
	"github.com/hacache/hacache/reports/result"
)

// comparison measures rows in rounds. It is used by one goroutine.
type comparison struct {
	rows     []row
	rounds   int
	each     time.Duration
	seed     uint64
	workload load.Workload
	systems  []system
	dir      string
	stdout   io.Writer
	stderr   io.Writer

	record  result.Run
	peers   *result.Peers
	rec     *load.Recorder
	present map[string]system // those that were started, by name
	leaders map[string]string // of these, when the load began
	targets []load.Target     // by row; nil where the system is absent
	account result.Check
	answers result.Check
}

func (c *comparison) run(ctx context.Context) error {
	probe := result.Watch(c.seed, os.Args)
	c.record = result.Run{
		Kind: result.KindBench, Name: "compare", Started: time.Now(),
		About: "cachenodes beside what somebody might take instead: three servers of each on this machine, the same closed loop on all of them in turns",
	}
	c.rec = load.NewRecorder(load.RecorderConfig{Start: c.record.Started})
	c.account = result.Check{Name: "every operation accounted for", Verdict: result.NotExercised}
	c.answers = result.Check{Name: "operations answered", Verdict: result.NotExercised}
	failure := c.measureAll(ctx)
	c.close()

	c.rec.Fill(&c.record)
	// Rows are not parts of one load that went on over time, and one after the other they make no picture.
	c.record.Intervals = nil
	for i := range c.record.Series {
		c.record.Series[i].Spectrum = nil
		c.record.Series[i].Level = "" // what it means differs from one system to the next, see Peer.Acknowledged
	}
	totals, err := result.WriteTotals(c.dir, c.record.Started, c.rec.Histograms())
	if err != nil {
		return errors.Join(failure, err)
	}
	c.record.Files = append(c.record.Files, totals)
	if i, ok := errors.AsType[interrupt.Signal](context.Cause(ctx)); ok {
		c.record.Interrupted, failure = string(i), nil
	} else if failure != nil {
		c.record.Failure = failure.Error()
	}
	c.record.Checks = append(c.record.Checks, c.account, c.answers)
	c.record.Peers = c.peers
	c.record.Environment = probe.Environment()
	c.record.Judge()
	if err := result.Write(c.dir, &c.record); err != nil {
		return errors.Join(failure, err)
	}
	page, err := render.Write(c.dir, &c.record)
	if err != nil {
		return errors.Join(failure, err)
	}
	c.print(page)
	if failure != nil {
		return failure
	}
	if code := c.record.ExitCode(); code != result.ExitOK {
		return command.Exit(code)
	}
	return nil
}

func (c *comparison) progress(format string, args ...any) {
	fmt.Fprintf(c.stderr, "%6.1fs  %s\n", c.rec.Now().Seconds(), fmt.Sprintf(format, args...))
}

func (c *comparison) warn(format string, args ...any) {
	c.record.Warnings = append(c.record.Warnings, fmt.Sprintf(format, args...))
}

func (c *comparison) measureAll(ctx context.Context) error {
	if err := c.open(ctx); err != nil {
		return err
	}
	order := rand.New(rand.NewPCG(c.seed, 0))
	for round := range c.rounds {
		c.progress("round %d of %d", round+1, c.rounds)
		// Another order in each round: what a row finds left behind by the one before it is not always the same.
		for _, i := range order.Perm(len(c.rows)) {
			if ctx.Err() != nil {
				return nil
			}
			if c.targets[i] == nil {
				continue
			}
			if err := c.measure(ctx, i, round+1); err != nil {
				return fmt.Errorf("%s: %w", c.rows[i].name, err)
			}
		}
	}
	return c.judgeLeaders(ctx)
}

// open starts the systems that rows need, connects the rows, writes every key once, and looks at what the servers cost
// when nobody asks them anything.
func (c *comparison) open(ctx context.Context) error {
	c.peers, c.present, c.leaders = &result.Peers{}, map[string]system{}, map[string]string{}
	for _, s := range c.systems {
		about := s.about()
		if !slices.ContainsFunc(c.rows, func(r row) bool { return r.system == about.Name }) {
			continue
		}
		if about.Absent == "" {
			c.progress("starting %s %s", about.Name, about.Version)
			if err := c.begin(ctx, s, about.Name); err != nil {
				s.stop()
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				about.Absent = fmt.Sprintf("could not be started: %v", err)
			}
		}
		c.peers.Systems = append(c.peers.Systems, about)
		if about.Absent != "" {
			c.warn("not compared: %s: %s", about.Name, about.Absent)
			c.progress("not compared: %s: %s", about.Name, about.Absent)
			continue
		}
		c.present[about.Name] = s
	}
	if len(c.present) == 0 {
		return errors.New("no system could be started")
	}
	c.targets = make([]load.Target, len(c.rows))
	filled := map[string]bool{}
	for i := range c.rows {
		r := &c.rows[i]
		c.peers.Rows = append(c.peers.Rows, result.PeerRow{Name: r.name, Load: r.load, System: r.system, Operation: r.operation, Base: r.base})
		s := c.present[r.system]
		if s == nil {
			continue
		}
		ready, cancel := context.WithTimeout(ctx, 10*time.Second)
		t, err := s.open(ready, r)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: connect: %w", r.name, err)
		}
		c.targets[i] = t
	}
	for i := range c.rows {
		r := &c.rows[i]
		if c.targets[i] == nil || filled[r.system] || r.kind != client.KindInsert || r.system == echoName {
			continue
		}
		filled[r.system] = true
		if err := c.fill(ctx, i); err != nil {
			return fmt.Errorf("%s: write all keys: %w", r.system, err)
		}
	}
	return c.idle(ctx)
}

// startWithin bounds the start of one system.
const startWithin = 40 * time.Second

func (c *comparison) begin(ctx context.Context, s system, name string) error {
	ready, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if err := s.start(ready); err != nil {
		return err
	}
	leader, err := s.leader(ready)
	c.leaders[name] = leader
	for _, p := range s.servers() {
		c.record.Nodes = append(c.record.Nodes, result.Node{Name: p.Name(), Log: result.NodesDir + "/" + p.Name() + ".log"})
	}
	return err
}

// generator offers what a row says.
func (c *comparison) generator(i int, src load.Source, phase string) load.Generator {
	r, t := &c.rows[i], c.targets[i]
	return load.Generator{
		Target: t, Source: src, Recorder: c.rec, Phase: phase, Drain: 6 * time.Second,
		InFlight: max(1, r.streams*r.window/t.Streams()), // some targets make streams of what others call a window
	}
}

func (c *comparison) source(kind client.Kind, dist load.KeyDist) (load.Source, error) {
	w := c.workload
	w.Dist = dist
	w.Mix = []load.Weight[client.Kind]{{Of: kind, Weight: 1}}
	return w.Source()
}

// fillWithin bounds the writing of all keys of one system.
const fillWithin = 2 * time.Minute

func (c *comparison) fill(ctx context.Context, i int) error {
	src, err := c.source(client.KindInsert, load.KeyDist{Kind: load.KeySequential})
	if err != nil {
		return err
	}
	c.progress("writing %d keys: %s", c.workload.Keys, c.rows[i].system)
	g := c.generator(i, src, "fill "+c.rows[i].system)
	g.Ops = c.workload.Keys
	limited, cancel := context.WithTimeout(ctx, fillWithin)
	defer cancel()
	sum, err := g.Run(limited)
	if err != nil || ctx.Err() != nil {
		return err
	}
	if limited.Err() != nil || sum.Counts.OK < sum.Counts.Intended {
		return fmt.Errorf("%d of %d written in %s", sum.Counts.OK, c.workload.Keys, fillWithin)
	}
	return nil
}

// idleFor is how long servers are watched when nobody asks them anything.
const idleFor = 2 * time.Second

func (c *comparison) idle(ctx context.Context) error {
	var all []*proc.Process
	for _, s := range c.present {
		all = append(all, s.servers()...)
	}
	before, err := processorTime(all)
	if err != nil {
		return err
	}
	began := c.rec.Now()
	timer := time.NewTimer(idleFor)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil
	}
	after, err := processorTime(all)
	c.peers.Idle = float64(after-before) / float64(c.rec.Now()-began)
	return err
}

// processorTime is what the processes have used since their start, together.
func processorTime(all []*proc.Process) (sum time.Duration, err error) {
	for _, p := range all {
		cpu, _, err := proc.Usage(p.Pid())
		if err != nil {
			return 0, errors.Join(err, ended([]*proc.Process{p}))
		}
		sum += cpu
	}
	return sum, nil
}

// spent is what this process and a system's servers have used since their start.
func spent(s system) (time.Duration, error) {
	own, _, err := proc.Usage(os.Getpid())
	if err != nil {
		return 0, err
	}
	servers, err := processorTime(s.servers())
	return own + servers, err
}

// measure offers the load of a row once. Processor time is that of its warm-up too, divided by all its operations.
func (c *comparison) measure(ctx context.Context, i, round int) error {
	r := &c.rows[i]
	src, err := c.source(r.kind, load.KeyDist{})
	if err != nil {
		return err
	}
	phase := fmt.Sprintf("%s, round %d", r.name, round)
	g := c.generator(i, src, phase)
	g.Warmup, g.Duration = c.each/4, c.each
	s := c.present[r.system]
	before, err := spent(s)
	if err != nil {
		return err
	}
	sum, err := g.Run(ctx)
	if err != nil || ctx.Err() != nil {
		return err
	}
	after, err := spent(s)
	if err != nil {
		return err
	}
	c.rec.Flush()
	latency := result.LatencyOf(load.Sum(c.rec.Totals(func(name, _, _ string) bool { return name == phase })).Service)
	turn := result.Turn{
		Round: int64(round), Ops: sum.Counts.OK, NotOK: sum.Counts.Intended - sum.Counts.OK, P50: latency.P50, P99: latency.P99,
		Rate: float64(sum.Counts.OK) / max(sum.Elapsed.Seconds(), 1e-9),
		CPU:  (after - before) / time.Duration(max(sum.Counts.Intended+sum.WarmedUp, 1)),
	}
	c.peers.Rows[i].Rounds = append(c.peers.Rows[i].Rounds, turn)
	c.count(phase, &sum.Counts)
	c.progress("  %-34s %9.0f/s  p50 %s", r.name, turn.Rate, turn.P50.Round(time.Microsecond))
	return nil
}

// count adds the outcomes of a load to the checks of the run.
func (c *comparison) count(phase string, n *result.Counts) {
	c.account.Checked += n.Intended
	c.answers.Checked += n.Intended
	c.answers.Count += n.Intended - n.OK
	if n.Intended == 0 {
		c.answers.Verdict, c.answers.Detail = result.Unknown, phase+": no operation was started"
		return
	}
	switch ended := n.OK + n.Fail + n.Info + n.Missed + n.Unfinished; {
	case ended != n.Intended:
		c.account.Verdict, c.account.Count = result.Unknown, c.account.Count+max(ended-n.Intended, n.Intended-ended)
		c.account.Detail = fmt.Sprintf("%s: %d intended, %d outcomes", phase, n.Intended, ended)
	case c.account.Verdict == result.NotExercised:
		c.account.Verdict = result.Pass
	}
	switch {
	case n.OK == 0:
		c.answers.Verdict, c.answers.Detail = result.Unknown, phase+": none was answered with ok"
	case c.answers.Verdict == result.NotExercised:
		c.answers.Verdict = result.Pass
	}
	if bad := n.Intended - n.OK; bad > 0 {
		c.warn("%s: %d of %d operations were not ok", phase, bad, n.Intended)
	}
	if n.Miss > 0 {
		c.warn("%s: %d gets found nothing", phase, n.Miss)
	}
}

// judgeLeaders says whether each system is led by whom it was led by when the load began: clients of etcd and NATS stay
// with the one that they were connected to.
func (c *comparison) judgeLeaders(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	check := result.Check{Name: result.CheckLeaderKept, Verdict: result.Pass}
	for name, s := range c.present {
		if err := ended(s.servers()); err != nil {
			return err
		}
		ask, cancel := context.WithTimeout(ctx, 10*time.Second)
		leader, err := s.leader(ask)
		cancel()
		check.Checked++
		if err == nil && leader == c.leaders[name] {
			continue
		}
		check.Verdict, check.Count = result.Unknown, check.Count+1
		check.Detail = fmt.Sprintf("%s: led by %s at first, by %s at the end: some of its operations went a longer way", name, c.leaders[name], leader)
		if err != nil {
			check.Detail = fmt.Sprintf("%s: %v", name, err)
		}
	}
	c.record.Checks = append(c.record.Checks, check)
	return nil
}

// close ends everything that was started.
func (c *comparison) close() {
	for _, t := range c.targets {
		if t != nil {
			t.Close()
		}
	}
	for _, s := range c.present {
		s.stop()
	}
}

// print writes the table for a terminal.
func (c *comparison) print(page string) {
	fmt.Fprintf(c.stdout, "compare, %s: %s\n", c.record.Duration.Round(time.Second), c.record.Verdict)
	if e := c.record.Environment; e != nil {
		fmt.Fprintf(c.stdout, "%d cores, %s, load before %.3g, seed %d\n", e.Cores, e.CPUModel, slices.Concat(e.LoadBefore, []float64{math.NaN()})[0], e.Seed)
	}
	tw := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	last := ""
	for i := range c.peers.Rows {
		r := &c.peers.Rows[i]
		if r.Load != last {
			last = r.Load
			fmt.Fprintf(tw, "\n%s\tops/s\tto echo\tp50\tto echo\tp99\tµs/op\t\n", r.Load)
		}
		name := r.System + ": " + r.Operation
		if len(r.Rounds) == 0 {
			fmt.Fprintf(tw, "%s\tnot measured\t\t\t\t\t\t\n", name)
			continue
		}
		micros := func(of func(result.Turn) time.Duration) string {
			v := r.Middle(func(t result.Turn) float64 { return float64(of(t)) / float64(time.Microsecond) })
			if v == 0 {
				return "-" // too few samples beyond it
			}
			return fmt.Sprintf("%.4g", v)
		}
		fmt.Fprintf(tw, "%s\t%.0f\t%s\t%s\t%s\t%s\t%s\t\n", name, r.Middle(func(t result.Turn) float64 { return t.Rate }), ratio(c.peers.RateRatio(r)),
			micros(func(t result.Turn) time.Duration { return t.P50 }), ratio(c.peers.MedianRatio(r)),
			micros(func(t result.Turn) time.Duration { return t.P99 }), micros(func(t result.Turn) time.Duration { return t.CPU }))
	}
	tw.Flush()
	fmt.Fprintln(c.stdout, "\nmedians of the rounds; latencies in µs; to echo: to the echo of the same round; µs/op: processor time of all its servers and of the client")
	for _, w := range c.record.Warnings {
		fmt.Fprintln(c.stdout, "warning:", w)
	}
	for _, k := range c.record.Checks {
		if k.Verdict != result.Pass {
			fmt.Fprintf(c.stdout, "%s: %s: %s\n", k.Verdict, k.Name, k.Detail)
		}
	}
	fmt.Fprintf(c.stdout, "run directory: %s\nreport: %s\n", c.dir, page)
}

func ratio(v float64) string {
	if math.IsNaN(v) {
		return ""
	}
	return fmt.Sprintf("%.2f", v)
}

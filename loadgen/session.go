package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/proc"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/internal/interrupt"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/render"
	"github.com/hacache/hacache/reports/result"
)

// session is one run: its directory, its recorder, its target and what has been
// found out so far. It is used by one goroutine.
type session struct {
	*settings
	stdout io.Writer
	dir    string
	run    *result.Run
	probe  *result.Probe
	rec    *load.Recorder
	live   *liveLine

	log     *os.File
	buffer  *bufio.Writer
	stopRec context.CancelFunc
	wg      sync.WaitGroup

	nodes   *proc.Cluster
	target  load.Target
	cluster *load.Cluster // the target, if it is one
	steps   []step

	guard  guard
	served *metrics // nil: nobody asked for metrics
	// searching: the steps are tries, of which some are meant to be too much.
	searching bool
	perf      *perf // nil: the run is of another kind

	usage   sync.WaitGroup
	samples []result.Resource
}

// step is one generator's run.
type step struct {
	phase   string
	summary *load.Summary
}

// newSession makes the run directory.
func newSession(s *settings, kind result.Kind, about string, stdout, stderr io.Writer) (*session, error) {
	started := time.Now()
	var served *metrics
	if s.metricsAddr != "" {
		var err error
		if served, err = serveMetrics(s.metricsAddr); err != nil {
			return nil, err
		}
	}
	dir, err := result.CreateDir(s.out, s.name, started)
	if err != nil {
		return nil, err
	}
	se := &session{
		settings: s, stdout: stdout, dir: dir, served: served,
		probe: result.Watch(s.seed, os.Args),
		live:  newLiveLine(stderr, s.quiet),
	}
	se.run = &result.Run{Kind: kind, Name: s.name, About: about, Started: started, Events: tagNotes(s.tags)}
	if se.log, err = os.Create(filepath.Join(dir, result.HistogramLogFile)); err != nil {
		return nil, err
	}
	se.buffer = bufio.NewWriter(se.log)
	return se, nil
}

// begin connects, waits for the time at which all segments start, and records
// from then on: the segments' time axes begin at the same moment.
func (s *session) begin(ctx context.Context) error {
	if err := s.connect(ctx); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx) // and not that nothing was connected so soon
		}
		return err
	}
	if s.rec != nil {
		return nil // it has begun, and goes on with another target
	}
	if !s.startAt.IsZero() {
		ahead := time.Until(s.startAt)
		if ahead < 0 {
			return fmt.Errorf("connecting lasted %s longer than until --start-at", -ahead.Round(time.Millisecond))
		}
		s.live.note(fmt.Sprintf("waiting until %s", s.startAt.Format(time.TimeOnly)))
		timer := time.NewTimer(ahead)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil // the load ends before it begins, and says why
		}
	}
	s.record()
	return nil
}

// record begins the time of the run, now.
func (s *session) record() {
	s.run.Started = time.Now()
	if !s.startAt.IsZero() {
		// The moment that was named, not that at which the timer woke us; by one
		// reading of both clocks, so that it is exact.
		s.run.Started = s.run.Started.Add(s.startAt.Sub(s.run.Started))
	}
	s.rec = load.NewRecorder(load.RecorderConfig{
		Start: s.run.Started, Interval: s.interval, Log: s.buffer, OnInterval: s.onInterval,
	})
	if s.served != nil {
		s.served.rec.Store(s.rec)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stopRec = stop
	s.wg.Go(func() { s.rec.Run(ctx) }) // an error of the log is asked for at the end
}

// connect makes the target, starting its nodes if they are ours.
func (s *session) connect(ctx context.Context) error {
	switch s.settings.target {
	case "null":
		s.target = load.Null{Width: s.settings.cluster.Streams}
		return nil
	case "echo":
		e, err := load.NewEcho(load.EchoConfig{Conns: s.settings.cluster.Conns, Streams: s.settings.cluster.Streams, Window: s.generator.InFlight})
		s.target = e
		return err
	}
	cfg := s.settings.cluster
	if s.start {
		logs := filepath.Join(s.dir, result.NodesDir)
		if err := os.MkdirAll(logs, 0o755); err != nil {
			return err
		}
		s.live.note(fmt.Sprintf("starting %d nodes", s.settings.nodes))
		ready, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		var err error
		s.nodes, err = proc.LocalCluster(ready, proc.ClusterSpec{
			Binary: s.cachenode, Nodes: s.settings.nodes, Token: cfg.Token, LogDir: logs,
		})
		if err != nil {
			return err
		}
		cfg.Addrs = s.nodes.Addrs
		for i, p := range s.nodes.Nodes {
			s.run.Nodes = append(s.run.Nodes, result.Node{
				Name: p.Name(), Identity: s.nodes.Addrs[i], Log: result.NodesDir + "/" + p.Name() + ".log",
			})
		}
	} else {
		for _, addr := range cfg.Addrs {
			s.run.Nodes = append(s.run.Nodes, result.Node{Name: addr, Identity: addr})
		}
	}
	c, err := load.NewCluster(cfg)
	if err != nil {
		return err
	}
	s.target, s.cluster = c, c
	ready, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := c.Ready(ready); err != nil {
		if auth, ok := errors.AsType[*client.AuthError](err); ok {
			return command.Usagef("--token: %w", auth)
		}
		return err
	}
	return nil
}

// sample notes once a second what this process and the nodes use, until ctx is
// done.
func (s *session) sample(ctx context.Context) {
	pids := map[string]int{"loadgen": os.Getpid()}
	if s.nodes != nil {
		for _, p := range s.nodes.Nodes {
			pids[p.Name()] = p.Pid()
		}
	}
	names := slices.Sorted(maps.Keys(pids))
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for _, name := range names {
			r := result.Resource{T: s.rec.Now(), Node: name}
			var err error
			if r.CPU, r.RSS, err = proc.Usage(pids[name]); err != nil {
				continue // it has ended
			}
			if name == "loadgen" {
				r.Goroutines = int64(runtime.NumGoroutine())
			}
			s.samples = append(s.samples, r)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// offer runs one generator, on the target and the recorder of the session.
func (s *session) offer(ctx context.Context, g load.Generator, w load.Workload) error {
	src, err := w.Source()
	if err != nil {
		return command.Usage(err)
	}
	return s.with(ctx, &g, src, func(ctx context.Context) (*load.Summary, error) { return g.Run(ctx) })
}

// with prepares a generator, and watches while run runs it: what the processes
// use, and whether a threshold ends it.
func (s *session) with(ctx context.Context, g *load.Generator, src load.Source, run func(context.Context) (*load.Summary, error)) error {
	if ctx.Err() != nil {
		return nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	s.usage.Go(func() { s.sample(ctx) })
	defer s.usage.Wait()
	defer stop(nil)
	g.Target, g.Source, g.Recorder = s.target, src, s.rec
	s.live.phase(g.Phase)
	s.guard.watch(s.rec.Now()+g.Warmup, stop)
	defer s.guard.watch(0, nil)
	sum, err := run(ctx)
	if sum != nil {
		s.steps = append(s.steps, step{g.Phase, sum})
	}
	return err
}

// guard ends a load when a threshold is not kept that was to do so.
type guard struct {
	mu   sync.Mutex
	from time.Duration // when recording began
	stop context.CancelCauseFunc
}

// missedError is why a load was ended by a threshold.
type missedError struct{ limit, got string }

func (e missedError) Error() string {
	return fmt.Sprintf("ended early: the threshold %s was not kept: %s", e.limit, e.got)
}

// watch begins to guard a load, or ends it with stop nil.
func (g *guard) watch(from time.Duration, stop context.CancelCauseFunc) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.from, g.stop = from, stop
}

// onInterval is called at the end of each interval of the recorder.
func (s *session) onInterval(rows []result.Interval) {
	s.live.interval(rows)
	s.guard.mu.Lock()
	defer s.guard.mu.Unlock()
	if s.guard.stop == nil {
		return
	}
	for i := range s.thresholds {
		t := &s.thresholds[i]
		if !t.Abort || s.rec.Now()-s.guard.from < t.After {
			continue
		}
		if j := t.Judge(s.rec, load.Overload{}); !j.Met && j.Doubt == "" {
			s.guard.stop(missedError{t.String(), j.Got})
			return
		}
	}
}

// close ends the target and the nodes.
func (s *session) close() {
	if s.target != nil {
		s.target.Close()
	}
	if s.nodes != nil {
		s.nodes.Stop(5 * time.Second)
	}
	if s.served != nil {
		s.served.stop()
	}
}

// finish judges the run, writes everything, prints the summary, and returns the
// exit code as an error. failure is what ended the run early, if anything did.
func (s *session) finish(ctx context.Context, failure error) error {
	if s.cluster != nil {
		st := s.cluster.Stats()
		if st.Late > 0 {
			s.warn("%d answers came after their operation had been given up", st.Late)
		}
		if st.Unmatched > 0 {
			s.warn("%d answers belonged to no operation", st.Unmatched)
		}
		if st.Unrouted > 0 {
			s.warn("%d operations were sent to any node, because nobody knew the leader", st.Unrouted)
		}
	}
	if failure == nil && ctx.Err() == nil {
		failure = s.lostNode()
	}
	s.close()
	if s.rec == nil {
		s.record()
	}
	s.stopRec()
	s.wg.Wait()
	s.live.clear()
	if len(s.steps) == 0 && failure != nil && !s.start {
		s.log.Close()
		os.RemoveAll(s.dir) // it never began, and the error says all there is
		return failure
	}
	s.rec.Fill(s.run)
	files, err := s.writeHistograms()
	for _, e := range []error{err, s.rec.LogErr(), s.buffer.Flush(), s.log.Close()} {
		if e != nil && failure == nil {
			failure = e
		}
	}
	s.run.Files = append(s.run.Files, result.File{Path: result.HistogramLogFile, About: "histograms of each interval (HdrHistogram log, ns)"})
	s.run.Files = append(s.run.Files, files...)
	if of := s.generator.Segment.Of; of > 0 {
		s.run.Segment = &result.Segment{Index: int64(s.generator.Segment.Index), Of: int64(of)}
	}
	if cause, ok := errors.AsType[interrupt.Signal](context.Cause(ctx)); ok {
		s.run.Interrupted = string(cause)
	} else if failure != nil {
		s.run.Failure = failure.Error()
	}
	s.judge()
	s.run.Resources = s.samples
	s.run.Environment = s.probe.Environment()
	if err := result.Write(s.dir, s.run); err != nil {
		return err
	}
	page, err := render.Write(s.dir, s.run)
	if err != nil {
		return err
	}
	if s.json {
		if err := printJSON(s.stdout, s.dir); err != nil {
			return err
		}
	} else {
		switch sat := s.run.Saturation; {
		case s.perf != nil:
			s.perf.print(s.stdout)
		case sat != nil && len(sat.Steps) > 0:
			printHead(s.stdout, s.run)
			printKnee(s.stdout, sat)
			printTail(s.stdout, s.run)
		default:
			printTable(s.stdout, s.run)
		}
		fmt.Fprintf(s.stdout, "run directory: %s\nreport: %s\n", s.dir, page)
	}
	if failure != nil && s.run.Interrupted == "" {
		return failure
	}
	if code := s.run.ExitCode(); code != result.ExitOK {
		return command.Exit(code)
	}
	return nil
}

// writeHistograms writes the distributions of the whole run. The tries of a
// search have no percentile files of their own: there are dozens.
func (s *session) writeHistograms() ([]result.File, error) {
	hs := s.rec.Histograms()
	if s.run.Saturation == nil {
		return result.WriteDistributions(s.dir, s.run.Started, hs)
	}
	totals, err := result.WriteTotals(s.dir, s.run.Started, hs)
	return []result.File{totals}, err
}

// lostNode is an error if a node of our own is gone although nobody stopped it.
func (s *session) lostNode() error {
	if s.nodes == nil {
		return nil
	}
	for _, p := range s.nodes.Nodes {
		select {
		case <-p.Done():
			return fmt.Errorf("%s ended during the run (%v): %s", p.Name(), p.Wait(), p.LastLine())
		default:
		}
	}
	return nil
}

func (s *session) warn(format string, args ...any) {
	s.run.Warnings = append(s.run.Warnings, fmt.Sprintf(format, args...))
}

// judge makes the checks of what the numbers themselves say.
func (s *session) judge() {
	account := result.Check{Name: "every operation accounted for", Verdict: result.NotExercised}
	answered := result.Check{Name: "operations answered", Verdict: result.NotExercised}
	for _, st := range s.steps {
		c := st.summary.Counts
		name := st.phase
		if name == "" {
			name = "the load"
		}
		if st.summary.Counts.Intended == 0 {
			continue
		}
		account.Checked += c.Intended
		if sum := c.OK + c.Fail + c.Info + c.Missed + c.Unfinished; sum != c.Intended {
			account.Verdict = result.Unknown
			account.Count += max(sum-c.Intended, c.Intended-sum)
			account.Detail = fmt.Sprintf("%s: %d intended, %d outcomes", name, c.Intended, sum)
		} else if account.Verdict == result.NotExercised {
			account.Verdict = result.Pass
		}
		answered.Checked += c.Intended
		answered.Count += c.Intended - c.OK
		switch {
		case c.OK == 0:
			answered.Verdict, answered.Detail = result.Unknown, name+": none was answered"
		case answered.Verdict == result.NotExercised:
			answered.Verdict = result.Pass
		}
		if st.summary.Aborted != nil {
			if missed, ok := errors.AsType[missedError](st.summary.Aborted); ok {
				s.warn("%s: %v", name, missed)
			}
		}
		if s.searching {
			continue // the search says what each try was
		}
		if c.Misrouted > 0 {
			s.warn("%s: %d operations were answered by a node that did not lead (any more)", name, c.Misrouted)
		}
		if bad := c.Fail + c.Info + c.Unfinished; bad > 0 {
			s.warn("%s: %d of %d operations failed, %d have an unknown outcome", name, c.Fail, c.Intended, c.Info+c.Unfinished)
		}
		if st.summary.Limited {
			s.warn("%s: the generator was late by %s at p99: its latencies are no verdict on the target", name, round(st.summary.Pacer.P99))
		}
		if st.summary.Saturated {
			s.warn("%s: saturated: windows were full %d times, and what was offered is not what the target received", name, st.summary.FullWaits)
		}
	}
	s.run.Checks = append(s.run.Checks, account, answered)
	s.judgeThresholds()
	if s.run.Saturation != nil {
		s.judgeSearch()
	}
	s.run.Judge()
}

// judgeThresholds compares every limit with what was measured. One that cannot
// be judged makes the run unknown: it was neither kept nor missed.
func (s *session) judgeThresholds() {
	var over load.Overload
	for _, st := range s.steps {
		over.Limited = over.Limited || st.summary.Limited
		over.Saturated = over.Saturated || st.summary.Saturated
	}
	doubt := result.Check{Name: "thresholds can be judged", Verdict: result.Pass, Checked: int64(len(s.thresholds))}
	for i := range s.thresholds {
		t := &s.thresholds[i]
		j := t.Judge(s.rec, over)
		if j.Doubt != "" {
			doubt.Verdict, doubt.Count = result.Unknown, doubt.Count+1
			doubt.Examples = append(doubt.Examples, t.String()+": "+j.Doubt)
			doubt.Detail = doubt.Examples[0]
			continue
		}
		s.run.Thresholds = append(s.run.Thresholds, result.Threshold{Metric: t.Metric, Expr: t.Expr, Got: j.Got, Met: j.Met})
	}
	if len(s.thresholds) > 0 {
		s.run.Checks = append(s.run.Checks, doubt)
	}
}

func printJSON(w io.Writer, dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, result.SummaryFile))
	if err != nil {
		return err
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		return err
	}
	doc["dir"] = dir
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(doc)
}

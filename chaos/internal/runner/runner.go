// Package runner carries out a plan against a cluster and leaves the evidence
// in a run directory: cluster up and healthy, entries preloaded, warm-up, load
// beside the timeline of faults and the observer, everything healed, the nodes in
// agreement, every key read on every node, then the checks.
//
// Whatever happens on the way, an error, an interrupt or a panic in a check,
// faults are healed, processes are stopped, and what was recorded until then
// is written.
package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/chaos/internal/check"
	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

// System is the cluster under test. The real one is made of processes; tests
// of the runner have one in virtual time.
type System interface {
	// Nodes are the members in the order of their slots.
	Nodes() []Endpoint
	// WaitHealthy waits until all nodes are up, agree, and have applied the
	// same. Its error says what was missing.
	WaitHealthy(ctx context.Context) error
	// WaitReady waits until all nodes are up and agree, under load.
	WaitReady(ctx context.Context) error
	// Observe asks a node for its role. Role, Term, Leader, Cluster and Detail
	// of the event are used.
	Observe(ctx context.Context, node string) (result.Event, error)
	// Target is where load goes: to the leader, or to any of the first members.
	Target(toAny bool, streams, window int) (load.Target, error)
	// Spread is where probes go: one stream to each of the first members, in
	// the order of Nodes.
	Spread(window int) (load.Target, error)
	// Read starts a read on a node's own connection, which no fault touches.
	Read(node string, op *client.Op, done func(client.Outcome)) error
	// Inject breaks something. begin is called with the nodes it hits at the
	// moment the deed begins.
	Inject(ctx context.Context, in *scenario.Injection, begin func(targets []string)) (*Injected, error)
	// Digest asks a node what it holds, and what it has forgotten by itself.
	Digest(ctx context.Context, node string) (check.Digest, error)
	// Usage is what a node's process has used so far, and how long it had to wait
	// for a processor; false if it has none. Machine is the same of the harness and
	// of the machine, each with its name. Both are called by one goroutine.
	Usage(node string) (result.Resource, bool)
	Machine() []result.Resource
	// Stop ends every process, politely within the given time.
	Stop(within time.Duration) error
}

// Injected is a fault in force.
type Injected struct {
	Targets []string
	Links   []string // FROM>TO
	Detail  string
	// Bit tells whether the fault was seen to take effect, and the evidence;
	// it is asked before Heal. Heal may be called more than once.
	Bit  func(ctx context.Context) (bool, string)
	Heal func(ctx context.Context) error
	// Hostile is what hostile clients came to, after Heal; nil for other faults.
	Hostile func() []check.Hostile
}

// Boot is what a System is started with.
type Boot struct {
	Nodes int
	// Members is how many of the nodes form the cluster.
	Members int
	// Hooks says that the nodes were built with fault hooks, which the plan uses.
	Hooks  bool
	Env    map[string]string
	Caches []scenario.Cache
	LogDir string
	Seed   uint64
	// Direct leaves the proxies out.
	Direct bool
	// TLS secures nodes and clients with certificates of the run's own.
	TLS bool
	// External is the cluster to attach to; nil: one is started. Of the rest
	// only Nodes and Members count with it.
	External *scenario.External
	// Process is to be called whenever a process changes its state.
	Process func(node string, state result.State, detail string)
}

// Config of a run. All fields but Scale, Env, Progress, Probe and Sleep are
// required.
type Config struct {
	Plan *scenario.Plan
	// Scale is the factor by which the plan's scenario was shortened, see
	// [scenario.Scenario.Scale]; 0: it was not.
	Scale float64
	// Source is the scenario file, byte for byte.
	Source []byte
	// Dir is the run directory. It exists and is empty.
	Dir  string
	Boot func(ctx context.Context, b Boot) (System, error)
	// Env is added to the nodes' environment, and stands as a warning in the
	// result: what was run is not what the scenario says.
	Env map[string]string
	// Progress is called ten times a second, from one goroutine.
	Progress func(Status)
	// Probe watches the machine; nil leaves the environment out.
	Probe *result.Probe
	// Sleep is how load generators wait for short times; nil is the kernel's
	// precise sleep. Tests in virtual time set it to time.Sleep.
	Sleep func(time.Duration)
}

// Status is one moment of a run, for the person who watches.
type Status struct {
	Phase         string
	At, Length    time.Duration // of the timeline
	Roles         map[string]result.Event
	Faults        []string // in force
	OK, Fail, Inf int64
}

// Patience of the phases that have no limit of their own.
const (
	bootPatience  = 30 * time.Second
	healPatience  = 20 * time.Second
	readPatience  = 30 * time.Second
	stopPatience  = 5 * time.Second
	drainPatience = 5 * time.Second
)

// run is one run in progress.
type run struct {
	Config
	start   time.Time
	system  System
	history *history.Writer
	rec     *load.Recorder
	probing *load.Recorder // its numbers are not used: probes are not load
	keys    *keySet
	stock   *stock // what is preloaded; nil: nothing
	count   *counters
	facts   check.Facts
	origin  time.Duration // of the timeline, in run time
	limits  *limits       // that may abort the run; nil: none

	mu     sync.Mutex // guards what follows
	events []result.Event
	logged chan struct{} // closed, and made anew, when there is another event
	file   *os.File      // events.jsonl
	usage  []result.Resource
	roles  map[string]result.Event
	states map[string]int // how often the process of a node changed its state
	open   []*active
	phase  string
	// injected says that there was a fault.
	injected bool
}

// active is a fault that was injected and not healed.
type active struct {
	in   *scenario.Injection
	what *Injected
}

// Run carries out the plan. The result is there, and written, unless the error
// says that nothing could be; a run that failed on its way is a result with a
// Failure.
func Run(ctx context.Context, cfg Config) (*result.Run, error) {
	r := &run{Config: cfg, start: time.Now(), keys: newKeySet(), count: newCounters(), limits: newLimits(cfg.Plan.Scenario), roles: map[string]result.Event{}, states: map[string]int{}, logged: make(chan struct{}), phase: "boot"}
	if err := r.prepare(); err != nil {
		return nil, err
	}
	written := make(chan error, 1)
	go func() { written <- r.history.Run() }()

	failure := r.guarded(ctx)

	r.history.Close()
	if err := <-written; err != nil {
		r.facts.HistoryError = err.Error()
	}
	return r.conclude(ctx, failure)
}

// guarded is execute, with a panic as an error: the evidence must be written.
func (r *run) guarded(ctx context.Context) error {
	return guard(func() error { return r.execute(ctx) })
}

// guard calls f and makes an error of its panic.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}

// now is the time since the start of the run.
func (r *run) now() time.Duration { return time.Since(r.start) }

// prepare makes the files of the run directory that grow during the run.
func (r *run) prepare() error {
	if err := os.WriteFile(filepath.Join(r.Dir, result.ScenarioFile), r.Source, 0o644); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(r.Dir, result.NodesDir), 0o755); err != nil {
		return err
	}
	var names []string
	for i := range r.Plan.Scenario.Cluster.Nodes {
		names = append(names, fmt.Sprintf("n%d", i+1))
	}
	var err error
	if r.file, err = os.Create(filepath.Join(r.Dir, result.EventsFile)); err != nil {
		return err
	}
	r.history, err = history.Create(filepath.Join(r.Dir, result.HistoryFile), history.Header{Scenario: r.Plan.Scenario.Name, Seed: r.Plan.Seed, Nodes: names, Scale: r.Scale})
	if err != nil {
		r.file.Close()
	}
	return err
}

// log appends an event to the record at once, so that a run that is killed
// leaves it.
func (r *run) log(e result.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	close(r.logged)
	r.logged = make(chan struct{})
	if err := result.EncodeEvents(r.file, e); err != nil && r.facts.HistoryError == "" {
		r.facts.HistoryError = err.Error()
	}
}

func (r *run) note(format string, args ...any) {
	r.log(result.Event{T: r.now(), Kind: result.Note, Detail: fmt.Sprintf(format, args...)})
}

// see keeps the newest observation of each node for the live line.
func (r *run) see(e result.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.roles[e.Node] = e
}

func (r *run) enter(phase string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase = phase
}

// execute is the run itself, from the first process to the last.
func (r *run) execute(ctx context.Context) (err error) {
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stopBackground()
	if r.Progress != nil {
		wg.Go(func() { r.report(background) })
	}

	s := r.Plan.Scenario
	boot := Boot{Nodes: s.Cluster.Nodes, Members: s.Cluster.Members, Hooks: s.NeedsHooks(), Env: r.environment(), Caches: s.Cluster.Caches, LogDir: filepath.Join(r.Dir, result.NodesDir), Seed: r.Plan.Seed, Direct: !s.Cluster.Proxied(), TLS: s.Cluster.TLS, External: s.Cluster.External}
	boot.Process = func(node string, state result.State, detail string) {
		r.log(result.Event{T: r.now(), Kind: result.Process, Node: node, State: state, Detail: detail})
		r.mu.Lock()
		defer r.mu.Unlock()
		r.states[node]++
	}
	if r.system, err = r.Boot(ctx, boot); err != nil {
		return fmt.Errorf("start the cluster: %w", err)
	}
	defer func() { // the last thing: what comes before needs the nodes
		r.enter("stop")
		r.facts.Stopping = r.now()
		r.note("run over: stopping the nodes")
		if serr := r.system.Stop(stopPatience); serr != nil {
			err = errors.Join(err, fmt.Errorf("stop the cluster: %w", serr))
		}
	}()
	up, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	if err := r.system.WaitHealthy(up); err != nil {
		return fmt.Errorf("the cluster did not become healthy: %w", reasonOf(ctx, err))
	}
	r.note("cluster healthy")

	r.rec = load.NewRecorder(load.RecorderConfig{Start: r.start, Interval: interval(r.Plan.Length)})
	r.probing = load.NewRecorder(load.RecorderConfig{Start: r.start})
	observing, stopObserving := context.WithCancel(background)
	defer stopObserving()
	wg.Go(func() { r.observe(observing) })
	wg.Go(func() { r.sample(observing) })
	if slices.ContainsFunc(s.Cluster.Caches, func(c scenario.Cache) bool { return c.Forgets() }) {
		wg.Go(func() { r.watchForgetting(observing) })
	}
	if s.Cluster.External != nil {
		defer r.leave(context.WithoutCancel(ctx))
	}
	if err := r.preload(ctx); err != nil {
		return err
	}
	recording, stopRecording := context.WithCancel(background)
	defer stopRecording()
	wg.Go(func() { r.rec.Run(recording) })

	defer r.healAll(context.WithoutCancel(ctx)) // also on a panic
	if err := r.offer(ctx); err != nil {
		return err
	}
	r.healAll(context.WithoutCancel(ctx))
	if err := context.Cause(ctx); err != nil {
		return err
	}
	r.settle(ctx)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	r.enter("read")
	if err := r.finalReads(ctx); err != nil {
		r.facts.FinalError = err.Error()
	} else {
		r.facts.FinalReads = true
	}
	r.verifyStock(ctx)
	return context.Cause(ctx)
}

// environment is what the nodes get beside what makes them a cluster.
func (r *run) environment() map[string]string {
	env := map[string]string{}
	maps.Copy(env, r.Plan.Scenario.Cluster.Env)
	maps.Copy(env, r.Env)
	return env
}

// reasonOf prefers the reason why a wait was cancelled to the fact that it was.
func reasonOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// interval is the width of the rows of the time series: fine enough to see a
// failover, coarse enough for a page.
func interval(length time.Duration) time.Duration {
	if length <= 2*time.Minute {
		return 100 * time.Millisecond
	}
	return time.Second
}

// timeline injects and heals at the times of the plan. Each fault has its own
// pace: one that waits for the nodes must not keep another from healing. A panic
// in one is returned at once, and ends the load.
func (r *run) timeline(ctx context.Context, stop context.CancelCauseFunc) error {
	if !r.waitUntil(ctx, -phaseLead) {
		return nil
	}
	r.enter("load")
	r.rec.Phase("before")
	type sequence struct {
		fault   *scenario.Fault
		nemesis string
	}
	series := map[sequence][]*scenario.Injection{}
	for i := range r.Plan.Injections {
		in := &r.Plan.Injections[i]
		s := sequence{fault: in.Fault}
		if in.Nemesis {
			s = sequence{nemesis: in.Series}
		}
		series[s] = append(series[s], in)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, ins := range series {
		wg.Go(func() {
			err := guard(func() error {
				for _, in := range ins {
					if !r.carryOut(ctx, in) {
						break
					}
				}
				return nil
			})
			if err != nil {
				stop(err)
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// carryOut waits for the time of an injection, performs it, and heals it. It
// returns false when ctx is done.
func (r *run) carryOut(ctx context.Context, in *scenario.Injection) bool {
	at := in.At
	if in.Room > 0 {
		if !r.waitUntil(ctx, in.At-in.Phase) {
			return false
		}
		// Nodes that recovered late are hit late, by as much as leaves the
		// next injection its time. The phase counts from when they had: else
		// a late one would always come right after a recovery.
		ready, cancel := context.WithTimeout(ctx, in.Room-injectReserve)
		err := r.system.WaitReady(ready)
		cancel()
		if ctx.Err() != nil {
			return false
		}
		at = max(at, r.now()-r.origin+in.Phase)
		if err == nil {
			err = tooLate(in, at, r.Plan.Length)
		}
		if err != nil {
			r.log(result.Event{T: r.now(), Kind: result.Note, Fault: in.Name, Action: check.Skipped, Detail: fmt.Sprintf("%s skipped: the nodes were not ready: %v", in.Name, err)})
			return true
		}
	}
	if in.Fault.On != "" {
		if !r.waitUntil(ctx, in.At-in.Phase) {
			return false
		}
		if !r.await(ctx, in.Fault.On) {
			r.note("fault %s: no %s was seen", in.Name, in.Fault.On)
			return ctx.Err() == nil
		}
		at = r.now() - r.origin + in.Phase
	}
	if !r.waitUntil(ctx, at) {
		return false
	}
	r.inject(ctx, in)
	if !r.waitUntil(ctx, min(at+(in.Heal-in.At), r.Plan.Length)) {
		return false
	}
	r.heal(ctx, in)
	return true
}

// leastAfter is how much of the load has to be left after a heal, if the plan
// leaves as much: with less it is not seen whether the nodes recover.
const leastAfter = 2 * time.Second

// tooLate says why an injection that would be late is left out; nil: it is not.
func tooLate(in *scenario.Injection, at, length time.Duration) error {
	left := func(at time.Duration) time.Duration { return length - at - in.Fault.For.D() }
	switch {
	case at >= length:
		return errors.New("the load had ended when they were")
	case left(in.At) >= leastAfter && left(at) < leastAfter:
		return errors.New("the load would have ended before they could recover")
	}
	return nil
}

// injectReserve is the time left for an injection itself, so that a late one
// does not delay the next.
const injectReserve = 100 * time.Millisecond

// manyInjections is from when on the numbers of the load are not kept apart for
// each injection, but as one phase from the first to the last.
const manyInjections = 12

// phaseLead is how much earlier than the first recorded operation its phase
// begins, so that it does not fall into the one before.
const phaseLead = 5 * time.Millisecond

// waitUntil waits for a time of the timeline; false if ctx was done first.
func (r *run) waitUntil(ctx context.Context, at time.Duration) bool {
	timer := time.NewTimer(r.origin + at - r.now())
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

func (r *run) inject(ctx context.Context, in *scenario.Injection) {
	begun := false
	what, err := r.system.Inject(ctx, in, func(targets []string) {
		begun = true
		r.during()
		r.log(result.Event{T: r.now(), Kind: result.Inject, Fault: in.Name, Action: in.Fault.Action, Targets: targets, Detail: in.Fault.Describe()})
	})
	if err != nil {
		r.note("fault %s: %v", in.Name, err)
		if begun { // it had begun, and was undone
			r.log(result.Event{T: r.now(), Kind: result.Heal, Fault: in.Name, Action: in.Fault.Action, Bit: new(false), Detail: err.Error()})
			r.after(in)
		}
		return
	}
	for _, l := range what.Links {
		r.link(l, in.Fault.Action)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = append(r.open, &active{in, what})
}

// link logs the state of a path when a fault begins, or with action "" when it
// ends.
func (r *run) link(path, action string) {
	from, to, ok := cutPath(path)
	if !ok {
		return
	}
	state := result.LinkDown
	switch action {
	case "":
		state = result.LinkUp
	case "latency", "loss", "bandwidth", "slice", "slow-close", "cut-after":
		state = result.LinkDegraded
	}
	r.log(result.Event{T: r.now(), Kind: result.Link, From: from, To: to, State: state})
}

// heal ends one fault if it is in force.
func (r *run) heal(ctx context.Context, in *scenario.Injection) {
	r.mu.Lock()
	i := slices.IndexFunc(r.open, func(a *active) bool { return a.in == in })
	if i < 0 {
		r.mu.Unlock()
		return
	}
	a := r.open[i]
	r.open = slices.Delete(r.open, i, i+1)
	r.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healPatience)
	defer cancel()
	bit, evidence := a.what.Bit(ctx)
	err := a.what.Heal(ctx)
	e := result.Event{T: r.now(), Kind: result.Heal, Fault: in.Name, Action: in.Fault.Action, Targets: a.what.Targets, Bit: &bit, Detail: evidence}
	if err != nil {
		e.Detail += "; heal: " + err.Error()
	}
	r.log(e)
	for _, l := range a.what.Links {
		r.link(l, "")
	}
	if a.what.Hostile != nil {
		found := a.what.Hostile()
		r.mu.Lock()
		r.facts.Hostile = append(r.facts.Hostile, found...)
		r.mu.Unlock()
	}
	r.after(in)
}

// during begins the phase of a fault for the numbers of the load.
func (r *run) during() {
	r.mu.Lock()
	first := !r.injected
	r.injected = true
	r.mu.Unlock()
	if first || len(r.Plan.Injections) < manyInjections {
		r.rec.Phase("during")
	}
}

// after ends it.
func (r *run) after(in *scenario.Injection) {
	if last := r.Plan.Injections[len(r.Plan.Injections)-1]; len(r.Plan.Injections) < manyInjections || in.Name == last.Name {
		r.rec.Phase(r.between())
	}
}

// between names the phase between two faults.
func (r *run) between() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.open) > 0 {
		return "during"
	}
	return "recovery"
}

// healAll ends whatever is in force.
func (r *run) healAll(ctx context.Context) {
	for {
		r.mu.Lock()
		if len(r.open) == 0 {
			r.mu.Unlock()
			return
		}
		in := r.open[0].in
		r.mu.Unlock()
		r.heal(ctx, in)
	}
}

// settle waits until the nodes agree.
func (r *run) settle(ctx context.Context) {
	r.enter("settle")
	limit := r.Plan.Scenario.Checks.Converge.D()
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	from := r.now()
	err := r.system.WaitHealthy(wait)
	r.facts.ConvergeFrom, r.facts.ConvergedIn = from, r.now()-from
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		r.facts.Divergence = err.Error()
		r.note("not converged: %v", err)
		return
	}
	r.facts.Converged = true
	r.note("converged after %v", r.facts.ConvergedIn)
	r.compareStates(ctx)
}

// readWindow is how many final reads are open on one node.
const readWindow = 512

// finalReads reads every key on every node. A read that is refused or gets
// lost is tried again until the patience ends; only its last outcome is
// recorded.
func (r *run) finalReads(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	keys := r.keys.all()
	r.recordStock(keys)
	var wg sync.WaitGroup
	errs := make([]error, len(r.system.Nodes()))
	for i, n := range r.system.Nodes() {
		wg.Go(func() {
			if unread := r.readNode(ctx, n.Name, finalWriter+writer(i), keys); unread > 0 {
				errs[i] = fmt.Errorf("%d of %d keys could not be read on %s", unread, len(keys), n.Name)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// finalWriter numbers the processes of final reads apart from all others.
const finalWriter writer = 1 << 16

// The wait before a final read is tried again, at first and at most.
const (
	retryPause    = 20 * time.Millisecond
	maxRetryPause = time.Second
)

// readNode reads keys on one node and returns how many it could not.
func (r *run) readNode(ctx context.Context, node string, as writer, keys []entry) (unread int) {
	type slot struct {
		op    history.Op
		pause time.Duration // before it is tried again
	}
	free := make(chan struct{}, readWindow)
	again := make(chan slot, len(keys)) // has room for all: never blocks
	for i, k := range keys {
		again <- slot{pause: retryPause, op: history.Op{
			Proc: versionOf(as, uint64(i)), Kind: client.KindGet.String(), Cache: k.cache, Key: k.key, Mode: modeName(0), Node: node, Phase: history.Final,
		}}
	}
	var mu sync.Mutex
	left := len(keys)
	done := make(chan struct{})
	if left == 0 {
		return 0
	}
	finish := func(s slot) {
		r.history.Record(s.op)
		mu.Lock()
		defer mu.Unlock()
		if left--; left == 0 {
			close(done)
		}
	}
	retry := func(s slot) {
		pause := s.pause
		s.pause = min(2*s.pause, maxRetryPause)
		time.AfterFunc(pause, func() { again <- s })
	}
	attempt := func(s slot) {
		op := client.Op{Kind: client.KindGet, Cache: s.op.Cache, Key: s.op.Key, Deadline: time.Second}
		s.op.Intended = r.now()
		s.op.Send = s.op.Intended
		err := r.system.Read(node, &op, func(o client.Outcome) {
			s.op.Return = max(r.now(), s.op.Send)
			s.op.Found, s.op.Version = false, 0
			conclude(&s.op, &op, &o)
			<-free
			if s.op.Outcome == history.OK || ctx.Err() != nil {
				finish(s)
				return
			}
			retry(s)
		})
		if err != nil {
			<-free
			s.op.Return, s.op.Outcome, s.op.Reason = s.op.Send, history.Dropped, "not connected"
			if ctx.Err() != nil {
				finish(s)
				return
			}
			retry(s)
		}
	}
	for {
		select {
		case s := <-again:
			free <- struct{}{}
			attempt(s)
		case <-done:
			return 0
		case <-ctx.Done():
			for range readWindow { // what is open ends by its deadline
				free <- struct{}{}
			}
			mu.Lock()
			defer mu.Unlock()
			return left
		}
	}
}

// maxSamples bounds how often each process is looked at in a run.
const maxSamples = 3000

// sampleEvery is the time between two samples of a run of some length: fine enough
// to say of a standstill of a second how much the machine had part in it.
func sampleEvery(length time.Duration) time.Duration {
	return max(200*time.Millisecond, length/maxSamples)
}

// sample records what the nodes, the harness and the machine use.
func (r *run) sample(ctx context.Context) {
	tick := time.NewTicker(sampleEvery(r.Plan.Length))
	defer tick.Stop()
	for {
		var rows []result.Resource
		for _, n := range r.system.Nodes() {
			if u, ok := r.system.Usage(n.Name); ok {
				u.T, u.Node = r.now(), n.Name
				rows = append(rows, u)
			}
		}
		for _, u := range r.system.Machine() {
			u.T = r.now()
			rows = append(rows, u)
		}
		r.mu.Lock()
		r.usage = append(r.usage, rows...)
		r.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// report shows the state of the run to whoever watches.
func (r *run) report(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s := Status{Length: r.Plan.Length, Roles: map[string]result.Event{}}
		s.OK, s.Fail, s.Inf = r.count.get()
		r.mu.Lock()
		s.Phase = r.phase
		if r.origin > 0 {
			s.At = r.now() - r.origin
		}
		for n, e := range r.roles {
			s.Roles[n] = e
		}
		for _, a := range r.open {
			s.Faults = append(s.Faults, a.in.Name)
		}
		r.mu.Unlock()
		r.Progress(s)
	}
}

// writeFacts saves what the checks need beside history and events.
func (r *run) writeFacts() error {
	data, err := json.MarshalIndent(&r.facts, "", "  ")
	if err != nil {
		return err
	}
	return result.ReplaceFile(filepath.Join(r.Dir, FactsFile), append(data, '\n'))
}

// writeUsage saves what the nodes used, which the checks read back too.
func (r *run) writeUsage() error {
	var buf bytes.Buffer
	if err := result.EncodeResources(&buf, r.usage); err != nil {
		return err
	}
	return result.ReplaceFile(filepath.Join(r.Dir, result.ResourcesFile), buf.Bytes())
}

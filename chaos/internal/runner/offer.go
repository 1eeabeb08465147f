package runner

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/loadgen/load"
)

// offered is everything that is sent to the nodes between the warm-up and the
// final reads. Each part writes values of its own.
type offered struct {
	*run
	names   []string // of the workloads, in order
	nameOf  func(addr string) string
	writers writer // given out
	targets []load.Target

	generators []*load.Generator // by names
	prober     *load.Generator
	sampling   *registers // nil: not asked for
	visiting   *visits    // the same
}

// offer runs the load, the probes and the timeline until all have ended.
func (r *run) offer(ctx context.Context) error {
	r.enter("warmup")
	r.mu.Lock()
	r.origin = r.now() + r.Plan.Warmup
	r.mu.Unlock()
	r.facts.LoadFrom, r.facts.LoadTo = r.origin, r.origin+r.Plan.Length

	o := &offered{run: r, names: slices.Sorted(maps.Keys(r.Plan.Scenario.Load)), nameOf: r.nameOf()}
	defer o.close()
	if err := o.prepare(); err != nil {
		return err
	}
	// What ends the load early is no reason not to judge what was recorded.
	load, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i, g := range append(o.generators, o.prober) {
		wg.Go(func() {
			sum, err := g.Run(load)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				r.facts.LoadError = err.Error()
			case g.Recorder == r.rec && sum.Limited:
				r.facts.Generator = fmt.Sprintf("%s was sent up to %v late (p99)", o.names[i], sum.Pacer.P99.Round(time.Microsecond))
			}
		})
	}
	if o.sampling != nil {
		wg.Go(func() { o.sampling.use(load) })
	}
	if o.visiting != nil {
		wg.Go(func() { o.visiting.make(load) })
	}
	var broken error
	wg.Go(func() { broken = r.timeline(load, stop) })
	var watch sync.WaitGroup
	if r.limits != nil {
		watch.Go(func() { r.watchLimits(load, stop) })
	}
	wg.Wait()
	stop(nil)
	watch.Wait()
	r.facts.LoadTo = min(r.facts.LoadTo, r.now())
	return broken
}

// prepare connects to the nodes for all parts of the scenario.
func (o *offered) prepare() error {
	s := o.Plan.Scenario
	for _, name := range o.names {
		g, err := o.generator(s.Load[name])
		if err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
		o.generators = append(o.generators, g)
	}
	if err := o.probe(s); err != nil {
		return fmt.Errorf("probes: %w", err)
	}
	if l := s.Checks.Linearizable; l != nil {
		c, err := o.callers(history.Register)
		if err != nil {
			return err
		}
		o.sampling = newRegisters(c, l.Keys, s.Cluster.Members)
	}
	if s.Checks.Session {
		c, err := o.callers(history.Session)
		if err != nil {
			return err
		}
		o.visiting = &visits{callers: c, seed: o.Plan.Seed, nodes: s.Cluster.Members, end: o.origin + o.Plan.Length}
	}
	return nil
}

func (o *offered) close() {
	for _, t := range o.targets {
		t.Close()
	}
}

// writer returns one that nobody has.
func (o *offered) writer() writer {
	o.writers++
	return o.writers - 1
}

func (o *offered) watch(as writer, phase history.Phase) *scribe {
	return &scribe{out: o.history, as: as, warmup: o.origin, phase: phase, nameOf: o.nameOf, keys: o.keys, stock: o.stock, counter: o.count, limits: o.limits, phaseAt: o.livePhase}
}

// generator makes the generator of a workload.
func (o *offered) generator(w *scenario.Workload) (*load.Generator, error) {
	as := o.writer()
	seed := o.Plan.Seed + uint64(as)
	source, err := workload(w, as, seed)
	if err != nil {
		return nil, err
	}
	g := &load.Generator{
		Source: source, Recorder: o.rec, Seed: seed, InFlight: w.InFlight,
		Warmup: o.Plan.Warmup, Duration: w.Duration.D(), Drain: drainPatience,
		FollowPhases: true, Observer: o.watch(as, history.Load), Sleep: o.Sleep,
	}
	streams := w.Streams
	switch {
	case w.Schedule.Closed > 0:
		streams = min(streams, w.Schedule.Closed)
		g.InFlight = (w.Schedule.Closed + streams - 1) / streams
	case w.Schedule.Poisson > 0:
		g.Schedule = load.Poisson{PerSecond: float64(w.Schedule.Poisson)}
	case len(w.Schedule.Stages) > 0:
		g.Schedule = stages(w.Schedule.Stages)
	case w.Schedule.Burst != nil:
		b := w.Schedule.Burst
		g.Schedule = load.Burst{High: float64(b.High), On: b.On.D(), Low: float64(b.Low), Off: b.Off.D()}
	default:
		g.Schedule = load.Constant{PerSecond: float64(w.Schedule.Constant)}
	}
	if w.Retry == 0 {
		g.Target, err = o.system.Target(w.Route == "any", streams, g.InFlight)
	} else {
		// Each copy is recorded by the target; what the generator measures is
		// no client's latency.
		g.Observer, g.FollowPhases, g.Recorder = nil, false, load.NewRecorder(load.RecorderConfig{Start: o.start})
		g.Target, err = o.retrier(as, streams, w.Retry)
	}
	if err != nil {
		return nil, err
	}
	o.targets = append(o.targets, g.Target)
	return g, nil
}

func stages(of []scenario.Stage) load.Stages {
	shapes := map[string]load.Shape{"linear": load.ShapeLinear, "step": load.ShapeStep, "sine": load.ShapeSine}
	var s load.Stages
	for _, stage := range of {
		s.Steps = append(s.Steps, load.Stage{To: float64(stage.To), Over: stage.Over.D(), Shape: shapes[stage.Shape]})
	}
	return s
}

func (o *offered) retrier(as writer, streams, copies int) (load.Target, error) {
	spread, err := o.system.Spread(probeWindow)
	if err != nil {
		return nil, err
	}
	return newRetrier(o.run, as, streams, copies, spread, o.nameOf), nil
}

// probeWindow is how many probes may be open on one node, and how many
// operations of callers. Those that a dead one holds end by their deadline.
const probeWindow = 1024

func (o *offered) probe(s *scenario.Scenario) error {
	source, err := newProbes(o.writer(), s)
	if err != nil {
		return err
	}
	o.prober = &load.Generator{
		Source: source, Recorder: o.probing, Schedule: load.Constant{PerSecond: float64(s.Probes.Rate) * float64(len(s.Probes.Levels))},
		Warmup: o.Plan.Warmup, Duration: o.Plan.Length, InFlight: probeWindow, Drop: true, Drain: drainPatience,
		Observer: o.watch(source.as, history.Probe), Sleep: o.Sleep,
	}
	if o.prober.Target, err = o.system.Spread(probeWindow); err != nil {
		return err
	}
	o.targets = append(o.targets, o.prober.Target)
	return nil
}

// callers makes the callers of one kind of traffic.
func (o *offered) callers(phase history.Phase) (*callers, error) {
	target, err := o.system.Spread(probeWindow)
	if err != nil {
		return nil, fmt.Errorf("%s traffic: %w", phase, err)
	}
	o.targets = append(o.targets, target)
	return &callers{run: o.run, as: o.writer(), phase: phase, target: target, nameOf: o.nameOf}, nil
}

// nameOf maps the address of a connection to the name of its node.
func (r *run) nameOf() func(addr string) string {
	names := map[string]string{}
	for _, n := range r.system.Nodes() {
		names[n.Addr] = n.Name
	}
	return func(addr string) string { return names[addr] }
}

package load

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/reports/result"
)

// Generator offers the operations of a Source to a Target at the times of a
// Schedule, and records what came of each. Target, Source, Recorder and one of
// Duration and Ops are required.
//
// An operation that is late is sent at once and is late; no intended time is
// ever moved. With all windows full the operation waits, and its response time
// with it, or with Drop it is counted as missed.
type Generator struct {
	Target   Target
	Source   Source
	Recorder *Recorder

	// Schedule says when. nil is a closed loop: as many operations as the
	// windows hold are in flight, and each is followed by another one.
	Schedule Schedule
	// Seed of the schedule.
	Seed uint64
	// Segment is the part of the whole load that this generator offers.
	Segment Segment
	// InFlight is the window of each stream; 0 is 32.
	InFlight int
	// Drop: an operation that finds all windows full is missed.
	Drop bool
	// Think is the pause of a closed loop between an answer and the next
	// operation.
	Think time.Duration

	// Warmup comes before the schedule, at the schedule's mean rate, and is not
	// recorded.
	Warmup time.Duration
	// Duration is how long operations are intended after the warm-up; 0: until
	// Ops have been, or the schedule ends.
	Duration time.Duration
	// Ops bounds the number of operations of all segments, warm-up included; 0:
	// no bound.
	Ops uint64
	// Drain bounds the wait for what is still in flight or waiting at the end;
	// 0 is 10 s. After an abort it is 2 s at most.
	Drain time.Duration

	// Turns, if not nil, are when the load is offered: the schedule's time passes
	// in them alone, and a closed loop sends in them alone. Warmup must be 0, and
	// Duration is that of both loads, pauses included.
	Turns *Turns

	// Phase is the name under which the operations are recorded.
	Phase string
	// Phases, if there are any, divide what is recorded by its intended time:
	// the first begins after the warm-up, the last one goes on to the end.
	Phases []PhaseSpan
	// FollowPhases records each operation in the phase that the Recorder is in
	// when it is taken up, instead of one of its own.
	FollowPhases bool

	// Observer, if not nil, sees each operation, of the warm-up also.
	Observer Observer

	// Sleep is how the pacer waits for short times; nil is [PreciseSleep].
	// Tests in virtual time set it to time.Sleep.
	Sleep func(time.Duration)
}

// Segment is one part of a load that several generators offer together, on
// machines of their own: of N generators with the same schedule, source and
// seed, the one with Index k takes the operations k, k+N, k+2N and so on. No
// operation belongs to two of them, and together they are the whole. The zero
// value is the whole.
type Segment struct {
	Index uint64 // 0 to Of-1
	Of    uint64 // 0 is 1
}

func (s Segment) of() uint64 { return max(s.Of, 1) }

// has reports whether operation i belongs to the segment.
func (s Segment) has(i uint64) bool { return s.Of < 2 || i%s.Of == s.Index }

// String is what ParseSegment reads: 1/1 is the whole.
func (s Segment) String() string { return fmt.Sprintf("%d/%d", s.Index+1, s.of()) }

// maxSegments bounds the parts of a load: each of them walks the whole plan.
const maxSegments = 1024

// ParseSegment reads "2/8": the second of eight.
func ParseSegment(text string) (Segment, error) {
	var i, n uint64
	if _, err := fmt.Sscanf(text, "%d/%d", &i, &n); err != nil || i < 1 || i > n || n > maxSegments || text != fmt.Sprintf("%d/%d", i, n) {
		return Segment{}, fmt.Errorf("segment %q: want i/n with i from 1 to n and n at most %d, such as 2/8", text, maxSegments)
	}
	return Segment{i - 1, n}, nil
}

// PhaseSpan is a stretch of a load with a name of its own.
type PhaseSpan struct {
	Name string
	For  time.Duration // more than 0
}

// Observer sees operations begin and end. Its methods are called on the hot
// path by several goroutines at once: they must be quick and must not block.
// What they are given is theirs to read until they return.
type Observer interface {
	// Invoke is called before an operation is handed to the target.
	Invoke(*Operation)
	// Return is called once for each Invoke, with the outcome. An operation
	// that was still in flight at the end has StatusInfo, or StatusFail if it is
	// a read, and Err is [ErrUnfinished].
	Return(*Operation, *client.Outcome)
}

// ErrUnfinished is in the outcome that an [Observer] sees of an operation that
// was in flight when the generator stopped waiting.
var ErrUnfinished = errors.New("load: still in flight at the end")

// Operation is what an [Observer] sees. All times are since the start of the
// Recorder.
type Operation struct {
	// Index is the operation's number in its Source.
	Index uint64
	Op    *client.Op
	// Stream of the target that carries it.
	Stream   int
	Intended time.Duration
	Sent     time.Duration
	Returned time.Duration // set for Return
	// User is free for the Observer: what Invoke stores, Return finds.
	User any
}

// Summary is what a Generator did, beside what is in the Recorder.
type Summary struct {
	// Counts of recorded operations. They always add up.
	Counts result.Counts
	// WarmedUp counts the operations before that.
	WarmedUp int64
	// Elapsed is from the end of the warm-up to the last intended time, or to
	// the end of a closed loop.
	Elapsed time.Duration
	// Pacer is by how much the generator itself was late: from the intended
	// time, or from when a window that was full had room again, to the send.
	Pacer result.Latency
	// Limited: the generator could not keep its own schedule, so that the
	// latencies say nothing about the target.
	Limited bool
	// Saturated: operations waited so long for room in a window that the
	// offered rate was not what the target received.
	Saturated bool
	// FullWaits counts how often all windows were full.
	FullWaits int64
	// Aborted is why the run ended early; nil if it did not.
	Aborted error
}

// generatorLimited is the rule: a generator that is late by more than a
// millisecond and more than a tenth of what it measures, once in a hundred
// times, measures itself.
func generatorLimited(lagP99, responseP50 time.Duration) bool {
	return lagP99 > max(time.Millisecond, responseP50/10)
}

// States of a call. Whoever moves it from callStarting or callWaiting to
// callOver is the one who records how it ended.
const (
	callFree     uint32 = iota
	callStarting        // Start has not returned yet
	callWaiting         // Start has returned
	callOver            // being recorded
	callHanded          // being recorded; its closed loop client left, and goes on from there
	callDone            // recorded
)

// call is one slot of a stream's window, and the operation in it.
type call struct {
	run      *generation
	op       client.Op
	sample   sample
	seen     Operation // what the observer is shown
	scratch  []byte
	stream   int
	recorded bool
	shown    bool // Invoke was called, Return not yet
	state    atomic.Uint32
	done     func(client.Outcome) // call.finish, bound once
	resume   *time.Timer          // of a closed loop that pauses
}

// window is the free slots of one stream, and what became of its operations.
// Each stream counts for itself: what all of them wrote to would travel from core
// to core with every operation.
type window struct {
	mu    sync.Mutex
	free  []*call
	pacer *hdrhistogram.Histogram // of the pacer alone
	// begun counts the recorded operations that were taken from the plan, apart
	// from how they end: the two have to agree.
	begun  atomic.Int64
	warmed atomic.Int64
	// ended is guarded by the lock of the Recorder's shard for the stream.
	ended result.Counts
	_     [64]byte
}

// generation is one run of a Generator.
type generation struct {
	*Generator
	router              Router          // the Target, if it is one
	begin, measure, end time.Duration   // since the start of the Recorder
	own                 []*phase        // empty: those of the Recorder
	bounds              []time.Duration // bounds[k] is the end of own[k]
	windows             []window
	calls               []*call

	next    atomic.Uint64 // closed loop: index of the next operation
	stopped atomic.Bool
	busy    atomic.Int64  // calls that are not free
	freed   chan struct{} // capacity 1: a slot was freed while the pacer waited, or busy reached 0
	waiting atomic.Bool

	full int64
}

// Run offers the load. It returns when everything intended has ended or was
// given up, or earlier when ctx is done; the Summary is there in any case. The
// Target must be closed by the caller afterwards.
func (g *Generator) Run(ctx context.Context) (*Summary, error) {
	if g.Target == nil || g.Source == nil || g.Recorder == nil {
		return nil, errors.New("load: a generator needs a target, a source and a recorder")
	}
	span := time.Duration(0)
	if g.Schedule != nil {
		span = g.Schedule.Span()
	}
	if g.Duration <= 0 && g.Ops == 0 && span == 0 {
		return nil, errors.New("load: neither a duration nor a number of operations, and the schedule has no end")
	}
	if g.Segment.Index >= g.Segment.of() {
		return nil, fmt.Errorf("load: segment %s does not exist", g.Segment)
	}
	if t := g.Turns; t != nil && (g.Warmup > 0 || t.For <= 0 || t.Pause < 0 || t.Load>>1 != 0) {
		return nil, fmt.Errorf("load: turns of %s with pauses of %s after a warm-up of %s: want no warm-up", t.For, t.Pause, g.Warmup)
	}
	inFlight := g.InFlight
	if inFlight == 0 {
		inFlight = 32
	}
	if inFlight < 1 || inFlight > 1<<16 {
		return nil, fmt.Errorf("load: %d operations in flight for each stream: want 1 to 65536", inFlight)
	}
	r := &generation{Generator: g, windows: make([]window, g.Target.Streams()), freed: make(chan struct{}, 1)}
	for stream := range r.windows {
		w := &r.windows[stream]
		w.pacer = newTotals()
		for range inFlight {
			c := &call{run: r, stream: stream}
			c.done = c.finish
			if g.Schedule == nil {
				c.resume = time.AfterFunc(time.Hour, func() { r.client(c) })
				c.resume.Stop()
			}
			r.calls = append(r.calls, c)
			w.free = append(w.free, c)
		}
	}
	r.router, _ = g.Target.(Router)
	r.begin = g.Recorder.Now()
	r.measure = r.begin + g.Warmup
	r.end = math.MaxInt64
	if g.Duration > 0 {
		r.end = r.measure + g.Duration
	}
	if span > 0 {
		r.end = min(r.end, r.measure+span)
	}
	if !g.FollowPhases {
		r.ownPhases()
	}

	var until time.Duration
	if g.Schedule != nil {
		until = r.open(ctx)
	} else {
		until = r.closed(ctx)
	}
	return r.conclude(ctx, until), nil
}

// ownPhases makes the phases that the operations belong to.
func (g *generation) ownPhases() {
	spans := g.Phases
	if len(spans) == 0 {
		spans = []PhaseSpan{{Name: g.Phase}}
	}
	from := g.measure
	for i, span := range spans {
		g.own = append(g.own, g.Recorder.ownPhase(span.Name, from, g.Turns))
		if from += span.For; i == len(spans)-1 {
			from = math.MaxInt64
		}
		g.bounds = append(g.bounds, from)
	}
}

// phaseAt is the phase of an operation by its intended time.
func (g *generation) phaseAt(intended time.Duration) *phase {
	if len(g.own) == 0 {
		return g.Recorder.current.Load()
	}
	k := 0
	for intended >= g.bounds[k] {
		k++
	}
	return g.own[k]
}

func (g *generation) now() time.Duration { return g.Recorder.Now() }

// conclude counts what is unfinished and makes the summary.
func (g *generation) conclude(ctx context.Context, until time.Duration) *Summary {
	g.stopped.Store(true)
	at := g.now()
	for _, c := range g.calls {
		for state := c.state.Load(); state == callStarting || state == callOver || state == callHanded; state = c.state.Load() {
			runtime.Gosched() // its last microsecond: it will be recorded, or wait
		}
		if !c.state.CompareAndSwap(callWaiting, callOver) {
			continue
		}
		o := client.Outcome{Status: client.StatusInfo, Err: ErrUnfinished}
		if c.op.Kind == client.KindGet {
			o.Status = client.StatusFail
		}
		c.sample.status, c.sample.returned = sampleUnfinished, at
		c.count()
		if c.shown {
			c.shown = false
			c.seen.Returned = at
			g.Observer.Return(&c.seen, &o)
		}
	}
	s := &Summary{FullWaits: g.full}
	for stream := range g.windows {
		w := &g.windows[stream]
		ended := g.Recorder.read(stream, &w.ended)
		ended.Intended = w.begun.Load()
		s.Counts.Add(&ended)
		s.WarmedUp += w.warmed.Load()
	}
	s.Elapsed = max(min(until, g.end)-g.measure, 0)
	if ctx.Err() != nil {
		s.Aborted = context.Cause(ctx)
	}
	pacer := newTotals()
	for i := range g.windows {
		pacer.Merge(g.windows[i].pacer)
	}
	s.Pacer = result.LatencyOf(pacer)
	if g.Schedule != nil {
		p50, lag := g.Recorder.middle(g.own)
		s.Limited = generatorLimited(s.Pacer.P99, p50)
		s.Saturated = !s.Limited && (s.Counts.Missed > 0 || g.full > 0 && generatorLimited(lag, p50))
	}
	end := min(until, g.end)
	for k, p := range g.own {
		g.Recorder.endPhase(p, max(min(end, g.bounds[k]), p.from), s.Limited, s.Saturated)
	}
	if len(g.own) == 0 && s.Limited {
		g.Recorder.limit()
	}
	return s
}

// open runs the schedule. It returns the time up to which operations were
// intended.
func (g *generation) open(ctx context.Context) time.Duration {
	over := make(chan time.Duration)
	go func() {
		if g.Sleep == nil {
			// The thread keeps its preferences and is not given back.
			runtime.LockOSThread()
			prefer()
		}
		over <- g.pace(ctx)
	}()
	until := <-over
	g.drain(ctx)
	return until
}

func (g *generation) pace(ctx context.Context) (until time.Duration) {
	sleep := g.Sleep
	if sleep == nil {
		sleep = PreciseSleep
	}
	var i uint64
	stream := 0
	room := time.Duration(0) // when a window that was full last had room again
	giveUp := time.Duration(math.MaxInt64)
	for offset := range g.times() {
		intended := g.begin + offset
		if intended >= g.end || g.Ops > 0 && i >= g.Ops {
			return min(intended, g.end)
		}
		if !g.Segment.has(i) {
			i++
			continue
		}
		now := g.now()
		if now < intended {
			if ctx.Err() == nil {
				pause(ctx, intended-now, sleep)
			}
			now = g.now()
			if ctx.Err() != nil {
				return now // not due yet when the run was aborted
			}
		}
		c := g.take(&stream)
		for c == nil && !g.Drop && ctx.Err() == nil && now < giveUp {
			if g.full++; g.end != math.MaxInt64 {
				giveUp = g.end + g.drainTime()
			}
			c = g.waitForRoom(ctx, &stream, giveUp)
			now = g.now()
			room = now
		}
		if c == nil || ctx.Err() != nil {
			g.miss(i, intended, now, c)
			i++
			continue
		}
		late := now - max(intended, room)
		g.windows[0].pacer.RecordValue(int64(min(max(late, 0), LatencyMax)))
		g.fill(c, i, intended, now)
		for {
			err := g.start(c)
			if err == nil {
				break
			}
			// The target wants less than the window: wait for it to take more.
			g.full++
			if g.Drop || !g.waitForTarget(ctx, giveUp) {
				g.miss(i, intended, now, c)
				break
			}
			room = g.now()
			c.sample.sent = room
		}
		i++
	}
	return g.end // the schedule has ended
}

// times is the schedule with the warm-up in front of it.
func (g *Generator) times() iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		if g.Warmup > 0 {
			for at := range warmup(g.Schedule, g.Seed) {
				if at >= g.Warmup {
					break
				}
				if !yield(at) {
					return
				}
			}
		}
		for at := range g.Schedule.Times(g.Seed) {
			if !yield(g.Warmup + g.Turns.at(at)) {
				return
			}
		}
	}
}

// take returns a free slot of the next stream that has one.
func (g *generation) take(stream *int) *call {
	for range g.windows {
		if *stream++; *stream >= len(g.windows) {
			*stream = 0
		}
		if c := g.windows[*stream].take(); c != nil {
			g.busy.Add(1)
			return c
		}
	}
	return nil
}

func (w *window) take() *call {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.free) == 0 {
		return nil
	}
	c := w.free[len(w.free)-1]
	w.free = w.free[:len(w.free)-1]
	return c
}

// put makes the slot free again.
func (g *generation) put(c *call) {
	c.state.Store(callFree)
	w := &g.windows[c.stream]
	w.mu.Lock()
	w.free = append(w.free, c)
	w.mu.Unlock()
	if g.busy.Add(-1) == 0 || g.waiting.Load() {
		select {
		case g.freed <- struct{}{}:
		default:
		}
	}
}

// waitForRoom waits until a window has room, and takes it.
func (g *generation) waitForRoom(ctx context.Context, stream *int, until time.Duration) *call {
	g.waiting.Store(true)
	defer g.waiting.Store(false)
	timer := time.NewTimer(until - g.now())
	defer timer.Stop()
	for {
		if c := g.take(stream); c != nil {
			return c
		}
		select {
		case <-g.freed:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// waitForTarget waits a little for a target that is full although its windows
// are not.
func (g *generation) waitForTarget(ctx context.Context, until time.Duration) bool {
	if g.now() >= until {
		return false
	}
	timer := time.NewTimer(time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	return true
}

func (g *generation) drainTime() time.Duration {
	if g.Drain > 0 {
		return g.Drain
	}
	return 10 * time.Second
}

// drain waits for what is in flight.
func (g *generation) drain(ctx context.Context) {
	limit := g.drainTime()
	done := ctx.Done()
	if ctx.Err() != nil {
		limit, done = min(limit, 2*time.Second), nil
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for g.busy.Load() > 0 {
		select {
		case <-g.freed:
		case <-timer.C:
			return
		case <-done:
			done = nil
			timer.Reset(min(limit, 2*time.Second))
		}
	}
}

// fill puts operation i into the slot.
func (g *generation) fill(c *call, i uint64, intended, now time.Duration) {
	c.scratch = g.Source.Op(i, &c.op, c.scratch)
	c.recorded = intended >= g.measure
	if c.recorded {
		g.windows[c.stream].begun.Add(1)
	}
	c.sample = sample{phase: g.phaseAt(intended), index: seriesIndex(&c.op), intended: intended, sent: now}
	if g.Observer != nil {
		c.seen = Operation{Index: i, Op: &c.op, Stream: c.stream, Intended: intended, Sent: now}
	}
}

// start hands the operation to the target. An error means that the target is
// full and the slot is still the caller's; any other failure has been recorded.
func (g *generation) start(c *call) error {
	c.state.Store(callStarting)
	if g.Observer != nil && !c.shown {
		c.shown = true
		g.Observer.Invoke(&c.seen)
	}
	err := g.Target.Start(c.stream, &c.op, c.done)
	switch {
	case err == nil:
		c.state.CompareAndSwap(callStarting, callWaiting)
		return nil
	case errors.Is(err, client.ErrFull):
		c.state.Store(callFree)
		return err
	}
	c.end(&client.Outcome{Status: client.StatusFail, Err: err})
	g.put(c)
	return nil
}

// miss records an operation that could not be sent. c is its slot, if it had
// got one.
func (g *generation) miss(i uint64, intended, now time.Duration, c *call) {
	var own call
	slot := c
	if slot == nil {
		slot = &own
		slot.run = g
	}
	if !slot.shown {
		g.fill(slot, i, intended, now)
	} else {
		slot.shown = false
		slot.seen.Returned = now
		g.Observer.Return(&slot.seen, &client.Outcome{Status: client.StatusFail, Err: client.ErrFull})
	}
	slot.sample.status, slot.sample.returned = sampleMissed, now
	slot.count()
	if c != nil {
		g.put(c)
	}
}

// finish is the target's answer.
func (c *call) finish(o client.Outcome) {
	for {
		switch state := c.state.Load(); state {
		case callStarting, callWaiting:
			if !c.state.CompareAndSwap(state, callOver) {
				continue
			}
			c.end(&o)
			switch {
			case c.run.Schedule != nil:
				c.run.put(c)
			case state == callWaiting:
				c.run.follow(c)
			case !c.state.CompareAndSwap(callOver, callDone):
				c.run.follow(c)
			}
			return
		default:
			return // given up at the end of the run
		}
	}
}

// end records the outcome.
func (c *call) end(o *client.Outcome) {
	s := &c.sample
	if s.returned = o.Returned.Sub(c.run.Recorder.start); o.Returned.IsZero() {
		s.returned = c.run.now()
	}
	s.miss = c.op.Kind == client.KindGet && !o.Found
	s.refused = o.Refused
	if c.run.router != nil && o.Node != "" {
		s.misrouted = c.run.router.Answered(o.Node, o.Leader, o.Term)
	}
	switch {
	case o.Status == client.StatusOK:
		s.status = sampleOK
	case o.Status == client.StatusInfo, o.Err != nil && errors.Is(o.Err, client.ErrTimeout):
		s.status = sampleInfo // a read that timed out has no effect, but its wait is unbounded all the same
	default:
		s.status = sampleFail
	}
	c.count()
	if c.shown {
		c.shown = false
		c.seen.Returned = s.returned
		seen := *o // a copy, so that without an observer nothing is allocated
		c.run.Observer.Return(&c.seen, &seen)
	}
}

// count adds the operation to the numbers.
func (c *call) count() {
	g := c.run
	if !c.recorded {
		g.windows[c.stream].warmed.Add(1)
		return
	}
	g.Recorder.record(c.stream, &c.sample, &g.windows[c.stream].ended)
}

// closed keeps every slot busy until the end.
func (g *generation) closed(ctx context.Context) time.Duration {
	stop := context.AfterFunc(ctx, func() { g.stopped.Store(true) })
	defer stop()
	g.busy.Store(int64(len(g.calls)))
	var first sync.WaitGroup
	for i := range g.windows {
		w := &g.windows[i]
		all := w.free
		w.free = nil
		first.Go(func() {
			for _, c := range all {
				g.client(c)
			}
		})
	}
	// The wait has no end of its own: clients stop at the end or on an abort.
	if g.end != math.MaxInt64 {
		timer := time.NewTimer(g.end - g.now())
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-g.idle():
		}
	} else {
		select {
		case <-ctx.Done():
		case <-g.idle():
		}
	}
	until := g.now()
	first.Wait()
	g.drain(ctx)
	return until
}

// idle is signalled when no slot is busy any more.
func (g *generation) idle() <-chan struct{} { return g.freed }

// client is one client of the closed loop: it goes from operation to operation
// until one of them does not end at once. Its answer will continue then.
func (g *generation) client(c *call) {
	for {
		// Before it is asked whether the run is over: whoever ends it waits for
		// those who may not have seen it.
		c.state.Store(callStarting)
		now := g.now()
		if away := g.Turns.away(now - g.begin); away > 0 && now < g.end && !g.stopped.Load() {
			c.state.Store(callDone)
			c.resume.Reset(min(away, g.end-now))
			return
		}
		i := (g.next.Add(1)-1)*g.Segment.of() + g.Segment.Index
		if g.stopped.Load() || now >= g.end || g.Ops > 0 && i >= g.Ops {
			g.put(c)
			return
		}
		g.fill(c, i, now, now)
		c.sample.closed = len(g.calls)
		if g.Observer != nil {
			c.shown = true
			g.Observer.Invoke(&c.seen)
		}
		err := g.Target.Start(c.stream, &c.op, c.done)
		if err != nil {
			// Nothing was sent. A client that is refused waits before it tries
			// again, or it would do nothing but be refused.
			c.state.Store(callOver)
			c.end(&client.Outcome{Status: client.StatusFail, Err: err})
			c.state.Store(callDone)
			c.resume.Reset(max(g.Think, refusedPause))
			return
		}
		if c.state.CompareAndSwap(callStarting, callWaiting) || c.state.CompareAndSwap(callOver, callHanded) {
			return // its answer goes on
		}
		if g.Think > 0 {
			c.resume.Reset(g.Think)
			return
		}
	}
}

// refusedPause is how long a closed loop's client waits when its operation was
// not even started.
const refusedPause = 5 * time.Millisecond

// follow continues a client whose operation was answered.
func (g *generation) follow(c *call) {
	if g.Think > 0 {
		c.state.Store(callDone)
		c.resume.Reset(g.Think)
		return
	}
	g.client(c)
}

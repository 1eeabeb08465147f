package load

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/proto/cachepb"
	"github.com/hacache/hacache/reports/result"
)

// Range of what is recorded. What lies outside is recorded at the edge, and
// counted: the histogram itself would drop it without a word.
const (
	LatencyMin = time.Microsecond
	LatencyMax = 60 * time.Second
)

func newTotals() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(LatencyMin), int64(LatencyMax), 3)
}

func newInterval() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(LatencyMin), int64(LatencyMax), 2)
}

// RecorderConfig of a [Recorder]. The zero value of each field is its default.
type RecorderConfig struct {
	// Start is the beginning of the run, to which all times relate; zero is now.
	// It must carry a monotonic reading.
	Start time.Time
	// Interval is the width of the rows of the time series; 0 is 1 s.
	Interval time.Duration
	// Log, if not nil, receives the interval histograms in the format of
	// HdrHistogram logs, as the run goes on.
	Log io.Writer
	// OnInterval, if not nil, is called with the rows of each interval.
	OnInterval func([]result.Interval)
}

// Recorder keeps what [Generator]s measure: one for a run, however many
// generators. Workers record into shards of their own, which are merged at the
// end of each interval. Its methods are safe for concurrent use.
type Recorder struct {
	start    time.Time
	interval atomic.Int64
	shards   []*shard
	current  atomic.Pointer[phase]
	changed  chan struct{} // capacity 1: the interval has another width

	mu        sync.Mutex // guards the rest, and is what makes rotations one at a time
	phases    []*phase
	rotated   time.Duration
	total     [][]*cell // by phase, by index
	intervals []result.Interval
	log       *result.LogWriter
	observe   func([]result.Interval)
	spare     *hdrhistogram.Histogram
}

// phase is a stretch of the run whose numbers are kept apart.
type phase struct {
	id       int
	name     string
	from     time.Duration
	to       time.Duration // 0: goes on
	lastDone atomic.Int64
	limited  bool
	// saturated is as in result.Series.
	saturated bool
	owned     bool   // by a generator, not by the clock
	turns     *Turns // of that generator
}

// Operations are told apart by kind and level: the ack level of a write, the
// read mode of a Get.
const (
	levels = 3
	series = 5 * levels
)

func seriesIndex(op *client.Op) int {
	level := 0
	switch {
	case op.Kind.Leveled():
		level = int(op.Level)
	case op.Kind == client.KindGet:
		level = int(op.ReadMode)
	}
	return int(op.Kind)*levels + level%levels
}

func seriesNames(i int) (op, level string) {
	kind := client.Kind(i / levels)
	switch {
	case kind.Leveled():
		level = client.Level(i % levels).String()
	case kind == client.KindGet && i%levels != 0:
		level = strings.ToLower(cachepb.ReadTag_Mode(i % levels).String())
	}
	return kind.String(), level
}

// shard is what one or few workers record into.
type shard struct {
	mu     sync.Mutex
	active [][]*cell // by phase, by index
	spare  [][]*cell
	_      [64]byte // shards of different workers do not share a cache line
}

// cell is the numbers of one series.
type cell struct {
	counts  result.Counts
	clamped int64
	closed  int // operations a closed loop keeps in flight; 0: open loop
	times   [outcomes]times
}

// outcomes are what latencies are kept apart by: ok, fail, and info with what
// was unfinished.
const outcomes = 3

var outcomeNames = [outcomes]string{result.OutcomeOK, result.OutcomeFail, result.OutcomeInfo}

// times is the latencies of one outcome; nil histograms are empty.
type times struct {
	response *hdrhistogram.Histogram
	service  *hdrhistogram.Histogram
	lag      *hdrhistogram.Histogram
	// closed is response and service time of a closed loop, which are the same;
	// it has no lag. It exists in shards only.
	closed *hdrhistogram.Histogram
}

// of returns the histogram of a quantity.
func (t *times) of(quantity string) *hdrhistogram.Histogram {
	switch quantity {
	case result.QuantityService:
		return t.service
	case result.QuantityLag:
		return t.lag
	}
	return t.response
}

var quantities = [...]string{result.QuantityResponse, result.QuantityService, result.QuantityLag}

func record(h **hdrhistogram.Histogram, d time.Duration) {
	if *h == nil {
		*h = newTotals()
	}
	(*h).RecordValue(int64(min(max(d, LatencyMin), LatencyMax))) // in range, so it cannot fail
}

// clamp notes that a latency is not what is recorded of it. That a lag is less
// than what can be told apart is as it should be.
func (c *cell) clamp(d, least time.Duration) {
	if d < least || d > LatencyMax {
		c.clamped++
	}
}

// add takes the latencies of an operation.
func (c *cell) add(outcome int, s *sample) {
	t := &c.times[outcome]
	response := s.returned - s.intended
	c.clamp(response, LatencyMin)
	if s.closed > 0 {
		record(&t.closed, response)
		return
	}
	record(&t.response, response)
	record(&t.service, s.returned-s.sent)
	lag := s.sent - s.intended
	c.clamp(lag, 0)
	record(&t.lag, lag)
}

// mergeFrom adds what other holds and empties it.
func (c *cell) mergeFrom(other *cell) {
	c.counts.Add(&other.counts)
	c.clamped += other.clamped
	c.closed = max(c.closed, other.closed)
	for i := range c.times {
		to, from := &c.times[i], &other.times[i]
		pour(&to.response, from.closed)
		pour(&to.service, from.closed)
		for _, pair := range [][2]**hdrhistogram.Histogram{{&to.response, &from.response}, {&to.service, &from.service}, {&to.lag, &from.lag}} {
			pour(pair[0], *pair[1])
		}
		for _, h := range []*hdrhistogram.Histogram{from.closed, from.response, from.service, from.lag} {
			if h != nil && h.TotalCount() > 0 {
				h.Reset()
			}
		}
	}
	other.counts, other.clamped = result.Counts{}, 0
}

// pour adds one histogram to another one.
func pour(to **hdrhistogram.Histogram, from *hdrhistogram.Histogram) {
	if from == nil || from.TotalCount() == 0 {
		return
	}
	if *to == nil {
		*to = newTotals()
	}
	(*to).Merge(from)
}

// NewRecorder starts nothing; see [Recorder.Run].
func NewRecorder(cfg RecorderConfig) *Recorder {
	if cfg.Start.IsZero() {
		cfg.Start = time.Now()
	}
	if cfg.Interval <= 0 {
		cfg.Interval = time.Second
	}
	r := &Recorder{start: cfg.Start, observe: cfg.OnInterval, changed: make(chan struct{}, 1)}
	r.interval.Store(int64(cfg.Interval))
	for range 2 * runtime.GOMAXPROCS(0) {
		r.shards = append(r.shards, &shard{})
	}
	if cfg.Log != nil {
		r.log = result.NewLogWriter(cfg.Log, cfg.Start)
	}
	r.Phase("")
	return r
}

// Now is the time since the start of the run.
func (r *Recorder) Now() time.Duration { return time.Since(r.start) }

// SetInterval changes the width of the intervals that begin from now on.
func (r *Recorder) SetInterval(width time.Duration) {
	r.interval.Store(int64(width))
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Phase begins a phase of the run now: what generators with FollowPhases take up
// from now on belongs to it. The phase before the first call has no name.
func (r *Recorder) Phase(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.Now()
	if p := r.current.Load(); p != nil {
		p.to = now
	}
	r.current.Store(r.newPhase(name, now, false))
}

// newPhase adds a phase. r.mu is held.
func (r *Recorder) newPhase(name string, from time.Duration, owned bool) *phase {
	p := &phase{id: len(r.phases), name: name, from: from, owned: owned}
	r.phases = append(r.phases, p)
	return p
}

// ownPhase adds a phase that belongs to one generator.
func (r *Recorder) ownPhase(name string, from time.Duration, turns *Turns) *phase {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.newPhase(name, from, true)
	p.turns = turns
	return p
}

// endPhase ends a phase that a generator owns, no earlier than its last answer.
func (r *Recorder) endPhase(p *phase, at time.Duration, limited, saturated bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.to = max(at, time.Duration(p.lastDone.Load()))
	p.limited, p.saturated = p.limited || limited, p.saturated || saturated
}

// cellOf finds the numbers to add to. The shard is locked.
func (s *shard) cellOf(p *phase, index int) *cell {
	for len(s.active) <= p.id {
		s.active = append(s.active, nil)
	}
	cells := s.active[p.id]
	if cells == nil {
		cells = make([]*cell, series)
		s.active[p.id] = cells
	}
	if cells[index] == nil {
		cells[index] = &cell{}
	}
	return cells[index]
}

// sample is one operation that has ended, or never will.
type sample struct {
	phase     *phase
	index     int
	status    sampleStatus
	miss      bool
	refused   bool
	misrouted bool
	closed    int
	intended  time.Duration
	sent      time.Duration
	returned  time.Duration
}

type sampleStatus uint8

const (
	sampleOK sampleStatus = iota
	sampleFail
	sampleInfo
	sampleMissed
	sampleUnfinished
)

// count adds the operation to counts.
func (s *sample) count(c *result.Counts) {
	c.Intended++
	if s.misrouted {
		c.Misrouted++
	}
	switch s.status {
	case sampleOK:
		c.OK++
		if s.miss {
			c.Miss++
		}
	case sampleFail:
		c.Fail++
		if s.refused {
			c.Refused++
		}
	case sampleInfo:
		c.Info++
	case sampleMissed:
		c.Missed++
	case sampleUnfinished:
		c.Unfinished++
	}
}

// read returns what a worker's tally holds.
func (r *Recorder) read(worker int, tally *result.Counts) result.Counts {
	sh := r.shards[worker%len(r.shards)]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return *tally
}

// record adds an operation to the numbers of its series, and counts it in tally,
// which belongs to the worker.
func (r *Recorder) record(worker int, s *sample, tally *result.Counts) {
	sh := r.shards[worker%len(r.shards)]
	sh.mu.Lock()
	c := sh.cellOf(s.phase, s.index)
	c.closed = s.closed
	s.count(&c.counts)
	s.count(tally)
	switch s.status {
	case sampleOK:
		c.add(0, s)
	case sampleFail:
		c.add(1, s)
	case sampleInfo, sampleUnfinished:
		c.add(2, s)
	}
	sh.mu.Unlock()
	if s.status == sampleOK && s.phase.owned && int64(s.returned) > s.phase.lastDone.Load() {
		s.phase.lastDone.Store(int64(s.returned)) // a race between two late ones loses microseconds
	}
}

// Run ends an interval whenever it is due, until ctx is done. Without it there
// is no time series, only totals.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		width := time.Duration(r.interval.Load())
		next := r.Now()/width*width + width
		timer := time.NewTimer(next - r.Now())
		select {
		case <-timer.C:
			r.rotate(next)
		case <-r.changed:
			timer.Stop()
			r.rotate(r.Now())
		case <-ctx.Done():
			timer.Stop()
			r.rotate(r.Now())
			return r.LogErr()
		}
	}
}

// LogErr is the first error of writing the histogram log.
func (r *Recorder) LogErr() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log != nil && r.log.Err() != nil {
		return fmt.Errorf("write histogram log: %w", r.log.Err())
	}
	return nil
}

// rotate ends the current interval at the given time: it moves what the shards
// hold to the totals, and makes a row of it.
func (r *Recorder) rotate(at time.Duration) {
	r.mu.Lock()
	var rows []result.Interval
	from := r.rotated
	if at <= from {
		at = max(r.Now(), from+1) // somebody was faster; no interval is empty of time
	}
	r.rotated = at
	var over [][]*cell
	for _, sh := range r.shards {
		sh.mu.Lock()
		sh.active, sh.spare = sh.spare, sh.active
		full := sh.spare
		sh.mu.Unlock()
		over = gather(over, full)
		r.release(sh)
	}
	for id, cells := range over {
		for index, c := range cells {
			if c == nil || c.counts == (result.Counts{}) {
				continue
			}
			row := r.row(from, at, r.phases[id], index, c)
			rows = append(rows, row)
			r.writeLog(from, at, r.phases[id], index, c)
		}
	}
	r.total = gather(r.total, over)
	r.intervals = append(r.intervals, rows...)
	observe := r.observe
	r.mu.Unlock()
	if observe != nil {
		observe(rows)
	}
}

// release gives back the memory of phases whose generator has ended: nothing is
// recorded in them any more, and what was has been gathered. r.mu is held.
func (r *Recorder) release(sh *shard) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for id, p := range r.phases {
		if !p.owned || p.to == 0 {
			continue
		}
		for _, cells := range [][][]*cell{sh.active, sh.spare} {
			if id < len(cells) {
				cells[id] = nil
			}
		}
	}
}

// gather adds from to to, leaving from empty.
func gather(to, from [][]*cell) [][]*cell {
	for id, cells := range from {
		for len(to) <= id {
			to = append(to, nil)
		}
		for index, c := range cells {
			if c == nil {
				continue
			}
			if to[id] == nil {
				to[id] = make([]*cell, series)
			}
			if to[id][index] == nil {
				to[id][index] = &cell{}
			}
			to[id][index].mergeFrom(c)
		}
	}
	return to
}

func (r *Recorder) row(from, to time.Duration, p *phase, index int, c *cell) result.Interval {
	op, level := seriesNames(index)
	row := result.Interval{
		T: from, Width: to - from, Phase: p.name, Op: op, Level: level,
		OK: c.counts.OK, Fail: c.counts.Fail, Info: c.counts.Info + c.counts.Unfinished,
		Missed: c.counts.Missed, Refused: c.counts.Refused,
	}
	if c.counts.OK > 0 {
		h := c.times[0].response
		q := result.Quantiles(h, 0.5, 0.9, 0.99)
		row.P50, row.P90, row.P99 = q[0], q[1], q[2]
		row.Max = time.Duration(h.Max())
	}
	row.LagP99 = result.Quantiles(c.lag(), 0.99)[0]
	return row
}

// lag is that of everything that was sent.
func (c *cell) lag() *hdrhistogram.Histogram {
	return result.SumOf(c.times[0].lag, c.times[1].lag, c.times[2].lag)
}

// distributions yields the histograms of a cell that are not empty.
func (c *cell) distributions(p *phase, index int, yield func(result.Histogram)) {
	op, level := seriesNames(index)
	for i := range c.times {
		for _, q := range quantities {
			if h := c.times[i].of(q); h != nil && h.TotalCount() > 0 {
				yield(result.Histogram{
					Distribution: result.Distribution{Phase: p.name, Op: op, Level: level, Outcome: outcomeNames[i], Quantity: q},
					Histogram:    h,
				})
			}
		}
	}
}

// writeLog writes the interval's histograms to the log, at two digits. r.mu is
// held.
func (r *Recorder) writeLog(from, to time.Duration, p *phase, index int, c *cell) {
	if r.log == nil {
		return
	}
	c.distributions(p, index, func(h result.Histogram) {
		if r.spare == nil {
			r.spare = newInterval()
		}
		r.spare.Reset()
		r.spare.Merge(h.Histogram)
		h.Histogram, h.From, h.To = r.spare, from, to
		r.log.Write(h)
	})
}

// Fill ends the recording and writes it into the result of the run: phases,
// series and intervals.
func (r *Recorder) Fill(run *result.Run) {
	r.rotate(r.Now())
	r.mu.Lock()
	defer r.mu.Unlock()
	end := r.rotated
	run.Duration = max(run.Duration, end)
	run.Intervals = slices.Clone(r.intervals)
	for id, p := range r.phases {
		to := p.to
		if to == 0 {
			to = end
		}
		used := id < len(r.total) && r.total[id] != nil
		if !used {
			continue
		}
		if p.name != "" {
			run.Phases = append(run.Phases, result.Phase{Name: p.name, From: p.from, To: to})
		}
		for index, c := range r.total[id] {
			if c != nil && c.counts != (result.Counts{}) {
				run.Series = append(run.Series, c.series(p, index, p.turns.share(to-p.from)))
			}
		}
	}
}

// series is the cell as a result.
func (c *cell) series(p *phase, index int, span time.Duration) result.Series {
	op, level := seriesNames(index)
	s := result.Series{
		Phase: p.name, Op: op, Level: level,
		Closed: c.closed > 0, InFlight: c.closed, Limited: p.limited, Saturated: p.saturated,
		Counts: c.counts, Span: span, Clamped: c.clamped,
	}
	if span > 0 {
		s.Throughput = float64(c.counts.OK) / span.Seconds()
		if c.closed == 0 {
			s.Offered = float64(c.counts.Intended) / span.Seconds()
		}
	}
	s.Measure(func(outcome, quantity string) *hdrhistogram.Histogram {
		return c.times[slices.Index(outcomeNames[:], outcome)].of(quantity)
	})
	return s
}

// Histograms is the distributions of each phase, over the whole of it, at three
// digits. They are the Recorder's own and change with it.
func (r *Recorder) Histograms() []result.Histogram {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []result.Histogram
	for id, cells := range r.total {
		p := r.phases[id]
		for index, c := range cells {
			if c == nil {
				continue
			}
			c.distributions(p, index, func(h result.Histogram) {
				h.From, h.To = p.from, max(p.to, p.from)
				if p.to == 0 {
					h.To = max(r.rotated, p.from)
				}
				all = append(all, h)
			})
		}
	}
	return all
}

// Flush ends the current interval, so that all that was recorded is in the
// totals.
func (r *Recorder) Flush() { r.rotate(r.Now()) }

// Totals is what was recorded of one series in one phase, or a sum of several.
type Totals struct {
	Phase, Op, Level string
	Counts           result.Counts
	Closed           bool
	// Span is how long the phase has lasted.
	Span time.Duration
	// Response and Service are of oks, Lag of all that was sent. nil is empty.
	Response, Service, Lag *hdrhistogram.Histogram
}

// Totals returns the series that match, as they were at the end of the last
// interval. The histograms are copies.
func (r *Recorder) Totals(match func(phase, op, level string) bool) []Totals {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Totals
	for id, cells := range r.total {
		p := r.phases[id]
		for index, c := range cells {
			op, level := seriesNames(index)
			if c == nil || c.counts == (result.Counts{}) || !match(p.name, op, level) {
				continue
			}
			to := p.to
			if to == 0 {
				to = r.rotated
			}
			all = append(all, Totals{
				Phase: p.name, Op: op, Level: level, Counts: c.counts, Closed: c.closed > 0, Span: p.turns.share(max(to-p.from, 0)),
				Response: clone(c.times[0].response), Service: clone(c.times[0].service), Lag: clone(c.lag()),
			})
		}
	}
	return all
}

func clone(h *hdrhistogram.Histogram) *hdrhistogram.Histogram {
	if h == nil {
		return nil
	}
	return h.Clone()
}

// Sum adds totals up; of phases that follow each other the spans too.
func Sum(all []Totals) Totals {
	var sum Totals
	spans := map[string]time.Duration{}
	for _, t := range all {
		sum.Counts.Add(&t.Counts)
		sum.Closed = sum.Closed || t.Closed
		spans[t.Phase] = max(spans[t.Phase], t.Span)
		sum.Response = result.SumOf(sum.Response, t.Response)
		sum.Service = result.SumOf(sum.Service, t.Service)
		sum.Lag = result.SumOf(sum.Lag, t.Lag)
	}
	for _, d := range spans {
		sum.Span += d
	}
	return sum
}

// middle is the median response time and the 99th percentile of the lag over
// all series of some phases, or of all if there are none.
func (r *Recorder) middle(of []*phase) (responseP50, lagP99 time.Duration) {
	r.Flush()
	r.mu.Lock()
	defer r.mu.Unlock()
	var response, lag *hdrhistogram.Histogram
	for id, cells := range r.total {
		if len(of) > 0 && !slices.Contains(of, r.phases[id]) {
			continue
		}
		for _, c := range cells {
			if c != nil {
				response, lag = result.SumOf(response, c.times[0].response), result.SumOf(lag, c.lag())
			}
		}
	}
	return at(response, 50), at(lag, 99)
}

// at is a percentile of a histogram, 0 if it is empty.
func at(h *hdrhistogram.Histogram, percent float64) time.Duration {
	if h == nil {
		return 0
	}
	return time.Duration(h.ValueAtPercentile(percent))
}

// limit marks the phases of the clock as limited by the generator.
func (r *Recorder) limit() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.phases {
		if !p.owned {
			p.limited = true
		}
	}
}

package load

import (
	"context"
	"fmt"
	"io"
	"math"
	"path/filepath"
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
	log       *hdrhistogram.HistogramLogWriter
	logErr    error
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
	owned    bool // by a generator, not by the clock
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
	counts   result.Counts
	clamped  int64
	closed   int // operations a closed loop keeps in flight; 0: open loop
	response *hdrhistogram.Histogram
	service  *hdrhistogram.Histogram
	lag      *hdrhistogram.Histogram
	failed   *hdrhistogram.Histogram
	waited   *hdrhistogram.Histogram
}

func (c *cell) record(h **hdrhistogram.Histogram, d time.Duration) {
	if *h == nil {
		*h = newTotals()
	}
	if d < LatencyMin || d > LatencyMax {
		c.clamped++
		d = min(max(d, LatencyMin), LatencyMax)
	}
	(*h).RecordValue(int64(d)) // in range, so it cannot fail
}

// mergeFrom adds what other holds and empties it.
func (c *cell) mergeFrom(other *cell) {
	addCounts(&c.counts, &other.counts)
	c.clamped += other.clamped
	c.closed = max(c.closed, other.closed)
	for _, pair := range [][2]**hdrhistogram.Histogram{
		{&c.response, &other.response},
		{&c.service, &other.service},
		{&c.lag, &other.lag},
		{&c.failed, &other.failed},
		{&c.waited, &other.waited},
	} {
		to, from := pair[0], *pair[1]
		if from == nil || from.TotalCount() == 0 {
			continue
		}
		if *to == nil {
			*to = newTotals()
		}
		(*to).Merge(from)
		from.Reset()
	}
	other.counts, other.clamped = result.Counts{}, 0
}

func addCounts(to, from *result.Counts) {
	to.Intended += from.Intended
	to.OK += from.OK
	to.Fail += from.Fail
	to.Info += from.Info
	to.Missed += from.Missed
	to.Unfinished += from.Unfinished
	to.Miss += from.Miss
	to.Refused += from.Refused
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
		r.log = hdrhistogram.NewHistogramLogWriter(cfg.Log)
		for _, err := range []error{
			r.log.OutputLogFormatVersion(),
			r.log.OutputStartTime(cfg.Start.UnixMilli()),
			r.log.OutputLegend(),
		} {
			if err != nil && r.logErr == nil {
				r.logErr = err
			}
		}
		r.log.SetBaseTime(0)
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
func (r *Recorder) ownPhase(name string, from time.Duration) *phase {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.newPhase(name, from, true)
}

// endPhase ends a phase that a generator owns, no earlier than its last answer.
func (r *Recorder) endPhase(p *phase, at time.Duration, limited bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.to = max(at, time.Duration(p.lastDone.Load()))
	p.limited = p.limited || limited
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
	phase    *phase
	index    int
	status   sampleStatus
	miss     bool
	refused  bool
	closed   int
	intended time.Duration
	sent     time.Duration
	returned time.Duration
}

type sampleStatus uint8

const (
	sampleOK sampleStatus = iota
	sampleFail
	sampleInfo
	sampleMissed
	sampleUnfinished
)

func (r *Recorder) record(worker int, s *sample) {
	sh := r.shards[worker%len(r.shards)]
	sh.mu.Lock()
	c := sh.cellOf(s.phase, s.index)
	c.closed = s.closed
	c.counts.Intended++
	if s.status != sampleMissed {
		c.record(&c.lag, s.sent-s.intended)
	}
	switch s.status {
	case sampleOK:
		c.counts.OK++
		if s.miss {
			c.counts.Miss++
		}
		c.record(&c.response, s.returned-s.intended)
		c.record(&c.service, s.returned-s.sent)
	case sampleFail:
		c.counts.Fail++
		if s.refused {
			c.counts.Refused++
		}
		c.record(&c.failed, s.returned-s.intended)
	case sampleInfo:
		c.counts.Info++
		c.record(&c.waited, s.returned-s.intended)
	case sampleMissed:
		c.counts.Missed++
	case sampleUnfinished:
		c.counts.Unfinished++
		c.record(&c.waited, s.returned-s.intended)
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
	if r.logErr != nil {
		return fmt.Errorf("write histogram log: %w", r.logErr)
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
		q := quantiles(c.response, 0.5, 0.9, 0.99)
		row.P50, row.P90, row.P99 = q[0], q[1], q[2]
		row.Max = time.Duration(c.response.Max())
	}
	if c.lag != nil {
		row.LagP99 = quantiles(c.lag, 0.99)[0]
	}
	return row
}

// quantiles of a histogram, in growing order of qs; 0 for those that have too
// few samples beyond them to be reported.
func quantiles(h *hdrhistogram.Histogram, qs ...float64) []time.Duration {
	percent := make([]float64, len(qs))
	for i, q := range qs {
		percent[i] = q * 100
	}
	values := h.ValueAtPercentilesSlice(percent)
	out := make([]time.Duration, len(qs))
	for i, q := range qs {
		if result.Reportable(q, h.TotalCount()) {
			out[i] = time.Duration(values[i])
		}
	}
	return out
}

// writeLog writes the interval's response and service times to the histogram
// log, at two digits. r.mu is held.
func (r *Recorder) writeLog(from, to time.Duration, p *phase, index int, c *cell) {
	if r.log == nil || r.logErr != nil || c.counts.OK == 0 {
		return
	}
	for name, h := range map[string]*hdrhistogram.Histogram{"response": c.response, "service": c.service} {
		iv := r.spare
		if iv == nil {
			iv = newInterval()
			r.spare = iv
		}
		iv.Reset()
		iv.Merge(h)
		iv.SetTag(tag(p, index) + "/" + name)
		iv.SetStartTimeMs(from.Milliseconds())
		iv.SetEndTimeMs(to.Milliseconds())
		if err := r.log.OutputIntervalHistogram(iv); err != nil {
			r.logErr = err
			return
		}
	}
}

// tag names a series where commas and blanks have a meaning.
func tag(p *phase, index int) string {
	op, level := seriesNames(index)
	parts := slices.DeleteFunc([]string{p.name, op, level}, func(s string) bool { return s == "" })
	return strings.Map(func(c rune) rune {
		if c == ',' || c <= ' ' || c == '/' {
			return '_'
		}
		return c
	}, strings.Join(parts, "-"))
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
				run.Series = append(run.Series, c.series(p, index, to-p.from))
			}
		}
	}
}

// series is the cell as a result.
func (c *cell) series(p *phase, index int, span time.Duration) result.Series {
	op, level := seriesNames(index)
	s := result.Series{
		Phase: p.name, Op: op, Level: level,
		Closed: c.closed > 0, InFlight: c.closed, Limited: p.limited,
		Counts: c.counts, Span: span, Clamped: c.clamped,
		Response: latency(c.response), Service: latency(c.service), Lag: latency(c.lag),
		Failed: latency(c.failed), Waited: latency(c.waited),
	}
	if span > 0 {
		s.Throughput = float64(c.counts.OK) / span.Seconds()
		if c.closed == 0 {
			s.Offered = float64(c.counts.Intended) / span.Seconds()
		}
	}
	if c.counts.OK > 0 {
		qs := result.SpectrumQuantiles(c.counts.OK)
		response, service := quantiles(c.response, qs...), quantiles(c.service, qs...)
		for i, q := range qs {
			s.Spectrum = append(s.Spectrum, result.Point{Q: q, Response: response[i], Service: service[i]})
		}
	}
	return s
}

func latency(h *hdrhistogram.Histogram) result.Latency {
	if h == nil || h.TotalCount() == 0 {
		return result.Latency{}
	}
	q := quantiles(h, 0.5, 0.9, 0.99, 0.999)
	return result.Latency{
		Count: h.TotalCount(), Mean: time.Duration(math.Round(h.Mean())),
		P50: q[0], P90: q[1], P99: q[2], P999: q[3], Max: time.Duration(h.Max()),
	}
}

// WritePercentiles writes the distribution of each series, over all phases,
// into dir as NAME.hgrm in milliseconds: response time, and service time in
// NAME.service.hgrm. It returns the names of the files.
func (r *Recorder) WritePercentiles(dir string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var files []string
	for id, cells := range r.total {
		for index, c := range cells {
			if c == nil || c.counts.OK == 0 {
				continue
			}
			base := tag(r.phases[id], index)
			for suffix, h := range map[string]*hdrhistogram.Histogram{"": c.response, ".service": c.service} {
				name := base + suffix + result.PercentilesExt
				var text strings.Builder
				if _, err := h.PercentilesPrint(&text, 5, 1e6); err != nil {
					return files, fmt.Errorf("write %s: %w", name, err)
				}
				if err := result.ReplaceFile(filepath.Join(dir, name), []byte(text.String())); err != nil {
					return files, err
				}
				files = append(files, name)
			}
		}
	}
	slices.Sort(files)
	return files, nil
}

// middle is the median response time and the 99th percentile of the lag over
// all series of a phase, or of all phases if p is nil.
func (r *Recorder) middle(p *phase) (responseP50, lagP99 time.Duration) {
	r.rotate(r.Now())
	r.mu.Lock()
	defer r.mu.Unlock()
	response, lag := newTotals(), newTotals()
	for id, cells := range r.total {
		if p != nil && id != p.id {
			continue
		}
		for _, c := range cells {
			if c == nil {
				continue
			}
			if c.response != nil {
				response.Merge(c.response)
			}
			if c.lag != nil {
				lag.Merge(c.lag)
			}
		}
	}
	return time.Duration(response.ValueAtQuantile(50)), time.Duration(lag.ValueAtQuantile(99))
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

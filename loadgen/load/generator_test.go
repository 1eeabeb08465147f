package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/reports/result"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustSource(t testing.TB, w Workload) Source {
	t.Helper()
	src, err := w.Source()
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// run offers the load in virtual time and returns the result of the run.
func run(t *testing.T, ctx context.Context, g Generator) (*Summary, *result.Run) {
	t.Helper()
	var log bytes.Buffer
	g.Recorder = NewRecorder(RecorderConfig{Log: &log})
	g.Sleep = time.Sleep
	if g.Source == nil {
		g.Source = mustSource(t, Workload{Mix: []Weight[client.Kind]{{client.KindInsert, 1}}})
	}
	rctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { g.Recorder.Run(rctx) })
	s, err := g.Run(ctx)
	stop()
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	r := &result.Run{Kind: result.KindBench, Name: "test", Verdict: result.Pass}
	g.Recorder.Fill(r)
	if err := r.Validate(); err != nil {
		t.Errorf("the result is not valid: %v", err)
	}
	return s, r
}

// within reports whether a recorded duration is want, at three digits.
func within(got, want time.Duration) bool {
	return math.Abs(float64(got-want)) <= float64(want)/500
}

// A target that stands still for one second, offered 1000 operations per second
// for ten: the thousand operations intended in that second are slow, each by
// what was left of it, although only one window's worth was in flight. A
// generator that waits for answers before it sends would report eight.
func TestStallIsSeenByAllItDelays(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		begin := time.Now()
		target := &Scripted{Serve: func(uint64, *client.Op) (time.Duration, client.Outcome) {
			at := time.Since(begin)
			if at >= 5*time.Second && at < 6*time.Second {
				return 6*time.Second - at + time.Millisecond, client.Outcome{}
			}
			return time.Millisecond, client.Outcome{}
		}}
		slow := &slowObserver{limit: 2 * time.Millisecond}
		s, r := run(t, t.Context(), Generator{
			Target: target, Schedule: Constant{1000}, Duration: 10 * time.Second, InFlight: 8, Observer: slow,
		})
		if s.Counts.OK != 10000 || s.Counts.Intended != 10000 {
			t.Fatalf("%+v", s.Counts)
		}
		// Those intended from 5.000 to 5.998 waited more than 2 ms; each window
		// of eight that follows takes 1 ms more, and catches up seven at a time.
		if slow.count < 999 || slow.count > 1150 {
			t.Errorf("%d slow operations, want about 1000", slow.count)
		}
		se := r.Series[0]
		// Response times: 10 % of all lie in the stall, uniformly up to 1001 ms
		// (at 8 per ms the backlog of 1000 takes 143 ms to work off, which adds
		// to the early ones nothing and to the late ones up to 143 ms). Above
		// the 95th percentile half of the stall's are left.
		if se.Response.P50 > 1100*time.Microsecond {
			t.Errorf("p50 %s, want 1 ms", se.Response.P50)
		}
		if se.Response.P99 < 850*time.Millisecond || se.Response.P99 > 1001*time.Millisecond {
			t.Errorf("p99 %s, want about 900 ms", se.Response.P99)
		}
		if !within(se.Response.Max, 1001*time.Millisecond) {
			t.Errorf("max %s, want 1001 ms", se.Response.Max)
		}
		// Service times tell the other story: eight slow ones.
		if se.Service.P99 > 1100*time.Microsecond || se.Service.Max < 900*time.Millisecond {
			t.Errorf("service p99 %s max %s", se.Service.P99, se.Service.Max)
		}
		if s.Limited || !s.Saturated {
			t.Errorf("limited %v saturated %v: it was the target that was late", s.Limited, s.Saturated)
		}
	})
}

type slowObserver struct {
	limit time.Duration
	mu    sync.Mutex
	count int
}

func (o *slowObserver) Invoke(*Operation) {}
func (o *slowObserver) Return(op *Operation, _ *client.Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if op.Returned-op.Intended > o.limit {
		o.count++
	}
}

// The percentiles of a service time that grows by 1 µs with each operation,
// from 1 ms: computed by hand. Nothing queues, so response and service time
// agree.
func TestRampPercentiles(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		target := &Scripted{Serve: func(n uint64, _ *client.Op) (time.Duration, client.Outcome) {
			return time.Millisecond + time.Duration(n)*time.Microsecond, client.Outcome{}
		}}
		_, r := run(t, t.Context(), Generator{
			Target: target, Schedule: Constant{1000}, Ops: 10001, Duration: time.Minute, InFlight: 64,
		})
		se := r.Series[0]
		for _, q := range []struct {
			name      string
			got, want time.Duration
		}{
			{"p50", se.Response.P50, 6000 * time.Microsecond},
			{"p90", se.Response.P90, 10000 * time.Microsecond},
			{"p99", se.Response.P99, 10900 * time.Microsecond},
			{"p99.9", se.Response.P999, 10990 * time.Microsecond},
			{"max", se.Response.Max, 11000 * time.Microsecond},
			{"mean", se.Response.Mean, 6000 * time.Microsecond},
			{"service p90", se.Service.P90, 10000 * time.Microsecond},
		} {
			if !within(q.got, q.want) {
				t.Errorf("%s: got %s, want %s", q.name, q.got, q.want)
			}
		}
		if se.Counts.OK != 10001 {
			t.Errorf("%+v", se.Counts)
		}
	})
}

// intended = ok + fail + info + missed + unfinished, in every mode, at an
// orderly end and after an abort, with a target that answers everything in
// every way or not at all.
func TestConservation(t *testing.T) {
	refused := errors.New("refused")
	serve := func(n uint64, _ *client.Op) (time.Duration, client.Outcome) {
		switch n % 7 {
		case 0:
			return 0, client.Outcome{} // answered from within Start
		case 1:
			return 3 * time.Millisecond, client.Outcome{Status: client.StatusFail, Err: refused}
		case 2:
			return 90 * time.Millisecond, client.Outcome{Status: client.StatusInfo, Err: refused}
		case 3:
			return 5 * time.Millisecond, client.Outcome{Err: client.ErrFull}
		case 4:
			if n%301 == 4 {
				return -1, client.Outcome{} // never
			}
		}
		return 20 * time.Millisecond, client.Outcome{}
	}
	for _, mode := range []struct {
		name string
		g    Generator
	}{
		{"constant", Generator{Schedule: Constant{2000}}},
		{"constant, drop", Generator{Schedule: Constant{2000}, Drop: true}},
		{"poisson", Generator{Schedule: Poisson{2000}}},
		{"poisson, drop", Generator{Schedule: Poisson{2000}, Drop: true}},
		{"closed", Generator{}},
		{"closed, think", Generator{Think: 7 * time.Millisecond}},
	} {
		for _, abort := range []time.Duration{0, 700 * time.Millisecond, 1900 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s, abort %s", mode.name, abort), func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					g := mode.g
					g.Target = &Scripted{Width: 3, Serve: serve}
					g.InFlight, g.Warmup, g.Duration, g.Drain = 5, 500*time.Millisecond, 2*time.Second, 3*time.Second
					seen := &balance{open: map[*client.Op]bool{}}
					g.Observer = seen
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if abort > 0 {
						time.AfterFunc(abort, cancel)
					}
					s, r := run(t, ctx, g)
					c := s.Counts
					if sum := c.OK + c.Fail + c.Info + c.Missed + c.Unfinished; sum != c.Intended || sum == 0 {
						t.Errorf("intended %d, outcomes %d: %+v", c.Intended, sum, c)
					}
					if (s.Aborted != nil) != (abort > 0) {
						t.Errorf("aborted: %v", s.Aborted)
					}
					if g.Schedule == (Constant{2000}) {
						want := int64(4000)
						if abort > 0 {
							want = max(int64((abort-g.Warmup)/(500*time.Microsecond))+1, 0)
						}
						if abs(c.Intended-want) > 1 {
							t.Errorf("intended %d, want %d", c.Intended, want)
						}
					}
					var recorded result.Counts
					for _, se := range r.Series {
						recorded.Add(&se.Counts)
					}
					if recorded != c {
						t.Errorf("recorded %+v, counted %+v", recorded, c)
					}
					var rows int64
					for _, row := range r.Intervals {
						rows += row.OK + row.Fail + row.Info + row.Missed
					}
					if rows != c.Intended {
						t.Errorf("the time series has %d operations, want %d", rows, c.Intended)
					}
					if len(seen.open) != 0 || seen.wrong != "" {
						t.Errorf("observer: %d without return; %s", len(seen.open), seen.wrong)
					}
					time.Sleep(time.Second) // late answers find nobody
				})
			})
		}
	}
}

func abs(n int64) int64 { return max(n, -n) }

// balance checks that each Invoke has one Return.
type balance struct {
	mu    sync.Mutex
	open  map[*client.Op]bool
	wrong string
}

func (b *balance) Invoke(op *Operation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open[op.Op] {
		b.wrong = "invoked twice"
	}
	b.open[op.Op] = true
}

func (b *balance) Return(op *Operation, o *client.Outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open[op.Op] {
		b.wrong = "returned without invoke"
	}
	if op.Returned < op.Sent || op.Sent < op.Intended {
		b.wrong = fmt.Sprintf("intended %s, sent %s, returned %s", op.Intended, op.Sent, op.Returned)
	}
	delete(b.open, op.Op)
}

// Segments of a load are disjoint and together are the whole, operation for
// operation: number, intended time, kind, key, level and value; in an open and
// in a closed loop, with a warm-up and without.
func TestSegments(t *testing.T) {
	for _, tc := range []struct {
		schedule string
		g        Generator
	}{
		{"constant(997)", Generator{Warmup: 300 * time.Millisecond, Duration: time.Second}},
		{"poisson stages(1s:2k,500ms:100:sine)", Generator{}},
		{"poisson(500)", Generator{Ops: 777}},
		{"", Generator{Ops: 1000}},
	} {
		t.Run(tc.schedule, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				offer := func(s Segment) map[uint64]string {
					g := tc.g
					if tc.schedule != "" {
						g.Schedule = mustSchedule(t, tc.schedule)
					}
					seen := &listing{byIndex: map[uint64]string{}, timed: g.Schedule != nil}
					g.Target, g.Observer, g.Segment, g.Seed = Null{Width: 3}, seen, s, 11
					g.Source = mustSource(t, Workload{
						Seed: 11, Dist: KeyDist{Kind: KeyZipf, Theta: 0.9}, Sizes: Sizes{Min: 1, Max: 99},
						Mix:  []Weight[client.Kind]{{client.KindGet, 1}, {client.KindInsert, 1}, {client.KindRemove, 1}},
						Acks: []Weight[client.Level]{{client.LevelQuorum, 1}, {client.LevelOnce, 1}},
					})
					run(t, t.Context(), g)
					return seen.byIndex
				}
				whole := offer(Segment{})
				if len(whole) < 700 {
					t.Fatalf("%d operations in all", len(whole))
				}
				union := map[uint64]string{}
				for i := range uint64(3) {
					part := offer(Segment{Index: i, Of: 3})
					if n := len(part) * 3; n < len(whole)-3 || n > len(whole)+3 {
						t.Errorf("segment %d has %d of %d", i+1, len(part), len(whole))
					}
					for index, what := range part {
						if union[index] != "" {
							t.Errorf("operation %d is in two segments", index)
						}
						union[index] = what
					}
				}
				if diff := cmp.Diff(whole, union); diff != "" {
					t.Errorf("the union is not the whole (-whole +union):\n%s", diff)
				}
			})
		})
	}
	for _, text := range []string{"", "1", "0/3", "4/3", "1/0", "a/b", "1/2x", " 1/2", "1/9999", "-1/2"} {
		if s, err := ParseSegment(text); err == nil {
			t.Errorf("%q: read as %s", text, s)
		}
	}
	if s, err := ParseSegment("2/8"); err != nil || s != (Segment{1, 8}) || s.String() != "2/8" || (Segment{}).String() != "1/1" {
		t.Errorf("2/8: %+v, %v", s, err)
	}
}

// listing notes what each operation is.
type listing struct {
	mu      sync.Mutex
	timed   bool
	byIndex map[uint64]string
}

func (l *listing) Invoke(o *Operation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := time.Duration(0)
	if l.timed {
		at = o.Intended
	}
	l.byIndex[o.Index] += fmt.Sprintf("%d %s %s %s %x", at, o.Op.Kind, o.Op.Key, o.Op.Level, o.Op.Value)
}

func (l *listing) Return(*Operation, *client.Outcome) {}

// What cannot be sent in time is missed with Drop, late without it.
func TestQueueOrDrop(t *testing.T) {
	serve := func(uint64, *client.Op) (time.Duration, client.Outcome) {
		return 9500 * time.Microsecond, client.Outcome{}
	}
	for _, drop := range []bool{false, true} {
		bubble.Test(t, func(t *testing.T) {
			// Room for 4 in each 9.5 ms; dropping, for 4 of each 10 that are offered.
			s, r := run(t, t.Context(), Generator{
				Target: &Scripted{Serve: serve}, Schedule: Constant{1000}, Duration: 2 * time.Second,
				InFlight: 4, Drop: drop, Drain: time.Minute,
			})
			c, se := s.Counts, r.Series[0]
			if drop {
				if c.OK != 800 || c.Missed != 1200 || se.Response.Max > 10*time.Millisecond {
					t.Errorf("drop: %+v, max %s", c, se.Response.Max)
				}
				return
			}
			// The last one ends after 4.75 s; ok/s is what was done, not what was asked.
			if c.OK != 2000 || !within(se.Response.Max, 2751*time.Millisecond) || math.Abs(se.Throughput-421) > 1 {
				t.Errorf("queue: %+v, max %s, %g/s", c, se.Response.Max, se.Throughput)
			}
			if !s.Saturated || s.Limited || !se.Saturated {
				t.Errorf("saturated %v, limited %v", s.Saturated, s.Limited)
			}
		})
	}
}

// A generator whose pacer wakes up late says so.
func TestGeneratorLimited(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := Generator{
			Target: &Scripted{Width: 8, Serve: func(uint64, *client.Op) (time.Duration, client.Outcome) {
				return 5 * time.Millisecond, client.Outcome{}
			}},
			Schedule: Constant{1000}, Duration: 2 * time.Second,
		}
		s, _ := run(t, t.Context(), g)
		if s.Limited || s.Pacer.Max > LatencyMin {
			t.Errorf("on time: limited %v, pacer %+v", s.Limited, s.Pacer)
		}
		g.Recorder = NewRecorder(RecorderConfig{})
		g.Source = mustSource(t, Workload{})
		g.Sleep = func(d time.Duration) { time.Sleep(d + 2*time.Millisecond) }
		s, err := g.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !s.Limited || !within(s.Pacer.Max, 2*time.Millisecond) {
			t.Errorf("2 ms late: limited %v, pacer %+v", s.Limited, s.Pacer)
		}
		r := &result.Run{}
		g.Recorder.Fill(r)
		for _, se := range r.Series {
			if !se.Limited {
				t.Errorf("%s is not marked", se.ID())
			}
		}
	})
}

// The warm-up is offered and not recorded; phases of the clock keep their
// numbers apart; a closed loop is labelled.
func TestPhases(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := Generator{
			Target: &Scripted{Serve: func(uint64, *client.Op) (time.Duration, client.Outcome) {
				return time.Millisecond, client.Outcome{}
			}},
			Schedule: Constant{100}, Warmup: 3 * time.Second, Duration: 6 * time.Second, FollowPhases: true,
			Recorder: NewRecorder(RecorderConfig{}), Source: mustSource(t, Workload{Mix: []Weight[client.Kind]{{client.KindRemove, 1}}}),
			Sleep: time.Sleep,
		}
		time.AfterFunc(2*time.Second, func() { g.Recorder.Phase("before") })
		time.AfterFunc(5*time.Second-time.Millisecond, func() { g.Recorder.Phase("during") })
		s, err := g.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		g.Recorder.Phase("after")
		closed := Generator{Target: g.Target, Source: g.Source, Recorder: g.Recorder, InFlight: 4, Duration: time.Second, Phase: "flat out"}
		if _, err := closed.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := &result.Run{}
		g.Recorder.Fill(r)
		var got []string
		for _, se := range r.Series {
			got = append(got, fmt.Sprintf("%s:%d:%d", se.ID(), se.Counts.OK, se.InFlight))
		}
		want := "[before remove quorum:200:0 during remove quorum:400:0 flat out remove quorum:4000:4]"
		if fmt.Sprint(got) != want || s.WarmedUp != 300 {
			t.Errorf("got %v and %d warmed up, want %s", got, s.WarmedUp, want)
		}
	})
}

// Phases divide a load by its intended times, to the operation; the last one
// goes on to the end, and one that was not reached is not there.
func TestPhasesOfALoad(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := Generator{
			Target: &Scripted{Serve: func(uint64, *client.Op) (time.Duration, client.Outcome) {
				return 300 * time.Millisecond, client.Outcome{} // most answers come in the phase after
			}},
			Schedule: Constant{1000}, Warmup: time.Second, Duration: 2 * time.Second, InFlight: 500,
			Phases: []PhaseSpan{{"a", 250 * time.Millisecond}, {"b", time.Second}, {"c", time.Millisecond}, {"d", 1}},
		}
		_, r := run(t, t.Context(), g)
		var got []string
		for _, se := range r.Series {
			got = append(got, fmt.Sprintf("%s:%d", se.Phase, se.Counts.OK))
		}
		for _, p := range r.Phases {
			got = append(got, fmt.Sprintf("%s %s-%s", p.Name, p.From, p.To))
		}
		// Each lasts to its last answer.
		want := "[a:250 b:1000 c:1 d:749 a 1s-1.549s b 1.25s-2.549s c 2.25s-2.55s d 2.251s-3.299s]"
		if fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
		g.Duration = time.Second
		if _, r = run(t, t.Context(), g); len(r.Phases) != 2 {
			t.Errorf("phases %v, want a and b", r.Phases)
		}
	})
}

// A latency outside of what a histogram holds is recorded at its edge and counted:
// the histogram itself would drop it without a word.
func TestClamped(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		took := []time.Duration{0, time.Millisecond, 2 * LatencyMax}
		s, r := run(t, t.Context(), Generator{
			Target: &Scripted{Serve: func(n uint64, _ *client.Op) (time.Duration, client.Outcome) {
				return took[n%3], client.Outcome{}
			}},
			Schedule: Constant{100}, Ops: 300, InFlight: 300, Drain: 5 * time.Minute,
		})
		se := r.Series[0]
		if s.Counts.OK != 300 || se.Response.Count != 300 || se.Clamped != 200 {
			t.Errorf("%+v, %d response times, %d clamped; want 300, 300 and 200", s.Counts, se.Response.Count, se.Clamped)
		}
		if !within(se.Response.Max, LatencyMax) || se.Response.P50 != time.Millisecond && !within(se.Response.P50, time.Millisecond) {
			t.Errorf("max %s, p50 %s", se.Response.Max, se.Response.P50)
		}
	})
}

// Oks, fails and infos are recorded apart, each with its response time, service
// time and lag, in the log of the intervals and in that of the totals; both are
// read back by HdrHistogram's own reader.
func TestHistogramFiles(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var log bytes.Buffer
		rec := NewRecorder(RecorderConfig{Log: &log})
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { rec.Run(ctx) })
		refused := errors.New("refused")
		g := Generator{
			Target: &Scripted{Serve: func(n uint64, _ *client.Op) (time.Duration, client.Outcome) {
				switch n % 10 {
				case 0:
					return 2 * time.Millisecond, client.Outcome{Status: client.StatusFail, Err: refused}
				case 1:
					return 50 * time.Millisecond, client.Outcome{Status: client.StatusInfo, Err: refused}
				}
				return time.Duration(1+n%10) * time.Millisecond, client.Outcome{}
			}},
			Source:   mustSource(t, Workload{Mix: []Weight[client.Kind]{{client.KindInsert, 1}}}),
			Recorder: rec, Schedule: Constant{1000}, Duration: 5 * time.Second, InFlight: 100,
			// Late by 1 ms, at each of its pauses.
			Sleep: func(d time.Duration) { time.Sleep(d + time.Millisecond) },
		}
		if _, err := g.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
		wg.Wait()
		var r result.Run
		rec.Fill(&r)
		totals := rec.Histograms()
		if _, err := result.WriteDistributions(dir, time.Now(), totals); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(filepath.Join(dir, result.TotalsFile))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for _, tc := range []struct {
			name string
			log  io.Reader
		}{{"intervals", &log}, {"totals", file}} {
			sums := map[string]*hdrhistogram.Histogram{}
			for reader := hdrhistogram.NewHistogramLogReader(tc.log); ; {
				h, err := reader.NextIntervalHistogram()
				if err != nil {
					t.Fatal(err)
				}
				if h == nil {
					break
				}
				if sums[h.Tag()] = result.SumOf(sums[h.Tag()], h); h.SignificantFigures() != map[string]int64{"intervals": 2, "totals": 3}[tc.name] {
					t.Errorf("%s: %d digits", tc.name, h.SignificantFigures())
				}
			}
			for tag, want := range map[string]struct {
				count  int64
				lo, hi time.Duration
			}{
				"ok/service": {4000, 3 * time.Millisecond, 10 * time.Millisecond}, "ok/response": {4000, 3 * time.Millisecond, 12 * time.Millisecond},
				"fail/service": {500, 2 * time.Millisecond, 2 * time.Millisecond}, "info/service": {500, 50 * time.Millisecond, 50 * time.Millisecond},
				"fail/response": {500, 2 * time.Millisecond, 4 * time.Millisecond}, "info/response": {500, 50 * time.Millisecond, 52 * time.Millisecond},
				"ok/lag": {4000, LatencyMin / 2, 2 * time.Millisecond}, "fail/lag": {500, LatencyMin / 2, 2 * time.Millisecond}, "info/lag": {500, LatencyMin / 2, 2 * time.Millisecond},
			} {
				h := sums["-/insert/quorum/"+tag]
				if h == nil || h.TotalCount() != want.count || float64(h.Min()) < float64(want.lo)*0.98 || float64(h.Max()) > float64(want.hi)*1.02 {
					t.Errorf("%s: %s: %+v, want %d from %s to %s", tc.name, tag, result.LatencyOf(h), want.count, want.lo, want.hi)
				}
			}
			if len(sums) != 9 {
				t.Errorf("%s: %d distributions, want 9", tc.name, len(sums))
			}
		}
		if s := r.Series[0]; s.Failed.Count != 500 || s.Waited.Count != 500 || s.Lag.Count != 5000 || s.Response.Count != 4000 || s.Clamped != 0 {
			t.Errorf("%+v", s)
		}
	})
}

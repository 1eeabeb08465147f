package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

// What loadgen asks of itself: the generator must not be what is measured.
const (
	selfRate   = 2_000_000 // operations per second on one core, on a target that does nothing
	selfShare  = 0.9       // of the throughput of the tightest client
	selfAllocs = 2         // allocations for each operation, beyond those of gRPC
	selfWindow = 64
	selfRounds = 9
)

// selfBench measures the generator alone, each for so long.
func selfBench(ctx context.Context, s *settings, each time.Duration, stdout, stderr io.Writer) error {
	about := "the generator on a target that does nothing, and on a bare stream beside the tightest client"
	se, err := newSession(s, result.KindBench, about, stdout, stderr)
	if err != nil {
		return err
	}
	se.record()
	err = se.selfNull(ctx, each)
	if err == nil {
		err = se.selfEcho(ctx, each)
	}
	return se.finish(ctx, err)
}

// selfNull measures the accounting on one core: source, clocks, histograms.
func (s *session) selfNull(ctx context.Context, each time.Duration) error {
	before := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(before)
	s.target = load.Null{}
	src, err := s.workload.Source()
	if err != nil {
		return command.Usage(err)
	}
	used := processorTime()
	perSecond, allocs, err := s.closedLoop(ctx, "null", src, 1, each)
	if err != nil || ctx.Err() != nil {
		return err
	}
	// By the time that the core worked for us: what others took of it is not ours.
	// Nothing in here waits, so that on an idle machine both are the same.
	perCore := 1e9 / s.perOperation(used)
	s.demand("null", fmt.Sprintf("rate >= %d/s", selfRate), fmt.Sprintf("%.0f for each second of a core, %.0f/s by the clock", perCore, perSecond), perCore >= selfRate)
	s.demand("null", fmt.Sprintf("allocations <= %d", selfAllocs), fmt.Sprintf("%.3f for each operation", allocs), allocs <= selfAllocs)
	return nil
}

// selfEcho measures generator and tight client on the same streams in turn, so
// that both see the same machine.
func (s *session) selfEcho(ctx context.Context, each time.Duration) error {
	echo, err := load.NewEcho(load.EchoConfig{Window: selfWindow})
	if err != nil {
		return err
	}
	s.target = echo
	w := s.workload
	w.Mix = []load.Weight[client.Kind]{{Of: client.KindPut, Weight: 1}} // one size, for both
	src, err := w.Source()
	if err != nil {
		return command.Usage(err)
	}
	var op client.Op
	src.Op(0, &op, nil)
	var ours, tight, ratios, allocs, tightAllocs, cpu, tightCPU []float64
	for round := range selfRounds {
		used := processorTime()
		own, a, err := s.closedLoop(ctx, fmt.Sprintf("echo, round %d", round+1), src, selfWindow, each)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		cpu = append(cpu, s.perOperation(used))
		s.live.phase(fmt.Sprintf("tight client, round %d", round+1))
		used = processorTime()
		limit, cancel := context.WithTimeout(ctx, each)
		mallocs := allocations()
		n, took, err := echo.Tight(limit, &op, selfWindow, 0)
		ta := float64(allocations() - mallocs)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("tight client: %w", err)
		}
		other := float64(n) / took.Seconds()
		ours, tight, ratios = append(ours, own), append(tight, other), append(ratios, own/max(other, 1))
		allocs, tightAllocs = append(allocs, a), append(tightAllocs, ta/max(float64(n), 1))
		tightCPU = append(tightCPU, float64(processorTime()-used)/max(float64(n), 1))
	}
	ratio := middle(ratios)
	s.demand("echo against the tight client", fmt.Sprintf("rate >= %.0f%%", 100*selfShare),
		fmt.Sprintf("%.1f%% (middle of %d rounds: %.0f/s against %.0f/s; processor time of both ends %s against %s for each operation)", 100*ratio, selfRounds,
			middle(ours), middle(tight), time.Duration(middle(cpu)), time.Duration(middle(tightCPU))), ratio >= selfShare)
	more := middle(allocs) - middle(tightAllocs)
	s.demand("echo against the tight client", fmt.Sprintf("allocations <= +%d", selfAllocs),
		fmt.Sprintf("%+.2f for each operation (%.2f and %.2f, of which gRPC's at both ends)", more, middle(allocs), middle(tightAllocs)), more <= selfAllocs)
	return nil
}

// demand notes what was asked of the generator and what it did.
func (s *session) demand(metric, expr, got string, met bool) {
	s.run.Thresholds = append(s.run.Thresholds, result.Threshold{Metric: metric, Expr: expr, Got: got, Met: met})
}

// closedLoop offers the operations of src in a closed loop to the session's target, and
// tells how many operations a second were answered and how many allocations
// each took, in the whole process.
func (s *session) closedLoop(ctx context.Context, phase string, src load.Source, window int, each time.Duration) (perSecond, allocs float64, err error) {
	g := load.Generator{InFlight: window, Warmup: each / 4, Duration: each, Phase: phase}
	before := allocations()
	err = s.with(ctx, &g, src, func(ctx context.Context) (*load.Summary, error) { return g.Run(ctx) })
	if err != nil || ctx.Err() != nil {
		return 0, 0, err
	}
	sum := s.steps[len(s.steps)-1].summary
	all := sum.Counts.Intended + sum.WarmedUp
	return float64(sum.Counts.OK) / max(sum.Elapsed.Seconds(), 1e-9), float64(allocations()-before) / max(float64(all), 1), nil
}

// perOperation is the processor time in nanoseconds that each operation of the
// last step took, of what was used since used.
func (s *session) perOperation(used time.Duration) float64 {
	sum := s.steps[len(s.steps)-1].summary
	return float64(processorTime()-used) / max(float64(sum.Counts.Intended+sum.WarmedUp), 1)
}

// processorTime is what this process has used so far.
func processorTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func allocations() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

func middle(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

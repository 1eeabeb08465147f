package load

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/reports/result"
)

// offerTo runs a generator in virtual time and writes its run directory.
func offerTo(t *testing.T, dir string, g Generator, segment *result.Segment) {
	t.Helper()
	file, err := os.Create(filepath.Join(dir, result.HistogramLogFile))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	started := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC) // --start-at
	log := bufio.NewWriter(file)
	g.Recorder, g.Sleep = NewRecorder(RecorderConfig{Log: log, Interval: 500 * time.Millisecond}), time.Sleep
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { g.Recorder.Run(ctx) })
	if _, err := g.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	wg.Wait()
	r := &result.Run{
		Kind: result.KindBench, Name: "part", Started: started, Segment: segment, Verdict: result.Pass,
		Checks: []result.Check{{Name: "c", Verdict: result.Pass, Checked: 1}}, Environment: &result.Environment{Seed: 5},
	}
	g.Recorder.Fill(r)
	if _, err := result.WriteDistributions(dir, started, g.Recorder.Histograms()); err != nil {
		t.Fatal(err)
	}
	if err := log.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := result.Write(dir, r); err != nil {
		t.Fatal(err)
	}
}

// Segments of a load, merged, are the load: the same counts and percentiles to
// the last digit in total, and the same counts in each interval. Parts that do
// not belong together, or twice, are refused.
func TestSegmentsMergeExactly(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		base := Generator{
			Source: mustSource(t, Workload{Seed: 5, Acks: []Weight[client.Level]{{client.LevelQuorum, 1}, {client.LevelLeader, 1}}}), Seed: 5,
			Schedule: mustSchedule(t, "poisson stages(2s:3k,1s:500:sine)"), InFlight: 2000,
			Phases: []PhaseSpan{{"up", 2 * time.Second}, {"down, slowly", 1}},
		}
		dir := func(name string, g Generator, s *result.Segment) string {
			path := filepath.Join(t.TempDir(), name)
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
			// An operation takes as long whoever offers it: by its key.
			g.Target = &Scripted{Width: 2, Serve: func(_ uint64, op *client.Op) (time.Duration, client.Outcome) {
				x := mix(uint64(len(op.Value))<<40 + hash(op.Key))
				o := client.Outcome{}
				if x%31 == 0 {
					o = client.Outcome{Status: client.StatusFail, Err: client.ErrBroken}
				}
				return time.Millisecond + time.Duration(x%200_000)*100, o
			}}
			offerTo(t, path, g, s)
			return path
		}
		whole, err := result.Read(dir("whole", base, nil))
		if err != nil {
			t.Fatal(err)
		}
		var parts []string
		for i := range uint64(3) {
			g := base
			g.Segment = Segment{i, 3}
			parts = append(parts, dir(fmt.Sprint("part", i), g, &result.Segment{Index: int64(i), Of: 3}))
		}
		merged, err := result.Merge([]string{parts[2], parts[0], parts[1]})
		if err != nil {
			t.Fatal(err)
		}
		out := t.TempDir()
		if err := merged.Write(out); err != nil {
			t.Fatal(err)
		}
		got, err := result.Read(out)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(whole.Series, got.Series); diff != "" {
			t.Errorf("series (-whole +merged):\n%s", diff)
		}
		if diff := cmp.Diff(whole.Phases, got.Phases); diff != "" {
			t.Errorf("phases (-whole +merged):\n%s", diff)
		}
		// In the last interval the runs ended a little apart.
		n := len(whole.Intervals)
		if len(got.Intervals) < n-6 || n < 20 {
			t.Fatalf("%d intervals of %d", len(got.Intervals), n)
		}
		// Two digits.
		near := cmp.Comparer(func(a, b time.Duration) bool { return math.Abs(float64(a-b)) <= float64(max(a, b))/50 })
		for i, row := range whole.Intervals[:n-6] {
			if diff := cmp.Diff(row, got.Intervals[i], near); diff != "" {
				t.Errorf("interval (-whole +merged):\n%s", diff)
			}
		}
		if got.Verdict != result.Pass || len(got.Checks) != 2 || got.Checks[0].Checked != 3 {
			t.Errorf("%s, checks %+v", got.Verdict, got.Checks)
		}

		if two, err := result.Merge(parts[:2]); err != nil || two.Run.Verdict != result.Unknown || !strings.Contains(two.Run.Reasons[0], "1 of 3 are missing") {
			t.Errorf("a missing segment: %v, %+v", err, two.Run.Reasons)
		}
		for want, dirs := range map[string][]string{
			"are both segment 1/3":       {parts[0], parts[0]},
			"and " + out + " is not":     {parts[0], out},
			"no run directory":           {},
			"not a run directory, or":    {t.TempDir()},
			"totals.hlog: not there, an": {withoutTotals(t, parts[0])},
			"not all of it is there":     {cutShort(t, parts[0]), parts[1], parts[2]},
		} {
			if _, err := result.Merge(dirs); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		}
	})
}

// withoutTotals is a run directory that lacks what merging needs.
func withoutTotals(t *testing.T, dir string) string {
	t.Helper()
	out := t.TempDir()
	b, err := os.ReadFile(filepath.Join(dir, result.SummaryFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(out, result.SummaryFile), b, 0o644)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(out, result.HistogramLogFile), nil, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// cutShort is a run directory of which the end of the distributions is gone, as when a disk was full.
func cutShort(t *testing.T, dir string) string {
	t.Helper()
	out := t.TempDir()
	if err := os.CopyFS(out, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(out, result.TotalsFile)
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, b[:len(b)-10], 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func hash(s string) uint64 {
	h := uint64(0)
	for _, c := range []byte(s) {
		h = mix(h + uint64(c))
	}
	return h
}

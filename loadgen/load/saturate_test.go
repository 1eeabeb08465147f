package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/reports/result"
)

// Whatever the capacity and the first rate, the search ends between a rate that
// held and one within 3 % above it that did not, after a bounded number of
// steps; the steps it reports are those it tried.
func TestSearchFindsTheCapacity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := math.Exp(rapid.Float64Range(math.Log(2), math.Log(5e5)).Draw(t, "log capacity"))
		start := math.Exp(rapid.Float64Range(0, math.Log(1e6)).Draw(t, "log start"))
		tries := 0
		s := Search{Start: start, Most: 1e7, Try: func(_ context.Context, rate float64, _ int) (result.SaturationTrial, error) {
			tries++
			return result.SaturationTrial{Held: rate <= capacity}, nil
		}}
		found, err := s.Run(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if found.Rate > capacity || found.Broken <= capacity || found.Broken > found.Rate*1.03 || found.Ended != "" {
			t.Fatalf("capacity %g: %g to %g, %s", capacity, found.Rate, found.Broken, found.Ended)
		}
		if tries != 3*len(found.Steps) || len(found.Steps) > 46 {
			t.Fatalf("%d tries, %d steps", tries, len(found.Steps))
		}
	})
}

// Most tries of a rate decide; the search ends at the bounds, at what the
// generator cannot offer, and with an error, and says so each time.
func TestSearchEnds(t *testing.T) {
	try := func(f func(rate float64, n int) result.SaturationTrial) func(context.Context, float64, int) (result.SaturationTrial, error) {
		return func(_ context.Context, rate float64, n int) (result.SaturationTrial, error) { return f(rate, n), nil }
	}
	found, err := Search{Try: try(func(rate float64, n int) result.SaturationTrial {
		return result.SaturationTrial{Held: rate < 3000 && n != 1} // the second try of each is bad luck
	})}.Run(t.Context())
	if err != nil || found.Rate < 2900 || found.Rate >= 3000 {
		t.Errorf("one of three fails: %+v, %v", found, err)
	}
	found, _ = Search{Start: 500, Most: 2000, Try: try(func(float64, int) result.SaturationTrial { return result.SaturationTrial{Held: true} })}.Run(t.Context())
	if found.Rate != 2000 || found.Broken != 0 || found.Ended != "2000/s held, which is as far as it was to go" {
		t.Errorf("everything holds: %+v", found)
	}
	found, _ = Search{Repeats: 1, Try: try(func(float64, int) result.SaturationTrial { return result.SaturationTrial{} })}.Run(t.Context())
	if found.Rate != 0 || found.Ended != "no rate held" || len(found.Steps) > 20 {
		t.Errorf("nothing holds: %+v", found)
	}
	found, _ = Search{Try: try(func(rate float64, _ int) result.SaturationTrial {
		return result.SaturationTrial{Held: rate < 1200, Limited: rate >= 1200}
	})}.Run(t.Context())
	if found.Ended != "the generator was the limit: the target may bear more" {
		t.Errorf("limited: %+v", found)
	}
	found, _ = Search{Try: try(func(float64, int) result.SaturationTrial { return result.SaturationTrial{Limited: true} })}.Run(t.Context())
	if found.Ended != "no rate held: the generator was the limit" {
		t.Errorf("limited from the first rate on: %+v", found)
	}
	broken := errors.New("broken")
	found, err = Search{Repeats: 2, Try: func(_ context.Context, rate float64, n int) (result.SaturationTrial, error) {
		if rate > 2000 && n == 1 {
			return result.SaturationTrial{}, broken
		}
		return result.SaturationTrial{Held: true}, nil
	}}.Run(t.Context())
	if !errors.Is(err, broken) || found.Rate != 1500 || len(found.Steps) != 3 || len(found.Steps[2].Trials) != 1 {
		t.Errorf("an error: %+v, %v", found, err)
	}
}

// A machine that is disturbed for a while, here for the first 40 tries or for
// ten in the middle, costs the search time, not its answer: what broke then is
// tried again. The tries of a rate are told apart by their number.
func TestSearchLooksAgain(t *testing.T) {
	const capacity = 30_000
	for _, disturbed := range [][2]int{{0, 40}, {20, 30}, {27, 31}, {5, 6}, {0, 0}} {
		tries := 0
		seen := map[string]bool{}
		found, err := Search{Try: func(_ context.Context, rate float64, n int) (result.SaturationTrial, error) {
			if id := fmt.Sprintf("%.2f/s, try %d", rate, n); seen[id] || rate >= 100 && rate != math.Trunc(rate) {
				t.Errorf("%v: %s twice, or no whole number", disturbed, id)
			} else {
				seen[id] = true
			}
			tries++
			return result.SaturationTrial{Held: rate <= capacity && (tries <= disturbed[0] || tries > disturbed[1])}, nil
		}}.Run(t.Context())
		if err != nil || found.Rate > capacity || found.Broken <= capacity || found.Broken > found.Rate*1.03 {
			t.Errorf("disturbed from try %d to %d: %g to %g, %s, %v", disturbed[0], disturbed[1], found.Rate, found.Broken, found.Ended, err)
		}
	}
}

// A try in which the generator was late does not count: another one takes its
// place, up to a bound, and only if too few are left was the generator the limit.
func TestSearchReplacesTriesOfALateGenerator(t *testing.T) {
	late := func(pattern string) (*result.Saturation, int) {
		most := 0
		found, err := Search{Try: func(_ context.Context, rate float64, n int) (result.SaturationTrial, error) {
			if rate > 3000 {
				return result.SaturationTrial{}, nil
			}
			most = max(most, n+1)
			l := pattern[n%len(pattern)] == 'L'
			return result.SaturationTrial{Held: !l, Limited: l}, nil
		}}.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return found, most
	}
	for pattern, tries := range map[string]int{".....": 3, "L....": 4, "LL...": 5, "L.L..": 5, "LLL..": 5, "LL.L.": 5} {
		if found, most := late(pattern); found.Rate < 2900 || most != tries || found.Ended != "" {
			t.Errorf("%s: %g/s after %d tries each, want about 3000/s after %d; %s", pattern, found.Rate, most, tries, found.Ended)
		}
	}
	found, _ := late("LLLL")
	if found.Rate != 0 || found.Ended != "no rate held: the generator was the limit" || len(found.Steps[0].Trials) != 4 {
		t.Errorf("always late: %+v", found)
	}
}

// queue is one server, first come first served.
type queue struct {
	mu    sync.Mutex
	begin time.Time
	until time.Duration
}

// serve is how long an operation stays that needs the server for d.
func (q *queue) serve(d time.Duration) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Since(q.begin)
	q.until = max(q.until, now) + d
	return q.until - now
}

// A single server with exponential service times of 1 ms on average, under
// Poisson arrivals (M/M/1): response times are exponential with rate µ-λ, so p99
// is ln(100)/(µ-λ), and 20 ms of it are reached at λ = 769.7/s. The search finds
// that, trying real generators on it.
func TestSaturationOfAQueue(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		limit, err := ParseThreshold("p99 < 20ms")
		if err != nil {
			t.Fatal(err)
		}
		rng := newRandom(1, 99)
		q := &queue{begin: time.Now()}
		target := &Scripted{Width: 4, Serve: func(uint64, *client.Op) (time.Duration, client.Outcome) {
			return q.serve(time.Duration(-math.Log(1-rng.float()) * float64(time.Millisecond))), client.Outcome{}
		}}
		rec := NewRecorder(RecorderConfig{})
		source := mustSource(t, Workload{})
		var phases []string
		s := Search{Start: 400, Repeats: 3, Try: func(ctx context.Context, rate float64, repeat int) (result.SaturationTrial, error) {
			g := Generator{
				Target: target, Source: source, Recorder: rec, Sleep: time.Sleep, InFlight: 1000, Drain: time.Second,
				Schedule: Poisson{rate}, Seed: uint64(len(phases)), Warmup: time.Second, Duration: 20 * time.Second, Phase: string(rune('A' + len(phases))),
			}
			trial, _, err := Trial(ctx, &g, []Threshold{limit})
			phases = append(phases, trial.Phase)
			time.Sleep(time.Minute) // what is queued is served
			return trial, err
		}}
		found, err := s.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := 1000 - math.Log(100)/0.020; math.Abs(found.Rate-want) > 0.05*want {
			t.Errorf("%.1f/s, want %.1f/s", found.Rate, want)
		}
		few := Generator{Target: target, Source: source, Recorder: rec, Sleep: time.Sleep, Schedule: Constant{10}, Duration: 50 * time.Second, Phase: "few"}
		if _, _, err := Trial(t.Context(), &few, []Threshold{limit}); err == nil || !strings.Contains(err.Error(), "500 operations cannot show") {
			t.Errorf("a try with too few operations: %v", err)
		}
		for _, st := range found.Steps {
			for _, tr := range st.Trials {
				if tr.Held != (tr.P99 < 20*time.Millisecond) || tr.Held != (tr.Reason == "") {
					t.Errorf("%.0f/s: %+v", st.Offered, tr)
				}
			}
		}
		// The memory of what has ended is given back.
		for _, sh := range rec.shards {
			for id, cells := range sh.active {
				if cells != nil && id <= len(phases) {
					t.Errorf("phase %d is still in a shard", id)
				}
			}
		}
	})
}

// The distribution of response times of M/M/1 agrees with its closed form: p50
// and p99 within 3 % over a long run, at a utilisation of 0.7; and the lag is
// none, since the windows are wide enough.
func TestPoissonQueueAgreesWithTheory(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		rng := newRandom(7, 99)
		q := &queue{begin: time.Now()}
		const service, rate, lasts = 1000.0, 700.0, 300 * time.Second
		_, r := run(t, t.Context(), Generator{
			Target: &Scripted{Serve: func(uint64, *client.Op) (time.Duration, client.Outcome) {
				return q.serve(time.Duration(-math.Log(1-rng.float()) / service * 1e9)), client.Outcome{}
			}},
			Schedule: Poisson{rate}, Seed: 3, Warmup: 10 * time.Second, Duration: lasts, InFlight: 4096,
		})
		se := r.Series[0]
		for _, x := range []struct {
			q   float64
			got time.Duration
		}{{0.5, se.Response.P50}, {0.9, se.Response.P90}, {0.99, se.Response.P99}} {
			want := -math.Log(1-x.q) / (service - rate) * 1e9
			if off := float64(x.got)/want - 1; math.Abs(off) > 0.03 {
				t.Errorf("quantile %g: %s, want %s: off by %.1f %%", x.q, x.got, time.Duration(want), 100*off)
			}
		}
		if mean := 1e9 / (service - rate); math.Abs(float64(se.Response.Mean)/mean-1) > 0.03 {
			t.Errorf("mean %s, want %s", se.Response.Mean, time.Duration(mean))
		}
		if se.Lag.Max > 2*LatencyMin || se.Counts.OK != se.Counts.Intended {
			t.Errorf("lag %s, %+v", se.Lag.Max, se.Counts)
		}
		if diff := cmp.Diff(se.Response, se.Service); diff != "" {
			t.Errorf("response and service time differ although nothing waited for a window:\n%s", diff)
		}
	})
}

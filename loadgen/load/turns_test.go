package load

import (
	"context"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/internal/bubble"
)

// Of two loads with the same seed each moment belongs to one or to none: turns do not overlap, a pause follows each, every
// pair has one of each, a load's own time is whole in its turns, and neither is always the first.
func TestTurns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := &Turns{
			For:   time.Duration(rapid.Int64Range(1, 1e6).Draw(t, "for")) * time.Microsecond,
			Pause: time.Duration(rapid.Int64Range(0, 1e5).Draw(t, "pause")) * time.Microsecond,
			Seed:  rapid.Uint64().Draw(t, "seed"),
		}
		b := *a
		b.Load = 1
		firsts := 0
		for pair := range int64(200) {
			x, y := a.begin(pair), b.begin(pair)
			if x < y {
				firsts++
			}
			first, second := min(x, y), max(x, y)
			if first != a.Last(int(pair)) || second != first+a.For+a.Pause {
				t.Fatalf("pair %d: turns begin at %v and %v", pair, x, y)
			}
		}
		if firsts < 60 || firsts > 140 { // six standard deviations
			t.Fatalf("one of the loads is the first in %d of 200 pairs", firsts)
		}
		own := time.Duration(rapid.Int64Range(0, int64(200*a.For)-1).Draw(t, "own"))
		at := a.at(own)
		if a.away(at) != 0 || a.For > 1 && b.away(at) == 0 {
			t.Fatalf("%v of the load's own time is at %v, and then it is %v and %v away", own, at, a.away(at), b.away(at))
		}
		if later := a.at(own + 1); later <= at {
			t.Fatalf("time goes back from %v to %v", at, later)
		}
		since := time.Duration(rapid.Int64Range(0, int64(a.Last(200))).Draw(t, "since"))
		if next := since + a.away(since); a.away(next) != 0 || next < since {
			t.Fatalf("at %v the next turn is said to be at %v, and it is %v away then", since, next, a.away(next))
		}
		if got := a.share(a.Last(7)); (got - 7*a.For).Abs() > time.Microsecond {
			t.Fatalf("of seven pairs of %v the load has %v", a.pair(), got)
		}
	})
}

// Two loads that take turns never send while the other may, at a fixed rate and in a closed loop, and the rates that are
// reported are of the time that was theirs.
func TestGeneratorTakesTurns(t *testing.T) {
	for _, closed := range []bool{false, true} {
		bubble.Test(t, func(t *testing.T) {
			turns := Turns{For: 250 * time.Millisecond, Pause: 20 * time.Millisecond, Seed: 3}
			var sums [2]*Summary
			for i := range sums {
				mine, other := turns, turns
				mine.Load, other.Load = i, 1-i
				begin, strays := time.Now(), 0
				g := Generator{
					Turns: &mine, Duration: mine.Last(8), InFlight: 4, Seed: 5, Phase: "x",
					Target: &Scripted{Serve: func(uint64, *client.Op) (time.Duration, client.Outcome) {
						if other.away(time.Since(begin)) == 0 {
							strays++
						}
						return 2 * time.Millisecond, client.Outcome{}
					}},
				}
				want := 4 / 0.002
				if !closed {
					g.Schedule, want = Poisson{PerSecond: 1000}, 1000
				}
				s, r := run(t, t.Context(), g)
				sums[i] = s
				if strays > 0 || s.Counts.OK == 0 || s.Counts.OK != s.Counts.Intended {
					t.Errorf("closed %v: %d of %d operations were sent out of turn, %d ok", closed, strays, s.Counts.Intended, s.Counts.OK)
				}
				if len(r.Series) != 1 || r.Series[0].Throughput < 0.85*want || r.Series[0].Throughput > 1.15*want {
					t.Errorf("closed %v: throughput %+v, expected about %g/s", closed, r.Series, want)
				}
			}
			if !closed && sums[0].Counts.Intended != sums[1].Counts.Intended {
				t.Errorf("%d and %d operations were intended", sums[0].Counts.Intended, sums[1].Counts.Intended)
			}
		})
	}
}

// Turns after a warm-up, or of no length, are refused: the turns of the two loads would not lie between each other.
func TestTurnsAreChecked(t *testing.T) {
	for name, g := range map[string]Generator{
		"warm-up":   {Turns: &Turns{For: time.Second}, Warmup: time.Second},
		"no length": {Turns: &Turns{}},
		"third":     {Turns: &Turns{For: time.Second, Load: 2}},
	} {
		g.Target, g.Source, g.Recorder, g.Duration = &Scripted{}, mustSource(t, Workload{Mix: []Weight[client.Kind]{{client.KindInsert, 1}}}), NewRecorder(RecorderConfig{}), time.Second
		if _, err := g.Run(context.Background()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

package result

import (
	"math"
	"strings"
	"testing"
	"time"
)

// A ratio is taken within each round, so that a machine that is slower in one of them slows both sides: with a base that
// halves in the second round and a row that is always half of it, every ratio of medians but that one would differ.
func TestPeersRatioIsWithinTheRound(t *testing.T) {
	p := &Peers{Rows: []PeerRow{
		{Name: "base", Rounds: []Turn{{Round: 1, Rate: 100, P50: 10}, {Round: 2, Rate: 50, P50: 20}, {Round: 4, Rate: 1}}},
		{Name: "row", Base: "base", Rounds: []Turn{{Round: 1, Rate: 50, P50: 30}, {Round: 2, Rate: 25, P50: 60}, {Round: 3, Rate: 7, P50: 1}}},
	}}
	if got := p.RateRatio(&p.Rows[1]); got != 0.5 {
		t.Errorf("rate: %v, expected 0.5: rounds that only one of them has do not count", got)
	}
	if got := p.MedianRatio(&p.Rows[1]); got != 3 {
		t.Errorf("p50: %v, expected 3", got)
	}
	if got := p.RateRatio(&p.Rows[0]); !math.IsNaN(got) {
		t.Errorf("a row without a base has the ratio %v, expected none", got)
	}
	if got := p.Rows[1].Middle(func(t Turn) float64 { return t.Rate }); got != 25 {
		t.Errorf("median of 50, 25 and 7: %v", got)
	}
	if got := (&PeerRow{}).Middle(func(t Turn) float64 { return t.Rate }); !math.IsNaN(got) {
		t.Errorf("median of nothing: %v, expected none", got)
	}
}

// What no comparison can contain is refused with its place, all of it at once.
func TestPeersValidate(t *testing.T) {
	good := func() *Run {
		return &Run{Kind: KindBench, Name: "x", Verdict: Pass, Peers: &Peers{
			Systems: []Peer{{Name: "a"}},
			Rows:    []PeerRow{{Name: "r", System: "a", Rounds: []Turn{{Round: 1}, {Round: 2}}}},
		}}
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*Peers){
		`systems[1]: name "a" is empty or there twice`:      func(p *Peers) { p.Systems = append(p.Systems, Peer{Name: "a"}) },
		`rows[0] "r": system "b" is not among`:              func(p *Peers) { p.Rows[0].System = "b" },
		`rows[0] "r": base "q" is no row`:                   func(p *Peers) { p.Rows[0].Base = "q" },
		`rows[1] "r": name is empty or there twice`:         func(p *Peers) { p.Rows = append(p.Rows, p.Rows[0]) },
		`rows[0] "r": rounds[1]: round 1, expected growing`: func(p *Peers) { p.Rows[0].Rounds[1].Round = 1 },
		`rows[0] "r": rounds[0]: a negative or impossible`:  func(p *Peers) { p.Rows[0].Rounds[0].CPU = -time.Second },
		`rows[0] "r": rounds[1]: a negative or impossible`:  func(p *Peers) { p.Rows[0].Rounds[1].Rate = math.NaN() },
		`peers: idle_cores: -1, expected 0 or more`:         func(p *Peers) { p.Idle = -1 },
	} {
		r := good()
		spoil(r.Peers)
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, expected %q", err, want)
		}
	}
}

package result

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Peers is a comparison of systems on one machine, by one generator, in turns.
type Peers struct {
	Systems []Peer    `json:"systems"`
	Rows    []PeerRow `json:"rows"` // of what was measured, in the order in which they are shown
	// Idle is how many cores all servers together kept busy while nobody asked them anything: what every row bears of the
	// others.
	Idle float64 `json:"idle_cores"`
}

// Peer is one of the systems: what it is, and what a reader has to know to judge its numbers.
type Peer struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Client  string `json:"client,omitempty"` // the library that load was offered with
	// Absent says why it was not measured; empty if it was.
	Absent       string   `json:"absent,omitempty"`
	Acknowledged string   `json:"acknowledged,omitempty"` // when a write, or a read, counts as done
	Durability   string   `json:"durability,omitempty"`   // what outlives the processes
	Setup        []string `json:"setup,omitempty"`        // command lines, and what else was chosen
	Favours      []string `json:"favours,omitempty"`      // where the comparison is unfair in its favour
	Against      []string `json:"against,omitempty"`      // and to its disadvantage
}

// PeerRow is one load on one system.
type PeerRow struct {
	Name      string `json:"name"`             // unique
	Load      string `json:"load"`             // rows of one load are shown together
	System    string `json:"system"`           // the name of a [Peer]
	Operation string `json:"operation"`        // in the words of the system
	Base      string `json:"base,omitempty"`   // the name of the row that stands for the machine; empty: none
	Rounds    []Turn `json:"rounds,omitempty"` // at most one a round
}

// Turn is one row in one round.
type Turn struct {
	Round int64         `json:"round"` // from 1
	Ops   int64         `json:"ops"`   // answered with ok while it was measured
	NotOK int64         `json:"not_ok"`
	Rate  float64       `json:"throughput_per_s"`
	P50   time.Duration `json:"p50_ns"`
	P99   time.Duration `json:"p99_ns"`
	// CPU is the processor time of all processes that took part, the generator's included, for one operation.
	CPU time.Duration `json:"cpu_per_op_ns"`
}

func (t Turn) ratePerSecond() float64 { return t.Rate }
func (t Turn) median() float64        { return float64(t.P50) }

// Middle is the median of one quantity over the rounds; NaN if there are none.
func (r *PeerRow) Middle(of func(Turn) float64) float64 {
	var all []float64
	for _, t := range r.Rounds {
		all = append(all, of(t))
	}
	return median(all)
}

// RateRatio is the median over the rounds of this row's rate to that of its base in the same round; NaN if there are
// no such rounds.
func (p *Peers) RateRatio(r *PeerRow) float64 { return p.ratio(r, Turn.ratePerSecond) }

// MedianRatio is the same of the median latency.
func (p *Peers) MedianRatio(r *PeerRow) float64 { return p.ratio(r, Turn.median) }

func (p *Peers) ratio(r *PeerRow, of func(Turn) float64) float64 {
	i := slices.IndexFunc(p.Rows, func(b PeerRow) bool { return b.Name == r.Base })
	if i < 0 {
		return math.NaN()
	}
	var all []float64
	for _, t := range r.Rounds {
		for _, b := range p.Rows[i].Rounds {
			if b.Round == t.Round && of(b) > 0 {
				all = append(all, of(t)/of(b))
			}
		}
	}
	return median(all)
}

// median is the middle value, or the mean of the two in the middle; NaN if there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// validate reports what no comparison can contain.
func (p *Peers) validate(bad func(format string, args ...any)) {
	if math.IsNaN(p.Idle) || p.Idle < 0 {
		bad("peers: idle_cores: %g, expected 0 or more", p.Idle)
	}
	names := map[string]bool{}
	for i, s := range p.Systems {
		if s.Name == "" || names[s.Name] {
			bad("peers: systems[%d]: name %q is empty or there twice", i, s.Name)
		}
		names[s.Name] = true
	}
	rows := map[string]bool{}
	for i, r := range p.Rows {
		what := fmt.Sprintf("peers: rows[%d] %q", i, r.Name)
		if r.Name == "" || rows[r.Name] {
			bad("%s: name is empty or there twice", what)
		}
		rows[r.Name] = true
		if !names[r.System] {
			bad("%s: system %q is not among the systems", what, r.System)
		}
		for j, t := range r.Rounds {
			if t.Round < 1 || j > 0 && t.Round <= r.Rounds[j-1].Round {
				bad("%s: rounds[%d]: round %d, expected growing numbers from 1", what, j, t.Round)
			}
			if !(t.Rate >= 0) || math.IsInf(t.Rate, 0) || t.Ops < 0 || t.NotOK < 0 || t.P50 < 0 || t.P99 < 0 || t.CPU < 0 {
				bad("%s: rounds[%d]: a negative or impossible number", what, j)
			}
		}
	}
	for i, r := range p.Rows {
		if r.Base != "" && !rows[r.Base] {
			bad("peers: rows[%d] %q: base %q is no row", i, r.Name, r.Base)
		}
	}
}

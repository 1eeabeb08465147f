// Package check judges a run from its evidence alone: the history of
// operations, the events, and a few facts the runner noted. It needs no
// cluster, so that "chaos check DIR" gives the verdict of "chaos run" again.
//
// Each check answers for one property and gives one verdict. Run validity
// comes first: a run in which nothing was written, or whose fault did not
// bite, proves nothing, so every pass in it becomes unknown. A violation stays
// one as long as the history is complete: what was seen to be lost is lost,
// however little else was tried.
package check

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// Input is the evidence of one run.
type Input struct {
	History *history.History
	Events  []result.Event
	Nodes   []string
	// Resources are samples of what the processes used, in order of time.
	Resources []result.Resource

	// Planned are the injections that the run had to perform.
	Planned []Planned
	// Demands are the operations that the load had to contain.
	Demands []Demand
	// ProbeInterval is the time between two probe writes of one level through
	// the nodes that a fault on one of them leaves.
	ProbeInterval time.Duration
	// Scale is the factor by which the scenario was shortened; 0: it was not.
	Scale float64

	// Caches are those that have a bound or whose entries have a life, and Written
	// those that the load writes to.
	Caches  map[string]Cache
	Written []string

	// Elsewhere says that somebody else runs the cluster, and Cannot which checks
	// need what only they have, with the reason, by name.
	Elsewhere bool
	Cannot    map[string]string

	Facts Facts
	Limit Limits
}

// Planned is one injection of the plan.
type Planned struct {
	Name     string
	Action   string
	OnLeader bool // it takes the leader away: a failover must follow
	Hostile  bool // it is clients that misbehave: no node and no link is broken
	// Series names the repeated fault that it belongs to; empty: it comes once.
	// An injection of a series is made only while all nodes are ready.
	Series string
	// Drawn says that the series is of faults that were drawn, each another one.
	Drawn bool
}

// Cache says how entries of a cache may go without being removed.
type Cache struct {
	Bounded  bool // for want of room
	Expiring bool // after their time
}

// forgets reports whether entries of a cache may have gone without being
// removed, so that nothing is missed there. One that is bounded and had room for
// everything has to have everything.
func (in *Input) forgets(cache string) bool {
	c := in.Caches[cache]
	return c.Expiring || c.Bounded && in.Facts.Evicted[cache] > 0
}

// Skipped is the action of the note that says that an injection of a series
// was left out because the nodes were not ready for it.
const Skipped = "skipped"

// Demand is a kind of operation that the load was told to issue.
type Demand struct {
	Kind  string
	Level string // of insert and remove
}

// Limits say which properties to check, and how strictly.
type Limits struct {
	LostWrites bool
	Staleness  time.Duration // 0: reads are not checked
	// Session demands that at one node nothing older is read than what was
	// acknowledged or read there before.
	Session bool
	// Loss bounds, by level, what may be lost of what the level does not promise
	// to keep.
	Loss map[string]LossBound
	// StateHash demands that the nodes hold the same in the end.
	StateHash bool
	// Linearizable demands that each sampled key has a linearization.
	Linearizable bool
	// Preloaded demands that entries which were there before the load, and nobody
	// wrote to since, are as they were.
	Preloaded bool
	// ExactlyOnce demands that operations which were sent several times under
	// one tag took effect once.
	ExactlyOnce bool
	Converge    time.Duration // 0: not checked
	// Recovery is within which time quorum writes have to go on; 0: any.
	Recovery   time.Duration
	Thresholds []Threshold
}

// LossBound is how much of a level's writes may be lost.
type LossBound struct {
	Rate float64 // of those acknowledged; 0: any
	// Window is how far from the beginning of its fault a lost write may have
	// been acknowledged, before or after; 0: as far as the level allows.
	Window time.Duration
}

// promisedStaleness is how old a local read may be, where a scenario does not
// say.
const promisedStaleness = 500 * time.Millisecond

// Abort is a threshold that was not kept while the load ran, and ended it.
type Abort struct {
	Metric string        `json:"metric"` // as written
	Expr   string        `json:"expr"`
	Got    string        `json:"got"` // at that moment
	At     time.Duration `json:"at_ns"`
}

// Facts are what the runner saw that is neither an operation nor an event.
type Facts struct {
	// HistoryError is why the history is not complete, if the writer said.
	HistoryError string `json:"history_error,omitempty"`
	// LoadError is what ended the load early.
	LoadError string `json:"load_error,omitempty"`
	// Converged says whether all nodes applied the same after everything
	// healed, and ConvergedIn how long it took, or how long it was waited for,
	// from ConvergeFrom on.
	Converged    bool          `json:"converged"`
	ConvergeFrom time.Duration `json:"converge_from_ns,omitempty"`
	ConvergedIn  time.Duration `json:"converged_in_ns"`
	Divergence   string        `json:"divergence,omitempty"` // what the nodes said last, if they did not
	// FinalReads says that every key was read on every node.
	FinalReads bool   `json:"final_reads"`
	FinalError string `json:"final_error,omitempty"`
	// States are what the nodes held after they had converged, and StateError
	// why they cannot be compared.
	States     []Digest `json:"states,omitempty"`
	StateError string   `json:"state_error,omitempty"`
	// Evicted and Expired count, by cache, what some process of a node had
	// removed by itself when it was last asked.
	Evicted map[string]uint64 `json:"evicted,omitempty"`
	Expired map[string]uint64 `json:"expired,omitempty"`
	// Preloaded is what became of the entries that were there before the load;
	// nil: there were to be none, or the run ended before they were.
	Preloaded *Preloaded `json:"preloaded,omitempty"`
	// Aborted is the limit that ended the load early; nil: none did.
	Aborted *Abort `json:"aborted,omitempty"`
	// Generator describes a generator that could not keep to its schedule.
	Generator string `json:"generator,omitempty"`
	// LogFindings are lines of node logs that no healthy node writes.
	LogFindings []string `json:"log_findings,omitempty"`

	// Hostile is what hostile clients came to, one for each attack and node.
	Hostile []Hostile `json:"hostile,omitempty"`

	// LoadFrom and LoadTo are the ends of the recorded load.
	LoadFrom time.Duration `json:"load_from_ns"`
	LoadTo   time.Duration `json:"load_to_ns"`
	// Stopping is when the runner began to stop the nodes; 0: it did not.
	Stopping time.Duration `json:"stopping_ns"`
}

// Verdicts is what the checks found, ready to be put into a result.
type Verdicts struct {
	Checks     []result.Check
	Thresholds []result.Threshold
	Failovers  []result.Failover
	Outages    []result.Outage
	Losses     []result.Loss
	Exposures  []result.Exposure
	Warnings   []string
	// Picture is a page that shows the first key without a linearization; nil:
	// there is none.
	Picture []byte
}

// Put stores v into r and judges it.
func (v *Verdicts) Put(r *result.Run) {
	r.Checks, r.Thresholds, r.Failovers, r.Outages = v.Checks, v.Thresholds, v.Failovers, v.Outages
	r.Losses, r.Exposures = v.Losses, v.Exposures
	r.Warnings = append(r.Warnings, v.Warnings...)
	r.Judge()
}

// All runs every check. It does not modify its input.
func All(evidence *Input) *Verdicts {
	v := new(Verdicts)
	in, all := new(*evidence), evidence.History
	in.History = new(*all)
	in.History.Ops = merged(all.Ops)
	windows := faultWindows(in.Events, in.end())
	m := newMachine(in, windows)
	valid := validity(in, windows, m)
	v.add(valid)
	l := newLedger(in, windows)
	var finals *losses
	if in.Limit.LostWrites {
		finals = l.lostWrites()
	}
	if in.Limit.LostWrites || in.Limit.Staleness > 0 {
		v.resurrection(l, finals, cmp.Or(in.Limit.Staleness, promisedStaleness))
	}
	if in.Limit.LostWrites {
		v.lost(finals)
		v.logOrder(in)
	}
	if in.Limit.Preloaded {
		v.preloaded(in)
	}
	if in.Limit.Session {
		v.session(l)
	}
	if in.Limit.ExactlyOnce {
		v.exactlyOnce(in, all)
	}
	if in.Limit.Staleness > 0 {
		v.staleReads(l, in.Limit.Staleness)
	}
	if in.Limit.Linearizable {
		v.linearizable(in, windows)
	}
	v.add(identity(in, windows))
	v.dualLeader(in)
	if in.Limit.Converge > 0 {
		v.add(converged(in, m))
	}
	if in.Limit.StateHash {
		v.stateHash(in)
	}
	v.add(liveness(in, windows, m))
	v.hostile(in)
	v.failovers(in, windows, m)
	v.thresholds(in, windows, m)
	if len(m.poor) > 0 {
		v.Warnings = append(v.Warnings, m.describe(in)+"; what took long then says little about the nodes")
	}
	if in.Scale > 0 {
		v.Warnings = append(v.Warnings, fmt.Sprintf("a quick look: the scenario was scaled by %g, so this is shorter, and has fewer injections, than what it stands for", in.Scale))
	}
	if in.Facts.Generator != "" {
		v.Warnings = append(v.Warnings, "generator limited: "+in.Facts.Generator+"; the latencies say little about the nodes")
	}
	if valid.Verdict == result.Pass {
		return v
	}
	whole := in.History.Complete()
	for i := range v.Checks[1:] {
		c := &v.Checks[1+i]
		if c.Verdict == result.Pass || c.Verdict == result.Violated && !whole {
			c.Detail = strings.TrimSuffix("not valid as a "+string(c.Verdict)+" because the run is not: "+c.Detail, ": ")
			c.Verdict = result.Unknown
		}
	}
	return v
}

func (v *Verdicts) add(c result.Check) { v.Checks = append(v.Checks, c) }

// end is the last moment of which the evidence speaks.
func (in *Input) end() time.Duration {
	end := in.Facts.LoadTo
	for i := range in.History.Ops {
		end = max(end, in.History.Ops[i].Return)
	}
	for _, e := range in.Events {
		end = max(end, e.T)
	}
	return end
}

func faultWindows(events []result.Event, end time.Duration) []result.Window {
	r := result.Run{Events: events, Duration: end}
	return r.Windows()
}

// converged checks that the nodes came to agree after everything healed.
func converged(in *Input, m *machine) result.Check {
	c := result.Check{Name: "convergence", Verdict: result.Pass, Checked: int64(len(in.Nodes)), Worst: in.Facts.ConvergedIn}
	if in.Facts.Converged {
		c.Detail = fmt.Sprintf("all nodes had applied the same %v after the last heal", in.Facts.ConvergedIn.Round(time.Millisecond))
		return c
	}
	if in.Facts.Divergence == "" { // the run did not get that far
		c.Verdict, c.Detail = result.Unknown, "the run ended before it could be seen"
		return c
	}
	c.Verdict, c.Count = result.Violated, 1
	c.Detail = fmt.Sprintf("not within %v after the last heal: %s", in.Limit.Converge, in.Facts.Divergence)
	if why := m.excuse(in.Facts.ConvergeFrom, in.Facts.ConvergeFrom+in.Facts.ConvergedIn, in.Nodes, len(in.Nodes)); why != "" {
		c.Verdict, c.Detail = result.Unknown, c.Detail+": "+why
	}
	return c
}

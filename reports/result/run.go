// Package result is the record of one run: what loadgen and chaos write into a run directory and what reports reads
// back. It holds the versioned schema, the codecs of every file in it, the capture of the environment, and the layout
// of the directory. It imports nothing else of this module, so that a result can be read by anything.
//
// # Time and units
//
// Every time inside a run is a [time.Duration] since the start of the run, taken from one monotonic clock; it is
// written as an integer number of nanoseconds under a name that ends in _ns. The start of the run is the only wall
// clock time ([Run.Started]). Rates are per second (…_per_s), sizes are bytes (…_bytes), shares are fractions of one.
// A zero latency, or a zero step of a failover, means "not reported": none of them can be zero when measured.
//
// # Files
//
// Each fact is in exactly one file: totals and verdicts in summary.json, the course of the load in timeseries.csv,
// faults and observations in events.jsonl, processes in resources.csv, the machine in env.json. bench.txt repeats
// the totals for benchstat. See [Write] and [Read].
package result

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// SchemaVersion is the version of the schema that this package writes, and the only one it reads.
const SchemaVersion = 1

// Kind says which program made the run.
type Kind string

const (
	KindBench    Kind = "bench"    // loadgen: load without faults
	KindScenario Kind = "scenario" // chaos: load, faults and checks
)

// Run is one run. The fields tagged json:"-" live in files of their own.
type Run struct {
	Schema  int       `json:"schema"` // SchemaVersion; set by [Write]
	Kind    Kind      `json:"kind"`
	Name    string    `json:"name"`            // of the scenario, or of the benchmark
	About   string    `json:"about,omitempty"` // one sentence: what the run is meant to show
	Started time.Time `json:"started"`
	// Duration is the time from the start of the run to the end of its last phase.
	Duration time.Duration `json:"duration_ns"`

	Verdict Verdict  `json:"verdict"`
	Reasons []string `json:"reasons,omitempty"` // why it is not a pass, most important first
	// Failure is the error that ended the run early, empty if it ran to its end. It makes the exit code 1.
	Failure string `json:"failure,omitempty"`
	// Interrupted names the signal that ended the run early ("SIGINT", "SIGTERM"), empty if none did.
	Interrupted string   `json:"interrupted,omitempty"`
	Warnings    []string `json:"warnings,omitempty"` // what a reader must know to judge the numbers, e.g. that the generator was the limit

	Checks     []Check     `json:"checks,omitempty"`
	Thresholds []Threshold `json:"thresholds,omitempty"`

	Nodes  []Node   `json:"nodes,omitempty"`
	Phases []Phase  `json:"phases,omitempty"` // in order of From; they may leave gaps
	Series []Series `json:"series,omitempty"`

	Failovers []Failover `json:"failovers,omitempty"` // one per injection that took the leader away, of every repetition
	Outages   []Outage   `json:"outages,omitempty"`   // the longest one per level first
	Losses    []Loss     `json:"losses,omitempty"`    // the writes that broke a promise; may be cut, see Exposures for the counts
	Exposures []Exposure `json:"exposures,omitempty"` // per level: how many writes were at stake

	Costs []Cost `json:"costs,omitempty"` // what the nodes spent on a phase, where it was measured

	Segment    *Segment    `json:"segment,omitempty"`    // set if the load was one part of several
	Saturation *Saturation `json:"saturation,omitempty"` // set by a search for the highest rate
	Peers      *Peers      `json:"peers,omitempty"`      // set by a comparison with other systems

	Repeats []Repeat `json:"repeats,omitempty"` // set in the summary of a repeated scenario
	Files   []File   `json:"files,omitempty"`   // evidence beside the files of this package; [Write] keeps those that exist

	Environment *Environment `json:"-"` // env.json
	Intervals   []Interval   `json:"-"` // timeseries.csv
	Events      []Event      `json:"-"` // events.jsonl
	Resources   []Resource   `json:"-"` // resources.csv
}

// Verdict is the judgement of a run or of one check.
type Verdict string

const (
	Pass         Verdict = "pass"
	Violated     Verdict = "violated"
	Unknown      Verdict = "unknown"       // it could not be decided: an invalid run, or a check that ran out of time
	NotExercised Verdict = "not exercised" // the run held nothing that could have broken it
)

// Rank orders verdicts by how much a reader has to worry: violated, unknown, not exercised, pass.
// It is 0 for Violated and grows from there.
func (v Verdict) Rank() int {
	return slices.Index([]Verdict{Violated, Unknown, NotExercised, Pass}, v)
}

// CheckLeaderKept is the name of the check that nobody took the leadership over in a run without faults.
const CheckLeaderKept = "leader kept"

// Check is the judgement of one property.
type Check struct {
	Name    string  `json:"name"` // "lost writes", "run validity", …
	Verdict Verdict `json:"verdict"`
	Count   int64   `json:"count"`             // violations found
	Checked int64   `json:"checked,omitempty"` // things looked at; 0: not counted
	Detail  string  `json:"detail,omitempty"`  // one line: what was found, or why it is unknown
	// Worst is the largest excess the check measured, such as the oldest value read; 0 if it measures none.
	Worst    time.Duration `json:"worst_ns,omitempty"`
	Examples []string      `json:"examples,omitempty"`
}

// Threshold is one limit the scenario or the command line set on a metric.
type Threshold struct {
	Metric string `json:"metric"` // "insert{phase:recovery}"
	Expr   string `json:"expr"`   // "p(99) < 20ms"
	Got    string `json:"got"`    // the measured value, with its unit
	Met    bool   `json:"met"`
}

// Node is one member of the cluster under test.
type Node struct {
	Name     string `json:"name"`               // as events and operations call it
	Identity string `json:"identity,omitempty"` // host:port, as in HA_HOSTS
	Version  string `json:"version,omitempty"`
	Log      string `json:"log,omitempty"` // path inside the run directory
}

// Phase is a named stretch of the run: a stage of a benchmark, or before, during and recovery around faults.
type Phase struct {
	Name string        `json:"name"`
	From time.Duration `json:"from_ns"`
	To   time.Duration `json:"to_ns"`
}

// Series is the totals of one operation at one level in one phase.
type Series struct {
	Phase string `json:"phase,omitempty"` // empty: the whole run
	Op    string `json:"op"`              // get, put, insert, del, remove
	// Level is the acknowledgement level of a write (quorum, once, leader) or the read mode of a get; empty if the
	// operation has none.
	Level string `json:"level,omitempty"`
	// Closed says that the load was closed loop: N operations in flight, each waiting for one before it. Response and
	// service time are then the same thing, and say nothing about a fixed demand.
	Closed bool `json:"closed_loop,omitempty"`
	// InFlight is the number of operations a closed loop keeps open.
	InFlight int `json:"in_flight,omitempty"`
	// Limited says that the generator, not the target, was the limit; the latencies are then no verdict on the target.
	Limited bool `json:"generator_limited,omitempty"`
	// Saturated says that operations waited for room in the windows, so that the target did not receive the offered rate:
	// the response times then say how long the load lasted, and nothing else about the target.
	Saturated bool `json:"saturated,omitempty"`

	Counts     Counts        `json:"counts"`
	Span       time.Duration `json:"span_ns"`                 // the recorded time behind the rates
	Offered    float64       `json:"offered_per_s,omitempty"` // the rate asked for; 0 in a closed loop
	Throughput float64       `json:"throughput_per_s"`        // oks per second of Span

	Response Latency `json:"response"`           // of oks: return - intended
	Service  Latency `json:"service"`            // of oks: return - send
	Lag      Latency `json:"lag,omitzero"`       // of everything sent: send - intended
	Failed   Latency `json:"failed,omitzero"`    // of fails: time to the answer
	Waited   Latency `json:"waited,omitzero"`    // of infos and unfinished: at least this long
	Spectrum []Point `json:"spectrum,omitempty"` // of oks, by growing Q
	// Clamped counts latencies outside the recorder's range, which were recorded at its edge.
	Clamped int64 `json:"clamped,omitempty"`
}

// Counts is operations by outcome. Intended = OK + Fail + Info + Missed + Unfinished. Miss and Refused are parts of
// OK and Fail; Misrouted counts operations of any outcome.
type Counts struct {
	Intended   int64 `json:"intended"`
	OK         int64 `json:"ok"`
	Fail       int64 `json:"fail"`                 // definite: it had no effect and never will
	Info       int64 `json:"info"`                 // unknown: it may have taken effect
	Missed     int64 `json:"missed"`               // never sent, for want of a free slot
	Unfinished int64 `json:"unfinished,omitempty"` // still open at the end
	Miss       int64 `json:"miss,omitempty"`       // gets answered without a value
	Refused    int64 `json:"refused,omitempty"`    // gets refused because the node could not prove freshness
	Misrouted  int64 `json:"misrouted,omitempty"`  // meant for the leader and answered by a node that was not it
}

// Add adds other's counts.
func (c *Counts) Add(other *Counts) {
	c.Intended += other.Intended
	c.OK += other.OK
	c.Fail += other.Fail
	c.Info += other.Info
	c.Missed += other.Missed
	c.Unfinished += other.Unfinished
	c.Miss += other.Miss
	c.Refused += other.Refused
	c.Misrouted += other.Misrouted
}

// Cost is the processor time that all nodes together spent while a phase was recorded.
type Cost struct {
	Phase string        `json:"phase"`
	Ops   int64         `json:"ops"` // oks of that phase
	CPU   time.Duration `json:"cpu_ns"`
}

// Latency is the usual percentiles of one distribution. A percentile is 0 when there were too few samples to report
// it, see [Reportable].
type Latency struct {
	Count int64         `json:"count"`
	Mean  time.Duration `json:"mean_ns"`
	P50   time.Duration `json:"p50_ns"`
	P90   time.Duration `json:"p90_ns"`
	P99   time.Duration `json:"p99_ns"`
	P999  time.Duration `json:"p999_ns"`
	Max   time.Duration `json:"max_ns"`
}

// Point is the latency at quantile Q, 0 <= Q < 1.
type Point struct {
	Q        float64       `json:"q"`
	Response time.Duration `json:"response_ns"`
	Service  time.Duration `json:"service_ns"`
}

// Segment says which part of a load a run offered: operations Index, Index+Of, Index+2·Of and so on of one plan.
type Segment struct {
	Index int64 `json:"index"` // from 0
	Of    int64 `json:"of"`
}

// Saturation is a search for the highest offered rate at which some limits hold.
type Saturation struct {
	Limits []string `json:"limits"`
	// P99Limit is the one of Limits on the 99th percentile of all response times; 0: there is none.
	P99Limit time.Duration `json:"p99_limit_ns,omitempty"`
	// Rate is the highest rate that held; 0 if none did. Broken is the lowest rate above it that did not, 0 if the search
	// ended before.
	Rate   float64 `json:"rate_per_s"`
	Broken float64 `json:"broken_per_s,omitempty"`
	// Ended says why the search did not find Broken, or found it for another reason than the limits.
	Ended string           `json:"ended,omitempty"`
	Steps []SaturationStep `json:"steps"` // in the order in which they were tried
}

// SaturationStep is one offered rate, tried several times.
type SaturationStep struct {
	Offered float64           `json:"offered_per_s"`
	Held    bool              `json:"held"`
	Trials  []SaturationTrial `json:"trials"`
}

// SaturationTrial is one try of a rate. Latencies are response times over all operations.
type SaturationTrial struct {
	Phase      string        `json:"phase"` // under which its series are
	Held       bool          `json:"held"`
	Reason     string        `json:"reason,omitempty"` // why it did not hold, or proves nothing
	Limited    bool          `json:"generator_limited,omitempty"`
	Throughput float64       `json:"throughput_per_s"`
	NotOK      float64       `json:"not_ok_ratio"`
	P50        time.Duration `json:"p50_ns"`
	P99        time.Duration `json:"p99_ns"`
	Max        time.Duration `json:"max_ns"`
	LagP99     time.Duration `json:"lag_p99_ns"` // by how much operations were sent late; 0: too few to say
}

// Middle is the trial with the middle p99 of those that agree with the step's judgement.
func (s *SaturationStep) Middle() SaturationTrial {
	var agree []SaturationTrial
	for _, t := range s.Trials {
		if t.Held == s.Held {
			agree = append(agree, t)
		}
	}
	if len(agree) == 0 {
		agree = slices.Clone(s.Trials)
	}
	slices.SortFunc(agree, func(a, b SaturationTrial) int { return cmp.Compare(a.P99, b.P99) })
	return agree[len(agree)/2]
}

// Failover is the parts of one change of leader. Steps are times since the injection, 0 if not observed.
type Failover struct {
	Repeat    int           `json:"repeat,omitempty"` // 1-based in a repeated scenario, else 0
	Fault     string        `json:"fault"`            // name of the fault that caused it
	Inject    time.Duration `json:"inject_ns"`        // since the start of the run
	OldLeader string        `json:"old_leader,omitempty"`
	NewLeader string        `json:"new_leader,omitempty"`
	Term      uint64        `json:"term,omitempty"` // of the new leader

	Suspect   time.Duration `json:"suspect_ns,omitempty"`   // the first node that no longer follows the old leader
	Candidate time.Duration `json:"candidate_ns,omitempty"` // the first node that asks for votes
	Elected   time.Duration `json:"elected_ns,omitempty"`   // the first node that leads
	Agreed    time.Duration `json:"agreed_ns,omitempty"`    // every reachable node follows it
	// Resolution is the interval of the probes behind these numbers: none of them is known better than that.
	Resolution time.Duration `json:"resolution_ns,omitempty"`
	Levels     []Recovery    `json:"levels,omitempty"`
}

// Recovery is how one acknowledgement level came through a failover.
type Recovery struct {
	Level   string        `json:"level"`
	FirstOK time.Duration `json:"first_ok_ns,omitempty"` // since the injection; 0 if none came
	Gap     time.Duration `json:"gap_ns"`                // the longest time between two oks that overlaps the fault; to the end of the load if none came
}

// Outage is the longest time between two oks of one level.
type Outage struct {
	Level string        `json:"level"`
	From  time.Duration `json:"from_ns"`
	To    time.Duration `json:"to_ns"`
	Fault string        `json:"fault,omitempty"` // the fault it overlaps
}

// LossKind says which promise a write or read broke.
type LossKind string

const (
	Lost          LossKind = "lost"          // acknowledged and gone
	Stale         LossKind = "stale"         // older than the bound when read
	Resurrected   LossKind = "resurrected"   // read after its acknowledged removal
	Phantom       LossKind = "phantom"       // failed for certain and present
	Corrupt       LossKind = "corrupt"       // a value that nobody wrote
	Divergent     LossKind = "divergent"     // nodes hold different values
	Indeterminate LossKind = "indeterminate" // unknown outcome, listed for completeness: not a violation
)

// Loss is one write or read that broke a promise.
type Loss struct {
	Kind    LossKind `json:"kind"`
	Repeat  int      `json:"repeat,omitempty"` // as in Failover
	Cache   string   `json:"cache,omitempty"`
	Key     string   `json:"key"`
	Version int64    `json:"version"`
	Level   string   `json:"level"`           // at which the write was acknowledged
	Node    string   `json:"node,omitempty"`  // where it was found missing or wrong
	Found   string   `json:"found,omitempty"` // what was there instead
	// Allowed says that the level promises no better in this situation: listed, but no violation.
	Allowed   bool          `json:"allowed,omitempty"`
	AckedAt   time.Duration `json:"acked_at_ns"`
	Fault     string        `json:"fault,omitempty"`         // the fault nearest to the acknowledgement
	FromFault time.Duration `json:"from_fault_ns,omitempty"` // AckedAt - start of that fault; negative: acknowledged before it
	// History is the operations on the same key around it, by Invoke.
	History []Operation `json:"history,omitempty"`
}

// Operation is one operation of the history, as evidence beside a Loss.
type Operation struct {
	Proc    int64         `json:"proc"`
	Kind    string        `json:"kind"` // get, put, …
	Version int64         `json:"version,omitempty"`
	Level   string        `json:"level,omitempty"`
	Node    string        `json:"node,omitempty"`
	Invoke  time.Duration `json:"invoke_ns"`
	Return  time.Duration `json:"return_ns,omitempty"` // 0: no answer
	Outcome string        `json:"outcome"`             // ok, fail, info
	Reason  string        `json:"reason,omitempty"`
}

// Exposure counts the writes of one level that could have been lost, and those that were.
type Exposure struct {
	Level   string `json:"level"`
	Acked   int64  `json:"acked"`
	Lost    int64  `json:"lost"`
	Allowed int64  `json:"allowed,omitempty"` // the part of Lost that the level does not promise to keep
	Stale   int64  `json:"stale,omitempty"`
	Unknown int64  `json:"unknown,omitempty"` // infos; present or not, both are right
	// Window is the loss window: the longest time by which a lost write was acknowledged before the fault.
	Window time.Duration `json:"window_ns,omitempty"`
	// After is the longest time by which one was acknowledged after the fault began, as an isolated leader does.
	After time.Duration `json:"after_ns,omitempty"`
}

// Repeat points to one run of a repeated scenario.
type Repeat struct {
	Dir     string   `json:"dir"` // relative to the summary's directory
	Seed    uint64   `json:"seed"`
	Verdict Verdict  `json:"verdict"`
	Reasons []string `json:"reasons,omitempty"`
}

// File is one file of the run directory.
type File struct {
	Path  string `json:"path"` // relative, with slashes
	About string `json:"about,omitempty"`
}

// Exit codes of every command of this project, see [Run.ExitCode].
const (
	ExitOK         = 0
	ExitFailure    = 1   // run-time failure
	ExitUsage      = 2   // a command line or a file that cannot be used
	ExitUnknown    = 96  // the run is invalid, nothing can be concluded
	ExitViolated   = 97  // consistency violated
	ExitRegression = 98  // slower than the baseline
	ExitThreshold  = 99  // a threshold was missed
	ExitInterrupt  = 130 // SIGINT
	ExitTerminate  = 143 // SIGTERM
)

// ExitCode is the exit code that r deserves: a violation outranks everything, then what ended the run early, then an
// unknown verdict, then a missed threshold.
func (r *Run) ExitCode() int {
	switch {
	case r.Verdict == Violated:
		return ExitViolated
	case r.Interrupted == "SIGTERM":
		return ExitTerminate
	case r.Interrupted != "":
		return ExitInterrupt
	case r.Failure != "":
		return ExitFailure
	case r.Verdict != Pass:
		return ExitUnknown
	case slices.ContainsFunc(r.Thresholds, func(t Threshold) bool { return !t.Met }):
		return ExitThreshold
	}
	return ExitOK
}

// Judge sets Verdict and Reasons from Checks. The run is violated if one check is; unknown if one is unknown, if it
// ended early or if there are no checks at all; otherwise a pass. Checks that were not exercised leave the verdict
// alone unless none was exercised.
func (r *Run) Judge() {
	r.Verdict, r.Reasons = NotExercised, nil
	for _, v := range []Verdict{Pass, Unknown, Violated} {
		if slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Verdict == v }) {
			r.Verdict = v
		}
	}
	for _, v := range []Verdict{Violated, Unknown} {
		for _, c := range r.Checks {
			if c.Verdict == v {
				r.Reasons = append(r.Reasons, strings.TrimSuffix(c.Name+": "+c.Detail, ": "))
			}
		}
	}
	unknown := func(reason string) {
		if r.Verdict != Violated {
			r.Verdict = Unknown
		}
		r.Reasons = append(r.Reasons, reason)
	}
	if r.Failure != "" {
		unknown("the run failed: " + r.Failure)
	}
	if r.Interrupted != "" {
		unknown("the run was interrupted by " + r.Interrupted)
	}
	if len(r.Checks) == 0 {
		unknown("nothing was checked")
	}
}

// Reportable says whether n samples are enough to report quantile q: at least ten must lie beyond it.
func Reportable(q float64, n int64) bool {
	return float64(n)*(1-q) >= 10-1e-6 // 1-0.99 is a little less than 0.01
}

// SpectrumQuantiles is the quantiles at which a spectrum of n samples is taken: ten for each tenfold of 1/(1-q), from
// the minimum up to the last one that is [Reportable].
func SpectrumQuantiles(n int64) []float64 {
	qs := []float64{0}
	tail := 1.0
	for range 100 {
		tail *= 0.7943282347242815 // the tenth root of 1/10
		q := 1 - tail
		if !Reportable(q, n) {
			break
		}
		qs = append(qs, q)
	}
	return qs
}

// Validate reports everything in r that no run can contain, joined. [Write] and [Read] call it.
func (r *Run) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if r.Kind != KindBench && r.Kind != KindScenario {
		bad("kind: %q, expected %q or %q", r.Kind, KindBench, KindScenario)
	}
	if r.Name == "" {
		bad("name: empty")
	}
	if r.Verdict.Rank() < 0 {
		bad("verdict: %q, expected pass, violated, unknown or not exercised", r.Verdict)
	}
	if r.Duration < 0 {
		bad("duration_ns: %d is negative", r.Duration)
	}
	for i, c := range r.Checks {
		if c.Verdict.Rank() < 0 {
			bad("checks[%d] %q: verdict %q, expected pass, violated, unknown or not exercised", i, c.Name, c.Verdict)
		}
	}
	if s := r.Segment; s != nil && (s.Index < 0 || s.Index >= s.Of) {
		bad("segment: index %d of %d", s.Index, s.Of)
	}
	if s := r.Saturation; s != nil {
		if s.P99Limit < 0 {
			bad("saturation: p99_limit_ns: %d is negative", s.P99Limit)
		}
		for i, st := range s.Steps {
			if !(st.Offered > 0) || len(st.Trials) == 0 {
				bad("saturation: steps[%d]: %g/s with %d trials, expected a rate above 0 and a trial", i, st.Offered, len(st.Trials))
			}
		}
	}
	if r.Peers != nil {
		r.Peers.validate(bad)
	}
	for i, n := range r.Nodes {
		if n.Name == "" {
			bad("nodes[%d]: name: empty", i)
		}
	}
	for i, p := range r.Phases {
		if p.Name == "" {
			bad("phases[%d]: name: empty", i)
		}
		if p.To < p.From {
			bad("phases[%d] %q: ends at %v, before its start at %v", i, p.Name, p.To, p.From)
		}
	}
	for i, s := range r.Series {
		c := s.Counts
		if s.Op == "" {
			bad("series[%d]: op: empty", i)
		}
		if sum := c.OK + c.Fail + c.Info + c.Missed + c.Unfinished; sum != c.Intended {
			bad("series[%d] %s: %d intended operations, but the outcomes add up to %d", i, s.ID(), c.Intended, sum)
		}
		for j := 1; j < len(s.Spectrum); j++ {
			if s.Spectrum[j].Q <= s.Spectrum[j-1].Q {
				bad("series[%d] %s: spectrum[%d]: q %v does not follow %v", i, s.ID(), j, s.Spectrum[j].Q, s.Spectrum[j-1].Q)
			}
		}
		if n := len(s.Spectrum); n > 0 && (s.Spectrum[0].Q < 0 || s.Spectrum[n-1].Q >= 1) {
			bad("series[%d] %s: spectrum: q outside [0, 1)", i, s.ID())
		}
	}
	for i, c := range r.Costs {
		if c.Ops < 0 || c.CPU < 0 {
			bad("costs[%d] %q: %d operations, %v: expected neither below 0", i, c.Phase, c.Ops, c.CPU)
		}
	}
	for i, o := range r.Outages {
		if o.To < o.From {
			bad("outages[%d]: ends at %v, before its start at %v", i, o.To, o.From)
		}
	}
	for i, l := range r.Losses {
		switch l.Kind {
		case Lost, Stale, Resurrected, Phantom, Corrupt, Divergent, Indeterminate:
		default:
			bad("losses[%d]: unknown kind %q", i, l.Kind)
		}
	}
	inside := func(what, path string) {
		if path != "" && !filepath.IsLocal(filepath.FromSlash(path)) {
			bad("%s: %q is not a path inside the run directory", what, path)
		}
	}
	for _, f := range r.Files {
		inside("files", f.Path)
	}
	for _, x := range r.Repeats {
		inside("repeats", x.Dir)
	}
	for _, n := range r.Nodes {
		inside("nodes: log", n.Log)
	}
	for i, x := range r.Intervals {
		if err := x.validate(); err != nil {
			bad("%s: row %d: %w", TimeseriesFile, i+1, err)
		}
	}
	for i, x := range r.Resources {
		if err := x.validate(); err != nil {
			bad("%s: row %d: %w", ResourcesFile, i+1, err)
		}
	}
	for i, e := range r.Events {
		if err := e.validate(); err != nil {
			bad("%s: event %d: %w", EventsFile, i+1, err)
		}
	}
	return errors.Join(errs...)
}

// ID names the series: "insert quorum", "get", with the phase in front if it has one.
func (s *Series) ID() string {
	return strings.Join(slices.DeleteFunc([]string{s.Phase, s.Op, s.Level}, func(p string) bool { return p == "" }), " ")
}

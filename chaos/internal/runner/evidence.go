package runner

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/hacache/hacache/chaos/internal/check"
	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/internal/interrupt"
	"github.com/hacache/hacache/reports/result"
)

// FactsFile is what the checks need beside the files of package result.
const FactsFile = "facts.json"

// conclude judges what was recorded and writes the result. It reads the
// evidence back from the disk, so that what "chaos check" will see is what was
// judged here.
func (r *run) conclude(ctx context.Context, failure error) (*result.Run, error) {
	defer r.file.Close()
	s := r.Plan.Scenario
	out := &result.Run{
		Kind: result.KindScenario, Name: s.Name, About: s.About, Started: r.start, Duration: r.now(),
		Events: r.events, Resources: r.usage,
		Files: []result.File{
			{Path: result.ScenarioFile, About: "the scenario as it was run"},
			{Path: result.HistoryFile, About: "every operation"},
			{Path: FactsFile, About: "what else the checks need; chaos check judges again from these files"},
			{Path: result.LinearFile, About: "a key without a linearization: hover to see what was read when"},
		},
	}
	if in, ok := errors.AsType[interrupt.Signal](context.Cause(ctx)); ok {
		out.Interrupted = string(in)
	} else if failure != nil {
		out.Failure = failure.Error()
	}
	for _, name := range slices.Sorted(maps.Keys(r.Env)) {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the nodes ran with %s=%s, which is not in the scenario", name, r.Env[name]))
	}
	if r.system != nil {
		for _, n := range r.system.Nodes() {
			if s.Cluster.External != nil { // which keeps its logs
				out.Nodes = append(out.Nodes, result.Node{Name: n.Name, Identity: n.Identity})
				continue
			}
			log := result.NodesDir + "/" + n.Name + ".log"
			out.Nodes = append(out.Nodes, result.Node{Name: n.Name, Identity: n.Identity, Log: log})
			out.Files = append(out.Files, result.File{Path: log, About: "log of " + n.Name})
		}
	}
	if e := s.Cluster.External; e != nil {
		out.Warnings = append(out.Warnings, caveats(e)...)
	}
	if r.Probe != nil {
		out.Environment = r.Probe.Environment()
	}
	r.facts.LogFindings = scanLogs(filepath.Join(r.Dir, result.NodesDir))
	errs := []error{r.writeFacts(), r.writeUsage()}
	if r.rec != nil {
		r.rec.Fill(out)
		for i := range out.Intervals { // one that ended as it began still has its operations
			out.Intervals[i].Width = max(out.Intervals[i].Width, 1)
		}
	}
	if _, err := Judge(r.Dir, out); err != nil {
		out.Failure = strings.TrimPrefix(out.Failure+"; "+err.Error(), "; ")
	}
	out.Judge()
	if r.rec != nil {
		files, err := result.WriteDistributions(r.Dir, r.start, r.rec.Histograms())
		errs = append(errs, err)
		out.Files = append(out.Files, files...)
	}
	errs = append(errs, result.Write(r.Dir, out))
	return out, errors.Join(errs...)
}

// Judge runs the checks on the evidence in dir, puts their verdicts into out,
// and draws a violation of linearizability into dir. A check that panics is an
// error.
func Judge(dir string, out *result.Run) (v *check.Verdicts, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a check panicked: %v\n%s", p, debug.Stack())
		}
	}()
	in, err := Load(dir)
	if err != nil {
		return nil, err
	}
	v = check.All(in)
	v.Put(out)
	if v.Picture != nil {
		err = result.ReplaceFile(filepath.Join(dir, result.LinearFile), v.Picture)
	}
	return v, err
}

// Load reads the evidence of a run.
func Load(dir string) (*check.Input, error) {
	s, err := scenario.Load(filepath.Join(dir, result.ScenarioFile))
	if err != nil {
		return nil, err
	}
	in := new(check.Input)
	if in.History, err = history.ReadFile(filepath.Join(dir, result.HistoryFile)); err != nil {
		return nil, err
	}
	events, err := os.Open(filepath.Join(dir, result.EventsFile))
	if err != nil {
		return nil, err
	}
	defer events.Close()
	if in.Events, err = result.DecodeEvents(events, events.Name()); err != nil {
		return nil, err
	}
	slices.SortStableFunc(in.Events, func(a, b result.Event) int { return int(a.T - b.T) })
	if in.Resources, err = readUsage(dir); err != nil {
		return nil, err
	}
	facts, err := os.ReadFile(filepath.Join(dir, FactsFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a run that was killed has none
		return nil, err
	}
	if err == nil {
		if err := json.Unmarshal(facts, &in.Facts); err != nil {
			return nil, fmt.Errorf("%s: %w", FactsFile, err)
		}
	}
	if in.Scale = in.History.Header.Scale; in.Scale > 0 {
		s.Scale(in.Scale)
	}
	expect(in, scenario.NewPlan(s, in.History.Header.Seed))
	return in, nil
}

// readUsage reads the samples of what the nodes used; a run that was killed has
// none.
func readUsage(dir string) ([]result.Resource, error) {
	f, err := os.Open(filepath.Join(dir, result.ResourcesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return result.DecodeResources(f, f.Name())
}

// expect tells the checks what the plan demands.
func expect(in *check.Input, p *scenario.Plan) {
	s := p.Scenario
	in.Nodes = in.History.Header.Nodes
	if e := s.Cluster.External; e != nil {
		in.Elsewhere, in.Cannot = true, e.Cannot()
	}
	in.ProbeInterval = s.Probes.Interval(s.Cluster.Nodes)
	for i := range p.Injections {
		j := &p.Injections[i]
		p := check.Planned{Name: j.Name, Action: j.Fault.Action, OnLeader: j.Fault.OnLeader(), Hostile: j.Fault.Hostile(), Series: j.Series, Drawn: j.Nemesis}
		in.Planned = append(in.Planned, p)
	}
	demands := map[check.Demand]bool{}
	for _, w := range s.Load {
		if w.Retry > 0 { // which has a check of its own
			in.Limit.ExactlyOnce = true
			continue
		}
		for op := range w.Op {
			switch op {
			case "insert", "remove":
				for level := range w.Ack {
					demands[check.Demand{Kind: op, Level: level}] = true
				}
			default:
				demands[check.Demand{Kind: op}] = true
			}
		}
	}
	for d := range demands {
		in.Demands = append(in.Demands, d)
	}
	slices.SortFunc(in.Demands, func(a, b check.Demand) int { return strings.Compare(a.Kind+a.Level, b.Kind+b.Level) })
	in.Limit.LostWrites, in.Limit.Linearizable, in.Limit.Converge = s.Checks.LostWrites, s.Checks.Linearizable != nil, s.Checks.Converge.D()
	in.Limit.Recovery = s.Checks.Recovery.D()
	in.Limit.Preloaded = s.Preload != nil
	in.Limit.Session, in.Limit.StateHash = s.Checks.Session, s.Checks.StateHash
	in.Caches = map[string]check.Cache{}
	for _, c := range s.Cluster.Caches {
		if c.Forgets() {
			in.Caches[c.Name] = check.Cache{Bounded: c.MaxEntries > 0 || c.MaxBytes > 0, Expiring: c.TTL > 0}
		}
	}
	for _, w := range s.Load {
		if w.Op.Writes() {
			in.Written = append(in.Written, w.Cache)
		}
	}
	in.Limit.Loss = map[string]check.LossBound{}
	for level, bound := range s.Checks.Loss {
		in.Limit.Loss[level] = check.LossBound{Rate: float64(bound.Rate), Window: bound.Window.D()}
	}
	if s.Checks.StaleReads != nil {
		in.Limit.Staleness = s.Checks.StaleReads.Max.D()
	}
	for metric, list := range s.Thresholds {
		m, err := scenario.ParseMetric(metric)
		if err != nil {
			panic(err) // the scenario was validated
		}
		for _, t := range list {
			in.Limit.Thresholds = append(in.Limit.Thresholds, check.Threshold{
				Metric: metric, Expr: t.Expr, Name: m.Name, Phase: m.Phase, Level: m.Level, Func: t.Func, Arg: t.Arg, Relative: t.Relative, Holds: t.Holds,
			})
		}
	}
	slices.SortFunc(in.Limit.Thresholds, func(a, b check.Threshold) int { return strings.Compare(a.Metric+a.Expr, b.Metric+b.Expr) })
}

// alarms are what no healthy node writes to its log.
var alarms = [][]byte{[]byte("panic:"), []byte("fatal error:"), []byte("DATA RACE"), []byte("SIGSEGV")}

// maxFindings bounds how many lines of logs are reported.
const maxFindings = 20

// scanLogs looks for alarms in the logs of the nodes.
func scanLogs(dir string) []string {
	var found []string
	files, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		sc := bufio.NewScanner(f)
		sc.Buffer(nil, 1<<20)
		for n := 1; sc.Scan() && len(found) < maxFindings; n++ {
			if slices.ContainsFunc(alarms, func(a []byte) bool { return bytes.Contains(sc.Bytes(), a) }) {
				found = append(found, fmt.Sprintf("%s:%d: %s", filepath.Base(path), n, bytes.TrimSpace(sc.Bytes())))
			}
		}
		f.Close()
	}
	return found
}

// cutPath splits FROM>TO.
func cutPath(path string) (from, to string, ok bool) { return strings.Cut(path, ">") }

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/reports/result"
)

// mutation is a bug that a node built with the tag "mutants" has on demand, and
// what has to find it.
type mutation struct {
	mutant   string
	scenario string
	// check is what has to be violated: a check, or the metric of a threshold.
	check string
	scale float64 // as --duration-scale, for a scenario that is longer than it needs to be for this; 0: none
}

// mutations are the rules that a node may break, and for each the scenario that
// shows that it is checked.
var mutations = []mutation{
	{"quorum-before-commit", "leader-isolated-with-clients", "lost writes", 0},
	{"quorum-without-ack", "half-open-majority", "lost writes", 0},
	{"drop-on-reconnect", "flapping-link", "lost writes", 0},
	{"old-leader-acks", "leader-isolated-with-clients", "dual leader", 0},
	{"vote-twice", "split", "lost writes", 0},
	{"same-id", "crash-loop", "convergence", 0.1},
	{"earliest-clock", "lagging-candidate", "convergence", 0},
	{"ping-deadline", "one-stall-250ms", "leader_changes", 0},
	{"stale-reads", "follower-isolated", "stale reads", 0},
	{"apply-out-of-order", "leader-kill", "linearizability", 0},
	{"remove-on-leader", "crash-loop", "resurrection", 0.1},
	{"ack-before-apply", "leader-kill", "session", 0},
	{"no-heartbeat", "leader-blackhole", "failover", 0},
	{"insert-anywhere", "bridge", "lost writes", 0},
	{"no-sessions-in-snapshot", "snapshot-during-kill", "lost writes", 0},
}

// mutantEnv tells such a node which one it is.
const mutantEnv = "CACHE_MUTANT"

func mutantsCommand(ctx context.Context, c *cli.Command) error {
	chosen, err := choose(c.Args().Slice())
	if err != nil {
		return err
	}
	seeds, correct := c.Int("seeds"), c.Int("correct")
	if seeds < 1 || seeds > 1000 {
		return command.Usagef("mutants: --seeds %d; expected 1 to 1000", seeds)
	}
	if correct < 0 || correct > 1000 {
		return command.Usagef("mutants: --correct %d; expected 0 to 1000", correct)
	}
	binary, err := program(c.String("cachenode"))
	if err != nil {
		return err
	}
	if err := knowsMutants(ctx, binary); err != nil {
		return err
	}
	t := &tribunal{
		campaign:  &campaign{stdout: c.Root().Writer, live: newLiveLine(c.Root().ErrWriter, c.Bool("quiet")), out: c.String("out"), binary: binary, repeat: 1},
		scenarios: c.String("scenarios"), seed: c.Uint64("seed"),
	}
	return t.hold(ctx, chosen, seeds, correct)
}

// choose returns the mutations of the named mutants, or all.
func choose(names []string) ([]mutation, error) {
	if len(names) == 0 {
		return mutations, nil
	}
	var chosen []mutation
	for _, name := range names {
		before := len(chosen)
		for _, m := range mutations {
			if m.mutant == name {
				chosen = append(chosen, m)
			}
		}
		if len(chosen) == before {
			var all []string
			for _, m := range mutations {
				all = append(all, m.mutant)
			}
			slices.Sort(all)
			return nil, command.Usagef("mutants: there is no mutant %q; expected one of %s", name, strings.Join(slices.Compact(all), ", "))
		}
	}
	return chosen, nil
}

// knowsMutants makes sure that a node obeys mutantEnv: one that does not is a
// correct node, and no scenario finds anything in it.
func knowsMutants(ctx context.Context, binary string) error {
	cmd := exec.CommandContext(ctx, binary, "--version")
	cmd.Env = append(os.Environ(), mutantEnv+"=none-such")
	out, err := cmd.CombinedOutput()
	if _, failed := errors.AsType[*exec.ExitError](err); failed && bytes.Contains(out, []byte(mutantEnv)) {
		return nil
	}
	return command.Usagef("mutants: %s has no planted bugs; expected a node that was built with -tags mutants", binary)
}

// tribunal runs scenarios against nodes that break a rule, and against nodes
// that do not.
type tribunal struct {
	*campaign
	scenarios string // directory
	seed      uint64 // the first one; 0: the scenario's own
}

// outcome is what became of one mutation.
type outcome struct {
	mutation
	seed   uint64 // that found it, or the last one
	took   time.Duration
	found  string // the checks that were violated and the thresholds that were missed
	detail string // of the check that was to find it
	caught bool
}

// hold runs everything, prints a table, and fails unless every mutant was
// caught by its check and the correct node passed.
func (t *tribunal) hold(ctx context.Context, chosen []mutation, seeds, correct int) error {
	fmt.Fprintf(t.stdout, "| mutant | scenario | caught by | seed | seconds | what it says |\n|---|---|---|---|---|---|\n")
	missed := 0
	for _, m := range chosen {
		o, err := t.hunt(ctx, m, seeds)
		if err != nil {
			return fmt.Errorf("%s in %s: %w", m.mutant, m.scenario, err)
		}
		if !o.caught {
			missed++
			o.detail = fmt.Sprintf("not caught by %s within %d seeds", m.check, seeds)
		}
		fmt.Fprintf(t.stdout, "| %s | %s | %s | %d | %.0f | %s |\n", o.mutant, o.scenario, cmp.Or(o.found, "nothing"), o.seed, o.took.Seconds(), firstLine(o.detail))
	}
	bad, err := t.acquit(ctx, chosen, correct)
	if err != nil {
		return err
	}
	if missed+bad > 0 {
		return fmt.Errorf("%d of %d mutants were not caught, %d runs of the correct node did not pass", missed, len(chosen), bad)
	}
	return nil
}

// hunt runs the scenario of a mutation, seed after seed, until its check is
// violated.
func (t *tribunal) hunt(ctx context.Context, m mutation, seeds int) (outcome, error) {
	o := outcome{mutation: m}
	s, source, err := t.load(m)
	if err != nil {
		return o, err
	}
	began := time.Now()
	for i := range seeds {
		o.seed = cmp.Or(t.seed, s.Seed) + uint64(i)
		r, err := t.try(ctx, s, source, o.seed, m)
		if err != nil {
			return o, err
		}
		if ctx.Err() != nil {
			return o, context.Cause(ctx)
		}
		o.took = time.Since(began)
		o.found = strings.Join(faults(r), ", ")
		if o.detail, o.caught = findingOf(r, m.check); o.caught {
			return o, nil
		}
	}
	return o, nil
}

// acquit runs each scenario with the correct node and returns how many of the
// runs did not pass.
func (t *tribunal) acquit(ctx context.Context, chosen []mutation, times int) (bad int, err error) {
	if times == 0 {
		return 0, nil
	}
	distinct := map[string]mutation{}
	for _, m := range chosen {
		if other, there := distinct[m.scenario]; !there || m.scale > other.scale {
			distinct[m.scenario] = mutation{scenario: m.scenario, scale: m.scale}
		}
	}
	fmt.Fprintf(t.stdout, "\n| the correct node in | seeds | verdict |\n|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(distinct)) {
		s, source, err := t.load(distinct[name])
		if err != nil {
			return bad, err
		}
		verdicts := map[string]int{}
		for i := range times {
			r, err := t.try(ctx, s, source, cmp.Or(t.seed, s.Seed)+uint64(i), distinct[name])
			if err != nil {
				return bad, err
			}
			if ctx.Err() != nil {
				return bad, context.Cause(ctx)
			}
			if r.ExitCode() != result.ExitOK {
				bad++
			}
			verdicts[strings.TrimSpace(verdictOf(r)+" "+strings.Join(faults(r), ", "))]++
		}
		var said []string
		for _, v := range slices.Sorted(maps.Keys(verdicts)) {
			said = append(said, fmt.Sprintf("%d x %s", verdicts[v], v))
		}
		fmt.Fprintf(t.stdout, "| %s | %d to %d | %s |\n", name, cmp.Or(t.seed, s.Seed), cmp.Or(t.seed, s.Seed)+uint64(times-1), strings.Join(said, "; "))
	}
	return bad, nil
}

func (t *tribunal) load(m mutation) (*scenario.Scenario, []byte, error) {
	path := filepath.Join(t.scenarios, m.scenario+".yaml")
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, command.Usagef("mutants: %w (expected --scenarios DIR with the scenarios of the repository)", err)
	}
	s, err := scenario.Parse(path, source)
	if err != nil {
		return nil, nil, command.Usage(err)
	}
	if m.scale > 0 {
		s.Scale(m.scale)
	}
	return s, source, nil
}

// try makes one run. Its directory is called after the mutant too, and is
// written in full: it is the example of a violated run.
func (t *tribunal) try(ctx context.Context, s *scenario.Scenario, source []byte, seed uint64, m mutation) (*result.Run, error) {
	t.scale = m.scale
	t.env, t.command = nil, []string{os.Args[0], "run", "--seed", fmt.Sprint(seed), "--cachenode", t.binary, filepath.Join(t.scenarios, m.scenario+".yaml")}
	if m.mutant != "" {
		t.env = map[string]string{mutantEnv: m.mutant}
		t.command = []string{os.Args[0], "mutants", "--seed", fmt.Sprint(seed), "--seeds", "1", "--correct", "0", "--cachenode", t.binary, "--scenarios", t.scenarios, m.mutant}
	}
	dir, err := result.CreateDir(t.out, strings.Trim(s.Name+"-"+m.mutant, "-"), time.Now())
	if err != nil {
		return nil, err
	}
	r, err := t.once(ctx, s, source, seed, dir, " "+cmp.Or(m.mutant, "as it is"))
	if err != nil {
		return nil, err
	}
	out := t.stdout
	t.stdout = io.Discard
	err = t.finish(r, dir)
	t.stdout = out
	return r, err
}

// faults names the checks of a run that were violated and the thresholds that
// were missed.
func faults(r *result.Run) []string {
	var names []string
	for _, c := range r.Checks {
		if c.Verdict == result.Violated {
			names = append(names, c.Name)
		}
	}
	for _, l := range r.Thresholds {
		if !l.Met {
			names = append(names, l.Metric+" "+l.Expr)
		}
	}
	return names
}

// findingOf returns what a check or the limit of a metric found, and whether
// that was anything.
func findingOf(r *result.Run, check string) (detail string, found bool) {
	for _, c := range r.Checks {
		if c.Name == check && c.Verdict == result.Violated {
			return c.Detail, true
		}
	}
	for _, l := range r.Thresholds {
		if l.Metric == check && !l.Met {
			return l.Got, true
		}
	}
	return "", false
}

package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hacache/hacache/chaos/internal/hostile"
	"github.com/hacache/hacache/chaos/internal/runner"
	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/reports/result"
)

// TestMain ignores what a Toxiproxy server leaves behind when a connection ends
// while one of its own toxics is added; package cluster looks at our links.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"))
}

// chaosCommand runs a command line and returns what it printed.
func chaosCommand(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), append([]string{"chaos"}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

// TestCommand_mistakes proves that a wrong command line or file is one clear
// line for each mistake and exit code 2, before anything is started.
func TestCommand_mistakes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "typo.yaml")
	if err := os.WriteFile(file, []byte("version: 1\nname: x\nabout: y\ncluster: {nodes: 3}\nload: {w: {schedule: {constant: 10/s}, duration: 5s, op: insrt}}\nfautls: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := "../scenarios/smoke.yaml"
	for name, c := range map[string]struct {
		args  []string
		want  []string
		lines int
	}{
		"no command":           {nil, []string{"expected one of run, check, validate"}, 1},
		"unknown command":      {[]string{"rum"}, []string{`unknown command "rum"`}, 1},
		"unknown flag":         {[]string{"run", good, "--repaet", "3"}, []string{"unknown flag --repaet"}, 1},
		"no file":              {[]string{"run"}, []string{"no argument; expected FILE"}, 1},
		"no such file":         {[]string{"run", "nowhere.yaml"}, []string{"nowhere.yaml"}, 1},
		"two mistakes":         {[]string{"run", file}, []string{file + ":5:58: load.w.op: unknown operation \"insrt\" (did you mean \"insert\"?)", file + ":6:1: unknown field \"fautls\""}, 2},
		"the same, validated":  {[]string{"validate", file, good}, []string{file + ":5:58:", file + ":6:1:"}, 2},
		"repeat of nothing":    {[]string{"run", good, "--repeat", "0"}, []string{"--repeat 0; expected 1 to 10000"}, 1},
		"repeat of a word":     {[]string{"run", good, "--repeat", "x"}, []string{"repeat"}, 1},
		"for no time":          {[]string{"run", good, "--for", "0s"}, []string{"--for 0s; expected more than 0"}, 1},
		"for and repeat":       {[]string{"run", good, "--for", "1m", "--repeat", "2"}, []string{"--for and --repeat; expected one of them"}, 1},
		"scaled to nothing":    {[]string{"run", good, "--duration-scale", "0"}, []string{"--duration-scale 0; expected more than 0 and 1 at most"}, 1},
		"scaled up":            {[]string{"run", good, "--duration-scale", "10"}, []string{"--duration-scale 10; expected more than 0"}, 1},
		"keep what":            {[]string{"run", good, "--keep", "some"}, []string{`--keep "some"; expected all or failed`}, 1},
		"no such program":      {[]string{"run", good, "--cachenode", filepath.Join(dir, "nothing")}, []string{"expected an executable file"}, 1},
		"not a program":        {[]string{"run", good, "--cachenode", file}, []string{"expected an executable file"}, 1},
		"no jobs":              {[]string{"suite", good, "--jobs", "0"}, []string{"--jobs 0; expected 1 to 64"}, 1},
		"a node without hooks": {[]string{"run", "../scenarios/clock-skew.yaml", "--cachenode", "/bin/true"}, []string{"clock-skew needs a node with fault hooks, and /bin/true has none; expected one built with go build -tags faults"}, 1},
		"check of no run":      {[]string{"check", dir}, []string{dir + " is not the directory of a run"}, 1},
		"a suite of clusters":  {[]string{"suite", "examples/elsewhere.yaml"}, []string{"elsewhere is for a cluster that runs already, which others would break at the same time; expected chaos run"}, 1},
		"a node for others":    {[]string{"run", "examples/elsewhere.yaml", "--cachenode", "/bin/true"}, []string{"--cachenode: elsewhere starts no node, since its cluster runs already"}, 1},
		"list of no scenarios": {[]string{"list", t.TempDir()}, []string{"no scenario (*.yaml)"}, 1},
		"no such mutant":       {[]string{"mutants", "early"}, []string{`there is no mutant "early"; expected one of ack-before-apply`}, 1},
		"seeds of nothing":     {[]string{"mutants", "--seeds", "0"}, []string{"--seeds 0; expected 1 to 1000"}, 1},
		"a correct node":       {[]string{"mutants", "--cachenode", "/bin/true"}, []string{"/bin/true has no planted bugs; expected a node that was built with -tags mutants"}, 1},
		"inject nothing":       {[]string{"inject"}, []string{"inject: 0 arguments; expected ACTION"}, 1},
		"inject a loss":        {[]string{"inject", "loss", "--for", "1s"}, []string{"loss is not possible on a cluster that runs elsewhere"}, 1},
		"inject nowhere":       {[]string{"inject", "reject", "--for", "1s"}, []string{"reject needs --toxiproxy", "reject needs --proxy"}, 2},
		"inject for a day":     {[]string{"inject", "reset", "--for", "24h", "--toxiproxy", "x", "--proxy", "y"}, []string{"--for 24h0m0s; expected more than 0 and 1h0m0s at most"}, 1},
		"export to nothing":    {[]string{"export", good}, []string{`--to ""; expected chaos-mesh`}, 1},
		"export a leader":      {[]string{"export", "--to", "chaos-mesh", "--leader", "n9", good}, []string{`--leader "n9"; expected one of n1, n2, n3`}, 1},
		"plan of two":          {[]string{"plan", good, good}, []string{"plan: 2 arguments; expected FILE"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := chaosCommand(t, c.args...)
			if code != result.ExitUsage {
				t.Errorf("exit code %d, want %d", code, result.ExitUsage)
			}
			for _, w := range c.want {
				if !strings.Contains(stderr, w) {
					t.Errorf("stderr lacks %q:\n%s", w, stderr)
				}
			}
			if n := strings.Count(stderr, "\n"); n != c.lines {
				t.Errorf("%d lines on stderr, want %d:\n%s", n, c.lines, stderr)
			}
			if stdout != "" {
				t.Errorf("stdout:\n%s", stdout)
			}
		})
	}
}

// TestHostileKinds proves that scenarios and the clients they let loose have the
// same kinds: neither package may know the other.
func TestHostileKinds(t *testing.T) {
	var named []string
	for name, a := range scenario.Actions {
		if a.Hostile {
			named = append(named, name)
		}
	}
	slices.Sort(named)
	if played := slices.Sorted(maps.Keys(hostile.Kinds)); !slices.Equal(named, played) {
		t.Errorf("scenarios know %q, played are %q", named, played)
	}
}

// TestMutations proves that what chaos mutants would run is there, and that the
// scenario has the check that is to find the mutant.
func TestMutations(t *testing.T) {
	for _, m := range mutations {
		s, _, err := (&tribunal{scenarios: "../scenarios"}).load(m)
		if err != nil {
			t.Errorf("%s: %v", m.mutant, err)
			continue
		}
		asked := map[string]bool{
			"lost writes": s.Checks.LostWrites, "resurrection": s.Checks.LostWrites, "session": s.Checks.Session, "stale reads": s.Checks.StaleReads != nil,
			"linearizability": s.Checks.Linearizable != nil, "dual leader": true, "convergence": true, "liveness": true, "failover": true, "state hash": s.Checks.StateHash,
		}
		for metric := range s.Thresholds {
			asked[metric] = true
		}
		if !asked[m.check] {
			t.Errorf("%s: %s does not check %s", m.mutant, m.scenario, m.check)
		}
	}
}

// TestCommand_quick runs the commands that need no cluster.
func TestCommand_quick(t *testing.T) {
	schema, err := os.ReadFile("../scenarios/schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"validate":  {[]string{"validate", "../scenarios/smoke.yaml", "../scenarios/leader-kill.yaml", "examples/elsewhere.yaml"}, []string{"smoke.yaml: ok", "leader-kill.yaml: ok", "elsewhere.yaml: ok"}},
		"elsewhere": {[]string{"plan", "examples/elsewhere.yaml"}, []string{"3 nodes that run already, n1 at 10.0.0.1:8080, n2 at", "everything written is in cache chaos and lives for 2h0m0s, and is removed"}},
		"list":      {[]string{"list", "../scenarios"}, []string{"leader-isolated-with-clients", "latency-100-jitter-100", "steady-baseline"}},
		"plan":      {[]string{"plan", "../scenarios/leader-kill.yaml", "--seed", "77"}, []string{"leader-kill, seed 77", "inject  kill leader: kill leader", "heal  kill leader"}},
		"schema":    {[]string{"schema"}, []string{string(schema)}},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := chaosCommand(t, c.args...)
			if code != 0 || stderr != "" {
				t.Errorf("exit code %d, stderr %q", code, stderr)
			}
			for _, w := range c.want {
				if !strings.Contains(stdout, w) {
					t.Errorf("stdout lacks %q:\n%s", w, stdout)
				}
			}
		})
	}
}

// TestCommand_badProgram proves that a program that is no node ends the run
// with a reason and a result, and does not hang.
func TestCommand_badProgram(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "cachenode")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho this is no node\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	code, stdout, stderr := chaosCommand(t, "run", "../scenarios/smoke.yaml", "-q", "--cachenode", program, "--out", out)
	if code != result.ExitFailure || !strings.Contains(stdout, "has ended: this is no node") {
		t.Errorf("exit code %d, want %d\n%s%s", code, result.ExitFailure, stdout, stderr)
	}
	dirs, err := filepath.Glob(filepath.Join(out, "smoke-*", result.ReportFile))
	if err != nil || len(dirs) != 1 {
		t.Errorf("%d reports, %v", len(dirs), err)
	}
}

func TestWorse(t *testing.T) {
	for _, c := range []struct{ a, b, want int }{
		{0, 0, 0}, {0, 96, 96}, {96, 97, 97}, {130, 97, 97}, {99, 96, 96}, {99, 0, 99}, {1, 96, 1}, {1, 130, 130},
	} {
		if worse(c.a, c.b) != c.want || worse(c.b, c.a) != c.want {
			t.Errorf("worse(%d, %d) = %d, want %d both ways", c.a, c.b, worse(c.a, c.b), c.want)
		}
	}
}

// TestMerge proves that one bad repetition makes the whole bad, and that counts
// of all add up.
func TestMerge(t *testing.T) {
	good := &result.Run{
		Verdict:    result.Pass,
		Checks:     []result.Check{{Name: "lost writes", Verdict: result.Pass, Checked: 10, Detail: "lost: quorum 0 of 10"}},
		Exposures:  []result.Exposure{{Level: "quorum", Acked: 10}},
		Thresholds: []result.Threshold{{Metric: "failover", Expr: "max < 1s", Got: "20ms", Met: true}},
		Failovers:  []result.Failover{{Fault: "kill", Elected: 20 * time.Millisecond}},
	}
	bad := &result.Run{
		Verdict:    result.Violated,
		Checks:     []result.Check{{Name: "lost writes", Verdict: result.Violated, Count: 2, Checked: 10, Detail: "lost: quorum 2 of 10"}},
		Exposures:  []result.Exposure{{Level: "quorum", Acked: 10, Lost: 2, Window: 5}},
		Thresholds: []result.Threshold{{Metric: "failover", Expr: "max < 1s", Got: "2s", Met: false}},
		Losses:     []result.Loss{{Kind: result.Lost, Key: "a"}},
	}
	all := &result.Run{Kind: result.KindScenario, Name: "x"}
	for i, r := range []*result.Run{good, bad, good} {
		merge(all, r, i+1, "d", uint64(i))
	}
	all.Judge()
	if all.Verdict != result.Violated || all.ExitCode() != result.ExitViolated {
		t.Errorf("verdict %s", all.Verdict)
	}
	if c := all.Checks[0]; c.Count != 2 || c.Checked != 30 || c.Detail != "repetition 2: lost: quorum 2 of 10" {
		t.Errorf("check %+v", c)
	}
	if e := all.Exposures[0]; e.Acked != 30 || e.Lost != 2 || e.Window != 5 {
		t.Errorf("exposure %+v", e)
	}
	if th := all.Thresholds[0]; th.Met || th.Got != "2s in repetition 2" {
		t.Errorf("threshold %+v", th)
	}
	if len(all.Failovers) != 2 || all.Failovers[1].Repeat != 3 || all.Losses[0].Repeat != 2 || len(all.Repeats) != 3 {
		t.Errorf("failovers %+v, losses %+v", all.Failovers, all.Losses)
	}
}

// TestPrintFailovers proves that of many failovers the slowest are listed, and
// that all of them are in the distribution.
func TestPrintFailovers(t *testing.T) {
	var fs []result.Failover
	for i := range 50 {
		ms := time.Duration(i+1) * time.Millisecond
		fs = append(fs, result.Failover{
			Fault: fmt.Sprintf("kill leader #%d", i+1), OldLeader: "n1", NewLeader: "n2", Elected: ms, Resolution: time.Millisecond,
			Levels: []result.Recovery{{Level: "quorum", FirstOK: ms, Gap: 2 * ms}},
		})
	}
	var out strings.Builder
	printFailovers(&out, fs)
	var rows []string
	for line := range strings.Lines(out.String()) {
		rows = append(rows, strings.Join(strings.Fields(line), " "))
	}
	for _, want := range []string{"kill leader #50 n1 n2 - - 50.0ms - 50.0ms - - 100.0ms", "gap: quorum 50 2.0ms 50.0ms 90.0ms 100.0ms", "elected 50 1.0ms 25.0ms 45.0ms 50.0ms"} {
		if !slices.Contains(rows, want) {
			t.Errorf("no line %q in\n%s", want, out.String())
		}
	}
	if n := strings.Count(out.String(), "kill leader #"); n != slowest {
		t.Errorf("%d failovers listed, want %d", n, slowest)
	}
}

// TestLiveLine proves that a file gets whole lines, few of them, and a quiet
// run none.
func TestLiveLine(t *testing.T) {
	var out bytes.Buffer
	l := newLiveLine(&out, false)
	s := runner.Status{Phase: "load", At: time.Second, Length: 10 * time.Second, OK: 5, Faults: []string{"kill leader"}, Roles: map[string]result.Event{"n2": {Node: "n2", Role: result.RoleLeader, Term: 3}}}
	for range 50 {
		l.show("smoke", s)
	}
	l.clear()
	want := "smoke  load 1.0s of 10s  n2 leads term 3  ok 5  failed 0  unknown 0  now: kill leader\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	out.Reset()
	newLiveLine(&out, true).show("smoke", s)
	if out.Len() != 0 {
		t.Errorf("quiet, but wrote %q", out.String())
	}
}

// TestInOrder proves that a suite begins with its longest scenarios, and that
// those which limit latency come last, however long, for they run alone.
func TestInOrder(t *testing.T) {
	var names []string
	var entries []entry
	for _, name := range []string{"leader-kill", "join-1m", "crash-loop", "overload-10x", "smoke"} {
		sc, err := scenario.Load(filepath.Join("..", "scenarios", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{scenario: sc})
	}
	for _, e := range inOrder(entries) {
		names = append(names, fmt.Sprint(e.scenario.Name, " ", alone(e)))
	}
	if got, want := strings.Join(names, ", "), "crash-loop 0, leader-kill 0, smoke 0, overload-10x 1, join-1m 1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestSaid proves that the line of a suite names what was wrong: the first check
// that made the verdict, or the limit that was not kept.
func TestSaid(t *testing.T) {
	check := func(name string, v result.Verdict, detail string) result.Check {
		return result.Check{Name: name, Verdict: v, Detail: detail}
	}
	for _, tt := range []struct {
		run          result.Run
		verdict, why string
	}{
		{result.Run{Checks: []result.Check{check("liveness", result.Pass, "all well")}}, "pass", ""},
		{result.Run{Checks: []result.Check{check("run validity", result.Pass, ""), check("session", result.Violated, "it went back"), check("lost writes", result.Violated, "3")}}, "violated", "session: it went back"},
		{result.Run{Checks: []result.Check{check("run validity", result.Unknown, "no fault")}}, "unknown", "run validity: no fault"},
		{result.Run{Checks: []result.Check{check("liveness", result.Pass, "")}, Thresholds: []result.Threshold{{Metric: "errors", Expr: "rate < 1%", Met: true}, {Metric: "failover", Expr: "max < 1s", Got: "2s"}}}, "missed", "failover max < 1s: 2s"},
		{result.Run{Failure: "start the cluster: no"}, "failed", "start the cluster: no"},
	} {
		tt.run.Judge()
		if verdict, why := said(&tt.run); verdict != tt.verdict || why != tt.why {
			t.Errorf("%s (%s), want %s (%s)", verdict, why, tt.verdict, tt.why)
		}
	}
}

// Command chaos runs scenarios: real nodes behind proxies, load, faults on a
// timeline, and checks that say whether anything was lost.
//
//	chaos run scenarios/leader-kill.yaml [--repeat 5]
//	chaos suite FILE...     many scenarios side by side, one line each
//	chaos check RUNDIR      judge a run again from its evidence
//	chaos validate FILE...  chaos plan FILE  chaos list [DIR]  chaos schema
//
// Exit codes: 0 pass, 1 a run failed, 2 wrong usage or an invalid file, 96 the
// runs prove nothing, 97 consistency violated, 99 a threshold was missed, 130
// and 143 interrupted.
package main

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/chaos/internal/hostile"
	"github.com/hacache/hacache/chaos/internal/live"
	"github.com/hacache/hacache/chaos/internal/runner"
	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/internal/interrupt"
	"github.com/hacache/hacache/reports/result"
)

func main() {
	os.Exit(run(interrupt.Context(), os.Args, os.Stdout, os.Stderr))
}

// run is the whole program but for the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return command.Run(ctx, newCommand(stdout, stderr), args)
}

func newCommand(stdout, stderr io.Writer) *cli.Command {
	seed := &cli.Uint64Flag{Name: "seed", Usage: "`SEED` of every random choice, instead of the scenario's own"}
	return &cli.Command{
		Name: "chaos", Usage: "run failure scenarios against a cluster and judge what came of it",
		Writer: stdout, ErrWriter: stderr, HideHelpCommand: true,
		Commands: []*cli.Command{
			{
				Name: "run", Usage: "run scenarios", ArgsUsage: "FILE...",
				Flags: []cli.Flag{
					&cli.DurationFlag{Name: "for", Usage: "run each scenario again, with the next seed, until so much `TIME` has passed"},
					&cli.IntFlag{Name: "repeat", Value: 1, Usage: "run each scenario `N` times, with the seeds SEED, SEED+1 and so on"},
					seed,
					&cli.Float64Flag{Name: "duration-scale", Usage: "`FACTOR` by which load and faults are shortened for a quick look, such as 0.1; of repeated faults there are fewer"},
					&cli.BoolFlag{Name: "fail-fast", Usage: "stop after the first run that is not a pass"},
					&cli.StringFlag{Name: "keep", Value: "all", Usage: "which run directories to keep: `all or failed`"},
					&cli.StringFlag{Name: "out", Value: "out", Usage: "`DIR` in which the run directories are made"},
					&cli.StringFlag{Name: "cachenode", Usage: "the `PROGRAM` to test; default is cachenode beside this program, then the one in PATH"},
					&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress on stderr"},
				},
				Action: runCommand,
			},
			{Name: "check", Usage: "judge runs again from their directories", ArgsUsage: "DIR...", Action: checkCommand},
			{Name: "validate", Usage: "check scenario files; every mistake is listed", ArgsUsage: "FILE...", Action: validateCommand},
			{Name: "list", Usage: "list the scenarios of a directory", ArgsUsage: "[DIR]", Action: listCommand},
			{Name: "plan", Usage: "print the timeline of a scenario", ArgsUsage: "FILE", Flags: []cli.Flag{seed}, Action: planCommand},
			{
				Name: "suite", Usage: "run scenarios side by side, each once, and print one line for each", ArgsUsage: "FILE...",
				Flags: []cli.Flag{
					&cli.IntFlag{Name: "jobs", Value: 2, Usage: "how many scenarios run at once: `N`"},
					&cli.DurationFlag{Name: "longest", Usage: "scenarios that take longer than `TIME` are scaled to it"},
					seed,
					&cli.StringFlag{Name: "out", Value: "out", Usage: "`DIR` in which the directories of runs that are no pass are kept"},
					&cli.StringFlag{Name: "cachenode", Usage: "the `PROGRAM` to test; default is cachenode beside this program, then the one in PATH; cachenode-faults for those that need its hooks"},
				},
				Action: suiteCommand,
			},
			{
				Name: "mutants", Usage: "run scenarios against nodes with planted bugs, which they have to find", ArgsUsage: "[MUTANT...]",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "cachenode", Usage: "the `PROGRAM` to test, built with -tags mutants; default is cachenode beside this program, then the one in PATH"},
					&cli.StringFlag{Name: "scenarios", Value: "scenarios", Usage: "`DIR` of the scenarios"},
					&cli.Uint64Flag{Name: "seed", Usage: "the first `SEED`, instead of each scenario's own"},
					&cli.IntFlag{Name: "seeds", Value: 5, Usage: "within how many `SEEDS` a mutant has to be found"},
					&cli.IntFlag{Name: "correct", Value: 1, Usage: "how many `TIMES` the correct node runs each of the scenarios afterwards"},
					&cli.StringFlag{Name: "out", Value: "out", Usage: "`DIR` in which the run directories are made"},
					&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress on stderr"},
				},
				Action: mutantsCommand,
			},
			{
				Name: "inject", Usage: "break processes or proxies that run already, for a while", ArgsUsage: "ACTION",
				Description: "ACTION is kill, term, pause or starve, of processes of this machine (--pid); or latency, bandwidth, slice, slow-close, cut-after, swallow, reject or reset, of proxies of a Toxiproxy server (--toxiproxy, --proxy). It is healed after --for, when interrupted, and also when this process is killed; kill and term cannot be healed.",
				Flags: []cli.Flag{
					&cli.DurationFlag{Name: "for", Usage: "`TIME` until it is healed, an hour at most"},
					&cli.IntSliceFlag{Name: "pid", Usage: "`PID` of a process; may be given several times"},
					&cli.StringFlag{Name: "toxiproxy", Usage: "`URL` of a Toxiproxy server, such as http://10.0.0.7:8474"},
					&cli.StringSliceFlag{Name: "proxy", Usage: "`NAME` of one of its proxies; may be given several times"},
					&cli.StringFlag{Name: "direction", Value: "both", Usage: "`DIRECTION`: both, out (what the proxy's clients send) or in (what they get)"},
					&cli.DurationFlag{Name: "latency", Usage: "latency, slice, slow-close: `TIME`"},
					&cli.DurationFlag{Name: "jitter", Usage: "latency: plus or minus so much `TIME`"},
					&cli.Int64Flag{Name: "bytes", Usage: "bandwidth: `BYTES` a second; slice: of a piece; cut-after: of a connection"},
					&cli.Float64Flag{Name: "duty", Usage: "starve: share of the time in `PERCENT` in which the process is stopped"},
					&cli.DurationFlag{Name: "period", Value: 100 * time.Millisecond, Usage: "starve: `TIME` of one stop and one go"},
				},
				Action: injectCommand,
			},
			{Name: live.NurseCommand, Hidden: true, HideHelp: true, Action: attend},
			{Name: hostile.Command, Hidden: true, HideHelp: true, Action: attackCommand},
			{
				Name: "export", Usage: "write the faults of a scenario for another tool", ArgsUsage: "FILE",
				Flags: []cli.Flag{
					seed,
					&cli.StringFlag{Name: "to", Usage: "the `TOOL`: chaos-mesh"},
					&cli.StringFlag{Name: "namespace", Value: "default", Usage: "`NAMESPACE` of the pods"},
					&cli.StringFlag{Name: "pods", Value: "cachenode", Usage: "`NAME` of the StatefulSet: n1 is NAME-0"},
					&cli.StringFlag{Name: "leader", Usage: "the `NODE` to take for the leader, such as n1"},
				},
				Action: exportCommand,
			},
			{Name: "schema", Usage: "print the JSON schema of scenario files", Action: schemaCommand},
		},
	}
}

// attackCommand is the life of hostile clients, which a run starts in a process of
// their own. It is not for people.
func attackCommand(ctx context.Context, c *cli.Command) error {
	return hostile.Serve(ctx, os.Stdin, c.Root().Writer)
}

// files returns the arguments, of which there must be one at least.
func files(c *cli.Command) ([]string, error) {
	if c.Args().Len() == 0 {
		return nil, command.Usagef("%s: no argument; expected %s", c.Name, c.ArgsUsage)
	}
	return c.Args().Slice(), nil
}

// load reads scenarios; the mistakes of all files are reported together.
func load(paths []string) ([]*scenario.Scenario, error) {
	var all []*scenario.Scenario
	var errs []error
	for _, path := range paths {
		s, err := scenario.Load(path)
		if err != nil {
			errs = append(errs, err)
		}
		all = append(all, s)
	}
	if len(errs) > 0 {
		return nil, command.Usage(errors.Join(errs...))
	}
	return all, nil
}

func validateCommand(_ context.Context, c *cli.Command) error {
	paths, err := files(c)
	if err != nil {
		return err
	}
	all, err := load(paths)
	if err != nil {
		return err
	}
	for i, s := range all {
		fmt.Fprintf(c.Root().Writer, "%s: ok, %s, %d nodes, %d faults, %v\n", paths[i], s.Name, s.Cluster.Nodes, len(s.Faults), s.Warmup()+s.Length())
	}
	return nil
}

func planCommand(_ context.Context, c *cli.Command) error {
	if c.Args().Len() != 1 {
		return command.Usagef("plan: %d arguments; expected FILE", c.Args().Len())
	}
	all, err := load(c.Args().Slice())
	if err != nil {
		return err
	}
	return scenario.NewPlan(all[0], cmp.Or(c.Uint64("seed"), all[0].Seed)).Print(c.Root().Writer)
}

func schemaCommand(_ context.Context, c *cli.Command) error {
	data, err := scenario.Schema()
	if err != nil {
		return err
	}
	_, err = c.Root().Writer.Write(data)
	return err
}

func listCommand(_ context.Context, c *cli.Command) error {
	dir := cmp.Or(c.Args().First(), "scenarios")
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return command.Usage(err)
	}
	if len(paths) == 0 {
		return command.Usagef("list: no scenario (*.yaml) in %s", dir)
	}
	all, err := load(paths)
	if err != nil {
		return err
	}
	for i, s := range all {
		fmt.Fprintf(c.Root().Writer, "%-32s %d nodes %4v  %s\n", s.Name, s.Cluster.Nodes, s.Warmup()+s.Length(), paths[i])
		fmt.Fprintf(c.Root().Writer, "  %s\n", s.About)
	}
	return nil
}

func checkCommand(_ context.Context, c *cli.Command) error {
	dirs, err := files(c)
	if err != nil {
		return err
	}
	code := result.ExitOK
	for _, dir := range dirs {
		in, err := runner.Load(dir)
		if err != nil {
			return command.Usagef("%s is not the directory of a run: %w", dir, err)
		}
		h := in.History.Header
		out := &result.Run{Kind: result.KindScenario, Name: h.Scenario, Verdict: result.Unknown}
		if saved, err := result.Read(dir); err == nil {
			out.Interrupted, out.Failure, out.Duration = saved.Interrupted, saved.Failure, saved.Duration
		}
		if _, err := runner.Judge(dir, out); err != nil {
			return err
		}
		printRun(c.Root().Writer, out, h.Seed)
		code = worse(code, out.ExitCode())
	}
	return exit(code)
}

func exit(code int) error {
	if code == result.ExitOK {
		return nil
	}
	return command.Exit(code)
}

// worse returns the exit code that says more: a violation outranks all.
func worse(a, b int) int {
	order := []int{result.ExitViolated, result.ExitInterrupt, result.ExitTerminate, result.ExitFailure, result.ExitUnknown, result.ExitThreshold}
	for _, code := range order {
		if a == code || b == code {
			return code
		}
	}
	return max(a, b)
}

// program finds the cachenode to test.
func program(named string) (string, error) { return find("cachenode", named) }

// find finds the program that is named, or if none is, the one that is called so.
func find(called, named string) (string, error) {
	if named == "" {
		if self, err := os.Executable(); err == nil {
			if beside := filepath.Join(filepath.Dir(self), called); executable(beside) {
				return beside, nil
			}
		}
		path, err := exec.LookPath(called)
		if err != nil {
			return "", command.Usagef("run: no %s beside this program or in PATH; expected --cachenode PROGRAM (make build makes bin/cachenode, make scenarios bin/%s)", called, hooked)
		}
		return path, nil
	}
	if !executable(named) {
		return "", command.Usagef("run: --cachenode %s: expected an executable file", named)
	}
	return filepath.Abs(named)
}

// hooked is how a cachenode is called that was built with the tag "faults".
const hooked = "cachenode-faults"

// programFor finds the cachenode for a scenario: one with fault hooks if it needs
// them, and none for a cluster that runs already.
func programFor(s *scenario.Scenario, named string) (string, error) {
	switch {
	case s.Cluster.External == nil:
	case named != "":
		return "", command.Usagef("run: --cachenode: %s starts no node, since its cluster runs already", s.Name)
	default:
		return "", nil
	}
	if !s.NeedsHooks() {
		return program(named)
	}
	path, err := find(hooked, named)
	if err != nil {
		return "", fmt.Errorf("%s needs a node with fault hooks: %w", s.Name, err)
	}
	if info, err := buildinfo.ReadFile(path); err == nil && slices.ContainsFunc(info.Settings, func(b debug.BuildSetting) bool {
		return b.Key == "-tags" && slices.Contains(strings.Split(b.Value, ","), "faults")
	}) {
		return path, nil
	}
	return "", command.Usagef("run: %s needs a node with fault hooks, and %s has none; expected one built with go build -tags faults", s.Name, path)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/chaos/internal/runner"
	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/reports/render"
	"github.com/hacache/hacache/reports/result"
)

// campaign is one invocation of chaos run.
type campaign struct {
	stdout   io.Writer
	live     *liveLine
	binary   string
	out      string
	repeat   int
	lasts    time.Duration     // repeat for so long, whatever repeat says; 0: no
	scale    float64           // 0: none
	env      map[string]string // of the nodes, beside the scenario's
	command  []string          // that makes one run again; nil: the one of this process
	failFast bool
	keepAll  bool
}

// maxCampaign is how long a scenario may be repeated: a weekend.
const maxCampaign = 72 * time.Hour

func runCommand(ctx context.Context, c *cli.Command) error {
	paths, err := files(c)
	if err != nil {
		return err
	}
	all, err := load(paths)
	if err != nil {
		return err
	}
	r := &campaign{
		stdout: c.Root().Writer, live: newLiveLine(c.Root().ErrWriter, c.Bool("quiet")),
		out: c.String("out"), repeat: c.Int("repeat"), failFast: c.Bool("fail-fast"), keepAll: c.String("keep") == "all",
	}
	if r.repeat < 1 || r.repeat > 10_000 {
		return command.Usagef("run: --repeat %d; expected 1 to 10000", r.repeat)
	}
	if r.lasts = c.Duration("for"); r.lasts < 0 || c.IsSet("for") && r.lasts == 0 || r.lasts > maxCampaign {
		return command.Usagef("run: --for %v; expected more than 0 and %v at most", r.lasts, maxCampaign)
	}
	if r.lasts > 0 && c.IsSet("repeat") {
		return command.Usagef("run: --for and --repeat; expected one of them")
	}
	if c.IsSet("duration-scale") {
		if r.scale = c.Float64("duration-scale"); !(r.scale > 0 && r.scale <= 1) {
			return command.Usagef("run: --duration-scale %g; expected more than 0 and 1 at most", r.scale)
		}
	}
	if keep := c.String("keep"); keep != "all" && keep != "failed" {
		return command.Usagef("run: --keep %q; expected all or failed", keep)
	}
	binaries := make([]string, len(all))
	for i, s := range all {
		if binaries[i], err = programFor(s, c.String("cachenode")); err != nil {
			return err
		}
	}
	code := result.ExitOK
	for i, s := range all {
		source, err := os.ReadFile(paths[i])
		if err != nil {
			return err
		}
		if r.scale > 0 {
			s.Scale(r.scale)
		}
		r.binary = binaries[i]
		seed := cmp.Or(c.Uint64("seed"), s.Seed, uint64(rand.Uint32()))
		done, err := r.scenario(ctx, s, source, seed)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		code = worse(code, done)
		if ctx.Err() != nil || r.failFast && code != result.ExitOK {
			break
		}
	}
	return exit(code)
}

// scenario runs one scenario as often as asked, and returns the exit code.
func (c *campaign) scenario(ctx context.Context, s *scenario.Scenario, source []byte, seed uint64) (int, error) {
	started := time.Now()
	dir, err := result.CreateDir(c.out, s.Name, started)
	if err != nil {
		return 0, err
	}
	if c.repeat == 1 && c.lasts == 0 {
		r, err := c.once(ctx, s, source, seed, dir, "")
		if err != nil {
			return 0, err
		}
		printRun(c.stdout, r, seed)
		return r.ExitCode(), c.finish(r, dir)
	}
	all := &result.Run{Kind: result.KindScenario, Name: s.Name, About: s.About, Started: started}
	probe := result.Watch(seed, os.Args)
	fmt.Fprintf(c.stdout, "%s, %s from seed %d\n", s.Name, c.often(), seed)
	for i := 0; c.lasts > 0 && (i == 0 || time.Since(started) < c.lasts) || c.lasts == 0 && i < c.repeat; i++ {
		name := fmt.Sprintf("%0*d", len(strconv.Itoa(c.repeat)), i+1)
		sub := filepath.Join(dir, name)
		if err := os.Mkdir(sub, 0o755); err != nil {
			return 0, err
		}
		r, err := c.once(ctx, s, source, seed+uint64(i), sub, fmt.Sprintf(" %d of %s", i+1, c.often()))
		if err != nil {
			return 0, err
		}
		if _, err := render.Write(sub, r); err != nil {
			return 0, err
		}
		printLine(c.stdout, i+1, r, seed+uint64(i))
		merge(all, r, i+1, name, seed+uint64(i))
		if !c.keepAll && r.ExitCode() == result.ExitOK {
			if err := os.RemoveAll(sub); err != nil {
				return 0, err
			}
		}
		if ctx.Err() != nil || c.failFast && r.ExitCode() != result.ExitOK {
			break
		}
	}
	for i := range all.Checks {
		if c := &all.Checks[i]; c.Detail == "" {
			c.Detail = fmt.Sprintf("in each of %d repetitions, %d things looked at", len(all.Repeats), c.Checked)
		}
	}
	all.Duration = time.Since(started)
	all.Environment = probe.Environment()
	all.Judge()
	if err := result.Write(dir, all); err != nil {
		return 0, err
	}
	printSummary(c.stdout, all)
	page, err := render.Write(dir, all)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(c.stdout, "report: %s\n", page)
	return all.ExitCode(), nil
}

// finish renders a single run and says where, or removes it.
func (c *campaign) finish(r *result.Run, dir string) error {
	if !c.keepAll && r.ExitCode() == result.ExitOK {
		return os.RemoveAll(dir)
	}
	page, err := render.Write(dir, r)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.stdout, "report: %s\n", page)
	return err
}

// once carries out one run.
func (c *campaign) once(ctx context.Context, s *scenario.Scenario, source []byte, seed uint64, dir, which string) (*result.Run, error) {
	defer c.live.clear()
	boot := runner.Processes(c.binary)
	if s.Cluster.External != nil {
		boot = runner.Attached
	}
	return runner.Run(ctx, runner.Config{
		Plan: scenario.NewPlan(s, seed), Scale: c.scale, Source: source, Dir: dir, Boot: boot, Env: c.env,
		Probe:    result.Watch(seed, c.commandLine()),
		Progress: func(st runner.Status) { c.live.show(s.Name+which, st) },
	})
}

// often says how often a scenario is run.
func (c *campaign) often() string {
	if c.lasts > 0 {
		return "as often as fits into " + c.lasts.String()
	}
	return fmt.Sprintf("%d times", c.repeat)
}

func (c *campaign) commandLine() []string {
	if c.command != nil {
		return c.command
	}
	return os.Args
}

// merge adds one repetition to the summary of all.
func merge(all, r *result.Run, repeat int, dir string, seed uint64) {
	all.Repeats = append(all.Repeats, result.Repeat{Dir: dir, Seed: seed, Verdict: r.Verdict, Reasons: r.Reasons})
	for _, f := range r.Failovers {
		f.Repeat = repeat
		all.Failovers = append(all.Failovers, f)
	}
	for _, l := range r.Losses {
		l.Repeat = repeat
		all.Losses = append(all.Losses, l)
	}
	for _, e := range r.Exposures {
		i := slices.IndexFunc(all.Exposures, func(o result.Exposure) bool { return o.Level == e.Level })
		if i < 0 {
			all.Exposures = append(all.Exposures, e)
			continue
		}
		o := &all.Exposures[i]
		o.Acked, o.Lost, o.Allowed = o.Acked+e.Acked, o.Lost+e.Lost, o.Allowed+e.Allowed
		o.Stale, o.Unknown, o.Window = o.Stale+e.Stale, o.Unknown+e.Unknown, max(o.Window, e.Window)
		o.After = max(o.After, e.After)
	}
	for _, w := range r.Warnings {
		if !slices.Contains(all.Warnings, w) {
			all.Warnings = append(all.Warnings, w)
		}
	}
	for _, c := range r.Checks {
		i := slices.IndexFunc(all.Checks, func(o result.Check) bool { return o.Name == c.Name })
		if i < 0 {
			if c.Verdict != result.Pass {
				c.Detail = fmt.Sprintf("repetition %d: %s", repeat, c.Detail)
			} else {
				c.Detail = "" // what one repetition found says little about all
			}
			all.Checks = append(all.Checks, c)
			continue
		}
		o := &all.Checks[i]
		if c.Verdict.Rank() < o.Verdict.Rank() {
			o.Verdict, o.Detail = c.Verdict, fmt.Sprintf("repetition %d: %s", repeat, c.Detail)
		}
		o.Count, o.Checked, o.Worst = o.Count+c.Count, o.Checked+c.Checked, max(o.Worst, c.Worst)
		o.Examples = append(o.Examples, c.Examples...)
		o.Examples = o.Examples[:min(len(o.Examples), 20)]
	}
	for _, t := range r.Thresholds {
		i := slices.IndexFunc(all.Thresholds, func(o result.Threshold) bool { return o.Metric == t.Metric && o.Expr == t.Expr })
		switch {
		case i < 0:
			all.Thresholds = append(all.Thresholds, t)
		case all.Thresholds[i].Met && !t.Met:
			t.Got = fmt.Sprintf("%s in repetition %d", t.Got, repeat)
			all.Thresholds[i] = t
		}
	}
	all.Failure = cmp.Or(all.Failure, r.Failure)
	all.Interrupted = cmp.Or(all.Interrupted, r.Interrupted)
}

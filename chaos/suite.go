package main

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/reports/render"
	"github.com/hacache/hacache/reports/result"
)

// suite runs scenarios side by side, each once, and prints one line for each.
type suite struct {
	*campaign
	longest time.Duration // to which longer ones are scaled; 0: none is

	mu    sync.Mutex // guards stdout and what follows
	code  int
	count map[string]int // by exit code's name
}

// entry is one scenario of a suite.
type entry struct {
	scenario *scenario.Scenario
	source   []byte
	binary   string
	seed     uint64
	scale    float64 // 0: none
}

// maxJobs bounds how many clusters run at once; each has several processes.
const maxJobs = 64

func suiteCommand(ctx context.Context, c *cli.Command) error {
	paths, err := files(c)
	if err != nil {
		return err
	}
	all, err := load(paths)
	if err != nil {
		return err
	}
	jobs := c.Int("jobs")
	if jobs < 1 || jobs > maxJobs {
		return command.Usagef("suite: --jobs %d; expected 1 to %d", jobs, maxJobs)
	}
	s := &suite{
		campaign: &campaign{stdout: c.Root().Writer, live: newLiveLine(c.Root().ErrWriter, true), out: c.String("out"), repeat: 1},
		longest:  c.Duration("longest"), count: map[string]int{}, code: result.ExitOK,
	}
	var entries []entry
	for i, sc := range all {
		if sc.Cluster.External != nil {
			return command.Usagef("suite: %s is for a cluster that runs already, which others would break at the same time; expected chaos run", sc.Name)
		}
		e := entry{scenario: sc, seed: cmp.Or(c.Uint64("seed"), sc.Seed, uint64(rand.Uint32()))}
		if e.binary, err = programFor(sc, c.String("cachenode")); err != nil {
			return err
		}
		if e.source, err = os.ReadFile(paths[i]); err != nil {
			return err
		}
		if length := sc.Warmup() + sc.Length(); s.longest > 0 && length > s.longest {
			e.scale = float64(s.longest) / float64(length)
			sc.Scale(e.scale)
		}
		entries = append(entries, e)
	}
	return s.run(ctx, inOrder(entries), jobs)
}

// inOrder puts the longest first: what is left in the end is short. After all of
// them come those that a neighbour would slow down.
func inOrder(entries []entry) []entry {
	slices.SortStableFunc(entries, func(a, b entry) int {
		return cmp.Or(alone(a)-alone(b), cmp.Compare(b.scenario.Length(), a.scenario.Length()))
	})
	return entries
}

// alone is 1 for a scenario that has the machine for itself, else 0.
func alone(e entry) int {
	if e.scenario.LimitsLatency() {
		return 1
	}
	return 0
}

// run takes the entries in order, so many at once, then those that run alone,
// and fails as the worst of them.
func (s *suite) run(ctx context.Context, entries []entry, jobs int) error {
	began := time.Now()
	together := slices.IndexFunc(entries, func(e entry) bool { return alone(e) == 1 })
	if together < 0 {
		together = len(entries)
	}
	if err := s.side(ctx, entries[:together], jobs); err != nil {
		return err
	}
	if err := s.side(ctx, entries[together:], 1); err != nil {
		return err
	}
	var parts []string
	done := 0
	for _, verdict := range []string{"pass", "violated", "missed", "unknown", "failed", "interrupted"} {
		if n := s.count[verdict]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, verdict))
			done += n
		}
	}
	fmt.Fprintf(s.stdout, "%d of %d scenarios in %v, %d at once: %s\n", done, len(entries), time.Since(began).Round(time.Second), jobs, strings.Join(parts, ", "))
	return exit(s.code)
}

// side runs entries in order, so many at once.
func (s *suite) side(ctx context.Context, entries []entry, jobs int) error {
	next := make(chan entry, len(entries)) // closed here, once all are in it
	for _, e := range entries {
		next <- e
	}
	close(next)
	errs := make(chan error, jobs)
	for range jobs {
		go func() {
			for e := range next {
				if ctx.Err() != nil {
					break
				}
				if err := s.one(ctx, e); err != nil {
					errs <- fmt.Errorf("%s: %w", e.scenario.Name, err)
					return
				}
			}
			errs <- nil
		}()
	}
	var failed error
	for range jobs {
		failed = cmp.Or(failed, <-errs)
	}
	return failed
}

// one runs a scenario and prints its line. Only the directory of one that is no
// pass is kept.
func (s *suite) one(ctx context.Context, e entry) error {
	dir, err := result.CreateDir(s.out, e.scenario.Name, time.Now())
	if err != nil {
		return err
	}
	c := *s.campaign
	c.binary, c.scale = e.binary, e.scale
	r, err := c.once(ctx, e.scenario, e.source, e.seed, dir, "")
	if err != nil {
		return err
	}
	page := ""
	if r.ExitCode() == result.ExitOK {
		err = os.RemoveAll(dir)
	} else {
		page, err = render.Write(dir, r)
	}
	verdict, why := said(r)
	line := fmt.Sprintf("%-11s  %-30s seed %-10d %6s", verdict, e.scenario.Name, e.seed, r.Duration.Round(100*time.Millisecond))
	if e.scale > 0 {
		line += fmt.Sprintf("  scaled by %.2g", e.scale)
	}
	if why != "" {
		line += "  " + strings.ReplaceAll(why, "\n", "; ") + "  " + page
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.code = worse(s.code, r.ExitCode())
	s.count[verdict]++
	fmt.Fprintln(s.stdout, line)
	return err
}

// said is the verdict of a run in one word, and the first reason if it is no
// pass.
func said(r *result.Run) (verdict, why string) {
	switch r.ExitCode() {
	case result.ExitOK:
		return "pass", ""
	case result.ExitViolated, result.ExitUnknown:
		for _, c := range r.Checks {
			if c.Verdict == r.Verdict {
				return string(r.Verdict), c.Name + ": " + c.Detail
			}
		}
		return string(r.Verdict), firstLine(r.Failure)
	case result.ExitThreshold:
		for _, t := range r.Thresholds {
			if !t.Met {
				return "missed", fmt.Sprintf("%s %s: %s", t.Metric, t.Expr, t.Got)
			}
		}
		return "missed", ""
	case result.ExitFailure:
		return "failed", firstLine(r.Failure)
	}
	return "interrupted", r.Interrupted
}

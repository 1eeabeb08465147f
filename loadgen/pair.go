package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/proc"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

func pairFlags() []cli.Flag {
	return append(streamFlags(),
		&cli.StringFlag{Name: "base", Required: true, Usage: "the `PROGRAM` to compare with"},
		&cli.StringFlag{Name: "head", Required: true, Usage: "the `PROGRAM` that is compared"},
		&cli.StringFlag{Name: "rate", Aliases: []string{"r"}, Required: true, Usage: "`N` operations per second of the step with a fixed rate, half of them reads"},
		&cli.DurationFlag{Name: "each", Value: 3 * time.Second, Usage: "how `LONG` each side is offered the fixed rate, in turns of 250 ms"},
		&cli.DurationFlag{Name: "flat", Value: 1500 * time.Millisecond, Usage: "how `LONG` each side goes as fast as it can, in turns of 250 ms"},
		&cli.IntFlag{Name: "nodes", Value: 3, Usage: "`N` nodes of each cluster"},
		&cli.StringFlag{Name: "keys", Value: "10k", Usage: "`N` keys"},
		valueSizeFlag(),
		&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "`SEED` of times and operations, and of the order of turns; another one for each round"},
		&cli.StringFlag{Name: "out", Value: "out", Usage: "`DIR` in which base/ROUND/ and head/ROUND/ get a run directory each"},
		&cli.StringFlag{Name: "round", Value: "01", Usage: "`NAME` of the round"},
		&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "width of the rows of the time series"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress on stderr"},
		// What the other commands have and this one decides itself.
		&cli.StringFlag{Name: "cluster", Value: "process", Hidden: true},
		&cli.StringFlag{Name: "cachenode", Hidden: true},
	)
}

// The steps of a round.
const (
	pairFixed = "fixed rate"
	pairFlat  = "flat out"
)

// pairCommand measures two programs side by side: both clusters are up all the time, and in each step they take turns of a
// quarter of a second, so that what else the machine does meets both alike.
func pairCommand(ctx context.Context, c *cli.Command) error {
	if c.Args().Len() > 0 {
		return command.Usagef("pair: unexpected argument %q", c.Args().First())
	}
	names := [2]string{"base", "head"}
	var m mistakes
	var sides [2]*session
	each, flat := c.Duration("each"), c.Duration("flat")
	if each <= 0 || flat <= 0 {
		m.addf("each", "%s, and %s for --flat: want more than 0", each, flat)
	}
	rate, err := load.ParseRate(c.String("rate"))
	m.add("rate", err)
	if err == nil && rate == 0 {
		m.addf("rate", "0: want at least 1")
	}
	if round := c.String("round"); round == "" || round != filepath.Base(round) {
		m.addf("round", "%q: want the name of a directory", round)
	}
	for _, name := range names {
		_, err := program(c.String(name))
		m.add(name, err)
	}
	if err := m.err(); err != nil {
		return err
	}
	var settings [2]*settings
	for i, name := range names {
		if err := c.Set("cachenode", c.String(name)); err != nil {
			return err
		}
		s := common(c, &m)
		keySettings(c, s, &m)
		s.name, s.out = "pair", filepath.Join(c.String("out"), name, c.String("round"))
		s.workload.Timeout = 5 * time.Second
		s.generator.Drain = s.workload.Timeout + time.Second
		settings[i] = s
	}
	if err := m.err(); err != nil {
		return err
	}
	for i, s := range settings {
		about := fmt.Sprintf("one side of a comparison: half inserts at quorum, half reads, %.0f/s and then as fast as it goes", rate)
		if sides[i], err = newSession(s, result.KindBench, about, io.Discard, c.Root().ErrWriter); err != nil {
			return err
		}
	}
	failure := pair(ctx, sides, rate, each, flat)
	var failures []error
	for i, s := range sides {
		err := s.finish(ctx, failure)
		fmt.Fprintf(c.Root().Writer, "%s\t%s\n", names[i], s.dir)
		if err != nil && err != failure {
			failures = append(failures, fmt.Errorf("%s: %w", names[i], err))
		}
	}
	if failure != nil {
		return failure
	}
	return errors.Join(failures...)
}

// Turns of the two sides. A machine's speed moves within seconds, so that its changes meet both alike; a turn is long beside
// the 10 ms of an answer that the fixed rate is chosen for, which is what the pause is for.
const (
	turnFor   = 250 * time.Millisecond
	turnPause = 20 * time.Millisecond
)

// turns is how many turns of each side make up d, at least one.
func turns(d time.Duration) int { return max(1, int((d+turnFor/2)/turnFor)) }

// pair carries out a round.
func pair(ctx context.Context, sides [2]*session, rate float64, each, flat time.Duration) error {
	both := func(do func(i int, s *session) error) error {
		var wg sync.WaitGroup
		var errs [2]error
		for i, s := range sides {
			wg.Go(func() { errs[i] = do(i, s) })
		}
		wg.Wait()
		return errors.Join(errs[:]...)
	}
	var terms [2]uint64
	if err := both(func(i int, s *session) error {
		if err := s.begin(ctx); err != nil {
			return err
		}
		err := s.fill(ctx)
		terms[i] = s.cluster.Term()
		return err
	}); err != nil {
		return err
	}
	for k, st := range []struct {
		phase            string
		schedule         load.Schedule
		warmup, duration time.Duration
	}{
		{pairFixed, load.Poisson{PerSecond: rate}, 2 * turnFor, each}, // the nodes have been busy with the keys before
		{pairFlat, nil, turnFor, flat},
	} {
		for _, part := range []struct {
			phase    string
			duration time.Duration
		}{{"warm-up", st.warmup}, {st.phase, st.duration}} {
			if err := both(func(i int, s *session) error {
				t := &load.Turns{For: turnFor, Pause: turnPause, Seed: sides[0].seed + uint64(k)<<32, Load: i}
				return s.priced(ctx, part.phase, st.schedule, t, t.Last(turns(part.duration)))
			}); err != nil {
				return err
			}
		}
	}
	for i, s := range sides {
		kept := result.Check{Name: result.CheckLeaderKept, Verdict: result.Pass, Checked: 1}
		if now := s.cluster.Term(); now != terms[i] {
			kept.Verdict, kept.Count = result.Violated, int64(now-terms[i])
			kept.Detail = fmt.Sprintf("term %d became %d without a fault", terms[i], now)
		}
		s.run.Checks = append(s.run.Checks, kept)
	}
	return nil
}

// priced offers a step in turns and notes what it cost the nodes. The warm-up is a step of its own, so that the processor
// time is of nothing but what is recorded.
func (s *session) priced(ctx context.Context, phase string, schedule load.Schedule, turns *load.Turns, duration time.Duration) error {
	w := s.workload
	w.Mix = []load.Weight[client.Kind]{{Of: client.KindInsert, Weight: 1}, {Of: client.KindGet, Weight: 1}}
	w.Acks = []load.Weight[client.Level]{{Of: client.LevelQuorum, Weight: 1}}
	g := s.generator
	g.Phase, g.Schedule, g.Turns, g.Warmup, g.Duration = phase, schedule, turns, 0, duration
	before, err := s.nodesCPU()
	if err != nil {
		return err
	}
	if err := s.offer(ctx, g, w); err != nil || ctx.Err() != nil {
		return err
	}
	after, err := s.nodesCPU()
	if err != nil {
		return err
	}
	if phase == pairFixed || phase == pairFlat {
		s.run.Costs = append(s.run.Costs, result.Cost{Phase: phase, Ops: s.steps[len(s.steps)-1].summary.Counts.OK, CPU: after - before})
	}
	return nil
}

// nodesCPU is the processor time that the nodes have used so far.
func (s *session) nodesCPU() (time.Duration, error) {
	var sum time.Duration
	for _, p := range s.nodes.Nodes {
		cpu, _, err := proc.Usage(p.Pid())
		if err != nil {
			return 0, fmt.Errorf("%s: %w: %s", p.Name(), err, p.LastLine())
		}
		sum += cpu
	}
	return sum, nil
}

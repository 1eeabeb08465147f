package main

import (
	"context"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

func runCommand(ctx context.Context, c *cli.Command) error {
	s, err := runSettings(c)
	if err != nil {
		return err
	}
	if _, err := s.workload.Source(); err != nil {
		return command.Usage(err)
	}
	about := "closed loop"
	if s.generator.Schedule != nil {
		about = s.generator.Schedule.String()
	}
	se, err := newSession(s, result.KindBench, about+", "+c.String("mix"), c.Root().Writer, c.Root().ErrWriter)
	if err != nil {
		return err
	}
	if err = writeWorkload(se.dir, &s.workload); err == nil {
		err = se.begin(ctx)
	}
	if err == nil {
		err = se.offer(ctx, s.generator, s.workload)
	}
	return se.finish(ctx, err)
}

// sizes of a benchmark: how long each step lasts after its warm-up.
var sizes = map[string]time.Duration{"s": 4 * time.Second, "m": 15 * time.Second, "l": time.Minute}

func benchCommand(ctx context.Context, c *cli.Command) error {
	if c.Args().Len() > 0 {
		return command.Usagef("bench: unexpected argument %q", c.Args().First())
	}
	if c.Bool("self") {
		if err := c.Set("cluster", "external"); err != nil { // none is started
			return err
		}
	}
	var m mistakes
	s := common(c, &m)
	keySettings(c, s, &m)
	s.name = "bench"
	each, ok := sizes[c.String("size")]
	if !ok {
		m.addf("size", "%q: want s, m or l", c.String("size"))
	}
	rate, err := load.ParseRate(c.String("rate"))
	m.add("rate", err)
	if err == nil && rate == 0 {
		m.addf("rate", "0: want at least 1")
	}
	if err := m.err(); err != nil {
		return err
	}
	if c.Bool("self") {
		s.name = "self"
		return selfBench(ctx, s, each/4, c.Root().Writer, c.Root().ErrWriter)
	}
	se, err := newSession(s, result.KindBench, "each ack level and reads at a fixed rate, then as fast as it goes", c.Root().Writer, c.Root().ErrWriter)
	if err != nil {
		return err
	}
	err = se.begin(ctx)
	if err == nil {
		err = se.bench(ctx, each, rate)
	}
	return se.finish(ctx, err)
}

// bench carries out the steps of a benchmark.
func (s *session) bench(ctx context.Context, each time.Duration, rate float64) error {
	const timeout = 5 * time.Second
	s.workload.Timeout = timeout
	only := func(kind client.Kind, level client.Level) load.Workload {
		w := s.workload
		w.Mix = []load.Weight[client.Kind]{{Of: kind, Weight: 1}}
		w.Acks = []load.Weight[client.Level]{{Of: level, Weight: 1}}
		return w
	}
	g := s.generator
	g.Drain = timeout + time.Second

	// Every key is there before reads are measured.
	if err := s.fill(ctx); err != nil {
		return err
	}
	g.Warmup, g.Duration = time.Second, each
	for _, st := range []struct {
		phase    string
		schedule load.Schedule
		workload load.Workload
	}{
		{"fixed rate, quorum", load.Poisson{PerSecond: rate}, only(client.KindInsert, client.LevelQuorum)},
		{"fixed rate, once", load.Poisson{PerSecond: rate}, only(client.KindInsert, client.LevelOnce)},
		{"fixed rate, leader", load.Poisson{PerSecond: rate}, only(client.KindInsert, client.LevelLeader)},
		{"fixed rate, get", load.Poisson{PerSecond: rate}, only(client.KindGet, 0)},
		{"flat out, quorum", nil, only(client.KindInsert, client.LevelQuorum)},
		{"flat out, get", nil, only(client.KindGet, 0)},
	} {
		if ctx.Err() != nil {
			return nil
		}
		g.Phase, g.Schedule = st.phase, st.schedule
		if err := s.offer(ctx, g, st.workload); err != nil {
			return err
		}
	}
	return nil
}

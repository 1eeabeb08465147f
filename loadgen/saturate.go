package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

// Bounds of one try of a rate: it is made longer than --step where a percentile
// needs more samples, but not without end; what an overloaded target still holds
// at the end is waited for a little.
const (
	longestTry = time.Minute
	tryDrain   = 2 * time.Second
	settle     = 200 * time.Millisecond
)

func saturateCommand(ctx context.Context, c *cli.Command) error {
	if c.Args().Len() > 0 {
		return command.Usagef("saturate: unexpected argument %q", c.Args().First())
	}
	var m mistakes
	s := common(c, &m)
	loadSettings(c, s, &m)
	search, limits := searchSettings(c, s, &m)
	if err := m.err(); err != nil {
		return err
	}
	if _, err := s.workload.Source(); err != nil {
		return command.Usage(err)
	}
	var texts []string
	for _, l := range limits {
		texts = append(texts, l.String())
	}
	about := "the highest rate that holds " + strings.Join(texts, " and ") + "; " + c.String("mix")
	se, err := newSession(s, result.KindBench, about, c.Root().Writer, c.Root().ErrWriter)
	if err != nil {
		return err
	}
	err = se.begin(ctx)
	if err == nil {
		err = se.saturate(ctx, search, limits, c.String("schedule"), c.Duration("step"))
		se.run.Saturation.Limits = texts
		for i := range limits {
			se.run.Saturation.P99Limit = max(se.run.Saturation.P99Limit, limits[i].P99Limit())
		}
	}
	return se.finish(ctx, err)
}

// searchSettings is what the flags of saturate say beside those of every load.
func searchSettings(c *cli.Command, s *settings, m *mistakes) (load.Search, []load.Threshold) {
	var search load.Search
	var err1, err2 error
	search.Start, err1 = load.ParseRate(c.String("rate"))
	search.Most, err2 = load.ParseRate(c.String("max-rate"))
	m.add("rate", err1)
	m.add("max-rate", err2)
	if err1 == nil && err2 == nil && (search.Start <= 0 || search.Most < search.Start) {
		m.addf("rate", "from %s to %s: want more than 0 and at most --max-rate", c.String("rate"), c.String("max-rate"))
	}
	search.Repeats = c.Int("repeats")
	if search.Repeats < 1 || search.Repeats > 99 {
		m.addf("repeats", "%d: want 1 to 99", search.Repeats)
	}
	percent, isPercent := strings.CutSuffix(c.String("within"), "%")
	within, err := strconv.ParseFloat(strings.TrimSpace(percent), 64)
	if search.Within = within / 100; err != nil || !isPercent || !(search.Within >= 0.005 && search.Within <= 1) {
		m.addf("within", "%q: want 0.5%% to 100%%", c.String("within"))
	}
	if _, err := load.ParseSchedule(c.String("schedule"), 1); err != nil || strings.Contains(c.String("schedule"), "(") {
		m.addf("schedule", "%q: want constant or poisson", c.String("schedule"))
	}
	for flag, d := range map[string]time.Duration{"step": c.Duration("step") - 1, "warmup": c.Duration("warmup")} {
		if d < 0 || d > longestTry {
			m.addf(flag, "%s: want at most %s, and more than 0 for --step", c.Duration(flag), longestTry)
		}
	}
	s.generator.Warmup, s.generator.Drain = c.Duration("warmup"), tryDrain
	var limits []load.Threshold
	for _, text := range splitLimits(c.String("slo")) {
		t, err := load.ParseThreshold(text)
		m.add("slo", err)
		switch {
		case err == nil && t.Phase() != "":
			m.addf("slo", "%q: each try is one phase; want no label for it", text)
		case err == nil && t.Abort:
			m.addf("slo", "%q: a try always ends; want no abort", text)
		}
		limits = append(limits, t)
	}
	return search, limits
}

// splitLimits takes a list apart at the commas that are not in braces.
func splitLimits(s string) []string {
	depth := 0
	parts := strings.FieldsFunc(s, func(r rune) bool {
		switch r {
		case '{':
			depth++
		case '}':
			depth--
		}
		return r == ',' && depth == 0
	})
	if len(parts) == 0 {
		return []string{""} // which is no limit, and says so
	}
	return parts
}

// saturate carries out the search, and leaves it in the result.
func (s *session) saturate(ctx context.Context, search load.Search, limits []load.Threshold, schedule string, step time.Duration) error {
	s.run.Saturation = &result.Saturation{}
	if err := s.fill(ctx); err != nil {
		return err
	}
	needs := 0.0
	for i := range limits {
		needs = max(needs, limits[i].Needs()/float64(search.Repeats)) // together they have as many
	}
	source, err := s.workload.Source()
	if err != nil {
		return command.Usage(err)
	}
	s.searching = true
	search.Try = func(ctx context.Context, rate float64, repeat int) (result.SaturationTrial, error) {
		g := s.generator
		g.Seed += uint64(repeat)
		g.Duration = min(max(step, time.Duration(needs/rate*1.02*float64(time.Second))), longestTry)
		g.Phase = fmt.Sprintf("%.0f/s, try %d", rate, repeat+1)
		if rate < 100 { // steps are closer than 1/s there
			g.Phase = fmt.Sprintf("%.2f/s, try %d", rate, repeat+1)
		}
		var err error
		if g.Schedule, err = load.ParseSchedule(schedule, rate); err != nil {
			return result.SaturationTrial{}, err
		}
		var trial result.SaturationTrial
		err = s.with(ctx, &g, source, func(ctx context.Context) (*load.Summary, error) {
			var sum *load.Summary
			var err error
			trial, sum, err = load.Trial(ctx, &g, limits)
			return sum, err
		})
		if err != nil {
			return trial, err
		}
		// What an overloaded target had queued is not to be in the next try's way.
		timer := time.NewTimer(settle)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		return trial, nil
	}
	found, err := search.Run(ctx)
	s.run.Saturation = found
	if ctx.Err() != nil {
		return nil // the interrupt says why
	}
	return err
}

// judgeSearch is the check of a search, and shortens what the report would
// otherwise show of every try.
func (s *session) judgeSearch() {
	sat := s.run.Saturation
	check := result.Check{Name: "highest rate found", Verdict: result.Pass, Checked: int64(len(sat.Steps))}
	switch {
	case sat.Rate == 0:
		check.Verdict, check.Detail = result.Unknown, "no rate held"
	case sat.Broken == 0:
		check.Detail = fmt.Sprintf("%.0f/s held: %s", sat.Rate, sat.Ended)
	default:
		check.Detail = strings.TrimSuffix(fmt.Sprintf("%.0f/s held, %.0f/s did not; %s", sat.Rate, sat.Broken, sat.Ended), "; ")
	}
	s.run.Checks = append(s.run.Checks, check)
	keep := map[string]bool{}
	for _, st := range sat.Steps {
		if st.Offered == sat.Rate || st.Offered == sat.Broken {
			keep[st.Trials[len(st.Trials)/2].Phase] = true
		}
	}
	for i := range s.run.Series {
		if !keep[s.run.Series[i].Phase] {
			s.run.Series[i].Spectrum = nil
		}
	}
}

// printKnee writes the rates in order, with the middle of their tries.
func printKnee(w io.Writer, sat *result.Saturation) {
	steps := slices.Clone(sat.Steps)
	slices.SortStableFunc(steps, func(a, b result.SaturationStep) int { return int(a.Offered - b.Offered) })
	var top time.Duration
	least := len(steps[0].Trials)
	for i := range steps {
		top, least = max(top, steps[i].Middle().P99), min(least, len(steps[i].Trials))
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "\noffered/s\tok/s\tnot ok\tp50\tp99\tmax\tlag p99\t\t \n")
	for i := range steps {
		m := steps[i].Middle()
		held := "held"
		if !steps[i].Held {
			held = m.Reason
		}
		fmt.Fprintf(tw, "%.0f\t%.0f\t%.2f%%\t%s\t%s\t%s\t%s\t\t %s %s\n", steps[i].Offered, m.Throughput, 100*m.NotOK, round(m.P50), round(m.P99), round(m.Max), round(m.LagP99), bar(m.P99, top), held)
	}
	tw.Flush()
	fmt.Fprintf(w, "bars: p99 of response times, each further mark is twice as long; tries of a rate: %d at least, their middle is shown\n", least)
	fmt.Fprintf(w, "highest rate that holds %s: %.0f/s\n", strings.Join(sat.Limits, " and "), sat.Rate)
	if half, lag := halfway(steps, sat.Rate); lag > 0 {
		fmt.Fprintf(w, "lag of the generator at %.0f/s, about half of that: %s at p99\n", half, round(lag))
	}
	if sat.Broken > 0 {
		fmt.Fprintf(w, "lowest rate above it that does not: %.0f/s\n", sat.Broken)
	}
	if sat.Ended != "" {
		fmt.Fprintln(w, sat.Ended)
	}
}

// halfway is the rate closest to half of the one found, and how late operations
// were sent there: whether the generator is fit for the target is seen where the
// target is busy but not full. The lag is 0 if no rate was tried near there.
func halfway(steps []result.SaturationStep, found float64) (rate float64, lag time.Duration) {
	off := func(r float64) float64 { return math.Abs(r/found - 0.5) }
	for i := range steps {
		if r := steps[i].Offered; off(r) < 0.2 && (rate == 0 || off(r) < off(rate)) {
			rate, lag = r, steps[i].Middle().LagP99
		}
	}
	return rate, lag
}

// bar is a duration on a logarithmic scale, from 100 µs up.
func bar(d, top time.Duration) string {
	marks := 0
	for x := 100 * time.Microsecond; x < min(d, top); x *= 2 {
		marks++
	}
	return strings.Repeat("#", marks)
}

// fill writes every key of the workload, unless nothing reads or the target
// keeps nothing. None of it is recorded.
func (s *session) fill(ctx context.Context) error {
	if s.cluster == nil {
		return nil
	}
	g, w := s.generator, s.workload
	w.Mix = []load.Weight[client.Kind]{{Of: client.KindInsert, Weight: 1}}
	w.Acks = []load.Weight[client.Level]{{Of: client.LevelQuorum, Weight: 1}}
	w.Dist = load.KeyDist{Kind: load.KeySequential}
	g.Schedule, g.Think, g.Segment, g.Phases = nil, 0, load.Segment{}, nil
	g.Ops, g.Duration, g.Warmup, g.Phase = w.Keys, 0, 24*time.Hour, "fill"
	err := s.offer(ctx, g, w)
	if err == nil && len(s.steps) > 0 && s.steps[len(s.steps)-1].summary.Aborted == nil && ctx.Err() != nil {
		return errors.New("interrupted while the keys were written")
	}
	return err
}

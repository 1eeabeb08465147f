package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hacache/hacache/chaos/internal/check"
	"github.com/hacache/hacache/chaos/internal/runner"
	"github.com/hacache/hacache/reports/result"
)

// printRun writes the table of one run.
func printRun(w io.Writer, r *result.Run, seed uint64) {
	fmt.Fprintf(w, "%s, seed %d, %v: %s\n", r.Name, seed, r.Duration.Round(100*time.Millisecond), verdictOf(r))
	printChecks(w, r)
	printFailovers(w, r.Failovers)
}

// verdictOf is the verdict, and a missed threshold that the verdict leaves out.
func verdictOf(r *result.Run) string {
	v := strings.ToUpper(string(r.Verdict))
	if r.ExitCode() == result.ExitThreshold {
		v += ", but a threshold was missed"
	}
	if r.Interrupted != "" {
		v += ", interrupted by " + r.Interrupted
	}
	if r.Failure != "" {
		v += ", " + firstLine(r.Failure)
	}
	return v
}

func printChecks(w io.Writer, r *result.Run) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range r.Checks {
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", c.Name, c.Verdict, c.Detail)
	}
	for _, t := range r.Thresholds {
		verdict := "met"
		if !t.Met {
			verdict = "missed"
		}
		fmt.Fprintf(tw, "  %s %s\t%s\t%s\n", t.Metric, t.Expr, verdict, t.Got)
	}
	tw.Flush()
	for _, c := range r.Checks {
		if c.Verdict == result.Violated || c.Verdict == result.Unknown {
			for _, e := range c.Examples {
				fmt.Fprintf(w, "    %s\n", e)
			}
		}
	}
	for _, s := range r.Warnings {
		fmt.Fprintf(w, "  warning: %s\n", s)
	}
	if len(r.Exposures) == 0 {
		return
	}
	tw = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "  level\tacked\tlost\tin 1000\tof these allowed\tacked before the fault\tafter\tunknown\tlongest gap\t\n")
	for _, e := range r.Exposures {
		outage := "-" // the summary of repetitions has none
		if i := slices.IndexFunc(r.Outages, func(o result.Outage) bool { return o.Level == e.Level }); i >= 0 {
			outage = short(r.Outages[i].To - r.Outages[i].From)
		}
		share := "-"
		if e.Lost > 0 {
			share = fmt.Sprintf("%.3g", 1000*float64(e.Lost)/float64(e.Acked))
		}
		fmt.Fprintf(tw, "  %s\t%d\t%d\t%s\t%d\t%s\t%s\t%d\t%s\t\n", e.Level, e.Acked, e.Lost, share, e.Allowed, short(e.Window), short(e.After), e.Unknown, outage)
	}
	tw.Flush()
}

// maxRows is how many failovers are listed one by one; of more, the slowest.
const (
	maxRows = 10
	slowest = 5
)

// printFailovers writes each failover, or the slowest of many, and what they
// have in common.
func printFailovers(w io.Writer, fs []result.Failover) {
	if len(fs) == 0 {
		return
	}
	of := func(f *result.Failover) (first, gap map[string]time.Duration) {
		first, gap = map[string]time.Duration{}, map[string]time.Duration{}
		for _, l := range f.Levels {
			first[l.Level], gap[l.Level] = l.FirstOK, l.Gap
		}
		return first, gap
	}
	rows := slices.Clone(fs)
	title := "failover"
	if len(rows) > maxRows {
		slices.SortStableFunc(rows, func(a, b result.Failover) int {
			_, x := of(&a)
			_, y := of(&b)
			return cmp.Compare(y["quorum"], x["quorum"])
		})
		rows, title = rows[:slowest], fmt.Sprintf("slowest %d of %d", slowest, len(fs))
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "  %s\tfrom\tto\tsuspected\tcandidate\telected\tagreed\tfirst ok: quorum\tonce\tleader\tgap: quorum\t\n", title)
	for _, f := range rows {
		first, gap := of(&f)
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", f.Fault, dash(f.OldLeader), dash(f.NewLeader),
			short(f.Suspect), short(f.Candidate), short(f.Elected), short(f.Agreed), short(first["quorum"]), short(first["once"]), short(first["leader"]), short(gap["quorum"]))
	}
	tw.Flush()
	if len(fs) > 1 {
		printDistribution(w, fs)
	}
	fmt.Fprintf(w, "  (times since the injection, by probes about %v apart through the other nodes)\n", fs[0].Resolution.Round(10*time.Microsecond))
}

// printDistribution writes what several failovers have in common.
func printDistribution(w io.Writer, fs []result.Failover) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "  all %d\tn\tmin\tmedian\tp90\tmax\t\n", len(fs))
	row := func(name string, d check.Distribution) {
		if d.N > 0 {
			fmt.Fprintf(tw, "  %s\t%d\t%s\t%s\t%s\t%s\t\n", name, d.N, short(d.Min), short(d.Median), short(d.P90), short(d.Max))
		}
	}
	row("suspected", check.Distribute(fs, func(f *result.Failover) time.Duration { return f.Suspect }))
	row("elected", check.Distribute(fs, func(f *result.Failover) time.Duration { return f.Elected }))
	row("agreed", check.Distribute(fs, func(f *result.Failover) time.Duration { return f.Agreed }))
	for _, g := range check.Gaps(fs) {
		row("first ok: "+g.Level, check.Distribute(fs, func(f *result.Failover) time.Duration {
			i := slices.IndexFunc(f.Levels, func(l result.Recovery) bool { return l.Level == g.Level })
			if i < 0 {
				return 0
			}
			return f.Levels[i].FirstOK
		}))
		row("gap: "+g.Level, g.Distribution)
	}
	tw.Flush()
}

// printLine writes one repetition on one line.
func printLine(w io.Writer, n int, r *result.Run, seed uint64) {
	var parts []string
	for _, e := range r.Exposures {
		parts = append(parts, fmt.Sprintf("%s %d/%d lost", e.Level, e.Lost, e.Acked))
	}
	failovers := r.Failovers
	if len(failovers) > maxRows {
		failovers = nil
		for _, g := range check.Gaps(r.Failovers) {
			parts = append(parts, fmt.Sprintf("gap at %s: %s", g.Level, g))
		}
	}
	for _, f := range failovers {
		s := fmt.Sprintf("elected %s", short(f.Elected))
		for _, l := range f.Levels {
			if l.Level == "quorum" {
				s += ", quorum gap " + short(l.Gap)
			}
		}
		parts = append(parts, s)
	}
	fmt.Fprintf(w, "  %d  seed %d  %s  %s\n", n, seed, verdictOf(r), strings.Join(parts, "  "))
	if r.Verdict != result.Pass {
		for _, reason := range r.Reasons {
			fmt.Fprintf(w, "       %s\n", firstLine(reason))
		}
	}
}

// printSummary writes what all repetitions say together.
func printSummary(w io.Writer, all *result.Run) {
	fmt.Fprintf(w, "all %d: %s\n", len(all.Repeats), verdictOf(all))
	printChecks(w, all)
	if len(all.Failovers) > 0 {
		printDistribution(w, all.Failovers)
	}
}

func short(d time.Duration) string {
	switch {
	case d <= 0:
		return "-"
	case d < time.Second:
		return fmt.Sprintf("%.1fms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2fs", d.Seconds())
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// liveLine shows progress: one line that is written over on a terminal, one
// line every ten seconds elsewhere.
type liveLine struct {
	w        io.Writer
	quiet    bool
	terminal bool
	next     time.Time
	width    int
}

func newLiveLine(w io.Writer, quiet bool) *liveLine {
	l := &liveLine{w: w, quiet: quiet}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		l.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return l
}

const linePause = 10 * time.Second

func (l *liveLine) show(name string, s runner.Status) {
	if l.quiet {
		return
	}
	now := time.Now()
	if !l.terminal {
		if now.Before(l.next) {
			return
		}
		l.next = now.Add(linePause)
	}
	var parts []string
	parts = append(parts, fmt.Sprintf("%s  %s %.1fs of %v", name, s.Phase, s.At.Seconds(), s.Length))
	leader := "no leader"
	var term uint64
	for _, e := range s.Roles {
		if e.Role == result.RoleLeader && e.Term >= term {
			leader, term = fmt.Sprintf("%s leads term %d", e.Node, e.Term), e.Term
		}
	}
	if len(s.Roles) > 0 {
		parts = append(parts, leader)
	}
	if s.OK+s.Fail+s.Inf > 0 {
		parts = append(parts, fmt.Sprintf("ok %d  failed %d  unknown %d", s.OK, s.Fail, s.Inf))
	}
	if len(s.Faults) > 0 {
		parts = append(parts, "now: "+strings.Join(s.Faults, ", "))
	}
	line := strings.Join(parts, "  ")
	if !l.terminal {
		fmt.Fprintln(l.w, line)
		return
	}
	pad := max(0, l.width-len(line))
	l.width = len(line)
	fmt.Fprintf(l.w, "\r%s%s", line, strings.Repeat(" ", pad))
}

// clear removes the line before something else is written.
func (l *liveLine) clear() {
	if l.terminal && l.width > 0 {
		fmt.Fprintf(l.w, "\r%s\r", strings.Repeat(" ", l.width))
		l.width = 0
	}
}

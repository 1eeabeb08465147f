package render

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/hacache/hacache/reports/result"
)

// Markdown writes a short summary of r for a terminal or the log of a CI job: verdict, checks, the load in numbers and
// the failovers. The page has the rest.
func Markdown(w io.Writer, r *result.Run) error {
	bw := bufio.NewWriter(w) // keeps the first error until Flush
	line := func(format string, args ...any) { fmt.Fprintf(bw, format+"\n", args...) }
	row := func(cells ...string) {
		for i := range cells {
			cells[i] = escapeMarkdown(cells[i])
		}
		line("| %s |", strings.Join(cells, " | "))
	}
	head := func(align string, cells ...string) {
		row(cells...)
		rules := make([]string, len(align))
		for i, a := range align {
			rules[i] = map[rune]string{'l': "---", 'r': "---:"}[a]
		}
		line("| %s |", strings.Join(rules, " | "))
	}
	p := newPage(r, pictures{})
	line("# %s %s: %s", p.Verdict.Sign, strings.ToUpper(p.Verdict.Word), escapeMarkdown(r.Name))
	line("")
	line("%s %s", p.Headline, escapeMarkdown(r.About))
	line("")
	line("%s", escapeMarkdown(p.Meta))
	for _, group := range []struct {
		name  string
		items []string
	}{{"", p.Reasons}, {"Read the numbers with this in mind:", r.Warnings}, {"Missing from this run:", p.Missing}} {
		if len(group.items) == 0 {
			continue
		}
		line("")
		if group.name != "" {
			line("%s", group.name)
			line("")
		}
		for _, s := range group.items {
			line("- %s", escapeMarkdown(s))
		}
	}
	if p.Command != "" {
		line("\n```\n%s\n```", strings.ReplaceAll(p.Command, "```", "'''"))
	}
	if len(p.Tiles) > 0 {
		line("")
		head("lrl", "", "", "")
		for _, t := range p.Tiles {
			row(t.Label, t.Value, t.Note)
		}
	}
	for i, g := range p.Peers {
		if i == 0 {
			line("\n## Side by side\n\n%s", strings.Join(p.PeerNotes, " "))
		}
		line("\n### %s\n", escapeMarkdown(g.Load))
		head("llrrrrrrr", "system", "operation", "ops/s", "of all rounds", "to echo", "p50", "to echo", "p99", "processor time")
		for _, r := range g.Rows {
			row(r.System, r.Operation, r.Rate, r.Spread, r.ToEcho, r.P50, r.P50ToEcho, r.P99, r.CPU)
		}
	}
	if len(p.Checks) > 0 {
		line("\n## Checks\n")
		head("llrrl", "check", "verdict", "violations", "looked at", "what was found")
		for _, c := range p.Checks {
			row(c.Name, c.Verdict.Sign+" "+c.Verdict.Word, c.Count, c.Checked, c.Detail)
		}
	}
	if len(r.Thresholds) > 0 {
		line("\n## Thresholds\n")
		head("llrl", "metric", "limit", "measured", "met")
		for _, t := range r.Thresholds {
			row(t.Metric, t.Expr, t.Got, map[bool]string{true: "✓ yes", false: "✕ no"}[t.Met])
		}
	}
	if len(p.Failovers) > 0 {
		line("\n## Failover\n")
		cells, align := []string{"failover", "suspected", "elected", "all agree"}, "lrrr"
		for _, l := range p.Levels {
			cells, align = append(cells, "first ok, "+l, "gap, "+l), align+"rr"
		}
		head(align, cells...)
		for _, f := range p.Failovers {
			cells := []string{f.Name, f.Suspect, f.Elected, f.Agreed}
			for i := range p.Levels {
				cells = append(cells, f.FirstOK[i], f.Gap[i])
			}
			row(cells...)
		}
	}
	if len(p.Exposures) > 0 {
		line("\n## Lost writes\n")
		head("lrrrr", "level", "acknowledged", "lost", "of these allowed", "loss window")
		for _, e := range p.Exposures {
			row(e.Level, e.Acked, e.Lost, e.Allowed, e.Window)
		}
	}
	for i, l := range p.Losses {
		if i == 0 {
			line("")
		}
		if i == mostStories {
			line("- and more, in report.html")
			break
		}
		line("- %s: %s", l.Kind+map[bool]string{true: ", allowed"}[l.Allowed], escapeMarkdown(l.Story))
	}
	if len(p.Numbers) > 0 {
		line("\n## Load in numbers\n")
		head("llrrrrrrrr", "phase", "operation", "ok/s", "ok", "fail", "info", "missed", "p50", "p99", "max")
		phase := ""
		for _, n := range p.Numbers {
			if n.Group != "" {
				phase = n.Group
				continue
			}
			name, p50, p99, top := n.Name, n.Response[0], n.Response[2], n.Response[4]
			if n.Flag != "" {
				name += " (" + n.Flag + ")"
			}
			if strings.HasPrefix(n.Flag, "closed loop") {
				p50, p99, top = n.Service[0], n.Service[1], none
			}
			row(cmp.Or(n.Phase, phase), name, n.Throughput, n.OK, n.Fail, n.Info, n.Missed, p50, p99, top)
		}
	}
	return bw.Flush()
}

// mostStories is how many losses are told one by one.
const mostStories = 10

// escapeMarkdown keeps s on one line and out of the way of tables, HTML and emphasis.
func escapeMarkdown(s string) string {
	return strings.NewReplacer("\n", " ", "\r", " ", `\`, `\\`, "|", `\|`, "<", "&lt;", ">", "&gt;", "`", "'", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`).Replace(s)
}

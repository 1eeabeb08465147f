package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hacache/hacache/reports/result"
)

// printTable writes the table of a run: one line for each phase, operation and
// level.
func printTable(w io.Writer, r *result.Run) {
	printHead(w, r)
	open, closed, marked := false, false, false
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "\nphase\toperation\toffered/s\tok/s\tnot ok\tp50\tp90\tp99\tp99.9\tmax\tservice p50\tp99\t\n")
	for i := range r.Series {
		s := &r.Series[i]
		offered := "closed"
		if !s.Closed {
			offered = rate(s.Offered)
			open = true
		} else {
			closed = true
		}
		mark := ""
		switch {
		case s.Limited:
			mark, marked = " *", true
		case s.Saturated:
			mark, marked = " **", true
		}
		c := s.Counts
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			dash(s.Phase), strings.TrimSpace(s.Op+" "+s.Level), offered, rate(s.Throughput), c.Intended-c.OK,
			round(s.Response.P50), round(s.Response.P90), round(s.Response.P99), round(s.Response.P999), round(s.Response.Max),
			round(s.Service.P50), round(s.Service.P99), mark)
	}
	tw.Flush()
	if open {
		fmt.Fprintln(w, "open loop: p50 to max are response times, from when the operation was intended")
	}
	if closed {
		fmt.Fprintln(w, "closed loop: service times of as many operations as are kept in flight; they say nothing about a fixed demand")
	}
	if marked {
		fmt.Fprintln(w, "* the generator was the limit, ** the target was: these are no latencies of the target at that rate")
	}
	printTail(w, r)
}

// printHead says what ran where, and how it ended.
func printHead(w io.Writer, r *result.Run) {
	fmt.Fprintf(w, "%s, %s: %s\n", r.Name, r.Duration.Round(100*time.Millisecond), verdict(r))
	if e := r.Environment; e != nil {
		fmt.Fprintf(w, "%d nodes, %d cores, %s, seed %d\n", len(r.Nodes), e.Cores, e.CPUModel, e.Seed)
	}
}

// printTail says what a reader has to know beside the numbers.
func printTail(w io.Writer, r *result.Run) {
	for _, t := range r.Thresholds {
		met := "kept"
		if !t.Met {
			met = "MISSED"
		}
		fmt.Fprintf(w, "threshold %s: %s: %s, %s\n", t.Metric, t.Expr, met, t.Got)
	}
	for _, s := range r.Warnings {
		fmt.Fprintln(w, "warning:", s)
	}
	for _, c := range r.Checks {
		if c.Verdict != result.Pass {
			fmt.Fprintf(w, "%s: %s: %s\n", c.Name, c.Verdict, c.Detail)
		}
	}
}

func verdict(r *result.Run) string {
	v := strings.ToUpper(string(r.Verdict))
	if r.Interrupted != "" {
		v += ", interrupted by " + r.Interrupted
	}
	if r.Failure != "" {
		v += ", " + strings.SplitN(r.Failure, "\n", 2)[0]
	}
	return v
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func rate(perSecond float64) string { return fmt.Sprintf("%.0f", perSecond) }

// round shortens a duration to three digits; 0, which is "not reported", is a
// dash.
func round(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d < time.Millisecond:
		return fmt.Sprintf("%dµs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2fms", d.Seconds()*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.1fms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.2fs", d.Seconds())
}

// liveLine shows progress: one line that is overwritten on a terminal, one line
// every ten seconds elsewhere.
type liveLine struct {
	w     io.Writer
	quiet bool
	tty   bool
	begin time.Time

	mu    sync.Mutex
	name  string
	last  time.Time
	drawn bool
}

func newLiveLine(w io.Writer, quiet bool) *liveLine {
	l := &liveLine{w: w, quiet: quiet, begin: time.Now(), last: time.Now()}
	if f, ok := w.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		l.tty = err == nil
	}
	return l
}

// phase names what is being done.
func (l *liveLine) phase(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.name = name
}

// note shows a line of text, on a terminal only.
func (l *liveLine) note(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tty && !l.quiet {
		l.draw(text)
	}
}

// interval shows the rows of one interval.
func (l *liveLine) interval(rows []result.Interval) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.quiet || len(rows) == 0 || !l.tty && time.Since(l.last) < 10*time.Second {
		return
	}
	l.last = time.Now()
	var b strings.Builder
	fmt.Fprintf(&b, "%4.0fs", time.Since(l.begin).Seconds())
	if l.name != "" {
		fmt.Fprintf(&b, "  %s", l.name)
	}
	for _, r := range rows {
		fmt.Fprintf(&b, "  %s: %.0f/s", strings.TrimSpace(r.Op+" "+r.Level), float64(r.OK)/max(r.Width.Seconds(), 1e-3))
		if r.P99 > 0 {
			fmt.Fprintf(&b, " p99 %s", round(r.P99))
		}
		if bad := r.Fail + r.Info + r.Missed; bad > 0 {
			fmt.Fprintf(&b, " not ok %d", bad)
		}
	}
	l.draw(b.String())
}

// draw writes a line. mu is held.
func (l *liveLine) draw(text string) {
	if !l.tty {
		fmt.Fprintln(l.w, text)
		return
	}
	if r := []rune(text); len(r) > 118 {
		text = string(r[:118])
	}
	fmt.Fprintf(l.w, "\r%s\x1b[K", text)
	l.drawn = true
}

// clear removes the line from a terminal.
func (l *liveLine) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.drawn {
		fmt.Fprint(l.w, "\r\x1b[K")
		l.drawn = false
	}
}

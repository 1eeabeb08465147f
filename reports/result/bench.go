package result

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

// EncodeBench writes the series of r in the format of Go benchmarks, with the Unit lines that tell benchstat which way
// is better. One line a series: the number of oks, the mean service time as ns/op, percentiles of the response time,
// throughput and the share of operations that were not ok. Series without an ok have no line; those for which the
// generator was the limit, or that were saturated, have no latencies: they are no property of the target, and must not be
// compared.
func EncodeBench(w io.Writer, r *Run) error {
	bw := bufio.NewWriter(w)
	line := func(format string, args ...any) { fmt.Fprintf(bw, format+"\n", args...) } // bufio keeps the first error
	if e := r.Environment; e != nil {
		line("goos: %s", e.OS)
		line("goarch: %s", e.Arch)
		if e.CPUModel != "" {
			line("cpu: %s", e.CPUModel)
		}
		line("commit: %s", e.ShortCommit())
		line("seed: %d", e.Seed)
	}
	line("pkg: github.com/hacache/hacache")
	line("run: %s", r.Name)
	line("kind: %s", r.Kind)
	for _, u := range []string{
		"ns/op better=lower", "p50-ns better=lower", "p90-ns better=lower", "p99-ns better=lower", "p99.9-ns better=lower",
		"max-ns better=lower", "ok/s better=higher", "not-ok-ratio better=lower",
	} {
		line("Unit %s", u)
	}
	for i := range r.Series {
		s := &r.Series[i]
		if s.Counts.OK == 0 {
			continue
		}
		fmt.Fprintf(bw, "Benchmark%s", benchWord(s.Op, true))
		for _, kv := range [][2]string{{"level", s.Level}, {"phase", s.Phase}, {"loop", map[bool]string{true: "closed"}[s.Closed]}} {
			if kv[1] != "" {
				fmt.Fprintf(bw, "/%s=%s", kv[0], benchWord(kv[1], false))
			}
		}
		fmt.Fprintf(bw, " %d", s.Counts.OK)
		response := s.Response
		if s.Limited || s.Saturated {
			response = Latency{}
		} else {
			fmt.Fprintf(bw, " %d ns/op", s.Service.Mean.Nanoseconds())
		}
		for _, p := range []struct {
			unit  string
			value time.Duration
		}{
			{"p50-ns", response.P50},
			{"p90-ns", response.P90},
			{"p99-ns", response.P99},
			{"p99.9-ns", response.P999},
			{"max-ns", response.Max},
		} {
			if p.value > 0 {
				fmt.Fprintf(bw, " %d %s", p.value.Nanoseconds(), p.unit)
			}
		}
		line(" %.6g ok/s %.6g not-ok-ratio", s.Throughput, 1-float64(s.Counts.OK)/float64(s.Counts.Intended))
	}
	return bw.Flush()
}

// benchWord makes s fit for a benchmark name: letters, digits, dots and underscores, and a capital in front if wanted.
func benchWord(s string, capital bool) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsLetter(c) || unicode.IsDigit(c) || c == '.' {
			return c
		}
		return '_'
	}, s)
	if capital && s != "" {
		s = strings.ToUpper(s[:1]) + s[1:]
	}
	return s
}

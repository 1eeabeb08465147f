package result

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Distribution says what the values of a histogram are.
type Distribution struct {
	Phase, Op, Level string // of the series they belong to, see [Series]
	Outcome          string // OutcomeOK, OutcomeFail or OutcomeInfo
	Quantity         string // Response, Service or Lag
}

// Outcomes that are kept apart. What was unfinished at the end is with the
// infos: nobody knows of either.
const (
	OutcomeOK   = "ok"
	OutcomeFail = "fail"
	OutcomeInfo = "info"
)

// Quantities that are measured of each operation.
const (
	QuantityResponse = "response" // return - intended
	QuantityService  = "service"  // return - send
	QuantityLag      = "lag"      // send - intended
)

// Histogram is a distribution in a stretch of the run. Its values are
// nanoseconds.
type Histogram struct {
	Distribution
	From, To time.Duration // since the start of the run; whole milliseconds in a file
	*hdrhistogram.Histogram
}

// Tag names the distribution where commas and blanks have a meaning:
// phase/op/level/outcome/quantity, with a dash for what is empty and anything
// but letters, digits, dots and underscores as %XX.
func (d Distribution) Tag() string {
	parts := []string{d.Phase, d.Op, d.Level, d.Outcome, d.Quantity}
	for i, p := range parts {
		parts[i] = tagPart(p)
	}
	return strings.Join(parts, "/")
}

func tagPart(s string) string {
	if s == "" {
		return "-"
	}
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// parseTag reads what Tag wrote.
func parseTag(tag string) (Distribution, error) {
	parts := strings.Split(tag, "/")
	if len(parts) != 5 {
		return Distribution{}, fmt.Errorf("tag %q, expected phase/op/level/outcome/quantity", tag)
	}
	for i, p := range parts {
		text, err := url.PathUnescape(p)
		if err != nil {
			return Distribution{}, fmt.Errorf("tag %q: %w", tag, err)
		}
		if parts[i] = text; p == "-" {
			parts[i] = ""
		}
	}
	return Distribution{parts[0], parts[1], parts[2], parts[3], parts[4]}, nil
}

// LogWriter writes histograms in the log format of HdrHistogram, version 1.3,
// which its own tools read. It is used by one goroutine.
type LogWriter struct {
	log *hdrhistogram.HistogramLogWriter
	err error
}

// NewLogWriter writes the head of the log: times in it are relative to started.
func NewLogWriter(w io.Writer, started time.Time) *LogWriter {
	l := &LogWriter{log: hdrhistogram.NewHistogramLogWriter(w)}
	l.err = errors.Join(l.log.OutputLogFormatVersion(), l.log.OutputStartTime(started.UnixMilli()), l.log.OutputLegend())
	return l
}

// Write appends a line. It changes the tag and times of the histogram.
func (l *LogWriter) Write(h Histogram) {
	if l.err != nil {
		return
	}
	h.SetTag(h.Tag())
	h.SetStartTimeMs(h.From.Milliseconds())
	h.SetEndTimeMs(h.To.Milliseconds())
	l.err = l.log.OutputIntervalHistogram(h.Histogram)
}

// Tag is that of the distribution, not the one that the histogram carries.
func (h Histogram) Tag() string { return h.Distribution.Tag() }

// Err is the first error of writing.
func (l *LogWriter) Err() error { return l.err }

// ReadHistograms reads a log that a [LogWriter] wrote. An error begins with
// name and the line. A last line without its newline is what a killed writer
// leaves behind; it is dropped.
func ReadHistograms(r io.Reader, name string) ([]Histogram, error) {
	var all []Histogram
	br := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := br.ReadString('\n')
		switch {
		case err == io.EOF:
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		case line[0] == '#' || line[0] == '"' || line == "\n":
			continue
		}
		h, err := readHistogram(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		all = append(all, h)
	}
}

// readHistogram reads "Tag=tag,start,length,max,payload", times in seconds.
func readHistogram(line string) (h Histogram, err error) {
	fields := strings.Split(line, ",")
	tag, tagged := strings.CutPrefix(fields[0], "Tag=")
	if len(fields) != 5 || !tagged {
		return h, fmt.Errorf("%d fields, expected Tag=…, start, length, maximum and histogram", len(fields))
	}
	if h.Distribution, err = parseTag(tag); err != nil {
		return h, err
	}
	seconds := func(s string) (time.Duration, error) {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || !(v >= 0) || v > 1e9 {
			return 0, fmt.Errorf("time %q, expected seconds", s)
		}
		return time.Duration(math.Round(v*1e3)) * time.Millisecond, nil
	}
	from, err1 := seconds(fields[1])
	length, err2 := seconds(fields[2])
	if err := errors.Join(err1, err2); err != nil {
		return h, err
	}
	h.From, h.To = from, from+length
	if h.Histogram, err = hdrhistogram.Decode([]byte(fields[4])); err != nil {
		return h, fmt.Errorf("histogram: %w", err)
	}
	return h, nil
}

// Percentiles is the distribution as HdrHistogram's tools plot it (.hgrm), in
// milliseconds.
func (h Histogram) Percentiles() []byte {
	var b bytes.Buffer
	if _, err := h.PercentilesPrint(&b, 5, 1e6); err != nil {
		panic(fmt.Sprintf("result: writing to memory failed: %v", err))
	}
	return b.Bytes()
}

// Quantiles of a histogram, in growing order of qs; 0 for those that have too
// few samples beyond them to be reported.
func Quantiles(h *hdrhistogram.Histogram, qs ...float64) []time.Duration {
	out := make([]time.Duration, len(qs))
	if h == nil || h.TotalCount() == 0 {
		return out
	}
	percent := make([]float64, len(qs))
	for i, q := range qs {
		percent[i] = q * 100
	}
	for i, v := range h.ValueAtPercentilesSlice(percent) {
		if Reportable(qs[i], h.TotalCount()) {
			out[i] = time.Duration(v)
		}
	}
	return out
}

// LatencyOf is the usual percentiles of a histogram; nil has none.
func LatencyOf(h *hdrhistogram.Histogram) Latency {
	if h == nil || h.TotalCount() == 0 {
		return Latency{}
	}
	q := Quantiles(h, 0.5, 0.9, 0.99, 0.999)
	return Latency{
		Count: h.TotalCount(), Mean: time.Duration(math.Round(h.Mean())),
		P50: q[0], P90: q[1], P99: q[2], P999: q[3], Max: time.Duration(h.Max()),
	}
}

// Measure sets what the series says of its latencies from their distributions;
// nil stands for an empty one.
func (s *Series) Measure(get func(outcome, quantity string) *hdrhistogram.Histogram) {
	s.Response = LatencyOf(get(OutcomeOK, QuantityResponse))
	s.Service = LatencyOf(get(OutcomeOK, QuantityService))
	s.Failed = LatencyOf(get(OutcomeFail, QuantityResponse))
	s.Waited = LatencyOf(get(OutcomeInfo, QuantityResponse))
	s.Lag = LatencyOf(SumOf(get(OutcomeOK, QuantityLag), get(OutcomeFail, QuantityLag), get(OutcomeInfo, QuantityLag)))
	s.Spectrum = nil
	if s.Counts.OK == 0 {
		return
	}
	qs := SpectrumQuantiles(s.Counts.OK)
	response := Quantiles(get(OutcomeOK, QuantityResponse), qs...)
	service := Quantiles(get(OutcomeOK, QuantityService), qs...)
	for i, q := range qs {
		s.Spectrum = append(s.Spectrum, Point{Q: q, Response: response[i], Service: service[i]})
	}
}

// SumOf adds histograms up: exactly, since they count in the same buckets. nil
// ones are left out; nil is the sum of none. It may return one of them.
func SumOf(hs ...*hdrhistogram.Histogram) *hdrhistogram.Histogram {
	var sum *hdrhistogram.Histogram
	own := false
	for _, h := range hs {
		switch {
		case h == nil || h.TotalCount() == 0:
		case sum == nil:
			sum = h
		case !own:
			sum, own = sum.Clone(), true
			sum.Merge(h)
		default:
			sum.Merge(h)
		}
	}
	return sum
}

// WriteDistributions writes the histograms into the run directory dir, as
// [WriteTotals] and [WritePercentiles] do. It returns the files.
func WriteDistributions(dir string, started time.Time, hs []Histogram) ([]File, error) {
	totals, err := WriteTotals(dir, started, hs)
	if err != nil {
		return nil, err
	}
	percentiles, err := WritePercentiles(dir, hs)
	return append([]File{totals}, percentiles...), err
}

// WriteTotals writes totals.hlog, from which the histograms can be read back and
// merged.
func WriteTotals(dir string, started time.Time, hs []Histogram) (File, error) {
	var log bytes.Buffer
	w := NewLogWriter(&log, started)
	for _, h := range hs {
		w.Write(h)
	}
	if err := w.Err(); err != nil {
		return File{}, fmt.Errorf("write %s: %w", TotalsFile, err)
	}
	return File{Path: TotalsFile, About: "histograms of each phase (HdrHistogram log, ns)"}, ReplaceFile(filepath.Join(dir, TotalsFile), log.Bytes())
}

// WritePercentiles writes a .hgrm for each response time, and for each service
// time of oks.
func WritePercentiles(dir string, hs []Histogram) ([]File, error) {
	var files []File
	taken := map[string]bool{}
	for _, h := range hs {
		if h.Quantity == QuantityLag || h.Quantity == QuantityService && h.Outcome != OutcomeOK {
			continue
		}
		name := h.fileName()
		for n := 2; taken[name]; n++ {
			name = fmt.Sprintf("%s-%d", h.fileName(), n)
		}
		taken[name] = true
		name += PercentilesExt
		if err := ReplaceFile(filepath.Join(dir, name), h.Percentiles()); err != nil {
			return files, err
		}
		files = append(files, File{Path: name, About: "percentile distribution in ms"})
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// fileName is phase-op-level, and what is not the response time of oks behind
// it.
func (h Histogram) fileName() string {
	s := Series{Phase: h.Phase, Op: h.Op, Level: h.Level}
	name := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' {
			return c
		}
		return '-'
	}, s.ID())
	name = strings.TrimLeft(name, ".-")
	if h.Outcome != OutcomeOK {
		name += "." + h.Outcome
	}
	if h.Quantity != QuantityResponse {
		name += "." + h.Quantity
	}
	return name
}

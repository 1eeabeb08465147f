package result

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"
)

// referenceJar is where Debian's libhdrhistogram-java puts HdrHistogram by its
// author, whose tools define what the formats mean.
const referenceJar = "/usr/share/java/hdrhistogram.jar"

// reference runs HdrHistogram's own log processor.
func reference(t *testing.T, args ...string) string {
	t.Helper()
	java, err := exec.LookPath("java")
	if err != nil {
		t.Skip("no java; install default-jre-headless and libhdrhistogram-java to check the files with the reference reader")
	}
	if _, err := os.Stat(referenceJar); errors.Is(err, fs.ErrNotExist) {
		t.Skip("no " + referenceJar + "; install libhdrhistogram-java to check the files with the reference reader")
	}
	cmd := exec.CommandContext(t.Context(), java, append([]string{"-Xshare:auto", "-cp", referenceJar, "org.HdrHistogram.HistogramLogProcessor"}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, errs.String())
	}
	return string(out)
}

// Our logs, read by the reference reader, hold what was written: it finds each
// tag, and the percentile file that it makes of a tag, all of its intervals
// added up, is the .hgrm that we write, number for number: values, percentiles,
// counts, mean, deviation and maximum.
func TestReferenceReader(t *testing.T) {
	dir := t.TempDir()
	started := time.Unix(1_700_000_000, 0)
	rng := rand.New(rand.NewPCG(1, 2))
	var log bytes.Buffer
	w := NewLogWriter(&log, started)
	var totals []Histogram
	for _, d := range []Distribution{
		{"", "get", "", OutcomeOK, QuantityResponse},
		{"fixed rate, 5/s", "insert", "quorum", OutcomeOK, QuantityResponse},
		{"fixed rate, 5/s", "insert", "quorum", OutcomeInfo, QuantityResponse},
	} {
		total := hdrhistogram.New(1000, 60e9, 3)
		for second := range time.Duration(4) {
			part := hdrhistogram.New(1000, 60e9, 3)
			for range 500 {
				v := int64(1000 * (1 + rng.ExpFloat64()*float64(int64(1)<<rng.IntN(20))))
				if err := part.RecordValue(min(v, 60e9)); err != nil {
					t.Fatal(err)
				}
			}
			part.RecordValue([]int64{1000, 60e9, 1001, 59_999_999_999}[second]) // the ends of the range
			w.Write(Histogram{Distribution: d, From: second * time.Second, To: (second + 1) * time.Second, Histogram: part})
			total.Merge(part)
		}
		totals = append(totals, Histogram{Distribution: d, To: 4 * time.Second, Histogram: total})
	}
	if w.Err() != nil {
		t.Fatal(w.Err())
	}
	intervals := filepath.Join(dir, HistogramLogFile)
	if err := os.WriteFile(intervals, log.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteDistributions(dir, started, totals); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, h := range totals {
		want = append(want, h.Tag())
	}
	slices.Sort(want)
	for _, name := range []string{intervals, filepath.Join(dir, TotalsFile)} {
		var tags []string
		for line := range strings.Lines(reference(t, "-i", name, "-listtags")) {
			if tag := strings.TrimSpace(line); strings.Count(tag, "/") == 4 {
				tags = append(tags, tag)
			}
		}
		slices.Sort(tags)
		if diff := cmp.Diff(want, tags); diff != "" {
			t.Errorf("%s: tags (-written +read):\n%s", name, diff)
		}
		for _, h := range totals {
			out := filepath.Join(dir, "reference")
			reference(t, "-i", name, "-tag", h.Tag(), "-o", out, "-outputValueUnitRatio", "1000000")
			theirs, err := os.ReadFile(out + PercentilesExt)
			if err != nil {
				t.Fatal(err)
			}
			ours := percentileNumbers(string(h.Percentiles()))
			if diff := cmp.Diff(ours, percentileNumbers(string(theirs))); diff != "" || len(ours) < 50 {
				t.Errorf("%s: %s: %d rows (-ours +reference):\n%s", name, h.Tag(), len(ours), diff)
			}
		}
	}
}

// percentileNumbers is the fields of a .hgrm as far as both print them: of
// percentiles we write six digits after the point and the reference twelve, and
// it leaves out the inverse of zero where we write inf.
func percentileNumbers(text string) (rows [][]string) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 3 || strings.HasPrefix(line, "#[Overall") || strings.HasPrefix(line, "#[StartTime") || fields[0] == "Value" {
			continue
		}
		if percentile, err := strconv.ParseFloat(fields[1], 64); err == nil {
			fields[1] = fmt.Sprintf("%.6f", percentile)
		}
		if last := len(fields) - 1; fields[last] == "inf" {
			fields = fields[:last]
		}
		rows = append(rows, fields)
	}
	return rows
}

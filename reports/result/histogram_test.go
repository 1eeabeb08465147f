package result

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"pgregory.net/rapid"
)

func histogramOf(values ...int64) *hdrhistogram.Histogram {
	h := hdrhistogram.New(1000, 60e9, 3)
	for _, v := range values {
		h.RecordValue(v)
	}
	return h
}

// Any distribution is named so that its name says it, and what is written to a
// log is read back: the same counts, names and times to the millisecond.
func TestHistogramsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want []Histogram
		var log bytes.Buffer
		w := NewLogWriter(&log, time.Unix(1_700_000_000, 0))
		for range rapid.IntRange(0, 4).Draw(t, "lines") {
			h := Histogram{
				Distribution: Distribution{rapid.String().Draw(t, "phase"), "insert", rapid.SampledFrom([]string{"", "quorum"}).Draw(t, "level"), OutcomeOK, QuantityLag},
				From:         time.Duration(rapid.IntRange(0, 1e8).Draw(t, "from")) * time.Millisecond,
				Histogram:    histogramOf(rapid.SliceOf(rapid.Int64Range(1000, 60e9)).Draw(t, "values")...),
			}
			h.To = h.From + time.Duration(rapid.IntRange(0, 1e6).Draw(t, "length"))*time.Millisecond
			want = append(want, h)
			w.Write(h)
		}
		if w.Err() != nil {
			t.Fatal(w.Err())
		}
		text := log.String()
		got, err := ReadHistograms(strings.NewReader(text+"Tag=cut"), "f")
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d of %d read: %v\n%s", len(got), len(want), err, text)
		}
		for i := range want {
			if got[i].Distribution != want[i].Distribution || got[i].From != want[i].From || got[i].To != want[i].To || !got[i].Equals(want[i].Histogram) {
				t.Fatalf("got %+v, want %+v", got[i], want[i])
			}
		}
	})
}

// A damaged log is an error with its line.
func TestReadHistogramsMistakes(t *testing.T) {
	good := "#x\n\"y\"\n"
	for line, want := range map[string]string{
		"0.1,1.0,2.0,HIST\n": "f:3: 4 fields", "Tag=a/b,0,1,2,HIST\n": `f:3: tag "a/b"`, "Tag=a/b/c/d/%zz,0,1,2,HIST\n": "f:3: tag",
		"Tag=a/b/c/d/e,x,1,2,HIST\n": `f:3: time "x"`, "Tag=a/b/c/d/e,0,-1,2,HIST\n": `f:3: time "-1"`, "Tag=a/b/c/d/e,0,1,2,HIST\n": "f:3: histogram:",
	} {
		if _, err := ReadHistograms(strings.NewReader(good+line), "f"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", line, err, want)
		}
	}
}

// A .hgrm file is lines of value, quantile, count and 1/(1-quantile) as
// HdrHistogram publishes the format: every value is that of its quantile, the
// counts are those of all samples up to it, and the last one is of all of them.
func TestPercentileFiles(t *testing.T) {
	dir := t.TempDir()
	var values []int64
	for i := range int64(5000) {
		values = append(values, 1_000_000+i*7919)
	}
	h := histogramOf(values...)
	of := func(phase, outcome, quantity string) Histogram {
		return Histogram{Distribution: Distribution{phase, "insert", "quorum", outcome, quantity}, Histogram: h}
	}
	files, err := WriteDistributions(dir, time.Unix(1_700_000_000, 0), []Histogram{
		of("", OutcomeOK, QuantityResponse), of("", OutcomeOK, QuantityService), of("", OutcomeOK, QuantityLag), of("", OutcomeFail, QuantityResponse),
		of("fixed rate, 5", OutcomeOK, QuantityResponse), of("fixed rate/ 5", OutcomeOK, QuantityResponse),
	})
	var names []string
	for _, f := range files {
		names = append(names, f.Path)
	}
	if want := "[totals.hlog fixed-rate--5-insert-quorum-2.hgrm fixed-rate--5-insert-quorum.hgrm insert-quorum.fail.hgrm insert-quorum.hgrm insert-quorum.service.hgrm]"; err != nil || fmt.Sprint(names) != want {
		t.Fatalf("%v: got %v, want %v", err, names, want)
	}
	text, err := os.ReadFile(filepath.Join(dir, "insert-quorum.hgrm"))
	if err != nil {
		t.Fatal(err)
	}
	lines, last := 0, int64(0)
	for line := range strings.Lines(string(text)) {
		var value, q, inverse float64
		var count int64
		n, _ := fmt.Sscan(line, &value, &q, &count, &inverse)
		if n < 3 {
			continue // the heading and the summary
		}
		lines++
		want := float64(h.ValueAtPercentile(q*100)) / 1e6
		if math.Abs(value-want) > want/500 {
			t.Errorf("quantile %g: %g, want %g", q, value, want)
		}
		upTo := int64(0)
		for _, v := range values {
			if float64(v)/1e6 <= value*(1+1e-3) {
				upTo++
			}
		}
		if count < last || math.Abs(float64(count-upTo)) > 15 {
			t.Errorf("quantile %g: count %d, want about %d", q, count, upTo)
		}
		if n == 4 && math.Abs(inverse-1/(1-q)) > inverse/100 {
			t.Errorf("quantile %g: inverse %g", q, inverse)
		}
		last = count
	}
	if lines < 20 || last != 5000 {
		t.Errorf("%d lines, last count %d\n%s", lines, last, text)
	}
}

// Nothing that stands in a log makes the reader panic, and what it reads can be
// written again.
func FuzzReadHistograms(f *testing.F) {
	var log bytes.Buffer
	w := NewLogWriter(&log, time.Unix(1_700_000_000, 0))
	w.Write(Histogram{Distribution: Distribution{"a b", "insert", "quorum", OutcomeOK, QuantityLag}, To: time.Second, Histogram: histogramOf(1000, 5000, 60e9)})
	f.Add(log.String())
	f.Add("Tag=a/b/c/d/e,0,1,2,HISTFAAAABV4\n")
	f.Fuzz(func(t *testing.T, text string) {
		hs, err := ReadHistograms(strings.NewReader(text), "f")
		if err != nil {
			return
		}
		var again bytes.Buffer
		w := NewLogWriter(&again, time.Unix(1_700_000_000, 0))
		for _, h := range hs {
			w.Write(h)
		}
		back, err := ReadHistograms(&again, "g")
		if w.Err() != nil || err != nil || len(back) != len(hs) {
			t.Fatalf("%v, %v: %d of %d", w.Err(), err, len(back), len(hs))
		}
	})
}

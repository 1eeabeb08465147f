package load

import (
	"strconv"
	"strings"
	"testing"
)

// Whatever is typed, the parsers of flags neither panic nor take it for
// something that they would not write themselves: what they read is written, read
// again and the same.
func FuzzParsers(f *testing.F) {
	for _, text := range []string{
		"poisson stages(from:500,10s:20k:step,1m:0:sine)", "burst(1s:20k,4s:500)", "constant(2.5k/s)", "insert{phase:b,time:lag}: p(99.9) < 20ms, abort after 1s",
		"errors < 0.1 %", "p99<5ms", "hotspot(80%,20%)", "exponential(5)", "zipf(0.99)", "100=9,4KiB=1", "lognormal(1KiB,1.2)", "64-4096", "2/8", "get=90,insert=10", "quorum=70,once=10,leader=20", "get=1e308,put=1e308", "20k", "0.001", "18446744073709551615", "12.5ms\n0.5",
		"constant(1e-10)", "stages(99999999h:1)", "burst(1000h:1e9,1ns:0.001)", "poisson stages(1ns:1e9:step,1000h:0.001)",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		again := func(name, written string, err error, read func(string) (string, error)) {
			t.Helper()
			if err != nil {
				return
			}
			if got, err := read(written); err != nil || got != written {
				t.Errorf("%s %q is written as %q, read again as %q, %v", name, text, written, got, err)
			}
		}
		if !strings.Contains(text, "replay") { // which opens files
			read := func(s string) (string, error) {
				p, err := ParseSchedule(s, 0)
				if err != nil {
					return "", err
				}
				n := 0
				last := int64(-1)
				for at := range p.Times(1) {
					if int64(at) < last || at < 0 {
						t.Fatalf("%q: %d after %d", s, at, last)
					}
					last = int64(at)
					if n++; n == 50 {
						break
					}
				}
				return p.String(), nil
			}
			first, err := read(text)
			again("schedule", first, err, read)
		}
		threshold := func(s string) (string, error) {
			th, err := ParseThreshold(s)
			return th.String(), err
		}
		first, err := threshold(text)
		again("threshold", first, err, threshold)
		dist := func(s string) (string, error) {
			d, err := ParseKeyDist(s)
			return d.String(), err
		}
		first, err = dist(text)
		again("key distribution", first, err, dist)
		sizes := func(s string) (string, error) {
			d, err := ParseSizes(s)
			if err == nil {
				_, err = newSizes(d)
			}
			return d.String(), err
		}
		first, err = sizes(text)
		again("sizes", first, err, sizes)
		mix := func(s string) (string, error) {
			w, err := ParseMix(s)
			return FormatWeights(w), err
		}
		first, err = mix(text)
		again("mix", first, err, mix)
		acks := func(s string) (string, error) {
			w, err := ParseAcks(s)
			return FormatWeights(w), err
		}
		first, err = acks(text)
		again("ack levels", first, err, acks)
		if rate, err := ParseRate(text); err == nil && !(rate == 0 || rate >= 0.001 && rate <= 1e9) {
			t.Errorf("rate %q: %g", text, rate)
		}
		if n, err := ParseCount(text); err == nil {
			if again, err := ParseCount(strconv.FormatUint(n, 10)); err != nil || again != n {
				t.Errorf("count %q: %d, again %d, %v", text, n, again, err)
			}
		}
		segment := func(s string) (string, error) {
			d, err := ParseSegment(s)
			return d.String(), err
		}
		first, err = segment(text)
		again("segment", first, err, segment)
		if r, err := ReadReplay(strings.NewReader(text), "f"); err == nil && r.Span() <= r.At[len(r.At)-1] {
			t.Errorf("replay %q: span %s", text, r.Span())
		}
	})
}

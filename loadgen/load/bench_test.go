package load

import (
	"testing"
	"time"
)

// The generator alone, in a closed loop on one stream: what it could offer at
// most on one core.
func BenchmarkNull(b *testing.B) {
	src, err := Workload{Dist: KeyDist{Kind: KeyZipf, Theta: 0.99}}.Source()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	g := Generator{Target: Null{}, Source: src, Recorder: NewRecorder(RecorderConfig{}), InFlight: 1, Ops: uint64(b.N)}
	b.ResetTimer()
	begin := time.Now()
	if _, err := g.Run(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/time.Since(begin).Seconds(), "ops/s")
}

func BenchmarkSource(b *testing.B) {
	for _, dist := range []KeyDist{{}, {Kind: KeyZipf, Theta: 0.99}} {
		b.Run(dist.String(), func(b *testing.B) {
			src, err := Workload{Dist: dist}.Source()
			if err != nil {
				b.Fatal(err)
			}
			c := new(call)
			i := uint64(0)
			for b.Loop() {
				i++
				c.scratch = src.Op(i, &c.op, c.scratch)
			}
		})
	}
}

package load

import (
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/client"
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

// echoOps is how many operations each echo benchmark keeps in flight.
const echoOps = 64

// The generator on a bare stream, to be compared with BenchmarkEchoTight: the
// difference is what the generator costs.
func BenchmarkEcho(b *testing.B) {
	e, err := NewEcho(EchoConfig{Window: echoOps})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	src, err := Workload{Mix: []Weight[client.Kind]{{client.KindPut, 1}}}.Source()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	g := Generator{Target: e, Source: src, Recorder: NewRecorder(RecorderConfig{}), InFlight: echoOps, Ops: uint64(b.N)}
	b.ResetTimer()
	begin := time.Now()
	if _, err := g.Run(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/time.Since(begin).Seconds(), "ops/s")
}

// The tightest client on the same stream with the same window: a loop that
// sends, and one that receives.
func BenchmarkEchoTight(b *testing.B) {
	e, err := NewEcho(EchoConfig{Window: echoOps})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	b.ReportAllocs()
	b.ResetTimer()
	_, took, err := e.Tight(b.Context(), &echoOp, echoOps, int64(b.N))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/took.Seconds(), "ops/s")
}

// echoOp is as long as the operations of BenchmarkEcho.
var echoOp = client.Op{Cache: "bench", Key: "key-12345", Value: make([]byte, 128)}

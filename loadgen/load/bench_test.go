package load

import (
	"runtime"
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/client"
)

// The hot path allocates nothing for an operation, from the plan to the
// histograms, in an open and in a closed loop; only a key space too large for
// names made in advance costs one allocation.
func TestAllocations(t *testing.T) {
	mix := []Weight[client.Kind]{{client.KindGet, 1}, {client.KindPut, 1}, {client.KindInsert, 1}, {client.KindDel, 1}, {client.KindRemove, 1}}
	for _, tc := range []struct {
		name string
		w    Workload
		most float64
	}{
		{"usual", Workload{}, 0},
		{"zipf, lognormal, checked", Workload{Mix: mix, Dist: KeyDist{Kind: KeyZipf, Theta: 0.99}, Sizes: Sizes{Median: 100, Sigma: 1}, Checked: true, Client: "c"}, 0},
		{"many keys", Workload{Mix: mix, Keys: keyTable + 1}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			src := mustSource(t, tc.w)
			c := &call{scratch: make([]byte, 0, MaxValue)}
			i := uint64(0)
			if got := testing.AllocsPerRun(2000, func() {
				c.scratch = src.Op(i, &c.op, c.scratch)
				i++
			}); got > tc.most {
				t.Errorf("an operation is made with %g allocations, want %g", got, tc.most)
			}
			for mode, g := range map[string]Generator{"closed": {}, "open": {Schedule: Constant{1e9}, Drain: time.Minute}} {
				const ops = 50_000
				g.Target, g.Source, g.Recorder, g.Ops, g.InFlight = Null{Width: 2}, src, NewRecorder(RecorderConfig{}), ops, 4
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				s, err := g.Run(t.Context())
				runtime.ReadMemStats(&after)
				if err != nil || s.Counts.OK != ops {
					t.Fatalf("%s: %v %+v", mode, err, s)
				}
				// What a run needs once, its histograms above all, is some hundred.
				if got := float64(after.Mallocs-before.Mallocs) / ops; got > tc.most+0.1 {
					t.Errorf("%s: %.2f allocations for each operation, want %g", mode, got, tc.most)
				}
			}
		})
	}
}

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

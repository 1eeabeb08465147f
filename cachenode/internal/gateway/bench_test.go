package gateway_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/internal/gateway"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/store"
	"github.com/hacache/hacache/proto/cachepb"
)

// alone is a leader without followers, driven as its runner would: what an operation costs but for sockets.
type alone struct {
	core  *replication.Core
	gw    *gateway.Gateway
	now   time.Duration
	acked int
}

// Transport that leads nowhere.
func (a *alone) Send(int, replication.Lane, *cachepb.CacheRequest) bool { return false }
func (a *alone) SendAck(int, replication.Lane, *cachepb.Ack) bool       { return false }
func (a *alone) Probe(int)                                              {}
func (a *alone) AddHost(int, string)                                    {}
func (a *alone) Reconnect()                                             {}

// Deliver takes an answer, as its client does.
func (a *alone) Deliver(ack *cachepb.Ack) {
	if !ack.GetPutAck().GetModRes() {
		panic(fmt.Sprint("refused: ", ack))
	}
	a.acked++
}

func newAlone(tb testing.TB) *alone {
	a := &alone{now: time.Hour}
	rng := rand.New(rand.NewPCG(1, 1))
	a.gw = gateway.New(gateway.Config{Store: store.New(store.Config{}), Transport: a, Rand: rng.Uint64})
	var err error
	if a.core, err = replication.New(replication.Config{Hosts: []string{"a:1"}, Transport: a, Upper: a.gw, Rand: rng.Uint64}); err != nil {
		tb.Fatal(err)
	}
	a.gw.Attach(a.core)
	for i := 0; !a.core.Leading(); i++ {
		if i > 1000 {
			tb.Fatal("a single node does not lead")
		}
		a.turn(10 * time.Millisecond)
	}
	return a
}

// turn is one of the runner's, so much later than the one before.
func (a *alone) turn(later time.Duration, ops ...*cachepb.CacheRequest) {
	a.now += later
	a.core.Clock(a.now)
	for _, req := range ops {
		a.gw.Submit(replication.Submission{To: a, Req: req})
	}
	for again := true; again; {
		a.gw.Flush()
		a.core.Process()
		again = a.gw.Settle()
	}
}

// insertsOf makes n inserts as they come off the wire.
func insertsOf(n int) []*cachepb.CacheRequest {
	ops := make([]*cachepb.CacheRequest, n)
	for i := range ops {
		ops[i] = &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{
			CacheName: "bench", Entry: fmt.Sprintf("key-%012d", i), Value: make([]byte, 128), ReqId: "1f",
		}}}
	}
	return ops
}

// again makes requests that were carried out into new ones.
func again(ops []*cachepb.CacheRequest) {
	for _, op := range ops {
		op.GetInsert().Op = nil
	}
}

// TestInsertAllocations states what an Insert costs the leader's loop: its answer, its copy in the store, and a sixteenth of
// what the gateway keeps of it; the entry of the log that it shares with others does not count for much.
func TestInsertAllocations(t *testing.T) {
	const each = 128
	a, ops := newAlone(t), insertsOf(each)
	a.turn(time.Millisecond, ops[:1]...) // opens the session
	got := testing.AllocsPerRun(100, func() {
		again(ops)
		a.turn(time.Millisecond, ops...)
	})
	if per := got / each; per > 2.5 {
		t.Errorf("%.2f allocations for each Insert, want at most 2.5", per)
	}
	if want := 1 + 101*each; a.acked != want {
		t.Errorf("%d answers, want %d", a.acked, want)
	}
}

// TestGetAllocations states what a local read costs: its answer.
func TestGetAllocations(t *testing.T) {
	a := newAlone(t)
	a.turn(time.Millisecond, insertsOf(1)...)
	view := &replication.View{Fresh: true, AsOf: a.now, At: a.now}
	get := &cachepb.Get{CacheName: "bench", Entry: "key-000000000000", Read: &cachepb.ReadTag{ReqId: "1f"}}
	got := testing.AllocsPerRun(100, func() {
		if a.gw.Get(view, a.now, get).GetGetAck().GetValue() == nil {
			t.Fatal("a miss")
		}
	})
	if got > 1 {
		t.Errorf("%v allocations, want the answer alone", got)
	}
}

// BenchmarkInsert measures Inserts in the leader's loop, from the inbox to the answer, by how many share an entry of the log.
func BenchmarkInsert(b *testing.B) {
	for _, each := range []int{1, 64, 1024} {
		b.Run(fmt.Sprint(each), func(b *testing.B) {
			a, ops := newAlone(b), insertsOf(100_000/each*each)
			a.turn(time.Millisecond, ops[0])
			b.ReportAllocs()
			at := 0
			for b.Loop() {
				batch := ops[at : at+each]
				again(batch)
				a.turn(time.Millisecond, batch...)
				if at += each; at == len(ops) {
					at = 0
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*each), "ns/insert")
		})
	}
}

// BenchmarkGet measures a local read and its answer.
func BenchmarkGet(b *testing.B) {
	a := newAlone(b)
	const keys = 10_000
	ops := insertsOf(keys)
	for at := 0; at < keys; at += 100 {
		a.turn(time.Millisecond, ops[at:at+100]...)
	}
	view := &replication.View{Fresh: true, AsOf: a.now, At: a.now}
	b.ReportAllocs()
	get, i := &cachepb.Get{CacheName: "bench"}, 0
	for b.Loop() {
		get.Entry = ops[i%keys].GetInsert().GetEntry()
		a.gw.Get(view, a.now, get)
		i++
	}
}

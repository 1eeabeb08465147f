package gateway_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/gateway"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/store"
	"github.com/hacache/hacache/proto/cachepb"
)

// largestMessage is what a peer stream carries: peer.Config.MaxMessageBytes.
const largestMessage = 4 << 20

// TestEntryFitsIntoAMessage: what a client sends beside names and value must not make an entry that no stream carries.
func TestEntryFitsIntoAMessage(t *testing.T) {
	unknown := protowire.AppendBytes(protowire.AppendTag(nil, 1000, protowire.BytesType), make([]byte, 3<<20))
	for _, test := range []struct {
		name string
		add  func(*cachepb.Insert)
	}{
		{"an unknown field", func(i *cachepb.Insert) { i.ProtoReflect().SetUnknown(unknown) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newAlone(t)
			a.turn(time.Millisecond, insertsOf(1)...) // opens the session
			ops := insertsOf(2)
			for _, op := range ops {
				test.add(op.GetInsert())
				if n := proto.Size(op); n > largestMessage {
					t.Fatalf("a client could not send %d bytes", n)
				}
			}
			_, before := a.core.LogSize()
			last := a.core.Last()
			a.turn(time.Millisecond, ops...)
			_, after := a.core.LogSize()
			if n := a.core.Last() - last; n != 1 {
				t.Fatalf("%d entries", n)
			}
			if after-before > largestMessage {
				t.Errorf("the entry of two inserts of 128 bytes has %d bytes, and a message between nodes at most %d", after-before, largestMessage)
			}
		})
	}
}

// leaderless is a gateway of a node that has heard of no other.
func leaderless(t *testing.T) *alone {
	t.Helper()
	a := &alone{now: time.Hour}
	rng := rand.New(rand.NewPCG(1, 1))
	a.gw = gateway.New(gateway.Config{Store: store.New(store.Config{}), Transport: a, Rand: rng.Uint64})
	var err error
	if a.core, err = replication.New(replication.Config{Hosts: []string{"a:1", "b:1", "c:1"}, Transport: a, Upper: a.gw, Rand: rng.Uint64}); err != nil {
		t.Fatal(err)
	}
	a.gw.Attach(a.core)
	return a
}

// TestRefusedIsForgotten: what was refused is not kept because of an operation that came beside it.
func TestRefusedIsForgotten(t *testing.T) {
	a := leaderless(t)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var to sink
	before := heap()
	a.core.Clock(a.now)
	for i := range 10 * 16 {
		req := putOf(fmt.Sprint(i), string(make([]byte, 1<<20)))
		if i%16 == 0 {
			req = delOf("key")
		}
		a.gw.Submit(replication.Submission{To: &to, Req: req})
	}
	grown := heap() - before
	stats := a.gw.Stats()
	if stats.PendingBytes > 10<<10 || stats.Refused != 150 {
		t.Fatalf("%+v", stats)
	}
	if grown > 8<<20 {
		t.Errorf("%d bytes are kept by a gateway that counts %d of operations and %d of its overlay", grown, stats.PendingBytes, stats.OverlayBytes)
	}
	runtime.KeepAlive(a)
}

type sink struct{ n int }

func (s *sink) Deliver(*cachepb.Ack) { s.n++ }

// TestDeadlineAfterSuspension: a machine that was suspended gives an operation that comes afterwards its time.
func TestDeadlineAfterSuspension(t *testing.T) {
	a := leaderless(t)
	a.core.Clock(a.now)
	var to sink
	a.gw.Submit(replication.Submission{To: &to, Req: insertOf("a", "1", nil)})
	for range 500 { // until it is refused
		a.turn(10 * time.Millisecond)
	}
	if to.n != 1 {
		t.Fatalf("%d answers", to.n)
	}
	a.now += 2 * time.Minute
	a.core.Clock(a.now)
	a.gw.Submit(replication.Submission{To: &to, Req: insertOf("b", "1", nil)})
	a.turn(0)
	if to.n != 1 {
		t.Error("an operation with 3 s to live was refused at its deadline in the turn in which it came")
	}
}

package client

import (
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/proto/cachepb"
)

// sink is a stream that takes everything and sends nothing.
type sink struct{ grpc.ClientStream }

func (sink) SendMsg(m any) error {
	m.(*frame).out.Free()
	return nil
}

// BenchmarkConn is what the client itself takes for an operation, without gRPC:
// it is started, encoded and passed to the stream, and its ack is decoded,
// matched and handed to the caller, so many of them to a message.
func BenchmarkConn(b *testing.B) {
	for _, op := range []Op{
		{Kind: KindInsert, Cache: "bench", Key: "key-12345", Value: make([]byte, 128)},
		{Kind: KindGet, Cache: "bench", Key: "key-12345"},
	} {
		for _, n := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("%s/batch=%d", op.Kind, n), func(b *testing.B) { benchmarkConn(b, &op, n) })
		}
	}
}

func benchmarkConn(b *testing.B, op *Op, n int) {
	c := newTestConn(n)
	r := reader{conn: c}
	ended := 0
	done := func(o Outcome) {
		if o.Status == StatusOK {
			ended++
		}
	}
	var acks []byte
	ids := make([]uint64, 0, n)
	b.ReportAllocs()
	for i := 0; i < b.N; i += n {
		ids = ids[:0]
		for range n {
			id, err := c.start(op, c.cfg.Timeout, 0, done, nil)
			if err != nil {
				b.Fatal(err)
			}
			ids = append(ids, id)
		}
		buf, items := c.take()
		if err := c.send(sink{}, buf, items); err != nil {
			b.Fatal(err)
		}
		acks = appendAcks(acks[:0], op.Kind, ids)
		if err := r.handle(mem.SliceBuffer(acks)); err != nil {
			b.Fatal(err)
		}
	}
	if ended < b.N {
		b.Fatalf("%d of %d ended", ended, b.N)
	}
}

// newTestConn is a Conn that is up, on no stream.
func newTestConn(window int) *Conn {
	cfg := Config{Addr: "a:1", Window: window, Batch: true}
	if err := cfg.setDefaults(); err != nil {
		panic(err)
	}
	c := &Conn{cfg: cfg, addr: cfg.Addr, wake: make(chan struct{}, 1), window: newWindow(window), outbox: newOutbox(), changed: make(chan struct{})}
	c.window.learnIDs()
	c.window.seq = 1 << 40 // ids of one length
	return c
}

// ackOutcome is what nodes tell with each ack.
var ackOutcome = func() []byte {
	b, err := proto.Marshal(&cachepb.Outcome{Cluster: 7, Term: 3, Index: 12345, Leader: "http://a:1"})
	if err != nil {
		panic(err)
	}
	return b
}()

// appendAcks appends what a node answers to operations of a kind: one ack, or
// a batch of them. Their ids are of one length.
func appendAcks(b []byte, kind Kind, ids []uint64) []byte {
	id, outcome := bytesLen(hexLen(ids[0])), 1+bytesLen(len(ackOutcome))
	inner, num := id+2+outcome, protowire.Number(ackPutField)
	if kind == KindGet {
		inner, num = bytesLen(len("bench"))+bytesLen(len("key-12345"))+bytesLen(128)+outcome+1+id, ackGetField
	}
	if len(ids) > 1 {
		b = protowire.AppendTag(b, ackBatchField, protowire.BytesType)
		b = appendUvarint(b, uint64(len(ids)*bytesLen(bytesLen(inner))))
	}
	for _, id := range ids {
		if len(ids) > 1 {
			b = appendHeader(b, 1, bytesLen(inner))
		}
		b = appendHeader(b, num, inner)
		if kind == KindGet {
			b = appendString(appendString(b, 1, "bench"), 2, "key-12345")
			b = append(appendHeader(b, 3, 128), ackValue[:]...)
			b = protowire.AppendBytes(append(b, tag16a, tag16b), ackOutcome)
			b = appendHex(appendUvarint(append(b, 0x8a, 0x01), uint64(hexLen(id))), id)
			continue
		}
		b = appendVarint(appendHex(appendHeader(b, 1, hexLen(id)), id), 2, 1)
		b = protowire.AppendBytes(append(b, tag16a, tag16b), ackOutcome)
	}
	return b
}

var ackValue [128]byte

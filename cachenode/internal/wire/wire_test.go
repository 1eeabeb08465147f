package wire

import (
	"bytes"
	"reflect"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"pgregory.net/rapid"

	"github.com/hacache/hacache/proto/cachepb"
)

// Random messages, with all fields that the contract has for them, each there or not.

func text(t *rapid.T, name string) string { return rapid.StringN(0, 20, 200).Draw(t, name) }

func maybe[T any](t *rapid.T, name string, draw func() T) *T {
	if !rapid.Bool().Draw(t, "has "+name) {
		return nil
	}
	v := draw()
	return &v
}

func opTagOf(t *rapid.T) *cachepb.OpTag {
	if !rapid.Bool().Draw(t, "has op") {
		return nil
	}
	u32 := func(name string) uint32 { return rapid.Uint32().Draw(t, name) }
	u64 := func(name string) uint64 { return rapid.Uint64().Draw(t, name) }
	return &cachepb.OpTag{
		Session: u64("session"), Seq: u64("seq"), FirstUnacked: u64("unacked"), TtlMs: u32("ttl"), DeadlineMs: u32("deadline"),
		Forwarded: rapid.Bool().Draw(t, "forwarded"), OpenedMs: u64("opened"),
	}
}

func levelOf(t *rapid.T) *cachepb.AckLevel {
	switch rapid.IntRange(0, 4).Draw(t, "level") {
	case 0:
		return &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelQuorum{LevelQuorum: &cachepb.Empty{}}}
	case 1:
		return &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelOnce{LevelOnce: &cachepb.Empty{}}}
	case 2:
		return &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelLeader{LevelLeader: &cachepb.Empty{}}}
	case 3:
		return &cachepb.AckLevel{}
	}
	return nil
}

func requestOf(t *rapid.T, batches bool) *cachepb.CacheRequest {
	value := func() []byte { return rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value") }
	cache, entry := text(t, "cache"), text(t, "entry")
	reqID := func() *string { return maybe(t, "req_id", func() string { return text(t, "req_id") }) }
	last := 8
	if batches {
		last = 9
	}
	req := &cachepb.CacheRequest{}
	switch rapid.IntRange(0, last).Draw(t, "kind") {
	case 0:
		g := &cachepb.Get{CacheName: cache, Entry: entry}
		if rapid.Bool().Draw(t, "has read") {
			g.Read = &cachepb.ReadTag{
				ReqId: text(t, "read.req_id"), Mode: cachepb.ReadTag_Mode(rapid.Int32Range(-1, 5).Draw(t, "mode")),
				MaxStalenessMs: rapid.Uint32().Draw(t, "max"),
			}
		}
		req.Method = &cachepb.CacheRequest_Get{Get: g}
	case 1:
		req.Method = &cachepb.CacheRequest_Put{Put: &cachepb.Put{CacheName: cache, Entry: entry, Value: value(), ReqId: reqID(), Op: opTagOf(t)}}
	case 2:
		req.Method = &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{CacheName: cache, Entry: entry, Value: value(), ReqId: text(t, "req_id"), AckLevel: levelOf(t), Op: opTagOf(t)}}
	case 3:
		req.Method = &cachepb.CacheRequest_Del{Del: &cachepb.Del{CacheName: cache, Entry: entry, ReqId: reqID(), Op: opTagOf(t)}}
	case 4:
		req.Method = &cachepb.CacheRequest_Remove{Remove: &cachepb.Remove{CacheName: cache, Entry: entry, ReqId: text(t, "req_id"), AckLevel: levelOf(t), Op: opTagOf(t)}}
	case 5:
		req.Method = &cachepb.CacheRequest_Replicate{Replicate: &cachepb.Replicate{Peer: peerOf(t)}}
	case 6:
		req.Method = &cachepb.CacheRequest_MgmtReq{MgmtReq: &cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_Health{Health: &cachepb.Health{}}}}
	case 7:
		// Written by a newer version: a field that nobody here knows.
		req.Method = &cachepb.CacheRequest_Del{Del: &cachepb.Del{CacheName: cache, Entry: entry}}
		req.GetDel().ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 7))
	case 8:
		// No operation at all.
	default:
		batch := &cachepb.Requests{}
		for range rapid.IntRange(0, 40).Draw(t, "items") {
			batch.Items = append(batch.Items, requestOf(t, false))
		}
		req.Method = &cachepb.CacheRequest_Batch{Batch: batch}
	}
	return req
}

func peerOf(t *rapid.T) *cachepb.Peer {
	p := &cachepb.Peer{Cluster: rapid.Uint64().Draw(t, "cluster"), Raft: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "raft")}
	if rapid.IntRange(0, 3).Draw(t, "status") == 0 {
		p.Status = &cachepb.NodeStatus{Id: 3, Voters: []uint64{1, 2}}
	}
	return p
}

func outcomeOf(t *rapid.T) *cachepb.Outcome {
	if !rapid.Bool().Draw(t, "has outcome") {
		return nil
	}
	return &cachepb.Outcome{
		Code: cachepb.Code(rapid.Int32Range(-1, 40).Draw(t, "code")), Detail: text(t, "detail"), Cluster: rapid.Uint64().Draw(t, "cluster"),
		Term: rapid.Uint64().Draw(t, "term"), Index: rapid.Uint64().Draw(t, "index"), Leader: text(t, "leader"),
	}
}

func ackOf(t *rapid.T, batches bool) *cachepb.Ack {
	last := 5
	if batches {
		last = 6
	}
	reqID := maybe(t, "req_id", func() string { return text(t, "req_id") })
	modRes := maybe(t, "mod_res", func() bool { return rapid.Bool().Draw(t, "mod_res") })
	switch rapid.IntRange(0, last).Draw(t, "kind") {
	case 0:
		g := &cachepb.GetAck{
			CacheName: text(t, "cache"), Entry: text(t, "entry"), Outcome: outcomeOf(t), ReqId: text(t, "get.req_id"),
			StalenessUs: rapid.Uint64().Draw(t, "staleness"),
		}
		if rapid.Bool().Draw(t, "found") {
			g.Value = rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "value")
			if g.Value == nil {
				g.Value = []byte{}
			}
		}
		return &cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: g}}
	case 1:
		return &cachepb.Ack{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{ReqId: reqID, ModRes: modRes, Outcome: outcomeOf(t)}}}
	case 2:
		return &cachepb.Ack{Method: &cachepb.Ack_DelAck{DelAck: &cachepb.DelAck{ReqId: reqID, ModRes: modRes, Outcome: outcomeOf(t)}}}
	case 3:
		return &cachepb.Ack{Method: &cachepb.Ack_Error{Error: &cachepb.Error{Error: text(t, "error")}}}
	case 4:
		return &cachepb.Ack{Method: &cachepb.Ack_ReplicateAck{ReplicateAck: &cachepb.ReplicateAck{Peer: peerOf(t)}}}
	case 5:
		return &cachepb.Ack{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{Change: &cachepb.Change{}}}}
	}
	batch := &cachepb.Acks{}
	for range rapid.IntRange(0, 10).Draw(t, "items") {
		batch.Items = append(batch.Items, ackOf(t, false))
	}
	return &cachepb.Ack{Method: &cachepb.Ack_Batch{Batch: batch}}
}

func roundTrip(t *rapid.T, m, into proto.Message) {
	data, err := Codec{}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	b := data.Materialize()
	if len(b) != proto.Size(m) || Size(m) != len(b) {
		t.Fatalf("%d bytes, Size says %d, the generated code %d:\n%v", len(b), Size(m), proto.Size(m), m)
	}
	generated := m.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(b, generated); err != nil || !proto.Equal(m, generated) {
		t.Fatalf("the generated code reads %v, %v from what was written for\n%v", generated, err, m)
	}
	want, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := decode(want, into); err != nil || !proto.Equal(m, into) {
		t.Fatalf("read %v, %v from what the generated code wrote for\n%v", into, err, m)
	}
}

// TestSameAsGenerated proves that whatever a node sends, hot or not, is written as the generated code would read it, and
// read as the generated code wrote it.
func TestSameAsGenerated(t *testing.T) {
	var decoder Decoder // for all of them: nothing of one may be left in the next
	rapid.Check(t, func(t *rapid.T) {
		roundTrip(t, requestOf(t, true), &cachepb.CacheRequest{})
		roundTrip(t, ackOf(t, true), &cachepb.Ack{})
		batch := &cachepb.Batch{ClusterMs: rapid.Int64().Draw(t, "cluster_ms")}
		for range rapid.IntRange(0, 40).Draw(t, "ops") {
			batch.Ops = append(batch.Ops, requestOf(t, false))
		}
		b, err := AppendBatch([]byte("before"), batch.ClusterMs, batch.Ops)
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.TrimPrefix(b, []byte("before"))
		got := &cachepb.Batch{}
		err = proto.Unmarshal(b, got)
		if same := proto.Equal(anonymous(got), anonymous(batch)); err != nil || !same {
			t.Fatalf("the generated code reads %v, %v from what was written for\n%v", got, err, batch)
		}
		if read, err := decoder.Batch(b); err != nil || !proto.Equal(read, got) {
			t.Fatalf("read %v, %v from\n%v", read, err, got)
		}
	})
}

// anonymous is a batch without what only the senders of its operations need.
func anonymous(b *cachepb.Batch) *cachepb.Batch {
	b = proto.Clone(b).(*cachepb.Batch)
	for _, req := range b.GetOps() {
		switch m := req.GetMethod().(type) {
		case *cachepb.CacheRequest_Put:
			m.Put.ReqId = nil
		case *cachepb.CacheRequest_Insert:
			m.Insert.ReqId, m.Insert.AckLevel = "", nil
		case *cachepb.CacheRequest_Del:
			m.Del.ReqId = nil
		case *cachepb.CacheRequest_Remove:
			m.Remove.ReqId, m.Remove.AckLevel = "", nil
		}
	}
	return b
}

// TestUnusual holds, for each message of the contract, that fields of a newer version are found where unusual looks for them.
func TestUnusual(t *testing.T) {
	messages := cachepb.File_cache_proto.Messages()
	for i := range messages.Len() {
		mt, err := protoregistry.GlobalTypes.FindMessageByName(messages.Get(i).FullName())
		if err != nil {
			t.Fatal(err)
		}
		s := reflect.TypeOf(mt.Zero().Interface()).Elem()
		f, ok := s.FieldByName("unknownFields")
		if !ok || f.Offset != s.Size()-unknownFromEnd || f.Type.Kind() != reflect.Slice {
			t.Errorf("%s: %+v in a struct of %d bytes", s, f, s.Size())
		}
	}
	newer := protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1)
	for _, known := range []bool{true, false} {
		m := &cachepb.Outcome{Index: 7}
		if !known {
			m.ProtoReflect().SetUnknown(newer)
		}
		if unusual(m) == known {
			t.Errorf("unusual(%v) = %v", m, known)
		}
	}
	if unusual((*cachepb.Insert)(nil)) {
		t.Error("nothing is unusual")
	}
}

// agree holds what this package makes of some bytes against the generated code.
func agree(t *testing.T, what string, b []byte, got proto.Message, err error) {
	t.Helper()
	want := got.ProtoReflect().New().Interface()
	wantErr := proto.Unmarshal(b, want)
	switch {
	case (err == nil) != (wantErr == nil):
		t.Fatalf("%s of %x: error %v, the generated code says %v", what, b, err, wantErr)
	case err == nil && !proto.Equal(got, want):
		t.Fatalf("%s of %x: %v, the generated code reads %v", what, b, got, want)
	}
}

// FuzzDecode proves that no bytes are read otherwise than by the generated code: neither hostile ones nor those of another
// version, in another order, with fields twice or cut short.
func FuzzDecode(f *testing.F) {
	for _, m := range []proto.Message{
		insertOf(3), batchOf(3),
		&cachepb.CacheRequest{Method: &cachepb.CacheRequest_Replicate{Replicate: &cachepb.Replicate{Peer: &cachepb.Peer{Cluster: 1, Raft: []byte{1}}}}},
		&cachepb.Ack{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{ReqId: new("x"), ModRes: new(true), Outcome: &cachepb.Outcome{Index: 9}}}},
		&cachepb.Batch{ClusterMs: 5, Ops: batchOf(2).GetBatch().GetItems()},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(bytes.Clone(b), b...)) // everything twice
		f.Add(b[:len(b)-1])
	}
	var decoder Decoder
	f.Fuzz(func(t *testing.T, b []byte) {
		req := &cachepb.CacheRequest{}
		agree(t, "request", b, req, decode(b, req))
		ack := &cachepb.Ack{}
		agree(t, "ack", b, ack, decode(b, ack))
		batch, err := decoder.Batch(b)
		agree(t, "batch", b, batch, err)
	})
}

// decode reads b as a node does what comes from the network, and then takes the buffer away.
func decode(b []byte, into proto.Message) error {
	buf := bytes.Clone(b)
	err := Codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(buf)}, into)
	for i := range buf {
		buf[i] ^= 0xff
	}
	return err
}

func insertOf(i int) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{
		CacheName: "bench", Entry: "key-" + string(rune('a'+i%26)) + "0123456789abcdef", Value: make([]byte, 128), ReqId: "1f",
		AckLevel: levelQuorum, Op: &cachepb.OpTag{Session: 1, Seq: uint64(i), FirstUnacked: 1},
	}}}
}

func batchOf(n int) *cachepb.CacheRequest {
	r := &cachepb.Requests{}
	for i := range n {
		r.Items = append(r.Items, insertOf(i))
	}
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Batch{Batch: r}}
}

// TestAllocations states what a message costs: reading one operation is a copy of its bytes and one block of structs, and
// in batches a sixteenth of a block and a part of 4 KiB. Reading an entry of the log, again and again, costs none.
func TestAllocations(t *testing.T) {
	one, err := proto.Marshal(insertOf(1))
	if err != nil {
		t.Fatal(err)
	}
	many, err := proto.Marshal(batchOf(160))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		b    []byte
		most float64
	}{{"one", one, 2}, {"batch of 160", many, 3 + 160/boxesAtOnce + 8}} {
		data, into := mem.BufferSlice{mem.SliceBuffer(c.b)}, &cachepb.CacheRequest{}
		if got := testing.AllocsPerRun(100, func() { _ = Codec{}.Unmarshal(data, into) }); got > c.most {
			t.Errorf("%s: %v allocations, want at most %v", c.name, got, c.most)
		}
	}
	entry, err := AppendBatch(nil, 1, batchOf(160).GetBatch().GetItems())
	if err != nil {
		t.Fatal(err)
	}
	var d Decoder
	if got := testing.AllocsPerRun(100, func() { _, _ = d.Batch(entry) }); got > 0 {
		t.Errorf("log entry: %v allocations, want none", got)
	}
}

// TestBuffers proves that a buffer has the length asked for and room for no more than twice that, that one that was given
// back is used again, and that what this pool did not make is not kept.
func TestBuffers(t *testing.T) {
	var p buffers
	for _, n := range []int{0, 1, 1024, 2048, 2049, 40 << 10, 1<<20 + 1, 4 << 20, 4<<20 + 1} {
		b := p.Get(n)
		if len(*b) != n || cap(*b) > max(2*n, 1<<smallestBuffer) {
			t.Errorf("Get(%d) has length %d and capacity %d", n, len(*b), cap(*b))
		}
		p.Put(b)
	}
	strange := make([]byte, 3000)
	p.Put(&strange)
	if b := p.Get(3000); cap(*b) != 4096 {
		t.Errorf("capacity %d, want 4096", cap(*b))
	}
}

// BenchmarkLarge measures a batch on its way through the codec, out and in, as gRPC hands it over: in frames of 16 KiB.
func BenchmarkLarge(b *testing.B) {
	req := batchOf(200)
	b.ReportAllocs()
	for b.Loop() {
		data, err := Codec{}.Marshal(req)
		if err != nil {
			b.Fatal(err)
		}
		whole := data[0].ReadOnlyData()
		var frames mem.BufferSlice
		for at := 0; at < len(whole); at += 16 << 10 {
			frames = append(frames, mem.SliceBuffer(whole[at:min(at+16<<10, len(whole))]))
		}
		if err := (Codec{}).Unmarshal(frames, &cachepb.CacheRequest{}); err != nil {
			b.Fatal(err)
		}
		data.Free()
	}
}

func BenchmarkDecodeInsert(b *testing.B) {
	data, _ := proto.Marshal(insertOf(1))
	b.Run("wire", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = Codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, &cachepb.CacheRequest{})
		}
	})
	b.Run("generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = proto.Unmarshal(data, &cachepb.CacheRequest{})
		}
	})
}

func BenchmarkBatch(b *testing.B) {
	ops := batchOf(256).GetBatch().GetItems()
	data, _ := AppendBatch(nil, 1, ops)
	b.Run("decode/wire", func(b *testing.B) {
		b.ReportAllocs()
		var d Decoder
		for b.Loop() {
			_, _ = d.Batch(data)
		}
	})
	b.Run("decode/generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = proto.Unmarshal(data, &cachepb.Batch{})
		}
	})
	b.Run("encode/wire", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = AppendBatch(nil, 1, ops)
		}
	})
	b.Run("encode/generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = proto.Marshal(&cachepb.Batch{ClusterMs: 1, Ops: ops})
		}
	})
}

func BenchmarkEncodeAck(b *testing.B) {
	ack := &cachepb.Ack{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{
		ReqId: new("1f"), ModRes: new(true), Outcome: &cachepb.Outcome{Cluster: 1, Term: 2, Index: 100000, Leader: "127.0.0.1:7071"},
	}}}
	b.Run("wire", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = Codec{}.Marshal(ack)
		}
	})
	b.Run("generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = proto.Marshal(ack)
		}
	})
}

package client

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/proto/cachepb"
)

// message is what the generated code would send for op.
func message(op *Op, id uint64, deadline time.Duration) *cachepb.CacheRequest {
	req := strconv.FormatUint(id, 16)
	tag := &cachepb.OpTag{
		Session: op.Session, Seq: op.Seq, FirstUnacked: op.FirstUnacked,
		TtlMs: milliseconds(op.TTL), DeadlineMs: milliseconds(deadline),
	}
	if proto.Size(tag) == 0 {
		tag = nil
	}
	level := &cachepb.AckLevel{}
	switch op.Level {
	case LevelQuorum:
		level.AckLevel = &cachepb.AckLevel_LevelQuorum{LevelQuorum: &cachepb.Empty{}}
	case LevelOnce:
		level.AckLevel = &cachepb.AckLevel_LevelOnce{LevelOnce: &cachepb.Empty{}}
	case LevelLeader:
		level.AckLevel = &cachepb.AckLevel_LevelLeader{LevelLeader: &cachepb.Empty{}}
	}
	switch op.Kind {
	case KindGet:
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Get{Get: &cachepb.Get{
			CacheName: op.Cache, Entry: op.Key,
			Read: &cachepb.ReadTag{ReqId: req, Mode: op.ReadMode, MaxStalenessMs: milliseconds(op.MaxStaleness)},
		}}}
	case KindPut:
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Put{Put: &cachepb.Put{
			CacheName: op.Cache, Entry: op.Key, Value: op.Value, ReqId: &req, Op: tag,
		}}}
	case KindInsert:
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{
			CacheName: op.Cache, Entry: op.Key, Value: op.Value, ReqId: req, AckLevel: level, Op: tag,
		}}}
	case KindDel:
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Del{Del: &cachepb.Del{
			CacheName: op.Cache, Entry: op.Key, ReqId: &req, Op: tag,
		}}}
	default:
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Remove{Remove: &cachepb.Remove{
			CacheName: op.Cache, Entry: op.Key, ReqId: req, AckLevel: level, Op: tag,
		}}}
	}
}

// The bytes written by hand are the generated code's: a request alone, and
// packed with others into a batch.
func TestRequestsAreTheContract(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	size := func(n int) string { return string(make([]byte, rng.IntN(n))) }
	for round := range 300 {
		var items []byte
		want := &cachepb.Requests{}
		for range 1 + rng.IntN(20) {
			op := Op{
				Kind: Kind(rng.IntN(5)), Cache: size(20), Key: size(300), Level: Level(rng.IntN(3)),
				ReadMode: cachepb.ReadTag_Mode(rng.IntN(3)),
			}
			if rng.IntN(3) > 0 {
				op.Value = []byte(size(40000))
			}
			if rng.IntN(2) == 0 {
				op.Session, op.Seq, op.FirstUnacked = rng.Uint64(), rng.Uint64N(1000), rng.Uint64()
				op.TTL, op.MaxStaleness = time.Duration(rng.Int64N(1e12)), time.Duration(rng.Int64N(1e10))
			}
			deadline := time.Duration(rng.Int64N(2) * rng.Int64N(1e11))
			id := rng.Uint64() >> rng.IntN(64)
			start := len(items)
			var prefix int
			items, prefix = appendItem(items, &op, id, deadline)
			alone := new(cachepb.CacheRequest)
			if err := proto.Unmarshal(items[start+prefix:], alone); err != nil {
				t.Fatal(err)
			}
			msg := message(&op, id, deadline)
			if !proto.Equal(alone, msg) {
				t.Fatalf("round %d: got %v, want %v", round, alone, msg)
			}
			if got := len(items) - start - prefix; got != proto.Size(msg) {
				t.Fatalf("round %d: %d bytes, want %d", round, got, proto.Size(msg))
			}
			want.Items = append(want.Items, msg)
		}
		got := new(cachepb.CacheRequest)
		if err := proto.Unmarshal(append(appendBatchHeader(nil, len(items)), items...), got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got.GetBatch(), want) {
			t.Fatalf("round %d: batch differs", round)
		}
	}
}

// viewOf says what of an Ack the client uses, by the generated code.
func viewOf(ack *cachepb.Ack) ackView {
	var v ackView
	outcome := func(o *cachepb.Outcome) {
		v.code, v.cluster, v.term, v.index = o.GetCode(), o.GetCluster(), o.GetTerm(), o.GetIndex()
		v.detail, v.leader = []byte(o.GetDetail()), []byte(o.GetLeader())
	}
	mod := func(b *bool) {
		if b != nil {
			v.mod = modFalse
			if *b {
				v.mod = modTrue
			}
		}
	}
	id := func(s string) { v.id, v.hasID = parseHex([]byte(s)) }
	switch m := ack.Method.(type) {
	case *cachepb.Ack_GetAck:
		v.kind = ackGet
		v.cache, v.key = []byte(m.GetAck.CacheName), []byte(m.GetAck.Entry)
		v.value, v.found = m.GetAck.Value, m.GetAck.Value != nil
		v.staleness = m.GetAck.StalenessUs
		id(m.GetAck.ReqId)
		outcome(m.GetAck.Outcome)
	case *cachepb.Ack_PutAck:
		v.kind = ackMod
		mod(m.PutAck.ModRes)
		id(m.PutAck.GetReqId())
		outcome(m.PutAck.Outcome)
	case *cachepb.Ack_DelAck:
		v.kind = ackMod
		mod(m.DelAck.ModRes)
		id(m.DelAck.GetReqId())
		outcome(m.DelAck.Outcome)
	case *cachepb.Ack_MgmtAck:
		v.kind = ackMgmt
	case *cachepb.Ack_Error:
		v.kind = ackError
		v.text = []byte(m.Error.Error)
		v.cache, v.key = []byte(m.Error.CacheName), []byte(m.Error.Entry)
		id(m.Error.ReqId)
		outcome(m.Error.Outcome)
	}
	return v
}

func sameView(a, b ackView) bool {
	return a.kind == b.kind && a.mod == b.mod && a.code == b.code && a.found == b.found &&
		a.hasID == b.hasID && a.id == b.id && string(a.cache) == string(b.cache) && string(a.key) == string(b.key) &&
		string(a.value) == string(b.value) && string(a.detail) == string(b.detail) &&
		string(a.leader) == string(b.leader) && string(a.text) == string(b.text) &&
		a.cluster == b.cluster && a.term == b.term && a.index == b.index && a.staleness == b.staleness
}

func sampleAcks() []*cachepb.Ack {
	id := "1f"
	yes, no := true, false
	out := &cachepb.Outcome{Code: cachepb.Code_NOT_LEADER, Detail: "d", Cluster: 7, Term: 8, Index: 9, Leader: "h:1"}
	return []*cachepb.Ack{
		{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{CacheName: "c", Entry: "k", Value: []byte{}, ReqId: id, StalenessUs: 77}}},
		{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{CacheName: "c", Entry: "k", Outcome: &cachepb.Outcome{Code: cachepb.Code_NOT_FRESH}}}},
		{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{CacheName: "c", Entry: "k", Value: []byte("value"), Outcome: out}}},
		{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{ReqId: &id, ModRes: &yes}}},
		{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{ReqId: &id, ModRes: &no, Outcome: out}}},
		{Method: &cachepb.Ack_DelAck{DelAck: &cachepb.DelAck{}}},
		{Method: &cachepb.Ack_Error{Error: &cachepb.Error{Error: "e", Outcome: out, ReqId: id, CacheName: "c", Entry: "k"}}},
		mgmtAck(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_Pong{Pong: &cachepb.Pong{}}}),
	}
}

func mgmtAck(m *cachepb.MgmtAck) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_MgmtAck{MgmtAck: m}}
}

// Reading acks by hand sees what the generated code sees, alone and batched;
// anything else is an error or ignored, never a panic.
func FuzzAcks(f *testing.F) {
	acks := sampleAcks()
	for _, ack := range append(acks, &cachepb.Ack{Method: &cachepb.Ack_Batch{Batch: &cachepb.Acks{Items: acks}}}) {
		b, err := proto.Marshal(ack)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ack := new(cachepb.Ack)
		generated := proto.Unmarshal(b, ack)
		views, err := parseAcks(nil, b)
		if generated != nil || err != nil {
			return // the hand written reader does not look at what it has no use for
		}
		// Only a canonical encoding has exactly one reading.
		if again, _ := (proto.MarshalOptions{Deterministic: true}).Marshal(ack); string(again) != string(b) {
			return
		}
		want := []*cachepb.Ack{ack}
		if ack.GetBatch() != nil {
			want = ack.GetBatch().Items
		}
		if ack.Method == nil {
			want = nil
		}
		n := 0
		for _, w := range want {
			if w.Method == nil || w.GetReplicateAck() != nil || w.GetBatch() != nil {
				continue // nothing a client would use
			}
			if n >= len(views) {
				t.Fatalf("%d acks, want more: %v", len(views), ack)
			}
			if !sameView(views[n], viewOf(w)) {
				t.Fatalf("got %+v, want %+v of %v", views[n], viewOf(w), w)
			}
			n++
		}
		if n != len(views) {
			t.Fatalf("%d acks, want %d", len(views), n)
		}
	})
}

func TestIDs(t *testing.T) {
	for _, id := range []uint64{1, 0xf, 0x10, 1 << 40, ^uint64(0)} {
		s := appendHex(nil, id)
		if got, ok := parseHex(s); !ok || got != id || len(s) != hexLen(id) {
			t.Errorf("%x: got %x %v from %q", id, got, ok, s)
		}
	}
	for _, s := range []string{"", "0x1", "G", "A", "11112222333344445"} {
		if id, ok := parseHex([]byte(s)); ok {
			t.Errorf("%q read as %x", s, id)
		}
	}
}

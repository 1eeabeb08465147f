package server

import (
	"strings"
	"testing"

	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/proto/cachepb"
)

// TestWeightOfReqID: a client names its operations as it likes, and does not get the answers for nothing.
func TestWeightOfReqID(t *testing.T) {
	id := strings.Repeat("x", 1<<20)
	for _, ack := range []*cachepb.Ack{
		putAck(&id, nil), delAck(&id, nil),
		{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{ReqId: id}}},
	} {
		if w := ackWeight(ack); w < len(id) {
			t.Errorf("%T with a req_id of %d bytes counts %d", ack.GetMethod(), len(id), w)
		}
	}
}

// A req_id that is too long is refused with the answer of its kind, before anything is done.
func TestLongReqID(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := start(t, Config{Backend: newBackend()})
		defer n.stop()
		stream := n.open(t, t.Context())
		if _, err := stream.Recv(); err != nil { // the greeting
			t.Fatal(err)
		}
		for _, size := range []int{MaxReqIDBytes, MaxReqIDBytes + 1} {
			id := strings.Repeat("x", size)
			for kind, req := range map[string]*cachepb.CacheRequest{
				"get":    {Method: &cachepb.CacheRequest_Get{Get: &cachepb.Get{CacheName: "c", Entry: "k", Read: &cachepb.ReadTag{ReqId: id}}}},
				"put":    {Method: &cachepb.CacheRequest_Put{Put: &cachepb.Put{CacheName: "c", Entry: "k", ReqId: &id}}},
				"insert": {Method: &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{CacheName: "c", Entry: "k", ReqId: id}}},
				"del":    {Method: &cachepb.CacheRequest_Del{Del: &cachepb.Del{CacheName: "c", Entry: "k", ReqId: &id}}},
				"remove": {Method: &cachepb.CacheRequest_Remove{Remove: &cachepb.Remove{CacheName: "c", Entry: "k", ReqId: id}}},
			} {
				if size <= MaxReqIDBytes && kind != "get" {
					continue // the backend of this test answers writes when it is told to
				}
				if err := stream.Send(req); err != nil {
					t.Fatal(err)
				}
				ack, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				outcome := ack.GetGetAck().GetOutcome()
				got := ack.GetGetAck().GetReqId()
				switch {
				case ack.GetPutAck() != nil:
					outcome, got = ack.GetPutAck().GetOutcome(), ack.GetPutAck().GetReqId()
				case ack.GetDelAck() != nil:
					outcome, got = ack.GetDelAck().GetOutcome(), ack.GetDelAck().GetReqId()
				}
				if got != id || (outcome.GetCode() == cachepb.Code_TOO_LARGE) != (size > MaxReqIDBytes) {
					t.Errorf("%s with a req_id of %d bytes: %v", kind, size, outcome)
				}
			}
		}
	})
}

package server

import (
	"context"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/proto/cachepb"
)

// script is a client's stream: it yields messages and takes answers.
type script struct {
	grpc.ServerStream
	ctx context.Context
	in  []*cachepb.CacheRequest
	out []*cachepb.Ack
}

func (s *script) Context() context.Context { return s.ctx }

func (s *script) Recv() (*cachepb.CacheRequest, error) {
	if len(s.in) == 0 {
		return nil, io.EOF
	}
	m := s.in[0]
	s.in = s.in[1:]
	return m, nil
}

// Send puts the answer on the wire, as gRPC does: what it is made of may change afterwards.
func (s *script) Send(ack *cachepb.Ack) error {
	data, err := proto.Marshal(ack)
	if err != nil {
		return err
	}
	arrived := &cachepb.Ack{}
	if err := proto.Unmarshal(data, arrived); err != nil {
		return err
	}
	if b := arrived.GetBatch(); b != nil {
		s.out = append(s.out, b.GetItems()...)
	} else {
		s.out = append(s.out, arrived)
	}
	return nil
}

// expected names the answer to a request by its kind, "" if it gets none.
func expected(req *cachepb.CacheRequest) string {
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Get:
		return "get"
	case *cachepb.CacheRequest_Put, *cachepb.CacheRequest_Insert:
		return "put"
	case *cachepb.CacheRequest_Del, *cachepb.CacheRequest_Remove:
		return "del"
	case *cachepb.CacheRequest_MgmtReq:
		switch m.MgmtReq.GetMethod().(type) {
		case *cachepb.MgmtRequest_LeaderReq, *cachepb.MgmtRequest_LeaderReqAck, *cachepb.MgmtRequest_LeaderAck,
			*cachepb.MgmtRequest_LeaderSwitchPriority, *cachepb.MgmtRequest_LeaderDead, *cachepb.MgmtRequest_LeaderSwitchAck:
			return ""
		}
	}
	return "other"
}

func kindOf(ack *cachepb.Ack) string {
	switch ack.GetMethod().(type) {
	case *cachepb.Ack_GetAck:
		return "get"
	case *cachepb.Ack_PutAck:
		return "put"
	case *cachepb.Ack_DelAck:
		return "del"
	}
	return "other"
}

// FuzzRequests proves that whatever messages a client sends, each request that has an answer gets one, of its kind, and
// the stream ends in order when the client closes it. The backend has no room for every fourth operation, and answers the
// others in reverse. Each item of the input is one message.
func FuzzRequests(f *testing.F) {
	put := &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Put{Put: &cachepb.Put{CacheName: "c", Entry: "k", ReqId: new("1")}}}
	del := &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Del{Del: &cachepb.Del{CacheName: "c", Entry: "k"}}}
	mgmt := func(m *cachepb.MgmtRequest) *cachepb.CacheRequest {
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_MgmtReq{MgmtReq: m}}
	}
	lookup := &cachepb.ReadTag{Mode: cachepb.ReadTag_LINEARIZABLE}
	for _, msgs := range [][]*cachepb.CacheRequest{
		{insert("1"), put, del, get("k", nil), ping()},
		{get("k", lookup), get("k", nil), get("k", lookup), get("k", &cachepb.ReadTag{ReqId: "r", Mode: cachepb.ReadTag_LEADER_ON_MISS})},
		{batch(insert("1"), batch(), put, &cachepb.CacheRequest{}, get("k", nil)), batch(), {}},
		{batch(slices.Repeat([]*cachepb.CacheRequest{del}, MaxBatchItems+1)...)},
		{
			mgmt(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderReq{LeaderReq: &cachepb.LeaderReq{}}}),
			mgmt(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderSwitch{LeaderSwitch: &cachepb.LeaderSwitch{}}}),
			mgmt(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_MembersSet{MembersSet: &cachepb.MembersSet{}}}),
			mgmt(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_Abandon{Abandon: &cachepb.Abandon{YesLoseThisCopy: true}}}),
			mgmt(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_Health{Health: &cachepb.Health{}}}), mgmt(&cachepb.MgmtRequest{}),
		},
	} {
		data, err := proto.Marshal(&cachepb.Requests{Items: msgs})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		msgs := &cachepb.Requests{}
		if proto.Unmarshal(data, msgs) != nil {
			return
		}
		want := map[string]int{}
		for _, m := range msgs.GetItems() {
			items := []*cachepb.CacheRequest{m}
			if b := m.GetBatch(); b != nil && oversized(b.GetItems()) == "" {
				items = b.GetItems()
			}
			for _, item := range items {
				want[expected(item)]++
			}
		}
		delete(want, "")
		bubble.Test(t, func(t *testing.T) {
			stream := &script{ctx: t.Context(), in: msgs.GetItems()}
			b := &reluctant{backend: newBackend()}
			s := newSession(New(Config{Backend: b}), stream)
			var written error
			done := false
			go s.read()
			go func() { written, done = s.write(), true }()
			for synctest.Wait(); !done; synctest.Wait() {
				held := b.take()
				if len(held) == 0 {
					t.Fatalf("%d operations are open and nobody has them; answers so far: %d", s.open, len(stream.out))
				}
				for _, h := range slices.Backward(held) {
					h.to.Deliver(ok(h.req))
				}
			}
			got := map[string]int{}
			for _, ack := range stream.out {
				got[kindOf(ack)]++
			}
			for _, kind := range []string{"get", "put", "del", "other"} {
				if got[kind] != want[kind] {
					t.Errorf("%d answers %s, want %d", got[kind], kind, want[kind])
				}
			}
			if written != nil || s.open != 0 {
				t.Errorf("the stream ends with %v and %d open operations", written, s.open)
			}
		})
	})
}

// reluctant is a backend without room for every fourth operation.
type reluctant struct {
	*backend
	n int
}

func (r *reluctant) Submit(to Responder, req *cachepb.CacheRequest) bool {
	r.n++
	return r.n%4 != 0 && r.backend.Submit(to, req)
}

// FuzzMetadata proves that of all that a stream's metadata may say only the token is taken for the token, bare or as a
// bearer's, and that any cache can be named to be watched.
func FuzzMetadata(f *testing.F) {
	const token = "secret"
	f.Add("secret", "leader,a", "a")
	f.Add("Bearer secret", "*", "c,d")
	f.Add("bearer  secret ", "%zz", "leader")
	f.Add("Bearer", "", "\xff")
	f.Fuzz(func(t *testing.T, authorization, watch, name string) {
		a := newAuth(token, "")
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(tokenKey, authorization, watchKey, watch))
		const scheme = "bearer "
		want := authorization == token || len(authorization) > len(scheme) &&
			strings.EqualFold(authorization[:len(scheme)], scheme) && strings.TrimSpace(authorization[len(scheme):]) == token
		if got := a.check(ctx, false) == nil; got != want {
			t.Errorf("authorization %q is accepted: %v, want %v", authorization, got, want)
		}
		if w, err := parseWatch(metadata.ValueFromIncomingContext(ctx, watchKey)); err != nil && (w.leader || w.caches) {
			t.Errorf("watch %q is both wrong and %+v", watch, w)
		}
		encoded := url.PathEscape(name)
		if encoded == "" || encoded == "1" || encoded == "leader" || encoded == "*" {
			return // words of their own
		}
		if w, err := parseWatch([]string{encoded}); err != nil || len(w.names) != 1 || w.names[0] != name {
			t.Errorf("%q as %q is read as %q, %v", name, encoded, w.names, err)
		}
	})
}

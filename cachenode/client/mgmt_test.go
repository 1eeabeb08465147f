package client_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/client/clienttest"
	"github.com/hacache/hacache/proto/cachepb"
)

// A leader switch that the node cannot carry out is answered with an Error that
// names no operation; it ends the call, with the node's reason, and leaves the
// stream as it is.
func TestLeaderSwitchRefused(t *testing.T) {
	srv := &clienttest.Server{}
	store := new(clienttest.Store)
	srv.Handle = func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		if req.GetMgmtReq().GetLeaderSwitch() == nil {
			store.Handle(s, req)
			return
		}
		s.Send(&cachepb.Ack{Method: &cachepb.Ack_Error{Error: &cachepb.Error{
			Error: "nobody to switch to", Outcome: &cachepb.Outcome{Code: cachepb.Code_NO_QUORUM, Detail: "nobody to switch to"},
		}}})
	}
	withServer(t, srv, client.Config{}, func(t *testing.T, c *client.Conn) {
		if _, err := c.LeaderSwitch(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "nobody to switch to") {
			t.Errorf("LeaderSwitch: %v", err)
		}
		if err := c.Ping(t.Context()); err != nil {
			t.Errorf("Ping afterwards: %v", err)
		}
		if n := c.Stats().Unmatched; n != 0 {
			t.Errorf("%d acks matched nothing", n)
		}
	})
}

// A node carries out one change at a time and refuses a second one of the same
// stream at once, before the first is answered. Neither of two calls gets the
// answer of the other, also if the first has been given up.
func TestChangesKeepTheirAnswers(t *testing.T) {
	srv := &clienttest.Server{}
	store := new(clienttest.Store)
	done := &cachepb.Ack{Method: &cachepb.Ack_MgmtAck{MgmtAck: &cachepb.MgmtAck{Method: &cachepb.MgmtAck_Done{Done: &cachepb.Empty{}}}}}
	var mu sync.Mutex
	var busy bool
	var abandoned, refused int
	srv.Handle = func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		mgmt := req.GetMgmtReq()
		if mgmt.GetMembersSet() == nil && mgmt.GetAbandon() == nil {
			store.Handle(s, req)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case busy:
			refused++
			s.Send(&cachepb.Ack{Method: &cachepb.Ack_Error{Error: &cachepb.Error{
				Error: "another one is not done yet", Outcome: &cachepb.Outcome{Code: cachepb.Code_OVERLOADED, Detail: "another one is not done yet"},
			}}})
		case mgmt.GetMembersSet() != nil:
			busy = true
			time.AfterFunc(5*time.Second, func() {
				mu.Lock()
				defer mu.Unlock()
				busy = false
				s.Send(done)
			})
		default:
			abandoned++
			s.Send(done)
		}
	}
	withServer(t, srv, client.Config{}, func(t *testing.T, c *client.Conn) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.MembersSet(ctx, []string{"a:1"}, false); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("MembersSet: %v", err)
		}
		err := c.Abandon(t.Context())
		mu.Lock()
		defer mu.Unlock()
		if err == nil && abandoned != 1 {
			t.Errorf("Abandon returned nil; the node abandoned %d times and refused %d", abandoned, refused)
		}
		if n := c.Stats().Unmatched; n != 0 {
			t.Errorf("%d acks matched nothing", n)
		}
	})
}

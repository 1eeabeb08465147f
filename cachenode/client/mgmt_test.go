package client_test

import (
	"strings"
	"testing"

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

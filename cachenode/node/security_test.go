package node_test

import (
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/hacache/hacache/proto/cachepb"
)

// TestFalsePeers proves that a client which claims to be a node, with the token of both but as no other host of the list, is
// refused at the door. A connection that is taken for a peer's does not count against the limit of connections.
func TestFalsePeers(t *testing.T) {
	m := newMembers(t, 3)
	conn, err := grpc.NewClient(m.hosts[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	open := func(md ...string) (*cachepb.Ack, error) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), append(md, "authorization", "secret")...)
		stream, err := cachepb.NewCacheClient(conn).StreamValues(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return stream.Recv()
	}
	greeting, err := open()
	if err != nil {
		t.Fatal(err)
	}
	own := greeting.GetMgmtAck().GetLeaderInfo().GetPeer().GetStatus().GetId()
	if own == 0 {
		t.Fatalf("the node does not say who it is: %v", greeting)
	}
	for name, claim := range map[string]string{
		"no claim at all":        "",
		"nonsense":               "node",
		"a host that is unknown": fmt.Sprintf("%x;1;data", own^0xff<<40),
		"the node itself":        fmt.Sprintf("%x;1;data", own),
	} {
		if _, err := open("cachenode-peer", claim); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v, want PermissionDenied", name, err)
		}
	}
}

package node

import (
	"context"

	"google.golang.org/grpc"

	"github.com/hacache/hacache/cachenode/internal/gateway"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/server"
	"github.com/hacache/hacache/proto/cachepb"
)

// backend is the node as the sessions of its server see it. What it does not define itself is the Node's own.
type backend struct{ *Node }

var _ server.Backend = backend{}

// LeaderInfo implements server.Backend.
func (n backend) LeaderInfo() *cachepb.LeaderInfo { return n.greetings.get() }

// Health implements server.Backend.
func (n backend) Health() *cachepb.HealthAck { return n.healths.get() }

// Get implements server.Backend.
func (n backend) Get(get *cachepb.Get) *cachepb.Ack {
	return n.gw.Get(n.runner.View(), replication.Now(), get)
}

// ReadAsync implements server.Backend.
func (n backend) ReadAsync(to server.Responder, get *cachepb.Get) {
	if get.GetRead().GetMode() == cachepb.ReadTag_LEADER_ON_MISS {
		if ack := n.Get(get); ack.GetGetAck().GetValue() != nil || n.gw.Deleted(get) {
			to.Deliver(ack)
			return
		}
	}
	if n.runner.Submit(to, &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Get{Get: get}}) {
		return
	}
	to.Deliver(&cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{
		CacheName: get.GetCacheName(), Entry: get.GetEntry(), ReqId: get.GetRead().GetReqId(),
		Outcome: &cachepb.Outcome{Code: cachepb.Code_OVERLOADED, Detail: "too many requests wait at this node"},
	}}})
}

// Submit implements server.Backend.
func (n backend) Submit(to server.Responder, req *cachepb.CacheRequest) bool {
	if code, detail := n.store.Validate(req); code != cachepb.Code_OK {
		to.Deliver(gateway.Refuse(req, code, detail))
		return true
	}
	return n.runner.Submit(to, req)
}

// ServePeer implements server.Backend.
func (n backend) ServePeer(stream grpc.BidiStreamingServer[cachepb.CacheRequest, cachepb.Ack]) error {
	return n.peers.Serve(stream)
}

// Watch implements server.Backend.
func (n backend) Watch(names []string) (server.Feed, error) {
	return n.openFeed(context.Background(), names)
}

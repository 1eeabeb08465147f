package peer

import "github.com/hacache/hacache/proto/cachepb"

// reverseRequest wraps a request so that it can travel as an ack.
func reverseRequest(req *cachepb.CacheRequest) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_ReplicateAck{ReplicateAck: &cachepb.ReplicateAck{Reverse: req}}}
}

// reverseAck wraps an ack so that it can travel as a request.
func reverseAck(ack *cachepb.Ack) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Replicate{Replicate: &cachepb.Replicate{Reverse: ack}}}
}

// greetingID returns the incarnation which a LeaderInfo names, 0 if it names none; ok tells that ack is a LeaderInfo.
func greetingID(ack *cachepb.Ack) (id uint64, ok bool) {
	info := ack.GetMgmtAck().GetLeaderInfo()
	return info.GetPeer().GetStatus().GetId(), info != nil
}

func greeting(info *cachepb.LeaderInfo) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_MgmtAck{
		MgmtAck: &cachepb.MgmtAck{Method: &cachepb.MgmtAck_LeaderInfo{LeaderInfo: info}},
	}}
}

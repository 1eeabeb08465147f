package server

import (
	"context"
	"fmt"
	"time"

	"github.com/hacache/hacache/proto/cachepb"
)

// dispatch carries out one request of a client and returns 1 if it gets no answer, else 0. It runs on the reader.
func (s *session) dispatch(req *cachepb.CacheRequest) (silent int) {
	stats := &s.srv.stats
	if n := len(cachepb.ReqIDOf(req)); n > MaxReqIDBytes {
		s.answer(refuse(req, cachepb.Code_TOO_LARGE, fmt.Sprintf("req_id has %d bytes, at most %d are allowed", n, MaxReqIDBytes)), classNone)
		return 0
	}
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Get:
		stats.gets.Add(1)
		s.get(m.Get, classOf(req))
	case *cachepb.CacheRequest_Put, *cachepb.CacheRequest_Insert, *cachepb.CacheRequest_Del, *cachepb.CacheRequest_Remove:
		stats.writes.Add(1)
		s.submit(req)
	case *cachepb.CacheRequest_MgmtReq:
		stats.mgmt.Add(1)
		return s.manage(m.MgmtReq)
	case *cachepb.CacheRequest_Batch: // an item: what is not one never gets here
		s.answer(failure(cachepb.Code_INVALID, "batches do not nest"), classNone)
	case *cachepb.CacheRequest_Replicate:
		s.answer(failure(cachepb.Code_INVALID, "replicate is for peers, and this stream is a client's"), classNone)
	default:
		s.answer(failure(cachepb.Code_INVALID, "empty or unknown request"), classNone)
	}
	return 0
}

func (s *session) submit(req *cachepb.CacheRequest) {
	c := classOf(req)
	if s.refusing {
		s.answer(refuse(req, cachepb.Code_SHUTTING_DOWN, errDraining.Error()), c)
		return
	}
	if !s.srv.cfg.Backend.Submit(s.newCall(c), req) {
		s.srv.stats.overloaded.Add(1)
		s.answer(refuse(req, cachepb.Code_OVERLOADED, "the node's inbox is full"), c)
	}
}

// get answers a read in place if it can. A client without req_ids matches answers by key and order, so a read waits for
// earlier ones of its key that take longer.
func (s *session) get(get *cachepb.Get, c class) {
	b, tag := s.srv.cfg.Backend, get.GetRead()
	ordered := tag.GetReqId() == ""
	switch {
	case tag.GetMode() != cachepb.ReadTag_LOCAL && ordered:
		b.ReadAsync(s.takeTurn(get, c), get)
	case tag.GetMode() != cachepb.ReadTag_LOCAL:
		b.ReadAsync(s.newCall(c), get)
	default:
		ack := b.Get(get)
		if ordered && s.mustWait(get) {
			s.takeTurn(get, c).Deliver(ack)
			return
		}
		s.answer(ack, c)
	}
}

// manage carries out a management request. What belongs to elections comes from clients only by mistake, or from a
// seed's node that greets a leader: the contract answers that with silence.
func (s *session) manage(req *cachepb.MgmtRequest) (silent int) {
	switch m := req.GetMethod().(type) {
	case *cachepb.MgmtRequest_Ping:
		s.answer(mgmtAck(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_Pong{Pong: &cachepb.Pong{}}}), classNone)
	case *cachepb.MgmtRequest_Health:
		s.answer(mgmtAck(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_HealthAck{HealthAck: s.srv.cfg.Backend.Health()}}), classNone)
	case *cachepb.MgmtRequest_LeaderReq, *cachepb.MgmtRequest_LeaderReqAck, *cachepb.MgmtRequest_LeaderAck,
		*cachepb.MgmtRequest_LeaderSwitchPriority, *cachepb.MgmtRequest_LeaderDead, *cachepb.MgmtRequest_LeaderSwitchAck:
		return 1
	case *cachepb.MgmtRequest_LeaderSwitch:
		host := m.LeaderSwitch.GetVoteHost()
		s.background("leader switch", mgmtTimeout, func(ctx context.Context) error {
			return s.srv.cfg.Backend.LeaderSwitch(ctx, host)
		}, mgmtAck(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_LeaderSwitchAck{LeaderSwitchAck: &cachepb.LeaderSwitchAck{Addr: host}}}))
	case *cachepb.MgmtRequest_MembersSet:
		set := m.MembersSet
		s.background("members set", noTimeout, func(ctx context.Context) error {
			return s.srv.cfg.Backend.MembersSet(ctx, set.GetHosts(), set.GetHostsWritten())
		}, done())
	case *cachepb.MgmtRequest_Abandon:
		if !m.Abandon.GetYesLoseThisCopy() {
			s.answer(failure(cachepb.Code_INVALID, "abandon without yes_lose_this_copy"), classNone)
			return 0
		}
		s.background("abandon", mgmtTimeout, s.srv.cfg.Backend.Abandon, done())
	default:
		s.answer(failure(cachepb.Code_INVALID, "empty or unknown management request"), classNone)
	}
	return 0
}

func done() *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_MgmtAck{MgmtAck: &cachepb.MgmtAck{Method: &cachepb.MgmtAck_Done{Done: &cachepb.Empty{}}}}}
}

// noTimeout is for a change of hosts: new ones have to copy all data first, for which their number of bytes decides how
// long it takes. Whoever asked for it waits as long as he likes, and gives it up with his stream.
const noTimeout time.Duration = 0

// background runs a management request that takes time, one at a time, and answers when it is done: with ok, or with an
// Error. It takes no longer than limit, unless that is noTimeout, or the stream.
func (s *session) background(what string, limit time.Duration, do func(context.Context) error, ok *cachepb.Ack) {
	s.mu.Lock()
	busy := s.mgmt
	s.mgmt = true
	s.mu.Unlock()
	if busy {
		s.answer(failure(cachepb.Code_OVERLOADED, what+": another management request of this stream is not done yet"), classNone)
		return
	}
	if s.srv.managing.Add(1) > maxManaging {
		s.srv.managing.Add(-1)
		s.mu.Lock()
		s.mgmt = false
		s.mu.Unlock()
		s.answer(failure(cachepb.Code_OVERLOADED, what+": too many management requests at this node"), classNone)
		return
	}
	s.srv.readers.Go(func() {
		defer s.srv.managing.Add(-1)
		ctx := s.stream.Context()
		if limit != noTimeout {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, limit)
			defer cancel()
		}
		err := do(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mgmt = false
		if err != nil {
			ok = failure(toCode(err), fmt.Sprintf("%s: %v", what, err))
		}
		switch {
		case s.ended:
		case ok != nil:
			s.queueLocked(ok, mark{})
		default:
			s.open--
			s.wakeLocked()
			s.readable.Signal()
		}
	})
}

func mgmtAck(ack *cachepb.MgmtAck) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_MgmtAck{MgmtAck: ack}}
}

// failure is the answer to what has no ack of its own.
func failure(code cachepb.Code, detail string) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_Error{Error: &cachepb.Error{
		Error:   detail,
		Outcome: &cachepb.Outcome{Code: code, Detail: detail},
	}}}
}

// refuse answers a request without having done anything: with the ack of its kind, or with Error if it has none.
func refuse(req *cachepb.CacheRequest, code cachepb.Code, detail string) *cachepb.Ack {
	out := &cachepb.Outcome{Code: code, Detail: detail}
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Get:
		return &cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{
			CacheName: m.Get.GetCacheName(), Entry: m.Get.GetEntry(), Outcome: out, ReqId: m.Get.GetRead().GetReqId(),
		}}}
	case *cachepb.CacheRequest_Put:
		return putAck(m.Put.ReqId, out)
	case *cachepb.CacheRequest_Insert:
		return putAck(&m.Insert.ReqId, out)
	case *cachepb.CacheRequest_Del:
		return delAck(m.Del.ReqId, out)
	case *cachepb.CacheRequest_Remove:
		return delAck(&m.Remove.ReqId, out)
	default:
		return failure(code, detail)
	}
}

func putAck(reqID *string, out *cachepb.Outcome) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{ReqId: reqID, ModRes: new(false), Outcome: out}}}
}

func delAck(reqID *string, out *cachepb.Outcome) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_DelAck{DelAck: &cachepb.DelAck{ReqId: reqID, ModRes: new(false), Outcome: out}}}
}

// weight is the size of a request's names and value, which is what bounds a batch.
func weight(req *cachepb.CacheRequest) int {
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Get:
		return len(m.Get.GetCacheName()) + len(m.Get.GetEntry())
	case *cachepb.CacheRequest_Put:
		return len(m.Put.GetCacheName()) + len(m.Put.GetEntry()) + len(m.Put.GetValue())
	case *cachepb.CacheRequest_Insert:
		return len(m.Insert.GetCacheName()) + len(m.Insert.GetEntry()) + len(m.Insert.GetValue())
	case *cachepb.CacheRequest_Del:
		return len(m.Del.GetCacheName()) + len(m.Del.GetEntry())
	case *cachepb.CacheRequest_Remove:
		return len(m.Remove.GetCacheName()) + len(m.Remove.GetEntry())
	default:
		return 0
	}
}

// ackWeight is an upper estimate of an ack's size; only values, names and req_ids vary much.
func ackWeight(ack *cachepb.Ack) int {
	const rest = 128
	var change *cachepb.Change
	reqID := 0
	switch m := ack.GetMethod().(type) {
	case *cachepb.Ack_GetAck:
		return rest + len(m.GetAck.GetCacheName()) + len(m.GetAck.GetEntry()) + len(m.GetAck.GetValue()) + len(m.GetAck.GetReqId())
	case *cachepb.Ack_PutAck:
		change, reqID = m.PutAck.GetChange(), len(m.PutAck.GetReqId())
	case *cachepb.Ack_DelAck:
		change, reqID = m.DelAck.GetChange(), len(m.DelAck.GetReqId())
	}
	return rest + reqID + len(change.GetCacheName()) + len(change.GetEntry())
}

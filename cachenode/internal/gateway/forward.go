package gateway

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/proto/cachepb"
)

// Forwards keep their order.
//
// A gateway sends operations to the leader over streams that break, come back and stand in for each other. If one is lost
// and the next arrives, the lost one, sent again, would land after it; a Put that was acknowledged first would undo a
// Remove that a quorum acknowledged. So forwards are numbered without gaps in epochs, and the leader takes those of an
// epoch only in that order. At the first that it cannot take, because one is missing before it or because there is no
// room, it closes the epoch: neither that one nor anything after it is taken, now or later. It says so, by the name of
// the first that it did not take, and the gateway sends what has to be sent again in the order of arrival, under a new
// epoch. What the leader had taken already is found in the session table and not applied again.
//
// An epoch is closed for ever, and what comes twice is ignored: so the refusal of a forward is the last word on it,
// however the network repeats and delays.

// forwardName names a forward.
type forwardName struct{ epoch, n uint64 }

func (f forwardName) String() string {
	return strconv.FormatUint(f.epoch, 36) + "." + strconv.FormatUint(f.n, 36)
}

// andRest follows the name of a forward where an answer speaks of it and of all that follow it in its epoch.
const andRest = "+"

// parseForward reads a name, and whether what is said is about all that follow it as well.
func parseForward(ref string) (name forwardName, rest bool, err error) {
	ref, rest = strings.CutSuffix(ref, andRest)
	a, b, ok := strings.Cut(ref, ".")
	if !ok {
		return name, rest, fmt.Errorf("gateway: forward %q has no epoch", ref)
	}
	if name.epoch, err = strconv.ParseUint(a, 36, 64); err != nil {
		return name, rest, err
	}
	name.n, err = strconv.ParseUint(b, 36, 64)
	return name, rest, err
}

// arrivals is what a leader knows of the forwards of another gateway. It outlives the leadership, or a late copy of an
// epoch that was closed could be taken in the next one.
type arrivals struct {
	id     uint64 // the gateway's incarnation
	epoch  uint64
	next   uint64
	closed cachepb.Code // why nothing more of the epoch is taken; OK while it is open
}

// arrive finds the place of a forward among those of its gateway. It reports whether it is the next one; if not, it has
// been refused or ignored.
func (g *Gateway) arrive(o *op) bool {
	name, rest, err := parseForward(o.ref)
	if err != nil || rest {
		return false // not by a gateway of this version; no answer would be understood
	}
	a := g.arrivals[replication.IDTag(o.from)]
	if a == nil || a.id != o.from {
		a = &arrivals{id: o.from}
		g.arrivals[replication.IDTag(o.from)] = a
	}
	if name.epoch > a.epoch {
		*a = arrivals{id: o.from, epoch: name.epoch}
	}
	switch {
	case name.epoch < a.epoch || name.n < a.next:
		return false // a copy of what was taken, or of what its gateway has given up
	case a.closed == cachepb.Code_OK && name.n > a.next:
		a.closed = cachepb.Code_NOT_LEADER
	case a.closed == cachepb.Code_OK && g.bytes+o.size > 2*g.cfg.MaxBytes:
		g.stats.FullPending++
		a.closed = cachepb.Code_OVERLOADED
	case a.closed == cachepb.Code_OK && g.wait() > maxWait:
		g.stats.FullWait++
		a.closed = cachepb.Code_OVERLOADED
	}
	if a.closed != cachepb.Code_OK {
		// By the name of the first that was not taken, also if the answer about that one is lost.
		o.ref = forwardName{a.epoch, a.next}.String() + andRest
		g.refuseTo(o, a.closed, closedDetail[a.closed])
		return false
	}
	a.next++
	return true
}

var closedDetail = map[cachepb.Code]string{
	cachepb.Code_NOT_LEADER: "out of order",
	cachepb.Code_OVERLOADED: "too many operations wait at the leader",
}

// closeArrivals ends all epochs: what was taken under the leadership before this one may be lost.
func (g *Gateway) closeArrivals() {
	for _, a := range g.arrivals {
		a.closed = cachepb.Code_NOT_LEADER
	}
}

// reopen begins a new epoch.
func (g *Gateway) reopen() {
	g.stream.epoch++
	g.stream.n = 0
}

// unsent handles the leader's word that it took nothing of an epoch from name on: that goes back into the queue, or is
// answered for the leader's reason, if that is final and no earlier copy may take effect yet.
func (g *Gateway) unsent(name forwardName, out *cachepb.Outcome) {
	if name.epoch != g.stream.epoch {
		return // it has said so before
	}
	overloaded := out.GetCode() == cachepb.Code_OVERLOADED
	var back []*op
	for at, o := range g.forwarded {
		if at.epoch == name.epoch && at.n >= name.n {
			back = append(back, o)
		}
	}
	slices.SortFunc(back, func(a, b *op) int { return cmp.Compare(a.name.n, b.name.n) })
	for _, o := range back {
		delete(g.forwarded, o.name)
		switch {
		case overloaded && o.kind.waits() && o.copies == 1:
			g.answer(o, out.GetCode(), out.GetDetail())
			g.finish(o)
		case g.sendable(o):
			g.giveBack(o)
		}
	}
	g.reopen()
	if !overloaded {
		g.hold(notLeaderPause)
		return
	}
	g.refusedAt = g.core.Now()
	g.overloadPause = min(max(2*g.overloadPause, overloadPauseMin), overloadPauseMax)
	g.hold(g.overloadPause)
}

// hold lets nothing be forwarded for a while.
func (g *Gateway) hold(d time.Duration) { g.holdUntil = max(g.holdUntil, g.core.Now()+d) }

// forward sends one batch to the leader. It reports false if that is not possible now.
func (g *Gateway) forward(leader int) bool {
	ops := g.take()
	if len(ops) == 0 {
		return false
	}
	items := make([]*cachepb.CacheRequest, len(ops))
	for i, o := range ops {
		if o.own {
			o.first = g.session.base
		}
		o.ref = forwardName{g.stream.epoch, g.stream.n + uint64(i)}.String()
		items[i] = o.request(false)
	}
	req := items[0]
	if len(items) > 1 {
		req = &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Batch{Batch: &cachepb.Requests{Items: items}}}
	}
	if !g.cfg.Transport.Send(leader, replication.LaneData, req) {
		g.untake(ops)
		return false
	}
	g.stats.Forwarded += uint64(len(ops))
	for _, o := range ops {
		if o.copies > 0 {
			g.stats.Resent++
		}
		o.state, o.sentAt = stateForwarded, g.core.Now()
		o.copies++
		o.name = g.stream
		g.forwarded[o.name] = o
		g.stream.n++
	}
	return true
}

// refuseForeign sends back what other gateways forwarded to a node that does not lead any more.
func (g *Gateway) refuseForeign() {
	if g.foreign == 0 {
		return
	}
	kept := g.queue[:g.head]
	for _, o := range g.queue[g.head:] {
		if !o.foreign {
			kept = append(kept, o)
			continue
		}
		if o.state != stateDone {
			g.refuseTo(o, cachepb.Code_NOT_LEADER, "")
			g.finish(o)
		}
		g.dead--
	}
	clear(g.queue[len(kept):])
	g.queue, g.foreign = kept, 0
}

func (g *Gateway) refuseTo(o *op, code cachepb.Code, detail string) {
	g.tell(o.slot, o.ack(o.ref, true, false, g.outcome(code, detail, 0, g.core.Term())))
}

// PeerRequest implements replication.Upper: operations that another gateway forwards to this leader.
func (g *Gateway) PeerRequest(slot int, id uint64, req *cachepb.CacheRequest) {
	if b := req.GetBatch(); b != nil {
		for _, item := range b.GetItems() {
			if item.GetBatch() == nil {
				g.PeerRequest(slot, id, item)
			}
		}
		return
	}
	if get := req.GetGet(); get != nil {
		g.tell(slot, &cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: g.leaderRead(get)}})
		return
	}
	o, ok := g.parse(req)
	if !ok || o.session == 0 {
		return
	}
	o.foreign, o.slot, o.from, o.ref = true, slot, id, o.reqID
	if !g.core.Elected() {
		g.refuseTo(o, cachepb.Code_NOT_LEADER, "")
		return
	}
	if !g.arrive(o) {
		return
	}
	// What its client was told is done is not refused for want of room: its gateway had room for it.
	if code, detail := g.store.Validate(req); code != cachepb.Code_OK && (o.kind.waits() || code != cachepb.Code_OVERLOADED) {
		g.refuseTo(o, code, detail)
		return
	}
	g.stats.ForeignTaken++
	g.bytes += o.size
	// It has no deadline here: its gateway keeps that, and to drop it would break the order.
	g.n++
	o.n, o.at = g.n, g.core.Now()
	g.queue = append(g.queue, o)
	g.foreign++
}

// PeerAck implements replication.Upper: the leader's answers to what this gateway forwarded.
func (g *Gateway) PeerAck(slot int, id uint64, ack *cachepb.Ack) {
	var ref string
	var ok bool
	var out *cachepb.Outcome
	switch m := ack.GetMethod().(type) {
	case *cachepb.Ack_Batch:
		for _, item := range m.Batch.GetItems() {
			if item.GetBatch() == nil {
				g.PeerAck(slot, id, item)
			}
		}
		return
	case *cachepb.Ack_GetAck:
		g.lookedUp(m.GetAck)
		return
	case *cachepb.Ack_PutAck:
		ref, ok, out = m.PutAck.GetReqId(), m.PutAck.GetModRes(), m.PutAck.GetOutcome()
	case *cachepb.Ack_DelAck:
		ref, ok, out = m.DelAck.GetReqId(), m.DelAck.GetModRes(), m.DelAck.GetOutcome()
	default:
		return
	}
	name, rest, err := parseForward(ref)
	if err != nil || id != g.leaderID {
		return
	}
	if rest {
		g.unsent(name, out)
		return
	}
	o := g.forwarded[name]
	if o == nil {
		return
	}
	if ok {
		if o.to != nil && (o.level != levelQuorum || earlyQuorum()) && !o.acked {
			o.index, o.term = out.GetIndex(), out.GetTerm()
			g.answered(o)
		}
		return
	}
	g.leaderRefused(o, out)
}

// leaderRefused handles a leader's no to one forward. It is about one copy of the operation; if an earlier copy may be in
// a log, it says nothing about that one.
func (g *Gateway) leaderRefused(o *op, out *cachepb.Outcome) {
	switch out.GetCode() {
	case cachepb.Code_NOT_LEADER, cachepb.Code_NO_LEADER, cachepb.Code_NO_QUORUM:
		g.hold(notLeaderPause)
		g.requeue(stateForwarded)
	default:
		delete(g.forwarded, o.name)
		if o.copies > 1 && o.kind.waits() {
			return // an earlier copy may take effect yet: applied, or unknown at the deadline
		}
		g.answer(o, out.GetCode(), out.GetDetail())
		g.lose(o)
		g.finish(o)
	}
}

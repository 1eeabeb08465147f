package gateway

import (
	"slices"

	"github.com/hacache/hacache/cachenode/internal/mutant"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/proto/cachepb"
)

// reached answers an operation whose level, leader or once, was reached in this node's own log.
func (g *Gateway) reached(o *op) {
	if o.foreign {
		g.tell(o.slot, o.ack(o.ref, true, true, g.outcome(cachepb.Code_OK, "", o.index, o.term)))
		return
	}
	g.answered(o)
}

// answered gives the positive answer of a level that comes before the operation is applied here.
func (g *Gateway) answered(o *op) {
	if !mutant.On(mutant.AckBeforeApply) {
		g.overlay.put(o)
	}
	o.acked = true
	g.answerReached(o, o.level, o.place(), o.term)
	if o.waiters() == 0 {
		g.wheel.remove(o) // else a twin at a stronger level keeps the deadline
	}
	g.settled = append(g.settled, o)
}

// outcome is what became of an operation. It may be shared, and is not to be changed.
func (g *Gateway) outcome(code cachepb.Code, detail string, index, term uint64) *cachepb.Outcome {
	if d := g.done; code == cachepb.Code_OK && detail == "" && d != nil && d.Index == index && d.Term == term && d.Cluster == g.core.Cluster() {
		return d
	}
	out := &cachepb.Outcome{Code: code, Detail: detail, Cluster: g.core.Cluster(), Term: term, Index: index}
	if code == cachepb.Code_OK {
		g.done = out
	} else if l := g.core.Leader(); l >= 0 {
		out.Leader = g.core.Host(l)
	}
	return out
}

func (g *Gateway) answer(o *op, code cachepb.Code, detail string) {
	g.answerAt(o, code, detail, 0, g.core.Term())
}

// answerAt gives the one answer to each who waits for an operation.
func (g *Gateway) answerAt(o *op, code cachepb.Code, detail string, index, term uint64) {
	if o.waiters() == 0 {
		return
	}
	out := g.outcome(code, detail, index, term)
	if o.to != nil {
		g.deliver(o, twin{o.to, o.reqID, o.hasReqID, o.level}, out)
		o.to = nil
	}
	for _, t := range o.twins {
		g.deliver(o, t, out)
	}
	o.twins = nil
}

// answerReached answers those who wait for no more than the level that an operation has reached.
func (g *Gateway) answerReached(o *op, reached level, index, term uint64) {
	out := g.outcome(cachepb.Code_OK, "", index, term)
	if o.to != nil && o.level >= reached {
		g.deliver(o, twin{o.to, o.reqID, o.hasReqID, o.level}, out)
		o.to = nil
	}
	o.twins = slices.DeleteFunc(o.twins, func(t twin) bool {
		if t.level < reached {
			return false
		}
		g.deliver(o, t, out)
		return true
	})
}

// place is where an operation that is not applied yet stands in the log, 0 if that is not known: of several copies only
// the first counts, and the leader named the place of another one. A client may have sent copies through other nodes.
func (o *op) place() uint64 {
	if o.copies > 1 || !o.own {
		return 0
	}
	return o.index
}

// waiters returns how many still wait for an answer.
func (o *op) waiters() int {
	n := len(o.twins)
	if o.to != nil {
		n++
	}
	return n
}

func (g *Gateway) deliver(o *op, t twin, out *cachepb.Outcome) {
	switch out.GetCode() {
	case cachepb.Code_OK:
		g.stats.Answered++
	case cachepb.Code_INDETERMINATE:
		g.stats.Indeterminate++
	default:
		g.stats.Refused++
	}
	ack := o.ack(t.reqID, t.hasReqID, out.GetCode() == cachepb.Code_OK, out)
	if g.applying {
		g.answers = append(g.answers, delivery{t.to, ack})
		return
	}
	t.to.Deliver(ack)
}

// delivery is an answer on its way to who waits for it.
type delivery struct {
	to  replication.Responder
	ack *cachepb.Ack
}

// handOver gives the answers that were gathered to those who wait for them. Given one by one between the operations of an
// entry, each would find its stream's writer asleep again after the one before: a wake-up and a system call for each.
func (g *Gateway) handOver() {
	for _, d := range g.answers {
		d.to.Deliver(d.ack)
	}
	clear(g.answers)
	g.answers = g.answers[:0]
}

// tell queues an answer for another gateway.
func (g *Gateway) tell(slot int, ack *cachepb.Ack) {
	for slot >= len(g.acks) {
		g.acks = append(g.acks, nil)
	}
	g.acks[slot] = append(g.acks[slot], ack)
}

// sendAcks sends what this turn has to tell other gateways.
func (g *Gateway) sendAcks() {
	for slot, acks := range g.acks {
		for rest := acks; len(rest) > 0; {
			n, bytes := 0, 0
			for n < len(rest) && n < acksPerMessage && (n == 0 || bytes < ackBytes) {
				a := rest[n].GetGetAck()
				bytes += len(a.GetCacheName()) + len(a.GetEntry()) + len(a.GetValue())
				n++
			}
			ack := rest[0]
			if n > 1 {
				ack = &cachepb.Ack{Method: &cachepb.Ack_Batch{Batch: &cachepb.Acks{Items: slices.Clone(rest[:n])}}}
			}
			g.cfg.Transport.SendAck(slot, replication.LaneData, ack) // one that is lost is asked for again
			rest = rest[n:]
		}
		clear(acks)
		g.acks[slot] = acks[:0]
	}
}

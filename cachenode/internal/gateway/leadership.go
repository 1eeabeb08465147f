package gateway

import (
	"slices"
)

// noteLeadership sends operations again after a change of leader, or of the connection with it: what was sent before may
// be lost. The session table makes that safe.
func (g *Gateway) noteLeadership() {
	id, term := g.core.LeaderID(), g.core.Term()
	if id == 0 {
		return // whoever led may still have our operations; wait for somebody to ask
	}
	breaks := g.core.Breaks(g.core.Leader())
	switch {
	case id != g.leaderID || term != g.leaderTerm:
		g.proposals = g.proposals[:0]
		g.closeArrivals()
		for _, o := range g.once {
			if o.foreign && o.state != stateDone {
				g.finish(o) // its own gateway sends it again
			}
		}
		g.once = g.once[:0]
		g.requeue(stateProposed, stateForwarded)
		g.holdUntil, g.overloadPause = 0, 0
	case breaks != g.breaks || g.restored || g.overdue():
		g.requeue(stateForwarded)
	}
	g.leaderID, g.leaderTerm, g.breaks, g.restored = id, term, breaks, false
}

// overdue reports whether something that was forwarded got no answer for too long. It is looked for once in a while.
func (g *Gateway) overdue() bool {
	now := g.core.Now()
	if len(g.forwarded) == 0 || now-g.checkedAt < resendAfter/4 {
		return false
	}
	g.checkedAt = now
	for _, o := range g.forwarded {
		if now-o.sentAt > resendAfter && !o.acked {
			return true
		}
	}
	return false
}

// requeue puts sent operations in one of the given states back into the queue, unless they were answered at their level,
// and begins a new stream of forwards.
func (g *Gateway) requeue(states ...state) {
	pick := func(o *op) {
		if o != nil && slices.Contains(states, o.state) && g.sendable(o) {
			g.giveBack(o)
		}
	}
	for seq := g.session.base; seq < g.session.next; seq++ {
		pick(g.session.at(seq))
	}
	for _, o := range g.byTag {
		pick(o)
	}
	clear(g.forwarded)
	g.reopen()
}

// sendable reports whether an operation may be sent again: it must not if it was answered at its level, since it could
// overwrite a later one.
func (g *Gateway) sendable(o *op) bool { return !o.acked && (o.waiters() > 0 || !o.kind.waits()) }

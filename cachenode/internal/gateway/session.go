package gateway

import (
	"time"

	"github.com/hacache/hacache/proto/cachepb"
)

// sessionWindow bounds how far an operation's seq may be ahead of the oldest one that is not finished: the session table
// keeps that many completed seqs. Operations beyond it wait in the queue, untagged.
const sessionWindow = 4096

// sessionIdle is the time without use after which a new session is started. The table forgets a session 60 s after its
// last entry by log time; half of that leaves room for a log that lags.
const sessionIdle = 30 * time.Second

// session is the one under which this gateway sends operations that carry no tag of their own. Its first operation opens
// it: the others wait until that one is applied, since an entry of an unknown session with a later seq is refused, lest a
// very late copy be applied twice.
type session struct {
	id     uint64
	opened bool
	next   uint64 // next seq
	base   uint64 // oldest seq not finished; first_unacked
	since  uint64 // cluster time at which it began, so that a late copy of its first operation does not begin it again
	ring   [sessionWindow]*op
	used   time.Duration
}

func (s *session) at(seq uint64) *op {
	if seq < s.base || seq >= s.next {
		return nil
	}
	return s.ring[seq%sessionWindow]
}

// release forgets a finished operation and moves the window.
func (s *session) release(o *op) {
	if o.session != s.id || s.at(o.seq) != o {
		return
	}
	s.ring[o.seq%sessionWindow] = nil
	for s.base < s.next && s.ring[s.base%sessionWindow] == nil {
		s.base++
	}
	if !s.opened && s.base == s.next {
		s.id = 0 // the opening operation ended without being seen in the log; its session may or may not exist
	}
}

// tag gives an operation its (session, seq). It reports false if it has to wait for that.
func (g *Gateway) tag(o *op) bool {
	if o.session != 0 {
		return true
	}
	s, now := &g.session, g.core.Now()
	if s.id == 0 || (s.base == s.next && now-s.used > sessionIdle) {
		if s.id != 0 {
			g.stats.SessionsRenewed++
		}
		s.id, s.opened, s.next, s.base = g.cfg.Rand()|1, false, 1, 1
		s.since = uint64(g.core.ClusterMs())
	}
	if (!s.opened && s.next > 1) || s.next-s.base >= sessionWindow {
		return false
	}
	s.used = now
	o.session, o.seq, o.own = s.id, s.next, true
	if o.seq == 1 {
		o.since = s.since
	}
	s.ring[s.next%sessionWindow] = o
	s.next++
	return true
}

// renewSession gives the session up. What was sent under it has an unknown outcome, and under another one it could take
// effect twice, so it is not sent again.
func (g *Gateway) renewSession() {
	s := &g.session
	var kept []*op
	for seq := s.base; seq < s.next; seq++ {
		if o := s.at(seq); o != nil {
			kept = append(kept, o)
		}
	}
	s.id, s.opened, s.next, s.base = 0, false, 0, 0
	clear(s.ring[:])
	g.stats.SessionsRenewed++
	for _, o := range kept {
		if o.copies > 0 {
			g.answer(o, cachepb.Code_INDETERMINATE, "the node lost its session")
			g.lose(o)
			g.finish(o)
			continue
		}
		o.session, o.seq, o.since, o.own = 0, 0, 0, false
		if o.state != stateQueued {
			g.giveBack(o)
		}
	}
	g.requeue(stateForwarded)
}

package replication

import (
	"slices"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/hacache/hacache/cachenode/internal/mutant"
	"github.com/hacache/hacache/proto/cachepb"
)

// Freshness: how a node proves the age of its view without a lease.
//
// A node knows asOf, an instant on its own clock such that it has everything that was committed before it. The leader's
// is the time of its last contact with a quorum: a rival could commit only with one of those voters, and later. A
// follower's comes from a Ping of the leader that echoes the follower's own last Pong, sent at f, and says that the
// leader's quorum contact was a ago and its commit index c: the Ping was sent after f, so once c is applied, the view is
// at least as new as f-a.
//
// Nothing is promised about the future, so nobody has to wait for a promise to run out before a new leader serves.

type freshness struct {
	asOf    time.Duration // valid if has
	has     bool
	nextOf  time.Duration // becomes asOf once nextAt is applied
	nextAt  uint64
	hasNext bool

	serveFrom uint64 // after a fuzzy snapshot: nothing is served before this index is applied

	// Cluster time: base + (now-at), in ms. Carried from leader to leader, never backwards.
	base int64
	at   time.Duration
	set  bool
}

func (f *freshness) clear() { *f = freshness{} }

// startClusterTime begins cluster time from the wall clock of the node that forms the cluster.
func (f *freshness) startClusterTime(c *Core) {
	f.base, f.at, f.set = c.cfg.WallClock().UnixMilli(), c.now, true
}

// ClusterMs returns cluster time, in ms since the Unix epoch by the clock of the node that formed the cluster. Wall
// clocks that jump change nothing. Expiry is measured against it.
func (c *Core) ClusterMs() int64 {
	if !c.fresh.set {
		return 0
	}
	return c.fresh.base + (c.now - c.fresh.at).Milliseconds()
}

// NoteClusterMs moves cluster time forward to ms, if it is behind: entries carry it.
func (c *Core) NoteClusterMs(ms int64) {
	if ms > c.ClusterMs() {
		c.fresh.base, c.fresh.at, c.fresh.set = ms, c.now, true
	}
}

// ClusterTime returns cluster time as a base and the instant of that base, for readers on other goroutines.
func (c *Core) ClusterTime() (baseMs int64, at time.Duration) { return c.fresh.base, c.fresh.at }

// AsOf returns an instant on the caller's clock: this node has everything that was committed before it. ok is false if
// the node can prove nothing.
func (c *Core) AsOf() (at time.Duration, ok bool) {
	if !c.fresh.has || c.applied < c.fresh.serveFrom {
		return 0, false
	}
	return c.fresh.asOf, true
}

// updateFreshness brings asOf up to date after entries were applied or messages arrived.
func (c *Core) updateFreshness() {
	f := &c.fresh
	if c.role == raft.StateLeader {
		if at := c.quorumContact(); c.appliedTerm == c.term && at != -never {
			f.raise(at)
		}
		return
	}
	if f.hasNext && c.applied >= f.nextAt {
		f.hasNext = false
		f.raise(f.nextOf)
	}
}

func (f *freshness) raise(asOf time.Duration) {
	if !f.has || asOf > f.asOf {
		f.asOf, f.has = asOf, true
	}
}

// quorumContact returns the newest instant at which a quorum, this node included, is known to have followed it: the
// send time of the Ping that the q-th newest answer belongs to.
func (c *Core) quorumContact() time.Duration {
	return c.quorumTime((*peer).contactTime)
}

func (p *peer) contactTime() time.Duration { return p.contactAt }
func (p *peer) answerTime() time.Duration  { return p.answerAt }

// contact notes that p followed this leader when it answered at answered what was sent at sent.
func (p *peer) contact(sent, answered time.Duration) {
	if !p.contacted || sent > p.contactAt {
		p.contactAt = sent
	}
	p.answerAt, p.contacted = answered, true
}

// quorumFollows reports whether a quorum seems to follow this leader still: its answers keep coming, and they answer
// something recent. Two conditions, because a link may be slow: with a round trip of 200 ms no answer is ever to a
// question younger than that. After a pause of our own only answers to questions asked since count, or the answers that
// piled up during the pause would hide that somebody else was elected.
func (c *Core) quorumFollows() bool {
	if mutant.On(mutant.OldLeaderAcks) {
		return true
	}
	sent := c.quorumContact()
	return sent != -never && sent >= c.resumedAt &&
		c.now-sent < 2*c.cfg.ElectionTimeout && c.now-c.quorumTime((*peer).answerTime) < c.cfg.ElectionTimeout
}

// quorumTime returns the q-th newest of a time that each voter has; in a joint configuration, the older of both halves.
// It is -never if fewer have one. This node's own is now.
func (c *Core) quorumTime(of func(*peer) time.Duration) time.Duration {
	at := c.halfTime(c.conf.GetVoters(), of)
	if out := c.conf.GetVotersOutgoing(); len(out) > 0 {
		at = min(at, c.halfTime(out, of))
	}
	return at
}

func (c *Core) halfTime(ids []uint64, of func(*peer) time.Duration) time.Duration {
	var buf [8]time.Duration
	times := buf[:0]
	for _, id := range ids {
		if id == c.id {
			times = append(times, c.now)
		} else if p := c.peerByID(id); p != nil && p.contacted {
			times = append(times, of(p))
		}
	}
	need := len(ids)/2 + 1
	if len(times) < need {
		return -never
	}
	slices.Sort(times)
	return times[len(times)-need]
}

// quorumAge returns how long ago the leader last heard from a quorum.
func (c *Core) quorumAge() time.Duration {
	at := c.quorumContact()
	if at == -never {
		return never
	}
	return c.now - at
}

// ping sends a Ping on the given lanes: status, beat, and Raft's heartbeat if there is one.
func (c *Core) ping(p *peer, env *cachepb.Peer, via ...Lane) {
	if env == nil {
		env = &cachepb.Peer{Cluster: c.cluster}
	}
	env.Status = c.status()
	beat := &cachepb.Beat{Sent: int64(c.now), Echo: p.pongSent, Commit: c.applied, ClusterMs: c.ClusterMs()}
	beat.QuorumAgeUs = ^uint64(0)
	if c.Leading() {
		beat.QuorumAgeUs = uint64(c.quorumAge() / time.Microsecond)
	}
	req := mgmt(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_Ping{Ping: &cachepb.Ping{Peer: env, Beat: beat}}})
	for _, lane := range via {
		p.pingAt[lane] = c.now
		c.send(p.slot, lane, req)
	}
}

// pingIdle pings every peer that was not pinged lately, so that statuses stay fresh without a leader. It does so on all
// lanes: the transport takes a stream on which nothing comes for dead.
func (c *Core) pingIdle() {
	for _, p := range c.peers {
		if p == nil || !p.linked() {
			continue
		}
		var due []Lane
		for lane, at := range p.pingAt {
			if c.now-at >= statusInterval {
				due = append(due, Lane(lane))
			}
		}
		if len(due) > 0 {
			c.ping(p, nil, due...)
		}
	}
}

func (c *Core) receivePing(p *peer, lane Lane, m *cachepb.Ping) {
	b := m.GetBeat()
	p.owed[lane] = owedPong{owed: true, sent: b.GetSent()}
	if b == nil {
		c.open(p, m.GetPeer(), nil)
		return
	}
	fromLeader := c.open(p, m.GetPeer(), nil) && m.GetPeer().GetStatus().GetTerm() >= c.term
	if !fromLeader || !m.GetPeer().GetStatus().GetLeading() || b.GetQuorumAgeUs() == ^uint64(0) {
		return
	}
	c.NoteClusterMs(b.GetClusterMs())
	f, age := time.Duration(b.GetEcho()), time.Duration(b.GetQuorumAgeUs())*time.Microsecond
	if f == 0 || f > c.now {
		return // no Pong of ours is echoed yet, or a clock that is not ours
	}
	of := f - age
	if c.fresh.hasNext && c.fresh.nextAt > c.applied {
		// One candidate is kept, the oldest not yet reached: it is the next to come true. Taking each newer one instead
		// would move the goal away from a follower that applies with a constant lag.
		return
	}
	c.fresh.nextOf, c.fresh.nextAt, c.fresh.hasNext = of, b.GetCommit(), true
}

// pong answers the Pings of p that are owed an answer with Raft's answer to their heartbeat.
func (c *Core) pong(p *peer, env *cachepb.Peer) {
	sent := false
	for lane := range p.owed {
		if p.owed[lane].owed {
			c.sendPong(p, Lane(lane), env)
			sent = true
		}
	}
	if !sent {
		c.sendPong(p, LaneControl, env)
	}
}

// payPongs answers the Pings that Raft had nothing to say to.
func (c *Core) payPongs() {
	for _, p := range c.peers {
		if p == nil {
			continue
		}
		for lane := range p.owed {
			if p.owed[lane].owed {
				c.sendPong(p, Lane(lane), nil)
			}
		}
	}
}

func (c *Core) sendPong(p *peer, lane Lane, env *cachepb.Peer) {
	out := &cachepb.Peer{Cluster: c.cluster, Status: c.status()}
	if env != nil {
		out.Raft = env.Raft
	}
	c.sendAck(p.slot, lane, mgmtAck(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_Pong{Pong: &cachepb.Pong{
		Peer: out,
		Beat: &cachepb.Beat{Sent: int64(c.now), Echo: p.owed[lane].sent, Commit: c.applied, ClusterMs: c.ClusterMs()},
	}}}))
	p.owed[lane] = owedPong{}
}

func (c *Core) receivePong(p *peer, m *cachepb.Pong) {
	term := c.term
	letter := c.open(p, m.GetPeer(), nil)
	status := m.GetPeer().GetStatus()
	// Who says that it follows us in our term proves as much as an answered heartbeat does.
	followed := c.role == raft.StateLeader && m.GetPeer().GetCluster() == c.cluster && status.GetTerm() == term &&
		(letter || status.GetLeader() == c.id)
	b := m.GetBeat()
	sent := time.Duration(b.GetEcho())
	if b == nil || sent <= 0 || sent > c.now {
		return
	}
	p.pongSent = max(p.pongSent, b.GetSent())
	rtt := c.now - sent
	if p.rtt == 0 {
		p.rtt = rtt
	}
	p.rtt += (rtt - p.rtt) / 8
	if followed {
		p.contact(sent, c.now)
	}
}

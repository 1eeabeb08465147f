package replication

import (
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/hacache/hacache/cachenode/internal/mutant"
	"github.com/hacache/hacache/proto/cachepb"
)

// Elections.
//
// Raft's own timer handles the silent death of a leader: 200 to 400 ms without a heartbeat. A process that dies closes
// its connections, which is news within a millisecond, and the fast path turns that news into an election at once: all
// connections with the leader are broken and a redial fails, so the leader is suspected, forgotten (raft's ForgetLeader,
// which lets a voter grant a pre-vote before its election timeout), and the suspicion is told to the others. It takes a
// quorum of suspicions to elect anybody, so one node's broken cable changes nothing.
//
// Candidates would split the vote if they campaigned in the same instant, so suspecting nodes rank each other by their
// logs and the best one goes first. Withdrawing means to drop pre-vote grants, which a network may do at any time, so
// the ranking can never be a matter of safety.

const (
	recentLeader  = 90 * time.Millisecond  // a leader heard within it is alive enough to say so
	rankDelay     = 15 * time.Millisecond  // between two ranks, and the wait for others' positions
	withdrawal    = 100 * time.Millisecond // how long grants are dropped, and a better candidate is remembered
	retryFast     = 2 * time.Millisecond   // first retries of a lost pre-vote
	retryFastFor  = 30 * time.Millisecond
	retrySlow     = 40 * time.Millisecond
	retryFor      = 160 * time.Millisecond // then raft's own timer
	suspicionLife = 500 * time.Millisecond // a LeaderDead counts for ranking this long
	redialSilence = 20 * time.Millisecond  // a redial that stays silent this long has failed
)

// leadership is one reign: who leads in which term, and the timestamp the seed's messages label it with.
type leadership struct {
	ts   int64
	slot int
	id   uint64
	term uint64
}

// position is a node's place in the order of candidates: the longest log first, then the earliest candidacy, then the
// lowest id, which is arbitrary but the same everywhere.
type position struct {
	id                  uint64
	lastTerm, lastIndex uint64
	ts                  int64
}

func (a position) better(b position) bool {
	switch {
	case mutant.On(mutant.EarliestClock):
	case a.lastTerm != b.lastTerm:
		return a.lastTerm > b.lastTerm
	case a.lastIndex != b.lastIndex:
		return a.lastIndex > b.lastIndex
	case a.ts != b.ts:
		return a.ts < b.ts
	}
	return a.id < b.id
}

type election struct {
	lastTS        int64 // newest election_ts seen anywhere
	candidacyTS   int64 // ours; 0 when not a candidate
	lead          leadership
	leaderHeardAt time.Duration

	lostID       uint64 // the leader whose connections all broke, until a redial decides; 0: none
	lostAt       time.Duration
	suspected    uint64 // the leader we suspect; 0: none
	sinceAt      time.Duration
	withdrawn    bool // no leader, and a better candidate exists
	campaignAt   time.Duration
	campaignedAt time.Duration
	retryUntil   time.Duration
	fastUntil    time.Duration
	rankAt       time.Duration // when to rank among those known

	withdrawnUntil time.Duration

	switchUntil time.Duration // a LeaderSwitch was seen: hold proposals
	switchAcks  int

	ended      Change        // what ended the last reign, as far as it is known; for counting
	transferAt time.Duration // when this node began to hand leadership over
	counted    leadership    // id and term of the last leader that was counted
}

func (e *election) clear() {
	ts := e.lastTS
	*e = election{lastTS: ts, campaignAt: never, rankAt: never, lead: leadership{slot: -1}}
}

func (e *election) noteTS(ts int64) { e.lastTS = max(e.lastTS, ts) }

// ownTS returns the timestamp of the current candidacy, drawing it when the candidacy starts.
func (e *election) ownTS(c *Core) int64 {
	if e.candidacyTS == 0 {
		e.lastTS = max(c.cfg.WallClock().UnixNano(), e.lastTS+1)
		e.candidacyTS = e.lastTS
	}
	return e.candidacyTS
}

func (e *election) nextWake() time.Duration {
	at := min(e.campaignAt, e.rankAt)
	if e.lostID != 0 {
		at = min(at, e.lostAt+redialSilence)
	}
	return at
}

// heardLeader notes a letter that only the leader of the current or a later term sends.
func (e *election) heardLeader(c *Core) {
	e.leaderHeardAt = c.now
	e.suspected, e.lostID = 0, 0
	e.campaignAt, e.rankAt = never, never
}

// leaderKnown ends everything that had to do with finding a leader.
func (e *election) leaderKnown(c *Core) {
	e.suspected, e.lostID, e.withdrawn = 0, 0, false
	e.campaignAt, e.rankAt = never, never
	e.withdrawnUntil = 0
	e.switchUntil = 0
	e.candidacyTS = 0
	e.leaderHeardAt = c.now
	if c.lead != e.lead.id || c.term != e.lead.term {
		e.lead = leadership{ts: e.lead.ts, slot: c.slotOf(c.lead), id: c.lead, term: c.term}
		if c.lead != c.id {
			e.lead.ts = e.lastTS
		}
	}
}

// timedOut: raft's own timer began a pre-vote. Others refuse it while they think that the leader lives, which they do for
// up to another election timeout; asking again soon is cheap, since a pre-vote disturbs nobody.
func (e *election) timedOut(c *Core) {
	if e.suspected == 0 && e.ended != ChangeSteppedDown {
		e.ended = ChangeTimeout
	}
	if e.campaignAt == never {
		e.campaignAt, e.fastUntil, e.retryUntil = c.now+retrySlow, 0, c.now+retryFor
	}
}

// linkLost: the last connection with p broke.
func (e *election) linkLost(c *Core, p *peer) {
	if c.rn == nil || c.lead == 0 || p.id != c.lead {
		return
	}
	e.lostID, e.lostAt = p.id, c.now
	c.log.Info("all connections with the leader broke", "slot", p.slot, "term", c.term)
	c.cfg.Transport.Probe(p.slot)
}

// dialFailed: a redial of p failed. If p is the leader that was lost, that settles it.
func (e *election) dialFailed(c *Core, p *peer, refused bool) {
	if e.lostID == 0 || p.id != e.lostID || p.linked() {
		return
	}
	reason := cachepb.Suspicion_STREAM_BROKEN
	if refused {
		reason = cachepb.Suspicion_REFUSED
	}
	c.suspect(reason)
}

// leaderBack: a stream with the same incarnation is up again; nothing happened.
func (e *election) leaderBack(p *peer) {
	if e.lostID == p.id {
		e.lostID = 0
	}
}

// replaced: another incarnation answers at the slot of was.
func (e *election) replaced(c *Core, was uint64) {
	if c.rn != nil && (c.lead == was || e.lostID == was) {
		e.lostID = was
		c.suspect(cachepb.Suspicion_REPLACED)
	}
}

// suspect gives the leader up and tells the others.
func (c *Core) suspect(reason cachepb.Suspicion_Reason) {
	e := &c.election
	leader := e.lostID
	e.lostID = 0
	if leader == 0 || c.rn == nil || c.role == raft.StateLeader || e.suspected == leader {
		return
	}
	c.stats.Suspicions++
	e.ended = changeOf(reason)
	e.suspected, e.sinceAt, e.candidacyTS = leader, c.now, 0
	c.log.Info("suspecting the leader", "slot", c.slotOf(leader), "reason", reason, "term", c.term, "last", c.store.last())
	c.ready()
	if err := c.rn.ForgetLeader(); err != nil {
		return
	}
	if c.memberAt(c.conf.GetVoters(), c.cfg.Self) != c.id {
		return // a learner has no say
	}
	c.broadcast(LaneControl, &cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderDead{LeaderDead: &cachepb.LeaderDead{
		VoteHost: c.hosts.table[c.cfg.Self], ElectionTs: e.ownTS(c), Peer: c.greeting(),
		Suspicion: &cachepb.Suspicion{
			Leader: leader, Term: c.term, LastTerm: c.store.lastTerm(), LastIndex: c.store.last(), Reason: reason,
		},
	}}})
	if c.suspectingPeers() > 0 {
		c.arm()
	} else {
		e.rankAt = c.now + rankDelay
	}
}

func (c *Core) position() position {
	return position{id: c.id, lastTerm: c.store.lastTerm(), lastIndex: c.store.last(), ts: c.election.ownTS(c)}
}

// suspectingPeers counts the peers that said lately that they suspect the leader.
func (c *Core) suspectingPeers() int {
	n := 0
	for _, p := range c.peers {
		if c.suspecting(p) {
			n++
		}
	}
	return n
}

func (c *Core) suspecting(p *peer) bool {
	return p != nil && p.suspectsAt != 0 && c.now-p.suspectsAt < suspicionLife && p.linked()
}

// arm sets the time of our candidacy by our rank among the nodes that suspect the leader.
func (c *Core) arm() {
	e := &c.election
	own, rank, selfElectable := c.position(), 0, c.electable(c.id, c.status())
	for _, p := range c.peers {
		if c.suspecting(p) && (!selfElectable || c.electable(p.id, p.status) && p.suspects.better(own)) {
			rank++
		}
	}
	e.rankAt = never
	at := max(c.now+time.Duration(rank)*rankDelay, e.campaignedAt+retryFast) // further suspicions are no reason to ask twice at once
	if e.campaignAt == never || at < e.campaignAt {
		e.campaignAt = at
	}
	e.fastUntil, e.retryUntil = at+retryFastFor, at+retryFor
}

// electable reports whether a candidate could win an election, by its status and by who is seen here: both halves of its
// configuration need a live majority. In the middle of a swap the old half may have lost one; whoever has heard that the
// swap is over can win and whoever has not cannot, although its log is as long. To withdraw for that one would leave
// everybody without a leader for ever.
func (c *Core) electable(id uint64, s *cachepb.NodeStatus) bool {
	if s.GetCluster() != c.cluster || len(s.GetVotersOutgoing()) == 0 {
		return true // nothing is known against it
	}
	alive := map[uint64]bool{c.id: true, id: true}
	for _, p := range c.peers {
		if s := c.freshStatus(p); s != nil && s.GetCluster() == c.cluster {
			alive[p.id] = true
		}
	}
	return hasMajority(s.GetVoters(), alive) && hasMajority(s.GetVotersOutgoing(), alive)
}

func (c *Core) receiveDead(p *peer, m *cachepb.LeaderDead) {
	c.election.noteTS(m.GetElectionTs())
	s := m.GetSuspicion()
	if env := m.GetPeer(); env.GetCluster() != c.cluster || c.rn == nil || s == nil {
		return
	}
	c.open(p, m.GetPeer(), nil)
	e := &c.election
	if s.GetTerm() < c.term || (c.lead != 0 && s.GetLeader() != c.lead) {
		if l := c.Leader(); l >= 0 {
			c.prefer(p, l) // it missed an election
		}
		return
	}
	p.suspects = position{id: p.id, lastTerm: s.GetLastTerm(), lastIndex: s.GetLastIndex(), ts: m.GetElectionTs()}
	p.suspectsAt = c.now
	leader := c.peerByID(s.GetLeader())
	if mutant.On(mutant.PingDeadline) {
		e.lostID = c.lead
		c.suspect(s.GetReason())
	}
	switch {
	case s.GetLeader() == c.id && c.role == raft.StateLeader:
		c.ping(p, nil, LaneControl, LaneData)
	case e.suspected == s.GetLeader():
		// Whoever told us that the leader lives, before its own connections broke, knows better now.
		e.withdrawnUntil = 0
		c.arm()
	case leader != nil && leader.linked() && c.now-e.leaderHeardAt <= recentLeader:
		c.prefer(p, leader.slot)
		c.ping(leader, nil, LaneControl)
	case leader != nil && !leader.linked() && e.lostID != 0:
		// Our own redial is under way and will say.
	}
}

// prefer tells p whom this node would rather see as leader.
func (c *Core) prefer(p *peer, slot int) {
	c.send(p.slot, LaneControl, mgmt(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderSwitchPriority{
		LeaderSwitchPriority: &cachepb.LeaderSwitchPriority{
			VoteHost: c.hosts.table[slot], ElectionTs: c.election.lastTS, Peer: c.greeting(),
		},
	}}))
}

func (c *Core) receivePriority(p *peer, m *cachepb.LeaderSwitchPriority) {
	c.election.noteTS(m.GetElectionTs())
	letter := c.open(p, m.GetPeer(), nil)
	if c.rn == nil || m.GetVoteHost() == c.hosts.table[c.cfg.Self] || c.role == raft.StateLeader || letter {
		return
	}
	c.withdraw(m.GetVoteHost())
}

// withdraw makes room for a better candidate. It helps before the real vote only; after that, losing grants would just
// lose an election that nobody else is in.
func (c *Core) withdraw(to string) {
	e := &c.election
	if c.role == raft.StateCandidate || c.lead != 0 {
		return
	}
	if c.now >= e.withdrawnUntil {
		c.stats.Withdrawals++
		c.log.Info("withdrawing", "for", to, "term", c.term)
	}
	e.withdrawnUntil, e.withdrawn = c.now+withdrawal, true
	e.rankAt = never
	e.campaignAt = c.now + withdrawal
	e.retryUntil = max(e.retryUntil, e.campaignAt+retrySlow)
}

// campaign starts a pre-vote now.
func (c *Core) campaign(why string) {
	c.ready() // raft refuses while a configuration change waits to be applied
	c.stats.Elections++
	c.election.campaignedAt = c.now
	c.log.Info("campaigning", "why", why, "term", c.term, "last", c.store.last())
	_ = c.rn.Campaign() // an error means that it may not, which raft's own timer repeats
}

// runElectionTimers runs what is due of the fast path.
func (c *Core) runElectionTimers() {
	e := &c.election
	if c.rn == nil {
		return
	}
	if mutant.On(mutant.PingDeadline) {
		c.losePatience()
	}
	if e.lostID != 0 && c.now >= e.lostAt+redialSilence {
		c.suspect(cachepb.Suspicion_STREAM_BROKEN)
	}
	if c.now >= e.rankAt {
		c.arm()
	}
	if c.now < e.campaignAt {
		return
	}
	e.campaignAt = never
	c.ready() // a pre-vote won in this very turn makes us a candidate; campaigning again would throw our own vote away
	if (c.lead != 0 && c.leaderless() < c.cfg.ElectionTimeout) || c.role == raft.StateLeader || c.role == raft.StateCandidate {
		return
	}
	c.campaign("no leader")
	switch {
	case c.now < e.fastUntil:
		e.campaignAt = c.now + retryFast
	case c.now < e.retryUntil:
		e.campaignAt = c.now + retrySlow
	}
}

func (c *Core) receiveLeaderReq(p *peer, m *cachepb.LeaderReq) {
	c.election.noteTS(m.GetElectionTs())
	p.seeksTS = m.GetElectionTs()
	c.open(p, m.GetPeer(), m.GetForm())
}

// postVote answers a vote request. A grant is a LeaderReqAck; anything else is a LeaderSwitchPriority that names whom
// this node prefers.
func (c *Core) postVote(p *peer, m *raftpb.Message) {
	e := &c.election
	if !m.GetReject() {
		if m.GetType() == raftpb.MsgPreVoteResp {
			if best := c.bestCandidate(p); best != p.id {
				c.prefer(p, c.slotOf(best))
				return
			}
		}
		c.sendAck(p.slot, LaneControl, mgmtAck(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_LeaderReqAck{
			LeaderReqAck: &cachepb.LeaderReqAck{Addr: p.addr, ElectionTs: p.seeksTS, Peer: c.letter(m)},
		}}))
		return
	}
	prefer := c.cfg.Self
	switch l := c.Leader(); {
	case l >= 0 && c.leaderless() < c.cfg.ElectionTimeout:
		prefer = l
	case m.GetType() == raftpb.MsgPreVoteResp && c.Voter() && e.campaignAt == never:
		// It asks because the leader is gone, and cannot win for want of what we have. Waiting for our own timer would only
		// prolong that.
		e.campaignAt, e.fastUntil, e.retryUntil = c.now, 0, c.now+retryFor
	}
	c.send(p.slot, LaneControl, mgmt(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderSwitchPriority{
		LeaderSwitchPriority: &cachepb.LeaderSwitchPriority{
			VoteHost: c.hosts.table[prefer], ElectionTs: e.lastTS, Peer: c.letter(m),
		},
	}}))
}

// bestCandidate returns the id of the best candidate heard lately, p and this node included.
func (c *Core) bestCandidate(p *peer) uint64 {
	best := p.seeks
	if (c.role == raft.StatePreCandidate || mutant.On(mutant.EarliestClock) && c.lead == 0) && c.now >= c.election.withdrawnUntil && c.electable(c.id, c.status()) {
		if own := c.position(); own.better(best) {
			best = own
		}
	}
	for _, o := range c.peers {
		if o != nil && o.seeksAt != 0 && c.now-o.seeksAt < withdrawal && o.linked() && o.seeks.better(best) && c.electable(o.id, o.status) {
			best = o.seeks
		}
	}
	return best.id
}

func (c *Core) receiveLeaderAck(p *peer, m *cachepb.LeaderAck) {
	c.election.noteTS(m.GetElectionTs())
	p.viaAck = true
	if c.open(p, m.GetPeer(), nil) {
		// Known before raft says so at the end of this turn, for the label of the reign.
		c.election.lastTS = max(c.election.lastTS, m.GetElectionTs())
		if c.election.lead.id == p.id {
			c.election.lead.ts = m.GetElectionTs()
		}
	}
}

// heir reports whether leadership may be handed to a voter: somebody is there, and not about to end.
func (p *peer) heir() bool { return p.linked() && !p.status.GetStopping() }

// Heirs returns how many other voters could take leadership over.
func (c *Core) Heirs() int {
	n := 0
	for _, id := range c.conf.GetVoters() {
		if p := c.peerByID(id); p != nil && p.heir() {
			n++
		}
	}
	return n
}

// Transfer hands leadership to the voter at slot, or, with slot -1, to the best follower: the one with the longest log,
// then the nearest. It reports false if this node does not lead or there is nobody to hand it to.
func (c *Core) Transfer(slot int) bool {
	// A message of this turn may have ended the leadership, of which only what is ready tells. Raft would pass the request
	// on to the new leader, in a message that there is none for between nodes.
	c.ready()
	if c.rn == nil || c.role != raft.StateLeader {
		return false
	}
	var target *peer
	var targetMatch uint64
	c.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr trackerProgress) {
		p := c.peerByID(id)
		if p == nil || typ != raft.ProgressTypePeer || !p.heir() || (slot >= 0 && p.slot != slot) {
			return
		}
		if target == nil || pr.Match > targetMatch || (pr.Match == targetMatch && p.rtt < target.rtt) {
			target, targetMatch = p, pr.Match
		}
	})
	if target == nil {
		return false
	}
	c.log.Info("handing over leadership", "to", target.slot, "term", c.term)
	c.election.switchAcks = 0
	c.election.ended, c.election.transferAt = ChangeTransfer, c.now
	m := &cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderSwitch{LeaderSwitch: &cachepb.LeaderSwitch{
		VoteHost: target.addr, ElectionTs: c.election.lead.ts, Peer: c.greeting(),
	}}}
	for _, p := range c.peers {
		if p != nil && p != target && p.linked() {
			c.send(p.slot, LaneControl, mgmt(m))
		}
	}
	c.rn.TransferLeader(target.id)
	c.ready()
	return true
}

// SwitchAcks returns how many nodes have acknowledged the last Transfer.
func (c *Core) SwitchAcks() int { return c.election.switchAcks }

// postSwitch tells the target of a transfer to take over now.
func (c *Core) postSwitch(p *peer, m *raftpb.Message) {
	c.send(p.slot, LaneControl, mgmt(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderSwitch{LeaderSwitch: &cachepb.LeaderSwitch{
		VoteHost: p.addr, ElectionTs: c.election.lead.ts, Peer: c.letter(m),
	}}}))
}

func (c *Core) receiveSwitch(p *peer, m *cachepb.LeaderSwitch) {
	c.election.noteTS(m.GetElectionTs())
	if c.rn != nil && m.GetPeer().GetCluster() == c.cluster && c.role != raft.StateLeader && p.id == c.lead {
		c.election.switchUntil = c.now + c.cfg.ElectionTimeout
		c.election.ended = ChangeTransfer
	}
	c.open(p, m.GetPeer(), nil)
	c.sendAck(p.slot, LaneControl, mgmtAck(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_LeaderSwitchAck{
		LeaderSwitchAck: &cachepb.LeaderSwitchAck{Addr: c.hosts.table[c.cfg.Self], Peer: c.greeting()},
	}}))
}

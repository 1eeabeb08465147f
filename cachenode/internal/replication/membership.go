package replication

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/hacache/hacache/cachenode/internal/mutant"
	"github.com/hacache/hacache/proto/cachepb"
)

type trackerProgress = tracker.Progress

// Membership without disks.
//
// A process that restarts has forgotten what it voted and what it acknowledged, so it must not use its old Raft id
// again: it draws a new one, joins as a learner, copies, and is swapped in for the dead incarnation of its slot. Two
// rules carry the safety argument. Every voter configuration has exactly one id per slot (a slot that was absent at
// formation is represented by a placeholder, an id nobody has), and voters change only by swaps. Hence every quorum
// is a majority of slots, and since the process of a slot is in at most one cluster, two clusters can never both commit.

const (
	statusLife     = 300 * time.Millisecond // a status counts for this long, while its stream is up
	statusInterval = 100 * time.Millisecond // at most this long between two Pings to a peer
	joinInterval   = 200 * time.Millisecond // between two requests to be let in
	joinLife       = time.Second            // a request counts for this long
	voterSilence   = 300 * time.Millisecond // a voter that was heard within it is not replaced
	tellInterval   = time.Second            // between telling an empty node twice who leads
	leaderlessGive = time.Second            // G1 to G4: leaderless for this long
	changeRetry    = time.Second            // a proposed change that was not applied by then is proposed again
)

type membership struct {
	form       *cachepb.Form // what this cluster was formed from, while it has not committed anything
	founding   bool          // never had a leader yet
	settled    bool          // was a voter of a configuration that is not joint
	changing   bool          // a configuration change is proposed and not applied
	changingAt time.Duration
	joinedAt   time.Duration // last request to be let in
	abandonNow bool
	hopeless   hopelessness
	target     []string // the list of hosts that an operator asked for; on a leader
	vouched    bool     // the operator answers for what hosts were started with
	refused    error    // why the last target was given up
	waiting    string   // why this node, while it is empty, has not formed a cluster
}

// PeerUp reports a new stream with the node at slot. id is 0 while it is not known (an outgoing stream before its
// LeaderInfo).
func (c *Core) PeerUp(slot int, id uint64, dir Direction, lane Lane) {
	if !c.known(slot) || (id != 0 && c.slotOf(id) != slot) {
		return
	}
	p := c.peers[slot]
	again := !p.linked()
	p.up[dir][lane], p.upID[dir][lane] = true, id
	if id != 0 {
		if id != p.id {
			c.meet(p, id)
		}
		p.heardAt = c.now
		c.election.leaderBack(p)
	}
	p.reconnected = p.reconnected || again
	c.ping(p, nil, lane)
}

// PeerDown reports the end of a stream.
func (c *Core) PeerDown(slot int, id uint64, dir Direction, lane Lane) {
	if !c.known(slot) {
		return
	}
	p := c.peers[slot]
	p.up[dir][lane], p.upID[dir][lane] = false, 0
	if lane != LaneSnapshot {
		p.breaks++
	}
	if id := p.remaining(); id != 0 {
		c.meet(p, id)
	}
	if !p.linked() {
		p.status = nil
		c.election.linkLost(c, p)
	}
}

// remaining returns the incarnation at the other end of the streams that are up, if it is not the current one and the
// current one has none left; else 0.
func (p *peer) remaining() uint64 {
	other := uint64(0)
	for dir := range p.upID {
		for _, id := range p.upID[dir] {
			if id == p.id {
				return 0
			}
			other = max(other, id)
		}
	}
	return other
}

// DialFailed reports a failed attempt to open a stream to slot: refused, or silent for too long.
func (c *Core) DialFailed(slot int, refused bool) {
	if !c.known(slot) {
		return
	}
	c.election.dialFailed(c, c.peers[slot], refused)
}

// status describes this node to its peers.
func (c *Core) status() *cachepb.NodeStatus {
	s := &cachepb.NodeStatus{
		Id: c.id, Slot: uint32(c.cfg.Self), Cluster: c.cluster, Term: c.term, Leader: c.lead,
		Leading: c.Leading(), Applied: c.applied, SlotsHash: c.hosts.hash, JoinOnly: c.cfg.JoinOnly, StartedHash: c.hosts.started, Retired: c.hosts.retired,
		Stopping: c.stopping, Policies: c.cfg.Policies,
	}
	if c.rn != nil {
		s.LastIndex, s.LastTerm = c.store.last(), c.store.lastTerm()
		s.Voters, s.VotersOutgoing, s.Learners = c.conf.GetVoters(), c.conf.GetVotersOutgoing(), c.conf.GetLearners()
	}
	return s
}

func (c *Core) noteStatus(p *peer, s *cachepb.NodeStatus) {
	if s.GetId() != p.id {
		return
	}
	p.status, p.statusAt = s, c.now
	if s.GetCluster() == 0 {
		c.tellLeader(p)
	}
}

// tellLeader tells an empty node who leads. Its connection with this one may be older than the leadership, and the leader
// a host that is not on the list which it was started with: then it would wait to be let in by somebody it cannot see.
func (c *Core) tellLeader(p *peer) {
	l := c.Leader()
	if l < 0 || l == c.cfg.Self || l == p.slot || (p.told == c.lead && c.now-p.toldAt < tellInterval) {
		return
	}
	if c.sendAck(p.slot, LaneControl, mgmtAck(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_LeaderInfo{LeaderInfo: c.LeaderInfo()}})) {
		p.told, p.toldAt = c.lead, c.now
	}
}

// freshStatus returns what a peer said of itself lately, or nil.
func (c *Core) freshStatus(p *peer) *cachepb.NodeStatus {
	if p == nil || p.status == nil || !p.linked() || c.now-p.statusAt > statusLife {
		return nil
	}
	return p.status
}

// seenLeading returns a peer that says it leads a cluster, or nil.
func (c *Core) seenLeading() *peer {
	for _, p := range c.peers {
		if s := c.freshStatus(p); s != nil && s.GetLeading() {
			return p
		}
	}
	return nil
}

// manageMembership runs once a tick.
func (c *Core) manageMembership() {
	if c.rn == nil {
		if !c.tryForm() {
			c.askToJoin()
		}
		return
	}
	if c.lead != 0 {
		c.member.founding = false
	}
	if c.applied > 1 {
		c.member.form = nil
	}
	if reason := c.reasonToAbandon(); reason != "" {
		c.abandon(reason)
		return
	}
	if c.Leading() {
		c.reconcile()
	}
}

// wait notes why this node forms no cluster now.
func (c *Core) wait(format string, args ...any) bool {
	c.member.waiting = fmt.Sprintf(format, args...)
	return false
}

// refuse notes that no cluster can be formed with p, and says so once: only an operator can change it.
func (c *Core) refuse(p *peer, why string) {
	c.member.waiting = p.addr + " " + why
	if p.refused != why {
		p.refused = why
		c.log.Error("no cluster can be formed with this host", "host", p.addr, "reason", why)
	}
}

// Waiting returns why this node is in no cluster yet, for people; "" if it is in one.
func (c *Core) Waiting() string {
	if c.rn != nil {
		return ""
	}
	return c.member.waiting
}

// samePolicies reports whether a process was given the same cache policies as this one. Replicas with different ones
// evict and expire differently, each in silence. Who joins a cluster takes over its policies, so this matters to
// founders only: a change of policies can be rolled out node by node, and takes effect with the next cluster.
func (c *Core) samePolicies(hash uint64) bool {
	return hash == c.cfg.Policies || hash == 0 || c.cfg.Policies == 0
}

// tryForm forms a cluster if this node is the one to do it: a majority of the listed hosts is seen empty and with the same
// cache policies, nobody leads one, nobody has another list, and it is the first of the empty ones.
func (c *Core) tryForm() bool {
	members := c.hosts.members
	self := slices.Index(members, c.cfg.Self)
	switch {
	case c.cfg.JoinOnly:
		return c.wait("told to join only")
	case c.hosts.retired || self < 0:
		return c.wait("not a host of the cluster any more")
	}
	voters := make([]uint64, len(members))
	voters[self] = c.id
	seen, others := 1, 0
	for _, p := range c.peers {
		s := c.freshStatus(p)
		if s == nil {
			continue
		}
		switch {
		case s.GetLeading():
			return c.wait("not let in by %s yet", p.addr)
		case s.GetSlotsHash() != c.hosts.hash && s.GetCluster() == 0 && !s.GetJoinOnly():
			c.refuse(p, "was started with another list of hosts")
			return false
		case s.GetSlotsHash() != c.hosts.hash:
			return c.wait("%s has another list of hosts", p.addr)
		}
		place := slices.Index(members, p.slot)
		if s.GetCluster() != 0 || s.GetJoinOnly() || s.GetRetired() || place < 0 {
			continue
		}
		if !c.samePolicies(s.GetPolicies()) {
			c.refuse(p, "was given other cache policies")
			others++
			continue
		}
		if place < self {
			return c.wait("%s is to form the cluster", p.addr)
		}
		voters[place] = p.id
		seen++
	}
	if seen < c.hosts.q || (seen < len(members) && c.now-c.started < c.cfg.FormGrace) {
		if others == 0 {
			c.wait("sees %d of %d hosts without a cluster", seen, len(members))
		}
		return false
	}
	if mutant.On(mutant.NoPlaceholders) {
		voters = slices.DeleteFunc(voters, func(id uint64) bool { return id == 0 })
	}
	for place, id := range voters {
		if id == 0 {
			// A placeholder: it will never vote, and is swapped out when the host's node comes.
			voters[place] = c.drawID(members[place])
		}
	}
	c.member = membership{founding: true, form: &cachepb.Form{Voters: voters, SlotsHash: c.hosts.hash, Policies: c.cfg.Policies}}
	cluster := c.cfg.Rand() | 1
	c.stats.Forms++
	c.log.Info("forming a cluster", "cluster", idString(cluster), "seen", seen, "of", len(members))
	c.boot(cluster, 1, 1, &raftpb.ConfState{Voters: voters})
	c.fresh.startClusterTime(c)
	c.campaign("form")
	return true
}

// askToJoin tells the node that leads that this one exists.
func (c *Core) askToJoin() {
	if c.now < c.member.joinedAt+joinInterval && c.member.joinedAt != 0 {
		return
	}
	p := c.seenLeading()
	if p == nil {
		return
	}
	c.member.joinedAt = c.now
	c.send(p.slot, LaneControl, mgmt(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderReqAck{
		LeaderReqAck: &cachepb.LeaderReqAck{
			Addr: p.addr, ElectionTs: c.election.lastTS, Peer: c.greeting(),
			Join: &cachepb.Join{Id: c.id, Slot: uint32(c.cfg.Self), SlotsHash: c.hosts.hash},
		},
	}}))
}

func (c *Core) receiveJoin(p *peer, m *cachepb.LeaderReqAck) {
	c.election.noteTS(m.GetElectionTs())
	c.open(p, m.GetPeer(), nil)
	if j := m.GetJoin(); j != nil && j.GetId() == p.id {
		p.joinID, p.joinAt = p.id, c.now
	}
}

// reconcile moves the configuration one step towards "the live process of each slot is its voter". Each step depends on
// the applied configuration and on what is seen now, not on earlier steps, so any later leader simply continues.
func (c *Core) reconcile() {
	if c.member.changing && c.now-c.member.changingAt < changeRetry {
		return
	}
	if len(c.conf.GetVotersOutgoing()) > 0 {
		// Raft leaves a joint configuration by itself, unless a transfer of leadership made it drop the proposal.
		if c.now-c.member.changingAt > changeRetry && c.now-c.leadSince > changeRetry {
			c.proposeChange(&raftpb.ConfChangeV2{})
		}
		return
	}
	if c.Transferring() {
		return
	}
	for _, p := range c.peers {
		if p == nil || p.id == 0 {
			continue
		}
		if cc := c.nextChange(p); cc != nil {
			c.proposeChange(cc)
			return
		}
	}
	if cc := c.changeHosts(); cc != nil {
		c.proposeChange(cc)
	}
}

// nextChange returns the next step for one slot, or nil.
func (c *Core) nextChange(p *peer) *raftpb.ConfChangeV2 {
	voter, learner := c.memberAt(c.conf.GetVoters(), p.slot), c.memberAt(c.conf.GetLearners(), p.slot)
	if !c.wanted(p.slot) {
		if learner != 0 && voter == 0 {
			return changes(raftpb.ConfChangeRemoveNode, learner) // of a change of hosts that was given up
		}
		return nil
	}
	if voter == p.id {
		if learner != 0 {
			return changes(raftpb.ConfChangeRemoveNode, learner)
		}
		return nil
	}
	if learner == p.id {
		if c.caughtUp(p) && voter != 0 {
			return changes(raftpb.ConfChangeRemoveNode, voter, raftpb.ConfChangeAddNode, p.id)
		}
		return nil
	}
	asks := p.joinID == p.id && c.now-p.joinAt < joinLife
	if !asks || (voter != 0 && c.now-p.idAt < voterSilence) {
		// The voter of this slot, an earlier incarnation, may have been heard until the new one appeared.
		return nil
	}
	if learner != 0 {
		return changes(raftpb.ConfChangeRemoveNode, learner, raftpb.ConfChangeAddLearnerNode, p.id)
	}
	return changes(raftpb.ConfChangeAddLearnerNode, p.id)
}

// caughtUp reports whether a learner has everything but the last message's worth, so that counting its vote costs no
// availability and, since the swap commits under both configurations, no durability.
func (c *Core) caughtUp(p *peer) bool {
	s := c.freshStatus(p)
	if s == nil || s.GetCluster() != c.cluster {
		return false
	}
	if mutant.On(mutant.EarlyPromotion) {
		return true
	}
	ok := false
	c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr trackerProgress) {
		if id != p.id || pr.State != tracker.StateReplicate {
			return
		}
		if pr.Match >= c.applied {
			ok = true
			return
		}
		if pr.Match+1 < c.store.first {
			return
		}
		behind := uint64(0)
		for i := pr.Match + 1; i <= c.applied && behind <= 1<<20; i++ {
			behind += uint64(entrySize(c.store.ents[c.store.head+int(i-c.store.first)]))
		}
		ok = behind <= 1<<20
	})
	return ok
}

// memberAt returns the id of ids that belongs to slot, or 0.
func (c *Core) memberAt(ids []uint64, slot int) uint64 {
	for _, id := range ids {
		if c.slotOf(id) == slot {
			return id
		}
	}
	return 0
}

// changes builds one configuration change from (type, id) pairs. More than one makes it a joint change that raft leaves
// by itself.
func changes(pairs ...any) *raftpb.ConfChangeV2 {
	cc := &raftpb.ConfChangeV2{Transition: raftpb.ConfChangeTransitionJointImplicit.Enum()}
	for i := 0; i < len(pairs); i += 2 {
		cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{
			Type: pairs[i].(raftpb.ConfChangeType).Enum(), NodeId: new(pairs[i+1].(uint64)),
		})
	}
	if len(cc.Changes) == 1 {
		cc.Transition = raftpb.ConfChangeTransitionAuto.Enum()
	}
	return cc
}

// noteSettled follows the applied configuration. Until the joint change that swapped this node in is over, the old half
// still counts the process that it replaces: another node that fails now takes the majority of that half with it.
func (c *Core) noteSettled() { c.member.settled = c.member.settled || c.Voter() && !c.Joint() }

func (c *Core) proposeChange(cc *raftpb.ConfChangeV2) {
	if err := c.rn.ProposeConfChange(cc); err != nil {
		return
	}
	// The library replaces a change by an empty entry while an earlier one is not applied, and says nothing. So the
	// proposal proves nothing: only applying it does.
	c.unstored++
	c.member.changing, c.member.changingAt = true, c.now
	c.log.Info("changing the configuration", "change", raftpb.ConfChangesToString(cc.GetChanges()))
}

// reasonToAbandon returns why this member should forget everything and become empty, or "". Abandoning is always safe,
// since it equals a crash and restart; the rules only keep it from being wasteful. They are numbered as in DESIGN.md.
func (c *Core) reasonToAbandon() string {
	if c.member.abandonNow {
		return "G6: asked by an operator"
	}
	if c.role == raft.StateLeader {
		return ""
	}
	if c.leaderless() < leaderlessGive {
		return ""
	}
	if c.member.founding {
		return "G1: no leader since the cluster was formed"
	}
	for _, p := range c.peers {
		s := c.freshStatus(p)
		switch {
		case s == nil || !s.GetLeading():
		case s.GetCluster() != c.cluster:
			return "G2: another cluster has a leader"
		case !c.inConf(s, c.id):
			c.hosts.retired = !c.hostInConf(s)
			return "G3: this cluster's leader has a configuration without this node"
		}
	}
	live, all, known := c.liveMajority()
	if !live && all {
		return "G4: all slots are seen and this cluster has no live majority"
	}
	lasted := c.member.hopeless.note(c.now, live, known >= c.hosts.q)
	if c.cfg.AbandonAfter > 0 && lasted >= c.cfg.AbandonAfter {
		return "G5: no live majority for too long"
	}
	return ""
}

// hopelessness is how long a majority of slots has been seen, and no live majority among them. That there is no leader says
// nothing of the kind: after an outage of the whole network, or on machines that stood still, there has been none for long
// when the first of the others is seen, and the rest is a moment away.
type hopelessness struct {
	noted       bool
	since, last time.Duration
}

// note is called once a tick while there is no leader, and returns for how long it has been so. What is not seen for less
// than leaderlessGive, or not looked at, as while a leader was heard, interrupts nothing; a live majority does at once.
func (h *hopelessness) note(now time.Duration, live, known bool) time.Duration {
	switch {
	case live:
		h.noted = false
		return 0
	case !known:
		return 0
	case !h.noted || now-h.last >= leaderlessGive:
		h.noted, h.since = true, now
	}
	h.last = now
	return now - h.since
}

func (c *Core) inConf(s *cachepb.NodeStatus, id uint64) bool {
	return slices.Contains(s.GetVoters(), id) || slices.Contains(s.GetVotersOutgoing(), id) || slices.Contains(s.GetLearners(), id)
}

// hostInConf reports whether any process of this node's host is in a configuration.
func (c *Core) hostInConf(s *cachepb.NodeStatus) bool {
	return c.memberAt(s.GetVoters(), c.cfg.Self) != 0 || c.memberAt(s.GetVotersOutgoing(), c.cfg.Self) != 0 ||
		c.memberAt(s.GetLearners(), c.cfg.Self) != 0
}

// leaderless returns how long no leader of this node's cluster has been heard.
func (c *Core) leaderless() time.Duration {
	if c.role == raft.StateLeader {
		return 0
	}
	return c.now - max(c.election.leaderHeardAt, c.joinedAt)
}

// liveMajority tells whether the newest configuration known among the members seen has a live majority in both halves,
// whether all slots are seen, and how many are.
func (c *Core) liveMajority() (live, all bool, seen int) {
	own := c.status()
	newest := own
	alive := map[uint64]bool{c.id: true}
	seen = 1
	for _, p := range c.peers {
		s := c.freshStatus(p)
		if s == nil {
			continue
		}
		if c.hosts.isMember(p.slot) {
			seen++
		}
		if s.GetCluster() != c.cluster {
			continue
		}
		alive[p.id] = true
		if s.GetApplied() > newest.GetApplied() {
			newest = s
		}
	}
	live = hasMajority(newest.GetVoters(), alive)
	if len(newest.GetVotersOutgoing()) > 0 {
		live = live && hasMajority(newest.GetVotersOutgoing(), alive)
	}
	return live, seen == len(c.hosts.members), seen
}

func hasMajority(ids []uint64, alive map[uint64]bool) bool {
	n := 0
	for _, id := range ids {
		if alive[id] {
			n++
		}
	}
	return n > len(ids)/2 // an empty list has none: a learner that never got a configuration knows of nobody
}

// abandon forgets everything: the node is empty again, under a new id.
func (c *Core) abandon(reason string) {
	c.log.Warn("abandoning", "reason", reason, "cluster", idString(c.cluster), "id", idString(c.id), "term", c.term, "applied", c.applied)
	c.stats.Abandons++
	c.stats.AbandonReason = reason
	c.forget()
	c.cfg.Upper.Reset()
	c.cfg.Transport.Reconnect()
}

// Stop says that this process is about to end, and tells the peers at once: none shall hand leadership to it.
func (c *Core) Stop() {
	if c.stopping {
		return
	}
	c.stopping = true
	for _, p := range c.peers {
		if p != nil && p.linked() {
			c.ping(p, nil, LaneControl)
		}
	}
}

// Abandon makes the node forget its copy at the next tick (rule G6).
func (c *Core) Abandon() { c.member.abandonNow = true }

package replication

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/mutant"
	"github.com/hacache/hacache/proto/cachepb"
)

// A Raft message, here called a letter, travels in the seed message that has the same job. The letter is the truth; the
// seed fields around it are what a person or a seed node reads. A receiver takes a letter from whichever envelope it
// comes in, so a wrong envelope is never a matter of safety.
//
//	MsgPreVote, MsgVote                  LeaderReq               request, control
//	... granted                          LeaderReqAck            answer,  control
//	... rejected, or a grant held back   LeaderSwitchPriority    request, control
//	MsgApp before the peer's first ack   LeaderAck               request, data
//	the answer to that                   LeaderAckAck            answer,  data
//	MsgApp, MsgSnap, MsgReadIndex        Replicate               request, data
//	MsgAppResp, MsgReadIndexResp         ReplicateAck            answer,  data
//	MsgHeartbeat, MsgHeartbeatResp       Ping, Pong              both lanes
//	MsgTimeoutNow                        LeaderSwitch            request, control

func mgmt(m *cachepb.MgmtRequest) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_MgmtReq{MgmtReq: m}}
}

func mgmtAck(m *cachepb.MgmtAck) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_MgmtAck{MgmtAck: m}}
}

// letter seals one Raft message.
func (c *Core) letter(m *raftpb.Message) *cachepb.Peer {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("replication: marshal %v: %v", m.GetType(), err)) // cannot be: raft built it
	}
	return &cachepb.Peer{Cluster: c.cluster, Raft: b}
}

// greeting is the part of a message that carries no letter but tells who we are.
func (c *Core) greeting() *cachepb.Peer {
	return &cachepb.Peer{Cluster: c.cluster, Status: c.status()}
}

// superseded reports whether a letter says nothing that a later one of the same turn does not say: an append without entries
// that tells what is committed, before one with the entries that follow; the acknowledgement of an append, before that of a
// later one. Raft writes both for nearly every batch under load, and each message costs its receiver a turn.
func superseded(m *raftpb.Message, later []*raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgApp:
		if len(m.GetEntries()) > 0 {
			return false
		}
	case raftpb.MsgAppResp:
		if m.GetReject() {
			return false
		}
	default:
		return false
	}
	for _, n := range later {
		if n.GetType() == m.GetType() && n.GetTo() == m.GetTo() && n.GetTerm() == m.GetTerm() && !n.GetReject() &&
			n.GetIndex() >= m.GetIndex() && n.GetCommit() >= m.GetCommit() {
			return true
		}
	}
	return false
}

// commitLag is for how long after an append the next one is taken to be near: it would be under load, and if it is not, a
// heartbeat says within 30 ms what is committed. Why not longer? Raft notices that entries were lost by an append without
// entries that it sends when a heartbeat is answered. That one must get through, also where nothing is committed any more.
const commitLag = 2 * time.Millisecond

// mayWait reports whether a letter only tells how far the log is committed, to a node that will hear of it soon anyway:
// entries are on their way, and when they are acknowledged there is more to tell, or the next ones go out. Sent at once it
// would be one of two messages to each follower for each batch, and be answered as well.
func (c *Core) mayWait(m *raftpb.Message) bool {
	if m.GetType() != raftpb.MsgApp || len(m.GetEntries()) > 0 || m.GetCommit() >= c.store.last() {
		return false
	}
	p := c.peerByID(m.GetTo())
	return p != nil && p.confirmed && p.appendAt > 0 && c.now-p.appendAt < commitLag
}

// post puts one outgoing letter into its envelope and sends it.
func (c *Core) post(m *raftpb.Message) {
	p := c.peerByID(m.GetTo())
	if p == nil {
		// A placeholder, or an incarnation that has not been seen yet or is gone. Raft must learn that a snapshot for
		// it went nowhere, or it would wait for the outcome for ever.
		if m.GetType() == raftpb.MsgSnap {
			c.transfers.abort(c, m.GetTo())
		}
		return
	}
	addr := c.hosts.table[c.cfg.Self]
	switch m.GetType() {
	case raftpb.MsgPreVote, raftpb.MsgVote:
		req := &cachepb.LeaderReq{Addr: addr, ElectionTs: c.election.ownTS(c), Peer: c.letter(m)}
		if c.member.form != nil {
			req.Form = c.member.form
		}
		c.send(p.slot, LaneControl, mgmt(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderReq{LeaderReq: req}}))
	case raftpb.MsgPreVoteResp, raftpb.MsgVoteResp:
		c.postVote(p, m)
	case raftpb.MsgApp:
		c.postAppend(p, m)
	case raftpb.MsgAppResp:
		if p.viaAck && !m.GetReject() {
			p.viaAck = false
			c.sendAck(p.slot, LaneData, mgmtAck(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_LeaderAckAck{
				LeaderAckAck: &cachepb.LeaderAckAck{Addr: addr, Peer: c.letter(m)},
			}}))
			return
		}
		c.postReply(p, m)
	case raftpb.MsgReadIndexResp:
		c.postReply(p, m)
	case raftpb.MsgReadIndex:
		c.postReplicate(p, m)
	case raftpb.MsgSnap:
		c.transfers.launch(c, p, m)
	case raftpb.MsgHeartbeat:
		c.ping(p, c.letter(m), LaneControl, LaneData)
	case raftpb.MsgHeartbeatResp:
		c.pong(p, c.letter(m))
	case raftpb.MsgTimeoutNow:
		c.postSwitch(p, m)
	default:
		panic(fmt.Sprintf("replication: raft sends %v", m.GetType())) // local types stay in the library
	}
}

func (c *Core) postReplicate(p *peer, m *raftpb.Message) {
	ok := c.send(p.slot, LaneData, &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Replicate{
		Replicate: &cachepb.Replicate{Peer: c.letter(m)},
	}})
	if !ok && m.GetType() == raftpb.MsgApp {
		c.rn.ReportUnreachable(m.GetTo())
	}
}

func (c *Core) postReply(p *peer, m *raftpb.Message) {
	c.sendAck(p.slot, LaneData, &cachepb.Ack{Method: &cachepb.Ack_ReplicateAck{
		ReplicateAck: &cachepb.ReplicateAck{Peer: c.letter(m)},
	}})
}

// postAppend sends entries. Until a peer has confirmed the leadership once, they come as a LeaderAck: I lead now.
func (c *Core) postAppend(p *peer, m *raftpb.Message) {
	if len(m.GetEntries()) > 0 {
		p.appendAt = c.now
	}
	c.countSent(m)
	if p.confirmed {
		c.postReplicate(p, m)
		return
	}
	ack := &cachepb.LeaderAck{Addr: c.hosts.table[c.cfg.Self], ElectionTs: c.election.lead.ts, Peer: c.letter(m)}
	ack.Peer.Status = c.status()
	if !c.send(p.slot, LaneData, mgmt(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderAck{LeaderAck: ack}})) {
		c.rn.ReportUnreachable(m.GetTo())
	}
}

// ReceiveRequest takes a request that the incarnation id at slot sent. The message belongs to the core afterwards.
func (c *Core) ReceiveRequest(slot int, id uint64, lane Lane, req *cachepb.CacheRequest) {
	p := c.heard(slot, id)
	if p == nil {
		return
	}
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_MgmtReq:
		c.receiveMgmt(p, lane, m.MgmtReq)
	case *cachepb.CacheRequest_Replicate:
		if chunk := m.Replicate.GetChunk(); chunk != nil {
			c.receiveChunk(p, chunk)
		}
		c.open(p, m.Replicate.GetPeer(), nil)
	default:
		c.cfg.Upper.PeerRequest(slot, id, req)
	}
}

// ReceiveAck takes an answer that the incarnation id at slot sent. The message belongs to the core afterwards.
func (c *Core) ReceiveAck(slot int, id uint64, lane Lane, ack *cachepb.Ack) {
	p := c.heard(slot, id)
	if p == nil {
		return
	}
	switch m := ack.GetMethod().(type) {
	case *cachepb.Ack_MgmtAck:
		c.receiveMgmtAck(p, m.MgmtAck)
	case *cachepb.Ack_ReplicateAck:
		if ca := m.ReplicateAck.GetChunkAck(); ca != nil {
			c.receiveChunkAck(p, ca)
		}
		c.open(p, m.ReplicateAck.GetPeer(), nil)
	default:
		c.cfg.Upper.PeerAck(slot, id, ack)
	}
}

func (c *Core) receiveMgmt(p *peer, lane Lane, req *cachepb.MgmtRequest) {
	switch m := req.GetMethod().(type) {
	case *cachepb.MgmtRequest_Ping:
		c.receivePing(p, lane, m.Ping)
	case *cachepb.MgmtRequest_Health:
		c.sendAck(p.slot, lane, mgmtAck(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_HealthAck{HealthAck: c.Health()}}))
	case *cachepb.MgmtRequest_LeaderReq:
		c.receiveLeaderReq(p, m.LeaderReq)
	case *cachepb.MgmtRequest_LeaderReqAck:
		c.receiveJoin(p, m.LeaderReqAck)
	case *cachepb.MgmtRequest_LeaderAck:
		c.receiveLeaderAck(p, m.LeaderAck)
	case *cachepb.MgmtRequest_LeaderSwitch:
		c.receiveSwitch(p, m.LeaderSwitch)
	case *cachepb.MgmtRequest_LeaderSwitchPriority:
		c.receivePriority(p, m.LeaderSwitchPriority)
	case *cachepb.MgmtRequest_LeaderDead:
		c.receiveDead(p, m.LeaderDead)
	}
}

func (c *Core) receiveMgmtAck(p *peer, ack *cachepb.MgmtAck) {
	switch m := ack.GetMethod().(type) {
	case *cachepb.MgmtAck_Pong:
		c.receivePong(p, m.Pong)
	case *cachepb.MgmtAck_LeaderInfo:
		c.election.noteTS(m.LeaderInfo.GetElectionTs())
		if c.rn == nil && m.LeaderInfo.GetAddr() != "" {
			c.learn(m.LeaderInfo.GetAddr()) // a leader that was added after our configuration was written
		}
		c.open(p, m.LeaderInfo.GetPeer(), nil)
	case *cachepb.MgmtAck_LeaderReqAck:
		c.election.noteTS(m.LeaderReqAck.GetElectionTs())
		c.open(p, m.LeaderReqAck.GetPeer(), nil)
	case *cachepb.MgmtAck_LeaderAckAck:
		p.confirmed = p.confirmed || c.open(p, m.LeaderAckAck.GetPeer(), nil)
	case *cachepb.MgmtAck_LeaderSwitchAck:
		c.open(p, m.LeaderSwitchAck.GetPeer(), nil)
		c.election.switchAcks++
	}
}

// heard notes that a peer is alive and returns it; nil if the message comes from an incarnation that is gone.
func (c *Core) heard(slot int, id uint64) *peer {
	if !c.known(slot) || c.slotOf(id) != slot {
		c.stats.LettersDropped++
		return nil
	}
	p := c.peers[slot]
	if p.id == 0 {
		c.meet(p, id)
	}
	if p.id != id {
		c.stats.LettersDropped++
		return nil
	}
	p.heardAt = c.now
	return p
}

// meet makes id the current incarnation at a slot: the one whose stream came up last. Streams of two incarnations overlap
// for a moment, and ids have no order, so this may be wrong for as long as the older one's streams live; PeerDown mends it.
func (c *Core) meet(p *peer, id uint64) {
	was := p.id
	// What the transport knows of connections does not change with our knowledge of who is behind them.
	*p = peer{slot: p.slot, addr: p.addr, up: p.up, upID: p.upID, breaks: p.breaks, id: id, idAt: c.now}
	p.told, p.toldAt = c.lead, c.now // the connection began with our LeaderInfo
	if was != 0 {
		c.log.Info("peer has a new incarnation", "slot", p.slot, "was", idString(was), "is", idString(id))
		c.transfers.abort(c, was)
		c.election.replaced(c, was)
	}
}

// open takes the status and the letter out of an envelope. It reports whether a letter was accepted.
func (c *Core) open(p *peer, env *cachepb.Peer, form *cachepb.Form) bool {
	if env == nil {
		return false
	}
	if s := env.GetStatus(); s != nil {
		c.noteStatus(p, s)
	}
	if len(env.GetRaft()) == 0 {
		return false
	}
	m, err := unmarshalLetter(env.GetRaft())
	if err != nil {
		c.stats.LettersDropped++
		return false
	}
	if c.rn == nil && m.GetFrom() == p.id && m.GetTo() == c.id && env.GetCluster() != 0 {
		c.adopt(p, env.GetCluster(), m, form)
	}
	if err := c.admit(p, env.GetCluster(), m); err != nil {
		c.stats.LettersDropped++
		return false
	}
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		c.dropWaiting(p, m)
		if m.GetTerm() >= c.term {
			c.election.heardLeader(c)
		}
	case raftpb.MsgPreVoteResp:
		if !m.GetReject() && c.now < c.election.withdrawnUntil {
			return false // withdrawn: a grant that does not arrive is something Raft always has to live with
		}
		c.voteTwice(m)
	case raftpb.MsgVoteResp:
		c.voteTwice(m)
	case raftpb.MsgPreVote:
		p.seeks = position{id: p.id, lastTerm: m.GetLogTerm(), lastIndex: m.GetIndex(), ts: p.seeksTS}
		p.seeksAt = c.now
		c.disregardLog(m)
	case raftpb.MsgVote:
		c.disregardLog(m)
	case raftpb.MsgAppResp:
		if c.role == raft.StateLeader && m.GetTerm() == c.term {
			// It follows us in this term, so it did so at some time after the term began.
			p.contact(c.leadSince, c.now)
		}
	}
	// An error here is raft's own refusal (a response from somebody who is not in the configuration); to drop is right.
	err = c.rn.Step(m)
	if m.GetType() == raftpb.MsgSnap {
		c.ready() // now: what the letter filter saw of the transfer must still be there when it is installed
	}
	return err == nil
}

// admit is the letter filter. Dropping a letter is always safe, so whatever is doubtful goes. It is not cosmetic: a
// follower without a leader grants its vote to any id that has a long enough log, and the library trusts its messages'
// indices and contexts far enough to crash on a wrong one.
func (c *Core) admit(p *peer, cluster uint64, m *raftpb.Message) error {
	if mutant.On(mutant.NoLetterFilter) && c.rn != nil {
		return nil
	}
	switch {
	case c.rn == nil:
		return fmt.Errorf("%v for an empty node", m.GetType())
	case cluster != c.cluster:
		return fmt.Errorf("%v from cluster %016x", m.GetType(), cluster)
	case m.GetTo() != c.id:
		return fmt.Errorf("%v for %s", m.GetType(), idString(m.GetTo()))
	case m.GetFrom() != p.id:
		return fmt.Errorf("%v signed by %s over a stream of %s", m.GetType(), idString(m.GetFrom()), idString(p.id))
	case (m.GetTerm() == 0) != (m.GetType() == raftpb.MsgReadIndex): // which raft forwards without one
		return fmt.Errorf("%v of term %d", m.GetType(), m.GetTerm())
	case m.GetTerm() > c.term+maxTermJump:
		return fmt.Errorf("%v of term %d, ours is %d", m.GetType(), m.GetTerm(), c.term)
	}
	switch m.GetType() {
	case raftpb.MsgPreVote, raftpb.MsgVote:
		// Only a process of our own cluster gets here, and an id is in at most one configuration per slot. A candidate
		// that the configuration does not know may be one whose addition we have not applied yet; raft decides.
		return nil
	case raftpb.MsgPreVoteResp, raftpb.MsgVoteResp, raftpb.MsgAppResp, raftpb.MsgTimeoutNow, raftpb.MsgReadIndexResp:
		if m.GetType() == raftpb.MsgReadIndexResp && len(m.GetEntries()) != 1 {
			return fmt.Errorf("MsgReadIndexResp with %d entries", len(m.GetEntries()))
		}
		if m.GetType() == raftpb.MsgAppResp && !m.GetReject() && m.GetIndex() > c.store.last()+c.unstored {
			return fmt.Errorf("MsgAppResp for %d beyond the last entry", m.GetIndex())
		}
		return nil
	case raftpb.MsgHeartbeatResp:
		if n := len(m.GetContext()); n != 0 && n != 8 {
			return fmt.Errorf("MsgHeartbeatResp with a context of %d bytes", n)
		}
		return nil
	case raftpb.MsgHeartbeat:
		if m.GetCommit() > c.store.last() {
			return fmt.Errorf("MsgHeartbeat commits %d, the log ends at %d", m.GetCommit(), c.store.last())
		}
		if n := len(m.GetContext()); n != 0 && n != 8 {
			return fmt.Errorf("MsgHeartbeat with a context of %d bytes", n)
		}
		return nil
	case raftpb.MsgApp:
		return admitEntries(m)
	case raftpb.MsgReadIndex:
		if len(m.GetEntries()) != 1 || len(m.GetEntries()[0].GetData()) != 8 {
			return fmt.Errorf("MsgReadIndex without a context")
		}
		return nil
	case raftpb.MsgSnap:
		meta := m.GetSnapshot().GetMetadata()
		if meta.GetIndex() == 0 || meta.GetIndex() > maxIndex || meta.GetTerm() == 0 || meta.GetTerm() > m.GetTerm() {
			return fmt.Errorf("MsgSnap at index %d of term %d", meta.GetIndex(), meta.GetTerm())
		}
		if _, err := tryConf(meta.GetConfState()); err != nil {
			return fmt.Errorf("MsgSnap: configuration: %w", err)
		}
		return c.transfers.admit(m.GetSnapshot())
	}
	return fmt.Errorf("%v is not for the wire", m.GetType())
}

// maxTermJump bounds how far ahead of ours a term may be. Terms grow by one an election; a term near the end of its range
// would spread and end in an overflow.
const maxTermJump = 1 << 32

// maxIndex bounds a snapshot's index, so that what follows it can be counted, also by a state machine with 48 bits for it.
const maxIndex = 1 << 47

func admitEntries(m *raftpb.Message) error {
	for i, e := range m.GetEntries() {
		if e.GetIndex() != m.GetIndex()+1+uint64(i) {
			return fmt.Errorf("MsgApp after %d has entry %d at place %d", m.GetIndex(), e.GetIndex(), i)
		}
		if e.GetTerm() == 0 || e.GetTerm() > m.GetTerm() || (i == 0 && e.GetTerm() < m.GetLogTerm()) ||
			(i > 0 && e.GetTerm() < m.GetEntries()[i-1].GetTerm()) {
			return fmt.Errorf("MsgApp of term %d has an entry of term %d", m.GetTerm(), e.GetTerm())
		}
		switch e.GetType() {
		case raftpb.EntryNormal:
		case raftpb.EntryConfChangeV2:
			if err := proto.Unmarshal(e.GetData(), &raftpb.ConfChangeV2{}); err != nil {
				return fmt.Errorf("MsgApp: entry %d: %w", e.GetIndex(), err)
			}
		default:
			return fmt.Errorf("MsgApp has an entry of type %v", e.GetType())
		}
	}
	return nil
}

// founder reports whether a form names this node and p at their slots.
func (c *Core) founder(form *cachepb.Form, p *peer) bool {
	v := form.GetVoters()
	at := func(slot int) int { return slices.Index(c.hosts.members, slot) }
	if mutant.On(mutant.NoPlaceholders) {
		return slices.Contains(v, c.id) && slices.Contains(v, p.id)
	}
	return len(v) == len(c.hosts.members) && at(c.cfg.Self) >= 0 && at(p.slot) >= 0 &&
		v[at(c.cfg.Self)] == c.id && v[at(p.slot)] == p.id
}

// adopt moves an empty node into a cluster that addresses it by its id: as a founding member if the letter is a vote
// request that carries the Form, as a learner if a leader writes to it.
func (c *Core) adopt(p *peer, cluster uint64, m *raftpb.Message, form *cachepb.Form) {
	switch m.GetType() {
	case raftpb.MsgPreVote, raftpb.MsgVote:
		if form == nil || form.GetSlotsHash() != c.hosts.hash || !c.samePolicies(form.GetPolicies()) || !c.founder(form, p) || c.seenLeading() != nil || c.cfg.JoinOnly {
			return
		}
		c.log.Info("adopting a new cluster", "cluster", idString(cluster), "from", p.slot)
		c.member.founding = true
		c.member.form = form
		c.boot(cluster, 1, 1, &raftpb.ConfState{Voters: form.GetVoters()})
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		c.log.Info("joining a cluster", "cluster", idString(cluster), "leader", p.slot)
		c.boot(cluster, 0, 0, &raftpb.ConfState{})
	}
}

func idString(id uint64) string { return fmt.Sprintf("%016x", id) }

func confString(cs *raftpb.ConfState) string {
	s := "voters"
	for _, id := range cs.GetVoters() {
		s += " " + idString(id)
	}
	if out := cs.GetVotersOutgoing(); len(out) > 0 {
		s += " outgoing"
		for _, id := range out {
			s += " " + idString(id)
		}
	}
	if l := cs.GetLearners(); len(l) > 0 {
		s += " learners"
		for _, id := range l {
			s += " " + idString(id)
		}
	}
	return s
}

var _ raft.Storage = (*logStore)(nil)

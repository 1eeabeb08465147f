package replication

import (
	"time"

	"go.etcd.io/raft/v3"

	"github.com/hacache/hacache/proto/cachepb"
)

// State returns the node's state in the seed's words. It is a pure function of the core; the first match wins.
func (c *Core) State() *cachepb.State {
	empty := &cachepb.Empty{}
	e := &c.election
	leader := c.Leader()
	_, fresh := c.freshFor()
	switch {
	case c.rn == nil:
		return &cachepb.State{Value: &cachepb.State_Undefined{Undefined: empty}}
	case c.role == raft.StateLeader && c.appliedTerm == c.term && !c.quorumFollows():
		return &cachepb.State{Value: &cachepb.State_Undefined{Undefined: empty}}
	case c.Transferring():
		return &cachepb.State{Value: &cachepb.State_LeaderSwitch{LeaderSwitch: empty}}
	case c.role == raft.StateCandidate, c.role == raft.StatePreCandidate && c.now >= e.withdrawnUntil,
		c.role == raft.StateLeader && c.appliedTerm != c.term:
		return &cachepb.State{Value: &cachepb.State_LeadershipRequested{LeadershipRequested: empty}}
	case c.role == raft.StateLeader:
		return &cachepb.State{Value: &cachepb.State_Leader{Leader: empty}}
	case leader < 0 && (e.suspected != 0 || e.withdrawn):
		return &cachepb.State{Value: &cachepb.State_LeaderDead{LeaderDead: empty}}
	case leader >= 0 && (!c.peers[leader].linked() || !c.Voter() || !c.member.settled):
		return &cachepb.State{Value: &cachepb.State_LeaderTxAwait{LeaderTxAwait: empty}}
	case leader >= 0 && fresh:
		return &cachepb.State{Value: &cachepb.State_Follower{Follower: empty}}
	}
	return &cachepb.State{Value: &cachepb.State_Undefined{Undefined: empty}}
}

// freshFor returns the age of this node's view and whether it is within the bound of local reads.
func (c *Core) freshFor() (age time.Duration, ok bool) {
	at, ok := c.AsOf()
	if !ok {
		return never, false
	}
	return c.now - at, c.now-at <= c.cfg.MaxStaleness
}

// Voter reports whether this node is a voter of the applied configuration.
func (c *Core) Voter() bool { return c.rn != nil && c.memberAt(c.conf.GetVoters(), c.cfg.Self) == c.id }

// Voters returns the ids of the voters of the applied configuration. The caller must not modify it.
func (c *Core) Voters() []uint64 { return c.conf.GetVoters() }

// Joint reports whether the applied configuration is in the middle of a swap, when both its halves need a majority.
func (c *Core) Joint() bool { return len(c.conf.GetVotersOutgoing()) > 0 }

// Ready reports whether this node is a voter, fresh, and done with being swapped in: what readiness means to an
// orchestrator, who then restarts the next node. It does not change when others are swapped in.
func (c *Core) Ready() bool {
	_, ok := c.freshFor()
	return ok && c.Voter() && c.member.settled
}

// HasQuorum reports whether this node knows of a leader that a quorum follows.
func (c *Core) HasQuorum() bool {
	if c.role == raft.StateLeader {
		return c.Leading()
	}
	_, ok := c.freshFor()
	return ok && c.lead != 0
}

// Health answers a Health request. The caller adds uptime and version.
func (c *Core) Health() *cachepb.HealthAck {
	age, ok := c.freshFor()
	h := &cachepb.HealthAck{
		Quorum: c.HasQuorum(), State: c.State(), Term: c.term, Cluster: c.cluster, Peer: c.greeting(),
		UptimeSecs: uint64((c.now - c.started) / time.Second),
	}
	if age != never {
		h.StalenessUs = uint64(max(age, 0) / time.Microsecond)
	} else if !ok {
		h.StalenessUs = ^uint64(0)
	}
	if l := c.Leader(); l >= 0 {
		h.Leader = &cachepb.Leader{
			Addr: c.hosts.table[l], ElectionTs: c.election.lead.ts, Connected: l == c.cfg.Self || c.peers[l].linked(),
		}
	}
	match := map[uint64]uint64{}
	if c.role == raft.StateLeader {
		c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr trackerProgress) { match[id] = pr.Match })
	}
	for _, slot := range c.hosts.members {
		p := c.peers[slot]
		if p == nil {
			h.HostHealth = append(h.HostHealth, &cachepb.HostHealth{Addr: c.hosts.table[slot], Connected: true, Status: c.status(), Match: match[c.id]})
			continue
		}
		h.HostHealth = append(h.HostHealth, &cachepb.HostHealth{
			Addr: p.addr, Connected: p.linked(), Status: c.freshStatus(p), RttUs: uint32(p.rtt / time.Microsecond), Match: match[p.id],
		})
	}
	return h
}

// LeaderInfo is the first message on every stream.
func (c *Core) LeaderInfo() *cachepb.LeaderInfo {
	info := &cachepb.LeaderInfo{ElectionTs: -1, HasQuorum: c.HasQuorum(), Peer: c.greeting(), Term: c.term, Cluster: c.cluster, ClusterMs: c.ClusterMs()}
	if l := c.Leader(); l >= 0 {
		info.Addr, info.ElectionTs = new(c.hosts.table[l]), c.election.lead.ts
	}
	return info
}

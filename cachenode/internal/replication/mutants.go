package replication

import (
	"math"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/mutant"
	"github.com/hacache/hacache/proto/cachepb"
)

// The bodies of the core's planted bugs. In a build without the tag "mutants" each of these functions does nothing, and
// is compiled away.

// voteTwice counts a granted vote for every voter.
func (c *Core) voteTwice(m *raftpb.Message) {
	if !mutant.On(mutant.VoteTwice) || m.GetReject() {
		return
	}
	for _, id := range c.conf.GetVoters() {
		twice := proto.Clone(m).(*raftpb.Message)
		twice.From = new(id)
		_ = c.rn.Step(twice)
	}
}

// disregardLog makes a candidate's log as long as any.
func (c *Core) disregardLog(m *raftpb.Message) {
	if mutant.On(mutant.EarliestClock) {
		m.LogTerm, m.Index = new(uint64(math.MaxInt64)), new(uint64(math.MaxInt64))
	}
}

// countSent takes entries for replicated that are about to be sent.
func (c *Core) countSent(m *raftpb.Message) {
	if n := len(m.GetEntries()); n > 0 && mutant.On(mutant.QuorumWithoutAck) {
		_ = c.rn.Step(&raftpb.Message{
			Type: new(raftpb.MsgAppResp), From: new(m.GetTo()), To: new(c.id), Term: new(m.GetTerm()), Index: new(m.GetEntries()[n-1].GetIndex()),
		})
	}
}

// dropWaiting loses what is in the first append after a connection came back.
func (c *Core) dropWaiting(p *peer, m *raftpb.Message) {
	if !mutant.On(mutant.DropOnReconnect) || !p.reconnected || len(m.GetEntries()) == 0 {
		return
	}
	p.reconnected = false
	for _, e := range m.GetEntries() {
		if e.GetType() == raftpb.EntryNormal {
			e.Data = nil
		}
	}
}

// committed returns the entries in the order in which they are to be applied.
func committed(entries []*raftpb.Entry) []*raftpb.Entry {
	if !mutant.On(mutant.ApplyOutOfOrder) {
		return entries
	}
	out := make([]*raftpb.Entry, len(entries))
	for i, e := range entries {
		out[i] = e
		if i == 0 || len(e.GetData()) == 0 || e.GetType() != raftpb.EntryNormal || len(out[i-1].GetData()) == 0 || out[i-1].GetType() != raftpb.EntryNormal {
			continue
		}
		first, second := proto.Clone(out[i-1]).(*raftpb.Entry), proto.Clone(e).(*raftpb.Entry)
		first.Data, second.Data = second.Data, first.Data
		out[i-1], out[i] = first, second
	}
	return out
}

// losePatience suspects a leader that has not answered the last Ping within 5 ms.
func (c *Core) losePatience() {
	p := c.peerByID(c.lead)
	if p == nil || !p.linked() {
		return
	}
	if asked := p.pingAt[LaneControl]; asked != 0 && p.heardAt < asked && c.now-asked >= 5*time.Millisecond {
		c.election.lostID = p.id
		c.suspect(cachepb.Suspicion_TIMEOUT)
	}
}

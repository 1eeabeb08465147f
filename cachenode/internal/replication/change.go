package replication

import (
	"go.etcd.io/raft/v3"

	"github.com/hacache/hacache/proto/cachepb"
)

// Change is why this node has another leader than before, as far as it knows.
type Change uint8

// The reasons for a change of leader.
const (
	ChangeNone        Change = iota // the same leader as before is known again
	ChangeFirst                     // it is the first that this node knows in its cluster
	ChangeElsewhere                 // others elected it, this node had noticed nothing
	ChangeTransfer                  // leadership was handed over
	ChangeTimeout                   // nothing was heard of the leader for an election timeout
	ChangeBroken                    // all connections broke and a redial was cut off or stayed silent
	ChangeRefused                   // all connections broke and a redial was refused
	ChangeReplaced                  // another process answers at the leader's host
	ChangeSteppedDown               // this node led and found that no quorum follows, or that there is a later term
	NumChanges
)

func (r Change) String() string {
	return [NumChanges]string{
		"same", "first", "elsewhere", "transfer", "timeout", "stream_broken", "refused", "replaced", "stepped_down",
	}[r]
}

func changeOf(s cachepb.Suspicion_Reason) Change {
	switch s {
	case cachepb.Suspicion_STREAM_BROKEN:
		return ChangeBroken
	case cachepb.Suspicion_REFUSED:
		return ChangeRefused
	case cachepb.Suspicion_REPLACED:
		return ChangeReplaced
	}
	return ChangeTimeout
}

// noteChange returns why the node has the leader that it has just learned of, ChangeNone if that is the one it had before,
// and forgets what led to it.
func (e *election) noteChange(c *Core) Change {
	why, was := e.ended, e.counted
	e.ended, e.counted = ChangeNone, leadership{id: c.lead, term: c.term}
	switch {
	case was == e.counted:
		return ChangeNone
	case was.id == 0:
		return ChangeFirst
	case why == ChangeNone:
		return ChangeElsewhere
	}
	return why
}

// noteSteppedDown: this node does not lead any more. That is how a transfer ends, too.
func (e *election) noteSteppedDown(c *Core) {
	if e.ended != ChangeTransfer || c.now-e.transferAt > 2*c.cfg.ElectionTimeout {
		e.ended = ChangeSteppedDown
	}
}

// Role is a node's place in its cluster.
type Role uint8

// The roles.
const (
	RoleEmpty Role = iota // in no cluster
	RoleLearner
	RoleFollower
	RoleCandidate
	RoleLeader
	NumRoles
)

func (r Role) String() string {
	return [NumRoles]string{"empty", "learner", "follower", "candidate", "leader"}[r]
}

// Role returns what this node is now.
func (c *Core) Role() Role {
	switch {
	case c.rn == nil:
		return RoleEmpty
	case c.role == raft.StateLeader:
		return RoleLeader
	case !c.Voter():
		return RoleLearner
	case c.role == raft.StateFollower:
		return RoleFollower
	}
	return RoleCandidate
}

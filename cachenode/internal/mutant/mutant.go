// Package mutant holds the switches of deliberately planted bugs. They exist to prove that the tests and the chaos
// scenarios can fail: each mutant breaks one rule, and a named check must find it.
//
// Without the build tag "mutants" On is a constant false, and the compiler removes every planted bug.
package mutant

// The mutants of the core, which the simulation finds.
const (
	// NoPlaceholders forms a cluster of the nodes that are seen, without ids for absent slots.
	NoPlaceholders = "no-placeholders"
	// SameID gives a restarted process the id of the one before.
	SameID = "same-id"
	// VoteTwice counts each granted vote for one more voter.
	VoteTwice = "vote-twice"
	// EarlyPromotion makes a learner a voter before it has caught up.
	EarlyPromotion = "early-promotion"
	// EarlyAck acknowledges at quorum what is only proposed, in the simulation's register.
	EarlyAck = "early-ack"
	// NoLetterFilter steps every letter, whoever it is from and for.
	NoLetterFilter = "no-letter-filter"
)

// The mutants of a whole node, which scenarios find: chaos mutants says which one finds which.
const (
	// QuorumBeforeCommit acknowledges at quorum what the leader has only put into its own log.
	QuorumBeforeCommit = "quorum-before-commit"
	// QuorumWithoutAck counts an entry as replicated as soon as it is sent.
	QuorumWithoutAck = "quorum-without-ack"
	// DropOnReconnect loses the updates that had waited for a connection to come back.
	DropOnReconnect = "drop-on-reconnect"
	// OldLeaderAcks lets a leader go on that no quorum follows any more.
	OldLeaderAcks = "old-leader-acks"
	// EarliestClock elects whoever has the earliest wall clock, whatever its log lacks.
	EarliestClock = "earliest-clock"
	// PingDeadline takes a leader for dead that has not answered a Ping within 5 ms, and tells everybody.
	PingDeadline = "ping-deadline"
	// StaleReads answers reads however old the copy is.
	StaleReads = "stale-reads"
	// ApplyOutOfOrder applies two entries that were committed together in the wrong order.
	ApplyOutOfOrder = "apply-out-of-order"
	// RemoveOnLeader removes on the leader only.
	RemoveOnLeader = "remove-on-leader"
	// AckBeforeApply acknowledges at the gateway what cannot be read there yet.
	AckBeforeApply = "ack-before-apply"
	// NoHeartbeat takes a leader for alive as long as its connections are.
	NoHeartbeat = "no-heartbeat"
	// InsertAnywhere lets the node that receives an Insert carry it out, like a Put.
	InsertAnywhere = "insert-anywhere"
	// NoSessionsInSnapshot leaves the session table out of snapshots.
	NoSessionsInSnapshot = "no-sessions-in-snapshot"
)

// Core lists the mutants that the simulation has to find.
func Core() []string {
	return []string{NoPlaceholders, SameID, VoteTwice, EarlyPromotion, EarlyAck, NoLetterFilter}
}

// Names lists all mutants.
func Names() []string {
	return append(
		Core(), QuorumBeforeCommit, QuorumWithoutAck, DropOnReconnect, OldLeaderAcks, EarliestClock, PingDeadline, StaleReads,
		ApplyOutOfOrder, RemoveOnLeader, AckBeforeApply, NoHeartbeat, InsertAnywhere, NoSessionsInSnapshot,
	)
}

// Package mutant holds the switches of deliberately planted bugs. They exist to prove that the tests and the chaos
// scenarios can fail: each mutant breaks one rule, and a named check must find it.
//
// Without the build tag "mutants" On is a constant false, and the compiler removes every planted bug.
package mutant

// The mutants.
const (
	// NoPlaceholders forms a cluster of the nodes that are seen, without ids for absent slots.
	NoPlaceholders = "no-placeholders"
	// SameID gives a restarted process the id of the one before.
	SameID = "same-id"
	// VoteTwice counts each granted vote for one more voter.
	VoteTwice = "vote-twice"
	// EarlyPromotion makes a learner a voter before it has caught up.
	EarlyPromotion = "early-promotion"
	// EarlyAck acknowledges at quorum what is only proposed.
	EarlyAck = "early-ack"
	// NoLetterFilter steps every letter, whoever it is from and for.
	NoLetterFilter = "no-letter-filter"
)

// Names lists them.
func Names() []string {
	return []string{NoPlaceholders, SameID, VoteTwice, EarlyPromotion, EarlyAck, NoLetterFilter}
}

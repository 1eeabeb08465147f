// Package faults holds the hooks by which a chaos run breaks a node from the
// inside: its wall clock, and points at which it dies. With the build tag
// "faults" they read files that the variables CACHE_FAULT_CLOCK and
// CACHE_FAULT_POINT name; without it, which is how the node ships, Now is
// time.Now, Point is nothing, and the compiler removes both.
package faults

// The points at which a process can be told to die.
const (
	BeforeAppend    = "before-append"    // entries were received, and are in no log here
	AfterAppend     = "after-append"     // they are in the log, and nobody was told
	BeforeApply     = "before-apply"     // a majority has them, and this node has not applied them
	SnapshotSend    = "snapshot-send"    // a part of the copy was sent
	SnapshotReceive = "snapshot-receive" // a part of the copy was taken
	DuringSwap      = "during-swap"      // a new node is being put in the place of another: both configurations count
)

// Points lists them.
func Points() []string {
	return []string{BeforeAppend, AfterAppend, BeforeApply, SnapshotSend, SnapshotReceive, DuringSwap}
}

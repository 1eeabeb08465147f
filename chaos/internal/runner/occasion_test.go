package runner

import (
	"testing"

	"github.com/hacache/hacache/reports/result"
)

// TestOccasion proves that a fault waits for something new: a leader of a later
// term, the loss of the last leader, a process that is started; and not for
// what was there before, or for the end of a pause.
func TestOccasion(t *testing.T) {
	role := func(node string, r result.Role, term uint64) result.Event {
		return result.Event{Kind: result.Observe, Node: node, Role: r, Term: term}
	}
	leader, follower, dead := result.RoleLeader, result.RoleFollower, result.RoleUndefined
	before := []result.Event{role("n1", leader, 3), role("n2", follower, 3), {Kind: result.Process, Node: "n3", State: result.ProcessRunning, Detail: "pid 7"}}
	for _, tt := range []struct {
		on     string
		events []result.Event
		at     int // the event that is the one; -1: none
	}{
		{"leader_elected", []result.Event{role("n2", follower, 3), role("n1", leader, 3), role("n2", leader, 4)}, 2},
		{"leader_elected", []result.Event{role("n1", dead, 3), role("n1", leader, 3)}, -1},
		{"leader_elected", []result.Event{role("n2", follower, 5), role("n1", leader, 5)}, 1}, // a follower was polled before its leader
		{"leader_lost", []result.Event{role("n2", dead, 3), role("n1", dead, 3)}, 1},
		{"leader_lost", []result.Event{role("n2", leader, 4), role("n1", dead, 3)}, -1},
		{"process_started", []result.Event{role("n1", dead, 3), {Kind: result.Process, Node: "n1", State: result.ProcessRunning, Detail: "resumed"}, {Kind: result.Process, Node: "n1", State: result.ProcessExited}, {Kind: result.Process, Node: "n1", State: result.ProcessRunning, Detail: "pid 8"}}, 3},
	} {
		o := occasion{on: tt.on, roles: map[string]result.Role{}}
		for i := range before {
			if o.see(&before[i]) {
				t.Errorf("%s: event %d from before counts", tt.on, i)
			}
		}
		o.since = true
		got := -1
		for i := range tt.events {
			if o.see(&tt.events[i]) && got < 0 {
				got = i
			}
		}
		if got != tt.at {
			t.Errorf("%s: event %d of %v, want %d", tt.on, got, tt.events, tt.at)
		}
	}
}

package runner

import (
	"context"

	"github.com/hacache/hacache/reports/result"
)

// occasion is what a fault waits for: it is told of every event since the start
// of the run, and says when the one is there.
type occasion struct {
	on    string
	since bool   // the events are no longer those from before the wait
	term  uint64 // the newest that a leader was seen in
	roles map[string]result.Role
}

// see takes one event and reports whether it is the one.
func (o *occasion) see(e *result.Event) bool {
	switch {
	case e.Kind == result.Process && o.on == "process_started":
		return o.since && e.State == result.ProcessRunning && e.Detail != "resumed"
	case e.Kind != result.Observe:
		return false
	}
	led := o.leads()
	o.roles[e.Node] = e.Role
	newer := e.Role == result.RoleLeader && e.Term > o.term
	if newer {
		o.term = e.Term
	}
	switch o.on {
	case "leader_elected":
		return o.since && newer
	case "leader_lost":
		return o.since && led && !o.leads()
	}
	return false
}

func (o *occasion) leads() bool {
	for _, r := range o.roles {
		if r == result.RoleLeader {
			return true
		}
	}
	return false
}

// await waits until what a fault waits for is seen; false if the load ends
// before.
func (r *run) await(ctx context.Context, on string) bool {
	ctx, cancel := context.WithTimeout(ctx, r.origin+r.Plan.Length-r.now())
	defer cancel()
	o := occasion{on: on, roles: map[string]result.Role{}}
	for next := 0; ; {
		r.mu.Lock()
		fresh, logged := r.events[next:], r.logged
		r.mu.Unlock()
		for i := range fresh {
			if o.see(&fresh[i]) {
				return true
			}
		}
		next += len(fresh)
		o.since = true
		select {
		case <-logged:
		case <-ctx.Done():
			return false
		}
	}
}

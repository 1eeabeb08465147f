package runner

import (
	"context"
	"sync"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// pollInterval is how often each node is asked for its role.
const pollInterval = 8 * time.Millisecond

// pollPatience is how long an answer may take before the node counts as not
// answering.
const pollPatience = 250 * time.Millisecond

// observe polls the role of every node and logs each change, until ctx is done;
// also what did not change, once a process has started, stopped or ended: it is
// the first that is known of that process.
func (r *run) observe(ctx context.Context) {
	var wg sync.WaitGroup
	for _, n := range r.system.Nodes() {
		wg.Go(func() { r.watch(ctx, n.Name) })
	}
	wg.Wait()
}

func (r *run) watch(ctx context.Context, node string) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var last result.Event
	known := 0
	for {
		state := r.stateOf(node)
		poll, cancel := context.WithTimeout(ctx, pollPatience)
		e, err := r.system.Observe(poll, node)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			e = result.Event{Role: result.RoleUndefined, Term: last.Term, Cluster: last.Cluster, Detail: "does not answer"}
		}
		e.T, e.Kind, e.Node = r.now(), result.Observe, node
		same := last
		same.T = e.T
		// Equal but for the time: nothing has changed.
		if !sameEvent(&e, &same) || state != known {
			r.log(e)
			last, known = e, state
			r.see(e)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// stateOf returns how often the process of a node has changed its state.
func (r *run) stateOf(node string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.states[node]
}

func sameEvent(a, b *result.Event) bool {
	return a.T == b.T && a.Kind == b.Kind && a.Node == b.Node && a.Role == b.Role && a.Term == b.Term && a.Leader == b.Leader && a.Cluster == b.Cluster && a.Detail == b.Detail
}

package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hacache/hacache/chaos/internal/check"
	"github.com/hacache/hacache/chaos/internal/cluster"
)

// statePatience is how long the nodes are asked again until their answers are
// about one index.
const (
	statePatience = 5 * time.Second
	statePause    = 20 * time.Millisecond
)

// compareStates notes what each node holds after they have converged.
func (r *run) compareStates(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, statePatience)
	defer cancel()
	for {
		states, err := r.digests(ctx)
		if err == nil {
			r.facts.States, r.facts.StateError = states, ""
			return
		}
		if r.facts.StateError == "" || ctx.Err() == nil { // what was found, not that time is over
			r.facts.States, r.facts.StateError = states, err.Error()
		}
		if errors.Is(err, cluster.ErrNoAdmin) || !pause(ctx, statePause) {
			return
		}
	}
}

// digests asks every node once. The error says why they cannot be compared.
func (r *run) digests(ctx context.Context) ([]check.Digest, error) {
	var out []check.Digest
	for _, n := range r.system.Nodes() {
		d, err := r.system.Digest(ctx, n.Name)
		if err != nil {
			return out, fmt.Errorf("%s does not say what it holds: %w", n.Name, err)
		}
		r.noteForgotten(&d)
		out = append(out, d)
	}
	for _, d := range out {
		if d.Applied != out[0].Applied {
			return out, fmt.Errorf("%s has applied %d, %s %d", out[0].Node, out[0].Applied, d.Node, d.Applied)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("there is no node")
	}
	return out, nil
}

// noteForgotten keeps the highest counts of what went from the caches by
// itself: a process that is killed takes its own with it.
func (r *run) noteForgotten(d *check.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keep := func(counts *map[string]uint64, of map[string]uint64) {
		for cache, n := range of {
			if *counts == nil {
				*counts = map[string]uint64{}
			}
			if n > 0 {
				(*counts)[cache] = max((*counts)[cache], n)
			}
		}
	}
	keep(&r.facts.Evicted, d.Evicted)
	keep(&r.facts.Expired, d.Expired)
}

// watchForgetting asks the nodes once a second what they have forgotten.
func (r *run) watchForgetting(ctx context.Context) {
	for pause(ctx, time.Second) {
		for _, n := range r.system.Nodes() {
			if d, err := r.system.Digest(ctx, n.Name); err == nil { // else it is down
				r.noteForgotten(&d)
			}
		}
	}
}

package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hacache/hacache/cachenode/internal/admin"
	"github.com/hacache/hacache/cachenode/internal/replication"
)

// ErrRunTwice is returned by the second call of Run: a process run has one identity.
var ErrRunTwice = errors.New("node: Run was called before")

// transferLimit bounds the hand-over of leadership on the way out. It takes a few round trips, or it will not happen.
const transferLimit = time.Second

// Run serves until ctx is done, or something it cannot do without fails, and then stops in order. It returns nil after
// an orderly stop.
func (n *Node) Run(ctx context.Context) error {
	if n.ran.Swap(true) {
		return ErrRunTwice
	}
	failed := make(chan error, 5) // one place for each goroutine below; none of them may block on it
	var serving, running sync.WaitGroup
	runCtx, stopRunner := context.WithCancel(context.Background())
	defer stopRunner()
	peerCtx, stopPeers := context.WithCancel(context.Background())
	defer stopPeers()

	running.Go(func() {
		if err := n.runner.Run(runCtx); err != nil && runCtx.Err() == nil {
			failed <- fmt.Errorf("node: core: %w", err)
		}
	})
	serving.Go(func() {
		if err := n.server.Serve(n.ln); err != nil {
			failed <- fmt.Errorf("node: serve %s: %w", n.ln.Addr(), err)
		}
	})
	serving.Go(func() {
		if err := n.peers.Run(peerCtx); err != nil && peerCtx.Err() == nil {
			failed <- fmt.Errorf("node: peers: %w", err)
		}
	})
	watchCtx, stopWatch := context.WithCancel(context.Background())
	defer stopWatch()
	serving.Go(func() { n.watch(watchCtx) })
	serving.Go(func() { n.tellChanges(watchCtx) })
	serving.Go(func() { n.watchKeys(watchCtx) })
	if n.admin != nil {
		serving.Go(func() {
			inspection := n.server.Inspection()
			defer inspection.Stop()
			context.AfterFunc(watchCtx, inspection.Stop) // else a stream that watches the health holds up the end
			if err := admin.Serve(watchCtx, n.admin, admin.Config{
				Ready: n.readiness, Gatherer: n.registry(), Pprof: n.cfg.Pprof, GRPC: inspection,
			}); err != nil {
				failed <- fmt.Errorf("node: admin: %w", err)
			}
		})
	}
	n.log.Info("serving", "addr", n.ln.Addr().String(), "slot", n.cfg.Self, "hosts", n.hosts, "version", Version())

	var cause error
	select {
	case <-ctx.Done():
	case cause = <-failed:
	}

	// The order matters. Hand leadership over first, while everything still works, so that clients of other nodes see
	// nothing; then answer what clients of this node and this program have open, through the new leader; then close the
	// streams of clients and peers; and stop the core last, since all of these ask it.
	limit, cancel := context.WithTimeout(context.Background(), n.cfg.ShutdownTimeout)
	defer cancel()
	n.log.Info("stopping", "reason", context.Cause(ctx), "error", cause)
	n.handOver(limit)
	n.locals.close()
	if err := errors.Join(n.server.Drain(limit), n.locals.drain(limit)); err != nil {
		n.log.Warn("sessions did not end in time", "limit", n.cfg.ShutdownTimeout)
	}
	stopWatch()
	stopPeers()
	n.server.Stop()
	serving.Wait()
	stopRunner()
	running.Wait()
	n.locals.end()
	n.close()
	return cause
}

// Alive returns nil when the node's loop has answered, or when Run has ended: a node that stops is as it should be.
func (n *Node) Alive(ctx context.Context) error {
	if err := n.runner.Call(ctx, func(*replication.Core) {}); err != nil && !errors.Is(err, replication.ErrStopped) {
		return fmt.Errorf("node: its loop does not answer: %w", err)
	}
	return nil
}

// Summary says in a few words what the node is at the moment, for people.
func (n *Node) Summary() string {
	v := n.runner.View()
	if v.Leading {
		return fmt.Sprintf("leads in term %d", v.Term)
	}
	if err := n.readiness(); err != nil {
		return "not ready: " + err.Error()
	}
	return fmt.Sprintf("follows %s in term %d", v.Address, v.Term)
}

// readiness says why the node is not ready, or nil.
func (n *Node) readiness() error {
	if n.Ready() {
		return nil
	}
	v := n.runner.View()
	switch {
	case v.Cluster == 0 && v.Waiting != "":
		return errors.New("in no cluster yet: " + v.Waiting)
	case v.Cluster == 0:
		return errors.New("in no cluster yet")
	case v.Leader < 0:
		return errors.New("no leader is known")
	case !v.Fresh:
		return errors.New("still copying, or not yet a voter")
	}
	return errors.New("not a voter, or its view is too old")
}

// handOver tells the other nodes that this one stops, and gives leadership away, if this node has it and somebody can
// take it. When all nodes stop at once nobody can, and there is nothing to wait for.
func (n *Node) handOver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, transferLimit)
	defer cancel()
	began := false
	for {
		leads, known, alone, heirs := false, false, false, 0
		if err := n.runner.Call(ctx, func(c *replication.Core) {
			c.Stop()
			leads, known, alone, heirs = c.Elected(), c.Leader() >= 0, len(c.Members()) == 1, c.Heirs()
			if leads && heirs > 0 && !c.Transferring() {
				began = c.Transfer(-1) || began // again if the first one had no answer
			}
		}); err != nil {
			n.log.Warn("leadership was not handed over", "error", err)
			return
		}
		switch {
		case !leads && (known || !began), alone:
			return
		case heirs == 0:
			n.log.Info("leadership is not handed over: all other nodes are gone or stop as well")
			return
		}
		if err := n.pause(ctx, 2*time.Millisecond); err != nil {
			n.log.Warn("leadership was not handed over", "error", err)
			return
		}
	}
}

// policiesOverridden reports whether the cache policies in force are not those of this node's configuration.
func (n *Node) policiesOverridden() bool { return n.store.Policies() != n.policies }

// watch tells the health service and the sessions of changes in the view.
func (n *Node) watch(ctx context.Context) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	var last replication.View
	overridden := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		v := *n.runner.View()
		if now := n.policiesOverridden(); now != overridden {
			overridden = now
			if now {
				n.log.Warn("the cluster has other cache policies than this node was given; they are in force until all nodes stop at once",
					"settings", "caches, CACHE_DEFAULT_TTL")
			}
		}
		if v.Ready != last.Ready {
			n.server.SetServing(v.Ready)
			n.log.Info("readiness", "ready", v.Ready, "term", v.Term, "applied", v.Applied)
		}
		if v.Leader != last.Leader || v.Term != last.Term {
			info := n.LeaderInfo()
			n.server.LeaderChanged(info)
			n.watchers.leaderChanged(info)
		}
		last = v
	}
}

// tellChanges wakes the sessions and the loops of this program that watch caches when something was applied. It does so for the goroutine that applies,
// which must not take time for each of them.
func (n *Node) tellChanges(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.gw.Changed():
			n.server.Changed()
			n.watchers.changed()
		}
	}
}

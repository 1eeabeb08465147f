package node

import (
	"context"
	"errors"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/internal/gateway"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/server"
	"github.com/hacache/hacache/proto/cachepb"
)

// watchTurn is how many changes a loop takes out of the feed at once.
const watchTurn = 256

// Watch tells the changes of the named caches, or of all if none is named, as this node applies them, in the order of the
// log: the events of client.Watch, for the same loops. What is told can be read here at once. It begins with a
// [client.Leader] and a [client.Gap]; there is none with GapDown, since there is no connection that could be lost.
//
// Events are taken as the loop takes them, and nothing is kept for it alone: who falls more than a hundred thousand changes
// behind is told a Gap. The sequence ends with an error and no event: that of ctx, a [*client.WatchError] for a cache that
// cannot be, or client.ErrClosed when the node begins to stop. Before Run it waits.
func (n *Node) Watch(ctx context.Context, caches ...string) iter.Seq2[client.Event, error] {
	return func(yield func(client.Event, error) bool) {
		w := n.watchers.add() // before the feed begins, or what comes in between would wake nobody
		defer n.watchers.remove(w)
		feed, err := n.openFeed(ctx, caches)
		if err != nil {
			yield(nil, n.watchError(err))
			return
		}
		defer feed.Close()
		w.greet(n.greetings.get())
		if err := n.tell(ctx, w, feed, yield); err != nil {
			yield(nil, err)
		}
	}
}

// watchError says why there is no feed in the words of package client.
func (n *Node) watchError(err error) error {
	refused, ok := errors.AsType[*server.Error](err)
	switch {
	case !ok:
		return err
	case refused.Code == cachepb.Code_SHUTTING_DOWN:
		return client.ErrClosed
	}
	return &client.WatchError{Addr: n.identity(), Detail: refused.Detail}
}

// tell passes on what a feed tells until ctx is done, the node stops, or the loop ends, which is no error.
func (n *Node) tell(ctx context.Context, w *watcher, feed server.Feed, yield func(client.Event, error) bool) error {
	var leader client.Event
	var acks []*cachepb.Ack
	for {
		if e := n.event(w.news()); e != nil && e != leader {
			if leader = e; !yield(e, nil) {
				return nil
			}
		}
		acks = feed.Next(acks[:0], watchTurn)
		for i, ack := range acks {
			acks[i] = nil
			if !yield(client.EventOf(ack, n.identity()), nil) {
				return nil
			}
		}
		if len(acks) == watchTurn { // there may be more
			w.ring()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-n.locals.stopping:
			return client.ErrClosed
		default:
		}
		select {
		case <-w.bell:
		case <-ctx.Done():
		case <-n.locals.stopping:
		}
	}
}

// event says who leads.
func (n *Node) event(info *cachepb.LeaderInfo) client.Event {
	return client.EventOf(&cachepb.Ack{Method: &cachepb.Ack_MgmtAck{
		MgmtAck: &cachepb.MgmtAck{Method: &cachepb.MgmtAck_LeaderInfo{LeaderInfo: info}},
	}}, n.identity())
}

// openFeed begins a feed. The error is a *server.Error, or that of ctx.
func (n *Node) openFeed(ctx context.Context, names []string) (server.Feed, error) {
	for _, name := range names {
		// What could not be read cannot be watched either.
		read := &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Get{Get: &cachepb.Get{CacheName: name}}}
		if code, detail := n.store.Validate(read); code != cachepb.Code_OK {
			return nil, &server.Error{Code: code, Detail: detail}
		}
	}
	// Who gives up and a feed that begins just then must not miss each other: nobody else would close it.
	var taken atomic.Bool
	opened := make(chan *gateway.Feed, 1)
	err := n.runner.Call(ctx, func(*replication.Core) {
		if !taken.Swap(true) {
			opened <- n.gw.Watch(names)
		}
	})
	if err == nil {
		return <-opened, nil
	}
	if taken.Swap(true) {
		(<-opened).Close()
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, &server.Error{Code: cachepb.Code_SHUTTING_DOWN, Detail: err.Error()}
}

// watchers are the loops of this program that watch.
type watchers struct {
	mu  sync.Mutex
	all map[*watcher]struct{}
}

// watcher is one of them.
type watcher struct {
	bell chan struct{} // capacity 1; never closed

	mu     sync.Mutex
	leader *cachepb.LeaderInfo
}

func (w *watchers) add() *watcher {
	one := &watcher{bell: make(chan struct{}, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[*watcher]struct{}{}
	}
	w.all[one] = struct{}{}
	return one
}

func (w *watchers) remove(one *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, one)
}

// changed wakes all of them. It never blocks.
func (w *watchers) changed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		one.ring()
	}
}

// leaderChanged tells all of them. It never blocks.
func (w *watchers) leaderChanged(info *cachepb.LeaderInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		one.notify(info)
	}
}

func (w *watcher) ring() {
	select {
	case w.bell <- struct{}{}:
	default:
	}
}

// notify says who leads; only the latest counts.
func (w *watcher) notify(info *cachepb.LeaderInfo) {
	w.mu.Lock()
	w.leader = info
	w.mu.Unlock()
	w.ring()
}

// greet is notify for what is known at the beginning: a change that was told meanwhile is newer.
func (w *watcher) greet(info *cachepb.LeaderInfo) {
	w.mu.Lock()
	if w.leader == nil {
		w.leader = info
	}
	w.mu.Unlock()
	w.ring()
}

// news is who leads.
func (w *watcher) news() *cachepb.LeaderInfo {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leader
}

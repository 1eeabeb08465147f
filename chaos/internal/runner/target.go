package runner

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/proto/cachepb"
)

// Endpoint is a node as a client sees it.
type Endpoint struct {
	Name     string
	Identity string // by which nodes name their leader
	Addr     string // to dial
}

// dialling is what a client needs to connect to an address.
type dialling func(addr string) client.Config

// routed is a load.Target over the nodes of a cluster: each stream has a
// connection to every node it may use. It follows the leader as the nodes name
// it, and falls back to any node that is connected, which forwards.
type routed struct {
	nodes  []Endpoint
	conns  [][]*client.Conn // by stream, by node
	leader atomic.Int64     // index of the node last named; -1: none
	toAny  bool
	next   []atomic.Uint64 // by stream
}

// newRouted makes a target of several streams that sends to the leader, or
// with toAny to all nodes in turn.
func newRouted(nodes []Endpoint, dial dialling, streams, window int, toAny bool) (load.Target, error) {
	r := &routed{nodes: nodes, toAny: toAny, next: make([]atomic.Uint64, streams)}
	r.leader.Store(-1)
	for s := range streams {
		r.next[s].Store(uint64(s)) // so that streams do not walk in step
		conns := make([]*client.Conn, len(nodes))
		r.conns = append(r.conns, conns)
		for i, n := range nodes {
			cfg := dial(n.Addr)
			cfg.Window, cfg.Batch, cfg.Watch = window, true, !toAny
			cfg.OnLeader = func(_ string, info *cachepb.LeaderInfo) { r.follow(info.GetAddr()) }
			c, err := client.NewConn(cfg)
			if err != nil {
				return nil, errors.Join(err, r.Close())
			}
			conns[i] = c
		}
	}
	return r, nil
}

func (r *routed) Streams() int { return len(r.conns) }

// follow notes whom a node named as the leader; not knowing is not news.
func (r *routed) follow(identity string) {
	for i, n := range r.nodes {
		if n.Identity == identity {
			r.leader.Store(int64(i))
		}
	}
}

// Start hands op to the leader's connection of the stream, or to the next one
// that takes it. While no node can be reached the operation fails for certain.
func (r *routed) Start(stream int, op *client.Op, done func(client.Outcome)) error {
	conns := r.conns[stream]
	heard := func(o client.Outcome) {
		if o.Leader != "" {
			r.follow(o.Leader)
		}
		done(o)
	}
	first := int(r.next[stream].Load() % uint64(len(conns)))
	if leader := r.leader.Load(); !r.toAny && leader >= 0 {
		first = int(leader)
	} else {
		r.next[stream].Add(1)
	}
	var last error
	for k := range conns {
		c := conns[(first+k)%len(conns)]
		err := c.Start(op, heard)
		if err == nil || errors.Is(err, client.ErrFull) {
			return err
		}
		last = err
	}
	return last
}

func (r *routed) Close() error {
	var wg sync.WaitGroup
	for _, conns := range r.conns {
		for _, c := range conns {
			if c != nil {
				wg.Go(func() { c.Close() })
			}
		}
	}
	wg.Wait()
	return nil
}

// spread is a load.Target with one stream to each node. What cannot be sent on
// a stream fails: nothing is sent by another way.
type spread []*client.Conn

func newSpread(nodes []Endpoint, dial dialling, window int) (load.Target, error) {
	var s spread
	for _, n := range nodes {
		cfg := dial(n.Addr)
		cfg.Window, cfg.Batch = window, true
		cfg.BackoffMin, cfg.BackoffMax = 5*time.Millisecond, 50*time.Millisecond
		c, err := client.NewConn(cfg)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s = append(s, c)
	}
	return s, nil
}

func (s spread) Streams() int { return len(s) }

func (s spread) Start(stream int, op *client.Op, done func(client.Outcome)) error {
	return s[stream].Start(op, done)
}

func (s spread) Close() error {
	var wg sync.WaitGroup
	for _, c := range s {
		wg.Go(func() { c.Close() })
	}
	wg.Wait()
	return nil
}

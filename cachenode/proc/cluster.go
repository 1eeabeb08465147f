package proc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/proto/cachepb"
)

// ClusterSpec of a [LocalCluster].
type ClusterSpec struct {
	// Binary is the cachenode program.
	Binary string
	// Nodes is their number; 0 is 3.
	Nodes int
	// Token is demanded by the nodes; empty: none, which they accept on loopback.
	Token string
	// Env is added to every node's environment.
	Env []string
	// LogDir is where node-1.log and so on are written; empty discards them.
	LogDir string
	// Profiles makes every node serve metrics and profiles over HTTP.
	Profiles bool
}

// Cluster is a set of nodes on loopback, started together.
type Cluster struct {
	Nodes []*Process
	// Addrs are where they listen, in the order of Nodes; they are also the
	// identities by which the nodes know each other.
	Addrs []string
	// Admins are where they serve HTTP, host:port, if they do; in the order of
	// Nodes.
	Admins []string
	token  string
}

// LocalCluster starts the nodes and waits until all of them are members of one
// cluster with a leader, or ctx is done. When it fails nothing is left running;
// otherwise the nodes run until [Cluster.Stop], or the end of this process.
func LocalCluster(ctx context.Context, spec ClusterSpec) (_ *Cluster, err error) {
	n := spec.Nodes
	if n == 0 {
		n = 3
	}
	c := &Cluster{token: spec.Token}
	var listeners []*net.TCPListener
	defer func() {
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			c.Stop(0)
		}
	}()
	var hosts []string
	for range n {
		l, err := Listen("127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, l)
		c.Addrs = append(c.Addrs, l.Addr().String())
		hosts = append(hosts, "http://"+l.Addr().String())
	}
	for i, l := range listeners {
		name := fmt.Sprintf("node-%d", i+1)
		s := Spec{
			Name: name, Binary: spec.Binary, Args: []string{"serve"}, Listener: l,
			Env: append([]string{
				"HA_MODE=true",
				"HA_HOSTS=" + strings.Join(hosts, ","),
				"HOSTNAME_OVERWRITE=" + c.Addrs[i],
				"CACHE_TLS=false",
			}, spec.Env...),
		}
		if spec.Profiles {
			if s.Admin, err = Listen("127.0.0.1:0"); err != nil {
				return nil, err
			}
			s.Env = append(s.Env, "CACHE_PPROF=true")
			c.Admins = append(c.Admins, s.Admin.Addr().String())
		}
		if spec.Token != "" {
			s.Env = append(s.Env, "CACHE_AUTH_TOKEN="+spec.Token)
		}
		if spec.LogDir != "" {
			s.LogPath = filepath.Join(spec.LogDir, name+".log")
		}
		p, err := Start(context.WithoutCancel(ctx), s)
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, p)
	}
	if err := c.WaitReady(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Stop stops all nodes and waits for their end; those that have not ended
// within the given time are killed.
func (c *Cluster) Stop(within time.Duration) { StopAll(within, c.Nodes...) }

// WaitReady waits until every node is the leader or a follower of the same
// leader. It fails as soon as one of them has ended.
func (c *Cluster) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, p := range c.Nodes {
		go func() {
			select {
			case <-p.Done():
				cancel(fmt.Errorf("%s ended (%v): %s", p.Name(), p.err, p.LastLine()))
			case <-ctx.Done():
			}
		}()
	}
	leaders := map[string]bool{}
	for i, addr := range c.Addrs {
		leader, err := WaitMember(ctx, client.Config{Addr: addr, Token: c.token})
		if err != nil {
			return fmt.Errorf("node-%d at %s is not ready: %w", i+1, addr, errors.Join(err, context.Cause(ctx)))
		}
		leaders[leader] = true
	}
	if len(leaders) > 1 {
		return c.WaitReady(ctx) // it changed while we looked
	}
	return nil
}

// WaitMember asks the node for its health until it is the leader or a
// follower, and returns the leader's identity.
func WaitMember(ctx context.Context, cfg client.Config) (leader string, err error) {
	conn, err := client.NewConn(cfg)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	var last error
	for {
		if err := conn.Ready(ctx); err != nil {
			return "", err
		}
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		h, err := conn.Health(attempt)
		cancel()
		switch {
		case err != nil:
			last = err
		case member(h):
			return h.GetLeader().GetAddr(), nil
		default:
			last = fmt.Errorf("state %s, quorum %v", client.StateName(h.GetState()), h.GetQuorum())
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return "", last
		}
	}
}

// member reports whether a node takes part: it leads, or follows a leader that
// it names.
func member(h *cachepb.HealthAck) bool {
	switch h.GetState().GetValue().(type) {
	case *cachepb.State_Leader, *cachepb.State_Follower:
		return h.GetQuorum() && h.GetLeader().GetAddr() != ""
	}
	return false
}

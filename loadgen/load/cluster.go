package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/proto/cachepb"
)

// Route says which node an operation goes to.
type Route uint8

const (
	// RouteLeader follows the leader. While nobody knows one, operations go to
	// any node that is connected.
	RouteLeader Route = iota
	// RouteAny spreads the streams over all nodes, which makes followers forward.
	RouteAny
	// RouteSticky uses the first node only, whatever becomes of it.
	RouteSticky
	// RouteFollowers spreads the streams over the nodes that do not lead.
	RouteFollowers
)

var routeNames = [...]string{"leader", "any", "sticky", "followers"}

func (r Route) String() string { return routeNames[r] }

// ParseRoute is the inverse of [Route.String].
func ParseRoute(s string) (Route, error) {
	for i, name := range routeNames {
		if s == name {
			return Route(i), nil
		}
	}
	return 0, fmt.Errorf("route %q: want leader, any, sticky or followers", s)
}

// ClusterConfig of a [Cluster]. Only Addrs is required.
type ClusterConfig struct {
	// Addrs are the nodes, host:port.
	Addrs []string
	// Resolve maps the identity by which nodes name their leader to an element
	// of Addrs, or to "" if it is none. nil takes the identity, without its
	// scheme, for the address.
	Resolve func(identity string) string
	// Token, TLS and Dialer are as in [client.Config].
	Token  string
	TLS    *tls.Config
	Dialer func(ctx context.Context, addr string) (net.Conn, error)

	// Route says which node an operation goes to.
	Route Route
	// Conns is the number of TCP connections to a node; 0 is 4. Streams is the
	// number of streams that operations are spread over, on those connections
	// of the node they are routed to; 0 is 16.
	Conns, Streams int
	// Window bounds the operations in flight on a stream; 0 is 1024. A
	// Generator's window should not be larger.
	Window int
	// Batch packs what waits into one message.
	Batch bool
	// Timeout is the deadline of operations that have none; 0 is 10 s.
	Timeout time.Duration
}

// Cluster is a [Target]: a set of cachenodes.
type Cluster struct {
	cfg   ClusterConfig
	index map[string]int
	nodes [][]*client.Conn // by node, by stream; nil where a node does not carry a stream

	leader   atomic.Int32 // index; -1: not known
	unrouted atomic.Int64
	changes  atomic.Int64

	mu   sync.Mutex // guards term and changes of leader
	term uint64

	stop context.CancelFunc
	wg   sync.WaitGroup
	lost chan struct{} // capacity 1: the leader is not known
}

// NewCluster connects in the background. The Cluster must be closed.
func NewCluster(cfg ClusterConfig) (*Cluster, error) {
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("load: no address given")
	}
	if cfg.Streams <= 0 {
		cfg.Streams = 16
	}
	if cfg.Conns <= 0 {
		cfg.Conns = 4
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(identity string) string { return identity }
	}
	c := &Cluster{cfg: cfg, index: map[string]int{}, lost: make(chan struct{}, 1)}
	c.leader.Store(-1)
	for i, addr := range cfg.Addrs {
		if _, twice := c.index[addr]; twice {
			return nil, fmt.Errorf("load: address %s is given twice", addr)
		}
		c.index[addr] = i
	}
	for i, addr := range cfg.Addrs {
		conns := make([]*client.Conn, cfg.Streams)
		c.nodes = append(c.nodes, conns)
		channels := make([]*client.Channel, cfg.Conns)
		for s := range conns {
			// Stream 0 of each node also asks who leads.
			if s > 0 && !c.carries(i, s) {
				continue
			}
			ch := channels[s%cfg.Conns]
			if ch == nil {
				var err error
				ch, err = client.NewChannel(client.ChannelConfig{Addr: addr, TLS: cfg.TLS, Dialer: cfg.Dialer})
				if err != nil {
					c.closeConns()
					return nil, err
				}
				channels[s%cfg.Conns] = ch
			}
			conn, err := client.NewConn(client.Config{
				Channel: ch, Token: cfg.Token, Window: cfg.Window, Batch: cfg.Batch, Timeout: cfg.Timeout,
				Watch: s == 0, OnLeader: c.heard, OnState: c.state,
			})
			if err != nil {
				c.closeConns()
				return nil, err
			}
			conns[s] = conn
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.wg.Go(func() { c.search(ctx) })
	return c, nil
}

// carries reports whether a stream may be routed to a node.
func (c *Cluster) carries(node, stream int) bool {
	switch c.cfg.Route {
	case RouteAny:
		return stream%len(c.cfg.Addrs) == node
	case RouteSticky:
		return node == 0
	}
	return true
}

// Ready waits until every stream that has a node is connected, or at least one
// stream is and a second has passed. It returns at once when a node refuses the
// credentials.
func (c *Cluster) Ready(ctx context.Context) error {
	patience := time.NewTimer(time.Second)
	defer patience.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	impatient := false
	for {
		up, total := 0, 0
		var why error
		for _, conns := range c.nodes {
			for _, conn := range conns {
				if conn == nil {
					continue
				}
				total++
				switch err := conn.Up(); {
				case err == nil:
					up++
				default:
					why = err
					if _, refused := errors.AsType[*client.AuthError](err); refused {
						return err
					}
				}
			}
		}
		known := c.leader.Load() >= 0 || c.cfg.Route == RouteAny || c.cfg.Route == RouteSticky
		if up == total && known || up > 0 && impatient {
			return nil
		}
		select {
		case <-tick.C:
		case <-patience.C:
			impatient = true
		case <-ctx.Done():
			if why == nil {
				why = errors.New("no node says who leads")
			}
			return why
		}
	}
}

// heard is told of a leader by a node.
func (c *Cluster) heard(node string, info *cachepb.LeaderInfo) {
	if info.GetAddr() != "" {
		c.follow(info.GetAddr(), info.GetTerm())
	}
}

// follow takes note of a leader, unless a newer one is known.
func (c *Cluster) follow(identity string, term uint64) {
	if _, after, ok := strings.Cut(identity, "://"); ok {
		identity = after
	}
	i, known := c.index[c.cfg.Resolve(identity)]
	if !known {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if term < c.term {
		return
	}
	c.term = term
	if c.leader.Swap(int32(i)) != int32(i) {
		c.changes.Add(1)
	}
}

// state is told that a stream came up or went down.
func (c *Cluster) state(node string, err error) {
	i, known := c.index[node]
	if err != nil && known && c.leader.CompareAndSwap(int32(i), -1) {
		select {
		case c.lost <- struct{}{}:
		default:
		}
	}
}

// search asks the nodes for the leader while it is not known, and once a second
// in case that nobody told us of a change.
func (c *Cluster) search(ctx context.Context) {
	const soon, late = 10 * time.Millisecond, time.Second
	wait := soon
	for {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-c.lost:
			timer.Stop()
			wait = soon
		case <-ctx.Done():
			timer.Stop()
			return
		}
		for i, conns := range c.nodes {
			if conns[0].Up() != nil {
				continue
			}
			ask, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			h, err := conns[0].Health(ask)
			cancel()
			if err == nil && h.GetState().GetLeader() != nil {
				c.follow(c.cfg.Addrs[i], h.GetTerm())
				// The node's own address, whatever it is called by others.
				if c.leader.Swap(int32(i)) != int32(i) {
					c.changes.Add(1)
				}
				break
			}
		}
		if c.leader.Load() >= 0 {
			wait = late
		} else {
			wait = min(max(wait, soon)*3/2, 250*time.Millisecond)
		}
	}
}

// Streams implements [Target].
func (c *Cluster) Streams() int { return c.cfg.Streams }

// Start implements [Target].
func (c *Cluster) Start(stream int, op *client.Op, done func(client.Outcome)) error {
	return c.route(stream).Start(op, done)
}

// Answered implements [Router]. An operation for the leader that comes back from
// another node than the one that leads now was sent to a leader of the past, or
// to any node because nobody knew one; it may have been forwarded.
func (c *Cluster) Answered(node, leader string, term uint64) (misrouted bool) {
	if leader != "" {
		c.follow(leader, term)
	}
	if c.cfg.Route != RouteLeader {
		return false
	}
	i := c.leader.Load()
	return i < 0 || c.cfg.Addrs[i] != node
}

// route picks the connection that carries a stream now.
func (c *Cluster) route(stream int) *client.Conn {
	n := len(c.nodes)
	switch c.cfg.Route {
	case RouteAny:
		return c.nodes[stream%n][stream]
	case RouteSticky:
		return c.nodes[0][stream]
	case RouteFollowers:
		leader := int(c.leader.Load())
		node := stream % n
		if n > 1 && leader >= 0 {
			if node = stream % (n - 1); node >= leader {
				node++
			}
		}
		return c.nodes[node][stream]
	}
	if leader := c.leader.Load(); leader >= 0 {
		return c.nodes[leader][stream]
	}
	c.unrouted.Add(1)
	for i := range n {
		if conn := c.nodes[(stream+i)%n][stream]; conn.Up() == nil {
			return conn
		}
	}
	return c.nodes[stream%n][stream]
}

// Leader is the address of the leader, "" while it is not known.
func (c *Cluster) Leader() string {
	if i := c.leader.Load(); i >= 0 {
		return c.cfg.Addrs[i]
	}
	return ""
}

// Term is the latest term in which a leader was heard of; 0 before the first.
func (c *Cluster) Term() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.term
}

// ClusterStats counts what happened on all streams.
type ClusterStats struct {
	client.Stats
	// Unrouted counts operations that were sent anywhere, because nobody knew
	// the leader they were for.
	Unrouted int64
	// LeaderChanges counts how often the route to the leader changed, the first
	// time included.
	LeaderChanges int64
}

// Stats returns the counters.
func (c *Cluster) Stats() ClusterStats {
	s := ClusterStats{Unrouted: c.unrouted.Load(), LeaderChanges: c.changes.Load()}
	for _, conns := range c.nodes {
		for _, conn := range conns {
			if conn == nil {
				continue
			}
			one := conn.Stats()
			s.Connects += one.Connects
			s.Full += one.Full
			s.Late += one.Late
			s.Unmatched += one.Unmatched
			s.Messages += one.Messages
			s.Items += one.Items
		}
	}
	return s
}

// Close implements [Target].
func (c *Cluster) Close() error {
	c.stop()
	c.wg.Wait()
	c.closeConns()
	return nil
}

func (c *Cluster) closeConns() {
	var wg sync.WaitGroup
	for _, conns := range c.nodes {
		for _, conn := range conns {
			if conn != nil {
				wg.Go(func() { conn.Close() })
			}
		}
	}
	wg.Wait()
}

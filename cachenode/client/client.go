package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hacache/hacache/proto/cachepb"
)

// ClientConfig of a [Client].
type ClientConfig struct {
	// Config is what every connection has in common; its Addr, Channel,
	// OnLeader and OnState are not used.
	Config
	// Addrs are the nodes to begin with, host:port, at least one. A leader that
	// is not among them is connected to when it is heard of.
	Addrs []string
	// Resolve maps the identity by which nodes name their leader (host:port,
	// without a scheme) to the address to dial; "" means that it cannot be
	// reached. nil dials the identity.
	Resolve func(identity string) string
}

// maxClientConns bounds the connections of a Client: those it was given, and
// those it makes to leaders it hears of.
const maxClientConns = 32

// Pauses between attempts of one operation. Each is drawn from the upper half
// of its limit, so that callers who failed together do not return together.
const (
	retryMin = 5 * time.Millisecond
	retryMax = 100 * time.Millisecond
)

// attemptShare is the part of an operation's remaining time that one node gets
// for an attempt, if another may be asked instead; attemptMin is the least.
const (
	attemptShare = 3
	attemptMin   = 50 * time.Millisecond
)

// leaderRest is how long others are asked after the leader could not do
// something: about an election, whose outcome the others tell.
const leaderRest = 250 * time.Millisecond

// Client talks to a cluster: it keeps a connection to each of its nodes, sends
// operations to the leader while it knows one that it can reach, and to any
// other node while it does not. It is safe for concurrent use.
//
// What failed definitely is tried again until the operation's time is over. What
// may have taken effect is returned as it is, unless the operation has a
// Session, which makes trying again harmless.
type Client struct {
	cfg  ClientConfig
	life context.Context // done when the Client is closed
	end  context.CancelFunc

	mu      sync.Mutex
	conns   map[string]*Conn
	order   []string  // addresses in the order in which they became known
	leader  string    // address; "" unknown
	cluster uint64    // that leader is of, in which
	term    uint64    // it was elected
	rests   time.Time // until then others are asked, since the leader could not do it
	next    int       // in order: whom to ask while no leader is known
	watches int       // in addrs: where the next watch begins
	changed chan struct{}
	closed  bool
	stats   ClientStats
	closing sync.WaitGroup // connections that make room for others
}

// ClientStats counts what happened on a Client since it was created.
type ClientStats struct {
	// Retries are attempts of an operation after its first.
	Retries uint64
	// Leaders are changes of the leader that the Client follows.
	Leaders uint64
	// Conns is the number of connections now. Full counts leaders that were not
	// connected to because there were too many.
	Conns int
	Full  uint64
}

// check sets defaults and reports what is of no use.
func (cfg *ClientConfig) check() error {
	if len(cfg.Addrs) == 0 {
		return errors.New("client: no address given")
	}
	if len(cfg.Addrs) > maxClientConns {
		return fmt.Errorf("client: %d addresses: want at most %d", len(cfg.Addrs), maxClientConns)
	}
	for _, addr := range cfg.Addrs {
		if _, err := NewChannel(ChannelConfig{Addr: addr}); err != nil {
			return err
		}
	}
	return cfg.setDefaults()
}

// New returns a Client that connects in the background. It must be closed.
func New(cfg ClientConfig) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, conns: map[string]*Conn{}, changed: make(chan struct{})}
	c.life, c.end = context.WithCancel(context.Background())
	c.cfg.Watch = true
	for _, addr := range cfg.Addrs {
		if _, err := c.conn(addr); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// Close ends all connections; operations in flight end with [ErrClosed]. It may
// be called more than once, and while operations are in flight.
func (c *Client) Close() error {
	c.end()
	c.mu.Lock()
	c.closed = true
	conns := c.conns
	c.conns, c.order = map[string]*Conn{}, nil
	c.notify()
	c.mu.Unlock()
	for _, conn := range conns {
		conn.Close()
	}
	c.closing.Wait()
	return nil
}

// Leader is the address of the leader as far as the Client knows, else "".
func (c *Client) Leader() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader
}

// Stats returns the counters; those of each connection are its own.
func (c *Client) Stats() ClientStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	stats := c.stats
	stats.Conns = len(c.conns)
	return stats
}

// learn takes note of what an outcome says about the leader.
func (c *Client) learn(conn *Conn, o *Outcome) {
	if o.Status != StatusOK {
		c.mu.Lock()
		if n := len(c.order); n > 0 && c.order[c.next%n] == conn.addr {
			c.next++
		}
		c.mu.Unlock()
	}
	switch {
	case o.Leader != "" && o.Code == cachepb.Code_NOT_LEADER:
		c.follow(conn.addr, o.Leader, o.Cluster, o.Term)
	case avoid(o):
		c.mu.Lock()
		if c.leader == conn.addr {
			c.rests = time.Now().Add(leaderRest)
		}
		c.mu.Unlock()
	}
}

// follow makes the node with the given identity the leader, by the word of the
// node at from, unless a newer term of the same cluster is known. Another cluster
// counts its terms anew: all nodes have forgotten everything, and whoever led
// before does not any more.
func (c *Client) follow(from, identity string, cluster, term uint64) {
	addr := bare(identity)
	switch {
	case nameless(addr):
		// A node alone that listens everywhere, which speaks of itself and does not
		// know by which name it is reached. Dialled as it is, that were this machine.
		addr = from
	case c.cfg.Resolve != nil:
		addr = c.cfg.Resolve(addr)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if addr == "" || c.closed || cluster == c.cluster && term < c.term {
		return
	}
	if _, known := c.conns[addr]; !known && len(c.conns) >= maxClientConns && !c.makeRoom() {
		c.stats.Full++
		return
	}
	if _, err := c.connLocked(addr); err != nil {
		return
	}
	if c.leader != addr || c.term != term {
		c.stats.Leaders++
		c.rests = time.Time{}
	}
	c.leader, c.cluster, c.term = addr, cluster, term
	c.notify()
}

// nameless reports whether an address has a port and no host, as that of a
// listener on all interfaces.
func nameless(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// makeRoom gives a connection up that was not asked for and is down. It reports
// false if there is none. mu is held.
func (c *Client) makeRoom() bool {
	i := slices.IndexFunc(c.order, func(addr string) bool {
		return !slices.Contains(c.cfg.Addrs, addr) && c.conns[addr].Up() != nil
	})
	if i < 0 {
		return false
	}
	conn := c.conns[c.order[i]]
	delete(c.conns, conn.addr)
	c.order = slices.Delete(c.order, i, i+1)
	c.closing.Go(func() { conn.Close() })
	return true
}

func (c *Client) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Client) conn(addr string) (*Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connLocked(addr)
}

func (c *Client) connLocked(addr string) (*Conn, error) {
	if conn, ok := c.conns[addr]; ok {
		return conn, nil
	}
	cfg := c.cfg.Config
	cfg.Addr, cfg.Channel = addr, nil
	cfg.OnLeader = func(_ string, info *cachepb.LeaderInfo) {
		if info.GetAddr() != "" {
			c.follow(addr, info.GetAddr(), info.GetCluster(), info.GetTerm())
		}
	}
	cfg.OnState = func(node string, err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil && c.leader == node {
			c.leader = ""
		}
		c.notify()
	}
	conn, err := NewConn(cfg)
	if err != nil {
		return nil, err
	}
	c.conns[addr] = conn
	c.order = append(c.order, addr)
	return conn, nil
}

// pick returns the leader's connection, or another one that is up, waiting for
// one until end if need be. When every node refuses the credentials it says so
// at once.
func (c *Client) pick(ctx context.Context, end time.Time) (*Conn, error) {
	var over <-chan time.Time
	for {
		conn, changed, err := c.available()
		if conn != nil || changed == nil {
			return conn, err
		}
		if over == nil {
			timer := time.NewTimer(time.Until(end))
			defer timer.Stop()
			over = timer.C
		}
		select {
		case <-changed:
			continue
		case <-ctx.Done():
			err = endOf(ctx)
		case <-over:
			err = ErrTimeout
		}
		_, _, why := c.available() // newer than what was seen before the wait
		if why == nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", err, why)
	}
}

// available returns a connection that is up, or else why there is none and what
// to wait for, if that may help.
func (c *Client) available() (*Conn, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, ErrClosed
	}
	leader := c.conns[c.leader]
	if leader != nil && leader.Up() == nil && !time.Now().Before(c.rests) {
		return leader, nil, nil
	}
	var spare *Conn
	var why error
	refused := 0
	for i := range c.order {
		at := (c.next + i) % len(c.order)
		conn := c.conns[c.order[at]]
		err := conn.Up()
		_, auth := errors.AsType[*AuthError](err)
		switch {
		case err == nil && conn != leader:
			// The next operation goes there too: a node gives back what was written through it, another may be behind.
			c.next = at
			return conn, nil, nil
		case err == nil:
			spare = conn
		case auth:
			refused++
			why = err
		case why == nil:
			why = err
		}
	}
	switch {
	case spare != nil:
		return spare, nil, nil
	case refused == len(c.order):
		return nil, nil, why
	}
	return nil, c.changed, why
}

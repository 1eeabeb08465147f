package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

// maxClientConns bounds the connections a Client makes to leaders it hears of.
const maxClientConns = 32

// Pauses between attempts of one operation.
const (
	retryMin = 5 * time.Millisecond
	retryMax = 100 * time.Millisecond
)

// Client talks to a cluster: it keeps a connection to each of its nodes, sends
// operations to the leader while it knows one that it can reach, and to any
// other node while it does not. It is safe for concurrent use.
//
// What failed definitely is tried again until the operation's deadline. What
// may have taken effect is returned as it is, unless the operation has a
// Session, which makes trying again harmless.
type Client struct {
	cfg ClientConfig

	mu      sync.Mutex
	conns   map[string]*Conn
	order   []string // addresses in the order in which they became known
	leader  string   // address; "" unknown
	term    uint64
	next    int
	changed chan struct{}
	closed  bool
}

// New returns a Client that connects in the background. It must be closed.
func New(cfg ClientConfig) (*Client, error) {
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("client: no address given")
	}
	c := &Client{cfg: cfg, conns: map[string]*Conn{}, changed: make(chan struct{})}
	c.cfg.Watch = true
	for _, addr := range cfg.Addrs {
		if _, err := c.conn(addr); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// Close ends all connections; operations in flight end with [ErrClosed].
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	conns := c.conns
	c.conns = map[string]*Conn{}
	c.notify()
	c.mu.Unlock()
	for _, conn := range conns {
		conn.Close()
	}
	return nil
}

// Leader is the address of the leader as far as the Client knows, else "".
func (c *Client) Leader() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader
}

// Get reads a key. found tells an empty value from a miss.
func (c *Client) Get(ctx context.Context, cache, key string) (value []byte, found bool, err error) {
	o := c.Do(ctx, &Op{Kind: KindGet, Cache: cache, Key: key})
	return o.Value, o.Found, o.Err
}

// Put writes a key; nil means that a node took it, before it was replicated.
func (c *Client) Put(ctx context.Context, cache, key string, value []byte) error {
	return c.Do(ctx, &Op{Kind: KindPut, Cache: cache, Key: key, Value: value}).Err
}

// Insert writes a key and waits for the level.
func (c *Client) Insert(ctx context.Context, cache, key string, value []byte, level Level) error {
	return c.Do(ctx, &Op{Kind: KindInsert, Cache: cache, Key: key, Value: value, Level: level}).Err
}

// Del removes a key; nil means that a node took it, before it was replicated.
func (c *Client) Del(ctx context.Context, cache, key string) error {
	return c.Do(ctx, &Op{Kind: KindDel, Cache: cache, Key: key}).Err
}

// Remove removes a key and waits for the level.
func (c *Client) Remove(ctx context.Context, cache, key string, level Level) error {
	return c.Do(ctx, &Op{Kind: KindRemove, Cache: cache, Key: key, Level: level}).Err
}

// Do performs op, with retries as described at [Client]. The deadline, or
// [Config.Timeout], bounds all attempts together.
func (c *Client) Do(ctx context.Context, op *Op) Outcome {
	limit := op.Deadline
	if limit <= 0 {
		limit = c.cfg.Timeout
	}
	if limit <= 0 {
		limit = 10 * time.Second
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, ErrTimeout)
	defer cancel()
	end := time.Now().Add(limit)
	var last Outcome
	for pause := retryMin; ; pause = min(pause*3/2, retryMax) {
		conn, err := c.pick(ctx)
		if err != nil {
			if last.Err == nil {
				last = Outcome{Status: StatusFail}
			}
			last.Err = errors.Join(err, last.Err)
			return last
		}
		attempt := *op
		attempt.Deadline = max(time.Until(end), time.Millisecond)
		last = c.attempt(ctx, conn, &attempt)
		c.learn(conn, &last)
		if !again(op, &last) {
			return last
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return last
		}
	}
}

// attempt is Conn.Do without its waiting for a connection: another node may
// have one.
func (c *Client) attempt(ctx context.Context, conn *Conn, op *Op) Outcome {
	return conn.perform(ctx, op, patienceFor(ctx, op, c.cfg.Timeout))
}

// again reports whether the operation should be tried once more.
func again(op *Op, o *Outcome) bool {
	if o.Status == StatusOK || isContext(o.Err) || errors.Is(o.Err, ErrClosed) {
		return false
	}
	if o.Status == StatusInfo {
		return op.Session != 0
	}
	if e, ok := errors.AsType[*OpError](o.Err); ok {
		return retriable(e.Code)
	}
	_, refused := errors.AsType[*AuthError](o.Err)
	return !refused // down, full, broken or timed out
}

// learn takes note of what an outcome says about the leader.
func (c *Client) learn(conn *Conn, o *Outcome) {
	switch {
	case o.Leader != "" && o.Code == cachepb.Code_NOT_LEADER:
		c.follow(o.Leader, o.Term)
	case o.Status != StatusOK:
		c.mu.Lock()
		if c.leader == conn.addr {
			c.leader = ""
		}
		c.mu.Unlock()
	}
}

// follow makes the node with the given identity the leader, unless a newer
// term is known already.
func (c *Client) follow(identity string, term uint64) {
	if _, after, ok := strings.Cut(identity, "://"); ok {
		identity = after
	}
	addr := identity
	if c.cfg.Resolve != nil {
		addr = c.cfg.Resolve(identity)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if addr == "" || c.closed || term < c.term {
		return
	}
	if _, known := c.conns[addr]; !known && len(c.conns) >= maxClientConns {
		return
	}
	if _, err := c.connLocked(addr); err != nil {
		return
	}
	c.leader, c.term = addr, term
	c.notify()
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
			c.follow(info.GetAddr(), info.GetTerm())
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
// one if need be. When every node refuses the credentials it says so at once.
func (c *Client) pick(ctx context.Context) (*Conn, error) {
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, ErrClosed
		}
		changed := c.changed
		if conn := c.conns[c.leader]; conn != nil && conn.Up() == nil {
			c.mu.Unlock()
			return conn, nil
		}
		var why error
		refused := 0
		for range c.order {
			addr := c.order[c.next%len(c.order)]
			c.next++
			conn := c.conns[addr]
			err := conn.Up()
			if err == nil {
				c.mu.Unlock()
				return conn, nil
			}
			if _, ok := errors.AsType[*AuthError](err); ok {
				refused++
				why = err
			} else if why == nil {
				why = err
			}
		}
		all := refused == len(c.order)
		c.mu.Unlock()
		if all {
			return nil, why
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, conn := range c.conns {
				if err := conn.Up(); err != nil {
					why = err // newer than what was seen before the wait
				}
			}
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), why)
		}
	}
}

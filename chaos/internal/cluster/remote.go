package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/chaos/internal/live"
	"github.com/hacache/hacache/proto/cachepb"
)

// Remote is a cluster that somebody else runs.
type Remote struct {
	Nodes []RemoteNode
	Token string
	TLS   *tls.Config // nil: plain text
	// Proxies are the names of links on Toxiproxy servers, by the servers'
	// addresses and by FROM>TO.
	Proxies map[string]map[string]string
}

// RemoteNode is one node of a [Remote].
type RemoteNode struct {
	Addr     string // host:port to dial
	Identity string // by which the nodes know it
	Admin    string // host:port of its metrics; empty: not known
	Pid      string // of its process on this machine, or the file that has it; empty: it has none here
}

// Proxy is a link of a [Remote] on a Toxiproxy server. Whether the node at its
// near end dials it is only known to whoever runs the cluster.
type Proxy struct {
	From, To     string
	Server, Name string
	Addr         string // where it listens

	conn *client.Conn // through it, of the harness
}

func (p *Proxy) String() string { return p.From + ">" + p.To }

// Health asks the node at the far end how it is, through the proxy.
func (p *Proxy) Health(ctx context.Context) (*cachepb.HealthAck, error) {
	if err := p.conn.Ready(ctx); err != nil {
		return nil, err
	}
	return p.conn.Health(ctx)
}

// Connects counts how often the harness's connection through the proxy came up.
func (p *Proxy) Connects() uint64 { return p.conn.Stats().Connects }

// Attach connects to a cluster that runs already, and makes sure that it is the
// one that was described. Nothing of it is started, changed or stopped: of the
// Cluster's methods those that need a process must not be called. It must be
// stopped, which closes connections.
func Attach(ctx context.Context, r Remote) (_ *Cluster, err error) {
	c := &Cluster{Net: NewNetwork(0), token: r.Token, tls: r.TLS, remote: true, proxies: map[string]*Proxy{}}
	c.members.Store(int64(len(r.Nodes)))
	c.life, c.end = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop(0))
		}
	}()
	for i, n := range r.Nodes {
		node := &Node{Name: "n" + strconv.Itoa(i+1), Identity: n.Identity, addr: n.Addr, admin: n.Admin, pid: n.Pid, state: Running}
		if node.conn, err = client.NewConn(c.direct(n.Addr)); err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, node)
	}
	for server, names := range r.Proxies {
		if err := c.findProxies(server, names); err != nil {
			return nil, err
		}
	}
	return c, c.verify(ctx)
}

// findProxies connects through the proxies of a server.
func (c *Cluster) findProxies(server string, names map[string]string) error {
	there, err := live.Proxies(server)
	if err != nil {
		return err
	}
	for link, name := range names {
		p := &Proxy{Server: server, Name: name}
		p.From, p.To, _ = strings.Cut(link, ">")
		found, ok := there[name]
		if !ok {
			return fmt.Errorf("%s has no proxy %s, which is to be %s", server, name, link)
		}
		if !found.Enabled {
			return fmt.Errorf("proxy %s of %s, which is to be %s, is disabled", name, server, link)
		}
		if p.Addr, err = reachable(server, found.Listen); err != nil {
			return fmt.Errorf("proxy %s of %s: %w", name, server, err)
		}
		if p.conn, err = client.NewConn(c.direct(p.Addr)); err != nil {
			return err
		}
		c.proxies[link] = p
	}
	return nil
}

// reachable is where something that a server says it listens on is dialled: at
// the server's own host, if it listens on all addresses.
func reachable(server, listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		u, err := url.Parse(server)
		if err != nil {
			return "", err
		}
		host = u.Hostname()
	}
	return net.JoinHostPort(host, port), nil
}

// verify makes sure that the addresses are those of all nodes of one cluster,
// and that each proxy leads to the node that it should.
func (c *Cluster) verify(ctx context.Context) error {
	var said map[*Node]*cachepb.HealthAck // of all nodes, once they are ready
	err := c.await(ctx, func(s *census) string { said = s.health; return s.unready() })
	if err != nil {
		return err
	}
	who := map[uint64]string{}
	for n, h := range said {
		id := h.GetPeer().GetStatus().GetId()
		if other := who[id]; other != "" {
			return fmt.Errorf("%s and %s are the same node", other, n.Name)
		}
		who[id] = n.Name
		if voters := len(h.GetPeer().GetStatus().GetVoters()); voters != len(c.nodes) {
			return fmt.Errorf("the cluster of %s has %d nodes, and %d are named", n.Name, voters, len(c.nodes))
		}
		if leader := h.GetLeader().GetAddr(); c.NameOf(leader) == leader {
			return fmt.Errorf("%s calls its leader %q, which is the identity of no node that is named", n.Name, leader)
		}
	}
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for _, p := range c.proxies {
		wg.Go(func() {
			h, err := p.Health(ctx)
			if to := who[h.GetPeer().GetStatus().GetId()]; err == nil && to != p.To {
				err = fmt.Errorf("it leads to %q", to)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("proxy %s of %s, which is to be %s: %w", p.Name, p.Server, p, err))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Remote reports whether the cluster was attached to.
func (c *Cluster) Remote() bool { return c.remote }

// Proxy returns the proxy that is the link from one end to another, or nil.
func (c *Cluster) Proxy(from, to string) *Proxy { return c.proxies[from+">"+to] }

// catchUp waits until every node has applied what the foremost had when they
// were asked. Others may use the cluster, so that no two nodes have applied the
// same at any moment.
func (c *Cluster) catchUp(ctx context.Context) error {
	if err := c.WaitReady(ctx); err != nil {
		return err
	}
	var goal uint64
	for _, h := range c.healths(ctx) {
		goal = max(goal, h.GetPeer().GetStatus().GetApplied())
	}
	return c.await(ctx, func(s *census) string {
		say := s.unready()
		for _, n := range s.nodes {
			if at := s.health[n].GetPeer().GetStatus().GetApplied(); say == "" && at < goal {
				say = fmt.Sprintf("%s has applied %d of %d", n.Name, at, goal)
			}
		}
		return say
	})
}

// remotePid reads the id of a process that somebody else started; 0: it has
// none on this machine.
func (n *Node) remotePid() int {
	text := n.pid
	if strings.HasPrefix(text, "/") {
		data, err := os.ReadFile(text)
		if err != nil {
			return 0
		}
		text = string(data)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || pid <= 1 || pid == os.Getpid() {
		return 0
	}
	return pid
}

// direct is the configuration of a connection of the harness itself. It redials
// quickly: it times how soon a restarted node answers.
func (c *Cluster) direct(addr string) client.Config {
	cfg := c.Client(addr)
	cfg.Batch, cfg.ConnectTimeout = true, time.Second
	cfg.BackoffMin, cfg.BackoffMax = 5*time.Millisecond, 50*time.Millisecond
	return cfg
}

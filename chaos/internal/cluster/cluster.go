// Package cluster runs the system under test: real cachenode processes on
// loopback, and a Toxiproxy link for every pair of nodes and from the clients
// to every node, so that each path can be made slow, deaf or dead by itself.
//
// Nodes know each other by identity, the address they listen on, and dial the
// link that stands for it (CACHE_DIAL_MAP). Clients dial links too. The harness
// itself has one connection to each node that no link is part of, for health,
// final reads and operator commands.
package cluster

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/proc"
	"github.com/hacache/hacache/proto/cachepb"
)

// Clients is the name of the near end of the links that clients use.
const Clients = "clients"

// Spec says what to start.
type Spec struct {
	Binary string // the cachenode program
	Nodes  int
	// Members is how many of the nodes form the cluster; 0 is all. The others
	// only join, see [Cluster.SetMembers].
	Members int
	Env     map[string]string // additional environment of every node
	Caches  []Policy          // of named caches; any other has no bounds
	LogDir  string            // n1.log and so on are appended to here
	Seed    uint64
	// Direct leaves the links out: nodes and clients connect to the nodes
	// themselves.
	Direct bool
	// TLS secures everything with certificates that are made for this cluster,
	// of its clients too.
	TLS bool
	// Hooks says that Binary has fault hooks, and that they are wanted; see
	// [Node.SetClock] and [Node.Arm].
	Hooks bool
	// OnProcess is called when a process has started, was paused or resumed,
	// or has ended, whoever ended it. It must not call the Cluster. nil is
	// allowed.
	OnProcess func(node string, state State, detail string)
}

// token is demanded by every node. It guards nothing here, but a run should
// use the path that production uses.
const token = "chaos"

// State of a process as the harness left it.
type State uint8

const (
	Running State = iota
	Paused        // SIGSTOP
	Ended         // killed, stopped, or ended on its own
)

// Cluster is a set of nodes and the links between them. Its methods are safe
// for concurrent use.
type Cluster struct {
	Net *Network

	spec    Spec
	nodes   []*Node
	token   string
	tls     *tls.Config       // of clients; nil: plain text
	certs   *certificates     // nil: none were made
	remote  bool              // see [Attach]; no node has a process then
	proxies map[string]*Proxy // by FROM>TO; of a remote cluster
	members atomic.Int64      // so many of the nodes make up the cluster
	life    context.Context   // ends with Stop; processes are killed then at the latest
	end     context.CancelFunc
	exits   sync.WaitGroup
}

// Node is one member of the cluster across all its processes.
type Node struct {
	Name     string // n1, n2, in the order of the slots
	Identity string // host:port that it listens on, as in HA_HOSTS

	addr   string // that it is dialled at, past all links
	env    []string
	hooks  string // path of the files that its hooks read, without their endings; empty: it has none
	admin  string // where it serves its metrics; empty: nobody knows
	pid    string // of a remote one, see [RemoteNode]
	conn   *client.Conn
	notify func(node string, state State, detail string)

	mu      sync.Mutex
	more    []string // environment of the next processes
	process *proc.Process
	ended   chan struct{} // closed when process has ended and state says so
	state   State
}

// enter is called with mu held.
func (n *Node) enter(s State, detail string) {
	n.state = s
	if n.notify != nil {
		n.notify(n.Name, s, detail)
	}
}

// Start makes the links, starts the processes and returns at once; see
// [Cluster.WaitHealthy]. A Cluster must be stopped.
func Start(spec Spec) (_ *Cluster, err error) {
	c := &Cluster{Net: NewNetwork(spec.Seed), spec: spec, token: token}
	c.members.Store(int64(cmp.Or(spec.Members, spec.Nodes)))
	c.life, c.end = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop(0))
		}
	}()
	listeners := make([]*net.TCPListener, spec.Nodes)
	for i := range listeners {
		if listeners[i], err = proc.Listen(net.JoinHostPort(c.Net.Host(), "0")); err != nil {
			return nil, err
		}
		defer listeners[i].Close() // after it was handed over this is no more than an error
	}
	slices.SortFunc(listeners, func(a, b *net.TCPListener) int { return strings.Compare(a.Addr().String(), b.Addr().String()) })
	for i, l := range listeners {
		c.nodes = append(c.nodes, &Node{Name: "n" + strconv.Itoa(i+1), Identity: l.Addr().String(), addr: l.Addr().String(), state: Ended, notify: spec.OnProcess})
	}
	if spec.TLS {
		if c.certs, err = makeCertificates(c.life, spec.Binary, filepath.Join(spec.LogDir, "certs"), c.identities()); err != nil {
			return nil, err
		}
		c.tls = c.certs.client
	}
	policies, err := writePolicies(spec.LogDir, spec.Caches)
	if err != nil {
		return nil, err
	}
	for _, n := range c.nodes {
		dials, err := c.connect(n)
		if err != nil {
			return nil, err
		}
		n.env = []string{
			"HOSTNAME_OVERWRITE=" + n.Identity,
			"CACHE_AUTH_TOKEN=" + token,
		}
		n.env = append(n.env, c.certs.of(n.Identity)...)
		if len(dials) > 0 {
			n.env = append(n.env, "CACHE_DIAL_MAP="+strings.Join(dials, ","))
		}
		if spec.Nodes > 1 {
			n.env = append(n.env, "HA_MODE=true")
		}
		if policies != "" {
			n.env = append(n.env, "CACHE_CONFIG="+policies)
		}
		for k, v := range spec.Env {
			n.env = append(n.env, k+"="+v)
		}
		if spec.Hooks {
			n.hook(filepath.Join(spec.LogDir, n.Name))
		}
	}
	if err := c.reserveAdmin(); err != nil {
		return nil, err
	}
	for i, n := range c.nodes {
		if err := c.start(n, listeners[i]); err != nil {
			return nil, err
		}
		if n.conn, err = client.NewConn(c.direct(n.addr)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// connect makes the links to and from a node, and returns what it has to dial
// for each of the others.
func (c *Cluster) connect(n *Node) (dials []string, err error) {
	if c.spec.Direct {
		return nil, nil
	}
	if _, err := c.Net.Add(Clients, n.Name, n.Identity); err != nil {
		return nil, err
	}
	for _, to := range c.nodes {
		if to == n {
			continue
		}
		l, err := c.Net.Add(n.Name, to.Name, to.Identity)
		if err != nil {
			return nil, err
		}
		dials = append(dials, to.Identity+"="+l.Addr())
	}
	return dials, nil
}

// start starts the process of a node that has none.
func (c *Cluster) start(n *Node, l *net.TCPListener) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, err := proc.Start(c.life, proc.Spec{
		Name: n.Name, Binary: c.spec.Binary, Args: []string{"serve"}, Env: slices.Concat(n.env, n.more, c.hostsEnv(n)),
		Listener: l, LogPath: filepath.Join(c.spec.LogDir, n.Name+".log"),
	})
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	n.process, n.ended = p, ended
	n.enter(Running, fmt.Sprintf("pid %d", p.Pid()))
	c.exits.Go(func() {
		how := "exit status 0"
		if err := p.Wait(); err != nil {
			how = err.Error()
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.enter(Ended, fmt.Sprintf("pid %d: %s", p.Pid(), how))
		close(ended)
	})
	return nil
}

// hostsEnv is what a process of a node is told about the hosts if it starts now.
func (c *Cluster) hostsEnv(n *Node) []string {
	list, waits := c.nodes[:c.Members()], false
	if !slices.Contains(list, n) {
		list, waits = c.nodes, true
	}
	var hosts []string
	for _, h := range list {
		hosts = append(hosts, "http://"+h.Identity)
	}
	env := []string{"HA_HOSTS=" + strings.Join(hosts, ",")}
	if waits {
		env = append(env, "CACHE_JOIN_ONLY=true")
	}
	return env
}

// Members returns how many of the nodes, in order, make up the cluster.
func (c *Cluster) Members() int { return int(c.members.Load()) }

// SetMembers asks the leader to make the first n nodes the cluster and waits
// until they are. What is started from then on has the new list, and so has
// what is started while it is asked to grow: the harness can vouch for that,
// as an operator does who writes the list before or after, as it needs to be.
func (c *Cluster) SetMembers(ctx context.Context, n int) error {
	var hosts []string
	for _, h := range c.nodes[:n] {
		hosts = append(hosts, h.Identity)
	}
	if n > c.Members() {
		c.members.Store(int64(n))
	}
	for {
		leader := c.Leader(ctx)
		err := errors.New("no node says it leads")
		if leader != nil {
			err = leader.Conn().MembersSet(ctx, hosts, true)
		}
		if err == nil {
			c.members.Store(int64(n))
			return nil
		}
		if refused, ok := errors.AsType[*client.MgmtError](err); ok && refused.Code == cachepb.Code_INVALID {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("make %d nodes the cluster: %w", n, err)
		case <-time.After(10 * time.Millisecond): // the leader moved, perhaps because it was asked
		}
	}
}

// Nodes returns the nodes in the order of their slots.
func (c *Cluster) Nodes() []*Node { return slices.Clone(c.nodes) }

// Names returns the names of the nodes in the order of their slots.
func (c *Cluster) Names() []string {
	names := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		names[i] = n.Name
	}
	return names
}

// identities are those of the nodes in the order of their slots.
func (c *Cluster) identities() []string {
	ids := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		ids[i] = n.Identity
	}
	return ids
}

// Node returns the node of that name, or nil.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// NameOf returns the name of the node with an identity, or the identity if
// there is none, as for an empty one.
func (c *Cluster) NameOf(identity string) string {
	for _, n := range c.nodes {
		if n.Identity == identity {
			return n.Name
		}
	}
	return identity
}

// Client is what a client of the cluster needs to connect to an address.
func (c *Cluster) Client(addr string) client.Config {
	return client.Config{Addr: addr, Token: c.token, TLS: c.tls}
}

// ClientAddr is where clients dial a node: the near end of its link, if there
// are links.
func (c *Cluster) ClientAddr(name string) string {
	if l := c.Net.Link(Clients, name); l != nil {
		return l.Addr()
	}
	if p := c.Proxy(Clients, name); p != nil {
		return p.Addr
	}
	return c.Node(name).addr
}

// Resolve maps an identity to the address that clients dial, or to "".
func (c *Cluster) Resolve(identity string) string {
	if n := c.Node(c.NameOf(identity)); n != nil {
		return c.ClientAddr(n.Name)
	}
	return ""
}

// Conn is the harness's own connection to the node, without a link.
func (n *Node) Conn() *client.Conn { return n.conn }

// State returns the state of the node's process.
func (n *Node) State() State {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state
}

// Pid is the id of the node's newest process; 0: it has none on this machine.
func (n *Node) Pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process == nil {
		return n.remotePid()
	}
	return n.process.Pid()
}

// Memory is what the node's process occupies now, in bytes.
func (n *Node) Memory() (int64, error) {
	_, rss, err := proc.Usage(n.Pid())
	return rss, err
}

func (n *Node) current() *proc.Process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process
}

// Health asks a node how it is.
func (n *Node) Health(ctx context.Context) (*cachepb.HealthAck, error) { return n.conn.Health(ctx) }

// Kill ends the process at once and waits for its end.
func (n *Node) Kill(ctx context.Context) error {
	if err := n.current().Kill(); err != nil {
		return err
	}
	return n.awaitEnd(ctx)
}

// Terminate asks the process to stop and waits for its end, at most as long
// as ctx lasts.
func (n *Node) Terminate(ctx context.Context) error {
	if err := n.current().Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return n.awaitEnd(ctx)
}

func (n *Node) awaitEnd(ctx context.Context) error {
	n.mu.Lock()
	ended := n.ended
	n.mu.Unlock()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d of %s has not ended: %w", n.Pid(), n.Name, context.Cause(ctx))
	}
}

// Restart starts a node whose process has ended, on the same address.
func (c *Cluster) Restart(ctx context.Context, n *Node) error {
	if err := n.awaitEnd(ctx); err != nil {
		return err
	}
	for {
		l, err := proc.Listen(n.Identity)
		if err == nil {
			return c.start(n, l)
		}
		select { // a socket of the old process may linger for a moment
		case <-ctx.Done():
			return fmt.Errorf("restart %s: %w", n.Name, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Pause stops the process (SIGSTOP) and waits until the kernel says so.
func (n *Node) Pause(ctx context.Context) error {
	if err := n.current().Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pause %s: %w", n.Name, err)
	}
	for !n.Stopped() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("pause %s: %w", n.Name, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.enter(Paused, "")
	return nil
}

// Resume undoes Pause.
func (n *Node) Resume() error {
	if err := n.current().Signal(syscall.SIGCONT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("resume %s: %w", n.Name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state == Paused {
		n.enter(Running, "resumed")
	}
	return nil
}

// Stopped reports whether the kernel holds the process stopped.
func (n *Node) Stopped() bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.Pid()))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name before it may contain anything
	return strings.HasPrefix(rest, "T")
}

// Leader returns the node that says it leads, of the newest term if several
// do, or nil.
func (c *Cluster) Leader(ctx context.Context) *Node {
	var leader *Node
	var term uint64
	for n, h := range c.healths(ctx) {
		if _, leads := h.GetState().GetValue().(*cachepb.State_Leader); leads && h.GetTerm() >= term {
			leader, term = n, h.GetTerm()
		}
	}
	return leader
}

// healths asks every running node at once and returns those that answered.
func (c *Cluster) healths(ctx context.Context) map[*Node]*cachepb.HealthAck {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	all := map[*Node]*cachepb.HealthAck{}
	for _, n := range c.nodes {
		if n.State() != Running {
			continue
		}
		wg.Go(func() {
			if h, err := n.Health(ctx); err == nil {
				mu.Lock()
				defer mu.Unlock()
				all[n] = h
			}
		})
	}
	wg.Wait()
	return all
}

// WaitHealthy waits until every node is a member of one cluster, in one term,
// with one leader, and has applied what the others have. The error of a wait
// that ended says what was missing. In a remote cluster every node has applied
// what another one had when the wait began: somebody else may write.
func (c *Cluster) WaitHealthy(ctx context.Context) error {
	if c.remote {
		return c.catchUp(ctx)
	}
	return c.await(ctx, (*census).differs)
}

// WaitReady is WaitHealthy for a cluster under load, where no two nodes have
// applied the same when they are asked: every node leads or follows, with a
// vote and a fresh copy, in one cluster with one leader.
func (c *Cluster) WaitReady(ctx context.Context) error { return c.await(ctx, (*census).unready) }

// await asks the nodes until nothing is missing.
func (c *Cluster) await(ctx context.Context, missing func(*census) string) error {
	for {
		say := missing(&census{c.nodes[:c.Members()], c.healths(ctx)})
		if say == "" {
			return nil
		}
		for _, n := range c.nodes {
			if n.State() == Ended {
				return fmt.Errorf("%s has ended: %s", n.Name, n.current().LastLine())
			}
			if _, refused := errors.AsType[*client.AuthError](n.conn.Up()); refused {
				return n.conn.Up()
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", say, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// census is what the nodes answered when they were asked how they are.
type census struct {
	nodes  []*Node                      // the members
	health map[*Node]*cachepb.HealthAck // of those that answered
}

// unready says what is missing for the nodes to be one cluster, or "".
func (c *census) unready() string {
	var say []string
	leaders, clusters := map[string]bool{}, map[uint64]bool{}
	for _, n := range c.nodes {
		h := c.health[n]
		if h == nil {
			say = append(say, n.Name+" does not answer")
			continue
		}
		if state := client.StateName(h.GetState()); state != "leader" && state != "follower" {
			say = append(say, n.Name+" is "+state)
		}
		leaders[h.GetLeader().GetAddr()], clusters[h.GetCluster()] = true, true
	}
	switch {
	case len(say) > 0:
	case len(clusters) > 1:
		say = append(say, "the nodes are in different clusters")
	case len(leaders) > 1 || leaders[""]:
		say = append(say, "the nodes name different leaders")
	}
	return strings.Join(say, ", ")
}

// differs says what is missing for the nodes to be one cluster that has
// applied the same, or "".
func (c *census) differs() string {
	if say := c.unready(); say != "" {
		return say
	}
	var say []string
	applied := map[uint64]bool{}
	for _, n := range c.nodes {
		at := c.health[n].GetPeer().GetStatus().GetApplied()
		applied[at] = true
		say = append(say, fmt.Sprintf("%s has applied %d", n.Name, at))
	}
	if len(applied) == 1 {
		return ""
	}
	return strings.Join(say, ", ")
}

// Stop ends every process that was started, politely within the given time, and
// closes every link. Nothing is left running when it returns.
func (c *Cluster) Stop(within time.Duration) error {
	var wg sync.WaitGroup
	for _, n := range c.nodes {
		if n.conn != nil {
			wg.Go(func() { n.conn.Close() })
		}
		if n.process != nil {
			wg.Go(func() { n.current().Stop(within) })
		}
	}
	for _, p := range c.proxies {
		if p.conn != nil {
			wg.Go(func() { p.conn.Close() })
		}
	}
	wg.Wait()
	c.end()
	c.exits.Wait()
	return errors.Join(c.Net.Close(), c.certs.remove())
}

package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/cachenode/internal/gateway"
	"github.com/hacache/hacache/cachenode/internal/mutant"
	"github.com/hacache/hacache/cachenode/internal/peer"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/server"
	"github.com/hacache/hacache/cachenode/internal/store"
	"github.com/hacache/hacache/proto/cachepb"
)

// Node is one cache node. It must be created with New and run with Run, once. All methods are safe for concurrent use.
type Node struct {
	cfg    config.Config
	log    *slog.Logger
	hosts  []string // the configured ones; the cluster's list may have changed since
	ln     net.Listener
	admin  net.Listener
	store  *store.Store
	core   *replication.Core // the runner's, once Run has begun
	gw     *gateway.Gateway
	runner *replication.Runner
	peers  *peer.Transport
	server *server.Server

	greetings *inquiry[*cachepb.LeaderInfo] // for streams
	healths   *inquiry[*cachepb.HealthAck]  // for the same
	locals    locals
	watchers  watchers // of this program

	policies uint64 // hash of the configured ones

	keys    *config.Keys // nil without TLS
	reloads struct {
		mu         sync.Mutex
		ok, failed uint64
		last       string // error, "" if the last reload had none
	}

	id     atomic.Uint64          // current incarnation, for the transport's goroutines
	roster atomic.Pointer[roster] // of the hosts, for the same; replaced on the runner's goroutine
	ran    atomic.Bool
}

// New builds a node that is embedded in another program. It reports everything that is wrong with cfg at once, one line
// each, and opens the listener, so that a taken port is an error here and not later. Nothing runs before Run, which also
// closes the listener.
func New(cfg Config) (*Node, error) {
	resolved, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	return build(resolved, cfg.Listener, cfg.Logger)
}

// FromConfig is New for the program cachenode, whose configuration has more to say. cfg must be valid.
func FromConfig(cfg config.Config, logger *slog.Logger) (*Node, error) {
	return build(cfg, nil, logger)
}

// build opens the listeners, but for one that is given, and connects the parts.
func build(cfg config.Config, ln net.Listener, logger *slog.Logger) (_ *Node, err error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	n := &Node{cfg: cfg, log: logger, locals: newLocals()}
	if cfg.TLS.Enabled {
		if n.keys, err = n.cfg.LoadKeys(); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if ln == nil {
		if n.ln, err = cfg.OpenListener(); err != nil {
			return nil, err
		}
	}
	if n.admin, err = cfg.OpenAdminListener(); err != nil {
		return nil, err
	}
	switch host, port, _ := net.SplitHostPort(cfg.Listen); { // what clients are told to find it by
	case cfg.HAMode:
	case cfg.ListenFD != 0:
		n.cfg.Listen = n.ln.Addr().String()
	case port == "0":
		_, port, _ = net.SplitHostPort(n.ln.Addr().String())
		n.cfg.Listen = net.JoinHostPort(host, port)
	}
	n.hosts = n.cfg.Identities()
	if err := n.assemble(); err != nil {
		return nil, err
	}
	if ln != nil {
		n.ln = ln // not before: after an error it is the caller's
	}
	return n, nil
}

// assemble connects the parts. Arrows point from who calls: sessions -> runner -> gateway -> core -> transport.
func (n *Node) assemble() error {
	sc := storeConfig(&n.cfg)
	n.store, n.policies = store.New(sc), sc.Policies()
	link := &transport{n: n}
	n.gw = gateway.New(gateway.Config{
		Store: n.store, Transport: link,
		MaxStale: n.cfg.MaxStaleness, Rand: random, Logger: n.log,
	})
	core, err := replication.New(replication.Config{
		Hosts: n.hosts, Self: n.cfg.Self,
		ElectionTimeout: n.cfg.ElectionTimeout, FormGrace: n.cfg.FormGrace, AbandonAfter: n.cfg.AbandonAfter,
		JoinOnly: n.cfg.JoinOnly, Policies: n.policies, MaxStaleness: n.cfg.MaxStaleness, LogRetainBytes: uint64(n.cfg.LogRetain),
		Transport: link, Upper: n.gw, Logger: n.log,
	})
	if err != nil {
		return err
	}
	n.core = core
	n.id.Store(core.ID())
	n.gw.Attach(core)
	n.runner = replication.NewRunner(core, n.gw)
	hosts, known := make([]peer.Host, len(n.hosts)), &roster{}
	for slot, h := range n.hosts {
		hosts[slot], known = n.peerHost(h), known.with(h)
	}
	n.roster.Store(known)
	n.peers, err = peer.New(peer.Config{
		Self: n.cfg.Self, Hosts: hosts, ID: n.id.Load, SlotOf: n.slotOf, Token: string(n.cfg.PeerSecret()),
		Credentials: n.peerCredentials(), Explain: config.ExplainHandshake,
		Handler: inbound{n.runner}, Greeting: n.LeaderInfo, Logger: n.log, BackoffMax: n.cfg.BackoffMax(),
		SilenceTimeout: silence(n.cfg.ElectionTimeout),
	})
	if err != nil {
		return err
	}
	n.greetings, n.healths = newInquiry(n.LeaderInfo), newInquiry(n.Health)
	n.server = server.New(server.Config{
		Backend: backend{n}, Token: string(n.cfg.Token), PeerToken: string(n.cfg.PeerToken), MaxConnections: n.cfg.MaxConnections,
		KeepaliveInterval: n.cfg.KeepaliveInterval, KeepaliveTimeout: n.cfg.KeepaliveTimeout,
		TLS: n.serverTLS(), Logger: n.log,
	})
	return nil
}

// peerHost says where to dial a host.
func (n *Node) peerHost(identity string) peer.Host {
	h := peer.Host{Identity: identity, DialAddr: identity}
	if addr, ok := n.cfg.DialMap[identity]; ok {
		h.DialAddr = addr
	}
	return h
}

// roster is the hosts that are known, by slot. It is immutable.
type roster struct {
	names []string
	tags  []uint32
}

// with returns the roster with one more host.
func (r *roster) with(identity string) *roster {
	return &roster{append(slices.Clone(r.names), identity), append(slices.Clone(r.tags), replication.HostTag(identity))}
}

// slotOf returns the slot of the host that an id was drawn for, or -1.
func (r *roster) slotOf(id uint64) int { return slices.Index(r.tags, replication.IDTag(id)) }

// slotOf is that of the current roster. It is safe for concurrent use.
func (n *Node) slotOf(id uint64) int { return n.roster.Load().slotOf(id) }

// silence is how long a peer stream may stay silent before it is redialed. Peers hear from each other ten times a second.
// It must be well above what a slow link adds, or calm is lost, and well below TCP's own patience, which after a long
// partition has grown to minutes.
func silence(electionTimeout time.Duration) time.Duration {
	if mutant.On(mutant.NoHeartbeat) {
		return 0
	}
	return max(3*time.Second, 10*electionTimeout)
}

func storeConfig(cfg *config.Config) store.Config {
	sc := store.Config{
		Default: store.Policy{TTL: cfg.DefaultTTL}, Caches: map[string]store.Policy{}, Strict: cfg.Strict,
		MaxValueBytes: int(cfg.MaxEntryBytes), MaxBytes: cfg.MaxBytes,
	}
	for _, c := range cfg.Caches {
		p := store.Policy{MaxEntries: c.MaxEntries, MaxBytes: c.MaxBytes, TTL: c.TTL}
		if p.TTL == 0 {
			p.TTL = cfg.DefaultTTL
		}
		if c.Evict == store.LRU.String() {
			p.Evict = store.LRU
		}
		sc.Caches[c.Name] = p
	}
	return sc
}

func random() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func (n *Node) close() {
	if n.ln != nil {
		n.ln.Close()
	}
	if n.admin != nil {
		n.admin.Close()
	}
}

// Error is what LeaderSwitch, MembersSet and Abandon return when the cluster refused: a code of the contract, and why.
type Error = server.Error

// Addr returns the address that the node listens on.
func (n *Node) Addr() net.Addr { return n.ln.Addr() }

// Ready reports whether the node is a voter with a fresh view: what readiness means to an orchestrator.
func (n *Node) Ready() bool { return n.runner.View().Ready }

// AwaitReady waits until Ready, or for ctx.
func (n *Node) AwaitReady(ctx context.Context) error {
	return n.await(ctx, func(v *replication.View) bool { return v.Ready })
}

// LeaderInfo says who leads, as it is told first on every stream.
func (n *Node) LeaderInfo() *cachepb.LeaderInfo {
	info := &cachepb.LeaderInfo{ElectionTs: -1}
	_ = n.runner.Call(context.Background(), func(c *replication.Core) { info = c.LeaderInfo() })
	return info
}

// Health is the node's own view of the cluster.
func (n *Node) Health() *cachepb.HealthAck {
	health := &cachepb.HealthAck{State: &cachepb.State{Value: &cachepb.State_Undefined{Undefined: &cachepb.Empty{}}}}
	_ = n.runner.Call(context.Background(), func(c *replication.Core) { health = c.Health() })
	stats := n.store.Stats()
	health.Version, health.Entries, health.Bytes = Version(), uint64(stats.Entries), uint64(stats.Bytes)
	return health
}

// LeaderSwitch hands leadership to a host, or to the best one for "", and returns when
// another node leads.
func (n *Node) LeaderSwitch(ctx context.Context, host string) error {
	var started, already, unknown bool
	var leader int
	var address string
	var term uint64
	if err := n.runner.Call(ctx, func(c *replication.Core) {
		leader, term = c.Leader(), c.Term()
		address = c.Host(leader)
		slot := -1
		if host != "" {
			slot = c.Slot(config.Identity(host))
			unknown = !slices.Contains(c.Members(), config.Identity(host))
		}
		already = slot >= 0 && leader == slot
		started = !already && !unknown && c.Transfer(slot)
	}); err != nil {
		return err
	}
	switch {
	case unknown:
		return &server.Error{Code: cachepb.Code_INVALID, Detail: host + " is not a host of this cluster"}
	case already:
		return nil
	case !started && leader >= 0 && leader != n.cfg.Self:
		return notLeader(address)
	case !started && leader < 0:
		return &server.Error{Code: cachepb.Code_NO_LEADER, Detail: "there is no leader"}
	case !started:
		return &server.Error{Code: cachepb.Code_NO_QUORUM, Detail: "no such follower is connected"}
	}
	return n.await(ctx, func(v *replication.View) bool {
		return v.Leader >= 0 && v.Leader != n.cfg.Self && v.Term > term
	})
}

// await polls the published view. It serves waits of a few round trips that happen once in a node's life.
func (n *Node) await(ctx context.Context, cond func(*replication.View) bool) error {
	for !cond(n.runner.View()) {
		if err := n.pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// Abandon makes the node forget its copy and become empty.
func (n *Node) Abandon(ctx context.Context) error {
	return n.runner.Call(ctx, func(c *replication.Core) { c.Abandon() })
}

// transport lets the core send through the peers' streams. It exists before they do, since each needs the other.
type transport struct{ n *Node }

func (t *transport) Send(slot int, lane replication.Lane, req *cachepb.CacheRequest) bool {
	return t.n.peers.Send(slot, peer.Lane(lane), req)
}

func (t *transport) SendAck(slot int, lane replication.Lane, ack *cachepb.Ack) bool {
	return t.n.peers.SendAck(slot, peer.Lane(lane), ack)
}

func (t *transport) AddHost(slot int, identity string) {
	t.n.roster.Store(t.n.roster.Load().with(identity))
	if got := t.n.peers.Add(t.n.peerHost(identity)); got != slot {
		panic(fmt.Sprintf("node: host %s has slot %d in the transport and %d in the core", identity, got, slot)) // both count up from the same list
	}
}

func (t *transport) Probe(slot int) { t.n.peers.Probe(slot) }

func (t *transport) Reconnect() {
	t.n.id.Store(t.n.core.ID())
	t.n.peers.Reconnect()
}

// inbound hands what the peers' streams bring to the runner.
type inbound struct{ r *replication.Runner }

func (h inbound) PeerRequest(slot int, id uint64, lane peer.Lane, req *cachepb.CacheRequest) {
	h.r.PostRequest(slot, id, replication.Lane(lane), req)
}

func (h inbound) PeerAck(slot int, id uint64, lane peer.Lane, ack *cachepb.Ack) {
	h.r.PostAck(slot, id, replication.Lane(lane), ack)
}

func (h inbound) PeerUp(slot int, id uint64, dir peer.Direction, lane peer.Lane) {
	h.r.PostUp(slot, id, replication.Direction(dir), replication.Lane(lane))
}

func (h inbound) PeerDown(slot int, id uint64, dir peer.Direction, lane peer.Lane, _ error) {
	h.r.PostDown(slot, id, replication.Direction(dir), replication.Lane(lane))
}

func (h inbound) DialFailed(slot int, _ peer.Lane, refused bool, _ error) {
	h.r.PostDialFailed(slot, refused)
}

// MembersSet changes the list of hosts that make up the cluster and returns when that is
// done. Processes of new hosts must be running, with CACHE_JOIN_ONLY, and be reachable; until they are, it waits. When ctx
// ends first, the change is given up, unless it is already in the log.
func (n *Node) MembersSet(ctx context.Context, hosts []string, vouched bool) error {
	list := make([]string, len(hosts))
	for i, h := range hosts {
		list[i] = config.Identity(h)
		if _, port, err := net.SplitHostPort(list[i]); err != nil || port == "" {
			return &server.Error{Code: cachepb.Code_INVALID, Detail: fmt.Sprintf("host %q: expected [scheme://]host:port", h)}
		}
	}
	config.SortHosts(list)
	var err error
	var address, heir string
	if callErr := n.runner.Call(ctx, func(c *replication.Core) {
		address = c.Host(c.Leader())
		if c.Leading() && !slices.Contains(list, c.Host(n.cfg.Self)) {
			heir = heirFor(c, list)
		}
		if heir == "" {
			// Also if nobody who stays is in sight: then this leader steps down when the change is made.
			err = c.SetMembers(list, vouched)
		}
	}); callErr != nil {
		return callErr
	}
	if heir != "" {
		// A leader that takes itself out would leave the others to notice by silence. Somebody who stays does it.
		if err := n.LeaderSwitch(ctx, heir); err != nil {
			return err
		}
		return notLeader(heir)
	}
	switch {
	case errors.Is(err, replication.ErrNotLeader) && address == "":
		return &server.Error{Code: cachepb.Code_NO_LEADER, Detail: "there is no leader"}
	case errors.Is(err, replication.ErrNotLeader):
		return notLeader(address)
	case err != nil:
		return &server.Error{Code: cachepb.Code_INVALID, Detail: err.Error()}
	}
	for {
		var now []string
		var pending bool
		var refused error
		if err := n.runner.Call(ctx, func(c *replication.Core) {
			now, pending, refused = c.Members(), c.MembersPending() != nil || c.Joint(), c.MembersRefused()
		}); err != nil {
			return err
		}
		switch {
		case refused != nil:
			return &server.Error{Code: cachepb.Code_INVALID, Detail: refused.Error()}
		case !pending && slices.Equal(now, list):
			return nil
		case !pending:
			return &server.Error{Code: cachepb.Code_INDETERMINATE, Detail: "leadership changed meanwhile; ask again, it is harmless"}
		}
		if err := n.pause(ctx, 10*time.Millisecond); err != nil {
			// Nobody waits any more. New hosts that come up next week must not join by surprise.
			_ = n.runner.Call(context.Background(), func(c *replication.Core) { c.CancelMembers() })
			return fmt.Errorf("node: given up, a new host may not be reachable: %w", err)
		}
	}
}

// heirFor returns a member that is in list and connected, or "".
func heirFor(c *replication.Core, list []string) string {
	for _, name := range c.Members() {
		if slices.Contains(list, name) && c.Linked(c.Slot(name)) {
			return name
		}
	}
	return ""
}

func notLeader(address string) error {
	return &server.Error{Code: cachepb.Code_NOT_LEADER, Detail: "this node does not lead, " + address + " does"}
}

// pause waits for d, or for ctx.
func (n *Node) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Package replicationtest drives whole clusters of replication cores through simulated time and a simulated network.
//
// Everything that happens follows from a seed: delays, losses, crashes, and, with testing/cryptotest, Raft's own random
// timeouts. After every step the invariants of the design are checked against what an omniscient observer sees; a
// failure names the seed that repeats it.
package replicationtest

import (
	"cmp"
	"container/heap"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/proto/cachepb"
)

// Options shape one simulation. The zero value means the defaults named at each field.
type Options struct {
	Seed         uint64
	Nodes        int           // default 3
	Spare        int           // hosts beyond those, on no list at first
	Delay        time.Duration // one way, mean. Default 500 us
	Jitter       time.Duration // uniform around the delay. Default 400 us
	Loss         float64       // of messages
	Duplicate    float64
	Reorder      float64       // messages that take up to 20x the delay
	AbandonAfter time.Duration // G5. Default 0, never
	Logger       *slog.Logger
	// Eat, if not nil, drops the messages for which it returns true: the network eats one kind of message.
	Eat func(m proto.Message) bool
	// Watch, if not nil, is told what happens, in order.
	Watch Watcher
	// Upper builds what runs above the core of a node; nil means the toy register. attach is called with the core.
	Upper func(n *Node) (upper replication.Driven, attach func(*replication.Core))
	// LogRetainEntries forces snapshots when small. Default 10 000
	LogRetainEntries int
	// LogRetainBytes is that of replication.Config.
	LogRetainBytes uint64
	// Batch makes one turn of everything that arrives within a random time of up to a millisecond, or during a pause, as
	// a busy Runner does. Inputs take effect when the turn comes, not when they are given.
	Batch bool
	// Policies returns the hash of the cache policies that a slot's process is given; nil gives none.
	Policies func(slot int) uint64
	// SnapshotWindow and SnapshotChunk, in bytes, make transfers slow when small. Default 8 and 512
	SnapshotWindow, SnapshotChunk int
	// SnapshotRate is that of replication.Config, in bytes a second.
	SnapshotRate uint64
}

// Watcher is told what happens in a simulation, at the simulated time at which it does. A transcript is one.
type Watcher interface {
	// Sent reports a message that left a node. lost says that it will not arrive; a message may still be lost later.
	Sent(from *Node, to int, lane replication.Lane, m proto.Message, lost bool)
	// Lost reports a message that was on its way.
	Lost(from *Node, to int, lane replication.Lane, m proto.Message)
	// Linked reports that a node got its first connection with another, or lost its last one.
	Linked(n *Node, to int, up bool)
	// DialFailed reports a failed attempt to connect.
	DialFailed(n *Node, to int, refused bool)
	// Turned reports the end of one turn of a node's loop.
	Turned(n *Node)
	// Acked reports an operation that was acknowledged at quorum.
	Acked(n *Node, op, index uint64)
}

// Sim is one simulated cluster. It is not safe for concurrent use.
type Sim struct {
	opt     Options
	rng     *rand.Rand
	now     time.Duration
	seq     uint64
	events  eventHeap
	hosts   []string
	nodes   []*Node         // by slot; nil: not running
	members int             // hosts of the initial list
	cut     map[[2]int]bool // packets from a to b vanish
	deaf    map[[2]int]bool // b refuses connections that a opens
	slow    map[int]time.Duration
	logs    map[uint64]map[uint64]entryMark // cluster -> index -> what was applied there
	acked   map[uint64]ack                  // by operation
	leads   map[[2]uint64]uint64            // (cluster, term) -> leader
	nextOp  uint64
	ackers  []acker // clusters in the order of their first acks
	Count   Counts

	err error
}

// Counts is what a simulation saw.
type Counts struct {
	Steps, Messages, Dropped, Crashes, Acks, Refused, LeaderChanges, Abandons, Snapshots uint64
	Clusters                                                                             int
}

type entryMark struct {
	term uint64
	hash uint64
}

type ack struct {
	cluster, index uint64
	at             time.Duration
}

type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || (h[i].at == h[j].at && h[i].seq < h[j].seq)
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return e
}

// New returns a simulation in which no node runs yet.
func New(opt Options) *Sim {
	if opt.Nodes == 0 {
		opt.Nodes = 3
	}
	if opt.Delay == 0 {
		opt.Delay, opt.Jitter = 500*time.Microsecond, 400*time.Microsecond
	}
	s := &Sim{
		opt: opt, rng: rand.New(rand.NewPCG(opt.Seed, 0x5eed)), now: time.Second,
		nodes: make([]*Node, opt.Nodes+opt.Spare), members: opt.Nodes, cut: map[[2]int]bool{}, deaf: map[[2]int]bool{}, slow: map[int]time.Duration{},
		logs: map[uint64]map[uint64]entryMark{}, acked: map[uint64]ack{}, leads: map[[2]uint64]uint64{},
	}
	for i := range opt.Nodes + opt.Spare {
		s.hosts = append(s.hosts, fmt.Sprintf("node%d:7000", i))
	}
	return s
}

// At schedules do in d from now.
func (s *Sim) At(d time.Duration, do func()) {
	s.seq++
	heap.Push(&s.events, event{at: s.now + d, seq: s.seq, do: do})
}

// Now returns simulated time.
func (s *Sim) Now() time.Duration { return s.now }

// Rand is the simulation's source of chance.
func (s *Sim) Rand() *rand.Rand { return s.rng }

// Node returns the running node of a slot, or nil.
func (s *Sim) Node(slot int) *Node { return s.nodes[slot] }

// Run lets d of simulated time pass, or stops at the first broken invariant, which it returns.
func (s *Sim) Run(d time.Duration) error {
	end := s.now + d
	for s.err == nil && len(s.events) > 0 && s.events[0].at <= end {
		e := heap.Pop(&s.events).(event)
		s.now = max(s.now, e.at)
		s.Count.Steps++
		e.do()
	}
	s.now = end
	return s.err
}

// RunUntil lets time pass until cond holds, and fails after at most d.
func (s *Sim) RunUntil(d time.Duration, what string, cond func() bool) error {
	end := s.now + d
	for !cond() {
		if s.now >= end {
			return fmt.Errorf("not within %v: %s\n%s", d, what, s.Describe())
		}
		if err := s.Run(time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sim) fail(format string, v ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("at %v: %s\n%s", s.now, fmt.Sprintf(format, v...), s.Describe())
	}
}

// Describe tells the state of every node.
func (s *Sim) Describe() string {
	out := fmt.Sprintf("time %v seed %d\n", s.now, s.opt.Seed)
	for slot, n := range s.nodes {
		if n == nil {
			out += fmt.Sprintf("  %d down\n", slot)
			continue
		}
		h := n.Core.Health()
		out += fmt.Sprintf("  %d id %016x cluster %016x term %d leader %d leading %v applied %d state %v abandoned %d (%s)\n", slot,
			n.Core.ID(), n.Core.Cluster(), n.Core.Term(), n.Core.Leader(), n.Core.Leading(), n.Core.Applied(), h.State,
			n.Core.Stats().Abandons, n.Core.Stats().AbandonReason)
	}
	return out
}

// Start starts the node of a slot as a new process, configured with the initial list of hosts; one that is not on it is
// told of all hosts and only joins.
func (s *Sim) Start(slot int) {
	list, joinOnly := s.hosts[:s.members], false
	if slot >= s.members {
		list, joinOnly = s.hosts, true
	}
	s.StartWith(slot, list, joinOnly)
}

// StartWith starts the node of a slot with a configuration of its own.
func (s *Sim) StartWith(slot int, list []string, joinOnly bool) {
	if s.nodes[slot] != nil {
		return
	}
	n := &Node{sim: s, slot: slot}
	logger := s.opt.Logger
	if logger != nil {
		logger = logger.With("node", slot)
	}
	attach := func(*replication.Core) {}
	if s.opt.Upper != nil {
		n.Upper, attach = s.opt.Upper(n)
	} else {
		n.reg = &register{n: n, waiting: map[uint64]waiting{}}
		n.Upper = n.reg
	}
	policies := uint64(0)
	if s.opt.Policies != nil {
		policies = s.opt.Policies(slot)
	}
	core, err := replication.New(replication.Config{
		Policies: policies,
		Hosts:    list, Self: slices.Index(list, s.hosts[slot]), JoinOnly: joinOnly, AbandonAfter: s.opt.AbandonAfter, Transport: n, Upper: n.Upper, Logger: logger,
		WallClock: func() time.Time { return time.Unix(1_700_000_000, 0).Add(s.now) },
		Rand:      s.rng.Uint64, LogRetainEntries: s.opt.LogRetainEntries, LogRetainBytes: s.opt.LogRetainBytes, SnapshotChunk: cmp.Or(s.opt.SnapshotChunk, 512),
		SnapshotWindow: s.opt.SnapshotWindow, SnapshotRate: s.opt.SnapshotRate,
	})
	if err != nil {
		panic(err)
	}
	n.Core = core
	attach(core)
	s.nodes[slot] = n
	n.turn()
	for other := range s.nodes {
		if other != slot {
			s.dial(slot, other, 0)
			s.dial(other, slot, 0)
		}
	}
}

// Crash kills the process of a slot. Its connections break: who is reachable learns it.
func (s *Sim) Crash(slot int) {
	n := s.nodes[slot]
	if n == nil {
		return
	}
	s.Count.Crashes++
	s.Count.Abandons += n.Core.Stats().Abandons
	n.dead = true
	s.nodes[slot] = nil
	for _, o := range s.nodes {
		if o == nil {
			continue
		}
		for _, dir := range []replication.Direction{replication.Outgoing, replication.Incoming} {
			for _, lane := range []replication.Lane{replication.LaneControl, replication.LaneData} {
				if o.up[dir][lane] == nil || o.up[dir][lane][slot] != n {
					continue
				}
				o, dir, lane := o, dir, lane
				// The end of a connection is read after what was sent on it.
				s.At(max(s.delay(slot, o.slot), n.lastAt[lane][o.slot]-s.now), func() {
					if s.cut[[2]int{slot, o.slot}] {
						return // the reset is lost: the connection looks alive
					}
					o.linkDown(dir, lane, n)
				})
			}
		}
	}
}

// Isolate makes all packets between slot and the others vanish, or flow again.
func (s *Sim) Isolate(slot int, cut bool) {
	for other := range s.nodes {
		if other != slot {
			s.cut[[2]int{slot, other}], s.cut[[2]int{other, slot}] = cut, cut
		}
	}
}

// Cut makes the packets from a to b vanish, or flow again.
func (s *Sim) Cut(a, b int, cut bool) { s.cut[[2]int{a, b}] = cut }

// Refuse makes b refuse the connections that a opens, or take them again. Those that are up stay so.
func (s *Sim) Refuse(a, b int, refuse bool) { s.deaf[[2]int{a, b}] = refuse }

// Heal lets all packets flow and all connections be opened.
func (s *Sim) Heal() {
	clear(s.cut)
	clear(s.deaf)
}

// Failed returns how many slots are failed in the sense of the design: not running, or not promoted to voter since. What
// counts is the configuration of whoever leads; without a leader, each node's own.
func (s *Sim) Failed() int {
	leader := s.Leader()
	failed := 0
	for _, n := range s.nodes[:s.members] {
		switch {
		case n == nil:
			failed++
		case leader != nil && !slices.Contains(leader.Core.Voters(), n.Core.ID()):
			failed++
		case leader == nil && !n.Core.Voter():
			failed++
		}
	}
	return failed
}

// Split makes all packets between two groups vanish: the nodes whose bit is set, and the others.
func (s *Sim) Split(group uint, cut bool) {
	for a := range s.nodes {
		for b := range s.nodes {
			if group>>a&1 != group>>b&1 {
				s.cut[[2]int{a, b}] = cut
			}
		}
	}
}

func (s *Sim) delay(from, to int) time.Duration {
	d := s.opt.Delay + time.Duration((2*s.rng.Float64()-1)*float64(s.opt.Jitter))
	return max(d, time.Microsecond) + s.slow[from] + s.slow[to]
}

// arrival returns when a message sent now arrives. Messages of one lane arrive in order, as on a stream, but for the few
// that are reordered: those of two streams that succeed each other can be.
func (s *Sim) arrival(n *Node, slot int, lane replication.Lane) time.Duration {
	d := s.delay(n.slot, slot)
	if s.rng.Float64() < s.opt.Reorder {
		return d + time.Duration(s.rng.Float64()*20*float64(s.opt.Delay))
	}
	at := max(s.now+d, n.lastAt[lane][slot])
	n.lastAt[lane][slot] = at
	return at - s.now
}

// dial keeps a's streams to b: both lanes, again and again while they are down.
func (s *Sim) dial(a, b, tries int) {
	from := s.nodes[a]
	if from == nil || from.local(b) < 0 {
		return // down, or has not heard of that host
	}
	again := func(after time.Duration) {
		s.At(after, func() {
			if s.nodes[a] == from {
				s.dial(a, b, tries+1)
			}
		})
	}
	if from.dialing[b] && tries == 0 {
		return
	}
	from.ensure()
	have := 0
	for _, lane := range []replication.Lane{replication.LaneControl, replication.LaneData} {
		if from.up[replication.Outgoing][lane][b] != nil {
			have++
		}
	}
	from.dialing[b] = have < 2
	if have == 2 {
		return
	}
	backoff := min(20*time.Millisecond<<min(tries, 4), 250*time.Millisecond)
	reach := !s.cut[[2]int{a, b}] && !s.cut[[2]int{b, a}]
	to := s.nodes[b]
	rtt := s.delay(a, b) + s.delay(b, a)
	switch {
	case !reach:
		s.At(20*time.Millisecond, func() { from.dialFailed(b, false) })
		again(backoff)
	case to == nil, s.deaf[[2]int{a, b}]:
		s.At(rtt, func() { from.dialFailed(b, true) })
		again(backoff)
	default:
		to.ensure()
		s.At(rtt, func() {
			if s.nodes[a] != from {
				return
			}
			if s.nodes[b] != to {
				again(backoff) // it was another process that this dial was on its way to
				return
			}
			for _, lane := range []replication.Lane{replication.LaneControl, replication.LaneData} {
				if from.up[replication.Outgoing][lane][b] != nil {
					continue
				}
				if to.local(a) < 0 {
					again(backoff) // refused: the other does not know this host
					return
				}
				from.linkUp(replication.Outgoing, lane, to)
				to.linkUp(replication.Incoming, lane, from)
			}
			from.dialing[b] = false
			info := &cachepb.Ack{Method: &cachepb.Ack_MgmtAck{MgmtAck: &cachepb.MgmtAck{Method: &cachepb.MgmtAck_LeaderInfo{LeaderInfo: to.Core.LeaderInfo()}}}}
			eaten := s.opt.Eat != nil && s.opt.Eat(info)
			s.sent(to, a, replication.LaneControl, info, eaten)
			if !eaten {
				id := to.Core.ID()
				from.step(func() { from.Core.ReceiveAck(from.local(b), id, replication.LaneControl, info) })
			}
		})
	}
}

func (n *Node) dialFailed(slot int, refused bool) {
	if n.dead {
		return
	}
	if w := n.sim.opt.Watch; w != nil {
		w.DialFailed(n, slot, refused)
	}
	n.step(func() { n.Core.DialFailed(n.local(slot), refused) })
}

func (s *Sim) sent(from *Node, to int, lane replication.Lane, m proto.Message, lost bool) {
	if s.opt.Watch != nil {
		s.opt.Watch.Sent(from, to, lane, m, lost)
	}
}

// Node is one simulated process: a core, a toy state machine, and its end of the network.
type Node struct {
	sim  *Sim
	slot int
	Core *replication.Core
	dead bool

	up          [2][2]map[int]*Node      // by direction, lane, other slot: the process at the other end
	lastAt      [3]map[int]time.Duration // by lane, other slot: when the last message arrives there
	dialing     map[int]bool
	wakeAt      time.Duration
	pausedUntil time.Duration
	inbox       []func() // what waits for the next turn; see Options.Batch

	Upper replication.Driven
	reg   *register // Upper, if it is the toy state machine
}

func (n *Node) ensure() {
	if n.dialing == nil {
		n.dialing = map[int]bool{}
		n.lastAt = [3]map[int]time.Duration{{}, {}, {}}
		for d := range n.up {
			for l := range n.up[d] {
				n.up[d][l] = map[int]*Node{}
			}
		}
	}
}

// Pause stops the process of a slot for d: what arrives waits, time goes on.
func (s *Sim) Pause(slot int, d time.Duration) {
	if n := s.nodes[slot]; n != nil {
		n.pausedUntil = max(n.pausedUntil, s.now+d)
	}
}

// step runs one input of the core and what follows from it.
func (n *Node) step(input func()) {
	if n.dead {
		return
	}
	if n.pausedUntil > n.sim.now && !n.sim.opt.Batch {
		n.sim.At(n.pausedUntil-n.sim.now, func() { n.step(input) })
		return
	}
	n.ensure()
	if n.sim.opt.Batch {
		n.inbox = append(n.inbox, input)
		if len(n.inbox) == 1 {
			n.sim.At(time.Duration(n.sim.rng.IntN(1000))*time.Microsecond, n.batch)
		}
		return
	}
	n.Core.Clock(n.sim.now)
	input()
	n.finishTurn()
}

// batch runs everything that waits as one turn, once the process runs.
func (n *Node) batch() {
	switch {
	case n.dead:
		return
	case n.pausedUntil > n.sim.now:
		n.sim.At(n.pausedUntil-n.sim.now, n.batch)
		return
	}
	inputs := n.inbox
	n.inbox = nil
	n.Core.Clock(n.sim.now)
	for _, input := range inputs {
		input()
	}
	n.finishTurn()
}

func (n *Node) turn() { n.step(func() {}) }

func (n *Node) finishTurn() {
	for again := true; again; {
		n.Upper.Flush()
		n.Core.Process()
		again = n.Upper.Settle()
	}
	n.sim.check(n)
	if w := n.sim.opt.Watch; w != nil {
		w.Turned(n)
	}
	if at := min(n.Core.NextWake(), n.Upper.NextWake()); n.wakeAt == 0 || at < n.wakeAt || n.wakeAt <= n.sim.now {
		n.wakeAt = at
		n.sim.At(max(at-n.sim.now, 0), func() {
			if !n.dead && n.wakeAt <= n.sim.now {
				n.wakeAt = 0
				n.turn()
			}
		})
	}
}

func (n *Node) linkUp(dir replication.Direction, lane replication.Lane, o *Node) {
	n.ensure()
	first := n.peerAt(o.slot) == nil
	n.up[dir][lane][o.slot] = o
	if w := n.sim.opt.Watch; w != nil && first {
		w.Linked(n, o.slot, true)
	}
	id := o.Core.ID()
	n.step(func() { n.Core.PeerUp(n.local(o.slot), id, dir, lane) })
}

func (n *Node) linkDown(dir replication.Direction, lane replication.Lane, o *Node) {
	if n.dead || n.up[dir][lane][o.slot] != o {
		return
	}
	delete(n.up[dir][lane], o.slot)
	if w := n.sim.opt.Watch; w != nil && n.peerAt(o.slot) == nil {
		w.Linked(n, o.slot, false)
	}
	n.step(func() { n.Core.PeerDown(n.local(o.slot), 0, dir, lane) })
	if dir == replication.Outgoing {
		n.sim.dial(n.slot, o.slot, 0)
	}
}

// lost ends every connection with a process that is gone, unless the news cannot get through.
func (n *Node) lost(o *Node) {
	if n.dead || n.sim.cut[[2]int{n.slot, o.slot}] || n.sim.cut[[2]int{o.slot, n.slot}] {
		return
	}
	for _, dir := range []replication.Direction{replication.Outgoing, replication.Incoming} {
		for _, lane := range []replication.Lane{replication.LaneControl, replication.LaneData} {
			n.linkDown(dir, lane, o)
		}
	}
}

// Break resets one connection between the nodes of two slots, as a middlebox would.
func (s *Sim) Break(a, b int, lane replication.Lane) {
	from, to := s.nodes[a], s.nodes[b]
	if from == nil || to == nil || from.up[replication.Outgoing][lane][b] != to {
		return
	}
	from.linkDown(replication.Outgoing, lane, to)
	to.linkDown(replication.Incoming, lane, from)
}

func (n *Node) peerAt(slot int) *Node {
	for d := range n.up {
		for l := range n.up[d] {
			if o := n.up[d][l][slot]; o != nil {
				return o
			}
		}
	}
	return nil
}

// carry sends one message to the process that this node is connected with.
func (n *Node) carry(slot int, lane replication.Lane, m proto.Message, deliver func(to *Node, m proto.Message)) bool {
	n.ensure()
	s := n.sim
	to := n.peerAt(slot)
	if to == nil {
		return false
	}
	s.Count.Messages++
	if to.dead {
		// The other end is gone, and its machine says so as soon as a packet gets through.
		s.sent(n, slot, lane, m, true)
		s.At(2*s.delay(n.slot, slot), func() { n.lost(to) })
		return true
	}
	if s.cut[[2]int{n.slot, slot}] || s.rng.Float64() < s.opt.Loss || (s.opt.Eat != nil && s.opt.Eat(m)) {
		s.Count.Dropped++
		s.sent(n, slot, lane, m, true)
		return true
	}
	s.sent(n, slot, lane, m, false)
	copies := 1
	if s.rng.Float64() < s.opt.Duplicate {
		copies = 2
	}
	for range copies {
		m := proto.Clone(m)
		s.At(s.arrival(n, slot, lane), func() {
			if !to.dead && !s.cut[[2]int{n.slot, slot}] {
				to.step(func() { deliver(to, m) })
			} else if s.opt.Watch != nil {
				s.opt.Watch.Lost(n, slot, lane, m)
			}
		})
	}
	return true
}

// Send implements replication.Transport.
func (n *Node) Send(slot int, lane replication.Lane, req *cachepb.CacheRequest) bool {
	id, slot := n.Core.ID(), n.global(slot)
	return n.carry(slot, lane, req, func(to *Node, m proto.Message) {
		to.Core.ReceiveRequest(to.local(n.slot), id, lane, m.(*cachepb.CacheRequest))
	})
}

// SendAck implements replication.Transport.
func (n *Node) SendAck(slot int, lane replication.Lane, a *cachepb.Ack) bool {
	id, slot := n.Core.ID(), n.global(slot)
	return n.carry(slot, lane, a, func(to *Node, m proto.Message) {
		to.Core.ReceiveAck(to.local(n.slot), id, lane, m.(*cachepb.Ack))
	})
}

// Probe implements replication.Transport.
func (n *Node) Probe(slot int) {
	slot = n.global(slot)
	n.sim.At(0, func() { n.sim.dial(n.slot, slot, 0) })
}

// AddHost implements replication.Transport. The simulated network connects everybody anyway.
func (n *Node) AddHost(slot int, identity string) {
	if n.Core != nil {
		n.sim.At(0, func() {
			other := slices.Index(n.sim.hosts, identity)
			n.sim.dial(n.slot, other, 0)
			n.sim.dial(other, n.slot, 0)
		})
	}
}

// local returns this node's slot for a host of the simulation, and global the reverse. Nodes number hosts differently once
// the list has changed.
func (n *Node) local(slot int) int  { return n.Core.Slot(n.sim.hosts[slot]) }
func (n *Node) global(slot int) int { return slices.Index(n.sim.hosts, n.Core.Host(slot)) }

// Reconnect implements replication.Transport: the streams end and come back under the new id.
func (n *Node) Reconnect() {
	n.sim.At(0, func() {
		for slot, o := range n.sim.nodes {
			if o == nil || o == n || n.dead {
				continue
			}
			for _, lane := range []replication.Lane{replication.LaneControl, replication.LaneData} {
				n.sim.Break(n.slot, slot, lane)
				n.sim.Break(slot, n.slot, lane)
			}
		}
	})
}

// acker is a cluster that acknowledged something.
type acker struct {
	cluster uint64
	since   time.Duration // its first ack
}

// Acked records that an operation, named by a number that is never used twice, was acknowledged at quorum. proposed is
// when it was handed in, or any time before that.
//
// Clusters do not take turns (I3). What a quorum of an old cluster stored before it failed may still be acknowledged after
// a new one began, when the answers were under way: nothing distinguishes that from an ack that is late. What was handed
// in after the new one's first ack cannot.
func (s *Sim) Acked(op, cluster, index uint64, proposed time.Duration) {
	s.acked[op] = ack{cluster: cluster, index: index, at: s.now}
	s.Count.Acks++
	place := slices.IndexFunc(s.ackers, func(a acker) bool { return a.cluster == cluster })
	switch {
	case place < 0:
		s.ackers = append(s.ackers, acker{cluster, s.now})
	case place < len(s.ackers)-1 && proposed > s.ackers[place+1].since:
		s.fail("cluster %016x acknowledges at %v what was handed in at %v, after another one acknowledged at %v (I3)",
			cluster, s.now, proposed, s.ackers[place+1].since)
	}
}

// Applied records what a node applied at an index, and checks it against the others (I4).
func (s *Sim) Applied(n *Node, index, term, mark uint64) {
	cluster := n.Core.Cluster()
	if s.logs[cluster] == nil {
		s.logs[cluster] = map[uint64]entryMark{}
		s.Count.Clusters++
	}
	if was, ok := s.logs[cluster][index]; ok && was != (entryMark{term, mark}) {
		s.fail("node %d applies %x of term %d at index %d, another applied %x of term %d there (I4)", n.slot, mark, term, index, was.hash, was.term)
	}
	s.logs[cluster][index] = entryMark{term, mark}
}

// PausedUntil returns when the last pause of the node ends or ended; 0 if it never had one.
func (n *Node) PausedUntil() time.Duration { return n.pausedUntil }

// Slot returns the node's slot.
func (n *Node) Slot() int { return n.slot }

// Hosts returns the identities of all slots.
func (s *Sim) Hosts() []string { return s.hosts }

// Step runs input as one turn of the node's loop.
func (n *Node) Step(input func()) { n.step(input) }

// check asserts the invariants that one node's step may have broken.
func (s *Sim) check(n *Node) {
	c := n.Core
	if c.Elected() {
		key := [2]uint64{c.Cluster(), c.Term()}
		if was, ok := s.leads[key]; ok && was != c.ID() {
			s.fail("two leaders in term %d: %016x and %016x (I4)", key[1], was, c.ID())
		} else if !ok {
			s.leads[key] = c.ID()
			s.Count.LeaderChanges++
		}
	}
	if err := c.CheckMembership(); err != nil {
		s.fail("node %d: %v (I2)", n.slot, err)
	}
	if at, ok := c.AsOf(); ok {
		// I9: everything that was acknowledged before asOf is here.
		for _, a := range s.recentAcks(c.Cluster(), at) {
			if a.index > c.Applied() {
				s.fail("node %d claims to be as of %v and lacks index %d, acknowledged at %v (I9)", n.slot, at, a.index, a.at)
			}
		}
	}
}

// recentAcks returns the newest acknowledgement of a cluster before t.
func (s *Sim) recentAcks(cluster uint64, t time.Duration) []ack {
	best := ack{}
	for op := s.nextOp; op > 0 && s.nextOp-op < 200; op-- {
		if a, ok := s.acked[op]; ok && a.cluster == cluster && a.at < t && a.index > best.index {
			best = a
		}
	}
	if best.index == 0 {
		return nil
	}
	return []ack{best}
}

// Leader returns the node that takes proposals, or nil.
func (s *Sim) Leader() *Node {
	for _, n := range s.nodes {
		if n != nil && n.pausedUntil <= s.now {
			n.Core.Clock(s.now)
			if n.Core.Leading() {
				return n
			}
		}
	}
	return nil
}

// Healthy reports whether every node runs and is a voter of one cluster with a leader. A paused one says what was true
// before.
func (s *Sim) Healthy() bool {
	l := s.Leader()
	if l == nil {
		return false
	}
	for _, name := range l.Core.Members() {
		n := s.nodes[slices.Index(s.hosts, name)]
		if n == nil || n.pausedUntil > s.now || !n.Core.Ready() || n.Core.Cluster() != l.Core.Cluster() || n.Core.LeaderID() != l.Core.ID() {
			return false
		}
	}
	return true
}

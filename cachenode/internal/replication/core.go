package replication

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/faults"
	"github.com/hacache/hacache/cachenode/internal/mutant"
	"github.com/hacache/hacache/proto/cachepb"
)

var (
	// ErrNotLeader is returned by Propose when this node does not lead, has not committed an entry in its term yet, or
	// has not heard from a quorum for an election timeout. The proposal had no effect.
	ErrNotLeader = errors.New("replication: not leader")
	// ErrBusy is returned by Propose when the log holds as much uncommitted data as it may, or leadership is being
	// transferred. The proposal had no effect.
	ErrBusy = errors.New("replication: busy")
)

// Lane is one of the three connections of a pair of nodes in each direction. Heartbeats and elections must not queue
// behind appends, nor either behind a snapshot; a lane is a preference, another one serves when it is down.
type Lane uint8

// The lanes.
const (
	LaneControl Lane = iota
	LaneData
	LaneSnapshot
	lanes
)

func (l Lane) String() string { return [...]string{"control", "data", "snapshot"}[l] }

// Direction says which side of a connection this node is.
type Direction uint8

// The directions.
const (
	Outgoing Direction = iota // this node dialed
	Incoming
	directions
)

func (d Direction) String() string { return [...]string{"out", "in"}[d] }

// Transport carries messages to other nodes. Its methods never block; a message that cannot be queued is dropped, which
// Raft allows, and reported as false. A message belongs to the transport after the call and is not modified again, but
// one message may be given to it more than once.
type Transport interface {
	Send(slot int, lane Lane, req *cachepb.CacheRequest) bool
	SendAck(slot int, lane Lane, ack *cachepb.Ack) bool
	// Probe asks for a new connection attempt to slot now, whatever its backoff.
	Probe(slot int)
	// AddHost makes another host known, as the next slot after those of Config.Hosts and earlier calls.
	AddHost(slot int, identity string)
	// Reconnect is called when this node's id changed: streams that were opened under the old id end and are redialed.
	Reconnect()
}

// StateMachine is what committed entries are applied to. All methods are called on the core's goroutine.
type StateMachine interface {
	// Apply applies one committed entry. data must not be modified.
	Apply(index, term uint64, data []byte)
	// BeginSnapshot captures what must be captured at the last applied index; the data itself may be newer (a fuzzy
	// snapshot), Apply makes up the difference.
	BeginSnapshot() SnapshotSource
	// BeginRestore starts to build a state aside from the running one, from a snapshot taken at index.
	BeginRestore(index uint64) SnapshotSink
	// Reset forgets everything: the node left its cluster.
	Reset()
}

// SnapshotSource yields a snapshot in chunks of at most about max bytes.
type SnapshotSource interface {
	Next(max int) (chunk []byte, done bool)
	// Progress returns about how much of the snapshot was read, from 0 to 1.
	Progress() float64
}

// SnapshotSink builds a state from chunks. Finish makes it the running state.
type SnapshotSink interface {
	Add(chunk []byte) error
	Finish() error
}

// Upper is the layer above the core: the state machine, and the receiver of the operations that other nodes forward.
// All methods are called on the core's goroutine.
type Upper interface {
	StateMachine
	// PeerRequest takes an operation that the node at slot forwarded. The message belongs to the receiver.
	PeerRequest(slot int, id uint64, req *cachepb.CacheRequest)
	// PeerAck takes an answer to an operation that this node forwarded. The message belongs to the receiver.
	PeerAck(slot int, id uint64, ack *cachepb.Ack)
	// ReadReady reports that a linearizable read may be served once index is applied. ctx is what ReadIndex returned.
	ReadReady(ctx, index uint64)
}

// Config describes one core. The zero value of a duration or size means its default.
type Config struct {
	Hosts []string // identities of the hosts to form a cluster of, sorted; the same list on every node. Slots begin as its indices
	Self  int      // this node's slot

	ElectionTimeout time.Duration // silence after which a follower may campaign: between 1x and 2x of it. Default 200 ms, range 20 ms to 60 s
	FormGrace       time.Duration // how long an empty node waits for absent ones before a majority forms a cluster. Default 1 s
	AbandonAfter    time.Duration // rule G5; 0 means never. No default: the caller decides
	JoinOnly        bool          // never form a cluster
	MaxStaleness    time.Duration // bound of local reads; only health uses it here. Default 500 ms
	Policies        uint64        // hash of what replicas must be given alike; nodes that differ form no cluster together. 0: unknown

	LogRetainBytes   uint64 // applied entries kept for slow followers; during a transfer eight times as much, and as much as the snapshot. Default 64 MiB
	LogRetainEntries int    // default 10 000
	MaxUncommitted   uint64 // bytes of proposals in flight. Default 64 MiB
	SnapshotChunk    int    // bytes. Default 256 KiB
	SnapshotWindow   int    // chunks in flight. Default 8
	SnapshotRate     uint64 // bytes a second that a transfer moves beside twice what is written meanwhile. Default 32 MiB

	Transport Transport
	Upper     Upper
	WallClock func() time.Time // labels leaderships and starts cluster time; never decides safety. Default time.Now
	Rand      func() uint64    // incarnation ids and cluster names. Default crypto/rand
	Logger    *slog.Logger     // nil discards
}

func (c *Config) setDefaults() {
	c.ElectionTimeout = cmp.Or(c.ElectionTimeout, 200*time.Millisecond)
	c.FormGrace = cmp.Or(c.FormGrace, time.Second)
	c.MaxStaleness = cmp.Or(c.MaxStaleness, 500*time.Millisecond)
	c.LogRetainBytes = cmp.Or(c.LogRetainBytes, 64<<20)
	c.LogRetainEntries = cmp.Or(c.LogRetainEntries, 10_000)
	c.MaxUncommitted = cmp.Or(c.MaxUncommitted, 64<<20)
	c.SnapshotChunk = cmp.Or(c.SnapshotChunk, 256<<10)
	c.SnapshotWindow = cmp.Or(c.SnapshotWindow, 8)
	c.SnapshotRate = cmp.Or(c.SnapshotRate, 32<<20)
	if c.WallClock == nil {
		c.WallClock = faults.Now
	}
	if c.Rand == nil {
		c.Rand = cryptoRand
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

func cryptoRand() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func (c *Config) validate() error {
	switch {
	case checkHosts(c.Hosts) != nil:
		return checkHosts(c.Hosts)
	case c.Self < 0 || c.Self >= len(c.Hosts):
		return fmt.Errorf("replication: own slot %d, want 0 to %d", c.Self, len(c.Hosts)-1)
	case !slices.IsSorted(c.Hosts):
		return fmt.Errorf("replication: hosts are not sorted: %q", c.Hosts)
	case c.ElectionTimeout < 20*time.Millisecond || c.ElectionTimeout > time.Minute:
		return fmt.Errorf("replication: election timeout %v, want 20ms to 1m", c.ElectionTimeout)
	case c.Transport == nil || c.Upper == nil:
		return errors.New("replication: Transport and Upper must be set")
	}
	return nil
}

// The shape of Raft's timing: an election timeout is 20 ticks, a heartbeat is due every 3. At the default of 200 ms a tick
// is 10 ms and a heartbeat 30 ms, so six heartbeats in a row must go missing before anyone asks for votes.
const (
	electionTicks  = 20
	heartbeatTicks = 3
)

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// Core is one node's part of the replicated log. It is not safe for concurrent use. The caller tells it the time with
// Clock, hands over what arrived, and calls Process; the core calls back while it does so.
type Core struct {
	cfg   Config
	log   *slog.Logger
	hosts hosts

	now     time.Duration // the caller's monotonic clock
	started time.Duration
	clocked bool

	id       uint64 // this incarnation
	cluster  uint64 // 0: empty
	joinedAt time.Duration

	rn          *raft.RawNode // nil: empty
	store       *logStore
	conf        *raftpb.ConfState // the applied configuration
	role        raft.StateType
	lead        uint64 // who leads, by id; 0: unknown
	term        uint64
	applied     uint64
	appliedTerm uint64 // term of the last applied entry
	unstored    uint64 // entries proposed since the last Ready
	stopping    bool

	peers     []*peer // by slot; peers[Self] is nil
	nextTick  time.Duration
	tick      time.Duration
	lastClock time.Duration
	resumedAt time.Duration // end of the last stall that was long enough for others to elect somebody
	leadSince time.Duration
	unexcused int // ticks since the last stall that held them back

	election  election
	fresh     freshness
	transfers transfers
	member    membership

	readSeq uint64

	stats Stats
}

// Stats counts what happened; it only grows, except where a field says otherwise.
type Stats struct {
	LeaderChanges   [NumChanges]uint64 // leaders this node has seen, its own leadership included, by why there was another
	Elections       uint64             // candidacies started here
	Suspicions      uint64             // leaders suspected because all connections broke
	Withdrawals     uint64
	Abandons        uint64
	Forms           uint64
	LettersDropped  uint64 // by the letter filter
	SendsDropped    uint64 // by the transport
	SnapshotsSent   uint64
	SnapshotsFailed uint64
	SnapshotsTaken  uint64 // received and installed
	SnapshotSent    uint64 // bytes of chunks, those sent again included
	SnapshotGot     uint64 // bytes of chunks that were in order
	Stalls          uint64 // gaps of more than 50 ms between two turns of the loop
	AbandonReason   string // of the last one
}

// peer is what this node knows of the node at another slot.
type peer struct {
	slot int
	addr string

	id      uint64 // newest incarnation seen; 0: none yet
	idAt    time.Duration
	up      [directions][lanes]bool
	upID    [directions][lanes]uint64 // who is at the other end, 0 if unknown
	breaks  uint64                    // of the lanes that carry operations
	heardAt time.Duration             // anything from the current incarnation

	status   *cachepb.NodeStatus // of the current incarnation
	statusAt time.Duration

	pingAt    [lanes]time.Duration // last Ping sent
	pongSent  int64                // Beat.sent of its newest Pong, echoed in our next Ping
	contactAt time.Duration        // send time of the newest Ping of ours that a MsgHeartbeatResp of our term answers
	answerAt  time.Duration        // when that answer came
	contacted bool
	rtt       time.Duration
	owed      [lanes]owedPong
	viaAck    bool // its last append came as a LeaderAck; the answer is a LeaderAckAck

	confirmed bool // has answered an append of our current leadership

	appendAt time.Duration // when entries were sent to it last

	told   uint64        // the leader it was told of
	toldAt time.Duration // when

	reconnected bool // for a planted bug: the first append since has not come

	refused string // why no cluster can be formed with it, as was logged

	joinID uint64 // asks to be let in
	joinAt time.Duration

	suspects   position // its last LeaderDead
	suspectsAt time.Duration
	seeks      position // its last pre-vote
	seeksAt    time.Duration
	seeksTS    int64
}

// owedPong is a Ping that waits for its Pong until Raft's answer to the heartbeat in it is known.
type owedPong struct {
	owed bool
	sent int64
}

func (p *peer) linked() bool {
	var none [directions][lanes]bool
	return p.up != none
}

// New returns an empty core: a node that belongs to no cluster yet.
func New(cfg Config) (*Core, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c := &Core{
		cfg:  cfg,
		log:  cfg.Logger,
		tick: cfg.ElectionTimeout / electionTicks,
	}
	for i, host := range cfg.Hosts {
		c.hosts.table, c.hosts.tags = append(c.hosts.table, host), append(c.hosts.tags, HostTag(host))
		if i == cfg.Self {
			c.peers = append(c.peers, nil)
			continue
		}
		c.peers = append(c.peers, &peer{slot: i, addr: host})
	}
	c.setMembers(cfg.Hosts)
	c.hosts.started = c.hosts.hash
	c.election.clear()
	c.forget()
	return c, nil
}

// slotOf returns the slot of the host that an id was drawn for, or -1.
func (c *Core) slotOf(id uint64) int { return c.hosts.of(id) }

// known reports whether slot is another host's.
func (c *Core) known(slot int) bool { return slot >= 0 && slot < len(c.peers) && slot != c.cfg.Self }

func (c *Core) peerByID(id uint64) *peer {
	s := c.slotOf(id)
	if s < 0 || s == c.cfg.Self || c.peers[s].id != id {
		return nil
	}
	return c.peers[s]
}

// drawID returns a fresh incarnation id for a slot. 40 random bits: the chance that any two of a thousand runs at one
// host share an id is one in two million.
func (c *Core) drawID(slot int) uint64 {
	if mutant.On(mutant.SameID) {
		return uint64(c.hosts.tags[slot])<<(64-tagBits) | 1
	}
	return uint64(c.hosts.tags[slot])<<(64-tagBits) | c.cfg.Rand()>>tagBits
}

// forget makes the core empty under a new id.
func (c *Core) forget() {
	c.id, c.cluster = c.drawID(c.cfg.Self), 0
	c.rn, c.store, c.conf = nil, nil, &raftpb.ConfState{}
	c.role, c.lead, c.term = raft.StateFollower, 0, 0
	c.applied, c.appliedTerm, c.unstored = 0, 0, 0
	c.joinedAt = c.now
	c.election.clear()
	c.fresh.clear()
	c.transfers = transfers{}
	c.member = membership{}
	for _, p := range c.peers {
		if p != nil {
			p.contacted, p.confirmed, p.viaAck, p.joinID, p.suspects = false, false, false, 0, position{}
		}
	}
}

// LogBytes is how much of the log is in memory at most, while no snapshot is sent: then eight times what is retained
// is. It is safe for concurrent use.
func (c *Core) LogBytes() uint64 { return c.cfg.LogRetainBytes + c.cfg.MaxUncommitted }

// boot starts Raft from a log that ends at (index, term) under conf.
func (c *Core) boot(cluster, index, term uint64, conf *raftpb.ConfState) {
	c.cluster, c.conf = cluster, conf
	c.joinedAt = c.now
	c.applied, c.appliedTerm, c.term = index, term, term
	c.store = newLogStore(index, term, conf)
	c.store.snapshot = c.snapshotForFollower
	rn, err := raft.NewRawNode(&raft.Config{
		ID:                        c.id,
		ElectionTick:              electionTicks,
		HeartbeatTick:             heartbeatTicks,
		Storage:                   c.store,
		Applied:                   index,
		MaxSizePerMsg:             1 << 20,
		MaxCommittedSizePerReady:  8 << 20,
		MaxUncommittedEntriesSize: c.cfg.MaxUncommitted,
		MaxInflightMsgs:           256,
		MaxInflightBytes:          4 << 20,
		CheckQuorum:               !mutant.On(mutant.OldLeaderAcks),
		PreVote:                   true,
		ReadOnlyOption:            raft.ReadOnlySafe,
		DisableProposalForwarding: true,
		StepDownOnRemoval:         true,
		Logger:                    raftLogger{c.log},
	})
	if err != nil {
		panic(fmt.Sprintf("replication: start raft: %v", err)) // cannot be: the configuration is constant
	}
	c.rn = rn
	c.fresh.clear()
	c.noteSettled()
}

// Clock tells the core the time on a clock that never goes back and that counts suspended time, such as CLOCK_BOOTTIME.
// It is called before anything else in each turn.
func (c *Core) Clock(now time.Duration) {
	if !c.clocked {
		c.clocked, c.started, c.joinedAt, c.nextTick, c.lastClock, c.unexcused = true, now, now, now+c.tick, now, electionTicks
	}
	if now < c.now {
		return
	}
	c.now = now
	// A gap is time beyond the moment at which the caller was asked to be back.
	if gap := now - max(c.lastClock, c.NextWake()); gap > max(stallGap, heartbeatTicks*c.tick) {
		// This process or machine did not run. What it believes about others is as old as the gap: let the messages
		// that piled up meanwhile be read before a timeout is drawn from silence that was our own. Once in an
		// election timeout of ticks only, not of time: under steady throttling each turn comes late, and where turns are
		// further apart than the timeout there would be no tick at all. A leader has nothing to wait for.
		c.stats.Stalls++
		if c.role != raft.StateLeader && c.unexcused >= electionTicks {
			c.unexcused, c.nextTick = 0, now+heartbeatTicks*c.tick
		}
		if gap > c.cfg.ElectionTimeout/2 {
			c.resumedAt = now
			for _, p := range c.peers {
				if p != nil {
					p.pingAt = [lanes]time.Duration{} // ask at once who still follows
				}
			}
		}
	}
	c.lastClock = now
}

// stallGap is a pause of the loop that is taken for our own rather than for other nodes' silence.
const stallGap = 50 * time.Millisecond

// NextWake returns when Process wants to be called again even if nothing arrives.
func (c *Core) NextWake() time.Duration {
	return min(c.nextTick, c.election.nextWake())
}

// Process runs everything that is due: ticks, timers, and what the inputs since the last call led to.
func (c *Core) Process() {
	if c.now >= c.nextTick {
		// One tick a turn, and never a burst of them to catch up: three ticks in a row after a late wake-up would count
		// as three heartbeats missed.
		c.nextTick += c.tick
		if c.nextTick <= c.now {
			c.nextTick = c.now + c.tick
		}
		c.unexcused++
		if c.rn != nil && (c.role == raft.StateLeader || !mutant.On(mutant.NoHeartbeat)) {
			c.rn.Tick()
		}
		c.ready()
		c.manageMembership()
		c.manageTransfers()
		c.pingIdle()
	}
	c.runElectionTimers()
	c.ready()
	c.payPongs()
}

// ready handles everything Raft has for us, until it has nothing more.
func (c *Core) ready() {
	for c.rn != nil && c.rn.HasReady() {
		rd := c.rn.Ready()
		if rd.HardState != nil {
			c.term = rd.HardState.GetTerm()
		}
		if rd.SoftState != nil {
			c.noteRole(rd.SoftState)
		}
		if !raft.IsEmptySnap(rd.Snapshot) {
			c.installSnapshot(rd.Snapshot)
		}
		if len(rd.Entries) > 0 {
			faults.Point(faults.BeforeAppend)
		}
		c.store.append(rd.Entries)
		c.unstored = 0
		if len(rd.Entries) > 0 {
			faults.Point(faults.AfterAppend)
		}
		for i, m := range rd.Messages {
			if !superseded(m, rd.Messages[i+1:]) && !c.mayWait(m) {
				c.post(m)
			}
		}
		if len(rd.CommittedEntries) > 0 {
			faults.Point(faults.BeforeApply)
		}
		for _, e := range committed(rd.CommittedEntries) {
			c.apply(e)
		}
		for _, rs := range rd.ReadStates {
			if len(rs.RequestCtx) == 8 {
				c.cfg.Upper.ReadReady(binary.LittleEndian.Uint64(rs.RequestCtx), rs.Index)
			}
		}
		c.rn.Advance(rd)
	}
	if c.rn != nil {
		c.store.retain(c.applied, c.transfers.pinned(), c.cfg.LogRetainBytes, c.cfg.LogRetainEntries)
		c.updateFreshness()
	}
}

func (c *Core) apply(e *raftpb.Entry) {
	switch e.GetType() {
	case raftpb.EntryNormal:
		if len(e.GetData()) > 0 {
			c.cfg.Upper.Apply(e.GetIndex(), e.GetTerm(), e.GetData())
		}
	case raftpb.EntryConfChangeV2:
		cc := &raftpb.ConfChangeV2{}
		if err := proto.Unmarshal(e.GetData(), cc); err != nil {
			panic(fmt.Sprintf("replication: configuration change at %d: %v", e.GetIndex(), err)) // committed by us
		}
		c.applyConf(cc)
	default:
		panic(fmt.Sprintf("replication: entry %d of type %v", e.GetIndex(), e.GetType())) // nobody proposes it
	}
	c.applied, c.appliedTerm = e.GetIndex(), e.GetTerm()
}

func (c *Core) applyConf(cc *raftpb.ConfChangeV2) {
	before := c.conf
	if err := tryChange(before, cc); err != nil {
		// Whoever led when this was committed was not one of us. To go on under a configuration that the others may not
		// have is worse than to be empty.
		c.log.Error("a committed configuration change makes no sense", "index", c.applied+1, "error", err)
		c.member.abandonNow = true
		return
	}
	c.conf = c.rn.ApplyConfChange(cc)
	c.store.conf = c.conf
	c.noteHosts(cc)
	c.noteSettled()
	c.member.changing = false
	c.log.Info("configuration", "index", c.applied+1, "was", confString(before), "is", confString(c.conf))
	if c.Joint() {
		faults.Point(faults.DuringSwap)
	}
}

// noteRole records a change of role or leader and says so once.
func (c *Core) noteRole(s *raft.SoftState) {
	was, wasLead := c.role, c.lead
	c.role, c.lead = s.RaftState, s.Lead
	if c.role == raft.StateLeader && was != raft.StateLeader {
		for _, p := range c.peers {
			if p != nil {
				p.confirmed, p.contacted = false, false
			}
		}
		c.member.changing, c.member.target, c.leadSince = false, nil, c.now
		if !c.fresh.set {
			c.fresh.startClusterTime(c)
		}
		c.election.lead = leadership{ts: c.election.ownTS(c), slot: c.cfg.Self, id: c.id, term: c.term}
	}
	if c.role == raft.StatePreCandidate && was == raft.StateFollower {
		c.election.timedOut(c)
	}
	if c.role != raft.StateLeader && was == raft.StateLeader {
		c.member.target = nil
		c.transfers.abortAll(c)
		c.election.noteSteppedDown(c)
	}
	if c.lead != 0 && c.lead != wasLead {
		why := c.election.noteChange(c)
		if why != ChangeNone {
			c.stats.LeaderChanges[why]++
		}
		c.election.leaderKnown(c)
		c.log.Info("leader", "slot", c.slotOf(c.lead), "id", idString(c.lead), "term", c.term, "self", c.lead == c.id, "index", c.applied, "reason", why)
	} else if c.lead == 0 && wasLead != 0 {
		c.log.Info("no leader", "was", c.slotOf(wasLead), "term", c.term)
	}
}

// Propose appends one entry to the log. It returns the index that the entry was given in the current term; the entry is
// committed when Apply is called with that index and term, and lost if another term takes the index. data belongs to
// the core afterwards. Errors are ErrNotLeader and ErrBusy, after which the entry is nowhere.
func (c *Core) Propose(data []byte) (index uint64, err error) {
	if !c.Leading() {
		return 0, ErrNotLeader
	}
	if err := c.rn.Propose(data); err != nil {
		return 0, ErrBusy
	}
	c.unstored++
	return c.store.last() + c.unstored, nil
}

// ReadIndex asks for a point in the log that includes everything committed before the call. Upper.ReadReady answers
// with the returned number, or never: the caller asks again after a while.
func (c *Core) ReadIndex() (ctx uint64, ok bool) {
	if c.rn == nil || c.lead == 0 {
		return 0, false
	}
	c.readSeq++
	// The leader forgets a request whose context is that of a pending one, so nodes must not use each other's.
	ctx = uint64(c.cfg.Self)<<56 | c.readSeq
	c.rn.ReadIndex(binary.LittleEndian.AppendUint64(nil, ctx))
	return ctx, true
}

// Leading reports whether this node may take proposals: it leads, has committed an entry in its term, and has heard
// from a quorum within an election timeout. The last part matters to a process that was stopped: on resuming it must
// refuse before it reads a single message.
func (c *Core) Leading() bool {
	return c.rn != nil && c.role == raft.StateLeader && c.appliedTerm == c.term && c.quorumFollows()
}

// Elected reports whether this node leads its term, whether or not it may take proposals yet.
func (c *Core) Elected() bool { return c.rn != nil && c.role == raft.StateLeader }

// Term returns the current term; 0 while the node is empty.
func (c *Core) Term() uint64 { return c.term }

// ID returns this node's incarnation.
func (c *Core) ID() uint64 { return c.id }

// Self returns this node's slot.
func (c *Core) Self() int { return c.cfg.Self }

// Cluster returns the name of the Raft group; 0 while the node is empty.
func (c *Core) Cluster() uint64 { return c.cluster }

// Applied returns the index of the last applied entry.
func (c *Core) Applied() uint64 { return c.applied }

// Leader returns the slot of the node that leads as far as this node knows, or -1.
func (c *Core) Leader() int {
	if c.rn == nil || c.lead == 0 {
		return -1
	}
	return c.slotOf(c.lead)
}

// LeaderID returns the incarnation that leads as far as this node knows, or 0.
func (c *Core) LeaderID() uint64 {
	if c.rn == nil {
		return 0
	}
	return c.lead
}

// AppliedTerm returns the term of the last applied entry.
func (c *Core) AppliedTerm() uint64 { return c.appliedTerm }

// Now returns the time of the current turn.
func (c *Core) Now() time.Duration { return c.now }

// Breaks returns how many connections that may carry operations to the node at slot have broken so far. A message sent before a break may be
// lost, so whoever waits for its answer sends it again when the number moves.
func (c *Core) Breaks(slot int) uint64 {
	if !c.known(slot) {
		return 0
	}
	return c.peers[slot].breaks
}

// Linked reports whether any connection with the node at slot is up.
func (c *Core) Linked(slot int) bool {
	return slot == c.cfg.Self || (c.known(slot) && c.peers[slot].linked())
}

// Transferring reports whether leadership is on its way to another node, so that proposals should wait.
func (c *Core) Transferring() bool {
	if c.rn == nil {
		return false
	}
	return c.now < c.election.switchUntil || (c.role == raft.StateLeader && c.rn.BasicStatus().LeadTransferee != 0)
}

// Others returns the number of other voters in the configuration.
func (c *Core) Others() int { return max(len(c.conf.GetVoters())-1, 0) }

// MatchOnce returns the highest index that is known to be in the log of another voter: what ack level once waits for.
// Only a leader knows; with no other voter it is the last index.
func (c *Core) MatchOnce() uint64 {
	if c.rn == nil || c.role != raft.StateLeader {
		return 0
	}
	if c.Others() == 0 {
		return c.store.last()
	}
	best := uint64(0)
	c.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr trackerProgress) {
		if id != c.id && typ == raft.ProgressTypePeer {
			best = max(best, pr.Match)
		}
	})
	return best
}

// Last returns the index of the last entry of the log, applied or not; 0 while the node is empty.
func (c *Core) Last() uint64 {
	if c.rn == nil {
		return 0
	}
	return c.store.last()
}

// LogSize returns how much log is held in memory.
func (c *Core) LogSize() (entries int, bytes uint64) {
	if c.rn == nil {
		return 0, 0
	}
	return c.store.len(), c.store.bytes
}

// Stats returns the counters.
func (c *Core) Stats() Stats { return c.stats }

func (c *Core) send(slot int, lane Lane, req *cachepb.CacheRequest) bool {
	if c.cfg.Transport.Send(slot, lane, req) {
		return true
	}
	c.stats.SendsDropped++
	return false
}

func (c *Core) sendAck(slot int, lane Lane, ack *cachepb.Ack) bool {
	if c.cfg.Transport.SendAck(slot, lane, ack) {
		return true
	}
	c.stats.SendsDropped++
	return false
}

// broadcast sends one management message to every other slot.
func (c *Core) broadcast(lane Lane, m *cachepb.MgmtRequest) {
	req := mgmt(m)
	for _, p := range c.peers {
		if p != nil && p.linked() {
			c.send(p.slot, lane, req)
		}
	}
}

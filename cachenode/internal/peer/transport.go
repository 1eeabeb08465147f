// Package peer carries messages between the nodes of a cluster. It is a transport and nothing more: it knows lanes,
// directions and queues, and leaves terms, logs and votes to its caller.
//
// # Lanes and directions
//
// Nodes talk over the same StreamValues stream as clients. Each node dials every other node three times: a control lane
// for elections and pings, a data lane for appends and forwarded operations, and a lane for snapshots, so that a
// heartbeat never waits behind a megabyte of log, nor that log behind a snapshot. As every node dials, a pair has up to
// six streams. The contract gives a stream a grain: requests (CacheRequest) flow from the dialer, acks (Ack) flow back.
//
//	request to s   my outgoing stream of the lane, else another outgoing stream, else
//	               Ack{replicate_ack{reverse: request}} on an incoming stream from s
//	ack to s       the incoming stream of the lane, else another incoming stream, else
//	               CacheRequest{replicate{reverse: ack}} on an outgoing stream
//
// so that one working connection in either direction is a complete link. The receiver unwraps: a Handler never sees a
// reverse envelope.
//
// # What may be lost
//
// Send and SendAck never block and never wait for a connection. A message for which there is no stream, or whose
// queue is full, is dropped and counted; one accepted into a queue may still be lost with its stream. Messages of one
// lane arrive in order as long as no stream changes in between. Raft asks for no more.
//
// # Noticing that a peer is gone
//
// A stream which breaks is reported with PeerDown as soon as the connection's end is read. The node then dials again at
// once; a port that refuses, an answer that is not a greeting, or 20 ms without an answer are reported with DialFailed.
// A dying process closes its sockets one by one, so the first redial can still reach its listening socket and be cut
// off; such dials are repeated after 1, 2, 4 and then five times 8 ms, until the port refuses, before the ordinary
// backoff begins.
package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/hacache/hacache/cachenode/internal/wire"
	"github.com/hacache/hacache/proto/cachepb"
)

// Lane tells the streams of one direction apart. It is a preference: while a lane is down another one serves.
type Lane uint8

const (
	// LaneControl carries what must not wait: elections, pings.
	LaneControl Lane = iota
	// LaneData carries what may be large: appends, forwarded operations.
	LaneData
	// LaneSnapshot carries what is large and may wait.
	LaneSnapshot

	lanes = 3
)

// String returns the lane's name as it stands in a stream's metadata.
func (l Lane) String() string {
	switch l {
	case LaneControl:
		return "control"
	case LaneData:
		return "data"
	case LaneSnapshot:
		return "snapshot"
	default:
		return fmt.Sprintf("Lane(%d)", uint8(l))
	}
}

// Direction says who dialed a stream.
type Direction uint8

const (
	// Outgoing streams were dialed by this node.
	Outgoing Direction = iota
	// Incoming streams were dialed by the peer.
	Incoming
)

// String returns "outgoing" or "incoming".
func (d Direction) String() string {
	switch d {
	case Outgoing:
		return "outgoing"
	case Incoming:
		return "incoming"
	default:
		return fmt.Sprintf("Direction(%d)", uint8(d))
	}
}

// Host is one configured node.
type Host struct {
	// Identity names the node: [scheme://]host:port, as in HA_HOSTS. It is the gRPC authority.
	Identity string
	// DialAddr is where this node finds the peer, host:port. Empty means the identity without its scheme.
	DialAddr string
}

func (h Host) authority() string {
	if _, rest, ok := strings.Cut(h.Identity, "://"); ok {
		return rest
	}
	return h.Identity
}

func (h Host) dialAddr() string {
	if h.DialAddr != "" {
		return h.DialAddr
	}
	return h.authority()
}

// Handler receives what happens on the streams. Its methods are called from the goroutines of the streams, several at
// a time for different streams, and must not block. They may call Send, SendAck, Probe, Reconnect and Stats. For one
// (slot, direction, lane) the calls come in order: PeerUp, its messages, PeerDown; then the next PeerUp. A message
// belongs to the Handler once it is passed.
//
// The id is the peer's incarnation: for an incoming stream as announced by the dialer, for an outgoing stream as given
// in the newest LeaderInfo (peer.status.id) received on it, and 0 if that named none.
type Handler interface {
	// PeerRequest passes a request of the peer, lane being the lane of the stream on which it came.
	PeerRequest(slot int, id uint64, lane Lane, req *cachepb.CacheRequest)
	// PeerAck passes an ack of the peer. The greeting of each outgoing stream, its LeaderInfo, is the first.
	PeerAck(slot int, id uint64, lane Lane, ack *cachepb.Ack)
	// PeerUp tells that a stream is usable: dialed and greeted, or accepted.
	PeerUp(slot int, id uint64, dir Direction, lane Lane)
	// PeerDown tells that a stream has ended and why; err is never nil.
	PeerDown(slot int, id uint64, dir Direction, lane Lane, err error)
	// DialFailed tells that a dial has failed, or has had no answer for too long (ErrSilent) and still waits for one.
	// refused is true when the address answered that nobody listens there, the surest sign of a dead process. The
	// dial will be repeated. An attempt reported as silent is not reported again unless it ends by being refused.
	DialFailed(slot int, lane Lane, refused bool, err error)
}

// Reasons for the end of a stream, as passed to PeerDown (perhaps wrapped).
var (
	// ErrReplaced ends an incoming stream when the peer has opened a newer one on the same lane.
	ErrReplaced = errors.New("peer: stream replaced by a newer one")
	// ErrReconnect ends a stream because Reconnect was called.
	ErrReconnect = errors.New("peer: reconnecting with a new id")
	// ErrStopped ends all streams when Run's context ends.
	ErrStopped = errors.New("peer: transport stopped")
	// ErrSilent ends a stream on which nothing was received for Config.SilenceTimeout, and is passed to DialFailed
	// when a dial goes unanswered.
	ErrSilent = errors.New("peer: no answer")
	// ErrInsecure is passed to DialFailed when this node dials without TLS and the other one asks for it.
	ErrInsecure = errors.New("peer: no TLS, and the other node asks for it")
	// ErrNoGreeting is passed to DialFailed when the first message of a stream is not a LeaderInfo.
	ErrNoGreeting = errors.New("peer: first message is not a LeaderInfo")
)

// Config describes a Transport. Zero values of the bounds and durations mean the defaults named beside them.
type Config struct {
	// Self is this node's slot, the index of its own entry in Hosts.
	Self int
	// Hosts are all configured nodes by slot, this node included.
	Hosts []Host
	// ID returns this node's current incarnation; it is called for every dial, from several goroutines.
	ID func() uint64
	// Token is sent as metadata "authorization" with every stream; empty sends none.
	Token string
	// Credentials returns what secures a stream to the host of an identity; nil dials in plain text. It is called for every
	// dial, from several goroutines.
	Credentials func(identity string) credentials.TransportCredentials
	// Explain says in words why a stream could not be secured, for the log; "" if it does not know. nil never does.
	Explain func(err error) string
	// SlotOf returns the slot of the host that an id was drawn for, or -1. Nodes may number hosts differently, so the
	// slot in a stream's metadata is the peer's own and only for people. nil takes it for ours. It is called from
	// several goroutines.
	SlotOf func(id uint64) int
	// Handler receives messages and events.
	Handler Handler
	// Greeting returns the first message of every incoming stream. It is called from several goroutines, and the
	// message belongs to the transport afterwards.
	Greeting func() *cachepb.LeaderInfo
	// Logger receives changes of state, never messages; nil discards.
	Logger *slog.Logger

	// ControlQueueBytes bounds the queue of a control stream (1 MiB), DataQueueBytes that of a data stream (16 MiB).
	// A single larger message is accepted by an empty queue.
	ControlQueueBytes, DataQueueBytes int
	// QueueMessages bounds the number of messages in any queue (4096).
	QueueMessages int
	// MaxMessageBytes bounds a message sent or received (4 MiB). Larger ones are dropped by Send; received, they end
	// their stream.
	MaxMessageBytes int

	// DialTimeout bounds the time to connect (250 ms); a dial not greeted after it is reported as silent.
	DialTimeout time.Duration
	// RedialTimeout is after how long the first dial after a break is reported as silent (20 ms). The dial itself
	// goes on, since a slow network is not a dead peer.
	RedialTimeout time.Duration
	// HandshakeTimeout bounds the time from the connection to the greeting (1 s).
	HandshakeTimeout time.Duration
	// BackoffBase is the pause after a failed dial (20 ms). It grows by half each time, up to BackoffMax (250 ms).
	BackoffBase, BackoffMax time.Duration
	// SilenceTimeout ends a stream on which nothing was received for so long; 0 means never. It is for callers which
	// ping: without it a stream whose packets vanished waits, once they flow again, for TCP's own retransmission,
	// which by then may pause for minutes.
	SilenceTimeout time.Duration

	// DialContext opens a connection to a host's DialAddr; nil means TCP. An error for which
	// errors.Is(err, syscall.ECONNREFUSED) holds counts as refused.
	DialContext func(ctx context.Context, addr string) (net.Conn, error)
	// DialOptions are added to those of every dial.
	DialOptions []grpc.DialOption
}

// Sizes of the HTTP/2 windows, and of messages. They hold for the streams of clients too, which share the listener: what a
// client sends and nobody reads is in memory, up to a window and a message for each of its streams.
const (
	// Why not smaller? A window has to hold what a round trip carries: 1 MiB is 8 ms of a network of 1 Gbit/s. Beyond,
	// gRPC extends it for each message that is being read, so that appends of 1 MiB go at a message a round trip.
	// Why not larger? It is what a hostile client may fill, on each of its streams.
	streamWindow = 1 << 20
	// A connection's window is given back as data arrives, read or not, so it only bounds what is in the network.
	connWindow = 4 << 20

	// The largest message is an append of a log entry of 1 MiB, a batch of answers of 2 MiB, or a chunk of a snapshot
	// that begins with a thousand names: some 2.5 MiB. 4 MiB is also what clients take by default, gRPC's and the seed's.
	defaultMaxMessageBytes = 4 << 20
)

// ServerOptions returns what a server needs to carry peer streams: windows and a message limit equal to those of a
// Transport with default Config. They apply to all streams of the server.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.MaxRecvMsgSize(defaultMaxMessageBytes),
		grpc.ForceServerCodecV2(wire.Codec{}),
	}
}

func (c *Config) ensureDefaults() {
	setDefault(&c.ControlQueueBytes, 1<<20)
	setDefault(&c.DataQueueBytes, 16<<20)
	setDefault(&c.QueueMessages, 4096)
	setDefault(&c.MaxMessageBytes, defaultMaxMessageBytes)
	setDefault(&c.DialTimeout, 250*time.Millisecond)
	setDefault(&c.RedialTimeout, 20*time.Millisecond)
	setDefault(&c.HandshakeTimeout, time.Second)
	setDefault(&c.BackoffBase, 20*time.Millisecond)
	setDefault(&c.BackoffMax, 250*time.Millisecond)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.DialContext == nil {
		var d net.Dialer
		c.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", addr)
		}
	}
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (c *Config) validate() error {
	var errs []error
	if c.Self < 0 || c.Self >= len(c.Hosts) {
		errs = append(errs, fmt.Errorf("own slot %d is not one of the %d hosts", c.Self, len(c.Hosts)))
	}
	for slot, h := range c.Hosts {
		if h.dialAddr() == "" {
			errs = append(errs, fmt.Errorf("host of slot %d has no address", slot))
		}
	}
	if c.ID == nil || c.Handler == nil || c.Greeting == nil {
		errs = append(errs, errors.New("ID, Handler and Greeting are required"))
	}
	for name, d := range map[string]time.Duration{
		"DialTimeout": c.DialTimeout, "RedialTimeout": c.RedialTimeout, "HandshakeTimeout": c.HandshakeTimeout,
		"BackoffBase": c.BackoffBase, "BackoffMax": c.BackoffMax, "SilenceTimeout": c.SilenceTimeout,
	} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s is %v, want a positive duration", name, d))
		}
	}
	for name, n := range map[string]int{
		"ControlQueueBytes": c.ControlQueueBytes, "DataQueueBytes": c.DataQueueBytes,
		"QueueMessages": c.QueueMessages, "MaxMessageBytes": c.MaxMessageBytes,
	} {
		if n < 0 {
			errs = append(errs, fmt.Errorf("%s is %d, want a positive number", name, n))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("peer: %w", errors.Join(errs...))
	}
	return nil
}

func (c *Config) queueBytes(lane Lane) int {
	if lane == LaneControl {
		return c.ControlQueueBytes
	}
	return c.DataQueueBytes
}

// Transport keeps this node's streams to all its peers. Create it with New, run it with Run. All methods are safe for
// concurrent use.
type Transport struct {
	cfg   Config
	table atomic.Pointer[[]*peer] // by slot; nil at Self. Replaced as a whole by Add, under mu
	stats counters

	mu      sync.Mutex
	running context.Context // guarded by mu; Run's, while it runs
	stopped bool            // guarded by mu; set when Run's context ends
	stop    chan struct{}   // closed when stopped is set
	wg      sync.WaitGroup  // all goroutines and calls of Serve; grows only while !stopped, under mu
}

// peer is one other node. A lane's slot in out or in holds the stream while it is up.
type peer struct {
	slot    int
	host    Host
	out, in [lanes]atomic.Pointer[link]
	dialers [lanes]*dialer
	trouble trouble
	accept  [lanes]sync.Mutex // serializes the coming of incoming streams, so that their events keep their order
}

// New returns a Transport for cfg, or an error naming everything that is wrong with it. It starts nothing.
func New(cfg Config) (*Transport, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.ensureDefaults()
	t := &Transport{cfg: cfg, stop: make(chan struct{})}
	peers := make([]*peer, len(cfg.Hosts))
	for slot, h := range cfg.Hosts {
		if slot != cfg.Self {
			peers[slot] = t.newPeer(slot, h)
		}
	}
	t.table.Store(&peers)
	return t, nil
}

func (t *Transport) newPeer(slot int, h Host) *peer {
	p := &peer{slot: slot, host: h}
	for lane := range Lane(lanes) {
		p.dialers[lane] = &dialer{t: t, p: p, lane: lane, wake: make(chan struct{}, 1)}
	}
	return p
}

// Add makes another host known, as the next slot, which it returns, and begins to dial it if the Transport runs. A slot
// never goes away: who left a cluster may come back to it, and until then a refused dial every quarter second is cheap.
func (t *Transport) Add(h Host) (slot int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.table.Load()
	slot = len(old)
	p := t.newPeer(slot, h)
	peers := append(slices.Clip(old), p)
	t.table.Store(&peers)
	if t.running != nil && !t.stopped {
		for _, d := range p.dialers {
			t.wg.Go(func() { d.run(t.running) })
		}
	}
	return slot
}

// Run keeps dialing every other host on all lanes until ctx ends, then ends all streams, incoming ones too, and
// returns nil when the last goroutine of the Transport has ended. Run must be called at most once. Serve works before
// and during Run.
func (t *Transport) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t.mu.Lock()
	t.running = ctx
	for _, p := range *t.table.Load() {
		if p == nil {
			continue
		}
		for _, d := range p.dialers {
			t.wg.Go(func() { d.run(ctx) })
		}
	}
	t.mu.Unlock()
	<-ctx.Done()
	t.mu.Lock()
	t.stopped = true
	close(t.stop)
	t.mu.Unlock()
	t.wg.Wait()
	return nil
}

// Send queues a request to the node of slot. It reports false if the request was dropped: no stream to the node is
// up, or the queue of the chosen stream is full. True promises nothing but an attempt. The request must not be changed
// afterwards; the same request may be sent to several slots.
func (t *Transport) Send(slot int, lane Lane, req *cachepb.CacheRequest) bool {
	p := t.peer(slot)
	if p == nil {
		t.stats.droppedNoLink.Add(1)
		return false
	}
	if l := pick(&p.out, lane); l != nil {
		return l.push(req)
	}
	if l := pick(&p.in, lane); l != nil {
		t.stats.reversed.Add(1)
		return l.push(reverseRequest(req))
	}
	t.stats.droppedNoLink.Add(1)
	return false
}

// SendAck queues an ack to the node of slot, like Send.
func (t *Transport) SendAck(slot int, lane Lane, ack *cachepb.Ack) bool {
	p := t.peer(slot)
	if p == nil {
		t.stats.droppedNoLink.Add(1)
		return false
	}
	if l := pick(&p.in, lane); l != nil {
		return l.push(ack)
	}
	if l := pick(&p.out, lane); l != nil {
		t.stats.reversed.Add(1)
		return l.push(reverseAck(ack))
	}
	t.stats.droppedNoLink.Add(1)
	return false
}

// QueueBytes is how many bytes may be queued for all peers together.
func (t *Transport) QueueBytes() int {
	all := 0
	for _, p := range *t.table.Load() {
		for lane := range Lane(lanes) {
			if p != nil {
				all += 2 * t.cfg.queueBytes(lane) // a stream each way
			}
		}
	}
	return all
}

// Probe dials the node of slot now on every outgoing lane that is down, without waiting for the backoff, which starts
// anew. A dial already under way is followed by another one if it fails.
func (t *Transport) Probe(slot int) {
	p := t.peer(slot)
	if p == nil {
		return
	}
	for _, d := range p.dialers {
		d.probe()
	}
}

// Reconnect ends all streams in both directions, so that all are opened again: ours with the id that Config.ID returns
// by then, and the peers' with a new greeting. To be called when the id has changed.
func (t *Transport) Reconnect() {
	for _, p := range *t.table.Load() {
		if p == nil {
			continue
		}
		for lane := range Lane(lanes) {
			p.dialers[lane].reconnect()
			if l := p.in[lane].Load(); l != nil {
				l.end(ErrReconnect)
			}
		}
	}
}

func (t *Transport) peer(slot int) *peer {
	peers := *t.table.Load()
	if slot < 0 || slot >= len(peers) {
		return nil
	}
	return peers[slot]
}

// pick returns the stream of the lane, or that of another one, or nil. The control lane stands in last.
func pick(links *[lanes]atomic.Pointer[link], lane Lane) *link {
	if l := links[lane].Load(); l != nil {
		return l
	}
	for _, other := range [...]Lane{LaneData, LaneSnapshot, LaneControl} {
		if l := links[other].Load(); l != nil {
			return l
		}
	}
	return nil
}

// counters are the Transport's own counts, see Stats.
type counters struct {
	sent, sentBytes, received                                       atomic.Uint64
	droppedNoLink, droppedFull, droppedTooLarge, droppedDown        atomic.Uint64
	reversed, dials, dialFailures, dialRefusals, silences, replaced atomic.Uint64
}

// Stats are counts since the Transport was created, and its streams.
type Stats struct {
	// Sent counts messages handed to gRPC, SentBytes their encoded size, Received messages passed to the Handler.
	Sent, SentBytes, Received uint64
	// DroppedNoLink counts messages for which no stream was up, DroppedFull those that met a full queue,
	// DroppedTooLarge those above MaxMessageBytes, DroppedDown those queued when their stream ended.
	DroppedNoLink, DroppedFull, DroppedTooLarge, DroppedDown uint64
	// Reversed counts messages that traveled against the grain of their stream.
	Reversed uint64
	// Dials counts attempts to connect, DialFailures those that failed, DialRefusals those that were refused,
	// Silences the reports of an unanswered dial, Replaced the incoming streams that a newer one took the place of.
	Dials, DialFailures, DialRefusals, Silences, Replaced uint64
	// Links are the streams that are up, by slot, direction and lane.
	Links []LinkStats
}

// LinkStats describes one stream that is up.
type LinkStats struct {
	Slot      int
	Host      string // the peer's identity
	ID        uint64
	Direction Direction
	Lane      Lane
	// QueueMessages and QueueBytes are what is queued or being written.
	QueueMessages, QueueBytes int
}

// Stats returns a copy of the current counts.
func (t *Transport) Stats() Stats {
	c := &t.stats
	s := Stats{
		Sent: c.sent.Load(), SentBytes: c.sentBytes.Load(), Received: c.received.Load(),
		DroppedNoLink: c.droppedNoLink.Load(), DroppedFull: c.droppedFull.Load(),
		DroppedTooLarge: c.droppedTooLarge.Load(), DroppedDown: c.droppedDown.Load(),
		Reversed: c.reversed.Load(),
		Dials:    c.dials.Load(), DialFailures: c.dialFailures.Load(), DialRefusals: c.dialRefusals.Load(),
		Silences: c.silences.Load(), Replaced: c.replaced.Load(),
	}
	for _, p := range *t.table.Load() {
		if p == nil {
			continue
		}
		for _, dir := range []*[lanes]atomic.Pointer[link]{&p.out, &p.in} {
			for lane := range dir {
				if l := dir[lane].Load(); l != nil {
					s.Links = append(s.Links, l.linkStats())
				}
			}
		}
	}
	return s
}

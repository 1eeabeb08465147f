package peer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/proto/cachepb"
)

// helperListener names, in the environment of a re-executed test binary, the file descriptor of a bound listener on
// which the helper serves as the node of slot 1.
const helperListener = "HACACHE_PEER_TEST_LISTENER"

func TestMain(m *testing.M) {
	if os.Getenv(helperListener) != "" {
		serveAsHelper()
		return
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for something that must happen, on however slow a machine.
const patience = 20 * time.Second

// event is one call of a Handler.
type event struct {
	kind    string // up, down, request, ack, failed
	slot    int
	id      uint64
	dir     Direction
	lane    Lane
	refused bool
	err     error
	at      time.Time
	req     *cachepb.CacheRequest
	ack     *cachepb.Ack
}

func (e event) String() string {
	return fmt.Sprintf("%s slot %d id %x %s %s refused %v err %v", e.kind, e.slot, e.id, e.dir, e.lane, e.refused, e.err)
}

// recorder is a Handler that keeps all events and lets a test wait for one.
type recorder struct {
	mu     sync.Mutex
	events []event
	added  chan struct{} // closed and replaced with each event
}

func newRecorder() *recorder { return &recorder{added: make(chan struct{})} }

func (r *recorder) add(e event) {
	e.at = time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	close(r.added)
	r.added = make(chan struct{})
}

func (r *recorder) PeerRequest(slot int, id uint64, lane Lane, req *cachepb.CacheRequest) {
	r.add(event{kind: "request", slot: slot, id: id, lane: lane, req: req})
}

func (r *recorder) PeerAck(slot int, id uint64, lane Lane, ack *cachepb.Ack) {
	r.add(event{kind: "ack", slot: slot, id: id, lane: lane, ack: ack})
}

func (r *recorder) PeerUp(slot int, id uint64, dir Direction, lane Lane) {
	r.add(event{kind: "up", slot: slot, id: id, dir: dir, lane: lane})
}

func (r *recorder) PeerDown(slot int, id uint64, dir Direction, lane Lane, err error) {
	r.add(event{kind: "down", slot: slot, id: id, dir: dir, lane: lane, err: err})
}

func (r *recorder) DialFailed(slot int, lane Lane, refused bool, err error) {
	r.add(event{kind: "failed", slot: slot, lane: lane, refused: refused, err: err})
}

// all returns the events so far.
func (r *recorder) all() []event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// mark returns the number of events so far, to wait for later ones.
func (r *recorder) mark() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.events)
}

// await returns the first event after from that matches.
func (r *recorder) await(t *testing.T, from int, what string, match func(event) bool) event {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		r.mu.Lock()
		events, added := r.events, r.added
		r.mu.Unlock()
		for _, e := range events[min(from, len(events)):] {
			if match(e) {
				return e
			}
		}
		select {
		case <-added:
		case <-limit.C:
			t.Fatalf("never happened: %s; events since:\n%v", what, events[min(from, len(events)):])
		}
	}
}

func is(kind string, dir Direction, lane Lane) func(event) bool {
	return func(e event) bool { return e.kind == kind && e.dir == dir && e.lane == lane }
}

func isFailed(lane Lane) func(event) bool {
	return func(e event) bool { return e.kind == "failed" && e.lane == lane }
}

func request(e event) bool { return e.kind == "request" }

// node is a Transport with a server, as a process would have it.
type node struct {
	*Transport
	rec   *recorder
	id    func() uint64
	srv   *grpc.Server
	close func()
}

type service struct {
	cachepb.UnimplementedCacheServer
	t *Transport
}

func (s *service) StreamValues(stream grpc.BidiStreamingServer[cachepb.CacheRequest, cachepb.Ack]) error {
	return s.t.Serve(stream)
}

func info(id uint64) *cachepb.LeaderInfo {
	return &cachepb.LeaderInfo{ElectionTs: -1, Peer: &cachepb.Peer{Status: &cachepb.NodeStatus{Id: id}}}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// startNode runs a node on ln; without ln it has no server.
func startNode(t *testing.T, self int, hosts []Host, ln net.Listener, adapt func(*Config)) *node {
	t.Helper()
	n := &node{rec: newRecorder()}
	id := uint64(self+1)<<56 | 0xabc
	cfg := Config{
		Self: self, Hosts: hosts, Handler: n.rec,
		ID:       func() uint64 { return id },
		Greeting: func() *cachepb.LeaderInfo { return info(id) },
	}
	if adapt != nil {
		adapt(&cfg)
	}
	n.id = cfg.ID
	var err error
	if n.Transport, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run, wg sync.WaitGroup
	n.srv = grpc.NewServer(ServerOptions()...)
	cachepb.RegisterCacheServer(n.srv, &service{t: n.Transport})
	if ln != nil {
		wg.Go(func() {
			if err := n.srv.Serve(ln); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				t.Errorf("serve: %v", err)
			}
		})
	}
	run.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	n.close = sync.OnceFunc(func() {
		cancel()
		run.Wait() // needs no help of the server
		n.srv.Stop()
		wg.Wait()
	})
	t.Cleanup(n.close)
	return n
}

// startPair runs two nodes that know each other. adapt changes the configuration of either.
func startPair(t *testing.T, adapt func(self int, cfg *Config)) (a, b *node) {
	t.Helper()
	lns := []net.Listener{listen(t), listen(t)}
	hosts := []Host{{Identity: "http://" + lns[0].Addr().String()}, {Identity: lns[1].Addr().String()}}
	var nodes [2]*node
	for i := range nodes {
		nodes[i] = startNode(t, i, hosts, lns[i], func(c *Config) {
			if adapt != nil {
				adapt(i, c)
			}
		})
	}
	return nodes[0], nodes[1]
}

func (n *node) awaitUp(t *testing.T, dirs ...Direction) {
	t.Helper()
	for _, dir := range dirs {
		for lane := range Lane(lanes) {
			n.rec.await(t, 0, fmt.Sprintf("%s %s up", dir, lane), is("up", dir, lane))
		}
	}
}

func ping(sent int64) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_MgmtReq{MgmtReq: &cachepb.MgmtRequest{
		Method: &cachepb.MgmtRequest_Ping{Ping: &cachepb.Ping{Beat: &cachepb.Beat{Sent: sent}}},
	}}}
}

func pong(sent int64) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_MgmtAck{MgmtAck: &cachepb.MgmtAck{
		Method: &cachepb.MgmtAck_Pong{Pong: &cachepb.Pong{Beat: &cachepb.Beat{Sent: sent}}},
	}}}
}

func isPing(lane Lane, sent int64) func(event) bool {
	return func(e event) bool {
		return e.kind == "request" && e.lane == lane && e.req.GetMgmtReq().GetPing().GetBeat().GetSent() == sent
	}
}

func isPong(lane Lane, sent int64) func(event) bool {
	return func(e event) bool {
		return e.kind == "ack" && e.lane == lane && e.ack.GetMgmtAck().GetPong().GetBeat().GetSent() == sent
	}
}

// Two nodes have four streams, each message arrives on the lane it was sent on, with the sender's slot and id, and the
// first ack of each outgoing stream is the peer's greeting.
func TestLanesAndDirections(t *testing.T) {
	a, b := startPair(t, nil)
	a.awaitUp(t, Outgoing, Incoming)
	b.awaitUp(t, Outgoing, Incoming)
	for lane := range Lane(lanes) {
		up := a.rec.await(t, 0, "up", is("up", Outgoing, lane))
		if up.slot != 1 || up.id != b.id() {
			t.Errorf("outgoing %s: slot %d id %x, want 1 and %x", lane, up.slot, up.id, b.id())
		}
		first := a.rec.await(t, 0, "first ack", func(e event) bool { return e.kind == "ack" && e.lane == lane })
		if got := first.ack.GetMgmtAck().GetLeaderInfo().GetPeer().GetStatus().GetId(); got != b.id() {
			t.Errorf("first ack on %s is %v, want the greeting of %x", lane, first.ack, b.id())
		}
		if !a.Send(1, lane, ping(int64(lane)+1)) || !b.SendAck(0, lane, pong(int64(lane)+10)) {
			t.Fatalf("send on %s: dropped", lane)
		}
		got := b.rec.await(t, 0, "ping", isPing(lane, int64(lane)+1))
		if got.slot != 0 || got.id != a.id() {
			t.Errorf("ping from slot %d id %x, want 0 and %x", got.slot, got.id, a.id())
		}
		a.rec.await(t, 0, "pong", isPong(lane, int64(lane)+10))
	}
	if links := a.Stats().Links; len(links) != 2*lanes {
		t.Errorf("a has links %v, want one a lane and direction", links)
	}
	a.close()
	for lane := range Lane(lanes) {
		for _, dir := range []Direction{Outgoing, Incoming} {
			if e := a.rec.await(t, 0, "down", is("down", dir, lane)); !errors.Is(e.err, ErrStopped) {
				t.Errorf("%s %s down with %v, want ErrStopped", dir, lane, e.err)
			}
		}
	}
	if a.Send(1, LaneData, ping(1)) || len(a.Stats().Links) != 0 {
		t.Error("a stopped transport still has links")
	}
}

// Messages of one lane keep their order, also when the sender is far ahead of the stream.
func TestOrder(t *testing.T) {
	a, b := startPair(t, nil)
	a.awaitUp(t, Outgoing)
	const n = 3000
	for i := range int64(n) {
		if !a.Send(1, LaneData, ping(i+1)) {
			t.Fatalf("message %d dropped", i)
		}
	}
	b.rec.await(t, 0, "the last ping", isPing(LaneData, n))
	var last int64
	for _, e := range b.rec.all() {
		if e.kind != "request" {
			continue
		}
		if sent := e.req.GetMgmtReq().GetPing().GetBeat().GetSent(); sent != last+1 {
			t.Fatalf("got message %d after %d", sent, last)
		}
		last++
	}
}

// One working connection in either direction is a complete link: with a node that nobody can reach, its own streams
// carry requests and acks both ways.
func TestReverse(t *testing.T) {
	a, b := startPair(t, func(self int, c *Config) {
		if self == 0 {
			c.DialContext = func(context.Context, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
		}
	})
	b.awaitUp(t, Outgoing)
	a.awaitUp(t, Incoming)
	for lane := range Lane(lanes) {
		n := int64(lane) + 1
		if !a.Send(1, lane, ping(n)) || !a.SendAck(1, lane, pong(n)) || !b.Send(0, lane, ping(n)) || !b.SendAck(0, lane, pong(n)) {
			t.Fatal("dropped")
		}
		for _, r := range []*recorder{a.rec, b.rec} {
			r.await(t, 0, "ping", isPing(lane, n))
			r.await(t, 0, "pong", isPong(lane, n))
		}
	}
	if got := a.Stats().Reversed; got != lanes {
		t.Errorf("a sent %d messages against the grain, want its request on each lane", got)
	}
	if got := b.Stats().Reversed; got != lanes {
		t.Errorf("b sent %d messages against the grain, want its ack on each lane", got)
	}
	if e := a.rec.await(t, 0, "failed dial", isFailed(LaneData)); !e.refused {
		t.Errorf("%v, want it refused", e)
	}
}

// While one lane is down the other serves.
func TestOtherLane(t *testing.T) {
	a, b := startPair(t, func(self int, c *Config) {
		var d net.Dialer
		dials := make(chan struct{}, 1)
		dials <- struct{}{}
		c.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
			select {
			case <-dials: // only one lane gets through, and only of node 0
				if self == 0 {
					return d.DialContext(ctx, "tcp", addr)
				}
			default:
			}
			return nil, errors.New("no way")
		}
	})
	a.rec.await(t, 0, "up", func(e event) bool { return e.kind == "up" && e.dir == Outgoing })
	b.rec.await(t, 0, "up", func(e event) bool { return e.kind == "up" && e.dir == Incoming })
	up := a.Stats().Links[0].Lane
	for lane := range Lane(lanes) {
		if !a.Send(1, lane, ping(int64(lane)+5)) || !b.Send(0, lane, ping(int64(lane)+5)) {
			t.Fatal("dropped")
		}
		b.rec.await(t, 0, "ping", isPing(up, int64(lane)+5))
		a.rec.await(t, 0, "ping", isPing(up, int64(lane)+5))
	}
}

// A newer incoming stream of the same slot and lane replaces the older one; the Handler sees the old one down before
// the new one up, and each with its own id.
func TestReplacedStream(t *testing.T) {
	lnA, lnB := listen(t), listen(t)
	hosts := []Host{{Identity: lnA.Addr().String()}, {Identity: lnB.Addr().String()}}
	a := startNode(t, 0, hosts, lnA, nil)
	old := startNode(t, 1, hosts, nil, nil)
	a.awaitUp(t, Incoming)
	const newID = 2<<56 | 0xdef
	mark := a.rec.mark()
	startNode(t, 1, hosts, nil, func(c *Config) { c.ID = func() uint64 { return newID } })
	for lane := range Lane(lanes) {
		down := a.rec.await(t, mark, "down", is("down", Incoming, lane))
		if !errors.Is(down.err, ErrReplaced) || down.id != old.id() {
			t.Errorf("%v, want %x replaced", down, old.id())
		}
		up := a.rec.await(t, mark, "up", is("up", Incoming, lane))
		if up.id != newID || up.at.Before(down.at) {
			t.Errorf("%v after %v, want id %x and this order", up, down, uint64(newID))
		}
		old.rec.await(t, 0, "the old stream ended", is("down", Outgoing, lane))
	}
	if got := a.Stats().Replaced; got < 2 {
		t.Errorf("replaced %d, want at least 2", got)
	}
}

// After Reconnect both directions are opened again: the peer sees the new id on the stream dialed to it and in the
// greeting of its own.
func TestReconnect(t *testing.T) {
	var mu sync.Mutex
	id := uint64(1<<56 | 1)
	get := func() uint64 { mu.Lock(); defer mu.Unlock(); return id }
	a, b := startPair(t, func(self int, c *Config) {
		if self == 0 {
			c.ID = get
			c.Greeting = func() *cachepb.LeaderInfo { return info(get()) }
		}
	})
	a.awaitUp(t, Outgoing, Incoming)
	b.awaitUp(t, Outgoing, Incoming)
	markA, markB := a.rec.mark(), b.rec.mark()
	const newID = 1<<56 | 2
	mu.Lock()
	id = newID
	mu.Unlock()
	a.Reconnect()
	for lane := range Lane(lanes) {
		for _, dir := range []Direction{Outgoing, Incoming} {
			if e := a.rec.await(t, markA, "down", is("down", dir, lane)); !errors.Is(e.err, ErrReconnect) {
				t.Errorf("%v, want ErrReconnect", e)
			}
			up := b.rec.await(t, markB, "up", is("up", dir, lane))
			if up.id != newID {
				t.Errorf("%v, want id %x", up, uint64(newID))
			}
		}
	}
}

// A LeaderInfo in the middle of a stream renames the peer.
func TestIDFollowsLeaderInfo(t *testing.T) {
	a, b := startPair(t, nil)
	a.awaitUp(t, Outgoing)
	b.awaitUp(t, Incoming)
	const newID = 2<<56 | 0xdef
	b.SendAck(0, LaneData, greeting(info(newID)))
	b.SendAck(0, LaneData, pong(7))
	if e := a.rec.await(t, 0, "pong", isPong(LaneData, 7)); e.id != newID {
		t.Errorf("%v, want id %x", e, uint64(newID))
	}
}

// A full queue drops and counts, by bytes and by messages, and never blocks the sender. The peer accepts the stream
// and reads nothing, as a stopped process does.
func TestQueueFull(t *testing.T) {
	for _, tc := range []struct {
		name  string
		adapt func(*Config)
		size  int
	}{
		{"bytes", func(c *Config) { c.DataQueueBytes = 1 << 20 }, 256 << 10},
		{"messages", func(c *Config) { c.QueueMessages = 8 }, 256 << 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ln := listen(t)
			hosts := []Host{{Identity: "a:1"}, {Identity: ln.Addr().String()}}
			silent := &silentService{release: make(chan struct{})}
			srv := grpc.NewServer()
			cachepb.RegisterCacheServer(srv, silent)
			var wg sync.WaitGroup
			wg.Go(func() { srv.Serve(ln) })
			t.Cleanup(func() { close(silent.release); srv.Stop(); wg.Wait() })
			a := startNode(t, 0, hosts, nil, tc.adapt)
			a.awaitUp(t, Outgoing)
			sent := 0
			for range 100 {
				if a.Send(1, LaneData, put(tc.size)) {
					sent++
				}
			}
			s := a.Stats()
			if s.DroppedFull == 0 || int(s.DroppedFull)+sent != 100 {
				t.Errorf("sent %d of 100, dropped as full %d", sent, s.DroppedFull)
			}
			for _, l := range s.Links {
				if l.Lane == LaneData && (l.QueueBytes > a.cfg.DataQueueBytes || l.QueueMessages > a.cfg.QueueMessages) {
					t.Errorf("queue holds %d bytes in %d messages, above its bounds", l.QueueBytes, l.QueueMessages)
				}
			}
			if !a.Send(1, LaneControl, ping(1)) {
				t.Error("the control lane is full too")
			}
			a.close() // must not wait for the peer to read
			if got := a.Stats().DroppedDown; got == 0 {
				t.Error("what was queued at the end is not counted as dropped")
			}
		})
	}
}

// silentService greets and then reads nothing until it is released.
type silentService struct {
	cachepb.UnimplementedCacheServer
	release chan struct{}
}

func (s *silentService) StreamValues(stream grpc.BidiStreamingServer[cachepb.CacheRequest, cachepb.Ack]) error {
	if err := stream.Send(greeting(info(2 << 56))); err != nil {
		return err
	}
	select {
	case <-s.release:
	case <-stream.Context().Done():
	}
	return nil
}

func put(size int) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Put{Put: &cachepb.Put{
		CacheName: "c", Entry: "k", Value: make([]byte, size),
	}}}
}

// A message above the limit is dropped; one of several MiB, larger than any window, arrives whole.
func TestLargeMessages(t *testing.T) {
	a, b := startPair(t, func(_ int, c *Config) { c.DataQueueBytes = 1 << 20 })
	a.awaitUp(t, Outgoing)
	if a.Send(1, LaneData, put(defaultMaxMessageBytes)) || a.Stats().DroppedTooLarge != 1 {
		t.Error("a message of more than 4 MiB was accepted")
	}
	if !a.Send(1, LaneData, put(3*streamWindow)) {
		t.Fatal("a message of 3 MiB was dropped by an empty queue")
	}
	e := b.rec.await(t, 0, "the large message", request)
	if got := len(e.req.GetPut().GetValue()); got != 3*streamWindow {
		t.Errorf("got %d bytes", got)
	}
}

// A port on which nobody listens is reported as refused on both lanes.
func TestRefused(t *testing.T) {
	ln := listen(t)
	ln.Close()
	a := startNode(t, 0, []Host{{Identity: "a:1"}, {Identity: ln.Addr().String()}}, nil, nil)
	for lane := range Lane(lanes) {
		if e := a.rec.await(t, 0, "failed dial", isFailed(lane)); !e.refused || !errors.Is(e.err, syscall.ECONNREFUSED) {
			t.Errorf("%v, want it refused", e)
		}
	}
	if a.Send(1, LaneData, ping(1)) || a.Stats().DroppedNoLink != 1 {
		t.Error("a message without a link is not counted as dropped")
	}
}

// A wrong token, or whatever else the server answers instead of a greeting, is a failed dial and not a refused one.
func TestRejected(t *testing.T) {
	ln := listen(t)
	srv := grpc.NewServer()
	cachepb.RegisterCacheServer(srv, cachepb.UnimplementedCacheServer{})
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() { srv.Stop(); wg.Wait() })
	a := startNode(t, 0, []Host{{Identity: "a:1"}, {Identity: ln.Addr().String()}}, nil, nil)
	if e := a.rec.await(t, 0, "failed dial", isFailed(LaneData)); e.refused || !strings.Contains(e.err.Error(), "Unimplemented") {
		t.Errorf("%v, want the status and not refused", e)
	}
}

// The first redial after a break is reported as silent when a listener takes the connection and says nothing, and not
// reported twice when the attempt is given up.
func TestSilentRedial(t *testing.T) {
	ln := listen(t)
	greeter := &silentService{release: make(chan struct{})}
	srv := grpc.NewServer()
	cachepb.RegisterCacheServer(srv, greeter)
	mute := make(chan struct{})
	var wg sync.WaitGroup
	gate := &gateListener{Listener: ln, mute: mute}
	wg.Go(func() { srv.Serve(gate) })
	t.Cleanup(func() { srv.Stop(); wg.Wait(); gate.closeHeld() })
	a := startNode(t, 0, []Host{{Identity: "a:1"}, {Identity: ln.Addr().String()}}, nil, func(c *Config) {
		c.HandshakeTimeout = 100 * time.Millisecond
	})
	a.awaitUp(t, Outgoing)
	mark := a.rec.mark()
	close(mute)
	close(greeter.release)
	for lane := range Lane(lanes) {
		a.rec.await(t, mark, "down", is("down", Outgoing, lane))
		first := a.rec.await(t, mark, "silence", isFailed(lane))
		if first.refused || !errors.Is(first.err, ErrSilent) {
			t.Errorf("%v, want ErrSilent", first)
		}
	}
	s := a.Stats()
	for s.DialFailures < 4 {
		mark = a.rec.mark()
		a.rec.await(t, mark, "another failure", isFailed(LaneData))
		s = a.Stats()
	}
	for _, e := range a.rec.all() {
		if e.kind == "failed" && !errors.Is(e.err, ErrSilent) {
			t.Errorf("%v, want only silences", e)
		}
	}
	if reports := uint64(countFailed(a.rec)); reports > s.Dials {
		t.Errorf("%d reports of %d dials, want one each at most", reports, s.Dials)
	}
}

func countFailed(r *recorder) (n int) {
	for _, e := range r.all() {
		if e.kind == "failed" {
			n++
		}
	}
	return n
}

// gateListener, once mute is closed, keeps connections to itself and never passes them to the server.
type gateListener struct {
	net.Listener
	mute chan struct{}
	mu   sync.Mutex
	held []net.Conn
}

func (g *gateListener) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case <-g.mute:
			g.mu.Lock()
			g.held = append(g.held, c)
			g.mu.Unlock()
		default:
			return c, nil
		}
	}
}

func (g *gateListener) closeHeld() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.held {
		c.Close()
	}
}

// A stream on which nothing comes for SilenceTimeout is ended and opened again.
func TestSilenceTimeout(t *testing.T) {
	a, b := startPair(t, func(self int, c *Config) {
		if self == 0 {
			c.SilenceTimeout = 30 * time.Millisecond
		}
	})
	for lane := range Lane(lanes) {
		for _, dir := range []Direction{Outgoing, Incoming} {
			if e := a.rec.await(t, 0, "down", is("down", dir, lane)); !errors.Is(e.err, ErrSilent) {
				t.Errorf("%v, want ErrSilent", e)
			}
		}
	}
	mark := b.rec.mark()
	b.rec.await(t, mark, "up again", is("up", Incoming, LaneData))
}

// A dying process can take one more connection and cut it off before its port refuses. The dialer does not wait for the
// backoff then: with one of a minute, it still sees the refusal.
func TestClosingPeer(t *testing.T) {
	ln := listen(t)
	greeter := &silentService{release: make(chan struct{})}
	srv := grpc.NewServer()
	cachepb.RegisterCacheServer(srv, greeter)
	dying := &dyingListener{Listener: ln, dying: make(chan struct{}), cuts: 3}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(dying) })
	t.Cleanup(func() { srv.Stop(); wg.Wait() })
	a := startNode(t, 0, []Host{{Identity: "a:1"}, {Identity: ln.Addr().String()}}, nil, func(c *Config) {
		c.BackoffBase, c.BackoffMax = time.Minute, time.Minute
	})
	a.awaitUp(t, Outgoing)
	mark := a.rec.mark()
	close(dying.dying)
	close(greeter.release)
	for lane := range Lane(lanes) {
		a.rec.await(t, mark, "down", is("down", Outgoing, lane))
		a.rec.await(t, mark, "refused", func(e event) bool { return e.kind == "failed" && e.lane == lane && e.refused })
	}
	cut := 0
	for _, e := range a.rec.all()[mark:] {
		if e.kind == "failed" && !e.refused {
			cut++
		}
	}
	if cut == 0 {
		t.Error("no dial was cut off, the test shows nothing")
	}
}

// dyingListener, once dying is closed, cuts off the next connections and then closes itself.
type dyingListener struct {
	net.Listener
	dying chan struct{}
	cuts  int
}

func (d *dyingListener) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case <-d.dying:
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
			if d.cuts--; d.cuts == 0 {
				d.Listener.Close()
			}
		default:
			return c, nil
		}
	}
}

// A peer that closes every stream at once is dialed again at once only the first time: the pauses grow, or two nodes
// would keep each other busy.
func TestFlappingPeer(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ln := bufconn.Listen(64 << 10)
		greeter := &silentService{release: make(chan struct{})}
		close(greeter.release)
		srv := grpc.NewServer()
		cachepb.RegisterCacheServer(srv, greeter)
		go srv.Serve(ln)
		a := startNode(t, 0, []Host{{Identity: "a:1"}, {Identity: "b:1"}}, nil, func(c *Config) {
			c.DialContext = func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }
		})
		time.Sleep(10 * time.Second) // of the bubble
		a.close()
		srv.Stop()
		// 20, 20, 30, 45 ... 250 ms: about 45 dials in 10 s, on each lane.
		if got := a.Stats().Dials; got < 35*lanes || got > 55*lanes {
			t.Errorf("%d dials in 10 s, want about %d", got, 45*lanes)
		}
	})
}

// The pauses between failed dials grow from 20 ms to 250 ms; a probe dials at once and starts them anew.
func TestBackoffAndProbe(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var dials []time.Duration
		start := time.Now()
		a := startNode(t, 0, []Host{{Identity: "a:1"}, {Identity: "b:1"}}, nil, func(c *Config) {
			c.DialContext = func(context.Context, string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				dials = append(dials, time.Since(start))
				return nil, syscall.ECONNREFUSED
			}
		})
		taken := func() []time.Duration {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			d := dials
			dials = nil
			slices.Sort(d)
			return slices.Compact(d) // both lanes dial at the same instants
		}
		time.Sleep(700 * time.Millisecond)
		want := []time.Duration{
			0, 20 * time.Millisecond, 50 * time.Millisecond, 95 * time.Millisecond,
			162500 * time.Microsecond, 263750 * time.Microsecond, 415625 * time.Microsecond, 643437500,
		}
		if got := taken(); !slices.Equal(got, want) {
			t.Errorf("dials after %v, want %v", got, want)
		}
		a.Probe(1)
		time.Sleep(30 * time.Millisecond)
		if got, want := taken(), []time.Duration{700 * time.Millisecond, 720 * time.Millisecond}; !slices.Equal(got, want) {
			t.Errorf("dials after the probe at 700ms: %v, want %v", got, want)
		}
		a.Probe(0) // itself, and nobody: nothing to do
		a.Probe(7)
		a.close()
	})
}

// A dial into the void is given up after 250 ms, and reported once: as silent.
func TestVoid(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a := startNode(t, 0, []Host{{Identity: "a:1"}, {Identity: "b:1"}}, nil, func(c *Config) {
			c.DialContext = func(ctx context.Context, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		})
		start := time.Now()
		time.Sleep(260 * time.Millisecond)
		synctest.Wait()
		if got := countFailed(a.rec); got != lanes {
			t.Fatalf("%d reports, want one for each lane: %v", got, a.rec.all())
		}
		for _, e := range a.rec.all() {
			if e.refused || !errors.Is(e.err, ErrSilent) || e.at.Sub(start) != 250*time.Millisecond {
				t.Errorf("%v after %v, want ErrSilent after 250ms", e, e.at.Sub(start))
			}
		}
		a.close()
	})
}

// With TLS both lanes come up, and the server sees the token and the name of the peer.
func TestTLSAndToken(t *testing.T) {
	cert, pool := selfSigned(t)
	ln := listen(t)
	seen := make(chan metadata.MD, 4)
	srv := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&cert)),
		grpc.StreamInterceptor(func(s any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			md, _ := metadata.FromIncomingContext(ss.Context())
			seen <- md
			if !IsPeer(ss.Context()) {
				t.Error("the stream does not look like a peer's")
			}
			return h(s, ss)
		}))
	release := make(chan struct{})
	cachepb.RegisterCacheServer(srv, &silentService{release: release})
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() { close(release); srv.Stop(); wg.Wait() })
	hosts := []Host{{Identity: "a:1"}, {Identity: "https://peer.test:1", DialAddr: ln.Addr().String()}}
	a := startNode(t, 0, hosts, nil, func(c *Config) {
		c.Token = "secret"
		c.Credentials = trust(pool)
	})
	a.awaitUp(t, Outgoing)
	lanesSeen := map[string]bool{}
	for range lanes {
		md := <-seen
		if got := md.Get("authorization"); !slices.Equal(got, []string{"secret"}) {
			t.Errorf("authorization %q, want the token", got)
		}
		if got := md.Get(":authority"); !slices.Equal(got, []string{"peer.test:1"}) {
			t.Errorf("authority %q, want the identity and not the address dialed", got)
		}
		lanesSeen[strings.Join(md.Get(peerKey), ",")] = true
	}
	for lane := range Lane(lanes) {
		if v := peerValue(a.id(), 0, lane); !lanesSeen[v] {
			t.Errorf("no stream named itself %s: %v", v, lanesSeen)
		}
	}
	// Somebody else's certificate is a failed dial.
	other := startNode(t, 0, hosts, nil, func(c *Config) { c.Credentials = trust(x509.NewCertPool()) })
	e := other.rec.await(t, 0, "failed dial", isFailed(LaneData))
	if _, ok := errors.AsType[x509.UnknownAuthorityError](e.err); e.refused || !ok {
		t.Errorf("%v, want the certificate refused", e)
	}
}

// trust secures streams to whoever has a certificate for its host of a CA in pool.
func trust(pool *x509.CertPool) func(string) credentials.TransportCredentials {
	return func(string) credentials.TransportCredentials { return credentials.NewTLS(&tls.Config{RootCAs: pool}) }
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"peer.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(crand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// Serve refuses streams that do not come from another node of the list.
func TestServeRejects(t *testing.T) {
	ln := listen(t)
	hosts := []Host{{Identity: ln.Addr().String()}, {Identity: "b:1"}}
	a := startNode(t, 0, hosts, ln, func(c *Config) {
		c.DialContext = func(context.Context, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
	})
	for _, slot := range []int{0, 2} {
		hosts := []Host{{Identity: "x:1"}, {Identity: "y:1"}, {Identity: "z:1"}}
		hosts[(slot+1)%3].DialAddr = ln.Addr().String()
		claims := startNode(t, slot, hosts, nil, func(c *Config) {
			var d net.Dialer
			c.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
				if addr != ln.Addr().String() {
					return nil, syscall.ECONNREFUSED
				}
				return d.DialContext(ctx, "tcp", addr)
			}
		})
		claims.rec.await(t, 0, "rejected", func(e event) bool {
			return e.kind == "failed" && e.err != nil && strings.Contains(e.err.Error(), "InvalidArgument")
		})
	}
	if links := a.Stats().Links; len(links) != 0 {
		t.Errorf("links %v, want none", links)
	}
}

func TestPeerValue(t *testing.T) {
	for _, tc := range []struct {
		value string
		ok    bool
	}{
		{peerValue(3<<56|0xfe, 2, LaneData), true},
		{"1;0;control", true},
		{"", false},
		{"0;0;control", false},
		{"xyz;0;control", false},
		{"1;-1;control", false},
		{"1;0;snapshot", true},
		{"1;0;bulk", false},
		{"1;0", false},
		{"1;0;data;", false},
		{"11111111111111111;0;data", false},
	} {
		id, slot, lane, err := parsePeerValue(tc.value)
		if (err == nil) != tc.ok {
			t.Errorf("%q: err %v, want ok %v", tc.value, err, tc.ok)
		}
		if err == nil && peerValue(id, slot, lane) != tc.value {
			t.Errorf("%q reads as %s", tc.value, peerValue(id, slot, lane))
		}
	}
}

func TestConfigMistakes(t *testing.T) {
	_, err := New(Config{Self: 2, Hosts: []Host{{Identity: "a:1"}, {Identity: "http://"}}, QueueMessages: -1, BackoffMax: -1})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"own slot 2", "slot 1 has no address", "Handler", "QueueMessages", "BackoffMax"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %s", err, want)
		}
	}
}

// The queue's bounds count what is being written, and a message larger than the bound passes only alone.
func TestQueueBounds(t *testing.T) {
	var q queue
	q.init(100, 3)
	done := make(chan struct{})
	m := ping(1)
	expect := func(size int, want pushResult) {
		t.Helper()
		if got := q.push(m, size); got != want {
			t.Errorf("push of %d bytes: %d, want %d", size, got, want)
		}
	}
	expect(150, pushed)
	expect(1, full)
	batch := q.take(nil, done)
	expect(1, full) // taken is not sent
	q.sent(batch[0].size)
	expect(60, pushed)
	expect(60, full)
	expect(40, pushed)
	expect(0, pushed)
	expect(0, full)
	if got := len(q.take(batch, done)); got != 3 {
		t.Errorf("took %d, want 3", got)
	}
	if got := q.close(); got != 3 {
		t.Errorf("close: %d unsent, want 3", got)
	}
	expect(1, closed)
	close(done)
	if q.take(nil, done) != nil {
		t.Error("take after the end returned messages")
	}
}

// A killed process is noticed every time: each stream is reported down, and a dial as refused, with nothing but the
// kernel's answers to go by.
func TestKilledProcess(t *testing.T) {
	kills := 8
	if testing.Short() {
		kills = 2
	}
	var downs, refusals []time.Duration
	for range kills {
		lnA, lnB := listen(t), listen(t)
		hosts := []Host{{Identity: lnA.Addr().String()}, {Identity: lnB.Addr().String()}}
		a := startNode(t, 0, hosts, lnA, nil)
		helper := startHelper(t, lnB, hosts)
		a.awaitUp(t, Outgoing, Incoming)
		mark := a.rec.mark()
		killed := time.Now()
		if err := helper.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lane := range Lane(lanes) {
			for _, dir := range []Direction{Outgoing, Incoming} {
				downs = append(downs, a.rec.await(t, mark, "down", is("down", dir, lane)).at.Sub(killed))
			}
			refused := a.rec.await(t, mark, "refused", func(e event) bool {
				return e.kind == "failed" && e.lane == lane && e.refused
			})
			refusals = append(refusals, refused.at.Sub(killed))
		}
		helper.Wait()
		a.close()
	}
	slices.Sort(downs)
	slices.Sort(refusals)
	t.Logf("after kill -9 of %d processes: down median %v max %v; refused median %v max %v", kills,
		downs[len(downs)/2], downs[len(downs)-1], refusals[len(refusals)/2], refusals[len(refusals)-1])
}

// startHelper runs the test binary as the node of slot 1 on ln, which it closes here so that the helper's is the only
// listening socket.
func startHelper(t *testing.T, ln net.Listener, hosts []Host) *exec.Cmd {
	t.Helper()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperListener+"="+hosts[0].Identity+","+hosts[1].Identity)
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	f.Close()
	ln.Close()
	return cmd
}

func serveAsHelper() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "helper:", err)
			os.Exit(1)
		}
	}
	ln, err := net.FileListener(os.NewFile(3, "listener"))
	fail(err)
	a, b, _ := strings.Cut(os.Getenv(helperListener), ",")
	tr, err := New(Config{
		Self: 1, Hosts: []Host{{Identity: a}, {Identity: b}}, Handler: newRecorder(),
		ID:       func() uint64 { return 2 << 56 },
		Greeting: func() *cachepb.LeaderInfo { return info(2 << 56) },
	})
	fail(err)
	srv := grpc.NewServer(ServerOptions()...)
	cachepb.RegisterCacheServer(srv, &service{t: tr})
	go tr.Run(context.Background())
	time.AfterFunc(time.Minute, func() { os.Exit(1) }) // never outlives a test that forgot it
	fail(srv.Serve(ln))
}

// BenchmarkSend measures one message of 1 KiB from Send to the peer's Handler.
func BenchmarkSend(b *testing.B) {
	lnA, lnB := benchListen(b), benchListen(b)
	hosts := []Host{{Identity: lnA.Addr().String()}, {Identity: lnB.Addr().String()}}
	sink := &counter{Handler: newRecorder(), reached: make(chan struct{}, 1)}
	up := make(chan struct{}, 4)
	var trs [2]*Transport
	for i, ln := range []net.Listener{lnA, lnB} {
		h := Handler(sink)
		if i == 0 {
			h = &upNotifier{Handler: newRecorder(), up: up}
		}
		tr, err := New(Config{
			Self: i, Hosts: hosts, Handler: h,
			ID: func() uint64 { return 1 }, Greeting: func() *cachepb.LeaderInfo { return info(1) },
		})
		if err != nil {
			b.Fatal(err)
		}
		trs[i] = tr
		srv := grpc.NewServer(ServerOptions()...)
		cachepb.RegisterCacheServer(srv, &service{t: tr})
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { srv.Serve(ln) })
		wg.Go(func() { tr.Run(ctx) })
		b.Cleanup(func() { cancel(); srv.Stop(); wg.Wait() })
	}
	<-up
	<-up
	msg := put(1024)
	b.SetBytes(int64(proto.Size(msg)))
	b.ReportAllocs()
	const window = 512
	sent := 0
	for b.Loop() {
		if !trs[0].Send(1, LaneData, msg) {
			b.Fatal("dropped")
		}
		if sent++; sent%window == 0 {
			<-sink.reached
		}
	}
}

func benchListen(b *testing.B) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	return ln
}

// counter signals every 512 requests.
type counter struct {
	Handler
	n       int
	reached chan struct{}
}

func (c *counter) PeerRequest(int, uint64, Lane, *cachepb.CacheRequest) {
	if c.n++; c.n%512 == 0 {
		c.reached <- struct{}{}
	}
}

type upNotifier struct {
	Handler
	up chan struct{}
}

func (u *upNotifier) PeerUp(_ int, _ uint64, dir Direction, _ Lane) {
	if dir == Outgoing {
		u.up <- struct{}{}
	}
}

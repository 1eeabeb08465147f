package server

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/proto/cachepb"
)

// backend is a Backend that holds what is submitted until the test answers it.
type backend struct {
	mu       sync.Mutex
	info     *cachepb.LeaderInfo
	values   map[string][]byte
	held     []held
	full     bool // refuse Submit
	blockMgm chan struct{}
	mgmtErr  error
	calls    []string // management calls
	peers    int
	notPeer  error // what CheckPeer returns
	feeds    []*feed
}

// feed is a Feed of what the test puts into it.
type feed struct {
	names []string

	mu     sync.Mutex
	acks   []*cachepb.Ack
	closed bool
}

func (f *feed) Next(acks []*cachepb.Ack, limit int) []*cachepb.Ack {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		panic("Next after Close")
	}
	n := min(limit, len(f.acks))
	acks = append(acks, f.acks[:n]...)
	f.acks = f.acks[n:]
	return acks
}

func (f *feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

func (f *feed) put(acks ...*cachepb.Ack) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acks = append(f.acks, acks...)
}

// left returns how many acks were not told yet, and whether the feed was closed.
func (f *feed) left() (int, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.acks), f.closed
}

// Watch implements Backend: every feed begins with a Gap, and there is no cache "none".
func (b *backend) Watch(names []string) (Feed, error) {
	if slices.Contains(names, "none") {
		return nil, &Error{cachepb.Code_UNKNOWN_CACHE, `cache "none" is not configured`}
	}
	f := &feed{names: names, acks: []*cachepb.Ack{{Method: &cachepb.Ack_Gap{Gap: &cachepb.Gap{From: 1, To: 7}}}}}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.feeds = append(b.feeds, f)
	return f, nil
}

// held is an operation that waits for its answer.
type held struct {
	to  Responder
	req *cachepb.CacheRequest
}

func newBackend() *backend {
	return &backend{
		info:   &cachepb.LeaderInfo{Addr: new("n1:1"), ElectionTs: 7, HasQuorum: true},
		values: map[string][]byte{"c/k": []byte("v")},
	}
}

func (b *backend) LeaderInfo() *cachepb.LeaderInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.info
}

func (b *backend) Health() *cachepb.HealthAck {
	return &cachepb.HealthAck{Quorum: true, State: &cachepb.State{Value: &cachepb.State_Leader{Leader: &cachepb.Empty{}}}}
}

func (b *backend) Get(req *cachepb.Get) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{
		CacheName: req.GetCacheName(), Entry: req.GetEntry(), Value: b.values[req.GetCacheName()+"/"+req.GetEntry()],
		ReqId: req.GetRead().GetReqId(),
	}}}
}

func (b *backend) ReadAsync(to Responder, req *cachepb.Get) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = append(b.held, held{to, &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Get{Get: req}}})
}

func (b *backend) Submit(to Responder, req *cachepb.CacheRequest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full {
		return false
	}
	b.held = append(b.held, held{to, req})
	return true
}

func (b *backend) manage(ctx context.Context, call string) error {
	b.mu.Lock()
	b.calls = append(b.calls, call)
	block, err := b.blockMgm, b.mgmtErr
	b.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return err
}

func (b *backend) LeaderSwitch(ctx context.Context, host string) error {
	return b.manage(ctx, "switch "+host)
}

func (b *backend) MembersSet(ctx context.Context, hosts []string, _ bool) error {
	return b.manage(ctx, "members "+strings.Join(hosts, ","))
}
func (b *backend) Abandon(ctx context.Context) error { return b.manage(ctx, "abandon") }

func (b *backend) CheckPeer(context.Context) error { return b.notPeer }

func (b *backend) ServePeer(grpc.BidiStreamingServer[cachepb.CacheRequest, cachepb.Ack]) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.peers++
	return nil
}

func (b *backend) heldCount() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.held)
}

// take removes and returns everything that is held.
func (b *backend) take() []held {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.held
	b.held = nil
	return h
}

// ok is the positive answer to a request.
func ok(req *cachepb.CacheRequest) *cachepb.Ack {
	ack := refuse(req, cachepb.Code_OK, "")
	switch m := ack.GetMethod().(type) {
	case *cachepb.Ack_PutAck:
		m.PutAck.ModRes, m.PutAck.Outcome = new(true), nil
	case *cachepb.Ack_DelAck:
		m.DelAck.ModRes, m.DelAck.Outcome = new(true), nil
	case *cachepb.Ack_GetAck:
		m.GetAck.Outcome = nil
	}
	return ack
}

// node is a Server in memory with a connection to it.
type node struct {
	*Server
	conn *grpc.ClientConn
	dial func() (net.Conn, error)
	stop func()
}

// start runs a Server over an in-memory listener. The caller calls stop, inside the same synctest bubble if any.
func start(t *testing.T, cfg Config) *node {
	t.Helper()
	ln := bufconn.Listen(1 << 20)
	s := New(cfg)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	conn, err := grpc.NewClient("passthrough:///n1",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	return &node{s, conn, ln.Dial, func() {
		t.Helper()
		_ = conn.Close()
		s.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}}
}

type clientStream = grpc.BidiStreamingClient[cachepb.CacheRequest, cachepb.Ack]

func (n *node) newStream(ctx context.Context) (clientStream, error) {
	return cachepb.NewCacheClient(n.conn).StreamValues(ctx)
}

// open opens a stream; md are pairs of metadata.
func (n *node) open(t *testing.T, ctx context.Context, md ...string) clientStream {
	t.Helper()
	stream, err := n.newStream(metadata.AppendToOutgoingContext(ctx, md...))
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// greeted opens a stream and takes the LeaderInfo off it.
func (n *node) greeted(t *testing.T, ctx context.Context, md ...string) clientStream {
	t.Helper()
	stream := n.open(t, ctx, md...)
	if ack := recv(t, stream); ack.GetMgmtAck().GetLeaderInfo() == nil {
		t.Fatalf("the first message is %s, want a LeaderInfo", text(ack))
	}
	return stream
}

func recv(t *testing.T, stream clientStream) *cachepb.Ack {
	t.Helper()
	ack, err := stream.Recv()
	if err != nil {
		t.Fatalf("Recv: %v", err)
	}
	return ack
}

func send(t *testing.T, stream clientStream, reqs ...*cachepb.CacheRequest) {
	t.Helper()
	for _, req := range reqs {
		if err := stream.Send(req); err != nil {
			t.Fatalf("Send: %v", err)
		}
	}
}

func insert(id string) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{CacheName: "c", Entry: "k", Value: []byte("v"), ReqId: id}}}
}

func get(key string, tag *cachepb.ReadTag) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Get{Get: &cachepb.Get{CacheName: "c", Entry: key, Read: tag}}}
}

func ping() *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_MgmtReq{MgmtReq: &cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_Ping{Ping: &cachepb.Ping{}}}}}
}

func batch(items ...*cachepb.CacheRequest) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Batch{Batch: &cachepb.Requests{Items: items}}}
}

// text is a message as JSON with the spaces that protojson varies on purpose taken out.
func text(m proto.Message) string {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err.Error()
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return err.Error()
	}
	return out.String()
}

// Package clienttest is a cachenode in the process of a test, for whatever talks
// to one through package client.
//
//	srv := clienttest.New(t)
//	c := srv.Client(t)
//
// There is no socket: client and server talk over memory, by the same protocol
// and through the same gRPC as on a network. The server keeps what is written in
// a [Store], which the test can look into, and answers at once. A test that wants
// to see refusals, lost answers or silence says so with [Server.Script]; one that
// wants nodes to come and go uses [Server.Stop] and [Server.Start].
//
// All of it works in a synctest bubble, so that deadlines and retries take no
// time. It is no cluster: for elections and replication, embed real nodes with
// package node.
package clienttest

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/proto/cachepb"
)

// Handler decides what becomes of a request. It is called on the goroutine of the
// stream, once for each request in order, the items of a batch one by one. It
// answers with [Stream.Send], now or later, or never.
type Handler func(s *Stream, req *cachepb.CacheRequest)

// Server is one node. The zero value is ready to be started; fields are set
// before that. Its methods are safe for concurrent use.
type Server struct {
	// Token, if not empty, is demanded of every stream.
	Token string
	// TLS nil serves plain text.
	TLS *tls.Config
	// Greeting is the first message of each stream; nil names no leader.
	Greeting *cachepb.LeaderInfo
	// Silent servers accept streams and never greet.
	Silent bool
	// Greeted, if set, is called after the greeting of each stream.
	Greeted func(s *Stream)
	// Store is what the server keeps.
	Store Store
	// Handle decides what becomes of a request; nil is the Store's.
	Handle Handler

	life     sync.Mutex // one Start or Stop at a time
	mu       sync.Mutex
	script   Handler
	lis      *bufconn.Listener
	grpc     *grpc.Server
	streams  map[*Stream]bool
	refusing bool
	wg       sync.WaitGroup

	cachepb.UnimplementedCacheServer
}

// New starts a server that stops with the test.
func New(t testing.TB) *Server {
	srv := new(Server)
	srv.Start()
	t.Cleanup(srv.Stop)
	return srv
}

// Addr is the address under which [Server.Dial] is asked for the server; any
// other leads to it as well.
const Addr = "clienttest:7070"

// Config leads a [client.Client] to the server. The rest of it may be changed.
func (srv *Server) Config() client.ClientConfig {
	return client.ClientConfig{Addrs: []string{Addr}, Config: client.Config{Token: srv.Token, Dialer: srv.Dial}}
}

// Client returns a client of the server that is closed with the test.
func (srv *Server) Client(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.New(srv.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Script makes handle decide from now on what becomes of a request; nil goes back
// to Handle.
func (srv *Server) Script(handle Handler) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.script = handle
}

// Announce tells all clients, those to come as well, who leads.
func (srv *Server) Announce(info *cachepb.LeaderInfo) {
	srv.mu.Lock()
	srv.Greeting = info
	srv.mu.Unlock()
	for _, s := range srv.Streams() {
		s.Send(LeaderInfo(info))
	}
}

// Stream is one client's stream as the script sees it.
type Stream struct {
	// Batched tells that the client has sent a batch on this stream.
	Batched bool

	mu     sync.Mutex
	raw    grpc.BidiStreamingServer[cachepb.CacheRequest, cachepb.Ack]
	cancel context.CancelCauseFunc
	pack   *cachepb.Acks // collects the answers to a batch
}

// Send sends one ack; it may be called from any goroutine. Answers given while
// a batch is being handled leave together, as a node does it.
func (s *Stream) Send(ack *cachepb.Ack) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pack != nil {
		s.pack.Items = append(s.pack.Items, ack)
		return nil
	}
	return s.raw.Send(ack)
}

// After sends an ack once d has passed.
func (s *Stream) After(d time.Duration, ack *cachepb.Ack) {
	time.AfterFunc(d, func() { s.Send(ack) })
}

// Break ends the stream with the given status.
func (s *Stream) Break(code codes.Code, text string) {
	s.cancel(status.Error(code, text))
}

// Start begins to serve. Stop must be called.
func (srv *Server) Start() {
	srv.life.Lock()
	defer srv.life.Unlock()
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.refusing = false
	srv.streams = map[*Stream]bool{}
	srv.lis = bufconn.Listen(1 << 20)
	// Windows of a fixed size: left alone they grow with the measured bandwidth,
	// and what fits into them would differ from run to run.
	opts := []grpc.ServerOption{
		grpc.WaitForHandlers(true), grpc.MaxRecvMsgSize(16 << 20),
		grpc.StaticStreamWindowSize(64 << 10), grpc.StaticConnWindowSize(256 << 10),
	}
	if srv.TLS != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(srv.TLS)))
	}
	srv.grpc = grpc.NewServer(opts...)
	cachepb.RegisterCacheServer(srv.grpc, srv)
	server, lis := srv.grpc, srv.lis
	srv.wg.Go(func() { server.Serve(lis) })
}

// Stop breaks all streams, refuses new ones, and waits. The server can be
// started again.
func (srv *Server) Stop() {
	srv.life.Lock()
	defer srv.life.Unlock()
	srv.mu.Lock()
	srv.refusing = true
	server := srv.grpc
	srv.mu.Unlock()
	if server == nil {
		return // never started
	}
	server.Stop()
	srv.wg.Wait()
}

// Dial is a dialer for client.Config. A stopped server refuses.
func (srv *Server) Dial(ctx context.Context, addr string) (net.Conn, error) {
	srv.mu.Lock()
	lis, refusing := srv.lis, srv.refusing || srv.lis == nil
	srv.mu.Unlock()
	if refusing {
		return nil, &net.OpError{Op: "dial", Net: "bufconn", Err: errRefused}
	}
	return lis.DialContext(ctx)
}

type refused struct{}

func (refused) Error() string { return "connection refused" }

var errRefused = refused{}

// Streams returns the streams that are open.
func (srv *Server) Streams() []*Stream {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	var all []*Stream
	for s := range srv.streams {
		all = append(all, s)
	}
	return all
}

// StreamValues implements the service.
func (srv *Server) StreamValues(raw grpc.BidiStreamingServer[cachepb.CacheRequest, cachepb.Ack]) error {
	if srv.Token != "" {
		md, _ := metadata.FromIncomingContext(raw.Context())
		if got := md.Get("authorization"); len(got) != 1 || got[0] != srv.Token {
			return status.Error(codes.Unauthenticated, "wrong token")
		}
	}
	ctx, cancel := context.WithCancelCause(raw.Context())
	defer cancel(nil)
	s := &Stream{raw: raw, cancel: cancel}
	if srv.Silent {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	defer func() {
		srv.mu.Lock()
		delete(srv.streams, s)
		srv.mu.Unlock()
	}()
	if err := s.greet(srv); err != nil {
		return err
	}
	if f := newFeed(ctx); f != nil && !srv.Store.Original {
		srv.Store.join(f)
		defer srv.Store.leave(f)
		srv.wg.Go(func() { f.run(ctx, s) })
	}
	if srv.Greeted != nil {
		srv.Greeted(s)
	}
	received := make(chan error, 1)
	srv.wg.Go(func() {
		for {
			req, err := raw.Recv()
			if err != nil {
				received <- err
				return
			}
			srv.handle(s, req)
		}
	})
	select {
	case err := <-received:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// greet sends the first message and lists the stream, so that no announcement
// falls in between.
func (s *Stream) greet(srv *Server) error {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.streams[s] = true
	greeting := srv.Greeting
	if greeting == nil {
		greeting = &cachepb.LeaderInfo{ElectionTs: -1}
	}
	return s.Send(LeaderInfo(greeting))
}

// handler is who decides now.
func (srv *Server) handler() Handler {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	switch {
	case srv.script != nil:
		return srv.script
	case srv.Handle != nil:
		return srv.Handle
	}
	return srv.Store.Handle
}

func (srv *Server) handle(s *Stream, req *cachepb.CacheRequest) {
	batch := req.GetBatch()
	if batch == nil {
		srv.handler()(s, req)
		return
	}
	s.mu.Lock()
	s.Batched = true
	s.pack = new(cachepb.Acks)
	s.mu.Unlock()
	for _, item := range batch.GetItems() {
		srv.handler()(s, item)
	}
	s.mu.Lock()
	pack := s.pack
	s.pack = nil
	s.mu.Unlock()
	if len(pack.Items) > 0 {
		s.Send(&cachepb.Ack{Method: &cachepb.Ack_Batch{Batch: pack}})
	}
}

// LeaderInfo wraps a LeaderInfo as it travels.
func LeaderInfo(info *cachepb.LeaderInfo) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_MgmtAck{MgmtAck: &cachepb.MgmtAck{
		Method: &cachepb.MgmtAck_LeaderInfo{LeaderInfo: info},
	}}}
}

// ID is the id a request carries, "" if it has none.
func ID(req *cachepb.CacheRequest) string { return cachepb.ReqIDOf(req) }

// Answer is the ack of the request's kind with the given code: mod_res is true
// for OK. A Get is answered without a value. nil for anything else.
func Answer(req *cachepb.CacheRequest, out *cachepb.Outcome) *cachepb.Ack {
	id, ok := ID(req), out.GetCode() == cachepb.Code_OK
	switch m := req.Method.(type) {
	case *cachepb.CacheRequest_Get:
		return &cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{
			CacheName: m.Get.CacheName, Entry: m.Get.Entry, ReqId: id, Outcome: out,
		}}}
	case *cachepb.CacheRequest_Put, *cachepb.CacheRequest_Insert:
		return &cachepb.Ack{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{ReqId: &id, ModRes: &ok, Outcome: out}}}
	case *cachepb.CacheRequest_Del, *cachepb.CacheRequest_Remove:
		return &cachepb.Ack{Method: &cachepb.Ack_DelAck{DelAck: &cachepb.DelAck{ReqId: &id, ModRes: &ok, Outcome: out}}}
	}
	return nil
}

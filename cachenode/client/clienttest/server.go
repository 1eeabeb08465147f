// Package clienttest is a scripted node for tests of whatever talks to one
// through package client: it speaks the protocol over an in-memory listener and
// does with each request what the test says.
package clienttest

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/hacache/hacache/proto/cachepb"
)

// Server is a scripted node. Set its fields before Start. Handle is called once
// per message received, batches unpacked if Unpack is set, on the stream's own
// goroutine, in order.
type Server struct {
	// Token, if not empty, is demanded of every stream.
	Token string
	// Greeting is the first message of each stream; nil sends an empty LeaderInfo.
	Greeting *cachepb.LeaderInfo
	// Silent servers accept streams and never greet.
	Silent bool
	// Handle decides what becomes of a request; nil is [Store.Handle] of a new store.
	Handle func(s *Stream, req *cachepb.CacheRequest)

	life     sync.Mutex // one Start or Stop at a time
	mu       sync.Mutex
	lis      *bufconn.Listener
	grpc     *grpc.Server
	streams  map[*Stream]bool
	refusing bool
	wg       sync.WaitGroup

	cachepb.UnimplementedCacheServer
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
	if srv.Handle == nil {
		srv.Handle = new(Store).Handle
	}
	srv.life.Lock()
	defer srv.life.Unlock()
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.refusing = false
	srv.streams = map[*Stream]bool{}
	srv.lis = bufconn.Listen(1 << 20)
	// Windows of a fixed size: left alone they grow with the measured bandwidth,
	// and what fits into them would differ from run to run.
	srv.grpc = grpc.NewServer(grpc.MaxRecvMsgSize(16<<20),
		grpc.StaticStreamWindowSize(64<<10), grpc.StaticConnWindowSize(256<<10))
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
	srv.mu.Lock()
	srv.streams[s] = true
	srv.mu.Unlock()
	defer func() {
		srv.mu.Lock()
		delete(srv.streams, s)
		srv.mu.Unlock()
	}()
	if srv.Silent {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	greeting := srv.Greeting
	if greeting == nil {
		greeting = &cachepb.LeaderInfo{ElectionTs: -1}
	}
	if err := s.Send(LeaderInfo(greeting)); err != nil {
		return err
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

func (srv *Server) handle(s *Stream, req *cachepb.CacheRequest) {
	batch := req.GetBatch()
	if batch == nil {
		srv.Handle(s, req)
		return
	}
	s.mu.Lock()
	s.Batched = true
	s.pack = new(cachepb.Acks)
	s.mu.Unlock()
	for _, item := range batch.GetItems() {
		srv.Handle(s, item)
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
func ID(req *cachepb.CacheRequest) string {
	switch m := req.Method.(type) {
	case *cachepb.CacheRequest_Get:
		return m.Get.GetRead().GetReqId()
	case *cachepb.CacheRequest_Put:
		return m.Put.GetReqId()
	case *cachepb.CacheRequest_Insert:
		return m.Insert.GetReqId()
	case *cachepb.CacheRequest_Del:
		return m.Del.GetReqId()
	case *cachepb.CacheRequest_Remove:
		return m.Remove.GetReqId()
	}
	return ""
}

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

// Store is the obvious node: a map. The zero value is ready, and safe for
// concurrent use.
type Store struct {
	// Original makes it answer as a node of the original protocol does: Gets
	// without an id, no outcomes.
	Original bool

	mu   sync.Mutex
	data map[[2]string][]byte
	n    uint64
}

// Handle applies the request and answers it at once.
func (st *Store) Handle(s *Stream, req *cachepb.CacheRequest) {
	if ack := st.Apply(req); ack != nil {
		s.Send(ack)
	}
}

// Apply applies the request and returns its answer.
func (st *Store) Apply(req *cachepb.CacheRequest) *cachepb.Ack {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.data == nil {
		st.data = map[[2]string][]byte{}
	}
	switch m := req.Method.(type) {
	case *cachepb.CacheRequest_Get:
		ack := Answer(req, nil)
		if v, ok := st.data[[2]string{m.Get.CacheName, m.Get.Entry}]; ok {
			ack.GetGetAck().Value = v
		}
		if st.Original {
			ack.GetGetAck().ReqId = ""
		}
		return ack
	case *cachepb.CacheRequest_Put:
		st.data[[2]string{m.Put.CacheName, m.Put.Entry}] = append([]byte{}, m.Put.Value...)
	case *cachepb.CacheRequest_Insert:
		st.data[[2]string{m.Insert.CacheName, m.Insert.Entry}] = append([]byte{}, m.Insert.Value...)
	case *cachepb.CacheRequest_Del:
		delete(st.data, [2]string{m.Del.CacheName, m.Del.Entry})
	case *cachepb.CacheRequest_Remove:
		delete(st.data, [2]string{m.Remove.CacheName, m.Remove.Entry})
	case *cachepb.CacheRequest_MgmtReq:
		switch m.MgmtReq.Method.(type) {
		case *cachepb.MgmtRequest_Ping:
			return mgmt(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_Pong{Pong: &cachepb.Pong{}}})
		case *cachepb.MgmtRequest_Health:
			return mgmt(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_HealthAck{HealthAck: &cachepb.HealthAck{Quorum: true}}})
		}
		return nil
	}
	st.n++
	if st.Original {
		return Answer(req, nil)
	}
	return Answer(req, &cachepb.Outcome{Index: st.n, Term: 1, Cluster: 1})
}

func mgmt(ack *cachepb.MgmtAck) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_MgmtAck{MgmtAck: ack}}
}

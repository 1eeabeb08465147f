// Package server is the node's gRPC service: who may open a stream, what a message on it means, and how the answers get
// back. It decides nothing about caches or leaders; that is the Backend's.
//
// # A session
//
// Each client stream is one session with two goroutines. The reader takes messages off the stream, answers what can be
// answered at once (local reads, pings) and submits the rest. The writer is the stream's handler: it takes everything
// that has been delivered since its last turn and sends it. Neither ever waits for an operation.
//
//	stream.Recv -> reader -> Backend.Submit ... Backend -> Responder.Deliver -> queue -> writer -> stream.Send
//	                   `-> Backend.Get -------------------------------------------^
//
// An operation is open from the moment its message is read until its answer has been given to the stream. The reader
// does not read on while Window operations are open. So a client that does not read its answers fills its own window
// and nothing else: the queue is bounded by the window, and the writer that waits for it holds no lock.
//
// # Watching
//
// A stream whose metadata asks for it is told of changes: of the leader by LeaderChanged, of caches by the Feed that the
// Backend opened for it, which the writer empties whenever Changed has woken it and answers have been sent. While the
// client does not read, the writer does not either, and it is for the Feed to bound what is kept.
//
// Streams whose metadata names a peer are handed to the Backend after the token check.
package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/hacache/hacache/cachenode/internal/peer"
	"github.com/hacache/hacache/proto/cachepb"
)

// Limits of one stream.
const (
	// Window is how many operations of one stream may be open before it is read no further. One batch may overshoot
	// it, so up to Window+MaxBatchItems-1 are open at most.
	Window = 1024
	// MaxBatchItems and MaxBatchBytes bound a batch in both directions. The bytes are those of names and values. A
	// single item may be larger.
	MaxBatchItems = 1024
	MaxBatchBytes = 1 << 20
	// MaxReqIDBytes bounds a req_id, which stays with its operation and comes back with the answer.
	MaxReqIDBytes = 1 << 10

	maxStreamsPerConn = 256              // a client needs a handful; what is above is a leak on its side
	mgmtTimeout       = 10 * time.Second // of a leader switch and the like, which are answered when they are done
	maxManaging       = 16               // of them at a time, of all streams
)

// answerLimits bound, in bytes, the answers that wait because their clients do not read them.
type answerLimits struct {
	session int // of one session, which is then read no further; a message of answers is 1 MiB
	all     int // of all sessions together; beyond it
	pressed int // is what each may have, so that those which read go on and those which do not get no more
}

var defaultAnswerLimits = answerLimits{session: 4 << 20, all: 128 << 20, pressed: 64 << 10}

// A client that takes nothing of what waits for it loses its connection after stallTimeout, or pressedTimeout while all
// sessions together hold more than they may.
const (
	stallTimeout   = 30 * time.Second
	pressedTimeout = 5 * time.Second
	cleanInterval  = time.Second
)

// Limits of connections and of all streams together.
const (
	// DefaultConnections is what Config.MaxConnections means by 0.
	DefaultConnections = 16 << 10
	// streamsPerConnection times MaxConnections is how many streams of clients there may be. Most have one each; this
	// bounds what idle ones can take, 17 KiB each.
	streamsPerConnection = 4
	// maxHeaderBytes bounds the decoded headers of a stream. A token is some hundred bytes; gRPC's default of 16 MiB
	// would let each stream cost that.
	maxHeaderBytes = 16 << 10
	// handshakeTimeout bounds TLS and the preface of HTTP/2.
	handshakeTimeout = 10 * time.Second
	// connectionIdle ends connections without streams. There is no limit to the age of one: a stream lives as long as
	// its client, and to end it would cost operations.
	connectionIdle = 5 * time.Minute
	// DefaultKeepalive is what Config.KeepaliveInterval and KeepaliveTimeout mean by 0: the original cache's.
	DefaultKeepalive = 5 * time.Second
)

// Backend is what the sessions talk to. All methods are safe for concurrent use.
type Backend interface {
	// LeaderInfo is the first message on each stream.
	LeaderInfo() *cachepb.LeaderInfo
	// Health is the node's own view of the cluster.
	Health() *cachepb.HealthAck
	// Get answers a read of mode LOCAL with a GetAck, at once. The value inside is not modified by anyone.
	Get(req *cachepb.Get) *cachepb.Ack
	// ReadAsync answers a read of any other mode with one GetAck, later. It never blocks.
	ReadAsync(to Responder, req *cachepb.Get)
	// Submit takes a Put, Insert, Del or Remove, which it then owns, and answers it with exactly one ack, now or
	// later. It never blocks; false means that there is no room and that nothing was or will be done.
	Submit(to Responder, req *cachepb.CacheRequest) bool
	// LeaderSwitch hands leadership to a host, or to the best one for "", and returns when that is done.
	LeaderSwitch(ctx context.Context, voteHost string) error
	// MembersSet changes the list of hosts. vouched: without asking what the nodes were started with.
	MembersSet(ctx context.Context, hosts []string, vouched bool) error
	// Abandon forgets everything and starts again as an empty node.
	Abandon(ctx context.Context) error
	// Watch begins a feed of the changes of the named caches, or of all if names is empty. The session closes it.
	Watch(names []string) (Feed, error)
	// CheckPeer reports why whoever opened a stream that claims to be a peer's is not that peer.
	CheckPeer(ctx context.Context) error
	// ServePeer runs a stream that a peer opened, until it ends.
	ServePeer(stream grpc.BidiStreamingServer[cachepb.CacheRequest, cachepb.Ack]) error
}

// Feed is what a stream that watches is told. One goroutine uses it at a time.
type Feed interface {
	// Next appends at most limit acks that were not told yet to acks. It never blocks.
	Next(acks []*cachepb.Ack, limit int) []*cachepb.Ack
	// Close ends the feed; Next is not called after it.
	Close()
}

// Responder takes the answers of submitted operations. Deliver never blocks, may be called from any goroutine and owns
// the ack from then on; after the end of the stream it does nothing.
type Responder interface {
	Deliver(ack *cachepb.Ack)
}

// Config of a Server.
type Config struct {
	// Backend is required.
	Backend Backend
	// Token is asked of clients; "" asks for none. PeerToken is asked of peers; "" means Token.
	Token, PeerToken string
	// MaxConnections bounds the connections of clients. 0 means DefaultConnections.
	MaxConnections int
	// KeepaliveInterval is how long a connection may be silent before it is asked for a sign of life, at least a second, and
	// KeepaliveTimeout how long that may take: a client whose host vanished would otherwise keep its session for hours. 0
	// means DefaultKeepalive.
	KeepaliveInterval, KeepaliveTimeout time.Duration
	// TLS of the listener; nil serves in plain text.
	TLS *tls.Config
	// Logger is told of refused streams and the like; nil discards.
	Logger *slog.Logger
}

// Server is the gRPC server of a node. Create it with New; Serve blocks; end it with Drain and Stop.
type Server struct {
	cachepb.UnimplementedCacheServer
	cfg        Config
	auth       auth
	grpc       *grpc.Server
	health     *health.Server
	probes     probes
	stats      stats
	gates      gateStats
	complaints complaints
	program    Program
	created    time.Time

	limits   answerLimits
	held     atomic.Int64 // bytes of answers that wait for their clients, of all sessions
	managing atomic.Int64 // management requests that are being carried out

	mu       sync.Mutex
	sessions map[*session]struct{}
	watchers map[*session]struct{} // those with a feed
	ended    tallies               // of the sessions that are gone
	draining bool
	idle     chan struct{}  // closed by remove when draining and no session is left
	readers  sync.WaitGroup // the reader of each session
}

// New returns a server that listens to nothing yet.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.MaxConnections = cmp.Or(cfg.MaxConnections, DefaultConnections)
	cfg.KeepaliveInterval = cmp.Or(cfg.KeepaliveInterval, DefaultKeepalive)
	cfg.KeepaliveTimeout = cmp.Or(cfg.KeepaliveTimeout, DefaultKeepalive)
	s := &Server{
		cfg:        cfg,
		auth:       newAuth(cfg.Token, cfg.PeerToken),
		health:     health.NewServer(),
		created:    time.Now(),
		limits:     defaultAnswerLimits,
		complaints: complaints{log: cfg.Logger},
		sessions:   map[*session]struct{}{},
		watchers:   map[*session]struct{}{},
		idle:       make(chan struct{}),
	}
	// Windows and message limit come from peer: they hold for all streams of a listener, and peers need the most.
	// Not set, because they do nothing for few long streams or measured as nothing: stream workers, larger socket
	// buffers, the (now default) shared write buffer.
	opts := append(peer.ServerOptions(),
		grpc.Creds(newHandshaker(cfg.TLS, s.handshakeFailed)),
		grpc.MaxConcurrentStreams(maxStreamsPerConn),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		// Stop returns when the handlers have: the node stops the Backend only after that.
		grpc.WaitForHandlers(true),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.InTapHandle(s.probes.tap),
		// The seed pings every 5 s, also without streams. gRPC's default answers that with GOAWAY.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: cfg.KeepaliveInterval, Timeout: cfg.KeepaliveTimeout, MaxConnectionIdle: connectionIdle}),
	)
	s.grpc = grpc.NewServer(opts...)
	cachepb.RegisterCacheServer(s.grpc, s)
	s.probes.HealthServer = s.health
	healthpb.RegisterHealthServer(s.grpc, &s.probes)
	s.SetServing(false)
	return s
}

// Serve accepts connections until Stop, after which it returns nil. It closes ln.
func (s *Server) Serve(ln net.Listener) error {
	var janitor sync.WaitGroup
	over := make(chan struct{})
	janitor.Go(func() { s.clean(over) })
	defer janitor.Wait()
	defer close(over)
	if err := s.grpc.Serve(&gate{Listener: ln, max: s.cfg.MaxConnections, stats: &s.gates}); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// Inspection returns a gRPC server with what is for operators only, for a port that only they reach: reflection of this
// server's services, and the same health. The caller stops it. channelz is not there: once it is linked in, gRPC reads the
// clock for each message.
func (s *Server) Inspection() *grpc.Server {
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, s.health)
	reflectionpb.RegisterServerReflectionServer(g, reflection.NewServerV1(reflection.ServerOptions{Services: s.grpc}))
	return g
}

// Program returns what counts the operations that come without a stream.
func (s *Server) Program() *Program { return &s.program }

// SetServing sets what the grpc.health.v1 service says: SERVING while the node is a fresh voter. The service asks for
// no token, so it says no more than that.
func (s *Server) SetServing(ok bool) {
	state := healthpb.HealthCheckResponse_NOT_SERVING
	if ok {
		state = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", state)
	s.health.SetServingStatus(cachepb.Cache_ServiceDesc.ServiceName, state)
}

// LeaderChanged tells the sessions that asked for it (metadata cachenode-watch). It never blocks; a session that has
// not sent the previous one yet sends only the latest.
func (s *Server) LeaderChanged(info *cachepb.LeaderInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sess := range s.sessions {
		if sess.watch {
			sess.notify(info)
		}
	}
}

// Changed makes the sessions that watch caches look at their feeds. It never blocks.
func (s *Server) Changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sess := range s.watchers {
		sess.stir()
	}
}

// Drain ends the client sessions in order: new streams are refused, operations that arrive from now on are answered
// with SHUTTING_DOWN, and each session ends when its open operations are answered. It returns when all have ended, or
// with the context's error. Peer streams go on.
func (s *Server) Drain(ctx context.Context) error {
	s.SetServing(false)
	s.mu.Lock()
	if !s.draining {
		s.draining = true
		if len(s.sessions) == 0 {
			close(s.idle)
		}
	}
	for sess := range s.sessions {
		sess.drain()
	}
	s.mu.Unlock()
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Stop closes the listeners and all streams and waits for their goroutines. The Backend must let go of peer streams
// when their context ends.
func (s *Server) Stop() {
	s.grpc.Stop()
	s.readers.Wait()
}

// StreamValues is the one method of the contract.
func (s *Server) StreamValues(stream grpc.BidiStreamingServer[cachepb.CacheRequest, cachepb.Ack]) error {
	ctx := stream.Context()
	isPeer := peer.IsPeer(ctx)
	if err := s.auth.check(ctx, isPeer); err != nil {
		return s.deny(ctx, err)
	}
	if isPeer {
		if err := s.cfg.Backend.CheckPeer(ctx); err != nil {
			return s.deny(ctx, notPeerError{err})
		}
	}
	if e := entrantOf(ctx); e != nil && !e.known(isPeer) {
		return toStatus(errTooManyConnections)
	}
	if isPeer {
		return toStatus(s.cfg.Backend.ServePeer(stream))
	}
	watch, err := parseWatch(metadata.ValueFromIncomingContext(ctx, watchKey))
	if err != nil {
		return toStatus(err)
	}
	sess := newSession(s, stream)
	sess.watch = watch.leader
	if err := s.add(sess); err != nil {
		return toStatus(err)
	}
	defer s.remove(sess)
	if watch.caches {
		if sess.feed, err = s.cfg.Backend.Watch(watch.names); err != nil {
			return toStatus(err)
		}
		defer sess.feed.Close()
		s.tellChanges(sess)
	}
	sess.greet(s.cfg.Backend.LeaderInfo())
	stopped := context.AfterFunc(ctx, sess.end)
	defer stopped()
	// The reader outlives this handler by a moment: only the handler's return makes a blocked Recv return.
	s.readers.Go(sess.read)
	return toStatus(sess.write())
}

// deny refuses a stream, counts that, and says so now and then.
func (s *Server) deny(ctx context.Context, err error) error {
	reason := deniedReason(err)
	s.stats.denied[reason].Add(1)
	s.complaints.add("stream refused", deniedReasons[reason], "from", remote(ctx), "peer", peer.IsPeer(ctx), "error", err)
	return toStatus(err)
}

// handshakeFailed counts a connection that did not come about, and says so now and then.
func (s *Server) handshakeFailed(conn net.Conn, reason string, err error) {
	s.stats.handshakes[slices.Index(handshakeReasons[:], reason)].Add(1)
	if reason != refusedClosed { // every probe of a port is one
		s.complaints.add("connection refused", reason, "from", conn.RemoteAddr().String(), "error", err)
	}
}

// AnswerBytes is how many bytes of answers may wait for the sessions that there are.
func (s *Server) AnswerBytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(s.limits.all) + int64(len(s.sessions))*int64(s.limits.pressed)
}

// windowBytes is how many bytes of answers a session may have waiting now.
func (s *Server) windowBytes() int {
	if s.held.Load() > int64(s.limits.all) {
		return s.limits.pressed
	}
	return s.limits.session
}

// clean ends the connections of clients that do not take their answers, until over is closed.
func (s *Server) clean(over <-chan struct{}) {
	tick := time.NewTicker(cleanInterval)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		limit := stallTimeout
		if s.held.Load() > int64(s.limits.all) {
			limit = pressedTimeout
		}
		s.mu.Lock()
		var stalled []*session
		for sess := range s.sessions {
			if sess.stalled(limit) {
				stalled = append(stalled, sess)
			}
		}
		s.mu.Unlock()
		for _, sess := range stalled {
			// A stream whose handler waits for the client can only be ended with its connection.
			if e := entrantOf(sess.stream.Context()); e != nil {
				e.Close()
			}
		}
		if len(stalled) > 0 {
			s.stats.stalled.Add(uint64(len(stalled)))
			s.complaints.add("connection ended", "answers not read", "streams", len(stalled), "one of them", remote(stalled[0].stream.Context()))
		}
	}
}

func (s *Server) add(sess *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return errDraining
	case len(s.sessions) >= streamsPerConnection*s.cfg.MaxConnections:
		s.stats.streamsFull.Add(1)
		return errTooManyStreams
	}
	s.sessions[sess] = struct{}{}
	return nil
}

// tellChanges makes a session with a feed tell what is in it, from its beginning.
func (s *Server) tellChanges(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[sess] = struct{}{}
	sess.news, sess.batching = true, true // nobody else has the session yet
}

func (s *Server) remove(sess *session) {
	sess.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, sess)
	delete(s.watchers, sess)
	sess.count.mergeInto(&s.ended)
	if s.draining && len(s.sessions) == 0 {
		close(s.idle)
	}
}

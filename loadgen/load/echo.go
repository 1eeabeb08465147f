package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/hacache/hacache/cachenode/client"
)

// Echo is a [Target] that is a bare gRPC stream: a server in this process, on a
// loopback socket, sends every message back as it came. Each operation is one
// message of about the size it would have on the way to a cachenode. What it
// shows is the floor: the cost of gRPC, the kernel and the generator.
type Echo struct {
	server  *grpc.Server // nil: in another process
	conns   []*grpc.ClientConn
	streams []*echoStream
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// raw carries bytes through gRPC unchanged.
type raw struct {
	out mem.BufferSlice
	in  mem.Buffer
}

type rawCodec struct{}

func (rawCodec) Name() string                           { return "raw" }
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) { return v.(*raw).out, nil }
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	v.(*raw).in = data.MaterializeToBuffer(mem.DefaultBufferPool())
	return nil
}

const echoMethod = "/hacache.Echo/Stream"

var echoService = grpc.ServiceDesc{
	ServiceName: "hacache.Echo",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName: "Stream", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, stream grpc.ServerStream) error {
			var m raw
			for {
				if err := stream.RecvMsg(&m); err != nil {
					return nil // the client has closed
				}
				m.out = mem.BufferSlice{m.in}
				if err := stream.SendMsg(&m); err != nil {
					return err
				}
			}
		},
	}},
}

// Windows large enough to never be what limits.
const echoWindow = 4 << 20

// protoCodec is what most programs use: gRPC's own codec, on a message with one
// field of bytes.
type protoCodec struct{ encoding.CodecV2 }

func (c protoCodec) Marshal(v any) (mem.BufferSlice, error) {
	m := v.(*raw)
	defer m.out.Free()
	return c.CodecV2.Marshal(&wrapperspb.BytesValue{Value: m.out[0].ReadOnlyData()})
}

func (c protoCodec) Unmarshal(data mem.BufferSlice, v any) error {
	var m wrapperspb.BytesValue
	if err := c.CodecV2.Unmarshal(data, &m); err != nil {
		return err
	}
	v.(*raw).in = mem.SliceBuffer(m.GetValue())
	return nil
}

// EchoConfig of an [Echo]. The zero value is one stream to a server in this
// process, which takes messages as bytes and sends them back as they are.
type EchoConfig struct {
	// Addr is where a server that [ServeEcho] runs listens; empty: in this
	// process.
	Addr string
	// Proto makes messages of protobuf of them, by gRPC's own codec. The server
	// has to do the same.
	Proto bool
	// Conns is the number of connections, Streams that of streams over all of
	// them, Window that of messages in flight on each; 0 is 1.
	Conns, Streams, Window int
}

func echoCodec(isProto bool) encoding.CodecV2 {
	if isProto {
		return protoCodec{encoding.GetCodecV2(grpcproto.Name)}
	}
	return rawCodec{}
}

func echoServer(isProto bool) *grpc.Server {
	server := grpc.NewServer(grpc.ForceServerCodecV2(echoCodec(isProto)), grpc.MaxRecvMsgSize(echoWindow),
		grpc.InitialWindowSize(echoWindow), grpc.InitialConnWindowSize(echoWindow))
	server.RegisterService(&echoService, nil)
	return server
}

// ServeEcho answers the Echos that connect to lis until ctx is done.
func ServeEcho(ctx context.Context, lis net.Listener, isProto bool) error {
	server := echoServer(isProto)
	defer context.AfterFunc(ctx, server.Stop)()
	return server.Serve(lis)
}

// NewEcho opens the streams to one server, spread over the connections, having
// started it if it is in this process.
func NewEcho(cfg EchoConfig) (_ *Echo, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	e := &Echo{cancel: cancel}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	if cfg.Addr == "" {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		cfg.Addr, e.server = lis.Addr().String(), echoServer(cfg.Proto)
		e.wg.Go(func() { e.server.Serve(lis) })
	}
	conns, streams, window := cfg.Conns, cfg.Streams, max(cfg.Window, 1)
	for range max(conns, 1) {
		cc, err := grpc.NewClient("passthrough:///"+cfg.Addr,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithInitialWindowSize(echoWindow), grpc.WithInitialConnWindowSize(echoWindow),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(echoCodec(cfg.Proto)), grpc.MaxCallRecvMsgSize(echoWindow)))
		if err != nil {
			return nil, fmt.Errorf("echo: %w", err)
		}
		e.conns = append(e.conns, cc)
	}
	for i := range max(streams, 1) {
		raw, err := e.conns[i%len(e.conns)].NewStream(ctx, &echoService.Streams[0], echoMethod, grpc.WaitForReady(true))
		if err != nil {
			return nil, fmt.Errorf("echo: %w", err)
		}
		s := &echoStream{raw: raw, wake: make(chan struct{}, 1), waiting: make([]func(client.Outcome), window), over: ctx.Done()}
		for slot := range window {
			s.free = append(s.free, uint32(slot))
		}
		e.streams = append(e.streams, s)
		e.wg.Go(s.write)
		e.wg.Go(s.read)
	}
	return e, nil
}

// Streams implements [Target].
func (e *Echo) Streams() int { return len(e.streams) }

// Close implements [Target].
func (e *Echo) Close() error {
	e.cancel()
	for _, cc := range e.conns {
		cc.Close()
	}
	if e.server != nil {
		e.server.Stop()
	}
	e.wg.Wait()
	return nil
}

// echoHead is the slot of the operation, followed by filler.
const echoHead = 4

// echoStream is one stream and its two goroutines.
type echoStream struct {
	raw  grpc.ClientStream
	wake chan struct{} // capacity 1
	over <-chan struct{}

	mu      sync.Mutex
	broken  error
	waiting []func(client.Outcome) // by slot
	free    []uint32
	out     []mem.Buffer
	spare   []mem.Buffer
}

// echoSize is the length of an operation's message.
func echoSize(op *client.Op) int {
	return echoHead + len(op.Cache) + len(op.Key) + len(op.Value) + 16
}

// Start implements [Target].
func (e *Echo) Start(stream int, op *client.Op, done func(client.Outcome)) error {
	s := e.streams[stream]
	buf := mem.DefaultBufferPool().Get(echoSize(op))
	copy((*buf)[echoHead:], op.Value)
	s.mu.Lock()
	if s.broken != nil || len(s.free) == 0 {
		err := s.broken
		s.mu.Unlock()
		mem.DefaultBufferPool().Put(buf)
		if err == nil {
			err = client.ErrFull
		}
		return err
	}
	slot := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.waiting[slot] = done
	binary.LittleEndian.PutUint32(*buf, slot)
	s.out = append(s.out, mem.NewBuffer(buf, mem.DefaultBufferPool()))
	first := len(s.out) == 1
	s.mu.Unlock()
	if first {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

func (s *echoStream) write() {
	var m raw
	for {
		select {
		case <-s.wake:
		case <-s.over:
			return
		}
		s.mu.Lock()
		all := s.out
		s.out, s.spare = s.spare[:0], all
		s.mu.Unlock()
		for _, b := range all {
			m.out = mem.BufferSlice{b}
			if s.raw.SendMsg(&m) != nil {
				return // the reader ends what waits
			}
		}
	}
}

func (s *echoStream) read() {
	var m raw
	base := time.Now()
	for {
		err := s.raw.RecvMsg(&m)
		now := base.Add(time.Since(base)) // the monotonic clock alone: half the price of time.Now
		if err != nil {
			s.end(now)
			return
		}
		slot := binary.LittleEndian.Uint32(m.in.ReadOnlyData())
		m.in.Free()
		s.mu.Lock()
		done := s.waiting[slot]
		s.waiting[slot] = nil
		s.free = append(s.free, slot)
		s.mu.Unlock()
		done(client.Outcome{Found: true, Returned: now})
	}
}

var errEchoOver = errors.New("load: the echo stream has ended")

// end answers what is still waiting.
func (s *echoStream) end(now time.Time) {
	s.mu.Lock()
	s.broken = errEchoOver
	all := s.waiting
	s.waiting = nil
	s.mu.Unlock()
	for _, done := range all {
		if done != nil {
			done(client.Outcome{Status: client.StatusInfo, Err: errEchoOver, Returned: now})
		}
	}
}

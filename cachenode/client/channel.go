package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Flow control windows and socket buffers of a connection. HTTP/2's own 64 KiB
// would stop a pipelined stream of large values after every round trip.
const (
	streamWindow  = 2 << 20
	connWindow    = 4 << 20
	socketBuffer  = 64 << 10
	maxAckMessage = 16 << 20
)

// Channel is one TCP connection to one address that any number of [Conn]s put
// their streams on. It dials when a stream needs it, and again after it broke.
//
// gRPC's own reconnecting is not used: its backoff belongs to the channel, is
// not visible to streams, and starts at a second. A Channel dials a socket
// itself, gives it to a grpc.ClientConn of its own, and throws both away
// together. A refused dial is therefore seen as what it is, at once.
//
// A Channel is safe for concurrent use. It must be created by [NewChannel].
type Channel struct {
	addr    string
	tls     *tls.Config
	dialer  func(ctx context.Context, addr string) (net.Conn, error)
	timeout time.Duration

	mu      sync.Mutex
	dialing chan struct{} // closed when the dial under way has ended; nil when none is
	current *transport
}

// transport is one socket and the ClientConn that owns it.
type transport struct {
	cc    *grpc.ClientConn
	users int  // streams on it, guarded by Channel.mu
	stale bool // not to be given to new streams
}

// ChannelConfig says where a Channel leads. The zero value of each field but
// Addr is its default.
type ChannelConfig struct {
	// Addr is host:port.
	Addr string
	// TLS nil means no TLS. ServerName is derived from Addr when empty.
	TLS *tls.Config
	// Dialer nil dials TCP.
	Dialer func(ctx context.Context, addr string) (net.Conn, error)
	// ConnectTimeout bounds dial, TLS and HTTP/2 handshake together; 0 is 2 s.
	ConnectTimeout time.Duration
}

const defaultConnectTimeout = 2 * time.Second

// NewChannel starts nothing and cannot fail but for a malformed address.
func NewChannel(cfg ChannelConfig) (*Channel, error) {
	host, _, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("client: address %q: want host:port: %w", cfg.Addr, err)
	}
	ch := &Channel{addr: cfg.Addr, dialer: cfg.Dialer, timeout: cfg.ConnectTimeout}
	if cfg.TLS != nil {
		ch.tls = cfg.TLS.Clone()
		if ch.tls.ServerName == "" {
			ch.tls.ServerName = host
		}
	}
	if ch.dialer == nil {
		ch.dialer = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	if ch.timeout <= 0 {
		ch.timeout = defaultConnectTimeout
	}
	return ch, nil
}

// errTransportSpent is what gRPC gets when it asks for a second socket.
var errTransportSpent = errors.New("client: transport is not redialed")

// acquire returns a live transport, dialing when there is none. The caller must
// release it.
func (ch *Channel) acquire(ctx context.Context) (*transport, error) {
	for {
		ch.mu.Lock()
		if t := ch.current; t != nil && !t.stale {
			t.users++
			ch.mu.Unlock()
			return t, nil
		}
		if wait := ch.dialing; wait != nil {
			ch.mu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		done := make(chan struct{})
		ch.dialing = done
		ch.mu.Unlock()

		t, err := ch.dial(ctx)
		ch.mu.Lock()
		ch.dialing = nil
		close(done)
		if err != nil {
			ch.mu.Unlock()
			return nil, err
		}
		t.users++
		ch.current = t
		ch.mu.Unlock()
		return t, nil
	}
}

func (ch *Channel) dial(ctx context.Context) (*transport, error) {
	ctx, cancel := context.WithTimeout(ctx, ch.timeout)
	defer cancel()
	socket, err := ch.dialer(ctx, ch.addr)
	if err != nil {
		return nil, err
	}
	creds, handshake := insecure.NewCredentials(), new(handshake)
	if ch.tls != nil {
		handshake.TransportCredentials = credentials.NewTLS(ch.tls)
		creds = handshake
	}
	var spent atomic.Bool
	cc, err := grpc.NewClient("passthrough:///"+ch.addr,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if spent.Swap(true) {
				return nil, errTransportSpent
			}
			return socket, nil
		}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: ch.timeout}),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(socketBuffer),
		grpc.WithWriteBufferSize(socketBuffer),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(codec{}),
			grpc.MaxCallRecvMsgSize(maxAckMessage),
			grpc.MaxCallSendMsgSize(maxAckMessage),
		),
	)
	if err == nil {
		// The handshake happens here, so that its failure is a failure to connect.
		cc.Connect()
		for s := cc.GetState(); s != connectivity.Ready; s = cc.GetState() {
			if s == connectivity.TransientFailure || s == connectivity.Shutdown {
				if err = handshake.failure(); err == nil {
					_, err = cc.NewStream(ctx, &grpc.StreamDesc{}, "/") // only streams are told the reason
				}
				err = fmt.Errorf("handshake: %w", err)
				break
			}
			if !cc.WaitForStateChange(ctx, s) {
				err = fmt.Errorf("handshake: %w", ctx.Err())
				break
			}
		}
		if err == nil {
			return &transport{cc: cc}, nil
		}
		cc.Close()
	}
	socket.Close()
	return nil, err
}

// handshake is TLS that keeps the error it ended with: streams are told no more
// than its text, and callers want to know what kind it was.
type handshake struct {
	credentials.TransportCredentials
	err atomic.Pointer[error]
}

func (h *handshake) failure() error {
	if err := h.err.Load(); err != nil {
		return *err
	}
	return nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (h *handshake) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, conn)
	if err != nil {
		h.err.Store(&err)
	}
	return secured, info, err
}

// Clone implements credentials.TransportCredentials: the ClientConn gets the
// original, since there is one handshake to know about.
func (h *handshake) Clone() credentials.TransportCredentials { return h }

// release gives a transport back; broken tells that it is not to be used again.
// A stale transport is closed when its last stream has left it.
func (ch *Channel) release(t *transport, broken bool) {
	ch.mu.Lock()
	t.users--
	if broken || t.users == 0 {
		t.stale = true
		if ch.current == t {
			ch.current = nil
		}
	}
	last := t.stale && t.users == 0
	ch.mu.Unlock()
	if last {
		t.cc.Close()
	}
}

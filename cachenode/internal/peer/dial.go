package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/wire"
	"github.com/hacache/hacache/proto/cachepb"
)

// dialer keeps one outgoing stream up.
//
// gRPC's own reconnection is of no use here: it hides a refused port behind a status text and has no notion of a first
// redial. So the dialer opens the TCP connection itself, gives it to a grpc.ClientConn which can never get a second
// one, and throws both away together with the stream.
type dialer struct {
	t    *Transport
	p    *peer
	lane Lane
	wake chan struct{} // capacity 1: dial now

	mu      sync.Mutex
	current *link                   // guarded by mu: the link that is up
	attempt context.CancelCauseFunc // guarded by mu: ends the dial in progress
}

// Pauses between the first redials after a break while the peer cuts them off without refusing them. On a busy machine
// a process takes tens of milliseconds to die.
var closingRetries = []time.Duration{
	time.Millisecond, 2 * time.Millisecond, 4 * time.Millisecond, 8 * time.Millisecond,
	8 * time.Millisecond, 8 * time.Millisecond, 8 * time.Millisecond, 8 * time.Millisecond,
}

func (d *dialer) run(ctx context.Context) {
	cfg := &d.t.cfg
	redial := false // this dial is the first after a break, or one that repeats it
	closing := 0    // next of closingRetries
	pause := cfg.BackoffBase
	for ctx.Err() == nil {
		lived, err := d.dial(ctx, redial)
		var wait time.Duration
		switch {
		case errors.Is(err, ErrReconnect):
		case err == nil && lived >= cfg.BackoffBase:
			redial, closing, pause = true, 0, cfg.BackoffBase
		case err == nil: // broke as soon as it was up: at once, again and again, would be a busy loop
			if redial {
				wait = pause
			}
			redial, closing, pause = true, 0, d.grow(pause)
		case redial && closing < len(closingRetries) && !isRefused(err) && !errors.Is(err, ErrSilent):
			wait = closingRetries[closing]
			closing++
		default:
			redial = false
			wait, pause = pause, d.grow(pause)
		}
		if d.wait(ctx, wait) {
			pause = cfg.BackoffBase
		}
	}
}

func (d *dialer) grow(pause time.Duration) time.Duration {
	return min(pause+pause/2, d.t.cfg.BackoffMax)
}

// wait pauses; true means that it was cut short by a probe.
func (d *dialer) wait(ctx context.Context, pause time.Duration) bool {
	if pause == 0 {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-d.wake:
		return true
	}
	return false
}

func (d *dialer) probe() {
	if d.p.out[d.lane].Load() != nil {
		return
	}
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// reconnect ends the stream, or the dial in progress, which has announced the old id.
func (d *dialer) reconnect() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.attempt != nil {
		d.attempt(ErrReconnect)
	}
	if d.current != nil {
		d.current.end(ErrReconnect)
	}
}

// dial makes one attempt and, if it succeeds, runs the stream to its end: then err is nil and lived is how long it was
// up. A failure has been reported to the Handler.
func (d *dialer) dial(run context.Context, redial bool) (lived time.Duration, err error) {
	t := d.t
	t.stats.dials.Add(1)
	patience := t.cfg.DialTimeout
	if redial {
		patience = t.cfg.RedialTimeout
	}
	report := d.newReport(patience)
	defer report.close()

	ctx, cancel := context.WithCancelCause(run)
	defer cancel(nil)
	d.mu.Lock()
	d.attempt = cancel
	d.mu.Unlock()

	// From here until the link exists, Reconnect cancels; later it ends the link, so that PeerDown has the cause.
	s, err := d.open(ctx, cancel)
	d.mu.Lock()
	d.attempt = nil
	var l *link
	if err == nil && context.Cause(ctx) != nil {
		s.close()
		err = context.Cause(ctx)
	}
	if err == nil {
		id, _ := greetingID(s.first)
		l = t.newLink(d.p, Outgoing, d.lane, id)
		d.current = l
	}
	d.mu.Unlock()
	if err != nil {
		if !errors.Is(err, ErrReconnect) && run.Err() == nil {
			report.failed(err)
		}
		return 0, err
	}
	report.close()
	if got := s.first.GetMgmtAck().GetLeaderInfo().GetPeer().GetStatus(); got == nil || t.slotOf(got.GetId(), int(got.GetSlot())) == d.p.slot {
		d.p.trouble.over()
	} else if d.p.trouble.news("another slot") {
		t.cfg.Logger.Warn("the node that answers has another slot: do all nodes have the same hosts?",
			"slot", d.p.slot, "host", d.p.host.Identity, "dialed", d.p.host.dialAddr(), "its slot", got.GetSlot())
	}
	start := time.Now()
	d.serve(run, ctx, cancel, l, s)
	return time.Since(start), nil
}

// serve runs the stream s, which lives in ctx, as the link l until it ends, and waits for its goroutines.
func (d *dialer) serve(run, ctx context.Context, cancel context.CancelCauseFunc, l *link, s *outgoing) {
	l.up(s.first)
	var wg sync.WaitGroup
	wg.Go(func() { l.readAcks(s.stream.Recv) })
	wg.Go(func() { l.write(func(m proto.Message) error { return s.stream.Send(m.(*cachepb.CacheRequest)) }) })
	cause := l.await(ctx.Done())
	if run.Err() != nil {
		cause = ErrStopped
	} else if c := context.Cause(ctx); c != nil {
		cause = c
	}
	d.mu.Lock()
	d.current = nil
	d.mu.Unlock()
	l.down(cause)
	cancel(cause)
	s.close()
	wg.Wait()
	// A probe that came while the stream was going down is answered by the redial that follows.
	select {
	case <-d.wake:
	default:
	}
}

// outgoing is an opened and greeted stream.
type outgoing struct {
	cc     *grpc.ClientConn
	conn   net.Conn
	stream grpc.BidiStreamingClient[cachepb.CacheRequest, cachepb.Ack]
	first  *cachepb.Ack
}

// close ends the connection, then gRPC's side of it. In the other order gRPC would first try to say goodbye, for up to
// 5 s when the peer does not read. What Close returns here says only that something was closed already.
func (s *outgoing) close() {
	s.conn.Close()
	s.cc.Close()
}

// watchedConn reports the end of a connection. gRPC tells the streams of it only after it has tried to write a last
// frame, which takes up to 5 s when the send buffer is full; the report bounds that wait. It comes some time after the
// end, to let gRPC pass on what was received before it.
type watchedConn struct {
	net.Conn
	ended func(error)

	full  atomic.Bool // first is
	mu    sync.Mutex
	first []byte // the first bytes that came
}

// watchedBytes is how many of the first bytes are kept: those of two small frames.
const watchedBytes = 64

const endGrace = 5 * time.Millisecond

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.full.Load() {
		c.mu.Lock()
		c.first = append(c.first, p[:min(n, watchedBytes-len(c.first))]...)
		c.full.Store(len(c.first) == watchedBytes)
		c.mu.Unlock()
	}
	if err != nil {
		time.AfterFunc(endGrace, func() { c.ended(fmt.Errorf("peer: connection ended: %w", err)) })
	}
	return n, err
}

// insecure reports whether the other end of a connection without TLS has asked for it, as our nodes do.
func (c *watchedConn) insecure() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := http2.NewFramer(nil, bytes.NewReader(c.first))
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return false
		}
		if away, ok := frame.(*http2.GoAwayFrame); ok {
			return away.ErrCode == http2.ErrCodeInadequateSecurity
		}
	}
}

// open connects, opens the stream and waits for its greeting. ctx bounds the life of the stream; cancel ends it.
func (d *dialer) open(ctx context.Context, cancel context.CancelCauseFunc) (*outgoing, error) {
	cfg := &d.t.cfg
	conn, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	watched := &watchedConn{Conn: conn, ended: cancel}
	conn = watched
	s := &outgoing{conn: conn}
	s.cc, err = grpc.NewClient("passthrough:///"+d.p.host.authority(), d.options(conn, cancel)...)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("peer: dial %s: %w", d.p.host.dialAddr(), err)
	}
	timeout := time.AfterFunc(cfg.HandshakeTimeout, func() { cancel(ErrSilent) })
	if err := d.greet(ctx, s); err != nil {
		timeout.Stop()
		if cause := context.Cause(ctx); cause != nil { // before close, which is a cause as well
			err = cause
		}
		if cfg.Credentials == nil && watched.insecure() {
			err = ErrInsecure
		}
		s.close()
		return nil, fmt.Errorf("peer: open stream to %s: %w", d.p.host.dialAddr(), err)
	}
	timeout.Stop()
	return s, nil
}

func (d *dialer) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.t.cfg.DialTimeout, ErrSilent)
	defer cancel()
	conn, err := d.t.cfg.DialContext(ctx, d.p.host.dialAddr())
	if err != nil {
		if ctx.Err() != nil && !isRefused(err) {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("peer: dial %s: %w", d.p.host.dialAddr(), err)
	}
	return conn, nil
}

func (d *dialer) greet(ctx context.Context, s *outgoing) error {
	cfg := &d.t.cfg
	ctx = metadata.AppendToOutgoingContext(ctx, peerKey, peerValue(cfg.ID(), cfg.Self, d.lane))
	if cfg.Token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, tokenKey, cfg.Token)
	}
	var err error
	if s.stream, err = cachepb.NewCacheClient(s.cc).StreamValues(ctx); err != nil {
		return err
	}
	if s.first, err = s.stream.Recv(); err != nil {
		return err
	}
	if _, ok := greetingID(s.first); !ok {
		return ErrNoGreeting
	}
	return nil
}

// frankCredentials pass on why a connection was not secured: what the handshake failed with, and what the other side has
// against it, which comes after the handshake. gRPC makes a status text of either.
type frankCredentials struct {
	credentials.TransportCredentials
	failed context.CancelCauseFunc
}

func (c frankCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, conn)
	if err != nil {
		c.failed(fmt.Errorf("peer: handshake: %w", err))
		return nil, nil, err
	}
	return frankConn{secured, c.failed}, info, nil
}

func (c frankCredentials) Clone() credentials.TransportCredentials {
	return frankCredentials{c.TransportCredentials.Clone(), c.failed}
}

type frankConn struct {
	net.Conn
	failed context.CancelCauseFunc
}

func (c frankConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if remote, ok := errors.AsType[*net.OpError](err); ok && remote.Op == "remote error" { // an alert
		c.failed(fmt.Errorf("peer: handshake: %w", err))
	}
	return n, err
}

func (d *dialer) options(conn net.Conn, cancel context.CancelCauseFunc) []grpc.DialOption {
	cfg := &d.t.cfg
	creds := insecure.NewCredentials()
	if cfg.Credentials != nil {
		creds = frankCredentials{cfg.Credentials(d.p.host.Identity), cancel}
	}
	once := make(chan net.Conn, 1)
	once <- conn
	return append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case c := <-once:
				return c, nil
			default:
				return nil, errors.New("peer: connection is used up")
			}
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: time.Minute, Multiplier: 1, MaxDelay: time.Minute},
			MinConnectTimeout: cfg.HandshakeTimeout,
		}),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(cfg.MaxMessageBytes), grpc.ForceCodecV2(wire.Codec{})),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		grpc.WithNoProxy(),
	}, cfg.DialOptions...)
}

// trouble is why a peer cannot be reached, as far as it was logged: each reason once until a dial succeeds, and not once
// for each lane.
type trouble struct {
	mu   sync.Mutex
	said map[string]bool
}

// news reports whether a reason was not logged yet.
func (t *trouble) news(reason string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.said[reason] {
		return false
	}
	if t.said == nil {
		t.said = map[string]bool{}
	}
	t.said[reason] = true
	return true
}

func (t *trouble) over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.said)
}

// logFailure logs a failed dial if it has another reason than those before it.
func (d *dialer) logFailure(err error) {
	reason := ""
	if d.t.cfg.Explain != nil {
		reason = d.t.cfg.Explain(err)
	}
	switch {
	case reason != "":
	case errors.Is(err, ErrInsecure):
		reason = "it speaks TLS, and this node does not: see CACHE_TLS"
	case isRefused(err):
		reason = "refused"
	case errors.Is(err, ErrSilent):
		reason = "no answer"
	default:
		reason = "failed"
	}
	if d.p.trouble.news(reason) {
		d.t.cfg.Logger.Warn("peer is out of reach, dialing on", "slot", d.p.slot, "host", d.p.host.Identity, "reason", reason, "err", err)
	}
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// report tells the Handler about one dial: that it is silent, that it has failed, or nothing.
type report struct {
	d     *dialer
	timer *time.Timer

	mu     sync.Mutex
	silent bool // reported as silent
	closed bool // nothing may be reported any more
}

func (d *dialer) newReport(patience time.Duration) *report {
	r := &report{d: d}
	r.timer = time.AfterFunc(patience, r.onSilence)
	return r
}

func (r *report) onSilence() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.silent = true
	r.d.t.stats.silences.Add(1)
	r.d.t.cfg.Handler.DialFailed(r.d.p.slot, r.d.lane, false,
		fmt.Errorf("peer: dial %s: %w", r.d.p.host.dialAddr(), ErrSilent))
}

func (r *report) failed(err error) {
	r.close()
	r.d.logFailure(err)
	r.d.t.stats.dialFailures.Add(1)
	refused := isRefused(err)
	if refused {
		r.d.t.stats.dialRefusals.Add(1)
	}
	if !r.silent || refused {
		r.d.t.cfg.Handler.DialFailed(r.d.p.slot, r.d.lane, refused, err)
	}
}

// close ends the report; when it returns, no call of the Handler is in progress or will come from the timer.
func (r *report) close() {
	r.timer.Stop()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
}

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/hacache/hacache/proto/cachepb"
)

// authPause is the pause before credentials that were refused are tried again:
// a node may have been started with the wrong ones, and be put right.
const authPause = 5 * time.Second

// run keeps the stream connected until ctx is done.
func (c *Conn) run(ctx context.Context) {
	r := newRedial(&c.cfg)
	for ctx.Err() == nil {
		began := c.now()
		up, err := c.serve(ctx)
		if up && c.now()-began >= c.cfg.BackoffMax {
			r.reset() // not for a node that lets in and throws out
		}
		pause := r.next()
		if _, refused := errors.AsType[*AuthError](err); refused {
			pause = authPause
		}
		sleep(ctx, pause)
	}
	c.mu.Lock()
	c.closed, c.down = true, ErrClosed
	if c.timer != nil {
		c.timer.Stop()
	}
	c.notify()
	c.mu.Unlock()
}

// redial says how long to pause before the next attempt to connect.
type redial struct{ min, max, limit time.Duration }

func newRedial(cfg *Config) *redial { return &redial{cfg.BackoffMin, cfg.BackoffMax, cfg.BackoffMin} }

func (r *redial) reset() { r.limit = r.min }

func (r *redial) next() time.Duration {
	pause := r.min
	if r.limit > pause {
		pause += rand.N(r.limit - pause) // clients that lost a node together return one by one
	}
	r.limit = min(r.limit*3/2, r.max)
	return pause
}

// sleep waits for d, or for ctx.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// greetedStream is a stream whose node has greeted.
type greetedStream struct {
	grpc.ClientStream
	greeting frame
	hangUp   context.CancelFunc // ends it
	close    func()             // gives its transport back; required
}

// open opens a stream that watches what watch says, and waits for its greeting.
func (ch *Channel) open(ctx context.Context, cfg *Config, watch string) (*greetedStream, error) {
	connect, cancelConnect := context.WithTimeout(ctx, 2*cfg.ConnectTimeout)
	t, err := ch.acquire(connect)
	cancelConnect()
	if err != nil {
		return nil, &DownError{ch.addr, err}
	}
	sctx, cancel := context.WithCancel(ctx)
	if cfg.Token != "" {
		sctx = metadata.AppendToOutgoingContext(sctx, "authorization", cfg.Token)
	}
	if watch != "" {
		sctx = metadata.AppendToOutgoingContext(sctx, "cachenode-watch", watch)
	}
	s := &greetedStream{hangUp: cancel, close: func() { cancel(); ch.release(t, true) }}
	if s.ClientStream, err = t.cc.NewStream(sctx, &streamDesc, cachepb.Cache_StreamValues_FullMethodName); err != nil {
		s.close()
		return nil, streamError(ch.addr, err)
	}
	ungreeted := time.AfterFunc(cfg.ConnectTimeout, cancel)
	err = s.RecvMsg(&s.greeting)
	if !ungreeted.Stop() && err != nil {
		s.close()
		return nil, &DownError{ch.addr, errors.New("connected, but the node does not greet")}
	}
	if err != nil {
		err = streamError(ch.addr, err)
		// A node that answers with a status has a transport worth keeping.
		_, refused := errors.AsType[*AuthError](err)
		cancel()
		ch.release(t, !refused)
		return nil, err
	}
	return s, nil
}

// serve runs one stream from dial to break. up tells whether the node greeted.
func (c *Conn) serve(ctx context.Context) (up bool, err error) {
	defer func() { c.broke(ctx, up, err) }()
	watch := ""
	if c.cfg.Watch {
		watch = watchLeader
	}
	stream, err := c.channel.open(ctx, &c.cfg, watch)
	if err != nil {
		return false, err
	}
	defer stream.close()
	c.wentUp(stream.hangUp)
	gone := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { c.write(stream, gone) })
	err = c.read(stream, &stream.greeting)
	close(gone)
	stream.hangUp()
	writer.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hangUp = nil
	if c.gaveUp != nil {
		return true, &DownError{c.addr, c.gaveUp}
	}
	return true, streamError(c.addr, err)
}

var streamDesc = grpc.StreamDesc{StreamName: "StreamValues", ServerStreams: true, ClientStreams: true}

// streamError gives what gRPC reports the types of this package.
func streamError(addr string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return &DownError{addr, errors.New("the node ended the stream")}
	}
	s, ok := status.FromError(err)
	if !ok {
		return &DownError{addr, err}
	}
	switch s.Code() {
	case codes.Unauthenticated, codes.PermissionDenied:
		return &AuthError{Addr: addr, Detail: s.Message()}
	case codes.InvalidArgument, codes.NotFound:
		return &WatchError{Addr: addr, Detail: s.Message()}
	}
	return &DownError{addr, fmt.Errorf("%s: %s", s.Code(), s.Message())}
}

func (c *Conn) wentUp(hangUp context.CancelFunc) {
	c.mu.Lock()
	c.down = nil
	c.heard, c.mute, c.hangUp, c.gaveUp = c.now(), 0, hangUp, nil
	c.window.restart()
	c.stats.Connects++
	c.notify()
	c.mu.Unlock()
	if c.cfg.OnState != nil {
		c.cfg.OnState(c.addr, nil)
	}
}

// broke marks the Conn down and ends all it had in flight.
func (c *Conn) broke(ctx context.Context, up bool, err error) {
	why := fmt.Errorf("%w: %w", ErrBroken, err)
	if ctx.Err() != nil {
		err, why = ErrClosed, ErrClosed
	}
	var over []ended
	c.mu.Lock()
	c.down = err
	_, c.refused = errors.AsType[*AuthError](err)
	refused := c.refused
	c.window.each(func(p *pending) {
		if !p.dead {
			over = append(over, ended{p.done, c.unanswered(p, why)})
		}
		c.window.remove(p)
	})
	c.outbox.clear()
	lost := c.dropMgmt()
	c.notify()
	c.mu.Unlock()
	for _, e := range over {
		e.done(e.o)
	}
	for _, w := range lost {
		w.ch <- mgmtReply{err: why}
	}
	if c.cfg.OnState != nil && (up || refused) {
		c.cfg.OnState(c.addr, err)
	}
}

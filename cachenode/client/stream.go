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
	limit := c.cfg.BackoffMin
	for ctx.Err() == nil {
		began := c.now()
		up, err := c.serve(ctx)
		if up && c.now()-began >= c.cfg.BackoffMax {
			limit = c.cfg.BackoffMin // not for a node that lets in and throws out
		}
		pause := c.cfg.BackoffMin
		if limit > pause {
			pause += rand.N(limit - pause) // clients that lost a node together return one by one
		}
		if _, refused := errors.AsType[*AuthError](err); refused {
			pause = authPause
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		limit = min(limit*3/2, c.cfg.BackoffMax)
	}
	c.mu.Lock()
	c.closed, c.down = true, ErrClosed
	if c.timer != nil {
		c.timer.Stop()
	}
	c.notify()
	c.mu.Unlock()
}

// serve runs one stream from dial to break. up tells whether the node greeted.
func (c *Conn) serve(ctx context.Context) (up bool, err error) {
	defer func() { c.broke(ctx, up, err) }()
	connect, cancelConnect := context.WithTimeout(ctx, 2*c.cfg.ConnectTimeout)
	t, err := c.channel.acquire(connect)
	cancelConnect()
	if err != nil {
		return false, c.connectError(err)
	}
	broken := true
	defer func() { c.channel.release(t, broken) }()

	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.cfg.Token != "" {
		sctx = metadata.AppendToOutgoingContext(sctx, "authorization", c.cfg.Token)
	}
	if c.cfg.Watch {
		sctx = metadata.AppendToOutgoingContext(sctx, "cachenode-watch", "1")
	}
	stream, err := t.cc.NewStream(sctx, &streamDesc, cachepb.Cache_StreamValues_FullMethodName)
	if err != nil {
		return false, c.streamError(err)
	}
	var in frame
	ungreeted := time.AfterFunc(c.cfg.ConnectTimeout, cancel)
	err = stream.RecvMsg(&in)
	if !ungreeted.Stop() && err != nil {
		return false, c.connectError(errors.New("connected, but the node does not greet"))
	}
	if err != nil {
		err = c.streamError(err)
		// A node that answers with a status has a transport worth keeping.
		_, refused := errors.AsType[*AuthError](err)
		broken = !refused
		return false, err
	}

	c.wentUp(cancel)
	gone := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { c.write(stream, gone) })
	err = c.read(stream, &in)
	close(gone)
	cancel()
	writer.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hangUp = nil
	if c.gaveUp != nil {
		return true, c.connectError(c.gaveUp)
	}
	return true, c.streamError(err)
}

var streamDesc = grpc.StreamDesc{StreamName: "StreamValues", ServerStreams: true, ClientStreams: true}

func (c *Conn) connectError(err error) error { return &DownError{Addr: c.addr, Err: err} }

// streamError gives what gRPC reports the types of this package.
func (c *Conn) streamError(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return c.connectError(errors.New("the node ended the stream"))
	}
	s, ok := status.FromError(err)
	if !ok {
		return c.connectError(err)
	}
	switch s.Code() {
	case codes.Unauthenticated, codes.PermissionDenied:
		return &AuthError{Addr: c.addr, Detail: s.Message()}
	}
	return c.connectError(fmt.Errorf("%s: %s", s.Code(), s.Message()))
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

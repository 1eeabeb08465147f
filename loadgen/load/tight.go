package load

import (
	"context"
	"time"

	"google.golang.org/grpc/mem"

	"github.com/hacache/hacache/cachenode/client"
)

// Tight is what a [Generator] on an Echo is compared with: the least that a
// client can do on such a stream. One loop sends messages of the size of op as
// long as fewer than window are in flight, another one receives them; nothing is
// measured but how long n of them take, with n 0 until ctx is done. It uses a
// stream of its own.
func (e *Echo) Tight(ctx context.Context, op *client.Op, window int, n int64) (answered int64, took time.Duration, err error) {
	sctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stream, err := e.conns[0].NewStream(sctx, &echoService.Streams[0], echoMethod)
	if err != nil {
		return 0, 0, err
	}
	room := make(chan struct{}, window)
	size, pool := echoSize(op), mem.DefaultBufferPool()
	begin := time.Now()
	sent := make(chan int64, 1)
	go func() {
		var m raw
		var k int64
		for ; n == 0 && ctx.Err() == nil || k < n; k++ {
			room <- struct{}{}
			m.out = mem.BufferSlice{mem.NewBuffer(pool.Get(size), pool)}
			if stream.SendMsg(&m) != nil {
				break
			}
		}
		stream.CloseSend()
		sent <- k
	}()
	var m raw
	for {
		// After the last message the server ends the stream: an error that is none.
		if err := stream.RecvMsg(&m); err != nil {
			break
		}
		m.in.Free()
		answered++
		<-room
	}
	took = time.Since(begin)
	if k := <-sent; k != answered || n > 0 && k != n {
		return answered, took, errEchoOver
	}
	return answered, took, nil
}

package main

import (
	"context"
	"sync"

	"github.com/hacache/hacache/cachenode/client"
)

// perform carries out operations by a client whose calls block: all of ops with one call, as one batch if it is more
// than one. It sets the outcome of each. ops and their values are its own until it returns.
type perform func(ctx context.Context, ops []*client.Op, outcomes []client.Outcome)

// workers is a load.Target made of a client whose calls block. Each stream has as many goroutines as it may have calls
// in flight, which is how such a client is meant to be used, or one that takes everything that waits as a batch.
// Start must not be called any more when Close is.
type workers struct {
	streams []*workerStream
	ctx     context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup
	release func()
}

type workerStream struct {
	free  chan *task // those that are not in use; with queue it holds as many as the window
	queue chan *task
}

// task is a copy of an operation: its owner may reuse it, and what it points to, as soon as Start has returned.
type task struct {
	op    client.Op
	value []byte
	done  func(client.Outcome)
}

// newWorkers starts the goroutines. by[i] carries out the operations of stream i, at most window at once; with batch in
// one call after the other, of everything that waits. release is called by the first Close, at its end.
func newWorkers(by []perform, window int, batch bool, release func()) *workers {
	w := &workers{release: sync.OnceFunc(release)}
	w.ctx, w.stop = context.WithCancel(context.Background())
	calls, size := window, 1
	if batch {
		calls, size = 1, window
	}
	for _, do := range by {
		s := &workerStream{free: make(chan *task, window), queue: make(chan *task, window)}
		for range window {
			s.free <- new(task)
		}
		w.streams = append(w.streams, s)
		for range calls {
			w.wg.Go(func() { s.work(w.ctx, do, size) })
		}
	}
	return w
}

// Streams implements load.Target.
func (w *workers) Streams() int { return len(w.streams) }

// Start implements load.Target.
func (w *workers) Start(stream int, op *client.Op, done func(client.Outcome)) error {
	if w.ctx.Err() != nil {
		return client.ErrClosed
	}
	s := w.streams[stream]
	select {
	case t := <-s.free:
		t.value = append(t.value[:0], op.Value...)
		t.op, t.done = *op, done
		t.op.Value = t.value
		s.queue <- t // it has room for the whole window
		return nil
	default:
		return client.ErrFull
	}
}

// Close implements load.Target. Calls in flight are cancelled, what still waits was never sent.
func (w *workers) Close() error {
	w.stop()
	w.wg.Wait()
	for _, s := range w.streams {
		for len(s.queue) > 0 {
			t := <-s.queue
			t.done(client.Outcome{Status: client.StatusFail, Err: client.ErrClosed})
		}
	}
	w.release()
	return nil
}

// work carries out what is queued, up to size operations at once.
func (s *workerStream) work(ctx context.Context, do perform, size int) {
	var (
		ops      = make([]*client.Op, 0, size)
		tasks    = make([]*task, 0, size)
		outcomes = make([]client.Outcome, size)
	)
	for {
		tasks = tasks[:0]
		select {
		case t := <-s.queue:
			tasks = append(tasks, t)
		case <-ctx.Done():
			return
		}
		for len(tasks) < size && len(s.queue) > 0 { // nobody else takes from it where size is more than 1
			tasks = append(tasks, <-s.queue)
		}
		ops = ops[:0]
		for _, t := range tasks {
			ops = append(ops, &t.op)
		}
		clear(outcomes)
		do(ctx, ops, outcomes[:len(ops)])
		for i, t := range tasks {
			done := t.done
			s.free <- t // first, so that what done starts finds room
			done(outcomes[i])
		}
	}
}

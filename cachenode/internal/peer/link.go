package peer

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/wire"
	"github.com/hacache/hacache/proto/cachepb"
)

// link is one stream while it is up: its queue and its place in the routing.
//
// Three goroutines share it. The owner (a dialer, or a call of Serve) opens it, waits in await for a reason to end it,
// and takes it down. The reader passes messages to the Handler; the writer empties the queue into the stream. The
// owner needs no cooperation of the other two to take a link down, since both may be stuck in gRPC until the stream is
// cancelled.
type link struct {
	t     *Transport
	p     *peer
	dir   Direction
	lane  Lane
	id    atomic.Uint64
	queue queue

	lastReceived atomic.Int64 // since started, in nanoseconds
	started      time.Time

	ended chan error    // capacity 1: the first reason to end; read by the owner
	done  chan struct{} // closed by down; ends the writer

	mu     sync.Mutex // held while the Handler is called for this link, so that nothing follows PeerDown
	isDown bool       // guarded by mu
}

func (t *Transport) newLink(p *peer, dir Direction, lane Lane, id uint64) *link {
	l := &link{
		t: t, p: p, dir: dir, lane: lane,
		started: time.Now(), ended: make(chan error, 1), done: make(chan struct{}),
	}
	l.id.Store(id)
	l.queue.init(t.cfg.queueBytes(lane), t.cfg.QueueMessages)
	return l
}

// place is where the routing looks for the link.
func (l *link) place() *atomic.Pointer[link] {
	if l.dir == Outgoing {
		return &l.p.out[l.lane]
	}
	return &l.p.in[l.lane]
}

// up makes the link usable and tells the Handler. first, if not nil, is the greeting that came on it.
func (l *link) up(first *cachepb.Ack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.place().Store(l)
	l.t.cfg.Logger.Debug("peer stream up",
		"slot", l.p.slot, "id", l.id.Load(), "direction", l.dir.String(), "lane", l.lane.String())
	l.t.cfg.Handler.PeerUp(l.p.slot, l.id.Load(), l.dir, l.lane)
	if first != nil {
		l.t.stats.received.Add(1)
		l.t.cfg.Handler.PeerAck(l.p.slot, l.id.Load(), l.lane, first)
	}
}

// down takes the link out of the routing, drops its queue and tells the Handler, all once. When it returns, the Handler
// has seen PeerDown and will hear no more of this link. It must not be called from within the Handler.
func (l *link) down(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isDown {
		return
	}
	l.isDown = true
	l.place().CompareAndSwap(l, nil)
	l.t.stats.droppedDown.Add(uint64(l.queue.close()))
	close(l.done)
	l.t.cfg.Logger.Debug("peer stream down", "slot", l.p.slot, "id", l.id.Load(),
		"direction", l.dir.String(), "lane", l.lane.String(), "err", cause)
	l.t.cfg.Handler.PeerDown(l.p.slot, l.id.Load(), l.dir, l.lane, cause)
}

// end asks the owner to take the link down. It never blocks; the first cause wins.
func (l *link) end(cause error) {
	select {
	case l.ended <- cause:
	default:
	}
}

// await returns the reason for which the link must be taken down; ErrStopped if stop is closed.
func (l *link) await(stop <-chan struct{}) error {
	var check <-chan time.Time
	if limit := l.t.cfg.SilenceTimeout; limit > 0 {
		ticker := time.NewTicker(max(limit/4, time.Millisecond))
		defer ticker.Stop()
		check = ticker.C
	}
	for {
		select {
		case err := <-l.ended:
			return err
		case <-l.done: // taken down by a successor
			return ErrReplaced
		case <-stop:
			return ErrStopped
		case <-check:
			silence := time.Since(l.started) - time.Duration(l.lastReceived.Load())
			if silence >= l.t.cfg.SilenceTimeout {
				return ErrSilent
			}
		}
	}
}

// push queues a message for the writer; false means that it was dropped.
func (l *link) push(m proto.Message) bool {
	size := wire.Size(m)
	if size > l.t.cfg.MaxMessageBytes {
		l.t.stats.droppedTooLarge.Add(1)
		return false
	}
	switch l.queue.push(m, size) {
	case pushed:
		return true
	case full:
		l.t.stats.droppedFull.Add(1)
	case closed:
		l.t.stats.droppedDown.Add(1)
	}
	return false
}

// write empties the queue into the stream until the link is down or the stream has failed.
func (l *link) write(send func(proto.Message) error) {
	var batch []message
	for {
		batch = l.queue.take(batch, l.done)
		if batch == nil {
			return
		}
		for i, m := range batch {
			if err := send(m.m); err != nil {
				// io.EOF says that the stream has ended; the reader learns the reason.
				if !errors.Is(err, io.EOF) {
					l.end(err)
				}
				return
			}
			batch[i] = message{}
			l.queue.sent(m.size)
			l.t.stats.sent.Add(1)
			l.t.stats.sentBytes.Add(uint64(m.size))
		}
	}
}

// readAcks passes what comes on an outgoing stream until the stream ends.
func (l *link) readAcks(recv func() (*cachepb.Ack, error)) {
	for {
		ack, err := recv()
		if err != nil {
			l.end(err)
			return
		}
		if id, ok := greetingID(ack); ok && id != 0 {
			l.id.Store(id)
		}
		if req := ack.GetReplicateAck().GetReverse(); req != nil {
			l.passRequest(req)
		} else {
			l.passAck(ack)
		}
	}
}

// readRequests passes what comes on an incoming stream until the stream ends.
func (l *link) readRequests(recv func() (*cachepb.CacheRequest, error)) {
	for {
		req, err := recv()
		if err != nil {
			l.end(err)
			return
		}
		if ack := req.GetReplicate().GetReverse(); ack != nil {
			l.passAck(ack)
		} else {
			l.passRequest(req)
		}
	}
}

func (l *link) passRequest(req *cachepb.CacheRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.received() {
		l.t.cfg.Handler.PeerRequest(l.p.slot, l.id.Load(), l.lane, req)
	}
}

func (l *link) passAck(ack *cachepb.Ack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.received() {
		l.t.cfg.Handler.PeerAck(l.p.slot, l.id.Load(), l.lane, ack)
	}
}

// received notes a message; false means that the link is down and the message must not be passed. mu is held.
func (l *link) received() bool {
	if l.isDown {
		return false
	}
	if l.t.cfg.SilenceTimeout > 0 {
		l.lastReceived.Store(int64(time.Since(l.started)))
	}
	l.t.stats.received.Add(1)
	return true
}

func (l *link) linkStats() LinkStats {
	messages, bytes := l.queue.usage()
	return LinkStats{
		Slot: l.p.slot, Host: l.p.host.Identity, ID: l.id.Load(), Direction: l.dir, Lane: l.lane,
		QueueMessages: messages, QueueBytes: bytes,
	}
}

// queue holds the messages that wait for the writer. What the writer has taken counts against the bounds until it is
// sent, so that a stream that does not move holds no more than the bounds say.
type queue struct {
	maxBytes, maxMessages int
	ready                 chan struct{} // capacity 1: there may be something to take

	mu       sync.Mutex
	waiting  []message
	messages int // waiting and taken
	bytes    int
	closed   bool
}

type message struct {
	m    proto.Message
	size int
}

type pushResult uint8

const (
	pushed pushResult = iota
	full
	closed
)

func (q *queue) init(maxBytes, maxMessages int) {
	q.maxBytes, q.maxMessages = maxBytes, maxMessages
	q.ready = make(chan struct{}, 1)
}

func (q *queue) push(m proto.Message, size int) pushResult {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return closed
	case q.messages >= q.maxMessages, q.messages > 0 && q.bytes+size > q.maxBytes:
		return full
	}
	q.waiting = append(q.waiting, message{m, size})
	q.messages++
	q.bytes += size
	if len(q.waiting) == 1 {
		select {
		case q.ready <- struct{}{}:
		default:
		}
	}
	return pushed
}

// take returns everything that waits, and waits itself while there is nothing; nil once done is closed. spent is the
// slice of the call before, to be used again.
func (q *queue) take(spent []message, done <-chan struct{}) []message {
	for {
		q.mu.Lock()
		if len(q.waiting) > 0 {
			batch := q.waiting
			q.waiting = spent[:0]
			q.mu.Unlock()
			return batch
		}
		q.mu.Unlock()
		select {
		case <-done:
			return nil
		case <-q.ready:
		}
	}
}

func (q *queue) sent(size int) {
	q.mu.Lock()
	q.messages--
	q.bytes -= size
	q.mu.Unlock()
}

// close drops what waits and returns the number of messages not known to be sent.
func (q *queue) close() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.waiting = nil
	return q.messages
}

func (q *queue) usage() (messages, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.messages, q.bytes
}

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/hacache/hacache/cachenode/internal/handicap"
	"github.com/hacache/hacache/proto/cachepb"
)

// session is one client stream.
type session struct {
	srv    *Server
	stream grpc.BidiStreamingServer[cachepb.CacheRequest, cachepb.Ack]
	watch  bool // asked to be told of the leader

	// Of the writer alone.
	feed  Feed           // nil: no caches are watched
	notes []*cachepb.Ack // what it told last

	// Of the reader alone.
	local    answers       // to the message in hand, or the rest of them
	readAt   time.Duration // when the message in hand was read, since the server was created
	calls    []call        // to be used next
	refusing bool          // the node was draining when the message in hand arrived
	turned   bool          // turns may be non-empty

	count counter // of what was sent

	mu       sync.Mutex
	writable sync.Cond // the writer waits here for answers or an end
	readable sync.Cond // the reader waits here for room in the window
	queue    answers
	held     int                 // bytes of the answers that were queued and not sent yet
	waiting  bool                // the reader waits for room
	leader   *cachepb.LeaderInfo // to be sent before the queue; the latest wins
	news     bool                // the feed may have something to tell, after the queue
	open     int                 // operations read and not yet answered on the stream
	idle     bool                // the writer waits
	batching bool                // the client understands batches: it has sent one, or watches caches
	eof      bool                // the client will send no more
	draining bool                // the node wants to end
	ended    bool                // the stream is over: deliveries are dropped
	err      error               // why the reader ended, nil for eof
	turns    map[turnKey][]*turn // reads without a req_id that wait for their turn
	mgmt     bool                // a management request is being carried out

	progress atomic.Int64 // when the writer began or last sent something, in nanoseconds since the server was created
}

func newSession(srv *Server, stream grpc.BidiStreamingServer[cachepb.CacheRequest, cachepb.Ack]) *session {
	s := &session{srv: srv, stream: stream}
	s.progress.Store(int64(time.Since(srv.created)))
	s.writable.L, s.readable.L = &s.mu, &s.mu
	return s
}

// mark is what is known of an operation when it is answered: for counting.
type mark struct {
	at    time.Duration // when it was read
	class class
}

// answers are acks and, at the same places, what they are counted as. Two slices, since a batch is a slice of acks.
type answers struct {
	acks  []*cachepb.Ack
	marks []mark
	bytes int // about what they take
}

func (a *answers) add(ack *cachepb.Ack, m mark) {
	a.acks, a.marks = append(a.acks, ack), append(a.marks, m)
	a.bytes += ackWeight(ack)
}

func (a *answers) reset() {
	clear(a.acks)
	a.acks, a.marks, a.bytes = a.acks[:0], a.marks[:0], 0
}

// call is the Responder of one operation.
type call struct {
	s *session
	mark
}

// Deliver implements Responder.
func (c *call) Deliver(ack *cachepb.Ack) {
	if handicap.On {
		handicap.Deliver(func() { c.deliver(ack) })
		return
	}
	c.deliver(ack)
}

func (c *call) deliver(ack *cachepb.Ack) {
	c.s.mu.Lock()
	if !c.s.ended {
		c.s.queueLocked(ack, c.mark)
	}
	c.s.mu.Unlock()
}

// callsAtOnce are allocated together: one allocation for each operation would be felt.
const callsAtOnce = 64

// newCall returns the Responder of an operation of the message in hand. It is for the reader.
func (s *session) newCall(c class) *call {
	if len(s.calls) == 0 {
		s.calls = make([]call, callsAtOnce)
	}
	next := &s.calls[0]
	s.calls = s.calls[1:]
	next.s, next.mark = s, mark{s.readAt, c}
	return next
}

// queueLocked queues an ack for the writer.
func (s *session) queueLocked(ack *cachepb.Ack, m mark) {
	before := s.queue.bytes
	s.queue.add(ack, m)
	s.holdLocked(s.queue.bytes - before)
	s.wakeLocked()
}

// holdLocked counts bytes of answers that were queued, or with a negative number are gone.
func (s *session) holdLocked(bytes int) {
	s.held += bytes
	s.srv.held.Add(int64(bytes))
}

// wakeLocked wakes the writer if it waits: the first delivery of many pays, the rest only append.
func (s *session) wakeLocked() {
	if s.idle {
		s.idle = false
		// From now on it has something to send. What it did before it was idle says nothing of the client.
		s.progress.Store(int64(time.Since(s.srv.created)))
		s.writable.Signal()
	}
}

// greet sets the first message. It is called before the reader starts but after the session can be notified, so that no
// change of leader falls in between; one that was notified already is as good a greeting.
func (s *session) greet(info *cachepb.LeaderInfo) {
	s.mu.Lock()
	if s.leader == nil {
		s.leader = info
	}
	s.mu.Unlock()
}

func (s *session) notify(info *cachepb.LeaderInfo) {
	s.mu.Lock()
	s.leader = info
	s.wakeLocked()
	s.mu.Unlock()
}

// stir makes the writer look at the feed.
func (s *session) stir() {
	s.mu.Lock()
	s.news = true
	s.wakeLocked()
	s.mu.Unlock()
}

// drain makes the session end once nothing is open.
func (s *session) drain() {
	s.mu.Lock()
	s.draining = true
	s.wakeLocked()
	s.mu.Unlock()
}

// end makes both goroutines stop as soon as they can, and drops what is delivered from now on. It may be called often.
func (s *session) end() {
	s.mu.Lock()
	s.ended = true
	s.queue, s.turns = answers{}, nil
	s.holdLocked(-s.held)
	s.wakeLocked()
	s.readable.Broadcast()
	s.mu.Unlock()
}

// read takes messages off the stream until it ends.
func (s *session) read() {
	for {
		req, err := s.stream.Recv()
		if err != nil {
			s.readEnded(err)
			return
		}
		s.readAt = time.Since(s.srv.created)
		if !s.handle(req) {
			return
		}
	}
}

func (s *session) readEnded(err error) {
	s.mu.Lock()
	s.eof = true
	if !errors.Is(err, io.EOF) {
		s.err = err
	}
	s.wakeLocked()
	s.mu.Unlock()
}

// handle carries out one message and then waits for room for the next one. It returns false when the stream is over.
func (s *session) handle(req *cachepb.CacheRequest) bool {
	m, isBatch := req.GetMethod().(*cachepb.CacheRequest_Batch)
	if !isBatch {
		return s.begin(1, false) && s.finish(s.dispatch(req))
	}
	items := m.Batch.GetItems()
	if reason := oversized(items); reason != "" {
		if !s.begin(1, true) {
			return false
		}
		s.answer(failure(cachepb.Code_INVALID, reason), classNone)
		return s.finish(0)
	}
	if !s.begin(len(items), true) {
		return false
	}
	silent := 0
	for _, item := range items {
		silent += s.dispatch(item)
		if s.local.bytes >= spillBytes && !s.spill() {
			return false
		}
	}
	return s.finish(silent)
}

// spillBytes is how many bytes of answers to one message are gathered before they are handed to the writer. A batch of a
// thousand reads may ask for a gigabyte.
const spillBytes = 256 << 10

// spill queues what has been answered of a message so far, and waits until the client has taken some of it if that is too
// much. It returns false when the stream is over.
func (s *session) spill() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queueLocalLocked()
	s.awaitRoomLocked(func() bool { return s.held < s.srv.windowBytes() })
	return !s.ended
}

// queueLocalLocked queues the answers of the message in hand.
func (s *session) queueLocalLocked() {
	if len(s.local.acks) > 0 && !s.ended {
		s.queue.acks, s.queue.marks = append(s.queue.acks, s.local.acks...), append(s.queue.marks, s.local.marks...)
		s.queue.bytes += s.local.bytes
		s.holdLocked(s.local.bytes)
		s.wakeLocked()
	}
	s.local.reset()
}

// awaitRoomLocked waits until there is room, or the stream is over.
func (s *session) awaitRoomLocked(room func() bool) {
	if s.ended || room() {
		return
	}
	s.srv.stats.windowFull.Add(1)
	s.waiting = true
	for !s.ended && !room() {
		s.readable.Wait()
	}
	s.waiting = false
}

// oversized tells why a batch is refused as a whole, or "". One answer must do then: a message may hold more items than
// answers could be kept.
func oversized(items []*cachepb.CacheRequest) string {
	if len(items) > MaxBatchItems {
		return fmt.Sprintf("batch of %d items, expected at most %d: nothing in it was done", len(items), MaxBatchItems)
	}
	size := 0
	for _, item := range items {
		size += weight(item)
	}
	if size > MaxBatchBytes && len(items) > 1 {
		return fmt.Sprintf("batch of %d bytes, expected at most %d: nothing in it was done", size, MaxBatchBytes)
	}
	return ""
}

// begin opens n operations.
func (s *session) begin(n int, batch bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += n
	s.batching = s.batching || batch
	s.refusing = s.draining
	return !s.ended
}

// finish queues the answers of the message in hand, closes the operations that get none, and waits for room.
func (s *session) finish(silent int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open -= silent
	if silent > 0 && s.open == 0 && len(s.local.acks) == 0 {
		s.wakeLocked() // it may have been the last thing a draining session waited for
	}
	s.queueLocalLocked()
	s.awaitRoomLocked(func() bool { return s.open < Window && s.held < s.srv.windowBytes() })
	return !s.ended
}

// answer queues an ack from the reader, behind those of the same message.
func (s *session) answer(ack *cachepb.Ack, c class) { s.local.add(ack, mark{s.readAt, c}) }

// write sends what is delivered until the stream is over, and returns why it is: nil when the client has closed its
// side and has all its answers.
func (s *session) write() error {
	var out outgoing
	for {
		if over, err := s.take(&out); over {
			return err
		}
		if out.leader != nil {
			if err := s.stream.Send(leaderInfo(out.leader)); err != nil {
				return err
			}
		}
		if err := s.send(out.acks, out.batching); err != nil {
			return err
		}
		s.sent(&out.answers)
		out.reset()
		if err := s.tell(); err != nil {
			return err
		}
	}
}

// outgoing is what the writer sends in one turn, the leader first.
type outgoing struct {
	leader *cachepb.LeaderInfo
	answers
	batching bool
}

// take waits for something to send and swaps it for out, which must be empty. It reports whether the session is over
// instead, and why. What the feed has to tell keeps no session alive: it never ends.
func (s *session) take(out *outgoing) (over bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.ended && len(s.queue.acks) == 0 && s.leader == nil {
		switch {
		case s.err != nil:
			return true, s.err
		case s.eof && s.open == 0:
			return true, nil
		case s.draining && s.open == 0:
			return true, errDraining
		}
		if s.news {
			break
		}
		s.idle = true
		s.writable.Wait()
	}
	s.idle = false
	if s.ended {
		return true, context.Cause(s.stream.Context())
	}
	out.answers, s.queue = s.queue, out.answers
	out.leader, s.leader = s.leader, nil
	out.batching = s.batching
	s.news = false
	s.progress.Store(int64(time.Since(s.srv.created)))
	return false, nil
}

// tell sends what the feed has, no more than a batch in one turn: answers must not wait for what others have written.
func (s *session) tell() error {
	if s.feed == nil {
		return nil
	}
	s.notes = s.feed.Next(s.notes[:0], MaxBatchItems)
	if len(s.notes) == MaxBatchItems {
		s.stir()
	}
	err := s.send(s.notes, true)
	clear(s.notes)
	return err
}

// sent counts and closes the operations that were answered.
func (s *session) sent(out *answers) {
	s.count.add(out, time.Since(s.srv.created))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open -= len(out.acks)
	if !s.ended { // else it was all given up
		s.holdLocked(-out.bytes)
	}
	if s.waiting {
		s.readable.Signal()
	}
}

// stalled reports whether the writer has been waiting for the client for longer than limit.
func (s *session) stalled(limit time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.idle && !s.ended && time.Since(s.srv.created)-time.Duration(s.progress.Load()) > limit
}

// send sends acks one by one, or packed if the client understands that.
func (s *session) send(acks []*cachepb.Ack, batching bool) error {
	for len(acks) > 0 {
		n := 1
		if batching {
			n = pack(acks)
		}
		msg := acks[0]
		if n > 1 {
			msg = &cachepb.Ack{Method: &cachepb.Ack_Batch{Batch: &cachepb.Acks{Items: acks[:n]}}}
		}
		if err := s.stream.Send(msg); err != nil {
			return err
		}
		s.progress.Store(int64(time.Since(s.srv.created)))
		acks = acks[n:]
	}
	return nil
}

// pack returns how many of acks, at least one, fit into a batch.
func pack(acks []*cachepb.Ack) int {
	size := 0
	for i, ack := range acks {
		size += ackWeight(ack)
		if i > 0 && (i == MaxBatchItems || size > MaxBatchBytes) {
			return i
		}
	}
	return len(acks)
}

// turnKey is what a client without req_ids matches reads by.
type turnKey struct{ cache, entry string }

// turn is a read that must be answered after those of the same key before it. It is the Responder of its read.
type turn struct {
	s    *session
	key  turnKey
	ack  *cachepb.Ack // nil until answered
	mark mark
}

// Deliver implements Responder.
func (t *turn) Deliver(ack *cachepb.Ack) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.s.ended {
		return
	}
	t.ack = ack
	waiting := t.s.turns[t.key]
	for len(waiting) > 0 && waiting[0].ack != nil {
		t.s.queueLocked(waiting[0].ack, waiting[0].mark)
		waiting = waiting[1:]
	}
	if len(waiting) == 0 {
		delete(t.s.turns, t.key)
		return
	}
	t.s.turns[t.key] = waiting
}

// takeTurn lines a read up behind those of its key. It is for the reader.
func (s *session) takeTurn(req *cachepb.Get, c class) *turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turns == nil {
		s.turns = map[turnKey][]*turn{}
	}
	t := &turn{s: s, key: turnKey{req.GetCacheName(), req.GetEntry()}, mark: mark{s.readAt, c}}
	s.turns[t.key] = append(s.turns[t.key], t)
	s.turned = true
	return t
}

// mustWait reports whether an earlier read of the same key is not answered yet. It is for the reader, which alone adds
// such reads: so nearly always it needs no lock to know that there are none.
func (s *session) mustWait(req *cachepb.Get) bool {
	if !s.turned {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turned = len(s.turns) > 0
	return len(s.turns[turnKey{req.GetCacheName(), req.GetEntry()}]) > 0
}

func leaderInfo(info *cachepb.LeaderInfo) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_MgmtAck{MgmtAck: &cachepb.MgmtAck{Method: &cachepb.MgmtAck_LeaderInfo{LeaderInfo: info}}}}
}

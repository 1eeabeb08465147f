// Package client is the Go client of a cachenode.
//
// [Conn] is one pipelined stream to one address: many operations in flight,
// each answered exactly once with an [Outcome]. [Client] holds several and
// follows the leader.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/hacache/hacache/proto/cachepb"
)

// Limits of one batch message, as the node enforces them.
const (
	MaxBatchItems = 1024
	MaxBatchBytes = 1 << 20
)

// Config of a [Conn]. Only Addr is required.
type Config struct {
	// Addr is the node's host:port. It is ignored when Channel is set.
	Addr string
	// Token is sent as the stream's authorization; empty sends none.
	Token string
	// TLS nil means no TLS.
	TLS *tls.Config
	// Dialer nil dials TCP.
	Dialer func(ctx context.Context, addr string) (net.Conn, error)
	// Channel, when set, is the TCP connection the stream shares with others;
	// Addr, TLS, Dialer and ConnectTimeout are then the channel's.
	Channel *Channel

	// Window is the greatest number of operations in flight, 1 to 65536;
	// 0 is 1024, which is also what a node reads from one stream.
	Window int
	// WindowBytes bounds the encoded requests that wait for the stream to
	// take them; 0 is 16 MiB. An operation larger than that is still taken
	// when nothing waits.
	WindowBytes int
	// Batch packs the operations that wait while a message is being sent into
	// one message. Nothing waits for a batch to fill. Nodes of the original
	// protocol do not know batches.
	Batch bool
	// Watch asks the node to tell when the leader changes; see OnLeader.
	Watch bool

	// ConnectTimeout bounds dial and handshakes, and then once more the wait
	// for the node's greeting; 0 is 2 s.
	ConnectTimeout time.Duration
	// Timeout is the deadline of operations that have none; 0 is 10 s.
	Timeout time.Duration
	// Silence is how long operations may go unanswered with nothing at all
	// arriving before the stream is given up for broken; 0 is 15 s. It finds
	// connections that died without a word, where TCP would try for minutes.
	Silence time.Duration
	// BackoffMin and BackoffMax bound the pause between attempts to connect,
	// which grows by half each time; 0 is 20 ms and 250 ms.
	BackoffMin, BackoffMax time.Duration

	// OnLeader is called with the greeting of each new stream, and with each
	// later LeaderInfo. It runs on the reading goroutine and must not block.
	OnLeader func(node string, info *cachepb.LeaderInfo)
	// OnState is called when the stream is up (err nil) or lost. Same rules.
	OnState func(node string, err error)
}

func (cfg *Config) setDefaults() error {
	if cfg.Window == 0 {
		cfg.Window = 1024
	}
	if cfg.Window < 1 || cfg.Window > 1<<16 {
		return fmt.Errorf("client: window of %d operations: want 1 to 65536", cfg.Window)
	}
	if cfg.WindowBytes <= 0 {
		cfg.WindowBytes = 16 << 20
	}
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = defaultConnectTimeout
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Silence <= 0 {
		cfg.Silence = 15 * time.Second
	}
	if cfg.BackoffMin <= 0 {
		cfg.BackoffMin = 20 * time.Millisecond
	}
	if cfg.BackoffMax <= 0 {
		cfg.BackoffMax = 250 * time.Millisecond
	}
	return nil
}

// Stats counts what happened on a Conn since it was created.
type Stats struct {
	Connects  uint64 // streams that came up
	Full      uint64 // operations turned away because the window was full
	Late      uint64 // answers to operations already given up
	Unmatched uint64 // answers nobody had asked for, or that carried no usable id
	Messages  uint64 // messages sent
	Items     uint64 // operations sent in them
}

// none ends the lists that run through Conn.slots.
const none = -1

// pending is an operation between Start and its outcome. It lives in a slot; a
// slot is free iff id is 0.
type pending struct {
	id       uint64
	done     func(Outcome)
	kind     Kind
	sent     bool
	dead     bool          // timed out Get that still holds its place in the order
	sentAt   time.Duration // since Conn.base
	deadline time.Duration // since Conn.base

	prev, next   int32 // deadline order
	gprev, gnext int32 // order in which Gets were started
	cache, key   string
}

// queued is an operation that waits for the stream; its item ends at out[end].
type queued struct {
	id     uint64
	end    int
	prefix int // length of the batch framing in front of the message
}

// list is a doubly linked list through Conn.slots.
type list struct{ head, tail int32 }

// Conn is one stream to one node. It connects in the background and again after
// each break; while it is down operations fail at once. All methods are safe
// for concurrent use.
//
// Two goroutines serve it, whatever the number of operations in flight, and one
// timer for all deadlines.
type Conn struct {
	cfg     Config
	addr    string
	channel *Channel
	base    time.Time // all times inside are relative to it, and monotonic

	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	wake   chan struct{} // capacity 1: the queue is not empty

	mu      sync.Mutex
	slots   []pending
	bits    int
	free    []int32
	seq     uint64
	expiry  list
	gets    list
	getIDs  bool // this stream's node echoes the id of a Get: no order to keep
	down    error
	closed  bool
	auth    *AuthError
	changed chan struct{} // closed and replaced when up/down changes or a slot is freed while waited for
	waiters int

	out       *[]byte
	queue     []queued
	spare     []queued
	cancelled int                // queued operations that must not be sent any more
	corked    bool               // the reader is about to start more; wake the writer after that
	heard     time.Duration      // when something arrived last
	mute      time.Duration      // when the first operation was sent that timed out since then; 0: none
	hangUp    context.CancelFunc // ends the current stream
	silent    bool               // hangUp was called for silence
	timer     *time.Timer
	armed     time.Duration // when the timer fires; 0: not armed

	mgmt [mgmtKinds][]*mgmtWaiter

	spareWaiters sync.Pool // of *waiter

	stats Stats
}

// NewConn returns a Conn that connects in the background. It must be closed.
func NewConn(cfg Config) (*Conn, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	ch := cfg.Channel
	if ch == nil {
		var err error
		ch, err = NewChannel(ChannelConfig{
			Addr: cfg.Addr, TLS: cfg.TLS, Dialer: cfg.Dialer, ConnectTimeout: cfg.ConnectTimeout,
		})
		if err != nil {
			return nil, err
		}
	}
	size := 1 << bits.Len(uint(cfg.Window-1))
	c := &Conn{
		cfg: cfg, addr: ch.addr, channel: ch, base: time.Now(),
		wake:    make(chan struct{}, 1),
		slots:   make([]pending, cfg.Window),
		bits:    bits.Len(uint(size - 1)),
		expiry:  list{none, none},
		gets:    list{none, none},
		changed: make(chan struct{}),
		out:     sendBuffers.Get(0),
	}
	c.down = &DownError{Addr: c.addr}
	for i := range c.slots {
		c.free = append(c.free, int32(len(c.slots)-1-i))
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	c.cancel = cancel
	c.wg.Go(func() { c.run(ctx) })
	return c, nil
}

// Dial returns a Conn whose stream is up, or the reason why the first attempt
// to connect failed.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	c, err := NewConn(cfg)
	if err != nil {
		return nil, err
	}
	for {
		c.mu.Lock()
		down, changed := c.down, c.changed
		c.mu.Unlock()
		if down == nil {
			return c, nil
		}
		if d, ok := errors.AsType[*DownError](down); !ok || d.Err != nil {
			c.Close()
			return nil, down
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.Close()
			return nil, fmt.Errorf("client: connect to %s: %w", c.addr, ctx.Err())
		}
	}
}

// Addr is the address the Conn leads to.
func (c *Conn) Addr() string { return c.addr }

// Up returns nil while the stream is up, otherwise why it is not.
func (c *Conn) Up() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down
}

// Ready waits until the stream is up. It returns an [*AuthError] as soon as the
// node refused the credentials, and a [*DownError] when ctx is done first.
func (c *Conn) Ready(ctx context.Context) error {
	for {
		c.mu.Lock()
		down, changed := c.down, c.changed
		final := c.closed || c.auth != nil
		c.mu.Unlock()
		if down == nil || final {
			return down
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return down
		}
	}
}

// Stats returns the counters.
func (c *Conn) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// Close ends the stream and waits for its goroutines. Operations in flight end
// with [ErrClosed]. It must not be called from a callback.
func (c *Conn) Close() error {
	c.cancel(ErrClosed)
	c.wg.Wait()
	return nil
}

func (c *Conn) now() time.Duration { return time.Since(c.base) }

// Start hands op to the stream and returns; it never blocks. If it returns an
// error the operation was not started and done is not called: [ErrFull], a
// [*DownError], an [*AuthError] or [ErrClosed]. Otherwise done is called
// exactly once, on a goroutine of the Conn, and must not block; it may call
// Start again, but not Close.
func (c *Conn) Start(op *Op, done func(Outcome)) error {
	_, err := c.start(op, done)
	return err
}

func (c *Conn) start(op *Op, done func(Outcome)) (id uint64, err error) {
	deadline := op.Deadline
	if deadline <= 0 {
		deadline = c.cfg.Timeout
	}
	at := c.now() + deadline

	c.mu.Lock()
	if c.down != nil {
		err := c.down
		c.mu.Unlock()
		return 0, err
	}
	if len(c.free) == 0 || (len(*c.out) >= c.cfg.WindowBytes) {
		c.stats.Full++
		c.mu.Unlock()
		return 0, ErrFull
	}
	slot := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	c.seq++
	id = c.seq<<c.bits | uint64(slot)
	p := &c.slots[slot]
	p.id, p.done, p.kind, p.deadline = id, done, op.Kind, at
	p.sent, p.dead = false, false
	if op.Kind == KindGet && !c.getIDs {
		p.cache, p.key = op.Cache, op.Key
		c.pushGet(slot)
	}
	c.pushExpiry(slot)

	var prefix int
	*c.out, prefix = appendItem(*c.out, op, id, deadline4wire(op.Deadline))
	c.queue = append(c.queue, queued{id: id, end: len(*c.out), prefix: prefix})
	wake := len(c.queue) == 1 && !c.corked
	c.mu.Unlock()
	if wake {
		c.wakeWriter()
	}
	return id, nil
}

func deadline4wire(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return serverDeadline(d)
}

func (c *Conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Do performs op and waits for its outcome. While the Conn is down or its
// window is full it waits for that to change, until ctx is done or the
// operation's deadline has passed. When ctx ends first, the outcome of what was
// already on its way is StatusInfo for a write.
func (c *Conn) Do(ctx context.Context, op *Op) Outcome {
	limit := op.Deadline
	if limit <= 0 {
		limit = c.cfg.Timeout
	}
	giveUp := time.NewTimer(limit)
	defer giveUp.Stop()
	w := c.newWaiter()
	for {
		if err := ctx.Err(); err != nil {
			return refusal(c.addr, err)
		}
		c.mu.Lock()
		changed := c.changed
		c.waiters++
		c.mu.Unlock()
		id, err := c.start(op, w.done)
		if err == nil {
			c.unwait()
			return w.wait(ctx, c, id)
		}
		if _, isDown := errors.AsType[*DownError](err); !isDown && !errors.Is(err, ErrFull) {
			c.unwait()
			return refusal(c.addr, err)
		}
		select {
		case <-changed:
			c.unwait()
		case <-ctx.Done():
			c.unwait()
			return refusal(c.addr, fmt.Errorf("%w (%w)", ctx.Err(), err))
		case <-giveUp.C:
			c.unwait()
			return refusal(c.addr, err)
		}
	}
}

func (c *Conn) unwait() {
	c.mu.Lock()
	c.waiters--
	c.mu.Unlock()
}

// Wait blocks until the Conn is up and has room in its window, which another
// caller may take first, or ctx is done.
func (c *Conn) Wait(ctx context.Context) error {
	c.mu.Lock()
	c.waiters++
	defer c.unwait()
	for {
		if c.closed || c.auth != nil {
			err := c.down
			c.mu.Unlock()
			return err
		}
		if c.down == nil && len(c.free) > 0 && len(*c.out) < c.cfg.WindowBytes {
			c.mu.Unlock()
			return nil
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		c.mu.Lock()
	}
}

// notify wakes everybody who waits for the Conn to change. mu is held.
func (c *Conn) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// waiter turns a callback into something to wait for.
type waiter struct {
	ch   chan Outcome
	done func(Outcome)
}

func (c *Conn) newWaiter() *waiter {
	if w, ok := c.spareWaiters.Get().(*waiter); ok {
		return w
	}
	w := &waiter{ch: make(chan Outcome, 1)}
	w.done = func(o Outcome) {
		o.Value = append([]byte(nil), o.Value...)
		w.ch <- o
	}
	return w
}

func (w *waiter) wait(ctx context.Context, c *Conn, id uint64) Outcome {
	var o Outcome
	select {
	case o = <-w.ch:
	case <-ctx.Done():
		c.abandon(id, ctx.Err())
		o = <-w.ch // from abandon, or from an answer that was faster
	}
	c.spareWaiters.Put(w)
	return o
}

// abandon ends an operation that its caller no longer waits for.
func (c *Conn) abandon(id uint64, err error) {
	c.mu.Lock()
	slot, ok := c.lookup(id)
	if !ok || c.slots[slot].dead {
		c.mu.Unlock()
		return
	}
	done, o := c.giveUp(slot, err)
	c.mu.Unlock()
	done(o)
}

// giveUp ends an operation without an answer: its deadline passed, or its
// caller left. mu is held; the caller calls done after releasing it.
func (c *Conn) giveUp(slot int32, err error) (func(Outcome), Outcome) {
	p := &c.slots[slot]
	o := Outcome{
		Status: unanswered(p.kind, p.sent), Err: err, Node: c.addr,
		Returned: c.base.Add(c.now()),
	}
	if p.sent {
		o.Sent = c.base.Add(p.sentAt)
	} else {
		c.cancelled++
	}
	done := p.done
	if p.kind == KindGet && p.sent && !c.getIDs {
		// Its answer, if it comes, must not be taken for the answer to a later
		// Get of the same key.
		p.dead, p.done = true, nil
		c.dropExpiry(slot)
		return done, o
	}
	c.release(slot)
	return done, o
}

// lookup finds the slot of a live operation. mu is held.
func (c *Conn) lookup(id uint64) (int32, bool) {
	slot := id & (1<<c.bits - 1)
	if id == 0 || slot >= uint64(len(c.slots)) || c.slots[slot].id != id {
		return 0, false
	}
	return int32(slot), true
}

// release frees a slot. mu is held.
func (c *Conn) release(slot int32) {
	p := &c.slots[slot]
	if !p.dead {
		c.dropExpiry(slot)
	}
	if p.kind == KindGet && !c.getIDs {
		c.dropGet(slot)
		p.cache, p.key = "", ""
	}
	p.id, p.done = 0, nil
	c.free = append(c.free, slot)
	if c.waiters > 0 {
		c.notify()
	}
}

// pushExpiry inserts a slot into the list ordered by deadline. Deadlines mostly
// are one duration, so the place is mostly at the tail; the walk is bounded by
// the window in any case. mu is held.
func (c *Conn) pushExpiry(slot int32) {
	p := &c.slots[slot]
	after := c.expiry.tail
	for after != none && c.slots[after].deadline > p.deadline {
		after = c.slots[after].prev
	}
	p.prev = after
	if after == none {
		p.next = c.expiry.head
		c.expiry.head = slot
	} else {
		p.next = c.slots[after].next
		c.slots[after].next = slot
	}
	if p.next == none {
		c.expiry.tail = slot
	} else {
		c.slots[p.next].prev = slot
	}
	if c.armed == 0 || p.deadline < c.armed {
		c.arm(p.deadline)
	}
}

func (c *Conn) dropExpiry(slot int32) {
	p := &c.slots[slot]
	if p.prev == none {
		c.expiry.head = p.next
	} else {
		c.slots[p.prev].next = p.next
	}
	if p.next == none {
		c.expiry.tail = p.prev
	} else {
		c.slots[p.next].prev = p.prev
	}
}

func (c *Conn) pushGet(slot int32) {
	p := &c.slots[slot]
	p.gprev, p.gnext = c.gets.tail, none
	if c.gets.tail == none {
		c.gets.head = slot
	} else {
		c.slots[c.gets.tail].gnext = slot
	}
	c.gets.tail = slot
}

func (c *Conn) dropGet(slot int32) {
	p := &c.slots[slot]
	if p.gprev == none {
		c.gets.head = p.gnext
	} else {
		c.slots[p.gprev].gnext = p.gnext
	}
	if p.gnext == none {
		c.gets.tail = p.gprev
	} else {
		c.slots[p.gnext].gprev = p.gprev
	}
}

// arm sets the one timer. It is left running when the operation it was set for
// has been answered, and then finds out what to wait for next: a timer event
// per deadline's length, not per operation. mu is held.
func (c *Conn) arm(at time.Duration) {
	c.armed = at
	d := max(at-c.now(), 0)
	if c.timer == nil {
		c.timer = time.AfterFunc(d, c.expire)
		return
	}
	c.timer.Reset(d)
}

// expire ends every operation whose deadline has passed.
func (c *Conn) expire() {
	type ended struct {
		done func(Outcome)
		o    Outcome
	}
	var over []ended
	c.mu.Lock()
	now := c.now()
	c.armed = 0
	for c.expiry.head != none && c.slots[c.expiry.head].deadline <= now {
		if p := &c.slots[c.expiry.head]; c.mute == 0 && p.sent && p.sentAt >= c.heard {
			c.mute = max(p.sentAt, 1)
		}
		done, o := c.giveUp(c.expiry.head, ErrTimeout)
		over = append(over, ended{done, o})
	}
	if c.expiry.head != none {
		c.arm(c.slots[c.expiry.head].deadline)
	}
	if c.mute > 0 && now-c.mute >= c.cfg.Silence && c.hangUp != nil {
		c.silent = true
		c.hangUp()
	}
	c.mu.Unlock()
	for _, e := range over {
		e.done(e.o)
	}
}

// run keeps the stream connected until ctx is done or the node refuses the
// credentials.
func (c *Conn) run(ctx context.Context) {
	backoff := c.cfg.BackoffMin
	for ctx.Err() == nil {
		up, err := c.serve(ctx)
		if _, ok := errors.AsType[*AuthError](err); ok {
			break
		}
		if up {
			backoff = c.cfg.BackoffMin
		}
		pause := time.NewTimer(backoff)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
		backoff = min(backoff*3/2, c.cfg.BackoffMax)
	}
	<-ctx.Done()
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
	silent := c.silent
	c.hangUp = nil
	c.mu.Unlock()
	if silent {
		return true, c.connectError(fmt.Errorf("nothing heard for %s", c.cfg.Silence))
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
	c.heard, c.mute, c.hangUp, c.silent = c.now(), 0, hangUp, false
	c.getIDs = false
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
	type ended struct {
		done func(Outcome)
		o    Outcome
	}
	var over []ended
	c.mu.Lock()
	c.down = err
	now := c.base.Add(c.now())
	auth, refused := errors.AsType[*AuthError](err)
	if refused {
		c.auth = auth
	}
	for i := range c.slots {
		p := &c.slots[i]
		if p.id == 0 {
			continue
		}
		if !p.dead {
			o := Outcome{Status: unanswered(p.kind, p.sent), Err: why, Node: c.addr, Returned: now}
			if p.sent {
				o.Sent = c.base.Add(p.sentAt)
			}
			over = append(over, ended{p.done, o})
		}
		c.release(int32(i))
	}
	*c.out = (*c.out)[:0]
	c.queue, c.cancelled = c.queue[:0], 0
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

// write sends what is queued until the stream is gone.
func (c *Conn) write(stream grpc.ClientStream, gone <-chan struct{}) {
	for {
		select {
		case <-c.wake:
		case <-gone:
			return
		}
		for {
			buf, items := c.take()
			if len(items) == 0 {
				sendBuffers.Put(buf)
				break
			}
			if err := c.send(stream, buf, items); err != nil {
				return // the reader sees the reason
			}
		}
	}
}

// take removes everything queued and marks it sent. The items end where they
// say in buf.
func (c *Conn) take() (*[]byte, []queued) {
	fresh := sendBuffers.Get(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	buf, items := c.out, c.queue
	c.out, c.queue = fresh, c.spare[:0]
	if c.cancelled > 0 {
		items = c.withoutCancelled(buf, items)
	}
	c.spare = items
	now := c.now()
	for _, q := range items {
		if slot, ok := c.lookup(q.id); ok {
			c.slots[slot].sent, c.slots[slot].sentAt = true, now
		}
	}
	c.stats.Items += uint64(len(items))
	return buf, items
}

// withoutCancelled removes the operations that ended while they waited: they
// were reported as not sent, so they must not be. mu is held.
func (c *Conn) withoutCancelled(buf *[]byte, items []queued) []queued {
	c.cancelled = 0
	kept, to, from := items[:0], 0, 0
	for _, q := range items {
		end := q.end
		if _, ok := c.lookup(q.id); ok || q.id == 0 {
			to += copy((*buf)[to:], (*buf)[from:end])
			q.end = to
			kept = append(kept, q)
		}
		from = end
	}
	*buf = (*buf)[:to]
	return kept
}

// send passes the items on, as messages of their own or packed. buf is given
// back when gRPC is done with it.
func (c *Conn) send(stream grpc.ClientStream, buf *[]byte, items []queued) error {
	root := mem.NewBuffer(buf, &sendBuffers)
	defer root.Free()
	var f frame
	var messages uint64
	defer func() {
		c.mu.Lock()
		c.stats.Messages += messages
		c.mu.Unlock()
	}()
	for start := 0; len(items) > 0; {
		n := 1
		if c.cfg.Batch && items[0].id != 0 {
			for n < len(items) && n < MaxBatchItems && items[n].id != 0 && items[n].end-start <= MaxBatchBytes {
				n++
			}
		}
		end := items[n-1].end
		if n == 1 {
			f.out = mem.BufferSlice{root.Slice(start+items[0].prefix, end)}
		} else {
			header := mem.SliceBuffer(appendBatchHeader(make([]byte, 0, 8), end-start))
			f.out = mem.BufferSlice{header, root.Slice(start, end)}
		}
		if err := stream.SendMsg(&f); err != nil {
			return err
		}
		messages++
		start, items = end, items[n:]
	}
	return nil
}

// read handles what arrives, beginning with the greeting in first, until the
// stream ends.
func (c *Conn) read(stream grpc.ClientStream, first *frame) error {
	r := reader{conn: c}
	for in := first; ; {
		err := r.handle(in.in)
		in.in.Free()
		if err != nil {
			return err
		}
		if err := stream.RecvMsg(in); err != nil {
			return err
		}
	}
}

// reader is the state of one stream's reading goroutine.
type reader struct {
	conn   *Conn
	views  []ackView
	over   []answered
	leader string // last leader named; most answers name the same
}

type answered struct {
	view   int
	kind   Kind
	sentAt time.Duration
	done   func(Outcome)
}

// handle matches the acks of one message to the operations that wait for them,
// under one lock, and then calls back without it.
func (r *reader) handle(b mem.Buffer) error {
	c := r.conn
	var err error
	r.views, err = parseAcks(r.views[:0], b.ReadOnlyData())
	if err != nil {
		return err
	}
	now := c.now()
	r.over = r.over[:0]
	mgmt := false

	c.mu.Lock()
	c.heard, c.mute = now, 0
	for i := range r.views {
		v := &r.views[i]
		if v.kind == ackMgmt {
			mgmt = true
			continue
		}
		slot, late, ok := c.match(v)
		if !ok && c.failMgmt(v) {
			continue
		}
		if !ok {
			if late {
				c.stats.Late++
			} else {
				c.stats.Unmatched++
			}
			continue
		}
		p := &c.slots[slot]
		r.over = append(r.over, answered{i, p.kind, p.sentAt, p.done})
		c.release(slot)
	}
	c.corked = true
	c.mu.Unlock()

	returned := c.base.Add(now)
	for i := range r.over {
		a := &r.over[i]
		a.done(r.outcome(a, returned))
		a.done = nil
	}
	if mgmt {
		for i := range r.views {
			if r.views[i].kind == ackMgmt {
				c.handleMgmt(r.views[i].mgmt)
			}
		}
	}
	c.mu.Lock()
	c.corked = false
	wake := len(c.queue) > 0
	c.mu.Unlock()
	if wake {
		c.wakeWriter()
	}
	return nil
}

// match finds the operation an ack answers. late tells that the operation has
// ended already. mu is held.
func (c *Conn) match(v *ackView) (slot int32, late, ok bool) {
	if v.hasID {
		if v.kind == ackGet && !c.getIDs {
			c.echoesGets()
		}
		slot, ok = c.lookup(v.id)
		if !ok {
			return 0, v.id>>c.bits <= c.seq, false
		}
		p := &c.slots[slot]
		if p.dead {
			c.release(slot)
			return 0, true, false
		}
		if !p.sent || (p.kind == KindGet) != (v.kind == ackGet) && v.kind != ackError {
			return 0, false, false
		}
		return slot, false, true
	}
	if v.kind != ackGet && (v.kind != ackError || v.key == nil) {
		return 0, false, false
	}
	// A node of the original protocol answers Gets in order, per key at least.
	for slot = c.gets.head; slot != none; slot = c.slots[slot].gnext {
		p := &c.slots[slot]
		if !p.sent || p.key != string(v.key) || p.cache != string(v.cache) {
			continue
		}
		if p.dead {
			c.release(slot)
			return 0, true, false
		}
		return slot, false, true
	}
	return 0, false, false
}

// echoesGets notes that this node answers Gets with their id, so that their
// order need not be kept on this stream. mu is held.
func (c *Conn) echoesGets() {
	for slot := c.gets.head; slot != none; {
		p := &c.slots[slot]
		next := p.gnext
		if p.dead {
			c.release(slot)
		} else {
			p.cache, p.key = "", ""
		}
		slot = next
	}
	c.gets = list{none, none}
	c.getIDs = true
}

// outcome makes the answer that the caller sees.
func (r *reader) outcome(a *answered, returned time.Time) Outcome {
	c, v := r.conn, &r.views[a.view]
	o := Outcome{
		Status:  classify(a.kind, v.kind, v.mod, v.code),
		Code:    v.code,
		Cluster: v.cluster, Term: v.term, Index: v.index,
		Node: c.addr,
		Sent: c.base.Add(a.sentAt), Returned: returned,
		Staleness: time.Duration(v.staleness) * time.Microsecond,
	}
	if len(v.leader) > 0 {
		if r.leader != string(v.leader) {
			r.leader = string(v.leader)
		}
		o.Leader = r.leader
	}
	if v.kind == ackGet {
		o.Value, o.Found = v.value, v.found
		o.Refused = v.code == cachepb.Code_NOT_FRESH
	}
	if o.Status != StatusOK {
		detail := v.detail
		if len(detail) == 0 {
			detail = v.text
		}
		o.Detail = string(detail)
		o.Err = &OpError{Kind: a.kind, Code: v.code, Detail: o.Detail, Node: c.addr}
	}
	return o
}

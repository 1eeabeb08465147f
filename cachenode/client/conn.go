package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Stats counts what happened on a Conn since it was created.
type Stats struct {
	Connects  uint64 // streams that came up
	Full      uint64 // operations turned away, or made to wait, because the window was full
	Late      uint64 // answers to operations already given up
	Unmatched uint64 // answers nobody had asked for, or that carried no usable id
	Messages  uint64 // messages sent
	Items     uint64 // operations sent in them
}

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
	wake   chan struct{} // capacity 1: the outbox is not empty

	mu      sync.Mutex
	window  window
	outbox  outbox
	down    error
	closed  bool
	refused bool          // down is an AuthError
	changed chan struct{} // closed and replaced when the Conn goes up or down, or is closed
	lobby   lobby

	corked bool               // the reader is about to start more; wake the writer after that
	heard  time.Duration      // when something arrived last
	mute   time.Duration      // when the first operation was sent that timed out since then; 0: none
	hangUp context.CancelFunc // ends the current stream
	gaveUp error              // why hangUp was called
	timer  *time.Timer
	armed  time.Duration // when the timer fires; 0: not armed

	mgmt   [mgmtKinds][]*mgmtWaiter
	change chan struct{} // capacity 1: filled while a change of the node's is not answered

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
	c := &Conn{
		cfg: cfg, addr: ch.addr, channel: ch, base: time.Now(),
		wake:    make(chan struct{}, 1),
		change:  make(chan struct{}, 1),
		window:  newWindow(cfg.Window),
		outbox:  newOutbox(),
		changed: make(chan struct{}),
		down:    &DownError{Addr: ch.addr},
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
		final := c.closed || c.refused
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
// [*DownError], an [*AuthError], [ErrClosed], or an [*OpError] for what no node
// would take. Otherwise done is called
// exactly once, on a goroutine of the Conn, and must not block; it may call
// Start again, but not Close.
func (c *Conn) Start(op *Op, done func(Outcome)) error {
	deadline := op.Deadline
	if deadline <= 0 {
		deadline = c.cfg.Timeout
	}
	_, err := c.start(op, deadline, op.Deadline, done, nil)
	return err
}

// start is Start with a deadline, and another that the node is told; 0 tells
// none. A waiter that gets an error may have to wait, see admit.
func (c *Conn) start(op *Op, deadline, told time.Duration, done func(Outcome), w *waiter) (id uint64, err error) {
	if err := op.check(); err != nil {
		return 0, err
	}
	at := c.now() + deadline
	c.mu.Lock()
	if err := c.admit(w); err != nil {
		if errors.Is(err, ErrFull) {
			c.stats.Full++
			c.unstick()
		}
		c.mu.Unlock()
		return 0, err
	}
	id = c.window.add(op, at, done).id
	if c.armed == 0 || at < c.armed {
		c.arm(at)
	}
	wake := c.outbox.add(op, id, told) && !c.corked
	c.callNext()
	c.mu.Unlock()
	if wake {
		c.wakeWriter()
	}
	return id, nil
}

// room tells whether another operation may be started. mu is held.
func (c *Conn) room() bool { return !c.window.full() && c.outbox.bytes() < c.cfg.WindowBytes }

func (c *Conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Do performs op and waits for its outcome. While the Conn is down or its window
// is full it waits, in order of arrival, for that to change. The operation's
// deadline, or [Config.Timeout], or the end of ctx, whichever is first, bounds
// all of it together. When the time is over, what was already on its way is
// StatusInfo if it is a write; what was not is StatusFail.
func (c *Conn) Do(ctx context.Context, op *Op) Outcome {
	p := patienceFor(ctx, op, c.cfg.Timeout)
	p.down = true
	return c.perform(ctx, op, p)
}

// Wait blocks until the Conn is up and has room in its window, which another
// caller may take first, or ctx is done.
func (c *Conn) Wait(ctx context.Context) error {
	w := c.newWaiter(true)
	defer c.spareWaiters.Put(w)
	for {
		c.mu.Lock()
		err := c.admit(w)
		if err == nil {
			c.callNext() // the caller may not use the room
		}
		c.mu.Unlock()
		if err == nil || !w.waits {
			return err
		}
		if err := c.await(ctx, w, time.Time{}); err != nil {
			c.pass(w)
			return err
		}
	}
}

// notify tells everybody who waits that the Conn went up or down. mu is held.
func (c *Conn) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
	if c.down == nil {
		c.callNext()
		return
	}
	c.callOff()
}

// abandon ends an operation that its caller no longer waits for.
func (c *Conn) abandon(id uint64, err error) {
	c.mu.Lock()
	p := c.window.find(id)
	if p == nil || p.dead {
		c.mu.Unlock()
		return
	}
	e := c.giveUp(p, err)
	c.callNext()
	c.mu.Unlock()
	e.done(e.o)
}

// ended is an operation that is over, and whom to tell without holding mu.
type ended struct {
	done func(Outcome)
	o    Outcome
}

// giveUp ends an operation without an answer: its deadline passed, or its
// caller left. mu is held.
func (c *Conn) giveUp(p *pending, err error) ended {
	e := ended{p.done, c.unanswered(p, err)}
	if !p.sent {
		c.outbox.cancelled++
	}
	c.window.bury(p)
	return e
}

// unanswered is the outcome of an operation that ends without an answer.
func (c *Conn) unanswered(p *pending, err error) Outcome {
	o := Outcome{Status: unanswered(p.kind, p.sent), Err: err, Node: c.addr, Returned: c.base.Add(c.now())}
	if p.sent {
		o.Sent = c.base.Add(p.sentAt)
	}
	return o
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
	var over []ended
	c.mu.Lock()
	now := c.now()
	c.armed = 0
	p := c.window.first()
	for ; p != nil && p.deadline <= now; p = c.window.first() {
		if p.sent {
			c.unheard(p.sentAt)
		}
		over = append(over, c.giveUp(p, ErrTimeout))
	}
	if p != nil {
		c.arm(p.deadline)
	}
	c.callNext()
	c.mu.Unlock()
	for _, e := range over {
		e.done(e.o)
	}
}

// unheard notes that what was sent at some time got no answer, and gives the
// stream up when nothing has arrived since then for too long. mu is held.
func (c *Conn) unheard(sentAt time.Duration) {
	if c.mute == 0 && sentAt >= c.heard {
		c.mute = max(sentAt, 1)
	}
	if c.mute > 0 && c.now()-c.mute >= c.cfg.Silence {
		c.giveUpStream(fmt.Errorf("nothing heard for %s", c.cfg.Silence))
	}
}

// unstick gives the stream up when the window is full and a Get whose answer is
// matched by order has held up its place for too long: its node answers others,
// but not this one. mu is held.
func (c *Conn) unstick() {
	if p := c.window.oldest(); p != nil && p.dead && c.now()-p.deadline >= c.cfg.Silence {
		c.giveUpStream(fmt.Errorf("a Get was not answered %s after its deadline", c.cfg.Silence))
	}
}

// giveUpStream ends the current stream. mu is held.
func (c *Conn) giveUpStream(why error) {
	if c.hangUp != nil && c.gaveUp == nil {
		c.gaveUp = why
		c.hangUp()
	}
}

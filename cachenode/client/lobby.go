package client

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"time"
)

// waiter is a caller that waits: first for its turn, if need be, and then for
// the outcome of its operation.
type waiter struct {
	outcome chan Outcome
	done    func(Outcome) // delivers to outcome
	turn    chan struct{} // capacity 1; filled by lobby.call
	place   *list.Element // in the lobby; nil: not there
	called  bool          // its turn has come before, so nobody there is earlier
	patient bool          // waits also while the Conn is down
	waits   bool          // it has to await its turn; for its own goroutine
}

// lobby is where callers wait until one more operation can be started, in order
// of arrival. One of them is called when there is room, and calls the next when
// it has started and there is still some: so nobody is woken for nothing, nobody
// is overtaken, and nobody is forgotten. Conn.mu guards it.
type lobby struct {
	waiting list.List // of *waiter
	calling *waiter   // was called because there is room, and has not tried yet
}

// enter lets w wait; who was called before waits in front.
func (l *lobby) enter(w *waiter) {
	if w.called {
		w.place = l.waiting.PushFront(w)
		return
	}
	w.place = l.waiting.PushBack(w)
}

// call takes a waiter out and tells it to try.
func (l *lobby) call(place *list.Element) *waiter {
	w := l.waiting.Remove(place).(*waiter)
	w.place, w.called = nil, true
	w.turn <- struct{}{}
	return w
}

// busy tells whether somebody would be overtaken by w.
func (l *lobby) busy(w *waiter) bool { return !w.called && (l.waiting.Len() > 0 || l.calling != nil) }

// tries notes that w makes use of its turn, or gives it up.
func (l *lobby) tries(w *waiter) {
	if l.calling == w {
		l.calling = nil
	}
}

// newWaiter returns a waiter that nobody waits with. Channels are used again,
// but not across Conns: they may belong to different synctest bubbles.
func (c *Conn) newWaiter(patient bool) *waiter {
	w, ok := c.spareWaiters.Get().(*waiter)
	if !ok {
		w = &waiter{outcome: make(chan Outcome, 1), turn: make(chan struct{}, 1)}
		w.done = func(o Outcome) {
			o.Value = append([]byte(nil), o.Value...)
			w.outcome <- o
		}
	}
	w.called, w.waits, w.patient = false, false, patient
	return w
}

// pass lets the next in the lobby have the turn that w may not have used.
func (c *Conn) pass(w *waiter) {
	if !w.called {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lobby.tries(w)
	c.callNext()
}

// admit tells why an operation cannot be started now, or nil. A caller that
// waits for that to change has a place in the lobby then. mu is held.
func (c *Conn) admit(w *waiter) error {
	if w != nil {
		c.lobby.tries(w)
	}
	var err error
	switch {
	case c.down != nil:
		err = c.down
	case !c.room(), w != nil && c.lobby.busy(w):
		err = ErrFull
	default:
		return nil
	}
	if w != nil {
		if w.waits = c.worthwhile(w, err); w.waits {
			c.lobby.enter(w)
		}
	}
	return err
}

// worthwhile tells whether waiting may help against err. mu is held.
func (c *Conn) worthwhile(w *waiter, err error) bool {
	return errors.Is(err, ErrFull) || w.patient && !c.closed && !c.refused
}

// callNext calls the first caller in the lobby if it can start. mu is held.
func (c *Conn) callNext() {
	if first := c.lobby.waiting.Front(); first != nil && c.lobby.calling == nil && c.down == nil && c.room() {
		c.lobby.calling = c.lobby.call(first)
	}
}

// callOff calls those for whom it is of no use to wait any more. mu is held.
func (c *Conn) callOff() {
	for place := c.lobby.waiting.Front(); place != nil; {
		next := place.Next()
		if !c.worthwhile(place.Value.(*waiter), c.down) {
			c.lobby.call(place)
		}
		place = next
	}
}

// await waits in the lobby for w's turn, until end if that is not zero.
func (c *Conn) await(ctx context.Context, w *waiter, end time.Time) error {
	var over <-chan time.Time
	if !end.IsZero() {
		timer := time.NewTimer(time.Until(end))
		defer timer.Stop()
		over = timer.C
	}
	var err error
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
		err = endOf(ctx)
	case <-over:
		err = ErrTimeout
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.place == nil {
		<-w.turn // it came just now
		return err
	}
	c.lobby.waiting.Remove(w.place)
	w.place = nil
	return err
}

// patience says how long a caller waits for an operation.
type patience struct {
	end  time.Time
	tell bool // the node, too
	down bool // also while there is no connection
}

// patienceFor is that of a caller with ctx.
func patienceFor(ctx context.Context, op *Op, timeout time.Duration) patience {
	p := patience{tell: op.Deadline > 0}
	if p.tell {
		timeout = op.Deadline
	}
	p.end = time.Now().Add(timeout)
	if end, ok := ctx.Deadline(); ok && end.Before(p.end) {
		p.end, p.tell = end, true
	}
	return p
}

// perform starts op as soon as that is possible, and waits for its outcome.
func (c *Conn) perform(ctx context.Context, op *Op, p patience) Outcome {
	w := c.newWaiter(p.down)
	defer c.spareWaiters.Put(w)
	id, err := c.begin(ctx, op, p, w, w.done)
	if err != nil {
		return refusal(c.addr, err)
	}
	return c.outcome(ctx, w, id)
}

// begin starts op as soon as that is possible. w may be used for more than one,
// one after the other.
func (c *Conn) begin(ctx context.Context, op *Op, p patience, w *waiter, done func(Outcome)) (id uint64, err error) {
	w.called, w.waits = false, false
	defer func() {
		if err != nil {
			c.pass(w)
		}
	}()
	for {
		if err := endOf(ctx); err != nil {
			return 0, err
		}
		left, told := time.Until(p.end), time.Duration(0)
		if left <= 0 {
			return 0, ErrTimeout
		}
		if p.tell {
			told = left
		}
		id, err := c.start(op, left, told, done, w)
		if err == nil || !w.waits {
			return id, err
		}
		if why := c.await(ctx, w, p.end); why != nil {
			if down := c.Up(); down != nil {
				err = down // newer than what it was before the wait
			}
			return 0, fmt.Errorf("%w: %w", why, err)
		}
	}
}

// outcome waits for the outcome of an operation that was started. When ctx ends
// first, the operation does.
func (c *Conn) outcome(ctx context.Context, w *waiter, id uint64) Outcome {
	select {
	case o := <-w.outcome:
		return o
	case <-ctx.Done():
		c.abandon(id, endOf(ctx))
		return <-w.outcome // from abandon, or from an answer that was faster
	}
}

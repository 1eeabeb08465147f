package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hacache/hacache/proto/cachepb"
)

// Get reads a key. found tells an empty value from a miss. The value is the
// caller's own.
func (c *Client) Get(ctx context.Context, cache, key string) (value []byte, found bool, err error) {
	o := c.Do(ctx, &Op{Kind: KindGet, Cache: cache, Key: key})
	return o.Value, o.Found, o.Err
}

// The methods below return an error that is [ErrUnknown] if the write may have
// taken effect, or still may; any other says that it has not and never will.

// Put writes a key; nil means that a node took it, before it was replicated.
func (c *Client) Put(ctx context.Context, cache, key string, value []byte) error {
	return c.Do(ctx, &Op{Kind: KindPut, Cache: cache, Key: key, Value: value}).Failure()
}

// Insert writes a key and waits for the level.
func (c *Client) Insert(ctx context.Context, cache, key string, value []byte, level Level) error {
	return c.Do(ctx, &Op{Kind: KindInsert, Cache: cache, Key: key, Value: value, Level: level}).Failure()
}

// Del removes a key; nil means that a node took it, before it was replicated.
func (c *Client) Del(ctx context.Context, cache, key string) error {
	return c.Do(ctx, &Op{Kind: KindDel, Cache: cache, Key: key}).Failure()
}

// Remove removes a key and waits for the level.
func (c *Client) Remove(ctx context.Context, cache, key string, level Level) error {
	return c.Do(ctx, &Op{Kind: KindRemove, Cache: cache, Key: key, Level: level}).Failure()
}

// Do performs op, with further attempts as described at [Client]. The
// operation's deadline, or [Config.Timeout], or the end of ctx, whichever is
// first, bounds them all together.
func (c *Client) Do(ctx context.Context, op *Op) Outcome {
	t := trial{op: op, end: patienceFor(ctx, op, c.cfg.Timeout).end}
	for pause := retryMin; ; pause = min(pause*3/2, retryMax) {
		conn, err := c.pick(ctx, t.end)
		if err != nil {
			return t.verdict(refusal("", err))
		}
		o := conn.perform(ctx, op, t.patience())
		c.learn(conn, &o)
		if t.over(&o) || !c.pause(ctx, pause, t.end) {
			return t.verdict(o)
		}
	}
}

// DoAll performs many operations together and returns their outcomes in the order
// of ops. They go out over one stream without waiting for each other, so that a
// thousand take about as long as one; with [Config.Batch] they also share
// messages. Each has its own deadline, outcome and further attempts, as with
// Do: nothing is done as a whole, and of two that write one key either may come
// last.
func (c *Client) DoAll(ctx context.Context, ops []Op) []Outcome {
	b := newBulk(ctx, ops, c.cfg.Timeout)
	for pause := retryMin; ; pause = min(pause*3/2, retryMax) {
		conn, err := c.pick(ctx, b.end)
		if err != nil {
			b.refuse(err)
			return b.outcomes
		}
		b.perform(ctx, conn)
		for _, i := range b.todo {
			c.learn(conn, &b.outcomes[i])
		}
		if b.settle(); len(b.todo) == 0 {
			return b.outcomes
		}
		if !c.pause(ctx, pause, b.end) {
			b.refuse(nil)
			return b.outcomes
		}
	}
}

// pause waits before the next attempt. It reports false if the time is over.
func (c *Client) pause(ctx context.Context, d time.Duration, end time.Time) bool {
	d -= rand.N(d / 2)
	if time.Until(end) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	c.mu.Lock()
	c.stats.Retries++
	c.mu.Unlock()
	return true
}

// trial is what the attempts at one operation amount to.
type trial struct {
	op    *Op
	end   time.Time
	doubt bool // an earlier attempt may have taken effect, or still may
}

// repeatable tells whether further attempts are harmless even after one whose
// outcome is not known.
func (t *trial) repeatable() bool { return !t.op.Kind.Write() || t.op.Session != 0 }

// patience is that of the next attempt. What another node may be asked just as
// well does not wait for a silent one all the time that there is.
func (t *trial) patience() patience {
	p := patience{end: t.end, tell: true}
	if left := time.Until(t.end); t.repeatable() && left > attemptMin {
		p.end = time.Now().Add(max(left/attemptShare, attemptMin))
	}
	return p
}

// over takes the outcome of an attempt and reports whether it is the last.
func (t *trial) over(o *Outcome) bool {
	switch {
	case o.Status == StatusOK:
		return true
	case o.Status == StatusInfo && !t.repeatable():
		return true
	case o.Status == StatusInfo:
		t.doubt = true
		return errors.Is(o.Err, ErrClosed)
	}
	return !retriable(o)
}

// verdict is the outcome of the operation whose last attempt ended with o. A
// refusal speaks of the attempt that it answers: it does not take an earlier one
// back.
func (t *trial) verdict(o Outcome) Outcome {
	if t.doubt && o.Status == StatusFail {
		o.Status = StatusInfo
		o.Err = fmt.Errorf("%w, and an earlier attempt may have taken effect", o.Err)
	}
	return o
}

// retriable tells whether an attempt that failed definitely may go well a moment
// later or at another node.
func retriable(o *Outcome) bool {
	if _, refused := errors.AsType[*AuthError](o.Err); refused || errors.Is(o.Err, ErrClosed) {
		return false
	}
	if e, ok := errors.AsType[*OpError](o.Err); ok {
		switch e.Code {
		case cachepb.Code_NO_LEADER, cachepb.Code_NO_QUORUM, cachepb.Code_NOT_LEADER,
			cachepb.Code_OVERLOADED, cachepb.Code_SHUTTING_DOWN, cachepb.Code_NOT_FRESH:
			return true
		}
		return false
	}
	return true // down, broken, or timed out
}

// avoid tells whether an attempt shows that another node should be asked next:
// this one does not lead, or cannot.
func avoid(o *Outcome) bool {
	if o.Status == StatusOK || errors.Is(o.Err, context.Canceled) {
		return false
	}
	if e, ok := errors.AsType[*OpError](o.Err); ok {
		switch e.Code {
		case cachepb.Code_NO_LEADER, cachepb.Code_NO_QUORUM, cachepb.Code_NOT_LEADER,
			cachepb.Code_SHUTTING_DOWN, cachepb.Code_NOT_FRESH, cachepb.Code_INDETERMINATE:
			return true
		}
		return false
	}
	return true
}

// bulk is what DoAll is about.
type bulk struct {
	trials   []trial
	outcomes []Outcome
	todo     []int // those that are not over
	end      time.Time
}

func newBulk(ctx context.Context, ops []Op, timeout time.Duration) *bulk {
	b := &bulk{trials: make([]trial, len(ops)), outcomes: make([]Outcome, len(ops)), todo: make([]int, len(ops))}
	for i := range ops {
		end := patienceFor(ctx, &ops[i], timeout).end
		b.trials[i], b.todo[i] = trial{op: &ops[i], end: end}, i
		if end.After(b.end) {
			b.end = end
		}
	}
	return b
}

// perform makes an attempt at everything that is to do, and waits for all of it.
func (b *bulk) perform(ctx context.Context, conn *Conn) {
	var open sync.WaitGroup
	w := conn.newWaiter(false)
	defer conn.spareWaiters.Put(w)
	ids := make([]uint64, 0, len(b.todo))
	for _, i := range b.todo {
		o, t := &b.outcomes[i], &b.trials[i]
		open.Add(1)
		id, err := conn.begin(ctx, t.op, t.patience(), w, func(got Outcome) {
			*o = got
			o.Value = slices.Clone(got.Value)
			open.Done()
		})
		if err != nil {
			*o = refusal(conn.addr, err)
			open.Done()
			continue
		}
		ids = append(ids, id)
	}
	left := make(chan struct{})
	leave := context.AfterFunc(ctx, func() {
		defer close(left)
		for _, id := range ids {
			conn.abandon(id, endOf(ctx))
		}
	})
	open.Wait()
	if !leave() {
		<-left
	}
}

// settle takes what is over from the list.
func (b *bulk) settle() {
	b.todo = slices.DeleteFunc(b.todo, func(i int) bool {
		t, o := &b.trials[i], &b.outcomes[i]
		over := t.over(o) || !time.Now().Before(t.end)
		if over {
			*o = t.verdict(*o)
		}
		return over
	})
}

// refuse ends what is left: with err, or with what was said about it last.
func (b *bulk) refuse(err error) {
	for _, i := range b.todo {
		if err != nil {
			b.outcomes[i] = refusal("", err)
		}
		b.outcomes[i] = b.trials[i].verdict(b.outcomes[i])
	}
}

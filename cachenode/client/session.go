package client

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hacache/hacache/proto/cachepb"
)

const (
	// sessionWindow bounds the operations of a Session in flight; a node keeps
	// track of four times as many.
	sessionWindow = 1024
	// sessionIdle is after which time without a success a Session begins anew.
	// Nodes forget one that has been idle for a minute.
	sessionIdle = 30 * time.Second
	// sessionLimit bounds the time of one operation with all its attempts: a
	// node must not meet one that it has forgotten. With sessionIdle it stays
	// below that minute.
	sessionLimit = 25 * time.Second
)

// Session makes writes take effect exactly once, whatever breaks meanwhile: what
// a Client has to leave unknown, because the answer did not come, a Session
// sends again, also through another node, and the cluster knows it by its number.
// An outcome that is still unknown when the time is over has taken effect once or
// not at all.
//
// It is for Insert and Remove, which are acknowledged when they have happened; a
// Put that was acknowledged before is not known to anybody when it is lost.
//
// It is safe for concurrent use; one for a whole program is enough. It needs no
// closing: the cluster forgets it after a minute.
type Session struct {
	client *Client
	room   chan struct{} // filled by operations in flight

	mu      sync.Mutex
	tags    *tags
	changed chan struct{} // closed and replaced when an opening operation has ended
}

// tags are the numbers of one session of the contract. A Session uses one after
// the other.
type tags struct {
	id       uint64
	next     uint64              // to be given to an operation
	first    uint64              // the lowest that is in use or was not given yet
	finished map[uint64]struct{} // above first
	opened   bool                // the cluster knows it: an operation has taken effect
	used     time.Time           // when the last one that has taken effect was begun
}

// NewSession returns a Session of its own.
func (c *Client) NewSession() *Session {
	return &Session{client: c, room: make(chan struct{}, sessionWindow), changed: make(chan struct{})}
}

// Insert writes a key exactly once and waits for the level.
func (s *Session) Insert(ctx context.Context, cache, key string, value []byte, level Level) error {
	return s.Do(ctx, &Op{Kind: KindInsert, Cache: cache, Key: key, Value: value, Level: level}).Failure()
}

// Remove removes a key exactly once and waits for the level.
func (s *Session) Remove(ctx context.Context, cache, key string, level Level) error {
	return s.Do(ctx, &Op{Kind: KindRemove, Cache: cache, Key: key, Level: level}).Failure()
}

// Do performs an Insert or Remove exactly once. Its Session, Seq and FirstUnacked
// are not used: the Session numbers it. The operation's deadline,
// [Config.Timeout], the end of ctx, or 25 seconds, whichever is first, bounds all
// attempts.
func (s *Session) Do(ctx context.Context, op *Op) Outcome {
	if !op.Kind.Leveled() {
		return refusal("", op.refuse(cachepb.Code_INVALID, "a session is for insert and remove"))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, min(time.Until(patienceFor(ctx, op, s.client.cfg.Timeout).end), sessionLimit), ErrTimeout)
	defer cancel()
	select {
	case s.room <- struct{}{}:
	case <-ctx.Done():
		return refusal("", context.Cause(ctx))
	}
	defer func() { <-s.room }()
	for {
		tagged := *op
		begun := time.Now()
		t, err := s.tag(ctx, &tagged)
		if err != nil {
			return refusal("", err)
		}
		o := s.client.Do(ctx, &tagged)
		s.finish(t, tagged.Seq, &o, begun)
		if o.Status != StatusFail || o.Code != cachepb.Code_SESSION_EXPIRED {
			return o
		}
		// It had no effect under this session, nor will have: another one may.
	}
}

// tag gives op the next number. The first of a session of the contract opens it:
// a cluster that does not know a session refuses any other, so that they wait.
func (s *Session) tag(ctx context.Context, op *Op) (*tags, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		t := s.tags
		if t == nil || t.opened && time.Since(t.used) > sessionIdle {
			t = &tags{id: rand.Uint64() | 1, next: 1, first: 1, finished: map[uint64]struct{}{}}
			s.tags = t
		}
		if t.opened || t.next == 1 {
			op.Session, op.Seq, op.FirstUnacked = t.id, t.next, t.first
			t.next++
			return t, nil
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// finish notes that an operation will not be sent again.
func (s *Session) finish(t *tags, seq uint64, o *Outcome, begun time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.finished[seq] = struct{}{}
	for ; len(t.finished) > 0; t.first++ {
		if _, ok := t.finished[t.first]; !ok {
			break
		}
		delete(t.finished, t.first)
	}
	opening := !t.opened
	if o.Status == StatusOK {
		t.opened = true
		if begun.After(t.used) {
			t.used = begun
		}
	}
	if (opening && !t.opened || o.Code == cachepb.Code_SESSION_EXPIRED) && s.tags == t {
		s.tags = nil // the cluster does not know it, or may not
	}
	if opening {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

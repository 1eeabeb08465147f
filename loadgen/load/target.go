package load

import (
	"sync/atomic"
	"time"

	"github.com/hacache/hacache/cachenode/client"
)

// Target is what the load is offered to. Anything that can start an operation
// and call back when it is answered can be one.
type Target interface {
	// Streams is the number of streams, at least 1. It does not change.
	Streams() int
	// Start hands op to a stream and returns without waiting for an answer.
	// Unless it returns an error, done is called once, later or from within;
	// it does not block. [client.ErrFull] asks to try again later; any other
	// error is a definite failure of this operation. op is not kept.
	Start(stream int, op *client.Op, done func(client.Outcome)) error
	// Close ends what is in flight and releases everything.
	Close() error
}

// Router is a Target that chooses where an operation goes, and learns from the
// answers whether it chose well.
type Router interface {
	Target
	// Answered is told of each answer before it is recorded: from which node it
	// came, and whom that named as the leader at which term, if it did. It
	// reports whether the operation had been sent to the wrong node. It is called
	// on the hot path, by several goroutines at once.
	Answered(node, leader string, term uint64) (misrouted bool)
}

// Null answers every operation at once. What it shows is the most that the
// generator could ever offer.
type Null struct {
	// Width is the number of streams; 0 is 1.
	Width int
}

func (n Null) Streams() int { return max(n.Width, 1) }
func (n Null) Close() error { return nil }

func (n Null) Start(_ int, _ *client.Op, done func(client.Outcome)) error {
	done(client.Outcome{})
	return nil
}

// Scripted is a target with a service time that a test decides.
type Scripted struct {
	// Width is the number of streams; 0 is 1.
	Width int
	// Serve says what becomes of the n-th operation, counted from 0: how long
	// it takes and how it ends. A negative duration is never answered.
	Serve func(n uint64, op *client.Op) (time.Duration, client.Outcome)

	n atomic.Uint64
}

func (s *Scripted) Streams() int { return max(s.Width, 1) }
func (s *Scripted) Close() error { return nil }

func (s *Scripted) Start(_ int, op *client.Op, done func(client.Outcome)) error {
	d, o := s.Serve(s.n.Add(1)-1, op)
	switch {
	case o.Err == client.ErrFull:
		return o.Err
	case d == 0:
		done(o)
	case d > 0:
		time.AfterFunc(d, func() { done(o) })
	}
	return nil
}

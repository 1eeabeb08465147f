package node

import "sync"

// inquiry asks the loop for something on behalf of everybody who wants it at the same time. Streams ask for the leader
// when they begin, and for health whenever they like: asked for each, a storm of reconnecting clients, or one that does
// nothing but ask, would take the loop's time from heartbeats. This way there is one question at a time.
//
// What ask returns is shared, so nobody may change it. An inquiry is safe for concurrent use.
type inquiry[T any] struct {
	ask  func() T
	turn chan struct{} // capacity 1: full while ask runs

	mu   sync.Mutex
	next *reply[T] // of the question that was not asked yet; nil: nobody waits for one
}

func newInquiry[T any](ask func() T) *inquiry[T] {
	return &inquiry[T]{ask: ask, turn: make(chan struct{}, 1)}
}

type reply[T any] struct {
	done  chan struct{} // closed when value is there
	value T
}

// get returns what ask returned in a call that began after that of get.
func (q *inquiry[T]) get() T {
	q.mu.Lock()
	r, first := q.next, q.next == nil
	if first {
		r = &reply[T]{done: make(chan struct{})}
		q.next = r
	}
	q.mu.Unlock()
	if !first {
		<-r.done
		return r.value
	}
	q.turn <- struct{}{}
	defer func() { <-q.turn }()
	q.mu.Lock()
	q.next = nil // whoever comes from now on has to ask anew
	q.mu.Unlock()
	defer close(r.done) // also if ask panics
	r.value = q.ask()
	return r.value
}

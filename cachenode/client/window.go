package client

import (
	"math/bits"
	"time"
)

// none ends the lists that run through window.slots.
const none = -1

// pending is an operation between Start and its outcome. It lives in a slot of
// the window; the slot is free iff id is 0.
type pending struct {
	id       uint64
	done     func(Outcome)
	kind     Kind
	sent     bool
	dead     bool          // a Get that ended without an answer and keeps its place in the order
	sentAt   time.Duration // since Conn.base
	deadline time.Duration // since Conn.base

	links      [lists]link
	cache, key string // of a Get whose answer is matched by them
}

// The lists that run through the slots.
const (
	byDeadline = iota // all live operations, the earliest deadline first
	byOrder           // Gets as they were started, while their answers are matched by order
	lists
)

type link struct{ prev, next int32 }

// window is the table of the operations in flight. It names them, finds the one
// that an answer belongs to, and knows whose deadline is next. The lists run
// through the slots, so that an operation allocates nothing. Conn.mu guards it.
//
// An id is a sequence number and the slot, so it is found without a map, and the
// answer to an operation that has ended is told from one to the slot's next.
type window struct {
	slots []pending
	bits  int // of an id that are the slot
	free  []int32
	seq   uint64
	ends  [lists]link // head is next, tail is prev
	ids   bool        // this stream's node echoes the id of a Get: no order to keep
}

func newWindow(n int) window {
	w := window{slots: make([]pending, n), bits: bits.Len(uint(n - 1)), free: make([]int32, n)}
	for i := range w.free {
		w.free[i] = int32(n - 1 - i)
	}
	for which := range w.ends {
		w.ends[which] = link{none, none}
	}
	return w
}

func (w *window) full() bool { return len(w.free) == 0 }

// add takes a free slot for op, which the caller has made sure there is.
func (w *window) add(op *Op, deadline time.Duration, done func(Outcome)) *pending {
	slot := w.free[len(w.free)-1]
	w.free = w.free[:len(w.free)-1]
	w.seq++
	p := &w.slots[slot]
	*p = pending{id: w.seq<<w.bits | uint64(slot), done: done, kind: op.Kind, deadline: deadline}
	w.insert(byDeadline, p, w.lastBefore(deadline))
	if op.Kind == KindGet && !w.ids {
		p.cache, p.key = op.Cache, op.Key
		w.insert(byOrder, p, w.ends[byOrder].prev)
	}
	return p
}

// find returns the operation of an id, or nil when it has ended.
func (w *window) find(id uint64) *pending {
	slot := id & (1<<w.bits - 1)
	if id == 0 || slot >= uint64(len(w.slots)) || w.slots[slot].id != id {
		return nil
	}
	return &w.slots[slot]
}

// first returns the operation with the earliest deadline, or nil.
func (w *window) first() *pending { return w.at(w.ends[byDeadline].next) }

// oldest returns the Get that was started first of those that are matched by
// order, or nil.
func (w *window) oldest() *pending { return w.at(w.ends[byOrder].next) }

// remove frees the slot of an operation that has ended.
func (w *window) remove(p *pending) {
	slot := w.slot(p)
	if !p.dead {
		w.unlink(byDeadline, p)
	}
	if p.kind == KindGet && !w.ids {
		w.unlink(byOrder, p)
	}
	*p = pending{}
	w.free = append(w.free, slot)
}

// bury ends an operation that gets no answer in time. A Get keeps its slot if
// its answer, should it come, could be taken for that of a later Get.
func (w *window) bury(p *pending) {
	if p.kind != KindGet || !p.sent || w.ids {
		w.remove(p)
		return
	}
	w.unlink(byDeadline, p)
	p.dead, p.done = true, nil
}

// match returns the operation that an ack answers, or nil. late tells that it
// has ended already.
func (w *window) match(v *ackView) (p *pending, late bool) {
	if v.hasID && v.kind == ackGet && !w.ids {
		w.learnIDs()
	}
	switch {
	case v.hasID:
		p = w.find(v.id)
		if p == nil {
			return nil, v.id>>w.bits <= w.seq
		}
		if !p.sent || (p.kind == KindGet) != (v.kind == ackGet) && v.kind != ackError {
			return nil, false
		}
	case v.kind == ackGet || v.kind == ackError && v.key != nil:
		if p = w.oldestGet(v.cache, v.key); p == nil {
			return nil, false
		}
	default:
		return nil, false
	}
	if p.dead {
		w.remove(p)
		return nil, true
	}
	return p, false
}

// oldestGet returns the Get that a node of the original protocol answers next
// for a key: it keeps the order, per key at least.
func (w *window) oldestGet(cache, key []byte) *pending {
	for p := w.oldest(); p != nil; p = w.at(p.links[byOrder].next) {
		if p.sent && p.key == string(key) && p.cache == string(cache) {
			return p
		}
	}
	return nil
}

// learnIDs notes that this node answers Gets with their id, so that their order
// need not be kept on this stream.
func (w *window) learnIDs() {
	for p := w.oldest(); p != nil; {
		next := w.at(p.links[byOrder].next)
		if p.dead {
			w.remove(p)
		} else {
			p.cache, p.key = "", ""
		}
		p = next
	}
	w.ends[byOrder] = link{none, none}
	w.ids = true
}

// restart prepares an empty window for a new stream.
func (w *window) restart() { w.ids = false }

// each calls f for every operation, dead ones included; f may remove it.
func (w *window) each(f func(*pending)) {
	for i := range w.slots {
		if p := &w.slots[i]; p.id != 0 {
			f(p)
		}
	}
}

// lastBefore returns the slot behind which an operation with that deadline is
// to be listed. Deadlines mostly are one duration, so that it is mostly the
// tail; the walk is bounded by the window in any case.
func (w *window) lastBefore(deadline time.Duration) int32 {
	after := w.ends[byDeadline].prev
	for after != none && w.slots[after].deadline > deadline {
		after = w.slots[after].links[byDeadline].prev
	}
	return after
}

func (w *window) slot(p *pending) int32 { return int32(p.id & (1<<w.bits - 1)) }

func (w *window) at(slot int32) *pending {
	if slot == none {
		return nil
	}
	return &w.slots[slot]
}

// ref returns the link of a slot in a list; that of none are the list's ends.
func (w *window) ref(which int, slot int32) *link {
	if slot == none {
		return &w.ends[which]
	}
	return &w.slots[slot].links[which]
}

// insert puts p behind a slot; behind none is in front of all.
func (w *window) insert(which int, p *pending, after int32) {
	slot := w.slot(p)
	next := w.ref(which, after).next
	p.links[which] = link{prev: after, next: next}
	w.ref(which, after).next = slot
	w.ref(which, next).prev = slot
}

func (w *window) unlink(which int, p *pending) {
	l := p.links[which]
	w.ref(which, l.prev).next = l.next
	w.ref(which, l.next).prev = l.prev
}

package store

import (
	"sync/atomic"

	"github.com/hacache/hacache/proto/cachepb"
)

const (
	// MaxSessions is the number of sessions kept; one more ends the one that was idle longest.
	MaxSessions = 1 << 16
	// MaxOpenOps bounds the numbers of a session: below first_unacked + MaxOpenOps.
	MaxOpenOps = 1 << 12
	// SessionIdleMs is after how much cluster time without an operation a session ends.
	SessionIdleMs = 60_000

	// maxSlots bounds the memory of all sessions together, at 8 bytes a slot. Beyond it the idle ones end.
	maxSlots = 1 << 22
	minSlots = 8
)

// sessions are the open sessions, by id and in the order of their last operation. As that order is also the order of
// lastMs, expiry looks at one end only. All of it is a function of the log, the size of each ring included.
type sessions struct {
	byID         map[uint64]*session
	oldest, last *session
	slots        int
	count        atomic.Int64 // len(byID), for other goroutines
	hash         uint64       // guarded by state.mu
	limits       limits

	// forgotten is the latest beginning of a session that was ended for room: whoever began by then may be one of those.
	forgotten int64
}

// session remembers the operations from first on that were completed.
type session struct {
	id         uint64
	first      uint64 // first_unacked: what is below was acknowledged and is forgotten
	lastMs     int64
	opened     int64 // cluster time at which it began; 0: it did not say
	prev, next *session

	// ring has at seq modulo its length the index at which seq was completed, 0 if it was not, for
	// first <= seq < first+len(ring). The length is a power of two.
	ring []uint64
}

func (t *sessions) init(lim limits) { t.byID, t.limits = make(map[uint64]*session), lim }

// admit decides what an operation of a session is: fresh, to be performed and then completed in sess; or, if not
// fresh, answered by r.
func (t *sessions) admit(tag *cachepb.OpTag, clusterMs int64) (sess *session, r Result, fresh bool) {
	id, seq := tag.GetSession(), tag.GetSeq()
	if sess = t.last; sess == nil || sess.id != id { // most operations of an entry are of one session
		sess = t.byID[id]
	}
	if sess == nil {
		opened := int64(min(tag.GetOpenedMs(), uint64(clusterMs))) // its clock may be a little ahead
		if seq != 1 || t.existed(opened, clusterMs) {
			return nil, Result{Code: cachepb.Code_SESSION_EXPIRED}, false
		}
		if len(t.byID) >= t.limits.sessions {
			t.expel()
		}
		sess = &session{id: id, first: 1, lastMs: clusterMs, opened: opened, ring: make([]uint64, minSlots)}
		t.start(sess)
		t.bound(sess)
	} else {
		t.touch(sess, clusterMs)
	}
	t.acknowledge(sess, min(tag.GetFirstUnacked(), seq))
	switch {
	case seq < sess.first:
		return nil, Result{Code: cachepb.Code_INDETERMINATE, Duplicate: true}, false
	case seq-sess.first >= MaxOpenOps:
		return nil, Result{Code: cachepb.Code_OVERLOADED}, false
	case seq-sess.first >= uint64(len(sess.ring)):
		t.grow(sess, seq)
	}
	if index := *sess.slot(seq); index != 0 {
		return nil, Result{Code: cachepb.Code_OK, Index: index, Duplicate: true}, false
	}
	return sess, Result{}, true
}

// existed reports whether a session that is not in the table but began at opened may have been there.
func (t *sessions) existed(opened, clusterMs int64) bool {
	return opened != 0 && (opened <= t.forgotten || clusterMs-opened >= SessionIdleMs)
}

// expel ends the session that was idle longest, for room.
func (t *sessions) expel() {
	if t.oldest.opened > t.forgotten {
		t.hash -= mix(uint64(t.forgotten))
		t.forgotten = t.oldest.opened
		t.hash += mix(uint64(t.forgotten))
	}
	t.end(t.oldest)
}

// complete notes that an admitted operation has taken effect.
func (t *sessions) complete(sess *session, seq, index uint64) {
	*sess.slot(seq) = index
	t.hash += sess.opHash(seq, index)
}

func (s *session) slot(seq uint64) *uint64 { return &s.ring[seq&uint64(len(s.ring)-1)] }

// acknowledge forgets what is below first.
func (t *sessions) acknowledge(sess *session, first uint64) {
	if first <= sess.first {
		return
	}
	t.hash -= sess.hash()
	for seq := sess.first; seq < first && seq-sess.first < uint64(len(sess.ring)); seq++ {
		if slot := sess.slot(seq); *slot != 0 {
			t.hash -= sess.opHash(seq, *slot)
			*slot = 0
		}
	}
	sess.first = first
	t.hash += sess.hash()
}

// grow makes the ring large enough for seq, which is below first+MaxOpenOps.
func (t *sessions) grow(sess *session, seq uint64) {
	n := len(sess.ring)
	for uint64(n) <= seq-sess.first {
		n *= 2
	}
	t.hash -= sess.hash()
	old := sess.ring
	sess.ring = make([]uint64, n)
	for seq := sess.first; seq-sess.first < uint64(len(old)); seq++ {
		*sess.slot(seq) = old[seq&uint64(len(old)-1)]
	}
	t.hash += sess.hash()
	t.slots += n - len(old)
	t.bound(sess)
}

// bound ends sessions other than sess until the rest fits.
func (t *sessions) bound(sess *session) {
	for t.slots > t.limits.slots && t.oldest != sess {
		t.expel()
	}
}

func (t *sessions) expire(clusterMs int64) {
	for t.oldest != nil && clusterMs-t.oldest.lastMs >= SessionIdleMs {
		t.end(t.oldest)
	}
}

func (t *sessions) touch(sess *session, clusterMs int64) {
	if sess.lastMs != clusterMs {
		t.hash -= sess.hash()
		sess.lastMs = clusterMs
		t.hash += sess.hash()
	}
	if t.last != sess {
		t.unlink(sess)
		t.link(sess)
	}
}

// start adds a session, with what its ring holds.
func (t *sessions) start(sess *session) {
	t.byID[sess.id] = sess
	t.link(sess)
	t.slots += len(sess.ring)
	t.hash += sess.hash() + sess.opsHash()
	t.count.Store(int64(len(t.byID)))
}

func (t *sessions) end(sess *session) {
	delete(t.byID, sess.id)
	t.unlink(sess)
	t.slots -= len(sess.ring)
	t.hash -= sess.hash() + sess.opsHash()
	t.count.Store(int64(len(t.byID)))
}

func (t *sessions) link(sess *session) {
	sess.prev, sess.next = t.last, nil
	if t.last == nil {
		t.oldest = sess
	} else {
		t.last.next = sess
	}
	t.last = sess
}

func (t *sessions) unlink(sess *session) {
	if sess.prev == nil {
		t.oldest = sess.next
	} else {
		sess.prev.next = sess.next
	}
	if sess.next == nil {
		t.last = sess.prev
	} else {
		sess.next.prev = sess.prev
	}
}

// hash is the session's own summand of the state hash, opHash that of one completed operation.
func (s *session) hash() uint64 {
	h := mix(s.id + 0x9e3779b97f4a7c15)
	h = mix(h + s.first)
	h = mix(h + uint64(s.lastMs))
	h = mix(h + uint64(s.opened))
	return mix(h + uint64(len(s.ring)))
}

func (s *session) opHash(seq, index uint64) uint64 {
	h := mix(s.id ^ 0x9e3779b97f4a7c15)
	h = mix(h + seq)
	return mix(h + index)
}

func (s *session) opsHash() uint64 {
	var h uint64
	for seq := s.first; seq-s.first < uint64(len(s.ring)); seq++ {
		if index := *s.slot(seq); index != 0 {
			h += s.opHash(seq, index)
		}
	}
	return h
}

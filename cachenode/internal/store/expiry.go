package store

import (
	"encoding/binary"
	"maps"
	"slices"
)

// expiry finds the entries whose time is over: for each second in which some expire, those entries in the order of their
// stamps. The links are in the tails of the entries, so that an entry costs nothing when it is gone before its time.
//
// The sweep follows the order of (second, stamp), a bounded number of entries with each batch, so it is a function of the
// log, and no batch takes long because a million entries expire in one second. What comes later in the log expires
// later than what may be swept, so nothing enters the order behind the sweep. The entries of LRU caches have an expiry of
// their own, for they are not a function of the log and must not use up the bound of those that are.
type expiry struct {
	buckets map[int64]*list // by second of cluster time; none is empty
	due     []int64         // seconds that are over and had a bucket when they ended, ascending
	until   int64           // buckets of seconds before it are in due
	looked  int64           // before it there was none when sweepDue looked; until or later
	swept   mark
}

// mark is a place in the order of the sweep.
type mark struct {
	second int64
	at     stamp
}

// covers reports whether the sweep is past an entry.
func (k mark) covers(expires int64, at stamp) bool {
	if expires == 0 {
		return false
	}
	s := second(expires)
	return s < k.second || s == k.second && at <= k.at
}

func (e *expiry) init() { e.buckets = make(map[int64]*list) }

func second(ms int64) int64 { return ms / 1000 }

func (st *state) expiryOf(c *cache) *expiry {
	if c.policy.Evict == LRU {
		return &st.expiryLRU
	}
	return &st.expiry
}

// linkExpiry puts an entry at the end of its bucket. As with the order of a cache, the order of a bucket is right from
// CompleteAt on.
func (st *state) linkExpiry(c *cache, r ref, data []byte, m *meta) {
	e, s := st.expiryOf(c), second(m.expires(data))
	l := e.buckets[s]
	if l == nil {
		l = &list{}
		e.buckets[s] = l
	}
	setLink(data, tailPrev, l.tail)
	setLink(data, tailNext, 0)
	if l.tail == 0 {
		l.head = r
	} else {
		setLink(st.data(l.tail), tailNext, r)
	}
	l.tail = r
}

func (st *state) unlinkExpiry(c *cache, data []byte, m *meta) {
	prev, next := link(data, tailPrev), link(data, tailNext)
	if prev != 0 {
		setLink(st.data(prev), tailNext, next)
	}
	if next != 0 {
		setLink(st.data(next), tailPrev, prev)
	}
	if prev != 0 && next != 0 {
		return
	}
	e, s := st.expiryOf(c), second(m.expires(data))
	l := e.buckets[s]
	if prev == 0 {
		l.head = next
	}
	if next == 0 {
		l.tail = prev
	}
	if l.head == 0 {
		delete(e.buckets, s)
	}
}

func link(data []byte, at int) ref { return ref(binary.LittleEndian.Uint32(tail(data)[at:])) }

func setLink(data []byte, at int, r ref) { binary.LittleEndian.PutUint32(tail(data)[at:], uint32(r)) }

// sweepBase bounds what a batch sweeps, to some hundred microseconds.
const sweepBase = 1024

// sweepLimit is how many entries a batch of n operations sweeps at most: more than it can add.
func sweepLimit(base, n int) int { return base + 2*n }

// sweep removes entries that expired in seconds before that of the cluster time.
func (st *state) sweep(limit int) {
	st.expiryLRU.pass(second(st.clusterMs))
	st.sweepDue(&st.expiryLRU, limit)
	st.expiry.pass(second(st.clusterMs))
	if !st.catchingUp { // else by the sender's mark: here the entries cannot be counted
		st.sweepDue(&st.expiry, limit)
	}
}

// pass makes the buckets of seconds before now due.
func (e *expiry) pass(now int64) {
	if now > e.until {
		e.due = append(e.due, e.between(e.until, now)...)
		e.until, e.looked = now, now
	}
}

// sweepDue removes at most limit entries.
func (st *state) sweepDue(e *expiry, limit int) {
	byID := st.catalog.Load().byID
	for limit > 0 && len(e.due) > 0 {
		l := e.buckets[e.due[0]]
		if l == nil {
			e.due = e.due[1:] // does not count: what is left in due differs between replicas, what is in the buckets does not
			continue
		}
		limit--
		m := st.meta(l.head)
		e.swept = mark{e.due[0], m.stamp}
		c := byID[m.cache]
		c.expirations.Add(1)
		st.remove(c, l.head, Expired)
	}
}

// between returns the seconds in [from, to) that have a bucket, ascending.
func (e *expiry) between(from, to int64) []int64 {
	var found []int64
	if to-from <= int64(len(e.buckets)) {
		for s := from; s < to; s++ {
			if e.buckets[s] != nil {
				found = append(found, s)
			}
		}
		return found
	}
	for s := range maps.Keys(e.buckets) {
		if s >= from && s < to {
			found = append(found, s)
		}
	}
	slices.Sort(found)
	return found
}

// SweepDue reports whether a batch of the given cluster time would have something to sweep. As entries are swept with
// batches only, whoever proposes them has to see to it that some come. To be called on the apply goroutine.
func (s *Store) SweepDue(clusterMs int64) bool {
	st := s.state.Load()
	return st.expiry.isDue(second(clusterMs)) || st.expiryLRU.isDue(second(clusterMs))
}

func (e *expiry) isDue(now int64) bool {
	if len(e.due) > 0 {
		return true
	}
	if now <= e.looked || len(e.buckets) == 0 {
		return false
	}
	if len(e.between(e.looked, now)) > 0 {
		return true
	}
	e.looked = now
	return false
}

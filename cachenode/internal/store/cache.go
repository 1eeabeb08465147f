package store

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// cache is one named cache.
type cache struct {
	id       uint16 // in this state only: replicas may number differently
	name     string
	policy   Policy
	salt     uint64 // keeps equal keys of different caches apart
	nameHash uint64 // the same on all replicas

	entries, bytes         atomic.Int64
	evictions, expirations atomic.Uint64
	clock                  atomic.Uint32 // see newUse

	// The rest belongs to the apply goroutine.

	watermark stamp // the newest stamp evicted; OldestWrite only

	// A bounded cache keeps its entries by ascending stamp. While the log is replayed over a restored state, writes come
	// that are older than entries already there; but each of those is itself replayed, and moves to the end. So the order
	// is right when it is needed, from CompleteAt on.
	order list
}

type list struct{ head, tail ref }

// evictsByLog tells that the cache evicts, and alike on all replicas.
func (c *cache) evictsByLog() bool { return c.policy.Evict != LRU && c.policy.bounded() }

func (c *cache) over() bool {
	return c.policy.MaxEntries > 0 && c.entries.Load() > c.policy.MaxEntries ||
		c.policy.MaxBytes > 0 && c.bytes.Load() > c.policy.MaxBytes
}

// named returns a cache that has come into being, or nil. It belongs to the apply goroutine, which mostly asks for the one it
// asked for last.
func (st *state) named(name string) *cache {
	if c := st.recent; c != nil && c.name == name {
		return c
	}
	c := st.catalog.Load().byName[name]
	if c != nil {
		st.recent = c
	}
	return c
}

// create brings a cache into being; nil if there are too many.
func (st *state) create(name string, p Policy) *cache {
	old := st.catalog.Load()
	if len(old.byID) >= MaxCaches {
		return nil
	}
	c := &cache{id: uint16(len(old.byID)), name: name, policy: p, nameHash: mix(xxhash.Sum64String(name))}
	c.salt = mix(uint64(c.id) + 1)
	grown := &catalog{byName: make(map[string]*cache, len(old.byName)+1), byID: append(slices.Clip(old.byID), c)}
	maps.Copy(grown.byName, old.byName)
	grown.byName[name] = c
	st.catalog.Store(grown)
	if p.Evict != LRU {
		st.hash += mix(c.nameHash + 1)
	}
	return c
}

// linkOrder puts an entry at the end of the order.
func (st *state) linkOrder(c *cache, r ref, m *meta) {
	l := &c.order
	m.prev, m.next = l.tail, 0
	if l.tail == 0 {
		l.head = r
	} else {
		st.meta(l.tail).next = r
	}
	l.tail = r
}

func (st *state) unlinkOrder(c *cache, m *meta) {
	if m.prev != 0 {
		st.meta(m.prev).next = m.next
	} else {
		c.order.head = m.next
	}
	if m.next != 0 {
		st.meta(m.next).prev = m.prev
	} else {
		c.order.tail = m.prev
	}
	m.prev, m.next = 0, 0
}

// makeRoom evicts until the bounds hold.
func (st *state) makeRoom(c *cache) {
	switch {
	case !c.policy.bounded():
	case c.policy.Evict == LRU:
		for written := c.order.tail; c.over(); {
			st.evict(c, st.leastUsed(c, written))
		}
	case !st.catchingUp:
		for c.over() {
			r := c.order.head
			c.watermark = max(c.watermark, st.meta(r).stamp)
			st.evict(c, r)
		}
	}
}

func (st *state) evict(c *cache, r ref) {
	c.evictions.Add(1)
	st.remove(c, r, Evicted)
}

// maxCandidates bounds the entries looked at by one eviction, and with it the time it takes.
const maxCandidates = 64

// leastUsed returns the entry of an LRU cache to evict: of the entries at the front of the order, up to the first one
// that was not read since it was put there, the one whose last use is longest ago. The others go to the end. The entry
// just written has been used last of all, so it is returned only if it is the only one.
func (st *state) leastUsed(c *cache, written ref) ref {
	var (
		now   = c.clock.Load()
		best  = written
		worst = uint32(0)
	)
	for range min(maxCandidates, c.entries.Load()) {
		r := c.order.head
		m := st.meta(r)
		u := m.lastUse.Load()
		if age := useAge(now, u); r != written && (best == written || age > worst) {
			best, worst = r, age
		}
		if r != written && u&readSince == 0 {
			break
		}
		m.lastUse.CompareAndSwap(u, u&^readSince) // unless it is being read
		st.unlinkOrder(c, m)
		st.linkOrder(c, r, m)
	}
	return best
}

// A last use, in an LRU cache: the clock of the cache, which counts its writes; whether it was a read, so later than the
// write which made that the clock's time; and whether that was after the entry took its place in the order. The clock
// wraps around after 2^30, long after an entry idle for so long was evicted.
const (
	readSince = 1 << iota
	wasRead
	useBits = iota
)

func newUse(clock uint32) uint32 { return clock << useBits }

// useAge orders last uses: the larger, the longer ago.
func useAge(clock, lastUse uint32) uint32 { return newUse(clock+1) - lastUse&^readSince }

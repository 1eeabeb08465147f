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

	// A bounded cache keeps its entries in two lists by ascending stamp: those restored from a snapshot and those
	// written since. While the log is replayed, the writes are older than many of the restored entries; with two lists
	// neither needs an insertion in its middle.
	restored, replayed list
}

type list struct{ head, tail ref }

// evictsByLog tells that the cache evicts, and alike on all replicas.
func (c *cache) evictsByLog() bool { return c.policy.Evict != LRU && c.policy.bounded() }

func (c *cache) over() bool {
	return c.policy.MaxEntries > 0 && c.entries.Load() > c.policy.MaxEntries ||
		c.policy.MaxBytes > 0 && c.bytes.Load() > c.policy.MaxBytes
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

// linkOrder appends an entry to a list.
func (st *state) linkOrder(l *list, r ref, m *meta) {
	m.prev, m.next = l.tail, 0
	if l.tail == 0 {
		l.head = r
	} else {
		st.meta(l.tail).next = r
	}
	l.tail = r
}

func (st *state) unlinkOrder(c *cache, r ref, m *meta) {
	if m.prev != 0 {
		st.meta(m.prev).next = m.next
	} else if c.restored.head == r {
		c.restored.head = m.next
	} else {
		c.replayed.head = m.next
	}
	if m.next != 0 {
		st.meta(m.next).prev = m.prev
	} else if c.restored.tail == r {
		c.restored.tail = m.prev
	} else {
		c.replayed.tail = m.prev
	}
	m.prev, m.next = 0, 0
}

// makeRoom evicts until the bounds hold.
func (st *state) makeRoom(c *cache) {
	switch {
	case !c.policy.bounded():
	case c.policy.Evict == LRU:
		for written := c.replayed.tail; c.over(); {
			st.evict(c, st.leastUsed(c, written))
		}
	case !st.catchingUp:
		for c.over() {
			r := c.first()
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
		r := c.first()
		m := st.meta(r)
		u := m.lastUse.Load()
		if age := useAge(now, u); r != written && (best == written || age > worst) {
			best, worst = r, age
		}
		if r != written && u&readSince == 0 {
			break
		}
		m.lastUse.CompareAndSwap(u, u&^readSince) // unless it is being read
		st.unlinkOrder(c, r, m)
		st.linkOrder(&c.replayed, r, m)
	}
	return best
}

// A last use, in an LRU cache: the clock of the cache shifted by one, and whether it was a read after the entry took
// its place in the order. The clock counts writes to the cache and wraps around after 2^31, long after an entry idle
// for so long was evicted.
const readSince = 1

func newUse(clock uint32) uint32          { return clock << 1 }
func useAge(clock, lastUse uint32) uint32 { return (clock<<1 - lastUse&^readSince) >> 1 }

// first returns the entry at the front of the order, 0 if the cache is empty. What remains in restored once the state is
// complete was written before the snapshot began, and replayed holds what was written since: even an entry which came
// with the snapshot, since its own write is replayed as well.
func (c *cache) first() ref {
	if c.restored.head != 0 {
		return c.restored.head
	}
	return c.replayed.head
}

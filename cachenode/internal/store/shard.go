package store

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

const (
	shardBits  = 7
	shardCount = 1 << shardBits
	numberBits = 32 - shardBits
	maxNumber  = 1<<numberBits - 1 // entries a shard can hold
	pageSize   = 128               // entries in a page
	minTable   = 16
)

// ref names an entry in the whole state: shard and number plus one. 0 is none.
type ref uint32

func newRef(shard, number uint32) ref   { return ref(shard<<numberBits | (number + 1)) }
func (r ref) split() (uint32, uint32)   { return uint32(r) >> numberBits, uint32(r)&maxNumber - 1 }
func entryBytes(key, value int) int64   { return int64(key) + int64(value) + EntryOverhead }
func fold(h uint64) (shard, tag uint32) { return uint32(h >> (64 - shardBits)), uint32(h) }

// hasher places keys in shards and tables. It is seeded at random, so that no client can choose keys that collide.
type hasher struct{ seed maphash.Seed }

var makeSeed = maphash.MakeSeed // tests use one for all states, so that a failure repeats

func newHasher() hasher { return hasher{makeSeed()} }

func (h hasher) sumString(c *cache, key string) uint64 { return maphash.String(h.seed, key) ^ c.salt }

func (h hasher) sumBytes(c *cache, key []byte) uint64 { return maphash.Bytes(h.seed, key) ^ c.salt }

// shard holds a part of all entries. Only the apply goroutine changes it, under mu; others read under mu.RLock; the
// apply goroutine itself reads without it. The links of the entries, which others never read, are changed without mu.
type shard struct {
	mu     sync.RWMutex
	table  []uint64 // open addressing, linear probing: tag<<32 | number+1, 0 is free
	pages  []*page
	blocks blocks
	live   uint32 // entries in the table
	used   uint32 // numbers handed out so far
	free   uint32 // number+1 of the first entry given back, linked by next; 0 is none
	_      [24]byte
}

// page has no pointers, so that the garbage collector need not look at it.
type page [pageSize]meta

// meta is what is kept of an entry beside its record. It has 32 bytes.
type meta struct {
	stamp      stamp // 0: there is no entry
	place      place
	prev, next ref           // in the order of writes of a bounded cache; or next in the list of free entries
	lastUse    atomic.Uint32 // see newUse; LRU caches only
	keyLen     uint16        // expiresFlag may be set
	cache      uint16
}

const expiresFlag = 1 << 15 // beyond MaxKeyBytes

func (m *meta) keyBytes() int { return int(m.keyLen &^ expiresFlag) }

// The tail of an entry that expires: the time in cluster milliseconds, and its neighbors in its bucket.
const (
	tailBytes = 16
	tailPrev  = 8
	tailNext  = 12
)

func tail(data []byte) []byte { return data[len(data) : len(data)+tailBytes] }

func (m *meta) expires(data []byte) int64 {
	if m.keyLen&expiresFlag == 0 {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(tail(data)))
}

func (sh *shard) meta(number uint32) *meta { return &sh.pages[number/pageSize][number%pageSize] }

// entry returns key and value in one, which never change, and what else is kept of an entry that is there.
func (sh *shard) entry(number uint32) ([]byte, *meta) {
	m := sh.meta(number)
	return sh.blocks.at(m.place), m
}

// find returns the number of a key. The caller is the apply goroutine or holds mu.
func find[K string | []byte](sh *shard, tag uint32, cache uint16, key K) (number uint32, ok bool) {
	if len(sh.table) == 0 {
		return 0, false
	}
	mask := uint32(len(sh.table) - 1)
	for i := tag & mask; ; i = (i + 1) & mask {
		slot := sh.table[i]
		if slot == 0 {
			return 0, false
		}
		if uint32(slot>>32) != tag {
			continue
		}
		n := uint32(slot) - 1
		if data, m := sh.entry(n); m.cache == cache && string(data[:m.keyBytes()]) == string(key) {
			return n, true
		}
	}
}

// add makes an entry for a key that find did not find, to be filled before mu is let go of. mu is held.
func (sh *shard) add(tag uint32) uint32 {
	if (sh.live+1)*4 > uint32(len(sh.table))*3 {
		sh.grow()
	}
	n := sh.free
	switch {
	case n != 0:
		n--
		m := sh.meta(n)
		sh.free = uint32(m.next)
		m.next = 0
	case sh.used == maxNumber:
		panic("store: shard is full")
	default:
		n = sh.used
		if sh.used++; n%pageSize == 0 {
			sh.pages = append(sh.pages, new(page))
		}
	}
	sh.live++
	insertSlot(sh.table, uint64(tag)<<32|uint64(n+1))
	return n
}

func (sh *shard) grow() {
	table := make([]uint64, max(minTable, 2*len(sh.table)))
	for _, slot := range sh.table {
		if slot != 0 {
			insertSlot(table, slot)
		}
	}
	sh.table = table
}

func insertSlot(table []uint64, slot uint64) {
	mask := uint32(len(table) - 1)
	i := uint32(slot>>32) & mask
	for table[i] != 0 {
		i = (i + 1) & mask
	}
	table[i] = slot
}

// drop gives an entry back. mu is held.
func (sh *shard) drop(tag, number uint32) {
	mask := uint32(len(sh.table) - 1)
	i := tag & mask
	for sh.table[i] != uint64(tag)<<32|uint64(number+1) {
		i = (i + 1) & mask
	}
	sh.closeGap(i, mask)
	m := sh.meta(number)
	sh.blocks.release(m.place)
	m.stamp = 0
	m.next = ref(sh.free)
	sh.free = number + 1
	sh.live--
}

// closeGap frees slot i and moves back what was pushed beyond it, so that no search stops too early.
func (sh *shard) closeGap(i, mask uint32) {
	for j := (i + 1) & mask; sh.table[j] != 0; j = (j + 1) & mask {
		home := uint32(sh.table[j]>>32) & mask
		if (j-home)&mask >= (j-i)&mask { // home is not in (i, j]
			sh.table[i] = sh.table[j]
			i = j
		}
	}
	sh.table[i] = 0
}

// get is Store.Get for a known cache.
func (st *state) get(c *cache, key string, nowMs int64) (value []byte, modIndex uint64, ok bool) {
	shardNumber, tag := fold(st.hasher.sumString(c, key))
	sh := &st.shards[shardNumber]
	sh.mu.RLock()
	n, ok := find(sh, tag, c.id, key)
	if !ok {
		sh.mu.RUnlock()
		return nil, 0, false
	}
	d, m := sh.entry(n)
	at := m.stamp
	expires := m.expires(d)
	if c.policy.Evict == LRU {
		if use := newUse(c.clock.Load()) | wasRead | readSince; m.lastUse.Load() != use {
			m.lastUse.Store(use)
		}
	}
	sh.mu.RUnlock()
	if expires != 0 && expires <= nowMs {
		return nil, 0, false
	}
	return d[len(key):len(d):len(d)], at.index(), true
}

// put writes an entry unless a newer write is there already. It does not make room.
func (st *state) put(c *cache, at stamp, key string, value []byte, expires int64) {
	if st.catchingUp && st.gone(c, at, expires) {
		st.del(c, at, key)
		return
	}
	shardNumber, tag := fold(st.hasher.sumString(c, key))
	sh := &st.shards[shardNumber]
	n, found := find(sh, tag, c.id, key)
	entries, bytes := int64(1), int64(EntryOverhead)
	if found {
		old, m := sh.entry(n)
		if m.stamp > at {
			return
		}
		st.detach(c, newRef(shardNumber, n), old, m)
		entries, bytes = 0, -int64(len(old))
	}
	n = fill(sh, c, at, tag, n, found, key, value, expires)
	data, m := sh.entry(n)
	st.attach(c, newRef(shardNumber, n), data, m)
	st.count(c, entries, bytes+int64(len(data)))
	sh.compact()
	if st.observe != nil {
		st.tell(Written, c, key)
	}
}

// tell passes a change on. The caller has seen that somebody asks, so that nothing is paid for nobody.
func (st *state) tell(effect Effect, c *cache, key string) {
	if !st.catchingUp {
		st.observe(Change{Effect: effect, Cache: c.name, Key: key})
	}
}

// fill gives an entry its value: the one with that number, or if there is none a new one. It returns the number.
func fill[K string | []byte](sh *shard, c *cache, at stamp, tag, number uint32, found bool, key K, value []byte, expires int64) uint32 {
	p := write(sh, key, value, expires) // before the lock is taken: values can be large
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if !found {
		number = sh.add(tag)
	}
	m := sh.meta(number)
	if found {
		sh.blocks.release(m.place)
	}
	sh.blocks.own(p, number)
	m.stamp, m.place, m.cache, m.keyLen = at, p, c.id, uint16(len(key))
	if expires != 0 {
		m.keyLen |= expiresFlag
	}
	if c.policy.Evict == LRU {
		m.lastUse.Store(newUse(c.clock.Add(1)))
	}
	return number
}

// del removes an entry unless it is newer than the removal.
func (st *state) del(c *cache, at stamp, key string) {
	shardNumber, tag := fold(st.hasher.sumString(c, key))
	sh := &st.shards[shardNumber]
	n, found := find(sh, tag, c.id, key)
	if !found {
		return
	}
	data, m := sh.entry(n)
	if m.stamp > at {
		return
	}
	st.detach(c, newRef(shardNumber, n), data, m)
	st.count(c, -1, -entryBytes(0, len(data)))
	sh.mu.Lock()
	sh.drop(tag, n)
	sh.mu.Unlock()
	sh.compact()
	if st.observe != nil {
		st.tell(Removed, c, key)
	}
}

// remove removes an entry that is in the state, for the reason that effect names.
func (st *state) remove(c *cache, r ref, effect Effect) {
	shardNumber, n := r.split()
	sh := &st.shards[shardNumber]
	data, m := sh.entry(n)
	if st.observe != nil {
		st.tell(effect, c, string(data[:m.keyBytes()]))
	}
	_, tag := fold(st.hasher.sumBytes(c, data[:m.keyBytes()]))
	st.detach(c, r, data, m)
	st.count(c, -1, -entryBytes(0, len(data)))
	sh.mu.Lock()
	sh.drop(tag, n)
	sh.mu.Unlock()
	sh.compact()
}

func (st *state) meta(r ref) *meta {
	shardNumber, n := r.split()
	return st.shards[shardNumber].meta(n)
}

func (st *state) data(r ref) []byte {
	shardNumber, n := r.split()
	data, _ := st.shards[shardNumber].entry(n)
	return data
}

// attach adds a filled entry to the state hash and to everything that orders entries, detach takes it out again.
func (st *state) attach(c *cache, r ref, data []byte, m *meta) {
	st.addHash(c, r, data, m)
	if m.keyLen&expiresFlag != 0 {
		st.linkExpiry(c, r, data, m)
	}
	if c.policy.bounded() {
		st.linkOrder(c, r, m)
	}
}

func (st *state) detach(c *cache, r ref, data []byte, m *meta) {
	st.dropHash(c, r, m)
	if m.keyLen&expiresFlag != 0 {
		st.unlinkExpiry(c, data, m)
	}
	if c.policy.bounded() {
		st.unlinkOrder(c, m)
	}
}

// count counts entries that came, or with negative numbers went, and their bytes as Policy counts them. Most writes give an
// entry a value as long as the last one.
func (st *state) count(c *cache, entries, bytes int64) {
	if entries != 0 {
		c.entries.Add(entries)
	}
	if bytes != 0 {
		c.bytes.Add(bytes)
		st.bytes.Add(bytes)
	}
}

// addHash adds a filled entry to the state hash, dropHash takes it out again.
func (st *state) addHash(c *cache, r ref, data []byte, m *meta) {
	if c.policy.Evict == LRU {
		return
	}
	shardNumber, _ := r.split()
	h := entryHash(c, data, m)
	st.shards[shardNumber].blocks.setHash(m.place, h)
	st.hash += h
}

func (st *state) dropHash(c *cache, r ref, m *meta) {
	if c.policy.Evict == LRU {
		return
	}
	shardNumber, _ := r.split()
	st.hash -= st.shards[shardNumber].blocks.hash(m.place)
}

// entryHash is the entry's summand of the state hash.
func entryHash(c *cache, data []byte, m *meta) uint64 {
	h := mix(xxhash.Sum64(data) ^ c.nameHash)
	h = mix(h + uint64(m.stamp))
	h = mix(h + uint64(m.expires(data)))
	return mix(h + uint64(m.keyBytes()))
}

// mix spreads every bit of x over all bits of the result, without loss.
func mix(x uint64) uint64 {
	x ^= x >> 32
	x *= 0xd6e8feb86659fd93
	x ^= x >> 29
	x *= 0xa0761d6478bd642f
	return x ^ x>>32
}

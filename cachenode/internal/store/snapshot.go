package store

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/hacache/hacache/cachenode/internal/mutant"
)

// A snapshot is a sequence of records, cut into chunks between records:
//
//	descriptor  'D' version index clusterMs forgottenMs policy(default) n { name policy }
//	cache       'C' name policy                         numbered from 0 in the order in which they come
//	session     'S' id first lastMs openedMs log2(slots) n { seq-first index }      from the longest idle one on
//	entry       'E' cache stamp expires key value
//	trailer     'T' index sweptSecond sweptStamp n { watermark }      one for each cache; the end
//
// policy is maxEntries maxBytes ttlMs evict. Numbers are uvarints, except for session ids, which are fixed, and strings
// carry their length in front. The package comment says what it all means.
const (
	snapshotVersion = 2

	recordDescriptor = 'D'
	recordCache      = 'C'
	recordSession    = 'S'
	recordEntry      = 'E'
	recordTrailer    = 'T'
)

// SnapshotWriter streams the state. Only one goroutine may use it at a time.
type SnapshotWriter struct {
	st     *state
	head   [][]byte // the descriptor, caches and sessions as of the beginning: records in pieces
	caches int      // cache records written or in head
	shard  uint32
	number uint32 // next entry to look at in shard
	done   bool
}

// BeginSnapshot copies what must be exact at Applied: policies, caches and sessions. To be called on the apply
// goroutine; the entries are read later, by Next. The writer may be dropped at any time.
func (s *Store) BeginSnapshot() *SnapshotWriter {
	st := s.state.Load()
	byID := st.catalog.Load().byID
	w := &SnapshotWriter{st: st, caches: len(byID)}
	piece := appendDescriptor(nil, st)
	for _, c := range byID {
		piece = w.cut(appendCache(piece, c))
	}
	for sess := st.sessions.oldest; sess != nil && !mutant.On(mutant.NoSessionsInSnapshot); sess = sess.next {
		piece = w.cut(appendSession(piece, sess))
	}
	w.head = append(w.head, piece)
	return w
}

// lockedBytes is about how much is written of a head at once, and copied from a shard under its lock.
const lockedBytes = 32 << 10

// cut moves a full piece to head and returns the one to go on with.
func (w *SnapshotWriter) cut(piece []byte) []byte {
	if len(piece) < lockedBytes {
		return piece
	}
	w.head = append(w.head, piece)
	return nil
}

// Next returns the next part of the snapshot, of about limit bytes: it may be longer by the longest value and 64 KiB.
// done tells that it is the last one; after it, the chunk is nil. Apply may go on meanwhile; it is kept from one shard
// at a time, for as long as it takes to copy 32 KiB or a value.
func (w *SnapshotWriter) Next(limit int) (chunk []byte, done bool) {
	if w.done {
		return nil, true
	}
	chunk = make([]byte, 0, limit+limit/8)
	for len(w.head) > 0 && len(chunk) < limit {
		chunk = append(chunk, w.head[0]...)
		w.head[0] = nil
		w.head = w.head[1:]
	}
	for len(chunk) < limit && w.shard < shardCount {
		chunk = w.appendEntries(chunk, min(limit, len(chunk)+lockedBytes))
	}
	if len(w.head) > 0 || w.shard < shardCount {
		return chunk, false
	}
	w.done = true
	return w.appendTrailer(chunk), true
}

// Progress returns about how much was read, from 0 to 1, by the shards that are done: keys are spread evenly over them.
func (w *SnapshotWriter) Progress() float64 { return float64(w.shard) / shardCount }

// appendEntries goes on in the current shard until the chunk has limit bytes or the shard is done.
func (w *SnapshotWriter) appendEntries(chunk []byte, limit int) []byte {
	sh := &w.st.shards[w.shard]
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	for ; w.number < sh.used; w.number++ {
		if len(chunk) >= limit {
			return chunk
		}
		if sh.meta(w.number).stamp == 0 { // given back
			continue
		}
		data, m := sh.entry(w.number)
		chunk = w.appendNewCaches(chunk, int(m.cache)+1)
		chunk = appendEntry(chunk, data, m)
	}
	w.shard++
	w.number = 0
	return chunk
}

// appendNewCaches writes the records of the first n caches which are not written yet.
func (w *SnapshotWriter) appendNewCaches(chunk []byte, n int) []byte {
	if w.caches >= n {
		return chunk
	}
	for _, c := range w.st.catalog.Load().byID[w.caches:n] {
		chunk = appendCache(chunk, c)
	}
	w.caches = n
	return chunk
}

func (w *SnapshotWriter) appendTrailer(chunk []byte) []byte {
	st := w.st
	st.mu.Lock()
	defer st.mu.Unlock()
	byID := st.catalog.Load().byID
	chunk = w.appendNewCaches(chunk, len(byID))
	chunk = append(chunk, recordTrailer)
	// A state that is not complete itself has entries up to completeAt and the marks of that index.
	chunk = binary.AppendUvarint(chunk, max(st.applied.Load(), st.completeAt))
	chunk = binary.AppendUvarint(chunk, uint64(st.expiry.swept.second))
	chunk = binary.AppendUvarint(chunk, uint64(st.expiry.swept.at))
	chunk = binary.AppendUvarint(chunk, uint64(len(byID)))
	for _, c := range byID {
		chunk = binary.AppendUvarint(chunk, uint64(c.watermark))
	}
	return chunk
}

func appendDescriptor(b []byte, st *state) []byte {
	b = append(b, recordDescriptor)
	b = binary.AppendUvarint(b, snapshotVersion)
	b = binary.AppendUvarint(b, st.applied.Load())
	b = binary.AppendUvarint(b, uint64(st.clusterMs))
	b = binary.AppendUvarint(b, uint64(st.sessions.forgotten))
	b = appendPolicy(b, st.defaultPolicy)
	b = binary.AppendUvarint(b, uint64(len(st.policies)))
	for name, p := range st.policies {
		b = appendString(b, name)
		b = appendPolicy(b, p)
	}
	return b
}

func appendPolicy(b []byte, p Policy) []byte {
	b = binary.AppendUvarint(b, uint64(p.MaxEntries))
	b = binary.AppendUvarint(b, uint64(p.MaxBytes))
	b = binary.AppendUvarint(b, uint64(p.TTL.Milliseconds()))
	return binary.AppendUvarint(b, uint64(p.Evict))
}

func appendCache(b []byte, c *cache) []byte {
	b = append(b, recordCache)
	b = appendString(b, c.name)
	return appendPolicy(b, c.policy)
}

func appendSession(b []byte, s *session) []byte {
	b = append(b, recordSession)
	b = binary.LittleEndian.AppendUint64(b, s.id)
	b = binary.AppendUvarint(b, s.first)
	b = binary.AppendUvarint(b, uint64(s.lastMs))
	b = binary.AppendUvarint(b, uint64(s.opened))
	b = binary.AppendUvarint(b, uint64(bits.TrailingZeros(uint(len(s.ring)))))
	n := 0
	for _, index := range s.ring {
		if index != 0 {
			n++
		}
	}
	b = binary.AppendUvarint(b, uint64(n))
	for i := range uint64(len(s.ring)) {
		if index := *s.slot(s.first + i); index != 0 {
			b = binary.AppendUvarint(b, i)
			b = binary.AppendUvarint(b, index)
		}
	}
	return b
}

func appendEntry(b, data []byte, m *meta) []byte {
	b = append(b, recordEntry)
	b = binary.AppendUvarint(b, uint64(m.cache))
	b = binary.AppendUvarint(b, uint64(m.stamp))
	b = binary.AppendUvarint(b, uint64(m.expires(data)))
	n := m.keyBytes()
	b = appendString(b, data[:n])
	return appendString(b, data[n:])
}

func appendString[S string | []byte](b []byte, s S) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// ErrCorrupt is returned (wrapped) by a Restorer when the chunks are not those of a snapshot: damaged, of an unknown
// version, out of order, or too few.
var ErrCorrupt = errors.New("store: corrupt snapshot")

// Restorer builds a state from a snapshot, beside that of its Store, which it replaces in the end. Only one goroutine
// may use it at a time. After an error, or at any time, it may be dropped.
type Restorer struct {
	s     *Store
	index uint64
	st    *state
	err   error
	begun bool // the descriptor has come
	ended bool // the trailer has come
}

// BeginRestore returns a Restorer for a snapshot that stands for the log up to index.
func (s *Store) BeginRestore(index uint64) *Restorer {
	return &Restorer{s: s, index: index}
}

// Add takes the next chunk, in the order in which Next returned them. The chunk may be changed afterwards.
func (r *Restorer) Add(chunk []byte) error {
	if r.err != nil {
		return r.err
	}
	d := &decoder{rest: chunk}
	for len(d.rest) > 0 && r.err == nil {
		r.err = r.record(d)
	}
	return r.err
}

// Finish replaces the Store's state by what was restored. To be called on the apply goroutine. Applied is then the
// index of BeginRestore, and the log must be applied from there up to CompleteAt before anything is read.
func (r *Restorer) Finish() error {
	switch {
	case r.err != nil:
		return r.err
	case !r.ended:
		return fmt.Errorf("%w: it has no end", ErrCorrupt)
	}
	st := r.st
	st.applied.Store(r.index)
	st.catchingUp = st.completeAt > r.index
	r.s.state.Store(st)
	return nil
}

func (r *Restorer) record(d *decoder) error {
	kind := d.byte()
	switch {
	case r.ended:
		return fmt.Errorf("%w: something follows its end", ErrCorrupt)
	case r.begun == (kind == recordDescriptor):
		return fmt.Errorf("%w: descriptor out of place", ErrCorrupt)
	}
	switch kind {
	case recordDescriptor:
		r.descriptor(d)
	case recordCache:
		r.cache(d)
	case recordSession:
		r.session(d)
	case recordEntry:
		r.entry(d)
	case recordTrailer:
		r.trailer(d)
	default:
		d.fail("unknown record %q", kind)
	}
	return d.err
}

func (r *Restorer) descriptor(d *decoder) {
	if v := d.uint(); v != snapshotVersion {
		d.fail("version %d, want %d", v, snapshotVersion)
	}
	if index := d.uint(); index > r.index {
		d.fail("of index %d, want at most %d", index, r.index)
	}
	clusterMs, forgotten := d.int(), d.int()
	def := d.policy()
	policies := make(map[string]Policy)
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		name := string(d.bytes(MaxNameBytes))
		policies[name] = d.policy()
	}
	r.st = newState(def, policies, r.s.limits)
	r.st.clusterMs, r.st.sessions.forgotten = clusterMs, forgotten
	r.st.sessions.hash = mix(uint64(forgotten))
	r.begun = true
}

func (r *Restorer) cache(d *decoder) {
	name := string(d.bytes(MaxNameBytes))
	p := d.policy()
	switch {
	case d.err != nil:
	case name == "" || r.st.catalog.Load().byName[name] != nil:
		d.fail("cache %q has no name or comes twice", name)
	case r.st.create(name, p) == nil:
		d.fail("more than %d caches", MaxCaches)
	}
}

func (r *Restorer) session(d *decoder) {
	t := &r.st.sessions
	sess := &session{id: d.fixed64(), first: d.uint(), lastMs: d.int(), opened: d.int()}
	log := d.uint()
	switch {
	case d.err != nil:
		return
	case log > 62 || 1<<log < minSlots || 1<<log > MaxOpenOps:
		d.fail("session %x of 1<<%d slots", sess.id, log)
		return
	case sess.first == 0 || t.byID[sess.id] != nil || len(t.byID) >= t.limits.sessions || t.last != nil && t.last.lastMs > sess.lastMs:
		d.fail("session %x is out of order", sess.id)
		return
	}
	if t.slots+(1<<log) > t.limits.slots {
		d.fail("sessions of more than %d slots", t.limits.slots)
		return
	}
	sess.ring = make([]uint64, 1<<log)
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		i, index := d.uint(), d.uint()
		if i >= uint64(len(sess.ring)) || index == 0 {
			d.fail("session %x has operation %d at index %d", sess.id, i, index)
			return
		}
		*sess.slot(sess.first + i) = index
	}
	t.start(sess)
}

func (r *Restorer) entry(d *decoder) {
	id, at, expires := d.uint(), stamp(d.uint()), d.int()
	key, value := d.bytes(MaxKeyBytes), d.bytes(MaxValueBytes)
	byID := r.st.catalog.Load().byID
	switch {
	case d.err != nil:
	case id >= uint64(len(byID)):
		d.fail("entry of cache %d of %d", id, len(byID))
	case at == 0:
		d.fail("entry without a stamp")
	case !r.st.restore(byID[id], at, key, value, expires):
		d.fail("an entry comes again with stamp %d, not a newer one", at)
	}
}

func (r *Restorer) trailer(d *decoder) {
	r.st.completeAt = d.uint()
	r.st.expiry.swept = mark{d.int(), stamp(d.uint())}
	byID := r.st.catalog.Load().byID
	if n := d.uint(); n != uint64(len(byID)) && d.err == nil {
		d.fail("%d watermarks for %d caches", n, len(byID))
	}
	for _, c := range byID {
		c.watermark = stamp(d.uint())
	}
	if d.err == nil {
		r.st.orderRestored()
		r.ended = true
	}
	for _, c := range byID {
		if r.st.completeAt <= r.index && c.evictsByLog() && c.over() { // nothing is to come that would make room
			d.fail("cache %q is complete and over its bounds", c.name)
		}
	}
}

// restore puts an entry of a snapshot. Its place in the order of its cache is found in the end, by orderRestored. It
// returns false if the key has come before and was not older.
func (st *state) restore(c *cache, at stamp, key, value []byte, expires int64) bool {
	shardNumber, tag := fold(st.hasher.sumBytes(c, key))
	sh := &st.shards[shardNumber]
	n, found := find(sh, tag, c.id, key)
	entries, bytes := int64(1), int64(EntryOverhead)
	if found {
		old, m := sh.entry(n)
		if m.stamp >= at {
			return false
		}
		st.dropHash(c, newRef(shardNumber, n), m)
		entries, bytes = 0, -int64(len(old))
	}
	n = fill(sh, c, at, tag, n, found, key, value, expires)
	data, m := sh.entry(n)
	st.addHash(c, newRef(shardNumber, n), data, m)
	st.count(c, entries, bytes+int64(len(data)))
	sh.compact()
	return true
}

// orderRestored drops what the trailer says is evicted or swept, and puts the rest into its lists by stamp.
func (st *state) orderRestored() {
	type place struct {
		at stamp
		r  ref
	}
	var order []place
	byID := st.catalog.Load().byID
	for i := range st.shards {
		sh := &st.shards[i]
		for n := range sh.used {
			if sh.meta(n).stamp == 0 {
				continue
			}
			data, m := sh.entry(n)
			switch c, r := byID[m.cache], newRef(uint32(i), n); {
			case st.gone(c, m.stamp, m.expires(data)):
				st.dropHash(c, r, m)
				st.count(c, -1, -entryBytes(0, len(data)))
				_, tag := fold(st.hasher.sumBytes(c, data[:m.keyBytes()]))
				sh.drop(tag, n)
				sh.compact()
			case c.policy.bounded() || m.keyLen&expiresFlag != 0:
				order = append(order, place{m.stamp, r})
			}
		}
	}
	slices.SortFunc(order, func(a, b place) int { return cmp.Compare(a.at, b.at) })
	for _, p := range order {
		m, data := st.meta(p.r), st.data(p.r)
		c := byID[m.cache]
		if c.policy.bounded() {
			st.linkOrder(c, p.r, m)
		}
		if m.keyLen&expiresFlag != 0 {
			st.linkExpiry(c, p.r, data, m)
		}
	}
}

// gone reports whether, by the marks of the trailer, an entry will not be there when the state is complete.
func (st *state) gone(c *cache, at stamp, expires int64) bool {
	return c.evictsByLog() && at <= c.watermark || c.policy.Evict != LRU && st.expiry.swept.covers(expires, at)
}

// decoder reads from rest. After an error everything it returns is zero.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	d.rest = nil
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail("too short")
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail("bad number")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// int reads a number that must not be negative as an int64.
func (d *decoder) int() int64 {
	v := d.uint()
	if v > 1<<62 {
		d.fail("number %d is too large", v)
		return 0
	}
	return int64(v)
}

// bound reads any int64 that is not negative: to say that there is no bound, some say the largest.
func (d *decoder) bound() int64 {
	v := d.uint()
	if v > math.MaxInt64 {
		d.fail("bound %d is too large", v)
		return 0
	}
	return int64(v)
}

func (d *decoder) fixed64() uint64 {
	if len(d.rest) < 8 {
		d.fail("too short")
		return 0
	}
	v := binary.LittleEndian.Uint64(d.rest)
	d.rest = d.rest[8:]
	return v
}

// bytes reads a string of at most limit bytes. It is part of the chunk.
func (d *decoder) bytes(limit int) []byte {
	n := d.uint()
	if n > uint64(limit) || n > uint64(len(d.rest)) {
		d.fail("string of %d bytes, %d are left, want at most %d", n, len(d.rest), limit)
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) policy() Policy {
	p := Policy{MaxEntries: d.bound(), MaxBytes: d.bound()}
	ttlMs, evict := d.int(), d.uint()
	if ttlMs > int64(1<<62/time.Millisecond) || evict > uint64(LRU) {
		d.fail("policy with ttl %d ms and evict %d", ttlMs, evict)
	}
	p.TTL = time.Duration(ttlMs) * time.Millisecond
	p.Evict = Evict(evict)
	return p
}

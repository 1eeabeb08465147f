// Package store is the replicated state machine: named caches and the sessions that make retries harmless. It is a
// function of the log. It knows no clock, starts no goroutine and opens no socket; time comes with each batch.
//
// # Who may do what
//
// One goroutine, the apply goroutine, calls Apply, Observe, BeginSnapshot, Restorer.Finish and Reset. Everything else is safe at
// any time from anywhere: Get, Validate, Stats, Digest, the rest of a snapshot and of a restore.
//
// # Stamps
//
// A write is identified by its stamp, the log index of its batch and its position in the batch, which orders all writes.
// An entry carries the stamp of the write that made it. The effect of an operation never depends on the content of a
// cache (all writes are blind), which is what allows the rest of this page.
//
// # Expiry and eviction
//
// An entry expires at the cluster time of its batch plus its ttl. Reads test that. The memory comes back later: when the
// cluster time of a batch enters a new second, what expired in the seconds before is due, and each batch removes some of
// it, at most 1024 entries and two more for each operation, by the second of their expiry and then by stamp. So a million
// entries that expire at once take a thousand batches; until then they count for the bounds of their cache. LRU caches
// have a sweep of their own.
//
// A bounded cache evicts by one of two policies. OldestWrite removes entries in the order of their stamps until the
// bounds hold. That is a function of the log, so all replicas evict alike; and at any time exactly the entries with
// stamps up to the cache's watermark, the newest stamp ever evicted, are gone. LRU removes what
// was not read or written lately: of the entries at the front of the order of writes it takes the one used least
// recently, and puts those read in the meantime to the end. It differs from node to node, so the state hash leaves such
// caches out. Neither evicts what was just written, unless that alone exceeds the bounds.
//
// # Sessions
//
// An operation with a session and a sequence number takes effect at most once. Per session the store keeps, for each
// completed number not yet acknowledged (first_unacked), the index at which the operation took effect; a second
// copy is answered with it. A session begins with number 1, and ends after 60 s of cluster time without an operation, or
// when there are too many sessions and it was idle longest; what comes later under its name is refused. Numbers must
// stay below first_unacked + 4096; an operation beyond is refused without effect.
//
// A late copy of number 1 must not begin the session anew. So the operation says since when the session has existed
// (opened_ms, in cluster time): it is refused when that was 60 s ago or more, for the session would have ended by now, or
// not after the beginning of one that was ended for room. Who does not say it must not send number 1 again after 60 s.
//
// # Fuzzy snapshots
//
// A snapshot is a descriptor, exact at the index D at which it began, and the entries, read piece by piece while later
// batches are applied. Its trailer names the index E reached when the last piece had been read. Whoever restores it has
// the descriptor's state, entries from anywhere between D and E, and the log from D+1. After replaying the log up to E
// its state is the sender's at E, for these reasons:
//
//   - Sessions are exact at D, and what they do depends on the log alone. So the replay takes as duplicates what the
//     sender took as duplicates, and never suppresses an operation that had an effect. The entries need not agree with
//     the sessions in between: no session is consulted on behalf of an entry.
//   - An operation replayed onto an entry with a newer stamp is skipped, removals included. The entry was read after
//     that operation had been applied, so going back could only make its value older for a while: what made the entry
//     is replayed in its turn.
//   - A removal needs no tombstone. If an entry was read before its removal, the replay removes it. If it was read
//     after, it is absent, perhaps brought back by the replay of an older write, but then the removal, being newer than
//     that write, is replayed too. Until E such an entry can be seen, so nobody may read before (see CompleteAt).
//   - A key may be read twice, if it was removed and written again elsewhere; the later entry has the newer stamp. One
//     may be missed, if it was written where the reading had passed; then its write is newer than D and is replayed.
//   - Counting entries is meaningless in between: some are missing, some come from the future. So until E an
//     OldestWrite cache evicts by the watermark of the trailer instead: what has a stamp up to it will not be there at
//     E, whatever happens, and what has a newer one was not evicted.
//   - The same goes for the sweep: the trailer names the last entry swept, in the order of the sweep. Until E what is up
//     to it is left out, and nothing else is swept.
//
// Policies travel in the descriptor, so that a node that joins evicts by the policies of the cluster and not by its own
// configuration.
//
// # Changes
//
// Whoever asks with Observe is told of each entry that came, went or got another value, in the order in which that
// happened: first what expired by the time of a batch, then for each operation what it did and what it evicted. Applied
// to a set of keys, the changes give the keys of the store. Nothing is told before CompleteAt: until then the state comes
// and goes between two moments of the sender's.
//
// # Memory
//
// Entries live in 128 shards by hash, each with its own lock, an open-addressing table, pages of entries, and blocks of
// records, which are key and value (block.go). None of that has pointers in it, so a collection of garbage takes no longer
// for having more entries. Per entry there are, beside key and value: 32 bytes in a page, 8 bytes in a table filled to
// between 3/8 and 3/4, 8 bytes before its record, and 16 behind it if it expires. Up to a third of what lives in a shard
// may be there once more as records that are dead. EntryOverhead is what the byte bounds count for all that.
//
// A value that Get has returned keeps its block in memory, 16 KiB at most for values up to 2 KiB, for as long as it is held.
package store

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/hacache/hacache/proto/cachepb"
)

// Limits that all replicas share; an operation beyond them has no effect.
const (
	// MaxCaches is the number of named caches that can come into being.
	MaxCaches = 1024
	// MaxNameBytes bounds the name of a cache, which has at least one byte.
	MaxNameBytes = 1 << 10
	// MaxKeyBytes bounds a key, which may be empty.
	MaxKeyBytes = 1 << 10
	// MaxValueBytes bounds a value, and is the default of Config.MaxValueBytes.
	MaxValueBytes = 1 << 20
	// MaxBatchOps is the number of operations a batch may have.
	MaxBatchOps = 1 << positionBits
	// EntryOverhead is what an entry counts for in bytes, beside its key and value, wherever bytes are counted.
	EntryOverhead = 80
)

// Evict names how a bounded cache makes room.
type Evict uint8

const (
	// OldestWrite evicts in the order of the last write, alike on all replicas.
	OldestWrite Evict = iota
	// LRU evicts what was not used lately on this node.
	LRU
)

// String returns the name used in configuration files.
func (e Evict) String() string {
	switch e {
	case OldestWrite:
		return "oldest-write"
	case LRU:
		return "lru"
	default:
		return fmt.Sprintf("Evict(%d)", uint8(e))
	}
}

// Policy bounds one cache. The zero value bounds nothing.
type Policy struct {
	// MaxEntries and MaxBytes bound the cache; 0 is no bound. Bytes are those of keys and values plus EntryOverhead
	// for each entry.
	MaxEntries, MaxBytes int64
	// TTL is the life of entries whose operation names none, in whole milliseconds; 0 is for ever.
	TTL time.Duration
	// Evict says how room is made.
	Evict Evict
}

func (p Policy) bounded() bool { return p.MaxEntries > 0 || p.MaxBytes > 0 }

// Config describes a Store.
type Config struct {
	// Default is the policy of caches that Caches does not name, Caches the policies by name of cache. All replicas
	// that form a cluster must be given the same; one that joins takes over the cluster's.
	Default Policy
	Caches  map[string]Policy
	// Strict makes Validate refuse caches which neither Caches names nor exist.
	Strict bool
	// MaxValueBytes is the largest value Validate accepts; 0 means MaxValueBytes, which is also the most.
	MaxValueBytes int
	// MaxBytes makes Validate refuse puts and inserts once all caches together hold so many bytes; 0 is no bound.
	MaxBytes int64
}

// Policies returns a hash of the policies: equal for all configurations by which replicas evict and expire alike. It is
// never 0.
func (c *Config) Policies() uint64 { return hashPolicies(c.Default, c.Caches) }

func hashPolicies(def Policy, caches map[string]Policy) uint64 {
	b := appendPolicy(nil, def)
	for _, name := range slices.Sorted(maps.Keys(caches)) {
		if caches[name] != def { // to name a cache and give it the default is to say nothing
			b = appendPolicy(appendString(b, name), caches[name])
		}
	}
	return max(xxhash.Sum64(b), 1)
}

// Store is the state machine. Create it with New. The package comment says who may call what.
type Store struct {
	cfg     Config
	state   atomic.Pointer[state] // replaced as a whole by Restorer.Finish and Reset
	observe func(Change)          // of the apply goroutine; nil while nobody asks
	limits  limits
}

// New returns an empty Store.
func New(cfg Config) *Store {
	if cfg.MaxValueBytes <= 0 || cfg.MaxValueBytes > MaxValueBytes {
		cfg.MaxValueBytes = MaxValueBytes
	}
	return newStore(cfg, limits{sweep: sweepBase, sessions: MaxSessions, slots: maxSlots, dead: deadBytes})
}

func newStore(cfg Config, lim limits) *Store {
	s := &Store{cfg: cfg, limits: lim}
	s.Reset()
	return s
}

// limits are bounds that all replicas share, and the last one a node's own. Tests make them smaller.
type limits struct {
	sweep    int // see sweepLimit
	sessions int
	slots    int
	dead     int // see blocks.slack
}

// Result is what became of one operation.
type Result struct {
	// Code is OK if the operation has taken effect, now or (Duplicate) before. Any other code says that it has not;
	// except INDETERMINATE, for a copy of an operation that its sender had declared acknowledged.
	Code cachepb.Code
	// Index is the log index at which the operation took effect; 0 if Code is not OK.
	Index uint64
	// Duplicate says that this was a further copy of an operation and had no effect itself.
	Duplicate bool
}

// Effect is what happened to an entry.
type Effect uint8

const (
	// Written: a put or an insert gave the entry its value.
	Written Effect = iota
	// Removed: a del or a remove took it away. One that found nothing is no change.
	Removed
	// Expired: its time was over. It could not be read since then, and was removed now.
	Expired
	// Evicted: its cache needed the room.
	Evicted
)

// Change is what happened to one entry.
type Change struct {
	Effect Effect
	Cache  string
	// Key is valid as long as the call that brought it.
	Key string
}

// Observe makes Apply call f with each change, in order; nil ends that. Nobody is told of what Restorer.Finish and Reset
// change. To be called on the apply goroutine, not by f.
func (s *Store) Observe(f func(Change)) { s.observe = f }

// Apply applies one committed batch. Indexes must ascend; they may leave gaps. res, unless nil, is called for each
// operation in order. Nothing of the batch is kept.
//
// Operations other than put, insert, del and remove, and those beyond the limits, have no effect and the result INVALID
// or TOO_LARGE; for a well-behaved proposer has called Validate before.
func (s *Store) Apply(index uint64, b *cachepb.Batch, res func(i int, r Result)) {
	st := s.state.Load()
	if applied := st.applied.Load(); index <= applied {
		panic(fmt.Sprintf("store: apply index %d after %d", index, applied))
	}
	if index > maxIndex || len(b.GetOps()) > MaxBatchOps {
		panic(fmt.Sprintf("store: batch of %d operations at index %d", len(b.GetOps()), index))
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.observe = s.observe
	st.advance(index, b.GetClusterMs(), len(b.GetOps()))
	for i, req := range b.GetOps() {
		if i%ahead == 0 {
			st.lookAhead(b.GetOps()[i:])
		}
		r := st.applyOp(newStamp(index, i), req)
		if res != nil {
			res(i, r)
		}
	}
	st.finishBatch(index)
}

// Get returns the value of a key and the log index of the write that made it. nowMs is the cluster time in
// milliseconds; what has expired by then is not found. The value is immutable: it must not be changed, and stays as it
// is for as long as it is held; who keeps one for long should keep a copy, see Memory. Get allocates nothing.
func (s *Store) Get(cache, key string, nowMs int64) (value []byte, modIndex uint64, ok bool) {
	st := s.state.Load()
	c := st.catalog.Load().byName[cache]
	if c == nil {
		return nil, 0, false
	}
	return st.get(c, key, nowMs)
}

// Applied returns the index of the newest batch applied, or restored.
func (s *Store) Applied() uint64 { return s.state.Load().applied.Load() }

// CompleteAt returns the index at which the Store has the sender's state after a restore: before Applied has reached
// it, Get may return what has been removed. It is 0 if nothing was restored.
func (s *Store) CompleteAt() uint64 { return s.state.Load().completeAt }

// StateHash returns a hash of all that the log determines: entries with their stamps and expiry, caches, sessions. LRU
// caches are left out. Replicas with equal Applied, at or after CompleteAt, have equal hashes.
func (s *Store) StateHash() uint64 {
	_, hash := s.Digest()
	return hash
}

// Digest returns Applied and StateHash as of one moment between batches.
func (s *Store) Digest() (applied, hash uint64) {
	st := s.state.Load()
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.applied.Load(), st.hash + st.sessions.hash
}

// Reset forgets everything: caches, sessions, policies taken over, the applied index.
func (s *Store) Reset() {
	s.state.Store(newState(s.cfg.Default, s.cfg.Caches, s.limits))
}

// Policies returns the hash of the policies in force: those of Config, or of the cluster whose state was restored.
func (s *Store) Policies() uint64 { return s.state.Load().policiesHash }

// Stats describes a Store.
type Stats struct {
	// Entries and Bytes are the sums over all caches.
	Entries, Bytes int64
	// Sessions is the number of open sessions.
	Sessions int64
	// Caches are the caches that have come into being, in that order.
	Caches []CacheStats
}

// CacheStats describes one cache.
type CacheStats struct {
	Name   string
	Policy Policy
	// Entries counts what is stored, expired or not; Bytes is what it takes, as Policy counts it.
	Entries, Bytes int64
	// Evictions and Expirations count entries removed for room and after their time, since the Store was created or
	// restored. An entry read after its time counts when it is removed.
	Evictions, Expirations uint64
}

// Stats returns current numbers; those of different caches may be of different moments.
func (s *Store) Stats() Stats {
	st := s.state.Load()
	stats := Stats{Sessions: st.sessions.count.Load()}
	for _, c := range st.catalog.Load().byID {
		cs := CacheStats{
			Name: c.name, Policy: c.policy, Entries: c.entries.Load(), Bytes: c.bytes.Load(),
			Evictions: c.evictions.Load(), Expirations: c.expirations.Load(),
		}
		stats.Entries += cs.Entries
		stats.Bytes += cs.Bytes
		stats.Caches = append(stats.Caches, cs)
	}
	return stats
}

// Validate tells whether a request of a client may go on: OK, or the code to answer and what is wrong. It knows get, put,
// insert, del and remove. What it finds too full may fit a moment later, and the other way round; the log decides.
func (s *Store) Validate(req *cachepb.CacheRequest) (cachepb.Code, string) {
	st := s.state.Load()
	cache, key, value, write, known := operands(req)
	if !known {
		return cachepb.Code_INVALID, "request is not a get, put, insert, del or remove"
	}
	if code, detail := checkOperands(cache, key, len(value), s.cfg.MaxValueBytes); code != cachepb.Code_OK {
		return code, detail
	}
	if tag := cachepb.TagOf(req); tag.GetSession() != 0 && tag.GetSeq() == 0 {
		return cachepb.Code_INVALID, "operation of a session has seq 0, want at least 1"
	}
	if code, detail := s.validateCache(st, cache); code != cachepb.Code_OK || !write {
		return code, detail
	}
	catalog, policy := st.catalog.Load(), st.policy(cache)
	if catalog.byName[cache] == nil && len(catalog.byID) >= MaxCaches {
		return cachepb.Code_OVERLOADED, fmt.Sprintf("%d caches exist already", MaxCaches)
	}
	if size := entryBytes(len(key), len(value)); policy.MaxBytes > 0 && size > policy.MaxBytes {
		return cachepb.Code_TOO_LARGE, fmt.Sprintf("entry counts %d bytes, cache %q holds at most %d", size, cache, policy.MaxBytes)
	}
	if s.cfg.MaxBytes > 0 && st.bytes.Load() >= s.cfg.MaxBytes {
		return cachepb.Code_OVERLOADED, fmt.Sprintf("all caches together hold %d bytes or more", s.cfg.MaxBytes)
	}
	return cachepb.Code_OK, ""
}

// ValidateRead is Validate for a get.
func (s *Store) ValidateRead(cache, key string) (cachepb.Code, string) {
	if code, detail := checkOperands(cache, key, 0, 0); code != cachepb.Code_OK {
		return code, detail
	}
	return s.validateCache(s.state.Load(), cache)
}

// validateCache refuses a cache that neither exists nor is configured, if only those are wanted.
func (s *Store) validateCache(st *state, cache string) (cachepb.Code, string) {
	if _, named := st.policies[cache]; s.cfg.Strict && !named && st.catalog.Load().byName[cache] == nil {
		return cachepb.Code_UNKNOWN_CACHE, fmt.Sprintf("cache %q is not configured", cache)
	}
	return cachepb.Code_OK, ""
}

// operands returns what an operation names. write is true for put and insert.
func operands(req *cachepb.CacheRequest) (cache, key string, value []byte, write, known bool) {
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Get:
		return m.Get.GetCacheName(), m.Get.GetEntry(), nil, false, true
	case *cachepb.CacheRequest_Put:
		return m.Put.GetCacheName(), m.Put.GetEntry(), m.Put.GetValue(), true, true
	case *cachepb.CacheRequest_Insert:
		return m.Insert.GetCacheName(), m.Insert.GetEntry(), m.Insert.GetValue(), true, true
	case *cachepb.CacheRequest_Del:
		return m.Del.GetCacheName(), m.Del.GetEntry(), nil, false, true
	case *cachepb.CacheRequest_Remove:
		return m.Remove.GetCacheName(), m.Remove.GetEntry(), nil, false, true
	default:
		return "", "", nil, false, false
	}
}

func checkOperands(cache, key string, valueBytes, maxValueBytes int) (cachepb.Code, string) {
	switch {
	case cache == "":
		return cachepb.Code_INVALID, "cache_name is empty"
	case len(cache) > MaxNameBytes:
		return cachepb.Code_TOO_LARGE, fmt.Sprintf("cache_name has %d bytes, at most %d are allowed", len(cache), MaxNameBytes)
	case len(key) > MaxKeyBytes:
		return cachepb.Code_TOO_LARGE, fmt.Sprintf("entry has %d bytes, at most %d are allowed", len(key), MaxKeyBytes)
	case valueBytes > maxValueBytes:
		return cachepb.Code_TOO_LARGE, fmt.Sprintf("value has %d bytes, at most %d are allowed", valueBytes, maxValueBytes)
	}
	return cachepb.Code_OK, ""
}

// stamp orders all writes: log index, then position in the batch.
type stamp uint64

const (
	positionBits = 16
	maxIndex     = 1<<(64-positionBits) - 1 // at a million batches a second, nine years
)

func newStamp(index uint64, position int) stamp { return stamp(index<<positionBits | uint64(position)) }

func (s stamp) index() uint64 { return uint64(s) >> positionBits }

// state is everything the log determines, and the means to find it. Fields without a note belong to the apply
// goroutine.
type state struct {
	shards  [shardCount]shard
	hasher  hasher
	catalog atomic.Pointer[catalog] // copied and replaced when a cache comes into being

	limits        limits            // immutable
	defaultPolicy Policy            // immutable
	policies      map[string]Policy // immutable
	policiesHash  uint64            // immutable

	mu         sync.Mutex // held during Apply: whoever holds it sees whole batches
	applied    atomic.Uint64
	completeAt uint64 // immutable once published
	catchingUp bool   // applied < completeAt: evict by watermark, see the package comment

	observe   func(Change) // of the batch in hand; nil if nobody asks
	clusterMs int64        // the newest cluster time; never goes back
	expiry    expiry
	expiryLRU expiry // of LRU caches
	sessions  sessions
	recent    *cache       // that was named last; nil: none
	touched   uint64       // by lookAhead, so that it is not optimized away
	bytes     atomic.Int64 // of all caches
	hash      uint64       // guarded by mu: of caches and entries
}

// catalog lists the caches that have come into being. It is immutable.
type catalog struct {
	byName map[string]*cache
	byID   []*cache
}

func newState(def Policy, policies map[string]Policy, lim limits) *state {
	st := &state{
		hasher: newHasher(), limits: lim, defaultPolicy: def, policies: policies, policiesHash: hashPolicies(def, policies),
	}
	st.catalog.Store(&catalog{})
	for i := range st.shards {
		st.shards[i].blocks.slack = int64(lim.dead)
	}
	st.expiry.init()
	st.expiryLRU.init()
	st.sessions.init(lim)
	return st
}

func (st *state) policy(name string) Policy {
	if p, ok := st.policies[name]; ok {
		return p
	}
	return st.defaultPolicy
}

// advance takes the state to the time of a batch, before its operations.
func (st *state) advance(index uint64, clusterMs int64, ops int) {
	st.clusterMs = max(st.clusterMs, clusterMs)
	if st.catchingUp && index > st.completeAt {
		st.catchingUp = false
	}
	st.sweep(sweepLimit(st.limits.sweep, ops))
	st.sessions.expire(st.clusterMs)
}

func (st *state) finishBatch(index uint64) {
	if st.catchingUp && index >= st.completeAt {
		st.catchingUp = false
	}
	st.applied.Store(index)
}

func (st *state) applyOp(at stamp, req *cachepb.CacheRequest) Result {
	cache, key, value, write, known := operands(req)
	if _, isGet := req.GetMethod().(*cachepb.CacheRequest_Get); !known || isGet {
		return Result{Code: cachepb.Code_INVALID}
	}
	if code, _ := checkOperands(cache, key, len(value), MaxValueBytes); code != cachepb.Code_OK {
		return Result{Code: code}
	}
	tag := cachepb.TagOf(req)
	if tag.GetSession() == 0 {
		return st.perform(at, cache, key, value, write, tag)
	}
	sess, r, fresh := st.sessions.admit(tag, st.clusterMs)
	if !fresh {
		return r
	}
	r = st.perform(at, cache, key, value, write, tag)
	if r.Code == cachepb.Code_OK {
		st.sessions.complete(sess, tag.GetSeq(), r.Index)
	}
	return r
}

// perform carries out an operation whose operands have been checked.
func (st *state) perform(at stamp, name, key string, value []byte, write bool, tag *cachepb.OpTag) Result {
	c := st.named(name)
	if c == nil {
		if !write {
			return Result{Code: cachepb.Code_OK, Index: at.index()}
		}
		if c = st.create(name, st.policy(name)); c == nil {
			return Result{Code: cachepb.Code_OVERLOADED}
		}
	}
	if write {
		st.put(c, at, key, value, st.expires(c, tag))
		st.makeRoom(c)
	} else {
		st.del(c, at, key)
	}
	return Result{Code: cachepb.Code_OK, Index: at.index()}
}

// expires returns the end of a new entry's life in cluster milliseconds, 0 for none.
func (st *state) expires(c *cache, tag *cachepb.OpTag) int64 {
	ttl := int64(tag.GetTtlMs())
	if ttl == 0 {
		ttl = c.policy.TTL.Milliseconds()
	}
	if ttl == 0 {
		return 0
	}
	return st.clusterMs + ttl
}

package store

import (
	"bytes"
	gocmp "cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hacache/hacache/proto/cachepb"
)

func init() {
	seed := maphash.MakeSeed()
	makeSeed = func() maphash.Seed { return seed }
}

// ---- batches

func putOp(cache, key, value string, tag *cachepb.OpTag) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Put{Put: &cachepb.Put{
		CacheName: cache, Entry: key, Value: []byte(value), Op: tag,
	}}}
}

func insertOp(cache, key, value string, tag *cachepb.OpTag) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{
		CacheName: cache, Entry: key, Value: []byte(value), Op: tag,
	}}}
}

func delOp(cache, key string, tag *cachepb.OpTag) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Del{Del: &cachepb.Del{CacheName: cache, Entry: key, Op: tag}}}
}

func removeOp(cache, key string, tag *cachepb.OpTag) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Remove{Remove: &cachepb.Remove{
		CacheName: cache, Entry: key, Op: tag,
	}}}
}

func getOp(cache, key string) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Get{Get: &cachepb.Get{CacheName: cache, Entry: key}}}
}

func batch(clusterMs int64, ops ...*cachepb.CacheRequest) *cachepb.Batch {
	return &cachepb.Batch{ClusterMs: clusterMs, Ops: ops}
}

// apply applies one batch at the next index and returns the results.
func apply(s *Store, clusterMs int64, ops ...*cachepb.CacheRequest) []Result {
	var results []Result
	s.Apply(s.Applied()+1, batch(clusterMs, ops...), func(i int, r Result) {
		if i != len(results) {
			panic("results out of order")
		}
		results = append(results, r)
	})
	return results
}

func mustGet(t *testing.T, s *Store, cache, key, want string) {
	t.Helper()
	if v, _, ok := s.Get(cache, key, 0); !ok || string(v) != want {
		t.Errorf("%s/%s is %q, %v, want %q", cache, key, v, ok, want)
	}
}

func mustMiss(t *testing.T, s *Store, cache, key string, nowMs int64) {
	t.Helper()
	if v, _, ok := s.Get(cache, key, nowMs); ok {
		t.Errorf("%s/%s is %q, want a miss", cache, key, v)
	}
}

// ---- something dumb to compare with

// model is the state machine in a few lines: a map, sorted whenever something must be evicted or swept. An LRU cache it
// does not bound: what may be missing of it is checked apart.
type model struct {
	limits    limits
	def       Policy
	policies  map[string]Policy
	entries   map[string]map[string]modelEntry
	sessions  map[uint64]*modelSession
	clusterMs int64
	forgotten int64
	touches   int
	lruGone   uint64 // entries of the LRU cache that were found missing
}

type modelEntry struct {
	value   string
	at      stamp
	expires int64
}

type modelSession struct {
	first   uint64
	lastMs  int64
	touched int
	opened  int64
	slots   int
	done    map[uint64]uint64
}

func newModel(cfg Config, lim limits) *model {
	return &model{
		limits: lim, def: cfg.Default, policies: cfg.Caches,
		entries: map[string]map[string]modelEntry{}, sessions: map[uint64]*modelSession{},
	}
}

func (m *model) policy(name string) Policy {
	if p, ok := m.policies[name]; ok {
		return p
	}
	return m.def
}

func (m *model) apply(index uint64, b *cachepb.Batch) (results []Result) {
	m.clusterMs = max(m.clusterMs, b.GetClusterMs())
	m.sweep(m.limits.sweep + 2*len(b.GetOps()))
	maps.DeleteFunc(m.sessions, func(_ uint64, s *modelSession) bool { return m.clusterMs-s.lastMs >= SessionIdleMs })
	for i, req := range b.GetOps() {
		results = append(results, m.op(index, i, req))
	}
	return results
}

// sweep removes the first entries that have expired, by second and stamp. LRU caches are swept apart, and in full.
func (m *model) sweep(limit int) {
	type due struct {
		name, key string
		e         modelEntry
	}
	var all []due
	for name, entries := range m.entries {
		for key, e := range entries {
			if e.expires != 0 && e.expires/1000 < m.clusterMs/1000 && m.policy(name).Evict != LRU {
				all = append(all, due{name, key, e})
			}
		}
	}
	slices.SortFunc(all, func(a, b due) int {
		return gocmp.Or(gocmp.Compare(a.e.expires/1000, b.e.expires/1000), gocmp.Compare(a.e.at, b.e.at))
	})
	for _, d := range all[:min(limit, len(all))] {
		delete(m.entries[d.name], d.key)
	}
}

func (m *model) op(index uint64, i int, req *cachepb.CacheRequest) Result {
	name, key, value, write, _ := operands(req)
	tag := cachepb.TagOf(req)
	if tag.GetSession() != 0 {
		s, r := m.admit(tag)
		if s == nil {
			return r
		}
		s.done[tag.GetSeq()] = index
	}
	policy, entries := m.policy(name), m.entries[name]
	if !write {
		delete(entries, key)
		return Result{Code: cachepb.Code_OK, Index: index}
	}
	if entries == nil {
		entries = map[string]modelEntry{}
		m.entries[name] = entries
	}
	e := modelEntry{value: string(value), at: newStamp(index, i)}
	if ttl := int64(tag.GetTtlMs()); ttl != 0 {
		e.expires = m.clusterMs + ttl
	} else if policy.TTL != 0 {
		e.expires = m.clusterMs + policy.TTL.Milliseconds()
	}
	entries[key] = e
	if policy.Evict != LRU {
		m.evict(policy, entries)
	}
	return Result{Code: cachepb.Code_OK, Index: index}
}

// admit returns the session in which an operation takes effect, or what it is answered instead.
func (m *model) admit(tag *cachepb.OpTag) (*modelSession, Result) {
	id, seq := tag.GetSession(), tag.GetSeq()
	s := m.sessions[id]
	if s == nil {
		opened := min(int64(tag.GetOpenedMs()), m.clusterMs)
		if seq != 1 || opened != 0 && (opened <= m.forgotten || m.clusterMs-opened >= SessionIdleMs) {
			return nil, Result{Code: cachepb.Code_SESSION_EXPIRED}
		}
		if len(m.sessions) >= m.limits.sessions {
			m.expel()
		}
		s = &modelSession{first: 1, opened: opened, slots: minSlots, done: map[uint64]uint64{}}
		m.sessions[id] = s
	}
	m.touches++
	s.lastMs, s.touched = m.clusterMs, m.touches
	m.bound(s)
	s.first = max(s.first, min(tag.GetFirstUnacked(), seq))
	switch at, done := s.done[seq]; {
	case seq < s.first:
		return nil, Result{Code: cachepb.Code_INDETERMINATE, Duplicate: true}
	case done:
		return nil, Result{Code: cachepb.Code_OK, Index: at, Duplicate: true}
	case seq-s.first >= MaxOpenOps:
		return nil, Result{Code: cachepb.Code_OVERLOADED}
	}
	for uint64(s.slots) <= seq-s.first {
		s.slots *= 2
	}
	m.bound(s)
	return s, Result{}
}

// bound ends sessions until the others' slots and those of s fit.
func (m *model) bound(s *modelSession) {
	for {
		slots := 0
		for _, o := range m.sessions {
			slots += o.slots
		}
		if slots <= m.limits.slots || m.oldest() == s {
			return
		}
		m.expel()
	}
}

func (m *model) oldest() (oldest *modelSession) {
	for _, s := range m.sessions {
		if oldest == nil || s.touched < oldest.touched {
			oldest = s
		}
	}
	return oldest
}

func (m *model) expel() {
	s := m.oldest()
	m.forgotten = max(m.forgotten, s.opened)
	maps.DeleteFunc(m.sessions, func(_ uint64, o *modelSession) bool { return o == s })
}

func (m *model) evict(p Policy, entries map[string]modelEntry) {
	keys := slices.SortedFunc(maps.Keys(entries), func(a, b string) int { return int(entries[a].at) - int(entries[b].at) })
	size := bytesOf(entries)
	for _, k := range keys {
		if (p.MaxEntries == 0 || int64(len(entries)) <= p.MaxEntries) && (p.MaxBytes == 0 || size <= p.MaxBytes) {
			return
		}
		size -= int64(len(k)+len(entries[k].value)) + EntryOverhead
		delete(entries, k)
	}
}

func bytesOf(entries map[string]modelEntry) (n int64) {
	for k, e := range entries {
		n += int64(len(k)+len(e.value)) + EntryOverhead
	}
	return n
}

// dump returns all entries of a store in the model's form.
func dump(s *Store) map[string]map[string]modelEntry {
	st := s.state.Load()
	all := map[string]map[string]modelEntry{}
	byID := st.catalog.Load().byID
	for _, c := range byID {
		all[c.name] = map[string]modelEntry{}
	}
	for i := range st.shards {
		sh := &st.shards[i]
		for n := range sh.used {
			if sh.meta(n).stamp != 0 {
				data, m := sh.entry(n)
				k := m.keyBytes()
				all[byID[m.cache].name][string(data[:k])] = modelEntry{string(data[k:]), m.stamp, m.expires(data)}
			}
		}
	}
	return all
}

// replicated drops the caches in which replicas may differ.
func replicated(all map[string]map[string]modelEntry, policy func(string) Policy) map[string]map[string]modelEntry {
	all = maps.Clone(all)
	maps.DeleteFunc(all, func(name string, _ map[string]modelEntry) bool { return policy(name).Evict == LRU })
	return all
}

func policyOf(s *Store) func(string) Policy { return s.state.Load().policy }

var compareEntries = cmp.AllowUnexported(modelEntry{})

// checkConsistent verifies what a state keeps twice: counters, orders, lists and the hash, each against the entries.
func checkConsistent(t interface{ Fatalf(string, ...any) }, s *Store) {
	st := s.state.Load()
	var total int64
	hash := uint64(0)
	for _, c := range st.catalog.Load().byID {
		var entries, size int64
		refs := map[ref]bool{}
		for i := range st.shards {
			sh := &st.shards[i]
			for n := range sh.used {
				if m := sh.meta(n); m.stamp == 0 || m.cache != c.id {
					continue
				}
				data, m := sh.entry(n)
				refs[newRef(uint32(i), n)] = true
				entries++
				size += int64(len(data)) + EntryOverhead
				if c.policy.Evict != LRU {
					hash += entryHash(c, data, m)
				}
				key := string(data[:m.keyBytes()])
				shardNumber, tag := fold(st.hasher.sumString(c, key))
				if got, ok := find(&st.shards[shardNumber], tag, c.id, key); !ok || got != n || shardNumber != uint32(i) {
					t.Fatalf("%s/%q is not where it is looked for", c.name, key)
				}
				if st.gone(c, m.stamp, m.expires(data)) {
					t.Fatalf("%s/%q has stamp %d and expires at %d; evicted up to %d, swept up to %v",
						c.name, key, m.stamp, m.expires(data), c.watermark, st.expiry.swept)
				}
			}
		}
		if c.entries.Load() != entries || c.bytes.Load() != size {
			t.Fatalf("%s counts %d entries, %d bytes; there are %d, %d", c.name, c.entries.Load(), c.bytes.Load(), entries, size)
		}
		total += size
		if c.policy.Evict != LRU {
			hash += mix(c.nameHash + 1)
		}
		if c.policy.bounded() {
			checkOrder(t, st, c, refs)
		}
		if c.evictsByLog() && !st.catchingUp && c.over() {
			t.Fatalf("%s is over its bounds with %d entries, %d bytes", c.name, entries, size)
		}
	}
	if st.bytes.Load() != total {
		t.Fatalf("counts %d bytes in all, there are %d", st.bytes.Load(), total)
	}
	if st.hash != hash {
		t.Fatalf("hash %x kept, %x computed", st.hash, hash)
	}
	checkBuckets(t, st)
	checkSessions(t, st)
	checkBlocks(t, st)
}

// checkBlocks walks the records of all blocks: those that are not dead are exactly those that entries point to, the counts
// are right, and no more is dead than may be.
func checkBlocks(t interface{ Fatalf(string, ...any) }, st *state) {
	for i := range st.shards {
		sh := &st.shards[i]
		bs := &sh.blocks
		places, spare := map[place]uint32{}, map[uint32]bool{}
		for n := range sh.used {
			if m := sh.meta(n); m.stamp != 0 {
				places[m.place] = n
			}
		}
		for _, n := range bs.spare {
			spare[n] = true
		}
		var stored, live int64
		for n := range bs.list {
			b, at, inBlock := &bs.list[n], uint32(0), uint32(0)
			if (b.data == nil) != spare[uint32(n)] {
				t.Fatalf("shard %d: block %d has %d bytes, and it is %v that it is spare", i, n, len(b.data), spare[uint32(n)])
			}
			for at < b.filled {
				word, size := binary.LittleEndian.Uint32(b.data[at:]), binary.LittleEndian.Uint32(b.data[at+4:])
				if word&recordDead == 0 {
					p := place{uint32(n), at}
					if entry, ok := places[p]; !ok || entry != word&maxNumber {
						t.Fatalf("shard %d: the record at %v is of entry %d, which is elsewhere", i, p, word&maxNumber)
					}
					delete(places, p)
					inBlock += recordBytes(int(size), word&recordTail != 0)
				}
				at += recordBytes(int(size), word&recordTail != 0)
			}
			if b.live != inBlock || at != b.filled {
				t.Fatalf("shard %d, block %d: %d living bytes counted, there are %d; records end at %d of %d", i, n, b.live, inBlock, at, b.filled)
			}
			live += int64(b.live)
			if uint32(n)+1 == bs.open {
				stored += int64(b.filled)
			} else {
				stored += int64(len(b.data))
			}
		}
		if len(places) > 0 {
			t.Fatalf("shard %d: %d entries have no record", i, len(places))
		}
		if bs.stored != stored || bs.live != live {
			t.Fatalf("shard %d: counts %d and %d bytes, there are %d and %d", i, bs.stored, bs.live, stored, live)
		}
		if _, ok := bs.victim(); ok && bs.crowded() && bs.stored-bs.live > bs.live/DeadShare+bs.slack+blockBytes {
			t.Fatalf("shard %d: of %d bytes %d live", i, bs.stored, bs.live)
		}
	}
}

func checkOrder(t interface{ Fatalf(string, ...any) }, st *state, c *cache, refs map[ref]bool) {
	seen := 0
	var prev ref
	for r := c.order.head; r != 0; prev, r = r, st.meta(r).next {
		seen++
		if !refs[r] || st.meta(r).prev != prev {
			t.Fatalf("%s: broken order", c.name)
		}
		if c.policy.Evict != LRU && prev != 0 && !st.catchingUp && st.meta(prev).stamp >= st.meta(r).stamp {
			t.Fatalf("%s: order does not ascend", c.name)
		}
	}
	if c.order.tail != prev {
		t.Fatalf("%s: tail is not the end", c.name)
	}
	if seen != len(refs) {
		t.Fatalf("%s: %d of %d entries have an order", c.name, seen, len(refs))
	}
}

func checkBuckets(t interface{ Fatalf(string, ...any) }, st *state) {
	linked := 0
	for _, e := range []*expiry{&st.expiry, &st.expiryLRU} {
		for sec, l := range e.buckets {
			var prev ref
			for r := l.head; r != 0; prev, r = r, link(st.data(r), tailNext) {
				linked++
				if second(st.meta(r).expires(st.data(r))) != sec || link(st.data(r), tailPrev) != prev {
					t.Fatalf("bucket %d: broken", sec)
				}
				if e == &st.expiry && prev != 0 && !st.catchingUp && st.meta(prev).stamp >= st.meta(r).stamp {
					t.Fatalf("bucket %d: order does not ascend", sec)
				}
			}
			if l.head == 0 || l.tail != prev {
				t.Fatalf("bucket %d: empty, or its tail is not the end", sec)
			}
			if sec < e.until && !slices.Contains(e.due, sec) {
				t.Fatalf("bucket %d has passed %d and is not due", sec, e.until)
			}
		}
	}
	expiring := 0
	for i := range st.shards {
		for n := range st.shards[i].used {
			if st.shards[i].meta(n).stamp == 0 {
				continue
			}
			if data, m := st.shards[i].entry(n); m.expires(data) != 0 {
				expiring++
			}
		}
	}
	if linked != expiring {
		t.Fatalf("%d of %d expiring entries are in buckets", linked, expiring)
	}
}

func checkSessions(t interface{ Fatalf(string, ...any) }, st *state) {
	hash := mix(uint64(st.sessions.forgotten))
	slots, n := 0, 0
	for s := st.sessions.oldest; s != nil; s = s.next {
		hash += s.hash() + s.opsHash()
		slots += len(s.ring)
		n++
		if st.sessions.byID[s.id] != s || s.next != nil && s.next.lastMs < s.lastMs {
			t.Fatalf("session %x: out of order", s.id)
		}
	}
	if hash != st.sessions.hash || slots != st.sessions.slots || n != len(st.sessions.byID) {
		t.Fatalf("sessions: hash %x slots %d count %d kept, %x %d %d found",
			st.sessions.hash, st.sessions.slots, len(st.sessions.byID), hash, slots, n)
	}
}

// ---- random logs

var testConfig = Config{
	Caches: map[string]Policy{
		"entries": {MaxEntries: 5},
		"bytes":   {MaxBytes: 6 * (EntryOverhead + 8)},
		"ttl":     {TTL: 1500 * time.Millisecond},
		"both":    {MaxEntries: 4, TTL: 2500 * time.Millisecond},
		"lru":     {MaxEntries: 4, TTL: 2500 * time.Millisecond, Evict: LRU},
	},
}

// smallLimits are reached by the logs below.
var smallLimits = limits{sweep: 1, sessions: 3, slots: MaxOpenOps + minSlots}

// logGen draws batches whose time moves on, over few keys, with retries of session operations.
type logGen struct {
	caches    []string // drawn once: many caches see little of each
	clusterMs int64
	seqs      map[uint64]uint64
}

var logCaches = [][]string{
	{"plain", "entries", "entries", "bytes", "bytes", "ttl", "both", "both", "lru"}, {"entries"}, {"both"}, {"bytes", "lru"}, {"ttl", "plain", "lru"},
}

func (g *logGen) batch(t *rapid.T) *cachepb.Batch {
	g.clusterMs += rapid.SampledFrom([]int64{0, 0, 0, 1, 1, 5, 100, 300, 300, 1000, 2700, 61_000}).Draw(t, "ms")
	b := &cachepb.Batch{ClusterMs: g.clusterMs}
	if rapid.IntRange(0, 9).Draw(t, "clock goes back") == 0 {
		b.ClusterMs -= 500
	}
	for range rapid.SampledFrom([]int{0, 0, 1, 2, 5, 10}).Draw(t, "ops") {
		b.Ops = append(b.Ops, g.op(t))
	}
	return b
}

func (g *logGen) op(t *rapid.T) *cachepb.CacheRequest {
	if g.caches == nil {
		g.caches = rapid.SampledFrom(logCaches).Draw(t, "caches")
	}
	cache := rapid.SampledFrom(g.caches).Draw(t, "cache")
	key := rapid.SampledFrom([]string{"", "a", "b", "c", "d", "e", "f", "g", "h"}).Draw(t, "key")
	value := rapid.SampledFrom([]string{"", "1", "22", "7777777", strings.Repeat("x", 60)}).Draw(t, "value")
	tag := &cachepb.OpTag{TtlMs: rapid.SampledFrom([]uint32{0, 0, 0, 1, 900, 5000}).Draw(t, "ttl")}
	if session := rapid.SampledFrom([]uint64{0, 0, 0, 1, 2, 3, 4, 5}).Draw(t, "session"); session != 0 {
		g.tag(t, tag, session)
	}
	switch rapid.IntRange(0, 5).Draw(t, "kind") {
	case 0:
		return delOp(cache, key, tag)
	case 1:
		return removeOp(cache, key, tag)
	case 2:
		return insertOp(cache, key, value, tag)
	default:
		return putOp(cache, key, value, tag)
	}
}

// tag draws the next number of a session, one before it, or one at the far end of its window.
func (g *logGen) tag(t *rapid.T, tag *cachepb.OpTag, session uint64) {
	next := g.seqs[session] + 1
	low := uint64(1)
	if next > 12 {
		low = next - 12
	}
	tag.Session = session
	tag.Seq = rapid.Uint64Range(low, next+1).Draw(t, "seq")
	if next > 1 && rapid.IntRange(0, 9).Draw(t, "far ahead") == 0 {
		tag.Seq += rapid.SampledFrom([]uint64{20, 50, MaxOpenOps - 2, MaxOpenOps, MaxOpenOps + 3}).Draw(t, "by")
	} else {
		g.seqs[session] = max(next-1, tag.Seq)
	}
	tag.FirstUnacked = rapid.Uint64Range(0, tag.Seq+1).Draw(t, "first unacked")
	if tag.Seq == 1 && rapid.Bool().Draw(t, "says when it was opened") {
		tag.OpenedMs = uint64(g.clusterMs - rapid.SampledFrom([]int64{-100, 0, 1, 500, 59_999, 60_000, 90_000}).Draw(t, "ago"))
	}
	if rapid.IntRange(0, 20).Draw(t, "start again") == 0 {
		g.seqs[session] = 0
	}
}

func newLogGen() *logGen { return &logGen{clusterMs: 1_700_000_000_000, seqs: map[uint64]uint64{}} }

// The store has the same results and entries as the model after every batch. Of an LRU cache it may lack what it says it
// has evicted, but never what was written last.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, m, g := newStore(testConfig, smallLimits), newModel(testConfig, smallLimits), newLogGen()
		index := uint64(0)
		for range rapid.IntRange(1, 40).Draw(t, "batches") {
			index += rapid.Uint64Range(1, 3).Draw(t, "gap")
			b := g.batch(t)
			var got []Result
			s.Apply(index, b, func(_ int, r Result) { got = append(got, r) })
			if diff := cmp.Diff(m.apply(index, b), got); diff != "" {
				t.Fatalf("results of batch %d (-want +got):\n%s", index, diff)
			}
			all := dump(s)
			if diff := cmp.Diff(replicated(m.entries, m.policy), replicated(all, m.policy), compareEntries); diff != "" {
				t.Fatalf("entries after batch %d (-want +got):\n%s", index, diff)
			}
			checkConsistent(t, s)
			checkLRU(t, s, m, all["lru"])
			for cache, entries := range m.entries {
				for key, e := range entries {
					v, at, ok := s.Get(cache, key, m.clusterMs)
					live := e.expires == 0 || e.expires > m.clusterMs
					if ok != live || ok && (string(v) != e.value || at != e.at.index()) {
						t.Fatalf("Get %s/%q: %q at %d, %v; want %+v", cache, key, v, at, ok, e)
					}
				}
			}
		}
	})
}

// checkLRU compares the LRU cache with all that was written to it, and takes out of the model what is missing.
func checkLRU(t *rapid.T, s *Store, m *model, have map[string]modelEntry) {
	written := m.entries["lru"]
	var last string
	for k, e := range written {
		if e.at > written[last].at {
			last = k
		}
	}
	for k, e := range have {
		if written[k] != e {
			t.Fatalf("lru/%q is %+v, written was %+v", k, e, written[k])
		}
	}
	missing := uint64(0)
	for k, e := range written {
		if _, ok := have[k]; ok {
			continue
		}
		if k == last && (e.expires == 0 || e.expires/1000 >= m.clusterMs/1000) {
			t.Fatalf("lru/%q is gone, the last entry that was written", k)
		}
		missing++
		delete(written, k)
	}
	for _, c := range s.Stats().Caches {
		if c.Name != "lru" {
			continue
		}
		if c.Entries > 4 {
			t.Fatalf("lru has %d entries, want 4 at most", c.Entries)
		}
		if m.lruGone += missing; m.lruGone > c.Evictions+c.Expirations {
			t.Fatalf("%d entries of lru are gone, %d were evicted and %d expired", m.lruGone, c.Evictions, c.Expirations)
		}
	}
}

// ---- snapshots

// transfer is a fuzzy snapshot on its way: a sender that goes on applying, and a receiver that joins.
type transfer struct {
	w        *SnapshotWriter
	r        *Restorer
	index    uint64
	finished bool
}

func (x *transfer) step(t interface{ Fatalf(string, ...any) }, limit int) {
	chunk, done := x.w.Next(limit)
	if err := x.r.Add(chunk); err != nil {
		t.Fatalf("add: %v", err)
	}
	if done {
		if err := x.r.Finish(); err != nil {
			t.Fatalf("finish: %v", err)
		}
		x.finished = true
	}
}

// A node that joins with a fuzzy snapshot, taken while the sender applies and cut anywhere, has the sender's state from
// CompleteAt on: entries, sessions, results and hash. The sender may itself still be catching up.
func TestFuzzySnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newLogGen()
		var log []*cachepb.Batch // log[i] has index i+1
		sender := newStore(testConfig, smallLimits)
		applySender := func() {
			b := g.batch(t)
			log = append(log, b)
			sender.Apply(uint64(len(log)), b, nil)
		}
		for range rapid.SampledFrom([]int{0, 3, 10, 20}).Draw(t, "batches before") {
			applySender()
		}
		first := join(t, sender, Config{}, applySender, "first")
		// A second node joins from the first, which has not caught up with the transfer's end.
		caughtUp := func() {
			if i := first.Applied(); i < uint64(len(log)) {
				first.Apply(i+1, log[i], nil)
			} else {
				applySender()
				first.Apply(i+1, log[i], nil)
			}
		}
		for range rapid.IntRange(0, 3).Draw(t, "batches between") {
			caughtUp()
		}
		meanwhile := caughtUp
		if rapid.Bool().Draw(t, "second joins at once") {
			meanwhile = func() {}
		}
		second := join(t, first, Config{Default: Policy{MaxEntries: 1}}, meanwhile, "second")
		for range rapid.IntRange(0, 10).Draw(t, "batches after") {
			applySender()
		}
		for i, n := range []*Store{first, second} {
			for n.Applied() < uint64(len(log)) {
				n.Apply(n.Applied()+1, log[n.Applied()], nil)
			}
			if n.CompleteAt() > n.Applied() {
				t.Fatalf("node %d is complete at %d only, the log ends at %d", i, n.CompleteAt(), n.Applied())
			}
			checkConsistent(t, n)
			policy := policyOf(sender)
			if diff := cmp.Diff(replicated(dump(sender), policy), replicated(dump(n), policy), compareEntries); diff != "" {
				t.Fatalf("node %d at %d (-sender +node):\n%s", i, n.Applied(), diff)
			}
			if n.StateHash() != sender.StateHash() {
				t.Fatalf("node %d has hash %x, the sender %x, with equal entries", i, n.StateHash(), sender.StateHash())
			}
		}
		// From here on all must give the same answers.
		for range rapid.IntRange(0, 10).Draw(t, "batches at the end") {
			b := g.batch(t)
			var results [3][]Result
			for i, n := range []*Store{sender, first, second} {
				n.Apply(n.Applied()+1, b, func(_ int, r Result) { results[i] = append(results[i], r) })
			}
			for i := range 2 {
				if diff := cmp.Diff(results[0], results[i+1]); diff != "" {
					t.Fatalf("results of node %d (-sender +node):\n%s", i, diff)
				}
			}
			if a, b, c := sender.StateHash(), first.StateHash(), second.StateHash(); a != b || a != c {
				t.Fatalf("hashes %x, %x, %x", a, b, c)
			}
		}
	})
}

func join(t *rapid.T, from *Store, cfg Config, meanwhile func(), label string) *Store {
	n := newStore(cfg, smallLimits)
	x := &transfer{w: from.BeginSnapshot(), r: n.BeginRestore(from.Applied()), index: from.Applied()}
	for !x.finished {
		for range rapid.SampledFrom([]int{0, 1, 1, 2}).Draw(t, label+": batches meanwhile") {
			meanwhile()
		}
		x.step(t, rapid.SampledFrom([]int{1, 1, 50, 200, 5000}).Draw(t, label+": chunk"))
	}
	if n.Applied() != x.index {
		t.Fatalf("applied %d after a restore of %d", n.Applied(), x.index)
	}
	return n
}

// While a restored state catches up, its entries must not be counted: at E the sender has {b, c, d}, never had more than
// three, and evicted nothing; the restored state has four in between.
func TestSnapshotOfABoundedCache(t *testing.T) {
	cfg := Config{Default: Policy{MaxEntries: 3}}
	sender := New(cfg)
	apply(sender, 0, putOp("c", "a", "1", nil), putOp("c", "b", "1", nil), putOp("c", "c", "1", nil))
	n := New(Config{})
	x := &transfer{w: sender.BeginSnapshot(), r: n.BeginRestore(sender.Applied())}
	log := []*cachepb.Batch{
		batch(0, delOp("c", "a", nil)), batch(0, putOp("c", "x", "1", nil)), batch(0, delOp("c", "x", nil)), batch(0, putOp("c", "d", "1", nil)),
	}
	for _, b := range log {
		sender.Apply(sender.Applied()+1, b, nil)
	}
	for !x.finished {
		x.step(t, 1000)
	}
	for _, b := range log {
		n.Apply(n.Applied()+1, b, nil)
		checkConsistent(t, n)
	}
	if diff := cmp.Diff(dump(sender), dump(n), compareEntries); diff != "" || n.StateHash() != sender.StateHash() {
		t.Errorf("(-sender +node):\n%s", diff)
	}
}

// A removal replayed after its entry came back does not take it away, and one whose entry was read too early does.
func TestSnapshotRemovals(t *testing.T) {
	sender := New(Config{})
	for i := range 200 {
		apply(sender, 0, putOp("c", strconv.Itoa(i), "old", nil))
	}
	start := sender.Applied()
	n := New(Config{})
	x := &transfer{w: sender.BeginSnapshot(), r: n.BeginRestore(start)}
	for range 100 {
		x.step(t, 1) // about half of the shards
	}
	log := []*cachepb.Batch{}
	for i := range 200 {
		key := strconv.Itoa(i)
		ops := []*cachepb.CacheRequest{removeOp("c", key, nil)}
		if i%2 == 0 {
			ops = append(ops, putOp("c", key, "new", nil), delOp("c", key, nil), insertOp("c", key, "newest", nil))
		}
		log = append(log, batch(0, ops...))
		apply(sender, 0, ops...)
	}
	for !x.finished {
		x.step(t, 1)
	}
	for _, b := range log {
		n.Apply(n.Applied()+1, b, nil)
	}
	for i := range 200 {
		if key := strconv.Itoa(i); i%2 == 0 {
			mustGet(t, n, "c", key, "newest")
		} else {
			mustMiss(t, n, "c", key, 0)
		}
	}
	if n.CompleteAt() != sender.Applied() || n.StateHash() != sender.StateHash() {
		t.Errorf("complete at %d with hash %x, want %d and %x", n.CompleteAt(), n.StateHash(), sender.Applied(), sender.StateHash())
	}
}

// Everything that is not the whole of a snapshot in its order is refused, and the store keeps its state.
func TestCorruptSnapshot(t *testing.T) {
	sender := New(testConfig)
	apply(sender, 5000, putOp("plain", "k", "v", &cachepb.OpTag{Session: 7, Seq: 1}), putOp("ttl", "k", "v", nil))
	w := sender.BeginSnapshot()
	whole, _ := w.Next(1 << 20)
	if chunk, done := w.Next(1); chunk != nil || !done {
		t.Error("there is more after the end")
	}
	n := New(Config{})
	apply(n, 0, putOp("c", "mine", "1", nil))
	restore := func(index uint64, chunks ...[]byte) error {
		r := n.BeginRestore(index)
		for _, c := range chunks {
			if err := r.Add(c); err != nil {
				if again := r.Add(whole); !errors.Is(again, err) || !errors.Is(r.Finish(), err) {
					t.Error("an error was forgotten")
				}
				return err
			}
		}
		return r.Finish()
	}
	for end := range whole {
		if err := restore(1, whole[:end]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%d of %d bytes: %v, want ErrCorrupt", end, len(whole), err)
		}
	}
	for name, chunks := range map[string][][]byte{
		"nothing":              {},
		"twice":                {whole, whole},
		"something at the end": {whole, {recordTrailer}},
		"no descriptor":        {{recordTrailer, 0, 0}},
		"unknown record":       {append(slices.Clone(whole[:len(whole)-4]), 'X')},
	} {
		if err := restore(1, chunks...); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
	}
	if err := restore(0, whole); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a snapshot newer than its index: %v, want ErrCorrupt", err)
	}
	mustGet(t, n, "c", "mine", "1")
	if err := restore(1, whole); err != nil {
		t.Fatal(err)
	}
	mustMiss(t, n, "c", "mine", 0)
	mustGet(t, n, "plain", "k", "v")
}

// No input makes a Restorer panic or accept a state that is not consistent in itself.
func FuzzRestorer(f *testing.F) {
	sender := New(testConfig)
	g := rand.New(rand.NewPCG(1, 2))
	for i := range 30 {
		apply(sender, int64(1000*i), putOp([]string{"plain", "entries", "both"}[g.IntN(3)], strconv.Itoa(i), "value",
			&cachepb.OpTag{Session: uint64(i%3 + 1), Seq: uint64(i/3 + 1), TtlMs: uint32(g.IntN(2) * 10000)}))
	}
	whole, _ := sender.BeginSnapshot().Next(1 << 20)
	f.Add(whole, uint16(20))
	f.Add(whole[:len(whole)/2], uint16(0))
	f.Fuzz(func(t *testing.T, data []byte, cut uint16) {
		n := New(testConfig)
		r := n.BeginRestore(100)
		at := min(int(cut), len(data))
		if r.Add(data[:at]) != nil || r.Add(data[at:]) != nil || r.Finish() != nil {
			return
		}
		checkConsistent(t, n)
		for i := range 5 {
			n.Apply(101+uint64(i), batch(int64(i)*70_000, putOp("plain", "x", "y", &cachepb.OpTag{Session: 1, Seq: uint64(i + 1)}),
				putOp("both", strconv.Itoa(i), "y", nil)), nil)
		}
		checkConsistent(t, n)
	})
}

// ---- sessions

func tag(session, seq, first uint64) *cachepb.OpTag {
	return &cachepb.OpTag{Session: session, Seq: seq, FirstUnacked: first}
}

func openedAt(session, ms uint64) *cachepb.OpTag {
	return &cachepb.OpTag{Session: session, Seq: 1, OpenedMs: ms}
}

func TestSessions(t *testing.T) {
	ok := func(index uint64) Result { return Result{Code: cachepb.Code_OK, Index: index} }
	again := func(index uint64) Result { return Result{Code: cachepb.Code_OK, Index: index, Duplicate: true} }
	code := func(c cachepb.Code) Result { return Result{Code: c} }
	for _, tc := range []struct {
		name string
		ms   []int64 // cluster time of each batch of one operation
		tags []*cachepb.OpTag
		want []Result
	}{
		{
			"a duplicate has the first index", nil,
			[]*cachepb.OpTag{tag(1, 1, 0), tag(1, 1, 0), tag(1, 2, 0), tag(1, 2, 1)},
			[]Result{ok(1), again(1), ok(3), again(3)},
		},
		{
			"sessions are apart", nil,
			[]*cachepb.OpTag{tag(1, 1, 0), tag(2, 1, 0), tag(2, 1, 0)},
			[]Result{ok(1), ok(2), again(2)},
		},
		{
			"a session begins with 1", nil,
			[]*cachepb.OpTag{tag(1, 2, 0), tag(1, 1, 0), tag(1, 2, 0)},
			[]Result{code(cachepb.Code_SESSION_EXPIRED), ok(2), ok(3)},
		},
		{
			"numbers may come in any order", nil,
			[]*cachepb.OpTag{tag(1, 1, 0), tag(1, 5, 1), tag(1, 3, 1), tag(1, 5, 1)},
			[]Result{ok(1), ok(2), ok(3), again(2)},
		},
		{
			"what was acknowledged is forgotten and has no effect", nil,
			[]*cachepb.OpTag{tag(1, 1, 0), tag(1, 3, 3), tag(1, 1, 0), tag(1, 2, 0)},
			[]Result{ok(1), ok(2), {Code: cachepb.Code_INDETERMINATE, Duplicate: true}, {Code: cachepb.Code_INDETERMINATE, Duplicate: true}},
		},
		{
			"first_unacked never passes the operation itself", nil,
			[]*cachepb.OpTag{tag(1, 1, 9), tag(1, 2, 100), tag(1, 3, 3)},
			[]Result{ok(1), ok(2), ok(3)},
		},
		{
			"the window", nil,
			[]*cachepb.OpTag{tag(1, 1, 1), tag(1, MaxOpenOps, 1), tag(1, MaxOpenOps+1, 1), tag(1, MaxOpenOps+1, 2), tag(1, 2, 1), tag(1, 2, 2)},
			[]Result{ok(1), ok(2), code(cachepb.Code_OVERLOADED), ok(4), ok(5), again(5)},
		},
		{
			"idle too long",
			[]int64{1, SessionIdleMs, 2*SessionIdleMs - 1, 3*SessionIdleMs - 1},
			[]*cachepb.OpTag{tag(1, 1, 0), tag(1, 2, 0), tag(1, 2, 0), tag(1, 2, 0)},
			[]Result{ok(1), ok(2), again(2), code(cachepb.Code_SESSION_EXPIRED)},
		},
		{
			"a late copy of the first operation, which says when it was",
			[]int64{1000, 1000, 1000 + SessionIdleMs, 1000 + SessionIdleMs},
			[]*cachepb.OpTag{openedAt(1, 1000), openedAt(1, 1000), openedAt(1, 1000), openedAt(1, 1001)},
			[]Result{ok(1), again(1), code(cachepb.Code_SESSION_EXPIRED), ok(4)},
		},
		{
			"a first operation from the future began now",
			[]int64{1000, 1000 + SessionIdleMs},
			[]*cachepb.OpTag{openedAt(1, 1500), openedAt(1, 1000)},
			[]Result{ok(1), code(cachepb.Code_SESSION_EXPIRED)},
		},
		{
			"the largest numbers", nil,
			[]*cachepb.OpTag{tag(1, 1, 1), tag(1, 1<<64-1, 1<<64-1), tag(1, 1<<64-1, 1<<64-1), tag(1, 1<<64-9, 1)},
			[]Result{ok(1), ok(2), again(2), {Code: cachepb.Code_INDETERMINATE, Duplicate: true}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := New(Config{})
			for i, tag := range tc.tags {
				ms := int64(0)
				if tc.ms != nil {
					ms = tc.ms[i]
				}
				before, _, _ := s.Get("c", "k", 0)
				got := apply(s, ms, putOp("c", "k", strconv.Itoa(i), tag))[0]
				if got != tc.want[i] {
					t.Errorf("operation %d: %+v, want %+v", i, got, tc.want[i])
				}
				want := string(before)
				if got.Code == cachepb.Code_OK && !got.Duplicate {
					want = strconv.Itoa(i)
				}
				if after, _, _ := s.Get("c", "k", 0); string(after) != want {
					t.Errorf("operation %d: value is %q, want %q", i, after, want)
				}
			}
			checkConsistent(t, s)
		})
	}
}

// One session too many ends the one that was idle longest, and no other.
func TestTooManySessions(t *testing.T) {
	s := New(Config{})
	for id := range uint64(MaxSessions) {
		apply(s, 0, delOp("c", "k", tag(id+1, 1, 0)))
	}
	apply(s, 0, delOp("c", "k", tag(1, 2, 0))) // 2 is now the longest idle one
	if got := s.Stats().Sessions; got != MaxSessions {
		t.Fatalf("%d sessions, want %d", got, MaxSessions)
	}
	r := apply(s, 0, delOp("c", "k", tag(1<<40, 1, 0)), delOp("c", "k", tag(2, 2, 0)), delOp("c", "k", tag(3, 2, 0)), delOp("c", "k", tag(1, 3, 0)))
	for i, want := range []cachepb.Code{cachepb.Code_OK, cachepb.Code_SESSION_EXPIRED, cachepb.Code_OK, cachepb.Code_OK} {
		if r[i].Code != want {
			t.Errorf("operation %d: %v, want %v", i, r[i].Code, want)
		}
	}
	checkConsistent(t, s)
}

// A late copy of the first operation of a session that was ended for room does not begin it again; sessions that begin
// later do.
func TestEndedForRoom(t *testing.T) {
	s := newStore(Config{}, smallLimits)
	for id := range uint64(smallLimits.sessions + 1) { // one too many
		apply(s, 1000+int64(id), delOp("c", "k", openedAt(id+1, 1000+id)))
	}
	want := []cachepb.Code{cachepb.Code_SESSION_EXPIRED, cachepb.Code_SESSION_EXPIRED, cachepb.Code_OK, cachepb.Code_OK}
	for i, r := range apply(s, 2000, delOp("c", "k", openedAt(1, 1000)), delOp("c", "k", openedAt(99, 1000)),
		delOp("c", "k", openedAt(2, 1001)), delOp("c", "k", openedAt(99, 1001))) {
		if r.Code != want[i] {
			t.Errorf("operation %d: %v, want %v", i, r.Code, want[i])
		}
	}
	checkConsistent(t, s)
}

// The memory of all sessions together is bounded.
func TestSessionSlots(t *testing.T) {
	s := New(Config{})
	const wide = maxSlots/MaxOpenOps + 5
	for id := range uint64(wide) {
		apply(s, 0, delOp("c", "k", tag(id+1, 1, 1)), delOp("c", "k", tag(id+1, MaxOpenOps, 1)))
	}
	if got := s.Stats().Sessions; got != maxSlots/MaxOpenOps {
		t.Errorf("%d sessions of %d slots, want %d", got, MaxOpenOps, maxSlots/MaxOpenOps)
	}
	checkConsistent(t, s)
}

// ---- bounds and time

// The oldest writes go first; a write makes its entry the youngest; equal logs evict equally.
func TestOldestWrite(t *testing.T) {
	s := New(Config{Default: Policy{MaxEntries: 3}})
	apply(s, 0, putOp("c", "a", "1", nil), putOp("c", "b", "1", nil), putOp("c", "c", "1", nil))
	s.Get("c", "b", 0) // reading counts for nothing
	apply(s, 0, putOp("c", "a", "2", nil), putOp("c", "d", "1", nil))
	mustMiss(t, s, "c", "b", 0)
	mustGet(t, s, "c", "a", "2")
	apply(s, 0, putOp("c", "e", "1", nil))
	mustMiss(t, s, "c", "c", 0)
	if got := s.Stats().Caches[0]; got.Entries != 3 || got.Evictions != 2 || got.Bytes != 3*(2+EntryOverhead) {
		t.Errorf("stats %+v", got)
	}
	// By bytes one write may evict several, but never more than needed.
	s = New(Config{Default: Policy{MaxBytes: 4 * (EntryOverhead + 10)}})
	for _, k := range []string{"a", "b", "c", "d"} {
		apply(s, 0, putOp("c", k, "123456789", nil))
	}
	apply(s, 0, putOp("c", "e", strings.Repeat("x", EntryOverhead+19), nil))
	mustMiss(t, s, "c", "a", 0)
	mustMiss(t, s, "c", "b", 0)
	mustGet(t, s, "c", "c", "123456789")
}

// An LRU cache keeps what is read, and never evicts what was just written, however much everything else is read.
func TestLRU(t *testing.T) {
	s := New(Config{Default: Policy{MaxEntries: 10, Evict: LRU}})
	for i := range 10 {
		apply(s, 0, putOp("c", strconv.Itoa(i), "v", nil))
	}
	apply(s, 0, putOp("c", "first", "v", nil)) // spends the chances of the new ones, evicts 0
	for round := range 50 {
		for _, k := range []string{"3", "7"} {
			if _, _, ok := s.Get("c", k, 0); !ok {
				t.Fatalf("%s was evicted in round %d although it is read", k, round)
			}
		}
		apply(s, 0, putOp("c", fmt.Sprint("new", round), "v", nil))
		mustGet(t, s, "c", fmt.Sprint("new", round), "v")
		checkConsistent(t, s)
	}
	for i := range 300 {
		for k := range dump(s)["c"] {
			s.Get("c", k, 0)
		}
		apply(s, 0, putOp("c", fmt.Sprint("all", i), "v", nil))
		mustGet(t, s, "c", fmt.Sprint("all", i), "v")
	}
	if got := s.Stats().Caches[0]; got.Entries != 10 {
		t.Errorf("%d entries, want 10", got.Entries)
	}
	if hash := s.StateHash(); hash != 0 {
		t.Errorf("hash %x, want an LRU cache left out", hash)
	}
	one := New(Config{Default: Policy{MaxEntries: 1, Evict: LRU}})
	for i := range 5 {
		apply(one, 0, putOp("c", strconv.Itoa(i), "v", nil))
		mustGet(t, one, "c", strconv.Itoa(i), "v")
	}
}

// Entries that are read after every write are never evicted from an LRU cache with room for them and one more, nor is what
// was just written; everything else goes by last use.
func TestLRUKeepsWhatIsUsed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		room := rapid.IntRange(2, maxCandidates-2).Draw(t, "room")
		hot := rapid.IntRange(1, room-1).Draw(t, "hot")
		s := New(Config{Default: Policy{MaxEntries: int64(room), Evict: LRU}})
		read := func() {
			for i := range hot {
				if _, _, ok := s.Get("c", fmt.Sprint("hot", i), 0); !ok && s.Applied() >= uint64(hot) {
					t.Fatalf("hot%d was evicted at %d", i, s.Applied())
				}
			}
		}
		for i := range hot {
			apply(s, 0, putOp("c", fmt.Sprint("hot", i), "v", nil))
		}
		for range rapid.IntRange(1, 200).Draw(t, "writes") {
			read()
			key := fmt.Sprint(rapid.IntRange(0, 2*room).Draw(t, "key"))
			apply(s, 0, putOp("c", key, "v", nil))
			if _, ok := dump(s)["c"][key]; !ok { // a Get would be a use
				t.Fatalf("%s is gone, just written", key)
			}
			if rapid.IntRange(0, 3).Draw(t, "and del") == 0 {
				apply(s, 0, delOp("c", key, nil))
			}
		}
		read()
		checkConsistent(t, s)
	})
}

// A snapshot of an LRU cache restores within its bounds.
func TestLRUSnapshot(t *testing.T) {
	s := New(Config{Default: Policy{MaxEntries: 50, Evict: LRU}})
	for i := range 80 {
		apply(s, 0, putOp("c", strconv.Itoa(i), "v", nil))
	}
	n := New(Config{})
	x := &transfer{w: s.BeginSnapshot(), r: n.BeginRestore(s.Applied())}
	for !x.finished {
		x.step(t, 100)
	}
	if diff := cmp.Diff(dump(s), dump(n), compareEntries); diff != "" {
		t.Error(diff)
	}
	for i := range 80 {
		apply(n, 0, putOp("c", fmt.Sprint("n", i), "v", nil))
		checkConsistent(t, n)
	}
	if got := n.Stats().Caches[0]; got.Entries != 50 {
		t.Errorf("%d entries, want 50", got.Entries)
	}
}

// Entries are read until the millisecond they expire in, and removed in the second after.
func TestExpiry(t *testing.T) {
	s := New(Config{Caches: map[string]Policy{"short": {TTL: time.Second}}})
	const start = 1_700_000_000_250
	apply(s, start, putOp("c", "k", "v", &cachepb.OpTag{TtlMs: 100}), putOp("c", "for ever", "v", nil),
		putOp("short", "default", "v", nil), putOp("short", "own", "v", &cachepb.OpTag{TtlMs: 60_000}))
	if _, _, ok := s.Get("c", "k", start+99); !ok {
		t.Error("gone too early")
	}
	mustMiss(t, s, "c", "k", start+100)
	mustMiss(t, s, "short", "default", start+1000)
	entries := func() int64 { return s.Stats().Entries }
	apply(s, start+749) // the same second
	if entries() != 4 {
		t.Errorf("%d entries, want 4", entries())
	}
	apply(s, start+750)
	if entries() != 3 {
		t.Errorf("%d entries in the next second, want 3", entries())
	}
	apply(s, start+10) // a step back in time changes nothing
	apply(s, start+1750)
	if entries() != 2 {
		t.Errorf("%d entries, want 2", entries())
	}
	if v, _, ok := s.Get("short", "own", start+59_999); !ok || string(v) != "v" {
		t.Error("the operation's own ttl does not count")
	}
	apply(s, start+1<<40)
	mustGet(t, s, "c", "for ever", "v")
	if st := s.Stats(); st.Entries != 1 || st.Caches[0].Expirations != 1 || st.Caches[1].Expirations != 2 {
		t.Errorf("stats %+v", st)
	}
	// A write without ttl makes an expiring entry stay.
	apply(s, start+1<<40, putOp("c", "k", "1", &cachepb.OpTag{TtlMs: 10}))
	apply(s, start+1<<40, putOp("c", "k", "2", nil))
	apply(s, start+1<<41)
	mustGet(t, s, "c", "k", "2")
}

// However many entries expire in one second, a batch removes a bounded number of them, the oldest first, until none is
// left; a node that joins in the middle goes on where the others are. Entries of LRU caches, of which each node has its
// own, change nothing in that.
func TestSweepIsBounded(t *testing.T) {
	cfg := Config{Caches: map[string]Policy{"lru": {MaxEntries: 3000, Evict: LRU}}}
	const entries, perBatch, start = 8000, 1000, 5000
	nodes := []*Store{New(cfg), New(cfg)}
	ttl := func(ms uint32) *cachepb.OpTag { return &cachepb.OpTag{TtlMs: ms} }
	for i := 0; i < entries; i += perBatch {
		var ops []*cachepb.CacheRequest
		for j := range perBatch {
			ops = append(ops, putOp("c", fmt.Sprint(i+j), "v", ttl(uint32(2500-i/perBatch))), putOp("lru", fmt.Sprint(i+j), "v", ttl(2500)))
		}
		for _, n := range nodes {
			apply(n, start+int64(i/perBatch), ops...)
		}
	}
	for i := range 2000 { // the second node reads others of the LRU cache, and evicts others
		nodes[1].Get("lru", fmt.Sprint(entries-1-i), 0)
	}
	for i := range 1000 {
		for _, n := range nodes {
			apply(n, start+10, putOp("lru", fmt.Sprint("more", i), "v", ttl(uint32(2000+i))))
		}
	}
	left, hash := entries, nodes[0].StateHash()
	if nodes[0].SweepDue(start + 2000) {
		t.Error("something is due before its second is over")
	}
	for batches := 0; left > 0; batches++ {
		if batches > entries {
			t.Fatal("the sweep stands still")
		}
		if !nodes[0].SweepDue(start + 4000) {
			t.Fatalf("nothing is due, %d entries are left", left)
		}
		var ops []*cachepb.CacheRequest
		if batches%2 == 0 {
			ops = append(ops, putOp("other", "k", "v", nil))
		}
		if batches == 3 {
			n := New(Config{})
			x := &transfer{w: nodes[0].BeginSnapshot(), r: n.BeginRestore(nodes[0].Applied())}
			for !x.finished {
				x.step(t, 100_000)
			}
			nodes = append(nodes, n)
		}
		for _, n := range nodes {
			apply(n, start+4000, ops...)
		}
		mustMiss(t, nodes[0], "c", fmt.Sprint(entries-1), start+4000)
		have := dump(nodes[0])["c"]
		if gone := left - len(have); gone < min(left, sweepBase) || gone > sweepBase+2*len(ops) {
			t.Fatalf("batch %d of %d operations removed %d of %d entries", batches, len(ops), gone, left)
		}
		left = len(have)
		for key := range have {
			if i, _ := strconv.Atoi(key); i < entries-left {
				t.Fatalf("%s is still there with %d left: not the oldest first", key, left)
			}
		}
		for i, n := range nodes {
			if n.StateHash() != nodes[0].StateHash() {
				t.Fatalf("after batch %d node %d has %d entries, node 0 %d", batches, i, len(dump(n)["c"]), left)
			}
		}
	}
	for range 10 { // the LRU caches may take longer
		for i, n := range nodes {
			apply(n, start+6000)
			checkConsistent(t, n)
			if n.StateHash() == hash {
				t.Errorf("node %d: the hash has not changed", i)
			}
		}
	}
	for i, n := range nodes {
		if got := n.Stats().Entries; got != 1 || n.SweepDue(start+60_000) {
			t.Errorf("node %d has %d entries, want 1, and nothing due", i, got)
		}
	}
}

// ---- what may be asked

func TestValidate(t *testing.T) {
	s := New(Config{
		Strict: true, MaxValueBytes: 2000,
		Caches: map[string]Policy{"known": {}, "small": {MaxBytes: EntryOverhead + 20}},
	})
	apply(s, 0, putOp("exists", "k", "v", nil)) // by the log, whatever Strict says
	for _, tc := range []struct {
		name string
		req  *cachepb.CacheRequest
		want cachepb.Code
	}{
		{"get", getOp("known", "k"), cachepb.Code_OK},
		{"empty key", putOp("known", "", "", nil), cachepb.Code_OK},
		{"existing cache", insertOp("exists", "k", "v", nil), cachepb.Code_OK},
		{"unknown cache", delOp("other", "k", nil), cachepb.Code_UNKNOWN_CACHE},
		{"no cache", removeOp("", "k", nil), cachepb.Code_INVALID},
		{"get of an unknown cache", getOp("other", "k"), cachepb.Code_UNKNOWN_CACHE},
		{"get of a long key", getOp("known", strings.Repeat("x", MaxKeyBytes+1)), cachepb.Code_TOO_LARGE},
		{"long cache", getOp(strings.Repeat("x", MaxNameBytes+1), "k"), cachepb.Code_TOO_LARGE},
		{"longest key", putOp("known", strings.Repeat("x", MaxKeyBytes), "", nil), cachepb.Code_OK},
		{"long key", delOp("known", strings.Repeat("x", MaxKeyBytes+1), nil), cachepb.Code_TOO_LARGE},
		{"longest value", putOp("known", "k", strings.Repeat("x", 2000), nil), cachepb.Code_OK},
		{"long value", putOp("known", "k", strings.Repeat("x", 2001), nil), cachepb.Code_TOO_LARGE},
		{"fits its cache", putOp("small", "k", strings.Repeat("x", 19), nil), cachepb.Code_OK},
		{"larger than its cache", putOp("small", "k", strings.Repeat("x", 20), nil), cachepb.Code_TOO_LARGE},
		{"session without seq", putOp("known", "k", "", &cachepb.OpTag{Session: 1}), cachepb.Code_INVALID},
		{"batch", &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Batch{}}, cachepb.Code_INVALID},
		{"nothing", &cachepb.CacheRequest{}, cachepb.Code_INVALID},
	} {
		code, detail := s.Validate(tc.req)
		if code != tc.want || (detail == "") != (code == cachepb.Code_OK) {
			t.Errorf("%s: %v %q, want %v", tc.name, code, detail, tc.want)
		}
		if get := tc.req.GetGet(); get != nil {
			if code, _ := s.ValidateRead(get.GetCacheName(), get.GetEntry()); code != tc.want {
				t.Errorf("%s: ValidateRead %v, want %v", tc.name, code, tc.want)
			}
		}
	}
}

// A store that is full says so to writes that add, and to no others.
func TestValidateFull(t *testing.T) {
	s := New(Config{MaxBytes: 2 * (EntryOverhead + 2)})
	apply(s, 0, putOp("c", "1", "v", nil))
	if code, _ := s.Validate(putOp("c", "2", "v", nil)); code != cachepb.Code_OK {
		t.Errorf("half full: %v", code)
	}
	apply(s, 0, putOp("c", "2", "v", nil))
	for want, ops := range map[cachepb.Code][]*cachepb.CacheRequest{
		cachepb.Code_OVERLOADED: {putOp("c", "3", "v", nil), insertOp("c", "1", "v", nil)},
		cachepb.Code_OK:         {delOp("c", "1", nil), removeOp("c", "1", nil), getOp("c", "1")},
	} {
		for _, op := range ops {
			if code, _ := s.Validate(op); code != want {
				t.Errorf("%v: %v, want %v", op, code, want)
			}
		}
	}
	s = New(Config{})
	for i := range MaxCaches {
		apply(s, 0, putOp(fmt.Sprint("c", i), "k", "v", nil))
	}
	if code, _ := s.Validate(putOp("one more", "k", "v", nil)); code != cachepb.Code_OVERLOADED {
		t.Errorf("cache %d: %v", MaxCaches+1, code)
	}
	r := apply(s, 0, putOp("one more", "k", "v", tag(1, 1, 0)), delOp("one more", "k", nil), putOp("c7", "k", "w", nil))
	for i, want := range []cachepb.Code{cachepb.Code_OVERLOADED, cachepb.Code_OK, cachepb.Code_OK} {
		if r[i].Code != want {
			t.Errorf("operation %d: %v, want %v", i, r[i].Code, want)
		}
	}
	mustGet(t, s, "c7", "k", "w")
}

// Whatever a log contains, an operation beyond the limits has no effect and the others theirs.
func TestApplyInvalid(t *testing.T) {
	s := New(Config{})
	r := apply(s, 0, getOp("c", "k"), &cachepb.CacheRequest{}, putOp("", "k", "v", nil),
		putOp("c", strings.Repeat("x", MaxKeyBytes+1), "v", nil), putOp("c", "k", strings.Repeat("x", MaxValueBytes+1), nil),
		nil, putOp("c", "k", "v", nil))
	for i, want := range []cachepb.Code{
		cachepb.Code_INVALID, cachepb.Code_INVALID, cachepb.Code_INVALID, cachepb.Code_TOO_LARGE, cachepb.Code_TOO_LARGE,
		cachepb.Code_INVALID, cachepb.Code_OK,
	} {
		if r[i].Code != want {
			t.Errorf("operation %d: %v, want %v", i, r[i].Code, want)
		}
	}
	mustGet(t, s, "c", "k", "v")
	if s.Stats().Entries != 1 {
		t.Errorf("%d entries, want 1", s.Stats().Entries)
	}
}

// The batch is the caller's again after Apply, and values handed out never change.
func TestOwnership(t *testing.T) {
	s := New(Config{})
	req := putOp("c", "k", "value", &cachepb.OpTag{TtlMs: 1000})
	apply(s, 0, req)
	copy(req.GetPut().Value, "xxxxx")
	v, _, _ := s.Get("c", "k", 0)
	apply(s, 0, putOp("c", "k", "other", nil), putOp("c", "j", "other", &cachepb.OpTag{TtlMs: 1000}))
	if string(v) != "value" || cap(v) != len(v) {
		t.Errorf("value %q of capacity %d, want it unchanged and without room", v, cap(v))
	}
	apply(s, 0, putOp("c", "empty", "", nil))
	if v, _, ok := s.Get("c", "empty", 0); !ok || v == nil || len(v) != 0 {
		t.Errorf("empty value is %v, %v", v, ok)
	}
	s.Reset()
	mustMiss(t, s, "c", "k", 0)
	if s.Applied() != 0 || s.StateHash() != 0 {
		t.Error("Reset left something behind")
	}
}

// Order and time decide the hash, as does every part of an entry.
func TestStateHash(t *testing.T) {
	run := func(ops ...*cachepb.CacheRequest) uint64 {
		s := New(Config{})
		apply(s, 1000, ops...)
		return s.StateHash()
	}
	seen := map[uint64]int{}
	for i, ops := range [][]*cachepb.CacheRequest{
		{},
		{putOp("c", "k", "v", nil)},
		{putOp("d", "k", "v", nil)},
		{putOp("c", "kv", "", nil)},
		{putOp("c", "", "kv", nil)},
		{putOp("c", "k", "w", nil)},
		{putOp("c", "k", "v", &cachepb.OpTag{TtlMs: 1})},
		{putOp("c", "k", "v", &cachepb.OpTag{TtlMs: 2})},
		{putOp("c", "k", "v", tag(1, 1, 0))},
		{putOp("c", "k", "v", tag(2, 1, 0))},
		{putOp("c", "k", "v", nil), putOp("c", "l", "w", nil)},
		{putOp("c", "l", "w", nil), putOp("c", "k", "v", nil)},
		{putOp("c", "k", "v", nil), delOp("c", "k", nil)},
	} {
		h := run(ops...)
		if before, ok := seen[h]; ok {
			t.Errorf("logs %d and %d have the same hash", before, i)
		}
		seen[h] = i
		if h != run(ops...) {
			t.Errorf("log %d has two hashes", i)
		}
	}
}

// ---- concurrency, memory, speed

// Readers, a snapshot and a restore run beside Apply. Values carry their key and index, so that a reader notices a torn
// or foreign one. Run with -race.
func TestConcurrent(t *testing.T) {
	s := New(Config{Caches: map[string]Policy{"bounded": {MaxEntries: 200}, "lru": {MaxEntries: 200, Evict: LRU}}})
	caches := []string{"plain", "bounded", "lru"}
	const batches, keys = 1500, 300
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			g := rand.New(rand.NewPCG(3, 4))
			for {
				select {
				case <-done:
					return
				default:
				}
				cache, key := caches[g.IntN(3)], strconv.Itoa(g.IntN(keys))
				v, at, ok := s.Get(cache, key, 0)
				if want := fmt.Sprintf("%s/%s/%d", cache, key, at); ok && string(v) != want {
					t.Errorf("got %q, want %q", v, want)
					return
				}
				s.Validate(getOp(cache, key))
			}
		})
	}
	replica := New(Config{})
	type transfer struct {
		from  *SnapshotWriter
		index uint64
	}
	transfers := make(chan transfer)
	wg.Go(func() {
		for tr := range transfers {
			r := replica.BeginRestore(tr.index)
			for end := false; !end; {
				var chunk []byte
				chunk, end = tr.from.Next(1000)
				if err := r.Add(chunk); err != nil {
					t.Error(err)
				}
			}
			s.Digest()
			s.Stats()
		}
	})
	g := rand.New(rand.NewPCG(1, 2))
	for i := range uint64(batches) {
		var ops []*cachepb.CacheRequest
		for range 10 {
			cache, key := caches[g.IntN(3)], strconv.Itoa(g.IntN(keys))
			if g.IntN(4) == 0 {
				ops = append(ops, delOp(cache, key, nil))
			} else {
				ops = append(ops, putOp(cache, key, fmt.Sprintf("%s/%s/%d", cache, key, i+1),
					&cachepb.OpTag{TtlMs: uint32(g.IntN(2) * 5000), Session: uint64(g.IntN(3)), Seq: 1}))
				if tag := ops[len(ops)-1].GetPut().Op; tag.Session != 0 {
					tag.Seq, tag.FirstUnacked = i*10+uint64(len(ops)), i*10
					if i == 0 {
						tag.Seq = 1
					}
				}
			}
		}
		s.Apply(i+1, batch(int64(i)*20, ops...), nil)
		select {
		case transfers <- transfer{s.BeginSnapshot(), i + 1}:
		default:
		}
	}
	close(transfers)
	close(done)
	wg.Wait()
	checkConsistent(t, s)
}

func TestGetAllocates(t *testing.T) {
	s := New(Config{Caches: map[string]Policy{"lru": {MaxEntries: 5, Evict: LRU}}})
	apply(s, 0, putOp("c", "k", "v", &cachepb.OpTag{TtlMs: 1000}), putOp("lru", "k", "v", nil))
	for _, cache := range []string{"c", "lru", "none"} {
		if n := testing.AllocsPerRun(100, func() { s.Get(cache, "k", 0) }); n != 0 {
			t.Errorf("Get in %s allocates %v times", cache, n)
		}
	}
}

// Entries take no more memory beside key and value than the byte bounds count for them, on the average over table
// sizes, and what records of their size leave over at the end of a block. HACACHE_STORE_ENTRIES sets their number.
func TestMemoryPerEntry(t *testing.T) {
	n := 300_000
	if v := os.Getenv("HACACHE_STORE_ENTRIES"); v != "" {
		n, _ = strconv.Atoi(v)
	}
	for _, valueBytes := range []int{10, 100, 1000} {
		if valueBytes > 100 && n > 2_000_000 {
			continue
		}
		before := heap()
		s := New(Config{})
		value := bytes.Repeat([]byte("x"), valueBytes)
		const per = 100
		for i := 0; i < n; i += per {
			b := &cachepb.Batch{}
			for j := range per {
				b.Ops = append(b.Ops, putOp("c", fmt.Sprintf("key:%012d", i+j), string(value), nil))
			}
			s.Apply(uint64(i)+1, b, nil)
		}
		overhead := float64(heap()-before)/float64(n) - float64(16+valueBytes)
		t.Logf("%d entries of 16+%d bytes: %.1f bytes more each", n, valueBytes, overhead)
		record := int(recordBytes(16+valueBytes, false))
		leftOver := float64(blockBytes%record) / float64(blockBytes/record)
		if overhead > EntryOverhead+40+leftOver {
			t.Errorf("%.1f bytes an entry beside key and value", overhead)
		}
		if s.Stats().Entries != int64(n) {
			t.Error("entries are missing")
		}
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func benchBatches(n, perBatch, valueBytes int, sessions bool) []*cachepb.Batch {
	value := strings.Repeat("x", valueBytes)
	var batches []*cachepb.Batch
	seq := uint64(0)
	for i := 0; i < n; i += perBatch {
		b := &cachepb.Batch{}
		for j := range perBatch {
			var tag *cachepb.OpTag
			if sessions {
				seq++
				tag = &cachepb.OpTag{Session: 1, Seq: seq, FirstUnacked: max(1, seq-min(seq, 100))}
			}
			b.Ops = append(b.Ops, putOp("c", fmt.Sprintf("key:%012d", (i+j)*7919%n), value, tag))
		}
		batches = append(batches, b)
	}
	return batches
}

func BenchmarkApply(b *testing.B) {
	const keys, per = 100_000, 100
	for name, tc := range map[string]struct {
		policy   Policy
		sessions bool
		value    int
	}{
		"overwrite/100B":          {value: 100},
		"overwrite/1KiB":          {value: 1024},
		"overwrite/session/100B":  {value: 100, sessions: true},
		"evict/oldest-write/100B": {value: 100, policy: Policy{MaxEntries: keys / 2}},
		"evict/lru/100B":          {value: 100, policy: Policy{MaxEntries: keys / 2, Evict: LRU}},
		"ttl/100B":                {value: 100, policy: Policy{TTL: time.Hour}},
	} {
		b.Run(name, func(b *testing.B) {
			s := New(Config{Default: tc.policy})
			batches := benchBatches(keys, per, tc.value, tc.sessions)
			for _, batch := range batches {
				s.Apply(s.Applied()+1, batch, nil)
			}
			b.ReportAllocs()
			i, ops := 0, 0
			for b.Loop() {
				batch := batches[i%len(batches)]
				if tc.sessions {
					for _, op := range batch.Ops {
						op.GetPut().Op.Seq += keys
						op.GetPut().Op.FirstUnacked += keys
					}
				}
				s.Apply(s.Applied()+1, batch, nil)
				i++
				ops += per
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(ops), "ns/write")
		})
	}
}

func BenchmarkGet(b *testing.B) {
	const keys = 100_000
	s := New(Config{})
	for _, batch := range benchBatches(keys, 100, 100, false) {
		s.Apply(s.Applied()+1, batch, nil)
	}
	names := make([]string, keys)
	for i := range names {
		names[i] = fmt.Sprintf("key:%012d", i*31%keys)
	}
	b.Run("hit", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			s.Get("c", names[i%keys], 0)
			i++
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			i := rand.IntN(keys)
			for pb.Next() {
				s.Get("c", names[i%keys], 0)
				i++
			}
		})
	})
}

func BenchmarkSnapshot(b *testing.B) {
	s := New(Config{Default: Policy{MaxEntries: 1 << 30}})
	for _, batch := range benchBatches(100_000, 100, 100, false) {
		s.Apply(s.Applied()+1, batch, nil)
	}
	n := New(Config{})
	for b.Loop() {
		w, r := s.BeginSnapshot(), n.BeginRestore(s.Applied())
		for done := false; !done; {
			var chunk []byte
			chunk, done = w.Next(256 << 10)
			if err := r.Add(chunk); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(s.Stats().Bytes)
		}
		if err := r.Finish(); err != nil {
			b.Fatal(err)
		}
	}
}

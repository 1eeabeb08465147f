package gateway

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hacache/hacache/cachenode/internal/store"
	"github.com/hacache/hacache/proto/cachepb"
)

// Watching.
//
// Streams are told of changes after they were applied here, in log order. The latest changes are kept once for all of
// them, as a chain of log entries that each stream walks along at its own pace. The loop that applies appends to one end
// and cuts the other off, and never waits: it takes no lock that a stream holds, and does the same work for one stream as
// for ten thousand. A stream that was overtaken by the cut is given one Gap and goes on with what comes next.
//
// While nobody watches nothing is kept, and a log entry pays for one atomic load. What nobody has named is not kept
// either, so a busy cache does not overtake those who watch a quiet one.

// The chain keeps at least the newest log entry, and otherwise no more than these; Config says them differently.
const (
	watchChanges = 128 << 10
	watchBytes   = 16 << 20

	changeOverhead = 64 // about what a change takes in memory, beside its key

	gapReasons = int(cachepb.Gap_RESET) + 1
)

// feeds is the chain and those who walk along it.
type feeds struct {
	maxChanges, maxBytes int

	wanted atomic.Pointer[wanted] // nil: nobody watches
	newest atomic.Pointer[link]
	news   chan struct{} // capacity 1; never closed

	// Of the runner's goroutine.
	base    *link // the one before the oldest that is kept; nil while nothing is
	changes int
	bytes   int
	current *wanted  // for the entry in hand
	noted   []change // by the entry in hand
	era     *era

	mu    sync.Mutex // of those who come and go
	count int
	all   int
	names map[string]int

	told atomic.Uint64
	gaps [gapReasons]atomic.Uint64 // by reason
}

// wanted are the caches that anybody watches. It is immutable.
type wanted struct {
	all   bool
	names map[string]bool
}

// era is the time between two moments at which the state was replaced as a whole.
type era struct {
	reason cachepb.Gap_Reason // why it began
	resets int                // how often the log has begun anew
}

// link is what one log entry changed. Only next and lost change once it is in the chain.
type link struct {
	index, term, cluster uint64
	era                  *era
	changes              []change
	bytes                int

	next atomic.Pointer[link]
	lost atomic.Bool // what came next was cut off
}

type change struct {
	effect     store.Effect
	cache, key string
}

// cut takes away what follows, so that a stream which stands here holds nothing else in memory.
func (l *link) cut() {
	l.lost.Store(true) // first: whoever finds no next one must see why
	l.next.Store(nil)
}

func (f *feeds) init(cfg *Config) {
	f.maxChanges, f.maxBytes = cfg.WatchChanges, cfg.WatchBytes
	f.news = make(chan struct{}, 1)
	f.names = map[string]int{}
}

// begin is called before a log entry is applied. It reports whether end is to be called after it.
func (f *feeds) begin(s *store.Store) bool {
	f.current = f.wanted.Load()
	if f.current == nil && f.base != nil {
		s.Observe(nil)
		f.newest.Store(nil)
		f.base, f.noted, f.changes, f.bytes = nil, nil, 0, 0
	}
	return f.current != nil
}

// note takes down one change of the log entry in hand.
func (f *feeds) note(c store.Change) {
	if f.current.all || f.current.names[c.Cache] {
		f.noted = append(f.noted, change{c.Effect, c.Cache, strings.Clone(c.Key)})
	}
}

// end makes what was noted known.
func (f *feeds) end(index, term, cluster uint64) {
	if len(f.noted) == 0 {
		return
	}
	l := &link{index: index, term: term, cluster: cluster, era: f.era, changes: slices.Clone(f.noted)}
	for i := range l.changes {
		l.bytes += changeOverhead + len(l.changes[i].key)
	}
	clear(f.noted)
	f.noted = f.noted[:0]
	f.changes += len(l.changes)
	f.bytes += l.bytes
	f.newest.Load().next.Store(l)
	f.newest.Store(l)
	for oldest := f.base.next.Load(); oldest != l && (f.changes > f.maxChanges || f.bytes > f.maxBytes); oldest = f.base.next.Load() {
		f.changes -= len(oldest.changes)
		f.bytes -= oldest.bytes
		f.base.cut()
		f.base = oldest
	}
	f.signal()
}

// replaced tells everybody that the state was replaced as a whole, by one that is complete at index.
func (f *feeds) replaced(reason cachepb.Gap_Reason, index, cluster uint64) {
	if f.base == nil {
		return
	}
	resets := f.era.resets
	if reason == cachepb.Gap_RESET {
		resets++
	}
	f.era = &era{reason, resets}
	l := &link{index: index, cluster: cluster, era: f.era}
	f.newest.Store(l) // first: whoever finds himself cut off goes there
	for old := f.base; old != nil; {
		next := old.next.Load()
		old.cut()
		old = next
	}
	f.base, f.changes, f.bytes = l, 0, 0
	f.signal()
}

func (f *feeds) signal() {
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// Feed tells one stream of changes. Only one goroutine may use it at a time.
type Feed struct {
	feeds *feeds
	names map[string]bool // nil: all
	begin *cachepb.Gap    // not told yet
	at    *link           // told, but for changes[pos:]
	pos   int
	out   *cachepb.Outcome // of the changes of at
}

// Watch begins a feed of the changes of the named caches, or of all if names is empty. It is called on the runner's
// goroutine, between two entries, so that the feed begins exactly behind what is applied. The feed must be closed.
func (g *Gateway) Watch(names []string) *Feed {
	f := &g.feeds
	index := max(g.store.Applied(), g.store.CompleteAt())
	if f.base == nil {
		f.era = &era{}
		f.base = &link{index: index, era: f.era}
		f.newest.Store(f.base)
		g.store.Observe(f.note)
	}
	feed := &Feed{feeds: f, at: f.newest.Load(), begin: &cachepb.Gap{
		Reason: cachepb.Gap_BEGIN, Cluster: g.core.Cluster(), From: 1, To: index,
	}}
	feed.pos = len(feed.at.changes)
	if len(names) > 0 {
		feed.names = make(map[string]bool, len(names))
		for _, name := range names {
			feed.names[name] = true
		}
	}
	f.join(feed.names, 1)
	return feed
}

// Changed receives something when there may be news for feeds, once for all of them and however much there is.
func (g *Gateway) Changed() <-chan struct{} { return g.feeds.news }

// Close ends the feed. It may be called on any goroutine, once; Next must not be called after it.
func (f *Feed) Close() { f.feeds.join(f.names, -1) }

// join adds or takes away what a feed wants.
func (f *feeds) join(names map[string]bool, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count += n
	if names == nil {
		f.all += n
	}
	for name := range names {
		if f.names[name] += n; f.names[name] == 0 {
			delete(f.names, name)
		}
	}
	if f.count == 0 {
		f.wanted.Store(nil)
		return
	}
	w := &wanted{all: f.all > 0, names: make(map[string]bool, len(f.names))}
	for name := range f.names {
		w.names[name] = true
	}
	f.wanted.Store(w)
}

// Next appends what the stream has not been told yet to acks, up to limit of them, in order: a PutAck or DelAck with a
// Change for each change, and a Gap where some are missing. It returns acks as they were if there is nothing new, and
// never blocks.
func (f *Feed) Next(acks []*cachepb.Ack, limit int) []*cachepb.Ack {
	before := len(acks)
	if f.begin != nil && len(acks) < limit {
		acks = append(acks, f.gap(f.begin))
		f.begin = nil
	}
	for len(acks) < limit {
		if f.pos == len(f.at.changes) {
			gap, ok := f.advance()
			if !ok {
				break
			}
			if gap != nil {
				acks = append(acks, f.gap(gap))
			}
			continue
		}
		if c := &f.at.changes[f.pos]; f.names == nil || f.names[c.cache] {
			acks = append(acks, f.ack(c))
		}
		f.pos++
	}
	if n := len(acks) - before; n > 0 {
		f.feeds.told.Add(uint64(n))
	}
	return acks
}

// advance goes on to the next link. It reports false if there is none yet. Who was overtaken goes on behind the newest
// one: a Gap makes the client read anew anyway, and from there it is not overtaken again at once.
func (f *Feed) advance() (gap *cachepb.Gap, ok bool) {
	if next := f.at.next.Load(); next != nil {
		f.at, f.pos, f.out = next, 0, nil
		return nil, true
	}
	if !f.at.lost.Load() {
		return nil, false
	}
	l := f.feeds.newest.Load()
	gap = &cachepb.Gap{Reason: cachepb.Gap_SLOW, Cluster: l.cluster, From: f.at.index + 1, To: l.index}
	if l.era != f.at.era {
		gap.Reason = l.era.reason
	}
	if l.era.resets != f.at.era.resets {
		gap.From = 1
	}
	f.at, f.pos, f.out = l, len(l.changes), nil
	return gap, true
}

func (f *Feed) gap(gap *cachepb.Gap) *cachepb.Ack {
	f.feeds.gaps[gap.GetReason()].Add(1)
	return &cachepb.Ack{Method: &cachepb.Ack_Gap{Gap: gap}}
}

// ack is how a change of the link at hand travels. The changes of a link share their Outcome, which nobody modifies.
func (f *Feed) ack(c *change) *cachepb.Ack {
	if f.out == nil {
		f.out = &cachepb.Outcome{Cluster: f.at.cluster, Term: f.at.term, Index: f.at.index}
	}
	what := &cachepb.Change{CacheName: c.cache, Entry: c.key}
	switch c.effect {
	case store.Written:
		return &cachepb.Ack{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{ModRes: new(true), Outcome: f.out, Change: what}}}
	case store.Expired:
		what.Cause = cachepb.Change_EXPIRED
	case store.Evicted:
		what.Cause = cachepb.Change_EVICTED
	}
	return &cachepb.Ack{Method: &cachepb.Ack_DelAck{DelAck: &cachepb.DelAck{ModRes: new(true), Outcome: f.out, Change: what}}}
}

func (f *feeds) stats(s *Stats) {
	f.mu.Lock()
	s.Watches = f.count
	f.mu.Unlock()
	s.WatchTold, s.WatchKept, s.WatchKeptBytes = f.told.Load(), f.changes, f.bytes
	for reason := range f.gaps {
		s.WatchGaps[reason] = f.gaps[reason].Load()
	}
}

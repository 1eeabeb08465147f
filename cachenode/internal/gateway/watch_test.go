package gateway_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/gateway"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/replication/replicationtest"
	"github.com/hacache/hacache/cachenode/internal/store"
	"github.com/hacache/hacache/proto/cachepb"
)

// entry names an entry.
type entry struct{ cache, key string }

// reader is a stream that watches: it keeps the entries of a node's store by what it is told, and reads them anew after
// each Gap, as a client should.
type reader struct {
	fail  func(format string, v ...any)
	feed  *gateway.Feed
	store *store.Store
	names []string // nil: all
	known []entry  // all there can be

	have    map[entry]uint64 // the index of each entry's write
	index   uint64           // of what was told last
	after   uint64           // where the last Gap ended
	cluster uint64
	stale   bool // there was a Gap, and nothing has been read since
	gaps    []*cachepb.Gap
	changes int
}

// drain reads at most limit messages; it reports whether that was all.
func (r *reader) drain(limit int) bool {
	acks := r.feed.Next(nil, limit)
	for _, ack := range acks {
		if gap := ack.GetGap(); gap != nil {
			r.gap(gap)
		} else {
			r.change(ack)
		}
	}
	if len(acks) == limit {
		return false
	}
	// Everything applied so far was told, so now the entries are those of the store, if it may be read at all.
	if r.store.Applied() >= r.store.CompleteAt() {
		r.compare()
	}
	return true
}

func (r *reader) gap(gap *cachepb.Gap) {
	r.gaps = append(r.gaps, gap)
	if r.names == nil && gap.GetFrom() > r.index+1 {
		r.fail("%v leaves a hole: all up to %d was told", gap, r.index)
	}
	if gap.GetFrom() != 1 && (gap.GetReason() == cachepb.Gap_RESET || r.cluster != 0 && gap.GetCluster() != r.cluster) {
		r.fail("%v after a change of cluster %x, want it from 1", gap, r.cluster)
	}
	r.index, r.after, r.stale, r.cluster = gap.GetTo(), gap.GetTo(), true, gap.GetCluster()
}

func (r *reader) change(ack *cachepb.Ack) {
	r.changes++
	change, out := ack.GetPutAck().GetChange(), ack.GetPutAck().GetOutcome()
	if ack.GetDelAck() != nil {
		change, out = ack.GetDelAck().GetChange(), ack.GetDelAck().GetOutcome()
	}
	e := entry{change.GetCacheName(), change.GetEntry()}
	switch index := out.GetIndex(); {
	case index < r.index, index <= r.after:
		r.fail("change of %v at %d was told after %d", e, index, r.index)
	case index > r.store.Applied():
		r.fail("change of %v at %d was told when %d was applied", e, index, r.store.Applied())
	case r.names != nil && !slices.Contains(r.names, e.cache):
		r.fail("change of %v was told to one who watches %v", e, r.names)
	case ack.GetDelAck() != nil && r.have[e] == 0 && !r.stale:
		r.fail("%v went at %d and was not there", e, index)
	}
	r.index, r.cluster = out.GetIndex(), out.GetCluster()
	if ack.GetPutAck() != nil {
		r.have[e] = out.GetIndex()
	} else {
		delete(r.have, e)
	}
}

// compare holds what was told against the store; after a Gap it reads the store.
func (r *reader) compare() {
	for _, e := range r.known {
		if r.names != nil && !slices.Contains(r.names, e.cache) {
			continue
		}
		_, index, ok := r.store.Get(e.cache, e.key, 0)
		switch {
		case r.stale && ok:
			r.have[e] = index
		case r.stale:
			delete(r.have, e)
		case r.have[e] != index:
			r.fail("%v was last written at %d, by what was told at %d (0 is absent)", e, index, r.have[e])
		}
	}
	r.stale = false
}

// TestWatchSchedules lets streams watch every node through random faults: whenever one has read all there is, the entries
// by what it was told, with the indexes of their writes, are exactly those of its node's store, expired, evicted and
// replaced ones included, and nothing is told before it is applied. Slow streams, snapshots and resets make gaps.
// GATEWAY_SEEDS runs more.
func TestWatchSchedules(t *testing.T) {
	first, last := seeds(seedsByDefault / 3)
	total := map[string]int{}
	for seed := first; seed <= last; seed++ {
		cryptotest.SetGlobalRandom(t, seed)
		opt := replicationtest.Options{Seed: seed, Nodes: []int{3, 3, 5, 1}[seed%4], LogRetainEntries: []int{0, 8}[seed%2]}
		if seed%3 == 1 {
			opt.Loss, opt.Duplicate, opt.Reorder = 0.01, 0.02, 0.02
		}
		ww := newWatchWorld(t, opt)
		err := replicationtest.RunSchedule(ww.sim, replicationtest.Schedule{
			Length: 5 * time.Second, KeepMajority: seed%5 > 1, Writes: time.Millisecond, Write: ww.step, Check: ww.check,
		})
		if err != nil {
			t.Errorf("seed %d: %v\nrepeat: GATEWAY_SEEDS=%d go test -run TestWatchSchedules ./cachenode/internal/gateway", seed, err, seed)
		}
		for what, n := range ww.told() {
			total[what] += n
		}
	}
	t.Logf("%d schedules: %v", last-first+1, total)
	for _, what := range []string{"changes", "BEGIN", "SLOW", "RESTORED", "RESET"} {
		if total[what] == 0 && first == 1 && last >= 10 { // resets are rare: fewer schedules may have none
			t.Errorf("no stream was ever told of %s: the test shows nothing about it", what)
		}
	}
}

// watchWorld is a world with streams that watch.
type watchWorld struct {
	*world
	known   []entry
	readers map[*replicationtest.Node][]*reader
}

func newWatchWorld(t *testing.T, opt replicationtest.Options) *watchWorld {
	ww := &watchWorld{readers: map[*replicationtest.Node][]*reader{}}
	ww.world = newWorld(t, opt, func(cfg *gateway.Config) {
		cfg.Store = store.New(store.Config{Caches: map[string]store.Policy{
			"small": {MaxEntries: 5}, "lru": {MaxEntries: 5, Evict: store.LRU}, "brief": {TTL: 50 * time.Millisecond},
		}})
		cfg.WatchChanges = 60
	})
	for cache, keys := range map[string]int{"c": len(ww.names), "small": 12, "lru": 12, "brief": 12} {
		for i := range keys {
			ww.known = append(ww.known, entry{cache, fmt.Sprint("key", i)})
		}
	}
	slices.SortFunc(ww.known, func(a, b entry) int { return strings.Compare(a.cache+a.key, b.cache+b.key) })
	return ww
}

// step writes, removes, and lets the streams of one node read.
func (ww *watchWorld) step() {
	ww.world.step()
	rng := ww.sim.Rand()
	n := ww.sim.Node(rng.IntN(len(ww.sim.Hosts())))
	if n == nil {
		return
	}
	e := ww.known[rng.IntN(len(ww.known))]
	req := putOf(e.key, "v")
	if rng.IntN(4) == 0 {
		req = delOf(e.key)
	}
	n.Step(func() {
		if e.cache != "c" { // whose keys have their writer
			setCache(req, e.cache)
			ww.submit(n, req)
		}
		if ww.readers[n] == nil {
			ww.watch(n, nil)
			ww.watch(n, []string{"c", "small"})
			ww.watch(n, []string{"brief", "none"})
		}
		for _, r := range ww.readers[n] {
			switch rng.IntN(12) {
			case 0, 1:
				r.drain(1 << 20)
			case 2:
				r.drain(1 + rng.IntN(5))
			}
		}
	})
}

func setCache(req *cachepb.CacheRequest, cache string) {
	if p := req.GetPut(); p != nil {
		p.CacheName = cache
	} else {
		req.GetDel().CacheName = cache
	}
}

// watch opens a stream at a node. It is called in a step of the node.
func (ww *watchWorld) watch(n *replicationtest.Node, names []string) {
	r := &reader{
		fail: ww.fail, feed: ww.nodes[n].gw.Watch(names), store: ww.nodes[n].store, names: names, known: ww.known, have: map[entry]uint64{},
	}
	ww.readers[n] = append(ww.readers[n], r)
}

// check lets all streams read all there is.
func (ww *watchWorld) check() error {
	for slot := range ww.sim.Hosts() {
		for _, r := range ww.readers[ww.sim.Node(slot)] {
			if !r.drain(1 << 20) {
				ww.fail("a stream of node %d has more than a million changes to read", slot)
			}
		}
	}
	return ww.world.check()
}

func (ww *watchWorld) told() map[string]int {
	told := map[string]int{}
	for _, readers := range ww.readers {
		for _, r := range readers {
			told["changes"] += r.changes
			for _, gap := range r.gaps {
				told[gap.GetReason().String()]++
			}
		}
	}
	return told
}

// deaf is a transport to nobody.
type deaf struct{}

func (deaf) Send(int, replication.Lane, *cachepb.CacheRequest) bool { return false }
func (deaf) SendAck(int, replication.Lane, *cachepb.Ack) bool       { return false }
func (deaf) Probe(int)                                              {}
func (deaf) AddHost(int, string)                                    {}
func (deaf) Reconnect()                                             {}

// applier is a gateway whose log is written by the test.
type applier struct {
	*gateway.Gateway
	store *store.Store
	index uint64
}

func newApplier(t testing.TB, cfg gateway.Config) *applier {
	t.Helper()
	cfg.Store = store.New(store.Config{})
	cfg.Transport, cfg.Rand = deaf{}, rand.New(rand.NewPCG(1, 2)).Uint64
	a := &applier{gateway.New(cfg), cfg.Store, 0}
	core, err := replication.New(replication.Config{Hosts: []string{"n1:1"}, Transport: deaf{}, Upper: a.Gateway})
	if err != nil {
		t.Fatal(err)
	}
	a.Attach(core)
	return a
}

// entryOf is the data of a log entry.
func entryOf(t testing.TB, ops ...*cachepb.CacheRequest) []byte {
	t.Helper()
	data, err := proto.Marshal(&cachepb.Batch{Ops: ops})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (a *applier) apply(data []byte) {
	a.index++
	a.Apply(a.index, 3, data)
}

func (a *applier) reader(t *testing.T, names ...string) *reader {
	r := &reader{fail: t.Fatalf, feed: a.Watch(names), store: a.store, names: names, have: map[entry]uint64{}}
	r.drain(1)
	if len(r.gaps) != 1 || r.gaps[0].GetReason() != cachepb.Gap_BEGIN || r.gaps[0].GetFrom() != 1 || r.gaps[0].GetTo() != a.index {
		t.Fatalf("the stream begins with %v, want the Gap from 1 to %d", r.gaps, a.index)
	}
	return r
}

// What a change looks like: the ack of its kind, nobody's id, success, where in the log, and what it is about.
func TestChangeAcks(t *testing.T) {
	a := newApplier(t, gateway.Config{})
	a.apply(entryOf(t, putOf("before", "v")))
	feed := a.Watch(nil)
	if got, want := fmt.Sprint(feed.Next(nil, 9)), fmt.Sprint([]*cachepb.Ack{{Method: &cachepb.Ack_Gap{Gap: &cachepb.Gap{From: 1, To: 1}}}}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	a.apply(entryOf(t, putOf("k", "v"), delOf("k"), delOf("k")))
	out := &cachepb.Outcome{Term: 3, Index: 2}
	change := &cachepb.Change{CacheName: "c", Entry: "k"}
	want := []*cachepb.Ack{
		{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{ModRes: new(true), Outcome: out, Change: change}}},
		{Method: &cachepb.Ack_DelAck{DelAck: &cachepb.DelAck{ModRes: new(true), Outcome: out, Change: change}}},
	}
	if got := feed.Next(nil, 9); !slices.EqualFunc(got, want, func(a, b *cachepb.Ack) bool { return proto.Equal(a, b) }) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A stream that does not read is given one Gap, over exactly what it has lost, however much that is, and then everything
// again; one that reads is given none. What is kept stays within its bounds, in changes and in bytes.
func TestSlowWatcher(t *testing.T) {
	for what, cfg := range map[string]gateway.Config{
		"changes": {WatchChanges: 100}, "bytes": {WatchBytes: 100 * (64 + 4)},
	} {
		t.Run(what, func(t *testing.T) {
			a := newApplier(t, cfg)
			quick, slow, quiet := a.reader(t), a.reader(t), a.reader(t, "quiet")
			write := func(entries int) {
				for range entries {
					data := entryOf(t, putOf(fmt.Sprintf("%04d", a.index), ""), putOf(fmt.Sprintf("%04d", a.index+1), ""))
					a.apply(data)
					if s := a.Stats(); s.WatchKept > 100 || s.WatchKeptBytes > 100*68 {
						t.Fatalf("%d changes, %d bytes are kept", s.WatchKept, s.WatchKeptBytes)
					}
				}
			}
			write(1)
			slow.drain(1) // half of the entry
			for range 100 {
				write(10)
				quick.drain(1 << 10)
			}
			slow.drain(1 << 10)
			if len(slow.gaps) != 2 || slow.gaps[1].GetReason() != cachepb.Gap_SLOW || slow.gaps[1].GetFrom() != 2 || slow.gaps[1].GetTo() != a.index {
				t.Fatalf("gaps %v, want one more, from 2 to %d", slow.gaps, a.index)
			}
			if slow.changes != 2 {
				t.Errorf("%d changes were told, want the 2 of the entry begun", slow.changes)
			}
			for range 20 {
				write(40) // nearly all that is kept
				slow.drain(1 << 10)
				quick.drain(1 << 10)
			}
			if slow.changes != 2+20*80 || len(slow.gaps) != 2 {
				t.Errorf("%d changes after the Gap, want %d; gaps %v", slow.changes-2, 20*80, slow.gaps)
			}
			if quick.changes != int(2*a.index) || len(quick.gaps) != 1 {
				t.Errorf("the quick one was told of %d changes, want %d; gaps %v", quick.changes, 2*a.index, quick.gaps)
			}
			if s := a.Stats(); s.WatchGaps != [4]uint64{3, 1, 0, 0} || s.Watches != 3 || s.WatchTold != uint64(quick.changes+slow.changes+4) {
				t.Errorf("counted %v gaps, %d watches, %d told", s.WatchGaps, s.Watches, s.WatchTold)
			}
			quiet.drain(1)
		})
	}
}

// What nobody watches is not kept, so it overtakes nobody; once the last stream has gone nothing is kept at all.
func TestUnwatched(t *testing.T) {
	a := newApplier(t, gateway.Config{WatchChanges: 10})
	r := a.reader(t, "quiet")
	quiet := putOf("k", "v")
	quiet.GetPut().CacheName = "quiet"
	a.apply(entryOf(t, quiet))
	for i := range 1000 {
		a.apply(entryOf(t, putOf(fmt.Sprint(i), "")))
	}
	a.apply(entryOf(t, quiet))
	r.drain(1 << 10)
	if r.changes != 2 || len(r.gaps) != 1 {
		t.Errorf("%d changes, gaps %v; want 2 and the first", r.changes, r.gaps)
	}
	r.feed.Close()
	a.apply(entryOf(t, quiet))
	if s := a.Stats(); s.WatchKept != 0 || s.WatchKeptBytes != 0 || s.Watches != 0 {
		t.Errorf("%d changes of %d bytes are kept for %d streams", s.WatchKept, s.WatchKeptBytes, s.Watches)
	}
	again := a.reader(t, "quiet") // begins where nothing was noted meanwhile
	a.apply(entryOf(t, quiet))
	again.drain(1 << 10)
	if again.changes != 1 || len(again.gaps) != 1 {
		t.Errorf("%d changes, gaps %v; want 1 and the first", again.changes, again.gaps)
	}
}

// Streams come, read at their own pace and go on goroutines of their own while the log is applied: each is told of every
// change but those of its gaps, in order.
func TestWatchersRace(t *testing.T) {
	const entries = 20_000
	a := newApplier(t, gateway.Config{WatchChanges: 500})
	var wg sync.WaitGroup
	done := make(chan struct{})
	read := func(r *reader, rng *rand.Rand) {
		defer r.feed.Close()
		for {
			select {
			case <-done:
				for !r.drain(1 << 10) {
				}
				if r.index != entries && r.names == nil {
					t.Errorf("a stream ended at %d, want %d", r.index, entries)
				}
				return
			default:
				if r.drain(1+rng.IntN(100)) && rng.IntN(1000) == 0 && r.names != nil {
					return
				}
			}
		}
	}
	for i := range entries {
		if i%500 == 0 && i < entries/2 {
			r := a.reader(t, [][]string{nil, {"c"}}[i/500%2]...)
			r.fail = t.Errorf
			wg.Go(func() { read(r, rand.New(rand.NewPCG(uint64(i), 1))) })
		}
		a.apply(entryOf(t, putOf(fmt.Sprint(i), "")))
	}
	close(done)
	wg.Wait()
}

// BenchmarkWatch measures what applying costs while nobody watches, while many streams watch something else, and while
// they watch what is written but do not read.
func BenchmarkWatch(b *testing.B) {
	const per = 100
	var ops []*cachepb.CacheRequest
	for i := range per {
		ops = append(ops, putOf(fmt.Sprintf("key:%012d", i), strings.Repeat("x", 100)))
	}
	for _, bc := range []struct {
		name    string
		streams int
		names   []string
	}{{"nobody", 0, nil}, {"others=1000", 1000, []string{"other"}}, {"streams=1", 1, nil}, {"streams=1000", 1000, nil}} {
		b.Run(bc.name, func(b *testing.B) {
			a := newApplier(b, gateway.Config{})
			for range bc.streams {
				a.Watch(bc.names)
			}
			data := entryOf(b, ops...)
			b.ReportAllocs()
			for b.Loop() {
				a.apply(data)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*per), "ns/write")
		})
	}
}

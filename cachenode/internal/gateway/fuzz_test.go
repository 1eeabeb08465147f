package gateway

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/store"
	"github.com/hacache/hacache/cachenode/internal/wire"
	"github.com/hacache/hacache/proto/cachepb"
)

// FuzzEntry proves that an entry of the log is either read as a batch that the state machine can apply, or refused; and
// that two replicas make the same of it.
func FuzzEntry(f *testing.F) {
	for _, b := range []*cachepb.Batch{
		{},
		{ClusterMs: 1_700_000_000_000, Ops: []*cachepb.CacheRequest{
			{Method: &cachepb.CacheRequest_Put{Put: &cachepb.Put{CacheName: "c", Entry: "k", Value: []byte("v"), Op: &cachepb.OpTag{
				Session: 1, Seq: 1, OpenedMs: 1, TtlMs: 5,
			}}}},
			{Method: &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{CacheName: "c", Entry: "k", Op: &cachepb.OpTag{Session: 1, Seq: 9, FirstUnacked: 3}}}},
			{Method: &cachepb.CacheRequest_Del{Del: &cachepb.Del{CacheName: "c", Entry: "k"}}},
			{Method: &cachepb.CacheRequest_Remove{Remove: &cachepb.Remove{CacheName: "d"}}},
			{Method: &cachepb.CacheRequest_Get{Get: &cachepb.Get{CacheName: "c"}}},
			{Method: &cachepb.CacheRequest_Batch{Batch: &cachepb.Requests{}}},
			{},
		}},
		{ClusterMs: -1},
		{ClusterMs: 1<<63 - 1, Ops: make([]*cachepb.CacheRequest, 3)},
	} {
		data, err := proto.Marshal(b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := decodeBatch(&wire.Decoder{}, data)
		if err != nil {
			return
		}
		cfg := store.Config{Caches: map[string]store.Policy{"c": {MaxEntries: 2}, "d": {MaxBytes: 300, Evict: store.LRU}}}
		one, other := store.New(cfg), store.New(cfg)
		for index := uint64(1); index < 4; index++ {
			one.Apply(index, b, nil)
			results := 0
			other.Apply(index, b, func(int, store.Result) { results++ })
			if one.StateHash() != other.StateHash() || results != len(b.GetOps()) {
				t.Fatalf("states %x and %x, %d results of %d operations", one.StateHash(), other.StateHash(), results, len(b.GetOps()))
			}
		}
	})
}

// FuzzForwardName proves that names of forwards are read as they are written, and nothing else as one of them.
func FuzzForwardName(f *testing.F) {
	f.Add("1.2")
	f.Add("zz.z+")
	f.Add(".")
	f.Add("1.2.3")
	f.Add("-1.2")
	f.Fuzz(func(t *testing.T, ref string) {
		name, rest, err := parseForward(ref)
		if err != nil {
			return
		}
		again := name.String()
		if rest {
			again += andRest
		}
		if name2, rest2, err := parseForward(again); err != nil || name2 != name || rest2 != rest {
			t.Errorf("%q is read as %v, %v, and that as %v, %v, %v", ref, name, rest, name2, rest2, err)
		}
	})
}

package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hacache/hacache/proto/cachepb"
)

// keysOfShard returns n keys that a state has in one of its shards.
func keysOfShard(s *Store, cache string, n int) []string {
	st := s.state.Load()
	var keys []string
	for i := 0; len(keys) < n; i++ {
		key := fmt.Sprint("key-", i)
		if shard, _ := fold(st.hasher.sumString(st.catalog.Load().byName[cache], key)); shard == 5 {
			keys = append(keys, key)
		}
	}
	return keys
}

// TestBlocks writes and removes entries of one shard at random, with and without an end of their life, of which some are
// too large to share a block: every entry has what was written last, whatever was copied meanwhile; values that were
// handed out never change; and a shard never has much more than what lives in it. It stays so when what lives becomes
// little, and nothing is left of nothing.
func TestBlocks(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := New(Config{Caches: map[string]Policy{"c": {}}})
		apply(s, 0, putOp("c", "first", "", nil))
		keys := keysOfShard(s, "c", 400)
		bs := &s.state.Load().shards[5].blocks
		model := map[string]string{}
		type held struct{ value, want []byte }
		var holding []held
		write := func(key string) {
			size := rng.IntN(300)
			switch rng.IntN(50) {
			case 0:
				size = recordShared - 40 + rng.IntN(80) // about where records get blocks of their own
			case 1:
				size = rng.IntN(2 * blockBytes)
			}
			value := make([]byte, size)
			for i := range value {
				value[i] = byte(rng.Uint32())
			}
			apply(s, 0, putOp("c", key, string(value), &cachepb.OpTag{TtlMs: uint32(rng.IntN(2)) * 1000}))
			model[key] = string(value)
		}
		remove := func(key string) {
			apply(s, 0, delOp("c", key, nil))
			delete(model, key)
		}
		for step := range 6000 {
			key := keys[rng.IntN(len(keys))]
			if step > 4000 {
				key = keys[rng.IntN(20)] // most are left alone, a few are written over and over
			}
			if rng.IntN(4) == 0 {
				remove(key)
			} else {
				write(key)
			}
			if v, _, ok := s.Get("c", keys[rng.IntN(len(keys))], 0); ok && step%10 == 0 {
				holding = append(holding, held{v, bytes.Clone(v)})
			}
			if bs.stored > bs.live+bs.live/DeadShare+deadBytes+3*blockBytes {
				t.Fatalf("seed %d, step %d: %d bytes for %d that live", seed, step, bs.stored, bs.live)
			}
			if step%500 == 0 {
				checkConsistent(t, s)
			}
		}
		for _, key := range keys {
			v, _, ok := s.Get("c", key, 0)
			if want, there := model[key]; ok != there || string(v) != want {
				t.Fatalf("seed %d: %s has %d bytes, %v; want %d, %v", seed, key, len(v), ok, len(want), there)
			}
		}
		for i, h := range holding {
			if !bytes.Equal(h.value, h.want) {
				t.Fatalf("seed %d: value %d of those that were handed out has changed", seed, i)
			}
		}
		for _, key := range keys {
			remove(key)
		}
		checkConsistent(t, s)
		if bs.live != 0 || bs.stored > deadBytes+blockBytes {
			t.Fatalf("seed %d: %d bytes live, %d are stored when everything was removed", seed, bs.live, bs.stored)
		}
	}
}

// TestBlocksOfASmallStore: a few entries are not given the blocks of a large shard.
func TestBlocksOfASmallStore(t *testing.T) {
	s := New(Config{})
	for i := range 1000 {
		apply(s, 0, putOp("c", fmt.Sprint(i), "0123456789", nil))
	}
	var stored int
	for i := range s.state.Load().shards {
		for _, b := range s.state.Load().shards[i].blocks.list {
			stored += len(b.data)
		}
	}
	if stored > 128<<10 {
		t.Errorf("1000 entries of 12 bytes have blocks of %d bytes", stored)
	}
}

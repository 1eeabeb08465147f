package gateway

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestOverlayAgainstModel proves that the overlay says what a sorted slice says: the word of the newest operation that is
// there, and counts what it holds.
func TestOverlayAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := &overlay{}
		var ops, there []*op // there: those with a word, in order
		without := func(gone func(*op) bool) { there = slices.DeleteFunc(there, gone) }
		pick := func(from []*op) *op {
			if len(from) == 0 {
				return nil
			}
			return rapid.SampledFrom(from).Draw(t, "op")
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				size := 0
				newest := map[string]*op{}
				for _, o := range there {
					newest[o.key] = o
					size += len(o.cache) + len(o.key) + len(o.value) + wordOverhead
				}
				if v.bytes != size || v.count.Load() != int64(len(newest)) {
					t.Fatalf("%d bytes and %d keys, want %d and %d", v.bytes, v.count.Load(), size, len(newest))
				}
				for _, key := range []string{"a", "b"} {
					value, deleted, known := v.get("c", key)
					o := newest[key]
					if known != (o != nil) || known && (deleted != o.kind.deletes() || string(value) != string(o.value) || value == nil) {
						t.Fatalf("%s is %q, %v, %v, want the word of %+v", key, value, deleted, known, o)
					}
				}
			},
			"put": func(t *rapid.T) {
				o := &op{
					kind: rapid.SampledFrom([]kind{kindPut, kindInsert, kindDel}).Draw(t, "kind"), cache: "c",
					key: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"), n: uint64(len(ops)),
				}
				if !o.kind.deletes() && rapid.Bool().Draw(t, "with a value") {
					o.value = fmt.Append(nil, "v", o.n)
				}
				ops = append(ops, o)
				if rapid.IntRange(0, 3).Draw(t, "later") == 0 {
					return // acknowledged later, if at all
				}
				v.put(o)
				there = append(there, o)
			},
			"put late, or again": func(t *rapid.T) {
				if o := pick(ops); o != nil {
					v.put(o)
					if !slices.Contains(there, o) {
						there = append(there, o)
						slices.SortFunc(there, func(a, b *op) int { return int(a.n) - int(b.n) })
					}
				}
			},
			"drop": func(t *rapid.T) {
				if o := pick(ops); o != nil {
					v.drop(o)
					without(func(x *op) bool { return x == o })
				}
			},
			"drop older": func(t *rapid.T) {
				if o := pick(ops); o != nil {
					v.dropOlder(o)
					without(func(x *op) bool { return x.key == o.key && x.n < o.n })
				}
			},
			"clear": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "really") == 0 {
					v.clear()
					there = nil
				}
			},
		})
	})
}

package store

import "github.com/hacache/hacache/proto/cachepb"

// ahead is how many operations are looked up together before they are applied.
//
// An entry is behind three addresses that each say where the next one is: table, page, and block, in which it lies. With more
// entries than the processor's caches hold, each costs a wait for memory, one after the other: that was half of what applying
// took. Looked up together, the waits of different operations overlap, since none needs the result of another. Nothing comes
// of it but that the lines are at hand when the operations are applied, right after. Why not more? They would be gone again.
const ahead = 32

// lookAhead touches what the next operations will look at, ahead of them at most. It belongs to the apply goroutine.
func (st *state) lookAhead(ops []*cachepb.CacheRequest) {
	var (
		slots  [ahead]*uint64 // in a table
		values [ahead]uint64  // what is there
		tags   [ahead]uint32
		shards [ahead]*shard
		metas  [ahead]*meta
		n      int
		touch  uint64
	)
	for _, req := range ops[:min(ahead, len(ops))] {
		name, key, _, _, _ := operands(req)
		c := st.named(name)
		if c == nil {
			continue
		}
		number, tag := fold(st.hasher.sumString(c, key))
		sh := &st.shards[number]
		if len(sh.table) == 0 {
			continue
		}
		slots[n], tags[n], shards[n] = &sh.table[tag&uint32(len(sh.table)-1)], tag, sh
		n++
	}
	for i := range n {
		values[i] = *slots[i]
	}
	for i := range n {
		// Where it is not in its first place it is not worth the search.
		if values[i] != 0 && uint32(values[i]>>32) == tags[i] {
			metas[i] = shards[i].meta(uint32(values[i]) - 1)
			touch += uint64(metas[i].stamp)
		}
	}
	for i := range n {
		if metas[i] == nil {
			continue
		}
		// The header, and the key, which may lie in the next line. Nobody looks at the value that is replaced.
		d := shards[i].blocks.at(metas[i].place)
		if n := metas[i].keyBytes(); n > 0 {
			touch += uint64(d[n-1])
		}
	}
	st.touched = touch
}

package store

import "encoding/binary"

// Keys and values are records in blocks, so that the garbage collector sees some thousand blocks instead of millions of
// entries. A record is written once, at the end of its shard's open block, and never moves while somebody may look at it:
// who was handed a value keeps its block in memory for as long as he holds it. What is overwritten or removed is dead
// where it lies. A block without a living record is dropped; when too much of a shard is dead, what lives in the block
// with the most dead is copied to the open one, and the old block is dropped.
//
// record:  number and flags (4) | bytes of key and value (4) | hash (8) | key | value | tail, if it expires
//
// The hash is the entry's summand of the state hash, kept so that an overwrite need not read what it replaces: the value is
// mostly not in the processor's caches, and to fetch it took longer than to hash it.
const (
	recordHeader = 16
	recordHash   = 8       // where the hash is
	recordDead   = 1 << 31 // in the first four bytes, above the number of the entry
	recordTail   = 1 << 30 // it ends with a tail

	// blockBytes is the size of a block of a large shard. Larger ones would be a few less for the collector and more to
	// keep for one value that somebody holds.
	blockBytes = 16 << 10
	// blockLeast is that of an empty shard, of which there may be many in small stores.
	blockLeast = 512
	// recordShared is the largest record that shares a block: what is left over at the end of a block is less.
	recordShared = blockBytes / 8

	// deadBytes is what may be dead in a shard beside DeadShare. A store of 100 000 entries of 150 bytes copies 0.4
	// records for each that is overwritten at random; with 8 KiB it was 1.1.
	deadBytes = 64 << 10
)

// DeadBytes is how much may be dead in a Store beside DeadShare.
const DeadBytes = shardCount * deadBytes

// DeadShare is by what part of the bytes that live in it the memory of a Store may be larger. With a third, entries written
// again at random are copied about once for each time that they are written; with a fifth it would be twice.
const DeadShare = 3

// block is a run of records. data never changes, so that readers need only that; the rest belongs to the apply goroutine.
type block struct {
	data         []byte // as long as the block
	filled, live uint32 // bytes of records, and of those not dead
}

// place is where a record lies.
type place struct{ block, offset uint32 }

// blocks hold the records of a shard. list is changed under the lock of the shard.
type blocks struct {
	list   []block
	spare  []uint32 // numbers of blocks without data
	open   uint32   // number+1 of the block that is being filled; 0: none
	stored int64    // bytes of records, and of what was left over in blocks that are full
	live   int64    // bytes of living records
	slack  int64    // bytes that may be dead however few live
}

func recordBytes(data int, tail bool) uint32 {
	if tail {
		return uint32(recordHeader + data + tailBytes)
	}
	return uint32(recordHeader + data)
}

// at returns key and value of a record; a tail is behind len, up to cap.
func (bs *blocks) at(p place) []byte {
	b := bs.list[p.block].data[p.offset:]
	word, end := binary.LittleEndian.Uint32(b), recordHeader+binary.LittleEndian.Uint32(b[4:])
	if word&recordTail != 0 {
		return b[recordHeader : end : end+tailBytes]
	}
	return b[recordHeader:end:end]
}

// write appends a record that belongs to no entry yet, see own. It takes the shard's lock for a moment if it needs a block.
func write[K string | []byte](sh *shard, key K, value []byte, expires int64) place {
	size := recordBytes(len(key)+len(value), expires != 0)
	p := sh.reserve(size)
	b := sh.blocks.list[p.block].data[p.offset:][:size]
	word := uint32(0)
	if expires != 0 {
		word = recordTail
		binary.LittleEndian.PutUint64(b[size-tailBytes:], uint64(expires))
	}
	binary.LittleEndian.PutUint32(b, word)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(key)+len(value)))
	copy(b[recordHeader+copy(b[recordHeader:], key):], value)
	return p
}

// hash returns what setHash kept with a record.
func (bs *blocks) hash(p place) uint64 {
	return binary.LittleEndian.Uint64(bs.list[p.block].data[p.offset+recordHash:])
}

// setHash keeps a hash with a record. It belongs to the apply goroutine: readers never look at it.
func (bs *blocks) setHash(p place, hash uint64) {
	binary.LittleEndian.PutUint64(bs.list[p.block].data[p.offset+recordHash:], hash)
}

// own gives a record to an entry. The shard's lock is held.
func (bs *blocks) own(p place, number uint32) {
	b := bs.list[p.block].data[p.offset:]
	binary.LittleEndian.PutUint32(b, binary.LittleEndian.Uint32(b)&recordTail|number)
}

// reserve returns room for a record, which counts as living from now on.
func (sh *shard) reserve(size uint32) place {
	bs := &sh.blocks
	var p place
	switch {
	case size > recordShared:
		p.block = sh.addBlock(int(size))
	case bs.open == 0 || int(bs.list[bs.open-1].filled+size) > len(bs.list[bs.open-1].data):
		if bs.open != 0 {
			bs.close()
		}
		p.block = sh.addBlock(max(bs.blockSize(), int(size)))
		bs.open = p.block + 1
	default:
		p.block = bs.open - 1
	}
	b := &bs.list[p.block]
	p.offset = b.filled
	b.filled += size
	b.live += size
	bs.stored += int64(size)
	bs.live += int64(size)
	return p
}

// blockSize is the size of the next shared block: a quarter of what lives, within bounds.
func (bs *blocks) blockSize() int {
	size := blockLeast
	for size < blockBytes && int64(size) < bs.live/4 {
		size *= 2
	}
	return size
}

// close ends the filling of the open block.
func (bs *blocks) close() {
	b := &bs.list[bs.open-1]
	bs.stored += int64(len(b.data)) - int64(b.filled)
	bs.open = 0
}

func (sh *shard) addBlock(size int) uint32 {
	bs, b := &sh.blocks, block{data: make([]byte, size)}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if n := len(bs.spare); n > 0 {
		number := bs.spare[n-1]
		bs.spare = bs.spare[:n-1]
		bs.list[number] = b
		return number
	}
	bs.list = append(bs.list, b)
	return uint32(len(bs.list) - 1)
}

// release lets go of a record. The shard's lock is held.
func (bs *blocks) release(p place) {
	b := &bs.list[p.block]
	rec := b.data[p.offset:]
	word := binary.LittleEndian.Uint32(rec)
	binary.LittleEndian.PutUint32(rec, word|recordDead)
	size := recordBytes(int(binary.LittleEndian.Uint32(rec[4:])), word&recordTail != 0)
	b.live -= size
	bs.live -= int64(size)
	if b.live == 0 && p.block+1 != bs.open {
		bs.dropBlock(p.block)
	}
}

// dropBlock leaves a block to the garbage collector, and to those who hold values of it. The shard's lock is held.
func (bs *blocks) dropBlock(number uint32) {
	bs.stored -= int64(len(bs.list[number].data))
	bs.list[number] = block{}
	bs.spare = append(bs.spare, number)
}

// crowded reports whether too much of the shard is dead.
func (bs *blocks) crowded() bool { return bs.stored-bs.live > bs.live/DeadShare+bs.slack }

// compact copies what lives in one block to the open one if too much of the shard is dead. The copies are made before the
// lock is taken: readers wait only while the entries are told where they are now.
func (sh *shard) compact() {
	bs := &sh.blocks
	if !bs.crowded() {
		return
	}
	victim, ok := bs.victim()
	if !ok {
		return
	}
	data := bs.list[victim].data[:bs.list[victim].filled]
	type move struct {
		number uint32
		to     place
	}
	var buffer [blockBytes / 64]move
	moves := buffer[:0]
	for len(data) > 0 {
		word := binary.LittleEndian.Uint32(data)
		size := recordBytes(int(binary.LittleEndian.Uint32(data[4:])), word&recordTail != 0)
		if word&recordDead == 0 {
			to := sh.reserve(size)
			copy(bs.list[to.block].data[to.offset:], data[:size])
			moves = append(moves, move{word & maxNumber, to})
		}
		data = data[size:]
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, m := range moves {
		sh.meta(m.number).place = m.to
	}
	bs.live -= int64(bs.list[victim].live)
	bs.dropBlock(victim)
}

// victim returns the full block with the most dead. There is none if hardly anything would be won.
func (bs *blocks) victim() (number uint32, ok bool) {
	most := 0
	for i := range bs.list {
		b := &bs.list[i]
		if dead := len(b.data) - int(b.live); dead > most && uint32(i)+1 != bs.open {
			number, most = uint32(i), dead
		}
	}
	return number, most > 0 && most >= len(bs.list[number].data)/8
}

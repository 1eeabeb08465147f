package server

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/hacache/hacache/proto/cachepb"
)

// Program counts the operations of the program that a node is embedded in. They come without a stream, and are counted
// as those of clients are. Its zero value is ready, and it is safe for concurrent use.
type Program struct {
	count counter
	reads [readShards]readShard
}

// readShards spreads the counts of local reads: all processors of a program may read at once, in less time than a shared
// counter takes to go from one to the other.
const readShards = 16

type readShard struct {
	hits, misses, stale atomic.Uint64
	_                   [40]byte // to the end of a cache line
}

// Read counts a local read, which is answered at once. It is not timed, since asking for the time would take as long as the
// read.
func (p *Program) Read(code cachepb.Code, found bool) {
	shard := &p.reads[rand.Uint32()%readShards]
	switch {
	case code == cachepb.Code_OK && found:
		shard.hits.Add(1)
	case code == cachepb.Code_OK:
		shard.misses.Add(1)
	case code == cachepb.Code_NOT_FRESH:
		shard.stale.Add(1)
	default: // of a program with a mistake, or a node that has stopped
		p.count.mu.Lock()
		defer p.count.mu.Unlock()
		local := p.count.ofLocked(classGetLocal)
		local.note(code)
		local.untimed++
	}
}

// Answered counts any other operation, with what the program was told of it and how long that took. miss: it is a read that
// found nothing.
func (p *Program) Answered(req *cachepb.CacheRequest, code cachepb.Code, miss bool, took time.Duration) {
	p.count.mu.Lock()
	defer p.count.mu.Unlock()
	p.count.ofLocked(classOf(req)).add(code, miss, took)
}

// mergeInto adds the counts to t.
func (p *Program) mergeInto(t *tallies) {
	p.count.mergeInto(t)
	local := &t[classGetLocal]
	for i := range p.reads {
		shard := &p.reads[i]
		hits, misses, stale := shard.hits.Load(), shard.misses.Load(), shard.stale.Load()
		local.codes[outcomePlace[cachepb.Code_OK]] += hits + misses
		local.codes[outcomePlace[cachepb.Code_NOT_FRESH]] += stale
		local.misses += misses
		local.untimed += hits + misses + stale
	}
}

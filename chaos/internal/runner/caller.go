package runner

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/loadgen/load"
)

// callers perform operations one by one, each waiting for its outcome, and
// record them. What they write says that they did. Unlike a generator's load,
// their operations belong to processes that do one thing after the other.
type callers struct {
	run    *run
	as     writer
	phase  history.Phase
	target load.Target // one stream to each node
	nameOf func(addr string) string

	written atomic.Uint64
	procs   atomic.Uint64
}

// callerTimeout is how long a caller waits for an answer.
const callerTimeout = 3 * time.Second

// process is one logical process.
type process struct {
	id   int64
	last time.Duration // when its last operation returned
}

// newProc returns a new process. There is one after each write without an
// answer: the old one may still be writing.
func (c *callers) newProc() *process {
	return &process{id: versionOf(c.as, c.procs.Add(1)-1), last: -1}
}

// call performs op on a node and returns what was recorded. An Insert gets a
// value of its own.
func (c *callers) call(p *process, node int, op client.Op) history.Op {
	h := history.Op{Proc: p.id, Kind: op.Kind.String(), Cache: op.Cache, Key: op.Key, Stream: int64(node), Phase: c.phase}
	op.Deadline = callerTimeout
	if op.Kind == client.KindInsert {
		i := c.written.Add(1) - 1
		op.Value = load.CheckedValue(nil, c.as.String(), i, filler[:])
		h.Version = versionOf(c.as, i)
	}
	if op.Kind.Write() {
		c.run.keys.add(op.Cache, op.Key)
	}
	done := make(chan struct{})
	finish := func(got client.Outcome) {
		h.Return = max(c.run.now(), h.Send)
		h.Node, h.Cluster, h.Term, h.Index = c.nameOf(got.Node), got.Cluster, got.Term, got.Index
		conclude(&h, &op, &got)
		close(done)
	}
	// What a process does next comes later, however coarse the clock is.
	h.Intended = max(c.run.now(), p.last+1)
	h.Send = h.Intended
	if err := c.target.Start(node, &op, finish); err != nil {
		finish(client.Outcome{Status: client.StatusFail, Err: err})
	}
	<-done
	p.last = h.Return
	c.run.history.Record(h)
	c.run.count.add(h.Outcome)
	return h
}

// filler is what values are made of beside what they say.
var filler [64]byte

// pause waits; false if ctx was done first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

package gateway

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/hacache/hacache/cachenode/internal/mutant"
	"github.com/hacache/hacache/cachenode/internal/store"
	"github.com/hacache/hacache/cachenode/internal/wire"
	"github.com/hacache/hacache/proto/cachepb"
)

type proposal struct {
	index, term uint64
	batch       *cachepb.Batch
}

// propose puts one batch into the log. It reports false if that is not possible now.
func (g *Gateway) propose() bool {
	ops := g.take()
	if len(ops) == 0 {
		return false
	}
	requests := make([]*cachepb.CacheRequest, len(ops))
	for i, o := range ops {
		if o.own {
			o.first = g.session.base
		}
		requests[i] = o.logged()
	}
	index, ok := g.append(requests)
	if !ok {
		g.untake(ops)
		return false
	}
	term := g.core.Term()
	for _, o := range ops {
		o.state, o.index, o.term = stateProposed, index, term
		o.copies++
		switch {
		case !o.kind.waits() || o.level == levelQuorum && !earlyQuorum():
		case o.level == levelLeader || o.level == levelQuorum:
			g.reached(o)
		default:
			g.once = append(g.once, o)
			continue
		}
		if o.foreign {
			g.finish(o)
		}
	}
	return true
}

// earlyQuorum reports whether a planted bug answers at quorum what is only proposed.
func earlyQuorum() bool {
	return mutant.On(mutant.QuorumBeforeCommit) || mutant.On(mutant.AckBeforeApply)
}

// append puts an entry with operations into the log. It reports false if that is not possible now.
func (g *Gateway) append(ops []*cachepb.CacheRequest) (index uint64, ok bool) {
	batch := &cachepb.Batch{ClusterMs: g.core.ClusterMs(), Ops: ops}
	var err error
	if g.entry, err = wire.AppendBatch(g.entry[:0], batch.ClusterMs, ops); err != nil {
		// Strings that are not UTF-8 were refused at the door, so this is a bug.
		panic(fmt.Sprintf("gateway: marshal a batch: %v", err))
	}
	if index, err = g.core.Propose(bytes.Clone(g.entry)); err != nil { // the log keeps it for long, and nothing beyond it
		return 0, false
	}
	g.proposals = append(g.proposals, proposal{index: index, term: g.core.Term(), batch: batch})
	g.stats.Batches++
	g.stats.BatchedOps += uint64(len(ops))
	return index, true
}

// sweep puts an entry without operations into the log if no other is on its way and expired entries wait: they go with
// entries of the log only.
func (g *Gateway) sweep() {
	if len(g.proposals) > 0 || !g.core.Leading() || g.core.Transferring() || g.core.Now()-g.lookedAt < sweepInterval {
		return
	}
	g.lookedAt = g.core.Now()
	if g.store.SweepDue(g.core.ClusterMs()) {
		g.append(nil)
	}
}

// Apply implements replication.StateMachine.
func (g *Gateway) Apply(index, term uint64, data []byte) {
	g.applied = true
	var batch *cachepb.Batch
	if len(g.proposals) > 0 && g.proposals[0].index == index && g.proposals[0].term == term {
		batch = g.proposals[0].batch
		g.proposals = slices.Delete(g.proposals, 0, 1)
	} else {
		var err error
		defer g.decoder.Free()
		if batch, err = decodeBatch(&g.decoder, data); err != nil {
			// Every replica reads the same bytes, so all skip it. It cannot have been proposed by a gateway of this version.
			g.log.Error("an entry of the log is not a batch", "index", index, "term", term, "error", err)
			batch = &cachepb.Batch{}
		}
		if mutant.On(mutant.RemoveOnLeader) {
			batch.Ops = slices.DeleteFunc(batch.Ops, func(req *cachepb.CacheRequest) bool { return req.GetRemove() != nil })
		}
	}
	g.core.NoteClusterMs(batch.GetClusterMs())
	watched := g.feeds.begin(g.store)
	g.applying = true
	g.store.Apply(index, batch, func(i int, r store.Result) {
		if o := g.find(cachepb.TagOf(batch.Ops[i])); o != nil {
			g.complete(o, r, index, term)
		}
	})
	if watched {
		g.feeds.end(index, term, g.core.Cluster())
	}
	g.applying = false
	g.handOver()
}

// maxClusterMs bounds cluster time, so that a ttl can be added to it. It is in the year 287396.
const maxClusterMs = 1 << 53

// decodeBatch reads the payload of a log entry, into memory of the decoder.
func decodeBatch(d *wire.Decoder, data []byte) (*cachepb.Batch, error) {
	b, err := d.Batch(data)
	if err != nil {
		return nil, err
	}
	if len(b.GetOps()) > store.MaxBatchOps {
		return nil, fmt.Errorf("%d operations, want at most %d", len(b.GetOps()), store.MaxBatchOps)
	}
	if ms := b.GetClusterMs(); ms < 0 || ms > maxClusterMs {
		return nil, fmt.Errorf("cluster time %d ms, want 0 to %d", ms, int64(maxClusterMs))
	}
	return b, nil
}

// find returns this gateway's operation of a tag, or nil.
func (g *Gateway) find(t *cachepb.OpTag) *op {
	if t.GetSession() == g.session.id && g.session.id != 0 {
		return g.session.at(t.GetSeq())
	}
	return g.byTag[tag{t.GetSession(), t.GetSeq()}]
}

// complete ends an operation that was applied here.
func (g *Gateway) complete(o *op, r store.Result, index, term uint64) {
	if o.own {
		g.session.opened = true
	}
	if o.state == stateForwarded && o.sentAt > g.refusedAt {
		g.overloadPause = 0
	}
	if r.Code == cachepb.Code_OK {
		g.overlay.dropOlder(o)
		g.answerAt(o, cachepb.Code_OK, "", cmp.Or(r.Index, index), term)
		g.finish(o)
		return
	}
	if r.Code == cachepb.Code_SESSION_EXPIRED && o.own {
		g.expelled(o)
		return
	}
	if o.copies > 1 {
		g.answer(o, cachepb.Code_INDETERMINATE, "refused as "+r.Code.String()+"; an earlier copy may have taken effect")
	} else {
		g.answer(o, r.Code, "")
	}
	g.lose(o)
	g.finish(o)
}

// expelled handles an operation whose session, this gateway's own, is not in the session table any more. If this was its
// only copy it had no effect, and goes on under the next session.
func (g *Gateway) expelled(o *op) {
	if o.copies == 1 && g.sendable(o) {
		o.copies, o.req = 0, nil
	}
	g.renewSession()
}

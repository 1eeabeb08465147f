package gateway

import (
	"slices"
	"strconv"
	"time"

	"github.com/hacache/hacache/cachenode/internal/mutant"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/proto/cachepb"
)

const (
	readDeadline   = 3 * time.Second
	readRetry      = 100 * time.Millisecond // raft drops pending reads on a change of term, without a word
	lookupDeadline = time.Second
	readsMax       = 64 << 10 // waiting at once
)

// read is a Get that cannot be answered from this node's state at once.
type read struct {
	to       replication.Responder
	get      *cachepb.Get
	deadline time.Duration
	ctx      uint64 // the first request for a read index that includes it
	index    uint64
}

// reads holds them: linearizable ones until this node has applied what was committed when they came, lookups until the
// leader answers.
type reads struct {
	waiting []*read // for a read index
	asked   []*read // included in the request of their ctx and all later ones
	missed  []*read // to be looked up at the leader, after the forwards of this turn
	askedAt time.Duration
	ready   []*read // wait until index is applied
	lookups map[uint64]*read
	n       uint64
}

func (r *reads) len() int {
	return len(r.waiting) + len(r.asked) + len(r.missed) + len(r.ready) + len(r.lookups)
}

// Read looks a key up at this node. fresh is false, and nothing is said, if it cannot prove that its copy is at most bound
// old, or the configured bound if that is less; age is what it can prove. The value is immutable, and not nil if found. It
// is safe for concurrent use; v is what the runner published and now its clock. The view must be read before the store, so
// that what it promises is there.
func (g *Gateway) Read(v *replication.View, now, bound time.Duration, cache, key string) (value []byte, found bool, age time.Duration, fresh bool) {
	age = max(now-v.AsOf, 0)
	if (!v.Fresh || age > min(bound, g.cfg.MaxStale)) && !mutant.On(mutant.StaleReads) {
		return nil, false, age, false
	}
	if value, deleted, known := g.overlay.get(cache, key); known {
		return value, !deleted, age, true
	}
	value, _, found = g.store.Get(cache, key, v.ClusterMs+(now-v.At).Milliseconds())
	return notNil(value), found, age, true
}

func notNil(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}

// Get answers a local read, as Read does, with a GetAck.
func (g *Gateway) Get(v *replication.View, now time.Duration, get *cachepb.Get) *cachepb.Ack {
	x := &struct { // of one allocation
		ack     cachepb.Ack
		kind    cachepb.Ack_GetAck
		msg     cachepb.GetAck
		outcome cachepb.Outcome
	}{}
	ack := &x.msg
	x.kind.GetAck = ack
	x.ack.Method = &x.kind
	ack.CacheName, ack.Entry = get.GetCacheName(), get.GetEntry()
	bound := g.cfg.MaxStale
	tag := get.GetRead()
	if tag != nil {
		if ms := tag.GetMaxStalenessMs(); ms > 0 {
			bound = time.Duration(ms) * time.Millisecond
		}
		ack.ReqId = tag.GetReqId()
	}
	value, found, age, fresh := g.Read(v, now, bound, ack.CacheName, ack.Entry)
	if !fresh {
		ack.Outcome = &cachepb.Outcome{Code: cachepb.Code_NOT_FRESH, Cluster: v.Cluster, Term: v.Term, Leader: v.Address}
		return &x.ack
	}
	if tag != nil {
		ack.StalenessUs = uint64(age / time.Microsecond)
		ack.Outcome = &x.outcome
		x.outcome.Cluster, x.outcome.Term, x.outcome.Index = v.Cluster, v.Term, v.Applied
	}
	if found {
		ack.Value = value
	} else {
		g.explain(ack)
	}
	return &x.ack
}

// Deleted reports whether the entry was removed here lately, so that its absence is an answer and not a miss. It is safe
// for concurrent use.
func (g *Gateway) Deleted(get *cachepb.Get) bool {
	_, deleted, known := g.overlay.get(get.GetCacheName(), get.GetEntry())
	return known && deleted
}

// fill looks the entry up in the store.
func (g *Gateway) fill(ack *cachepb.GetAck, clusterMs int64) {
	if value, _, ok := g.store.Get(ack.GetCacheName(), ack.GetEntry(), clusterMs); ok {
		ack.Value = notNil(value)
	} else {
		g.explain(ack)
	}
}

// explain says why an entry that was not found cannot be there, if that is so. It is safe for concurrent use.
func (g *Gateway) explain(ack *cachepb.GetAck) {
	if code, detail := g.store.ValidateRead(ack.GetCacheName(), ack.GetEntry()); code != cachepb.Code_OK {
		was := ack.GetOutcome() // others may have it too
		ack.Outcome = &cachepb.Outcome{
			Code: code, Detail: detail, Cluster: was.GetCluster(), Term: was.GetTerm(), Index: was.GetIndex(), Leader: was.GetLeader(),
		}
	}
}

// submitRead takes a Get whose mode needs the leader.
func (g *Gateway) submitRead(to replication.Responder, get *cachepb.Get) {
	r := &read{to: to, get: get, deadline: g.core.Now() + readDeadline}
	if g.reads.len() >= readsMax {
		g.stats.FullPending++
		g.refuseRead(r, cachepb.Code_OVERLOADED)
		return
	}
	if get.GetRead().GetMode() == cachepb.ReadTag_LINEARIZABLE {
		g.reads.waiting = append(g.reads.waiting, r)
		return
	}
	g.reads.missed = append(g.reads.missed, r)
}

// lookUp asks the leader for what this node does not have.
func (g *Gateway) lookUp(r *read) {
	leader := g.core.Leader()
	if g.core.Elected() || leader < 0 {
		// The leader's own miss is the answer; without a leader the local one is, which the session has established.
		r.to.Deliver(&cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: g.localRead(r.get)}})
		return
	}
	if g.reads.lookups == nil {
		g.reads.lookups = make(map[uint64]*read)
	}
	g.reads.n++
	r.deadline = g.core.Now() + lookupDeadline
	ok := g.cfg.Transport.Send(leader, replication.LaneData, &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Get{Get: &cachepb.Get{
		CacheName: r.get.GetCacheName(), Entry: r.get.GetEntry(),
		Read: &cachepb.ReadTag{ReqId: strconv.FormatUint(g.reads.n, 36)},
	}}})
	if !ok {
		r.to.Deliver(&cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: g.localRead(r.get)}})
		return
	}
	g.reads.lookups[g.reads.n] = r
}

// localRead answers from this node's state under the usual bound.
func (g *Gateway) localRead(get *cachepb.Get) *cachepb.GetAck {
	at, fresh := g.core.AsOf()
	base, baseAt := g.core.ClusterTime()
	return g.Get(&replication.View{
		AsOf: at, Fresh: fresh, ClusterMs: base, At: baseAt, Cluster: g.core.Cluster(), Term: g.core.Term(),
		Leader: g.core.Leader(), Address: g.core.Host(g.core.Leader()), Applied: g.core.Applied(),
	}, g.core.Now(), get).GetGetAck()
}

// leaderRead answers another gateway's lookup, if this node leads.
func (g *Gateway) leaderRead(get *cachepb.Get) *cachepb.GetAck {
	if !g.core.Leading() {
		return &cachepb.GetAck{
			CacheName: get.GetCacheName(), Entry: get.GetEntry(), ReqId: get.GetRead().GetReqId(),
			Outcome: g.outcome(cachepb.Code_NOT_FRESH, "", 0, g.core.Term()),
		}
	}
	return g.localRead(get)
}

// lookedUp passes the leader's answer on.
func (g *Gateway) lookedUp(ack *cachepb.GetAck) {
	n, err := strconv.ParseUint(ack.GetReqId(), 36, 64)
	r := g.reads.lookups[n]
	if err != nil || r == nil {
		return
	}
	delete(g.reads.lookups, n)
	ack.ReqId = r.get.GetRead().GetReqId()
	r.to.Deliver(&cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: ack}})
}

// askReads asks for a read index on behalf of everything that waits. A read that comes later needs a later one.
func (g *Gateway) askReads() {
	r := &g.reads
	for _, read := range r.missed {
		g.lookUp(read)
	}
	clear(r.missed)
	r.missed = r.missed[:0]
	if len(r.asked) > 0 && g.core.Now()-r.askedAt < readRetry {
		return
	}
	if len(r.asked)+len(r.waiting) == 0 {
		return
	}
	if ctx, ok := g.core.ReadIndex(); ok {
		for _, read := range r.waiting {
			read.ctx = ctx
		}
		r.asked, r.waiting = append(r.asked, r.waiting...), nil
		r.askedAt = g.core.Now()
	}
}

// ReadReady implements replication.Upper.
func (g *Gateway) ReadReady(ctx, index uint64) {
	r := &g.reads
	// The answer to an earlier request is as good for whoever was waiting then: with a long round trip it may be the only
	// one that comes before the next request is made.
	n := 0
	for n < len(r.asked) && r.asked[n].ctx <= ctx {
		r.asked[n].index = index
		n++
	}
	r.ready = append(r.ready, r.asked[:n]...)
	r.asked = slices.Delete(r.asked, 0, n)
}

// settleReads answers the linearizable reads whose index is applied, and ends those that waited too long.
func (g *Gateway) settleReads() {
	r, now := &g.reads, g.core.Now()
	if r.len() == 0 {
		return
	}
	left := r.ready[:0]
	for _, read := range r.ready {
		if g.core.Applied() < max(read.index, g.store.CompleteAt()) {
			left = append(left, read)
			continue
		}
		ack := &cachepb.GetAck{
			CacheName: read.get.GetCacheName(), Entry: read.get.GetEntry(), ReqId: read.get.GetRead().GetReqId(),
			Outcome: g.outcome(cachepb.Code_OK, "", g.core.Applied(), g.core.Term()),
		}
		g.fill(ack, g.core.ClusterMs())
		read.to.Deliver(&cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: ack}})
	}
	clear(r.ready[len(left):])
	r.ready = left
	r.waiting, r.asked, r.ready = g.expireReads(r.waiting, now), g.expireReads(r.asked, now), g.expireReads(r.ready, now)
	for n, read := range r.lookups {
		if now >= read.deadline {
			delete(r.lookups, n)
			g.refuseRead(read, cachepb.Code_NOT_FRESH)
		}
	}
}

func (g *Gateway) expireReads(list []*read, now time.Duration) []*read {
	n := 0
	for n < len(list) && now >= list[n].deadline { // in order of arrival, hence of deadline
		g.refuseRead(list[n], cachepb.Code_NOT_FRESH)
		n++
	}
	return list[n:]
}

func (g *Gateway) failReads() {
	r := &g.reads
	for _, list := range [][]*read{r.waiting, r.asked, r.missed, r.ready} {
		for _, read := range list {
			g.refuseRead(read, cachepb.Code_NOT_FRESH)
		}
	}
	for _, read := range r.lookups {
		g.refuseRead(read, cachepb.Code_NOT_FRESH)
	}
	*r = reads{n: r.n}
}

func (g *Gateway) refuseRead(r *read, code cachepb.Code) {
	r.to.Deliver(&cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{
		CacheName: r.get.GetCacheName(), Entry: r.get.GetEntry(), ReqId: r.get.GetRead().GetReqId(),
		Outcome: g.outcome(code, "", 0, g.core.Term()),
	}}})
}

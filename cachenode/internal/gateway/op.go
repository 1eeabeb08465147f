package gateway

import (
	"time"

	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/wire"
	"github.com/hacache/hacache/proto/cachepb"
)

// kind is what an operation does.
type kind uint8

const (
	kindPut kind = iota
	kindInsert
	kindDel
	kindRemove
)

func (k kind) deletes() bool { return k == kindDel || k == kindRemove }

// waits reports whether the client waits for an ack level; Put and Del are answered on arrival.
func (k kind) waits() bool { return k == kindInsert || k == kindRemove }

// level is how far an operation must get before its client is told.
type level uint8

// The levels, the strongest first: what reaches one has reached those after it.
const (
	levelQuorum level = iota
	levelOnce
	levelLeader
)

func levelOf(l *cachepb.AckLevel) level {
	switch l.GetAckLevel().(type) {
	case *cachepb.AckLevel_LevelOnce:
		return levelOnce
	case *cachepb.AckLevel_LevelLeader:
		return levelLeader
	}
	return levelQuorum // also when it is missing: the strongest is the safe default
}

func (l level) wire() *cachepb.AckLevel {
	switch l {
	case levelOnce:
		return &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelOnce{LevelOnce: &cachepb.Empty{}}}
	case levelLeader:
		return &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelLeader{LevelLeader: &cachepb.Empty{}}}
	}
	return &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelQuorum{LevelQuorum: &cachepb.Empty{}}}
}

type state uint8

const (
	stateQueued    state = iota
	stateProposed        // in this node's log as leader
	stateForwarded       // sent to the leader
	stateDone            // forgotten; a pointer to it may still stand in a queue
)

// op is one operation while the gateway keeps it: a client's own, or one that another gateway forwarded to this leader.
type op struct {
	kind  kind
	level level
	state state

	req *cachepb.CacheRequest // as it came; for the log, see logged
	tag cachepb.OpTag         // of req in the log

	to       replication.Responder // who waits for the answer; nil once answered
	twins    []twin
	reqID    string
	hasReqID bool

	cache, key string
	value      []byte
	ttlMs      uint32
	size       int

	n       uint64 // order of arrival
	at      time.Duration
	session uint64 // 0 until tagged
	seq     uint64
	first   uint64 // first_unacked of a client's own tag
	since   uint64 // when the session was opened, if this operation does it
	own     bool   // tagged by this gateway rather than by the client

	copies   int  // sent so far: with one, a deadline is an indeterminate outcome; with two, so is a refusal
	acked    bool // answered at leader or once: never sent again
	sentAt   time.Duration
	index    uint64
	term     uint64
	deadline time.Duration
	word     *word // in the overlay, or nil

	// Of an operation that another gateway forwarded.
	foreign bool
	slot    int
	from    uint64
	ref     string      // its name in a forwarded message
	name    forwardName // the same, of its last copy

	// Place in the deadline wheel.
	prev, next *op
	bucket     int
}

// twin is a repeated submission of a tagged operation that waits for the same outcome.
type twin struct {
	to       replication.Responder
	reqID    string
	hasReqID bool
	level    level
}

// parse reads an operation out of a request. ok is false if the request is none.
func parse(req *cachepb.CacheRequest) (o *op, ok bool) {
	o = &op{}
	return o, o.parse(req)
}

// opsAtOnce are allocated together. Nearly all of them end within the same few milliseconds.
const opsAtOnce = 16

// parse is the same with fewer allocations.
func (g *Gateway) parse(req *cachepb.CacheRequest) (o *op, ok bool) {
	if len(g.blank) == 0 {
		g.blank = make([]op, opsAtOnce)
	}
	o = &g.blank[0]
	if !o.parse(req) {
		return nil, false
	}
	g.blank = g.blank[1:]
	return o, true
}

// parse fills an op that is empty. It reports false, and leaves it empty, if the request is no operation.
func (o *op) parse(req *cachepb.CacheRequest) (ok bool) {
	var tag *cachepb.OpTag
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Put:
		o.kind, o.cache, o.key, o.value, tag = kindPut, m.Put.GetCacheName(), m.Put.GetEntry(), m.Put.GetValue(), m.Put.GetOp()
		o.reqID, o.hasReqID = m.Put.GetReqId(), m.Put.ReqId != nil
	case *cachepb.CacheRequest_Insert:
		o.kind, o.cache, o.key, o.value, tag = kindInsert, m.Insert.GetCacheName(), m.Insert.GetEntry(), m.Insert.GetValue(), m.Insert.GetOp()
		o.reqID, o.hasReqID, o.level = m.Insert.GetReqId(), true, levelOf(m.Insert.GetAckLevel())
	case *cachepb.CacheRequest_Del:
		o.kind, o.cache, o.key, tag = kindDel, m.Del.GetCacheName(), m.Del.GetEntry(), m.Del.GetOp()
		o.reqID, o.hasReqID = m.Del.GetReqId(), m.Del.ReqId != nil
	case *cachepb.CacheRequest_Remove:
		o.kind, o.cache, o.key, tag = kindRemove, m.Remove.GetCacheName(), m.Remove.GetEntry(), m.Remove.GetOp()
		o.reqID, o.hasReqID, o.level = m.Remove.GetReqId(), true, levelOf(m.Remove.GetAckLevel())
	default:
		return false
	}
	o.req, o.bucket = req, -1
	o.session, o.seq, o.first, o.ttlMs = tag.GetSession(), tag.GetSeq(), tag.GetFirstUnacked(), tag.GetTtlMs()
	o.since = tag.GetOpenedMs()
	o.deadline = time.Duration(tag.GetDeadlineMs()) * time.Millisecond
	o.size = len(o.cache) + len(o.key) + len(o.value) + len(o.reqID) + opOverhead
	return true
}

// opOverhead is about what one kept operation takes besides its strings.
const opOverhead = 512

// logged returns the operation's message for the log. Until the first copy is sent that is the request as it came, but with
// the gateway's tag; nobody else looks at its tag any more. Once it has been given away it is not touched again, so that
// every later copy is a message of its own. What else a client has written into it, fields that this version does not know,
// is for no log: nobody has counted it, and an entry must fit into a message between nodes.
func (o *op) logged() *cachepb.CacheRequest {
	if o.copies > 0 || o.req == nil || !wire.Plain(o.req) {
		return o.request(true)
	}
	o.tag.Session, o.tag.Seq, o.tag.FirstUnacked, o.tag.TtlMs, o.tag.OpenedMs = o.session, o.seq, o.first, o.ttlMs, o.since
	switch m := o.req.GetMethod().(type) {
	case *cachepb.CacheRequest_Put:
		m.Put.Op = &o.tag
	case *cachepb.CacheRequest_Insert:
		m.Insert.Op = &o.tag
	case *cachepb.CacheRequest_Del:
		m.Del.Op = &o.tag
	case *cachepb.CacheRequest_Remove:
		m.Remove.Op = &o.tag
	}
	return o.req
}

// request builds the operation's message: for the log without a name and level, for the way to the leader with them.
func (o *op) request(forLog bool) *cachepb.CacheRequest {
	tag := &cachepb.OpTag{Session: o.session, Seq: o.seq, FirstUnacked: o.first, TtlMs: o.ttlMs, OpenedMs: o.since, Forwarded: !forLog}
	ref := ""
	if !forLog {
		ref = o.ref
	}
	switch o.kind {
	case kindPut:
		m := &cachepb.Put{CacheName: o.cache, Entry: o.key, Value: o.value, Op: tag}
		if ref != "" {
			m.ReqId = &ref
		}
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Put{Put: m}}
	case kindInsert:
		m := &cachepb.Insert{CacheName: o.cache, Entry: o.key, Value: o.value, Op: tag, ReqId: ref}
		if !forLog {
			m.AckLevel = o.level.wire()
		}
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Insert{Insert: m}}
	case kindDel:
		m := &cachepb.Del{CacheName: o.cache, Entry: o.key, Op: tag}
		if ref != "" {
			m.ReqId = &ref
		}
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Del{Del: m}}
	default:
		m := &cachepb.Remove{CacheName: o.cache, Entry: o.key, Op: tag, ReqId: ref}
		if !forLog {
			m.AckLevel = o.level.wire()
		}
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Remove{Remove: m}}
	}
}

// ack builds the answer of the operation's kind. Answers may share an outcome, so nobody changes it.
func (o *op) ack(reqID string, has bool, ok bool, outcome *cachepb.Outcome) *cachepb.Ack {
	if o.kind.deletes() {
		x := &struct {
			ack   cachepb.Ack
			kind  cachepb.Ack_DelAck
			msg   cachepb.DelAck
			reqID string
			ok    bool
		}{reqID: reqID, ok: ok}
		x.msg.ModRes, x.msg.Outcome = &x.ok, outcome
		if has {
			x.msg.ReqId = &x.reqID
		}
		x.kind.DelAck = &x.msg
		x.ack.Method = &x.kind
		return &x.ack
	}
	x := &struct {
		ack   cachepb.Ack
		kind  cachepb.Ack_PutAck
		msg   cachepb.PutAck
		reqID string
		ok    bool
	}{reqID: reqID, ok: ok}
	x.msg.ModRes, x.msg.Outcome = &x.ok, outcome
	if has {
		x.msg.ReqId = &x.reqID
	}
	x.kind.PutAck = &x.msg
	x.ack.Method = &x.kind
	return &x.ack
}

// Refuse builds the answer to a put, insert, del or remove that is refused for code before it reached a gateway; nil if
// req is none of them.
func Refuse(req *cachepb.CacheRequest, code cachepb.Code, detail string) *cachepb.Ack {
	o, ok := parse(req)
	if !ok {
		return nil
	}
	return o.ack(o.reqID, o.hasReqID, false, &cachepb.Outcome{Code: code, Detail: detail})
}

// wheel holds operations by deadline, in buckets of wheelGrain. Adding and removing are constant work, which a heap at a
// few hundred thousand operations a second is not.
type wheel struct {
	buckets [wheelBuckets]*op
	at      int64 // number of the first bucket not swept yet
}

const (
	wheelGrain   = 16 * time.Millisecond
	wheelBuckets = 4096 // 65 s, more than maxPatience
)

func (w *wheel) add(o *op, now time.Duration) {
	if w.at == 0 {
		w.at = int64(now / wheelGrain)
	}
	slot := int64(o.deadline/wheelGrain) + 1
	slot = min(max(slot, w.at), w.at+wheelBuckets-1)
	o.bucket = int(slot % wheelBuckets)
	head := w.buckets[o.bucket]
	o.prev, o.next = nil, head
	if head != nil {
		head.prev = o
	}
	w.buckets[o.bucket] = o
}

func (w *wheel) remove(o *op) {
	if o.bucket < 0 {
		return
	}
	if o.prev != nil {
		o.prev.next = o.next
	} else {
		w.buckets[o.bucket] = o.next
	}
	if o.next != nil {
		o.next.prev = o.prev
	}
	o.prev, o.next, o.bucket = nil, nil, -1
}

// sweep calls due for every operation whose deadline has passed.
func (w *wheel) sweep(now time.Duration, due func(*op)) {
	last := int64(now / wheelGrain)
	if w.at == 0 {
		return // nothing was ever added
	}
	w.at = max(w.at, last-wheelBuckets+1)
	for ; w.at <= last; w.at++ {
		for o := w.buckets[w.at%wheelBuckets]; o != nil; o = w.buckets[w.at%wheelBuckets] {
			w.remove(o)
			due(o)
		}
	}
}

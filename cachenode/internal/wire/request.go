package wire

import (
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/proto/cachepb"
)

// Tags of the fields that are read here, from cache.proto.
const (
	tagGet       = 1<<3 | typeBytes
	tagPut       = 2<<3 | typeBytes
	tagInsert    = 3<<3 | typeBytes
	tagDel       = 4<<3 | typeBytes
	tagRemove    = 5<<3 | typeBytes
	tagReplicate = 16<<3 | typeBytes
	tagBatch     = 17<<3 | typeBytes

	tagItem = 1<<3 | typeBytes // Requests.items

	tagCacheName = 1<<3 | typeBytes
	tagEntry     = 2<<3 | typeBytes
	tagValue     = 3<<3 | typeBytes
	tagOp        = 16<<3 | typeBytes // Get: read

	tagClusterMs = 1<<3 | typeVarint // Batch
	tagOps       = 2<<3 | typeBytes
)

// The structs of one operation, allocated together.
type (
	getBox struct {
		req  cachepb.CacheRequest
		kind cachepb.CacheRequest_Get
		op   cachepb.Get
		read cachepb.ReadTag
	}
	putBox struct {
		req   cachepb.CacheRequest
		kind  cachepb.CacheRequest_Put
		op    cachepb.Put
		tag   cachepb.OpTag
		reqID string
	}
	insertBox struct {
		req  cachepb.CacheRequest
		kind cachepb.CacheRequest_Insert
		op   cachepb.Insert
		tag  cachepb.OpTag
	}
	delBox struct {
		req   cachepb.CacheRequest
		kind  cachepb.CacheRequest_Del
		op    cachepb.Del
		tag   cachepb.OpTag
		reqID string
	}
	removeBox struct {
		req  cachepb.CacheRequest
		kind cachepb.CacheRequest_Remove
		op   cachepb.Remove
		tag  cachepb.OpTag
	}
)

// boxes hands out structs for the operations of one message, several in one allocation. What is kept of a message keeps
// a chunk, so chunks are small.
type boxes struct {
	copying bool                    // what is decoded must not share memory with its source
	block   []byte                  // where to copy to
	list    []*cachepb.CacheRequest // room for the operations, if it suffices
	left    int                     // operations that are still to come, this one included
	slabs   *slabs                  // where structs come from, if they are given back; else from the chunks below
	gets    []getBox
	puts    []putBox
	inserts []insertBox
	dels    []delBox
	removes []removeBox
}

const boxesAtOnce = 16

// slab hands out structs, and takes all of them back at once.
type slab[T any] struct {
	chunks     [][]T
	full, next int // chunks that are handed out, and structs of the one after them
}

func (s *slab[T]) take() *T {
	if s.full == len(s.chunks) {
		s.chunks = append(s.chunks, make([]T, boxesAtOnce))
	}
	x := &s.chunks[s.full][s.next]
	if s.next++; s.next == boxesAtOnce {
		s.full, s.next = s.full+1, 0
	}
	return x
}

func (s *slab[T]) reset() {
	for _, chunk := range s.chunks[:s.full] {
		clear(chunk)
	}
	if s.next > 0 {
		clear(s.chunks[s.full][:s.next])
	}
	s.full, s.next = 0, 0
}

type slabs struct {
	gets    slab[getBox]
	puts    slab[putBox]
	inserts slab[insertBox]
	dels    slab[delBox]
	removes slab[removeBox]
}

func (s *slabs) reset() {
	s.gets.reset()
	s.puts.reset()
	s.inserts.reset()
	s.dels.reset()
	s.removes.reset()
}

func take[T any](chunk *[]T, left int) *T {
	if len(*chunk) == 0 {
		*chunk = make([]T, min(max(left, 1), boxesAtOnce))
	}
	b := &(*chunk)[0]
	*chunk = (*chunk)[1:]
	return b
}

const (
	blockSize = 4 << 10
	ownBlock  = blockSize / 4 // what is larger than this is copied for itself
)

// keep returns b, or a copy of it.
func (bx *boxes) keep(b []byte) []byte {
	if !bx.copying || len(b) == 0 {
		return b
	}
	if bx.left <= 1 || len(b) > ownBlock {
		return append(make([]byte, 0, len(b)), b...)
	}
	if cap(bx.block)-len(bx.block) < len(b) {
		bx.block = make([]byte, 0, min(bx.left*len(b), blockSize))
	}
	from := len(bx.block)
	bx.block = append(bx.block, b...)
	return bx.block[from:len(bx.block):len(bx.block)]
}

// request returns nil for what it does not understand.
func (bx *boxes) request(b []byte) *cachepb.CacheRequest {
	r := reader{b: b}
	tag, _, p := r.next()
	if r.more() || r.bad {
		return nil
	}
	switch tag {
	case tagBatch:
		return bx.batch(p)
	case tagReplicate:
		return replicate(bx.keep(p))
	}
	return bx.op(tag, p)
}

// batch decodes Requests.
func (bx *boxes) batch(b []byte) *cachepb.CacheRequest {
	n := count(b, tagItem, 0)
	if n < 0 {
		return nil
	}
	all := &struct {
		req  cachepb.CacheRequest
		kind cachepb.CacheRequest_Batch
		list cachepb.Requests
	}{}
	items, ok := bx.items(b, tagItem, n)
	if !ok {
		return nil
	}
	all.list.Items = items
	all.kind.Batch = &all.list
	all.req.Method = &all.kind
	return &all.req
}

// count returns how many fields with one tag b has; -1 if it has others, but for those with the tag beside.
func count(b []byte, tag, beside uint64) int {
	n := 0
	r := reader{b: b}
	for r.more() {
		switch t, _, _ := r.next(); {
		case t == tag:
			n++
		case t != beside || t == 0:
			return -1
		}
	}
	if r.bad {
		return -1
	}
	return n
}

// items decodes n operations. Fields with other tags are passed over.
func (bx *boxes) items(b []byte, tag uint64, n int) ([]*cachepb.CacheRequest, bool) {
	if n == 0 {
		return nil, true
	}
	list := bx.list[:0]
	if cap(list) < n {
		list = make([]*cachepb.CacheRequest, 0, n)
	}
	bx.left = n
	for r := (reader{b: b}); r.more(); {
		t, _, p := r.next()
		if t != tag {
			continue
		}
		in := reader{b: p}
		kind, _, body := in.next()
		if in.more() || in.bad {
			return nil, false
		}
		req := bx.op(kind, body)
		if req == nil {
			return nil, false
		}
		list = append(list, req)
		bx.left--
	}
	return list, true
}

// op decodes one operation, by the tag that it has in CacheRequest.
func (bx *boxes) op(kind uint64, b []byte) *cachepb.CacheRequest {
	switch kind {
	case tagGet:
		return bx.get(bx.keep(b))
	case tagPut:
		return bx.put(bx.keep(b))
	case tagInsert:
		return bx.insert(bx.keep(b))
	case tagDel:
		return bx.del(bx.keep(b))
	case tagRemove:
		return bx.remove(bx.keep(b))
	}
	return nil
}

func (bx *boxes) get(b []byte) *cachepb.CacheRequest {
	const (
		tagReqID    = 1<<3 | typeBytes
		tagMode     = 2<<3 | typeVarint
		tagMaxStale = 3<<3 | typeVarint
	)
	var x *getBox
	if bx.slabs != nil {
		x = bx.slabs.gets.take()
	} else {
		x = take(&bx.gets, bx.left)
	}
	r := reader{b: b}
	for r.more() {
		switch tag, _, p := r.next(); tag {
		case tagCacheName:
			x.op.CacheName = r.name(p)
		case tagEntry:
			x.op.Entry = r.text(p)
		case tagOp:
			r.bad = r.bad || x.op.Read != nil
			in := reader{b: p}
			for in.more() {
				switch tag, v, p := in.next(); tag {
				case tagReqID:
					x.read.ReqId = in.text(p)
				case tagMode:
					x.read.Mode = cachepb.ReadTag_Mode(int32(v))
				case tagMaxStale:
					x.read.MaxStalenessMs = uint32(v)
				default:
					in.bad = true
				}
			}
			r.bad = r.bad || in.bad
			x.op.Read = &x.read
		default:
			r.bad = true
		}
	}
	if r.bad {
		return nil
	}
	x.kind.Get = &x.op
	x.req.Method = &x.kind
	return &x.req
}

func (bx *boxes) put(b []byte) *cachepb.CacheRequest {
	const tagReqID = 4<<3 | typeBytes
	var x *putBox
	if bx.slabs != nil {
		x = bx.slabs.puts.take()
	} else {
		x = take(&bx.puts, bx.left)
	}
	r := reader{b: b}
	for r.more() {
		switch tag, _, p := r.next(); tag {
		case tagCacheName:
			x.op.CacheName = r.name(p)
		case tagEntry:
			x.op.Entry = r.text(p)
		case tagValue:
			x.op.Value = p
		case tagReqID:
			x.reqID = r.text(p)
			x.op.ReqId = &x.reqID
		case tagOp:
			x.op.Op = r.opTag(p, x.op.Op, &x.tag)
		default:
			r.bad = true
		}
	}
	if r.bad {
		return nil
	}
	x.kind.Put = &x.op
	x.req.Method = &x.kind
	return &x.req
}

func (bx *boxes) insert(b []byte) *cachepb.CacheRequest {
	const (
		tagReqID = 4<<3 | typeBytes
		tagLevel = 5<<3 | typeBytes
	)
	var x *insertBox
	if bx.slabs != nil {
		x = bx.slabs.inserts.take()
	} else {
		x = take(&bx.inserts, bx.left)
	}
	r := reader{b: b}
	for r.more() {
		switch tag, _, p := r.next(); tag {
		case tagCacheName:
			x.op.CacheName = r.name(p)
		case tagEntry:
			x.op.Entry = r.text(p)
		case tagValue:
			x.op.Value = p
		case tagReqID:
			x.op.ReqId = r.text(p)
		case tagLevel:
			x.op.AckLevel = r.level(p, x.op.AckLevel)
		case tagOp:
			x.op.Op = r.opTag(p, x.op.Op, &x.tag)
		default:
			r.bad = true
		}
	}
	if r.bad {
		return nil
	}
	x.kind.Insert = &x.op
	x.req.Method = &x.kind
	return &x.req
}

func (bx *boxes) del(b []byte) *cachepb.CacheRequest {
	const tagReqID = 3<<3 | typeBytes
	var x *delBox
	if bx.slabs != nil {
		x = bx.slabs.dels.take()
	} else {
		x = take(&bx.dels, bx.left)
	}
	r := reader{b: b}
	for r.more() {
		switch tag, _, p := r.next(); tag {
		case tagCacheName:
			x.op.CacheName = r.name(p)
		case tagEntry:
			x.op.Entry = r.text(p)
		case tagReqID:
			x.reqID = r.text(p)
			x.op.ReqId = &x.reqID
		case tagOp:
			x.op.Op = r.opTag(p, x.op.Op, &x.tag)
		default:
			r.bad = true
		}
	}
	if r.bad {
		return nil
	}
	x.kind.Del = &x.op
	x.req.Method = &x.kind
	return &x.req
}

func (bx *boxes) remove(b []byte) *cachepb.CacheRequest {
	const (
		tagReqID = 3<<3 | typeBytes
		tagLevel = 4<<3 | typeBytes
	)
	var x *removeBox
	if bx.slabs != nil {
		x = bx.slabs.removes.take()
	} else {
		x = take(&bx.removes, bx.left)
	}
	r := reader{b: b}
	for r.more() {
		switch tag, _, p := r.next(); tag {
		case tagCacheName:
			x.op.CacheName = r.name(p)
		case tagEntry:
			x.op.Entry = r.text(p)
		case tagReqID:
			x.op.ReqId = r.text(p)
		case tagLevel:
			x.op.AckLevel = r.level(p, x.op.AckLevel)
		case tagOp:
			x.op.Op = r.opTag(p, x.op.Op, &x.tag)
		default:
			r.bad = true
		}
	}
	if r.bad {
		return nil
	}
	x.kind.Remove = &x.op
	x.req.Method = &x.kind
	return &x.req
}

// opTag decodes an OpTag into t. A message that has had one already is left to the generated code, which merges the two.
func (r *reader) opTag(b []byte, had, t *cachepb.OpTag) *cachepb.OpTag {
	const (
		tagSession   = 1<<3 | typeFixed64
		tagSeq       = 2<<3 | typeVarint
		tagUnacked   = 3<<3 | typeVarint
		tagTTL       = 4<<3 | typeVarint
		tagDeadline  = 5<<3 | typeVarint
		tagForwarded = 6<<3 | typeVarint
		tagOpened    = 7<<3 | typeVarint
	)
	r.bad = r.bad || had != nil
	in := reader{b: b}
	for in.more() {
		switch tag, v, _ := in.next(); tag {
		case tagSession:
			t.Session = v
		case tagSeq:
			t.Seq = v
		case tagUnacked:
			t.FirstUnacked = v
		case tagTTL:
			t.TtlMs = uint32(v)
		case tagDeadline:
			t.DeadlineMs = uint32(v)
		case tagForwarded:
			t.Forwarded = v != 0
		case tagOpened:
			t.OpenedMs = v
		default:
			in.bad = true
		}
	}
	r.bad = r.bad || in.bad
	return t
}

// The ack levels, one message each: nobody changes them.
var (
	levelQuorum = &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelQuorum{LevelQuorum: &cachepb.Empty{}}}
	levelOnce   = &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelOnce{LevelOnce: &cachepb.Empty{}}}
	levelLeader = &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelLeader{LevelLeader: &cachepb.Empty{}}}
)

func (r *reader) level(b []byte, had *cachepb.AckLevel) *cachepb.AckLevel {
	if had == nil && len(b) == 2 && b[1] == 0 {
		switch b[0] {
		case 1<<3 | typeBytes:
			return levelQuorum
		case 2<<3 | typeBytes:
			return levelOnce
		case 3<<3 | typeBytes:
			return levelLeader
		}
	}
	r.bad = true
	return nil
}

// Decoder decodes the payloads of log entries into the same memory again and again. The zero value is ready; it is used by
// one goroutine.
type Decoder struct {
	slabs slabs
	list  []*cachepb.CacheRequest
	batch cachepb.Batch
}

// Batch decodes the payload of a log entry. What it returns shares memory with b, and is the caller's until Free or the next
// call.
func (d *Decoder) Batch(b []byte) (*cachepb.Batch, error) {
	d.Free()
	if n := count(b, tagOps, tagClusterMs); n >= 0 {
		for r := (reader{b: b}); r.more(); {
			if tag, v, _ := r.next(); tag == tagClusterMs {
				d.batch.ClusterMs = int64(v)
			}
		}
		bx := boxes{slabs: &d.slabs, list: d.list}
		if ops, ok := bx.items(b, tagOps, n); ok {
			d.list, d.batch.Ops = ops, ops
			return &d.batch, nil
		}
	}
	out := &cachepb.Batch{}
	return out, proto.Unmarshal(b, out)
}

// Free forgets what Batch returned, so that it holds on to nothing.
func (d *Decoder) Free() {
	d.slabs.reset()
	clear(d.list)
	d.list = d.list[:0]
	d.batch.Ops, d.batch.ClusterMs = nil, 0
}

// replicate decodes a Replicate that carries a letter of Raft and nothing else.
func replicate(b []byte) *cachepb.CacheRequest {
	x := &struct {
		req  cachepb.CacheRequest
		kind cachepb.CacheRequest_Replicate
		msg  cachepb.Replicate
		peer cachepb.Peer
	}{}
	if !letter(b, &x.peer) {
		return nil
	}
	x.msg.Peer = &x.peer
	x.kind.Replicate = &x.msg
	x.req.Method = &x.kind
	return &x.req
}

// letter decodes a message whose only field, number 1, is a Peer with a cluster and a letter.
func letter(b []byte, peer *cachepb.Peer) bool {
	const (
		tagPeer    = 1<<3 | typeBytes
		tagCluster = 1<<3 | typeFixed64
		tagRaft    = 2<<3 | typeBytes
	)
	r := reader{b: b}
	tag, _, p := r.next()
	if tag != tagPeer || r.more() || r.bad {
		return false
	}
	in := reader{b: p}
	for in.more() {
		switch tag, v, p := in.next(); tag {
		case tagCluster:
			peer.Cluster = v
		case tagRaft:
			peer.Raft = p
		default:
			return false
		}
	}
	return !in.bad
}

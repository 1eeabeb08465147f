package wire

import (
	"encoding/binary"
	"math/bits"
	"unsafe"

	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/proto/cachepb"
)

// Sizes and bytes of fields. A field at its zero value takes no room, but where presence counts. All field numbers below 16
// have tags of one byte, from 16 on of two.

func varintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func tagSize(tag uint64) int { return varintSize(tag) }

func bytesSize(tag uint64, n int) int { return tagSize(tag) + varintSize(uint64(n)) + n }

func textSize(tag uint64, s string) int {
	if s == "" {
		return 0
	}
	return bytesSize(tag, len(s))
}

func numberSize(tag, v uint64) int {
	if v == 0 {
		return 0
	}
	return tagSize(tag) + varintSize(v)
}

func fixedSize(tag, v uint64) int {
	if v == 0 {
		return 0
	}
	return tagSize(tag) + 8
}

func putVarint(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func putHeader(b []byte, tag uint64, n int) []byte { return putVarint(putVarint(b, tag), uint64(n)) }

func putText(b []byte, tag uint64, s string) []byte {
	if s == "" {
		return b
	}
	return append(putHeader(b, tag, len(s)), s...)
}

func putNumber(b []byte, tag, v uint64) []byte {
	if v == 0 {
		return b
	}
	return putVarint(putVarint(b, tag), v)
}

func putFixed(b []byte, tag, v uint64) []byte {
	if v == 0 {
		return b
	}
	return binary.LittleEndian.AppendUint64(putVarint(b, tag), v)
}

func truth(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

// unusual reports whether a message has fields that only a newer version knows. The library's way to ask takes 30 ns, six
// times for an insert; so this looks where the generated structs keep them, behind everything else but a size. TestUnusual
// holds that true for each message.
func unusual[M any](m *M) bool {
	return m != nil && len(*(*[]byte)(unsafe.Add(unsafe.Pointer(m), unsafe.Sizeof(*m)-unknownFromEnd))) > 0
}

const unknownFromEnd = unsafe.Sizeof(struct {
	unknown []byte
	size    int32
}{})

// operation is what the five kinds of requests have in common.
type operation struct {
	tag                 uint64 // in CacheRequest
	cache, entry        string
	value               []byte
	reqID               string
	reqIDTag            uint64 // 0: it is absent
	level               *cachepb.AckLevel
	levelTag            uint64
	op                  *cachepb.OpTag
	read                *cachepb.ReadTag
	always              bool // req_id is written although it is empty
	opBytes, levelBytes int
}

// operationOf takes a request apart; ok is false for what this package does not write.
func operationOf(req *cachepb.CacheRequest) (o operation, ok bool) {
	if unusual(req) {
		return o, false
	}
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Get:
		g := m.Get
		o = operation{tag: tagGet, cache: g.GetCacheName(), entry: g.GetEntry(), read: g.GetRead()}
		ok = g != nil && !unusual(g) && (o.read == nil || !unusual(o.read))
	case *cachepb.CacheRequest_Put:
		p := m.Put
		o = operation{tag: tagPut, cache: p.GetCacheName(), entry: p.GetEntry(), value: p.GetValue(), op: p.GetOp()}
		if p != nil && p.ReqId != nil {
			o.reqID, o.reqIDTag, o.always = *p.ReqId, 4<<3|typeBytes, true
		}
		ok = p != nil && !unusual(p)
	case *cachepb.CacheRequest_Insert:
		i := m.Insert
		o = operation{
			tag: tagInsert, cache: i.GetCacheName(), entry: i.GetEntry(), value: i.GetValue(), op: i.GetOp(),
			reqID: i.GetReqId(), reqIDTag: 4<<3 | typeBytes, level: i.GetAckLevel(), levelTag: 5<<3 | typeBytes,
		}
		ok = i != nil && !unusual(i)
	case *cachepb.CacheRequest_Del:
		d := m.Del
		o = operation{tag: tagDel, cache: d.GetCacheName(), entry: d.GetEntry(), op: d.GetOp()}
		if d != nil && d.ReqId != nil {
			o.reqID, o.reqIDTag, o.always = *d.ReqId, 3<<3|typeBytes, true
		}
		ok = d != nil && !unusual(d)
	case *cachepb.CacheRequest_Remove:
		r := m.Remove
		o = operation{
			tag: tagRemove, cache: r.GetCacheName(), entry: r.GetEntry(), op: r.GetOp(),
			reqID: r.GetReqId(), reqIDTag: 3<<3 | typeBytes, level: r.GetAckLevel(), levelTag: 4<<3 | typeBytes,
		}
		ok = r != nil && !unusual(r)
	}
	if !ok {
		return o, false
	}
	if o.op != nil {
		if unusual(o.op) {
			return o, false
		}
		o.opBytes = opTagSize(o.op)
	} else if o.read != nil {
		o.opBytes = readTagSize(o.read)
	}
	if o.level != nil {
		o.levelBytes = levelSize(o.level)
		ok = o.levelBytes >= 0
	}
	return o, ok
}

// Plain reports whether an operation holds nothing but what this package writes: no field that only a newer version knows.
func Plain(req *cachepb.CacheRequest) bool {
	_, ok := operationOf(req)
	return ok
}

func opTagSize(t *cachepb.OpTag) int {
	return fixedSize(1<<3|typeFixed64, t.GetSession()) + numberSize(2<<3, t.GetSeq()) + numberSize(3<<3, t.GetFirstUnacked()) +
		numberSize(4<<3, uint64(t.GetTtlMs())) + numberSize(5<<3, uint64(t.GetDeadlineMs())) + numberSize(6<<3, truth(t.GetForwarded())) +
		numberSize(7<<3, t.GetOpenedMs())
}

func putOpTag(b []byte, t *cachepb.OpTag) []byte {
	b = putFixed(b, 1<<3|typeFixed64, t.GetSession())
	b = putNumber(b, 2<<3, t.GetSeq())
	b = putNumber(b, 3<<3, t.GetFirstUnacked())
	b = putNumber(b, 4<<3, uint64(t.GetTtlMs()))
	b = putNumber(b, 5<<3, uint64(t.GetDeadlineMs()))
	b = putNumber(b, 6<<3, truth(t.GetForwarded()))
	return putNumber(b, 7<<3, t.GetOpenedMs())
}

func readTagSize(t *cachepb.ReadTag) int {
	return textSize(1<<3|typeBytes, t.GetReqId()) + numberSize(2<<3, uint64(int64(t.GetMode()))) + numberSize(3<<3, uint64(t.GetMaxStalenessMs()))
}

func putReadTag(b []byte, t *cachepb.ReadTag) []byte {
	b = putText(b, 1<<3|typeBytes, t.GetReqId())
	b = putNumber(b, 2<<3, uint64(int64(t.GetMode())))
	return putNumber(b, 3<<3, uint64(t.GetMaxStalenessMs()))
}

// levelSize returns the size of an ack level, -1 if it is not one of the three as they are usually written.
func levelSize(l *cachepb.AckLevel) int {
	if unusual(l) {
		return -1
	}
	switch m := l.GetAckLevel().(type) {
	case nil:
		return 0
	case *cachepb.AckLevel_LevelQuorum:
		if m.LevelQuorum != nil && !unusual(m.LevelQuorum) {
			return 2
		}
	case *cachepb.AckLevel_LevelOnce:
		if m.LevelOnce != nil && !unusual(m.LevelOnce) {
			return 2
		}
	case *cachepb.AckLevel_LevelLeader:
		if m.LevelLeader != nil && !unusual(m.LevelLeader) {
			return 2
		}
	}
	return -1
}

func putLevel(b []byte, l *cachepb.AckLevel) []byte {
	switch l.GetAckLevel().(type) {
	case *cachepb.AckLevel_LevelQuorum:
		return append(b, 1<<3|typeBytes, 0)
	case *cachepb.AckLevel_LevelOnce:
		return append(b, 2<<3|typeBytes, 0)
	case *cachepb.AckLevel_LevelLeader:
		return append(b, 3<<3|typeBytes, 0)
	}
	return b
}

// bodySize returns the size of the message in CacheRequest.
func (o *operation) bodySize() int {
	n := textSize(tagCacheName, o.cache) + textSize(tagEntry, o.entry)
	if len(o.value) > 0 {
		n += bytesSize(tagValue, len(o.value))
	}
	if o.reqIDTag != 0 && (o.always || o.reqID != "") {
		n += bytesSize(o.reqIDTag, len(o.reqID))
	}
	if o.level != nil {
		n += bytesSize(o.levelTag, o.levelBytes)
	}
	if o.op != nil || o.read != nil {
		n += bytesSize(tagOp, o.opBytes)
	}
	return n
}

func (o *operation) put(b []byte, body int) []byte {
	b = putHeader(b, o.tag, body)
	b = putText(b, tagCacheName, o.cache)
	b = putText(b, tagEntry, o.entry)
	if len(o.value) > 0 {
		b = append(putHeader(b, tagValue, len(o.value)), o.value...)
	}
	if o.reqIDTag != 0 && (o.always || o.reqID != "") {
		b = append(putHeader(b, o.reqIDTag, len(o.reqID)), o.reqID...)
	}
	if o.level != nil {
		b = putLevel(putHeader(b, o.levelTag, o.levelBytes), o.level)
	}
	switch {
	case o.op != nil:
		b = putOpTag(putHeader(b, tagOp, o.opBytes), o.op)
	case o.read != nil:
		b = putReadTag(putHeader(b, tagOp, o.opBytes), o.read)
	}
	return b
}

// listSize returns the size of requests as repeated fields with a tag; ok is false if one of them is not for this package.
func listSize(tag uint64, reqs []*cachepb.CacheRequest) (n int, ok bool) {
	for _, req := range reqs {
		o, ok := operationOf(req)
		if !ok {
			return 0, false
		}
		body := o.bodySize()
		n += bytesSize(tag, bytesSize(o.tag, body))
	}
	return n, true
}

func putList(b []byte, tag uint64, reqs []*cachepb.CacheRequest) []byte {
	for _, req := range reqs {
		o, _ := operationOf(req)
		body := o.bodySize()
		b = o.put(putHeader(b, tag, bytesSize(o.tag, body)), body)
	}
	return b
}

// AppendBatch appends the payload of a log entry. What only the sender of an operation needs, its req_id and the level, is
// left out; the generated code, which takes over for what is unusual, writes that too, and no reader minds.
func AppendBatch(b []byte, clusterMs int64, ops []*cachepb.CacheRequest) ([]byte, error) {
	before := len(b)
	b = putNumber(b, tagClusterMs, uint64(clusterMs))
	for _, req := range ops {
		o, ok := operationOf(req)
		if !ok {
			return proto.MarshalOptions{}.MarshalAppend(b[:before], &cachepb.Batch{ClusterMs: clusterMs, Ops: ops})
		}
		o.reqIDTag, o.level = 0, nil
		body := o.bodySize()
		b = o.put(putHeader(b, tagOps, bytesSize(o.tag, body)), body)
	}
	return b, nil
}

// requestSize returns the size of a request, -1 if the generated code is to write it.
func requestSize(req *cachepb.CacheRequest) int {
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Batch:
		if m.Batch == nil || unusual(req) || unusual(m.Batch) {
			return -1
		}
		n, ok := listSize(tagItem, m.Batch.GetItems())
		if !ok {
			return -1
		}
		return bytesSize(tagBatch, n)
	case *cachepb.CacheRequest_Replicate:
		n := letterSize(m.Replicate.GetPeer())
		if n < 0 || unusual(req) || unusual(m.Replicate) || m.Replicate.GetChunk() != nil || m.Replicate.GetReverse() != nil {
			return -1
		}
		return bytesSize(tagReplicate, n)
	case nil:
		return -1
	}
	o, ok := operationOf(req)
	if !ok {
		return -1
	}
	return bytesSize(o.tag, o.bodySize())
}

// putRequest appends a request of which requestSize gave the size.
func putRequest(b []byte, req *cachepb.CacheRequest) []byte {
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Batch:
		n, _ := listSize(tagItem, m.Batch.GetItems())
		return putList(putHeader(b, tagBatch, n), tagItem, m.Batch.GetItems())
	case *cachepb.CacheRequest_Replicate:
		return putLetter(putHeader(b, tagReplicate, letterSize(m.Replicate.GetPeer())), m.Replicate.GetPeer())
	}
	o, _ := operationOf(req)
	return o.put(b, o.bodySize())
}

// letterSize returns the size of a message whose only field, number 1, is a Peer with a letter, -1 if it is not like that.
func letterSize(p *cachepb.Peer) int {
	if p == nil || p.GetStatus() != nil || unusual(p) {
		return -1
	}
	return bytesSize(1<<3|typeBytes, peerSize(p))
}

func peerSize(p *cachepb.Peer) int {
	n := fixedSize(1<<3|typeFixed64, p.GetCluster())
	if len(p.GetRaft()) > 0 {
		n += bytesSize(2<<3|typeBytes, len(p.GetRaft()))
	}
	return n
}

func putLetter(b []byte, p *cachepb.Peer) []byte {
	b = putHeader(b, 1<<3|typeBytes, peerSize(p))
	b = putFixed(b, 1<<3|typeFixed64, p.GetCluster())
	if len(p.GetRaft()) > 0 {
		b = append(putHeader(b, 2<<3|typeBytes, len(p.GetRaft())), p.GetRaft()...)
	}
	return b
}

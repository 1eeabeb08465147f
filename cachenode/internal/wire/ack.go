package wire

import (
	"bytes"

	"github.com/hacache/hacache/proto/cachepb"
)

// Tags in Ack.
const (
	tagGetAck       = 1<<3 | typeBytes
	tagPutAck       = 2<<3 | typeBytes
	tagDelAck       = 3<<3 | typeBytes
	tagReplicateAck = 16<<3 | typeBytes
	tagAckBatch     = 17<<3 | typeBytes

	tagOutcome = 16<<3 | typeBytes // in GetAck, PutAck and DelAck
)

// outcomeSize returns the size of an Outcome, -1 if the generated code is to write it.
func outcomeSize(o *cachepb.Outcome) int {
	if unusual(o) {
		return -1
	}
	return numberSize(1<<3, uint64(int64(o.GetCode()))) + textSize(2<<3|typeBytes, o.GetDetail()) + fixedSize(3<<3|typeFixed64, o.GetCluster()) +
		numberSize(4<<3, o.GetTerm()) + numberSize(5<<3, o.GetIndex()) + textSize(6<<3|typeBytes, o.GetLeader())
}

func putOutcome(b []byte, o *cachepb.Outcome) []byte {
	b = putNumber(b, 1<<3, uint64(int64(o.GetCode())))
	b = putText(b, 2<<3|typeBytes, o.GetDetail())
	b = putFixed(b, 3<<3|typeFixed64, o.GetCluster())
	b = putNumber(b, 4<<3, o.GetTerm())
	b = putNumber(b, 5<<3, o.GetIndex())
	return putText(b, 6<<3|typeBytes, o.GetLeader())
}

// answer is what the acks of writes have in common.
type answer struct {
	tag     uint64 // in Ack
	reqID   *string
	modRes  *bool
	outcome *cachepb.Outcome
}

// answerOf takes the ack of a write apart; ok is false for other acks, and for those that carry more.
func answerOf(ack *cachepb.Ack) (a answer, ok bool) {
	switch m := ack.GetMethod().(type) {
	case *cachepb.Ack_PutAck:
		if p := m.PutAck; p != nil && p.GetChange() == nil && !unusual(p) {
			return answer{tagPutAck, p.ReqId, p.ModRes, p.GetOutcome()}, true
		}
	case *cachepb.Ack_DelAck:
		if d := m.DelAck; d != nil && d.GetChange() == nil && !unusual(d) {
			return answer{tagDelAck, d.ReqId, d.ModRes, d.GetOutcome()}, true
		}
	}
	return a, false
}

// bodySize returns the size of an ack without the tag and length that it has in Ack, -1 if the generated code is to
// write it.
func bodySize(ack *cachepb.Ack) int {
	n := 0
	var outcome *cachepb.Outcome
	if a, ok := answerOf(ack); ok {
		if a.reqID != nil {
			n += bytesSize(1<<3|typeBytes, len(*a.reqID))
		}
		if a.modRes != nil {
			n += 2
		}
		outcome = a.outcome
	} else {
		m, ok := ack.GetMethod().(*cachepb.Ack_GetAck)
		if !ok || m.GetAck == nil || unusual(m.GetAck) {
			return -1
		}
		g := m.GetAck
		n = textSize(tagCacheName, g.GetCacheName()) + textSize(tagEntry, g.GetEntry()) + textSize(17<<3|typeBytes, g.GetReqId()) +
			numberSize(18<<3, g.GetStalenessUs())
		if g.Value != nil {
			n += bytesSize(tagValue, len(g.Value))
		}
		outcome = g.GetOutcome()
	}
	if unusual(ack) {
		return -1
	}
	if outcome != nil {
		size := outcomeSize(outcome)
		if size < 0 {
			return -1
		}
		n += bytesSize(tagOutcome, size)
	}
	return n
}

// putAck appends an ack of which bodySize gave the size.
func putAck(b []byte, ack *cachepb.Ack, body int) []byte {
	if a, ok := answerOf(ack); ok {
		b = putHeader(b, a.tag, body)
		if a.reqID != nil {
			b = append(putHeader(b, 1<<3|typeBytes, len(*a.reqID)), *a.reqID...)
		}
		if a.modRes != nil {
			b = append(b, 2<<3, byte(truth(*a.modRes)))
		}
		if a.outcome != nil {
			b = putOutcome(putHeader(b, tagOutcome, outcomeSize(a.outcome)), a.outcome)
		}
		return b
	}
	g := ack.GetGetAck()
	b = putHeader(b, tagGetAck, body)
	b = putText(b, tagCacheName, g.GetCacheName())
	b = putText(b, tagEntry, g.GetEntry())
	if g.Value != nil {
		b = append(putHeader(b, tagValue, len(g.Value)), g.Value...)
	}
	if o := g.GetOutcome(); o != nil {
		b = putOutcome(putHeader(b, tagOutcome, outcomeSize(o)), o)
	}
	b = putText(b, 17<<3|typeBytes, g.GetReqId())
	return putNumber(b, 18<<3, g.GetStalenessUs())
}

// ackTag returns the tag of an ack of which bodySize gave the size.
func ackTag(ack *cachepb.Ack) uint64 {
	if a, ok := answerOf(ack); ok {
		return a.tag
	}
	return tagGetAck
}

// ackSize returns the size of an ack, -1 if the generated code is to write it.
func ackSize(ack *cachepb.Ack) int {
	switch m := ack.GetMethod().(type) {
	case *cachepb.Ack_Batch:
		n := acksSize(m.Batch)
		if n < 0 || unusual(ack) {
			return -1
		}
		return bytesSize(tagAckBatch, n)
	case *cachepb.Ack_ReplicateAck:
		n := letterSize(m.ReplicateAck.GetPeer())
		if n < 0 || unusual(ack) || unusual(m.ReplicateAck) || m.ReplicateAck.GetChunkAck() != nil || m.ReplicateAck.GetReverse() != nil {
			return -1
		}
		return bytesSize(tagReplicateAck, n)
	}
	n := bodySize(ack)
	if n < 0 {
		return -1
	}
	return bytesSize(ackTag(ack), n)
}

func acksSize(acks *cachepb.Acks) int {
	if acks == nil || unusual(acks) {
		return -1
	}
	n := 0
	for _, ack := range acks.GetItems() {
		body := bodySize(ack)
		if body < 0 {
			return -1
		}
		n += bytesSize(tagItem, bytesSize(ackTag(ack), body))
	}
	return n
}

// appendAck appends an ack of which ackSize gave the size.
func appendAck(b []byte, ack *cachepb.Ack) []byte {
	switch m := ack.GetMethod().(type) {
	case *cachepb.Ack_Batch:
		b = putHeader(b, tagAckBatch, acksSize(m.Batch))
		for _, item := range m.Batch.GetItems() {
			body := bodySize(item)
			b = putAck(putHeader(b, tagItem, bytesSize(ackTag(item), body)), item, body)
		}
		return b
	case *cachepb.Ack_ReplicateAck:
		return putLetter(putHeader(b, tagReplicateAck, letterSize(m.ReplicateAck.GetPeer())), m.ReplicateAck.GetPeer())
	}
	return putAck(b, ack, bodySize(ack))
}

// decodeAck decodes an ack to a peer and copies what it takes from b. It returns nil for what it does not understand.
func decodeAck(b []byte) *cachepb.Ack {
	r := reader{b: b}
	tag, _, p := r.next()
	if r.more() || r.bad {
		return nil
	}
	switch tag {
	case tagReplicateAck:
		x := &struct {
			ack  cachepb.Ack
			kind cachepb.Ack_ReplicateAck
			msg  cachepb.ReplicateAck
			peer cachepb.Peer
		}{}
		if !letter(bytes.Clone(p), &x.peer) {
			return nil
		}
		x.msg.Peer = &x.peer
		x.kind.ReplicateAck = &x.msg
		x.ack.Method = &x.kind
		return &x.ack
	case tagAckBatch:
		n := count(p, tagItem, 0)
		if n < 0 {
			return nil
		}
		items := make([]*cachepb.Ack, 0, n)
		for in := (reader{b: p}); in.more(); {
			_, _, item := in.next()
			ack := decodeItem(item)
			if ack == nil {
				return nil
			}
			items = append(items, ack)
		}
		return &cachepb.Ack{Method: &cachepb.Ack_Batch{Batch: &cachepb.Acks{Items: items}}}
	}
	return decodeItem(b)
}

// decodeItem decodes the ack of a write.
func decodeItem(b []byte) *cachepb.Ack {
	r := reader{b: b}
	tag, _, p := r.next()
	if r.more() || r.bad {
		return nil
	}
	p = bytes.Clone(p)
	switch tag {
	case tagPutAck:
		x := &struct {
			ack  cachepb.Ack
			kind cachepb.Ack_PutAck
			msg  cachepb.PutAck
			verdict
		}{}
		if !x.decode(p) {
			return nil
		}
		x.msg.ReqId, x.msg.ModRes, x.msg.Outcome = x.hasReqID, x.hasModRes, x.hasOutcome
		x.kind.PutAck = &x.msg
		x.ack.Method = &x.kind
		return &x.ack
	case tagDelAck:
		x := &struct {
			ack  cachepb.Ack
			kind cachepb.Ack_DelAck
			msg  cachepb.DelAck
			verdict
		}{}
		if !x.decode(p) {
			return nil
		}
		x.msg.ReqId, x.msg.ModRes, x.msg.Outcome = x.hasReqID, x.hasModRes, x.hasOutcome
		x.kind.DelAck = &x.msg
		x.ack.Method = &x.kind
		return &x.ack
	}
	return nil
}

// verdict is the content of the ack of a write, and where it is if it is there.
type verdict struct {
	outcome    cachepb.Outcome
	reqID      string
	modRes     bool
	hasOutcome *cachepb.Outcome
	hasReqID   *string
	hasModRes  *bool
}

func (v *verdict) decode(b []byte) bool {
	r := reader{b: b}
	for r.more() {
		switch tag, n, p := r.next(); tag {
		case 1<<3 | typeBytes:
			v.reqID = r.text(p)
			v.hasReqID = &v.reqID
		case 2<<3 | typeVarint:
			v.modRes = n != 0
			v.hasModRes = &v.modRes
		case tagOutcome:
			r.bad = r.bad || v.hasOutcome != nil || !decodeOutcome(p, &v.outcome)
			v.hasOutcome = &v.outcome
		default:
			r.bad = true
		}
	}
	return !r.bad
}

func decodeOutcome(b []byte, o *cachepb.Outcome) bool {
	r := reader{b: b}
	for r.more() {
		switch tag, v, p := r.next(); tag {
		case 1<<3 | typeVarint:
			o.Code = cachepb.Code(int32(v))
		case 2<<3 | typeBytes:
			o.Detail = r.text(p)
		case 3<<3 | typeFixed64:
			o.Cluster = v
		case 4<<3 | typeVarint:
			o.Term = v
		case 5<<3 | typeVarint:
			o.Index = v
		case 6<<3 | typeBytes:
			o.Leader = r.text(p)
		default:
			r.bad = true
		}
	}
	return !r.bad
}

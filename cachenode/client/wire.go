package client

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"sync"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/hacache/hacache/proto/cachepb"
)

// The wire format is written and read by hand. A message object per operation
// and its reflection cost more than everything else this package does, and the
// five requests and three acks that are ever hot are small. wire_test.go holds
// both directions equal to the generated code.

// Numbers of the fields used, from cache.proto.
const (
	reqGet, reqPut, reqInsert, reqDel, reqRemove = 1, 2, 3, 4, 5
	reqMgmt, reqBatch                            = 6, 17

	ackGetField, ackPutField, ackDelField, ackMgmtField = 1, 2, 3, 4
	ackErrorField, ackBatchField                        = 5, 17
)

func lenTag(num protowire.Number) byte { return byte(num<<3 | 2) } // num < 16

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func appendUvarint(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func bytesLen(n int) int { return 1 + uvarintLen(uint64(n)) + n } // field number < 16

func appendHeader(b []byte, num protowire.Number, n int) []byte {
	return appendUvarint(append(b, lenTag(num)), uint64(n))
}

// tag16 is the two byte tag of a length-delimited field 16.
const tag16a, tag16b = 0x82, 0x01

// milliseconds rounds a positive duration up to whole milliseconds, so that a
// tiny but present bound does not become "no bound".
func milliseconds(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	ms := (d + time.Millisecond - 1) / time.Millisecond
	return uint32(min(ms, math.MaxUint32))
}

// serverDeadline is what the node is told of a deadline, 0 being nothing: a
// tenth, but at most 50 ms, is left for its answer to travel.
func serverDeadline(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d - min(d/10, 50*time.Millisecond)
}

const hexDigits = "0123456789abcdef"

func hexLen(id uint64) int { return max(1, (bits.Len64(id)+3)/4) }

func appendHex(b []byte, id uint64) []byte {
	for i := hexLen(id) - 1; i >= 0; i-- {
		b = append(b, hexDigits[id>>(4*i)&15])
	}
	return b
}

// parseHex reads what appendHex wrote; ok is false for anything else.
func parseHex(s []byte) (id uint64, ok bool) {
	if len(s) == 0 || len(s) > 16 {
		return 0, false
	}
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9':
			id = id<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			id = id<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return id, true
}

// appendItem appends op as one element of Requests.items: the tag of the field,
// the length, and the CacheRequest itself. Without the prefix, whose length it
// returns, the same bytes are a message of their own.
func appendItem(b []byte, op *Op, id uint64, deadline time.Duration) (out []byte, prefix int) {
	inner := requestLen(op, id, deadline)
	item := bytesLen(inner)
	start := len(b)
	b = appendHeader(b, 1, item)
	prefix = len(b) - start
	var num protowire.Number
	switch op.Kind {
	case KindGet:
		num = reqGet
	case KindPut:
		num = reqPut
	case KindInsert:
		num = reqInsert
	case KindDel:
		num = reqDel
	case KindRemove:
		num = reqRemove
	}
	b = appendHeader(b, num, inner)
	return appendRequest(b, op, id, deadline), prefix
}

func stringLen(s string) int {
	if s == "" {
		return 0
	}
	return bytesLen(len(s))
}

func appendString(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return append(appendHeader(b, num, len(s)), s...)
}

func varintLen(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + uvarintLen(v)
}

func appendVarint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return appendUvarint(append(b, byte(num<<3)), v)
}

func readTagLen(op *Op, id uint64) int {
	return bytesLen(hexLen(id)) + varintLen(uint64(op.ReadMode)) + varintLen(uint64(milliseconds(op.MaxStaleness)))
}

func opTagLen(op *Op, deadline time.Duration) int {
	n := varintLen(op.Seq) + varintLen(op.FirstUnacked) +
		varintLen(uint64(milliseconds(op.TTL))) + varintLen(uint64(milliseconds(deadline)))
	if op.Session != 0 {
		n += 9
	}
	return n
}

// requestLen is the length of the Get, Put, Insert, Del or Remove message.
func requestLen(op *Op, id uint64, deadline time.Duration) int {
	n := stringLen(op.Cache) + stringLen(op.Key)
	if op.Kind == KindGet {
		tag := readTagLen(op, id)
		return n + 1 + bytesLen(tag)
	}
	if op.Kind == KindPut || op.Kind == KindInsert {
		if len(op.Value) > 0 {
			n += bytesLen(len(op.Value))
		}
	}
	n += bytesLen(hexLen(id))
	if op.Kind.Leveled() {
		n += 4 // AckLevel with one empty member
	}
	if tag := opTagLen(op, deadline); tag > 0 {
		n += 1 + bytesLen(tag)
	}
	return n
}

func appendRequest(b []byte, op *Op, id uint64, deadline time.Duration) []byte {
	b = appendString(b, 1, op.Cache)
	b = appendString(b, 2, op.Key)
	next := protowire.Number(3)
	switch op.Kind {
	case KindGet:
		b = appendUvarint(append(b, tag16a, tag16b), uint64(readTagLen(op, id)))
		b = appendHex(appendHeader(b, 1, hexLen(id)), id)
		b = appendVarint(b, 2, uint64(op.ReadMode))
		return appendVarint(b, 3, uint64(milliseconds(op.MaxStaleness)))
	case KindPut, KindInsert:
		if len(op.Value) > 0 {
			b = append(appendHeader(b, 3, len(op.Value)), op.Value...)
		}
		next = 4
	}
	b = appendHex(appendHeader(b, next, hexLen(id)), id)
	if op.Kind.Leveled() {
		// AckLevel{level: Empty{}}: the level's number is Level+1.
		b = append(b, lenTag(next+1), 2, lenTag(protowire.Number(op.Level)+1), 0)
	}
	if tag := opTagLen(op, deadline); tag > 0 {
		b = appendUvarint(append(b, tag16a, tag16b), uint64(tag))
		if op.Session != 0 {
			b = protowire.AppendFixed64(append(b, 1<<3|1), op.Session)
		}
		b = appendVarint(b, 2, op.Seq)
		b = appendVarint(b, 3, op.FirstUnacked)
		b = appendVarint(b, 4, uint64(milliseconds(op.TTL)))
		b = appendVarint(b, 5, uint64(milliseconds(deadline)))
	}
	return b
}

// appendBatchHeader appends what has to precede n bytes of items to make them
// CacheRequest{batch: Requests{items}}.
func appendBatchHeader(b []byte, n int) []byte {
	return appendUvarint(protowire.AppendTag(b, reqBatch, protowire.BytesType), uint64(n))
}

// ackKind says which member of Ack an answer was.
type ackKind uint8

const (
	ackGet ackKind = iota + 1
	ackMod         // PutAck or DelAck
	ackMgmt
	ackError
)

// ackView is one decoded Ack. Its byte slices point into the received frame.
type ackView struct {
	kind  ackKind
	mod   modRes
	code  cachepb.Code
	found bool
	hasID bool

	id         uint64
	cache, key []byte
	value      []byte
	detail     []byte
	leader     []byte
	mgmt       []byte // MgmtAck, still encoded
	text       []byte // Error.error

	cluster, term, index uint64
	staleness            uint64
}

// reason is why the node refused, in its words.
func (v *ackView) reason() []byte {
	if len(v.detail) == 0 {
		return v.text
	}
	return v.detail
}

var (
	errWire = errors.New("client: malformed ack")
	errMany = fmt.Errorf("client: more than %d acks in one message", MaxBatchItems)
)

// eachField calls f for each field of b. val is the varint or fixed value, data
// the bytes of a length-delimited field.
func eachField(b []byte, f func(num protowire.Number, typ protowire.Type, val uint64, data []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		var val uint64
		var data []byte
		switch typ {
		case protowire.VarintType:
			val, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			val, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			data, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return errWire
		}
		b = b[n:]
		if err := f(num, typ, val, data); err != nil {
			return err
		}
	}
	return nil
}

// parseAcks appends the acks in one received message to views: one, or as many
// as a batch has. A batch in a batch is malformed.
func parseAcks(views []ackView, b []byte) ([]ackView, error) {
	err := eachField(b, func(num protowire.Number, typ protowire.Type, _ uint64, data []byte) error {
		if typ != protowire.BytesType {
			return nil
		}
		if num != ackBatchField {
			return addAck(&views, num, data)
		}
		return eachField(data, func(num protowire.Number, typ protowire.Type, _ uint64, item []byte) error {
			if num != 1 || typ != protowire.BytesType {
				return nil
			}
			return eachField(item, func(num protowire.Number, typ protowire.Type, _ uint64, data []byte) error {
				if typ != protowire.BytesType {
					return nil
				}
				if num == ackBatchField {
					return errWire
				}
				return addAck(&views, num, data)
			})
		})
	})
	return views, err
}

// addAck appends the view of one member of Ack; members this client does not
// know are left out.
func addAck(views *[]ackView, num protowire.Number, data []byte) error {
	switch num {
	case ackGetField, ackPutField, ackDelField, ackMgmtField, ackErrorField:
	default:
		return nil
	}
	if len(*views) >= MaxBatchItems {
		return errMany // a view takes a hundred times the memory of the smallest ack
	}
	*views = append(*views, ackView{})
	v := &(*views)[len(*views)-1]
	switch num {
	case ackGetField:
		v.kind = ackGet
		return v.parseGetAck(data)
	case ackPutField, ackDelField:
		v.kind = ackMod
		return v.parseModAck(data)
	case ackMgmtField:
		v.kind = ackMgmt
		v.mgmt = data
	case ackErrorField:
		v.kind = ackError
		return v.parseError(data)
	}
	return nil
}

func (v *ackView) setID(data []byte) { v.id, v.hasID = parseHex(data) }

func (v *ackView) parseGetAck(b []byte) error {
	return eachField(b, func(num protowire.Number, typ protowire.Type, val uint64, data []byte) error {
		switch {
		case num == 1 && typ == protowire.BytesType:
			v.cache = data
		case num == 2 && typ == protowire.BytesType:
			v.key = data
		case num == 3 && typ == protowire.BytesType:
			v.value, v.found = data, true
		case num == 16 && typ == protowire.BytesType:
			return v.parseOutcome(data)
		case num == 17 && typ == protowire.BytesType:
			v.setID(data)
		case num == 18 && typ == protowire.VarintType:
			v.staleness = val
		}
		return nil
	})
}

func (v *ackView) parseModAck(b []byte) error {
	return eachField(b, func(num protowire.Number, typ protowire.Type, val uint64, data []byte) error {
		switch {
		case num == 1 && typ == protowire.BytesType:
			v.setID(data)
		case num == 2 && typ == protowire.VarintType:
			v.mod = modFalse
			if val != 0 {
				v.mod = modTrue
			}
		case num == 16 && typ == protowire.BytesType:
			return v.parseOutcome(data)
		}
		return nil
	})
}

func (v *ackView) parseError(b []byte) error {
	return eachField(b, func(num protowire.Number, typ protowire.Type, _ uint64, data []byte) error {
		if typ != protowire.BytesType {
			return nil
		}
		switch num {
		case 1:
			v.text = data
		case 16:
			return v.parseOutcome(data)
		case 17:
			v.setID(data)
		case 18:
			v.cache = data
		case 19:
			v.key = data
		}
		return nil
	})
}

func (v *ackView) parseOutcome(b []byte) error {
	return eachField(b, func(num protowire.Number, typ protowire.Type, val uint64, data []byte) error {
		switch {
		case num == 1 && typ == protowire.VarintType:
			v.code = cachepb.Code(int32(val))
		case num == 2 && typ == protowire.BytesType:
			v.detail = data
		case num == 3 && typ == protowire.Fixed64Type:
			v.cluster = val
		case num == 4 && typ == protowire.VarintType:
			v.term = val
		case num == 5 && typ == protowire.VarintType:
			v.index = val
		case num == 6 && typ == protowire.BytesType:
			v.leader = data
		}
		return nil
	})
}

// frame is what crosses the boundary to gRPC: encoded bytes, not messages.
type frame struct {
	out mem.BufferSlice // to be sent; gRPC frees it
	in  mem.Buffer      // received; the reader frees it
}

// codec hands frames through. It calls itself proto because that is what the
// bytes are.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) { return v.(*frame).out, nil }

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	v.(*frame).in = data.MaterializeToBuffer(mem.DefaultBufferPool())
	return nil
}

// Buffers in which requests wait for the stream are recycled; one that grew
// beyond bufferKeep for large values is left to the garbage collector.
const (
	bufferStart = 16 << 10
	bufferKeep  = 1 << 20
)

type bufferPool struct{ pool sync.Pool }

var sendBuffers bufferPool

// Get returns an empty buffer; it is the writer who makes it longer.
func (p *bufferPool) Get(int) *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	return new(make([]byte, 0, bufferStart))
}

// Put takes a buffer back once gRPC holds no reference to it.
func (p *bufferPool) Put(b *[]byte) {
	if cap(*b) > bufferKeep {
		return
	}
	*b = (*b)[:0]
	p.pool.Put(b)
}

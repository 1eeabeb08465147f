package wire

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/proto/cachepb"
)

// Codec is a gRPC codec for the messages of the contract. Other messages it hands to the generated code. The zero value is
// ready and safe for concurrent use.
type Codec struct{}

// Name is that of gRPC's own codec for protobuf: on the wire the two are the same.
func (Codec) Name() string { return "proto" }

// Size returns how many bytes Marshal makes of m.
func Size(m proto.Message) int {
	if n := size(m); n >= 0 {
		return n
	}
	return proto.Size(m)
}

// size returns -1 if the generated code is to write m.
func size(m any) int {
	switch m := m.(type) {
	case *cachepb.CacheRequest:
		return requestSize(m)
	case *cachepb.Ack:
		return ackSize(m)
	}
	return -1
}

// Marshal implements encoding.CodecV2. The buffer is used again once it is sent.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("wire: %T is not a message", v)
	}
	n := size(m)
	known := n >= 0
	if !known {
		n = proto.Size(m)
	}
	var buf []byte
	var pooled *[]byte
	if mem.IsBelowBufferPoolingThreshold(n) {
		buf = make([]byte, 0, n)
	} else {
		pooled = pool.Get(n)
		buf = (*pooled)[:0]
	}
	var err error
	switch m := m.(type) {
	case *cachepb.CacheRequest:
		if known {
			buf = putRequest(buf, m)
		}
	case *cachepb.Ack:
		if known {
			buf = appendAck(buf, m)
		}
	}
	if !known {
		buf, err = proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(buf, m)
	}
	switch {
	case err != nil:
		if pooled != nil {
			pool.Put(pooled)
		}
		return nil, err
	case pooled == nil:
		return mem.BufferSlice{mem.SliceBuffer(buf)}, nil
	}
	*pooled = buf
	return mem.BufferSlice{mem.NewBuffer(pooled, &pool)}, nil
}

// Unmarshal implements encoding.CodecV2. The message has no memory in common with the data.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("wire: %T is not a message", v)
	}
	buf := data.MaterializeToBuffer(&pool)
	defer buf.Free()
	b := buf.ReadOnlyData()
	switch m := m.(type) {
	case *cachepb.CacheRequest:
		bx := boxes{copying: true, left: 1}
		if req := bx.request(b); req != nil {
			m.Method = req.Method
			return nil
		}
	case *cachepb.Ack:
		if ack := decodeAck(b); ack != nil {
			m.Method = ack.Method
			return nil
		}
	}
	return proto.Unmarshal(b, m)
}

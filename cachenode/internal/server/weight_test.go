package server

import (
	"strings"
	"testing"

	"github.com/hacache/hacache/proto/cachepb"
)

// TestWeightOfReqID: a client names its operations as it likes, and does not get the answers for nothing.
func TestWeightOfReqID(t *testing.T) {
	id := strings.Repeat("x", 1<<20)
	for _, ack := range []*cachepb.Ack{
		putAck(&id, nil), delAck(&id, nil),
		{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{ReqId: id}}},
	} {
		if w := ackWeight(ack); w < len(id) {
			t.Errorf("%T with a req_id of %d bytes counts %d", ack.GetMethod(), len(id), w)
		}
	}
}

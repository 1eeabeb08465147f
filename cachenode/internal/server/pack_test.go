package server

import (
	"testing"

	"github.com/hacache/hacache/proto/cachepb"
)

// pack fills a message up to either limit and always makes progress.
func TestPack(t *testing.T) {
	value := func(n int) *cachepb.Ack {
		return &cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{Value: make([]byte, n)}}}
	}
	small := make([]*cachepb.Ack, MaxBatchItems+5)
	for i := range small {
		small[i] = putAck(nil, nil)
	}
	tests := []struct {
		name string
		acks []*cachepb.Ack
		want int
	}{
		{"one", small[:1], 1},
		{"all", small[:10], 10},
		{"items", small, MaxBatchItems},
		{"bytes", []*cachepb.Ack{value(MaxBatchBytes / 2), value(MaxBatchBytes / 4), value(MaxBatchBytes / 2)}, 2},
		{"one too large", []*cachepb.Ack{value(2 * MaxBatchBytes), value(1)}, 1},
	}
	for _, tt := range tests {
		if got := pack(tt.acks); got != tt.want {
			t.Errorf("%s: packed %d, want %d", tt.name, got, tt.want)
		}
	}
}

func BenchmarkLocalGetBatch(b *testing.B) {
	s := newSession(New(Config{Backend: newBackend()}), nil)
	var items []*cachepb.CacheRequest
	for range 64 {
		items = append(items, get("k", nil))
	}
	req := batch(items...)
	b.ReportAllocs()
	for b.Loop() {
		s.handle(req)
		s.queue.reset()
		s.open = 0
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/get")
}

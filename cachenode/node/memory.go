package node

import (
	"math"
	runtimemetrics "runtime/metrics"

	"github.com/hacache/hacache/cachenode/internal/replication"
)

// memoryBounds is how many bytes each part of the node may take, besides the data, which is what it takes now: with what
// its connections cost, which depends on how many there are, that is what the process can come to. Some parts hold the
// same bytes, so the sum is never reached.
func (n *Node) memoryBounds() map[string]int64 {
	operations, watch := n.gw.MemoryBytes()
	parts := map[string]int64{
		"inbox":      replication.InboxBytes,
		"operations": int64(operations),
		"watch":      int64(watch),
		"log":        int64(n.core.LogBytes()),
		"peers":      int64(n.peers.QueueBytes()),
		"answers":    n.server.AnswerBytes(),
	}
	for _, c := range n.store.Stats().Caches {
		parts["data"] += c.Bytes
	}
	var live int64
	for _, b := range parts {
		live += b
	}
	parts["garbage"] = garbage(live)
	return parts
}

// garbage is how much the heap may grow beyond what is live before it is collected.
func garbage(live int64) int64 {
	samples := []runtimemetrics.Sample{{Name: "/gc/gogc:percent"}, {Name: "/gc/gomemlimit:bytes"}}
	runtimemetrics.Read(samples)
	percent, limit := samples[0].Value.Uint64(), samples[1].Value.Uint64()
	if percent > math.MaxInt32 { // collection is off but for the limit
		percent = math.MaxInt32
	}
	most := int64(math.MaxInt64)
	if limit < math.MaxInt64 {
		most = max(0, int64(limit)-live)
	}
	return int64(min(float64(live)/100*float64(percent), float64(most)))
}

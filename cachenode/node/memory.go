package node

import (
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/store"
)

// memoryBounds is how many bytes each part of the node may hold by its configuration, and the data, which is what it holds
// now. With what its connections cost, which depends on how many there are, that is what can be alive; some parts hold the
// same bytes, so the sum is never reached. Beside it is the garbage that the collector leaves.
func (n *Node) memoryBounds() map[string]int64 {
	operations, watch := n.gw.MemoryBytes()
	parts := map[string]int64{
		"inbox":      replication.InboxBytes,
		"operations": int64(operations),
		"watch":      int64(watch),
		"log":        int64(n.core.LogBytes()),
		"peers":      int64(n.peers.QueueBytes()),
		"answers":    n.server.AnswerBytes(),
		"data":       store.DeadBytes,
	}
	for _, c := range n.store.Stats().Caches {
		parts["data"] += c.Bytes + c.Bytes/store.DeadShare
	}
	return parts
}

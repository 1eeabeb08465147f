package gateway

import (
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/store"
	"github.com/hacache/hacache/proto/cachepb"
)

// BeginSnapshot implements replication.StateMachine.
func (g *Gateway) BeginSnapshot() replication.SnapshotSource { return g.store.BeginSnapshot() }

// BeginRestore implements replication.StateMachine.
func (g *Gateway) BeginRestore(index uint64) replication.SnapshotSink {
	return &sink{g: g, r: g.store.BeginRestore(index), index: index}
}

// sink notes the moment at which a snapshot replaces the state: entries that it covers are not applied one by one, so
// operations among them must ask again.
type sink struct {
	g     *Gateway
	r     *store.Restorer
	index uint64
}

func (s *sink) Add(chunk []byte) error { return s.r.Add(chunk) }

func (s *sink) Finish() error {
	if err := s.r.Finish(); err != nil {
		return err
	}
	s.g.restored = true
	s.g.feeds.replaced(cachepb.Gap_RESTORED, max(s.index, s.g.store.CompleteAt()), s.g.core.Cluster())
	return nil
}

package replicationtest

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/hacache/hacache/cachenode/internal/mutant"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/proto/cachepb"
)

// register is a toy state machine: the operations applied so far, in order. An operation is acknowledged when the node
// that proposed it has applied it.
type register struct {
	n       *Node
	applied []uint64
	waiting map[uint64]waiting
}

type waiting struct {
	index    uint64
	proposed time.Duration
}

// Propose writes one operation through this node, if it leads. It is acknowledged when this node has applied it.
func (n *Node) Propose() bool {
	s, r := n.sim, n.reg
	ok := false
	n.step(func() {
		s.nextOp++
		op := s.nextOp
		index, err := n.Core.Propose(binary.LittleEndian.AppendUint64(nil, op))
		if err != nil {
			s.Count.Refused++
			return
		}
		r.waiting[op] = waiting{index: index, proposed: s.now}
		if mutant.On(mutant.EarlyAck) {
			delete(r.waiting, op)
			s.Acked(op, n.Core.Cluster(), index, s.now)
		}
		ok = true
	})
	return ok
}

// Apply implements replication.StateMachine.
func (r *register) Apply(index, term uint64, data []byte) {
	s, op := r.n.sim, binary.LittleEndian.Uint64(data)
	s.Applied(r.n, index, term, op)
	r.applied = append(r.applied, op)
	if w, ok := r.waiting[op]; ok {
		delete(r.waiting, op)
		if w.index != index {
			s.fail("operation %d was promised index %d and got %d", op, w.index, index)
		}
		s.Acked(op, r.n.Core.Cluster(), index, w.proposed)
		if s.opt.Watch != nil {
			s.opt.Watch.Acked(r.n, op, index)
		}
	}
}

// BeginSnapshot implements replication.StateMachine.
func (r *register) BeginSnapshot() replication.SnapshotSource {
	r.n.sim.Count.Snapshots++
	return &source{ops: slices.Clone(r.applied)}
}

type source struct{ ops []uint64 }

func (s *source) Next(max int) (chunk []byte, done bool) {
	k := min(len(s.ops), max/8)
	for _, op := range s.ops[:k] {
		chunk = binary.LittleEndian.AppendUint64(chunk, op)
	}
	s.ops = s.ops[k:]
	return chunk, len(s.ops) == 0
}

func (s *source) Progress() float64 { return 0 }

// BeginRestore implements replication.StateMachine.
func (r *register) BeginRestore(uint64) replication.SnapshotSink { return &target{r: r} }

type target struct {
	r   *register
	ops []uint64
}

func (t *target) Add(chunk []byte) error {
	for ; len(chunk) >= 8; chunk = chunk[8:] {
		t.ops = append(t.ops, binary.LittleEndian.Uint64(chunk))
	}
	return nil
}

func (t *target) Finish() error {
	t.r.applied = t.ops
	return nil
}

// Reset implements replication.StateMachine.
func (r *register) Reset() {
	r.applied = nil
	clear(r.waiting)
}

// Submit implements replication.Driven; nothing is submitted here.
func (r *register) Submit(replication.Submission) {}

// Flush implements replication.Driven.
func (r *register) Flush() {}

// Settle implements replication.Driven.
func (r *register) Settle() bool { return false }

// NextWake implements replication.Driven.
func (r *register) NextWake() time.Duration { return 1<<63 - 1 }

// PeerRequest implements replication.Upper; nothing is forwarded here.
func (r *register) PeerRequest(int, uint64, *cachepb.CacheRequest) {}

// PeerAck implements replication.Upper.
func (r *register) PeerAck(int, uint64, *cachepb.Ack) {}

// ReadReady implements replication.Upper.
func (r *register) ReadReady(uint64, uint64) {}

// Lost returns the operations acknowledged in the present cluster that node does not have.
func (s *Sim) Lost(n *Node) []uint64 {
	var lost []uint64
	have := map[uint64]bool{}
	for _, op := range n.reg.applied {
		have[op] = true
	}
	for op, a := range s.acked {
		if a.cluster == n.Core.Cluster() && !have[op] {
			lost = append(lost, op)
		}
	}
	slices.Sort(lost)
	return lost
}

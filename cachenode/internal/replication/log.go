package replication

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// logStore holds the tail of the Raft log in memory. It implements raft.Storage.
//
// It differs from raft.MemoryStorage in three ways that matter here: dropping a prefix costs nothing per retained entry
// (MemoryStorage copies the tail on each Compact), a snapshot is a descriptor built on demand (MemoryStorage clones the
// payload on each call), and it knows its size in bytes, which is what bounds the retained tail.
//
// Entry i lives at ents[head+(i-first)]. The entry before first is not held, only its term. A logStore is used by the
// core's goroutine alone.
type logStore struct {
	hard *raftpb.HardState
	conf *raftpb.ConfState

	ents     []*raftpb.Entry // ents[:head] is nil, dropped
	head     int
	first    uint64 // index of the first held entry; last+1 when none is held
	prevTerm uint64 // term of entry first-1
	bytes    uint64 // sum of the held entries' payload sizes
	written  uint64 // the same of all that were ever appended

	// snapshot starts a snapshot transfer at the applied index and describes it. It is called by raft, inside a Step or
	// a Tick, when a follower needs entries that were dropped.
	snapshot func() (*raftpb.Snapshot, error)
}

// newLogStore returns a log whose last entry is (index, term), already committed under conf. The zero index gives the
// empty log of a node that waits for its first snapshot.
func newLogStore(index, term uint64, conf *raftpb.ConfState) *logStore {
	l := &logStore{conf: conf, first: index + 1, prevTerm: term}
	if index > 0 {
		l.hard = &raftpb.HardState{Term: new(term), Commit: new(index)}
	}
	return l
}

func (l *logStore) len() int     { return len(l.ents) - l.head }
func (l *logStore) last() uint64 { return l.first + uint64(l.len()) - 1 }

// lastTerm returns the term of the last entry.
func (l *logStore) lastTerm() uint64 {
	t, err := l.Term(l.last())
	if err != nil {
		panic(fmt.Sprintf("replication: the last entry has no term: %v", err)) // cannot be: Term covers [first-1, last]
	}
	return t
}

// InitialState implements raft.Storage.
func (l *logStore) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return l.hard, proto.Clone(l.conf).(*raftpb.ConfState), nil
}

// Entries implements raft.Storage.
func (l *logStore) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo < l.first {
		return nil, raft.ErrCompacted
	}
	if hi > l.last()+1 {
		return nil, raft.ErrUnavailable
	}
	held := l.ents[l.head+int(lo-l.first) : l.head+int(hi-l.first)]
	size := uint64(0)
	for i, e := range held {
		size += uint64(entrySize(e))
		if i > 0 && size > maxSize {
			held = held[:i]
			break
		}
	}
	// A copy: messages built from it are marshalled later in the turn, and a conflicting append in the same turn
	// overwrites the held slice. Aliasing would put entries of a new term into a message of the old one.
	return slices.Clone(held), nil
}

// entryOverhead is about what the fields of an entry other than its data take on the wire.
const entryOverhead = 24

func entrySize(e *raftpb.Entry) int { return len(e.GetData()) + entryOverhead }

// Term implements raft.Storage.
func (l *logStore) Term(i uint64) (uint64, error) {
	switch {
	case i+1 == l.first:
		return l.prevTerm, nil
	case i < l.first:
		return 0, raft.ErrCompacted
	case i > l.last():
		return 0, raft.ErrUnavailable
	}
	return l.ents[l.head+int(i-l.first)].GetTerm(), nil
}

// LastIndex implements raft.Storage.
func (l *logStore) LastIndex() (uint64, error) { return l.last(), nil }

// FirstIndex implements raft.Storage.
func (l *logStore) FirstIndex() (uint64, error) { return l.first, nil }

// Snapshot implements raft.Storage.
func (l *logStore) Snapshot() (*raftpb.Snapshot, error) { return l.snapshot() }

// append adds entries that raft hands over as unstable, replacing a conflicting suffix.
func (l *logStore) append(ents []*raftpb.Entry) {
	if len(ents) == 0 {
		return
	}
	at := ents[0].GetIndex()
	if at < l.first || at > l.last()+1 {
		panic(fmt.Sprintf("replication: append at %d to a log that holds [%d, %d]", at, l.first, l.last()))
	}
	keep := l.head + int(at-l.first)
	for _, e := range l.ents[keep:] {
		l.bytes -= uint64(entrySize(e))
	}
	clear(l.ents[keep:])
	l.ents = append(l.ents[:keep], ents...)
	for _, e := range ents {
		l.bytes += uint64(entrySize(e))
		l.written += uint64(entrySize(e))
	}
}

// compact drops every entry up to and including index. Dropping is constant work per dropped entry; the slice is moved
// down only when more than half of it is empty, so a retained entry is copied at most once per its own length of log.
func (l *logStore) compact(index uint64) {
	if index < l.first {
		return
	}
	if index > l.last() {
		panic(fmt.Sprintf("replication: compact to %d beyond the last entry %d", index, l.last()))
	}
	term, _ := l.Term(index)
	drop := int(index - l.first + 1)
	for _, e := range l.ents[l.head : l.head+drop] {
		l.bytes -= uint64(entrySize(e))
	}
	clear(l.ents[l.head : l.head+drop])
	l.head += drop
	l.first, l.prevTerm = index+1, term
	if l.head > 64 && l.head > len(l.ents)/2 {
		n := copy(l.ents, l.ents[l.head:])
		clear(l.ents[n:])
		l.ents, l.head = l.ents[:n], 0
	}
}

// retain drops applied entries from the front until at most maxBytes and maxEntries are left. pinned is the oldest
// index that must stay (the sender of a snapshot still needs what follows it).
func (l *logStore) retain(applied, pinned, maxBytes uint64, maxEntries int) {
	if l.bytes <= maxBytes && l.len() <= maxEntries {
		return
	}
	to, bytes, n := l.first-1, l.bytes, l.len()
	for i := l.head; i < len(l.ents) && (bytes > maxBytes || n > maxEntries); i++ {
		if to >= applied || to+1 >= pinned {
			break
		}
		bytes -= uint64(entrySize(l.ents[i]))
		n--
		to++
	}
	l.compact(to)
}

// reset makes the log empty after (index, term): what a received snapshot leaves.
func (l *logStore) reset(index, term uint64, conf *raftpb.ConfState) {
	l.ents, l.head, l.bytes = nil, 0, 0
	l.first, l.prevTerm, l.conf = index+1, term, conf
}

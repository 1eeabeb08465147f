package replication

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"
)

// Letters that carry entries are most of what nodes say to each other. The generated code copies the entries and makes an
// object of each number; here a letter is read in one allocation, an entry in another, and what it carries stays where it is:
// a tenth of the time. It understands only what Raft usually writes: at the first surprise the generated code takes over,
// which also writes letters, since that is one copy in either case.

// Fields of raftpb.Message and raftpb.Entry.
const (
	letterType       = 1
	letterTo         = 2
	letterFrom       = 3
	letterTerm       = 4
	letterLogTerm    = 5
	letterIndex      = 6
	letterEntries    = 7
	letterCommit     = 8
	letterReject     = 10
	letterRejectHint = 11
	letterContext    = 12

	entryType  = 1
	entryTerm  = 2
	entryIndex = 3
	entryData  = 4
)

// unmarshalLetter decodes a letter. What it returns shares memory with b.
func unmarshalLetter(b []byte) (*raftpb.Message, error) {
	if m := readLetter(b); m != nil {
		return m, nil
	}
	m := &raftpb.Message{}
	return m, proto.Unmarshal(b, m)
}

// readLetter returns nil for what it does not understand.
func readLetter(b []byte) *raftpb.Message {
	x := &struct {
		m                                                  raftpb.Message
		kind                                               raftpb.MessageType
		to, from, term, logTerm, index, commit, rejectHint uint64
		reject                                             bool
	}{}
	for len(b) > 0 {
		field, v, p, rest := nextField(b)
		b = rest
		switch field {
		case letterType<<3 | uint64(protowire.VarintType):
			if _, known := raftpb.MessageType_name[int32(v)]; !known {
				return nil
			}
			x.kind = raftpb.MessageType(int32(v))
			x.m.Type = &x.kind
		case letterTo<<3 | uint64(protowire.VarintType):
			x.to, x.m.To = v, &x.to
		case letterFrom<<3 | uint64(protowire.VarintType):
			x.from, x.m.From = v, &x.from
		case letterTerm<<3 | uint64(protowire.VarintType):
			x.term, x.m.Term = v, &x.term
		case letterLogTerm<<3 | uint64(protowire.VarintType):
			x.logTerm, x.m.LogTerm = v, &x.logTerm
		case letterIndex<<3 | uint64(protowire.VarintType):
			x.index, x.m.Index = v, &x.index
		case letterEntries<<3 | uint64(protowire.BytesType):
			e := readEntry(p)
			if e == nil {
				return nil
			}
			x.m.Entries = append(x.m.Entries, e)
		case letterCommit<<3 | uint64(protowire.VarintType):
			x.commit, x.m.Commit = v, &x.commit
		case letterReject<<3 | uint64(protowire.VarintType):
			x.reject, x.m.Reject = protowire.DecodeBool(v), &x.reject
		case letterRejectHint<<3 | uint64(protowire.VarintType):
			x.rejectHint, x.m.RejectHint = v, &x.rejectHint
		case letterContext<<3 | uint64(protowire.BytesType):
			x.m.Context = p
		default:
			return nil
		}
	}
	return &x.m
}

func readEntry(b []byte) *raftpb.Entry {
	x := &struct {
		e           raftpb.Entry
		kind        raftpb.EntryType
		term, index uint64
	}{}
	for len(b) > 0 {
		field, v, p, rest := nextField(b)
		b = rest
		switch field {
		case entryType<<3 | uint64(protowire.VarintType):
			if _, known := raftpb.EntryType_name[int32(v)]; !known {
				return nil
			}
			x.kind = raftpb.EntryType(int32(v))
			x.e.Type = &x.kind
		case entryTerm<<3 | uint64(protowire.VarintType):
			x.term, x.e.Term = v, &x.term
		case entryIndex<<3 | uint64(protowire.VarintType):
			x.index, x.e.Index = v, &x.index
		case entryData<<3 | uint64(protowire.BytesType):
			x.e.Data = p
		default:
			return nil
		}
	}
	return &x.e
}

// nextField reads a field that is a number or bytes: its number and type as they stand on the wire, its value, and what
// follows. For all others, and what is cut short, the first is 0, which no field has.
func nextField(b []byte) (field, v uint64, p, rest []byte) {
	field, n := protowire.ConsumeVarint(b)
	if n < 0 {
		return 0, 0, nil, nil
	}
	b = b[n:]
	switch protowire.Type(field & 7) {
	case protowire.VarintType:
		v, n = protowire.ConsumeVarint(b)
	case protowire.BytesType:
		p, n = protowire.ConsumeBytes(b)
		p = p[:len(p):len(p)]
	default:
		return 0, 0, nil, nil
	}
	if n < 0 {
		return 0, 0, nil, nil
	}
	return field, v, p, b[n:]
}

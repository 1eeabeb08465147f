package replication

import (
	"bytes"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func letterOf(kind raftpb.MessageType, to, index, commit uint64, entries int, reject bool) *raftpb.Message {
	m := &raftpb.Message{Type: &kind, To: &to, Index: &index, Commit: &commit, Reject: &reject, Term: new(uint64(3))}
	for range entries {
		m.Entries = append(m.Entries, &raftpb.Entry{})
	}
	return m
}

// TestSuperseded proves that of a turn's letters only those are left out of which a later one to the same node says
// everything: an append with entries, a rejection, a vote are always sent, and so is what is newer than what follows it.
func TestSuperseded(t *testing.T) {
	const a, b = 1, 2
	app, resp := raftpb.MsgApp, raftpb.MsgAppResp
	for _, c := range []struct {
		name  string
		m     *raftpb.Message
		later *raftpb.Message
		want  bool
	}{
		{"a commit, then entries", letterOf(app, a, 7, 5, 0, false), letterOf(app, a, 7, 5, 1, false), true},
		{"a commit, then one further on", letterOf(app, a, 7, 5, 0, false), letterOf(app, a, 7, 6, 0, false), true},
		{"a commit, then entries for another", letterOf(app, a, 7, 5, 0, false), letterOf(app, b, 7, 5, 1, false), false},
		{"a commit, then entries that say less", letterOf(app, a, 7, 6, 0, false), letterOf(app, a, 7, 5, 1, false), false},
		{"entries, then entries", letterOf(app, a, 7, 5, 1, false), letterOf(app, a, 8, 5, 1, false), false},
		{"entries, then a commit", letterOf(app, a, 7, 5, 1, false), letterOf(app, a, 8, 6, 0, false), false},
		{"an answer, then a later one", letterOf(resp, a, 7, 0, 0, false), letterOf(resp, a, 9, 0, 0, false), true},
		{"an answer, then an earlier one", letterOf(resp, a, 7, 0, 0, false), letterOf(resp, a, 6, 0, 0, false), false},
		{"an answer, then a rejection", letterOf(resp, a, 7, 0, 0, false), letterOf(resp, a, 9, 0, 0, true), false},
		{"a rejection, then an answer", letterOf(resp, a, 7, 0, 0, true), letterOf(resp, a, 9, 0, 0, false), false},
		{"a heartbeat, then another", letterOf(raftpb.MsgHeartbeat, a, 0, 5, 0, false), letterOf(raftpb.MsgHeartbeat, a, 0, 5, 0, false), false},
		{"an append, then its like in another term", letterOf(app, a, 7, 5, 0, false), func() *raftpb.Message {
			m := letterOf(app, a, 7, 5, 1, false)
			m.Term = new(uint64(4))
			return m
		}(), false},
	} {
		if got := superseded(c.m, []*raftpb.Message{c.later}); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestMayWait proves that what is committed is not told to a node for itself only while entries are on their way that were
// sent a moment ago. Else it is told at once, and so is what Raft asks of a node that may have missed something.
func TestMayWait(t *testing.T) {
	const other = 1 << 40
	store := newLogStore(5, 1, nil)
	store.append([]*raftpb.Entry{{Index: new(uint64(6)), Term: new(uint64(1))}, {Index: new(uint64(7)), Term: new(uint64(1))}})
	now := time.Hour
	for _, c := range []struct {
		name      string
		m         *raftpb.Message
		confirmed bool
		sent      time.Duration // how long ago
		want      bool
	}{
		{"entries are on their way", letterOf(raftpb.MsgApp, other, 7, 6, 0, false), true, time.Millisecond, true},
		{"all is committed", letterOf(raftpb.MsgApp, other, 7, 7, 0, false), true, time.Millisecond, false},
		{"it has entries", letterOf(raftpb.MsgApp, other, 6, 6, 1, false), true, time.Millisecond, false},
		{"the entries were sent a while ago", letterOf(raftpb.MsgApp, other, 7, 6, 0, false), true, commitLag, false},
		{"it has not confirmed that we lead", letterOf(raftpb.MsgApp, other, 7, 6, 0, false), false, time.Millisecond, false},
		{"it is an answer", letterOf(raftpb.MsgAppResp, other, 7, 6, 0, false), true, time.Millisecond, false},
	} {
		core := &Core{store: store, now: now, peers: []*peer{nil, {slot: 1, id: other, confirmed: c.confirmed, appendAt: now - c.sent}}}
		core.hosts.tags = []uint32{0, IDTag(other)}
		if got := core.mayWait(c.m); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// FuzzLetterCodec proves that a letter is read as the generated code reads it, whatever the bytes.
func FuzzLetterCodec(f *testing.F) {
	for _, m := range []*raftpb.Message{
		{},
		letterOf(raftpb.MsgApp, 1, 2, 3, 2, false), letterOf(raftpb.MsgAppResp, 1, 2, 3, 0, true),
		{Type: new(raftpb.MsgHeartbeat), Context: []byte("12345678"), RejectHint: new(uint64(7)), LogTerm: new(uint64(1 << 40))},
		{Type: new(raftpb.MsgSnap), Snapshot: &raftpb.Snapshot{Data: []byte("s")}, Vote: new(uint64(1))},
		{Entries: []*raftpb.Entry{{Type: new(raftpb.EntryConfChangeV2), Term: new(uint64(1)), Index: new(uint64(2)), Data: []byte{}}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(bytes.Clone(b), b...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want := &raftpb.Message{}
		wantErr := proto.Unmarshal(b, want)
		got, err := unmarshalLetter(b)
		if (err == nil) != (wantErr == nil) || err == nil && !proto.Equal(got, want) {
			t.Fatalf("read %v, %v, the generated code %v, %v", got, err, want, wantErr)
		}
	})
}

// BenchmarkLetter measures an append of one entry of 64 operations.
func BenchmarkLetter(b *testing.B) {
	m := letterOf(raftpb.MsgApp, 1<<60, 100_000, 100_000, 1, false)
	m.Entries[0] = &raftpb.Entry{Term: new(uint64(3)), Index: new(uint64(100_001)), Data: make([]byte, 64*190)}
	data, err := proto.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	for name, do := range map[string]func(){
		"write":          func() { _, _ = proto.Marshal(m) },
		"read":           func() { _, _ = unmarshalLetter(data) },
		"read/generated": func() { _ = proto.Unmarshal(data, &raftpb.Message{}) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
		})
	}
}

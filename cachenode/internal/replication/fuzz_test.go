package replication

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/proto/cachepb"
)

// What a peer sends is read by a library that trusts it. These fuzz targets put letters, envelopes and chunks of any
// content before a core in every phase of its life; nothing may make it panic.

// bed is three cores joined by a wire that delivers in order and at once.
type bed struct {
	cores [3]*Core
	ends  [3]*bedEnd
	wire  []bedMessage
	now   time.Duration
	tap   func(bedMessage)
}

type bedMessage struct {
	from, to int
	lane     Lane
	req      *cachepb.CacheRequest
	ack      *cachepb.Ack
}

// bedEnd is one core's transport and upper. A detached one keeps what the core sends and delivers nothing.
type bedEnd struct {
	bed      *bed
	self     int
	detached bool
	sent     []bedMessage
	sink     *bedSink
	sinks    int
}

func (e *bedEnd) put(m bedMessage) bool {
	m.from = e.self
	if e.detached {
		e.sent = append(e.sent, m)
	} else {
		e.bed.wire = append(e.bed.wire, m)
	}
	return true
}

func (e *bedEnd) Send(slot int, lane Lane, req *cachepb.CacheRequest) bool {
	return e.put(bedMessage{to: slot, lane: lane, req: proto.Clone(req).(*cachepb.CacheRequest)})
}

func (e *bedEnd) SendAck(slot int, lane Lane, ack *cachepb.Ack) bool {
	return e.put(bedMessage{to: slot, lane: lane, ack: proto.Clone(ack).(*cachepb.Ack)})
}

func (e *bedEnd) Probe(int)           {}
func (e *bedEnd) Reconnect()          {}
func (e *bedEnd) AddHost(int, string) {}

func (e *bedEnd) Apply(uint64, uint64, []byte)                   {}
func (e *bedEnd) BeginSnapshot() SnapshotSource                  { return bedSource{} }
func (e *bedEnd) Reset()                                         {}
func (e *bedEnd) PeerRequest(int, uint64, *cachepb.CacheRequest) {}
func (e *bedEnd) PeerAck(int, uint64, *cachepb.Ack)              {}
func (e *bedEnd) ReadReady(uint64, uint64)                       {}
func (e *bedEnd) BeginRestore(index uint64) SnapshotSink {
	e.sinks++
	e.sink = &bedSink{index: index}
	return e.sink
}

type bedSource struct{}

func (bedSource) Next(int) ([]byte, bool) { return []byte("all there is"), true }
func (bedSource) Progress() float64       { return 0 }

// bedSink keeps what it was given.
type bedSink struct {
	index    uint64
	data     []byte
	finished bool
}

func (s *bedSink) Add(chunk []byte) error {
	if s.finished {
		panic("a chunk after the end")
	}
	s.data = append(s.data, chunk...)
	return nil
}

func (s *bedSink) Finish() error {
	if s.finished {
		panic("finished twice")
	}
	s.finished = true
	return nil
}

// phases of a core's life. In each, core 0 is the one that is tested.
var phases = []string{"empty", "founder", "follower", "leader", "leaderless", "learner"}

// newBed is newBedTapped without a tap.
func newBed(t testing.TB, phase string) *bed { return newBedTapped(t, phase, nil) }

// newBedTapped returns a bed in which core 0 is in a phase, detached from the others, and core 1 is the peer that counts: its
// leader, if it has one. tap, if not nil, sees every message.
func newBedTapped(t testing.TB, phase string, tap func(bedMessage)) *bed {
	b := &bed{now: time.Second, tap: tap}
	seq := uint64(0)
	hosts := []string{"a:1", "b:1", "c:1"}
	// The first host on the list forms the cluster and leads it.
	self := map[string][3]int{"leader": {0, 1, 2}, "founder": {0, 1, 2}}[phase]
	if self == [3]int{} {
		self = [3]int{1, 0, 2}
	}
	for i := range b.cores {
		b.ends[i] = &bedEnd{bed: b, self: self[i]}
		c, err := New(Config{
			Hosts: hosts, Self: self[i], Transport: b.ends[i], Upper: b.ends[i], AbandonAfter: time.Minute,
			WallClock: func() time.Time { return time.Unix(1_700_000_000, 0).Add(b.now) },
			Rand:      func() uint64 { seq += 0x9e3779b97f4a7c15; return seq },
		})
		if err != nil {
			t.Fatal(err)
		}
		b.cores[i] = c
		c.Clock(b.now)
	}
	switch phase {
	case "empty":
		b.connect(0, 1)
		b.connect(0, 2)
		b.settle()
		b.ends[0].detached = true
		return b
	case "founder": // it has asked for votes, and no answer has come
		b.connect(0, 1)
		b.connect(0, 2)
		b.settle()
		b.ends[0].detached = true
		b.tick(1)
		return b
	case "learner": // the others have formed the cluster without it
		b.connect(1, 2)
		b.tick(120)
		b.connect(0, 1)
		b.connect(0, 2)
		for range 100 {
			b.tick(1)
			if b.cores[0].cluster != 0 {
				break
			}
		}
		b.ends[0].detached = true
		return b
	}
	b.connect(0, 1)
	b.connect(0, 2)
	b.connect(1, 2)
	b.tick(20)
	for i := range 4 {
		for _, c := range b.cores {
			_, _ = c.Propose([]byte{byte(i)})
		}
		b.tick(1)
	}
	b.ends[0].detached = true
	if phase == "leaderless" {
		for _, dir := range []Direction{Outgoing, Incoming} {
			for lane := range lanes {
				b.cores[0].PeerDown(b.slot(1), b.cores[1].id, dir, lane)
			}
		}
		b.cores[0].DialFailed(b.slot(1), true)
		b.tick(1)
	}
	return b
}

func (b *bed) slot(i int) int { return b.ends[i].self }

// connect opens all connections of a pair.
func (b *bed) connect(i, j int) {
	for _, dir := range []Direction{Outgoing, Incoming} {
		for lane := range lanes {
			b.cores[i].PeerUp(b.slot(j), b.cores[j].id, dir, lane)
			b.cores[j].PeerUp(b.slot(i), b.cores[i].id, dir, lane)
		}
	}
}

// tick lets n ticks of 10 ms pass.
func (b *bed) tick(n int) {
	for range n {
		b.now += 10 * time.Millisecond
		for _, c := range b.cores {
			c.Clock(b.now)
			c.Process()
		}
		b.settle()
	}
}

// settle delivers everything that is on the wire.
func (b *bed) settle() {
	for len(b.wire) > 0 {
		m := b.wire[0]
		b.wire = b.wire[1:]
		if b.tap != nil {
			b.tap(m)
		}
		to := slices.IndexFunc(b.ends[:], func(e *bedEnd) bool { return e.self == m.to })
		from := slices.IndexFunc(b.ends[:], func(e *bedEnd) bool { return e.self == m.from })
		if b.ends[to].detached {
			continue
		}
		b.deliver(b.cores[to], m.from, b.cores[from].id, m.lane, m)
	}
}

func (b *bed) deliver(c *Core, slot int, id uint64, lane Lane, m bedMessage) {
	c.Clock(b.now)
	if m.req != nil {
		c.ReceiveRequest(slot, id, lane, m.req)
	} else {
		c.ReceiveAck(slot, id, lane, m.ack)
	}
	c.Process()
}

// TestBed proves that the phases are what they are called, so that fuzzing reaches them.
func TestBed(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	for _, phase := range phases {
		c := newBed(t, phase).cores[0]
		voter := c.memberAt(c.conf.GetVoters(), c.cfg.Self) == c.id
		got := fmt.Sprintf("raft %v voter %v leads %v follows %v founding %v", c.rn != nil, voter, c.Leading(), c.lead != 0 && c.lead != c.id, c.member.founding)
		want := map[string]string{
			"empty":      "raft false voter false leads false follows false founding false",
			"founder":    "raft true voter true leads false follows false founding true",
			"follower":   "raft true voter true leads false follows true founding false",
			"leader":     "raft true voter true leads true follows false founding false",
			"leaderless": "raft true voter true leads false follows false founding false",
			"learner":    "raft true voter false leads false follows true founding false",
		}[phase]
		if got != want {
			t.Errorf("%s: %s, want %s", phase, got, want)
		}
	}
}

// record returns one message of each kind that the others send to core 0 in a phase, from before that phase on.
func record(t testing.TB, phase string) []bedMessage {
	var all []bedMessage
	b := newBedTapped(t, phase, func(m bedMessage) { all = append(all, m) })
	for range 3 {
		for _, c := range b.cores {
			_, _ = c.Propose([]byte("late"))
		}
		b.tick(30)
	}
	var kinds []bedMessage
	seen := map[string]bool{}
	for _, m := range slices.Backward(all) { // the newest fit best
		if kind := m.kind(); m.to == b.slot(0) && !seen[kind] {
			seen[kind] = true
			kinds = append(kinds, m)
		}
	}
	return kinds
}

// kind names a message by its seed message and its letter.
func (m bedMessage) kind() string {
	var outer proto.Message = m.req
	if m.req == nil {
		outer = m.ack
	}
	name, env := envelopeOf(outer)
	letter := &raftpb.Message{}
	if proto.Unmarshal(env.GetRaft(), letter) != nil || len(env.GetRaft()) == 0 {
		return name
	}
	return name + " " + letter.GetType().String()
}

// envelopeOf returns the innermost message's name and its Peer.
func envelopeOf(m proto.Message) (string, *cachepb.Peer) {
	r := m.ProtoReflect()
	switch m.(type) {
	case *cachepb.CacheRequest, *cachepb.Ack, *cachepb.MgmtRequest, *cachepb.MgmtAck:
		if f := r.WhichOneof(r.Descriptor().Oneofs().Get(0)); f != nil {
			return envelopeOf(r.Get(f).Message().Interface())
		}
		return "", nil
	}
	env, _ := m.(interface{ GetPeer() *cachepb.Peer })
	if env == nil {
		return string(r.Descriptor().Name()), nil
	}
	return string(r.Descriptor().Name()), env.GetPeer()
}

// seal puts a Peer into the seed message that a number chooses.
func seal(which byte, env *cachepb.Peer) bedMessage {
	req := func(m *cachepb.MgmtRequest) bedMessage { return bedMessage{req: mgmt(m)} }
	ack := func(m *cachepb.MgmtAck) bedMessage { return bedMessage{ack: mgmtAck(m)} }
	switch which % 14 {
	case 0:
		return req(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_Ping{Ping: &cachepb.Ping{Peer: env, Beat: &cachepb.Beat{Sent: 1}}}})
	case 1:
		return ack(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_Pong{Pong: &cachepb.Pong{Peer: env, Beat: &cachepb.Beat{Sent: 1, Echo: 1}}}})
	case 2:
		return req(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderReq{LeaderReq: &cachepb.LeaderReq{Peer: env}}})
	case 3:
		return ack(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_LeaderReqAck{LeaderReqAck: &cachepb.LeaderReqAck{Peer: env}}})
	case 4:
		return req(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderReqAck{LeaderReqAck: &cachepb.LeaderReqAck{Peer: env}}})
	case 5:
		return req(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderAck{LeaderAck: &cachepb.LeaderAck{Peer: env}}})
	case 6:
		return ack(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_LeaderAckAck{LeaderAckAck: &cachepb.LeaderAckAck{Peer: env}}})
	case 7:
		return req(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderSwitch{LeaderSwitch: &cachepb.LeaderSwitch{Peer: env}}})
	case 8:
		return ack(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_LeaderSwitchAck{LeaderSwitchAck: &cachepb.LeaderSwitchAck{Peer: env}}})
	case 9:
		return req(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderSwitchPriority{LeaderSwitchPriority: &cachepb.LeaderSwitchPriority{Peer: env}}})
	case 10:
		return req(&cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_LeaderDead{LeaderDead: &cachepb.LeaderDead{Peer: env, Suspicion: &cachepb.Suspicion{}}}})
	case 11:
		return ack(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_LeaderInfo{LeaderInfo: &cachepb.LeaderInfo{Peer: env}}})
	case 12:
		return bedMessage{req: &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Replicate{Replicate: &cachepb.Replicate{Peer: env}}}}
	}
	return bedMessage{ack: &cachepb.Ack{Method: &cachepb.Ack_ReplicateAck{ReplicateAck: &cachepb.ReplicateAck{Peer: env}}}}
}

// endure gives one message to core 0 and lets it live with the consequences.
func (b *bed) endure(peer int, m bedMessage) {
	c := b.cores[0]
	for range 2 { // the network may repeat it
		b.deliver(c, b.slot(peer), b.cores[peer].id, m.lane, m)
	}
	_, _ = c.Propose([]byte("after"))
	for range 30 { // beyond an election timeout
		b.now += 10 * time.Millisecond
		c.Clock(b.now)
		c.Process()
	}
	c.Health()
	c.LeaderInfo()
}

// Bits of FuzzLetter's argument fix: what is made right in a letter, so that it passes the first gates.
const (
	fixFrom = 1 << iota
	fixTo
	fixCluster
	fixTerm
	fromOther // core 2 sends it rather than core 1
)

// FuzzLetter proves that no letter makes a core panic, in any envelope, from a peer that is known.
func FuzzLetter(f *testing.F) {
	for i, phase := range phases {
		for _, m := range record(f, phase) {
			var outer proto.Message = m.req
			if m.req == nil {
				outer = m.ack
			}
			if _, env := envelopeOf(outer); len(env.GetRaft()) > 0 {
				f.Add(byte(i), byte(12), byte(fixFrom|fixTo|fixCluster), env.GetRaft())
			}
		}
	}
	f.Fuzz(func(t *testing.T, phase, envelope, fix byte, letter []byte) {
		cryptotest.SetGlobalRandom(t, 1)
		b := newBed(t, phases[int(phase)%len(phases)])
		c, peer := b.cores[0], 1
		if fix&fromOther != 0 {
			peer = 2
		}
		env := &cachepb.Peer{Cluster: 1, Raft: letter}
		if fix&fixCluster != 0 {
			env.Cluster = max(c.cluster, 1)
		}
		m := &raftpb.Message{}
		if proto.Unmarshal(letter, m) == nil {
			if fix&fixFrom != 0 {
				m.From = new(b.cores[peer].id)
			}
			if fix&fixTo != 0 {
				m.To = new(c.id)
			}
			if fix&fixTerm != 0 {
				m.Term = new(c.term)
			}
			env.Raft, _ = proto.Marshal(m)
		}
		b.endure(peer, seal(envelope, env))
	})
}

// FuzzLetterFields proves the same as FuzzLetter for letters that are well formed and wrong in their numbers: they are
// chosen near those of the core, where an off-by-one is not caught by a plausibility check.
func FuzzLetterFields(f *testing.F) {
	for i := range phases {
		for typ := range len(raftpb.MessageType_name) {
			f.Add(byte(i), byte(12), byte(typ), byte(0), uint64(mid), uint64(mid), uint64(mid), uint64(mid), uint64(mid), []byte{})
			f.Add(byte(i), byte(13), byte(typ), byte(1), uint64(mid), uint64(mid), uint64(mid), uint64(mid), uint64(mid), []byte{0x00, 0x22, 0x42})
		}
	}
	f.Fuzz(func(t *testing.T, phase, envelope, typ, flags byte, term, logTerm, index, commit, hint uint64, entries []byte) {
		cryptotest.SetGlobalRandom(t, 1)
		b := newBed(t, phases[int(phase)%len(phases)])
		b.endure(1, seal(envelope, b.oddLetter(t, typ, flags, term, logTerm, index, commit, hint, entries)))
	})
}

// mid is the number that stands for an offset of zero.
const mid = 32

// oddLetter builds a letter from core 1 to core 0 from numbers.
func (b *bed) oddLetter(t testing.TB, typ, flags byte, term, logTerm, index, commit, hint uint64, entries []byte) *cachepb.Peer {
	c, peer := b.cores[0], b.cores[1]
	last, lastTerm := uint64(0), uint64(0)
	if c.rn != nil {
		last, lastTerm = c.store.last(), c.store.lastTerm()
	}
	// Small numbers are offsets, others are taken as they are.
	near := func(base, v uint64) uint64 {
		if v < 64 {
			return max(base+v, mid) - mid
		}
		return v
	}
	m := &raftpb.Message{
		Type: raftpb.MessageType(int(typ) % len(raftpb.MessageType_name)).Enum(), From: new(peer.id), To: new(c.id),
		Term: new(near(c.term, term)), LogTerm: new(near(lastTerm, logTerm)), Index: new(near(last, index)),
		Commit: new(near(last, commit)), RejectHint: new(near(last, hint)), Reject: new(flags&1 != 0),
	}
	if flags&2 != 0 {
		m.Context = make([]byte, flags>>4)
	}
	if flags&4 != 0 {
		m.Vote = new(hint)
	}
	for i, e := range entries[:min(len(entries), 8)] {
		m.Entries = append(m.Entries, fuzzEntry(c, m, uint64(i), e))
	}
	if m.GetType() == raftpb.MsgSnap || flags&8 != 0 {
		data := binary.LittleEndian.AppendUint64(nil, 7)
		data = binary.LittleEndian.AppendUint64(data, near(last, hint))
		data = append(data, encodeHosts(c.Members())...)
		m.Snapshot = &raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{
			Index: m.Index, Term: m.LogTerm, ConfState: fuzzConf(c, entries),
		}}
		// Its chunks arrive before, or the filter would not let it pass.
		chunk := binary.LittleEndian.AppendUint64(nil, m.GetIndex())
		b.deliver(c, b.slot(1), peer.id, LaneSnapshot, bedMessage{req: chunkOf(7, 0, chunk, true)})
	}
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &cachepb.Peer{Cluster: max(c.cluster, 1), Raft: raw}
}

// fuzzEntry makes an entry out of one byte.
func fuzzEntry(c *Core, m *raftpb.Message, i uint64, e byte) *raftpb.Entry {
	entry := &raftpb.Entry{
		Type: []raftpb.EntryType{raftpb.EntryNormal, raftpb.EntryConfChange, raftpb.EntryConfChangeV2, 9}[e&3].Enum(),
		Term: new(m.GetTerm() + uint64(e>>2&7) - 4), Index: new(m.GetIndex() + 1 + i),
	}
	if e>>2&7 == 0 {
		entry.Term = m.Term
	}
	id := c.drawID(c.cfg.Self)
	switch e >> 5 {
	case 1:
		entry.Data = make([]byte, 8)
	case 2:
		entry.Data, _ = proto.Marshal(changes(raftpb.ConfChangeAddLearnerNode, id))
	case 3:
		entry.Data, _ = proto.Marshal(changes(raftpb.ConfChangeRemoveNode, c.id))
	case 4:
		entry.Data, _ = proto.Marshal(changes(raftpb.ConfChangeRemoveNode, c.id, raftpb.ConfChangeAddNode, id))
	case 5:
		entry.Data = []byte{0xff, 0x01, 0x02}
	case 6:
		all := []any{}
		for _, v := range c.conf.GetVoters() {
			all = append(all, raftpb.ConfChangeRemoveNode, v)
		}
		entry.Data, _ = proto.Marshal(changes(all...))
	case 7:
		cc := changes(raftpb.ConfChangeAddNode, uint64(0))
		cc.Context = []byte("hosts that are none")
		entry.Data, _ = proto.Marshal(cc)
	}
	return entry
}

// fuzzConf makes a configuration out of bytes: each names a place and an id.
func fuzzConf(c *Core, b []byte) *raftpb.ConfState {
	cs := &raftpb.ConfState{}
	if len(b) == 0 {
		return proto.Clone(c.conf).(*raftpb.ConfState)
	}
	for _, x := range b[:min(len(b), 16)] {
		id := uint64(x & 7)
		switch {
		case id == 1:
			id = c.id
		case id == 2:
			id = c.peers[(c.cfg.Self+1)%3].id
		case id == 3:
			id = c.peers[(c.cfg.Self+2)%3].id
		}
		switch x >> 3 & 7 {
		case 0, 1, 2, 3:
			cs.Voters = append(cs.Voters, id)
		case 4:
			cs.VotersOutgoing = append(cs.VotersOutgoing, id)
		case 5:
			cs.Learners = append(cs.Learners, id)
		case 6:
			cs.LearnersNext = append(cs.LearnersNext, id)
		case 7:
			cs.AutoLeave = new(true)
		}
	}
	return cs
}

func chunkOf(transfer uint64, seq uint32, data []byte, last bool) *cachepb.CacheRequest {
	return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Replicate{Replicate: &cachepb.Replicate{
		Peer: &cachepb.Peer{}, Chunk: &cachepb.SnapshotChunk{Transfer: transfer, Seq: seq, Data: data, Last: last, Crc32C: crc32.Checksum(data, castagnoli)},
	}}}
}

// FuzzEnvelope proves that no request and no answer of a peer makes a core panic, whatever its fields are.
func FuzzEnvelope(f *testing.F) {
	for i, phase := range phases {
		for _, m := range record(f, phase) {
			var outer proto.Message = m.req
			if m.req == nil {
				outer = m.ack
			}
			raw, err := proto.Marshal(outer)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(byte(i), m.req == nil, raw)
		}
	}
	f.Fuzz(func(t *testing.T, phase byte, isAck bool, raw []byte) {
		m := bedMessage{}
		if isAck {
			m.ack = &cachepb.Ack{}
			if proto.Unmarshal(raw, m.ack) != nil {
				return
			}
		} else {
			m.req = &cachepb.CacheRequest{}
			if proto.Unmarshal(raw, m.req) != nil {
				return
			}
		}
		cryptotest.SetGlobalRandom(t, 1)
		newBed(t, phases[int(phase)%len(phases)]).endure(1, m)
	})
}

// sealed is what a letter must travel in: the seed message, whether it is an answer, and the lanes.
type sealed struct {
	name  string
	isAck bool
	lanes []Lane
}

// envelopes is the table of the design. The state of the peer decides between two of them.
func envelopes(m *raftpb.Message, confirmed, viaAck bool) sealed {
	control, data := []Lane{LaneControl}, []Lane{LaneData}
	switch m.GetType() {
	case raftpb.MsgPreVote, raftpb.MsgVote:
		return sealed{"LeaderReq", false, control}
	case raftpb.MsgPreVoteResp, raftpb.MsgVoteResp:
		if m.GetReject() {
			return sealed{"LeaderSwitchPriority", false, control}
		}
		return sealed{"LeaderReqAck", true, control}
	case raftpb.MsgApp:
		if !confirmed {
			return sealed{"LeaderAck", false, data}
		}
		return sealed{"Replicate", false, data}
	case raftpb.MsgAppResp:
		if viaAck && !m.GetReject() {
			return sealed{"LeaderAckAck", true, data}
		}
		return sealed{"ReplicateAck", true, data}
	case raftpb.MsgReadIndex:
		return sealed{"Replicate", false, data}
	case raftpb.MsgReadIndexResp:
		return sealed{"ReplicateAck", true, data}
	case raftpb.MsgHeartbeat:
		return sealed{"Ping", false, []Lane{LaneControl, LaneData}}
	case raftpb.MsgHeartbeatResp:
		return sealed{"Pong", true, control}
	}
	return sealed{"LeaderSwitch", false, control} // MsgTimeoutNow
}

// FuzzEnvelopeRoundTrip proves that every letter travels in the seed message of the design's table, on its lanes, and
// comes out of it as it went in.
func FuzzEnvelopeRoundTrip(f *testing.F) {
	types := []raftpb.MessageType{
		raftpb.MsgPreVote, raftpb.MsgVote, raftpb.MsgPreVoteResp, raftpb.MsgVoteResp, raftpb.MsgApp, raftpb.MsgAppResp,
		raftpb.MsgReadIndex, raftpb.MsgReadIndexResp, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow,
	}
	for i := range types {
		for flags := range 8 {
			f.Add(byte(i), byte(flags), uint64(2), uint64(1), uint64(5), uint64(4), uint64(3), []byte("12345678"), []byte("entry"))
		}
	}
	f.Fuzz(func(t *testing.T, typ, flags byte, term, logTerm, index, commit, hint uint64, context, entry []byte) {
		cryptotest.SetGlobalRandom(t, 1)
		b := newBed(t, "follower")
		c, to := b.cores[0], b.cores[1]
		p := c.peerByID(to.id)
		p.viaAck, p.confirmed = flags&1 != 0, flags&2 != 0
		m := &raftpb.Message{
			Type: types[int(typ)%len(types)].Enum(), From: new(c.id), To: new(to.id), Term: &term, LogTerm: &logTerm, Index: &index,
			Commit: &commit, RejectHint: &hint, Reject: new(flags&4 != 0), Context: context,
			Entries: []*raftpb.Entry{{Type: raftpb.EntryNormal.Enum(), Term: &term, Index: &index, Data: entry}},
		}
		want := envelopes(m, p.confirmed, p.viaAck)
		c.post(proto.Clone(m).(*raftpb.Message))

		var on []Lane
		for _, got := range b.ends[0].sent {
			on = append(on, got.lane)
			var outer proto.Message = got.req
			if got.ack != nil {
				outer = got.ack
			}
			raw, err := proto.Marshal(outer)
			if err != nil {
				t.Fatal(err)
			}
			arrived := outer.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(raw, arrived); err != nil {
				t.Fatal(err)
			}
			name, env := envelopeOf(arrived)
			if name != want.name || (got.ack != nil) != want.isAck || got.to != b.slot(1) {
				t.Errorf("%v travels in %s to %d, answer %v, want %s", m.GetType(), name, got.to, got.ack != nil, want.name)
			}
			letter := &raftpb.Message{}
			if err := proto.Unmarshal(env.GetRaft(), letter); err != nil || !proto.Equal(letter, m) || env.GetCluster() != c.cluster {
				t.Errorf("sent %v, arrived %v of cluster %x (%v)", m, letter, env.GetCluster(), err)
			}
		}
		if !slices.Equal(on, want.lanes) {
			t.Errorf("%v travels on %v, want %v", m.GetType(), on, want.lanes)
		}
	})
}

// chunks of the transfers that FuzzChunks knows: the same number always has the same content.
const chunksOfTransfer = 4

func chunkData(transfer uint64, seq int) []byte {
	return fmt.Appendf(nil, "chunk %d of transfer %d;", seq, transfer)
}

// What a byte of a chunk script says.
const (
	seqMask  = 0x07 // which chunk; beyond the last one: MsgSnap
	second   = 0x08 // of the other transfer
	damaged  = 0x10
	stranger = 0x20 // from the node that does not lead
	early    = 0x40 // says that it is the last one; only a damaged one does
	short    = 0x80 // without its content; only the first or a damaged one
)

// FuzzChunks proves that a state is only ever built from all chunks of one transfer in their order, however they are
// repeated, reordered, mixed with another transfer's, damaged or cut short, and that a MsgSnap installs it only then. Each
// byte of the script is one chunk, or a MsgSnap.
func FuzzChunks(f *testing.F) {
	for _, script := range chunkScripts {
		f.Add(script.ops)
	}
	f.Fuzz(func(t *testing.T, script []byte) { runChunks(t, script) })
}

var chunkScripts = []struct {
	name     string
	ops      []byte
	installs bool
}{
	{"in order", []byte{0, 1, 2, 3, 7}, true},
	{"each twice", []byte{0, 0, 1, 1, 2, 2, 3, 3, 7, 7}, true},
	{"started again", []byte{0, 1, 0, 1, 2, 3, 7}, true},
	{"mixed with another", []byte{0, 1, 8, 9, 10, 2, 3, 7, 11, 15}, true},
	{"damaged", []byte{0, 1, 2 | damaged, 2, 3, 7}, false},
	{"damaged, then again", []byte{0, 1, 2 | damaged, 0, 1, 2, 3, 7}, true},
	{"backwards", []byte{3, 2, 1, 0, 7}, false},
	{"one missing", []byte{0, 1, 3, 7}, false},
	{"from two nodes", []byte{0, 1 | stranger, 2, 3, 7}, false},
	{"ends too early", []byte{0, 1 | early | damaged, 7}, false},
	{"without its beginning", []byte{0 | short, 1, 2, 3, 7}, false},
	{"the other's letter", []byte{0, 1, 2, 3, 7 | second}, false},
}

func TestChunkScripts(t *testing.T) {
	for _, tt := range chunkScripts {
		if installs := runChunks(t, tt.ops); installs != tt.installs {
			t.Errorf("%s: installed %v, want %v", tt.name, installs, tt.installs)
		}
	}
}

// runChunks runs a script and reports whether a snapshot was installed.
func runChunks(t *testing.T, script []byte) bool {
	cryptotest.SetGlobalRandom(t, 1)
	b := newBed(t, "follower")
	c := b.cores[0]
	at := c.store.last() + 100 // where the snapshots are taken
	for _, op := range script[:min(len(script), 64)] {
		transfer, seq, peer := uint64(1), int(op&seqMask), 1
		if op&second != 0 {
			transfer = 2
		}
		if op&stranger != 0 {
			peer = 2
		}
		if seq >= chunksOfTransfer {
			was := c.stats.SnapshotsTaken
			b.deliver(c, b.slot(1), b.cores[1].id, LaneData, snapOf(b, transfer, at))
			if c.stats.SnapshotsTaken != was {
				checkInstalled(t, b.ends[0].sink)
			}
			continue
		}
		data, last := chunkData(transfer, seq), seq == chunksOfTransfer-1
		if seq == 0 {
			data = append(binary.LittleEndian.AppendUint64(nil, at), data...)
		}
		// A sender that lies and has the right checksum is believed.
		if op&short != 0 && (seq == 0 || op&damaged != 0) {
			data = nil
		}
		if op&early != 0 && op&damaged != 0 {
			last = true
		}
		req := chunkOf(transfer, uint32(seq), data, last)
		if op&damaged != 0 {
			req.GetReplicate().GetChunk().Crc32C++
		}
		b.ends[0].sent = nil
		b.deliver(c, b.slot(peer), b.cores[peer].id, LaneSnapshot, bedMessage{req: req})
		checkChunkAck(t, b.ends[0], transfer)
	}
	return c.stats.SnapshotsTaken > 0
}

// snapOf is the letter that follows the last chunk.
func snapOf(b *bed, transfer, index uint64) bedMessage {
	c, leader := b.cores[0], b.cores[1]
	data := binary.LittleEndian.AppendUint64(nil, transfer)
	data = append(binary.LittleEndian.AppendUint64(data, index), encodeHosts(c.Members())...)
	raw, err := proto.Marshal(&raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: new(leader.id), To: new(c.id), Term: new(c.term),
		Snapshot: &raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{Index: new(index), Term: new(c.term), ConfState: leader.conf}},
	})
	if err != nil {
		panic(err)
	}
	return seal(12, &cachepb.Peer{Cluster: c.cluster, Raft: raw})
}

// checkChunkAck asserts that the state being built is a whole number of chunks of one transfer from the first on, and
// that no more of them are acknowledged.
func checkChunkAck(t *testing.T, e *bedEnd, transfer uint64) {
	t.Helper()
	has := 0
	if e.sink != nil {
		whole := false
		for id := uint64(1); id <= 2 && !whole; id++ {
			built := []byte{}
			for has = 0; ; has++ {
				if whole = bytes.Equal(e.sink.data, built); whole || has == chunksOfTransfer {
					break
				}
				built = append(built, chunkData(id, has)...)
			}
		}
		if !whole {
			t.Fatalf("built from wrong chunks: %q", e.sink.data)
		}
	}
	for _, m := range e.sent {
		ack := m.ack.GetReplicateAck().GetChunkAck()
		if ack == nil || ack.GetError() != "" {
			continue
		}
		if ack.GetTransfer() != transfer || int(ack.GetSeq()) >= has {
			t.Fatalf("%d chunks are here, acknowledged: %v", has, ack)
		}
	}
}

func checkInstalled(t *testing.T, s *bedSink) {
	t.Helper()
	for id := uint64(1); id <= 2; id++ {
		all := []byte{}
		for seq := range chunksOfTransfer {
			all = append(all, chunkData(id, seq)...)
		}
		if s.finished && bytes.Equal(s.data, all) {
			return
		}
	}
	t.Fatalf("installed, finished %v: %q", s.finished, s.data)
}

// FuzzHosts proves that what is read as a list of hosts is one, and is read again from what is written of it.
func FuzzHosts(f *testing.F) {
	f.Add(encodeHosts([]string{"a:1", "b:1", "c:1"}))
	f.Add(encodeHosts([]string{"a:1", "a:1"}))
	f.Add(encodeHosts(nil))
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := decodeHosts(data)
		if err != nil {
			return
		}
		if len(list) == 0 || len(list) > MaxHosts || slices.Contains(list, "") {
			t.Errorf("read %q", list)
		}
		if again, err := decodeHosts(encodeHosts(list)); err != nil || !slices.Equal(again, list) {
			t.Errorf("read %q, and that as %q, %v", list, again, err)
		}
	})
}

package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/hacache/hacache/cachenode/internal/faults"
	"github.com/hacache/hacache/proto/cachepb"
)

// Snapshots. raft.Storage.Snapshot returns a descriptor at the applied index; the data goes to the follower in chunks of
// its own, read while writes go on (a fuzzy snapshot), and the MsgSnap follows the last chunk. The follower replays the
// log from the descriptor's index; its state machine skips what a chunk already contained. It serves nothing before it
// has applied everything that the sender had applied when the last chunk was read.
//
// One transfer runs at a time. Every transfer that ends is reported to raft, or the follower would stay in
// StateSnapshot for ever. The log is kept from the descriptor's index on until the follower is past it.

const (
	transferIdle = 5 * time.Second // a transfer without progress for this long has failed
	resendChunks = 250 * time.Millisecond
	transferPin  = 10 * time.Second // how long the log is kept for a follower that has its snapshot
	snapDataSize = 16               // transfer number and the sender's last index in MsgSnap's snapshot data; the list of hosts follows
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type transfers struct {
	out *outgoing
	in  *incoming
}

type outgoing struct {
	id       uint64 // names the transfer
	to       uint64 // the follower; 0 until raft's MsgSnap says who it is for
	index    uint64
	hosts    []byte // the list at index
	source   SnapshotSource
	msg      *raftpb.Message
	next     uint32                   // seq of the next chunk
	acked    uint32                   // chunks acknowledged, all before this seq
	window   []*cachepb.SnapshotChunk // sent and not acknowledged
	size     uint64                   // bytes read so far
	due      time.Duration            // when the next chunk may be read
	written  uint64                   // what had been written to the log when the last one was read
	drained  bool                     // the last chunk was read
	finished bool                     // MsgSnap sent; only pins the log
	movedAt  time.Duration
	sentAt   time.Duration
}

type incoming struct {
	id      uint64
	from    uint64
	index   uint64
	sink    SnapshotSink
	next    uint32
	done    bool
	startAt time.Duration
}

// snapshotForFollower implements raft.Storage.Snapshot.
func (c *Core) snapshotForFollower() (*raftpb.Snapshot, error) {
	if t := c.transfers.out; t != nil && !t.finished {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	id := c.cfg.Rand() | 1
	c.transfers.out = &outgoing{id: id, index: c.applied, hosts: encodeHosts(c.Members()), source: c.cfg.Upper.BeginSnapshot(), movedAt: c.now, written: c.store.written}
	return &raftpb.Snapshot{
		Data: binary.LittleEndian.AppendUint64(nil, id),
		Metadata: &raftpb.SnapshotMetadata{
			ConfState: c.conf, Index: new(c.applied), Term: new(c.appliedTerm),
		},
	}, nil
}

// pinned returns the oldest index that a running transfer still needs in the log.
func (t *transfers) pinned() uint64 {
	if t.out == nil {
		return ^uint64(0)
	}
	return t.out.index
}

// launch starts to send the chunks of the snapshot that m describes.
func (t *transfers) launch(c *Core, p *peer, m *raftpb.Message) {
	o := t.out
	if o == nil || len(m.GetSnapshot().GetData()) < 8 || o.id != binary.LittleEndian.Uint64(m.GetSnapshot().GetData()) {
		c.rn.ReportSnapshot(m.GetTo(), raft.SnapshotFailure)
		return
	}
	o.to, o.msg = m.GetTo(), m
	c.log.Info("sending a snapshot", "to", p.slot, "index", o.index)
	t.pump(c, p)
}

// pump sends chunks while the window is open and they are due.
func (t *transfers) pump(c *Core, p *peer) {
	o := t.out
	for !o.drained && o.next-o.acked < uint32(c.cfg.SnapshotWindow) && c.now >= o.due {
		data, done := o.source.Next(c.cfg.SnapshotChunk)
		o.pace(c, uint64(len(data)))
		if o.next == 0 {
			data = append(binary.LittleEndian.AppendUint64(nil, o.index), data...) // the first chunk says where the log goes on
		}
		chunk := &cachepb.SnapshotChunk{Transfer: o.id, Seq: o.next, Data: data, Last: done, Crc32C: crc32.Checksum(data, castagnoli)}
		o.next++
		o.size += uint64(len(data))
		o.drained = done
		o.window = append(o.window, chunk)
		t.send(c, p, chunk)
		faults.Point(faults.SnapshotSend)
	}
}

// pace says when the chunk after one of n bytes is due. As fast as it goes, a copy takes a processor of each side, and who
// writes waits for it. It has to be faster than what is written meanwhile, though, or it would never come to an end: that
// many bytes, twice, are not counted.
func (o *outgoing) pace(c *Core, n uint64) {
	n -= min(n, 2*(c.store.written-o.written))
	o.written = c.store.written
	o.due = max(o.due, c.now-c.tick) + time.Duration(n*uint64(time.Second)/c.cfg.SnapshotRate)
}

// send sends one chunk. One that is lost is sent again when the transfer does not move.
func (t *transfers) send(c *Core, p *peer, chunk *cachepb.SnapshotChunk) {
	t.out.sentAt = c.now
	c.stats.SnapshotSent += uint64(len(chunk.GetData()))
	c.send(p.slot, LaneSnapshot, &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Replicate{
		Replicate: &cachepb.Replicate{Chunk: chunk, Peer: &cachepb.Peer{Cluster: c.cluster}},
	}})
}

func (c *Core) receiveChunkAck(p *peer, m *cachepb.SnapshotChunkAck) {
	o := c.transfers.out
	if o == nil || o.finished || m.GetTransfer() != o.id || p.id != o.to {
		return
	}
	if m.GetError() != "" {
		c.log.Warn("snapshot refused", "by", p.slot, "error", m.GetError())
		c.transfers.abort(c, p.id)
		return
	}
	if m.GetSeq()+1 <= o.acked || m.GetSeq() >= o.next {
		return
	}
	o.window = o.window[m.GetSeq()+1-o.acked:]
	o.acked, o.movedAt = m.GetSeq()+1, c.now
	if !o.drained || o.acked < o.next {
		c.transfers.pump(c, p)
		return
	}
	o.finished, o.source = true, nil
	// This node may itself still be on its way to the end of a fuzzy snapshot.
	data := binary.LittleEndian.AppendUint64(o.msg.Snapshot.Data[:8:8], max(c.applied, c.fresh.serveFrom))
	o.msg.Snapshot.Data = append(data, o.hosts...)
	c.stats.SnapshotsSent++
	c.postReplicate(p, o.msg)
	o.msg = nil
	c.rn.ReportSnapshot(o.to, raft.SnapshotFinish)
}

// abort ends the transfer to a follower, if there is one.
func (t *transfers) abort(c *Core, to uint64) {
	if t.in != nil && t.in.from == to {
		t.in = nil
	}
	if o := t.out; o != nil && (o.to == to || o.to == 0) {
		t.out = nil
		if !o.finished {
			c.stats.SnapshotsFailed++
			c.log.Warn("snapshot transfer failed", "to", c.slotOf(to), "chunks", o.next)
			if c.rn != nil {
				c.rn.ReportSnapshot(to, raft.SnapshotFailure)
			}
		}
	}
}

// abortAll ends what only a leader does.
func (t *transfers) abortAll(c *Core) {
	if o := t.out; o != nil {
		if !o.finished {
			c.stats.SnapshotsFailed++
		}
		t.out = nil
	}
}

// SnapshotProgress tells whether a snapshot is being sent and about how much of it was read, and whether one is being
// received.
func (c *Core) SnapshotProgress() (sending bool, progress float64, receiving bool) {
	t := &c.transfers
	if o := t.out; o != nil && o.to != 0 && !o.finished {
		sending, progress = true, o.source.Progress()
	}
	return sending, progress, t.in != nil
}

// pinnedLogs is how many times what is retained anyway the log may grow while a transfer pins it, beside the size of what
// was transferred.
const pinnedLogs = 8

// hopeless reports whether the log that is kept for a transfer has grown beyond its bound. It grows by what is written
// meanwhile; where that is more than the snapshot moves, its receiver never comes to the end, and this node would keep
// ever more for it.
func (c *Core) hopeless(o *outgoing) bool {
	return c.store.bytes > pinnedLogs*c.cfg.LogRetainBytes+o.size
}

// manageTransfers runs once a tick: it goes on with one that was not due, and ends transfers that do not move, or that the
// log runs away from.
func (c *Core) manageTransfers() {
	o := c.transfers.out
	switch {
	case o == nil:
	case o.finished && c.hopeless(o):
		c.transfers.out = nil
	case c.hopeless(o):
		c.log.Warn("snapshot given up: the log grows faster than it moves", "log_bytes", c.store.bytes, "sent_bytes", o.size)
		c.transfers.abort(c, o.to)
	case o.finished && c.now-o.movedAt > transferPin:
		c.transfers.out = nil
	case !o.finished && c.now-o.movedAt > transferIdle:
		c.transfers.abort(c, o.to)
	case !o.finished && o.to != 0:
		p := c.peerByID(o.to)
		if p == nil {
			return
		}
		if c.now-max(o.movedAt, o.sentAt) > resendChunks {
			for _, chunk := range o.window {
				c.transfers.send(c, p, chunk)
			}
		}
		c.transfers.pump(c, p)
	}
}

// receiveChunk takes one chunk. Its answer names the last chunk up to which all are here; one that came early or twice
// changes nothing.
func (c *Core) receiveChunk(p *peer, m *cachepb.SnapshotChunk) {
	if c.rn == nil || c.role == raft.StateLeader {
		return
	}
	t := &c.transfers
	reply := &cachepb.SnapshotChunkAck{Transfer: m.GetTransfer()}
	err := func() error {
		if crc32.Checksum(m.GetData(), castagnoli) != m.GetCrc32C() {
			return fmt.Errorf("chunk %d is damaged", m.GetSeq())
		}
		data := m.GetData()
		if m.GetSeq() == 0 {
			if len(data) < 8 {
				return errors.New("the first chunk has no index")
			}
			index := binary.LittleEndian.Uint64(data)
			data = data[8:]
			if t.in == nil || t.in.id != m.GetTransfer() {
				t.in = &incoming{id: m.GetTransfer(), from: p.id, index: index, sink: c.cfg.Upper.BeginRestore(index), startAt: c.now}
			}
		}
		in := t.in
		if in == nil || in.id != m.GetTransfer() || in.from != p.id || in.next != m.GetSeq() || in.done {
			return nil
		}
		if err := in.sink.Add(data); err != nil {
			return err
		}
		faults.Point(faults.SnapshotReceive)
		c.stats.SnapshotGot += uint64(len(m.GetData()))
		in.next++
		in.done = m.GetLast()
		return nil
	}()
	switch in := t.in; {
	case err != nil:
		reply.Error = err.Error()
		t.in = nil
	case in == nil || in.id != m.GetTransfer() || in.next == 0:
		return
	default:
		reply.Seq = in.next - 1
	}
	c.sendAck(p.slot, LaneSnapshot, &cachepb.Ack{Method: &cachepb.Ack_ReplicateAck{ReplicateAck: &cachepb.ReplicateAck{
		ChunkAck: reply, Peer: &cachepb.Peer{Cluster: c.cluster},
	}}})
}

// admit lets a MsgSnap pass only if its data is here in full.
func (t *transfers) admit(s *raftpb.Snapshot) error {
	if len(s.GetData()) < snapDataSize {
		return fmt.Errorf("MsgSnap with %d bytes of data", len(s.GetData()))
	}
	if _, err := decodeHosts(s.GetData()[snapDataSize:]); err != nil {
		return fmt.Errorf("MsgSnap: %w", err)
	}
	id := binary.LittleEndian.Uint64(s.GetData())
	if t.in == nil || !t.in.done || t.in.id != id || t.in.index != s.GetMetadata().GetIndex() {
		return fmt.Errorf("MsgSnap %016x without its chunks", id)
	}
	return nil
}

// installSnapshot makes the received state the running one. Raft has decided to restore from s.
func (c *Core) installSnapshot(s *raftpb.Snapshot) {
	in, meta := c.transfers.in, s.GetMetadata()
	if in == nil || in.id != binary.LittleEndian.Uint64(s.GetData()) {
		panic("replication: raft restores a snapshot that was not received") // the letter filter admits no other
	}
	c.transfers.in = nil
	if err := in.sink.Finish(); err != nil {
		// The chunks were complete and checked, and raft has already moved to the new index. Without its data this
		// member is of no use to anybody; becoming empty is always safe.
		c.log.Error("snapshot cannot be used", "error", err)
		c.member.abandonNow = true
	}
	c.stats.SnapshotsTaken++
	c.conf = meta.GetConfState()
	c.store.reset(meta.GetIndex(), meta.GetTerm(), c.conf)
	c.applied, c.appliedTerm = meta.GetIndex(), meta.GetTerm()
	c.fresh.has, c.fresh.hasNext = false, false
	c.fresh.serveFrom = binary.LittleEndian.Uint64(s.GetData()[8:])
	if list, err := decodeHosts(s.GetData()[snapDataSize:]); err == nil { // the letter filter has seen that it is
		c.setMembers(list)
		c.hosts.before = nil
		if len(c.conf.GetVotersOutgoing()) > 0 {
			c.hosts.before = []int{}
		}
	}
	c.noteSettled()
	c.log.Info("snapshot installed", "index", c.applied, "serving from", c.fresh.serveFrom, "took", c.now-in.startAt)
}

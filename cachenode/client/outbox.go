package client

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// outbox holds the encoded requests that wait for the stream to take them.
// Conn.mu guards it.
type outbox struct {
	buf       *[]byte // the items, one behind the other
	items     []queued
	spare     []queued // what the writer has had last; its memory is used again
	cancelled int      // items that must not be sent any more
}

// queued is one item; it ends at (*buf)[end].
type queued struct {
	id     uint64 // 0: a management message
	end    int
	prefix int // length of the batch framing in front of the message
}

func newOutbox() outbox { return outbox{buf: sendBuffers.Get(0)} }

// bytes is how much waits.
func (q *outbox) bytes() int { return len(*q.buf) }

// add appends an operation and the deadline that the node is told of. first
// tells that nothing waited before it.
func (q *outbox) add(op *Op, id uint64, told time.Duration) (first bool) {
	var prefix int
	*q.buf, prefix = appendItem(*q.buf, op, id, serverDeadline(told))
	q.items = append(q.items, queued{id: id, end: len(*q.buf), prefix: prefix})
	return len(q.items) == 1
}

// addMgmt appends a management message.
func (q *outbox) addMgmt(message []byte) {
	*q.buf = append(*q.buf, message...)
	q.items = append(q.items, queued{end: len(*q.buf)})
}

// take removes everything, but for what has ended meanwhile: that was reported
// as not sent. The caller gives buf back to sendBuffers, and keeps items no
// longer than until the next take.
func (q *outbox) take(w *window) (buf *[]byte, items []queued) {
	buf, items = q.buf, q.items
	if q.cancelled > 0 {
		items = withoutEnded(w, buf, items)
	}
	q.buf, q.items, q.cancelled = sendBuffers.Get(0), q.spare[:0], 0
	q.spare = items
	return buf, items
}

// withoutEnded closes the gaps that ended operations leave.
func withoutEnded(w *window, buf *[]byte, items []queued) []queued {
	kept, to, from := items[:0], 0, 0
	for _, item := range items {
		end := item.end
		if item.id == 0 || w.find(item.id) != nil {
			to += copy((*buf)[to:], (*buf)[from:end])
			item.end = to
			kept = append(kept, item)
		}
		from = end
	}
	*buf = (*buf)[:to]
	return kept
}

// clear forgets everything.
func (q *outbox) clear() {
	*q.buf = (*q.buf)[:0]
	q.items, q.cancelled = q.items[:0], 0
}

// write sends what is queued until the stream is gone.
func (c *Conn) write(stream grpc.ClientStream, gone <-chan struct{}) {
	for {
		select {
		case <-c.wake:
		case <-gone:
			return
		}
		for {
			buf, items := c.take()
			if len(items) == 0 {
				sendBuffers.Put(buf)
				break
			}
			if err := c.send(stream, buf, items); err != nil {
				return // the reader sees the reason
			}
		}
	}
}

// take removes everything queued and marks it sent.
func (c *Conn) take() (*[]byte, []queued) {
	c.mu.Lock()
	defer c.mu.Unlock()
	buf, items := c.outbox.take(&c.window)
	now := c.now()
	for _, item := range items {
		if p := c.window.find(item.id); p != nil {
			p.sent, p.sentAt = true, now
		}
	}
	c.stats.Items += uint64(len(items))
	c.callNext() // there may have been no room in the outbox only
	return buf, items
}

// send passes the items on, as messages of their own or packed. buf is given
// back when gRPC is done with it.
func (c *Conn) send(stream grpc.ClientStream, buf *[]byte, items []queued) error {
	root := mem.NewBuffer(buf, &sendBuffers)
	defer root.Free()
	var f frame
	var messages uint64
	defer func() {
		c.mu.Lock()
		c.stats.Messages += messages
		c.mu.Unlock()
	}()
	for start := 0; len(items) > 0; {
		n := 1
		if c.cfg.Batch {
			n = pack(items, start)
		}
		end := items[n-1].end
		if n == 1 {
			f.out = mem.BufferSlice{root.Slice(start+items[0].prefix, end)}
		} else {
			header := mem.SliceBuffer(appendBatchHeader(make([]byte, 0, 8), end-start))
			f.out = mem.BufferSlice{header, root.Slice(start, end)}
		}
		if err := stream.SendMsg(&f); err != nil {
			return err
		}
		messages++
		start, items = end, items[n:]
	}
	return nil
}

// pack returns how many of the items, at least one, fit into one message. The
// first begins at start.
func pack(items []queued, start int) int {
	n := 1
	if items[0].id == 0 {
		return n
	}
	for n < len(items) && n < MaxBatchItems && items[n].id != 0 && items[n].end-start <= MaxBatchBytes {
		n++
	}
	return n
}

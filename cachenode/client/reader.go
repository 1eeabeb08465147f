package client

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"github.com/hacache/hacache/proto/cachepb"
)

// reader is the state of one stream's reading goroutine.
type reader struct {
	conn   *Conn
	views  []ackView
	over   []answered
	leader string // last leader named; most answers name the same
}

// answered is an operation whose answer is in reader.views.
type answered struct {
	view   int
	kind   Kind
	sentAt time.Duration
	done   func(Outcome)
}

// read handles what arrives, beginning with the greeting in first, until the
// stream ends.
func (c *Conn) read(stream grpc.ClientStream, first *frame) error {
	r := reader{conn: c}
	for in := first; ; {
		err := r.handle(in.in)
		in.in.Free()
		if err != nil {
			return err
		}
		if err := stream.RecvMsg(in); err != nil {
			return err
		}
	}
}

// handle matches the acks of one message to the operations that wait for them,
// under one lock, and then calls back without it.
func (r *reader) handle(b mem.Buffer) error {
	c := r.conn
	var err error
	r.views, err = parseAcks(r.views[:0], b.ReadOnlyData())
	if err != nil {
		return err
	}
	now := c.now()
	c.mu.Lock()
	c.heard, c.mute = now, 0
	mgmt := r.match()
	c.callNext()
	c.corked = true
	c.mu.Unlock()

	returned := c.base.Add(now)
	for i := range r.over {
		a := &r.over[i]
		a.done(r.outcome(a, returned))
		a.done = nil
	}
	for i := range r.views {
		if v := &r.views[i]; mgmt && v.kind == ackMgmt {
			c.handleMgmt(v.mgmt)
		}
	}
	c.mu.Lock()
	c.corked = false
	wake := len(c.outbox.items) > 0
	c.mu.Unlock()
	if wake {
		c.wakeWriter()
	}
	return nil
}

// match ends the operations that the views answer, and reports whether there is
// a management message among them. mu is held.
func (r *reader) match() (mgmt bool) {
	c := r.conn
	r.over = r.over[:0]
	for i := range r.views {
		v := &r.views[i]
		if v.kind == ackMgmt {
			mgmt = true
			continue
		}
		p, late := c.window.match(v)
		switch {
		case p != nil:
			r.over = append(r.over, answered{i, p.kind, p.sentAt, p.done})
			c.window.remove(p)
		case c.failMgmt(v):
		case late:
			c.stats.Late++
		default:
			c.stats.Unmatched++
		}
	}
	return mgmt
}

// outcome makes the answer that the caller sees.
func (r *reader) outcome(a *answered, returned time.Time) Outcome {
	c, v := r.conn, &r.views[a.view]
	o := Outcome{
		Status:  classify(a.kind, v.kind, v.mod, v.code),
		Code:    v.code,
		Cluster: v.cluster, Term: v.term, Index: v.index,
		Node: c.addr,
		Sent: c.base.Add(a.sentAt), Returned: returned,
		Staleness: time.Duration(v.staleness) * time.Microsecond,
	}
	if len(v.leader) > 0 {
		if r.leader != string(v.leader) {
			r.leader = string(v.leader)
		}
		o.Leader = r.leader
	}
	if v.kind == ackGet {
		o.Value, o.Found = v.value, v.found
		o.Refused = v.code == cachepb.Code_NOT_FRESH
	}
	if o.Status != StatusOK {
		o.Detail = string(v.reason())
		o.Err = &OpError{Kind: a.kind, Code: v.code, Detail: o.Detail, Node: c.addr}
	}
	return o
}

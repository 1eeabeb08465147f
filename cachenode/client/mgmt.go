package client

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/proto/cachepb"
)

// Management messages carry no id: each kind is answered in order.
const (
	mgmtPong = iota
	mgmtHealth
	mgmtSwitch
	mgmtDone // MembersSet and Abandon, of which a node carries out one at a time
	mgmtKinds
)

// mgmtWindow bounds the management requests of one kind in flight.
const mgmtWindow = 64

type mgmtReply struct {
	ack *cachepb.MgmtAck
	err error
}

type mgmtWaiter struct {
	ch chan mgmtReply
	at time.Duration // when it was enqueued
}

// Ping asks the node for a sign of life.
func (c *Conn) Ping(ctx context.Context) error {
	_, err := c.manage(ctx, mgmtPong, &cachepb.MgmtRequest{
		Method: &cachepb.MgmtRequest_Ping{Ping: &cachepb.Ping{}},
	})
	return err
}

// Health asks the node how it and its connections are.
func (c *Conn) Health(ctx context.Context) (*cachepb.HealthAck, error) {
	ack, err := c.manage(ctx, mgmtHealth, &cachepb.MgmtRequest{
		Method: &cachepb.MgmtRequest_Health{Health: &cachepb.Health{}},
	})
	if err != nil {
		return nil, err
	}
	return ack.GetHealthAck(), nil
}

// LeaderSwitch asks for the leadership to be transferred to host, an identity
// as in HA_HOSTS, and waits until it is. An empty host leaves the choice to the
// leader.
func (c *Conn) LeaderSwitch(ctx context.Context, host string) (*cachepb.LeaderSwitchAck, error) {
	ack, err := c.manage(ctx, mgmtSwitch, &cachepb.MgmtRequest{
		Method: &cachepb.MgmtRequest_LeaderSwitch{LeaderSwitch: &cachepb.LeaderSwitch{VoteHost: host}},
	})
	if err != nil {
		return nil, err
	}
	return ack.GetLeaderSwitchAck(), nil
}

// Abandon tells the node to forget everything and to join again as an empty
// one. nil means that it will at once.
func (c *Conn) Abandon(ctx context.Context) error {
	_, err := c.manage(ctx, mgmtDone, &cachepb.MgmtRequest{
		Method: &cachepb.MgmtRequest_Abandon{Abandon: &cachepb.Abandon{YesLoseThisCopy: true}},
	})
	return err
}

// MembersSet asks the leader for a new list of hosts and waits until it is in
// force. After an error of ctx the change may still happen; asking for the
// same list again is harmless. The leader refuses a change that would let
// nodes which were started with the old list form a second cluster;
// hostsWritten vouches that whatever starts from now on has the right one.
func (c *Conn) MembersSet(ctx context.Context, hosts []string, hostsWritten bool) error {
	_, err := c.manage(ctx, mgmtDone, &cachepb.MgmtRequest{
		Method: &cachepb.MgmtRequest_MembersSet{MembersSet: &cachepb.MembersSet{Hosts: hosts, HostsWritten: hostsWritten}},
	})
	return err
}

// changes reports whether requests of a kind change something. A node carries out
// one of these at a time on a stream, and the Conn sends one at a time.
func changes(kind int) bool { return kind == mgmtSwitch || kind == mgmtDone }

// manage sends one management request and waits for its answer.
func (c *Conn) manage(ctx context.Context, kind int, req *cachepb.MgmtRequest) (*cachepb.MgmtAck, error) {
	if err := c.Ready(ctx); err != nil {
		return nil, err
	}
	w := &mgmtWaiter{ch: make(chan mgmtReply, 1)}
	if changes(kind) {
		// A node refuses a second change while the first is not done, with an answer
		// that could be taken for that of the first.
		select {
		case c.change <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("client: %s has not answered an earlier request yet: %w", c.addr, ctx.Err())
		}
	}
	if err := c.enqueue(req, w, kind); err != nil {
		if changes(kind) {
			<-c.change
		}
		return nil, err
	}
	select {
	case r := <-w.ch:
		return r.ack, r.err
	case <-ctx.Done():
		// The waiter keeps its place: the answer still has to be matched in order.
		c.mu.Lock()
		c.unheard(w.at)
		c.mu.Unlock()
		return nil, fmt.Errorf("client: no answer from %s: %w", c.addr, ctx.Err())
	}
}

// enqueue puts a management message into the writer's queue, in order with the
// operations; w, if any, waits for an answer of the kind.
func (c *Conn) enqueue(req *cachepb.MgmtRequest, w *mgmtWaiter, kind int) error {
	body, err := proto.Marshal(&cachepb.CacheRequest{Method: &cachepb.CacheRequest_MgmtReq{MgmtReq: req}})
	if err != nil {
		return err
	}
	c.mu.Lock()
	if c.down != nil {
		err := c.down
		c.mu.Unlock()
		return err
	}
	if len(c.mgmt[kind]) >= mgmtWindow || c.outbox.bytes() >= c.cfg.WindowBytes {
		c.stats.Full++
		c.mu.Unlock()
		return ErrFull
	}
	if w != nil {
		w.at = c.now()
		c.mgmt[kind] = append(c.mgmt[kind], w)
	}
	c.outbox.addMgmt(body)
	c.mu.Unlock()
	c.wakeWriter()
	return nil
}

// dropMgmt forgets every management waiter and returns them. mu is held.
func (c *Conn) dropMgmt() []*mgmtWaiter {
	var all []*mgmtWaiter
	for kind := range c.mgmt {
		all = append(all, c.mgmt[kind]...)
		if changes(kind) {
			for range c.mgmt[kind] {
				<-c.change
			}
		}
		c.mgmt[kind] = nil
	}
	return all
}

// handleMgmt handles one MgmtAck: an answer, or unsolicited news of the leader.
func (c *Conn) handleMgmt(b []byte) {
	ack := new(cachepb.MgmtAck)
	if err := proto.Unmarshal(b, ack); err != nil {
		c.mu.Lock()
		c.stats.Unmatched++
		c.mu.Unlock()
		return
	}
	var kind int
	switch m := ack.Method.(type) {
	case *cachepb.MgmtAck_LeaderInfo:
		if c.cfg.OnLeader != nil {
			c.cfg.OnLeader(c.addr, m.LeaderInfo)
		}
		return
	case *cachepb.MgmtAck_Pong:
		kind = mgmtPong
	case *cachepb.MgmtAck_HealthAck:
		kind = mgmtHealth
	case *cachepb.MgmtAck_LeaderSwitchAck:
		kind = mgmtSwitch
	case *cachepb.MgmtAck_Done:
		kind = mgmtDone
	default:
		c.mu.Lock()
		c.stats.Unmatched++
		c.mu.Unlock()
		return
	}
	c.mu.Lock()
	var w *mgmtWaiter
	if q := c.mgmt[kind]; len(q) > 0 {
		w, c.mgmt[kind] = q[0], q[1:]
		if changes(kind) {
			<-c.change
		}
	} else {
		c.stats.Unmatched++
	}
	c.mu.Unlock()
	if w != nil {
		w.ch <- mgmtReply{ack: ack}
	}
}

// failMgmt gives an Error that names no operation to the management request that
// waits: of those that can fail a node carries out one at a time. mu is held.
func (c *Conn) failMgmt(v *ackView) bool {
	kind := mgmtSwitch
	if len(c.mgmt[kind]) == 0 {
		kind = mgmtDone
	}
	q := c.mgmt[kind]
	if v.kind != ackError || v.hasID || v.key != nil || len(q) == 0 {
		return false
	}
	c.mgmt[kind] = q[1:]
	<-c.change
	q[0].ch <- mgmtReply{err: &MgmtError{Addr: c.addr, Code: v.code, Detail: string(v.reason())}}
	return true
}

// StateName is the name of a node's state as the contract has it.
func StateName(s *cachepb.State) string {
	switch s.GetValue().(type) {
	case *cachepb.State_Leader:
		return "leader"
	case *cachepb.State_LeaderDead:
		return "leader_dead"
	case *cachepb.State_LeaderSwitch:
		return "leader_switch"
	case *cachepb.State_LeaderTxAwait:
		return "leader_tx_await"
	case *cachepb.State_LeadershipRequested:
		return "leadership_requested"
	case *cachepb.State_Follower:
		return "follower"
	}
	return "undefined"
}

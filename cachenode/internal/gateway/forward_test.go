package gateway_test

import (
	"fmt"
	"testing"
	"testing/cryptotest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/replication/replicationtest"
	"github.com/hacache/hacache/proto/cachepb"
)

// outstanding is a cluster in which a follower has forwarded four operations of each kind, whose forwards were eaten.
type outstanding struct {
	*world
	eat     bool
	sent    []*cachepb.CacheRequest
	answers []*answer
	n, l    *replicationtest.Node
}

func newOutstanding(t *testing.T) *outstanding {
	cryptotest.SetGlobalRandom(t, 1)
	o := &outstanding{}
	o.world = newWorld(t, replicationtest.Options{Seed: 1, Nodes: 3, Eat: func(m proto.Message) bool {
		req, ok := m.(*cachepb.CacheRequest)
		if !o.eat || !ok || req.GetMgmtReq() != nil || req.GetReplicate() != nil {
			return false
		}
		o.sent = append(o.sent, proto.Clone(req).(*cachepb.CacheRequest))
		return true
	}})
	o.start()
	o.n, o.l = o.follower(), o.sim.Leader()
	o.n.Step(func() { o.submit(o.n, insertOf("opens the session", "", nil)) })
	o.sim.Run(50 * time.Millisecond)
	o.eat = true
	o.n.Step(func() {
		for i := range 4 {
			key, short := fmt.Sprint("k", i), &cachepb.OpTag{DeadlineMs: 1000}
			o.answers = append(o.answers, o.submit(o.n, insertOf(key, "v", short)), o.submit(o.n, putOf(key, "w")),
				o.submit(o.n, removeOf(key, short)), o.submit(o.n, delOf(key)))
		}
	})
	o.sim.Run(10 * time.Millisecond)
	return o
}

// names returns the names of the forwards that were eaten, in order.
func (o *outstanding) names() []string {
	var names []string
	for _, req := range o.sent {
		for _, item := range append([]*cachepb.CacheRequest{req}, req.GetBatch().GetItems()...) {
			switch m := item.GetMethod().(type) {
			case *cachepb.CacheRequest_Put:
				names = append(names, m.Put.GetReqId())
			case *cachepb.CacheRequest_Insert:
				names = append(names, m.Insert.GetReqId())
			case *cachepb.CacheRequest_Del:
				names = append(names, m.Del.GetReqId())
			case *cachepb.CacheRequest_Remove:
				names = append(names, m.Remove.GetReqId())
			}
		}
	}
	return names
}

// What the second byte of an answer in a script says, beside its code.
const (
	answerYes  = 0x80
	answerRest = 0x40 // and all that follow
	answerDel  = 0x20 // in a DelAck
)

// scripted returns the answer of two bytes: about which forward, and what.
func scripted(names []string, about, what byte) *cachepb.Ack {
	ref := "nothing"
	if int(about) < len(names) {
		ref = names[about]
	}
	if what&answerRest != 0 {
		ref += "+"
	}
	yes, out := what&answerYes != 0, &cachepb.Outcome{Code: cachepb.Code(what & 0x1f), Index: uint64(about), Term: 2}
	if what&answerDel != 0 {
		return &cachepb.Ack{Method: &cachepb.Ack_DelAck{DelAck: &cachepb.DelAck{ReqId: &ref, ModRes: &yes, Outcome: out}}}
	}
	return &cachepb.Ack{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{ReqId: &ref, ModRes: &yes, Outcome: out}}}
}

// FuzzPeers proves that nothing that another node says, in forwards or in answers to them, ends a gateway, makes it answer
// an operation twice or not at all, or makes it forget to go on. The requests go to the leader or to a follower. The acks
// go to a follower with operations on their way, as from its leader: first those of a script, two bytes each, then others.
func FuzzPeers(f *testing.F) {
	marshal := func(m proto.Message) []byte {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		return data
	}
	overloaded, notLeader := byte(cachepb.Code_OVERLOADED), byte(cachepb.Code_NOT_LEADER)
	f.Add(false, []byte{}, []byte{}, []byte{})
	f.Add(false, []byte{}, []byte{0, answerYes, 5, overloaded | answerRest, 1, notLeader, 15, byte(cachepb.Code_INVALID)}, []byte{})
	f.Add(false, []byte{}, []byte{3, notLeader | answerRest, 0, overloaded | answerRest, 2, answerYes | answerDel}, []byte{})
	f.Add(true, marshal(&cachepb.Requests{Items: []*cachepb.CacheRequest{
		putOf("k0", "x"),
		{Method: &cachepb.CacheRequest_Batch{Batch: &cachepb.Requests{Items: []*cachepb.CacheRequest{putOf("k", "v"), {}}}}},
		insertOf("k1", "x", &cachepb.OpTag{Session: 9, Seq: 1, Forwarded: true}),
		{Method: &cachepb.CacheRequest_Get{Get: &cachepb.Get{CacheName: "c", Entry: "k", Read: &cachepb.ReadTag{ReqId: "1"}}}},
	}}), []byte{}, marshal(&cachepb.Acks{Items: []*cachepb.Ack{
		{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{ReqId: "1"}}}, {Method: &cachepb.Ack_Batch{Batch: &cachepb.Acks{}}}, {},
	}}))
	f.Fuzz(func(t *testing.T, toLeader bool, requests, script, acks []byte) {
		reqs, as := &cachepb.Requests{}, &cachepb.Acks{}
		if len(script) > 64 || proto.Unmarshal(requests, reqs) != nil || proto.Unmarshal(acks, as) != nil {
			return
		}
		o := newOutstanding(t)
		for names := o.names(); len(script) > 1; script = script[2:] {
			as.Items = append(as.Items, scripted(names, script[0], script[1]))
		}
		to, from := o.n, o.l
		if toLeader {
			to, from = o.l, o.n
		}
		for _, req := range reqs.GetItems() {
			to.Step(func() { o.nodes[to].gw.PeerRequest(from.Slot(), from.Core.ID(), req) })
		}
		for _, ack := range as.GetItems() {
			o.n.Step(func() { o.nodes[o.n].gw.PeerAck(o.l.Slot(), o.l.Core.ID(), ack) })
		}
		o.eat = false
		if err := o.sim.Run(4 * time.Second); err != nil {
			t.Fatal(err)
		}
		var after *answer
		o.n.Step(func() { after = o.submit(o.n, insertOf("after", "v", nil)) })
		o.sim.Run(time.Second)
		if o.err != nil {
			t.Fatal(o.err)
		}
		for _, a := range append(o.answers, after) {
			if a.got != 1 {
				t.Errorf("%s: %d answers", a.what, a.got)
			}
		}
		if !after.ack.GetPutAck().GetModRes() {
			t.Errorf("an operation after it: %v", after.ack)
		}
		for node, whole := range o.nodes {
			if s := whole.gw.Stats(); s.PendingBytes != 0 || s.OverlayBytes != 0 || s.Queued != 0 {
				t.Errorf("node %d: %d operations of %d bytes, %d in the overlay", node.Slot(), s.Queued, s.PendingBytes, s.OverlayBytes)
			}
		}
	})
}

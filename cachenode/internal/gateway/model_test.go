package gateway_test

import (
	"fmt"
	"testing"
	"testing/cryptotest"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/hacache/hacache/cachenode/internal/gateway"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/replication/replicationtest"
	"github.com/hacache/hacache/proto/cachepb"
)

// promise is an operation in the eyes of its client. Its value is its own, so that it is known wherever it appears.
type promise struct {
	n       int // order at its gateway
	slot    int
	kind    string
	level   string
	key     string
	value   string // or the name of the removal
	at      time.Duration
	answers int
	code    cachepb.Code
	ackedAt time.Duration
	leaders uint64 // how many there had been when it was acknowledged
	tag     string // under which it came into the log; "" if it did not
}

func (p *promise) deletes() bool { return p.kind == "del" || p.kind == "remove" }
func (p *promise) waits() bool   { return p.kind == "insert" || p.kind == "remove" }
func (p *promise) acked() bool   { return p.answers > 0 && p.code == cachepb.Code_OK }
func (p *promise) refused() bool {
	return p.answers > 0 && p.code != cachepb.Code_OK && p.code != cachepb.Code_INDETERMINATE
}

// binding reports whether whoever reads at its gateway has to see the operation, or a later one.
func (p *promise) binding(now time.Duration, leaders uint64) bool {
	switch {
	case !p.acked():
		return false
	case p.tag != "" || p.waits() && p.level == "quorum":
		return true
	case p.waits():
		return p.leaders == leaders // one that is replaced may take the operation with it
	case p.kind == "put":
		return now-p.at < 2*time.Second
	default:
		return now-p.at < time.Minute
	}
}

// promises is the model of what gateways promise to clients that each keep to one node and keys of their own. It knows
// nothing of logs and leaders but how many there were.
type promises struct {
	*world
	rt      *rapid.T
	made    map[string][]*promise // by key
	byValue map[string]*promise
	tags    map[string]*promise
	void    map[string]bool // tags of entries without effect: their session had been forgotten
	renewed uint64          // sessions that the gateway had renewed before the entry that it applies
	n       int
	down    map[int]bool // nodes that are isolated
	cluster uint64
}

const keysEach = 2

func newPromises(t *testing.T, rt *rapid.T, seed uint64) *promises {
	cryptotest.SetGlobalRandom(t, seed)
	p := &promises{
		rt: rt, made: map[string][]*promise{}, byValue: map[string]*promise{}, tags: map[string]*promise{},
		void: map[string]bool{}, down: map[int]bool{},
	}
	opt := replicationtest.Options{Seed: seed, Nodes: 3, Batch: rapid.Bool().Draw(rt, "batches"), Eat: func(m proto.Message) bool {
		if req, ok := m.(*cachepb.CacheRequest); ok {
			p.watchForwards(req)
		}
		return false
	}}
	if rapid.Bool().Draw(rt, "small log") {
		opt.LogRetainEntries = 8
	}
	p.world = newWorld(t, opt, func(c *gateway.Config) {
		if rapid.IntRange(0, 3).Draw(rt, "small queues") == 0 {
			c.MaxBytes = 8 << 10
		}
	})
	p.applying = func(n *replicationtest.Node, index uint64, b *cachepb.Batch) {
		p.watchLog(index, b)
		p.renewed = p.nodes[n].gw.Stats().SessionsRenewed
	}
	p.applied = p.watchSession
	p.start()
	p.cluster = p.sim.Leader().Core.Cluster()
	return p
}

func valueOf(req *cachepb.CacheRequest) (value string, tag *cachepb.OpTag) {
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Put:
		return string(m.Put.GetValue()), m.Put.GetOp()
	case *cachepb.CacheRequest_Insert:
		return string(m.Insert.GetValue()), m.Insert.GetOp()
	case *cachepb.CacheRequest_Del:
		return removalOf(m.Del.GetOp()), m.Del.GetOp()
	case *cachepb.CacheRequest_Remove:
		return removalOf(m.Remove.GetOp()), m.Remove.GetOp()
	}
	return "", nil
}

// removalOf names a removal by its ttl, which has no effect and goes wherever it goes.
func removalOf(tag *cachepb.OpTag) string { return fmt.Sprint("removal ", tag.GetTtlMs()) }

// watchForwards asserts that what was answered at leader or once is never sent again.
func (p *promises) watchForwards(req *cachepb.CacheRequest) {
	for _, item := range append([]*cachepb.CacheRequest{req}, req.GetBatch().GetItems()...) {
		value, _ := valueOf(item)
		if o := p.byValue[value]; o != nil && o.waits() && o.acked() && o.ackedAt < p.sim.Now() {
			p.fail("%s is sent again after it was acknowledged at %s", o, o.level)
		}
	}
}

func tagName(tag *cachepb.OpTag) string { return fmt.Sprintf("%x/%d", tag.GetSession(), tag.GetSeq()) }

// watchSession learns which entries had no effect because nobody knew the session any more. Its gateway takes another one
// then, while it applies the entry, and sends the operation again under that.
func (p *promises) watchSession(n *replicationtest.Node, _ uint64, b *cachepb.Batch) {
	if p.nodes[n].gw.Stats().SessionsRenewed == p.renewed {
		return
	}
	for _, req := range b.GetOps() {
		value, tag := valueOf(req)
		if o := p.byValue[value]; o != nil && p.node(o.slot) == n && o.tag == tagName(tag) {
			p.void[o.tag], o.tag = true, ""
		}
	}
}

// watchLog asserts that an operation comes into the log under one tag only, unless that had no effect, so that it takes
// effect at most once, and not at all if it was refused.
func (p *promises) watchLog(index uint64, b *cachepb.Batch) {
	for _, req := range b.GetOps() {
		value, tag := valueOf(req)
		o, name := p.byValue[value], tagName(tag)
		if o == nil || p.void[name] {
			continue
		}
		switch other := p.tags[name]; {
		case other != nil && other != o:
			p.fail("%s and %s are both in the log as %s", o, other, name)
		case o.tag != "" && o.tag != name:
			p.fail("%s is in the log as %s and as %s", o, o.tag, name)
		case o.refused():
			p.fail("%s is in the log at %d, and was refused with %v", o, index, o.code)
		}
		o.tag, p.tags[name] = name, o
	}
}

func (p *promise) String() string {
	return fmt.Sprintf("%s %d of %s at %v", p.kind, p.n, p.key, p.at)
}

func (p *promises) node(slot int) *replicationtest.Node { return p.sim.Node(slot) }

// submit hands an operation to any node, submitAt to one.
func (p *promises) submit(kind string) { p.submitAt(rapid.IntRange(0, 2).Draw(p.rt, "node"), kind) }

func (p *promises) submitAt(slot int, kind string) {
	n, keyN := p.node(slot), rapid.IntRange(0, keysEach-1).Draw(p.rt, "key")
	p.n++
	o := &promise{n: p.n, slot: slot, kind: kind, key: fmt.Sprintf("%d.%d", slot, keyN), value: fmt.Sprint("v", p.n), at: p.sim.Now()}
	tag := &cachepb.OpTag{}
	if o.deletes() {
		tag.TtlMs = uint32(p.n)
		o.value = removalOf(tag)
	}
	id := fmt.Sprint("id", p.n)
	var req *cachepb.CacheRequest
	switch kind {
	case "put":
		req = putOf(o.key, o.value)
		req.GetPut().Op, req.GetPut().ReqId = tag, &id
	case "del":
		req = delOf(o.key)
		req.GetDel().Op, req.GetDel().ReqId = tag, &id
	case "insert":
		o.level = rapid.SampledFrom([]string{"quorum", "once", "leader"}).Draw(p.rt, "level")
		req = insertOf(o.key, o.value, tag)
		req.GetInsert().ReqId, req.GetInsert().AckLevel = id, levelOf(o.level)
	case "remove":
		o.level = rapid.SampledFrom([]string{"quorum", "once", "leader"}).Draw(p.rt, "level")
		req = removeOf(o.key, tag)
		req.GetRemove().ReqId, req.GetRemove().AckLevel = id, levelOf(o.level)
	}
	p.byValue[o.value] = o
	a := &answer{w: p.world, what: o.String(), done: func(ack *cachepb.Ack) { p.answered(o, id, ack) }}
	n.Step(func() {
		// Later than it was sent if the process was paused, and perhaps in another order.
		o.at, p.made[o.key] = p.sim.Now(), append(p.made[o.key], o)
		p.nodes[n].gw.Submit(replication.Submission{To: a, Req: req})
	})
}

func levelOf(level string) *cachepb.AckLevel {
	switch level {
	case "once":
		return &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelOnce{LevelOnce: &cachepb.Empty{}}}
	case "leader":
		return &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelLeader{LevelLeader: &cachepb.Empty{}}}
	}
	return nil
}

// answered asserts that an answer is of its operation's kind, in time, and honest about the outcome.
func (p *promises) answered(o *promise, id string, ack *cachepb.Ack) {
	var got string
	var ok bool
	var out *cachepb.Outcome
	if o.deletes() {
		got, ok, out = ack.GetDelAck().GetReqId(), ack.GetDelAck().GetModRes(), ack.GetDelAck().GetOutcome()
	} else {
		got, ok, out = ack.GetPutAck().GetReqId(), ack.GetPutAck().GetModRes(), ack.GetPutAck().GetOutcome()
	}
	o.answers++
	o.code, o.ackedAt, o.leaders = out.GetCode(), p.sim.Now(), p.sim.Count.LeaderChanges
	switch waited := p.sim.Now() - o.at; {
	case got != id || ok != (o.code == cachepb.Code_OK):
		p.fail("%s is answered with %v", o, ack)
	case waited > 3100*time.Millisecond:
		p.fail("%s is answered after %v", o, waited)
	case !o.waits() && waited > 10*time.Millisecond:
		p.fail("%s is answered after %v and not on arrival", o, waited)
	case o.refused() && o.tag != "":
		p.fail("%s is in the log and refused with %v", o, o.code)
	case o.acked() && o.waits() && o.level == "quorum" && o.tag == "":
		p.fail("%s is acknowledged at quorum and in no log", o)
	}
}

// read asserts that a client which reads where it writes sees the last of its operations that it may rely on, or a later one.
func (p *promises) read() {
	for slot := range 3 {
		n := p.node(slot)
		for k := range keysEach {
			key := fmt.Sprintf("%d.%d", slot, k)
			n.Step(func() {
				ack := p.nodes[n].gw.Get(viewOf(n), n.Core.Now(), &cachepb.Get{CacheName: "c", Entry: key}).GetGetAck()
				if ack.GetOutcome().GetCode() != cachepb.Code_NOT_FRESH {
					p.check(key, ack)
				}
			})
		}
	}
}

func (p *promises) check(key string, ack *cachepb.GetAck) {
	made := p.made[key]
	last := -1
	for i, o := range made {
		if o.binding(p.sim.Now(), p.sim.Count.LeaderChanges) {
			last = i
		}
	}
	for _, o := range made[max(last, 0):] {
		if o.refused() {
			continue
		}
		if o.deletes() && ack.Value == nil || !o.deletes() && ack.Value != nil && string(ack.Value) == o.value {
			return
		}
	}
	if last < 0 && ack.Value == nil {
		return
	}
	history := ""
	for _, o := range made {
		history += fmt.Sprintf("\n  %s %s: %d answers, %v at %v, %d leaders, in the log as %q", o, o.level, o.answers, o.code, o.ackedAt, o.leaders, o.tag)
	}
	p.fail("%s reads %q with %d leaders, want what %s made of it or a later one%s", key, ack.Value, p.sim.Count.LeaderChanges, made[max(last, 0)], history)
}

// pass lets time go by.
func (p *promises) pass(d time.Duration) {
	if err := p.sim.Run(d); err != nil {
		p.rt.Fatal(err)
	}
}

func (p *promises) healed() bool { return len(p.down) == 0 && p.sim.Healthy() }

// TestPromises holds gateways to what they promise, whatever is asked of them and whatever breaks between them: one answer
// each, of its kind and in time; a client reads its own writes where it makes them, at every level, and no older one hides a
// newer one; what was refused for good is in no log and what was acknowledged at quorum is; an operation comes into the log
// under one tag only; what was answered at its level is not sent again; a Put is kept for two seconds and a Del for a minute,
// and those that are given up are counted.
func TestPromises(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := newPromises(t, rt, rapid.Uint64Range(1, 1<<20).Draw(rt, "seed"))
		actions := map[string]func(*rapid.T){
			"": func(*rapid.T) {
				p.read()
				if p.err != nil {
					rt.Fatal(p.err)
				}
			},
			"isolate": func(*rapid.T) {
				if len(p.down) > 0 {
					return // one at a time: what has a majority is kept
				}
				slot := rapid.IntRange(0, 2).Draw(rt, "node")
				if rapid.Bool().Draw(rt, "while something is on its way") {
					p.submitAt(rapid.IntRange(0, 2).Draw(rt, "from"), rapid.SampledFrom([]string{"put", "insert", "insert", "remove"}).Draw(rt, "kind"))
					p.pass(time.Duration(rapid.IntRange(0, 2000).Draw(rt, "us")) * time.Microsecond)
				}
				p.sim.Isolate(slot, true)
				p.down[slot] = true
			},
			"heal": func(*rapid.T) {
				for slot := range p.down {
					p.sim.Isolate(slot, false)
				}
				clear(p.down)
			},
			"break": func(*rapid.T) {
				a, b := rapid.IntRange(0, 2).Draw(rt, "from"), rapid.IntRange(0, 2).Draw(rt, "to")
				p.sim.Break(a, b, replication.Lane(rapid.IntRange(0, 1).Draw(rt, "lane")))
			},
			"hand over": func(*rapid.T) {
				if l := p.sim.Leader(); l != nil {
					l.Step(func() { l.Core.Transfer(-1) })
				}
			},
			"pause": func(*rapid.T) {
				p.sim.Pause(rapid.IntRange(0, 2).Draw(rt, "node"), time.Duration(rapid.IntRange(1, 400).Draw(rt, "ms"))*time.Millisecond)
			},
			"pass": func(*rapid.T) {
				p.pass(rapid.SampledFrom([]time.Duration{
					100 * time.Microsecond, time.Millisecond, time.Millisecond, time.Millisecond, 5 * time.Millisecond, 5 * time.Millisecond,
					50 * time.Millisecond, 50 * time.Millisecond, 300 * time.Millisecond, 2100 * time.Millisecond, 3200 * time.Millisecond,
				}).Draw(rt, "time"))
			},
			"idle": func(*rapid.T) {
				if rapid.IntRange(0, 9).Draw(rt, "for long") == 0 {
					p.pass(31 * time.Second)
				}
			},
		}
		for _, kind := range []string{"put", "del", "insert", "remove"} {
			actions[kind] = func(*rapid.T) { p.submit(kind) }
			actions["another "+kind] = actions[kind] // often
		}
		rt.Repeat(actions)
		actions["heal"](rt)
		p.pass(3 * time.Second)
		if err := p.sim.RunUntil(5*time.Second, "healthy at the end", p.healed); err != nil {
			rt.Fatal(err)
		}
		for _, o := range p.byValue {
			if o.kind == "del" && o.acked() && o.tag == "" && o.at+62*time.Second > p.sim.Now() {
				p.pass(o.at + 62*time.Second - p.sim.Now()) // it has been given up
			}
		}
		p.finish()
		if p.err != nil {
			rt.Fatal(p.err)
		}
	})
}

// finish looks at what is left when every patience is over.
func (p *promises) finish() {
	p.read()
	lost := map[int]uint64{}
	for _, o := range p.byValue {
		if o.answers != 1 {
			p.fail("%s has %d answers", o, o.answers)
		}
		if !o.waits() && o.acked() && o.tag == "" {
			lost[int(o.key[0]-'0')]++
		}
	}
	var hash uint64
	for slot := range 3 {
		n := p.node(slot)
		s := p.nodes[n].gw.Stats()
		if s.PendingBytes != 0 || s.OverlayBytes != 0 || s.Queued != 0 {
			p.fail("node %d keeps %d operations of %d bytes, %d in the overlay", slot, s.Queued, s.PendingBytes, s.OverlayBytes)
		}
		if s.PutsLost < lost[slot] {
			p.fail("node %d has given up %d operations at least and counts %d", slot, lost[slot], s.PutsLost)
		}
		if _, h := p.nodes[n].store.Digest(); slot == 0 {
			hash = h
		} else if h != hash {
			p.fail("node %d has another state than node 0", slot)
		}
	}
	if cluster := p.node(0).Core.Cluster(); cluster != p.cluster {
		p.fail("the cluster was formed anew")
	}
}

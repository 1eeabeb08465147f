package gateway_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/hacache/hacache/cachenode/internal/gateway"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/replication/replicationtest"
	"github.com/hacache/hacache/proto/cachepb"
)

// ---- histories of registers

// registerOp is the input of an operation on one key: it writes a value, "" if it removes the key, or reads.
type registerOp struct {
	read  bool
	value string
}

// register is a register in porcupine's terms. Its state and the output of a read are the value, "" for none.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		op := input.(registerOp)
		if op.read {
			return output == state, state
		}
		return true, op.value
	},
}

// history records the operations on each key.
type history struct {
	now func() time.Duration
	ops map[string][]porcupine.Operation
}

const (
	forever = math.MaxInt64
	refused = "refused" // the output of a write that surely has no effect
)

// invoke records an operation that has begun, and returns how to record its end: never, if it is not called. An operation
// whose end is not known may take effect at any time.
func (h *history) invoke(key string, op registerOp) (end func(output string)) {
	i := len(h.ops[key])
	h.ops[key] = append(h.ops[key], porcupine.Operation{ClientId: i, Input: op, Output: "", Call: int64(h.now()), Return: forever})
	return func(output string) {
		h.ops[key][i].Output, h.ops[key][i].Return = output, int64(h.now())
	}
}

// check looks for an order of the operations on each key in which each takes effect between its beginning and its end.
// Porcupine would check all keys at once, each on a goroutine of its own; this is one after the other.
//
// What was refused is left out, and reads without an answer. So is a write that has no end and that no read has seen. That changes no verdict: it can be put behind
// everything else, and taken out of any order in which it is. It saves the search from trying all sets of them.
func (h *history) check() error {
	for key, ops := range h.ops {
		seen := map[string]bool{}
		for _, o := range ops {
			if o.Input.(registerOp).read {
				seen[o.Output.(string)] = true
			}
		}
		ops = slices.DeleteFunc(slices.Clone(ops), func(o porcupine.Operation) bool {
			op := o.Input.(registerOp)
			return !op.read && o.Output == refused || o.Return == forever && (op.read || !seen[op.value])
		})
		if got := porcupine.CheckOperationsTimeout(register, ops, 20*time.Second); got != porcupine.Ok {
			return fmt.Errorf("%d operations on %s are not linearizable: %v\n%s", len(ops), key, got, describe(ops))
		}
	}
	return nil
}

func describe(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	out := ""
	for _, o := range ops {
		end := "?"
		if o.Return != forever {
			end = time.Duration(o.Return).String()
		}
		if op := o.Input.(registerOp); op.read {
			out += fmt.Sprintf("  %v to %s: read %q\n", time.Duration(o.Call), end, o.Output)
		} else {
			out += fmt.Sprintf("  %v to %s: write %q\n", time.Duration(o.Call), end, op.value)
		}
	}
	return out
}

// TestRegisterHistories proves the checker on histories made by hand.
func TestRegisterHistories(t *testing.T) {
	type step struct {
		op         registerOp
		call, ret  int64
		output     string
		unfinished bool
	}
	write := func(v string, call, ret int64) step { return step{op: registerOp{value: v}, call: call, ret: ret} }
	open := func(v string, call int64) step {
		return step{op: registerOp{value: v}, call: call, unfinished: true}
	}
	read := func(v string, call, ret int64) step {
		return step{op: registerOp{read: true}, call: call, ret: ret, output: v}
	}
	for _, tc := range []struct {
		name  string
		steps []step
		ok    bool
	}{
		{"one after the other", []step{write("a", 1, 2), read("a", 3, 4), write("", 5, 6), read("", 7, 8)}, true},
		{"a read misses what was written", []step{write("a", 1, 2), read("", 3, 4)}, false},
		{"an old value comes back", []step{write("a", 1, 2), write("b", 3, 4), read("a", 5, 6)}, false},
		{"concurrent writes, either order", []step{write("a", 1, 9), write("b", 1, 9), read("b", 3, 4), read("a", 5, 6)}, true},
		{"but not to and fro", []step{write("a", 1, 9), write("b", 1, 9), read("b", 3, 4), read("a", 5, 6), read("b", 7, 8)}, false},
		{"an unknown write is seen late", []step{open("a", 1), read("", 5, 6), read("a", 7, 8)}, true},
		{"and not taken back", []step{open("a", 1), read("a", 5, 6), read("", 7, 8)}, false},
		{"an unknown removal may do that", []step{open("a", 1), open("", 2), read("a", 5, 6), read("", 7, 8)}, true},
		{"an unknown write is not seen before it was made", []step{read("a", 1, 2), open("a", 3)}, false},
		{"a value that nobody wrote", []step{write("a", 1, 2), read("b", 3, 4)}, false},
		{"two removals hide one write once", []step{write("a", 1, 2), open("", 3), read("", 4, 5), read("a", 6, 7)}, false},
	} {
		h := &history{ops: map[string][]porcupine.Operation{}}
		for _, s := range tc.steps {
			ret := s.ret
			if s.unfinished {
				ret = forever
			}
			h.ops["k"] = append(h.ops["k"], porcupine.Operation{Input: s.op, Output: s.output, Call: s.call, Return: ret})
		}
		if err := h.check(); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// ---- histories of a cluster

// clients let operations on a few keys at a time loose on all nodes, many writers to each key. Each of them waits for its
// answer before it goes on, so that not everything is concurrent with everything when nobody leads.
type clients struct {
	*world
	history history
	idle    int
	n       int
	local   bool // reads are local ones, which are not linearizable
	counts  map[string]int
}

func newClients(w *world) *clients {
	return &clients{world: w, idle: 16, history: history{now: w.sim.Now, ops: map[string][]porcupine.Operation{}}, counts: map[string]int{}}
}

// step begins one operation. A key lives for half a second, so that what remains unknown of it stays little.
func (c *clients) step() {
	rng := c.sim.Rand()
	n := c.sim.Node(rng.IntN(len(c.sim.Hosts())))
	if n == nil || c.idle == 0 {
		return
	}
	c.n++
	key := fmt.Sprintf("%d.%d", c.sim.Now()/(500*time.Millisecond), rng.IntN(4))
	value := fmt.Sprint("v", c.n)
	switch rng.IntN(20) {
	case 0: // acknowledged before it is ordered: it may take effect later than that
		c.history.invoke(key, registerOp{value: value})
		c.do(n, putOf(key, value), func(*cachepb.Ack) {})
	case 1:
		c.history.invoke(key, registerOp{})
		c.do(n, delOf(key), func(*cachepb.Ack) {})
	case 2, 3:
		c.write(n, key, "", removeOf(key, nil))
	case 4, 5, 6, 7, 8, 9:
		c.write(n, key, value, insertOf(key, value, nil))
	default:
		c.read(n, key)
	}
}

// do lets a client wait for the answer to a request. With its node it goes away, and another one comes.
func (c *clients) do(n *replicationtest.Node, req *cachepb.CacheRequest, done func(*cachepb.Ack)) {
	c.idle--
	waits := true
	end := func() {
		if waits {
			waits = false
			c.idle++
		}
	}
	c.sim.At(3500*time.Millisecond, end)
	a := &answer{w: c.world, what: fmt.Sprint(req), done: func(ack *cachepb.Ack) { done(ack); end() }}
	n.Step(func() { c.nodes[n].gw.Submit(replication.Submission{To: a, Req: req}) })
}

func (c *clients) write(n *replicationtest.Node, key, value string, req *cachepb.CacheRequest) {
	end := c.history.invoke(key, registerOp{value: value})
	c.do(n, req, func(ack *cachepb.Ack) {
		out := ack.GetPutAck().GetOutcome()
		if ack.GetDelAck() != nil {
			out = ack.GetDelAck().GetOutcome()
		}
		c.counts["write "+out.GetCode().String()]++
		switch out.GetCode() {
		case cachepb.Code_OK:
			end("")
		case cachepb.Code_INDETERMINATE:
		default:
			end(refused)
		}
	})
}

func (c *clients) read(n *replicationtest.Node, key string) {
	end := c.history.invoke(key, registerOp{read: true})
	get := &cachepb.Get{CacheName: "c", Entry: key}
	answered := func(ack *cachepb.GetAck) {
		c.counts["read "+ack.GetOutcome().GetCode().String()]++
		if ack.GetOutcome().GetCode() == cachepb.Code_OK {
			end(string(ack.GetValue()))
		}
	}
	if c.local {
		n.Step(func() { answered(c.nodes[n].gw.Get(viewOf(n), n.Core.Now(), get).GetGetAck()) })
		return
	}
	get.Read = &cachepb.ReadTag{Mode: cachepb.ReadTag_LINEARIZABLE, ReqId: "x"}
	c.do(n, &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Get{Get: get}}, func(ack *cachepb.Ack) { answered(ack.GetGetAck()) })
}

// runClients lets the clients loose on a cluster of three through the faults of a schedule.
func runClients(t *testing.T, seed uint64, local bool) (*clients, error) {
	cryptotest.SetGlobalRandom(t, seed)
	opt := replicationtest.Options{Seed: seed, Nodes: 3, Batch: seed%3 == 2}
	switch seed % 3 {
	case 0:
		opt.Loss, opt.Duplicate, opt.Reorder = 0.01, 0.02, 0.02
	case 1:
		opt.LogRetainEntries = 8
	}
	c := newClients(newWorld(t, opt, func(cfg *gateway.Config) {
		if seed%4 == 3 {
			cfg.MaxBytes = 4 << 10 // some are refused, some have to wait
		}
	}))
	c.local = local
	err := replicationtest.RunSchedule(c.sim, replicationtest.Schedule{
		KeepMajority: true, Writes: 2 * time.Millisecond, Write: c.step, Check: func() error {
			if c.err != nil {
				return c.err
			}
			return c.history.check()
		},
	})
	return c, err
}

// TestLinearizable proves that Inserts and Removes at quorum and linearizable reads, by many writers at all nodes and
// through faults, are linearizable; Puts, Dels and what has no answer may take effect at any time or never, what was
// refused for good at none. GATEWAY_SEEDS=1-500 runs more; a failure names its seed.
func TestLinearizable(t *testing.T) {
	first, last := seeds(linearizableSeeds)
	total := map[string]int{}
	for seed := first; seed <= last; seed++ {
		c, err := runClients(t, seed, false)
		if err != nil {
			t.Errorf("seed %d: %v\nrepeat: GATEWAY_SEEDS=%d go test -run TestLinearizable ./cachenode/internal/gateway", seed, err, seed)
		}
		for what, n := range c.counts {
			total[what] += n
		}
	}
	t.Logf("%d schedules: %v", last-first+1, total)
}

// TestLinearizableBites proves that the check finds a history which is not: one of local reads.
func TestLinearizableBites(t *testing.T) {
	for seed := range uint64(linearizableSeeds) {
		if _, err := runClients(t, seed, true); err != nil {
			return
		}
	}
	t.Error("local reads passed for linearizable ones")
}

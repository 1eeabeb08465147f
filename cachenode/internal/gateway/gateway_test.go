package gateway_test

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/gateway"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/cachenode/internal/replication/replicationtest"
	"github.com/hacache/hacache/cachenode/internal/store"
	"github.com/hacache/hacache/proto/cachepb"
)

// traced is a gateway whose applied entries the simulation compares between nodes.
type traced struct {
	*gateway.Gateway
	w *world
	n *replicationtest.Node
}

func (t *traced) Apply(index, term uint64, data []byte) {
	t.w.sim.Applied(t.n, index, term, xxhash.Sum64(data))
	b := &cachepb.Batch{}
	_ = proto.Unmarshal(data, b)
	if t.w.applying != nil {
		t.w.applying(t.n, index, b)
	}
	t.Gateway.Apply(index, term, data)
	if t.w.applied != nil {
		t.w.applied(t.n, index, b)
	}
}

// world is a simulated cluster of whole nodes but for sockets: gateways, stores and cores.
type world struct {
	t     *testing.T
	sim   *replicationtest.Sim
	nodes map[*replicationtest.Node]*whole
	keys  map[string]*key
	names []string
	n     int

	counts map[string]int
	err    error

	// Told of each entry before and after the gateway is, if not nil.
	applying, applied func(n *replicationtest.Node, index uint64, b *cachepb.Batch)
}

type whole struct {
	gw    *gateway.Gateway
	store *store.Store
}

func newWorld(t *testing.T, opt replicationtest.Options, configure ...func(*gateway.Config)) *world {
	w := &world{t: t, nodes: map[*replicationtest.Node]*whole{}, keys: map[string]*key{}, counts: map[string]int{}}
	opt.Upper = func(n *replicationtest.Node) (replication.Driven, func(*replication.Core)) {
		cfg := gateway.Config{Store: store.New(store.Config{}), Transport: n, Rand: w.sim.Rand().Uint64, Logger: opt.Logger}
		for _, c := range configure {
			c(&cfg)
		}
		gw := gateway.New(cfg)
		w.nodes[n] = &whole{gw: gw, store: cfg.Store}
		return &traced{gw, w, n}, gw.Attach
	}
	w.sim = replicationtest.New(opt)
	for i := range 12 {
		name := fmt.Sprint("key", i)
		w.keys[name] = &key{name: name, outcomes: map[int]string{}}
		w.names = append(w.names, name)
	}
	return w
}

func (w *world) fail(format string, v ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("at %v: %s", w.sim.Now(), fmt.Sprintf(format, v...))
	}
}

// key has one writer, which writes ever higher versions, one at a time.
type key struct {
	name     string
	version  int
	busy     bool
	outcomes map[int]string // by version: ok-quorum, ok-..., fail, info
	quorum   []mark         // acknowledged at quorum, in order
	lastInfo int
}

type mark struct {
	version int
	cluster uint64
	at      time.Duration
}

// newest returns the newest version that a quorum of a cluster acknowledged before t.
func (k *key) newest(cluster uint64, t time.Duration) int {
	best := 0
	for _, m := range k.quorum {
		if m.at < t && m.cluster == cluster {
			best = max(best, m.version)
		}
	}
	return best
}

// answer is a Responder that must be called exactly once.
type answer struct {
	w    *world
	what string
	done func(*cachepb.Ack)
	got  int
	ack  *cachepb.Ack
}

func (a *answer) Deliver(ack *cachepb.Ack) {
	a.got++
	if a.got > 1 {
		a.w.fail("%s was answered %d times (I6)", a.what, a.got)
		return
	}
	a.done(ack)
}

// step lets one random client do one thing at one random node.
func (w *world) step() {
	rng := w.sim.Rand()
	n := w.sim.Node(rng.IntN(len(w.sim.Hosts())))
	if n == nil {
		return
	}
	k := w.keys[w.names[rng.IntN(len(w.names))]]
	if rng.IntN(3) == 0 {
		w.read(n, k)
		return
	}
	if !k.busy {
		w.write(n, k)
	}
}

func (w *world) write(n *replicationtest.Node, k *key) {
	rng := w.sim.Rand()
	k.version++
	k.busy = true
	version := k.version
	level := []string{"quorum", "quorum", "once", "leader"}[rng.IntN(4)]
	ins := &cachepb.Insert{CacheName: "c", Entry: k.name, Value: []byte(strconv.Itoa(version)), ReqId: "r" + strconv.Itoa(version)}
	switch level {
	case "once":
		ins.AckLevel = &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelOnce{LevelOnce: &cachepb.Empty{}}}
	case "leader":
		ins.AckLevel = &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelLeader{LevelLeader: &cachepb.Empty{}}}
	}
	a := &answer{w: w, what: fmt.Sprintf("insert %s=%d", k.name, version)}
	handedIn := w.sim.Now()
	finished := false
	a.done = func(ack *cachepb.Ack) {
		if finished {
			return
		}
		finished = true
		p := ack.GetPutAck()
		if p.GetReqId() != ins.GetReqId() {
			w.fail("%s: answered as %q", a.what, p.GetReqId())
		}
		out := "info"
		switch {
		case p.GetModRes():
			out = "ok-" + level
			if level == "quorum" {
				k.quorum = append(k.quorum, mark{version, p.GetOutcome().GetCluster(), w.sim.Now()})
				w.n++
				w.sim.Acked(uint64(w.n), p.GetOutcome().GetCluster(), p.GetOutcome().GetIndex(), handedIn)
			}
		case p.GetOutcome().GetCode() != cachepb.Code_INDETERMINATE:
			out = "fail"
		default:
			k.lastInfo = max(k.lastInfo, version)
		}
		k.outcomes[version] = out
		w.counts[out]++
		k.busy = false
	}
	n.Step(func() {
		w.nodes[n].gw.Submit(replication.Submission{To: a, Req: &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Insert{Insert: ins}}})
	})
	// The gateway may die with the operation: after a while nobody waits any more, and the outcome is unknown. One that is
	// paused has not even seen it.
	var giveUp func()
	giveUp = func() {
		if late := max(handedIn, n.PausedUntil()) + 4*time.Second - w.sim.Now(); !finished && late > 0 {
			w.sim.At(late, giveUp)
			return
		}
		if !finished {
			finished = true
			if w.sim.Node(n.Slot()) == n {
				w.fail("%s was not answered within 4 s by a node that lives (I6)", a.what)
			}
			k.outcomes[version], k.lastInfo, k.busy = "info", max(k.lastInfo, version), false
			w.counts["unanswered"]++
		}
	}
	giveUp()
}

// viewOf is what a runner would publish.
func viewOf(n *replicationtest.Node) *replication.View {
	asOf, fresh := n.Core.AsOf()
	base, baseAt := n.Core.ClusterTime()
	return &replication.View{
		AsOf: asOf, Fresh: fresh, ClusterMs: base, At: baseAt, Leader: n.Core.Leader(), Cluster: n.Core.Cluster(),
	}
}

func (w *world) read(n *replicationtest.Node, k *key) {
	rng := w.sim.Rand()
	at := w.sim.Now()
	get := &cachepb.Get{CacheName: "c", Entry: k.name}
	check := func(what string, cluster uint64, ack *cachepb.GetAck, bound time.Duration) {
		if ack.GetOutcome().GetCode() != cachepb.Code_OK {
			w.counts[what+" refused"]++
			return
		}
		w.counts[what]++
		got, _ := strconv.Atoi(string(ack.GetValue()))
		if want := k.newest(cluster, at-bound); got < want && k.outcomes[got] != "info" {
			w.fail("%s of %s at node %d returned version %d, %d was acknowledged at quorum %v before", what, k.name, n.Slot(), got, want, bound)
		}
	}
	if rng.IntN(2) == 0 {
		n.Step(func() {
			ack := w.nodes[n].gw.Get(viewOf(n), n.Core.Now(), get).GetGetAck()
			at = w.sim.Now()
			check("local read", n.Core.Cluster(), ack, 500*time.Millisecond)
		})
		return
	}
	get.Read = &cachepb.ReadTag{Mode: cachepb.ReadTag_LINEARIZABLE, ReqId: "x"}
	a := &answer{w: w, what: "linearizable read of " + k.name}
	a.done = func(ack *cachepb.Ack) {
		check("linearizable read", ack.GetGetAck().GetOutcome().GetCluster(), ack.GetGetAck(), 0)
	}
	n.Step(func() {
		w.nodes[n].gw.Submit(replication.Submission{To: a, Req: &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Get{Get: get}}})
	})
}

// check looks at the end of a run: what a quorum acknowledged is on every node, and the nodes agree.
func (w *world) check() error {
	if w.err != nil {
		return w.err
	}
	var hash uint64
	for slot := range w.sim.Hosts() {
		n := w.sim.Node(slot)
		st := w.nodes[n].store
		applied, h := st.Digest()
		if slot == 0 {
			hash = h
		}
		if h != hash {
			return fmt.Errorf("node %d has state %x at %d, node 0 has %x", slot, h, applied, hash)
		}
		for _, k := range w.keys {
			value, _, _ := st.Get("c", k.name, 0)
			got, _ := strconv.Atoi(cmp.Or(string(value), "0"))
			want := k.newest(n.Core.Cluster(), w.sim.Now())
			if got < want && k.outcomes[got] != "info" {
				return fmt.Errorf("node %d has %s=%d, %d was acknowledged at quorum (I5)", slot, k.name, got, want)
			}
			if strings.HasPrefix(k.outcomes[got], "fail") {
				return fmt.Errorf("node %d has %s=%d, which was refused with a definite code", slot, k.name, got)
			}
		}
	}
	return nil
}

// seeds returns the first and the last seed to run: GATEWAY_SEEDS=1-500, or 1 to n.
func seeds(n uint64) (first, last uint64) {
	first, last = 1, n
	if v := os.Getenv("GATEWAY_SEEDS"); v != "" {
		if n, _ := fmt.Sscanf(v, "%d-%d", &first, &last); n == 1 {
			last = first
		}
	}
	return first, last
}

// TestSchedules runs whole nodes through random faults with clients at every node: each operation is answered once, what
// a quorum acknowledged stays, nothing refused appears, local reads keep their bound and linearizable reads have none.
// GATEWAY_SEEDS=1-500 runs more; a failure names its seed.
func TestSchedules(t *testing.T) {
	first, last := seeds(seedsByDefault)
	total := map[string]int{}
	for seed := first; seed <= last; seed++ {
		cryptotest.SetGlobalRandom(t, seed)
		opt := replicationtest.Options{Seed: seed, Nodes: []int{3, 3, 5, 1}[seed%4]}
		if os.Getenv("SIM_LOG") != "" {
			opt.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
		}
		switch seed % 3 {
		case 1:
			opt.Loss, opt.Duplicate, opt.Reorder = 0.01, 0.02, 0.02
		case 2:
			opt.LogRetainEntries = 8
		}
		opt.Batch = seed%5 == 4
		w := newWorld(t, opt)
		err := replicationtest.RunSchedule(w.sim, replicationtest.Schedule{
			KeepMajority: seed%2 == 0, Writes: time.Millisecond, Write: w.step, Check: w.check,
		})
		if err != nil {
			t.Errorf("seed %d: %v\nrepeat: GATEWAY_SEEDS=%d go test -run TestSchedules ./cachenode/internal/gateway", seed, err, seed)
		}
		for k, n := range w.counts {
			total[k] += n
		}
	}
	t.Logf("%d schedules: %v", last-first+1, total)
}

// TestCalm proves that without faults nothing is refused, nothing is unknown and the leader stays, on a fast and on a
// slow network.
func TestCalm(t *testing.T) {
	for _, delay := range []time.Duration{500 * time.Microsecond, 20 * time.Millisecond} {
		cryptotest.SetGlobalRandom(t, 7)
		w := newWorld(t, replicationtest.Options{Seed: 7, Nodes: 3, Delay: delay, Jitter: delay / 2})
		err := replicationtest.RunSchedule(w.sim, replicationtest.Schedule{
			KeepMajority: true, Writes: time.Millisecond, Write: w.step, Check: w.check, Pace: -1,
		})
		if err != nil {
			t.Fatal(err)
		}
		for what, n := range w.counts {
			if !strings.HasPrefix(what, "ok-") && !strings.HasSuffix(what, " read") {
				t.Errorf("at a delay of %v: %d times %q", delay, n, what)
			}
		}
		if w.sim.Count.LeaderChanges != 1 {
			t.Errorf("at a delay of %v: %d leaders", delay, w.sim.Count.LeaderChanges)
		}
		t.Logf("%v: %v", delay, w.counts)
	}
}

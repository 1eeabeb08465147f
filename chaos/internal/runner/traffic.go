package runner

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/proto/cachepb"
)

const probeCache = "_chaos_probe"

// writer is one source of values. Values say who wrote them and which one it
// is; the two together are the version in the history.
type writer int

// versionOf maps what a writer wrote as its i-th operation to a number that is
// unique in the run.
func versionOf(w writer, i uint64) int64 { return int64(w+1)<<40 | int64(i+1) }

func (w writer) String() string { return "w" + strconv.Itoa(int(w)) }

// decodeVersion reads the version from a value. An error says why the value is
// none that a run can have written.
func decodeVersion(value []byte) (int64, error) {
	who, i, err := load.ParseCheckedValue(value)
	if err != nil {
		return 0, err
	}
	w, err := strconv.Atoi(strings.TrimPrefix(who, "w"))
	if err != nil || !strings.HasPrefix(who, "w") || w < 0 || w > 1<<20 {
		return 0, fmt.Errorf("written by %q, which is no writer of this run", who)
	}
	return versionOf(writer(w), i), nil
}

// workload makes the source of one workload of the scenario.
func workload(w *scenario.Workload, as writer, seed uint64) (load.Source, error) {
	mix, err := load.ParseMix(w.Op.String())
	if err != nil {
		return nil, err
	}
	acks, err := load.ParseAcks(w.Ack.String())
	if err != nil {
		return nil, err
	}
	dist := load.KeyDist{}
	if w.Keys.Dist.Kind != "once" {
		if dist, err = load.ParseKeyDist(w.Keys.Dist.String()); err != nil {
			return nil, err
		}
	}
	source, err := load.Workload{
		Seed: seed, Cache: w.Cache, Mix: mix, Acks: acks, ReadMode: readMode(w.Read),
		Keys: uint64(w.Keys.Count), Dist: dist, Sizes: load.FixedSize(int(w.Value)),
		Checked: true, Client: as.String(), Timeout: w.Timeout.D(),
	}.Source()
	if err != nil || w.Keys.Dist.Kind != "once" {
		return source, err
	}
	return once{source, as.String() + "-"}, nil
}

func readMode(name string) cachepb.ReadTag_Mode {
	return cachepb.ReadTag_Mode(cachepb.ReadTag_Mode_value[strings.ToUpper(name)])
}

func modeName(m cachepb.ReadTag_Mode) string { return strings.ToLower(m.String()) }

// once gives every operation a key of its own.
type once struct {
	load.Source
	prefix string
}

func (o once) Op(i uint64, op *client.Op, scratch []byte) []byte {
	scratch = o.Source.Op(i, op, scratch)
	op.Key = o.prefix + strconv.FormatUint(i, 10)
	return scratch
}

// probes are inserts at some ack levels in turn, through every node in turn.
type probes struct {
	as      writer
	levels  []client.Level
	nodes   uint64
	timeout time.Duration
}

// probeKeys is how many keys the probes write, each once unless a run has
// more probes: then over again, long after the one before was given up. It
// bounds the final reads of a long run.
const probeKeys = 1 << 16

// newProbes makes the source of the probes of a scenario.
func newProbes(as writer, s *scenario.Scenario) (probes, error) {
	p := probes{as: as, nodes: uint64(s.Cluster.Members)}
	for _, name := range s.Probes.Levels {
		l, err := client.ParseLevel(name)
		if err != nil {
			return p, err
		}
		p.levels = append(p.levels, l)
	}
	// As long as half of a node's window lasts when nothing is answered: a
	// probe that hangs must not hold up the next ones. Where there is room it
	// is as patient as a client, for a slow answer is no failure.
	onNode := float64(s.Probes.Rate) * float64(len(p.levels)) / float64(p.nodes)
	p.timeout = min(max(time.Duration(probeWindow/2/onNode*float64(time.Second)), minProbeTimeout), maxProbeTimeout)
	return p, nil
}

func (p probes) Op(i uint64, op *client.Op, scratch []byte) []byte {
	scratch = load.CheckedValue(scratch[:0], p.as.String(), i, filler[:])
	*op = client.Op{
		Kind: client.KindInsert, Cache: probeCache, Key: "p" + strconv.FormatUint(i%probeKeys, 10), Value: scratch,
		// The generator takes the nodes in turn too: a level that changed in
		// step with them would be probed through one node only.
		Level: p.levels[i/p.nodes%uint64(len(p.levels))], Deadline: p.timeout,
	}
	return scratch
}

// Bounds of how long a probe waits.
const (
	minProbeTimeout = time.Second
	maxProbeTimeout = 10 * time.Second
)

// scribe turns operations into history. It is the load.Observer of every
// generator of a run.
type scribe struct {
	out     *history.Writer
	as      writer
	warmup  time.Duration // operations intended before are of the warm-up
	phase   history.Phase // of those after
	nameOf  func(addr string) string
	keys    *keySet
	stock   *stock // nil: nothing was preloaded
	counter *counters
	limits  *limits // nil: none may abort the run
	phaseAt func() string
}

func (*scribe) Invoke(*load.Operation) {}

func (s *scribe) Return(o *load.Operation, got *client.Outcome) {
	h := history.Op{
		// Operations are pipelined, so each is a process of its own.
		Proc: versionOf(s.as, o.Index), Kind: o.Op.Kind.String(), Cache: o.Op.Cache, Key: o.Op.Key,
		Node: s.nameOf(got.Node), Stream: int64(o.Stream), Phase: s.phase,
		Intended: o.Intended, Send: max(o.Sent, o.Intended), Return: max(o.Returned, o.Sent, o.Intended),
		Cluster: got.Cluster, Term: got.Term, Index: got.Index,
	}
	if o.Intended < s.warmup {
		h.Phase = history.Warmup
	}
	conclude(&h, o.Op, got)
	if h.Kind == "put" || h.Kind == "insert" {
		h.Version = versionOf(s.as, o.Index)
	}
	if _, preloaded := s.stock.index(h.Cache, h.Key); preloaded || o.Op.Kind.Write() {
		s.keys.add(h.Cache, h.Key)
	}
	s.out.Record(h)
	s.counter.add(h.Outcome)
	if s.limits != nil {
		s.limits.observe(&h, s.phaseAt())
	}
}

// conclude fills in what came back.
func conclude(h *history.Op, op *client.Op, got *client.Outcome) {
	if op.Kind.Leveled() {
		h.Level = op.Level.String()
	}
	h.Reason = reason(got)
	if op.Kind != client.KindGet {
		h.Outcome = [...]history.Outcome{history.OK, history.Fail, history.Info}[got.Status]
		return
	}
	h.Mode = modeName(op.ReadMode)
	switch {
	case got.Refused:
		h.Outcome = history.Refused
	case got.Status != client.StatusOK:
		h.Outcome = history.Dropped
	default:
		h.Outcome, h.Found = history.OK, got.Found
		if got.Found {
			v, err := decodeVersion(got.Value)
			if err != nil {
				h.Reason = err.Error()
			}
			h.Version = v
		}
	}
}

// reason names why an operation is not ok in few different words, so that they
// can be counted.
func reason(got *client.Outcome) string {
	if got.Status == client.StatusOK {
		return ""
	}
	if _, answered := errors.AsType[*client.OpError](got.Err); answered {
		return got.Code.String()
	}
	if _, down := errors.AsType[*client.DownError](got.Err); down {
		return "not connected"
	}
	for err, name := range map[error]string{
		client.ErrTimeout: "timeout", client.ErrBroken: "stream broken", client.ErrClosed: "closed",
		client.ErrFull: "window full", load.ErrUnfinished: "unfinished",
	} {
		if errors.Is(got.Err, err) {
			return name
		}
	}
	return fmt.Sprint(got.Err)
}

// keySet collects what was written, for the final reads. It is safe for
// concurrent use.
type keySet struct {
	mu   sync.Mutex
	seen map[entry]struct{}
}

type entry struct{ cache, key string }

func newKeySet() *keySet { return &keySet{seen: map[entry]struct{}{}} }

func (k *keySet) add(cache, key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen[entry{cache, key}] = struct{}{}
}

func (k *keySet) all() []entry {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]entry, 0, len(k.seen))
	for e := range k.seen {
		out = append(out, e)
	}
	return out
}

// counters are what the live line shows. Safe for concurrent use.
type counters struct {
	mu sync.Mutex
	by map[history.Outcome]int64
}

func newCounters() *counters { return &counters{by: map[history.Outcome]int64{}} }

func (c *counters) add(o history.Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by[o]++
}

func (c *counters) get() (ok, fail, info int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by[history.OK], c.by[history.Fail] + c.by[history.Refused] + c.by[history.Dropped], c.by[history.Info]
}

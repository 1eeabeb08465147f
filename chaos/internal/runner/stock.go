package runner

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/chaos/internal/check"
	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/loadgen/load"
)

// stock is the entries that are written before the load. There may be millions,
// so they are not kept as operations: entry i is what operation i of the source
// writes. Only those that somebody uses later become part of the history, when
// the run is over; the others are read back and compared, and only counted.
type stock struct {
	scenario.Preload
	source load.Source
	nodes  []string

	// Of each entry: the node that acknowledged it, as an index in nodes. Each is
	// written by the one operation that is under way for it.
	acked []uint8
	// doubtful has those of which an attempt had no answer: it could take effect
	// later than the one that was acknowledged.
	doubtful []bool
	from, to time.Duration // in which all of it was written
}

// stocker numbers the writer of preloaded entries apart from those of the load
// and of the final reads.
const stocker writer = 1<<16 - 1

// keyPrefix precedes the number in the names of keys; it is that of workloads.
const keyPrefix = "key-"

// How entries are preloaded and read back: so many streams, and operations in
// flight on each.
const (
	stockStreams = 4
	stockWindow  = 1024
	stockTimeout = 5 * time.Second // of one operation
	stockPause   = 200 * time.Millisecond
	// stockRate is how many entries a second are expected at least. It bounds the
	// time that writing and reading may take, beside readPatience.
	stockRate = 10_000
)

func newStock(p *scenario.Preload, nodes []Endpoint, seed uint64) (*stock, error) {
	s := &stock{Preload: *p, acked: make([]uint8, p.Entries), doubtful: make([]bool, p.Entries)}
	for _, n := range nodes {
		s.nodes = append(s.nodes, n.Name)
	}
	var err error
	s.source, err = load.Workload{
		Seed: seed, Cache: p.Cache, Mix: []load.Weight[client.Kind]{{Of: client.KindInsert, Weight: 1}},
		Keys: uint64(p.Entries), KeyPrefix: keyPrefix, Dist: load.KeyDist{Kind: load.KeySequential},
		Sizes: load.FixedSize(int(p.Value)), Checked: true, Client: stocker.String(), Timeout: stockTimeout,
	}.Source()
	return s, err
}

// index returns which of the preloaded entries a key is, if it is one.
func (s *stock) index(cache, key string) (i uint64, ok bool) {
	if s == nil || cache != s.Cache {
		return 0, false
	}
	number, ok := strings.CutPrefix(key, keyPrefix)
	if !ok {
		return 0, false
	}
	i, err := strconv.ParseUint(number, 10, 64)
	return i, err == nil && i < uint64(s.Entries)
}

func (s *stock) patience() time.Duration {
	return readPatience + time.Duration(s.Entries)*time.Second/stockRate
}

// preload writes the stock, if the scenario has one.
func (r *run) preload(ctx context.Context) error {
	p := r.Plan.Scenario.Preload
	if p == nil {
		return nil
	}
	r.enter("preload")
	s, err := newStock(p, r.system.Nodes(), r.Plan.Seed)
	if err != nil {
		return fmt.Errorf("preload: %w", err)
	}
	target, err := r.system.Target(false, stockStreams, stockWindow)
	if err != nil {
		return fmt.Errorf("preload: %w", err)
	}
	defer target.Close()
	limited, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	all := make([]uint64, p.Entries)
	for i := range all {
		all[i] = uint64(i)
	}
	s.from = r.now()
	g := r.stockGenerator(target, &stocking{s, r.nameOf()})
	if left, why := exhaust(limited, g, s.source, all); left > 0 {
		return fmt.Errorf("preload: %d of %d entries could not be written: %w", left, p.Entries, reasonOf(ctx, why))
	}
	s.to = r.now()
	r.stock = s
	r.facts.Preloaded = &check.Preloaded{Entries: int64(p.Entries), Took: s.to - s.from}
	r.note("%d entries preloaded in %v", p.Entries, (s.to - s.from).Round(time.Millisecond))
	return nil
}

// stockGenerator is a closed loop whose numbers are not used.
func (r *run) stockGenerator(to load.Target, observer load.Observer) load.Generator {
	return load.Generator{
		Target: to, InFlight: stockWindow, Recorder: load.NewRecorder(load.RecorderConfig{Start: r.start}), Drain: stockTimeout + time.Second,
		Observer: observer, Sleep: r.Sleep,
	}
}

// exhaust offers the operations of a source with the given numbers until each
// was answered with ok, or ctx is done. It returns how many never were, and why.
func exhaust(ctx context.Context, g load.Generator, source load.Source, indices []uint64) (left int, why error) {
	undone := &load.Undone{}
	g.Observer = observers{undone, g.Observer}
	for len(indices) > 0 {
		g.Source, g.Ops = load.Only{Source: source, Indices: indices}, uint64(len(indices))
		_, err := g.Run(ctx)
		again, reason := undone.Take()
		switch {
		case err != nil:
			return len(indices), err
		case ctx.Err() != nil: // what was not begun is not among those undone
			return len(indices), context.Cause(ctx)
		}
		for k, i := range again { // numbers of the round
			again[k] = indices[i]
		}
		indices, why = again, reason
		if len(indices) > 0 && !pause(ctx, stockPause) {
			return len(indices), why
		}
	}
	return 0, nil
}

// observers are told one after the other.
type observers []load.Observer

func (all observers) Invoke(o *load.Operation) {
	for _, other := range all {
		other.Invoke(o)
	}
}

func (all observers) Return(o *load.Operation, out *client.Outcome) {
	for _, other := range all {
		other.Return(o, out)
	}
}

// stocking notes what came of the writes of a stock.
type stocking struct {
	*stock
	nameOf func(addr string) string
}

func (*stocking) Invoke(*load.Operation) {}

func (s *stocking) Return(o *load.Operation, out *client.Outcome) {
	i, ok := s.index(o.Op.Cache, o.Op.Key)
	switch {
	case !ok:
	case out.Status == client.StatusInfo:
		s.doubtful[i] = true
	case out.Status == client.StatusOK:
		s.acked[i] = uint8(slices.Index(s.nodes, s.nameOf(out.Node)))
	}
}

// recordStock puts those of the preloaded entries into the history that are
// among keys. When exactly each was written was not kept, so it says that it took
// as long as all of them: what a check may conclude from that holds all the more.
func (r *run) recordStock(keys []entry) {
	s := r.stock
	for _, k := range keys {
		i, ok := s.index(k.cache, k.key)
		if !ok {
			continue
		}
		op := history.Op{
			Proc: versionOf(stocker, i), Kind: client.KindInsert.String(), Cache: k.cache, Key: k.key, Version: versionOf(stocker, i),
			Level: client.LevelQuorum.String(), Node: s.nodes[s.acked[i]], Phase: history.Preload, Outcome: history.OK,
			Intended: s.from, Send: s.from, Return: s.to,
		}
		if s.doubtful[i] {
			op.Outcome, op.Reason = history.Info, "an attempt had no answer"
		}
		r.history.Record(op)
	}
}

// verifyStock reads the entries that nobody used on every node.
func (r *run) verifyStock(ctx context.Context) {
	s := r.stock
	if s == nil {
		return
	}
	used := make([]bool, s.Entries)
	for _, k := range r.keys.all() {
		if i, ok := s.index(k.cache, k.key); ok {
			used[i] = true
		}
	}
	var untouched []uint64
	for i := range used {
		if !used[i] {
			untouched = append(untouched, uint64(i))
		}
	}
	found := r.facts.Preloaded
	found.Untouched = int64(len(untouched))
	ctx, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex // guards found
	for _, n := range r.system.Nodes() {
		wg.Go(func() {
			verifier := &load.Verifier{Writers: map[string]load.Source{stocker.String(): s.source}}
			g := r.stockGenerator(nodeTarget{r.system, n.Name}, verifier)
			left, why := exhaust(ctx, g, load.Reads{Source: s.source}, untouched)
			mu.Lock()
			defer mu.Unlock()
			if left > 0 {
				found.Error = fmt.Sprintf("%d could not be read on %s: %v", left, n.Name, why)
			}
			addVerified(found, n.Name, verifier)
		})
	}
	wg.Wait()
	found.Verified = found.Error == ""
}

// addVerified adds what reading one node came to.
func addVerified(to *check.Preloaded, node string, v *load.Verifier) {
	checks, losses := v.Checks()
	to.Reads += checks[0].Checked // the same for each
	for _, c := range checks {
		to.Wrong += c.Count
	}
	for _, l := range losses[:min(len(losses), maxStockExamples)] {
		to.Examples = append(to.Examples, fmt.Sprintf("%s: %s/%s on %s: %s", l.Kind, l.Cache, l.Key, node, l.Found))
	}
}

// maxStockExamples bounds the wrong entries of a node that are listed.
const maxStockExamples = 10

// nodeTarget is a load.Target with the harness's own connection to a node.
type nodeTarget struct {
	system System
	node   string
}

func (nodeTarget) Streams() int { return 1 }
func (nodeTarget) Close() error { return nil }

func (t nodeTarget) Start(_ int, op *client.Op, done func(client.Outcome)) error {
	return t.system.Read(t.node, op, done)
}

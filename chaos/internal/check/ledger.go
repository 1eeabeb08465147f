package check

import (
	"cmp"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// key names one entry.
type key struct{ cache, entry string }

// record is what happened to one entry.
type record struct {
	writes []*history.Op // not the fails, by Send
	fails  []*history.Op
	reads  []*history.Op // ok and found or missed, but for the final ones
	finals map[string]*history.Op
	// removed is the latest moment at which a remove may have taken effect;
	// -1 if there was none.
	removed time.Duration
	// forgets says that entries of the cache may go without being removed, so
	// that nothing is missed; removed is then never over.
	forgets bool
	removes []*replacement // the committed ones, by epoch; made when they are asked for
}

// removedAfter reports whether some remove may have come after x.
func (r *record) removedAfter(x *history.Op) bool { return r.removed >= x.Send }

// never is later than everything.
const never = time.Duration(math.MaxInt64)

// settled is the moment after which a write can no longer take effect. A write
// that waits for the log has done so, or never will, when it is acknowledged;
// a put or del is acknowledged before, and an unknown outcome has no such
// moment.
func settled(o *history.Op) time.Duration {
	if o.Outcome == history.OK && o.Level != "" {
		return o.Return
	}
	return never
}

// recordsOf sorts a history by entry.
func recordsOf(h *history.History, forgets func(cache string) bool) (map[key]*record, map[int64]*history.Op) {
	records := map[key]*record{}
	versions := map[int64]*history.Op{}
	for i := range h.Ops {
		o := &h.Ops[i]
		k := key{o.Cache, o.Key}
		r := records[k]
		if r == nil {
			r = &record{removed: -1, forgets: forgets(k.cache)}
			if r.forgets {
				r.removed = never
			}
			records[k] = r
		}
		switch {
		case o.Write():
			if o.Version > 0 {
				versions[o.Version] = o
			}
			if o.Outcome == history.Fail {
				r.fails = append(r.fails, o)
			} else {
				r.writes = append(r.writes, o)
				if o.Removes() {
					r.removed = max(r.removed, settled(o))
				}
			}
		case o.Phase == history.Final:
			if r.finals == nil {
				r.finals = map[string]*history.Op{}
			}
			if prev := r.finals[o.Node]; prev == nil || prev.Outcome != history.OK {
				r.finals[o.Node] = o
			}
		case o.Outcome == history.OK:
			r.reads = append(r.reads, o)
		}
	}
	for _, r := range records {
		slices.SortFunc(r.writes, func(a, b *history.Op) int { return cmp.Compare(a.Send, b.Send) })
	}
	return records, versions
}

// ledger is the evidence sorted in the ways in which several checks need it.
type ledger struct {
	in       *Input
	windows  []result.Window
	resets   resets
	epochs   map[uint64]int // of the logs, by cluster
	records  map[key]*record
	versions map[int64]*history.Op

	logs  map[logName]*commits
	exits map[string][]time.Duration // of a node's processes, in order
}

// logName names the log of a cluster, or with a term the part of it that one
// leader wrote.
type logName struct{ cluster, term uint64 }

func newLedger(in *Input, windows []result.Window) *ledger {
	l := &ledger{in: in, windows: windows, logs: map[logName]*commits{}, exits: map[string][]time.Duration{}}
	l.resets, _ = resetsOf(in, windows)
	l.epochs = epochsOf(in, l.resets)
	l.records, l.versions = recordsOf(in.History, in.forgets)
	for i := range in.History.Ops {
		if o := &in.History.Ops[i]; placed(o) {
			for _, name := range []logName{{o.Cluster, 0}, {o.Cluster, o.Term}} {
				if l.logs[name] == nil {
					l.logs[name] = new(commits)
				}
				l.logs[name].add(o)
			}
		}
	}
	for _, c := range l.logs {
		c.sort()
	}
	for _, e := range in.Events {
		if e.Kind == result.Process && e.State == result.ProcessExited {
			l.exits[e.Node] = append(l.exits[e.Node], e.T)
		}
	}
	return l
}

// keys returns the entries in the order of their names.
func (l *ledger) keys() []key {
	keys := make([]key, 0, len(l.records))
	for k := range l.records {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(strings.Compare(a.cache, b.cache), strings.Compare(a.entry, b.entry))
	})
	return keys
}

// commits says by when the entries of a log were committed. One is when a later
// one is.
type commits struct {
	acks []*history.Op   // of quorum writes, by index
	by   []time.Duration // for each, the first return of those from there on
}

func (c *commits) add(o *history.Op) { c.acks = append(c.acks, o) }

func (c *commits) sort() {
	slices.SortFunc(c.acks, func(a, b *history.Op) int { return cmp.Compare(a.Index, b.Index) })
	c.by = make([]time.Duration, len(c.acks))
	first := never
	for i := len(c.acks) - 1; i >= 0; i-- {
		first = min(first, c.acks[i].Return)
		c.by[i] = first
	}
}

// at returns when the entry with that index was surely committed, or never.
func (c *commits) at(index uint64) time.Duration {
	if c == nil {
		return never
	}
	i := sort.Search(len(c.acks), func(i int) bool { return c.acks[i].Index >= index })
	if i == len(c.acks) {
		return never
	}
	return c.by[i]
}

// committed returns a moment at which an acknowledged write was surely
// committed, so that it cannot be lost any more; never if there is none.
//
// That is so when it was acknowledged at quorum, or a later entry of its log
// was. Where another level stands in the log is final only as far as its own
// leader wrote it, so there the later entry has to be of the same term.
func (l *ledger) committed(w *history.Op) time.Duration {
	if w.Outcome != history.OK || w.Level == "" {
		return never
	}
	at := never
	if w.Level == "quorum" || w.Level == "once" && len(l.in.Nodes) <= 3 {
		at = w.Return
	}
	switch {
	case placed(w):
		at = min(at, l.logs[logName{w.Cluster, 0}].at(w.Index))
	case w.Index > 0:
		at = min(at, l.logs[logName{w.Cluster, w.Term}].at(w.Index))
	}
	return at
}

// position returns where a write stands in the log of its cluster, if that is
// known and final.
func (l *ledger) position(w *history.Op) (index uint64, ok bool) {
	return w.Index, w.Index > 0 && l.committed(w) != never
}

// before reports whether a surely took effect before b: by the log, or because
// it could not any more when b was sent.
func (l *ledger) before(a, b *history.Op) bool {
	if settled(a) < b.Send {
		return true
	}
	i, known := l.position(a)
	j, too := l.position(b)
	return known && too && a.Cluster == b.Cluster && i < j
}

// life counts the processes that a node had had before the one that served an
// operation; ok is false if that is not clear.
func (l *ledger) life(node string, o *history.Op) (n int, ok bool) {
	exits := l.exits[node]
	n = sort.Search(len(exits), func(i int) bool { return exits[i] >= o.Send })
	// What a process sent can be read after its end was noticed.
	alone := (n == len(exits) || exits[n] > o.Return) && (n == 0 || o.Return > exits[n-1]+lifeMargin)
	return n, alone
}

// lifeMargin is how long after the end of a process its answers may arrive.
const lifeMargin = 50 * time.Millisecond

// epoch returns in which epoch an operation was: that of the log which it names,
// else that of a moment.
func (l *ledger) epoch(o *history.Op, at time.Duration) int {
	if e, known := l.epochs[o.Cluster]; known && o.Cluster != 0 {
		return e
	}
	return l.resets.epoch(at)
}

package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// maxListed bounds how many losses are listed with their history; all of them
// are counted.
const maxListed = 100

// exposed are the levels in the order of what they promise.
var exposed = []string{"quorum", "once", "leader"}

// lostWrites checks the final state of every entry on every node against what
// was acknowledged.
//
// A write w is lost on a node if the node ends with a value that was settled
// before w was sent, or with none although nothing that could have removed it
// came after. Only the newest lost write of each level counts for an entry. A
// lost remove is a resurrection, and judged as that. What a level promises
// decides whether a loss is a violation:
//
//	quorum   always, unless it was acknowledged before a legal reset
//	once     as quorum in clusters of up to three; otherwise as leader
//	leader   only if the write was acknowledged outside of every fault
//
// and the scenario may say how much may be lost within that.
func (led *ledger) lostWrites() *losses {
	l := &losses{ledger: led, exposure: map[string]*result.Exposure{}, kinds: map[result.LossKind]int64{}}
	for _, level := range exposed {
		l.exposure[level] = &result.Exposure{Level: level}
	}
	for _, k := range led.keys() {
		l.entry(k, led.records[k])
	}
	return l
}

// lost adds the verdict on lost writes.
func (v *Verdicts) lost(l *losses) {
	v.Losses = append(v.Losses, l.list...)
	for _, level := range exposed {
		if e := l.exposure[level]; e.Acked+e.Unknown > 0 {
			v.Exposures = append(v.Exposures, *e)
		}
	}
	v.add(l.verdict())
}

type losses struct {
	*ledger
	exposure map[string]*result.Exposure
	list     []result.Loss
	back     []result.Loss // removes that were lost

	acked, violations, recovered, unread int64
	kinds                                map[result.LossKind]int64
	examples                             []string
}

func (l *losses) entry(k key, r *record) {
	for _, w := range r.writes {
		e := l.exposure[w.Level]
		switch {
		case e == nil || r.forgets:
		case w.Outcome == history.OK:
			e.Acked++
			l.acked++
		default:
			e.Unknown++
		}
	}
	if len(r.writes)+len(r.fails) == 0 {
		return
	}
	type found struct {
		kind  result.LossKind
		write *history.Op
	}
	lost := map[found][]string{} // where
	states := map[int64][]string{}
	for _, node := range l.in.Nodes {
		f := r.finals[node]
		if f == nil || f.Outcome != history.OK {
			l.unread++
			continue
		}
		if r.forgets && !f.Found {
			continue // gone there, and perhaps not yet here
		}
		states[stateOf(f)] = append(states[stateOf(f)], node)
		kind, w := explain(k, f, l.versions)
		switch {
		case kind != "":
			lost[found{kind, w}] = append(lost[found{kind, w}], node)
		default:
			if w != nil && w.Outcome == history.Info {
				l.recovered++
			}
			for _, x := range l.missing(r, w) {
				kind := result.Lost
				if x.Removes() {
					kind = result.Resurrected
				}
				lost[found{kind, x}] = append(lost[found{kind, x}], node)
			}
		}
	}
	for f, nodes := range lost {
		l.add(f.kind, k, f.write, nodes, r)
	}
	if len(states) > 1 {
		l.add(result.Divergent, k, nil, l.in.Nodes, r)
	}
}

// stateOf maps what a final read saw to a number: its version, 0 for a miss,
// -1 for what nobody can have written.
func stateOf(f *history.Op) int64 {
	if f.Found && f.Version == 0 {
		return -1
	}
	return f.Version
}

// explain finds the write behind a final read. kind is not empty if there
// should be none.
func explain(k key, f *history.Op, versions map[int64]*history.Op) (kind result.LossKind, w *history.Op) {
	if !f.Found {
		return "", nil
	}
	w = versions[f.Version]
	switch {
	case w == nil || w.Cache != k.cache || w.Key != k.entry:
		return result.Corrupt, nil
	case w.Outcome == history.Fail:
		return result.Phantom, w
	case w.Send > f.Return:
		return result.Corrupt, nil // read before it was written
	}
	return "", w
}

// missing returns the acknowledged operations that the state contradicts: for
// each level the newest one, but a violation before one that is allowed: that the
// last write before a fault may go does not excuse that those long before it did.
// w is the write whose value was found, nil for a miss.
func (l *losses) missing(r *record, w *history.Op) []*history.Op {
	newest := map[string]*history.Op{}
	for _, x := range r.writes { // by Send
		if x.Outcome != history.OK || x.Level == "" {
			continue
		}
		if w != nil && x.Send > settled(w) || w == nil && !x.Removes() && !r.removedAfter(x) {
			if worse := newest[x.Level]; worse == nil || l.excuses(worse) || !l.excuses(x) {
				newest[x.Level] = x
			}
		}
	}
	var out []*history.Op
	for _, level := range exposed {
		if x := newest[level]; x != nil {
			out = append(out, x)
		}
	}
	return out
}

func (l *losses) add(kind result.LossKind, k key, w *history.Op, nodes []string, r *record) {
	loss := l.describe(kind, k, w)
	loss.Node = strings.Join(nodes, ",")
	if len(nodes) == len(l.in.Nodes) && len(nodes) > 1 {
		loss.Node = "all"
	}
	if kind == result.Lost || kind == result.Resurrected {
		loss.Allowed = l.allows(w)
	}
	if kind == result.Lost {
		l.expose(w, &loss)
	}
	if kind == result.Resurrected {
		loss.Found, loss.History = found(r, nodes), around(r, w)
		l.back = append(l.back, loss)
		return
	}
	l.kinds[kind]++
	if !loss.Allowed {
		l.violations++
		if len(l.examples) < 5 {
			l.examples = append(l.examples, describe(&loss))
		}
	}
	if len(l.list) < maxListed {
		loss.Found, loss.History = found(r, nodes), around(r, w)
		l.list = append(l.list, loss)
	}
}

// describe says which write a loss is about, and how near to a fault it was
// acknowledged. w may be nil.
func (l *ledger) describe(kind result.LossKind, k key, w *history.Op) result.Loss {
	loss := result.Loss{Kind: kind, Cache: k.cache, Key: k.entry}
	if w != nil {
		loss.Version, loss.Level, loss.AckedAt = w.Version, w.Level, w.Return
		loss.Fault, loss.FromFault = nearest(l.windows, w.Return)
	}
	return loss
}

// expose counts a lost write for its level.
func (l *losses) expose(w *history.Op, loss *result.Loss) {
	e := l.exposure[w.Level]
	e.Lost++
	if loss.Allowed {
		e.Allowed++
	}
	if loss.Fault != "" {
		e.Window, e.After = max(e.Window, -loss.FromFault), max(e.After, loss.FromFault)
	}
	if loss.Allowed && !l.within(w) {
		loss.Allowed = false
		e.Allowed--
	}
}

// excuses reports whether the loss of a write is no violation: its level promises
// no better, and the scenario does not either.
func (l *losses) excuses(w *history.Op) bool {
	return l.allows(w) && (w.Removes() || l.within(w))
}

// within reports whether a write was acknowledged as near to a fault as the
// scenario wants one to be that may be lost.
func (l *losses) within(w *history.Op) bool {
	fault, from := nearest(l.windows, w.Return)
	bound := l.in.Limit.Loss[w.Level]
	return bound.Window == 0 || fault != "" && from.Abs() <= bound.Window
}

// lossMargin is how long before a fault a write may have been acknowledged and
// still be taken by it: a few round trips, generously.
const lossMargin = 500 * time.Millisecond

// allows reports whether the level of a lost write promises no better.
func (l *ledger) allows(w *history.Op) bool {
	if l.resets.epoch(w.Return) < len(l.resets) {
		return true
	}
	if w.Level == "quorum" || w.Level == "once" && len(l.in.Nodes) <= 3 {
		return false
	}
	return slices.ContainsFunc(l.windows, func(f result.Window) bool {
		if l.in.harmless(f.Fault) {
			return false
		}
		return f.From-lossMargin <= w.Return && w.Return <= f.To+lossMargin
	})
}

func (l *losses) verdict() result.Check {
	c := result.Check{Name: "lost writes", Verdict: result.Pass, Count: l.violations, Checked: l.acked, Examples: l.examples}
	var parts []string
	for _, level := range exposed {
		e := l.exposure[level]
		if e.Acked == 0 {
			continue
		}
		part := fmt.Sprintf("%s %d of %d", level, e.Lost, e.Acked)
		if e.Allowed > 0 {
			part += fmt.Sprintf(" (%d within what the level promises, %.3g in 1000)", e.Allowed, perThousand(e))
		}
		parts = append(parts, part)
		if bound := l.in.Limit.Loss[level]; bound.Rate > 0 && perThousand(e) > 1000*bound.Rate {
			c.Count++
			c.Examples = append(c.Examples, fmt.Sprintf("%.3g of 1000 writes acknowledged at %s were lost, the scenario allows %.3g", perThousand(e), level, 1000*bound.Rate))
		}
	}
	c.Detail = "lost: " + strings.Join(parts, ", ")
	for _, kind := range []result.LossKind{result.Phantom, result.Corrupt, result.Divergent} {
		if n := l.kinds[kind]; n > 0 {
			c.Detail += fmt.Sprintf("; %s: %d", kind, n)
		}
	}
	if l.recovered > 0 {
		c.Detail += fmt.Sprintf("; %d of unknown outcome present", l.recovered)
	}
	switch {
	case c.Count > 0:
		c.Verdict, c.Detail = result.Violated, c.Examples[0]+"; "+c.Detail
	case l.acked == 0:
		c.Verdict, c.Detail = result.NotExercised, "no write was acknowledged"
	case l.unread > 0:
		c.Verdict = result.Unknown
		c.Detail = fmt.Sprintf("%d final reads are missing; %s", l.unread, c.Detail)
	}
	return c
}

func perThousand(e *result.Exposure) float64 { return 1000 * float64(e.Lost) / float64(e.Acked) }

func describe(l *result.Loss) string {
	s := fmt.Sprintf("%s: %s/%s on %s", l.Kind, l.Cache, l.Key, l.Node)
	if l.Level != "" {
		s += fmt.Sprintf(", version %d acked at %s at %.3fs", l.Version, l.Level, l.AckedAt.Seconds())
	}
	if l.Fault != "" {
		s += fmt.Sprintf(", %+.3fs from %s", l.FromFault.Seconds(), l.Fault)
	}
	return s
}

// found says what the nodes held instead.
func found(r *record, nodes []string) string {
	var parts []string
	for _, n := range nodes {
		f := r.finals[n]
		switch {
		case f == nil || f.Outcome != history.OK:
			parts = append(parts, n+": not read")
		case !f.Found:
			parts = append(parts, n+": nothing")
		case f.Version == 0:
			parts = append(parts, n+": no value of ours: "+f.Reason)
		default:
			parts = append(parts, fmt.Sprintf("%s: version %d", n, f.Version))
		}
	}
	return strings.Join(parts, ", ")
}

// Evidence beside a loss: at most so many operations within so much time.
const (
	aroundTime = 2 * time.Second
	aroundOps  = 40
)

func around(r *record, w *history.Op) []result.Operation {
	all := slices.Concat(r.writes, r.fails, r.reads)
	for _, f := range r.finals {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b *history.Op) int { return cmp.Or(cmp.Compare(a.Send, b.Send), cmp.Compare(a.Node, b.Node)) })
	var out []result.Operation
	for _, o := range all {
		near := w == nil || o.Phase == history.Final || o.Return >= w.Send-aroundTime && o.Send <= w.Return+aroundTime
		if near && len(out) < aroundOps {
			out = append(out, result.Operation{
				Proc: o.Proc, Kind: o.Kind, Version: o.Version, Level: o.Level, Node: o.Node,
				Invoke: o.Send, Return: o.Return, Outcome: string(o.Outcome), Reason: o.Reason,
			})
		}
	}
	return out
}

// nearest returns the fault that began nearest to t, and t relative to that.
func nearest(windows []result.Window, t time.Duration) (fault string, from time.Duration) {
	from = never
	for _, w := range windows {
		if d := t - w.From; d.Abs() < from.Abs() {
			fault, from = w.Fault, d
		}
	}
	if fault == "" {
		from = 0
	}
	return fault, from
}

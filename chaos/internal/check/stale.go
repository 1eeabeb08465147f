package check

import (
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// staleReads checks that a local read returns at least everything that was
// committed longer ago than the bound.
//
// The age of what a read returned is the time from when the oldest write that
// had surely replaced it was surely committed, to the moment the read was sent.
// Reads of what was removed are left to the check for resurrection, if they are
// older than the bound.
func (v *Verdicts) staleReads(l *ledger, bound time.Duration) {
	c := result.Check{Name: "stale reads", Verdict: result.NotExercised, Detail: "no local read was answered"}
	behind := 0 // the most versions a read was behind
	for _, k := range l.keys() {
		r := l.records[k]
		if len(r.reads) == 0 {
			continue
		}
		replaced := l.replacements(r, (*history.Op).Write)
		for _, read := range r.reads {
			if read.Mode != "local" {
				continue
			}
			c.Checked++
			kind, w := explain(k, read, l.versions)
			if kind != "" {
				v.stale(&c, l, k, read, w, kind, 0)
				continue
			}
			p := replaced[l.epoch(read, read.Send+resetSlack)]
			by, at := p.first(w)
			if by == nil {
				continue
			}
			age := read.Send - at
			if age <= 0 {
				continue
			}
			behind = max(behind, p.newer(w, read.Send))
			c.Worst = max(c.Worst, age)
			if age <= bound {
				continue
			}
			if w != nil && l.removedBefore(r, w, read, bound) != nil {
				continue
			}
			v.stale(&c, l, k, read, by, result.Stale, age)
		}
	}
	missed := ""
	if behind > 0 {
		missed = fmt.Sprintf("; reads missed up to %d newer versions", behind)
	}
	switch {
	case c.Count > 0:
		c.Verdict = result.Violated
		c.Detail = fmt.Sprintf("%d reads older than %v, the worst %v%s", c.Count, bound, c.Worst.Round(time.Millisecond), missed)
	case c.Checked > 0:
		c.Verdict = result.Pass
		c.Detail = fmt.Sprintf("the oldest value read had been replaced %v before, %v is allowed%s", c.Worst.Round(time.Millisecond), bound, missed)
	}
	v.add(c)
}

// resetSlack is how much later than it happened a reset may have been observed.
const resetSlack = 100 * time.Millisecond

func (v *Verdicts) stale(c *result.Check, l *ledger, k key, read, by *history.Op, kind result.LossKind, age time.Duration) {
	c.Count++
	loss := l.describe(kind, k, by)
	loss.Node, loss.Found = read.Node, fmt.Sprintf("version %d at %.3fs", read.Version, read.Send.Seconds())
	if len(c.Examples) < 5 {
		c.Examples = append(c.Examples, fmt.Sprintf("%s: %s/%s on %s at %.3fs: read version %d, replaced %v before", kind, k.cache, k.entry, read.Node, read.Send.Seconds(), read.Version, age.Round(time.Millisecond)))
	}
	if len(v.Losses) < maxListed {
		loss.History = around(l.records[k], by)
		v.Losses = append(v.Losses, loss)
	}
}

// replacement finds the committed write that replaced another, among those of
// one entry and one epoch.
type replacement struct {
	bySend   []replacing
	byIndex  []replacing // those whose place in the log is known
	present  *history.Op // the first to be committed of those that nothing can have removed
	presence time.Duration
	position func(*history.Op) (uint64, bool)
}

// replacing is a write in some order, with the first to be committed of those
// from there on.
type replacing struct {
	w       *history.Op
	first   *history.Op
	firstAt time.Duration
}

// replacements sorts the committed writes of an entry that count, by the epoch
// in which they were.
func (l *ledger) replacements(r *record, counts func(*history.Op) bool) []*replacement {
	epochs := make([]*replacement, len(l.resets)+1)
	for i := range epochs {
		epochs[i] = &replacement{presence: never, position: l.position}
	}
	for _, w := range r.writes { // by Send
		at := l.committed(w)
		if at == never || !counts(w) {
			continue
		}
		p := epochs[l.epoch(w, at)]
		x := replacing{w, w, at}
		p.bySend = append(p.bySend, x)
		if w.Index > 0 {
			p.byIndex = append(p.byIndex, x)
		}
		if !w.Removes() && !r.removedAfter(w) && at < p.presence {
			p.present, p.presence = w, at
		}
	}
	for _, p := range epochs {
		slices.SortStableFunc(p.byIndex, func(a, b replacing) int { return compareLogs(a.w, b.w) })
		for _, order := range [][]replacing{p.bySend, p.byIndex} {
			for i := len(order) - 2; i >= 0; i-- {
				if order[i+1].firstAt < order[i].firstAt {
					order[i].first, order[i].firstAt = order[i+1].first, order[i+1].firstAt
				}
			}
		}
	}
	return epochs
}

func compareLogs(a, b *history.Op) int {
	switch {
	case a.Cluster != b.Cluster && a.Cluster < b.Cluster, a.Cluster == b.Cluster && a.Index < b.Index:
		return -1
	case a.Cluster == b.Cluster && a.Index == b.Index:
		return 0
	}
	return 1
}

// first returns, of all writes that surely came after w, the one that was
// committed first, and by when; nil if there is none. With w nil it speaks of a
// miss: the first one that must have been there, since nothing can have removed
// it.
func (p *replacement) first(w *history.Op) (by *history.Op, at time.Duration) {
	if w == nil {
		return p.present, p.presence
	}
	at = never
	after := settled(w)
	if i := sort.Search(len(p.bySend), func(i int) bool { return p.bySend[i].w.Send > after }); i < len(p.bySend) {
		by, at = p.bySend[i].first, p.bySend[i].firstAt
	}
	if i := p.afterInLog(w); i < len(p.byIndex) && p.byIndex[i].w.Cluster == w.Cluster && p.byIndex[i].firstAt < at {
		by, at = p.byIndex[i].first, p.byIndex[i].firstAt
	}
	return by, at
}

// afterInLog returns where the writes begin that come after w in its log.
func (p *replacement) afterInLog(w *history.Op) int {
	if _, known := p.position(w); !known {
		return len(p.byIndex)
	}
	return sort.Search(len(p.byIndex), func(i int) bool { return compareLogs(p.byIndex[i].w, w) > 0 })
}

// newer counts the writes that surely came after w in the log and were surely
// committed at t; 0 for a miss.
func (p *replacement) newer(w *history.Op, t time.Duration) int {
	if w == nil {
		return 0
	}
	from := p.afterInLog(w)
	// Each is committed no later than those after it, so the times grow.
	n := sort.Search(len(p.byIndex)-from, func(i int) bool { return p.byIndex[from+i].firstAt >= t })
	return n
}

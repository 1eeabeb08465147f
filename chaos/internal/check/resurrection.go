package check

import (
	"fmt"
	"slices"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// resurrection checks that nothing which was removed is there again. It stands
// apart from lost writes and stale reads, and before them: a cache may forget,
// and a user then logs in again; it may not remember a session that was
// revoked.
//
// finals are the removes that the final state contradicts; nil if that was not
// looked at. Besides, a value is back if it is read although a remove that
// surely came after it was surely committed before: by a local read longer
// before than the bound, by a linearizable one at all. A remove that was
// acknowledged at a level which may be lost is, within what that level promises,
// counted and no violation.
func (v *Verdicts) resurrection(l *ledger, finals *losses, bound time.Duration) {
	c := result.Check{Name: "resurrection", Verdict: result.NotExercised, Detail: "nothing was removed"}
	var list []result.Loss
	allowed := 0
	if finals != nil {
		list = finals.back
	}
	for _, k := range l.keys() {
		r := l.records[k]
		for _, w := range r.writes {
			if w.Removes() && w.Outcome == history.OK && w.Level != "" {
				c.Checked++
			}
		}
		if r.removed < 0 {
			continue
		}
		list = append(list, l.readBack(k, r, bound)...)
	}
	slices.SortStableFunc(list, func(a, b result.Loss) int { return boolOrder(a.Allowed, b.Allowed) })
	for i := range list {
		if list[i].Allowed {
			allowed++
			continue
		}
		c.Count++
		if len(c.Examples) < 5 {
			c.Examples = append(c.Examples, describe(&list[i])+", "+list[i].Found)
		}
	}
	v.Losses = append(v.Losses, list[:min(len(list), maxListed)]...)
	switch {
	case c.Count > 0:
		c.Verdict = result.Violated
		c.Detail = fmt.Sprintf("%d times something was there again that had been removed: %s", c.Count, c.Examples[0])
	case c.Checked > 0:
		c.Verdict = result.Pass
		c.Detail = fmt.Sprintf("nothing came back after %d removes", c.Checked)
		if allowed > 0 {
			c.Detail += fmt.Sprintf(", but for %d acknowledged at a level that may lose them", allowed)
		}
	}
	v.add(c)
}

// boolOrder puts false before true.
func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// readBack returns the reads that found something which had been removed.
func (l *ledger) readBack(k key, r *record, bound time.Duration) []result.Loss {
	var list []result.Loss
	for _, read := range r.reads {
		kind, w := explain(k, read, l.versions)
		if kind != "" || w == nil {
			continue
		}
		within := bound
		if read.Mode == "linearizable" {
			within = 0
		}
		by := l.removedBefore(r, w, read, within)
		if by == nil {
			continue
		}
		loss := l.describe(result.Resurrected, k, by)
		loss.Node = read.Node
		loss.Found = fmt.Sprintf("a %s read at %.3fs found version %d", read.Mode, read.Send.Seconds(), read.Version)
		loss.History = around(r, by)
		list = append(list, loss)
	}
	return list
}

// removedBefore returns a remove that surely came after w and was surely
// committed longer before the read was sent than the bound, in the same epoch;
// nil if there is none.
func (l *ledger) removedBefore(r *record, w, read *history.Op, bound time.Duration) *history.Op {
	if r.removed < 0 {
		return nil
	}
	if r.removes == nil {
		r.removes = l.replacements(r, (*history.Op).Removes)
	}
	by, at := r.removes[l.epoch(read, read.Send+resetSlack)].first(w)
	if by == nil || read.Send-at <= bound {
		return nil
	}
	return by
}

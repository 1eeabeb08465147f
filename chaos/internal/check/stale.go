package check

import (
	"fmt"
	"sort"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// staleReads checks that a local read returns at least everything that was
// committed longer ago than the bound.
//
// The age of what a read returned is the time from the acknowledgement of the
// oldest quorum write that had surely replaced it, to the moment the read was
// sent. Only writes at quorum count: no other acknowledgement means committed;
// and only those that no legal reset of the cluster came after.
func (v *Verdicts) staleReads(in *Input, windows []result.Window, bound time.Duration) {
	resets, _ := resetsOf(in, windows)
	records, versions := recordsOf(in.History)
	c := result.Check{Name: "stale reads", Verdict: result.NotExercised, Detail: "no local read was answered"}
	for k, r := range records {
		if len(r.reads) == 0 {
			continue
		}
		replaced := make([]*replacement, len(resets)+1)
		for epoch := range replaced {
			replaced[epoch] = replacements(r, func(w *history.Op) bool { return resets.epoch(w.Return) == epoch })
		}
		for _, read := range r.reads {
			if read.Mode != "local" {
				continue
			}
			c.Checked++
			kind, w := explain(k, read, versions)
			if kind == result.Phantom {
				v.stale(&c, k, read, w, kind, 0)
				continue
			}
			if kind == result.Corrupt {
				v.stale(&c, k, read, nil, kind, 0)
				continue
			}
			by := replaced[resets.epoch(read.Send+resetSlack)].first(w)
			if by == nil {
				continue
			}
			age := read.Send - by.Return
			if age <= 0 {
				continue
			}
			c.Worst = max(c.Worst, age)
			if age > bound {
				kind := result.Stale
				if by.Removes() {
					kind = result.Resurrected
				}
				v.stale(&c, k, read, by, kind, age)
			}
		}
	}
	switch {
	case c.Count > 0:
		c.Verdict = result.Violated
		c.Detail = fmt.Sprintf("%d reads older than %v, the worst %v", c.Count, bound, c.Worst.Round(time.Millisecond))
	case c.Checked > 0:
		c.Verdict = result.Pass
		c.Detail = fmt.Sprintf("the oldest value read had been replaced %v before, %v is allowed", c.Worst.Round(time.Millisecond), bound)
	}
	v.add(c)
}

// resetSlack is how much later than it happened a reset may have been observed.
const resetSlack = 100 * time.Millisecond

func (v *Verdicts) stale(c *result.Check, k key, read, by *history.Op, kind result.LossKind, age time.Duration) {
	c.Count++
	loss := result.Loss{Kind: kind, Cache: k.cache, Key: k.entry, Node: read.Node, Found: fmt.Sprintf("version %d at %.3fs", read.Version, read.Send.Seconds())}
	if by != nil {
		loss.Version, loss.Level, loss.AckedAt = by.Version, by.Level, by.Return
	}
	if len(c.Examples) < 5 {
		c.Examples = append(c.Examples, fmt.Sprintf("%s: %s/%s on %s at %.3fs: read version %d, replaced %v before", kind, k.cache, k.entry, read.Node, read.Send.Seconds(), read.Version, age.Round(time.Millisecond)))
	}
	if len(v.Losses) < maxListed {
		v.Losses = append(v.Losses, loss)
	}
}

// replacement finds the committed write that replaced another.
type replacement struct {
	quorum   []*history.Op // ok at quorum, by Send
	earliest []*history.Op // for each, the one from there on that returned first
	present  *history.Op   // the first to return of those that nothing can have removed
}

func replacements(r *record, counts func(*history.Op) bool) *replacement {
	p := new(replacement)
	for _, w := range r.writes {
		if w.Outcome == history.OK && w.Level == "quorum" && counts(w) {
			p.quorum = append(p.quorum, w)
		}
	}
	p.earliest = make([]*history.Op, len(p.quorum))
	var first *history.Op
	for i := len(p.quorum) - 1; i >= 0; i-- {
		w := p.quorum[i]
		if first == nil || w.Return < first.Return {
			first = w
		}
		p.earliest[i] = first
		if !w.Removes() && !r.removedAfter(w) && (p.present == nil || w.Return < p.present.Return) {
			p.present = w
		}
	}
	return p
}

// first returns the quorum write that was acknowledged first of all that were
// sent after w had settled, or nil. With w nil it speaks of a miss: the first
// one that must have been there, since nothing can have removed it.
func (p *replacement) first(w *history.Op) *history.Op {
	if w == nil {
		return p.present
	}
	after := settled(w)
	i := sort.Search(len(p.quorum), func(i int) bool { return p.quorum[i].Send > after })
	if i == len(p.quorum) {
		return nil
	}
	return p.earliest[i]
}

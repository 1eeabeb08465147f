package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// tag names an operation across its copies.
type tag struct{ session, seq uint64 }

// copiesOf sorts the operations that carry a client's tag by it. The copies of
// each are in the order in which they were sent.
func copiesOf(ops []history.Op) map[tag][]*history.Op {
	copies := map[tag][]*history.Op{}
	for i := range ops {
		if o := &ops[i]; o.Session != 0 {
			t := tag{o.Session, o.Seq}
			copies[t] = append(copies[t], o)
		}
	}
	for _, c := range copies {
		slices.SortFunc(c, func(a, b *history.Op) int { return cmp.Compare(a.Send, b.Send) })
	}
	return copies
}

// merged returns ops with the copies of each tagged operation as one: sent when
// the first copy was, done when one of them was acknowledged first, unknown if
// none was and one may have taken effect.
func merged(ops []history.Op) []history.Op {
	copies := copiesOf(ops)
	if len(copies) == 0 {
		return ops
	}
	var out []history.Op
	for i := range ops {
		o := &ops[i]
		switch c := copies[tag{o.Session, o.Seq}]; {
		case o.Session == 0:
			out = append(out, *o)
		case o == c[0]:
			out = append(out, mergedCopies(c))
		}
	}
	return out
}

func mergedCopies(copies []*history.Op) history.Op {
	best := copies[0]
	for _, c := range copies[1:] {
		switch {
		case c.Outcome == history.OK && (best.Outcome != history.OK || c.Return < best.Return),
			c.Outcome == history.Info && best.Outcome != history.OK && (best.Outcome == history.Fail || c.Return > best.Return):
			best = c
		}
	}
	o := *best
	o.Intended, o.Send = copies[0].Intended, copies[0].Send
	return o
}

// exactlyOnce checks that operations which were sent several times under one
// tag took effect once: every acknowledgement names the same place in the log,
// and what is read of their keys never goes back to what a late copy wrote.
func (v *Verdicts) exactlyOnce(in *Input, all *history.History) {
	c := result.Check{Name: "exactly once", Verdict: result.Pass}
	violation := func(format string, args ...any) {
		c.Count++
		if len(c.Examples) < 10 {
			c.Examples = append(c.Examples, fmt.Sprintf(format, args...))
		}
	}
	copies := copiesOf(all.Ops)
	sent, twice, nodes := 0, 0, map[int]int{}
	keys := map[key]bool{}
	for _, t := range sortedTags(copies) {
		acks, through := 0, map[string]bool{}
		first := map[uint64]*history.Op{} // by cluster: another one has forgotten everything
		for _, o := range copies[t] {
			keys[key{o.Cache, o.Key}] = true
			if o.Node != "" {
				sent++
			}
			if o.Outcome != history.OK {
				continue
			}
			acks++
			through[o.Node] = true
			switch f := first[o.Cluster]; {
			case f == nil:
				first[o.Cluster] = o
			case f.Index != o.Index:
				violation("%s of %s/%s, operation %d of session %016x, took effect at index %d (said %s at %.3fs) and at %d (said %s at %.3fs)",
					o.Kind, o.Cache, o.Key, t.seq, t.session, f.Index, f.Node, f.Return.Seconds(), o.Index, o.Node, o.Return.Seconds())
			}
		}
		if acks > 1 {
			twice++
			nodes[len(through)]++
		}
	}
	logs := logsOf(in)
	reads := 0
	for k := range keys {
		l := logs.keys[k]
		for _, read := range l.reads {
			reads++
			if newer := logs.contradicted(l, read); newer != nil {
				violation("%s", describeContradiction(k, read, newer))
			}
		}
	}
	c.Checked = int64(len(copies))
	c.Detail = fmt.Sprintf("%d operations sent %d times; %d acknowledged more than once, %d of these through several nodes, always at one index; %d reads of their keys", len(copies), sent, twice, twice-nodes[1], reads)
	switch {
	case c.Count > 0:
		c.Verdict, c.Detail = result.Violated, c.Examples[0]
	case twice-nodes[1] < minimum:
		c.Verdict = result.NotExercised
		c.Detail = fmt.Sprintf("only %d operations were acknowledged through several nodes, expected %d at least", twice-nodes[1], minimum)
	}
	v.add(c)
}

func sortedTags(copies map[tag][]*history.Op) []tag {
	tags := make([]tag, 0, len(copies))
	for t := range copies {
		tags = append(tags, t)
	}
	slices.SortFunc(tags, func(a, b tag) int { return cmp.Or(cmp.Compare(a.session, b.session), cmp.Compare(a.seq, b.seq)) })
	return tags
}

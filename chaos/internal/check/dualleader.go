package check

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// dualLeader checks that no two nodes claimed one term of one cluster, and that
// none went on acknowledging when another one led.
//
// The observer polls, so a claim shorter than its interval can escape it; an
// acknowledgement cannot, it names its term. No operation that was sent after a
// quorum write of a newer term was acknowledged may be acknowledged in an older
// one: at quorum never, since the older leader cannot have a majority any more;
// at the other levels not for long, since a leader that has lost its majority
// has to notice. That one keeps acknowledging for a moment is what these levels
// mean.
func (v *Verdicts) dualLeader(in *Input) {
	c := result.Check{Name: "dual leader", Verdict: result.NotExercised, Detail: "no leader was observed"}
	c.Examples, c.Checked = twiceClaimed(in)
	for cluster, acks := range acksOf(in.History) {
		for _, pair := range deposed(acks) {
			c.Examples = append(c.Examples, fmt.Sprintf("%s of %s/%s at %s, sent at %.3fs, was acknowledged in term %d of cluster %016x; in term %d a quorum write had been at %.3fs",
				pair[1].Kind, pair[1].Cache, pair[1].Key, pair[1].Level, pair[1].Send.Seconds(), pair[1].Term, cluster, pair[0].Term, pair[0].Return.Seconds()))
		}
	}
	c.Count = int64(len(c.Examples))
	c.Examples = c.Examples[:min(len(c.Examples), 10)]
	switch {
	case c.Count > 0:
		c.Verdict, c.Detail = result.Violated, c.Examples[0]
	case c.Checked > 0:
		c.Verdict, c.Detail = result.Pass, fmt.Sprintf("%d terms observed, each with one leader", c.Checked)
	}
	v.add(c)
}

// twiceClaimed returns what two nodes both claimed to lead, and how many terms
// were claimed.
func twiceClaimed(in *Input) (say []string, terms int64) {
	type claim struct {
		cluster string
		term    uint64
	}
	claims := map[claim]reign{}
	for _, r := range reignsOf(in.Events, in.end()) {
		k := claim{r.cluster, r.term}
		first, known := claims[k]
		if !known {
			claims[k] = r
		}
		if !known || first.node == r.node {
			continue
		}
		text := fmt.Sprintf("%s and %s both led term %d of cluster %s (%s at %.3fs)", first.node, r.node, r.term, r.cluster, r.node, r.from.Seconds())
		if from, to := max(first.from, r.from), min(first.to, r.to); from < to {
			text += fmt.Sprintf(", at once for %v; meanwhile %s acknowledged %d writes and %s %d", (to - from).Round(time.Millisecond),
				first.node, acknowledged(in.History, first, from, to), r.node, acknowledged(in.History, r, from, to))
		}
		say = append(say, text)
	}
	return say, int64(len(claims))
}

// acknowledged counts the writes that were acknowledged through a node in the
// term that it claimed.
func acknowledged(h *history.History, r reign, from, to time.Duration) (n int) {
	for i := range h.Ops {
		o := &h.Ops[i]
		if o.Write() && o.Outcome == history.OK && o.Node == r.node && o.Term == r.term && from <= o.Return && o.Return <= to {
			n++
		}
	}
	return n
}

// acksOf returns the acknowledged writes that name their term, by cluster.
func acksOf(h *history.History) map[uint64][]*history.Op {
	acks := map[uint64][]*history.Op{}
	for i := range h.Ops {
		if o := &h.Ops[i]; o.Write() && o.Outcome == history.OK && o.Level != "" && o.Term > 0 {
			acks[o.Cluster] = append(acks[o.Cluster], o)
		}
	}
	return acks
}

// abdication is how long an old leader may go on at the levels that need no
// majority: until it notices, which takes it up to two election timeouts, and as
// much again for the machine.
const abdication = time.Second

// deposed returns the writes that were acknowledged in an older term than a
// quorum write before them, each with that one first.
func deposed(acks []*history.Op) (pairs [][2]*history.Op) {
	bySend, quorum := slices.Clone(acks), slices.DeleteFunc(slices.Clone(acks), func(o *history.Op) bool { return o.Level != "quorum" })
	slices.SortFunc(bySend, func(a, b *history.Op) int { return cmp.Compare(a.Send, b.Send) })
	slices.SortFunc(quorum, func(a, b *history.Op) int { return cmp.Compare(a.Return, b.Return) })
	// newest[i] is the one with the highest term among quorum[:i+1].
	newest := make([]*history.Op, len(quorum))
	for i, o := range quorum {
		newest[i] = o
		if i > 0 && newest[i-1].Term >= o.Term {
			newest[i] = newest[i-1]
		}
	}
	for _, w := range bySend {
		sent := w.Send
		if w.Level != "quorum" {
			sent -= abdication
		}
		i, _ := slices.BinarySearchFunc(quorum, sent, func(o *history.Op, t time.Duration) int { return cmp.Compare(o.Return, t) })
		if i > 0 && newest[i-1].Term > w.Term {
			pairs = append(pairs, [2]*history.Op{newest[i-1], w})
		}
	}
	return pairs
}

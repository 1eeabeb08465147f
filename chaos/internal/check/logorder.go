package check

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// logs is what the acknowledgements say about the replicated log: at which
// index each quorum write stands. Other levels are acknowledged before that is
// final.
type logs struct {
	keys     map[key]*keyLog
	versions map[int64]*history.Op
}

// keyLog is the part of the log that is about one entry.
type keyLog struct {
	writes map[uint64][]*history.Op // by cluster; in the order of their indexes
	reads  []*history.Op            // answered ones, whatever they found, of all phases
	// removed says that there is a remove whose place is not known, or might be.
	removed bool
}

func placed(o *history.Op) bool {
	return o.Write() && o.Outcome == history.OK && o.Level == "quorum" && o.Index > 0
}

// logsOf reads the history, in which an operation is there once.
func logsOf(in *Input) *logs {
	h := in.History
	l := &logs{keys: map[key]*keyLog{}, versions: map[int64]*history.Op{}}
	for i := range h.Ops {
		o := &h.Ops[i]
		k := key{o.Cache, o.Key}
		kl := l.keys[k]
		if kl == nil {
			kl = &keyLog{writes: map[uint64][]*history.Op{}, removed: in.forgets(k.cache)}
			l.keys[k] = kl
		}
		switch {
		case !o.Write():
			if o.Outcome == history.OK {
				kl.reads = append(kl.reads, o)
			}
			continue
		case placed(o):
			kl.writes[o.Cluster] = append(kl.writes[o.Cluster], o)
		case o.Removes() && o.Outcome != history.Fail:
			kl.removed = true
		}
		if o.Version > 0 {
			l.versions[o.Version] = o
		}
	}
	for _, kl := range l.keys {
		for _, ws := range kl.writes {
			slices.SortFunc(ws, func(a, b *history.Op) int { return cmp.Compare(a.Index, b.Index) })
		}
	}
	return l
}

// contradicted returns the write that a read should have seen, nil if the read
// is right as far as is known. A read says up to which index the log had been
// applied when it was answered, so it has to return what the newest write up to
// there left behind, or something newer still.
func (l *logs) contradicted(kl *keyLog, read *history.Op) *history.Op {
	ws := kl.writes[read.Cluster]
	n := sort.Search(len(ws), func(i int) bool { return ws[i].Index > read.Index })
	if n == 0 || read.Index == 0 {
		return nil
	}
	newest := ws[n-1]
	if read.Found {
		w := l.versions[read.Version]
		if w == nil || !placed(w) || w.Cluster != read.Cluster || w.Index >= newest.Index {
			return nil // a value that nobody wrote is for other checks
		}
		return newest
	}
	// Writes of one index were ordered by their place in the entry, which is
	// not known.
	first := sort.Search(len(ws), func(i int) bool { return ws[i].Index >= newest.Index })
	if kl.removed || slices.ContainsFunc(ws[first:], (*history.Op).Removes) {
		return nil
	}
	return newest
}

func describeContradiction(k key, read, newer *history.Op) string {
	found, wrote := "nothing", fmt.Sprintf("version %d was written", newer.Version)
	if read.Found {
		found = fmt.Sprintf("version %d", read.Version)
	}
	if newer.Removes() {
		wrote = "it was removed"
	}
	return fmt.Sprintf("%s/%s: a read on %s at %.3fs saw %s, having applied index %d; %s at index %d", k.cache, k.entry, read.Node, read.Send.Seconds(), found, read.Index, wrote, newer.Index)
}

// logOrder checks that what the nodes say is one log: a quorum write sent after
// another one was acknowledged has a higher index, and each read shows what was
// newest at the index it names. Two leaders that both commit, or entries
// applied in another order, break it.
func (v *Verdicts) logOrder(in *Input) {
	c := result.Check{Name: "log order", Verdict: result.NotExercised, Detail: "no quorum write said where it stands in the log"}
	violation := func(text string) {
		c.Count++
		if len(c.Examples) < 10 {
			c.Examples = append(c.Examples, text)
		}
	}
	l := logsOf(in)
	writes := map[uint64][]*history.Op{} // by cluster
	reads := 0
	for k, kl := range l.keys {
		for cluster, ws := range kl.writes {
			writes[cluster] = append(writes[cluster], ws...)
		}
		for _, read := range kl.reads {
			if read.Index == 0 {
				continue
			}
			reads++
			if newer := l.contradicted(kl, read); newer != nil {
				violation(describeContradiction(k, read, newer))
			}
		}
	}
	for _, ws := range writes {
		c.Checked += int64(len(ws))
		for _, pair := range disordered(ws) {
			violation(fmt.Sprintf("%s of %s/%s was acknowledged at index %d at %.6fs, and %s of %s/%s, sent at %.6fs, at index %d",
				pair[0].Kind, pair[0].Cache, pair[0].Key, pair[0].Index, pair[0].Return.Seconds(),
				pair[1].Kind, pair[1].Cache, pair[1].Key, pair[1].Send.Seconds(), pair[1].Index))
		}
	}
	slices.SortFunc(c.Examples, strings.Compare)
	switch {
	case c.Count > 0:
		c.Verdict, c.Detail = result.Violated, c.Examples[0]
	case c.Checked > 0:
		c.Verdict = result.Pass
		c.Detail = fmt.Sprintf("%d quorum writes and %d reads tell of one log", c.Checked, reads)
	}
	v.add(c)
}

// disordered returns the writes that were sent after another one with the same
// or a higher index had been acknowledged, each with that other one first.
func disordered(ws []*history.Op) (pairs [][2]*history.Op) {
	bySend, byReturn := slices.Clone(ws), slices.Clone(ws)
	slices.SortFunc(bySend, func(a, b *history.Op) int { return cmp.Compare(a.Send, b.Send) })
	slices.SortFunc(byReturn, func(a, b *history.Op) int { return cmp.Compare(a.Return, b.Return) })
	var highest *history.Op // of those returned by now
	n := 0
	for _, w := range bySend {
		for ; n < len(byReturn) && byReturn[n].Return < w.Send; n++ {
			if highest == nil || byReturn[n].Index > highest.Index {
				highest = byReturn[n]
			}
		}
		if highest != nil && highest.Index >= w.Index {
			pairs = append(pairs, [2]*history.Op{highest, w})
		}
	}
	return pairs
}

package check

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// session checks what a client is promised that stays at one node: it reads its
// own writes from their acknowledgement on, and what it has read once is not
// replaced by something older. As a node cannot tell its clients apart in this,
// the promise is checked for all of them together: whatever was acknowledged
// through a node, or read there, is seen by every local read there that is sent
// afterwards, while its process lives.
func (v *Verdicts) session(l *ledger) {
	c := result.Check{Name: "session", Verdict: result.NotExercised}
	s := sessions{ledger: l}
	for _, k := range l.keys() {
		s.entry(k, l.records[k])
	}
	c.Checked, c.Count, c.Examples = int64(s.afterWrite+s.afterRead), int64(len(s.broken)), s.examples
	v.Losses = append(v.Losses, s.broken[:min(len(s.broken), maxListed)]...)
	c.Detail = fmt.Sprintf("%d local reads after a write acknowledged through the same node, %d after another read there", s.afterWrite, s.afterRead)
	switch {
	case c.Count > 0:
		c.Verdict, c.Detail = result.Violated, fmt.Sprintf("%d of them are older: %s", c.Count, c.Examples[0])
	case s.afterWrite < minimum || s.afterRead < minimum:
		c.Detail += fmt.Sprintf("; expected %d of each at least", minimum)
	default:
		c.Verdict = result.Pass
	}
	v.add(c)
}

type sessions struct {
	*ledger
	afterWrite, afterRead int
	broken                []result.Loss
	examples              []string
}

// known is a write that everybody at a node must see from a moment on.
type known struct {
	w    *history.Op
	from time.Duration
	read *history.Op // by which it is known; nil: it was acknowledged there
}

// place is a node while one process of it lives, in one epoch.
type place struct {
	node        string
	life, epoch int
}

func (s *sessions) entry(k key, r *record) {
	facts := map[place][]known{}
	reads := map[place][]*history.Op{}
	learn := func(at place, f known) { facts[at] = append(facts[at], f) }
	for _, w := range r.writes {
		if at, ok := s.placeOf(w); ok && w.Outcome == history.OK && s.sure(w) {
			learn(at, known{w: w, from: w.Return})
		}
	}
	for _, read := range r.reads {
		at, ok := s.placeOf(read)
		if !ok || read.Mode != "local" {
			continue
		}
		reads[at] = append(reads[at], read)
		if kind, w := explain(k, read, s.versions); kind == "" && w != nil && s.sure(w) {
			learn(at, known{w, read.Return, read})
		}
	}
	places := make([]place, 0, len(reads))
	for at := range reads {
		places = append(places, at)
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.life, b.life), cmp.Compare(a.epoch, b.epoch))
	})
	for _, at := range places {
		s.compare(k, r, facts[at], reads[at])
	}
}

func (s *sessions) placeOf(o *history.Op) (place, bool) {
	life, ok := s.life(o.Node, o)
	return place{o.Node, life, s.resets.epoch(o.Return)}, ok && o.Node != "" && !s.resets.between(o.Send, o.Return)
}

// sure reports whether a write that somebody knows of cannot be lost any more,
// or may not be.
func (s *sessions) sure(w *history.Op) bool {
	return w.Outcome == history.OK && w.Level != "" && (s.committed(w) != never || !s.allows(w))
}

// compare goes through the reads at one place in the order of time, beside what
// must be known there: the write that is highest in the log, and the one that
// was sent last.
func (s *sessions) compare(k key, r *record, facts []known, reads []*history.Op) {
	slices.SortFunc(facts, func(a, b known) int { return cmp.Compare(a.from, b.from) })
	slices.SortFunc(reads, func(a, b *history.Op) int { return cmp.Compare(a.Send, b.Send) })
	var highest, latest *known
	n := 0
	wrote, had := false, false
	for _, read := range reads {
		for ; n < len(facts) && facts[n].from < read.Send; n++ {
			f := &facts[n]
			wrote, had = wrote || f.read == nil, had || f.read != nil
			if latest == nil || f.w.Send > latest.w.Send {
				latest = f
			}
			if i, ok := s.position(f.w); ok && (highest == nil || highest.w.Cluster == f.w.Cluster && i > highest.w.Index) {
				highest = f
			}
		}
		if wrote {
			s.afterWrite++
		}
		if had {
			s.afterRead++
		}
		for _, f := range []*known{highest, latest} {
			if f != nil && s.older(k, r, read, f.w) {
				s.report(k, r, read, f)
				break
			}
		}
	}
}

// older reports whether a read surely shows something from before w.
func (s *sessions) older(k key, r *record, read, w *history.Op) bool {
	kind, found := explain(k, read, s.versions)
	if kind != "" {
		return false // a matter of other checks
	}
	if found != nil {
		return found != w && s.before(found, w)
	}
	if w.Removes() || r.forgets {
		return false
	}
	// Something may have removed it since.
	return !slices.ContainsFunc(r.writes, func(x *history.Op) bool { return x.Removes() && !s.before(x, w) })
}

func (s *sessions) report(k key, r *record, read *history.Op, f *known) {
	kind := result.Stale
	if f.w.Removes() {
		kind = result.Resurrected
	}
	loss := s.describe(kind, k, f.w)
	loss.Node = read.Node
	loss.Found = "nothing"
	if read.Found {
		loss.Found = fmt.Sprintf("version %d", read.Version)
	}
	loss.Found += fmt.Sprintf(" at %.3fs", read.Send.Seconds())
	loss.History = around(r, f.w)
	how := fmt.Sprintf("acknowledged there at %.3fs", f.from.Seconds())
	if f.read != nil {
		how = fmt.Sprintf("read there until %.3fs", f.from.Seconds())
	}
	what := fmt.Sprintf("version %d", f.w.Version)
	if f.w.Removes() {
		what = "its removal"
	}
	s.broken = append(s.broken, loss)
	if len(s.examples) < 10 {
		s.examples = append(s.examples, fmt.Sprintf("%s/%s on %s: a read found %s, older than %s, which was %s", k.cache, k.entry, read.Node, loss.Found, what, how))
	}
}

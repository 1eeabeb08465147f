package check

import (
	"cmp"
	"fmt"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// Preloaded is what became of the entries that were there before the load. Those
// that somebody used since are in the history; of the others, which can be
// millions, this is what reading them on every node came to.
type Preloaded struct {
	Entries int64         `json:"entries"`
	Took    time.Duration `json:"took_ns"` // to write all of them
	// Untouched is how many of them nobody used, and Reads how often one of those
	// was read in the end: each on every node, if nothing went wrong.
	Untouched int64 `json:"untouched"`
	Reads     int64 `json:"reads"`
	// Wrong counts reads that found nothing or another value.
	Wrong    int64    `json:"wrong,omitempty"`
	Examples []string `json:"examples,omitempty"`
	// Verified says that every read was made, and Error why not.
	Verified bool   `json:"verified"`
	Error    string `json:"error,omitempty"`
}

// preloaded checks that what was there before the load, and nobody used, is
// there on every node as it was.
func (v *Verdicts) preloaded(in *Input) {
	c := result.Check{Name: "preloaded entries", Verdict: result.Unknown}
	p := in.Facts.Preloaded
	if p == nil {
		c.Detail = "the run ended before they were written"
		v.add(c)
		return
	}
	c.Checked, c.Count, c.Examples = p.Reads, p.Wrong, p.Examples
	switch want := p.Untouched * int64(len(in.Nodes)); {
	case p.Wrong > 0:
		c.Verdict, c.Detail = result.Violated, fmt.Sprintf("%d of %d reads found nothing or another value", p.Wrong, p.Reads)
	case !p.Verified || p.Reads != want:
		c.Detail = fmt.Sprintf("%d reads were made: %s", p.Reads, cmp.Or(p.Error, "the run ended before all were"))
	case p.Untouched == 0:
		c.Verdict, c.Detail = result.NotExercised, fmt.Sprintf("the load used all %d of them: the other checks judge", p.Entries)
	default:
		c.Verdict = result.Pass
		c.Detail = fmt.Sprintf("%d entries, written in %v; the %d that nobody used since are as they were on %d nodes", p.Entries, p.Took.Round(10*time.Millisecond), p.Untouched, len(in.Nodes))
	}
	v.add(c)
}

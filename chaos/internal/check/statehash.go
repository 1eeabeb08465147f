package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hacache/hacache/reports/result"
)

// Digest is what a node says about its copy at one moment.
type Digest struct {
	Node    string `json:"node"`
	Applied uint64 `json:"applied"`
	Hash    uint64 `json:"hash"` // of all that is replicated, as of Applied
	// Evicted and Expired count, by cache, what the node's process has removed
	// for want of room and after its time.
	Evicted map[string]uint64 `json:"evicted,omitempty"`
	Expired map[string]uint64 `json:"expired,omitempty"`
	// MemoryBound is what the node's bounds add up to, with its data, in bytes.
	MemoryBound uint64 `json:"memory_bound,omitempty"`
}

// stateHash checks that all nodes hold the same in the end: entries, with the
// place in the log that each was written at and the time at which it expires,
// and sessions. That goes further than final reads: it sees what nobody reads,
// and what was evicted here and not there.
func (v *Verdicts) stateHash(in *Input) {
	c := result.Check{Name: "state hash", Verdict: result.Unknown, Checked: int64(len(in.Facts.States))}
	hashes := map[uint64]map[uint64][]string{} // by index, by hash: nodes
	for _, d := range in.Facts.States {
		if hashes[d.Applied] == nil {
			hashes[d.Applied] = map[uint64][]string{}
		}
		hashes[d.Applied][d.Hash] = append(hashes[d.Applied][d.Hash], d.Node)
	}
	for index, nodes := range hashes {
		if len(nodes) > 1 {
			var say []string
			for hash, names := range nodes {
				say = append(say, fmt.Sprintf("%s %014x", strings.Join(names, ", "), hash))
			}
			slices.Sort(say)
			c.Count++
			c.Examples = append(c.Examples, fmt.Sprintf("at index %d: %s", index, strings.Join(say, "; ")))
		}
	}
	forgot, some := in.forgotten()
	switch {
	case c.Count > 0:
		c.Verdict, c.Detail = result.Violated, "the nodes differ "+c.Examples[0]
	case in.Cannot[c.Name] != "":
		c.Verdict, c.Detail = result.NotExercised, in.Cannot[c.Name]
	case in.Elsewhere && in.Facts.StateError != "": // as it may be all the time where others write
		c.Verdict, c.Detail = result.NotExercised, in.Facts.StateError
	case len(hashes) != 1 || in.Facts.StateError != "":
		c.Detail = cmp.Or(in.Facts.StateError, "the run ended before the nodes could be compared")
	case len(in.Caches) > 0 && !some:
		c.Verdict, c.Detail = result.NotExercised, "the same on all nodes, but nothing was evicted and nothing expired"
	default:
		c.Verdict = result.Pass
		c.Detail = fmt.Sprintf("the same on %d nodes at index %d%s", len(in.Facts.States), in.Facts.States[0].Applied, forgot)
	}
	v.add(c)
}

// forgotten says what went from the caches that may forget.
func (in *Input) forgotten() (say string, some bool) {
	for _, cache := range slices.Sorted(maps.Keys(in.Caches)) {
		evicted, expired := in.Facts.Evicted[cache], in.Facts.Expired[cache]
		some = some || evicted+expired > 0
		say += fmt.Sprintf("; %s: %d evicted, %d expired", cache, evicted, expired)
	}
	return say, some
}

// unforeseen names the caches that lost entries although nothing says that they
// may. What is missing from them proves nothing.
func (in *Input) unforeseen() []string {
	var say []string
	for cache, n := range in.Facts.Evicted {
		if n > 0 && !in.Caches[cache].Bounded {
			say = append(say, fmt.Sprintf("%d entries of cache %s were evicted, and it has no bound", n, cache))
		}
	}
	for cache, n := range in.Facts.Expired {
		if n > 0 && !in.Caches[cache].Expiring {
			say = append(say, fmt.Sprintf("%d entries of cache %s expired, and they have no end", n, cache))
		}
	}
	slices.Sort(say)
	return say
}

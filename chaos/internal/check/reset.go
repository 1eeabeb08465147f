package check

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// resets are the moments at which a cluster was legally formed anew, with
// nothing in it, in order of time. They divide a run into epochs: what was
// acknowledged in one may be gone in the next.
type resets []time.Duration

// epoch counts the resets up to t.
func (r resets) epoch(t time.Duration) int {
	n, found := slices.BinarySearch(r, t)
	if found {
		n++
	}
	return n
}

// between reports whether a reset may have happened from one moment to another.
func (r resets) between(from, to time.Duration) bool {
	return r.epoch(from) != r.epoch(to+resetSlack)
}

// resetsOf finds the moments at which a leader of another cluster was first
// seen. That is legal only after a majority of the nodes had failed at once, and
// the cluster before had not gone on after that; where it was not, illegal says so.
func resetsOf(in *Input, windows []result.Window) (legal resets, illegal []string) {
	known := map[string]bool{}
	previous, before := time.Duration(-1), ""
	for _, e := range in.Events {
		if e.Kind != result.Observe || e.Role != result.RoleLeader || e.Cluster == "" || known[e.Cluster] {
			continue
		}
		known[e.Cluster] = true
		if len(known) > 1 {
			if majorityFailed(in, windows, previous, e.T, lastWrite(in.History, before, e.T)) {
				legal = append(legal, e.T)
			} else {
				illegal = append(illegal, fmt.Sprintf("%s led the new cluster %s at %.3fs, and no majority had failed", e.Node, e.Cluster, e.T.Seconds()))
			}
		}
		previous, before = e.T, e.Cluster
	}
	return legal, illegal
}

// lastWrite is when the last quorum write was sent that a cluster acknowledged up
// to some moment; -1 if there was none.
func lastWrite(h *history.History, cluster string, until time.Duration) time.Duration {
	last := time.Duration(-1)
	id, err := strconv.ParseUint(cluster, 16, 64)
	if err != nil || id == 0 {
		return last
	}
	for i := range h.Ops {
		if o := &h.Ops[i]; placed(o) && o.Cluster == id && o.Return <= until {
			last = max(last, o.Send)
		}
	}
	return last
}

// epochsOf says in which epoch the log of each cluster is. Under load a leader
// may be seen long after its nodes have served, so what an operation says of
// its log counts for more than when it was.
func epochsOf(in *Input, legal resets) map[uint64]int {
	epochs := map[uint64]int{}
	for _, e := range in.Events {
		if e.Kind != result.Observe || e.Role != result.RoleLeader {
			continue
		}
		id, err := strconv.ParseUint(e.Cluster, 16, 64)
		if _, known := epochs[id]; err == nil && !known {
			epochs[id] = legal.epoch(e.T)
		}
	}
	return epochs
}

// majorityFailed reports whether at some moment between two others a majority
// of the nodes was failed at once. A node that was killed counts as failed
// until it may be a full member again, or was seen to be: before each injection
// of a series all nodes are. A majority that failed before the cluster's last
// quorum write, and was back by then, did not end it.
func majorityFailed(in *Input, windows []result.Window, from, to, lived time.Duration) bool {
	series := map[string]bool{}
	for _, p := range in.Planned {
		series[p.Name] = p.Series != ""
	}
	for _, at := range windows {
		failed := map[string]bool{}
		back := time.Duration(0)
		for _, w := range windows {
			ended := slices.Contains(ending, w.Action)
			if series[at.Fault] && w.To < at.From {
				continue
			}
			if ended && w.From <= at.From && at.From <= w.To+rejoin && at.From <= to && w.To+rejoin >= from {
				back = max(back, w.To+rejoin)
				for _, n := range w.Targets {
					failed[n] = true
				}
			}
		}
		if len(failed) > len(in.Nodes)/2 && lived <= back {
			return true
		}
	}
	return false
}

// ending are the faults that end processes.
var ending = []string{"kill", "term", "memory", "failpoint"}

// rejoin is how long a restarted node may take to be a full member again.
const rejoin = 5 * time.Second

// identity checks that the cluster was not formed anew without need: that
// would forget everything, however well the rest works.
func identity(in *Input, windows []result.Window) result.Check {
	legal, illegal := resetsOf(in, windows)
	c := result.Check{Name: "cluster identity", Verdict: result.Pass, Count: int64(len(illegal)), Checked: int64(len(legal) + len(illegal)), Examples: illegal}
	switch {
	case len(illegal) > 0:
		c.Verdict, c.Detail = result.Violated, illegal[0]
	case len(legal) > 0:
		c.Detail = fmt.Sprintf("formed anew %d times, each after a majority had failed at once; what was acknowledged before may be gone", len(legal))
	default:
		c.Detail = "one cluster from the beginning to the end"
	}
	return c
}

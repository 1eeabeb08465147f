package check

import (
	"slices"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// joining is a node on its way from the start of its process to being ready: a
// voter, or the leader, with a fresh copy.
type joining struct {
	node     string
	from, to time.Duration
	ready    bool // at to; else to is the end of the evidence
}

// joinings returns those that began after the load had, in the order of their
// beginnings. One that was ended before it was ready says nothing and is left
// out.
func joinings(in *Input) []joining {
	var all []joining
	end := in.end()
	ended := map[string]bool{}
	open := map[string]int{} // by node, the index in all
	for _, e := range in.Events {
		i, underway := open[e.Node]
		switch {
		case e.Kind == result.Process && e.State == result.ProcessExited:
			ended[e.Node] = true
			if underway {
				all[i].node = ""
				delete(open, e.Node)
			}
		case e.Kind == result.Process && e.State == result.ProcessRunning && ended[e.Node]:
			ended[e.Node] = false
			if e.T >= in.Facts.LoadFrom {
				open[e.Node] = len(all)
				all = append(all, joining{node: e.Node, from: e.T, to: end})
			}
		case e.Kind == result.Observe && underway && (e.Role == result.RoleLeader || e.Role == result.RoleFollower):
			all[i].to, all[i].ready = e.T, true
			delete(open, e.Node)
		}
	}
	return slices.DeleteFunc(all, func(j joining) bool { return j.node == "" })
}

// joiningAt returns whether some node was joining at a time.
func joiningAt(in *Input) func(t time.Duration) bool {
	all := joinings(in)
	return func(t time.Duration) bool {
		return slices.ContainsFunc(all, func(j joining) bool { return j.from <= t && t < j.to })
	}
}

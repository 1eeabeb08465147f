package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/hacache/hacache/chaos/internal/cluster"
)

// cut is traffic that no longer flows.
type cut struct {
	paths  []path
	hit    []string // the nodes that are cut off
	detail string   // what else is to be said; may be empty
}

// severed says what partition, isolate, split, bridge and ring cut.
func severed(ctx context.Context, c *cluster.Cluster, s Spec, targets []*cluster.Node) (cut, error) {
	switch s.Action {
	case "split":
		return split(c, s, targets)
	case "bridge":
		return bridge(c, s, targets)
	case "ring":
		return ring(c, s)
	}
	ps, err := pathsTo(ctx, c, s, targets)
	if err == nil && s.Action == "isolate" && s.Clients == "cut" {
		ps = append(ps, paths(c, names(targets), []string{cluster.Clients}, s.Direction)...)
	}
	return cut{paths: ps, hit: names(targets)}, err
}

// split cuts the nodes into two sides: the target with so many others, and the
// rest. Without a number the target's side is the largest minority.
func split(c *cluster.Cluster, s Spec, targets []*cluster.Node) (cut, error) {
	all := c.Nodes()
	count := s.Count
	if count == 0 {
		count = (len(all) - 1) / 2
	}
	side := slices.Clone(targets)
	side = append(side, some(without(all, targets), s.Pick>>16, count-len(targets))...)
	far := names(without(all, side))
	if len(far) == 0 {
		return cut{}, fmt.Errorf("%w: %d nodes on one side leave none for the other", ErrNotAvailable, count)
	}
	return cut{paths: paths(c, names(side), far, "both"), hit: names(side)}, nil
}

// bridge leaves the target as the only node that sees all others; those fall
// into two halves that do not see each other.
func bridge(c *cluster.Cluster, s Spec, targets []*cluster.Node) (cut, error) {
	others := shuffled(without(c.Nodes(), targets), s.Pick)
	if len(others) < 2 {
		return cut{}, fmt.Errorf("%w: a bridge needs three nodes", ErrNotAvailable)
	}
	half := len(others) / 2
	return cut{paths: paths(c, names(others[:half]), names(others[half:]), "both"), hit: names(others)}, nil
}

// ring puts the nodes in a circle, by seed, in which each sees a majority, the
// ones next to it, and no two see the same.
func ring(c *cluster.Cluster, s Spec) (cut, error) {
	circle := shuffled(c.Nodes(), s.Pick)
	n := len(circle)
	reach := (n/2 + 1) / 2 // to either side: with itself it sees 2*reach+1, a majority
	if n < 5 {
		return cut{}, fmt.Errorf("%w: with %d nodes every majority is seen by all", ErrNotAvailable, n)
	}
	var ps []path
	for i := range n {
		for j := i + 1; j < n; j++ {
			if apart := min(j-i, n-(j-i)); apart > reach {
				ps = append(ps, paths(c, []string{circle[i].Name}, []string{circle[j].Name}, "both")...)
			}
		}
	}
	return cut{paths: ps, hit: names(c.Nodes()), detail: fmt.Sprintf(", in the circle %v", names(circle))}, nil
}

// shuffled returns the nodes in an order that pick decides.
func shuffled(nodes []*cluster.Node, pick uint64) []*cluster.Node {
	out := slices.Clone(nodes)
	rand.New(rand.NewPCG(pick, 1)).Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// dialed are the links, as FROM and TO, on which somebody dials: the targets the
// others with direction out, the others the targets with in.
func dialed(ctx context.Context, c *cluster.Cluster, s Spec, targets []*cluster.Node) (links [][2]string, err error) {
	far := c.Nodes()
	if s.From != "" && s.From != "rest" {
		if far, err = resolve(ctx, c, &Spec{Target: s.From, Pick: s.Pick >> 32}); err != nil {
			return nil, err
		}
	}
	for _, t := range names(targets) {
		for _, o := range names(without(far, targets)) {
			if s.Direction != "in" {
				links = append(links, [2]string{t, o})
			}
			if s.Direction != "out" {
				links = append(links, [2]string{o, t})
			}
		}
	}
	if len(links) == 0 {
		return nil, fmt.Errorf("%w: %s and %s are the same node now", ErrNotAvailable, s.Target, s.From)
	}
	return links, nil
}

// blockDials lets connections be opened from one side only. What the other side
// dials is refused, and what it had dialed closed; or with style stall its new
// connections are held while the old ones go on.
func blockDials(ctx context.Context, c *cluster.Cluster, s Spec, targets []*cluster.Node) (*Injection, error) {
	ends, err := dialed(ctx, c, s, targets)
	if err != nil {
		return nil, err
	}
	var links []*cluster.Link
	for _, e := range ends {
		links = append(links, c.Net.Link(e[0], e[1]))
	}
	s.begin(targets)
	if s.Style == "reject" {
		in, err := rejectLinks(ctx, links, nil, names(targets))
		if err == nil {
			in.Detail = "dials of one side refused"
		}
		return in, err
	}
	return holdNew(links, names(targets)), nil
}

// holdNew holds new connections of links.
func holdNew(links []*cluster.Link, targets []string) *Injection {
	held := func() (n int64) {
		for _, l := range links {
			n += l.Traffic(cluster.Forward).Held
		}
		return n
	}
	before := held()
	var lifts []func()
	for _, l := range links {
		for _, w := range []cluster.Way{cluster.Forward, cluster.Backward} {
			lifts = append(lifts, l.Apply(w, cluster.Conditions{Stall: true, Fresh: true}))
		}
	}
	return &Injection{
		Targets: targets, Detail: "new connections held",
		heal: func(context.Context) error {
			for _, lift := range lifts {
				lift()
			}
			return nil
		},
		bit: func(context.Context) (bool, string) {
			if n := held() - before; n > 0 {
				return true, fmt.Sprintf("%d transmissions held on new connections of %d links", n, len(links))
			}
			return false, "nobody opened a connection"
		},
	}
}

package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/hacache/hacache/chaos/internal/cluster"
)

// split cuts the nodes into two sides: the target with so many others, and the
// rest. Without a number the target's side is the largest minority.
func split(ctx context.Context, c *cluster.Cluster, s Spec, targets []*cluster.Node) (*Injection, error) {
	all := c.Nodes()
	count := s.Count
	if count == 0 {
		count = (len(all) - 1) / 2
	}
	side := slices.Clone(targets)
	side = append(side, some(without(all, targets), s.Pick>>16, count-len(targets))...)
	far := names(without(all, side))
	if len(far) == 0 {
		return nil, fmt.Errorf("%w: %d nodes on one side leave none for the other", ErrNotAvailable, count)
	}
	return sever(ctx, s, paths(c, names(side), far, "both"), names(side))
}

// bridge leaves the target as the only node that sees all others; those fall
// into two halves that do not see each other.
func bridge(ctx context.Context, c *cluster.Cluster, s Spec, targets []*cluster.Node) (*Injection, error) {
	others := shuffled(without(c.Nodes(), targets), s.Pick)
	if len(others) < 2 {
		return nil, fmt.Errorf("%w: a bridge needs three nodes", ErrNotAvailable)
	}
	half := len(others) / 2
	return sever(ctx, s, paths(c, names(others[:half]), names(others[half:]), "both"), names(others))
}

// ring puts the nodes in a circle, by seed, in which each sees a majority, the
// ones next to it, and no two see the same.
func ring(ctx context.Context, c *cluster.Cluster, s Spec) (*Injection, error) {
	circle := shuffled(c.Nodes(), s.Pick)
	n := len(circle)
	reach := (n/2 + 1) / 2 // to either side: with itself it sees 2*reach+1, a majority
	if n < 5 {
		return nil, fmt.Errorf("%w: with %d nodes every majority is seen by all", ErrNotAvailable, n)
	}
	var ps []path
	for i := range n {
		for j := i + 1; j < n; j++ {
			if apart := min(j-i, n-(j-i)); apart > reach {
				ps = append(ps, paths(c, []string{circle[i].Name}, []string{circle[j].Name}, "both")...)
			}
		}
	}
	in, err := sever(ctx, s, ps, names(c.Nodes()))
	if err == nil {
		in.Detail += fmt.Sprintf(", in the circle %v", names(circle))
	}
	return in, err
}

// shuffled returns the nodes in an order that pick decides.
func shuffled(nodes []*cluster.Node, pick uint64) []*cluster.Node {
	out := slices.Clone(nodes)
	rand.New(rand.NewPCG(pick, 1)).Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// dialed are the links on which somebody dials: the targets the others with
// direction out, the others the targets with in.
func dialed(c *cluster.Cluster, s Spec, targets, far []string) []*cluster.Link {
	var links []*cluster.Link
	for _, t := range targets {
		for _, o := range far {
			if l := c.Net.Link(t, o); l != nil && s.Direction != "in" {
				links = append(links, l)
			}
			if l := c.Net.Link(o, t); l != nil && s.Direction != "out" {
				links = append(links, l)
			}
		}
	}
	return links
}

// blockDials lets connections be opened from one side only. What the other side
// dials is refused, and what it had dialed closed; or with style stall its new
// connections are held while the old ones go on.
func blockDials(ctx context.Context, c *cluster.Cluster, s Spec, targets []*cluster.Node) (*Injection, error) {
	far := c.Nodes()
	if s.From != "" && s.From != "rest" {
		var err error
		if far, err = resolve(ctx, c, &Spec{Target: s.From, Pick: s.Pick >> 32}); err != nil {
			return nil, err
		}
	}
	links := dialed(c, s, names(targets), names(without(far, targets)))
	if len(links) == 0 {
		return nil, fmt.Errorf("%w: %s and %s are the same node now", ErrNotAvailable, s.Target, s.From)
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

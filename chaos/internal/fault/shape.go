package fault

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hacache/hacache/chaos/internal/cluster"
)

// shaping is what one action does to links, and how it is seen.
type shaping struct {
	what   cluster.Conditions
	detail string
	// count is the counter that shows it, and noun what it counts.
	count func(cluster.Traffic) int64
	noun  string
	// every says that each path must show it; else one is enough, for what
	// does not happen on every path all the time.
	every bool
}

var spreads = map[string]cluster.Spread{"": cluster.Uniform, "uniform": cluster.Uniform, "normal": cluster.Normal, "pareto": cluster.Pareto}

// shapes maps actions to what they do.
func shapes(s *Spec) shaping {
	delayed := func(t cluster.Traffic) int64 { return t.Delayed }
	burst := max(s.Burst, 1)
	switch s.Action {
	case "loss":
		return shaping{
			what: cluster.Conditions{Loss: s.Loss, Burst: float64(burst)}, count: delayed, noun: "transmissions delayed", every: true,
			detail: fmt.Sprintf("%g%% late by a retransmission timeout, in bursts of %d", 100*s.Loss, burst),
		}
	case "bandwidth":
		return shaping{
			what: cluster.Conditions{Speed: s.Bytes}, count: delayed, noun: "transmissions delayed", every: true,
			detail: fmt.Sprintf("%d bytes a second", s.Bytes),
		}
	case "slice":
		return shaping{
			what: cluster.Conditions{Piece: s.Bytes, Pause: s.Latency}, noun: "pieces cut off",
			count:  func(t cluster.Traffic) int64 { return t.Pieces },
			detail: fmt.Sprintf("pieces of %d bytes, %v apart", s.Bytes, s.Latency),
		}
	case "slow-close":
		return shaping{
			what: cluster.Conditions{LateEnd: s.Latency}, noun: "ends of connections delayed",
			count:  func(t cluster.Traffic) int64 { return t.LateEnds },
			detail: fmt.Sprintf("ends of connections %v late", s.Latency),
		}
	case "cut-after":
		return shaping{
			what: cluster.Conditions{Budget: s.Bytes}, noun: "connections closed",
			count:  func(t cluster.Traffic) int64 { return t.Reset },
			detail: fmt.Sprintf("each connection closed after %d bytes", s.Bytes),
		}
	}
	return shaping{
		what: cluster.Conditions{Latency: s.Latency, Jitter: s.Jitter, Spread: spreads[s.Spread]}, count: delayed, noun: "transmissions delayed", every: true,
		detail: fmt.Sprintf("%v ±%v one way", s.Latency, s.Jitter),
	}
}

// shape changes how the links between the targets and others behave.
func shape(ctx context.Context, c *cluster.Cluster, s Spec, targets []*cluster.Node) (*Injection, error) {
	ps, err := pathsTo(ctx, c, s, targets)
	if err != nil {
		return nil, err
	}
	s.begin(targets)
	return underway(s, ps, names(targets), shapes(&s)), nil
}

// swallow makes connections half-open: what is sent goes nowhere, and those
// that lost something are closed on heal.
func swallow(s Spec, ps []path, targets []string) *Injection {
	return underway(s, ps, targets, shaping{
		what: cluster.Conditions{Swallow: true}, detail: "bytes swallowed", noun: "bytes swallowed", every: true,
		count: func(t cluster.Traffic) int64 { return t.Swallowed },
	})
}

// flapping stalls paths for a part of each period.
func flapping(s Spec, ps []path, targets []string) *Injection {
	return underway(s, ps, targets, shaping{
		what: cluster.Conditions{Stall: true}, noun: "transmissions held", every: true,
		count:  func(t cluster.Traffic) int64 { return t.Held },
		detail: fmt.Sprintf("bytes held for %g%% of each %v", 100*s.Duty, s.Period),
	})
}

// underway puts a shaping in force on paths, or with a period for a part of it,
// again and again. Paths to and from clients need not show it: who sends there
// is the load.
func underway(s Spec, ps []path, targets []string, sh shaping) *Injection {
	in := &Injection{Targets: targets, Links: pathNames(ps), Detail: sh.detail}
	count := func(p path) (n int64) {
		for _, l := range p.legs {
			n += sh.count(l.link.Traffic(l.way))
		}
		return n
	}
	before := make([]int64, len(ps))
	for i, p := range ps {
		before[i] = count(p)
	}
	lift := alternate(s.Period, s.Duty, func() func() { return apply(ps, sh.what) })
	in.heal = func(context.Context) error { lift(); return nil }
	in.bit = func(context.Context) (bool, string) {
		var total int64
		for i, p := range ps {
			n := count(p) - before[i]
			if n == 0 && sh.every && p.from != cluster.Clients && p.to != cluster.Clients {
				return false, fmt.Sprintf("no %s on %s", sh.noun, p)
			}
			total += n
		}
		return total > 0, fmt.Sprintf("%d %s on %d paths", total, sh.noun, len(ps))
	}
	return in
}

// alternate puts something in force at once, until stop is called: all the
// time, or with a period for the share duty of each. Nothing is in force when
// stop has returned; it may be called more than once.
func alternate(period time.Duration, duty float64, apply func() (lift func())) (stop func()) {
	lift := apply()
	if period == 0 {
		return lift
	}
	on := time.Duration(float64(period) * duty)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() { lift() }()
		for pause(ctx, on) {
			lift()
			if !pause(ctx, period-on) {
				return
			}
			lift = apply()
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// pause waits; false if ctx was done first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

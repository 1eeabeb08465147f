package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hacache/hacache/chaos/internal/cluster"
	"github.com/hacache/hacache/chaos/internal/hostile"
)

// Attack is what hostile clients did to one node, and what the node owes.
type Attack struct {
	Node   string
	Kind   hostile.Kind
	Tally  hostile.Tally
	Lasted time.Duration
}

// attack lets hostile clients loose on the targets, in processes of their own,
// until it heals.
func attack(ctx context.Context, c *cluster.Cluster, s Spec, targets []*cluster.Node) (*Injection, error) {
	in := &Injection{Targets: names(targets), Detail: "hostile clients"}
	running := make([]*hostile.Process, 0, len(targets))
	before := make([]int64, len(targets))
	for i, n := range targets {
		before[i], _ = n.Memory()
	}
	in.heal = func(ctx context.Context) error {
		var errs []error
		for i, a := range running {
			r, err := a.Stop(ctx)
			errs = append(errs, err)
			in.Attacks = append(in.Attacks, Attack{Node: targets[i].Name, Kind: hostile.Kinds[s.Action], Tally: r.Tally, Lasted: r.Lasted})
		}
		return errors.Join(errs...)
	}
	in.bit = func(ctx context.Context) (bool, string) {
		bit := true
		var say []string
		for i, a := range running {
			hard, what := a.Bit(ctx)
			bit = bit && hard
			if after, err := targets[i].Memory(); err == nil {
				what += fmt.Sprintf("; memory %.1f to %.1fMiB", mib(before[i]), mib(after))
				if s.Action == "idle-streams" && s.Count > 0 {
					what += fmt.Sprintf(", %.1fKiB for each stream", float64(after-before[i])/1024/float64(s.Count))
				}
			}
			say = append(say, targets[i].Name+": "+what)
		}
		return bit, strings.Join(say, "; ")
	}
	s.begin(targets)
	for _, n := range targets {
		honest := c.Client(n.Identity)
		a, err := hostile.Launch(hostile.Spec{
			Kind: s.Action, Addr: honest.Addr, Token: honest.Token, TLS: honest.TLS, Count: s.Count, Rate: s.Rate, Size: s.Value, Seed: s.Pick,
		})
		if err != nil {
			return nil, errors.Join(err, in.Heal(ctx))
		}
		running = append(running, a)
	}
	return in, nil
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hacache/hacache/chaos/internal/cluster"
)

// The faults of this file are done by the node itself, by hooks that only a
// build with the tag "faults" has.

// moveClock moves the wall clock of nodes, or lets it drift.
func moveClock(s Spec, targets []*cluster.Node) (*Injection, error) {
	in := &Injection{Targets: names(targets), Detail: fmt.Sprintf("wall clock %+v, %+g s/s", s.Offset, s.Drift)}
	in.heal = func(context.Context) error {
		var errs []error
		for _, n := range targets {
			errs = append(errs, n.SetClock(0, 0))
		}
		return errors.Join(errs...)
	}
	s.begin(targets)
	for _, n := range targets {
		if err := n.SetClock(s.Offset, s.Drift); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrNotAvailable, err), in.Heal(context.Background()))
		}
	}
	// One is enough: a node that never leads has no need of a wall clock.
	in.bit = func(context.Context) (bool, string) {
		var read []string
		var failed error
		for _, n := range targets {
			if err := n.ClockRead(); err != nil {
				failed = err
				continue
			}
			read = append(read, n.Name)
		}
		if len(read) == 0 {
			return false, failed.Error()
		}
		return true, fmt.Sprintf("the moved clock was read by %s", strings.Join(read, ", "))
	}
	return in, nil
}

// hitPatience is how long a process may take to come to a failpoint; what only
// happens beside another fault may take longer than that fault to begin.
const hitPatience = 500 * time.Millisecond

// failpoint ends processes when they come to a point in their code. Healing
// starts them again.
func failpoint(ctx context.Context, c *cluster.Cluster, s Spec, targets []*cluster.Node) (*Injection, error) {
	in := &Injection{Targets: names(targets), Detail: "ends at " + s.Point}
	pids := make([]int, len(targets))
	for i, n := range targets {
		if n.State() != cluster.Running {
			return nil, fmt.Errorf("%w: %s is not running", ErrNotAvailable, n.Name)
		}
		pids[i] = n.Pid()
	}
	in.heal = func(ctx context.Context) error {
		var errs []error
		for _, n := range targets {
			errs = append(errs, n.Arm(""))
			if n.State() == cluster.Ended {
				errs = append(errs, c.Restart(ctx, n))
			}
		}
		return errors.Join(errs...)
	}
	s.begin(targets)
	for _, n := range targets {
		if err := n.Arm(s.Point); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrNotAvailable, err), in.Heal(ctx))
		}
	}
	// Usually it comes at once; to return after that makes the window of the
	// fault that of the outage.
	soon, cancel := context.WithTimeout(ctx, hitPatience)
	defer cancel()
	for _, n := range targets {
		_ = n.AwaitEnd(soon)
	}
	in.bit = func(context.Context) (bool, string) {
		for i, n := range targets {
			if n.State() != cluster.Ended || n.Pid() != pids[i] {
				return false, n.Name + " did not come to " + s.Point
			}
			if line := n.LastLine(); line != "failpoint: "+s.Point {
				return false, fmt.Sprintf("%s ended, but not there: %s", n.Name, line)
			}
		}
		return true, "ended at " + s.Point
	}
	return in, nil
}

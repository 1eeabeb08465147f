package fault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hacache/hacache/chaos/internal/cluster"
)

// starve gives processes a processor for a part of each period only, by
// SIGSTOP and SIGCONT. Several targets stop together, as on one machine.
func starve(s Spec, targets []*cluster.Node) (*Injection, error) {
	for _, n := range targets {
		if n.State() != cluster.Running {
			return nil, fmt.Errorf("%w: %s is not running", ErrNotAvailable, n.Name)
		}
	}
	in := &Injection{Targets: names(targets), Detail: fmt.Sprintf("stopped for %g%% of each %v", 100*s.Duty, s.Period)}
	var mu sync.Mutex
	var stopped, seen int
	s.begin(targets)
	var stops []func()
	for _, n := range targets {
		// In force means stopped: what applies stops, what lifts looks whether
		// the kernel agrees and resumes.
		stops = append(stops, alternate(s.Period, s.Duty, func() func() {
			err := n.Signal(syscall.SIGSTOP)
			return func() {
				there := n.Stopped()
				_ = n.Signal(syscall.SIGCONT) // a process that has ended needs none
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					stopped++
				}
				if there {
					seen++
				}
			}
		}))
	}
	in.heal = func(context.Context) error {
		for _, stop := range stops {
			stop()
		}
		return nil
	}
	in.bit = func(context.Context) (bool, string) {
		mu.Lock()
		defer mu.Unlock()
		return seen > 0 && seen*2 >= stopped, fmt.Sprintf("stopped %d times, and the kernel said so %d times", stopped, seen)
	}
	return in, nil
}

// squeeze starts processes again, after an orderly stop, with little memory for
// their garbage collector. Healing does the same without.
func squeeze(ctx context.Context, c *cluster.Cluster, s Spec, targets []*cluster.Node) (*Injection, error) {
	var env []string
	if s.Bytes > 0 {
		env = append(env, "GOMEMLIMIT="+strconv.FormatInt(s.Bytes, 10)+"B")
	}
	if s.GOGC > 0 {
		env = append(env, "GOGC="+strconv.Itoa(s.GOGC))
	}
	for _, n := range targets {
		if n.State() != cluster.Running {
			return nil, fmt.Errorf("%w: %s is not running", ErrNotAvailable, n.Name)
		}
	}
	again := func(ctx context.Context, env []string) error {
		ctx, cancel := context.WithTimeout(ctx, endPatience)
		defer cancel()
		var errs []error
		for _, n := range targets {
			n.SetEnv(env)
			if n.State() != cluster.Ended {
				errs = append(errs, n.Terminate(ctx))
			}
			errs = append(errs, c.Restart(ctx, n))
		}
		return errors.Join(errs...)
	}
	in := &Injection{Targets: names(targets), Detail: fmt.Sprintf("started again with %v", env)}
	in.heal = func(ctx context.Context) error { return again(ctx, nil) }
	s.begin(targets)
	if err := again(ctx, env); err != nil {
		return nil, errors.Join(err, in.Heal(context.WithoutCancel(ctx)))
	}
	pids := make([]int, len(targets))
	for i, n := range targets {
		pids[i] = n.Pid()
	}
	in.bit = func(context.Context) (bool, string) {
		for i, n := range targets {
			has, err := n.Environ()
			for _, kv := range env {
				if err == nil && !slices.Contains(has, kv) {
					err = fmt.Errorf("its process runs without %s", kv)
				}
			}
			if err != nil || n.Pid() != pids[i] {
				return false, fmt.Sprintf("%s: %v", n.Name, err)
			}
		}
		return true, fmt.Sprintf("ran with %v", env)
	}
	return in, nil
}

// fillPatience is how long connections are opened until a process has no
// descriptor left.
const fillPatience = 2 * time.Second

// limitFiles leaves processes a few more descriptors than they have, and takes
// those with connections that say nothing.
func limitFiles(ctx context.Context, s Spec, targets []*cluster.Node) (*Injection, error) {
	in := &Injection{Targets: names(targets), Detail: "no descriptors left"}
	var restores []func() error
	var conns []net.Conn
	in.heal = func(context.Context) error {
		var errs []error
		for _, restore := range restores {
			errs = append(errs, restore())
		}
		for _, c := range conns {
			c.Close()
		}
		return errors.Join(errs...)
	}
	limits := make([]int, len(targets))
	s.begin(targets)
	for i, n := range targets {
		open, err := n.OpenFiles()
		if err == nil {
			limits[i] = open + s.Count
			var restore func() error
			if restore, err = n.LimitFiles(limits[i]); err == nil {
				restores = append(restores, restore)
				conns = append(conns, fill(ctx, n, limits[i])...)
			}
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrNotAvailable, err), in.Heal(ctx))
		}
	}
	in.bit = func(context.Context) (bool, string) {
		for i, n := range targets {
			open, err := n.OpenFiles()
			if err != nil || open < limits[i] {
				return false, fmt.Sprintf("%s has %d descriptors open, of %d (%v)", n.Name, open, limits[i], err)
			}
		}
		return true, fmt.Sprintf("all of %v descriptors in use", limits)
	}
	return in, nil
}

// fill opens connections to a node until it has no descriptor left. Those that
// it cannot take wait in the kernel.
func fill(ctx context.Context, n *cluster.Node, limit int) (conns []net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, fillPatience)
	defer cancel()
	for ctx.Err() == nil {
		open, err := n.OpenFiles()
		if err != nil || open >= limit {
			break
		}
		for range limit - open {
			if c, err := new(net.Dialer).DialContext(ctx, "tcp", n.Identity); err == nil {
				conns = append(conns, c)
			}
		}
		pause(ctx, 10*time.Millisecond) // until it has accepted them
	}
	return conns
}

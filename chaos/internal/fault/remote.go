package fault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hacache/hacache/chaos/internal/cluster"
	"github.com/hacache/hacache/chaos/internal/live"
)

// elsewhere breaks a cluster that somebody else runs, by what package live can
// do to its processes and proxies. What that is, a scenario was checked for.
func elsewhere(ctx context.Context, c *cluster.Cluster, s Spec, targets []*cluster.Node) (*Injection, error) {
	switch s.Action {
	case "leader-switch":
		return leaderSwitch(ctx, c, s)
	case "pause", "starve":
		return stopElsewhere(ctx, s, targets)
	}
	b := breakage{spec: s, in: &Injection{Targets: names(targets), Detail: s.Action}}
	switch s.Action {
	case "partition", "isolate", "split", "bridge", "ring":
		what, err := severed(ctx, c, s, targets)
		if err != nil {
			return nil, err
		}
		b.in.Targets, b.in.Detail = what.hit, s.Style+what.detail
		b.paths(c, s.Style, what.paths)
	case "dials":
		ends, err := dialed(ctx, c, s, targets)
		if err != nil {
			return nil, err
		}
		for _, e := range ends {
			b.add("reject", "both", c.Proxy(e[0], e[1]))
		}
	case "reset":
		b.paths(c, s.Action, around(c, targets))
	default:
		ps, err := pathsTo(ctx, c, s, targets)
		if err != nil {
			return nil, err
		}
		b.paths(c, s.Action, ps)
	}
	return b.inject(ctx)
}

// breakage is a fault of proxies in the making.
type breakage struct {
	spec    Spec
	in      *Injection
	proxies []*cluster.Proxy // each once
	faults  []*live.Fault    // one for each server and direction
	missing []string         // links that are no proxies
}

// paths adds the traffic of paths: what an end sends on the link that it dials
// goes out there, and comes in on the link on which it is dialled.
func (b *breakage) paths(c *cluster.Cluster, action string, ps []path) {
	both := action == "reject" || action == "swallow"
	for _, p := range ps {
		b.in.Links = append(b.in.Links, p.String())
		for _, leg := range []struct{ from, to, direction string }{{p.from, p.to, "out"}, {p.to, p.from, "in"}} {
			switch proxy := c.Proxy(leg.from, leg.to); {
			case leg.to == cluster.Clients: // nobody dials them
			case proxy == nil:
				b.missing = append(b.missing, leg.from+">"+leg.to)
			case both:
				b.add(action, "both", proxy)
			default:
				b.add(action, leg.direction, proxy)
			}
		}
	}
}

func (b *breakage) add(action, direction string, p *cluster.Proxy) {
	if !slices.Contains(b.proxies, p) {
		b.proxies = append(b.proxies, p)
	}
	i := slices.IndexFunc(b.faults, func(f *live.Fault) bool { return f.Server == p.Server && f.Direction == direction })
	if i < 0 {
		i = len(b.faults)
		b.faults = append(b.faults, &live.Fault{
			Action: action, Server: p.Server, Direction: direction, Latency: b.spec.Latency, Jitter: b.spec.Jitter, Bytes: b.spec.Bytes,
		})
	}
	if !slices.Contains(b.faults[i].Proxies, p.Name) {
		b.faults[i].Proxies = append(b.faults[i].Proxies, p.Name)
	}
}

// inject does it, once the proxies are seen to work: what does not, would look
// like a fault that has taken effect, or be mended against somebody's will.
func (b *breakage) inject(ctx context.Context) (*Injection, error) {
	if len(b.missing) > 0 || len(b.faults) == 0 {
		return nil, fmt.Errorf("%w: no proxy is known for %s", ErrNotAvailable, strings.Join(b.missing, ", "))
	}
	if dead := b.each(ctx, answers); dead != nil {
		return nil, fmt.Errorf("%w: before it was broken, %w", ErrNotAvailable, dead)
	}
	tag := fmt.Sprintf("-%08x", rand.Uint32())
	for _, f := range b.faults {
		f.Tag = tag
	}
	connects := map[*cluster.Proxy]uint64{}
	for _, p := range b.proxies {
		connects[p] = p.Connects()
	}
	heal, err := underNurse(ctx, b.faults, func() { b.spec.beginAt(b.in.Targets...) })
	if err != nil {
		return nil, err
	}
	b.in.heal = heal
	b.in.bit = func(ctx context.Context) (bool, string) {
		for _, f := range b.faults {
			if err := f.InForce(); err != nil {
				return false, "when it was to be healed, " + err.Error()
			}
		}
		said, proof := b.proof(connects)
		if err := b.each(ctx, proof); err != nil {
			return false, err.Error()
		}
		return true, fmt.Sprintf("%s through %d proxies of links, as the harness saw itself", said, len(b.proxies))
	}
	return b.in, nil
}

// each does something with every proxy at once and returns the first error.
func (b *breakage) each(ctx context.Context, do func(context.Context, *cluster.Proxy) error) error {
	errs := make([]error, len(b.proxies))
	var wg sync.WaitGroup
	for i, p := range b.proxies {
		wg.Go(func() {
			if err := do(ctx, p); err != nil {
				errs[i] = fmt.Errorf("%s: %w", p, err)
			}
		})
	}
	wg.Wait()
	return cmp.Or(errs...)
}

// How long the harness looks through a proxy: for an answer that has to come,
// and for one that must not.
const (
	answerPatience  = 3 * time.Second
	silencePatience = 300 * time.Millisecond
)

// answers looks whether a node answers through a proxy.
func answers(ctx context.Context, p *cluster.Proxy) error {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	if _, err := p.Health(ctx); err != nil {
		return fmt.Errorf("nothing answers through it: %w", err)
	}
	return nil
}

// proof is how the harness sees for itself that a proxy does what its server
// says, with a connection of its own, and what it has seen then.
func (b *breakage) proof(connects map[*cluster.Proxy]uint64) (said string, proof func(context.Context, *cluster.Proxy) error) {
	switch f := b.faults[0]; f.Action {
	case "reject":
		return "dials refused", refuses
	case "swallow":
		return "no answer", silent
	case "reset":
		return "connections closed", func(ctx context.Context, p *cluster.Proxy) error { return closed(ctx, p, connects[p]) }
	case "latency":
		least := f.Latency - f.Jitter
		return fmt.Sprintf("answers %v late at least", least), func(ctx context.Context, p *cluster.Proxy) error {
			from := time.Now()
			if err := answers(ctx, p); err != nil {
				return err
			}
			if took := time.Since(from); took < least {
				return fmt.Errorf("an answer took %v only", took)
			}
			return nil
		}
	}
	return "answers", func(ctx context.Context, p *cluster.Proxy) error {
		err := answers(ctx, p)
		if p.Connects() > connects[p] { // cut-after came before the answer
			return nil
		}
		return err
	}
}

func refuses(ctx context.Context, p *cluster.Proxy) error {
	ctx, cancel := context.WithTimeout(ctx, silencePatience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.Addr)
	if err != nil {
		return nil
	}
	conn.Close()
	return errors.New("a dial was not refused")
}

func silent(ctx context.Context, p *cluster.Proxy) error {
	ctx, cancel := context.WithTimeout(ctx, silencePatience)
	defer cancel()
	if _, err := p.Health(ctx); err != nil {
		return nil
	}
	return errors.New("a node answers through it")
}

// closed waits for the end of the connection that was there before.
func closed(ctx context.Context, p *cluster.Proxy, connects uint64) error {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	for {
		asked, stop := context.WithTimeout(ctx, silencePatience)
		_, err := p.Health(asked) // a connection on which nothing is sent is not closed
		stop()
		if err != nil || p.Connects() > connects {
			return nil
		}
		if !pause(ctx, 5*time.Millisecond) {
			return errors.New("its connection was not closed")
		}
	}
}

// underNurse injects faults, all of them or none, after a second process was
// told how to heal them should this one be killed. begin is called right before.
// heal heals them; the second process has ended when it returns.
func underNurse(ctx context.Context, faults []*live.Fault, begin func()) (heal func(context.Context) error, err error) {
	var remedies []live.Remedy
	for _, f := range faults {
		remedies = append(remedies, f.Remedy())
	}
	nurse, err := live.CallNurse(remedies...)
	if err != nil {
		return nil, err
	}
	holding, release := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	heal = func(ctx context.Context) error {
		release()
		wg.Wait()
		var errs []error
		for _, r := range remedies {
			errs = append(errs, r.Heal(ctx))
		}
		err := errors.Join(errs...)
		nurse.Dismiss(err == nil)
		return err
	}
	begin()
	for _, f := range faults {
		if _, err := f.Inject(ctx); err != nil {
			return nil, errors.Join(err, heal(context.WithoutCancel(ctx)))
		}
		wg.Go(func() { f.Hold(holding) })
	}
	return heal, nil
}

// stopElsewhere stops processes of this machine, for good or in turns.
func stopElsewhere(ctx context.Context, s Spec, targets []*cluster.Node) (*Injection, error) {
	f := &live.Fault{Action: s.Action, Duty: s.Duty, Period: s.Period}
	of := map[int]*cluster.Node{}
	for _, n := range targets {
		pid := n.Pid()
		if pid == 0 {
			return nil, fmt.Errorf("%w: nobody says what the process of %s is", ErrNotAvailable, n.Name)
		}
		of[pid] = n
	}
	f.Pids = slices.Sorted(maps.Keys(of))
	if err := f.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotAvailable, err)
	}
	heal, err := underNurse(ctx, []*live.Fault{f}, func() { s.begin(targets) })
	if err != nil {
		return nil, err
	}
	in := &Injection{Targets: names(targets), Detail: fmt.Sprintf("processes %v", f.Pids), heal: heal}
	in.bit = func(ctx context.Context) (bool, string) {
		ctx, cancel := context.WithTimeout(ctx, silencePatience+s.Period)
		defer cancel()
		for _, n := range targets {
			for !n.Stopped() { // starving, it is stopped in turns
				if !pause(ctx, time.Millisecond) {
					return false, n.Name + " was not stopped when it was to be resumed"
				}
			}
		}
		return true, "stopped until resumed, as the kernel says"
	}
	return in, nil
}

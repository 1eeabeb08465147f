// Package live breaks what somebody else runs: processes of this machine by
// their ids, and the proxies of Toxiproxy servers through their HTTP API. What
// heals a fault is known before it is injected, as a [Remedy] that another
// process can carry out if this one is killed.
package live

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	client "github.com/Shopify/toxiproxy/v2/client"
)

// Fault is one thing to break. Either Pids or Server and Proxies are set.
type Fault struct {
	Action  string
	Pids    []int    // kill, term, pause, starve
	Server  string   // base address of a Toxiproxy server, such as http://10.0.0.7:8474
	Proxies []string // what the others act on
	// Direction is out (what the proxy's clients send), in (what they get) or
	// both, the default. reject and swallow know both only.
	Direction string

	Latency, Jitter time.Duration // latency; Latency alone: slow-close, slice
	Bytes           int64         // bandwidth: a second; slice: of a piece; cut-after: of a connection
	Duty            float64       // starve: share of Period in which it is stopped
	Period          time.Duration // starve; default 100 ms

	// Tag ends the names of the toxics, so that two faults of one action can be
	// on a proxy at once; empty: there is one.
	Tag string
}

// Actions are those that can be injected, with what they need.
var Actions = map[string]string{
	"kill": "--pid", "term": "--pid", "pause": "--pid", "starve": "--pid and --duty",
	"latency": "--latency", "bandwidth": "--bytes", "slice": "--bytes", "slow-close": "--latency", "cut-after": "--bytes",
	"swallow": "--proxy", "reject": "--proxy", "reset": "--proxy",
}

// Impossible are faults of scenarios that a Toxiproxy server cannot do: its own
// toxics have nothing like them.
var Impossible = map[string]string{
	"stall":     "it needs a toxic that holds bytes and delivers them on heal; swallow, which does not deliver, and reject are possible",
	"partition": "see swallow and reject, on the proxies of the links that it would cut",
	"isolate":   "see swallow and reject, on the proxies of the links that it would cut",
	"loss":      "it needs a toxic that delays by retransmission timeouts; latency with a jitter is possible",
	"dials":     "a proxy refuses everybody; reject does that",
}

// onProcesses reports whether the action is on processes.
func (f *Fault) onProcesses() bool {
	return slices.Contains([]string{"kill", "term", "pause", "starve"}, f.Action)
}

// Validate reports what is missing, in one error.
func (f *Fault) Validate() error {
	if reason, known := Impossible[f.Action]; known {
		return fmt.Errorf("%s is not possible on a cluster that runs elsewhere: %s", f.Action, reason)
	}
	if _, known := Actions[f.Action]; !known {
		return fmt.Errorf("unknown action %q; expected one of %s", f.Action, strings.Join(sorted(Actions), ", "))
	}
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s needs %s", f.Action, what))
		}
	}
	if f.onProcesses() {
		need(len(f.Pids) > 0, "--pid")
		need(f.Action != "starve" || f.Duty > 0 && f.Duty < 1, "--duty, more than 0 and less than 1")
		for _, pid := range f.Pids {
			switch {
			case pid <= 1 || pid == os.Getpid():
				errs = append(errs, fmt.Errorf("--pid %d: expected a process other than the first one and this one", pid))
			case syscall.Kill(pid, 0) != nil:
				errs = append(errs, fmt.Errorf("--pid %d: there is no such process, or it is not ours to signal", pid))
			}
		}
		return errors.Join(errs...)
	}
	need(f.Server != "", "--toxiproxy")
	need(len(f.Proxies) > 0, "--proxy")
	if f.Action == "latency" || f.Action == "slow-close" {
		need(f.Latency > 0, "--latency")
	}
	if slices.Contains([]string{"bandwidth", "slice", "cut-after"}, f.Action) {
		need(f.Bytes > 0, "--bytes")
	}
	if f.Jitter > f.Latency {
		errs = append(errs, fmt.Errorf("--jitter %v is more than the latency of %v", f.Jitter, f.Latency))
	}
	if both := f.Direction == "" || f.Direction == "both"; !both && (f.Action == "reject" || f.Action == "swallow") {
		errs = append(errs, fmt.Errorf("%s is in both directions", f.Action))
	} else if !both && f.Direction != "in" && f.Direction != "out" {
		errs = append(errs, fmt.Errorf("--direction %q: expected both, in or out", f.Direction))
	}
	return errors.Join(errs...)
}

// Remedy heals a fault. It is plain data, so that it can be handed to another
// process. Healing twice, or healing what was never injected, does nothing.
type Remedy struct {
	Resume []int    `json:"resume,omitempty"` // processes
	Server string   `json:"server,omitempty"`
	Toxics []string `json:"toxics,omitempty"` // to remove, from each of Proxies
	// Proxies are those to mend; Enable says that they are to be enabled again.
	Proxies []string `json:"proxies,omitempty"`
	Enable  bool     `json:"enable,omitempty"`
}

// Remedy returns what will heal the fault.
func (f *Fault) Remedy() Remedy {
	switch f.Action {
	case "kill", "term":
		return Remedy{}
	case "pause", "starve":
		return Remedy{Resume: f.Pids}
	case "reject":
		return Remedy{Server: f.Server, Proxies: f.Proxies, Enable: true}
	}
	r := Remedy{Server: f.Server, Proxies: f.Proxies}
	for _, t := range f.toxics() {
		r.Toxics = append(r.Toxics, t.name)
	}
	return r
}

// toxic is one to add to each proxy.
type toxic struct {
	name, kind, stream string
	attributes         client.Attributes
}

// toxics are those of the action. Their names are ours, so that nothing else is
// removed.
func (f *Fault) toxics() []toxic {
	var (
		kind       string
		attributes client.Attributes
	)
	switch ms := f.Latency.Milliseconds(); f.Action {
	case "latency":
		kind, attributes = "latency", client.Attributes{"latency": ms, "jitter": f.Jitter.Milliseconds()}
	case "bandwidth":
		kind, attributes = "bandwidth", client.Attributes{"rate": max(f.Bytes/1000, 1)} // in kB a second
	case "slice":
		kind, attributes = "slicer", client.Attributes{"average_size": f.Bytes, "size_variation": f.Bytes / 4, "delay": f.Latency.Microseconds()}
	case "slow-close":
		kind, attributes = "slow_close", client.Attributes{"delay": ms}
	case "cut-after":
		kind, attributes = "limit_data", client.Attributes{"bytes": f.Bytes}
	case "swallow":
		kind, attributes = "timeout", client.Attributes{"timeout": 0}
	case "reset":
		kind, attributes = "reset_peer", client.Attributes{"timeout": 0}
	default:
		return nil
	}
	var all []toxic
	for direction, stream := range map[string]string{"out": "upstream", "in": "downstream"} {
		if f.Direction == "" || f.Direction == "both" || f.Direction == direction {
			all = append(all, toxic{"chaos-" + f.Action + "-" + stream + f.Tag, kind, stream, attributes})
		}
	}
	slices.SortFunc(all, func(a, b toxic) int { return strings.Compare(a.name, b.name) })
	return all
}

// Inject breaks everything that the fault names. When it returns an error, what
// it had broken is healed. Starving goes on until ctx is done, see [Fault.Hold].
func (f *Fault) Inject(ctx context.Context) (done []string, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Remedy().Heal(context.WithoutCancel(ctx)))
		}
	}()
	signal := map[string]syscall.Signal{"kill": syscall.SIGKILL, "term": syscall.SIGTERM, "pause": syscall.SIGSTOP, "starve": syscall.SIGSTOP}[f.Action]
	if f.onProcesses() {
		for _, pid := range f.Pids {
			if err := syscall.Kill(pid, signal); err != nil {
				return done, fmt.Errorf("signal process %d: %w", pid, err)
			}
			done = append(done, fmt.Sprintf("%s to process %d", signal, pid))
		}
		return done, nil
	}
	for _, name := range f.Proxies {
		p, err := proxyOf(f.Server, name)
		if err != nil {
			return done, err
		}
		if f.Action == "reject" {
			if err := bounded(p.Disable); err != nil {
				return done, fmt.Errorf("disable proxy %s: %w", name, err)
			}
			done = append(done, "proxy "+name+" disabled")
		}
		for _, t := range f.toxics() {
			err := bounded(func() error {
				_, err := p.AddToxic(t.name, t.kind, t.stream, 1, t.attributes)
				return err
			})
			if err != nil {
				return done, fmt.Errorf("add toxic %s to proxy %s: %w", t.kind, name, err)
			}
			done = append(done, fmt.Sprintf("toxic %s (%s) on proxy %s", t.kind, t.stream, name))
		}
	}
	return done, nil
}

// Hold keeps the fault in force until ctx is done. Only starving has anything to
// do meanwhile.
func (f *Fault) Hold(ctx context.Context) {
	period := f.Period
	if period <= 0 {
		period = 100 * time.Millisecond
	}
	stopped := f.Action == "starve"
	for {
		wait := time.NewTimer(time.Hour)
		if f.Action == "starve" {
			wait.Reset(time.Duration(float64(period) * map[bool]float64{true: f.Duty, false: 1 - f.Duty}[stopped]))
		}
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		if f.Action != "starve" {
			continue
		}
		stopped = !stopped
		for _, pid := range f.Pids {
			_ = syscall.Kill(pid, map[bool]syscall.Signal{true: syscall.SIGSTOP, false: syscall.SIGCONT}[stopped]) // it may have ended
		}
	}
}

// InForce returns an error unless the servers say that the fault is there, on
// every proxy that it names.
func (f *Fault) InForce() error {
	for _, name := range f.Proxies {
		p, err := proxyOf(f.Server, name)
		switch {
		case err != nil:
			return err
		case f.Action == "reject" && p.Enabled:
			return fmt.Errorf("proxy %s is enabled", name)
		}
		for _, t := range f.toxics() {
			if !slices.ContainsFunc(p.ActiveToxics, func(there client.Toxic) bool { return there.Name == t.name }) {
				return fmt.Errorf("proxy %s has no toxic %s", name, t.name)
			}
		}
	}
	return nil
}

// Proxy is what a Toxiproxy server says of one of its proxies.
type Proxy struct {
	Listen  string // host:port
	Enabled bool
}

// Proxies asks a server for all of its proxies, by name.
func Proxies(server string) (map[string]Proxy, error) {
	found := make(chan map[string]*client.Proxy, 1)
	err := bounded(func() error {
		all, err := client.NewClient(server).Proxies()
		found <- all
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("proxies of %s: %w", server, err)
	}
	out := map[string]Proxy{}
	for name, p := range <-found {
		out[name] = Proxy{Listen: p.Listen, Enabled: p.Enabled}
	}
	return out, nil
}

// Heal undoes a fault, all of it that can be undone.
func (r Remedy) Heal(context.Context) error {
	var errs []error
	for _, pid := range r.Resume {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("resume process %d: %w", pid, err))
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range r.Proxies {
		wg.Go(func() {
			if err := r.mend(name); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (r Remedy) mend(name string) error {
	p, err := proxyOf(r.Server, name)
	if err != nil {
		return err
	}
	var errs []error
	if r.Enable {
		if err := bounded(p.Enable); err != nil {
			errs = append(errs, fmt.Errorf("enable proxy %s: %w", name, err))
		}
	}
	for _, t := range p.ActiveToxics {
		if slices.Contains(r.Toxics, t.Name) {
			if err := bounded(func() error { return p.RemoveToxic(t.Name) }); err != nil {
				errs = append(errs, fmt.Errorf("remove toxic %s from proxy %s: %w", t.Name, name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func proxyOf(server, name string) (*client.Proxy, error) {
	found := make(chan *client.Proxy, 1)
	err := bounded(func() error {
		p, err := client.NewClient(server).Proxy(name)
		found <- p
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("proxy %s of %s: %w", name, server, err)
	}
	return <-found, nil
}

// callTimeout bounds every call to a server: adding a toxic to a link that is
// blocked does not return.
const callTimeout = 2 * time.Second

func bounded(call func() error) error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-time.After(callTimeout):
		return fmt.Errorf("no answer within %v", callTimeout)
	}
}

func sorted(m map[string]string) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

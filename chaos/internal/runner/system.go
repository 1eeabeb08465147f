package runner

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/proc"
	"github.com/hacache/hacache/chaos/internal/check"
	"github.com/hacache/hacache/chaos/internal/cluster"
	"github.com/hacache/hacache/chaos/internal/fault"
	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

// Processes returns a Boot that starts real nodes from a cachenode binary.
func Processes(binary string) func(context.Context, Boot) (System, error) {
	return func(_ context.Context, b Boot) (System, error) {
		states := [...]result.State{cluster.Running: result.ProcessRunning, cluster.Paused: result.ProcessStopped, cluster.Ended: result.ProcessExited}
		c, err := cluster.Start(cluster.Spec{
			Binary: binary, Nodes: b.Nodes, Members: b.Members, Hooks: b.Hooks, Env: b.Env, Caches: policies(b.Caches), LogDir: b.LogDir, Seed: b.Seed, Direct: b.Direct, TLS: b.TLS,
			OnProcess: func(node string, s cluster.State, detail string) { b.Process(node, states[s], detail) },
		})
		if err != nil {
			return nil, err
		}
		return newProcesses(c, b.Members), nil
	}
}

func newProcesses(c *cluster.Cluster, members int) processes {
	p := processes{Cluster: c, members: members, waits: map[string]*proc.Waiting{harness: new(proc.Waiting)}}
	for _, n := range c.Nodes() {
		p.waits[n.Name] = new(proc.Waiting)
		p.endpoints = append(p.endpoints, Endpoint{Name: n.Name, Identity: n.Identity, Addr: c.ClientAddr(n.Name)})
	}
	return p
}

func policies(caches []scenario.Cache) []cluster.Policy {
	var out []cluster.Policy
	for _, c := range caches {
		out = append(out, cluster.Policy{Name: c.Name, MaxEntries: int64(c.MaxEntries), MaxBytes: int64(c.MaxBytes), TTL: c.TTL.D(), Evict: c.Evict})
	}
	return out
}

type processes struct {
	*cluster.Cluster
	endpoints []Endpoint
	members   int                      // that formed the cluster
	waits     map[string]*proc.Waiting // of each node and the harness; for one goroutine
}

// harness is how resources.csv calls this process.
const harness = "chaos"

func (p processes) Nodes() []Endpoint { return p.endpoints }

// roles maps the contract's states to what the record distinguishes. The exact
// state is kept as the event's detail where it says more.
var roles = map[string]result.Role{
	"leader": result.RoleLeader, "leader_switch": result.RoleUndefined, "follower": result.RoleFollower,
	"leadership_requested": result.RoleRequested, "leader_dead": result.RoleDead, "leader_tx_await": result.RoleUndefined,
}

func (p processes) Observe(ctx context.Context, node string) (result.Event, error) {
	h, err := p.Node(node).Health(ctx)
	if err != nil {
		return result.Event{}, err
	}
	state := client.StateName(h.GetState())
	e := result.Event{Role: result.RoleUndefined, Term: h.GetTerm(), Cluster: fmt.Sprintf("%016x", h.GetCluster()), Leader: p.NameOf(h.GetLeader().GetAddr())}
	if role, known := roles[state]; known {
		e.Role = role
	}
	if e.Role == result.RoleUndefined {
		e.Detail = state
	}
	return e, nil
}

func (p processes) Digest(ctx context.Context, node string) (check.Digest, error) {
	d, err := p.Node(node).Digest(ctx)
	return check.Digest{Node: node, Applied: d.Applied, Hash: d.Hash, Evicted: d.Evicted, Expired: d.Expired, MemoryBound: d.MemoryBound}, err
}

func (p processes) Target(toAny bool, streams, window int) (load.Target, error) {
	return newRouted(p.endpoints[:p.members], p.Client, streams, window, toAny)
}

func (p processes) Spread(window int) (load.Target, error) {
	return newSpread(p.endpoints[:p.members], p.Client, window)
}

func (p processes) Read(node string, op *client.Op, done func(client.Outcome)) error {
	return p.Node(node).Conn().Start(op, done)
}

func (p processes) Inject(ctx context.Context, in *scenario.Injection, begin func([]string)) (*Injected, error) {
	f := in.Fault
	what, err := fault.Inject(ctx, p.Cluster, fault.Spec{
		Action: f.Action, Target: f.Target, From: f.From, Style: f.Style, Direction: f.Direction, Clients: f.Clients,
		Latency: f.Latency.D(), Jitter: f.Jitter.D(), Spread: f.Spread, Bytes: int64(f.Bytes), Period: f.Period.D(), Duty: float64(f.Duty),
		GOGC: f.GOGC, Offset: time.Duration(f.Offset), Drift: float64(f.Drift), Point: f.Point, Loss: float64(f.Loss), Burst: f.Burst, Members: f.Members, To: f.To,
		Count: int(f.Count), Rate: float64(f.Rate), Value: int(f.Value), Turn: in.Turn, Pick: in.Pick, Begin: begin,
	})
	if err != nil {
		return nil, err
	}
	out := &Injected{Targets: what.Targets, Links: what.Links, Detail: what.Detail, Bit: what.Bit, Heal: what.Heal}
	out.Hostile = func() (found []check.Hostile) {
		for _, a := range what.Attacks {
			found = append(found, check.Hostile{
				Fault: in.Name, Kind: f.Action, Node: a.Node, Forbidden: a.Kind.Forbidden, Ends: a.Kind.Ends,
				Attempts: a.Tally.Attempts, Served: a.Tally.Served, Ended: a.Tally.Ended, Longest: a.Tally.Longest, Late: a.Tally.Late, Lasted: a.Lasted,
			})
		}
		return found
	}
	return out, nil
}

func (p processes) Usage(node string) (result.Resource, bool) {
	n := p.Node(node)
	if n.State() == cluster.Ended {
		return result.Resource{}, false
	}
	return p.usage(node, n.Pid())
}

func (p processes) Machine() (rows []result.Resource) {
	if own, ok := p.usage(harness, os.Getpid()); ok {
		rows = append(rows, own)
	}
	if busy, stolen, ok := result.Processors(); ok {
		rows = append(rows, result.Resource{Node: result.Machine, CPU: busy, Waited: stolen})
	}
	return rows
}

func (p processes) usage(name string, pid int) (result.Resource, bool) {
	cpu, rss, err := proc.Usage(pid)
	turns, _ := p.waits[name].Read(pid) // a kernel that does not count them says nothing of what was starved
	return result.Resource{Node: name, CPU: cpu, RSS: rss, Turns: turns.Count, Waited: turns.Waited}, err == nil
}

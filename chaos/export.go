package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"
	"go.yaml.in/yaml/v4"

	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/internal/command"
)

func exportCommand(_ context.Context, c *cli.Command) error {
	if to := c.String("to"); to != "chaos-mesh" {
		return command.Usagef("export: --to %q; expected chaos-mesh", to)
	}
	if c.Args().Len() != 1 {
		return command.Usagef("export: %d arguments; expected FILE", c.Args().Len())
	}
	all, err := load(c.Args().Slice())
	if err != nil {
		return err
	}
	plan := scenario.NewPlan(all[0], cmp.Or(c.Uint64("seed"), all[0].Seed))
	m := mesh{namespace: c.String("namespace"), pods: c.String("pods"), leader: c.String("leader"), plan: plan}
	if m.leader != "" && !slices.Contains(m.nodes(), m.leader) {
		return command.Usagef("export: --leader %q; expected one of %s", m.leader, strings.Join(m.nodes(), ", "))
	}
	return m.write(c.Root().Writer)
}

// mesh turns the timeline of a scenario into a workflow for Chaos Mesh, for a
// cluster in Kubernetes whose pods are those of a StatefulSet: n1 is PODS-0.
type mesh struct {
	namespace, pods string
	leader          string // the node that is taken for the leader; "": nobody knows
	plan            *scenario.Plan

	templates []map[string]any
	branches  []string
	missing   []string // what has no counterpart, with the reason
}

func (m *mesh) nodes() []string {
	var names []string
	for i := range m.plan.Scenario.Cluster.Nodes {
		names = append(names, "n"+strconv.Itoa(i+1))
	}
	return names
}

// write writes the workflow, and before it as comments what could not be mapped.
func (m *mesh) write(w io.Writer) error {
	for i := range m.plan.Injections {
		m.add(&m.plan.Injections[i], i+1)
	}
	s := m.plan.Scenario
	fmt.Fprintf(w, "# %s, seed %d: the faults of a scenario as a workflow of Chaos Mesh. It has no load and no checks; run those\n# beside it, for example bin/loadgen against the service.\n", s.Name, m.plan.Seed)
	for _, say := range m.missing {
		fmt.Fprintf(w, "# not mapped: %s\n", say)
	}
	if len(m.branches) == 0 {
		fmt.Fprintln(w, "# nothing is left")
		return nil
	}
	entry := map[string]any{"name": "all", "templateType": "Parallel", "deadline": seconds(m.plan.Length + meshMargin), "children": m.branches}
	out, err := yaml.Marshal(map[string]any{
		"apiVersion": "chaos-mesh.org/v1alpha1", "kind": "Workflow",
		"metadata": map[string]any{"name": s.Name, "namespace": m.namespace},
		"spec":     map[string]any{"entry": "all", "templates": append([]map[string]any{entry}, m.templates...)},
	})
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}

// add appends the templates of one injection: a wait, then the fault.
func (m *mesh) add(in *scenario.Injection, n int) {
	kind, spec, reason := m.chaos(in)
	if reason != "" {
		m.missing = append(m.missing, fmt.Sprintf("%s at %v: %s", in.Name, in.At.Round(time.Millisecond), reason))
		return
	}
	name := fmt.Sprintf("%d-%s", n, in.Fault.Action)
	m.branches = append(m.branches, name)
	m.templates = append(
		m.templates,
		map[string]any{"name": name, "templateType": "Serial", "deadline": seconds(m.plan.Length + meshMargin), "children": []string{name + "-wait", name + "-fault"}},
		map[string]any{"name": name + "-wait", "templateType": "Suspend", "deadline": seconds(in.At)},
		map[string]any{"name": name + "-fault", "templateType": kind, "deadline": seconds(max(in.Heal-in.At, time.Second)), strings.ToLower(kind[:1]) + kind[1:]: spec},
	)
}

// chaos is the counterpart of a fault, or the reason why it has none.
func (m *mesh) chaos(in *scenario.Injection) (kind string, spec map[string]any, reason string) {
	f := in.Fault
	if f.On != "" {
		return "", nil, "a workflow cannot wait for what the nodes do"
	}
	if f.Period > 0 {
		return "", nil, "a workflow cannot repeat a cut within seconds"
	}
	switch f.Action {
	case "kill", "term", "partition", "isolate", "latency", "loss", "bandwidth", "clock":
	case "pause":
		return "", nil, "pods can be ended, not stopped and resumed"
	case "leader-switch", "members":
		return "", nil, "it is an operator's request: see cachenode ctl"
	default:
		if f.Hostile() {
			return "", nil, "it is clients, and no fault of pods"
		}
		return "", nil, "Chaos Mesh has nothing like it"
	}
	targets, reason := m.resolve(f.Target, in)
	if reason != "" {
		return "", nil, reason
	}
	switch f.Action {
	case "kill", "term":
		spec = m.selected(targets)
		spec["action"] = "pod-kill"
		if f.Action == "term" {
			spec["gracePeriod"] = 30
		}
		return "PodChaos", spec, ""
	case "clock":
		if f.Drift != 0 {
			return "", nil, "TimeChaos knows an offset only"
		}
		spec = m.selected(targets)
		spec["timeOffset"] = time.Duration(f.Offset).String()
		return "TimeChaos", spec, ""
	}
	return m.network(in, targets)
}

func (m *mesh) network(in *scenario.Injection, targets []string) (kind string, spec map[string]any, reason string) {
	f := in.Fault
	spec = m.selected(targets)
	spec["direction"] = map[string]string{"out": "to", "in": "from"}[f.Direction]
	if spec["direction"] == "" {
		spec["direction"] = "both"
	}
	others := without(m.nodes(), targets)
	switch f.Action {
	case "partition", "isolate":
		if f.Style != "stall" {
			return "", nil, "packets can be dropped, which is style stall; not refused or swallowed"
		}
		spec["action"] = "partition"
		if f.Action == "partition" && f.From != "rest" {
			from, reason := m.resolve(f.From, in)
			if reason != "" {
				return "", nil, reason
			}
			others = without(from, targets)
		}
		if f.Clients == "cut" {
			return "NetworkChaos", spec, "" // without a target it is from everybody
		}
	case "latency":
		spec["action"] = "delay"
		spec["delay"] = map[string]any{"latency": f.Latency.String(), "jitter": f.Jitter.String()}
	case "loss":
		spec["action"] = "loss"
		spec["loss"] = map[string]any{"loss": fmt.Sprintf("%g", 100*float64(f.Loss)), "correlation": fmt.Sprintf("%.0f", 100*(1-1/float64(max(f.Burst, 1))))}
	case "bandwidth":
		spec["action"] = "bandwidth"
		spec["bandwidth"] = map[string]any{"rate": fmt.Sprintf("%dbps", int64(f.Bytes)), "limit": max(int64(f.Bytes), 1<<16), "buffer": 1 << 14}
	}
	if len(others) == 0 {
		others = m.nodes() // a pod that is its own target does not slow itself
	}
	spec["target"] = m.selected(others)
	return "NetworkChaos", spec, ""
}

// resolve names the nodes that a target stands for. Chaos Mesh does not know
// who leads.
func (m *mesh) resolve(target string, in *scenario.Injection) (nodes []string, reason string) {
	all := m.nodes()
	count := max(int(in.Fault.Count), 1)
	some := func(from []string, pick uint64) []string {
		var out []string
		for i := range min(count, len(from)) {
			out = append(out, from[(pick+uint64(i))%uint64(len(from))])
		}
		return out
	}
	switch target {
	case "all":
		return all, ""
	case "any":
		return some(all, in.Pick), ""
	case "each":
		return some(all, uint64(in.Turn*count)), ""
	case "leader", "follower", "followers":
		if m.leader == "" {
			return nil, "Chaos Mesh does not know who leads (say --leader NODE, or ask cachenode status before)"
		}
		if target == "leader" {
			return []string{m.leader}, ""
		}
		if followers := without(all, []string{m.leader}); target == "followers" {
			return followers, ""
		} else {
			return some(followers, in.Pick), ""
		}
	}
	if slices.Contains(all, target) {
		return []string{target}, ""
	}
	return nil, "there is no such target there"
}

// selected selects the pods of nodes.
func (m *mesh) selected(nodes []string) map[string]any {
	var pods []string
	for _, n := range nodes {
		i, _ := strconv.Atoi(strings.TrimPrefix(n, "n"))
		pods = append(pods, fmt.Sprintf("%s-%d", m.pods, i-1))
	}
	return map[string]any{"mode": "all", "selector": map[string]any{"pods": map[string]any{m.namespace: pods}}}
}

func without(names, gone []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(gone, n) })
}

// meshMargin is left to a workflow for what it does between two steps.
const meshMargin = 30 * time.Second

func seconds(d time.Duration) string { return d.Round(time.Millisecond).String() }

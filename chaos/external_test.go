package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	toxiclient "github.com/Shopify/toxiproxy/v2/client"
	"github.com/rs/zerolog"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/proc"
	"github.com/hacache/hacache/reports/result"
)

// outpost is a cluster that chaos has not started: three nodes that reach each
// other through the proxies of a Toxiproxy server.
type outpost struct {
	life   context.Context // of its nodes
	binary string
	api    string // of the server
	addrs  []string
	admins []string
	env    [][]string
	nodes  []*proc.Process
}

// oneAtATime answers one request at a time: a Toxiproxy server that lists its proxies while one is being changed has a data
// race of its own, on the proxy's address.
func oneAtATime(h http.Handler) http.Handler {
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		h.ServeHTTP(w, r)
	})
}

const outpostToken = "swordfish-of-the-outpost"

func newOutpost(t *testing.T, binary string) *outpost {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	api := httptest.NewServer(oneAtATime(server.Routes()))
	t.Cleanup(api.Close)
	o := &outpost{life: t.Context(), binary: binary, api: api.URL}
	var serving, admin []*net.TCPListener
	var hosts []string
	for range 3 {
		for _, to := range []*[]*net.TCPListener{&serving, &admin} {
			l, err := proc.Listen("127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			*to = append(*to, l)
		}
	}
	for i := range serving {
		o.addrs, o.admins = append(o.addrs, serving[i].Addr().String()), append(o.admins, admin[i].Addr().String())
		hosts = append(hosts, "http://"+o.addrs[i])
		o.proxy(t, "clients", i)
	}
	for i, addr := range o.addrs {
		var dials []string
		for j, other := range o.addrs {
			if i != j {
				dials = append(dials, other+"="+o.proxy(t, fmt.Sprintf("n%d", i+1), j))
			}
		}
		o.env = append(o.env, []string{
			"HA_MODE=true", "HA_HOSTS=" + strings.Join(hosts, ","), "HOSTNAME_OVERWRITE=" + addr, "CACHE_TLS=false",
			"CACHE_AUTH_TOKEN=" + outpostToken, "CACHE_DIAL_MAP=" + strings.Join(dials, ","),
		})
		o.nodes = append(o.nodes, nil)
		o.start(t, i, serving[i], admin[i])
	}
	t.Cleanup(func() { proc.StopAll(0, o.nodes...) })
	return o
}

// proxy makes the link from somebody to a node and returns where it listens.
func (o *outpost) proxy(t *testing.T, from string, to int) string {
	t.Helper()
	p, err := toxiclient.NewClient(o.api).CreateProxy(fmt.Sprintf("%s-n%d", from, to+1), "127.0.0.1:0", o.addrs[to])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Delete() })
	return p.Listen
}

func (o *outpost) start(t *testing.T, i int, serving, admin *net.TCPListener) {
	t.Helper()
	var err error
	o.nodes[i], err = proc.Start(o.life, proc.Spec{
		Name: fmt.Sprintf("outpost-%d", i+1), Binary: o.binary, Args: []string{"serve"}, Env: o.env[i], Listener: serving, Admin: admin,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// lose ends all nodes at once and starts them again, empty.
func (o *outpost) lose(t *testing.T) {
	t.Helper()
	proc.StopAll(0, o.nodes...)
	for i := range o.nodes {
		var l [2]*net.TCPListener
		for k, addr := range []string{o.addrs[i], o.admins[i]} {
			eventually(t, addr+" is free", func() (free bool) {
				var err error
				l[k], err = proc.Listen(addr)
				return err == nil
			})
		}
		o.start(t, i, l[0], l[1])
	}
}

// entries asks a node how many it holds.
func (o *outpost) entries(t *testing.T, i int) uint64 {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Config{Addr: o.addrs[i], Token: outpostToken})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h, err := c.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h.GetEntries()
}

// untouched reports whether every proxy is enabled and has no toxic.
func (o *outpost) untouched(t *testing.T) bool {
	all, err := toxiclient.NewClient(o.api).Proxies()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if !p.Enabled || len(p.ActiveToxics) > 0 {
			return false
		}
	}
	return len(all) == 9
}

// scenario writes one for the outpost, with the given rest of external and of
// the file, and returns its path.
func (o *outpost) scenario(t *testing.T, name, external, rest string) string {
	t.Helper()
	var nodes, proxies []string
	for i := range o.addrs {
		nodes = append(nodes, fmt.Sprintf("{addr: %q, admin: %q, pid: %d}", o.addrs[i], o.admins[i], o.nodes[i].Pid()))
		for _, from := range []string{"clients", "n1", "n2", "n3"} {
			if to := fmt.Sprintf("n%d", i+1); from != to {
				proxies = append(proxies, fmt.Sprintf("%s>%s: %s-%s", from, to, from, to))
			}
		}
	}
	path := filepath.Join(t.TempDir(), name+".yaml")
	text := fmt.Sprintf("version: 1\nname: %s\nabout: A cluster that the test has started.\ncluster:\n  nodes: 3\n  external:\n    token_env: OUTPOST_TOKEN\n    nodes: [%s]\n    toxiproxy: [{url: %q, proxies: {%s}}]\n%s%s",
		name, strings.Join(nodes, ", "), o.api, strings.Join(proxies, ", "), external, rest)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// chaos returns the command that runs a scenario, and where its evidence goes.
func (o *outpost) chaos(t *testing.T, program, file string, args ...string) (cmd *exec.Cmd, dir string) {
	dir = t.TempDir()
	cmd = exec.Command(program, append([]string{"run", "-q", "--out", dir, file}, args...)...)
	cmd.Env = append(os.Environ(), "OUTPOST_TOKEN="+outpostToken)
	return cmd, dir
}

// seen waits until the events of the run that is below dir contain something.
func seen(t *testing.T, dir, what string) {
	t.Helper()
	eventually(t, what, func() bool {
		files, _ := filepath.Glob(filepath.Join(dir, "*", result.EventsFile))
		if len(files) != 1 {
			return false
		}
		events, _ := os.ReadFile(files[0])
		return strings.Contains(string(events), what)
	})
}

// conclusion reads the result of the run below dir.
func conclusion(t *testing.T, dir string) (r *result.Run, evidence string) {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("run directories %q, %v", dirs, err)
	}
	if r, err = result.Read(dirs[0]); err != nil {
		t.Fatal(err)
	}
	return r, dirs[0]
}

func checkOf(r *result.Run, name string) result.Check {
	for _, c := range r.Checks {
		if c.Name == name {
			return c
		}
	}
	return result.Check{}
}

// TestExternal proves on nodes and proxies that the test has started that a
// scenario for a cluster elsewhere is a real one: faults of all kinds that are
// possible there take effect and are healed, nothing stays in the cluster, no
// secret in the evidence; that a harness which is killed leaves no toxic and no
// stopped process; and that nodes which forget everything are found out.
func TestExternal(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	bin := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "github.com/hacache/hacache/chaos", "github.com/hacache/hacache/cachenode").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	program := filepath.Join(bin, "chaos")
	o := newOutpost(t, filepath.Join(bin, "cachenode"))
	t.Run("faults and a clean end", func(t *testing.T) { o.faults(t, program) })
	t.Run("killed", func(t *testing.T) { o.killed(t, program) })
	t.Run("loss", func(t *testing.T) { o.loss(t, program) })
}

// faults tries the next seed if the machine was too busy for the run to show
// anything, as the run then says itself.
func (o *outpost) faults(t *testing.T, program string) {
	file := o.scenario(t, "faults", "    clean: true\n", `load:
  writers: {schedule: {constant: 50/s}, duration: 20s, op: insert, ack: {quorum: 50, leader: 50}, keys: {dist: once}}
  readers: {schedule: {constant: 50/s}, duration: 20s, op: {get: 50, insert: 50}, keys: {count: 50}, route: any}
preload: {entries: 1k}
probes: {rate: 50/s}
faults:
  - {name: slow, at: 1s, for: 1s, action: latency, target: n1, latency: 20ms, jitter: 5ms}
  - {name: at the clients', at: 1s, for: 1s, action: latency, target: n1, from: clients, direction: in, latency: 10ms}
  - {name: cut, at: 5s, for: 2s, action: isolate, target: follower, style: reject, clients: cut}
  - {name: gone, at: 10s, for: 1s, action: partition, target: n2, from: n3, style: swallow}
  - {name: again, at: 14s, action: reset, target: n3}
  - {name: stopped, at: 17s, for: 500ms, action: pause, target: n1}
checks: {lost_writes: true, session: true, state_hash: true, converge: 1m}
`)
	for seed := 1; ; seed++ {
		cmd, dir := o.chaos(t, program, file, "--seed", fmt.Sprint(seed))
		out, err := cmd.CombinedOutput()
		code := cmd.ProcessState.ExitCode()
		if code == result.ExitUnknown && seed < 3 {
			t.Logf("seed %d showed nothing: %s", seed, out)
			continue
		}
		if err != nil {
			t.Fatalf("%v:\n%s", err, out)
		}
		r, evidence := conclusion(t, dir)
		for _, name := range []string{"run validity", "lost writes", "preloaded entries", "session", "state hash"} {
			if c := checkOf(r, name); c.Verdict != result.Pass {
				t.Errorf("%s: %s, %s", name, c.Verdict, c.Detail)
			}
		}
		noSecret(t, evidence)
		break
	}
	if !o.untouched(t) {
		t.Error("something is left on the proxies")
	}
	for i := range o.nodes {
		if n := o.entries(t, i); n != 0 {
			t.Errorf("%d entries are left on n%d", n, i+1)
		}
	}
}

// noSecret proves that no file of a run has the token.
func noSecret(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), outpostToken) {
			t.Errorf("%s has the token", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func (o *outpost) killed(t *testing.T, program string) {
	file := o.scenario(t, "killed", "", `load:
  writers: {schedule: {constant: 20/s}, duration: 2m, op: insert, keys: {count: 50}}
faults:
  - {name: slow, at: 200ms, action: bandwidth, target: n1, from: n2, bytes: 1MiB}
  - {name: refused, at: 200ms, action: dials, target: n2, from: n3}
  - {name: stopped, at: 4s, action: pause, target: n3}
`) // later: a link to a stopped node is not broken, for nothing answers through it before
	cmd, dir := o.chaos(t, program, file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for _, name := range []string{"slow", "refused", "stopped"} {
		seen(t, dir, `"fault":"`+name+`"`)
	}
	eventually(t, "all are in force", func() bool { return !o.untouched(t) && stopped(t, o.nodes[2].Pid()) })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "nothing is left on the proxies", func() bool { return o.untouched(t) })
	eventually(t, "the process runs again", func() bool { return !stopped(t, o.nodes[2].Pid()) })
}

func (o *outpost) loss(t *testing.T, program string) {
	file := o.scenario(t, "loss", "", `load:
  writers: {schedule: {constant: 100/s}, duration: 12s, op: insert, keys: {dist: once}}
faults:
  - {name: slow, at: 3s, for: 2s, action: latency, target: n1, latency: 5ms}
checks: {lost_writes: true, converge: 30s}
`)
	cmd, dir := o.chaos(t, program, file)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	seen(t, dir, `"fault":"slow"`)
	o.lose(t)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != result.ExitViolated {
		t.Fatalf("exit code %d, want %d:\n%s", code, result.ExitViolated, said.String())
	}
	r, _ := conclusion(t, dir)
	for name, want := range map[string]result.Verdict{"lost writes": result.Violated, "cluster identity": result.Violated, "liveness": result.NotExercised} {
		if c := checkOf(r, name); c.Verdict != want {
			t.Errorf("%s: %s, want %s: %s", name, c.Verdict, want, c.Detail)
		}
	}
	if len(r.Losses) == 0 {
		data, _ := json.Marshal(r.Checks)
		t.Errorf("no lost write is named: %s", data)
	}
}

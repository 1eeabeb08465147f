package live

import (
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	client "github.com/Shopify/toxiproxy/v2/client"
	"github.com/rs/zerolog"
)

// server starts a Toxiproxy server with the proxies a and b, as an operator runs
// one, and returns its address.
func server(t *testing.T) string {
	t.Helper()
	s := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	api := httptest.NewServer(s.Routes())
	t.Cleanup(api.Close)
	for _, name := range []string{"a", "b"} {
		p, err := client.NewClient(api.URL).CreateProxy(name, "127.0.0.1:0", "127.0.0.1:1")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Delete() })
	}
	return api.URL
}

// state is what a server says of its proxies.
func state(t *testing.T, url string) map[string]string {
	t.Helper()
	all, err := client.NewClient(url).Proxies()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for name, p := range all {
		say := map[bool]string{true: "enabled", false: "disabled"}[p.Enabled]
		for _, toxic := range p.ActiveToxics {
			say += " " + toxic.Name
		}
		out[name] = say
	}
	return out
}

// TestProxies proves for each action on proxies that it changes those that are
// named, that healing brings back what was there, toxics of somebody else
// included, and that healing again, or what was never injected, does nothing.
func TestProxies(t *testing.T) {
	url := server(t)
	p, err := client.NewClient(url).Proxy("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.AddToxic("somebody-elses", "latency", "upstream", 1, client.Attributes{"latency": 1}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		f    Fault
		want string // of proxy a, beside what was there
	}{
		"latency":    {Fault{Latency: 10 * time.Millisecond, Jitter: time.Millisecond, Direction: "out"}, "enabled somebody-elses chaos-latency-upstream"},
		"bandwidth":  {Fault{Bytes: 64_000, Direction: "in"}, "enabled somebody-elses chaos-bandwidth-downstream"},
		"slice":      {Fault{Bytes: 100, Direction: "out"}, "enabled somebody-elses chaos-slice-upstream"},
		"slow-close": {Fault{Latency: time.Second, Direction: "out"}, "enabled somebody-elses chaos-slow-close-upstream"},
		"cut-after":  {Fault{Bytes: 100, Direction: "out"}, "enabled somebody-elses chaos-cut-after-upstream"},
		"reset":      {Fault{Direction: "out"}, "enabled somebody-elses chaos-reset-upstream"},
		"swallow":    {Fault{}, "enabled somebody-elses chaos-swallow-upstream chaos-swallow-downstream"},
		"reject":     {Fault{}, "disabled somebody-elses"},
	} {
		t.Run(name, func(t *testing.T) {
			f := c.f
			f.Action, f.Server, f.Proxies = name, url, []string{"a"}
			if err := f.Validate(); err != nil {
				t.Fatal(err)
			}
			before := state(t, url)
			if _, err := f.Inject(t.Context()); err != nil {
				t.Fatal(err)
			}
			during := state(t, url)
			if during["a"] != c.want || during["b"] != before["b"] {
				t.Errorf("in force: %q, want a to be %q and b as before", during, c.want)
			}
			for range 2 {
				if err := f.Remedy().Heal(t.Context()); err != nil {
					t.Fatal(err)
				}
				if after := state(t, url); after["a"] != before["a"] || after["b"] != before["b"] {
					t.Errorf("healed: %q, want %q", after, before)
				}
			}
		})
	}
}

// TestProxies_half proves that an injection which fails half way heals what it
// had done.
func TestProxies_half(t *testing.T) {
	url := server(t)
	f := Fault{Action: "swallow", Server: url, Proxies: []string{"a", "no-such"}}
	if _, err := f.Inject(t.Context()); err == nil || !strings.Contains(err.Error(), "no-such") {
		t.Errorf("%v, want an error about no-such", err)
	}
	if s := state(t, url)["a"]; s != "enabled" {
		t.Errorf("a is %s", s)
	}
}

// TestValidate proves that what cannot be is refused before anything is done,
// with a reason.
func TestValidate(t *testing.T) {
	for want, f := range map[string]Fault{
		"unknown action":     {Action: "smash"},
		"delivers them":      {Action: "stall"},
		"retransmission":     {Action: "loss"},
		"needs --pid":        {Action: "pause"},
		"other than the fir": {Action: "kill", Pids: []int{1}},
		"no such process":    {Action: "kill", Pids: []int{1 << 29}},
		"--duty, more than":  {Action: "starve", Pids: []int{1}},
		"needs --toxiproxy":  {Action: "latency", Proxies: []string{"a"}, Latency: 1},
		"needs --proxy":      {Action: "reject", Server: "x"},
		"needs --bytes":      {Action: "bandwidth", Server: "x", Proxies: []string{"a"}},
		"more than the lat":  {Action: "latency", Server: "x", Proxies: []string{"a"}, Latency: 1, Jitter: 2},
		"both directions":    {Action: "reject", Server: "x", Proxies: []string{"a"}, Direction: "in"},
		"expected both, in":  {Action: "reset", Server: "x", Proxies: []string{"a"}, Direction: "up"},
	} {
		if err := f.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", f, err, want)
		}
	}
}

// TestDeadServer proves that a server which does not answer is an error soon.
func TestDeadServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := Fault{Action: "reject", Server: "http://" + l.Addr().String(), Proxies: []string{"a"}}
	if _, err := f.Inject(t.Context()); err == nil || !strings.Contains(err.Error(), "no answer within 2s") {
		t.Errorf("%v, want no answer", err)
	}
}

// TestStarve proves that a process which is starved is stopped and resumed in
// turns, and runs in the end.
func TestStarve(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	f := Fault{Action: "starve", Pids: []int{cmd.Process.Pid}, Duty: 0.5, Period: 10 * time.Millisecond}
	if err := f.Validate(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Inject(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	held := make(chan struct{})
	go func() { f.Hold(ctx); close(held) }()
	for _, want := range []bool{true, false, true} {
		await(t, cmd.Process.Pid, want)
	}
	stop()
	<-held
	if err := f.Remedy().Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, cmd.Process.Pid, false)
}

// await waits until a process is stopped, or is not.
func await(t *testing.T, pid int, stopped bool) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		if _, rest, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(rest, "T") == stopped {
			return
		}
		select {
		case <-limit:
			t.Fatalf("process %d: stopped is not %t", pid, stopped)
		case <-time.After(time.Millisecond):
		}
	}
}

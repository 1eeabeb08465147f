package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hacache/hacache/reports/result"
)

// stopped reports whether the kernel holds a process stopped.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "T")
}

// TestInject proves that chaos inject heals on every exit: when its time is
// over, when it is interrupted, and when it is killed (SIGKILL), which only
// another process can do.
func TestInject(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	chaos := filepath.Join(t.TempDir(), "chaos")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", chaos, "github.com/hacache/hacache/chaos").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, c := range map[string]struct {
		lasts  string
		signal os.Signal
		code   int
		says   string
	}{
		"its time is over":  {"300ms", nil, 0, "healed after"},
		"it is interrupted": {"1h", os.Interrupt, result.ExitInterrupt, "healed after"},
		"it is killed":      {"1h", os.Kill, -1, "healed in place of another process"},
	} {
		t.Run(name, func(t *testing.T) {
			victim := exec.Command("sleep", "1000")
			if err := victim.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = victim.Process.Kill(); _ = victim.Wait() }()
			out, err := os.Create(filepath.Join(t.TempDir(), "out"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			cmd := exec.Command(chaos, "inject", "pause", "--pid", fmt.Sprint(victim.Process.Pid), "--for", c.lasts)
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if c.signal != nil {
				eventually(t, "the process is stopped", func() bool { return stopped(t, victim.Process.Pid) })
				if err := cmd.Process.Signal(c.signal); err != nil {
					t.Fatal(err)
				}
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			eventually(t, "the process runs again", func() bool { return !stopped(t, victim.Process.Pid) })
			eventually(t, c.says, func() bool {
				said, _ := os.ReadFile(out.Name())
				return strings.Contains(string(said), c.says)
			})
		})
	}
}

// TestExport proves what becomes of each fault in a workflow of Chaos Mesh, and
// that what has no counterpart is named with a reason.
func TestExport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "e.yaml")
	err := os.WriteFile(file, []byte(`version: 1
name: exported
about: Faults of many kinds.
seed: 1
cluster: {nodes: 3}
load: {w: {schedule: {constant: 10/s}, duration: 60s, op: insert}}
faults:
  - {at: 1s, for: 2s, action: kill, target: n2}
  - {at: 2s, for: 2s, action: term, target: leader}
  - {at: 3s, for: 2s, action: pause, target: n1}
  - {at: 4s, for: 2s, action: isolate, target: n3, clients: cut, style: stall, direction: out}
  - {at: 5s, for: 2s, action: partition, target: n1, from: n2, style: reject}
  - {at: 6s, for: 2s, action: latency, target: all, latency: 20ms, jitter: 5ms}
  - {at: 7s, for: 2s, action: loss, target: n1, loss: 5%, burst: 4}
  - {at: 8s, for: 2s, action: bandwidth, target: n1, bytes: 256KiB}
  - {at: 9s, action: leader-switch}
  - {at: 10s, for: 2s, action: garbage, target: n1, rate: 5/s}
  - {at: 11s, for: 8s, action: isolate, target: n1, period: 2s, duty: 50%}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := chaosCommand(t, "export", "--to", "chaos-mesh", "--namespace", "prod", "--pods", "cache", file)
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, want := range []string{
		"# not mapped: term leader at 2.", "does not know who leads",
		"# not mapped: pause n1 at 3.", "not stopped and resumed",
		"# not mapped: partition n1 at 5.", "not refused or swallowed",
		"# not mapped: leader-switch at 9.", "# not mapped: garbage n1 at 10.", "# not mapped: isolate n1 at 11.",
		"apiVersion: chaos-mesh.org/v1alpha1", "kind: Workflow", "namespace: prod",
		"action: pod-kill", "prod:\n                        - cache-1", "direction: to", "jitter: 5ms", "loss: \"5\"", "correlation: \"75\"", "rate: 262144bps",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("lacks %q", want)
		}
	}
	if n := strings.Count(stdout, "templateType: NetworkChaos"); n != 4 {
		t.Errorf("%d network faults, want 4", n)
	}
	if t.Failed() {
		t.Log(stdout)
	}
	_, stdout, _ = chaosCommand(t, "export", "--to", "chaos-mesh", "--leader", "n3", file)
	if strings.Contains(stdout, "who leads") || !strings.Contains(stdout, "gracePeriod: 30") || !strings.Contains(stdout, "- cachenode-2") {
		t.Errorf("with a leader:\n%s", stdout)
	}
}

package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// killedPatience bounds waits for something that must come; the test does not
// pass because of it.
const killedPatience = time.Minute

const toBeKilled = `version: 1
name: to-be-killed
about: The harness dies while a node is stopped, another one is cut off, and all are under load.
cluster: {nodes: 3}
load:
  writers: {schedule: {constant: 200/s}, duration: 5m, op: insert, keys: {count: 1k}, route: any}
faults:
  - {name: stopped, at: 500ms, action: pause, target: n2}
  - {name: cut, at: 500ms, action: isolate, target: n3}
checks: {lost_writes: true}
`

// TestKilled proves that a harness which is killed (SIGKILL) leaves nothing
// behind: no node, not even one that it had stopped, and no port that anything
// listens on; and that what it had recorded can still be judged, as unknown.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	bin := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "github.com/hacache/hacache/chaos", "github.com/hacache/hacache/cachenode").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "to-be-killed.yaml")
	if err := os.WriteFile(file, []byte(toBeKilled), 0o600); err != nil {
		t.Fatal(err)
	}
	harness := exec.Command(filepath.Join(bin, "chaos"), "run", "-q", "--out", dir, file)
	if err := harness.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = harness.Process.Kill() }()

	var run string
	eventually(t, "both faults are in force", func() bool {
		dirs, _ := filepath.Glob(filepath.Join(dir, "to-be-killed*", result.EventsFile))
		if len(dirs) != 1 {
			return false
		}
		run = filepath.Dir(dirs[0])
		events, _ := os.ReadFile(dirs[0])
		return strings.Contains(string(events), `"state":"stopped"`) && strings.Contains(string(events), `"fault":"cut"`)
	})
	pids := pidsOf(t, run)
	ports := portsOf(t, run)
	if len(pids) != 3 || len(ports) < 12 { // three nodes with two each, six links between them and one to each
		t.Fatalf("nodes %v, ports %v", pids, ports)
	}
	if err := harness.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = harness.Wait()

	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d has ended", pid), func() bool { return !alive(pid) })
	}
	for _, addr := range ports {
		eventually(t, "nobody listens on "+addr, func() bool {
			l, err := net.Listen("tcp", addr)
			if err == nil {
				l.Close()
			}
			return err == nil
		})
	}
	code, stdout, _ := chaosCommand(t, "check", run)
	if code != result.ExitUnknown || !strings.Contains(stdout, "the run was killed") {
		t.Errorf("chaos check: exit code %d, want %d:\n%s", code, result.ExitUnknown, stdout)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	limit := time.After(killedPatience)
	for !is() {
		select {
		case <-limit:
			t.Fatalf("not within %v: %s", killedPatience, what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// alive reports whether there is such a process, other than one that has ended
// and waits for somebody to ask how.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// pidsOf reads the ids of the nodes' processes from the events of a run.
func pidsOf(t *testing.T, run string) (pids []int) {
	t.Helper()
	f, err := os.Open(filepath.Join(run, result.EventsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	started := regexp.MustCompile(`"state":"running","detail":"pid ([0-9]+)"`)
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if m := started.FindStringSubmatch(sc.Text()); m != nil {
			pid, _ := strconv.Atoi(m[1])
			pids = append(pids, pid)
		}
	}
	return pids
}

// portsOf lists what is listened on at the loopback address of a run.
func portsOf(t *testing.T, run string) (addrs []string) {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(run, result.NodesDir, "n1.log"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`msg=serving addr=([0-9.]+):`).FindSubmatch(log)
	if m == nil {
		t.Fatalf("n1 does not say where it serves:\n%s", log)
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		const listening = "0A"
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != listening {
			continue
		}
		ip, port, _ := strings.Cut(f[1], ":")
		raw, err := hex.DecodeString(ip)
		n, perr := strconv.ParseUint(port, 16, 16)
		if err != nil || perr != nil || len(raw) != net.IPv4len {
			t.Fatalf("cannot read %q", line)
		}
		if host := net.IPv4(raw[3], raw[2], raw[1], raw[0]).String(); host == string(m[1]) {
			addrs = append(addrs, net.JoinHostPort(host, strconv.FormatUint(n, 10)))
		}
	}
	return addrs
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/proc"
)

var drill = flag.Bool("drill", false, "replace certificates and restart nodes under load: make drill")

// What an operator does to a cluster that is in use, with real processes, mutual TLS and the load of loadgen: certificates
// and then the CA are replaced, and no operation fails, on connections that are up and on new ones, and what is new is in
// force within 5 s; each node is restarted by rolling-restart.sh, and no operation of a client of another node fails.
// Afterwards every key is on every node, with a value that somebody wrote.
func TestDrill(t *testing.T) {
	if !*drill {
		t.Skip("it takes a minute of load: make drill")
	}
	d := newDrill(t)
	fill := d.loadgen(t, "fill", "--addrs", strings.Join(d.addrs, ","), "--keys", drillKeys, "--name", "fill")
	fill.wait(t)
	d.loads = append(d.loads, fill)
	d.replaceCertificates(t)
	d.restartNodes(t)
	var dirs []string
	for _, l := range d.loads {
		dirs = append(dirs, l.dir(t))
	}
	verify := d.loadgen(t, append([]string{"verify", "--addrs", strings.Join(d.addrs, ","), "--name", "verify"}, dirs...)...)
	for _, check := range verify.wait(t).Checks {
		t.Logf("%s: %s, %d of %d wrong", check.Name, check.Verdict, check.Count, check.Checked)
		if check.Verdict != "pass" {
			t.Errorf("%s: %s", check.Name, check.Detail)
		}
	}
	lines := 0
	for i := range d.nodes {
		lines += d.said(t, i, "\n")
	}
	if t.Logf("the nodes logged %d lines", lines); lines > 1000 {
		t.Error("something is logged for each operation or connection")
	}
}

const (
	drillKeys = "10000"
	// servedWithin is what the shared requirements ask for; a node looks at its files every second.
	servedWithin = 5 * time.Second
)

// drillCluster is a tlsCluster whose nodes are started again when they end, as a supervisor does.
type drillCluster struct {
	*tlsCluster
	bin      string     // directory of loadgen
	ca, cert string     // files of its clients
	loads    []*loading // that wrote what is to be there

	mu       sync.Mutex
	stopping bool
}

func newDrill(t *testing.T) *drillCluster {
	t.Helper()
	d := &drillCluster{tlsCluster: startTLSCluster(t), bin: t.TempDir(), ca: caCert, cert: "client"}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", d.bin, "../loadgen")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var keepers sync.WaitGroup
	for i := range d.nodes {
		d.notePid(t, i)
		keepers.Go(func() { d.keep(t, i) })
	}
	t.Cleanup(func() {
		d.mu.Lock()
		d.stopping = true
		d.mu.Unlock()
		proc.StopAll(20*time.Second, d.nodes...)
		keepers.Wait()
	})
	return d
}

// keep starts a node again whenever it ends.
func (d *drillCluster) keep(t *testing.T, i int) {
	for {
		<-d.nodes[i].Done()
		d.mu.Lock()
		if d.stopping {
			d.mu.Unlock()
			return
		}
		p, err := proc.Start(context.Background(), d.spec(t, i))
		if err == nil {
			d.nodes[i] = p
			d.notePid(t, i)
		}
		d.mu.Unlock()
		if err != nil {
			t.Error(err)
			return
		}
	}
}

// notePid writes a node's process id to where the command of the recipe looks for it.
func (d *drillCluster) notePid(t *testing.T, i int) {
	t.Helper()
	_, port, _ := net.SplitHostPort(d.addrs[i])
	d.replace(t, port+".pid", []byte(strconv.Itoa(d.nodes[i].Pid())))
}

// replaceCertificates does all rotations under load.
func (d *drillCluster) replaceCertificates(t *testing.T) {
	var strangers newcomers
	steps := d.rotations(t, &strangers)
	l := d.load(t, "rotation", d.addrs...)
	strangers.come(t, d.addrs)
	for _, r := range steps {
		took := d.rotate(t, r)
		t.Logf("%-30s in force after %v", r.what, took)
		if slowest := slices.Max(took); slowest > servedWithin {
			t.Errorf("%s: in force after %v, want %v at most", r.what, slowest, servedWithin)
		}
	}
	d.cert = "next/client"
	l.linger(2 * time.Second)
	strangers.end()
	got := l.stop(t)
	ops, bad := got.totals()
	t.Logf("rotation: %d operations on connections that were up, %d not ok; %d newcomers, %d refused", ops, bad, strangers.came.Load(), strangers.wrong.Load())
	if ops == 0 || bad > 0 || strangers.came.Load() == 0 {
		t.Errorf("%+v", got.Series)
	}
}

// restartNodes restarts each node by the recipe, while each has clients of its own.
func (d *drillCluster) restartNodes(t *testing.T) {
	var loads []*loading
	for i, addr := range d.addrs {
		loads = append(loads, d.load(t, fmt.Sprint("node-", i+1), addr))
	}
	outages := d.rollingRestart(t)
	total, elsewhere, own := int64(0), int64(0), int64(0)
	for i, l := range loads {
		l.linger(2 * time.Second)
		got := l.stop(t)
		ops, _ := got.totals()
		total += ops
		for _, row := range l.rows(t, got.Started) {
			if row.bad == 0 {
				continue
			}
			if outages[d.addrs[i]].overlaps(row.from, row.to) {
				own += row.bad
				continue
			}
			elsewhere += row.bad
			t.Errorf("clients of %s, which was away from %v to %v: %d not ok from %v to %v", d.addrs[i],
				outages[d.addrs[i]].from, outages[d.addrs[i]].to, row.bad, row.from, row.to)
		}
	}
	t.Logf("rolling restart: %d operations; not ok at clients of other nodes: %d; of the node that was away: %d", total, elsewhere, own)
}

// span is a time during which a node is away, for its own clients.
type span struct{ from, to time.Time }

func (s span) overlaps(from, to time.Time) bool { return !to.Before(s.from) && !from.After(s.to) }

// rollingRestart runs the recipe and returns when each node was away: from the moment before it was told to stop, to that
// at which the recipe found it ready and clients that redial have had the time to find it, too. So long it waits before it
// stops the next one: what fails at one node's clients is then of one node's restart.
func (d *drillCluster) rollingRestart(t *testing.T) map[string]span {
	t.Helper()
	const redial = 3 * time.Second
	bin := t.TempDir()
	if err := os.Symlink(program(t), filepath.Join(bin, "cachenode")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "bash", append([]string{
		"deploy/rolling-restart.sh",
		`sleep 3 && date +%s%N >"$PIDS/$PORT.stopped" && kill -TERM "$(cat "$PIDS/$PORT.pid")"`,
	}, d.addrs...)...)
	cmd.Env = append(os.Environ(), d.env(d.cert, "CLIENT")...)
	cmd.Env = append(cmd.Env, "PIDS="+d.dir, "CACHENODE="+filepath.Join(bin, "cachenode"), "GORACE=atexit_sleep_ms=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	outages := map[string]span{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		t.Log(lines.Text())
		addr, _, ok := strings.Cut(lines.Text(), ": restarted")
		if !ok {
			continue
		}
		_, port, _ := net.SplitHostPort(addr)
		stopped, err := strconv.ParseInt(strings.TrimSpace(string(d.read(t, port+".stopped"))), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		outages[addr] = span{time.Unix(0, stopped), time.Now().Add(redial)}
	}
	if err := cmd.Wait(); err != nil || len(outages) != len(d.addrs) {
		t.Fatalf("%d of %d nodes were restarted: %v: %s", len(outages), len(d.addrs), err, stderr.Bytes())
	}
	return outages
}

// loading is a loadgen that runs.
type loading struct {
	cmd  *exec.Cmd
	name string
	out  string // its parent directory
	done chan struct{}
	err  error // after done

	stdout, stderr bytes.Buffer
}

// load offers reads and writes at each of the nodes until stop.
func (d *drillCluster) load(t *testing.T, name string, addrs ...string) *loading {
	t.Helper()
	l := d.loadgen(t, "run", "--addrs", strings.Join(addrs, ","), "--route", "any", "--rate", strconv.Itoa(400*len(addrs)), "--duration", "10m",
		"--mix", "get=50,insert=50", "--ack", "quorum", "--keys", drillKeys, "--checked", "--interval", "200ms", "--name", name)
	d.loads = append(d.loads, l)
	l.linger(2 * time.Second) // it connects, and warms up
	return l
}

// loadgen starts loadgen with what it needs to connect.
func (d *drillCluster) loadgen(t *testing.T, args ...string) *loading {
	t.Helper()
	l := &loading{name: args[0], out: t.TempDir(), done: make(chan struct{})}
	args = append([]string{
		args[0], "--tls", "--tls-ca", filepath.Join(d.dir, d.ca), "--tls-cert", filepath.Join(d.dir, d.cert+".pem"),
		"--tls-key", filepath.Join(d.dir, d.cert+".key"), "--token", tlsToken, "--json", "--quiet", "--out", l.out,
	}, args[1:]...)
	l.cmd = exec.CommandContext(t.Context(), filepath.Join(d.bin, "loadgen"), args...)
	l.cmd.Stdout, l.cmd.Stderr = &l.stdout, &l.stderr
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		l.err = l.cmd.Wait()
		close(l.done)
	}()
	return l
}

// linger waits, or until the load has ended.
func (l *loading) linger(d time.Duration) {
	select {
	case <-time.After(d):
	case <-l.done:
	}
}

// loadSummary is as much of a run's summary as is looked at here.
type loadSummary struct {
	Started time.Time
	Checks  []struct {
		Name, Verdict, Detail string
		Count, Checked        int64
	}
	Series []struct {
		Op, Level string
		Counts    struct{ Intended, OK, Fail, Info, Missed, Unfinished, Miss, Refused int64 }
	}
}

// totals counts the operations, and those that were not ok.
func (s *loadSummary) totals() (ops, bad int64) {
	for _, series := range s.Series {
		ops += series.Counts.Intended
		bad += series.Counts.Intended - series.Counts.OK
	}
	return ops, bad
}

// wait waits for the end of what was to end by itself, and must have gone well.
func (l *loading) wait(t *testing.T) *loadSummary {
	t.Helper()
	<-l.done
	if l.err != nil {
		t.Fatalf("loadgen %s: %v: %s", l.name, l.err, l.stderr.Bytes())
	}
	return l.summary(t)
}

// stop ends the load by an interrupt.
func (l *loading) stop(t *testing.T) *loadSummary {
	t.Helper()
	const interrupted = 130
	if err := l.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatalf("loadgen %s has ended: %v: %s", l.name, l.err, l.stderr.Bytes())
	}
	<-l.done
	if exit, ok := errors.AsType[*exec.ExitError](l.err); !ok || exit.ExitCode() != interrupted {
		t.Fatalf("loadgen %s: %v: %s", l.name, l.err, l.stderr.Bytes())
	}
	return l.summary(t)
}

func (l *loading) summary(t *testing.T) *loadSummary {
	t.Helper()
	var s loadSummary
	if err := json.Unmarshal(l.stdout.Bytes(), &s); err != nil {
		t.Fatalf("loadgen %s: %v: %s", l.name, err, l.stdout.Bytes())
	}
	return &s
}

// dir is the run directory.
func (l *loading) dir(t *testing.T) string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(l.out, "*"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("run directories %q, %v", dirs, err)
	}
	return dirs[0]
}

// loadRow is a part of a second of a load.
type loadRow struct {
	from, to time.Time
	bad      int64 // operations that were not ok
}

// rows reads the time series of a run.
func (l *loading) rows(t *testing.T, started time.Time) (rows []loadRow) {
	t.Helper()
	f, err := os.Open(filepath.Join(l.dir(t), "timeseries.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := csv.NewReader(f)
	head, err := table.Read()
	if err != nil {
		t.Fatal(err)
	}
	for {
		cells, err := table.Read()
		if errors.Is(err, io.EOF) {
			return rows
		} else if err != nil {
			t.Fatal(err)
		}
		values := map[string]int64{}
		for i, name := range head {
			values[name], _ = strconv.ParseInt(cells[i], 10, 64) // the words are not asked for
		}
		from := started.Add(time.Duration(values["t_ns"]))
		rows = append(rows, loadRow{from, from.Add(time.Duration(values["width_ns"])), values["fail"] + values["info"] + values["missed"] + values["refused"]})
	}
}

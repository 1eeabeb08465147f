package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/urfave/cli/v3"
	"go.uber.org/goleak"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/proc"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/internal/interrupt"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

// asProgram makes the test binary the program itself, for what only a process of
// its own has.
const asProgram = "LOADGEN_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" || len(os.Args) > 1 && os.Args[1] == echoCommandName { // the latter is started by perf, which takes this program for loadgen
		main()
	}
	goleak.VerifyTestMain(m)
}

// call runs the program and returns what it left behind.
func call(t *testing.T, ctx context.Context, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	code = run(ctx, append([]string{"loadgen"}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

// Every mistake is one line that names the flag or the file and line, what was
// found and what was expected; the exit code is 2; nothing is left behind.
func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string {
		path := filepath.Join(dir, fmt.Sprintf("%x.yaml", len(text)))
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	typo, wrong, list := file("rate: 100\nraet: 5\n"), file("mix: get=1\nduration: soon\n"), file("- rate\n- mix # a list\n")
	tags := file("tag:\n  - a=b\n  - {a: b}\n")
	t.Setenv("CACHE_ADDR", "")
	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, "no command; expected one of run, bench, perf, saturate, pair, fill, verify"},
		{[]string{"rum"}, `unknown command "rum"; expected one of run, bench, perf, saturate, pair, fill, verify`},
		{[]string{"run", "--raet", "5"}, "run: unknown flag --raet"},
		{[]string{"run", "--rate", "fast"}, `--rate: rate "fast": want operations per second`},
		{[]string{"run", "--rate", "5", "--schedule", "sine"}, `--schedule: schedule "sine": want constant, poisson, stages(`},
		{[]string{"run", "--schedule", "poisson"}, "--schedule: a closed loop"},
		{[]string{"run", "--rate", "5", "--schedule", "burst(1s:5,1s:1)"}, "--schedule: schedule \"burst(1s:5,1s:1)\": has rates of its own"},
		{[]string{"run", "--schedule", "stages(1s:5k)", "--think", "1s"}, "--think: only a closed loop"},
		{[]string{"run", "--segment", "3/2", "--seed", "1"}, `--segment: segment "3/2": want i/n`},
		{[]string{"run", "--segment", "1/2"}, "--segment: the segments of one load have one seed"},
		{[]string{"run", "--start-at", "soon"}, `--start-at: "soon": want seconds since 1970`},
		{[]string{"run", "--start-at", "2020-01-01T00:00:00Z"}, "ago; want a time to come"},
		{[]string{"run", "--read", "dirty"}, `--read: "dirty": want local, leader_on_miss or linearizable`},
		{[]string{"run", "--mix", "get=1,isnert=2"}, `--mix: operation "isnert": want get, put, insert, del or remove`},
		{[]string{"run", "--ack", "most"}, `--ack: ack level "most": want quorum, once or leader`},
		{[]string{"run", "--key-dist", "bell"}, `--key-dist: key distribution "bell"`},
		{[]string{"run", "--value-size", "9-1"}, `--value-size: value size "9-1": want min-max`},
		{[]string{"run", "--route", "moon"}, `--route: route "moon": want leader, any, sticky or followers`},
		{[]string{"run", "--addrs", "nohost"}, `--addrs: "nohost": want host:port`},
		{[]string{"run", "--streams", "0"}, "--streams: 0: want 1 to"},
		{[]string{"run", "--cluster", "embedded"}, `--cluster: "embedded": want process or external`},
		{[]string{"run", "--cluster", "process", "--addrs", "a:1", "--cachenode", os.Args[0]}, "--addrs: the nodes are started here"},
		{[]string{"run", "--target", "redis"}, `--target: "redis": want cachenode, echo or null`},
		{[]string{"run", "--tls-ca", "ca.pem"}, "--tls-ca: want --tls with it"},
		{[]string{"run", "--nodes", "5"}, "--nodes: no node is started; want --cluster process with it"},
		{[]string{"run", "--prometheus-addr", "9100"}, `--prometheus-addr: "9100": want host:port`},
		{[]string{"saturate", "--target", "null", "--cluster", "external", "--max-rate", "lots"}, `--max-rate: rate "lots": want`},
		{[]string{"run", "--tag", "x"}, `--tag: "x": want KEY=VALUE`},
		{[]string{"run", "--duration", "-1s"}, "--duration: -1s: want 0 or more"},
		{[]string{"run", "--cluster", "process", "--cachenode", "/nonexistent"}, "--cachenode:"},
		{[]string{"run", typo}, typo + `:2: unknown key "raet"; want one of addrs`},
		{[]string{"run", wrong}, wrong + ":2: duration:"},
		{[]string{"run", list}, list + ":1: want flags and their values"},
		{[]string{"run", "/nonexistent.yaml"}, "/nonexistent.yaml"},
		{[]string{"run", typo, list}, "run: 2 files; want one at most"},
		{[]string{"run", "--rate", "5", "--phases", "a=1s,a=2s"}, `--phases: "a": that name is there already`},
		{[]string{"run", "--rate", "5", "--threshold", "isnert: p(99) < 5ms"}, `--threshold: threshold "isnert: p(99) < 5ms": metric "isnert"`},
		{[]string{"run", "--rate", "5", "--threshold", "insert{phase:b}: p(99) < 5ms", "--phases", "a=1s"}, `there is no phase "b"`},
		{[]string{"run", "--threshold", "insert: p(99) < 5ms"}, "a closed loop (--rate 0) has service times only"},
		{[]string{"run", tags}, tags + ":3: tag: want a list of texts"},
		{[]string{"saturate", "--target", "null", "--cluster", "external", "--slo", ""}, `--slo: threshold ""`},
		{[]string{"saturate", "--target", "null", "--cluster", "external", "--slo", "p99 < 5ms, errors < 1%, abort"}, `--slo: threshold " abort"`},
		{[]string{"saturate", "--target", "null", "--cluster", "external", "--rate", "5k", "--max-rate", "1k"}, "--rate: from 5k to 1k: want"},
		{[]string{"saturate", "--target", "null", "--cluster", "external", "--within", "3"}, `--within: "3": want 0.5% to 100%`},
		{[]string{"saturate", "--target", "null", "--cluster", "external", "--schedule", "burst(1s:1,1s:1)"}, "--schedule:"},
		{[]string{"saturate", "--target", "null", "--cluster", "external", "--step", "0s"}, "--step: 0s: want at most 1m0s, and more than 0"},
		{[]string{"run", "--checked", "--name", "a:b"}, `--name: "a:b": is written into checked values`},
		{[]string{"fill", "--cluster", "process", "--cachenode", os.Args[0]}, "--cluster: what is written is to stay"},
		{[]string{"fill", "--mix", "get"}, "fill: unknown flag --mix"},
		{[]string{"verify"}, "verify: no run directory"},
		{[]string{"verify", dir}, "workload.json: no such file"},
		{[]string{"bench", "--size", "xl", "--cachenode", os.Args[0]}, `--size: "xl": want s, m or l`},
		{[]string{"bench", "leader"}, `bench: unexpected argument "leader"`},
	} {
		args := tc.args
		if len(args) > 0 && slices.Contains([]string{"run", "bench", "saturate", "fill", "verify"}, args[0]) {
			args = slices.Insert(slices.Clone(args), 1, "--out", filepath.Join(dir, "out"))
		}
		code, stdout, stderr := call(t, t.Context(), args...)
		if code != result.ExitUsage || !strings.Contains(stderr, tc.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: exit code %d, stderr %q; want 2 and %q in one line; stdout %q", tc.args, code, stderr, tc.want, stdout)
		}
	}
	code, _, stderr := call(t, t.Context(), "run", "--ack", "x", "--mix", "y", "--keys", "z")
	if code != result.ExitUsage || strings.Count(stderr, "\n") != 3 {
		t.Errorf("three mistakes: exit code %d, %q", code, stderr)
	}
}

// Every flag of every command, given what it cannot mean, is refused in one line
// that names it, before anything begins; but for those that take any text.
func TestEveryFlagMistyped(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(interrupt.Signal("SIGINT")) // what is accepted would begin
	t.Setenv("CACHE_ADDR", "")
	external := []string{"--cluster", "external", "--addrs", "127.0.0.1:1"}
	needs := map[string][]string{
		"run": append(external, "--target", "null"), "saturate": append(external, "--target", "null"), "fill": external, "verify": external,
		"bench": {"--cachenode", os.Args[0]}, "perf": {"--cachenode", os.Args[0]}, "pair": {"--base", os.Args[0], "--head", os.Args[0], "--rate", "1k"},
	}
	anyText := []string{"help", "name", "out", "token", "cache", "round", "only"}
	for _, c := range newCommand(io.Discard, io.Discard).Commands {
		for _, f := range c.Flags {
			name := f.Names()[0]
			if v, ok := f.(cli.VisibleFlag); slices.Contains(anyText, name) || ok && !v.IsVisible() {
				continue
			}
			args := slices.Concat([]string{c.Name, "--out", t.TempDir()}, needs[c.Name], []string{"--" + name + "=%%%"})
			if c.Name == "verify" {
				args = append(args, t.TempDir())
			}
			code, _, stderr := call(t, ctx, args...)
			if code != result.ExitUsage || !strings.Contains(stderr, name) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("%s --%s=%%%%%%: exit code %d, %q; want 2 and one line that names it", c.Name, name, code, stderr)
			}
		}
	}
}

// A run leaves every file of the run directory, and they agree.
func TestRunDirectory(t *testing.T) {
	out := t.TempDir()
	file := filepath.Join(out, "load.yaml")
	if err := os.WriteFile(file, []byte("mix: get=1,insert=1\nops: 99999\nseed: 5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// --ops wins over the file.
	code, stdout, stderr := call(t, t.Context(), "run", "--target", "null", "--out", out, "--name", "my load", "--ops", "20000", "--warmup", "0", "--tag", "a=b", "-q", file)
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	dirs, _ := filepath.Glob(filepath.Join(out, "my-load-*"))
	if len(dirs) != 1 || !strings.Contains(stdout, "run directory: "+dirs[0]) || !strings.Contains(stdout, "insert quorum") {
		t.Fatalf("%v\n%s", dirs, stdout)
	}
	r, err := result.Read(dirs[0])
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict != result.Pass || len(r.Series) != 2 || r.Environment.Seed != 5 || r.Events[0].Detail != "a=b" {
		t.Errorf("%+v", r)
	}
	var total, rows, logged int64
	for _, s := range r.Series {
		total += s.Counts.OK
	}
	for _, row := range r.Intervals {
		rows += row.OK
	}
	log, err := os.Open(filepath.Join(dirs[0], result.HistogramLogFile))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for reader := hdrhistogram.NewHistogramLogReader(log); ; {
		h, err := reader.NextIntervalHistogram()
		if err != nil {
			t.Fatal(err)
		}
		if h == nil {
			break
		}
		if strings.HasSuffix(h.Tag(), "/ok/response") {
			logged += h.TotalCount()
		}
	}
	if total != 20000 || rows != total || logged != total {
		t.Errorf("series %d, time series %d, histogram log %d; want 20000", total, rows, logged)
	}
	for _, name := range []string{"get.hgrm", "insert-quorum.service.hgrm", result.BenchFile, result.EnvironmentFile, result.ReportFile} {
		if info, err := os.Stat(filepath.Join(dirs[0], name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}

	code, stdout, _ = call(t, t.Context(), "run", "--target", "null", "--out", out, "--json", "-q", "--ops", "100", "--warmup", "0")
	var doc struct {
		Dir     string
		Verdict string
	}
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil || code != 0 || doc.Verdict != "pass" || doc.Dir == "" {
		t.Errorf("--json: %v, exit code %d: %s", err, code, stdout)
	}
}

// Segments that start at one moment have it as the zero of their time axes, to
// the nanosecond; their directories say which part they are and can be merged.
func TestSegmentsStartTogether(t *testing.T) {
	out, at := t.TempDir(), time.Now().Add(300*time.Millisecond)
	var wg sync.WaitGroup
	for i := range 2 {
		name := fmt.Sprint("part", i)
		wg.Go(func() {
			code, stdout, stderr := call(t, t.Context(), "run", "--target", "null", "--streams", "1", "--rate", "500", "-n", "100", "--warmup", "0s", "--seed", "5",
				"--segment", fmt.Sprintf("%d/2", i+1), "--start-at", at.Format(time.RFC3339Nano), "--out", out, "--name", name, "-q")
			if code != 0 {
				t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
			}
		})
	}
	wg.Wait()
	dirs, _ := filepath.Glob(filepath.Join(out, "part*"))
	for i, dir := range dirs {
		r, err := result.Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		if !r.Started.Equal(at) || r.Segment == nil || r.Segment.Index != int64(i) || r.Segment.Of != 2 {
			t.Errorf("started %s, want %s; segment %+v", r.Started, at, r.Segment)
		}
	}
	m, err := result.Merge(dirs)
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, s := range m.Run.Series {
		total += s.Counts.OK
	}
	if total != 100 || m.Run.Verdict != result.Pass {
		t.Errorf("%d operations, %s: %v", total, m.Run.Verdict, m.Run.Reasons)
	}
}

// A threshold that is kept leaves the exit code alone, one that is missed makes
// it 99, one that cannot be judged 96; one that aborts ends the load long before
// its time, and the result is there.
func TestThresholds(t *testing.T) {
	out := t.TempDir()
	for i, tc := range []struct {
		limits []string
		code   int
		want   string
	}{
		{[]string{"errors: rate < 1%", "get{time:service}: p(90) < 10s"}, result.ExitOK, "threshold errors: rate < 1%: kept, 0% (0 of "},
		{[]string{"errors: rate < 1%", "throughput: count < 2"}, result.ExitThreshold, "threshold throughput: count < 2: MISSED"},
		{[]string{"throughput: count < 2, abort"}, result.ExitThreshold, "warning: the load: ended early: the threshold throughput: count < 2, abort was not kept"},
		{[]string{"remove{time:service}: max < 1s"}, result.ExitUnknown, "thresholds can be judged: unknown: remove{time:service}: max < 1s: nothing was measured"},
	} {
		name := fmt.Sprintf("t%d", i)
		args := []string{"run", "--target", "null", "--out", out, "--name", name, "--interval", "50ms", "--warmup", "0s", "-q", "--streams", "1", "-P", "1"}
		if i == 2 {
			args = append(args, "-d", "10m")
		} else {
			args = append(args, "-n", "20k")
		}
		for _, l := range tc.limits {
			args = append(args, "--threshold", l)
		}
		code, stdout, stderr := call(t, t.Context(), args...)
		if code != tc.code || !strings.Contains(stdout, tc.want) {
			t.Errorf("%v: exit code %d, want %d and %q:\n%s%s", tc.limits, code, tc.code, tc.want, stdout, stderr)
		}
		dirs, _ := filepath.Glob(filepath.Join(out, name+"-*"))
		if r, err := result.Read(dirs[0]); err != nil || len(r.Series) == 0 {
			t.Errorf("%v: %v, %+v", tc.limits, err, r)
		}
	}
}

// What offers far more than it or its target can do is marked, and reports no
// latency: a limit on one is unknown, and bench.txt has none.
func TestOverloadIsNoLatency(t *testing.T) {
	out := t.TempDir()
	code, stdout, stderr := call(t, t.Context(), "run", "--target", "echo", "--conns", "1", "--streams", "1", "-P", "1", "--rate", "3M", "-d", "300ms", "--warmup", "0s", "--timeout", "1s",
		"--threshold", "latency: p(50) < 24h", "--out", out, "-q")
	if code != result.ExitUnknown || !strings.Contains(stdout, "thresholds can be judged: unknown: latency: p(50) < 24h: ") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	dirs, _ := filepath.Glob(filepath.Join(out, "load-*"))
	r, err := result.Read(dirs[0])
	if err != nil || len(r.Series) == 0 {
		t.Fatalf("%v, %+v", err, r)
	}
	for _, s := range r.Series {
		if !s.Limited && !s.Saturated {
			t.Errorf("%s is not marked", s.ID())
		}
	}
	bench, err := os.ReadFile(filepath.Join(dirs[0], result.BenchFile))
	if err != nil || regexp.MustCompile(`(?m)^Benchmark.*-ns`).Match(bench) || !bytes.Contains(bench, []byte(" ok/s ")) {
		t.Errorf("%v\n%s", err, bench)
	}
}

// While a load runs its counts can be scraped; what is scraped agrees with
// itself: as many response times as oks.
func TestPrometheus(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := lis.Addr().String()
	code, _, stderr := call(t, t.Context(), "run", "--target", "null", "--out", t.TempDir(), "-n", "10", "-q", "--prometheus-addr", addr)
	if code != result.ExitFailure || !strings.Contains(stderr, "--prometheus-addr: listen tcp "+addr) {
		t.Errorf("an address in use: exit code %d, %s", code, stderr)
	}
	lis.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan int)
	go func() {
		code, _, _ := call(t, ctx, "run", "--target", "null", "--out", t.TempDir(), "--interval", "50ms", "--streams", "1", "-P", "1", "--warmup", "0s", "-d", "10m", "-q", "--prometheus-addr", addr)
		ended <- code
	}()
	ok := regexp.MustCompile(`loadgen_operations_total{level="",op="get",outcome="ok",phase=""} ([0-9.e+]+)`)
	count := regexp.MustCompile(`loadgen_response_seconds_count{level="",op="get",phase=""} ([0-9.e+]+)`)
	bucket := regexp.MustCompile(`loadgen_service_seconds_bucket{level="",op="get",phase="",le="\+Inf"} ([0-9.e+]+)`)
	var text string
	for end := time.Now().Add(30 * time.Second); !ok.MatchString(text) && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if resp, err := http.Get("http://" + addr + "/metrics"); err == nil {
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			text = string(b)
		}
	}
	cancel(interrupt.Signal("SIGTERM"))
	if code := <-ended; code != result.ExitTerminate {
		t.Errorf("exit code %d", code)
	}
	http.DefaultClient.CloseIdleConnections()
	got := func(re *regexp.Regexp) string {
		if m := re.FindStringSubmatch(text); m != nil {
			return m[1]
		}
		return "none"
	}
	if got(ok) == "none" || got(count) != got(ok) || got(bucket) != got(ok) {
		t.Errorf("ok %s, response times %s, service times %s:\n%s", got(ok), got(count), got(bucket), text)
	}
}

// A search prints its rates in order and what it found, and leaves the picture.
// Whether the rates hold is up to the machine, and not what is tested.
func TestSaturate(t *testing.T) {
	out := t.TempDir()
	code, stdout, stderr := call(t, t.Context(), "saturate", "--target", "null", "--cluster", "external", "--out", out, "--slo", "errors < 1%",
		"--rate", "400", "--max-rate", "900", "--step", "50ms", "--warmup", "0s", "--repeats", "1", "--within", "100%", "-q", "--seed", "3")
	if code != result.ExitOK && code != result.ExitUnknown || !strings.Contains(stdout, "highest rate that holds errors: rate < 1%: ") {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	dirs, _ := filepath.Glob(filepath.Join(out, "saturate-*"))
	r, err := result.Read(dirs[0])
	if err != nil || r.Saturation == nil || len(r.Saturation.Steps) == 0 {
		t.Fatalf("%v %+v", err, r)
	}
	tries := int64(0)
	for _, st := range r.Saturation.Steps {
		tries += int64(len(st.Trials))
	}
	if int64(len(r.Phases)) != tries {
		t.Errorf("%d phases, %d tries", len(r.Phases), tries)
	}
	if _, err := os.Stat(filepath.Join(dirs[0], result.PlotsDir, "knee-throughput.svg")); err != nil {
		t.Error(err)
	}
}

// The generator measures itself and says what it found, whatever that is on
// this machine.
func TestSelf(t *testing.T) {
	var out, errs strings.Builder
	s := &settings{name: "self", out: t.TempDir(), interval: time.Second, quiet: true, seed: 1}
	err := selfBench(t.Context(), s, 20*time.Millisecond, &out, &errs)
	if code, failed := errors.AsType[command.Exit](err); err != nil && (!failed || code != result.ExitThreshold) {
		t.Fatal(err)
	}
	for _, want := range []string{
		"threshold null: rate >= 2000000/s: ", " for each second of a core, ", "threshold null: allocations <= 2: ",
		"threshold echo against the tight client: rate >= 90%: ", "(middle of 9 rounds: ", "threshold echo against the tight client: allocations <= +2: ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

// Nobody there, and a run in which nothing is answered.
func TestNobodyThere(t *testing.T) {
	out := t.TempDir()
	code, _, stderr := call(t, t.Context(), "run", "--addrs", "127.0.0.1:1", "--out", out, "-q")
	if code != result.ExitFailure || !strings.Contains(stderr, "connection refused") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

// cachenode builds the node, once.
func cachenode(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real processes")
	}
	binary := filepath.Join(t.TempDir(), "cachenode")
	if text, err := exec.Command("go", "build", "-o", binary, "../cachenode").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return binary
}

// A load on a cluster of three real processes is answered, also by followers;
// one that is interrupted leaves a report and no process.
func TestRealNodes(t *testing.T) {
	binary, out := cachenode(t), t.TempDir()
	code, stdout, stderr := call(t, t.Context(), "run", "--cluster", "process", "--cachenode", binary, "--token", "s3cret", "--route", "any",
		"--mix", "get=1,put=1,insert=2,del=1,remove=1", "--ack", "quorum=1,once=1,leader=1", "--rate", "500",
		"--warmup", "200ms", "-d", "1s", "--out", out, "--name", "whole", "-q")
	if code != 0 {
		t.Fatalf("exit code %d, %s\n%s", code, stderr, stdout)
	}
	dirs, _ := filepath.Glob(filepath.Join(out, "whole-*"))
	r, err := result.Read(dirs[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Series) != 9 || len(r.Nodes) != 3 {
		t.Errorf("%d series, %d nodes; want 3 operations without and 2 with 3 levels, on 3 nodes", len(r.Series), len(r.Nodes))
	}
	for _, name := range []string{"loadgen", "node-1", "node-3"} {
		if !slices.ContainsFunc(r.Resources, func(s result.Resource) bool { return s.Node == name && s.RSS > 1<<20 }) {
			t.Errorf("nothing is known of what %s used", name)
		}
	}
	for _, s := range r.Series {
		if s.Counts.OK != s.Counts.Intended || s.Counts.OK == 0 {
			t.Errorf("%s: %+v", s.ID(), s.Counts)
		}
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(2*time.Second, func() { cancel(interrupt.Signal("SIGINT")) })
	code, stdout, stderr = call(t, ctx, "run", "--cluster", "process", "--cachenode", binary, "--nodes", "1",
		"--rate", "200", "-d", "1m", "--out", out, "--name", "cut", "-q")
	if code != result.ExitInterrupt || !strings.Contains(stdout, "interrupted by SIGINT") {
		t.Errorf("exit code %d, %s\n%s", code, stderr, stdout)
	}
	dirs, _ = filepath.Glob(filepath.Join(out, "cut-*"))
	if r, err = result.Read(dirs[0]); err != nil || r.Interrupted != "SIGINT" || len(r.Series) == 0 {
		t.Errorf("partial result: %v %+v", err, r)
	}
	if err := exec.Command("pgrep", "-f", "^"+binary).Run(); !isExit(err, 1) {
		t.Errorf("a node is left: %v", err)
	}
}

// A round of a comparison leaves a run of each side, with the same load in the same steps, what each step cost the nodes,
// and whether anybody took the leadership over. A program that is not there is a mistake, and leaves nothing.
func TestPair(t *testing.T) {
	binary, out := cachenode(t), t.TempDir()
	if code, _, stderr := call(t, t.Context(), "pair", "--base", binary, "--head", "nowhere", "--rate", "100", "--out", out); code != 2 || !strings.Contains(stderr, "nowhere") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	code, stdout, stderr := call(t, t.Context(), "pair", "--base", binary, "--head", binary, "--rate", "400", "--each", "500ms", "--flat", "200ms",
		"--keys", "100", "--round", "07", "--out", out, "-q")
	if code != 0 {
		t.Fatalf("exit code %d, %s\n%s", code, stderr, stdout)
	}
	var offered []int64
	for _, side := range []string{"base", "head"} {
		dirs, _ := filepath.Glob(filepath.Join(out, side, "07", "pair-*"))
		if len(dirs) != 1 || !strings.Contains(stdout, side+"\t"+dirs[0]+"\n") {
			t.Fatalf("%s: %q, stdout %s", side, dirs, stdout)
		}
		r, err := result.Read(dirs[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range r.Series {
			if s.Phase == pairFixed {
				offered = append(offered, s.Counts.Intended)
			}
		}
		if len(r.Costs) != 2 || r.Costs[0].Phase != pairFixed || r.Costs[1].Phase != pairFlat || r.Costs[1].Ops == 0 || r.Costs[1].CPU == 0 {
			t.Errorf("%s: costs %+v", side, r.Costs)
		}
		if !slices.ContainsFunc(r.Checks, func(c result.Check) bool { return c.Name == result.CheckLeaderKept && c.Verdict == result.Pass }) {
			t.Errorf("%s: checks %+v", side, r.Checks)
		}
	}
	if len(offered) != 4 || offered[0] != offered[2] || offered[1] != offered[3] || offered[0] == 0 {
		t.Errorf("operations of gets and inserts, of base and head: %v", offered)
	}
}

// perf compares rows of the nodes with the echo in the same round, tells what each process cost, and leaves profiles of
// all of them. Whether a target is met is the machine's business here; that it is judged is not.
func TestPerf(t *testing.T) {
	binary, out := cachenode(t), t.TempDir()
	if code, _, stderr := call(t, t.Context(), "perf", "--only", "nothing", "--cachenode", binary, "--out", out); code != result.ExitUsage || !strings.Contains(stderr, "matches no row") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	code, stdout, stderr := call(t, t.Context(), "perf", "--only", "leader, 256", "--rounds", "2", "--each", "200ms", "--keys", "100", "--cachenode", binary, "--out", out, "-q")
	if code != result.ExitOK && code != result.ExitThreshold {
		t.Fatalf("exit code %d, %s\n%s", code, stderr, stdout)
	}
	dirs, _ := filepath.Glob(filepath.Join(out, "perf-*"))
	if len(dirs) != 1 {
		t.Fatalf("run directories: %q", dirs)
	}
	r, err := result.Read(dirs[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Thresholds) != 2 || len(r.Costs) != 2 || r.Costs[0].CPU == 0 {
		t.Errorf("thresholds %+v, costs %+v", r.Thresholds, r.Costs)
	}
	for _, process := range []string{"loadgen", "node-1", "node-2", "node-3"} {
		if info, err := os.Stat(filepath.Join(dirs[0], profilesDir, "insert-leader-256."+process+".pb.gz")); err != nil || info.Size() == 0 {
			t.Errorf("profile of %s: %v", process, err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dirs[0], perfFile))
	if err != nil || strings.Count(string(text), "BenchmarkPerf/insert/leader/256 ") != 2 || strings.Count(string(text), "BenchmarkPerf/echo/256 ") != 2 {
		t.Errorf("%s: %v\n%s", perfFile, err, text)
	}
}

// A benchmark fills its keys, and measures each level and reads at a fixed rate,
// then writes and reads as fast as they go.
func TestBench(t *testing.T) {
	s := &settings{
		target: "cachenode", start: true, nodes: 3, cachenode: cachenode(t), name: "bench", out: t.TempDir(), interval: time.Second, quiet: true, seed: 1,
		cluster:   load.ClusterConfig{Token: "t", Conns: 1, Streams: 4, Window: 8, Batch: true},
		generator: load.Generator{InFlight: 8}, workload: load.Workload{Keys: 500, Seed: 1},
	}
	var out, errs strings.Builder
	se, err := newSession(s, result.KindBench, "short", &out, &errs)
	if err != nil {
		t.Fatal(err)
	}
	if err = se.begin(t.Context()); err == nil {
		err = se.bench(t.Context(), 200*time.Millisecond, 300)
	}
	if err = se.finish(t.Context(), err); err != nil {
		t.Fatalf("%v\n%s%s", err, out.String(), errs.String())
	}
	var got []string
	for i := range se.run.Series {
		x := &se.run.Series[i]
		got = append(got, fmt.Sprintf("%s: %s %v", x.Phase, strings.TrimSpace(x.Op+" "+x.Level), x.Closed))
		if x.Counts.OK != x.Counts.Intended || x.Op == "get" && x.Counts.Miss > 0 {
			t.Errorf("%s: %+v", x.ID(), x.Counts)
		}
	}
	want := "[fixed rate, quorum: insert quorum false fixed rate, once: insert once false fixed rate, leader: insert leader false " +
		"fixed rate, get: get false flat out, quorum: insert quorum true flat out, get: get true]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// A key space is filled and verified: on every node, after a checked load on top
// of it, and after damage: a key that was removed, a value that was changed, one
// that belongs to another key. Each is found, by its kind, and makes the exit
// code 97.
func TestFillAndVerify(t *testing.T) {
	binary, out := cachenode(t), t.TempDir()
	cluster, err := proc.LocalCluster(t.Context(), proc.ClusterSpec{Binary: binary, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Stop(5 * time.Second)
	loadgen := func(want int, args ...string) (dir string, r *result.Run) {
		t.Helper()
		args = append(args[:1:1], append([]string{"--addrs", strings.Join(cluster.Addrs, ","), "--token", "t", "--out", out, "-q"}, args[1:]...)...)
		code, stdout, stderr := call(t, t.Context(), args...)
		_, dir, _ = strings.Cut(stdout, "run directory: ")
		dir, _, _ = strings.Cut(dir, "\n")
		if code != want {
			t.Fatalf("%v: exit code %d, want %d\n%s%s", args, code, want, stdout, stderr)
		}
		r, err := result.Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		return dir, r
	}
	filled, _ := loadgen(0, "fill", "--keys", "3k", "--value-size", "10-300", "--seed", "7")
	_, r := loadgen(0, "verify", filled)
	if r.Checks[0].Checked != 9000 {
		t.Errorf("%+v, want 3000 keys on each of 3 nodes", r.Checks[0])
	}
	loaded, _ := loadgen(0, "run", "--checked", "--name", "later", "--mix", "put=1,insert=1", "--keys", "3k", "--key-dist", "zipf", "--value-size", "lognormal(100,1)", "-n", "2000", "--warmup", "0s", "--seed", "9")
	_, r = loadgen(result.ExitViolated, "verify", filled)
	if c := r.Checks[2]; c.Verdict != result.Violated || !strings.Contains(r.Losses[0].Found, `written by "later", who is not known`) {
		t.Errorf("a load that is not given: %+v, %+v", c, r.Losses[0])
	}
	loadgen(0, "verify", "--no-every-node", filled, loaded)

	// A node that is killed in the middle of a load: every operation is accounted
	// for, and what was acknowledged is there afterwards.
	time.AfterFunc(time.Second, func() { cluster.Nodes[2].Signal(syscall.SIGKILL) })
	more, r := loadgen(0, "run", "--checked", "--name", "killed", "--mix", "insert=1,get=1", "--rate", "1k", "--schedule", "poisson", "-d", "2s", "--route", "any", "--keys", "3k", "--timeout", "1s")
	if c := r.Checks[0]; c.Name != "every operation accounted for" || c.Verdict != result.Pass || c.Checked < 1500 {
		t.Errorf("%+v", c)
	}
	cluster.Addrs = cluster.Addrs[:2]
	loadgen(0, "verify", filled, loaded, more)

	c, err := client.New(client.ClientConfig{Addrs: cluster.Addrs, Config: client.Config{Token: "t"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	value, found, err := c.Get(t.Context(), "bench", "key-5")
	if err != nil || !found {
		t.Fatal(err)
	}
	damaged := slices.Clone(value)
	damaged[len(damaged)-1] ^= 1
	for _, err := range []error{
		c.Remove(t.Context(), "bench", "key-1", client.LevelQuorum), c.Insert(t.Context(), "bench", "key-2", damaged, client.LevelQuorum),
		c.Insert(t.Context(), "bench", "key-3", value, client.LevelQuorum), c.Insert(t.Context(), "bench", "key-4", []byte("plain"), client.LevelQuorum),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	_, r = loadgen(result.ExitViolated, "verify", "--no-every-node", filled, loaded, more)
	var got []string
	for _, l := range r.Losses {
		got = append(got, l.Key+" "+string(l.Kind))
	}
	slices.Sort(got)
	if want := "[key-1 lost key-2 corrupt key-3 corrupt key-4 corrupt]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	for i, want := range []int64{1, 2, 1} {
		if r.Checks[i].Count != want {
			t.Errorf("%s: %d, want %d", r.Checks[i].Name, r.Checks[i].Count, want)
		}
	}
}

// isExit reports whether a command ended with the code, or is not installed.
func isExit(err error, code int) bool {
	if errors.Is(err, exec.ErrNotFound) {
		return true
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	return ok && exit.ExitCode() == code
}

// The rate that shows the generator's lag is the one closest to half of what was
// found, and none if no rate is near there.
func TestHalfway(t *testing.T) {
	var steps []result.SaturationStep
	for _, rate := range []float64{1000, 1500, 2250, 3375} {
		steps = append(steps, result.SaturationStep{Offered: rate, Held: true, Trials: []result.SaturationTrial{{Held: true, LagP99: time.Duration(rate)}}})
	}
	for found, want := range map[float64]float64{3300: 1500, 3375: 1500, 2250: 1000, 1500: 1000, 1000: 0, 0: 0} {
		if rate, lag := halfway(steps, found); rate != want || lag != time.Duration(want) {
			t.Errorf("half of %g: %g, %s; want %g", found, rate, lag, want)
		}
	}
}

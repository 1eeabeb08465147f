package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/chaos/internal/check"
	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/internal/interrupt"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/proto/cachepb"
	"github.com/hacache/hacache/reports/result"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a cluster in virtual time: writes take a millisecond and reach all
// nodes, the leader can be killed and another takes over 50 ms later. Its
// fields make it misbehave.
type fake struct {
	boot Boot

	bootErr   error
	sick      error                                 // WaitHealthy fails with it
	sickAfter bool                                  // but only once the load is over
	panics    bool                                  // WaitHealthy panics once the load is over
	injectErr error                                 // Inject fails with it
	wrecks    bool                                  // Inject panics, with another fault in force
	harmless  bool                                  // faults do not bite
	loses     func(node string, op *client.Op) bool // a node forgets an acknowledged write
	refuses   int                                   // so many first reads on a connection of the harness are refused
	unread    bool                                  // n2 refuses final reads for ever
	repeats   bool                                  // copies of a tagged operation are applied again
	hides     bool                                  // n3 holds something that it shows to nobody
	evicted   uint64                                // from the cache of the load
	late      time.Duration                         // n2 applies so much later than it acknowledges
	served    int64                                 // so many of those that must not be
	// readyAfter is how long the nodes take to be ready, the next time that is
	// asked; negative: for ever.
	readyAfter time.Duration

	mu     sync.Mutex
	leader int // index; -1: none
	term   uint64
	data   [3]map[entry][]byte
	index  uint64                       // of the log
	done   map[uint64]map[uint64]uint64 // session -> seq -> index
	calls  []string                     // what the runner asked for, in order
	open   int                          // faults in force
	waits  int
	reads  int
	stops  int
}

func (f *fake) call(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func (f *fake) start(_ context.Context, b Boot) (System, error) {
	f.boot, f.term, f.done = b, 2, map[uint64]map[uint64]uint64{}
	for i := range f.data {
		f.data[i] = map[entry][]byte{}
		if f.bootErr == nil {
			b.Process(f.name(i), result.ProcessRunning, "pid 1")
		}
	}
	f.call("boot")
	return f, f.bootErr
}

func (f *fake) name(i int) string { return fmt.Sprintf("n%d", i+1) }

func (f *fake) Nodes() []Endpoint {
	var out []Endpoint
	for i := range f.data {
		out = append(out, Endpoint{Name: f.name(i), Identity: "id-" + f.name(i), Addr: "addr-" + f.name(i)})
	}
	return out
}

func (f *fake) WaitHealthy(ctx context.Context) error {
	f.call("wait healthy, %d faults in force", f.open)
	f.mu.Lock()
	f.waits++
	second := f.waits > 1
	f.mu.Unlock()
	if f.panics && second {
		panic("boom")
	}
	if f.sick != nil && second == f.sickAfter {
		<-ctx.Done()
		return f.sick
	}
	return nil
}

func (f *fake) WaitReady(ctx context.Context) error {
	f.call("wait ready")
	f.mu.Lock()
	ready := f.readyAfter
	f.readyAfter = 0
	f.mu.Unlock()
	if ready < 0 {
		<-ctx.Done()
		return errors.New("n1 is undefined")
	}
	select {
	case <-time.After(ready): // of the bubble
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fake) Observe(_ context.Context, node string) (result.Event, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := result.Event{Role: result.RoleFollower, Term: f.term, Cluster: "A"}
	switch {
	case f.leader < 0:
		e.Role = result.RoleRequested
	case f.name(f.leader) == node:
		e.Role, e.Leader = result.RoleLeader, node
	default:
		e.Leader = f.name(f.leader)
	}
	return e, nil
}

func (f *fake) Target(bool, int, int) (load.Target, error) { return fakeTarget{f}, nil }

func (f *fake) Spread(int) (load.Target, error) { return fakeSpread{fakeTarget{f}}, nil }

type fakeTarget struct{ f *fake }

func (fakeTarget) Streams() int { return 1 }
func (fakeTarget) Close() error { return nil }

func (t fakeTarget) Start(_ int, op *client.Op, done func(client.Outcome)) error {
	return t.f.later("addr-n2", op, done)
}

// fakeSpread has a stream to each node.
type fakeSpread struct{ fakeTarget }

func (fakeSpread) Streams() int { return 3 }

func (t fakeSpread) Start(stream int, op *client.Op, done func(client.Outcome)) error {
	return t.f.later("addr-"+t.f.name(stream), op, done)
}

func (f *fake) later(node string, op *client.Op, done func(client.Outcome)) error {
	o := *op
	o.Value = slices.Clone(op.Value)
	time.AfterFunc(time.Millisecond, func() { done(f.serve(node, &o)) })
	return nil
}

func (f *fake) serve(node string, op *client.Op) client.Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := client.Outcome{Node: node, Cluster: 'A', Term: f.term, Index: f.index}
	k := entry{op.Cache, op.Key}
	index, again := f.done[op.Session][op.Seq]
	switch {
	case op.Session != 0 && f.leader >= 0 && f.done[op.Session] == nil && op.Seq != 1:
		out.Status, out.Code = client.StatusFail, cachepb.Code_SESSION_EXPIRED
		out.Err = &client.OpError{Kind: op.Kind, Code: out.Code}
	case again && !f.repeats:
		out.Index = index
	case op.Kind == client.KindGet:
		out.Value, out.Found = f.data[node[len(node)-1]-'1'][k]
	case f.leader < 0:
		out.Status, out.Code = client.StatusFail, cachepb.Code_NO_LEADER
		out.Err = &client.OpError{Kind: op.Kind, Code: out.Code}
	default:
		f.index++
		out.Index = f.index
		if f.done[op.Session] == nil {
			f.done[op.Session] = map[uint64]uint64{}
		}
		if op.Session != 0 {
			f.done[op.Session][op.Seq] = f.index
		}
		for i, d := range f.data {
			switch {
			case f.loses != nil && f.loses(f.name(i), op):
			case f.late > 0 && i == 1 && op.Cache == visitCache && op.Kind == client.KindInsert:
				time.AfterFunc(f.late, func() {
					f.mu.Lock()
					defer f.mu.Unlock()
					d[k] = op.Value
				})
			case op.Kind == client.KindRemove || op.Kind == client.KindDel:
				delete(d, k)
			default:
				d[k] = op.Value
			}
		}
	}
	return out
}

func (f *fake) Read(node string, op *client.Op, done func(client.Outcome)) error {
	o := *op
	time.AfterFunc(time.Microsecond, func() {
		f.mu.Lock()
		f.reads++
		out := client.Outcome{Node: node, Cluster: 'A', Index: f.index}
		out.Value, out.Found = f.data[node[1]-'1'][entry{o.Cache, o.Key}]
		if f.reads <= f.refuses || f.unread && node == "n2" {
			out = client.Outcome{Node: node, Status: client.StatusFail, Refused: true, Code: cachepb.Code_NOT_FRESH, Err: &client.OpError{Code: cachepb.Code_NOT_FRESH}}
		}
		f.mu.Unlock()
		done(out)
	})
	return nil
}

func (f *fake) Inject(_ context.Context, in *scenario.Injection, begin func([]string)) (*Injected, error) {
	f.call("inject %s", in.Name)
	if f.injectErr != nil {
		return nil, f.injectErr
	}
	if f.wrecks && in.Turn == 1 {
		panic("a link is nil")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	target := f.name(f.leader)
	begin([]string{target})
	f.open++
	if in.Fault.Hostile() {
		return &Injected{
			Targets: []string{target}, Bit: func(context.Context) (bool, string) { return !f.harmless, "as told" },
			Heal: func(context.Context) error { f.call("heal %s", in.Name); return nil },
			Hostile: func() []check.Hostile {
				return []check.Hostile{{Fault: in.Name, Node: target, Forbidden: true, Attempts: 9, Served: f.served}}
			},
		}, nil
	}
	f.leader = -1
	f.boot.Process(target, result.ProcessExited, "signal: killed")
	time.AfterFunc(50*time.Millisecond, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.leader, f.term = 1, f.term+1
	})
	return &Injected{
		Targets: []string{target}, Links: []string{target + ">n2"}, Detail: "pid 1",
		Bit: func(context.Context) (bool, string) { return !f.harmless, "as told" },
		Heal: func(context.Context) error {
			f.call("heal %s", in.Name)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.open--
			f.boot.Process(target, result.ProcessRunning, "pid 2")
			return nil
		},
	}, nil
}

// Digest hashes what a node holds. n3 may hold something that nobody can see.
func (f *fake) Digest(_ context.Context, node string) (check.Digest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := check.Digest{Node: node, Applied: f.index, Evicted: map[string]uint64{"bench": f.evicted}}
	for k, v := range f.data[node[1]-'1'] {
		d.Hash += uint64(crc32.ChecksumIEEE(append([]byte(k.cache+"/"+k.key+"="), v...)))
	}
	if f.hides && node == "n3" {
		d.Hash++
	}
	return d, nil
}

func (f *fake) Usage(string) (result.Resource, bool) { return result.Resource{RSS: 1 << 20}, true }

func (f *fake) Machine() []result.Resource { return nil }

func (f *fake) Stop(time.Duration) error {
	f.call("stop, %d faults in force", f.open)
	for i := range f.data {
		f.boot.Process(f.name(i), result.ProcessExited, "exit status 0")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stops++
	return nil
}

const killOnce = `version: 1
name: kill-once
about: The leader is killed once.
cluster: {nodes: 3}
load:
  writers: {schedule: {constant: 100/s}, duration: 3s, warmup: 1s, op: insert, ack: {quorum: 50, leader: 50}, keys: {dist: once}}
  readers: {schedule: {constant: 50/s}, duration: 3s, warmup: 1s, op: {get: 50, insert: 50}, keys: {count: 20}}
faults: [{at: 1s, for: 1s, action: kill, target: leader}]
checks: {lost_writes: true, stale_reads: {max: 500ms}, state_hash: true, converge: 5s}
thresholds: {failover: ["max < 200ms"]}
`

// killTwice has a second fault while the first is in force.
const killTwice = `version: 1
name: kill-twice
about: The leader is killed for long, and another fault comes meanwhile.
cluster: {nodes: 3}
load:
  writers: {schedule: {constant: 100/s}, duration: 9s, warmup: 1s, op: insert, keys: {dist: once}}
faults:
  - {name: long, at: 1s, action: kill, target: leader}
  - {name: short, at: 2s, for: 100ms, every: 2s, times: 3, action: kill, target: n2}
checks: {lost_writes: true}
`

// carryOut runs killOnce against a fake in a bubble of virtual time.
func carryOut(t *testing.T, f *fake, interruptAfter time.Duration) (r *result.Run, dir string) {
	t.Helper()
	return carryOutText(t, f, killOnce, interruptAfter)
}

func carryOutText(t *testing.T, f *fake, text string, interruptAfter time.Duration) (r *result.Run, dir string) {
	t.Helper()
	dir = t.TempDir()
	bubble.Test(t, func(t *testing.T) {
		s, err := scenario.Parse("f.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		if interruptAfter > 0 {
			time.AfterFunc(interruptAfter, func() { cancel(interrupt.Signal("SIGINT")) })
		}
		shown := 0
		r, err = Run(ctx, Config{
			Plan: scenario.NewPlan(s, 3), Source: []byte(text), Dir: dir, Boot: f.start, Sleep: time.Sleep,
			Progress: func(Status) { shown++ },
		})
		if err != nil {
			t.Fatal(err)
		}
		if shown == 0 && f.bootErr == nil {
			t.Error("no progress was shown")
		}
	})
	return r, dir
}

func verdicts(r *result.Run) map[string]result.Verdict {
	m := map[string]result.Verdict{}
	for _, c := range r.Checks {
		m[c.Name] = c.Verdict
	}
	return m
}

// TestRun_pass proves the order of the phases, that a good run passes every
// check, and that its evidence is whole.
func TestRun_pass(t *testing.T) {
	f := &fake{refuses: 3}
	r, dir := carryOut(t, f, 0)
	if r.Verdict != result.Pass || r.ExitCode() != result.ExitOK {
		t.Errorf("verdict %s, exit code %d: %q", r.Verdict, r.ExitCode(), r.Reasons)
	}
	want := map[string]result.Verdict{
		"run validity": result.Pass, "resurrection": result.NotExercised, "lost writes": result.Pass, "log order": result.Pass, "stale reads": result.Pass, "cluster identity": result.Pass,
		"dual leader": result.Pass, "convergence": result.Pass, "state hash": result.Pass, "liveness": result.Pass, "failover": result.Pass,
	}
	if d := gocmp.Diff(want, verdicts(r)); d != "" {
		t.Errorf("checks (-want +got):\n%s", d)
	}
	order := []string{"boot", "wait healthy, 0 faults in force", "wait ready", "inject kill leader", "heal kill leader", "wait healthy, 0 faults in force", "stop, 0 faults in force"}
	if d := gocmp.Diff(order, f.calls); d != "" {
		t.Errorf("order of what was done (-want +got):\n%s", d)
	}
	for _, name := range []string{result.SummaryFile, result.TimeseriesFile, result.EventsFile, result.HistoryFile, result.ScenarioFile, FactsFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	fo := r.Failovers[0]
	if fo.OldLeader != "n1" || fo.NewLeader != "n2" || fo.Elected < 50*time.Millisecond || fo.Elected > 60*time.Millisecond {
		t.Errorf("failover %+v", fo)
	}
	if gap := fo.Levels[0].Gap; gap < 50*time.Millisecond || gap > 60*time.Millisecond {
		t.Errorf("gap of %s: %v, want 50 to 60 ms", fo.Levels[0].Level, gap)
	}
	if n := r.Thresholds[0]; !n.Met {
		t.Errorf("threshold %+v", n)
	}
	// The same verdict again from the files alone.
	var again result.Run
	if _, err := Judge(dir, &again); err != nil {
		t.Fatal(err)
	}
	if d := gocmp.Diff(r.Checks, again.Checks); d != "" {
		t.Errorf("judged again (-then +now):\n%s", d)
	}
	back, err := result.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(back.Events) != len(r.Events) || len(back.Resources) == 0 || len(back.Series) == 0 {
		t.Errorf("read back: %d events of %d, %d resources, %d series", len(back.Events), len(r.Events), len(back.Resources), len(back.Series))
	}
}

const stocked = `version: 1
name: stocked
about: There are entries before the load, of which it uses a few.
cluster: {nodes: 3}
preload: {entries: 500, value: 64B}
load:
  writers: {schedule: {constant: 100/s}, duration: 5s, op: {insert: 80, remove: 20}, keys: {count: 100, dist: sequential}}
  readers: {schedule: {constant: 100/s}, duration: 5s, op: get, keys: {count: 200, dist: sequential}, route: any}
faults: [{at: 2s, for: 1s, action: kill, target: n1}]
checks: {lost_writes: true, stale_reads: {max: 500ms}, state_hash: true, converge: 5s}
thresholds: {ready: ["max < 50ms"], "insert{phase:joining}": ["max < 1s"]}
`

// TestRun_preload proves that what is there before the load is judged in full:
// entries that the load used by the history, in which they are then, and all the
// others by reading them on every node, so that one that is missing on one of them
// is found; and that a node on which they cannot be read leaves it open.
func TestRun_preload(t *testing.T) {
	loses := func(key string) func(string, *client.Op) bool {
		return func(node string, op *client.Op) bool { return node == "n3" && op.Key == key }
	}
	for name, c := range map[string]struct {
		fake      *fake
		stock     result.Verdict
		lost      result.Verdict
		detail    string
		preloaded int // in the history
	}{
		"good":            {&fake{}, result.Pass, result.Pass, "500 entries, written in ", 200},
		"untouched, lost": {&fake{loses: loses("key-417")}, result.Violated, result.Pass, "1 of 900 reads found nothing or another value", 200},
		"read only, lost": {&fake{loses: loses("key-117")}, result.Pass, result.Violated, "500 entries", 200},
		"written, lost":   {&fake{loses: loses("key-17")}, result.Pass, result.Violated, "500 entries", 200},
		"unread":          {&fake{unread: true}, result.Unknown, result.Unknown, "600 reads were made: 300 could not be read on n2", 200},
	} {
		t.Run(name, func(t *testing.T) {
			r, dir := carryOutText(t, c.fake, stocked, 0)
			got := verdicts(r)
			if got["preloaded entries"] != c.stock || got["lost writes"] != c.lost {
				t.Errorf("preloaded entries %s, lost writes %s; want %s and %s: %q", got["preloaded entries"], got["lost writes"], c.stock, c.lost, r.Reasons)
			}
			for _, chk := range r.Checks {
				if chk.Name == "preloaded entries" && !strings.HasPrefix(chk.Detail, c.detail) {
					t.Errorf("detail %q, want %q", chk.Detail, c.detail)
				}
			}
			h, err := history.ReadFile(filepath.Join(dir, result.HistoryFile))
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, o := range h.Ops {
				if o.Phase == history.Preload {
					n++
				}
			}
			if n != c.preloaded || h.Lost > 0 {
				t.Errorf("%d preloaded entries in the history, want %d; %d operations are lost", n, c.preloaded, h.Lost)
			}
			for _, th := range r.Thresholds {
				if !th.Met {
					t.Errorf("threshold %+v", th)
				}
			}
		})
	}
}

const strangers = `version: 1
name: strangers
about: Clients without a token.
cluster: {nodes: 3}
load: {writers: {schedule: {constant: 1000/s}, duration: 8s, op: insert}}
faults: [{at: 2s, for: 2s, action: no-token, target: leader, rate: 10/s}]
thresholds: {memory: ["rss <= 1MiB"], "insert{phase:during}": ["p(99) <= 1.5x"], back_to_normal: ["max <= 1s"]}
`

// TestRun_hostile proves that what hostile clients came to is judged, again from
// the files alone too, and that limits on memory and on what others noticed are.
func TestRun_hostile(t *testing.T) {
	for served, want := range map[int64]result.Verdict{0: result.Pass, 1: result.Violated} {
		r, dir := carryOutText(t, &fake{served: served}, strangers, 0)
		if got := verdicts(r)["hostile clients"]; got != want || r.Verdict != want {
			t.Errorf("%d served: %s, the run %s, want %s: %q", served, got, r.Verdict, want, r.Reasons)
		}
		for _, th := range r.Thresholds {
			if !th.Met {
				t.Errorf("%s %s: %s", th.Metric, th.Expr, th.Got)
			}
		}
		var again result.Run
		if _, err := Judge(dir, &again); err != nil {
			t.Fatal(err)
		}
		if d := gocmp.Diff(r.Thresholds, again.Thresholds); d != "" || verdicts(&again)["hostile clients"] != want {
			t.Errorf("judged again (-then +now): %v\n%s", verdicts(&again), d)
		}
	}
}

const killOften = `version: 1
name: kill-often
about: The leader is killed again and again.
cluster: {nodes: 3, proxies: false}
probes: {rate: 300/s, levels: [quorum]}
load: {writers: {schedule: {constant: 50/s}, duration: 60s, op: insert}}
faults: [{at: 1s, every: 3s, times: 19, for: 1s, action: kill, target: leader}]
checks: {lost_writes: true, converge: 5s}
thresholds: {failover: ["max < 200ms"]}
`

// TestRun_repeated proves that a repeated fault waits until the nodes are
// ready: late by as much as they are and a phase, and left out if they never
// are; and that a run of many failovers gives a distribution.
func TestRun_repeated(t *testing.T) {
	for name, c := range map[string]struct {
		ready   time.Duration // of the first injection
		skipped int
		late    bool
	}{
		"ready at once": {0, 0, false},
		"ready late":    {time.Second, 0, true},
		"never ready":   {-1, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{readyAfter: c.ready}
			r, dir := carryOutText(t, f, killOften, 0)
			if r.Verdict != result.Pass {
				t.Errorf("%s: %q", r.Verdict, r.Reasons)
			}
			if !f.boot.Direct {
				t.Error("booted with proxies")
			}
			s, err := scenario.Parse("f.yaml", []byte(killOften))
			if err != nil {
				t.Fatal(err)
			}
			planned := scenario.NewPlan(s, 3).Injections
			windows := r.Windows()
			if len(windows) != len(planned)-c.skipped || len(r.Failovers) != len(windows) {
				t.Fatalf("%d injections of %d, %d failovers", len(windows), len(planned), len(r.Failovers))
			}
			for i, w := range windows {
				in := planned[i+c.skipped]
				at := in.At
				if c.late && i == 0 {
					at += c.ready
				}
				if w.Fault != in.Name || w.From != at || w.To-w.From != time.Second {
					t.Errorf("%s from %v to %v, want %s at %v for 1s", w.Fault, w.From, w.To, in.Name, at)
				}
			}
			if len(r.Phases) > 4 {
				t.Errorf("%d phases: their numbers are in memory", len(r.Phases))
			}
			v, err := Judge(dir, &result.Run{Kind: result.KindScenario, Name: "again"})
			if err != nil {
				t.Fatal(err)
			}
			if v.Failovers[3].Resolution != 5*time.Millisecond {
				t.Errorf("resolution %v, want that of 200/s through two nodes", v.Failovers[3].Resolution)
			}
			for _, f := range v.Failovers {
				if gap := f.Levels[0].Gap; gap < 50*time.Millisecond || gap > 65*time.Millisecond {
					t.Errorf("%s: gap %v", f.Fault, gap)
				}
			}
		})
	}
}

const killSoon = `version: 1
name: kill-soon
about: The leader is killed once.
cluster: {nodes: 3, proxies: false}
load: {writers: {schedule: {constant: 50/s}, duration: 12s, op: insert}}
faults: [{at: 3s, for: 2s, action: kill, target: leader}]
checks: {lost_writes: true, converge: 5s}
`

// TestRun_single proves that a fault that stands alone waits for the nodes to be
// well, too, and that a run whose only fault they were never ready for is no
// pass.
func TestRun_single(t *testing.T) {
	s, err := scenario.Parse("f.yaml", []byte(killSoon))
	if err != nil {
		t.Fatal(err)
	}
	planned := scenario.NewPlan(s, 3).Injections[0]
	for name, c := range map[string]struct {
		ready   time.Duration
		late    time.Duration // negative: it is left out
		verdict result.Verdict
	}{
		"well":       {0, 0, result.Pass},
		"well late":  {2 * time.Second, 2 * time.Second, result.Pass},
		"never well": {-1, -1, result.Unknown},
	} {
		r, _ := carryOutText(t, &fake{readyAfter: c.ready}, killSoon, 0)
		windows := r.Windows()
		if r.Verdict != c.verdict || len(windows) != map[bool]int{true: 0, false: 1}[c.late < 0] {
			t.Errorf("%s: %s with %d injections, %q; want %s", name, r.Verdict, len(windows), r.Reasons, c.verdict)
			continue
		}
		if c.late < 0 {
			if !strings.Contains(r.Reasons[0], "was skipped: the nodes were not ready") {
				t.Errorf("%s: %q", name, r.Reasons)
			}
		} else if w := windows[0]; w.From != planned.At+c.late || w.To-w.From != 2*time.Second {
			t.Errorf("%s: from %v to %v, planned at %v", name, w.From, w.To, planned.At)
		}
	}
}

// TestTooLate proves that a late injection is left out when the load would end
// right after it, unless that is how it was planned.
func TestTooLate(t *testing.T) {
	const length = 60 * time.Second
	for _, tt := range []struct {
		planned, at, lasts time.Duration
		why                string // part of it; empty: it is made
	}{
		{50 * time.Second, 50 * time.Second, time.Second, ""},
		{50 * time.Second, 57 * time.Second, time.Second, ""},
		{50 * time.Second, 57*time.Second + 1, time.Second, "before they could recover"},
		{50 * time.Second, 60 * time.Second, time.Second, "had ended"},
		{58 * time.Second, 58 * time.Second, 2 * time.Second, ""}, // it lasts until the end
		{58 * time.Second, 59 * time.Second, 2 * time.Second, ""},
	} {
		in := &scenario.Injection{Fault: &scenario.Fault{For: scenario.Duration(tt.lasts)}, At: tt.planned}
		if err := tooLate(in, tt.at, length); (err == nil) != (tt.why == "") || err != nil && !strings.Contains(err.Error(), tt.why) {
			t.Errorf("planned at %v, at %v for %v: %v, want %q", tt.planned, tt.at, tt.lasts, err, tt.why)
		}
	}
}

// TestProbes proves that each level is probed through each node, and that the
// keys are bounded.
func TestProbes(t *testing.T) {
	s, err := scenario.Parse("f.yaml", []byte(killOnce))
	if err != nil {
		t.Fatal(err)
	}
	p, err := newProbes(1, s)
	if err != nil {
		t.Fatal(err)
	}
	seen, keys := map[string]int{}, map[string]bool{}
	const n = 900
	for i := range uint64(n) {
		var op client.Op
		p.Op(i, &op, nil)
		seen[fmt.Sprint(op.Level, i%3)]++
		keys[op.Key] = true
	}
	if len(seen) != 9 || len(keys) != n {
		t.Errorf("levels and nodes %v, %d keys", seen, len(keys))
	}
	for what, times := range seen {
		if times != n/9 {
			t.Errorf("%s probed %d times, want %d", what, times, n/9)
		}
	}
	for rate, want := range map[scenario.Rate]time.Duration{1: 10 * time.Second, 100: 5120 * time.Millisecond, 200: 2560 * time.Millisecond, 5000: time.Second} {
		s.Probes.Rate = rate
		if p, err := newProbes(1, s); err != nil || p.timeout != want {
			t.Errorf("%v at three levels: a probe waits %v, want %v: the window must outlast it", rate, p.timeout, want)
		}
	}
	var first, again client.Op
	p.Op(5, &first, nil)
	p.Op(5+probeKeys, &again, nil)
	if first.Key != again.Key || string(first.Value) == string(again.Value) {
		t.Errorf("keys %s and %s, want the same with another value", first.Key, again.Key)
	}
}

// TestRun_history proves what the history of a run holds: every phase, and
// each operation that the generators counted exactly once.
func TestRun_history(t *testing.T) {
	r, dir := carryOut(t, &fake{}, 0)
	h, err := history.ReadFile(filepath.Join(dir, result.HistoryFile))
	if err != nil {
		t.Fatal(err)
	}
	phases := map[history.Phase]int64{}
	procs := map[int64]int{}
	written := map[entry]bool{}
	for _, o := range h.Ops {
		phases[o.Phase]++
		procs[o.Proc]++
		if o.Write() {
			written[entry{o.Cache, o.Key}] = true
		}
	}
	var counted int64
	for _, s := range r.Series {
		if s.Phase != "" {
			counted += s.Counts.Intended
		}
	}
	if counted == 0 {
		for _, s := range r.Series {
			counted += s.Counts.Intended
		}
	}
	if phases[history.Load] != counted || phases[history.Load] != 450 {
		t.Errorf("%d operations of the load in the history, %d in the series, 450 intended", phases[history.Load], counted)
	}
	if phases[history.Warmup] != 150+600 || phases[history.Probe] != 1800 || phases[history.Final] != 3*int64(len(written)) {
		t.Errorf("phases %v with %d keys", phases, len(written))
	}
	for p, n := range procs {
		if n > 1 {
			t.Fatalf("process %d has %d operations", p, n)
		}
	}
}

// TestRun_red proves that what a cluster does wrong turns the verdict red, all
// the way from the node to the exit code.
func TestRun_red(t *testing.T) {
	quorum := func(op *client.Op) bool {
		return op.Kind == client.KindInsert && op.Level == client.LevelQuorum && strings.HasPrefix(op.Key, "w1-7")
	}
	for name, c := range map[string]struct {
		f     *fake
		check string
		want  result.Verdict
		code  int
	}{
		"loses a write on one node": {&fake{loses: func(node string, op *client.Op) bool { return node == "n3" && quorum(op) }}, "lost writes", result.Violated, result.ExitViolated},
		"loses a write on all":      {&fake{loses: func(_ string, op *client.Op) bool { return quorum(op) }}, "lost writes", result.Violated, result.ExitViolated},
		"holds more on one node":    {&fake{hides: true}, "state hash", result.Violated, result.ExitViolated},
		"evicts without a bound":    {&fake{evicted: 7}, "lost writes", result.Unknown, result.ExitUnknown},
		"does not converge":         {&fake{sick: errors.New("n1 has applied 5, n2 7"), sickAfter: true}, "convergence", result.Violated, result.ExitViolated},
		"fault does not bite":       {&fake{harmless: true}, "run validity", result.Unknown, result.ExitUnknown},
		"fault cannot be injected":  {&fake{injectErr: errors.New("no leader")}, "run validity", result.Unknown, result.ExitUnknown},
		"cannot be read at the end": {&fake{unread: true}, "lost writes", result.Unknown, result.ExitUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			f := c.f
			r, _ := carryOut(t, f, 0)
			if got := verdicts(r)[c.check]; got != c.want {
				t.Errorf("%s: %s, want %s", c.check, got, c.want)
			}
			if r.ExitCode() != c.code {
				t.Errorf("exit code %d, want %d: %q", r.ExitCode(), c.code, r.Reasons)
			}
			if f.stops != 1 || f.open != 0 {
				t.Errorf("stopped %d times, %d faults in force", f.stops, f.open)
			}
		})
	}
}

const sampling = `version: 1
name: sampling
about: Keys are sampled for linearizability while the leader is killed.
cluster: {nodes: 3}
load: {writers: {schedule: {constant: 50/s}, duration: 8s, warmup: 1s, op: insert}}
faults: [{at: 1s, for: 1s, action: kill, target: leader}]
checks: {lost_writes: true, linearizable: {keys: 16}, converge: 5s}
`

// TestRun_linearizable proves that keys are sampled over the whole run within
// the bounds of what can be judged, that a correct cluster passes, and that one
// which forgets a write for readers is violated, with a picture.
func TestRun_linearizable(t *testing.T) {
	type sample struct {
		ops      int
		procs    map[int64]bool
		from, to time.Duration
	}
	for name, c := range map[string]struct {
		f    *fake
		want result.Verdict
	}{
		"correct": {new(fake), result.Pass},
		"forgetful": {&fake{loses: func(node string, op *client.Op) bool {
			return node == "n2" && op.Cache == registerCache && op.Kind == client.KindInsert && strings.HasSuffix(op.Key, "5")
		}}, result.Violated},
	} {
		t.Run(name, func(t *testing.T) {
			r, dir := carryOutText(t, c.f, sampling, 0)
			if got := verdicts(r)["linearizability"]; got != c.want || r.Verdict != c.want {
				t.Errorf("linearizability: %s, the run: %s; want %s: %q", got, r.Verdict, c.want, r.Reasons)
			}
			page, err := os.ReadFile(filepath.Join(dir, result.LinearFile))
			if (err == nil) != (c.want == result.Violated) || err == nil && !strings.Contains(string(page), "n2, term 3") {
				t.Errorf("a picture of %d bytes, %v", len(page), err)
			}
			h, err := history.ReadFile(filepath.Join(dir, result.HistoryFile))
			if err != nil {
				t.Fatal(err)
			}
			keys := map[string]*sample{}
			last := map[int64]time.Duration{}
			nodes := map[string]int{}
			for _, o := range h.Ops {
				if o.Phase != history.Register {
					continue
				}
				k := keys[o.Key]
				if k == nil {
					k = &sample{procs: map[int64]bool{}, from: o.Send}
					keys[o.Key] = k
				}
				k.ops++
				k.procs[o.Proc] = true
				k.from, k.to = min(k.from, o.Send), max(k.to, o.Return)
				nodes[o.Node]++
				if o.Send < last[o.Proc] {
					t.Fatalf("process %d has two operations at once", o.Proc)
				}
				last[o.Proc] = o.Return
			}
			if len(keys) != 16 || len(nodes) != 3 {
				t.Errorf("%d keys through %d nodes, want 16 through 3", len(keys), len(nodes))
			}
			for name, k := range keys {
				if k.ops < 100 || k.ops > check.MaxRegisterOps || len(k.procs) > check.MaxRegisterProcs || k.to-k.from > 2100*time.Millisecond {
					t.Errorf("%s: %d operations by %d processes in %v", name, k.ops, len(k.procs), k.to-k.from)
				}
			}
		})
	}
}

const visiting = `version: 1
name: visiting
about: Clients that stay at a node read their own writes.
cluster: {nodes: 3}
load: {writers: {schedule: {constant: 50/s}, duration: 6s, warmup: 1s, op: insert}}
faults: [{at: 1s, for: 1s, action: kill, target: leader}]
checks: {session: true, converge: 5s}
`

// TestRun_session proves that a node which acknowledges before it has applied is
// found out, by a few milliseconds, and a correct one passes.
func TestRun_session(t *testing.T) {
	for name, c := range map[string]struct {
		f    *fake
		want result.Verdict
	}{
		"correct": {new(fake), result.Pass},
		"late":    {&fake{late: 5 * time.Millisecond}, result.Violated},
	} {
		t.Run(name, func(t *testing.T) {
			r, dir := carryOutText(t, c.f, visiting, 0)
			if got := verdicts(r)["session"]; got != c.want || r.Verdict != c.want {
				t.Errorf("session: %s, the run: %s; want %s: %q", got, r.Verdict, c.want, r.Reasons)
			}
			h, err := history.ReadFile(filepath.Join(dir, result.HistoryFile))
			if err != nil {
				t.Fatal(err)
			}
			nodes := map[int64]string{}
			levels := map[string]int{}
			for _, o := range h.Ops {
				if o.Phase != history.Session || o.Node == "" {
					continue
				}
				if nodes[o.Proc] == "" {
					nodes[o.Proc] = o.Node
				}
				if nodes[o.Proc] != o.Node {
					t.Fatalf("process %d went from %s to %s", o.Proc, nodes[o.Proc], o.Node)
				}
				levels[o.Level]++
			}
			if len(nodes) != 6 || len(levels) != 4 || levels[""] < levels["quorum"]+levels["once"]+levels["leader"]-100 {
				t.Errorf("%d processes, operations by level %v", len(nodes), levels)
			}
		})
	}
}

// TestRun_abort proves that a limit which is not kept ends the load from its
// time on, that everything is healed, read and judged all the same, and that the
// exit code says so; and that one which is kept ends nothing.
func TestRun_abort(t *testing.T) {
	for name, c := range map[string]struct {
		limits string
		at     time.Duration // of the timeline; 0: never
		code   int
		got    string
	}{
		"latency":         {`insert: [{expr: "max < 500us", abort: true, after: 1200ms}]`, 1500 * time.Millisecond, result.ExitThreshold, "at 2.50"},
		"kept":            {`insert: [{expr: "max < 5s", abort: true, after: 1s}]`, 0, result.ExitOK, ""},
		"missed, quietly": {`insert: ["max < 500us"]`, 0, result.ExitThreshold, ""},
		"errors":          {`errors: [{expr: "rate < 0.1%", abort: true}]`, 1500 * time.Millisecond, result.ExitThreshold, "% ("},
		"leader changes":  {`leader_changes: [{expr: "count < 1", abort: true}]`, 1500 * time.Millisecond, result.ExitThreshold, "1 at"},
		"of a phase":      {`"insert{phase:recovery}": [{expr: "max < 500us", abort: true}]`, 2500 * time.Millisecond, result.ExitThreshold, "at 3.50"},
		"of a level":      {`"insert{level:leader}": [{expr: "p(50) < 500us", abort: true}]`, 500 * time.Millisecond, result.ExitThreshold, "at 1.50"},
	} {
		t.Run(name, func(t *testing.T) {
			f := new(fake)
			text := strings.Replace(killOnce, `{failover: ["max < 200ms"]}`, "{"+c.limits+"}", 1)
			r, dir := carryOutText(t, f, text, 0)
			if r.ExitCode() != c.code || r.Verdict != result.Pass {
				t.Errorf("exit code %d, want %d; verdict %s, %q", r.ExitCode(), c.code, r.Verdict, r.Reasons)
			}
			if th := r.Thresholds[0]; !strings.Contains(th.Got, c.got) || th.Met != (c.code == result.ExitOK) {
				t.Errorf("threshold %+v", th)
			}
			in, err := Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			length := in.Facts.LoadTo - in.Facts.LoadFrom
			if c.at == 0 && (length < 2900*time.Millisecond || in.Facts.Aborted != nil) || c.at > 0 && (length < c.at || length > c.at+100*time.Millisecond || in.Facts.Aborted == nil) {
				t.Errorf("the load ended at %v, want %v: %+v", length, c.at, in.Facts.Aborted)
			}
			if !in.Facts.FinalReads || !in.Facts.Converged || f.open != 0 || f.calls[len(f.calls)-1] != "stop, 0 faults in force" {
				t.Errorf("final reads %t, converged %t, %d faults in force", in.Facts.FinalReads, in.Facts.Converged, f.open)
			}
		})
	}
}

const retrying = `version: 1
name: retrying
about: Every operation is sent three times, also while the leader is away.
cluster: {nodes: 3}
load: {again: {schedule: {constant: 100/s}, duration: 5s, warmup: 1s, streams: 2, op: {insert: 80, remove: 20}, keys: {count: 20}, retry: 3}}
faults: [{at: 1s, for: 1s, action: kill, target: leader}]
checks: {lost_writes: true, converge: 5s}
`

// TestRun_retry proves that each operation is sent as often as asked, through
// different nodes and under one tag that no other has; that a cluster which
// tells copies apart passes; and that one which does not is violated.
func TestRun_retry(t *testing.T) {
	for name, c := range map[string]struct {
		f    *fake
		want result.Verdict
	}{
		"correct":              {new(fake), result.Pass},
		"applies copies again": {&fake{repeats: true}, result.Violated},
	} {
		t.Run(name, func(t *testing.T) {
			r, dir := carryOutText(t, c.f, retrying, 0)
			if got := verdicts(r)["exactly once"]; got != c.want || r.Verdict != c.want {
				t.Errorf("exactly once: %s, the run: %s; want %s: %q", got, r.Verdict, c.want, r.Reasons)
			}
			h, err := history.ReadFile(filepath.Join(dir, result.HistoryFile))
			if err != nil {
				t.Fatal(err)
			}
			type name struct{ session, seq uint64 }
			copies := map[name][]history.Op{}
			versions := map[int64]name{}
			for _, o := range h.Ops {
				if o.Phase == history.Retry {
					n := name{o.Session, o.Seq}
					copies[n] = append(copies[n], o)
					if first, known := versions[o.Version]; known && o.Version > 0 && first != n {
						t.Fatalf("version %d has two names", o.Version)
					}
					versions[o.Version] = n
				}
			}
			if len(copies) < 550 || len(copies) > 600 {
				t.Errorf("%d operations, about 600 were intended", len(copies))
			}
			sessions, late := map[uint64]bool{}, 0
			for n, cs := range copies {
				sessions[n.session] = true
				nodes := map[string]bool{}
				for _, o := range cs {
					nodes[o.Node] = true
					if o.Key != cs[0].Key || o.Version != cs[0].Version || o.Outcome == history.Fail && o.Reason == "SESSION_EXPIRED" {
						t.Fatalf("copies of one operation: %+v", cs)
					}
					if o.Send > cs[0].Return {
						late++
					}
				}
				if len(cs) != 3 || len(nodes) != 3 {
					t.Fatalf("%d copies through %d nodes: %+v", len(cs), len(nodes), cs)
				}
			}
			if len(sessions) != 2 || late < 100 {
				t.Errorf("%d sessions on two streams, %d copies after the answer", len(sessions), late)
			}
		})
	}
}

// TestRun_endsEarly proves that however a run ends, faults are healed before
// the cluster is stopped, once, and that what was recorded is there.
func TestRun_endsEarly(t *testing.T) {
	for name, c := range map[string]struct {
		f       *fake
		after   time.Duration
		healed  bool
		code    int
		failure string
		text    string // of the scenario; "" is killOnce
	}{
		"interrupted in the warm-up":     {after: 500 * time.Millisecond, code: result.ExitInterrupt},
		"interrupted with a fault":       {after: 2500 * time.Millisecond, healed: true, code: result.ExitInterrupt},
		"interrupted after the fault":    {after: 3500 * time.Millisecond, healed: true, code: result.ExitInterrupt},
		"interrupted while it forms":     {f: &fake{sick: errors.New("n1 is undefined")}, after: time.Second, code: result.ExitInterrupt},
		"interrupted while it converges": {f: &fake{sick: errors.New("n1 is undefined"), sickAfter: true}, after: 5 * time.Second, healed: true, code: result.ExitInterrupt},
		"a panic of the runner":          {f: &fake{panics: true}, healed: true, code: result.ExitFailure, failure: "boom"},
		"a panic of an injection":        {f: &fake{wrecks: true}, healed: true, code: result.ExitFailure, failure: "a link is nil", text: killTwice},
		"an injection that fails":        {f: &fake{injectErr: errors.New("no such link")}, code: result.ExitUnknown},
		"the cluster never gets healthy": {f: &fake{sick: errors.New("n1 is undefined")}, code: result.ExitFailure, failure: "n1 is undefined"},
		"the cluster cannot be started":  {f: &fake{bootErr: errors.New("exec: no such file")}, code: result.ExitFailure, failure: "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			f := c.f
			if f == nil {
				f = new(fake)
			}
			r, dir := carryOutText(t, f, cmp.Or(c.text, killOnce), c.after)
			if r.ExitCode() != c.code || r.Verdict == result.Pass {
				t.Errorf("exit code %d, want %d; verdict %s, %q", r.ExitCode(), c.code, r.Verdict, r.Reasons)
			}
			if !strings.Contains(r.Failure, c.failure) {
				t.Errorf("failure %q, want one about %q", r.Failure, c.failure)
			}
			if f.open != 0 || slices.ContainsFunc(f.calls, func(call string) bool { return strings.HasPrefix(call, "heal ") }) != c.healed {
				t.Errorf("%d faults in force; calls %q", f.open, f.calls)
			}
			if last := f.calls[len(f.calls)-1]; f.bootErr == nil && last != "stop, 0 faults in force" {
				t.Errorf("the last call is %q", last)
			}
			h, err := history.ReadFile(filepath.Join(dir, result.HistoryFile))
			if err != nil || !h.Complete() {
				t.Errorf("history complete %t, %v", h != nil && h.Complete(), err)
			}
			if _, err := result.Read(dir); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestVersion proves that what a value says about itself is what the history
// says about the write, and that other values are told apart.
func TestVersion(t *testing.T) {
	w := scenario.Workload{Op: scenario.Op{"insert": 1}, Ack: scenario.Ack{"quorum": 1}, Keys: scenario.Keys{Count: 10, Dist: scenario.Dist{Kind: "once"}}, Value: 64}
	source, err := workload(&w, 3, 1)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range uint64(100) {
		var op client.Op
		source.Op(i, &op, nil)
		v, err := decodeVersion(op.Value)
		if err != nil || v != versionOf(3, i) || seen[op.Key] {
			t.Fatalf("operation %d: version %d, want %d; key %s; %v", i, v, versionOf(3, i), op.Key, err)
		}
		seen[op.Key] = true
		op.Value[len(op.Value)/2] ^= 1
		if _, err := decodeVersion(op.Value); err == nil {
			t.Fatalf("operation %d: a flipped bit went unnoticed", i)
		}
	}
	for _, v := range []string{"", "x", "w1", string(load.CheckedValue(nil, "someone", 1, nil)), string(load.CheckedValue(nil, "w-1", 1, nil))} {
		if _, err := decodeVersion([]byte(v)); err == nil {
			t.Errorf("%q counts as a value of this run", v)
		}
	}
}

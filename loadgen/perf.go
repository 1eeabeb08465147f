package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/proc"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

// What is asked of the nodes, in terms of what a bare stream does on the same
// machine in the same round: see the row echo. A machine is faster or slower by
// a third from one hour to the next; the ratios move far less.

// perfRow is one kind of load on one target.
type perfRow struct {
	name    string
	streams int
	window  int  // operations in flight on each stream
	batch   bool // messages carry as many operations as wait
	kind    client.Kind
	route   load.Route
	echo    echoKind // instead of the nodes

	rate   float64 // at least so many times the operations a second of base; 0: nothing is asked
	median float64 // at most so many times the median latency of base; 0: nothing is asked
	base   string  // the row that stands for the machine
	cpu    float64 // processor time of all processes for each operation, µs at most; 0: nothing is asked
}

// echoKind says what the echo server of a row takes messages for.
type echoKind string

const (
	echoNone  echoKind = "" // the row is about the nodes
	echoBytes echoKind = "bytes"
	echoProto echoKind = "proto"
)

const (
	perfConns = 8
	echoRow   = "echo, 256"
	echoOne   = "echo, 1"
)

var perfRows = []perfRow{
	{name: "echo of bytes, 256", streams: 8, window: 32, kind: client.KindInsert, echo: echoBytes},
	{name: echoRow, streams: 8, window: 32, kind: client.KindInsert, echo: echoProto},
	{name: "insert, leader, 256", streams: 8, window: 32, kind: client.KindInsert, rate: 0.75, base: echoRow, cpu: 9},
	{name: "insert, follower, 256", streams: 8, window: 32, kind: client.KindInsert, route: load.RouteFollowers, rate: 0.65, base: echoRow},
	{name: "insert, spread, 256", streams: 9, window: 28, kind: client.KindInsert, route: load.RouteAny, rate: 0.75, base: echoRow},
	{name: "insert, leader, 1024", streams: 8, window: 128, kind: client.KindInsert, rate: 1, base: echoRow},
	{name: "get, 256", streams: 8, window: 32, kind: client.KindGet, rate: 1.4, base: echoRow},
	{name: "insert, batched, 1024", streams: 8, window: 128, batch: true, kind: client.KindInsert, rate: 2.5, base: echoRow, cpu: 3},
	{name: "get, batched, 1024", streams: 8, window: 128, batch: true, kind: client.KindGet, rate: 7, base: echoRow},
	{name: echoOne, streams: 1, window: 1, kind: client.KindInsert, echo: echoProto},
	{name: "insert, leader, 1", streams: 1, window: 1, kind: client.KindInsert, median: 2.2, base: echoOne},
	{name: "insert, follower, 1", streams: 1, window: 1, kind: client.KindInsert, route: load.RouteFollowers, median: 3.3, base: echoOne},
}

// perfSample is one row in one round.
type perfSample struct {
	count  int64 // operations answered with ok while it was measured
	rate   float64
	p50    time.Duration
	p99    time.Duration
	cpu    map[string]float64 // µs for each operation, by process
	allocs map[string]float64 // for each operation, by process
}

func sum(m map[string]float64) (all float64) {
	for _, v := range m {
		all += v
	}
	return all
}

func perfFlags() []cli.Flag {
	return slices.Concat([]cli.Flag{
		&cli.IntFlag{Name: "nodes", Value: 3, Usage: "`N` nodes to start"},
		&cli.StringFlag{Name: "cachenode", Usage: "the `PROGRAM` to start; default is cachenode beside this program, then the one in PATH"},
		&cli.IntFlag{Name: "rounds", Value: 5, Usage: "`N` rounds, each of all rows in turn"},
		&cli.DurationFlag{Name: "each", Value: 4 * time.Second, Usage: "how `LONG` each row of a round is measured, after a quarter of it as warm-up"},
		&cli.StringFlag{Name: "only", Usage: "`REGEXP` of the rows to measure, with those that they are compared with"},
		&cli.BoolWithInverseFlag{Name: "profiles", Value: true, Usage: "one more round, in which processor profiles of all processes are taken"},
		&cli.StringFlag{Name: "keys", Value: "100k", Usage: "`N` keys"},
		valueSizeFlag(),
		&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "`SEED` of the operations"},
	}, outputFlags())
}

func perfCommand(ctx context.Context, c *cli.Command) error {
	if c.Args().Len() > 0 {
		return command.Usagef("perf: unexpected argument %q", c.Args().First())
	}
	var m mistakes
	s := outputSettings(c, &m)
	s.name = "perf"
	keySettings(c, s, &m)
	var err error
	s.cachenode, err = program(c.String("cachenode"))
	m.add("cachenode", err)
	only, err := regexp.Compile(c.String("only"))
	m.add("only", err)
	p := perf{rounds: c.Int("rounds"), each: c.Duration("each"), profiles: c.Bool("profiles")}
	if p.rounds < 1 || p.each < 100*time.Millisecond {
		m.addf("rounds", "%d of %s: want at least 1 of 100ms", p.rounds, p.each)
	}
	if s.nodes < 1 || s.nodes > 9 {
		m.addf("nodes", "%d: want 1 to 9", s.nodes)
	}
	if err := m.err(); err != nil {
		return err
	}
	p.rows = slices.DeleteFunc(slices.Clone(perfRows), func(row perfRow) bool {
		return !only.MatchString(row.name) && !slices.ContainsFunc(perfRows, func(r perfRow) bool { return r.base == row.name && only.MatchString(r.name) })
	})
	if len(p.rows) == 0 {
		return command.Usagef("perf: --only: %q matches no row", c.String("only"))
	}
	s.workload.Timeout = 5 * time.Second
	se, err := newSession(s, result.KindBench, "what the nodes do in a closed loop, beside a bare stream", c.Root().Writer, c.Root().ErrWriter)
	if err != nil {
		return err
	}
	se.record()
	p.session, se.perf = se, &p
	return se.finish(ctx, p.run(ctx))
}

// perf measures rows in rounds. It is used by one goroutine.
type perf struct {
	*session
	rows     []perfRow
	rounds   int
	each     time.Duration
	profiles bool

	echoes  map[echoKind]*proc.Process
	addrs   map[echoKind]string // where they listen
	targets []load.Target       // by row
	samples [][]perfSample
}

func (p *perf) run(ctx context.Context) error {
	defer func() {
		for _, t := range p.targets {
			t.Close()
		}
		p.target = nil
		proc.StopAll(time.Second, p.echoes[echoBytes], p.echoes[echoProto])
	}()
	if err := p.open(ctx); err != nil {
		return err
	}
	p.samples = make([][]perfSample, len(p.rows))
	for round := range p.rounds {
		for i := range p.rows {
			if ctx.Err() != nil {
				return nil
			}
			sample, err := p.measure(ctx, i, fmt.Sprintf("%s, round %d", p.rows[i].name, round+1))
			if err != nil {
				return err
			}
			p.samples[i] = append(p.samples[i], sample)
		}
	}
	if err := p.write(); err != nil {
		return err
	}
	p.judge()
	for i := range p.rows {
		if p.profiles && p.rows[i].echo == echoNone && ctx.Err() == nil {
			if err := p.profile(ctx, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// open starts the nodes and everything that load is offered to, and writes every key once.
func (p *perf) open(ctx context.Context) error {
	logs := filepath.Join(p.dir, result.NodesDir)
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	p.live.note(fmt.Sprintf("starting %d nodes", p.settings.nodes))
	ready, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var err error
	p.nodes, err = proc.LocalCluster(ready, proc.ClusterSpec{Binary: p.cachenode, Nodes: p.settings.nodes, LogDir: logs, Profiles: true})
	if err != nil {
		return err
	}
	for i, n := range p.nodes.Nodes {
		p.session.run.Nodes = append(p.session.run.Nodes, result.Node{
			Name: n.Name(), Identity: p.nodes.Addrs[i], Log: result.NodesDir + "/" + n.Name() + ".log",
		})
	}
	if err := p.serveEchoes(ctx); err != nil {
		return err
	}
	for i := range p.rows {
		t, err := p.openRow(ready, &p.rows[i])
		if err != nil {
			return fmt.Errorf("%s: %w", p.rows[i].name, err)
		}
		p.targets = append(p.targets, t)
	}
	for i := range p.rows {
		if c, ok := p.targets[i].(*load.Cluster); ok {
			p.target, p.cluster = c, c
			p.generator.InFlight = p.rows[i].window
			return p.fill(ctx)
		}
	}
	return nil
}

// serveEchoes starts the echo servers: processes of their own, as nodes are.
func (p *perf) serveEchoes(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p.echoes, p.addrs = map[echoKind]*proc.Process{}, map[echoKind]string{}
	for _, kind := range []echoKind{echoBytes, echoProto} {
		lis, err := proc.Listen("127.0.0.1:0")
		if err != nil {
			return err
		}
		p.addrs[kind] = lis.Addr().String()
		spec := proc.Spec{Name: "echo", Binary: self, Args: []string{echoCommandName, string(kind)}, Listener: lis}
		if p.echoes[kind], err = proc.Start(context.WithoutCancel(ctx), spec); err != nil {
			return err
		}
	}
	return nil
}

// echoCommandName is the command that runs an echo server on the listener that it inherits.
const echoCommandName = "echo-server"

func echoCommand(ctx context.Context, c *cli.Command) error {
	kind := echoKind(c.Args().First())
	if c.Args().Len() != 1 || kind != echoBytes && kind != echoProto {
		return command.Usagef("%s: want %s or %s", echoCommandName, echoBytes, echoProto)
	}
	lis, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return fmt.Errorf("%s: descriptor 3 is no listener: %w", echoCommandName, err)
	}
	return load.ServeEcho(ctx, lis, kind == echoProto)
}

func (p *perf) openRow(ctx context.Context, row *perfRow) (load.Target, error) {
	if row.echo != echoNone {
		return load.NewEcho(load.EchoConfig{
			Addr: p.addrs[row.echo], Proto: row.echo == echoProto, Conns: min(perfConns, row.streams), Streams: row.streams, Window: row.window,
		})
	}
	c, err := load.NewCluster(load.ClusterConfig{
		Addrs: p.nodes.Addrs, Route: row.route, Conns: min(perfConns, row.streams), Streams: row.streams, Window: row.window, Batch: row.batch,
	})
	if err != nil {
		return nil, err
	}
	if err := c.Ready(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// offerRow runs the load of a row.
func (p *perf) offerRow(ctx context.Context, i int, phase string) (*load.Summary, error) {
	row := &p.rows[i]
	w := p.workload
	w.Mix = []load.Weight[client.Kind]{{Of: row.kind, Weight: 1}}
	w.Acks = []load.Weight[client.Level]{{Of: client.LevelQuorum, Weight: 1}}
	src, err := w.Source()
	if err != nil {
		return nil, command.Usage(err)
	}
	p.target = p.targets[i]
	g := load.Generator{InFlight: row.window, Warmup: p.each / 4, Duration: p.each, Drain: 6 * time.Second, Phase: phase}
	n := len(p.steps)
	if err := p.with(ctx, &g, src, func(ctx context.Context) (*load.Summary, error) { return g.Run(ctx) }); err != nil {
		return nil, err
	}
	if len(p.steps) == n {
		return nil, errors.New("nothing was measured")
	}
	return p.steps[n].summary, nil
}

// measure offers the load of a row once. Processor time and allocations are those of its warm-up too, divided by all its
// operations.
func (p *perf) measure(ctx context.Context, i int, phase string) (perfSample, error) {
	before, err := p.spent(ctx, i)
	if err != nil {
		return perfSample{}, err
	}
	sum, err := p.offerRow(ctx, i, phase)
	if err != nil {
		return perfSample{}, err
	}
	after, err := p.spent(ctx, i)
	if err != nil {
		return perfSample{}, err
	}
	all := float64(max(sum.Counts.Intended+sum.WarmedUp, 1))
	p.rec.Flush()
	latency := result.LatencyOf(load.Sum(p.rec.Totals(func(name, _, _ string) bool { return name == phase })).Service)
	s := perfSample{
		count: sum.Counts.OK, rate: float64(sum.Counts.OK) / max(sum.Elapsed.Seconds(), 1e-9), p50: latency.P50, p99: latency.P99,
		cpu: map[string]float64{}, allocs: map[string]float64{},
	}
	cost := result.Cost{Phase: phase, Ops: int64(all)}
	for name, a := range after {
		if strings.HasPrefix(name, nodeName) {
			cost.CPU += a.cpu - before[name].cpu
		}
		s.cpu[name] = float64(a.cpu-before[name].cpu) / float64(time.Microsecond) / all
		if !math.IsNaN(a.allocs) { // an echo server does not tell
			s.allocs[name] = (a.allocs - before[name].allocs) / all
		}
	}
	if cost.CPU > 0 {
		p.session.run.Costs = append(p.session.run.Costs, cost)
	}
	return s, nil
}

// nodeName is how the names of nodes begin.
const nodeName = "node-"

// spent is what a process has used since its start.
type spent struct {
	cpu    time.Duration
	allocs float64
}

// spent asks the processes that take part in a row: this one, and the nodes if it is about them.
func (p *perf) spent(ctx context.Context, i int) (map[string]spent, error) {
	all := map[string]spent{}
	if p.rows[i].echo == echoNone {
		for n, node := range p.nodes.Nodes {
			cpu, _, err := proc.Usage(node.Pid())
			if err != nil {
				return nil, err
			}
			allocs, err := nodeAllocations(ctx, p.nodes.Admins[n])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", node.Name(), err)
			}
			all[node.Name()] = spent{cpu, allocs}
		}
	}
	if kind := p.rows[i].echo; kind != echoNone {
		cpu, _, err := proc.Usage(p.echoes[kind].Pid())
		if err != nil {
			return nil, err
		}
		all["echo"] = spent{cpu, math.NaN()}
	}
	all["loadgen"] = spent{processorTime(), float64(allocations())}
	return all, nil
}

// nodeAllocations asks a node how many objects it has allocated.
func nodeAllocations(ctx context.Context, admin string) (float64, error) {
	body, err := get(ctx, "http://"+admin+"/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		if text, ok := strings.CutPrefix(line, "go_memstats_mallocs_total "); ok {
			return strconv.ParseFloat(strings.TrimSpace(text), 64)
		}
	}
	return 0, errors.New("no go_memstats_mallocs_total among its metrics")
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return body, err
}

// profilesDir is in the run's directory.
const profilesDir = "profiles"

// profile offers the load of a row once more and takes a profile of each process meanwhile.
func (p *perf) profile(ctx context.Context, i int) (err error) {
	dir := filepath.Join(p.dir, profilesDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	row := strings.NewReplacer(", ", "-", " ", "-").Replace(p.rows[i].name)
	own, err := os.Create(filepath.Join(dir, row+".loadgen.pb.gz"))
	if err != nil {
		return err
	}
	defer own.Close()
	var wg sync.WaitGroup
	errs := make([]error, len(p.nodes.Admins))
	seconds := max(1, int(p.each.Seconds()))
	for n, admin := range p.nodes.Admins {
		name := fmt.Sprintf("%s.%s.pb.gz", row, p.nodes.Nodes[n].Name())
		p.session.run.Files = append(p.session.run.Files, result.File{Path: profilesDir + "/" + name, About: "processor profile"})
		wg.Go(func() {
			body, err := get(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", admin, seconds))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), body, 0o644)
			}
			errs[n] = err
		})
	}
	if err := pprof.StartCPUProfile(own); err != nil {
		return err
	}
	_, err = p.offerRow(ctx, i, p.rows[i].name+", profiled")
	pprof.StopCPUProfile()
	wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(append(errs, err)...)
}

// middle of what was measured of a row.
func (p *perf) middle(i int, of func(perfSample) float64) float64 {
	var all []float64
	for _, s := range p.samples[i] {
		all = append(all, of(s))
	}
	return middle(all)
}

// ratio is the middle of the rounds' ratios of a row to the one that stands for the machine.
func (p *perf) ratio(i int, of func(perfSample) float64) float64 {
	base := slices.IndexFunc(p.rows, func(r perfRow) bool { return r.name == p.rows[i].base })
	var all []float64
	for round, s := range p.samples[i] {
		all = append(all, of(s)/max(of(p.samples[base][round]), 1e-9))
	}
	return middle(all)
}

func sampleRate(s perfSample) float64 { return s.rate }
func sampleP50(s perfSample) float64  { return float64(s.p50) }
func sampleCPU(s perfSample) float64  { return sum(s.cpu) }

// judge compares each row with what is asked of it.
func (p *perf) judge() {
	for i := range p.rows {
		row := &p.rows[i]
		if row.rate > 0 {
			got := p.ratio(i, sampleRate)
			p.demand(row.name, fmt.Sprintf("rate >= %.3g of %s", row.rate, row.base), fmt.Sprintf("%.2f", got), got >= row.rate)
		}
		if row.median > 0 {
			got := p.ratio(i, sampleP50)
			p.demand(row.name, fmt.Sprintf("p50 <= %.3g of %s", row.median, row.base), fmt.Sprintf("%.2f", got), got <= row.median)
		}
		if row.cpu > 0 {
			got := p.middle(i, sampleCPU)
			p.demand(row.name, fmt.Sprintf("processor time <= %.3gµs", row.cpu), fmt.Sprintf("%.1fµs for each operation", got), got <= row.cpu)
		}
	}
}

// perfFile is in the run's directory: each row and round, for benchstat.
const perfFile = "perf.txt"

// write notes all samples in the format of Go's benchmarks.
func (p *perf) write() error {
	var b strings.Builder
	for _, unit := range []string{"ops/s better=higher", "p50-ns better=lower", "p99-ns better=lower", "cpu-ns/op better=lower", "allocs/op better=lower"} {
		fmt.Fprintf(&b, "Unit %s\n", unit)
	}
	for i, row := range p.rows {
		name := strings.NewReplacer(", ", "/", " ", "_").Replace(row.name)
		for _, s := range p.samples[i] {
			fmt.Fprintf(&b, "BenchmarkPerf/%s %d %.6g ops/s", name, s.count, s.rate)
			if s.p50 > 0 {
				fmt.Fprintf(&b, " %d p50-ns", s.p50.Nanoseconds())
			}
			if s.p99 > 0 {
				fmt.Fprintf(&b, " %d p99-ns", s.p99.Nanoseconds())
			}
			fmt.Fprintf(&b, " %.0f cpu-ns/op %.2f allocs/op\n", 1e3*sum(s.cpu), sum(s.allocs))
		}
	}
	p.session.run.Files = append(p.session.run.Files, result.File{Path: perfFile, About: "rates, latencies, processor time and allocations of each row and round, for benchstat"})
	return os.WriteFile(filepath.Join(p.dir, perfFile), []byte(b.String()), 0o644)
}

// print writes the table: the middle of the rounds.
func (p *perf) print(w io.Writer) {
	printHead(w, p.session.run)
	var processes []string
	for _, samples := range p.samples {
		for _, s := range samples {
			for name := range maps.Keys(s.cpu) {
				if !slices.Contains(processes, name) {
					processes = append(processes, name)
				}
			}
		}
	}
	slices.Sort(processes)
	tell := slices.DeleteFunc(slices.Clone(processes), func(name string) bool { return name == "echo" }) // it does not tell what it allocates
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "\nrow\tops/s\tto echo\tp50\tto echo\tp99\tµs/op\t%s\tallocs/op\t%s\t\n", strings.Join(processes, "\t"), strings.Join(tell, "\t"))
	for i, row := range p.rows {
		if len(p.samples) == 0 || len(p.samples[i]) == 0 {
			continue
		}
		rates, medians := "", ""
		if row.base != "" {
			rates, medians = fmt.Sprintf("%.2f", p.ratio(i, sampleRate)), fmt.Sprintf("%.2f", p.ratio(i, sampleP50))
		}
		fmt.Fprintf(tw, "%s\t%.0f\t%s\t%s\t%s\t%s\t%.1f", row.name, p.middle(i, sampleRate), rates,
			round(time.Duration(p.middle(i, sampleP50))), medians, round(time.Duration(p.middle(i, func(s perfSample) float64 { return float64(s.p99) }))), p.middle(i, sampleCPU))
		for _, name := range processes {
			fmt.Fprintf(tw, "\t%s", blank(p.middle(i, func(s perfSample) float64 { return s.cpu[name] })))
		}
		fmt.Fprintf(tw, "\t%.1f", p.middle(i, func(s perfSample) float64 { return sum(s.allocs) }))
		for _, name := range tell {
			fmt.Fprintf(tw, "\t%s", blank(p.middle(i, func(s perfSample) float64 { return s.allocs[name] })))
		}
		fmt.Fprintln(tw, "\t")
	}
	tw.Flush()
	fmt.Fprintln(w, "the middle of the rounds; to echo: of the row's rate or median to that of the echo in the same round; µs/op: processor time of all processes, then of each")
	printTail(w, p.session.run)
}

// blank is a number, or nothing if there is none.
func blank(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", v)
}

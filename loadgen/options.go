package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/urfave/cli/v3"
	"go.yaml.in/yaml/v4"

	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/proto/cachepb"
	"github.com/hacache/hacache/reports/result"
)

// Flags that both commands have.

func tokenFlag() cli.Flag {
	return &cli.StringFlag{Name: "token", Usage: "`TOKEN` of the nodes", Sources: cli.EnvVars("CACHE_AUTH_TOKEN"), HideDefault: true}
}

func clusterFlags(cluster string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "addrs", Aliases: []string{"a"}, Usage: "`HOST:PORT,…` of the nodes", Sources: cli.EnvVars("CACHE_ADDR"), DefaultText: "127.0.0.1:7070"},
		&cli.StringFlag{Name: "cluster", Value: cluster, Usage: "`process or external`: start nodes on this machine, or use those at --addrs"},
		&cli.IntFlag{Name: "nodes", Value: 3, Usage: "`N` nodes to start"},
		&cli.StringFlag{Name: "cachenode", Usage: "the `PROGRAM` to start; default is cachenode beside this program, then the one in PATH"},
		tokenFlag(),
		&cli.BoolFlag{Name: "tls", Usage: "connect with TLS"},
		&cli.StringFlag{Name: "tls-ca", Usage: "PEM `FILE` of the authority that signed the nodes' certificates; default is the system's"},
		&cli.StringFlag{Name: "tls-cert", Usage: "PEM `FILE` of a client certificate"},
		&cli.StringFlag{Name: "tls-key", Usage: "PEM `FILE` of its key"},
	}
}

func outputFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "out", Value: "out", Usage: "`DIR` in which the run directory is made"},
		&cli.BoolFlag{Name: "json", Usage: "print summary.json on stdout instead of the table"},
		&cli.StringSliceFlag{Name: "tag", Usage: "`KEY=VALUE` noted in the result; may be repeated"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress on stderr"},
		&cli.StringFlag{Name: "prometheus-addr", Usage: "serve /metrics at `HOST:PORT` during the run"},
		&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "width of the rows of the time series"},
	}
}

func streamFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "conns", Value: 4, Usage: "`N` TCP connections to a node"},
		&cli.IntFlag{Name: "streams", Aliases: []string{"c"}, Value: 16, Usage: "`N` streams in all, spread over the connections"},
		&cli.IntFlag{Name: "in-flight", Aliases: []string{"P"}, Value: 32, Usage: "`N` operations in flight on each stream"},
		&cli.BoolWithInverseFlag{Name: "batch", Value: true, Usage: "pack operations that wait into one message"},
	}
}

func valueSizeFlag() cli.Flag {
	return &cli.StringFlag{Name: "value-size", Value: "128", Usage: "`BYTES`, a range 64-4096, weights 100=90,4KiB=10, or lognormal(MEDIAN,SIGMA)"}
}

func runFlags() []cli.Flag {
	return slices.Concat(clusterFlags("external"), streamFlags(), []cli.Flag{
		targetFlag(),
		&cli.StringFlag{Name: "rate", Aliases: []string{"r"}, Value: "0", Usage: "`N` operations per second, such as 5000 or 20k; 0 is a closed loop"},
		&cli.DurationFlag{Name: "duration", Aliases: []string{"d"}, Usage: "how `LONG` after the warm-up", DefaultText: "10s, or until --ops"},
		&cli.StringFlag{Name: "ops", Aliases: []string{"n"}, Value: "0", Usage: "`N` operations at most, the warm-up included; 0: no bound"},
		&cli.DurationFlag{Name: "warmup", Value: time.Second, Usage: "how `LONG` before anything is recorded"},
		&cli.StringFlag{Name: "schedule", Usage: "`PLAN` of intended times: constant, poisson, stages(10s:20k,20s:20k:step,5s:0:sine), burst(1s:20k,4s:500), replay(FILE); 'poisson ' before stages or burst makes their arrivals random", DefaultText: "constant"},
		&cli.StringFlag{Name: "segment", Usage: "offer part `I/N` of the load, on one of N machines with the same seed"},
		&cli.StringFlag{Name: "start-at", Usage: "begin at `TIME`, seconds since 1970 or 2006-01-02T15:04:05Z, the same for all segments"},
		&cli.BoolFlag{Name: "drop", Usage: "count as missed what finds all windows full, instead of sending it late"},
		&cli.DurationFlag{Name: "think", Usage: "pause of a closed loop before the next operation"},
		&cli.StringFlag{Name: "phases", Usage: "`NAME=DURATION,…`: parts of the load that are recorded apart; the last one goes on to the end", DefaultText: "one"},
		&cli.StringSliceFlag{Name: "threshold", Usage: "`LIMIT`, such as 'insert: p(99) < 20ms' or 'errors: rate < 0.1%, abort after 10s'; may be repeated"},
		&cli.BoolFlag{Name: "abort-on-fail", Usage: "end the load as soon as a threshold is not kept"},
		nameFlag("load"),
	}, loadFlags("get=90,insert=10"), outputFlags())
}

func targetFlag() cli.Flag {
	return &cli.StringFlag{Name: "target", Value: "cachenode", Usage: "`cachenode, echo or null`: a cluster, a bare gRPC echo in this process, or nothing at all"}
}

func nameFlag(name string) cli.Flag {
	return &cli.StringFlag{Name: "name", Value: name, Usage: "`NAME` of the run"}
}

// loadFlags say what the operations are.
func loadFlags(mix string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "mix", Value: mix, Usage: "operations and their `WEIGHTS`"},
		&cli.StringFlag{Name: "ack", Value: "quorum", Usage: "`LEVEL` of insert and remove, or weights: quorum=70,once=10,leader=20"},
		&cli.StringFlag{Name: "cache", Value: "bench", Usage: "`NAME` of the cache"},
		&cli.StringFlag{Name: "keys", Value: "100k", Usage: "`N` keys"},
		&cli.StringFlag{Name: "key-dist", Value: "uniform", Usage: "`uniform, sequential, zipf(θ), latest(θ), hotspot(% of operations,% of keys) or exponential(decay)`"},
		valueSizeFlag(),
		&cli.BoolFlag{Name: "compressible", Usage: "values that compress well"},
		&cli.BoolFlag{Name: "checked", Usage: "values that say who wrote them, with a checksum"},
		&cli.StringFlag{Name: "read", Value: "local", Usage: "how gets are answered: `local, leader_on_miss or linearizable`"},
		routeFlag(), timeoutFlag(), seedFlag(),
	}
}

func routeFlag() cli.Flag {
	return &cli.StringFlag{Name: "route", Value: "leader", Usage: "`leader, any, sticky or followers`"}
}

func timeoutFlag() cli.Flag {
	return &cli.DurationFlag{Name: "timeout", Value: 5 * time.Second, Usage: "deadline of an operation"}
}

func seedFlag() cli.Flag {
	return &cli.Uint64Flag{Name: "seed", Usage: "`SEED` of times and operations", DefaultText: "random"}
}

func saturateFlags() []cli.Flag {
	return slices.Concat(clusterFlags("process"), streamFlags(), []cli.Flag{
		targetFlag(),
		&cli.StringFlag{Name: "slo", Value: "p99 < 5ms, errors < 0.1%", Usage: "`LIMITS` that a rate has to hold, as --threshold of run has them"},
		&cli.StringFlag{Name: "rate", Aliases: []string{"r"}, Value: "1000", Usage: "`N` operations per second to begin with"},
		&cli.StringFlag{Name: "max-rate", Value: "1M", Usage: "`N` operations per second at most"},
		&cli.StringFlag{Name: "schedule", Value: "poisson", Usage: "`constant or poisson`"},
		&cli.DurationFlag{Name: "step", Value: 5 * time.Second, Usage: "how `LONG` each try lasts after its warm-up; longer where a percentile needs more samples, a minute at most"},
		&cli.DurationFlag{Name: "warmup", Value: time.Second, Usage: "how `LONG` before anything is recorded"},
		&cli.IntFlag{Name: "repeats", Value: 3, Usage: "`N` tries of each rate, most of which decide"},
		&cli.StringFlag{Name: "within", Value: "3%", Usage: "how `CLOSE` the answer is to a rate that does not hold"},
		nameFlag("saturate"),
	}, loadFlags("insert"), outputFlags())
}

func benchFlags() []cli.Flag {
	return slices.Concat(clusterFlags("process"), streamFlags(), []cli.Flag{
		&cli.StringFlag{Name: "size", Value: "s", Usage: "`s, m or l`: 4, 15 or 60 seconds for each step"},
		&cli.BoolFlag{Name: "self", Usage: "measure loadgen itself: on nothing, and on a bare stream against the tightest client there is"},
		&cli.StringFlag{Name: "rate", Aliases: []string{"r"}, Value: "5000", Usage: "`N` operations per second of the steps with a fixed rate"},
		&cli.StringFlag{Name: "keys", Value: "10k", Usage: "`N` keys"},
		valueSizeFlag(),
		&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "`SEED` of times and operations"},
	}, outputFlags())
}

// settings is what the flags of a command say, checked.
type settings struct {
	target    string
	cluster   load.ClusterConfig
	start     bool // nodes of our own
	nodes     int
	cachenode string

	generator load.Generator
	workload  load.Workload
	seed      uint64
	startAt   time.Time // zero: at once

	thresholds []load.Threshold

	name        string
	out         string
	metricsAddr string // empty: metrics are not served
	json        bool
	quiet       bool
	interval    time.Duration
	tags        []string
}

// mistakes collects everything that is wrong with a command line.
type mistakes struct{ errs []error }

// add notes a mistake, once.
func (m *mistakes) add(flag string, err error) {
	if err == nil {
		return
	}
	err = fmt.Errorf("--%s: %w", flag, err)
	if !slices.ContainsFunc(m.errs, func(e error) bool { return e.Error() == err.Error() }) {
		m.errs = append(m.errs, err)
	}
}

func (m *mistakes) addf(flag, format string, args ...any) { m.add(flag, fmt.Errorf(format, args...)) }

func (m *mistakes) err() error {
	if len(m.errs) == 0 {
		return nil
	}
	return command.Usage(errors.Join(m.errs...))
}

// outputSettings is what the flags say of what is left behind.
func outputSettings(c *cli.Command, m *mistakes) *settings {
	s := &settings{
		target: "cachenode",
		out:    c.String("out"), json: c.Bool("json"), quiet: c.Bool("quiet"), interval: c.Duration("interval"),
		metricsAddr: c.String("prometheus-addr"),
		nodes:       c.Int("nodes"), tags: c.StringSlice("tag"),
	}
	if s.interval < 10*time.Millisecond || s.interval > time.Hour {
		m.addf("interval", "%s: want 10ms to 1h", s.interval)
	}
	if s.metricsAddr != "" && !isAddress(s.metricsAddr) {
		m.addf("prometheus-addr", "%q: want host:port, such as 127.0.0.1:9100", s.metricsAddr)
	}
	for _, tag := range s.tags {
		if key, _, ok := strings.Cut(tag, "="); !ok || key == "" {
			m.addf("tag", "%q: want KEY=VALUE", tag)
		}
	}
	return s
}

func common(c *cli.Command, m *mistakes) *settings {
	s := outputSettings(c, m)
	s.cluster = load.ClusterConfig{
		Token: c.String("token"), Conns: c.Int("conns"), Streams: c.Int("streams"), Batch: c.Bool("batch"),
	}
	s.generator.InFlight = c.Int("in-flight")
	for _, bound := range []struct {
		flag     string
		got, max int
	}{
		{"conns", s.cluster.Conns, 1024},
		{"streams", s.cluster.Streams, 1 << 14},
		{"in-flight", s.generator.InFlight, 1 << 16},
		{"nodes", s.nodes, 9},
	} {
		if bound.got < 1 || bound.got > bound.max {
			m.addf(bound.flag, "%d: want 1 to %d", bound.got, bound.max)
		}
	}
	s.cluster.Conns = min(s.cluster.Conns, s.cluster.Streams)
	s.cluster.Window = max(s.generator.InFlight, 1)

	var err error
	switch c.String("cluster") {
	case "process":
		s.start = true
		// An address in the environment is where nodes usually are, not a wish.
		if addrs := c.String("addrs"); addrs != "" && addrs != os.Getenv("CACHE_ADDR") {
			m.addf("addrs", "the nodes are started here; want --cluster external with it")
		}
		s.cachenode, err = program(c.String("cachenode"))
		m.add("cachenode", err)
		if c.Bool("tls") {
			m.addf("tls", "nodes that are started here have no certificates; want --cluster external with it")
		}
	case "external":
		for _, flag := range []string{"cachenode", "nodes"} {
			if c.IsSet(flag) {
				m.addf(flag, "no node is started; want --cluster process with it")
			}
		}
		addrs := c.String("addrs")
		if addrs == "" {
			addrs = "127.0.0.1:7070"
		}
		for _, a := range strings.FieldsFunc(addrs, func(r rune) bool { return r == ',' || r == ' ' }) {
			if _, after, ok := strings.Cut(a, "://"); ok {
				a = after
			}
			if !isAddress(a) {
				m.addf("addrs", "%q: want host:port, several with commas", a)
			}
			s.cluster.Addrs = append(s.cluster.Addrs, a)
		}
	default:
		m.addf("cluster", "%q: want process or external", c.String("cluster"))
	}
	for _, flag := range []string{"tls-ca", "tls-cert", "tls-key"} {
		if c.IsSet(flag) && !c.Bool("tls") {
			m.addf(flag, "want --tls with it")
		}
	}
	if c.Bool("tls") {
		s.cluster.TLS, err = clientTLS(c.String("tls-ca"), c.String("tls-cert"), c.String("tls-key"))
		m.add("tls", err)
	}
	return s
}

// isAddress reports whether text is host:port; the host may be empty.
func isAddress(text string) bool {
	_, port, err := net.SplitHostPort(text)
	return err == nil && port != "" && !strings.ContainsFunc(text, unicode.IsControl)
}

// keySettings is what the flags say of the key space and its values.
func keySettings(c *cli.Command, s *settings, m *mistakes) {
	var err error
	s.workload.Sizes, err = load.ParseSizes(c.String("value-size"))
	m.add("value-size", err)
	s.workload.Keys, err = load.ParseCount(c.String("keys"))
	m.add("keys", err)
	if err == nil && s.workload.Keys == 0 {
		m.addf("keys", "0: want at least 1")
	}
	s.seed = c.Uint64("seed")
	if s.seed == 0 {
		s.seed = uint64(rand.Uint32()) + 1
	}
	s.workload.Seed, s.generator.Seed = s.seed, s.seed
}

// valueSettings is what the flags say of the values and where they go.
func valueSettings(c *cli.Command, s *settings, m *mistakes) {
	w := &s.workload
	s.name = c.String("name")
	w.Cache, w.Client, w.Compressible = c.String("cache"), s.name, c.Bool("compressible")
	if w.Checked && strings.Contains(s.name, ":") {
		m.addf("name", "%q: is written into checked values; want it without a colon", s.name)
	}
	var err error
	s.cluster.Route, err = load.ParseRoute(c.String("route"))
	m.add("route", err)
	timeoutSettings(c, s, m)
}

func timeoutSettings(c *cli.Command, s *settings, m *mistakes) {
	s.workload.Timeout = c.Duration("timeout")
	if s.workload.Timeout <= 0 {
		m.addf("timeout", "%s: want more than 0", s.workload.Timeout)
	}
	s.generator.Drain = s.workload.Timeout + time.Second
}

// clientTLS is what the TLS flags say.
func clientTLS(ca, cert, key string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in it; want PEM", ca)
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, err
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// runSettings is what the flags of run say.
func runSettings(c *cli.Command) (*settings, error) {
	if c.Args().Len() > 1 {
		return nil, command.Usagef("run: %d files; want one at most", c.Args().Len())
	}
	if path := c.Args().First(); path != "" {
		if err := applyFile(c, path); err != nil {
			return nil, command.Usage(err)
		}
	}
	var m mistakes
	s := common(c, &m)
	loadSettings(c, s, &m)
	g := &s.generator
	g.Schedule = schedule(c, &m)
	open := g.Schedule != nil
	var err error
	if text := c.String("segment"); text != "" {
		g.Segment, err = load.ParseSegment(text)
		m.add("segment", err)
		if err == nil && !c.IsSet("seed") {
			m.addf("segment", "the segments of one load have one seed; want --seed with it")
		}
	}
	if text := c.String("start-at"); text != "" {
		s.startAt, err = startTime(text, time.Now())
		m.add("start-at", err)
	}
	g.Ops, err = load.ParseCount(c.String("ops"))
	m.add("ops", err)
	g.Warmup, g.Duration, g.Think, g.Drop = c.Duration("warmup"), c.Duration("duration"), c.Duration("think"), c.Bool("drop")
	if g.Duration == 0 && g.Ops == 0 && (!open || g.Schedule.Span() == 0) {
		g.Duration = 10 * time.Second
	}
	for flag, d := range map[string]time.Duration{"warmup": g.Warmup, "duration": g.Duration, "think": g.Think} {
		if d < 0 {
			m.addf(flag, "%s: want 0 or more", d)
		}
	}
	if g.Think > 0 && open {
		m.addf("think", "only a closed loop (--rate 0) thinks")
	}
	if g.Drop && !open {
		m.addf("drop", "a closed loop (--rate 0) has nothing to drop")
	}
	g.Phases, err = parsePhases(c.String("phases"))
	m.add("phases", err)
	for _, text := range c.StringSlice("threshold") {
		t, err := load.ParseThreshold(text)
		m.add("threshold", err)
		switch {
		case err != nil:
			continue
		case !open && t.OfResponse():
			m.addf("threshold", "%q: a closed loop (--rate 0) has service times only; want {time:service}", text)
		case t.Phase() != "" && !slices.ContainsFunc(g.Phases, func(p load.PhaseSpan) bool { return p.Name == t.Phase() }):
			m.addf("threshold", "%q: there is no phase %q; want one of --phases", text, t.Phase())
		}
		t.Abort = t.Abort || c.Bool("abort-on-fail")
		s.thresholds = append(s.thresholds, t)
	}
	return s, m.err()
}

// loadSettings is what the flags say of the operations and where they go.
func loadSettings(c *cli.Command, s *settings, m *mistakes) {
	s.target = c.String("target")
	if !slices.Contains([]string{"cachenode", "echo", "null"}, s.target) {
		m.addf("target", "%q: want cachenode, echo or null", s.target)
	}
	keySettings(c, s, m)
	w := &s.workload
	w.Checked = c.Bool("checked")
	valueSettings(c, s, m)
	var err error
	w.Mix, err = load.ParseMix(c.String("mix"))
	m.add("mix", err)
	w.Acks, err = load.ParseAcks(c.String("ack"))
	m.add("ack", err)
	w.Dist, err = load.ParseKeyDist(c.String("key-dist"))
	m.add("key-dist", err)
	mode, known := cachepb.ReadTag_Mode_value[strings.ToUpper(c.String("read"))]
	if w.ReadMode = cachepb.ReadTag_Mode(mode); !known {
		m.addf("read", "%q: want local, leader_on_miss or linearizable", c.String("read"))
	}
}

// parsePhases reads "before=10s,during=5s,recovery=15s".
func parsePhases(text string) ([]load.PhaseSpan, error) {
	if text == "" {
		return nil, nil
	}
	var spans []load.PhaseSpan
	for part := range strings.SplitSeq(text, ",") {
		name, long, _ := strings.Cut(strings.TrimSpace(part), "=")
		d, err := time.ParseDuration(long)
		if name == "" || err != nil || d <= 0 {
			return nil, fmt.Errorf("%q: want NAME=DURATION, such as before=10s", part)
		}
		if slices.ContainsFunc(spans, func(p load.PhaseSpan) bool { return p.Name == name }) {
			return nil, fmt.Errorf("%q: that name is there already; want another one", name)
		}
		spans = append(spans, load.PhaseSpan{Name: name, For: d})
	}
	return spans, nil
}

// schedule is what --schedule and --rate say together; nil is a closed loop.
func schedule(c *cli.Command, m *mistakes) load.Schedule {
	text := c.String("schedule")
	rate, err := load.ParseRate(c.String("rate"))
	switch {
	case err != nil:
		m.add("rate", err)
		return nil
	case text == "" && rate == 0:
		return nil
	case rate == 0 && (text == "constant" || text == "poisson"):
		m.addf("schedule", "a closed loop (--rate 0) has none; want a rate with it")
		return nil
	}
	plan, err := load.ParseSchedule(text, rate)
	m.add("schedule", err)
	return plan
}

// startTime reads a time at which a run is to begin, which must lie ahead of now.
func startTime(text string, now time.Time) (time.Time, error) {
	at, err := time.Parse(time.RFC3339Nano, text)
	if seconds, plain := strconv.ParseFloat(text, 64); plain == nil && seconds > 0 && seconds < 1e11 {
		at, err = time.UnixMicro(int64(seconds*1e6)), nil
	}
	switch ahead := at.Sub(now); {
	case err != nil:
		return at, fmt.Errorf("%q: want seconds since 1970 or a time like 2006-01-02T15:04:05Z", text)
	case ahead < 0:
		return at, fmt.Errorf("%s: was %s ago; want a time to come", text, -ahead.Round(time.Millisecond))
	case ahead > 24*time.Hour:
		return at, fmt.Errorf("%s: is %s away; want at most a day", text, ahead.Round(time.Minute))
	}
	return at, nil
}

// applyFile sets the flags that a file names and the command line does not.
func applyFile(c *cli.Command, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("%s: %s", path, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if len(doc.Content) == 0 {
		return fmt.Errorf("%s: empty; want flags and their values", path)
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: want flags and their values, such as rate: 5000", path, top.Line)
	}
	var known []string
	for _, f := range c.Flags {
		known = append(known, f.Names()[0])
	}
	var errs []error
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		switch {
		case !slices.Contains(known, key.Value):
			errs = append(errs, fmt.Errorf("%s:%d: unknown key %q; want one of %s", path, key.Line, key.Value, strings.Join(known, ", ")))
		case c.IsSet(key.Value): // the command line wins
		case value.Kind == yaml.SequenceNode && slices.Contains([]string{"threshold", "tag"}, key.Value):
			for _, item := range value.Content {
				if err := c.Set(key.Value, item.Value); err != nil || item.Kind != yaml.ScalarNode {
					errs = append(errs, fmt.Errorf("%s:%d: %s: want a list of texts", path, item.Line, key.Value))
				}
			}
		case value.Kind != yaml.ScalarNode:
			errs = append(errs, fmt.Errorf("%s:%d: %s: want one value", path, value.Line, key.Value))
		default:
			if err := c.Set(key.Value, value.Value); err != nil {
				errs = append(errs, fmt.Errorf("%s:%d: %s: %w", path, value.Line, key.Value, err))
			}
		}
	}
	return errors.Join(errs...)
}

// program finds the cachenode to start.
func program(path string) (string, error) {
	if path != "" {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", err
		}
		return filepath.Abs(found)
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "cachenode")
		if found, err := exec.LookPath(beside); err == nil {
			return found, nil
		}
	}
	found, err := exec.LookPath("cachenode")
	if err != nil {
		return "", errors.New("no cachenode beside this program and none in PATH; want a program (make build makes bin/cachenode)")
	}
	return found, nil
}

// tagNotes is the tags as they are noted in a result.
func tagNotes(tags []string) []result.Event {
	var notes []result.Event
	for _, t := range tags {
		notes = append(notes, result.Event{Kind: result.Note, Detail: t})
	}
	return notes
}

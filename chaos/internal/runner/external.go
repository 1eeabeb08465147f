package runner

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/chaos/internal/check"
	"github.com/hacache/hacache/chaos/internal/cluster"
	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/loadgen/load"
)

// Attached is the Boot of a cluster that runs already, see [scenario.External].
func Attached(ctx context.Context, b Boot) (System, error) {
	e := b.External
	to := cluster.Remote{Proxies: map[string]map[string]string{}}
	for _, n := range e.Nodes {
		to.Nodes = append(to.Nodes, cluster.RemoteNode{Addr: n.Addr, Identity: n.Identity, Admin: n.Admin, Pid: n.Pid})
	}
	for _, t := range e.Toxiproxy {
		to.Proxies[t.URL] = t.Proxies
	}
	var err error
	if to.Token, err = secretOf(e); err != nil {
		return nil, err
	}
	if to.TLS, err = tlsOf(e.TLS); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	c, err := cluster.Attach(ctx, to)
	if err != nil {
		return nil, err
	}
	g := &guest{processes: newProcesses(c, b.Members), cache: e.Cache, prefix: fmt.Sprintf("%016x/", rand.Uint64()), ttl: e.TTL.D(), evicted: map[string]uint64{}}
	for _, n := range g.endpoints { // what went before this run is not its matter
		if d, err := c.Node(n.Name).Digest(ctx); err == nil {
			g.evicted[n.Name] = d.Evicted[g.cache]
		} else if !errors.Is(err, cluster.ErrNoAdmin) {
			return nil, errors.Join(err, c.Stop(0))
		}
	}
	return g, nil
}

// secretOf reads the token. An error does not show it.
func secretOf(e *scenario.External) (string, error) {
	if e.TokenEnv != "" {
		token, set := os.LookupEnv(e.TokenEnv)
		if !set {
			return "", fmt.Errorf("the environment variable %s is not set; expected the token of the cluster", e.TokenEnv)
		}
		return token, nil
	}
	if e.TokenFile == "" {
		return "", nil
	}
	data, err := os.ReadFile(e.TokenFile)
	return string(bytes.TrimSpace(data)), err
}

func tlsOf(t *scenario.ExternalTLS) (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	cfg := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS13}
	if t.CA != "" {
		data, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("%s holds no certificate", t.CA)
		}
	}
	if t.Cert != "" {
		own, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate of clients: %w", err)
		}
		cfg.Certificates = []tls.Certificate{own}
	}
	return cfg, nil
}

// guest is a cluster that others use too. Whatever is written goes into one
// cache, under keys that begin with what no other run has, and is forgotten
// after a while; what it was called is only known here.
type guest struct {
	processes
	cache, prefix string
	ttl           time.Duration
	evicted       map[string]uint64 // from the cache before the run, by node
}

// place says what an operation of the run is in the cluster.
func (g *guest) place(op *client.Op) *client.Op {
	moved := *op
	moved.Cache, moved.Key = g.cache, g.prefix+op.Cache+"/"+op.Key
	if op.TTL == 0 && (op.Kind == client.KindPut || op.Kind == client.KindInsert) {
		moved.TTL = g.ttl
	}
	return &moved
}

// placed is a target to which operations go as they are called in the cluster.
type placed struct {
	load.Target
	guest *guest
}

func (t placed) Start(stream int, op *client.Op, done func(client.Outcome)) error {
	return t.Target.Start(stream, t.guest.place(op), done)
}

func (g *guest) Target(toAny bool, streams, window int) (load.Target, error) {
	t, err := g.processes.Target(toAny, streams, window)
	if err != nil {
		return nil, err
	}
	return placed{t, g}, nil
}

func (g *guest) Spread(window int) (load.Target, error) {
	t, err := g.processes.Spread(window)
	if err != nil {
		return nil, err
	}
	return placed{t, g}, nil
}

func (g *guest) Read(node string, op *client.Op, done func(client.Outcome)) error {
	return g.processes.Read(node, g.place(op), done)
}

// Digest is what a node holds. Of what it has forgotten only that counts which
// may have been this run's: evictions from its cache since it began. What
// expires there is what others had written, or earlier runs: what this run
// writes lives longer than it.
func (g *guest) Digest(ctx context.Context, node string) (check.Digest, error) {
	d, err := g.processes.Digest(ctx, node)
	since := d.Evicted[g.cache]
	if before := g.evicted[node]; since >= before { // else the process is another one
		since -= before
	}
	d.Evicted, d.Expired = map[string]uint64{g.cache: since}, nil
	return d, err
}

// cleanPatience bounds how long what was written is removed for, beside what a
// stock needs.
const cleanPatience = 30 * time.Second

// removals is a source that removes entries, and then those of a stock.
type removals struct {
	entries []entry
	stock   string // its cache
}

func (r removals) Op(i uint64, op *client.Op, scratch []byte) []byte {
	e := entry{r.stock, fmt.Sprintf("%s%d", keyPrefix, i-min(i, uint64(len(r.entries))))}
	if i < uint64(len(r.entries)) {
		e = r.entries[i]
	}
	*op = client.Op{Kind: client.KindRemove, Cache: e.cache, Key: e.key, Level: client.LevelQuorum, Deadline: stockTimeout}
	return scratch
}

// leave takes back, or mentions, what the run has written to a cluster that goes
// on without it.
func (r *run) leave(ctx context.Context) {
	e := r.Plan.Scenario.Cluster.External
	source := removals{entries: r.keys.all()}
	n, patience := len(source.entries), cleanPatience
	if p := r.Plan.Scenario.Preload; p != nil {
		source.stock = p.Cache
		n += int(p.Entries)
		patience += time.Duration(p.Entries) * time.Second / stockRate
	}
	where := "cache " + e.Cache
	if g, ok := r.system.(*guest); ok {
		where += ", keys " + g.prefix + "..."
	}
	if !e.Clean {
		r.note("up to %d entries stay in %s, for %v", n, where, e.TTL)
		return
	}
	r.enter("clean")
	left, why := n, error(nil)
	target, err := r.system.Target(false, stockStreams, stockWindow)
	if err == nil {
		defer target.Close()
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		all := make([]uint64, n)
		for i := range all {
			all[i] = uint64(i)
		}
		left, why = exhaust(ctx, r.stockGenerator(target, observers{}), source, all)
	}
	if err = errors.Join(err, why); left > 0 {
		r.note("%d of %d entries could not be removed from %s, and stay for %v: %v", left, n, where, e.TTL, err)
		return
	}
	r.note("%d entries removed from %s", n, where)
}

// caveats say of a cluster that runs elsewhere what the verdicts do not rest on.
func caveats(e *scenario.External) (say []string) {
	if none := e.Unwatched(); len(none) > 0 {
		say = append(say, fmt.Sprintf("whether %s evicted what is missing is not known: no admin address is given", strings.Join(none, ", ")))
	}
	return say
}

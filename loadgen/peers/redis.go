package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/redis/rueidis"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

// redis is a primary and two replicas of the server that is installed.
type redis struct {
	group
	server string   // the program; empty: it is not installed
	addrs  []string // the primary first
}

// redisProgram is what is looked for in PATH.
const redisProgram = "redis-server"

// redisWait is how long the server waits for a replica, in milliseconds.
const redisWait = "5000"

func (r *redis) about() result.Peer {
	p := result.Peer{
		Name: "Redis", Client: "github.com/redis/rueidis " + rueidis.LibVer + ", connections of its own for each stream (dedicated), not shared",
		Acknowledged: "SET + WAIT 1: the primary and one of two replicas have received it. GET: from the primary.",
		Durability:   "none: no snapshots, no append-only file",
		Setup: []string{
			redisProgram + " " + strings.ReplaceAll(strings.Join(redisFlags("PORT", "DIR"), " "), "--save ", `--save ""`) + ", the two replicas with --replicaof",
			"one operation a message: each connection sends SET and WAIT 1 in one segment and waits for both answers",
			"pipelined: each connection sends all that waits, up to 64 SETs, and one WAIT 1 after them",
		},
		Favours: []string{
			"there is no consensus: nobody is elected when the primary dies, a write that WAIT counted can be lost by the failover that an operator or Sentinel makes, and two primaries are possible",
			"in a pipeline one WAIT stands for up to 64 writes",
		},
		Against: []string{
			"a server uses one core for all commands; on this machine no more than that is free for it anyway",
			"WAIT makes the primary ask its replicas for where they are, which costs messages that its own replication would not need",
		},
	}
	if r.server == "" {
		p.Absent = redisProgram + " is not installed (Debian: apt-get install redis-server; make compare INSTALL=1 does that)"
		return p
	}
	out, err := exec.Command(r.server, "--version").Output()
	p.Version = redisVersion(string(out))
	if err != nil || p.Version == "" {
		p.Version = "unknown"
	}
	return p
}

// redisVersion reads "Redis server v=7.0.15 sha=…".
func redisVersion(line string) string {
	for word := range strings.FieldsSeq(line) {
		if v, ok := strings.CutPrefix(word, "v="); ok {
			return v
		}
	}
	return ""
}

func redisFlags(port, dir string) []string {
	return []string{
		"--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "", "--appendonly", "no", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0",
		"--daemonize", "no", "--loglevel", "warning",
	}
}

func (r *redis) start(ctx context.Context) error {
	var err error
	if r.addrs, err = freePorts(members); err != nil {
		return err
	}
	_, primary, err := net.SplitHostPort(r.addrs[0])
	if err != nil {
		return err
	}
	for i, addr := range r.addrs {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("redis-%d", i+1)
		dir := filepath.Join(r.data, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		args := redisFlags(port, dir)
		if i > 0 {
			args = append(args, "--replicaof", "127.0.0.1 "+primary)
		}
		if err := r.launch(name, r.server, args...); err != nil {
			return err
		}
	}
	return r.until(ctx, func(ctx context.Context) error {
		_, err := r.leader(ctx)
		return err
	})
}

// leader is the primary, which does not change, once both replicas follow it.
func (r *redis) leader(ctx context.Context) (string, error) {
	c, err := redisClient(r.addrs[0], 1, 1)
	if err != nil {
		return "", err
	}
	defer c.Close()
	info, err := c.Do(ctx, c.B().Info().Section("replication").Build()).ToString()
	if err != nil {
		return "", err
	}
	if n := strings.Count(info, "state=online"); n != members-1 {
		return "", fmt.Errorf("%d of %d replicas follow the primary", n, members-1)
	}
	return r.addrs[0], nil
}

// redisClient has as many connections as dedicated is, each with buffers for so many operations at once.
func redisClient(addr string, dedicated, batch int) (rueidis.Client, error) {
	buffer := max(4<<10, 512*batch)
	return rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{addr}, DisableCache: true, ForceSingleClient: true, DisableRetry: true,
		BlockingPoolSize: dedicated, ReadBufferEachConn: buffer, WriteBufferEachConn: buffer,
	})
}

func (r *redis) open(_ context.Context, row *row) (load.Target, error) {
	// Without batches a connection has one operation at a time, so each slot of the window is a stream of its own here.
	conns, window := row.streams*row.window, 1
	if row.batch {
		conns, window = row.streams, row.window
	}
	c, err := redisClient(r.addrs[0], conns, window)
	if err != nil {
		return nil, err
	}
	var (
		by       []perform
		releases []func()
	)
	for range conns {
		d, release := c.Dedicate()
		releases = append(releases, release)
		b := redisBatch{client: d}
		by = append(by, b.perform)
	}
	return newWorkers(by, window, row.batch, func() {
		for _, release := range releases {
			release()
		}
		c.Close()
	}), nil
}

// redisBatch is one connection. It is used by one goroutine.
type redisBatch struct {
	client   rueidis.DedicatedClient
	commands []rueidis.Completed
}

// perform sends all operations at once: gets, or writes with one WAIT after them, which counts for all of them, as they
// came before it on the same connection.
func (b *redisBatch) perform(ctx context.Context, ops []*client.Op, outcomes []client.Outcome) {
	b.commands = b.commands[:0]
	writes := false
	for _, op := range ops {
		if op.Kind == client.KindGet {
			b.commands = append(b.commands, b.client.B().Get().Key(op.Key).Build())
			continue
		}
		writes = true
		b.commands = append(b.commands, b.client.B().Set().Key(op.Key).Value(rueidis.BinaryString(op.Value)).Build())
	}
	if writes {
		b.commands = append(b.commands, b.client.B().Arbitrary("WAIT", "1", redisWait).Build())
	}
	answers := b.client.DoMulti(ctx, b.commands...)
	var waited error
	if writes {
		n, err := answers[len(ops)].AsInt64()
		if waited = err; err == nil && n < 1 {
			waited = errors.New("WAIT: no replica had it in time")
		}
	}
	for i, op := range ops {
		if op.Kind == client.KindGet {
			outcomes[i] = redisRead(answers[i])
		} else {
			outcomes[i] = redisWritten(answers[i].Error(), waited)
		}
	}
}

func redisRead(answer rueidis.RedisResult) client.Outcome {
	value, err := answer.AsBytes()
	switch {
	case rueidis.IsRedisNil(err):
		return client.Outcome{}
	case err != nil:
		return readFailed(err)
	}
	return client.Outcome{Found: true, Value: value}
}

// redisWritten is what the answers to SET and to WAIT mean together: what the server refused had no effect; what no
// replica has acknowledged may be lost.
func redisWritten(set, wait error) client.Outcome {
	if _, refused := rueidis.IsRedisErr(set); refused {
		return client.Outcome{Status: client.StatusFail, Err: set}
	}
	if err := errors.Join(set, wait); err != nil {
		return client.Outcome{Status: client.StatusInfo, Err: err}
	}
	return client.Outcome{}
}

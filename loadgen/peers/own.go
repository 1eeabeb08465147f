package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/proc"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

// cachenodes is three nodes of ours, by the targets that loadgen perf uses.
type cachenodes struct {
	binary  string
	logs    string
	cluster *proc.Cluster
}

func (c *cachenodes) about() result.Peer {
	return result.Peer{
		Name: "hacache", Version: c.version(), Client: "cachenode/client, bidirectional gRPC streams, which loadgen's target cachenode uses",
		Acknowledged: "Insert at quorum: committed by a majority of three (raft) and applied at the node asked. Get: from that node's own copy, which it has shown to be less than 500 ms old.",
		Durability:   "none: everything is in memory, and a majority of nodes has to survive",
		Setup: []string{
			"three cachenodes with their defaults; a cache without bounds or TTL",
			"at the leader, and at followers, which forward; batched: a message carries what waits",
		},
		Favours: []string{
			"it is a cache and nothing else: no files, no transactions, no history, no watches are paid for",
			"loadgen's own target: callbacks and no goroutine for each operation, where the others' clients make callers wait in one each (but for puts of NATS); see the echo, which is measured in the same way",
			"made by those who made this comparison, and tuned on such machines",
		},
		Against: []string{"each answer of a Get says how fresh it is, and each write carries what makes it at most once across nodes"},
	}
}

// version is what the program says that it was built from, which need not be what this one was.
func (c *cachenodes) version() string {
	out, err := exec.Command(c.binary, "--version").Output()
	_, v, ok := strings.Cut(strings.TrimSpace(string(out)), "cachenode version ")
	if err != nil || !ok {
		return "unknown"
	}
	return v
}

func (c *cachenodes) start(ctx context.Context) (err error) {
	c.cluster, err = proc.LocalCluster(ctx, proc.ClusterSpec{Binary: c.binary, Nodes: members, LogDir: c.logs})
	return err
}

func (c *cachenodes) open(ctx context.Context, row *row) (load.Target, error) {
	t, err := load.NewCluster(load.ClusterConfig{
		Addrs: c.cluster.Addrs, Route: row.route, Conns: min(conns, row.streams), Streams: row.streams, Window: row.window, Batch: row.batch,
	})
	if err != nil {
		return nil, err
	}
	if err := t.Ready(ctx); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func (c *cachenodes) leader(ctx context.Context) (string, error) {
	return proc.WaitMember(ctx, client.Config{Addr: c.cluster.Addrs[0]})
}

func (c *cachenodes) servers() []*proc.Process {
	if c.cluster == nil {
		return nil
	}
	return c.cluster.Nodes
}

func (c *cachenodes) stop() {
	if c.cluster != nil {
		c.cluster.Stop(stopWithin)
	}
}

// echo is a bare gRPC stream to a process that sends each message back.
type echo struct {
	group
	addr string
}

// echoName is the system that stands for the machine, and the command that runs its server on an inherited listener.
const echoName = "echo"

func (e *echo) about() result.Peer {
	return result.Peer{
		Name: echoName, Client: "loadgen's target echo: one bidirectional gRPC stream for each of its streams, gRPC's own codec",
		Acknowledged: "the message came back", Durability: "none: it keeps nothing",
		Setup:   []string{"one process; a message of protobuf with as many bytes as an operation has"},
		Favours: []string{"it does nothing: one server instead of three, no replication, no map. It stands for what gRPC, the kernel and the generator cost on this machine"},
	}
}

func (e *echo) start(context.Context) error {
	lis, err := proc.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	e.addr = lis.Addr().String()
	p, err := proc.Start(context.Background(), proc.Spec{Name: echoName, Binary: e.self, Args: []string{echoName}, Listener: lis, LogPath: filepath.Join(e.logs, echoName+".log")})
	if err != nil {
		return err
	}
	e.processes = append(e.processes, p)
	return nil
}

func (e *echo) open(_ context.Context, row *row) (load.Target, error) {
	return load.NewEcho(load.EchoConfig{Addr: e.addr, Proto: true, Conns: min(conns, row.streams), Streams: row.streams, Window: row.window})
}

func (e *echo) leader(context.Context) (string, error) { return "", nil }

// serveEcho is the server's process.
func serveEcho(ctx context.Context) error {
	lis, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return fmt.Errorf("%s: descriptor 3 is no listener: %w", echoName, err)
	}
	return load.ServeEcho(ctx, lis, true)
}

package node_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run runs a node until the test ends.
func run(t testing.TB, n *node.Node) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// startCluster runs n nodes in this process on loopback and returns them with their addresses once all are ready. All are
// stopped at once when the test ends. change, if any, has the last word on a node's configuration.
func startCluster(t testing.TB, n int, change ...func(i int, cfg *node.Config)) ([]*node.Node, []string) {
	t.Helper()
	var hosts []string
	listeners := make([]net.Listener, n)
	for i := range listeners {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i] = ln
		hosts = append(hosts, ln.Addr().String())
	}
	out := io.Discard
	if os.Getenv("NODE_LOG") != "" {
		out = os.Stderr
	}
	nodes := make([]*node.Node, n)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, n)
	for i := range nodes {
		cfg := node.Config{
			Listener: listeners[i], Token: "secret",
			Logger: slog.New(slog.NewTextHandler(out, nil)).With("node", hosts[i]),
		}
		if n > 1 {
			cfg.Hosts, cfg.Self = hosts, hosts[i]
		}
		for _, f := range change {
			f(i, &cfg)
		}
		nd, err := node.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		nodes[i] = nd
		go func() { done <- nd.Run(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range n {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	for _, nd := range nodes {
		if err := nd.AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return nodes, hosts
}

// TestOperations proves that every operation works at every ack level through every node, and that a write through one
// node is read through all.
func TestOperations(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprint(n, " nodes"), func(t *testing.T) {
			_, hosts := startCluster(t, n)
			for i, h := range hosts {
				conn, err := client.NewConn(client.Config{Addr: h, Token: "secret"})
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				for _, level := range []client.Level{client.LevelQuorum, client.LevelOnce, client.LevelLeader} {
					key := fmt.Sprint("key-", i, "-", level)
					out := conn.Do(t.Context(), &client.Op{Kind: client.KindInsert, Cache: "c", Key: key, Value: []byte("v"), Level: level})
					if out.Status != client.StatusOK {
						t.Fatalf("insert at %v through %s: %+v", level, h, out)
					}
					got := conn.Do(t.Context(), &client.Op{Kind: client.KindGet, Cache: "c", Key: key})
					if string(got.Value) != "v" {
						t.Fatalf("get through %s right after the ack at %v: %+v", h, level, got)
					}
					if out := conn.Do(t.Context(), &client.Op{Kind: client.KindRemove, Cache: "c", Key: key, Level: level}); out.Status != client.StatusOK {
						t.Fatalf("remove at %v through %s: %+v", level, h, out)
					}
					if got := conn.Do(t.Context(), &client.Op{Kind: client.KindGet, Cache: "c", Key: key}); got.Found {
						t.Fatalf("get through %s after remove at %v: %+v", h, level, got)
					}
				}
				if out := conn.Do(t.Context(), &client.Op{Kind: client.KindPut, Cache: "c", Key: "p", Value: []byte(h)}); out.Status != client.StatusOK {
					t.Fatalf("put through %s: %+v", h, out)
				}
				if got := conn.Do(t.Context(), &client.Op{Kind: client.KindGet, Cache: "c", Key: "p"}); string(got.Value) != h {
					t.Fatalf("get through %s right after put: %+v", h, got)
				}
				if out := conn.Do(t.Context(), &client.Op{Kind: client.KindDel, Cache: "c", Key: "p"}); out.Status != client.StatusOK {
					t.Fatalf("del through %s: %+v", h, out)
				}
			}
		})
	}
}

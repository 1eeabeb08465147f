package node_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
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

// members are the nodes of a cluster in this process, by place in hosts.
type members struct {
	nodes  []*node.Node
	hosts  []string
	cancel []context.CancelFunc
	done   []chan struct{} // closed when Run has returned
}

// newMembers runs n nodes in this process on loopback and returns when all are ready. All are stopped at once when the test
// ends. change, if any, has the last word on a node's configuration.
func newMembers(t testing.TB, n int, change ...func(i int, cfg *node.Config)) *members {
	t.Helper()
	m := &members{nodes: make([]*node.Node, n)}
	listeners := make([]net.Listener, n)
	for i := range listeners {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i] = ln
		m.hosts = append(m.hosts, ln.Addr().String())
	}
	out := io.Discard
	if os.Getenv("NODE_LOG") != "" {
		out = os.Stderr
	}
	for i := range m.nodes {
		cfg := node.Config{
			Listener: listeners[i], Token: "secret",
			Logger: slog.New(slog.NewTextHandler(out, nil)).With("node", m.hosts[i]),
		}
		if n > 1 {
			cfg.Hosts, cfg.Self = m.hosts, m.hosts[i]
		}
		for _, f := range change {
			f(i, &cfg)
		}
		nd, err := node.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		m.nodes[i], m.cancel, m.done = nd, append(m.cancel, cancel), append(m.done, done)
		go func() {
			defer close(done)
			if err := nd.Run(ctx); err != nil {
				t.Error(err)
			}
		}()
	}
	t.Cleanup(func() {
		for _, cancel := range m.cancel {
			cancel()
		}
		for _, done := range m.done {
			<-done
		}
	})
	for _, nd := range m.nodes {
		if err := nd.AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// stop stops one node in order.
func (m *members) stop(i int) {
	m.cancel[i]()
	<-m.done[i]
}

// leader is the place of the leader as the first node knows it.
func (m *members) leader() int {
	return slices.Index(m.hosts, m.nodes[0].LeaderInfo().GetAddr())
}

// startCluster is newMembers for those who stop nothing.
func startCluster(t testing.TB, n int, change ...func(i int, cfg *node.Config)) ([]*node.Node, []string) {
	t.Helper()
	m := newMembers(t, n, change...)
	return m.nodes, m.hosts
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

package node_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/node"
)

// watching is a watch of one node, and a way to read there.
type watching struct {
	t    *testing.T
	node interface {
		Do(ctx context.Context, op *client.Op) client.Outcome
	}
	next func() (client.Event, error, bool)
}

// watchNode watches over a stream.
func watchNode(t *testing.T, ctx context.Context, addr string, caches ...string) *watching {
	t.Helper()
	cfg := client.Config{Addr: addr, Token: "secret"}
	conn, err := client.NewConn(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w := &watching{t: t, node: conn}
	w.begin(client.Watch(ctx, client.ClientConfig{Addrs: []string{addr}, Config: cfg}, caches...))
	return w
}

// watchHere watches in the program of the node.
func watchHere(t *testing.T, ctx context.Context, n *node.Node, caches ...string) *watching {
	t.Helper()
	w := &watching{t: t, node: n}
	w.begin(n.Watch(ctx, caches...))
	return w
}

// begin takes the first two events.
func (w *watching) begin(events iter.Seq2[client.Event, error]) {
	w.t.Helper()
	next, stop := iter.Pull2(events)
	w.t.Cleanup(stop)
	w.next = next
	if first, err, _ := next(); err != nil {
		w.t.Fatal(err)
	} else if _, ok := first.(client.Leader); !ok {
		w.t.Fatalf("a watch begins with %+v, want a Leader", first)
	}
	if gap, ok := w.event().(client.Gap); !ok || gap.Reason != client.GapBegin {
		w.t.Fatalf("a watch begins with %+v, want a Gap", gap)
	}
}

// event returns the next event that is not about the leader.
func (w *watching) event() client.Event {
	w.t.Helper()
	for {
		event, err, _ := w.next()
		if err != nil {
			w.t.Fatal(err)
		}
		if _, leader := event.(client.Leader); !leader {
			return event
		}
	}
}

// What is written anywhere is told everywhere, in one order, and what is told can be read where it was told: by a local
// read at once. A node that forgets its copy says so, and tells on when it has another one.
func TestWatch(t *testing.T) {
	t.Run("over a stream", func(t *testing.T) {
		testWatch(t, func(ctx context.Context, _ *node.Node, host string) *watching { return watchNode(t, ctx, host, "w") })
	})
	t.Run("in the node's program", func(t *testing.T) {
		testWatch(t, func(ctx context.Context, n *node.Node, _ string) *watching { return watchHere(t, ctx, n, "w") })
	})
}

func testWatch(t *testing.T, watch func(ctx context.Context, n *node.Node, host string) *watching) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nodes, hosts := startCluster(t, 3)
	var watches []*watching
	for i, h := range hosts {
		watches = append(watches, watch(ctx, nodes[i], h))
	}
	c, err := client.New(client.ClientConfig{Addrs: hosts, Config: client.Config{Token: "secret", Timeout: 25 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	once := c.NewSession() // a machine under load may be slow, and each write is told once
	insert := func(cache, key, value string) {
		t.Helper()
		if err := once.Insert(ctx, cache, key, []byte(value), client.LevelQuorum); err != nil {
			t.Fatalf("insert %s/%s: %v", cache, key, err)
		}
	}
	write := func(i int) {
		t.Helper()
		if i%5 != 4 {
			insert("w", fmt.Sprint("k", i%7), "v")
		} else if err := once.Remove(ctx, "w", fmt.Sprint("k", (i-1)%7), client.LevelQuorum); err != nil {
			t.Fatalf("remove %d: %v", i, err)
		}
		insert("other", "k", "v")
	}
	const writes = 50
	for i := range writes {
		write(i)
	}
	indexes := make([][]uint64, 3)
	for n, w := range watches {
		for i := range writes {
			switch e := w.event().(type) {
			case client.Changed:
				if want := fmt.Sprint("k", i%7); i%5 == 4 || e.Cache != "w" || e.Key != want {
					t.Fatalf("node %d tells %+v as number %d", n, e, i)
				}
				indexes[n] = append(indexes[n], e.Index)
			case client.Removed:
				if want := fmt.Sprint("k", (i-1)%7); i%5 != 4 || e.Cache != "w" || e.Key != want || e.Cause != client.CauseOperation {
					t.Fatalf("node %d tells %+v as number %d", n, e, i)
				}
				indexes[n] = append(indexes[n], e.Index)
			default:
				t.Fatalf("node %d tells %+v", n, e)
			}
		}
	}
	if a, b, c := fmt.Sprint(indexes[0]), fmt.Sprint(indexes[1]), fmt.Sprint(indexes[2]); a != b || b != c {
		t.Errorf("the nodes tell other indexes:\n%s\n%s\n%s", a, b, c)
	}

	// Each value once, and read as soon as it is told.
	for i := range 30 {
		key := fmt.Sprint("once", i)
		insert("w", key, "v")
		for n, w := range watches {
			if e, ok := w.event().(client.Changed); !ok || e.Key != key {
				t.Fatalf("node %d tells %+v, want the change of %s", n, e, key)
			}
			if got := w.node.Do(ctx, &client.Op{Kind: client.KindGet, Cache: "w", Key: key}); !got.Refused && string(got.Value) != "v" {
				t.Errorf("node %d has told of %s and reads %+v", n, key, got)
			}
		}
	}

	follower := 0
	for nodes[follower].Health().GetState().GetLeader() != nil {
		follower++
	}
	w := watches[follower]
	if err := nodes[follower].Abandon(ctx); err != nil {
		t.Fatal(err)
	}
	if gap, ok := w.event().(client.Gap); !ok || gap.Reason != client.GapReset {
		t.Fatalf("a node that forgets its copy tells %+v", gap)
	}
	// It copies by the log or by a snapshot; either way what was written meanwhile is told, or in a Gap.
	out := once.Do(ctx, &client.Op{Kind: client.KindInsert, Cache: "w", Key: "k0"})
	if out.Err != nil {
		t.Fatal(out.Err)
	}
	for {
		switch e := w.event().(type) {
		case client.Changed:
			if e.Index == out.Index && e.Cluster == out.Cluster {
				return
			}
		case client.Gap:
			if e.To >= out.Index && e.Cluster == out.Cluster {
				return
			}
		}
	}
}

// A loop that watches in the node's program ends when its context does, also before the node was run; when the node stops,
// at its beginning to stop; and at once for a cache that cannot be. One that wants no more ends without a word. None is
// left that counts as one that watches.
func TestLocalWatchEnds(t *testing.T) {
	last := func(events iter.Seq2[client.Event, error]) (err error) {
		for event, e := range events {
			if err = e; (event == nil) == (e == nil) {
				t.Errorf("event %+v with error %v", event, e)
			}
		}
		return err
	}
	idle, err := node.New(node.Config{})
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancelCause(t.Context())
	because := errors.New("because")
	time.AfterFunc(10*time.Millisecond, func() { cancel(because) })
	if err := last(idle.Watch(over)); !errors.Is(err, because) {
		t.Errorf("before Run: %v", err)
	}
	run(t, idle)

	m := newMembers(t, 1, func(_ int, cfg *node.Config) { cfg.Caches, cfg.Strict = []node.Cache{{Name: "known"}}, true })
	n := m.nodes[0]
	refused, ok := errors.AsType[*client.WatchError](last(n.Watch(t.Context(), "known", "unknown")))
	if !ok || refused.Addr != m.hosts[0] || refused.Detail != `cache "unknown" is not configured` {
		t.Errorf("an unknown cache: %+v", refused)
	}
	if err := last(n.Watch(over)); !errors.Is(err, because) {
		t.Errorf("with a context that is over: %v", err)
	}
	for range n.Watch(t.Context()) {
		break
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(n.Collector())
	if got := gathered(t, reg)["watches{}"]; got != 0 {
		t.Errorf("%v watches are left", got)
	}
	ended := make(chan error, 1)
	began := make(chan struct{})
	go func() {
		ended <- last(func(yield func(client.Event, error) bool) {
			for event, err := range n.Watch(context.Background(), "known") {
				if _, gap := event.(client.Gap); gap {
					close(began)
				}
				if !yield(event, err) {
					return
				}
			}
		})
	}()
	<-began
	if got := gathered(t, reg)["watches{}"]; got != 1 {
		t.Errorf("%v watches, want 1", got)
	}
	m.stop(0)
	if err := <-ended; !errors.Is(err, client.ErrClosed) {
		t.Errorf("when the node stops: %v", err)
	}
	if err := last(n.Watch(t.Context())); !errors.Is(err, client.ErrClosed) {
		t.Errorf("after the node has stopped: %v", err)
	}
}

// A loop that is slow is told once that changes are missing, and what comes after that; it holds nobody up.
func TestLocalWatchSlowLoop(t *testing.T) {
	nodes, _ := startCluster(t, 1)
	n, ctx := nodes[0], t.Context()
	const changes = 140_000 // more than a node keeps
	slow := 0
	for event, err := range n.Watch(ctx, "w") {
		if err != nil {
			t.Fatal(err)
		}
		switch e := event.(type) {
		case client.Gap:
			if e.Reason == client.GapSlow {
				slow++
				if err := n.Insert(ctx, "w", "last", nil, client.LevelQuorum); err != nil {
					t.Fatal(err)
				}
				continue
			}
			for i := range changes { // Put waits for nothing but room
				for n.Put(ctx, "w", fmt.Sprint(i%100), nil) != nil {
				}
			}
			if err := n.Insert(ctx, "w", "end", nil, client.LevelQuorum); err != nil {
				t.Fatal(err)
			}
		case client.Changed:
			if e.Key == "last" {
				if slow != 1 {
					t.Errorf("%d gaps", slow)
				}
				return
			}
		}
	}
}

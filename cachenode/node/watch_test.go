package node_test

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/client"
)

// watching is a watch of one node, with a connection to it.
type watching struct {
	t    *testing.T
	conn *client.Conn
	next func() (client.Event, error, bool)
}

func watchNode(t *testing.T, ctx context.Context, addr string, caches ...string) *watching {
	t.Helper()
	cfg := client.Config{Addr: addr, Token: "secret"}
	conn, err := client.NewConn(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	next, stop := iter.Pull2(client.Watch(ctx, client.ClientConfig{Addrs: []string{addr}, Config: cfg}, caches...))
	t.Cleanup(stop)
	w := &watching{t, conn, next}
	if gap, ok := w.event().(client.Gap); !ok || gap.Reason != client.GapBegin {
		t.Fatalf("%s begins with %+v, want a Gap", addr, gap)
	}
	return w
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
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nodes, hosts := startCluster(t, 3)
	var watches []*watching
	for _, h := range hosts {
		watches = append(watches, watchNode(t, ctx, h, "w"))
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
			if got := w.conn.Do(ctx, &client.Op{Kind: client.KindGet, Cache: "w", Key: key}); !got.Refused && string(got.Value) != "v" {
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

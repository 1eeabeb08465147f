package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/node"
	"github.com/hacache/hacache/proto/cachepb"
)

// cache is what a program that uses either would ask for.
type cache interface {
	Do(ctx context.Context, op *client.Op) client.Outcome
	Get(ctx context.Context, cache, key string) (value []byte, found bool, err error)
	Put(ctx context.Context, cache, key string, value []byte) error
	Insert(ctx context.Context, cache, key string, value []byte, level client.Level) error
	Del(ctx context.Context, cache, key string) error
	Remove(ctx context.Context, cache, key string, level client.Level) error
}

var (
	_ cache = (*node.Node)(nil)
	_ cache = (*client.Client)(nil)
)

// Every operation at every level works at each node without a network, is seen there at once, and at the others by a
// linearizable read.
func TestLocalOperations(t *testing.T) {
	for _, size := range []int{1, 3} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			nodes, hosts := startCluster(t, size)
			ctx := t.Context()
			everywhere := func(key, want string, found bool) {
				t.Helper()
				for i, n := range nodes {
					o := n.Do(ctx, &client.Op{Kind: client.KindGet, Cache: "c", Key: key, ReadMode: cachepb.ReadTag_LINEARIZABLE})
					if o.Status != client.StatusOK || string(o.Value) != want || o.Found != found || o.Node != hosts[i] {
						t.Fatalf("%s at node %d: %s %v %q %v at %s", key, i, o.Status, o.Err, o.Value, o.Found, o.Node)
					}
				}
			}
			for i, n := range nodes {
				here := func(key, want string, found bool) {
					t.Helper()
					value, ok, err := n.Get(ctx, "c", key)
					if err != nil || string(value) != want || ok != found || found && value == nil {
						t.Fatalf("%s at node %d: %q %v %v", key, i, value, ok, err)
					}
					o := n.Do(ctx, &client.Op{Kind: client.KindGet, Cache: "c", Key: key, MaxStaleness: time.Hour})
					if o.Status != client.StatusOK || string(o.Value) != want || o.Found != found || o.Index == 0 || o.Cluster == 0 || o.Staleness > time.Second {
						t.Fatalf("%s at node %d: %+v", key, i, o)
					}
				}
				for _, level := range client.Levels {
					key := fmt.Sprint("key-", i, "-", level)
					here(key, "", false)
					if err := n.Insert(ctx, "c", key, []byte("v"), level); err != nil {
						t.Fatal(err)
					}
					here(key, "v", true)
					if err := n.Insert(ctx, "c", key, nil, level); err != nil {
						t.Fatal(err)
					}
					here(key, "", true)
					if err := n.Remove(ctx, "c", key, level); err != nil {
						t.Fatal(err)
					}
					here(key, "", false)
				}
				if err := n.Put(ctx, "c", "put", nil); err != nil {
					t.Fatal(err)
				}
				here("put", "", true)
				if err := n.Put(ctx, "c", "put", []byte("p")); err != nil {
					t.Fatal(err)
				}
				here("put", "p", true)
				if err := n.Del(ctx, "c", "put"); err != nil {
					t.Fatal(err)
				}
				here("put", "", false)
				if err := n.Insert(ctx, "c", "all", []byte(hosts[i]), client.LevelQuorum); err != nil {
					t.Fatal(err)
				}
				everywhere("all", hosts[i], true)
				if err := n.Remove(ctx, "c", "all", client.LevelQuorum); err != nil {
					t.Fatal(err)
				}
				everywhere("all", "", false)
			}
		})
	}
}

// What is handed in and what is returned is the caller's, who may do with it what it likes.
func TestLocalOwnership(t *testing.T) {
	nodes, _ := startCluster(t, 1)
	n, ctx := nodes[0], t.Context()
	value := []byte("value")
	for _, write := range []func() error{
		func() error { return n.Put(ctx, "c", "k", value) },
		func() error { return n.Insert(ctx, "c", "k", value, client.LevelQuorum) },
	} {
		copy(value, "value")
		if err := write(); err != nil {
			t.Fatal(err)
		}
		copy(value, "XXXXX")
		for _, read := range []func() []byte{
			func() []byte { got, _, _ := n.Get(ctx, "c", "k"); return got },
			func() []byte { got, _, _ := n.AppendGet(ctx, nil, "c", "k"); return got },
			func() []byte { return n.Do(ctx, &client.Op{Kind: client.KindGet, Cache: "c", Key: "k"}).Value },
			func() []byte {
				return n.Do(ctx, &client.Op{Kind: client.KindGet, Cache: "c", Key: "k", ReadMode: cachepb.ReadTag_LINEARIZABLE}).Value
			},
		} {
			for range 2 {
				got := read()
				if string(got) != "value" {
					t.Fatalf("got %q", got)
				}
				copy(got, "YYYYY")
			}
		}
	}
	if got, found, err := n.AppendGet(ctx, []byte("and "), "c", "k"); string(got) != "and value" || !found || err != nil {
		t.Errorf("%q %v %v", got, found, err)
	}
	if got, found, err := n.AppendGet(ctx, []byte("and "), "c", "none"); string(got) != "and " || found || err != nil {
		t.Errorf("%q %v %v", got, found, err)
	}
}

// A read of the node's own copy costs nothing but the copy of the value.
func TestLocalReadAllocatesNothing(t *testing.T) {
	nodes, _ := startCluster(t, 1)
	n, ctx := nodes[0], t.Context()
	if err := n.Insert(ctx, "c", "k", bytes.Repeat([]byte("v"), 100), client.LevelQuorum); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 0, 128)
	if got := testing.AllocsPerRun(1000, func() { buf, _, _ = n.AppendGet(ctx, buf[:0], "c", "k") }); got >= 1 {
		t.Errorf("AppendGet: %v allocations", got)
	}
	if got := testing.AllocsPerRun(1000, func() { n.Get(ctx, "c", "k") }); got >= 2 {
		t.Errorf("Get: %v allocations", got)
	}
}

// What cannot be done is told by the types of package client: a mistake, a time that is over, a node that is cut off.
func TestLocalRefusals(t *testing.T) {
	nodes, hosts := startCluster(t, 1, func(_ int, cfg *node.Config) { cfg.MaxValueBytes = 10 })
	n := nodes[0]
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx  context.Context
		op   client.Op
		code cachepb.Code
		is   error
	}{
		"key that is not UTF-8": {t.Context(), client.Op{Kind: client.KindInsert, Cache: "c", Key: "\xff"}, cachepb.Code_INVALID, nil},
		"unknown kind":          {t.Context(), client.Op{Kind: 9, Cache: "c"}, cachepb.Code_INVALID, nil},
		"no cache":              {t.Context(), client.Op{Kind: client.KindPut, Key: "k"}, cachepb.Code_INVALID, nil},
		"large value":           {t.Context(), client.Op{Kind: client.KindPut, Cache: "c", Value: make([]byte, 11)}, cachepb.Code_TOO_LARGE, nil},
		"huge value":            {t.Context(), client.Op{Kind: client.KindPut, Cache: "c", Value: make([]byte, 5<<20)}, cachepb.Code_TOO_LARGE, nil},
		"context that is over":  {over, client.Op{Kind: client.KindInsert, Cache: "c"}, cachepb.Code_OK, context.Canceled},
		"read with it":          {over, client.Op{Kind: client.KindGet, Cache: "c"}, cachepb.Code_OK, context.Canceled},
		"unknown session":       {t.Context(), client.Op{Kind: client.KindInsert, Cache: "c", Session: 7, Seq: 7}, cachepb.Code_SESSION_EXPIRED, nil},
	} {
		o := n.Do(tc.ctx, &tc.op)
		refused, ok := errors.AsType[*client.OpError](o.Err)
		if o.Status != client.StatusFail || o.Code != tc.code || ok != (tc.is == nil) || tc.is != nil && !errors.Is(o.Err, tc.is) {
			t.Errorf("%s: %+v", name, o)
		}
		if ok && (refused.Code != tc.code || refused.Kind != tc.op.Kind || refused.Node != "" && refused.Node != hosts[0]) {
			t.Errorf("%s: %+v", name, refused)
		}
	}
	if _, _, err := n.Get(over, "c", "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("Get with a context that is over: %v", err)
	}
}

// A read that finds nothing says so if nothing can be there, as it does over a stream.
func TestLocalReadOfNoCache(t *testing.T) {
	nodes, hosts := startCluster(t, 1, func(_ int, cfg *node.Config) { cfg.Caches, cfg.Strict = []node.Cache{{Name: "known"}}, true })
	n, ctx := nodes[0], t.Context()
	conn, err := client.NewConn(client.Config{Addr: hosts[0], Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for cache, want := range map[string]cachepb.Code{"known": cachepb.Code_OK, "unknown": cachepb.Code_UNKNOWN_CACHE, "": cachepb.Code_INVALID} {
		_, found, err := n.Get(ctx, cache, "k")
		refused, _ := errors.AsType[*client.OpError](err)
		if found || (refused == nil) != (want == cachepb.Code_OK) || refused != nil && refused.Code != want {
			t.Errorf("Get of %q: %v %v, want %v", cache, found, err, want)
		}
		op := &client.Op{Kind: client.KindGet, Cache: cache, Key: "k"}
		if here, there := n.Do(ctx, op), conn.Do(ctx, op); here.Code != want || here.Status != there.Status || here.Code != there.Code || here.Detail != there.Detail {
			t.Errorf("Do of %q: %+v here, %+v over a stream", cache, here, there)
		}
	}
}

// A node without the others refuses reads once its copy may be old, and writes within their deadline: definitely, since
// nobody took them.
func TestLocalCutOff(t *testing.T) {
	m := newMembers(t, 3)
	m.stop(1)
	m.stop(2)
	n, ctx := m.nodes[0], t.Context()
	read := &client.Op{Kind: client.KindGet, Cache: "c", Key: "k"}
	for ; n.Do(ctx, read).Status == client.StatusOK; time.Sleep(time.Millisecond) {
	}
	o := n.Do(ctx, read)
	if refused, ok := errors.AsType[*client.OpError](o.Err); !ok || o.Status != client.StatusFail || !o.Refused || refused.Code != cachepb.Code_NOT_FRESH {
		t.Errorf("read: %+v", o)
	}
	if _, _, err := n.Get(ctx, "c", "k"); err == nil || err.Error() != o.Err.Error() {
		t.Errorf("Get says %v, Do says %v", err, o.Err)
	}
	// The node answers a little before the caller gives up. On a machine that stands still just then the outcome is unknown,
	// rightly, so it may take more than one try to see the refusal.
	for range 5 {
		if o = n.Do(ctx, &client.Op{Kind: client.KindInsert, Cache: "c", Key: "k", Deadline: time.Second}); o.Status != client.StatusInfo {
			break
		}
	}
	if o.Status != client.StatusFail || !client.Definite(o.Code) {
		t.Errorf("write: %+v", o)
	}
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := n.Insert(short, "c", "k", nil, client.LevelQuorum); err == nil {
		t.Error("a write with a context was acknowledged")
	}
}

// While a node is stopped under load, every write of the program itself is answered: ok, or refused because the node
// stops. What was acknowledged is at the others.
func TestLocalStop(t *testing.T) {
	for leads := range 2 {
		t.Run([]string{"follower", "leader"}[leads], func(t *testing.T) {
			m := newMembers(t, 3)
			at := (m.leader() + 1 - leads) % 3
			n := m.nodes[at]
			var mu sync.Mutex
			var acked []string
			var all sync.WaitGroup
			started := make(chan struct{}, 8)
			for w := range 8 {
				all.Go(func() {
					for i := 0; ; i++ {
						key := strconv.Itoa(w) + "-" + strconv.Itoa(i)
						o := n.Do(context.Background(), &client.Op{Kind: client.KindInsert, Cache: "c", Key: key, Value: []byte(key)})
						switch {
						case o.Status == client.StatusOK:
							mu.Lock()
							acked = append(acked, key)
							mu.Unlock()
						case o.Status == client.StatusFail && o.Code == cachepb.Code_SHUTTING_DOWN:
							return
						default:
							t.Errorf("%s: %s %v", key, o.Status, o.Err)
							return
						}
						if i == 10 {
							started <- struct{}{}
						}
					}
				})
			}
			for range 8 {
				<-started
			}
			m.stop(at)
			all.Wait()
			if _, _, err := n.Get(t.Context(), "c", "0-0"); err == nil {
				t.Error("a node that has stopped still answers")
			}
			if err := n.Put(t.Context(), "c", "k", nil); err == nil {
				t.Error("a node that has stopped still takes writes")
			}
			other := m.nodes[(at+1)%3]
			for _, key := range acked {
				o := other.Do(t.Context(), &client.Op{Kind: client.KindGet, Cache: "c", Key: key, ReadMode: cachepb.ReadTag_LINEARIZABLE})
				if string(o.Value) != key {
					t.Fatalf("%s was acknowledged, and is not there: %s %v", key, o.Status, o.Err)
				}
			}
			if len(acked) < 80 {
				t.Errorf("only %d writes", len(acked))
			}
		})
	}
}

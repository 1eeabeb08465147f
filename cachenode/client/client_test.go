package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/client/clienttest"
	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/proto/cachepb"
)

// nodes is a set of scripted nodes by address.
type nodes map[string]*clienttest.Server

func (n nodes) dial(ctx context.Context, addr string) (net.Conn, error) {
	srv, ok := n[addr]
	if !ok {
		return nil, &net.AddrError{Err: "no such node", Addr: addr}
	}
	return srv.Dial(ctx, addr)
}

// The Client goes where the leader is: as the greeting says, as a refusal says,
// and to the next one when the leader is gone. What is unknown is not repeated.
func TestClientFollowsLeader(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		leader := "a:1"
		seen := map[string]int{}
		eat := false
		n := nodes{}
		for _, addr := range []string{"a:1", "b:1", "c:1"} {
			srv := &clienttest.Server{Greeting: &cachepb.LeaderInfo{Addr: &leader, Term: 1}}
			store := new(clienttest.Store)
			srv.Handle = func(s *clienttest.Stream, req *cachepb.CacheRequest) {
				seen[addr]++
				switch {
				case eat:
					s.Break(codes.Unavailable, "scripted")
				case leader != addr:
					s.Send(clienttest.Answer(req, &cachepb.Outcome{
						Code: cachepb.Code_NOT_LEADER, Leader: "http://" + leader, Term: 2,
					}))
				default:
					store.Handle(s, req)
				}
			}
			srv.Start()
			defer srv.Stop()
			n[addr] = srv
		}
		c, err := client.New(client.ClientConfig{
			Addrs: []string{"c:1", "b:1"}, Config: client.Config{Dialer: n.dial},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		time.Sleep(time.Second) // the greeting leads to a:1, which was not in the list
		if err := c.Insert(t.Context(), "x", "k", []byte("v"), client.LevelQuorum); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(seen) != "map[a:1:1]" || c.Leader() != "a:1" {
			t.Errorf("seen %v, leader %q", seen, c.Leader())
		}

		leader = "b:1"
		if err := c.Insert(t.Context(), "x", "k", []byte("w"), client.LevelQuorum); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(seen) != "map[a:1:2 b:1:1]" || c.Leader() != "b:1" {
			t.Errorf("after NOT_LEADER: seen %v, leader %q", seen, c.Leader())
		}

		n["b:1"].Stop()
		synctest.Wait() // an operation that is on its way meanwhile would be unknown
		leader = "c:1"
		begin := time.Now()
		if err := c.Insert(t.Context(), "x", "k", []byte("w"), client.LevelQuorum); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("took %s to find the new leader", took)
		}

		clear(seen)
		eat = true
		o := c.Do(t.Context(), insert("k", "v"))
		if sends := seen["a:1"] + seen["c:1"]; o.Status != client.StatusInfo || sends != 1 {
			t.Errorf("broken in flight: %s after %d sends, want info after one", o.Status, sends)
		}
	})
}

// A node alone that listens on all interfaces says that the leader is at an address without a host: that is the node itself,
// by the address at which it was found, and not whatever has the same port on the client's own machine.
func TestClientOfNamelessLeader(t *testing.T) {
	for _, identity := range []string{":7070", "0.0.0.0:7070", "[::]:7070", "http://0.0.0.0:7070"} {
		bubble.Test(t, func(t *testing.T) {
			own, there := &clienttest.Server{}, &clienttest.Server{Greeting: &cachepb.LeaderInfo{Addr: &identity, Term: 1}}
			own.Handle = func(*clienttest.Stream, *cachepb.CacheRequest) {
				t.Errorf("%s: the client writes to somebody else", identity)
			}
			there.Handle = new(clienttest.Store).Handle
			n := nodes{"a:7070": there, identity: own, ":7070": own, "0.0.0.0:7070": own, "[::]:7070": own}
			for _, srv := range []*clienttest.Server{own, there} {
				srv.Start()
				defer srv.Stop()
			}
			c, err := client.New(client.ClientConfig{Addrs: []string{"a:7070"}, Config: client.Config{Dialer: n.dial}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			time.Sleep(time.Second)
			if err := c.Insert(t.Context(), "x", "k", []byte("v"), client.LevelQuorum); err != nil {
				t.Error(err)
			}
			if got := c.Stats().Conns; c.Leader() != "a:7070" || got != 1 {
				t.Errorf("%s: follows %q over %d connections", identity, c.Leader(), got)
			}
		})
	}
}

// Invalid operations are not repeated, nobody there is an error in time, and a
// wrong token is told as such.
func TestClientGivesUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		count := 0
		srv := &clienttest.Server{Token: "right", Handle: func(s *clienttest.Stream, req *cachepb.CacheRequest) {
			count++
			s.Send(clienttest.Answer(req, &cachepb.Outcome{Code: cachepb.Code_INVALID}))
		}}
		srv.Start()
		defer srv.Stop()
		for _, tc := range []struct {
			token, addr, want string
			within            time.Duration
		}{
			{"right", "a:1", "INVALID", 100 * time.Millisecond},
			{"wrong", "a:1", "refused the credentials", 100 * time.Millisecond},
			{"right", "nobody:1", "no such node", 10 * time.Second},
		} {
			c, err := client.New(client.ClientConfig{
				Addrs: []string{tc.addr}, Config: client.Config{Dialer: nodes{"a:1": srv}.dial, Token: tc.token},
			})
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			err = c.Put(t.Context(), "x", "k", nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) || time.Since(begin) > tc.within {
				t.Errorf("%+v: got %v after %s", tc, err, time.Since(begin))
			}
			c.Close()
			if err := c.Put(t.Context(), "x", "k", nil); !errors.Is(err, client.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
		if count != 1 {
			t.Errorf("an invalid operation was sent %d times", count)
		}
	})
}

// cluster is scripted nodes that share a store; handle, if set, is asked first and reports whether it has dealt with the
// request.
type cluster struct {
	store  clienttest.Store
	handle func(addr string, s *clienttest.Stream, req *cachepb.CacheRequest) bool
	nodes  nodes
}

func newCluster(t *testing.T, addrs ...string) *cluster {
	c := &cluster{nodes: nodes{}}
	for _, addr := range addrs {
		srv := &clienttest.Server{Handle: func(s *clienttest.Stream, req *cachepb.CacheRequest) {
			if c.handle == nil || !c.handle(addr, s, req) {
				c.store.Handle(s, req)
			}
		}}
		srv.Start()
		t.Cleanup(srv.Stop)
		c.nodes[addr] = srv
	}
	return c
}

func (c *cluster) client(t *testing.T, cfg client.Config, addrs ...string) *client.Client {
	t.Helper()
	cfg.Dialer = c.nodes.dial
	cl, err := client.New(client.ClientConfig{Addrs: addrs, Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	return cl
}

// A refusal speaks of the attempt that it answers. When an earlier attempt may have taken effect, the operation may have.
func TestRefusalDoesNotTakeBackAnAttempt(t *testing.T) {
	for _, code := range []cachepb.Code{cachepb.Code_SESSION_EXPIRED, cachepb.Code_NO_LEADER, cachepb.Code_INVALID} {
		bubble.Test(t, func(t *testing.T) {
			n := newCluster(t, "a:1", "b:1")
			sends := 0
			n.handle = func(addr string, s *clienttest.Stream, req *cachepb.CacheRequest) bool {
				if sends++; sends == 1 {
					n.store.Apply(req)
					s.Break(codes.Unavailable, "the answer is lost")
					return true
				}
				s.Send(clienttest.Answer(req, &cachepb.Outcome{Code: code}))
				return true
			}
			c := n.client(t, client.Config{}, "a:1", "b:1")
			op := insert("k", "v")
			op.Session, op.Seq, op.Deadline = 7, 1, time.Second
			if o := c.Do(t.Context(), op); o.Status != client.StatusInfo || sends < 2 {
				t.Errorf("%s after an attempt that took effect: %s %v after %d sends, want info", code, o.Status, o.Err, sends)
			}
		})
	}
}

// All nodes forgot everything and formed a new cluster, whose terms begin at 1 again: its leader is the leader.
func TestFollowsANewCluster(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newCluster(t, "a:1", "b:1")
		for addr, srv := range n.nodes {
			srv.Greeting = &cachepb.LeaderInfo{Addr: new("a:1"), Cluster: 11, Term: 40}
			_ = addr
		}
		c := n.client(t, client.Config{}, "a:1", "b:1")
		synctest.Wait()
		for _, srv := range n.nodes {
			srv.Stop()
			srv.Greeting = &cachepb.LeaderInfo{Addr: new("b:1"), Cluster: 12, Term: 1}
			srv.Start()
		}
		time.Sleep(time.Second)
		if got := c.Leader(); got != "b:1" {
			t.Errorf("leader %q, want b:1 of the new cluster", got)
		}
	})
}

// What a refusal is about decides who is asked next: a mistake of the caller does not make the Client leave the leader, a
// leader that cannot lead is left alone for a moment, and asked again after it.
func TestLeaderRests(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newCluster(t, "a:1", "b:1", "c:1")
		for _, srv := range n.nodes {
			srv.Announce(&cachepb.LeaderInfo{Addr: new("b:1"), Term: 1})
		}
		var seen []string
		code, spare := cachepb.Code_OK, ""
		n.handle = func(addr string, s *clienttest.Stream, req *cachepb.CacheRequest) bool {
			seen = append(seen, addr)
			if (addr == "b:1" || addr == spare) && code != cachepb.Code_OK {
				s.Send(clienttest.Answer(req, &cachepb.Outcome{Code: code}))
				return true
			}
			return false
		}
		c := n.client(t, client.Config{}, "a:1", "b:1", "c:1")
		time.Sleep(time.Second)
		write := func() client.Outcome { return c.Do(t.Context(), insert("k", "v")) }

		for _, code = range []cachepb.Code{cachepb.Code_INVALID, cachepb.Code_TOO_LARGE, cachepb.Code_UNKNOWN_CACHE, cachepb.Code_OK} {
			if write(); seen[len(seen)-1] != "b:1" {
				t.Errorf("%s: sent to %v", code, seen)
			}
		}
		seen, code = nil, cachepb.Code_NO_QUORUM
		for range 4 {
			if o := write(); o.Status != client.StatusOK {
				t.Errorf("%v", o.Err)
			}
		}
		if len(seen) != 5 || seen[0] != "b:1" || seen[1] == "b:1" || len(slices.Compact(seen[1:])) != 1 {
			t.Fatalf("after NO_QUORUM: sent to %v, want b:1 once and then one of the others, which gives back what was written through it", seen)
		}
		spare = seen[1]
		seen = nil
		if o := write(); o.Status != client.StatusOK || len(seen) != 2 || seen[0] != spare || seen[1] == "b:1" || seen[1] == spare {
			t.Errorf("%v: sent to %v, want %s and then the third", o.Err, seen, spare)
		}
		spare = ""
		seen, code = nil, cachepb.Code_OK
		time.Sleep(time.Second)
		if write(); fmt.Sprint(seen) != "[b:1]" || c.Leader() != "b:1" {
			t.Errorf("a second later: sent to %v, leader %q", seen, c.Leader())
		}
	})
}

// A node that hangs does not take a read with it: it gets a part of the time, then another node is asked. A write that may
// not be repeated waits, and is unknown.
func TestHangingNode(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newCluster(t, "a:1", "b:1")
		n.store.Set("c", "k", []byte("v"))
		n.handle = func(addr string, s *clienttest.Stream, req *cachepb.CacheRequest) bool { return addr == "a:1" }
		for _, srv := range n.nodes {
			srv.Announce(&cachepb.LeaderInfo{Addr: new("a:1"), Term: 1})
		}
		c := n.client(t, client.Config{Timeout: 3 * time.Second}, "a:1", "b:1")
		time.Sleep(time.Second)
		begin := time.Now()
		if o := c.Do(t.Context(), get("k")); string(o.Value) != "v" || time.Since(begin) > 1100*time.Millisecond {
			t.Errorf("read: %s %v after %s", o.Status, o.Err, time.Since(begin))
		}
		time.Sleep(time.Second)
		begin = time.Now()
		if o := c.Do(t.Context(), insert("k", "w")); o.Status != client.StatusInfo || time.Since(begin) != 3*time.Second || !errors.Is(o.Err, client.ErrTimeout) {
			t.Errorf("write: %s %v after %s", o.Status, o.Err, time.Since(begin))
		}
		err := c.Insert(t.Context(), "c", "k", []byte("x"), client.LevelQuorum)
		if err != nil {
			t.Errorf("the next write, while the leader rests: %v", err)
		}
	})
}

// Nobody there is a definite failure, in time, that says why; nothing is sent once the time is over; and what was sent
// before everybody went is unknown.
func TestAllNodesDown(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newCluster(t, "a:1", "b:1")
		sent := 0
		n.handle = func(addr string, s *clienttest.Stream, req *cachepb.CacheRequest) bool { sent++; return true }
		c := n.client(t, client.Config{Timeout: 5 * time.Second}, "a:1", "b:1")
		synctest.Wait()

		var inFlight client.Outcome
		var open sync.WaitGroup
		open.Go(func() { inFlight = c.Do(t.Context(), insert("k", "v")) })
		synctest.Wait()
		n.nodes["a:1"].Stop()
		n.nodes["b:1"].Stop()
		open.Wait()
		synctest.Wait() // or what is sent next meets a stream that does not know of its end yet
		if inFlight.Status != client.StatusInfo || !errors.Is(inFlight.Err, client.ErrBroken) {
			t.Errorf("in flight: %s %v", inFlight.Status, inFlight.Err)
		}

		sent = 0
		begin := time.Now()
		o := c.Do(t.Context(), insert("k", "v"))
		_, down := errors.AsType[*client.DownError](o.Err)
		_, dial := errors.AsType[*net.OpError](o.Err)
		if o.Status != client.StatusFail || !errors.Is(o.Err, client.ErrTimeout) || !errors.Is(o.Err, context.DeadlineExceeded) || !down || !dial ||
			time.Since(begin) != 5*time.Second {
			t.Errorf("all down: %s %v after %s", o.Status, o.Err, time.Since(begin))
		}
		if err := c.Insert(t.Context(), "c", "k", nil, client.LevelQuorum); errors.Is(err, client.ErrUnknown) {
			t.Errorf("all down: %v", err)
		}

		n.nodes["a:1"].Start()
		time.Sleep(time.Second)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		for _, ctx := range []context.Context{over, expired(t)} {
			if o := c.Do(ctx, insert("k", "v")); o.Status != client.StatusFail || o.Err == nil || sent != 0 {
				t.Errorf("a context that is over: %s %v, %d sent", o.Status, o.Err, sent)
			}
		}
	})
}

func expired(t *testing.T) context.Context {
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	t.Cleanup(cancel)
	return ctx
}

// Whoever closes the Client ends what is in flight and what comes later, once or twice.
func TestCloseClient(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newCluster(t, "a:1")
		n.handle = func(string, *clienttest.Stream, *cachepb.CacheRequest) bool { return true }
		c := n.client(t, client.Config{}, "a:1")
		synctest.Wait()
		s := c.NewSession()
		outcomes := make(chan client.Outcome, 3)
		go func() { outcomes <- c.Do(t.Context(), insert("k", "v")) }()
		go func() { outcomes <- s.Do(t.Context(), insert("k", "v")) }()
		go func() { outcomes <- c.DoAll(t.Context(), []client.Op{*insert("k", "v")})[0] }()
		synctest.Wait()
		begin := time.Now()
		c.Close()
		c.Close()
		for range 3 {
			if o := <-outcomes; o.Status != client.StatusInfo || !errors.Is(o.Err, client.ErrClosed) {
				t.Errorf("in flight: %s %v", o.Status, o.Err)
			}
		}
		for _, o := range []client.Outcome{c.Do(t.Context(), get("k")), s.Do(t.Context(), insert("k", "v")), c.DoAll(t.Context(), []client.Op{*get("k")})[0]} {
			if o.Status != client.StatusFail || !errors.Is(o.Err, client.ErrClosed) {
				t.Errorf("afterwards: %s %v", o.Status, o.Err)
			}
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("took %s", took)
		}
	})
}

// Three thousand operations at once through a window of 64, while a node breaks, refuses and comes back: each has its own
// outcome, in its place and true; writes without a session are not repeated after they were sent; and it does not take a
// round trip for each.
func TestDoAll(t *testing.T) {
	for seed := range uint64(3) {
		bubble.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			n := newCluster(t, "a:1", "b:1")
			sends := map[string]int{}
			applied := map[string]int{}
			requests := 0
			var mu sync.Mutex
			n.handle = func(_ string, s *clienttest.Stream, req *cachepb.CacheRequest) bool {
				mu.Lock()
				defer mu.Unlock()
				key := req.GetInsert().GetEntry() + req.GetGet().GetEntry()
				sends[key]++
				requests++
				switch fate := rng.IntN(1000); {
				case requests%900 == 0:
					s.Break(codes.Unavailable, "scripted")
					return true
				case fate < 20:
					s.Send(clienttest.Answer(req, &cachepb.Outcome{Code: cachepb.Code_OVERLOADED}))
					sends[key]--
					return true
				case fate < 30:
					s.Send(clienttest.Answer(req, &cachepb.Outcome{Code: cachepb.Code_INVALID}))
					return true
				}
				applied[key]++
				s.After(10*time.Millisecond, n.store.Apply(req))
				return true
			}
			c := n.client(t, client.Config{Window: 64, Batch: true}, "a:1", "b:1")
			const total = 3000
			ops := make([]client.Op, total)
			for i := range ops {
				key := strconv.Itoa(i)
				if i%3 == 0 {
					n.store.Set("c", key, []byte(key))
					ops[i] = *get(key)
				} else {
					ops[i] = *insert(key, key)
				}
			}
			begin := time.Now()
			outcomes := c.DoAll(t.Context(), ops)
			took := time.Since(begin)
			count := map[client.Status]int{}
			for i, o := range outcomes {
				key := strconv.Itoa(i)
				count[o.Status]++
				switch refused, _ := errors.AsType[*client.OpError](o.Err); {
				case o.Status == client.StatusOK && applied[key] == 0, o.Status == client.StatusFail && applied[key] > 0 && i%3 != 0:
					t.Errorf("seed %d: %d: %s %v, took effect %d times", seed, i, o.Status, o.Err, applied[key])
				case o.Status == client.StatusOK && i%3 == 0 && string(o.Value) != key:
					t.Errorf("seed %d: %d: value %q", seed, i, o.Value)
				case o.Status == client.StatusFail && (refused == nil || refused.Code != cachepb.Code_INVALID):
					t.Errorf("seed %d: %d: %v", seed, i, o.Err)
				case i%3 != 0 && sends[key] > 1:
					t.Errorf("seed %d: %d: a write was sent %d times", seed, i, sends[key])
				}
			}
			if count[client.StatusOK] < total*9/10 || count[client.StatusInfo] == 0 || count[client.StatusFail] == 0 {
				t.Errorf("seed %d: %v", seed, count)
			}
			if serial := total * 10 * time.Millisecond; took > serial/5 {
				t.Errorf("seed %d: took %s, one after the other it is %s", seed, took, serial)
			}
		})
	}
}

// Everything at once from everywhere, while nodes break and the leader moves, and the Client is closed in the middle of it:
// for the race detector, and every call returns.
func TestConcurrentUse(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newCluster(t, "a:1", "b:1", "c:1")
		addrs := []string{"a:1", "b:1", "c:1"}
		c := n.client(t, client.Config{Window: 16, Batch: true, Timeout: time.Second}, addrs...)
		s := c.NewSession()
		stop := make(chan struct{})
		var all sync.WaitGroup
		forever := func(f func(i int)) {
			all.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					f(i)
					time.Sleep(5 * time.Millisecond)
				}
			})
		}
		ok := make([]int, 12)
		for w := range 12 {
			forever(func(i int) {
				var err error
				switch key := strconv.Itoa(i); w % 4 {
				case 0:
					err = c.Insert(t.Context(), "c", key, nil, client.LevelQuorum)
				case 1:
					_, _, err = c.Get(t.Context(), "c", key)
				case 2:
					err = s.Insert(t.Context(), "c", key, nil, client.LevelQuorum)
				case 3:
					err = c.DoAll(t.Context(), []client.Op{*get(key), *insert(key, "v"), *get(key)})[1].Err
				}
				if err == nil {
					ok[w]++
				}
			})
		}
		forever(func(i int) {
			n.nodes[addrs[i%3]].Announce(&cachepb.LeaderInfo{Addr: &addrs[i%3], Term: uint64(i)})
			c.Stats()
			c.Leader()
		})
		forever(func(i int) {
			time.Sleep(50 * time.Millisecond)
			srv := n.nodes[addrs[i%3]]
			srv.Stop()
			time.Sleep(10 * time.Millisecond)
			srv.Start()
		})
		time.Sleep(500 * time.Millisecond)
		c.Close()
		time.Sleep(100 * time.Millisecond)
		close(stop)
		all.Wait()
		for w, times := range ok {
			if times < 20 {
				t.Errorf("caller %d: only %d calls went well in half a second", w, times)
			}
		}
	})
}

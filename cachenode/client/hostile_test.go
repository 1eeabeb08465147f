package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/client/clienttest"
	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/proto/cachepb"
)

// Answers with ids that are wrong, old, not due yet, of another kind, badly written or missing, and answers that come twice:
// each operation still gets its own answer or none, and the rest is counted.
func TestHostileAnswers(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 5))
		ids := []string{"1"} // of what has been answered
		srv := &clienttest.Server{}
		srv.Handle = func(s *clienttest.Stream, req *cachepb.CacheRequest) {
			id := clienttest.ID(req)
			n, _ := strconv.ParseUint(id, 16, 64)
			for range rng.IntN(6) {
				wrong := []string{
					"", "x", "0", "-1", strings.ToUpper(id) + "G", id + "0000000000000000", ids[rng.IntN(len(ids))],
					strconv.FormatUint(n+1<<10+rng.Uint64N(1<<12), 16), strconv.FormatUint(rng.Uint64(), 16),
				}[rng.IntN(9)]
				if wrong == id {
					continue
				}
				yes := true
				s.Send([]*cachepb.Ack{
					{},
					{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{ReqId: &wrong, ModRes: &yes}}},
					{Method: &cachepb.Ack_DelAck{DelAck: &cachepb.DelAck{ModRes: &yes}}},
					{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{CacheName: "c", Entry: "other", ReqId: wrong, Value: []byte("wrong")}}},
					{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{Value: []byte("wrong")}}},
					{Method: &cachepb.Ack_Error{Error: &cachepb.Error{Error: "wrong", ReqId: wrong}}},
					{Method: &cachepb.Ack_Error{}},
					{Method: &cachepb.Ack_MgmtAck{MgmtAck: &cachepb.MgmtAck{Method: &cachepb.MgmtAck_Pong{Pong: &cachepb.Pong{}}}}},
					{Method: &cachepb.Ack_MgmtAck{MgmtAck: &cachepb.MgmtAck{}}},
					{Method: &cachepb.Ack_ReplicateAck{ReplicateAck: &cachepb.ReplicateAck{}}},
				}[rng.IntN(10)])
			}
			answer := clienttest.Answer(req, &cachepb.Outcome{Index: n})
			if get := req.GetGet(); get != nil {
				// The other kind of ack must not end it.
				s.Send(&cachepb.Ack{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{ReqId: &id}}})
				answer.GetGetAck().Value = []byte(get.Entry)
			} else {
				s.Send(&cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{CacheName: "c", Entry: "k", ReqId: id, Value: []byte("wrong")}}})
			}
			for range rng.IntN(3) {
				s.Send(answer)
				ids = append(ids, id)
			}
		}
		withServer(t, srv, client.Config{Timeout: time.Second, Window: 16}, func(t *testing.T, c *client.Conn) {
			const total = 300
			ended := make([]int, total)
			left := make(chan struct{}, total)
			answered := 0
			for i := range total {
				op := get("k" + strconv.Itoa(i))
				if i%2 == 0 {
					op = insert("k"+strconv.Itoa(i), "v")
				}
				for {
					err := c.Start(op, func(o client.Outcome) {
						ended[i]++
						left <- struct{}{}
						switch {
						case o.Status == client.StatusOK && i%2 == 1 && string(o.Value) != op.Key:
							t.Errorf("seed %d: read of %s got %q", seed, op.Key, o.Value)
						case o.Status == client.StatusOK:
							answered++
						case !errors.Is(o.Err, client.ErrTimeout):
							t.Errorf("seed %d: %s %v", seed, o.Status, o.Err)
						}
					})
					if err == nil {
						break
					}
					if err := c.Wait(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			for range total {
				<-left
			}
			synctest.Wait()
			for i, times := range ended {
				if times != 1 {
					t.Errorf("seed %d: operation %d ended %d times", seed, i, times)
				}
			}
			if st := c.Stats(); st.Connects != 1 || st.Late == 0 || st.Unmatched == 0 || answered < total/3 {
				t.Errorf("seed %d: %+v, %d answered", seed, st, answered)
			}
		})
	}
}

// A node that lets everybody in and then ends the stream, by a status, by garbage, by a message too large or with too many
// answers in it, is not asked again at once for ever; and it costs no more than the message.
func TestHostileStreams(t *testing.T) {
	many := &cachepb.Acks{}
	for range 1 << 17 {
		many.Items = append(many.Items, &cachepb.Ack{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{}}})
	}
	huge := &cachepb.GetAck{CacheName: "c", Entry: "k", Value: make([]byte, 17<<20)}
	for name, greet := range map[string]func(s *clienttest.Stream){
		"status":  func(s *clienttest.Stream) { s.Break(codes.Unavailable, "go away") },
		"nested":  func(s *clienttest.Stream) { s.Send(batch(batch(&cachepb.Ack{}))) },
		"huge":    func(s *clienttest.Stream) { s.Send(&cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: huge}}) },
		"many":    func(s *clienttest.Stream) { s.Send(&cachepb.Ack{Method: &cachepb.Ack_Batch{Batch: many}}) },
		"nothing": nil,
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				srv := &clienttest.Server{Silent: greet == nil, Greeted: greet}
				srv.Start()
				defer srv.Stop()
				var dials atomic.Int32
				c, err := client.NewConn(client.Config{Addr: "node:1", Dialer: func(ctx context.Context, addr string) (net.Conn, error) {
					dials.Add(1)
					return srv.Dial(ctx, addr)
				}})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				time.Sleep(10 * time.Second)
				if n := dials.Load(); n < 4 || n > 100 {
					t.Errorf("%d dials in ten seconds, want one every 250 ms at most, once it has shown what it is", n)
				}
				op := insert("k", "v")
				op.Deadline = time.Second
				if o := c.Do(t.Context(), op); o.Status == client.StatusOK || o.Err == nil {
					t.Errorf("got %s %v", o.Status, o.Err)
				}
			})
		})
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	bubble.Test(t, func(t *testing.T) {
		srv := &clienttest.Server{Greeted: func(s *clienttest.Stream) {
			s.Send(&cachepb.Ack{Method: &cachepb.Ack_Batch{Batch: many}})
		}}
		srv.Start()
		defer srv.Stop()
		c, err := client.NewConn(client.Config{Addr: "node:1", Dialer: srv.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		synctest.Wait()
		runtime.ReadMemStats(&after)
	})
	if cost := (after.TotalAlloc - before.TotalAlloc) >> 20; cost > 32 {
		t.Errorf("a message of half a MiB cost %d MiB", cost)
	}
}

func batch(items ...*cachepb.Ack) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_Batch{Batch: &cachepb.Acks{Items: items}}}
}

// A node that answers writes but never a read, without ids as in the original protocol: the reads keep their places in the
// order, but not for ever.
func TestUnansweredReadsDoNotFillTheWindow(t *testing.T) {
	store := &clienttest.Store{Original: true}
	srv := &clienttest.Server{Handle: func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		if req.GetGet() == nil {
			store.Handle(s, req)
		}
	}}
	withServer(t, srv, client.Config{Window: 8, Timeout: time.Second}, func(t *testing.T, c *client.Conn) {
		for i := range 8 {
			if o := c.Do(t.Context(), get(strconv.Itoa(i))); o.Status != client.StatusFail {
				t.Fatalf("%s %v", o.Status, o.Err)
			}
		}
		begin := time.Now()
		var o client.Outcome
		for time.Since(begin) < time.Minute {
			if o = c.Do(t.Context(), insert("k", "v")); o.Status == client.StatusOK {
				break
			}
		}
		if took := time.Since(begin); o.Status != client.StatusOK || took > 20*time.Second {
			t.Errorf("%s %v after %s", o.Status, o.Err, took)
		}
	})
}

// Requests for signs of life that nobody answers give a connection away that died without a word, as operations do.
func TestSilenceOfManagement(t *testing.T) {
	srv := &clienttest.Server{Handle: func(*clienttest.Stream, *cachepb.CacheRequest) {}}
	withServer(t, srv, client.Config{Silence: 10 * time.Second}, func(t *testing.T, c *client.Conn) {
		begin := time.Now()
		for c.Stats().Connects == 1 && time.Since(begin) < time.Minute {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := c.Health(ctx); err == nil {
				t.Error("answered")
			}
			cancel()
		}
		if took := time.Since(begin); took > 13*time.Second {
			t.Errorf("given up after %s", took)
		}
	})
}

// News of a thousand leaders, and of leaders at no address at all, leave a bounded number of connections, and the Client
// working.
func TestHostileNews(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newCluster(t, "a:1")
		n.nodes["a:1"].Greeting = &cachepb.LeaderInfo{Addr: new("a:1"), Term: 1}
		c := n.client(t, client.Config{}, "a:1")
		synctest.Wait()
		for i := range 1000 {
			for _, addr := range []string{fmt.Sprintf("http://host%d:1", i), ":::", "http://", "nowhere", "a:1:1", "\x00:1", " "} {
				n.nodes["a:1"].Announce(&cachepb.LeaderInfo{Addr: &addr, Term: uint64(2 + i)})
			}
			synctest.Wait()
			if i%100 == 0 {
				time.Sleep(time.Second) // the dials fail
			}
		}
		st := c.Stats()
		if st.Conns > 32 || st.Leaders < 100 {
			t.Errorf("%+v", st)
		}
		if err := c.Insert(t.Context(), "c", "k", nil, client.LevelQuorum); err != nil {
			t.Error(err)
		}
	})
}

// Credentials that are refused are told at once, and tried again now and then: a node may have been started with the wrong
// token, and be put right.
func TestTokenIsPutRight(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		wrong, right := &clienttest.Server{Token: "new"}, &clienttest.Server{Token: "old"}
		wrong.Start()
		defer wrong.Stop()
		right.Start()
		defer right.Stop()
		var node atomic.Pointer[clienttest.Server]
		node.Store(wrong)
		c, err := client.New(client.ClientConfig{Addrs: []string{"node:1"}, Config: client.Config{
			Token: "old", Dialer: func(ctx context.Context, addr string) (net.Conn, error) { return node.Load().Dial(ctx, addr) },
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		begin := time.Now()
		err = c.Put(t.Context(), "c", "k", nil)
		if _, refused := errors.AsType[*client.AuthError](err); !refused || time.Since(begin) > 0 {
			t.Errorf("got %v after %s", err, time.Since(begin))
		}
		time.Sleep(10 * time.Minute)
		node.Store(right)
		time.Sleep(10 * time.Second)
		if err := c.Put(t.Context(), "c", "k", nil); err != nil {
			t.Error(err)
		}
	})
}

package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
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

// withServer runs f in virtual time against a scripted node. Leaving the bubble
// proves that no goroutine is left.
func withServer(t *testing.T, srv *clienttest.Server, cfg client.Config, f func(t *testing.T, c *client.Conn)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		srv.Start()
		defer srv.Stop()
		cfg.Addr, cfg.Dialer = "node:1", srv.Dial
		c, err := client.Dial(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		f(t, c)
	})
}

func insert(key, value string) *client.Op {
	return &client.Op{Kind: client.KindInsert, Cache: "c", Key: key, Value: []byte(value)}
}

func get(key string) *client.Op {
	return &client.Op{Kind: client.KindGet, Cache: "c", Key: key}
}

// All five operations, with and without batches, against a node of ours and one
// of the original protocol.
func TestOperations(t *testing.T) {
	for _, original := range []bool{false, true} {
		for _, batch := range []bool{false, true} {
			if original && batch {
				continue // it would not understand
			}
			t.Run(fmt.Sprintf("original=%v,batch=%v", original, batch), func(t *testing.T) {
				srv := &clienttest.Server{Handle: (&clienttest.Store{Original: original}).Handle, Token: "s3"}
				withServer(t, srv, client.Config{Token: "s3", Batch: batch}, func(t *testing.T, c *client.Conn) {
					ctx := t.Context()
					check := func(op *client.Op, value string, found bool) {
						t.Helper()
						o := c.Do(ctx, op)
						if o.Status != client.StatusOK || o.Err != nil || string(o.Value) != value || o.Found != found {
							t.Fatalf("%s: got %s %v %q found=%v", op.Kind, o.Status, o.Err, o.Value, o.Found)
						}
						if o.Sent.IsZero() || o.Returned.Before(o.Sent) || o.Node != "node:1" {
							t.Fatalf("%s: sent %v, returned %v, node %q", op.Kind, o.Sent, o.Returned, o.Node)
						}
					}
					check(get("k"), "", false)
					check(insert("k", "v1"), "", false)
					check(get("k"), "v1", true)
					check(&client.Op{Kind: client.KindPut, Cache: "c", Key: "k"}, "", false)
					check(get("k"), "", true)
					check(&client.Op{Kind: client.KindDel, Cache: "c", Key: "k"}, "", false)
					check(get("k"), "", false)
					check(insert("k", "v2"), "", false)
					check(&client.Op{Kind: client.KindRemove, Cache: "c", Key: "k", Level: client.LevelLeader}, "", false)
					check(get("k"), "", false)
					if err := c.Ping(ctx); err != nil {
						t.Fatal(err)
					}
					if h, err := c.Health(ctx); err != nil || !h.Quorum {
						t.Fatalf("health: %v %v", h, err)
					}
				})
			})
		}
	}
}

// Ten thousand operations in a window of 64: each outcome is delivered exactly
// once and belongs to its own operation, whatever the order of the answers; and
// while one message is on its way the rest is packed.
func TestWindowAndBatch(t *testing.T) {
	var waiting []*cachepb.CacheRequest
	store := new(clienttest.Store)
	srv := &clienttest.Server{}
	srv.Handle = func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		// Answer in reverse, eight at a time.
		if waiting = append(waiting, req); len(waiting) < 8 {
			return
		}
		for i := len(waiting) - 1; i >= 0; i-- {
			s.Send(store.Apply(waiting[i]))
		}
		waiting = nil
	}
	withServer(t, srv, client.Config{Window: 64, Batch: true}, func(t *testing.T, c *client.Conn) {
		const n = 10000
		got := make([]int, n) // each element belongs to one callback, and to the test after it
		left := make(chan struct{}, n)
		for i := range n {
			done := func(o client.Outcome) {
				got[i]++
				if o.Status != client.StatusOK {
					t.Errorf("%d: %v", i, o.Err)
				}
				left <- struct{}{}
			}
			op := insert("k"+strconv.Itoa(i), strconv.Itoa(i))
			for c.Start(op, done) != nil {
				if err := c.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range n {
			<-left
		}
		for i, times := range got {
			if times != 1 {
				t.Fatalf("operation %d ended %d times", i, times)
			}
		}
		st := c.Stats()
		if st.Items != n || st.Messages >= n/2 || st.Full == 0 {
			t.Errorf("%+v: want %d items in far fewer messages, and a window that was full", st, n)
		}
		if st.Unmatched != 0 || st.Late != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// A node of the original protocol answers Gets without an id. The answer to one
// that timed out must not be taken for the answer to the next Get of that key.
func TestOriginalGetsMatchInOrder(t *testing.T) {
	store := &clienttest.Store{Original: true}
	var fast atomic.Bool
	srv := &clienttest.Server{}
	srv.Handle = func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		ack := store.Apply(req)
		if req.GetGet() != nil && !fast.Load() {
			s.After(300*time.Millisecond, ack)
			return
		}
		if req.GetGet() != nil {
			s.After(400*time.Millisecond, ack)
			return
		}
		s.Send(ack)
	}
	withServer(t, srv, client.Config{}, func(t *testing.T, c *client.Conn) {
		c.Do(t.Context(), insert("k", "old"))
		first := get("k")
		first.Deadline = 100 * time.Millisecond
		if o := c.Do(t.Context(), first); o.Status != client.StatusFail || !errors.Is(o.Err, client.ErrTimeout) {
			t.Fatalf("got %s %v, want a timeout", o.Status, o.Err)
		}
		fast.Store(true)
		c.Do(t.Context(), insert("k", "new"))
		if o := c.Do(t.Context(), get("k")); string(o.Value) != "new" {
			t.Fatalf("got %q: an answer to another Get", o.Value)
		}
		if st := c.Stats(); st.Late != 1 {
			t.Errorf("%+v: want one late answer", st)
		}
	})
}

// A deadline ends the wait, not the doubt: a write that was sent is unknown and
// its late answer belongs to nobody.
func TestDeadline(t *testing.T) {
	srv := &clienttest.Server{}
	srv.Handle = func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		if req.GetInsert().GetOp().GetDeadlineMs() != 450 {
			t.Errorf("deadline told to the node: %v", req.GetInsert().GetOp())
		}
		s.After(time.Second, clienttest.Answer(req, nil))
	}
	withServer(t, srv, client.Config{}, func(t *testing.T, c *client.Conn) {
		begin := time.Now()
		op := insert("k", "v")
		op.Deadline = 500 * time.Millisecond
		o := c.Do(t.Context(), op)
		if o.Status != client.StatusInfo || !errors.Is(o.Err, client.ErrTimeout) || time.Since(begin) != op.Deadline {
			t.Fatalf("got %s %v after %s", o.Status, o.Err, time.Since(begin))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if st := c.Stats(); st.Late != 1 || st.Unmatched != 0 {
			t.Errorf("%+v: want one late answer", st)
		}
	})
}

// Deadlines of any mixture end each operation at its own time.
func TestDeadlinesInAnyOrder(t *testing.T) {
	srv := &clienttest.Server{Handle: func(*clienttest.Stream, *cachepb.CacheRequest) {}}
	withServer(t, srv, client.Config{}, func(t *testing.T, c *client.Conn) {
		begin := time.Now()
		ended := make(chan struct{}, 64)
		for i := range 64 {
			op := insert("k", "v")
			op.Deadline = time.Duration(1+i*37%64) * 10 * time.Millisecond
			if err := c.Start(op, func(client.Outcome) {
				if got := time.Since(begin); got != op.Deadline {
					t.Errorf("deadline %s ended at %s", op.Deadline, got)
				}
				ended <- struct{}{}
			}); err != nil {
				t.Fatal(err)
			}
		}
		for range 64 {
			<-ended
		}
	})
}

// The end of a context ends the wait as a deadline does.
func TestContext(t *testing.T) {
	srv := &clienttest.Server{Handle: func(*clienttest.Stream, *cachepb.CacheRequest) {}}
	withServer(t, srv, client.Config{}, func(t *testing.T, c *client.Conn) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if o := c.Do(ctx, insert("k", "v")); o.Status != client.StatusInfo || !errors.Is(o.Err, context.DeadlineExceeded) {
			t.Errorf("write: %s %v", o.Status, o.Err)
		}
		if o := c.Do(ctx, get("k")); o.Status != client.StatusFail || !o.Sent.IsZero() {
			t.Errorf("read with a context that is over: %s %v", o.Status, o.Sent)
		}
	})
}

// A stream that breaks leaves writes in flight unknown and reads dropped; what
// comes while it is down fails at once, and it comes back.
func TestBreakAndReconnect(t *testing.T) {
	srv := &clienttest.Server{}
	var serving atomic.Bool
	store := new(clienttest.Store)
	srv.Handle = func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		if serving.Load() {
			store.Handle(s, req)
		}
	}
	var states []string
	cfg := client.Config{OnState: func(_ string, err error) {
		states = append(states, strconv.FormatBool(err == nil))
	}}
	withServer(t, srv, cfg, func(t *testing.T, c *client.Conn) {
		outcomes := make(chan client.Outcome, 2)
		for _, op := range []*client.Op{insert("k", "v"), get("k")} {
			if err := c.Start(op, func(o client.Outcome) { outcomes <- o }); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		srv.Stop()
		for _, want := range []client.Status{client.StatusInfo, client.StatusFail} {
			o := <-outcomes
			if o.Status != want || !errors.Is(o.Err, client.ErrBroken) {
				t.Errorf("got %s %v, want %s", o.Status, o.Err, want)
			}
		}
		time.Sleep(time.Second)
		err := c.Start(insert("k", "v"), func(client.Outcome) { t.Error("called back") })
		if down, ok := errors.AsType[*client.DownError](err); !ok || down.Addr != "node:1" {
			t.Errorf("start while down: %v", err)
		}
		if _, ok := errors.AsType[*net.OpError](err); !ok {
			t.Errorf("%v does not say that the dial was refused", err)
		}
		serving.Store(true)
		srv.Start()
		begin := time.Now()
		if o := c.Do(t.Context(), insert("k", "v")); o.Status != client.StatusOK {
			t.Fatalf("after the restart: %v", o.Err)
		}
		if took := time.Since(begin); took > 250*time.Millisecond {
			t.Errorf("took %s to come back, longer than the greatest pause", took)
		}
		if fmt.Sprint(states) != "[true false true]" {
			t.Errorf("states %v", states)
		}
	})
}

// An operation that timed out while it waited for a stream that takes nothing
// was reported as never sent. It must not be sent afterwards.
func TestTimedOutInQueueIsNeverSent(t *testing.T) {
	release := make(chan struct{})
	var seen []string
	srv := &clienttest.Server{}
	srv.Handle = func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		<-release
		seen = append(seen, req.GetInsert().GetEntry())
		s.Send(clienttest.Answer(req, nil))
	}
	bubble.Test(t, func(t *testing.T) {
		release = make(chan struct{})
		srv.Start()
		defer srv.Stop()
		c, err := client.Dial(t.Context(), client.Config{Addr: "node:1", Dialer: srv.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		// The first ones fill HTTP/2's windows, the others wait in the queue.
		big := make([]byte, 1<<20)
		var mu sync.Mutex
		status := map[string]client.Status{}
		ended := make(chan struct{}, 8)
		start := func(key string, deadline time.Duration) {
			op := insert(key, "")
			op.Value, op.Deadline = big, deadline
			if err := c.Start(op, func(o client.Outcome) {
				mu.Lock()
				status[key] = o.Status
				mu.Unlock()
				if (o.Status == client.StatusFail) != o.Sent.IsZero() {
					t.Errorf("%s: %s, sent %v", key, o.Status, o.Sent)
				}
				ended <- struct{}{}
			}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		start("a", time.Minute)
		start("b", time.Minute)
		start("c", time.Minute)
		start("late", time.Second)
		start("d", time.Minute)
		time.Sleep(2 * time.Second)
		close(release)
		for range 5 {
			<-ended
		}
		synctest.Wait()
		if status["late"] != client.StatusFail {
			t.Errorf("late: %s", status["late"])
		}
		if fmt.Sprint(seen) != "[a b c d]" {
			t.Errorf("the node saw %v", seen)
		}
	})
}

// A wrong token is told at once, by a type of its own, and not tried again every moment.
func TestWrongToken(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		srv := &clienttest.Server{Token: "right"}
		srv.Start()
		defer srv.Stop()
		dials := 0
		cfg := client.Config{Addr: "node:1", Token: "wrong", Dialer: func(ctx context.Context, addr string) (net.Conn, error) {
			dials++
			return srv.Dial(ctx, addr)
		}}
		_, err := client.Dial(t.Context(), cfg)
		if auth, ok := errors.AsType[*client.AuthError](err); !ok || auth.Addr != "node:1" {
			t.Fatalf("dial: %v", err)
		}
		c, err := client.NewConn(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		begin := time.Now()
		o := c.Do(t.Context(), insert("k", "v"))
		if _, ok := errors.AsType[*client.AuthError](o.Err); !ok || o.Status != client.StatusFail || time.Since(begin) != 0 {
			t.Errorf("got %s %v after %s", o.Status, o.Err, time.Since(begin))
		}
		time.Sleep(62 * time.Second)
		synctest.Wait()
		if dials != 2+12 {
			t.Errorf("%d dials, want one for each Conn, and then one every five seconds", dials)
		}
	})
}

// Whatever a node does instead of greeting, Dial ends in time and says so.
func TestDialFails(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		silent := &clienttest.Server{Silent: true}
		silent.Start()
		defer silent.Stop()
		var closers []net.Conn
		defer func() {
			for _, c := range closers {
				c.Close()
			}
		}()
		for name, dialer := range map[string]func(context.Context, string) (net.Conn, error){
			"refused":        new(clienttest.Server).Dial,
			"does not greet": silent.Dial,
			"blackhole": func(context.Context, string) (net.Conn, error) {
				a, b := net.Pipe()
				closers = append(closers, b)
				return a, nil
			},
		} {
			begin := time.Now()
			_, err := client.Dial(t.Context(), client.Config{Addr: "node:1", Dialer: dialer})
			if _, ok := errors.AsType[*client.DownError](err); !ok {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(begin); took > 4*time.Second {
				t.Errorf("%s: took %s", name, took)
			}
		}
	})
	if _, err := client.NewConn(client.Config{Addr: "nohost"}); err == nil {
		t.Error("an address without a port was accepted")
	}
}

// A connection that swallows everything is given up when nothing has been heard
// for long enough, although each operation has a deadline of its own; one that
// is merely slow is not.
func TestSilence(t *testing.T) {
	var swallow atomic.Bool
	store := new(clienttest.Store)
	srv := &clienttest.Server{Handle: func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		switch {
		case !swallow.Load():
			store.Handle(s, req)
		case req.GetGet() != nil:
			s.After(9*time.Second, clienttest.Answer(req, nil))
		}
	}}
	withServer(t, srv, client.Config{Timeout: 2 * time.Second, Silence: 10 * time.Second}, func(t *testing.T, c *client.Conn) {
		time.Sleep(time.Hour) // an idle stream is no silent one
		swallow.Store(true)
		begin := time.Now()
		c.Start(get("k"), func(client.Outcome) {}) // its late answer is a sign of life after 9 s
		for c.Stats().Connects == 1 && time.Since(begin) < time.Minute {
			c.Do(t.Context(), insert("k", "v"))
		}
		if took := time.Since(begin); took < 18*time.Second || took > 23*time.Second {
			t.Errorf("given up after %s", took)
		}
		swallow.Store(false)
		if o := c.Do(t.Context(), insert("k", "v")); o.Status != client.StatusOK {
			t.Errorf("after the redial: %v", o.Err)
		}
	})
}

// Close ends what is in flight and everything after it.
func TestClose(t *testing.T) {
	srv := &clienttest.Server{Handle: func(*clienttest.Stream, *cachepb.CacheRequest) {}}
	withServer(t, srv, client.Config{}, func(t *testing.T, c *client.Conn) {
		var o client.Outcome
		if err := c.Start(insert("k", "v"), func(got client.Outcome) { o = got }); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c.Close()
		if o.Status != client.StatusInfo || !errors.Is(o.Err, client.ErrClosed) {
			t.Errorf("in flight: %s %v", o.Status, o.Err)
		}
		if err := c.Start(insert("k", "v"), nil); !errors.Is(err, client.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// Two Conns on one Channel share a socket, survive each other, and both come
// back after it broke.
func TestSharedChannel(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		srv := new(clienttest.Server)
		srv.Start()
		defer srv.Stop()
		var dials atomic.Int32
		ch, err := client.NewChannel(client.ChannelConfig{Addr: "node:1", Dialer: func(ctx context.Context, addr string) (net.Conn, error) {
			dials.Add(1)
			return srv.Dial(ctx, addr)
		}})
		if err != nil {
			t.Fatal(err)
		}
		var conns []*client.Conn
		for range 4 {
			c, err := client.Dial(t.Context(), client.Config{Channel: ch})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conns = append(conns, c)
		}
		if n := dials.Load(); n != 1 {
			t.Errorf("%d dials for four streams", n)
		}
		srv.Streams()[0].Break(codes.Internal, "scripted")
		time.Sleep(time.Second)
		for i, c := range conns {
			if o := c.Do(t.Context(), insert("k", "v")); o.Status != client.StatusOK {
				t.Errorf("stream %d after one broke: %v", i, o.Err)
			}
		}
		srv.Stop()
		srv.Start()
		before := dials.Load()
		time.Sleep(time.Second)
		for i, c := range conns {
			if o := c.Do(t.Context(), insert("k", "v")); o.Status != client.StatusOK {
				t.Errorf("stream %d after the restart: %v", i, o.Err)
			}
		}
		if n := dials.Load() - before; n != 1 {
			t.Errorf("%d dials after the restart, want one", n)
		}
	})
}

// A node's refusal keeps its code; the error says who refused what and why.
func TestRefusals(t *testing.T) {
	srv := &clienttest.Server{Handle: func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		code := cachepb.Code_NOT_FRESH
		if req.GetInsert() != nil {
			code = cachepb.Code_TOO_LARGE
		}
		s.Send(clienttest.Answer(req, &cachepb.Outcome{Code: code, Detail: "because", Leader: "b:1"}))
	}}
	withServer(t, srv, client.Config{}, func(t *testing.T, c *client.Conn) {
		o := c.Do(t.Context(), insert("k", "v"))
		want := "client: insert refused by node:1: TOO_LARGE: because"
		if o.Status != client.StatusFail || o.Err.Error() != want || o.Leader != "b:1" {
			t.Errorf("got %s %v leader %q", o.Status, o.Err, o.Leader)
		}
		if o := c.Do(t.Context(), get("k")); o.Status != client.StatusFail || !o.Refused || o.Found {
			t.Errorf("stale node: %+v", o)
		}
	})
}

// What no node takes is refused before it is sent: on the wire it would end the stream, and with it everything that others
// have in flight.
func TestMistakesHarmNobodyElse(t *testing.T) {
	var answer func()
	srv := &clienttest.Server{}
	store := new(clienttest.Store)
	srv.Handle = func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		if req.GetInsert().GetEntry() == "bystander" {
			answer = func() { store.Handle(s, req) }
			return
		}
		store.Handle(s, req)
	}
	huge := make([]byte, 17<<20)
	for _, batch := range []bool{false, true} {
		withServer(t, srv, client.Config{Batch: batch, WindowBytes: 1 << 30}, func(t *testing.T, c *client.Conn) {
			var bystander *client.Outcome
			if err := c.Start(insert("bystander", "v"), func(o client.Outcome) { bystander = &o }); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			for name, tc := range map[string]struct {
				op   client.Op
				want cachepb.Code
			}{
				"key that is not UTF-8":   {client.Op{Kind: client.KindInsert, Cache: "c", Key: "\xff"}, cachepb.Code_INVALID},
				"cache that is not UTF-8": {client.Op{Kind: client.KindGet, Cache: "\xc0\xaf", Key: "k"}, cachepb.Code_INVALID},
				"unknown kind":            {client.Op{Kind: 99, Cache: "c", Key: "k"}, cachepb.Code_INVALID},
				"unknown level":           {client.Op{Kind: client.KindInsert, Level: 3, Cache: "c", Key: "k"}, cachepb.Code_INVALID},
				"unknown read mode":       {client.Op{Kind: client.KindGet, ReadMode: -1, Cache: "c", Key: "k"}, cachepb.Code_INVALID},
				"huge value":              {client.Op{Kind: client.KindPut, Cache: "c", Key: "k", Value: huge}, cachepb.Code_TOO_LARGE},
				"huge key":                {client.Op{Kind: client.KindGet, Cache: "c", Key: string(huge)}, cachepb.Code_TOO_LARGE},
			} {
				o := c.Do(t.Context(), &tc.op)
				refused, ok := errors.AsType[*client.OpError](o.Err)
				if !ok || o.Status != client.StatusFail || o.Code != tc.want || refused.Code != tc.want || !o.Sent.IsZero() {
					t.Errorf("%s: got %s %v, sent %v", name, o.Status, o.Err, o.Sent)
				}
				if err := c.Start(&tc.op, func(client.Outcome) { t.Errorf("%s: called back", name) }); err == nil || err.Error() != o.Err.Error() {
					t.Errorf("%s: Start says %v, Do says %v", name, err, o.Err)
				}
			}
			if bystander != nil {
				t.Fatalf("the bystander's operation ended: %v", bystander.Err)
			}
			answer()
			synctest.Wait()
			if st := c.Stats(); bystander == nil || bystander.Err != nil || st.Connects != 1 {
				t.Errorf("bystander %+v, stats %+v", bystander, st)
			}
		})
	}
}

// A hundred callers share a window of four: all get their turn, in the order in which they came, whether it is room in the
// window that they wait for, room in the queue of bytes, or a connection; and those who leave are not waited for.
func TestEverybodyGetsATurn(t *testing.T) {
	for name, cfg := range map[string]client.Config{
		"window": {Window: 4},
		"bytes":  {Window: 1000, WindowBytes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			var seen []string
			srv := &clienttest.Server{}
			srv.Handle = func(s *clienttest.Stream, req *cachepb.CacheRequest) {
				seen = append(seen, req.GetInsert().GetEntry())
				s.After(time.Second, clienttest.Answer(req, nil))
			}
			withServer(t, srv, cfg, func(t *testing.T, c *client.Conn) {
				srv.Stop()
				synctest.Wait()
				var want []string
				var all sync.WaitGroup
				for i := range 100 {
					op, ctx, cancel := insert(strconv.Itoa(i), "v"), t.Context(), context.CancelFunc(func() {})
					op.Deadline = time.Hour
					impatient := i%3 == 1
					if impatient {
						ctx, cancel = context.WithTimeout(ctx, time.Minute)
					} else {
						want = append(want, op.Key)
					}
					all.Go(func() {
						defer cancel()
						if o := c.Do(ctx, op); (o.Status == client.StatusOK) == impatient {
							t.Errorf("%s: %s %v", op.Key, o.Status, o.Err)
						}
					})
					synctest.Wait()
				}
				time.Sleep(time.Hour / 2) // the impatient ones leave
				srv.Start()
				all.Wait()
				if fmt.Sprint(seen) != fmt.Sprint(want) {
					t.Errorf("in the order\n%v, want\n%v", seen, want)
				}
			})
		})
	}
}

// A caller whose time is over in the moment in which its turn comes passes it on.
func TestTurnIsNotLost(t *testing.T) {
	srv := &clienttest.Server{Handle: func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		s.After(time.Second, clienttest.Answer(req, nil))
	}}
	withServer(t, srv, client.Config{Window: 1}, func(t *testing.T, c *client.Conn) {
		for range 100 {
			begin := time.Now()
			var all sync.WaitGroup
			for i, limit := range []time.Duration{time.Hour, time.Second, time.Second, time.Hour} {
				all.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					c.Do(ctx, insert(strconv.Itoa(i), "v"))
				})
				synctest.Wait()
			}
			all.Wait()
			if took := time.Since(begin); took > 3*time.Second {
				t.Fatalf("took %s", took)
			}
		}
	})
}

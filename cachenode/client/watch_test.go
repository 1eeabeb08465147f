package client_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"slices"
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

// story is an event in a few words.
func story(event client.Event, err error) string {
	switch e := event.(type) {
	case client.Changed:
		return fmt.Sprintf("changed %s/%s at %d", e.Cache, e.Key, e.Index)
	case client.Removed:
		return fmt.Sprintf("removed %s/%s at %d: %s", e.Cache, e.Key, e.Index, e.Cause)
	case client.Gap:
		if e.Err != nil {
			return fmt.Sprintf("gap %s from %d at %s: %v", e.Reason, e.From, e.Node, e.Err)
		}
		return fmt.Sprintf("gap %s %d-%d at %s", e.Reason, e.From, e.To, e.Node)
	case client.Leader:
		return fmt.Sprintf("leader %q at %s", e.Addr, e.Node)
	}
	return fmt.Sprintf("end: %v", err)
}

// pulled is a watch that is read one event at a time.
type pulled struct {
	t    *testing.T
	next func() (client.Event, error, bool)
}

// pull reads a watch until stop is called.
func pull(t *testing.T, seq iter.Seq2[client.Event, error]) (p *pulled, stop func()) {
	next, stop := iter.Pull2(seq)
	return &pulled{t, next}, stop
}

// want reads as many events as there are lines and compares them.
func (p *pulled) want(lines ...string) {
	p.t.Helper()
	for i, want := range lines {
		event, err, ok := p.next()
		if got := story(event, err); !ok || got != want {
			p.t.Fatalf("event %d of these: %s (%v), want %s", i, got, ok, want)
		}
	}
}

func down(from int, addr, why string) string {
	return fmt.Sprintf("gap down from %d at %s: client: not connected to %s: %s", from, addr, addr, why)
}

func configOf(n nodes, addrs ...string) client.ClientConfig {
	return client.ClientConfig{Addrs: addrs, Config: client.Config{Dialer: n.dial}}
}

// What is written through any client is told, in order, of the caches that were
// asked for, whatever they are called, and of no other; a leader is told between.
func TestWatch(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		srv := &clienttest.Server{Greeting: &cachepb.LeaderInfo{Addr: new("http://n1:1"), Term: 1, Cluster: 1}}
		srv.Start()
		defer srv.Stop()
		srv.Store.Set("c", "before", nil)
		c := srv.Client(t)
		defer c.Close()
		all, stop := pull(t, c.Watch(t.Context()))
		defer stop()
		odd := []string{"leader", "1", "*", "a,b", " ", "%2C", "ä"}
		some, stopSome := pull(t, client.Watch(t.Context(), srv.Config(), odd...))
		defer stopSome()
		for _, w := range []*pulled{all, some} {
			w.want(`leader "n1:1" at clienttest:7070`, "gap begin 1-1 at clienttest:7070")
		}
		if err := c.Insert(t.Context(), "c", "k", []byte("v"), client.LevelQuorum); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := c.Del(t.Context(), "c", "k"); err != nil {
				t.Fatal(err)
			}
		}
		all.want("changed c/k at 2", "removed c/k at 3: operation")
		for i, cache := range odd {
			if err := c.Put(t.Context(), cache, "k", nil); err != nil {
				t.Fatal(err)
			}
			line := fmt.Sprintf("changed %s/k at %d", cache, 5+i)
			all.want(line)
			some.want(line)
		}
		srv.Announce(&cachepb.LeaderInfo{Addr: new("n2:1"), Term: 2, Cluster: 1})
		all.want(`leader "n2:1" at clienttest:7070`)
		some.want(`leader "n2:1" at clienttest:7070`)
	})
}

// A lost connection is told once, at once, with the reason; then the next node
// tells on, after a Gap that begins behind what was told, or at 1 if all was
// forgotten meanwhile.
func TestWatchReconnects(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := nodes{}
		for _, addr := range []string{"a:1", "b:1"} {
			n[addr] = new(clienttest.Server)
			n[addr].Start()
			defer n[addr].Stop()
		}
		w, stop := pull(t, client.Watch(t.Context(), configOf(n, "nobody:1", "a:1", "b:1")))
		defer stop()
		w.want(down(1, "nobody:1", "address nobody:1: no such node"), `leader "" at a:1`, "gap begin 1-0 at a:1")
		for range 3 {
			n["a:1"].Store.Set("c", "k", nil)
			n["b:1"].Store.Set("c", "k", nil)
		}
		w.want("changed c/k at 1", "changed c/k at 2", "changed c/k at 3")
		n["b:1"].Store.Set("c", "unseen", nil)
		n["a:1"].Stop()
		w.want(down(4, "a:1", "Unavailable: error reading from server: EOF"), `leader "" at b:1`, "gap begin 4-4 at b:1")
		n["b:1"].Stop()
		n["a:1"].Start() // has seen less
		w.want(down(5, "b:1", "Unavailable: error reading from server: EOF"), `leader "" at a:1`, "gap begin 4-3 at a:1")
		n["a:1"].Store.Set("c", "again", nil)
		w.want("changed c/again at 4")
		s := n["a:1"].Streams()[0]
		s.Send(&cachepb.Ack{Method: &cachepb.Ack_Gap{Gap: &cachepb.Gap{Reason: cachepb.Gap_SLOW, Cluster: 1, From: 5, To: 9}}})
		s.Send(&cachepb.Ack{Method: &cachepb.Ack_Gap{Gap: &cachepb.Gap{Reason: cachepb.Gap_RESET, From: 1}}})
		s.Send(&cachepb.Ack{Method: &cachepb.Ack_Gap{Gap: &cachepb.Gap{Reason: cachepb.Gap_RESTORED, Cluster: 2, From: 1, To: 7}}})
		w.want("gap slow 5-9 at a:1", "gap reset 1-0 at a:1", "gap restored 1-7 at a:1")
		s.Break(codes.Internal, "scripted")
		w.want(down(8, "a:1", "Internal: scripted"), `leader "" at a:1`, "gap begin 1-4 at a:1")
	})
}

// A watch ends with the reason, once, and leaves nothing behind: when its context
// or its Client does, when a node refuses, or with the loop.
func TestWatchEnds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		srv := &clienttest.Server{Token: "right"}
		srv.Start()
		defer srv.Stop()
		refusing := &clienttest.Server{Greeted: func(s *clienttest.Stream) { s.Break(codes.NotFound, `cache "x" is not configured`) }}
		refusing.Start()
		defer refusing.Stop()
		n := nodes{"a:1": srv, "b:1": refusing}
		config := func(addr, token string) client.ClientConfig {
			cfg := configOf(n, addr)
			cfg.Token = token
			return cfg
		}

		ctx, cancel := context.WithCancel(t.Context())
		w, stop := pull(t, client.Watch(ctx, config("a:1", "right")))
		w.want(`leader "" at a:1`, "gap begin 1-0 at a:1")
		time.AfterFunc(time.Hour, cancel)
		w.want("end: context canceled")
		if _, _, ok := w.next(); ok {
			t.Error("there is something after the end")
		}
		stop()

		c, err := client.New(config("a:1", "right"))
		if err != nil {
			t.Fatal(err)
		}
		w, stop = pull(t, c.Watch(t.Context()))
		w.want(`leader "" at a:1`, "gap begin 1-0 at a:1")
		time.AfterFunc(time.Hour, func() { c.Close() })
		w.want("end: client: closed")
		stop()
		for _, err := range c.Watch(t.Context()) {
			if !errors.Is(err, client.ErrClosed) {
				t.Errorf("a watch of a closed client ends with %v", err)
			}
		}

		for _, tt := range []struct {
			cfg  client.ClientConfig
			want string
		}{
			{config("a:1", "wrong"), "end: client: a:1 refused the credentials: wrong token"},
			{config("b:1", ""), `end: client: b:1 refused the watch: cache "x" is not configured`},
			{client.ClientConfig{}, "end: client: no address given"},
			{config("nohost", ""), `end: client: address "nohost": want host:port: address nohost: missing port in address`},
		} {
			var got []string
			for event, err := range client.Watch(t.Context(), tt.cfg) {
				if _, isLeader := event.(client.Leader); !isLeader {
					got = append(got, story(event, err))
				}
			}
			if len(got) != 1 || got[0] != tt.want {
				t.Errorf("got %q, want %s", got, tt.want)
			}
		}

		for range client.Watch(t.Context(), config("a:1", "right")) {
			break
		}
		synctest.Wait()
		if left := len(srv.Streams()); left != 0 {
			t.Errorf("%d streams are left", left)
		}
	})
}

// Whoever takes events slowly keeps the node from sending more than the windows of
// the connection hold; nothing is lost and nothing is kept here.
func TestWatchSlowLoop(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const total = 10_000
		var sent atomic.Int32
		srv := &clienttest.Server{Greeted: func(s *clienttest.Stream) {
			go func() {
				key := strings.Repeat("k", 1000)
				for i := range total {
					if s.Send(clienttest.Change("c", key, true, &cachepb.Outcome{Index: uint64(i + 1)})) != nil {
						return
					}
					sent.Add(1)
				}
			}()
		}}
		srv.Start()
		defer srv.Stop()
		taken := 0
		for event, err := range client.Watch(t.Context(), srv.Config()) {
			if err != nil {
				t.Fatal(err)
			}
			e, ok := event.(client.Changed)
			if !ok {
				continue
			}
			if taken == 0 {
				time.Sleep(time.Hour)
				if n := sent.Load(); n < 1000 || n > total*3/4 {
					t.Errorf("%d of %d changes were sent while one was taken", n, total)
				}
			}
			if taken++; e.Index != uint64(taken) {
				t.Fatalf("change %d came as number %d", e.Index, taken)
			}
			if taken == total {
				break
			}
		}
	})
}

// A node that greets and tells nothing is left for the next one: one of the
// original protocol does not know what it is asked. So is one that is not heard
// of, at the latest after Silence, though an idle one is not.
func TestWatchMute(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		old := &clienttest.Server{Store: clienttest.Store{Original: true}}
		old.Start()
		defer old.Stop()
		srv := new(clienttest.Server)
		srv.Start()
		defer srv.Stop()
		var hole atomic.Bool
		n := nodes{"old:1": old, "a:1": srv}
		cfg := configOf(n, "old:1", "a:1")
		cfg.Dialer = func(ctx context.Context, addr string) (net.Conn, error) {
			conn, err := n.dial(ctx, addr)
			return &swallowing{conn, &hole}, err
		}
		w, stop := pull(t, client.Watch(t.Context(), cfg))
		defer stop()
		begin := time.Now()
		w.want(`leader "" at old:1`, down(1, "old:1", "connected, but the node tells no changes"), `leader "" at a:1`, "gap begin 1-0 at a:1")
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("%v were lost on a node that cannot watch", took)
		}
		time.AfterFunc(time.Hour, func() { srv.Store.Set("c", "k", nil) })
		w.want("changed c/k at 1") // an hour without a word is no reason to leave
		hole.Store(true)
		begin = time.Now()
		event, err, _ := w.next()
		if gap, ok := event.(client.Gap); !ok || gap.Reason != client.GapDown || time.Since(begin) > 16*time.Second {
			t.Errorf("%s after %v, want the connection to be given up", story(event, err), time.Since(begin))
		}
	})
}

// swallowing is a connection on which nothing arrives any more once hole is set.
type swallowing struct {
	net.Conn
	hole *atomic.Bool
}

func (c *swallowing) Write(b []byte) (int, error) {
	if c.hole.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// Names of causes and reasons, and of those to come.
func TestWatchNames(t *testing.T) {
	got := fmt.Sprint(
		client.CauseOperation, client.CauseExpired, client.CauseEvicted, client.Cause(9),
		client.GapBegin, client.GapSlow, client.GapRestored, client.GapReset, client.GapDown, client.GapReason(9),
	)
	if want := "operation expired evicted cause(9) begin slow restored reset down gap(9)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for reason, name := range cachepb.Gap_Reason_name {
		if got := client.GapReason(reason).String(); got != strings.ToLower(name) {
			t.Errorf("reason %d is %s, the contract calls it %s", reason, got, name)
		}
	}
	if causes := []string{"OPERATION", "EXPIRED", "EVICTED"}; len(cachepb.Change_Cause_name) != 3 || !slices.Equal(causes, []string{
		cachepb.Change_Cause_name[0], cachepb.Change_Cause_name[1], cachepb.Change_Cause_name[2],
	}) {
		t.Errorf("the contract has the causes %v", cachepb.Change_Cause_name)
	}
}

package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/client/clienttest"
	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/proto/cachepb"
	"github.com/hacache/hacache/reports/result"
)

// Operations go where the route says: to the leader, also after it changed, to
// the others, to all, or to one. Each node counts what it gets.
func TestClusterRoutes(t *testing.T) {
	for _, tc := range []struct {
		route         Route
		first, second string
	}{
		{RouteLeader, "map[b:1:100]", "map[c:1:100]"},
		{RouteFollowers, "map[a:1:50 c:1:50]", "map[a:1:50 b:1:50]"},
		{RouteSticky, "map[a:1:100]", "map[a:1:100]"},
		{RouteAny, "map[a:1:50 b:1:25 c:1:25]", "map[a:1:50 b:1:25 c:1:25]"},
	} {
		t.Run(tc.route.String(), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				seen := map[string]int{}
				leader, term := "b:1", uint64(1)
				servers := map[string]*clienttest.Server{}
				addrs := []string{"a:1", "b:1", "c:1"}
				for _, addr := range addrs {
					srv := &clienttest.Server{Greeting: &cachepb.LeaderInfo{Addr: &leader, Term: term}}
					store := new(clienttest.Store)
					srv.Handle = func(s *clienttest.Stream, req *cachepb.CacheRequest) {
						if req.GetMgmtReq() == nil {
							mu.Lock()
							seen[addr]++
							mu.Unlock()
						}
						store.Handle(s, req)
					}
					srv.Start()
					defer srv.Stop()
					servers[addr] = srv
				}
				c, err := NewCluster(ClusterConfig{
					Addrs: addrs, Route: tc.route, Conns: 2, Streams: 4,
					Dialer: func(ctx context.Context, addr string) (net.Conn, error) { return servers[addr].Dial(ctx, addr) },
				})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if err := c.Ready(t.Context()); err != nil {
					t.Fatal(err)
				}
				offer := func() string {
					mu.Lock()
					clear(seen)
					mu.Unlock()
					s, _ := run(t, t.Context(), Generator{Target: c, Schedule: Constant{100}, Duration: time.Second})
					if s.Counts.OK != 100 {
						t.Errorf("%+v", s.Counts)
					}
					mu.Lock()
					defer mu.Unlock()
					return fmt.Sprint(seen)
				}
				if got := offer(); got != tc.first {
					t.Errorf("got %s, want %s", got, tc.first)
				}
				next := "http://c:1"
				for _, srv := range servers {
					for _, s := range srv.Streams() {
						s.Send(clienttest.LeaderInfo(&cachepb.LeaderInfo{Addr: &next, Term: 2}))
					}
				}
				synctest.Wait()
				if got := offer(); got != tc.second {
					t.Errorf("after the change: got %s, want %s", got, tc.second)
				}
			})
		})
	}
}

// While the leader's node is gone operations fail at once or go to another
// node; nothing is lost from the account, and a wrong token is told at once.
func TestClusterFailures(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		leader := "a:1"
		srv := &clienttest.Server{Token: "t", Greeting: &cachepb.LeaderInfo{Addr: &leader, Term: 1}}
		srv.Start()
		defer srv.Stop()
		cfg := ClusterConfig{Addrs: []string{"a:1"}, Token: "wrong", Streams: 2, Dialer: srv.Dial}
		c, err := NewCluster(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := errors.AsType[*client.AuthError](c.Ready(t.Context())); !ok {
			t.Error("a wrong token is not told")
		}
		c.Close()
		cfg.Token = "t"
		if c, err = NewCluster(cfg); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Without a pause a closed loop would never let virtual time go on.
		for _, g := range []Generator{{Schedule: Constant{100}}, {InFlight: 2, Think: time.Millisecond}} {
			time.AfterFunc(2*time.Second, srv.Stop)
			time.AfterFunc(4*time.Second, srv.Start)
			g.Target, g.Duration = c, 6*time.Second
			s, _ := run(t, t.Context(), g)
			k := s.Counts
			if k.OK == 0 || k.Fail < 100 && g.Schedule != nil || k.OK+k.Fail+k.Info+k.Missed+k.Unfinished != k.Intended {
				t.Errorf("%+v", k)
			}
			if g.Schedule != nil && (k.Intended != 600 || k.Fail > 250) {
				t.Errorf("%+v", k)
			}
		}
	})
	if _, err := NewCluster(ClusterConfig{Addrs: []string{"a:1", "a:1"}}); err == nil {
		t.Error("an address given twice was accepted")
	}
}

// Streams break all the time, at random, with operations in flight, waiting and
// answered late; the leader changes too. In every mode and on every route each
// operation is accounted for once, as the numbers of the run and as an observer
// sees it, and what was sent to a node that did not lead is counted as misrouted.
func TestConservationWithBrokenStreams(t *testing.T) {
	for _, route := range []Route{RouteLeader, RouteAny, RouteSticky, RouteFollowers} {
		for name, g := range map[string]Generator{
			"open": {Schedule: Poisson{800}}, "drop": {Schedule: Poisson{800}, Drop: true}, "closed": {Think: 3 * time.Millisecond},
		} {
			t.Run(route.String()+", "+name, func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					rng := newRandom(uint64(route), 77)
					servers := map[string]*clienttest.Server{}
					addrs := []string{"a:1", "b:1", "c:1"}
					leader := addrs[0]
					for _, addr := range addrs {
						store := new(clienttest.Store)
						srv := &clienttest.Server{Greeting: &cachepb.LeaderInfo{Addr: &leader, Term: 1}}
						srv.Handle = func(s *clienttest.Stream, req *cachepb.CacheRequest) {
							time.Sleep(100 * time.Microsecond)
							store.Handle(s, req)
						}
						srv.Start()
						defer srv.Stop()
						servers[addr] = srv
					}
					c, err := NewCluster(ClusterConfig{
						Addrs: addrs, Route: route, Conns: 2, Streams: 4, Window: 8, Batch: true, Timeout: 500 * time.Millisecond,
						Dialer: func(ctx context.Context, addr string) (net.Conn, error) { return servers[addr].Dial(ctx, addr) },
					})
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					if err := c.Ready(t.Context()); err != nil {
						t.Fatal(err)
					}
					ctx, stop := context.WithCancel(t.Context())
					var breaker sync.WaitGroup
					breaker.Go(func() {
						for term := uint64(2); ctx.Err() == nil; term++ {
							time.Sleep(time.Duration(rng.below(100)) * time.Millisecond)
							srv := servers[addrs[rng.below(3)]]
							if all := srv.Streams(); len(all) > 0 {
								all[rng.below(uint64(len(all)))].Break(codes.Unavailable, "broken")
							}
							if term%5 == 0 {
								next := addrs[rng.below(3)]
								for _, s := range srv.Streams() {
									s.Send(clienttest.LeaderInfo(&cachepb.LeaderInfo{Addr: &next, Term: term}))
								}
							}
						}
					})
					seen := &balance{open: map[*client.Op]bool{}}
					g.Target, g.Observer, g.Duration, g.InFlight, g.Drain = c, seen, 2*time.Second, 8, time.Second
					s, r := run(t, t.Context(), g)
					stop()
					breaker.Wait()
					k := s.Counts
					if sum := k.OK + k.Fail + k.Info + k.Missed + k.Unfinished; sum != k.Intended || k.OK == 0 || k.Fail+k.Info == 0 {
						t.Errorf("%+v", k)
					}
					var recorded result.Counts
					for _, se := range r.Series {
						recorded.Add(&se.Counts)
					}
					if recorded != k {
						t.Errorf("recorded %+v, counted %+v", recorded, k)
					}
					if len(seen.open) != 0 || seen.wrong != "" {
						t.Errorf("observer: %d without return; %s", len(seen.open), seen.wrong)
					}
					if (k.Misrouted > 0) != (route == RouteLeader) {
						t.Errorf("%d misrouted", k.Misrouted)
					}
				})
			})
		}
	}
}

// The echo answers every operation, on each of its streams, and ends what waits
// when it is closed.
func TestEcho(t *testing.T) {
	e, err := NewEcho(EchoConfig{Conns: 2, Streams: 4, Window: 32})
	if err != nil {
		t.Fatal(err)
	}
	g := Generator{Target: e, Source: mustSource(t, Workload{}), Recorder: NewRecorder(RecorderConfig{}), Ops: 5000}
	s, err := g.Run(t.Context())
	if err != nil || s.Counts.OK != 5000 {
		t.Errorf("%v %+v", err, s)
	}
	for _, n := range []int64{1, 5000} {
		if answered, took, err := e.Tight(t.Context(), &client.Op{Key: "k"}, 32, n); err != nil || answered != n || took <= 0 {
			t.Errorf("tight: %d of %d in %s: %v", answered, n, took, err)
		}
	}
	e.Close()
	if err := e.Start(0, &client.Op{}, nil); err == nil {
		t.Error("started after the end")
	}
}

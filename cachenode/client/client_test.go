package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/client/clienttest"
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
	synctest.Test(t, func(t *testing.T) {
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

// Invalid operations are not repeated, nobody there is an error in time, and a
// wrong token is told as such.
func TestClientGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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

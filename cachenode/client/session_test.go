package client_test

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/client/clienttest"
	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/proto/cachepb"
)

// Three nodes that lose requests before they take effect, and answers after, break streams, refuse, and stay silent. Each
// write of a session takes effect exactly once all the same, and what is said of it is true: ok means that it did, fail
// that it did not.
func TestSessionIsExactlyOnce(t *testing.T) {
	for seed := range uint64(10) {
		bubble.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 2))
			n := newCluster(t, "a:1", "b:1", "c:1")
			var mu sync.Mutex
			writes := map[string]int{} // by key: how often it has taken effect
			n.handle = func(_ string, s *clienttest.Stream, req *cachepb.CacheRequest) bool {
				mu.Lock()
				defer mu.Unlock()
				fate := rng.IntN(10)
				if fate == 0 {
					return true // lost before it took effect
				}
				if fate == 1 {
					s.Break(codes.Unavailable, "before it took effect")
					return true
				}
				if fate == 2 {
					s.Send(clienttest.Answer(req, &cachepb.Outcome{Code: cachepb.Code_NO_LEADER}))
					return true
				}
				before := n.store.Writes()
				ack := n.store.Apply(req)
				writes[req.GetInsert().GetEntry()] += n.store.Writes() - before
				switch fate {
				case 3: // the answer is lost
				case 4:
					s.Break(codes.Unavailable, "after it took effect")
				case 5:
					s.Send(clienttest.Answer(req, &cachepb.Outcome{Code: cachepb.Code_INDETERMINATE}))
				case 6:
					s.After(time.Duration(rng.IntN(5000))*time.Millisecond, ack)
				default:
					s.Send(ack)
				}
				return true
			}
			c := n.client(t, client.Config{Timeout: 20 * time.Second}, "a:1", "b:1", "c:1")
			s := c.NewSession()
			const callers, each = 20, 10
			outcomes := make([]client.Outcome, callers*each)
			var all sync.WaitGroup
			for caller := range callers {
				all.Go(func() {
					for i := caller * each; i < (caller+1)*each; i++ {
						outcomes[i] = s.Do(t.Context(), insert(strconv.Itoa(i), "v"))
					}
				})
			}
			all.Wait()
			known := 0
			for i, o := range outcomes {
				times := writes[strconv.Itoa(i)]
				switch {
				case times > 1, o.Status == client.StatusOK && times != 1, o.Status == client.StatusFail && times != 0:
					t.Errorf("seed %d: write %d: %s %v, took effect %d times", seed, i, o.Status, o.Err, times)
				case o.Status != client.StatusInfo:
					known++
				}
			}
			if known < len(outcomes)*9/10 {
				t.Errorf("seed %d: only %d of %d outcomes are known", seed, known, len(outcomes))
			}
		})
	}
}

// The first operation opens the session, and the others wait for that; after half a minute without use, or when the cluster
// has forgotten it, another one is opened.
func TestSessionOpens(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newCluster(t, "a:1")
		var tags []*cachepb.OpTag
		n.handle = func(_ string, s *clienttest.Stream, req *cachepb.CacheRequest) bool {
			tags = append(tags, req.GetInsert().GetOp())
			s.After(time.Second, n.store.Apply(req))
			return true
		}
		c := n.client(t, client.Config{}, "a:1")
		s := c.NewSession()
		round := func(writes int) {
			t.Helper()
			tags = nil
			var all sync.WaitGroup
			for range writes {
				all.Go(func() {
					if o := s.Do(t.Context(), insert("k", "v")); o.Status != client.StatusOK {
						t.Error(o.Err)
					}
				})
			}
			all.Wait()
		}
		begin := time.Now()
		round(10)
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("opening and nine more took %s, want a second each", took)
		}
		first := tags[0].Session
		// The nine are sent by as many goroutines, in any order.
		slices.SortFunc(tags[1:], func(a, b *cachepb.OpTag) int { return cmp.Compare(a.GetSeq(), b.GetSeq()) })
		for i, tag := range tags {
			if tag.Session != first || tag.Seq != uint64(i+1) || tag.FirstUnacked > tag.Seq {
				t.Errorf("tag %d: %v", i, tag)
			}
		}
		round(1)
		if tags[0].Session != first || tags[0].Seq != 11 || tags[0].FirstUnacked != 11 {
			t.Errorf("later: %v", tags[0])
		}
		time.Sleep(31 * time.Second)
		round(1)
		second := tags[0].Session
		if second == first || tags[0].Seq != 1 {
			t.Errorf("after idling: %v", tags[0])
		}
		n.store = clienttest.Store{} // the cluster has forgotten everything
		round(1)
		if len(tags) != 2 || tags[0].Session != second || tags[1].Session == second || tags[1].Seq != 1 {
			t.Errorf("after SESSION_EXPIRED: %v", tags)
		}
	})
}

// What is acknowledged before it has happened cannot happen exactly once.
func TestSessionRefuses(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newCluster(t, "a:1")
		s := n.client(t, client.Config{}, "a:1").NewSession()
		for _, kind := range []client.Kind{client.KindGet, client.KindPut, client.KindDel} {
			o := s.Do(t.Context(), &client.Op{Kind: kind, Cache: "c", Key: "k"})
			if _, refused := errors.AsType[*client.OpError](o.Err); !refused || o.Code != cachepb.Code_INVALID || o.Status != client.StatusFail {
				t.Errorf("%s: %s %v", kind, o.Status, o.Err)
			}
		}
		if n.store.Writes() != 0 {
			t.Error("something was written")
		}
	})
}

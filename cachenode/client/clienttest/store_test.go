package clienttest_test

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/client/clienttest"
	"github.com/hacache/hacache/cachenode/internal/store"
	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/proto/cachepb"
)

// The fake says what the real state machine says: the same random writes, with sessions, repetitions and time to live, get
// the same codes and indexes from both, and the same keys are there afterwards.
func TestStoreIsFaithful(t *testing.T) {
	for seed := range uint64(50) {
		bubble.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			var fake clienttest.Store
			real := store.New(store.Config{})
			begin := time.Now()
			nowMs := func() int64 { return 1 + time.Since(begin).Milliseconds() }
			for range 400 {
				time.Sleep(time.Duration(rng.ExpFloat64() * float64(time.Second)))
				if rng.IntN(50) == 0 {
					time.Sleep(time.Minute)
				}
				req := randomWrite(rng)
				got := fake.Apply(req)
				var want store.Result
				real.Apply(real.Applied()+1, &cachepb.Batch{ClusterMs: nowMs(), Ops: []*cachepb.CacheRequest{req}}, func(_ int, r store.Result) { want = r })
				if out := outcome(got); out.GetCode() != want.Code {
					t.Fatalf("seed %d: %v: got %v, want %+v", seed, req, out, want)
				}
				for key := range 4 {
					key := strconv.Itoa(key)
					gotValue, gotFound := fake.Get("c", key)
					wantValue, _, wantFound := real.Get("c", key, nowMs())
					if gotFound != wantFound || !bytes.Equal(gotValue, wantValue) {
						t.Fatalf("seed %d: key %s: got %q %v, want %q %v", seed, key, gotValue, gotFound, wantValue, wantFound)
					}
				}
			}
		})
	}
}

func randomWrite(rng *rand.Rand) *cachepb.CacheRequest {
	key, value := strconv.Itoa(rng.IntN(4)), []byte(strconv.Itoa(rng.Int()))
	tag := &cachepb.OpTag{}
	if rng.IntN(2) == 0 {
		seq := 1 + rng.Uint64N(6)
		tag.Session, tag.Seq, tag.FirstUnacked = 1+rng.Uint64N(3), seq, rng.Uint64N(seq+1)
	}
	if rng.IntN(3) == 0 {
		tag.TtlMs = 1 + rng.Uint32N(3000)
	}
	switch rng.IntN(4) {
	case 0:
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Put{Put: &cachepb.Put{CacheName: "c", Entry: key, Value: value, Op: tag}}}
	case 1:
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{CacheName: "c", Entry: key, Value: value, Op: tag}}}
	case 2:
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Del{Del: &cachepb.Del{CacheName: "c", Entry: key, Op: tag}}}
	default:
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Remove{Remove: &cachepb.Remove{CacheName: "c", Entry: key, Op: tag}}}
	}
}

func outcome(ack *cachepb.Ack) *cachepb.Outcome {
	if out := ack.GetPutAck().GetOutcome(); out != nil {
		return out
	}
	return ack.GetDelAck().GetOutcome()
}

// What is announced reaches clients that are connected and those that come later.
func TestAnnounce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		srv := clienttest.New(t)
		early := srv.Client(t)
		synctest.Wait()
		srv.Announce(&cachepb.LeaderInfo{Addr: new(clienttest.Addr), Term: 3})
		synctest.Wait()
		late := srv.Client(t)
		synctest.Wait()
		for name, c := range map[string]*client.Client{"early": early, "late": late} {
			if got := c.Leader(); got != clienttest.Addr {
				t.Errorf("%s: leader %q", name, got)
			}
		}
	})
}

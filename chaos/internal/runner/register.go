package runner

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/chaos/internal/check"
	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/proto/cachepb"
)

// registerCache holds the keys that are sampled for linearizability.
const registerCache = "_chaos_register"

// A sampled key is used by so many processes at once, through all nodes, at so
// many operations a second at most. With fewer of them operations would seldom
// overlap, with more of them the search for a linearization could take for ever.
const (
	registersAtOnce = 4
	registerProcs   = 8
	registerRate    = 100
)

// registers samples keys for the linearizability check: several processes write
// and read each of them for a while, then the next one. The keys are spread
// over the whole run. One that has had its number of operations or processes is
// followed by another at once.
type registers struct {
	*callers
	seed   uint64
	nodes  int
	lanes  int           // keys at once
	end    time.Duration // of the load, in run time
	life   time.Duration // of a key
	spread time.Duration // mean time between two operations of one process
}

func newRegisters(c *callers, keys int, nodes int) *registers {
	length, lanes := c.run.Plan.Length, min(registersAtOnce, keys)
	life := length * time.Duration(lanes) / time.Duration(keys)
	gap := max(time.Second/registerRate, life/check.MaxRegisterOps)
	return &registers{
		callers: c, seed: c.run.Plan.Seed, nodes: nodes, lanes: lanes,
		end: c.run.origin + length, life: life, spread: gap * registerProcs,
	}
}

// use samples keys until the load ends, or ctx.
func (r *registers) use(ctx context.Context) {
	if !r.run.waitUntil(ctx, 0) {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for lane := range r.lanes {
		wg.Go(func() {
			for n := lane; ctx.Err() == nil && r.run.now() < r.end; n += r.lanes {
				r.sample(ctx, n)
			}
		})
	}
}

// sampled is one key while it is used.
type sampled struct {
	name    string
	removed bool // it is removed now and then
	until   time.Duration
	ops     atomic.Int64
	procs   atomic.Int64
	closed  atomic.Bool
}

// sample uses the n-th key until its time is over.
func (r *registers) sample(ctx context.Context, n int) {
	// Nothing is removed from most keys: those are judged at once, however
	// many operations were open at the same time.
	k := &sampled{name: "r" + strconv.Itoa(n), removed: n%4 == 3, until: min(r.run.now()+r.life, r.end)}
	var wg sync.WaitGroup
	for i := range registerProcs {
		k.procs.Add(1)
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(r.seed, uint64(n)<<8|uint64(i)))
			r.work(ctx, k, (n+i)%r.nodes, rng)
		})
	}
	wg.Wait()
}

// work is one process after the other on one key, all through one node.
func (r *registers) work(ctx context.Context, k *sampled, node int, rng *rand.Rand) {
	proc := r.newProc()
	for {
		if !pause(ctx, time.Duration((0.5+rng.Float64())*float64(r.spread))) || k.closed.Load() || r.run.now() >= k.until {
			return
		}
		if k.ops.Add(1) > check.MaxRegisterOps {
			k.closed.Store(true)
			return
		}
		op := client.Op{Kind: client.KindGet, Cache: registerCache, Key: k.name, ReadMode: cachepb.ReadTag_LINEARIZABLE}
		if rng.IntN(2) == 0 {
			op.Kind = client.KindInsert
			if k.removed && rng.IntN(5) == 0 {
				op.Kind = client.KindRemove
			}
		}
		h := r.call(proc, node, op)
		if h.Outcome != history.Info {
			continue
		}
		if k.procs.Add(1) > check.MaxRegisterProcs {
			k.closed.Store(true)
			return
		}
		proc = r.newProc()
	}
}

package runner

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/chaos/internal/history"
)

// visitCache holds the keys of visitors.
const visitCache = "_chaos_session"

// Visitors are few, and their keys too, so that they meet each other's writes.
const (
	visitorsOfNode = 2
	visitKeys      = 32
	visitPause     = 40 * time.Millisecond // mean, of one visitor
)

// visits are the traffic of the session check: processes that each stay at one
// node, and look at once whether what they wrote is there. An answer that comes
// before the node has applied the write is found out by the read right behind
// it, and by nothing else.
type visits struct {
	*callers
	seed  uint64
	nodes int
	end   time.Duration // of the load, in run time
}

// make visits until the load ends, or ctx.
func (v *visits) make(ctx context.Context) {
	if !v.run.waitUntil(ctx, 0) {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range v.nodes * visitorsOfNode {
		wg.Go(func() { v.visit(ctx, i%v.nodes, rand.New(rand.NewPCG(v.seed, uint64(v.as)<<16|uint64(i)))) })
	}
}

// visit is one process after the other at one node.
func (v *visits) visit(ctx context.Context, node int, rng *rand.Rand) {
	proc := v.newProc()
	for {
		if !pause(ctx, time.Duration((0.5+rng.Float64())*float64(visitPause))) || v.run.now() >= v.end {
			return
		}
		op := client.Op{Kind: client.KindGet, Cache: visitCache, Key: "s" + strconv.Itoa(rng.IntN(visitKeys))}
		if rng.IntN(5) < 2 {
			v.call(proc, node, op)
			continue
		}
		write := op
		write.Kind, write.Level = client.KindInsert, client.Levels[rng.IntN(len(client.Levels))]
		if rng.IntN(5) == 0 {
			write.Kind = client.KindRemove
		}
		switch v.call(proc, node, write).Outcome {
		case history.OK:
			v.call(proc, node, op)
		case history.Info:
			proc = v.newProc()
		}
	}
}

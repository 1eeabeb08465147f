package gateway

import (
	"cmp"
	"slices"
	"time"
)

// noteMoving notes whether somebody takes what is queued: this node as the leader, or the leader that it is linked to.
// That a full leader makes it pause is no reason to say that nobody does.
func (g *Gateway) noteMoving() {
	leader := g.core.Leader()
	g.moving = !g.core.Transferring()
	if g.core.Elected() {
		g.moving = g.moving && g.core.Leading()
	} else {
		g.moving = g.moving && leader >= 0 && g.core.Linked(leader)
	}
}

// drain is how quickly the queue is emptied, measured only while something stays in it although somebody takes as much as
// can be taken: the rate at which a queue that is emptied in each turn is emptied is that at which it is filled. The queue of a cluster without
// a leader is not slow either: who stands in it waits for a leader, up to its deadline.
type drain struct {
	from  time.Duration // since when there was always something
	at    time.Duration // of the last turn that was counted
	took  time.Duration // measured
	taken int           // bytes in that time
	now   int           // bytes in this turn
	rate  float64       // bytes a second; 0: not known
}

const (
	drainLeast  = 50 * time.Millisecond  // less is no measurement
	drainWindow = 250 * time.Millisecond // after so much it begins anew
	// drainGap is what the time between two turns counts for at most. A pause of this process says nothing about what
	// it can do when it runs, and nothing should be refused because of one.
	drainGap = 100 * time.Millisecond
)

// turn counts what was taken in a turn.
func (d *drain) turn(now time.Duration) {
	if d.now == 0 {
		return
	}
	d.took += min(now-d.at, drainGap)
	d.taken += d.now
	d.at, d.now = now, 0
	if d.took < drainLeast {
		return
	}
	d.rate = float64(d.taken) / d.took.Seconds()
	if d.took >= drainWindow {
		d.took, d.taken = 0, 0
	}
}

// wait is how long an operation will wait for its turn if it comes now, or how long the first in the queue has waited
// already. The latter alone would notice too late: when the first has waited for a second, what came in that second at
// many times the rate at which it can go is in the queue as well.
func (g *Gateway) wait() time.Duration {
	if !g.moving || g.head == len(g.queue) {
		return 0
	}
	first := g.core.Now() - max(g.queue[g.head].at, g.drain.from)
	if g.drain.rate == 0 {
		return first
	}
	return max(first, time.Duration(float64(g.bytes)/g.drain.rate*float64(time.Second)))
}

func (g *Gateway) queued() int { return len(g.queue) - g.head + len(g.back) }

// merge puts operations back into the queue at their place: operations on one key must leave in the order in which they
// came, or an older one undoes a newer one that was acknowledged.
func (g *Gateway) merge() {
	if g.dead > 1024 && g.dead > g.queued()/2 {
		// Without a leader nothing takes operations out, and those that were answered at their deadline pile up.
		g.queue = slices.DeleteFunc(g.queue[g.head:], func(o *op) bool {
			if o.state == stateDone && o.foreign {
				g.foreign--
			}
			return o.state == stateDone
		})
		g.head, g.dead = 0, 0
	}
	if len(g.back) == 0 {
		return
	}
	slices.SortFunc(g.back, func(a, b *op) int { return cmp.Compare(a.n, b.n) })
	rest := g.queue[g.head:]
	merged := make([]*op, 0, len(g.back)+len(rest))
	for _, o := range g.back {
		for len(rest) > 0 && rest[0].n < o.n {
			merged, rest = append(merged, rest[0]), rest[1:]
		}
		merged = append(merged, o)
	}
	g.queue, g.head = append(merged, rest...), 0
	clear(g.back)
	g.back = g.back[:0]
}

// giveBack lets an operation wait in the queue again.
func (g *Gateway) giveBack(o *op) {
	o.state = stateQueued
	g.back = append(g.back, o)
}

// take removes up to a batch of operations from the queue; what it returns is valid until it is called again. Each is
// tagged; one that cannot be tagged yet ends the batch, so that operations leave in their order.
func (g *Gateway) take() []*op {
	clear(g.taken)
	batch := g.taken[:0]
	bytes := 0
	for g.head < len(g.queue) && len(batch) < batchOps && bytes < batchBytes {
		o := g.queue[g.head]
		if o.state != stateDone {
			if !g.tag(o) {
				g.stats.FullWindow++
				break
			}
			if len(batch) > 0 && bytes+o.size > batchBytes {
				break
			}
			batch = append(batch, o)
			bytes += o.size
		}
		if o.foreign {
			g.foreign--
		}
		if o.state == stateDone {
			g.dead--
		}
		g.queue[g.head] = nil
		g.head++
	}
	if g.head == len(g.queue) {
		g.queue, g.head = g.queue[:0], 0
	}
	g.drain.now += bytes
	g.taken = batch
	return batch
}

// untake puts a batch back to the front of the queue.
func (g *Gateway) untake(batch []*op) {
	for _, o := range batch {
		g.drain.now -= o.size
		o.state = stateQueued
		if o.foreign {
			g.foreign++
		}
	}
	if g.head >= len(batch) {
		g.head -= len(batch)
		copy(g.queue[g.head:], batch)
		return
	}
	g.queue = slices.Concat(batch, g.queue[g.head:])
	g.head = 0
}

package hostile

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/hacache/hacache/cachenode/client"
)

const (
	// perStream is how many operations are open on one stream at most; a node
	// reads no further than that.
	perStream = 1000
	// overloadKeys bounds what an overload leaves in the node.
	overloadKeys = 10_000
	// overloadPatience is when an operation counts as unknown: well beyond what
	// a node keeps one that it has accepted.
	overloadPatience = 10 * time.Second
	// overloadSlice is how finely the rate is kept to.
	overloadSlice = time.Millisecond
)

// overload offers Rate inserts a second of values of Size, with at most Count of
// them open. What finds no room is not sent and counts as offered all the same:
// the clients it stands for would have been turned away. Rejected: a Generator of
// loadgen. It makes every operation, sent or not, which at ten times what a node
// can take costs the machine more than the node.
func overload(ctx context.Context, a *Attack) {
	f, err := newFlood(a)
	if err != nil {
		a.begin().fail(err)
		return
	}
	defer f.close()
	from, told := time.Now(), time.Time{}
	for sleep(ctx, overloadSlice) {
		due := int64(a.spec.Rate*time.Since(from).Seconds()) - f.offered
		f.offered += due
		// Not more than fits at a time: a node that refuses as quickly as it is
		// asked would keep a sender that is behind its rate here for ever.
		f.missed += due - f.send(min(due, int64(a.spec.Count)))
		if time.Since(told) > 100*time.Millisecond {
			told = time.Now()
			a.count(func(t *Tally) { t.Load = f.load() })
		}
	}
	a.count(func(t *Tally) { t.Load = f.load() })
}

// flood is an overload in progress. Its sender is one goroutine.
type flood struct {
	conns []*client.Conn
	next  int
	value []byte

	offered, missed int64
	keys            uint64

	mu                   sync.Mutex // guards what follows
	ok, refused, unknown int64
	took                 *hdrhistogram.Histogram // of ok operations, in microseconds
}

func newFlood(a *Attack) (*flood, error) {
	f := &flood{value: make([]byte, a.spec.Size), took: hdrhistogram.New(1, time.Minute.Microseconds(), 3)}
	rng := rand.New(rand.NewPCG(a.spec.Seed, 1))
	for i := range f.value {
		f.value[i] = byte(rng.Uint32())
	}
	for left := a.spec.Count; left > 0; left -= perStream {
		c, err := client.NewConn(client.Config{Addr: a.spec.Addr, Token: a.spec.Token, TLS: a.spec.TLS, Window: min(left, perStream), Batch: true})
		if err != nil {
			f.close()
			return nil, err
		}
		f.conns = append(f.conns, c)
	}
	return f, nil
}

// send starts up to n operations and returns how many it did.
func (f *flood) send(n int64) (sent int64) {
	full := 0 // streams in a row that had no room
	for sent < n && full < len(f.conns) {
		f.keys++
		from := time.Now()
		op := client.Op{Kind: client.KindInsert, Cache: "_chaos_overload", Key: strconv.FormatUint(f.keys%overloadKeys, 10), Value: f.value, Deadline: overloadPatience}
		if f.conns[f.next].Start(&op, func(o client.Outcome) { f.answered(&o, time.Since(from)) }) != nil {
			full++
			f.next = (f.next + 1) % len(f.conns)
			continue
		}
		sent++
		full = 0
	}
	f.next = (f.next + 1) % len(f.conns)
	return sent
}

func (f *flood) answered(o *client.Outcome, took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch o.Status {
	case client.StatusOK:
		f.ok++
		_ = f.took.RecordValue(min(took, time.Minute).Microseconds()) // within its range
	case client.StatusFail:
		f.refused++
	default:
		if !errors.Is(o.Err, client.ErrClosed) { // given up by us
			f.unknown++
		}
	}
}

// load is what has become of the operations so far.
func (f *flood) load() *Load {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := func(q float64) time.Duration { return time.Duration(f.took.ValueAtQuantile(q)) * time.Microsecond }
	return &Load{
		Offered: f.offered, Missed: f.missed, OK: f.ok, Refused: f.refused, Unknown: f.unknown,
		P50: at(50), P99: at(99), Max: time.Duration(f.took.Max()) * time.Microsecond,
	}
}

func (f *flood) close() {
	for _, c := range f.conns {
		c.Close()
	}
}

// offeredMore says that nearly as much was offered as was meant to be, and that
// it was at least twice what the node took, which took something.
func offeredMore(s *Spec, t *Tally, lasted time.Duration) bool {
	l := t.Load
	return l != nil && l.OK > 0 && float64(l.Offered) >= 0.8*s.Rate*lasted.Seconds() && 2*l.OK <= l.Offered
}

// Package hostile plays the clients that a node must survive: those that know no
// token, speak another protocol, send half a frame and fall silent, never read
// what they asked for, or ask for far more than there is. Each attack is bounded
// in count, rate and time, says what it did and what the node answered, and
// leaves nothing behind.
//
// An attack goes straight to the node: it is no link that is broken, and the
// proxies of the harness are not what is tested. [Launch] plays it in a process of
// its own, [Start] in this one.
package hostile

import (
	"context"
	"crypto/tls"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Spec says what to do to one node.
type Spec struct {
	Kind  string // a key of Kinds
	Addr  string // of the node, host:port
	Token string // of the cluster; kinds that must not have it do not use it
	// TLS is how honest clients connect; nil: the node speaks plain text.
	TLS *tls.Config `json:"-"`
	// Count and Rate are what the kind takes them for, Size that of its messages
	// or values in bytes.
	Count int
	Rate  float64
	Size  int
	Seed  uint64
}

// Tally is what an attack did to one node and what became of it.
type Tally struct {
	// Attempts are the clients that were begun: connections or streams, as the
	// kind has it. Failed are those that did not get as far as to do harm.
	Attempts int64 `json:"attempts"`
	Failed   int64 `json:"failed,omitempty"`
	// Served are those that the node answered with a message of its service.
	Served int64 `json:"served,omitempty"`
	// Ended are those that the node ended, Endings how.
	Ended   int64            `json:"ended,omitempty"`
	Endings map[string]int64 `json:"endings,omitempty"`
	// Peak is how many were open at one time at most.
	Peak int64 `json:"peak,omitempty"`
	// Longest is how long the node let one of them live.
	Longest time.Duration `json:"longest_ns,omitempty"`
	// Late is by how much this side came later than it meant to, at worst, for want
	// of a processor: a client may have noticed its beginning and its end so late,
	// and Longest be too long by twice as much.
	Late time.Duration `json:"late_ns,omitempty"`
	// Bytes and Frames were sent. Frames are counted where they are the attack.
	Bytes  int64 `json:"bytes,omitempty"`
	Frames int64 `json:"frames,omitempty"`
	// Load is what became of operations; nil for kinds that send none.
	Load *Load `json:"load,omitempty"`
}

// Load is what became of the operations of an overload.
type Load struct {
	Offered int64 `json:"offered"` // meant to be sent
	OK      int64 `json:"ok"`
	Refused int64 `json:"refused"` // answered that it had no effect
	Unknown int64 `json:"unknown"` // timed out or broken
	Missed  int64 `json:"missed"`  // never sent: every window was full
	// Of those that were answered ok, from the send to the answer.
	P50 time.Duration `json:"p50_ns"`
	P99 time.Duration `json:"p99_ns"`
	Max time.Duration `json:"max_ns"`
}

// Attack is an attack on one node in progress.
type Attack struct {
	spec Spec
	kind Kind
	from time.Time
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu    sync.Mutex
	tally Tally
	open  map[*life]struct{}
	due   time.Time // of the next beat
}

// Start begins an attack. The caller must Stop it.
func Start(ctx context.Context, spec Spec) (*Attack, error) {
	kind, known := Kinds[spec.Kind]
	if !known {
		return nil, fmt.Errorf("hostile: unknown kind %q", spec.Kind)
	}
	// An attack has a life of its own: what it was begun under may end sooner.
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	a := &Attack{spec: spec, kind: kind, from: time.Now(), stop: stop, open: map[*life]struct{}{}}
	a.tally.Endings = map[string]int64{}
	a.due = a.from.Add(beat)
	a.wg.Go(func() { a.listen(ctx) })
	a.wg.Go(func() { kind.play(ctx, a) })
	return a, nil
}

// Stop ends the attack, waits until nothing of it is left, and returns what it
// came to. It may be called more than once.
func (a *Attack) Stop() Tally {
	a.stop()
	a.wg.Wait()
	return a.Tally()
}

// Tally returns what the attack has come to so far.
func (a *Attack) Tally() Tally {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.tally
	t.Endings = maps.Clone(t.Endings)
	t.Late = max(t.Late, time.Since(a.due))
	for l := range a.open {
		t.Longest = max(t.Longest, time.Since(l.from))
	}
	return t
}

// beat is how often an attack looks how late it is: there are some at a time, and
// each look takes a processor from sleep.
const beat = 200 * time.Millisecond

// listen notes by how much this process is late to do what it means to.
func (a *Attack) listen(ctx context.Context) {
	for {
		a.mu.Lock()
		due := a.due
		a.mu.Unlock()
		if !sleep(ctx, time.Until(due)) {
			return
		}
		a.mu.Lock()
		now := time.Now()
		a.tally.Late = max(a.tally.Late, now.Sub(due))
		a.due = now.Add(beat)
		a.mu.Unlock()
	}
}

// Bit reports whether the attack was as hard as it was meant to be, and what
// came of it. It is to be asked before Stop.
func (a *Attack) Bit() (bool, string) {
	t := a.Tally()
	return a.kind.bit(&a.spec, &t, time.Since(a.from)), t.String()
}

// tellLate is how late an attack has to be for its words to say so.
const tellLate = 100 * time.Millisecond

// String says what became of an attack, in a few words.
func (t *Tally) String() string {
	if l := t.Load; l != nil {
		accepted := float64(l.OK) / max(float64(l.Offered), 1)
		return fmt.Sprintf("offered %d, ok %d (%.1f%%), refused %d, unknown %d, never sent %d; ok took p50 %v, p99 %v, max %v",
			l.Offered, l.OK, 100*accepted, l.Refused, l.Unknown, l.Missed,
			l.P50.Round(time.Microsecond), l.P99.Round(time.Microsecond), l.Max.Round(time.Millisecond))
	}
	parts := []string{fmt.Sprintf("%d begun", t.Attempts)}
	for _, p := range []struct {
		n    int64
		what string
	}{{t.Failed, "came to nothing"}, {t.Peak, "open at once"}, {t.Served, "served"}, {t.Ended, "ended by the node"}, {t.Frames, "frames"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	for _, how := range slices.Sorted(maps.Keys(t.Endings)) {
		parts = append(parts, fmt.Sprintf("%s: %d", how, t.Endings[how]))
	}
	if t.Bytes > 0 {
		parts = append(parts, fmt.Sprintf("%.1fMiB sent", float64(t.Bytes)/(1<<20)))
	}
	if t.Longest > 0 {
		parts = append(parts, fmt.Sprintf("the longest lived %v", t.Longest.Round(100*time.Millisecond)))
	}
	if t.Late > tellLate {
		parts = append(parts, fmt.Sprintf("up to %v late for want of a processor", t.Late.Round(time.Millisecond)))
	}
	return strings.Join(parts, ", ")
}

// life is one hostile client, or one of its streams.
type life struct {
	a    *Attack
	from time.Time
	over bool
}

func (a *Attack) begin() *life {
	l := &life{a: a, from: time.Now()}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tally.Attempts++
	a.open[l] = struct{}{}
	a.tally.Peak = max(a.tally.Peak, int64(len(a.open)))
	return l
}

// fail ends a life that came to nothing.
func (l *life) fail(err error) {
	if l.finish(short(err)) {
		l.a.count(func(t *Tally) { t.Failed++ })
	}
}

// ended notes that the node ended it, and how.
func (l *life) ended(how string) {
	if l.finish(how) {
		l.a.count(func(t *Tally) { t.Ended++ })
	}
}

// leave notes that the client ended it itself.
func (l *life) leave() { l.finish("") }

func (l *life) finish(how string) (first bool) {
	l.a.mu.Lock()
	defer l.a.mu.Unlock()
	if l.over {
		return false
	}
	l.over = true
	delete(l.a.open, l)
	t := &l.a.tally
	t.Longest = max(t.Longest, time.Since(l.from))
	if how != "" {
		t.Endings[how]++
	}
	return true
}

func (a *Attack) count(f func(t *Tally)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(&a.tally)
}

// short names an error in few different words, so that it can be counted.
func short(err error) string {
	text := err.Error()
	for _, known := range []string{"connection refused", "connection reset", "broken pipe", "timeout", "deadline exceeded", "EOF", "remote error"} {
		if strings.Contains(text, known) {
			return known
		}
	}
	return text
}

// Bounds of what one attack has going at a time and of how quickly it grows, so
// that it is the node that is tried and not the kernel.
const (
	most  = 512  // at a time, where a rate says how many begin
	climb = 1000 // a second, where a count says how many there are
)

// moments is where the clients of an attack find when to begin. They know nothing
// of each other: attacks that all begin something ten times a second, from one
// instant on, would meet every tenth of a second, and be weaker in between.
func (a *Attack) moments(stream int) *rand.Rand {
	h := fnv.New64a()
	_, _ = io.WriteString(h, a.spec.Kind)
	return rand.New(rand.NewPCG(a.spec.Seed^h.Sum64(), uint64(stream)))
}

// keep has n clients going at all times: each is begun again about a second after
// it ended.
func (a *Attack) keep(ctx context.Context, n int, one func(ctx context.Context, i int)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range n {
		wg.Go(func() {
			rng := a.moments(i)
			for first := true; ; first = false {
				pause := time.Duration(rng.Int64N(int64(2 * time.Second)))
				if first {
					pause = time.Duration(i) * time.Second / climb
				}
				if !sleep(ctx, pause) {
					return
				}
				one(ctx, i)
			}
		})
	}
}

// repeat begins so many clients a second, each at some moment of the time that it
// has for itself; what cannot be begun because too many are still there is left out.
func (a *Attack) repeat(ctx context.Context, rate float64, one func(ctx context.Context, i int)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, most)
	from, rng := time.Now(), a.moments(0)
	for i := 0; ; i++ {
		due := (float64(i) + rng.Float64()) / rate
		if !sleep(ctx, time.Until(from.Add(time.Duration(due*float64(time.Second))))) {
			return
		}
		select {
		case slots <- struct{}{}:
			wg.Go(func() {
				defer func() { <-slots }()
				one(ctx, i)
			})
		default:
		}
	}
}

// sleep waits; false when ctx is done.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// often says that at least half of what the rate asked for was begun, and that
// most of it got as far as the node.
func often(s *Spec, t *Tally, lasted time.Duration) bool {
	want := math.Floor(s.Rate * lasted.Seconds() / 2)
	return t.Attempts > 0 && float64(t.Attempts) >= want && t.Failed*2 <= t.Attempts
}

// pressed says that as many as were asked for were begun, and that nearly all of
// them were there at the same time unless the node ended some before.
func pressed(s *Spec, t *Tally, lasted time.Duration) bool {
	return t.Attempts >= int64(s.Count) && t.Failed*2 <= t.Attempts && (many(s, t, lasted) || t.Ended > 0)
}

// many says that nearly all that were asked for were there at the same time.
func many(s *Spec, t *Tally, _ time.Duration) bool { return float64(t.Peak) >= 0.9*float64(s.Count) }

package cluster

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"

	"github.com/hacache/hacache/internal/bubble"
)

// These tests run the link's toxic by itself, one way of a connection, in
// virtual time: what the conditions promise is exact there.

// wire is one way of a connection.
type wire struct {
	in, out chan *stream.StreamChunk
}

// connect opens a connection through a gate.
func connect(t *testing.T, g *gate) *wire {
	t.Helper()
	if g.id == 0 {
		registerGate(g)
		t.Cleanup(func() { unregisterGate(g) })
	}
	w := &wire{in: make(chan *stream.StreamChunk, 1024), out: make(chan *stream.StreamChunk, 1024)}
	stub := toxics.NewToxicStub(w.in, w.out)
	toxic := &linkToxic{Gate: g.id}
	stub.State = toxic.NewState()
	go toxic.Pipe(stub)
	synctest.Wait()
	return w
}

func (w *wire) send(text string) {
	w.in <- &stream.StreamChunk{Data: []byte(text), Timestamp: time.Now()}
}

// arrival is one piece that came out, and after which time.
type arrival struct {
	text  string
	after time.Duration
}

// drain ends the connection and returns what came out of it.
func (w *wire) drain() (got []arrival, ended time.Duration) {
	from := time.Now()
	close(w.in)
	for c := range w.out {
		got = append(got, arrival{string(c.Data), time.Since(from)})
	}
	return got, time.Since(from)
}

func text(got []arrival) string {
	var all strings.Builder
	for _, a := range got {
		all.WriteString(a.text)
	}
	return all.String()
}

// TestGate_speed proves that connections share a limited speed in turns, that
// nothing is lost or changes its place, and that a share does not arrive in
// one lump.
func TestGate_speed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := newGate(1)
		one, two := connect(t, g), connect(t, g)
		g.add(&Conditions{Speed: 1000})
		sent := strings.Repeat("0123456789", 100)
		from := time.Now()
		one.send(sent)
		two.send(sent)
		type end struct {
			got  []arrival
			took time.Duration
		}
		ends := make(chan end, 2)
		for _, w := range []*wire{one, two} {
			go func() {
				got, _ := w.drain()
				ends <- end{got, time.Since(from)}
			}()
		}
		for range 2 {
			e := <-ends
			if text(e.got) != sent {
				t.Errorf("%d bytes arrived, or others than were sent", len(text(e.got)))
			}
			// 2000 bytes at 1000 a second, whoever is last by one piece.
			if e.took < 1950*time.Millisecond || e.took > 2*time.Second {
				t.Errorf("a connection took %v, want about 2s: both share the speed", e.took)
			}
			if half := e.got[len(e.got)/2].after; half < 900*time.Millisecond || half > 1100*time.Millisecond {
				t.Errorf("half of it was there after %v, want about 1s", half)
			}
		}
		if p := g.pieces.Load(); p < 90 {
			t.Errorf("handed on in %d pieces", p)
		}
	})
}

// TestGate_pieces proves that what was sent together comes in pieces of the
// size asked for, with the pause between them, and that two messages are not
// paused.
func TestGate_pieces(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := newGate(1)
		w := connect(t, g)
		g.add(&Conditions{Piece: 4, Pause: time.Second})
		w.send("aaaabbbbcc")
		w.send("ddd")
		got, _ := w.drain()
		want := []arrival{{"aaaa", 0}, {"bbbb", time.Second}, {"cc", 2 * time.Second}, {"ddd", 2 * time.Second}}
		if len(got) != len(want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("piece %d: %v, want %v", i, got[i], want[i])
			}
		}
		if p := g.pieces.Load(); p != 2 {
			t.Errorf("%d pieces counted, want 2 that were cut off", p)
		}
	})
}

// TestGate_lateEnd proves that the end of a connection, and nothing else, is
// late, and that lifting the condition delivers it at once.
func TestGate_lateEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := newGate(1)
		slow, lifted := connect(t, g), connect(t, g)
		c := &Conditions{LateEnd: 3 * time.Second}
		g.add(c)
		slow.send("last words")
		got, ended := slow.drain()
		if text(got) != "last words" || got[0].after != 0 || ended != 3*time.Second {
			t.Errorf("%v, the end after %v; want the bytes at once and the end after 3s", got, ended)
		}
		time.AfterFunc(time.Second, func() { g.remove(c) })
		if _, ended := lifted.drain(); ended != time.Second {
			t.Errorf("the end came %v after the connection had ended, want 1s, when it was lifted", ended)
		}
		if n := g.lateEnds.Load(); n != 2 {
			t.Errorf("%d ends counted as late, want 2", n)
		}
	})
}

// TestGate_budget proves that a connection is closed after so many bytes, to
// the byte, that they count from when the condition began, and that the next
// one has a budget of its own.
func TestGate_budget(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := newGate(1)
		w := connect(t, g)
		w.send("before")
		synctest.Wait()
		c := &Conditions{Budget: 5}
		g.add(c)
		w.send("123")
		w.send("45678")
		synctest.Wait()
		if got, _ := w.drain(); text(got) != "before12345" {
			t.Errorf("%q passed, want all from before, and 5 bytes", text(got))
		}
		if n := g.ended.Load(); n != 1 {
			t.Errorf("%d connections counted as ended", n)
		}
		next := connect(t, g)
		next.send("abc")
		synctest.Wait()
		g.remove(c)
		next.send("defgh")
		if got, _ := next.drain(); text(got) != "abcdefgh" {
			t.Errorf("%q passed after it was lifted", text(got))
		}
	})
}

// TestGate_swallow proves what a half-open connection is: bytes go nowhere, so
// does its end, and on heal those connections that lost something are closed,
// the others not.
func TestGate_swallow(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := newGate(1)
		busy, idle := connect(t, g), connect(t, g)
		c := &Conditions{Swallow: true}
		g.add(c)
		busy.send("into the void")
		synctest.Wait()
		fresh := connect(t, g)
		close(fresh.in)
		synctest.Wait()
		select {
		case c, open := <-fresh.out:
			t.Errorf("got %v (%v) while everything is swallowed: the end too should be", c, open)
		default:
		}
		if n := g.swallowed.Load(); n != int64(len("into the void")) {
			t.Errorf("%d bytes counted as swallowed", n)
		}
		g.remove(c)
		if got, _ := busy.drain(); len(got) != 0 {
			t.Errorf("%q came out of it after all", text(got))
		}
		if n := g.ended.Load(); n != 1 {
			t.Errorf("%d connections closed on heal, want the one that lost something", n)
		}
		if _, open := <-fresh.out; open {
			t.Error("the end that was kept back did not come")
		}
		idle.send("still here")
		if got, _ := idle.drain(); text(got) != "still here" {
			t.Errorf("%q passed on a connection that had lost nothing", text(got))
		}
	})
}

// TestGate_fresh proves that connections which are there go on while new ones
// are held, and that those are let through on heal with all they had sent.
func TestGate_fresh(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := newGate(1)
		old := connect(t, g)
		c := &Conditions{Stall: true, Fresh: true}
		g.add(c)
		fresh := connect(t, g)
		old.send("old")
		fresh.send("new")
		synctest.Wait()
		if len(old.out) != 1 || len(fresh.out) != 0 || g.held.Load() != 1 {
			t.Errorf("%d passed on the old connection, %d on the new one, %d held; want 1, 0, 1", len(old.out), len(fresh.out), g.held.Load())
		}
		g.remove(c)
		if got, _ := fresh.drain(); text(got) != "new" {
			t.Errorf("%q passed after it was lifted", text(got))
		}
		old.drain()
	})
}

// TestConditions_delay proves that each distribution has the mean and the
// deviation that it says, and the least and the tail that tell it apart.
func TestConditions_delay(t *testing.T) {
	const n = 200_000
	mean, jitter := 100*time.Millisecond, 20*time.Millisecond
	for _, tt := range []struct {
		spread    Spread
		deviation float64 // in jitters
		least     float64 // ms; the smallest of many
		tail      float64 // share beyond five jitters
	}{
		{Uniform, 1 / math.Sqrt(3), 80, 0},
		{Normal, 1, 100 - 4.5*20, 0},
		{Pareto, 1, 100 - 0.578*20, 0.005},
	} {
		random := rand.New(rand.NewPCG(1, 2))
		c := Conditions{Latency: mean, Jitter: jitter, Spread: tt.spread}
		var sum, squares, far float64
		least := math.Inf(1)
		for range n {
			ms := float64(c.delay(random)) / 1e6
			sum += ms
			squares += (ms - 100) * (ms - 100)
			least = min(least, ms)
			if ms > 100+5*20 {
				far++
			}
		}
		if m := sum / n; math.Abs(m-100) > 0.5 {
			t.Errorf("spread %d: mean %.2fms, want 100", tt.spread, m)
		}
		if d := math.Sqrt(squares/n) / 20; math.Abs(d-tt.deviation) > 0.15 {
			t.Errorf("spread %d: deviation %.2f jitters, want %.2f", tt.spread, d, tt.deviation)
		}
		if math.Abs(least-tt.least) > 10 {
			t.Errorf("spread %d: the least is %.1fms, want %.1f", tt.spread, least, tt.least)
		}
		if share := far / n; math.Abs(share-tt.tail) > 0.003 {
			t.Errorf("spread %d: %.4f of all beyond five jitters, want %.4f", tt.spread, share, tt.tail)
		}
	}
	if d := (&Conditions{Latency: time.Millisecond, Jitter: time.Millisecond, Spread: Normal}).delay(rand.New(rand.NewPCG(3, 3))); d < 0 {
		t.Errorf("a delay of %v", d)
	}
}

// TestGate_latencyOneWay proves that jitter of any kind keeps the order, in
// virtual time over many chunks.
func TestGate_latencyOneWay(t *testing.T) {
	for _, spread := range []Spread{Uniform, Normal, Pareto} {
		bubble.Test(t, func(t *testing.T) {
			g := newGate(1)
			w := connect(t, g)
			g.add(&Conditions{Latency: 50 * time.Millisecond, Jitter: 50 * time.Millisecond, Spread: spread})
			var sent strings.Builder
			for i := range 500 {
				chunk := string(rune('a' + i%26))
				sent.WriteString(chunk)
				w.send(chunk)
			}
			got, _ := w.drain()
			if text(got) != sent.String() {
				t.Errorf("spread %d: what arrived is in another order", spread)
			}
		})
	}
}

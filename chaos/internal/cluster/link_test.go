package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds waits for something that must come; no test passes because
// of it.
const patience = 10 * time.Second

// echo answers every connection with its own bytes until the test ends.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

func network(t *testing.T) (*Network, *Link) {
	t.Helper()
	n := NewNetwork(1)
	upstream := echo(t)
	l, err := n.Add("n1", "n2", upstream)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n, l
}

func dial(t *testing.T, l *Link) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

func send(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, c net.Conn, s string) {
	t.Helper()
	got := make([]byte, len(s))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("reading %q: %v", s, err)
	}
	if string(got) != s {
		t.Fatalf("got %q, want %q", got, s)
	}
}

// eventually waits until what holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// TestLink_passes proves that an untouched link hands bytes on and counts them
// while the connection is still open.
func TestLink_passes(t *testing.T) {
	_, l := network(t)
	c := dial(t, l)
	send(t, c, "hello")
	expect(t, c, "hello")
	for _, w := range []Way{Forward, Backward} {
		eventually(t, "5 bytes are counted "+w.String(), func() bool { return l.Traffic(w).Bytes == 5 })
	}
}

// TestLink_stall proves that a stall keeps bytes and that release delivers all
// of them in order: to the old connection and to one that was opened meanwhile.
func TestLink_stall(t *testing.T) {
	for _, way := range []Way{Forward, Backward} {
		t.Run(way.String(), func(t *testing.T) {
			_, l := network(t)
			old := dial(t, l)
			send(t, old, "a")
			expect(t, old, "a")
			// A chunk is counted after it was handed on.
			eventually(t, "the first byte is counted", func() bool { return l.Traffic(way).Bytes == 1 })
			before := l.Traffic(way)

			lift := l.Apply(way, Conditions{Stall: true})
			fresh := dial(t, l)
			var sent bytes.Buffer
			for i := range 200 {
				fmt.Fprintf(&sent, "%d,", i)
			}
			send(t, old, sent.String())
			send(t, fresh, "new")
			eventually(t, "both connections meet the stall", func() bool { return l.Traffic(way).Held >= before.Held+2 })
			if got := l.Traffic(way).Bytes; got != before.Bytes {
				t.Errorf("%d bytes passed a stall", got-before.Bytes)
			}

			lift()
			expect(t, old, sent.String())
			expect(t, fresh, "new")
		})
	}
}

// TestLink_stallKeepsTheEnd proves that the other side does not learn that a
// process has died until release: a firewall drops that segment too.
func TestLink_stallKeepsTheEnd(t *testing.T) {
	n := NewNetwork(1)
	defer n.Close()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	l, err := n.Add("n1", "n2", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	here := dial(t, l)
	there, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	lift := l.Apply(Forward, Conditions{Stall: true})
	here.Close()
	eventually(t, "the end meets the stall", func() bool { return l.Traffic(Forward).Held == 1 })
	if err := there.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("during the stall: %v, want nothing", err)
	}
	lift()
	if err := there.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after release: %v, want the end", err)
	}
}

// TestLink_stallOneWay proves that the other direction goes on.
func TestLink_stallOneWay(t *testing.T) {
	n := NewNetwork(1)
	defer n.Close()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	l, err := n.Add("n1", "n2", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	here := dial(t, l)
	there, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	l.Apply(Forward, Conditions{Stall: true})
	send(t, here, "lost in the tunnel")
	send(t, there, "other way")
	expect(t, here, "other way")
	if got := l.Traffic(Forward).Bytes; got != 0 {
		t.Errorf("%d bytes passed a stall", got)
	}
}

// TestLink_latency proves that bytes take the time asked for, keep their order
// under jitter, and are delivered at once when the fault heals.
func TestLink_latency(t *testing.T) {
	_, l := network(t)
	c := dial(t, l)
	lift := l.Apply(Forward, Conditions{Latency: 50 * time.Millisecond, Jitter: 20 * time.Millisecond})
	start := time.Now()
	var sent strings.Builder
	for i := range 50 {
		s := fmt.Sprintf("%d;", i)
		sent.WriteString(s)
		send(t, c, s)
	}
	expect(t, c, sent.String())
	if took := time.Since(start); took < 30*time.Millisecond {
		t.Errorf("took %v, less than latency minus jitter", took)
	}
	if l.Traffic(Forward).Delayed == 0 {
		t.Error("no chunk counted as delayed")
	}

	before := l.Traffic(Forward).Delayed
	more := l.Apply(Forward, Conditions{Latency: time.Hour})
	lift()
	send(t, c, "soon")
	eventually(t, "the chunk waits", func() bool { return l.Traffic(Forward).Delayed > before })
	more()
	expect(t, c, "soon")
}

// TestLink_layers proves that a fault that heals does not heal another one.
func TestLink_layers(t *testing.T) {
	_, l := network(t)
	c := dial(t, l)
	one := l.Apply(Forward, Conditions{Stall: true})
	two := l.Apply(Forward, Conditions{Stall: true})
	send(t, c, "held")
	eventually(t, "the chunk meets the stall", func() bool { return l.Traffic(Forward).Held == 1 })
	one()
	one()
	if now, _, _ := l.gates[Forward].get(); !now.Stall {
		t.Error("the second stall ended with the first")
	}
	two()
	expect(t, c, "held")
	for range 2 {
		if err := l.Reject(); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	if !l.Refuses(t.Context()) {
		t.Error("the second rejection ended with the first")
	}
	if err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	if l.Refuses(t.Context()) {
		t.Error("refuses still")
	}
}

// TestLink_reject proves that open connections end, dials are refused, and that
// the same address serves again afterwards.
func TestLink_reject(t *testing.T) {
	_, l := network(t)
	addr := l.Addr()
	c := dial(t, l)
	send(t, c, "x")
	expect(t, c, "x")
	for range 3 {
		if l.Refuses(t.Context()) {
			t.Fatal("refuses before it was told to")
		}
		if err := l.Reject(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the connection is still open")
		}
		if !l.Refuses(t.Context()) {
			t.Error("a dial is not refused")
		}
		if _, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a dial gives %v", err)
		}
		if err := l.Accept(); err != nil {
			t.Fatal(err)
		}
		c = dial(t, l)
		send(t, c, "again")
		expect(t, c, "again")
	}
	if l.Addr() != addr {
		t.Errorf("the address changed from %s to %s", addr, l.Addr())
	}
}

// TestLink_reset proves that connections end at both ends, stalled or not,
// while new ones are accepted all the time.
func TestLink_reset(t *testing.T) {
	_, l := network(t)
	for i, stalled := range []bool{false, true, false} {
		c := dial(t, l)
		send(t, c, "x")
		expect(t, c, "x")
		lift := func() {}
		if stalled {
			lift = l.Apply(Forward, Conditions{Stall: true})
			send(t, c, "stuck")
			eventually(t, "the chunk meets the stall", func() bool { return l.Traffic(Forward).Held == 1 })
		}
		l.Reset()
		if l.Refuses(t.Context()) {
			t.Error("a dial is refused")
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("reset %d: the connection is still open: %v", i, err)
		}
		for _, w := range []Way{Forward, Backward} {
			eventually(t, "the ended connection is counted", func() bool { return l.Traffic(w).Reset >= int64(i+1) })
		}
		lift()
	}
	c := dial(t, l)
	send(t, c, "fresh")
	expect(t, c, "fresh")
}

// TestLink_rejectWhileStalled proves that a link with bytes stuck in it can be
// rejected and used again.
func TestLink_rejectWhileStalled(t *testing.T) {
	_, l := network(t)
	c := dial(t, l)
	lift := l.Apply(Forward, Conditions{Stall: true})
	send(t, c, "stuck")
	eventually(t, "the chunk meets the stall", func() bool { return l.Traffic(Forward).Held == 1 })
	if err := l.Reject(); err != nil {
		t.Fatal(err)
	}
	lift()
	if err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	c = dial(t, l)
	send(t, c, "fresh")
	expect(t, c, "fresh")
}

// TestNetwork_closeWithBytesStuck proves that closing leaves no goroutine
// behind (TestMain looks) whatever state the connections are in.
func TestNetwork_closeWithBytesStuck(t *testing.T) {
	n, l := network(t)
	for range 4 {
		c := dial(t, l)
		send(t, c, "x")
		expect(t, c, "x")
	}
	l.Apply(Backward, Conditions{Stall: true})
	c := dial(t, l)
	send(t, c, strings.Repeat("stuck ", 10000))
	eventually(t, "the chunk meets the stall", func() bool { return l.Traffic(Backward).Held >= 1 })
	other, err := n.Add("n2", "n1", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	other.Apply(Forward, Conditions{Latency: time.Hour})
	d := dial(t, other)
	send(t, d, "slow")
	eventually(t, "the chunk waits", func() bool { return other.Traffic(Forward).Delayed == 1 })
	// network's cleanup closes both.
}

// TestLink_deadUpstream proves that a dead process behind a link shows as a
// connection that ends at once, which is what a node's redial then sees.
func TestLink_deadUpstream(t *testing.T) {
	n := NewNetwork(1)
	defer n.Close()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := n.Add("n1", "n2", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
	c := dial(t, l)
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read gives %v, want the end of the connection", err)
	}
}

// The rest are contracts of Toxiproxy itself that this package and the faults
// rely on; they fail when an upgrade changes one.

// TestToxiproxy_metricsContainer: a server needs a container, even an empty
// one; with nil the first connection panics in a goroutine nobody can recover.
func TestToxiproxy_metricsContainer(t *testing.T) {
	s := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	if s.Metrics == nil {
		t.Error("no metrics container")
	}
}

// TestToxiproxy_timeoutRemovalCloses: removing a timeout toxic closes the
// connections it was on, so it cannot model a blackhole that heals.
func TestToxiproxy_timeoutRemovalCloses(t *testing.T) {
	_, l := network(t)
	c := dial(t, l)
	send(t, c, "x")
	expect(t, c, "x")
	if _, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(`{"name":"t","type":"timeout","stream":"upstream","attributes":{"timeout":0}}`)); err != nil {
		t.Fatal(err)
	}
	send(t, c, "swallowed")
	if err := l.proxy.Toxics.RemoveToxic(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection survived")
	}
}

// TestToxiproxy_ownToxicUnderStock: a toxic of Toxiproxy's own can be put
// behind ours and taken away again on a live connection without losing a byte,
// even while ours holds some.
func TestToxiproxy_ownToxicUnderStock(t *testing.T) {
	_, l := network(t)
	c := dial(t, l)
	send(t, c, "one")
	expect(t, c, "one")
	lift := l.Apply(Forward, Conditions{Stall: true})
	send(t, c, "two")
	eventually(t, "the chunk meets the stall", func() bool { return l.Traffic(Forward).Held == 1 })
	add := func() error {
		_, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(`{"name":"s","type":"slicer","stream":"upstream","attributes":{"average_size":1}}`))
		return err
	}
	if err := bounded(add); err != nil {
		t.Fatal(err)
	}
	lift()
	expect(t, c, "two")
	if err := bounded(func() error { return l.proxy.Toxics.RemoveToxic(context.Background(), "s") }); err != nil {
		t.Fatal(err)
	}
	send(t, c, "three")
	expect(t, c, "three")
}

// TestToxiproxy_halfClose: the end of one direction ends both, so a client
// that half-closes gets no answer to what is still on its way.
func TestToxiproxy_halfClose(t *testing.T) {
	n := NewNetwork(1)
	defer n.Close()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	l, err := n.Add("n1", "n2", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	here := dial(t, l)
	there, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if err := here.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := there.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("the server reads %v, want the end", err)
	}
	if _, err := here.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client reads %v, want the end: a half-close is now passed on as one", err)
	}
}

// TestPassage_lose proves that losses are as frequent as asked, come in bursts
// as long as asked, and take a retransmission timeout each, which doubles as
// often as what is sent again is lost.
func TestPassage_lose(t *testing.T) {
	for _, c := range []Conditions{{Loss: 0.05, Burst: 3}, {Loss: 0.05, Burst: 1}, {Loss: 0.3, Burst: 5}} {
		p := &passage{random: rand.New(rand.NewPCG(1, 2))}
		const n = 400_000
		var lost, bursts float64
		late := map[time.Duration]float64{}
		before := false
		for range n {
			d := p.lose(c)
			if d > 0 {
				lost++
				late[d]++
				if !before {
					bursts++
				}
			}
			before = d > 0
		}
		near := func(what string, got, want float64) {
			t.Helper()
			if math.Abs(got-want) > 0.05*want {
				t.Errorf("%+v: %s %.4f, want %.4f", c, what, got, want)
			}
		}
		near("share lost", lost/n, c.Loss)
		near("share late by one timeout", late[200*time.Millisecond]/lost, 1-c.Loss)
		near("share late by more than two", (lost-late[200*time.Millisecond]-late[600*time.Millisecond])/lost, c.Loss*c.Loss)
		// A burst that follows another at once looks like one.
		near("length of bursts", lost/bursts, c.Burst)
		if len(late) > 4 || late[3*time.Second] == 0 && c.Loss > 0.1 {
			t.Errorf("%+v: late by %v, want 200ms, 600ms, 1.4s or 3s", c, late)
		}
	}
	if d := (&passage{random: rand.New(rand.NewPCG(1, 2)), losing: true}).lose(Conditions{Latency: time.Second}); d != 0 {
		t.Errorf("late by %v without loss", d)
	}
}

// TestLink_loss proves that a lossy link delivers everything in order, some of
// it late, and says how much was.
func TestLink_loss(t *testing.T) {
	_, l := network(t)
	c := dial(t, l)
	lift := l.Apply(Forward, Conditions{Loss: 0.5, Burst: 1})
	for i := range 8 {
		s := fmt.Sprintf("chunk %d", i)
		send(t, c, s)
		expect(t, c, s)
	}
	lift()
	if got := l.Traffic(Forward); got.Lost == 0 || got.Lost > 7 || got.Delayed < got.Lost {
		t.Errorf("of 8 chunks at 50%% loss %d were lost and %d delayed", got.Lost, got.Delayed)
	}
	if got := l.Traffic(Backward); got.Lost != 0 {
		t.Errorf("%d lost the other way", got.Lost)
	}
	lost := l.Traffic(Forward).Lost
	for range 20 {
		send(t, c, "x")
		expect(t, c, "x")
	}
	if got := l.Traffic(Forward).Lost; got != lost {
		t.Errorf("%d lost after it was lifted", got-lost)
	}
}

// TestLink_resetOne proves that one connection of several is closed, at both
// ends, and that the others and new ones work on.
func TestLink_resetOne(t *testing.T) {
	_, l := network(t)
	if l.ResetOne(0) {
		t.Error("closed a connection that is not there")
	}
	var conns []net.Conn
	for range 3 {
		c := dial(t, l)
		send(t, c, "a")
		expect(t, c, "a")
		conns = append(conns, c)
	}
	if !l.ResetOne(4) { // the second of three
		t.Fatal("found no connection")
	}
	if _, err := conns[1].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the second connection is open: %v", err)
	}
	for _, c := range []net.Conn{conns[0], conns[2], dial(t, l)} {
		send(t, c, "b")
		expect(t, c, "b")
	}
	if got := l.Traffic(Forward).Reset; got != 1 {
		t.Errorf("%d connections were reset", got)
	}
	// The ones that have ended are no longer chosen.
	for left := 3; left > 0; left-- {
		if !l.ResetOne(uint64(left)) {
			t.Fatalf("found none with %d left", left)
		}
	}
	if l.ResetOne(0) {
		t.Error("found a fifth connection")
	}
}

package server

import (
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// door is a listener to which strangers come when they are told to.
type door struct {
	strangers chan net.Conn
	shut      chan struct{} // closed by Close: nobody comes any more
	once      sync.Once
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.strangers:
		return c, nil
	case <-d.shut:
		return nil, net.ErrClosed
	}
}

func (d *door) Close() error {
	d.once.Do(func() { close(d.shut) })
	return nil
}

func (d *door) Addr() net.Addr { return &net.TCPAddr{} }

// stranger is a connection whose far end says something that is no HTTP/2, and then nothing until its time is over. Only what
// a server uses of it before it turns it away is there.
type stranger struct {
	net.Conn
	says string
	from *net.TCPAddr
	gone chan struct{} // is sent to when the server closes it for the first time
	once sync.Once
}

func (c *stranger) Read(p []byte) (int, error) {
	if c.says == "" {
		return 0, &net.OpError{Op: "read", Net: "tcp", Source: c.from, Addr: c.from, Err: os.ErrDeadlineExceeded}
	}
	n := copy(p, c.says)
	c.says = c.says[n:]
	return n, nil
}

func (c *stranger) Close() error                { c.once.Do(func() { c.gone <- struct{}{} }); return nil }
func (c *stranger) RemoteAddr() net.Addr        { return c.from }
func (c *stranger) LocalAddr() net.Addr         { return c.from }
func (c *stranger) SetDeadline(time.Time) error { return nil }

// strangers by what they say.
var strangers = map[string]string{"silent": "", "half a preface": http2.ClientPreface[:10], "garbage": "GET / HTTP/1.1\r\n\r\n"}

// doorOf serves a node's door; visit has one stranger come and waits until it was turned away.
func doorOf(tb testing.TB) (visit func(says string)) {
	d := &door{strangers: make(chan net.Conn), shut: make(chan struct{})}
	s := New(Config{Backend: newBackend()})
	served := make(chan error)
	go func() { served <- s.Serve(d) }()
	tb.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			tb.Error(err)
		}
	})
	from, gone := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 50000}, make(chan struct{})
	return func(says string) {
		d.strangers <- &stranger{says: says, from: from, gone: gone}
		<-gone
	}
}

// A connection that is turned away before it speaks HTTP/2 allocates no more than it takes to hear that, name the reason and
// count it: not what a connection that speaks needs, and no text that nobody reads.
func TestRefusedIsCheap(t *testing.T) {
	const most = 20
	for name, says := range strangers {
		t.Run(name, func(t *testing.T) {
			visit := doorOf(t)
			visit(says) // the first is told to the log
			if n := testing.AllocsPerRun(500, func() { visit(says) }); n > most {
				t.Errorf("%v allocations, expected %d at most", n, most)
			}
		})
	}
}

func BenchmarkRefused(b *testing.B) {
	for name, says := range strangers {
		b.Run(name, func(b *testing.B) {
			visit := doorOf(b)
			b.ReportAllocs()
			for b.Loop() {
				visit(says)
			}
		})
	}
}

package server

import (
	"bytes"
	"cmp"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
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

// counted is credentials that only look who gets as far as a handshake, and read what was said until then.
type counted struct {
	credentials.TransportCredentials
	began chan []byte
}

func (c *counted) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	read := make([]byte, maxRecord)
	n, err := conn.Read(read)
	c.began <- read[:n]
	return nil, nil, cmp.Or(err, io.EOF)
}

// TestAwaitHello proves that a client of TLS costs no handshake before its first record is whole, however it is cut, and
// that what is no such record, or too long for one, goes to the handshake at once, which knows how to say so.
func TestAwaitHello(t *testing.T) {
	hello := append([]byte{handshakeRecord, 3, 1, 4, 0}, bytes.Repeat([]byte{7}, 1024)...)
	for name, c := range map[string]struct {
		parts [][]byte
		want  []byte // what the handshake begins with; nil: it never does
	}{
		"whole":            {[][]byte{hello}, hello},
		"cut everywhere":   {slices.Collect(slices.Chunk(hello, 3)), hello},
		"never whole":      {[][]byte{hello[:7]}, nil},
		"one byte missing": {[][]byte{hello[:500], hello[500 : len(hello)-1]}, nil},
		"says nothing":     {nil, nil},
		"speaks HTTP/2":    {[][]byte{[]byte("PRI * HTTP")}, []byte("PRI *")},
		"longer than any":  {[][]byte{{handshakeRecord, 3, 1, 0xff, 0xff}}, []byte{handshakeRecord, 3, 1, 0xff, 0xff}},
	} {
		t.Run(name, func(t *testing.T) {
			client, node := net.Pipe()
			creds := &counted{began: make(chan []byte, 1)}
			failed := make(chan string, 1)
			g := &handshaker{TransportCredentials: creds, failed: func(_ net.Conn, reason string, _ error) { failed <- reason }, turns: make(chan struct{}, 1)}
			go func() {
				for _, p := range c.parts {
					if _, err := client.Write(p); err != nil {
						break
					}
				}
				if c.want == nil {
					client.Close()
				}
			}()
			_, _, _ = g.ServerHandshake(node)
			client.Close()
			reason := <-failed
			select {
			case got := <-creds.began:
				if !bytes.Equal(got, c.want) {
					t.Errorf("the handshake began with %d bytes, expected %d", len(got), len(c.want))
				}
			default:
				if c.want != nil {
					t.Error("the handshake never began")
				}
			}
			if reason != refusedClosed {
				t.Errorf("%s, expected %s", reason, refusedClosed)
			}
		})
	}
}

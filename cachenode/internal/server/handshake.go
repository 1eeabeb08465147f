package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Reasons for which a connection does not come about.
const (
	refusedPlaintext   = "plaintext"   // it speaks no TLS, the listener does
	refusedTLS         = "tls"         // it speaks TLS, the listener does not
	refusedCertificate = "certificate" // its certificate is not accepted
	refusedAlert       = "alert"       // it does not accept the node's
	refusedTimeout     = "timeout"
	refusedClosed      = "closed" // it was closed in the middle, as a port scan or a load balancer's probe does
	refusedProtocol    = "protocol"
)

var handshakeReasons = [...]string{
	refusedPlaintext, refusedTLS, refusedCertificate, refusedAlert, refusedTimeout, refusedClosed, refusedProtocol,
}

// handshaker is the transport credentials of the listener. It passes on why connections fail before they are any: gRPC keeps
// that to itself.
type handshaker struct {
	credentials.TransportCredentials
	plain  bool // no TLS
	failed func(conn net.Conn, reason string, err error)
	turns  chan struct{} // a place for each handshake that may compute now; nil if plain
}

func newHandshaker(cfg *tls.Config, failed func(conn net.Conn, reason string, err error)) *handshaker {
	if cfg == nil {
		return &handshaker{TransportCredentials: insecure.NewCredentials(), plain: true, failed: failed}
	}
	return &handshaker{TransportCredentials: credentials.NewTLS(cfg), failed: failed, turns: make(chan struct{}, handshakesAtOnce())}
}

// handshakesAtOnce is how many handshakes compute at a time. Each takes most of a millisecond of a processor, and the Go
// scheduler takes goroutines in turn: when a thousand clients come back together the loop would get its next turn after
// all of them, and its heartbeats with it. Eight for each processor delay it by some milliseconds. Why not fewer? Who gets
// a turn still has to wait for the scheduler, and where that takes long one after the other would be too slow for clients.
func handshakesAtOnce() int { return 8 * runtime.GOMAXPROCS(0) }

// Clone implements credentials.TransportCredentials.
func (g *handshaker) Clone() credentials.TransportCredentials {
	return &handshaker{g.TransportCredentials.Clone(), g.plain, g.failed, g.turns}
}

// ServerHandshake implements credentials.TransportCredentials. A connection that fails is counted, told and closed here, and
// gRPC hears that others look after it: it would put what was wrong into words twice more, which nobody reads.
func (g *handshaker) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := g.secure(raw)
	if err == nil {
		conn, err = g.awaitPreface(conn)
	}
	if err != nil {
		reason := handshakeReason(err)
		switch reason {
		case refusedPlaintext:
			tellTLS(raw, err)
		case refusedTLS:
			goAway(raw, http2.ErrCodeProtocol, "this port does not speak TLS")
		}
		raw.Close()
		g.failed(raw, reason, err)
		return nil, nil, credentials.ErrConnDispatched
	}
	return conn, info, nil
}

// secure makes the handshake of TLS, if there is one. After an error raw is still open.
func (g *handshaker) secure(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if g.plain {
		return g.TransportCredentials.ServerHandshake(raw)
	}
	hello, err := awaitHello(raw)
	if err != nil {
		return nil, nil, err
	}
	held := &heldConn{Conn: &prefaced{Conn: raw, unread: hello}, turns: g.turns}
	held.hold.Store(true)
	defer func() {
		held.hold.Store(false)
		held.yield()
	}()
	return g.TransportCredentials.ServerHandshake(held)
}

// The header of a record of TLS, and the most that a record is with it.
const (
	recordHeader = 5
	maxRecord    = recordHeader + 16<<10 + 2<<10
)

// awaitHello reads the first record of a client of TLS, or the beginning of what is none. The handshake would do that too,
// deep in the stack of a goroutine that has grown for it: of five thousand clients that begin and fall silent each held
// 20 KiB, and the collector, which looks through all stacks, made others wait for 150 ms every three seconds.
func awaitHello(conn net.Conn) ([]byte, error) {
	read := make([]byte, recordHeader)
	if _, err := io.ReadFull(conn, read); err != nil {
		return nil, err
	}
	want := recordHeader + int(binary.BigEndian.Uint16(read[3:]))
	if read[0] != handshakeRecord || want > maxRecord {
		return read, nil
	}
	for len(read) < want {
		// As much room as there is data, not as was announced.
		part := min(want-len(read), max(512, len(read)))
		read = slices.Grow(read, part)
		n, err := conn.Read(read[len(read) : len(read)+part])
		read = read[:len(read)+n]
		if err != nil && len(read) < want {
			return nil, err
		}
	}
	return read, nil
}

// heldConn stays open while there may be something to say to the other side: gRPC closes what fails. During the handshake
// it waits for a turn to compute whenever the other side has said something, and gives it away when it waits for more: so
// nobody can keep one by being silent.
type heldConn struct {
	net.Conn
	turns chan struct{}
	hold  atomic.Bool // the handshake goes on
	turn  bool        // it has one; of the handshake's goroutine alone
}

// Read implements net.Conn.
func (c *heldConn) Read(p []byte) (int, error) {
	if !c.hold.Load() {
		return c.Conn.Read(p)
	}
	c.yield()
	n, err := c.Conn.Read(p)
	if err == nil {
		c.turns <- struct{}{}
		c.turn = true
	}
	return n, err
}

func (c *heldConn) yield() {
	if c.turn {
		<-c.turns
		c.turn = false
	}
}

func (c *heldConn) Close() error {
	if c.hold.Load() {
		return nil
	}
	return c.Conn.Close()
}

func handshakeReason(err error) string {
	if errors.Is(err, errTLSClient) {
		return refusedTLS
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return refusedPlaintext
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return refusedCertificate
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return refusedAlert
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return refusedTimeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return refusedClosed
	}
	if _, ok := errors.AsType[*net.OpError](err); ok { // a reset
		return refusedClosed
	}
	return refusedProtocol
}

// tellTLS answers a client that speaks HTTP/2 without TLS in its own language, so that it has more to show than the end of
// a connection.
func tellTLS(conn net.Conn, err error) {
	bad, _ := errors.AsType[tls.RecordHeaderError](err)
	if bytes.HasPrefix([]byte(http2.ClientPreface), bad.RecordHeader[:]) {
		goAway(conn, http2.ErrCodeInadequateSecurity, "this port speaks TLS only")
	}
}

// How long, and for how many bytes, a client is listened to that was told why it is turned away. A client's first messages
// are shorter.
const (
	farewellTime  = time.Second
	farewellBytes = 16 << 10
)

// goAway says in HTTP/2 why the connection is about to be closed; a client of TLS shows that as something that is not TLS.
// What it says meanwhile is taken: a connection that is closed with something unread is reset, and a client whose own
// writing fails for that does not read the answer.
func goAway(conn net.Conn, code http2.ErrCode, why string) {
	_ = conn.SetDeadline(time.Now().Add(farewellTime))
	f := http2.NewFramer(conn, nil)
	_ = f.WriteSettings()
	if f.WriteGoAway(0, code, []byte(why)) != nil {
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	buf := make([]byte, 512)
	for taken := 0; taken < farewellBytes; {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		taken += n
	}
}

var (
	errTLSClient = errors.New("the client speaks TLS, and this port does not")
	errNoPreface = errors.New("the client does not speak HTTP/2")
)

// awaitPreface waits until the other side has said that it speaks HTTP/2. gRPC would do that too, after it has allocated
// what a connection needs, 66 KiB of which half is cleared: thousands that connect and say nothing, or nonsense, cost a
// goroutine each here and are turned away at their first wrong byte.
func (g *handshaker) awaitPreface(conn net.Conn) (net.Conn, error) {
	read := make([]byte, len(http2.ClientPreface))
	for have := 0; have < len(read); {
		n, err := conn.Read(read[have:])
		have += n
		switch {
		case have > 0 && read[0] == handshakeRecord && g.plain:
			return nil, errTLSClient
		case string(read[:have]) != http2.ClientPreface[:have]:
			return nil, errNoPreface
		case err != nil && have < len(read):
			return nil, err
		}
	}
	return &prefaced{Conn: conn, unread: read}, nil
}

// handshakeRecord is the first byte of a client that begins with TLS.
const handshakeRecord = 0x16

// prefaced is a connection whose beginning was read, and is there to be read again. One goroutine reads at a time.
type prefaced struct {
	net.Conn
	unread []byte
}

// Read implements net.Conn.
func (c *prefaced) Read(p []byte) (int, error) {
	if len(c.unread) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}

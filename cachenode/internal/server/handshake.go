package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"

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
}

func newHandshaker(cfg *tls.Config, failed func(conn net.Conn, reason string, err error)) *handshaker {
	if cfg == nil {
		return &handshaker{insecure.NewCredentials(), true, failed}
	}
	return &handshaker{credentials.NewTLS(cfg), false, failed}
}

// Clone implements credentials.TransportCredentials.
func (g *handshaker) Clone() credentials.TransportCredentials {
	return &handshaker{g.TransportCredentials.Clone(), g.plain, g.failed}
}

// ServerHandshake implements credentials.TransportCredentials.
func (g *handshaker) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if g.plain {
		return g.TransportCredentials.ServerHandshake(&plainConn{Conn: raw, handshaker: g})
	}
	held := &heldConn{Conn: raw}
	held.hold.Store(true)
	conn, info, err := g.TransportCredentials.ServerHandshake(held)
	held.hold.Store(false)
	if err != nil {
		reason := handshakeReason(err)
		if reason == refusedPlaintext {
			tellTLS(err)
		}
		raw.Close()
		g.failed(raw, reason, err)
	}
	return conn, info, err
}

// heldConn stays open while there may be something to say to the other side: gRPC closes what fails.
type heldConn struct {
	net.Conn
	hold atomic.Bool
}

func (c *heldConn) Close() error {
	if c.hold.Load() {
		return nil
	}
	return c.Conn.Close()
}

func handshakeReason(err error) string {
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
func tellTLS(err error) {
	bad, _ := errors.AsType[tls.RecordHeaderError](err)
	if bad.Conn == nil || !bytes.HasPrefix([]byte(http2.ClientPreface), bad.RecordHeader[:]) {
		return
	}
	f := http2.NewFramer(bad.Conn, nil)
	_ = f.WriteSettings()
	_ = f.WriteGoAway(0, http2.ErrCodeInadequateSecurity, []byte("this port speaks TLS only"))
}

// plainConn looks at the first bytes of a connection without TLS.
type plainConn struct {
	net.Conn
	handshaker *handshaker
	seen       atomic.Bool
}

var errTLSClient = errors.New("the client speaks TLS, and this port does not")

// Read implements net.Conn.
func (c *plainConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n == 0 || c.seen.Load() || c.seen.Swap(true) {
		return n, err
	}
	const handshakeRecord = 0x16
	if p[0] == handshakeRecord {
		c.handshaker.failed(c.Conn, refusedTLS, errTLSClient)
		return 0, errTLSClient
	}
	return n, err
}

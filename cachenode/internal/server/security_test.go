package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/hacache/hacache/internal/bubble"
)

// logged is a logger and what it has written. It is safe for concurrent use.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.buf.String(), "\n"), "\n")
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// selfSigned is a certificate for name that is its own CA.
func selfSigned(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}, pool
}

// Connections that cannot be are told apart, counted, and said in one line each; a client without TLS gets an answer that
// it can read.
func TestHandshakeFailures(t *testing.T) {
	own, pool := selfSigned(t, "node")
	foreign, _ := selfSigned(t, "node")
	mutual := &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS13}
	handshake := func(cfg *tls.Config) func(*testing.T, net.Conn) {
		return func(_ *testing.T, conn net.Conn) {
			secured := tls.Client(conn, cfg)
			if secured.Handshake() == nil {
				_, _ = secured.Read(make([]byte, 1))
			}
		}
	}
	tests := []struct {
		name   string
		tls    *tls.Config
		client func(t *testing.T, conn net.Conn)
		reason string
		quiet  bool
	}{
		{name: "plaintext to a TLS port", tls: mutual, reason: refusedPlaintext, client: func(t *testing.T, conn net.Conn) {
			_, _ = conn.Write([]byte(http2.ClientPreface))
			f := http2.NewFramer(conn, conn)
			if err := f.WriteSettings(); err != nil {
				t.Error(err)
			}
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					t.Errorf("no GOAWAY: %v", err)
					return
				}
				if away, ok := frame.(*http2.GoAwayFrame); ok {
					if !strings.Contains(string(away.DebugData()), "TLS only") {
						t.Errorf("GOAWAY says %q", away.DebugData())
					}
					return
				}
			}
		}},
		{name: "garbage to a TLS port", tls: mutual, reason: refusedPlaintext, client: func(_ *testing.T, conn net.Conn) {
			_, _ = conn.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
			_, _ = conn.Read(make([]byte, 1))
		}},
		{name: "TLS to a plaintext port", reason: refusedTLS, client: func(t *testing.T, conn net.Conn) {
			err := tls.Client(conn, &tls.Config{ServerName: "node", RootCAs: pool}).Handshake()
			if _, ok := errors.AsType[tls.RecordHeaderError](err); !ok {
				t.Errorf("the client got %v", err)
			}
		}},
		{name: "garbage to a plaintext port", reason: refusedProtocol, client: func(t *testing.T, conn net.Conn) {
			_, _ = conn.Write([]byte("PRI * HTTP/1.1\r\n"))
			if n, err := conn.Read(make([]byte, 1)); err == nil {
				t.Errorf("%d bytes in answer", n)
			}
		}},
		{name: "half of a preface", reason: refusedClosed, quiet: true, client: func(_ *testing.T, conn net.Conn) {
			_, _ = conn.Write([]byte(http2.ClientPreface)[:10])
		}},
		{name: "garbage within TLS", tls: mutual, reason: refusedProtocol, client: func(t *testing.T, conn net.Conn) {
			secured := tls.Client(conn, &tls.Config{ServerName: "node", RootCAs: pool, Certificates: []tls.Certificate{own}, NextProtos: []string{http2.NextProtoTLS}})
			if _, err := secured.Write([]byte("\x16\x03\x01\r\n\r\n")); err != nil { // as TLS begins, too
				t.Error(err)
			}
			if n, err := secured.Read(make([]byte, 1)); err == nil {
				t.Errorf("%d bytes in answer", n)
			}
		}},
		{name: "no certificate", tls: mutual, reason: refusedProtocol, client: handshake(&tls.Config{ServerName: "node", RootCAs: pool})},
		{name: "foreign certificate", tls: mutual, reason: refusedCertificate, client: handshake(&tls.Config{
			ServerName: "node", RootCAs: pool,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &foreign, nil },
		})},
		{name: "a client that does not trust us", tls: mutual, reason: refusedAlert, client: handshake(&tls.Config{ServerName: "other", RootCAs: pool})},
		{name: "TLS 1.2", tls: mutual, reason: refusedProtocol, client: handshake(&tls.Config{ServerName: "node", RootCAs: pool, MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12})},
		{name: "a probe of the port", tls: mutual, reason: refusedClosed, quiet: true, client: func(*testing.T, net.Conn) {}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log logged
			s := New(Config{Backend: newBackend(), TLS: tt.tls, Logger: log.logger()})
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- s.Serve(ln) }()
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			tt.client(t, conn)
			conn.Close()
			name := "handshake_failures_total{reason=" + tt.reason + "}"
			for end := time.Now().Add(20 * time.Second); series(t, s)[name] == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
			}
			s.Stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
			all := series(t, s)
			for _, reason := range handshakeReasons {
				if got := all["handshake_failures_total{reason="+reason+"}"]; (got == 1) != (reason == tt.reason) {
					t.Errorf("%s: %v", reason, got)
				}
			}
			lines := log.lines()
			if tt.quiet {
				if lines[0] != "" {
					t.Errorf("logged %q", lines)
				}
				return
			}
			if len(lines) != 1 || !strings.Contains(lines[0], `level=WARN msg="connection refused" reason=`+tt.reason+" from=127.0.0.1:") {
				t.Errorf("logged %q", lines)
			}
		})
	}
}

// TestHandshakesTakeTurns proves that not more handshakes compute at a time than have turns, and that one whose client falls
// silent in the middle keeps no turn: others get through.
func TestHandshakesTakeTurns(t *testing.T) {
	own, pool := selfSigned(t, "node")
	var computing, most atomic.Int64
	cfg := &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true}
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		n := computing.Add(1)
		defer computing.Add(-1)
		for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
		}
		for range 100 {
			runtime.Gosched() // others would come in between if they could
		}
		return nil, nil
	}
	h := newHandshaker(cfg, func(net.Conn, string, error) {})
	var servers, clients sync.WaitGroup
	defer servers.Wait()
	serve := func() net.Conn {
		near, far := net.Pipe()
		_ = far.SetDeadline(time.Now().Add(20 * time.Second))
		servers.Go(func() {
			defer far.Close()
			_, _, _ = h.ServerHandshake(far)
		})
		return near
	}
	for range 3 * cap(h.turns) { // they say hello and listen, and no more
		near := serve()
		defer near.Close()
		silent := &mute{Conn: near}
		clients.Go(func() {
			_ = tls.Client(silent, &tls.Config{ServerName: "node", RootCAs: pool, NextProtos: []string{http2.NextProtoTLS}}).Handshake()
		})
	}
	for range 4 * cap(h.turns) {
		near := serve()
		clients.Go(func() {
			defer near.Close()
			_ = near.SetDeadline(time.Now().Add(20 * time.Second))
			secured := tls.Client(near, &tls.Config{ServerName: "node", RootCAs: pool, Certificates: []tls.Certificate{own}, NextProtos: []string{http2.NextProtoTLS}})
			if _, err := secured.Write([]byte(http2.ClientPreface)); err != nil {
				t.Errorf("a client beside silent ones: %v", err)
			}
		})
	}
	clients.Wait()
	if got := most.Load(); got > int64(cap(h.turns)) {
		t.Errorf("%d handshakes computed at a time, want %d at most", got, cap(h.turns))
	}
}

// mute is a connection that sends one message and drops the rest.
type mute struct {
	net.Conn
	sent bool
}

func (m *mute) Write(p []byte) (int, error) {
	if m.sent {
		return len(p), nil
	}
	m.sent = true
	return m.Conn.Write(p)
}

// Refusals are all counted and few are logged: the first at once, then one in ten seconds with the number since.
func TestComplaints(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var log logged
		n := start(t, Config{Backend: newBackend(), Token: "right", Logger: log.logger()})
		defer n.stop()
		try := func(md ...string) {
			t.Helper()
			if _, err := n.open(t, t.Context(), md...).Recv(); err == nil {
				t.Fatal("let in")
			}
		}
		for range 1000 {
			try("authorization", "wrong")
			time.Sleep(20 * time.Millisecond)
		}
		try()
		synctest.Wait()
		lines := log.lines()
		if len(lines) != 3 {
			t.Fatalf("%d lines in 20 s: %q", len(lines), lines)
		}
		for i, want := range []string{"reason=wrong_token", "before=499", "reason=no_token"} {
			if !strings.Contains(lines[i], want) {
				t.Errorf("line %d: %s, want %s", i+1, lines[i], want)
			}
		}
		if strings.Contains(strings.Join(lines, "\n"), "right") {
			t.Error("a line shows the token")
		}
		all := series(t, n.Server)
		if all["streams_denied_total{reason=wrong_token}"] != 1000 || all["streams_denied_total{reason=no_token}"] != 1 {
			t.Errorf("counted %v", all)
		}
	})
}

// Whoever claims to be a peer and is not by its certificate is refused, counted and logged like a wrong token.
func TestNotAPeer(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var log logged
		b := newBackend()
		b.notPeer = errors.New("its certificate is a client's")
		n := start(t, Config{Backend: b, Logger: log.logger()})
		defer n.stop()
		_, err := n.open(t, t.Context(), "cachenode-peer", "1;0;data").Recv()
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "not a peer: its certificate is a client's") {
			t.Errorf("got %v", err)
		}
		if all := series(t, n.Server); all["streams_denied_total{reason=not_a_peer}"] != 1 {
			t.Error("not counted")
		}
		if lines := log.lines(); len(lines) != 1 || !strings.Contains(lines[0], "reason=not_a_peer") {
			t.Errorf("logged %q", lines)
		}
	})
}

// A stream with more metadata than a token and a name needs is not opened; the connection lives.
func TestHeaderLimit(t *testing.T) {
	n := start(t, Config{Backend: newBackend()})
	defer n.stop()
	stream, err := n.newStream(metadata.AppendToOutgoingContext(t.Context(), "x", strings.Repeat("x", 2*maxHeaderBytes)))
	if err == nil {
		_, err = stream.Recv()
	}
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("opened: %v", err)
	}
	n.greeted(t, t.Context())
}

// Whoever reads the log by a program finds one kind of value under one name: the address is a text in every line.
func TestComplaintsAsJSON(t *testing.T) {
	var log logged
	n := start(t, Config{Backend: newBackend(), Token: "right", Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	defer n.stop()
	if _, err := n.open(t, t.Context()).Recv(); err == nil {
		t.Fatal("let in without a token")
	}
	raw, err := n.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.Write([]byte("GET / HTTP/1.1\r\nHost: node\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadAll(raw) // until it is closed
	for _, line := range eventually(&log, 2) {
		var said struct{ From any }
		if err := json.Unmarshal([]byte(line), &said); err != nil {
			t.Fatal(err)
		}
		if _, isText := said.From.(string); !isText {
			t.Errorf("from is %v in %s", said.From, line)
		}
	}
}

// eventually waits until n lines were logged.
func eventually(log *logged, n int) []string {
	for len(log.lines()) < n || log.lines()[n-1] == "" {
		runtime.Gosched()
	}
	return log.lines()
}

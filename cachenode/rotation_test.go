package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/cachenode/proc"
	"github.com/hacache/hacache/proto/cachepb"
)

// tlsCluster is three processes with certificates of certs dev.
type tlsCluster struct {
	dir   string
	addrs []string
	nodes []*proc.Process
}

const tlsToken = "s3cret"

func startTLSCluster(t *testing.T) *tlsCluster {
	t.Helper()
	c := &tlsCluster{dir: t.TempDir()}
	var listeners []*net.TCPListener
	for range 3 {
		ln, err := proc.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, ln)
		c.addrs = append(c.addrs, ln.Addr().String())
	}
	c.issue(t)
	for i, ln := range listeners {
		spec := c.spec(t, i)
		spec.Listener = ln
		p, err := proc.Start(context.Background(), spec)
		if err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes, p)
		t.Cleanup(func() {
			if err := p.Stop(20 * time.Second); err != nil {
				t.Errorf("%s: %v: %s", p.Name(), err, p.LastLine())
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, addr := range c.addrs {
		if _, err := proc.WaitMember(ctx, client.Config{Addr: addr, Token: tlsToken, TLS: c.clientTLS(t, caCert, "client")}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// spec says how to run a node.
func (c *tlsCluster) spec(t *testing.T, i int) proc.Spec {
	t.Helper()
	return proc.Spec{
		Name: c.addrs[i], Binary: program(t), LogPath: c.log(i),
		Env: append(c.env(fileName(c.addrs[i]), "SERVER"), "HA_MODE=true", "HA_HOSTS="+strings.Join(c.addrs, ","), "HOSTNAME_OVERWRITE="+c.addrs[i]),
	}
}

func (c *tlsCluster) log(i int) string { return filepath.Join(c.dir, fmt.Sprintf("node-%d.log", i)) }

// said returns how often a node has logged something.
func (c *tlsCluster) said(t *testing.T, i int, what string) int {
	t.Helper()
	log, err := os.ReadFile(c.log(i))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(log), what)
}

// issue makes all certificates, anew if they exist.
func (c *tlsCluster) issue(t *testing.T) {
	t.Helper()
	var out strings.Builder
	if code := run(t.Context(), []string{"certs", "dev", "--hosts", strings.Join(c.addrs, ","), c.dir}, nil, &out, &out); code != 0 {
		t.Fatal(out.String())
	}
}

// issueIn makes a CA and certificates for the same hosts in another directory.
func (c *tlsCluster) issueIn(t *testing.T, dir string) *tlsCluster {
	t.Helper()
	other := &tlsCluster{dir: dir, addrs: c.addrs}
	other.issue(t)
	return other
}

func (c *tlsCluster) read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// replace puts a file in the place of another, or of none, as a whole.
func (c *tlsCluster) replace(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// breakKeys leaves half a key on all nodes until each has said so, once, and served on what it had.
func (c *tlsCluster) breakKeys(t *testing.T) {
	t.Helper()
	const broken = "the certificates on disk cannot be used"
	cfg := c.clientTLS(t, caCert, "client")
	for i, addr := range c.addrs {
		before, _ := c.serial(t, addr, cfg)
		reloads, complaints := c.said(t, i, "certificates reloaded"), c.said(t, i, broken)
		key := c.read(t, fileName(addr)+".key")
		c.replace(t, fileName(addr)+".key", key[:len(key)/2])
		for end := time.Now().Add(20 * time.Second); c.said(t, i, broken) == complaints && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		}
		if after, _ := c.serial(t, addr, cfg); after != before {
			t.Errorf("%s serves something else", addr)
		}
		for range 3 { // it looks again every second, and by itself when told
			if err := c.nodes[i].Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
		c.replace(t, fileName(addr)+".key", key)
		if n := c.said(t, i, broken) - complaints; n != 1 {
			t.Errorf("node %d says %d times that its key is broken", i, n)
		}
		if n := c.said(t, i, "certificates reloaded") - reloads; n != 0 {
			t.Errorf("node %d has taken over half a key", i)
		}
	}
}

// env names a certificate, as a server's or a client's.
func (c *tlsCluster) env(file, side string) []string {
	return []string{
		"CACHE_TLS=true", "CACHE_AUTH_TOKEN=" + tlsToken, "CACHE_TLS_CA_SERVER=" + filepath.Join(c.dir, caCert),
		"CACHE_TLS_" + side + "_CERT=" + filepath.Join(c.dir, file+".pem"), "CACHE_TLS_" + side + "_KEY=" + filepath.Join(c.dir, file+".key"),
	}
}

// clientTLS is the configuration of a client that trusts the CAs of a file and has the certificate of another.
func (c *tlsCluster) clientTLS(t *testing.T, ca, file string) *tls.Config {
	t.Helper()
	env := append(c.env(file, "CLIENT"), "CACHE_TLS_CA_SERVER="+filepath.Join(c.dir, ca))
	cfg, _, err := config.Load(config.Input{Client: true, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := cfg.LoadKeys()
	if err != nil {
		t.Fatal(err)
	}
	return keys.Client()
}

// rotation is one replacement of files on all nodes.
type rotation struct {
	what string
	do   func(t *testing.T)
	tell bool // the nodes by SIGHUP, and do not wait until they notice
	// served reports whether a node uses the new files.
	served func(t *testing.T, addr string) bool
}

// rotations are the ways in which an operator replaces certificates: renewed by the same CA, and the CA itself in the three
// steps of deploy/README.md. They are to be made in this order. newcomers are told what certificate is right from when on.
func (c *tlsCluster) rotations(t *testing.T, newcomers *newcomers) []rotation {
	t.Helper()
	next := c.issueIn(t, filepath.Join(c.dir, "next"))
	old := c.read(t, caCert)
	both := append(bytes.Clone(old), next.read(t, caCert)...)
	// For clients that must trust the nodes all the time.
	c.replace(t, "both.pem", both)
	c.replace(t, "old.pem", c.read(t, "client.pem"))
	c.replace(t, "old.key", c.read(t, "client.key"))
	ofOld, ofNext := c.clientTLS(t, "both.pem", "old"), c.clientTLS(t, "both.pem", "next/client")
	newcomers.use(ofOld)
	served := map[string]string{}
	changed := func(t *testing.T, addr string) bool {
		serial, ok := c.serial(t, addr, ofOld)
		return ok && serial != served[addr]
	}
	renew := func(t *testing.T) {
		for _, addr := range c.addrs {
			served[addr], _ = c.serial(t, addr, ofOld)
		}
		c.issue(t)
	}
	return []rotation{
		{what: "certificates renewed", do: renew, served: changed},
		{what: "certificates renewed, SIGHUP", do: renew, tell: true, served: changed},
		{
			what: "old and new CA trusted", do: func(t *testing.T) { c.replace(t, caCert, both) },
			served: func(t *testing.T, addr string) bool { return c.accepts(t, addr, ofNext) },
		},
		{
			what: "certificates of the new CA",
			do: func(t *testing.T) {
				for _, addr := range c.addrs {
					served[addr], _ = c.serial(t, addr, ofOld)
					for _, suffix := range []string{".key", ".pem"} {
						c.replace(t, fileName(addr)+suffix, next.read(t, fileName(addr)+suffix))
					}
				}
				newcomers.use(ofNext)
			},
			served: changed,
		},
		{
			what: "only the new CA trusted", do: func(t *testing.T) { c.replace(t, caCert, next.read(t, caCert)) },
			served: func(t *testing.T, addr string) bool { return !c.accepts(t, addr, ofOld) && c.accepts(t, addr, ofNext) },
		},
	}
}

// rotate replaces files, and returns how long it took until each node used them.
func (c *tlsCluster) rotate(t *testing.T, r rotation) (took []time.Duration) {
	t.Helper()
	began := time.Now()
	r.do(t)
	for _, p := range c.nodes {
		if r.tell {
			if err := p.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
	}
	took = make([]time.Duration, len(c.addrs))
	var all sync.WaitGroup
	for i, addr := range c.addrs {
		all.Go(func() {
			for end := began.Add(20 * time.Second); !r.served(t, addr); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(end) {
					t.Errorf("%s: not in force at %s", r.what, addr)
					return
				}
			}
			took[i] = time.Since(began)
		})
	}
	all.Wait()
	return took
}

// serial returns the number of the certificate that a node serves.
func (c *tlsCluster) serial(t *testing.T, addr string, cfg *tls.Config) (string, bool) {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, cfg)
	if err != nil {
		t.Errorf("%s: %v", addr, err)
		return "", false
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), true
}

// accepts reports whether a node takes a client's certificate. With TLS 1.3 a client has its answer only from what comes
// after the handshake.
func (c *tlsCluster) accepts(t *testing.T, addr string, cfg *tls.Config) bool {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, cfg)
	if err != nil {
		t.Errorf("%s: %v", addr, err)
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write([]byte(http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		return false
	}
	_, err = conn.Read(make([]byte, 1))
	return err == nil
}

// newcomers are clients that connect, write, and go.
type newcomers struct {
	tls         atomic.Pointer[tls.Config]
	came, wrong atomic.Int64
	over        chan struct{}
	all         sync.WaitGroup
}

func (n *newcomers) use(cfg *tls.Config) { n.tls.Store(cfg) }

// come lets them come to all nodes until end.
func (n *newcomers) come(t *testing.T, addrs []string) {
	n.over = make(chan struct{})
	for _, addr := range addrs {
		n.all.Go(func() {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-n.over:
					return
				case <-tick.C:
				}
				n.came.Add(1)
				if err := n.visit(addr); err != nil {
					n.wrong.Add(1)
					t.Errorf("a newcomer at %s: %v", addr, err)
				}
			}
		})
	}
}

func (n *newcomers) visit(addr string) error {
	conn, err := client.NewConn(client.Config{Addr: addr, Token: tlsToken, TLS: n.tls.Load()})
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := conn.Ready(ctx); err != nil {
		return err
	}
	return conn.Do(ctx, &client.Op{Kind: client.KindInsert, Cache: "newcomers", Key: addr}).Err
}

func (n *newcomers) end() {
	close(n.over)
	n.all.Wait()
}

// New certificates and CAs are in force from the next connection on, whether the nodes notice by themselves or are told by
// SIGHUP; files that are not in order change nothing. No operation on the connections that are up fails, and no client
// that comes meanwhile with what is right then. make drill does this under more load.
func TestCertificateRotation(t *testing.T) {
	c := startTLSCluster(t)
	var load sync.WaitGroup
	var done, failed atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	for _, addr := range c.addrs {
		conn, err := client.NewConn(client.Config{Addr: addr, Token: tlsToken, TLS: c.clientTLS(t, caCert, "client")})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		load.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				out := conn.Do(t.Context(), &client.Op{Kind: client.KindInsert, Cache: "c", Key: fmt.Sprint(addr, i%100), Value: []byte("v")})
				if done.Add(1); out.Status != client.StatusOK {
					failed.Add(1)
					t.Errorf("through %s: %+v", addr, out)
					return
				}
			}
		})
	}
	var strangers newcomers
	steps := c.rotations(t, &strangers)
	strangers.come(t, c.addrs)
	for i, r := range steps {
		t.Logf("%s: after %v", r.what, c.rotate(t, r))
		if i == 0 {
			c.breakKeys(t)
		}
	}
	strangers.end()
	cancel()
	load.Wait()
	t.Logf("%d operations, %d failed; %d newcomers, %d refused", done.Load(), failed.Load(), strangers.came.Load(), strangers.wrong.Load())
	if done.Load() == 0 || strangers.came.Load() == 0 {
		t.Error("there was no load")
	}
	for i := range c.nodes {
		if n := c.said(t, i, `msg="certificates reloaded"`); n < len(steps) {
			t.Errorf("node %d says %d times that certificates were reloaded", i, n)
		}
	}
}

// With a certificate for each host, a client's certificate and that of another host are no peer's, whatever the stream
// says of itself and though the token is right; the host's own is.
func TestPeerIdentity(t *testing.T) {
	c := startTLSCluster(t)
	// The id of the second host's process is what the second node tells everybody of itself.
	conn, err := client.NewConn(client.Config{Addr: c.addrs[1], Token: tlsToken, TLS: c.clientTLS(t, caCert, "client")})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	h, err := conn.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := h.GetPeer().GetStatus().GetId()
	claim := func(file string) error {
		t.Helper()
		cc, err := grpc.NewClient("passthrough:///"+c.addrs[0], grpc.WithTransportCredentials(credentials.NewTLS(c.clientTLS(t, caCert, file))))
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", tlsToken, "cachenode-peer", fmt.Sprintf("%x;1;snapshot", id))
		stream, err := cachepb.NewCacheClient(cc).StreamValues(ctx)
		if err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	for _, file := range []string{"client", fileName(c.addrs[2])} {
		if err := claim(file); grpcstatus.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "not a peer: the certificate is for ") {
			t.Errorf("with the certificate of %s: %v", file, err)
		}
	}
	if err := claim(fileName(c.addrs[1])); err != nil {
		t.Errorf("with its own certificate: %v", err)
	}
}

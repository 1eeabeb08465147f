package main

import (
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
		p, err := proc.Start(context.Background(), proc.Spec{
			Name: c.addrs[i], Binary: program(t), Listener: ln, LogPath: c.log(i),
			Env: append(c.env(fileName(c.addrs[i]), "SERVER"), "HA_MODE=true", "HA_HOSTS="+strings.Join(c.addrs, ","), "HOSTNAME_OVERWRITE="+c.addrs[i]),
		})
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
		if _, err := proc.WaitMember(ctx, client.Config{Addr: addr, Token: tlsToken, TLS: c.clientTLS(t, "client")}); err != nil {
			t.Fatal(err)
		}
	}
	return c
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
	if code := run(t.Context(), []string{"certs", "dev", "--hosts", strings.Join(c.addrs, ","), c.dir}, nil, &out, &out); code != exitOK {
		t.Fatal(out.String())
	}
}

// env names a certificate, as a server's or a client's.
func (c *tlsCluster) env(file, side string) []string {
	return []string{
		"CACHE_TLS=true", "CACHE_AUTH_TOKEN=" + tlsToken, "CACHE_TLS_CA_SERVER=" + filepath.Join(c.dir, caCert),
		"CACHE_TLS_" + side + "_CERT=" + filepath.Join(c.dir, file+".pem"), "CACHE_TLS_" + side + "_KEY=" + filepath.Join(c.dir, file+".key"),
	}
}

func (c *tlsCluster) clientTLS(t *testing.T, file string) *tls.Config {
	t.Helper()
	cfg, _, err := config.Load(config.Input{Client: true, Env: c.env(file, "CLIENT")})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := cfg.LoadKeys()
	if err != nil {
		t.Fatal(err)
	}
	return keys.Client()
}

// serials returns the number of the certificate that each node serves.
func (c *tlsCluster) serials(t *testing.T) (all []string) {
	t.Helper()
	for _, addr := range c.addrs {
		conn, err := tls.Dial("tcp", addr, c.clientTLS(t, "client"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, conn.ConnectionState().PeerCertificates[0].SerialNumber.String())
		conn.Close()
	}
	return all
}

// New certificates are served from the next connection on, whether the nodes notice by themselves or are told by SIGHUP,
// and no operation on the connections that are up fails; files that are not in order change nothing.
func TestCertificateRotation(t *testing.T) {
	c := startTLSCluster(t)
	var load sync.WaitGroup
	var done, failed atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	for _, addr := range c.addrs {
		conn, err := client.NewConn(client.Config{Addr: addr, Token: tlsToken, TLS: c.clientTLS(t, "client")})
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
	served := c.serials(t)
	renewed := func() bool {
		for i, serial := range c.serials(t) {
			if serial == served[i] {
				return false
			}
		}
		return true
	}
	rotate := func(tell bool) {
		t.Helper()
		began := time.Now()
		c.issue(t)
		for _, p := range c.nodes {
			if tell {
				if err := p.Signal(syscall.SIGHUP); err != nil {
					t.Fatal(err)
				}
			}
		}
		for end := began.Add(20 * time.Second); !renewed(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the new certificates are not served")
			}
		}
		t.Logf("served after %v", time.Since(began).Round(time.Millisecond))
		served = c.serials(t)
	}
	rotate(false)
	rotate(true)
	for _, addr := range c.addrs {
		if err := os.WriteFile(filepath.Join(c.dir, fileName(addr)+".key"), []byte("half a key"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const broken = "the certificates on disk cannot be used"
	for i := range c.nodes {
		end := time.Now().Add(20 * time.Second)
		for ; c.said(t, i, broken) == 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		}
	}
	if renewed() {
		t.Error("something else is served")
	}
	rotate(false)
	cancel()
	load.Wait()
	t.Logf("%d operations, %d failed", done.Load(), failed.Load())
	if done.Load() == 0 {
		t.Error("there was no load")
	}
	for i := range c.nodes {
		if n := c.said(t, i, broken); n != 1 {
			t.Errorf("node %d says %d times that the key is broken", i, n)
		}
		if n := c.said(t, i, `msg="certificates reloaded"`); n < 3 {
			t.Errorf("node %d says %d times that certificates were reloaded", i, n)
		}
	}
}

// With a certificate for each host, a client's certificate and that of another host are no peer's, whatever the stream
// says of itself and though the token is right; the host's own is.
func TestPeerIdentity(t *testing.T) {
	c := startTLSCluster(t)
	// The id of the second host's process is what the second node tells everybody of itself.
	conn, err := client.NewConn(client.Config{Addr: c.addrs[1], Token: tlsToken, TLS: c.clientTLS(t, "client")})
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
		cc, err := grpc.NewClient("passthrough:///"+c.addrs[0], grpc.WithTransportCredentials(credentials.NewTLS(c.clientTLS(t, file))))
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

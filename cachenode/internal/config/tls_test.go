package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority issues certificates into a directory.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.create("ca", nil, nil)
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) create(name string, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: parent == nil,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for suffix, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(a.path(name+suffix), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) issue(name string) { a.create(name, a.cert, a.key) }

// handshake returns the name of the server's certificate, or why either side refused.
func handshake(t *testing.T, server, client *tls.Config) (string, error) {
	t.Helper()
	s, c := net.Pipe()
	defer s.Close()
	defer c.Close()
	serverErr := make(chan error, 1)
	go func() {
		defer s.Close()
		serverErr <- tls.Server(s, server).Handshake()
	}()
	tc := tls.Client(c, client)
	if err := tc.Handshake(); err != nil {
		c.Close()
		<-serverErr
		return "", err
	}
	// The server's tickets, or its alert, must be read: a net.Pipe has no buffer.
	go func() { _, _ = io.Copy(io.Discard, c) }()
	if err := <-serverErr; err != nil {
		return "", err
	}
	return tc.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

func TestTLS(t *testing.T) {
	a, rogue := newAuthority(t), newAuthority(t)
	a.issue("redhac.local")
	a.issue("other.name")
	rogue.issue("redhac.local")
	base := TLS{
		Enabled: true, Mutual: true, ServerCert: a.path("redhac.local.crt"), ServerKey: a.path("redhac.local.key"),
		CAServer: a.path("ca.crt"), ValidateDomain: "redhac.local",
	}
	tests := []struct {
		name   string
		server func(*TLS)
		client func(*TLS)
		ok     bool
	}{
		{name: "mutual", ok: true},
		{name: "server asks for nothing", server: func(s *TLS) { s.Mutual = false }, client: func(s *TLS) { s.Mutual = false }, ok: true},
		{name: "client without certificate", client: func(s *TLS) { s.Mutual = false }},
		{name: "client of another CA", client: func(s *TLS) {
			s.ClientCert, s.ClientKey = rogue.path("redhac.local.crt"), rogue.path("redhac.local.key")
		}},
		{name: "server of another CA", client: func(s *TLS) { s.CAServer = rogue.path("ca.crt") }},
		{name: "server with another name", server: func(s *TLS) {
			s.ServerCert, s.ServerKey = a.path("other.name.crt"), a.path("other.name.key")
		}},
		{name: "asked for by another name", client: func(s *TLS) { s.SNIOverwrite = "balancer" }, ok: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st, ct := base, base
			if tt.server != nil {
				tt.server(&st)
			}
			if tt.client != nil {
				tt.client(&ct)
			}
			sc, err := st.Server()
			if err != nil {
				t.Fatal(err)
			}
			cc, err := ct.Client()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := handshake(t, sc, cc); (err == nil) != tt.ok {
				t.Errorf("handshake: %v, want ok %t", err, tt.ok)
			}
		})
	}
}

// A changed certificate is used from the next connection on; one that cannot be read leaves the old one in place.
func TestTLSReload(t *testing.T) {
	a := newAuthority(t)
	a.issue("node")
	a.issue("next")
	cfg := TLS{ServerCert: a.path("node.crt"), ServerKey: a.path("node.key"), CAServer: a.path("ca.crt"), ValidateDomain: "node"}
	sc, err := cfg.Server()
	if err != nil {
		t.Fatal(err)
	}
	replace := func(from string, stamp time.Time) {
		for _, suffix := range []string{".crt", ".key"} {
			data, err := os.ReadFile(a.path(from + suffix))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(a.path("node"+suffix), data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(a.path("node"+suffix), stamp, stamp); err != nil {
				t.Fatal(err)
			}
		}
	}
	name := func(validate string) string {
		c := cfg
		c.ValidateDomain = validate
		cc, err := c.Client()
		if err != nil {
			t.Fatal(err)
		}
		got, err := handshake(t, sc, cc)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := name("node"); got != "node" {
		t.Errorf("before: %s", got)
	}
	replace("next", time.Now().Add(time.Minute))
	if got := name("next"); got != "next" {
		t.Errorf("after: %s", got)
	}
	if err := os.WriteFile(a.path("node.crt"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := name("next"); got != "next" {
		t.Errorf("after a broken file: %s", got)
	}
}

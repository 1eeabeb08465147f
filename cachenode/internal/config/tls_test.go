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
	"net/url"
	"os"
	"path/filepath"
	"strings"
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
	a.cert, a.key = a.create("ca", nil)
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// create writes NAME.crt and NAME.key, for the names given or else its own; change has the last word.
func (a *authority) create(name string, names []string, change ...func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	parent, signer := a.cert, a.key
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: parent == nil,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent, signer = tmpl, key
	} else if names == nil {
		names = []string{name}
	}
	for _, n := range names {
		if u, err := url.Parse(n); err == nil && u.Scheme == URIScheme {
			tmpl.URIs = append(tmpl.URIs, u)
		} else if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	for _, f := range change {
		f(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	a.write(name+".key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) write(name string, data []byte) {
	a.t.Helper()
	if err := os.WriteFile(a.path(name), data, 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) read(name string) []byte {
	a.t.Helper()
	data, err := os.ReadFile(a.path(name))
	if err != nil {
		a.t.Fatal(err)
	}
	return data
}

// node is the configuration of the first of three nodes, with the certificate NAME.crt.
func (a *authority) node(name string) *Config {
	c := Default()
	c.HAMode, c.Hosts = true, []string{"https://a.test:1", "https://b.test:1", "https://c.test:1"}
	c.Listen = "127.0.0.1:1"
	c.TLS = TLS{
		Enabled: true, Mutual: true, ServerCert: a.path(name + ".crt"), ServerKey: a.path(name + ".key"),
		CAServer: a.path("ca.crt"), ValidateDomain: "redhac.local",
	}
	return &c
}

func (c *Config) keys(t *testing.T) *Keys {
	t.Helper()
	k, err := c.LoadKeys()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// handshake returns the name of the server's certificate, or why the client, or else the server, refused.
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
	// What the server has against the client's certificate comes after the client's own handshake.
	_, err := tc.Read(make([]byte, 1))
	if refused := <-serverErr; refused != nil {
		return "", err
	}
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return tc.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

// Who is let in by whom, and what the one who dialled is told: each refusal names its reason and a setting.
func TestHandshake(t *testing.T) {
	a, rogue := newAuthority(t), newAuthority(t)
	a.create("redhac.local", nil)
	a.create("other.name", nil)
	a.create("expired", []string{"redhac.local"}, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	a.create("b", []string{"redhac.local", "b.test"})
	rogue.create("redhac.local", nil)
	tests := []struct {
		name   string
		server func(*Config)
		client func(*Config)
		change func(server, client *tls.Config)
		want   string // of the explanation; "" if both agree
	}{
		{name: "mutual"},
		{name: "server asks for nothing", server: func(c *Config) { c.TLS.Mutual = false }, client: func(c *Config) { c.TLS.Mutual = false }},
		{name: "client without certificate", client: func(c *Config) { c.TLS.Mutual = false }, want: "it asks for a certificate, and none was presented"},
		{name: "client of another CA", client: func(c *Config) {
			c.TLS.ClientCert, c.TLS.ClientKey = rogue.path("redhac.local.crt"), rogue.path("redhac.local.key")
		}, want: "it does not know the CA of the certificate that was presented"},
		{name: "server of another CA", client: func(c *Config) { c.TLS.CAServer = rogue.path("ca.crt") }, want: "its certificate is refused: it is not signed by a CA of CACHE_TLS_CA_SERVER"},
		{name: "server with another name", server: func(c *Config) {
			c.TLS.ServerCert, c.TLS.ServerKey = a.path("other.name.crt"), a.path("other.name.key")
		}, want: "it is for other.name, not for redhac.local (CACHE_TLS_CLIENT_VALIDATE_DOMAIN)"},
		{name: "asked for by another name", client: func(c *Config) { c.TLS.SNIOverwrite = "balancer" }},
		{name: "expired server", change: func(server, _ *tls.Config) {
			pair, err := tls.LoadX509KeyPair(a.path("expired.crt"), a.path("expired.key"))
			if err != nil {
				t.Fatal(err)
			}
			server.Certificates, server.GetConfigForClient = []tls.Certificate{pair}, nil
		}, want: "its certificate is refused: it has expired on "},
		{name: "expired client", change: func(_, client *tls.Config) {
			pair, err := tls.LoadX509KeyPair(a.path("expired.crt"), a.path("expired.key"))
			if err != nil {
				t.Fatal(err)
			}
			client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}, want: "the certificate that was presented has expired"},
		{name: "TLS 1.2 client", change: func(_, client *tls.Config) { client.MinVersion, client.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, want: "it does not speak TLS 1.3"},
		{name: "TLS 1.2 server", change: func(server, _ *tls.Config) {
			server.GetConfigForClient, server.MinVersion, server.MaxVersion = nil, tls.VersionTLS12, tls.VersionTLS12
		}, want: "it does not speak TLS 1.3"},
		{name: "another host", server: func(c *Config) { c.TLS.ServerCert, c.TLS.ServerKey = a.path("b.crt"), a.path("b.key") }, want: "the certificate is for redhac.local, b.test, not for host a.test:1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, c := a.node("redhac.local"), a.node("redhac.local")
			s.HAMode, c.HAMode = false, false // what would be wrong for a member is what is tried here
			if tt.server != nil {
				tt.server(s)
			}
			if tt.client != nil {
				tt.client(c)
			}
			server, client := s.keys(t).Server(), c.keys(t).Peer("a.test:1", func() []string { return []string{"a.test:1", "b.test:1"} })
			if tt.change != nil {
				tt.change(server, client)
			}
			_, err := handshake(t, server, client)
			if tt.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(ExplainHandshake(err), tt.want) {
				t.Errorf("got %v, explained as %q, want %q", err, ExplainHandshake(err), tt.want)
			}
		})
	}
	t.Run("no TLS", func(t *testing.T) {
		s, c := net.Pipe()
		go func() {
			go func() { _, _ = io.Copy(io.Discard, s) }()
			_, _ = s.Write([]byte("\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x05"))
			s.Close()
		}()
		err := tls.Client(c, a.node("redhac.local").keys(t).Client()).Handshake()
		if !strings.Contains(ExplainHandshake(err), "it does not speak TLS") {
			t.Errorf("got %v, explained as %q", err, ExplainHandshake(err))
		}
	})
}

// What is wrong with a node's own files is told when it starts, one line each, with the setting that names the file; and so
// is a certificate that the other nodes would refuse.
func TestTLSMistakes(t *testing.T) {
	a, rogue := newAuthority(t), newAuthority(t)
	a.create("good", []string{"redhac.local"})
	a.create("other", []string{"redhac.local"})
	a.create("expired", []string{"redhac.local"}, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2020, 2, 1, 0, 0, 0, 0, time.UTC)
	})
	a.create("early", []string{"redhac.local"}, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2120, 2, 1, 0, 0, 0, 0, time.UTC)
	})
	a.create("domain", []string{"example.org"})
	a.create("b", []string{"redhac.local", "b.test"})
	a.create("server", []string{"redhac.local"}, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] })
	a.create("client", []string{"someone"})
	rogue.create("foreign", []string{"redhac.local"})
	a.write("foreign.crt", rogue.read("foreign.crt"))
	a.write("foreign.key", rogue.read("foreign.key"))
	a.write("text.crt", []byte("no PEM"))
	a.write("text.key", []byte("no PEM"))
	a.write("locked.crt", a.read("good.crt"))
	a.write("locked.key", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}))
	a.write("mixed.crt", a.read("good.crt"))
	a.write("mixed.key", a.read("other.key"))
	a.write("dir.crt", a.read("good.crt"))
	if err := os.Mkdir(a.path("dir.key"), 0o700); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		cert   string // of the node
		change func(*TLS)
		want   []string // lines, DIR for the directory
	}{
		{name: "none", cert: "good"},
		{name: "missing", cert: "none", want: []string{
			"default of CACHE_TLS_SERVER_CERT: open DIR/none.crt: no such file or directory; expected a PEM file, or CACHE_TLS=false",
			"default of CACHE_TLS_SERVER_KEY: open DIR/none.key: no such file or directory; expected a PEM file, or CACHE_TLS=false",
		}},
		{name: "unreadable key", cert: "dir", want: []string{"default of CACHE_TLS_SERVER_KEY: read DIR/dir.key: is a directory; expected a PEM file"}},
		{name: "not PEM", cert: "text", want: []string{
			"default of CACHE_TLS_SERVER_CERT: DIR/text.crt holds no certificate; expected PEM",
			"default of CACHE_TLS_SERVER_KEY: DIR/text.key holds no private key; expected PEM",
		}},
		{name: "encrypted key", cert: "locked", want: []string{"default of CACHE_TLS_SERVER_KEY: DIR/locked.key is encrypted; expected a key without a passphrase"}},
		{name: "key of another certificate", cert: "mixed", want: []string{"default of CACHE_TLS_SERVER_KEY: DIR/mixed.key: not a key for DIR/mixed.crt: private key does not match public key"}},
		{name: "expired", cert: "expired", want: []string{"default of CACHE_TLS_SERVER_CERT: DIR/expired.crt: the certificate of redhac.local has expired on 2020-02-01 00:00:00"}},
		{name: "not valid yet", cert: "early", want: []string{"default of CACHE_TLS_SERVER_CERT: DIR/early.crt: the certificate of redhac.local is not valid before 2120-01-01 00:00:00"}},
		{name: "of a foreign CA", cert: "foreign", want: []string{"default of CACHE_TLS_SERVER_CERT: DIR/foreign.crt: other nodes would refuse this certificate: it is not signed by a CA of DIR/ca.crt"}},
		{name: "of another domain", cert: "domain", want: []string{"default of CACHE_TLS_SERVER_CERT: DIR/domain.crt: other nodes would refuse this certificate: it is for example.org, not for redhac.local (CACHE_TLS_CLIENT_VALIDATE_DOMAIN)"}},
		{name: "of another host", cert: "b", want: []string{"default of CACHE_TLS_SERVER_CERT: DIR/b.crt: other nodes would refuse this certificate: the certificate is for redhac.local, b.test, not for host a.test:1"}},
		{name: "not for dialling", cert: "server", want: []string{"default of CACHE_TLS_SERVER_CERT: DIR/server.crt: other nodes would refuse this certificate: its extended key usage does not allow what it is used for, server or client authentication"}},
		{name: "a client's", cert: "good", change: func(c *TLS) { c.ClientCert, c.ClientKey = a.path("client.crt"), a.path("client.key") }, want: []string{"default of CACHE_TLS_CLIENT_CERT: DIR/client.crt: other nodes would refuse this certificate: the certificate is for someone, not for host a.test:1"}},
		{name: "CA that is none", cert: "good", change: func(c *TLS) { c.CAClient = a.path("text.crt") }, want: []string{"default of CACHE_TLS_CA_CLIENT: DIR/text.crt holds no certificate; expected PEM"}},
		{name: "CA that has expired", cert: "good", change: func(c *TLS) { c.CAServer = a.path("expired.crt") }, want: []string{"default of CACHE_TLS_CA_SERVER: DIR/expired.crt: the certificate of redhac.local has expired on 2020-02-01 00:00:00"}},
		{name: "half of a pair", cert: "good", change: func(c *TLS) { c.ClientCert = a.path("good.crt") }, want: []string{
			"default of CACHE_TLS_CLIENT_CERT: expected both of CACHE_TLS_CLIENT_CERT and CACHE_TLS_CLIENT_KEY, or neither",
			"default of CACHE_TLS_CLIENT_KEY: names no file; expected a PEM file",
		}},
		{name: "no CA", cert: "good", change: func(c *TLS) { c.CAServer = "" }, want: []string{
			"default of CACHE_MTLS: true needs CACHE_TLS_CA_CLIENT, the CA of the clients' certificates; or say CACHE_MTLS=false",
			"default of CACHE_TLS_SERVER_CERT: DIR/good.crt: other nodes would refuse this certificate: it is not signed by a CA of the system",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := a.node(tt.cert)
			if tt.change != nil {
				tt.change(&c.TLS)
			}
			got := ""
			if err := c.Validate(); err != nil {
				got = strings.ReplaceAll(err.Error(), a.dir, "DIR")
			}
			if want := strings.Join(tt.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
	t.Run("permission", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("root reads everything")
		}
		a.write("secret.crt", a.read("good.crt"))
		a.write("secret.key", a.read("good.key"))
		if err := os.Chmod(a.path("secret.key"), 0); err != nil {
			t.Fatal(err)
		}
		err := a.node("secret").Validate()
		if want := "default of CACHE_TLS_SERVER_KEY: open " + a.path("secret.key") + ": permission denied; expected a PEM file"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
	t.Run("for a client", func(t *testing.T) {
		c := a.node("none")
		c.client, c.TLS.Mutual = true, false
		if err := c.Validate(); err != nil {
			t.Errorf("a client without a certificate: %v", err)
		}
	})
}

// Files that change are used from the next connection on, whatever their times say; files that are not in order, because
// they are half written or only one of a pair has come, leave what was there in use.
func TestReload(t *testing.T) {
	a, next := newAuthority(t), newAuthority(t)
	a.create("old", []string{"redhac.local"})
	a.create("new", []string{"redhac.local"})
	a.create("expired", []string{"redhac.local"}, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	next.create("theirs", []string{"redhac.local"})
	use := func(suffix string, data []byte) {
		t.Helper()
		a.write("node"+suffix, data)
		stamp := time.Unix(1_700_000_000, 0) // always the same
		if err := os.Chtimes(a.path("node"+suffix), stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	use(".crt", a.read("old.crt"))
	use(".key", a.read("old.key"))
	c := a.node("node")
	k := c.keys(t)
	client := k.Client()
	server := k.Server()
	served := func(want string) {
		t.Helper()
		got, err := handshake(t, server, client)
		if err != nil || got != want {
			t.Fatalf("serving %s (%v), want %s", got, err, want)
		}
	}
	reload := func(wantChanged bool, wantErr string) {
		t.Helper()
		changed, err := k.Reload()
		if changed != wantChanged || (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
			t.Fatalf("changed %t, %v; want %t, %q", changed, err, wantChanged, wantErr)
		}
	}
	served("old")
	reload(false, "")
	use(".crt", a.read("new.crt"))
	reload(false, "not a key for")
	served("old")
	use(".key", a.read("new.key"))
	reload(true, "")
	served("new")
	reload(false, "")
	use(".crt", a.read("new.crt")[:100])
	reload(false, "holds no certificate")
	served("new")
	use(".crt", a.read("new.crt"))
	reload(false, "") // it is what is in use
	use(".crt", a.read("expired.crt"))
	use(".key", a.read("expired.key"))
	reload(false, "has expired")
	served("new")

	// The CA changes in three steps, each of which both sides understand.
	both := append(a.read("ca.crt"), next.read("ca.crt")...)
	a.write("ca.crt", both)
	use(".crt", a.read("new.crt"))
	use(".key", a.read("new.key"))
	reload(true, "")
	served("new")
	use(".crt", next.read("theirs.crt"))
	use(".key", next.read("theirs.key"))
	reload(true, "")
	served("theirs")
	a.write("ca.crt", next.read("ca.crt"))
	reload(true, "")
	served("theirs")
	if e := k.Expiry(); len(e) != 2 || e[0].Certificate != "server" || e[1].Certificate != "ca_server" || time.Until(e[0].Time) > time.Hour {
		t.Errorf("expiry %v", e)
	}
}

// Whose certificate may be used by the node of which host.
func TestCheckPeer(t *testing.T) {
	a := newAuthority(t)
	hosts := []string{"cache-0.svc:8443", "cache-1.svc:8443", "127.0.0.1:7071", "127.0.0.1:7072"}
	tests := []struct {
		names []string
		host  string
		ok    bool
	}{
		{[]string{"redhac.local"}, "cache-0.svc:8443", true}, // shared by all, as in the seed
		{[]string{"redhac.local", "example.org"}, "cache-0.svc:8443", true},
		{[]string{"redhac.local", "cache-0.svc"}, "cache-0.svc:8443", true},
		{[]string{"redhac.local", "cache-0.svc"}, "cache-1.svc:8443", false},
		{[]string{"redhac.local", "*.svc"}, "cache-1.svc:8443", true},
		{[]string{"cache-0.svc"}, "cache-0.svc:8443", true},
		{[]string{"some-client"}, "cache-0.svc:8443", false},
		{[]string{"127.0.0.1"}, "127.0.0.1:7071", true},
		{[]string{"redhac.local", "127.0.0.1"}, "cache-0.svc:8443", false},
		{[]string{"redhac.local", "127.0.0.1", "cachenode://127.0.0.1:7071"}, "127.0.0.1:7071", true},
		{[]string{"redhac.local", "127.0.0.1", "cachenode://127.0.0.1:7071"}, "127.0.0.1:7072", false},
		{[]string{"cachenode://127.0.0.1:7071", "cachenode://127.0.0.1:7072"}, "127.0.0.1:7072", true},
		{[]string{"cachenode://127.0.0.1:9999"}, "127.0.0.1:7072", false},
	}
	for _, tt := range tests {
		cert, _ := a.create("x", tt.names)
		c := TLS{ValidateDomain: "redhac.local"}
		if err := c.checkPeer(cert, tt.host, hosts); (err == nil) != tt.ok {
			t.Errorf("a certificate for %v as %s: %v", tt.names, tt.host, err)
		}
	}
}

package config

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// TLS says how the cache service and the links to peers are secured. All files are PEM.
type TLS struct {
	// Enabled turns TLS on. The seed's default is true; Load turns it off for a node which is alone on loopback and
	// has no certificates, see there.
	Enabled bool
	// Mutual asks everyone who connects for a certificate of CAClient. Default true, as in the seed.
	Mutual bool
	// ServerCert and ServerKey are this node's certificate chain and key. Defaults tls/redhac.cert-chain.pem and
	// tls/redhac.key.pem, relative to the working directory.
	ServerCert, ServerKey string
	// ClientCert and ClientKey are presented when dialling. Default: ServerCert and ServerKey.
	ClientCert, ClientKey string
	// CAServer verifies servers that are dialled. Default: the roots of the system.
	CAServer string
	// CAClient verifies those who connect. Default: CAServer. One of the two is needed with Mutual.
	CAClient string
	// ValidateDomain is the name a dialled server's certificate must have. Default redhac.local.
	ValidateDomain string
	// SNIOverwrite is the name a dialled server is asked for. Default: ValidateDomain.
	SNIOverwrite string
}

func (c *Config) validateTLS(bad func(key, format string, args ...any)) {
	t := &c.TLS
	if t.Mutual && t.CAClient == "" && t.CAServer == "" {
		bad("mtls", "true needs CACHE_TLS_CA_CLIENT, the CA of the clients' certificates; or say CACHE_MTLS=false")
	}
	for _, f := range []struct{ key, path string }{
		{"tls_server_cert", t.ServerCert},
		{"tls_server_key", t.ServerKey},
		{"tls_client_cert", t.ClientCert},
		{"tls_client_key", t.ClientKey},
		{"tls_ca_server", t.CAServer},
		{"tls_ca_client", t.CAClient},
	} {
		if f.path == "" {
			continue
		}
		if _, err := os.Stat(f.path); err != nil {
			bad(f.key, "%v; expected a PEM file, or CACHE_TLS=false", err)
		}
	}
	if (t.ClientCert == "") != (t.ClientKey == "") {
		bad("tls_client_cert", "expected both of CACHE_TLS_CLIENT_CERT and CACHE_TLS_CLIENT_KEY, or neither")
	}
}

// Server returns the configuration of a listener. It looks at the files again for each connection and takes a changed
// certificate or CA over without a restart; a half-written change keeps the old one in use until it is complete.
func (t TLS) Server() (*tls.Config, error) {
	ca := ""
	if t.Mutual {
		ca = cmp.Or(t.CAClient, t.CAServer)
		if ca == "" {
			return nil, errors.New("tls: mutual TLS without a CA of clients")
		}
	}
	m := &material{cert: t.ServerCert, key: t.ServerKey, ca: ca}
	if err := m.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			cert, pool := m.current()
			c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{*cert}}
			if t.Mutual {
				c.ClientAuth = tls.RequireAndVerifyClientCert
				c.ClientCAs = pool
			}
			return c, nil
		},
	}, nil
}

// Client returns the configuration for dialling. Certificate and CA are taken over when their files change, as in
// Server.
func (t TLS) Client() (*tls.Config, error) {
	m := &material{ca: t.CAServer}
	if t.Mutual {
		m.cert, m.key = cmp.Or(t.ClientCert, t.ServerCert), cmp.Or(t.ClientKey, t.ServerKey)
	}
	if err := m.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2"},
		ServerName: cmp.Or(t.SNIOverwrite, t.ValidateDomain),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, _ := m.current()
			return cert, nil
		},
		// VerifyConnection below does what is skipped here, with the CA of the moment and a name that need not be
		// the one the server was asked for: crypto/tls has one field for both.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, pool := m.current()
			opts := x509.VerifyOptions{DNSName: t.ValidateDomain, Roots: pool, Intermediates: x509.NewCertPool()}
			if len(s.PeerCertificates) == 0 {
				return errors.New("tls: the server has no certificate")
			}
			for _, cert := range s.PeerCertificates[1:] {
				opts.Intermediates.AddCert(cert)
			}
			_, err := s.PeerCertificates[0].Verify(opts)
			return err
		},
	}, nil
}

// material is a key pair and a CA, loaded again when a file has changed. Safe for concurrent use after load.
type material struct {
	cert, key, ca string // paths; cert or ca may be ""

	mu    sync.Mutex
	stamp [3]time.Time // modification times of what is loaded
	pair  *tls.Certificate
	pool  *x509.CertPool // nil: the roots of the system
}

// current returns what is on disk, or the last that could be loaded.
func (m *material) current() (*tls.Certificate, *x509.CertPool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stamps() != m.stamp {
		_ = m.loadLocked()
	}
	return m.pair, m.pool
}

func (m *material) load() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.loadLocked()
}

func (m *material) loadLocked() error {
	stamp := m.stamps() // before reading: a change in between is seen next time
	pair, pool := new(tls.Certificate), (*x509.CertPool)(nil)
	if m.cert != "" {
		p, err := tls.LoadX509KeyPair(m.cert, m.key)
		if err != nil {
			return fmt.Errorf("load certificate %s with key %s: %w", m.cert, m.key, err)
		}
		pair = &p
	}
	if m.ca != "" {
		pem, err := os.ReadFile(m.ca)
		if err != nil {
			return fmt.Errorf("load CA: %w", err)
		}
		pool = x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("load CA %s: there is no certificate in it", m.ca)
		}
	}
	m.stamp, m.pair, m.pool = stamp, pair, pool
	return nil
}

func (m *material) stamps() (s [3]time.Time) {
	for i, path := range []string{m.cert, m.key, m.ca} {
		if path == "" {
			continue
		}
		if fi, err := os.Stat(path); err == nil {
			s[i] = fi.ModTime()
		}
	}
	return s
}

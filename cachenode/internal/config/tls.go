package config

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
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

// validateTLS reads the files and reports all that is wrong with them.
func (c *Config) validateTLS(bad func(key, format string, args ...any)) {
	if c.TLS.Mutual && cmp.Or(c.TLS.CAClient, c.TLS.CAServer) == "" && !c.client {
		bad("mtls", "true needs CACHE_TLS_CA_CLIENT, the CA of the clients' certificates; or say CACHE_MTLS=false")
	}
	if (c.TLS.ClientCert == "") != (c.TLS.ClientKey == "") {
		bad("tls_client_cert", "expected both of CACHE_TLS_CLIENT_CERT and CACHE_TLS_CLIENT_KEY, or neither")
	}
	files, _ := c.readFiles()
	_, problems := c.parseKeys(files, time.Now())
	for _, p := range problems {
		bad(p.key, "%s", p.text)
	}
}

// Both sides are ours or of today: there is nobody to be kind to with an older version.
const minVersion = tls.VersionTLS13

// Server returns the configuration of a listener.
func (k *Keys) Server() *tls.Config {
	of := func(s *keyset) *tls.Config {
		c := &tls.Config{
			MinVersion: minVersion, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{*s.server},
			// A resumed session would be that of a certificate, and a CA, that may not be trusted any more.
			SessionTicketsDisabled: true,
		}
		if k.cfg.TLS.Mutual {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, s.clientCA
		}
		return c
	}
	c := of(k.now.Load())
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return of(k.now.Load()), nil }
	return c
}

// Client returns the configuration for dialling any node.
func (k *Keys) Client() *tls.Config {
	return k.dial(func(*x509.Certificate) error { return nil })
}

// Peer returns the configuration for dialling the node of a host, which has to prove that it is. hosts returns all that are
// known.
func (k *Keys) Peer(host string, hosts func() []string) *tls.Config {
	return k.dial(func(leaf *x509.Certificate) error { return k.cfg.TLS.checkPeer(leaf, host, hosts()) })
}

func (k *Keys) dial(check func(leaf *x509.Certificate) error) *tls.Config {
	t := &k.cfg.TLS
	return &tls.Config{
		MinVersion: minVersion,
		NextProtos: []string{"h2"},
		ServerName: cmp.Or(t.SNIOverwrite, t.ValidateDomain),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return k.now.Load().client, nil
		},
		// VerifyConnection below does what is skipped here, with the CA of the moment and a name that need not be
		// the one the server was asked for: crypto/tls has one field for both.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the server has no certificate")
			}
			_, err := s.PeerCertificates[0].Verify(verifyOptions(s.PeerCertificates, k.now.Load().serverCA, t.ValidateDomain, x509.ExtKeyUsageServerAuth))
			if err == nil {
				err = check(s.PeerCertificates[0])
			}
			if err != nil {
				return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
			}
			return nil
		},
	}
}

func verifyOptions(chain []*x509.Certificate, roots *x509.CertPool, name string, usage x509.ExtKeyUsage) x509.VerifyOptions {
	opts := x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
	for _, cert := range chain[1:] {
		opts.Intermediates.AddCert(cert)
	}
	return opts
}

// CheckPeer reports why whoever is at the other end of a connection may not act as the node of a host, nil if it may.
// hosts are all that are known. Without certificates, as when they are not asked for, there is nothing to check.
func (k *Keys) CheckPeer(s *tls.ConnectionState, host string, hosts []string) error {
	if !k.cfg.TLS.Mutual || len(s.PeerCertificates) == 0 {
		return nil
	}
	return k.cfg.TLS.checkPeer(s.PeerCertificates[0], host, hosts)
}

// PeerError says that a certificate is not that of the node of a host.
type PeerError struct {
	Host  string   // who it claims to be
	Names []string // who it is
}

func (e *PeerError) Error() string {
	return fmt.Sprintf("the certificate is for %s, not for host %s", strings.Join(e.Names, ", "), e.Host)
}

// checkPeer reports why a certificate may not be used by the node of a host. It may if it names the host; or if it names
// none of the hosts and has the domain that all nodes have, which is how the seed's nodes share one. So a certificate for
// each host keeps them apart, and a client's, which has neither name, is no peer's.
func (t *TLS) checkPeer(cert *x509.Certificate, host string, hosts []string) error {
	if names(cert, host) {
		return nil
	}
	for _, h := range hosts {
		if h != host && names(cert, h) {
			return &PeerError{host, subjects(cert)}
		}
	}
	if t.ValidateDomain != "" && cert.VerifyHostname(t.ValidateDomain) == nil {
		return nil
	}
	return &PeerError{host, subjects(cert)}
}

// URIScheme is that of a subject alternative name that names one host with its port, cachenode://host:port. The other
// kinds of names know no ports and cannot tell apart nodes on one machine.
const URIScheme = "cachenode"

// names reports whether a certificate names a host. If it has names with ports, only those count.
func names(cert *x509.Certificate, host string) bool {
	exact := false
	for _, u := range cert.URIs {
		if u.Scheme != URIScheme {
			continue
		}
		if strings.EqualFold(u.Host, host) {
			return true
		}
		exact = true
	}
	if exact {
		return false
	}
	name, _, err := net.SplitHostPort(host)
	return err == nil && cert.VerifyHostname(name) == nil
}

// subjects are the names of a certificate, for messages.
func subjects(cert *x509.Certificate) []string {
	var all []string
	for _, u := range cert.URIs {
		all = append(all, u.String())
	}
	all = append(all, cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		all = []string{cmp.Or(cert.Subject.CommonName, "nobody")}
	}
	return all
}

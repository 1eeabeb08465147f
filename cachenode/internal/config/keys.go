package config

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Keys are the certificates, keys and CAs of a node as they were last read. Connections take the newest when they begin
// and keep it for their life. Safe for concurrent use.
type Keys struct {
	cfg *Config
	now atomic.Pointer[keyset]

	mu   sync.Mutex        // one reload at a time
	used [sha256.Size]byte // digest of the files that now comes from
}

// LoadKeys reads the files of c.TLS, which must be enabled. The error is that of Validate, as far as it is about TLS.
func (c *Config) LoadKeys() (*Keys, error) {
	k := &Keys{cfg: c}
	if _, err := k.Reload(); err != nil {
		return nil, err
	}
	return k, nil
}

// Reload reads the files again and, if they have changed and are in order, uses them from the next connection on; changed
// tells that. Otherwise what was in use stays so, and err says what is wrong with the files: one that is half written, or
// a certificate that came before its key, is in order a moment later. It compares contents, not times: a file that is
// restored has an old one.
func (k *Keys) Reload() (changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	files, digest := k.cfg.readFiles()
	if digest == k.used && k.now.Load() != nil {
		return false, nil
	}
	set, problems := k.cfg.parseKeys(files, time.Now())
	var errs []error
	for _, p := range problems {
		errs = append(errs, fmt.Errorf("%s: %s", k.cfg.Origin(p.key), p.text))
	}
	if len(errs) > 0 {
		return false, errors.Join(errs...)
	}
	k.now.Store(set)
	k.used = digest
	return true, nil
}

// Expiry is when a certificate ends.
type Expiry struct {
	Certificate string // server, client, ca_server or ca_client
	Time        time.Time
}

// Expiry returns when the certificates in use end, a chain with its first to end, CAs with their last.
func (k *Keys) Expiry() []Expiry { return k.now.Load().expiry }

// keyset is what the files hold.
type keyset struct {
	server, client     *tls.Certificate // not nil, but empty where there is none
	serverCA, clientCA *x509.CertPool   // nil: the roots of the system
	expiry             []Expiry
}

// problem is one thing that is wrong with a file; key is the setting that names it.
type problem struct{ key, text string }

// keyReader reads the files of one keyset and notes what is wrong with them.
type keyReader struct {
	cfg      *Config
	files    map[string]fileContent
	now      time.Time
	problems []problem
}

func (r *keyReader) bad(key, format string, args ...any) {
	r.problems = append(r.problems, problem{key, fmt.Sprintf(format, args...)})
}

// fileContent is what reading a file gave.
type fileContent struct {
	data []byte
	err  error
}

// readFiles reads the files that c.TLS names: for a program that only dials, those that this needs. The digest is of all
// that was read, errors included.
func (c *Config) readFiles() (files map[string]fileContent, digest [sha256.Size]byte) {
	t := &c.TLS
	paths := []string{t.CAServer, t.CAClient}
	if !c.client || t.Mutual && t.ClientCert == "" {
		paths = append(paths, t.ServerCert, t.ServerKey)
	}
	if t.Mutual {
		paths = append(paths, t.ClientCert, t.ClientKey)
	}
	files = map[string]fileContent{}
	sum := sha256.New()
	for _, path := range paths {
		if path == "" {
			continue
		}
		data, err := os.ReadFile(path)
		files[path] = fileContent{data, err}
		fmt.Fprintf(sum, "%s %d %v\n%s", path, len(data), err, data)
	}
	return files, [sha256.Size]byte(sum.Sum(nil))
}

// parseKeys makes a keyset of files. Whether other nodes with the same configuration would accept this one's certificates
// is checked for a member of a cluster only: alone, it may serve clients of another CA under another name.
func (c *Config) parseKeys(files map[string]fileContent, now time.Time) (*keyset, []problem) {
	t := &c.TLS
	r := &keyReader{cfg: c, files: files, now: now}
	set := &keyset{server: &tls.Certificate{}, client: &tls.Certificate{}}
	var server, client []*x509.Certificate
	if !c.client {
		set.server, server = r.pair("tls_server_cert", "tls_server_key", t.ServerCert, t.ServerKey)
	}
	clientKey := "tls_client_cert"
	switch {
	case !t.Mutual:
	case t.ClientCert != "":
		set.client, client = r.pair("tls_client_cert", "tls_client_key", t.ClientCert, t.ClientKey)
	case c.client:
		set.client, client = r.pair("tls_server_cert", "tls_server_key", t.ServerCert, t.ServerKey)
	default:
		clientKey = "tls_server_cert"
		set.client, client = set.server, server
	}
	serverCA, clientCA := r.bundle("tls_ca_server", t.CAServer), r.bundle("tls_ca_client", t.CAClient)
	set.serverCA = pool(serverCA)
	if set.clientCA = set.serverCA; t.CAClient != "" {
		set.clientCA = pool(clientCA)
	}
	set.expires("server", server, false)
	if clientKey == "tls_client_cert" {
		set.expires("client", client, false)
	}
	set.expires("ca_server", serverCA, true)
	set.expires("ca_client", clientCA, true)
	if len(r.problems) == 0 && c.HAMode && len(c.Hosts) > 1 && !c.client {
		r.acceptable("tls_server_cert", t.ServerCert, server, set.serverCA, cmp.Or(t.CAServer, "the system"), t.ValidateDomain, x509.ExtKeyUsageServerAuth)
		if t.Mutual && len(r.problems) == 0 {
			r.acceptable(clientKey, cmp.Or(t.ClientCert, t.ServerCert), client, set.clientCA, cmp.Or(t.CAClient, t.CAServer), "", x509.ExtKeyUsageClientAuth)
		}
	}
	return set, r.problems
}

// file returns the content of one file.
func (r *keyReader) file(key, path string) (data []byte, ok bool) {
	if path == "" {
		r.bad(key, "names no file; expected a PEM file")
		return nil, false
	}
	f := r.files[path]
	switch {
	case errors.Is(f.err, fs.ErrNotExist):
		r.bad(key, "%v; expected a PEM file, or CACHE_TLS=false", f.err)
	case f.err != nil:
		r.bad(key, "%v; expected a PEM file", f.err)
	}
	return f.data, f.err == nil
}

// certificates returns those of a file: a chain of which all are valid now, or a bundle of which one is.
func (r *keyReader) certificates(key, path string, bundle bool) []*x509.Certificate {
	data, ok := r.file(key, path)
	if !ok {
		return nil
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			r.bad(key, "%s: certificate %d: %v", path, len(certs)+1, err)
			return nil
		}
		certs = append(certs, cert)
	}
	invalid := path + " holds no certificate; expected PEM"
	for i, cert := range certs {
		why := invalidAt(cert, r.now)
		if why == "" && (bundle || i == len(certs)-1) {
			return certs
		}
		if why != "" {
			invalid = fmt.Sprintf("%s: the certificate of %s %s", path, subjects(cert)[0], why)
			if !bundle {
				break
			}
		}
	}
	r.bad(key, "%s", invalid)
	return nil
}

// invalidAt says why a certificate is not valid at a time, or "".
func invalidAt(cert *x509.Certificate, at time.Time) string {
	switch {
	case at.After(cert.NotAfter):
		return "has expired on " + cert.NotAfter.UTC().Format(time.DateTime)
	case at.Before(cert.NotBefore):
		return "is not valid before " + cert.NotBefore.UTC().Format(time.DateTime)
	}
	return ""
}

// pair reads a certificate chain and its key.
func (r *keyReader) pair(certKey, keyKey, certPath, keyPath string) (*tls.Certificate, []*x509.Certificate) {
	chain := r.certificates(certKey, certPath, false)
	keyPEM, ok := r.file(keyKey, keyPath)
	if !ok {
		return &tls.Certificate{}, nil
	}
	switch kind := privateKey(keyPEM); {
	case kind == "":
		r.bad(keyKey, "%s holds no private key; expected PEM", keyPath)
		return &tls.Certificate{}, nil
	case strings.Contains(kind, "ENCRYPTED") || bytes.Contains(keyPEM, []byte("DEK-Info:")):
		r.bad(keyKey, "%s is encrypted; expected a key without a passphrase", keyPath)
		return &tls.Certificate{}, nil
	case chain == nil:
		return &tls.Certificate{}, nil
	}
	var certPEM bytes.Buffer
	for _, cert := range chain {
		_ = pem.Encode(&certPEM, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	}
	pair, err := tls.X509KeyPair(certPEM.Bytes(), keyPEM)
	if err != nil {
		r.bad(keyKey, "%s: not a key for %s: %s", keyPath, certPath, strings.TrimPrefix(err.Error(), "tls: "))
		return &tls.Certificate{}, nil
	}
	return &pair, chain
}

// privateKey returns the type of the first block with a private key, or "".
func privateKey(data []byte) string {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return block.Type
		}
	}
	return ""
}

// bundle reads CAs; without a path there are none.
func (r *keyReader) bundle(key, path string) []*x509.Certificate {
	if path == "" {
		return nil
	}
	return r.certificates(key, path, true)
}

// pool makes a pool of CAs; of none it is that of the system.
func pool(certs []*x509.Certificate) *x509.CertPool {
	if len(certs) == 0 {
		return nil
	}
	p := x509.NewCertPool()
	for _, cert := range certs {
		p.AddCert(cert)
	}
	return p
}

// acceptable checks a certificate of this node by the rules that its peers apply to it.
func (r *keyReader) acceptable(key, path string, chain []*x509.Certificate, roots *x509.CertPool, rootsFrom, domain string, usage x509.ExtKeyUsage) {
	if len(chain) == 0 {
		return // a setting is missing, which was said
	}
	_, err := chain[0].Verify(verifyOptions(chain, roots, domain, usage))
	if err == nil {
		err = r.cfg.TLS.checkPeer(chain[0], Identity(r.cfg.Hosts[r.cfg.Self]), r.cfg.Identities())
	}
	if err != nil {
		r.bad(key, "%s: other nodes would refuse this certificate: %s", path, explainCertificate(err, rootsFrom))
	}
}

// expires notes when certificates end: the first of a chain, or the last of a bundle.
func (s *keyset) expires(what string, certs []*x509.Certificate, last bool) {
	if len(certs) == 0 {
		return
	}
	at := certs[0].NotAfter
	for _, cert := range certs[1:] {
		if cert.NotAfter.After(at) == last {
			at = cert.NotAfter
		}
	}
	s.expiry = append(s.expiry, Expiry{what, at})
}

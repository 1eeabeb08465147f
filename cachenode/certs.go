package main

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/internal/command"
)

func certsCommand() *cli.Command {
	return &cli.Command{
		Name: "certs", Usage: "make certificates",
		Commands: []*cli.Command{{
			Name: "dev", Usage: "make a CA, a certificate for each host and one for clients, to try TLS with",
			ArgsUsage: "DIR",
			Description: "The CA of DIR is used if there is one, so that running it again renews the certificates, which running nodes\n" +
				"take over within seconds. The CA's key lies beside them: for trying, not for keeping.",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "hosts", Usage: "`HOST:PORT`s with commas (default: $HA_HOSTS, or a node alone)"},
				&cli.StringFlag{Name: "client", Value: "client", Usage: "`NAME` in the certificate of clients"},
				&cli.IntFlag{Name: "days", Value: 30, Usage: "validity of the certificates; that of a new CA is ten years"},
				outputFlag(),
			},
			Action: makeCerts,
		}},
	}
}

// madeCerts is what was written, for people and programs.
type madeCerts struct {
	CA     string            `json:"ca"`
	Reused bool              `json:"ca_reused"`
	Nodes  []madeCert        `json:"nodes"`
	Client madeCert          `json:"client"`
	Env    map[string]string `json:"env"` // of all nodes; each has its certificate and key besides
}

type madeCert struct {
	Host string `json:"host,omitempty"`
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

func makeCerts(_ context.Context, c *cli.Command) error {
	args, err := exactArgs(c, 1, 1)
	if err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	hosts, origin := cmp.Or(c.String("hosts"), os.Getenv("HA_HOSTS"), config.Default().Listen), "flag --hosts"
	if !c.IsSet("hosts") {
		origin = "env HA_HOSTS"
	}
	days := c.Int("days")
	if days < 1 || days > 3650 {
		return command.Usagef("flag --days: %d is out of range; expected 1 to 3650", days)
	}
	taken := map[string]bool{fileName(caFile): true}
	claim := func(origin, name string) error { // before anything is written: a file of the CA would be lost for good
		file := fileName(name)
		if file == "" || taken[file] {
			return command.Usagef("%s: %q cannot name a certificate: its files would be %s.pem and %s.key, which another one has or nobody should", origin, name, file, file)
		}
		taken[file] = true
		return nil
	}
	var ids []string
	for _, host := range strings.FieldsFunc(hosts, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' }) {
		id := config.Identity(host)
		if name, _, err := net.SplitHostPort(id); err != nil || name == "" {
			return command.Usagef("%s: %q is not a host; expected host:port", origin, host)
		}
		if err := claim(origin, id); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return command.Usagef("%s: no hosts; expected host:port, several with commas", origin)
	}
	if err := claim("flag --client", c.String("client")); err != nil {
		return err
	}
	dir := args[0]
	ca, err := openAuthority(dir)
	if err != nil {
		return err
	}
	domain := cmp.Or(os.Getenv("CACHE_TLS_CLIENT_VALIDATE_DOMAIN"), config.Default().TLS.ValidateDomain)
	made := madeCerts{CA: filepath.Join(dir, caCert), Reused: ca.reused, Env: map[string]string{
		"CACHE_TLS": "true", "CACHE_MTLS": "true", "CACHE_TLS_CA_SERVER": filepath.Join(dir, caCert), "CACHE_TLS_CA_CLIENT": filepath.Join(dir, caCert),
		"CACHE_TLS_CLIENT_VALIDATE_DOMAIN": domain,
	}}
	for _, id := range ids {
		name, _, _ := net.SplitHostPort(id) // it was found to be one
		// The domain is what dialled servers are checked for; the host, and the host with its port, keep nodes apart.
		names := []string{domain, name, config.URIScheme + "://" + id}
		cert, err := ca.issue(fileName(id), names, days, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
		if err != nil {
			return err
		}
		cert.Host = id
		made.Nodes = append(made.Nodes, cert)
	}
	if made.Client, err = ca.issue(fileName(c.String("client")), []string{c.String("client")}, days, x509.ExtKeyUsageClientAuth); err != nil {
		return err
	}
	if asJSON {
		return writeJSON(c, made)
	}
	return made.print(c)
}

func (m *madeCerts) print(c *cli.Command) error {
	w := tabwriter.NewWriter(c.Root().Writer, 0, 0, 2, ' ', 0)
	for _, n := range m.Nodes {
		fmt.Fprintf(w, "%s\tCACHE_TLS_SERVER_CERT=%s\tCACHE_TLS_SERVER_KEY=%s\n", n.Host, n.Cert, n.Key)
	}
	fmt.Fprintf(w, "clients\tCACHE_TLS_CLIENT_CERT=%s\tCACHE_TLS_CLIENT_KEY=%s\n", m.Client.Cert, m.Client.Key)
	fmt.Fprintf(w, "all\tCACHE_TLS_CA_SERVER=%s\tCACHE_TLS_CA_CLIENT=%s\n", m.CA, m.CA)
	return w.Flush()
}

// fileName makes a name that needs no quotes anywhere.
func fileName(s string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' {
			return r
		}
		return '-'
	}, s), "-.")
}

// Files of an authority.
const (
	caFile = "ca"
	caCert = caFile + ".pem"
	caKey  = caFile + ".key"
)

// authority signs certificates and writes them into its directory.
type authority struct {
	dir    string
	reused bool
	cert   *x509.Certificate
	key    crypto.Signer
}

// openAuthority uses the CA of a directory, or makes one.
func openAuthority(dir string) (*authority, error) {
	a := &authority{dir: dir}
	certPath, keyPath := filepath.Join(dir, caCert), filepath.Join(dir, caKey)
	pair, err := tls.LoadX509KeyPair(certPath, keyPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return a, a.create()
	case err != nil:
		return nil, fmt.Errorf("%s and %s: %w", certPath, keyPath, err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA || time.Now().After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("%s is not a valid CA; expected one, or none", certPath)
	}
	a.reused, a.cert, a.key = true, pair.Leaf, signer
	return a, nil
}

func (a *authority) create() error {
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{caCert, caKey} { // half of a CA is somebody's mistake, not ours to overwrite
		if _, err := os.Stat(filepath.Join(a.dir, name)); err == nil {
			return fmt.Errorf("%s has %s without its other half", a.dir, name)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := certificate("cachenode dev CA", 3650)
	template.IsCA, template.KeyUsage, template.MaxPathLenZero = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, true
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	a.key = key
	return a.write(caFile, der, key)
}

// issue signs and writes a certificate for names.
func (a *authority) issue(file string, names []string, days int, usage ...x509.ExtKeyUsage) (madeCert, error) {
	made := madeCert{Cert: filepath.Join(a.dir, file+".pem"), Key: filepath.Join(a.dir, file+".key")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return made, err
	}
	template := certificate(names[0], days)
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, usage
	for _, name := range names {
		switch u, err := url.Parse(name); {
		case err == nil && u.Scheme == config.URIScheme:
			template.URIs = append(template.URIs, u)
		case net.ParseIP(name) != nil:
			template.IPAddresses = append(template.IPAddresses, net.ParseIP(name))
		default:
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return made, fmt.Errorf("certificate for %s: %w", strings.Join(names, ", "), err)
	}
	return made, a.write(file, der, key)
}

func certificate(name string, days int) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // never fails
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
		NotBefore: now.Add(-5 * time.Minute), NotAfter: now.AddDate(0, 0, days),
	}
}

// write writes FILE.pem and FILE.key, each as a whole.
func (a *authority) write(file string, der []byte, key *ecdsa.PrivateKey) error {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(a.dir, file+".key"), 0o600, "PRIVATE KEY", keyDER); err != nil {
		return err
	}
	return replaceFile(filepath.Join(a.dir, file+".pem"), 0o644, "CERTIFICATE", der)
}

func replaceFile(path string, mode fs.FileMode, kind string, der []byte) error {
	next := path + ".new"
	if err := os.WriteFile(next, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode); err != nil {
		return err
	}
	return os.Rename(next, path)
}

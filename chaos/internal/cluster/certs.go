package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// certificates are those of one run: of each node, and one of all its clients.
type certificates struct {
	dir    string
	env    []string            // of all nodes
	nodes  map[string][]string // environment of a node besides, by identity
	client *tls.Config
}

// certsPatience bounds the making of certificates.
const certsPatience = 10 * time.Second

// makeCertificates has the program under test make them, as its users do, in a
// directory that remove deletes.
func makeCertificates(ctx context.Context, binary, dir string, hosts []string) (_ *certificates, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, certsPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "certs", "dev", dir, "--hosts", strings.Join(hosts, ","), "-o", "json")
	cmd.Env = []string{} // what is set in this shell is not meant for these
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	type pair struct{ Host, Cert, Key string }
	var made struct {
		CA     string
		Nodes  []pair
		Client pair
		Env    map[string]string
	}
	if err := json.Unmarshal(out, &made); err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	c := &certificates{dir: dir, nodes: map[string][]string{}}
	for k, v := range made.Env {
		c.env = append(c.env, k+"="+v)
	}
	for _, n := range made.Nodes {
		c.nodes[n.Host] = []string{"CACHE_TLS_SERVER_CERT=" + n.Cert, "CACHE_TLS_SERVER_KEY=" + n.Key}
	}
	own, err := tls.LoadX509KeyPair(made.Client.Cert, made.Client.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate of clients: %w", err)
	}
	ca, err := os.ReadFile(made.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", made.CA)
	}
	// The name that every node's certificate has: nodes are dialled through links, whose addresses it cannot know.
	c.client = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{own}, ServerName: made.Env["CACHE_TLS_CLIENT_VALIDATE_DOMAIN"], MinVersion: tls.VersionTLS13}
	return c, nil
}

// of is the environment that secures one node; without certificates it does
// without.
func (c *certificates) of(identity string) []string {
	if c == nil {
		return []string{"CACHE_TLS=false"}
	}
	return append(c.env[:len(c.env):len(c.env)], c.nodes[identity]...)
}

// remove deletes the files: keys have no business in a run directory.
func (c *certificates) remove() error {
	if c == nil {
		return nil
	}
	return os.RemoveAll(c.dir)
}

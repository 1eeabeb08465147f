package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hacache/hacache/cachenode/proc"
)

// Policy is that of one named cache. The zero value bounds nothing.
type Policy struct {
	Name                 string
	MaxEntries, MaxBytes int64
	TTL                  time.Duration
	Evict                string // oldest-write or lru; empty is the node's default
}

// writePolicies writes the configuration file that tells the nodes of the
// caches, and returns its path; "" if there are none.
func writePolicies(dir string, policies []Policy) (string, error) {
	if len(policies) == 0 {
		return "", nil
	}
	path, err := filepath.Abs(filepath.Join(dir, "cachenode.yaml"))
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("caches:\n")
	for _, p := range policies {
		fmt.Fprintf(&b, "  - {name: %q", p.Name)
		if p.MaxEntries > 0 {
			fmt.Fprintf(&b, ", max_entries: %d", p.MaxEntries)
		}
		if p.MaxBytes > 0 {
			fmt.Fprintf(&b, ", max_bytes: %d", p.MaxBytes)
		}
		if p.TTL > 0 {
			fmt.Fprintf(&b, ", ttl: %s", p.TTL)
		}
		if p.Evict != "" {
			fmt.Fprintf(&b, ", evict: %s", p.Evict)
		}
		b.WriteString("}\n")
	}
	return path, os.WriteFile(path, []byte(b.String()), 0o644)
}

// reserveAdmin finds an address for the metrics of each node. It comes after
// everything else listens, so that nobody takes one of them while its node is
// down: nothing but this run listens on this host.
func (c *Cluster) reserveAdmin() error {
	for _, n := range c.nodes {
		l, err := proc.Listen(net.JoinHostPort(c.Net.Host(), "0"))
		if err != nil {
			return err
		}
		defer l.Close() // all of them at once, or two nodes could get the same
		n.admin = l.Addr().String()
		n.env = append(n.env, "CACHE_ADMIN_ADDR="+n.admin)
	}
	return nil
}

// Digest is what a node says about its copy.
type Digest struct {
	Applied uint64 // the log index that the rest is of
	Hash    uint64 // 53 bits of the hash of all that is replicated
	// Evicted and Expired count, by cache, what this process has removed for
	// want of room and after its time.
	Evicted, Expired map[string]uint64
	// MemoryBound is what the parts of the node may take of memory by its
	// configuration, together with the data that it holds, in bytes.
	MemoryBound uint64
}

// scraper has no connections to keep: a node is asked seldom.
var scraper = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Second}

// ErrNoAdmin is returned by [Node.Digest] where nobody said where the node
// serves its metrics.
var ErrNoAdmin = errors.New("cluster: no admin address is known")

// Digest asks a node for its metrics.
func (n *Node) Digest(ctx context.Context) (Digest, error) {
	if n.admin == "" {
		return Digest{}, fmt.Errorf("metrics of %s: %w", n.Name, ErrNoAdmin)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+"/metrics", nil)
	if err != nil {
		return Digest{}, err
	}
	res, err := scraper.Do(req)
	if err != nil {
		return Digest{}, fmt.Errorf("metrics of %s: %w", n.Name, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return Digest{}, fmt.Errorf("metrics of %s: %s", n.Name, res.Status)
	}
	d, err := readDigest(res.Body)
	if err != nil {
		return Digest{}, fmt.Errorf("metrics of %s: %w", n.Name, err)
	}
	return d, nil
}

// readDigest reads the few metrics of interest from the text format.
func readDigest(r io.Reader) (Digest, error) {
	d := Digest{Evicted: map[string]uint64{}, Expired: map[string]uint64{}}
	found := 0
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		name, number, ok := strings.Cut(sc.Text(), " ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		name, labels, _ := strings.Cut(name, "{")
		cache := strings.TrimSuffix(strings.TrimPrefix(labels, `cache="`), `"}`)
		var to *uint64
		switch name {
		case "cachenode_state_hash":
			to, found = &d.Hash, found+1
		case "cachenode_state_hash_index":
			to, found = &d.Applied, found+1
		case "cachenode_cache_evictions_total", "cachenode_cache_expirations_total":
			to = new(uint64)
		case "cachenode_memory_bound_bytes": // one for each part
			to = new(uint64)
		default:
			continue
		}
		v, err := strconv.ParseFloat(number, 64)
		if err != nil || v < 0 {
			return d, fmt.Errorf("%s: %q is not a number", name, number)
		}
		*to = uint64(v)
		switch name {
		case "cachenode_cache_evictions_total":
			d.Evicted[cache] = *to
		case "cachenode_cache_expirations_total":
			d.Expired[cache] = *to
		case "cachenode_memory_bound_bytes":
			d.MemoryBound += *to
		}
	}
	if err := sc.Err(); err != nil {
		return d, err
	}
	if found != 2 {
		return d, fmt.Errorf("no cachenode_state_hash and cachenode_state_hash_index among them")
	}
	return d, nil
}

package node

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/hacache/hacache/cachenode/internal/config"
)

// Config describes a node that runs inside another program. The zero value is a node alone, on a free port of loopback,
// with the defaults that the program cachenode has. All nodes of a cluster need the same Hosts, Token, ElectionTimeout
// and Caches.
type Config struct {
	// Hosts are the members of the cluster, host:port each, at most 7; an odd number is best. Empty: this node is alone.
	Hosts []string
	// Self is the one of Hosts that this node is. Required with Hosts.
	Self string
	// Listener is what the node accepts connections on; nil opens one on Listen. It is the node's, which closes it at the
	// end of Run, once New has returned no error.
	Listener net.Listener
	// Listen is a TCP address, host:port. Default: Self, or a free port of loopback if there are no Hosts.
	Listen string
	// Dial names the address to dial for one of Hosts where that is another, as behind a proxy.
	Dial map[string]string

	// Token is what clients and peers must present. Without one, a node listens on loopback only, unless Insecure.
	Token string
	// PeerToken is what peers must present instead; "" is Token.
	PeerToken string
	// Insecure allows listening beyond loopback without a Token.
	Insecure bool
	// TLS secures the listener and the links between nodes; nil is plain text.
	TLS *TLS

	// Caches are the policies of named caches. Others come into being on their first write, without bounds.
	Caches []Cache
	// Strict refuses caches that are not in Caches.
	Strict bool
	// DefaultTTL is the life of entries whose write and cache name none, in whole milliseconds; 0 is for ever.
	DefaultTTL time.Duration
	// MaxBytes bounds what all caches hold together, keys and overhead included: beyond it writes are refused with
	// OVERLOADED. 0 is no bound.
	MaxBytes int64
	// MaxValueBytes bounds one value, 1 to 1 MiB; 0 is 1 MiB.
	MaxValueBytes int64

	// MaxStaleness is the age of its copy up to which the node answers local reads, 10 ms to 1 h; 0 is 500 ms.
	MaxStaleness time.Duration
	// ElectionTimeout is the silence after which a follower suspects its leader, 20 ms to 2 s in steps of 10 ms; 0 is
	// 200 ms. A busy program that stalls for longer than this loses the leadership; give it more.
	ElectionTimeout time.Duration
	// FormGrace is how long an empty node waits for absent hosts before a majority forms a cluster without them, up to
	// 1 h; 0 is 1 s.
	FormGrace time.Duration
	// AbandonAfter is how long a node may be without a leader, and without hope of one, before it forgets its copy so
	// that the reachable majority can start anew, 1 s to 24 h; 0 is 30 s, negative is never.
	AbandonAfter time.Duration
	// JoinOnly keeps an empty node from forming a cluster: it waits for one that exists.
	JoinOnly bool
	// LogRetainBytes is how much of the applied log is kept for members that lag, 1 MiB to 64 GiB; 0 is 64 MiB.
	LogRetainBytes int64
	// ShutdownTimeout bounds the orderly part of a stop, 100 ms to 1 h; 0 is 10 s.
	ShutdownTimeout time.Duration

	// Logger is told of changes of state, never of operations; nil discards.
	Logger *slog.Logger
}

// TLS names the PEM files of a node. They are read again when they change.
type TLS struct {
	// Cert and Key are the certificate chain and key that the node presents, as a server and to its peers.
	Cert, Key string
	// CA verifies the peers, and everyone who connects.
	CA string
	// ServerName is the name that the certificates of peers must have. Default redhac.local.
	ServerName string
	// NoClientCert lets clients and peers connect without a certificate; CA may then be empty, which is the system's.
	NoClientCert bool
}

// Cache is the policy of one named cache. Zero values mean no bound.
type Cache struct {
	// Name is what operations call it, 1 to 1024 bytes.
	Name string
	// MaxEntries and MaxBytes bound the cache; beyond them entries are evicted.
	MaxEntries, MaxBytes int64
	// TTL is the life of entries whose write names none, in whole milliseconds; 0 is Config.DefaultTTL.
	TTL time.Duration
	// LRU evicts what was not used lately at each node, instead of what was written longest ago, the same on all.
	LRU bool
}

// resolve returns the configuration in the terms of the program, or everything that is wrong with it.
func (c *Config) resolve() (config.Config, error) {
	cfg := config.Default()
	cfg.SetOrigins(origins)
	cfg.HAMode = len(c.Hosts) > 0
	var errs []error
	if cfg.HAMode {
		cfg.Hosts = slices.Clone(c.Hosts)
		config.SortHosts(cfg.Hosts)
		cfg.Self = slices.IndexFunc(cfg.Hosts, func(h string) bool { return config.Identity(h) == config.Identity(c.Self) })
		if cfg.Self < 0 {
			errs = append(errs, fmt.Errorf("%s: %q is not one of Hosts, %q", "Self", c.Self, c.Hosts))
			cfg.Self = 0
		}
	} else if c.Self != "" {
		errs = append(errs, fmt.Errorf("%s: %q, but there are no Hosts", "Self", c.Self))
	}
	cfg.Listen = cmp.Or(c.Listen, config.Identity(c.Self), "127.0.0.1:0")
	if c.Listener != nil {
		cfg.Listen = c.Listener.Addr().String()
	}
	cfg.DialMap = map[string]string{}
	for host, addr := range c.Dial {
		cfg.DialMap[config.Identity(host)] = addr
	}
	cfg.Token, cfg.PeerToken, cfg.Insecure = config.Secret(c.Token), config.Secret(c.PeerToken), c.Insecure
	if t := c.TLS; t != nil {
		cfg.TLS = config.TLS{
			Enabled: true, Mutual: !t.NoClientCert, ServerCert: t.Cert, ServerKey: t.Key, CAServer: t.CA, CAClient: t.CA,
			ValidateDomain: cmp.Or(t.ServerName, cfg.TLS.ValidateDomain),
		}
	}
	for _, p := range c.Caches {
		policy := config.CachePolicy{Name: p.Name, MaxEntries: p.MaxEntries, MaxBytes: p.MaxBytes, TTL: p.TTL}
		if p.LRU {
			policy.Evict = "lru"
		}
		cfg.Caches = append(cfg.Caches, policy)
	}
	cfg.Strict, cfg.DefaultTTL, cfg.MaxBytes, cfg.JoinOnly = c.Strict, c.DefaultTTL, c.MaxBytes, c.JoinOnly
	cfg.MaxEntryBytes = cmp.Or(c.MaxValueBytes, cfg.MaxEntryBytes)
	cfg.MaxStaleness = cmp.Or(c.MaxStaleness, cfg.MaxStaleness)
	cfg.ElectionTimeout = cmp.Or(c.ElectionTimeout, cfg.ElectionTimeout)
	cfg.FormGrace = cmp.Or(c.FormGrace, cfg.FormGrace)
	cfg.AbandonAfter = max(cmp.Or(c.AbandonAfter, cfg.AbandonAfter), 0)
	cfg.LogRetain = cmp.Or(c.LogRetainBytes, cfg.LogRetain)
	cfg.ShutdownTimeout = cmp.Or(c.ShutdownTimeout, cfg.ShutdownTimeout)
	if err := errors.Join(append(errs, cfg.Validate())...); err != nil {
		return cfg, fmt.Errorf("node: configuration: %w", err)
	}
	return cfg, nil
}

// origins says which field of Config a setting comes from, for messages.
var origins = map[string]string{
	"hosts": "Hosts", "listen": "Listen", "dial_map": "Dial", "token": "Token", "peer_token": "PeerToken",
	"mtls": "TLS.NoClientCert", "tls_server_cert": "TLS.Cert", "tls_server_key": "TLS.Key", "tls_ca_server": "TLS.CA", "tls_ca_client": "TLS.CA",
	"strict": "Strict", "default_ttl": "DefaultTTL", "max_bytes": "MaxBytes", "max_entry_bytes": "MaxValueBytes",
	"max_staleness": "MaxStaleness", "election_timeout_ms": "ElectionTimeout", "form_grace": "FormGrace",
	"abandon_after": "AbandonAfter", "log_retain": "LogRetainBytes", "shutdown_timeout": "ShutdownTimeout",
}

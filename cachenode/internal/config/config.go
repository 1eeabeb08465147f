// Package config is the configuration of one cachenode: the struct, its defaults, where its values come from and
// what is wrong with them. A value is taken from the first of: flag, environment, file, default. The environment
// names, units and defaults are those of the original redhac cache where it has them.
//
// The package starts nothing and imports nothing of this module.
package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of the state machine that configuration may lower but not raise.
const (
	// MaxHosts bounds HA_HOSTS. Every write goes to every host, and a joint change of more than seven voters has
	// never been exercised.
	MaxHosts = 7
	// MaxCaches bounds the caches a configuration file may name, and the state machine as a whole.
	MaxCaches = 1024
	// MaxEntryBytes is the largest value a cache may hold, and the default of Config.MaxEntryBytes.
	MaxEntryBytes = 1 << 20
	// DefaultPort is the port of a node which was told nothing at all.
	DefaultPort = 7070
)

// Config is everything a node is told. Build one with Load (a program) or with Default and assignments (a test or an
// embedding program); then call Validate. A Config is a value: copies may be changed, but the maps and slices inside
// are shared and must not be.
type Config struct {
	// HAMode makes the node a member of the cluster of Hosts. Default false, as in the seed: a single node that
	// forms a cluster of one at once.
	HAMode bool
	// Hosts are the members of the cluster as given (scheme://host:port or host:port), sorted by Identity, so that
	// the position of a host is its slot. 1 to MaxHosts, no duplicates; empty iff HAMode is false.
	Hosts []string
	// Self is the slot of this node: an index into Hosts. 0 without HAMode.
	Self int
	// HostnameOverwrite is the host[:port] by which this node finds itself in Hosts. Default: the host name of the
	// machine, which cannot tell apart several nodes on one machine.
	HostnameOverwrite string

	// Listen is the TCP address of the cache service, host:port; port 0 lets the system choose. Default: the port of
	// the own host on all interfaces; on loopback only when there is no Token, when the own host is itself loopback,
	// or when the node is alone and TLS was not asked for.
	Listen string
	// ListenFD is an inherited file descriptor with a bound listener which is used instead of Listen; 0 is none. Set
	// from LISTEN_FDS: systemd's socket activation, and how a test harness avoids races for ports.
	ListenFD int
	// AdminAddr is the TCP address for health checks, metrics and profiles over HTTP. Default empty: not served,
	// because it asks for no token.
	AdminAddr string
	// AdminFD is ListenFD for AdminAddr: the inherited descriptor named "admin" in LISTEN_FDNAMES.
	AdminFD int
	// Pprof serves /debug/pprof on AdminAddr. Default false: profiles show memory contents.
	Pprof bool
	// DialMap tells which address to dial for a host, by its Identity. Hosts without an entry are dialled by name.
	// Default empty; it exists to put a proxy on each link while slots keep their names.
	DialMap map[string]string

	// Token is what clients and peers must present. Default empty: no token is asked for, and the node listens on
	// loopback only unless Insecure is set.
	Token Secret
	// PeerToken is what peers present instead of Token. Default empty: Token, as in the seed. Set it where clients
	// must not be able to act as a peer.
	PeerToken Secret
	// MaxConnections bounds the connections of clients; one more is refused. 16 to 1 048 576, default 16 384: at some
	// 60 KiB each that is 1 GiB. Peers are not counted. Four times as many streams may be open on them.
	MaxConnections int
	// Insecure allows listening beyond loopback without a Token. Default false.
	Insecure bool
	// TLS secures the cache service and the links to peers.
	TLS TLS

	// BufServer and BufClient are the lengths of the seed's channels, in messages. Accepted so that a seed's
	// environment works unchanged; queues here are bounded in bytes and messages of their own. 1 to 1 048 576;
	// defaults 128 and 64.
	BufServer, BufClient int
	// KeepaliveInterval is how long a connection may be silent before the node asks for a sign of life, and
	// KeepaliveTimeout how long it then waits before it ends the connection: for clients whose hosts vanish. 1 s to 1 h,
	// default 5 s each, as in the seed. Failure of nodes is found by other means, in less time.
	KeepaliveInterval, KeepaliveTimeout time.Duration
	// ReconnectLower and ReconnectUpper are the seed's bounds of the pause before a redial. 1 ms to 1 min, defaults
	// 500 ms and 2 s. Upper bounds here: redials begin at 20 ms and never pause longer than 250 ms, nor longer than
	// ReconnectLower.
	ReconnectLower, ReconnectUpper time.Duration
	// ElectionTimeoutMax is the seed's CACHE_ELECTION_TIMEOUT, default 2 s: an upper bound of ElectionTimeout.
	ElectionTimeoutMax time.Duration
	// ElectionTimeout is the silence after which a follower suspects its leader; the real one is drawn from 1 to 2
	// times this. 20 ms to 60 s in steps of 10 ms, default 200 ms: below, 100 ms of jitter deposes healthy leaders;
	// above, an isolated leader is missed for longer. Must be equal on all nodes.
	ElectionTimeout time.Duration
	// MaxStaleness is the age of its view up to which a node answers local reads. 10 ms to 1 h, default 500 ms: an
	// idle follower lags 60 to 100 ms, and a leader change should not interrupt reads.
	MaxStaleness time.Duration
	// FormGrace is how long an empty node waits for absent hosts before a majority forms a cluster without them.
	// 0 to 1 h, default 1 s: longer than the processes of one deployment take to start one after the other.
	FormGrace time.Duration
	// AbandonAfter is how long a node may be without a leader and without hope of one before it forgets its copy, so
	// that the reachable majority can start anew. 0: never. Otherwise 1 s to 24 h; default 30 s.
	AbandonAfter time.Duration
	// JoinOnly keeps an empty node from forming a cluster: it only joins an existing one. Default false.
	JoinOnly bool

	// MaxBytes bounds the live data of all caches together, in bytes. Default 0: no bound but memory.
	MaxBytes int64
	// MaxEntryBytes bounds one value, in bytes. 1 to 1 MiB (MaxEntryBytes), which is the default.
	MaxEntryBytes int64
	// DefaultTTL is the life of an entry whose cache and request name none. Default 0: until removed or evicted.
	// Otherwise 1 ms to 1 193 h (what fits 32 bits of milliseconds).
	DefaultTTL time.Duration
	// Strict refuses caches which are not in Caches. Default false: a cache comes into being on its first write.
	Strict bool
	// LogRetain is how many bytes of applied log are kept for members that lag. 1 MiB to 64 GiB, default 64 MiB:
	// some seconds of full load, after which a snapshot is cheaper anyway.
	LogRetain int64
	// Caches are the policies of named caches. Only a file can set them. At most MaxCaches, unique names.
	Caches []CachePolicy

	// ShutdownTimeout bounds an orderly stop: hand leadership over, answer what is open, close. 100 ms to 1 h,
	// default 10 s: well under the 30 s a container gets before it is killed.
	ShutdownTimeout time.Duration
	// LogLevel is debug, info, warn or error. Default info.
	LogLevel string
	// LogFormat is text or json. Default text.
	LogFormat string

	files  map[string]string // by key of the settings that name a file with a secret
	client bool              // for a program that only dials: see Input.Client
	origin map[string]string // key of a setting -> "env X", "flag --x", "file:line"; absent: default
}

// CachePolicy is the policy of one named cache. Its zero values mean "no bound".
type CachePolicy struct {
	// Name is the cache_name of requests: 1 to 1024 bytes.
	Name string
	// MaxEntries and MaxBytes bound the cache; 0 is no bound. Beyond it entries are evicted by Evict.
	MaxEntries, MaxBytes int64
	// TTL is the life of entries whose request names none; 0 takes Config.DefaultTTL.
	TTL time.Duration
	// Evict is "oldest-write" (the default and the meaning of ""; the same on every node) or "lru" (each node by its
	// own recency of use).
	Evict string
}

// Default returns the configuration of a node which was told nothing: one node, loopback, no TLS, no token.
func Default() Config {
	return Config{
		Listen: net.JoinHostPort("127.0.0.1", strconv.Itoa(DefaultPort)),
		TLS: TLS{
			Mutual:         true,
			ServerCert:     "tls/redhac.cert-chain.pem",
			ServerKey:      "tls/redhac.key.pem",
			ValidateDomain: "redhac.local",
		},
		MaxConnections:     16 << 10,
		BufServer:          128,
		BufClient:          64,
		KeepaliveInterval:  5 * time.Second,
		KeepaliveTimeout:   5 * time.Second,
		ReconnectLower:     500 * time.Millisecond,
		ReconnectUpper:     2 * time.Second,
		ElectionTimeoutMax: 2 * time.Second,
		ElectionTimeout:    200 * time.Millisecond,
		MaxStaleness:       500 * time.Millisecond,
		FormGrace:          time.Second,
		AbandonAfter:       30 * time.Second,
		MaxEntryBytes:      MaxEntryBytes,
		LogRetain:          64 << 20,
		ShutdownTimeout:    10 * time.Second,
		LogLevel:           "info",
		LogFormat:          "text",
	}
}

// Identities returns the Identity of every host, in slot order. A single node has its Listen address as its only one.
func (c *Config) Identities() []string {
	if !c.HAMode {
		return []string{c.Listen}
	}
	ids := make([]string, len(c.Hosts))
	for i, h := range c.Hosts {
		ids[i] = Identity(h)
	}
	return ids
}

// DialAddr returns the address at which to dial the host of a slot.
func (c *Config) DialAddr(slot int) string {
	id := c.Identities()[slot]
	if a, ok := c.DialMap[id]; ok {
		return a
	}
	return id
}

// PeerSecret returns the token that peers present: PeerToken, or Token where there is none.
func (c *Config) PeerSecret() Secret {
	if c.PeerToken != "" {
		return c.PeerToken
	}
	return c.Token
}

// Origin names where the value of a setting came from: "flag --listen", "env CACHE_LISTEN", "node.yaml:3", or
// "default of CACHE_LISTEN". key is the setting's key in the file.
func (c *Config) Origin(key string) string {
	if o, ok := c.origin[key]; ok {
		return o
	}
	for _, s := range settings {
		if s.Key == key {
			return "default of " + s.Env
		}
	}
	return key
}

// SetOrigins names where the settings of a Config that was not loaded come from, by their key, for Origin. It keeps of.
func (c *Config) SetOrigins(of map[string]string) { c.origin = of }

// explicit reports whether the setting came from a flag, the environment or a file.
func (c *Config) explicit(key string) bool {
	_, ok := c.origin[key]
	return ok
}

// Validate reports everything that is wrong with c, joined: one line each, which names the source of the value, what
// was found and what was expected. Ranges of single settings are checked too, so that a Config built by hand gets the
// same answers as one that was loaded.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", c.Origin(key), fmt.Sprintf(format, args...)))
	}
	for _, s := range settings {
		if s.check == nil {
			continue
		}
		if err := s.check(c); err != nil {
			bad(s.Key, "%v", err)
		}
	}
	c.validateHosts(bad)
	c.validateListen(bad)
	if c.TLS.Enabled {
		c.validateTLS(bad)
	}
	if c.ElectionTimeout > c.ElectionTimeoutMax {
		bad("election_timeout_ms", "%v is above %v (%s)", c.ElectionTimeout, c.ElectionTimeoutMax, c.Origin("election_timeout"))
	}
	if c.ReconnectLower > c.ReconnectUpper {
		bad("reconnect_timeout_lower", "%v is above %v (%s)", c.ReconnectLower, c.ReconnectUpper, c.Origin("reconnect_timeout_upper"))
	}
	for key, t := range map[string]Secret{"token": c.Token, "peer_token": c.PeerToken} {
		if strings.ContainsFunc(string(t), func(r rune) bool { return r < '!' || r > '~' }) {
			bad(key, "a token travels in an HTTP header: expected visible ASCII without blanks")
		}
	}
	c.validateCaches(bad)
	return errors.Join(errs...)
}

func (c *Config) validateHosts(bad func(key, format string, args ...any)) {
	if !c.HAMode {
		if len(c.Hosts) > 0 {
			bad("hosts", "%d hosts although HA_MODE is false", len(c.Hosts))
		}
		return
	}
	if n := len(c.Hosts); n < 1 || n > MaxHosts {
		bad("hosts", "%d hosts; expected 1 to %d of the form scheme://host:port", n, MaxHosts)
		return
	}
	seen := map[string]bool{}
	for _, h := range c.Hosts {
		if err := checkHost(h); err != nil {
			bad("hosts", "%v", err)
			continue
		}
		if id := Identity(h); seen[id] {
			bad("hosts", "%s is there twice", id)
		} else {
			seen[id] = true
		}
	}
	if !slices.IsSortedFunc(c.Hosts, compareHosts) {
		bad("hosts", "hosts are not sorted by host:port, which makes slots ambiguous")
	}
	if c.Self < 0 || c.Self >= len(c.Hosts) {
		bad("hosts", "own slot %d is not one of %d", c.Self, len(c.Hosts))
	}
	for _, id := range slices.Sorted(maps.Keys(c.DialMap)) {
		if !seen[id] {
			bad("dial_map", "%s is not in HA_HOSTS (%s)", id, strings.Join(slices.Sorted(maps.Keys(seen)), ", "))
		}
		if err := checkAddr(c.DialMap[id], 1); err != nil {
			bad("dial_map", "%s: %v", id, err)
		}
	}
}

func (c *Config) validateListen(bad func(key, format string, args ...any)) {
	if err := checkAddr(c.Listen, 0); err != nil {
		bad("listen", "%v", err)
	} else if c.ListenFD == 0 && c.closed() && !IsLoopback(c.Listen) {
		bad("listen", "%s", exposed(c.Listen))
	}
	if c.AdminAddr != "" {
		if err := checkAddr(c.AdminAddr, 0); err != nil {
			bad("admin_addr", "%v", err)
		}
	}
}

func (c *Config) validateCaches(bad func(key, format string, args ...any)) {
	if len(c.Caches) > MaxCaches {
		bad("caches", "%d caches; expected at most %d", len(c.Caches), MaxCaches)
	}
	seen := map[string]bool{}
	for _, p := range c.Caches {
		key := "caches." + p.Name
		switch {
		case p.Name == "" || len(p.Name) > 1024:
			bad(key, "a cache name has 1 to 1024 bytes, this one has %d", len(p.Name))
		case seen[p.Name]:
			bad(key, "cache %q is there twice", p.Name)
		case p.MaxEntries < 0 || p.MaxBytes < 0 || p.TTL != 0 && p.TTL < time.Millisecond || p.TTL > maxTTL:
			bad(key, "cache %q: expected max_entries and max_bytes of at least 0, ttl 0 or from %v to %v", p.Name, time.Millisecond, maxTTL)
		case p.Evict != "" && p.Evict != "oldest-write" && p.Evict != "lru":
			bad(key, "cache %q: evict is %q; expected oldest-write or lru", p.Name, p.Evict)
		}
		seen[p.Name] = true
	}
	if c.Strict && len(c.Caches) == 0 {
		bad("strict", "true, but no file names any caches: nothing could be stored")
	}
}

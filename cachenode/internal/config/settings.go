package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

const maxTTL = math.MaxUint32 * time.Millisecond

// Setting is one thing that can be set from outside.
type Setting struct {
	// Key is its name in the file; the flag is the same with dashes.
	Key string
	// Env is its environment variable.
	Env string
	// Usage is one line for help: meaning, unit, default.
	Usage string
	// Bool settings are flags without a value.
	Bool bool
	// Secret settings have no flag, since command lines are public on a machine.
	Secret bool

	set   func(c *Config, s string) error
	get   func(c *Config) string
	check func(c *Config) error // of the value alone; nil: any value will do
}

// Flag is the name of the setting's flag without dashes, or "" for a secret.
func (s *Setting) Flag() string {
	if s.Secret {
		return ""
	}
	return strings.ReplaceAll(s.Key, "_", "-")
}

// Value is the value of the setting in c, in a form that can be set again; secrets are redacted.
func (s *Setting) Value(c *Config) string { return s.get(c) }

// Settings returns all settings in the order of help and of config print. The result must not be modified.
func Settings() []Setting { return settings }

// otherVars are variables of the environment that are no settings of a node but belong to this program.
var otherVars = []string{"CACHE_CONFIG", "CACHE_ADDR"}

var settings = []Setting{
	boolean("ha_mode", "HA_MODE", "be a member of the cluster of HA_HOSTS", func(c *Config) *bool { return &c.HAMode }),
	{
		Key: "hosts", Env: "HA_HOSTS", Usage: "members of the cluster: scheme://host:port, separated by commas or blanks",
		set: func(c *Config, s string) error { c.Hosts = splitList(s); return nil },
		get: func(c *Config) string { return strings.Join(c.Hosts, ",") },
	},
	text("hostname_overwrite", "HOSTNAME_OVERWRITE", "the host[:port] of HA_HOSTS that is this node (default: the machine's name)", func(c *Config) *string { return &c.HostnameOverwrite }),
	text("listen", "CACHE_LISTEN", "address of the cache service, host:port (default: the own port of HA_HOSTS; alone: 127.0.0.1:7070)", func(c *Config) *string { return &c.Listen }),
	text("admin_addr", "CACHE_ADMIN_ADDR", "address for health checks and metrics over HTTP (default: none)", func(c *Config) *string { return &c.AdminAddr }),
	boolean("pprof", "CACHE_PPROF", "serve /debug/pprof on the admin address", func(c *Config) *bool { return &c.Pprof }),
	{
		Key: "dial_map", Env: "CACHE_DIAL_MAP", Usage: "which address to dial for a host: host:port=address, separated by commas",
		set: setDialMap, get: getDialMap,
	},
	secret("token", "CACHE_AUTH_TOKEN", "token of clients and peers", func(c *Config) *Secret { return &c.Token }),
	file("token_file", "CACHE_AUTH_TOKEN_FILE", "file with the token of clients and peers"),
	secret("peer_token", "CACHE_PEER_TOKEN", "token of peers (default: the token)", func(c *Config) *Secret { return &c.PeerToken }),
	file("peer_token_file", "CACHE_PEER_TOKEN_FILE", "file with the token of peers"),
	boolean("insecure", "CACHE_INSECURE", "listen beyond loopback without a token", func(c *Config) *bool { return &c.Insecure }),
	boolean("tls", "CACHE_TLS", "TLS (default true; false for a node alone on loopback without certificates)", func(c *Config) *bool { return &c.TLS.Enabled }),
	boolean("mtls", "CACHE_MTLS", "ask clients for a certificate (default true)", func(c *Config) *bool { return &c.TLS.Mutual }),
	text("tls_server_cert", "CACHE_TLS_SERVER_CERT", "certificate chain of this node, PEM", func(c *Config) *string { return &c.TLS.ServerCert }),
	text("tls_server_key", "CACHE_TLS_SERVER_KEY", "private key of this node, PEM", func(c *Config) *string { return &c.TLS.ServerKey }),
	text("tls_client_cert", "CACHE_TLS_CLIENT_CERT", "certificate chain for dialling peers (default: the server's)", func(c *Config) *string { return &c.TLS.ClientCert }),
	text("tls_client_key", "CACHE_TLS_CLIENT_KEY", "private key for dialling peers (default: the server's)", func(c *Config) *string { return &c.TLS.ClientKey }),
	text("tls_ca_server", "CACHE_TLS_CA_SERVER", "CA of servers, PEM (default: the system's)", func(c *Config) *string { return &c.TLS.CAServer }),
	text("tls_ca_client", "CACHE_TLS_CA_CLIENT", "CA of clients, PEM (default: the CA of servers)", func(c *Config) *string { return &c.TLS.CAClient }),
	text("tls_client_validate_domain", "CACHE_TLS_CLIENT_VALIDATE_DOMAIN", "name a server's certificate must have", func(c *Config) *string { return &c.TLS.ValidateDomain }),
	text("tls_sni_overwrite", "CACHE_TLS_SNI_OVERWRITE", "name to ask servers for (default: the validated one)", func(c *Config) *string { return &c.TLS.SNIOverwrite }),
	integer("max_connections", "CACHE_MAX_CONNECTIONS", "connections of clients at most", 16, 1<<20, func(c *Config) *int { return &c.MaxConnections }),
	integer("buf_server", "CACHE_BUF_SERVER", "accepted for compatibility", 1, 1<<20, func(c *Config) *int { return &c.BufServer }),
	integer("buf_client", "CACHE_BUF_CLIENT", "accepted for compatibility", 1, 1<<20, func(c *Config) *int { return &c.BufClient }),
	duration("keepalive_interval", "CACHE_KEEPALIVE_INTERVAL", "silence after which a connection is asked for a sign of life, bare numbers are seconds", time.Second, time.Second, time.Hour, false, func(c *Config) *time.Duration { return &c.KeepaliveInterval }),
	duration("keepalive_timeout", "CACHE_KEEPALIVE_TIMEOUT", "how long that may take before the connection ends, bare numbers are seconds", time.Second, time.Second, time.Hour, false, func(c *Config) *time.Duration { return &c.KeepaliveTimeout }),
	duration("reconnect_timeout_lower", "CACHE_RECONNECT_TIMEOUT_LOWER", "upper bound of the pause before a redial, bare numbers are ms", time.Millisecond, time.Millisecond, time.Minute, false, func(c *Config) *time.Duration { return &c.ReconnectLower }),
	duration("reconnect_timeout_upper", "CACHE_RECONNECT_TIMEOUT_UPPER", "upper bound of the pause before a redial, bare numbers are ms", time.Millisecond, time.Millisecond, time.Minute, false, func(c *Config) *time.Duration { return &c.ReconnectUpper }),
	duration("election_timeout", "CACHE_ELECTION_TIMEOUT", "upper bound of CACHE_ELECTION_TIMEOUT_MS, bare numbers are seconds", time.Second, 20*time.Millisecond, time.Hour, false, func(c *Config) *time.Duration { return &c.ElectionTimeoutMax }),
	duration("election_timeout_ms", "CACHE_ELECTION_TIMEOUT_MS", "silence after which a leader is suspected, bare numbers are ms", time.Millisecond, 20*time.Millisecond, time.Minute, false, func(c *Config) *time.Duration { return &c.ElectionTimeout }),
	duration("max_staleness", "CACHE_MAX_STALENESS", "age of its view up to which a node answers local reads", 0, 10*time.Millisecond, time.Hour, false, func(c *Config) *time.Duration { return &c.MaxStaleness }),
	duration("form_grace", "CACHE_FORM_GRACE", "how long to wait for absent hosts before a majority forms a cluster", 0, 0, time.Hour, true, func(c *Config) *time.Duration { return &c.FormGrace }),
	duration("abandon_after", "CACHE_ABANDON_AFTER", "how long without hope of a leader before the copy is forgotten (0: never)", 0, time.Second, 24*time.Hour, true, func(c *Config) *time.Duration { return &c.AbandonAfter }),
	boolean("join_only", "CACHE_JOIN_ONLY", "never form a cluster, only join one", func(c *Config) *bool { return &c.JoinOnly }),
	size("max_bytes", "CACHE_MAX_BYTES", "bound of all live data (0: none)", 0, math.MaxInt64, func(c *Config) *int64 { return &c.MaxBytes }),
	size("max_entry_bytes", "CACHE_MAX_ENTRY_BYTES", "bound of one value", 1, MaxEntryBytes, func(c *Config) *int64 { return &c.MaxEntryBytes }),
	duration("default_ttl", "CACHE_DEFAULT_TTL", "life of entries that name none (0: for ever)", 0, time.Millisecond, maxTTL, true, func(c *Config) *time.Duration { return &c.DefaultTTL }),
	boolean("strict", "CACHE_STRICT", "refuse caches which the file does not name", func(c *Config) *bool { return &c.Strict }),
	size("log_retain", "CACHE_LOG_RETAIN", "applied log kept for members that lag", 1<<20, 64<<30, func(c *Config) *int64 { return &c.LogRetain }),
	duration("shutdown_timeout", "CACHE_SHUTDOWN_TIMEOUT", "bound of an orderly stop", 0, 100*time.Millisecond, time.Hour, false, func(c *Config) *time.Duration { return &c.ShutdownTimeout }),
	choice("log_level", "CACHE_LOG_LEVEL", []string{"debug", "info", "warn", "error"}, func(c *Config) *string { return &c.LogLevel }),
	choice("log_format", "CACHE_LOG_FORMAT", []string{"text", "json"}, func(c *Config) *string { return &c.LogFormat }),
}

func text(key, env, usage string, p func(*Config) *string) Setting {
	return Setting{
		Key: key, Env: env, Usage: usage,
		set: func(c *Config, s string) error { *p(c) = strings.TrimSpace(s); return nil },
		get: func(c *Config) string { return *p(c) },
	}
}

func secret(key, env, usage string, p func(*Config) *Secret) Setting {
	return Setting{
		Key: key, Env: env, Usage: usage, Secret: true,
		set: func(c *Config, s string) error { *p(c) = Secret(s); return nil },
		get: func(c *Config) string { return p(c).String() },
	}
}

// file settings name a file: Load reads it into the setting of the same name without _file.
func file(key, env, usage string) Setting {
	return Setting{
		Key: key, Env: env, Usage: usage,
		set: func(c *Config, s string) error {
			if c.files == nil {
				c.files = map[string]string{}
			}
			c.files[key] = s
			return nil
		},
		get: func(c *Config) string { return c.files[key] },
	}
}

func boolean(key, env, usage string, p func(*Config) *bool) Setting {
	return Setting{
		Key: key, Env: env, Usage: usage, Bool: true,
		set: func(c *Config, s string) error {
			b, err := strconv.ParseBool(strings.TrimSpace(s))
			if err != nil {
				return fmt.Errorf("%q is neither true nor false", s)
			}
			*p(c) = b
			return nil
		},
		get: func(c *Config) string { return strconv.FormatBool(*p(c)) },
	}
}

func choice(key, env string, of []string, p func(*Config) *string) Setting {
	s := text(key, env, strings.Join(of, ", "), p)
	s.check = func(c *Config) error {
		if !slices.Contains(of, *p(c)) {
			return fmt.Errorf("%q is not one of %s", *p(c), strings.Join(of, ", "))
		}
		return nil
	}
	return s
}

func integer(key, env, usage string, lo, hi int, p func(*Config) *int) Setting {
	return Setting{
		Key: key, Env: env, Usage: usage,
		set: func(c *Config, s string) error {
			n, err := strconv.Atoi(strings.TrimSpace(s))
			if err != nil {
				return fmt.Errorf("%q is not a number; expected %d to %d", s, lo, hi)
			}
			*p(c) = n
			return nil
		},
		get: func(c *Config) string { return strconv.Itoa(*p(c)) },
		check: func(c *Config) error {
			if n := *p(c); n < lo || n > hi {
				return fmt.Errorf("%d is out of range; expected %d to %d", n, lo, hi)
			}
			return nil
		},
	}
}

// duration is a time.Duration from lo to hi, or also 0 if zero is set. unit is what a bare number counts; 0 asks for a
// unit, since for a name the seed does not have every reader would guess another one.
func duration(key, env, usage string, unit, lo, hi time.Duration, zero bool, p func(*Config) *time.Duration) Setting {
	return Setting{
		Key: key, Env: env, Usage: usage,
		set: func(c *Config, s string) (err error) { *p(c), err = parseDuration(s, unit); return err },
		get: func(c *Config) string { return p(c).String() },
		check: func(c *Config) error {
			if d := *p(c); (d < lo || d > hi) && (d != 0 || !zero) {
				return fmt.Errorf("%v is out of range; expected %v to %v", d, lo, hi)
			}
			return nil
		},
	}
}

func parseDuration(s string, unit time.Duration) (time.Duration, error) {
	s = strings.TrimSpace(s)
	if d, err := time.ParseDuration(s); err == nil { // also "0"
		return d, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err == nil && unit == 0:
		return 0, fmt.Errorf("%q has no unit; expected a duration such as 500ms or 5s", s)
	case err != nil || n > math.MaxInt64/int64(max(unit, 1)) || n < 0:
		return 0, fmt.Errorf("%q is not a duration; expected one such as 500ms or 5s", s)
	}
	return time.Duration(n) * unit, nil
}

func size(key, env, usage string, lo, hi int64, p func(*Config) *int64) Setting {
	return Setting{
		Key: key, Env: env, Usage: usage,
		set: func(c *Config, s string) (err error) { *p(c), err = parseSize(s); return err },
		get: func(c *Config) string { return strconv.FormatInt(*p(c), 10) },
		check: func(c *Config) error {
			if n := *p(c); n < lo || n > hi {
				return fmt.Errorf("%d bytes is out of range; expected %d to %d", n, lo, hi)
			}
			return nil
		},
	}
}

// parseSize reads bytes, or a number with one of the units B, KiB, MiB, GiB and their short forms k, m, g: all powers
// of 1024.
func parseSize(s string) (int64, error) {
	digits := strings.TrimSpace(s)
	i := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	unit := ""
	if i >= 0 {
		digits, unit = digits[:i], strings.ToLower(strings.TrimSpace(digits[i:]))
	}
	shift, ok := map[string]uint{"": 0, "b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20, "g": 30, "gb": 30, "gib": 30}[unit]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !ok || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is not a size; expected bytes, or a number with KiB, MiB or GiB", s)
	}
	return n << shift, nil
}

func setDialMap(c *Config, s string) error {
	c.DialMap = map[string]string{}
	for _, pair := range splitList(s) {
		host, addr, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("%q is not a pair; expected host:port=address", pair)
		}
		id := Identity(host)
		if _, ok := c.DialMap[id]; ok {
			return fmt.Errorf("%s is there twice", id)
		}
		c.DialMap[id] = addr
	}
	return nil
}

func getDialMap(c *Config) string {
	var pairs []string
	for host, addr := range c.DialMap {
		pairs = append(pairs, host+"="+addr)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Input is where a configuration comes from.
type Input struct {
	// File is the path of a YAML file from a flag; "" takes CACHE_CONFIG, and without that no file is read.
	File string
	// Flags are the values given on the command line, by the key of the setting.
	Flags map[string]string
	// Env is the environment as of os.Environ.
	Env []string
	// Client says that the configuration is for dialling a node only: the certificate of the node itself need not be there
	// where there is one of a client.
	Client bool
	// Hostname names this machine; nil is os.Hostname.
	Hostname func() (string, error)
	// Elsewhere is for a program that only connects to a node at an address it was given: it need not be one of the
	// hosts. Self is 0 then, if it is none.
	Elsewhere bool
}

// Load builds a Config from its sources and validates it. The error joins everything that is wrong, one line each.
// Warnings are things a reader of the log should know which do not keep the node from running.
func Load(in Input) (c Config, warnings []string, err error) {
	l := loader{c: Default(), in: in}
	l.c.origin, l.c.client = map[string]string{}, in.Client
	l.c.Listen = "" // resolved last: its default depends on the rest
	l.c.TLS.Enabled = true
	l.readEnv()
	l.readFile()
	l.apply()
	l.readTokens()
	l.resolveHosts()
	l.resolveTLS()
	l.warnSchemes()
	l.resolveListen()
	l.resolveActivation()
	if len(l.errs) > 0 {
		// Validate too: one run should show everything. What a failed step left at its default is valid.
		return l.c, l.warnings, errors.Join(errors.Join(l.errs...), l.c.Validate())
	}
	return l.c, l.warnings, l.c.Validate()
}

type loader struct {
	c        Config
	in       Input
	env      map[string]string
	file     map[string]fileValue // by key of the setting
	errs     []error
	warnings []string
}

type fileValue struct {
	value  string
	origin string
}

func (l *loader) bad(origin, format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf("%s: %s", origin, fmt.Sprintf(format, args...)))
}

func (l *loader) warn(format string, args ...any) {
	l.warnings = append(l.warnings, fmt.Sprintf(format, args...))
}

// readEnv takes the environment apart and looks for names that were meant to be ours. Only names close to a real one
// are errors: Kubernetes puts variables such as CACHE_SERVICE_HOST into every container beside a service "cache".
func (l *loader) readEnv() {
	l.env = map[string]string{}
	known := slices.Clone(otherVars)
	for _, s := range settings {
		known = append(known, s.Env)
	}
	for _, kv := range l.in.Env {
		name, value, _ := strings.Cut(kv, "=")
		l.env[name] = value
		if value == "" || slices.Contains(known, name) {
			continue
		}
		if !strings.HasPrefix(name, "CACHE_") && !strings.HasPrefix(name, "HA_") && !strings.HasPrefix(name, "HOSTNAME_OV") {
			continue
		}
		if near := nearest(name, known, 2); near != "" {
			l.bad("env "+name, "there is no such variable; did you mean %s?", near)
		} else if strings.HasPrefix(name, "CACHE_") && !fromKubernetes(name) {
			l.warn("env %s is not a variable of cachenode and has no effect", name)
		}
	}
}

// fromKubernetes reports whether a variable looks like the ones that describe a service named cache or cache-*.
func fromKubernetes(name string) bool {
	return strings.HasSuffix(name, "_SERVICE_HOST") || strings.Contains(name, "_SERVICE_PORT") ||
		strings.HasSuffix(name, "_PORT") || strings.Contains(name, "_PORT_")
}

// readFile reads the YAML file, if any: a flat mapping with the keys of the settings, and "caches".
func (l *loader) readFile() {
	l.file = map[string]fileValue{}
	path, origin := l.in.File, "flag --config"
	if path == "" {
		path, origin = l.env["CACHE_CONFIG"], "env CACHE_CONFIG"
	}
	if path == "" {
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		l.bad(origin, "%v", err)
		return
	}
	var doc yaml.Node
	if err := yaml.Load(data, &doc); err != nil {
		if len(strings.TrimSpace(string(data))) > 0 {
			if e, ok := errors.AsType[*yaml.LoadError](err); ok && e.Mark.Line > 0 {
				l.bad(path+":"+strconv.Itoa(e.Mark.Line), "not YAML: %s", oneLine(e.Message))
				return
			}
			l.bad(path, "not YAML: %s", oneLine(err.Error()))
		}
		return
	}
	if len(doc.Content) == 0 {
		return
	}
	top := doc.Content[0]
	at := func(n *yaml.Node) string { return path + ":" + strconv.Itoa(n.Line) }
	l.eachKey(top, at, func(key, value *yaml.Node) {
		if key.Value == "caches" {
			l.readCaches(value, at)
			return
		}
		i := slices.IndexFunc(settings, func(s Setting) bool { return s.Key == key.Value })
		if i < 0 {
			keys := []string{"caches"}
			for _, s := range settings {
				keys = append(keys, s.Key)
			}
			l.badKey(at(key), key.Value, keys)
			return
		}
		s, err := scalar(value)
		if err != nil {
			l.bad(at(value), "%s: %v", key.Value, err)
			return
		}
		l.file[key.Value] = fileValue{s, at(key)}
	})
}

// eachKey calls f for each pair of a mapping, and complains about anything that is not one or repeats a key.
func (l *loader) eachKey(n *yaml.Node, at func(*yaml.Node) string, f func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		l.bad(at(n), "expected lines of the form key: value")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if seen[key.Value] {
			l.bad(at(key), "%s is there twice", key.Value)
			continue
		}
		seen[key.Value] = true
		f(key, n.Content[i+1])
	}
}

func (l *loader) badKey(origin, key string, known []string) {
	if near := nearest(key, known, 3); near != "" {
		l.bad(origin, "there is no key %q; did you mean %s?", key, near)
		return
	}
	l.bad(origin, "there is no key %q; expected one of %s", key, strings.Join(known, ", "))
}

// scalar flattens a value to the form it has in the environment: lists and mappings with commas, pairs with =.
func scalar(n *yaml.Node) (string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "", nil
		}
		return n.Value, nil
	case yaml.SequenceNode:
		var items []string
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return "", errors.New("expected a list of plain values")
			}
			items = append(items, item.Value)
		}
		return strings.Join(items, ","), nil
	case yaml.MappingNode:
		var pairs []string
		for i := 0; i+1 < len(n.Content); i += 2 {
			pairs = append(pairs, n.Content[i].Value+"="+n.Content[i+1].Value)
		}
		return strings.Join(pairs, ","), nil
	default:
		return "", errors.New("expected a plain value")
	}
}

func (l *loader) readCaches(n *yaml.Node, at func(*yaml.Node) string) {
	if n.Kind != yaml.SequenceNode {
		l.bad(at(n), "caches: expected a list of policies, each with a name")
		return
	}
	for _, item := range n.Content {
		var p CachePolicy
		l.eachKey(item, at, func(key, value *yaml.Node) {
			s, err := scalar(value)
			if err == nil {
				switch key.Value {
				case "name":
					p.Name = s
				case "max_entries":
					if p.MaxEntries, err = strconv.ParseInt(s, 10, 64); err != nil {
						err = fmt.Errorf("%q is not a number of entries", s)
					}
				case "max_bytes":
					p.MaxBytes, err = parseSize(s)
				case "ttl":
					p.TTL, err = parseDuration(s, 0)
				case "evict":
					p.Evict = s
				default:
					l.badKey(at(key), key.Value, []string{"name", "max_entries", "max_bytes", "ttl", "evict"})
				}
			}
			if err != nil {
				l.bad(at(value), "%s: %v", key.Value, err)
			}
		})
		l.c.Caches = append(l.c.Caches, p)
		l.c.origin["caches."+p.Name] = at(item)
	}
	l.c.origin["caches"] = at(n)
}

// apply sets each setting from its first source. An empty variable counts as absent, as deployments leave them.
func (l *loader) apply() {
	for _, s := range settings {
		value, origin, ok := l.lookup(&s)
		if !ok {
			continue
		}
		if err := s.set(&l.c, value); err != nil {
			l.bad(origin, "%v", err)
			d := Default()
			_ = s.set(&l.c, s.get(&d))
			continue
		}
		l.c.origin[s.Key] = origin
	}
}

func (l *loader) lookup(s *Setting) (value, origin string, ok bool) {
	if v, ok := l.in.Flags[s.Key]; ok {
		return v, "flag --" + s.Flag(), true
	}
	if v := l.env[s.Env]; v != "" {
		return v, "env " + s.Env, true
	}
	f, ok := l.file[s.Key]
	return f.value, f.origin, ok
}

// readTokens reads the files that hold tokens.
func (l *loader) readTokens() {
	for _, t := range []struct {
		key string
		to  *Secret
	}{{"token", &l.c.Token}, {"peer_token", &l.c.PeerToken}} {
		i := slices.IndexFunc(settings, func(s Setting) bool { return s.Key == t.key+"_file" })
		path, origin, ok := l.lookup(&settings[i])
		if !ok || path == "" {
			continue
		}
		if l.c.explicit(t.key) {
			l.bad(origin, "there is a token already (%s); expected one of the two", l.c.Origin(t.key))
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			l.bad(origin, "%v", err)
			continue
		}
		*t.to = Secret(strings.TrimSpace(string(data)))
		if *t.to == "" {
			l.bad(origin, "%s is empty; expected a token", path)
		}
		l.c.origin[t.key] = origin
	}
}

// resolveHosts sorts the hosts into slots and finds this node among them.
func (l *loader) resolveHosts() {
	c := &l.c
	if !c.HAMode {
		if len(c.Hosts) > 0 {
			l.warn("%s has no effect because HA_MODE is not true: this node is alone", c.Origin("hosts"))
			c.Hosts = nil
		}
		c.DialMap = nil
		return
	}
	SortHosts(c.Hosts)
	if len(c.Hosts) == 0 {
		return // Validate says so
	}
	if n := len(c.Hosts); n%2 == 0 {
		l.warn("%s: %d hosts survive no more failures than %d do; an odd number is better", c.Origin("hosts"), n, n-1)
	}
	name, origin, overwritten := c.HostnameOverwrite, c.Origin("hostname_overwrite"), c.HostnameOverwrite != ""
	if !overwritten {
		hostname := l.in.Hostname
		if hostname == nil {
			hostname = os.Hostname
		}
		var err error
		if name, err = hostname(); err != nil {
			l.bad(origin, "%v; set HOSTNAME_OVERWRITE to one of the hosts", err)
			return
		}
		origin = "HOSTNAME_OVERWRITE is not set"
	}
	self, err := findSelf(c.Hosts, name, overwritten)
	if err != nil && !l.in.Elsewhere {
		l.bad(origin, "%v", err)
	}
	c.Self = self
}

// resolveTLS decides whether TLS is on where nobody said. It is, as in the seed, with one exception: a node which is
// alone, has no certificates at their default place and does not listen beyond loopback runs without, so that
// "cachenode serve" works on a fresh machine. Anything reachable needs certificates or an explicit CACHE_TLS=false.
func (l *loader) resolveTLS() {
	c := &l.c
	if l.in.Client && (c.explicit("tls_client_cert") || c.explicit("tls_ca_server")) {
		return
	}
	if c.explicit("tls") || c.HAMode || c.explicit("tls_server_cert") || c.explicit("tls_server_key") {
		return
	}
	if c.explicit("listen") && !IsLoopback(c.Listen) {
		return
	}
	if exists(c.TLS.ServerCert) || exists(c.TLS.ServerKey) {
		return
	}
	c.TLS.Enabled = false
	l.warn("running alone on loopback without TLS: there is no certificate at %s (CACHE_TLS_SERVER_CERT); say CACHE_TLS=false to choose this, or HA_MODE=true with HA_HOSTS for a cluster", c.TLS.ServerCert)
}

// warnSchemes: the scheme of a host decides nothing, as in the seed, but who writes https expects TLS.
func (l *loader) warnSchemes() {
	for _, h := range l.c.Hosts {
		if strings.HasPrefix(strings.ToLower(h), "https://") && !l.c.TLS.Enabled {
			l.warn("%s: %s says https, but TLS is off (%s)", l.c.Origin("hosts"), h, l.c.Origin("tls"))
			return
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func (l *loader) resolveListen() {
	c := &l.c
	if c.explicit("listen") {
		return
	}
	open := !c.closed()
	switch {
	case !c.HAMode && open && (c.TLS.Enabled || c.explicit("tls")):
		c.Listen = net.JoinHostPort("", strconv.Itoa(DefaultPort))
	case !c.HAMode || len(c.Hosts) == 0:
		c.Listen = Default().Listen
	default:
		self := c.Hosts[c.Self]
		c.Listen = defaultListen(self, !open)
		if !open && !IsLoopback(Identity(self)) {
			l.warn("listening on %s only, because there is no token (CACHE_AUTH_TOKEN): other machines cannot reach %s", c.Listen, Identity(self))
		}
	}
}

// resolveActivation takes over the sockets that a parent bound: systemd, or a harness. LISTEN_PID, when it is set,
// must be this process; a parent that cannot know it in advance (os/exec cannot) leaves it out.
func (l *loader) resolveActivation() {
	count, ok := l.env["LISTEN_FDS"]
	if !ok || count == "" {
		return
	}
	if pid := l.env["LISTEN_PID"]; pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 2 {
		l.bad("env LISTEN_FDS", "%q; expected 1, or 2 with one named admin in LISTEN_FDNAMES", count)
		return
	}
	names := strings.Split(l.env["LISTEN_FDNAMES"], ":")
	for i := range n {
		const first = 3 // SD_LISTEN_FDS_START
		switch {
		case i < len(names) && names[i] == "admin":
			l.c.AdminFD = first + i
		case l.c.ListenFD == 0:
			l.c.ListenFD = first + i
		default:
			l.bad("env LISTEN_FDS", "two sockets and neither is named admin in LISTEN_FDNAMES")
		}
	}
}

// nearest returns the name with the smallest edit distance to s, if that is at most limit.
func nearest(s string, names []string, limit int) string {
	best := ""
	for _, name := range names {
		if d := editDistance(s, name); d <= limit {
			best, limit = name, d-1
		}
	}
	return best
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// BackoffMax is the longest pause before a redial: see Config.ReconnectLower.
func (c *Config) BackoffMax() time.Duration { return min(250*time.Millisecond, c.ReconnectLower) }

package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func load(t *testing.T, in Input) (Config, []string, error) {
	t.Helper()
	if in.Hostname == nil {
		in.Hostname = func() (string, error) { return "cache-1", nil }
	}
	t.Chdir(t.TempDir()) // so that tls/redhac.* are absent
	return Load(in)
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A node which is told nothing is one node on loopback without TLS, and says so.
func TestLoadNothing(t *testing.T) {
	c, warnings, err := load(t, Input{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("default (-want +got):\n%s", diff)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "without TLS") {
		t.Errorf("warnings = %q", warnings)
	}
}

// The seed's own example environment works unchanged: blanks around commas, numbers in the seed's units.
func TestLoadSeedEnvironment(t *testing.T) {
	c, warnings, err := load(t, Input{Env: []string{
		"HA_MODE=true",
		"HA_HOSTS=http://127.0.0.1:8280, http://127.0.0.1:8080 ,\nhttp://127.0.0.1:8180",
		"HOSTNAME_OVERWRITE=127.0.0.1:8180",
		"CACHE_AUTH_TOKEN=s3cret",
		"CACHE_TLS=false",
		"CACHE_BUF_SERVER=128", "CACHE_BUF_CLIENT=64",
		"CACHE_KEEPALIVE_INTERVAL=5", "CACHE_KEEPALIVE_TIMEOUT=7s",
		"CACHE_RECONNECT_TIMEOUT_LOWER=500", "CACHE_RECONNECT_TIMEOUT_UPPER=2000",
		"CACHE_ELECTION_TIMEOUT=2",
		"CACHE_SERVICE_HOST=10.0.0.1", "CACHE_PORT_8080_TCP=tcp://10.0.0.1:8080", // Kubernetes
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.HAMode = true
	want.Hosts = []string{"http://127.0.0.1:8080", "http://127.0.0.1:8180", "http://127.0.0.1:8280"}
	want.Self = 1
	want.HostnameOverwrite = "127.0.0.1:8180"
	want.Listen = "127.0.0.1:8180"
	want.Token = "s3cret"
	want.KeepaliveTimeout = 7 * time.Second
	if diff := cmp.Diff(want, c, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(warnings) != 0 {
		t.Errorf("warnings = %q", warnings)
	}
}

// flag > environment > file > default, for each setting alone.
func TestLoadPrecedence(t *testing.T) {
	path := write(t, "max_staleness: 1s\nform_grace: 2s\nabandon_after: 0\n")
	c, _, err := load(t, Input{
		File:  path,
		Env:   []string{"CACHE_MAX_STALENESS=3s", "CACHE_FORM_GRACE=4s", "CACHE_LOG_LEVEL="},
		Flags: map[string]string{"max_staleness": "5s"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := []time.Duration{c.MaxStaleness, c.FormGrace, c.AbandonAfter}
	if want := []time.Duration{5 * time.Second, 4 * time.Second, 0}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	origins := []string{c.Origin("max_staleness"), c.Origin("form_grace"), c.Origin("abandon_after"), c.Origin("log_level")}
	want := []string{"flag --max-staleness", "env CACHE_FORM_GRACE", path + ":3", "default of CACHE_LOG_LEVEL"}
	if diff := cmp.Diff(want, origins); diff != "" {
		t.Errorf("origins (-want +got):\n%s", diff)
	}
}

func TestLoadFile(t *testing.T) {
	path := write(t, `ha_mode: true
hosts: [https://b:1, https://a:1, https://c:1]
hostname_overwrite: b
dial_map:
  a:1: 127.0.0.1:9001
token: tok
tls: false
caches:
  - name: sessions
    max_entries: 1000
    ttl: 15m
    evict: lru
  - {name: keys, max_bytes: 64MiB}
`)
	c, _, err := load(t, Input{File: path})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]CachePolicy{
		{Name: "sessions", MaxEntries: 1000, TTL: 15 * time.Minute, Evict: "lru"},
		{Name: "keys", MaxBytes: 64 << 20},
	}, c.Caches); diff != "" {
		t.Errorf("caches (-want +got):\n%s", diff)
	}
	if c.Self != 1 || c.Listen != ":1" || c.DialAddr(0) != "127.0.0.1:9001" || c.DialAddr(2) != "c:1" {
		t.Errorf("self %d, listen %s, dial %s %s", c.Self, c.Listen, c.DialAddr(0), c.DialAddr(2))
	}
}

// Each mistake is one line that names its source, what was found and what was expected; all come at once.
func TestLoadMistakes(t *testing.T) {
	ha := []string{"HA_MODE=true", "HA_HOSTS=http://a:1,http://b:1,http://c:1", "CACHE_TLS=false", "CACHE_AUTH_TOKEN=x"}
	tests := []struct {
		name  string
		env   []string
		flags map[string]string
		file  string
		want  []string // the lines, FILE for the path of the file
	}{
		{
			name: "host not in HA_HOSTS", env: append(ha, "HOSTNAME_OVERWRITE=d:1"),
			want: []string{`env HOSTNAME_OVERWRITE: "d:1" is not in HA_HOSTS (http://a:1, http://b:1, http://c:1); expected one of these hosts as host or host:port`},
		},
		{
			name: "a part of a host is not a host", env: []string{"HA_MODE=true", "HA_HOSTS=http://cache-10:1", "CACHE_TLS=false", "CACHE_AUTH_TOKEN=x"},
			want: []string{`HOSTNAME_OVERWRITE is not set: the name of this machine, "cache-1", is not in HA_HOSTS (http://cache-10:1); set HOSTNAME_OVERWRITE to one of these hosts as host or host:port`},
		},
		{
			name: "ambiguous", env: []string{"HA_MODE=true", "HA_HOSTS=http://l:1,http://l:2,http://l:3", "CACHE_TLS=false", "CACHE_AUTH_TOKEN=x", "HOSTNAME_OVERWRITE=l"},
			want: []string{`env HOSTNAME_OVERWRITE: "l" is 3 of the hosts in HA_HOSTS (http://l:1, http://l:2, http://l:3); set HOSTNAME_OVERWRITE to host:port`},
		},
		{
			name: "duplicate host", env: []string{"HA_MODE=true", "HA_HOSTS=http://a:1 http://A:1 http://b:1", "CACHE_TLS=false", "CACHE_AUTH_TOKEN=x", "HOSTNAME_OVERWRITE=b"},
			want: []string{`env HA_HOSTS: a:1 is there twice`},
		},
		{
			name: "host without port", env: []string{"HA_MODE=true", "HA_HOSTS=http://a", "CACHE_TLS=false", "CACHE_AUTH_TOKEN=x", "HOSTNAME_OVERWRITE=a"},
			want: []string{`env HA_HOSTS: "http://a" is not a host; expected scheme://host:port`},
		},
		{
			name: "no hosts", env: []string{"HA_MODE=true", "CACHE_TLS=false"},
			want: []string{`default of HA_HOSTS: 0 hosts; expected 1 to 7 of the form scheme://host:port`},
		},
		{
			name: "typo of a variable", env: []string{"CACHE_MAX_STALNESS=1s", "HA_HOST=x"},
			want: []string{
				`env CACHE_MAX_STALNESS: there is no such variable; did you mean CACHE_MAX_STALENESS?`,
				`env HA_HOST: there is no such variable; did you mean HA_HOSTS?`,
			},
		},
		{
			name: "typo of the seed's variables", env: []string{"CACHE_KEEPALIVE_INTERVALL=5", "CACHE_TLS_CLIENT_VALIDATE_DOMAINS=x", "HOSTNAME_OVERRITE=x"},
			want: []string{
				`env CACHE_KEEPALIVE_INTERVALL: there is no such variable; did you mean CACHE_KEEPALIVE_INTERVAL?`,
				`env CACHE_TLS_CLIENT_VALIDATE_DOMAINS: there is no such variable; did you mean CACHE_TLS_CLIENT_VALIDATE_DOMAIN?`,
				`env HOSTNAME_OVERRITE: there is no such variable; did you mean HOSTNAME_OVERWRITE?`,
			},
		},
		{
			name: "typo in a file", file: "log_level: info\nmax_stalenes: 1s\n",
			want: []string{`FILE:2: there is no key "max_stalenes"; did you mean max_staleness?`},
		},
		{
			name: "typo in a cache", file: "caches:\n  - name: a\n    max_entires: 3\n",
			want: []string{`FILE:3: there is no key "max_entires"; did you mean max_entries?`},
		},
		{
			name: "a cache whose entries would live for ever", file: "caches:\n  - name: a\n    ttl: 500us\n",
			want: []string{`FILE:2: cache "a": expected max_entries and max_bytes of at least 0, ttl 0 or from 1ms to 1193h2m47.295s`},
		},
		{
			name: "repeated key", file: "strict: false\nstrict: false\n",
			want: []string{`FILE:2: strict is there twice`},
		},
		{
			name: "value in a file", file: "\nmax_bytes: many\n",
			want: []string{`FILE:2: "many" is not a size; expected bytes, or a number with KiB, MiB or GiB`},
		},
		{
			name: "reachable without a token", env: []string{"CACHE_LISTEN=0.0.0.0:7070", "CACHE_TLS=false"},
			want: []string{`env CACHE_LISTEN: 0.0.0.0:7070 is reachable from other machines and there is no token; set CACHE_AUTH_TOKEN, or listen on 127.0.0.1, or say --insecure`},
		},
		{
			name: "reachable without certificates", env: []string{"CACHE_LISTEN=0.0.0.0:7070", "CACHE_AUTH_TOKEN=x", "CACHE_MTLS=false"},
			want: []string{
				`default of CACHE_TLS_SERVER_CERT: open tls/redhac.cert-chain.pem: no such file or directory; expected a PEM file, or CACHE_TLS=false`,
				`default of CACHE_TLS_SERVER_KEY: open tls/redhac.key.pem: no such file or directory; expected a PEM file, or CACHE_TLS=false`,
			},
		},
		{
			name: "several at once", env: []string{"CACHE_MAX_STALENESS=5", "CACHE_KEEPALIVE_INTERVAL=0"}, flags: map[string]string{"log_level": "loud", "buf_server": "x"},
			want: []string{
				`flag --buf-server: "x" is not a number; expected 1 to 1048576`,
				`env CACHE_MAX_STALENESS: "5" has no unit; expected a duration such as 500ms or 5s`,
				`env CACHE_KEEPALIVE_INTERVAL: 0s is out of range; expected 1s to 1h0m0s`,
				`flag --log-level: "loud" is not one of debug, info, warn, error`,
			},
		},
		{
			name: "election timeout above its bound", env: []string{"CACHE_ELECTION_TIMEOUT=1", "CACHE_ELECTION_TIMEOUT_MS=1500"},
			want: []string{`env CACHE_ELECTION_TIMEOUT_MS: 1.5s is above 1s (env CACHE_ELECTION_TIMEOUT)`},
		},
		{
			name: "two tokens", env: []string{"CACHE_AUTH_TOKEN=x", "CACHE_AUTH_TOKEN_FILE=/dev/null"},
			want: []string{`env CACHE_AUTH_TOKEN_FILE: there is a token already (env CACHE_AUTH_TOKEN); expected one of the two`},
		},
		{
			name: "token with a blank", env: []string{"CACHE_AUTH_TOKEN=top secret"},
			want: []string{`env CACHE_AUTH_TOKEN: a token travels in an HTTP header: expected visible ASCII without blanks`},
		},
		{
			name: "dial map", env: append(ha, "HOSTNAME_OVERWRITE=a", "CACHE_DIAL_MAP=d:1=127.0.0.1:1,b:1=nowhere"),
			want: []string{
				`env CACHE_DIAL_MAP: b:1: "nowhere" is not an address; expected host:port`,
				`env CACHE_DIAL_MAP: d:1 is not in HA_HOSTS (a:1, b:1, c:1)`,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := Input{Env: tt.env, Flags: tt.flags}
			if tt.file != "" {
				in.File = write(t, tt.file)
			}
			_, _, err := load(t, in)
			if err == nil {
				t.Fatal("no error")
			}
			var got []string
			for line := range strings.Lines(err.Error()) {
				line = strings.TrimSpace(line)
				if in.File != "" {
					line = strings.ReplaceAll(line, in.File, "FILE")
				}
				got = append(got, line)
			}
			for i, want := range tt.want {
				if i >= len(got) || !strings.Contains(got[i], want) {
					t.Fatalf("line %d is wrong; got\n%s\nwant\n%s", i+1, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
				}
			}
			if len(got) != len(tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			if strings.Contains(err.Error(), "top secret") {
				t.Error("the message shows the token")
			}
		})
	}
}

// A default listener is as closed as it can be: only a token, or --insecure, opens it beyond loopback.
func TestListenDefault(t *testing.T) {
	tests := []struct {
		env  string
		want string
	}{
		{"HA_MODE=false", "127.0.0.1:7070"},
		{"CACHE_AUTH_TOKEN=x", "127.0.0.1:7070"}, // no TLS by default only on loopback
		{"CACHE_AUTH_TOKEN=x CACHE_TLS=false", ":7070"},
		{"CACHE_TLS=false", "127.0.0.1:7070"},
		{"CACHE_TLS=false CACHE_INSECURE=true", ":7070"},
		{"HA_MODE=true HA_HOSTS=http://cache-1:81 CACHE_TLS=false", "127.0.0.1:81"},
		{"HA_MODE=true HA_HOSTS=http://cache-1:81 CACHE_TLS=false CACHE_AUTH_TOKEN=x", ":81"},
		{"HA_MODE=true HA_HOSTS=http://cache-1.svc:81 CACHE_TLS=false CACHE_AUTH_TOKEN=x", ":81"},
		{"HA_MODE=true HA_HOSTS=http://localhost:81 HOSTNAME_OVERWRITE=localhost CACHE_TLS=false CACHE_AUTH_TOKEN=x", "127.0.0.1:81"},
		{"HA_MODE=true HA_HOSTS=http://[::1]:81 HOSTNAME_OVERWRITE=[::1]:81 CACHE_TLS=false", "[::1]:81"},
		{"CACHE_LISTEN=127.0.0.1:0", "127.0.0.1:0"},
	}
	for _, tt := range tests {
		t.Run(tt.env, func(t *testing.T) {
			c, _, err := load(t, Input{Env: strings.Fields(tt.env)})
			if err != nil {
				t.Fatal(err)
			}
			if c.Listen != tt.want {
				t.Errorf("got %s, want %s", c.Listen, tt.want)
			}
		})
	}
}

// Secrets stay out of every way in which a Config is commonly printed.
func TestSecretsAreNotPrinted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := load(t, Input{Env: []string{"CACHE_AUTH_TOKEN_FILE=" + path, "CACHE_PEER_TOKEN=hunter23"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Token != "hunter2" {
		t.Fatal("the token of the file was not read")
	}
	if c.PeerSecret() != "hunter23" {
		t.Error("peers use the wrong token")
	}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+" "+verb+"\n", c.Token, c)
	}
	if err := json.NewEncoder(&out).Encode(c); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "token", c.Token, "config", c)
	for _, s := range Settings() {
		out.WriteString(s.Value(&c))
	}
	for _, leak := range []string{"hunter2", fmt.Sprintf("%x", "hunter2")} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("%q is in\n%s", leak, out.String())
		}
	}
}

// Inherited sockets: systemd names its process, a harness cannot; another process's sockets are not ours.
func TestActivation(t *testing.T) {
	tests := []struct {
		env           string
		listen, admin int
	}{
		{"LISTEN_FDS=1", 3, 0},
		{fmt.Sprintf("LISTEN_FDS=1 LISTEN_PID=%d", os.Getpid()), 3, 0},
		{"LISTEN_FDS=1 LISTEN_PID=1", 0, 0},
		{"LISTEN_FDS=2 LISTEN_FDNAMES=admin:cache", 4, 3},
	}
	for _, tt := range tests {
		c, _, err := load(t, Input{Env: strings.Fields(tt.env)})
		if err != nil {
			t.Fatal(err)
		}
		if c.ListenFD != tt.listen || c.AdminFD != tt.admin {
			t.Errorf("%s: got %d and %d, want %d and %d", tt.env, c.ListenFD, c.AdminFD, tt.listen, tt.admin)
		}
	}
}

// A taken port is one line that names the variable.
func TestOpenListenerTaken(t *testing.T) {
	c, _, err := load(t, Input{Env: []string{"CACHE_LISTEN=127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := c.OpenListener()
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c.Listen = ln.Addr().String()
	_, err = c.OpenListener()
	if err == nil || !strings.HasPrefix(err.Error(), "env CACHE_LISTEN: "+c.Listen+" is in use by another process") {
		t.Errorf("got %v", err)
	}
}

// A socket that was inherited is no way around the rule that without a token other machines reach nothing.
func TestInheritedListener(t *testing.T) {
	for _, tt := range []struct {
		addr, env string
		ok        bool
	}{
		{"127.0.0.1:0", "", true},
		{"0.0.0.0:0", "", false},
		{"0.0.0.0:0", "CACHE_AUTH_TOKEN=x CACHE_TLS=false", true},
		{"0.0.0.0:0", "CACHE_INSECURE=true CACHE_TLS=false", true},
	} {
		bound, err := net.Listen("tcp", tt.addr)
		if err != nil {
			t.Fatal(err)
		}
		f, err := bound.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		bound.Close()
		c, _, err := load(t, Input{Env: strings.Fields(tt.env)})
		if err != nil {
			t.Fatal(err)
		}
		fd, err := syscall.Dup(int(f.Fd())) // OpenListener closes it
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		c.ListenFD = fd
		ln, err := c.OpenListener()
		if err == nil {
			ln.Close()
		}
		if (err == nil) != tt.ok || err != nil && !strings.HasPrefix(err.Error(), "env LISTEN_FDS: ") {
			t.Errorf("%s with %q: %v", tt.addr, tt.env, err)
		}
	}
}

// Every setting can be set, printed and set again to the same, has help, and its names are its own.
func TestSettingsTable(t *testing.T) {
	names := map[string]bool{}
	for _, s := range Settings() {
		if s.Usage == "" || names[s.Key] || names[s.Env] {
			t.Errorf("%s: no usage, or a name twice", s.Key)
		}
		names[s.Key], names[s.Env] = true, true
		c, d := Default(), Default()
		if s.Secret {
			continue
		}
		if err := s.set(&c, s.Value(&c)); err != nil {
			t.Errorf("%s: its own default is refused: %v", s.Key, err)
		}
		if s.Value(&c) != s.Value(&d) {
			t.Errorf("%s: %q is set as %q", s.Key, s.Value(&d), s.Value(&c))
		}
		if s.check != nil && s.check(&d) != nil {
			t.Errorf("%s: its default is out of range", s.Key)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("64MiB")
	f.Add("-1")
	f.Add("9223372036854775807g")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseSize(s); err == nil && n < 0 {
			t.Errorf("size %q is %d", s, n)
		}
		if d, err := parseDuration(s, time.Hour); err == nil && d < 0 && !strings.HasPrefix(strings.TrimSpace(s), "-") {
			t.Errorf("duration %q is %v", s, d)
		}
		c := Default()
		_ = setDialMap(&c, s)
		for _, h := range splitList(s) {
			_ = checkHost(h)
		}
	})
}

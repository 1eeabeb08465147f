package deploy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/hacache/hacache/cachenode/internal/config"
)

// notOurs are variables of manifests that the Go runtime reads.
var notOurs = []string{"GOMEMLIMIT", "GOGC"}

// checkEnv reports variables that are no setting of a node. config.Load lets most of them pass, since an environment
// may hold anything; what we write ourselves may not.
func checkEnv(t *testing.T, env map[string]string) {
	t.Helper()
	for name := range env {
		if !slices.Contains(notOurs, name) && !slices.ContainsFunc(config.Settings(), func(s config.Setting) bool { return s.Env == name }) {
			t.Errorf("%s is not a setting of cachenode", name)
		}
	}
}

// load is the configuration of a node with this environment on a machine with this name. Files that the environment
// names exist, with something in them: a certificate that all nodes share, its key, or a secret.
func load(t *testing.T, env map[string]string, hostname string) config.Config {
	t.Helper()
	checkEnv(t, env)
	dir := t.TempDir()
	cert, key := certificate(t, "redhac.local")
	for name, data := range map[string][]byte{"secret": []byte("secret"), "cert": cert, "key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var environ []string
	for name, value := range env {
		switch isFile := strings.HasPrefix(value, "/") || strings.HasPrefix(value, "%d/"); {
		case isFile && strings.HasPrefix(name, "CACHE_TLS_") && strings.HasSuffix(name, "_KEY"):
			value = filepath.Join(dir, "key")
		case isFile && strings.HasPrefix(name, "CACHE_TLS_"):
			value = filepath.Join(dir, "cert")
		case isFile:
			value = filepath.Join(dir, "secret")
		}
		environ = append(environ, name+"="+value)
	}
	c, warnings, err := config.Load(config.Input{Env: environ, Hostname: func() (string, error) { return hostname, nil }})
	if err != nil {
		t.Fatalf("%s cannot start: %v", hostname, err)
	}
	if len(warnings) > 0 {
		t.Errorf("%s starts with warnings: %q", hostname, warnings)
	}
	return c
}

// certificate makes a certificate that is its own CA.
func certificate(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// checkMemory holds that new data is refused well before garbage is collected as hard as it takes, and that this
// begins well before the memory runs out: the rest is for the log, queues, copies under way, and stacks.
func checkMemory(t *testing.T, env map[string]string, memory int64) {
	t.Helper()
	limit, data := bytesOf(t, env["GOMEMLIMIT"]), bytesOf(t, env["CACHE_MAX_BYTES"])
	if limit < memory*3/4 || limit > memory*17/20 {
		t.Errorf("GOMEMLIMIT is %s, %d %% of the memory; expected 75 to 85 %%", env["GOMEMLIMIT"], 100*limit/memory)
	}
	if data > limit/2 {
		t.Errorf("CACHE_MAX_BYTES is %s, more than half of GOMEMLIMIT", env["CACHE_MAX_BYTES"])
	}
}

var size = regexp.MustCompile(`^(\d+)([KMG]?)i?[Bb]?$`)

// bytesOf reads 410MiB, 512m and 2Gi alike: here they all count in powers of 1024.
func bytesOf(t *testing.T, s string) int64 {
	t.Helper()
	m := size.FindStringSubmatch(strings.Replace(s, "m", "M", 1))
	if m == nil {
		t.Fatalf("%q is no size", s)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << map[string]int{"": 0, "K": 10, "M": 20, "G": 30}[m[2]]
}

// checkGrace holds that an orderly stop has the time that it may take.
func checkGrace(t *testing.T, grace, before time.Duration) {
	t.Helper()
	if least := before + config.Default().ShutdownTimeout + 2*time.Second; grace < least {
		t.Errorf("%v until the process is killed; expected %v at least, or it may not have handed its leadership over", grace, least)
	}
}

// node holds what every kind of deployment must: the node finds its place, can be reached by the others, asks for a
// token, and serves its health where the probes look.
func checkNode(t *testing.T, c config.Config, slot int, adminPort string) {
	t.Helper()
	_, port, _ := strings.Cut(c.Identities()[c.Self], ":")
	switch {
	case c.Self != slot:
		t.Errorf("takes itself for host %d (%s), and is %d", c.Self, c.Hosts[c.Self], slot)
	case len(c.Hosts) != 3:
		t.Errorf("%d hosts; expected 3", len(c.Hosts))
	case c.Listen != ":"+port:
		t.Errorf("listens on %s; the others dial port %s", c.Listen, port)
	case c.Token == "":
		t.Error("asks for no token")
	case !strings.HasSuffix(c.AdminAddr, ":"+adminPort):
		t.Errorf("its admin address is %s; the probes use port %s", c.AdminAddr, adminPort)
	}
}

// The three services of the Compose file become one cluster of three.
func TestCompose(t *testing.T) {
	type service struct {
		Environment map[string]string
		Ports       []string
		Healthcheck struct{ Test []string }
		MemLimit    string   `json:"mem_limit"`
		StopGrace   string   `json:"stop_grace_period"`
		CapDrop     []string `json:"cap_drop"`
		ReadOnly    bool     `json:"read_only"`
		Build       struct{ Context, Dockerfile string }
	}
	var file struct{ Services map[string]service }
	decode(t, read(t, "compose.yaml"), &file)
	if got := slices.Sorted(maps.Keys(file.Services)); !slices.Equal(got, []string{"n1", "n2", "n3"}) {
		t.Fatalf("services %q", got)
	}
	for slot, name := range []string{"n1", "n2", "n3"} {
		s := file.Services[name]
		if !strings.HasPrefix(s.Environment["CACHE_AUTH_TOKEN"], "${CACHE_AUTH_TOKEN:?") {
			t.Errorf("%s: the token is %q; expected one from outside, and none by default", name, s.Environment["CACHE_AUTH_TOKEN"])
		}
		s.Environment["CACHE_AUTH_TOKEN"] = "secret"
		c := load(t, s.Environment, name)
		checkNode(t, c, slot, "9090")
		checkMemory(t, s.Environment, bytesOf(t, s.MemLimit))
		grace, err := time.ParseDuration(s.StopGrace)
		if err != nil {
			t.Error(err)
		}
		checkGrace(t, grace, 0)
		_, port, _ := strings.Cut(c.Identities()[slot], ":")
		if want := fmt.Sprintf("127.0.0.1:%s:%s", port, port); s.Ports[0] != want {
			t.Errorf("%s publishes %s; expected %s", name, s.Ports[0], want)
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s publishes %s to the world, without TLS", name, p)
			}
		}
		if want := []string{"CMD", "/cachenode", "health", "--ready"}; !slices.Equal(s.Healthcheck.Test, want) {
			t.Errorf("%s: health is %q; expected %q", name, s.Healthcheck.Test, want)
		}
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) {
			t.Errorf("%s has a writable root or capabilities", name)
		}
		if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
			t.Error(err)
		}
	}
}

// decode reads YAML, with its anchors and merges, as JSON is read: into fields by their names, without regard to case.
func decode(t *testing.T, data []byte, to any) {
	t.Helper()
	var tree any
	if err := yaml.Unmarshal(data, &tree); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, to); err != nil {
		t.Fatal(err)
	}
}

type envVar struct{ Name, Value string }

type probe struct {
	HTTPGet struct{ Path, Port string }
}

type statefulSet struct {
	Spec struct {
		Replicas            int
		ServiceName         string
		PodManagementPolicy string
		Template            struct {
			Spec struct {
				TerminationGracePeriodSeconds int
				SecurityContext               struct {
					RunAsNonRoot       bool
					RunAsUser, FSGroup int
				}
				Containers []struct {
					Env                                         []envVar
					Ports                                       []struct{ Name, ContainerPort any }
					StartupProbe, LivenessProbe, ReadinessProbe probe
					Lifecycle                                   struct {
						PreStop struct{ Sleep struct{ Seconds int } }
					}
					Resources struct {
						Limits map[string]string
					}
					VolumeMounts []struct{ Name, MountPath string }
				}
			}
		}
	}
}

// The pods of the StatefulSet become one cluster with TLS, are probed where they answer, and are given the time to hand
// over.
func TestStatefulSet(t *testing.T) {
	var set statefulSet
	decode(t, read(t, "kustomize/base/statefulset.yaml"), &set)
	pod := set.Spec.Template.Spec
	c := pod.Containers[0]
	env := map[string]string{}
	for _, v := range c.Env {
		env[v.Name] = v.Value
	}
	for slot := range set.Spec.Replicas {
		cfg := load(t, env, fmt.Sprintf("cachenode-%d", slot))
		checkNode(t, cfg, slot, "9090")
		if !cfg.TLS.Enabled || !cfg.TLS.Mutual || cfg.PeerToken == "" {
			t.Errorf("TLS %v, mutual %v, token of peers %v; expected all of them", cfg.TLS.Enabled, cfg.TLS.Mutual, cfg.PeerToken != "")
		}
		if host, want := cfg.Identities()[slot], fmt.Sprintf("cachenode-%d.%s:7070", slot, set.Spec.ServiceName); host != want {
			t.Errorf("the pod's name in the headless service is %s, HA_HOSTS says %s", want, host)
		}
	}
	checkMemory(t, env, bytesOf(t, c.Resources.Limits["memory"]))
	if cpu, ok := c.Resources.Limits["cpu"]; ok {
		t.Errorf("cpu is limited to %s: a throttled node looks dead", cpu)
	}
	checkGrace(t, time.Duration(pod.TerminationGracePeriodSeconds)*time.Second, time.Duration(c.Lifecycle.PreStop.Sleep.Seconds)*time.Second)
	for what, p := range map[string]struct {
		probe
		path string
	}{"startup": {c.StartupProbe, "/livez"}, "liveness": {c.LivenessProbe, "/livez"}, "readiness": {c.ReadinessProbe, "/readyz"}} {
		if p.HTTPGet.Path != p.path || p.HTTPGet.Port != "admin" {
			t.Errorf("the %s probe asks %s at port %s; expected %s at port admin", what, p.HTTPGet.Path, p.HTTPGet.Port, p.path)
		}
	}
	for name, value := range env {
		if strings.HasPrefix(value, "/") && !slices.ContainsFunc(c.VolumeMounts, func(m struct{ Name, MountPath string }) bool { return filepath.Dir(value) == m.MountPath }) {
			t.Errorf("%s=%s is mounted nowhere", name, value)
		}
	}
	user := regexp.MustCompile(`(?m)^USER (\d+):(\d+)$`).FindStringSubmatch(string(read(t, "Dockerfile")))
	if user == nil || user[1] != strconv.Itoa(pod.SecurityContext.RunAsUser) || user[2] != strconv.Itoa(pod.SecurityContext.FSGroup) || !pod.SecurityContext.RunAsNonRoot {
		t.Errorf("the image runs as %q, the pod as %+v", user, pod.SecurityContext)
	}
}

// unit reads a systemd unit: the values of each key, in order.
func unit(t *testing.T, path string) map[string][]string {
	t.Helper()
	keys := map[string][]string{}
	for line := range strings.Lines(string(read(t, path))) {
		line = strings.TrimSpace(line)
		if key, value, ok := strings.Cut(line, "="); ok && line[0] != '#' {
			keys[key] = append(keys[key], value)
		}
	}
	return keys
}

// The unit starts a node that the settings beside it describe, and stops it without haste; the template for several is
// the same unit with other names.
func TestUnits(t *testing.T) {
	u := unit(t, "systemd/cachenode.service")
	stop, err := time.ParseDuration(u["TimeoutStopSec"][0])
	if err != nil {
		t.Fatal(err)
	}
	checkGrace(t, stop, 0)
	env := map[string]string{}
	for line := range strings.Lines(string(read(t, "systemd/cachenode.env")) + strings.Join(u["Environment"], "\n")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && line[0] != '#' {
			env[name] = value
		}
	}
	checkNode(t, load(t, env, "elsewhere"), 0, "9090")
	delete(env, "HOSTNAME_OVERWRITE")
	checkNode(t, load(t, env, "cache-2"), 1, "9090")
	checkMemory(t, env, 2<<30)

	many := unit(t, "systemd/cachenode@.service")
	delete(many, "DefaultInstance")
	for key, values := range many {
		for i := range values {
			values[i] = strings.ReplaceAll(strings.ReplaceAll(values[i], "cachenode %i", "cachenode"), "/%i.env", "/cachenode.env")
		}
		if !slices.Equal(values, u[key]) {
			t.Errorf("%s is %q in the template and %q in the unit", key, values, u[key])
		}
	}
	for key := range u {
		if many[key] == nil {
			t.Errorf("the template has no %s", key)
		}
	}
}

// instruction of a Dockerfile, with its continuation lines.
type instruction struct{ name, args string }

// dockerfileRules says what is wrong with a Dockerfile, one line each: the rules of hadolint that matter for this one.
func dockerfileRules(text string) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	text = regexp.MustCompile(`(?m)^\s*#.*\n`).ReplaceAllString(text, "")
	text = strings.ReplaceAll(text, "\\\n", " ")
	var stages []string
	last := map[string]string{} // of the final stage
	for line := range strings.Lines(text) {
		name, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		in := instruction{name, strings.TrimSpace(args)}
		switch in.name {
		case "":
			continue
		case "FROM":
			image, stage, _ := strings.Cut(in.args, " AS ")
			if _, tag, ok := strings.Cut(image, ":"); image != "scratch" && (!ok || tag == "latest") {
				bad("FROM %s: name a version", image)
			}
			stages = append(stages, stage)
			last = map[string]string{}
		case "COPY":
			if _, from, ok := strings.Cut(in.args, "--from="); ok {
				from, _, _ = strings.Cut(from, " ")
				if !slices.Contains(stages, from) {
					bad("COPY --from=%s: no such stage", from)
				}
			}
		case "RUN", "WORKDIR", "USER", "EXPOSE", "STOPSIGNAL":
		case "ENTRYPOINT", "CMD", "HEALTHCHECK":
			args := in.args[max(strings.Index(in.args, "["), 0):]
			if !json.Valid([]byte(args)) {
				bad("%s %s: write it as a list, there may be no shell", in.name, in.args)
			}
		default:
			bad("%s is not used here", in.name)
		}
		last[in.name] = in.args
	}
	if !regexp.MustCompile(`^[1-9]\d*(:\d+)?$`).MatchString(last["USER"]) {
		bad("USER %q: expected a number that is not root's", last["USER"])
	}
	for _, name := range []string{"ENTRYPOINT", "HEALTHCHECK", "EXPOSE"} {
		if last[name] == "" {
			bad("there is no %s", name)
		}
	}
	return wrong
}

// The image is built by the Go version of the module, and holds to the rules.
func TestDockerfile(t *testing.T) {
	text := string(read(t, "Dockerfile"))
	for _, wrong := range dockerfileRules(text) {
		t.Error(wrong)
	}
	module := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(read(t, "../../go.mod")))
	if !strings.Contains(text, "FROM golang:"+module[1]+" AS") {
		t.Errorf("the module needs Go %s; the image is built by another version", module[1])
	}
}

// Each rule about Dockerfiles can be broken.
func TestDockerfileRules(t *testing.T) {
	good := "FROM golang:1.26 AS build\nRUN make\nFROM scratch\nCOPY --from=build /x /x\nUSER 65532\nEXPOSE 1\nHEALTHCHECK --interval=1s CMD [\"/x\"]\nENTRYPOINT [\"/x\"]\n"
	if wrong := dockerfileRules(good); wrong != nil {
		t.Errorf("nothing is wrong, found %q", wrong)
	}
	for from, to := range map[string]string{
		"golang:1.26": "golang", "golang:": "golang:latest\n#", "--from=build": "--from=bild", "USER 65532": "USER 0", "USER 65532\n": "USER nobody\n",
		"ENTRYPOINT [\"/x\"]": "ENTRYPOINT /x", "EXPOSE 1\n": "", "RUN make": "ADD . .", "HEALTHCHECK --interval=1s CMD [\"/x\"]": "HEALTHCHECK CMD /x",
	} {
		if wrong := dockerfileRules(strings.Replace(good, from, to, 1)); len(wrong) == 0 {
			t.Errorf("%q instead of %q: nothing was found", to, from)
		}
	}
}

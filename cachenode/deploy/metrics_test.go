package deploy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v4"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/cachenode/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is three nodes in this process, with mutual TLS and one certificate for everybody.
type cluster struct {
	hosts, admins []string
	tls           *tls.Config // of clients
}

// startNodes runs a cluster until the test ends, and returns it once all nodes are ready.
func startNodes(t *testing.T) *cluster {
	t.Helper()
	var hosts, admins []string
	for range 3 {
		hosts, admins = append(hosts, freeAddr(t)), append(admins, freeAddr(t))
	}
	config.SortHosts(hosts)
	cert, key := certificate(t, "redhac.local")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{hosts, admins, &tls.Config{ServerName: "redhac.local", Certificates: []tls.Certificate{pair}, RootCAs: x509.NewCertPool()}}
	c.tls.RootCAs.AppendCertsFromPEM(cert)
	certFile, keyFile := filepath.Join(t.TempDir(), "cert"), filepath.Join(t.TempDir(), "key")
	for file, data := range map[string][]byte{certFile: cert, keyFile: key} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, len(hosts))
	var nodes []*node.Node
	t.Cleanup(func() {
		cancel()
		for range nodes {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	for slot := range hosts {
		cfg := config.Default()
		cfg.HAMode, cfg.Hosts, cfg.Self = true, hosts, slot
		cfg.Listen, cfg.AdminAddr, cfg.Token = hosts[slot], admins[slot], "secret"
		cfg.TLS.Enabled, cfg.TLS.ServerCert, cfg.TLS.ServerKey, cfg.TLS.CAServer = true, certFile, keyFile, certFile
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		n, err := node.FromConfig(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, n)
		go func() { done <- n.Run(ctx) }()
	}
	for _, n := range nodes {
		if err := n.AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// connect returns a connection with one of the nodes.
func (c *cluster) connect(t *testing.T, host string) *client.Conn {
	t.Helper()
	conn, err := client.NewConn(client.Config{Addr: host, Token: "secret", TLS: c.tls})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// use does one of everything through each node, so that labels which follow the traffic have values.
func (c *cluster) use(t *testing.T) {
	t.Helper()
	for _, h := range c.hosts {
		conn := c.connect(t, h)
		defer conn.Close()
		for _, kind := range []client.Kind{client.KindInsert, client.KindGet, client.KindRemove, client.KindPut, client.KindDel} {
			op := &client.Op{Kind: kind, Cache: "trial", Key: "key", Value: []byte("value"), Level: client.LevelQuorum}
			if out := conn.Do(t.Context(), op); out.Status != client.StatusOK {
				t.Fatalf("%v at %s: %+v", kind, h, out)
			}
		}
	}
}

func get(t *testing.T, url string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v\n%s", url, resp.Status, err, body)
	}
	return body
}

var (
	sample = regexp.MustCompile(`^([A-Za-z_:][\w:]*)(?:\{(.*)\})? \S+$`)
	label  = regexp.MustCompile(`(\w+)="((?:[^"\\]|\\.)*)"`)
)

// scrape gathers what the nodes export.
func scrape(t *testing.T, admins []string) exports {
	t.Helper()
	e := exports{}
	for _, a := range admins {
		for line := range strings.Lines(string(get(t, "http://"+a+"/metrics"))) {
			line = strings.TrimSpace(line)
			m := sample.FindStringSubmatch(line)
			if m == nil {
				if line != "" && !strings.HasPrefix(line, "#") {
					t.Fatalf("%s is no sample: %s", a, line)
				}
				continue
			}
			e.add(m[1], "", "")
			for _, l := range label.FindAllStringSubmatch(m[2], -1) {
				e.add(m[1], l[1], l[2])
			}
		}
	}
	return e
}

type alert struct {
	Alert, Expr         string
	Labels, Annotations map[string]string
}

// alerts reads the alerting rules.
func alerts(t *testing.T) (all []alert) {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []alert }
	}
	if err := yaml.Unmarshal(read(t, "prometheus/alerts.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("there are no rules")
	}
	return all
}

// dashboardQueries returns the expressions of the dashboard by the title of what shows them.
func dashboardQueries(t *testing.T) map[string][]string {
	t.Helper()
	type target struct{ Title, Name, Expr string }
	var board struct {
		Panels []struct {
			target
			Targets []target
		}
		Annotations struct{ List []target }
	}
	if err := json.Unmarshal(read(t, "grafana/cachenode.json"), &board); err != nil {
		t.Fatal(err)
	}
	queries := map[string][]string{}
	for _, p := range board.Panels {
		for _, q := range p.Targets {
			queries[p.Title] = append(queries[p.Title], q.Expr)
		}
	}
	for _, a := range board.Annotations.List {
		queries[a.Name] = append(queries[a.Name], a.Expr)
	}
	if len(queries) < 10 {
		t.Fatalf("%d panels with queries; the file is read wrongly", len(queries))
	}
	return queries
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Every metric, label and value that an alert or the dashboard names is exported by three running nodes. An alert on a
// metric that is misspelled, or that has been renamed since, would never fire, and nobody would notice.
func TestQueriesNameWhatNodesExport(t *testing.T) {
	c := startNodes(t)
	c.use(t)
	e := scrape(t, c.admins)
	for _, a := range alerts(t) {
		for _, wrong := range e.check(a.Expr) {
			t.Errorf("alert %s: %s", a.Alert, wrong)
		}
	}
	for title, exprs := range dashboardQueries(t) {
		for _, expr := range exprs {
			for _, wrong := range e.check(expr) {
				t.Errorf("dashboard, %s: %s", title, wrong)
			}
		}
	}
	if path := os.Getenv("DEPLOY_METRICS"); path != "" { // for promtool, by check.sh
		for i, addr := range c.admins {
			if err := os.WriteFile(fmt.Sprint(path, ".", i+1), get(t, "http://"+addr+"/metrics"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Every alert says how bad it is and where to read what to do, has an entry in the runbook, and a test in which it
// fires; and the runbook has no entry for what does not exist.
func TestAlertsHaveRunbooks(t *testing.T) {
	readme := string(read(t, "README.md"))
	tests := read(t, "prometheus/alerts_test.yaml")
	var names []string
	for _, a := range alerts(t) {
		names = append(names, a.Alert)
		if !slices.Contains([]string{"critical", "warning", "info"}, a.Labels["severity"]) {
			t.Errorf("%s: severity %q; expected critical, warning or info", a.Alert, a.Labels["severity"])
		}
		if a.Annotations["summary"] == "" {
			t.Errorf("%s has no summary", a.Alert)
		}
		if url := a.Annotations["runbook_url"]; !strings.HasSuffix(url, "/cachenode/deploy/README.md#"+strings.ToLower(a.Alert)) {
			t.Errorf("%s: runbook_url %q does not lead to its entry", a.Alert, url)
		}
		if !strings.Contains(readme, "\n### "+a.Alert+"\n") {
			t.Errorf("README.md has no entry ### %s", a.Alert)
		}
		if !bytes.Contains(tests, []byte(fmt.Sprintf("- alertname: %s\n", a.Alert))) {
			t.Errorf("alerts_test.yaml has no case in which %s fires", a.Alert)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^### (Cachenode\w+)$`).FindAllStringSubmatch(readme, -1) {
		if !slices.Contains(names, m[1]) {
			t.Errorf("README.md has an entry for %s, which is no alert", m[1])
		}
	}
	for _, name := range regexp.MustCompile(`Cachenode\w+`).FindAllString(readme, -1) {
		if !slices.Contains(names, name) {
			t.Errorf("README.md sends its reader to %s, which is no alert", name)
		}
	}
}

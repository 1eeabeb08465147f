package deploy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/proto/cachepb"
)

// Every query of the dashboard, and the expression of every alert but for its comparisons, returns numbers from a Prometheus
// that scrapes three nodes under load and has the alerts as they are; it evaluates each of them. It needs a Prometheus,
// whose program DEPLOY_PROMETHEUS names.
func TestQueriesReturnData(t *testing.T) {
	program := os.Getenv("DEPLOY_PROMETHEUS")
	if program == "" {
		t.Skip("DEPLOY_PROMETHEUS names no prometheus; make deploy-check does, if there is one")
	}
	c := startNodes(t)
	c.keepBusy(t)
	server := startPrometheus(t, program, c.admins)
	variables := strings.NewReplacer("$job", "cachenode", "$instance", ".*", "$__rate_interval", "10s")
	n := 0
	for title, exprs := range dashboardQueries(t) {
		for _, expr := range exprs {
			expr = strings.TrimSuffix(variables.Replace(expr), " > 0") // of annotations
			if err := awaitNumbers(t, server, expr); err != nil {
				t.Errorf("%s: %s: %v", title, expr, err)
			}
			n++
		}
	}
	rules := alerts(t)
	for _, a := range rules {
		if err := awaitNumbers(t, server, unfiltered(a.Expr)); err != nil {
			t.Errorf("%s: %s: %v", a.Alert, a.Expr, err)
		}
	}
	healthy, active := evaluated(t, server)
	if healthy != len(rules) {
		t.Errorf("%d of %d alerts are evaluated", healthy, len(rules))
	}
	// Which of them fire depends on the machine; certificates that last an hour expire on any.
	t.Logf("%d queries of the dashboard and %d alerts return data; active: %q", n, len(rules), active)
}

var comparison = regexp.MustCompile(` (==|!=|<=|>=|<|>) `)

// unfiltered makes an alert's expression return 0 or 1 where it would return nothing or something.
func unfiltered(expr string) string { return comparison.ReplaceAllString(expr, " $1 bool ") }

// evaluated waits until Prometheus has evaluated all alerts, for a minute, and returns how many of them it could, and those
// that are active.
func evaluated(t *testing.T, server string) (healthy int, active []string) {
	t.Helper()
	var answer struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, State, LastError string }
			}
		}
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if err := json.Unmarshal(get(t, "http://"+server+"/api/v1/rules"), &answer); err != nil {
			t.Fatal(err)
		}
		healthy, active = 0, nil
		unknown := 0
		for _, g := range answer.Data.Groups {
			for _, r := range g.Rules {
				switch r.Health {
				case "ok":
					healthy++
				case "unknown":
					unknown++
				default:
					t.Errorf("%s: %s", r.Name, r.LastError)
				}
				if r.State != "inactive" {
					active = append(active, r.Name)
				}
			}
		}
		if unknown == 0 && healthy > 0 || t.Failed() {
			break
		}
	}
	return healthy, active
}

// keepBusy does operations of every kind and level through every node until the test ends.
func (c *cluster) keepBusy(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, h := range c.hosts {
		conn := c.connect(t, h)
		wg.Go(func() {
			defer conn.Close()
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for n := 0; ; n++ {
				op := &client.Op{
					Kind: client.KindInsert, Cache: "trial", Key: fmt.Sprint(n % 100), Value: []byte("value"),
					Level: []client.Level{client.LevelQuorum, client.LevelOnce, client.LevelLeader}[n/2%3],
				}
				if n%2 == 1 {
					op = &client.Op{Kind: client.KindGet, Cache: "trial", Key: op.Key, ReadMode: cachepb.ReadTag_Mode(n / 2 % 3)}
				}
				conn.Do(ctx, op)
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// startPrometheus runs a Prometheus that scrapes the nodes every second, and returns its address.
func startPrometheus(t *testing.T, program string, admins []string) string {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs("prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n  - {job_name: cachenode, static_configs: [{targets: [%q, %q, %q]}]}\n",
		rules, admins[0], admins[1], admins[2])
	file := filepath.Join(dir, "prometheus.yaml")
	if err := os.WriteFile(file, []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := freeAddr(t)
	cmd := exec.Command(program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s", log.Bytes())
		}
	})
	return addr
}

// awaitNumbers asks for an expression until it yields a number, for a minute.
func awaitNumbers(t *testing.T, server, expr string) error {
	t.Helper()
	last := fmt.Errorf("no answer")
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if last = ask(t.Context(), server, expr); last == nil {
			return nil
		}
	}
	return last
}

// ask returns an error unless the expression yields a number now.
func ask(ctx context.Context, server, expr string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+server+"/api/v1/query?query="+url.QueryEscape(expr), nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Error != "" {
		return fmt.Errorf("%s", answer.Error)
	}
	for _, r := range answer.Data.Result {
		if r.Value[1] != "NaN" {
			return nil
		}
	}
	return fmt.Errorf("%d series, none with a number", len(answer.Data.Result))
}

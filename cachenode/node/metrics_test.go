package node_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/cachenode/node"
)

// scrape runs a node alone until it is ready and returns what it shows on /metrics.
func scrape(t *testing.T) string {
	t.Helper()
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Listen, cfg.AdminAddr, cfg.TLS.Enabled = "127.0.0.1:0", admin.Addr().String(), false
	admin.Close()
	n, err := node.FromConfig(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	run(t, n)
	if err := n.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+cfg.AdminAddr+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("status %d, %v:\n%s", res.StatusCode, err, body)
	}
	return string(body)
}

// What a node shows passes the linter behind promtool check metrics, and tells who it is in its cluster.
func TestMetrics(t *testing.T) {
	body := scrape(t)
	for _, line := range []string{
		`cachenode_role{role="leader"} 1`, `cachenode_role{role="follower"} 0`, `cachenode_ready 1`,
		`cachenode_leader_changes_total{reason="first"} 1`, `cachenode_leader_changes_total{reason="refused"} 0`,
		`cachenode_operations_total{code="OK",kind="insert",level="quorum"} 0`,
		`cachenode_inbox_waiting{kind="operations"} 0`, `cachenode_watches 0`, `cachenode_watch_gaps_total{reason="slow"} 0`, `cachenode_snapshot_transfers{direction="sent"} 0`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("there is no line %s", line)
		}
	}
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

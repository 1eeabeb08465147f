package node_test

import (
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/cachenode/node"
)

// startAdmin runs a node alone until it is ready and returns its addresses: of the cache and of the operators.
func startAdmin(t *testing.T) (addr, adminAddr string) {
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
	return n.Addr().String(), cfg.AdminAddr
}

// scrape returns what a node shows on /metrics.
func scrape(t *testing.T) string {
	t.Helper()
	_, addr := startAdmin(t)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/metrics", nil)
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

// Operators can ask what services there are, and a probe that knows neither TLS nor tokens how the node is, on the admin
// address; on the other one strangers are told health and no more.
func TestInspection(t *testing.T) {
	addr, adminAddr := startAdmin(t)
	services := func(addr string) ([]string, error) {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		health, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for serving := false; !serving; {
			res, err := health.Recv()
			if err != nil {
				t.Fatalf("%s: health: %v", addr, err)
			}
			serving = res.GetStatus() == healthpb.HealthCheckResponse_SERVING
		}
		stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&reflectionpb.ServerReflectionRequest{
			MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
		}); err != nil {
			t.Fatal(err)
		}
		list, err := stream.Recv()
		var names []string
		for _, s := range list.GetListServicesResponse().GetService() {
			names = append(names, s.GetName())
		}
		return names, err
	}
	if names, err := services(adminAddr); err != nil || !slices.Contains(names, "cache.Cache") {
		t.Errorf("the admin address lists %q, %v", names, err)
	}
	if names, err := services(addr); status.Code(err) != codes.Unimplemented {
		t.Errorf("the cache's address lists %q, %v", names, err)
	}
}

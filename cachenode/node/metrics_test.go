package node_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/cachenode/node"
	"github.com/hacache/hacache/proto/cachepb"
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
		`cachenode_inbox_waiting{kind="operations"} 0`, `cachenode_watches 0`, `cachenode_watch_gaps_total{reason="slow"} 0`,
		`cachenode_memory_bound_bytes{part="answers"} 1.34217728e+08`, `cachenode_memory_bound_bytes{part="peers"} 0`, `cachenode_memory_bound_bytes{part="log"} 1.34217728e+08`,
		`cachenode_snapshot_transfers{direction="sent"} 0`,
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

// gathered is what a registry shows, by name and labels; a histogram is its count.
func gathered(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := strings.TrimPrefix(f.GetName(), "cachenode_") + "{" + strings.Join(labels, ",") + "}"
			all[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

// Operations of the program that a node runs in are counted as those of clients are, whatever becomes of them; local reads
// without their time. The program shows them in a registry of its own.
func TestLocalOperationsAreCounted(t *testing.T) {
	m := newMembers(t, 1)
	n, ctx := m.nodes[0], t.Context()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(n.Collector())
	for range 3 {
		if err := n.Insert(ctx, "c", "k", []byte("v"), client.LevelOnce); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Put(ctx, "c", "k2", nil); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"k", "k2", "none"} {
		if _, _, err := n.Get(ctx, "c", key); err != nil {
			t.Fatal(err)
		}
		for _, mode := range []cachepb.ReadTag_Mode{cachepb.ReadTag_LOCAL, cachepb.ReadTag_LINEARIZABLE} {
			if o := n.Do(ctx, &client.Op{Kind: client.KindGet, Cache: "c", Key: key, ReadMode: mode}); o.Err != nil {
				t.Fatal(o.Err)
			}
		}
	}
	n.Do(ctx, &client.Op{Kind: client.KindInsert, Cache: "c", Key: "k", Session: 7, Seq: 7}) // of a session that never was
	m.stop(0)
	if n.Put(ctx, "c", "k", nil) == nil {
		t.Error("a node that has stopped takes writes")
	}
	if _, _, err := n.Get(ctx, "c", "k"); err == nil {
		t.Error("a node that has stopped answers")
	}
	got := gathered(t, reg)
	for name, want := range map[string]float64{
		"operations_total{code=OK,kind=insert,level=once}":                3,
		"operations_total{code=OK,kind=insert,level=quorum}":              0,
		"operations_total{code=SESSION_EXPIRED,kind=insert,level=quorum}": 1,
		"operations_total{code=OK,kind=put,level=none}":                   1,
		"operations_total{code=SHUTTING_DOWN,kind=put,level=none}":        1,
		"operations_total{code=OK,kind=get,level=local}":                  6,
		"operations_total{code=SHUTTING_DOWN,kind=get,level=local}":       1,
		"operations_total{code=OK,kind=get,level=linearizable}":           3,
		"gets_total{result=hit}":                                          6,
		"gets_total{result=miss}":                                         3,
		"gets_total{result=refused}":                                      1,
		"operation_duration_seconds{kind=insert,level=once}":              3,
		"operation_duration_seconds{kind=get,level=local}":                0,
		"operation_duration_seconds{kind=get,level=linearizable}":         3,
		"operations_total{code=INDETERMINATE,kind=insert,level=quorum}":   0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (there: %t), want %v", name, v, ok, want)
		}
	}
}

// A write that its program stops waiting for is counted as what it is: unknown.
func TestLocalOperationGivenUpIsCounted(t *testing.T) {
	m := newMembers(t, 3)
	n := m.nodes[0]
	reg := prometheus.NewRegistry()
	reg.MustRegister(n.Collector())
	m.stop(1)
	m.stop(2)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	o := n.Do(ctx, &client.Op{Kind: client.KindInsert, Cache: "c", Key: "k", Deadline: time.Minute})
	if o.Status != client.StatusInfo || !errors.Is(o.Err, context.Canceled) {
		t.Fatalf("%+v", o)
	}
	if got := gathered(t, reg)["operations_total{code=INDETERMINATE,kind=insert,level=quorum}"]; got != 1 {
		t.Errorf("counted %v", got)
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

package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Liveness does not follow readiness, readiness says why not, and profiles are served only when asked for.
func TestHandler(t *testing.T) {
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "cachenode_test_total", Help: "For the test."})
	c.Inc()
	reg.MustRegister(c)
	sick := errors.New("learner: copying")
	tests := []struct {
		path   string
		ready  error
		pprof  bool
		status int
		body   string
	}{
		{path: "/livez", ready: sick, status: 200, body: "ok"},
		{path: "/readyz", status: 200, body: "ok"},
		{path: "/readyz", ready: sick, status: 503, body: "learner: copying"},
		{path: "/metrics", status: 200, body: "cachenode_test_total 1"},
		{path: "/debug/pprof/", status: 404},
		{path: "/debug/pprof/", pprof: true, status: 200, body: "goroutine"},
		{path: "/debug/pprof/cmdline", status: 404},
		{path: "/other", status: 404},
	}
	for _, tt := range tests {
		h := Handler(Config{Ready: func() error { return tt.ready }, Gatherer: reg, Pprof: tt.pprof})
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, tt.path, nil))
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
			t.Errorf("%s (pprof %t): got %d %q, want %d %q", tt.path, tt.pprof, w.Code, w.Body.String(), tt.status, tt.body)
		}
	}
}

// Serve answers until its context is done, and then returns without an error.
func TestServe(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, ln, Config{Ready: func() error { return nil }}) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+ln.Addr().String()+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != 200 || string(body) != "ok\n" {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

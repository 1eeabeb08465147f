package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

// metrics serves what a run has recorded so far at /metrics, as it was at the
// end of the last interval. Nothing of it is on the way of an operation.
type metrics struct {
	rec    atomic.Pointer[load.Recorder] // nil before the run begins
	server *http.Server
	over   chan struct{} // closed when the server has ended
}

var (
	seriesLabels = []string{"phase", "op", "level"}
	descOps      = prometheus.NewDesc("loadgen_operations_total", "Operations by how they ended.", append(seriesLabels, "outcome"), nil)
	descResponse = prometheus.NewDesc("loadgen_response_seconds", "Time from when an operation was intended to its answer, of oks; in a closed loop from when it was sent.", seriesLabels, nil)
	descService  = prometheus.NewDesc("loadgen_service_seconds", "Time from when an operation was sent to its answer, of oks.", seriesLabels, nil)
	descLag      = prometheus.NewDesc("loadgen_lag_seconds", "Time from when an operation was intended to when it was sent.", seriesLabels, nil)
)

// serveMetrics listens on addr until stop is called.
func serveMetrics(addr string) (*metrics, error) {
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--prometheus-addr: %w", err)
	}
	m := &metrics{over: make(chan struct{})}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	m.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		defer close(m.over)
		if err := m.server.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			lis.Close()
		}
	}()
	return m, nil
}

func (m *metrics) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if m.server.Shutdown(ctx) != nil {
		m.server.Close()
	}
	<-m.over
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descOps, descResponse, descService, descLag} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	rec := m.rec.Load()
	if rec == nil {
		return
	}
	for _, t := range rec.Totals(func(string, string, string) bool { return true }) {
		labels := []string{t.Phase, t.Op, t.Level}
		for _, o := range outcomesOf(&t.Counts) {
			ch <- prometheus.MustNewConstMetric(descOps, prometheus.CounterValue, float64(o.n), append(labels, o.name)...)
		}
		for desc, h := range map[*prometheus.Desc]*hdrhistogram.Histogram{descResponse: t.Response, descService: t.Service, descLag: t.Lag} {
			if h != nil {
				count, sum, buckets := seconds(h)
				ch <- prometheus.MustNewConstHistogram(desc, count, sum, buckets, labels...)
			}
		}
	}
}

type outcomeCount struct {
	name string
	n    int64
}

func outcomesOf(c *result.Counts) []outcomeCount {
	return []outcomeCount{{"ok", c.OK}, {"fail", c.Fail}, {"info", c.Info}, {"missed", c.Missed}, {"unfinished", c.Unfinished}}
}

// seconds is a histogram in buckets of 50 µs to 27 s, each twice as wide as the
// one before.
func seconds(h *hdrhistogram.Histogram) (count uint64, sum float64, buckets map[float64]uint64) {
	const first, n = 50 * time.Microsecond, 20
	buckets = map[float64]uint64{}
	bars, i := h.Distribution(), 0
	for k := range n {
		bound := first << k
		for i < len(bars) && bars[i].To <= int64(bound) {
			count += uint64(bars[i].Count)
			i++
		}
		buckets[bound.Seconds()] = count
	}
	return uint64(h.TotalCount()), h.Mean() * float64(h.TotalCount()) / 1e9, buckets
}

package server

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/proto/cachepb"
)

// series gathers what a collector shows: value by name and labels, histograms as their count, sum and buckets.
func series(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := strings.TrimPrefix(f.GetName(), "cachenode_") + "{" + strings.Join(labels, ",") + "}"
			if h := m.GetHistogram(); h != nil {
				got[name+" count"], got[name+" sum"] = float64(h.GetSampleCount()), h.GetSampleSum()
				for _, b := range h.GetBucket() {
					got[fmt.Sprintf("%s le %g", name, b.GetUpperBound())] = float64(b.GetCumulativeCount())
				}
				continue
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return got
}

// Each answer is counted once, by kind, level and outcome, with the time it took; in a batch as well as alone, from a
// refusal at the door to the answer of a leader, and also after its stream has ended.
func TestOperationsAreCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		n := start(t, Config{Backend: b})
		defer n.stop()
		stream := n.greeted(t, t.Context())
		leader := insert("l")
		leader.GetInsert().AckLevel = &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelLeader{LevelLeader: &cachepb.Empty{}}}
		send(t, stream, batch(insert("q"), leader, get("k", nil), get("none", nil)), get("k", &cachepb.ReadTag{ReqId: "x", Mode: cachepb.ReadTag_LINEARIZABLE}), ping())
		synctest.Wait()
		time.Sleep(30 * time.Millisecond)
		for i, h := range b.take() {
			ack := ok(h.req)
			if i == 1 {
				ack = refuse(h.req, cachepb.Code_NO_QUORUM, "")
			}
			h.to.Deliver(ack)
		}
		synctest.Wait()
		b.full = true
		send(t, stream, insert("full"))
		_ = stream.CloseSend()
		for _, err := stream.Recv(); err == nil; _, err = stream.Recv() {
		}
		synctest.Wait()
		got := series(t, n.Server)
		for name, want := range map[string]float64{
			"operations_total{code=OK,kind=insert,level=quorum}":               1,
			"operations_total{code=OVERLOADED,kind=insert,level=quorum}":       1,
			"operations_total{code=NO_QUORUM,kind=insert,level=leader}":        1,
			"operations_total{code=OK,kind=insert,level=leader}":               0,
			"operations_total{code=OK,kind=get,level=local}":                   2,
			"operations_total{code=OK,kind=get,level=linearizable}":            1,
			"operations_total{code=OK,kind=put,level=none}":                    0,
			"gets_total{result=hit}":                                           1,
			"gets_total{result=miss}":                                          2, // ok has no value
			"gets_total{result=refused}":                                       0,
			"operation_duration_seconds{kind=insert,level=quorum} count":       2,
			"operation_duration_seconds{kind=insert,level=quorum} sum":         0.03,
			"operation_duration_seconds{kind=insert,level=quorum} le 0.025":    1,
			"operation_duration_seconds{kind=insert,level=quorum} le 0.05":     2,
			"operation_duration_seconds{kind=insert,level=quorum} le 5":        2,
			"operation_duration_seconds{kind=get,level=local} le 1e-05":        2,
			"operation_duration_seconds{kind=get,level=linearizable} le 0.05":  1,
			"operation_duration_seconds{kind=get,level=linearizable} le 0.025": 0,
			"sessions{}":                  0,
			"requests_overloaded_total{}": 1,
			"operations_total{code=OK,kind=remove,level=once}": 0,
		} {
			if v, ok := got[name]; !ok || v != want {
				t.Errorf("%s is %v (there: %t), want %v", name, v, ok, want)
			}
		}
	})
}

package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/proc"
	"github.com/hacache/hacache/proto/cachepb"
	"github.com/hacache/hacache/reports/result"
)

var sideBySide = flag.Duration("sidebyside", 0, "how long loadgen and an independent client each measure the same node; 0: not at all")

// Service times as loadgen measures them agree with those of a client that
// shares nothing with it: generated messages, one goroutine that sends and one
// that receives, a list of durations, sorted. Both send 2000 inserts a second
// to the leader of three nodes, one message each, in turns of a few seconds, so
// that both see the same machine. What disturbs it for a turn or two moves the
// sums, not the middle of the pairs of turns, which is what is judged; the sums
// are printed beside it. Wants an idle one, and to be asked:
//
//	go test ./loadgen -run TestSideBySide -v -sidebyside 20s
func TestSideBySide(t *testing.T) {
	if *sideBySide == 0 {
		t.Skip("a measurement of minutes: -sidebyside 20s")
	}
	const rate, turns = 2000, 20
	out := t.TempDir()
	cluster, err := proc.LocalCluster(t.Context(), proc.ClusterSpec{Binary: cachenode(t), Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Stop(5 * time.Second)
	leader, err := proc.WaitMember(t.Context(), client.Config{Addr: cluster.Addrs[0], Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	leader = strings.TrimPrefix(leader, "http://")
	turn := *sideBySide / turns
	var ours *hdrhistogram.Histogram
	var theirs []time.Duration
	ratios := map[float64][]float64{} // by quantile, of each pair of turns
	for i := range turns {
		var h *hdrhistogram.Histogram
		var took []time.Duration
		// Who goes first takes turns too: a machine that becomes slower or faster
		// does so to both.
		if i%2 == 0 {
			h = offered(t, out, leader, rate, turn)
		}
		took = independent(t, leader, rate, turn)
		if i%2 == 1 {
			h = offered(t, out, leader, rate, turn)
		}
		slices.Sort(took)
		for _, q := range sideQuantiles {
			ratios[q] = append(ratios[q], float64(h.ValueAtPercentile(100*q))/float64(quantileOf(took, q)))
		}
		ours = result.SumOf(ours, h)
		theirs = append(theirs, took...)
	}
	slices.Sort(theirs)
	t.Logf("%d operations by loadgen, %d by the independent client, service times:", ours.TotalCount(), len(theirs))
	for _, q := range sideQuantiles {
		a, b := time.Duration(ours.ValueAtPercentile(100*q)), quantileOf(theirs, q)
		off := 100 * (float64(a)/float64(b) - 1)
		between := 100 * (middle(ratios[q]) - 1)
		t.Logf("p%g: loadgen %s, independent %s: %+.1f %%; middle of %d pairs of turns %+.1f %%", 100*q, a.Round(time.Microsecond), b.Round(time.Microsecond), off, turns, between)
		if q != 0.9 && math.Abs(between) > 10 {
			t.Errorf("p%g differs by %+.1f %% in the middle of the pairs", 100*q, between)
		}
	}
}

var sideQuantiles = []float64{0.5, 0.9, 0.99}

// quantileOf is a quantile of sorted values.
func quantileOf(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(math.Ceil(q*float64(len(sorted))))-1]
}

// offered runs loadgen and returns its service times.
func offered(t *testing.T, out, addr string, rate int, long time.Duration) *hdrhistogram.Histogram {
	t.Helper()
	code, stdout, stderr := call(t, t.Context(), "run", "--addrs", addr, "--token", "t", "--route", "sticky", "--conns", "1", "--streams", "1", "-P", "1024", "--no-batch",
		"--mix", "insert", "--rate", fmt.Sprint(rate), "--warmup", "500ms", "-d", long.String(), "--keys", "1k", "--out", out, "-q")
	_, dir, _ := strings.Cut(stdout, "run directory: ")
	dir, _, _ = strings.Cut(dir, "\n")
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	f, err := os.Open(filepath.Join(dir, result.TotalsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hs, err := result.ReadHistograms(f, f.Name())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(hs, func(h result.Histogram) bool {
		return h.Outcome == result.OutcomeOK && h.Quantity == result.QuantityService
	})
	return hs[i].Histogram
}

// independent is the other client. It returns the time from before each send to
// the receipt of its answer.
func independent(t *testing.T, addr string, rate int, long time.Duration) []time.Duration {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), "authorization", "t"))
	defer cancel()
	stream, err := cachepb.NewCacheClient(cc).StreamValues(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil { // the greeting
		t.Fatal(err)
	}
	warm := rate / 2
	n := warm + int(long.Seconds()*float64(rate))
	sent, took := make([]time.Time, n), make([]time.Duration, n)
	value := make([]byte, 128)
	go func() {
		runtime.LockOSThread() // for the timer slack, as loadgen does it
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
		if attr, err := unix.SchedGetAttr(0, 0); err == nil {
			attr.Runtime = uint64(100 * time.Microsecond)
			attr.Nice = -10
			_ = unix.SchedSetAttr(0, attr, 0)
		}
		begin := time.Now()
		for i := range n {
			due := begin.Add(time.Duration(i) * time.Second / time.Duration(rate))
			if wait := time.Until(due); wait > 0 {
				ts := unix.NsecToTimespec(int64(wait))
				_ = unix.Nanosleep(&ts, nil)
			}
			id := strconv.Itoa(i)
			sent[i] = time.Now()
			if stream.Send(&cachepb.CacheRequest{Method: &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{
				CacheName: "bench", Entry: "key-" + strconv.Itoa(i%1000), Value: value, ReqId: id,
				AckLevel: &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelQuorum{LevelQuorum: &cachepb.Empty{}}},
			}}}) != nil {
				return
			}
		}
	}()
	for range n {
		ack, err := stream.Recv()
		now := time.Now()
		if err != nil {
			t.Fatal(err)
		}
		i, err := strconv.Atoi(ack.GetPutAck().GetReqId())
		if err != nil || !ack.GetPutAck().GetModRes() {
			t.Fatalf("answer %v: %v", ack, err)
		}
		took[i] = now.Sub(sent[i])
	}
	return took[warm:]
}

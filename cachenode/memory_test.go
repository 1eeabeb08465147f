package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/proc"
)

// TestCollectorPercent: a small heap may grow to five times of what is alive; from where its room is enough on, a larger one
// gets no more room, until that would be less than three tenths of what is alive. Where the rules meet there is no step down, for
// a heap that grows must not have to be collected earlier than a smaller one.
func TestCollectorPercent(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 1 << 20: 400, 32 << 20: 400, 64 << 20: 200, 128 << 20: 100, 256 << 20: 50, 4 << 30: 30} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d MiB alive: %d %%, want %d %%", live>>20, got, want)
		}
	}
	next := func(live uint64) uint64 { return live + live*uint64(gcPercent(live))/100 }
	for live := uint64(1 << 20); live < 1<<30; live += 1 << 20 {
		if smaller := live - 1<<20; next(live)+live/100 < next(smaller) { // percentages are whole numbers
			t.Fatalf("%d MiB alive are collected at %d MiB, %d MiB at %d MiB", live>>20, next(live)>>20, smaller>>20, next(smaller)>>20)
		}
	}
}

// TestCollectorPace: each collection, and not only the first one, has the percentage set by what it left alive; the same
// percentage is not set again; and after the end nothing is.
func TestCollectorPace(t *testing.T) {
	alive, set := make(chan uint64), make(chan int, 8)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		pacer{live: func() uint64 {
			select {
			case n := <-alive:
				return n
			case <-ctx.Done():
				return 128 << 20 // the same as last: nothing to set
			}
		}, set: func(percent int) { set <- percent }}.run(ctx)
	}()
	for _, live := range []uint64{1 << 30, 1 << 30, 128 << 20} {
		for sent := false; !sent; {
			runtime.GC()
			select {
			case alive <- live:
				sent = true
			case <-time.After(time.Millisecond): // the object may be found only by the next collection
			}
		}
	}
	for _, want := range []int{30, 100} {
		if got := <-set; got != want {
			t.Errorf("set to %d %%, want %d %%", got, want)
		}
	}
	cancel()
	<-done
	runtime.GC()
	if len(set) != 0 {
		t.Errorf("set to %d %% after the end", <-set)
	}
}

// BenchmarkMemoryPerEntry fills a node of its own process with entries of 16 bytes of key and 128 of value, none of them
// alike, and reports what each of them costs: of the live heap, of which the log that is kept for members that lag is a
// part, and of resident memory, as soon as the last entry was acknowledged and after a minute in which nothing was
// written. It runs for a minute and more:
//
//	go test -run - -bench MemoryPerEntry -benchtime 1x ./cachenode
func BenchmarkMemoryPerEntry(b *testing.B) {
	for _, n := range []int{1_000_000, 5_000_000} {
		b.Run(fmt.Sprintf("%dM", n/1_000_000), func(b *testing.B) {
			for b.Loop() {
				measureMemory(b, n)
			}
		})
	}
}

const (
	benchKeyBytes   = 16
	benchValueBytes = 128
)

func measureMemory(b *testing.B, entries int) {
	n := benchNode(b)
	n.fill(b, 0, 1000) // so that what a node allocates once is not counted
	before, full := n.measure(b), memory{}
	n.fill(b, 1000, 1000+entries)
	full.resident = n.residentBytes(b)
	timer := time.NewTimer(time.Minute)
	select {
	case <-timer.C:
	case <-b.Context().Done():
		b.Fatal("interrupted")
	}
	rest := n.residentBytes(b)
	collected := n.measure(b)
	per := func(bytes, before float64) float64 { return (bytes - before) / float64(entries) }
	const payload = benchKeyBytes + benchValueBytes
	live, kept := per(collected.live, before.live), per(collected.log, before.log)
	b.ReportMetric(live, "live-B/entry")
	b.ReportMetric(kept, "log-B/entry")
	b.ReportMetric(live-kept-payload, "over-payload-B/entry")
	b.ReportMetric(per(full.resident, before.resident), "rss-B/entry")
	b.ReportMetric(per(rest, before.resident), "rss-at-rest-B/entry")
	b.ReportMetric(per(full.resident, before.resident)/live, "rss/live")
	b.ReportMetric(0, "ns/op")
	if err := n.process.Stop(10 * time.Second); err != nil {
		b.Error(err)
	}
}

// BenchmarkMemoryPerStream opens connections to a node of its own process that do nothing, and reports what each of them, or
// each of their streams, costs: of the live heap, of stacks, and of resident memory right after the garbage was collected.
//
//	go test -run - -bench MemoryPerStream -benchtime 1x ./cachenode
func BenchmarkMemoryPerStream(b *testing.B) {
	for _, c := range []struct {
		name           string
		conns, streams int // streams on each
	}{{"silent", 2000, 0}, {"alone", 2000, 1}, {"shared", 100, 100}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				measureStreams(b, c.conns, c.streams)
			}
		})
	}
}

func measureStreams(b *testing.B, conns, streams int) {
	n := benchNode(b)
	n.fill(b, 0, 1000)
	before := n.measure(b)
	for range conns {
		if streams == 0 {
			conn, err := net.Dial("tcp", n.addr)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { conn.Close() })
			continue
		}
		channel, err := client.NewChannel(client.ChannelConfig{Addr: n.addr})
		if err != nil {
			b.Fatal(err)
		}
		for range streams {
			conn, err := client.Dial(b.Context(), client.Config{Channel: channel})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = conn.Close() })
		}
	}
	for range 2 { // what is pooled outlives one collection
		n.measure(b)
	}
	after := n.measure(b)
	each := float64(conns * max(streams, 1))
	b.ReportMetric((after.live-before.live)/each, "heap-B/each")
	b.ReportMetric((after.stacks-before.stacks)/each, "stack-B/each")
	b.ReportMetric((after.resident-before.resident)/each, "rss-B/each")
	b.ReportMetric(0, "ns/op")
	if err := n.process.Stop(10 * time.Second); err != nil {
		b.Error(err)
	}
}

// memory is what a process occupies, in bytes.
type memory struct{ resident, live, stacks, log float64 }

type benchedNode struct {
	process *proc.Process
	conn    *client.Conn
	addr    string
	admin   string
}

// measure has the node's garbage collected first.
func (n *benchedNode) measure(b *testing.B) memory {
	b.Helper()
	n.get(b, "/debug/pprof/heap?gc=1")
	m := memory{resident: n.residentBytes(b)}
	found := 0
	for line := range strings.Lines(n.get(b, "/metrics")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		to := map[string]*float64{"go_gc_heap_live_bytes": &m.live, "go_memstats_stack_inuse_bytes": &m.stacks, "cachenode_log_retained_bytes": &m.log}[name]
		if to == nil {
			continue
		}
		var err error
		if *to, err = strconv.ParseFloat(value, 64); err != nil {
			b.Fatalf("%s is %q", name, value)
		}
		found++
	}
	if found != 3 {
		b.Fatalf("%d of 3 metrics found", found)
	}
	return m
}

func (n *benchedNode) get(b *testing.B, path string) string {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://"+n.admin+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		b.Fatalf("%s: %s, %v", path, res.Status, err)
	}
	return string(body)
}

func (n *benchedNode) residentBytes(b *testing.B) float64 {
	b.Helper()
	_, rss, err := proc.Usage(n.process.Pid())
	if err != nil {
		b.Fatal(err)
	}
	return float64(rss)
}

// benchNode starts a node alone and connects to it.
func benchNode(b *testing.B) *benchedNode {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	program := filepath.Join(b.TempDir(), "cachenode") // by this name the test program is the command
	if err := os.Symlink(exe, program); err != nil {
		b.Fatal(err)
	}
	l, err := proc.Listen("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	reserved, err := proc.Listen("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr, admin := l.Addr().String(), reserved.Addr().String()
	reserved.Close()
	p, err := proc.Start(b.Context(), proc.Spec{Binary: program, Args: []string{"serve"}, Env: []string{"CACHE_LISTEN=" + addr, "CACHE_ADMIN_ADDR=" + admin, "CACHE_PPROF=true"}, Listener: l})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Kill(); <-p.Done() })
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Second)
	defer cancel()
	conn, err := client.Dial(ctx, client.Config{Addr: addr, Batch: true, Timeout: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	return &benchedNode{p, conn, addr, admin}
}

// fill writes the entries from one number to another.
func (n *benchedNode) fill(b *testing.B, from, to int) {
	b.Helper()
	rng := rand.New(rand.NewPCG(1, uint64(from)))
	open := make(chan struct{}, 1000)
	failed := make(chan error, 1)
	value := make([]byte, benchValueBytes)
	for i := from; i < to; i++ {
		for j := 0; j < len(value); j += 8 {
			binary.LittleEndian.PutUint64(value[j:], rng.Uint64())
		}
		open <- struct{}{}
		op := &client.Op{Kind: client.KindInsert, Cache: "bench", Key: fmt.Sprintf("%016d", i), Value: value}
		if err := n.conn.Start(op, func(o client.Outcome) {
			if o.Err != nil {
				select {
				case failed <- o.Err:
				default:
				}
			}
			<-open
		}); err != nil {
			b.Fatal(err)
		}
	}
	for range cap(open) {
		open <- struct{}{}
	}
	select {
	case err := <-failed:
		b.Fatal(err)
	default:
	}
}

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/proc"
)

// BenchmarkMemoryPerEntry fills a node of its own process with entries of 16 bytes of key and 128 of value, none of them
// alike, and reports by how much its resident memory grew for each: as soon as the last one was acknowledged, and after a
// minute in which nothing was written, when the collector has run once more. It runs for a minute and more:
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
	p, conn := benchNode(b)
	fill(b, conn, 0, 1000) // so that what a node allocates once is not counted
	before := residentBytes(b, p)
	fill(b, conn, 1000, 1000+entries)
	full := residentBytes(b, p)
	timer := time.NewTimer(time.Minute)
	select {
	case <-timer.C:
	case <-b.Context().Done():
		b.Fatal("interrupted")
	}
	rest := residentBytes(b, p)
	per := func(bytes int64) float64 { return float64(bytes-before) / float64(entries) }
	const payload = benchKeyBytes + benchValueBytes
	b.ReportMetric(per(full), "rss-B/entry")
	b.ReportMetric(per(rest), "rss-at-rest-B/entry")
	b.ReportMetric(100*(per(rest)-payload)/payload, "overhead-%")
	b.ReportMetric(0, "ns/op")
	if err := p.Stop(10 * time.Second); err != nil {
		b.Error(err)
	}
}

// benchNode starts a node alone and returns a connection to it.
func benchNode(b *testing.B) (*proc.Process, *client.Conn) {
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
	addr := l.Addr().String()
	p, err := proc.Start(b.Context(), proc.Spec{Binary: program, Args: []string{"serve"}, Env: []string{"CACHE_LISTEN=" + addr}, Listener: l})
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
	return p, conn
}

// fill writes the entries from one number to another.
func fill(b *testing.B, conn *client.Conn, from, to int) {
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
		if err := conn.Start(op, func(o client.Outcome) {
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

func residentBytes(b *testing.B, p *proc.Process) int64 {
	b.Helper()
	_, rss, err := proc.Usage(p.Pid())
	if err != nil {
		b.Fatal(err)
	}
	return rss
}

package node_test

import (
	"fmt"
	"testing"

	"github.com/hacache/hacache/cachenode/client"
)

// BenchmarkOperations measures operations through real nodes on loopback, all in this process, 256 in flight over 8
// streams: with the client's share included. One operation per message, and batched.
func BenchmarkOperations(b *testing.B) {
	_, hosts := startCluster(b, 3)
	for _, kind := range []client.Kind{client.KindInsert, client.KindGet} {
		for _, batch := range []bool{false, true} {
			for _, h := range hosts {
				b.Run(fmt.Sprintf("%v/batch=%v/%s", kind, batch, h[len(h)-5:]), func(b *testing.B) {
					benchmark(b, h, kind, batch)
				})
			}
		}
	}
}

func benchmark(b *testing.B, host string, kind client.Kind, batch bool) {
	const streams, window = 8, 32
	value := make([]byte, 128)
	slots := make(chan struct{}, streams*window)
	var conns []*client.Conn
	for range streams {
		conn, err := client.NewConn(client.Config{Addr: host, Token: "secret", Window: window * streams, Batch: batch})
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		if out := conn.Do(b.Context(), &client.Op{Kind: client.KindInsert, Cache: "bench", Key: "key-0", Value: value}); out.Err != nil {
			b.Fatal(out.Err)
		}
		conns = append(conns, conn)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		slots <- struct{}{}
		i++
		op := &client.Op{Kind: kind, Cache: "bench", Key: fmt.Sprintf("key-%020d", i%100_000), Value: value}
		if err := conns[i%streams].Start(op, func(client.Outcome) { <-slots }); err != nil {
			b.Fatal(err)
		}
	}
	for range cap(slots) {
		slots <- struct{}{}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

// BenchmarkLocal measures what a program that embeds the node pays: reads of the node's own copy from all processors at
// once, and writes of a node alone, one after the other.
func BenchmarkLocal(b *testing.B) {
	nodes, _ := startCluster(b, 1)
	n, ctx := nodes[0], b.Context()
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprintf("key-%020d", i)
		if err := n.Insert(ctx, "bench", keys[i], make([]byte, 128), client.LevelQuorum); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("AppendGet", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			buf := make([]byte, 0, 128)
			for i := 0; pb.Next(); i++ {
				var found bool
				if buf, found, _ = n.AppendGet(ctx, buf[:0], "bench", keys[i%len(keys)]); !found {
					b.Error("miss")
				}
			}
		})
	})
	b.Run("Get", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if _, found, _ := n.Get(ctx, "bench", keys[i%len(keys)]); !found {
					b.Error("miss")
				}
			}
		})
	})
	b.Run("DoGet", func(b *testing.B) {
		b.ReportAllocs()
		op := client.Op{Kind: client.KindGet, Cache: "bench", Key: keys[0]}
		for b.Loop() {
			n.Do(ctx, &op)
		}
	})
	b.Run("Insert", func(b *testing.B) {
		b.ReportAllocs()
		op := client.Op{Kind: client.KindInsert, Cache: "bench", Key: keys[0], Value: make([]byte, 128)}
		for b.Loop() {
			n.Do(ctx, &op)
		}
	})
}

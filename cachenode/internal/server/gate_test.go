package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/proto/cachepb"
)

// join opens another connection with one stream on it.
func (n *node) join(t *testing.T, md ...string) (stream clientStream, leave func()) {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///n1",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return n.dial() }))
	if err != nil {
		t.Fatal(err)
	}
	other := *n
	other.conn = conn
	return other.open(t, t.Context(), md...), func() { conn.Close(); synctest.Wait() }
}

// code is the status that a stream ends with, OK if it is greeted.
func code(stream clientStream) codes.Code {
	_, err := stream.Recv()
	return status.Code(err)
}

// A node that has as many connections of clients as it may refuses one more, but takes peers; and there is room again
// when a client has gone.
func TestMaxConnections(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		n := start(t, Config{Backend: b, MaxConnections: 3})
		defer n.stop()
		n.greeted(t, t.Context()) // one
		for range 2 {
			stream, leave := n.join(t)
			defer leave()
			if c := code(stream); c != codes.OK {
				t.Fatalf("a client within the bound: %v", c)
			}
		}
		full, leaveFull := n.join(t)
		if c := code(full); c != codes.ResourceExhausted {
			t.Errorf("a client beyond the bound: %v", c)
		}
		peer, leavePeer := n.join(t, "cachenode-peer", "1;0;data")
		defer leavePeer()
		_ = code(peer)
		if b.peers != 1 {
			t.Error("the peer was not taken")
		}
		n.greeted(t, t.Context()) // another stream of one that is known
		leaveFull()
		if open, refused := n.gates.open.Load(), n.gates.refused.Load(); open != 4 || refused != 1 {
			t.Errorf("%d connections are open, %d clients were refused, want 4 and 1", open, refused)
		}
		leavePeer()
		_ = n.conn.Close()
		synctest.Wait()
		again, leave := n.join(t)
		defer leave()
		if c := code(again); c != codes.OK {
			t.Errorf("a client after others have left: %v", c)
		}
	})
}

// Connections that say nothing keep nobody out: of those that are too many the oldest goes, never one that has shown its
// token, and all of them when their time for the handshake is over.
func TestStrangers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := start(t, Config{Backend: newBackend(), MaxConnections: 2, Token: "secret"})
		defer n.stop()
		known := n.greeted(t, t.Context(), "authorization", "secret")
		ended := make(chan int, 1000)
		for i := range 200 {
			conn, err := n.dial()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if i%2 == 0 {
				go fmt.Fprint(conn, "PRI * HTTP") // the first bytes of what it should say
			}
			go func() { _, _ = io.Copy(io.Discard, conn); ended <- i }()
			synctest.Wait()
		}
		if got := len(ended); got < 200-spareStrangers-2 || got > 200-spareStrangers {
			t.Errorf("%d of 200 strangers have made room", got)
		}
		for want := range len(ended) {
			if got := <-ended; got != want {
				t.Fatalf("stranger %d went before %d", got, want)
			}
		}
		late, leave := n.join(t, "authorization", "secret")
		defer leave()
		if c := code(late); c != codes.OK {
			t.Errorf("an honest client among strangers: %v", c)
		}
		send(t, known, ping())
		if ack := recv(t, known); ack.GetMgmtAck().GetPong() == nil {
			t.Errorf("the known one got %s", text(ack))
		}
		time.Sleep(handshakeTimeout + time.Second) // of the bubble
		if open := n.gates.open.Load(); open != 2 {
			t.Errorf("%d connections are left, want those of the two clients", open)
		}
	})
}

// What is too large costs the stream that sent it; the connection's others go on.
func TestTooLarge(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := start(t, Config{Backend: newBackend()})
		defer n.stop()
		other := n.greeted(t, t.Context())
		big := n.greeted(t, t.Context())
		send(t, big, &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Put{Put: &cachepb.Put{
			CacheName: "c", Entry: "k", Value: bytes.Repeat([]byte("x"), 5<<20),
		}}})
		if c := code(big); c != codes.ResourceExhausted {
			t.Errorf("a message of 5 MiB: %v", c)
		}
		send(t, other, ping())
		if ack := recv(t, other); ack.GetMgmtAck().GetPong() == nil {
			t.Errorf("got %s, want a Pong", text(ack))
		}
	})
}

// A node has no more streams than four for each connection it may have.
func TestMaxStreams(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := start(t, Config{Backend: newBackend(), MaxConnections: 2})
		defer n.stop()
		for range 2 * streamsPerConnection {
			n.greeted(t, t.Context())
		}
		if c := code(n.open(t, t.Context())); c != codes.ResourceExhausted {
			t.Errorf("one stream more: %v", c)
		}
		if n.stats.streamsFull.Load() != 1 {
			t.Error("it was not counted")
		}
	})
}

package server

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/hacache/hacache/internal/bubble"
)

// announce opens a stream of the health service that announces a message of 4 MiB, sends half of one and falls silent.
// What it returns is closed when the stream has ended.
func announce(t *testing.T, transport *http.Transport, method string) (ended chan struct{}) {
	t.Helper()
	body, say := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://node/grpc.health.v1.Health/"+method, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	go func() {
		part := make([]byte, 5, 2<<20)
		binary.BigEndian.PutUint32(part[1:], 4<<20-1)
		_, _ = say.Write(part[:cap(part)])
	}()
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		defer body.Close()
		if res, err := transport.RoundTrip(req); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
	}()
	return ended
}

// Who knows no token may ask for health. That he may also announce questions and never end them, on every stream of every
// connection, costs a few megabytes for a few seconds, and keeps nobody else from asking.
func TestUnendingQuestions(t *testing.T) {
	const conns, streams = 12, 6
	for _, method := range []string{"Check", "Watch"} {
		t.Run(method, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				n := start(t, Config{Backend: newBackend(), Token: "right"})
				defer n.stop()
				var ended []chan struct{}
				var transports []*http.Transport
				for range conns {
					transport := &http.Transport{Protocols: new(http.Protocols), DialContext: func(context.Context, string, string) (net.Conn, error) { return n.dial() }}
					transport.Protocols.SetUnencryptedHTTP2(true)
					defer transport.CloseIdleConnections()
					transports = append(transports, transport)
					for range streams {
						ended = append(ended, announce(t, transport, method))
						synctest.Wait()
					}
				}
				h := &n.probes
				waiting := func() int {
					h.mu.Lock()
					defer h.mu.Unlock()
					return h.unheard.Len()
				}
				if got, want := h.refused.Load(), uint64(conns*(streams-probesPerConnection)); got != want {
					t.Errorf("%d streams were refused because of their connection, expected %d", got, want)
				}
				if got, want := h.evicted.Load(), uint64(conns*probesPerConnection-mostUnheard); got != want || waiting() != mostUnheard {
					t.Errorf("%d streams made room and %d are there, expected %d and %d", got, waiting(), want, mostUnheard)
				}
				if res, err := healthpb.NewHealthClient(n.conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
					t.Errorf("an honest question beside them: %v %v", res, err)
				}

				time.Sleep(questionTimeout)
				for _, e := range ended {
					<-e
				}
				synctest.Wait()
				if got := h.evicted.Load(); got != conns*probesPerConnection || waiting() != 0 {
					t.Errorf("%d streams were ended, %d are there, after %v; expected all %d", got, waiting(), questionTimeout, conns*probesPerConnection)
				}
				again := announce(t, transports[0], method)
				synctest.Wait()
				if got := waiting(); got != 1 {
					t.Errorf("a connection that has no stream left may open %d", got)
				}
				time.Sleep(questionTimeout)
				<-again
			})
		})
	}
}

// A client that wants to be told of changes is told for as long as it likes: the time is for the question.
func TestWatchOfHealthLasts(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := start(t, Config{Backend: newBackend(), Token: "right"})
		defer n.stop()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := healthpb.NewHealthClient(n.conn).Watch(ctx, &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_NOT_SERVING, healthpb.HealthCheckResponse_SERVING} {
			if i > 0 {
				time.Sleep(time.Minute)
				n.SetServing(true)
			}
			if res, err := stream.Recv(); err != nil || res.GetStatus() != want {
				t.Fatalf("%v, %v; expected %v", res.GetStatus(), err, want)
			}
		}
	})
}

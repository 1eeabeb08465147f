package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/proto/cachepb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The wire, message by message: what a client sends, and every message it gets back. Commands of testdata/*.txt:
//
//	open               open a stream; prints the greeting
//	send               send the request given in text form, once a line; prints what comes back
//	hold / answer      keep submitted operations / answer them, oldest first (reverse: newest first)
//	full, fail         the backend has no room / fails management requests
func TestExchange(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		bubble.Test(t, func(t *testing.T) {
			b := newBackend()
			n := start(t, Config{Backend: b})
			defer n.stop()
			var acks chan string
			var stream clientStream
			hold := false
			drain := func() string {
				synctest.Wait()
				var out strings.Builder
				for {
					select {
					case ack := <-acks:
						fmt.Fprintln(&out, ack)
					default:
						if out.Len() == 0 {
							return "(nothing)\n"
						}
						return out.String()
					}
				}
			}
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				switch d.Cmd {
				case "open":
					if stream != nil {
						_ = stream.CloseSend()
						synctest.Wait()
					}
					stream, acks = n.open(t, t.Context()), make(chan string, 10_000)
					go receive(stream, acks)
					return drain()
				case "send":
					for line := range strings.Lines(d.Input) {
						req := &cachepb.CacheRequest{}
						if err := prototext.Unmarshal([]byte(line), req); err != nil {
							d.Fatalf(t, "%v", err)
						}
						send(t, stream, req)
					}
					synctest.Wait()
					if !hold {
						for _, h := range b.take() {
							h.to.Deliver(ok(h.req))
						}
					}
					return drain()
				case "hold":
					hold = true
					return ""
				case "answer":
					held := b.take()
					for i := range held {
						if d.HasArg("reverse") {
							i = len(held) - 1 - i
						}
						held[i].to.Deliver(ok(held[i].req))
					}
					hold = false
					return drain()
				case "full":
					b.full = true
					return ""
				case "fail":
					b.mgmtErr = &Error{cachepb.Code_NO_QUORUM, "no quorum"}
					return ""
				default:
					d.Fatalf(t, "unknown command")
					return ""
				}
			})
		})
	})
}

func receive(stream clientStream, acks chan<- string) {
	for {
		ack, err := stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				acks <- status.Code(err).String() + ": " + status.Convert(err).Message()
			}
			return
		}
		acks <- text(ack)
	}
}

// The node reads a stream no further than Window open operations, and goes on as they are answered.
func TestWindow(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		n := start(t, Config{Backend: b})
		defer n.stop()
		stream := n.greeted(t, t.Context())
		const total = Window + 300
		go func() {
			for i := range total {
				_ = stream.Send(insert(fmt.Sprint(i)))
			}
		}()
		synctest.Wait()
		if got := b.heldCount(); got != Window {
			t.Fatalf("%d operations were read, want %d", got, Window)
		}
		first := b.take()
		for _, h := range first[:100] {
			h.to.Deliver(ok(h.req))
		}
		for range 100 {
			recv(t, stream)
		}
		synctest.Wait()
		if got := b.heldCount(); got != 100 {
			t.Errorf("after 100 answers %d more were read, want 100", got)
		}
		if n.stats.windowFull.Load() == 0 {
			t.Error("the full window was not counted")
		}
	})
}

// A client that never reads holds its own stream and nothing else, and what is kept for it is bounded.
func TestSlowReader(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		b.values["c/big"] = bytes.Repeat([]byte("x"), 1<<20)
		n := start(t, Config{Backend: b})
		defer n.stop()
		slow := n.open(t, t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for ctx.Err() == nil && slow.Send(get("big", nil)) == nil {
			}
		}()
		synctest.Wait() // everything is stuck now
		n.mu.Lock()
		for sess := range n.sessions {
			sess.mu.Lock()
			if sess.open > Window {
				t.Errorf("%d operations are open, want at most %d", sess.open, Window)
			}
			if len(sess.queue.acks) > sess.open {
				t.Errorf("%d answers are queued for %d operations", len(sess.queue.acks), sess.open)
			}
			sess.mu.Unlock()
		}
		n.mu.Unlock()
		quick := n.greeted(t, t.Context())
		send(t, quick, ping())
		if ack := recv(t, quick); ack.GetMgmtAck().GetPong() == nil {
			t.Errorf("got %s, want a Pong", text(ack))
		}
		cancel()
	})
}

// Every request with an answer gets one, whatever the order in which the backend answers, alone and in batches, until
// the client has closed its side; then the stream ends in order.
func TestOneAnswerEach(t *testing.T) {
	for _, batched := range []bool{false, true} {
		t.Run(fmt.Sprintf("batched=%t", batched), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				b := newBackend()
				n := start(t, Config{Backend: b})
				defer n.stop()
				rng := rand.New(rand.NewPCG(1, 2))
				stream := n.greeted(t, t.Context())
				const total = 5000
				done := make(chan struct{})
				go func() { // answers in random order, some at once and some late
					for {
						held := b.take()
						rng.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
						for _, h := range held {
							h.to.Deliver(ok(h.req))
						}
						select {
						case <-done:
							return
						case <-time.After(time.Duration(rng.IntN(3)) * time.Millisecond):
						}
					}
				}()
				go func() {
					for sent := 0; sent < total; {
						k := 1
						if batched {
							k = min(1+sent%700, total-sent)
						}
						var items []*cachepb.CacheRequest
						for i := sent; i < sent+k; i++ {
							id := fmt.Sprint(i)
							switch i % 3 {
							case 0:
								items = append(items, insert(id))
							case 1:
								items = append(items, get("k", &cachepb.ReadTag{ReqId: id}))
							default:
								items = append(items, get("k", &cachepb.ReadTag{ReqId: id, Mode: cachepb.ReadTag_LINEARIZABLE}))
							}
						}
						sent += k
						if batched {
							items = []*cachepb.CacheRequest{batch(items...)}
						}
						for _, item := range items {
							_ = stream.Send(item)
						}
					}
					_ = stream.CloseSend()
				}()
				answers := map[string]int{}
				messages := 0
				for {
					ack, err := stream.Recv()
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					messages++
					items := []*cachepb.Ack{ack}
					if got := ack.GetBatch(); got != nil {
						if !batched {
							t.Fatal("a batch on a stream that sent none")
						}
						if len(got.Items) > MaxBatchItems {
							t.Errorf("a batch of %d items", len(got.Items))
						}
						items = got.Items
					}
					for _, item := range items {
						answers[item.GetPutAck().GetReqId()+item.GetGetAck().GetReqId()]++
					}
				}
				close(done)
				for i := range total {
					if n := answers[fmt.Sprint(i)]; n != 1 {
						t.Fatalf("request %d got %d answers", i, n)
					}
				}
				if len(answers) != total {
					t.Errorf("%d answers to requests nobody made", len(answers)-total)
				}
				if batched && messages >= total {
					t.Errorf("%d messages for %d answers: nothing was packed", messages, total)
				}
			})
		})
	}
}

// Limits of batches in both directions: nothing in a refused batch is done, and acks are packed within the limits.
func TestBatchLimits(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		b.values["c/half"] = bytes.Repeat([]byte("x"), 1<<19)
		n := start(t, Config{Backend: b})
		defer n.stop()
		stream := n.greeted(t, t.Context())
		var many []*cachepb.CacheRequest
		for range MaxBatchItems + 1 {
			many = append(many, insert("x"))
		}
		big := insert("big")
		big.GetInsert().Value = make([]byte, MaxBatchBytes)
		for name, req := range map[string]*cachepb.CacheRequest{"items": batch(many...), "bytes": batch(big, insert("y"))} {
			send(t, stream, req)
			if ack := recv(t, stream); ack.GetError().GetOutcome().GetCode() != cachepb.Code_INVALID {
				t.Errorf("%s: got %s, want INVALID", name, text(ack))
			}
			if got := b.heldCount(); got != 0 {
				t.Errorf("%s: %d operations of a refused batch were done", name, got)
			}
		}
		send(t, stream, batch(many[:MaxBatchItems]...), batch(big))
		synctest.Wait()
		if got := b.heldCount(); got != MaxBatchItems {
			t.Errorf("%d operations of a full batch arrived, want %d", got, MaxBatchItems)
		}
		for _, h := range b.take() {
			h.to.Deliver(ok(h.req))
		}
		for got := 0; got < MaxBatchItems; { // in as many messages as it took, the writer does not wait for more
			got += max(1, len(recv(t, stream).GetBatch().GetItems()))
		}
		synctest.Wait()
		if got := b.heldCount(); got != 1 {
			t.Fatalf("a batch of one large item did not arrive")
		}
		for _, h := range b.take() {
			h.to.Deliver(ok(h.req))
		}
		recv(t, stream)
		send(t, stream, batch(get("half", nil), get("half", nil), get("half", nil)))
		for got := 0; got < 3; {
			ack := recv(t, stream)
			items := max(1, len(ack.GetBatch().GetItems()))
			if items > 1 {
				t.Errorf("%d values of 512 KiB in one message", items)
			}
			got += items
		}
	})
}

func TestToken(t *testing.T) {
	const token, peerToken = "client-token", "peer-token"
	isPeer := []string{"cachenode-peer", "1;0;data"}
	tests := []struct {
		name string
		cfg  Config
		md   []string
		want codes.Code
	}{
		{"none asked", Config{}, nil, codes.OK},
		{"none asked, one given", Config{}, []string{"authorization", "x"}, codes.OK},
		{"bare", Config{Token: token}, []string{"authorization", token}, codes.OK},
		{"bearer", Config{Token: token}, []string{"authorization", "Bearer " + token}, codes.OK},
		{"missing", Config{Token: token}, nil, codes.Unauthenticated},
		{"empty", Config{Token: token}, []string{"authorization", ""}, codes.Unauthenticated},
		{"wrong", Config{Token: token}, []string{"authorization", "client-tokem"}, codes.PermissionDenied},
		{"prefix", Config{Token: token}, []string{"authorization", "client"}, codes.PermissionDenied},
		{"other scheme", Config{Token: token}, []string{"authorization", "Basic " + token}, codes.PermissionDenied},
		{"peer with the token", Config{Token: token}, append(isPeer, "authorization", token), codes.OK},
		{"peer with the peer token", Config{Token: token, PeerToken: peerToken}, append(isPeer, "authorization", peerToken), codes.OK},
		{"peer with the clients' token", Config{Token: token, PeerToken: peerToken}, append(isPeer, "authorization", token), codes.PermissionDenied},
		{"client with the peer token", Config{Token: token, PeerToken: peerToken}, []string{"authorization", peerToken}, codes.PermissionDenied},
		{"peer without", Config{Token: token}, isPeer, codes.Unauthenticated},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBackend()
			tt.cfg.Backend = b
			n := start(t, tt.cfg)
			defer n.stop()
			stream := n.open(t, t.Context(), tt.md...)
			_ = stream.CloseSend()
			var err error
			for err == nil {
				_, err = stream.Recv()
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			if got := status.Code(err); got != tt.want {
				t.Errorf("got %v (%v), want %v", got, err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "client-token") {
				t.Errorf("the message shows the token: %v", err)
			}
			if peers := b.peers; (peers == 1) != (tt.want == codes.OK && len(tt.md) > 2) {
				t.Errorf("%d peer streams were served", peers)
			}
		})
	}
}

// Reads without a req_id are answered in the order of their requests for each key, though a local read is ready at once
// and the read before it is not; other keys and reads with a req_id do not wait.
func TestReadsInOrder(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		n := start(t, Config{Backend: b})
		defer n.stop()
		stream := n.greeted(t, t.Context())
		slow := &cachepb.ReadTag{Mode: cachepb.ReadTag_LINEARIZABLE}
		send(t, stream, get("k", slow), get("k", nil), get("other", nil), get("k", &cachepb.ReadTag{ReqId: "tagged"}), get("k", slow))
		for _, want := range []string{"other", "k/tagged"} {
			ack := recv(t, stream).GetGetAck()
			if got := strings.TrimSuffix(ack.GetEntry()+"/"+ack.GetReqId(), "/"); got != want {
				t.Fatalf("got the answer of %s, want %s", got, want)
			}
		}
		synctest.Wait()
		held := b.take()
		last := ok(held[1].req)
		last.GetGetAck().Value = []byte("3")
		held[1].to.Deliver(last)
		first := ok(held[0].req)
		first.GetGetAck().Value = []byte("1")
		held[0].to.Deliver(first)
		var got []string
		for range 3 {
			got = append(got, string(recv(t, stream).GetGetAck().GetValue()))
		}
		if want := "1 v 3"; strings.Join(got, " ") != want {
			t.Errorf("values %v, want %s", got, want)
		}
	})
}

// Draining answers what is open, refuses writes that still arrive with a code that says they had no effect, ends the
// streams, and takes no new ones.
func TestDrain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		n := start(t, Config{Backend: b})
		defer n.stop()
		busy, idle := n.greeted(t, t.Context()), n.greeted(t, t.Context())
		send(t, busy, insert("open"))
		synctest.Wait()
		drained := make(chan error, 1)
		go func() { drained <- n.Drain(t.Context()) }()
		synctest.Wait()
		if _, err := idle.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("the idle stream ended with %v, want Unavailable", err)
		}
		send(t, busy, insert("late"))
		if ack := recv(t, busy).GetPutAck(); ack.GetReqId() != "late" || ack.GetOutcome().GetCode() != cachepb.Code_SHUTTING_DOWN || ack.GetModRes() {
			t.Errorf("a late write got %s", text(ack))
		}
		select {
		case <-drained:
			t.Fatal("Drain returned with an operation open")
		default:
		}
		for _, h := range b.take() {
			h.to.Deliver(ok(h.req))
		}
		if ack := recv(t, busy).GetPutAck(); ack.GetReqId() != "open" || !ack.GetModRes() {
			t.Errorf("the open write got %s", text(ack))
		}
		if _, err := busy.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("the busy stream ended with %v, want Unavailable", err)
		}
		if err := <-drained; err != nil {
			t.Errorf("Drain: %v", err)
		}
		if _, err := n.open(t, t.Context()).Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("a new stream ended with %v, want Unavailable", err)
		}
	})
}

// Drain gives up when its context does.
func TestDrainTimeout(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		n := start(t, Config{Backend: b})
		defer n.stop()
		stream := n.greeted(t, t.Context())
		send(t, stream, insert("never answered"))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := n.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Drain: %v", err)
		}
	})
}

// Only streams that asked are told about a new leader; after the end of a stream deliveries do nothing.
func TestWatchAndLateDelivery(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		n := start(t, Config{Backend: b})
		defer n.stop()
		watching, other := n.greeted(t, t.Context(), "cachenode-watch", "1"), n.greeted(t, t.Context())
		n.LeaderChanged(&cachepb.LeaderInfo{Addr: new("n2:1"), HasQuorum: true})
		if got := recv(t, watching).GetMgmtAck().GetLeaderInfo().GetAddr(); got != "n2:1" {
			t.Errorf("the watching stream was told of %q", got)
		}
		send(t, other, ping())
		if ack := recv(t, other); ack.GetMgmtAck().GetPong() == nil {
			t.Errorf("the other stream got %s, want its Pong", text(ack))
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := n.greeted(t, ctx)
		send(t, gone, insert("1"), get("k", &cachepb.ReadTag{Mode: cachepb.ReadTag_LINEARIZABLE}))
		synctest.Wait()
		cancel()
		synctest.Wait()
		for _, h := range b.take() {
			h.to.Deliver(ok(h.req))
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.sessions) != 2 {
			t.Errorf("%d sessions, want 2", len(n.sessions))
		}
	})
}

// A management request takes its time without holding up the stream, and one at a time.
func TestManagementInBackground(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		b.blockMgm = make(chan struct{})
		n := start(t, Config{Backend: b})
		defer n.stop()
		stream := n.greeted(t, t.Context())
		change := &cachepb.CacheRequest{Method: &cachepb.CacheRequest_MgmtReq{MgmtReq: &cachepb.MgmtRequest{
			Method: &cachepb.MgmtRequest_LeaderSwitch{LeaderSwitch: &cachepb.LeaderSwitch{VoteHost: "n2:1"}},
		}}}
		send(t, stream, change, ping())
		if ack := recv(t, stream); ack.GetMgmtAck().GetPong() == nil {
			t.Errorf("got %s, want the Pong first", text(ack))
		}
		send(t, stream, change)
		if ack := recv(t, stream); ack.GetError().GetOutcome().GetCode() != cachepb.Code_OVERLOADED {
			t.Errorf("got %s, want OVERLOADED", text(ack))
		}
		close(b.blockMgm)
		if ack := recv(t, stream); ack.GetMgmtAck().GetLeaderSwitchAck().GetAddr() != "n2:1" {
			t.Errorf("got %s, want a LeaderSwitchAck", text(ack))
		}
	})
}

// New hosts copy everything before a change of hosts is done, which may take minutes: it lasts as long as its client waits.
func TestMembersSetTakesItsTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		b.blockMgm = make(chan struct{})
		n := start(t, Config{Backend: b})
		defer n.stop()
		stream := n.greeted(t, t.Context())
		send(t, stream, &cachepb.CacheRequest{Method: &cachepb.CacheRequest_MgmtReq{MgmtReq: &cachepb.MgmtRequest{
			Method: &cachepb.MgmtRequest_MembersSet{MembersSet: &cachepb.MembersSet{Hosts: []string{"n1:1", "n2:1"}}},
		}}})
		time.Sleep(4 * time.Minute)
		close(b.blockMgm)
		if ack := recv(t, stream); ack.GetMgmtAck().GetDone() == nil {
			t.Errorf("got %s, want Done after four minutes", text(ack))
		}
	})
}

// The health service needs no token and follows SetServing.
func TestHealthService(t *testing.T) {
	n := start(t, Config{Backend: newBackend(), Token: "x"})
	defer n.stop()
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_NOT_SERVING, healthpb.HealthCheckResponse_SERVING} {
		n.SetServing(want == healthpb.HealthCheckResponse_SERVING)
		res, err := healthpb.NewHealthClient(n.conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if res.GetStatus() != want {
			t.Errorf("got %v, want %v", res.GetStatus(), want)
		}
	}
}

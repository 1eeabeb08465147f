package server

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/proto/cachepb"
)

// hoard opens a stream on a connection of its own that asks for large values and reads no answer.
func (n *node) hoard(t *testing.T, ctx context.Context) (stream clientStream, leave func()) {
	t.Helper()
	stream, leave = n.join(t)
	go func() {
		for ctx.Err() == nil && stream.Send(get("big", nil)) == nil {
		}
	}()
	return stream, leave
}

// A client that takes nothing of its answers loses its connection after a while, and what was kept for it is free; one
// that has nothing to take may stay for as long as it likes.
func TestStalled(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		b.values["c/big"] = bytes.Repeat([]byte("x"), 1<<20)
		n := start(t, Config{Backend: b})
		defer n.stop()
		quiet := n.greeted(t, t.Context())
		slow, leave := n.hoard(t, t.Context())
		defer leave()
		synctest.Wait()
		if held, want := n.held.Load(), int64(n.limits.session); held < want || held > want+2<<20 {
			t.Errorf("%d bytes are held for a client that does not read, want about %d", held, want)
		}
		time.Sleep(stallTimeout - 2*time.Second)
		if n.stats.stalled.Load() != 0 {
			t.Error("ended too soon")
		}
		time.Sleep(4 * time.Second)
		for {
			if c := code(slow); c != codes.OK {
				break
			}
		}
		synctest.Wait()
		if n.stats.stalled.Load() != 1 || n.held.Load() != 0 {
			t.Errorf("%d streams were ended, %d bytes are still held", n.stats.stalled.Load(), n.held.Load())
		}
		time.Sleep(time.Hour)
		send(t, quiet, ping())
		if ack := recv(t, quiet); ack.GetMgmtAck().GetPong() == nil {
			t.Errorf("after an hour the quiet one got %s", text(ack))
		}
	})
}

// frozenConn is a connection whose other end vanishes without a word when its channel is closed: nothing comes, and what is
// sent goes nowhere.
type frozenConn struct {
	net.Conn
	frozen, closed chan struct{}
	once           *sync.Once
}

func (c frozenConn) Write(p []byte) (int, error) {
	select {
	case <-c.frozen:
		return len(p), nil
	default:
		return c.Conn.Write(p)
	}
}

func (c frozenConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	select {
	case <-c.frozen:
		<-c.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (c frozenConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A client that has vanished is given up after the interval and the timeout of the configuration, by default 5 s each; one
// that is only silent is not.
func TestVanishedClient(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg               Config
		interval, timeout time.Duration
	}{
		"default":    {Config{}, 5 * time.Second, 5 * time.Second},
		"configured": {Config{KeepaliveInterval: 2 * time.Second, KeepaliveTimeout: 30 * time.Second}, 2 * time.Second, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				tc.cfg.Backend = newBackend()
				n := start(t, tc.cfg)
				defer n.stop()
				silent := n.greeted(t, t.Context())
				frozen := make(chan struct{})
				conn, err := grpc.NewClient("passthrough:///n1", grpc.WithTransportCredentials(insecure.NewCredentials()),
					grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
						conn, err := n.dial()
						return frozenConn{conn, frozen, make(chan struct{}), new(sync.Once)}, err
					}))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				stream, err := cachepb.NewCacheClient(conn).StreamValues(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				recv(t, stream)
				time.Sleep(time.Minute) // both are silent, and both answer
				close(frozen)
				sessions := func() float64 { synctest.Wait(); return series(t, n.Server)["sessions{}"] }
				time.Sleep(tc.timeout - time.Second)
				if got := sessions(); got != 2 {
					t.Errorf("%v sessions, want 2 as yet", got)
				}
				time.Sleep(tc.interval + 2*time.Second)
				if got := sessions(); got != 1 {
					t.Errorf("%v sessions, want that of the silent client", got)
				}
				send(t, silent, ping())
				if ack := recv(t, silent); ack.GetMgmtAck().GetPong() == nil {
					t.Errorf("the silent one got %s", text(ack))
				}
			})
		})
	}
}

// A client that reads, however slowly, is not taken for one that does not.
func TestSlowIsNotStalled(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		b.values["c/big"] = bytes.Repeat([]byte("x"), 1<<20)
		n := start(t, Config{Backend: b})
		defer n.stop()
		slow := n.greeted(t, t.Context())
		const reads = 20
		for range reads {
			send(t, slow, get("big", nil))
		}
		for range reads {
			time.Sleep(stallTimeout / 2)
			recv(t, slow)
		}
	})
}

// One message may ask for a thousand large values: it is answered in full, and at no time are more than a few of them
// kept for it.
func TestLargeAnswersToOneMessage(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		b.values["c/big"] = bytes.Repeat([]byte("x"), 32<<10)
		n := start(t, Config{Backend: b})
		defer n.stop()
		n.limits.session = 1 << 20
		stream := n.greeted(t, t.Context())
		items := make([]*cachepb.CacheRequest, MaxBatchItems)
		for i := range items {
			items[i] = get("big", nil)
		}
		send(t, stream, batch(items...))
		most := int64(0)
		for got := 0; got < MaxBatchItems; {
			synctest.Wait()
			most = max(most, n.held.Load())
			ack := recv(t, stream)
			got += max(len(ack.GetBatch().GetItems()), 1)
		}
		if want := int64(n.limits.session); most < want/2 || most > want+2*spillBytes {
			t.Errorf("%d bytes were held at most, want about %d", most, want)
		}
	})
}

// While those who do not read hold as much as they may together, none of them gets more, they are ended sooner, and
// whoever reads goes on meanwhile.
func TestPressure(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		b.values["c/big"] = bytes.Repeat([]byte("x"), 128<<10)
		n := start(t, Config{Backend: b})
		defer n.stop()
		n.limits = answerLimits{session: 1 << 20, all: 4 << 20, pressed: 64 << 10}
		honest := n.greeted(t, t.Context())
		const many = 16 // each may have 1 MiB
		for range many {
			_, leave := n.hoard(t, t.Context())
			defer leave()
		}
		synctest.Wait()
		if held := n.held.Load(); held < 4<<20 || held > 4<<20+many*(256<<10) {
			t.Errorf("%d bytes are held for %d clients, want about 4 MiB", held, many)
		}
		for range 100 {
			send(t, honest, get("big", nil))
			recv(t, honest)
		}
		time.Sleep(pressedTimeout + 2*time.Second)
		synctest.Wait()
		if n.held.Load() > 4<<20 || n.stats.stalled.Load() == 0 {
			t.Errorf("%d bytes are held, %d streams were ended", n.held.Load(), n.stats.stalled.Load())
		}
		send(t, honest, ping())
		recv(t, honest)
	})
}

// Only so many management requests are carried out at a time, whoever asks.
func TestManagementIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		b.blockMgm = make(chan struct{})
		n := start(t, Config{Backend: b})
		defer n.stop()
		ask := &cachepb.CacheRequest{Method: &cachepb.CacheRequest_MgmtReq{MgmtReq: &cachepb.MgmtRequest{
			Method: &cachepb.MgmtRequest_LeaderSwitch{LeaderSwitch: &cachepb.LeaderSwitch{}},
		}}}
		var streams []clientStream
		for range maxManaging + 1 {
			stream := n.greeted(t, t.Context())
			send(t, stream, ask)
			synctest.Wait()
			streams = append(streams, stream)
		}
		last := recv(t, streams[maxManaging])
		if last.GetError().GetOutcome().GetCode() != cachepb.Code_OVERLOADED {
			t.Errorf("one too many got %s", text(last))
		}
		close(b.blockMgm)
		for _, stream := range streams[:maxManaging] {
			if ack := recv(t, stream); ack.GetMgmtAck().GetLeaderSwitchAck() == nil {
				t.Errorf("got %s", text(ack))
			}
		}
		send(t, streams[maxManaging], ask)
		if ack := recv(t, streams[maxManaging]); ack.GetMgmtAck().GetLeaderSwitchAck() == nil {
			t.Errorf("afterwards: %s", text(ack))
		}
	})
}

// A stream that was idle for long is not one whose client does not read: in the moment between an answer and the writer that
// takes it, which on a busy machine is long, it was ended as one.
func TestIdleIsNotStalled(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := start(t, Config{Backend: newBackend()})
		defer n.stop()
		n.greeted(t, t.Context())
		time.Sleep(10 * stallTimeout)
		synctest.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		for sess := range n.sessions {
			sess.mu.Lock()
			sess.wakeLocked() // the writer waits for mu
			idle, waits := sess.idle, time.Since(n.created)-time.Duration(sess.progress.Load())
			sess.mu.Unlock()
			if idle || waits > 0 {
				t.Errorf("an answer that was just given counts as one that waits for %v", waits)
			}
		}
	})
}

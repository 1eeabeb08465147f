package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/hacache/hacache/proto/cachepb"
)

// Limits of one batch message, as the node enforces them.
const (
	MaxBatchItems = 1024
	MaxBatchBytes = 1 << 20
)

// Config of a [Conn]. Only Addr is required.
type Config struct {
	// Addr is the node's host:port. It is ignored when Channel is set.
	Addr string
	// Token is sent as the stream's authorization; empty sends none.
	Token string
	// TLS nil means no TLS.
	TLS *tls.Config
	// Dialer nil dials TCP.
	Dialer func(ctx context.Context, addr string) (net.Conn, error)
	// Channel, when set, is the TCP connection the stream shares with others;
	// Addr, TLS, Dialer and ConnectTimeout are then the channel's.
	Channel *Channel

	// Window is the greatest number of operations in flight, 1 to 65536;
	// 0 is 1024, which is also what a node reads from one stream.
	Window int
	// WindowBytes bounds the encoded requests that wait for the stream to
	// take them; 0 is 16 MiB. An operation larger than that is still taken
	// when nothing waits.
	WindowBytes int
	// Batch packs the operations that wait while a message is being sent into
	// one message. Nothing waits for a batch to fill. Nodes of the original
	// protocol do not know batches.
	Batch bool
	// Watch asks the node to tell when the leader changes; see OnLeader.
	Watch bool

	// ConnectTimeout bounds dial and handshakes, and then once more the wait
	// for the node's greeting; 0 is 2 s.
	ConnectTimeout time.Duration
	// Timeout is the deadline of operations that have none; 0 is 10 s.
	Timeout time.Duration
	// Silence is how long operations may go unanswered with nothing at all
	// arriving before the stream is given up for broken; 0 is 15 s. It finds
	// connections that died without a word, where TCP would try for minutes.
	Silence time.Duration
	// BackoffMin and BackoffMax bound the pause between attempts to connect; 0
	// is 20 ms and 250 ms. The first is BackoffMin long, a later one is drawn
	// from there to a limit that grows by half each time.
	BackoffMin, BackoffMax time.Duration

	// OnLeader is called with the greeting of each new stream, and with each
	// later LeaderInfo. It runs on the reading goroutine and must not block.
	OnLeader func(node string, info *cachepb.LeaderInfo)
	// OnState is called when the stream is up (err nil) or lost. Same rules.
	OnState func(node string, err error)
}

func (cfg *Config) setDefaults() error {
	if cfg.Window == 0 {
		cfg.Window = 1024
	}
	if cfg.Window < 1 || cfg.Window > 1<<16 {
		return fmt.Errorf("client: window of %d operations: want 1 to 65536", cfg.Window)
	}
	if cfg.WindowBytes <= 0 {
		cfg.WindowBytes = 16 << 20
	}
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = defaultConnectTimeout
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Silence <= 0 {
		cfg.Silence = 15 * time.Second
	}
	if cfg.BackoffMin <= 0 {
		cfg.BackoffMin = 20 * time.Millisecond
	}
	if cfg.BackoffMax <= 0 {
		cfg.BackoffMax = 250 * time.Millisecond
	}
	return nil
}

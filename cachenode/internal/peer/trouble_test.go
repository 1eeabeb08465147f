package peer

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestTrouble proves that the reasons for which a peer is out of reach are logged once each, not once for each lane and
// dial; and that a node without TLS understands that the other one asks for it.
func TestTrouble(t *testing.T) {
	ln := listen(t)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { refuseInsecure(conn) })
		}
	})
	t.Cleanup(conns.Wait)
	t.Cleanup(func() { ln.Close() })
	dead := listen(t)
	dead.Close()
	var log logBuffer
	a := startNode(t, 0, []Host{{Identity: "a:1"}, {Identity: "b:1", DialAddr: ln.Addr().String()}, {Identity: "c:1", DialAddr: dead.Addr().String()}}, nil, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	seen := 0
	for range 6 {
		for _, slot := range []int{1, 2} {
			e := a.rec.await(t, seen, "failed dial", func(e event) bool { return e.kind == "failed" && e.slot == slot })
			if slot == 1 && !errors.Is(e.err, ErrInsecure) {
				t.Errorf("%v, want ErrInsecure", e.err)
			}
		}
		seen = a.rec.mark()
	}
	a.close()
	lines := log.with("peer is out of reach")
	if len(lines) != 2 {
		t.Errorf("%d lines: %s", len(lines), lines)
	}
	for _, want := range []string{`host=b:1 reason="it speaks TLS, and this node does not: see CACHE_TLS"`, "host=c:1 reason=refused"} {
		if !strings.Contains(strings.Join(lines, ""), want) {
			t.Errorf("no line with %s: %s", want, lines)
		}
	}
}

// refuseInsecure does what a node with TLS does with a client that speaks plain HTTP/2.
func refuseInsecure(conn net.Conn) {
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	f := http2.NewFramer(conn, nil)
	_ = f.WriteSettings()
	_ = f.WriteGoAway(0, http2.ErrCodeInadequateSecurity, []byte("this port speaks TLS only"))
}

// logBuffer keeps what is logged. It is safe for concurrent use.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) with(s string) (lines []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.buf.String()) {
		if strings.Contains(line, s) {
			lines = append(lines, line)
		}
	}
	return lines
}

// Two hosts of the list lead to one node, as when a name resolves to the wrong machine: the node takes one stream for each
// lane and ends the one before, so the two dialers throw each other out. That is a mistake of an operator, and must not
// fill the log.
func TestTwoNamesOfOneNode(t *testing.T) {
	ln := listen(t)
	slotOf := func(id uint64) int { return int(id>>56) - 1 }
	hosts := []Host{{Identity: "a:1"}, {Identity: "b:1", DialAddr: ln.Addr().String()}, {Identity: "c:1", DialAddr: ln.Addr().String()}}
	startNode(t, 1, hosts[:2], ln, func(c *Config) { c.SlotOf = slotOf; c.Hosts[0].DialAddr = "127.0.0.1:1" })
	var log logBuffer
	a := startNode(t, 0, hosts, nil, func(c *Config) {
		c.SlotOf = slotOf
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	deadline := time.Now().Add(time.Minute)
	for ; a.Stats().Dials < 20; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d dials in a minute: the two do not throw each other out", a.Stats().Dials)
		}
	}
	a.close()
	if lines := log.with("has another slot"); len(lines) != 1 {
		t.Errorf("%d lines after %d dials, expected one: %q", len(lines), a.Stats().Dials, lines)
	}
}

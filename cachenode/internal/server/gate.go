package server

import (
	"container/list"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	grpcpeer "google.golang.org/grpc/peer"
)

// gate bounds the connections of a listener.
//
// A connection is a stranger until a stream on it has shown a token. When the gate is full no more than spareStrangers of
// them may be there, and the one that has been a stranger for longest goes: an honest client is none after a few round
// trips, so thousands that connect and say nothing keep nobody out. A client that shows its token when there are as many
// known connections as there may be is refused then; a peer never is, since a node that is full of clients must not lose
// its cluster. So there are never more connections than the bound, the strangers, and three or six for each peer.
type gate struct {
	net.Listener
	max   int
	stats *gateStats

	mu        sync.Mutex
	open      int       // connections that are there
	strangers list.List // of *entrant, the oldest first
}

// gateStats count what a gate did.
type gateStats struct {
	open     atomic.Int64
	accepted atomic.Uint64
	evicted  atomic.Uint64 // strangers that made room
	refused  atomic.Uint64 // clients for whom there was none
}

// spareStrangers is how many strangers a full gate keeps: more than the connections of six peers that come at once.
const spareStrangers = 64

// entrant is a connection that came through a gate.
type entrant struct {
	net.Conn
	g     *gate
	place *list.Element // among the strangers; nil once known, guarded by g.mu
	once  sync.Once

	probes atomic.Int64 // streams of the health service
}

// callerAddr is the address of an entrant's far end. It is how a stream finds its connection.
type callerAddr struct {
	net.Addr
	entrant *entrant
}

// Accept implements net.Listener.
func (g *gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g.stats.accepted.Add(1)
	limitSend(conn)
	return g.enter(conn), nil
}

// enter lets a connection in and makes room for it.
func (g *gate) enter(conn net.Conn) *entrant {
	e := &entrant{Conn: conn, g: g}
	g.mu.Lock()
	var evicted *entrant
	if g.open >= g.max && g.strangers.Len() >= spareStrangers {
		evicted = g.strangers.Remove(g.strangers.Front()).(*entrant)
		evicted.place = nil
	}
	g.open++
	e.place = g.strangers.PushBack(e)
	g.mu.Unlock()
	g.stats.open.Add(1)
	if evicted != nil {
		g.stats.evicted.Add(1)
		evicted.Close()
	}
	return e
}

// known notes that a stream of the connection has shown a token. It reports false if there is no room for one more
// client; for peers there always is.
func (e *entrant) known(isPeer bool) bool {
	g := e.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.place == nil {
		return true // it was known, or is being closed
	}
	if !isPeer && g.open-g.strangers.Len() >= g.max {
		g.stats.refused.Add(1)
		return false
	}
	g.strangers.Remove(e.place)
	e.place = nil
	return true
}

// Close implements net.Conn.
func (e *entrant) Close() error {
	e.once.Do(func() {
		g := e.g
		g.mu.Lock()
		g.open--
		if e.place != nil {
			g.strangers.Remove(e.place)
			e.place = nil
		}
		g.mu.Unlock()
		g.stats.open.Add(-1)
	})
	return e.Conn.Close()
}

// RemoteAddr implements net.Conn.
func (e *entrant) RemoteAddr() net.Addr { return callerAddr{e.Conn.RemoteAddr(), e} }

// entrantOf returns the connection that a stream came on, or nil if it came through no gate.
func entrantOf(ctx context.Context) *entrant {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return nil
	}
	addr, _ := p.Addr.(callerAddr)
	return addr.entrant
}

// sendTimeout is how long data in the kernel may wait for the other end to take it. It is longer than a sign of life may
// take, since a client that was slow to read is ended for that, with a reason that is counted.
const sendTimeout = 20 * time.Second

// limitSend ends the connection when data in the kernel has not been taken by the other end for sendTimeout. gRPC would do it,
// but only on connections that nobody has wrapped.
func limitSend(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(sendTimeout/time.Millisecond))
	})
}

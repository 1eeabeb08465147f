package hostile

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hacache/hacache/proto/cachepb"
)

// wire is one HTTP/2 connection spoken by hand, so that it can be spoken badly.
// It keeps to the rules unless its user does not: it answers settings and pings,
// reads everything and grants what it has read.
//
// One goroutine reads; writes come from its user and from the reader, under mu.
type wire struct {
	conn net.Conn

	mu      sync.Mutex // guards everything below
	out     *bufio.Writer
	framer  *http2.Framer // its writing side
	headers *hpack.Encoder
	block   bytes.Buffer // what headers writes to
	streams map[uint32]*stream
	nextID  uint32
	window  int64 // what may still be sent on the connection
	initial int64 // the window of a new stream
	changed chan struct{}
	ended   error // why the connection is over; nil while it is not

	deaf bool // nothing is read any more

	// stingy connections grant nothing: what they were allowed to begin with is
	// all that the node may ever send.
	stingy bool
}

// stream is one call of StreamValues on a wire. Its fields are guarded by the
// wire's mu.
type stream struct {
	id     uint32
	window int64
	served bool   // the node answered with a message
	over   bool   // ended by either side
	status string // gRPC's status if the node gave one, or why it was reset
}

// dialPatience bounds dial and handshake of every connection.
const dialPatience = 3 * time.Second

// dial connects to a node, through TLS if cfg is not nil.
func dial(ctx context.Context, addr string, cfg *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	// A connection that is closed is gone, and leaves no port waiting: these are
	// opened by the thousand.
	conn.(*net.TCPConn).SetLinger(0)
	if cfg == nil {
		return conn, nil
	}
	cfg = cfg.Clone()
	cfg.NextProtos = []string{http2.NextProtoTLS}
	secured := tls.Client(conn, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secured, nil
}

// initialWindow is HTTP/2's, of streams and connections.
const initialWindow = 65_535

// newWire begins HTTP/2 on a connection. The caller must run read, and close.
func newWire(conn net.Conn) *wire {
	w := &wire{
		conn: conn, out: bufio.NewWriterSize(conn, 32<<10), streams: map[uint32]*stream{}, nextID: 1,
		window: initialWindow, initial: initialWindow, changed: make(chan struct{}),
	}
	w.framer = http2.NewFramer(w.out, nil)
	w.headers = hpack.NewEncoder(&w.block)
	return w
}

// begin sends the preface.
func (w *wire) begin(settings ...http2.Setting) error {
	return w.write(func(f *http2.Framer) error {
		w.out.WriteString(http2.ClientPreface)
		return f.WriteSettings(settings...)
	})
}

// writePatience bounds one write. A node that does not take what is sent for so
// long has stopped reading.
const writePatience = 5 * time.Second

// write sends frames at once.
func (w *wire) write(frames func(f *http2.Framer) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writeLocked(frames)
}

func (w *wire) writeLocked(frames func(f *http2.Framer) error) error {
	if w.ended != nil {
		return w.ended
	}
	w.conn.SetWriteDeadline(time.Now().Add(writePatience))
	if err := frames(w.framer); err != nil {
		return err
	}
	return w.out.Flush()
}

// open begins a call of StreamValues with the given metadata, in pairs.
func (w *wire) open(metadata ...string) (*stream, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &stream{id: w.nextID, window: w.initial}
	w.nextID += 2
	w.block.Reset()
	fields := append([]string{
		":method", "POST", ":scheme", "http", ":path", cachepb.Cache_StreamValues_FullMethodName, ":authority", "node",
		"content-type", "application/grpc", "te", "trailers",
	}, metadata...)
	for i := 0; i+1 < len(fields); i += 2 {
		w.headers.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	w.streams[s.id] = s
	err := w.writeLocked(func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: w.block.Bytes(), EndHeaders: true})
	})
	return s, err
}

// envelope puts gRPC's five bytes in front of a message.
func envelope(compressed bool, message []byte) []byte {
	out := make([]byte, 5, 5+len(message))
	if compressed {
		out[0] = 1
	}
	binary.BigEndian.PutUint32(out[1:], uint32(len(message)))
	return append(out, message...)
}

// maxFrame is the largest frame that every receiver takes.
const maxFrame = 16 << 10

// send writes data on a stream in frames of at most size bytes, as the node's
// windows allow. It returns how much was sent, and an error when the stream or
// the connection is over, or ctx.
func (w *wire) send(ctx context.Context, s *stream, data []byte, size int) (sent int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(data) > 0 {
		switch {
		case w.ended != nil:
			return sent, w.ended
		case s.over:
			return sent, errStreamOver
		}
		n := int(min(int64(len(data)), int64(size), w.window, s.window))
		if n <= 0 {
			if err := w.waitLocked(ctx); err != nil {
				return sent, err
			}
			continue
		}
		// As many frames at once as one write takes, so that small ones do not
		// cost the sender a system call each.
		err := w.writeLocked(func(f *http2.Framer) error {
			for k := 0; n > 0 && k < 1024; k++ {
				if err := f.WriteData(s.id, false, data[:n]); err != nil {
					return err
				}
				data = data[n:]
				sent += n
				w.window -= int64(n)
				s.window -= int64(n)
				n = int(min(int64(len(data)), int64(n), w.window, s.window))
			}
			return nil
		})
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

var errStreamOver = errors.New("hostile: the stream is over")

// waitLocked waits until something has changed; mu is released meanwhile.
func (w *wire) waitLocked(ctx context.Context) error {
	changed := w.changed
	w.mu.Unlock()
	defer w.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// await waits until the node has served a stream, or ended it, or the
// connection. It reports whether it was served.
func (w *wire) await(ctx context.Context, s *stream) (served bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !s.served && !s.over && w.ended == nil {
		if err := w.waitLocked(ctx); err != nil {
			return false, err
		}
	}
	return s.served, nil
}

// awaitEnd waits until the node has ended a stream or the connection.
func (w *wire) awaitEnd(ctx context.Context, s *stream) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !s.over && w.ended == nil {
		if err := w.waitLocked(ctx); err != nil {
			return err
		}
	}
	return nil
}

// status returns what the node said when it ended a stream, or the connection.
func (w *wire) status(s *stream) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case s.over:
		return s.status
	case w.ended != nil:
		return "connection closed"
	}
	return ""
}

// read takes frames off the connection until it ends.
func (w *wire) read() {
	f := http2.NewFramer(nil, bufio.NewReaderSize(w.conn, 4<<10))
	f.SetReuseFrames()
	decoder := hpack.NewDecoder(4096, nil)
	var err error
	for err == nil && !w.isDeaf() {
		var frame http2.Frame
		if frame, err = f.ReadFrame(); err == nil {
			err = w.take(frame, decoder)
		}
	}
	if err == nil {
		return // whoever made it deaf looks after it
	}
	w.conn.Close()
	w.end(err)
}

func (w *wire) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended == nil {
		w.ended = err
		w.signal()
	}
}

func (w *wire) isDeaf() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.deaf
}

// prod is how often a connection that is not read is tried for being there. A
// node may take pings that come more often than once a second for an attack of
// their own.
const prod = 3 * time.Second

// deafen stops reading after the next frame. That the connection is over is then
// noticed by writing to it, until stop is called.
func (w *wire) deafen(ctx context.Context) (stop func()) {
	w.mu.Lock()
	w.deaf = true
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sleep(ctx, prod) {
			if err := w.write(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{1}) }); err != nil {
				w.end(err)
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// signal wakes all who wait; mu is held.
func (w *wire) signal() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *wire) take(frame http2.Frame, decoder *hpack.Decoder) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.signal()
	s := w.streams[frame.Header().StreamID]
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
			for _, s := range w.streams {
				s.window += int64(v) - w.initial
			}
			w.initial = int64(v)
		}
		return w.writeLocked((*http2.Framer).WriteSettingsAck)
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		return w.writeLocked(func(out *http2.Framer) error { return out.WritePing(true, f.Data) })
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			w.window += int64(f.Increment)
		} else if s != nil {
			s.window += int64(f.Increment)
		}
	case *http2.DataFrame:
		if s != nil {
			s.served = true
		}
		if n := f.Length; n > 0 && !w.stingy {
			return w.writeLocked(func(out *http2.Framer) error {
				return errors.Join(out.WriteWindowUpdate(0, n), out.WriteWindowUpdate(f.StreamID, n))
			})
		}
	case *http2.HeadersFrame:
		fields, err := decoder.DecodeFull(f.HeaderBlockFragment())
		if err != nil {
			return err
		}
		for _, field := range fields {
			if s != nil && field.Name == "grpc-status" {
				s.status = statusName(field.Value)
			}
		}
		if f.StreamEnded() {
			w.drop(s)
		}
	case *http2.RSTStreamFrame:
		if s != nil && s.status == "" {
			s.status = "reset " + strings.ToLower(f.ErrCode.String())
		}
		w.drop(s)
	}
	return nil
}

func (w *wire) drop(s *stream) {
	if s == nil {
		return
	}
	s.over = true
	delete(w.streams, s.id)
}

func (w *wire) close() { w.conn.Close() }

// raw sends bytes that may be no frame at all.
func (w *wire) raw(parts ...[]byte) error {
	return w.write(func(*http2.Framer) error {
		for _, p := range parts {
			w.out.Write(p)
		}
		return nil
	})
}

// expect makes a stream whose headers are sent by hand.
func (w *wire) expect() *stream {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &stream{id: w.nextID, window: w.initial}
	w.nextID += 2
	w.streams[s.id] = s
	return s
}

// forget drops a stream that its user has ended.
func (w *wire) forget(s *stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(s)
}

// awaitClose waits until the connection is over: nil then, or ctx's error.
func (w *wire) awaitClose(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.ended == nil {
		if err := w.waitLocked(ctx); err != nil {
			return err
		}
	}
	return nil
}

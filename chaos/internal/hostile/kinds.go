package hostile

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/proto/cachepb"
)

// Kind is one way to be a nuisance.
type Kind struct {
	// Forbidden kinds must never be served.
	Forbidden bool
	// Ends is how long the node may let one of them live; 0: for ever.
	Ends time.Duration

	// load kinds compete with the nodes for the processors, as honest load does.
	// All others take what is left.
	load bool
	play func(ctx context.Context, a *Attack)
	bit  func(s *Spec, t *Tally, lasted time.Duration) bool
}

// Kinds are the attacks by name. What count, rate and size mean to each is said
// where scenarios are described.
var Kinds = map[string]Kind{
	"idle-streams":     {play: idleStreams, bit: manyServed},
	"never-reads":      {play: neverReads, bit: manyServed, Ends: 75 * time.Second},
	"huge-message":     {play: hugeMessage, bit: often},
	"half-frame":       {play: halfFrame, bit: pressed},
	"half-open":        {play: halfOpen, bit: pressed, Ends: 15 * time.Second},
	"garbage":          {play: garbage, bit: often, Forbidden: true},
	"no-token":         {play: badToken("no-token"), bit: often, Forbidden: true},
	"wrong-token":      {play: badToken("wrong-token"), bit: often, Forbidden: true},
	"peer-claim":       {play: badToken("peer-claim"), bit: often, Forbidden: true},
	"wrong-protocol":   {play: wrongProtocol, bit: often, Forbidden: true},
	"compression-bomb": {play: compressionBomb, bit: often},
	"header-bomb":      {play: headerBomb, bit: often, Forbidden: true},
	"tiny-frames":      {play: tinyFrames, bit: allFrames},
	"reconnect-storm":  {play: reconnectStorm, bit: often},
	"stream-flood":     {play: streamFlood, bit: often},
	"overload":         {play: overload, bit: offeredMore, load: true},
}

func manyServed(s *Spec, t *Tally, lasted time.Duration) bool {
	return many(s, t, lasted) && float64(t.Served) >= 0.9*float64(s.Count)
}

// allFrames says that all frames were sent, or nearly as many as the rate allows
// in the time there was.
func allFrames(s *Spec, t *Tally, lasted time.Duration) bool {
	return t.Frames > 0 && float64(t.Frames) >= min(float64(s.Count), 0.8*s.Rate*lasted.Seconds())
}

// patience is how long a client waits for a word from the node.
const patience = 5 * time.Second

// connect opens a connection and begins HTTP/2 on it. close ends it and waits
// for its reader.
func (a *Attack) connect(ctx context.Context, stingy bool) (w *wire, closed func(), err error) {
	conn, err := dial(ctx, a.spec.Addr, a.spec.TLS)
	if err != nil {
		return nil, nil, err
	}
	w = newWire(conn)
	w.stingy = stingy
	if err := w.begin(); err != nil {
		conn.Close()
		return nil, nil, err
	}
	var reader sync.WaitGroup
	reader.Go(w.read)
	cut := context.AfterFunc(ctx, w.close)
	return w, func() { cut(); w.close(); reader.Wait() }, nil
}

func (a *Attack) authorized() []string { return []string{"authorization", a.spec.Token} }

// call is one client with one stream. It opens the stream with the metadata,
// waits for the greeting, hands over to do, and notes how it ended.
func (a *Attack) call(ctx context.Context, stingy bool, metadata []string, do func(ctx context.Context, w *wire, s *stream) error) {
	l := a.begin()
	w, closed, err := a.connect(ctx, stingy)
	if err != nil {
		l.fail(err)
		return
	}
	defer closed()
	s, err := w.open(metadata...)
	if err != nil {
		l.fail(err)
		return
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	served, err := w.await(wait, s)
	cancel()
	switch {
	case served:
		a.count(func(t *Tally) { t.Served++ })
	case err != nil && ctx.Err() == nil:
		l.fail(err)
		return
	}
	if served && do != nil {
		_ = do(ctx, w, s) // how it ended is the node's to say
	}
	if how := w.status(s); how != "" && ctx.Err() == nil {
		l.ended(how)
		return
	}
	l.leave()
}

// streamsPerConn is how many streams share a connection where they do nothing.
const streamsPerConn = 100

// idleStreams opens Count streams that are silent after the greeting.
func idleStreams(ctx context.Context, a *Attack) {
	conns := (a.spec.Count + streamsPerConn - 1) / streamsPerConn
	a.keep(ctx, conns, func(ctx context.Context, i int) {
		w, closed, err := a.connect(ctx, false)
		if err != nil {
			a.begin().fail(err)
			return
		}
		defer closed()
		var lives []*life
		for range min(streamsPerConn, a.spec.Count-i*streamsPerConn) {
			l := a.begin()
			lives = append(lives, l)
			s, err := w.open(a.authorized()...)
			if err == nil {
				wait, cancel := context.WithTimeout(ctx, patience)
				var served bool
				if served, err = w.await(wait, s); served {
					a.count(func(t *Tally) { t.Served++ })
				}
				cancel()
			}
			if err != nil {
				break
			}
		}
		err = w.awaitClose(ctx)
		for _, l := range lives {
			if err == nil && ctx.Err() == nil {
				l.ended("connection closed")
			}
			l.leave()
		}
	})
}

// Where never-reads finds something to ask for.
const (
	bigCache = "_chaos_hostile"
	bigKey   = "big"
)

// neverReads has Count clients, each on a connection of its own, that ask for a
// large value over and over and take none of the answers: one half grants
// HTTP/2's windows nothing, the other does not even read its socket.
func neverReads(ctx context.Context, a *Attack) {
	for putBig(ctx, a) != nil {
		if !sleep(ctx, 100*time.Millisecond) {
			return
		}
	}
	ask, err := proto.Marshal(&cachepb.CacheRequest{Method: &cachepb.CacheRequest_Get{Get: &cachepb.Get{CacheName: bigCache, Entry: bigKey}}})
	if err != nil {
		panic(err) // a constant message
	}
	asks := bytes.Repeat(envelope(false, ask), 1000)
	a.keep(ctx, a.spec.Count, func(ctx context.Context, i int) {
		a.call(ctx, true, a.authorized(), func(ctx context.Context, w *wire, s *stream) error {
			if i%2 == 1 {
				defer w.deafen(ctx)()
			}
			for {
				sent, err := w.send(ctx, s, asks, maxFrame)
				a.count(func(t *Tally) { t.Bytes += int64(sent) })
				if err != nil {
					return err
				}
			}
		})
	})
}

// putBig writes the value that never-reads asks for.
func putBig(ctx context.Context, a *Attack) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := client.Dial(ctx, client.Config{Addr: a.spec.Addr, Token: a.spec.Token, TLS: a.spec.TLS, Window: 1})
	if err != nil {
		return err
	}
	defer conn.Close()
	value := make([]byte, a.spec.Size)
	out := conn.Do(ctx, &client.Op{Kind: client.KindInsert, Cache: bigCache, Key: bigKey, Value: value})
	return out.Err
}

// hugeMessage sends messages of Size bytes, which is far more than one may have.
func hugeMessage(ctx context.Context, a *Attack) {
	message := make([]byte, 1<<20)
	a.repeat(ctx, a.spec.Rate, func(ctx context.Context, _ int) {
		a.call(ctx, false, a.authorized(), func(ctx context.Context, w *wire, s *stream) error {
			head := make([]byte, 5)
			binary.BigEndian.PutUint32(head[1:], uint32(a.spec.Size))
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			_, err := w.send(ctx, s, head, maxFrame)
			for left := a.spec.Size; left > 0 && err == nil; left -= len(message) {
				var sent int
				sent, err = w.send(ctx, s, message[:min(left, len(message))], maxFrame)
				a.count(func(t *Tally) { t.Bytes += int64(sent) })
			}
			if err != nil {
				return err
			}
			return w.awaitEnd(ctx, s)
		})
	})
}

// halfFrame has Count clients that fall silent in the middle: of a frame, of a
// message, of a header.
func halfFrame(ctx context.Context, a *Attack) {
	a.keep(ctx, a.spec.Count, func(ctx context.Context, i int) {
		a.call(ctx, false, a.authorized(), func(ctx context.Context, w *wire, s *stream) error {
			var err error
			switch i % 3 {
			case 0: // a frame of 16 KiB of which 8 KiB come
				err = w.raw(frameHead(maxFrame, http2.FrameData, 0, s.id), make([]byte, maxFrame/2))
			case 1: // a message of 1 MiB of which 512 KiB come
				half := envelope(false, make([]byte, 1<<20))[:512<<10]
				_, err = w.send(ctx, s, half, maxFrame)
			default: // headers that do not end
				err = w.raw(frameHead(4, http2.FrameHeaders, 0, s.id+2), []byte{0x82, 0x86, 0x84, 0x41})
			}
			if err != nil {
				return err
			}
			a.count(func(t *Tally) { t.Bytes += maxFrame / 2 })
			return w.awaitEnd(ctx, s)
		})
	})
}

// frameHead is the head of a frame.
func frameHead(length int, kind http2.FrameType, flags http2.Flags, stream uint32) []byte {
	head := []byte{byte(length >> 16), byte(length >> 8), byte(length), byte(kind), byte(flags)}
	return binary.BigEndian.AppendUint32(head, stream)
}

// halfOpen has Count connections that never get as far as HTTP/2, or TLS: some
// say nothing, some the first bytes.
func halfOpen(ctx context.Context, a *Attack) {
	first := []byte(http2.ClientPreface)[:10]
	if a.spec.TLS != nil {
		first = []byte{22, 3, 1, 2, 0, 1, 0} // the head of a handshake record of 512 bytes
	}
	a.keep(ctx, a.spec.Count, func(ctx context.Context, i int) {
		l := a.begin()
		conn, err := dial(ctx, a.spec.Addr, nil)
		if err != nil {
			l.fail(err)
			return
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		if i%2 == 1 {
			if _, err := conn.Write(first); err != nil {
				l.fail(err)
				return
			}
		}
		_, err = io.Copy(io.Discard, conn)
		if ctx.Err() != nil {
			l.leave()
			return
		}
		if err == nil {
			err = io.EOF
		}
		l.ended(short(err))
	})
}

// garbage sends what is not HTTP/2, or no longer, as many times a second as Rate
// says.
func garbage(ctx context.Context, a *Attack) {
	a.repeat(ctx, a.spec.Rate, func(ctx context.Context, i int) {
		rng := rand.New(rand.NewPCG(a.spec.Seed, uint64(i)))
		noise := make([]byte, 1+rng.IntN(4096))
		for j := range noise {
			noise[j] = byte(rng.Uint32())
		}
		if i%2 == 0 { // from the first byte on
			a.shout(ctx, a.spec.TLS, noise)
			return
		}
		polite := append([]byte(http2.ClientPreface), frameHead(0, http2.FrameSettings, 0, 0)...)
		rude := [][]byte{
			noise,
			frameHead(1<<24-1, http2.FrameData, 0, 1),                                                // a frame of 16 MiB
			append(frameHead(1, http2.FrameData, 0, 0), 0),                                           // data of no stream
			append(frameHead(4, http2.FrameRSTStream, 0, 99), 0, 0, 0, 0),                            // the end of what has not begun
			append(frameHead(4, http2.FrameWindowUpdate, 0, 0), 0x7f, 0xff, 0xff, 0xff),              // a window beyond all bounds
			append(frameHead(8, http2.FrameSettings, 0, 0), 1, 2, 3, 4, 5, 6, 7, 8),                  // settings of no length that settings have
			append(frameHead(5, http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1), noise[0], 9, 9), // headers that are none
			append(frameHead(4, http2.FrameContinuation, http2.FlagContinuationEndHeaders, 7), 0),    // what goes on from nothing
		}[i/2%8]
		a.shout(ctx, a.spec.TLS, append(polite, rude...))
	})
}

// shout sends bytes on a new connection and listens until the node ends it, or
// for a few seconds.
func (a *Attack) shout(ctx context.Context, cfg *tls.Config, what []byte) {
	l := a.begin()
	conn, err := dial(ctx, a.spec.Addr, cfg)
	if err != nil {
		l.fail(err)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(patience))
	n, err := conn.Write(what)
	a.count(func(t *Tally) { t.Bytes += int64(n) })
	if err == nil {
		_, err = io.Copy(io.Discard, conn)
	}
	if ne, ok := err.(net.Error); ctx.Err() != nil || ok && ne.Timeout() {
		l.leave() // the node still waits for more
		return
	}
	if err == nil {
		err = io.EOF
	}
	l.ended(short(err))
}

// badToken opens streams without the right to, Rate a second. A claim to be a
// peer is made with the token of clients.
func badToken(kind string) func(ctx context.Context, a *Attack) {
	return func(ctx context.Context, a *Attack) {
		a.repeat(ctx, a.spec.Rate, func(ctx context.Context, i int) {
			var metadata []string
			switch kind {
			case "wrong-token": // of the same length, empty, the right one cut off, and with more behind it
				t := a.spec.Token
				metadata = []string{"authorization", []string{string(bytes.Repeat([]byte{'x'}, len(t))), "", t[:len(t)-1], t + "x", "Bearer " + t + "x"}[i%5]}
			case "peer-claim":
				lane := []string{"control", "data", "snapshot"}[i%3]
				metadata = append(a.authorized(), "cachenode-peer", "deadbeefcafe0001;1;"+lane)
			}
			a.call(ctx, false, metadata, nil)
		})
	}
}

// wrongProtocol speaks plain text to a node that wants TLS, and versions of TLS
// that are too old; or TLS to a node that speaks plain text.
func wrongProtocol(ctx context.Context, a *Attack) {
	a.repeat(ctx, a.spec.Rate, func(ctx context.Context, i int) {
		if a.spec.TLS == nil {
			a.shake(ctx, &tls.Config{InsecureSkipVerify: true})
			return
		}
		old := a.spec.TLS.Clone()
		switch i % 3 {
		case 0:
			old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
			a.shake(ctx, old)
		case 1:
			old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			old.CipherSuites = []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA} // without forward secrecy
			a.shake(ctx, old)
		default:
			plain := append([]byte(http2.ClientPreface), frameHead(0, http2.FrameSettings, 0, 0)...)
			a.shout(ctx, nil, plain)
		}
	})
}

// shake tries a handshake that must fail. One that succeeds counts as served.
func (a *Attack) shake(ctx context.Context, cfg *tls.Config) {
	l := a.begin()
	conn, err := dial(ctx, a.spec.Addr, nil)
	if err != nil {
		l.fail(err)
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = tls.Client(conn, cfg).HandshakeContext(ctx)
	if err == nil {
		a.count(func(t *Tally) { t.Served++ })
		l.leave()
		return
	}
	if ctx.Err() != nil {
		l.leave()
		return
	}
	l.ended("no handshake")
}

// compressionBomb sends messages of 1 MiB that would be 1 GiB.
func compressionBomb(ctx context.Context, a *Attack) {
	var member bytes.Buffer
	z := gzip.NewWriter(&member)
	z.Write(make([]byte, 4<<20)) // into memory: cannot fail
	z.Close()
	bomb := envelope(true, bytes.Repeat(member.Bytes(), 256)) // gzip's members may follow each other
	metadata := append(a.authorized(), "grpc-encoding", "gzip")
	a.repeat(ctx, a.spec.Rate, func(ctx context.Context, _ int) {
		a.call(ctx, false, metadata, func(ctx context.Context, w *wire, s *stream) error {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			sent, err := w.send(ctx, s, bomb, maxFrame)
			a.count(func(t *Tally) { t.Bytes += int64(sent) })
			if err != nil {
				return err
			}
			return w.awaitEnd(ctx, s)
		})
	})
}

// headerBomb sends headers that are a few kilobytes and mean many megabytes: one
// long field, and then references to it. Every second one does not end.
func headerBomb(ctx context.Context, a *Attack) {
	first := []byte{0x40, 1, 'x', 0x7f, 0xa1, 0x1e}           // a new name "x", a value of 127 + 33 + 30*128 bytes
	first = append(first, bytes.Repeat([]byte{'a'}, 4000)...) // which are these: nearly all that the table holds
	again := bytes.Repeat([]byte{0x80 | 62}, maxFrame)        // the newest field, 16384 times
	block := append(first, again[:maxFrame-len(first)]...)    // one frame: 12378 fields, 47 MiB
	more := append(frameHead(maxFrame, http2.FrameContinuation, 0, 1), again...)
	a.repeat(ctx, a.spec.Rate, func(ctx context.Context, i int) {
		l := a.begin()
		w, closed, err := a.connect(ctx, false)
		if err != nil {
			l.fail(err)
			return
		}
		defer closed()
		flags := http2.FlagHeadersEndHeaders
		if i%2 == 1 {
			flags = 0
		}
		s := w.expect()
		err = w.raw(frameHead(len(block), http2.FrameHeaders, flags, s.id), block)
		for k := 0; k < 64 && i%2 == 1 && err == nil; k++ {
			err = w.raw(more, nil)
		}
		a.count(func(t *Tally) { t.Bytes += int64(len(block)) })
		wait, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err == nil {
			if served, _ := w.await(wait, s); served {
				a.count(func(t *Tally) { t.Served++ })
			}
			_ = w.awaitEnd(wait, s) // the status tells how
		}
		if how := w.status(s); how != "" && ctx.Err() == nil {
			l.ended(how)
			return
		}
		l.leave()
	})
}

// tinyFrames sends Count frames, Rate a second, that are as small as frames can
// be: requests of the service in frames of one byte, and frames of every other
// kind in between.
func tinyFrames(ctx context.Context, a *Attack) {
	ping, err := proto.Marshal(&cachepb.CacheRequest{Method: &cachepb.CacheRequest_MgmtReq{
		MgmtReq: &cachepb.MgmtRequest{Method: &cachepb.MgmtRequest_Ping{Ping: &cachepb.Ping{}}},
	}})
	if err != nil {
		panic(err) // a constant message
	}
	request := envelope(false, ping)
	for a.Tally().Frames < int64(a.spec.Count) && sleep(ctx, 20*time.Millisecond) {
		a.call(ctx, false, a.authorized(), func(ctx context.Context, w *wire, s *stream) error {
			pace, begun, frames := time.Now(), a.Tally().Frames, int64(0)
			for begun+frames < int64(a.spec.Count) {
				if !sleep(ctx, time.Until(pace.Add(time.Duration(float64(frames)/a.spec.Rate*float64(time.Second))))) {
					return ctx.Err()
				}
				n, err := w.send(ctx, s, request, 1)
				if err == nil {
					err = w.write(func(f *http2.Framer) error {
						for range 16 {
							f.WriteData(s.id, false, nil)
							f.WriteWindowUpdate(s.id, 1)
							f.WritePriority(s.id, http2.PriorityParam{StreamDep: 0})
						}
						return f.WriteSettings()
					})
					n += 16*3 + 1
				}
				frames += int64(n)
				a.count(func(t *Tally) { t.Frames += int64(n) })
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// reconnectStorm connects, is greeted, and is gone, Rate times a second.
func reconnectStorm(ctx context.Context, a *Attack) {
	a.repeat(ctx, a.spec.Rate, func(ctx context.Context, _ int) { a.call(ctx, false, a.authorized(), nil) })
}

// floodSlice is the time between two volleys of a flood.
const floodSlice = 20 * time.Millisecond

// streamFlood opens streams and resets them before they are answered, Rate a
// second, every second one without a token.
func streamFlood(ctx context.Context, a *Attack) {
	for sleep(ctx, floodSlice) {
		w, closed, err := a.connect(ctx, false)
		if err != nil {
			a.begin().fail(err)
			continue
		}
		from, begun := time.Now(), 0
		for i := 0; err == nil && sleep(ctx, floodSlice); i++ {
			due := min(int(a.spec.Rate*time.Since(from).Seconds())-begun, most)
			begun += due
			for range due {
				l := a.begin()
				var metadata []string
				if i%2 == 0 {
					metadata = a.authorized()
				}
				var s *stream
				if s, err = w.open(metadata...); err == nil {
					err = w.write(func(f *http2.Framer) error { return f.WriteRSTStream(s.id, http2.ErrCodeCancel) })
					w.forget(s)
				}
				if err != nil {
					l.ended("connection closed")
					break
				}
				l.leave()
			}
		}
		closed()
	}
}

// statusName names gRPC's status by its number in a trailer.
func statusName(number string) string {
	var c codes.Code
	if err := c.UnmarshalJSON([]byte(number)); err != nil {
		return "status " + number
	}
	return c.String()
}

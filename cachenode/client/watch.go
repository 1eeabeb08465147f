package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/proto/cachepb"
)

// watchLeader is what a stream asks for that wants to be told who leads.
const watchLeader = "leader"

// Event is what a watch tells: a [Changed], [Removed], [Gap] or [Leader].
type Event interface{ event() }

// Changed tells that an entry was written, by whomever, once the node that tells
// it had applied that: what is read there from now on is this write or a newer
// one. The value does not come along.
type Changed struct {
	Cache, Key string
	// Cluster, Term and Index are where the write stands in the log.
	Cluster, Term, Index uint64
}

// Removed tells that an entry is gone.
type Removed struct {
	Cache, Key string
	Cause      Cause
	// Cluster, Term and Index are where the log stood when it went.
	Cluster, Term, Index uint64
}

// Cause is why an entry is gone.
type Cause uint8

const (
	// CauseOperation: by a Del or Remove.
	CauseOperation Cause = iota
	// CauseExpired: its time was over. It is told a second or so later.
	CauseExpired
	// CauseEvicted: its cache needed the room.
	CauseEvicted
)

var causeNames = [...]string{"operation", "expired", "evicted"}

func (c Cause) String() string {
	if int(c) < len(causeNames) {
		return causeNames[c]
	}
	return fmt.Sprintf("cause(%d)", uint8(c))
}

// Gap tells that changes may be missing: whatever was derived from changes so
// far has to be read anew. From the next event on nothing is missing, unless
// Reason is [GapDown].
type Gap struct {
	Reason GapReason
	// From and To are the indexes of the first and the last change that may be
	// missing. From is after To if none is, for instance because an empty node
	// was just started; changes before To may then be told again.
	From, To uint64
	// Cluster identifies the log: a different one than before means that all was
	// forgotten. 0 while the node is in none.
	Cluster uint64
	// Node is the address of the node that tells, or is down.
	Node string
	// Err is why the node is down, with [GapDown]; else nil.
	Err error
}

// GapReason is why changes may be missing.
type GapReason uint8

const (
	// GapBegin: a node tells what happens from here on.
	GapBegin GapReason = iota
	// GapSlow: the events were not taken fast enough.
	GapSlow
	// GapRestored: the node took over the state of another one.
	GapRestored
	// GapReset: the node left its cluster and forgot everything.
	GapReset
	// GapDown: the connection is lost, or none could be made. Nothing is told
	// until there is one again, and with it another Gap. To is 0.
	GapDown GapReason = 255 // no node's word
)

var gapNames = [...]string{"begin", "slow", "restored", "reset"}

func (r GapReason) String() string {
	switch {
	case r == GapDown:
		return "down"
	case int(r) < len(gapNames):
		return gapNames[r]
	}
	return fmt.Sprintf("gap(%d)", uint8(r))
}

// Leader tells who leads, by the word of the node that is watched: at the
// beginning, after each reconnection, and whenever that changes.
type Leader struct {
	// Addr is the leader's identity (host:port), "" if the node knows none. Then
	// the node may be cut off, and changes that it does not know are not told.
	Addr string
	// Quorum tells that the node sees a majority.
	Quorum        bool
	Term, Cluster uint64
	// Node is the address of the node that tells.
	Node string
}

func (Changed) event() {}
func (Removed) event() {}
func (Gap) event()     {}
func (Leader) event()  {}

// Watch tells the changes of the named caches, or of all if none is named, as
// one of the nodes applies them, in the order of the log:
//
//	for event, err := range client.Watch(ctx, cfg, "users") {
//		switch e := event.(type) {
//		case client.Changed:
//			forget(e.Key)
//		case client.Removed:
//			forget(e.Key)
//		case client.Gap:
//			forgetEverything()
//		}
//	}
//
// It connects when the loop begins, to the first of cfg.Addrs that answers, with
// a connection of its own, and to the next one when that is lost; each time there
// is a [Gap]. The sequence ends with an error and no event: that of ctx, an
// [*AuthError], a [*WatchError], or the reason why cfg is of no use.
//
// Events are read from the connection as the loop takes them, and nothing is
// kept here. The node keeps more than a hundred thousand changes for who is slow;
// who is slower gets a [Gap].
func Watch(ctx context.Context, cfg ClientConfig, caches ...string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := cfg.check(); err != nil {
			yield(nil, err)
			return
		}
		w := newWatcher(&cfg.Config, caches, yield)
		w.run(ctx, func() []string { return cfg.Addrs })
	}
}

// Watch is like the function [Watch], with the nodes that the Client knows. It
// ends with [ErrClosed] when the Client is closed.
func (c *Client) Watch(ctx context.Context, caches ...string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(c.life, func() { cancel(ErrClosed) })()
		w := newWatcher(&c.cfg.Config, caches, yield)
		c.mu.Lock()
		w.next = c.watches // several watches of a Client do not all begin at one node
		c.watches++
		c.mu.Unlock()
		w.run(ctx, c.addrs)
	}
}

// addrs are the nodes known now.
func (c *Client) addrs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.order...)
}

// watcher is one run of a Watch. It runs on the goroutine of the loop.
type watcher struct {
	cfg   *Config
	want  string // the metadata
	yield func(Event, error) bool
	next  int  // of the addresses
	down  bool // the loop was told, and nothing else since

	cluster, index uint64 // of what was told last
}

func newWatcher(cfg *Config, caches []string, yield func(Event, error) bool) *watcher {
	words := []string{watchLeader}
	for _, name := range caches {
		words = append(words, watchWord(name))
	}
	if len(caches) == 0 {
		words = append(words, "*")
	}
	return &watcher{cfg: cfg, want: strings.Join(words, ","), yield: yield}
}

// watchWord is how the name of a cache is written in metadata.
func watchWord(name string) string {
	if name == watchLeader || name == "1" {
		return fmt.Sprintf("%%%02X%s", name[0], name[1:])
	}
	return url.PathEscape(name)
}

// errLoopEnded means that the loop wants no more events.
var errLoopEnded = errors.New("client: the loop has ended")

// run tells events until ctx is done, a node refuses, or the loop ends.
func (w *watcher) run(ctx context.Context, addrs func() []string) {
	r := newRedial(w.cfg)
	for {
		known := addrs()
		if ctx.Err() != nil || len(known) == 0 { // closed
			w.end(ctx, ErrClosed)
			return
		}
		addr := known[w.next%len(known)]
		w.next++
		began := time.Now()
		up, err := w.serve(ctx, addr)
		_, denied := errors.AsType[*AuthError](err)
		_, refused := errors.AsType[*WatchError](err)
		switch {
		case errors.Is(err, errLoopEnded):
			return
		case ctx.Err() != nil || denied || refused:
			w.end(ctx, err)
			return
		case !w.goneDown(addr, err):
			return
		}
		if up && time.Since(began) >= w.cfg.BackoffMax {
			r.reset()
		}
		sleep(ctx, r.next())
	}
}

// end tells why the sequence ends.
func (w *watcher) end(ctx context.Context, err error) {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	w.yield(nil, err)
}

// goneDown tells that there is no connection, once until there is one again. It
// reports false if the loop has ended.
func (w *watcher) goneDown(addr string, err error) bool {
	if w.down {
		return true
	}
	w.down = true
	return w.yield(Gap{Reason: GapDown, From: w.index + 1, Cluster: w.cluster, Node: addr, Err: err}, nil)
}

// serve tells what one node tells, until the stream breaks. up reports whether
// there was one.
func (w *watcher) serve(ctx context.Context, addr string) (up bool, err error) {
	ch, err := NewChannel(ChannelConfig{
		Addr: addr, TLS: w.cfg.TLS, Dialer: w.cfg.Dialer, ConnectTimeout: w.cfg.ConnectTimeout,
	})
	if err != nil {
		return false, err
	}
	stream, err := ch.open(ctx, w.cfg, w.want)
	if err != nil {
		return false, err
	}
	defer stream.close()
	// A node of the original protocol takes no notice of what is asked for.
	mute := time.AfterFunc(w.cfg.ConnectTimeout, stream.hangUp)
	defer mute.Stop()
	r := watchReader{watcher: w, addr: addr, pulse: newPulse(stream, w.cfg.Silence), mute: mute}
	err = r.read(stream)
	switch {
	case ctx.Err() != nil || errors.Is(err, errLoopEnded):
	case !r.begun && !mute.Stop():
		err = &DownError{addr, errors.New("connected, but the node tells no changes")}
	case r.pulse.stopped():
		err = &DownError{addr, fmt.Errorf("nothing heard for %s", w.cfg.Silence)}
	}
	return r.begun, err
}

// watchReader reads one stream.
type watchReader struct {
	*watcher
	addr  string
	pulse *pulse
	mute  *time.Timer // runs until the first Gap
	begun bool        // a change or the first Gap has come
}

// read tells events until the stream ends.
func (r *watchReader) read(stream *greetedStream) error {
	for in := &stream.greeting; ; {
		ack := new(cachepb.Ack)
		err := proto.Unmarshal(in.in.ReadOnlyData(), ack)
		in.in.Free()
		if err != nil {
			return &DownError{r.addr, errWire}
		}
		if err := r.tell(ack); err != nil {
			return err
		}
		for _, item := range ack.GetBatch().GetItems() {
			if err := r.tell(item); err != nil {
				return err
			}
		}
		r.pulse.listen()
		err = stream.RecvMsg(in)
		r.pulse.heard()
		if err != nil {
			return streamError(r.addr, err)
		}
	}
}

// tell passes on what an ack tells, if that is an event.
func (r *watchReader) tell(ack *cachepb.Ack) error {
	event := EventOf(ack, r.addr)
	switch e := event.(type) {
	case nil:
		return nil
	case Changed:
		r.told(e.Cluster, e.Index)
	case Removed:
		r.told(e.Cluster, e.Index)
	case Gap:
		event = r.gap(e)
	}
	if !r.yield(event, nil) {
		return errLoopEnded
	}
	return nil
}

// EventOf returns what a node tells by an ack that nobody asked for, or nil if
// that is no event: for programs that read the stream of a node themselves. node
// is the address of that node.
func EventOf(ack *cachepb.Ack, node string) Event {
	switch m := ack.GetMethod().(type) {
	case *cachepb.Ack_PutAck:
		change, out := m.PutAck.GetChange(), m.PutAck.GetOutcome()
		if change == nil {
			return nil
		}
		return Changed{
			Cache: change.GetCacheName(), Key: change.GetEntry(),
			Cluster: out.GetCluster(), Term: out.GetTerm(), Index: out.GetIndex(),
		}
	case *cachepb.Ack_DelAck:
		change, out := m.DelAck.GetChange(), m.DelAck.GetOutcome()
		if change == nil {
			return nil
		}
		return Removed{
			Cache: change.GetCacheName(), Key: change.GetEntry(), Cause: Cause(change.GetCause()),
			Cluster: out.GetCluster(), Term: out.GetTerm(), Index: out.GetIndex(),
		}
	case *cachepb.Ack_Gap:
		return Gap{
			Reason: GapReason(m.Gap.GetReason()), From: m.Gap.GetFrom(), To: m.Gap.GetTo(), Cluster: m.Gap.GetCluster(), Node: node,
		}
	case *cachepb.Ack_MgmtAck:
		info := m.MgmtAck.GetLeaderInfo()
		if info == nil {
			return nil
		}
		return Leader{
			Addr: bare(info.GetAddr()), Quorum: info.GetHasQuorum(), Term: info.GetTerm(), Cluster: info.GetCluster(), Node: node,
		}
	}
	return nil
}

// told notes a change. A node that tells changes is not mute, though its first
// Gap may come after them.
func (r *watchReader) told(cluster, index uint64) {
	r.cluster, r.index = cluster, index
	r.begun, r.down = true, false
	r.mute.Stop()
}

// gap corrects a Gap. A node does not know what this watch was told by another
// one, so its first Gap begins at 1.
func (r *watchReader) gap(g Gap) Gap {
	if g.Reason == GapBegin && g.Cluster == r.cluster {
		g.From = min(r.index, g.To) + 1
	}
	r.told(g.Cluster, g.To)
	return g
}

// pulse finds out that a stream has died without a word, where TCP would try for
// minutes: while nothing is heard it pings, and ends the stream when that does
// not help. Time in which nobody listens does not count.
type pulse struct {
	stream *greetedStream
	period time.Duration

	mu      sync.Mutex
	timer   *time.Timer
	missed  int // periods in which nothing was heard
	pinging bool
}

// pulseBeats is how many periods without a word are one too many.
const pulseBeats = 3

func newPulse(stream *greetedStream, silence time.Duration) *pulse {
	p := &pulse{stream: stream, period: silence / pulseBeats}
	p.timer = time.AfterFunc(p.period, p.beat)
	p.timer.Stop()
	return p
}

// listen is called before waiting for a message, heard after it.
func (p *pulse) listen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer.Reset(p.period)
}

func (p *pulse) heard() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer.Stop()
	if p.missed < pulseBeats {
		p.missed = 0
	}
}

// stopped reports whether the stream was ended.
func (p *pulse) stopped() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.missed >= pulseBeats
}

// beat runs when nothing was heard for a period.
func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.missed++; p.missed >= pulseBeats {
		p.stream.hangUp()
		return
	}
	p.timer.Reset(p.period)
	if p.pinging {
		return // a stream is for one sender at a time, and this one waits
	}
	p.pinging = true
	p.mu.Unlock()
	_ = p.stream.SendMsg(&frame{out: mem.BufferSlice{mem.SliceBuffer(pingMessage)}}) // the reader sees why it failed
	p.mu.Lock()
	p.pinging = false
}

// pingMessage is a CacheRequest with a Ping.
var pingMessage = []byte{lenTag(reqMgmt), 2, lenTag(1), 0}

// bare is the name of a host without the scheme that some put in front.
func bare(identity string) string {
	if _, after, ok := strings.Cut(identity, "://"); ok {
		return after
	}
	return identity
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// Way is a direction of bytes on a link: the dialer's or the other.
type Way uint8

const (
	Forward  Way = iota // from the side that dialed
	Backward            // to the side that dialed
)

func (w Way) String() string { return [...]string{"forward", "backward"}[w] }

// Conditions are what a link does to bytes of one way. The zero value passes
// them on at once.
type Conditions struct {
	// Stall stops reading. Bytes stay where they are, and so does the end
	// of a connection; all of it is delivered in order on release, like
	// what a firewall dropped and TCP repeats.
	Stall bool
	// Fresh limits Stall to connections that are opened from now on: what
	// there is goes on.
	Fresh bool
	// Swallow takes bytes and does not hand them on, nor the end of a
	// connection. A connection that lost something is closed when this is
	// lifted: a peer that has forgotten it answers with a reset.
	Swallow bool
	// Latency and Jitter delay each chunk of bytes by Latency, and by Jitter
	// as Spread says. Order is kept.
	Latency, Jitter time.Duration
	Spread          Spread
	// Loss delays a share of the chunks, in bursts of Burst chunks on average,
	// as TCP delays what was in lost packets: by a retransmission timeout, and
	// by one twice as long if what was sent again is lost too. What comes
	// behind waits as well. Nothing is missing in the end.
	Loss  float64
	Burst float64 // 1 at least
	// Speed is how many bytes a second pass, all connections together, each in
	// its turn; 0: any number.
	Speed int64
	// Piece is how many bytes are handed on at once, 0: what there is, and
	// Pause the time between two pieces of what was sent together.
	Piece int64
	Pause time.Duration
	// LateEnd is by how much the end of a connection is late.
	LateEnd time.Duration
	// Budget is after how many bytes a connection is closed; 0: never. It
	// counts from now on.
	Budget int64

	since int64 // with Fresh: how many connections there had been
}

// Spread is how latencies are distributed.
type Spread uint8

const (
	// Uniform is Latency plus or minus up to Jitter.
	Uniform Spread = iota
	// Normal has Latency as its mean and Jitter as its standard deviation; it
	// is cut off at 0.
	Normal
	// Pareto has the same mean and deviation, and a long tail: a shape of 3,
	// from 0.58 Jitter below the mean on. One in a thousand is 10 deviations
	// late or more.
	Pareto
)

// delay draws the latency of one chunk.
func (c *Conditions) delay(random *rand.Rand) time.Duration {
	if c.Jitter == 0 {
		return c.Latency
	}
	var deviations float64
	switch c.Spread {
	case Normal:
		deviations = random.NormFloat64()
	case Pareto:
		// The mean of x^-4 is 3/2 for x from 1 on, its variance 3/4.
		deviations = (math.Pow(1-random.Float64(), -1.0/3) - 1.5) / math.Sqrt(0.75)
	default:
		deviations = 2*random.Float64() - 1
	}
	return max(0, c.Latency+time.Duration(deviations*float64(c.Jitter)))
}

// speedSlice is how much of a second's bytes a limited link hands on at once:
// enough pieces that they look like a stream.
const speedSlice = 50

// most is how many bytes may be handed on at once by a connection that has
// had so many of its budget; 0: what there is.
func (c *Conditions) most(spent int64) int64 {
	most := c.Piece
	if part := max(c.Speed/speedSlice, 1); c.Speed > 0 && (most == 0 || part < most) {
		most = part
	}
	if left := c.Budget - spent; c.Budget > 0 && left > 0 && (most == 0 || left < most) {
		most = left
	}
	return most
}

// The retransmission timeout after a loss, as Linux has it: at first, and the
// longest that losing the same chunk again makes of it.
const (
	firstRTO = 200 * time.Millisecond
	maxRTO   = 1600 * time.Millisecond
)

// Traffic is what has passed one way of a link since it was made.
type Traffic struct {
	Bytes int64 // handed on
	Held  int64 // chunks that met a stall, each counted once
	// Delayed counts chunks that were kept back for their latency.
	Delayed int64
	// Lost counts those of them that were kept back for a loss.
	Lost int64
	// Reset counts connections that were ended here: by Reset or ResetOne,
	// because their budget was spent, or because something was swallowed.
	Reset int64
	// Swallowed counts bytes that were taken and not handed on.
	Swallowed int64
	// Pieces counts what was handed on in pieces.
	Pieces int64
	// LateEnds counts ends of connections that were kept back.
	LateEnds int64
}

// Network is the set of links of one run. Its methods are safe for concurrent
// use.
type Network struct {
	server *toxiproxy.ApiServer
	host   string
	seed   uint64

	mu    sync.Mutex
	links map[string]*Link
}

// callTimeout bounds every call into Toxiproxy: some of them wait for
// goroutines that a blocked connection can keep for ever.
const callTimeout = 2 * time.Second

// NewNetwork returns a network without links. All its proxies listen on one
// loopback address of their own where the system has more than one, so that a
// port that is free for a moment, because its proxy rejects or its process is
// dead, is not given to an outgoing connection of somebody else.
func NewNetwork(seed uint64) *Network {
	return &Network{
		server: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), // a nil container panics on the first connection
		host:   ownLoopback(),
		seed:   seed,
		links:  map[string]*Link{},
	}
}

// ownLoopback picks a random address of 127/8 and returns it if the system
// lets us listen there, or 127.0.0.1.
func ownLoopback() string {
	for range 8 {
		host := fmt.Sprintf("127.%d.%d.%d", 16+rand.IntN(200), rand.IntN(256), 1+rand.IntN(250))
		if l, err := net.Listen("tcp", host+":0"); err == nil {
			l.Close()
			return host
		}
	}
	return "127.0.0.1"
}

// Host returns the loopback address of the run.
func (n *Network) Host() string { return n.host }

// Link is a proxy that stands for "From dials To".
type Link struct {
	From, To string

	proxy *toxiproxy.Proxy
	gates [2]*gate

	mu       sync.Mutex // one Reject or Accept at a time
	rejected int        // how many Rejects are in force
}

// Add makes the link and opens it. upstream is the address that To listens on.
func (n *Network) Add(from, to, upstream string) (*Link, error) {
	name := from + ">" + to
	l := &Link{From: from, To: to}
	l.proxy = toxiproxy.NewProxy(n.server, name, net.JoinHostPort(n.host, "0"), upstream)
	for way, streamName := range [...]string{"upstream", "downstream"} {
		g := newGate(n.seed + uint64(len(name)*2+way))
		l.gates[way] = g
		id := registerGate(g)
		attrs := fmt.Sprintf(`{"name":"link-%s","type":%q,"stream":%q,"toxicity":1,"attributes":{"gate":%d}}`, streamName, toxicType, streamName, id)
		if _, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(attrs)); err != nil {
			return nil, fmt.Errorf("link %s: %w", name, err)
		}
	}
	if err := bounded(l.proxy.Start); err != nil {
		return nil, fmt.Errorf("link %s: %w", name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[name] = l
	return l, nil
}

// Link returns the link from one end to another, or nil.
func (n *Network) Link(from, to string) *Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links[from+">"+to]
}

// Close stops every proxy and closes every connection, stalled or not.
func (n *Network) Close() error {
	n.mu.Lock()
	links := n.links
	n.links = map[string]*Link{}
	n.mu.Unlock()
	var errs []error
	for name, l := range links {
		if err := bounded(func() error { l.proxy.Stop(); return nil }); err != nil {
			errs = append(errs, fmt.Errorf("link %s: %w", name, err))
		}
		for _, g := range l.gates {
			close(g.closed)
			unregisterGate(g)
		}
	}
	return errors.Join(errs...)
}

// Addr is the address to dial.
func (l *Link) Addr() string { return l.proxy.Listen }

func (l *Link) String() string { return l.From + ">" + l.To }

// Apply puts conditions in force for one way at once, on the connections that
// exist and on new ones, until lift is called. Conditions that are in force at
// the same time add up: latencies are summed, and one stall is enough.
func (l *Link) Apply(way Way, c Conditions) (lift func()) {
	g := l.gates[way]
	g.add(&c)
	return sync.OnceFunc(func() { g.remove(&c) })
}

// Traffic returns the counters of one way.
func (l *Link) Traffic(way Way) Traffic {
	g := l.gates[way]
	return Traffic{
		Bytes: g.bytes.Load(), Held: g.held.Load(), Delayed: g.delayed.Load(), Lost: g.lost.Load(), Reset: g.ended.Load(),
		Swallowed: g.swallowed.Load(), Pieces: g.pieces.Load(), LateEnds: g.lateEnds.Load(),
	}
}

// Reset closes every connection that the link has now, both ends of it, and
// what was on its way is gone. New ones are accepted all the while.
func (l *Link) Reset() {
	// Under both locks: otherwise the end of one way could reach the other before its reset does, and would pass there
	// for the end of a connection that the peer had closed.
	for _, g := range l.gates {
		g.mu.Lock()
		defer g.mu.Unlock()
	}
	for _, g := range l.gates {
		g.resets++
		g.wake()
	}
}

// ResetOne closes one connection of the link, chosen by pick among those that
// it has now. It reports whether there was one.
func (l *Link) ResetOne(pick uint64) bool { return l.gates[Forward].resetOne(pick) }

// Reject closes every connection of the link and refuses new ones until there
// was an [Link.Accept] for each Reject.
func (l *Link) Reject() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rejected == 0 {
		if err := bounded(func() error { l.proxy.Stop(); return nil }); err != nil {
			return fmt.Errorf("link %s: reject: %w", l, err)
		}
	}
	l.rejected++
	return nil
}

// Accept undoes Reject.
func (l *Link) Accept() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.rejected {
	case 0:
		return nil
	case 1:
		if err := bounded(l.proxy.Start); err != nil {
			return fmt.Errorf("link %s: accept again on %s: %w", l, l.proxy.Listen, err)
		}
	}
	l.rejected--
	return nil
}

// Refuses reports whether a dial is refused now: the proof that Reject bites.
func (l *Link) Refuses(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr())
	if err == nil {
		c.Close()
	}
	return err != nil
}

// errHung is returned when a call into Toxiproxy does not come back.
var errHung = fmt.Errorf("toxiproxy did not answer within %v", callTimeout)

func bounded(call func() error) error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-time.After(callTimeout):
		return errHung
	}
}

// gate is the part of a link that all its connections share. Toxiproxy's own
// way to change a toxic decodes into memory that running toxics read, and
// waits for each of them; a gate is changed at once and waits for nobody.
type gate struct {
	seed uint64
	id   int64

	mu      sync.Mutex
	layers  []*Conditions
	now     Conditions    // their sum
	resets  int           // so far
	live    []*passage    // in the order in which they were made
	free    time.Time     // when a limited speed has room for the next piece
	changed chan struct{} // closed when now, resets or a passage's doomed changes

	closed chan struct{} // closed when the network is
	opened atomic.Int64  // connections so far

	bytes, held, delayed, lost, ended, swallowed, pieces, lateEnds atomic.Int64
}

func newGate(seed uint64) *gate {
	return &gate{seed: seed, changed: make(chan struct{}), closed: make(chan struct{})}
}

func (g *gate) add(c *Conditions) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.since = g.opened.Load()
	g.layers = append(g.layers, c)
	g.sum()
}

func (g *gate) remove(c *Conditions) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.layers = slices.DeleteFunc(g.layers, func(l *Conditions) bool { return l == c })
	g.sum()
}

// sum is called with mu held.
func (g *gate) sum() {
	g.now = Conditions{}
	for _, c := range g.layers {
		switch {
		case c.Stall && c.Fresh && !g.now.Fresh:
			g.now.Fresh, g.now.since = true, c.since
		case c.Stall && c.Fresh:
			g.now.since = min(g.now.since, c.since)
		case c.Stall:
			g.now.Stall = true
		}
		g.now.Swallow = g.now.Swallow || c.Swallow
		g.now.Latency += c.Latency
		g.now.Jitter += c.Jitter
		g.now.Spread = max(g.now.Spread, c.Spread)
		if c.Loss > g.now.Loss {
			g.now.Loss, g.now.Burst = c.Loss, c.Burst
		}
		g.now.Speed = least(g.now.Speed, c.Speed)
		g.now.Piece = least(g.now.Piece, c.Piece)
		g.now.Pause += c.Pause
		g.now.LateEnd += c.LateEnd
		g.now.Budget = least(g.now.Budget, c.Budget)
	}
	if g.now.Speed == 0 {
		g.free = time.Time{}
	}
	g.wake()
}

// least is the smaller of two limits of which 0 is none.
func least(a, b int64) int64 {
	if a == 0 || b == 0 {
		return a + b
	}
	return min(a, b)
}

// reserve returns when n bytes may pass at a limited speed, after those that
// others have reserved.
func (g *gate) reserve(n, speed int64) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); g.free.Before(now) {
		g.free = now
	}
	g.free = g.free.Add(time.Duration(float64(n) / float64(speed) * float64(time.Second)))
	return g.free
}

// wake is called with mu held.
func (g *gate) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// resetOne ends the pick-th of the connections that are there.
func (g *gate) resetOne(pick uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	alive := slices.DeleteFunc(slices.Clone(g.live), func(p *passage) bool { return p.doomed.Load() })
	if len(alive) == 0 {
		return false
	}
	alive[pick%uint64(len(alive))].doomed.Store(true)
	g.wake()
	return true
}

func (g *gate) enter(p *passage) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live = append(g.live, p)
}

func (g *gate) leave(p *passage) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live = slices.DeleteFunc(g.live, func(q *passage) bool { return q == p })
}

func (g *gate) get() (c Conditions, resets int, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now, g.resets, g.changed
}

// toxicType is the name of linkToxic in Toxiproxy's registry.
const toxicType = "hacache_link"

// linkToxic is the only toxic of a link and is always there, so that the chain
// of a connection never has to be rebuilt while bytes are stuck in it.
type linkToxic struct {
	Gate int64 `json:"gate"`
}

// gates finds the gate that a toxic's attribute names: attributes are JSON.
var gates struct {
	sync.Mutex
	last int64
	byID map[int64]*gate
}

func registerGate(g *gate) int64 {
	gates.Lock()
	defer gates.Unlock()
	if gates.byID == nil {
		gates.byID = map[int64]*gate{}
	}
	gates.last++
	g.id = gates.last
	gates.byID[g.id] = g
	return g.id
}

func unregisterGate(g *gate) {
	gates.Lock()
	defer gates.Unlock()
	delete(gates.byID, g.id)
}

func init() { toxics.Register(toxicType, new(linkToxic)) }

// GetBufferSize is how many chunks may be on their way through a latency. With
// more, the link stops reading, as a network with a full buffer does.
func (*linkToxic) GetBufferSize() int { return 1024 }

// passage is the state of one connection, one way.
type passage struct {
	chunk  *stream.StreamChunk // taken and not yet handed on
	rest   *stream.StreamChunk // what was cut off from it
	ended  bool                // there is nothing more to take
	met    bool                // chunk, or the end, was counted as held
	piece  bool                // chunk was cut off from the one before it
	due    time.Time           // when chunk may go on; zero: not decided
	last   time.Time           // when the chunk before it was due
	random *rand.Rand
	gate   *gate
	number int64       // of the connection, from 1
	spent  int64       // bytes of its budget
	resets int         // of the gate, when the connection was made
	doomed atomic.Bool // it is to be reset
	losing bool        // the last chunk was lost
	gap    bool        // something was swallowed
}

// NewState is called by Toxiproxy once per connection and way.
func (t *linkToxic) NewState() any {
	gates.Lock()
	g := gates.byID[t.Gate]
	gates.Unlock()
	if g == nil { // the network is being closed
		g = newGate(0)
		close(g.closed)
	}
	_, resets, _ := g.get()
	p := &passage{gate: g, resets: resets, number: g.opened.Add(1)}
	p.random = rand.New(rand.NewPCG(g.seed, uint64(p.number)))
	g.enter(p)
	return p
}

// Pipe moves chunks from input to output until the connection ends. It returns
// when it is interrupted, which is how Toxiproxy rebuilds a chain; what it was
// holding is in the state and goes first when it is run again.
func (t *linkToxic) Pipe(stub *toxics.ToxicStub) {
	p := stub.State.(*passage)
	for {
		c, resets, changed := p.gate.get()
		if c.Budget == 0 {
			p.spent = 0
		}
		var next step
		switch {
		case resets != p.resets || p.doomed.Load() || p.gap && !c.Swallow || c.Budget > 0 && p.spent >= c.Budget:
			p.gate.ended.Add(1)
			next = abandon
		case p.chunk == nil && !p.ended:
			next = p.take(stub, changed)
		case c.Swallow && !p.ended:
			p.swallow()
		case c.Stall || c.Swallow || c.Fresh && p.number > c.since:
			if !p.met {
				p.met = true
				p.gate.held.Add(1)
			}
			next = p.wait(stub, nil, changed)
		case p.cut(c.most(p.spent)):
		case p.late(c) > 0:
			timer := time.NewTimer(p.late(c))
			next = p.wait(stub, timer.C, changed)
			timer.Stop()
		case p.ended:
			next = finish
		default:
			next = p.pass(stub, changed)
		}
		switch next {
		case yield:
			return
		case abandon:
			// Closing the output ends Toxiproxy's writer, which closes the
			// connection it writes to. The other way does the same, so the
			// reader ends too; it has to be heard out until then, or it
			// stays blocked for ever.
			p.gate.leave(p)
			p.rest = nil
			stub.Close()
			for !p.ended {
				p.chunk = <-stub.Input
				p.ended = p.chunk == nil
			}
			return
		case finish:
			p.gate.leave(p)
			stub.Close()
			return
		}
	}
}

// step is what Pipe does next.
type step uint8

const (
	again   step = iota // look at the conditions once more
	yield               // return to Toxiproxy, to be run again
	finish              // the connection has ended
	abandon             // end the connection and drop what is on its way
)

// take waits for the next chunk, or for the end of the connection.
func (p *passage) take(stub *toxics.ToxicStub, changed <-chan struct{}) step {
	if p.rest != nil {
		p.chunk, p.rest, p.piece = p.rest, nil, true
		return again
	}
	p.piece = false
	select {
	case p.chunk = <-stub.Input:
		p.ended = p.chunk == nil
	case <-changed:
	case <-p.gate.closed:
		return abandon
	case <-stub.Interrupt:
		return yield
	}
	return again
}

// cut leaves at most so many bytes of the chunk for now, and reports whether
// that changed anything.
func (p *passage) cut(most int64) bool {
	if p.ended || most == 0 || int64(len(p.chunk.Data)) <= most {
		return false
	}
	whole := p.chunk
	p.chunk = &stream.StreamChunk{Data: whole.Data[:most], Timestamp: whole.Timestamp}
	p.rest = &stream.StreamChunk{Data: whole.Data[most:], Timestamp: whole.Timestamp}
	p.gate.pieces.Add(1)
	p.due = time.Time{}
	return true
}

// swallow takes the chunk and forgets it.
func (p *passage) swallow() {
	p.gate.swallowed.Add(int64(len(p.chunk.Data)))
	p.gap = true
	p.chunk, p.met, p.due = nil, false, time.Time{}
}

// wait waits until something changes.
func (p *passage) wait(stub *toxics.ToxicStub, timer <-chan time.Time, changed <-chan struct{}) step {
	select {
	case <-timer:
	case <-changed:
	case <-p.gate.closed:
		return abandon
	case <-stub.Interrupt:
		return yield
	}
	return again
}

// pass hands the chunk on.
func (p *passage) pass(stub *toxics.ToxicStub, changed <-chan struct{}) step {
	n := int64(len(p.chunk.Data))
	select {
	case stub.Output <- p.chunk:
		p.gate.bytes.Add(n)
		p.spent += n
		p.last, p.due = p.due, time.Time{}
		p.chunk, p.met = nil, false
	case <-changed:
	case <-p.gate.closed:
		return abandon
	case <-stub.Interrupt:
		return yield
	}
	return again
}

// late returns how much longer the chunk, or the end of the connection, has to
// wait for its latency, for its loss, or for room.
func (p *passage) late(c Conditions) time.Duration {
	if c.Latency == 0 && c.Loss == 0 && c.Speed == 0 && c.Pause == 0 && (c.LateEnd == 0 || !p.ended) {
		p.due = time.Time{}
		return 0
	}
	if p.due.IsZero() {
		if p.ended {
			p.dueEnd(c)
		} else {
			p.dueChunk(c)
		}
	}
	return time.Until(p.due)
}

// dueEnd decides when the end of the connection may go on.
func (p *passage) dueEnd(c Conditions) {
	p.due = time.Now().Add(c.LateEnd)
	if c.LateEnd > 0 {
		p.gate.lateEnds.Add(1)
	}
}

// dueChunk decides when the chunk may go on.
func (p *passage) dueChunk(c Conditions) {
	rto := p.lose(c)
	p.due = p.chunk.Timestamp.Add(c.delay(p.random) + rto)
	if p.due.Before(p.last) {
		p.due = p.last
	}
	if pause := p.last.Add(c.Pause); p.piece && p.due.Before(pause) {
		p.due = pause
	}
	if c.Speed > 0 {
		if room := p.gate.reserve(int64(len(p.chunk.Data)), c.Speed); p.due.Before(room) {
			p.due = room
		}
	}
	if time.Until(p.due) > 0 {
		p.gate.delayed.Add(1)
	}
	if rto > 0 {
		p.gate.lost.Add(1)
	}
}

// lose decides whether a chunk is lost, and returns by how much it is late
// then. It is Gilbert's chain of two states: one in which nothing is lost, and
// one in which everything is, entered and left so that Loss of all chunks fall
// into it and it lasts for Burst chunks on average. A timeout outlasts a burst,
// so what is sent again is lost like any other chunk.
func (p *passage) lose(c Conditions) time.Duration {
	stay := 1 - 1/max(c.Burst, 1)
	if !p.losing {
		stay = c.Loss / (c.Burst * (1 - c.Loss)) // enters
	}
	if p.losing = c.Loss > 0 && p.random.Float64() < stay; !p.losing {
		return 0
	}
	rto, late := firstRTO, firstRTO
	for rto < maxRTO && p.random.Float64() < c.Loss {
		rto *= 2
		late += rto
	}
	return late
}

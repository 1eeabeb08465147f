package cluster

import (
	"context"
	"errors"
	"fmt"
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
	// Latency and Jitter delay each chunk of bytes by Latency plus or minus
	// up to Jitter, uniformly. Order is kept.
	Latency, Jitter time.Duration
	// Loss delays a share of the chunks, in bursts of Burst chunks on average,
	// as TCP delays what was in lost packets: by a retransmission timeout, and
	// by one twice as long if what was sent again is lost too. What comes
	// behind waits as well. Nothing is missing in the end.
	Loss  float64
	Burst float64 // 1 at least
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
	// Reset counts connections that Reset or ResetOne ended.
	Reset int64
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
	return Traffic{Bytes: g.bytes.Load(), Held: g.held.Load(), Delayed: g.delayed.Load(), Lost: g.lost.Load(), Reset: g.ended.Load()}
}

// Reset closes every connection that the link has now, both ends of it, and
// what was on its way is gone. New ones are accepted all the while.
func (l *Link) Reset() {
	for _, g := range l.gates {
		g.reset()
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
	changed chan struct{} // closed when now, resets or a passage's doomed changes

	closed chan struct{} // closed when the network is
	opened atomic.Int64  // connections so far

	bytes, held, delayed, lost, ended atomic.Int64
}

func newGate(seed uint64) *gate {
	return &gate{seed: seed, changed: make(chan struct{}), closed: make(chan struct{})}
}

func (g *gate) add(c *Conditions) {
	g.mu.Lock()
	defer g.mu.Unlock()
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
		g.now.Stall = g.now.Stall || c.Stall
		g.now.Latency += c.Latency
		g.now.Jitter += c.Jitter
		if c.Loss > g.now.Loss {
			g.now.Loss, g.now.Burst = c.Loss, c.Burst
		}
	}
	g.wake()
}

// wake is called with mu held.
func (g *gate) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *gate) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.resets++
	g.wake()
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
	ended  bool                // there is nothing more to take
	met    bool                // chunk was counted as held
	due    time.Time           // when chunk may go on; zero: not decided
	last   time.Time           // when the chunk before it was due
	random *rand.Rand
	gate   *gate
	resets int         // of the gate, when the connection was made
	doomed atomic.Bool // it is to be reset
	losing bool        // the last chunk was lost
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
	p := &passage{gate: g, resets: resets, random: rand.New(rand.NewPCG(g.seed, uint64(g.opened.Add(1))))}
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
		var next step
		switch {
		case resets != p.resets || p.doomed.Load():
			p.gate.ended.Add(1)
			next = abandon
		case p.chunk == nil && !p.ended:
			next = p.take(stub, changed)
		case c.Stall:
			if !p.met {
				p.met = true
				p.gate.held.Add(1)
			}
			next = p.wait(stub, nil, changed)
		case p.ended:
			next = finish
		case p.late(c) > 0:
			timer := time.NewTimer(p.late(c))
			next = p.wait(stub, timer.C, changed)
			timer.Stop()
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

// late returns how much longer the chunk has to wait for its latency, or for
// its loss.
func (p *passage) late(c Conditions) time.Duration {
	if c.Latency == 0 && c.Loss == 0 {
		p.due = time.Time{}
		return 0
	}
	if p.due.IsZero() {
		delay := c.Latency
		if c.Jitter > 0 {
			delay += time.Duration(p.random.Int64N(int64(2*c.Jitter))) - c.Jitter
		}
		rto := p.lose(c)
		p.due = p.chunk.Timestamp.Add(delay + rto)
		if p.due.Before(p.last) {
			p.due = p.last
		}
		if time.Until(p.due) > 0 {
			p.gate.delayed.Add(1)
		}
		if rto > 0 {
			p.gate.lost.Add(1)
		}
	}
	return time.Until(p.due)
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

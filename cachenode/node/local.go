package node

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/proto/cachepb"
)

// localTimeout is how long an operation of this program waits if neither it nor its context says.
const localTimeout = 10 * time.Second

// Get reads a key from this node's own copy: no network, no waiting. found tells an empty value from a miss. The value is
// the caller's own. A node that cannot prove that its copy is fresh enough says so by a [*client.OpError] with NOT_FRESH, and
// so it does for a cache that cannot be, with UNKNOWN_CACHE or INVALID.
func (n *Node) Get(ctx context.Context, cache, key string) (value []byte, found bool, err error) {
	value, found, err = n.AppendGet(ctx, nil, cache, key)
	if found && value == nil {
		value = []byte{}
	}
	return value, found, err
}

// AppendGet is Get for those who read often: it appends the value to dst, and allocates nothing if it fits.
func (n *Node) AppendGet(ctx context.Context, dst []byte, cache, key string) (value []byte, found bool, err error) {
	if err := ctx.Err(); err != nil {
		return dst, false, err
	}
	view := n.runner.View()
	held, found, _, fresh := n.gw.Read(view, replication.Now(), math.MaxInt64, cache, key)
	if err := n.readable(fresh, found, cache, key); err != nil {
		return dst, false, err
	}
	return append(dst, held...), found, nil
}

// readable counts a local read, and returns why it is refused, or nil.
func (n *Node) readable(fresh, found bool, cache, key string) error {
	code, detail := cachepb.Code_OK, ""
	switch {
	case n.locals.gone():
		code, detail = cachepb.Code_SHUTTING_DOWN, errStopped.Error()
	case !fresh:
		code = cachepb.Code_NOT_FRESH
	case !found: // and perhaps never can be
		code, detail = n.store.ValidateRead(cache, key)
	}
	n.server.Program().Read(code, found)
	if code == cachepb.Code_OK {
		return nil
	}
	return n.refused(client.KindGet, code, detail)
}

// Put writes a key; nil means that this node took it, before it was replicated. From then on it is read here.
func (n *Node) Put(ctx context.Context, cache, key string, value []byte) error {
	return n.Do(ctx, &client.Op{Kind: client.KindPut, Cache: cache, Key: key, Value: value}).Failure()
}

// Insert writes a key and waits for the level.
func (n *Node) Insert(ctx context.Context, cache, key string, value []byte, level client.Level) error {
	return n.Do(ctx, &client.Op{Kind: client.KindInsert, Cache: cache, Key: key, Value: value, Level: level}).Failure()
}

// Del removes a key; nil means that this node took it, before it was replicated. From then on it is not read here.
func (n *Node) Del(ctx context.Context, cache, key string) error {
	return n.Do(ctx, &client.Op{Kind: client.KindDel, Cache: cache, Key: key}).Failure()
}

// Remove removes a key and waits for the level.
func (n *Node) Remove(ctx context.Context, cache, key string, level client.Level) error {
	return n.Do(ctx, &client.Op{Kind: client.KindRemove, Cache: cache, Key: key, Level: level}).Failure()
}

// Do performs an operation at this node, with everything that a [client.Op] can say: level, read mode, time to live,
// deadline, session. Nothing of op is kept.
//
// It makes one attempt, as a stream to this node would, and says what is known about it: ok, fail or unknown. The
// operation's deadline, or the end of ctx, or ten seconds bound it; when ctx ends first, a write that was on its way is
// unknown. Before Run it waits; after Run has begun to stop it is refused with SHUTTING_DOWN.
func (n *Node) Do(ctx context.Context, op *client.Op) client.Outcome {
	if err := op.Check(); err != nil {
		return n.refusal(err)
	}
	if err := ctx.Err(); err != nil {
		return n.refusal(err)
	}
	if op.Kind == client.KindGet && op.ReadMode == cachepb.ReadTag_LOCAL {
		return n.read(op)
	}
	req, wait := request(ctx, op)
	began := time.Now()
	var o client.Outcome
	if n.locals.enter() {
		o = n.submit(ctx, op, req, wait)
		n.locals.leave()
	} else {
		o = n.refusal(n.refused(op.Kind, cachepb.Code_SHUTTING_DOWN, errStopped.Error()))
	}
	miss := op.Kind == client.KindGet && o.Status == client.StatusOK && !o.Found
	n.server.Program().Answered(req, codeOf(&o), miss, time.Since(began))
	return o
}

// codeOf is what an outcome is counted as. Whoever stops waiting does not know.
func codeOf(o *client.Outcome) cachepb.Code {
	if o.Status != client.StatusOK && o.Code == cachepb.Code_OK {
		return cachepb.Code_INDETERMINATE
	}
	return o.Code
}

// read answers a read of the node's own copy.
func (n *Node) read(op *client.Op) client.Outcome {
	now := time.Now()
	bound := op.MaxStaleness
	if bound <= 0 {
		bound = math.MaxInt64
	}
	view := n.runner.View()
	value, found, age, fresh := n.gw.Read(view, replication.Now(), bound, op.Cache, op.Key)
	o := client.Outcome{
		Found: found, Staleness: age, Cluster: view.Cluster, Term: view.Term, Index: view.Applied,
		Node: n.identity(), Sent: now, Returned: now,
	}
	if err := n.readable(fresh, found, op.Cache, op.Key); err != nil {
		o = n.refusal(err)
		if o.Code == cachepb.Code_NOT_FRESH {
			o.Refused, o.Leader, o.Cluster, o.Term = true, view.Address, view.Cluster, view.Term
		}
		return o
	}
	if found {
		o.Value = append([]byte{}, value...)
	}
	return o
}

// submit hands an operation to the runner, as a session does, and waits for its answer.
func (n *Node) submit(ctx context.Context, op *client.Op, req *cachepb.CacheRequest, wait time.Duration) client.Outcome {
	sent := time.Now()
	to := local{answer: make(chan *cachepb.Ack, 1)}
	if get := req.GetGet(); get != nil {
		backend{n}.ReadAsync(to, get)
	} else if !(backend{n}).Submit(to, req) {
		return n.refusal(n.refused(op.Kind, cachepb.Code_OVERLOADED, "too many requests wait at this node"))
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	o := client.Outcome{Status: client.StatusInfo, Node: n.identity(), Sent: sent}
	if !op.Kind.Write() {
		o.Status = client.StatusFail
	}
	select {
	case ack := <-to.answer:
		n.fill(&o, op, ack)
	case <-ctx.Done():
		o.Err = ctx.Err()
	case <-timer.C:
		o.Err = client.ErrTimeout
	case <-n.locals.over:
		o.Err = client.ErrClosed
	}
	o.Returned = time.Now()
	return o
}

// fill writes an answer into an outcome.
func (n *Node) fill(o *client.Outcome, op *client.Op, ack *cachepb.Ack) {
	var out *cachepb.Outcome
	switch m := ack.GetMethod().(type) {
	case *cachepb.Ack_GetAck:
		out = m.GetAck.GetOutcome()
		o.Value, o.Found = slices.Clone(m.GetAck.GetValue()), m.GetAck.GetValue() != nil
		o.Staleness = time.Duration(m.GetAck.GetStalenessUs()) * time.Microsecond
		o.Refused = out.GetCode() == cachepb.Code_NOT_FRESH
	case *cachepb.Ack_PutAck:
		out = m.PutAck.GetOutcome()
	case *cachepb.Ack_DelAck:
		out = m.DelAck.GetOutcome()
	}
	o.Code, o.Detail, o.Leader = out.GetCode(), out.GetDetail(), out.GetLeader()
	o.Cluster, o.Term, o.Index = out.GetCluster(), out.GetTerm(), out.GetIndex()
	switch {
	case o.Code == cachepb.Code_OK:
		o.Status = client.StatusOK
		return
	case client.Definite(o.Code):
		o.Status = client.StatusFail
	}
	o.Err = &client.OpError{Kind: op.Kind, Code: o.Code, Detail: o.Detail, Node: o.Node}
}

// request builds the message of an operation, and says how long to wait for its answer. It holds a copy of the value, since
// the log keeps it.
func request(ctx context.Context, op *client.Op) (req *cachepb.CacheRequest, wait time.Duration) {
	wait, told := localTimeout, time.Duration(0)
	if op.Deadline > 0 {
		wait, told = op.Deadline, op.Deadline
	}
	if end, ok := ctx.Deadline(); ok && time.Until(end) < wait {
		wait = time.Until(end)
		told = wait
	}
	// The gateway is told a little less, so that its answer, which may be definite, comes first.
	return message(op, told-min(told/10, 50*time.Millisecond)), wait
}

func message(op *client.Op, deadline time.Duration) *cachepb.CacheRequest {
	tag := &cachepb.OpTag{
		Session: op.Session, Seq: op.Seq, FirstUnacked: op.FirstUnacked,
		TtlMs: milliseconds(op.TTL), DeadlineMs: milliseconds(deadline),
	}
	switch op.Kind {
	case client.KindPut:
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Put{Put: &cachepb.Put{
			CacheName: op.Cache, Entry: op.Key, Value: slices.Clone(op.Value), Op: tag,
		}}}
	case client.KindInsert:
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{
			CacheName: op.Cache, Entry: op.Key, Value: slices.Clone(op.Value), AckLevel: ackLevel(op.Level), Op: tag,
		}}}
	case client.KindDel:
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Del{Del: &cachepb.Del{CacheName: op.Cache, Entry: op.Key, Op: tag}}}
	case client.KindRemove:
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Remove{Remove: &cachepb.Remove{
			CacheName: op.Cache, Entry: op.Key, AckLevel: ackLevel(op.Level), Op: tag,
		}}}
	default:
		return &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Get{Get: &cachepb.Get{
			CacheName: op.Cache, Entry: op.Key, Read: &cachepb.ReadTag{Mode: op.ReadMode, MaxStalenessMs: milliseconds(op.MaxStaleness)},
		}}}
	}
}

func ackLevel(l client.Level) *cachepb.AckLevel {
	switch l {
	case client.LevelOnce:
		return &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelOnce{LevelOnce: &cachepb.Empty{}}}
	case client.LevelLeader:
		return &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelLeader{LevelLeader: &cachepb.Empty{}}}
	}
	return &cachepb.AckLevel{AckLevel: &cachepb.AckLevel_LevelQuorum{LevelQuorum: &cachepb.Empty{}}}
}

// milliseconds rounds up, so that a tiny but present bound does not become "no bound".
func milliseconds(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(min((d+time.Millisecond-1)/time.Millisecond, math.MaxUint32))
}

// identity is the host:port by which the cluster knows this node.
func (n *Node) identity() string { return n.hosts[n.cfg.Self] }

func (n *Node) refused(kind client.Kind, code cachepb.Code, detail string) *client.OpError {
	return &client.OpError{Kind: kind, Code: code, Detail: detail, Node: n.identity()}
}

// refusal is the outcome of an operation that was not begun.
func (n *Node) refusal(err error) client.Outcome {
	o := client.Outcome{Status: client.StatusFail, Err: err, Node: n.identity(), Returned: time.Now()}
	if e, ok := errors.AsType[*client.OpError](err); ok {
		o.Code, o.Detail = e.Code, e.Detail
	}
	return o
}

// local receives the answer to one operation of this program.
type local struct{ answer chan *cachepb.Ack } // capacity 1

// Deliver implements replication.Responder.
func (l local) Deliver(ack *cachepb.Ack) { l.answer <- ack }

var errStopped = errors.New("the node is stopping")

// locals are the operations of this program in flight: a stop refuses new ones and waits for these.
type locals struct {
	stopping chan struct{} // closed when new ones are refused
	over     chan struct{} // closed when nothing is answered any more

	mu      sync.Mutex
	open    int
	closing bool
	idle    chan struct{} // closed when closing and none is open
}

func newLocals() locals {
	return locals{stopping: make(chan struct{}), over: make(chan struct{}), idle: make(chan struct{})}
}

func (l *locals) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return false
	}
	l.open++
	return true
}

func (l *locals) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open--; l.open == 0 && l.closing {
		close(l.idle)
	}
}

// close refuses new operations from now on.
func (l *locals) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.stopping)
	if l.closing = true; l.open == 0 {
		close(l.idle)
	}
}

// drain waits until none is open.
func (l *locals) drain(ctx context.Context) error {
	select {
	case <-l.idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end lets go of those that are still open.
func (l *locals) end() { close(l.over) }

func (l *locals) gone() bool {
	select {
	case <-l.over:
		return true
	default:
		return false
	}
}

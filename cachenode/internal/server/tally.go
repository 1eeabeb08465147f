package server

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hacache/hacache/proto/cachepb"
)

// class is what operations are told apart by when they are counted: what they do, and how far a write has to get or how
// a read is done.
type class uint8

const (
	classNone class = iota // no operation: pings, management, nonsense
	classGetLocal
	classGetLeaderOnMiss
	classGetLinearizable
	classPut
	classInsertQuorum
	classInsertOnce
	classInsertLeader
	classDel
	classRemoveQuorum
	classRemoveOnce
	classRemoveLeader
	numClasses
)

// classNames are the labels of each class.
var classNames = [numClasses]struct{ kind, level string }{
	classGetLocal:        {"get", "local"},
	classGetLeaderOnMiss: {"get", "leader_on_miss"},
	classGetLinearizable: {"get", "linearizable"},
	classPut:             {"put", "none"},
	classInsertQuorum:    {"insert", "quorum"},
	classInsertOnce:      {"insert", "once"},
	classInsertLeader:    {"insert", "leader"},
	classDel:             {"del", "none"},
	classRemoveQuorum:    {"remove", "quorum"},
	classRemoveOnce:      {"remove", "once"},
	classRemoveLeader:    {"remove", "leader"},
}

func classOf(req *cachepb.CacheRequest) class {
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Get:
		switch m.Get.GetRead().GetMode() {
		case cachepb.ReadTag_LEADER_ON_MISS:
			return classGetLeaderOnMiss
		case cachepb.ReadTag_LINEARIZABLE:
			return classGetLinearizable
		}
		return classGetLocal
	case *cachepb.CacheRequest_Put:
		return classPut
	case *cachepb.CacheRequest_Insert:
		return leveled(classInsertQuorum, m.Insert.GetAckLevel())
	case *cachepb.CacheRequest_Del:
		return classDel
	case *cachepb.CacheRequest_Remove:
		return leveled(classRemoveQuorum, m.Remove.GetAckLevel())
	}
	return classNone
}

// leveled returns the class of a level, given that of quorum, which is also what a missing level means.
func leveled(quorum class, level *cachepb.AckLevel) class {
	switch level.GetAckLevel().(type) {
	case *cachepb.AckLevel_LevelOnce:
		return quorum + 1
	case *cachepb.AckLevel_LevelLeader:
		return quorum + 2
	}
	return quorum
}

// outcomes are the outcomes that are counted, with their place in a tally.
var (
	outcomes     = []cachepb.Code{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, cachepb.Code_INDETERMINATE}
	outcomePlace = func() (place [cachepb.Code_INDETERMINATE + 1]uint8) {
		for i := range place {
			place[i] = uint8(len(outcomes) - 1) // a code that this version does not know says as little as INDETERMINATE
		}
		for i, code := range outcomes {
			place[code] = uint8(i)
		}
		return place
	}()
)

// answerOf reads the outcome of an operation out of its answer. miss: it is a read that found nothing.
func answerOf(ack *cachepb.Ack) (code cachepb.Code, miss bool) {
	switch m := ack.GetMethod().(type) {
	case *cachepb.Ack_GetAck:
		code = m.GetAck.GetOutcome().GetCode()
		return code, code == cachepb.Code_OK && m.GetAck.Value == nil
	case *cachepb.Ack_PutAck:
		return m.PutAck.GetOutcome().GetCode(), false
	case *cachepb.Ack_DelAck:
		return m.DelAck.GetOutcome().GetCode(), false
	case *cachepb.Ack_Error:
		return m.Error.GetOutcome().GetCode(), false
	}
	return cachepb.Code_OK, false
}

// bounds are the upper ends of the latency buckets: local reads take ten microseconds, writes a round trip, and what waits
// for a leader up to its deadline of three seconds.
var bounds = [...]time.Duration{
	10 * time.Microsecond, 25 * time.Microsecond, 50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second,
}

// tally counts the answers of one class.
type tally struct {
	codes   [12]uint64 // as in outcomes
	misses  uint64     // of codes[0]
	untimed uint64     // of codes: local reads of the program, see Program
	buckets [len(bounds)]uint64
	sum     time.Duration
}

// note counts a code.
func (t *tally) note(code cachepb.Code) {
	t.codes[outcomePlace[min(max(code, 0), cachepb.Code_INDETERMINATE)]]++
}

func (t *tally) add(code cachepb.Code, miss bool, took time.Duration) {
	t.note(code)
	if miss {
		t.misses++
	}
	t.sum += took
	for i, bound := range bounds {
		if took <= bound {
			t.buckets[i]++
			return
		}
	}
}

func (t *tally) merge(o *tally) {
	for i, n := range o.codes {
		t.codes[i] += n
	}
	for i, n := range o.buckets {
		t.buckets[i] += n
	}
	t.misses += o.misses
	t.untimed += o.untimed
	t.sum += o.sum
}

// tallies are those of all classes.
type tallies [numClasses]tally

// counter is the tallies of one session. It has a lock of its own: the node's loop, which delivers answers under the
// session's, must not wait for a thousand of them to be counted.
type counter struct {
	mu sync.Mutex
	t  *tallies // nil: nothing was counted. 3 KiB, which most idle streams never need
}

// add counts what was sent at now.
func (c *counter) add(out *answers, now time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, ack := range out.acks {
		m := out.marks[i]
		if m.class == classNone {
			continue
		}
		code, miss := answerOf(ack)
		c.ofLocked(m.class).add(code, miss, now-m.at)
	}
}

func (c *counter) ofLocked(class class) *tally {
	if c.t == nil {
		c.t = new(tallies)
	}
	return &c.t[class]
}

// mergeInto adds the counts to t.
func (c *counter) mergeInto(t *tallies) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.t != nil {
		t.merge(c.t)
	}
}

func (t *tallies) merge(o *tallies) {
	for i := range t {
		t[i].merge(&o[i])
	}
}

var (
	descOps = prometheus.NewDesc("cachenode_operations_total",
		"Operations of clients of this node, and of the program that it runs in, that were answered, by kind, by the level of a write or the mode of a read, and by outcome.",
		[]string{"kind", "level", "code"}, nil)
	descLatency = prometheus.NewDesc("cachenode_operation_duration_seconds",
		"Time from the reading of an operation off its stream to the writing of its answer; a client that does not read its answers adds to it. Local reads of the program that the node runs in are not measured.",
		[]string{"kind", "level"}, nil)
	descGets = prometheus.NewDesc("cachenode_gets_total", "Reads that were answered, by result: a value, none, or a refusal.", []string{"result"}, nil)
)

// collect emits every series, those at zero too: a rate over a series that begins with its first event misses that event.
func (t *tallies) collect(ch chan<- prometheus.Metric) {
	var hits, misses, refused uint64
	for c := classNone + 1; c < numClasses; c++ {
		name, one := classNames[c], &t[c]
		total := uint64(0)
		for i, code := range outcomes {
			ch <- prometheus.MustNewConstMetric(descOps, prometheus.CounterValue, float64(one.codes[i]), name.kind, name.level, code.String())
			total += one.codes[i]
		}
		buckets, below := make(map[float64]uint64, len(bounds)), uint64(0)
		for i, bound := range bounds {
			below += one.buckets[i]
			buckets[bound.Seconds()] = below
		}
		ch <- prometheus.MustNewConstHistogram(descLatency, total-one.untimed, one.sum.Seconds(), buckets, name.kind, name.level)
		if c <= classGetLinearizable {
			hits += one.codes[0] - one.misses
			misses += one.misses
			refused += total - one.codes[0]
		}
	}
	for result, n := range map[string]uint64{"hit": hits, "miss": misses, "refused": refused} {
		ch <- prometheus.MustNewConstMetric(descGets, prometheus.CounterValue, float64(n), result)
	}
}

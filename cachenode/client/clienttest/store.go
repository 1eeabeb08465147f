package clienttest

import (
	"sync"
	"time"

	"github.com/hacache/hacache/proto/cachepb"
)

// Store is the obvious node: a map. It knows levels (each is reached at once),
// time to live by the clock of the process, which a synctest bubble may fake,
// and sessions, so that what is sent twice takes effect once; it tells streams that
// watch what is written and removed, but not what has expired. It has no bounds.
// The zero value is ready, and safe for concurrent use.
type Store struct {
	// Original makes it answer as a node of the original protocol does: Gets
	// without an id, no outcomes.
	Original bool

	mu       sync.Mutex
	entries  map[entryKey]entry
	sessions map[uint64]*session
	feeds    map[*feed]bool
	index    uint64 // of the last write
}

type entryKey struct{ cache, key string }

type entry struct {
	value   []byte
	expires time.Time // zero: never
}

// session is what the store remembers of a client's session.
type session struct {
	first uint64            // lower numbers are not used any more
	done  map[uint64]uint64 // number to index of what has taken effect
	used  time.Time
}

// sessionIdle is after which time without use a node forgets a session.
const sessionIdle = time.Minute

// Set puts an entry there without a client.
func (st *Store) Set(cache, key string, value []byte) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.set(cache, key, value, 0)
}

// Get looks at an entry without a client. The value is not to be changed.
func (st *Store) Get(cache, key string) (value []byte, found bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.get(cache, key)
}

// Writes is how many writes have taken effect.
func (st *Store) Writes() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return int(st.index)
}

// Handle applies the request and answers it at once.
func (st *Store) Handle(s *Stream, req *cachepb.CacheRequest) {
	if ack := st.Apply(req); ack != nil {
		s.Send(ack)
	}
}

// Apply applies the request and returns its answer, nil if it gets none.
func (st *Store) Apply(req *cachepb.CacheRequest) *cachepb.Ack {
	switch m := req.Method.(type) {
	case *cachepb.CacheRequest_Get:
		return st.answerGet(req, m.Get)
	case *cachepb.CacheRequest_MgmtReq:
		return answerMgmt(m.MgmtReq)
	}
	out := st.write(req)
	if st.Original && out.Code == cachepb.Code_OK {
		out = nil
	}
	return Answer(req, out)
}

func (st *Store) answerGet(req *cachepb.CacheRequest, get *cachepb.Get) *cachepb.Ack {
	st.mu.Lock()
	defer st.mu.Unlock()
	ack := Answer(req, nil)
	if value, found := st.get(get.CacheName, get.Entry); found {
		ack.GetGetAck().Value = value
	}
	if st.Original {
		ack.GetGetAck().ReqId = ""
	}
	return ack
}

// write carries a write out, unless its session says that this was done before.
func (st *Store) write(req *cachepb.CacheRequest) *cachepb.Outcome {
	st.mu.Lock()
	defer st.mu.Unlock()
	tag := cachepb.TagOf(req)
	sess, code, done := st.admit(tag)
	if code != cachepb.Code_OK || done != 0 {
		return &cachepb.Outcome{Code: code, Index: done, Term: 1, Cluster: 1}
	}
	ttl := time.Duration(tag.GetTtlMs()) * time.Millisecond
	switch m := req.Method.(type) {
	case *cachepb.CacheRequest_Put:
		st.set(m.Put.CacheName, m.Put.Entry, m.Put.Value, ttl)
	case *cachepb.CacheRequest_Insert:
		st.set(m.Insert.CacheName, m.Insert.Entry, m.Insert.Value, ttl)
	case *cachepb.CacheRequest_Del:
		st.remove(m.Del.CacheName, m.Del.Entry)
	case *cachepb.CacheRequest_Remove:
		st.remove(m.Remove.CacheName, m.Remove.Entry)
	default:
		return &cachepb.Outcome{Code: cachepb.Code_INVALID}
	}
	if sess != nil {
		sess.done[tag.GetSeq()] = st.index
	}
	return &cachepb.Outcome{Index: st.index, Term: 1, Cluster: 1}
}

// admit looks a write up in the table of sessions: it is to be carried out (OK,
// and done 0), was (OK and its index), or is refused.
func (st *Store) admit(tag *cachepb.OpTag) (sess *session, code cachepb.Code, done uint64) {
	id, seq := tag.GetSession(), tag.GetSeq()
	if id == 0 {
		return nil, cachepb.Code_OK, 0
	}
	sess = st.sessions[id]
	if sess == nil || time.Since(sess.used) >= sessionIdle {
		if seq != 1 {
			return nil, cachepb.Code_SESSION_EXPIRED, 0
		}
		sess = &session{done: map[uint64]uint64{}}
		if st.sessions == nil {
			st.sessions = map[uint64]*session{}
		}
		st.sessions[id] = sess
	}
	sess.used = time.Now()
	for first := min(tag.GetFirstUnacked(), seq); sess.first < first; sess.first++ {
		delete(sess.done, sess.first)
	}
	if seq < sess.first {
		return nil, cachepb.Code_INDETERMINATE, 0
	}
	return sess, cachepb.Code_OK, sess.done[seq]
}

func (st *Store) set(cache, key string, value []byte, ttl time.Duration) {
	e := entry{value: append([]byte{}, value...)}
	if ttl > 0 {
		e.expires = time.Now().Add(ttl)
	}
	if st.entries == nil {
		st.entries = map[entryKey]entry{}
	}
	st.entries[entryKey{cache, key}] = e
	st.index++
	st.tell(cache, key, true)
}

func (st *Store) get(cache, key string) (value []byte, found bool) {
	e, found := st.entries[entryKey{cache, key}]
	if !found || !e.expires.IsZero() && !time.Now().Before(e.expires) {
		return nil, false
	}
	return e.value, true
}

func (st *Store) remove(cache, key string) {
	_, found := st.entries[entryKey{cache, key}]
	delete(st.entries, entryKey{cache, key})
	st.index++
	if found {
		st.tell(cache, key, false)
	}
}

func answerMgmt(req *cachepb.MgmtRequest) *cachepb.Ack {
	switch req.Method.(type) {
	case *cachepb.MgmtRequest_Ping:
		return mgmt(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_Pong{Pong: &cachepb.Pong{}}})
	case *cachepb.MgmtRequest_Health:
		return mgmt(&cachepb.MgmtAck{Method: &cachepb.MgmtAck_HealthAck{HealthAck: &cachepb.HealthAck{Quorum: true}}})
	}
	return nil
}

func mgmt(ack *cachepb.MgmtAck) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_MgmtAck{MgmtAck: ack}}
}

package store

import (
	"encoding/binary"
	"maps"
	"slices"
)

// expiry finds the entries whose time is over: a list for each second in which some expire. The links are in the tails
// of the entries, so that an entry costs nothing when it is gone before its time.
type expiry struct {
	buckets map[int64]ref // by second of cluster time: the first entry
	swept   int64         // entries of earlier seconds are gone
}

func (e *expiry) init() { e.buckets = make(map[int64]ref) }

func second(ms int64) int64 { return ms / 1000 }

func (st *state) linkExpiry(r ref, data []byte, m *meta) {
	bucket := second(m.expires(data))
	next := st.expiry.buckets[bucket]
	setLink(data, tailPrev, 0)
	setLink(data, tailNext, next)
	if next != 0 {
		setLink(st.data(next), tailPrev, r)
	}
	st.expiry.buckets[bucket] = r
}

func (st *state) unlinkExpiry(r ref, data []byte, m *meta) {
	prev, next := link(data, tailPrev), link(data, tailNext)
	if next != 0 {
		setLink(st.data(next), tailPrev, prev)
	}
	switch bucket := second(m.expires(data)); {
	case prev != 0:
		setLink(st.data(prev), tailNext, next)
	case next != 0:
		st.expiry.buckets[bucket] = next
	default:
		delete(st.expiry.buckets, bucket)
	}
}

func link(data []byte, at int) ref { return ref(binary.LittleEndian.Uint32(tail(data)[at:])) }

func setLink(data []byte, at int, r ref) { binary.LittleEndian.PutUint32(tail(data)[at:], uint32(r)) }

// sweep removes what has expired in seconds before that of the cluster time.
func (st *state) sweep() {
	e := &st.expiry
	now := second(st.clusterMs)
	if now <= e.swept {
		return
	}
	if now-e.swept <= int64(len(e.buckets)) {
		for s := e.swept; s < now; s++ {
			st.sweepSecond(s)
		}
	} else {
		for _, s := range slices.Collect(maps.Keys(e.buckets)) {
			if s < now {
				st.sweepSecond(s)
			}
		}
	}
	e.swept = now
}

func (st *state) sweepSecond(s int64) {
	byID := st.catalog.Load().byID
	for r := st.expiry.buckets[s]; r != 0; r = st.expiry.buckets[s] {
		c := byID[st.meta(r).cache]
		c.expirations.Add(1)
		st.remove(c, r, Expired)
	}
}

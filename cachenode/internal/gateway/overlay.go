package gateway

import (
	"sync"
	"sync/atomic"
)

// overlay holds what was acknowledged here and is not applied here yet, so that a client reads its own writes at its
// gateway. Readers on other goroutines look it up before the store.
type overlay struct {
	count atomic.Int64 // entries; most of the time 0, which saves readers the lock
	mu    sync.RWMutex
	m     map[overlayKey]overlayEntry
	bytes int
}

type overlayKey struct{ cache, key string }

type overlayEntry struct {
	n       uint64 // the operation that put it here
	value   []byte
	deleted bool
}

func (v *overlay) put(o *op) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.m == nil {
		v.m = make(map[overlayKey]overlayEntry)
	}
	k := overlayKey{o.cache, o.key}
	if old, ok := v.m[k]; ok {
		if old.n > o.n {
			return // acknowledged before this one was: a level answer that came late
		}
		v.bytes -= old.size(k)
	} else {
		v.count.Add(1)
	}
	e := overlayEntry{n: o.n, value: o.value, deleted: o.kind.deletes()}
	if e.value == nil {
		e.value = []byte{} // an empty value is not a miss
	}
	v.m[k] = e
	v.bytes += e.size(k)
	o.overlaid = true
}

func (e overlayEntry) size(k overlayKey) int { return len(k.cache) + len(k.key) + len(e.value) + 96 }

// drop removes what o put here, unless a later operation has replaced it.
func (v *overlay) drop(o *op) {
	if !o.overlaid {
		return
	}
	o.overlaid = false
	v.mu.Lock()
	defer v.mu.Unlock()
	k := overlayKey{o.cache, o.key}
	if e, ok := v.m[k]; ok && e.n == o.n {
		delete(v.m, k)
		v.count.Add(-1)
		v.bytes -= e.size(k)
	}
}

// dropOlder removes what an operation before o put under o's key: o is applied, so the older word is out of date.
func (v *overlay) dropOlder(o *op) {
	if v.count.Load() == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	k := overlayKey{o.cache, o.key}
	if e, ok := v.m[k]; ok && e.n < o.n {
		delete(v.m, k)
		v.count.Add(-1)
		v.bytes -= e.size(k)
	}
}

// get returns the overlay's word on a key. known is false if it has none.
func (v *overlay) get(cache, key string) (value []byte, deleted, known bool) {
	if v.count.Load() == 0 {
		return nil, false, false
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	e, ok := v.m[overlayKey{cache, key}]
	return e.value, e.deleted, ok
}

func (v *overlay) clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.m, v.bytes = nil, 0
	v.count.Store(0)
}

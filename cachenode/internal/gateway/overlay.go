package gateway

import (
	"sync"
	"sync/atomic"
)

// overlay holds what was acknowledged here and is not applied here yet, so that a client reads its own writes at its
// gateway. Readers on other goroutines look it up before the store.
//
// The newest word on a key is what is read. The older ones are kept beneath it: an operation that was acknowledged at
// leader or once may be lost with its leader, and then what counts is the Put before it, which is still on its way.
type overlay struct {
	count atomic.Int64 // keys; most of the time 0, which saves readers the lock
	mu    sync.RWMutex
	m     map[overlayKey]words
	bytes int
}

type overlayKey struct{ cache, key string }

// words are those on one key, in the order of their operations.
type words struct{ newest, oldest *word }

// word is what one operation says about its key.
type word struct {
	o            *op
	value        []byte // not nil
	deleted      bool
	newer, older *word
}

const wordOverhead = 96

func (w *word) size() int { return len(w.o.cache) + len(w.o.key) + len(w.value) + wordOverhead }

// put adds the word of an operation that was acknowledged.
func (v *overlay) put(o *op) {
	if o.word != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.m == nil {
		v.m = make(map[overlayKey]words)
	}
	w := &word{o: o, value: notNil(o.value), deleted: o.kind.deletes()}
	k := overlayKey{o.cache, o.key}
	ws, ok := v.m[k]
	if !ok {
		v.count.Add(1)
	}
	w.older = ws.newest
	for w.older != nil && w.older.o.n > o.n { // acknowledged before this one was, which is rare
		w.newer, w.older = w.older, w.older.older
	}
	if w.newer != nil {
		w.newer.older = w
	} else {
		ws.newest = w
	}
	if w.older != nil {
		w.older.newer = w
	} else {
		ws.oldest = w
	}
	o.word, v.m[k] = w, ws
	v.bytes += w.size()
}

// drop removes the word of an operation, if it has one.
func (v *overlay) drop(o *op) {
	if o.word == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.remove(o.word)
}

// dropOlder removes the words of operations before o on o's key: o is applied, so they are out of date.
func (v *overlay) dropOlder(o *op) {
	if v.count.Load() == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	k := overlayKey{o.cache, o.key}
	for w := v.m[k].oldest; w != nil && w.o.n < o.n; w = v.m[k].oldest {
		v.remove(w)
	}
}

// remove takes a word out. mu is held.
func (v *overlay) remove(w *word) {
	k := overlayKey{w.o.cache, w.o.key}
	ws := v.m[k]
	if w.newer != nil {
		w.newer.older = w.older
	} else {
		ws.newest = w.older
	}
	if w.older != nil {
		w.older.newer = w.newer
	} else {
		ws.oldest = w.newer
	}
	if ws.newest == nil {
		delete(v.m, k)
		v.count.Add(-1)
	} else {
		v.m[k] = ws
	}
	v.bytes -= w.size()
	w.o.word = nil
}

// get returns the newest word on a key. known is false if there is none.
func (v *overlay) get(cache, key string) (value []byte, deleted, known bool) {
	if v.count.Load() == 0 {
		return nil, false, false
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	w := v.m[overlayKey{cache, key}].newest
	if w == nil {
		return nil, false, false
	}
	return w.value, w.deleted, true
}

// clear removes all words.
func (v *overlay) clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, ws := range v.m {
		for w := ws.newest; w != nil; w = w.older {
			w.o.word = nil
		}
	}
	v.m, v.bytes = nil, 0
	v.count.Store(0)
}

package store

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// watcher applies changes to sets of keys, and minds what cannot be: an entry that goes without having been there.
type watcher struct {
	t    interface{ Fatalf(string, ...any) }
	keys map[string]map[string]bool
	told map[Effect]int
}

// newWatcher begins with the keys that s has now.
func newWatcher(t interface{ Fatalf(string, ...any) }, s *Store) *watcher {
	w := &watcher{t: t, keys: keysOf(s), told: map[Effect]int{}}
	s.Observe(w.change)
	return w
}

func (w *watcher) change(c Change) {
	w.told[c.Effect]++
	keys := w.keys[c.Cache]
	if keys == nil {
		keys = map[string]bool{}
		w.keys[c.Cache] = keys
	}
	if c.Effect == Written {
		keys[strings.Clone(c.Key)] = true
		return
	}
	if !keys[c.Key] {
		w.t.Fatalf("%s/%q went (%d) and was not there", c.Cache, c.Key, c.Effect)
	}
	delete(keys, c.Key)
}

// check compares the sets with what s has.
func (w *watcher) check(s *Store, when string) {
	got := maps.Clone(w.keys)
	maps.DeleteFunc(got, func(_ string, keys map[string]bool) bool { return len(keys) == 0 })
	if diff := cmp.Diff(keysOf(s), got); diff != "" {
		w.t.Fatalf("%s (-store +changes):\n%s", when, diff)
	}
}

// keysOf is what a watcher should have: caches without entries left out.
func keysOf(s *Store) map[string]map[string]bool {
	all := map[string]map[string]bool{}
	for cache, entries := range dump(s) {
		for key := range entries {
			if all[cache] == nil {
				all[cache] = map[string]bool{}
			}
			all[cache][key] = true
		}
	}
	return all
}

// watchedConfig has a cache of each kind of policy.
func watchedConfig() Config {
	cfg := Config{Caches: maps.Clone(testConfig.Caches)}
	cfg.Caches["both"] = Policy{MaxEntries: 4, TTL: 2500 * time.Millisecond, Evict: LRU}
	return cfg
}

// The changes that are told make up exactly the keys of the store after each batch, whatever the policies; each write
// that took effect is told once, and what a duplicate or a refused operation did not change is not told.
func TestChanges(t *testing.T) {
	total := map[Effect]int{}
	rapid.Check(t, func(t *rapid.T) {
		s, g := newStore(watchedConfig(), smallLimits), newLogGen()
		w := newWatcher(t, s)
		for i := range rapid.IntRange(1, 40).Draw(t, "batches") {
			b := g.batch(t)
			written, before := 0, w.told[Written]
			s.Apply(uint64(i+1), b, func(i int, r Result) {
				if _, _, _, write, _ := operands(b.Ops[i]); write && !r.Duplicate && r.Index != 0 {
					written++
				}
			})
			if got := w.told[Written] - before; got != written {
				t.Fatalf("batch %d wrote %d times, %d were told", i+1, written, got)
			}
			w.check(s, fmt.Sprint("after batch ", i+1))
		}
		expired, evicted := uint64(0), uint64(0)
		for _, c := range s.Stats().Caches {
			expired, evicted = expired+c.Expirations, evicted+c.Evictions
		}
		if uint64(w.told[Expired]) != expired || uint64(w.told[Evicted]) != evicted {
			t.Fatalf("told %v, the store counts %d expired and %d evicted", w.told, expired, evicted)
		}
		for effect, n := range w.told {
			total[effect] += n
		}
		s.Observe(nil)
		n := len(w.told)
		s.Apply(s.Applied()+1, g.batch(t), nil)
		if len(w.told) != n {
			t.Fatalf("told although nobody asks")
		}
	})
	for _, effect := range []Effect{Written, Removed, Expired, Evicted} {
		if total[effect] == 0 {
			t.Errorf("effect %d never happened: the test shows nothing about it", effect)
		}
	}
}

// A store that was restored tells nothing before its state is complete, and from then on everything: whoever takes the
// keys at CompleteAt and applies the changes after it has the store's keys.
func TestChangesAfterRestore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newLogGen()
		sender := newStore(watchedConfig(), smallLimits)
		var log []func(*Store)
		applySender := func() {
			b, index := g.batch(t), uint64(len(log)+1)
			log = append(log, func(s *Store) { s.Apply(index, b, nil) })
			log[index-1](sender)
		}
		for range rapid.IntRange(0, 20).Draw(t, "batches before") {
			applySender()
		}
		n := join(t, sender, Config{}, applySender, "node")
		early := 0
		n.Observe(func(Change) { early++ })
		for n.Applied() < n.CompleteAt() {
			log[n.Applied()](n)
		}
		if early != 0 {
			t.Fatalf("%d changes were told before the state was complete", early)
		}
		w := newWatcher(t, n)
		for range rapid.IntRange(1, 20).Draw(t, "batches after") {
			applySender()
		}
		for n.Applied() < uint64(len(log)) {
			log[n.Applied()](n)
			w.check(n, fmt.Sprint("after batch ", n.Applied()))
		}
	})
}

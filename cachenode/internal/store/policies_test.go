package store

import (
	"testing"
	"time"

	"github.com/hacache/hacache/proto/cachepb"
)

// Configurations have equal hashes exactly if replicas evict and expire alike by them; a restored state has those of the
// cluster it comes from.
func TestPoliciesHash(t *testing.T) {
	base := func() *Config {
		return &Config{Default: Policy{TTL: time.Minute}, Caches: map[string]Policy{"a": {MaxEntries: 3}, "b": {MaxBytes: 5, Evict: LRU}}}
	}
	change := func(f func(*Config)) *Config { c := base(); f(c); return c }
	same := map[string]*Config{
		"the same":                       base(),
		"a cache with the default named": change(func(c *Config) { c.Caches["c"] = c.Default }),
		"what is checked at the door":    change(func(c *Config) { c.Strict, c.MaxBytes, c.MaxValueBytes = true, 9, 9 }),
	}
	differ := map[string]*Config{
		"default":         change(func(c *Config) { c.Default.TTL = time.Hour }),
		"entries":         change(func(c *Config) { c.Caches["a"] = Policy{MaxEntries: 4} }),
		"which bound":     change(func(c *Config) { c.Caches["a"] = Policy{MaxBytes: 3} }),
		"eviction":        change(func(c *Config) { c.Caches["b"] = Policy{MaxBytes: 5} }),
		"name":            change(func(c *Config) { c.Caches["d"] = c.Caches["a"]; delete(c.Caches, "a") }),
		"one less":        change(func(c *Config) { delete(c.Caches, "a") }),
		"nothing at all":  {},
		"swapped":         change(func(c *Config) { c.Caches["a"], c.Caches["b"] = c.Caches["b"], c.Caches["a"] }),
		"default of a":    change(func(c *Config) { c.Caches["a"] = Policy{MaxEntries: 3, TTL: time.Minute} }),
		"zero is a value": change(func(c *Config) { c.Caches["a"] = Policy{} }),
	}
	want := base().Policies()
	for name, c := range same {
		if c.Policies() != want {
			t.Errorf("%s: another hash", name)
		}
	}
	seen := map[uint64]string{want: "base"}
	for name, c := range differ {
		if other, ok := seen[c.Policies()]; ok {
			t.Errorf("%s: the hash of %s", name, other)
		}
		seen[c.Policies()] = name
	}

	from, to := New(*base()), New(Config{})
	if from.Policies() != want || to.Policies() == want {
		t.Fatal("a new store has not the policies it was given")
	}
	from.Apply(1, &cachepb.Batch{}, nil)
	w, r := from.BeginSnapshot(), to.BeginRestore(1)
	for done := false; !done; {
		var chunk []byte
		chunk, done = w.Next(1 << 20)
		if err := r.Add(chunk); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Finish(); err != nil {
		t.Fatal(err)
	}
	if to.Policies() != want {
		t.Error("a restored state has not the policies of the cluster")
	}
	to.Reset()
	if to.Policies() == want {
		t.Error("an empty node has not its own policies")
	}
}

package store

import (
	"math"
	"testing"
)

// TestLargestPolicies: what a configuration may say, a snapshot must be able to carry.
func TestLargestPolicies(t *testing.T) {
	for _, p := range []Policy{{MaxEntries: math.MaxInt64}, {MaxBytes: math.MaxInt64}} {
		s, to := New(Config{Caches: map[string]Policy{"users": p}}), New(Config{})
		w, r := s.BeginSnapshot(), to.BeginRestore(0)
		for done := false; !done; {
			var chunk []byte
			chunk, done = w.Next(1 << 20)
			if err := r.Add(chunk); err != nil {
				t.Fatalf("%+v: %v", p, err)
			}
		}
	}
}

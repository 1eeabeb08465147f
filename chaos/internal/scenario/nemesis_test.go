package scenario

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const nemesisFile = `version: 1
name: n
about: Whatever the seed draws.
cluster: {nodes: %d, proxies: %t}
load: {w: {schedule: {constant: 10/s}, duration: 15m, op: insert}}
nemesis: {every: 8s%s}
checks: {lost_writes: true, recovery: 5s}
`

// TestNemesis proves, for clusters of every kind and many seeds, that what a
// nemesis draws is valid (it is read like a file), the same for the same seed
// and not for another one, that each kind comes sooner or later, that at any
// moment at most one fault breaks nodes, and that each leaves the next its time.
func TestNemesis(t *testing.T) {
	for _, c := range []struct {
		nodes   int
		proxies bool
		more    string
	}{{1, true, ""}, {3, true, ""}, {3, false, ""}, {5, true, ""}, {5, true, ", actions: [kill, ring, clock, failpoint, latency]"}, {3, true, ", actions: [reset]"}} {
		t.Run(fmt.Sprintf("%d nodes, %t%s", c.nodes, c.proxies, c.more), func(t *testing.T) {
			s, err := Parse("n.yaml", fmt.Appendf(nil, nemesisFile, c.nodes, c.proxies, c.more))
			if err != nil {
				t.Fatal(err)
			}
			drawn := map[string]int{}
			var before *Plan
			for seed := range uint64(20) {
				p := NewPlan(s, seed)
				if d := cmp.Diff(NewPlan(s, seed), p); d != "" {
					t.Fatalf("seed %d is not the same twice:\n%s", seed, d)
				}
				if before != nil && cmp.Equal(before.Injections, p.Injections) {
					t.Errorf("seeds %d and %d draw the same", seed-1, seed)
				}
				before = p
				free := time.Duration(0)
				for _, in := range p.Injections {
					drawn[in.Fault.Action]++
					if !in.Nemesis || in.Heal > p.Length {
						t.Fatalf("seed %d: %+v", seed, in)
					}
					if in.Series != nemesisSeries {
						continue
					}
					if in.At < free || in.Room <= 0 || in.Heal-in.At > s.Nemesis.Every.D()/2 {
						t.Fatalf("seed %d: %s from %v to %v, the one before ended at %v", seed, in.Name, in.At, in.Heal, free)
					}
					free = in.Heal
				}
			}
			want := slices.Sorted(slices.Values(slices.Concat(s.Nemesis.drawable(&s.Cluster, false), s.Nemesis.drawable(&s.Cluster, true))))
			if d := cmp.Diff(want, slices.Sorted(maps.Keys(drawn))); d != "" {
				t.Errorf("what may be drawn and what was:\n%s", d)
			}
		})
	}
}

// TestNemesis_mistakes proves that a nemesis that cannot be is an error with its
// place.
func TestNemesis_mistakes(t *testing.T) {
	for more, want := range map[string]string{
		", actions: [kil]":     `n.yaml:6:32: nemesis.actions[0]: unknown action "kil" (did you mean "kill"?)`,
		", actions: [members]": "n.yaml:6:32: nemesis.actions[0]: members is not for a nemesis",
		", actions: [ring]":    "n.yaml:6:32: nemesis.actions[0]: ring needs 5 nodes at least, and proxies",
		", at: 900s":           "n.yaml:6:18: nemesis.every: 8s: the load of 15m0s ends before the first one has healed",
		", evry: 9s":           `nemesis: unknown field "evry"`,
	} {
		if _, err := Parse("n.yaml", fmt.Appendf(nil, nemesisFile, 3, true, more)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", more, err, want)
		}
	}
	if _, err := Parse("n.yaml", []byte(strings.ReplaceAll(fmt.Sprintf(nemesisFile, 3, true, ""), "every: 8s", "every: 1s"))); err == nil || !strings.Contains(err.Error(), "1s; expected 4s to 5m0s") {
		t.Errorf("every 1s: %v", err)
	}
}

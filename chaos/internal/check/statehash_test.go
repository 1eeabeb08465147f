package check

import (
	"strings"
	"testing"

	"github.com/hacache/hacache/reports/result"
)

// TestStateHash proves that only copies of one index are compared, and that a
// run in which nothing could differ is no pass.
func TestStateHash(t *testing.T) {
	digest := func(node string, applied, hash uint64) Digest {
		return Digest{Node: node, Applied: applied, Hash: hash}
	}
	for name, c := range map[string]struct {
		states  []Digest
		err     string
		forgets map[string]Cache
		evicted uint64
		verdict result.Verdict
		detail  string
	}{
		"equal":                         {states: []Digest{digest("n1", 9, 7), digest("n2", 9, 7)}, verdict: result.Pass, detail: "the same on 2 nodes at index 9"},
		"one differs":                   {states: []Digest{digest("n1", 9, 7), digest("n2", 9, 8), digest("n3", 9, 7)}, verdict: result.Violated, detail: "at index 9: n1, n3 00000000000007; n2 00000000000008"},
		"one is behind":                 {states: []Digest{digest("n1", 9, 7), digest("n2", 8, 5)}, err: "n1 has applied 9, n2 8", verdict: result.Unknown, detail: "n1 has applied 9"},
		"one is behind, another differ": {states: []Digest{digest("n1", 9, 7), digest("n2", 8, 5), digest("n3", 9, 6)}, err: "n1 has applied 9, n2 8", verdict: result.Violated, detail: "n1 0"},
		"one did not answer":            {states: []Digest{digest("n1", 9, 7)}, err: "n2 does not say", verdict: result.Unknown, detail: "n2 does not say"},
		"nobody was asked":              {verdict: result.Unknown, detail: "the run ended before"},
		"evicted alike":                 {states: []Digest{digest("n1", 9, 7), digest("n2", 9, 7)}, forgets: map[string]Cache{"b": {Bounded: true}}, evicted: 5, verdict: result.Pass, detail: "b: 5 evicted, 0 expired"},
		"nothing was evicted":           {states: []Digest{digest("n1", 9, 7), digest("n2", 9, 7)}, forgets: map[string]Cache{"b": {Bounded: true}}, verdict: result.NotExercised, detail: "nothing was evicted"},
		"evicted otherwise":             {states: []Digest{digest("n1", 9, 7), digest("n2", 9, 8)}, forgets: map[string]Cache{"b": {Bounded: true}}, verdict: result.Violated, detail: "differ at index 9"},
	} {
		in := evidence(t, "")
		in.Facts.States, in.Facts.StateError, in.Caches, in.Facts.Evicted = c.states, c.err, c.forgets, map[string]uint64{"b": c.evicted}
		v := new(Verdicts)
		v.stateHash(in)
		if got := v.Checks[0]; got.Verdict != c.verdict || !strings.Contains(got.Detail, c.detail) {
			t.Errorf("%s: %s, %s; want %s, %s", name, got.Verdict, got.Detail, c.verdict, c.detail)
		}
	}
}

// TestForgetting proves that nothing is missed in a cache that may forget, that
// a value which should not be there is found all the same, and that a cache
// which forgets without leave makes the run void.
func TestForgetting(t *testing.T) {
	for name, c := range map[string]struct {
		history string
		check   string
		verdict result.Verdict
	}{
		"gone at the end":            {"insert a=1 quorum 10..20 ok @5\nfinal a=-", "lost writes", result.NotExercised},
		"gone on one node":           {"insert a=1 quorum 10..20 ok @5\nfinal a=- n1\nfinal a=1 n2,n3", "lost writes", result.NotExercised},
		"gone when read":             {"insert a=1 quorum 10..20 ok @5\nget a=- n1 900..901 @9", "stale reads", result.Pass},
		"gone where it was written":  {"insert a=1 quorum 10..20 ok @5\nget a=- n1 21..22 @9", "log order", result.Pass},
		"an old value":               {"insert a=1 quorum 10..20 ok @5\ninsert a=2 quorum 30..40 ok @6\nget a=1 n1 900..901 @9", "stale reads", result.Violated},
		"an old value, by the log":   {"insert a=1 quorum 10..20 ok @5\ninsert a=2 quorum 30..40 ok @6\nget a=1 n1 60..61 @9", "log order", result.Violated},
		"an old value at the end":    {"insert a=1 quorum 10..20 ok @5\ninsert a=2 quorum 30..40 ok @6\nfinal a=1", "lost writes", result.Violated},
		"two values at the end":      {"insert a=1 quorum 10..40 ok\ninsert a=2 quorum 10..40 ok\nfinal a=1 n1\nfinal a=2 n2,n3", "lost writes", result.Violated},
		"a removed value at the end": {"insert a=1 quorum 10..20 ok @5\nremove a quorum 30..40 ok @6\nfinal a=1", "resurrection", result.Violated},
		"a removed value":            {"insert a=1 quorum 10..20 ok @5\nremove a quorum 30..40 ok @6\nget a=1 n1 900..901", "resurrection", result.Violated},
	} {
		in := evidence(t, c.history)
		in.Caches, in.Facts.Evicted = map[string]Cache{"c": {Bounded: true}}, map[string]uint64{"c": 1}
		if got := find(t, All(in), c.check); got.Verdict != c.verdict {
			t.Errorf("%s: %s, want %s: %s", name, got.Verdict, c.verdict, got.Detail)
		}
	}
	in := evidence(t, "insert a=1 quorum 10..20 ok\nfinal a=-")
	in.Caches = map[string]Cache{"c": {Bounded: true}}
	if got := find(t, All(in), "lost writes"); got.Verdict != result.Violated {
		t.Errorf("gone from a cache that had room: %s, %s", got.Verdict, got.Detail)
	}
}

// TestForgetting_void proves that a run says nothing about losses if something
// was evicted where nothing should be, or everywhere.
func TestForgetting_void(t *testing.T) {
	for want, spoil := range map[string]func(in *Input){
		"3 entries of cache c were evicted, and it has no bound": func(in *Input) { in.Facts.Evicted = map[string]uint64{"c": 3, "d": 0} },
		"3 entries of cache c expired, and they have no end": func(in *Input) {
			in.Facts.Expired, in.Caches = map[string]uint64{"c": 3, "d": 1}, map[string]Cache{"c": {Bounded: true}, "d": {Expiring: true}}
		},
		"every cache of the load evicted entries or let them expire: what is missing cannot be told from what was lost": func(in *Input) {
			in.Facts.Evicted, in.Caches, in.Written = map[string]uint64{"c": 3}, map[string]Cache{"c": {Bounded: true}}, []string{"c"}
		},
	} {
		in := evidence(t, "")
		spoil(in)
		if got := find(t, All(in), "run validity"); got.Verdict != result.Unknown || got.Detail != want {
			t.Errorf("%s, %s; want %s", got.Verdict, got.Detail, want)
		}
	}
}

package check

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

func linearizable(in *Input) (*Verdicts, result.Check) {
	v := new(Verdicts)
	v.linearizable(in, faultWindows(in.Events, in.end()))
	return v, v.Checks[len(v.Checks)-1]
}

// padding is a register with enough reads for a run to say something.
func padding() string {
	text := "register insert pad=900000 quorum 1..2 ok p1\n"
	for i := range minimum {
		text += fmt.Sprintf("register get pad=900000 n1 %d..%d p1\n", 10+i, 10+i)
	}
	return text
}

// TestLinearizable goes through histories made by hand: right ones, wrong ones,
// and those in which the end of an operation decides.
func TestLinearizable(t *testing.T) {
	for _, c := range []struct {
		name, history string
		verdict       result.Verdict
		why           string
	}{
		{name: "one after the other", verdict: result.Pass, history: `
			register insert a=1 quorum 10..20 ok
			register get a=1 n2 30..40
			register insert a=2 quorum 50..60 ok
			register get a=2 n3 70..80`},
		{name: "a read that overlaps a write sees either", verdict: result.Pass, history: `
			register insert a=1 quorum 10..20 ok
			register insert a=2 quorum 30..60 ok
			register get a=1 n2 35..40
			register get a=2 n3 45..50`},
		{name: "nothing, before the first write has returned", verdict: result.Pass, history: `
			register insert a=1 quorum 10..30 ok
			register get a=- n2 20..25`},
		{name: "nothing, after a write has returned", verdict: result.Violated, why: "write of version 1", history: `
			register insert a=1 quorum 10..20 ok
			register get a=- n2 30..40`},
		{name: "the old value, after the new one was written", verdict: result.Violated, why: "read of version 1 on n2", history: `
			register insert a=1 quorum 10..20 ok
			register insert a=2 quorum 30..40 ok
			register get a=1 n2 50..60`},
		{name: "the new value and then the old one, both while it is written", verdict: result.Violated, why: "version 2", history: `
			register insert a=1 quorum 10..20 ok
			register insert a=2 quorum 30..90 ok
			register get a=2 n2 40..50
			register get a=1 n3 60..70`},
		{name: "two writes at once, seen in two orders", verdict: result.Violated, why: "version", history: `
			register insert a=1 quorum 10..90 ok
			register insert a=2 quorum 10..90 ok
			register get a=1 n1 20..30
			register get a=2 n2 40..50
			register get a=1 n3 60..70`},
		{name: "a value before it was sent", verdict: result.Violated, why: "not written before", history: `
			register get a=1 n2 5..8
			register insert a=1 quorum 10..20 ok`},
		{name: "a value that nobody wrote", verdict: result.Violated, why: "not written before", history: `
			register insert a=1 quorum 10..20 ok
			register get a=? n2 30..40`},
		{name: "a read that begins when the write returns overlaps it", verdict: result.Pass, history: `
			register insert a=1 quorum 10..20 ok
			register get a=- n2 20..30`},

		{name: "a failed write that nobody saw", verdict: result.Pass, history: `
			register insert a=1 quorum 10..20 ok
			register insert a=2 quorum 30..40 fail
			register get a=1 n2 50..60`},
		{name: "a failed write that somebody saw", verdict: result.Violated, why: "version 2", history: `
			register insert a=1 quorum 10..20 ok
			register insert a=2 quorum 30..40 fail
			register get a=2 n2 50..60`},
		{name: "a write without an answer that nobody saw", verdict: result.Pass, history: `
			register insert a=1 quorum 10..20 ok
			register insert a=2 quorum 30..40 info
			register get a=1 n2 50..60`},
		{name: "a write without an answer that took effect late", verdict: result.Pass, history: `
			register insert a=1 quorum 10..20 ok
			register insert a=2 quorum 30..40 info
			register get a=1 n2 50..60
			register get a=2 n2 70..80`},
		{name: "one that was seen and then not any more", verdict: result.Violated, why: "version", history: `
			register insert a=1 quorum 10..20 ok
			register insert a=2 quorum 30..40 info
			register get a=2 n2 50..60
			register get a=1 n2 70..80`},
		{name: "a read without an answer says nothing", verdict: result.Pass, history: `
			register insert a=1 quorum 10..20 ok
			register get a=1 n2 30..40`},

		{name: "removed", verdict: result.Pass, history: `
			register insert a=1 quorum 10..20 ok
			register remove a quorum 30..40 ok
			register get a=- n2 50..60
			register insert a=2 quorum 70..80 ok
			register get a=2 n2 90..95`},
		{name: "back after it was removed", verdict: result.Violated, why: "no order", history: `
			register insert a=1 quorum 10..20 ok
			register remove a quorum 30..40 ok
			register get a=1 n2 50..60`},
		{name: "removed without an answer, late", verdict: result.Pass, history: `
			register insert a=1 quorum 10..20 ok
			register remove a quorum 30..40 info
			register get a=1 n2 50..60
			register get a=- n2 70..80`},
		{name: "removed without an answer, and back", verdict: result.Violated, why: "no order", history: `
			register insert a=1 quorum 10..20 ok
			register remove a quorum 30..40 info
			register get a=- n2 50..60
			register get a=1 n2 70..80`},
		{name: "gone without a remove that could have done it", verdict: result.Violated, why: "no order", history: `
			register remove a quorum 1..5 ok
			register insert a=1 quorum 10..20 ok
			register get a=- n2 50..60`},

		{name: "gone after a legal reset", verdict: result.Pass, history: `
			observe n1 leader 2 5
			register insert a=1 quorum 10..20 ok
			fault k1 kill n1 100..1000
			fault k2 kill n2 200..1000
			observe n1 leader 2 1500 cluster B
			register get a=- n2 1600..1601`},
		{name: "gone on a key that began after the reset", verdict: result.Violated, why: "version 1", history: `
			observe n1 leader 2 5
			fault k1 kill n1 100..1000
			fault k2 kill n2 200..1000
			observe n1 leader 2 1500 cluster B
			register insert a=1 quorum 1700..1710 ok
			register get a=- n2 1800..1801`},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, got := linearizable(evidence(t, padding()+c.history))
			if got.Verdict != c.verdict {
				t.Errorf("verdict %s, want %s: %s %q", got.Verdict, c.verdict, got.Detail, got.Examples)
			}
			if c.why != "" && (len(got.Examples) != 1 || !strings.Contains(got.Examples[0], c.why)) {
				t.Errorf("examples %q, want one that says %q", got.Examples, c.why)
			}
			if (v.Picture != nil) != (c.verdict == result.Violated) {
				t.Errorf("a picture of %d bytes with verdict %s", len(v.Picture), c.verdict)
			}
		})
	}
}

// TestLinearizable_notEnough proves that keys which hardly anybody read, keys
// that cannot be searched, and a run without any are no pass.
func TestLinearizable_notEnough(t *testing.T) {
	if _, got := linearizable(evidence(t, "insert a=1 quorum 1..2 ok")); got.Verdict != result.NotExercised {
		t.Errorf("no key: %s", got.Verdict)
	}
	if _, got := linearizable(evidence(t, "register insert a=1 quorum 1..2 ok\nregister get a=1 n1 3..4")); got.Verdict != result.NotExercised {
		t.Errorf("one read: %s", got.Verdict)
	}
	text := padding() + "register remove a quorum 1..2 ok\n"
	for i := range MaxRegisterProcs {
		text += fmt.Sprintf("register get a=- n1 %d..%d\n", 3+i, 4+i)
	}
	if _, got := linearizable(evidence(t, text)); got.Verdict != result.Unknown || !strings.Contains(got.Detail, "11 processes are too many") {
		t.Errorf("11 processes: %s, %s", got.Verdict, got.Detail)
	}
}

// TestLinearizable_picture proves that the picture shows what happened around
// the operations, and only that.
func TestLinearizable_picture(t *testing.T) {
	v, _ := linearizable(evidence(t, `
		observe n1 leader 2 5
		observe n2 leader 3 45
		observe n3 leader 9 99000
		fault early pause n3 1..5
		fault cut isolate n1 35..80
		register insert a=1 quorum 10..20 ok
		register insert a=2 quorum 30..40 ok
		register get a=1 n2 50..60`))
	for want, times := range map[string]int{"insert 2": 1, `"n1, term 2"`: 1, `"n2, term 3"`: 1, `"n3, term 9"`: 0, `"cut"`: 1, `"early"`: 0} {
		if n := bytes.Count(v.Picture, []byte(want)); n != times {
			t.Errorf("%s is there %d times, want %d", want, n, times)
		}
	}
}

// randomAccesses returns a register history of several processes that is
// linearizable by construction: each operation takes effect at a moment between
// its call and its return.
func randomAccesses(rng *rand.Rand, procs, each int, long int64) []access {
	type op struct {
		access
		at int64
	}
	var ops []op
	for p := range procs {
		t := rng.Int64N(long)
		for range each {
			call := t + rng.Int64N(long)
			length := 1 + rng.Int64N(long)
			at := call + rng.Int64N(length+1)
			t = call + length
			ops = append(ops, op{access{write: rng.IntN(2) == 0, call: time.Duration(call), ret: time.Duration(t), proc: int64(p), node: "n1"}, at})
		}
	}
	slices.SortStableFunc(ops, func(a, b op) int { return cmp.Compare(a.at, b.at) })
	state, next := int64(0), int64(0)
	var out []access
	for _, o := range ops {
		if o.write {
			next++
			state = next
		}
		o.value = state
		out = append(out, o.access)
	}
	return out
}

func search(accesses []access) porcupine.CheckResult {
	r := register{accesses: accesses}
	return porcupine.CheckOperationsTimeout(registerModel, r.operations(), 0)
}

// TestZones_agree compares the zone test with porcupine on 10 000 small
// histories whose reads were drawn at random, with times that often coincide:
// about as many are linearizable as are not.
func TestZones_agree(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	linear := 0
	const histories = 10_000
	for i := range histories {
		accesses := randomAccesses(rng, 1+rng.IntN(4), 1+rng.IntN(3), 1+rng.Int64N(8))
		writes := int64(0)
		for _, a := range accesses {
			if a.write {
				writes++
			}
		}
		for j := range accesses {
			if a := &accesses[j]; !a.write && rng.IntN(3) == 0 {
				a.value = rng.Int64N(writes + 1)
			}
		}
		zones, found := outOfOrder(accesses), search(accesses)
		if (zones == nil) != (found == porcupine.Ok) {
			t.Fatalf("history %d: the zone test says %v, porcupine %s:\n%v", i, zones, found, accesses)
		}
		if zones == nil {
			linear++
		}
	}
	if linear < histories/5 || linear > histories*4/5 {
		t.Errorf("%d of %d histories are linearizable: they decide too little", linear, histories)
	}
}

// TestRegister_unknown proves that what is done with writes without an answer
// changes no verdict: for random histories it is the same as that of the
// history in which they stay open for ever.
func TestRegister_unknown(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	counts := map[porcupine.CheckResult]int{}
	for i := range 10_000 {
		accesses := randomAccesses(rng, 1+rng.IntN(4), 1+rng.IntN(3), 1+rng.Int64N(8))
		var ops []*history.Op
		open := slices.Clone(accesses)
		removes := rng.IntN(2) == 0
		for j := range open {
			a := &open[j]
			if !a.write && rng.IntN(4) == 0 {
				a.value = rng.Int64N(int64(len(open)) + 1)
			}
			o := &history.Op{Proc: a.proc, Kind: "get", Mode: "linearizable", Version: a.value, Found: a.value != 0, Node: "n1", Outcome: history.OK, Send: a.call, Return: a.ret}
			if a.write {
				o.Kind, o.Mode, o.Level, o.Found = "insert", "", "quorum", false
				if removes && rng.IntN(3) == 0 {
					o.Kind, o.Version, a.value = "remove", 0, 0
				}
				if rng.IntN(3) == 0 {
					o.Outcome, a.ret = history.Info, time.Hour
				}
			}
			ops = append(ops, o)
		}
		r := newRegister(key{"c", "k"}, ops)
		want, got := search(open), search(r.accesses)
		if want != got {
			t.Fatalf("history %d: %s with unknown writes open, %s without:\n%v\n%v", i, want, got, open, r.accesses)
		}
		counts[got]++
	}
	if counts[porcupine.Ok] < 1000 || counts[porcupine.Illegal] < 1000 {
		t.Errorf("%v: they decide too little", counts)
	}
}

// TestLinearizable_planted plants one anomaly of each kind in long random
// histories that are linearizable: it must be found, and nothing before it was
// there.
func TestLinearizable_planted(t *testing.T) {
	// Each returns false if the history has no place for it.
	plants := map[string]func(rng *rand.Rand, as []access) bool{
		"stale read": func(rng *rand.Rand, as []access) bool {
			// A read of what was replaced by a write that had returned.
			for _, i := range rng.Perm(len(as)) {
				for j := range as {
					for k := range as {
						r, old, now := &as[i], &as[j], &as[k]
						if !r.write && old.write && now.write && old.ret < now.call && now.ret < r.call && old.value != r.value {
							r.value = old.value
							return true
						}
					}
				}
			}
			return false
		},
		"lost write": func(rng *rand.Rand, as []access) bool {
			// Nobody sees a write, and a read after it sees the one before.
			for _, i := range rng.Perm(len(as)) {
				for j := range as {
					w, old := &as[i], &as[j]
					if !w.write || !old.write || old.ret >= w.call {
						continue
					}
					hit := false
					for k := range as {
						if r := &as[k]; !r.write && r.value == w.value {
							r.value = old.value
							hit = hit || w.ret < r.call
						}
					}
					if hit {
						return true
					}
				}
			}
			return false
		},
		"read from the future": func(rng *rand.Rand, as []access) bool {
			for _, i := range rng.Perm(len(as)) {
				for j := range as {
					if r, w := &as[i], &as[j]; !r.write && w.write && r.ret < w.call {
						r.value = w.value
						return true
					}
				}
			}
			return false
		},
		"flicker": func(rng *rand.Rand, as []access) bool {
			// The new value and the old one again, one read after the other.
			for _, i := range rng.Perm(len(as)) {
				for j := range as {
					if a, b := &as[i], &as[j]; !a.write && !b.write && a.ret < b.call && a.value > 1 && b.value > a.value {
						for k := range as {
							if old := &as[k]; old.write && old.value < a.value && old.ret < a.call && slices.ContainsFunc(as, func(w access) bool { return w.write && w.value == a.value && old.ret < w.call }) {
								b.value = old.value
								return true
							}
						}
					}
				}
			}
			return false
		},
	}
	for name, plant := range plants {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(5, 6))
			planted := 0
			for planted < 200 {
				accesses := randomAccesses(rng, 4, 25, 20)
				if a := outOfOrder(accesses); a != nil {
					t.Fatalf("not linearizable before anything was planted: %v", a)
				}
				if !plant(rng, accesses) {
					continue
				}
				planted++
				in := evidence(t, padding())
				for _, a := range accesses {
					o := history.Op{Proc: a.proc, Kind: "get", Cache: "c", Key: "k", Mode: "linearizable", Version: a.value, Found: a.value != 0, Node: "n1", Phase: history.Register, Outcome: history.OK, Intended: a.call, Send: a.call, Return: a.ret}
					if a.write {
						o.Kind, o.Mode, o.Level, o.Found = "insert", "", "quorum", false
					}
					in.History.Ops = append(in.History.Ops, o)
				}
				if _, c := linearizable(in); c.Verdict != result.Violated || c.Count != 1 {
					t.Fatalf("%s, %d keys: %s\n%v", c.Verdict, c.Count, c.Detail, accesses)
				}
			}
		})
	}
}

// TestLinearizable_resets proves that reads of keys which are not judged, since the
// cluster was legally formed anew meanwhile, make no pass.
func TestLinearizable_resets(t *testing.T) {
	text := "observe n1 leader 2 5\nfault k1 kill n1 100..1000\nfault k2 kill n2 200..1000\nobserve n1 leader 2 1500 cluster B\n" +
		"register insert a=1 quorum 10..20 ok\n"
	for i := range 2 * minimum {
		text += fmt.Sprintf("register get a=1 n2 %d..%d\n", 30+i, 31+i)
	}
	_, got := linearizable(evidence(t, text+"register get a=- n2 1600..1601"))
	if got.Verdict != result.NotExercised || got.Checked != 0 {
		t.Errorf("%s of %d keys: %s", got.Verdict, got.Checked, got.Detail)
	}
}

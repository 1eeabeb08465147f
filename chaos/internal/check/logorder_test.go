package check

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// TestLogOrder proves that what acknowledgements and reads say about the log is
// compared with when they were made and with what they found.
func TestLogOrder(t *testing.T) {
	for _, c := range []struct {
		name, history string
		verdict       result.Verdict
		why           string
	}{
		{name: "one after the other", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok @5
			insert b=2 quorum 30..40 ok @6`},
		{name: "two at once, in one entry", verdict: result.Pass, history: `
			insert a=1 quorum 10..30 ok @5
			insert b=2 quorum 20..40 ok @5`},
		{name: "two at once, the later one first", verdict: result.Pass, history: `
			insert a=1 quorum 10..30 ok @6
			insert b=2 quorum 20..40 ok @5`},
		{name: "sent after an ack, and before it in the log", verdict: result.Violated, why: "insert of c/a was acknowledged at index 6", history: `
			insert a=1 quorum 10..20 ok @6
			insert b=2 quorum 30..40 ok @5`},
		{name: "sent after an ack, in the same entry", verdict: result.Violated, why: "at index 6", history: `
			insert a=1 quorum 10..20 ok @6
			insert b=2 quorum 30..40 ok @6`},
		{name: "a slow one hides nothing", verdict: result.Violated, why: "insert of c/b", history: `
			insert s=9 quorum 5..900 ok @2
			insert a=1 quorum 10..20 ok @4
			insert b=2 quorum 12..22 ok @6
			insert d=3 quorum 30..40 ok @5`},
		{name: "levels that are not committed say nothing", verdict: result.Pass, history: `
			insert a=1 leader 10..20 ok @6
			insert b=2 quorum 30..40 ok @5`},
		{name: "nothing said", verdict: result.NotExercised, history: `
			insert a=1 quorum 10..20 ok`},

		{name: "a read shows the newest", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok @5
			insert a=2 quorum 30..40 ok @7
			get a=1 n2 50..60 @6
			get a=2 n2 70..80 @7`},
		{name: "a read shows something newer than it says", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok @5
			insert a=2 quorum 30..40 ok @7
			get a=2 n2 50..60 @6`},
		{name: "a read shows what was replaced", verdict: result.Violated, why: "saw version 1, having applied index 7; version 2 was written at index 7", history: `
			insert a=1 quorum 10..20 ok @5
			insert a=2 quorum 30..40 ok @7
			get a=1 n2 50..60 @7`},
		{name: "two writes of one entry: either may be the last", verdict: result.Pass, history: `
			insert a=1 quorum 10..40 ok @5
			insert a=2 quorum 10..40 ok @5
			get a=1 n2 50..60 @9`},
		{name: "a value of which nothing is known", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 info
			insert a=2 quorum 30..40 ok @7
			get a=1 n2 50..60 @9`},
		{name: "a value whose place is not final", verdict: result.Pass, history: `
			insert a=1 leader 10..20 ok @5
			insert a=2 quorum 30..40 ok @7
			get a=1 n2 50..60 @9`},
		{name: "nothing, before the first write", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok @5
			get a=- n2 50..60 @4`},
		{name: "nothing, after it", verdict: result.Violated, why: "saw nothing, having applied index 5; version 1", history: `
			insert a=1 quorum 10..20 ok @5
			get a=- n2 50..60 @5`},
		{name: "nothing, after a remove", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok @5
			remove a quorum 30..40 ok @6
			get a=- n2 50..60 @6`},
		{name: "nothing, after a remove that is newer than it says", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok @5
			remove a quorum 30..40 ok @6
			get a=- n2 50..60 @5`},
		{name: "nothing, and a remove that nobody knows of", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok @5
			remove a quorum 12..20 info
			get a=- n2 50..60 @5`},
		{name: "nothing, and a remove that comes before", verdict: result.Violated, why: "saw nothing", history: `
			remove a quorum 1..2 ok @4
			insert a=1 quorum 10..20 ok @5
			get a=- n2 50..60 @5`},
		{name: "what was removed", verdict: result.Violated, why: "it was removed at index 6", history: `
			insert a=1 quorum 10..20 ok @5
			remove a quorum 30..40 ok @6
			get a=1 n2 50..60 @6`},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := new(Verdicts)
			v.logOrder(evidence(t, c.history))
			if got := v.Checks[0]; got.Verdict != c.verdict || !strings.Contains(strings.Join(got.Examples, "\n"), c.why) {
				t.Errorf("verdict %s, want %s: %s %q, want one that says %q", got.Verdict, c.verdict, got.Detail, got.Examples, c.why)
			}
		})
	}
}

// TestLogOrder_clusters proves that logs of different clusters are kept apart.
func TestLogOrder_clusters(t *testing.T) {
	in := evidence(t, `
		insert a=1 quorum 10..20 ok @6
		insert a=2 quorum 30..40 ok @5
		get a=2 n2 50..60 @7`)
	in.History.Ops[1].Cluster, in.History.Ops[2].Cluster = 'B', 'B'
	v := new(Verdicts)
	v.logOrder(in)
	if c := v.Checks[0]; c.Verdict != result.Pass {
		t.Errorf("%s: %s", c.Verdict, c.Detail)
	}
}

// oneLog returns the history of a log that a leader appends to in real time,
// read on nodes that lag: right by construction.
func oneLog(rng *rand.Rand, ops int) []history.Op {
	type entry struct {
		o  *history.Op
		at time.Duration
	}
	out := make([]history.Op, 0, 2*ops)
	now := time.Duration(0)
	var log []entry
	for i := range ops {
		now += time.Duration(rng.IntN(20))
		o := history.Op{
			Proc: int64(i), Kind: "insert", Cache: "c", Key: fmt.Sprintf("k%d", rng.IntN(8)), Version: int64(i + 1), Level: "quorum", Node: "n1", Phase: history.Load,
			Outcome: history.OK, Intended: now, Send: now, Return: now + time.Duration(rng.IntN(100)), Cluster: 'A',
		}
		if rng.IntN(6) == 0 {
			o.Kind, o.Version = "remove", 0
		}
		out = append(out, o)
		log = append(log, entry{&out[len(out)-1], o.Send + time.Duration(rng.Int64N(int64(o.Return-o.Send)+1))})
	}
	slices.SortStableFunc(log, func(a, b entry) int { return int(a.at - b.at) })
	for i := range log {
		log[i].o.Index = uint64(i + 2)
	}
	for i := range ops {
		n := rng.IntN(len(log) + 1) // applied there
		key := fmt.Sprintf("k%d", rng.IntN(8))
		r := history.Op{Proc: int64(ops + i), Kind: "get", Cache: "c", Key: key, Mode: "local", Node: "n2", Phase: history.Load, Outcome: history.OK, Index: uint64(n + 1), Cluster: 'A', Intended: now, Send: now, Return: now}
		for _, e := range log[:n] {
			if e.o.Key == key {
				r.Version, r.Found = e.o.Version, !e.o.Removes()
			}
		}
		out = append(out, r)
	}
	return out
}

// TestLogOrder_planted plants one anomaly in random histories of one log: it
// must be found, and nothing before it was there.
func TestLogOrder_planted(t *testing.T) {
	for name, plant := range map[string]func(rng *rand.Rand, ops []history.Op) bool{
		"an index of another log": func(rng *rand.Rand, ops []history.Op) bool {
			for _, i := range rng.Perm(len(ops)) {
				for j := range ops {
					if a, b := &ops[i], &ops[j]; a.Write() && b.Write() && a.Return < b.Send {
						b.Index = a.Index
						return true
					}
				}
			}
			return false
		},
		"a read that went back": func(rng *rand.Rand, ops []history.Op) bool {
			for _, i := range rng.Perm(len(ops)) {
				for j := range ops {
					r, w := &ops[i], &ops[j]
					if !r.Write() && r.Found && w.Version > 0 && w.Key == r.Key && w.Version != r.Version && w.Index < r.Index && w.Index < indexOf(ops, r.Version) {
						r.Version = w.Version
						return true
					}
				}
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(7, 8))
			for planted := 0; planted < 300; {
				in := evidence(t, "")
				in.History.Ops = oneLog(rng, 60)
				judge := func() result.Check {
					v := new(Verdicts)
					v.logOrder(in)
					return v.Checks[0]
				}
				if c := judge(); c.Verdict != result.Pass {
					t.Fatalf("before anything was planted: %s", c.Detail)
				}
				if plant(rng, in.History.Ops) {
					planted++
					if c := judge(); c.Verdict != result.Violated {
						t.Fatalf("%s: %s", c.Verdict, c.Detail)
					}
				}
			}
		})
	}
}

func indexOf(ops []history.Op, version int64) uint64 {
	for i := range ops {
		if o := &ops[i]; o.Write() && o.Version == version {
			return o.Index
		}
	}
	return 0
}

// sentAgain is 20 operations on keys of their own, each acknowledged twice, so
// that a run says something.
func sentAgain() string {
	var b strings.Builder
	for i := range minimum {
		for _, node := range []string{"n1", "n2"} {
			fmt.Fprintf(&b, "insert pad%d=%d quorum %d..%d ok %s @%d #%d\n", i, 1000+i, i, i+1, node, 10+i, 100+i)
		}
	}
	return b.String()
}

// TestExactlyOnce proves that an operation which took effect twice is found: by
// its acknowledgements, or by what came back on its key.
func TestExactlyOnce(t *testing.T) {
	for _, c := range []struct {
		name, history string
		verdict       result.Verdict
		why           string
	}{
		{name: "three acks name one index", verdict: result.Pass, history: `
			insert a=1 quorum 100..110 ok n1 @50 #1
			insert a=1 quorum 100..120 ok n2 @50 #1
			insert a=1 quorum 150..170 ok n3 @50 #1`},
		{name: "the third names another", verdict: result.Violated, why: "operation 1 of session 0000000000000001, took effect at index 50 (said n1 at 0.110s) and at 51", history: `
			insert a=1 quorum 100..110 ok n1 @50 #1
			insert a=1 quorum 100..120 ok n2 @50 #1
			insert a=1 quorum 150..170 ok n3 @51 #1`},
		{name: "a copy that failed or got no answer says nothing", verdict: result.Pass, history: `
			insert a=1 quorum 100..110 ok n1 @50 #1
			insert a=1 quorum 100..120 fail n2 #1
			insert a=1 quorum 150..170 info n3 #1`},
		{name: "two operations of one entry", verdict: result.Pass, history: `
			insert a=1 quorum 100..110 ok n1 @50 #1
			insert b=2 quorum 100..110 ok n1 @50 #2`},
		{name: "a remove that was applied twice", verdict: result.Violated, why: "remove of c/a", history: `
			remove a quorum 100..110 ok n1 @50 #1
			remove a quorum 100..110 ok n2 @52 #1`},
		{name: "a late copy came after a newer write, and did nothing", verdict: result.Pass, history: `
			insert a=1 quorum 100..110 ok n1 @50 #1
			insert a=2 quorum 120..130 ok n1 @60 #2
			insert a=1 quorum 150..170 ok n3 @50 #1
			get a=2 n2 200..201 @70`},
		{name: "a late copy undid a newer write", verdict: result.Violated, why: "saw version 1, having applied index 70; version 2 was written at index 60", history: `
			insert a=1 quorum 100..110 ok n1 @50 #1
			insert a=2 quorum 120..130 ok n1 @60 #2
			insert a=1 quorum 150..170 ok n3 @50 #1
			get a=1 n2 200..201 @70`},
		{name: "a late copy without an answer undid a newer write", verdict: result.Violated, why: "saw version 1", history: `
			insert a=1 quorum 100..110 ok n1 @50 #1
			insert a=2 quorum 120..130 ok n1 @60 #2
			insert a=1 quorum 150..170 info n3 #1
			get a=1 n2 200..201 @70`},
		{name: "a late copy of a remove took a newer value away", verdict: result.Violated, why: "saw nothing", history: `
			remove a quorum 100..110 ok n1 @50 #1
			insert a=2 quorum 120..130 ok n1 @60 #2
			remove a quorum 150..170 ok n3 @50 #1
			get a=- n2 200..201 @70`},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := evidence(t, sentAgain()+c.history)
			in.Limit = Limits{ExactlyOnce: true}
			if got := find(t, All(in), "exactly once"); got.Verdict != c.verdict || !strings.Contains(strings.Join(got.Examples, "\n"), c.why) {
				t.Errorf("verdict %s, want %s: %s %q", got.Verdict, c.verdict, got.Detail, got.Examples)
			}
		})
	}
	in := evidence(t, "insert a=1 quorum 100..110 ok n1 @50 #1")
	in.Limit = Limits{ExactlyOnce: true}
	if got := find(t, All(in), "exactly once"); got.Verdict != result.NotExercised {
		t.Errorf("one operation: %s", got.Verdict)
	}
}

// TestMerged proves what becomes of the copies of an operation for the other
// checks.
func TestMerged(t *testing.T) {
	for text, want := range map[string]string{
		"insert a=1 quorum 10..20 ok n1 @5 #1\ninsert a=1 quorum 12..18 ok n2 @5 #1":   "ok 10..18",
		"insert a=1 quorum 10..20 info n1 #1\ninsert a=1 quorum 12..30 ok n2 @5 #1":    "ok 10..30",
		"insert a=1 quorum 10..20 fail n1 #1\ninsert a=1 quorum 12..30 info n2 #1":     "info 10..30",
		"insert a=1 quorum 10..40 info n1 #1\ninsert a=1 quorum 12..30 info n2 #1":     "info 10..40",
		"insert a=1 quorum 12..30 fail n1 #1\ninsert a=1 quorum 10..20 fail n2 #1":     "fail 10..20",
		"insert a=1 quorum 10..20 ok n1 @5 #1\ninsert a=1 quorum 30..60 info n2 #1":    "ok 10..20",
		"insert a=1 quorum 10..20 info n1 #1\ninsert a=1 quorum 30..60 fail n2 @5 #1":  "info 10..20",
		"insert a=1 quorum 10..20 fail n1 #1\ninsert a=1 quorum 30..60 fail n2 @5 #1":  "fail 10..20",
		"insert a=1 quorum 10..20 ok n1 @5\ninsert b=2 quorum 10..20 ok n1 @5 #1":      "ok 10..20 ok 10..20",
		"insert a=1 quorum 10..20 ok n1 @5 #1\ninsert b=2 quorum 30..40 info n1 @5 #2": "ok 10..20 info 30..40",
	} {
		var got []string
		for _, o := range merged(evidence(t, text).History.Ops) {
			got = append(got, fmt.Sprintf("%s %d..%d", o.Outcome, o.Send.Milliseconds(), o.Return.Milliseconds()))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s\n%q, want %q", text, got, want)
		}
	}
}

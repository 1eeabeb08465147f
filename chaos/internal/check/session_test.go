package check

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

func judge(in *Input, check func(*Verdicts, *ledger)) (*Verdicts, result.Check) {
	v := new(Verdicts)
	check(v, newLedger(in, faultWindows(in.Events, in.end())))
	return v, v.Checks[len(v.Checks)-1]
}

// TestStaleReads_behind proves by how many versions a read is said to be late.
func TestStaleReads_behind(t *testing.T) {
	in := evidence(t, `
		insert a=1 quorum 10..20 ok @4 %1
		insert a=2 quorum 30..40 ok @5 %1
		insert a=3 leader 50..60 ok @6 %1
		insert a=4 quorum 70..80 ok @7 %1
		insert a=5 quorum 90..200 ok @8 %1
		get a=1 n2 150..151
		get a=5 n3 150..151`)
	_, c := judge(in, func(v *Verdicts, l *ledger) { v.staleReads(l, 500*time.Millisecond) })
	if want := "had been replaced 110ms before, 500ms is allowed; reads missed up to 3 newer versions"; c.Verdict != result.Pass || !strings.HasSuffix(c.Detail, want) {
		t.Errorf("%s, %s; want %q", c.Verdict, c.Detail, want)
	}
}

// TestResurrection proves that what was removed may not be read again: when that
// is a violation of its own, and when not.
func TestResurrection(t *testing.T) {
	for _, c := range []struct {
		name, history string
		verdict       result.Verdict
		losses        string
	}{
		{name: "removed for good", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok
			remove a quorum 30..40 ok
			get a=- n2 900..901
			final a=-`},
		{name: "written again", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok
			remove a quorum 30..40 ok
			insert a=2 quorum 50..60 ok
			get a=2 n2 900..901
			final a=2`},
		{name: "written again, and the old value is back", verdict: result.Violated, losses: "resurrected a v0 quorum on n2 allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			remove a quorum 30..40 ok
			insert a=2 quorum 50..60 ok
			get a=1 n2 900..901
			final a=2`},
		{name: "back for a moment on one node", verdict: result.Violated, losses: "resurrected a v0 quorum on n2 allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			remove a quorum 30..40 ok
			get a=1 n2 900..901
			get a=- n2 950..951
			final a=-`},
		{name: "a local read that is as late as it may be", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok
			remove a quorum 30..40 ok
			get a=1 n2 539..541
			final a=-`},
		{name: "a linearizable read may not be late at all", verdict: result.Violated, losses: "resurrected a v0 quorum on n2 allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			remove a quorum 30..40 ok
			lget a=1 n2 45..46
			final a=-`},
		{name: "a linearizable read while it is removed", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok
			remove a quorum 30..40 ok
			lget a=1 n2 35..46
			final a=-`},
		{name: "nobody knows whether it was removed", verdict: result.NotExercised, history: `
			insert a=1 quorum 10..20 ok
			remove a quorum 30..40 info
			get a=1 n2 900..901
			final a=1`},
		{name: "a write of unknown outcome came late", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 info
			remove a quorum 30..40 ok
			get a=1 n2 900..901
			final a=1`},
		{name: "the remove may have been lost with its leader", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok
			fault kill kill n1 50..800
			remove a leader 30..40 ok
			get a=1 n2 900..901
			final a=-`},
		{name: "it cannot have been: a later entry of its leader was committed", verdict: result.Violated, losses: "resurrected a v0 leader on n2 allowed=false\n", history: `
			insert a=1 quorum 10..20 ok @4 %1
			fault kill kill n1 50..800
			remove a leader 30..40 ok @5 %1
			insert b=2 quorum 42..48 ok @6 %1
			get a=1 n2 900..901
			final b=2
			final a=-`},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := evidence(t, c.history)
			v := new(Verdicts)
			l := newLedger(in, faultWindows(in.Events, in.end()))
			v.resurrection(l, l.lostWrites(), 500*time.Millisecond)
			if got := v.Checks[0]; got.Verdict != c.verdict || brief(v.Losses) != c.losses {
				t.Errorf("verdict %s, want %s: %s\n%swant\n%s", got.Verdict, c.verdict, got.Detail, brief(v.Losses), c.losses)
			}
		})
	}
}

// TestResurrection_outranks proves that of a run in which one key was lost and
// another is back, the latter is the first reason.
func TestResurrection_outranks(t *testing.T) {
	text := ""
	for i := range 30 {
		text += fmt.Sprintf("insert a%d=%d quorum 10..20 ok\nfinal a%d=%d\n", i, i+1, i, i+1)
	}
	in := evidence(t, text+`
		insert gone=99 quorum 10..20 ok
		final gone=-
		insert back=98 quorum 10..20 ok
		remove back quorum 30..40 ok
		final back=98`)
	var r result.Run
	v := All(in)
	v.Put(&r)
	if len(r.Reasons) < 2 || !strings.HasPrefix(r.Reasons[0], "resurrection: 1 times") || r.Losses[0].Key != "back" || r.Losses[1].Key != "gone" {
		t.Errorf("reasons %q, losses\n%s", r.Reasons, brief(r.Losses))
	}
}

// calm is enough reads at one node for a run to say something about sessions.
func calm() string {
	text := "insert pad=900000 quorum 1..2 ok n1\n"
	for i := range minimum + 1 {
		text += fmt.Sprintf("get pad=900000 n1 %d..%d\n", 10+i, 10+i)
	}
	return text
}

// TestSession proves what a node has to show to everybody after it has
// acknowledged or shown something.
func TestSession(t *testing.T) {
	for _, c := range []struct {
		name, history string
		verdict       result.Verdict
		why           string
	}{
		{name: "its own write", verdict: result.Pass, history: `
			insert a=1 quorum 100..110 ok n1
			get a=1 n1 111..112`},
		{name: "nothing after its own write", verdict: result.Violated, why: "found nothing at 0.111s, older than version 1, which was acknowledged there at 0.110s", history: `
			insert a=1 quorum 100..110 ok n1
			get a=- n1 111..112`},
		{name: "something older than its own write", verdict: result.Violated, why: "found version 1 at 0.131s, older than version 2", history: `
			insert a=1 quorum 100..110 ok n3
			insert a=2 quorum 120..130 ok n1
			get a=1 n1 131..132`},
		{name: "the same at another node is only late", verdict: result.Pass, history: `
			insert a=1 quorum 100..110 ok n3
			insert a=2 quorum 120..130 ok n1
			get a=1 n2 131..132`},
		{name: "a read that was on its way already", verdict: result.Pass, history: `
			insert a=1 quorum 100..110 ok n1
			get a=- n1 109..112`},
		{name: "something newer than its own write", verdict: result.Pass, history: `
			insert a=1 quorum 100..110 ok n1
			insert a=2 quorum 105..130 ok n3
			get a=2 n1 111..112`},
		{name: "a write at the same time, earlier in the log", verdict: result.Violated, why: "found version 2", history: `
			insert a=1 quorum 100..110 ok n1 @9
			insert a=2 quorum 105..130 ok n3 @8
			get a=2 n1 131..132 @9`},
		{name: "its own remove", verdict: result.Violated, why: "older than its removal", history: `
			insert a=1 quorum 100..110 ok n3
			remove a quorum 120..130 ok n1
			get a=1 n1 131..132`},
		{name: "a remove that may have come after", verdict: result.Pass, history: `
			insert a=1 quorum 100..110 ok n1
			remove a quorum 105..130 ok n3
			get a=- n1 111..112`},
		{name: "a remove that came before in the log", verdict: result.Violated, why: "found nothing", history: `
			insert a=1 quorum 100..110 ok n1 @9
			remove a quorum 105..130 ok n3 @8
			get a=- n1 131..132 @9`},
		{name: "a write acknowledged at leader", verdict: result.Violated, why: "found nothing", history: `
			insert a=1 leader 100..110 ok n1
			get a=- n1 111..112`},
		{name: "one that may be lost with the leader", verdict: result.Pass, history: `
			fault kill kill n3 200..900
			insert a=1 leader 100..110 ok n1
			get a=- n1 901..902`},
		{name: "one that cannot be any more", verdict: result.Violated, why: "found nothing", history: `
			fault kill kill n3 200..900
			insert a=1 leader 100..110 ok n1 @5
			insert b=2 quorum 112..120 ok n2 @6
			get a=- n1 901..902`},
		{name: "a put is promised nothing", verdict: result.Pass, history: `
			put a=1 100..110 ok
			get a=- n1 111..112`},
		{name: "what was read before", verdict: result.Violated, why: "found version 1 at 0.160s, older than version 2, which was read there until 0.151s", history: `
			insert a=1 quorum 100..110 ok n3
			insert a=2 quorum 120..130 ok n3
			get a=2 n1 150..151
			get a=1 n1 160..161`},
		{name: "what was read before at another node", verdict: result.Pass, history: `
			insert a=1 quorum 100..110 ok n3
			insert a=2 quorum 120..130 ok n3
			get a=2 n2 150..151
			get a=1 n1 160..161`},
		{name: "what was read before it died", verdict: result.Pass, history: `
			insert a=1 quorum 100..110 ok n3
			insert a=2 quorum 120..130 ok n3
			get a=2 n1 150..151
			fault k kill n1 200..300
			exit n1 205
			get a=1 n1 400..401`},
		{name: "two reads at once", verdict: result.Pass, history: `
			insert a=1 quorum 100..110 ok n3
			insert a=2 quorum 120..130 ok n3
			get a=2 n1 150..155
			get a=1 n1 152..161`},
		{name: "gone after it was read", verdict: result.Violated, why: "found nothing", history: `
			insert a=1 quorum 100..110 ok n3
			get a=1 n1 150..151
			get a=- n1 160..161`},
		{name: "a linearizable read is no local one", verdict: result.Pass, history: `
			insert a=1 quorum 100..110 ok n1
			lget a=- n1 111..112`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, got := judge(evidence(t, calm()+c.history), (*Verdicts).session)
			if got.Verdict != c.verdict || !strings.Contains(strings.Join(got.Examples, "\n"), c.why) {
				t.Errorf("verdict %s, want %s: %s %q, want one that says %q", got.Verdict, c.verdict, got.Detail, got.Examples, c.why)
			}
		})
	}
	if _, got := judge(evidence(t, "insert a=1 quorum 1..2 ok\nget a=1 n1 3..4"), (*Verdicts).session); got.Verdict != result.NotExercised {
		t.Errorf("one read: %s", got.Verdict)
	}
}

// applied is a history of nodes that apply one log, each at its own pace, and
// answer local reads from what they have applied; a write is acknowledged
// through a node once that has applied it. Right by construction.
func applied(rng *rand.Rand, ops int) []history.Op {
	nodes := []string{"n1", "n2", "n3"}
	at := map[string]int{} // how much of the log each has applied
	var log []history.Op
	var out []history.Op
	state := func(node, key string) (o *history.Op) {
		for i := range log[:at[node]] {
			if log[i].Key == key {
				o = &log[i]
			}
		}
		return o
	}
	now := time.Duration(0)
	for i := range ops {
		node, key := nodes[rng.IntN(3)], fmt.Sprintf("k%d", rng.IntN(4))
		now += time.Duration(1 + rng.IntN(10))
		o := history.Op{Proc: int64(i), Cache: "c", Key: key, Node: node, Phase: history.Load, Outcome: history.OK, Intended: now, Send: now, Cluster: 'A', Term: 1}
		now += time.Duration(1 + rng.IntN(10))
		o.Return = now
		if rng.IntN(2) == 0 {
			o.Kind, o.Version, o.Level, o.Index = "insert", int64(i+1), "quorum", uint64(len(log)+1)
			if rng.IntN(5) == 0 {
				o.Kind, o.Version = "remove", 0
			}
			log = append(log, o)
			at[node] = len(log)
			out = append(out, o)
			continue
		}
		at[node] += rng.IntN(len(log) - at[node] + 1)
		o.Kind, o.Mode, o.Index = "get", "local", uint64(at[node])
		if w := state(node, key); w != nil {
			o.Version, o.Found = w.Version, !w.Removes()
		}
		out = append(out, o)
	}
	return out
}

// TestSession_planted plants one old read in histories that are right: it must
// be found, and nothing before it was there.
func TestSession_planted(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for planted := 0; planted < 300; {
		in := evidence(t, calm())
		ops := applied(rng, 80)
		plant := func() bool {
			for _, i := range rng.Perm(len(ops)) {
				r := &ops[i]
				if r.Write() {
					continue
				}
				// The newest write that is known at its node by then, and any
				// older one of the same key.
				var newest *history.Op
				for j := range ops {
					if w := &ops[j]; w.Write() && w.Node == r.Node && w.Key == r.Key && w.Return < r.Send {
						newest = w
					}
				}
				if newest == nil {
					continue
				}
				older := slices.IndexFunc(ops, func(w history.Op) bool { return w.Version > 0 && w.Write() && w.Key == r.Key && w.Index < newest.Index })
				if older >= 0 {
					r.Version, r.Found = ops[older].Version, true
					return true
				}
			}
			return false
		}
		run := func() result.Check {
			all := *in
			all.History = &history.History{Whole: true, Ops: slices.Concat(in.History.Ops, ops)}
			slices.SortStableFunc(all.History.Ops, func(a, b history.Op) int { return cmp.Compare(a.Return, b.Return) })
			_, c := judge(&all, (*Verdicts).session)
			return c
		}
		if c := run(); c.Verdict != result.Pass {
			t.Fatalf("before anything was planted: %s %q", c.Detail, c.Examples)
		}
		if plant() {
			planted++
			if c := run(); c.Verdict != result.Violated {
				t.Fatalf("%s: %s", c.Verdict, c.Detail)
			}
		}
	}
}

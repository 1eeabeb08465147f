package check

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// evidence builds the input of a check from a history made by hand. Times are
// milliseconds; "=-" is a miss, "=?" a value nobody can have written, and a
// final read without nodes is one on each.
//
//	insert k=1 quorum 100..110 ok [n2]  put k=1 100..101 ok
//	remove k quorum 120..130 info       get k=1 n2 150..151
//	final k=1                           final k=- n2,n3
//	fault cut kill n1 100..300          observe n1 leader 3 50 [follows n2]
//	exit n1 500                         probe quorum 100 [n3] [info]
//	skip k                              register get k=1 n2 150..151 [p7]
//
// A line that begins with "register" is of the sampled keys: reads of it are
// linearizable, and each has a process of its own unless it names one. "@12" at
// the end of a line is its index in the log, "%2" the term, "#3" its number in a
// session, "!B" the cluster whose log that is.
func evidence(t *testing.T, text string) *Input {
	t.Helper()
	in := &Input{
		History:       &history.History{Whole: true},
		Nodes:         []string{"n1", "n2", "n3"},
		Limit:         Limits{LostWrites: true, Staleness: 500 * time.Millisecond, Converge: time.Second},
		Facts:         Facts{Converged: true, FinalReads: true, LoadFrom: 1, LoadTo: 10 * time.Second},
		ProbeInterval: 5 * time.Millisecond,
	}
	ms := func(s string) time.Duration {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatalf("bad time %q", s)
		}
		return time.Duration(v * float64(time.Millisecond))
	}
	span := func(s string) (from, to time.Duration) {
		a, b, ok := strings.Cut(s, "..")
		if !ok {
			t.Fatalf("bad interval %q", s)
		}
		return ms(a), ms(b)
	}
	value := func(s string, o *history.Op) {
		k, v, has := strings.Cut(s, "=")
		o.Cache, o.Key = "c", k
		switch {
		case !has || v == "-":
		case v == "?":
			o.Found = true
		default:
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				t.Fatalf("bad version %q", s)
			}
			o.Version, o.Found = n, o.Kind == "get"
		}
	}
	sampled := false
	record := func(o history.Op) {
		if sampled {
			o.Phase = history.Register
			if o.Kind == "get" {
				o.Mode = "linearizable"
			}
		}
		o.Intended = o.Send
		if err := o.Validate(); err != nil {
			t.Fatalf("impossible operation %+v: %v", o, err)
		}
		in.History.Ops = append(in.History.Ops, o)
	}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if sampled = f[0] == "register"; sampled {
			f = f[1:]
		}
		o := history.Op{Proc: int64(1000 + len(in.History.Ops)), Kind: f[0], Phase: history.Load, Node: "n1", Outcome: history.OK}
		for ; strings.ContainsAny(f[len(f)-1][:1], "p@#%!"); f = f[:len(f)-1] {
			base := 10
			if f[len(f)-1][0] == '!' {
				base = 16
			}
			n, err := strconv.ParseInt(f[len(f)-1][1:], base, 64)
			if err != nil {
				break
			}
			switch f[len(f)-1][0] {
			case '!':
				o.Cluster = uint64(n)
			case 'p':
				o.Proc = n
			case '@':
				o.Index, o.Cluster = uint64(n), 'A'
			case '%':
				o.Term = uint64(n)
			case '#':
				o.Session, o.Seq, o.Phase = 1, uint64(n), history.Retry
			}
		}
		switch f[0] {
		case "insert", "remove":
			value(f[1], &o)
			o.Level, o.Outcome = f[2], history.Outcome(f[4])
			o.Send, o.Return = span(f[3])
			if len(f) > 5 {
				o.Node = f[5]
			}
			record(o)
		case "put", "del":
			value(f[1], &o)
			o.Outcome = history.Outcome(f[3])
			o.Send, o.Return = span(f[2])
			record(o)
		case "lget": // linearizable, of the load
			o.Kind = "get"
			value(f[1], &o)
			o.Mode, o.Node = "linearizable", f[2]
			o.Send, o.Return = span(f[3])
			record(o)
		case "get":
			value(f[1], &o)
			o.Mode, o.Node = "local", f[2]
			o.Send, o.Return = span(f[3])
			record(o)
		case "probe":
			at := ms(f[2])
			o = history.Op{Kind: "insert", Cache: "_chaos", Key: "p" + line, Version: int64(1e6) + int64(len(in.History.Ops)), Level: f[1], Node: "n2", Phase: history.Probe, Outcome: history.OK, Send: at - time.Millisecond, Return: at}
			if len(f) > 3 {
				o.Node = f[3]
			}
			if len(f) > 4 {
				o.Outcome, o.Reason = history.Outcome(f[4]), "timeout"
			}
			record(o)
		case "final":
			o.Kind, o.Mode, o.Phase = "get", "local", history.Final
			value(f[1], &o)
			o.Send, o.Return = 20*time.Second, 20*time.Second
			nodes := in.Nodes
			if len(f) > 2 {
				nodes = strings.Split(f[2], ",")
			}
			for _, o.Node = range nodes {
				record(o)
			}
		case "fault":
			from, to := span(f[4])
			targets := strings.Split(f[3], ",")
			in.Events = append(in.Events,
				result.Event{T: from, Kind: result.Inject, Fault: f[1], Action: f[2], Targets: targets},
				result.Event{T: to, Kind: result.Heal, Fault: f[1], Action: f[2], Bit: new(true)})
			in.Planned = append(in.Planned, Planned{Name: f[1], Action: f[2], OnLeader: strings.HasSuffix(f[1], "-leader")})
		case "skip":
			in.Events = append(in.Events, result.Event{Kind: result.Note, Fault: f[1], Action: Skipped, Detail: "not ready"})
			in.Planned = append(in.Planned, Planned{Name: f[1]})
		case "observe":
			term, err := strconv.ParseUint(f[3], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			e := result.Event{T: ms(f[4]), Kind: result.Observe, Node: f[1], Role: result.Role(f[2]), Term: term, Cluster: "A"}
			for i := 5; i+1 < len(f); i += 2 {
				switch f[i] {
				case "follows":
					e.Leader = f[i+1]
				case "cluster":
					e.Cluster = f[i+1]
				}
			}
			in.Events = append(in.Events, e)
		case "exit":
			in.Events = append(in.Events, result.Event{T: ms(f[2]), Kind: result.Process, Node: f[1], State: result.ProcessExited, Detail: "exit status 2"})
		default:
			t.Fatalf("unknown line %q", line)
		}
	}
	return in
}

func find(t *testing.T, v *Verdicts, name string) result.Check {
	t.Helper()
	for _, c := range v.Checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %q among %v", name, v.Checks)
	return result.Check{}
}

// brief renders the losses, one a line.
func brief(ls []result.Loss) string {
	var b strings.Builder
	for _, l := range ls {
		fmt.Fprintf(&b, "%s %s v%d %s on %s allowed=%t\n", l.Kind, l.Key, l.Version, l.Level, l.Node, l.Allowed)
	}
	return b.String()
}

// finalState judges what is there in the end.
func finalState(in *Input) *Verdicts {
	v := new(Verdicts)
	l := newLedger(in, faultWindows(in.Events, in.end()))
	finals := l.lostWrites()
	v.resurrection(l, finals, 500*time.Millisecond)
	v.lost(finals)
	return v
}

// TestLostWrites goes through the ways in which an acknowledged write may, and
// may not, be gone.
func TestLostWrites(t *testing.T) {
	for _, c := range []struct {
		name, history string
		nodes         int
		verdict       result.Verdict
		losses        string
	}{
		{name: "all present", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok
			insert b=2 leader 10..20 ok
			final a=1
			final b=2`},
		{name: "quorum write gone everywhere", verdict: result.Violated, losses: "lost a v1 quorum on all allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			final a=-`},
		{name: "gone on one node only", verdict: result.Violated, losses: "divergent a v0  on all allowed=false\nlost a v1 quorum on n2 allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			final a=1 n1,n3
			final a=- n2`},
		{name: "quorum write gone within a fault is gone all the same", verdict: result.Violated, losses: "lost a v1 quorum on all allowed=false\n", history: `
			fault cut isolate n1 5..500
			insert a=1 quorum 10..20 ok
			final a=-`},
		{name: "leader write gone outside of any fault", verdict: result.Violated, losses: "lost a v1 leader on all allowed=false\n", history: `
			fault kill kill n1 5000..6000
			insert a=1 leader 10..20 ok
			final a=-`},
		{name: "leader write gone just before the leader died", verdict: result.Pass, losses: "lost a v1 leader on all allowed=true\n", history: `
			fault kill kill n1 100..1000
			insert a=1 leader 90..99 ok
			final a=-`},
		{name: "leader write gone on an isolated leader", verdict: result.Pass, losses: "lost a v1 leader on all allowed=true\n", history: `
			fault cut isolate n1 100..1000
			insert a=1 leader 150..160 ok
			final a=-`},
		{name: "once in three nodes promises what quorum does", verdict: result.Violated, losses: "lost a v1 once on all allowed=false\n", history: `
			fault kill kill n1 100..1000
			insert a=1 once 90..99 ok
			final a=-`},
		{name: "once in five nodes does not", nodes: 5, verdict: result.Pass, losses: "lost a v1 once on all allowed=true\n", history: `
			fault kill kill n1 100..1000
			insert a=1 once 90..99 ok
			final a=-
			final a=- n4,n5`},
		{name: "unknown outcome absent", verdict: result.Pass, history: `
			insert b=9 quorum 1..2 ok
			final b=9
			insert a=1 quorum 10..20 info
			final a=-`},
		{name: "unknown outcome present: recovered", verdict: result.Pass, history: `
			insert b=9 quorum 1..2 ok
			final b=9
			insert a=1 quorum 10..20 info
			final a=1`},
		{name: "failed for certain, absent", verdict: result.Pass, history: `
			insert b=9 quorum 1..2 ok
			final b=9
			insert a=1 quorum 10..20 fail
			final a=-`},
		{name: "failed for certain, present: phantom", verdict: result.Violated, losses: "phantom a v1 quorum on all allowed=false\n", history: `
			insert b=9 quorum 1..2 ok
			final b=9
			insert a=1 quorum 10..20 fail
			final a=1`},
		{name: "a version nobody wrote", verdict: result.Violated, losses: "corrupt a v0  on all allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			final a=77`},
		{name: "a value that is none of ours", verdict: result.Violated, losses: "corrupt a v0  on all allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			final a=?`},
		{name: "the value of another key", verdict: result.Violated, losses: "corrupt a v0  on all allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			insert b=2 quorum 10..20 ok
			final a=2
			final b=2`},
		{name: "overwritten: the newer value is right", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok
			insert a=2 quorum 30..40 ok
			final a=2`},
		{name: "overwritten: the older value means the newer was lost", verdict: result.Violated, losses: "lost a v2 quorum on all allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			insert a=2 quorum 30..40 ok
			final a=1`},
		{name: "concurrent writes: either may win", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok
			insert a=2 quorum 15..40 ok
			final a=1`},
		{name: "writes that touch: the second was sent when the first returned", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok
			insert a=2 quorum 20..30 ok
			final a=1`},
		{name: "an old write of unknown outcome may take effect at any time", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 info
			insert a=2 quorum 30..40 ok
			final a=1`},
		{name: "a put may be applied long after its ack", verdict: result.Pass, history: `
			put a=1 10..11 ok
			insert a=2 quorum 30..40 ok
			final a=1`},
		{name: "a put that is gone is no loss", verdict: result.Pass, history: `
			insert b=9 quorum 1..2 ok
			final b=9
			put a=1 10..11 ok
			final a=-`},
		{name: "a later leader write gone does not excuse the quorum write under it", verdict: result.Violated, losses: "lost a v1 quorum on all allowed=false\nlost a v2 leader on all allowed=true\n", history: `
			fault kill kill n1 35..1000
			insert a=1 quorum 10..20 ok
			insert a=2 leader 25..30 ok
			final a=-`},
		{name: "a later leader write gone, the quorum write under it back", verdict: result.Pass, losses: "lost a v2 leader on all allowed=true\n", history: `
			fault kill kill n1 35..1000
			insert a=1 quorum 10..20 ok
			insert a=2 leader 25..30 ok
			final a=1`},
		{name: "removed", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok
			remove a quorum 30..40 ok
			final a=-`},
		{name: "removed with unknown outcome: a miss is right", verdict: result.Pass, history: `
			remove a quorum 5..6 info
			insert a=1 quorum 10..20 ok
			final a=-`},
		{name: "removed before it was written: a miss is not right", verdict: result.Violated, losses: "lost a v1 quorum on all allowed=false\n", history: `
			remove a quorum 5..6 ok
			insert a=1 quorum 10..20 ok
			final a=-`},
		{name: "back after an acknowledged remove", verdict: result.Violated, losses: "resurrected a v0 quorum on all allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			remove a quorum 30..40 ok
			final a=1`},
		{name: "back after a remove that only the leader had acknowledged, and died", verdict: result.Pass, losses: "resurrected a v0 leader on all allowed=true\n", history: `
			insert a=1 quorum 10..20 ok
			fault kill kill n1 50..1000
			remove a leader 30..40 ok
			final a=1`},
		{name: "back after such a remove, without a fault", verdict: result.Violated, losses: "resurrected a v0 leader on all allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			remove a leader 30..40 ok
			final a=1`},
		{name: "a majority killed at once may begin anew", verdict: result.Pass, losses: "lost a v1 quorum on all allowed=true\n", history: `
			observe n1 leader 2 5
			fault k1 kill n1 100..1000
			fault k2 kill n2 200..1000
			observe n1 leader 2 1500 cluster B
			insert a=1 quorum 10..20 ok
			final a=-`},
		{name: "what was acked after it began anew may not be lost", verdict: result.Violated, losses: "lost a v1 quorum on all allowed=false\n", history: `
			observe n1 leader 2 5
			fault k1 kill n1 100..1000
			fault k2 kill n2 200..1000
			observe n1 leader 2 1500 cluster B
			insert a=1 quorum 1600..1610 ok
			final a=-`},
		{name: "a majority killed at once, but it went on", verdict: result.Violated, losses: "lost a v1 quorum on all allowed=false\n", history: `
			observe n1 leader 2 5
			fault k1 kill n2 100..1000
			fault k2 kill n3 200..1000
			observe n1 leader 3 1500
			insert a=1 quorum 10..20 ok
			final a=-`},
		{name: "began anew without need", verdict: result.Violated, losses: "lost a v1 quorum on all allowed=false\n", history: `
			observe n1 leader 2 5
			fault k1 kill n2 100..1000
			observe n1 leader 3 1500 cluster B
			insert a=1 quorum 10..20 ok
			final a=-`},
		{name: "two killed one after the other may not", verdict: result.Violated, losses: "lost a v1 quorum on all allowed=false\n", history: `
			fault k1 kill n1 100..200
			fault k2 kill n2 7000..7100
			insert a=1 quorum 10..20 ok
			final a=-`},
		{name: "a node not read", verdict: result.Unknown, history: `
			insert a=1 quorum 10..20 ok
			final a=1 n1,n2`},
		{name: "nothing acknowledged", verdict: result.NotExercised, history: `
			insert a=1 quorum 10..20 fail
			final a=-`},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := evidence(t, c.history)
			if c.nodes == 5 {
				in.Nodes = append(in.Nodes, "n4", "n5")
			}
			v := finalState(in)
			judged := find(t, v, "lost writes")
			if back := find(t, v, "resurrection"); back.Verdict == result.Violated {
				judged = back
			}
			if judged.Verdict != c.verdict {
				t.Errorf("verdict %s, want %s: %s %q", judged.Verdict, c.verdict, judged.Detail, judged.Examples)
			}
			got := map[string]bool{}
			for l := range strings.Lines(brief(v.Losses)) {
				got[l] = true
			}
			want := map[string]bool{}
			for l := range strings.Lines(c.losses) {
				want[l] = true
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("losses differ (-want +got):\n%s", d)
			}
		})
	}
}

// TestLostWrites_counts proves that each level is counted by itself and that
// the loss window is the time from the ack to the fault.
func TestLostWrites_counts(t *testing.T) {
	in := evidence(t, `
		fault kill kill n1 100..1000
		insert a=1 leader 60..70 ok
		insert b=2 leader 80..90 ok
		insert c=3 leader 80..95 ok
		insert d=4 quorum 80..95 ok
		insert e=5 quorum 80..99 info
		final a=-
		final b=-
		final c=3
		final d=4
		final e=-`)
	v := finalState(in)
	want := []result.Exposure{
		{Level: "quorum", Acked: 1, Unknown: 1},
		{Level: "leader", Acked: 3, Lost: 2, Allowed: 2, Window: 30 * time.Millisecond},
	}
	if d := cmp.Diff(want, v.Exposures); d != "" {
		t.Errorf("exposures (-want +got):\n%s", d)
	}
	l := v.Losses[0]
	if l.Fault != "kill" || l.FromFault != -30*time.Millisecond || len(l.History) != 4 || l.Found != "n1: nothing, n2: nothing, n3: nothing" {
		t.Errorf("evidence of the first loss: %+v", l)
	}
}

// TestLostWrites_bounds proves that a scenario can allow less than a level does:
// a share of what was acknowledged, and a time around the fault.
func TestLostWrites_bounds(t *testing.T) {
	text := "fault kill kill n1 1000..2000\n"
	for i := range 1000 {
		state := "-"
		if i >= 5 {
			state = fmt.Sprint(i + 1)
		}
		text += fmt.Sprintf("insert k%d=%d leader 900..%d ok\nfinal k%d=%s\n", i, i+1, 960+i%5, i, state)
	}
	for name, c := range map[string]struct {
		bound   LossBound
		verdict result.Verdict
		why     string
	}{
		"no bound":             {LossBound{}, result.Pass, "leader 5 of 1000 (5 within what the level promises, 5 in 1000)"},
		"so many":              {LossBound{Rate: 0.005}, result.Pass, ""},
		"fewer":                {LossBound{Rate: 0.004}, result.Violated, "5 of 1000 writes acknowledged at leader were lost, the scenario allows 4"},
		"so long before":       {LossBound{Window: 40 * time.Millisecond}, result.Pass, ""},
		"not so long":          {LossBound{Window: 39 * time.Millisecond}, result.Violated, "version 1 acked at leader at 0.960s, -0.040s from kill"},
		"of another level":     {LossBound{}, result.Pass, ""},
		"so many and so early": {LossBound{Rate: 0.01, Window: time.Second}, result.Pass, ""},
	} {
		in := evidence(t, text)
		in.Limit.Loss = map[string]LossBound{"leader": c.bound, "once": {Rate: 1e-9, Window: 1}}
		got := find(t, finalState(in), "lost writes")
		if all := got.Detail + strings.Join(got.Examples, "\n"); got.Verdict != c.verdict || !strings.Contains(all, c.why) {
			t.Errorf("%s: %s, want %s and %q: %s", name, got.Verdict, c.verdict, c.why, all)
		}
	}
	// What is excused for the last write is none for those long before it.
	for name, text := range map[string]string{
		"an older value": "insert a=1 leader 100..110 ok\ninsert a=2 leader 300..310 ok\ninsert a=3 leader 4990..4995 ok\nfinal a=1",
		"nothing":        "insert a=2 leader 300..310 ok\ninsert a=3 leader 4990..4995 ok\nfinal a=-",
		"a removed one":  "insert a=1 leader 100..110 ok\nremove a leader 300..310 ok\nremove a leader 4990..4995 ok\nfinal a=1",
	} {
		v := finalState(evidence(t, "fault k kill n1 5000..6000\n"+text))
		lost, back := find(t, v, "lost writes"), find(t, v, "resurrection")
		if lost.Verdict != result.Violated && back.Verdict != result.Violated {
			t.Errorf("%s: lost writes %s, resurrection %s; what was acknowledged 4.7s before the fault is gone", name, lost.Verdict, back.Verdict)
		}
	}
	in := evidence(t, "fault cut isolate n1 100..1000\ninsert a=1 leader 240..250 ok\nfinal a=-")
	in.Limit.Loss = map[string]LossBound{"leader": {Window: 100 * time.Millisecond}}
	v := finalState(in)
	if got := find(t, v, "lost writes"); got.Verdict != result.Violated || v.Exposures[0].After != 150*time.Millisecond || v.Exposures[0].Window != 0 {
		t.Errorf("acked 150ms after the cut: %s, %+v", got.Verdict, v.Exposures)
	}
}

// TestStaleReads proves that age is counted from the oldest committed write
// that had surely replaced what was read.
func TestStaleReads(t *testing.T) {
	for _, c := range []struct {
		name, history string
		verdict       result.Verdict
		worst         time.Duration
		losses        string
	}{
		{name: "fresh", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok
			get a=1 n2 900..901`},
		{name: "old, within the bound", verdict: result.Pass, worst: 460 * time.Millisecond, history: `
			insert a=1 quorum 10..20 ok
			insert a=2 quorum 30..40 ok
			get a=1 n2 500..501`},
		{name: "too old", verdict: result.Violated, worst: 560 * time.Millisecond, losses: "stale a v2 quorum on n2 allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			insert a=2 quorum 30..40 ok
			insert a=3 quorum 50..60 ok
			get a=1 n2 600..601`},
		{name: "the write that replaced it was not committed", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok
			insert a=2 leader 30..40 ok
			get a=1 n2 900..901`},
		{name: "the write that replaced it was committed, since a later one of its leader was", verdict: result.Violated, worst: 830 * time.Millisecond, losses: "stale a v2 leader on n2 allowed=false\n", history: `
			insert a=1 quorum 10..20 ok @4 %1
			insert a=2 leader 30..40 ok @5 %1
			insert b=3 quorum 50..70 ok @6 %1
			get a=1 n2 900..901`},
		{name: "a later one of another leader says nothing about it", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok @4 %1
			insert a=2 leader 30..40 ok @5 %1
			insert b=3 quorum 50..70 ok @6 %2
			get a=1 n2 900..901`},
		{name: "nor does an earlier one", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok @4 %1
			insert a=2 leader 30..40 ok @7 %1
			insert b=3 quorum 50..70 ok @6 %1
			get a=1 n2 900..901`},
		{name: "once is committed in three nodes", verdict: result.Violated, worst: 860 * time.Millisecond, losses: "stale a v2 once on n2 allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			insert a=2 once 30..40 ok
			get a=1 n2 900..901`},
		{name: "written at once, but the log has an order", verdict: result.Violated, worst: 860 * time.Millisecond, losses: "stale a v2 quorum on n2 allowed=false\n", history: `
			insert a=1 quorum 10..40 ok @4 %1
			insert a=2 quorum 10..40 ok @5 %1
			get a=1 n2 900..901`},
		{name: "the same, the other way round", verdict: result.Pass, history: `
			insert a=1 quorum 10..40 ok @5 %1
			insert a=2 quorum 10..40 ok @4 %1
			get a=1 n2 900..901`},
		{name: "the write that replaced it may have come before", verdict: result.Pass, history: `
			insert a=1 quorum 10..50 ok
			insert a=2 quorum 30..40 ok
			get a=1 n2 900..901`},
		{name: "a slow write that began earlier does not hide a quick one", verdict: result.Violated, worst: 850 * time.Millisecond, losses: "stale a v3 quorum on n2 allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			insert a=2 quorum 30..880 ok
			insert a=3 quorum 40..50 ok
			get a=1 n2 900..901`},
		{name: "a write of unknown outcome may show up late", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 info
			insert a=2 quorum 30..40 ok
			get a=1 n2 900..901`},
		{name: "a miss long after a committed write", verdict: result.Violated, worst: 880 * time.Millisecond, losses: "stale a v1 quorum on n2 allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			get a=- n2 900..901`},
		{name: "a miss before any write", verdict: result.Pass, history: `
			get a=- n2 5..6
			insert a=1 quorum 10..20 ok`},
		{name: "a miss that a remove explains", verdict: result.Pass, history: `
			insert a=1 quorum 10..20 ok
			remove a quorum 15..30 info
			get a=- n2 900..901`},
		{name: "read long after an acknowledged remove", verdict: result.Violated, worst: 860 * time.Millisecond, losses: "resurrected a v0 quorum on n2 allowed=false\n", history: `
			insert a=1 quorum 10..20 ok
			remove a quorum 30..40 ok
			get a=1 n2 900..901`},
		{name: "read before it was written", verdict: result.Violated, losses: "corrupt a v0  on n2 allowed=false\n", history: `
			get a=1 n2 5..6
			insert a=1 quorum 10..20 ok`},
		{name: "a miss after a legal reset", verdict: result.Pass, history: `
			observe n1 leader 2 5
			insert a=1 quorum 10..20 ok
			fault k1 kill n1 100..1000
			fault k2 kill n2 200..1000
			observe n1 leader 2 1500 cluster B
			get a=- n2 1600..1601`},
		{name: "a miss after a legal reset, whose leader was seen much later", verdict: result.Pass, history: `
			observe n1 leader 2 5
			insert a=1 quorum 10..20 ok
			fault k1 kill n1 100..1000
			fault k2 kill n2 200..1000
			get a=- n2 1200..1201 !B
			observe n1 leader 2 1500 cluster B`},
		{name: "a miss in the old cluster, right before the leader of the new one is seen", verdict: result.Violated, worst: 1430 * time.Millisecond, losses: "stale a v1 quorum on n2 allowed=false\n", history: `
			observe n1 leader 2 5
			insert a=1 quorum 10..20 ok
			fault k1 kill n1 100..1000
			fault k2 kill n2 200..1000
			get a=- n2 1450..1451 !A
			observe n1 leader 2 1500 cluster B`},
		{name: "too old, in the epoch after a legal reset", verdict: result.Violated, worst: 590 * time.Millisecond, losses: "stale a v2 quorum on n2 allowed=false\n", history: `
			observe n1 leader 2 5
			insert a=1 quorum 10..20 ok
			fault k1 kill n1 100..1000
			fault k2 kill n2 200..1000
			observe n1 leader 2 1500 cluster B
			insert a=2 quorum 2000..2010 ok
			get a=- n2 2600..2601`},
		{name: "no read", verdict: result.NotExercised, history: `
			insert a=1 quorum 10..20 ok`},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := evidence(t, c.history)
			v := new(Verdicts)
			l := newLedger(in, faultWindows(in.Events, in.end()))
			v.resurrection(l, nil, 500*time.Millisecond)
			v.staleReads(l, 500*time.Millisecond)
			got := find(t, v, "stale reads")
			if back := find(t, v, "resurrection"); back.Verdict == result.Violated {
				got.Verdict = back.Verdict
			}
			if got.Verdict != c.verdict || got.Worst != c.worst {
				t.Errorf("verdict %s, worst %v; want %s, %v: %s", got.Verdict, got.Worst, c.verdict, c.worst, got.Detail)
			}
			if d := cmp.Diff(c.losses, brief(v.Losses)); d != "" {
				t.Errorf("losses (-want +got):\n%s", d)
			}
		})
	}
}

// TestDualLeader proves that one term with two leaders is seen, and that
// neither an old leader beside a new one nor two clusters count as that.
func TestDualLeader(t *testing.T) {
	for name, c := range map[string]struct {
		events  string
		verdict result.Verdict
		why     string
	}{
		"one after the other":          {"observe n1 leader 2 10\nobserve n2 leader 3 500", result.Pass, ""},
		"the old one has not heard":    {"observe n1 leader 2 10\nobserve n2 leader 3 500\nobserve n1 leader 2 510", result.Pass, ""},
		"two in one term":              {"observe n1 leader 3 10\nobserve n2 leader 3 500", result.Violated, "n1 and n2 both led term 3 of cluster A (n2 at 0.500s), at once for"},
		"one after the other in it":    {"observe n1 leader 3 10\nobserve n1 follower 3 400\nobserve n2 leader 3 500", result.Violated, "(n2 at 0.500s)"},
		"nobody was seen":              {"observe n1 follower 3 10", result.NotExercised, ""},
		"the same one again, restated": {"observe n1 leader 3 10\nobserve n1 undefined 3 20\nobserve n1 leader 3 30", result.Pass, ""},
		"both acknowledge": {
			"observe n1 leader 3 10\nobserve n2 leader 3 500\nobserve n1 follower 3 900\n" +
				"insert a=1 leader 600..610 ok n1 %3\ninsert b=2 leader 600..620 ok n2 %3\ninsert d=3 leader 700..720 ok n2 %3\ninsert e=4 leader 901..902 ok n1 %3",
			result.Violated, "at once for 400ms; meanwhile n1 acknowledged 1 writes and n2 2",
		},
		"a quorum write in the older term":              {"insert a=1 quorum 10..20 ok n1 %3\ninsert b=2 quorum 30..40 ok n2 %2", result.Violated, "insert of c/b at quorum, sent at 0.030s, was acknowledged in term 2 of cluster 0000000000000000; in term 3 a quorum write had been at 0.020s"},
		"one that was sent before":                      {"observe n1 leader 3 1\ninsert a=1 quorum 10..20 ok n1 %3\ninsert b=2 quorum 20..40 ok n2 %2", result.Pass, ""},
		"a leader write in the older term":              {"observe n1 leader 3 1\ninsert a=1 quorum 10..20 ok n1 %3\ninsert b=2 leader 1000..1010 ok n2 %2", result.Pass, ""},
		"a leader write in the older term, much later":  {"insert a=1 quorum 10..20 ok n1 %3\ninsert b=2 leader 1030..1040 ok n2 %2", result.Violated, "insert of c/b at leader"},
		"behind a term that is older still":             {"insert a=1 quorum 10..20 ok n1 %3\ninsert b=2 quorum 12..25 ok n1 %1\ninsert d=3 quorum 30..40 ok n2 %2", result.Violated, "in term 3"},
		"a write of unknown outcome in the older term":  {"observe n1 leader 3 1\ninsert a=1 quorum 10..20 ok n1 %3\ninsert b=2 quorum 30..40 info n2 %2", result.Pass, ""},
		"a newer term that no quorum write was seen in": {"observe n1 leader 3 1\ninsert a=1 leader 10..20 ok n1 %3\ninsert b=2 quorum 30..40 ok n2 %2", result.Pass, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := new(Verdicts)
			v.dualLeader(evidence(t, c.events))
			if got := v.Checks[0]; got.Verdict != c.verdict || !strings.Contains(got.Detail, c.why) && c.verdict == result.Violated {
				t.Errorf("verdict %s, want %s: %s", got.Verdict, c.verdict, got.Detail)
			}
		})
	}
	in := evidence(t, "observe n1 leader 3 10\nobserve n2 leader 3 500")
	in.Events[1].Cluster = "B"
	v := new(Verdicts)
	if v.dualLeader(in); v.Checks[0].Verdict != result.Pass {
		t.Errorf("the same term of two clusters: %s", v.Checks[0].Detail)
	}
}

// TestIdentity proves that a new cluster is legal only after a majority had
// failed at once.
func TestIdentity(t *testing.T) {
	for name, c := range map[string]struct {
		events  string
		verdict result.Verdict
	}{
		"one cluster":                {"observe n1 leader 2 10\nobserve n2 leader 3 500", result.Pass},
		"new one, nothing failed":    {"observe n1 leader 2 10\nobserve n2 leader 3 500 cluster B", result.Violated},
		"new one, one had failed":    {"observe n1 leader 2 10\nfault k kill n1 100..200\nobserve n2 leader 3 500 cluster B", result.Violated},
		"new one, two were paused":   {"observe n1 leader 2 10\nfault k pause n1,n2 100..200\nobserve n2 leader 3 500 cluster B", result.Violated},
		"new one, two had failed":    {"observe n1 leader 2 10\nfault k kill n1,n2 100..200\nobserve n2 leader 3 500 cluster B", result.Pass},
		"new one before they failed": {"observe n1 leader 2 10\nobserve n2 leader 3 50 cluster B\nfault k kill n1,n2 100..200", result.Violated},
		"the old one went on":        {"observe n1 leader 2 10\nfault a kill n1 100..200\nfault b kill n2 1000..1100\ninsert k=1 quorum 7000..7010 ok n1 !A @12\nobserve n3 leader 1 8000 cluster B", result.Violated},
		"it went on while they were": {"observe n1 leader 2 10\nfault a kill n1 100..200\nfault b kill n2 1000..1100\ninsert k=1 quorum 900..910 ok n1 !A @12\nobserve n3 leader 1 8000 cluster B", result.Pass},
		"the old one seen again":     {"observe n1 leader 2 10\nfault k kill n1,n2 100..200\nobserve n2 leader 3 500 cluster B\nobserve n3 leader 2 510", result.Pass},
	} {
		t.Run(name, func(t *testing.T) {
			in := evidence(t, c.events)
			if got := identity(in, faultWindows(in.Events, in.end())); got.Verdict != c.verdict {
				t.Errorf("verdict %s, want %s: %s", got.Verdict, c.verdict, got.Detail)
			}
		})
	}
}

// TestFailover takes a failover apart that was put together by hand. A milder
// fault that begins before anybody was elected changes nothing.
func TestFailover(t *testing.T) {
	text := `
		observe n1 leader 2 10
		observe n2 follower 2 10 follows n1
		observe n3 follower 2 10 follows n1
		fault kill-leader kill n1 100..3000
		fault beside reset n3 108..112
		exit n1 104
		observe n1 undefined 2 105
		observe n2 dead 2 112
		observe n3 dead 2 113
		observe n3 requested 3 120
		observe n3 leader 3 131
		observe n2 follower 3 134 follows n3
		observe n1 follower 3 3300 follows n3
	`
	for i := range 19 {
		text += fmt.Sprintf("probe quorum %d\n", 5+i*5)
	}
	for at := 140; at <= 5000; at += 5 {
		text += fmt.Sprintf("probe quorum %d\n", at)
	}
	for i := range 200 { // what the old leader still acks, or acks again, ends no gap
		text += fmt.Sprintf("probe quorum %d n1\n", 5+i)
	}
	in := evidence(t, text)
	v := new(Verdicts)
	v.failovers(in, faultWindows(in.Events, in.end()), machineOf(in))
	ms := time.Millisecond
	want := []result.Failover{{
		Fault: "kill-leader", Inject: 100 * ms, OldLeader: "n1", NewLeader: "n3", Term: 3,
		Suspect: 12 * ms, Candidate: 20 * ms, Elected: 31 * ms, Agreed: 34 * ms, Resolution: 5 * ms,
		Levels: []result.Recovery{{Level: "quorum", FirstOK: 40 * ms, Gap: 45 * ms}},
	}}
	if d := cmp.Diff(want, v.Failovers); d != "" {
		t.Errorf("failover (-want +got):\n%s", d)
	}
	c := find(t, v, "failover")
	if c.Verdict != result.Pass {
		t.Errorf("verdict %s: %s", c.Verdict, c.Detail)
	}
	for _, want := range []string{"gap at quorum: 45ms", "took to end: 4ms"} {
		if !strings.Contains(c.Detail, want) {
			t.Errorf("lacks %q: %s", want, c.Detail)
		}
	}
	if n := LeaderChanges(in.Events, 50*ms, 10*time.Second); n != 1 {
		t.Errorf("%d leader changes, want 1", n)
	}
	if o := v.Outages[0]; o.Level != "quorum" || o.To != 10*time.Second {
		t.Errorf("longest outage %+v, want the one after the last probe", o)
	}
}

// TestDistribution proves the ranks by hand.
func TestDistribution(t *testing.T) {
	for n, want := range map[int]Distribution{
		0:  {},
		1:  {1, 1, 1, 1, 1},
		2:  {2, 1, 1, 2, 2},
		10: {10, 1, 5, 9, 10},
		50: {50, 1, 25, 45, 50},
	} {
		var ds []time.Duration
		for i := range n {
			ds = append(ds, time.Duration(n-i))
		}
		if got := distributionOf(ds); got != want {
			t.Errorf("1 to %d: %+v, want %+v", n, got, want)
		}
	}
}

// threshold measures one.
func threshold(t *testing.T, in *Input, name, fn string) (value float64, got string, ok bool) {
	t.Helper()
	return new(Verdicts).measure(in, faultWindows(in.Events, in.end()), &Threshold{Name: name, Func: fn}, func(from, to time.Duration) bool { return false })
}

// TestRecovery proves that a recovery counts from the heal to the first quorum
// write acknowledged, and that one which never came is not met however late
// the limit.
func TestRecovery(t *testing.T) {
	text := "fault a kill n1,n2,n3 100..200\nprobe quorum 150\nprobe once 220\nprobe quorum 260\nprobe quorum 400\n" +
		"fault b kill n1,n2,n3 500..600\nprobe quorum 890\n"
	in := evidence(t, text)
	if value, got, ok := threshold(t, in, "recovery", "max"); !ok || time.Duration(value) != 290*time.Millisecond {
		t.Errorf("%v, %s, %t; want 290ms", time.Duration(value), got, ok)
	}
	in = evidence(t, text+"fault c kill n1 1000..1100\nprobe once 1200\n")
	if _, got, ok := threshold(t, in, "recovery", "max"); ok || got != "1 of 3 times not at all" {
		t.Errorf("%s, %t: the third time nothing was acknowledged", got, ok)
	}
}

// TestFailedWrites proves which writes count: those that were not acknowledged,
// through nodes that no fault had hit just then.
func TestFailedWrites(t *testing.T) {
	for text, want := range map[string]float64{
		"probe quorum 50 n2 info":                                                         1,
		"probe quorum 50 n2 fail":                                                         1,
		"insert a=1 quorum 40..50 info":                                                   1,
		"put a=1 40..50 fail":                                                             1,
		"get a=- n2 40..50":                                                               0,
		"fault k kill n1 100..200\nprobe quorum 150 n1 info":                              0,
		"fault k kill n1 100..200\nprobe quorum 150 n2 info":                              1,
		"fault k kill n1 100..200\nprobe quorum 99 n1 info":                               1, // before it
		"fault k kill n1 100..200\nprobe quorum 5100 n1 info":                             0, // it may still be joining
		"fault k kill n1 100..200\nprobe quorum 5300 n1 info":                             1,
		"fault k latency n1,n2,n3 100..200\nprobe quorum 150 n1 info":                     1, // no excuse
		"fault k reset n1>n2 100..100\nprobe quorum 101 n1 info":                          1,
		"fault k kill n1 100..200\nfault l kill n2 3000..3100\nprobe quorum 3050 n1 info": 1, // n1 was back before n2 went
	} {
		in := evidence(t, text+"\nprobe quorum 7000 n3")
		if value, got, ok := threshold(t, in, "failed_writes", "count"); !ok || value != want {
			t.Errorf("%s: %s, %t; want %v", text, got, ok, want)
		}
	}
	in := evidence(t, "fault k kill n1 100..200\nprobe quorum 150 n1 info")
	if _, got, ok := threshold(t, in, "failed_writes", "count"); ok {
		t.Errorf("met with %s", got)
	}
}

// TestInjections proves that a series tolerates a few injections that were
// skipped or did nothing, says so, and no more than a few, of what was drawn
// some more; and that a fault that stands alone tolerates none.
func TestInjections(t *testing.T) {
	for name, c := range map[string]struct {
		bad, all int
		alone    bool
		ok       bool
		drawn    bool
	}{
		"all took effect": {0, 10, false, true, false}, "one in ten": {1, 10, false, true, false}, "two in ten": {2, 10, false, false, false},
		"five in fifty": {5, 50, false, true, false}, "one of one": {1, 1, true, false, false},
		"a third of what was drawn": {3, 9, false, true, true}, "half of it": {4, 8, false, false, true},
	} {
		var text strings.Builder
		for i := range c.all {
			if i < c.bad {
				fmt.Fprintf(&text, "skip k%d\n", i)
			} else {
				fmt.Fprintf(&text, "fault k%d kill n1 %d..%d\n", i, 100*i, 100*i+50)
			}
		}
		in := evidence(t, text.String())
		for i := range in.Planned {
			if !c.alone {
				in.Planned[i].Series, in.Planned[i].Drawn = "k", c.drawn
			}
		}
		got := validity(in, faultWindows(in.Events, in.end()), machineOf(in))
		if (got.Verdict == result.Pass) != c.ok {
			t.Errorf("%s: %s, %s", name, got.Verdict, got.Detail)
		}
		if !c.alone && c.bad > 0 && !strings.Contains(got.Detail, fmt.Sprintf("%d of %d injections without effect, %d of them skipped", c.bad, c.all, c.bad)) {
			t.Errorf("%s: does not say so: %s", name, got.Detail)
		}
	}
}

// TestIdentity_series proves that nodes killed one after the other in a series
// are not a majority that failed at once: all were ready in between. Without
// the series nobody knows, and a reset is taken for legal.
func TestIdentity_series(t *testing.T) {
	text := "observe n1 leader 2 10\nfault a kill n1 100..101\nfault b kill n2 3100..3101\nobserve n3 leader 1 3500 cluster B"
	for _, series := range []string{"", "each"} {
		in := evidence(t, text)
		for i := range in.Planned {
			in.Planned[i].Series = series
		}
		c := identity(in, faultWindows(in.Events, in.end()))
		if (c.Verdict == result.Violated) != (series != "") {
			t.Errorf("series %q: %s, %s", series, c.Verdict, c.Detail)
		}
	}
}

// TestFailover_short proves that the leader which another fault brought, after
// the heal of a short one, is not taken for the short one's.
func TestFailover_short(t *testing.T) {
	in := evidence(t, `
		observe n1 leader 2 10
		fault pause-leader pause n1 100..250
		fault later kill n2 5000..6000
		observe n3 leader 3 5100`)
	v := new(Verdicts)
	v.failovers(in, faultWindows(in.Events, in.end()), machineOf(in))
	if f := v.Failovers[0]; f.NewLeader != "" || f.Elected != 0 {
		t.Errorf("elected %s after %v, by a later fault", f.NewLeader, f.Elected)
	}
}

// TestFailover_none proves that a leader that was away for long without a
// successor is a violation, also if there was one later; and that a short absence
// is not, and shows nothing.
func TestFailover_none(t *testing.T) {
	for text, want := range map[string]result.Verdict{
		"100..5000":                           result.Violated,
		"100..5000\nobserve n2 leader 3 5600": result.Violated,
		"100..5000\nobserve n1 leader 3 5600": result.Violated,
		"100..5000\nobserve n2 leader 3 4900": result.Pass,
		"100..400":                            result.NotExercised,
		"100..400\nobserve n2 leader 3 300":   result.Pass,
	} {
		in := evidence(t, "observe n1 leader 2 10\nfault cut-leader isolate n1 "+text)
		v := new(Verdicts)
		v.failovers(in, faultWindows(in.Events, in.end()), machineOf(in))
		if c := find(t, v, "failover"); c.Verdict != want {
			t.Errorf("away for %s: %s, want %s: %s", text, c.Verdict, want, c.Detail)
		}
	}
}

// TestFailover_endless proves that writes which never go on after a failover are
// no short gap: it lasts to the end of the load, and no limit on failovers is kept.
func TestFailover_endless(t *testing.T) {
	in := evidence(t, "observe n1 leader 2 10\nfault kill-leader kill n1 1000..9000\nobserve n2 leader 3 1100\n"+
		"probe quorum 990\nprobe quorum 995\nprobe quorum 1003\n")
	v := new(Verdicts)
	windows := faultWindows(in.Events, in.end())
	v.failovers(in, windows, machineOf(in))
	if l := v.Failovers[0].Levels[0]; l.Gap != 8997*time.Millisecond || l.FirstOK != 0 {
		t.Errorf("gap %v, first ok after %v; want 8.997s and none", l.Gap, l.FirstOK)
	}
	_, got, ok := v.measure(in, windows, &Threshold{Name: "failover", Func: "max"}, func(from, to time.Duration) bool { return false })
	if ok || got != "1 of 1 times writes did not go on" {
		t.Errorf("measured %q, %t", got, ok)
	}
}

func TestLiveness(t *testing.T) {
	for name, c := range map[string]struct {
		events  string
		verdict result.Verdict
	}{
		"nothing happened":   {"", result.Pass},
		"told to":            {"fault k kill n1 100..1000\nexit n1 101", result.Pass},
		"on its own":         {"exit n1 101", result.Violated},
		"another node":       {"fault k kill n1 100..1000\nexit n2 101", result.Violated},
		"stopped at the end": {"exit n1 9500", result.Pass},
		"after the heal":     {"fault k kill n1 100..1000\nexit n1 101\nexit n1 3000", result.Violated},
		"only isolated":      {"fault k isolate n1 100..1000\nexit n1 101", result.Violated},
	} {
		t.Run(name, func(t *testing.T) {
			in := evidence(t, c.events)
			in.Facts.Stopping = 9 * time.Second
			if got := liveness(in, faultWindows(in.Events, in.end()), machineOf(in)); got.Verdict != c.verdict {
				t.Errorf("verdict %s, want %s: %s", got.Verdict, c.verdict, got.Detail)
			}
		})
	}
	in := evidence(t, "exit n1 1")
	in.Facts.LoadFrom = 0
	if got := liveness(in, nil, machineOf(in)); got.Verdict != result.NotExercised {
		t.Errorf("ended before the load began: %s", got.Verdict)
	}
	in.Facts.LogFindings = []string{"n1.log:3: panic: boom"}
	if got := liveness(in, nil, machineOf(in)); got.Verdict != result.Violated {
		t.Errorf("a panic in a log: %s", got.Verdict)
	}
}

// TestLiveness_recovery proves that writes have to go on within the time that a
// scenario gives: after a heal, and beside a fault that leaves a majority.
func TestLiveness_recovery(t *testing.T) {
	steady := func(from, to int) (text string) {
		for at := from; at < to; at += 50 {
			text += fmt.Sprintf("probe quorum %d n2\n", max(at, 1))
		}
		return text
	}
	for name, c := range map[string]struct {
		text string
		why  string // empty: it passes
	}{
		"at once":                        {"fault k kill n1 1000..2000\n" + steady(0, 9000), ""},
		"slowly":                         {"fault k kill n1 1000..2000\n" + steady(0, 1000) + steady(2400, 9000), ""},
		"too slowly after the heal":      {"fault k kill n1,n3 1000..2000\n" + steady(0, 1000) + steady(3600, 9000), "after k was healed at 2.000s no quorum write was acknowledged for 1.6s"},
		"never":                          {"fault k kill n1,n3 1000..2000\n" + steady(0, 1000), "after k was healed at 2.000s no quorum write was acknowledged for 8s"},
		"a standstill beside a fault":    {"fault k isolate n1 1000..5000\n" + steady(0, 1000) + steady(2800, 9000), "during k no quorum write was acknowledged through another node for 1.85s, from 0.950s on"},
		"one that a majority is hit by":  {"fault k kill n1,n3 1000..5000\n" + steady(0, 1000) + steady(5200, 9000), ""},
		"one of two at once":             {"fault k kill n1 1000..5000\nfault l isolate n3 1500..4000\n" + steady(0, 1000) + steady(5200, 9000), ""},
		"beside links that are slow":     {"fault k bandwidth n1,n2,n3 1000..5000\n" + steady(0, 1000) + steady(5200, 9000), ""},
		"beside a slow link of one":      {"fault k bandwidth n1 1000..5000\n" + steady(0, 1000) + steady(5200, 9000), "during k no quorum write was acknowledged through another node"},
		"only through the node it hit":   {"fault k isolate n1 1000..5000\n" + steady(0, 1000) + strings.ReplaceAll(steady(1000, 5000), "n2", "n1") + steady(5000, 9000), "during k no quorum write was acknowledged through another node for 4.05s"},
		"the next fault comes too early": {"fault k kill n1,n3 1000..2000\nfault l kill n2 2500..2600\n" + steady(0, 1000) + steady(3000, 9000), ""},
		"one that the load's end hides":  {"fault k isolate n1 1000..9000\n" + steady(0, 1100), "during k no quorum write was acknowledged through another node for 8.95s, from 1.050s on"},
		"a majority goes right after it": {"fault k isolate n1 1000..5000\nfault l kill n1,n3 5100..8000\n" + steady(0, 5100) + steady(8200, 9900), ""},
		"a milder fault beside it":       {"fault k kill n1 1000..4000\nfault l latency n2 2000..2500\n" + steady(0, 4000), "after k was healed at 4.000s no quorum write was acknowledged for 6s"},
		"healed while a majority is hit": {"fault k kill n1 1000..4000\nfault l kill n2,n3 3000..7000\n" + steady(0, 3000) + steady(7200, 9900), ""},
	} {
		in := evidence(t, c.text)
		in.Limit.Recovery = 1500 * time.Millisecond
		got := liveness(in, faultWindows(in.Events, in.end()), machineOf(in))
		if (got.Verdict == result.Pass) != (c.why == "") || !strings.Contains(got.Detail, c.why) {
			t.Errorf("%s: %s, %s; want %q", name, got.Verdict, got.Detail, c.why)
		}
	}
}

// TestValidity_phases proves that a load which is hardly there beside faults, or
// after them, makes a run void; where a majority is hit nothing is expected.
func TestValidity_phases(t *testing.T) {
	load := func(from, to int) (text string) {
		for at := from; at < to; at += 20 {
			text += fmt.Sprintf("insert k%d=%d quorum %d..%d ok\n", at, at+1, at, at+1)
		}
		return text
	}
	for name, c := range map[string]struct {
		text string
		why  string
	}{
		"steady":                  {"fault k kill n1 3000..6000\n" + load(0, 9990), ""},
		"stops with the fault":    {"fault k kill n1 3000..6000\n" + load(0, 2990), "only 0 ok insert quorum during faults, expected 4 at least (and 1 more)"},
		"only beside the fault":   {"fault k kill n1 3000..6000\n" + load(3000, 5990), "only 0 ok insert quorum before the faults, expected 4 at least (and 1 more)"},
		"stops with a majority":   {"fault k kill n1,n2 3000..6000\n" + load(0, 2990), ""},
		"a short fault":           {"fault k kill n1 3000..3001\n" + load(0, 2990) + load(3200, 9990), ""},
		"many faults, few of all": {"fault k kill n1 1000..2000\nfault l kill n1 4000..5000\n" + load(0, 900) + load(2100, 2200) + load(5100, 9990), "only 0 ok insert quorum during faults"},
	} {
		in := evidence(t, c.text)
		in.Demands, in.Limit.LostWrites = []Demand{{"insert", "quorum"}}, false
		got := validity(in, faultWindows(in.Events, in.end()), machineOf(in))
		if (got.Verdict == result.Pass) != (c.why == "") || !strings.Contains(got.Detail, c.why) {
			t.Errorf("%s: %s, %s; want %q", name, got.Verdict, got.Detail, c.why)
		}
	}
}

// TestPhaseAt proves the phases of many faults against looking at all of them.
func TestPhaseAt(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	for range 300 {
		var windows []result.Window
		for range rng.IntN(6) {
			from := time.Duration(rng.IntN(40))
			windows = append(windows, result.Window{From: from, To: from + time.Duration(rng.IntN(15))})
		}
		slices.SortFunc(windows, func(a, b result.Window) int { return int(a.From - b.From) })
		for at := range time.Duration(60) {
			want := "before"
			for _, w := range windows {
				if w.To <= at {
					want = "recovery"
				}
			}
			if slices.ContainsFunc(windows, func(w result.Window) bool { return w.From <= at && at < w.To }) {
				want = "during"
			}
			if got := PhaseAt(windows, at); got != want {
				t.Fatalf("at %d of %+v: %s, want %s", at, windows, got, want)
			}
		}
	}
}

// TestAbort proves what a limit that ended the load does to the verdict: it is
// missed, whatever the whole would say; injections that did not come any more,
// and the load that is missing, make nothing void.
func TestAbort(t *testing.T) {
	in := evidence(t, "insert a=1 quorum 10..20 ok\nfinal a=1")
	in.Demands = []Demand{{"insert", "quorum"}}
	in.Planned = []Planned{{Name: "late"}}
	in.Facts.Aborted = &Abort{Metric: "insert", Expr: "max < 5ms", Got: "10ms", At: 4 * time.Second}
	in.Limit.Thresholds = []Threshold{
		{Metric: "insert", Expr: "max < 5ms", Name: "insert", Func: "max", Holds: func(float64) bool { return true }},
		{Metric: "insert", Expr: "max < 1s", Name: "insert", Func: "max", Holds: func(float64) bool { return true }},
	}
	v := All(in)
	var r result.Run
	v.Put(&r)
	if got := v.Checks[0]; got.Verdict != result.Pass || !strings.HasSuffix(got.Detail, "0 of 1 faults took effect, until insert max < 5ms aborted the run at 4.000s") {
		t.Errorf("%s, %s", got.Verdict, got.Detail)
	}
	if th := v.Thresholds; th[0].Met || th[0].Got != "10ms at 4.000s, which aborted the run" || !th[1].Met || r.ExitCode() != result.ExitThreshold {
		t.Errorf("%+v, exit code %d", th, r.ExitCode())
	}
}

// TestAll_validity proves that a pass counts for nothing in a run that proves
// nothing, and that a violation still does.
func TestAll_validity(t *testing.T) {
	good := "fault k kill n1 100..1000\n"
	for i := range 30 {
		good += fmt.Sprintf("insert a%d=%d quorum 10..20 ok\nfinal a%d=%d\n", i, i+1, i, i+1)
	}
	bad := good + "insert gone=99 quorum 10..20 ok\nfinal gone=-\n"
	for name, c := range map[string]struct {
		text  string
		spoil func(in *Input)
		want  result.Verdict // of lost writes
		whole result.Verdict
	}{
		"good":                        {good, func(*Input) {}, result.Pass, result.Pass},
		"lossy":                       {bad, func(*Input) {}, result.Violated, result.Violated},
		"fault did not bite":          {good, func(in *Input) { *in.Events[1].Bit = false }, result.Unknown, result.Unknown},
		"not known whether it bit":    {good, func(in *Input) { in.Events[1].Bit = nil }, result.Unknown, result.Unknown},
		"fault never injected":        {good, func(in *Input) { in.Planned = append(in.Planned, Planned{Name: "other"}) }, result.Unknown, result.Unknown},
		"fault never healed":          {good, func(in *Input) { in.Events = in.Events[:1] }, result.Unknown, result.Unknown},
		"too little load":             {good, func(in *Input) { in.Demands = []Demand{{"insert", "leader"}} }, result.Unknown, result.Unknown},
		"history cut":                 {good, func(in *Input) { in.History.Whole = false }, result.Unknown, result.Unknown},
		"history lost operations":     {good, func(in *Input) { in.History.Lost = 3 }, result.Unknown, result.Unknown},
		"no final reads":              {good, func(in *Input) { in.Facts.FinalReads = false }, result.Unknown, result.Unknown},
		"events could not be written": {good, func(in *Input) { in.Facts.HistoryError = "write events.jsonl: no space left on device" }, result.Unknown, result.Unknown},
		"no facts":                    {good, func(in *Input) { in.Limit.Converge, in.Facts = 0, Facts{FinalReads: true} }, result.Unknown, result.Unknown},
		"load failed":                 {good, func(in *Input) { in.Facts.LoadError = "refused" }, result.Unknown, result.Unknown},
		"lossy, fault did not bite":   {bad, func(in *Input) { *in.Events[1].Bit = false }, result.Violated, result.Violated},
		"lossy, but history is short": {bad, func(in *Input) { in.History.Lost = 1 }, result.Unknown, result.Unknown},
		"did not converge":            {good, func(in *Input) { in.Facts.Converged, in.Facts.Divergence = false, "n1 at 5, n2 at 7" }, result.Pass, result.Violated},
	} {
		t.Run(name, func(t *testing.T) {
			in := evidence(t, c.text)
			c.spoil(in)
			v := All(in)
			if got := find(t, v, "lost writes"); got.Verdict != c.want {
				t.Errorf("lost writes: %s, want %s: %s", got.Verdict, c.want, got.Detail)
			}
			var r result.Run
			v.Put(&r)
			if r.Verdict != c.whole {
				t.Errorf("the run: %s, want %s: %q", r.Verdict, c.whole, r.Reasons)
			}
		})
	}
}

// TestThresholds proves that a limit is measured on the part it names, and
// that a limit on nothing is not met.
func TestThresholds(t *testing.T) {
	text := "fault k kill n1 1000..2000\n"
	for i := range 200 { // 5 ms before the fault, 50 ms during it
		text += fmt.Sprintf("insert a%d=%d quorum %d..%d ok\n", i, i+1, i, i+5)
		text += fmt.Sprintf("insert b%d=%d leader %d..%d ok\n", i, 1000+i, 1000+i, 1050+i)
	}
	text += "insert x=5000 quorum 10..20 info\n"
	in := evidence(t, text)
	below := func(d time.Duration) func(float64) bool { return func(v float64) bool { return v < float64(d) } }
	in.Limit.Thresholds = []Threshold{
		{Metric: "all", Name: "insert", Func: "p", Arg: 90, Holds: below(20 * time.Millisecond)},
		{Metric: "before", Name: "insert", Phase: "before", Func: "p", Arg: 90, Holds: below(20 * time.Millisecond)},
		{Metric: "quorum", Name: "insert", Level: "quorum", Func: "max", Holds: below(20 * time.Millisecond)},
		{Metric: "recovery", Name: "insert", Phase: "recovery", Func: "max", Holds: below(time.Hour)},
		{Metric: "too few", Name: "insert", Func: "p", Arg: 99.9, Holds: below(time.Hour)},
		{Metric: "errors", Name: "errors", Func: "rate", Holds: func(v float64) bool { return v < 0.01 }},
		{Metric: "failover", Name: "failover", Func: "max", Holds: below(time.Hour)},
		{Metric: "changes", Name: "leader_changes", Func: "count", Holds: func(v float64) bool { return v <= 0 }},
	}
	v := All(in)
	got := map[string]string{}
	for _, th := range v.Thresholds {
		got[th.Metric] = fmt.Sprintf("%t %s", th.Met, th.Got)
	}
	want := map[string]string{
		"all": "false 50ms", "before": "true 5ms", "quorum": "true 5ms", "recovery": "false nothing measured",
		"too few": "false 400 samples are too few for this percentile", "errors": "true 0.249% (1 of 401)",
		"failover": "false nothing measured", "changes": "true 0",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("thresholds (-want +got):\n%s", d)
	}

	// A limited generator makes latencies larger. What is kept is kept; what is
	// compared needs a base that was on time.
	in.Facts.Generator = "writers was late"
	in.Limit.Thresholds = append(in.Limit.Thresholds, Threshold{Metric: "relative", Name: "insert", Phase: "during", Relative: true, Func: "p", Arg: 50, Holds: func(v float64) bool { return v <= 20 }})
	judged := func() (names []string) {
		v = All(in)
		for _, th := range v.Thresholds {
			names = append(names, th.Metric)
		}
		return names
	}
	if d := cmp.Diff([]string{"before", "quorum", "errors", "failover", "changes", "relative"}, judged()); d != "" || find(t, v, "thresholds").Verdict != result.Unknown {
		t.Errorf("judged with a limited generator (-want +got):\n%s", d)
	}
	for i := range in.History.Ops {
		if o := &in.History.Ops[i]; o.Send < time.Second {
			o.Send += 2 * time.Millisecond
		}
	}
	if d := cmp.Diff([]string{"before", "quorum", "errors", "failover", "changes"}, judged()); d != "" {
		t.Errorf("judged with a base that was late (-want +got):\n%s", d)
	}
}

package check

import (
	"strings"
	"testing"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// TestHostile proves that who is served without the right to, and who is kept too
// long, makes the run violated; that an attack nobody saw the end of proves
// nothing; and that a run without any is not judged.
func TestHostile(t *testing.T) {
	for name, c := range map[string]struct {
		found []Hostile
		want  result.Verdict
		say   string
	}{
		"survived": {[]Hostile{{Fault: "a", Node: "n1", Attempts: 7, Forbidden: true}, {Fault: "b", Node: "n1", Attempts: 5, Served: 5, Longest: time.Hour}}, result.Pass, "2 attacks with 12 clients"},
		"served":   {[]Hostile{{Fault: "a", Node: "n2", Attempts: 7, Served: 1, Forbidden: true}, {Fault: "b"}}, result.Violated, "a: n2 served 1 of 7"},
		"kept":     {[]Hostile{{Fault: "a"}, {Fault: "b", Node: "n1", Longest: 20 * time.Second, Ends: 15 * time.Second}}, result.Violated, "b: n1 kept one for 20s, expected 15s at most"},
		"kept, seen late": {
			[]Hostile{{Fault: "a"}, {Fault: "b", Node: "n1", Longest: 20 * time.Second, Ends: 15 * time.Second, Late: 2 * time.Second}}, result.Violated, "b: n1 kept one for 20s, expected 15s at most",
		},
		"perhaps kept, seen too late": {
			[]Hostile{{Fault: "a"}, {Fault: "b", Node: "n1", Longest: 20 * time.Second, Ends: 15 * time.Second, Late: 3 * time.Second}}, result.Unknown, "up to 3s late to see it",
		},
		"not yet over": {[]Hostile{{Fault: "a"}}, result.Unknown, "not every attack"},
	} {
		t.Run(name, func(t *testing.T) {
			in := evidence(t, "fault a no-token n1 1000..2000\nfault b idle-streams n1 1000..2000\n")
			in.Planned[0].Hostile, in.Planned[1].Hostile = true, true
			in.Facts.Hostile = c.found
			v := new(Verdicts)
			v.hostile(in)
			if got := v.Checks[0]; got.Verdict != c.want || !strings.Contains(got.Detail, c.say) {
				t.Errorf("%s: %s, want %s: %s", got.Verdict, got.Detail, c.want, c.say)
			}
		})
	}
	v := new(Verdicts)
	if v.hostile(evidence(t, "fault k kill n1 1000..2000\n")); len(v.Checks) > 0 {
		t.Errorf("without hostile clients: %+v", v.Checks)
	}
}

// TestHostile_excusesNothing proves that a write acknowledged at leader and lost
// beside hostile clients is a violation, as it is without any fault, while the
// same loss beside a kill is within what the level promises.
func TestHostile_excusesNothing(t *testing.T) {
	for action, want := range map[string]result.Verdict{"kill": result.Pass, "idle-streams": result.Violated} {
		in := evidence(t, "fault a "+action+" n1 1000..2000\ninsert k=1 leader 1500..1510 ok\nfinal k=-\n")
		in.Planned[0].Hostile = action != "kill"
		if got := find(t, finalState(in), "lost writes"); got.Verdict != want {
			t.Errorf("%s: %s, want %s: %s", action, got.Verdict, want, got.Detail)
		}
	}
}

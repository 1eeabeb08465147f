package check

import (
	"strings"
	"testing"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// TestElsewhere proves that of a cluster which somebody else runs nothing passes
// that nobody could look at: processes and logs, copies of nodes that do not say
// what they hold, or that others write to. Where something is demanded all the
// same, what was seen counts.
func TestElsewhere(t *testing.T) {
	equal := []Digest{{Node: "n1", Applied: 9, Hash: 7}, {Node: "n2", Applied: 9, Hash: 7}}
	for name, c := range map[string]struct {
		cannot   map[string]string
		states   []Digest
		err      string
		recovery time.Duration
		state    result.Verdict
		liveness result.Verdict
		say      string
	}{
		"nobody looks":      {cannot: map[string]string{"state hash": "no admin address is given for n2", "liveness": "logs are elsewhere"}, err: "no address", state: result.NotExercised, liveness: result.NotExercised, say: "no admin address is given for n2; logs are elsewhere"},
		"others write":      {cannot: map[string]string{"liveness": "logs are elsewhere"}, states: equal[:1], err: "n1 has applied 9, n2 8", state: result.NotExercised, liveness: result.NotExercised, say: "n1 has applied 9"},
		"equal":             {states: equal, recovery: time.Second, state: result.Pass, liveness: result.Pass, say: "nobody looked at processes and logs; quorum writes went on"},
		"different, though": {states: []Digest{equal[0], {Node: "n2", Applied: 9, Hash: 8}}, err: "n3 does not say", recovery: time.Second, state: result.Violated, liveness: result.Pass, say: "the nodes differ"},
	} {
		in := evidence(t, "")
		in.Events = nil
		in.Facts.LoadFrom = 1
		in.Elsewhere, in.Cannot, in.Limit.Recovery = true, c.cannot, c.recovery
		in.Facts.States, in.Facts.StateError = c.states, c.err
		v := new(Verdicts)
		v.stateHash(in)
		state, live := v.Checks[0], liveness(in, nil, machineOf(in))
		if state.Verdict != c.state || live.Verdict != c.liveness || !strings.Contains(state.Detail+"; "+live.Detail, c.say) {
			t.Errorf("%s: state hash %s, liveness %s: %s; %s; want %s, %s: %s", name, state.Verdict, live.Verdict, state.Detail, live.Detail, c.state, c.liveness, c.say)
		}
	}
}

package check

import (
	"bytes"
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/hacache/hacache/chaos/internal/history"
	"github.com/hacache/hacache/reports/result"
)

// Bounds of what is searched for a linearization. The search is exponential in
// the number of operations that are open at once, so a key beyond them is not
// judged, and one that takes longer neither.
const (
	// MaxRegisterOps is how many operations one key may have.
	MaxRegisterOps = 500
	// MaxRegisterProcs is by how many processes they may be made; one that got
	// no answer to a write is replaced and counts twice.
	MaxRegisterProcs = 10

	linearPatience = 30 * time.Second // a key
)

// register is the history of one sampled key, in the form that can be judged.
type register struct {
	key      key
	accesses []access
	// removed says that the value 0 was written, which the zone test cannot
	// tell from the beginning.
	removed bool
	procs   int
	// across says that a legal reset of the cluster came in between.
	across bool
}

// linearizable checks that the sampled keys behaved as if each operation on
// them had taken effect at one moment between its call and its return.
//
// The zone test answers for keys that nothing was removed from. The others,
// and those that it refutes, are searched by porcupine, so that a violation has
// two witnesses, and a picture: of the first violated key, in v.Picture.
func (v *Verdicts) linearizable(in *Input, windows []result.Window) {
	c := result.Check{Name: "linearizability", Verdict: result.NotExercised, Detail: "no key was sampled"}
	registers := registersOf(in, windows)
	found := make([]finding, len(registers))
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(registers)) {
		wg.Go(func() {
			for i := range jobs {
				found[i] = registers[i].judge()
			}
		})
	}
	for i := range registers {
		jobs <- i
	}
	close(jobs)
	wg.Wait()

	var reads, across, searched int
	var unknown []string
	for i, f := range found {
		r := &registers[i]
		if f.verdict != result.NotExercised {
			reads += r.reads()
		}
		if f.searched {
			searched++
		}
		switch f.verdict {
		case result.NotExercised:
			across++
		case result.Unknown:
			unknown = append(unknown, fmt.Sprintf("%s/%s: %s", r.key.cache, r.key.entry, f.why))
		case result.Violated:
			c.Count++
			c.Examples = append(c.Examples, fmt.Sprintf("%s/%s: %s", r.key.cache, r.key.entry, f.why))
			if v.Picture == nil {
				v.Picture = r.picture(in, windows)
			}
		}
	}
	c.Examples = append(c.Examples, unknown...)
	c.Examples = c.Examples[:min(len(c.Examples), 20)]
	c.Checked = int64(len(registers) - across)
	switch {
	case c.Count > 0:
		c.Verdict = result.Violated
		c.Detail = fmt.Sprintf("%d of %d keys have no linearization; %s shows the first", c.Count, c.Checked, result.LinearFile)
	case len(unknown) > 0:
		c.Verdict, c.Detail = result.Unknown, fmt.Sprintf("%d of %d keys could not be decided; the first: %s", len(unknown), c.Checked, unknown[0])
	case reads < minimum:
		c.Detail = fmt.Sprintf("only %d linearizable reads of sampled keys were answered, expected %d at least", reads, minimum)
	default:
		c.Verdict = result.Pass
		c.Detail = fmt.Sprintf("%d keys with %d linearizable reads have a linearization, %d of them found by search", c.Checked, reads, searched)
	}
	if across > 0 {
		c.Detail += fmt.Sprintf("; %d keys not judged, since the cluster was legally formed anew meanwhile", across)
	}
	v.add(c)
}

func (r *register) reads() int {
	n := 0
	for _, a := range r.accesses {
		if !a.write {
			n++
		}
	}
	return n
}

// registersOf returns the sampled keys in the order of their names.
func registersOf(in *Input, windows []result.Window) []register {
	resets, _ := resetsOf(in, windows)
	byKey := map[key][]*history.Op{}
	for i := range in.History.Ops {
		if o := &in.History.Ops[i]; o.Phase == history.Register {
			k := key{o.Cache, o.Key}
			byKey[k] = append(byKey[k], o)
		}
	}
	registers := make([]register, 0, len(byKey))
	for k, ops := range byKey {
		r := newRegister(k, ops)
		r.across = resets.between(r.span())
		registers = append(registers, r)
	}
	slices.SortFunc(registers, func(a, b register) int {
		return cmp.Or(strings.Compare(a.key.cache, b.key.cache), strings.Compare(a.key.entry, b.key.entry))
	})
	return registers
}

// newRegister leaves out what had no effect and what nobody knows and nobody
// saw, and ends what nobody knows but somebody saw with the first who saw it.
// Neither changes whether there is a linearization: a write without an answer
// may have taken effect after everything else, unless a read shows that it had
// before that read returned. What is left of it are removes without an answer
// that some miss may have seen; they stay open to the end.
func newRegister(k key, ops []*history.Op) register {
	r := register{key: k}
	seen := map[int64]time.Duration{} // when a value was first known to be there
	lastMiss, end := time.Duration(-1), time.Duration(0)
	procs := map[int64]bool{}
	for _, o := range ops {
		end = max(end, o.Return)
		if !linearRead(o) {
			continue
		}
		if !o.Found {
			lastMiss = max(lastMiss, o.Return)
			continue
		}
		if at, known := seen[o.Version]; !known || o.Return < at {
			seen[o.Version] = o.Return
		}
	}
	for _, o := range ops {
		a := access{write: o.Write(), value: o.Version, call: o.Send, ret: o.Return, proc: o.Proc, node: o.Node}
		if o.Found && o.Version == 0 {
			a.value = -1 // nobody can have written it
		}
		switch {
		case !o.Write() && !linearRead(o), o.Outcome == history.Fail:
			continue
		case o.Outcome == history.Info && o.Removes():
			if lastMiss < o.Send {
				continue
			}
			a.ret = end + 1
		case o.Outcome == history.Info:
			at, known := seen[o.Version]
			if !known {
				continue
			}
			if at >= o.Send { // else it was read before it was sent, which is found all the same
				a.ret = at
			}
		}
		r.removed = r.removed || o.Removes()
		procs[o.Proc] = true
		r.accesses = append(r.accesses, a)
	}
	r.procs = len(procs)
	slices.SortFunc(r.accesses, func(a, b access) int { return cmp.Or(cmp.Compare(a.call, b.call), cmp.Compare(a.proc, b.proc)) })
	return r
}

func linearRead(o *history.Op) bool {
	return !o.Write() && o.Outcome == history.OK && o.Mode == "linearizable"
}

// span is from the first call to the last return.
func (r *register) span() (from, to time.Duration) {
	if len(r.accesses) == 0 {
		return 0, 0
	}
	from = r.accesses[0].call
	for _, a := range r.accesses {
		to = max(to, a.ret)
	}
	return from, to
}

// finding is what became of one register.
type finding struct {
	verdict  result.Verdict // not exercised: it cannot be judged
	why      string
	searched bool
}

func (r *register) judge() finding {
	if r.across {
		return finding{verdict: result.NotExercised}
	}
	var refuted *anachronism
	if !r.removed {
		if refuted = outOfOrder(r.accesses); refuted == nil {
			return finding{verdict: result.Pass}
		}
	}
	if len(r.accesses) > MaxRegisterOps || r.procs > MaxRegisterProcs {
		return finding{verdict: result.Unknown, why: fmt.Sprintf("%d operations by %d processes are too many to search, %d and %d at most", len(r.accesses), r.procs, MaxRegisterOps, MaxRegisterProcs)}
	}
	f := finding{searched: true}
	switch porcupine.CheckOperationsTimeout(registerModel, r.operations(), linearPatience) {
	case porcupine.Illegal:
		f.verdict = result.Violated
		f.why = fmt.Sprintf("no order of its %d operations explains what was read", len(r.accesses))
		if refuted != nil {
			f.why = refuted.String()
		}
	case porcupine.Unknown:
		f.verdict, f.why = result.Unknown, fmt.Sprintf("no answer within %v", linearPatience)
	default:
		f.verdict = result.Pass
		if refuted != nil { // a mistake of ours, and no reason to pass
			f.verdict, f.why = result.Unknown, "the zone test and porcupine disagree: "+refuted.String()
		}
	}
	return f
}

// registerModel is a register in porcupine's terms. The state is the value.
var registerModel = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, input, output any) (bool, any) {
		if a := input.(access); a.write {
			return true, a.value
		}
		return state == output, state
	},
	Hash: func(state any) uint64 { return uint64(state.(int64)) * 0x9e3779b97f4a7c15 },
	DescribeOperation: func(input, output any) string {
		a := input.(access)
		switch {
		case !a.write && a.value == 0:
			return "get: nothing"
		case !a.write:
			return fmt.Sprintf("get: %d", a.value)
		case a.value == 0:
			return "remove"
		}
		return fmt.Sprintf("insert %d", a.value)
	},
	DescribeState: func(state any) string {
		if state == int64(0) {
			return "nothing"
		}
		return fmt.Sprint(state)
	},
	DescribeOperationMetadata: func(info any) string { return fmt.Sprint(info) },
}

// operations numbers the processes from 0, as porcupine draws a lane for each.
func (r *register) operations() []porcupine.Operation {
	lanes := map[int64]int{}
	out := make([]porcupine.Operation, len(r.accesses))
	for i, a := range r.accesses {
		lane, known := lanes[a.proc]
		if !known {
			lane = len(lanes)
			lanes[a.proc] = lane
		}
		out[i] = porcupine.Operation{ClientId: lane, Input: a, Output: a.value, Call: int64(a.call), Return: int64(a.ret), Metadata: "on " + a.node}
	}
	return out
}

// picture draws the register with the faults and leaders of its time, as a page
// of its own. nil if that fails: the verdict stands without it.
func (r *register) picture(in *Input, windows []result.Window) []byte {
	_, info := porcupine.CheckOperationsVerbose(registerModel, r.operations(), linearPatience)
	from, to := r.span()
	var notes []porcupine.Annotation
	lane := func(tag, text, details, colour string, begin, end time.Duration) {
		if begin <= to && end >= from {
			notes = append(notes, porcupine.Annotation{
				Tag: tag, Description: text, Details: details, BackgroundColor: colour,
				Start: int64(max(begin, from)), End: int64(min(end, to)),
			})
		}
	}
	for _, w := range windows {
		lane("faults", w.Fault, fmt.Sprintf("%s of %s: %s", w.Action, strings.Join(w.Targets, ", "), w.Detail), "#f6d5c9", w.From, w.To)
	}
	for _, l := range reignsOf(in.Events, in.end()) {
		lane("leader", fmt.Sprintf("%s, term %d", l.node, l.term), "cluster "+l.cluster, "#cfe3f5", l.from, l.to)
	}
	info.AddAnnotations(notes)
	var page bytes.Buffer
	if err := porcupine.Visualize(registerModel, info, &page); err != nil {
		return nil
	}
	return page.Bytes()
}

// reign is a time in which a node was seen to say that it leads.
type reign struct {
	node     string
	cluster  string
	term     uint64
	from, to time.Duration
}

// reignsOf returns them in the order of their beginnings. events are in the
// order of time; each observation holds until the next one of its node.
func reignsOf(events []result.Event, end time.Duration) []reign {
	var out []reign
	open := map[string]int{} // by node
	for _, e := range events {
		if e.Kind != result.Observe {
			continue
		}
		if i, reigns := open[e.Node]; reigns {
			if l := &out[i]; e.Role == result.RoleLeader && e.Term == l.term && e.Cluster == l.cluster {
				continue
			}
			out[i].to = e.T
			delete(open, e.Node)
		}
		if e.Role == result.RoleLeader {
			open[e.Node] = len(out)
			out = append(out, reign{e.Node, e.Cluster, e.Term, e.T, end})
		}
	}
	return out
}

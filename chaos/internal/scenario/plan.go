package scenario

import (
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// Plan is what one run does and when: a pure function of a scenario and a
// seed. Times count from the end of the warm-up. Who the leader is at that
// moment is the one thing it cannot know.
type Plan struct {
	Scenario   *Scenario
	Seed       uint64
	Warmup     time.Duration
	Length     time.Duration // of the recorded load
	Injections []Injection   // in the order of At
}

// Injection is one fault at its absolute time.
type Injection struct {
	Fault *Fault
	Name  string        // unique in the plan
	At    time.Duration // with its random phase
	Heal  time.Duration // At for a fault without duration; Length at most
	Pick  uint64        // chooses among nodes where the target leaves a choice
}

// electionTimeout is the node's default, which scales the random phase of
// injections when the scenario does not change it.
const electionTimeout = 200 * time.Millisecond

// NewPlan returns the plan of a valid scenario for a seed.
func NewPlan(s *Scenario, seed uint64) *Plan {
	p := &Plan{Scenario: s, Seed: seed, Warmup: s.Warmup(), Length: s.Length()}
	rng := rand.New(rand.NewPCG(seed, 0x63_68_61_6f_73))
	timeout := electionTimeout
	if ms, err := strconv.Atoi(s.Cluster.Env["CACHE_ELECTION_TIMEOUT_MS"]); err == nil && ms > 0 {
		timeout = time.Duration(ms) * time.Millisecond
	}
	seen := map[string]int{}
	for _, f := range s.Faults {
		// Drawn for every fault, used or not: adding a field to one
		// fault must not move the others.
		phase := time.Duration(rng.Int64N(int64(timeout)))
		in := Injection{Fault: f, Name: f.Title(), At: f.At.D() + phase, Pick: rng.Uint64()}
		if seen[in.Name]++; seen[in.Name] > 1 {
			in.Name += " #" + strconv.Itoa(seen[in.Name])
		}
		switch {
		case Actions[f.Action].Instant:
			in.Heal = in.At
		case f.For == 0:
			in.Heal = p.Length
		default:
			in.Heal = in.At + f.For.D()
		}
		in.At, in.Heal = min(in.At, p.Length), min(in.Heal, p.Length)
		p.Injections = append(p.Injections, in)
	}
	slices.SortStableFunc(p.Injections, func(a, b Injection) int { return cmp.Compare(a.At, b.At) })
	return p
}

// Print writes the timeline as a table for people.
func (p *Plan) Print(w io.Writer) error {
	type row struct {
		at         time.Duration
		what, more string
	}
	rows := []row{{-p.Warmup, "start", fmt.Sprintf("%d nodes, %v warm-up", p.Scenario.Cluster.Nodes, p.Warmup)}}
	for _, name := range sortedKeys(p.Scenario.Load) {
		l := p.Scenario.Load[name]
		rows = append(rows, row{0, "load", fmt.Sprintf("%s: %v, %v, ack %v, keys %d %v, value %dB, route %s, %v", name, l.Schedule, l.Op, l.Ack, l.Keys.Count, l.Keys.Dist, l.Value, l.Route, l.Duration)})
	}
	for _, in := range p.Injections {
		rows = append(rows, row{in.At, "inject", in.Name + ": " + in.Fault.describe()})
		if in.Heal > in.At {
			rows = append(rows, row{in.Heal, "heal", in.Name})
		}
	}
	rows = append(rows, row{p.Length, "end", "heal everything, converge, read every key on every node"})
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.at, b.at) })
	if _, err := fmt.Fprintf(w, "%s, seed %d\n", p.Scenario.Name, p.Seed); err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, r := range rows {
		fmt.Fprintf(tw, "%.3fs\t%s\t  %s\n", r.at.Seconds(), r.what, r.more)
	}
	return tw.Flush()
}

func (f *Fault) describe() string {
	s := f.Action
	for _, part := range []struct{ label, value string }{
		{"", f.Target}, {"from", f.From}, {"to", f.To}, {"style", f.Style}, {"direction", f.Direction}, {"clients", f.Clients},
	} {
		if part.value != "" {
			s += " " + part.label
			if part.label != "" {
				s += " "
			}
			s += part.value
		}
	}
	if f.Latency > 0 {
		s += fmt.Sprintf(" %v ±%v", f.Latency, f.Jitter)
	}
	return s
}

// Describe says in a few words what the fault does.
func (f *Fault) Describe() string { return f.describe() }

package scenario

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
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
	Phase time.Duration // the part of At that is random
	Turn  int           // the how-manieth injection of Fault, from 0
	Pick  uint64        // chooses among nodes where the target leaves a choice

	// Series names what it belongs to if it is one of many, of which some may
	// come to nothing. Nemesis says that they were drawn, each another fault.
	Series  string
	Nemesis bool
	// Room is how long it may wait for all nodes to be well and still leave the
	// next one its time; 0: it does not wait.
	Room time.Duration
}

// wellWithin bounds how long a fault that stands alone waits for all nodes to
// be well, and leastRoom is less than which it does not wait at all.
const (
	wellWithin = 5 * time.Second
	leastRoom  = 500 * time.Millisecond
)

// giveRoom lets the faults that stand alone wait for the nodes too: one that
// hits nodes which have not recovered yet is another fault than was written
// down. One that comes beside another, or on an event, is meant to.
func (p *Plan) giveRoom() {
	for i := range p.Injections {
		in := &p.Injections[i]
		if in.Series != "" || in.Fault.On != "" {
			continue
		}
		room := min(wellWithin, p.Length-in.Heal)
		for j, other := range p.Injections {
			switch from := other.At - other.Phase; {
			case j == i:
			case from <= in.At && (in.At <= other.Heal || from >= in.At-in.Phase):
				room = 0
			case from > in.At:
				room = min(room, from-in.Heal)
			}
		}
		if room >= leastRoom {
			in.Room = room
		}
	}
}

// electionTimeout is the node's default, which scales the random phase of
// injections when the scenario does not change it.
const electionTimeout = 200 * time.Millisecond

// phase is the upper end of the random phase: one election timeout.
func (s *Scenario) phase() time.Duration {
	if ms, err := strconv.Atoi(s.Cluster.Env["CACHE_ELECTION_TIMEOUT_MS"]); err == nil && ms > 0 && ms <= 60_000 {
		return time.Duration(ms) * time.Millisecond
	}
	return electionTimeout
}

// NewPlan returns the plan of a valid scenario for a seed.
func NewPlan(s *Scenario, seed uint64) *Plan {
	p := &Plan{Scenario: s, Seed: seed, Warmup: s.Warmup(), Length: s.Length()}
	rng := rand.New(rand.NewPCG(seed, 0x63_68_61_6f_73))
	timeout := s.phase()
	seen := map[string]int{}
	faults := slices.Clone(s.Faults)
	drawn := map[*Fault]string{}
	if n := s.Nemesis; n != nil {
		heavy, mild := n.faults(&s.Cluster, p.Length, seed)
		for _, f := range heavy {
			drawn[f] = nemesisSeries
		}
		for _, f := range mild {
			drawn[f] = nemesisBeside
		}
		faults = slices.Concat(faults, heavy, mild)
	}
	for _, f := range faults {
		// Drawn for every fault, used or not: adding a field to one
		// fault must not move the others. Repetitions have a source of
		// their own for the same reason.
		phase, pick := time.Duration(rng.Int64N(int64(timeout))), rng.Uint64()
		own := rand.New(rand.NewPCG(seed, pick))
		for turn := range f.Times {
			if turn > 0 {
				phase, pick = time.Duration(own.Int64N(int64(timeout))), own.Uint64()
			}
			in := Injection{Fault: f, Name: f.Title(), At: f.At.D() + time.Duration(turn)*f.Every.D() + phase, Phase: phase, Turn: turn, Pick: pick}
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
			switch {
			case drawn[f] != "":
				in.Series, in.Nemesis = drawn[f], true
				if drawn[f] == nemesisSeries {
					in.Room = s.Nemesis.Every.D() - f.For.D() - phase
				}
			case f.Repeated():
				in.Series, in.Room = f.Title(), f.Every.D()-f.For.D()-phase
			}
			in.At, in.Heal = min(in.At, p.Length), min(in.Heal, p.Length)
			p.Injections = append(p.Injections, in)
		}
	}
	slices.SortStableFunc(p.Injections, func(a, b Injection) int { return cmp.Compare(a.At, b.At) })
	p.giveRoom()
	return p
}

// Bounds of a scaled scenario: below them it would no longer be the same one.
const (
	leastLength = 5 * time.Second
	leastFor    = time.Second
	// leastPreload is the least number of entries that a larger stock shrinks to.
	leastPreload = 10_000
	// leastRegisters is the least number of sampled keys.
	leastRegisters = 8
)

// Scale makes a valid scenario shorter, for a quick look: the load, what is there
// before it, and the times at which faults begin and for which they last. Of a repeated fault it
// is the number that shrinks, twice at least: how long each injection lasts
// and what comes between them are what the fault is. The load stays long
// enough for all faults. The factor is more than 0 and at most 1.
func (s *Scenario) Scale(factor float64) {
	scaled := func(d Duration, least time.Duration) Duration {
		return min(d, max(Duration(float64(d)*factor), Duration(least)))
	}
	var need Duration
	for _, f := range s.Faults {
		f.At = scaled(f.At, 500*time.Millisecond)
		if f.Repeated() {
			f.Times = min(f.Times, max(2, int(math.Ceil(float64(f.Times)*factor))))
		} else {
			f.For = scaled(f.For, leastFor)
		}
		end := f.At + Duration(f.Times-1)*f.Every + f.For + Duration(s.phase())
		need = max(need, end+max(f.Every-f.For, Duration(2*time.Second)))
	}
	if n := s.Nemesis; n != nil { // what it draws is what the load leaves time for
		need = max(need, n.At+4*n.Every)
	}
	if l := s.Checks.Linearizable; l != nil {
		l.Keys = min(l.Keys, max(leastRegisters, int(math.Ceil(float64(l.Keys)*factor))))
	}
	if l := s.Preload; l != nil {
		l.Entries = min(l.Entries, max(leastPreload, Count(float64(l.Entries)*factor)))
	}
	longest := Duration(s.Length())
	for _, w := range s.Load {
		w.Warmup = scaled(w.Warmup, time.Second)
		was := w.Duration
		w.Duration = min(was, max(scaled(was, leastLength), min(need, longest)))
		w.Schedule.scale(float64(w.Duration) / float64(was))
		w.Duration = cmp.Or(w.Schedule.Span(), w.Duration)
	}
}

// scale makes stages shorter; their rates stay. What comes again and again is
// not changed.
func (s *Schedule) scale(factor float64) {
	for i := range s.Stages {
		s.Stages[i].Over = Duration(float64(s.Stages[i].Over) * factor)
	}
}

// Print writes the timeline as a table for people.
func (p *Plan) Print(w io.Writer) error {
	type row struct {
		at         time.Duration
		what, more string
	}
	start := fmt.Sprintf("%d nodes", p.Scenario.Cluster.Nodes)
	if e := p.Scenario.Cluster.External; e != nil {
		start += " that run already"
		for i, n := range e.Nodes {
			start += fmt.Sprintf(", n%d at %s", i+1, n.Addr)
		}
	}
	if l := p.Scenario.Preload; l != nil {
		start += fmt.Sprintf(", %d entries of %dB in cache %s", l.Entries, l.Value, l.Cache)
	}
	start += fmt.Sprintf(", %v warm-up", p.Warmup)
	rows := []row{{-p.Warmup, "start", start}}
	for _, name := range sortedKeys(p.Scenario.Load) {
		l := p.Scenario.Load[name]
		route := "route " + l.Route
		if l.Retry > 0 {
			route = fmt.Sprintf("sent %d times", l.Retry)
		}
		rows = append(rows, row{0, "load", fmt.Sprintf("%s: %v, %v, ack %v, keys %d %v, value %dB, %s, %v", name, l.Schedule, l.Op, l.Ack, l.Keys.Count, l.Keys.Dist, l.Value, route, l.Duration)})
	}
	for _, in := range p.Injections {
		if in.Turn == 1 && in.Fault.Times > 4 { // the first says it all
			rows = append(rows, row{in.At, "...", fmt.Sprintf("%s: %d more, %v apart", in.Fault.Title(), in.Fault.Times-1, in.Fault.Every)})
		}
		if in.Turn > 0 && in.Fault.Times > 4 {
			continue
		}
		rows = append(rows, row{in.At, "inject", in.Name + ": " + in.Fault.describe()})
		if in.Heal > in.At {
			rows = append(rows, row{in.Heal, "heal", in.Name})
		}
	}
	end := "heal everything, converge, read every key on every node"
	if e := p.Scenario.Cluster.External; e != nil {
		end += fmt.Sprintf("; everything written is in cache %s and lives for %v", e.Cache, e.TTL)
		if e.Clean {
			end += ", and is removed"
		}
	}
	rows = append(rows, row{p.Length, "end", end})
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
		{"", f.Target}, {"from", strings.TrimPrefix(f.From, "rest")}, {"to", f.To}, {"style", f.Style}, {"direction", f.Direction}, {"clients", f.Clients},
	} {
		if part.value != "" {
			s += " " + part.label
			if part.label != "" {
				s += " "
			}
			s += part.value
		}
	}
	switch {
	case f.Hostile() && f.Count > 0 && f.Rate > 0:
		s += fmt.Sprintf(" (%d, %v)", f.Count, f.Rate)
	case f.Rate > 0:
		s += fmt.Sprintf(" (%v)", f.Rate)
	case f.Count > 1:
		s += fmt.Sprintf(" (%d at once)", f.Count)
	}
	for _, part := range []struct {
		given bool
		text  string
	}{
		{f.Bytes > 0, fmt.Sprintf("%dB", f.Bytes)},
		{f.GOGC > 0, fmt.Sprintf("GOGC %d", f.GOGC)},
		{f.Point != "", "at " + f.Point},
		{f.Offset != 0, fmt.Sprintf("off by %v", time.Duration(f.Offset))},
		{f.Drift != 0, fmt.Sprintf("%+g%% faster", 100*float64(f.Drift))},
		{f.Duty > 0, fmt.Sprintf("for %v of each %v", f.Duty, f.Period)},
		{f.On != "", "on " + f.On},
	} {
		if part.given {
			s += " " + part.text
		}
	}
	if f.Members > 0 {
		s += fmt.Sprintf(" n1 to n%d", f.Members)
	}
	if f.Loss > 0 {
		s += fmt.Sprintf(" %v in bursts of %d", f.Loss, f.Burst)
	}
	if f.Latency > 0 {
		s += fmt.Sprintf(" %v ±%v", f.Latency, f.Jitter)
		if f.Jitter > 0 && f.Spread != "uniform" {
			s += " " + f.Spread
		}
	}
	return s
}

// Describe says in a few words what the fault does.
func (f *Fault) Describe() string { return f.describe() }

package scenario

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v4"
)

var rewrite = flag.Bool("rewrite", false, "rewrite golden files")

const scenarios = "../../../scenarios"

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s differs (-want +got); -rewrite, then read the diff:\n%s", path, d)
	}
}

// TestParse_mistakes proves that every mistake of a file is reported at once,
// each with its place and with what was expected. Read the golden files.
func TestParse_mistakes(t *testing.T) {
	for _, name := range []string{"typos", "syntax", "empty", "small", "repeat", "unprobed", "limits", "checks", "hostile", "preload", "stock", "shapes", "schedules", "external", "elsewhere"} {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			s, err := Parse(name+".yaml", data)
			if s != nil || err == nil {
				t.Fatal("accepted")
			}
			if _, ok := errors.AsType[Errors](err); !ok {
				t.Errorf("the error is %T, want Errors", err)
			}
			golden(t, filepath.Join("testdata", name+".err"), []byte(err.Error()+"\n"))
		})
	}
}

// TestParse_valid proves that a file is read as written, with defaults only
// where nothing was.
func TestParse_valid(t *testing.T) {
	s, err := Load("testdata/valid.yaml")
	if err != nil {
		t.Fatal(err)
	}
	w := s.Load["writers"]
	if w.Schedule.Constant != 5000 || w.Value != 1024 || w.Keys.Count != 100_000 || w.Keys.Dist != (Dist{"zipf", 0.99}) {
		t.Errorf("writers: %+v", w)
	}
	if w.Route != "leader" || w.Timeout.D() != 3*time.Second || w.InFlight != 256 || w.Streams != 16 {
		t.Errorf("defaults of writers: %+v", w)
	}
	if d := cmp.Diff(w, s.Load["again"]); d != "" {
		t.Errorf("an alias differs from its anchor:\n%s", d)
	}
	if r := s.Load["readers"]; r.Schedule.Poisson != 5 || r.Op.String() != "get=90,put=10" || r.Route != "any" {
		t.Errorf("readers: %+v", r)
	}
	if f := s.Faults[0]; f.Direction != "out" || !f.OnLeader() || f.Clients != "" {
		t.Errorf("first fault: %+v", f)
	}
	if f := s.Faults[1]; f.Direction != "both" || f.OnLeader() {
		t.Errorf("second fault: %+v", f)
	}
	th := s.Thresholds["insert{phase:recovery, level:once}"][0]
	if th.Arg != 99.9 || th.Expr != "p(99.9) <= 30ms" || !th.Holds(30e6) || th.Holds(31e6) {
		t.Errorf("threshold: %+v", th)
	}
	if th := s.Thresholds["insert"]; th[0].Abort || !th[1].Abort || th[1].After.D() != 10*time.Second || th[1].Expr != "p(99.9) < 500ms" {
		t.Errorf("thresholds that abort: %+v", th)
	}
	if s.Length() != 30*time.Second || s.Warmup() != 3*time.Second {
		t.Errorf("length %v, warmup %v", s.Length(), s.Warmup())
	}
}

// TestSchedules proves that a rate may change in stages and in bursts, that
// stages say how long a load lasts, and that a scaled one has the same shape.
func TestSchedules(t *testing.T) {
	s := parse(t, `version: 1
name: schedules
about: Rates that change.
cluster: {nodes: 3}
load:
  up: {schedule: {stages: [{to: 100/s, over: 10s}, {to: 20/s, over: 30s, shape: step}]}, op: insert}
  turns: {schedule: {burst: {high: 1k/s, on: 2s, low: 10/s, off: 8s}}, duration: 40s, op: insert}
`)
	up := s.Load["up"]
	if d := cmp.Diff([]Stage{{100, Duration(10 * time.Second), "linear"}, {20, Duration(30 * time.Second), "step"}}, up.Schedule.Stages); d != "" {
		t.Errorf("stages:\n%s", d)
	}
	if up.Duration.D() != 40*time.Second || s.Length() != 40*time.Second {
		t.Errorf("stages of 40s last %v", up.Duration)
	}
	if got := up.Schedule.String(); got != "to 100/s in 10s, to 20/s in 30s step" {
		t.Errorf("described as %q", got)
	}
	s.Scale(0.5)
	if up.Duration.D() != 20*time.Second || up.Schedule.Stages[0].Over.D() != 5*time.Second || up.Schedule.Stages[1].To != 20 {
		t.Errorf("scaled by half: %v for %v", up.Schedule, up.Duration)
	}
	if b := s.Load["turns"].Schedule.Burst; b.On.D() != 2*time.Second || s.Load["turns"].Duration.D() != 20*time.Second {
		t.Errorf("scaled bursts: %+v for %v", b, s.Load["turns"].Duration)
	}
}

// TestDesign proves that the example of the design is valid as it stands.
func TestDesign(t *testing.T) {
	if _, err := Load("testdata/design.yaml"); err != nil {
		t.Error(err)
	}
}

// TestShipped proves that every shipped scenario is valid, named as its file,
// and accepted by the schema that editors use.
func TestShipped(t *testing.T) {
	files, err := filepath.Glob(scenarios + "/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	data, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	schema := new(jsonschema.Schema)
	if err := json.Unmarshal(data, schema); err != nil {
		t.Fatal(err)
	}
	resolved, err := schema.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "testdata/valid.yaml", "testdata/design.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			s, err := Load(file)
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.TrimSuffix(filepath.Base(file), ".yaml"); s.Name != want && want != "valid" && want != "design" {
				t.Errorf("is called %s", s.Name)
			}
			if s.Seed == 0 {
				t.Error("has no seed: two runs of it would differ for no reason")
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var v any
			if err := yaml.Load(raw, &v); err != nil {
				t.Fatal(err)
			}
			if err := resolved.Validate(v); err != nil {
				t.Errorf("the schema refuses it: %v", err)
			}
			if !bytes.HasPrefix(raw, []byte("# yaml-language-server: $schema=./schema.json\n")) && strings.HasPrefix(file, scenarios) {
				t.Error("does not begin with the line that points editors to the schema")
			}
		})
	}
}

func TestSchema_golden(t *testing.T) {
	data, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, scenarios+"/schema.json", data)
}

// TestPlan proves that a plan is a function of scenario and seed: the same
// seed repeats it, another moves each injection within one election timeout.
func TestPlan(t *testing.T) {
	s, err := Load("testdata/valid.yaml")
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := NewPlan(s, 1), NewPlan(s, 1), NewPlan(s, 2)
	if d := cmp.Diff(a, b); d != "" {
		t.Errorf("the same seed gives two plans:\n%s", d)
	}
	moved := false
	for i, in := range a.Injections {
		moved = moved || in.At != c.Injections[i].At
		if phase := in.At - in.Fault.At.D(); phase < 0 || phase >= electionTimeout {
			t.Errorf("%s: injected %v after its time, want less than %v", in.Name, phase, electionTimeout)
		}
		if in.Heal < in.At || in.Heal > a.Length {
			t.Errorf("%s: from %v to %v in a run of %v", in.Name, in.At, in.Heal, a.Length)
		}
	}
	if !moved {
		t.Error("another seed moved nothing")
	}
	if last := a.Injections[len(a.Injections)-1].Name; last != "leader-switch #2" {
		t.Errorf("the second leader-switch is called %q", last)
	}
	var out bytes.Buffer
	if err := a.Print(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/valid.plan", out.Bytes())
}

const repeated = `version: 1
name: repeated
about: Faults that come again.
cluster: {nodes: 3, proxies: false}
probes: {rate: 1500/s, levels: [quorum]}
load: {writers: {schedule: {constant: 10/s}, duration: 160s, warmup: 2s, op: insert}}
faults:
  - {at: 2s, every: 3s, times: 50, for: 1s, action: kill, target: leader}
  - {at: 1s, action: leader-switch}
  - {at: 2s, every: 5s, times: 3, for: 1s, action: pause, target: each, count: 2}
`

func parse(t *testing.T, text string) *Scenario {
	t.Helper()
	s, err := Parse("f.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestPlan_repeated proves that a repeated fault is planned as often as asked,
// each time at a phase of its own, and that asking for more of it moves no
// other fault.
func TestPlan_repeated(t *testing.T) {
	s := parse(t, repeated)
	if p := s.Probes; p.Rate != 1500 || len(p.Levels) != 1 || p.Interval(3) != time.Millisecond {
		t.Errorf("probes %+v, %v apart through two of three nodes", p, p.Interval(3))
	}
	if s.Cluster.Proxied() {
		t.Error("has proxies")
	}
	p := NewPlan(s, 7)
	phases, names, turns := map[time.Duration]int{}, map[string]bool{}, map[*Fault]int{}
	for _, in := range p.Injections {
		f := in.Fault
		if base := f.At.D() + time.Duration(in.Turn)*f.Every.D(); in.At != base+in.Phase || in.Phase < 0 || in.Phase >= electionTimeout {
			t.Errorf("%s at %v, want %v and a phase", in.Name, in.At, base)
		}
		if in.Turn != turns[f] {
			t.Errorf("%s is turn %d, want %d: a later one comes first", in.Name, in.Turn, turns[f])
		}
		turns[f]++
		if f.Action == "kill" {
			phases[in.Phase]++
		}
		if names[in.Name] {
			t.Errorf("%s is there twice", in.Name)
		}
		names[in.Name] = true
	}
	if turns[s.Faults[0]] != 50 || turns[s.Faults[1]] != 1 || turns[s.Faults[2]] != 3 {
		t.Errorf("injections %v", turns)
	}
	if len(phases) < 45 {
		t.Errorf("50 injections at %d phases", len(phases))
	}
	once := NewPlan(parse(t, strings.Replace(repeated, "times: 50", "times: 40", 1)), 7)
	at := func(p *Plan, name string) time.Duration {
		for _, in := range p.Injections {
			if in.Name == name {
				return in.At
			}
		}
		return 0
	}
	for _, name := range []string{"leader-switch", "pause each #2", "kill leader #40"} {
		if a, b := at(p, name), at(once, name); a != b || a == 0 {
			t.Errorf("%s at %v with 50 kills, at %v with 40", name, a, b)
		}
	}
	var out bytes.Buffer
	if err := p.Print(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/repeated.plan", out.Bytes())
}

// TestScale proves that a scaled scenario is shorter, keeps what a repeated
// fault is, and still has room for all of its faults.
func TestScale(t *testing.T) {
	s := parse(t, repeated)
	s.Scale(0.1)
	kill, pause := s.Faults[0], s.Faults[2]
	if kill.Times != 5 || kill.Every.D() != 3*time.Second || kill.For.D() != time.Second || pause.Times != 2 {
		t.Errorf("kill %d times every %v for %v, pause %d times", kill.Times, kill.Every, kill.For, pause.Times)
	}
	if s.Length() < 15*time.Second || s.Length() > 20*time.Second {
		t.Errorf("the load lasts %v", s.Length())
	}
	for _, in := range NewPlan(s, 1).Injections {
		if in.Heal >= s.Length() || in.Heal-in.At != in.Fault.For.D() {
			t.Errorf("%s from %v to %v, in a load of %v", in.Name, in.At, in.Heal, s.Length())
		}
	}
	stocked := parse(t, repeated)
	stocked.Preload = &Preload{Entries: 1_000_000}
	stocked.Scale(0.1)
	if n := stocked.Preload.Entries; n != 100_000 {
		t.Errorf("%d entries of a million are preloaded", n)
	}
	stocked.Scale(0.001)
	if n := stocked.Preload.Entries; n != leastPreload {
		t.Errorf("%d entries are preloaded at least, want %d", n, leastPreload)
	}
	whole := parse(t, repeated)
	whole.Scale(1)
	if d := cmp.Diff(parse(t, repeated), whole); d != "" {
		t.Errorf("scaling by 1 changes something:\n%s", d)
	}
}

// TestHint proves that a hint is given for a slip of the finger and not for
// another word.
func TestHint(t *testing.T) {
	names := []string{"leader", "follower", "insert", "kill"}
	for got, want := range map[string]string{"leadr": "leader", "laeder": "leader", "Leader": "leader", "kil": "kill", "insret": "insert", "banana": "", "": "", "x": ""} {
		h := hint(got, names)
		if want == "" && h != "" || want != "" && !strings.Contains(h, `"`+want+`"`) {
			t.Errorf("%q: hint %q, want %q", got, h, want)
		}
	}
}

// FuzzParse looks for input that hangs or panics, for an error without a
// place, and for a scenario that cannot be planned.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("f.yaml", data)
		if err != nil {
			for _, e := range err.(Errors) {
				if e.Message == "" || strings.Contains(e.Message, "%!") {
					t.Fatalf("bad message: %v", e)
				}
			}
			return
		}
		var out bytes.Buffer
		if err := NewPlan(s, 1).Print(&out); err != nil || out.Len() == 0 {
			t.Fatalf("valid, but cannot be planned: %v", err)
		}
	})
}

// TestPlan_room proves which faults wait for the nodes to be well: those of a
// series and those that stand alone, as long as the next one and the load leave
// them; not those that come beside another or on an event.
func TestPlan_room(t *testing.T) {
	for name, c := range map[string]struct {
		faults string
		want   string // for each fault, in seconds, rounded down; "-": it does not wait
	}{
		"alone":                 {"{at: 2s, for: 2s, action: kill, target: leader}", "5"},
		"near the end":          {"{at: 14s, for: 2s, action: kill, target: leader}", "3"},
		"too near the end":      {"{at: 17700ms, for: 2s, action: kill, target: leader}", "-"},
		"one after the other":   {"{at: 2s, for: 2s, action: kill, target: leader}, {at: 8s, for: 2s, action: kill, target: leader}", "3 5"},
		"at once":               {"{at: 2s, for: 2s, action: kill, target: leader}, {at: 2s, for: 1s, action: kill, target: n1}", "- -"},
		"beside it":             {"{at: 2s, for: 4s, action: pause, target: n1}, {at: 4s, for: 1s, action: pause, target: n2}", "- -"},
		"beside one that stays": {"{at: 2s, action: latency, latency: 5ms, target: all}, {at: 9s, action: leader-switch}", "- -"},
		"on an event":           {"{at: 2s, for: 2s, on: leader_elected, action: kill, target: leader}", "-"},
	} {
		s, err := Parse("f.yaml", []byte("version: 1\nname: x\nabout: X.\ncluster: {nodes: 3}\nload: {w: {schedule: {constant: 10/s}, duration: 20s, op: insert}}\nfaults: ["+c.faults+"]\n"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, in := range NewPlan(s, 1).Injections {
			if in.Room == 0 {
				got = append(got, "-")
				continue
			}
			got = append(got, strconv.Itoa(int(in.Room/time.Second)))
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

package scenario

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Nemesis is faults of all kinds, one after the other, drawn by the seed: what
// breaks, whom, how badly and for how long. About every other one has a milder
// one beside it.
type Nemesis struct {
	At      Duration `json:"at,omitempty" jsonschema:"when the first one comes; default 2s"`
	Every   Duration `json:"every" jsonschema:"how far they are apart, 4s to 5m; each heals within half of it, and the next comes when all nodes are well"`
	Actions []string `json:"actions,omitempty" jsonschema:"what may be drawn; default is all that breaks at most a minority and needs no fault hooks"`
}

// nemesisSeries are the series of a nemesis: what breaks nodes and links, and
// what comes beside that.
const (
	nemesisSeries = "nemesis"
	nemesisBeside = "nemesis, beside"
)

// dice draws the fields of a fault.
type dice struct {
	*rand.Rand
	nodes int
}

func (d dice) one(names ...string) string { return names[d.IntN(len(names))] }

// ms is a time from low to high, in milliseconds, short ones more often: what a
// node has to notice lies around its timeouts.
func (d dice) ms(low, high int) string {
	return fmt.Sprintf("%dms", low+int(float64(high-low)*d.Float64()*d.Float64()))
}

// cut is how traffic is cut.
func (d dice) cut() string {
	style := d.one("stall", "stall", "reject", "swallow")
	if style == "reject" || d.IntN(2) == 0 {
		return "style: " + style
	}
	return fmt.Sprintf("style: %s, direction: %s", style, d.one("in", "out"))
}

// menace is one kind of fault that a nemesis can draw.
type menace struct {
	beside bool // it is mild enough to come with another one
	fields func(d dice) string
}

func always(text string) func(dice) string { return func(dice) string { return text } }

func targeted(targets ...string) func(dice) string {
	return func(d dice) string { return "target: " + d.one(targets...) }
}

// menaces are what a nemesis draws from, by action. What ends a majority, or
// changes the members, is not among them: most of a run would prove nothing then.
// Nor is slow-close, which does nothing unless connections end.
var menaces = map[string]menace{
	"kill":  {fields: targeted("leader", "any")},
	"term":  {fields: targeted("leader", "any")},
	"pause": {fields: targeted("leader", "any")},
	"partition": {fields: func(d dice) string {
		return fmt.Sprintf("target: %s, %s", d.one("leader", "leader, from: followers", "follower", "any"), d.cut())
	}},
	"isolate": {fields: func(d dice) string {
		return fmt.Sprintf("target: %s, clients: %s, %s", d.one("leader", "follower"), d.one("kept", "cut"), d.cut())
	}},
	"split":  {fields: func(d dice) string { return "target: any, style: " + d.one("stall", "reject", "swallow") }},
	"bridge": {fields: func(d dice) string { return "target: any, style: " + d.one("stall", "reject") }},
	"ring":   {fields: func(d dice) string { return "style: " + d.one("stall", "reject") }},
	"dials": {fields: func(d dice) string {
		return fmt.Sprintf("target: any, style: %s, direction: %s", d.one("reject", "stall"), d.one("in", "out"))
	}},
	"starve":        {fields: func(d dice) string { return fmt.Sprintf("target: any, duty: %d%%", 30+d.IntN(60)) }},
	"memory":        {fields: always("target: any, gogc: 10, bytes: 64MiB")},
	"fd-limit":      {fields: always("target: any")},
	"leader-switch": {fields: always("")},
	"clock": {fields: func(d dice) string {
		return fmt.Sprintf("target: any, offset: %s%dm", d.one("", "-"), 1+d.IntN(600))
	}},
	"failpoint": {fields: func(d dice) string {
		return fmt.Sprintf("target: any, point: %s", d.one("before-append", "after-append", "before-apply"))
	}},

	"latency": {beside: true, fields: func(d dice) string {
		latency := 1 + d.IntN(60)
		return fmt.Sprintf("target: %s, latency: %dms, jitter: %dms, spread: %s", d.one("all", "any", "leader"), latency, d.IntN(latency+1), d.one("uniform", "normal", "pareto"))
	}},
	"loss": {beside: true, fields: func(d dice) string {
		return fmt.Sprintf("target: %s, loss: %d%%, burst: %d", d.one("all", "any"), 1+d.IntN(4), 1+d.IntN(5))
	}},
	"bandwidth": {beside: true, fields: func(d dice) string {
		return fmt.Sprintf("target: %s, bytes: %dKiB", d.one("all", "any"), 512<<d.IntN(4))
	}},
	"slice": {beside: true, fields: func(d dice) string { return fmt.Sprintf("target: any, bytes: %dB", 64<<d.IntN(5)) }},
	"cut-after": {beside: true, fields: func(d dice) string {
		return fmt.Sprintf("target: all, bytes: %dKiB", 4<<d.IntN(3))
	}},
	"reset":           {beside: true, fields: targeted("any", "leader", "link")},
	"stall":           {beside: true, fields: always("target: link")},
	"half-open":       {beside: true, fields: always("target: any, count: 100")},
	"idle-streams":    {beside: true, fields: always("target: any, count: 500")},
	"half-frame":      {beside: true, fields: always("target: any, count: 50")},
	"garbage":         {beside: true, fields: always("target: any, rate: 20/s")},
	"no-token":        {beside: true, fields: always("target: any, rate: 20/s")},
	"wrong-token":     {beside: true, fields: always("target: any, rate: 20/s")},
	"header-bomb":     {beside: true, fields: always("target: any, rate: 5/s")},
	"reconnect-storm": {beside: true, fields: always("target: any, rate: 50/s")},
	"stream-flood":    {beside: true, fields: always("target: any, rate: 200/s")},
}

// drawable lists what a nemesis may draw in a cluster, all of it unless it
// says what.
func (n *Nemesis) drawable(c *Cluster, beside bool) []string {
	return slices.DeleteFunc(sortedKeys(menaces), func(name string) bool {
		a := Actions[name]
		switch {
		case menaces[name].beside != beside, c.Nodes < a.Nodes, a.Links && (!c.Proxied() || c.Nodes < 2):
			return true
		case len(n.Actions) > 0:
			return !slices.Contains(n.Actions, name)
		}
		return a.Hooks
	})
}

// faults draws the faults of a nemesis for a load of so long. They are read like
// those of a file, so that they are as valid.
func (n *Nemesis) faults(c *Cluster, length time.Duration, seed uint64) (main, beside []*Fault) {
	d := dice{rand.New(rand.NewPCG(seed, 0x6e_65_6d_65_73_69_73)), c.Nodes}
	every := n.Every.D()
	heavies, milds := n.drawable(c, false), n.drawable(c, true)
	var heavy, mild strings.Builder
	draw := func(lines *strings.Builder, from []string, at time.Duration) {
		name := from[d.IntN(len(from))]
		fmt.Fprintf(lines, "  - {at: %dms, action: %s", at.Milliseconds(), name)
		if !Actions[name].Instant {
			fmt.Fprintf(lines, ", for: %s", d.ms(100, int(every.Milliseconds()/2)))
		}
		if more := menaces[name].fields(d); more != "" {
			lines.WriteString(", " + more)
		}
		lines.WriteString("}\n")
	}
	for at := n.At.D(); at+every <= length; at += every {
		second, offset := d.IntN(2) == 0, time.Duration(d.Int64N(int64(every/4)))
		if len(heavies) > 0 {
			draw(&heavy, heavies, at)
		}
		if len(milds) > 0 && (second || len(heavies) == 0) {
			draw(&mild, milds, at+offset)
		}
	}
	return readFaults(c, length, heavy.String()), readFaults(c, length, mild.String())
}

// readFaults reads the lines of a list of faults.
func readFaults(c *Cluster, length time.Duration, lines string) []*Fault {
	if lines == "" {
		return nil
	}
	s, err := Parse("nemesis", fmt.Appendf(nil, "version: 1\nname: nemesis\nabout: drawn\ncluster: {nodes: %d, proxies: %t}\nload: {w: {schedule: {constant: 1/s}, duration: %dms, op: insert}}\nfaults:\n%s",
		c.Nodes, c.Proxied(), length.Milliseconds(), lines))
	if err != nil {
		panic(fmt.Sprintf("scenario: a nemesis drew what no file may have: %v", err))
	}
	return s.Faults
}

// Bounds of how far the faults of a nemesis are apart: nodes need seconds to be
// well again, and an hour should hold more than a few.
const (
	leastNemesis = 4 * time.Second
	mostNemesis  = 5 * time.Minute
)

func (s *Scenario) validateNemesis(d *decoder) {
	n := s.Nemesis
	if n == nil {
		return
	}
	if d.at["nemesis.at"] == nil {
		n.At = Duration(2 * time.Second)
	}
	for i, name := range n.Actions {
		path := fmt.Sprintf("nemesis.actions[%d]", i)
		m, known := menaces[name]
		switch a := Actions[name]; {
		case !known && slices.Contains(slices.Collect(maps.Keys(Actions)), name):
			d.errorAt(path, "%s is not for a nemesis; expected some of %s", name, strings.Join(sortedKeys(menaces), ", "))
		case !known:
			d.errorAt(path, "unknown action %q%s; expected some of %s", name, hint(name, sortedKeys(menaces)), strings.Join(sortedKeys(menaces), ", "))
		case s.Cluster.Nodes >= 1 && !slices.Contains(n.drawable(&s.Cluster, m.beside), name):
			d.errorAt(path, "%s needs %d nodes at least%s", name, a.Nodes, map[bool]string{true: ", and proxies"}[a.Links])
		}
	}
	switch {
	case d.at["nemesis.every"] == nil: // reported as missing
	case n.Every.D() < leastNemesis || n.Every.D() > mostNemesis:
		d.errorAt("nemesis.every", "%v; expected %v to %v", n.Every, leastNemesis, mostNemesis)
	case s.Length() > 0 && n.At.D()+n.Every.D() > s.Length():
		d.errorAt("nemesis.every", "%v: the load of %v ends before the first one has healed", n.Every, s.Length())
	}
}

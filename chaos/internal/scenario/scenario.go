// Package scenario reads scenario files and turns them into plans.
//
// A scenario file is strict YAML: an unknown field, a bad unit, an option that
// this version does not build, or a target that the cluster cannot have is an
// error. [Parse] reports every mistake of a file at once, each with its line
// and column, so that one run of "chaos validate" is enough. A [Scenario] that
// Parse returned is valid and complete: defaults are filled in and no field
// needs to be checked again. [NewPlan] adds a seed to it and yields the
// absolute timeline that a run follows.
package scenario

import (
	"slices"
	"time"
)

// Version is the only value that a file's version field may have.
const Version = 1

// Scenario is one scenario file. The json tags name the fields in YAML too.
type Scenario struct {
	Version    int                    `json:"version" jsonschema:"version of this format: 1"`
	Name       string                 `json:"name" jsonschema:"short name in lower case with hyphens; run directories are named after it"`
	About      string                 `json:"about" jsonschema:"one sentence: what happens, and what must hold"`
	Seed       uint64                 `json:"seed,omitempty" jsonschema:"seed of every random choice; chaos run --seed overrides it; 0 draws one"`
	Cluster    Cluster                `json:"cluster" jsonschema:"the cluster that is started for each repetition, or that runs already"`
	Preload    *Preload               `json:"preload,omitempty" jsonschema:"entries that are there before the load begins"`
	Load       map[string]*Workload   `json:"load" jsonschema:"workloads by name; all start together"`
	Probes     Probes                 `json:"probes,omitempty" jsonschema:"the harness's own steady writes, through every node in turn; they time failovers"`
	Nemesis    *Nemesis               `json:"nemesis,omitempty" jsonschema:"faults of all kinds, drawn by the seed"`
	Faults     []*Fault               `json:"faults,omitempty" jsonschema:"the faults, in any order"`
	Checks     Checks                 `json:"checks,omitempty" jsonschema:"what must hold; run validity is always checked first"`
	Thresholds map[string][]Threshold `json:"thresholds,omitempty" jsonschema:"limits by metric: an operation such as insert or insert{phase:recovery,level:quorum}, errors, failed_writes, failover, recovery, back_to_normal, ready, leader_changes, memory"`
}

// Cluster says which processes to start, or where they run.
type Cluster struct {
	Nodes int `json:"nodes" jsonschema:"number of nodes, 1 to 7; they are called n1, n2 and so on"`
	// Members is how many of them form the cluster; the others wait to be let
	// in by action members. Load and probes go to those members only.
	Members int               `json:"members,omitempty" jsonschema:"how many of the nodes, from n1 on, form the cluster; the others wait for action members, and load and probes leave them out; default all"`
	Caches  []Cache           `json:"caches,omitempty" jsonschema:"policies of named caches; what may be evicted or expire is not missed by the checks"`
	Env     map[string]string `json:"env,omitempty" jsonschema:"additional environment of every node: CACHE_... and variables of the Go runtime such as GOGC"`
	TLS     bool              `json:"tls,omitempty" jsonschema:"TLS 1.3 with certificates on both sides, made for the run"`
	// Proxies is false for nodes and clients that connect directly, so that no
	// byte passes through the harness; nil is true.
	Proxies  *bool     `json:"proxies,omitempty" jsonschema:"whether a proxy stands between nodes, and between clients and nodes (default true); without them only processes can be broken"`
	External *External `json:"external,omitempty" jsonschema:"a cluster that runs already, elsewhere; nothing is started then"`
}

// Proxied reports whether links stand between the nodes.
func (c *Cluster) Proxied() bool { return c.Proxies == nil || *c.Proxies }

// Cache is the policy of one named cache.
type Cache struct {
	Name       string   `json:"name" jsonschema:"name of the cache; workloads that name none use bench"`
	MaxEntries Count    `json:"max_entries,omitempty" jsonschema:"upper bound of entries; without it there is none"`
	MaxBytes   Size     `json:"max_bytes,omitempty" jsonschema:"upper bound of keys, values and overhead; without it there is none"`
	TTL        Duration `json:"ttl,omitempty" jsonschema:"life of an entry; without it there is no end"`
	Evict      string   `json:"evict,omitempty" jsonschema:"how room is made: oldest-write (default; alike on all nodes) or lru"`
}

// Forgets reports whether entries may go without being removed.
func (c *Cache) Forgets() bool { return c.MaxEntries > 0 || c.MaxBytes > 0 || c.TTL > 0 }

// DefaultCache is where a workload writes that names no cache.
const DefaultCache = "bench"

// Preload is a stock of entries that is written as fast as the nodes take it,
// before the load. Its keys are those of workloads on the same cache, so that
// one with as many keys writes to all of them, and one with fewer to some.
type Preload struct {
	Entries Count  `json:"entries" jsonschema:"number of entries, 10M at most; a workload on the same cache uses the same keys"`
	Value   Size   `json:"value,omitempty" jsonschema:"size of values; default 128B, at least 32B, at most 1MiB"`
	Cache   string `json:"cache,omitempty" jsonschema:"name of the cache, one without bounds and ttl; default bench"`
}

// Workload is one open or closed loop of operations.
type Workload struct {
	Schedule Schedule `json:"schedule" jsonschema:"when operations are intended to start"`
	Duration Duration `json:"duration,omitempty" jsonschema:"length of the recorded part; stages have their own"`
	Warmup   Duration `json:"warmup,omitempty" jsonschema:"unrecorded load before it"`
	Streams  int      `json:"streams,omitempty" jsonschema:"streams the operations are spread over; default 4"`
	InFlight int      `json:"in_flight,omitempty" jsonschema:"operations in flight on one stream at most; default 256"`
	Cache    string   `json:"cache,omitempty" jsonschema:"name of the cache; default bench"`
	Op       Op       `json:"op" jsonschema:"the operation"`
	Ack      Ack      `json:"ack,omitempty" jsonschema:"ack level of writes, or weights of several; default quorum"`
	Read     string   `json:"read,omitempty" jsonschema:"read mode of gets: local (default), leader_on_miss or linearizable"`
	Keys     Keys     `json:"keys,omitempty" jsonschema:"which keys"`
	Value    Size     `json:"value,omitempty" jsonschema:"size of values; default 128B, at least 32B, at most 1MiB"`
	Route    string   `json:"route,omitempty" jsonschema:"nodes that get the operations: any (default for gets), leader (default for writes)"`
	Retry    int      `json:"retry,omitempty" jsonschema:"every operation is sent so many times, 2 to 5, under one session tag and through different nodes, and must take effect once; insert and remove at quorum only"`
	Timeout  Duration `json:"timeout,omitempty" jsonschema:"after which an unanswered operation counts as unknown; default 3s"`
}

// Probes are writes of the harness itself, sent through every node in turn.
type Probes struct {
	Rate   Rate     `json:"rate,omitempty" jsonschema:"probes a second of each level, all nodes together; default 200/s"`
	Levels []string `json:"levels,omitempty" jsonschema:"ack levels to probe; default quorum, once and leader"`
}

// Interval is the time between two probes of one level that go through the
// nodes which one fault on a single node leaves: how finely it can be timed.
func (p *Probes) Interval(nodes int) time.Duration {
	left := float64(max(nodes-1, 1)) / float64(nodes)
	return time.Duration(float64(time.Second) / (float64(p.Rate) * left))
}

// Keys says which keys a workload touches.
type Keys struct {
	Count Count `json:"count,omitempty" jsonschema:"number of keys; default 100k"`
	Dist  Dist  `json:"dist,omitempty" jsonschema:"distribution over them: uniform (default), zipf(THETA), sequential, or once: every write has a key of its own"`
}

// Fault is one fault on the timeline. Which fields an action takes is in
// [Actions]; any other field is an error.
type Fault struct {
	Name      string   `json:"name,omitempty" jsonschema:"name in reports; default is the action and the target"`
	At        Duration `json:"at" jsonschema:"start, counted from the end of the warm-up; a random phase of up to one election timeout is added"`
	For       Duration `json:"for,omitempty" jsonschema:"how long until it heals; without it until the load ends"`
	Every     Duration `json:"every,omitempty" jsonschema:"the fault is injected again and again, this far apart; each time at another random phase, and only while all nodes are well"`
	Times     int      `json:"times,omitempty" jsonschema:"how often, with every"`
	On        string   `json:"on,omitempty" jsonschema:"wait, from at on, until this is seen: leader_elected (another node leads), leader_lost (no node says it leads) or process_started; then comes the random phase"`
	Action    string   `json:"action" jsonschema:"what breaks, such as kill, partition or latency; or what hostile clients do, such as half-open or overload"`
	Target    string   `json:"target,omitempty" jsonschema:"leader, follower (one, by seed), followers, any (one, by seed), each (every node in turn), all, or a node: n1, n2 and so on; reset, stall: link (one, by seed) too"`
	Count     Count    `json:"count,omitempty" jsonschema:"kill, term, pause with target any, follower or each: so many nodes at once, default 1; split: nodes on the target's side, default the largest minority; fd-limit: descriptors that the target may still open, default 0; hostile clients: so many connections, streams, frames or open operations on each target"`
	Rate      Rate     `json:"rate,omitempty" jsonschema:"hostile clients: so many a second on each target"`
	Value     Size     `json:"value,omitempty" jsonschema:"never-reads, overload: size of values; huge-message: of the message"`
	From      string   `json:"from,omitempty" jsonschema:"the other side: followers, follower (one, by seed), leader, rest (default) or a node; for what slows a link clients too"`
	Clients   string   `json:"clients,omitempty" jsonschema:"isolate: whether the target keeps its clients: kept (default) or cut"`
	Style     string   `json:"style,omitempty" jsonschema:"cuts: stall (default; bytes wait and are delivered on heal), reject (connections closed, dials refused) or swallow (half-open: bytes are gone, connections closed on heal); dials: reject (default; what is open is closed too) or stall (only new connections are held)"`
	Direction string   `json:"direction,omitempty" jsonschema:"both (default), in or out, as seen from the target; dials: who dials, out by default; style reject knows both only"`
	Latency   Duration `json:"latency,omitempty" jsonschema:"latency: one way; slice: pause between pieces; slow-close: by how much ends are late"`
	Jitter    Duration `json:"jitter,omitempty" jsonschema:"latency: plus or minus so much, or the standard deviation where spread says so"`
	Spread    string   `json:"spread,omitempty" jsonschema:"latency: how jitter is distributed: uniform (default), normal or pareto"`
	Bytes     Size     `json:"bytes,omitempty" jsonschema:"bandwidth: a second, each way; slice: of one piece; cut-after: of one connection, then it is closed; memory: GOMEMLIMIT"`
	Period    Duration `json:"period,omitempty" jsonschema:"partition, isolate, split, bridge, ring: the cut comes and goes (flapping), so often; starve: default 100ms"`
	Duty      Share    `json:"duty,omitempty" jsonschema:"share of each period in which the cut is there, or the process stopped"`
	GOGC      int      `json:"gogc,omitempty" jsonschema:"memory: GOGC of the process"`
	Offset    Shift    `json:"offset,omitempty" jsonschema:"clock: by how much the wall clock of the target is wrong"`
	Drift     Drift    `json:"drift,omitempty" jsonschema:"clock: how much faster or slower it goes"`
	Point     string   `json:"point,omitempty" jsonschema:"failpoint: where the process ends"`
	Loss      Percent  `json:"loss,omitempty" jsonschema:"loss: share of transmissions that are late by a retransmission timeout, as TCP makes of lost packets"`
	Burst     int      `json:"burst,omitempty" jsonschema:"loss: mean number of transmissions in a row that are hit (Gilbert-Elliott); default 3"`
	Members   int      `json:"members,omitempty" jsonschema:"members: how many nodes, from n1 on, shall make up the cluster"`
	To        string   `json:"to,omitempty" jsonschema:"leader-switch: the node to hand over to; default is the node's choice"`
}

// Checks says which properties a run is judged by. The zero value judges by
// run validity and liveness only.
type Checks struct {
	LostWrites   bool            `json:"lost_writes,omitempty" jsonschema:"no write acked at quorum may be lost, and nothing removed come back; losses at the other levels are counted"`
	Loss         map[string]Loss `json:"loss,omitempty" jsonschema:"how much of what once or leader acknowledged may be lost at most, by level; without it what the level allows"`
	Session      bool            `json:"session,omitempty" jsonschema:"a client that stays at a node reads its own writes, and nothing older than it has read there"`
	StaleReads   *StaleReads     `json:"stale_reads,omitempty" jsonschema:"no local read may be older than this"`
	Linearizable *Linearizing    `json:"linearizable,omitempty" jsonschema:"quorum writes and linearizable reads of sampled keys, by several processes at once, must have an order that explains them"`
	Recovery     Duration        `json:"recovery,omitempty" jsonschema:"after each heal, and while no majority is hit, a write at quorum must be acknowledged within this time"`
	Converge     Duration        `json:"converge,omitempty" jsonschema:"after the last heal all nodes must have applied the same within this time; default 10s"`
	StateHash    bool            `json:"state_hash,omitempty" jsonschema:"in the end the nodes must hold the same, also in caches that evict by the log or expire"`
}

// Loss bounds the losses of an ack level that may lose writes.
type Loss struct {
	Rate   Percent  `json:"rate,omitempty" jsonschema:"share of the acknowledged writes"`
	Window Duration `json:"window,omitempty" jsonschema:"how far from the beginning of its fault a lost write may have been acknowledged, before or after"`
}

// StaleReads bounds the age of what a local read returns.
type StaleReads struct {
	Max Duration `json:"max" jsonschema:"the bound; the node promises 500ms"`
}

// Linearizing is the sample size of the linearizability check.
type Linearizing struct {
	Keys int `json:"keys" jsonschema:"number of keys to sample, four at a time; each gets up to 100 operations a second and 500 at most"`
}

// Duration of a fault until it heals, or of a workload. In YAML: 200ms, 1.5s, 2m.
type Duration time.Duration

func (d Duration) D() time.Duration { return time.Duration(d) }
func (d Duration) String() string   { return time.Duration(d).String() }

// Warmup returns the longest warm-up of all workloads: the time between the
// start of the load and the origin of the timeline.
func (s *Scenario) Warmup() time.Duration {
	var w time.Duration
	for _, l := range s.Load {
		w = max(w, l.Warmup.D())
	}
	return w
}

// Length returns how long the recorded load lasts.
func (s *Scenario) Length() time.Duration {
	var d time.Duration
	for _, l := range s.Load {
		d = max(d, l.Duration.D())
	}
	return d
}

// Action describes what one kind of fault takes.
type Action struct {
	About    string
	Optional []string // fields besides name, at, every, times and action
	Required []string
	Nodes    int  // the least number of nodes that it makes sense with
	Instant  bool // it has no duration
	Links    bool // it needs proxies
	Hooks    bool // it needs a node with fault hooks

	// Hostile actions break nothing: they are clients. MaxCount and MaxRate bound
	// what they may be told, Value is the default of its field.
	Hostile  bool
	MaxCount int
	MaxRate  Rate
	Value    Size
}

// Actions are the faults that this version builds, by the name they have in files.
var Actions = map[string]Action{
	"kill":          {About: "SIGKILL; the process is started again on heal, empty and as a new member", Required: []string{"target"}, Optional: []string{"for", "count"}, Nodes: 1},
	"term":          {About: "SIGTERM, the orderly stop; the process is started again on heal", Required: []string{"target"}, Optional: []string{"for", "count"}, Nodes: 1},
	"pause":         {About: "SIGSTOP, SIGCONT on heal", Required: []string{"target"}, Optional: []string{"for", "count"}, Nodes: 1},
	"partition":     {About: "the links between target and from are cut; clients are not", Required: []string{"target"}, Optional: []string{"for", "from", "style", "direction", "period", "duty"}, Nodes: 2, Links: true},
	"isolate":       {About: "the target is cut off from all other nodes, and from its clients if asked", Required: []string{"target"}, Optional: []string{"for", "clients", "style", "direction", "period", "duty"}, Nodes: 2, Links: true},
	"split":         {About: "the target and some others are cut off from the rest", Required: []string{"target"}, Optional: []string{"for", "count", "style", "period", "duty"}, Nodes: 3, Links: true},
	"bridge":        {About: "two halves do not see each other, and the target sees both", Required: []string{"target"}, Optional: []string{"for", "style", "period", "duty"}, Nodes: 3, Links: true},
	"ring":          {About: "each node sees a majority, and no two see the same one", Optional: []string{"for", "style", "period", "duty"}, Nodes: 5, Links: true},
	"dials":         {About: "connections between target and from can be opened by one side only", Required: []string{"target"}, Optional: []string{"for", "from", "style", "direction"}, Nodes: 2, Links: true},
	"stall":         {About: "one link delivers nothing until it heals, the others are left alone", Required: []string{"target", "for"}, Nodes: 2, Links: true},
	"latency":       {About: "every link between the target and from becomes slow", Required: []string{"target", "latency"}, Optional: []string{"for", "jitter", "spread", "direction", "from"}, Nodes: 2, Links: true},
	"loss":          {About: "transmissions between the target and from are late, as lost packets are; nothing is missing", Required: []string{"target", "loss"}, Optional: []string{"for", "burst", "direction", "from"}, Nodes: 2, Links: true},
	"bandwidth":     {About: "every link between the target and from carries so many bytes a second", Required: []string{"target", "bytes"}, Optional: []string{"for", "direction", "from"}, Nodes: 1, Links: true},
	"slice":         {About: "what is sent arrives in small pieces", Required: []string{"target", "bytes"}, Optional: []string{"for", "latency", "direction", "from"}, Nodes: 1, Links: true},
	"slow-close":    {About: "the end of a connection arrives late", Required: []string{"target", "latency"}, Optional: []string{"for", "direction", "from"}, Nodes: 1, Links: true},
	"cut-after":     {About: "each connection is closed after so many bytes", Required: []string{"target", "bytes"}, Optional: []string{"for", "direction", "from"}, Nodes: 1, Links: true},
	"starve":        {About: "the target gets a processor for a part of the time only (SIGSTOP and SIGCONT in turns)", Required: []string{"target", "duty"}, Optional: []string{"for", "period"}, Nodes: 1},
	"memory":        {About: "the target is stopped in order and started again with little memory (GOMEMLIMIT, GOGC), and on heal without", Required: []string{"target"}, Optional: []string{"for", "bytes", "gogc"}, Nodes: 1},
	"fd-limit":      {About: "the target can open no more descriptors (prlimit), and has as many as it may", Required: []string{"target"}, Optional: []string{"for", "count"}, Nodes: 1},
	"clock":         {About: "the wall clock of the target is wrong; needs a node built with the tag faults", Required: []string{"target"}, Optional: []string{"for", "offset", "drift"}, Nodes: 1, Hooks: true},
	"failpoint":     {About: "the target ends at a point of its code, as by kill -9, and is started again on heal; needs a node built with the tag faults", Required: []string{"target", "point"}, Optional: []string{"for"}, Nodes: 1, Hooks: true},
	"reset":         {About: "every connection between the target and other nodes is closed once; with target link one connection of one link", Required: []string{"target"}, Nodes: 2, Instant: true, Links: true},
	"members":       {About: "an operator changes the hosts of the cluster to so many nodes, from n1 on; whatever is started later has the new list", Required: []string{"members"}, Nodes: 2, Instant: true},
	"leader-switch": {About: "an operator asks the leader to hand over", Optional: []string{"to"}, Nodes: 2, Instant: true},

	"idle-streams":     nuisance("count streams that are silent after the greeting, 100 to a connection", "count", 20_000, 0, 0),
	"never-reads":      nuisance("count clients that ask for a large value over and over and take no answer", "count", 500, 0, 1<<20),
	"half-frame":       nuisance("count clients that fall silent in the middle of a frame, a message or a header", "count", 2_000, 0, 0),
	"half-open":        nuisance("count connections that never finish their handshake", "count", 10_000, 0, 0),
	"huge-message":     nuisance("messages far beyond the limit", "rate", 0, 100, 64<<20),
	"garbage":          nuisance("connections with bytes that are not the protocol, or no longer", "rate", 0, 1_000, 0),
	"no-token":         nuisance("streams without a token", "rate", 0, 1_000, 0),
	"wrong-token":      nuisance("streams with another token, or nearly the right one", "rate", 0, 1_000, 0),
	"peer-claim":       nuisance("clients that say they are a node", "rate", 0, 1_000, 0),
	"wrong-protocol":   nuisance("plain text or an old TLS where TLS is wanted, TLS where it is not", "rate", 0, 1_000, 0),
	"compression-bomb": nuisance("messages of 1 MiB that would be 1 GiB", "rate", 0, 100, 0),
	"header-bomb":      nuisance("headers of 16 KiB that would be 47 MiB, and headers that do not end", "rate", 0, 100, 0),
	"reconnect-storm":  nuisance("clients that connect, are greeted, and are gone", "rate", 0, 2_000, 0),
	"stream-flood":     nuisance("streams that are opened and reset at once", "rate", 0, 20_000, 0),
	"tiny-frames":      nuisance("count frames as small as frames can be, rate a second", "both", 10_000_000, 500_000, 0),
	"overload":         nuisance("rate inserts a second, count of them open at most; what finds no room is not sent", "both", 100_000, 2_000_000, 1<<10),
}

// nuisance is the action of hostile clients that take a count, a rate, or both.
func nuisance(about, takes string, maxCount int, maxRate Rate, value Size) Action {
	a := Action{About: about, Required: []string{"target"}, Optional: []string{"for"}, Nodes: 1, Hostile: true, MaxCount: maxCount, MaxRate: maxRate, Value: value}
	switch takes {
	case "both":
		a.Required = append(a.Required, "count", "rate")
	default:
		a.Required = append(a.Required, takes)
	}
	if value > 0 {
		a.Optional = append(a.Optional, "value")
	}
	return a
}

// otherNames are what the literature, or another tool, calls something that has
// another name here.
var otherNames = map[string]string{
	"slicer": "slice", "slow_close": "slow-close", "limit_data": "cut-after", "reset_peer": "reset", "timeout": "isolate with style: swallow",
	"blackhole": "isolate with style: stall", "flapping": "partition with period and duty", "crash-loop": "kill with every and times",
	"cpu": "starve", "fd": "fd-limit", "skew": "clock with offset", "ring-majorities": "ring", "majorities-ring": "ring",
}

// Points are the places at which action failpoint can end a process.
var Points = []string{"before-append", "after-append", "before-apply", "snapshot-send", "snapshot-receive", "during-swap"}

// anyTime are those that a cluster under load comes to at any time; the others
// need another node that wants a copy.
var anyTime = []string{"before-append", "after-append", "before-apply"}

// Occasions are what a fault can wait for.
var Occasions = []string{"leader_elected", "leader_lost", "process_started"}

// OnLeader reports whether the fault takes the leader away from the cluster,
// so that the run must show a failover.
func (f *Fault) OnLeader() bool {
	if f.Period > 0 { // it may be back before anybody has noticed
		return false
	}
	switch f.Action {
	case "failpoint":
		return f.Target == "leader" && slices.Contains(anyTime, f.Point)
	case "kill", "term", "pause", "isolate", "memory", "split":
		return f.Target == "leader"
	case "partition":
		return f.Target == "leader" && (f.From == "rest" || f.From == "followers")
	case "leader-switch":
		return true
	}
	return false
}

// Restarts reports whether the fault ends processes, which start again when it
// heals.
func (f *Fault) Restarts() bool { return f.Action == "kill" || f.Action == "term" }

// Hostile reports whether the fault is clients that misbehave: it breaks no node
// and no link.
func (f *Fault) Hostile() bool { return Actions[f.Action].Hostile }

// NeedsHooks reports whether a fault needs a node that was built with the tag
// "faults".
func (s *Scenario) NeedsHooks() bool {
	if s.Nemesis != nil && slices.ContainsFunc(s.Nemesis.Actions, func(name string) bool { return Actions[name].Hooks }) {
		return true
	}
	return slices.ContainsFunc(s.Faults, func(f *Fault) bool { return Actions[f.Action].Hooks })
}

// calm reports whether there is no fault at all.
func (s *Scenario) calm() bool { return len(s.Faults) == 0 && s.Nemesis == nil }

// Repeated reports whether the fault is injected more than once.
func (f *Fault) Repeated() bool { return f.Times > 1 }

// Title returns the fault's name in reports.
func (f *Fault) Title() string {
	if f.Name != "" {
		return f.Name
	}
	if f.Target == "" {
		return f.Action
	}
	return f.Action + " " + f.Target
}

// TakesField reports whether an action has the named field.
func (a Action) TakesField(name string) bool {
	return slices.Contains(a.Required, name) || slices.Contains(a.Optional, name)
}

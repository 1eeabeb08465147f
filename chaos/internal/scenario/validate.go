package scenario

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	validName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	// Names that begin with an underscore are the harness's own.
	validCache = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,99}$`)
	nodeName   = regexp.MustCompile(`^n[0-9]+$`)
)

// Bounds on what a file may ask for. They keep a typing mistake from filling
// a disk or running for a day.
const (
	maxNodes  = 7
	maxLength = time.Hour
	maxFaults = 1000
	maxTimes  = 2000 // injections of one fault
	maxProbes = 10_000
	// maxRegisters bounds the sample of an hour to what can be judged in minutes.
	maxRegisters = 10_000
	minValue     = 32 // room for writer, sequence number and checksum
	maxValue     = 1 << 20
	maxStreams   = 1024
	maxInFlight  = 1024 // a node reads no further on a stream

	MaxRetry = 5 // how often one operation may be sent

	maxPreload      = 10_000_000
	maxPreloadBytes = 4 << 30 // of values; each node holds them all

	maxHuge = 256 << 20 // of a message that is meant to be refused
)

// validate fills in defaults and reports whatever one field alone cannot show.
func (s *Scenario) validate(d *decoder) {
	if s.Version != Version && d.at["version"] != nil {
		d.errorAt("version", "%d; expected %d", s.Version, Version)
	}
	if !validName.MatchString(s.Name) && d.at["name"] != nil {
		d.errorAt("name", "%q; expected lower case letters, digits and single hyphens, such as leader-kill", s.Name)
	}
	s.validateCluster(d)
	s.validatePreload(d)
	s.validateProbes(d)
	if len(s.Load) == 0 && d.at["load"] != nil {
		d.errorAt("load", "no workload; a run without load shows nothing")
	}
	for _, name := range sortedKeys(s.Load) {
		s.Load[name].validate(d, "load."+name)
	}
	s.validateExternal(d)
	if s.Length() > maxLength {
		d.errorAt("load", "the load lasts %v; expected %v at most", s.Length(), maxLength)
	}
	if len(s.Faults) > maxFaults {
		d.errorAt("faults", "%d faults; expected %d at most", len(s.Faults), maxFaults)
	}
	for i, f := range s.Faults {
		f.validate(d, fmt.Sprintf("faults[%d]", i), s)
	}
	s.validateNemesis(d)
	s.validateChecks(d)
	s.validateThresholds(d)
}

func (s *Scenario) validateCluster(d *decoder) {
	c := &s.Cluster
	if (c.Nodes < 1 || c.Nodes > maxNodes) && d.at["cluster.nodes"] != nil {
		d.errorAt("cluster.nodes", "%d; expected 1 to %d", c.Nodes, maxNodes)
	}
	def(&c.Members, c.Nodes)
	if d.at["cluster.members"] != nil {
		between(d, "cluster.members", c.Members, 1, max(c.Nodes, 1))
	}
	seen := map[string]bool{}
	for i := range c.Caches {
		c.Caches[i].validate(d, fmt.Sprintf("cluster.caches[%d]", i), seen)
	}
	for _, k := range sortedKeys(c.Env) {
		path := "cluster.env." + k
		switch {
		case slices.Contains(ownEnv, k):
			d.errorAt(path, "is set by the harness itself and cannot be changed")
		case !strings.HasPrefix(k, "CACHE_") && !slices.Contains([]string{"GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GODEBUG"}, k):
			d.errorAt(path, "expected a variable of cachenode (CACHE_...) or of the Go runtime")
		}
	}
}

func (c *Cache) validate(d *decoder, path string, seen map[string]bool) {
	switch {
	case d.at[path+".name"] == nil: // reported as missing
	case !validCache.MatchString(c.Name):
		d.errorAt(path+".name", "%q; expected letters, digits and hyphens, and a letter first", c.Name)
	case seen[c.Name]:
		d.errorAt(path+".name", "cache %s is there twice", c.Name)
	}
	seen[c.Name] = true
	if d.at[path+".ttl"] != nil && c.TTL < Duration(time.Millisecond) {
		d.errorAt(path+".ttl", "%v; expected 1ms at least", c.TTL)
	}
	if d.at[path+".evict"] != nil {
		oneOf(d, path+".evict", c.Evict, "oldest-write", "lru")
		if c.MaxEntries == 0 && c.MaxBytes == 0 {
			d.errorAt(path+".evict", "nothing is evicted without a bound; expected max_entries or max_bytes too")
		}
	}
}

func (s *Scenario) validatePreload(d *decoder) {
	p := s.Preload
	if p == nil {
		return
	}
	def(&p.Cache, DefaultCache)
	def(&p.Value, 128)
	between(d, "preload.value", int(p.Value), minValue, maxValue)
	switch {
	case p.Entries > maxPreload:
		d.errorAt("preload.entries", "%d; expected %d at most", p.Entries, maxPreload)
	case int(p.Entries)*int(p.Value) > maxPreloadBytes:
		d.errorAt("preload.value", "%d entries of %d bytes are %d MiB, which every node holds; expected %d MiB at most", p.Entries, p.Value, int(p.Entries)*int(p.Value)>>20, maxPreloadBytes>>20)
	}
	if !validCache.MatchString(p.Cache) {
		d.errorAt("preload.cache", "%q; expected letters, digits and hyphens, and a letter first", p.Cache)
	}
	for i := range s.Cluster.Caches {
		if c := &s.Cluster.Caches[i]; c.Name == p.Cache && c.Forgets() {
			d.errorAt("preload.cache", "entries of cache %s may be evicted or expire, so nothing could be missed; expected a cache without bounds and ttl", c.Name)
		}
	}
	for _, k := range forgetting {
		if s.Cluster.Env[k] != "" {
			d.errorAt("cluster.env."+k, "what expires cannot be told from what was lost; leave it out, or preload nothing")
		}
	}
}

func (s *Scenario) validateProbes(d *decoder) {
	p := &s.Probes
	def(&p.Rate, 200)
	if p.Rate > maxProbes {
		d.errorAt("probes.rate", "%v; expected %d/s at most", p.Rate, maxProbes)
	}
	if d.at["probes.levels"] == nil {
		p.Levels = slices.Clone(levels)
	} else if len(p.Levels) == 0 {
		d.errorAt("probes.levels", "none; expected one or several of %s, or leave it out for all", strings.Join(levels, ", "))
	}
	for i, l := range p.Levels {
		path := fmt.Sprintf("probes.levels[%d]", i)
		oneOf(d, path, l, levels...)
		if slices.Contains(p.Levels[:i], l) {
			d.errorAt(path, "%s is given twice", l)
		}
	}
}

// ownEnv are the variables that make the nodes one cluster behind proxies.
var ownEnv = []string{"CACHE_AUTH_TOKEN", "CACHE_AUTH_TOKEN_FILE", "CACHE_TLS", "CACHE_DIAL_MAP", "CACHE_LISTEN", "CACHE_CONFIG", "CACHE_ADMIN_ADDR"}

func (w *Workload) validate(d *decoder, path string) {
	def(&w.Cache, DefaultCache)
	if !validCache.MatchString(w.Cache) {
		d.errorAt(path+".cache", "%q; expected letters, digits and hyphens, and a letter first", w.Cache)
	}
	def(&w.Streams, 4)
	def(&w.InFlight, 256)
	def(&w.Keys.Count, 100_000)
	def(&w.Value, 128)
	def(&w.Timeout, Duration(3*time.Second))
	def(&w.Read, "local")
	if w.Keys.Dist.Kind == "" {
		w.Keys.Dist.Kind = "uniform"
	}
	if w.Route == "" {
		w.Route = "any"
		if w.Op.Writes() {
			w.Route = "leader"
		}
	}
	if w.Ack == nil {
		w.Ack = Ack{"quorum": 1}
	}
	given := d.at[path+".duration"] != nil
	switch span := w.Schedule.Span(); {
	case span > 0 && given && w.Duration != span:
		d.errorAt(path+".duration", "%v; the stages last %v, leave it out", w.Duration, span)
	case span > 0:
		w.Duration = span
	case !given:
		d.errorAt(path, "field duration is missing")
	}
	if w.Duration < Duration(time.Second) && given {
		d.errorAt(path+".duration", "%v; expected 1s at least", w.Duration)
	}
	between(d, path+".streams", w.Streams, 1, maxStreams)
	between(d, path+".in_flight", w.InFlight, 1, maxInFlight)
	if d.at[path+".retry"] != nil {
		w.validateRetry(d, path)
	}
	if w.Op.Writes() {
		between(d, path+".value", int(w.Value), minValue, maxValue)
	}
	oneOf(d, path+".read", w.Read, "local", "leader_on_miss", "linearizable")
	if w.Route == "sticky" || w.Route == "followers" {
		d.errorAt(path+".route", "%q is not built yet in chaos; expected leader or any", w.Route)
	} else {
		oneOf(d, path+".route", w.Route, "leader", "any")
	}
	if w.Keys.Dist.Kind == "once" && w.Op["get"] > 0 {
		d.errorAt(path+".keys.dist", "once gives every write a key of its own, so there is nothing to get; expected uniform, zipf(THETA) or sequential")
	}
}

// validateRetry checks a workload whose operations are sent several times.
func (w *Workload) validateRetry(d *decoder, path string) {
	between(d, path+".retry", w.Retry, 2, MaxRetry)
	for _, op := range []string{"get", "put", "del"} {
		if w.Op[op] > 0 {
			d.errorAt(path+".op", "with retry, %s has no place in the log that could be counted; expected insert and remove", op)
		}
	}
	if len(w.Ack) != 1 || w.Ack["quorum"] == 0 {
		d.errorAt(path+".ack", "with retry, only quorum says where an operation took effect; found %v", w.Ack)
	}
	if d.at[path+".route"] != nil {
		d.errorAt(path+".route", "with retry every node gets the operations; leave it out")
	}
}

func (f *Fault) validate(d *decoder, path string, s *Scenario) {
	a, known := Actions[f.Action]
	if !known {
		switch {
		case d.at[path+".action"] == nil: // reported as missing
		case otherNames[f.Action] != "":
			d.errorAt(path+".action", "%s has another name here; expected %s", f.Action, otherNames[f.Action])
		default:
			d.errorAt(path+".action", "unknown action %q%s; expected one of %s", f.Action, hint(f.Action, sortedKeys(Actions)), strings.Join(sortedKeys(Actions), ", "))
		}
		return
	}
	for _, field := range actionFields {
		given := d.at[path+"."+field] != nil
		if given && !a.TakesField(field) {
			d.errorAt(path+"."+field, "action %s has no such field", f.Action)
		}
		if !given && slices.Contains(a.Required, field) {
			d.errorAt(path, "action %s needs the field %s", f.Action, field)
		}
	}
	if s.Cluster.Nodes >= 1 && s.Cluster.Nodes < a.Nodes {
		d.errorAt(path+".action", "%s needs %d nodes at least; the cluster has %d", f.Action, a.Nodes, s.Cluster.Nodes)
	}
	if a.Links && !s.Cluster.Proxied() {
		d.errorAt(path+".action", "%s breaks links, and cluster.proxies is false: there are none; expected one of %s", f.Action, strings.Join(unlinked(), ", "))
	}
	f.validateTimes(d, path, s, a)
	if a.Hostile {
		f.validateHostile(d, path, s, a)
	}
	if d.at[path+".for"] != nil && f.For == 0 {
		d.errorAt(path+".for", "0; expected more, or leave it out to last until the load ends")
	}
	f.validateTargets(d, path, s)
	if d.at[path+".members"] != nil {
		between(d, path+".members", f.Members, 1, max(s.Cluster.Nodes, 1))
	}
	if f.Action == "loss" {
		def(&f.Burst, 3)
		between(d, path+".burst", f.Burst, 1, 100)
	}
	f.validateCut(d, path, a)
	f.validateShape(d, path)
	f.validateProcess(d, path)
	if e := s.Cluster.External; e != nil {
		e.refuse(d, path, f, a, s.Cluster.Nodes)
	}
}

// actionFields are those of which each action takes its own.
var actionFields = []string{
	"for", "target", "count", "from", "clients", "style", "direction", "latency", "jitter", "spread", "bytes", "period", "duty", "gogc",
	"offset", "drift", "point", "loss", "burst", "members", "to", "rate", "value",
}

// spreads are the distributions of a latency.
var spreads = []string{"uniform", "normal", "pareto"}

// Bounds of the period of what comes and goes: shorter than a scheduler's turn it
// is noise, longer than a minute it is a fault with every and times.
const (
	minPeriod = 20 * time.Millisecond
	maxPeriod = time.Minute
)

// validateCut checks how links are cut.
func (f *Fault) validateCut(d *decoder, path string, a Action) {
	switch {
	case f.Action == "dials":
		def(&f.Style, "reject")
		def(&f.Direction, "out")
		oneOf(d, path+".style", f.Style, "stall", "reject")
	case a.TakesField("style"):
		def(&f.Style, "stall")
		oneOf(d, path+".style", f.Style, "stall", "reject", "swallow")
	}
	if a.TakesField("direction") {
		def(&f.Direction, "both")
		oneOf(d, path+".direction", f.Direction, "both", "in", "out")
		if f.Style == "reject" && f.Direction != "both" && f.Action != "dials" {
			d.errorAt(path+".direction", "a rejected connection is closed both ways; expected both, or style stall")
		}
	}
	if a.TakesField("clients") {
		def(&f.Clients, "kept")
		oneOf(d, path+".clients", f.Clients, "kept", "cut")
	}
	if !a.TakesField("period") {
		return
	}
	if f.Action == "starve" {
		def(&f.Period, Duration(100*time.Millisecond))
	}
	periodGiven, dutyGiven := d.at[path+".period"] != nil, d.at[path+".duty"] != nil
	switch {
	case periodGiven && !dutyGiven && f.Action != "starve":
		d.errorAt(path+".period", "for how much of it is not said; expected the field duty too")
	case dutyGiven && f.Period == 0:
		d.errorAt(path+".duty", "a share of what is not said; expected the field period too")
	case periodGiven && (f.Period.D() < minPeriod || f.Period.D() > maxPeriod):
		d.errorAt(path+".period", "%v; expected %v to %v", f.Period, minPeriod, maxPeriod)
	case periodGiven && f.Style == "reject":
		d.errorAt(path+".period", "with style reject ports would be given up and taken again; expected style stall or swallow")
	}
}

// validateShape checks what links do to bytes.
func (f *Fault) validateShape(d *decoder, path string) {
	if d.at[path+".latency"] != nil && f.Latency == 0 {
		d.errorAt(path+".latency", "0; expected more")
	}
	if f.Action == "latency" {
		def(&f.Spread, "uniform")
		oneOf(d, path+".spread", f.Spread, spreads...)
		if f.Jitter > f.Latency {
			d.errorAt(path+".jitter", "%v is more than the latency of %v, which would make some delays negative", f.Jitter, f.Latency)
		}
	}
	if f.Action == "bandwidth" && d.at[path+".bytes"] != nil && f.Bytes < 1<<10 {
		d.errorAt(path+".bytes", "%d a second; expected 1KiB at least", f.Bytes)
	}
}

// validateProcess checks what is done to a process.
func (f *Fault) validateProcess(d *decoder, path string) {
	switch f.Action {
	case "memory":
		if d.at[path+".bytes"] == nil && d.at[path+".gogc"] == nil {
			d.errorAt(path, "nothing would be scarce; expected bytes, gogc or both")
		}
		if d.at[path+".bytes"] != nil && f.Bytes < 1<<20 {
			d.errorAt(path+".bytes", "%d; expected 1MiB at least", f.Bytes)
		}
		if d.at[path+".gogc"] != nil {
			between(d, path+".gogc", f.GOGC, 1, 1000)
		}
	case "clock":
		if d.at[path+".offset"] == nil && d.at[path+".drift"] == nil {
			d.errorAt(path, "the clock would be right; expected offset, drift or both")
		}
	case "failpoint":
		if d.at[path+".point"] == nil { // reported as missing
			return
		}
		oneOf(d, path+".point", f.Point, Points...)
	}
}

// unlinked are the actions that break something and need no proxies for it.
func unlinked() []string {
	return slices.DeleteFunc(sortedKeys(Actions), func(name string) bool { return Actions[name].Links || Actions[name].Hostile })
}

// validateTimes checks at, for, every and times against each other and
// against the length of the load.
func (f *Fault) validateTimes(d *decoder, path string, s *Scenario, a Action) {
	timesGiven, everyGiven := d.at[path+".times"] != nil, d.at[path+".every"] != nil
	if f.On != "" {
		oneOf(d, path+".on", f.On, Occasions...)
	}
	switch {
	case f.On != "" && everyGiven:
		d.errorAt(path+".every", "a fault that waits for something comes once; leave out on or every")
	case timesGiven && !everyGiven:
		d.errorAt(path+".times", "how far apart is not said; expected the field every too")
	case everyGiven && !timesGiven:
		d.errorAt(path+".every", "how often is not said; expected the field times too")
	case timesGiven:
		between(d, path+".times", f.Times, 2, maxTimes)
		if least := f.For.D() + s.phase() + time.Second/2; f.Every.D() < least {
			d.errorAt(path+".every", "%v; expected %v at least: for, a random phase of up to %v, and 500ms in which the nodes recover", f.Every, least, s.phase())
		}
		if f.For == 0 && !a.Instant && a.TakesField("for") && d.at[path+".for"] == nil {
			d.errorAt(path, "a fault that is repeated has to heal; expected the field for")
		}
	}
	def(&f.Times, 1)
	length := s.Length()
	last := f.At.D() + time.Duration(min(max(f.Times, 1), maxTimes)-1)*min(f.Every.D(), maxLength)
	switch {
	case length == 0:
	case f.At.D() >= length:
		d.errorAt(path+".at", "%v is after the load has ended (%v)", f.At, length)
	case last >= length:
		d.errorAt(path+".times", "the last one would begin at %v, after the load has ended (%v)", last, length)
	case last+f.For.D() > length:
		d.errorAt(path+".for", "it would heal at %v, after the load has ended (%v); leave it out to last until then", last+f.For.D(), length)
	}
}

func (f *Fault) validateTargets(d *decoder, path string, s *Scenario) {
	if f.Target != "" {
		roles := []string{"leader", "follower", "followers", "any", "each", "all"}
		switch f.Action {
		case "partition", "isolate", "split", "bridge", "dials", "memory":
			roles = []string{"leader", "follower", "any", "each"}
		case "reset":
			roles = append(roles, "link")
		case "stall":
			roles = []string{"link"}
		}
		if f.Action == "stall" { // a node has several links; partition and isolate cut those
			if !slices.Contains(roles, f.Target) {
				d.errorAt(path+".target", "%q; expected link, one by seed (partition and isolate cut nodes off)", f.Target)
			}
		} else {
			validTarget(d, path+".target", f.Target, s.Cluster.Nodes, roles)
		}
	}
	switch {
	case d.at[path+".count"] == nil || f.Hostile():
	case f.Action == "split":
		between(d, path+".count", int(f.Count), 1, max(s.Cluster.Nodes-1, 1))
	case f.Action == "fd-limit":
		between(d, path+".count", int(f.Count), 1, 10_000)
	default:
		if !slices.Contains([]string{"any", "follower", "each"}, f.Target) {
			d.errorAt(path+".count", "target %q leaves no choice; expected target any, follower or each", f.Target)
		}
		between(d, path+".count", int(f.Count), 1, max(s.Cluster.Nodes, 1))
	}
	if Actions[f.Action].TakesField("from") {
		f.validateFrom(d, path, s)
	}
	if f.To != "" {
		validTarget(d, path+".to", f.To, s.Cluster.Nodes, nil)
	}
}

// validateFrom checks whom a fault of links has on its other side.
func (f *Fault) validateFrom(d *decoder, path string, s *Scenario) {
	def(&f.From, "rest")
	sides := []string{"rest", "followers", "follower", "leader"}
	cuts := f.Action == "partition" || f.Action == "dials"
	if !cuts {
		sides = append(sides, "clients")
	}
	if cuts && (f.From == "clients" || f.From == "all") {
		d.errorAt(path+".from", "%s leaves the clients alone; use action isolate with clients: cut", f.Action)
		return
	}
	if f.From == "rest" && s.Cluster.Nodes == 1 {
		d.errorAt(path+".from", "a cluster of one node has no rest; expected clients")
		return
	}
	if f.From != "rest" || d.at[path+".from"] != nil {
		validTarget(d, path+".from", f.From, s.Cluster.Nodes, sides)
		if f.From == f.Target {
			d.errorAt(path+".from", "%s cannot be cut off from itself", f.Target)
		}
	}
}

// validateHostile checks what a hostile action is told against its bounds, and
// that the cluster is one that it can be hostile to.
func (f *Fault) validateHostile(d *decoder, path string, s *Scenario, a Action) {
	if d.at[path+".count"] != nil && a.MaxCount > 0 {
		between(d, path+".count", int(f.Count), 1, a.MaxCount)
	}
	if f.Rate > a.MaxRate && a.MaxRate > 0 {
		d.errorAt(path+".rate", "%v; expected %v at most", f.Rate, a.MaxRate)
	}
	def(&f.Value, a.Value)
	most := Size(maxValue)
	if f.Action == "huge-message" {
		most = maxHuge
	}
	if f.Value > most {
		d.errorAt(path+".value", "%d bytes; expected %d at most", f.Value, most)
	}
	if f.Action == "peer-claim" && s.Cluster.Env["CACHE_PEER_TOKEN"] == "" && !s.Cluster.TLS {
		d.errorAt(path+".action", "without cluster.tls or cluster.env.CACHE_PEER_TOKEN every client may be a node, so there is nothing to refuse")
	}
}

func validTarget(d *decoder, path, target string, nodes int, roles []string) {
	expected := append(slices.Clone(roles), nodeNames(nodes)...)
	switch {
	case nodeName.MatchString(target):
		if n, err := strconv.Atoi(target[1:]); nodes > 0 && (err != nil || n < 1 || n > nodes) {
			d.errorAt(path, "there is no %s; the cluster has n1 to n%d", target, nodes)
		}
	case !slices.Contains(roles, target):
		d.errorAt(path, "unknown target %q%s; expected one of %s", target, hint(target, expected), strings.Join(expected, ", "))
	case strings.HasPrefix(target, "follower") && nodes == 1:
		d.errorAt(path, "a cluster of one node has no follower")
	}
}

func nodeNames(n int) []string {
	var names []string
	for i := range min(n, maxNodes) {
		names = append(names, "n"+strconv.Itoa(i+1))
	}
	return names
}

// forgetting are variables that make a node drop what it has acknowledged.
var forgetting = []string{"CACHE_DEFAULT_TTL"}

func (s *Scenario) validateChecks(d *decoder) {
	def(&s.Checks.Converge, Duration(10*time.Second))
	for _, k := range forgetting {
		if s.Cluster.Env[k] != "" && (s.Checks.LostWrites || s.Checks.StaleReads != nil || s.Checks.Linearizable != nil || s.Checks.Session) {
			d.errorAt("cluster.env."+k, "what expires cannot be told from what was lost; leave it out, or check none of lost_writes, stale_reads, session and linearizable")
		}
	}
	for _, level := range sortedKeys(s.Checks.Loss) {
		path := "checks.loss." + level
		switch l := s.Checks.Loss[level]; {
		case level != "once" && level != "leader":
			d.errorAt(path, "nothing may be lost at %s; expected once or leader", level)
		case !s.Checks.LostWrites:
			d.errorAt(path, "nothing is counted without lost_writes: true")
		case l == Loss{}:
			d.errorAt(path, "no bound; expected rate, window or both")
		case !slices.ContainsFunc(slices.Collect(maps.Values(s.Load)), func(w *Workload) bool { return w.Ack[level] > 0 && (w.Op["insert"] > 0 || w.Op["remove"] > 0) }) && !slices.Contains(s.Probes.Levels, level):
			d.errorAt(path, "no workload and no probe writes at this level, so it would limit nothing")
		}
	}
	if s.Checks.Linearizable != nil {
		between(d, "checks.linearizable.keys", s.Checks.Linearizable.Keys, 1, maxRegisters)
	}
	s.validateKept(d)
	if s.Checks.Recovery > 0 && !slices.Contains(s.Probes.Levels, "quorum") {
		d.errorAt("checks.recovery", "it is measured with probes at quorum, and probes.levels leaves them out")
	}
	if s.Checks.Recovery > 0 && s.calm() {
		d.errorAt("checks.recovery", "there is no fault to recover from, so it would check nothing")
	}
	if s.Checks.Converge > Duration(5*time.Minute) {
		d.errorAt("checks.converge", "%v; expected 5m at most", s.Checks.Converge)
	}
	if s.Checks.StaleReads != nil {
		reads := false
		for _, w := range s.Load {
			reads = reads || w.Op["get"] > 0
		}
		if !reads {
			d.errorAt("checks.stale_reads", "no workload reads, so it would check nothing")
		}
	}
}

// validateKept makes sure that a check for what is missing has something to look
// at. A cache with a bound may do, if it is large enough: whether it evicted
// anything is found out in the run.
func (s *Scenario) validateKept(d *decoder) {
	expiring := map[string]bool{}
	for _, c := range s.Cluster.Caches {
		expiring[c.Name] = c.TTL > 0
	}
	load := slices.Collect(maps.Values(s.Load))
	writes := func(w *Workload) bool { return w.Op.Writes() }
	kept := func(w *Workload) bool { return w.Op.Writes() && !expiring[w.Cache] }
	if s.Checks.LostWrites && slices.ContainsFunc(load, writes) && !slices.ContainsFunc(load, kept) {
		d.errorAt("checks.lost_writes", "every workload writes to a cache with a ttl, and what is missing there cannot be told from what expired; leave it out, or add a workload on another cache")
	}
	for i := range s.Cluster.Caches {
		c := &s.Cluster.Caches[i]
		if !slices.ContainsFunc(load, func(w *Workload) bool { return w.Cache == c.Name }) && validCache.MatchString(c.Name) {
			d.errorAt(fmt.Sprintf("cluster.caches[%d].name", i), "no workload uses cache %s", c.Name)
		}
	}
}

func (s *Scenario) validateThresholds(d *decoder) {
	for _, name := range sortedKeys(s.Thresholds) {
		path := "thresholds." + name
		m, err := ParseMetric(name)
		if err != nil {
			d.errorAt(path, "%v", err)
			continue
		}
		funcs := thresholdFuncs[m.Family]
		for i, t := range s.Thresholds[name] {
			switch at := fmt.Sprintf("%s[%d]", path, i); {
			case t.Func != "" && !slices.Contains(funcs, t.Func):
				d.errorAt(at, "%s has no %s; it has %s", m.Name, t.Func, strings.Join(funcs, " and "))
			case t.Relative && m.Family == "memory":
				if t.Func != "rss" {
					d.errorAt(at, "%s compares with what the bounds of the node add up to; only rss can", t.Expr)
				}
			case t.Relative && (m.Family != "latency" || m.Phase == "" || m.Phase == "before"):
				d.errorAt(at, "%s compares with the time before the faults; only operations with phase:during, phase:joining or phase:recovery have that", t.Expr)
			case t.Abort && (t.Relative || !slices.Contains([]string{"latency", "errors", "leader_changes"}, m.Family)):
				d.errorAt(at+".abort", "%s %s is known in the end only; what can abort a run are limits on operations, errors and leader_changes", m.Name, t.Expr)
			case t.Abort && t.After.D() >= s.Length():
				d.errorAt(at+".after", "%v is after the load has ended (%v)", t.After, s.Length())
			case t.Relative && s.calm():
				d.errorAt(at, "%s compares with the time before the faults, and there are none", t.Expr)
			}
		}
		if m.Family == "latency" && !s.exercises(m) {
			d.errorAt(path, "no workload has this operation at this level, so it would limit nothing")
		}
		if (m.Family == "recovery" || m.Family == "back_to_normal") && s.calm() {
			d.errorAt(path, "there is no fault to recover from, so it would limit nothing")
		}
		if (m.Family == "ready" || m.Phase == "joining") && !slices.ContainsFunc(s.Faults, (*Fault).Restarts) {
			d.errorAt(path, "no fault ends a process that is started again, so it would limit nothing; expected a kill or term")
		}
		if (m.Family == "recovery" || m.Family == "failover") && !slices.Contains(s.Probes.Levels, "quorum") {
			d.errorAt(path, "it is measured with probes at quorum, and probes.levels leaves them out")
		}
		if m.Family == "failover" && !slices.ContainsFunc(s.Faults, (*Fault).OnLeader) {
			d.errorAt(path, "no fault takes the leader away, so it would limit nothing")
		}
	}
}

// LimitsLatency says whether a threshold judges how fast operations are, which
// needs a machine that does nothing else.
func (s *Scenario) LimitsLatency() bool {
	for name := range s.Thresholds {
		if m, err := ParseMetric(name); err == nil && m.Family == "latency" {
			return true
		}
	}
	return false
}

func (s *Scenario) exercises(m Metric) bool {
	for _, w := range s.Load {
		if w.Op[m.Name] > 0 && (m.Level == "" || w.Ack[m.Level] > 0) {
			return true
		}
	}
	return false
}

// def sets *p to v if it has its zero value.
func def[T comparable](p *T, v T) {
	if *p == *new(T) {
		*p = v
	}
}

func between(d *decoder, path string, v, low, high int) {
	if v < low || v > high {
		d.errorAt(path, "%d; expected %d to %d", v, low, high)
	}
}

func oneOf(d *decoder, path, v string, names ...string) {
	if !slices.Contains(names, v) {
		d.errorAt(path, "unknown value %q%s; expected one of %s", v, hint(v, names), strings.Join(names, ", "))
	}
}

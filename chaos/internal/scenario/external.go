package scenario

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// External is a cluster that somebody else runs: nothing of it is started,
// configured or stopped. Secrets are named and not written here, since the file
// is kept with the evidence of each run.
type External struct {
	Nodes     []ExternalNode `json:"nodes" jsonschema:"all nodes of the cluster, as many as cluster.nodes; the first is n1"`
	Cache     string         `json:"cache,omitempty" jsonschema:"the one cache that is written to, under keys of the run's own; it must have no bound that could evict; default chaos"`
	TTL       Duration       `json:"ttl,omitempty" jsonschema:"life of everything that is written, so that nothing stays if the run cannot clean up; longer than the run by half an hour at least; default 2h"`
	Clean     bool           `json:"clean,omitempty" jsonschema:"whether everything that was written is removed in the end, instead of after its ttl"`
	TokenEnv  string         `json:"token_env,omitempty" jsonschema:"name of the environment variable of chaos that has the token"`
	TokenFile string         `json:"token_file,omitempty" jsonschema:"path of the file that has the token"`
	TLS       *ExternalTLS   `json:"tls,omitempty" jsonschema:"TLS 1.3; without it plain text"`
	Toxiproxy []Toxiproxy    `json:"toxiproxy,omitempty" jsonschema:"servers that have the links of the cluster as proxies; faults of links need them"`
}

// ExternalNode is one node of a cluster that runs already.
type ExternalNode struct {
	Addr     string `json:"addr" jsonschema:"host:port that is dialled, past all proxies"`
	Identity string `json:"identity,omitempty" jsonschema:"host:port by which the nodes know it, as in HA_HOSTS; default addr"`
	Admin    string `json:"admin,omitempty" jsonschema:"host:port of its metrics; without it nobody sees what it holds or evicts"`
	Pid      string `json:"pid,omitempty" jsonschema:"its process, if that is on this machine: the id, or the absolute path of a file that has it; pause and starve need it"`
}

// ExternalTLS names files in PEM.
type ExternalTLS struct {
	CA         string `json:"ca,omitempty" jsonschema:"file with the CA of the nodes' certificates; default is what this machine trusts"`
	Cert       string `json:"cert,omitempty" jsonschema:"file with the certificate of clients"`
	Key        string `json:"key,omitempty" jsonschema:"file with its key"`
	ServerName string `json:"server_name,omitempty" jsonschema:"name that every node's certificate has; default is the host that is dialled"`
}

// Toxiproxy is a server whose proxies are links of the cluster.
type Toxiproxy struct {
	URL     string            `json:"url" jsonschema:"its HTTP API, such as http://10.0.0.7:8474"`
	Proxies map[string]string `json:"proxies" jsonschema:"names of its proxies by link: n1>n2 is what n1 dials to reach n2, clients>n1 what clients of n1 dial"`
}

// Proxied reports whether some links are proxies.
func (e *External) Proxied() bool { return len(e.Toxiproxy) > 0 }

// Unwatched names the nodes without an address for metrics.
func (e *External) Unwatched() (names []string) {
	for i := range e.Nodes {
		if e.Nodes[i].Admin == "" {
			names = append(names, nodeNames(i + 1)[i])
		}
	}
	return names
}

// Cannot says of the checks that need what only whoever runs the cluster has
// why they are not made, by name.
func (e *External) Cannot() map[string]string {
	why := map[string]string{"liveness": "the processes and logs of the nodes are elsewhere, and without checks.recovery nothing else is demanded"}
	if none := e.Unwatched(); len(none) > 0 {
		why["state hash"] = "no admin address is given for " + strings.Join(none, ", ")
	}
	return why
}

var (
	linkName = regexp.MustCompile(`^(clients|n[1-9])>(n[1-9])$`)
	envName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// leastLeft is how much longer than the load what was written has to live: for
// everything before it, and until the last key was read.
const leastLeft = 30 * time.Minute

func (s *Scenario) validateExternal(d *decoder) {
	e := s.Cluster.External
	if e == nil {
		return
	}
	const at = "cluster.external"
	for _, field := range []string{"members", "caches", "env", "tls", "proxies"} {
		if d.at["cluster."+field] != nil {
			d.errorAt("cluster."+field, "the nodes of cluster.external run already, as they are; leave it out")
		}
	}
	if len(e.Nodes) != s.Cluster.Nodes && d.at[at+".nodes"] != nil {
		d.errorAt(at+".nodes", "%d nodes, and cluster.nodes is %d; expected as many", len(e.Nodes), s.Cluster.Nodes)
	}
	seen := map[string]string{}
	for i := range e.Nodes {
		e.Nodes[i].validate(d, fmt.Sprintf("%s.nodes[%d]", at, i), seen)
	}
	def(&e.Cache, "chaos")
	if !validCache.MatchString(e.Cache) {
		d.errorAt(at+".cache", "%q; expected letters, digits and hyphens, and a letter first", e.Cache)
	}
	def(&e.TTL, Duration(2*time.Hour))
	if least := s.Warmup() + s.Length() + leastLeft; e.TTL.D() < least {
		d.errorAt(at+".ttl", "%v; expected %v at least: the load, and %v for what comes before and after", e.TTL, least, leastLeft)
	}
	if e.TokenEnv != "" && e.TokenFile != "" {
		d.errorAt(at+".token_file", "token_env names the token too; expected one of them")
	}
	if d.at[at+".token_env"] != nil && !envName.MatchString(e.TokenEnv) { // perhaps the token itself: not repeated
		d.errorAt(at+".token_env", "not the name of an environment variable")
	}
	if t := e.TLS; t != nil && (t.Cert == "") != (t.Key == "") {
		d.errorAt(at+".tls", "a certificate and its key belong together; expected cert and key, or neither")
	}
	e.validateToxiproxy(d, at+".toxiproxy", s.Cluster.Nodes)
	if s.Nemesis != nil {
		d.errorAt("nemesis", "it draws faults of all kinds, most of which need nodes that chaos has started; expected faults")
	}
	if _, limited := s.Thresholds["memory"]; limited && slices.ContainsFunc(e.Nodes, func(n ExternalNode) bool { return n.Pid == "" }) {
		d.errorAt("thresholds.memory", "it is that of processes of this machine; expected a pid for every node of cluster.external")
	}
}

func (n *ExternalNode) validate(d *decoder, path string, seen map[string]string) {
	def(&n.Identity, n.Addr)
	for _, f := range []struct{ name, value string }{{"addr", n.Addr}, {"identity", n.Identity}, {"admin", n.Admin}} {
		at := path + "." + f.name
		if d.at[at] == nil {
			continue
		}
		host, port, err := net.SplitHostPort(f.value)
		if p, perr := strconv.Atoi(port); err != nil || host == "" || perr != nil || p < 1 || p > 65535 {
			d.errorAt(at, "%q is not an address; expected host:port", f.value)
		} else if other := seen[f.name+f.value]; other != "" {
			d.errorAt(at, "%s is that of %s too", f.value, other)
		}
		seen[f.name+f.value] = path
	}
	if d.at[path+".pid"] == nil {
		return
	}
	if pid, err := strconv.Atoi(n.Pid); !(err == nil && pid > 1) && !filepath.IsAbs(n.Pid) {
		d.errorAt(path+".pid", "%q; expected the id of a process other than the first one, or the absolute path of a file that has it", n.Pid)
	}
}

func (e *External) validateToxiproxy(d *decoder, path string, nodes int) {
	used, stands := map[string]bool{}, map[string]string{}
	for i, t := range e.Toxiproxy {
		at := fmt.Sprintf("%s[%d]", path, i)
		if u, err := url.Parse(t.URL); d.at[at+".url"] != nil && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil) {
			d.errorAt(at+".url", "expected http://HOST:PORT, without a user")
		}
		for _, link := range sortedKeys(t.Proxies) {
			here := join(at+".proxies", link)
			proxy := t.URL + " " + t.Proxies[link]
			m := linkName.FindStringSubmatch(link)
			switch {
			case m == nil || m[1] == m[2]:
				d.errorAt(here, "%q is no link; expected one such as n1>n2 or clients>n1", link)
			case !slices.Contains(nodeNames(nodes), m[2]) || m[1] != "clients" && !slices.Contains(nodeNames(nodes), m[1]):
				d.errorAt(here, "there is no such node; the cluster has n1 to n%d", nodes)
			case used[link]:
				d.errorAt(here, "%s is given twice", link)
			case t.Proxies[link] == "":
				d.errorAt(here, "expected the name of a proxy")
			case stands[proxy] != "":
				d.errorAt(here, "proxy %s stands for %s too; expected one for each link", t.Proxies[link], stands[proxy])
			}
			used[link], stands[proxy] = true, link
		}
	}
}

// refuse reports a fault that cannot be done to a cluster which somebody else
// runs, with the reason.
func (e *External) refuse(d *decoder, path string, f *Fault, a Action, nodes int) {
	at := path + ".action"
	var missing []string
	switch {
	case a.Hostile:
		d.errorAt(at, "hostile clients are for clusters that chaos has started itself")
	case f.Action == "members":
		d.errorAt(at, "it would change the hosts of a cluster that somebody else runs")
	case f.Action == "leader-switch":
	case f.Action == "pause" || f.Action == "starve":
		for i, name := range f.mayHit(nodes) {
			if i < len(e.Nodes) && e.pid(name) == "" {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			d.errorAt(at, "%s needs processes of this machine, and no pid is given for %s", f.Action, strings.Join(missing, ", "))
		}
	case !a.Links:
		d.errorAt(at, "%s needs nodes that chaos has started itself; expected pause or starve, with pids, or a fault of links", f.Action)
	case !e.Proxied():
		d.errorAt(at, "%s breaks links, and cluster.external.toxiproxy names no proxies", f.Action)
	case f.beyondStock() != "":
		d.errorAt(at, "the toxics of a Toxiproxy server cannot do that: %s", f.beyondStock())
	default:
		for _, link := range f.links(nodes) {
			if e.Proxy(link) == "" {
				missing = append(missing, link)
			}
		}
		if len(missing) > 0 {
			d.errorAt(at, "cluster.external.toxiproxy names no proxy for %s, which it may have to break", strings.Join(missing, ", "))
		}
	}
}

// Proxy returns the name of the proxy that is a link, or "".
func (e *External) Proxy(link string) string {
	for _, t := range e.Toxiproxy {
		if name := t.Proxies[link]; name != "" {
			return name
		}
	}
	return ""
}

func (e *External) pid(name string) string {
	if i := slices.Index(nodeNames(len(e.Nodes)), name); i >= 0 {
		return e.Nodes[i].Pid
	}
	return ""
}

// beyondStock says what of the fault the toxics that come with Toxiproxy cannot
// do; "": they can do it.
func (f *Fault) beyondStock() string {
	switch {
	case f.Action == "loss":
		return "none delays by retransmission timeouts; expected latency"
	case f.Style == "stall" || f.Action == "stall":
		return "none holds bytes and delivers them on heal; expected style swallow or reject, of partition, isolate, split, bridge or ring"
	case f.Style == "swallow" && f.Direction != "" && f.Direction != "both":
		return "a connection that lost something one way is closed on heal, so it is both ways; expected direction both"
	case f.Period > 0:
		return "it comes and goes faster than a server that is asked over HTTP can follow; expected every and times"
	case f.Spread == "normal" || f.Spread == "pareto":
		return "jitter is uniform there"
	case f.Target == "link":
		return "one connection of many is not to be had; expected target leader, follower, any or a node"
	}
	return ""
}

// mayHit returns the nodes that the target of the fault can stand for.
func (f *Fault) mayHit(nodes int) []string {
	if nodeName.MatchString(f.Target) {
		return []string{f.Target}
	}
	return nodeNames(nodes)
}

// links are those that the fault may have to break, whoever leads.
func (f *Fault) links(nodes int) []string {
	var links []string
	add := func(link string) {
		if !slices.Contains(links, link) {
			links = append(links, link)
		}
	}
	all := nodeNames(nodes)
	near, far := f.mayHit(nodes), all
	switch f.Action {
	case "split", "bridge", "ring":
		near = all
	}
	if nodeName.MatchString(f.From) {
		far = []string{f.From}
	}
	for _, n := range near {
		if f.From == "clients" || f.Clients == "cut" {
			add("clients>" + n)
		}
		for _, o := range far {
			if n != o && f.From != "clients" {
				add(n + ">" + o)
				add(o + ">" + n)
			}
		}
	}
	slices.Sort(links)
	return links
}

// Package fault breaks a cluster and mends it. Each fault knows whether it
// applies, says whom it hit, can tell whether it was seen to take effect, and
// heals.
package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hacache/hacache/chaos/internal/cluster"
	"github.com/hacache/hacache/chaos/internal/hostile"
)

// Spec says what to break.
type Spec struct {
	Action    string        // one of those that Inject knows, or one of hostile.Kinds
	Target    string        // leader, follower, followers, any, each, all, link, or a node's name
	Count     int           // any, follower, each: so many nodes, 0 is 1; split: nodes of the target's side; fd-limit: descriptors; or what hostile.Spec takes
	Rate      float64       // what hostile.Spec takes
	Value     int           // its Size
	Turn      int           // each: the how-manieth time it is asked for, from 0
	From      string        // what is cut or shaped: rest (also if empty), followers, leader, clients, or a node's name
	Style     string        // of a cut: stall, reject, swallow
	Direction string        // both, in, out, as seen from the target
	Clients   string        // isolate: kept, cut
	Latency   time.Duration // one way
	Jitter    time.Duration // plus or minus, or the standard deviation
	Spread    string        // uniform (also if empty), normal, pareto
	Bytes     int64         // bandwidth: a second; slice: of a piece; cut-after: of a connection; memory: the limit
	Period    time.Duration // of what comes and goes; 0: it stays
	Duty      float64       // the share of Period in which it is there
	GOGC      int           // memory: 0 leaves it alone
	Offset    time.Duration // clock
	Drift     float64       // clock: seconds a second
	Point     string        // failpoint
	Loss      float64       // share of transmissions
	Burst     int           // mean number of them in a row
	Members   int           // members: so many nodes
	To        string        // leader-switch: a node's name, or empty
	Pick      uint64        // chooses where Target leaves a choice
	// Begin is called when the targets are known and the deed begins: the
	// moment from which a failover is counted. nil is allowed.
	Begin func(targets []string)
}

func (s *Spec) begin(targets []*cluster.Node) { s.beginAt(names(targets)...) }

func (s *Spec) beginAt(targets ...string) {
	if s.Begin != nil {
		s.Begin(targets)
	}
}

// Injection is a fault in force.
type Injection struct {
	Targets []string // the nodes it hit, or the link, as FROM>TO of who dials
	Links   []string // the paths it cut or slowed, as FROM>TO of the traffic
	Detail  string   // what was done, in a few words
	// Attacks are what hostile clients came to, known after Heal.
	Attacks []Attack

	bit  func(ctx context.Context) (bool, string)
	heal func(ctx context.Context) error
	once sync.Once
	err  error
}

// Bit reports whether the fault was seen to take effect, and the evidence. It
// must be asked before Heal.
func (i *Injection) Bit(ctx context.Context) (bool, string) { return i.bit(ctx) }

// Heal undoes the fault. It does so once; later calls return the same error.
func (i *Injection) Heal(ctx context.Context) error {
	i.once.Do(func() { i.err = i.heal(ctx) })
	return i.err
}

// ErrNotAvailable is wrapped by Inject when the fault does not apply to the
// cluster as it is; nothing has been done then.
var ErrNotAvailable = errors.New("fault: does not apply now")

// Inject resolves the targets and breaks them. When it returns an error,
// whatever it had done is healed again.
func Inject(ctx context.Context, c *cluster.Cluster, s Spec) (*Injection, error) {
	if s.Target == "link" {
		l, err := anyLink(c, s.Pick)
		if err != nil {
			return nil, err
		}
		if s.Action == "reset" {
			return resetOne(l, s)
		}
		return stallLink(l, s), nil
	}
	targets, err := resolve(ctx, c, &s)
	if err != nil {
		return nil, err
	}
	if c.Remote() {
		return elsewhere(ctx, c, s, targets)
	}
	switch s.Action {
	case "kill", "term":
		return end(ctx, c, s, targets)
	case "pause":
		return stopProcesses(ctx, s, targets)
	case "partition", "isolate", "split", "bridge", "ring":
		cut, err := severed(ctx, c, s, targets)
		if err != nil {
			return nil, err
		}
		return sever(ctx, s, cut)
	case "dials":
		return blockDials(ctx, c, s, targets)
	case "latency", "loss", "bandwidth", "slice", "slow-close", "cut-after":
		return shape(ctx, c, s, targets)
	case "starve":
		return starve(s, targets)
	case "memory":
		return squeeze(ctx, c, s, targets)
	case "fd-limit":
		return limitFiles(ctx, s, targets)
	case "clock":
		return moveClock(s, targets)
	case "failpoint":
		return failpoint(ctx, c, s, targets)
	case "reset":
		return reset(c, s, targets)
	case "leader-switch":
		return leaderSwitch(ctx, c, s)
	case "members":
		return members(ctx, c, s)
	}
	if _, known := hostile.Kinds[s.Action]; known {
		return attack(ctx, c, s, targets)
	}
	return nil, fmt.Errorf("fault: unknown action %q", s.Action)
}

// leaderPatience is how long an injection waits for the cluster to have a
// leader before it is found not to apply.
const leaderPatience = 3 * time.Second

// resolve names the nodes that a target stands for at this moment.
func resolve(ctx context.Context, c *cluster.Cluster, s *Spec) ([]*cluster.Node, error) {
	if n := c.Node(s.Target); n != nil {
		return []*cluster.Node{n}, nil
	}
	all := c.Nodes()
	count := max(s.Count, 1)
	if _, clients := hostile.Kinds[s.Action]; clients || s.Action == "split" || s.Action == "fd-limit" {
		count = 1 // it says how many of something else
	}
	switch s.Target {
	case "":
		return nil, nil
	case "all":
		return all, nil
	case "any":
		return some(all, s.Pick, count), nil
	case "each":
		return some(all, uint64(s.Turn*count), count), nil
	}
	leader, err := awaitLeader(ctx, c)
	if err != nil {
		return nil, err
	}
	followers := without(all, []*cluster.Node{leader})
	switch {
	case s.Target == "leader":
		return []*cluster.Node{leader}, nil
	case len(followers) == 0:
	case s.Target == "followers":
		return followers, nil
	case s.Target == "follower":
		return some(followers, s.Pick, count), nil
	}
	return nil, fmt.Errorf("%w: no target %q in this cluster", ErrNotAvailable, s.Target)
}

// some returns count of the nodes, from the one that pick falls on.
func some(nodes []*cluster.Node, pick uint64, count int) []*cluster.Node {
	var out []*cluster.Node
	for i := range min(count, len(nodes)) {
		out = append(out, nodes[(pick+uint64(i))%uint64(len(nodes))])
	}
	return out
}

// anyLink returns one of the links between nodes.
func anyLink(c *cluster.Cluster, pick uint64) (*cluster.Link, error) {
	var links []*cluster.Link
	for _, from := range c.Names() {
		for _, to := range c.Names() {
			if l := c.Net.Link(from, to); l != nil {
				links = append(links, l)
			}
		}
	}
	if len(links) == 0 {
		return nil, fmt.Errorf("%w: there are no links between the nodes", ErrNotAvailable)
	}
	return links[pick%uint64(len(links))], nil
}

func awaitLeader(ctx context.Context, c *cluster.Cluster) (*cluster.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, leaderPatience)
	defer cancel()
	for {
		if leader := c.Leader(ctx); leader != nil {
			return leader, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: no node says it leads", ErrNotAvailable)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func without(nodes, gone []*cluster.Node) []*cluster.Node {
	var rest []*cluster.Node
next:
	for _, n := range nodes {
		for _, g := range gone {
			if n == g {
				continue next
			}
		}
		rest = append(rest, n)
	}
	return rest
}

func names(nodes []*cluster.Node) []string {
	out := make([]string, len(nodes))
	for i, n := range nodes {
		out[i] = n.Name
	}
	return out
}

// endPatience is how long a process that was asked to stop may take: longer
// than the node's own shutdown timeout.
const endPatience = 15 * time.Second

// end kills or stops processes; healing starts them again.
func end(ctx context.Context, c *cluster.Cluster, s Spec, targets []*cluster.Node) (*Injection, error) {
	in := &Injection{Targets: names(targets)}
	for _, n := range targets {
		if n.State() != cluster.Running {
			return nil, fmt.Errorf("%w: %s is not running", ErrNotAvailable, n.Name)
		}
	}
	restart := func(ctx context.Context) error {
		var errs []error
		for _, n := range targets {
			if n.State() == cluster.Ended {
				errs = append(errs, c.Restart(ctx, n))
			}
		}
		return errors.Join(errs...)
	}
	ctx, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	s.begin(targets)
	pids := make([]int, len(targets))
	errs := make([]error, len(targets))
	var wg sync.WaitGroup
	for i, n := range targets {
		pids[i] = n.Pid()
		wg.Go(func() {
			if s.Action == "kill" {
				errs[i] = n.Kill(ctx)
			} else {
				errs[i] = n.Terminate(ctx)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, restart(context.WithoutCancel(ctx)))
	}
	in.Detail = fmt.Sprintf("pid %s", strings.Trim(fmt.Sprint(pids), "[]"))
	in.heal = restart
	in.bit = func(context.Context) (bool, string) {
		for i, n := range targets {
			if n.State() != cluster.Ended || n.Pid() != pids[i] {
				return false, n.Name + " was running again before it was healed"
			}
		}
		return true, "ended: " + in.Detail
	}
	return in, nil
}

// stopProcesses stops processes without ending them.
func stopProcesses(ctx context.Context, s Spec, targets []*cluster.Node) (*Injection, error) {
	in := &Injection{Targets: names(targets)}
	in.heal = func(context.Context) error {
		var errs []error
		for _, n := range targets {
			errs = append(errs, n.Resume())
		}
		return errors.Join(errs...)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s.begin(targets)
	for _, n := range targets {
		if n.State() != cluster.Running {
			return nil, errors.Join(fmt.Errorf("%w: %s is not running", ErrNotAvailable, n.Name), in.Heal(ctx))
		}
		if err := n.Pause(ctx); err != nil {
			return nil, errors.Join(err, in.Heal(ctx))
		}
	}
	in.bit = func(context.Context) (bool, string) {
		for _, n := range targets {
			if !n.Stopped() {
				return false, n.Name + " was not stopped when it was to be resumed"
			}
		}
		return true, "stopped until resumed"
	}
	return in, nil
}

// path is the traffic from one end to another: it takes both links between
// them, one forwards and the other backwards. Clients dial and are not dialed.
type path struct {
	from, to string
	legs     []leg
}

type leg struct {
	link *cluster.Link
	way  cluster.Way
}

func pathBetween(c *cluster.Cluster, from, to string) path {
	p := path{from: from, to: to}
	if l := c.Net.Link(from, to); l != nil {
		p.legs = append(p.legs, leg{l, cluster.Forward})
	}
	if l := c.Net.Link(to, from); l != nil {
		p.legs = append(p.legs, leg{l, cluster.Backward})
	}
	return p
}

func (p path) String() string { return p.from + ">" + p.to }

// paths lists the traffic between two sides in the directions asked for, as
// seen from the targets.
func paths(c *cluster.Cluster, targets, others []string, direction string) []path {
	var all []path
	for _, t := range targets {
		for _, o := range others {
			if direction != "in" {
				all = append(all, pathBetween(c, t, o))
			}
			if direction != "out" {
				all = append(all, pathBetween(c, o, t))
			}
		}
	}
	return all
}

func pathNames(ps []path) []string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = p.String()
	}
	return out
}

// pathsTo lists the traffic between the targets and whom s.From names, in the
// direction asked for. With several targets no path is there twice.
func pathsTo(ctx context.Context, c *cluster.Cluster, s Spec, targets []*cluster.Node) ([]path, error) {
	var far []*cluster.Node
	switch s.From {
	case "clients":
		return paths(c, names(targets), []string{cluster.Clients}, s.Direction), nil
	case "", "rest":
		far = c.Nodes()
	default:
		var err error
		if far, err = resolve(ctx, c, &Spec{Target: s.From, Pick: s.Pick >> 32}); err != nil {
			return nil, err
		}
	}
	seen := map[string]bool{}
	var ps []path
	for _, n := range targets {
		for _, p := range paths(c, []string{n.Name}, names(without(far, []*cluster.Node{n})), s.Direction) {
			if !seen[p.String()] {
				ps = append(ps, p)
			}
			seen[p.String()] = true
		}
	}
	if len(ps) == 0 {
		return nil, fmt.Errorf("%w: %s and %s are the same node now", ErrNotAvailable, s.Target, s.From)
	}
	return ps, nil
}

// sever makes a cut in the style asked for, all the time or now and then.
func sever(ctx context.Context, s Spec, c cut) (*Injection, error) {
	s.beginAt(c.hit...)
	var in *Injection
	var err error
	switch {
	case s.Style == "reject":
		in, err = reject(ctx, c.paths, c.hit)
	case s.Style == "swallow":
		in = swallow(s, c.paths, c.hit)
	case s.Period > 0:
		in = flapping(s, c.paths, c.hit)
	default:
		in = stall(c.paths, c.hit)
	}
	if err == nil {
		in.Detail += c.detail
	}
	return in, err
}

// settle is how long a chunk that was being handed on when a gate closed may
// take to be out; what passes later has passed a closed gate.
const settle = 20 * time.Millisecond

func stall(ps []path, targets []string) *Injection {
	in := &Injection{Targets: targets, Links: pathNames(ps), Detail: "bytes held"}
	held := func(p path) (chunks, bytes int64) {
		for _, l := range p.legs {
			t := l.link.Traffic(l.way)
			chunks += t.Held
			bytes += t.Bytes
		}
		return chunks, bytes
	}
	heldBefore := make([]int64, len(ps))
	for i, p := range ps {
		heldBefore[i], _ = held(p)
	}
	lift := apply(ps, cluster.Conditions{Stall: true})
	// Counted a moment later, without keeping the caller: a second fault may
	// be due.
	passed := make([]int64, len(ps))
	counted := make(chan struct{})
	timer := time.AfterFunc(settle, func() {
		for i, p := range ps {
			_, passed[i] = held(p)
		}
		close(counted)
	})
	in.heal = func(context.Context) error {
		timer.Stop()
		lift()
		return nil
	}
	in.bit = func(ctx context.Context) (bool, string) {
		select {
		case <-counted:
		case <-ctx.Done():
			return false, "ended before it could be seen"
		}
		var total int64
		for i, p := range ps {
			chunks, bytes := held(p)
			if bytes != passed[i] {
				return false, fmt.Sprintf("%d bytes passed %s", bytes-passed[i], p)
			}
			if chunks == heldBefore[i] && p.from != cluster.Clients && p.to != cluster.Clients {
				return false, fmt.Sprintf("nothing was sent on %s that could have been held", p)
			}
			total += chunks - heldBefore[i]
		}
		return true, fmt.Sprintf("%d transmissions held on %d paths, 0 bytes passed", total, len(ps))
	}
	return in
}

// apply puts conditions in force on every leg of the paths.
func apply(ps []path, c cluster.Conditions) (lift func()) {
	var lifts []func()
	for _, p := range ps {
		for _, l := range p.legs {
			lifts = append(lifts, l.link.Apply(l.way, c))
		}
	}
	return func() {
		for _, f := range lifts {
			f()
		}
	}
}

func linksOf(ps []path) []*cluster.Link {
	seen := map[*cluster.Link]bool{}
	var links []*cluster.Link
	for _, p := range ps {
		for _, l := range p.legs {
			if !seen[l.link] {
				seen[l.link] = true
				links = append(links, l.link)
			}
		}
	}
	return links
}

func reject(ctx context.Context, ps []path, targets []string) (*Injection, error) {
	return rejectLinks(ctx, linksOf(ps), pathNames(ps), targets)
}

func rejectLinks(ctx context.Context, links []*cluster.Link, paths, targets []string) (*Injection, error) {
	in := &Injection{Targets: targets, Links: paths, Detail: "connections closed, dials refused"}
	var rejected []*cluster.Link
	in.heal = func(context.Context) error {
		var errs []error
		for _, l := range rejected {
			errs = append(errs, l.Accept())
		}
		return errors.Join(errs...)
	}
	for _, l := range links {
		if err := l.Reject(); err != nil {
			return nil, errors.Join(err, in.Heal(ctx))
		}
		rejected = append(rejected, l)
	}
	in.bit = func(ctx context.Context) (bool, string) { return refused(ctx, links) }
	return in, nil
}

// refused reports whether every link had carried bytes and refuses dials now.
func refused(ctx context.Context, links []*cluster.Link) (bool, string) {
	var bytes int64
	for _, l := range links {
		if !l.Refuses(ctx) {
			return false, fmt.Sprintf("a dial of %s was not refused", l)
		}
		bytes += l.Traffic(cluster.Forward).Bytes + l.Traffic(cluster.Backward).Bytes
	}
	if bytes == 0 {
		return false, "nobody had used these links"
	}
	return true, fmt.Sprintf("dials refused on %d links", len(links))
}

// around is the traffic between the targets and other nodes, each path once.
func around(c *cluster.Cluster, targets []*cluster.Node) []path {
	ps := paths(c, names(targets), names(without(c.Nodes(), targets)), "both")
	if len(targets) == len(c.Nodes()) {
		ps = paths(c, names(targets[:1]), names(targets[1:]), "both")
		for i := 1; i < len(targets); i++ {
			ps = append(ps, paths(c, names(targets[i:i+1]), names(targets[i+1:]), "both")...)
		}
	}
	return ps
}

// reset closes every connection between the targets and other nodes once.
func reset(c *cluster.Cluster, s Spec, targets []*cluster.Node) (*Injection, error) {
	ps := around(c, targets)
	links := linksOf(ps)
	ended := func(l *cluster.Link) int64 { return l.Traffic(cluster.Forward).Reset }
	before := make([]int64, len(links))
	for i, l := range links {
		before[i] = ended(l)
	}
	s.begin(targets)
	for _, l := range links {
		l.Reset()
	}
	in := &Injection{Targets: names(targets), Links: pathNames(ps), Detail: "connections closed"}
	in.heal = func(context.Context) error { return nil }
	in.bit = func(ctx context.Context) (bool, string) {
		ctx, cancel := context.WithTimeout(ctx, settle)
		defer cancel()
		for {
			var total, without int64
			for i, l := range links {
				total += ended(l) - before[i]
				if ended(l) == before[i] {
					without++
				}
			}
			if without == 0 {
				return true, fmt.Sprintf("%d connections closed on %d links", total, len(links))
			}
			select {
			case <-ctx.Done():
				return false, fmt.Sprintf("%d of %d links had no connection to close", without, len(links))
			case <-time.After(time.Millisecond):
			}
		}
	}
	return in, nil
}

// resetOne closes one connection of a link.
func resetOne(l *cluster.Link, s Spec) (*Injection, error) {
	ended := func() int64 { return l.Traffic(cluster.Forward).Reset }
	before := ended()
	s.beginAt(l.String())
	there := l.ResetOne(s.Pick >> 32)
	return &Injection{
		Targets: []string{l.String()}, Detail: "one connection closed",
		heal: func(context.Context) error { return nil },
		bit: func(ctx context.Context) (bool, string) {
			if !there {
				return false, l.String() + " had no connection to close"
			}
			ctx, cancel := context.WithTimeout(ctx, 5*settle)
			defer cancel()
			for ended() == before {
				select {
				case <-ctx.Done():
					return false, "the connection of " + l.String() + " was not closed"
				case <-time.After(time.Millisecond):
				}
			}
			return true, "one connection of " + l.String() + " closed"
		},
	}, nil
}

// stallLink holds everything on one link, both ways. The other link between
// the two nodes goes on.
func stallLink(l *cluster.Link, s Spec) *Injection {
	ways := []cluster.Way{cluster.Forward, cluster.Backward}
	held := func() (n int64) {
		for _, w := range ways {
			n += l.Traffic(w).Held
		}
		return n
	}
	before := held()
	s.beginAt(l.String())
	var lifts []func()
	for _, w := range ways {
		lifts = append(lifts, l.Apply(w, cluster.Conditions{Stall: true}))
	}
	return &Injection{
		Targets: []string{l.String()}, Detail: "bytes held",
		heal: func(context.Context) error {
			for _, lift := range lifts {
				lift()
			}
			return nil
		},
		bit: func(context.Context) (bool, string) {
			if n := held() - before; n > 0 {
				return true, fmt.Sprintf("%d transmissions held on %s", n, l)
			}
			return false, "nothing was sent on " + l.String() + " that could have been held"
		},
	}
}

// switchPatience is how long the node may take to hand over.
const switchPatience = 5 * time.Second

// leaderSwitch asks the leader to hand over, as an operator does.
func leaderSwitch(ctx context.Context, c *cluster.Cluster, s Spec) (*Injection, error) {
	old, err := awaitLeader(ctx, c)
	if err != nil {
		return nil, err
	}
	to := ""
	if n := c.Node(s.To); n != nil {
		if n == old {
			return nil, fmt.Errorf("%w: %s leads already", ErrNotAvailable, s.To)
		}
		to = n.Identity
	}
	s.begin([]*cluster.Node{old})
	asked, cancel := context.WithTimeout(ctx, switchPatience)
	defer cancel()
	if _, err := old.Conn().LeaderSwitch(asked, to); err != nil {
		return nil, fmt.Errorf("leader switch: %w", err)
	}
	in := &Injection{Targets: []string{old.Name}, Detail: "asked to hand over"}
	in.heal = func(context.Context) error { return nil }
	in.bit = func(ctx context.Context) (bool, string) {
		now, err := awaitLeader(ctx, c)
		switch {
		case err != nil:
			return false, err.Error()
		case now == old:
			return false, old.Name + " leads still"
		}
		return true, now.Name + " leads"
	}
	return in, nil
}

// membersPatience is how long a change of hosts may take: a new one copies
// the whole cache first.
const membersPatience = 20 * time.Second

// members changes the hosts that make up the cluster, for good.
func members(ctx context.Context, c *cluster.Cluster, s Spec) (*Injection, error) {
	was := c.Members()
	if was == s.Members {
		return nil, fmt.Errorf("%w: the cluster has %d members already", ErrNotAvailable, was)
	}
	nodes := c.Nodes()[min(was, s.Members):max(was, s.Members)]
	ctx, cancel := context.WithTimeout(ctx, membersPatience)
	defer cancel()
	s.begin(nodes)
	if err := c.SetMembers(ctx, s.Members); err != nil {
		return nil, fmt.Errorf("members: %w", err)
	}
	in := &Injection{Targets: names(nodes), Detail: fmt.Sprintf("%d members, were %d", s.Members, was)}
	in.heal = func(context.Context) error { return nil }
	in.bit = func(ctx context.Context) (bool, string) {
		leader, err := awaitLeader(ctx, c)
		if err != nil {
			return false, err.Error()
		}
		h, err := leader.Health(ctx)
		if err != nil {
			return false, err.Error()
		}
		if n := len(h.GetPeer().GetStatus().GetVoters()); n != s.Members {
			return false, fmt.Sprintf("the leader has %d voters", n)
		}
		return true, in.Detail
	}
	return in, nil
}

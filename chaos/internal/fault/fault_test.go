package fault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/chaos/internal/cluster"
	"github.com/hacache/hacache/chaos/internal/hostile"
)

var dir string // of the program under test

// TestMain is also the process in which hostile clients are.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == hostile.Command {
		if err := hostile.Serve(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	var err error
	if dir, err = os.MkdirTemp("", "fault"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// binary builds the node once for all tests, hooked one that has fault hooks.
var binary, hooked = sync.OnceValues(build("")), sync.OnceValues(build("faults"))

func build(tags string) func() (string, error) {
	return func() (string, error) {
		path := filepath.Join(dir, "cachenode"+tags)
		out, err := exec.Command("go", "build", "-tags", tags, "-o", path, "github.com/hacache/hacache/cachenode").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return path, err
	}
}

// events collects what the processes of a cluster did.
type events struct {
	mu   sync.Mutex
	list []string
}

func (e *events) add(node string, s cluster.State, _ string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, fmt.Sprintf("%s %d", node, s))
}

func (e *events) count(line string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.list {
		if l == line {
			n++
		}
	}
	return n
}

// up starts three real nodes.
func up(t *testing.T) (*cluster.Cluster, *events) {
	t.Helper()
	return upWith(t, cluster.Spec{})
}

func upWith(t *testing.T, spec cluster.Spec) (*cluster.Cluster, *events) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes")
	}
	built := binary
	if spec.Hooks {
		built = hooked
	}
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	seen := new(events)
	spec.Binary, spec.Nodes, spec.LogDir, spec.Seed, spec.OnProcess = path, max(spec.Nodes, 3), cmp.Or(spec.LogDir, t.TempDir()), 1, seen.add
	c, err := cluster.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(2 * time.Second); err != nil {
			t.Error(err)
		}
	})
	healthy(t, c)
	return c, seen
}

func healthy(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.WaitHealthy(ctx); err != nil {
		t.Fatalf("not healthy: %v", err)
	}
}

// write inserts through a node's client link.
func write(ctx context.Context, t *testing.T, c *cluster.Cluster, node, key string) client.Outcome {
	t.Helper()
	conn, err := client.NewConn(c.Client(c.ClientAddr(node)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.Do(ctx, &client.Op{Kind: client.KindInsert, Cache: "c", Key: key, Value: []byte("v"), Deadline: 5 * time.Second})
}

// TestInject does each fault to a real cluster and proves that it says whom it
// hit, is seen to take effect, heals, and leaves a cluster that is healthy and
// takes writes on every node.
func TestInject(t *testing.T) {
	c, seen := up(t)
	for i, s := range []Spec{
		{Action: "kill", Target: "leader"},
		{Action: "kill", Target: "follower", Pick: 1},
		{Action: "term", Target: "leader"},
		{Action: "pause", Target: "leader"},
		{Action: "partition", Target: "leader", From: "followers", Style: "stall", Direction: "both"},
		{Action: "partition", Target: "n2", From: "n3", Style: "stall", Direction: "out"},
		{Action: "isolate", Target: "leader", Style: "reject", Direction: "both", Clients: "kept"},
		{Action: "isolate", Target: "follower", Style: "stall", Direction: "both", Clients: "cut"},
		{Action: "latency", Target: "all", Latency: 20 * time.Millisecond, Jitter: 10 * time.Millisecond, Direction: "both"},
		{Action: "latency", Target: "n1", Latency: 20 * time.Millisecond, Direction: "in"},
		{Action: "reset", Target: "all"},
		{Action: "loss", Target: "all", Loss: 0.2, Burst: 2, Direction: "both"},
		{Action: "reset", Target: "link", Pick: 3 | 1<<32},
		{Action: "stall", Target: "link", Pick: 4},
		{Action: "leader-switch"},
		{Action: "latency", Target: "all", Latency: 20 * time.Millisecond, Jitter: 10 * time.Millisecond, Spread: "pareto", Direction: "both"},
		{Action: "bandwidth", Target: "all", Bytes: 1 << 20, Direction: "both"},
		{Action: "slice", Target: "leader", Bytes: 8, Direction: "out"},
		{Action: "cut-after", Target: "leader", Bytes: 2000, Direction: "both"},
		{Action: "isolate", Target: "leader", Style: "swallow", Direction: "both", Clients: "kept"},
		{Action: "isolate", Target: "follower", Style: "stall", Direction: "both", Period: 200 * time.Millisecond, Duty: 0.5},
		{Action: "split", Target: "leader", Style: "stall"},
		{Action: "bridge", Target: "leader", Style: "stall"},
		{Action: "dials", Target: "leader", Style: "reject", Direction: "out"},
		{Action: "starve", Target: "follower", Period: 50 * time.Millisecond, Duty: 0.5},
		{Action: "memory", Target: "follower", Bytes: 32 << 20, GOGC: 20},
		{Action: "fd-limit", Target: "leader"},
	} {
		t.Run(fmt.Sprintf("%s %s %s %s", s.Action, s.Target, s.Style, s.Direction), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			leader := c.Leader(ctx)
			var begun []string
			s.Begin = func(targets []string) { begun = targets }
			in, err := Inject(ctx, c, s)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(begun, in.Targets) || len(begun) == 0 {
				t.Errorf("begun on %v, hit %v", begun, in.Targets)
			}
			if s.Target == "leader" && s.Action != "bridge" && !slices.Equal(in.Targets, []string{leader.Name}) {
				t.Errorf("hit %v, the leader was %s", in.Targets, leader.Name)
			}
			if slices.Contains([]string{"kill", "term", "memory"}, s.Action) && seen.count(in.Targets[0]+" 2") == 0 {
				t.Error("no event of the end of the process")
			}
			bites(ctx, t, in)
			if err := in.Heal(ctx); err != nil {
				t.Fatal(err)
			}
			if err := in.Heal(ctx); err != nil {
				t.Errorf("healed again: %v", err)
			}
			healthy(t, c)
			for _, n := range c.Names() {
				if o := write(ctx, t, c, n, fmt.Sprintf("%d-%s", i, n)); o.Err != nil {
					t.Errorf("write on %s after the heal: %v", n, o.Err)
				}
			}
		})
	}
}

// TestInject_several proves that each takes the nodes in turn, several at once
// if asked, and that a cluster that forgot everything comes back.
func TestInject_several(t *testing.T) {
	c, _ := up(t)
	for turn, want := range [][]string{{"n1", "n2"}, {"n3", "n1"}} {
		in, err := Inject(t.Context(), c, Spec{Action: "kill", Target: "each", Turn: turn, Count: 2})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(in.Targets, want) {
			t.Errorf("turn %d hit %v, want %v", turn, in.Targets, want)
		}
		if err := in.Heal(t.Context()); err != nil {
			t.Fatal(err)
		}
		ready, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := c.WaitReady(ready); err != nil {
			t.Fatal(err)
		}
	}
}

// TestInject_direct proves that without links processes can be broken and
// clients reach the nodes, and that a fault of a link does not apply.
func TestInject_direct(t *testing.T) {
	c, _ := upWith(t, cluster.Spec{Direct: true})
	for _, n := range c.Nodes() {
		if addr := c.ClientAddr(n.Name); addr != n.Identity {
			t.Errorf("clients of %s dial %s, it listens on %s", n.Name, addr, n.Identity)
		}
	}
	if _, err := Inject(t.Context(), c, Spec{Action: "reset", Target: "link"}); !errors.Is(err, ErrNotAvailable) {
		t.Errorf("reset of a link: %v", err)
	}
	in, err := Inject(t.Context(), c, Spec{Action: "kill", Target: "leader"})
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	healthy(t, c)
	for _, n := range c.Names() {
		if o := write(t.Context(), t, c, n, "direct-"+n); o.Err != nil {
			t.Errorf("write on %s: %v", n, o.Err)
		}
	}
}

// TestInject_tls proves that a cluster with certificates is one: nodes and
// clients find each other through links and after a restart, a client without a
// certificate finds nobody, an attack is made through TLS as well, and no key
// is left behind.
func TestInject_tls(t *testing.T) {
	logs := t.TempDir()
	c, _ := upWith(t, cluster.Spec{TLS: true, LogDir: logs})
	stranger := c.Client(c.ClientAddr("n1"))
	stranger.TLS = stranger.TLS.Clone()
	stranger.TLS.Certificates = nil
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if conn, err := client.Dial(ctx, stranger); err == nil {
		conn.Close()
		t.Error("a client without a certificate was let in")
	}
	in, err := Inject(t.Context(), c, Spec{Action: "peer-claim", Target: "n2", Rate: 50})
	if err != nil {
		t.Fatal(err)
	}
	refused, cancelRefused := context.WithTimeout(t.Context(), 2*time.Minute) // they take what others leave of the processors
	defer cancelRefused()
	for evidence := ""; !strings.Contains(evidence, "PermissionDenied"); _, evidence = in.Bit(refused) {
		select {
		case <-refused.Done():
			t.Fatalf("clients with a certificate that claim to be nodes: %s", evidence)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := in.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := in.Attacks[0].Tally; got.Served > 0 {
		t.Errorf("clients with a certificate that claim to be nodes: %s", &got)
	}
	in, err = Inject(t.Context(), c, Spec{Action: "kill", Target: "leader"})
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	healthy(t, c)
	for _, n := range c.Names() {
		if o := write(t.Context(), t, c, n, "tls-"+n); o.Err != nil {
			t.Errorf("write on %s: %v", n, o.Err)
		}
	}
	if err := c.Stop(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(logs, "certs")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("certificates are left: %v", err)
	}
}

// bites waits until a fault is seen to take effect: traffic has to meet it.
func bites(ctx context.Context, t *testing.T, in *Injection) {
	t.Helper()
	for {
		bit, evidence := in.Bit(ctx)
		if bit {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("did not take effect: %s", evidence)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestInject_cutsWhatItSays proves that a node that is cut off with its
// clients answers them no more, that one that keeps them does not ack at
// quorum, and that the others go on.
func TestInject_cutsWhatItSays(t *testing.T) {
	c, _ := up(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	leader := c.Leader(ctx)
	in, err := Inject(ctx, c, Spec{Action: "isolate", Target: "leader", Style: "stall", Direction: "both", Clients: "kept"})
	if err != nil {
		t.Fatal(err)
	}
	if o := write(ctx, t, c, leader.Name, "on-the-isolated"); o.Status == client.StatusOK {
		t.Errorf("the isolated leader %s acked at quorum", leader.Name)
	}
	for _, n := range c.Names() {
		if n != leader.Name {
			if o := write(ctx, t, c, n, "beside-"+n); o.Status != client.StatusOK {
				t.Errorf("%s, with a majority, did not ack: %v", n, o.Err)
			}
		}
	}
	if err := in.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	healthy(t, c)

	in, err = Inject(ctx, c, Spec{Action: "isolate", Target: "n1", Style: "reject", Direction: "both", Clients: "cut"})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Heal(ctx)
	short, cancelShort := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancelShort()
	if o := write(short, t, c, "n1", "unreachable"); o.Status == client.StatusOK {
		t.Error("a node that is cut off from its clients answered one")
	}
}

// TestInject_notAvailable proves that a fault that does not apply says so and
// does nothing.
func TestInject_notAvailable(t *testing.T) {
	c, _ := up(t)
	ctx := t.Context()
	kill, err := Inject(ctx, c, Spec{Action: "kill", Target: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Spec{{Action: "kill", Target: "n1"}, {Action: "pause", Target: "n1"}} {
		if _, err := Inject(ctx, c, s); !errors.Is(err, ErrNotAvailable) {
			t.Errorf("%s of a dead node: %v", s.Action, err)
		}
	}
	if bit, why := kill.Bit(ctx); !bit {
		t.Errorf("the node is back: %s", why)
	}
	if err := kill.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	healthy(t, c)
	leader := c.Leader(ctx)
	if _, err := Inject(ctx, c, Spec{Action: "leader-switch", To: leader.Name}); !errors.Is(err, ErrNotAvailable) {
		t.Errorf("switch to the leader itself: %v", err)
	}
	if _, err := Inject(ctx, c, Spec{Action: "partition", Target: "leader", From: leader.Name, Style: "stall", Direction: "both"}); !errors.Is(err, ErrNotAvailable) {
		t.Errorf("partition from itself: %v", err)
	}
	healthy(t, c)
}

// TestInject_beside proves the faults that show beside another one only: new
// connections are held after the old ones were reset, and the end of a
// connection is late when a process dies.
func TestInject_beside(t *testing.T) {
	c, _ := up(t)
	for _, tt := range []struct{ first, then Spec }{
		{Spec{Action: "dials", Target: "n1", Style: "stall", Direction: "both"}, Spec{Action: "reset", Target: "n1"}},
		{Spec{Action: "slow-close", Target: "n1", Latency: time.Second, Direction: "both"}, Spec{Action: "kill", Target: "n1"}},
	} {
		t.Run(tt.first.Action, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			in, err := Inject(ctx, c, tt.first)
			if err != nil {
				t.Fatal(err)
			}
			if bit, evidence := in.Bit(ctx); bit {
				t.Errorf("it took effect although nothing had happened: %s", evidence)
			}
			then, err := Inject(ctx, c, tt.then)
			if err != nil {
				t.Fatal(err)
			}
			bites(ctx, t, in)
			for _, in := range []*Injection{in, then} {
				if err := in.Heal(ctx); err != nil {
					t.Fatal(err)
				}
			}
			healthy(t, c)
		})
	}
}

// TestInject_ring proves that five nodes in a ring of majorities are cut in
// just so many places, that the evidence says so, and that they recover.
func TestInject_ring(t *testing.T) {
	c, _ := upWith(t, cluster.Spec{Nodes: 5})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	in, err := Inject(ctx, c, Spec{Action: "ring", Style: "stall", Pick: 7})
	if err != nil {
		t.Fatal(err)
	}
	cut := map[string]int{}
	for _, l := range in.Links {
		from, _, _ := strings.Cut(l, ">")
		cut[from]++
	}
	for _, n := range c.Names() {
		if cut[n] != 2 {
			t.Errorf("%s does not reach %d of the others, want 2", n, cut[n])
		}
	}
	bites(ctx, t, in)
	if err := in.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	healthy(t, c)
}

// TestInject_hooks proves that a node with hooks ends at each point that the
// running of a cluster comes to and is healed, that its wall clock is moved and
// was looked at, and that a node without hooks refuses.
func TestInject_hooks(t *testing.T) {
	c, _ := upWith(t, cluster.Spec{Hooks: true})
	ctx, cancel := context.WithTimeout(t.Context(), 120*time.Second)
	defer cancel()
	if o := write(ctx, t, c, "n1", "something to copy"); o.Err != nil {
		t.Fatal(o.Err)
	}
	heal := func(ins ...*Injection) {
		t.Helper()
		for _, in := range ins {
			bites(ctx, t, in)
			if err := in.Heal(ctx); err != nil {
				t.Fatal(err)
			}
		}
		healthy(t, c)
	}
	for _, point := range []string{"before-append", "after-append", "before-apply"} {
		for _, target := range []string{"leader", "follower"} {
			in, err := Inject(ctx, c, Spec{Action: "failpoint", Target: target, Point: point})
			if err != nil {
				t.Fatal(err)
			}
			// An idle cluster appends nothing. Whether the node that ends answers is
			// of no interest.
			done := make(chan client.Outcome, 1)
			if err := c.Node(in.Targets[0]).Conn().Start(&client.Op{Kind: client.KindInsert, Cache: "c", Key: "last straw", Value: []byte("v")}, func(o client.Outcome) { done <- o }); err == nil {
				<-done
			}
			heal(in)
		}
	}
	for _, point := range []string{"snapshot-send", "during-swap"} {
		kill, err := Inject(ctx, c, Spec{Action: "kill", Target: "follower"})
		if err != nil {
			t.Fatal(err)
		}
		in, err := Inject(ctx, c, Spec{Action: "failpoint", Target: "leader", Point: point})
		if err != nil {
			t.Fatal(err)
		}
		if err := kill.Heal(ctx); err != nil { // it comes back and wants a copy
			t.Fatal(err)
		}
		heal(in)
	}
	clock, err := Inject(ctx, c, Spec{Action: "clock", Target: "leader", Offset: -time.Hour, Drift: 0.1})
	if err != nil {
		t.Fatal(err)
	}
	if bit, evidence := clock.Bit(ctx); bit {
		t.Errorf("the clock counts as read before anybody did: %s", evidence)
	}
	// Whoever comes to lead looks at its wall clock.
	for range 2 {
		in, err := Inject(ctx, c, Spec{Action: "leader-switch"})
		if err != nil {
			t.Fatal(err)
		}
		heal(in)
		if in, err = Inject(ctx, c, Spec{Action: "leader-switch", To: clock.Targets[0]}); err == nil {
			heal(in)
			break
		}
	}
	heal(clock)

	bare, _ := up(t)
	for _, s := range []Spec{{Action: "clock", Target: "n1", Offset: time.Hour}, {Action: "failpoint", Target: "n1", Point: "before-append"}} {
		if _, err := Inject(ctx, bare, s); !errors.Is(err, ErrNotAvailable) {
			t.Errorf("%s of a node without hooks: %v", s.Action, err)
		}
	}
}

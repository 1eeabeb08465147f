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
)

var dir string // of the program under test

func TestMain(m *testing.M) {
	var err error
	if dir, err = os.MkdirTemp("", "fault"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// binary builds the node once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(dir, "cachenode")
	out, err := exec.Command("go", "build", "-o", path, "github.com/hacache/hacache/cachenode").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

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
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	seen := new(events)
	spec.Binary, spec.Nodes, spec.LogDir, spec.Seed, spec.OnProcess = path, 3, cmp.Or(spec.LogDir, t.TempDir()), 1, seen.add
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
			if s.Target == "leader" && !slices.Equal(in.Targets, []string{leader.Name}) {
				t.Errorf("hit %v, the leader was %s", in.Targets, leader.Name)
			}
			if slices.Contains([]string{"kill", "term"}, s.Action) && seen.count(in.Targets[0]+" 2") == 0 {
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
	refused, cancelRefused := context.WithTimeout(t.Context(), 30*time.Second)
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

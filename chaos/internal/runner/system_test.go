package runner

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/chaos/internal/scenario"
	"github.com/hacache/hacache/reports/result"
)

// build makes the node once for all tests of this package.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "runner")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "cachenode")
	out, err := exec.Command("go", "build", "-o", path, "github.com/hacache/hacache/cachenode").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

const quick = `version: 1
name: quick
about: The leader is killed, on real processes.
cluster: {nodes: 3}
load:
  writers: {schedule: {constant: 200/s}, duration: 2s, op: insert, ack: {quorum: 50, leader: 50}, keys: {dist: once}}
  readers: {schedule: {constant: 200/s}, duration: 2s, op: {get: 50, insert: 50}, keys: {count: 50}}
faults: [{at: 500ms, for: 500ms, action: kill, target: leader}]
checks: {lost_writes: true, state_hash: true, converge: 20s}
`

// saboteur removes some keys behind the harness's back once the load is over.
type saboteur struct {
	System
	keys  []string
	waits int
}

func (s *saboteur) WaitHealthy(ctx context.Context) error {
	if s.waits++; s.waits == 2 {
		if err := s.System.WaitHealthy(ctx); err != nil {
			return err
		}
		for _, key := range s.keys {
			op := &client.Op{Kind: client.KindRemove, Cache: probeCache, Key: key}
			if o := s.System.(processes).Node("n1").Conn().Do(ctx, op); o.Err != nil {
				return o.Err
			}
		}
	}
	return s.System.WaitHealthy(ctx)
}

// TestProcesses proves the whole of it on real nodes: a run with a kill passes,
// and the same run in which a few acknowledged writes of thousands are taken
// away is violated and names them.
func TestProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(binary)) })
	// Probes at quorum, before the kill and long after it. On a slow machine one
	// or the other may have got no answer, and may be missing then.
	stolen := []string{"p117", "p118", "p119", "p1089", "p1090", "p1091"}
	for name, c := range map[string]struct {
		boot func(context.Context, Boot) (System, error)
		want result.Verdict
	}{
		"correct": {Processes(binary), result.Pass},
		"sabotaged": {func(ctx context.Context, b Boot) (System, error) {
			s, err := Processes(binary)(ctx, b)
			return &saboteur{System: s, keys: stolen}, err
		}, result.Violated},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := scenario.Parse("quick.yaml", []byte(quick))
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			r, err := Run(t.Context(), Config{Plan: scenario.NewPlan(s, 1), Source: []byte(quick), Dir: dir, Boot: c.boot})
			if err != nil {
				t.Fatal(err)
			}
			if got := verdicts(r)["lost writes"]; got != c.want || r.Verdict != c.want {
				t.Errorf("lost writes: %s, the run: %s; want %s: %q", got, r.Verdict, c.want, r.Reasons)
			}
			for _, l := range r.Losses {
				if !slices.Contains(stolen, l.Key) || l.Node != "all" || l.Level != "quorum" {
					t.Errorf("lost %s on %s, want some of %q on all", l.Key, l.Node, stolen)
				}
			}
			if len(r.Failovers) != 1 || r.Failovers[0].NewLeader == "" {
				t.Errorf("failovers %+v", r.Failovers)
			}
			for _, n := range r.Nodes {
				if log, err := os.ReadFile(filepath.Join(dir, n.Log)); err != nil || !strings.Contains(string(log), "serving") {
					t.Errorf("%s: %v", n.Log, err)
				}
			}
		})
	}
}

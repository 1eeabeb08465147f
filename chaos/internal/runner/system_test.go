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
  writers: {schedule: {constant: 200/s}, duration: 4s, op: insert, ack: {quorum: 50, leader: 50}, keys: {dist: once}}
  readers: {schedule: {constant: 200/s}, duration: 4s, op: {get: 50, insert: 50}, keys: {count: 50}}
faults: [{at: 1s, for: 1500ms, action: kill, target: leader}]
checks: {lost_writes: true, state_hash: true, converge: 20s}
`

// saboteur removes some keys behind the harness's back once the load is over:
// probes at quorum that are there, from before the fault and from after it.
type saboteur struct {
	System
	stolen []string
	waits  int
}

func (s *saboteur) WaitHealthy(ctx context.Context) error {
	if s.waits++; s.waits == 2 {
		if err := s.System.WaitHealthy(ctx); err != nil {
			return err
		}
		if err := s.steal(ctx); err != nil {
			return err
		}
	}
	return s.System.WaitHealthy(ctx)
}

func (s *saboteur) steal(ctx context.Context) error {
	conn := s.System.(processes).Node("n1").Conn()
	const nodes, levels, probes = 3, 3, 1500
	for _, from := range []int{0, probes / 2} {
		for i, n := from, 0; i < from+probes/2 && n < 3; i++ {
			key := fmt.Sprintf("p%d", i)
			if i/nodes%levels != 0 { // not at quorum, see probes.Op
				continue
			}
			if o := conn.Do(ctx, &client.Op{Kind: client.KindGet, Cache: probeCache, Key: key}); o.Err != nil {
				return o.Err
			} else if !o.Found {
				continue
			}
			if o := conn.Do(ctx, &client.Op{Kind: client.KindRemove, Cache: probeCache, Key: key}); o.Err != nil {
				return o.Err
			}
			s.stolen, n = append(s.stolen, key), n+1
		}
	}
	return nil
}

// TestProcesses proves the whole of it on real nodes: a run with a kill passes,
// and the same run in which a few acknowledged writes of thousands are taken
// away is violated and names them.
//
// A machine that is busy with other things may give the nodes so little time
// that the run itself says that it shows nothing. That is what it should say;
// the test then tries again with the next seed, and fails if that is all it
// ever hears.
func TestProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(binary)) })
	for name, want := range map[string]result.Verdict{"correct": result.Pass, "sabotaged": result.Violated} {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); ; seed++ {
				s, err := scenario.Parse("quick.yaml", []byte(quick))
				if err != nil {
					t.Fatal(err)
				}
				thief := new(saboteur)
				boot := func(ctx context.Context, b Boot) (System, error) {
					s, err := Processes(binary)(ctx, b)
					if thief.System = s; want == result.Violated && err == nil {
						return thief, nil
					}
					return s, err
				}
				dir := t.TempDir()
				r, err := Run(t.Context(), Config{Plan: scenario.NewPlan(s, seed), Source: []byte(quick), Dir: dir, Boot: boot})
				if err != nil {
					t.Fatal(err)
				}
				if verdicts(r)["run validity"] == result.Unknown && r.Verdict != result.Violated && r.Failure == "" && seed < 5 {
					t.Logf("seed %d showed nothing: %q", seed, r.Reasons)
					continue
				}
				judgeProcesses(t, r, dir, want, thief.stolen)
				return
			}
		})
	}
}

func judgeProcesses(t *testing.T, r *result.Run, dir string, want result.Verdict, stolen []string) {
	t.Helper()
	if got := verdicts(r)["lost writes"]; got != want || r.Verdict != want {
		t.Errorf("lost writes: %s, the run: %s; want %s: %q %s", got, r.Verdict, want, r.Reasons, r.Failure)
	}
	for _, l := range r.Losses {
		if !slices.Contains(stolen, l.Key) || l.Node != "all" || l.Level != "quorum" {
			t.Errorf("lost %s on %s at %s, want some of %q on all at quorum", l.Key, l.Node, l.Level, stolen)
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
}

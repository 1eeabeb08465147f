package main

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/proto/cachepb"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cachenode": main})
}

// The command line as users meet it: each script runs real processes and holds messages and exit codes in full.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			// A process under the race detector sleeps for a second before it exits, and the scripts run a hundred.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			deploy, err := filepath.Abs("deploy")
			if err != nil {
				return err
			}
			env.Setenv("DEPLOY", deploy)
			for _, n := range []string{"", "2", "3", "4"} {
				addr, err := freeAddr()
				if err != nil {
					return err
				}
				env.Setenv("ADDR"+n, addr)
				env.Setenv("FILE"+n, fileName(addr)) // as certs dev names it
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":   exits,
			"ready":   awaitReady,
			"certs":   certs,
			"settled": settled,
		},
	})
}

func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// exits CODE PROGRAM ARGS... runs a program that must end with the code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		got = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// settled PROGRAM ARGS... runs a program until it ends with 0, for 20 seconds: what other processes have to bring about.
func settled(ts *testscript.TestScript, _ bool, args []string) {
	deadline, again := time.After(20*time.Second), time.NewTicker(20*time.Millisecond)
	defer again.Stop()
	for {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		select {
		case <-deadline:
			ts.Fatalf("%s: %v", strings.Join(args, " "), err)
		case <-again.C:
		}
	}
}

// ready ADDR [TOKEN] waits until the node at ADDR may serve clients.
func awaitReady(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cfg := client.Config{Addr: args[0]}
	if len(args) > 1 {
		cfg.Token = args[1]
	}
	conn, err := client.NewConn(cfg)
	ts.Check(err)
	defer conn.Close()
	for {
		h, err := conn.Health(ctx)
		if err == nil && ready(h) {
			return
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("%s is not ready: %v", args[0], err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// A node is ready for the restart of the next one when it takes part with a quorum and no change of members is under way.
func TestReady(t *testing.T) {
	following := &cachepb.State{Value: &cachepb.State_Follower{Follower: &cachepb.Empty{}}}
	copying := &cachepb.State{Value: &cachepb.State_LeaderTxAwait{LeaderTxAwait: &cachepb.Empty{}}}
	joint := &cachepb.Peer{Status: &cachepb.NodeStatus{Voters: []uint64{1, 2, 4}, VotersOutgoing: []uint64{1, 2, 3}}}
	for name, c := range map[string]struct {
		health *cachepb.HealthAck
		want   bool
	}{
		"a follower":                {&cachepb.HealthAck{State: following, Quorum: true}, true},
		"its view is too old":       {&cachepb.HealthAck{State: following}, false},
		"it still copies":           {&cachepb.HealthAck{State: copying, Quorum: true}, false},
		"members are being swapped": {&cachepb.HealthAck{State: following, Quorum: true, Peer: joint}, false},
	} {
		if got := ready(c.health); got != c.want {
			t.Errorf("%s: ready is %v, expected %v", name, got, c.want)
		}
	}
}

// Every setting that is no secret has a flag of serve, and help names its variable.
func TestEverySettingHasAFlag(t *testing.T) {
	var out strings.Builder
	if code := run(t.Context(), []string{"serve", "--help"}, nil, &out, &out); code != 0 {
		t.Fatalf("exit code %d\n%s", code, out.String())
	}
	words := strings.FieldsFunc(out.String(), func(r rune) bool { return strings.ContainsRune(" \n,[]", r) })
	for _, s := range config.Settings() {
		if s.Secret {
			continue
		}
		if !slices.Contains(words, "--"+s.Flag()) || !slices.Contains(words, "$"+s.Env) {
			t.Errorf("%s is not in help as --%s and $%s", s.Key, s.Flag(), s.Env)
		}
	}
}

// The address that verbs dial by default is one at which the node of the same environment can be reached.
func TestReachable(t *testing.T) {
	for listen, want := range map[string]string{
		":7001": "127.0.0.1:7001", "0.0.0.0:7001": "127.0.0.1:7001", "[::]:7001": "127.0.0.1:7001",
		"127.0.0.2:7001": "127.0.0.2:7001", "cache-0:7001": "cache-0:7001",
	} {
		if got := reachable(listen); got != want {
			t.Errorf("%s: %s, want %s", listen, got, want)
		}
	}
}

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/loadgen/load"
)

// The test binary is also the servers, as the program is.
func TestMain(m *testing.M) {
	if !serve(os.Args[1:]) {
		os.Exit(m.Run())
	}
}

// Workers take as many operations as the window holds and no more, each is answered once, at the end of its own call,
// and a batch has all that waits. Goal: a client that blocks is offered neither more nor less than the row says.
func TestWorkers(t *testing.T) {
	for name, c := range map[string]struct {
		batch bool
		sizes []int // of the calls
	}{"one by one": {false, []int{1, 1, 1, 1}}, "batched": {true, []int{1, 3}}} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				var (
					mu       sync.Mutex // guards sizes and answers: calls run at the same time
					sizes    []int
					answers  []string
					released bool
				)
				w := newWorkers([]perform{func(_ context.Context, ops []*client.Op, outcomes []client.Outcome) {
					mu.Lock()
					sizes = append(sizes, len(ops))
					mu.Unlock()
					time.Sleep(time.Millisecond)
					for i, op := range ops {
						outcomes[i] = client.Outcome{Found: true, Value: op.Value}
					}
				}}, 4, c.batch, func() { released = true })
				value := []byte("0")
				for i := range 4 {
					value[0] = byte('0' + i) // the caller's again after Start
					if err := w.Start(0, &client.Op{Value: value}, func(o client.Outcome) {
						mu.Lock()
						defer mu.Unlock()
						answers = append(answers, string(o.Value))
					}); err != nil {
						t.Fatal(err)
					}
					synctest.Wait() // the first call has begun before the second operation is there
				}
				if err := w.Start(0, &client.Op{}, nil); !errors.Is(err, client.ErrFull) {
					t.Errorf("the fifth of four: %v, expected that it is full", err)
				}
				time.Sleep(5 * time.Millisecond)
				synctest.Wait()
				if got := strings.Join(answers, ""); len(got) != 4 || !containsEach(got, "0123") {
					t.Errorf("answers %q, expected each of 0123 once", got)
				}
				if len(sizes) != len(c.sizes) || sizes[len(sizes)-1] != c.sizes[len(c.sizes)-1] {
					t.Errorf("calls of %v operations, expected %v", sizes, c.sizes)
				}
				w.Close()
				if !released {
					t.Error("Close does not release the connections")
				}
				if err := w.Start(0, &client.Op{}, nil); !errors.Is(err, client.ErrClosed) {
					t.Errorf("after Close: %v", err)
				}
			})
		})
	}
}

func containsEach(s, letters string) bool {
	for _, l := range letters {
		if strings.Count(s, string(l)) != 1 {
			return false
		}
	}
	return true
}

// What is in flight when workers are closed ends as its call says, what waited was never sent: each is answered once.
func TestWorkersClose(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorkers([]perform{func(ctx context.Context, _ []*client.Op, outcomes []client.Outcome) {
			<-ctx.Done()
			for i := range outcomes {
				outcomes[i] = client.Outcome{Status: client.StatusInfo, Err: ctx.Err()}
			}
		}}, 3, true, func() {})
		count := map[client.Status]int{}
		for range 3 {
			if err := w.Start(0, &client.Op{}, func(o client.Outcome) { count[o.Status]++ }); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		w.Close()
		if count[client.StatusInfo] != 1 || count[client.StatusFail] != 2 {
			t.Errorf("%d unknown and %d failed, expected 1 that was in flight and 2 that waited", count[client.StatusInfo], count[client.StatusFail])
		}
	})
}

// Only what cannot have taken effect is a failure: everything else that is no ok is unknown, for each system in its own
// words. A write called failed that did happen would be the lie that the rest of this project is about.
func TestOutcomesOfWrites(t *testing.T) {
	for name, c := range map[string]struct {
		got  client.Outcome
		want client.Status
	}{
		"etcd, done":             {etcdWritten(nil), client.StatusOK},
		"etcd, no space":         {etcdWritten(rpctypes.Error(rpctypes.ErrGRPCNoSpace)), client.StatusFail},
		"etcd, too large":        {etcdWritten(rpctypes.Error(rpctypes.ErrGRPCRequestTooLarge)), client.StatusFail},
		"etcd, ran out of time":  {etcdWritten(rpctypes.Error(rpctypes.ErrGRPCTimeout)), client.StatusInfo},
		"etcd, leader changed":   {etcdWritten(rpctypes.Error(rpctypes.ErrGRPCLeaderChanged)), client.StatusInfo},
		"etcd, broken":           {etcdWritten(status.Error(codes.Unavailable, "broken")), client.StatusInfo},
		"etcd, cancelled":        {etcdWritten(context.Canceled), client.StatusInfo},
		"NATS, done":             {natsWritten(nil), client.StatusOK},
		"NATS, refused":          {natsWritten(&jetstream.APIError{Code: 503, Description: "insufficient resources"}), client.StatusFail},
		"NATS, nobody there":     {natsWritten(jetstream.ErrNoStreamResponse), client.StatusFail},
		"NATS, not acknowledged": {natsWritten(jetstream.ErrAsyncPublishTimeout), client.StatusInfo},
		"NATS, closed":           {natsWritten(nats.ErrConnectionClosed), client.StatusInfo},
		"Redis, done":            {redisWritten(nil, nil), client.StatusOK},
		"Redis, not replicated":  {redisWritten(nil, errors.New("0 replicas")), client.StatusInfo},
		"Redis, broken":          {redisWritten(errors.New("EOF"), errors.New("EOF")), client.StatusInfo},
	} {
		if c.got.Status != c.want || (c.got.Err == nil) != (c.want == client.StatusOK) {
			t.Errorf("%s: %v (%v), expected %v", name, c.got.Status, c.got.Err, c.want)
		}
	}
	if o := readFailed(context.DeadlineExceeded); o.Status != client.StatusFail || !errors.Is(o.Err, client.ErrTimeout) {
		t.Errorf("a read that ran out of time: %+v", o)
	}
}

func TestRedisVersion(t *testing.T) {
	if got := redisVersion("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64"); got != "7.0.15" {
		t.Errorf("%q", got)
	}
}

// Every row names a system that there is and a base that there is; names are unique, since the page and the phases of a
// run are told apart by them.
func TestRows(t *testing.T) {
	names := map[string]bool{}
	for _, s := range systems(group{}, "") {
		about := s.about()
		names[about.Name] = true
		if about.Acknowledged == "" || about.Durability == "" || len(about.Setup) == 0 || len(about.Favours) == 0 {
			t.Errorf("%s: the page would not say how it was set up, or what is unfair in its favour", about.Name)
		}
	}
	seen := map[string]bool{}
	for _, r := range rows {
		if seen[r.name] || !names[r.system] || r.streams*r.window < 1 {
			t.Errorf("row %q of %q: there twice, or of no system, or without room", r.name, r.system)
		}
		seen[r.name] = true
	}
	for _, r := range rows {
		if r.base != "" && !seen[r.base] {
			t.Errorf("row %q: base %q is no row", r.name, r.base)
		}
	}
	if got := chosen(regexp.MustCompile("^etcd put, 256$")); len(got) != 2 || got[0].name != echoPlain {
		t.Errorf("%v: expected the row and the echo that it is compared with", got)
	}
}

// Wrong usage is one line for each mistake and exit code 2, before anything is started.
func TestUsage(t *testing.T) {
	node := filepath.Join(t.TempDir(), "cachenode")
	if err := os.WriteFile(node, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"":                          "no command",
		"race":                      `unknown command "race"`,
		"compare --rounds 0":        "--rounds: 0: want 1 to 1000",
		"compare --each 1h":         "--each: 1h0m0s: want",
		"compare --only (":          "--only: error parsing regexp",
		"compare --only nobody":     `--only: "nobody" matches no row`,
		"compare --keys 0":          "--keys: 0: want at least 1",
		"compare --value-size much": "--value-size:",
		"compare now":               `unexpected argument "now"`,
		"compare --nosuch":          "nosuch",
	} {
		all := append([]string{"peers"}, strings.Fields(args)...)
		if strings.HasPrefix(args, "compare") {
			all = append(all, "--cachenode", node)
		}
		var out, errs bytes.Buffer
		if code := run(t.Context(), all, &out, &errs); code != 2 || !strings.Contains(errs.String(), want) || strings.Count(errs.String(), "\n") != 1 {
			t.Errorf("peers %s: exit code %d, %q; expected 2 and one line with %q", args, code, errs.String(), want)
		}
	}
}

// Against real servers, three of each: what is written is read back, what is not there is not found, what the server
// refuses is a failure, every operation of a load is answered with ok, once, and when the servers are gone nothing is
// ever ok.
func TestSystems(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three servers of each system")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	server, _ := exec.LookPath(redisProgram)
	for name, of := range map[string]func(group) system{
		"etcd":  func(g group) system { return &etcd{group: g} },
		"nats":  func(g group) system { return &natsKV{group: g} },
		"redis": func(g group) system { return &redis{group: g, server: server} },
	} {
		t.Run(name, func(t *testing.T) {
			s := of(group{self: self, data: t.TempDir(), logs: t.ArtifactDir()})
			if absent := s.about().Absent; absent != "" {
				t.Skip(absent)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			t.Cleanup(s.stop)
			if err := s.start(ctx); err != nil {
				t.Fatal(err)
			}
			puts := openRow(ctx, t, s, &row{kind: client.KindInsert, streams: 2, window: 8})
			gets := openRow(ctx, t, s, &row{kind: client.KindGet, streams: 2, window: 8})
			batch := openRow(ctx, t, s, &row{kind: client.KindInsert, streams: 2, window: 8, batch: true})

			if o := do(t, puts, &client.Op{Kind: client.KindInsert, Key: "there", Value: []byte("value")}); o.Status != client.StatusOK {
				t.Fatalf("put: %+v", o)
			}
			if o := do(t, gets, &client.Op{Key: "there"}); !o.Found || string(o.Value) != "value" {
				t.Errorf("get: %+v, expected what was put", o)
			}
			if o := do(t, gets, &client.Op{Key: "not-there"}); o.Found || o.Status != client.StatusOK {
				t.Errorf("get of what is not there: %+v, expected an ok that found nothing", o)
			}
			if name != "redis" { // which takes half a gigabyte
				if o := do(t, puts, &client.Op{Kind: client.KindInsert, Key: "large", Value: bytes.Repeat([]byte("x"), 3<<20)}); o.Status != client.StatusFail {
					t.Errorf("put of 3 MiB: %+v, expected a failure", o)
				}
			}
			for kind, target := range map[string]load.Target{"put": puts, "get": gets, "batch": batch} {
				load1000(ctx, t, kind, target)
			}
			for _, p := range s.servers() {
				p.Kill()
				<-p.Done()
			}
			// Some clients look for a server as long as they may, which is until the target is closed.
			for kind, target := range map[client.Kind]load.Target{client.KindInsert: puts, client.KindGet: gets} {
				var late client.Outcome
				err := target.Start(0, &client.Op{Kind: kind, Key: "late", Value: []byte("x")}, func(o client.Outcome) { late = o })
				if err = errors.Join(err, target.Close()); err != nil || late.Status == client.StatusOK {
					t.Errorf("%s without servers: %+v, %v, expected anything but ok", kind, late, err)
				}
			}
		})
	}
}

func openRow(ctx context.Context, t *testing.T, s system, r *row) load.Target {
	t.Helper()
	target, err := s.open(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Close() }) // twice is once
	return target
}

// do carries out one operation and waits for its answer. What is not even started is a failure.
func do(t *testing.T, target load.Target, op *client.Op) client.Outcome {
	t.Helper()
	answer := make(chan client.Outcome, 1)
	if err := target.Start(0, op, func(o client.Outcome) {
		o.Value = bytes.Clone(o.Value)
		answer <- o
	}); err != nil {
		return client.Outcome{Status: client.StatusFail, Err: err}
	}
	select {
	case o := <-answer:
		return o
	case <-time.After(time.Minute):
		t.Fatal("no answer in a minute")
		return client.Outcome{}
	}
}

// load1000 offers a thousand operations in a closed loop; all of them have to be ok, and none may be counted twice.
func load1000(ctx context.Context, t *testing.T, kind string, target load.Target) {
	t.Helper()
	of := client.KindInsert
	if kind == "get" {
		of = client.KindGet
	}
	src, err := load.Workload{Seed: 1, Keys: 100, Mix: []load.Weight[client.Kind]{{Of: of, Weight: 1}}}.Source()
	if err != nil {
		t.Fatal(err)
	}
	g := load.Generator{
		Target: target, Source: src, Recorder: load.NewRecorder(load.RecorderConfig{Start: time.Now()}), InFlight: 16 / target.Streams(), Ops: 1000, Phase: kind,
	}
	sum, err := g.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if sum.Counts.OK != 1000 || sum.Counts.Intended != 1000 {
		t.Errorf("%s: %d of %d ok, expected 1000 of 1000", kind, sum.Counts.OK, sum.Counts.Intended)
	}
}

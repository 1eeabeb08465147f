package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/proc"
	"github.com/hacache/hacache/proto/cachepb"
)

// The status is shown again and again until the command is interrupted, which is no failure: as tables, and as one line of
// JSON each time.
func TestStatusWatch(t *testing.T) {
	ln, err := proc.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	p, err := proc.Start(t.Context(), proc.Spec{Binary: program(t), Listener: ln, LogPath: filepath.Join(t.TempDir(), "log"), Env: []string{"CACHE_TLS=false"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(20 * time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := proc.WaitMember(ctx, client.Config{Addr: addr}); err != nil {
		t.Fatal(err)
	}
	watch := func(enough func(line string) bool, args ...string) {
		t.Helper()
		ctx, interrupt := context.WithCancel(t.Context())
		r, w := io.Pipe()
		code := make(chan int, 1)
		go func() {
			code <- run(ctx, append([]string{"status", "--watch", "--interval", "100ms", "-a", addr}, args...), nil, w, w)
			w.Close()
		}()
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			if enough(lines.Text()) {
				interrupt()
				break
			}
		}
		_, _ = io.Copy(io.Discard, r)
		interrupt()
		if got := <-code; got != 0 {
			t.Errorf("%q ends with %d", args, got)
		}
	}
	tables := 0
	watch(func(line string) bool {
		if strings.Contains(line, "\x1b") {
			t.Errorf("a line for a terminal: %q", line)
		}
		if strings.HasPrefix(line, "NODE ") {
			tables++
		}
		return tables == 3
	})
	rounds := 0
	watch(func(line string) bool {
		var rows []row
		if err := json.Unmarshal([]byte(line), &rows); err != nil || len(rows) != 1 || rows[0].State != "leader" {
			t.Errorf("%q: %v", line, err)
		}
		rounds++
		return rounds == 3
	}, "-o", "json")
	if tables != 3 || rounds != 3 {
		t.Errorf("%d tables and %d lines", tables, rounds)
	}
}

// Lag and round trips are the leader's word, of those in its cluster; the table says what is out of order below it.
func TestStatusTable(t *testing.T) {
	ack := func(cluster, term, applied uint64, leads bool, hosts ...*cachepb.HostHealth) *cachepb.HealthAck {
		h := &cachepb.HealthAck{
			Term: term, Cluster: cluster, StalenessUs: 1500, Entries: 7, UptimeSecs: 61, HostHealth: hosts, Version: "v1", Quorum: true,
			Peer:  &cachepb.Peer{Status: &cachepb.NodeStatus{Id: 1, Cluster: cluster, Voters: []uint64{1}, Applied: applied, LastIndex: applied}},
			State: &cachepb.State{Value: &cachepb.State_Follower{Follower: &cachepb.Empty{}}},
		}
		if leads {
			h.State = &cachepb.State{Value: &cachepb.State_Leader{Leader: &cachepb.Empty{}}}
		}
		return h
	}
	lost := ack(2, 9, 3, false)
	lost.StalenessUs, lost.Version = ^uint64(0), "v2"
	s := clusterStatus{
		nodeRow("a:1", ack(1, 4, 100, false), 0),
		nodeRow("b:1", ack(1, 4, 120, true,
			&cachepb.HostHealth{Addr: "a:1", Match: 115, RttUs: 2500}, &cachepb.HostHealth{Addr: "b:1", Match: 120}, &cachepb.HostHealth{Addr: "c:1", Match: 90, RttUs: 800},
		), 0),
		nodeRow("c:1", lost, 0),
		{Addr: "d:1", State: "unreachable", Error: "no node answers"},
	}
	s.askLeader()
	var out strings.Builder
	if err := s.write(&out); err != nil {
		t.Fatal(err)
	}
	const want = `NODE  ROLE   STATE        TERM  LAG  STALENESS  ENTRIES  RTT     UPTIME
a:1   voter  follower     4     5    1.5 ms     7        2.5 ms  1m1s
b:1   voter  leader       4     0    1.5 ms     7        -       1m1s
c:1   voter  follower     9     -    -          7        -       1m1s
d:1   -      unreachable  -     -    -          -        -       -
d:1: no node answers
2 clusters: 0000000000000001 (a:1, b:1), 0000000000000002 (c:1)
2 versions: v1 (a:1, b:1), v2 (c:1)
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

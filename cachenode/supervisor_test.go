package main

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/proc"
)

// program is the path of cachenode, which the test program is when it is called by that name.
func program(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("cachenode")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A supervisor that speaks sd_notify is told when the node serves, what it is, that it is alive, when it reloads and when
// it stops, and gets the socket that it handed over served.
func TestSupervisor(t *testing.T) {
	dir := t.TempDir()
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	ln, err := proc.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	p, err := proc.Start(t.Context(), proc.Spec{
		Binary: program(t), Args: []string{"serve"}, Listener: ln, LogPath: filepath.Join(dir, "log"),
		Env: []string{"CACHE_TLS=false", "NOTIFY_SOCKET=" + filepath.Join(dir, "notify"), "WATCHDOG_USEC=40000"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	var told []string
	await := func(want string) {
		t.Helper()
		buf := make([]byte, 4<<10)
		if err := socket.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for !slices.ContainsFunc(told, func(s string) bool { return strings.HasPrefix(s, want) }) {
			n, err := socket.Read(buf)
			if err != nil {
				t.Fatalf("not told of %s: %v; told %q, last line %q", want, err, told, p.LastLine())
			}
			told = append(told, strings.Split(string(buf[:n]), "\n")...)
		}
	}
	await("READY=1")
	if told[0] != "READY=1" {
		t.Errorf("told %q before READY", told)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out strings.Builder
	if code := run(ctx, []string{"health", "-a", addr}, nil, &out, &out); code != 0 {
		t.Errorf("the inherited socket is not served: %s", out.String())
	}
	await("STATUS=leads in term ")
	out.Reset()
	if run(ctx, []string{"health", "-a", addr}, nil, &out, &out); !strings.Contains(out.String(), " leader "+addr+" ") {
		t.Errorf("a node alone does not call itself by the address of the socket, %s: %s", addr, out.String())
	}
	await("WATCHDOG=1")
	told = nil
	if err := p.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await("RELOADING=1")
	await("MONOTONIC_USEC=")
	await("READY=1")
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await("STOPPING=1")
	if err := p.Wait(); err != nil {
		t.Errorf("ended with %v: %s", err, p.LastLine())
	}
}

// Without a supervisor nothing is sent anywhere, and a hang-up still does not end the node.
func TestNoSupervisor(t *testing.T) {
	ln, err := proc.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	addr := ln.Addr().String()
	p, err := proc.Start(t.Context(), proc.Spec{Binary: program(t), Listener: ln, LogPath: log, Env: []string{"CACHE_TLS=false"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	answers := func() bool {
		var out strings.Builder
		return run(t.Context(), []string{"health", "-a", addr}, nil, &out, &out) == 0
	}
	for end := time.Now().Add(20 * time.Second); !answers(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not answer: %s", p.LastLine())
		}
	}
	if err := p.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if !answers() {
		t.Errorf("it does not answer after SIGHUP: %s", p.LastLine())
	}
	if err := p.Stop(20 * time.Second); err != nil {
		t.Errorf("ended with %v: %s", err, p.LastLine())
	}
}

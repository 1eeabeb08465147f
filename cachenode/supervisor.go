package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/hacache/hacache/cachenode/node"
)

// supervisor is systemd, or whoever started the process and speaks its protocol: it is told when the node serves, reloads
// and stops, what it is, and that it is alive. Without NOTIFY_SOCKET there is none, and nothing is sent.
type supervisor struct {
	log *slog.Logger
}

// tell sends variables to the supervisor.
func (s supervisor) tell(vars ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(vars, "\n")); err != nil {
		s.log.Warn("sd_notify failed", "state", vars[0], "error", err)
	}
}

// reloading begins what READY=1 ends. The time tells the supervisor which of its requests is meant.
func (s supervisor) reloading() {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // never fails
	s.tell(daemon.SdNotifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/int64(time.Microsecond)))
}

// watch reports on a node until ctx is done: READY as soon as it serves, its status when that changes, and WATCHDOG as
// often as the supervisor asks for, as long as the node's loop answers.
func (s supervisor) watch(ctx context.Context, n *node.Node) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return
	}
	// Serving is what "started" means. Waiting for a quorum here would keep a supervisor from starting the others.
	if n.Alive(ctx) != nil {
		return
	}
	s.tell(daemon.SdNotifyReady)
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("the watchdog is not fed", "error", err)
	}
	interval := time.Second
	if limit > 0 {
		interval = min(interval, limit/2)
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	status := ""
	for {
		var vars []string
		alive, cancel := context.WithTimeout(ctx, interval)
		if limit > 0 && n.Alive(alive) == nil {
			vars = append(vars, daemon.SdNotifyWatchdog)
		}
		cancel()
		if now := n.Summary(); now != status {
			status = now
			vars = append(vars, "STATUS="+now)
		}
		if len(vars) > 0 {
			s.tell(vars...)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// handleSignals lets SIGHUP reload the certificates, and the first SIGINT or SIGTERM stop the node in order; a second one
// does not wait for that. It returns when ctx is done.
func handleSignals(ctx context.Context, signals <-chan os.Signal, n *node.Node, s supervisor, stop context.CancelCauseFunc) {
	stopping := false
	for {
		select {
		case <-ctx.Done():
			return
		case sig := <-signals:
			switch {
			case sig == syscall.SIGHUP:
				s.reloading()
				_ = n.Reload() // logged by the node
				s.tell(daemon.SdNotifyReady)
			case stopping:
				os.Exit(128 + int(sig.(syscall.Signal)))
			default:
				stopping = true
				s.tell(daemon.SdNotifyStopping)
				stop(fmt.Errorf("signal: %v", sig))
			}
		}
	}
}

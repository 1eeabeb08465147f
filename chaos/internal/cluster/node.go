package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Signal sends a signal to the node's process and does not note it as a change
// of its state; see [Node.Pause] for that. A process that has ended is no error.
func (n *Node) Signal(sig syscall.Signal) error {
	if err := n.current().Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", n.Name, err)
	}
	return nil
}

// SetEnv adds to the environment of the processes that are started from now on,
// instead of what an earlier call had added.
func (n *Node) SetEnv(env []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.more = env
}

// Environ is the environment with which the node's process was started.
func (n *Node) Environ() ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", n.Pid()))
	return strings.Split(string(data), "\x00"), err
}

// OpenFiles returns how many descriptors the node's process has.
func (n *Node) OpenFiles() (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.Pid()))
	return len(entries), err
}

// LimitFiles makes limit the number of descriptors that the node's process may
// have. restore undoes it.
func (n *Node) LimitFiles(limit int) (restore func() error, err error) {
	process := n.current()
	var old unix.Rlimit
	if err := unix.Prlimit(process.Pid(), unix.RLIMIT_NOFILE, nil, &old); err != nil {
		return nil, fmt.Errorf("limit of %s: %w", n.Name, err)
	}
	set := func(soft uint64) error {
		if n.current() != process || n.State() == Ended {
			return nil // the limit went with the process
		}
		if err := unix.Prlimit(process.Pid(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: soft, Max: old.Max}, nil); err != nil {
			return fmt.Errorf("limit of %s: %w", n.Name, err)
		}
		return nil
	}
	return func() error { return set(old.Cur) }, set(uint64(limit))
}

// AwaitEnd waits until the node's process has ended, at most as long as ctx
// lasts.
func (n *Node) AwaitEnd(ctx context.Context) error { return n.awaitEnd(ctx) }

// LastLine is the last line that the node's newest process logged.
func (n *Node) LastLine() string { return n.current().LastLine() }

// The files by which the hooks of a node are told what to do, and say what they
// did.
const (
	clockFile = ".clock"      // "OFFSET DRIFT SINCE", in nanoseconds, seconds a second, and nanoseconds since 1970
	pointFile = ".failpoint"  // the name of a point
	clockSeen = ".clock.seen" // what was in clockFile when the clock was read last
)

// hook makes the node use hooks.
func (n *Node) hook(path string) {
	n.hooks = path
	n.env = append(n.env, "CACHE_FAULT_CLOCK="+path+clockFile, "CACHE_FAULT_POINT="+path+pointFile)
}

// errNoHooks is returned where the node has none.
var errNoHooks = errors.New("the node was built without fault hooks (go build -tags faults)")

// SetClock moves the wall clock of the node by offset from now on, and lets it
// gain drift seconds a second. The clock by which it measures times does not
// change: neither does a kernel's.
func (n *Node) SetClock(offset time.Duration, drift float64) error {
	if n.hooks == "" {
		return errNoHooks
	}
	return replace(n.hooks+clockFile, fmt.Sprintf("%d %g %d", offset, drift, time.Now().UnixNano()))
}

// ClockRead returns an error unless the node has read its wall clock since
// SetClock.
func (n *Node) ClockRead() error {
	want, err := os.ReadFile(n.hooks + clockFile)
	if err != nil {
		return err
	}
	got, err := os.ReadFile(n.hooks + clockSeen)
	if err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("%s has not looked at its wall clock since", n.Name)
	}
	return nil
}

// Arm makes the node's process end when it comes to a point of its code, as by
// kill -9; "" disarms it.
func (n *Node) Arm(point string) error {
	if n.hooks == "" {
		return errNoHooks
	}
	return replace(n.hooks+pointFile, point)
}

// replace writes a file that others read at any time.
func replace(path, content string) error {
	if err := os.WriteFile(path+".new", []byte(content), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Package proc runs cachenode as child processes on this machine: one, or a
// local cluster. Benchmarks and tests of real processes use it.
//
// A child inherits a listening socket that is already bound, so that there is
// no race for ports; it dies with its parent, whatever the parent died of; and
// it is only ever signalled through its own process handle.
package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Spec says what to run.
type Spec struct {
	// Name is how errors call the process; empty is the base name of Binary.
	Name string
	// Binary is the program, Args its arguments without the program's name.
	Binary string
	Args   []string
	// Env is added to the environment of this process, from which everything
	// that configures a node has been removed.
	Env []string
	// Listener, if not nil, is handed over: the child finds it as descriptor 3
	// and LISTEN_FDS=1. Start closes it here, also when it fails: were it left
	// open, the kernel would go on accepting connections for a dead child.
	Listener *net.TCPListener
	// Admin is handed over in the same way under the name admin: the address of
	// health checks, metrics and profiles.
	Admin *net.TCPListener
	// LogPath is the file that stdout and stderr are appended to; empty
	// discards them.
	LogPath string
}

// Process is a child that was started. Its methods are safe for concurrent use.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed by the goroutine that reaps, after err is set
	err  error
}

// Start starts a child. It is killed when ctx is done, and by the kernel when
// this process ends.
func Start(ctx context.Context, spec Spec) (*Process, error) {
	name := spec.Name
	if name == "" {
		name = filepath.Base(spec.Binary)
	}
	for _, l := range []*net.TCPListener{spec.Listener, spec.Admin} {
		if l != nil {
			defer l.Close()
		}
	}
	cmd := exec.Command(spec.Binary, spec.Args...)
	cmd.Env = append(cleanEnv(os.Environ()), spec.Env...)
	// A group of its own: an interrupt typed at the terminal is for the parent,
	// which then stops its children in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if spec.LogPath != "" {
		f, err := os.OpenFile(spec.LogPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", name, err)
		}
		defer f.Close()
		cmd.Stdout, cmd.Stderr = f, f
	}
	var inherits []string
	for _, in := range []struct {
		name string
		l    *net.TCPListener
	}{{"cache", spec.Listener}, {"admin", spec.Admin}} {
		if in.l == nil {
			continue
		}
		f, err := in.l.File()
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", name, err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		inherits = append(inherits, in.name)
	}
	if len(inherits) > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(inherits)), "LISTEN_FDNAMES="+strings.Join(inherits, ":"))
	}
	p := &Process{name: name, log: spec.LogPath, cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go p.run(ctx, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// run starts the child and reaps it. The parent that a parent death signal
// watches is the thread that forked, so that thread has to stay.
func (p *Process) run(ctx context.Context, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	stop := context.AfterFunc(ctx, func() { p.Kill() })
	defer stop()
	started <- nil
	p.err = p.cmd.Wait()
}

// configures are the prefixes of variables that configure a node.
var configures = []string{"HA_", "CACHE_", "HOSTNAME_OVERWRITE=", "LISTEN_", "NOTIFY_SOCKET=", "WATCHDOG_"}

func cleanEnv(env []string) []string {
	var kept []string
next:
	for _, kv := range env {
		for _, prefix := range configures {
			if strings.HasPrefix(kv, prefix) {
				continue next
			}
		}
		kept = append(kept, kv)
	}
	return kept
}

// Name is the name from the Spec.
func (p *Process) Name() string { return p.name }

// Pid is the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the process. nil means exit status 0; otherwise it
// is an [*exec.ExitError].
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Signal sends a signal. It returns [os.ErrProcessDone] after the end.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill ends the process at once, stopped or not; Done tells when it is gone.
// Killing a process that has ended is no error.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	return nil
}

// Stop asks the process to end, and kills it when it has not within the given
// time. It returns what [Process.Wait] returns.
func (p *Process) Stop(within time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	p.Signal(syscall.SIGCONT) // a stopped process would never see it
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		if err := p.Kill(); err != nil {
			return err
		}
	}
	return p.Wait()
}

// LastLine returns the last line that the process wrote to its log, for an
// error that tells why it ended; "" if there is none.
func (p *Process) LastLine() string {
	f, err := os.Open(p.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	const tail = 4 << 10
	if info, err := f.Stat(); err == nil && info.Size() > tail {
		f.Seek(-tail, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// Listen binds a port of a loopback address for a child: addr may end in ":0".
func Listen(addr string) (*net.TCPListener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// StopAll stops several processes at the same time.
func StopAll(within time.Duration, all ...*Process) {
	var wg sync.WaitGroup
	for _, p := range all {
		if p != nil {
			wg.Go(func() { p.Stop(within) })
		}
	}
	wg.Wait()
}

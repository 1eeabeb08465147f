package hostile

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command is the one argument with which [Launch] starts the running program
// again, whose main has to call [Serve] then.
const Command = "attack"

// Process is an attack that a process of its own plays, as in the world hostile
// clients have machines of their own: what they cost themselves, processor time
// and the pauses of a collector, must not delay the load beside which they are
// tried. So it also yields to everything else on the machine, but for an
// overload, which is load. It dies with the process that launched it, whatever
// that died of.
//
// Its methods are safe for concurrent use; Stop is called once.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has been reaped, after err is set
	err  error

	mu      sync.Mutex // guards what follows: one question at a time
	say     *os.File   // questions; closed: stop
	hear    *os.File   // one Report for each, and a last one
	reports *json.Decoder
	last    Report
}

// Report is what an attack has come to.
type Report struct {
	// Bit: it was as hard as it was meant to be, see [Attack.Bit].
	Bit bool `json:"bit"`
	// Lasted is how long it has been going on.
	Lasted time.Duration `json:"lasted_ns"`
	Tally  Tally         `json:"tally"`
	// Pressing is why the process could not yield to others; empty if it does, or
	// need not.
	Pressing string `json:"pressing,omitempty"`
}

// order is what a process is told to do. It goes through a pipe: it holds a
// token, and may hold a key.
type order struct {
	Spec   Spec    `json:"spec"`
	Secure *secure `json:"secure,omitempty"`
}

// secure is what can be told of how honest clients connect. Whom they trust
// cannot, so the process trusts any node: it has nothing to lose, and a handshake
// that fails was refused by the node then.
type secure struct {
	Name  string   `json:"name"`
	Chain [][]byte `json:"chain"`
	Key   []byte   `json:"key"` // PKCS #8
}

func newOrder(spec Spec) (*order, error) {
	o := &order{Spec: spec}
	if spec.TLS == nil {
		return o, nil
	}
	o.Secure = &secure{Name: spec.TLS.ServerName}
	for _, cert := range spec.TLS.Certificates {
		key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
		if err != nil {
			return nil, fmt.Errorf("hostile: key of the clients: %w", err)
		}
		o.Secure.Chain, o.Secure.Key = cert.Certificate, key
	}
	return o, nil
}

// spec is what the order is about.
func (o *order) spec() (Spec, error) {
	s := o.Spec
	if o.Secure == nil {
		return s, nil
	}
	s.TLS = &tls.Config{ServerName: o.Secure.Name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	if len(o.Secure.Chain) > 0 {
		key, err := x509.ParsePKCS8PrivateKey(o.Secure.Key)
		if err != nil {
			return s, fmt.Errorf("hostile: key of the clients: %w", err)
		}
		s.TLS.Certificates = []tls.Certificate{{Certificate: o.Secure.Chain, PrivateKey: key}}
	}
	return s, nil
}

// Launch begins an attack in a process of its own and returns at once: it may
// take a moment until the first client is there. The caller must Stop it.
func Launch(spec Spec) (_ *Process, err error) {
	o, err := newOrder(spec)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	theirIn, say, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirIn.Close()
	hear, theirOut, err := os.Pipe()
	if err != nil {
		say.Close()
		return nil, err
	}
	defer theirOut.Close()
	p := &Process{cmd: exec.Command(self, Command), done: make(chan struct{}), say: say, hear: hear, reports: json.NewDecoder(hear)}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = theirIn, theirOut, os.Stderr
	// A group of its own: an interrupt typed at the terminal is for the harness.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go p.run(started)
	if err = <-started; err == nil {
		err = json.NewEncoder(say).Encode(o)
	}
	if err != nil {
		p.kill()
		return nil, fmt.Errorf("hostile: start the clients' process: %w", err)
	}
	return p, nil
}

// run starts the process and reaps it. Its parent, for the parent death signal,
// is the thread that forked, so that thread has to stay.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	err := p.cmd.Start()
	started <- err
	if err == nil {
		p.err = p.cmd.Wait()
	}
}

// kill ends what is left of the process, and waits for it.
func (p *Process) kill() {
	if p.cmd.Process != nil {
		_ = p.cmd.Process.Kill() // it may have ended
	}
	<-p.done
	p.say.Close()
	p.hear.Close()
}

// Bit reports whether the attack is as hard as it was meant to be, and what has
// come of it so far. An attack whose process does not say so until ctx is done
// has not taken place.
func (p *Process) Bit(ctx context.Context) (bool, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := io.WriteString(p.say, "{}\n")
	if err == nil {
		err = p.listenLocked(ctx)
	}
	what := p.last.Tally.String()
	if p.last.Pressing != "" {
		what += "; at the priority of the nodes: " + p.last.Pressing
	}
	if err != nil {
		return false, fmt.Sprintf("%s; the clients' process: %v", what, err)
	}
	return p.last.Bit, what
}

// listenLocked waits for the next report.
func (p *Process) listenLocked(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = p.hear.SetReadDeadline(time.Unix(1, 0)) })()
	return p.reports.Decode(&p.last)
}

// Stop ends the attack, waits until nothing of it is left, and returns what it
// came to. If its process does not end until ctx is done it is killed, and what
// is returned with the error is what was known last.
func (p *Process) Stop(ctx context.Context) (Report, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.say.Close()
	err := p.listenLocked(ctx)
	if err == nil {
		select {
		case <-p.done:
		case <-ctx.Done():
		}
	}
	p.kill()
	if err = errors.Join(err, p.err); err != nil {
		err = fmt.Errorf("hostile: the clients' process: %w", err)
	}
	return p.last, err
}

// Serve is the life of a process that Launch started: it reads its order, plays
// the attack, reports whenever it is asked, and stops when nobody asks any more.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	asked, reports := json.NewDecoder(in), json.NewEncoder(out)
	var o order
	if err := asked.Decode(&o); err != nil {
		return fmt.Errorf("hostile: order: %w", err)
	}
	spec, err := o.spec()
	if err != nil {
		return err
	}
	pressing := ""
	if !Kinds[spec.Kind].load {
		if err := yield(); err != nil {
			pressing = err.Error()
		}
	}
	a, err := Start(ctx, spec)
	if err != nil {
		return err
	}
	defer a.Stop()
	report := func() Report {
		bit, _ := a.Bit()
		return Report{Bit: bit, Lasted: time.Since(a.from), Tally: a.Tally(), Pressing: pressing}
	}
	for {
		var question struct{}
		err := asked.Decode(&question)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = reports.Encode(report())
		}
		if err != nil {
			return fmt.Errorf("hostile: %w", err)
		}
	}
	last := report()
	last.Tally = a.Stop()
	return reports.Encode(last)
}

// yield puts all threads of this process behind everything else that wants a
// processor: with SCHED_IDLE, since one with only a low priority may finish its
// turn, milliseconds, before whom it woke up gets one. Threads that are made
// later are like the ones that make them.
func yield() error {
	idle := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE, Nice: 19}
	for done := map[int]bool{}; ; {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		more := false
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil || done[tid] {
				continue
			}
			if err := unix.SchedSetAttr(tid, idle, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("sched_setattr: %w", err)
			}
			done[tid], more = true, true
		}
		if !more {
			return nil
		}
	}
}

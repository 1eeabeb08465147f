package proc_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hacache/hacache/cachenode/proc"
)

// The test program is the child as well, and the parent in between that dies.
func TestMain(m *testing.M) {
	switch os.Getenv("PROC_TEST") {
	case "":
		goleak.VerifyTestMain(m)
	case "accept":
		if os.Getenv("CACHE_AUTH_TOKEN") != "" || os.Getenv("LISTEN_FDS") != "1" {
			println("environment of the parent leaked, or no LISTEN_FDS")
			os.Exit(3)
		}
		l, err := net.FileListener(os.NewFile(3, "listener"))
		if err != nil {
			println(err.Error())
			os.Exit(4)
		}
		println("listening")
		c, err := l.Accept()
		if err != nil {
			os.Exit(5)
		}
		c.Write([]byte(strconv.Itoa(os.Getpid())))
		c.Close()
		select {}
	case "parent":
		p, err := proc.Start(context.Background(), proc.Spec{Binary: os.Args[0], Env: []string{"PROC_TEST=sleep"}})
		if err != nil {
			os.Exit(3)
		}
		os.Stdout.WriteString(strconv.Itoa(p.Pid()) + "\n")
		time.Sleep(time.Minute)
	case "sleep":
		time.Sleep(time.Minute)
	}
}

// A child serves the listener it was given, does not see the parent's own
// configuration, and once it is dead its port refuses connections.
func TestInheritedListener(t *testing.T) {
	t.Setenv("CACHE_AUTH_TOKEN", "of the parent")
	l, err := proc.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	p, err := proc.Start(t.Context(), proc.Spec{
		Name: "child", Binary: os.Args[0], Env: []string{"PROC_TEST=accept"}, Listener: l, LogPath: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 20)
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != strconv.Itoa(p.Pid()) {
		t.Fatalf("read %q %v, want the pid %d; log: %s", b[:n], err, p.Pid(), p.LastLine())
	}
	if p.LastLine() != "listening" {
		t.Errorf("last line %q", p.LastLine())
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	exit, ok := errors.AsType[*exec.ExitError](p.Wait())
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("ended with %v", p.Wait())
	}
	if c, err := net.Dial("tcp", l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial after the end: %v %v", c, err)
	}
}

// Whatever the parent dies of, its children die with it.
func TestChildrenDieWithTheParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "PROC_TEST=parent")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 20)
	n, _ := out.Read(b)
	child, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		t.Fatal(err)
	}
	parent.Process.Kill()
	parent.Wait()
	for end := time.Now().Add(20 * time.Second); syscall.Kill(child, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if state, _ := os.ReadFile("/proc/" + strconv.Itoa(child) + "/stat"); strings.Contains(string(state), ") Z ") {
			break // dead, and waiting for whoever adopted it
		}
		if time.Now().After(end) {
			t.Fatalf("process %d is still there", child)
		}
	}
}

// Usage sees the processor time and the memory of this process grow.
func TestUsage(t *testing.T) {
	cpu, rss, err := proc.Usage(os.Getpid())
	if err != nil || rss < 1<<20 {
		t.Fatalf("%s %d %v", cpu, rss, err)
	}
	ballast := make([]byte, 64<<20)
	for end := time.Now().Add(20 * time.Second); ; {
		for i := range ballast {
			ballast[i]++
		}
		cpu2, rss2, err := proc.Usage(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if cpu2 > cpu && rss2 > rss+48<<20 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("cpu %s then %s, memory %d then %d", cpu, cpu2, rss, rss2)
		}
	}
}

// Waiting begins with nothing, counts the turns of all threads of a process, and begins again with the next one.
func TestWaiting(t *testing.T) {
	var w proc.Waiting
	first, err := w.Read(os.Getpid())
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("this kernel does not count turns")
	}
	if err != nil || first != (proc.Turns{}) {
		t.Fatalf("%+v %v, want none yet", first, err)
	}
	for end := time.Now().Add(20 * time.Second); ; {
		if err := exec.CommandContext(t.Context(), "true").Run(); err != nil { // who waits for it has another turn then
			t.Fatal(err)
		}
		now, err := w.Read(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now.Count >= 10 && now.Waited > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no turns: %+v", now)
		}
	}
	if again, err := w.Read(os.Getppid()); err != nil || again != (proc.Turns{}) {
		t.Errorf("another process: %+v %v", again, err)
	}
	if _, err := w.Read(1 << 30); err == nil {
		t.Error("a process that is not there has turns")
	}
}

// A stopped process is ended too, and the end of the context ends a process.
func TestEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	spec := proc.Spec{Binary: os.Args[0], Env: []string{"PROC_TEST=sleep"}}
	a, err := proc.Start(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	b, err := proc.Start(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := a.Stop(10 * time.Second); err == nil {
		t.Error("ended by a signal, but Stop says status 0")
	}
	cancel()
	<-b.Done()
	if err := a.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end: %v", err)
	}
	if _, err := proc.Start(t.Context(), proc.Spec{Binary: "/nonexistent"}); err == nil || !strings.Contains(err.Error(), "start nonexistent") {
		t.Errorf("no such program: %v", err)
	}
}

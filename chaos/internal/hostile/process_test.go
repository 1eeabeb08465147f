package hostile

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// processPatience bounds waits for what must come; no test passes because of it.
const processPatience = time.Minute

// TestProcess proves that an attack in a process of its own comes to what it
// comes to in this one: what was begun, served and ended is told while it goes on
// and in the end, through TLS too, and when it is stopped nothing of it is left.
func TestProcess(t *testing.T) {
	server, client := certificate(t)
	for name, c := range map[string]struct {
		spec Spec
		want func(t *Tally) bool
	}{
		"plain": {
			Spec{Kind: "wrong-token", Addr: serve(t, &service{}, nil), Token: token, Rate: 50},
			func(t *Tally) bool { return t.Endings["PermissionDenied"] >= 3 && t.Served == 0 },
		},
		"served": {
			Spec{Kind: "no-token", Addr: serve(t, &service{lax: true}, nil), Token: token, Rate: 50},
			func(t *Tally) bool { return t.Served >= 3 },
		},
		"TLS": {
			Spec{Kind: "idle-streams", Addr: serve(t, &service{}, server), Token: token, TLS: client, Count: 10},
			func(t *Tally) bool { return t.Served == 10 && t.Peak == 10 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), processPatience)
			defer cancel()
			p, err := Launch(c.spec)
			if err != nil {
				t.Fatal(err)
			}
			pid := p.cmd.Process.Pid
			for bit, what := false, ""; !bit || !c.want(&p.last.Tally); bit, what = p.Bit(ctx) {
				if ctx.Err() != nil {
					_, _ = p.Stop(ctx)
					t.Fatalf("bit %t: %s", bit, what)
				}
			}
			if err := idle(pid); err != nil {
				t.Error(err)
			}
			r, err := p.Stop(ctx)
			if err != nil || !c.want(&r.Tally) || r.Lasted <= 0 {
				t.Errorf("in the end %+v, %v", r, err)
			}
			if err := syscall.Kill(pid, 0); err == nil {
				t.Error("its process is still there")
			}
		})
	}
}

// idle says whether all threads of a process give way to all others.
func idle(pid int) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(tasks) < 2 {
		return fmt.Errorf("threads %v, %v", tasks, err)
	}
	for _, task := range tasks {
		var tid int
		if _, err := fmt.Sscan(filepath.Base(task), &tid); err != nil {
			return err
		}
		attr, err := unix.SchedGetAttr(tid, 0)
		if err != nil {
			return fmt.Errorf("thread %d: %w", tid, err)
		}
		if attr.Policy != unix.SCHED_IDLE {
			return fmt.Errorf("thread %d has policy %d, want %d", tid, attr.Policy, unix.SCHED_IDLE)
		}
	}
	return nil
}

// TestProcess_ended proves that an attack whose process has died has not taken
// place, that the reason is told, and that what it had come to before is not lost.
func TestProcess_ended(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), processPatience)
	defer cancel()
	p, err := Launch(Spec{Kind: "wrong-token", Addr: serve(t, &service{}, nil), Token: token, Rate: 50})
	if err != nil {
		t.Fatal(err)
	}
	for bit := false; !bit && ctx.Err() == nil; {
		bit, _ = p.Bit(ctx)
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.done
	if bit, what := p.Bit(ctx); bit || !strings.Contains(what, "the clients' process") {
		t.Errorf("bit %t: %s", bit, what)
	}
	r, err := p.Stop(ctx)
	if r.Tally.Attempts == 0 || err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("in the end %+v, %v", r, err)
	}
}

// TestServe_order proves that the process refuses what is no order, and an attack
// that does not exist.
func TestServe_order(t *testing.T) {
	for order, want := range map[string]string{
		"":                             "order: EOF",
		"nonsense":                     "order: invalid character",
		`{"spec":{"Kind":"friendly"}}`: `unknown kind "friendly"`,
		`{"spec":{"Kind":"garbage"},"secure":{"chain":["AA=="],"key":"AA=="}}`: "key of the clients",
	} {
		if err := Serve(t.Context(), strings.NewReader(order), os.Stderr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", order, err, want)
		}
	}
}

// TestProcess_orphaned proves that the process of an attack ends when the one that
// launched it does, killed without a word to anybody.
func TestProcess_orphaned(t *testing.T) {
	if addr := os.Getenv("HOSTILE_TEST_ADDR"); addr != "" { // the one that is killed
		p, err := Launch(Spec{Kind: "half-open", Addr: addr, Token: token, Count: 3})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(p.cmd.Process.Pid)
		select {}
	}
	launcher := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProcess_orphaned$")
	launcher.Env = append(os.Environ(), "HOSTILE_TEST_ADDR="+serve(t, &service{}, nil))
	out, err := launcher.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := launcher.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	if err := launcher.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = launcher.Wait()
	limit := time.After(processPatience)
	for alive(pid) {
		select {
		case <-limit:
			t.Fatalf("process %d outlives the one that launched it", pid)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// alive reports whether a process is there that has not ended.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/reports/result"
)

// Off a terminal there is one line of progress for each ten seconds, with what
// went wrong in the interval; on one, a single line that is drawn again, without
// colours; neither with --quiet.
func TestProgress(t *testing.T) {
	for _, tc := range []struct {
		name       string
		tty, quiet bool
		want       string
	}{
		{"file", false, false, "  10s  load  insert quorum: 500/s p99 2.00ms not ok 3\n  20s  load  insert quorum: 500/s p99 2.00ms not ok 3\n  30s  load  insert quorum: 500/s p99 2.00ms not ok 3\n"},
		{"quiet", true, true, ""},
	} {
		bubble.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			l := newLiveLine(&out, tc.quiet)
			l.tty = tc.tty
			l.phase("load")
			for range 35 {
				time.Sleep(time.Second)
				l.interval([]result.Interval{{Op: "insert", Level: "quorum", Width: time.Second, OK: 500, Fail: 2, Missed: 1, P99: 2 * time.Millisecond}})
				l.interval(nil) // nothing happened
			}
			l.clear()
			if out.String() != tc.want {
				t.Errorf("%s: got %q, want %q", tc.name, out.String(), tc.want)
			}
		})
	}
	bubble.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := newLiveLine(&out, false)
		l.tty = true
		for range 3 {
			l.interval([]result.Interval{{Op: "get", Width: time.Second, OK: 7, Phase: strings.Repeat("x", 500)}})
		}
		l.clear()
		if got := out.String(); strings.Count(got, "\r") != 4 || strings.Contains(got, "\n") || strings.Count(got, "\x1b[") != strings.Count(got, "\x1b[K") {
			t.Errorf("on a terminal: %q", got)
		}
	})
}

// With --json there is a JSON document on stdout and nothing else, however the
// run ends and whatever it is.
func TestJSONOnly(t *testing.T) {
	out := t.TempDir()
	for _, tc := range []struct {
		code int
		args []string
	}{
		{result.ExitOK, []string{"run", "-n", "1000"}},
		{result.ExitThreshold, []string{"run", "-n", "1000", "--threshold", "throughput: count < 2"}},
		{result.ExitUnknown, []string{"run", "-n", "1000", "--threshold", "remove{time:service}: max < 2s"}},
	} {
		args := append([]string{tc.args[0], "--json", "--target", "null", "--streams", "1", "--out", out, "--warmup", "0s"}, tc.args[1:]...)
		code, stdout, stderr := call(t, t.Context(), args...)
		var doc struct{ Dir, Verdict string }
		if err := json.Unmarshal([]byte(stdout), &doc); err != nil || doc.Dir == "" || doc.Verdict == "" {
			t.Errorf("%v: %v: stdout %q", tc.args, err, stdout)
		}
		if code != tc.code || stderr != "" {
			t.Errorf("%v: exit code %d, want %d; stderr %q", tc.args, code, tc.code, stderr)
		}
	}
}

// A signal ends a load early: the exit code says which one it was, and the report
// of what was measured until then is complete.
func TestSignals(t *testing.T) {
	for signal, want := range map[os.Signal]int{os.Interrupt: result.ExitInterrupt, syscall.SIGTERM: result.ExitTerminate} {
		out := t.TempDir()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "run", "--target", "null", "--rate", "500", "-d", "10m", "--warmup", "0s", "--out", out)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		var stdout bytes.Buffer
		cmd.Stdout = &stdout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		tick := time.NewTicker(20 * time.Millisecond)
		for range tick.C {
			if begun, _ := filepath.Glob(filepath.Join(out, "*", workloadFile)); len(begun) > 0 {
				break
			}
		}
		tick.Stop()
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		err := cmd.Wait()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != want || !strings.Contains(stdout.String(), "interrupted by SIG") {
			t.Errorf("%s: %v, want exit code %d\n%s", signal, err, want, stdout.String())
		}
		dirs, _ := filepath.Glob(filepath.Join(out, "*"))
		r, err := result.Read(dirs[0])
		if err != nil || r.Interrupted == "" || r.ExitCode() != want {
			t.Errorf("%s: %v, %+v", signal, err, r)
		}
		if _, err := os.Stat(filepath.Join(dirs[0], result.ReportFile)); err != nil {
			t.Error(err)
		}
	}
}

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hacache/hacache/internal/interrupt"
	"github.com/hacache/hacache/reports/result"
)

// A mistake gets one line that says what is wrong and what was expected, and exit code 2; nothing is half done.
func TestBadInput(t *testing.T) {
	empty := t.TempDir()
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, result.SummaryFile), []byte("{\n\"schema\": 1,\n\"nam\": \"x\"}"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"no command", nil, "reports: no command; expected one of render, merge, compare, gate, trend (see reports --help)"},
		{"unknown command", []string{"rendr"}, `reports: unknown command "rendr"; expected one of render, merge, compare, gate, trend`},
		{"unknown flag", []string{"--fast"}, "reports: unknown flag --fast (see reports --help)"},
		{"unknown flag of a command", []string{"render", "--fast", empty}, "reports: render: unknown flag --fast (see reports render --help)"},
		{"no directory", []string{"render"}, "reports: render: no run directory given, expected: reports render DIR"},
		{"nothing to merge", []string{"merge"}, "reports: merge: no run directory given; expected one or more"},
		{"no run to merge", []string{"merge", empty}, "reports: " + empty + ": no summary.json: not a run directory, or the run was killed before it wrote one"},
		{"no such directory", []string{"render", filepath.Join(empty, "x")}, "reports: " + filepath.Join(empty, "x") + ": no summary.json: not a run directory, or the run was killed before it wrote one"},
		{"not a run", []string{"render", empty}, "reports: " + empty + ": no summary.json: not a run directory, or the run was killed before it wrote one"},
		{"damaged", []string{"render", damaged}, "reports: " + filepath.Join(damaged, "summary.json") + `:3: unknown field "nam"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), append([]string{"reports"}, c.args...), &stdout, &stderr); code != result.ExitUsage {
				t.Errorf("exit code %d, expected 2", code)
			}
			if got := strings.TrimSuffix(stderr.String(), "\n"); got != c.want {
				t.Errorf("stderr\n got %s\nwant %s", got, c.want)
			}
			if stdout.Len() > 0 {
				t.Errorf("stdout: %s", stdout.String())
			}
		})
	}
	if left, _ := filepath.Glob(filepath.Join(damaged, "*")); len(left) != 1 {
		t.Errorf("something was written beside a damaged summary: %q", left)
	}
}

func TestRender(t *testing.T) {
	var dirs []string
	for range 2 {
		dir := t.TempDir()
		r := &result.Run{Kind: result.KindBench, Name: "b", Verdict: result.Pass}
		if err := result.Write(dir, r); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), append([]string{"reports", "render"}, dirs...), &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	want := filepath.Join(dirs[0], "report.html") + "\n" + filepath.Join(dirs[1], "report.html") + "\n"
	if stdout.String() != want {
		t.Errorf("stdout %q, expected %q", stdout.String(), want)
	}
	for _, dir := range dirs {
		if page, err := os.ReadFile(filepath.Join(dir, "report.html")); err != nil || !bytes.HasPrefix(page, []byte("<!DOCTYPE html>")) {
			t.Errorf("%s: %v, %.40q", dir, err, page)
		}
	}

	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(interrupt.Signal("SIGINT"))
	if code := run(cancelled, append([]string{"reports", "render"}, dirs...), &stdout, &stderr); code != result.ExitInterrupt {
		t.Errorf("interrupted: exit code %d, expected %d", code, result.ExitInterrupt)
	}
	if err := os.Chmod(dirs[0], 0o555); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 { // root writes anywhere
		if code := run(t.Context(), []string{"reports", "render", dirs[0]}, &stdout, &stderr); code != result.ExitFailure {
			t.Errorf("read-only directory: exit code %d, expected 1", code)
		}
	}
}

// heap writes so many runs with the given p50 below a new directory.
func heap(t *testing.T, runs int, p50 time.Duration) string {
	t.Helper()
	dir := t.TempDir()
	for i := range runs {
		r := &result.Run{
			Kind: result.KindBench, Name: "b", Verdict: result.Pass, Started: time.Date(2026, 1, 2, 3, int(p50.Milliseconds()), i, 0, time.UTC),
			Series: []result.Series{{
				Op: "get", Counts: result.Counts{Intended: 1000, OK: 1000},
				Response: result.Latency{Count: 1000, P50: p50 + time.Duration(i)*time.Microsecond},
			}},
		}
		sub := filepath.Join(dir, string(rune('a'+i)))
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := result.Write(sub, r); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The exit code of gate is its answer, and its files are there whatever it is; compare judges nothing; a baseline gets into the
// page of a run; a trend grows, and does not take the same runs twice.
func TestGateCompareTrend(t *testing.T) {
	base, same, slow, few := heap(t, 8, time.Millisecond), heap(t, 8, time.Millisecond), heap(t, 8, 2*time.Millisecond), heap(t, 3, time.Millisecond)
	table := filepath.Join(t.TempDir(), "trend.csv")
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no loss", []string{"gate", base, same}, result.ExitOK, "pass: no loss beyond its limit was shown"},
		{"a regression", []string{"gate", base, slow}, result.ExitRegression, "FAIL: beyond its limit, beyond doubt: get p50 +99.7 %"},
		{"too few", []string{"gate", base, few}, result.ExitUnknown, "unknown: fewer than 6 runs of each side count for get p50"},
		{"compare", []string{"compare", base, slow, same}, result.ExitOK, "worse"},
		{"trend", []string{"trend", "--csv", table, base, slow}, result.ExitOK, "2 rows"},
		{"the same again", []string{"trend", "--csv", table, base}, result.ExitUsage, ""},
		{"baseline", []string{"render", "--png", "--baseline", base, filepath.Join(slow, "a")}, result.ExitOK, "report.html"},
		{"one side", []string{"gate", base}, result.ExitUsage, ""},
		{"no runs", []string{"compare", base, t.TempDir()}, result.ExitUsage, ""},
	} {
		args, out := c.args, t.TempDir()
		if args[0] == "gate" || args[0] == "compare" {
			args = append([]string{args[0], "--out", out}, args[1:]...)
		}
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), append([]string{"reports"}, args...), &stdout, &stderr); code != c.code || !strings.Contains(stdout.String(), c.want) {
			t.Errorf("%s: exit code %d, expected %d\n%s%s", c.name, code, c.code, stdout.String(), stderr.String())
		}
		if c.code == result.ExitUsage {
			if strings.Count(stderr.String(), "\n") != 1 {
				t.Errorf("%s: stderr %q, expected one line", c.name, stderr.String())
			}
			continue
		}
		if args[0] == "gate" || args[0] == "compare" {
			for _, name := range []string{"report.html", "report.md", "junit.xml", "comparison.csv", "plots/changes.svg", "plots/changes.png"} {
				if s, err := os.Stat(filepath.Join(out, name)); err != nil || s.Size() == 0 {
					t.Errorf("%s: %s: %v", c.name, name, err)
				}
			}
		}
	}
	page, err := os.ReadFile(filepath.Join(slow, "a", "report.html"))
	if err != nil || !bytes.Contains(page, []byte(`id="baseline"`)) {
		t.Errorf("the page has no comparison with its baseline: %v", err)
	}
}

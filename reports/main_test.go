package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
		{"no command", nil, "reports: no command given, expected render, merge, compare, gate or trend; see reports --help"},
		{"unknown command", []string{"rendr"}, `reports: unknown command "rendr", expected render, merge, compare, gate or trend; see reports --help`},
		{"unknown flag", []string{"--fast"}, "reports: flag provided but not defined: -fast"},
		{"unknown flag of a command", []string{"render", "--fast", empty}, "reports: flag provided but not defined: -fast"},
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

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
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

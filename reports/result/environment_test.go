package result

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseCPUTimes(t *testing.T) {
	got, err := parseCPUTimes("cpu  100 20 30 400 50 6 7 80 9 10")
	want := cpuTimes{total: 100 + 20 + 30 + 400 + 50 + 6 + 7 + 80, idle: 450, steal: 80}
	if err != nil || got != want {
		t.Errorf("%+v, %v; expected %+v: guest time is counted in user time already", got, err, want)
	}
	for _, line := range []string{"", "intr 1 2 3 4 5", "cpu 1 2 3", "cpu 1 2 x 4 5"} {
		if _, err := parseCPUTimes(line); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
}

func TestProbe(t *testing.T) {
	p := Watch(7, []string{"loadgen", "bench"})
	e := p.Environment()
	if e.Cores < 1 || e.MaxProcs < 1 || e.GoVersion == "" || e.OS == "" || e.Seed != 7 || len(e.Command) != 2 {
		t.Errorf("incomplete: %+v", e)
	}
	for name, share := range map[string]float64{"steal": e.Steal, "busy": e.Busy} {
		if share != -1 && (share < 0 || share > 1) || math.IsNaN(share) {
			t.Errorf("%s is %v, expected a share or -1", name, share)
		}
	}
}

// Started in somebody else's repository, a program must not take that repository's commit for its own.
func TestCheckout(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git on this system")
	}
	dir := t.TempDir()
	t.Chdir(dir)
	git := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("git", append([]string{"-c", "user.name=n", "-c", "user.email=e"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if commit, modified := checkout("example.org/m"); commit != "" || modified {
		t.Errorf("outside of any repository: %q, %v", commit, modified)
	}
	git("init", "-q")
	if err := os.WriteFile("go.mod", []byte("module example.org/m\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	git("add", "go.mod")
	git("commit", "-q", "-m", "x")
	if commit, modified := checkout("example.org/m"); commit != git("rev-parse", "HEAD") || modified {
		t.Errorf("own repository: %q, %v", commit, modified)
	}
	if commit, _ := checkout("example.org/other"); commit != "" {
		t.Errorf("another module's repository: %q was taken", commit)
	}
	if err := os.WriteFile("go.mod", []byte("module example.org/m\n\ngo 1.26\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, modified := checkout("example.org/m"); !modified {
		t.Error("a modified tree was not noticed")
	}
}

// The command line of a report is pasted into a shell by whoever repeats the run: the shell itself says whether it
// means the same words.
func TestCommandLineSurvivesTheShell(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh on this system")
	}
	words := []string{"a", "", "two words", `it's "quoted"`, "$HOME", "*", `back\slash`, "p(99) < 5ms", "x;y", "-r=5", "é"}
	e := &Environment{Command: append([]string{"printf", `%s\n`}, words...)}
	out, err := exec.Command(sh, "-c", e.CommandLine()).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(out), strings.Join(words, "\n")+"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCreateDir(t *testing.T) {
	out := filepath.Join(t.TempDir(), "deep", "out")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, want := range []string{"leader-kill-20260102-030405", "leader-kill-20260102-030405-2", "leader-kill-20260102-030405-3"} {
		dir, err := CreateDir(out, "leader/kill", at)
		if err != nil || filepath.Base(dir) != want {
			t.Errorf("%q, %v; expected %q", dir, err, want)
		}
	}
	if dir, err := CreateDir(out, "../../up", at); err != nil || filepath.Dir(dir) != out {
		t.Errorf("%q, %v: must stay below %s", dir, err, out)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateDir(file, "x", at); err == nil {
		t.Error("a run directory below a file")
	}
}

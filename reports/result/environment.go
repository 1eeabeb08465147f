package result

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Environment is the machine and the build behind a run, env.json. What could not be found out is left empty.
type Environment struct {
	Commit    string            `json:"commit,omitempty"` // of the program that made the run
	Modified  bool              `json:"modified,omitempty"`
	GoVersion string            `json:"go_version"`
	OS        string            `json:"os"`
	Arch      string            `json:"arch"`
	Kernel    string            `json:"kernel,omitempty"`
	CPUModel  string            `json:"cpu_model,omitempty"`
	Cores     int               `json:"cores"` // usable by the process
	MaxProcs  int               `json:"gomaxprocs"`
	Memory    int64             `json:"memory_bytes,omitempty"`
	Versions  map[string]string `json:"versions,omitempty"` // of the modules that shape a result

	Seed    uint64   `json:"seed"`
	Command []string `json:"command"` // exactly as started: program and arguments

	LoadBefore []float64 `json:"load_before,omitempty"` // averages over 1, 5 and 15 minutes, at the start of the run
	LoadAfter  []float64 `json:"load_after,omitempty"`  // the same at its end
	// Steal is the share of processor time during the run that the host gave to other guests; Busy is the share that
	// was spent working, by anyone on this machine. Both are 0 to 1, and -1 if the system does not tell.
	Steal float64 `json:"steal"`
	Busy  float64 `json:"busy"`
}

// shaping is the modules whose version a reader of a result wants to know.
var shaping = []string{
	"github.com/HdrHistogram/hdrhistogram-go",
	"github.com/Shopify/toxiproxy/v2",
	"go.etcd.io/raft/v3",
	"google.golang.org/grpc",
	"google.golang.org/protobuf",
}

// Probe watches the machine from [Watch] to [Probe.Environment].
type Probe struct {
	env  Environment
	cpu  cpuTimes
	have bool
}

// Watch notes the state of the machine at the start of a run. It starts no goroutine.
func Watch(seed uint64, command []string) *Probe {
	p := &Probe{env: Environment{
		GoVersion: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
		Cores: runtime.NumCPU(), MaxProcs: runtime.GOMAXPROCS(0),
		Kernel: readLine("/proc/sys/kernel/osrelease"), CPUModel: cpuModel(), Memory: memory(),
		Seed: seed, Command: slices.Clone(command), LoadBefore: loadAverages(),
	}}
	p.env.Commit, p.env.Modified, p.env.Versions = build()
	p.cpu, p.have = readCPUTimes()
	return p
}

// Environment is what is known now; steal, busy and the second load average cover the time since Watch. It can be
// called again.
func (p *Probe) Environment() *Environment {
	e := p.env
	e.LoadAfter = loadAverages()
	e.Steal, e.Busy = -1, -1
	if now, ok := readCPUTimes(); ok && p.have && now.total > p.cpu.total {
		total := float64(now.total - p.cpu.total)
		e.Steal = float64(now.steal-p.cpu.steal) / total
		e.Busy = 1 - float64(now.idle-p.cpu.idle)/total - e.Steal
	}
	return &e
}

// build is the commit and the module versions stamped into the program. `go run` and `go test` stamp no commit, nor does
// -buildvcs=false; it is then asked of git.
func build() (commit string, modified bool, versions map[string]string) {
	bi, ok := debug.ReadBuildInfo()
	if !ok {
		return "", false, nil
	}
	for _, s := range bi.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = s.Value
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if commit == "" {
		commit, modified = checkout(bi.Main.Path)
	}
	versions = map[string]string{}
	for _, m := range bi.Deps {
		if slices.Contains(shaping, m.Path) {
			versions[m.Path] = m.Version
		}
	}
	return commit, modified, versions
}

// checkout is the commit of the working directory, if that lies in a checkout of module: the commit of some other
// repository would be worse than none.
func checkout(module string) (commit string, modified bool) {
	git := func(args ...string) string {
		out, err := exec.Command("git", args...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	top := git("rev-parse", "--show-toplevel")
	if line, _, _ := strings.Cut(readLine(top+"/go.mod"), "//"); top == "" || strings.TrimSpace(line) != "module "+module {
		return "", false
	}
	return git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no") != ""
}

// clockTick is the unit of /proc/stat on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// Processors returns for how long the processors of the machine have worked since it was started, for anyone, and for how
// long they wanted to and the host gave the time to other guests; all of them together. It is false if the system does not
// tell.
func Processors() (busy, stolen time.Duration, ok bool) {
	t, ok := readCPUTimes()
	return time.Duration(t.total-t.idle-t.steal) * clockTick, time.Duration(t.steal) * clockTick, ok
}

// cpuTimes is the first line of /proc/stat, in clock ticks since boot.
type cpuTimes struct{ total, idle, steal uint64 }

func readCPUTimes() (cpuTimes, bool) {
	t, err := parseCPUTimes(readLine("/proc/stat"))
	return t, err == nil
}

// parseCPUTimes reads "cpu user nice system idle iowait irq softirq steal guest guest_nice". The guest columns are
// already part of user and nice. Kernels before 2.6.11 have no steal.
func parseCPUTimes(line string) (cpuTimes, error) {
	fields := strings.Fields(line)
	if len(fields) < 5 || fields[0] != "cpu" {
		return cpuTimes{}, fmt.Errorf("not the cpu line of /proc/stat: %q", line)
	}
	var t cpuTimes
	for i, f := range fields[1:min(len(fields), 9)] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return cpuTimes{}, fmt.Errorf("/proc/stat: column %d: %w", i+1, err)
		}
		t.total += n
		switch i {
		case 3, 4: // idle, iowait
			t.idle += n
		case 7:
			t.steal = n
		}
	}
	return t, nil
}

func loadAverages() []float64 {
	fields := strings.Fields(readLine("/proc/loadavg"))
	if len(fields) < 3 {
		return nil
	}
	loads := make([]float64, 3)
	for i := range loads {
		var err error
		if loads[i], err = strconv.ParseFloat(fields[i], 64); err != nil {
			return nil
		}
	}
	return loads
}

func cpuModel() string { return procField("/proc/cpuinfo", "model name") }

func memory() int64 {
	number, _ := strings.CutSuffix(procField("/proc/meminfo", "MemTotal"), " kB")
	kib, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil {
		return 0
	}
	return kib * 1024
}

// procField is the value of the first "name : value" line of the file, or "".
func procField(file, name string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func readLine(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}

// ShortCommit is the first twelve digits of the commit, with a plus sign if the tree was modified, or "unknown".
func (e *Environment) ShortCommit() string {
	if e.Commit == "" {
		return "unknown"
	}
	short := e.Commit[:min(len(e.Commit), 12)]
	if e.Modified {
		short += "+"
	}
	return short
}

// CommandLine is Command as it can be pasted into a shell.
func (e *Environment) CommandLine() string {
	words := make([]string, len(e.Command))
	for i, w := range e.Command {
		words[i] = shellQuote(w)
	}
	return strings.Join(words, " ")
}

func shellQuote(w string) string {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_./=:,@%+", c)
	}
	if w != "" && strings.IndexFunc(w, func(c rune) bool { return !plain(c) }) < 0 {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

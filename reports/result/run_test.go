package result

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/perf/benchfmt"
	"pgregory.net/rapid"
)

// These tests say that what is written is what is read, that what is damaged is refused with its place, and that the
// names on disk do not change by accident.

var update = flag.Bool("update", false, "rewrite the golden files")

const ms = time.Millisecond

// full is a run in which every field of the schema holds something.
func full() *Run {
	return &Run{
		Kind: KindScenario, Name: "leader-kill", About: "The leader is killed.",
		Started: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Duration: 30 * time.Second,
		Verdict: Violated, Reasons: []string{"lost writes: 1 of 1000"}, Failure: "node n2: exit status 2", Interrupted: "SIGINT",
		Warnings: []string{"the generator was the limit"},
		Checks: []Check{
			{Name: "run validity", Verdict: Pass, Checked: 3},
			{Name: "lost writes", Verdict: Violated, Count: 1, Checked: 1000, Detail: "1 of 1000", Worst: 12 * ms, Examples: []string{"k7"}},
		},
		Thresholds: []Threshold{{Metric: "insert{phase:recovery}", Expr: "p(99) < 20ms", Got: "31ms"}, {Metric: "errors", Expr: "rate < 1%", Got: "0.2 %", Met: true}},
		Nodes:      []Node{{Name: "n1", Identity: "127.0.0.1:7001", Version: "v0.1.0", Log: "nodes/n1.log"}},
		Phases:     []Phase{{Name: "before", To: 10 * time.Second}, {Name: "during", From: 10 * time.Second, To: 11 * time.Second}},
		Series: []Series{{
			Phase: "before", Op: "insert", Level: "quorum", Closed: true, InFlight: 32, Limited: true, Saturated: true,
			Counts: Counts{Intended: 1010, OK: 1000, Fail: 4, Info: 3, Missed: 2, Unfinished: 1, Miss: 5, Refused: 1, Misrouted: 2},
			Span:   10 * time.Second, Offered: 101, Throughput: 100,
			Response: Latency{1000, 3 * ms, 2 * ms, 4 * ms, 9 * ms, 20 * ms, 21 * ms},
			Service:  Latency{1000, 2 * ms, 1 * ms, 3 * ms, 8 * ms, 19 * ms, 20 * ms},
			Lag:      Latency{Count: 1008, Mean: 1}, Failed: Latency{Count: 4, Mean: 2}, Waited: Latency{Count: 4, Mean: 3},
			Spectrum: []Point{{0, 1 * ms, 1 * ms}, {0.5, 2 * ms, 1 * ms}}, Clamped: 1,
		}},
		Segment: &Segment{Index: 1, Of: 8},
		Saturation: &Saturation{
			Limits: []string{"latency: p(99) < 5ms"}, P99Limit: 5 * ms, Rate: 9000, Broken: 9270, Ended: "the generator was the limit",
			Steps: []SaturationStep{{Offered: 9000, Held: true, Trials: []SaturationTrial{{
				Phase: "9000/s, try 1", Held: true, Reason: "late", Limited: true, Throughput: 8999, NotOK: 0.01, P50: 1 * ms, P99: 2 * ms, Max: 3 * ms, LagP99: ms / 10,
			}}}},
		},
		Failovers: []Failover{{
			Repeat: 1, Fault: "kill", Inject: 10 * time.Second, OldLeader: "n1", NewLeader: "n2", Term: 3,
			Suspect: 4 * ms, Candidate: 5 * ms, Elected: 9 * ms, Agreed: 12 * ms, Resolution: 5 * ms,
			Levels: []Recovery{{Level: "quorum", FirstOK: 20 * ms, Gap: 24 * ms}},
		}},
		Outages: []Outage{{Level: "quorum", From: 10 * time.Second, To: 10024 * ms, Fault: "kill"}},
		Losses: []Loss{{
			Kind: Lost, Repeat: 1, Cache: "bench", Key: "k7", Version: 3, Level: "once", Node: "n2", Found: "version 2", Allowed: true,
			AckedAt: 9999 * ms, Fault: "kill", FromFault: -1 * ms,
			History: []Operation{{Proc: 1, Kind: "insert", Version: 3, Level: "once", Node: "n1", Invoke: 9990 * ms, Return: 9999 * ms, Outcome: "ok", Reason: "r"}},
		}},
		Exposures: []Exposure{{Level: "once", Acked: 1000, Lost: 1, Allowed: 1, Stale: 2, Unknown: 3, Window: 1 * ms, After: 2 * ms}},
		Costs:     []Cost{{Phase: "before", Ops: 40_000, CPU: 2 * time.Second}},
		Repeats:   []Repeat{{Dir: "1", Seed: 1 << 63, Verdict: Violated, Reasons: []string{"x"}}},
		Files:     []File{{Path: "nodes/n1.log", About: "the log of n1"}},
		Environment: &Environment{
			Commit: "0123456789abcdef", Modified: true, GoVersion: "go1.26", OS: "linux", Arch: "amd64", Kernel: "6.1",
			CPUModel: "a CPU", Cores: 2, MaxProcs: 2, Memory: 1 << 30, Versions: map[string]string{"a": "v1"}, Seed: 42,
			Command: []string{"chaos", "run", "a b.yaml"}, LoadBefore: []float64{1, 2, 3}, LoadAfter: []float64{4, 5, 6}, Steal: 0.01, Busy: 0.5,
		},
		Intervals: []Interval{{
			T: 1, Width: 2, Phase: "before", Op: "insert", Level: "quorum", OK: 3, Fail: 4, Info: 5, Missed: 6, Refused: 7,
			P50: 8, P90: 9, P99: 10, Max: 11, LagP99: 12,
		}},
		Peers: &Peers{
			Idle: 0.1,
			Systems: []Peer{
				{Name: "ours", Version: "1.2", Client: "own", Acknowledged: "by a majority", Durability: "none", Setup: []string{"three"}, Favours: []string{"a"}, Against: []string{"b"}},
				{Name: "theirs", Absent: "not installed"},
			},
			Rows: []PeerRow{
				{Name: "ours, 1", Load: "one", System: "ours", Operation: "put", Rounds: []Turn{{Round: 1, Ops: 2, NotOK: 3, Rate: 4, P50: 5, P99: 6, CPU: 7}}},
				{Name: "theirs, 1", Load: "one", System: "theirs", Operation: "SET", Base: "ours, 1"},
			},
		},
		Events: []Event{
			{T: 10 * time.Second, Kind: Inject, Fault: "kill", Action: "kill", Targets: []string{"n1"}, Detail: "pid 7"},
			{T: 10 * time.Second, Kind: Process, Node: "n1", State: ProcessExited},
			{T: 10 * time.Second, Kind: Link, From: "n1", To: "n2", State: LinkDown},
			{T: 10 * time.Second, Kind: Observe, Node: "n2", Role: RoleLeader, Term: 3, Leader: "n2", Cluster: "00ff"},
			{T: 11 * time.Second, Kind: Note, Detail: "settling"},
			{T: 11 * time.Second, Kind: Heal, Fault: "kill", Bit: new(true)},
		},
		Resources: []Resource{{T: 1, Node: "n1", CPU: 2, RSS: 3, Goroutines: 4, Turns: 5, Waited: 6}},
	}
}

// filled fails for each exported field below v that holds its zero value, so that full stays full.
func filled(t *testing.T, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			filled(t, v.Elem(), path)
		}
	case reflect.Slice:
		// A field counts as filled when some element of the slice fills it: events differ by kind.
		if v.Len() > 0 && v.Index(0).Kind() == reflect.Struct {
			for i := range v.Index(0).NumField() {
				name := path + "[]." + v.Index(0).Type().Field(i).Name
				some := false
				for j := range v.Len() {
					some = some || !v.Index(j).Field(i).IsZero()
				}
				if !some {
					t.Errorf("full() leaves %s empty: its round trip is not tested", name)
				}
			}
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			name := path + "." + v.Type().Field(i).Name
			if v.Field(i).IsZero() && name != "Run.Schema" {
				t.Errorf("full() leaves %s empty: its round trip is not tested", name)
			}
			filled(t, v.Field(i), name)
		}
	}
}

func TestWriteThenRead(t *testing.T) {
	want := full()
	filled(t, reflect.ValueOf(*want), "Run")
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "nodes"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "nodes/n1.log"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	want.Files = append(want.Files, File{Path: "never-written.txt"})
	if err := Write(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("read - written:\n%s", diff)
	}
	if len(got.Files) != 1 {
		t.Errorf("files %v: one that is not there must be dropped", got.Files)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files are left behind: %v, %v", left, err)
	}
}

// Reading needs the summary only: a run that was cut short is still a run.
func TestReadPartialRun(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no summary.json") {
		t.Errorf("empty directory: %v, expected an error that says what is missing", err)
	}
	r := &Run{Kind: KindBench, Name: "b", Verdict: Unknown}
	if err := Write(dir, r); err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Intervals != nil || got.Events != nil || got.Resources != nil || got.Environment != nil {
		t.Errorf("parts that were never written came back: %+v", got)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("%d files, %v: expected the summary alone", len(files), err)
	}
}

// The names and shapes on disk are a contract with everything that keeps old runs. When this fails on purpose, raise
// SchemaVersion unless the change only adds.
func TestGoldenFiles(t *testing.T) {
	r := full()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "nodes"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "nodes/n1.log"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, r); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{SummaryFile, TimeseriesFile, EventsFile, ResourcesFile, EnvironmentFile, BenchFile} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(got), string(want)); diff != "" {
			t.Errorf("%s: got - golden (go test -update rewrites it):\n%s", name, diff)
		}
	}
	if _, err := Read("testdata"); err != nil {
		t.Errorf("the golden run directory cannot be read: %v", err)
	}
}

// TestOlderResources: files from before waiting was measured are read, without it; half of a column more is a mistake.
func TestOlderResources(t *testing.T) {
	rows, err := DecodeResources(strings.NewReader("t_ns,node,cpu_ns,rss_bytes,goroutines\n1,n1,2,3,4\n"), "old.csv")
	if diff := cmp.Diff(rows, []Resource{{T: 1, Node: "n1", CPU: 2, RSS: 3, Goroutines: 4}}); err != nil || diff != "" {
		t.Errorf("%v, got - want:\n%s", err, diff)
	}
	for _, text := range []string{
		"t_ns,node,cpu_ns,rss_bytes\n1,n1,2,3\n",
		"t_ns,node,cpu_ns,rss_bytes,goroutines,waited_ns\n1,n1,2,3,4,5\n",
		"t_ns,node,cpu_ns,rss_bytes,goroutines\n1,n1,2,3,4,5\n",
	} {
		if rows, err := DecodeResources(strings.NewReader(text), "bad.csv"); err == nil {
			t.Errorf("%q was read as %v", text, rows)
		}
	}
}

// One convention for time: a duration is nanoseconds and its name says so. No field is written under its Go name.
func TestFieldNamesSayTheirUnit(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(ty reflect.Type) {
		switch ty.Kind() {
		case reflect.Slice, reflect.Pointer:
			walk(ty.Elem())
		case reflect.Struct:
			if seen[ty] || ty == reflect.TypeFor[time.Time]() || ty == reflect.TypeFor[Interval]() || ty == reflect.TypeFor[Resource]() {
				return
			}
			seen[ty] = true
			for i := range ty.NumField() {
				f := ty.Field(i)
				tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if tag == "" {
					t.Errorf("%s.%s has no JSON name", ty.Name(), f.Name)
				}
				if isDuration := f.Type == reflect.TypeFor[time.Duration](); isDuration != strings.HasSuffix(tag, "_ns") {
					t.Errorf("%s.%s is a %s and is written as %q", ty.Name(), f.Name, f.Type, tag)
				}
				walk(f.Type)
			}
		}
	}
	walk(reflect.TypeFor[Run]())
	if len(seen) < 12 {
		t.Errorf("only %d types looked at", len(seen))
	}
}

func TestDamagedFilesAreRefusedWithTheirPlace(t *testing.T) {
	summary := func(text string) func() error {
		return func() error { _, err := DecodeSummary([]byte(text), "summary.json"); return err }
	}
	events := func(text string) func() error {
		return func() error { _, err := DecodeEvents(strings.NewReader(text), "events.jsonl"); return err }
	}
	intervals := func(text string) func() error {
		return func() error { _, err := DecodeIntervals(strings.NewReader(text), "timeseries.csv"); return err }
	}
	var head bytes.Buffer
	if err := EncodeIntervals(&head, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		decode func() error
		want   string
	}{
		{"no json", summary("hello"), `summary.json:1: invalid character 'h' looking for beginning of value`},
		{"empty", summary(""), `summary.json: empty, expected a JSON object`},
		{"other json", summary(`{"a":1}`), `summary.json: no field "schema": not the summary of a run`},
		{"newer", summary(`{"schema":2,"shape":1}`), `summary.json: schema version 2, this program reads version 1`},
		{"unknown field", summary("{\n\"schema\":1,\n\"nmae\":\"x\"}"), `summary.json:3: unknown field "nmae"`},
		{"wrong type", summary("{\n\"schema\":1,\n\"duration_ns\":\"1s\"}"), `summary.json:3: field "duration_ns": found a JSON string, expected time.Duration`},
		{"cut off", summary("{\n\"schema\":1,\n\"name\":"), `summary.json:3: the JSON value is cut off`},
		{"two values", summary("{\"schema\":1,\"kind\":\"bench\",\"name\":\"x\",\"verdict\":\"pass\"}\n{}"), `summary.json:2: more data after the end of the JSON value`},
		{"no verdict", summary(`{"schema":1,"kind":"bench","name":"x"}`), `summary.json: verdict: "", expected pass, violated, unknown or not exercised`},
		{"two mistakes", summary(`{"schema":1,"kind":"test","name":"","verdict":"pass"}`), `summary.json: kind: "test", expected "bench" or "scenario"; name: empty`},
		{
			"outcomes do not add up", summary(`{"schema":1,"kind":"bench","name":"x","verdict":"pass","series":[{"op":"get","counts":{"intended":3,"ok":1}}]}`),
			`summary.json: series[0] get: 3 intended operations, but the outcomes add up to 1`,
		},
		{"path outside", summary(`{"schema":1,"kind":"bench","name":"x","verdict":"pass","files":[{"path":"../x"}]}`), `summary.json: files: "../x" is not a path inside the run directory`},
		{"event of no kind", events("{\"t_ns\":1,\"kind\":\"note\",\"detail\":\"x\"}\n{\"t_ns\":1}\n"), `events.jsonl:2: unknown kind ""`},
		{"event with a typo", events("{\"t_ns\":1,\"kind\":\"inject\",\"falt\":\"x\"}\n"), `events.jsonl:1: unknown field "falt"`},
		{"event with no such role", events("{\"t_ns\":1,\"kind\":\"observe\",\"node\":\"a\",\"role\":\"king\"}\n"), `events.jsonl:1: unknown role "king", expected leader, follower, requested, dead or undefined`},
		{"csv empty", intervals(""), "timeseries.csv:1: empty, expected the header " + strings.TrimSpace(head.String())},
		{"csv header", intervals("t,op\n"), `timeseries.csv:1: header "t,op", expected "` + strings.TrimSpace(head.String()) + `"`},
		{"csv number", intervals(head.String() + "0,1,,get,,1,0,0,0,0,1,1,1,1,0\n5,1,,get,,-1,0,0,0,0,1,1,1,1,0\n"), `timeseries.csv:3: ok: "-1", expected a whole number of at least 0`},
		{"csv no width", intervals(head.String() + "0,0,,get,,1,0,0,0,0,1,1,1,1,0\n"), `timeseries.csv:2: width_ns: 0, expected more than 0`},
		{"csv short", intervals(head.String() + "0,1\n"), `timeseries.csv:2: 2 fields, expected 15`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.decode(); err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// A harness that is killed leaves half a line; everything before it still counts.
func TestEventsOfAKilledRun(t *testing.T) {
	var buf bytes.Buffer
	want := full().Events
	if err := EncodeEvents(&buf, want...); err != nil {
		t.Fatal(err)
	}
	whole := buf.Len()
	if err := EncodeEvents(&buf, Event{T: 1, Kind: Note, Detail: "never finished"}); err != nil {
		t.Fatal(err)
	}
	for cut := whole; cut < buf.Len()-2; cut++ {
		got, err := DecodeEvents(bytes.NewReader(buf.Bytes()[:cut]), "events.jsonl")
		if err != nil {
			t.Fatalf("cut %d bytes into the last line: %v", cut-whole, err)
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Fatalf("cut %d bytes into the last line: got - want:\n%s", cut-whole, diff)
		}
	}
}

// Any rows survive the way through the file, whatever is in their names.
func TestIntervalsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringOfN(rapid.RuneFrom([]rune("ab ,\"\n;é")), 0, 8, -1)
		count := rapid.Int64Range(0, 1<<62)
		want := rapid.SliceOf(rapid.Custom(func(t *rapid.T) Interval {
			d := func() time.Duration { return time.Duration(count.Draw(t, "duration")) }
			return Interval{
				T: d(), Width: 1 + d(), Phase: word.Draw(t, "phase"), Op: "x" + word.Draw(t, "op"), Level: word.Draw(t, "level"),
				OK: count.Draw(t, "ok"), Fail: count.Draw(t, "fail"), Info: count.Draw(t, "info"), Missed: count.Draw(t, "missed"),
				Refused: count.Draw(t, "refused"), P50: d(), P90: d(), P99: d(), Max: d(), LagP99: d(),
			}
		})).Draw(t, "rows")
		var buf bytes.Buffer
		if err := EncodeIntervals(&buf, want); err != nil {
			t.Fatal(err)
		}
		got, err := DecodeIntervals(&buf, "timeseries.csv")
		if err != nil {
			t.Fatal(err)
		}
		if len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Fatalf("got - want:\n%s", cmp.Diff(got, want))
		}
	})
}

func FuzzDecode(f *testing.F) {
	var csv, events bytes.Buffer
	if err := EncodeIntervals(&csv, full().Intervals); err != nil {
		f.Fatal(err)
	}
	if err := EncodeEvents(&events, full().Events...); err != nil {
		f.Fatal(err)
	}
	summary, err := json.Marshal(full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csv.Bytes())
	f.Add(events.Bytes())
	f.Add(summary)
	f.Fuzz(func(t *testing.T, data []byte) {
		// No input may panic, and what is accepted must be valid and survive being written again.
		if rows, err := DecodeIntervals(bytes.NewReader(data), "x"); err == nil {
			var out bytes.Buffer
			if err := EncodeIntervals(&out, rows); err != nil {
				t.Fatal(err)
			}
			if again, err := DecodeIntervals(&out, "x"); err != nil || !reflect.DeepEqual(again, rows) {
				t.Fatalf("second reading: %v", err)
			}
		}
		if es, err := DecodeEvents(bytes.NewReader(data), "x"); err == nil {
			if err := EncodeEvents(&bytes.Buffer{}, es...); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := DecodeSummary(data, "x"); err == nil && r.Validate() != nil {
			t.Fatal("an invalid summary was accepted")
		}
	})
}

// bench.txt is read by the reader that benchstat uses, and says which way is better.
func TestBenchIsReadByBenchstat(t *testing.T) {
	var buf bytes.Buffer
	r := full()
	saturated := r.Series[0]
	r.Series[0].Limited, r.Series[0].Saturated = false, false
	saturated.Limited = false
	r.Series = append(r.Series, Series{Op: "get", Counts: Counts{Intended: 2, Info: 2}}, saturated) // no ok: no line
	if err := EncodeBench(&buf, r); err != nil {
		t.Fatal(err)
	}
	br := benchfmt.NewReader(&buf, BenchFile)
	var lines []*benchfmt.Result
	for br.Scan() {
		switch rec := br.Result().(type) {
		case *benchfmt.SyntaxError:
			t.Errorf("syntax error: %v", rec)
		case *benchfmt.Result:
			lines = append(lines, rec.Clone())
		}
	}
	if err := br.Err(); err != nil {
		t.Fatal(err)
	}
	if len(lines) != 2 {
		t.Fatalf("%d benchmark lines, expected 2", len(lines))
	}
	for _, unit := range []string{"p99-sec", "p99-ns", "ns/op", "sec/op"} {
		if got, ok := lines[1].Value(unit); ok {
			t.Errorf("%s %v of a saturated series is there to be compared", unit, got)
		}
	}
	if got, want := string(lines[0].Name), "Insert/level=quorum/phase=before/loop=closed"; got != want {
		t.Errorf("name %q, expected %q", got, want)
	}
	if got, ok := lines[0].Value("p99-sec"); !ok || math.Abs(got-0.009) > 1e-12 {
		t.Errorf("p99 %v (%v), expected 0.009 s", got, ok)
	}
	if got := lines[0].GetConfig("commit"); got != "0123456789ab+" {
		t.Errorf("commit %q", got)
	}
	for unit, want := range map[string]string{"ns/op": "lower", "p99-ns": "lower", "ok/s": "higher", "not-ok-ratio": "lower"} {
		if got := br.Units().Get(unit, "better"); got == nil || got.Value != want {
			t.Errorf("unit %s: better=%v, expected %s", unit, got, want)
		}
	}
}

func TestJudgeAndExitCode(t *testing.T) {
	check := func(vs ...Verdict) (cs []Check) {
		for i, v := range vs {
			cs = append(cs, Check{Name: string(rune('a' + i)), Verdict: v})
		}
		return cs
	}
	for _, c := range []struct {
		name    string
		run     Run
		verdict Verdict
		code    int
		reasons []string
	}{
		{"pass", Run{Checks: check(Pass, NotExercised)}, Pass, ExitOK, nil},
		{"violation outranks all", Run{Checks: check(Unknown, Violated), Failure: "x", Interrupted: "SIGINT"}, Violated, ExitViolated, []string{"b", "a", "the run failed: x", "the run was interrupted by SIGINT"}},
		{"unknown", Run{Checks: check(Pass, Unknown)}, Unknown, ExitUnknown, []string{"b"}},
		{"nothing exercised", Run{Checks: check(NotExercised)}, NotExercised, ExitUnknown, nil},
		{"nothing checked", Run{}, Unknown, ExitUnknown, []string{"nothing was checked"}},
		{"failed", Run{Checks: check(Pass), Failure: "port taken"}, Unknown, ExitFailure, []string{"the run failed: port taken"}},
		{"interrupted", Run{Checks: check(Pass), Interrupted: "SIGTERM"}, Unknown, ExitTerminate, []string{"the run was interrupted by SIGTERM"}},
		{"threshold", Run{Checks: check(Pass), Thresholds: []Threshold{{Met: true}, {}}}, Pass, ExitThreshold, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.run.Judge()
			if c.run.Verdict != c.verdict || c.run.ExitCode() != c.code {
				t.Errorf("verdict %q, exit code %d; expected %q, %d", c.run.Verdict, c.run.ExitCode(), c.verdict, c.code)
			}
			if diff := cmp.Diff(c.run.Reasons, c.reasons); diff != "" {
				t.Errorf("reasons: got - want:\n%s", diff)
			}
		})
	}
}

func TestWindows(t *testing.T) {
	r := &Run{Duration: 100, Events: []Event{
		{T: 50, Kind: Heal, Fault: "a", Bit: new(false), Detail: "no bytes were held"},
		{T: 10, Kind: Inject, Fault: "a", Action: "partition"},
		{T: 20, Kind: Inject, Fault: "b", Detail: "pid 7"},
		{T: 60, Kind: Heal, Fault: "c"},
		{T: 70, Kind: Inject, Fault: "a"},
		{T: 70, Kind: Heal, Fault: "a"},
	}}
	want := []Window{
		{Fault: "a", Action: "partition", From: 10, To: 50, Bit: new(false), Detail: "no bytes were held"},
		{Fault: "b", From: 20, To: 100, Open: true, Detail: "pid 7"},
		{Fault: "a", From: 70, To: 70},
	}
	if diff := cmp.Diff(r.Windows(), want); diff != "" {
		t.Errorf("got - want:\n%s", diff)
	}
}

func TestSpectrumQuantiles(t *testing.T) {
	for _, n := range []int64{0, 1, 9, 10, 11, 100, 1000, 1_000_000} {
		qs := SpectrumQuantiles(n)
		if qs[0] != 0 {
			t.Errorf("n=%d: starts at %v, expected 0", n, qs[0])
		}
		for i, q := range qs[1:] {
			if q <= qs[i] || q >= 1 || !Reportable(q, n) {
				t.Errorf("n=%d: quantile %v after %v: must grow, stay below 1 and be reportable", n, q, qs[i])
			}
		}
	}
	// Ten a decade: 1000 samples are good for p99 (two decades), a million for p99.999.
	if got := len(SpectrumQuantiles(1000)); got != 21 {
		t.Errorf("1000 samples: %d quantiles, expected 21", got)
	}
	if got := len(SpectrumQuantiles(1_000_000)); got != 51 {
		t.Errorf("1000000 samples: %d quantiles, expected 51", got)
	}
}

package history

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var header = Header{Version: Version, Scenario: "leader-kill", Seed: 7, Nodes: []string{"n1", "n2", "n3"}}

// ops are one operation of each shape that a run records.
var ops = []Op{
	{Proc: 1, Kind: "insert", Cache: "bench", Key: "k1", Version: 17, Level: "quorum", Node: "n1", Stream: 2, Phase: Load, Outcome: OK, Intended: 5, Send: 6, Return: 9, Cluster: 0xfedcba9876543210, Term: 3, Index: 12},
	{Proc: 2, Kind: "insert", Cache: "bench", Key: "k2", Version: 18, Level: "leader", Node: "n1", Phase: Load, Outcome: Info, Reason: "client: stream broken", Intended: 5, Send: 5, Return: 500},
	{Proc: 3, Kind: "put", Cache: "bench", Key: `quo"te\ and ünïcode`, Version: 19, Phase: Warmup, Outcome: Fail, Reason: "NO_LEADER", Intended: 5, Send: 5, Return: 5},
	{Proc: 6, Kind: "insert", Cache: "bench", Key: "k3", Version: 20, Session: 0xfedcba9876543211, Seq: 7, Level: "quorum", Node: "n1", Phase: Retry, Outcome: OK, Return: 9, Index: 12},
	{Proc: 3, Kind: "remove", Cache: "bench", Key: "k1", Level: "once", Node: "n2", Phase: Load, Outcome: OK, Intended: 10, Send: 10, Return: 11},
	{Proc: 4, Kind: "get", Cache: "bench", Key: "k1", Version: 17, Found: true, Mode: "local", Node: "n3", Phase: Final, Outcome: OK, Intended: 20, Send: 20, Return: 21},
	{Proc: 4, Kind: "get", Cache: "bench", Key: "k9", Mode: "linearizable", Node: "n3", Phase: Load, Outcome: OK, Return: 1},
	{Proc: 4, Kind: "get", Cache: "bench", Key: "k9", Found: true, Mode: "local", Node: "n3", Phase: Load, Outcome: OK, Reason: "checksum", Return: 1},
	{Proc: 5, Kind: "get", Cache: "bench", Key: "k9", Mode: "local", Node: "n3", Phase: Probe, Outcome: Refused, Reason: "NOT_FRESH", Return: 1},
}

// TestHistory_roundTrip proves that what was recorded is what is read, through
// the file and its compression, by recorders that run at once.
func TestHistory_roundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl.gz")
	w, err := Create(path, header)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Run() }()
	for _, o := range ops {
		w.Record(o)
	}
	w.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	h, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&History{Header: header, Ops: ops, Whole: true}, h); d != "" {
		t.Errorf("read differs from recorded (-recorded +read):\n%s", d)
	}
	if !h.Complete() {
		t.Error("a history that was closed is not complete")
	}
}

func TestWriter_concurrentRecorders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl.gz")
	w, err := Create(path, header)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Run() }()
	const recorders, each = 8, 500
	var wg sync.WaitGroup
	for r := range recorders {
		wg.Go(func() {
			for range each {
				o := ops[0]
				o.Proc = int64(r + 1)
				w.Record(o)
			}
		})
	}
	wg.Wait()
	w.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	h, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	per := map[int64]int{}
	for _, o := range h.Ops {
		per[o.Proc]++
	}
	for r := range recorders {
		if per[int64(r+1)] != each {
			t.Errorf("recorder %d: %d operations, want %d", r+1, per[int64(r+1)], each)
		}
	}
}

// TestWriter_refusesWhatCannotBe proves that a bad operation is counted, named
// by Run's error, and leaves a history that is not complete.
func TestWriter_refusesWhatCannotBe(t *testing.T) {
	var out nopCloser
	w, err := newWriter(&out, header)
	if err != nil {
		t.Fatal(err)
	}
	w.Record(ops[0])
	bad := ops[0]
	bad.Return = bad.Send - 1
	w.Record(bad)
	w.Close()
	late := ops[0]
	w.Record(late)
	if err := w.Run(); err == nil || !strings.Contains(err.Error(), "out of order") {
		t.Errorf("Run: %v, want an error about the times", err)
	}
	h := readZip(t, out.Bytes())
	if h.Complete() || h.Lost != 2 || len(h.Ops) != 1 {
		t.Errorf("complete %t, lost %d, %d operations; want false, 2, 1", h.Complete(), h.Lost, len(h.Ops))
	}
}

func TestWriter_diskFull(t *testing.T) {
	w, err := newWriter(&full{room: 64}, header)
	if err != nil {
		t.Fatal(err)
	}
	w.Record(ops[0])
	w.Close()
	if err := w.Run(); !errors.Is(err, errFull) {
		t.Errorf("Run: %v, want %v", err, errFull)
	}
}

// TestRead_truncated proves that the file of a killed run can be read up to
// every byte at which it may end, and never counts as complete.
func TestRead_truncated(t *testing.T) {
	var out nopCloser
	w, err := newWriter(&out, header)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range ops {
		w.Record(o)
	}
	w.Close()
	if err := w.Run(); err != nil {
		t.Fatal(err)
	}
	plain := unzip(t, out.Bytes())
	end := bytes.LastIndexByte(bytes.TrimSpace(plain), '\n') + 1
	head := bytes.IndexByte(plain, '\n') + 1
	for cut := head; cut < end; cut++ {
		h, err := Read(bytes.NewReader(plain[:cut]))
		if err != nil {
			t.Fatalf("cut at %d of %d: %v", cut, len(plain), err)
		}
		if h.Complete() {
			t.Fatalf("cut at %d of %d: counts as complete", cut, len(plain))
		}
	}
	path := filepath.Join(t.TempDir(), "cut.jsonl.gz")
	for cut := 30; cut < out.Len(); cut += 7 {
		if err := os.WriteFile(path, out.Bytes()[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if h, err := ReadFile(path); err == nil && h.Complete() {
			t.Fatalf("file cut at %d of %d counts as complete", cut, out.Len())
		}
	}
}

func TestRead_rejects(t *testing.T) {
	head := `{"version":1,"scenario":"s","seed":1,"nodes":["n1"]}` + "\n"
	good := string(appendOp(nil, &ops[0]))
	for name, c := range map[string]struct{ in, want string }{
		"nothing":              {"", "without even a header"},
		"other version":        {`{"version":2,"scenario":"s","seed":1,"nodes":[]}` + "\n", "format version 2"},
		"unknown field":        {head + `{"proc":1,"kind":"get","colour":"red"}` + "\n" + good, "line 2: json: unknown field"},
		"impossible":           {head + `{"proc":1,"kind":"get","cache":"c","key":"k","mode":"local","phase":"load","outcome":"info"}` + "\n" + good, "line 2: get with outcome"},
		"fewer than it says":   {head + good + `{"kind":"end","ops":2}` + "\n", "2 operations recorded, 1 are in the file"},
		"more after the end":   {head + good + `{"kind":"end","ops":1}` + "\n" + good, "line 4: more after"},
		"garbage in between":   {head + "garbage\n" + good, "line 2"},
		"two values on a line": {head + strings.TrimSpace(good) + good + good, "line 2: more than one value"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Read(strings.NewReader(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %q", err, c.want)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	seed := []byte(`{"version":1,"scenario":"s","seed":1,"nodes":["n1"]}` + "\n")
	for i := range ops {
		seed = appendOp(seed, &ops[i])
	}
	f.Add(seed)
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		for i := range h.Ops { // whatever was accepted is valid and survives a second trip
			if err := h.Ops[i].Validate(); err != nil {
				t.Fatalf("accepted an operation that cannot be: %v", err)
			}
		}
		again := []byte(`{"version":1,"scenario":"s","seed":1,"nodes":["n1"]}` + "\n")
		for i := range h.Ops {
			again = appendOp(again, &h.Ops[i])
		}
		g, err := Read(bytes.NewReader(again))
		if err != nil {
			t.Fatalf("cannot read what it wrote: %v", err)
		}
		if d := cmp.Diff(h.Ops, g.Ops); d != "" {
			t.Fatalf("second trip differs:\n%s", d)
		}
	})
}

func BenchmarkWriter(b *testing.B) {
	w, err := newWriter(&full{room: 1 << 62}, header)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Run() }()
	o := ops[0]
	b.ReportAllocs()
	for b.Loop() {
		o.Return += time.Microsecond
		w.Record(o)
	}
	w.Close()
	<-done
}

type nopCloser struct{ bytes.Buffer }

func (*nopCloser) Close() error { return nil }

var errFull = errors.New("no space left")

// full is a disk with so many bytes left.
type full struct{ room int }

func (d *full) Write(p []byte) (int, error) {
	if d.room -= len(p); d.room < 0 {
		return 0, errFull
	}
	return len(p), nil
}
func (*full) Close() error { return nil }

func unzip(t *testing.T, data []byte) []byte {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func readZip(t *testing.T, data []byte) *History {
	t.Helper()
	h, err := Read(bytes.NewReader(unzip(t, data)))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

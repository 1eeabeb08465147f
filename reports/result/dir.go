package result

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Names inside a run directory. The first group is written and read by this package; loadgen, chaos and reports
// write the others.
const (
	SummaryFile     = "summary.json"
	TimeseriesFile  = "timeseries.csv"
	EventsFile      = "events.jsonl"
	ResourcesFile   = "resources.csv"
	EnvironmentFile = "env.json"
	BenchFile       = "bench.txt"

	HistogramLogFile = "run.hlog"         // interval histograms, two digits
	TotalsFile       = "totals.hlog"      // histograms of each phase, three digits: what is merged
	HistoryFile      = "history.jsonl.gz" // every operation
	ScenarioFile     = "scenario.yaml"    // a copy of what was run
	LinearFile       = "linearizability.html"
	JUnitFile        = "junit.xml"
	ReportFile       = "report.html"
	MarkdownFile     = "report.md"
	PlotsDir         = "plots" // *.svg
	NodesDir         = "nodes" // *.log, one a node
	PercentilesExt   = ".hgrm" // <op>-<level>.hgrm
)

// runDirTime is how the start of a run is written in the name of its directory.
const runDirTime = "20060102-150405"

// CreateDir makes and returns a new run directory below out, named for the run and its start: "leader-kill-20260102-150405".
// When that is taken a number is appended. Characters of name that do not belong in a file name become dashes.
func CreateDir(out, name string, started time.Time) (string, error) {
	clean := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' {
			return c
		}
		return '-'
	}, name)
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", fmt.Errorf("create run directory: %w", err)
	}
	base := fmt.Sprintf("%s/%s-%s", strings.TrimRight(out, "/"), strings.TrimLeft(clean, ".-"), started.UTC().Format(runDirTime))
	for n := 1; ; n++ {
		dir := base
		if n > 1 {
			dir = fmt.Sprintf("%s-%d", base, n)
		}
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			return dir, nil
		}
		if !os.IsExist(err) {
			return "", fmt.Errorf("create run directory: %w", err)
		}
	}
}

// Write writes r into dir, which must exist: summary.json, timeseries.csv, events.jsonl, resources.csv, env.json and
// bench.txt, each replaced at once so that a reader never sees half a file, summary.json last. Parts that r does not
// have are not written. It sets r.Schema, and drops from r.Files what is not there.
func Write(dir string, r *Run) error {
	r.Schema = SchemaVersion
	if err := r.Validate(); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	r.Files = slices.DeleteFunc(r.Files, func(f File) bool {
		_, err := os.Stat(filepath.Join(dir, filepath.FromSlash(f.Path)))
		return err != nil
	})
	type part struct {
		name   string
		have   bool
		encode func(io.Writer) error
	}
	for _, p := range []part{
		{TimeseriesFile, r.Intervals != nil, func(w io.Writer) error { return EncodeIntervals(w, r.Intervals) }},
		{EventsFile, r.Events != nil, func(w io.Writer) error { return EncodeEvents(w, r.Events...) }},
		{ResourcesFile, r.Resources != nil, func(w io.Writer) error { return EncodeResources(w, r.Resources) }},
		{EnvironmentFile, r.Environment != nil, func(w io.Writer) error { return encodeJSON(w, r.Environment) }},
		{BenchFile, len(r.Series) > 0, func(w io.Writer) error { return EncodeBench(w, r) }},
		{SummaryFile, true, func(w io.Writer) error { return encodeJSON(w, r) }},
	} {
		if !p.have {
			continue
		}
		var buf bytes.Buffer
		if err := p.encode(&buf); err != nil {
			return fmt.Errorf("write %s: %w", p.name, err)
		}
		if err := ReplaceFile(filepath.Join(dir, p.name), buf.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// Read reads the run in dir. Only summary.json must be there; a part whose file is missing stays nil, as does the
// part of a run that never had it. Everything that is there must be right: an error names the file and, where there
// is one, the line.
func Read(dir string) (*Run, error) {
	data, err := os.ReadFile(filepath.Join(dir, SummaryFile))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, noRunError{dir}
		}
		return nil, err
	}
	r, err := DecodeSummary(data, filepath.Join(dir, SummaryFile))
	if err != nil {
		return nil, err
	}
	if err := readPart(dir, TimeseriesFile, &r.Intervals, DecodeIntervals); err != nil {
		return nil, err
	}
	if err := readPart(dir, EventsFile, &r.Events, DecodeEvents); err != nil {
		return nil, err
	}
	if err := readPart(dir, ResourcesFile, &r.Resources, DecodeResources); err != nil {
		return nil, err
	}
	err = readPart(dir, EnvironmentFile, &r.Environment, func(f io.Reader, name string) (*Environment, error) {
		data, err := io.ReadAll(f)
		if err != nil {
			return nil, err
		}
		e := new(Environment)
		if err := decodeStrict(data, e); err != nil {
			return nil, fmt.Errorf("%s%w", name, err)
		}
		return e, nil
	})
	return r, err
}

// noRunError says that a directory holds no run. It is an [fs.ErrNotExist].
type noRunError struct{ dir string }

func (e noRunError) Error() string {
	return e.dir + ": no " + SummaryFile + ": not a run directory, or the run was killed before it wrote one"
}

func (noRunError) Unwrap() error { return fs.ErrNotExist }

func readPart[T any](dir, name string, into *T, decode func(io.Reader, string) (T, error)) error {
	path := filepath.Join(dir, name)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	*into, err = decode(f, path)
	return err
}

// DecodeSummary reads a summary.json. An error begins with name.
func DecodeSummary(data []byte, name string) (*Run, error) {
	var version struct{ Schema *int }
	if err := json.Unmarshal(data, &version); err == nil { // what is no JSON at all is reported with its line below
		switch {
		case version.Schema == nil:
			return nil, fmt.Errorf("%s: no field \"schema\": not the summary of a run", name)
		case *version.Schema != SchemaVersion:
			return nil, fmt.Errorf("%s: schema version %d, this program reads version %d", name, *version.Schema, SchemaVersion)
		}
	}
	r := new(Run)
	if err := decodeStrict(data, r); err != nil {
		return nil, fmt.Errorf("%s%w", name, err)
	}
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %s", name, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return r, nil
}

// ReplaceFile writes data to path by way of a temporary file beside it, so that path is never half written.
func ReplaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // already renamed when all went well
	if _, err := f.Write(data); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Chmod(0o644); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

func encodeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// decodeStrict decodes exactly one JSON value and knows every field of it. Its errors begin with ":line: " when the
// place is known and ": " otherwise, to stand behind a file name.
func decodeStrict(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil {
		if _, extra := dec.Token(); extra != io.EOF {
			return placed{lineAt(data, dec.InputOffset()), errors.New("more data after the end of the JSON value")}
		}
		return nil
	}
	if errors.Is(err, io.EOF) {
		return placed{0, errors.New("empty, expected a JSON object")}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return placed{lineAt(data, int64(len(data))), errors.New("the JSON value is cut off")}
	}
	if se, ok := errors.AsType[*json.SyntaxError](err); ok {
		return placed{lineAt(data, se.Offset), err}
	}
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return placed{lineAt(data, te.Offset), fmt.Errorf("field %q: found a JSON %s, expected %s", te.Field, te.Value, te.Type)}
	}
	return placed{lineAt(data, dec.InputOffset()), errors.New(strings.TrimPrefix(err.Error(), "json: "))}
}

// placed is an error on a line of a file whose name its reader puts in front; line 0: not known.
type placed struct {
	line int
	err  error
}

func (p placed) Error() string {
	if p.line == 0 {
		return ": " + p.err.Error()
	}
	return fmt.Sprintf(":%d: %v", p.line, p.err)
}

func (p placed) Unwrap() error { return p.err }

func lineAt(data []byte, offset int64) int {
	return 1 + bytes.Count(data[:min(offset, int64(len(data)))], []byte("\n"))
}

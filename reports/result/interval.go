package result

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Interval is one row of timeseries.csv: one operation at one level from T to T+Width, by time of return (missed
// operations: by intended time). Latencies are response times of oks in the interval; 0 when there was none, or too
// few for that percentile. Op is never empty and Width is more than 0. Rows of one operation and level may differ in
// width and leave gaps, but do not overlap, except that the interval in which one phase ends and the next begins has a
// row for each. A gap inside a phase means that nothing was answered in it; between phases it means nothing.
type Interval struct {
	T       time.Duration
	Width   time.Duration
	Phase   string
	Op      string
	Level   string
	OK      int64
	Fail    int64
	Info    int64
	Missed  int64
	Refused int64 // part of Fail
	P50     time.Duration
	P90     time.Duration
	P99     time.Duration
	Max     time.Duration
	LagP99  time.Duration // send - intended of everything sent
}

func (r *Interval) validate() error {
	switch {
	case r.Op == "":
		return errors.New("op: empty")
	case r.Width <= 0:
		return fmt.Errorf("width_ns: %d, expected more than 0", r.Width)
	}
	return nil
}

// Resource is one row of resources.csv: what one process used, sampled at T. The counters grow from the start of
// the process and begin again after a restart.
type Resource struct {
	T          time.Duration
	Node       string // or "loadgen", "chaos" for the harness itself, or Machine
	CPU        time.Duration
	RSS        int64 // bytes
	Goroutines int64 // 0: not known
	// Turns is how often its threads together were given a processor since the first sample of the process, and Waited how
	// long they had wanted one before. Both are 0 in files from before they were measured.
	Turns  int64
	Waited time.Duration
}

// Machine is the Node of rows that speak of all processors together: CPU is the time in which they worked, for anyone,
// and Waited the time that the host gave to other guests.
const Machine = "machine"

func (r *Resource) validate() error {
	if r.Node == "" {
		return errors.New("node: empty")
	}
	return nil
}

// column is one column of a CSV file of rows R: a name and a pointer to the field it stands for.
type column[R any] struct {
	name  string
	field func(*R) any // *int64, *time.Duration or *string
}

var intervalColumns = []column[Interval]{
	{"t_ns", func(r *Interval) any { return &r.T }},
	{"width_ns", func(r *Interval) any { return &r.Width }},
	{"phase", func(r *Interval) any { return &r.Phase }},
	{"op", func(r *Interval) any { return &r.Op }},
	{"level", func(r *Interval) any { return &r.Level }},
	{"ok", func(r *Interval) any { return &r.OK }},
	{"fail", func(r *Interval) any { return &r.Fail }},
	{"info", func(r *Interval) any { return &r.Info }},
	{"missed", func(r *Interval) any { return &r.Missed }},
	{"refused", func(r *Interval) any { return &r.Refused }},
	{"p50_ns", func(r *Interval) any { return &r.P50 }},
	{"p90_ns", func(r *Interval) any { return &r.P90 }},
	{"p99_ns", func(r *Interval) any { return &r.P99 }},
	{"max_ns", func(r *Interval) any { return &r.Max }},
	{"lag_p99_ns", func(r *Interval) any { return &r.LagP99 }},
}

var resourceColumns = []column[Resource]{
	{"t_ns", func(r *Resource) any { return &r.T }},
	{"node", func(r *Resource) any { return &r.Node }},
	{"cpu_ns", func(r *Resource) any { return &r.CPU }},
	{"rss_bytes", func(r *Resource) any { return &r.RSS }},
	{"goroutines", func(r *Resource) any { return &r.Goroutines }},
	{"turns", func(r *Resource) any { return &r.Turns }},
	{"waited_ns", func(r *Resource) any { return &r.Waited }},
}

// lateColumns is how many columns at the end of resources.csv older files do not have.
const lateColumns = 2

// EncodeIntervals writes the header and one line a row.
func EncodeIntervals(w io.Writer, rows []Interval) error { return encodeCSV(w, intervalColumns, rows) }

// DecodeIntervals reads what EncodeIntervals wrote. An error begins with name, the line and the column.
func DecodeIntervals(r io.Reader, name string) ([]Interval, error) {
	return decodeCSV(r, name, intervalColumns, 0, (*Interval).validate)
}

// EncodeResources writes the header and one line a row.
func EncodeResources(w io.Writer, rows []Resource) error { return encodeCSV(w, resourceColumns, rows) }

// DecodeResources reads what EncodeResources wrote. An error begins with name, the line and the column.
func DecodeResources(r io.Reader, name string) ([]Resource, error) {
	return decodeCSV(r, name, resourceColumns, lateColumns, (*Resource).validate)
}

func encodeCSV[R any](w io.Writer, columns []column[R], rows []R) error {
	cw := csv.NewWriter(w)
	if err := cw.Write(header(columns)); err != nil {
		return err
	}
	record := make([]string, len(columns))
	for i := range rows {
		for j, c := range columns {
			switch p := c.field(&rows[i]).(type) {
			case *int64:
				record[j] = strconv.FormatInt(*p, 10)
			case *time.Duration:
				record[j] = strconv.FormatInt(int64(*p), 10)
			case *string:
				record[j] = *p
			}
		}
		if err := cw.Write(record); err != nil {
			return err
		}
	}
	cw.Flush()
	return cw.Error()
}

// decodeCSV reads rows of which the last columns, so many as late says, may be missing in the whole file.
func decodeCSV[R any](r io.Reader, name string, columns []column[R], late int, validate func(*R) error) ([]R, error) {
	cr := csv.NewReader(r)
	cr.ReuseRecord = true
	want := header(columns)
	first, err := cr.Read()
	if n := len(first); n < len(columns) && n >= len(columns)-late && slices.Equal(first, want[:n]) {
		columns, want = columns[:n], want[:n]
	}
	switch {
	case err == io.EOF:
		return nil, fmt.Errorf("%s:1: empty, expected the header %s", name, strings.Join(want, ","))
	case err != nil && !errors.Is(err, csv.ErrFieldCount):
		return nil, fmt.Errorf("%s: %w", name, err)
	case !slices.Equal(first, want):
		return nil, fmt.Errorf("%s:1: header %q, expected %q", name, strings.Join(first, ","), strings.Join(want, ","))
	}
	var rows []R
	for {
		record, err := cr.Read()
		if err == io.EOF {
			return rows, nil
		}
		if err != nil {
			if pe, ok := errors.AsType[*csv.ParseError](err); ok && errors.Is(err, csv.ErrFieldCount) {
				return nil, fmt.Errorf("%s:%d: %d fields, expected %d", name, pe.Line, len(record), len(columns))
			}
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		var row R
		for j, c := range columns {
			switch p := c.field(&row).(type) {
			case *string:
				*p = record[j]
			case *int64:
				*p, err = parseCount(record[j])
			case *time.Duration:
				var n int64
				n, err = parseCount(record[j])
				*p = time.Duration(n)
			}
			if err != nil {
				line, _ := cr.FieldPos(j)
				return nil, fmt.Errorf("%s:%d: %s: %w", name, line, c.name, err)
			}
		}
		if err := validate(&row); err != nil {
			line, _ := cr.FieldPos(0)
			return nil, fmt.Errorf("%s:%d: %w", name, line, err)
		}
		rows = append(rows, row)
	}
}

func header[R any](columns []column[R]) []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	return names
}

// parseCount parses an integer that is not negative.
func parseCount(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q, expected a whole number of at least 0", s)
	}
	return n, nil
}

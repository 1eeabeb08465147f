package compare

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

// Trend is a table that grows by a row with each set of runs: a line of the form that Apache Otava looks for changes in. The
// first columns are time, commit, runs and machine; the others are metrics.
type Trend struct {
	Columns []string
	Rows    [][]string
}

var trendHead = []string{"time", "commit", "runs", "machine"}

// ReadTrend reads what WriteTo wrote. Errors begin with name and the line.
func ReadTrend(r io.Reader, name string) (*Trend, error) {
	cr := csv.NewReader(r)
	records, err := cr.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(records) == 0 || len(records[0]) < len(trendHead) || !slices.Equal(records[0][:len(trendHead)], trendHead) {
		return nil, fmt.Errorf("%s:1: expected a header that begins with %s", name, strings.Join(trendHead, ","))
	}
	return &Trend{records[0], records[1:]}, nil
}

// Append adds the medians of a side. A table is of one machine, since the numbers of two in one column would show a change where
// there is none: a side of another one is an error. A metric that is new gets a column, empty in the rows before. A side that is in the table
// already, by the time of its first run and its commit, is an error: it would count twice.
func (t *Trend) Append(s *Side) error {
	if len(t.Columns) == 0 {
		t.Columns = slices.Clone(trendHead)
	}
	first := s.Rounds[0].Runs[0]
	if first.Started.IsZero() {
		return errors.New("the first run does not say when it started")
	}
	machine := strings.Join(processors(s), "; ")
	row := []string{first.Started.UTC().Format(time.RFC3339), "unknown", strconv.Itoa(len(s.Rounds)), machine}
	if n := len(t.Rows); n > 0 && t.Rows[n-1][3] != machine {
		return fmt.Errorf("measured on another machine than the table: %q, the table has %q; expected a table for each machine", machine, t.Rows[n-1][3])
	}
	if e := first.Environment; e != nil && e.Commit != "" {
		row[1] = e.ShortCommit()
	}
	if slices.ContainsFunc(t.Rows, func(r []string) bool { return r[0] == row[0] && r[1] == row[1] }) {
		return fmt.Errorf("the runs of %s from %s on are in the table already", row[1], row[0])
	}
	for _, m := range metrics(s) {
		values, _ := s.values(m.Name, false)
		var list []float64
		for _, v := range values {
			list = append(list, v)
		}
		if len(list) == 0 {
			continue
		}
		at := slices.Index(t.Columns, column(m))
		if at < 0 {
			at = len(t.Columns)
			t.Columns = append(t.Columns, column(m))
		}
		for len(row) <= at {
			row = append(row, "")
		}
		row[at] = strconv.FormatFloat(Median(list), 'g', 8, 64)
	}
	t.Rows = append(t.Rows, row)
	for i := range t.Rows {
		for len(t.Rows[i]) < len(t.Columns) {
			t.Rows[i] = append(t.Rows[i], "")
		}
	}
	return nil
}

// column is the name of a metric in a table: no spaces, and its unit at the end.
func column(m Metric) string {
	name := strings.NewReplacer(" ", "_", ",", "", ".", "_").Replace(m.Name)
	switch m.Unit {
	case Duration:
		return name + "_ns"
	case PerCPU:
		return name
	}
	return name + "_per_s"
}

// WriteCSV writes the table.
func (t *Trend) WriteCSV(w io.Writer) error {
	cw := csv.NewWriter(w)
	if err := cw.Write(t.Columns); err != nil {
		return err
	}
	return cw.WriteAll(t.Rows)
}

// WriteOtava writes the configuration with which Otava reads the table in file: "otava analyze hacache".
func (t *Trend) WriteOtava(w io.Writer, file string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "tests:\n  hacache:\n    type: csv\n    file: %s\n    time_column: time\n    attributes: [commit, runs, machine]\n    csv_options:\n      delimiter: \",\"\n      quotechar: '\"'\n    metrics:\n", strconv.Quote(file))
	for _, c := range t.Columns[len(trendHead):] {
		direction := 1 // more is better
		if strings.HasSuffix(c, "_ns") {
			direction = -1
		}
		fmt.Fprintf(&b, "      %s:\n        column: %s\n        direction: %d\n", c, c, direction)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

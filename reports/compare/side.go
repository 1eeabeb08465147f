package compare

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"

	"github.com/hacache/hacache/reports/result"
)

// AllocsFile is the output of Go benchmarks with -benchmem beside the rounds of a side.
const AllocsFile = "allocs.txt"

// Side is the runs of one program.
type Side struct {
	Name   string // how a page calls it
	Rounds []Round
	// Allocs is the allocations per operation of each benchmark in AllocsFile, the fewest of its repetitions: they are a
	// property of the code, and what comes on top is the runtime's.
	Allocs map[string]float64
}

// Round is the runs that were made of one program at about the same time.
type Round struct {
	Name string
	Runs []*result.Run
	Dirs []string // of Runs
}

// deepest is how far below a side a run directory may be: side/round/run.
const deepest = 2

// ReadSide reads the runs in and below dir. A run directory is a side of one round; else each directory in dir that has
// runs in it is a round, named for the directory, and the rounds are in the order of their names.
func ReadSide(dir string) (*Side, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s: not a directory; expected a run directory, or one with run directories in it", dir)
	}
	s := &Side{Name: filepath.Base(filepath.Clean(dir))}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		r, err := result.Read(path)
		switch {
		case err == nil:
			s.add(rel, path, r)
			return fs.SkipDir // what is below are its repetitions
		case !errors.Is(err, fs.ErrNotExist):
			return err
		case rel != "." && strings.Count(rel, string(filepath.Separator))+1 >= deepest:
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(s.Rounds) == 0 {
		return nil, fmt.Errorf("%s: no run in it; expected a directory with %s, or one with such directories in it", dir, result.SummaryFile)
	}
	s.Allocs, err = readAllocs(filepath.Join(dir, AllocsFile))
	return s, err
}

// add puts a run into the round that the first part of its path names.
func (s *Side) add(rel, path string, r *result.Run) {
	round, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
	if n := len(s.Rounds); n == 0 || s.Rounds[n-1].Name != round { // WalkDir goes by name
		s.Rounds = append(s.Rounds, Round{Name: round})
	}
	last := &s.Rounds[len(s.Rounds)-1]
	last.Runs, last.Dirs = append(last.Runs, r), append(last.Dirs, path)
}

// readAllocs reads the allocations per operation; nil if there is no such file.
func readAllocs(path string) (map[string]float64, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	allocs := map[string]float64{}
	reader := benchfmt.NewReader(f, path)
	for reader.Scan() {
		switch rec := reader.Result().(type) {
		case *benchfmt.SyntaxError:
			return nil, rec
		case *benchfmt.Result:
			if v, ok := rec.Value("allocs/op"); ok {
				name := string(rec.Name.Full())
				if pkg := rec.GetConfig("pkg"); pkg != "" {
					name = pkg[strings.LastIndexByte(pkg, '/')+1:] + " " + name
				}
				if have, again := allocs[name]; !again || v < have {
					allocs[name] = v
				}
			}
		}
	}
	return allocs, reader.Err()
}

// measurements is the metrics of all runs of a round.
func (r *Round) measurements() []Measurement {
	var ms []Measurement
	for _, run := range r.Runs {
		ms = append(ms, Measure(run)...)
	}
	return ms
}

// metrics is every metric that some round of the sides has, in the order in which they first come.
func metrics(sides ...*Side) []Metric {
	var all []Metric
	for _, s := range sides {
		for i := range s.Rounds {
			for _, m := range s.Rounds[i].measurements() {
				at := slices.IndexFunc(all, func(x Metric) bool { return x.Name == m.Name })
				switch {
				case at < 0:
					all = append(all, m.Metric)
				case m.Limit == 0:
					all[at].Limit = 0 // too few samples in some round are too few
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Metric) int { return cmp.Compare(judgedFirst(a), judgedFirst(b)) })
	return all
}

func judgedFirst(m Metric) int {
	if m.Limit > 0 {
		return 0
	}
	return 1
}

// values is the metric's value in each round that has it. Limited ones are among them only if they are wanted.
func (s *Side) values(name string, wanted bool) (values map[string]float64, limited map[string]bool) {
	values, limited = map[string]float64{}, map[string]bool{}
	for i := range s.Rounds {
		r := &s.Rounds[i]
		for _, m := range r.measurements() {
			if m.Name != name {
				continue
			}
			if m.Limited && !wanted {
				limited[r.Name] = true
				continue
			}
			values[r.Name] = m.Value
		}
	}
	return values, limited
}

package load

import (
	"bufio"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Replay intends operations at times that were noted somewhere, and ends with
// the last one.
type Replay struct {
	// Name is the file's name.
	Name string
	// At is the times since the start, never decreasing, at least one.
	At []time.Duration
}

// maxReplay bounds the times of a file: 16 million take 128 MiB.
const maxReplay = 1 << 24

func (r Replay) String() string { return "replay(" + r.Name + ")" }

// Span ends just after the last time, so that it belongs to the plan.
func (r Replay) Span() time.Duration { return r.At[len(r.At)-1] + 1 }

func (r Replay) Rate() float64 { return float64(len(r.At)) / r.Span().Seconds() }

func (r Replay) Times(uint64) iter.Seq[time.Duration] { return slices.Values(r.At) }

func openReplay(name string) (Schedule, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := ReadReplay(f, name)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// ReadReplay reads one time a line, in order: seconds since the start, such as
// 0.0125, or with a unit, such as 12.5ms. Empty lines and what follows a # are
// comments. An error begins with name and the line.
func ReadReplay(in io.Reader, name string) (Replay, error) {
	r := Replay{Name: name}
	lines := bufio.NewScanner(in)
	n := 0
	for lines.Scan() {
		n++
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		at, err := time.ParseDuration(text)
		if seconds, plain := strconv.ParseFloat(text, 64); plain == nil {
			at, err = time.Duration(seconds*float64(time.Second)), nil
		}
		last := time.Duration(0)
		if len(r.At) > 0 {
			last = r.At[len(r.At)-1]
		}
		switch {
		case err != nil:
			return r, fmt.Errorf("%s:%d: %q: want a time since the start, such as 0.0125 or 12.5ms", name, n, text)
		case at < last:
			return r, fmt.Errorf("%s:%d: %s comes after %s: want times in order, of 0 or more", name, n, at, last)
		case len(r.At) == maxReplay:
			return r, fmt.Errorf("%s:%d: want at most %d times", name, n, maxReplay)
		}
		r.At = append(r.At, at)
	}
	if err := lines.Err(); err != nil {
		return r, fmt.Errorf("%s:%d: %w", name, n+1, err)
	}
	if len(r.At) == 0 {
		return r, fmt.Errorf("%s: no time in it; want one a line", name)
	}
	return r, nil
}

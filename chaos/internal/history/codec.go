package history

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
	"unicode/utf8"
)

// line is the wire form of an operation, or of the last line of a file.
type line struct {
	Proc     int64         `json:"proc,omitempty"`
	Kind     string        `json:"kind"`
	Cache    string        `json:"cache,omitempty"`
	Key      string        `json:"key,omitempty"`
	Version  int64         `json:"version,omitempty"`
	Found    bool          `json:"found,omitempty"`
	Session  uint64        `json:"session,omitempty"`
	Seq      uint64        `json:"seq,omitempty"`
	Level    string        `json:"level,omitempty"`
	Mode     string        `json:"mode,omitempty"`
	Node     string        `json:"node,omitempty"`
	Stream   int64         `json:"stream,omitempty"`
	Phase    Phase         `json:"phase,omitempty"`
	Outcome  Outcome       `json:"outcome,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Intended time.Duration `json:"t_intended,omitempty"`
	Send     time.Duration `json:"t_send,omitempty"`
	Return   time.Duration `json:"t_return,omitempty"`
	Cluster  uint64        `json:"cluster,omitempty"`
	Term     uint64        `json:"term,omitempty"`
	Index    uint64        `json:"index,omitempty"`

	Ops  int64 `json:"ops,omitempty"`  // kind end: how many lines came before
	Lost int64 `json:"lost,omitempty"` // kind end: how many could not be recorded
}

const endKind = "end"

// appendOp appends o as one line of JSON. It is written by hand because the
// recorder shares its processors with the cluster under test.
func appendOp(b []byte, o *Op) []byte {
	b = append(b, `{"proc":`...)
	b = strconv.AppendInt(b, o.Proc, 10)
	text := func(name, v string) {
		if v != "" {
			b = append(b, ',', '"')
			b = append(b, name...)
			b = append(b, '"', ':')
			b = appendString(b, v)
		}
	}
	number := func(name string, v int64) {
		if v != 0 {
			b = append(b, ',', '"')
			b = append(b, name...)
			b = append(b, '"', ':')
			b = strconv.AppendInt(b, v, 10)
		}
	}
	text("kind", o.Kind)
	text("cache", o.Cache)
	text("key", o.Key)
	number("version", o.Version)
	if o.Found {
		b = append(b, `,"found":true`...)
	}
	text("level", o.Level)
	text("mode", o.Mode)
	text("node", o.Node)
	number("stream", o.Stream)
	text("phase", string(o.Phase))
	text("outcome", string(o.Outcome))
	text("reason", o.Reason)
	number("t_intended", int64(o.Intended))
	number("t_send", int64(o.Send))
	number("t_return", int64(o.Return))
	for _, u := range []struct {
		name string
		v    uint64
	}{{`,"session":`, o.Session}, {`,"seq":`, o.Seq}, {`,"cluster":`, o.Cluster}, {`,"term":`, o.Term}, {`,"index":`, o.Index}} {
		if u.v != 0 {
			b = append(b, u.name...)
			b = strconv.AppendUint(b, u.v, 10)
		}
	}
	return append(b, '}', '\n')
}

// appendString appends v as a JSON string. Keys and reasons are plain ASCII
// nearly always; the rest goes the long way.
func appendString(b []byte, v string) []byte {
	for i := range len(v) {
		if c := v[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, err := json.Marshal(v)
			if err != nil {
				panic("history: a string that is no JSON: " + err.Error())
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, v...)
	return append(b, '"')
}

// maxLine bounds a line that Read accepts: a key of 1 KiB, every byte of it
// escaped, and room for the rest.
const maxLine = 64 << 10

// ReadFile reads a compressed history. A file that ends in the middle, because
// its writer was killed, is read as far as it goes; Whole is then false.
func ReadFile(path string) (*History, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	zr, err := gzip.NewReader(bufio.NewReaderSize(f, 1<<16))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	h, err := Read(zr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return h, nil
}

// Read reads a history that is not compressed. See [ReadFile].
func Read(r io.Reader) (*History, error) {
	h := new(History)
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), maxLine)
	names := interner{}
	for n := 1; sc.Scan(); n++ {
		if h.Whole {
			return nil, fmt.Errorf("line %d: more after the last line", n)
		}
		if n == 1 {
			if err := strict(sc.Bytes(), &h.Header); err != nil {
				return nil, fmt.Errorf("line 1: not the header of a history: %w", err)
			}
			if h.Header.Version != Version {
				return nil, fmt.Errorf("line 1: format version %d, this program reads version %d", h.Header.Version, Version)
			}
			continue
		}
		var l line
		if err := strict(sc.Bytes(), &l); err != nil {
			if atEnd(sc) {
				return h, nil // cut off in the middle of a line
			}
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if l.Kind == endKind {
			if l.Ops != int64(len(h.Ops)) {
				return nil, fmt.Errorf("line %d: %d operations recorded, %d are in the file", n, l.Ops, len(h.Ops))
			}
			h.Lost, h.Whole = l.Lost, true
			continue
		}
		op := Op{
			Proc: l.Proc, Kind: names.same(l.Kind), Cache: names.same(l.Cache), Key: l.Key, Version: l.Version, Found: l.Found, Session: l.Session, Seq: l.Seq,
			Level: names.same(l.Level), Mode: names.same(l.Mode), Node: names.same(l.Node), Stream: l.Stream,
			Phase: Phase(names.same(string(l.Phase))), Outcome: Outcome(names.same(string(l.Outcome))), Reason: names.same(l.Reason),
			Intended: l.Intended, Send: l.Send, Return: l.Return, Cluster: l.Cluster, Term: l.Term, Index: l.Index,
		}
		if err := op.Validate(); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		h.Ops = append(h.Ops, op)
	}
	err := sc.Err()
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader):
		h.Whole, err = false, nil // the end of a file whose writer was killed
	case err == nil && h.Header.Version == 0:
		err = errors.New("empty: without even a header")
	}
	return h, err
}

// atEnd reports whether nothing follows the current line.
func atEnd(sc *bufio.Scanner) bool { return !sc.Scan() }

func strict(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if dec.InputOffset() != int64(len(bytes.TrimRight(data, " \t\r"))) {
		return errors.New("more than one value")
	}
	return nil
}

// interner keeps one copy of each of the few strings that every line repeats.
type interner map[string]string

func (in interner) same(s string) string {
	if v, ok := in[s]; ok {
		return v
	}
	if len(in) < 1<<14 { // reasons could be many
		in[s] = s
	}
	return s
}

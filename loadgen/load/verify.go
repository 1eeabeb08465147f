package load

import (
	"bytes"
	"fmt"
	"slices"
	"sync"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/reports/result"
)

// Only is a Source that has some of the operations of another one: operation k
// is its operation Indices[k].
type Only struct {
	Source
	Indices []uint64
}

// Op implements [Source].
func (o Only) Op(i uint64, op *client.Op, scratch []byte) []byte {
	return o.Source.Op(o.Indices[i%uint64(len(o.Indices))], op, scratch)
}

// Reads is a Source that reads what the operations of another one write.
type Reads struct{ Source }

// Op implements [Source].
func (r Reads) Op(i uint64, op *client.Op, scratch []byte) []byte {
	scratch = r.Source.Op(i, op, scratch)
	*op = client.Op{Kind: client.KindGet, Cache: op.Cache, Key: op.Key, Deadline: op.Deadline}
	return scratch
}

// Undone is an [Observer] that notes which operations of a source were not
// answered with ok. It is safe for concurrent use.
type Undone struct {
	mu      sync.Mutex
	indices []uint64
	why     error
}

// Invoke implements [Observer].
func (*Undone) Invoke(*Operation) {}

// Return implements [Observer].
func (u *Undone) Return(o *Operation, out *client.Outcome) {
	if out.Status == client.StatusOK {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.indices = append(u.indices, o.Index)
	u.why = out.Err
}

// Take returns the indices noted since the last time, in order, and the reason
// of one of them.
func (u *Undone) Take() ([]uint64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	indices := u.indices
	u.indices = nil
	slices.Sort(indices)
	return indices, u.why
}

// Verifier is an [Observer] of reads: it holds what a key has against what can
// have been written there. Since operation i is a function of the seed and i,
// the writer and the number in a checked value say what the whole value is, and
// which key it belongs to. It is safe for concurrent use.
type Verifier struct {
	// Writers are the sources of everybody who wrote, by the name in their values.
	Writers map[string]Source
	// MayMiss says that keys may be missing: some were removed, or never written.
	MayMiss bool

	mu       sync.Mutex
	scratch  []byte
	read     int64
	missing  int64
	damaged  int64
	foreign  int64
	examples []result.Loss
}

// maxExamples bounds the keys that are listed.
const maxExamples = 200

// Invoke implements [Observer].
func (*Verifier) Invoke(*Operation) {}

// Return implements [Observer].
func (v *Verifier) Return(o *Operation, out *client.Outcome) {
	if out.Status != client.StatusOK {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.read++
	note := func(count *int64, kind result.LossKind, found string) {
		*count++
		if len(v.examples) < maxExamples {
			v.examples = append(v.examples, result.Loss{Kind: kind, Cache: o.Op.Cache, Key: o.Op.Key, Node: out.Node, Found: found})
		}
	}
	if !out.Found {
		if !v.MayMiss {
			note(&v.missing, result.Lost, "nothing")
		}
		return
	}
	writer, seq, err := ParseCheckedValue(out.Value)
	if err != nil {
		note(&v.damaged, result.Corrupt, err.Error())
		return
	}
	source := v.Writers[writer]
	if source == nil {
		note(&v.foreign, result.Corrupt, fmt.Sprintf("written by %q, who is not known", writer))
		return
	}
	var want client.Op
	v.scratch = source.Op(seq, &want, v.scratch)
	if want.Key != o.Op.Key || want.Cache != o.Op.Cache || !writesValue(want.Kind) || !bytes.Equal(want.Value, out.Value) {
		note(&v.foreign, result.Corrupt, fmt.Sprintf("operation %d of %q, which wrote %s/%s", seq, writer, want.Cache, want.Key))
	}
}

// Checks is what was found.
func (v *Verifier) Checks() ([]result.Check, []result.Loss) {
	v.mu.Lock()
	defer v.mu.Unlock()
	check := func(name string, count int64) result.Check {
		c := result.Check{Name: name, Verdict: result.Pass, Count: count, Checked: v.read}
		switch {
		case v.read == 0:
			c.Verdict, c.Detail = result.Unknown, "nothing was read"
		case count > 0:
			c.Verdict, c.Detail = result.Violated, fmt.Sprintf("%d of %d", count, v.read)
		}
		return c
	}
	there := check("every key is there", v.missing)
	if v.MayMiss {
		there.Verdict, there.Detail = result.NotExercised, "the load removes keys, or may not have written all"
	}
	return []result.Check{there, check("every value is whole", v.damaged), check("every value is one that was written there", v.foreign)}, slices.Clone(v.examples)
}

package load

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/proto/cachepb"
)

// Source says what the i-th operation of a run is. It must be a function of i
// alone, and is called from several goroutines at once.
type Source interface {
	// Op fills in op. Memory that it needs for the value it may take from
	// scratch, growing it; it returns scratch for the next call. op and what it
	// refers to are used until the operation is started.
	Op(i uint64, op *client.Op, scratch []byte) []byte
}

// Weight is one choice and how often it is taken, relative to the others.
type Weight[T any] struct {
	Of     T
	Weight float64
}

// Workload describes the operations of a run. [Workload.Source] makes it a Source.
type Workload struct {
	// Seed: the same seed, the same operations.
	Seed uint64
	// Cache is the cache's name; empty is "bench".
	Cache string
	// Mix is the kinds of operation; empty is 90 % Get, 10 % Insert.
	Mix []Weight[client.Kind]
	// Acks is the levels of Insert and Remove; empty is quorum.
	Acks []Weight[client.Level]
	// ReadMode is how Gets are answered.
	ReadMode cachepb.ReadTag_Mode

	// Keys is the size of the key space; 0 is 100 000.
	Keys uint64
	// KeyPrefix precedes the number of the key; empty is "key-".
	KeyPrefix string
	// Dist is which keys are taken how often.
	Dist KeyDist

	// Sizes of values.
	Sizes Sizes
	// Compressible values are one word over and over. Otherwise a value does not
	// compress; values of one run are cut from 64 KiB of noise, so that a large
	// enough dictionary could make something of them.
	Compressible bool
	// Checked values say who wrote them, as [CheckedValue] does; Client is that
	// who.
	Checked bool
	Client  string

	// TTL of what is written; 0 is the cache's own.
	TTL time.Duration
	// Timeout is the deadline of each operation; 0 is the target's own.
	Timeout time.Duration
}

// Source checks the description and makes it ready to use. All mistakes are
// reported, joined.
func (w Workload) Source() (Source, error) {
	var errs []error
	if w.Cache == "" {
		w.Cache = "bench"
	}
	if len(w.Mix) == 0 {
		w.Mix = []Weight[client.Kind]{{client.KindGet, 90}, {client.KindInsert, 10}}
	}
	if len(w.Acks) == 0 {
		w.Acks = []Weight[client.Level]{{client.LevelQuorum, 1}}
	}
	if w.Keys == 0 {
		w.Keys = 100_000
	}
	if w.Keys > 1<<52 {
		errs = append(errs, fmt.Errorf("%d keys: want at most 2^52", w.Keys))
	}
	if w.KeyPrefix == "" {
		w.KeyPrefix = "key-"
	}
	s := &source{w: w, rng: newRandom(w.Seed, operationStream)}
	var err error
	if s.sizes, err = newSizes(w.Sizes); err != nil {
		errs = append(errs, err)
	}
	if s.kinds, err = newChoice(w.Mix); err != nil {
		errs = append(errs, fmt.Errorf("mix: %w", err))
	}
	if s.levels, err = newChoice(w.Acks); err != nil {
		errs = append(errs, fmt.Errorf("ack levels: %w", err))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	s.keys = newKeys(w.Dist, w.Keys, s.kinds.share(writesValue))
	s.names = newKeyNames(w.KeyPrefix, w.Keys)
	s.noise = make([]byte, s.sizes.max()+noiseSlack)
	rng := newRandom(w.Seed, valueStream)
	for i := 0; i < len(s.noise); i += 8 {
		word := [8]byte([]byte("cachable"))
		if !w.Compressible {
			binary.LittleEndian.PutUint64(word[:], rng.uint64())
		}
		copy(s.noise[i:], word[:])
	}
	return s, nil
}

// noiseSlack is how far the beginnings of values lie apart in the noise they are
// cut from. More would not stay in a core's cache: the generator would wait for
// memory, and push out what the target has there.
const noiseSlack = 64 << 10

type source struct {
	w      Workload
	rng    random
	kinds  choice[client.Kind]
	levels choice[client.Level]
	keys   keys
	sizes  sizes
	names  keyNames
	noise  []byte
}

func (s *source) Op(i uint64, op *client.Op, scratch []byte) []byte {
	rng := s.rng.at(i)
	*op = client.Op{Kind: s.kinds.pick(&rng), Cache: s.w.Cache, Deadline: s.w.Timeout}

	key := s.keys.of(i, writesValue(op.Kind), &rng)
	op.Key = s.names.of(key)

	switch op.Kind {
	case client.KindGet:
		op.ReadMode = s.w.ReadMode
	case client.KindInsert, client.KindRemove:
		op.Level = s.levels.pick(&rng)
	}
	if !writesValue(op.Kind) {
		return scratch
	}
	op.TTL = s.w.TTL
	size := s.sizes.of(&rng)
	from := int(rng.below(noiseSlack))
	noise := s.noise[from : from+size]
	if !s.w.Checked {
		op.Value = noise
		return scratch
	}
	scratch = CheckedValue(scratch[:0], s.w.Client, i, noise)
	op.Value = scratch
	return scratch
}

// writesValue reports whether operations of a kind carry a value.
func writesValue(k client.Kind) bool { return k == client.KindPut || k == client.KindInsert }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CheckedValue appends a value that tells who wrote it and whether it is whole:
// "client:seq:crc:" and then filler, where crc covers everything but itself.
// filler gives the size: as much of its front as the head needs is replaced,
// and a value shorter than its head is as long as its head.
func CheckedValue(dst []byte, writer string, seq uint64, filler []byte) []byte {
	start := len(dst)
	dst = append(append(dst, writer...), ':')
	dst = append(strconv.AppendUint(dst, seq, 10), ':')
	at := len(dst)
	dst = append(dst, "00000000:"...)
	if head := len(dst) - start; head < len(filler) {
		dst = append(dst, filler[head:]...)
	}
	crc := crc32.Update(crc32.Checksum(dst[start:at], castagnoli), castagnoli, dst[at+8:])
	hex.Encode(dst[at:at+8], []byte{byte(crc >> 24), byte(crc >> 16), byte(crc >> 8), byte(crc)})
	return dst
}

// ParseCheckedValue reads what CheckedValue wrote. An error means that the
// value is damaged, or was written by something else.
func ParseCheckedValue(b []byte) (writer string, seq uint64, err error) {
	s := string(b)
	writer, rest, ok1 := strings.Cut(s, ":")
	number, rest, ok2 := strings.Cut(rest, ":")
	if !ok1 || !ok2 || len(rest) < 9 || rest[8] != ':' {
		return "", 0, errors.New("not a checked value")
	}
	seq, err = strconv.ParseUint(number, 10, 64)
	if err != nil {
		return "", 0, errors.New("not a checked value")
	}
	want, err := strconv.ParseUint(rest[:8], 16, 32)
	if err != nil {
		return "", 0, errors.New("not a checked value")
	}
	at := len(writer) + len(number) + 2
	got := crc32.Update(crc32.Checksum(b[:at], castagnoli), castagnoli, b[at+8:])
	if got != uint32(want) {
		return writer, seq, fmt.Errorf("checksum %08x, the value says %08x", got, want)
	}
	return writer, seq, nil
}

// choice picks among weighted alternatives.
type choice[T any] struct {
	of  []T
	cum []float64 // growing, the last one is 1
}

func newChoice[T any](weights []Weight[T]) (choice[T], error) {
	var c choice[T]
	sum := 0.0
	for _, w := range weights {
		if w.Weight < 0 || math.IsNaN(w.Weight) || math.IsInf(w.Weight, 0) {
			return c, fmt.Errorf("weight %g of %v: want 0 or more", w.Weight, w.Of)
		}
		if w.Weight == 0 {
			continue
		}
		sum += w.Weight
		c.of = append(c.of, w.Of)
		c.cum = append(c.cum, sum)
	}
	if sum == 0 {
		return c, errors.New("all weights are 0: want one above 0")
	}
	if math.IsInf(sum, 0) {
		return c, errors.New("the weights have no sum: want smaller ones")
	}
	for i := range c.cum {
		c.cum[i] /= sum
	}
	c.cum[len(c.cum)-1] = 1
	return c, nil
}

func (c *choice[T]) pick(rng *random) T {
	if len(c.of) == 1 {
		return c.of[0]
	}
	u := rng.float()
	for i, cum := range c.cum {
		if u < cum {
			return c.of[i]
		}
	}
	return c.of[len(c.of)-1]
}

// share is how often one of the alternatives that pass is picked, 0 to 1.
func (c *choice[T]) share(pass func(T) bool) float64 {
	sum, last := 0.0, 0.0
	for i, of := range c.of {
		if pass(of) {
			sum += c.cum[i] - last
		}
		last = c.cum[i]
	}
	return sum
}

// ParseMix reads "get=90,insert=10", or one kind alone.
func ParseMix(s string) ([]Weight[client.Kind], error) { return parseWeights(s, client.ParseKind) }

// ParseAcks reads "quorum=70,once=10,leader=20", or one level alone.
func ParseAcks(s string) ([]Weight[client.Level], error) { return parseWeights(s, client.ParseLevel) }

func parseWeights[T any](s string, parse func(string) (T, error)) ([]Weight[T], error) {
	var all []Weight[T]
	for part := range strings.SplitSeq(s, ",") {
		name, number, given := strings.Cut(strings.TrimSpace(part), "=")
		of, err := parse(strings.TrimSpace(name))
		if err != nil {
			return nil, err
		}
		weight := 1.0
		if given {
			weight, err = strconv.ParseFloat(strings.TrimSpace(number), 64)
			if err != nil || weight < 0 || math.IsInf(weight, 0) || math.IsNaN(weight) {
				return nil, fmt.Errorf("weight %q of %s: want a number of 0 or more", number, name)
			}
		}
		all = append(all, Weight[T]{of, weight})
	}
	if _, err := newChoice(all); err != nil {
		return nil, err
	}
	return all, nil
}

// FormatWeights writes what ParseMix and ParseAcks read.
func FormatWeights[T any](weights []Weight[T]) string {
	var parts []string
	for _, w := range weights {
		parts = append(parts, fmt.Sprintf("%v=%g", w.Of, w.Weight))
	}
	return strings.Join(parts, ",")
}

// ParseCount reads a whole number with an optional k, m or g (thousands).
func ParseCount(s string) (uint64, error) {
	digits, factor := s, uint64(1)
	if s != "" {
		switch s[len(s)-1] {
		case 'k', 'K':
			digits, factor = s[:len(s)-1], 1e3
		case 'm', 'M':
			digits, factor = s[:len(s)-1], 1e6
		case 'g', 'G':
			digits, factor = s[:len(s)-1], 1e9
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxUint64/factor {
		return 0, fmt.Errorf("%q: want a whole number, such as 5000 or 100k", s)
	}
	return n * factor, nil
}

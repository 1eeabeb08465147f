package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

// workloadFile is in the directory of each load, and says what its operations
// are, so that they can be made again.
const workloadFile = "workload.json"

// workloadDoc is a load.Workload in words that the flags know too.
type workloadDoc struct {
	Name         string `json:"name"` // in checked values
	Seed         uint64 `json:"seed"`
	Mix          string `json:"mix"`
	Ack          string `json:"ack"`
	Cache        string `json:"cache"`
	Keys         uint64 `json:"keys"`
	KeyDist      string `json:"key-dist"`
	ValueSize    string `json:"value-size"`
	Compressible bool   `json:"compressible"`
	Checked      bool   `json:"checked"`
}

// writeWorkload notes what the operations of a run are.
func writeWorkload(dir string, w *load.Workload) error {
	b, err := json.MarshalIndent(workloadDoc{
		Name: w.Client, Seed: w.Seed, Mix: load.FormatWeights(w.Mix), Ack: load.FormatWeights(w.Acks), Cache: w.Cache, Keys: w.Keys,
		KeyDist: w.Dist.String(), ValueSize: w.Sizes.String(), Compressible: w.Compressible, Checked: w.Checked,
	}, "", "  ")
	if err != nil {
		return err
	}
	return result.ReplaceFile(filepath.Join(dir, workloadFile), append(b, '\n'))
}

// readWorkload is the workload of the run in dir, whose values must be checked
// ones.
func readWorkload(dir string) (load.Workload, error) {
	path := filepath.Join(dir, workloadFile)
	var w load.Workload
	b, err := os.ReadFile(path)
	if err != nil {
		return w, err
	}
	var doc workloadDoc
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return w, fmt.Errorf("%s: %w", path, err)
	}
	if !doc.Checked {
		return w, fmt.Errorf("%s: the values of this run were not checked ones; want those of loadgen fill, or of loadgen run --checked", path)
	}
	w.Client, w.Seed, w.Cache, w.Keys, w.Compressible, w.Checked = doc.Name, doc.Seed, doc.Cache, doc.Keys, doc.Compressible, true
	var errs [4]error
	w.Mix, errs[0] = load.ParseMix(doc.Mix)
	w.Acks, errs[1] = load.ParseAcks(doc.Ack)
	w.Dist, errs[2] = load.ParseKeyDist(doc.KeyDist)
	w.Sizes, errs[3] = load.ParseSizes(doc.ValueSize)
	if err := errors.Join(errs[:]...); err != nil {
		return w, fmt.Errorf("%s: %s", path, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return w, nil
}

func fillFlags() []cli.Flag {
	return slices.Concat(clusterFlags("external"), streamFlags(), []cli.Flag{
		&cli.StringFlag{Name: "ack", Value: "quorum", Usage: "`LEVEL` of the inserts"},
		&cli.StringFlag{Name: "cache", Value: "bench", Usage: "`NAME` of the cache"},
		&cli.StringFlag{Name: "keys", Value: "100k", Usage: "`N` keys"},
		valueSizeFlag(),
		&cli.BoolFlag{Name: "compressible", Usage: "values that compress well"},
		routeFlag(), timeoutFlag(), seedFlag(), nameFlag("fill"),
	}, outputFlags())
}

func verifyFlags() []cli.Flag {
	return slices.Concat(clusterFlags("external"), streamFlags(), []cli.Flag{
		&cli.BoolWithInverseFlag{Name: "every-node", Value: true, Usage: "read every key on every node of --addrs, not on one of them"},
		timeoutFlag(), nameFlag("verify"),
	}, outputFlags())
}

func fillCommand(ctx context.Context, c *cli.Command) error {
	if c.Args().Len() > 0 {
		return command.Usagef("fill: unexpected argument %q", c.Args().First())
	}
	var m mistakes
	s := common(c, &m)
	keySettings(c, s, &m)
	w := &s.workload
	var err error
	w.Mix, w.Dist = []load.Weight[client.Kind]{{Of: client.KindInsert, Weight: 1}}, load.KeyDist{Kind: load.KeySequential}
	w.Acks, err = load.ParseAcks(c.String("ack"))
	m.add("ack", err)
	w.Checked = true
	valueSettings(c, s, &m)
	if s.start {
		m.addf("cluster", "what is written is to stay; want external")
	}
	if err := m.err(); err != nil {
		return err
	}
	source, err := s.workload.Source()
	if err != nil {
		return command.Usage(err)
	}
	se, err := newSession(s, result.KindBench, fmt.Sprintf("every one of %d keys is written", s.workload.Keys), c.Root().Writer, c.Root().ErrWriter)
	if err != nil {
		return err
	}
	if err = writeWorkload(se.dir, w); err == nil {
		err = se.begin(ctx)
	}
	if err == nil {
		left, why := se.all(ctx, "fill", source, s.workload.Keys, nil)
		check := result.Check{Name: "every key written", Verdict: result.Pass, Checked: int64(s.workload.Keys), Count: int64(left)}
		if left > 0 {
			check.Verdict, check.Detail = result.Unknown, fmt.Sprintf("%d of %d were not: %v", left, s.workload.Keys, why)
		}
		se.run.Checks = append(se.run.Checks, check)
	}
	return se.finish(ctx, err)
}

func verifyCommand(ctx context.Context, c *cli.Command) error {
	dirs := c.Args().Slice()
	if len(dirs) == 0 {
		return command.Usagef("verify: no run directory; want that of loadgen fill, and those of the loads with checked values since then")
	}
	var m mistakes
	s := common(c, &m)
	timeoutSettings(c, s, &m)
	s.name = c.String("name")
	if s.start {
		m.addf("cluster", "what was written is to be read; want external")
	}
	if err := m.err(); err != nil {
		return err
	}
	v := &load.Verifier{Writers: map[string]load.Source{}}
	var keys load.Source
	var n uint64
	for i, dir := range dirs {
		w, err := readWorkload(dir)
		if err != nil {
			return command.Usage(err)
		}
		w.Timeout = s.workload.Timeout
		source, err := w.Source()
		if err != nil {
			return command.Usagef("%s: %w", dir, err)
		}
		if v.Writers[w.Client] != nil {
			return command.Usagef("verify: %s: another run of the name %q is given; want --name to tell them apart when they run", dir, w.Client)
		}
		v.Writers[w.Client] = source
		filled := w.Dist.Kind == load.KeySequential
		removes := slices.ContainsFunc(w.Mix, func(k load.Weight[client.Kind]) bool { return k.Of == client.KindDel || k.Of == client.KindRemove })
		v.MayMiss = v.MayMiss || removes || i == 0 && !filled
		if i > 0 {
			continue
		}
		// The keys of the first run are read, whatever its distribution of them was.
		w.Dist, w.Mix = load.KeyDist{Kind: load.KeySequential}, []load.Weight[client.Kind]{{Of: client.KindGet, Weight: 1}}
		if keys, err = w.Source(); err != nil {
			return command.Usage(err)
		}
		n = w.Keys
	}
	se, err := newSession(s, result.KindBench, fmt.Sprintf("every one of %d keys is read and checked", n), c.Root().Writer, c.Root().ErrWriter)
	if err != nil {
		return err
	}
	return se.finish(ctx, se.verify(ctx, load.Reads{Source: keys}, n, v, c.Bool("every-node")))
}

// verify reads n keys, on each node or on one of them, and judges what was read.
func (s *session) verify(ctx context.Context, keys load.Source, n uint64, v *load.Verifier, everyNode bool) error {
	addrs := s.settings.cluster.Addrs
	groups := [][]string{addrs}
	s.settings.cluster.Route = load.RouteAny
	if everyNode {
		groups = slices.Collect(slices.Chunk(addrs, 1))
	}
	unread := result.Check{Name: "every key was read", Verdict: result.Pass}
	for _, group := range groups {
		s.settings.cluster.Addrs = group
		if err := s.begin(ctx); err != nil {
			return err
		}
		phase := "verify"
		if everyNode {
			phase += " " + group[0]
		}
		left, why := s.all(ctx, phase, keys, n, v)
		unread.Checked += int64(n)
		if left > 0 {
			unread.Verdict, unread.Count = result.Unknown, unread.Count+int64(left)
			unread.Detail = fmt.Sprintf("%d of %d were not read: %v", left, n, why)
		}
		s.target.Close()
		s.target = nil
	}
	checks, losses := v.Checks()
	s.run.Checks = append(append(s.run.Checks, checks...), unread)
	s.run.Losses = losses
	return nil
}

// Rounds of operations that are tried until all are ok: a node that is gone for
// a moment is no reason to give up, one that refuses for good is.
const (
	maxRounds  = 12
	roundPause = 2 * time.Second // at most
)

// all offers the operations 0 to n-1 of a source in a closed loop, and those
// that were not ok again and again. It returns how many never were, and why.
func (s *session) all(ctx context.Context, phase string, source load.Source, n uint64, observer load.Observer) (left uint64, why error) {
	undone := &load.Undone{}
	g := s.generator
	g.Warmup, g.Duration, g.Schedule, g.Drain = 0, 0, nil, s.workload.Timeout+time.Second
	g.Observer = undone
	if observer != nil {
		g.Observer = both{undone, observer}
	}
	indices := []uint64(nil) // nil: all
	for round := range maxRounds {
		g.Phase, g.Ops = phase, n
		src := source
		if indices != nil {
			g.Phase, g.Ops, src = fmt.Sprintf("%s, again %d", phase, round), uint64(len(indices)), load.Only{Source: source, Indices: indices}
		}
		err := s.with(ctx, &g, src, func(ctx context.Context) (*load.Summary, error) { return g.Run(ctx) })
		if err != nil {
			return g.Ops, err
		}
		again, reason := undone.Take()
		if indices != nil { // they are numbers of the round
			for k, i := range again {
				again[k] = indices[i]
			}
		}
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		if indices, why = again, reason; len(indices) == 0 {
			return 0, nil
		}
		timer := time.NewTimer(min(100*time.Millisecond<<round, roundPause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return uint64(len(indices)), why
}

// both tells two observers.
type both [2]load.Observer

func (b both) Invoke(o *load.Operation) {
	b[0].Invoke(o)
	b[1].Invoke(o)
}

func (b both) Return(o *load.Operation, out *client.Outcome) {
	b[0].Return(o, out)
	b[1].Return(o, out)
}

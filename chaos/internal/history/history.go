// Package history is the record of what the clients of a run asked for and
// what came back: an append-only file of operations, one JSON object a line,
// compressed. All times are nanoseconds since the start of the run on one
// monotonic clock, the clock that the run's events use too.
//
// A [History] is valid by construction: [Writer] refuses an operation that
// cannot be ([Op.Validate]) and counts it, and [Read] refuses a file that holds
// one. The last line says how many operations were recorded and how many could
// not be, so a reader knows whether the history is complete; a check must not
// pass on one that is not.
package history

import (
	"errors"
	"fmt"
	"time"
)

// Version of the format.
const Version = 1

// Outcome is what is known about an operation (Jepsen's ok, fail and info).
type Outcome string

const (
	OK   Outcome = "ok"
	Fail Outcome = "fail" // a write: it had no effect and never will
	Info Outcome = "info" // a write: it may have taken effect, or may still
	// Refused is a read that the node would not answer for want of freshness.
	Refused Outcome = "refused"
	// Dropped is a read without an answer. It says nothing.
	Dropped Outcome = "dropped"
)

// Phase says which part of the run an operation belongs to.
type Phase string

const (
	// Preload is what was there before the load, of entries that others used.
	Preload Phase = "preload"
	Warmup  Phase = "warmup"
	Load    Phase = "load"
	Probe   Phase = "probe" // the harness's own steady writes, which time a failover
	// Register is the harness's own writes and reads of few keys by several
	// processes at once, of which linearizability is judged.
	Register Phase = "register"
	// Session is the harness's own writes and local reads by processes that each
	// stay at one node.
	Session Phase = "session"
	Retry   Phase = "retry" // writes that are sent several times under one tag
	Final   Phase = "final" // reads of every key on every node, after everything healed
)

// Op is one completed operation.
type Op struct {
	// Proc is the logical process that ran it: at most one operation at a
	// time, and none any more after an info.
	Proc  int64
	Kind  string // get, put, insert, del, remove
	Cache string
	Key   string
	// Version identifies the value: what a write wrote, or what a get found.
	// Versions of writes are positive and unique to the operation. 0 for del and
	// remove, for a miss, and for a found value that carries no version the
	// harness can have written (Found is then true).
	Version int64
	Found   bool // a get that found a value
	// Session and Seq are the tag that a client gave to a write, and the same
	// in each copy of it that it sent; 0: none. A tagged operation is there once
	// for each copy, each with a process of its own; they share their Version.
	Session, Seq uint64
	Level        string // of insert and remove: quorum, once, leader
	Mode         string // of a get: local, leader_on_miss, linearizable
	Node         string // whose stream carried it; empty if none did
	Stream       int64
	Phase        Phase
	Outcome      Outcome
	Reason       string // the code or error behind an outcome that is not ok

	Intended time.Duration // when the schedule wanted it sent
	Send     time.Duration // when it was handed to a stream; Intended if it never was
	Return   time.Duration // when the outcome was known

	// Where it stands in the log, if the node said so. A read has the index that
	// was applied at least when it was answered. Cluster names the log: another
	// one has begun at index 1 again, with nothing in it.
	Cluster, Term, Index uint64
}

// Write reports whether the operation modifies the cache.
func (o *Op) Write() bool { return o.Kind != "get" }

// Removes reports whether the operation is a write that leaves no value.
func (o *Op) Removes() bool { return o.Kind == "del" || o.Kind == "remove" }

// Validate reports why o cannot be part of a history.
func (o *Op) Validate() error {
	switch o.Kind {
	case "put", "insert", "del", "remove":
		if o.Outcome != OK && o.Outcome != Fail && o.Outcome != Info {
			return fmt.Errorf("%s with outcome %q; a write is ok, fail or info", o.Kind, o.Outcome)
		}
		if o.Removes() != (o.Version == 0) || o.Version < 0 || o.Found {
			return fmt.Errorf("%s with version %d, found %t", o.Kind, o.Version, o.Found)
		}
		if leveled := o.Kind == "insert" || o.Kind == "remove"; leveled != (o.Level == "quorum" || o.Level == "once" || o.Level == "leader") || !leveled && o.Level != "" {
			return fmt.Errorf("%s with ack level %q", o.Kind, o.Level)
		}
		if o.Mode != "" {
			return fmt.Errorf("%s with read mode %q", o.Kind, o.Mode)
		}
	case "get":
		if o.Outcome != OK && o.Outcome != Refused && o.Outcome != Dropped {
			return fmt.Errorf("get with outcome %q; a read is ok, refused or dropped", o.Outcome)
		}
		if o.Version < 0 || o.Version > 0 && !o.Found || o.Found && o.Outcome != OK {
			return fmt.Errorf("get with version %d, found %t, outcome %q", o.Version, o.Found, o.Outcome)
		}
		if o.Mode != "local" && o.Mode != "leader_on_miss" && o.Mode != "linearizable" || o.Level != "" {
			return fmt.Errorf("get with read mode %q and ack level %q", o.Mode, o.Level)
		}
	default:
		return fmt.Errorf("unknown kind %q", o.Kind)
	}
	switch o.Phase {
	case Preload, Warmup, Load, Probe, Register, Session, Retry, Final:
	default:
		return fmt.Errorf("unknown phase %q", o.Phase)
	}
	if (o.Session == 0) != (o.Seq == 0) || o.Session != 0 && !o.Write() {
		return fmt.Errorf("%s with session %d and seq %d", o.Kind, o.Session, o.Seq)
	}
	if o.Cache == "" || o.Key == "" {
		return errors.New("without cache or key")
	}
	if o.Outcome == OK && o.Node == "" {
		return errors.New("ok without the node that answered")
	}
	if o.Intended < 0 || o.Send < o.Intended || o.Return < o.Send {
		return fmt.Errorf("intended at %d, sent at %d, returned at %d ns: out of order", o.Intended, o.Send, o.Return)
	}
	return nil
}

// Header is the first line of the file.
type Header struct {
	Version  int      `json:"version"`
	Scenario string   `json:"scenario"`
	Seed     uint64   `json:"seed"`
	Nodes    []string `json:"nodes"`
	// Scale is the factor by which the scenario was shortened; 0: it was not.
	Scale float64 `json:"scale,omitempty"`
}

// History is what was recorded, in the order of Return as far as concurrent
// recorders allow; nobody may rely on the order.
type History struct {
	Header Header
	Ops    []Op
	// Lost counts operations that happened but are not in Ops.
	Lost int64
	// Whole is false if the file has no last line: its writer was killed.
	Whole bool
}

// Complete reports whether every operation of the run is in h.
func (h *History) Complete() bool { return h.Whole && h.Lost == 0 }

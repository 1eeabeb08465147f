package result

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// EventKind says what happened.
type EventKind string

const (
	Inject  EventKind = "inject"  // a fault begins: Fault, Action, Targets
	Heal    EventKind = "heal"    // a fault ends: Fault; Bit says whether it was seen to take effect
	Observe EventKind = "observe" // a node was seen in a role: Node, Role, Term, Leader
	Process EventKind = "process" // a process changed its state: Node, State
	Link    EventKind = "link"    // the path From -> To changed its state: State
	Note    EventKind = "note"    // anything else worth a mark on the time axis: Detail
)

// Role is what a node says it is, in the words of the contract.
type Role string

const (
	RoleLeader    Role = "leader"
	RoleFollower  Role = "follower"
	RoleRequested Role = "requested" // asking for votes
	RoleDead      Role = "dead"      // its leader is dead, it has no new one
	RoleUndefined Role = "undefined" // it does not know, or does not answer
)

// State of a process or of a link.
type State string

const (
	ProcessRunning State = "running"
	ProcessStopped State = "stopped" // SIGSTOP
	ProcessExited  State = "exited"

	LinkUp       State = "up"
	LinkDegraded State = "degraded" // slow, or cut in part
	LinkDown     State = "down"
)

// Event is one line of events.jsonl. Which fields are set depends on Kind.
type Event struct {
	T    time.Duration `json:"t_ns"`
	Kind EventKind     `json:"kind"`

	Fault   string   `json:"fault,omitempty"`   // unique in the run, pairs inject with heal
	Action  string   `json:"action,omitempty"`  // kill, partition, latency, …
	Targets []string `json:"targets,omitempty"` // nodes or links, as resolved at injection
	Bit     *bool    `json:"bit,omitempty"`     // on heal: whether the fault took effect; nil: not known

	Node    string `json:"node,omitempty"`
	Role    Role   `json:"role,omitempty"`
	Term    uint64 `json:"term,omitempty"`
	Leader  string `json:"leader,omitempty"`  // whom the node follows
	Cluster string `json:"cluster,omitempty"` // which group it belongs to; it changes when a cluster is formed anew
	From    string `json:"from,omitempty"`
	To      string `json:"to,omitempty"`
	State   State  `json:"state,omitempty"`

	Detail string `json:"detail,omitempty"` // free text: the evidence, the reason, the pid
}

func (e *Event) validate() error {
	need := func(name, value string) error {
		if value == "" {
			return fmt.Errorf("%s without %s", e.Kind, name)
		}
		return nil
	}
	oneOf := func(got State, want ...State) error {
		if !slices.Contains(want, got) {
			return fmt.Errorf("%s: unknown state %q, expected one of %q", e.Kind, got, want)
		}
		return nil
	}
	switch e.Kind {
	case Inject, Heal:
		return need("fault", e.Fault)
	case Observe:
		switch e.Role {
		case RoleLeader, RoleFollower, RoleRequested, RoleDead, RoleUndefined:
			return need("node", e.Node)
		}
		return fmt.Errorf("unknown role %q, expected leader, follower, requested, dead or undefined", e.Role)
	case Process:
		return cmp.Or(need("node", e.Node), oneOf(e.State, ProcessRunning, ProcessStopped, ProcessExited))
	case Link:
		return cmp.Or(need("from", e.From), need("to", e.To), oneOf(e.State, LinkUp, LinkDegraded, LinkDown))
	case Note:
		return need("detail", e.Detail)
	}
	return fmt.Errorf("unknown kind %q", e.Kind)
}

// Window is the time during which a fault was in force.
type Window struct {
	Fault   string
	Action  string
	Targets []string
	From    time.Duration
	To      time.Duration
	Open    bool  // never healed: To is the end of the run
	Bit     *bool // as in the heal event
	Detail  string
}

// Windows pairs the injections with their heals, by time of injection.
func (r *Run) Windows() []Window {
	var ws []Window
	open := map[string]int{} // fault -> index in ws
	for _, e := range r.EventsInOrder() {
		switch e.Kind {
		case Inject:
			open[e.Fault] = len(ws)
			ws = append(ws, Window{Fault: e.Fault, Action: e.Action, Targets: e.Targets, From: e.T, To: max(r.Duration, e.T), Open: true, Detail: e.Detail})
		case Heal:
			i, ok := open[e.Fault]
			if !ok {
				continue // a heal without an injection shades nothing
			}
			delete(open, e.Fault)
			ws[i].To, ws[i].Open, ws[i].Bit = e.T, false, e.Bit
			ws[i].Detail = cmp.Or(e.Detail, ws[i].Detail)
		}
	}
	return ws
}

// EventsInOrder is the events by time; equal times keep their order in the file. Events itself is left alone.
func (r *Run) EventsInOrder() []Event {
	es := slices.Clone(r.Events)
	slices.SortStableFunc(es, func(a, b Event) int { return cmp.Compare(a.T, b.T) })
	return es
}

// EncodeEvents writes one JSON object a line. It can be called again on the same writer, to append.
func EncodeEvents(w io.Writer, events ...Event) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	for i := range events {
		if err := events[i].validate(); err != nil {
			return fmt.Errorf("event at %v: %w", events[i].T, err)
		}
		if err := enc.Encode(&events[i]); err != nil {
			return fmt.Errorf("event at %v: %w", events[i].T, err)
		}
	}
	_, err := w.Write(buf.Bytes())
	return err
}

// DecodeEvents reads what EncodeEvents wrote. An error begins with name and the line. A last line without its
// newline is what a killed writer leaves behind; it is dropped when it does not parse.
func DecodeEvents(r io.Reader, name string) ([]Event, error) {
	var events []Event
	br := bufio.NewReader(r)
	for line := 1; ; line++ {
		text, err := br.ReadBytes('\n')
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("%s:%d: %w", name, line, err)
		}
		cut := err == io.EOF
		if len(bytes.TrimSpace(text)) > 0 {
			var e Event
			derr := decodeStrict(text, &e)
			if p, ok := errors.AsType[placed](derr); ok {
				derr = p.err // its line is within this line
			}
			if derr == nil {
				derr = e.validate()
			}
			switch {
			case derr == nil:
				events = append(events, e)
			case cut: // the end of an interrupted write
			default:
				return nil, fmt.Errorf("%s:%d: %w", name, line, derr)
			}
		}
		if cut {
			return events, nil
		}
	}
}

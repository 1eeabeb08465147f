package render

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hacache/hacache/reports/result"
)

type lossRow struct {
	Kind, Tone, Key, Version, Level, Node, Found, AckedAt, FromFault string
	Allowed                                                          bool
	Story                                                            string // in one sentence
	Around                                                           []momentRow
}

// momentRow is an operation on the key, or an event of the cluster.
type momentRow struct {
	At, From, Node, What, Outcome string
	Event                         bool
}

// lossRows lists the losses, violations first.
func lossRows(r *result.Run) []lossRow {
	var out []lossRow
	list := slices.Clone(r.Losses)
	weight := func(l result.Loss) int { // violations first
		switch {
		case l.Kind == result.Indeterminate:
			return 2
		case l.Allowed:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(list, func(a, b result.Loss) int { return cmp.Or(weight(a)-weight(b), cmp.Compare(a.AckedAt, b.AckedAt)) })
	for i, l := range list[:min(len(list), maxLosses)] {
		row := lossRow{
			Kind: string(l.Kind), Tone: map[bool]string{true: "t-idle", false: "t-violated"}[l.Kind == result.Indeterminate], Allowed: l.Allowed,
			Key: keyOf(&l), Version: fmt.Sprint(l.Version), Level: cmp.Or(l.Level, none), Node: cmp.Or(l.Node, none), Found: cmp.Or(l.Found, none),
			AckedAt: formatTime(l.AckedAt), FromFault: none, Story: storyOf(&l),
		}
		if i < maxStories {
			row.Around = momentsAround(r, &l)
		}
		if l.Repeat > 0 {
			row.Key = fmt.Sprintf("#%d %s", l.Repeat, row.Key)
		}
		if l.Fault != "" {
			row.FromFault = formatOffset(l.FromFault) + " (" + l.Fault + ")"
		}
		out = append(out, row)
	}
	return out
}

func keyOf(l *result.Loss) string {
	if l.Cache == "" {
		return l.Key
	}
	return l.Cache + "/" + l.Key
}

// storyOf says what was lost in one sentence, for somebody who sees such a
// report for the first time.
func storyOf(l *result.Loss) string {
	kind, by := "The write", ""
	for _, o := range l.History {
		if o.Return == l.AckedAt && o.Outcome == "ok" && o.Kind != "get" {
			kind, by = "The "+o.Kind, " by "+o.Node
		}
	}
	s := kind + " of " + keyOf(l)
	if l.Version != 0 {
		s += fmt.Sprintf(" (version %d)", l.Version)
	}
	if l.Level == "" {
		return s + ": " + l.Found
	}
	s += fmt.Sprintf(" was acknowledged at %s%s at %s", l.Level, by, formatTime(l.AckedAt))
	switch {
	case l.Fault == "":
	case l.FromFault < 0:
		s += fmt.Sprintf(", %s before %s began", formatDuration(-l.FromFault), l.Fault)
	default:
		s += fmt.Sprintf(", %s after %s began", formatDuration(l.FromFault), l.Fault)
	}
	return s + ". Found instead: " + cmp.Or(l.Found, none) + "."
}

// What is told of the cluster beside a loss: so many events, this near to the
// acknowledgement.
const (
	aroundLoss = 2 * time.Second
	mostEvents = 40
	// mostOperations bounds the operations on the key.
	mostOperations = 60
)

// momentsAround puts the operations on the key and what happened to the cluster
// at that time into one order. Of a run of repetitions the events are not known.
func momentsAround(r *result.Run, l *result.Loss) []momentRow {
	type moment struct {
		at  time.Duration
		row momentRow
	}
	var all []moment
	for _, o := range nearest(l) {
		row := momentRow{Node: cmp.Or(o.Node, none), What: operationText(&o), Outcome: o.Outcome}
		if o.Reason != "" {
			row.Outcome += " (" + o.Reason + ")"
		}
		if o.Return > 0 {
			row.Outcome += " after " + formatDuration(o.Return-o.Invoke)
		}
		all = append(all, moment{o.Invoke, row})
	}
	events := 0
	for i := range r.Events {
		e := &r.Events[i]
		text := eventText(e)
		if l.Repeat > 0 || text == "" || (e.T-l.AckedAt).Abs() > aroundLoss || events == mostEvents {
			continue
		}
		events++
		all = append(all, moment{e.T, momentRow{Node: cmp.Or(e.Node, strings.Join(e.Targets, ", "), none), What: text, Event: true}})
	}
	slices.SortStableFunc(all, func(a, b moment) int { return cmp.Compare(a.at, b.at) })
	rows := make([]momentRow, len(all))
	for i, m := range all {
		rows[i] = m.row
		rows[i].At, rows[i].From = formatTime(m.at), formatOffset(m.at-l.AckedAt)
	}
	return rows
}

// nearest is the operations on the key that began nearest to the acknowledgement.
func nearest(l *result.Loss) []result.Operation {
	if len(l.History) <= mostOperations {
		return l.History
	}
	at, _ := slices.BinarySearchFunc(l.History, l.AckedAt, func(o result.Operation, t time.Duration) int { return cmp.Compare(o.Invoke, t) })
	from := min(max(0, at-mostOperations/2), len(l.History)-mostOperations)
	return l.History[from : from+mostOperations]
}

func operationText(o *result.Operation) string {
	s := o.Kind
	switch {
	case o.Kind == "get" && o.Version == 0:
		s += ": nothing"
	case o.Kind == "get":
		s += fmt.Sprintf(": version %d", o.Version)
	case o.Version != 0:
		s += fmt.Sprintf(" of version %d", o.Version)
	}
	if o.Level != "" {
		s += " at " + o.Level
	}
	return s
}

// eventText says what an event means; "" leaves it out.
func eventText(e *result.Event) string {
	switch e.Kind {
	case result.Inject:
		return fmt.Sprintf("fault %s begins", e.Fault)
	case result.Heal:
		return fmt.Sprintf("fault %s ends", e.Fault)
	case result.Process:
		return strings.TrimSuffix(fmt.Sprintf("its process is %s: %s", e.State, e.Detail), ": ")
	case result.Observe:
		return roleText(e)
	}
	return ""
}

func roleText(e *result.Event) string {
	switch e.Role {
	case result.RoleLeader:
		return fmt.Sprintf("leads term %d", e.Term)
	case result.RoleFollower:
		return fmt.Sprintf("follows %s in term %d", cmp.Or(e.Leader, "nobody"), e.Term)
	case result.RoleRequested:
		return fmt.Sprintf("asks for votes, term %d", e.Term)
	case result.RoleDead:
		return fmt.Sprintf("takes its leader for dead, term %d", e.Term)
	}
	return fmt.Sprintf("neither leads nor follows (%s), term %d", cmp.Or(e.Detail, string(e.Role)), e.Term)
}

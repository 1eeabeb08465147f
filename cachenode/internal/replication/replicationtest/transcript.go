package replicationtest

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/proto/cachepb"
)

// Transcript runs the commands of a datadriven file on a simulated cluster and writes down what happens: every message
// when it is sent, every change of a node's state or term, every line the cores log, and every acknowledgement.
//
// Commands:
//
//	cluster [nodes=3] [spare=0] [delay=1ms] [seed=1] [abandon-after=0s] [retain=10000] [window=8]   a new cluster, nothing runs
//	form [after=D]                                     all nodes start, nothing is written until they are healthy and D more
//	start SLOT...   crash SLOT...   pause SLOT D        processes
//	run D   until leader|healthy|applied [max=5s]      time passes
//	isolate SLOT   rejoin SLOT   cut A B   mend A B    packets vanish; cut is one way
//	break A B [control|data]                           connections are reset: one that A dialed, or all of the pair
//	refuse A B [off]                                   B refuses what A dials
//	heal                                               undoes isolate, cut and refuse
//	eat NAME...                                        the network eats these seed messages; no name, no more
//	propose [n=1]                                      what clients do
//	transfer [to=SLOT]   abandon SLOT   members SLOT...  what operators do
//	status   check   show beats   hide beats           look; check names lost acknowledged operations
//
// A command that ends in the word quiet writes nothing but errors.
//
// The delay is the same for every message, so that times read well: a hop is 1 ms. Times count from the start of a
// command. An id prints as slot.number, the number of the process run at that slot (an abandoned copy ends a run);
// slot.p is a placeholder. A message prints as
//
//	+TIME FROM>TO LANE SeedMessage fields [raft letter]
//
// and ends in LOST if it never arrives. Pings and Pongs are left out unless beats are shown. A Transcript is not safe
// for concurrent use.
type Transcript struct {
	// Random makes the random numbers of the process follow from a seed; testing/cryptotest has the function.
	Random func(seed uint64)

	sim   *Sim
	out   strings.Builder
	since time.Duration

	names    map[uint64]string // of ids
	clusters map[uint64]string
	runs     map[int]int // process runs by slot
	spares   map[int]int // placeholders by slot

	eaten map[string]bool
	beats bool
	mute  bool // write nothing

	state    map[*Node]string
	term     map[*Node]uint64
	dialFail map[[2]int]bool // reported since the last time the pair was linked
}

// Do runs one command and returns what happened.
func (t *Transcript) Do(d *datadriven.TestData) string {
	t.out.Reset()
	if t.sim != nil {
		t.since = t.sim.now
	} else if d.Cmd != "cluster" {
		return "error: no cluster yet"
	}
	args := arguments{d}
	t.mute = slices.Contains(args.positional(), "quiet")
	err := t.command(d.Cmd, args)
	t.mute = false
	if err != nil {
		t.printf("error: %v\n", err)
	}
	if t.out.Len() == 0 {
		return "ok\n"
	}
	return t.out.String()
}

// arguments reads a command's arguments; a wrong one is the author's mistake and panics.
type arguments struct{ d *datadriven.TestData }

func (a arguments) positional() []string {
	var p []string
	for _, arg := range a.d.CmdArgs {
		if len(arg.Vals) == 0 {
			p = append(p, arg.Key)
		}
	}
	return p
}

func (a arguments) slots() []int {
	var slots []int
	for _, p := range a.positional() {
		if slot, err := strconv.Atoi(p); err == nil {
			slots = append(slots, slot)
		}
	}
	return slots
}

func (a arguments) word(i int) string {
	if p := a.positional(); i < len(p) {
		return p[i]
	}
	return ""
}

func (a arguments) number(key string, def int) int {
	if arg, ok := a.d.Arg(key); ok {
		n, err := strconv.Atoi(arg.Vals[0])
		if err != nil {
			panic(fmt.Sprintf("%s: %s: %v", a.d.Pos, key, err))
		}
		return n
	}
	return def
}

func (a arguments) duration(key string, def time.Duration) time.Duration {
	if arg, ok := a.d.Arg(key); ok {
		return a.parse(arg.Vals[0])
	}
	return def
}

func (a arguments) parse(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", a.d.Pos, err))
	}
	return d
}

func (t *Transcript) command(name string, a arguments) error {
	s := t.sim
	slots := a.slots()
	switch name {
	case "cluster":
		t.begin(a)
	case "form":
		return t.form(a.duration("after", 0))
	case "start":
		for _, slot := range slots {
			s.Start(slot)
		}
	case "crash":
		for _, slot := range slots {
			t.line("%d: killed", slot)
			s.Crash(slot)
		}
	case "pause":
		s.Pause(slots[0], a.parse(a.word(1)))
	case "run":
		return s.Run(a.parse(a.word(0)))
	case "until":
		return t.until(a.word(0), a.duration("max", 5*time.Second))
	case "isolate", "rejoin":
		s.Isolate(slots[0], name == "isolate")
	case "cut", "mend":
		s.Cut(slots[0], slots[1], name == "cut")
	case "break":
		t.reset(slots[0], slots[1], a.word(2))
	case "refuse":
		s.Refuse(slots[0], slots[1], a.word(2) != "off")
	case "heal":
		s.Heal()
	case "eat":
		clear(t.eaten)
		for _, name := range a.positional() {
			t.eaten[name] = true
		}
	case "propose":
		return t.propose(a.number("n", 1))
	case "transfer":
		return t.transfer(a.number("to", -1))
	case "members":
		return t.setMembers(slots)
	case "abandon":
		n := s.nodes[slots[0]]
		n.step(n.Core.Abandon)
	case "show", "hide":
		t.beats = name == "show"
	case "status":
		t.status()
	case "check":
		t.check()
	default:
		return fmt.Errorf("unknown command %q", name)
	}
	return nil
}

// begin makes a new cluster.
func (t *Transcript) begin(a arguments) {
	seed := uint64(a.number("seed", 1))
	t.Random(seed)
	t.names, t.clusters = map[uint64]string{}, map[uint64]string{}
	t.runs, t.spares = map[int]int{}, map[int]int{}
	t.eaten = map[string]bool{}
	t.state, t.term = map[*Node]string{}, map[*Node]uint64{}
	t.dialFail = map[[2]int]bool{}
	t.sim = New(Options{
		Seed: seed, Nodes: a.number("nodes", 3), Spare: a.number("spare", 0), Delay: a.duration("delay", time.Millisecond),
		AbandonAfter: a.duration("abandon-after", 0), LogRetainEntries: a.number("retain", 0), SnapshotWindow: a.number("window", 0),
		Logger: slog.New(transcriptLog{t: t}), Watch: t,
		Eat: func(m proto.Message) bool { return t.eaten[MessageName(m)] },
	})
	t.since = t.sim.now
}

// form starts all nodes and waits for them.
func (t *Transcript) form(after time.Duration) error {
	t.mute = true
	for slot := range t.sim.nodes {
		t.sim.Start(slot)
	}
	err := t.until("healthy", 5*time.Second)
	if err == nil {
		err = t.sim.Run(after)
	}
	t.mute = false
	t.status()
	return err
}

// reset breaks connections of a pair: one lane of those that a dialed, or all four.
func (t *Transcript) reset(a, b int, lane string) {
	switch lane {
	case "control":
		t.sim.Break(a, b, replication.LaneControl)
	case "data":
		t.sim.Break(a, b, replication.LaneData)
	default:
		for _, l := range []replication.Lane{replication.LaneControl, replication.LaneData} {
			t.sim.Break(a, b, l)
			t.sim.Break(b, a, l)
		}
	}
}

// leader returns the node that says it takes proposals. Unlike Sim.Leader it does not touch the nodes' clocks.
func (t *Transcript) leader() *Node {
	for _, n := range t.sim.nodes {
		if n != nil && n.Core.Leading() {
			return n
		}
	}
	return nil
}

func (t *Transcript) until(what string, within time.Duration) error {
	cond := map[string]func() bool{
		"leader":  func() bool { return t.leader() != nil },
		"healthy": t.healthy,
		"applied": t.applied,
	}[what]
	if cond == nil {
		return fmt.Errorf("until %q is not known", what)
	}
	for end := t.sim.now + within; !cond(); {
		if t.sim.now >= end {
			return fmt.Errorf("not within %v", within)
		}
		if err := t.sim.Run(time.Millisecond); err != nil {
			return err
		}
	}
	t.line("%s", what)
	return nil
}

// healthy reports whether all members run and are fresh voters that follow one leader.
func (t *Transcript) healthy() bool {
	l := t.leader()
	if l == nil {
		return false
	}
	for _, host := range l.Core.Members() {
		n := t.sim.nodes[slices.Index(t.sim.hosts, host)]
		if n == nil || !n.Core.Ready() || n.Core.Joint() || n.Core.LeaderID() != l.Core.ID() {
			return false
		}
	}
	return true
}

// applied reports whether all nodes of the leader's cluster have applied the same.
func (t *Transcript) applied() bool {
	l := t.leader()
	for _, n := range t.sim.nodes {
		if l == nil || n != nil && n.Core.Cluster() == l.Core.Cluster() && n.Core.Applied() != l.Core.Applied() {
			return false
		}
	}
	return true
}

func (t *Transcript) propose(k int) error {
	l := t.leader()
	if l == nil {
		return fmt.Errorf("nobody leads")
	}
	for range k {
		if !l.Propose() {
			t.line("%d: refuses the proposal", l.slot)
		}
	}
	return nil
}

func (t *Transcript) transfer(to int) error {
	l := t.leader()
	if l == nil {
		return fmt.Errorf("nobody leads")
	}
	l.step(func() {
		if !l.Core.Transfer(to) {
			t.line("%d: cannot hand over", l.slot)
		}
	})
	return nil
}

func (t *Transcript) setMembers(slots []int) error {
	l := t.leader()
	if l == nil {
		return fmt.Errorf("nobody leads")
	}
	var list []string
	for _, slot := range slots {
		list = append(list, t.sim.hosts[slot])
	}
	var err error
	l.step(func() { err = l.Core.SetMembers(list, true) })
	return err
}

func (t *Transcript) status() {
	for slot, n := range t.sim.nodes {
		if n == nil {
			t.printf("%d down\n", slot)
			continue
		}
		h := n.Core.Health()
		st := h.GetPeer().GetStatus()
		t.printf("%s %s", t.id(n.Core.ID()), stateName(h))
		if c := n.Core.Cluster(); c != 0 {
			t.printf(" %s term %d leader %s last %d/%d applied %d %s", t.cluster(c), n.Core.Term(), t.host(n.Core.Host(n.Core.Leader())),
				st.GetLastTerm(), st.GetLastIndex(), n.Core.Applied(), t.conf(st.GetVoters(), st.GetVotersOutgoing(), st.GetLearners()))
		}
		if n.Core.Ready() {
			t.printf(" ready")
		}
		t.printf("\n")
	}
}

func (t *Transcript) check() {
	for slot, n := range t.sim.nodes {
		if n == nil {
			continue
		}
		if lost := t.sim.Lost(n); len(lost) > 0 {
			t.printf("%d lacks acknowledged operations %v\n", slot, lost)
		} else {
			t.printf("%d has all that %s acknowledged\n", slot, t.cluster(n.Core.Cluster()))
		}
	}
}

func slotName(slot int) string {
	if slot < 0 {
		return "none"
	}
	return strconv.Itoa(slot)
}

func stateName(h *cachepb.HealthAck) string {
	r := h.GetState().ProtoReflect()
	return string(r.WhichOneof(r.Descriptor().Oneofs().Get(0)).Name())
}

// Lines.

func (t *Transcript) printf(format string, v ...any) { fmt.Fprintf(&t.out, format, v...) }

// line writes one line with the time since the command began.
func (t *Transcript) line(format string, v ...any) {
	if t.mute {
		return
	}
	t.printf("%-8s %s\n", "+"+(t.sim.now-t.since).String(), fmt.Sprintf(format, v...))
}

// hidden reports whether a message is not written.
func (t *Transcript) hidden(name string) bool { return !t.beats && (name == "Ping" || name == "Pong") }

// Sent implements Watcher.
func (t *Transcript) Sent(from *Node, to int, lane replication.Lane, m proto.Message, lost bool) {
	name, tail := MessageName(m), ""
	if t.hidden(name) {
		return
	}
	if lost {
		tail = " LOST"
	}
	t.line("%d>%d %s %s%s%s", from.slot, to, laneName(lane), name, t.fields(m), tail)
}

// Lost implements Watcher.
func (t *Transcript) Lost(from *Node, to int, lane replication.Lane, m proto.Message) {
	name := MessageName(m)
	if t.hidden(name) {
		return
	}
	t.line("%d>%d %s %s%s LOST on the way", from.slot, to, laneName(lane), name, t.fields(m))
}

func laneName(l replication.Lane) string {
	return map[replication.Lane]string{replication.LaneControl: "ctl ", replication.LaneData: "data", replication.LaneSnapshot: "snap"}[l]
}

// Linked implements Watcher.
func (t *Transcript) Linked(n *Node, to int, up bool) {
	delete(t.dialFail, [2]int{n.slot, to})
	if up {
		t.line("%d: connected with %d", n.slot, to)
	} else {
		t.line("%d: no connection with %d is left", n.slot, to)
	}
}

// DialFailed implements Watcher. Of a row of failures only the first is written.
func (t *Transcript) DialFailed(n *Node, to int, refused bool) {
	pair := [2]int{n.slot, to}
	if t.dialFail[pair] {
		return
	}
	t.dialFail[pair] = true
	how := "no answer"
	if refused {
		how = "refused"
	}
	t.line("%d: dials %d: %s", n.slot, to, how)
}

// Turned implements Watcher.
func (t *Transcript) Turned(n *Node) {
	if id := n.Core.ID(); t.names[id] == "" {
		t.line("%d: is %s", n.slot, t.id(id))
	}
	state, term := stateName(n.Core.Health()), n.Core.Term()
	if was := t.state[n]; was != "" && was != state {
		t.line("%d: %s -> %s", n.slot, was, state)
	}
	if was := t.term[n]; was != term {
		t.line("%d: term %d -> %d", n.slot, was, term)
	}
	t.state[n], t.term[n] = state, term
}

// Acked implements Watcher.
func (t *Transcript) Acked(n *Node, op, index uint64) {
	t.line("%d: acknowledges operation %d at index %d", n.slot, op, index)
}

// transcriptLog is the slog.Handler of a transcript. The cores log each change of their state once.
type transcriptLog struct {
	t    *Transcript
	node string
}

func (l transcriptLog) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

func (l transcriptLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		if a.Key == "node" {
			l.node = a.Value.String()
		}
	}
	return l
}

func (l transcriptLog) WithGroup(string) slog.Handler { return l }

func (l transcriptLog) Handle(_ context.Context, r slog.Record) error {
	var text strings.Builder
	text.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		v := a.Value.String()
		if c, err := strconv.ParseUint(v, 16, 64); a.Key == "cluster" && err == nil {
			v = l.t.cluster(c)
		}
		fmt.Fprintf(&text, ", %s %s", a.Key, l.t.readable(v))
		return true
	})
	l.t.line("%s: %s", l.node, text.String())
	return nil
}

// Names.

var (
	hexID    = regexp.MustCompile(`\b[0-9a-f]{16}\b`)
	idNames  = regexp.MustCompile(`\b[0-9]+\.[0-9p]+( [0-9]+\.[0-9p]+)+`)
	changeID = regexp.MustCompile(`\b[vlr][0-9]{15,20}\b`) // in raft's words for a configuration change
)

// readable replaces the ids in a text by their names.
func (t *Transcript) readable(s string) string {
	s = hexID.ReplaceAllStringFunc(s, func(hex string) string {
		id, _ := strconv.ParseUint(hex, 16, 64)
		return t.id(id)
	})
	s = changeID.ReplaceAllStringFunc(s, func(change string) string {
		id, _ := strconv.ParseUint(change[1:], 10, 64)
		return map[byte]string{'v': "+", 'l': "~", 'r': "-"}[change[0]] + t.id(id)
	})
	return idNames.ReplaceAllStringFunc(s, sortNames)
}

// sortNames orders a list of names by slot; the library orders ids by number.
func sortNames(s string) string {
	names := strings.Fields(s)
	slices.Sort(names)
	return strings.Join(names, " ")
}

// id names an id. A process is named in its first turn, so an id that is not known and nobody's is a placeholder.
func (t *Transcript) id(id uint64) string {
	if name := t.names[id]; name != "" {
		return name
	}
	for _, n := range t.sim.nodes {
		if n != nil && n.Core.ID() == id {
			t.runs[n.slot]++
			t.names[id] = fmt.Sprintf("%d.%d", n.slot, t.runs[n.slot])
			return t.names[id]
		}
	}
	slot := slices.IndexFunc(t.sim.hosts, func(host string) bool { return replication.HostTag(host) == replication.IDTag(id) })
	t.spares[slot]++
	t.names[id] = fmt.Sprintf("%d.p", slot)
	if n := t.spares[slot]; n > 1 {
		t.names[id] += strconv.Itoa(n)
	}
	return t.names[id]
}

func (t *Transcript) ids(ids []uint64) string {
	var names []string
	for _, id := range ids {
		names = append(names, t.id(id))
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func (t *Transcript) conf(voters, outgoing, learners []uint64) string {
	text := "voters " + t.ids(voters)
	if len(outgoing) > 0 {
		text += " outgoing " + t.ids(outgoing)
	}
	if len(learners) > 0 {
		text += " learners " + t.ids(learners)
	}
	return text
}

// cluster names a cluster by the order of its appearance.
func (t *Transcript) cluster(c uint64) string {
	if c == 0 {
		return "no cluster"
	}
	if t.clusters[c] == "" {
		t.clusters[c] = fmt.Sprintf("c%d", len(t.clusters)+1)
	}
	return t.clusters[c]
}

// host shortens the identity of a host to its slot.
func (t *Transcript) host(identity string) string {
	return slotName(slices.Index(t.sim.hosts, identity))
}

// ts prints an election timestamp as time since the simulation began.
func ts(ns int64) string {
	if ns <= 0 {
		return strconv.FormatInt(ns, 10)
	}
	return (time.Duration(ns-1_700_000_000*int64(time.Second)) - time.Second).String()
}

// Messages.

// MessageName returns the name of the seed message in an envelope: Ping, LeaderReq, Replicate and so on.
func MessageName(m proto.Message) string {
	return string(innermost(m).ProtoReflect().Descriptor().Name())
}

// innermost unwraps the oneofs of an envelope.
func innermost(m proto.Message) proto.Message {
	switch m.(type) {
	case *cachepb.CacheRequest, *cachepb.Ack, *cachepb.MgmtRequest, *cachepb.MgmtAck:
		r := m.ProtoReflect()
		if f := r.WhichOneof(r.Descriptor().Oneofs().Get(0)); f != nil {
			return innermost(r.Get(f).Message().Interface())
		}
	}
	return m
}

// fields tells what matters of a message.
func (t *Transcript) fields(m proto.Message) string {
	text, env := t.seedFields(innermost(m))
	if len(env.GetRaft()) > 0 {
		text += t.letter(env.GetRaft())
	}
	return text
}

// seedFields tells what matters of the seed's and the extension's fields, and returns the envelope.
func (t *Transcript) seedFields(m proto.Message) (string, *cachepb.Peer) {
	switch m := m.(type) {
	case *cachepb.Ping:
		return t.beat(m.GetBeat()), m.GetPeer()
	case *cachepb.Pong:
		return t.beat(m.GetBeat()), m.GetPeer()
	case *cachepb.LeaderReq:
		text := " ts " + ts(m.GetElectionTs())
		if m.GetForm() != nil {
			text += " form " + t.cluster(m.GetPeer().GetCluster()) + " of " + t.ids(m.GetForm().GetVoters())
		}
		return text, m.GetPeer()
	case *cachepb.LeaderReqAck:
		if j := m.GetJoin(); j != nil {
			return " join " + t.id(j.GetId()), m.GetPeer()
		}
		return "", m.GetPeer()
	case *cachepb.LeaderAck:
		return " ts " + ts(m.GetElectionTs()), m.GetPeer()
	case *cachepb.LeaderAckAck:
		return "", m.GetPeer()
	case *cachepb.LeaderSwitch:
		return " to " + t.host(m.GetVoteHost()), m.GetPeer()
	case *cachepb.LeaderSwitchAck:
		return "", m.GetPeer()
	case *cachepb.LeaderSwitchPriority:
		return " prefers " + t.host(m.GetVoteHost()), m.GetPeer()
	case *cachepb.LeaderDead:
		s := m.GetSuspicion()
		return fmt.Sprintf(" suspects %s term %d log %d/%d ts %s %v", t.id(s.GetLeader()), s.GetTerm(), s.GetLastTerm(), s.GetLastIndex(),
			ts(m.GetElectionTs()), s.GetReason()), m.GetPeer()
	case *cachepb.LeaderInfo:
		text := " leader " + t.host(m.GetAddr())
		if m.GetHasQuorum() {
			text += " quorum"
		}
		return text, m.GetPeer()
	case *cachepb.Replicate:
		if c := m.GetChunk(); c != nil {
			last := ""
			if c.GetLast() {
				last = " last"
			}
			return fmt.Sprintf(" chunk %d of %d bytes%s", c.GetSeq(), len(c.GetData()), last), m.GetPeer()
		}
		return "", m.GetPeer()
	case *cachepb.ReplicateAck:
		if c := m.GetChunkAck(); c != nil {
			return strings.TrimSuffix(fmt.Sprintf(" has chunk %d %s", c.GetSeq(), c.GetError()), " "), m.GetPeer()
		}
		return "", m.GetPeer()
	}
	return "", nil
}

func (t *Transcript) beat(b *cachepb.Beat) string {
	text := fmt.Sprintf(" commit %d", b.GetCommit())
	if age := b.GetQuorumAgeUs(); age != 0 && age != ^uint64(0) {
		text += fmt.Sprintf(" quorum %v ago", time.Duration(age)*time.Microsecond)
	}
	return text
}

// letter tells what matters of a Raft message.
func (t *Transcript) letter(raw []byte) string {
	m := &raftpb.Message{}
	if err := proto.Unmarshal(raw, m); err != nil {
		return " [not a letter]"
	}
	text := fmt.Sprintf(" [%s term %d", strings.TrimPrefix(m.GetType().String(), "Msg"), m.GetTerm())
	switch m.GetType() {
	case raftpb.MsgPreVote, raftpb.MsgVote:
		text += fmt.Sprintf(" log %d/%d", m.GetLogTerm(), m.GetIndex())
		if len(m.GetContext()) > 0 {
			text += " " + string(m.GetContext())
		}
	case raftpb.MsgApp:
		text += fmt.Sprintf(" after %d/%d commit %d%s", m.GetLogTerm(), m.GetIndex(), m.GetCommit(), t.entries(m.GetEntries()))
	case raftpb.MsgAppResp:
		text += fmt.Sprintf(" has %d", m.GetIndex())
		if m.GetReject() {
			text += fmt.Sprintf(", ends at %d/%d", m.GetLogTerm(), m.GetRejectHint())
		}
	case raftpb.MsgHeartbeat:
		text += fmt.Sprintf(" commit %d", m.GetCommit())
	case raftpb.MsgSnap:
		meta := m.GetSnapshot().GetMetadata()
		cs := meta.GetConfState()
		text += fmt.Sprintf(" at %d/%d %s", meta.GetTerm(), meta.GetIndex(), t.conf(cs.GetVoters(), cs.GetVotersOutgoing(), cs.GetLearners()))
	}
	if m.GetReject() {
		text += " REJECTED"
	}
	return text + "]"
}

func (t *Transcript) entries(ents []*raftpb.Entry) string {
	if len(ents) == 0 {
		return " empty"
	}
	if len(ents) > 3 && !slices.ContainsFunc(ents, func(e *raftpb.Entry) bool { return e.GetType() != raftpb.EntryNormal }) {
		return fmt.Sprintf(" entries %d to %d", ents[0].GetIndex(), ents[len(ents)-1].GetIndex())
	}
	var text strings.Builder
	for _, e := range ents {
		fmt.Fprintf(&text, " %d/%d", e.GetTerm(), e.GetIndex())
		switch {
		case e.GetType() == raftpb.EntryConfChangeV2:
			text.WriteString(t.change(e.GetData()))
		case len(e.GetData()) == 8:
			fmt.Fprintf(&text, " operation %d", binary.LittleEndian.Uint64(e.GetData()))
		}
	}
	return text.String()
}

// change tells a configuration change: +voter, ~learner, -removed.
func (t *Transcript) change(data []byte) string {
	cc := &raftpb.ConfChangeV2{}
	if err := proto.Unmarshal(data, cc); err != nil {
		return " (not a configuration change)"
	}
	if len(cc.GetChanges()) == 0 {
		return " (leave joint)"
	}
	text := ""
	for _, c := range cc.GetChanges() {
		mark := map[raftpb.ConfChangeType]string{raftpb.ConfChangeAddNode: "+", raftpb.ConfChangeAddLearnerNode: "~", raftpb.ConfChangeRemoveNode: "-"}[c.GetType()]
		text += " " + mark + t.id(c.GetNodeId())
	}
	return text
}

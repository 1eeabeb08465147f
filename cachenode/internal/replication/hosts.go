package replication

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/internal/mutant"
	"github.com/hacache/hacache/proto/cachepb"
)

// Hosts.
//
// A host is named by its identity, host:port. The list of hosts that make up the cluster is replicated state: formed
// from the configuration, changed only by a configuration change that carries the new one, and copied with snapshots.
// Locally a host has a slot, its place in a table that only grows; nodes may number hosts differently, so nothing on the
// wire rests on slots. What all agree on is a host's tag, 24 bits of a hash of its identity, which is the top of each id
// that its processes draw.

// MaxHosts is the most hosts a cluster has.
const MaxHosts = 7

// maxTable bounds the table of hosts ever heard of.
const maxTable = 4 * MaxHosts

const tagBits = 24

// HostTag returns the top 24 bits of the ids of a host's processes. It is never 0.
func HostTag(identity string) uint32 {
	return max(uint32(xxhash.Sum64String(identity)>>(64-tagBits)), 1)
}

// IDTag returns the tag of the host that an id was drawn for.
func IDTag(id uint64) uint32 { return uint32(id >> (64 - tagBits)) }

// hosts is the table and the list.
type hosts struct {
	table   []string // by slot; only grows
	tags    []uint32
	members []int // the cluster's list, as slots, sorted by identity
	before  []int // the list of the outgoing half, during a change; empty and not nil if it is not known
	hash    uint64
	q       int    // a majority of members
	started uint64 // hash of the list that this process was started with
	retired bool   // this host was taken out of the list while its process ran: it must not form a cluster of an old one
}

// checkHosts validates a list of hosts.
func checkHosts(list []string) error {
	if len(list) == 0 || len(list) > MaxHosts {
		return fmt.Errorf("replication: %d hosts, want 1 to %d", len(list), MaxHosts)
	}
	tags := map[uint32]string{}
	for _, h := range list {
		if h == "" {
			return errors.New("replication: a host without a name")
		}
		if other, ok := tags[HostTag(h)]; ok {
			if other == h {
				return fmt.Errorf("replication: host %s is named twice", h)
			}
			return fmt.Errorf("replication: hosts %s and %s have the same tag; rename one of them", other, h)
		}
		tags[HostTag(h)] = h
	}
	return nil
}

// slot returns the slot of a host, or -1.
func (h *hosts) slot(identity string) int { return slices.Index(h.table, identity) }

// of returns the slot of the host that an id was drawn for, or -1.
func (h *hosts) of(id uint64) int { return slices.Index(h.tags, IDTag(id)) }

func (h *hosts) isMember(slot int) bool { return slices.Contains(h.members, slot) }

// names returns the identities of slots.
func (h *hosts) names(slots []int) []string {
	names := make([]string, len(slots))
	for i, s := range slots {
		names[i] = h.table[s]
	}
	return names
}

// learn makes a host known and returns its slot; -1 if the table is full, or its tag is another host's.
func (c *Core) learn(identity string) int {
	if s := c.hosts.slot(identity); s >= 0 {
		return s
	}
	if identity == "" || len(c.hosts.table) >= maxTable || slices.Contains(c.hosts.tags, HostTag(identity)) {
		return -1
	}
	slot := len(c.hosts.table)
	c.hosts.table = append(c.hosts.table, identity)
	c.hosts.tags = append(c.hosts.tags, HostTag(identity))
	c.peers = append(c.peers, &peer{slot: slot, addr: identity})
	c.cfg.Transport.AddHost(slot, identity)
	c.log.Info("learned of a host", "slot", slot, "host", identity)
	return slot
}

// setMembers makes list the cluster's.
func (c *Core) setMembers(list []string) {
	h := &c.hosts
	h.members = nil
	for _, name := range list {
		if s := c.learn(name); s >= 0 {
			h.members = append(h.members, s)
		}
	}
	slices.SortFunc(h.members, func(a, b int) int { return strings.Compare(h.table[a], h.table[b]) })
	h.q = majority(len(h.members))
	h.hash = hashHosts(h.names(h.members))
	h.retired = h.retired && !h.isMember(c.cfg.Self)
}

func majority(n int) int { return n/2 + 1 }

// hashHosts names a sorted list of hosts.
func hashHosts(list []string) uint64 {
	d := xxhash.New()
	for _, name := range list {
		d.WriteString(name)
		d.Write([]byte{0})
	}
	return d.Sum64()
}

// Host returns the identity of a slot, or "".
func (c *Core) Host(slot int) string {
	if slot < 0 || slot >= len(c.hosts.table) {
		return ""
	}
	return c.hosts.table[slot]
}

// Slot returns the slot of a host, or -1.
func (c *Core) Slot(identity string) int { return c.hosts.slot(identity) }

// Members returns the identities of the cluster's hosts, sorted.
func (c *Core) Members() []string { return c.hosts.names(c.hosts.members) }

// SetMembers asks this leader to change the list of hosts. Processes of new hosts must be running and reachable; they
// become learners, and when all of them have caught up, one joint change makes them voters, takes out who is not listed,
// and carries the new list. It returns at once; MembersPending tells when it is done, MembersRefused why it will not be.
// A change of leader forgets it. Errors are ErrNotLeader, a list that is not one, and a *StaleHostsError unless vouched:
// then the caller vouches that no process will be started with an outdated list.
func (c *Core) SetMembers(list []string, vouched bool) error {
	if err := checkHosts(list); err != nil {
		return err
	}
	if !c.Leading() {
		return ErrNotLeader
	}
	list = slices.Sorted(slices.Values(list))
	for _, name := range list {
		if c.learn(name) < 0 {
			return fmt.Errorf("replication: host %s cannot be added to the table of known hosts", name)
		}
	}
	if !vouched {
		if err := c.checkStarted(list); err != nil {
			return err
		}
	}
	c.member.target, c.member.vouched, c.member.refused = list, vouched, nil
	return nil
}

// MembersRefused returns why the last call of SetMembers was given up, nil if it was not.
func (c *Core) MembersRefused() error { return c.member.refused }

// StaleHostsError says that a change of hosts would allow a second cluster beside this one.
type StaleHostsError struct {
	Hosts []string // of which some have to be started with the right list first, or stopped
	Why   string
}

func (e *StaleHostsError) Error() string {
	return fmt.Sprintf("replication: %s: %s", strings.Join(e.Hosts, ", "), e.Why)
}

// checkStarted verifies that a change of the list leaves no way to a second cluster. A process knows only the list that
// it was started with: two of three hosts that grew to five and restart with the list of three, cut off from the others,
// are a majority of what they know and would form a cluster beside the one that lives on without them.
//
// So, for the old list and for the new one as what the cluster is: of the hosts that would form a cluster of some list,
// as many as can be empty while the cluster lives must be fewer than a majority of that list. Those are the hosts outside
// of the cluster that run, and as many of its members as may fail. A host that leaves and does not run is trusted not to
// come back; a member that is not seen counts as started with the old list.
func (c *Core) checkStarted(target []string) error {
	old := c.Members()
	lists := [][]string{old, target}
	would := make([][]string, len(lists)) // by list, the hosts that would form a cluster of it
	for _, name := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(old, target)))) {
		slot, started, joinOnly := c.hosts.slot(name), c.hosts.started, c.cfg.JoinOnly
		if slot != c.cfg.Self {
			s := c.freshStatus(c.peers[slot])
			switch {
			case s != nil:
				started, joinOnly = s.GetStartedHash(), s.GetJoinOnly()
			case !slices.Contains(old, name) || !slices.Contains(target, name):
				continue // does not run: not yet, or not any more
			default:
				started, joinOnly = hashHosts(old), false
			}
		}
		if joinOnly {
			continue
		}
		i := slices.IndexFunc(lists, func(list []string) bool { return hashHosts(list) == started })
		if i < 0 {
			return &StaleHostsError{Hosts: []string{name}, Why: "was started with a list of hosts that is neither the present nor the new one; restart it with the new one"}
		}
		would[i] = append(would[i], name)
	}
	for _, cluster := range lists {
		for i, hosts := range would {
			inside := 0
			for _, name := range hosts {
				if slices.Contains(cluster, name) {
					inside++
				}
			}
			empty := len(hosts) - inside + min(inside, len(cluster)-majority(len(cluster)))
			switch {
			case empty < majority(len(lists[i])):
			case i == 0:
				return &StaleHostsError{Hosts: hosts, Why: "would form a cluster of the old list if some of them restarted at once; restart who stays with the new list, one at a time, and stop who leaves"}
			default:
				return &StaleHostsError{Hosts: hosts, Why: "would form a cluster of the new list before it is in force; start new hosts with CACHE_JOIN_ONLY, and write a list that shrinks after the change"}
			}
		}
	}
	return nil
}

// CancelMembers gives up working towards a new list, unless the change is already in the log.
func (c *Core) CancelMembers() { c.member.target = nil }

// MembersPending returns the list that SetMembers is working towards, nil if none.
func (c *Core) MembersPending() []string { return c.member.target }

// wanted reports whether a slot is in the cluster's list or shall be.
func (c *Core) wanted(slot int) bool {
	return c.hosts.isMember(slot) || slices.Contains(c.member.target, c.hosts.table[slot])
}

// changeHosts returns the configuration change that makes the target the list, nil while there is none to make or a new
// host is not ready.
func (c *Core) changeHosts() *raftpb.ConfChangeV2 {
	target := c.member.target
	if target == nil {
		return nil
	}
	if slices.Equal(target, c.Members()) {
		c.member.target = nil
		return nil
	}
	var pairs []any
	for _, name := range target {
		slot := c.hosts.slot(name)
		if c.hosts.isMember(slot) {
			continue
		}
		p := c.peers[slot]
		if p == nil || p.id == 0 || c.memberAt(c.conf.GetLearners(), slot) != p.id || !c.caughtUp(p) {
			return nil
		}
		pairs = append(pairs, raftpb.ConfChangeAddNode, p.id)
	}
	if err := c.checkStarted(target); err != nil && !c.member.vouched {
		// Somebody came up with a wrong list since the operator asked.
		c.member.target, c.member.refused = nil, err
		return nil
	}
	for _, slot := range c.hosts.members {
		if slices.Contains(target, c.hosts.table[slot]) {
			continue
		}
		pairs = append(pairs, raftpb.ConfChangeRemoveNode, c.memberAt(c.conf.GetVoters(), slot))
		if l := c.memberAt(c.conf.GetLearners(), slot); l != 0 {
			pairs = append(pairs, raftpb.ConfChangeRemoveNode, l)
		}
	}
	cc := changes(pairs...)
	cc.Context = encodeHosts(target)
	return cc
}

func encodeHosts(list []string) []byte {
	b, err := proto.Marshal(&cachepb.MembersSet{Hosts: list})
	if err != nil {
		panic(fmt.Sprintf("replication: marshal hosts: %v", err)) // cannot be: checked names
	}
	return b
}

func decodeHosts(b []byte) ([]string, error) {
	m := &cachepb.MembersSet{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("replication: list of hosts: %w", err)
	}
	return m.GetHosts(), checkHosts(m.GetHosts())
}

// noteHosts follows the list through an applied configuration change.
func (c *Core) noteHosts(cc *raftpb.ConfChangeV2) {
	h := &c.hosts
	if len(cc.GetContext()) > 0 {
		list, err := decodeHosts(cc.GetContext())
		if err != nil {
			panic(fmt.Sprintf("replication: a committed change of hosts: %v", err)) // a leader of this version proposed it
		}
		h.before = h.members
		h.retired = h.isMember(c.cfg.Self)
		c.setMembers(list)
		c.log.Info("the cluster's hosts changed", "were", h.names(h.before), "are", h.names(h.members))
	}
	if len(c.conf.GetVotersOutgoing()) == 0 {
		h.before = nil
	}
}

// CheckMembership verifies invariant I2 on the applied configuration: each half has exactly one id per host of its list,
// or is empty.
func (c *Core) CheckMembership() error {
	if mutant.On(mutant.NoPlaceholders) {
		return nil // let its consequences be found rather than the cause
	}
	if err := c.checkHalf(c.conf.GetVoters(), c.hosts.members); err != nil {
		return err
	}
	switch before := c.hosts.before; {
	case before == nil:
		return c.checkHalf(c.conf.GetVotersOutgoing(), c.hosts.members)
	case len(before) == 0:
		return nil // a snapshot from the middle of a change does not tell the list before
	default:
		return c.checkHalf(c.conf.GetVotersOutgoing(), before)
	}
}

func (c *Core) checkHalf(ids []uint64, members []int) error {
	if len(ids) == 0 {
		return nil
	}
	var slots []int
	for _, id := range ids {
		slots = append(slots, c.hosts.of(id))
	}
	slices.Sort(slots)
	want := slices.Sorted(slices.Values(members))
	if cmp.Compare(len(slots), len(want)) != 0 || !slices.Equal(slots, want) {
		return fmt.Errorf("replication: a half of the configuration does not have one id per host: %s", confString(c.conf))
	}
	return nil
}

package node

import (
	"context"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/hacache/hacache/cachenode/internal/gateway"
	"github.com/hacache/hacache/cachenode/internal/replication"
	"github.com/hacache/hacache/proto/cachepb"
)

// liveHeap is the figure that tells data from garbage, of all that the runtime counts beside what it always shows.
var liveHeap = collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/gc/heap/live:bytes$`)}

// registry gathers everything that the node counts.
func (n *Node) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(liveHeap)),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		n.Collector(),
	)
	return r
}

// Collector returns the metrics of this node, cachenode_…, for the registry of a program that it is embedded in. Several
// nodes of one program are told apart by labels, with prometheus.WrapCollectorWith.
func (n *Node) Collector() prometheus.Collector { return metrics{n} }

// metrics collects the counters of core, gateway, store and transport when they are asked for: the hot path pays for
// plain integers only.
type metrics struct{ n *Node }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("cachenode_"+name, help, labels, nil)
}

var (
	descReady       = desc("ready", "1 while the node is a voter with a fresh view.")
	descLeading     = desc("leading", "1 while the node leads and takes proposals.")
	descTerm        = desc("term", "Raft's term.")
	descApplied     = desc("applied_index", "Index of the last applied log entry.")
	descStaleness   = desc("staleness_seconds", "Age of the node's view; absent while it can prove nothing.")
	descRole        = desc("role", "1 for what the node is in its cluster, 0 for what it is not.", "role")
	descLeaders     = desc("leader_changes_total", "Leaders this node has seen, by why there was another: as far as this node knows.", "reason")
	descElections   = desc("elections_total", "Candidacies started by this node.")
	descSuspicions  = desc("suspicions_total", "Leaders suspected because all connections broke.")
	descAbandons    = desc("abandons_total", "Times this node gave its copy up.")
	descStalls      = desc("stalls_total", "Pauses of the node's loop of more than 50 ms.")
	descLetters     = desc("letters_dropped_total", "Raft messages dropped by the letter filter.")
	descSnapshots   = desc("snapshots_total", "Snapshot transfers by outcome.", "outcome")
	descSnapBytes   = desc("snapshot_bytes_total", "Bytes of snapshots sent and received.", "direction")
	descSnapActive  = desc("snapshot_transfers", "Snapshots being sent and received now.", "direction")
	descSnapPart    = desc("snapshot_progress_ratio", "How much of the snapshot being sent was read; 0 while none is.")
	descLogEntries  = desc("log_retained_entries", "Log entries held for members that lag.")
	descLogBytes    = desc("log_retained_bytes", "Bytes of the log entries held for members that lag.")
	descPeerLag     = desc("peer_lag_entries", "Log entries that the peer does not have, as far as this leader knows; absent on others.", "peer")
	descInbox       = desc("inbox_waiting", "What waits for the loop's next turn.", "kind")
	descInboxFull   = desc("inbox_full_total", "What the full inbox of the loop refused or dropped.", "kind")
	descLaneWaits   = desc("lane_waits_total", "Times a data or snapshot lane of a peer was not read on because the loop was behind.")
	descForwarded   = desc("operations_forwarded_total", "Writes sent to the leader by this gateway; resent ones count again.")
	descResent      = desc("operations_resent_total", "Writes sent again after a change of leader or connection.")
	descLost        = desc("puts_lost_total", "Acknowledged Put and Del that no leader took in time.")
	descBatches     = desc("log_batches_total", "Log entries proposed by this node.")
	descBatched     = desc("log_operations_total", "Writes in them.")
	descQueued      = desc("operations_queued", "Writes that wait for a leader or their turn.")
	descPending     = desc("operations_pending_bytes", "Bytes of writes kept until they are answered and applied.")
	descOverlay     = desc("overlay_bytes", "Bytes acknowledged here and not applied here yet.")
	descGatewayFull = desc("gateway_full_total", "Times a bound of the gateway was reached.", "bound")
	descEntries     = desc("cache_entries", "Entries of a cache.", "cache")
	descBytes       = desc("cache_bytes", "Bytes of a cache, with overhead.", "cache")
	descEvictions   = desc("cache_evictions_total", "Entries evicted for room.", "cache")
	descExpirations = desc("cache_expirations_total", "Entries removed after their time.", "cache")
	descOverridden  = desc("policies_overridden", "1 while the cluster has other cache policies than this node was given; the cluster's are in force.")
	descStateHash   = desc("state_hash", "53 bits of the hash of the replicated state; equal on all nodes at an equal state_hash_index.")
	descStateIndex  = desc("state_hash_index", "The log index that state_hash is of.")
	descPeerSent    = desc("peer_messages_total", "Messages between nodes, by what became of them.", "result")
	descPeerUp      = desc("peer_up", "1 while any stream with a peer is up.", "peer")
	descPeerQueue   = desc("peer_queue_bytes", "Bytes queued for a peer's stream.", "peer", "direction", "lane")
	descPeerWaiting = desc("peer_queue_messages", "Messages queued for a peer's stream.", "peer", "direction", "lane")
	descPeerDials   = desc("peer_dials_total", "Attempts to connect to peers, by result.", "result")
	descRTT         = desc("peer_rtt_seconds", "Smoothed round trip time to a peer; absent before the first.", "peer")
	descExpiry      = desc("certificate_expiry_timestamp_seconds", "When a certificate in use ends: the first of a chain, the last of a bundle of CAs.", "certificate")
	descReloads     = desc("certificate_reloads_total", "Changes of the certificate files that were taken over, or could not be.", "result")
	descMemory      = desc("memory_bound_bytes", "What a part of the node may hold at most, without connections and garbage; data is what it holds now.", "part")
	descBuild       = desc("build_info", "1, with what the program was built from.", "version", "revision", "goversion")
	descReads       = desc("reads_waiting", "Reads that wait for the leader.")
	descWatches     = desc("watches", "Streams and loops of this program that watch caches.")
	descWatchTold   = desc("watch_told_total", "Changes and gaps told, once for each watch.")
	descWatchGaps   = desc("watch_gaps_total", "Gaps told to those who watch; slow are those that read too slowly.", "reason")
	descWatchKept   = desc("watch_kept_changes", "Changes kept for those who watch.")
	descWatchBytes  = desc("watch_kept_bytes", "Their bytes.")
)

// Describe implements prometheus.Collector. The set of metrics is fixed but for labels, so describing by collecting is
// exact enough and cannot drift.
func (m metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descReady, descRole, descLeading, descTerm, descApplied, descStaleness, descLeaders, descElections, descSuspicions, descAbandons,
		descStalls, descLetters, descSnapshots, descSnapBytes, descSnapActive, descSnapPart,
		descLogEntries, descLogBytes, descPeerLag, descInbox, descInboxFull, descLaneWaits, descForwarded, descResent, descLost, descBatches,
		descBatched, descQueued, descPending, descOverlay, descGatewayFull, descEntries, descBytes, descEvictions,
		descExpirations, descStateHash, descStateIndex, descPeerSent, descPeerUp, descPeerQueue, descPeerWaiting, descPeerDials, descRTT,
		descExpiry, descReloads, descMemory, descBuild, descReads, descOverridden, descWatches, descWatchTold, descWatchGaps, descWatchKept, descWatchBytes,
	} {
		ch <- d
	}
	m.n.server.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m metrics) Collect(ch chan<- prometheus.Metric) {
	m.n.server.Collect(ch)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	build := Build()
	gauge(descBuild, 1, build.Version, build.Revision, build.Go)
	for part, bytes := range m.n.memoryBounds() {
		gauge(descMemory, float64(bytes), part)
	}
	messages, operations := m.n.runner.Depth()
	gauge(descInbox, float64(messages), "messages")
	gauge(descInbox, float64(operations), "operations")
	counter(descInboxFull, m.n.runner.Full(), "operations")
	counter(descInboxFull, m.n.runner.Dropped(), "messages")
	counter(descLaneWaits, m.n.runner.Waits())
	m.collectStore(gauge, counter)
	m.collectPeers(gauge, counter)
	m.collectKeys(gauge, counter)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var s loopState
	if m.n.runner.Call(ctx, func(c *replication.Core) { s.read(c, m.n.gw) }) == nil {
		m.collectLoop(&s, gauge, counter)
	}
}

// loopState is what only the runner's goroutine may look at.
type loopState struct {
	core               replication.Stats
	gw                 gateway.Stats
	role               replication.Role
	last               uint64
	logEntries         int
	logBytes           uint64
	sending, receiving bool
	progress           float64
	hosts              []*cachepb.HostHealth
	self               string
}

func (s *loopState) read(c *replication.Core, gw *gateway.Gateway) {
	s.core, s.gw, s.role, s.last = c.Stats(), gw.Stats(), c.Role(), c.Last()
	s.logEntries, s.logBytes = c.LogSize()
	s.sending, s.progress, s.receiving = c.SnapshotProgress()
	s.hosts, s.self = c.Health().GetHostHealth(), c.Host(c.Self())
}

func (m metrics) collectLoop(s *loopState, gauge gaugeFunc, counter counterFunc) {
	core, gw := s.core, s.gw
	v := m.n.runner.View()
	gauge(descReady, truth(v.Ready))
	gauge(descLeading, truth(v.Leading))
	gauge(descTerm, float64(v.Term))
	gauge(descApplied, float64(v.Applied))
	if v.Fresh {
		gauge(descStaleness, max(replication.Now()-v.AsOf, 0).Seconds())
	}
	for role := range replication.NumRoles {
		gauge(descRole, truth(role == s.role), role.String())
	}
	for reason := replication.ChangeNone + 1; reason < replication.NumChanges; reason++ {
		counter(descLeaders, core.LeaderChanges[reason], reason.String())
	}
	counter(descElections, core.Elections)
	counter(descSuspicions, core.Suspicions)
	counter(descAbandons, core.Abandons)
	counter(descStalls, core.Stalls)
	counter(descLetters, core.LettersDropped)
	counter(descSnapshots, core.SnapshotsSent, "sent")
	counter(descSnapshots, core.SnapshotsFailed, "failed")
	counter(descSnapshots, core.SnapshotsTaken, "installed")
	counter(descSnapBytes, core.SnapshotSent, "sent")
	counter(descSnapBytes, core.SnapshotGot, "received")
	gauge(descSnapActive, truth(s.sending), "sent")
	gauge(descSnapActive, truth(s.receiving), "received")
	gauge(descSnapPart, s.progress)
	gauge(descLogEntries, float64(s.logEntries))
	gauge(descLogBytes, float64(s.logBytes))
	counter(descForwarded, gw.Forwarded)
	counter(descResent, gw.Resent)
	counter(descLost, gw.PutsLost)
	counter(descBatches, gw.Batches)
	counter(descBatched, gw.BatchedOps)
	gauge(descQueued, float64(gw.Queued))
	gauge(descPending, float64(gw.PendingBytes))
	gauge(descOverlay, float64(gw.OverlayBytes))
	counter(descGatewayFull, gw.FullPending, "bytes")
	counter(descGatewayFull, gw.FullWait, "wait")
	counter(descGatewayFull, gw.FullTwins, "copies")
	counter(descGatewayFull, gw.FullWindow, "window")
	gauge(descWatches, float64(gw.Watches))
	counter(descWatchTold, gw.WatchTold)
	for reason, n := range gw.WatchGaps {
		counter(descWatchGaps, n, strings.ToLower(cachepb.Gap_Reason(reason).String()))
	}
	gauge(descWatchKept, float64(gw.WatchKept))
	gauge(descWatchBytes, float64(gw.WatchKeptBytes))
	gauge(descReads, float64(gw.Reads))
	for _, h := range s.hosts {
		if h.GetAddr() == s.self {
			continue
		}
		gauge(descPeerUp, truth(h.GetConnected()), h.GetAddr())
		if rtt := h.GetRttUs(); rtt > 0 {
			gauge(descRTT, float64(rtt)/1e6, h.GetAddr())
		}
		if s.role == replication.RoleLeader {
			gauge(descPeerLag, float64(s.last-min(h.GetMatch(), s.last)), h.GetAddr())
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

type (
	gaugeFunc   func(d *prometheus.Desc, v float64, labels ...string)
	counterFunc func(d *prometheus.Desc, v uint64, labels ...string)
)

func (m metrics) collectStore(gauge gaugeFunc, counter counterFunc) {
	for _, c := range m.n.store.Stats().Caches {
		gauge(descEntries, float64(c.Entries), c.Name)
		gauge(descBytes, float64(c.Bytes), c.Name)
		counter(descEvictions, c.Evictions, c.Name)
		counter(descExpirations, c.Expirations, c.Name)
	}
	gauge(descOverridden, truth(m.n.policiesOverridden()))
	applied, hash := m.n.store.Digest()
	gauge(descStateHash, float64(hash>>11))
	gauge(descStateIndex, float64(applied))
}

func (m metrics) collectKeys(gauge gaugeFunc, counter counterFunc) {
	n := m.n
	if n.keys == nil {
		return
	}
	for _, e := range n.keys.Expiry() {
		gauge(descExpiry, float64(e.Time.Unix()), e.Certificate)
	}
	n.reloads.mu.Lock()
	ok, failed := n.reloads.ok, n.reloads.failed
	n.reloads.mu.Unlock()
	counter(descReloads, ok, "ok")
	counter(descReloads, failed, "failed")
}

func (m metrics) collectPeers(gauge gaugeFunc, counter counterFunc) {
	s := m.n.peers.Stats()
	counter(descPeerSent, s.Sent, "sent")
	counter(descPeerSent, s.Received, "received")
	counter(descPeerSent, s.Reversed, "reversed")
	counter(descPeerSent, s.DroppedNoLink, "dropped_no_link")
	counter(descPeerSent, s.DroppedFull, "dropped_full")
	counter(descPeerSent, s.DroppedTooLarge, "dropped_too_large")
	counter(descPeerSent, s.DroppedDown, "dropped_down")
	counter(descPeerDials, s.Dials, "tried")
	counter(descPeerDials, s.DialFailures, "failed")
	counter(descPeerDials, s.DialRefusals, "refused")
	counter(descPeerDials, s.Silences, "silent")
	for _, l := range s.Links {
		gauge(descPeerQueue, float64(l.QueueBytes), l.Host, l.Direction.String(), l.Lane.String())
		gauge(descPeerWaiting, float64(l.QueueMessages), l.Host, l.Direction.String(), l.Lane.String())
	}
}

package node

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/hacache/hacache/cachenode/internal/gateway"
	"github.com/hacache/hacache/cachenode/internal/replication"
)

// registry gathers everything that the node counts.
func (n *Node) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		n.server,
		metrics{n},
	)
	return r
}

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
	descLeaders     = desc("leader_changes_total", "Leaders this node has seen.")
	descElections   = desc("elections_total", "Candidacies started by this node.")
	descSuspicions  = desc("suspicions_total", "Leaders suspected because all connections broke.")
	descAbandons    = desc("abandons_total", "Times this node gave its copy up.")
	descStalls      = desc("stalls_total", "Pauses of the node's loop of more than 50 ms.")
	descLetters     = desc("letters_dropped_total", "Raft messages dropped by the letter filter.")
	descSnapshots   = desc("snapshots_total", "Snapshot transfers by outcome.", "outcome")
	descInboxFull   = desc("inbox_full_total", "What the full inbox of the loop refused or dropped.", "kind")
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
	descStateHash   = desc("state_hash", "53 bits of the hash of the replicated state; equal on all nodes at an equal state_hash_index.")
	descStateIndex  = desc("state_hash_index", "The log index that state_hash is of.")
	descPeerSent    = desc("peer_messages_total", "Messages between nodes, by what became of them.", "result")
	descPeerQueue   = desc("peer_queue_bytes", "Bytes queued for a peer's stream.", "slot", "direction", "lane")
	descPeerDials   = desc("peer_dials_total", "Attempts to connect to peers, by result.", "result")
	descRTT         = desc("peer_rtt_seconds", "Smoothed round trip time to a peer.", "peer")
)

// Describe implements prometheus.Collector. The set of metrics is fixed but for labels, so describing by collecting is
// exact enough and cannot drift.
func (m metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descReady, descLeading, descTerm, descApplied, descStaleness, descLeaders, descElections, descSuspicions, descAbandons,
		descStalls, descLetters, descSnapshots, descInboxFull, descForwarded, descResent, descLost, descBatches,
		descBatched, descQueued, descPending, descOverlay, descGatewayFull, descEntries, descBytes, descEvictions,
		descExpirations, descStateHash, descStateIndex, descPeerSent, descPeerQueue, descPeerDials, descRTT,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	truth := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	var core replication.Stats
	var gw gateway.Stats
	rtt := map[string]float64{}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if m.n.runner.Call(ctx, func(c *replication.Core) {
		core, gw = c.Stats(), m.n.gw.Stats()
		for _, h := range c.Health().GetHostHealth() {
			rtt[h.GetAddr()] = float64(h.GetRttUs()) / 1e6
		}
	}) != nil {
		return
	}
	v := m.n.runner.View()
	gauge(descReady, truth(v.Ready))
	gauge(descLeading, truth(v.Leading))
	gauge(descTerm, float64(v.Term))
	gauge(descApplied, float64(v.Applied))
	if v.Fresh {
		gauge(descStaleness, max(replication.Now()-v.AsOf, 0).Seconds())
	}
	counter(descLeaders, core.LeaderChanges)
	counter(descElections, core.Elections)
	counter(descSuspicions, core.Suspicions)
	counter(descAbandons, core.Abandons)
	counter(descStalls, core.Stalls)
	counter(descLetters, core.LettersDropped)
	counter(descSnapshots, core.SnapshotsSent, "sent")
	counter(descSnapshots, core.SnapshotsFailed, "failed")
	counter(descSnapshots, core.SnapshotsTaken, "installed")
	counter(descInboxFull, m.n.runner.Full(), "operations")
	counter(descInboxFull, m.n.runner.Dropped(), "messages")
	counter(descForwarded, gw.Forwarded)
	counter(descResent, gw.Resent)
	counter(descLost, gw.PutsLost)
	counter(descBatches, gw.Batches)
	counter(descBatched, gw.BatchedOps)
	gauge(descQueued, float64(gw.Queued))
	gauge(descPending, float64(gw.PendingBytes))
	gauge(descOverlay, float64(gw.OverlayBytes))
	counter(descGatewayFull, gw.FullPending, "bytes")
	counter(descGatewayFull, gw.FullWindow, "window")
	for peer, seconds := range rtt {
		gauge(descRTT, seconds, peer)
	}
	m.collectStore(gauge, counter)
	m.collectPeers(gauge, counter)
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
	applied, hash := m.n.store.Digest()
	gauge(descStateHash, float64(hash>>11))
	gauge(descStateIndex, float64(applied))
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
		gauge(descPeerQueue, float64(l.QueueBytes), strconv.Itoa(l.Slot), l.Direction.String(), l.Lane.String())
	}
}

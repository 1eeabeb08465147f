package server

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// stats are counted on the readers; each is one atomic add.
type stats struct {
	gets, writes, mgmt atomic.Uint64
	overloaded         atomic.Uint64 // writes refused because the Backend had no room
	windowFull         atomic.Uint64 // times a reader stopped reading
	streamsFull        atomic.Uint64 // streams refused because there were too many
	denied             [len(deniedReasons)]atomic.Uint64
	handshakes         [len(handshakeReasons)]atomic.Uint64 // failed, as in handshakeReasons
	stalled            atomic.Uint64                        // streams that were ended because the client did not read
}

var (
	descSessions = prometheus.NewDesc("cachenode_sessions", "Client streams.", nil, nil)
	descRequests = prometheus.NewDesc("cachenode_requests_total", "Requests of clients, items of batches each.", []string{"kind"}, nil)
	descOverload = prometheus.NewDesc("cachenode_requests_overloaded_total", "Writes refused because the node's inbox was full.", nil, nil)
	descWindow   = prometheus.NewDesc("cachenode_session_window_full_total", "Times a stream was not read on because its window was full.", nil, nil)
	descStalled  = prometheus.NewDesc("cachenode_sessions_stalled_total", "Streams ended, with their connections, because the client did not take its answers.", nil, nil)
	descHeld     = prometheus.NewDesc("cachenode_answers_waiting_bytes", "Bytes of answers that wait until their clients take them.", nil, nil)
	descConns    = prometheus.NewDesc("cachenode_connections", "Connections of clients and peers, and of those that have not said who they are.", nil, nil)
	descAccepted = prometheus.NewDesc("cachenode_connections_accepted_total", "Connections accepted.", nil, nil)
	descConnFull = prometheus.NewDesc("cachenode_connections_full_total", "What a full node did: evicted a connection without a stream, refused a client, refused a stream.", []string{"what"}, nil)
	descDenied   = prometheus.NewDesc("cachenode_streams_denied_total", "Streams refused for a missing or wrong token, or because they claim to be a peer's and are not.", []string{"reason"}, nil)
	descProbes   = prometheus.NewDesc("cachenode_health_streams_full_total", "Streams of the health service that were refused because their connection had too many, or ended because their question did not come.", []string{"what"}, nil)
	descRefused  = prometheus.NewDesc("cachenode_handshake_failures_total", "Connections that ended before they were secured, by reason; tls is a client that speaks TLS to a port that does not.", []string{"reason"}, nil)
)

// Describe implements prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descSessions, descRequests, descOverload, descWindow, descStalled, descHeld, descConns, descAccepted, descConnFull, descDenied, descProbes, descRefused, descOps, descLatency, descGets,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	n, all := len(s.sessions), s.ended
	for sess := range s.sessions {
		sess.count.mergeInto(&all)
	}
	s.mu.Unlock()
	s.program.mergeInto(&all)
	all.collect(ch)
	counter := func(d *prometheus.Desc, v *atomic.Uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v.Load()), labels...)
	}
	ch <- prometheus.MustNewConstMetric(descSessions, prometheus.GaugeValue, float64(n))
	counter(descRequests, &s.stats.gets, "get")
	counter(descRequests, &s.stats.writes, "write")
	counter(descRequests, &s.stats.mgmt, "mgmt")
	counter(descOverload, &s.stats.overloaded)
	counter(descWindow, &s.stats.windowFull)
	counter(descStalled, &s.stats.stalled)
	ch <- prometheus.MustNewConstMetric(descHeld, prometheus.GaugeValue, float64(s.held.Load()))
	ch <- prometheus.MustNewConstMetric(descConns, prometheus.GaugeValue, float64(s.gates.open.Load()))
	counter(descAccepted, &s.gates.accepted)
	counter(descConnFull, &s.gates.evicted, "evicted")
	counter(descConnFull, &s.gates.refused, "client_refused")
	counter(descProbes, &s.probes.refused, "refused")
	counter(descProbes, &s.probes.evicted, "evicted")
	counter(descConnFull, &s.stats.streamsFull, "stream_refused")
	for i, reason := range deniedReasons {
		counter(descDenied, &s.stats.denied[i], reason)
	}
	for i, reason := range handshakeReasons {
		counter(descRefused, &s.stats.handshakes[i], reason)
	}
}

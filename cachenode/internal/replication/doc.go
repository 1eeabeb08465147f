// Package replication is the replicated log of a cache node: who is a member, who leads, what is committed, and how old
// a node's view may be.
//
// [Core] is a pure state machine over go.etcd.io/raft: it is told what arrived and what time it is, and it answers by
// calling its [Transport] and its [Upper]. It has no goroutine, no clock and no socket, so a simulation drives whole
// clusters of cores through any schedule. [Runner] is the one goroutine that drives a core in production.
//
// The wire is the cache's own contract. Each Raft message travels unmodified inside the seed message that has the same
// job (envelope.go): a vote request is a LeaderReq, a heartbeat is a Ping. Nodes keep nothing on disk, so a process that
// starts again is a new Raft member (membership.go); its slot, its place in the list of hosts, stays.
//
// Words: a slot is a place in the list of hosts; an incarnation, or id, is one process run at a slot; a cluster is one
// Raft group, formed once. q is the number of slots that make a majority.
package replication

package main

import (
	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/loadgen/load"
)

// row is one kind of load on one system.
type row struct {
	name      string // unique
	load      string // what rows that are shown together have in common
	system    string // the name that it gives itself
	operation string // as the system calls it
	base      string // the row that stands for the machine

	kind    client.Kind
	streams int // connections or streams
	window  int // operations in flight on each
	batch   bool
	route   load.Route // of ours
}

// The loads.
const (
	conns     = 8 // connections, where streams share them
	loadPlain = "One operation a message, 256 in flight"
	loadOne   = "One in flight"
	loadMany  = "Pipelined or batched, 1024 in flight"

	echoPlain = "echo, 256"
	echoOne   = "echo, 1"
)

var rows = []row{
	{name: echoPlain, load: loadPlain, system: echoName, operation: "message and back", kind: client.KindInsert, streams: 8, window: 32},
	{name: "hacache insert at the leader, 256", load: loadPlain, system: "hacache", operation: "Insert, quorum, at the leader", base: echoPlain, kind: client.KindInsert, streams: 8, window: 32},
	{name: "hacache insert at followers, 256", load: loadPlain, system: "hacache", operation: "Insert, quorum, at followers", base: echoPlain, kind: client.KindInsert, streams: 8, window: 32, route: load.RouteFollowers},
	{name: "etcd put, 256", load: loadPlain, system: "etcd", operation: "Put", base: echoPlain, kind: client.KindInsert, streams: 8, window: 32},
	{name: "NATS put, 256", load: loadPlain, system: "NATS JetStream KV", operation: "Put", base: echoPlain, kind: client.KindInsert, streams: 8, window: 32},
	{name: "Redis SET and WAIT, 256", load: loadPlain, system: "Redis", operation: "SET + WAIT 1", base: echoPlain, kind: client.KindInsert, streams: 8, window: 32},
	{name: "hacache get, 256", load: loadPlain, system: "hacache", operation: "Get", base: echoPlain, kind: client.KindGet, streams: 8, window: 32},
	{name: "etcd get, 256", load: loadPlain, system: "etcd", operation: "Get, serializable", base: echoPlain, kind: client.KindGet, streams: 8, window: 32},
	{name: "NATS get, 256", load: loadPlain, system: "NATS JetStream KV", operation: "Get", base: echoPlain, kind: client.KindGet, streams: 8, window: 32},
	{name: "Redis GET, 256", load: loadPlain, system: "Redis", operation: "GET", base: echoPlain, kind: client.KindGet, streams: 8, window: 32},

	{name: echoOne, load: loadOne, system: echoName, operation: "message and back", kind: client.KindInsert, streams: 1, window: 1},
	{name: "hacache insert at the leader, 1", load: loadOne, system: "hacache", operation: "Insert, quorum, at the leader", base: echoOne, kind: client.KindInsert, streams: 1, window: 1},
	{name: "hacache insert at followers, 1", load: loadOne, system: "hacache", operation: "Insert, quorum, at a follower", base: echoOne, kind: client.KindInsert, streams: 1, window: 1, route: load.RouteFollowers},
	{name: "etcd put, 1", load: loadOne, system: "etcd", operation: "Put", base: echoOne, kind: client.KindInsert, streams: 1, window: 1},
	{name: "NATS put, 1", load: loadOne, system: "NATS JetStream KV", operation: "Put", base: echoOne, kind: client.KindInsert, streams: 1, window: 1},
	{name: "Redis SET and WAIT, 1", load: loadOne, system: "Redis", operation: "SET + WAIT 1", base: echoOne, kind: client.KindInsert, streams: 1, window: 1},

	{name: "hacache insert, batched", load: loadMany, system: "hacache", operation: "Insert, quorum, batched", base: echoPlain, kind: client.KindInsert, streams: 8, window: 128, batch: true},
	{name: "NATS put, 1024", load: loadMany, system: "NATS JetStream KV", operation: "Put, asynchronous", base: echoPlain, kind: client.KindInsert, streams: 8, window: 128},
	{name: "Redis SET and WAIT, pipelined", load: loadMany, system: "Redis", operation: "64 SETs + WAIT 1", base: echoPlain, kind: client.KindInsert, streams: 16, window: 64, batch: true},
	{name: "hacache get, batched", load: loadMany, system: "hacache", operation: "Get, batched", base: echoPlain, kind: client.KindGet, streams: 8, window: 128, batch: true},
	{name: "Redis GET, pipelined", load: loadMany, system: "Redis", operation: "64 GETs", base: echoPlain, kind: client.KindGet, streams: 16, window: 64, batch: true},
}

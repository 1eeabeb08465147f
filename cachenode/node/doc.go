// Package node runs a cache node inside a Go program: the program reads from its own memory, without a network in
// between, what any node of the cluster has written.
//
//	n, err := node.New(node.Config{Hosts: hosts, Self: "10.0.0.1:7071", Token: token})
//	if err != nil {
//		return err
//	}
//	go func() { stopped <- n.Run(ctx) }()
//	if err := n.AwaitReady(ctx); err != nil {
//		return err
//	}
//	value, found, err := n.Get(ctx, "users", "anna")
//
// The node is a member of its cluster like any other, whether the others are embedded, too, or run the program cachenode:
// it votes, may lead, keeps a full copy, and serves clients on its listener. A node without Hosts is alone.
//
// # Reading and writing
//
// Operations are those of package client, with its levels, outcomes and errors, so that code can be written for both. They
// take the way that those of a client connected to this very node take, but for the network: [Node.Get] looks into this
// node's copy and costs about what a lookup in a map does; it refuses with NOT_FRESH what the node cannot prove to be at
// most Config.MaxStaleness old. [Node.Insert] and [Node.Remove] wait until the log has got as far as their level;
// [Node.Put] and [Node.Del] do not wait. What was acknowledged here is read here. [Node.Do] says everything else:
// linearizable reads, time to live, deadlines, sessions. Unlike a client.Client it makes one attempt: a refusal is the
// program's to repeat.
//
// # Watching and metrics
//
// [Node.Watch] tells what changes, whoever wrote it, with the events and in the form of client.Watch: a program that keeps
// in memory what it derived from entries forgets that when they change. [Node.Collector] has the metrics of the node, for
// the program's own registry; in cachenode_operations_total the operations of the program are counted beside those of
// clients.
//
// # Ownership
//
// Keys, values and operations that are handed in are copied before the call returns. Values that are returned are the
// caller's own. The listener of a Config is the node's once New has returned without an error.
//
// # Concurrency
//
// All methods are safe for concurrent use, from any number of goroutines. A read takes no lock that another read waits for;
// writes wait for the log, not for each other. Nothing that the program does keeps the node from its heartbeats, except
// taking all processors away, or stopping the world, for longer than Config.ElectionTimeout.
//
// # Stopping
//
// Run returns when its context is done and all is over: the leadership has been handed to another node, the operations in
// flight have been answered, of clients and of this program, streams and listener are closed, and no goroutine is left.
// That takes milliseconds and is bounded by Config.ShutdownTimeout. From the beginning of the stop on, writes of this
// program are refused with SHUTTING_DOWN and watches end; reads are refused from its end on. What must be written last is written before the
// context is cancelled. A Node cannot be run again: a process that comes back is a new member, and New makes one.
package node

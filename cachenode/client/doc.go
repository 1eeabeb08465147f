// Package client is the Go client of a cachenode.
//
//	c, err := client.New(client.ClientConfig{
//		Addrs:  []string{"10.0.0.1:7071", "10.0.0.2:7071", "10.0.0.3:7071"},
//		Config: client.Config{Token: token},
//	})
//
// A [Client] is what most programs want: one for the whole program, shared by all
// its goroutines. It keeps a stream to each node, follows the leader, and tries
// again what may be tried again. A [Conn] is one such stream to one node, for
// programs that choose the node themselves or measure it.
//
// # Outcomes
//
// A cache that is replicated can fail in a way that a local one cannot: the answer
// does not come, and nobody knows whether the write happened. So there are three
// outcomes, not two. [StatusOK]: done, at the [Level] asked for. [StatusFail]: it
// had no effect and never will. [StatusInfo]: unknown; it may have taken effect, or
// still may. Nothing is ever called failed because an answer did not come.
//
// Methods that return no [Outcome] say the same by their error: one that is
// [ErrUnknown] stands for the third, any other for the second. Reads have no third.
//
// # Time
//
// Every operation ends in time: by its own deadline, [Config.Timeout], or its
// context, whichever is first. The node is told, and gives up a little earlier, so
// that its word is heard. A context that is over before an operation was sent ends
// it as failed; afterwards, as unknown if it is a write. Deadlines and contexts end
// the wait, they do not undo.
//
// # Trying again
//
// A Client tries again what failed definitely and may go well a moment later, with
// pauses of 5 to 100 ms, until the time is over: no leader, a node that is full or
// stopping, a connection that is down. What is unknown it does not repeat, since
// that could undo what somebody else wrote meanwhile. A [Session] can: it numbers
// writes, and the cluster carries out each number once. Reads are repeated freely;
// a node that hangs gets a third of the time that is left before another is asked.
//
// A lost connection is dialled again after 20 ms, and then after random pauses that
// grow to 250 ms, see [Config]. While no node can be reached operations wait.
//
// # Many at once
//
// One stream carries up to [Config.Window] operations at a time, from any number of
// goroutines, without a goroutine for each. Callers beyond that wait in order of
// arrival. [Client.DoAll] sends many from one goroutine; [Conn.Start] is the same
// with a callback. With [Config.Batch], what waits while a message is on its way
// leaves as one message: no operation waits for another, and under load a message
// carries hundreds. Only nodes of the original protocol do not know batches.
//
// Everything is bounded: operations and bytes that wait, connections, the size of
// messages and what is in them, each with a counter for having been full; see
// [Stats] and [ClientStats].
//
// # Watching
//
// [Client.Watch] is a sequence of what changes, whoever changed it: for programs that keep in memory what they have read
// or derived, and forget it then. A [Gap] says where changes may be missing.
//
// # Errors
//
//	[OpError]         a node refused, or no node would take it; it has a code and the node's words
//	[DownError]       no connection, and why
//	[AuthError]       the token or the certificate was refused
//	[WatchError]      a node refused a watch
//	[MgmtError]       a node refused a command of operators
//	[ErrTimeout]      the time is over; it is context.DeadlineExceeded, too
//	[ErrBroken]       the stream ended before the answer
//	[ErrFull]         the window is full, from Start alone
//	[ErrClosed]       the Client or Conn was closed
//	[ErrUnknown]      in front of any of these: the write may have taken effect
//
// They are told apart by errors.Is and errors.AsType, never by their text, and are
// often wrapped in one another: a read that timed out because nobody is there is
// ErrTimeout and a DownError, which holds the error of the dial.
//
// # Security
//
// [Config.Token] is asked for by nodes that have one. [Config.TLS] is used as it is;
// its ServerName defaults to the host that is dialled, and its Certificates are
// shown to nodes that ask for one. A program that outlives its certificate sets
// GetClientCertificate instead. Token and TLS may be tried with package
// clienttest, which is a node in the process of a test.
package client

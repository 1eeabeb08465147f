// Package gateway carries a client's operation from its arrival at this node to its one answer.
//
// The node that a client is connected to is the gateway of that client's operations, whoever leads. It keeps an
// operation until it is answered:
//
//	queued (no leader, or its turn has not come) -> sent -> appended [leader] -> in another voter's log [once]
//	    -> committed and applied here [quorum] -> forgotten
//
// A change of leader moves what is not answered back into the queue, to be sent again under the same (session, seq), which
// the replicated session table applies at most once. After its answer an operation is never sent again: it could
// overwrite a later write that a quorum acknowledged. Put and Del are the exception, since their answer promises nothing:
// they are answered on arrival and journaled afterwards, by the same path, until a leader takes them or their patience ends.
//
// The deadline of an operation that was never sent gives a definite refusal; once it was sent, its outcome is
// indeterminate: it may have taken, or may still take, effect.
//
// A Gateway runs on the goroutine of the replication.Runner that drives it. Only Get, Deleted, Changed and the methods of a
// Feed are for other goroutines.
package gateway

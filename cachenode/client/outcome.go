package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hacache/hacache/proto/cachepb"
)

// Status says what is known about the effect of an operation.
type Status uint8

const (
	// StatusOK: done, at the level asked for.
	StatusOK Status = iota
	// StatusFail: it had no effect and never will. Only this may be retried
	// freely.
	StatusFail
	// StatusInfo: nobody knows. A write may have taken effect, or may still
	// do so.
	StatusInfo
)

// Statuses lists every status in the order of its value.
var Statuses = [...]Status{StatusOK, StatusFail, StatusInfo}

var statusNames = [...]string{"ok", "fail", "info"}

func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status(%d)", uint8(s))
}

// Outcome is the one answer to an operation.
type Outcome struct {
	Status Status
	// Code and Detail are the node's words, if it answered.
	Code   cachepb.Code
	Detail string
	// Err is nil iff Status is StatusOK. It is an [*OpError], or one of
	// [ErrTimeout], [ErrBroken], [ErrClosed], [ErrFull], a [*DownError], an
	// [*AuthError] or a context's error, possibly wrapped.
	Err error

	// Value is what a Get found. Handed to a callback of [Conn.Start] it is
	// valid only until the callback returns; from [Conn.Do] it is the
	// caller's own.
	Value []byte
	// Found tells a Get that found a value, even an empty one, from a miss.
	Found bool
	// Refused: a Get that the node would not answer, because it could not
	// prove that its copy is fresh. It is neither a value nor a miss. The
	// status is StatusFail.
	Refused bool
	// Staleness bounds the age of the node's copy when it answered a Get; 0
	// when the node did not say.
	Staleness time.Duration

	// Cluster, Term and Index say where the operation stands in the log;
	// Cluster identifies it: a different value means that all was forgotten.
	Cluster, Term, Index uint64
	// Leader is the leader's identity (host:port), when the node named it.
	Leader string
	// Node is the address of the connection that carried the operation.
	Node string

	// Sent is when the operation was handed to the stream, zero if it never
	// was. Returned is when its answer, or the reason why there is none,
	// was seen. Both carry a monotonic reading.
	Sent, Returned time.Time
}

// OpError is a negative answer of a node, or of this package to an operation
// that no node would take.
type OpError struct {
	Kind   Kind
	Code   cachepb.Code
	Detail string
	Node   string // "": it was not sent
}

func (e *OpError) Error() string {
	by, detail := "", ""
	if e.Node != "" {
		by = " by " + e.Node
	}
	if e.Detail != "" {
		detail = ": " + e.Detail
	}
	return fmt.Sprintf("client: %s refused%s: %s%s", e.Kind, by, e.Code, detail)
}

var (
	// ErrUnknown is returned by the methods that return no Outcome, such as
	// [Client.Insert], if its status is StatusInfo: the write may have taken
	// effect, or still may.
	ErrUnknown = errors.New("client: outcome unknown")
	// ErrTimeout is in an Outcome whose deadline passed without an answer. It is
	// [context.DeadlineExceeded], too: whether it was the operation's deadline
	// or that of its context that came first is chance.
	ErrTimeout error = timeoutError{}
	// ErrBroken is in an Outcome whose stream ended before the answer.
	ErrBroken = errors.New("client: stream broken before the answer")
	// ErrClosed is returned by operations on a closed Conn or Client.
	ErrClosed = errors.New("client: closed")
	// ErrFull is returned by [Conn.Start] when the window is full, in
	// operations or in bytes. The operation was not started.
	ErrFull = errors.New("client: window full")
)

type timeoutError struct{}

func (timeoutError) Error() string { return "client: deadline passed without an answer" }

// Timeout makes it a net.Error as far as callers look.
func (timeoutError) Timeout() bool { return true }

// Is implements the interface of errors.Is.
func (timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// MgmtError is a management request that the node refused.
type MgmtError struct {
	Addr   string
	Code   cachepb.Code // INDETERMINATE if the node gave none
	Detail string
}

func (e *MgmtError) Error() string { return fmt.Sprintf("client: %s: %s", e.Addr, e.Detail) }

// DownError is returned by operations on a Conn that is not connected. Nothing
// was sent.
type DownError struct {
	Addr string
	Err  error // why the last attempt to connect, or the last stream, failed
}

func (e *DownError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("client: not connected to %s yet", e.Addr)
	}
	return fmt.Sprintf("client: not connected to %s: %v", e.Addr, e.Err)
}

func (e *DownError) Unwrap() error { return e.Err }

// AuthError means that the node refused the token or the certificate. Nobody
// waits for a Conn that met it, which tries again every five seconds.
type AuthError struct {
	Addr   string
	Detail string
}

func (e *AuthError) Error() string {
	return fmt.Sprintf("client: %s refused the credentials: %s", e.Addr, e.Detail)
}

// WatchError ends a watch that a node refused, for a cache that cannot be: asking
// again cannot help.
type WatchError struct {
	Addr   string
	Detail string
}

func (e *WatchError) Error() string {
	return fmt.Sprintf("client: %s refused the watch: %s", e.Addr, e.Detail)
}

// Definite reports whether a code of a refusal promises that the operation had no
// effect and never will. Codes this package does not know promise nothing.
func Definite(code cachepb.Code) bool {
	return code >= cachepb.Code_NO_LEADER && code <= cachepb.Code_NOT_FRESH
}

// modRes is the mod_res field of an ack: absent, false or true.
type modRes uint8

const (
	modAbsent modRes = iota
	modFalse
	modTrue
)

// classify is the one place where an answer becomes a Status. It looks at the
// kind of operation, the kind of answer and the code, never at a text.
//
//	write  mod_res=true                      ok
//	write  mod_res=false or error, code 1-10 fail
//	write  otherwise                         info
//	put, del: ack without mod_res and code   ok    (nodes that ack without saying more)
//	get    code OK                           ok    (value or miss)
//	get    any other code                    fail  (a read has no effect to be unsure of)
func classify(kind Kind, ack ackKind, mod modRes, code cachepb.Code) Status {
	if kind == KindGet {
		if ack == ackGet && code == cachepb.Code_OK {
			return StatusOK
		}
		return StatusFail
	}
	switch {
	case ack == ackMod && mod == modTrue:
		return StatusOK
	case Definite(code):
		return StatusFail
	case ack == ackMod && mod == modAbsent && code == cachepb.Code_OK && !kind.Leveled():
		return StatusOK
	default:
		return StatusInfo
	}
}

// unanswered is classify's other half: the operation ended without an answer.
// sent tells whether it had been handed to a stream.
//
//	read             fail  (dropped: no answer, no effect)
//	write, not sent  fail
//	write, sent      info
func unanswered(kind Kind, sent bool) Status {
	if kind == KindGet || !sent {
		return StatusFail
	}
	return StatusInfo
}

// refusal is an Outcome of an operation that was never handed to a stream.
func refusal(addr string, err error) Outcome {
	o := Outcome{Status: StatusFail, Err: err, Node: addr}
	if e, ok := errors.AsType[*OpError](err); ok {
		o.Code, o.Detail, o.Node = e.Code, e.Detail, ""
	}
	return o
}

// Failure is nil, or Err: with [ErrUnknown] if the status is StatusInfo. It is for
// those who pass an error on, and nothing else of the Outcome.
func (o Outcome) Failure() error {
	if o.Status == StatusInfo {
		return fmt.Errorf("%w: %w", ErrUnknown, o.Err)
	}
	return o.Err
}

// endOf is why ctx ended, nil if it has not: a deadline is [ErrTimeout] whichever
// of the caller's and the operation's own comes first, which is a matter of luck
// where the two are the same.
func endOf(ctx context.Context) error {
	if err := ctx.Err(); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return ErrTimeout
}

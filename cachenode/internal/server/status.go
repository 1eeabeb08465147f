package server

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hacache/hacache/proto/cachepb"
)

var (
	// errNoToken and errWrongToken end a stream whose metadata has no token or another one.
	errNoToken    = errors.New("no token: expected metadata authorization with the token of this cluster")
	errWrongToken = errors.New("wrong token: metadata authorization is not the token of this cluster")
	// errTooManyConnections and errTooManyStreams refuse streams of a node that has as many as it may.
	errTooManyConnections = errors.New("too many connections at this node")
	errTooManyStreams     = errors.New("too many streams at this node")
	// errDraining ends streams of a node that is stopping.
	errDraining = errors.New("node is shutting down")
)

// Error is an error of a Backend with a code of the contract. Errors without one count as INDETERMINATE: what is not
// known to have failed may have happened.
type Error struct {
	Code   cachepb.Code
	Detail string
}

func (e *Error) Error() string { return e.Detail }

// notPeerError ends a stream that claims to be a peer's and is not.
type notPeerError struct{ error }

func (e notPeerError) Error() string { return "not a peer: " + e.error.Error() }

// Reasons for which a stream is refused, as they are counted.
const (
	deniedNoToken = iota
	deniedWrongToken
	deniedNotPeer
)

var deniedReasons = [...]string{"no_token", "wrong_token", "not_a_peer"}

func deniedReason(err error) int {
	switch {
	case errors.Is(err, errNoToken):
		return deniedNoToken
	case errors.Is(err, errWrongToken):
		return deniedWrongToken
	}
	return deniedNotPeer
}

// toStatus is the one table from the errors that end a stream to gRPC codes.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.Internal
	refused, _ := errors.AsType[*Error](err)
	_, notPeer := errors.AsType[notPeerError](err)
	switch {
	case notPeer:
		code = codes.PermissionDenied
	case refused != nil && refused.Code == cachepb.Code_UNKNOWN_CACHE:
		code = codes.NotFound
	case refused != nil && refused.Code == cachepb.Code_SHUTTING_DOWN:
		code = codes.Unavailable
	case refused != nil:
		code = codes.InvalidArgument
	case errors.Is(err, errNoToken):
		code = codes.Unauthenticated
	case errors.Is(err, errWrongToken):
		code = codes.PermissionDenied
	case errors.Is(err, errTooManyConnections), errors.Is(err, errTooManyStreams):
		code = codes.ResourceExhausted
	case errors.Is(err, errDraining):
		code = codes.Unavailable
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	return status.Error(code, err.Error())
}

// toCode is the table from the errors of management requests to the codes of the contract.
func toCode(err error) cachepb.Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return cachepb.Code_INDETERMINATE
}

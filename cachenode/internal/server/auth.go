package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"strings"

	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
)

const tokenKey = "authorization"

// auth compares tokens in constant time: digests, so that not even lengths can be told apart.
type auth struct {
	client, peer tokenDigest
}

type tokenDigest struct {
	required bool
	sum      [sha256.Size]byte
}

func newAuth(token, peerToken string) auth {
	if peerToken == "" {
		peerToken = token
	}
	return auth{newDigest(token), newDigest(peerToken)}
}

func newDigest(token string) tokenDigest {
	return tokenDigest{token != "", sha256.Sum256([]byte(token))}
}

// check returns nil, errNoToken or errWrongToken. The seed sends the bare token; Bearer is for everyone else.
func (a *auth) check(ctx context.Context, peer bool) error {
	want := &a.client
	if peer {
		want = &a.peer
	}
	if !want.required {
		return nil
	}
	values := metadata.ValueFromIncomingContext(ctx, tokenKey)
	if len(values) == 0 || values[0] == "" {
		return errNoToken
	}
	token := values[0]
	if scheme, rest, ok := strings.Cut(token, " "); ok && strings.EqualFold(scheme, "Bearer") {
		token = strings.TrimSpace(rest)
	}
	if sum := sha256.Sum256([]byte(token)); subtle.ConstantTimeCompare(sum[:], want.sum[:]) != 1 {
		return errWrongToken
	}
	return nil
}

// remote is the address of who opened a stream, for logs.
func remote(ctx context.Context) string {
	if p, ok := grpcpeer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return "unknown"
}

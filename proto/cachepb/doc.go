// Package cachepb is the Go form of proto/cache.proto, the contract of the cache: one bidirectional stream,
// StreamValues, which clients and the nodes of a cluster share. Fields 1 to 15 are the original contract, fields
// from 16 on are hacache's extension of it; a peer that knows only the former is served in full.
//
// The files with .pb. in their names are generated; edit proto/cache.proto and run "make generate".
package cachepb

//go:generate go tool -modfile=../../go.tool.mod buf generate ../.. --template ../../buf.gen.yaml -o ../..

// Package seedpb is the Go form of proto/testdata/seed.proto, the original contract, for a client that has never heard
// of hacache's extension of it. Its messages have the same names as those of cachepb, so no binary may contain both.
//
// The other files of this package are generated; "make generate" does it.
package seedpb

//go:generate go tool -modfile=../../../go.tool.mod buf generate ../../../proto/testdata --config {"version":"v2","modules":[{"path":"."}]} --template ../../../buf.gen.seed.yaml -o ../../..

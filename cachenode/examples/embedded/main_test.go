package main

import (
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// The program does what its output says, and leaves nothing running.
func TestRun(t *testing.T) {
	defer goleak.VerifyNone(t)
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	const want = `written at node 0: a majority has it
read at node 0: hello
read at node 1: hello
read at node 2: hello
the leader has stopped
written at one of the others, read at the last: still there
a local read is at most 500ms old: true
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

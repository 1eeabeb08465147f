// Command loadgen offers load to a cachenode cluster and says how it was
// answered.
//
//	loadgen run --addrs a:7070,b:7070 --rate 5000 --duration 30s --mix get=90,insert=10
//	loadgen bench           three nodes on this machine, every level, about half a minute
//	loadgen perf            the same in a closed loop, beside a bare stream, with processor time and profiles
//	loadgen saturate        three nodes on this machine: the highest rate that holds its limits
//	loadgen fill, verify    write every key of a key space; read and check each
//
// What the numbers mean is in DESIGN.md. Exit codes: 0 ok, 1 the run failed, 2
// wrong usage or an invalid file, 96 nothing can be concluded, 97 what was written
// is not there, 99 a threshold was missed, 130 and 143 interrupted.
package main

import (
	"context"
	"io"
	"os"
	"runtime/debug"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/internal/interrupt"
)

// gcPercent lets the heap grow to nine times what is alive before it is collected.
// What is alive is little, and each collection stops the pacer until every other
// thread has stopped too, which on busy cores takes milliseconds. gcLimit bounds
// it where the histograms are many.
const (
	gcPercent = 800
	gcLimit   = 1 << 30 // bytes
)

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(gcLimit)
	}
	os.Exit(run(interrupt.Context(), os.Args, os.Stdout, os.Stderr))
}

// run is the whole program but for the process around it: it returns the exit
// code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return command.Run(ctx, newCommand(stdout, stderr), args)
}

func newCommand(stdout, stderr io.Writer) *cli.Command {
	root := &cli.Command{
		Name: "loadgen", Usage: "offer load to a cluster and say how it was answered",
		Writer: stdout, ErrWriter: stderr, HideHelpCommand: true,
		EnableShellCompletion: true, ShellCompletionCommandName: "completion",
		ConfigureShellCompletionCommand: func(c *cli.Command) { c.Hidden = false },
		Commands: []*cli.Command{
			{
				Name: "run", Usage: "offer one load", ArgsUsage: "[FILE]",
				Description: "FILE is YAML with the long names of the flags below as keys; flags win over it.",
				Flags:       runFlags(), Action: runCommand,
			},
			{
				Name: "bench", Usage: "measure a cluster on this machine: each ack level and reads at a fixed rate, then as fast as it goes",
				Flags: benchFlags(), Action: benchCommand,
			},
			{
				Name: "perf", Usage: "what three nodes on this machine do in a closed loop, as ratios to a bare stream in turns with them",
				Flags: perfFlags(), Action: perfCommand,
			},
			{Name: echoCommandName, Hidden: true, Usage: "answer on an inherited listener, for perf", ArgsUsage: "bytes|proto", Action: echoCommand},
			{
				Name: "saturate", Usage: "find the highest rate at which limits on latency and errors hold",
				Flags: saturateFlags(), Action: saturateCommand,
			},
			{
				Name: "pair", Usage: "one round of a comparison of two programs: a fresh cluster of each, the same load on both, in random order",
				Flags: pairFlags(), Action: pairCommand,
			},
			{
				Name: "fill", Usage: "write every key of a key space, with values that can be verified",
				Flags: fillFlags(), Action: fillCommand,
			},
			{
				Name: "verify", Usage: "read every key that a fill wrote, and check what is there", ArgsUsage: "DIR...",
				Description: "The first DIR is that of the fill; further ones are those of the loads with --checked since then.",
				Flags:       verifyFlags(), Action: verifyCommand,
			},
		},
	}
	for _, c := range root.Commands {
		c.DisableSliceFlagSeparator = true // a threshold has commas of its own
	}
	return root
}

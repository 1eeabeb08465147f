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
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/reports/result"
)

// interrupt is the cause of a context that a signal ended.
type interrupt struct{ signal string }

func (i interrupt) Error() string { return "interrupted by " + i.signal }

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
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for n := 0; ; n++ {
			name, code := "SIGINT", result.ExitInterrupt
			if <-signals == syscall.SIGTERM {
				name, code = "SIGTERM", result.ExitTerminate
			}
			if n > 0 { // who asks twice does not want to wait; the nodes die with us
				os.Exit(code)
			}
			cancel(interrupt{name})
		}
	}()
	os.Exit(run(ctx, os.Args, os.Stdout, os.Stderr))
}

// usageError is a mistake of whoever typed the command or wrote the file: exit
// code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitError carries the exit code of what has been reported already.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// run is the whole program but for the process around it: it returns the exit
// code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := newCommand(stdout, stderr).Run(ctx, args)
	if err == nil {
		return result.ExitOK
	}
	if code, ok := errors.AsType[exitError](err); ok {
		return int(code)
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(stderr, "loadgen: "+strings.TrimSpace(line))
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return result.ExitUsage
	}
	if cause, ok := errors.AsType[interrupt](context.Cause(ctx)); ok {
		return interruptCode(cause.signal)
	}
	return result.ExitFailure
}

func interruptCode(signal string) int {
	if signal == "SIGTERM" {
		return result.ExitTerminate
	}
	return result.ExitInterrupt
}

func newCommand(stdout, stderr io.Writer) *cli.Command {
	root := &cli.Command{
		Name: "loadgen", Usage: "offer load to a cluster and say how it was answered",
		Writer: stdout, ErrWriter: stderr, HideHelpCommand: true,
		EnableShellCompletion: true, ShellCompletionCommandName: "completion",
		ConfigureShellCompletionCommand: func(c *cli.Command) { c.Hidden = false },
		ExitErrHandler:                  func(context.Context, *cli.Command, error) {}, // run decides
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
	usage := func(_ context.Context, c *cli.Command, err error, _ bool) error {
		msg := err.Error()
		if _, name, ok := strings.Cut(msg, "flag provided but not defined: "); ok {
			msg = "unknown flag --" + strings.TrimLeft(name, "-")
		}
		return usagef("%s: %s (see loadgen %s --help)", c.Name, msg, strings.TrimPrefix(c.Name, "loadgen"))
	}
	root.OnUsageError = usage
	var names []string
	for _, c := range root.Commands {
		c.OnUsageError = usage
		c.DisableSliceFlagSeparator = true // a threshold has commas of its own
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	root.Action = func(_ context.Context, c *cli.Command) error {
		if name := c.Args().First(); name != "" {
			return usagef("unknown command %q; expected one of %s", name, strings.Join(names, ", "))
		}
		return usagef("no command; expected one of %s (see loadgen --help)", strings.Join(names, ", "))
	}
	return root
}

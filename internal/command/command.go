// Package command is the frame of this project's programs: what a mistake on the command line looks like, on which lines
// an error is told, and with which exit code a program ends.
package command

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/internal/interrupt"
)

// Exit codes that all programs share.
const (
	exitFailure = 1
	exitUsage   = 2
)

// usageError is a mistake of whoever typed the command or wrote the file: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Usage marks err as a mistake of whoever typed the command or wrote the file it names: exit code 2.
func Usage(err error) error { return usageError{err} }

// Usagef is Usage of what fmt.Errorf makes.
func Usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// toldError needs its exit code only.
type toldError struct{ error }

func (e toldError) Unwrap() error { return e.error }

// Told marks err as told already: only the exit code that it deserves is left.
func Told(err error) error { return toldError{err} }

// Exit is the exit code of what has been told already.
type Exit int

// Error implements error.
func (e Exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Run is a whole program but for the process around it: it carries out args, of which the first is the program's name, and
// returns the exit code. An error goes to root.ErrWriter, with the program's name before each of its lines: a
// configuration may have several mistakes. Run completes root and the commands below: a wrong flag and a missing command
// are usage errors that say what was expected.
func Run(ctx context.Context, root *cli.Command, args []string) int {
	root.ExitErrHandler = func(context.Context, *cli.Command, error) {} // or the library would end the process
	complete(root)
	err := root.Run(ctx, args)
	if err == nil {
		return 0
	}
	if code, ok := errors.AsType[Exit](err); ok {
		return int(code)
	}
	signal, interrupted := errors.AsType[interrupt.Signal](context.Cause(ctx))
	if interrupted && errors.Is(err, context.Canceled) {
		err = signal
	}
	if _, told := errors.AsType[toldError](err); !told {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintln(root.ErrWriter, root.Name+": "+strings.TrimSpace(line))
		}
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if interrupted {
		return signal.ExitCode()
	}
	return exitFailure
}

func complete(c *cli.Command) {
	c.OnUsageError = func(_ context.Context, c *cli.Command, err error, _ bool) error {
		return Usagef("%s%s (see %s --help)", prefix(c), explain(err), c.FullName())
	}
	if c.Action == nil {
		c.Action = wantsCommand
	}
	for _, sub := range c.Commands {
		complete(sub)
	}
}

// explain puts the parser's messages into our words.
func explain(err error) string {
	msg := err.Error()
	if _, name, ok := strings.Cut(msg, "flag provided but not defined: "); ok {
		// The parser keeps one dash only.
		if name = strings.TrimLeft(name, "-"); len(name) > 1 {
			return "unknown flag --" + name
		}
		return "unknown flag -" + name
	}
	return msg
}

// wantsCommand is the action of a command that only has commands.
func wantsCommand(_ context.Context, c *cli.Command) error {
	var names []string
	for _, sub := range c.Commands {
		if !sub.Hidden && sub.Name != "help" {
			names = append(names, sub.Name)
		}
	}
	expected := strings.Join(names, ", ")
	if name := c.Args().First(); name != "" {
		return Usagef("unknown command %q; expected one of %s", name, expected)
	}
	return Usagef("%sno command; expected one of %s (see %s --help)", prefix(c), expected, c.FullName())
}

// prefix names a command below the root, whose name each line has already.
func prefix(c *cli.Command) string {
	if c.Root() == c {
		return ""
	}
	return c.Name + ": "
}

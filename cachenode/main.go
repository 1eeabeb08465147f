// Command cachenode is one node of the cache, and the tool to talk to one.
//
//	cachenode [serve]             run a node; without any configuration: alone, on 127.0.0.1:7070, without TLS
//	cachenode status              show every node of the cluster
//	cachenode get CACHE KEY       and put, insert, del, remove
//	cachenode watch [CACHE...]    print what changes
//
// Configuration is taken from flags, the environment, a YAML file and defaults, in this order; see cachenode serve
// --help. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 and 143 ended by a second signal.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/node"
)

// Exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

// usageError is a mistake of whoever typed the command or wrote the configuration: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// silentError has been reported already: only its exit code is left to say.
type silentError struct{ error }

func (e silentError) Unwrap() error { return e.error }

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// ownFlags are those of the program itself: with any other flag first, serve is meant. The last is what a shell asks for
// the names of the commands.
var ownFlags = []string{"-h", "--help", "-v", "--version", "--generate-shell-completion"}

// run carries out a command line without the program's name, and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") && !slices.Contains(ownFlags, args[0]) {
		args = append([]string{"serve"}, args...)
	}
	err := newCommand(stdin, stdout, stderr).Run(ctx, append([]string{"cachenode"}, args...))
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[silentError](err); !ok {
		// One line for each mistake: a configuration may have several.
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintln(stderr, "cachenode: "+strings.TrimSpace(line))
		}
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

func newCommand(stdin io.Reader, stdout, stderr io.Writer) *cli.Command {
	root := &cli.Command{
		Name:    "cachenode",
		Usage:   "a node of the replicated cache",
		Version: node.Version(),
		Reader:  stdin, Writer: stdout, ErrWriter: stderr,
		EnableShellCompletion: true, ShellCompletionCommandName: "completion",
		ConfigureShellCompletionCommand: func(c *cli.Command) { c.Hidden = false },
		ExitErrHandler:                  func(context.Context, *cli.Command, error) {}, // run decides
		Commands: append([]*cli.Command{
			serveCommand(), statusCommand(), healthCommand(), leaderCommand(), membersCommand(), abandonCommand(), configCommand(), certsCommand(), versionCommand(),
		}, append(operationCommands(), watchCommand())...),
	}
	var prepare func(c *cli.Command)
	prepare = func(c *cli.Command) {
		c.OnUsageError = func(_ context.Context, c *cli.Command, err error, _ bool) error {
			return usagef("%s: %s (see cachenode %s --help)", c.Name, explain(err), path(c))
		}
		if c.Action == nil {
			c.Action = needsCommand
		}
		for _, sub := range c.Commands {
			prepare(sub)
		}
	}
	prepare(root)
	return root
}

// path is a command without the name of the program: "leader switch".
func path(c *cli.Command) string {
	_, rest, _ := strings.Cut(c.FullName(), " ")
	return rest
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

// needsCommand is the action of a command that only has commands.
func needsCommand(_ context.Context, c *cli.Command) error {
	var names []string
	for _, sub := range c.Commands {
		if !sub.Hidden && sub.Name != "help" {
			names = append(names, sub.Name)
		}
	}
	expected := strings.Join(names, ", ")
	if name := c.Args().First(); name != "" {
		return usagef("unknown command %q; expected one of %s", name, expected)
	}
	return usagef("%s: expected one of %s", c.Name, expected)
}

// exactArgs returns the arguments if there are between lo and hi of them.
func exactArgs(c *cli.Command, lo, hi int) ([]string, error) {
	args := c.Args().Slice()
	if len(args) < lo || len(args) > hi {
		return nil, usagef("%s: %d arguments, expected %s", c.Name, len(args), cmp.Or(c.ArgsUsage, "none"))
	}
	return args, nil
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print what the program was built from",
		Flags: []cli.Flag{outputFlag()},
		Action: func(_ context.Context, c *cli.Command) error {
			if _, err := exactArgs(c, 0, 0); err != nil {
				return err
			}
			asJSON, err := wantsJSON(c)
			if err != nil {
				return err
			}
			b := node.Build()
			if asJSON {
				return writeJSON(c, b)
			}
			_, err = fmt.Fprintln(c.Root().Writer, strings.Join(slices.DeleteFunc([]string{"cachenode", b.Version, b.Revision, b.Time, b.Go, b.Platform},
				func(s string) bool { return s == "" }), " "))
			return err
		},
	}
}

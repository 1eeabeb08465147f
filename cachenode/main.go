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
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/node"
	"github.com/hacache/hacache/internal/command"
)

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
	return command.Run(ctx, newCommand(stdin, stdout, stderr), append([]string{"cachenode"}, args...))
}

func newCommand(stdin io.Reader, stdout, stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name:    "cachenode",
		Usage:   "a node of the replicated cache",
		Version: node.Version(),
		Reader:  stdin, Writer: stdout, ErrWriter: stderr,
		EnableShellCompletion: true, ShellCompletionCommandName: "completion",
		ConfigureShellCompletionCommand: func(c *cli.Command) { c.Hidden = false },
		Commands: append([]*cli.Command{
			serveCommand(), statusCommand(), healthCommand(), leaderCommand(), membersCommand(), abandonCommand(), configCommand(), certsCommand(), versionCommand(),
		}, append(operationCommands(), watchCommand())...),
	}
}

// exactArgs returns the arguments if there are between lo and hi of them.
func exactArgs(c *cli.Command, lo, hi int) ([]string, error) {
	args := c.Args().Slice()
	if len(args) < lo || len(args) > hi {
		return nil, command.Usagef("%s: %d arguments, expected %s", c.Name, len(args), cmp.Or(c.ArgsUsage, "none"))
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

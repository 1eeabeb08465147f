// Command peers sets cachenodes beside the systems that somebody might take instead: etcd, NATS JetStream KV and Redis,
// three servers of each on this machine, by the generator and the recorder of loadgen, in turns.
//
//	peers compare           all of it, about ten minutes; make compare
//
// It contains the servers of etcd and NATS, which it runs as processes of their own; redis-server is looked for in PATH.
// It is a module of its own, so that no cachenode and no loadgen depends on any of them. What the numbers mean, and where
// they are unfair, is in loadgen/DESIGN.md and on the page that it makes. Exit codes are those of loadgen.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/urfave/cli/v3"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"golang.org/x/sys/unix"

	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/internal/interrupt"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

func main() {
	if serve(os.Args[1:]) {
		return
	}
	os.Exit(run(interrupt.Context(), os.Args, os.Stdout, os.Stderr))
}

// serve is this program as one of the servers that it contains, under the name of its own; false if args name none.
func serve(args []string) bool {
	if len(args) == 0 {
		return false
	}
	switch args[0] {
	case "etcd":
		etcdmain.Main(args)
		return true
	case "nats-server":
		serveNATS(args[1:])
		return true
	}
	return false
}

// run is the whole program but for the process around it: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return command.Run(ctx, newCommand(stdout, stderr), args)
}

func newCommand(stdout, stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name: "peers", Usage: "set cachenodes beside etcd, NATS and Redis", Writer: stdout, ErrWriter: stderr, HideHelpCommand: true,
		Commands: []*cli.Command{
			{
				Name: "compare", Usage: "start three servers of each, offer the same load to them in turns, and write one page",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "cachenode", Usage: "the `PROGRAM` to start; default is cachenode beside this program, then the one in PATH"},
					&cli.StringFlag{Name: "data", Usage: "a `DIR` for what the servers write; default is below /dev/shm, if that is there. What was made in it is removed"},
					&cli.IntFlag{Name: "rounds", Value: 5, Usage: "`N` rounds, each of all rows in turn"},
					&cli.DurationFlag{Name: "each", Value: 4 * time.Second, Usage: "how `LONG` each row of a round is measured, after a quarter of it as warm-up"},
					&cli.StringFlag{Name: "only", Usage: "`REGEXP` of the rows to measure, with those that they are compared with"},
					&cli.StringFlag{Name: "keys", Value: "100k", Usage: "`N` keys of 24 bytes"},
					&cli.StringFlag{Name: "value-size", Value: "128", Usage: "`BYTES`"},
					&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "`SEED` of the operations and of the order in a round"},
					&cli.StringFlag{Name: "out", Value: "out", Usage: "the run directory is made in this `DIR`"},
				},
				Action: compareCommand,
			},
			{Name: echoName, Hidden: true, Usage: "answer on an inherited listener, for compare", Action: func(ctx context.Context, _ *cli.Command) error { return serveEcho(ctx) }},
		},
	}
}

// What loadgen does for itself: a heap that may grow to nine times what is alive before it is collected, up to a limit.
const (
	gcPercent = 800
	gcLimit   = 2 << 30 // bytes
)

func compareCommand(ctx context.Context, c *cli.Command) error {
	if c.Args().Len() > 0 {
		return command.Usagef("compare: unexpected argument %q", c.Args().First())
	}
	var errs []error
	note := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	only, err := regexp.Compile(c.String("only"))
	note("only", err)
	cmp := comparison{rounds: c.Int("rounds"), each: c.Duration("each"), seed: c.Uint64("seed"), stdout: c.Root().Writer, stderr: c.Root().ErrWriter}
	if cmp.rounds < 1 || cmp.rounds > 1000 {
		note("rounds", fmt.Errorf("%d: want 1 to 1000", cmp.rounds))
	}
	if cmp.each < 100*time.Millisecond || cmp.each > time.Minute {
		note("each", fmt.Errorf("%s: want 100ms to 1m", cmp.each))
	}
	cmp.workload.KeyPrefix, cmp.workload.Seed, cmp.workload.Timeout = keyPrefix, cmp.seed, 5*time.Second
	cmp.workload.Keys, err = load.ParseCount(c.String("keys"))
	if err == nil && cmp.workload.Keys == 0 {
		err = errors.New("0: want at least 1")
	}
	note("keys", err)
	cmp.workload.Sizes, err = load.ParseSizes(c.String("value-size"))
	note("value-size", err)
	binary, err := cachenodeProgram(c.String("cachenode"))
	note("cachenode", err)
	if only != nil {
		cmp.rows = chosen(only)
		if len(cmp.rows) == 0 {
			note("only", fmt.Errorf("%q matches no row", only))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return command.Usage(err)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(gcLimit)
	}
	cmp.dir, err = result.CreateDir(c.String("out"), "compare", time.Now())
	if err != nil {
		return err
	}
	data, err := os.MkdirTemp(dataDir(c.String("data")), "hacache-compare-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(data)
	logs := filepath.Join(cmp.dir, result.NodesDir)
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmp.systems = systems(group{self: self, data: data, logs: logs}, binary)
	return cmp.run(ctx)
}

// keyPrefix makes keys of 24 bytes of the numbers that a hundred thousand keys have.
const keyPrefix = "compared-cache-key-"

// systems in the order in which they are described. None of them is started.
func systems(g group, cachenode string) []system {
	server, _ := exec.LookPath(redisProgram) // if it is not there the system says so
	return []system{
		&echo{group: g}, &cachenodes{binary: cachenode, logs: g.logs}, &etcd{group: g}, &natsKV{group: g}, &redis{group: g, server: server},
	}
}

// chosen is the rows that match, and those that they are compared with.
func chosen(only *regexp.Regexp) []row {
	return slices.DeleteFunc(slices.Clone(rows), func(r row) bool {
		return !only.MatchString(r.name) && !slices.ContainsFunc(rows, func(o row) bool { return o.base == r.name && only.MatchString(o.name) })
	})
}

// cachenodeProgram finds the node to start.
func cachenodeProgram(name string) (string, error) {
	if name == "" {
		name = "cachenode"
		if self, err := os.Executable(); err == nil {
			beside := filepath.Join(filepath.Dir(self), name)
			if _, err := os.Stat(beside); err == nil {
				return beside, nil
			}
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w; want a cachenode program, such as that of make build", err)
	}
	return path, nil
}

// dataDir is where the servers' files go: named, or in memory if the system has a place for that.
func dataDir(named string) string {
	const shared = "/dev/shm"
	if named == "" && unix.Access(shared, unix.W_OK) == nil {
		return shared
	}
	return named // empty is the usual place for temporary files
}

// serveNATS is what the program nats-server does.
func serveNATS(args []string) {
	fs := flag.NewFlagSet("nats-server", flag.ExitOnError)
	opts, err := server.ConfigureOptions(fs, args, server.PrintServerAndExit, fs.Usage, server.PrintTLSHelpAndDie)
	if err != nil {
		server.PrintAndDie("nats-server: " + err.Error())
	}
	s, err := server.NewServer(opts)
	if err != nil {
		server.PrintAndDie("nats-server: " + err.Error())
	}
	s.ConfigureLogger()
	if err := server.Run(s); err != nil {
		server.PrintAndDie(err.Error())
	}
	s.WaitForShutdown()
}

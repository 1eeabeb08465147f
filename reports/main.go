// Command reports turns the results of runs into pages.
//
//	reports render DIR...
//	reports merge --out DIR DIR...     the segments of one load as one run
//
// It exits with 0, with 1 when a page could not be written, or with 2 when the command line or a run directory cannot
// be used.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/reports/render"
	"github.com/hacache/hacache/reports/result"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// usageError is a mistake of the caller: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// run is the whole program but for the process around it: it returns the exit code. Errors are one line on stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	usage := func(_ context.Context, _ *cli.Command, err error, _ bool) error { return usageError{err} }
	app := &cli.Command{
		Name:            "reports",
		Usage:           "turn the results of runs into pages",
		Writer:          stdout,
		ErrWriter:       stderr,
		HideHelpCommand: true,
		OnUsageError:    usage,
		ExitErrHandler:  func(context.Context, *cli.Command, error) {}, // the exit code is decided below
		Action: func(_ context.Context, c *cli.Command) error {
			if name := c.Args().First(); name != "" {
				return usageError{fmt.Errorf("unknown command %q, expected render or merge; see reports --help", name)}
			}
			return usageError{errors.New("no command given, expected render or merge; see reports --help")}
		},
		Commands: []*cli.Command{{
			Name:         "render",
			Usage:        "make report.html, report.md and plots/*.svg of each run directory again",
			ArgsUsage:    "DIR...",
			OnUsageError: usage,
			Action: func(ctx context.Context, c *cli.Command) error {
				if c.Args().Len() == 0 {
					return usageError{errors.New("render: no run directory given, expected: reports render DIR")}
				}
				for _, dir := range c.Args().Slice() {
					if err := ctx.Err(); err != nil {
						return err
					}
					r, err := result.Read(dir)
					if err != nil {
						return usageError{err} // which names the file, and the line where there is one
					}
					page, err := render.Write(dir, r)
					if err != nil {
						return err
					}
					fmt.Fprintln(stdout, page)
				}
				return nil
			},
		}, {
			Name:         "merge",
			Usage:        "add up the runs of several load generators, bucket by bucket",
			ArgsUsage:    "DIR...",
			OnUsageError: usage,
			Flags:        []cli.Flag{&cli.StringFlag{Name: "out", Value: "out", Usage: "`DIR` in which the run directory is made"}},
			Action: func(_ context.Context, c *cli.Command) error {
				if c.Args().Len() == 0 {
					return usageError{errors.New("merge: no run directory given; expected one or more")}
				}
				m, err := result.Merge(c.Args().Slice())
				if err != nil {
					return usageError{err}
				}
				dir, err := result.CreateDir(c.String("out"), m.Run.Name+"-merged", m.Run.Started)
				if err != nil {
					return err
				}
				if err := m.Write(dir); err != nil {
					return err
				}
				page, err := render.Write(dir, m.Run)
				if err != nil {
					return err
				}
				fmt.Fprintln(stdout, page)
				return nil
			},
		}},
	}
	err := app.Run(ctx, args)
	if err == nil {
		return result.ExitOK
	}
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, "reports: interrupted")
		return result.ExitInterrupt
	}
	fmt.Fprintf(stderr, "reports: %v\n", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return result.ExitUsage
	}
	return result.ExitFailure
}

// Command reports turns the results of runs into pages.
//
//	reports render DIR...
//	reports merge --out DIR DIR...     the segments of one load as one run
//	reports compare A B [C...]         by how much B, C and so on differ from A
//	reports gate BASE HEAD             whether HEAD is worse than BASE by more than may be
//	reports trend DIR...               a row of medians for each, in a table for Apache Otava
//
// It exits with 0, with 1 when something could not be written, with 2 when the command line or a run directory cannot be
// used; gate exits with 98 for a regression and with 96 when nothing can be concluded.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/internal/interrupt"
	"github.com/hacache/hacache/reports/compare"
	"github.com/hacache/hacache/reports/render"
	"github.com/hacache/hacache/reports/result"
)

func main() {
	os.Exit(run(interrupt.Context(), os.Args, os.Stdout, os.Stderr))
}

// run is the whole program but for the process around it: it returns the exit code. Errors are one line on stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return command.Run(ctx, newCommand(stdout, stderr), args)
}

func newCommand(stdout, stderr io.Writer) *cli.Command {
	outFlag := func(about string) cli.Flag { return &cli.StringFlag{Name: "out", Usage: about} }
	return &cli.Command{
		Name:            "reports",
		Usage:           "turn the results of runs into pages, and compare them",
		Writer:          stdout,
		ErrWriter:       stderr,
		HideHelpCommand: true,
		Commands: []*cli.Command{{
			Name:      "render",
			Usage:     "make report.html, report.md, junit.xml and plots/ of each run directory again",
			ArgsUsage: "DIR...", Action: renderCommand,
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "png", Usage: "the pictures as PNG too"},
				&cli.StringFlag{Name: "baseline", Usage: "say how each run differs from the run, or the runs, in `DIR`"},
			},
		}, {
			Name:      "merge",
			Usage:     "add up the runs of several load generators, bucket by bucket",
			ArgsUsage: "DIR...", Action: mergeCommand,
			Flags: []cli.Flag{&cli.StringFlag{Name: "out", Value: "out", Usage: "`DIR` in which the run directory is made"}},
		}, {
			Name:        "compare",
			Usage:       "by how much runs differ from the first: effect and interval of each metric",
			Description: "A, B and so on are run directories, or directories with several of them: repetitions of one thing.",
			ArgsUsage:   "A B [C...]", Action: compareCommand,
			Flags: []cli.Flag{outFlag("write the page and its files into `DIR`")},
		}, {
			Name:        "gate",
			Usage:       "whether HEAD is worse than BASE by more than its limits allow; 98 if so, 96 if that cannot be told",
			Description: "BASE and HEAD are directories with a run directory, or a directory of them, for each round. make gate makes them.",
			ArgsUsage:   "BASE HEAD", Action: gateCommand,
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "paired", Usage: "the rounds of the same name were made together"},
				&cli.FloatFlag{Name: "alpha", Value: compare.Alpha, Usage: "`SHARE` of false alarms that this judgement may spend, if there are several as rounds are added"},
				&cli.BoolFlag{Name: "final", Usage: "there will be no more rounds: what is inconclusive is neutral, and passes"},
				&cli.StringFlag{Name: "title", Value: "gate", Usage: "what the page is called"},
				&cli.StringFlag{Name: "command", Usage: "the `COMMAND` that the page says repeats it", Hidden: true},
				outFlag("write the page and its files into `DIR`"),
			},
		}, {
			Name:        "trend",
			Usage:       "append the medians of each DIR to a table, with a configuration by which Apache Otava finds changes in it",
			Description: "DIR is a run directory, or one with several of them, whose medians make one row.",
			ArgsUsage:   "DIR...", Action: trendCommand,
			Flags: []cli.Flag{&cli.StringFlag{Name: "csv", Value: "trend.csv", Usage: "the table's `FILE`; otava.yaml is written beside it"}},
		}},
	}
}

func renderCommand(ctx context.Context, c *cli.Command) error {
	if c.Args().Len() == 0 {
		return command.Usage(errors.New("render: no run directory given, expected: reports render DIR"))
	}
	var base *compare.Side
	if dir := c.String("baseline"); dir != "" {
		var err error
		if base, err = compare.ReadSide(dir); err != nil {
			return command.Usage(err)
		}
	}
	for _, dir := range c.Args().Slice() {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := result.Read(dir)
		if err != nil {
			return command.Usage(err) // which names the file, and the line where there is one
		}
		var against *compare.Gate
		if base != nil {
			head := &compare.Side{Name: "this run", Rounds: []compare.Round{{Name: ".", Runs: []*result.Run{r}, Dirs: []string{dir}}}}
			if against, err = compare.Judge(base, head, compare.Options{Describe: true}); err != nil {
				return command.Usagef("%s, %s: %w", c.String("baseline"), dir, err)
			}
		}
		page, err := render.WriteAgainst(dir, r, against)
		if err != nil {
			return err
		}
		if c.Bool("png") {
			if err := render.PNG(dir, r); err != nil {
				return err
			}
		}
		fmt.Fprintln(c.Root().Writer, page)
	}
	return nil
}

func mergeCommand(_ context.Context, c *cli.Command) error {
	if c.Args().Len() == 0 {
		return command.Usage(errors.New("merge: no run directory given; expected one or more"))
	}
	m, err := result.Merge(c.Args().Slice())
	if err != nil {
		return command.Usage(err)
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
	fmt.Fprintln(c.Root().Writer, page)
	return nil
}

// readSides reads the directories of a comparison, and gives each a name of its own.
func readSides(dirs []string) ([]*compare.Side, error) {
	var sides []*compare.Side
	taken := map[string]bool{}
	for _, dir := range dirs {
		s, err := compare.ReadSide(dir)
		if err != nil {
			return nil, command.Usage(err)
		}
		if taken[s.Name] {
			s.Name = filepath.ToSlash(filepath.Clean(dir))
		}
		taken[s.Name] = true
		sides = append(sides, s)
	}
	return sides, nil
}

func compareCommand(_ context.Context, c *cli.Command) error {
	if c.Args().Len() < 2 {
		return command.Usagef("compare: %d directories given, expected: reports compare A B [C...]", c.Args().Len())
	}
	sides, err := readSides(c.Args().Slice())
	if err != nil {
		return err
	}
	cmp := &render.Comparison{Title: "compare", Command: "reports compare " + strings.Join(c.Args().Slice(), " ")}
	for _, head := range sides[1:] {
		g, err := compare.Judge(sides[0], head, compare.Options{Describe: true})
		if err != nil {
			return command.Usagef("%s, %s: %w", sides[0].Name, head.Name, err)
		}
		cmp.Gates = append(cmp.Gates, g)
	}
	return writeComparison(c, cmp)
}

func gateCommand(_ context.Context, c *cli.Command) error {
	if c.Args().Len() != 2 {
		return command.Usagef("gate: %d directories given, expected: reports gate BASE HEAD", c.Args().Len())
	}
	alpha := c.Float("alpha")
	if !(alpha > 0 && alpha <= compare.Alpha) {
		return command.Usagef("--alpha: %g, expected more than 0 and at most %g", alpha, compare.Alpha)
	}
	sides, err := readSides(c.Args().Slice())
	if err != nil {
		return err
	}
	g, err := compare.Judge(sides[0], sides[1], compare.Options{Paired: c.Bool("paired"), Alpha: alpha, Final: c.Bool("final")})
	if err != nil {
		return command.Usagef("%s, %s: %w", sides[0].Name, sides[1].Name, err)
	}
	if err := writeComparison(c, &render.Comparison{Title: c.String("title"), Gates: []*compare.Gate{g}, Judged: true, Command: c.String("command")}); err != nil {
		return err
	}
	if code := g.ExitCode(); code != result.ExitOK {
		return command.Exit(code)
	}
	return nil
}

// writeComparison prints a comparison, and makes its page if there is a place for it.
func writeComparison(c *cli.Command, cmp *render.Comparison) error {
	if err := cmp.Text(c.Root().Writer); err != nil {
		return err
	}
	out := c.String("out")
	if out == "" {
		return nil
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	page, err := render.WriteComparison(out, cmp)
	if err != nil {
		return err
	}
	fmt.Fprintln(c.Root().Writer, "report:", page)
	return nil
}

func trendCommand(_ context.Context, c *cli.Command) error {
	if c.Args().Len() == 0 {
		return command.Usage(errors.New("trend: no run directory given, expected: reports trend DIR"))
	}
	path := c.String("csv")
	trend := new(compare.Trend)
	f, err := os.Open(path)
	switch {
	case err == nil:
		trend, err = compare.ReadTrend(f, path)
		f.Close()
		if err != nil {
			return command.Usage(err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	for _, dir := range c.Args().Slice() {
		s, err := compare.ReadSide(dir)
		if err == nil {
			err = trend.Append(s)
		}
		if err != nil {
			return command.Usagef("%s: %w", dir, err)
		}
	}
	var table, config bytes.Buffer
	if err := trend.WriteCSV(&table); err != nil {
		return err
	}
	if err := trend.WriteOtava(&config, filepath.Base(path)); err != nil {
		return err
	}
	if err := result.ReplaceFile(path, table.Bytes()); err != nil {
		return err
	}
	if err := result.ReplaceFile(filepath.Join(filepath.Dir(path), "otava.yaml"), config.Bytes()); err != nil {
		return err
	}
	fmt.Fprintf(c.Root().Writer, "%s: %d rows\n", path, len(trend.Rows))
	return nil
}

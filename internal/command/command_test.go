package command_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/internal/interrupt"
)

// TestRun proves what a person and a script see of every way to end: the lines on stderr, and the exit code.
func TestRun(t *testing.T) {
	interrupted, cancel := context.WithCancelCause(t.Context())
	cancel(interrupt.Signal("SIGTERM"))
	for name, c := range map[string]struct {
		ctx  context.Context
		args []string
		err  error
		code int
		want string
	}{
		"done":                        {args: []string{"do"}},
		"failure":                     {args: []string{"do"}, err: errors.New("disk full"), code: 1, want: "x: disk full\n"},
		"several mistakes":            {args: []string{"do"}, err: command.Usage(errors.New("a: 1\nb: 2")), code: 2, want: "x: a: 1\nx: b: 2\n"},
		"mistake, wrapped":            {args: []string{"do"}, err: fmt.Errorf("do: %w", command.Usagef("no %s", "file")), code: 2, want: "x: do: no file\n"},
		"told":                        {args: []string{"do"}, err: command.Told(errors.New("said")), code: 1},
		"mistake, told":               {args: []string{"do"}, err: command.Told(command.Usagef("said")), code: 2},
		"code":                        {args: []string{"do"}, err: errors.Join(errors.New("a"), command.Exit(97)), code: 97},
		"interrupted":                 {ctx: interrupted, args: []string{"do"}, err: fmt.Errorf("do: %w", context.Canceled), code: 143, want: "x: interrupted by SIGTERM\n"},
		"interrupted, and it failed":  {ctx: interrupted, args: []string{"do"}, err: errors.New("disk full"), code: 143, want: "x: disk full\n"},
		"cancelled, but by no signal": {args: []string{"do"}, err: context.Canceled, code: 1, want: "x: context canceled\n"},
		"no command":                  {code: 2, want: "x: no command; expected one of do, group (see x --help)\n"},
		"no command below":            {args: []string{"group"}, code: 2, want: "x: group: no command; expected one of one (see x group --help)\n"},
		"unknown command":             {args: []string{"od"}, code: 2, want: "x: unknown command \"od\"; expected one of do, group\n"},
		"unknown flag":                {args: []string{"--fsat"}, code: 2, want: "x: unknown flag --fsat (see x --help)\n"},
		"unknown flag below":          {args: []string{"group", "one", "-q"}, code: 2, want: "x: one: unknown flag -q (see x group one --help)\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			nothing := func(context.Context, *cli.Command) error { return nil }
			root := &cli.Command{
				Name: "x", Writer: &stdout, ErrWriter: &stderr, HideHelpCommand: true,
				Commands: []*cli.Command{
					{Name: "do", Action: func(context.Context, *cli.Command) error { return c.err }},
					{Name: "group", HideHelpCommand: true, Commands: []*cli.Command{{Name: "one", Action: nothing}}},
					{Name: "secret", Hidden: true, Action: nothing},
				},
			}
			ctx := c.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			if code := command.Run(ctx, root, append([]string{"x"}, c.args...)); code != c.code || stderr.String() != c.want || stdout.Len() > 0 {
				t.Errorf("exit code %d, stderr %q, stdout %q; expected %d, %q and nothing", code, stderr.String(), stdout.String(), c.code, c.want)
			}
		})
	}
}

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/chaos/internal/live"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/reports/result"
)

// maxInjected is how long a fault may be in force on a cluster in use.
const maxInjected = time.Hour

// injectCommand breaks something that runs already, for a while.
func injectCommand(ctx context.Context, c *cli.Command) error {
	if c.Args().Len() != 1 {
		return command.Usagef("inject: %d arguments; expected ACTION, one of what chaos inject --help lists", c.Args().Len())
	}
	f := live.Fault{
		Action: c.Args().First(), Pids: c.IntSlice("pid"), Server: c.String("toxiproxy"), Proxies: c.StringSlice("proxy"), Direction: c.String("direction"),
		Latency: c.Duration("latency"), Jitter: c.Duration("jitter"), Bytes: c.Int64("bytes"), Duty: c.Float64("duty") / 100, Period: c.Duration("period"),
	}
	if err := f.Validate(); err != nil {
		return command.Usagef("inject: %w", err)
	}
	lasts := c.Duration("for")
	if lasts <= 0 || lasts > maxInjected {
		return command.Usagef("inject: --for %v; expected more than 0 and %v at most", lasts, maxInjected)
	}
	nurse, err := live.CallNurse(f.Remedy())
	if err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	healed := true // nothing was done yet
	defer func() { nurse.Dismiss(healed) }()
	w := c.Root().Writer
	started := time.Now()
	healed = false
	done, err := f.Inject(ctx)
	if err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	for _, what := range done {
		fmt.Fprintf(w, "%s  %s\n", started.Format(time.TimeOnly), what)
	}
	hold, stop := context.WithTimeout(ctx, lasts)
	defer stop()
	f.Hold(hold)
	if err := f.Remedy().Heal(ctx); err != nil {
		return fmt.Errorf("inject: not healed: %w", err)
	}
	healed = true
	fmt.Fprintf(w, "%s  healed after %v\n", time.Now().Format(time.TimeOnly), time.Since(started).Round(time.Millisecond))
	if context.Cause(ctx) != nil {
		return command.Exit(result.ExitInterrupt)
	}
	return nil
}

// attend heals in place of a process that cannot any more. It is not for people.
func attend(ctx context.Context, c *cli.Command) error {
	healed, err := live.Attend(context.WithoutCancel(ctx), c.Args().First(), os.Stdin)
	if healed {
		fmt.Fprintln(c.Root().Writer, "healed in place of another process")
	}
	return err
}

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/chaos/internal/live"
	"github.com/hacache/hacache/reports/result"
)

// maxInjected is how long a fault may be in force on a cluster in use.
const maxInjected = time.Hour

// injectCommand breaks something that runs already, for a while.
func injectCommand(ctx context.Context, c *cli.Command) error {
	if c.Args().Len() != 1 {
		return usagef("inject: %d arguments; expected ACTION, one of what chaos inject --help lists", c.Args().Len())
	}
	f := live.Fault{
		Action: c.Args().First(), Pids: c.IntSlice("pid"), Server: c.String("toxiproxy"), Proxies: c.StringSlice("proxy"), Direction: c.String("direction"),
		Latency: c.Duration("latency"), Jitter: c.Duration("jitter"), Bytes: c.Int64("bytes"), Duty: c.Float64("duty") / 100, Period: c.Duration("period"),
	}
	if err := f.Validate(); err != nil {
		return usageError{fmt.Errorf("inject: %w", err)}
	}
	lasts := c.Duration("for")
	if lasts <= 0 || lasts > maxInjected {
		return usagef("inject: --for %v; expected more than 0 and %v at most", lasts, maxInjected)
	}
	nurse, err := callNurse(f.Remedy())
	if err != nil {
		return err
	}
	healed := true // nothing was done yet
	defer func() { nurse.dismiss(healed) }()
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
		return exitError(result.ExitInterrupt)
	}
	return nil
}

// nurse is a process that heals if this one cannot: it waits until this one has
// ended, however that came about.
type nurse struct {
	cmd *exec.Cmd
	say io.WriteCloser
}

// dismissal is what a nurse hears when there is nothing left to heal.
const dismissal = "healed\n"

func callNurse(r live.Remedy) (*nurse, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	plan, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	n := &nurse{cmd: exec.Command(self, nurseCommand, string(plan))}
	n.cmd.Stdout, n.cmd.Stderr = os.Stdout, os.Stderr
	// A session of its own: an interrupt typed at the terminal is not for it.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if n.say, err = n.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := n.cmd.Start(); err != nil {
		return nil, fmt.Errorf("inject: nothing was done: start who would heal if this process were killed: %w", err)
	}
	return n, nil
}

// dismiss waits for the end of the nurse. Unless everything is healed, it tries
// again what this process could not.
func (n *nurse) dismiss(healed bool) {
	if healed {
		_, _ = io.WriteString(n.say, dismissal)
	}
	n.say.Close()
	_ = n.cmd.Wait()
}

// nurseCommand is what a nurse is started with. It is not for people.
const nurseCommand = "heal-when-orphaned"

// attend is the life of a nurse.
func attend(ctx context.Context, c *cli.Command) error {
	var r live.Remedy
	if err := json.Unmarshal([]byte(c.Args().First()), &r); err != nil {
		return usagef("%s: %w", nurseCommand, err)
	}
	said, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if said == dismissal {
		return nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(c.Root().ErrWriter, "chaos: "+err.Error())
	}
	if err := r.Heal(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("heal in place of another process: %w", err)
	}
	fmt.Fprintln(c.Root().Writer, "healed in place of another process")
	return nil
}

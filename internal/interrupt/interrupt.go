// Package interrupt turns the signals that end a program into the end of a context.
package interrupt

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Signal is the cause of a context that a signal ended: SIGINT or SIGTERM.
type Signal string

// Error implements error.
func (s Signal) Error() string { return "interrupted by " + string(s) }

// ExitCode is that of a program that the signal ended: 128 and its number, as shells have it.
func (s Signal) ExitCode() int {
	if s == "SIGTERM" {
		return 128 + int(syscall.SIGTERM)
	}
	return 128 + int(syscall.SIGINT)
}

// Context ends with the first SIGINT or SIGTERM, which is its cause. The second ends the program at once: who asks twice
// does not want to wait.
func Context() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for n := 0; ; n++ {
			s := Signal("SIGINT")
			if <-signals == syscall.SIGTERM {
				s = "SIGTERM"
			}
			if n > 0 {
				os.Exit(s.ExitCode())
			}
			cancel(s)
		}
	}()
	return ctx
}

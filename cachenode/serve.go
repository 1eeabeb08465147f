package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/cachenode/node"
	"github.com/hacache/hacache/internal/command"
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "run a node (what cachenode does without a command)",
		Description: "Without any configuration the node is alone, listens on 127.0.0.1:7070 and uses no TLS.\n" +
			"With HA_MODE=true it is the member of HA_HOSTS that HOSTNAME_OVERWRITE names, or the machine's name.\n" +
			"Without a token it listens on loopback only.",
		Flags:  settingFlags(),
		Action: serve,
	}
}

// settingFlags are --config and a flag for each setting. Values are kept as text: config parses them, so that a flag,
// a variable and a line of a file get the same answer to the same mistake.
func settingFlags() []cli.Flag {
	flags := []cli.Flag{&cli.StringFlag{Name: "config", Usage: "YAML `FILE` with settings [$CACHE_CONFIG]"}}
	for _, s := range config.Settings() {
		if s.Flag() == "" {
			continue
		}
		usage := s.Usage + " [$" + s.Env + "]"
		if s.Bool {
			flags = append(flags, &cli.BoolFlag{Name: s.Flag(), Usage: usage, HideDefault: true})
		} else {
			flags = append(flags, &cli.StringFlag{Name: s.Flag(), Usage: usage})
		}
	}
	return flags
}

// loadConfig gathers the sources of configuration for a command that has settingFlags.
func loadConfig(c *cli.Command) (config.Config, []string, error) {
	in := config.Input{File: c.String("config"), Flags: map[string]string{}, Env: os.Environ()}
	for _, s := range config.Settings() {
		switch name := s.Flag(); {
		case name == "" || !c.IsSet(name):
		case s.Bool:
			in.Flags[s.Key] = strconv.FormatBool(c.Bool(name))
		default:
			in.Flags[s.Key] = c.String(name)
		}
	}
	cfg, warnings, err := config.Load(in)
	if err != nil {
		return cfg, warnings, command.Usage(err)
	}
	return cfg, warnings, nil
}

// serve runs the node until SIGINT or SIGTERM, and then stops it in order.
func serve(ctx context.Context, c *cli.Command) error {
	if _, err := exactArgs(c, 0, 0); err != nil {
		return err
	}
	cfg, warnings, err := loadConfig(c)
	if err != nil {
		return err
	}
	logger := newLogger(c.Root().ErrWriter, &cfg)
	for _, w := range warnings {
		logger.Warn(w)
	}
	pace := tuneMemory(logger)
	n, err := node.FromConfig(cfg, logger)
	if err != nil {
		return err
	}
	running, stop := context.WithCancelCause(ctx)
	var beside sync.WaitGroup
	until, end := context.WithCancel(context.WithoutCancel(ctx))
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	beside.Go(func() { handleSignals(until, signals, n, supervisor{logger}, stop) })
	beside.Go(func() { supervisor{logger}.watch(until, n) })
	beside.Go(func() { pace(until) })
	err = n.Run(running)
	end()
	beside.Wait()
	stop(nil)
	return err
}

func newLogger(w io.Writer, cfg *config.Config) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.LogLevel)) // validated
	opts := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

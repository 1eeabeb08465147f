package main

import (
	"context"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/cachenode/node"
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
		return cfg, warnings, usageError{err}
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
	tuneMemory(logger)
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

// tuneMemory lets the heap grow to five times the live data between collections, which takes a quarter off the 99th
// percentile of writes, as long as that is less than half of the memory there is; near it the collector works as hard
// as it must. GOGC and GOMEMLIMIT of the environment win.
func tuneMemory(logger *slog.Logger) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	total := memoryLimit()
	if total <= 0 {
		return
	}
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(total / 2)
	logger.Debug("memory", "gc_percent", 400, "soft_limit_bytes", total/2)
}

// memoryLimit is the memory this process may have, in bytes: that of its cgroup, or else of the machine; 0 is unknown.
func memoryLimit() int64 {
	limit := int64(math.MaxInt64)
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		fields := strings.Fields(string(data))
		if i := slices.Index(fields, "MemTotal:"); i >= 0 && i+1 < len(fields) {
			if kib, err := strconv.ParseInt(fields[i+1], 10, 64); err == nil {
				limit = kib << 10
			}
		}
	}
	if data, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil {
			limit = min(limit, n)
		}
	}
	if limit == math.MaxInt64 {
		return 0
	}
	return limit
}

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/internal/command"
)

func configCommand() *cli.Command {
	return &cli.Command{
		Name: "config", Usage: "check or print the configuration a node would run with",
		Commands: []*cli.Command{
			{
				Name: "check", Usage: "report every mistake; exit code 2 if there is one",
				Flags:  append(settingFlags(), outputFlag()),
				Action: checkConfig,
			},
			{
				Name: "print", Usage: "print each setting, its value and where it came from; never a secret",
				Flags:  append(settingFlags(), outputFlag()),
				Action: printConfig,
			},
		},
	}
}

func checkConfig(_ context.Context, c *cli.Command) error {
	if _, err := exactArgs(c, 0, 0); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	_, warnings, err := loadConfig(c)
	if !asJSON {
		for _, w := range warnings {
			fmt.Fprintln(c.Root().ErrWriter, "warning:", w)
		}
		if err != nil {
			return err
		}
		return writeDone(c, false, nil)
	}
	report := struct {
		OK       bool     `json:"ok"`
		Errors   []string `json:"errors"`
		Warnings []string `json:"warnings"`
	}{err == nil, []string{}, append([]string{}, warnings...)}
	if err == nil {
		return writeJSON(c, report)
	}
	for line := range strings.Lines(err.Error()) {
		report.Errors = append(report.Errors, strings.TrimSpace(line))
	}
	return errors.Join(writeJSON(c, report), command.Told(err))
}

func printConfig(_ context.Context, c *cli.Command) error {
	if _, err := exactArgs(c, 0, 0); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	cfg, _, err := loadConfig(c)
	if err != nil {
		return err
	}
	if asJSON {
		type value struct {
			Key    string `json:"key"`
			Value  string `json:"value"`
			Origin string `json:"origin"`
		}
		var values []value
		for _, s := range config.Settings() {
			values = append(values, value{s.Key, s.Value(&cfg), cfg.Origin(s.Key)})
		}
		for _, p := range cfg.Caches {
			values = append(values, value{"caches." + p.Name, policyText(p), cfg.Origin("caches." + p.Name)})
		}
		return writeJSON(c, values)
	}
	w := tabwriter.NewWriter(c.Root().Writer, 0, 0, 2, ' ', 0)
	for _, s := range config.Settings() {
		fmt.Fprintf(w, "%s:\t%s\t# %s\n", s.Key, s.Value(&cfg), cfg.Origin(s.Key))
	}
	for _, p := range cfg.Caches {
		fmt.Fprintf(w, "cache %s:\t%s\t# %s\n", p.Name, policyText(p), cfg.Origin("caches."+p.Name))
	}
	return w.Flush()
}

func policyText(p config.CachePolicy) string {
	return fmt.Sprintf("max_entries=%d max_bytes=%d ttl=%v evict=%s", p.MaxEntries, p.MaxBytes, p.TTL, cmp.Or(p.Evict, "oldest-write"))
}

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "table or json"}
}

func wantsJSON(c *cli.Command) (bool, error) {
	switch o := c.String("output"); o {
	case "table":
		return false, nil
	case "json":
		return true, nil
	default:
		return false, command.Usagef("flag --output: %q is neither table nor json", o)
	}
}

func writeJSON(c *cli.Command, v any) error {
	enc := json.NewEncoder(c.Root().Writer)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

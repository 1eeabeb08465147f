package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/internal/config"
)

func configCommand() *cli.Command {
	return &cli.Command{
		Name: "config", Usage: "check or print the configuration a node would run with",
		Commands: []*cli.Command{
			{
				Name: "check", Usage: "report every mistake; exit code 2 if there is one", Flags: settingFlags(),
				Action: func(_ context.Context, c *cli.Command) error {
					if _, err := exactArgs(c, 0, 0); err != nil {
						return err
					}
					_, warnings, err := loadConfig(c)
					for _, w := range warnings {
						fmt.Fprintln(c.Root().ErrWriter, "warning:", w)
					}
					if err != nil {
						return err
					}
					_, err = fmt.Fprintln(c.Root().Writer, "ok")
					return err
				},
			},
			{
				Name: "print", Usage: "print each setting, its value and where it came from; never a secret",
				Flags:  append(settingFlags(), outputFlag()),
				Action: printConfig,
			},
		},
	}
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
		return writeJSON(c, values)
	}
	w := tabwriter.NewWriter(c.Root().Writer, 0, 0, 2, ' ', 0)
	for _, s := range config.Settings() {
		fmt.Fprintf(w, "%s:\t%s\t# %s\n", s.Key, s.Value(&cfg), cfg.Origin(s.Key))
	}
	for _, p := range cfg.Caches {
		fmt.Fprintf(w, "cache %s:\tmax_entries=%d max_bytes=%d ttl=%v evict=%s\t# %s\n",
			p.Name, p.MaxEntries, p.MaxBytes, p.TTL, p.Evict, cfg.Origin("caches."+p.Name))
	}
	return w.Flush()
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
		return false, usagef("flag --output: %q is neither table nor json", o)
	}
}

func writeJSON(c *cli.Command, v any) error {
	enc := json.NewEncoder(c.Root().Writer)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

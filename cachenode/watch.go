package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/internal/command"
)

func watchCommand() *cli.Command {
	flags := slices.DeleteFunc(connectFlags(), func(f cli.Flag) bool { return f.Names()[0] == "timeout" })
	return &cli.Command{
		Name: "watch", Usage: "print what changes, one line each, until interrupted", ArgsUsage: "[CACHE...]",
		Description: "Prints the changes of the named caches, or of all, in the order in which the node applies them. A line that begins\n" +
			"with gap says that changes may be missing before it. When the node is lost the next one of --addr goes on.",
		Flags: append(
			flags,
			&cli.DurationFlag{Name: "timeout", Aliases: []string{"t"}, Value: 5 * time.Second, Usage: "how long a node may take to answer at the beginning"},
			&cli.IntFlag{Name: "count", Aliases: []string{"n"}, Usage: "stop after `N` changes (default: never)"},
		),
		Action: watch,
	}
}

// watch prints events until --count is reached or the watch ends.
func watch(ctx context.Context, c *cli.Command) error {
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	left := c.Int("count")
	if left < 0 || left == 0 && c.IsSet("count") {
		return command.Usagef("flag --count: %d; expected at least 1", left)
	}
	t, err := newTarget(c)
	if err != nil {
		return err
	}
	cfg, err := t.answering(ctx, c.Duration("timeout"))
	if err != nil {
		return err
	}
	out := json.NewEncoder(c.Root().Writer)
	for event, err := range client.Watch(ctx, cfg, c.Args().Slice()...) {
		if err != nil {
			if denied, ok := errors.AsType[*client.AuthError](err); ok {
				return errors.New(t.explain(denied.Addr, err))
			}
			return errors.New(strings.TrimPrefix(err.Error(), "client: "))
		}
		line, fields := describe(event)
		if asJSON {
			err = out.Encode(fields)
		} else {
			_, err = fmt.Fprintln(c.Root().Writer, line)
		}
		if err != nil {
			return err
		}
		if _, isChange := fields["key"]; isChange {
			if left--; left == 0 {
				return nil
			}
		}
	}
	return nil
}

// answering is the configuration of a watch that begins at the first node that answers now. There has to be one: a
// watch by itself would wait for ever.
func (t *target) answering(ctx context.Context, timeout time.Duration) (client.ClientConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := t.dial(ctx)
	if err != nil {
		return client.ClientConfig{}, err
	}
	defer conn.Close()
	first := slices.Index(t.addrs, conn.Addr())
	return client.ClientConfig{Config: t.base, Addrs: slices.Concat(t.addrs[first:], t.addrs[:first])}, nil
}

// describe is an event in words and for programs.
func describe(event client.Event) (line string, fields map[string]any) {
	switch e := event.(type) {
	case client.Changed:
		return fmt.Sprintf("changed %s %s index %d", plain(e.Cache), plain(e.Key), e.Index), map[string]any{
			"event": "changed", "cache": e.Cache, "key": e.Key, "cluster": hex(e.Cluster), "term": e.Term, "index": e.Index,
		}
	case client.Removed:
		word := e.Cause.String()
		if e.Cause == client.CauseOperation {
			word = "removed"
		}
		return fmt.Sprintf("%s %s %s index %d", word, plain(e.Cache), plain(e.Key), e.Index), map[string]any{
			"event": "removed", "cause": e.Cause.String(), "cache": e.Cache, "key": e.Key, "cluster": hex(e.Cluster), "term": e.Term, "index": e.Index,
		}
	case client.Gap:
		fields = map[string]any{"event": "gap", "reason": e.Reason.String(), "cluster": hex(e.Cluster), "from": e.From, "node": e.Node}
		if e.Err != nil {
			why := strings.TrimPrefix(e.Err.Error(), "client: ")
			fields["error"] = why
			return "gap down: " + why, fields
		}
		fields["to"] = e.To
		return fmt.Sprintf("gap %s: index %d to %d, node %s", e.Reason, e.From, e.To, e.Node), fields
	case client.Leader:
		return fmt.Sprintf("leader %s term %d, node %s", dash(e.Addr), e.Term, e.Node), map[string]any{
			"event": "leader", "leader": e.Addr, "quorum": e.Quorum, "cluster": hex(e.Cluster), "term": e.Term, "node": e.Node,
		}
	}
	return fmt.Sprint(event), map[string]any{"event": "unknown"}
}

func hex(cluster uint64) string { return fmt.Sprintf("%016x", cluster) }

// plain is a name as one word: quoted if it is none.
func plain(name string) string {
	odd := func(r rune) bool { return r == '"' || unicode.IsSpace(r) || !unicode.IsPrint(r) }
	if name == "" || strings.ContainsFunc(name, odd) {
		return strconv.Quote(name)
	}
	return name
}

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/proto/cachepb"
)

var readModes = map[string]cachepb.ReadTag_Mode{
	"local": cachepb.ReadTag_LOCAL, "leader-on-miss": cachepb.ReadTag_LEADER_ON_MISS, "linearizable": cachepb.ReadTag_LINEARIZABLE,
}

func operationCommands() []*cli.Command {
	ack := func() cli.Flag {
		return &cli.StringFlag{Name: "ack", Value: "quorum", Usage: "when it counts as done: quorum, once or leader"}
	}
	ttl := func() cli.Flag {
		return &cli.DurationFlag{Name: "ttl", Usage: "life of the entry (default: the cache's)"}
	}
	return []*cli.Command{
		{
			Name: "get", Usage: "print a value", ArgsUsage: "CACHE KEY",
			Flags:  connectFlags(&cli.StringFlag{Name: "mode", Value: "local", Usage: "local, leader-on-miss or linearizable"}),
			Action: operation(client.KindGet, 2),
		},
		{
			Name: "put", Usage: "write a value, not waiting for other nodes", ArgsUsage: "CACHE KEY VALUE (- reads it from stdin)",
			Flags: connectFlags(ttl()), Action: operation(client.KindPut, 3),
		},
		{
			Name: "insert", Usage: "write a value and wait for --ack", ArgsUsage: "CACHE KEY VALUE (- reads it from stdin)",
			Flags: connectFlags(ack(), ttl()), Action: operation(client.KindInsert, 3),
		},
		{
			Name: "del", Usage: "remove a key, not waiting for other nodes", ArgsUsage: "CACHE KEY",
			Flags: connectFlags(), Action: operation(client.KindDel, 2),
		},
		{
			Name: "remove", Usage: "remove a key and wait for --ack", ArgsUsage: "CACHE KEY",
			Flags: connectFlags(ack()), Action: operation(client.KindRemove, 2),
		},
	}
}

// operation is the action of one verb.
func operation(kind client.Kind, argc int) cli.ActionFunc {
	return func(ctx context.Context, c *cli.Command) error {
		args, err := exactArgs(c, argc, argc)
		if err != nil {
			return err
		}
		asJSON, err := wantsJSON(c)
		if err != nil {
			return err
		}
		op := &client.Op{Kind: kind, Cache: args[0], Key: args[1], TTL: c.Duration("ttl")}
		if op.TTL < 0 || op.TTL == 0 && c.IsSet("ttl") {
			return command.Usagef("flag --ttl: %v; expected more than 0", op.TTL)
		}
		if kind.Leveled() {
			if op.Level, err = client.ParseLevel(c.String("ack")); err != nil {
				return command.Usagef("flag --ack: %q; expected quorum, once or leader", c.String("ack"))
			}
		}
		if kind == client.KindGet {
			mode, ok := readModes[c.String("mode")]
			if !ok {
				return command.Usagef("flag --mode: %q; expected local, leader-on-miss or linearizable", c.String("mode"))
			}
			op.ReadMode = mode
		}
		if argc == 3 {
			op.Value = []byte(args[2])
			if args[2] == "-" {
				if op.Value, err = io.ReadAll(c.Root().Reader); err != nil {
					return fmt.Errorf("read the value from stdin: %w", err)
				}
			}
		}
		op.Deadline = c.Duration("timeout")
		return withConn(ctx, c, func(ctx context.Context, conn *client.Conn) error {
			out := conn.Do(ctx, op)
			if asJSON {
				if err := writeJSON(c, outcomeJSON(op, &out)); err != nil {
					return err
				}
			}
			return report(c, op, &out, asJSON)
		})
	}
}

// report prints an outcome in words: the value or "ok" on stdout, anything else as an error.
func report(c *cli.Command, op *client.Op, out *client.Outcome, quiet bool) error {
	name := fmt.Sprintf("%s %s %s", op.Kind, op.Cache, op.Key)
	fail := func(format string, args ...any) error {
		err := fmt.Errorf(format, args...)
		if quiet {
			return command.Told(err)
		}
		return err
	}
	switch {
	case out.Refused:
		return fail("%s: refused: the node's copy may be stale (%s)", name, why(out))
	case out.Status == client.StatusInfo:
		return fail("%s: outcome unknown, it may have taken effect: %s", name, why(out))
	case out.Status == client.StatusFail:
		return fail("%s: failed, without effect: %s", name, why(out))
	case op.Kind == client.KindGet && !out.Found:
		return fail("%s: not found", name)
	case quiet:
		return nil
	case op.Kind == client.KindGet:
		w := c.Root().Writer
		if _, err := w.Write(out.Value); err != nil {
			return err
		}
		_, err := fmt.Fprintln(w)
		return err
	default:
		_, err := fmt.Fprintln(c.Root().Writer, "ok")
		return err
	}
}

// why is the node's reason, or the client's where no node gave one.
func why(out *client.Outcome) string {
	if out.Code == cachepb.Code_OK {
		if out.Err == nil {
			return "no reason given"
		}
		return strings.TrimPrefix(out.Err.Error(), "client: ")
	}
	if out.Detail == "" {
		return out.Code.String()
	}
	return out.Code.String() + ": " + out.Detail
}

// outcomeJSON is an outcome for programs.
func outcomeJSON(op *client.Op, out *client.Outcome) map[string]any {
	m := map[string]any{
		"op": op.Kind.String(), "cache": op.Cache, "key": op.Key, "status": out.Status.String(), "node": out.Node,
		"latency_us": out.Returned.Sub(out.Sent).Microseconds(),
	}
	if out.Err != nil {
		m["error"] = out.Err.Error()
		m["code"] = out.Code.String()
	}
	if op.Kind == client.KindGet && out.Status == client.StatusOK {
		m["found"] = out.Found
		m["staleness_us"] = out.Staleness.Microseconds()
		switch {
		case !out.Found:
		case utf8.Valid(out.Value):
			m["value"] = string(out.Value)
		default:
			m["value_base64"] = out.Value
		}
	}
	if out.Cluster != 0 {
		m["cluster"] = fmt.Sprintf("%016x", out.Cluster)
		m["term"], m["index"] = out.Term, out.Index
	}
	if out.Leader != "" {
		m["leader"] = out.Leader
	}
	return m
}

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/proto/cachepb"
)

func healthCommand() *cli.Command {
	return &cli.Command{
		Name: "health", Usage: "exit code 0 if the node answers",
		Flags: connectFlags(&cli.BoolFlag{Name: "ready", Usage: "only if it may serve clients: leader or follower, with a quorum"}),
		Action: func(ctx context.Context, c *cli.Command) error {
			if _, err := exactArgs(c, 0, 0); err != nil {
				return err
			}
			asJSON, err := wantsJSON(c)
			if err != nil {
				return err
			}
			return withConn(ctx, c, func(ctx context.Context, conn *client.Conn) error {
				began := time.Now()
				h, err := conn.Health(ctx)
				if err != nil {
					return fmt.Errorf("%s: %w", conn.Addr(), err)
				}
				row := nodeRow(conn.Addr(), h, time.Since(began))
				if asJSON {
					err = writeJSON(c, row)
				} else {
					_, err = fmt.Fprintf(c.Root().Writer, "%s %s term %d leader %s quorum %t\n", row.Addr, row.State, row.Term, dash(row.Leader), row.Quorum)
				}
				if err == nil && c.Bool("ready") && !ready(h) {
					return fmt.Errorf("%s is not ready: state %s, quorum %t", row.Addr, row.State, row.Quorum)
				}
				return err
			})
		},
	}
}

// ready reports whether the next node may be restarted as far as this one knows: it leads or follows with a quorum, and
// no change of members is under way. Until that is over its old half counts the process that was replaced, which is dead.
func ready(h *cachepb.HealthAck) bool {
	if len(h.GetPeer().GetStatus().GetVotersOutgoing()) > 0 {
		return false
	}
	switch h.GetState().GetValue().(type) {
	case *cachepb.State_Leader, *cachepb.State_Follower:
		return h.GetQuorum()
	default:
		return false
	}
}

func leaderCommand() *cli.Command {
	return &cli.Command{
		Name: "leader", Usage: "manage leadership",
		Commands: []*cli.Command{{
			Name: "switch", Usage: "hand leadership over; returns when another node leads",
			Flags: connectFlags(&cli.StringFlag{Name: "to", Usage: "`HOST` as in HA_HOSTS (default: the best follower)"}),
			Action: func(ctx context.Context, c *cli.Command) error {
				if _, err := exactArgs(c, 0, 0); err != nil {
					return err
				}
				return switchLeader(ctx, c)
			},
		}},
	}
}

func membersCommand() *cli.Command {
	return &cli.Command{
		Name: "members", Usage: "manage the hosts of the cluster",
		Commands: []*cli.Command{{
			Name: "set", Usage: "change the hosts of the running cluster; returns when the new list is in force",
			ArgsUsage: "HOST HOST...",
			Description: "Name all hosts of the new list. A process that comes back with an outdated list could form a cluster of its own,\n" +
				"so the leader asks all nodes what they were started with, and says who is in the way.\n" +
				"Growing: restart the nodes one at a time with the new list in HA_HOSTS, start the new ones with the same list and\n" +
				"CACHE_JOIN_ONLY=true, then run this.\n" +
				"Shrinking: stop all but one of the hosts that leave, run this, stop the last of them, then restart who stays with\n" +
				"the new list, one at a time.\n" +
				"Replacing a host: stop it, start the new one with the new list and CACHE_JOIN_ONLY=true, run this, then restart the\n" +
				"others with the new list, one at a time.",
			Flags: connectFlags(&cli.BoolFlag{Name: "hosts-written", Usage: "do not ask: HA_HOSTS holds the right list wherever a node may be started from now on, and who leaves stays away"}),
			Action: func(ctx context.Context, c *cli.Command) error {
				hosts, err := exactArgs(c, 1, 7)
				if err != nil {
					return err
				}
				return atLeader(ctx, c, func(ctx context.Context, conn *client.Conn) (any, error) {
					return map[string]any{"hosts": hosts}, conn.MembersSet(ctx, hosts, c.Bool("hosts-written"))
				})
			},
		}},
	}
}

// switchLeader hands leadership over.
func switchLeader(ctx context.Context, c *cli.Command) error {
	return atLeader(ctx, c, func(ctx context.Context, conn *client.Conn) (any, error) {
		if _, err := conn.LeaderSwitch(ctx, config.Identity(c.String("to"))); err != nil {
			return nil, err
		}
		h, err := conn.Health(ctx)
		return map[string]any{"leader": h.GetLeader().GetAddr(), "term": h.GetTerm()}, err
	})
}

// atLeader does something at the leader itself, whichever node the command was pointed at, and prints ok, or with -o json
// what do returns. Leadership may move before it gets there, or because of what it asks; then it follows.
func atLeader(ctx context.Context, c *cli.Command, do func(context.Context, *client.Conn) (any, error)) error {
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	t, err := newTarget(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	for moved := 0; ; moved++ {
		result, err := onceAtLeader(ctx, t, do)
		var refused *client.MgmtError
		switch {
		case err == nil:
			return writeDone(c, asJSON, result)
		case moved < 3 && errors.As(err, &refused) && refused.Code == cachepb.Code_NOT_LEADER:
		default:
			return err
		}
	}
}

func onceAtLeader(ctx context.Context, t *target, do func(context.Context, *client.Conn) (any, error)) (any, error) {
	conn, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	h, err := conn.Health(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", conn.Addr(), err)
	}
	if _, leads := h.GetState().GetValue().(*cachepb.State_Leader); leads {
		return do(ctx, conn)
	}
	leader := h.GetLeader().GetAddr()
	if leader == "" {
		return nil, fmt.Errorf("%s knows no leader", conn.Addr())
	}
	addr := t.resolve(config.Identity(leader))
	at, err := client.Dial(ctx, t.config(addr))
	if err != nil {
		return nil, errors.New(t.explain(addr, err))
	}
	defer at.Close()
	return do(ctx, at)
}

func abandonCommand() *cli.Command {
	return &cli.Command{
		Name: "abandon", Usage: "make a node forget everything and join again as an empty one",
		Flags: connectFlags(&cli.BoolFlag{Name: "yes-lose-this-copy", Usage: "needed: on the last complete copy this loses all data"}),
		Action: func(ctx context.Context, c *cli.Command) error {
			if _, err := exactArgs(c, 0, 0); err != nil {
				return err
			}
			if !c.Bool("yes-lose-this-copy") {
				return command.Usagef("abandon: expected flag --yes-lose-this-copy")
			}
			asJSON, err := wantsJSON(c)
			if err != nil {
				return err
			}
			return withConn(ctx, c, func(ctx context.Context, conn *client.Conn) error {
				if err := conn.Abandon(ctx); err != nil {
					return err
				}
				return writeDone(c, asJSON, map[string]any{"abandoned": conn.Addr()})
			})
		},
	}
}

// writeDone prints that something was done: ok, or what it led to.
func writeDone(c *cli.Command, asJSON bool, result any) error {
	if asJSON {
		return writeJSON(c, result)
	}
	_, err := fmt.Fprintln(c.Root().Writer, "ok")
	return err
}

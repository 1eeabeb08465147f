package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/proto/cachepb"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show every node of the cluster, each by its own words",
		Flags: connectFlags(), Action: status,
	}
}

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
				h, err := conn.Health(ctx)
				if err != nil {
					return fmt.Errorf("%s: %w", conn.Addr(), err)
				}
				row := nodeRow(conn.Addr(), h, 0)
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
				return atLeader(ctx, c, func(ctx context.Context, conn *client.Conn) error {
					return conn.MembersSet(ctx, hosts, c.Bool("hosts-written"))
				})
			},
		}},
	}
}

// switchLeader hands leadership over.
func switchLeader(ctx context.Context, c *cli.Command) error {
	return atLeader(ctx, c, func(ctx context.Context, conn *client.Conn) error {
		_, err := conn.LeaderSwitch(ctx, config.Identity(c.String("to")))
		return err
	})
}

// atLeader does something at the leader itself, whichever node the command was pointed at, and prints ok. Leadership may
// move before it gets there, or because of what it asks; then it follows.
func atLeader(ctx context.Context, c *cli.Command, do func(context.Context, *client.Conn) error) error {
	t, err := newTarget(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	for moved := 0; ; moved++ {
		err := onceAtLeader(ctx, t, do)
		var refused *client.MgmtError
		switch {
		case err == nil:
			_, err = fmt.Fprintln(c.Root().Writer, "ok")
			return err
		case moved < 3 && errors.As(err, &refused) && refused.Code == cachepb.Code_NOT_LEADER:
		default:
			return err
		}
	}
}

func onceAtLeader(ctx context.Context, t *target, do func(context.Context, *client.Conn) error) error {
	conn, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	h, err := conn.Health(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", conn.Addr(), err)
	}
	if _, leads := h.GetState().GetValue().(*cachepb.State_Leader); leads {
		return do(ctx, conn)
	}
	leader := h.GetLeader().GetAddr()
	if leader == "" {
		return fmt.Errorf("%s knows no leader", conn.Addr())
	}
	addr := t.resolve(config.Identity(leader))
	at, err := client.Dial(ctx, t.config(addr))
	if err != nil {
		return errors.New(t.explain(addr, err))
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
				return usagef("abandon: expected flag --yes-lose-this-copy")
			}
			return withConn(ctx, c, func(ctx context.Context, conn *client.Conn) error {
				if err := conn.Abandon(ctx); err != nil {
					return err
				}
				_, err := fmt.Fprintln(c.Root().Writer, "ok")
				return err
			})
		},
	}
}

// row is one node in the table.
type row struct {
	Addr        string  `json:"addr"`
	State       string  `json:"state"`
	Role        string  `json:"role"` // voter, learner or empty
	Quorum      bool    `json:"quorum"`
	Term        uint64  `json:"term"`
	Leader      string  `json:"leader,omitempty"`
	Applied     uint64  `json:"applied"`
	StalenessMS float64 `json:"staleness_ms"`
	RTTMS       float64 `json:"rtt_ms"`
	Uptime      uint64  `json:"uptime_secs"`
	Cluster     string  `json:"cluster,omitempty"`
	Version     string  `json:"version,omitempty"`
	Error       string  `json:"error,omitempty"`
}

// nodeRow is a node by its own words. rtt is the time its answer took.
func nodeRow(addr string, h *cachepb.HealthAck, rtt time.Duration) row {
	r := row{
		Addr: addr, State: client.StateName(h.GetState()), Quorum: h.GetQuorum(), Term: h.GetTerm(), Leader: h.GetLeader().GetAddr(),
		StalenessMS: float64(h.GetStalenessUs()) / 1000, RTTMS: float64(rtt.Microseconds()) / 1000, Uptime: h.GetUptimeSecs(), Version: h.GetVersion(),
	}
	if h.GetCluster() != 0 {
		r.Cluster = fmt.Sprintf("%016x", h.GetCluster())
	}
	s := h.GetPeer().GetStatus()
	r.Applied, r.Role = s.GetApplied(), roleName(s)
	return r
}

// roleName is a node's place in the configuration it knows.
func roleName(s *cachepb.NodeStatus) string {
	switch has := func(ids []uint64) bool {
		for _, id := range ids {
			if id == s.GetId() {
				return true
			}
		}
		return false
	}; {
	case s.GetCluster() == 0:
		return "empty"
	case has(s.GetVoters()):
		return "voter"
	case has(s.GetLearners()):
		return "learner"
	default:
		return "-"
	}
}

// status asks one node for the list of hosts, and then each of them.
func status(ctx context.Context, c *cli.Command) error {
	if _, err := exactArgs(c, 0, 0); err != nil {
		return err
	}
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
	conn, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	first, err := conn.Health(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", conn.Addr(), err)
	}
	rows := make([]row, max(1, len(first.GetHostHealth())))
	rows[0] = nodeRow(conn.Addr(), first, 0)
	var wg sync.WaitGroup
	for i, host := range first.GetHostHealth() {
		wg.Go(func() { rows[i] = t.ask(ctx, config.Identity(host.GetAddr())) })
	}
	wg.Wait()
	if asJSON {
		return writeJSON(c, rows)
	}
	return writeTable(c.Root().Writer, rows)
}

// ask asks one host how it is, within a second.
func (t *target) ask(ctx context.Context, host string) row {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	addr := t.resolve(host)
	conn, err := client.Dial(ctx, t.config(addr))
	if err != nil {
		return row{Addr: host, State: "unreachable", Error: t.explain(addr, err)}
	}
	defer conn.Close()
	began := time.Now()
	h, err := conn.Health(ctx)
	if err != nil {
		return row{Addr: host, State: "unreachable", Error: err.Error()}
	}
	return nodeRow(host, h, time.Since(began))
}

func writeTable(out io.Writer, rows []row) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ADDR\tSTATE\tROLE\tTERM\tLEADER\tAPPLIED\tSTALENESS\tRTT\tUPTIME")
	for _, r := range rows {
		if r.Error != "" {
			fmt.Fprintf(w, "%s\t%s\t-\t-\t-\t-\t-\t-\t-\n", r.Addr, r.State)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%d\t%.1f ms\t%.1f ms\t%v\n", r.Addr, r.State, r.Role, r.Term, dash(r.Leader),
			r.Applied, r.StalenessMS, r.RTTMS, time.Duration(r.Uptime)*time.Second)
	}
	return w.Flush()
}

func dash(s string) string {
	if strings.TrimSpace(s) == "" {
		return "-"
	}
	return s
}

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/internal/command"
	"github.com/hacache/hacache/proto/cachepb"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show every node of the cluster, each by its own words",
		Description: "LAG is how many log entries a node is behind the leader, STALENESS the age of its view, RTT the round trip between\n" +
			"the leader and it.",
		Flags: connectFlags(
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "show it again and again, until interrupted; with -o json one line each time"},
			&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "of --watch"},
		),
		Action: func(ctx context.Context, c *cli.Command) error {
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
			if c.Bool("watch") {
				return watchStatus(ctx, c, t, asJSON)
			}
			s, err := t.status(ctx, c.Duration("timeout"))
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c, s)
			}
			return s.write(c.Root().Writer)
		},
	}
}

// watchStatus shows the status until the command is interrupted: on a terminal in the same place.
func watchStatus(ctx context.Context, c *cli.Command, t *target, asJSON bool) error {
	interval := c.Duration("interval")
	if interval < 100*time.Millisecond || interval > time.Hour {
		return command.Usagef("flag --interval: %v is out of range; expected 100ms to 1h", interval)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	out := c.Root().Writer
	for {
		s, err := t.status(ctx, c.Duration("timeout"))
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case asJSON && err != nil:
			err = json.NewEncoder(out).Encode(map[string]string{"error": err.Error()})
		case asJSON:
			err = json.NewEncoder(out).Encode(s)
		default:
			var page strings.Builder
			if err != nil {
				fmt.Fprintln(&page, err)
			} else {
				_ = s.write(&page) // never fails
			}
			before := ""
			if isTerminal(out) {
				before = "\x1b[H\x1b[2J"
			}
			_, err = fmt.Fprintf(out, "%s%s\n%s\n", before, time.Now().Format(time.TimeOnly), page.String())
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// row is one node in the table. Fields without a value are null.
type row struct {
	Addr        string   `json:"addr"`
	State       string   `json:"state"`
	Role        string   `json:"role"` // voter, learner or empty
	Quorum      bool     `json:"quorum"`
	Term        uint64   `json:"term"`
	Leader      string   `json:"leader,omitempty"`
	Applied     uint64   `json:"applied"`
	Lag         *uint64  `json:"lag"`          // log entries behind the leader
	StalenessMS *float64 `json:"staleness_ms"` // age of its view
	Entries     uint64   `json:"entries"`
	Bytes       uint64   `json:"bytes"`
	RTTMS       *float64 `json:"rtt_ms"`    // between the leader and it
	AnswerMS    float64  `json:"answer_ms"` // how long its answer to this command took
	Uptime      uint64   `json:"uptime_secs"`
	Cluster     string   `json:"cluster,omitempty"`
	Version     string   `json:"version,omitempty"`
	Error       string   `json:"error,omitempty"`

	health *cachepb.HealthAck
}

// nodeRow is a node by its own words. took is the time its answer took.
func nodeRow(addr string, h *cachepb.HealthAck, took time.Duration) row {
	s := h.GetPeer().GetStatus()
	r := row{
		Addr: addr, State: client.StateName(h.GetState()), Role: roleName(s), Quorum: h.GetQuorum(), Term: h.GetTerm(), Leader: h.GetLeader().GetAddr(),
		Applied: s.GetApplied(), Entries: h.GetEntries(), Bytes: h.GetBytes(), AnswerMS: float64(took.Microseconds()) / 1000,
		Uptime: h.GetUptimeSecs(), Version: h.GetVersion(), health: h,
	}
	if us := h.GetStalenessUs(); us != ^uint64(0) { // else it can prove nothing
		r.StalenessMS = new(float64(us) / 1000)
	}
	if h.GetCluster() != 0 {
		r.Cluster = fmt.Sprintf("%016x", h.GetCluster())
	}
	return r
}

// roleName is a node's place in the configuration it knows.
func roleName(s *cachepb.NodeStatus) string {
	switch {
	case s.GetCluster() == 0:
		return "empty"
	case slices.Contains(s.GetVoters(), s.GetId()):
		return "voter"
	case slices.Contains(s.GetLearners(), s.GetId()):
		return "learner"
	default:
		return "-"
	}
}

// clusterStatus is the nodes of a cluster, by address.
type clusterStatus []row

// status asks one node for the list of hosts, and then each of them.
func (t *target) status(ctx context.Context, timeout time.Duration) (clusterStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	began := time.Now()
	first, err := conn.Health(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", conn.Addr(), err)
	}
	took := time.Since(began)
	hosts := first.GetHostHealth()
	if len(hosts) < 2 { // alone, it may not know by which name it is reached
		rows := clusterStatus{nodeRow(conn.Addr(), first, took)}
		rows[0].Lag = new(uint64(0))
		return rows, nil
	}
	rows := make(clusterStatus, len(hosts))
	var wg sync.WaitGroup
	for i, host := range hosts {
		addr := config.Identity(host.GetAddr())
		if host.GetStatus().GetId() == first.GetPeer().GetStatus().GetId() {
			rows[i] = nodeRow(addr, first, took) // at another address than its own, perhaps
			continue
		}
		wg.Go(func() { rows[i] = t.ask(ctx, addr) })
	}
	wg.Wait()
	rows.askLeader()
	return rows, nil
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

// leader returns the node that says it leads, in the latest term if two do; nil if none does.
func (s clusterStatus) leader() *row {
	var leader *row
	for i := range s {
		if _, leads := s[i].health.GetState().GetValue().(*cachepb.State_Leader); leads && (leader == nil || s[i].Term > leader.Term) {
			leader = &s[i]
		}
	}
	return leader
}

// askLeader fills in what the leader knows of the others. It has measured it at one moment, while the answers of the nodes
// are of several.
func (s clusterStatus) askLeader() {
	leader := s.leader()
	if leader == nil {
		return
	}
	last := leader.health.GetPeer().GetStatus().GetLastIndex()
	for i := range s {
		at := slices.IndexFunc(leader.health.GetHostHealth(), func(h *cachepb.HostHealth) bool { return config.Identity(h.GetAddr()) == s[i].Addr })
		if at < 0 || s[i].Cluster != leader.Cluster || s[i].Error != "" {
			continue
		}
		seen := leader.health.GetHostHealth()[at]
		s[i].Lag = new(last - min(seen.GetMatch(), last))
		if rtt := seen.GetRttUs(); rtt > 0 {
			s[i].RTTMS = new(float64(rtt) / 1000)
		}
	}
}

// write prints the table, under what there is to say of the cluster as a whole, and over what is wrong.
func (s clusterStatus) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tROLE\tSTATE\tTERM\tLAG\tSTALENESS\tENTRIES\tRTT\tUPTIME")
	for _, r := range s {
		if r.Error != "" {
			fmt.Fprintf(w, "%s\t-\t%s\t-\t-\t-\t-\t-\t-\n", r.Addr, r.State)
			continue
		}
		lag := "-"
		if r.Lag != nil {
			lag = strconv.FormatUint(*r.Lag, 10)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%d\t%s\t%v\n", r.Addr, r.Role, r.State, r.Term, lag, millis(r.StalenessMS), r.Entries, millis(r.RTTMS),
			time.Duration(r.Uptime)*time.Second)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, remark := range s.remarks() {
		if _, err := fmt.Fprintln(out, remark); err != nil {
			return err
		}
	}
	return nil
}

// remarks are what a reader of the table should not have to find out: who is missing and why, and what differs that
// should not.
func (s clusterStatus) remarks() (all []string) {
	clusters, versions := map[string][]string{}, map[string][]string{}
	for _, r := range s {
		if r.Error != "" {
			all = append(all, r.Addr+": "+r.Error)
			continue
		}
		if r.Cluster != "" {
			clusters[r.Cluster] = append(clusters[r.Cluster], r.Addr)
		}
		versions[r.Version] = append(versions[r.Version], r.Addr)
	}
	if s.leader() == nil {
		all = append(all, "no node leads")
	}
	all = append(all, differences("clusters", clusters)...)
	return append(all, differences("versions", versions)...)
}

// differences says who has which value, if there are several.
func differences(what string, of map[string][]string) []string {
	if len(of) < 2 {
		return nil
	}
	var parts []string
	for value, addrs := range of {
		parts = append(parts, fmt.Sprintf("%s (%s)", value, strings.Join(addrs, ", ")))
	}
	slices.Sort(parts)
	return []string{fmt.Sprintf("%d %s: %s", len(of), what, strings.Join(parts, ", "))}
}

func millis(ms *float64) string {
	if ms == nil {
		return "-"
	}
	return strconv.FormatFloat(*ms, 'f', 1, 64) + " ms"
}

func dash(s string) string { return cmp.Or(strings.TrimSpace(s), "-") }

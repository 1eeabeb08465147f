// Embedded is a program with a cache inside: three nodes in one process, written at one and read at all, before and after
// the leader of the three is stopped. A program in production runs one node in each of three processes instead; what is
// inside of member is the same.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/node"
	"github.com/hacache/hacache/proto/cachepb"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "embedded:", err)
		os.Exit(1)
	}
}

// run tells the story on out.
func run(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	members, err := start(ctx, 3)
	defer func() {
		for _, m := range members {
			m.stop()
		}
	}()
	if err != nil {
		return err
	}

	err = members[0].Insert(ctx, "users", "anna", []byte("hello"), client.LevelQuorum)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "written at node 0: a majority has it")
	for i, m := range members {
		value, err := readNow(ctx, m)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "read at node %d: %s\n", i, value)
	}

	// The three elect another leader; whoever uses the other two notices nothing.
	leader := members[0].LeaderInfo().GetAddr()
	gone := slices.IndexFunc(members, func(m *member) bool { return m.host == leader })
	if gone < 0 {
		return fmt.Errorf("the leader, %q, is none of the three", leader)
	}
	members[gone].stop()
	fmt.Fprintln(out, "the leader has stopped")
	one, other := members[(gone+1)%3], members[(gone+2)%3]
	if err := one.Insert(ctx, "users", "anna", []byte("still there"), client.LevelQuorum); err != nil {
		return err
	}
	value, err := readNow(ctx, other)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "written at one of the others, read at the last: %s\n", value)

	// A local read asks nobody, so it can be as old as Config.MaxStaleness says; mostly that is a few milliseconds.
	o := other.Do(ctx, &client.Op{Kind: client.KindGet, Cache: "users", Key: "anna"})
	if o.Err != nil {
		return o.Err
	}
	fmt.Fprintf(out, "a local read is at most 500ms old: %v\n", o.Staleness <= 500*time.Millisecond)
	return nil
}

// readNow reads what was written last, wherever that was.
func readNow(ctx context.Context, m *member) (string, error) {
	o := m.Do(ctx, &client.Op{Kind: client.KindGet, Cache: "users", Key: "anna", ReadMode: cachepb.ReadTag_LINEARIZABLE})
	return string(o.Value), o.Err
}

// member is a node that runs.
type member struct {
	*node.Node
	host    string
	cancel  context.CancelFunc
	stopped chan struct{} // closed when Run has returned
	err     error         // of Run; to be read after that
}

// start runs n nodes on free ports of this machine and waits until all are ready. What it returns is to be stopped even
// after an error.
func start(ctx context.Context, n int) ([]*member, error) {
	var listeners []net.Listener
	var hosts []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		listeners, hosts = append(listeners, ln), append(hosts, ln.Addr().String())
	}
	var members []*member
	for i, ln := range listeners {
		m, err := newMember(node.Config{Hosts: hosts, Self: hosts[i], Listener: ln, Token: "a-secret-of-the-three"})
		if err != nil {
			return members, err
		}
		members = append(members, m)
	}
	for _, m := range members {
		if err := m.AwaitReady(ctx); err != nil {
			return members, err
		}
	}
	return members, nil
}

func newMember(cfg node.Config) (*member, error) {
	n, err := node.New(cfg)
	if err != nil {
		return nil, err
	}
	// Not the context of a request or of main: a node is stopped by its own, after the program has stopped using it.
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{Node: n, host: cfg.Self, cancel: cancel, stopped: make(chan struct{})}
	go func() {
		defer close(m.stopped)
		m.err = n.Run(ctx)
	}()
	return m, nil
}

// stop hands over what the node has and ends it. It may be called again.
func (m *member) stop() {
	m.cancel()
	<-m.stopped
	if m.err != nil {
		fmt.Fprintf(os.Stderr, "embedded: node %s: %v\n", m.host, m.err)
	}
}

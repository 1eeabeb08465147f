package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hacache/hacache/cachenode/proc"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

// system is one of those that are compared: its servers, and how load is offered to them. It is used by one goroutine.
type system interface {
	// about describes it, and says so if it cannot be had here.
	about() result.Peer
	// start starts the servers and returns when they take operations, or ctx is done.
	start(ctx context.Context) error
	// open connects what carries the load of a row.
	open(ctx context.Context, row *row) (load.Target, error)
	// leader is where writes are decided now; "" if there is no such thing.
	leader(ctx context.Context) (string, error)
	// servers are the processes, for what they cost.
	servers() []*proc.Process
	// stop ends all of them, and waits.
	stop()
}

// members is the number of servers of each system.
const members = 3

// group is servers that are started as processes of their own and end with this one.
type group struct {
	self      string // this program, which contains some of the servers
	data      string // a directory for what they write
	logs      string // a directory for what they say
	processes []*proc.Process
}

// launch starts one server.
func (g *group) launch(name, binary string, args ...string) error {
	p, err := proc.Start(context.Background(), proc.Spec{Name: name, Binary: binary, Args: args, LogPath: filepath.Join(g.logs, name+".log")})
	if err != nil {
		return err
	}
	g.processes = append(g.processes, p)
	return nil
}

func (g *group) servers() []*proc.Process { return g.processes }

// stopWithin is how long servers have to end by themselves before they are killed.
const stopWithin = 3 * time.Second

func (g *group) stop() { proc.StopAll(stopWithin, g.processes...) }

// until asks ready again and again until it returns nil. It gives up when ctx is done or a server has ended.
func (g *group) until(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := ready(ask)
		cancel()
		if err == nil {
			return nil
		}
		if gone := ended(g.processes); gone != nil {
			return gone
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not ready in time: %w", err)
		}
	}
}

// ended is an error if one of the processes is gone although nobody stopped it.
func ended(processes []*proc.Process) error {
	for _, p := range processes {
		select {
		case <-p.Done():
			return fmt.Errorf("%s has ended (%v): %s", p.Name(), p.Wait(), p.LastLine())
		default:
		}
	}
	return nil
}

// where says in words what kind of storage data is on.
func (g *group) where() string {
	var s unix.Statfs_t
	if unix.Statfs(g.data, &s) == nil && int64(s.Type) == unix.TMPFS_MAGIC {
		return "tmpfs (memory)"
	}
	return "a disk, for want of a tmpfs"
}

// freePorts are addresses of the loopback interface that nobody listens on now. The servers that get them cannot
// inherit a listener; one that finds its port taken after all ends, and says so in its log.
func freePorts(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // at the end, so that no port comes twice
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

// etcd is three members of etcd's own server, which this program contains.
type etcd struct {
	group
	addrs []string // of clients
}

func (e *etcd) about() result.Peer {
	return result.Peer{
		Name: "etcd", Version: version.Version, Client: "go.etcd.io/etcd/client/v3, one HTTP/2 connection for each stream",
		Acknowledged: "Put: committed by a majority of three (raft) and applied at the member asked. Get: serializable, from that member's own copy.",
		Durability:   "write-ahead log and database in files on " + e.where() + ", without fsync (--unsafe-no-fsync)",
		Setup:        []string{"etcd " + strings.Join(e.flags(0, "DIR", "CLIENT", "PEER", "PEERS"), " "), "every client at the leader"},
		Favours: []string{
			"no fsync and a log in memory: what it is made for, surviving a power cut, it does not have to do here",
			"no deadline and no retry around a call; authentication, TLS and leases are off",
		},
		Against: []string{
			"it is no cache: each write goes to a write-ahead log and a B+ tree of all revisions, which serve watches, transactions and history that nobody asks for here",
			"its way to do much at once is a transaction, which is all or nothing, and not measured here",
		},
	}
}

func (e *etcd) flags(i int, dir, own, peer, peers string) []string {
	return []string{
		fmt.Sprintf("--name=etcd-%d", i+1), "--data-dir=" + dir, "--initial-cluster-state=new", "--initial-cluster=" + peers,
		"--listen-client-urls=" + own, "--advertise-client-urls=" + own, "--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--unsafe-no-fsync", "--quota-backend-bytes=8589934592", "--log-level=error",
	}
}

func (e *etcd) start(ctx context.Context) error {
	ports, err := freePorts(2 * members)
	if err != nil {
		return err
	}
	var peers []string
	for i := range members {
		peers = append(peers, fmt.Sprintf("etcd-%d=http://%s", i+1, ports[members+i]))
	}
	e.addrs = ports[:members]
	for i := range members {
		dir := filepath.Join(e.data, fmt.Sprintf("etcd-%d", i+1))
		args := e.flags(i, dir, "http://"+ports[i], "http://"+ports[members+i], strings.Join(peers, ","))
		if err := e.launch(fmt.Sprintf("etcd-%d", i+1), e.self, append([]string{"etcd"}, args...)...); err != nil {
			return err
		}
	}
	return e.until(ctx, func(ctx context.Context) error {
		_, err := e.leader(ctx)
		return err
	})
}

// etcdClient connects to one member.
func etcdClient(addr string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{"http://" + addr}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
}

// leader asks every member, and returns the address of the one that leads according to all of them.
func (e *etcd) leader(ctx context.Context) (string, error) {
	leader, agreed := "", map[uint64]bool{}
	for _, addr := range e.addrs {
		c, err := etcdClient(addr)
		if err != nil {
			return "", err
		}
		s, err := c.Status(ctx, "http://"+addr)
		c.Close()
		if err != nil {
			return "", err
		}
		agreed[s.Leader] = true
		if s.Leader == s.Header.MemberId {
			leader = addr
		}
	}
	if len(agreed) != 1 || leader == "" {
		return "", errors.New("its members do not agree on a leader")
	}
	return leader, nil
}

func (e *etcd) open(ctx context.Context, row *row) (load.Target, error) {
	leader, err := e.leader(ctx)
	if err != nil {
		return nil, err
	}
	var (
		clients []*clientv3.Client
		by      []perform
	)
	release := func() {
		for _, c := range clients {
			c.Close()
		}
	}
	for range row.streams {
		c, err := etcdClient(leader)
		if err != nil {
			release()
			return nil, err
		}
		clients = append(clients, c)
		by = append(by, func(ctx context.Context, ops []*client.Op, outcomes []client.Outcome) {
			outcomes[0] = etcdDo(ctx, c, ops[0])
		})
	}
	return newWorkers(by, row.window, false, release), nil
}

func etcdDo(ctx context.Context, c *clientv3.Client, op *client.Op) client.Outcome {
	if op.Kind == client.KindGet {
		r, err := c.Get(ctx, op.Key, clientv3.WithSerializable())
		if err != nil {
			return readFailed(err)
		}
		if len(r.Kvs) == 0 {
			return client.Outcome{}
		}
		return client.Outcome{Found: true, Value: r.Kvs[0].Value}
	}
	_, err := c.Put(ctx, op.Key, string(op.Value))
	return etcdWritten(err)
}

// etcdWritten is what an error of a Put means. Only codes by which the server refuses it before it is proposed are
// definite.
func etcdWritten(err error) client.Outcome {
	if err == nil {
		return client.Outcome{}
	}
	code := status.Code(err)
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		code = e.Code()
	}
	switch code {
	case codes.InvalidArgument, codes.ResourceExhausted, codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented:
		return client.Outcome{Status: client.StatusFail, Err: err}
	}
	return client.Outcome{Status: client.StatusInfo, Err: err}
}

// readFailed is the outcome of a read that was not answered. One that ran out of time is told apart: its wait has no
// bound of its own.
func readFailed(err error) client.Outcome {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || status.Code(err) == codes.DeadlineExceeded {
		err = fmt.Errorf("%w: %w", client.ErrTimeout, err)
	}
	return client.Outcome{Status: client.StatusFail, Err: err}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/loadgen/load"
	"github.com/hacache/hacache/reports/result"
)

// natsKV is three NATS servers with one replicated key value bucket; this program contains the server.
type natsKV struct {
	group
	addrs []string // of clients
}

// natsBucket is the bucket that all operations go to.
const natsBucket = "bench"

func (n *natsKV) about() result.Peer {
	return result.Peer{
		Name: "NATS JetStream KV", Version: server.VERSION, Client: "github.com/nats-io/nats.go " + nats.Version + ", one connection for each stream",
		Acknowledged: "Put: committed by a majority of three (raft). Get: a direct get, which the server asked answers from its own copy.",
		Durability:   "none for values: the bucket is in memory (storage memory, replicas 3, history 1); metadata in files on " + n.where(),
		Setup: []string{
			strings.Join(strings.Fields(natsConfig("nats-1", "CLIENT", "PEER", "DIR", []string{"PEERS"})), " "),
			"puts are asynchronous publishes to the bucket's subjects with an acknowledgement each, which is what Put does without waiting; gets are calls of KeyValue.Get",
			"every client at the server that leads the bucket",
		},
		Favours: []string{"values are in memory only, as ours are; puts wait for nothing but their acknowledgement, without a goroutine for each"},
		Against: []string{
			"a value is a message in a stream with a sequence number, which serves consumers and watches that nobody asks for here",
			"a get is a request with a subscription and a deadline of its own, since its client has no pipelined get",
		},
	}
}

func natsConfig(name, own, peer, dir string, peers []string) string {
	return fmt.Sprintf("server_name: %s\nlisten: %q\njetstream { store_dir: %q, max_memory_store: 4GB, max_file_store: 1GB }\ncluster { name: compare, listen: %q, routes: [%s] }\n",
		name, own, dir, peer, strings.Join(peers, ", "))
}

func (n *natsKV) start(ctx context.Context) error {
	ports, err := freePorts(2 * members)
	if err != nil {
		return err
	}
	var peers []string
	for _, p := range ports[members:] {
		peers = append(peers, fmt.Sprintf("%q", "nats://"+p))
	}
	n.addrs = ports[:members]
	for i := range members {
		name := fmt.Sprintf("nats-%d", i+1)
		dir := filepath.Join(n.data, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		file := filepath.Join(dir, "nats.conf")
		if err := os.WriteFile(file, []byte(natsConfig(name, ports[i], ports[members+i], dir, peers)), 0o644); err != nil {
			return err
		}
		if err := n.launch(name, n.self, "nats-server", "--config", file); err != nil {
			return err
		}
	}
	return n.until(ctx, n.createBucket)
}

func (n *natsKV) createBucket(ctx context.Context) error {
	c, js, err := natsConnect(n.addrs[0])
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: natsBucket, History: 1, Storage: jetstream.MemoryStorage, Replicas: members}); err != nil {
		return err
	}
	_, err = n.leader(ctx)
	return err
}

func natsConnect(addr string, opts ...jetstream.JetStreamOpt) (*nats.Conn, jetstream.JetStream, error) {
	c, err := nats.Connect("nats://"+addr, nats.Timeout(5*time.Second), nats.MaxReconnects(-1))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(c, opts...)
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, js, nil
}

// leader is the address of the server that leads the bucket, once all its replicas are there.
func (n *natsKV) leader(ctx context.Context) (string, error) {
	c, js, err := natsConnect(n.addrs[0])
	if err != nil {
		return "", err
	}
	defer c.Close()
	s, err := js.Stream(ctx, "KV_"+natsBucket)
	if err != nil {
		return "", err
	}
	info := s.CachedInfo().Cluster
	if info == nil || info.Leader == "" || len(info.Replicas) != members-1 {
		return "", errors.New("the bucket has no leader yet, or not all replicas")
	}
	for _, r := range info.Replicas {
		if r.Offline {
			return "", fmt.Errorf("the bucket's replica %s is offline", r.Name)
		}
	}
	var i int
	if _, err := fmt.Sscanf(info.Leader, "nats-%d", &i); err != nil || i < 1 || i > members {
		return "", fmt.Errorf("the bucket is led by %q, which is none of its servers", info.Leader)
	}
	return n.addrs[i-1], nil
}

func (n *natsKV) open(ctx context.Context, row *row) (load.Target, error) {
	leader, err := n.leader(ctx)
	if err != nil {
		return nil, err
	}
	if row.kind == client.KindGet {
		return natsGets(ctx, leader, row)
	}
	return natsPuts(leader, row)
}

func natsGets(ctx context.Context, leader string, row *row) (load.Target, error) {
	var (
		conns []*nats.Conn
		by    []perform
	)
	release := func() {
		for _, c := range conns {
			c.Close()
		}
	}
	for range row.streams {
		c, js, err := natsConnect(leader)
		if err != nil {
			release()
			return nil, err
		}
		conns = append(conns, c)
		kv, err := js.KeyValue(ctx, natsBucket)
		if err != nil {
			release()
			return nil, err
		}
		by = append(by, func(ctx context.Context, ops []*client.Op, outcomes []client.Outcome) {
			e, err := kv.Get(ctx, ops[0].Key)
			switch {
			case err == nil:
				outcomes[0] = client.Outcome{Found: true, Value: e.Value()}
			case !errors.Is(err, jetstream.ErrKeyNotFound):
				outcomes[0] = readFailed(err)
			}
		})
	}
	return newWorkers(by, row.window, false, release), nil
}

// natsPublishers is a load.Target that publishes asynchronously: its acknowledgements come by callback.
type natsPublishers struct {
	streams []*natsPublisher
	wg      sync.WaitGroup // callbacks of errors
}

// natsPublisher is one connection. Which of the slots an acknowledgement is for is known by its message, of which each
// slot has one.
type natsPublisher struct {
	conn  *nats.Conn
	js    jetstream.JetStream
	slots map[*nats.Msg]*natsSlot // not written any more after newNatsPublisher
	free  chan *natsSlot
}

type natsSlot struct {
	msg  nats.Msg
	done func(client.Outcome)
}

// natsAckTimeout bounds the wait for an acknowledgement.
const natsAckTimeout = 5 * time.Second

func natsPuts(leader string, row *row) (load.Target, error) {
	t := &natsPublishers{}
	for range row.streams {
		p := &natsPublisher{slots: map[*nats.Msg]*natsSlot{}, free: make(chan *natsSlot, row.window)}
		for range row.window {
			s := &natsSlot{}
			p.slots[&s.msg] = s
			p.free <- s
		}
		var err error
		p.conn, p.js, err = natsConnect(leader, jetstream.WithPublishAsyncMaxPending(row.window+1), jetstream.WithPublishAsyncTimeout(natsAckTimeout),
			jetstream.WithPublishAsyncAckHandler(func(_ jetstream.JetStream, m *nats.Msg, _ *jetstream.PubAck) { p.ended(m, nil) }),
			// It may be called with a lock of the library held that the next publish needs.
			jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, m *nats.Msg, err error) { t.wg.Go(func() { p.ended(m, err) }) }))
		if err != nil {
			t.Close()
			return nil, err
		}
		t.streams = append(t.streams, p)
	}
	return t, nil
}

// Streams implements load.Target.
func (t *natsPublishers) Streams() int { return len(t.streams) }

// Start implements load.Target.
func (t *natsPublishers) Start(stream int, op *client.Op, done func(client.Outcome)) error {
	p := t.streams[stream]
	select {
	case s := <-p.free:
		s.done = done
		s.msg = nats.Msg{Subject: "$KV." + natsBucket + "." + op.Key, Data: append(s.msg.Data[:0], op.Value...)}
		if _, err := p.js.PublishMsgAsync(&s.msg); err != nil {
			s.done = nil
			p.free <- s
			return err
		}
		return nil
	default:
		return client.ErrFull
	}
}

// ended answers the operation that a message carried.
func (p *natsPublisher) ended(m *nats.Msg, err error) {
	s := p.slots[m]
	done := s.done
	s.done = nil
	p.free <- s // first, so that what done starts finds room
	done(natsWritten(err))
}

// natsWritten is what an error of a publish means: the server's own word is definite, and so is that there was nobody to
// receive it.
func natsWritten(err error) client.Outcome {
	if err == nil {
		return client.Outcome{}
	}
	_, said := errors.AsType[*jetstream.APIError](err)
	if said || errors.Is(err, jetstream.ErrNoStreamResponse) {
		return client.Outcome{Status: client.StatusFail, Err: err}
	}
	return client.Outcome{Status: client.StatusInfo, Err: err}
}

// Close implements load.Target. What is in flight ends as unknown.
func (t *natsPublishers) Close() error {
	for _, p := range t.streams {
		p.js.CleanupPublisher()
		p.conn.Close()
	}
	t.wg.Wait()
	return nil
}

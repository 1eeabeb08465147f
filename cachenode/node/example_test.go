package node_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/node"
	"github.com/hacache/hacache/proto/cachepb"
)

// A node alone needs no configuration: it is a cache with time to live, bounds and a protocol of its own, in this process.
func Example() {
	n, err := node.New(node.Config{Caches: []node.Cache{{Name: "sessions", MaxEntries: 100_000, TTL: time.Hour}}})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- n.Run(ctx) }()
	if err := n.AwaitReady(ctx); err != nil {
		log.Fatal(err)
	}

	if err := n.Insert(ctx, "sessions", "anna", []byte("logged in"), client.LevelQuorum); err != nil {
		log.Fatal(err)
	}
	value, found, err := n.Get(ctx, "sessions", "anna")
	fmt.Println(string(value), found, err)

	stop()
	fmt.Println(<-stopped)
	// Output:
	// logged in true <nil>
	// <nil>
}

// Three nodes in one process. In three processes each would make its own, from the same Hosts and another Self.
func Example_cluster() {
	ctx, stop := context.WithCancel(context.Background())
	var hosts []string
	var listeners []net.Listener
	for range 3 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		listeners, hosts = append(listeners, ln), append(hosts, ln.Addr().String())
	}
	var nodes []*node.Node
	stopped := make(chan error, 3)
	for i, ln := range listeners {
		n, err := node.New(node.Config{Hosts: hosts, Self: hosts[i], Listener: ln, Token: "secret"})
		if err != nil {
			log.Fatal(err)
		}
		nodes = append(nodes, n)
		go func() { stopped <- n.Run(ctx) }()
	}
	for _, n := range nodes {
		if err := n.AwaitReady(ctx); err != nil {
			log.Fatal(err)
		}
	}

	// Written at one, and read at another: this very moment if that is asked for, by itself a moment later if not.
	if err := nodes[0].Insert(ctx, "users", "anna", []byte("42"), client.LevelQuorum); err != nil {
		log.Fatal(err)
	}
	o := nodes[2].Do(ctx, &client.Op{
		Kind: client.KindGet, Cache: "users", Key: "anna", ReadMode: cachepb.ReadTag_LINEARIZABLE,
	})
	fmt.Println(string(o.Value), o.Status)

	// A program somewhere else reaches the same data over the network.
	c, err := client.New(client.ClientConfig{Addrs: hosts, Config: client.Config{Token: "secret"}})
	if err != nil {
		log.Fatal(err)
	}
	value, _, err := c.Get(ctx, "users", "anna")
	fmt.Println(string(value), err)
	c.Close()

	stop()
	fmt.Println(<-stopped, <-stopped, <-stopped)
	// Output:
	// 42 ok
	// 42 <nil>
	// <nil> <nil> <nil>
}

// A program that keeps what it has derived from entries is told when they change, whoever changed them.
func ExampleNode_Watch() {
	n, err := node.New(node.Config{})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	stopped := make(chan error)
	go func() { stopped <- n.Run(ctx) }()

	rendered := map[string]string{"anna": "<b>derived from an old value</b>"}
	for event, err := range n.Watch(ctx, "users") {
		if err != nil {
			log.Fatal(err)
		}
		switch e := event.(type) {
		case client.Gap: // what was before is not told
			clear(rendered)
			fmt.Println("begin:", len(rendered), "rendered")
			if err := n.Insert(ctx, "users", "anna", []byte("42"), client.LevelQuorum); err != nil {
				log.Fatal(err)
			}
		case client.Changed:
			value, _, err := n.Get(ctx, "users", e.Key)
			if err != nil {
				log.Fatal(err)
			}
			rendered[e.Key] = "<b>" + string(value) + "</b>"
			fmt.Println(e.Key, rendered[e.Key])
			if err := n.Remove(ctx, "users", "anna", client.LevelQuorum); err != nil {
				log.Fatal(err)
			}
		case client.Removed:
			delete(rendered, e.Key)
			fmt.Println(e.Key, "by an", e.Cause)
			stop()
		}
		if ctx.Err() != nil {
			break
		}
	}
	<-stopped
	// Output:
	// begin: 0 rendered
	// anna <b>42</b>
	// anna by an operation
}

// Reads in a loop need no memory of their own.
func ExampleNode_AppendGet() {
	n, err := node.New(node.Config{})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- n.Run(ctx) }()
	if err := n.AwaitReady(ctx); err != nil {
		log.Fatal(err)
	}
	for _, user := range []string{"anna", "berta"} {
		if err := n.Put(ctx, "greetings", user, []byte("hello "+user)); err != nil {
			log.Fatal(err)
		}
	}
	var buf []byte
	for _, user := range []string{"anna", "berta", "carla"} {
		var found bool
		if buf, found, err = n.AppendGet(ctx, buf[:0], "greetings", user); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q %v\n", buf, found)
	}
	stop()
	<-stopped
	// Output:
	// "hello anna" true
	// "hello berta" true
	// "" false
}

package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"math/big"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/client/clienttest"
	"github.com/hacache/hacache/proto/cachepb"
)

// connect returns a client of a node in this process. A program says
//
//	client.New(client.ClientConfig{Addrs: []string{"10.0.0.1:7071", …}, Config: client.Config{Token: "…"}})
func connect() (c *client.Client, done func()) {
	srv := new(clienttest.Server)
	srv.Start()
	c, err := client.New(srv.Config())
	if err != nil {
		log.Fatal(err)
	}
	return c, func() {
		c.Close()
		srv.Stop()
	}
}

func Example() {
	c, done := connect()
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	if err := c.Insert(ctx, "users", "anna", []byte("42"), client.LevelQuorum); err != nil {
		log.Fatal(err)
	}
	value, found, err := c.Get(ctx, "users", "anna")
	fmt.Println(string(value), found, err)

	if err := c.Remove(ctx, "users", "anna", client.LevelQuorum); err != nil {
		log.Fatal(err)
	}
	_, found, err = c.Get(ctx, "users", "anna")
	fmt.Println(found, err)
	// Output:
	// 42 true <nil>
	// false <nil>
}

// Do tells the whole story of an operation, and takes everything that can be said about one.
func ExampleClient_Do() {
	c, done := connect()
	defer done()

	o := c.Do(context.Background(), &client.Op{
		Kind: client.KindInsert, Cache: "codes", Key: "anna", Value: []byte("123456"),
		Level: client.LevelOnce, TTL: 5 * time.Minute, Deadline: time.Second,
	})
	switch o.Status {
	case client.StatusOK:
		fmt.Println("written at index", o.Index)
	case client.StatusFail:
		fmt.Println("not written:", o.Err)
	case client.StatusInfo:
		fmt.Println("nobody knows:", o.Err)
	}
	// Output: written at index 1
}

// A linearizable read sees what was acknowledged before it began, whoever wrote it, wherever.
func ExampleClient_Do_linearizable() {
	c, done := connect()
	defer done()
	ctx := context.Background()
	if err := c.Insert(ctx, "users", "anna", []byte("42"), client.LevelQuorum); err != nil {
		log.Fatal(err)
	}

	o := c.Do(ctx, &client.Op{
		Kind: client.KindGet, Cache: "users", Key: "anna", ReadMode: cachepb.ReadTag_LINEARIZABLE,
	})
	fmt.Println(string(o.Value), o.Found, o.Status)
	// Output: 42 true ok
}

// Errors are told apart by their type. One of them matters most: whether a write may have happened.
func ExampleClient_Insert_errors() {
	srv := new(clienttest.Server)
	srv.Start()
	defer srv.Stop()
	c, err := client.New(srv.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	insert := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		return c.Insert(ctx, "users", "anna", nil, client.LevelQuorum)
	}
	tell := func(err error) {
		if errors.Is(err, client.ErrUnknown) {
			fmt.Print("it may have been written: ")
		}
		refused, isRefused := errors.AsType[*client.OpError](err)
		down, isDown := errors.AsType[*client.DownError](err)
		switch {
		case isRefused:
			fmt.Println("the node said", refused.Code)
		case isDown:
			fmt.Println("no connection to", down.Addr)
		case errors.Is(err, client.ErrTimeout):
			fmt.Println("no answer in time")
		default:
			fmt.Println(err)
		}
	}

	tell(insert(time.Minute))

	srv.Script(func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		s.Send(clienttest.Answer(req, &cachepb.Outcome{Code: cachepb.Code_TOO_LARGE}))
	})
	tell(insert(time.Minute))

	srv.Script(func(*clienttest.Stream, *cachepb.CacheRequest) {}) // the answer does not come
	tell(insert(time.Second))

	srv.Stop()
	if c, err = client.New(srv.Config()); err != nil { // nobody there is not an error yet
		log.Fatal(err)
	}
	defer c.Close()
	tell(insert(time.Second))
	// Output:
	// <nil>
	// the node said TOO_LARGE
	// it may have been written: no answer in time
	// no connection to clienttest:7070
}

// Many operations from one goroutine, on their way together.
func ExampleClient_DoAll() {
	c, done := connect()
	defer done()
	ctx := context.Background()

	var ops []client.Op
	for i := range 1000 {
		ops = append(ops, client.Op{
			Kind: client.KindInsert, Cache: "squares", Key: fmt.Sprint(i), Value: fmt.Append(nil, i*i),
		})
	}
	for i, o := range c.DoAll(ctx, ops) {
		if o.Err != nil {
			log.Fatalf("%s: %v", ops[i].Key, o.Err)
		}
	}
	value, _, err := c.Get(ctx, "squares", "31")
	fmt.Println(string(value), err)
	// Output: 961 <nil>
}

// A session repeats even what is unknown, and each of its writes takes effect once: here the answer to the first attempt is
// lost together with the stream.
func ExampleClient_NewSession() {
	srv := new(clienttest.Server)
	attempts := 0
	srv.Handle = func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		ack := srv.Store.Apply(req)
		if attempts++; attempts == 1 {
			s.Break(14, "connection lost")
			return
		}
		s.Send(ack)
	}
	srv.Start()
	defer srv.Stop()
	c, err := client.New(srv.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	s := c.NewSession() // one for the program will do
	err = s.Insert(context.Background(), "orders", "4711", []byte("paid"), client.LevelQuorum)
	fmt.Println(err, "after", attempts, "attempts and", srv.Store.Writes(), "write")
	// Output: <nil> after 2 attempts and 1 write
}

// A Conn is one stream. Start never blocks; its callbacks come in the order of the answers.
func ExampleConn_Start() {
	srv := new(clienttest.Server)
	srv.Start()
	defer srv.Stop()
	ctx := context.Background()
	c, err := client.Dial(ctx, client.Config{Addr: clienttest.Addr, Dialer: srv.Dial, Batch: true, Window: 64})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	done := make(chan client.Outcome, 200) // callbacks must not block
	for i := range 200 {
		op := client.Op{Kind: client.KindPut, Cache: "c", Key: fmt.Sprint(i)}
		for {
			err := c.Start(&op, func(o client.Outcome) { done <- o })
			if err == nil {
				break
			}
			if !errors.Is(err, client.ErrFull) {
				log.Fatal(err)
			}
			if err := c.Wait(ctx); err != nil { // for an answer to make room
				log.Fatal(err)
			}
		}
	}
	for range 200 {
		if o := <-done; o.Err != nil {
			log.Fatal(o.Err)
		}
	}
	fmt.Println(srv.Store.Writes(), "writes")
	// Output: 200 writes
}

// TLS is that of crypto/tls. Programs read the certificate of their CA from a file.
func ExampleConfig_tls() {
	ca := selfSigned("cache.example.com")
	srv := &clienttest.Server{Token: "secret", TLS: &tls.Config{Certificates: []tls.Certificate{ca}}}
	srv.Start()
	defer srv.Stop()

	roots := x509.NewCertPool()
	roots.AddCert(ca.Leaf) // or AppendCertsFromPEM
	for _, name := range []string{"cache.example.com", "other.example.com"} {
		c, err := client.New(client.ClientConfig{
			Addrs: []string{"10.0.0.1:7071"},
			Config: client.Config{
				Token: "secret", TLS: &tls.Config{RootCAs: roots, ServerName: name}, Timeout: time.Second,
				Dialer: srv.Dial, // a program leaves this out
			},
		})
		if err != nil {
			log.Fatal(err)
		}
		err = c.Put(context.Background(), "users", "anna", nil)
		if bad, ok := errors.AsType[x509.HostnameError](err); ok {
			fmt.Println("it is not", bad.Host)
		} else {
			fmt.Println(err)
		}
		c.Close()
	}
	// Output:
	// <nil>
	// it is not other.example.com
}

func selfSigned(name string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		log.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

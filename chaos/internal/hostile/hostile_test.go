package hostile

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/hacache/hacache/proto/cachepb"
)

// TestMain is also the process that Launch starts.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == Command {
		if err := Serve(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

const token = "of the tests"

// service is a node of the simplest kind. A lax one lets everybody in.
type service struct {
	cachepb.UnimplementedCacheServer
	lax bool
}

func (s *service) StreamValues(stream grpc.BidiStreamingServer[cachepb.CacheRequest, cachepb.Ack]) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	if !s.lax && (strings.Join(md["authorization"], "") != token || len(md["cachenode-peer"]) > 0) {
		return status.Error(codes.PermissionDenied, "no")
	}
	reply := &cachepb.Ack{Method: &cachepb.Ack_MgmtAck{MgmtAck: &cachepb.MgmtAck{Method: &cachepb.MgmtAck_LeaderInfo{LeaderInfo: &cachepb.LeaderInfo{ElectionTs: -1}}}}}
	for n := 0; ; n++ {
		if err := stream.Send(reply); err != nil {
			return err
		}
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		if b := req.GetBatch(); b != nil { // the client packs, and is answered alike
			acks := &cachepb.Acks{}
			for i, item := range b.GetItems() {
				acks.Items = append(acks.Items, answer(n+i, item))
			}
			reply = &cachepb.Ack{Method: &cachepb.Ack_Batch{Batch: acks}}
			continue
		}
		reply = answer(n, req)
	}
}

// answer gives a large value to every get, and refuses two of three inserts but
// for the first, which puts the large value there.
func answer(n int, req *cachepb.CacheRequest) *cachepb.Ack {
	switch m := req.GetMethod().(type) {
	case *cachepb.CacheRequest_Get:
		return &cachepb.Ack{Method: &cachepb.Ack_GetAck{GetAck: &cachepb.GetAck{CacheName: m.Get.GetCacheName(), Entry: m.Get.GetEntry(), Value: make([]byte, 64<<10)}}}
	case *cachepb.CacheRequest_Insert:
		ok := n%3 == 0
		ack := &cachepb.PutAck{ReqId: &m.Insert.ReqId, ModRes: &ok}
		if !ok {
			ack.Outcome = &cachepb.Outcome{Code: cachepb.Code_OVERLOADED}
		}
		return &cachepb.Ack{Method: &cachepb.Ack_PutAck{PutAck: ack}}
	}
	return &cachepb.Ack{Method: &cachepb.Ack_MgmtAck{MgmtAck: &cachepb.MgmtAck{Method: &cachepb.MgmtAck_Pong{Pong: &cachepb.Pong{}}}}}
}

// serve runs a service on loopback until the test ends.
func serve(t *testing.T, s *service, cfg *tls.Config) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	opts := []grpc.ServerOption{grpc.ConnectionTimeout(300 * time.Millisecond), grpc.MaxHeaderListSize(16 << 10)}
	if cfg != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(cfg)))
	}
	g := grpc.NewServer(opts...)
	cachepb.RegisterCacheServer(g, s)
	done := make(chan struct{})
	go func() { defer close(done); g.Serve(ln) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return ln.Addr().String()
}

// certificate makes a server's configuration and a client's that trusts it.
func certificate(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"node"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13},
		&tls.Config{RootCAs: pool, ServerName: "node"}
}

// attack runs a spec until want holds of what it came to, and returns that.
func attack(t *testing.T, s Spec, want func(t *Tally) bool) Tally {
	t.Helper()
	a, err := Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Stop()
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		tally := a.Tally()
		if bit, _ := a.Bit(); bit && want(&tally) {
			return a.Stop()
		}
		select {
		case <-tick.C:
		case <-limit:
			bit, what := a.Bit()
			t.Fatalf("%s: bit %t: %s", s.Kind, bit, what)
		}
	}
}

// TestKinds proves that each attack reaches a server, is counted as what it is,
// and ends with nothing left. What the server answers is gRPC's word: an attack
// that was malformed in another way than it means to be would be answered
// otherwise.
func TestKinds(t *testing.T) {
	any := func(*Tally) bool { return true }
	ended := func(how ...string) func(t *Tally) bool {
		return func(t *Tally) bool {
			var n int64
			for _, h := range how {
				n += t.Endings[h]
			}
			return n >= 3 && t.Ended >= 3
		}
	}
	for name, c := range map[string]struct {
		spec Spec
		want func(t *Tally) bool
	}{
		"idle-streams":     {Spec{Count: 150}, func(t *Tally) bool { return t.Served == 150 && t.Attempts == 150 && t.Ended == 0 }},
		"never-reads":      {Spec{Count: 4, Size: 1 << 10}, func(t *Tally) bool { return t.Bytes > 4*initialWindow/2 && t.Ended == 0 }},
		"huge-message":     {Spec{Rate: 20, Size: 64 << 20}, ended("ResourceExhausted")},
		"half-frame":       {Spec{Count: 6}, func(t *Tally) bool { return t.Served >= 6 }},
		"half-open":        {Spec{Count: 20}, ended("EOF", "connection reset")},
		"garbage":          {Spec{Rate: 100}, ended("EOF", "connection reset", "broken pipe")},
		"no-token":         {Spec{Rate: 50}, ended("PermissionDenied")},
		"wrong-token":      {Spec{Rate: 50}, ended("PermissionDenied")},
		"peer-claim":       {Spec{Rate: 50}, ended("PermissionDenied")},
		"wrong-protocol":   {Spec{Rate: 50}, ended("no handshake")},
		"compression-bomb": {Spec{Rate: 10}, ended("Unimplemented")},
		"header-bomb":      {Spec{Rate: 20}, func(t *Tally) bool { return t.Ended >= 4 && t.Served == 0 }},
		"tiny-frames":      {Spec{Count: 3000, Rate: 100_000}, any},
		"reconnect-storm":  {Spec{Rate: 50}, func(t *Tally) bool { return t.Served >= 3 }},
		"stream-flood":     {Spec{Rate: 1000}, func(t *Tally) bool { return t.Attempts >= 100 }},
		"overload": {Spec{Rate: 5000, Count: 100, Size: 100}, func(t *Tally) bool {
			return t.Load.OK > 20 && t.Load.Refused > 20 && t.Load.P99 > 0 && t.Load.Offered >= t.Load.OK+t.Load.Refused+t.Load.Missed
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.spec.Kind, c.spec.Addr, c.spec.Token = name, serve(t, &service{}, nil), token
			got := attack(t, c.spec, c.want)
			if Kinds[name].Forbidden && got.Served > 0 {
				t.Errorf("served %d", got.Served)
			}
		})
	}
	if len(Kinds) != 16 {
		t.Errorf("%d kinds; add the new one here", len(Kinds))
	}
}

// TestLax proves that being served is noticed: against servers that let everyone
// in, or that speak old protocols, every forbidden kind that could be served is.
func TestLax(t *testing.T) {
	for _, kind := range []string{"no-token", "wrong-token", "peer-claim"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			attack(t, Spec{Kind: kind, Addr: serve(t, &service{lax: true}, nil), Token: token, Rate: 50}, func(t *Tally) bool { return t.Served > 3 })
		})
	}
	t.Run("wrong-protocol", func(t *testing.T) {
		t.Parallel()
		server, client := certificate(t)
		server.MinVersion = tls.VersionTLS10
		ln, err := tls.Listen("tcp", "127.0.0.1:0", server) // gRPC has no ciphers that old
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				conn.(*tls.Conn).Handshake()
				conn.Close()
			}
		}()
		t.Cleanup(func() { ln.Close(); <-done })
		attack(t, Spec{Kind: "wrong-protocol", Addr: ln.Addr().String(), Token: token, TLS: client, Rate: 50}, func(t *Tally) bool { return t.Served > 3 })
	})
}

// TestTLS proves that what must be honest up to a point is so over TLS too, and
// that what must not be is refused.
func TestTLS(t *testing.T) {
	server, client := certificate(t)
	addr := serve(t, &service{}, server)
	for name, c := range map[string]struct {
		spec Spec
		want func(t *Tally) bool
	}{
		"idle-streams":   {Spec{Count: 10}, func(t *Tally) bool { return t.Served == 10 }},
		"half-open":      {Spec{Count: 10}, func(t *Tally) bool { return t.Ended >= 10 }},
		"wrong-protocol": {Spec{Rate: 50}, func(t *Tally) bool { return t.Endings["no handshake"] >= 4 && t.Served == 0 }},
		"wrong-token":    {Spec{Rate: 50}, func(t *Tally) bool { return t.Endings["PermissionDenied"] >= 3 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.spec.Kind, c.spec.Addr, c.spec.Token, c.spec.TLS = name, addr, token, client
			attack(t, c.spec, c.want)
		})
	}
}

// TestNobodyThere proves that an attack that reaches nobody has not taken place.
func TestNobodyThere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	for _, s := range []Spec{{Kind: "no-token", Rate: 200}, {Kind: "half-open", Count: 10}, {Kind: "overload", Rate: 1000, Count: 10, Size: 10}} {
		s.Addr, s.Token = addr, token
		a, err := Start(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		for begun := false; !begun; {
			tally := a.Tally()
			begun = tally.Failed > 3 || tally.Load != nil && tally.Load.Offered > 100
			select {
			case <-time.After(time.Millisecond):
			case <-t.Context().Done():
				t.Fatal("nothing was begun")
			}
		}
		if bit, what := a.Bit(); bit {
			t.Errorf("%s bit a closed port: %s", s.Kind, what)
		}
		a.Stop()
	}
}

// Package seedtest holds the node to the original contract. Its client is generated from the seed's own proto file, so
// it can neither send nor see anything of the extension, and it talks to the real program: alone, and as a cluster of
// three processes which know nothing but the seed's environment variables.
package seedtest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/seedtest/seedpb"
)

const (
	token    = "SuperSafeSecretToken1337"
	patience = 20 * time.Second // for anything that must happen; far above what it takes
)

var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "seedtest")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "cachenode")
		if out, err := exec.Command("go", "build", "-o", binary, "github.com/hacache/hacache/cachenode").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// process is one node.
type process struct {
	addr string
	cmd  *exec.Cmd
	log  logBuffer
}

// logBuffer is what a node wrote. exec.Cmd writes it on a goroutine of its own.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// start starts n nodes and stops them, in order, when the test ends.
func start(t *testing.T, n int) []*process {
	t.Helper()
	nodes, _ := startSome(t, n, n)
	return nodes
}

// startSome starts the first up nodes of a list of n hosts, with more in their environment. It returns the hosts as well.
func startSome(t *testing.T, n, up int, env ...string) (nodes []*process, addrs []string) {
	t.Helper()
	hosts := make([]string, n)
	for i := range hosts {
		addrs = append(addrs, freeAddr(t))
		hosts[i] = "http://" + addrs[i]
	}
	for _, addr := range addrs[:up] {
		p := &process{addr: addr}
		nodes = append(nodes, p)
		p.cmd = exec.Command(binary)
		p.cmd.Dir = t.TempDir()
		p.cmd.Env = append([]string{"CACHE_AUTH_TOKEN=" + token, "CACHE_TLS=false"}, env...)
		if n > 1 {
			p.cmd.Env = append(p.cmd.Env, "HA_MODE=true", "HA_HOSTS="+strings.Join(hosts, ", "), "HOSTNAME_OVERWRITE="+p.addr)
		} else {
			p.cmd.Env = append(p.cmd.Env, "CACHE_LISTEN="+p.addr)
		}
		p.cmd.Stderr = &p.log
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := p.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.stop(t) })
	}
	return nodes, addrs
}

// freeAddr returns a loopback address below the ports that the system hands out by itself, so that nobody takes it
// between here and the node.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000)))
		if err == nil {
			defer ln.Close()
			return ln.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}

// stop ends a node with SIGTERM, which it must survive in order: exit code 0.
func (p *process) stop(t *testing.T) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	err := p.cmd.Wait()
	kill.Stop()
	if err != nil {
		t.Errorf("%s ended with %v", p.addr, err)
	}
	if t.Failed() {
		t.Logf("log of %s:\n%s", p.addr, p.log.String())
	}
}

// seed is a client of the original protocol: one stream, answers in whatever order they come.
type seed struct {
	t      *testing.T
	name   string
	stream grpc.BidiStreamingClient[seedpb.CacheRequest, seedpb.Ack]
	leader *seedpb.LeaderInfo
}

// dial opens a stream and reads its first message, which must be the LeaderInfo. It waits until the node listens.
func dial(t *testing.T, p *process) *seed {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+p.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", token)
	stream, err := seedpb.NewCacheClient(conn).StreamValues(ctx, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	s := &seed{t: t, name: p.addr, stream: stream}
	ack := s.recv()
	if s.leader = ack.GetMgmtAck().GetLeaderInfo(); s.leader == nil {
		t.Fatalf("%s: the first message is %v, want a LeaderInfo", s.name, ack)
	}
	return s
}

func (s *seed) send(req *seedpb.CacheRequest) {
	s.t.Helper()
	if err := s.stream.Send(req); err != nil {
		s.t.Fatalf("%s: Send: %v", s.name, err)
	}
}

func (s *seed) recv() *seedpb.Ack {
	s.t.Helper()
	ack, err := s.stream.Recv()
	if err != nil {
		s.t.Fatalf("%s: Recv: %v", s.name, err)
	}
	return ack
}

func (s *seed) call(req *seedpb.CacheRequest) *seedpb.Ack {
	s.t.Helper()
	s.send(req)
	return s.recv()
}

// want calls and compares the answer with one in text form, in the fields of the seed.
func (s *seed) want(req *seedpb.CacheRequest, text string) {
	s.t.Helper()
	got := known(s.call(req))
	want := new(seedpb.Ack)
	if err := prototext.Unmarshal([]byte(text), want); err != nil {
		s.t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		s.t.Errorf("%s: %v was answered with %v, want %v", s.name, req, got, want)
	}
}

// known drops what the seed's client does not see: the fields of the extension.
func known(ack *seedpb.Ack) *seedpb.Ack {
	data, _ := proto.Marshal(ack)
	out := new(seedpb.Ack)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, out); err != nil {
		return ack
	}
	return out
}

// quiet shows that nothing more has been answered than was asked: the next message is that of the next request.
func (s *seed) quiet() {
	s.t.Helper()
	s.want(mgmt(&seedpb.MgmtRequest{Method: &seedpb.MgmtRequest_Ping{Ping: &seedpb.Ping{}}}), "mgmt_ack { pong {} }")
}

func (s *seed) health() *seedpb.HealthAck {
	s.t.Helper()
	ack := s.call(mgmt(&seedpb.MgmtRequest{Method: &seedpb.MgmtRequest_Health{Health: &seedpb.Health{}}}))
	h := ack.GetMgmtAck().GetHealthAck()
	if h == nil {
		s.t.Fatalf("%s: Health was answered with %v", s.name, ack)
	}
	return h
}

func mgmt(req *seedpb.MgmtRequest) *seedpb.CacheRequest {
	return &seedpb.CacheRequest{Method: &seedpb.CacheRequest_MgmtReq{MgmtReq: req}}
}

func get(key string) *seedpb.CacheRequest {
	return &seedpb.CacheRequest{Method: &seedpb.CacheRequest_Get{Get: &seedpb.Get{CacheName: "cache", Entry: key}}}
}

func put(key, value string, id *string) *seedpb.CacheRequest {
	return &seedpb.CacheRequest{Method: &seedpb.CacheRequest_Put{Put: &seedpb.Put{CacheName: "cache", Entry: key, Value: []byte(value), ReqId: id}}}
}

func insert(key, value, id string, level *seedpb.AckLevel) *seedpb.CacheRequest {
	return &seedpb.CacheRequest{Method: &seedpb.CacheRequest_Insert{Insert: &seedpb.Insert{CacheName: "cache", Entry: key, Value: []byte(value), ReqId: id, AckLevel: level}}}
}

func del(key string, id *string) *seedpb.CacheRequest {
	return &seedpb.CacheRequest{Method: &seedpb.CacheRequest_Del{Del: &seedpb.Del{CacheName: "cache", Entry: key, ReqId: id}}}
}

func remove(key, id string, level *seedpb.AckLevel) *seedpb.CacheRequest {
	return &seedpb.CacheRequest{Method: &seedpb.CacheRequest_Remove{Remove: &seedpb.Remove{CacheName: "cache", Entry: key, ReqId: id, AckLevel: level}}}
}

var levels = map[string]*seedpb.AckLevel{
	"quorum": {AckLevel: &seedpb.AckLevel_LevelQuorum{LevelQuorum: &seedpb.Empty{}}},
	"once":   {AckLevel: &seedpb.AckLevel_LevelOnce{LevelOnce: &seedpb.Empty{}}},
	"leader": {AckLevel: &seedpb.AckLevel_LevelLeader{LevelLeader: &seedpb.Empty{}}},
}

// eventually asks again until ok. Other processes make it so, and tell nobody when.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline, again := time.After(patience), time.NewTicker(5*time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func serves(h *seedpb.HealthAck) bool {
	switch h.GetState().GetValue().(type) {
	case *seedpb.State_Leader, *seedpb.State_Follower:
		return h.GetQuorum()
	default:
		return false
	}
}

func leads(h *seedpb.HealthAck) bool {
	_, ok := h.GetState().GetValue().(*seedpb.State_Leader)
	return ok
}

func TestSeedClient(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("nodes=%d", n), func(t *testing.T) {
			nodes := start(t, n)
			clients := make([]*seed, n)
			for i, p := range nodes {
				clients[i] = dial(t, p)
				eventually(t, p.addr+" serves", func() bool { return serves(clients[i].health()) })
			}
			leaders := 0
			for i, s := range clients {
				h := s.health()
				role := "follower"
				if leads(h) {
					role = "leader"
					leaders++
				}
				t.Run(fmt.Sprintf("%s%d", role, i), func(t *testing.T) {
					again := dial(t, nodes[i]) // its greeting knows the leader
					again.t = t
					checkLeaderInfo(t, again, nodes)
					checkHealth(t, again, nodes)
					checkOperations(t, again, role+fmt.Sprint(i))
					checkUnknown(t, again)
					again.quiet()
				})
			}
			if leaders != 1 {
				t.Errorf("%d leaders, want 1", leaders)
			}
			checkReplication(t, clients)
			checkTokens(t, nodes[0])
		})
	}
}

func checkLeaderInfo(t *testing.T, s *seed, nodes []*process) {
	t.Helper()
	if !s.leader.GetHasQuorum() || s.leader.GetElectionTs() <= 0 {
		t.Errorf("LeaderInfo %v, want a quorum and the time of an election", s.leader)
	}
	known := false
	for _, p := range nodes {
		known = known || strings.HasSuffix(s.leader.GetAddr(), p.addr)
	}
	if !known {
		t.Errorf("LeaderInfo names %q, want one of the hosts", s.leader.GetAddr())
	}
}

func checkHealth(t *testing.T, s *seed, nodes []*process) {
	t.Helper()
	h := s.health()
	if !h.GetQuorum() || !serves(h) || h.GetLeader() == nil || !h.GetLeader().GetConnected() {
		t.Errorf("health %v, want a quorum, a role and a connected leader", h)
	}
	if len(nodes) == 1 {
		return
	}
	seen := map[string]bool{}
	for _, host := range h.GetHostHealth() {
		if !host.GetConnected() {
			t.Errorf("health: %s is not connected", host.GetAddr())
		}
		seen[host.GetAddr()] = true
	}
	if len(seen) < len(nodes)-1 {
		t.Errorf("health lists %d hosts of %d: %v", len(seen), len(nodes), h.GetHostHealth())
	}
}

// checkOperations does each operation at each level and expects the seed's acks, exactly one each.
func checkOperations(t *testing.T, s *seed, key string) {
	t.Helper()
	miss := fmt.Sprintf(`get_ack { cache_name: "cache" entry: %q }`, key)
	hit := func(value string) string {
		return fmt.Sprintf(`get_ack { cache_name: "cache" entry: %q value: %q }`, key, value)
	}
	s.want(get(key), miss)
	for name, level := range levels {
		s.want(insert(key, name, "i-"+name, level), fmt.Sprintf(`put_ack { req_id: "i-%s" mod_res: true }`, name))
		s.want(get(key), hit(name)) // visible at once where it was acknowledged
		s.want(remove(key, "r-"+name, level), fmt.Sprintf(`del_ack { req_id: "r-%s" mod_res: true }`, name))
		s.want(get(key), miss)
	}
	s.want(insert(key, "", "empty", levels["quorum"]), `put_ack { req_id: "empty" mod_res: true }`)
	s.want(get(key), hit(""))
	s.want(insert(key, "no level", "none", nil), `put_ack { req_id: "none" mod_res: true }`)
	s.want(put(key, "put", new("p")), `put_ack { req_id: "p" mod_res: true }`)
	s.want(get(key), hit("put"))
	s.want(put(key, "put without id", nil), `put_ack { mod_res: true }`)
	s.want(get(key), hit("put without id"))
	s.want(del(key, new("d")), `del_ack { req_id: "d" mod_res: true }`)
	s.want(get(key), miss)
	s.want(del(key, nil), `del_ack { mod_res: true }`) // of nothing: also done
	s.want(remove(key, "nothing", levels["quorum"]), `del_ack { req_id: "nothing" mod_res: true }`)
	s.quiet()

	// Many in flight: each id is answered once, whatever the order.
	const flight = 300
	answers := map[string]int{}
	for i := range flight {
		s.send(insert(key, fmt.Sprint(i), fmt.Sprint("f", i), levels["quorum"]))
	}
	for range flight {
		ack := s.recv().GetPutAck()
		if !ack.GetModRes() {
			t.Errorf("%v, want success", ack)
		}
		answers[ack.GetReqId()]++
	}
	if len(answers) != flight {
		t.Errorf("%d operations were answered, want %d once each", len(answers), flight)
	}
	s.want(get(key), hit(fmt.Sprint(flight-1))) // operations of one stream are ordered
	s.quiet()
}

// checkUnknown sends what makes no sense, and what belongs to elections: the stream must go on.
func checkUnknown(t *testing.T, s *seed) {
	t.Helper()
	if ack := s.call(&seedpb.CacheRequest{}); ack.GetError().GetError() == "" {
		t.Errorf("an empty request was answered with %v, want Error", ack)
	}
	s.send(mgmt(&seedpb.MgmtRequest{Method: &seedpb.MgmtRequest_LeaderReq{LeaderReq: &seedpb.LeaderReq{Addr: "http://nobody:1", ElectionTs: 1}}}))
	s.send(mgmt(&seedpb.MgmtRequest{Method: &seedpb.MgmtRequest_LeaderReqAck{LeaderReqAck: &seedpb.LeaderReqAck{Addr: "http://nobody:1", ElectionTs: 1}}}))
	s.send(mgmt(&seedpb.MgmtRequest{Method: &seedpb.MgmtRequest_LeaderDead{LeaderDead: &seedpb.LeaderDead{VoteHost: "http://nobody:1", ElectionTs: 1}}}))
	s.quiet()
}

// checkReplication writes at each node and reads at all of them, by every operation that writes.
func checkReplication(t *testing.T, clients []*seed) {
	t.Helper()
	everywhere := func(key, value string) {
		t.Helper()
		for _, s := range clients {
			eventually(t, fmt.Sprintf("%s has %q at %s", key, value, s.name), func() bool {
				ack := s.call(get(key)).GetGetAck()
				if value == "" {
					return ack.Value == nil
				}
				return string(ack.GetValue()) == value
			})
		}
	}
	for i, s := range clients {
		key := fmt.Sprint("replicated", i)
		s.want(insert(key, "1", "a", levels["quorum"]), `put_ack { req_id: "a" mod_res: true }`)
		everywhere(key, "1")
		s.want(put(key, "2", new("b")), `put_ack { req_id: "b" mod_res: true }`)
		everywhere(key, "2")
		s.want(del(key, new("c")), `del_ack { req_id: "c" mod_res: true }`)
		everywhere(key, "")
		s.want(insert(key, "3", "d", levels["leader"]), `put_ack { req_id: "d" mod_res: true }`)
		everywhere(key, "3")
		s.want(remove(key, "e", levels["once"]), `del_ack { req_id: "e" mod_res: true }`)
		everywhere(key, "")
		s.quiet()
	}
}

// checkTokens opens streams with a wrong token and without one.
func checkTokens(t *testing.T, p *process) {
	t.Helper()
	for _, tt := range []struct {
		md   []string
		want codes.Code
	}{
		{[]string{"authorization", "wrong"}, codes.PermissionDenied},
		{nil, codes.Unauthenticated},
	} {
		conn, err := grpc.NewClient("passthrough:///"+p.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		stream, err := seedpb.NewCacheClient(conn).StreamValues(metadata.AppendToOutgoingContext(t.Context(), tt.md...))
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != tt.want {
			t.Errorf("token %v: %v, want %v", tt.md, err, tt.want)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

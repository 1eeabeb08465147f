package seedtest

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/cachenode/seedtest/seedpb"
)

// TestTranscripts plays testdata/*.txt: what a client of the original contract sends to real nodes, and every message it
// gets back. After each answer stands what that client cannot see, the outcome of the extension, if there is one. Commands:
//
//	nodes [n=N] [up=M] [KEY=VALUE...]  start nodes, of N hosts the first M; the input is their configuration file
//	open [leader|follower] [token=T] [bearer]  open a stream and print the greeting
//	send [silent]    send the request in text form, one a line, and print its answer; silent: it must have none
//	pipeline         send all of them, then print as many answers, which must come in order
//	raw              send the bytes in hex, one message a line, and print its answer or how the stream ended
//
// ${x*N} is N times x. In answers hosts are named by their role or number, and times and ports are left out.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &stage{t: t}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.d = d
			switch d.Cmd {
			case "nodes":
				return s.startNodes()
			case "open":
				return s.open()
			case "send":
				return s.send()
			case "pipeline":
				return s.pipeline()
			case "raw":
				return s.raw()
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

// stage is where a transcript is played.
type stage struct {
	t      *testing.T
	d      *datadriven.TestData
	nodes  []*process
	hosts  []string // also of those that were not started
	leader string
	stream grpc.BidiStreamingClient[seedpb.CacheRequest, seedpb.Ack]
	ended  bool
}

// startNodes replaces what runs.
func (s *stage) startNodes() string {
	n, up := 1, 0
	var env []string
	for _, arg := range s.d.CmdArgs {
		switch arg.Key {
		case "n":
			arg.Scan(s.t, 0, &n)
		case "up":
			arg.Scan(s.t, 0, &up)
		default:
			env = append(env, arg.Key+"="+arg.Vals[0])
		}
	}
	if s.d.Input != "" {
		file := filepath.Join(s.t.TempDir(), "cachenode.yaml")
		if err := os.WriteFile(file, []byte(s.d.Input+"\n"), 0o600); err != nil {
			s.t.Fatal(err)
		}
		env = append(env, "CACHE_CONFIG="+file)
	}
	all := up == 0
	if all {
		up = n
	}
	s.nodes, s.hosts = startSome(s.t, n, up, env...)
	s.leader = ""
	if !all {
		return ""
	}
	for _, p := range s.nodes {
		c := dial(s.t, p)
		eventually(s.t, p.addr+" serves", func() bool {
			h := c.health()
			s.leader = strings.TrimPrefix(h.GetLeader().GetAddr(), "http://")
			return serves(h)
		})
	}
	return ""
}

// open opens a stream to a node.
func (s *stage) open() string {
	to, auth := s.nodes[0], token
	s.ended = false
	for _, arg := range s.d.CmdArgs {
		switch arg.Key {
		case "leader", "follower":
			for _, p := range s.nodes {
				if (p.addr == s.leader) == (arg.Key == "leader") {
					to = p
				}
			}
		case "token":
			auth = strings.Join(arg.Vals, "")
		case "bearer":
			auth = "Bearer " + auth
		default:
			s.d.Fatalf(s.t, "unknown argument %s", arg.Key)
		}
	}
	conn, err := grpc.NewClient("passthrough:///"+to.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	s.t.Cleanup(cancel)
	if auth != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", auth)
	}
	s.stream, err = seedpb.NewCacheClient(conn).StreamValues(ctx, grpc.WaitForReady(true))
	if err != nil {
		return s.end(err)
	}
	return s.answer()
}

// requests reads the input.
func (s *stage) requests() []*seedpb.CacheRequest {
	var reqs []*seedpb.CacheRequest
	for line := range strings.Lines(s.d.Input) {
		req := &seedpb.CacheRequest{}
		if err := prototext.Unmarshal([]byte(expand(line)), req); err != nil {
			s.d.Fatalf(s.t, "%v", err)
		}
		reqs = append(reqs, req)
	}
	return reqs
}

var times = regexp.MustCompile(`\$\{(.+?)\*([0-9]+)\}`)

func expand(line string) string {
	return times.ReplaceAllStringFunc(line, func(m string) string {
		parts := times.FindStringSubmatch(m)
		n, _ := strconv.Atoi(parts[2])
		return strings.Repeat(parts[1], n)
	})
}

func (s *stage) send() string {
	silent := s.d.HasArg("silent")
	out := ""
	for _, req := range s.requests() {
		if err := s.stream.Send(req); err != nil {
			return out + s.end(err)
		}
		if !silent {
			out += s.answer()
		}
	}
	return out + s.quiet()
}

func (s *stage) pipeline() string {
	reqs := s.requests()
	for _, req := range reqs {
		if err := s.stream.Send(req); err != nil {
			return s.end(err)
		}
	}
	out := ""
	for range reqs {
		out += s.answer()
	}
	return out + s.quiet()
}

// raw sends bytes that are not a message of the seed: the fields which it does not know are carried along.
func (s *stage) raw() string {
	out := ""
	for line := range strings.Lines(s.d.Input) {
		data, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(line), " ", ""))
		if err != nil {
			s.d.Fatalf(s.t, "%v", err)
		}
		req := &seedpb.CacheRequest{}
		req.ProtoReflect().SetUnknown(data)
		if err := s.stream.Send(req); err != nil {
			return out + s.end(err)
		}
		out += s.answer()
	}
	return out
}

// quiet shows what comes unasked: with nothing, the next message is the answer to a ping.
func (s *stage) quiet() string {
	if s.ended {
		return ""
	}
	if err := s.stream.Send(mgmt(&seedpb.MgmtRequest{Method: &seedpb.MgmtRequest_Ping{Ping: &seedpb.Ping{}}})); err != nil {
		return s.end(err)
	}
	out := ""
	for {
		ack, err := s.stream.Recv()
		if err != nil {
			return out + s.end(err)
		}
		if known(ack).GetMgmtAck().GetPong() != nil {
			return out
		}
		out += "unasked: " + s.text(ack)
	}
}

func (s *stage) answer() string {
	ack, err := s.stream.Recv()
	if err != nil {
		return s.end(err)
	}
	return s.text(ack)
}

// end tells how a stream ended. The text of an error that is not the node's own may change.
func (s *stage) end(err error) string {
	s.ended = true
	st := status.Convert(err)
	if strings.Contains(st.Message(), "grpc") {
		return fmt.Sprintf("stream ends: %v\n", st.Code())
	}
	return fmt.Sprintf("stream ends: %v: %s\n", st.Code(), st.Message())
}

var (
	spaces   = regexp.MustCompile(`  +`)
	volatile = regexp.MustCompile(`(election_ts|uptime_secs): ?[0-9]+`)
)

// text writes an answer as the seed's client sees it, and behind it the outcome that it does not see.
func (s *stage) text(ack *seedpb.Ack) string {
	out, err := prototext.MarshalOptions{}.Marshal(known(ack))
	if err != nil {
		s.t.Fatal(err)
	}
	line := volatile.ReplaceAllString(spaces.ReplaceAllString(string(out), " "), "$1:…")
	if outcome := hidden(ack); outcome != "" {
		line += "   # " + outcome
	}
	for i, host := range s.hosts {
		name := fmt.Sprint("host", i)
		switch {
		case host == s.leader:
			name = "LEADER"
		case s.leader != "":
			name = "FOLLOWER"
		}
		line = strings.ReplaceAll(line, host, name)
	}
	return contract(line) + "\n"
}

// contract is the reverse of expand for what is the same byte many times.
func contract(line string) string {
	var out strings.Builder
	for i := 0; i < len(line); {
		n := 1
		for i+n < len(line) && line[i+n] == line[i] {
			n++
		}
		if n < 50 {
			out.WriteString(line[i : i+n])
		} else {
			fmt.Fprintf(&out, "${%c*%d}", line[i], n)
		}
		i += n
	}
	return out.String()
}

// outcomes are the codes of the extension.
var outcomes = map[uint64]string{
	0: "OK", 1: "NO_LEADER", 2: "NO_QUORUM", 3: "NOT_LEADER", 4: "OVERLOADED", 5: "INVALID", 6: "TOO_LARGE", 7: "UNKNOWN_CACHE",
	8: "SESSION_EXPIRED", 9: "SHUTTING_DOWN", 10: "NOT_FRESH", 32: "INDETERMINATE",
}

// hidden returns the code and detail of the outcome in field 16 of an ack's message, "" if there is none.
func hidden(ack *seedpb.Ack) string {
	var m proto.Message
	switch a := ack.GetMethod().(type) {
	case *seedpb.Ack_GetAck:
		m = a.GetAck
	case *seedpb.Ack_PutAck:
		m = a.PutAck
	case *seedpb.Ack_DelAck:
		m = a.DelAck
	case *seedpb.Ack_Error:
		m = a.Error
	default:
		return ""
	}
	outcome, ok := field(m.ProtoReflect().GetUnknown(), 16)
	if !ok {
		return ""
	}
	raw, _ := field(outcome, 1)
	code, _ := protowire.ConsumeVarint(raw)
	detail, _ := field(outcome, 2)
	if len(detail) == 0 {
		return outcomes[code]
	}
	return outcomes[code] + ": " + string(detail)
}

// field returns the content of a field, or its varint.
func field(data []byte, want protowire.Number) ([]byte, bool) {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return nil, false
		}
		data = data[n:]
		size := protowire.ConsumeFieldValue(num, typ, data)
		if size < 0 {
			return nil, false
		}
		value := data[:size]
		data = data[size:]
		if num != want {
			continue
		}
		if typ == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(value)
		}
		return value, true
	}
	return nil, false
}

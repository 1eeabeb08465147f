package peer

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/hacache/hacache/proto/cachepb"
)

// Keys of a stream's metadata.
const (
	peerKey  = "cachenode-peer" // "<id in hex>;<slot>;<lane>"
	tokenKey = "authorization"
)

func peerValue(id uint64, slot int, lane Lane) string {
	return fmt.Sprintf("%x;%d;%s", id, slot, lane)
}

// IsPeer tells whether an incoming stream claims, by its metadata, to be a peer's. Whether to believe it is the
// caller's to decide, by token or certificate.
func IsPeer(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, peerKey)) > 0
}

// ParsePeer returns what the metadata of an incoming stream says about the peer that opened it.
func ParsePeer(ctx context.Context) (id uint64, slot int, lane Lane, err error) {
	values := metadata.ValueFromIncomingContext(ctx, peerKey)
	if len(values) != 1 {
		return 0, 0, 0, fmt.Errorf("peer: metadata %s: found %d values, want 1", peerKey, len(values))
	}
	return parsePeerValue(values[0])
}

func parsePeerValue(v string) (id uint64, slot int, lane Lane, err error) {
	fields := strings.Split(v, ";")
	if len(fields) != 3 {
		return 0, 0, 0, fmt.Errorf("peer: metadata %s: found %q, want id;slot;lane", peerKey, v)
	}
	id, err = strconv.ParseUint(fields[0], 16, 64)
	if err != nil || id == 0 {
		return 0, 0, 0, fmt.Errorf("peer: metadata %s: id %q, want a positive number in hex", peerKey, fields[0])
	}
	slot, err = strconv.Atoi(fields[1])
	if err != nil || slot < 0 {
		return 0, 0, 0, fmt.Errorf("peer: metadata %s: slot %q, want a number", peerKey, fields[1])
	}
	switch fields[2] {
	case "control":
		lane = LaneControl
	case "data":
		lane = LaneData
	case "snapshot":
		lane = LaneSnapshot
	default:
		return 0, 0, 0, fmt.Errorf("peer: metadata %s: lane %q, want control, data or snapshot", peerKey, fields[2])
	}
	return id, slot, lane, nil
}

// Serve runs an incoming stream whose metadata names a peer, until it ends; the greeting is sent first. A newer stream
// of the same slot and lane takes its place. It returns a gRPC status for the peer. The caller has checked the token.
func (t *Transport) Serve(stream grpc.BidiStreamingServer[cachepb.CacheRequest, cachepb.Ack]) error {
	id, slot, lane, err := ParsePeer(stream.Context())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	slot = t.slotOf(id, slot)
	p := t.peer(slot)
	if p == nil {
		return status.Errorf(codes.InvalidArgument, "peer: id %016x is not of another node in a list of %d hosts",
			id, len(*t.table.Load()))
	}
	if !t.enter() {
		return status.Error(codes.Unavailable, ErrStopped.Error())
	}
	defer t.wg.Done()

	own := t.cfg.ID()
	l := t.newLink(p, Incoming, lane, id)
	l.push(greeting(t.cfg.Greeting()))
	p.accept[lane].Lock()
	if old := p.in[lane].Load(); old != nil {
		t.stats.replaced.Add(1)
		old.down(ErrReplaced)
	}
	l.up(nil)
	p.accept[lane].Unlock()
	if t.cfg.ID() != own {
		l.end(ErrReconnect) // the id changed while the greeting was on its way here, and Reconnect did not see this stream
	}

	// Who can reach us can probably be reached.
	t.Probe(slot)

	// Returning from here is what ends the stream, and with it a Recv or Send in progress: so neither runs here.
	t.wg.Go(func() { l.readRequests(stream.Recv) })
	t.wg.Go(func() { l.write(func(m proto.Message) error { return stream.Send(m.(*cachepb.Ack)) }) })
	cause := l.await(t.stop)
	l.down(cause)
	return status.Error(codes.Unavailable, cause.Error())
}

// slotOf returns our slot of the host that an id belongs to, given the one that the peer says.
func (t *Transport) slotOf(id uint64, said int) int {
	if t.cfg.SlotOf == nil {
		return said
	}
	return t.cfg.SlotOf(id)
}

// enter counts a call of Serve, unless the Transport has stopped.
func (t *Transport) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return false
	}
	t.wg.Add(1)
	return true
}

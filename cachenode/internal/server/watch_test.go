package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hacache/hacache/internal/bubble"
	"github.com/hacache/hacache/proto/cachepb"
)

// Metadata selects what a stream is told, whatever way it is written; what makes no sense is refused.
func TestParseWatch(t *testing.T) {
	many := strings.Repeat("x,", watchNames)
	for _, tt := range []struct {
		values []string
		want   string // leader, caches, names; or a part of the error
	}{
		{nil, "false false []"},
		{[]string{"1"}, "true false []"},
		{[]string{"leader"}, "true false []"},
		{[]string{"*"}, "false true []"},
		{[]string{"users"}, "false true [users]"},
		{[]string{"users, orders"}, "false true [users orders]"},
		{[]string{"users,1"}, "true true [users]"},
		{[]string{"users", "leader,orders"}, "true true [users orders]"},
		{[]string{"users,*"}, "false true []"},
		{[]string{"%6Ceader,%31,%2A,a%2Cb,%20,%C3%A4"}, "false true [leader 1 * a,b   ä]"},
		{[]string{many[:len(many)-1]}, fmt.Sprint("false true ", strings.Fields(strings.Repeat("x ", watchNames)))},
		{[]string{many + "x"}, "1025 names, expected at most 1024"},
		{[]string{""}, `""; expected leader, * or names of caches`},
		{[]string{"users,"}, `"users,"; expected`},
		{[]string{"100%"}, `"100%"; expected`},
	} {
		w, err := parseWatch(tt.values)
		got := fmt.Sprint(w.leader, w.caches, w.names)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want && (err == nil || !strings.Contains(got, tt.want)) {
			t.Errorf("%q: %s, want %s", tt.values, got, tt.want)
		}
	}
}

func changed(key string) *cachepb.Ack {
	return &cachepb.Ack{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{Change: &cachepb.Change{CacheName: "c", Entry: key}}}}
}

// items takes n acks off a stream, batched or not.
func items(t *testing.T, stream clientStream, n int) (acks []*cachepb.Ack, messages int) {
	t.Helper()
	for ; len(acks) < n; messages++ {
		ack := recv(t, stream)
		if b := ack.GetBatch(); b != nil {
			acks = append(acks, b.GetItems()...)
		} else {
			acks = append(acks, ack)
		}
	}
	if len(acks) != n {
		t.Fatalf("%d acks, want %d", len(acks), n)
	}
	return acks, messages
}

// A stream that watches caches gets LeaderInfo, then what its feed has and nobody else's, packed; answers to its own
// operations come in between; the feed is closed with the stream.
func TestWatchCaches(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		n := start(t, Config{Backend: b})
		defer n.stop()
		all, named := n.greeted(t, t.Context(), "cachenode-watch", "*,leader"), n.greeted(t, t.Context(), "cachenode-watch", "a,b")
		other := n.greeted(t, t.Context(), "cachenode-watch", "leader")
		for _, stream := range []clientStream{all, named} {
			if ack := recv(t, stream); ack.GetGap().GetTo() != 7 {
				t.Fatalf("the first after LeaderInfo is %s, want the Gap", text(ack))
			}
		}
		if got := fmt.Sprint(b.feeds[0].names, b.feeds[1].names); got != "[] [a b]" {
			t.Errorf("the feeds are of %s", got)
		}
		const total = 3*MaxBatchItems + 5
		var want []string
		for i := range total {
			want = append(want, fmt.Sprint(i))
			b.feeds[0].put(changed(fmt.Sprint(i)))
		}
		synctest.Wait()
		if left, _ := b.feeds[0].left(); left != total {
			t.Errorf("%d were told before anything had changed", total-left)
		}
		n.Changed()
		acks, messages := items(t, all, total)
		var got []string
		for _, ack := range acks {
			got = append(got, ack.GetPutAck().GetChange().GetEntry())
		}
		if !slices.Equal(got, want) || messages != 4 {
			t.Errorf("got %d changes in %d messages, want %d in order, in 4", len(got), messages, total)
		}
		n.LeaderChanged(&cachepb.LeaderInfo{Addr: new("n2:1")})
		for what, stream := range map[string]clientStream{"all": all, "leader": other} {
			if ack := recv(t, stream); ack.GetMgmtAck().GetLeaderInfo().GetAddr() != "n2:1" {
				t.Errorf("who watches %s got %s, want the leader", what, text(ack))
			}
		}
		for _, stream := range []clientStream{named, other} {
			send(t, stream, get("k", nil), ping())
			acks, _ := items(t, stream, 2)
			if string(acks[0].GetGetAck().GetValue()) != "v" || acks[1].GetMgmtAck().GetPong() == nil {
				t.Errorf("got %s and %s, want the answers and nothing else", text(acks[0]), text(acks[1]))
			}
			_ = stream.CloseSend()
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("the stream ended with %v", err)
			}
		}
		synctest.Wait()
		if _, closed := b.feeds[1].left(); !closed {
			t.Error("the feed of a stream that has ended is open")
		}
		if _, closed := b.feeds[0].left(); closed {
			t.Error("the feed of an open stream is closed")
		}
		n.Changed() // for nobody who is gone
	})
}

// A client that does not read makes the node stop emptying its feed; its own answers are not lost, other streams and
// Changed go on, and it may end.
func TestWatchNotRead(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		n := start(t, Config{Backend: b})
		defer n.stop()
		ctx, cancel := context.WithCancel(t.Context())
		slow := n.open(t, ctx, "cachenode-watch", "*")
		synctest.Wait() // its feed is the first
		quick := n.greeted(t, t.Context(), "cachenode-watch", "*")
		const total = 40_000
		key := strings.Repeat("k", 1000)
		synctest.Wait()
		for _, f := range b.feeds {
			f.put(slices.Repeat([]*cachepb.Ack{changed(key)}, total)...)
		}
		n.Changed()
		items(t, quick, total+1)
		for range 100 {
			n.Changed()
		}
		synctest.Wait()
		if left, _ := b.feeds[0].left(); left < total/2 {
			t.Errorf("%d of %d changes were taken for a client that does not read", total-left, total)
		}
		send(t, slow, ping())
		recv(t, slow) // LeaderInfo
		told, pongs := 0, 0
		for told < total+1 || pongs == 0 {
			ack := recv(t, slow)
			for _, item := range append(ack.GetBatch().GetItems(), ack) {
				switch {
				case item.GetMgmtAck().GetPong() != nil:
					pongs++
				case item.GetBatch() == nil:
					told++
				}
			}
		}
		if told != total+1 || pongs != 1 {
			t.Errorf("%d changes and %d answers to a Ping, want %d and 1", told, pongs, total+1)
		}
		cancel()
		synctest.Wait()
		if _, closed := b.feeds[0].left(); !closed {
			t.Error("the feed of a stream that was cut off is open")
		}
	})
}

// What cannot be watched ends the stream with a status that says why; a draining node ends streams that watch, though
// there is always something to tell.
func TestWatchRefused(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := newBackend()
		n := start(t, Config{Backend: b})
		defer n.stop()
		for value, want := range map[string]codes.Code{"none": codes.NotFound, "a,,b": codes.InvalidArgument} {
			if _, err := n.open(t, t.Context(), "cachenode-watch", value).Recv(); status.Code(err) != want {
				t.Errorf("%s: %v, want %v", value, err, want)
			}
		}
		stream := n.greeted(t, t.Context(), "cachenode-watch", "*")
		recv(t, stream)
		b.feeds[0].put(slices.Repeat([]*cachepb.Ack{changed("k")}, 1_000_000)...)
		n.Changed()
		drained := make(chan error, 1)
		go func() { drained <- n.Drain(t.Context()) }()
		var err error
		for err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unavailable {
			t.Errorf("the stream ended with %v, want Unavailable", err)
		}
		if err := <-drained; err != nil {
			t.Errorf("Drain: %v", err)
		}
		if left, _ := b.feeds[0].left(); left == 0 {
			t.Error("everything was told first")
		}
	})
}

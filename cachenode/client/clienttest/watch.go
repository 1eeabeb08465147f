package clienttest

import (
	"context"
	"net/url"
	"strings"
	"sync"

	"google.golang.org/grpc/metadata"

	"github.com/hacache/hacache/proto/cachepb"
)

// feed is what a stream that watches caches has not been told yet. It has no
// bound: a test that wants a Gap sends one.
type feed struct {
	all   bool
	names map[string]bool

	mu   sync.Mutex
	acks []*cachepb.Ack
	news chan struct{} // capacity 1
}

// newFeed returns the feed that a stream's metadata asks for, nil for none.
func newFeed(ctx context.Context) *feed {
	f := &feed{names: map[string]bool{}, news: make(chan struct{}, 1)}
	md, _ := metadata.FromIncomingContext(ctx)
	for _, value := range md.Get("cachenode-watch") {
		for word := range strings.SplitSeq(value, ",") {
			switch word {
			case "leader", "1":
			case "*":
				f.all = true
			default:
				if name, err := url.PathUnescape(word); err == nil {
					f.names[name] = true
				}
			}
		}
	}
	if !f.all && len(f.names) == 0 {
		return nil
	}
	return f
}

func (f *feed) put(ack *cachepb.Ack) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acks = append(f.acks, ack)
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// run tells a stream what is in the feed until ctx is done.
func (f *feed) run(ctx context.Context, s *Stream) {
	for {
		select {
		case <-f.news:
		case <-ctx.Done():
			return
		}
		f.mu.Lock()
		acks := f.acks
		f.acks = nil
		f.mu.Unlock()
		for _, ack := range acks {
			if s.Send(ack) != nil {
				return
			}
		}
	}
}

// join adds a feed, which begins with what is written next.
func (st *Store) join(f *feed) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.feeds == nil {
		st.feeds = map[*feed]bool{}
	}
	st.feeds[f] = true
	f.put(&cachepb.Ack{Method: &cachepb.Ack_Gap{Gap: &cachepb.Gap{Cluster: 1, From: 1, To: st.index}}})
}

func (st *Store) leave(f *feed) {
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.feeds, f)
}

// tell tells a change. mu is held.
func (st *Store) tell(cache, key string, written bool) {
	for f := range st.feeds {
		if f.all || f.names[cache] {
			f.put(Change(cache, key, written, &cachepb.Outcome{Index: st.index, Term: 1, Cluster: 1}))
		}
	}
}

// Change is how a change travels to a stream that watches: an entry was written,
// or is gone.
func Change(cache, key string, written bool, out *cachepb.Outcome) *cachepb.Ack {
	change, ok := &cachepb.Change{CacheName: cache, Entry: key}, true
	if written {
		return &cachepb.Ack{Method: &cachepb.Ack_PutAck{PutAck: &cachepb.PutAck{ModRes: &ok, Outcome: out, Change: change}}}
	}
	return &cachepb.Ack{Method: &cachepb.Ack_DelAck{DelAck: &cachepb.DelAck{ModRes: &ok, Outcome: out, Change: change}}}
}

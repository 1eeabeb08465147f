package replication

import (
	"strings"
	"testing"

	"github.com/hacache/hacache/proto/cachepb"
)

// TestInboxCountsReqIDs: the inbox holds no more than it says, whatever the bytes are for.
func TestInboxCountsReqIDs(t *testing.T) {
	r := NewRunner(nil, nil)
	id := strings.Repeat("x", 3<<20)
	taken := 0
	for range 100 {
		if r.Submit(nil, &cachepb.CacheRequest{Method: &cachepb.CacheRequest_Insert{Insert: &cachepb.Insert{
			CacheName: "users", Entry: "anna", ReqId: strings.Clone(id),
		}}}) {
			taken += len(id)
		}
	}
	if taken > inboxOpBytes+len(id) {
		t.Errorf("an inbox for %d bytes took %d", inboxOpBytes, taken)
	}
}

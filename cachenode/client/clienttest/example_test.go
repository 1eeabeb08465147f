package clienttest_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/client/clienttest"
	"github.com/hacache/hacache/proto/cachepb"
)

// Visits is the code under test.
type Visits struct{ Cache *client.Client }

func (v *Visits) Last(ctx context.Context, user string) string {
	value, found, err := v.Cache.Get(ctx, "visits", user)
	switch {
	case err != nil:
		return "unknown: " + errorName(err)
	case !found:
		return "never"
	}
	return string(value)
}

func errorName(err error) string {
	if refused, ok := errors.AsType[*client.OpError](err); ok {
		return refused.Code.String()
	}
	return err.Error()
}

// In a test this would be func TestVisits(t *testing.T), with clienttest.New(t) and
// srv.Client(t), which clean up by themselves.
func Example() {
	srv := new(clienttest.Server)
	srv.Start()
	defer srv.Stop()
	c, err := client.New(srv.Config())
	if err != nil {
		panic(err)
	}
	defer c.Close()
	visits := &Visits{c}
	ctx := context.Background()

	fmt.Println(visits.Last(ctx, "anna"))

	srv.Store.Set("visits", "anna", []byte("yesterday"))
	fmt.Println(visits.Last(ctx, "anna"))

	// From now on the node refuses.
	srv.Script(func(s *clienttest.Stream, req *cachepb.CacheRequest) {
		s.Send(clienttest.Answer(req, &cachepb.Outcome{Code: cachepb.Code_UNKNOWN_CACHE}))
	})
	fmt.Println(visits.Last(ctx, "anna"))
	// Output:
	// never
	// yesterday
	// unknown: UNKNOWN_CACHE
}

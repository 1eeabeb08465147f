package server

import (
	"container/list"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// probes bounds what the health service costs, which anybody may ask. gRPC takes a whole message, 4 MiB, before it calls a
// method, on each of a connection's streams and for as long as the client likes; what it waits for is bounded here, before
// anything of it is taken. An honest question is there at once, so the one that has waited for longest goes when there are
// too many: those who announce and never send keep nobody out.
type probes struct {
	healthpb.HealthServer // who knows the answers

	mu      sync.Mutex
	unheard list.List // of *probe, the oldest first

	refused atomic.Uint64 // because a connection had as many as it may
	evicted atomic.Uint64 // to make room, or for being silent for too long
}

const (
	// probesPerConnection is how many streams of the health service a connection may have. A client that wants to be told of
	// changes has one, and one more asks now and then.
	probesPerConnection = 4
	// mostUnheard is of how many the question may be on its way.
	mostUnheard = 32
	// questionTimeout is how long it may be that.
	questionTimeout = 5 * time.Second
)

// probe is a stream of the health service.
type probe struct {
	cancel context.CancelFunc
	place  *list.Element // among those not heard yet; nil after that, guarded by probes.mu
	timer  *time.Timer
}

type probeKey struct{}

// tap is asked about every stream when its header is there, by the goroutine that reads the connection.
func (h *probes) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	if !strings.HasPrefix(info.FullMethodName, "/"+healthpb.Health_ServiceDesc.ServiceName+"/") {
		return ctx, nil
	}
	e := entrantOf(ctx)
	if e != nil && e.probes.Add(1) > probesPerConnection {
		e.probes.Add(-1)
		h.refused.Add(1)
		return nil, status.Errorf(codes.ResourceExhausted, "this connection has %d streams of the health service already", probesPerConnection)
	}
	p := &probe{}
	ctx, p.cancel = context.WithCancel(context.WithValue(ctx, probeKey{}, p))
	h.mu.Lock()
	if h.unheard.Len() >= mostUnheard {
		h.evict(h.unheard.Front().Value.(*probe))
	}
	p.place = h.unheard.PushBack(p)
	p.timer = time.AfterFunc(questionTimeout, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.evict(p)
	})
	h.mu.Unlock()
	context.AfterFunc(ctx, func() {
		h.heard(p)
		if e != nil {
			e.probes.Add(-1)
		}
	})
	return ctx, nil
}

// evict ends a stream whose question has not come. mu is held.
func (h *probes) evict(p *probe) {
	if p.place == nil {
		return
	}
	h.unheard.Remove(p.place)
	p.place = nil
	h.evicted.Add(1)
	p.timer.Stop()
	p.cancel()
}

// heard notes that the question of a probe is there, or never will be.
func (h *probes) heard(p *probe) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.place == nil {
		return
	}
	h.unheard.Remove(p.place)
	p.place = nil
	p.timer.Stop()
}

// hear is heard for the stream of a context.
func (h *probes) hear(ctx context.Context) {
	if p, ok := ctx.Value(probeKey{}).(*probe); ok {
		h.heard(p)
	}
}

// Check implements healthpb.HealthServer.
func (h *probes) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	h.hear(ctx)
	return h.HealthServer.Check(ctx, req)
}

// List implements healthpb.HealthServer.
func (h *probes) List(ctx context.Context, req *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	h.hear(ctx)
	return h.HealthServer.List(ctx, req)
}

// Watch implements healthpb.HealthServer.
func (h *probes) Watch(req *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	h.hear(stream.Context())
	return h.HealthServer.Watch(req, stream)
}

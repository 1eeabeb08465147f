package main

import (
	"context"
	"log/slog"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
)

// How much garbage may lie about before it is collected. A small heap grows to five times of what is alive, which takes a
// quarter off the 99th percentile of writes. That is not kept up for a large one, where it would cost gigabytes and gain
// little: what a collection costs grows with what is alive, how often one comes depends on the room alone. So the room
// stays as it is once it is collectorRoom, until that is less than three tenths of what is alive.
const (
	mostPercent   = 400
	leastPercent  = 30
	collectorRoom = 128 << 20
)

// gcPercent is the percentage by which a heap of so many live bytes may grow before the next collection.
func gcPercent(live uint64) int {
	if live <= collectorRoom*100/mostPercent {
		return mostPercent
	}
	return int(max(collectorRoom*100/live, leastPercent))
}

// tuneMemory prepares the garbage collector, and returns what has to run beside the node to keep it so. The process stays
// below half of the memory there is, as long as what is alive allows it; near it the collector works as hard as it must.
// GOGC and GOMEMLIMIT of the environment win, each for itself.
func tuneMemory(logger *slog.Logger) (pace func(context.Context)) {
	if total := memoryLimit(); total > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(total / 2)
		logger.Debug("memory", "soft_limit_bytes", total/2)
	}
	if os.Getenv("GOGC") != "" {
		return func(context.Context) {}
	}
	debug.SetGCPercent(mostPercent)
	return pacer{live: liveHeap, set: func(percent int) { debug.SetGCPercent(percent) }}.run
}

// pacer sets the percentage after each collection by what that left alive.
type pacer struct {
	live func() uint64
	set  func(percent int)
}

// run returns when ctx is done.
func (p pacer) run(ctx context.Context) {
	collected := make(chan struct{}, 1)
	notifyCollected(ctx, collected)
	current := mostPercent
	for {
		select {
		case <-ctx.Done():
			return
		case <-collected:
		}
		if percent := gcPercent(p.live()); percent != current {
			current = percent
			p.set(percent)
		}
	}
}

// notifyCollected sends to c after each collection, until ctx is done. What nobody takes in time is not sent again. An
// object that nothing refers to is what notices: a process that does nothing pays nothing.
func notifyCollected(ctx context.Context, c chan<- struct{}) {
	runtime.AddCleanup(new([64]byte), func(struct{}) { // small objects share one allocation, which may stay
		if ctx.Err() != nil {
			return
		}
		select {
		case c <- struct{}{}:
		default:
		}
		notifyCollected(ctx, c)
	}, struct{}{})
}

// liveHeap is what the last collection left alive, in bytes.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// memoryLimit is the memory this process may have, in bytes: that of its cgroup, or else of the machine; 0 is unknown.
func memoryLimit() int64 {
	limit := int64(math.MaxInt64)
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		fields := strings.Fields(string(data))
		if i := slices.Index(fields, "MemTotal:"); i >= 0 && i+1 < len(fields) {
			if kib, err := strconv.ParseInt(fields[i+1], 10, 64); err == nil {
				limit = kib << 10
			}
		}
	}
	if data, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil {
			limit = min(limit, n)
		}
	}
	if limit == math.MaxInt64 {
		return 0
	}
	return limit
}

package node_test

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/hacache/hacache/cachenode/node"
)

// logBuffer keeps what is logged. It is safe for concurrent use.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// with returns the lines that contain s.
func (b *logBuffer) with(s string) (lines []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.buf.String()) {
		if strings.Contains(line, s) {
			lines = append(lines, line)
		}
	}
	return lines
}

func (b *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(io.Writer(b), nil)) }

// When all nodes are stopped at once there is nobody to hand leadership to, and no node waits for that until its patience
// ends, which it says with a warning.
func TestStopAllAtOnce(t *testing.T) {
	for range 5 {
		var log logBuffer
		t.Run("cluster", func(t *testing.T) {
			startCluster(t, 3, func(_ int, cfg *node.Config) { cfg.Logger = log.logger() })
		})
		if lines := log.with("leadership was not handed over"); len(lines) > 0 {
			t.Fatalf("%s", lines)
		}
	}
}

// A node that was given other cache policies than the others joins their cluster and says that its own are not in force.
func TestOtherPolicies(t *testing.T) {
	var log logBuffer
	nodes, _ := startCluster(t, 3, func(i int, cfg *node.Config) {
		if i == 2 {
			cfg.Caches = []node.Cache{{Name: "users", MaxEntries: 10}}
			cfg.Logger = log.logger()
		}
	})
	for lines := 0; lines == 0; lines = len(log.with("the cluster has other cache policies")) {
		if err := nodes[2].AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(log.with("no cluster can be formed with this host")) == 0 {
		t.Error("it did not say why it formed no cluster")
	}
}

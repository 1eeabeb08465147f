package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestReadDigest proves that the metrics of interest are found among others,
// exactly, and that their absence is an error and not a zero.
func TestReadDigest(t *testing.T) {
	const text = `# HELP cachenode_state_hash 53 bits of the hash
# TYPE cachenode_state_hash gauge
cachenode_state_hash 8.124919283746301e+15
cachenode_state_hash_index 4711
cachenode_cache_entries{cache="bench"} 12
cachenode_cache_evictions_total{cache="bench"} 1.5e+06
cachenode_cache_evictions_total{cache="other"} 0
cachenode_cache_expirations_total{cache="bench"} 3
cachenode_memory_bound_bytes{part="data"} 1000
cachenode_memory_bound_bytes{part="log"} 1.34217728e+08
go_goroutines 12
`
	got, err := readDigest(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := Digest{Applied: 4711, Hash: 8124919283746301, Evicted: map[string]uint64{"bench": 1_500_000, "other": 0}, Expired: map[string]uint64{"bench": 3}, MemoryBound: 1000 + 128<<20}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	for what, text := range map[string]string{
		"no index":   "cachenode_state_hash 1\n",
		"no hash":    "cachenode_state_hash_index 1\n",
		"nothing":    "",
		"no number":  "cachenode_state_hash x\ncachenode_state_hash_index 1\n",
		"a negative": "cachenode_state_hash -1\ncachenode_state_hash_index 1\n",
	} {
		if d, err := readDigest(strings.NewReader(text)); err == nil {
			t.Errorf("%s: %+v", what, d)
		}
	}
}

// TestWritePolicies proves what the nodes are told about the caches.
func TestWritePolicies(t *testing.T) {
	dir := t.TempDir()
	path, err := writePolicies(dir, []Policy{
		{Name: "small", MaxEntries: 10, MaxBytes: 1 << 20, Evict: "lru"},
		{Name: "short", TTL: 1500 * time.Millisecond},
		{Name: "plain"},
	})
	if err != nil || path != filepath.Join(dir, "cachenode.yaml") {
		t.Fatalf("%s, %v", path, err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := `caches:
  - {name: "small", max_entries: 10, max_bytes: 1048576, evict: lru}
  - {name: "short", ttl: 1.5s}
  - {name: "plain"}
`
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if path, err := writePolicies(dir, nil); path != "" || err != nil {
		t.Errorf("without caches: %q, %v", path, err)
	}
}

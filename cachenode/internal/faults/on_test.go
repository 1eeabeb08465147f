//go:build faults

package faults

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestNow proves that the clock is moved and drifts as its file says, and that
// it says what it obeyed.
func TestNow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clock")
	t.Setenv("CACHE_FAULT_CLOCK", path)
	if d := time.Until(Now()); d > time.Minute || d < -time.Minute {
		t.Errorf("without a file it is %v off", d)
	}
	// Two hours back, and since 1970 a tenth faster: that is more than five years.
	if err := os.WriteFile(path, []byte("-7200000000000 0 0"), 0o644); err != nil {
		t.Fatal(err)
	}
	if d := time.Until(Now()); d > -119*time.Minute || d < -121*time.Minute {
		t.Errorf("it is %v off, want -2h", d)
	}
	if err := os.WriteFile(path, []byte("0 0.1 0"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := time.Duration(0.1 * float64(time.Now().UnixNano()))
	if d := time.Until(Now()); d < want-time.Minute || d > want+time.Minute {
		t.Errorf("it is %v off, want %v", d, want)
	}
	if seen, err := os.ReadFile(path + ".seen"); err != nil || string(seen) != "0 0.1 0" {
		t.Errorf("it says it obeyed %q, %v", seen, err)
	}
}

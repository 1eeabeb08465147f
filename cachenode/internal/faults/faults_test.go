package faults

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// TestProductionBinary proves that the node as it ships contains no hook: not
// the variables that steer them, not the names of the points, not the line that
// a failpoint logs. The same look at a build that has them finds all of it, so
// that it could fail.
func TestProductionBinary(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the node twice")
	}
	// Names that are words of their own; a short one may be part of another.
	secrets := append([]string{"CACHE_FAULT_CLOCK", "CACHE_FAULT_POINT", "failpoint: "}, Points()...)
	for _, tags := range []string{"", "faults"} {
		t.Run("tags="+tags, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cachenode")
			out, err := exec.CommandContext(t.Context(), "go", "build", "-tags", tags, "-o", path, "github.com/hacache/hacache/cachenode").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			binary, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			found := slices.DeleteFunc(slices.Clone(secrets), func(s string) bool { return !bytes.Contains(binary, []byte(s)) })
			if tags == "" && len(found) > 0 {
				t.Errorf("the production binary contains %q", found)
			}
			if tags != "" && len(found) < len(secrets) {
				t.Errorf("of %q a build with the tag has only %q", secrets, found)
			}
		})
	}
}

// TestTagged runs the tests that need the tag, which nobody else would.
func TestTagged(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "test", "-tags", "faults", "-run", "^TestNow$", "-v", ".").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestNow")) {
		t.Errorf("%v: %s", err, out)
	}
}

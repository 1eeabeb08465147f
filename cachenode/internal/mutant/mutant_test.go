//go:build !mutants

package mutant

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestProduction proves that the program that is delivered has no planted bug: it contains neither the variable that
// would choose one nor the name of any, and the variable changes nothing.
func TestProduction(t *testing.T) {
	for _, name := range Names() {
		if On(name) {
			t.Errorf("%s is on", name)
		}
	}
	if testing.Short() {
		t.Skip("builds the program")
	}
	binary := filepath.Join(t.TempDir(), "cachenode")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/hacache/hacache/cachenode").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range append(Names(), "CACHE_MUTANT") {
		if bytes.Contains(program, []byte(word)) {
			t.Errorf("the program contains %q", word)
		}
	}
	cmd := exec.CommandContext(t.Context(), binary, "--version")
	cmd.Env = append(os.Environ(), "CACHE_MUTANT=none-such")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("with CACHE_MUTANT set: %v: %s", err, out)
	}
}

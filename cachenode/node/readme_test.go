package node_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The program that the README shows does what its reader will expect, against the three nodes that the README starts but
// for their ports.
func TestReadmeExampleRuns(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(text), "```go\n")
	code, _, _ = strings.Cut(code, "```")
	_, hosts := startCluster(t, 3)
	for i, host := range hosts {
		port := fmt.Sprintf("127.0.0.1:%d", 7071+i)
		if strings.Count(code, port) != 1 {
			t.Fatalf("the example does not name %s", port)
		}
		code = strings.Replace(code, port, host, 1)
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "run", file).CombinedOutput()
	if err != nil || !regexp.MustCompile(`^42 true\nremoved at index [0-9]+\n$`).Match(out) {
		t.Errorf("%v\n%s", err, out)
	}
}

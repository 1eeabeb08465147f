package render

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/hacache/hacache/reports/result"
)

var samplesDir = flag.String("samples", "", "keep the sample pages in this directory, to look at them")

// samples is one run for each kind of page.
func samplePages() map[string]*result.Run {
	return map[string]*result.Run{
		"pass": sampleScenario(1), "violated": sampleViolated(), "repeated": sampleRepeated(20), "bench": sampleBench(), "partial": samplePartial(),
	}
}

// A run directory gets its page, its summary and its pictures, and none of an earlier rendering stays.
func TestDir(t *testing.T) {
	root := *samplesDir
	if root == "" {
		root = t.TempDir()
	}
	for name, r := range samplePages() {
		dir := filepath.Join(root, name)
		stale := filepath.Join(dir, result.PlotsDir, "stale.svg")
		if err := os.MkdirAll(filepath.Dir(stale), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(stale, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := result.Write(dir, r); err != nil {
			t.Fatal(err)
		}
		path, err := Dir(dir)
		if err != nil || path != filepath.Join(dir, result.ReportFile) {
			t.Fatalf("%s: %q, %v", name, path, err)
		}
		if _, err := os.Stat(stale); err == nil {
			t.Errorf("%s: a picture of an earlier rendering is still there", name)
		}
		plots, err := filepath.Glob(filepath.Join(dir, result.PlotsDir, "*.svg"))
		if err != nil || len(plots) != len(drawAll(r).all()) {
			t.Errorf("%s: %d pictures, %v; expected %d", name, len(plots), err, len(drawAll(r).all()))
		}
		for _, f := range append(plots, path, filepath.Join(dir, result.MarkdownFile)) {
			if s, err := os.Stat(f); err != nil || s.Size() == 0 {
				t.Errorf("%s: %s is empty or missing: %v", name, f, err)
			}
		}
	}
}

package replicationtest

import (
	"path/filepath"
	"testing"
	"testing/cryptotest"

	"github.com/cockroachdb/datadriven"
)

// TestTranscripts runs the golden transcripts in testdata: what the design says happens, message by message. After an
// intended change, run with -rewrite and read the difference.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			tr := &Transcript{Random: func(seed uint64) { cryptotest.SetGlobalRandom(t, seed) }}
			datadriven.RunTest(t, file, func(_ *testing.T, d *datadriven.TestData) string { return tr.Do(d) })
		})
	}
}

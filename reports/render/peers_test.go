package render

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/hacache/hacache/reports/result"
)

// samplePeers is a comparison of three systems, one of which could not be had.
func samplePeers() *result.Run {
	r := sampleBench()
	r.Name, r.About, r.Intervals, r.Phases = "compare", "Three systems on one machine, the same load in turns", nil, nil
	r.Checks = []result.Check{{Name: "operations answered", Verdict: result.Pass, Checked: 4200000, Count: 3}}
	r.Warnings = []string{"not compared: Redis: redis-server is not installed"}
	turns := func(rate float64, p50, cpu time.Duration) (all []result.Turn) {
		for i, factor := range []float64{1, 0.91, 1.04} {
			all = append(all, result.Turn{
				Round: int64(i + 1), Ops: int64(rate * factor * 4), Rate: rate * factor, P50: time.Duration(float64(p50) / factor), P99: 4 * p50, CPU: cpu,
			})
		}
		return all
	}
	const many, one = "One operation a message, 256 in flight", "One in flight"
	us := time.Microsecond
	r.Peers = &result.Peers{
		Idle: 0.07,
		Systems: []result.Peer{
			{Name: "echo", Acknowledged: "the message came back", Durability: "none", Setup: []string{"one process"}, Favours: []string{"it does nothing"}},
			{
				Name: "hacache", Version: "0123456789ab", Client: "own", Acknowledged: "committed by a majority", Durability: "none: memory",
				Setup: []string{"three nodes", "defaults"}, Favours: []string{"no files"}, Against: []string{"an index with each answer"},
			},
			{Name: "Redis", Absent: "redis-server is not installed", Setup: []string{`redis-server --save ""`}},
		},
		Rows: []result.PeerRow{
			{Name: "echo, 256", Load: many, System: "echo", Operation: "message and back", Rounds: turns(262000, 831*us, 6300*time.Nanosecond)},
			{Name: "ours, 256", Load: many, System: "hacache", Operation: "Insert, quorum", Base: "echo, 256", Rounds: turns(174000, 1352*us, 10400*time.Nanosecond)},
			{Name: "redis, 256", Load: many, System: "Redis", Operation: "SET + WAIT 1", Base: "echo, 256"},
			{Name: "echo, 1", Load: one, System: "echo", Operation: "message and back", Rounds: turns(11000, 87*us, 40*us)},
			{Name: "ours, 1", Load: one, System: "hacache", Operation: "Insert, quorum", Base: "echo, 1", Rounds: turns(4500, 214*us, 120*us)},
		},
	}
	r.Peers.Rows[1].Rounds[1].NotOK = 3
	return r
}

// A system that could not be measured is named, with the reason, on the page and in the summary; what was measured has
// its ratio to the echo of the same round, which a slower round on both sides does not change.
func TestPeersPageNamesWhatIsMissing(t *testing.T) {
	r := samplePeers()
	text := page1(t, r)
	var md bytes.Buffer
	if err := Markdown(&md, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"not measured: redis-server is not installed", "0.66 ×", "2.46 ×", "unfair in its favour", "unfair against it", "0.07 cores"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, want := range []string{"| Redis | SET + WAIT 1 | – |", "0.66 ×", "not compared: Redis"} {
		if !strings.Contains(md.String(), want) {
			t.Errorf("the summary does not say %q", want)
		}
	}
	// One picture a load; a system without a number is in none of them.
	figures := peerFigures(r.Peers)
	if len(figures) != 2 || len(figures[0].Table.Rows) != 2 {
		t.Errorf("%d pictures, the first of %d rows; expected 2 and 2", len(figures), len(figures[0].Table.Rows))
	}
	if r.Peers.Rows = nil; len(peerFigures(r.Peers)) > 0 {
		t.Error("a picture of nothing")
	}
}

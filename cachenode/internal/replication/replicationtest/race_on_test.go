//go:build race

package replicationtest

// The simulation is one goroutine; the race detector has nothing to find in it and makes it ten times slower.
const (
	seedsByDefault = 8
	ablationSeeds  = 3
)

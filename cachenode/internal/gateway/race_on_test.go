//go:build race

package gateway_test

// The simulation is one goroutine; the race detector has little to find in it and makes it ten times slower.
const (
	seedsByDefault    = 8
	linearizableSeeds = 3
)

//go:build !race

package replicationtest

// seedsByDefault is how many seeds TestSchedules runs, and ablationSeeds TestAblationIsSafe for each message.
const (
	seedsByDefault = 40
	ablationSeeds  = 3
)

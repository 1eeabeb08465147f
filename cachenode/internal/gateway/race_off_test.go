//go:build !race

package gateway_test

const (
	seedsByDefault    = 30
	linearizableSeeds = 12
)

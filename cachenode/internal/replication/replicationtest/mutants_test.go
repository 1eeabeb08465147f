//go:build mutants

package replicationtest

import (
	"fmt"
	"testing"
	"testing/cryptotest"

	"github.com/hacache/hacache/cachenode/internal/mutant"
)

// TestMutants proves that the simulation can fail: each planted bug of the core is found within 500 seeds.
func TestMutants(t *testing.T) {
	for _, name := range mutant.Core() {
		t.Run(name, func(t *testing.T) {
			mutant.Set(name)
			defer mutant.Set("")
			for seed := uint64(1); seed <= 500; seed++ {
				cryptotest.SetGlobalRandom(t, seed)
				if err := runOne(seed); err != nil {
					t.Logf("found by seed %d: %.200s", seed, err)
					return
				}
			}
			t.Errorf("not found within 500 seeds")
		})
	}
}

// runOne runs the schedule of one seed; a panic of the library counts as an error, as it would end a process.
func runOne(seed uint64) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	s, sch := scheduleOf(seed)
	return RunSchedule(s, sch)
}

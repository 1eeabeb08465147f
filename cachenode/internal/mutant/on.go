//go:build mutants

package mutant

import (
	"os"
	"sync/atomic"
)

var active atomic.Pointer[string]

func init() { Set(os.Getenv("CACHE_MUTANT")) }

// On reports whether a mutant is active.
func On(name string) bool { return *active.Load() == name }

// Set activates a mutant; "" none.
func Set(name string) { active.Store(&name) }

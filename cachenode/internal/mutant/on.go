//go:build mutants

package mutant

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
)

var active atomic.Pointer[string]

// init activates the mutant that the environment names. A name that is none ends the process: a run would otherwise
// say of a correct node that it is a mutant which nothing finds.
func init() {
	name := os.Getenv("CACHE_MUTANT")
	if name != "" && !slices.Contains(Names(), name) {
		fmt.Fprintf(os.Stderr, "cachenode: CACHE_MUTANT: there is no mutant %q; expected one of %s\n", name, strings.Join(Names(), ", "))
		os.Exit(2)
	}
	Set(name)
	os.Unsetenv("CACHE_MUTANT") // or the configuration warns that it has no effect
}

// On reports whether a mutant is active.
func On(name string) bool { return *active.Load() == name }

// Set activates a mutant; "" none.
func Set(name string) { active.Store(&name) }

//go:build !faults

package faults

import "time"

// Now is the wall clock.
func Now() time.Time { return time.Now() }

// Point does nothing in this build.
func Point(string) {}

// Package handicap makes a node slower on purpose, to prove that the regression gate notices. It is to speed what package
// mutant is to correctness.
//
// Without the build tag "handicap" On is a constant false, and the compiler removes every trace of it.
package handicap

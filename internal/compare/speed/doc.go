// Package speed compares what a guarded call costs with this module and with the other circuit breakers written in Go, all
// in one run. Its benchmarks measure, package main in benchcompare runs them many times and writes docs/benchmarks.md.
//
// Everybody does the same work: the same function is guarded, through one closure for each library and form of its API, so
// that all of them pay the same one indirect call; the same harness compares the error returned with the one expected and
// looks afterwards whether the function ran, or did not.
package speed

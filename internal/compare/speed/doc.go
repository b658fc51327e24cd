// Package speed compares the cost of a guarded call with this module and with the other circuit breakers written in Go,
// all in one run. Its benchmarks measure. Package main in benchcompare runs them many times and writes
// docs/benchmarks.md.
//
// All libraries do the same work. They guard the same function through one closure for each library and form of its
// API, so that each pays for the same one indirect call. The same harness compares the returned error with the expected
// one, and checks at the end whether the function ran or not.
package speed

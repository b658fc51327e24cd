// Package behaviour runs the same scenarios with grpcircuit and with the other Go circuit breakers. It has only tests,
// because virtual time (testing/synctest) exists only in tests.
//
// A scenario describes what a user would want, and tries it with one library through an adapter. Each scenario runs in
// its own process with a time limit. If a library hangs or ends the process, that is the result. With -write the test
// binary runs every scenario with every library and writes docs/comparison.md; `make compare` does that. Without it,
// `go test` runs every scenario with grpcircuit, checks that the scenarios detect the defects of bad breakers, and runs
// one scenario with each other library.
package behaviour

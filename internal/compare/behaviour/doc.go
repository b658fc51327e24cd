// Package behaviour puts the same questions to grpcircuit and to the other Go circuit breakers. It is made of tests only:
// virtual time (testing/synctest) is to be had in tests alone.
//
// A scenario says what a user would want, and tries it on one library through an adapter. Each scenario runs in a process of
// its own, with a limit, so that a library which hangs or kills the process is a result and not the end. Run with -write, the
// test binary runs every scenario on every library and writes docs/comparison.md; `make compare` does that. Without, `go test`
// runs every scenario on grpcircuit, sees that the harness tells bad breakers from good ones, and has one look at each other
// library.
package behaviour

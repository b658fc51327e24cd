//go:build !seededbugs

package breaker

// seededBug names the bug that is seeded in this process. Without the build tag seededbugs it is an empty constant, so
// the compiler removes each branch that depends on it. `make seeded-bugs` checks that the tests find each of the bugs.
const seededBug = ""

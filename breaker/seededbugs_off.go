//go:build !seededbugs

package breaker

// seededBug names the bug that this process has. Without the build tag seededbugs it is a constant and empty, so the
// compiler removes each branch that depends on it. `make seeded-bugs` shows that the tests find each of the bugs.
const seededBug = ""

//go:build seededbugs

package breaker

import (
	"os"
	"slices"
)

// seededBug is the bug that GRPCIRCUIT_SEEDED_BUG names, or none.
var seededBug = parseBug(os.Getenv("GRPCIRCUIT_SEEDED_BUG"))

func parseBug(name string) string {
	if name != "" && !slices.Contains(seededBugs[:], name) {
		panic("GRPCIRCUIT_SEEDED_BUG is " + name + ", want one of the names in seededbugs.go")
	}
	return name
}

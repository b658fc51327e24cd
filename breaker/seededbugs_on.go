//go:build seededbugs

package breaker

import (
	"os"
	"slices"
)

var seededBugs = [...]string{bugLate, bugSlot, bugDeadline, bugWindow, bugTrip, noBugJitter}

// seededBug is the bug that GRPCIRCUIT_SEEDED_BUG names, or "" if it is not set.
var seededBug = parseBug(os.Getenv("GRPCIRCUIT_SEEDED_BUG"))

func parseBug(name string) string {
	if name != "" && !slices.Contains(seededBugs[:], name) {
		panic("GRPCIRCUIT_SEEDED_BUG is " + name + ", want one of the names in seededbugs.go")
	}
	return name
}

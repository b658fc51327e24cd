package judgement

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

var (
	// full selects the sizes that the documentation quotes. They take minutes.
	full = flag.Bool("full", false, "run the simulations in full")
	// firstSeed shows how much the figures scatter. It does not affect the breaker's jitter, which has another source.
	firstSeed = flag.Uint64("seed", 1, "the first seed of each simulation")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// size returns whole with -full and part without.
func size[T any](whole, part T) T {
	if *full {
		return whole
	}
	return part
}

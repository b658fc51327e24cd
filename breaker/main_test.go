package breaker

import (
	"testing"

	"go.uber.org/goleak"
)

// B36: whatever the tests of this package do to breakers, no goroutine is left in the end.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

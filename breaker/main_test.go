package breaker

import (
	"testing"

	"go.uber.org/goleak"
)

// B36: no goroutine is left after the tests of this package.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

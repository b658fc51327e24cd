package interceptor

import (
	"testing"

	"go.uber.org/goleak"
)

// S7, S12: whatever the tests of this package do to calls and streams, no goroutine is left in the end.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

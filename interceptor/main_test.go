package interceptor

import (
	"testing"

	"go.uber.org/goleak"
)

// S7, S12: the tests of this package leave no goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

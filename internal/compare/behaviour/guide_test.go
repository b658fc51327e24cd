package behaviour

import (
	"testing"

	"github.com/afex/hystrix-go/hystrix"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/sony/gobreaker/v2"
)

// The tables for migration in docs/guide.md name more than the comparison uses. These names exist if this compiles, and
// TestNamesInDocuments of the root module finds them here.
func TestGuideNames(*testing.T) {
	_ = []any{
		gobreaker.Settings{}.IsSuccessful,
		gobreaker.DistributedCircuitBreaker[any]{},
		hystrix.GoC,
		circuitbreaker.Builder[any].WithFailureThresholdRatio,
		circuitbreaker.Builder[any].WithFailureThresholdPeriod,
		circuitbreaker.Builder[any].WithJitter,
		circuitbreaker.Builder[any].WithJitterFactor,
		circuitbreaker.Builder[any].WithRandomDelay,
		circuitbreaker.Builder[any].OnStateChanged,
		circuitbreaker.Builder[any].OnOpen,
		circuitbreaker.Builder[any].OnClose,
		circuitbreaker.Builder[any].OnHalfOpen,
		circuitbreaker.CircuitBreaker[any].Open,
		circuitbreaker.CircuitBreaker[any].Close,
	}
}

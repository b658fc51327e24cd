package speed

import (
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/afex/hystrix-go/hystrix"
)

func hystrixPeer() Peer {
	return Peer{
		Name: "afex/hystrix-go", Module: "github.com/afex/hystrix-go",
		Window: "sliding, 10 steps of 1 s",
		Note: "two goroutines and a timer for each call, counted through a channel that drops calls when it is full; " +
			"its time limit for a call cannot be switched off, and is set to an hour",
		Lacks: map[Work]string{
			Consecutive: "no such rule", HalfOpen: "no slots: one probe in each period, as when open",
		},
		Cases: cases("Do", hystrixDo, Success, OnePercent, Open),
		Idle: func(i int) (any, error) {
			name := "idle" + strconv.Itoa(i)
			settings{openFor: openForLong}.hystrix(name, hystrix.DefaultMaxConcurrent)
			return nil, hystrix.Do(name, succeed, nil)
		},
	}
}

// hystrixNames makes the names of the breakers unique, because the library keeps them in a map forever.
var hystrixNames atomic.Int64

// hystrix sets how many calls may be in flight. The function of a call may return long before the library notices.
func (s settings) hystrix(name string, maxConcurrent int) {
	hystrix.ConfigureCommand(name, hystrix.CommandConfig{
		Timeout: int(time.Hour / time.Millisecond), MaxConcurrentRequests: maxConcurrent, RequestVolumeThreshold: minCalls,
		SleepWindow: int(min(s.openFor/time.Millisecond, math.MaxInt32)), ErrorPercentThreshold: 100 * ratio,
	})
}

func hystrixDo(s settings) (*guard, error) {
	name := "bench" + strconv.FormatInt(hystrixNames.Add(1), 10)
	s.hystrix(name, 100_000)
	wrap := func(run func() error) func() error {
		return func() error { return hystrix.Do(name, run, nil) }
	}
	return &guard{wrap: wrap}, nil
}

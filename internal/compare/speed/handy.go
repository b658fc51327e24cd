package speed

import (
	"time"

	"github.com/streadway/handy/breaker"
)

func handyPeer() Peer {
	return Peer{
		Name: "streadway/handy", Module: "github.com/streadway/handy",
		Window: "sliding, 5 steps of 1 s",
		Note: "a goroutine for each breaker decides, reached through channels; of its settings only the ratio has an " +
			"effect",
		Apart: map[Work]string{Open: noClock},
		Lacks: map[Work]string{
			Consecutive: "no such rule", HalfOpen: "no slots: one probe in each period, as when open",
		},
		Cases: cases("Allow, Success", handyAllow, Success, OnePercent, Open),
		Idle: func(int) (any, error) {
			b := breaker.NewBreaker(ratio)
			if !b.Allow() {
				return nil, errRejected
			}
			b.Success(0)
			return b, nil
		},
	}
}

// handyAllow reports a constant duration. The library requires a duration, but does not use it here.
func handyAllow(settings) (*guard, error) {
	b := breaker.NewBreaker(ratio)
	wrap := func(run func() error) func() error {
		return func() error {
			if !b.Allow() {
				return errRejected
			}
			if err := run(); err != nil {
				b.Failure(time.Millisecond)
				return err
			}
			b.Success(time.Millisecond)
			return nil
		}
	}
	return &guard{wrap: wrap}, nil
}

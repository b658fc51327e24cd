package speed

import "github.com/eapache/go-resiliency/breaker"

func eapachePeer() Peer {
	return Peer{
		Name: "eapache/go-resiliency", Module: "github.com/eapache/go-resiliency",
		Window: "none, counts nothing while calls succeed",
		Note:   "a goroutine that sleeps ends the open period, so a rejection reads no clock",
		Apart:  map[Work]string{Open: noClock},
		Lacks: map[Work]string{
			Success: "no window", HalfOpen: "admits every call while half-open",
			OnePercent: "a success does not reset the count of failures: it would open",
		},
		Cases: cases("Run", eapacheRun, Consecutive, Open),
		Idle: func(int) (any, error) {
			b := breaker.New(consecutiveMax, 1, openForLong)
			err := b.Run(succeed)
			return b, err
		},
	}
}

func eapacheRun(s settings) (*guard, error) {
	b := breaker.New(consecutiveMax, 1, s.openFor)
	wrap := func(run func() error) func() error {
		return func() error { return b.Run(run) }
	}
	return &guard{wrap: wrap}, nil
}

package speed

import (
	"strconv"
	"time"

	"github.com/bytedance/gopkg/cloud/circuitbreaker"
)

func bytedancePeer() Peer { return bytedance("bytedance/gopkg", false) }

func bytedanceShardedPeer() Peer {
	p := bytedance("bytedance/gopkg, EnableShardP", true)
	p.Note += "; counters for each P"
	return p
}

func bytedance(name string, sharded bool) Peer {
	return Peer{
		Name: name, Module: "github.com/bytedance/gopkg",
		Window: "sliding, 100 steps",
		Note:   "breakers exist only in a panel, by key; one goroutine slides all windows, so a success reads no clock",
		Apart:  map[Work]string{Success: slidByTimer, OnePercent: slidByTimer},
		Cases: cases("IsAllowed, Succeed", func(s settings) (*guard, error) { return bytedanceGuard(s, sharded) },
			Success, Consecutive, OnePercent, Open, HalfOpen),
		Idle: bytedanceIdle(sharded),
	}
}

func (s settings) bytedance(sharded bool) (circuitbreaker.Panel, error) {
	rule := circuitbreaker.RateTripFunc(ratio, minCalls)
	if s.work == Consecutive {
		rule = circuitbreaker.ConsecutiveTripFunc(consecutiveMax)
	}
	return circuitbreaker.NewPanel(nil, circuitbreaker.Options{
		BucketTime: window / 100, BucketNums: 100,
		CoolingTimeout: s.openFor, DetectTimeout: time.Hour,
		ShouldTrip: rule, EnableShardP: sharded,
	})
}

func bytedanceGuard(s settings, sharded bool) (*guard, error) {
	p, err := s.bytedance(sharded)
	if err != nil {
		return nil, err
	}
	wrap := func(run func() error) func() error {
		return func() error {
			if !p.IsAllowed(fullMethod) {
				return errRejected
			}
			if err := run(); err != nil {
				p.Fail(fullMethod)
				return err
			}
			p.Succeed(fullMethod)
			return nil
		}
	}
	counted := func() uint64 { return uint64(p.GetMetricer(fullMethod).Samples()) }
	return &guard{wrap: wrap, counted: counted, close: p.Close}, nil
}

func bytedanceIdle(sharded bool) func(int) (any, error) {
	var p circuitbreaker.Panel
	return func(i int) (any, error) {
		if i == 0 {
			var err error
			if p, err = (settings{openFor: openForLong}).bytedance(sharded); err != nil {
				return nil, err
			}
		}
		key := strconv.Itoa(i)
		if !p.IsAllowed(key) {
			return nil, errRejected
		}
		p.Succeed(key)
		return p, nil
	}
}

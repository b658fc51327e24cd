package interceptor

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

// WithConnectionReset makes a probe reset grpc's connection back-off if the channel is in TRANSIENT_FAILURE, and then
// wait for a connection, for at most wait. Without it, a probe that is not wait-for-ready fails with the error of the
// last attempt to connect. That attempt may be two minutes old, and the backend may have recovered since.
//
// The cost is more attempts to connect during an outage. Each probe causes one attempt at once, and then grpc's
// back-off starts from its beginning. With default settings that is about five attempts for each probe, and 247 in ten
// minutes instead of 14. The option uses ClientConn.ResetConnectBackoff, which grpc calls experimental.
//
// wait must be from 1 ms to one minute; anything else is an error. A good value is 1.5 s. It should be longer than a
// connection with TLS takes, and longer than the 1 s after which grpc makes its second attempt. A probe waits for at
// most half of Config.ProbeTimeout. While the backend is down, the caller of a probe waits for the whole time, or until
// its context ends, also if the backend refuses connections at once. Default: off.
func WithConnectionReset(wait time.Duration) Option {
	return optionFunc(func(o *options) error {
		if wait < minDuration || wait > maxResetWait {
			return errorf("WithConnectionReset: the wait is %v, want from 1ms to %v%s",
				wait, maxResetWait, missingUnit(wait))
		}
		o.resetFor = wait
		return nil
	})
}

const maxResetWait = time.Minute

// reconnect resets the back-off of a probe's channel and waits for the connection (G14). A fail-fast call right after
// the reset would fail, because the channel stays in TRANSIENT_FAILURE until it is connected.
func (c *pending) reconnect(ctx context.Context, cc *grpc.ClientConn) {
	if c.guard.resetFor == 0 || cc == nil || cc.GetState() != connectivity.TransientFailure {
		return
	}
	start := time.Now()
	defer func() { c.waited = time.Since(start) }()
	// Half of the lease is for the call. A probe that reports after its lease decides nothing.
	wait, cancel := context.WithTimeout(ctx, min(c.guard.resetFor, c.breaker.Config().ProbeTimeout/2))
	defer cancel()
	cc.ResetConnectBackoff()
	for {
		switch state := cc.GetState(); state {
		case connectivity.TransientFailure, connectivity.Connecting:
			if !cc.WaitForStateChange(wait, state) {
				return
			}
		default:
			c.noteBudget(ctx, time.Now()) // the call begins now
			return
		}
	}
}

package interceptor

import (
	"math"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// A probe stream that is still open when it is old closes its breaker (S14).

// startAgeTimer starts the timer that fires when the probe is old.
func (s *stream) startAgeTimer() {
	const never = time.Duration(math.MaxInt64)
	timer := time.AfterFunc(never, func() { s.on(probeIsOld, nil) })
	s.ageTimer.Store(timer) // before it can fire
	s.restart(timer, s.pending.guard.longStream)
}

// restart makes the timer run for d, unless the stream has ended. markEnded stores ended before it stops the timer, and
// restart starts the timer before it loads ended. So at least one of them stops it.
func (s *stream) restart(timer *time.Timer, d time.Duration) {
	timer.Reset(d)
	if s.ended.Load() {
		timer.Stop()
	}
}

// sustain closes the breaker because the probe is still open and old (S14). If the stream may have no connection, it
// starts the timer again instead.
func (s *stream) sustain() {
	if s.ended.Load() { // the stream ended after the timer had fired
		return
	}
	connected := s.connected()
	defer func() { // also if a hook exits the goroutine
		var again bool
		if connected {
			_, again = s.pending.permit.SignOfLife(s.ctx)
		} else {
			again = s.stillHalfOpen()
		}
		if again {
			s.restart(s.ageTimer.Load(), s.pending.guard.longStream)
		}
	}()
	if connected && !s.settled.Swap(true) {
		s.report(Result{}, false)
	}
}

// stillHalfOpen reports whether the breaker is half-open below its override. If not, the generation of the probe is
// over. If a later generation is half-open, the timer runs once more than necessary.
func (s *stream) stillHalfOpen() bool {
	b, ok := s.pending.guard.group.Lookup(s.pending.breaker.Key())
	return ok && b.Snapshot().Underlying == breaker.HalfOpen
}

// connected reports whether the stream has a connection, as far as that is known. RecvMsg returns when the connection
// is lost. While it runs, a channel that is IDLE or CONNECTING does not mean that the stream has lost its connection,
// because a stream goes on after a GOAWAY. While RecvMsg does not run, such a channel counts as a lost connection.
func (s *stream) connected() bool {
	if s.cc == nil {
		return true
	}
	switch s.cc.GetState() {
	case connectivity.Ready:
		return true
	case connectivity.Idle, connectivity.Connecting:
		return s.inRecv.Load() > 0
	case connectivity.TransientFailure, connectivity.Shutdown:
	}
	return false
}

package interceptor

import (
	"math"
	"time"

	"google.golang.org/grpc/connectivity"
)

// The stream of a probe that stays open closes its breaker when it is old (S14).

// startAgeTimer starts the timer of a probe, until it is old (S14).
func (s *stream) startAgeTimer() {
	const never = time.Duration(math.MaxInt64)
	timer := time.AfterFunc(never, func() { s.on(probeIsOld, nil) })
	s.ageTimer.Store(timer) // before it may run
	s.restart(timer, s.pending.guard.longStream)
}

// restart has the timer run for d, unless the stream is over. The end of a stream is written first, and then stops the
// timer, so one of the two sees the other.
func (s *stream) restart(timer *time.Timer, d time.Duration) {
	timer.Reset(d)
	if s.ended.Load() {
		timer.Stop()
	}
}

// sustain closes the breaker because the stream of a probe is still open (S14). It waits for another period if the
// stream has no connection.
func (s *stream) sustain() {
	if s.ended.Load() { // it ended after the timer had fired
		return
	}
	connected := s.connected()
	defer func() { // also if a hook exits the goroutine
		again := !connected
		if connected {
			_, again = s.pending.permit.SignOfLife(s.ctx)
		}
		if again {
			s.restart(s.ageTimer.Load(), s.pending.guard.longStream)
		}
	}()
	if connected && !s.settled.Swap(true) {
		s.report(Result{}, false)
	}
}

// connected reports whether the stream may have a connection. RecvMsg returns when the connection is lost, so while it
// runs an idle channel is no sign of that: after a GOAWAY a live stream has one. Without RecvMsg it is.
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

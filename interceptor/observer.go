package interceptor

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// Observer is told what a Guard and its breakers do. Packages otelbridge and prombridge have some. Calls come on the
// goroutine of the guarded call, outside every lock, and with its context; one that panics changes nothing. An Observer
// must be safe for concurrent use.
type Observer interface {
	// Rejected is called for every call that is rejected, before a fallback is tried.
	Rejected(ctx context.Context, e *RejectedError)
	// FellBack is called after a fallback was tried.
	FellBack(ctx context.Context, f FallbackInfo)
	// Transition is called for every transition of every breaker of the guard's group: New registers the Observer with
	// Group.Listen. Guards that share a group and an Observer register it once.
	Transition(ctx context.Context, e breaker.Event)
}

// SettledObserver is an Observer that wants to hear of every call as well. A guard without one spends nothing on it;
// with one, each call reads the clock twice more.
type SettledObserver interface {
	Observer
	// Settled is called for every call that was let through, once its outcome is known; not for one whose invoker
	// panicked.
	Settled(ctx context.Context, s Settlement)
}

// ProbeObserver is an Observer that wants to hear how the probes of half-open breakers go. It costs other calls
// nothing.
type ProbeObserver interface {
	Observer
	// Probed is called for every probe, once its outcome is known. A Transition that the probe led to comes before it
	// as a rule. A probe that reports after its lease is told of as well, though its outcome decides nothing any
	// more.
	Probed(ctx context.Context, s Settlement)
}

// Settlement is how a call that was let through went.
type Settlement struct {
	Key     breaker.Key
	Outcome breaker.Outcome
	Code    codes.Code
	// Duration is the time from admission to the end of the call. What the classifier and listeners take after that
	// is not part of it. That of a probe that is a stream ends at its first message.
	Duration time.Duration
	Probe    bool
}

// FallbackInfo is how a fallback went.
type FallbackInfo struct {
	Key    breaker.Key
	Call   keyfunc.Call
	Cause  error // the rejection, or the failure that the fallback was to answer for
	Served bool  // false: the caller sees Cause, or an error that wraps it
}

func (g *Guard) notifySettled(ctx context.Context, c *pending, r Result, o breaker.Outcome, took time.Duration) {
	probe := c.permit.IsProbe() && g.probeObservers != nil
	if g.settledObservers == nil && !probe {
		return
	}
	s := Settlement{
		Key: c.breaker.Key(), Outcome: o, Code: r.Code, Duration: took, Probe: c.permit.IsProbe(),
	}
	for _, obs := range g.settledObservers {
		recovered(func() { obs.Settled(ctx, s) })
	}
	if probe {
		for _, obs := range g.probeObservers {
			recovered(func() { obs.Probed(ctx, s) })
		}
	}
}

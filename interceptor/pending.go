package interceptor

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/rpccode"
)

// pending is an admitted call whose permit is not settled yet.
type pending struct {
	guard   *Guard
	breaker *breaker.Breaker
	permit  breaker.Permit
	start   time.Time     // when the call was admitted; zero if nothing needs it
	waited  time.Duration // how long a probe has waited for a connection, see WithConnectionReset
	short   bool          // when the call began, the time to the caller's deadline was less than WithMinBudget
}

// begin returns the pending call for permit. timed is whether something needs its start.
func (g *Guard) begin(ctx context.Context, b *breaker.Breaker, permit breaker.Permit, timed bool) pending {
	c := pending{guard: g, breaker: b, permit: permit}
	if timed {
		c.start = time.Now()
	}
	c.noteBudget(ctx, c.start)
	return c
}

// noteBudget sets short for a call that begins at start.
func (c *pending) noteBudget(ctx context.Context, start time.Time) {
	if c.guard.minBudget == 0 {
		return
	}
	if deadline, ok := ctx.Deadline(); ok {
		c.short = deadline.Sub(start) < c.guard.minBudget
	}
}

// elapsed returns the time since the call was admitted, without the wait of WithConnectionReset. It returns 0 if the
// start is not known.
func (c *pending) elapsed() time.Duration {
	if c.start.IsZero() {
		return 0
	}
	return time.Since(c.start) - c.waited
}

// settle classifies how the call ended, reports the outcome, calls the hooks and returns the outcome. It must run at
// most once for a pending call. It settles the permit even if a function of the user panics or exits the goroutine
// (G13).
//
// latency is for the slow rule; 0 means the time since the call was admitted. undo takes back the sign of life that the
// first message of a stream gave; it is nil if there was none.
//
// The call ends when settle begins. The time of the classifier and of listeners is not the backend's fault, so neither
// the slow rule nor Settlement.Duration includes it.
func (c *pending) settle(
	ctx context.Context, r Result, cc *grpc.ClientConn, latency time.Duration, undo func(),
) breaker.Outcome {
	took := c.elapsed()
	if r.Duration == 0 {
		r.Duration = took
	}
	if latency == 0 && !c.start.IsZero() {
		latency = max(1, took) // not 0, or the breaker would read the clock after the classifier
	}
	report := breaker.Report{Outcome: breaker.Failure, Latency: latency}
	reported := false
	defer func() {
		if !reported { // the classifier exited the goroutine
			c.report(ctx, report, undo)
		}
	}()
	c.classifyInto(ctx, &r, &report, cc)
	lost := r.Code == codes.Unavailable
	if lost || r.LongLived() {
		// A lost connection, and the end of a long stream, do not contradict the sign of life that the first message gave
		// (S13).
		undo = nil
	}
	if lost && r.Old && report.Outcome == breaker.Ignored && !r.Closed && !c.permit.IsProbe() {
		// A quiet watch was open for a long time. Only this ends the failure streak of a backend with quiet watches (S13).
		c.permit.SignOfLife(ctx)
	}
	reported = true
	c.report(ctx, report, undo)
	c.guard.notifySettled(ctx, c, r, report.Outcome, took)
	return report.Outcome
}

// report settles the permit. A failure takes back the sign of life that the call gave before (S13).
func (c *pending) report(ctx context.Context, r breaker.Report, undo func()) {
	if undo != nil && r.Outcome == breaker.Failure {
		undo()
	}
	c.permit.Report(ctx, r)
}

// panicked settles a call in which an interceptor or grpc has panicked or exited the goroutine (G1).
func (c *pending) panicked(ctx context.Context, undo func()) {
	c.report(ctx, breaker.Report{Outcome: breaker.Failure, Cause: causePanic}, undo)
}

const causePanic = "panic"

// classifyInto completes the Result, classifies it, and completes the report. An error whose methods panic is a
// failure.
func (c *pending) classifyInto(ctx context.Context, r *Result, report *breaker.Report, cc *grpc.ClientConn) {
	defer func() {
		if v := recover(); v != nil {
			c.guard.hooks.reportPanic(ctx, "error", v, r.Call)
		}
	}()
	r.Code, report.Cause = codes.Unknown, rpccode.Name(uint32(codes.Unknown))
	r.Code = codeOf(r.Err)
	report.Cause = rpccode.Name(uint32(r.Code))
	r.ShortBudget = c.short
	if r.Err != nil && cc != nil {
		state := cc.GetState()
		r.Closed, r.Ready = state == connectivity.Shutdown, state == connectivity.Ready
	}
	outcome := c.guard.runClassifier(ctx, *r)
	if outcome > breaker.Ignored {
		outcome = breaker.Failure // as breaker.Report does, but fallbacks and hooks need it too
	}
	report.Outcome = outcome
	switch outcome {
	case breaker.Success:
		report.Cause = "" // if the call opens the breaker, it does so because it was slow
	case breaker.Failure, breaker.Overload:
		report.RetryAfter = retryAfter(*r)
	case breaker.Ignored:
		report.Canceled = canceledByCaller(ctx, *r)
	}
}

// closed reports whether the caller has closed the connection.
func closed(cc *grpc.ClientConn) bool {
	return cc != nil && cc.GetState() == connectivity.Shutdown
}

// runClassifier calls the classifier. If it panics, it calls DefaultClassifier.
func (g *Guard) runClassifier(ctx context.Context, r Result) (o breaker.Outcome) {
	if g.classifier == nil {
		return DefaultClassifier(ctx, r)
	}
	defer func() {
		if v := recover(); v != nil {
			g.hooks.reportPanic(ctx, "classifier", v, r.Call)
			o = DefaultClassifier(ctx, r)
		}
	}()
	return g.classifier(ctx, r)
}

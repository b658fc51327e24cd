package interceptor

import (
	"context"
	"strings"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// Guard guards calls: its methods Unary and Stream are client interceptors. One Guard serves any number of connections.
// It is safe for concurrent use and owns no goroutine and no timer. The zero Guard is not usable.
type Guard struct {
	group *breaker.Group
	options
	cache breakerCache
	wrap    func(*breaker.RejectedError) any // made once: see reject
}

// New returns a Guard that takes its breakers from g. With a nil g the guard has a group of its own, with the default
// Config. A nil option and an option with an invalid argument are errors.
//
// The guard's observers listen to the group for as long as it lives. So make one Guard for a group and give it to all
// connections, not one for each. Give it to each connection once: a call that passes two guards of one group counts
// as two, also for MaxConcurrent.
func New(g *breaker.Group, opts ...Option) (*Guard, error) {
	o, err := collect(opts)
	if err != nil {
		return nil, err
	}
	if g == nil {
		if g, err = breaker.NewGroup(breaker.Config{}); err != nil {
			return nil, err
		}
	}
	guard := &Guard{group: g, options: *o}
	guard.wrap = func(cause *breaker.RejectedError) any {
		return &RejectedError{RejectedError: cause, code: guard.code, details: guard.details}
	}
	for _, obs := range guard.observers {
		g.Listen(obs)
	}
	return guard, nil
}

// Group returns the group that the guard takes its breakers from.
func (g *Guard) Group() *breaker.Group { return g.group }

// DialOptions returns Unary and Stream as chained interceptors. Both are needed: unary calls never pass through stream
// interceptors, nor streams through unary ones. They run in the order in which a connection gets its options.
func (g *Guard) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(g.Unary), grpc.WithChainStreamInterceptor(g.Stream)}
}

// find returns the breaker that guards a call, and nil if none does: Bypass, the matcher, a key function that panics,
// or a probe of this very breaker.
func (g *Guard) find(
	ctx context.Context, method string, desc *grpc.StreamDesc, req any, cc *grpc.ClientConn, opts []grpc.CallOption,
) *breaker.Breaker {
	bypass, tag, probe := callOptions(opts)
	if bypass {
		return nil
	}
	// Without a key function and a matcher no user code runs here, so there is no need for a Call, nor for a guard
	// against panics.
	var key breaker.Key
	var b *breaker.Breaker
	switch {
	case g.key != nil || g.matcher != nil:
		if !g.callKeyFunc(ctx, callOf(method, desc, req, cc), &key) {
			return nil
		}
	case tag != nil:
		key = targetMethod(targetOf(cc), method)
	default:
		b = g.cache.find(g.group, targetOf(cc), method)
	}
	if tag != nil {
		key.Tag = tag.tag
	}
	if b == nil {
		b = g.group.Get(key)
	}
	if probe != nil && probe.of == b {
		return nil
	}
	return b
}

// callKeyFunc asks the matcher and the key function. It returns false for a call that the matcher leaves out, and for one
// where either panics, which is counted (G12).
func (g *Guard) callKeyFunc(ctx context.Context, call keyfunc.Call, key *breaker.Key) (ok bool) {
	defer func() {
		if recover() != nil {
			g.group.CountUnguarded()
			ok = false
		}
	}()
	if g.matcher != nil && !g.matcher.Match(ctx, call.CallMeta) {
		return false
	}
	if g.key == nil {
		*key = keyfunc.TargetMethod(ctx, call)
	} else {
		*key = g.key(ctx, call)
	}
	return true
}

func callOf(method string, desc *grpc.StreamDesc, req any, cc *grpc.ClientConn) keyfunc.Call {
	return keyfunc.Call{Target: targetOf(cc), CallMeta: interceptors.NewClientCallMeta(method, desc, req)}
}

// targetOf is not CanonicalTarget, which builds its string anew for each call (G11).
func targetOf(cc *grpc.ClientConn) string {
	if cc == nil {
		return ""
	}
	return cc.Target()
}

// splitMethod takes "/pkg.Service/Method" apart as go-grpc-middleware does.
func splitMethod(full string) (service, method string) {
	service, method, ok := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	if !ok {
		return "unknown", "unknown"
	}
	return service, method
}

// pending is a call that was let through, for the time until its outcome is known.
type pending struct {
	guard   *Guard
	breaker *breaker.Breaker
	permit  breaker.Permit
	start   time.Time     // zero unless something needs it
	waited  time.Duration // for a connection, as a probe: the backend's time begins after it
	short   bool          // the caller gave less than WithMinBudget
}

func (g *Guard) begin(ctx context.Context, b *breaker.Breaker, permit breaker.Permit) pending {
	c := pending{guard: g, breaker: b, permit: permit}
	if g.timed {
		c.start = time.Now()
		if deadline, ok := ctx.Deadline(); ok && g.minBudget > 0 {
			c.short = deadline.Sub(c.start) < g.minBudget
		}
	}
	return c
}

// elapsed is how long the call has taken so far. Where nothing needs to know, it reads no clock and is 0.
func (c *pending) elapsed() time.Duration {
	if !c.start.IsZero() {
		return time.Since(c.start) - c.waited
	}
	return c.permitted()
}

// permitted is the time since the call was let through, without the wait for a connection; 0 where it was not noted.
func (c *pending) permitted() time.Duration {
	if d := c.permit.Elapsed(); d > 0 {
		return max(1, d-c.waited)
	}
	return 0
}

// settle classifies the end of a call, reports it and returns the verdict. It must run once for each pending.
// Whatever user code does in it, the permit settles (G13). latency is for the slow rule; 0: since the call was let
// through. sign is what the first message of a stream has ended, or nil.
//
// The call ends when settle begins. The time that the classifier and the listeners take is not the backend's, so
// neither the slow rule nor Settlement.Duration includes it.
func (c *pending) settle(
	ctx context.Context, r Result, cc *grpc.ClientConn, latency time.Duration, sign *breaker.Streak,
) breaker.Outcome {
	took := c.elapsed()
	if r.Duration == 0 {
		r.Duration = took
	}
	if latency == 0 {
		latency = max(1, took) // not 0, for which the breaker would read the clock after the classifier has run
	}
	report := breaker.Report{Outcome: breaker.Failure, Latency: latency, TakeBack: sign}
	reported := false
	defer func() {
		if !reported { // a classifier exited the goroutine
			c.permit.DoneWith(ctx, report)
		}
	}()
	c.classifyInto(ctx, &r, &report, cc)
	lost := r.Code == codes.Unavailable
	if lost || r.LongLived() { // neither says anything about a message that came before, or long ago (S13)
		report.TakeBack = nil
	}
	if lost && r.Old && report.Outcome == breaker.Ignored && !r.Closed {
		// A quiet watch was open for long. No other outcome of quiet watches ends their failure streak (S13).
		c.permit.SignOfLife()
	}
	reported = true
	c.permit.DoneWith(ctx, report)
	c.guard.notifySettled(ctx, c, r, report.Outcome, took)
	return report.Outcome
}

// classifyInto fills in what a Result can tell and has it classified. An error whose own methods panic is a failure.
func (c *pending) classifyInto(ctx context.Context, r *Result, report *breaker.Report, cc *grpc.ClientConn) {
	defer func() { _ = recover() }()
	r.Code = codes.Unknown
	r.Code = codeOf(r.Err)
	r.ShortBudget = c.short
	if r.Err != nil && cc != nil {
		state := cc.GetState()
		r.Closed, r.Ready = state == connectivity.Shutdown, state == connectivity.Ready
	}
	outcome := c.guard.runClassifier(ctx, *r)
	if outcome > breaker.Ignored {
		outcome = breaker.Failure // as breaker.Report has it, for fallbacks and observers too
	}
	report.Outcome = outcome
	switch outcome {
	case breaker.Success:
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

// runClassifier asks the classifier. One that panics is passed over for the default.
func (g *Guard) runClassifier(ctx context.Context, r Result) (o breaker.Outcome) {
	if g.classifier == nil {
		return DefaultClassifier(ctx, r)
	}
	defer func() {
		if recover() != nil {
			o = DefaultClassifier(ctx, r)
		}
	}()
	return g.classifier(ctx, r)
}

// rejection returns the rejection that err is, or nil if it is the error of a context that was done before the call:
// such a call goes straight on, to be ended by grpc with grpc's own status (B24).
func rejection(err error) *breaker.RejectedError {
	rejected, _ := err.(*breaker.RejectedError) //nolint:errorlint // Acquire does not wrap it, and every rejection comes here
	return rejected
}

// reject makes the error of a rejected call, and tells of it.
func (g *Guard) reject(ctx context.Context, cause *breaker.RejectedError) *RejectedError {
	err := cause.Memo(g, g.wrap).(*RejectedError) //nolint:forcetypeassert // wrap makes nothing else
	for _, o := range g.observers {
		recovered(func() { o.Rejected(ctx, err) })
	}
	return err
}

// callOnFinish tells the OnFinish options of whoever stands outside the guard how the call ended that was rejected,
// as grpc does with one that it cannot start. grpc's own OpenTelemetry plugin ends the span of a stream there.
func callOnFinish(opts []grpc.CallOption, err error) {
	for _, o := range opts {
		if f, ok := o.(grpc.OnFinishCallOption); ok && f.OnFinish != nil {
			recovered(func() { f.OnFinish(err) })
		}
	}
}

// recovered runs user code that must not change what happens to a call (G13).
func recovered(f func()) {
	defer func() { _ = recover() }()
	f()
}

package interceptor

import (
	"context"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"google.golang.org/grpc"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// Guard guards calls: its methods Unary and Stream are client interceptors. One Guard serves any number of connections.
// It is safe for concurrent use and owns no goroutine and no timer. The zero Guard is not usable.
type Guard struct {
	group *breaker.Group
	options
	wrap func(*breaker.RejectedError) any // made once: see reject
}

// New returns a Guard that takes its breakers from g. With a nil g the guard has a group of its own, with the default
// Config. A nil option and an option with an invalid argument are errors.
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

// permission is what stands between a call and its backend.
type permission struct {
	breaker  *breaker.Breaker
	permit   breaker.Permit
	rejected *breaker.RejectedError // not nil: the call must not run
	guarded  bool                   // false: the call runs, and is none of the guard's business
}

// ask finds the call's breaker and asks it.
func (g *Guard) ask(ctx context.Context, call keyfunc.Call, opts []grpc.CallOption) (p permission) {
	bypass, tag := callOptions(opts)
	if bypass {
		return p
	}
	key, ok := g.keyOf(ctx, call)
	if !ok {
		return p
	}
	if tag != nil {
		key.Tag = tag.tag
	}
	p.breaker = g.group.Get(key)
	var err error
	if p.permit, err = p.breaker.Acquire(ctx); err == nil {
		p.guarded = true
		return p
	}
	// Anything else is the error of a context that is already done: the call goes straight on, to be ended by grpc with
	// grpc's own status (B24).
	p.rejected, p.guarded = err.(*breaker.RejectedError) //nolint:errorlint // Acquire returns it unwrapped, and this is on the way of every rejection
	return p
}

// keyOf asks the matcher and the key function. A call that either leaves out is unguarded; if one panics, that is counted.
func (g *Guard) keyOf(ctx context.Context, call keyfunc.Call) (key breaker.Key, ok bool) {
	defer func() {
		if recover() != nil { // G12
			g.group.CountUnguarded()
			ok = false
		}
	}()
	if g.matcher != nil && !g.matcher.Match(ctx, call.CallMeta) {
		return key, false
	}
	return g.key(ctx, call), true
}

func callOf(method string, desc *grpc.StreamDesc, req any, cc *grpc.ClientConn) keyfunc.Call {
	c := keyfunc.Call{CallMeta: interceptors.NewClientCallMeta(method, desc, req)}
	if cc != nil {
		c.Target = cc.Target() // not CanonicalTarget, which builds its string anew for each call (G11)
	}
	return c
}

// pending is a call that was let through, for the time until its outcome is known.
type pending struct {
	guard   *Guard
	breaker *breaker.Breaker
	permit  breaker.Permit
	start   time.Time // zero unless something needs it
	short   bool      // the caller gave less than WithMinBudget
}

func (g *Guard) begin(ctx context.Context, p permission) pending {
	c := pending{guard: g, breaker: p.breaker, permit: p.permit}
	if g.timed {
		c.start = time.Now()
		if deadline, ok := ctx.Deadline(); ok && g.minBudget > 0 {
			c.short = deadline.Sub(c.start) < g.minBudget
		}
	}
	return c
}

// settle classifies the end of a call, reports it and returns the verdict. It must run once for each pending. Whatever user code does in it,
// the permit settles (G13).
func (c *pending) settle(ctx context.Context, r Result, latency time.Duration) breaker.Outcome {
	g := c.guard
	r.Code = codeOf(r.Err)
	r.ShortBudget = c.short
	report := breaker.Report{Outcome: breaker.Failure, Latency: latency}
	reported := false
	defer func() { // a classifier that exits the goroutine must not keep the permit
		if !reported {
			c.permit.DoneWith(ctx, report)
		}
	}()
	report.Outcome = g.classify(ctx, r)
	if report.Outcome == breaker.Failure || report.Outcome == breaker.Overload {
		report.RetryAfter = retryAfter(r)
	}
	reported = true
	c.permit.DoneWith(ctx, report)
	g.tellSettled(ctx, c, r, report.Outcome)
	return report.Outcome
}

// classify asks the classifier. One that panics is passed over for the default.
func (g *Guard) classify(ctx context.Context, r Result) (o breaker.Outcome) {
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

// reject makes the error of a rejected call, and tells of it.
func (g *Guard) reject(ctx context.Context, cause *breaker.RejectedError) *RejectedError {
	err := cause.Memo(g, g.wrap).(*RejectedError) //nolint:forcetypeassert // wrap makes nothing else
	for _, o := range g.observers {
		safely(func() { o.Rejected(ctx, err) })
	}
	return err
}

// safely runs user code that must not change what happens to a call (G13).
func safely(f func()) {
	defer func() { _ = recover() }()
	f()
}

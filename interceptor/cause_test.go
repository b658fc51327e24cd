package interceptor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// badEnds are errors, and the causes that they must give.
var badEnds = []struct {
	name, cause string
	err         error
}{
	{"code 1", "CANCELLED", statusError(1)},
	{"code 2", "UNKNOWN", statusError(2)},
	{"code 3", "INVALID_ARGUMENT", statusError(3)},
	{"code 4", "DEADLINE_EXCEEDED", statusError(4)},
	{"code 5", "NOT_FOUND", statusError(5)},
	{"code 6", "ALREADY_EXISTS", statusError(6)},
	{"code 7", "PERMISSION_DENIED", statusError(7)},
	{"code 8", "RESOURCE_EXHAUSTED", statusError(8)},
	{"code 9", "FAILED_PRECONDITION", statusError(9)},
	{"code 10", "ABORTED", statusError(10)},
	{"code 11", "OUT_OF_RANGE", statusError(11)},
	{"code 12", "UNIMPLEMENTED", statusError(12)},
	{"code 13", "INTERNAL", statusError(13)},
	{"code 14", "UNAVAILABLE", statusError(14)},
	{"code 15", "DATA_LOSS", statusError(15)},
	{"code 16", "UNAUTHENTICATED", statusError(16)},
	{"code 17", "CODE(17)", statusError(17)},
	{"the largest code", "CODE(4294967295)", statusError(1<<32 - 1)},
	{"a wrapped status", "UNAVAILABLE", fmt.Errorf("get: %w", down)},
	{"a status wrapped twice", "INTERNAL", wrapped(fmt.Errorf("get: %w", statusError(13)))},
	{"context.DeadlineExceeded", "DEADLINE_EXCEEDED", context.DeadlineExceeded},
	{"context.Canceled, wrapped", "CANCELLED", fmt.Errorf("get: %w", context.Canceled)},
	{"no status", "UNKNOWN", errors.New("secret text")},
	{"an error whose methods panic", "UNKNOWN", &rudeStatusError{}},
	{"a status of OK", "OK", &okStatusError{}},
}

// okStatusError is an error with the status OK, which an interceptor may make by mistake.
type okStatusError struct{}

func (*okStatusError) Error() string              { return "an error" }
func (*okStatusError) GRPCStatus() *status.Status { return status.New(codes.OK, "") }

// badIsFailure judges each error a failure, so that each can open a breaker.
func badIsFailure(_ context.Context, r Result) breaker.Outcome {
	if r.Err != nil {
		return breaker.Failure
	}
	return breaker.Success
}

// causeRig is a guard whose breaker opens at the first failure, and the transitions of its breaker.
type causeRig struct {
	*testing.T
	guard  *Guard
	heard  *recorder
	outage string // what opened the breaker when it was closed, in words
}

func newCauseRig(t *testing.T, cfg breaker.Config, opts ...Option) *causeRig {
	t.Helper()
	heard := new(recorder)
	cfg.ConsecutiveFailures, cfg.OpenFor, cfg.MaxOpenFor = 1, time.Second, time.Hour
	g := newGuard(t, cfg, append(opts, WithHooks(hooksOf(heard)))...)
	return &causeRig{T: t, guard: g, heard: heard}
}

// want checks the cause wherever it appears. why is the text of the rule that opened the breaker.
func (r *causeRig) want(what, why, cause string) {
	r.Helper()
	e := r.heard.transitions[len(r.heard.transitions)-1]
	if e.To != breaker.Open || e.Why != why || e.Cause != cause {
		r.Errorf("%s: the event is to %v, %q with the cause %q; want open, %q with %q",
			what, e.To, e.Why, e.Cause, why, cause)
	}
	s := onlyBreaker(r, r.guard).Snapshot()
	if s.LastCause != cause || s.Opened.Cause != cause || s.Opened.Why != why {
		r.Errorf("%s: the snapshot has LastCause %q and Opened %q with the cause %q; want %q, %q",
			what, s.LastCause, s.Opened.Why, s.Opened.Cause, why, cause)
	}
	text := why
	if cause != "" {
		text += ", last " + cause
	}
	if strings.HasPrefix(why, "a probe ") {
		text = r.outage + "; " + text
	} else {
		r.outage = text
	}
	text = "circuit breaker open for pkg.Service/Method: " + text + "; next probe in " + s.RetryAfter.String()
	if err := (&calls{guard: r.guard}).call(r.Context(), nil); !IsRejected(err) || err.Error() != text {
		r.Errorf("%s: got %q, want %q", what, err, text)
	}
}

func TestCauseOfUnaryCalls(t *testing.T) {
	for _, tt := range badEnds {
		for name, opts := range map[string][]Option{"": nil, ", evidence": {WithPeerEvidence()}} {
			synctest.Test(t, func(t *testing.T) {
				r := newCauseRig(t, breaker.Config{}, append(opts, WithClassifier(badIsFailure))...)
				_ = (&calls{guard: r.guard}).call(t.Context(), tt.err)
				r.want(tt.name+name, "1 failure", tt.cause)

				time.Sleep(time.Second)
				_ = (&calls{guard: r.guard}).call(t.Context(), tt.err)
				r.want(tt.name+name+", a probe", "a probe failed", tt.cause)
			})
		}
	}
}

// The default classifier, on the fast path, and a context that has really ended.
func TestCauseByTheDefaultClassifier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			name, cause string
			err         error
		}{
			{"Unavailable", "UNAVAILABLE", down},
			{"wrapped", "UNAVAILABLE", wrapped(down)},
			{"code 17", "CODE(17)", statusError(17)},
			{"no status", "UNKNOWN", errors.New("x")},
			{"panics", "UNKNOWN", &rudeStatusError{}},
		} {
			r := newCauseRig(t, breaker.Config{})
			_ = (&calls{guard: r.guard}).call(t.Context(), tt.err)
			r.want(tt.name, "1 failure", tt.cause)
		}
		r := newCauseRig(t, breaker.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_ = r.guard.Unary(ctx, fullMethod, nil, nil, nil, takes(time.Second, context.DeadlineExceeded))
		r.want("the caller's deadline", "1 failure", "DEADLINE_EXCEEDED")
	})
}

func TestCauseOfStreams(t *testing.T) {
	for _, tt := range badEnds {
		for _, messages := range []int{0, 1} {
			synctest.Test(t, func(t *testing.T) {
				r := newCauseRig(t, breaker.Config{SuccessesToClose: 2}, WithClassifier(badIsFailure))
				run := func(desc *grpc.StreamDesc, messages int) {
					cs, _ := openFake(t.Context(), t, r.guard, desc, &fakeStream{recv: func(any) error {
						if messages--; messages >= 0 {
							return nil
						}
						return tt.err
					}})
					_, _ = drainRaw(cs)
				}
				run(serverStreams, messages)
				r.want(tt.name+", a stream", "1 failure", tt.cause)
				time.Sleep(time.Second)
				run(clientStreams, 0)
				r.want(tt.name+", the stream of a probe", "a probe failed", tt.cause)
			})
		}
	}
}

// A stream that could not be made, and one whose SendMsg fails.
func TestCauseOfStreamsThatDoNotReceive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newCauseRig(t, breaker.Config{})
		_, _ = r.guard.Stream(t.Context(), serverStreams, nil, fullMethod,
			func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
				return nil, statusError(13)
			})
		r.want("the streamer", "1 failure", "INTERNAL")

		r = newCauseRig(t, breaker.Config{})
		cs, _ := openFake(t.Context(), t, r.guard, bothStream, &fakeStream{send: func(any) error { return statusError(15) }})
		_ = cs.SendMsg(nil)
		r.want("SendMsg", "1 failure", "DATA_LOSS")

		r = newCauseRig(t, breaker.Config{})
		_, finish := openDirect(t.Context(), t, r.guard, bothStream, new(fakeStream))
		finish(statusError(2))
		r.want("OnFinish", "1 failure", "UNKNOWN")
	})
}

// G1: what panics below the guard, or ends the goroutine, is a failure with the cause "panic".
func TestCauseOfPanics(t *testing.T) {
	for _, m := range misdeeds {
		synctest.Test(t, func(t *testing.T) {
			invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
				m.do()
				return nil
			}
			for name, opts := range map[string][]Option{
				"plain": nil, "classifier": {WithClassifier(DefaultClassifier)}, "evidence": {WithPeerEvidence()},
			} {
				r := newCauseRig(t, breaker.Config{}, opts...)
				leaves(func() { _ = r.guard.Unary(t.Context(), fullMethod, nil, nil, nil, invoker) })
				r.want(m.name+", unary, "+name, "1 failure", "panic")
				time.Sleep(time.Second)
				leaves(func() { _ = r.guard.Unary(t.Context(), fullMethod, nil, nil, nil, invoker) })
				r.want(m.name+", probe, "+name, "a probe failed", "panic")
			}

			r := newCauseRig(t, breaker.Config{})
			leaves(func() {
				_, _ = r.guard.Stream(t.Context(), serverStreams, nil, fullMethod,
					func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
						m.do()
						return nil, nil
					})
			})
			r.want(m.name+", streamer", "1 failure", "panic")
			time.Sleep(time.Second)
			cs, _ := openFake(t.Context(), t, r.guard, serverStreams, &fakeStream{recv: func(any) error { m.do(); return nil }})
			leaves(func() { _ = cs.RecvMsg(nil) })
			r.want(m.name+", RecvMsg of a probe", "a probe failed", "panic")
		})
	}
}

// A call that was slow and successful has no cause, whatever options the guard has.
func TestCauseOfSlowSuccess(t *testing.T) {
	for name, opts := range map[string][]Option{
		"plain":        nil,
		"hook Settled": {WithHooks(&Hooks{Settled: func(context.Context, Settlement) {}})},
		"evidence":     {WithPeerEvidence()},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newCauseRig(t, breaker.Config{SlowCall: time.Second, MinCalls: 1}, opts...)
			_ = r.guard.Unary(t.Context(), fullMethod, nil, nil, nil, takes(2*time.Second, nil))
			r.want(name, "1 of 1 calls took longer than 1s", "")
			time.Sleep(time.Second)
			_ = r.guard.Unary(t.Context(), fullMethod, nil, nil, nil, takes(2*time.Second, errNotFound))
			r.want(name+", a probe", "a probe was slow", "")
		})
	}
}

// The cause stays for calls that a half-open breaker rejects, and LastCause is that of the last failure or overload.
func TestCauseLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newCauseRig(t, breaker.Config{MaxProbes: 1, SuccessesToClose: 1})
		_ = (&calls{guard: r.guard}).call(t.Context(), statusError(13))
		time.Sleep(time.Second)
		b := onlyBreaker(t, r.guard)
		p, err := b.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := "circuit breaker half-open for pkg.Service/Method: no further probe is admitted yet; " +
			"it opened because of: 1 failure, last INTERNAL"
		if err := (&calls{guard: r.guard}).call(t.Context(), nil); err == nil || err.Error() != want {
			t.Errorf("half-open: got %q, want %q", err, want)
		}
		p.Done(t.Context(), breaker.Success)
		e := r.heard.transitions[len(r.heard.transitions)-1]
		if e.To != breaker.Closed || e.Cause != "" {
			t.Errorf("closing: to %v with the cause %q, want closed and none", e.To, e.Cause)
		}
		_ = (&calls{guard: r.guard}).call(t.Context(), statusError(8))
		_ = (&calls{guard: r.guard}).call(t.Context(), statusError(5))
		_ = (&calls{guard: r.guard}).call(t.Context(), statusError(1))
		s := b.Snapshot()
		if s.LastCause != "RESOURCE_EXHAUSTED" || s.Opened.Cause != "INTERNAL" || s.State != breaker.Closed {
			t.Errorf("%v, last %q, opened by %q; want closed, RESOURCE_EXHAUSTED, INTERNAL",
				s.State, s.LastCause, s.Opened.Cause)
		}
		b.Trip(t.Context(), "by hand")
		if got := b.Snapshot().Opened.Cause; got != "" {
			t.Errorf("Trip: the cause is %q, want none", got)
		}
	})
}

// Over real grpc: what the server sent, and what grpc made of a connection that is gone.
func TestCauseOverGRPC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := new(recorder)
		cfg := breaker.Config{ConsecutiveFailures: 1, OpenFor: time.Second}
		g := newGuard(t, cfg, WithKey(oneKey), WithHooks(hooksOf(heard)))
		s := newDirectScene(t, g, "")
		s.srv.Set(failing(status.Error(codes.DataLoss, "secret text")))
		_ = s.plain()
		time.Sleep(time.Second)
		s.srv.Set(testpb.Script{})
		s.backend.Stop()
		synctest.Wait() // until the channel has noticed
		_, err := s.client.ServerStream(t.Context(), &testpb.Request{})
		wantCode(t, "a stream without a backend", err, codes.Unavailable)
		var got []string
		for _, e := range heard.transitions {
			got = append(got, e.To.String()+" "+e.Cause)
		}
		if want := "[open DATA_LOSS half_open  open UNAVAILABLE]"; fmt.Sprint(got) != want {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// On the fast path, where the breaker is not in doubt before the call, there is a cause too.
func TestCauseOnTheFastPath(t *testing.T) {
	for _, tt := range []struct {
		name, cause string
		end         func() error
	}{
		{"Unavailable", "UNAVAILABLE", func() error { return down }},
		{"overload", "RESOURCE_EXHAUSTED", func() error { return statusError(8) }},
		{"code 17", "CODE(17)", func() error { return statusError(17) }},
		{"an error whose methods panic", "UNKNOWN", func() error { return &rudeStatusError{} }},
		{"panic", "panic", func() error { panic("below") }},
		{"Goexit", "panic", func() error { misdeeds[2].do(); return nil }},
	} {
		g := newGuard(t, breaker.Config{})
		if err := (&calls{guard: g}).call(t.Context(), nil); err != nil || !g.plain {
			t.Fatal("not the fast path")
		}
		leaves(func() {
			_ = g.Unary(t.Context(), fullMethod, nil, nil, nil,
				func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return tt.end() })
		})
		s := onlyBreaker(t, g).Snapshot()
		if s.LastCause != tt.cause || s.Failures+s.Overloads != 1 || s.Opened.Cause != "" {
			t.Errorf("%s: LastCause is %q and Opened.Cause %q, want %q and none", tt.name, s.LastCause, s.Opened.Cause, tt.cause)
		}
	}
}

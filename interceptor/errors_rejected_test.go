package interceptor

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// rejectionOf opens the guard's breaker for fullMethod and returns the rejection of a call.
func rejectionOf(t *testing.T, g *Guard) *RejectedError {
	t.Helper()
	g.Group().Get(methodKey).Trip(t.Context(), "test")
	return rejected(t, (&calls{guard: g}).call(t.Context(), nil))
}

func rejected(t *testing.T, err error) *RejectedError {
	t.Helper()
	e, ok := errors.AsType[*RejectedError](err)
	if !ok {
		t.Fatalf("got %v, want a *RejectedError", err)
	}
	return e
}

func wantDetails(t *testing.T, what string, err error, want ...any) {
	t.Helper()
	got := status.Convert(err).Details()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("%s: details (-want +got):\n%s", what, diff)
	}
}

var plainInfo = &errdetails.ErrorInfo{Reason: "CIRCUIT_OPEN", Domain: "github.com/grpcircuit/grpcircuit"}

func retryIn(d time.Duration) *errdetails.RetryInfo {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(d)}
}

func TestG08_RejectedError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{OpenFor: 10 * time.Second})
		start := time.Now()
		err := error(rejectionOf(t, g))
		if !errors.Is(err, breaker.ErrRejected) {
			t.Errorf("%v does not match breaker.ErrRejected", err)
		}
		core, ok := errors.AsType[*breaker.RejectedError](err)
		if !ok {
			t.Fatalf("%v does not wrap a *breaker.RejectedError", err)
		}
		if core.Key != methodKey || core.State != breaker.Open || core.Reason != breaker.ReasonOpen ||
			!core.Until.Equal(start.Add(10*time.Second)) {
			t.Errorf("got %+v until %v, want %v, open, until %v", core, core.Until, methodKey, start.Add(10*time.Second))
		}
		if want := "circuit breaker open for pkg.Service/Method: test; next probe in 10s"; err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
		wantCode(t, "rejection", err, codes.Unavailable)
		if got, want := status.Convert(err).Message(), "circuit breaker rejected the call: open"; got != want {
			t.Errorf("the message of the status is %q, want %q", got, want)
		}
		wantDetails(t, "at once", err, plainInfo, retryIn(10*time.Second))

		// The status is made when GRPCStatus is called, so its RetryInfo has the time that is left then.
		time.Sleep(4 * time.Second)
		wantDetails(t, "after 4s", err, plainInfo, retryIn(6*time.Second))
		time.Sleep(6 * time.Second)
		wantDetails(t, "after 10s", err, plainInfo)
	})
}

func TestG08_RejectionDoesNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour}, WithKey(oneKey))
		s := newScene(t, g, "")
		g.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
		var header, trailer metadata.MD
		var p peer.Peer
		start := time.Now()
		var finished []error
		err := s.plain(grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&p), grpc.WaitForReady(true),
			grpc.OnFinish(func(err error) { finished = append(finished, err) }))
		if !IsRejected(err) {
			t.Errorf("got %v, want a rejection", err)
		}
		if len(finished) != 1 || !errors.Is(finished[0], err) {
			t.Errorf("OnFinish got %v, want the rejection, once", finished)
		}
		if header != nil || trailer != nil || p.Addr != nil {
			t.Errorf("header %v, trailer %v, peer %v; want none", header, trailer, p.Addr)
		}
		if got := s.cc.GetState(); got != connectivity.Idle {
			t.Errorf("the connection is %v, want IDLE", got)
		}
		if s.srv.Total() != 0 || s.spy.runs != 0 || time.Since(start) != 0 {
			t.Errorf("%d calls reached the server, %d the next interceptor, in %v; want none, at once", s.srv.Total(),
				s.spy.runs, time.Since(start))
		}
		wantTally(t, "after a rejection", g, tally{Rejected: 1})
	})
}

// The guard calls the OnFinish options of a rejected call, as grpc does for a call that it cannot start. Interceptors
// outside the guard depend on that.
func TestG08_RejectionCallsOnFinish(t *testing.T) {
	answer := Fallback(func(_ context.Context, req *int, cause error) (*int, error) {
		if *req == 0 {
			return nil, cause
		}
		return new(7), nil
	})
	g := newGuard(t, breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour},
		WithFallback(ForMethods(fullMethod), answer))
	g.Group().Get(methodKey).Trip(t.Context(), "test")
	for _, answered := range []bool{false, true} {
		var rec []error
		record := grpc.OnFinish(func(err error) { rec = append(rec, err) })
		panics := grpc.OnFinish(func(error) { panic("user code") })
		req := new(int)
		if answered {
			*req = 1
		}
		err := g.Unary(t.Context(), fullMethod, req, new(int), nil, returnsAtOnce, record, panics, grpc.OnFinish(nil),
			record)
		if IsRejected(err) == answered {
			t.Errorf("answered %v: got %v", answered, err)
		}
		if len(rec) != 2 || rec[0] != err || rec[1] != err { //nolint:errorlint // the same value
			t.Errorf("answered %v: OnFinish got %v, want %v, twice", answered, rec, err)
		}
	}
}

func TestG08_OneErrorPerGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group, err := breaker.NewGroup(breaker.Config{OpenFor: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		one, _ := New(group)
		two, _ := New(group, WithRejectionCode(codes.Aborted))
		first := rejectionOf(t, one)
		if again := rejected(t, (&calls{guard: one}).call(t.Context(), nil)); again != first {
			t.Error("two rejections of one generation have two errors")
		}
		other := rejected(t, (&calls{guard: two}).call(t.Context(), nil))
		wantCode(t, "the first guard", first, codes.Unavailable)
		wantCode(t, "the second guard", other, codes.Aborted)
		if next := rejectionOf(t, one); next == first { // Trip begins a generation
			t.Error("two generations have one error")
		}
	})
}

func TestG08_EveryReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		for _, tt := range []struct {
			reason  breaker.Reason
			message string
			cfg     breaker.Config
			prepare func(*testing.T, *breaker.Breaker)
			want    []any
		}{
			{
				breaker.ReasonOpen, "open",
				breaker.Config{},
				func(_ *testing.T, b *breaker.Breaker) { b.Trip(ctx, "test") },
				[]any{plainInfo, retryIn(time.Second)},
			},
			{breaker.ReasonHalfOpen, "half_open", breaker.Config{}, func(t *testing.T, b *breaker.Breaker) {
				t.Helper()
				b.Trip(ctx, "test")
				time.Sleep(time.Hour)
				if p, err := b.Acquire(ctx); err != nil || !p.IsProbe() {
					t.Fatalf("no probe: %v", err)
				}
			}, []any{plainInfo}},
			{breaker.ReasonForced, "forced", breaker.Config{}, func(t *testing.T, b *breaker.Breaker) {
				t.Helper()
				if err := b.SetOverride(ctx, breaker.Override{Mode: breaker.ForceOpen, Why: "test", By: "test"}); err != nil {
					t.Fatal(err)
				}
			}, []any{plainInfo}},
			{breaker.ReasonConcurrency, "concurrency", breaker.Config{MaxConcurrent: 1}, func(t *testing.T, b *breaker.Breaker) {
				t.Helper()
				if _, err := b.Acquire(ctx); err != nil {
					t.Fatal(err)
				}
			}, []any{plainInfo}},
		} {
			g := newGuard(t, tt.cfg)
			tt.prepare(t, g.Group().Get(methodKey))
			err := rejected(t, (&calls{guard: g}).call(ctx, nil))
			if err.Reason != tt.reason {
				t.Errorf("reason %v, want %v", err.Reason, tt.reason)
			}
			if got, want := status.Convert(err).Message(), "circuit breaker rejected the call: "+tt.message; got != want {
				t.Errorf("the message is %q, want %q", got, want)
			}
			wantCode(t, tt.message, err, codes.Unavailable)
			wantDetails(t, tt.message, err, tt.want...)
		}
	})
}

func TestG08_RejectionCode(t *testing.T) {
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		g := newGuard(t, breaker.Config{OpenFor: time.Hour}, WithRejectionCode(c))
		err := rejectionOf(t, g)
		wantCode(t, "WithRejectionCode", err, c)
		if got := codeOf(err); got != c {
			t.Errorf("codeOf: %v, want %v", got, c)
		}
		if !IsRejected(err) || !IsRejected(overTheWire(t, err)) {
			t.Errorf("IsRejected(%v) is false, want true", c)
		}
	}
}

// overTheWire returns the error that a client gets if a server returns err.
func overTheWire(t *testing.T, err error) error {
	t.Helper()
	st, _ := status.FromError(err)
	wire, marshalErr := proto.Marshal(st.Proto())
	if marshalErr != nil {
		t.Fatalf("%v does not marshal: %v", err, marshalErr)
	}
	p := new(spb.Status)
	if err := proto.Unmarshal(wire, p); err != nil {
		t.Fatal(err)
	}
	return status.ErrorProto(p)
}

func TestG08_NoNamesByDefault(t *testing.T) {
	key := breaker.Key{Target: "TARGET", Service: "SERVICE", Method: "METHOD", Tag: "TAG"}
	withKey := WithKey(func(context.Context, keyfunc.Call) breaker.Key { return key })
	wire := func(opts ...Option) string {
		g := newGuard(t, breaker.Config{OpenFor: time.Hour}, append(opts, withKey)...)
		g.Group().Get(key).Trip(t.Context(), "WHY")
		b, err := proto.Marshal(status.Convert(rejected(t, (&calls{guard: g}).call(t.Context(), nil))).Proto())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	plain, detailed := wire(), wire(WithRejectionDetails())
	for _, name := range []string{"TARGET", "SERVICE", "METHOD", "TAG"} {
		if strings.Contains(plain, name) {
			t.Errorf("the status names %s without WithRejectionDetails: %q", name, plain)
		}
		if !strings.Contains(detailed, name) {
			t.Errorf("the status does not name %s with WithRejectionDetails: %q", name, detailed)
		}
	}
}

func TestG08_Details(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{}, WithRejectionDetails())
		err := rejectionOf(t, g)
		wantDetails(t, "WithRejectionDetails", err, &errdetails.ErrorInfo{
			Reason: ErrorReason, Domain: ErrorDomain, Metadata: map[string]string{
				"target": "", "service": "pkg.Service", "method": "Method", "tag": "", "state": "open", "reason": "open",
			},
		}, retryIn(time.Second))
		want := "circuit breaker open for pkg.Service/Method: test; next probe in 1s"
		if got := status.Convert(err).Message(); got != want {
			t.Errorf("the message is %q, want %q", got, want)
		}
	})
}

// A key is any string, but a protobuf string must be valid UTF-8. The status must still have its details.
func TestG08_DetailsOfAnInvalidUTF8Key(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const method = "/pkg.S\xffrvice/M\xfethod"
		g := newGuard(t, breaker.Config{}, WithRejectionDetails(), WithKey(keyfunc.Method))
		call := func() error { return g.Unary(t.Context(), method, nil, nil, nil, returnsAtOnce, Tag("t\xfdg")) }
		if err := call(); err != nil {
			t.Fatal(err)
		}
		onlyBreaker(t, g).Trip(t.Context(), "test")
		err := call()
		wantCode(t, "rejection", err, codes.Unavailable)
		details := status.Convert(err).Details()
		if len(details) != 2 {
			t.Fatalf("the status has %d details (%v), want ErrorInfo and RetryInfo", len(details), details)
		}
		if info, ok := details[0].(*errdetails.ErrorInfo); !ok || info.GetReason() != ErrorReason ||
			info.GetDomain() != ErrorDomain {
			t.Errorf("the first detail is %v, want an ErrorInfo of a rejection", details[0])
		}
		if diff := cmp.Diff(retryIn(time.Second), details[1], protocmp.Transform()); diff != "" {
			t.Errorf("the second detail (-want +got):\n%s", diff)
		}
		if !IsRejected(overTheWire(t, err)) {
			t.Error("a remote hop would not recognise the rejection")
		}
	})
}

// The same over a real server: a handler returns the rejection, and its client gets it.
func TestG08_RejectionThroughAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newGuard(t, breaker.Config{OpenFor: 30 * time.Second})
		err := rejectionOf(t, inner)
		srv := new(testpb.Server)
		srv.Set(failing(err))
		_, got := testpb.NewTestClient(testpb.Bufconn(t, srv)).Unary(t.Context(), &testpb.Request{})
		wantCode(t, "the client of the server", got, codes.Unavailable)
		wantDetails(t, "the client of the server", got, plainInfo, retryIn(30*time.Second))
		if !IsRejected(got) {
			t.Errorf("IsRejected(%v) is false, want true", got)
		}
		if errors.Is(got, breaker.ErrRejected) {
			t.Error("the error of a remote hop matches breaker.ErrRejected")
		}
	})
}

// A test of a user makes a rejection for a fake client. Its status is an error, and the functions of this package
// treat it as a rejection.
func TestG08_RejectionMadeByATest(t *testing.T) {
	err := &RejectedError{RejectedError: &breaker.RejectedError{State: breaker.Open, Reason: breaker.ReasonOpen}}
	if code := status.Code(err); code != codes.Unavailable || !IsRejected(err) || Retriable(err) {
		t.Errorf("got code %v, rejected %v, retriable %v; want Unavailable, true and false", code, IsRejected(err),
			Retriable(err))
	}
	if remote := status.Convert(err).Err(); !IsRejected(remote) {
		t.Errorf("its status is not recognised as a rejection: %v", remote)
	}
}

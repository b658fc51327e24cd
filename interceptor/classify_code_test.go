package interceptor

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// classOf is rule G2, written independently of the code, for calls that reached the peer through an interceptor (G3).
func classOf(c codes.Code) breaker.Outcome {
	switch c {
	case codes.OK, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied,
		codes.Unauthenticated,
		codes.FailedPrecondition, codes.Aborted, codes.OutOfRange, codes.Unimplemented:
		return breaker.Success
	case codes.Canceled:
		return breaker.Ignored
	case codes.ResourceExhausted:
		return breaker.Overload
	case codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.Unknown, codes.DataLoss:
		return breaker.Failure
	}
	return breaker.Failure // above 16
}

var everyCode = []codes.Code{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 77, 1<<32 - 1}

// A table indexed by code would panic beyond 16.
func TestG02_CodeTable(t *testing.T) {
	for _, c := range everyCode {
		r := Result{Err: status.Error(c, "x"), Code: c}
		if got := DefaultClassifier(t.Context(), r); got != classOf(c) {
			t.Errorf("%v: %v, want %v", c, got, classOf(c))
		}
		g := newGuard(t, breaker.Config{})
		if err := (&calls{guard: g}).call(t.Context(), status.Error(c, "x")); status.Code(err) != c {
			t.Errorf("%v became %v", c, err)
		}
		wantTally(t, c.String(), g, one(classOf(c)))
	}
}

// The same codes, from a real server.
func TestG02_CodesOfAServer(t *testing.T) {
	for _, opts := range [][]Option{nil, {WithPeerEvidence()}} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, breaker.Config{ConsecutiveFailures: -1}, append(opts, WithKey(oneKey))...)
			s := newScene(t, g, "")
			var want tally
			for _, c := range everyCode {
				if c == codes.OK || c == 1<<32-1 {
					continue // no server can send these as errors
				}
				s.srv.Set(failing(status.Error(c, "from the server")))
				wantCode(t, "the caller", s.plain(), c)
				o := one(classOf(c))
				want.Success += o.Success
				want.Failure += o.Failure
				want.Overload += o.Overload
				want.Ignored += o.Ignored
				wantTally(t, c.String(), g, want)
			}
			if want.Success != 9 || want.Failure != 10 || want.Overload != 1 || want.Ignored != 1 {
				t.Errorf("the codes do not cover all outcomes: %+v", want)
			}
		})
	}
}

// An interceptor between the guard and grpc returned an error with status OK. The peer has answered.
func TestG02_ErrorWithStatusOK(t *testing.T) {
	g := newGuard(t, breaker.Config{})
	own := okError{}
	if err := (&calls{guard: g}).call(t.Context(), own); err != error(own) { //nolint:errorlint // the same value
		t.Errorf("got %v, want %v", err, own)
	}
	wantTally(t, "status OK", g, one(breaker.Success))
}

type okError struct{}

func (okError) Error() string              { return "an error with status OK" }
func (okError) GRPCStatus() *status.Status { return status.New(codes.OK, "") }

type nilStatusError struct{}

func (nilStatusError) Error() string              { return "a status that is nil" }
func (nilStatusError) GRPCStatus() *status.Status { return nil }

// Canceled calls neither open a breaker nor close one, however many there are.
func TestG03_CanceledCallsDecideNothing(t *testing.T) {
	g := newGuard(t, breaker.Config{})
	c := &calls{guard: g}
	for range 1000 {
		_ = c.call(t.Context(), status.Error(codes.Canceled, "context canceled"))
	}
	wantTally(t, "1000 canceled calls", g, tally{Ignored: 1000})
	wantState(t, "1000 canceled calls", g, breaker.Closed)
	if got := onlyBreaker(t, g).Snapshot().Window.Calls(); got != 0 {
		t.Errorf("%d calls in the window, want 0", got)
	}
}

// G3: a call that ends because the caller closed the connection shows nothing about the backend. grpc usually returns
// Canceled, and Unavailable if the transport was closed first.
func TestG03_ConnectionClosedByTheCaller(t *testing.T) {
	open, err := grpc.NewClient("passthrough:///open", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	shut, err := grpc.NewClient("passthrough:///shut", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	_ = shut.Close()
	for _, c := range everyCode {
		for _, tt := range []struct {
			name   string
			cc     *grpc.ClientConn
			closed bool
		}{{"open", open, false}, {"closed", shut, true}, {"none", nil, false}} {
			var got Result
			classify := WithClassifier(func(ctx context.Context, r Result) breaker.Outcome {
				got = r
				return DefaultClassifier(ctx, r)
			})
			for _, opts := range [][]Option{nil, {WithPeerEvidence()}, {classify}} {
				g := newGuard(t, breaker.Config{}, opts...)
				_ = g.Unary(t.Context(), fullMethod, nil, nil, tt.cc, takes(0, status.Error(c, "x")))
				want := classOf(c)
				if tt.closed && c == codes.Unavailable {
					want = breaker.Ignored
				}
				wantTally(t, c.String()+", connection "+tt.name, g, one(want))
			}
			if want := tt.closed && c != codes.OK; got.Closed != want {
				t.Errorf("%v, connection %s: Closed is %v, want %v", c, tt.name, got.Closed, want)
			}
		}
	}
}

// Results that a caller of DefaultClassifier may construct.
func TestG02_ResultByHand(t *testing.T) {
	for _, tt := range []struct {
		r    Result
		want breaker.Outcome
	}{
		{Result{}, breaker.Success},
		{Result{Err: errors.New("x"), Code: codes.Internal}, breaker.Failure},
		{Result{Err: errors.New("x"), Code: codes.ResourceExhausted}, breaker.Overload},
		{Result{Err: errors.New("x"), Code: codes.Unauthenticated}, breaker.Success},
		{Result{Err: down, Code: codes.Unavailable, Closed: true}, breaker.Ignored},
		{Result{Err: down, Code: codes.Unavailable, Peer: PeerUnreached}, breaker.Failure},
		{Result{Err: down, Code: codes.Unavailable, Peer: PeerUnreached, Ready: true}, breaker.Ignored},
		{Result{Err: down, Code: codes.NotFound, Peer: PeerUnreached}, breaker.Ignored},
		{Result{Err: errors.New("x"), Code: codes.DeadlineExceeded, Peer: PeerUnreached, Ready: true}, breaker.Ignored},
		{Result{Err: down, Code: codes.Unavailable, ShortBudget: true}, breaker.Failure},
	} {
		if got := DefaultClassifier(t.Context(), tt.r); got != tt.want {
			t.Errorf("%+v: %v, want %v", tt.r, got, tt.want)
		}
	}
}

// S2: the table of how a stream ends, its age, and whether it was answered. DefaultClassifier needs only the Result and
// the context (S15).
func TestS02_TableByHand(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	expired, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	const s, f, i, o = breaker.Success, breaker.Failure, breaker.Ignored, breaker.Overload
	rst := "stream terminated by RST_STREAM with error code: CANCEL"
	for _, tt := range []struct {
		name string
		ctx  context.Context
		r    Result
		want [4]breaker.Outcome // young, not answered; old, not answered; young, answered; long-lived
	}{
		{"OK", t.Context(), Result{}, [4]breaker.Outcome{s, s, s, s}},
		{"NotFound", t.Context(), Result{Code: codes.NotFound}, [4]breaker.Outcome{s, s, s, s}},
		{"the caller cancels", canceled, Result{Code: codes.Canceled}, [4]breaker.Outcome{i, i, s, s}},
		{
			"the caller closes the connection", t.Context(),
			Result{Code: codes.Canceled, Closed: true},
			[4]breaker.Outcome{i, i, s, s},
		},
		{
			"the caller closes the connection, the transport is closed first", t.Context(),
			Result{Code: codes.Unavailable, Closed: true},
			[4]breaker.Outcome{i, i, s, s},
		},
		{"the caller's time is up", expired, Result{Code: codes.DeadlineExceeded}, [4]breaker.Outcome{f, f, f, s}},
		{"Unavailable", t.Context(), Result{Code: codes.Unavailable}, [4]breaker.Outcome{f, i, f, s}},
		{
			"Unavailable, and the caller's time is up", expired,
			Result{Code: codes.Unavailable},
			[4]breaker.Outcome{f, i, f, s},
		},
		{"Canceled by the peer", t.Context(), Result{Code: codes.Canceled, Direct: true}, [4]breaker.Outcome{f, i, f, s}},
		{
			"Canceled by the peer's reset", t.Context(),
			Result{Code: codes.Canceled, Err: status.Error(codes.Canceled, rst)},
			[4]breaker.Outcome{f, i, f, s},
		},
		{"Canceled by whoever stands between", t.Context(), Result{Code: codes.Canceled}, [4]breaker.Outcome{i, i, i, i}},
		{"ResourceExhausted", t.Context(), Result{Code: codes.ResourceExhausted}, [4]breaker.Outcome{o, o, o, o}},
		{"Internal", t.Context(), Result{Code: codes.Internal}, [4]breaker.Outcome{f, f, f, f}},
		{"Unknown", t.Context(), Result{Code: codes.Unknown}, [4]breaker.Outcome{f, f, f, f}},
		{"DataLoss", t.Context(), Result{Code: codes.DataLoss}, [4]breaker.Outcome{f, f, f, f}},
		{"a code above 16", t.Context(), Result{Code: 77}, [4]breaker.Outcome{f, f, f, f}},
		{
			"DeadlineExceeded with time left", t.Context(),
			Result{Code: codes.DeadlineExceeded},
			[4]breaker.Outcome{f, f, f, f},
		},
	} {
		for column, want := range tt.want {
			r := tt.r
			r.Old, r.Answered = column&1 != 0, column&2 != 0
			if r.Code != codes.OK && r.Err == nil {
				r.Err = status.Error(r.Code, "for the test")
			}
			if got := DefaultClassifier(tt.ctx, r); got != want {
				t.Errorf("%s; old: %v, answered: %v: %v, want %v", tt.name, r.Old, r.Answered, got, want)
			}
		}
	}
}

func TestG06_ErrorsThatAreNotStatuses(t *testing.T) {
	unavailable := status.Error(codes.Unavailable, "x")
	for _, tt := range []struct {
		name string
		err  error
		code codes.Code
		want breaker.Outcome
	}{
		{"status", unavailable, codes.Unavailable, breaker.Failure},
		{"wrapped once", fmt.Errorf("a: %w", unavailable), codes.Unavailable, breaker.Failure},
		{"wrapped twice", fmt.Errorf("a: %w", fmt.Errorf("b: %w", unavailable)), codes.Unavailable, breaker.Failure},
		{"wrapped NotFound", fmt.Errorf("a: %w", status.Error(codes.NotFound, "x")), codes.NotFound, breaker.Success},
		{"wrapped Canceled", fmt.Errorf("a: %w", status.Error(codes.Canceled, "x")), codes.Canceled, breaker.Ignored},
		{
			"wrapped by two", fmt.Errorf("%w and %w", errors.New("a"), status.Error(codes.NotFound, "x")), codes.NotFound,
			breaker.Success,
		},
		{"joined", errors.Join(errors.New("a"), status.Error(codes.NotFound, "x")), codes.NotFound, breaker.Success},
		{
			"joined, two statuses", errors.Join(status.Error(codes.NotFound, "x"), unavailable), codes.NotFound,
			breaker.Success,
		},
		{"context.Canceled", context.Canceled, codes.Canceled, breaker.Ignored},
		{"context.Canceled, wrapped", fmt.Errorf("a: %w", context.Canceled), codes.Canceled, breaker.Ignored},
		{"context.DeadlineExceeded", context.DeadlineExceeded, codes.DeadlineExceeded, breaker.Failure},
		{
			"context.DeadlineExceeded, wrapped", fmt.Errorf("a: %w", context.DeadlineExceeded), codes.DeadlineExceeded,
			breaker.Failure,
		},
		{"a status before a context error", errors.Join(context.Canceled, unavailable), codes.Unavailable, breaker.Failure},
		{"plain", errors.New("x"), codes.Unknown, breaker.Failure},
		//nolint:errorlint // on purpose
		{"wrapped by text only", fmt.Errorf("a: %v", unavailable), codes.Unknown, breaker.Failure},
		{"a nil status", nilStatusError{}, codes.Unknown, breaker.Failure},
		{"a nil status, wrapped", fmt.Errorf("a: %w", nilStatusError{}), codes.Unknown, breaker.Failure},
		{
			"a nil status, joined with a context error", errors.Join(nilStatusError{}, context.Canceled), codes.Canceled,
			breaker.Ignored,
		},
	} {
		var seen Result
		g := newGuard(t, breaker.Config{}, WithClassifier(func(ctx context.Context, r Result) breaker.Outcome {
			seen = r
			return DefaultClassifier(ctx, r)
		}))
		if err := (&calls{guard: g}).call(t.Context(), tt.err); err != tt.err { //nolint:errorlint // the same value
			t.Errorf("%s: the caller got %v, want %v", tt.name, err, tt.err)
		}
		if seen.Code != tt.code || seen.Err != tt.err { //nolint:errorlint // the same value
			t.Errorf("%s: the classifier got %v of %v, want %v of %v", tt.name, seen.Code, seen.Err, tt.code, tt.err)
		}
		wantTally(t, tt.name, g, one(tt.want))
	}
}

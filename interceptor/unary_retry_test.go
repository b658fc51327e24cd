package interceptor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// retryThree returns go-grpc-middleware's retry with three attempts, and one second before each but the first.
func retryThree(opts ...retry.CallOption) grpc.DialOption {
	opts = append([]retry.CallOption{retry.WithMax(3), retry.WithBackoff(retry.BackoffLinear(time.Second))}, opts...)
	return grpc.WithChainUnaryInterceptor(retry.UnaryClientInterceptor(opts...))
}

// TestG10_OrderOfGuardAndRetry has the guard inside and outside of the retries.
func TestG10_OrderOfGuardAndRetry(t *testing.T) {
	const (
		outside = true // the guard is outside the retries
		inside  = false
	)
	retriable := retry.WithRetriable(Retriable)
	for _, tt := range []struct {
		name  string
		guard bool
		retry []grpc.DialOption
		open  bool // the breaker is open; otherwise the server fails this many times
		fails int
		code  codes.Code
		calls int // calls that reach the server
		want  tally
		takes time.Duration
	}{
		{
			"outside, server down", outside,
			[]grpc.DialOption{retryThree()},
			false, 9, codes.Unavailable, 3,
			tally{Failure: 1},
			2 * time.Second,
		},
		{
			"outside, two fail", outside,
			[]grpc.DialOption{retryThree()},
			false, 2, codes.OK, 3,
			tally{Success: 1},
			2 * time.Second,
		},
		{
			"inside, server down", inside,
			[]grpc.DialOption{retryThree()},
			false, 9, codes.Unavailable, 3,
			tally{Failure: 3},
			2 * time.Second,
		},
		{
			"inside, two fail", inside,
			[]grpc.DialOption{retryThree()},
			false, 2, codes.OK, 3,
			tally{Success: 1, Failure: 2},
			2 * time.Second,
		},
		{
			"inside, Retriable, server down", inside,
			[]grpc.DialOption{retryThree(retriable)},
			false, 9,
			codes.Unavailable, 3,
			tally{Failure: 3},
			2 * time.Second,
		},
		{
			"inside, no retries", inside,
			[]grpc.DialOption{retryThree(retry.Disable())},
			false, 9, codes.Unavailable, 1,
			tally{Failure: 1},
			0,
		},
		{
			"service config, server down", outside,
			[]grpc.DialOption{retries},
			false, 9, codes.Unavailable, 4,
			tally{Failure: 1},
			-1,
		},
		{"service config, three fail", outside, []grpc.DialOption{retries}, false, 3, codes.OK, 4, tally{Success: 1}, -1},
		{
			"service config, disabled", outside,
			[]grpc.DialOption{retries, grpc.WithDisableRetry()},
			false, 9,
			codes.Unavailable, 1,
			tally{Failure: 1},
			0,
		},
		{"open, outside", outside, []grpc.DialOption{retryThree()}, true, 0, codes.Unavailable, 0, tally{Rejected: 1}, 0},
		// Retriable ends the retries at a rejection.
		{
			"open, inside", inside,
			[]grpc.DialOption{retryThree()},
			true, 0, codes.Unavailable, 0,
			tally{Rejected: 3},
			2 * time.Second,
		},
		{
			"open, inside, Retriable", inside,
			[]grpc.DialOption{retryThree(retriable)},
			true, 0, codes.Unavailable, 0,
			tally{Rejected: 1},
			0,
		},
		{"open, service config", outside, []grpc.DialOption{retries}, true, 0, codes.Unavailable, 0, tally{Rejected: 1}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, breaker.Config{ConsecutiveFailures: 4, OpenFor: time.Hour, MaxOpenFor: time.Hour}, WithKey(oneKey))
			srv := new(testpb.Server)
			srv.Set(firstFail(tt.fails, down))
			opts := append(g.DialOptions(), tt.retry...)
			if tt.guard == inside {
				opts = append(append([]grpc.DialOption{}, tt.retry...), g.DialOptions()...)
			}
			client := testpb.NewTestClient(testpb.Bufconn(t, srv, opts...))
			if tt.open {
				g.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
			}
			start := time.Now()
			_, err := client.Unary(t.Context(), &testpb.Request{})
			wantCode(t, tt.name, err, tt.code)
			if got := IsRejected(err); got != tt.open {
				t.Errorf("%s: IsRejected is %v, want %v", tt.name, got, tt.open)
			}
			if got := srv.Total(); got != tt.calls {
				t.Errorf("%s: %d calls reached the server, want %d", tt.name, got, tt.calls)
			}
			if got := time.Since(start); tt.takes >= 0 && got != tt.takes {
				t.Errorf("%s: it took %v, want %v", tt.name, got, tt.takes)
			}
			wantTally(t, tt.name, g, tt.want)
		})
	}
}

// G10: an attempt reaches the timeout of the retry interceptor. With retry outside, the guard gets a context that is
// done; with retry inside, one that is not. In both cases it is a failure of the backend.
func TestG10_TimeoutOfAnAttempt(t *testing.T) {
	for _, tt := range []struct {
		name   string
		inside bool
		want   tally
	}{
		{"outside", false, tally{Failure: 1}},
		{"inside", true, tally{Failure: 3}},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, breaker.Config{}, WithKey(oneKey))
			srv := new(testpb.Server)
			srv.Set(silent)
			opts := append(g.DialOptions(), retryThree(retry.WithPerRetryTimeout(time.Second)))
			if tt.inside {
				opts = append([]grpc.DialOption{retryThree(retry.WithPerRetryTimeout(time.Second))}, g.DialOptions()...)
			}
			_, err := testpb.NewTestClient(testpb.Bufconn(t, srv, opts...)).Unary(t.Context(), &testpb.Request{})
			wantCode(t, tt.name, err, codes.DeadlineExceeded)
			wantTally(t, tt.name, g, tt.want)
		})
	}
}

// G10: the breaker opens during the retries, and they end.
func TestG10_OpensBetweenAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{ConsecutiveFailures: 2, OpenFor: time.Hour, MaxOpenFor: time.Hour}, WithKey(oneKey))
		srv := new(testpb.Server)
		srv.Set(failing(down))
		opts := append([]grpc.DialOption{retryThree(retry.WithRetriable(Retriable))}, g.DialOptions()...)
		_, err := testpb.NewTestClient(testpb.Bufconn(t, srv, opts...)).Unary(t.Context(), &testpb.Request{})
		if !IsRejected(err) || srv.Total() != 2 {
			t.Errorf("got %v after %d calls, want a rejection after 2", err, srv.Total())
		}
		wantTally(t, "opened by a retry", g, tally{Failure: 2, Rejected: 1})
	})
}

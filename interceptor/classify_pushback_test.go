package interceptor

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

const pushbackKey = "grpc-retry-pushback-ms"

// pushingBack returns a script that fails with err and has a pushback in the trailer.
func pushingBack(err error, values ...string) testpb.Script {
	return testpb.Script{OnUnary: func(ctx context.Context, _ *testpb.Request) (*testpb.Response, error) {
		if values != nil {
			_ = grpc.SetTrailer(ctx, metadata.MD{pushbackKey: values})
		}
		return nil, err
	}}
}

// pushbackConfig opens on the second failure or overload, for one second. A pushback may extend that to one minute
// (B18).
var pushbackConfig = breaker.Config{
	ConsecutiveFailures: 2, FailureRatio: 1, MinCalls: 2, OpenFor: time.Second, MaxOpenFor: 10 * time.Second, Backoff: 1,
}

type pushback struct {
	name   string
	err    error
	values []string
	want   time.Duration // of the open period
}

func pushbacks(t *testing.T) []pushback {
	t.Helper()
	withInfo := func(d *durationpb.Duration) error {
		return withDetails(t, codes.Unavailable, "down", &errdetails.RetryInfo{RetryDelay: d})
	}
	return []pushback{
		{"none", down, nil, time.Second},
		{"trailer", down, []string{"2500"}, 2500 * time.Millisecond},
		{"trailer, less than OpenFor", down, []string{"500"}, time.Second},
		{"trailer, more than MaxOpenFor", down, []string{"30000"}, 30 * time.Second},
		{"trailer, more than a minute", down, []string{"2147483647"}, time.Minute},
		{"trailer, too long a number", down, []string{"99999999999999999999"}, time.Second},
		{"trailer, beyond 32 bits", down, []string{"4294967296"}, time.Second},
		{"trailer, zero", down, []string{"0"}, time.Second},
		{"trailer, negative", down, []string{"-1"}, time.Second},
		{"trailer, very negative", down, []string{"-2147483648"}, time.Second},
		{"trailer, empty", down, []string{""}, time.Second},
		{"trailer, a fraction", down, []string{"2500.5"}, time.Second},
		{"trailer, a unit", down, []string{"2500ms"}, time.Second},
		{"trailer, twice", down, []string{"2500", "2500"}, time.Second},
		{"RetryInfo", withInfo(durationpb.New(3 * time.Second)), nil, 3 * time.Second},
		{"RetryInfo, negative", withInfo(durationpb.New(-3 * time.Second)), nil, time.Second},
		{"RetryInfo, without delay", withInfo(nil), nil, time.Second},
		{"RetryInfo, invalid", withInfo(&durationpb.Duration{Seconds: 5, Nanos: -1}), nil, time.Second},
		{"RetryInfo, ten thousand years", withInfo(&durationpb.Duration{Seconds: 315_576_000_000}), nil, time.Minute},
		{"RetryInfo, wrapped", wrapped(withInfo(durationpb.New(3 * time.Second))), nil, 3 * time.Second},
		{"both, trailer longer", withInfo(durationpb.New(3 * time.Second)), []string{"4000"}, 4 * time.Second},
		{"both, RetryInfo longer", withInfo(durationpb.New(3 * time.Second)), []string{"2500"}, 3 * time.Second},
		{"both, trailer negative", withInfo(durationpb.New(3 * time.Second)), []string{"-1"}, 3 * time.Second},
	}
}

func wantOpenFor(t *testing.T, what string, g *Guard, want time.Duration) {
	t.Helper()
	s := onlyBreaker(t, g).Snapshot()
	if s.State != breaker.Open || s.RetryAfter != want {
		t.Errorf("%s: the breaker is %v for %v, want open for %v", what, s.State, s.RetryAfter, want)
	}
}

func TestG09_PushbackOnTheFailureThatOpens(t *testing.T) {
	for _, tt := range pushbacks(t) {
		for _, opts := range [][]Option{nil, {WithPeerEvidence()}, {WithClassifier(DefaultClassifier)}} {
			synctest.Test(t, func(t *testing.T) {
				g := newGuard(t, pushbackConfig, append(opts, WithKey(oneKey))...)
				s := newDirectScene(t, g, "")
				s.srv.Set(pushingBack(tt.err, tt.values...))
				_ = s.plain()
				wantState(t, tt.name+", after one failure", g, breaker.Closed)
				_ = s.plain()
				wantOpenFor(t, tt.name, g, tt.want)
			})
		}
	}
}

func TestG09_PushbackOnAFailedProbe(t *testing.T) {
	for _, tt := range pushbacks(t) {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, pushbackConfig, WithKey(oneKey))
			s := newDirectScene(t, g, "")
			g.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
			time.Sleep(time.Second)
			s.srv.Set(pushingBack(tt.err, tt.values...))
			_ = s.plain()
			wantOpenFor(t, tt.name, g, tt.want)
		})
	}
}

// A pushback is most likely from an overloaded server.
func TestG09_PushbackOfAnOverload(t *testing.T) {
	busy := withDetails(t, codes.ResourceExhausted, "busy")
	for _, tt := range []pushback{
		{"none", busy, nil, time.Second},
		{"RetryInfo", withDetails(t, codes.ResourceExhausted, "busy", retryIn(3*time.Second)), nil, 3 * time.Second},
		{"trailer", busy, []string{"2500"}, 2500 * time.Millisecond},
	} {
		for name, opts := range map[string][]Option{"default": nil, "evidence": {WithPeerEvidence()}} {
			synctest.Test(t, func(t *testing.T) {
				g := newGuard(t, pushbackConfig, append(opts, WithKey(oneKey))...)
				s := newDirectScene(t, g, "")
				s.srv.Set(pushingBack(tt.err, tt.values...))
				for range 2 {
					_ = s.plain()
				}
				wantOpenFor(t, tt.name+", "+name, g, tt.want)
			})
		}
	}
}

// The guard reads the trailer of a unary call in doubt, and with WithPeerEvidence that of each call. If one failure
// opens the breaker, each call is in doubt. The guard always reads RetryInfo.
func TestG09_PushbackOnTheFirstFailure(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts []Option
		pushback
	}{
		{"default", nil, pushback{"trailer", down, []string{"2500"}, 2500 * time.Millisecond}},
		{"default", nil, pushback{
			"RetryInfo", withDetails(t, codes.Unavailable, "", retryIn(3*time.Second)), nil,
			3 * time.Second,
		}},
		{"evidence", []Option{WithPeerEvidence()}, pushback{"trailer", down, []string{"2500"}, 2500 * time.Millisecond}},
	} {
		synctest.Test(t, func(t *testing.T) {
			cfg := pushbackConfig
			cfg.ConsecutiveFailures = 1
			g := newGuard(t, cfg, append(tt.opts, WithKey(oneKey))...)
			s := newDirectScene(t, g, "")
			s.srv.Set(pushingBack(tt.err, tt.values...))
			_ = s.plain()
			wantOpenFor(t, tt.name+", "+tt.pushback.name, g, tt.want)
		})
	}
}

// With an interceptor between, the guard requests the trailer only with WithPeerEvidence. Otherwise it does not see a
// pushback in the trailer, also not that of a probe. It always sees RetryInfo.
func TestG09_PushbackThroughAnInterceptor(t *testing.T) {
	withInfo := withDetails(t, codes.Unavailable, "down", retryIn(3*time.Second))
	for _, tt := range []struct {
		name string
		opts []Option
		pushback
	}{
		{"default", nil, pushback{"trailer", down, []string{"2500"}, time.Second}},
		{"default", nil, pushback{"both", withInfo, []string{"4000"}, 3 * time.Second}},
		{"evidence", []Option{WithPeerEvidence()}, pushback{"trailer", down, []string{"2500"}, 2500 * time.Millisecond}},
		{"evidence", []Option{WithPeerEvidence()}, pushback{"both", withInfo, []string{"4000"}, 4 * time.Second}},
	} {
		for _, probe := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				g := newGuard(t, pushbackConfig, append(tt.opts, WithKey(oneKey))...)
				s := newScene(t, g, "")
				s.srv.Set(pushingBack(tt.err, tt.values...))
				if probe {
					g.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
					time.Sleep(time.Second)
				} else {
					_ = s.plain()
				}
				_ = s.plain()
				wantOpenFor(t, fmt.Sprintf("%s, %s, probe: %v", tt.name, tt.pushback.name, probe), g, tt.want)
			})
		}
	}
}

// A pushback of a failure that does not open the breaker has no effect, nor has that of a call that is not a failure.
func TestG09_PushbackElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, pushbackConfig, WithKey(oneKey), WithPeerEvidence())
		s := newDirectScene(t, g, "")
		s.srv.Set(pushingBack(down, "30000"))
		_ = s.plain()
		s.srv.Set(pushingBack(withDetails(t, codes.NotFound, "", retryIn(time.Minute)), "30000"))
		_ = s.plain()
		s.srv.Set(failing(down))
		for range 2 {
			_ = s.plain()
		}
		wantOpenFor(t, "after an earlier pushback", g, time.Second)
	})
}

package interceptor

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// inBackoff returns a connection that has failed and waits at least one minute before it dials again, and its backend.
func inBackoff(t *testing.T, g *Guard) (*testpb.Backend, *grpc.ClientConn) {
	t.Helper()
	backend := testpb.StartBufconn(t, new(testpb.Server))
	cc := backend.Dial(t, g.DialOptions()...)
	backend.Stop()
	cc.Connect()
	time.Sleep(5 * time.Minute)
	if got := cc.GetState(); got != connectivity.TransientFailure {
		t.Fatalf("the channel is %v, want TRANSIENT_FAILURE", got)
	}
	return backend, cc
}

// G14: without the option, a fail-fast probe fails although the backend has recovered. With it, the probe connects. The
// same applies to streams.
func TestG14_ProbeConnects(t *testing.T) {
	for name, call := range map[string]func(context.Context, testpb.TestClient) error{
		"unary": func(ctx context.Context, c testpb.TestClient) error {
			_, err := c.Unary(ctx, new(testpb.Request))
			return err
		},
		"stream": func(ctx context.Context, c testpb.TestClient) error {
			s, err := c.ServerStream(ctx, &testpb.Request{Count: 1})
			if err == nil {
				_, err = drain(s)
			}
			return err
		},
	} {
		for _, with := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				opts := []Option{WithKey(oneKey)}
				want, state := codes.Unavailable, breaker.Open
				if with {
					opts = append(opts, WithConnectionReset(time.Second))
					want, state = codes.OK, breaker.Closed
				}
				g := newGuard(t, probeConfig, opts...)
				backend, cc := inBackoff(t, g)
				halfOpen(t, g, breaker.Key{})
				backend.Restart()
				start := time.Now()
				wantCode(t, name, call(t.Context(), testpb.NewTestClient(cc)), want)
				if took := time.Since(start); took > 100*time.Millisecond {
					t.Errorf("%s: the probe took %v", name, took)
				}
				synctest.Wait()
				wantState(t, name, g, state)
			})
		}
	}
}

// G14: the option and the caller's context limit the wait. Calls that are not probes do not wait.
func TestG14_BoundedWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, probeConfig, WithKey(oneKey), WithConnectionReset(3*time.Second))
		_, cc := inBackoff(t, g)
		client := testpb.NewTestClient(cc)
		took := func(ctx context.Context) time.Duration {
			start := time.Now()
			_, err := client.Unary(ctx, new(testpb.Request))
			if err == nil {
				t.Error("a call to a backend that is down succeeds")
			}
			return time.Since(start)
		}
		if got := took(t.Context()); got > 0 {
			t.Errorf("a call that is not a probe waits for %v, want 0", got)
		}
		halfOpen(t, g, breaker.Key{})
		if got := took(t.Context()); got != 3*time.Second {
			t.Errorf("a probe waits for %v, want 3s", got)
		}
		halfOpen(t, g, breaker.Key{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got := took(ctx); got != time.Second {
			t.Errorf("a probe whose caller has one second waits for %v", got)
		}
		wantState(t, "after probes that failed", g, breaker.Open)
	})
}

// G14: the guard does not reset a channel that is not in TRANSIENT_FAILURE. cc may be nil.
func TestG14_NothingToReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, probeConfig, WithKey(oneKey), WithConnectionReset(time.Minute))
		halfOpen(t, g, breaker.Key{})
		if err := g.Unary(t.Context(), fullMethod, nil, nil, nil, returnsAtOnce); err != nil {
			t.Error(err)
		}
		r := newStreamRig(t, g, testpb.Script{})
		for _, state := range []connectivity.State{connectivity.Idle, connectivity.Ready} {
			halfOpen(t, g, breaker.Key{})
			if got := r.conn.GetState(); got != state {
				t.Fatalf("the channel is %v, want %v", got, state)
			}
			start := time.Now()
			_ = mustUnary(t, r)
			if took := time.Since(start); took > 0 {
				t.Errorf("%v: the probe took %v", state, took)
			}
		}
	})
}

func TestG14_Option(t *testing.T) {
	for _, tt := range []struct {
		opt  Option
		want string
	}{
		{WithConnectionReset(0), "interceptor: WithConnectionReset: the wait is 0s, want from 1ms to 1m0s"},
		{WithConnectionReset(-time.Second), "interceptor: WithConnectionReset: the wait is -1s, want from 1ms to 1m0s"},
		{
			WithConnectionReset(time.Minute + 1),
			"interceptor: WithConnectionReset: the wait is 1m0.000000001s, want from 1ms to 1m0s",
		},
		{WithConnectionReset(1), "probably 1*time.Second or 1*time.Millisecond was meant"},
		{WithLongStream(0), "interceptor: WithLongStream: the duration is 0s, want 1ms or more"},
		{WithLongStream(10), "probably 10*time.Second or 10*time.Millisecond was meant"},
	} {
		if _, err := New(nil, tt.opt); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	for _, opt := range []Option{
		WithConnectionReset(time.Millisecond), WithConnectionReset(time.Minute), WithLongStream(time.Millisecond),
	} {
		if _, err := New(nil, opt); err != nil {
			t.Error(err)
		}
	}
}

// B2: the hint for durations that probably lack a unit.
func TestB02_MissingUnit(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "", 0: "", 1: "1*time.Second or 1*time.Millisecond",
		10*time.Microsecond - 1: "9999*time.Second or 9999*time.Millisecond",
		10 * time.Microsecond:   "10000*time.Millisecond", 100*time.Microsecond - 1: "99999*time.Millisecond",
		100 * time.Microsecond: "",
	} {
		if got := missingUnit(d); (got == "") != (want == "") ||
			!strings.HasSuffix(strings.TrimSuffix(got, " was meant"), want) {
			t.Errorf("%d: got %q, want %q", int64(d), got, want)
		}
	}
}

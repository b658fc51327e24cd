package interceptor

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// scene is a connection over real grpc, with a guard and a spy inside it. It lives in a bubble.
type scene struct {
	*testing.T

	srv     *testpb.Server
	backend *testpb.Backend
	cc      *grpc.ClientConn
	client  testpb.TestClient
	guard   *Guard
	spy     *spy
}

// spy is an interceptor between the guard and grpc. Its fields may be read after the calls have ended.
type spy struct {
	mu   sync.Mutex
	runs int
	err  error // of the call that ended last
}

func (s *spy) unary(
	ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker,
	opts ...grpc.CallOption,
) error {
	err := invoker(ctx, method, req, reply, cc, opts...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs++
	s.err = err
	return err
}

// oneKey is a key function that returns the same key for all calls.
func oneKey(context.Context, keyfunc.Call) breaker.Key { return breaker.Key{} }

// newScene returns a scene. It must run in a bubble.
func newScene(t *testing.T, guard *Guard, target string, dial ...grpc.DialOption) *scene {
	t.Helper()
	spy := new(spy)
	s := newDirectScene(t, guard, target, append([]grpc.DialOption{grpc.WithChainUnaryInterceptor(spy.unary)}, dial...)...)
	s.spy = spy
	return s
}

// newDirectScene returns a scene without a spy: grpc is directly below the guard.
func newDirectScene(t *testing.T, guard *Guard, target string, dial ...grpc.DialOption) *scene {
	t.Helper()
	s := &scene{T: t, srv: new(testpb.Server), guard: guard}
	s.backend = testpb.StartBufconn(t, s.srv)
	if target == "" {
		target = s.backend.Target()
	}
	s.cc = s.backend.DialTarget(t, target, append(guard.DialOptions(), dial...)...)
	s.client = testpb.NewTestClient(s.cc)
	return s
}

// plain makes one call.
func (s *scene) plain(opts ...grpc.CallOption) error {
	_, err := s.client.Unary(s.Context(), &testpb.Request{Text: "hello"}, opts...)
	return err
}

// within makes one call that the server does not answer, under a deadline.
func (s *scene) within(d time.Duration, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(s.Context(), d)
	defer cancel()
	_, err := s.client.Unary(ctx, &testpb.Request{}, opts...)
	return err
}

// inFlight makes one call that the server does not answer, runs during while the call runs, and returns the error of
// the call.
func (s *scene) inFlight(during func(cancel context.CancelFunc)) error {
	s.srv.Set(silent)
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := s.client.Unary(ctx, &testpb.Request{})
		ended <- err
	}()
	synctest.Wait()
	during(cancel)
	return <-ended
}

// silent is a script that does not answer unary calls.
var silent = testpb.Script{OnUnary: func(ctx context.Context, _ *testpb.Request) (*testpb.Response, error) {
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}}

// firstFail returns a script that fails the first n calls and answers the others.
func firstFail(n int, err error) testpb.Script {
	return testpb.Script{OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
		if n--; n >= 0 {
			return nil, err
		}
		return &testpb.Response{}, nil
	}}
}

var refused = grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
	return nil, errors.New("connection refused")
})

// retries is a service config with which grpc makes up to four attempts.
var retries = grpc.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "0.1s", "backoffMultiplier": 1,
	"retryableStatusCodes": ["UNAVAILABLE"]}}]}`)

var serviceTimeout = grpc.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "timeout": "0.05s"}]}`)

type unaryEnding struct {
	name   string
	target string            // default: the backend's
	dial   []grpc.DialOption // after the guard's
	call   func(s *scene) error

	code       codes.Code
	want       breaker.Outcome
	notReached bool // the call did not reach the breaker (B24)
}

// unaryEndings are the ways for a unary call to end.
func unaryEndings() []unaryEnding {
	noAddresses := manual.NewBuilderWithScheme("empty")
	noAddresses.InitialState(resolver.State{})
	broken := manual.NewBuilderWithScheme("broken")
	broken.BuildCallback = func(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) {
		cc.ReportError(errors.New("no such host"))
	}
	return []unaryEnding{
		{name: "OK", call: func(s *scene) error { return s.plain() }, code: codes.OK, want: breaker.Success},
		{name: "server status", call: func(s *scene) error {
			s.srv.Set(failing(status.Error(codes.NotFound, "no such thing")))
			return s.plain()
		}, code: codes.NotFound, want: breaker.Success},
		{name: "server down", call: func(s *scene) error {
			s.srv.Set(failing(down))
			return s.plain()
		}, code: codes.Unavailable, want: breaker.Failure},
		{name: "unimplemented", call: func(s *scene) error {
			return s.cc.Invoke(s.Context(), "/grpcircuit.testpb.Test/Nothing", &testpb.Request{}, &testpb.Response{})
		}, code: codes.Unimplemented, want: breaker.Success},

		{name: "ctx canceled before", call: func(s *scene) error {
			ctx, cancel := context.WithCancel(s.Context())
			cancel()
			_, err := s.client.Unary(ctx, &testpb.Request{})
			return err
		}, code: codes.Canceled, notReached: true},
		{
			name: "deadline before", call: func(s *scene) error { return s.within(-time.Second) }, code: codes.DeadlineExceeded,
			notReached: true,
		},
		{name: "cancel in flight", call: func(s *scene) error {
			return s.inFlight(func(cancel context.CancelFunc) { cancel() })
		}, code: codes.Canceled, want: breaker.Ignored},
		{name: "deadline in flight", call: func(s *scene) error {
			s.srv.Set(silent)
			return s.within(time.Second)
		}, code: codes.DeadlineExceeded, want: breaker.Failure},
		{
			name: "service config timeout", dial: []grpc.DialOption{serviceTimeout}, call: func(s *scene) error {
				s.srv.Set(silent)
				return s.plain()
			}, code: codes.DeadlineExceeded, want: breaker.Failure,
		},

		{
			name: "refused", dial: []grpc.DialOption{refused}, call: func(s *scene) error { return s.plain() },
			code: codes.Unavailable, want: breaker.Failure,
		},
		{
			name: "refused, wait for ready", dial: []grpc.DialOption{refused},
			call: func(s *scene) error { return s.within(time.Second, grpc.WaitForReady(true)) },
			code: codes.DeadlineExceeded, want: breaker.Failure,
		},
		{name: "connection closed before", call: func(s *scene) error {
			_ = s.cc.Close()
			return s.plain()
		}, code: codes.Canceled, want: breaker.Ignored},
		{name: "connection closed in flight", call: func(s *scene) error {
			return s.inFlight(func(context.CancelFunc) { _ = s.cc.Close() })
		}, code: codes.Canceled, want: breaker.Ignored},
		{name: "server stopped in flight", call: func(s *scene) error {
			return s.inFlight(func(context.CancelFunc) { s.backend.Stop() })
		}, code: codes.Unavailable, want: breaker.Failure},
		{
			name: "resolver error", target: "broken:///x", dial: []grpc.DialOption{grpc.WithResolvers(broken)},
			call: func(s *scene) error { return s.plain() }, code: codes.Unavailable, want: breaker.Failure,
		},
		{
			name: "no addresses", target: "empty:///x", dial: []grpc.DialOption{grpc.WithResolvers(noAddresses)},
			call: func(s *scene) error { return s.plain() }, code: codes.Unavailable, want: breaker.Failure,
		},

		{name: "invalid metadata", call: func(s *scene) error {
			_, err := s.client.Unary(metadata.AppendToOutgoingContext(s.Context(), "key", "\x01"), &testpb.Request{})
			return err
		}, code: codes.Internal, want: breaker.Ignored},
		{
			name: "unknown compressor", call: func(s *scene) error { return s.plain(grpc.UseCompressor("none such")) },
			code: codes.Internal, want: breaker.Ignored,
		},
		{
			name: "request too large", call: func(s *scene) error { return s.plain(grpc.MaxCallSendMsgSize(1)) },
			code: codes.ResourceExhausted, want: breaker.Ignored,
		},
		{
			name: "response too large", call: func(s *scene) error { return s.plain(grpc.MaxCallRecvMsgSize(1)) },
			code: codes.ResourceExhausted, want: breaker.Success, // the peer has answered (G5)
		},
		{name: "marshal error", call: func(s *scene) error {
			return s.cc.Invoke(s.Context(), testpb.Test_Unary_FullMethodName, "no message", &testpb.Response{})
		}, code: codes.Internal, want: breaker.Ignored},
		{
			name: "credentials error", call: func(s *scene) error {
				return s.plain(grpc.PerRPCCredentials(credentialsOf{err: errors.New("no token")}))
			}, code: codes.Internal, want: breaker.Ignored,
		},

		{name: "grpc retries, then OK", dial: []grpc.DialOption{retries}, call: func(s *scene) error {
			s.srv.Set(firstFail(2, down))
			return s.plain()
		}, code: codes.OK, want: breaker.Success},
		{name: "grpc retries in vain", dial: []grpc.DialOption{retries}, call: func(s *scene) error {
			s.srv.Set(failing(down))
			return s.plain()
		}, code: codes.Unavailable, want: breaker.Failure},
		{
			name: "grpc retries, refused", dial: []grpc.DialOption{retries, refused},
			call: func(s *scene) error { return s.plain() },
			code: codes.Unavailable, want: breaker.Failure,
		},
		{name: "deadline while grpc waits to retry", dial: []grpc.DialOption{retries}, call: func(s *scene) error {
			s.srv.Set(failing(down))
			return s.within(time.Millisecond)
		}, code: codes.DeadlineExceeded, want: breaker.Failure},
		{name: "cancel while grpc waits to retry", dial: []grpc.DialOption{retries}, call: func(s *scene) error {
			s.srv.Set(failing(down))
			ctx, cancel := context.WithCancel(s.Context())
			defer cancel()
			time.AfterFunc(time.Millisecond, cancel)
			_, err := s.client.Unary(ctx, &testpb.Request{})
			return err
		}, code: codes.Canceled, want: breaker.Ignored},
	}
}

// TestG01_EveryEndingSettlesOnce tests each ending on each path through the guard.
func TestG01_EveryEndingSettlesOnce(t *testing.T) {
	for _, way := range []struct {
		name  string
		opts  []Option
		probe bool
	}{
		{name: "plain"},
		{name: "probe", probe: true},
		{name: "evidence", opts: []Option{WithPeerEvidence()}},
		{name: "classifier", opts: []Option{WithClassifier(DefaultClassifier)}},
		{name: "min budget", opts: []Option{WithMinBudget(time.Millisecond)}},
	} {
		for _, e := range unaryEndings() {
			t.Run(way.name+"/"+e.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					rec := new(settlements)
					opts := append([]Option{WithKey(oneKey)}, way.opts...)
					if way.name != "plain" { // a success with the hook Settled takes the longer path
						opts = append(opts, WithHooks(hooksOf(rec)))
					}
					s := newScene(t, newGuard(t, breaker.Config{OpenFor: time.Second}, opts...), e.target, e.dial...)
					if way.probe {
						s.guard.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
						time.Sleep(time.Second)
					}

					err := e.call(s)

					wantCode(t, "the caller", err, e.code)
					if err != s.spy.err || s.spy.runs != 1 { //nolint:errorlint // the same value
						t.Errorf("the caller got %v, the invoker returned %v in %d runs; want the same error and one run", err, s.spy.err,
							s.spy.runs)
					}
					want := one(e.want)
					if e.notReached {
						want = tally{}
					}
					wantTally(t, "after the call", s.guard, want)
					if way.probe {
						wantProbes(t, s.guard, e)
					}
					wantSettled(t, rec, e, way.name == "plain", way.probe)
				})
			})
		}
	}
}

// wantProbes checks that the call was the probe, or did not reach the breaker (B24), and that its slot is free again.
func wantProbes(t *testing.T, g *Guard, e unaryEnding) {
	t.Helper()
	var want breaker.ProbeCounts
	switch {
	case e.notReached:
	case e.want == breaker.Success:
		want.Success = 1
	case e.want == breaker.Ignored:
		want.Ignored = 1
	default:
		want.Failure = 1
	}
	b := onlyBreaker(t, g)
	if diff := cmp.Diff(want, b.Snapshot().Probes); diff != "" {
		t.Errorf("probes (-want +got):\n%s", diff)
	}
	time.Sleep(time.Hour)
	if !b.Snapshot().Ready {
		t.Error("the slot of the probe is still taken")
	}
}

// wantSettled checks that Settled got the call once, or not at all if there are no hooks.
func wantSettled(t *testing.T, rec *settlements, e unaryEnding, none, probe bool) {
	t.Helper()
	var want []Settlement
	if !none && !e.notReached {
		want = []Settlement{{Outcome: e.want, Code: e.code, Probe: probe}}
	}
	got := rec.settled
	for i := range got {
		if d := got[i].Duration; d < 0 || d > time.Minute {
			t.Errorf("the duration of the call is %v", d)
		}
		got[i].Duration = 0
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Settled (-want +got):\n%s", diff)
	}
	if !probe {
		want = nil
	}
	for i := range rec.probed {
		rec.probed[i].Duration = 0
	}
	if diff := cmp.Diff(want, rec.probed); diff != "" {
		t.Errorf("Probed (-want +got):\n%s", diff)
	}
}

// credentialsOf are credentials for a single call.
type credentialsOf struct {
	md     map[string]string
	err    error
	secure bool
}

func (c credentialsOf) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return c.md, c.err
}

func (c credentialsOf) RequireTransportSecurity() bool { return c.secure }

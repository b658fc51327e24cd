//go:build !clockstep

package behaviour

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafegrpc"
	"github.com/failsafe-go/failsafe-go/fallback"
	"github.com/failsafe-go/failsafe-go/timeout"
	aegisbreaker "github.com/go-kratos/aegis/circuitbreaker"
	"github.com/go-kratos/aegis/circuitbreaker/sre"
	kratosbreaker "github.com/go-kratos/kratos/v2/middleware/circuitbreaker"
	kratos "github.com/go-kratos/kratos/v2/transport/grpc"
	"github.com/zeromicro/go-zero/core/breaker"
	"github.com/zeromicro/go-zero/core/logx"
	"github.com/zeromicro/go-zero/zrpc"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	ourbreaker "github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// A dialer makes guarded connections. opts are applied after the guard, so interceptors in them are inside it.
type dialer func(target string, b *testpb.Backend, opts ...grpc.DialOption) *grpc.ClientConn

// grpcClient holds what a library with a gRPC client interceptor has in addition.
type grpcClient struct {
	dialer   func(tb testing.TB, w want) dialer
	rejected func(error) bool
	// fallback returns a dialer with a fallback that calls answer for the unary calls that fail or are rejected.
	fallback func(tb testing.TB, w want, answer func(ctx context.Context) error) dialer
	// retriable is the library's function for a retry interceptor, or nil.
	retriable func(error) bool
}

// grpcLibraries are the columns of the gRPC tables.
var grpcLibraries = []*library{
	{
		name: "grpcircuit gRPC", module: grpcircuit.module,
		form: "interceptor.Guard: unary and stream interceptors, default classifier and keys",
		grpc: &grpcClient{
			dialer: func(tb testing.TB, w want) dialer {
				tb.Helper()
				group, err := ourbreaker.NewGroup(ourConfig(w))
				if err != nil {
					panic(err)
				}
				guard, err := interceptor.New(group)
				if err != nil {
					panic(err)
				}
				return func(target string, b *testpb.Backend, opts ...grpc.DialOption) *grpc.ClientConn {
					return b.DialTarget(tb, target, slices.Concat(guard.DialOptions(), opts)...)
				}
			},
			fallback: func(tb testing.TB, w want, answer func(ctx context.Context) error) dialer {
				tb.Helper()
				group, err := ourbreaker.NewGroup(ourConfig(w))
				if err != nil {
					panic(err)
				}
				handler := interceptor.Fallback(func(ctx context.Context, _ *testpb.Request, _ error) (*testpb.Response, error) {
					return new(testpb.Response), answer(ctx)
				})
				guard, err := interceptor.New(group,
					interceptor.WithFallback(interceptor.ForMethods(testpb.Test_Unary_FullMethodName), handler,
						interceptor.OnFailure()))
				if err != nil {
					panic(err)
				}
				return func(target string, b *testpb.Backend, opts ...grpc.DialOption) *grpc.ClientConn {
					return b.DialTarget(tb, target, slices.Concat(guard.DialOptions(), opts)...)
				}
			},
			rejected: interceptor.IsRejected, retriable: interceptor.Retriable,
		},
	},
	{
		name: "failsafegrpc", module: failsafeGo.module,
		form: "NewUnaryClientInterceptor with one circuitbreaker for each connection; HandleIf with the failure codes " +
			"and WithDelayFunc with RetryInfo, which the user has to write; the timeout policy in G21",
		grpc: &grpcClient{
			dialer: func(tb testing.TB, w want) dialer {
				tb.Helper()
				return func(target string, b *testpb.Backend, opts ...grpc.DialOption) *grpc.ClientConn {
					cb := circuitbreaker.NewBuilder[any]().HandleIf(func(_ any, err error) bool {
						switch status.Code(err) {
						case codes.Unknown, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Internal,
							codes.Unavailable, codes.DataLoss:
							return true
						default:
							return false
						}
					}).WithDelayFunc(func(e failsafe.ExecutionAttempt[any]) time.Duration {
						return max(w.openFor, retryDelay(e.LastError()))
					}).WithFailureRateThreshold(w.ratio, uint(w.minCalls), w.window).WithSuccessThreshold(uint(w.successes)).Build()
					policies := []failsafe.Policy[any]{cb}
					if w.hang > 0 {
						policies = append(policies, timeout.New[any](w.hang))
					}
					guard := grpc.WithChainUnaryInterceptor(failsafegrpc.NewUnaryClientInterceptor(policies...))
					return b.DialTarget(tb, target, append([]grpc.DialOption{guard}, opts...)...)
				}
			},
			fallback: func(tb testing.TB, w want, answer func(ctx context.Context) error) dialer {
				tb.Helper()
				return func(target string, b *testpb.Backend, opts ...grpc.DialOption) *grpc.ClientConn {
					cb := circuitbreaker.NewBuilder[any]().WithFailureRateThreshold(w.ratio, uint(w.minCalls), w.window).Build()
					fb := fallback.NewWithFunc(func(e failsafe.Execution[any]) (any, error) { return nil, answer(e.Context()) })
					guard := grpc.WithChainUnaryInterceptor(failsafegrpc.NewUnaryClientInterceptor[any](fb, cb))
					return b.DialTarget(tb, target, append([]grpc.DialOption{guard}, opts...)...)
				}
			},
			rejected: func(err error) bool { return errors.Is(err, circuitbreaker.ErrOpen) },
		},
		lacks: map[feature]lack{
			hasStreams: cannot("has no stream interceptor, so streams are not guarded"),
		},
	},
	{
		name: "go-zero zrpc", module: goZero.module, form: "zrpc.NewClient with its breaker middleware; it has no settings",
		grpc: &grpcClient{
			dialer: func(tb testing.TB, _ want) dialer {
				tb.Helper()
				logx.Disable()
				return func(target string, b *testpb.Backend, opts ...grpc.DialOption) *grpc.ClientConn {
					options := []zrpc.ClientOption{zrpc.WithDialOption(grpc.WithContextDialer(b.DialContext))}
					for _, o := range opts {
						options = append(options, zrpc.WithDialOption(o))
					}
					client, err := zrpc.NewClient(zrpc.RpcClientConf{
						Target: target, NonBlock: true, Middlewares: zrpc.ClientMiddlewaresConf{Breaker: true}, BalancerName: "p2c_ewma",
					}, options...)
					if err != nil {
						panic(err)
					}
					return client.Conn()
				}
			},
			rejected: func(err error) bool { return errors.Is(err, breaker.ErrServiceUnavailable) },
		},
		lacks: throttle(map[feature]lack{
			hasStreams:  cannot("does not guard streams"),
			hasFallback: notFor("its client has no fallback"),
		}),
	},
	{
		name: "kratos", module: "github.com/go-kratos/kratos/v2",
		form: "transport/grpc with middleware/circuitbreaker on aegis SRE from 20 calls on",
		grpc: &grpcClient{
			dialer: func(tb testing.TB, w want) dialer {
				tb.Helper()
				return func(target string, b *testpb.Backend, opts ...grpc.DialOption) *grpc.ClientConn {
					guard := kratosbreaker.Client(kratosbreaker.WithCircuitBreaker(func() aegisbreaker.CircuitBreaker {
						return sre.NewBreaker(sre.WithRequest(int64(w.minCalls)))
					}))
					conn, err := kratos.DialInsecure(tb.Context(), kratos.WithEndpoint(target), kratos.WithTimeout(0),
						kratos.WithHealthCheck(false), kratos.WithMiddleware(guard),
						kratos.WithOptions(append([]grpc.DialOption{
							grpc.WithContextDialer(b.DialContext), grpc.WithTransportCredentials(insecure.NewCredentials()),
						}, opts...)...))
					if err != nil {
						panic(err)
					}
					return conn
				}
			},
			rejected: func(err error) bool { return errors.Is(err, kratosbreaker.ErrNotAllowed) },
		},
		lacks: throttle(map[feature]lack{
			hasStreams:  cannot("does not guard streams: its client has no middleware for them"),
			hasFallback: notFor("its middleware has no fallback"),
		}),
	},
}

// retryDelay returns the delay that a server asks for, or 0.
func retryDelay(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// grpcTopics are the rows for libraries with a gRPC client.
var grpcTopics = []topic{
	{title: "gRPC: unary calls", scenarios: unaryCalls},
	{title: "gRPC: streams", scenarios: streams},
	{title: "gRPC: classification of failures", scenarios: faults},
}

// grpcWant is the policy of the gRPC scenarios: open at half of 20 calls or, with a rule for failure streaks, at 5
// failures.
var grpcWant = want{
	failures: 5, ratio: 0.5, minCalls: 20, window: 10 * time.Second, openFor: 5 * time.Second, probes: 1, successes: 1,
	lease: 5 * time.Second,
}

// rig is a guarded client of a server in memory.
type rig struct {
	c       *cell
	dial    dialer
	srv     *testpb.Server
	backend *testpb.Backend
	conn    *grpc.ClientConn
	client  testpb.TestClient

	rawReached *atomic.Int64 // requests that reached a server that does not speak gRPC
}

// rig dials a server with the given script.
func (c *cell) rig(script testpb.Script, opts ...grpc.DialOption) *rig {
	return c.rigWant(grpcWant, script, opts...)
}

func (c *cell) rigWant(w want, script testpb.Script, opts ...grpc.DialOption) *rig {
	c.tb.Helper()
	r := &rig{c: c, dial: c.lib.grpc.dialer(c.tb, w), srv: new(testpb.Server)}
	r.srv.Set(script)
	r.backend = testpb.StartBufconn(c.tb, r.srv)
	r.conn = r.dial(fmt.Sprintf("passthrough:///backend-%d", rigs.Add(1)), r.backend, opts...)
	r.client = testpb.NewTestClient(r.conn)
	return r
}

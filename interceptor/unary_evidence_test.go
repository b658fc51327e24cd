package interceptor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// lenient is a Config that does not open for the outcomes of a test.
var lenient = breaker.Config{ConsecutiveFailures: -1, FailureRatio: 1, MinCalls: 1_000_000}

// doubts are the degrees of doubt that a breaker may have when a call begins.
var doubts = []struct {
	name string
	set  func(b *breaker.Breaker)
}{
	{"no doubt", func(*breaker.Breaker) {}},
	{"in doubt", func(b *breaker.Breaker) { settleOne(b, breaker.Failure) }},
	{"troubled", func(b *breaker.Breaker) {
		settleOne(b, breaker.Failure)
		settleOne(b, breaker.Success)
	}},
}

func settleOne(b *breaker.Breaker, o breaker.Outcome) {
	p, _ := b.Acquire(context.Background())
	p.Done(context.Background(), o)
}

// settledAs makes one call, and returns its outcome and its error.
func settledAs(tb testing.TB, b *breaker.Breaker, call func() error) (breaker.Outcome, error) {
	tb.Helper()
	before := b.Snapshot()
	err := call()
	synctest.Wait()
	after := b.Snapshot()
	var got []breaker.Outcome
	for o, n := range map[breaker.Outcome]uint64{
		breaker.Success: after.Successes - before.Successes, breaker.Failure: after.Failures - before.Failures,
		breaker.Overload: after.Overloads - before.Overloads, breaker.Ignored: after.Ignored - before.Ignored,
	} {
		for range n {
			got = append(got, o)
		}
	}
	if len(got) != 1 {
		tb.Fatalf("the call has the outcomes %v, want one", got)
	}
	return got[0], err
}

// fault is a way for a call to fail. Its outcome is want. If differ is set, the outcome is untold for calls for which
// the guard does not get the peer.
type fault struct {
	name        string
	script      testpb.Script
	raw         testpb.RawAnswer // in place of a gRPC server
	server      []grpc.ServerOption
	dial        []grpc.DialOption
	opts        []grpc.CallOption
	ctx         func(context.Context) (context.Context, context.CancelFunc)
	stop        bool // there is no server
	code        codes.Code
	want        breaker.Outcome
	withoutPeer breaker.Outcome
	differ      bool
}

func answersUnary(f func(context.Context) (*testpb.Response, error)) testpb.Script {
	return testpb.Script{OnUnary: func(ctx context.Context, _ *testpb.Request) (*testpb.Response, error) { return f(ctx) }}
}

func within(d time.Duration) func(context.Context) (context.Context, context.CancelFunc) {
	return func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, d) }
}

func unaryFaults() []fault {
	hang := answersUnary(func(ctx context.Context) (*testpb.Response, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	large := answersUnary(func(context.Context) (*testpb.Response, error) {
		return &testpb.Response{Payload: []byte(strings.Repeat("x", 1000))}, nil
	})
	fails := func(c codes.Code, text string) testpb.Script {
		return answersUnary(func(context.Context) (*testpb.Response, error) { return nil, status.Error(c, text) })
	}
	failsAfterHeader := func(c codes.Code, text string) testpb.Script {
		return answersUnary(func(ctx context.Context) (*testpb.Response, error) {
			_ = grpc.SendHeader(ctx, metadata.Pairs("k", "v"))
			return nil, status.Error(c, text)
		})
	}
	faults := []fault{
		{name: "handler, trailers only", script: failing(down), code: codes.Unavailable, want: breaker.Failure},
		{
			name: "handler, after a header", script: failsAfterHeader(codes.Internal, "x"), code: codes.Internal,
			want: breaker.Failure,
		},
		{name: "handler, an answer", script: failing(errNotFound), code: codes.NotFound, want: breaker.Success},
		{
			name: "the server cannot marshal", code: codes.Internal, want: breaker.Failure,
			script: fails(codes.Internal, "grpc: error while marshaling: x"), withoutPeer: breaker.Ignored, differ: true,
		},
		{
			name: "the server cannot marshal, after a header", code: codes.Internal, want: breaker.Failure,
			script: failsAfterHeader(codes.Internal, "grpc: error while marshaling: x"), withoutPeer: breaker.Ignored,
			differ: true,
		},
		{
			name: "the reply is too large for the server", code: codes.ResourceExhausted, want: breaker.Overload,
			script: large, server: []grpc.ServerOption{grpc.MaxSendMsgSize(10)}, withoutPeer: breaker.Ignored, differ: true,
		},
		{
			name: "the request is too large to send", code: codes.ResourceExhausted, want: breaker.Ignored,
			opts: []grpc.CallOption{grpc.MaxCallSendMsgSize(1)},
		},
		{
			name: "the request is too large for the server", code: codes.ResourceExhausted, want: breaker.Success,
			server: []grpc.ServerOption{grpc.MaxRecvMsgSize(1)},
		},
		{
			name: "the reply is too large", code: codes.ResourceExhausted, want: breaker.Success,
			script: large, opts: []grpc.CallOption{grpc.MaxCallRecvMsgSize(10)},
		},
		{
			name: "the reply is too large once decompressed", code: codes.ResourceExhausted, want: breaker.Success,
			script: large, opts: []grpc.CallOption{grpc.MaxCallRecvMsgSize(500), grpc.UseCompressor("gzip")},
		},
		{
			name: "unknown compressor", code: codes.Internal, want: breaker.Ignored,
			opts: []grpc.CallOption{grpc.UseCompressor("none such")},
		},
		{
			name: "credentials without a status", code: codes.Internal, want: breaker.Ignored,
			opts: []grpc.CallOption{grpc.PerRPCCredentials(credentialsOf{err: errors.New("no token")})},
		},
		{
			name: "credentials hang until the deadline", code: codes.DeadlineExceeded, want: breaker.Failure,
			ctx:  within(time.Second),
			opts: []grpc.CallOption{grpc.PerRPCCredentials(hangingCredentials{})},
		},
		{name: "no connection", stop: true, code: codes.Unavailable, want: breaker.Failure},
		{
			name: "no connection, wait for ready", stop: true, code: codes.DeadlineExceeded, want: breaker.Failure,
			opts: []grpc.CallOption{grpc.WaitForReady(true)}, ctx: within(time.Second),
		},
		{
			name: "the server hangs", script: hang, code: codes.DeadlineExceeded, want: breaker.Failure,
			ctx: within(time.Second),
		},
		{
			name: "a timeout of the service config", script: hang, code: codes.DeadlineExceeded, want: breaker.Failure,
			dial: []grpc.DialOption{grpc.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "timeout": "1s"}]}`)},
		},
		{name: "canceled by the handler", script: fails(codes.Canceled, "x"), code: codes.Canceled, want: breaker.Failure},
		{name: "RST_STREAM CANCEL", raw: testpb.Resets(http2.ErrCodeCancel), code: codes.Canceled, want: breaker.Failure},
		{
			name: "RST_STREAM CANCEL after a message", raw: testpb.ResetsAfterMessage(http2.ErrCodeCancel), code: codes.Canceled,
			want: breaker.Failure,
		},
		{
			name: "RST_STREAM INTERNAL_ERROR", raw: testpb.Resets(http2.ErrCodeInternal), code: codes.Internal,
			want: breaker.Failure,
		},
		{name: "RST_STREAM NO_ERROR", raw: testpb.Resets(http2.ErrCodeNo), code: codes.Internal, want: breaker.Failure},
		{
			name: "RST_STREAM REFUSED_STREAM", raw: testpb.Resets(http2.ErrCodeRefusedStream), code: codes.Unavailable,
			want: breaker.Failure,
		},
		{
			name: "RST_STREAM ENHANCE_YOUR_CALM", raw: testpb.Resets(http2.ErrCodeEnhanceYourCalm),
			code: codes.ResourceExhausted,
			want: breaker.Overload,
		},
		{
			name: "the connection is lost", raw: func(*http2.Framer, uint32) error { return errors.New("closed") },
			code: codes.Unavailable, want: breaker.Failure,
		},
	}
	// A backend that is a client too may return the answer of a proxy between it and the next server.
	for _, c := range []codes.Code{codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated} {
		for name, script := range map[string]func(codes.Code, string) testpb.Script{
			"": fails, ", after a header": failsAfterHeader,
		} {
			faults = append(faults, fault{
				name: fmt.Sprintf("the handler returns %v of a proxy behind it%s", c, name), code: c, want: breaker.Success,
				script: script(c, proxyText+": 404 (Not Found)"), withoutPeer: breaker.Failure, differ: true,
			})
		}
	}
	for httpStatus, code := range map[string]codes.Code{
		"400": codes.Internal, "401": codes.Unauthenticated, "403": codes.PermissionDenied, "404": codes.Unimplemented,
		"429": codes.Unavailable, "502": codes.Unavailable, "503": codes.Unavailable, "504": codes.Unavailable,
		"500": codes.Unknown,
	} {
		faults = append(faults, fault{
			name: "a proxy answers " + httpStatus, raw: testpb.AnswersHTML(httpStatus), code: code,
			want: breaker.Failure,
		})
	}
	// Credentials may fail with any status. grpc changes some codes to Internal.
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		f := fault{
			name: fmt.Sprintf("credentials fail with %v", c), code: c, want: breaker.Ignored,
			opts:        []grpc.CallOption{grpc.PerRPCCredentials(credentialsOf{err: statusError(c)})},
			withoutPeer: classOf(c), differ: true,
		}
		switch c {
		case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.Aborted,
			codes.OutOfRange,
			codes.DataLoss:
			f.code, f.differ = codes.Internal, false
		case codes.Canceled:
			f.withoutPeer = breaker.Failure // the caller did not cancel
		}
		faults = append(faults, f)
	}
	return faults
}

// connect returns the connection that f fails on.
func (f *fault) connect(tb testing.TB, dial ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	dial = append(dial, f.dial...)
	var cc *grpc.ClientConn
	if f.raw != nil {
		cc = testpb.StartRaw(tb, f.raw).Dial(tb, dial...)
	} else {
		srv := new(testpb.Server)
		srv.Set(f.script)
		b := testpb.StartBufconn(tb, srv, f.server...)
		if f.stop {
			b.Stop()
		}
		cc = b.Dial(tb, dial...)
	}
	cc.Connect()
	synctest.Wait() // so that the state of the channel does not depend on chance
	return cc
}

func (f *fault) context(ctx context.Context) (context.Context, context.CancelFunc) {
	if f.ctx == nil {
		return ctx, func() {}
	}
	return f.ctx(ctx)
}

type hangingCredentials struct{ credentialsOf }

func (hangingCredentials) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

// G3, G5: each fault against a real server, with grpc directly below the guard.
func TestG05_WhoseErrorItIs(t *testing.T) {
	for _, f := range unaryFaults() {
		for _, doubt := range doubts {
			synctest.Test(t, func(t *testing.T) {
				g := newGuard(t, lenient, WithKey(oneKey))
				client := testpb.NewTestClient(f.connect(t, g.DialOptions()...))
				doubt.set(g.Group().Get(breaker.Key{}))
				got, err := settledAs(t, g.Group().Get(breaker.Key{}), func() error {
					ctx, cancel := f.context(t.Context())
					defer cancel()
					_, err := client.Unary(ctx, &testpb.Request{Text: "some text"}, f.opts...)
					return err
				})
				wantCode(t, f.name, err, f.code)
				want := f.want
				if f.differ && (doubt.name == "no doubt" ||
					(doubt.name == "troubled" && !strings.HasPrefix(f.name, "credentials"))) {
					want = f.withoutPeer // the guard did not look, or only at the peer's address
				}
				if got != want {
					t.Errorf("%s, %s: %v is %v, want %v", doubt.name, f.name, err, got, want)
				}
			})
		}
	}
}

// With WithPeerEvidence, the guard classifies the first call like one in doubt.
func TestG05_PeerEvidenceFromTheFirstCallOn(t *testing.T) {
	for _, f := range unaryFaults() {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, lenient, WithKey(oneKey), WithPeerEvidence())
			client := testpb.NewTestClient(f.connect(t, g.DialOptions()...))
			got, err := settledAs(t, g.Group().Get(breaker.Key{}), func() error {
				ctx, cancel := f.context(t.Context())
				defer cancel()
				_, err := client.Unary(ctx, &testpb.Request{Text: "some text"}, f.opts...)
				return err
			})
			if got != f.want {
				t.Errorf("%s: %v is %v, want %v", f.name, err, got, f.want)
			}
		})
	}
}

// G5: a token service that fails, always or every second time, does not open the breaker of a backend that is up,
// whatever its code. It also does not keep the breaker of a dead backend closed.
func TestG05_TokenServiceDown(t *testing.T) {
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		for _, every := range []int{1, 2} {
			synctest.Test(t, func(t *testing.T) {
				g, err := New(nil, WithKey(oneKey))
				if err != nil {
					t.Fatal(err)
				}
				r := newStreamRig(t, g, testpb.Script{})
				good, rejected := 0, 0
				for i := range 600 {
					var opts []grpc.CallOption
					if i%every == 0 {
						opts = append(opts, grpc.PerRPCCredentials(credentialsOf{err: statusError(c)}))
					}
					switch _, err := r.client.Unary(t.Context(), &testpb.Request{}, opts...); {
					case err == nil:
						good++
					case IsRejected(err):
						rejected++
					}
					time.Sleep(100 * time.Millisecond)
				}
				if want := 600 - 600/every; rejected != 0 || good != want {
					t.Errorf("%v, every %d: %d good and %d rejected calls, want %d and 0", c, every, good, rejected, want)
				}

				r.backend.Stop()
				time.Sleep(time.Minute)
				opened := false
				for i := range 100 {
					var opts []grpc.CallOption
					if i%every == 0 {
						opts = append(opts, grpc.PerRPCCredentials(credentialsOf{err: statusError(c)}))
					}
					_, err := r.client.Unary(t.Context(), &testpb.Request{}, opts...)
					opened = opened || IsRejected(err)
					time.Sleep(100 * time.Millisecond)
				}
				if !opened {
					t.Errorf("%v, every %d: the backend is dead, and the breaker does not open", c, every)
				}
			})
		}
	}
}

// G5: calls that wait for a free stream of a backend that hangs do not reach a connection, but are failures.
func TestG05_NoFreeStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := New(nil, WithKey(oneKey))
		if err != nil {
			t.Fatal(err)
		}
		srv := new(testpb.Server)
		srv.Set(testpb.Script{OnUnary: func(ctx context.Context, _ *testpb.Request) (*testpb.Response, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		b := testpb.StartBufconn(t, srv, grpc.MaxConcurrentStreams(1))
		client := testpb.NewTestClient(b.Dial(t, g.DialOptions()...))
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range 20 {
					ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
					_, _ = client.Unary(ctx, &testpb.Request{})
					cancel()
				}
			})
			time.Sleep(15 * time.Millisecond)
		}
		wg.Wait()
		wantState(t, "a backend that hangs with one stream", g, breaker.Open)
	})
}

// G5: the guard must detect that grpc is directly below, and otherwise use no evidence. A fake invoker or streamer has
// no connection and never sets a peer. Its failures must still open the breaker.
func TestG05_NotGRPCBelow(t *testing.T) {
	dropOptions := func(
		ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker,
		_ ...grpc.CallOption,
	) error {
		return invoker(ctx, method, req, reply, cc)
	}
	for _, opts := range [][]Option{nil, {WithPeerEvidence()}} {
		synctest.Test(t, func(t *testing.T) {
			opts := append(opts, WithKey(oneKey))
			cfg := breaker.Config{FailureRatio: -1}
			g := newGuard(t, cfg, opts...)
			srv := new(testpb.Server)
			srv.Set(failing(down))
			cc := testpb.StartBufconn(t, srv).Dial(t, append(g.DialOptions(), grpc.WithChainUnaryInterceptor(dropOptions))...)
			for range 5 {
				_, _ = testpb.NewTestClient(cc).Unary(t.Context(), &testpb.Request{})
			}
			wantState(t, "an interceptor that drops options", g, breaker.Open)

			g = newGuard(t, cfg, opts...)
			for range 5 { // cc is READY
				_ = g.Unary(t.Context(), fullMethod, nil, nil, cc,
					func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return down })
			}
			wantState(t, "a fake invoker", g, breaker.Open)

			g = newGuard(t, cfg, opts...)
			for range 5 {
				_, _ = g.Stream(t.Context(), serverStreams, cc, fullMethod,
					func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
						return nil, down
					})
			}
			wantState(t, "a fake streamer", g, breaker.Open)
		})
	}
}

// G5: with an interceptor between, the guard adds no option for header, trailer or peer, in any state of doubt. Two
// attempts at once would write to the same memory. Also, no slice of options has spare capacity.
func TestG05_NoOptionsThroughInterceptors(t *testing.T) {
	for _, doubt := range append(doubts, struct {
		name string
		set  func(b *breaker.Breaker)
	}{"probe", func(b *breaker.Breaker) {
		b.Trip(t.Context(), "test")
		time.Sleep(time.Hour)
	}}) {
		for _, opts := range [][]Option{nil, {WithPeerEvidence()}} {
			synctest.Test(t, func(t *testing.T) {
				g := newGuard(t, lenient, append(opts, WithKey(oneKey))...)
				added := 0
				look := func(all []grpc.CallOption) {
					if cap(all) != len(all) {
						t.Errorf("%s: %d options with room for %d", doubt.name, len(all), cap(all))
					}
					for _, o := range all {
						switch o.(type) {
						case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption:
							added++
						}
					}
				}
				unary := func(
					ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker,
					all ...grpc.CallOption,
				) error {
					look(all)
					return invoker(ctx, method, req, reply, cc, all...)
				}
				stream := func(
					ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer,
					all ...grpc.CallOption,
				) (grpc.ClientStream, error) {
					look(all)
					return streamer(ctx, desc, cc, method, all...)
				}
				dial := append(g.DialOptions(), grpc.WithChainUnaryInterceptor(unary), grpc.WithChainStreamInterceptor(stream))
				client := testpb.NewTestClient(testpb.StartBufconn(t, new(testpb.Server)).Dial(t, dial...))
				doubt.set(g.Group().Get(breaker.Key{}))
				_, _ = client.Unary(t.Context(), &testpb.Request{}, grpc.WaitForReady(false))
				want := 0
				if opts != nil {
					want = 3
				}
				if added != want {
					t.Errorf("%s: %d options for header, trailer and peer were added, want %d", doubt.name, added, want)
				}
				added = 0
				s, err := client.ServerStream(t.Context(), &testpb.Request{}, grpc.WaitForReady(false))
				if err == nil {
					_, _ = drain(s)
				}
				if added != 0 {
					t.Errorf("%s: %d options for header, trailer and peer were added to a stream, want none", doubt.name, added)
				}
			})
		}
	}
}

// G3: an interceptor between may have canceled the call, so Canceled is ignored. If grpc's text shows a reset by the
// peer, it is a failure.
func TestG03_CanceledInside(t *testing.T) {
	for _, tt := range []struct {
		name string
		raw  func(*http2.Framer, uint32) error
		dial []grpc.DialOption
		want breaker.Outcome
	}{
		{"RST_STREAM", testpb.Resets(http2.ErrCodeCancel), nil, breaker.Failure},
		{"own context", nil, []grpc.DialOption{grpc.WithChainUnaryInterceptor(func(
			ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker,
			opts ...grpc.CallOption,
		) error {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return invoker(ctx, method, req, reply, cc, opts...)
		})}, breaker.Ignored},
	} {
		for _, doubt := range doubts {
			synctest.Test(t, func(t *testing.T) {
				g := newGuard(t, lenient, WithKey(oneKey))
				f := fault{raw: tt.raw, dial: tt.dial, script: answersUnary(func(ctx context.Context) (*testpb.Response, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				})}
				if f.dial == nil {
					f.dial = []grpc.DialOption{grpc.WithChainUnaryInterceptor(func(
						ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker,
						opts ...grpc.CallOption,
					) error {
						return invoker(ctx, method, req, reply, cc, opts...)
					})}
				}
				client := testpb.NewTestClient(f.connect(t, g.DialOptions()...))
				b := g.Group().Get(breaker.Key{})
				doubt.set(b)
				got, err := settledAs(t, b, func() error {
					_, err := client.Unary(t.Context(), &testpb.Request{})
					return err
				})
				wantCode(t, tt.name, err, codes.Canceled)
				if got != tt.want {
					t.Errorf("%s, %s: %v is %v, want %v", tt.name, doubt.name, err, got, tt.want)
				}
			})
		}
	}
}

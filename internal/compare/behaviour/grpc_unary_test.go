//go:build !clockstep

package behaviour

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// rigs numbers the targets, because some libraries keep their breakers for the life of the process.
var rigs atomic.Int64

var unaryCalls = []*scenario{
	{
		id: "G01", title: "A server that answers Unavailable gets few calls", rule: "G2",
		why: "this is the purpose of the interceptor",
		run: func(c *cell) {
			r := c.rig(answering(codes.Unavailable))
			r.unary(many)
			r.mustShield("Unavailable")
		},
	},
	{
		id: "G02", title: "So is one that answers Unknown, DeadlineExceeded, Internal or DataLoss", rule: "G2",
		why: "Unknown is what a Go server sends for a plain error; Internal and DataLoss are the server's own fault",
		run: func(c *cell) {
			var not []string
			for _, code := range []codes.Code{codes.Unknown, codes.DeadlineExceeded, codes.Internal, codes.DataLoss} {
				r := c.rig(answering(code))
				r.unary(many)
				if !r.shields() {
					not = append(not, code.String())
				}
			}
			if not != nil {
				c.failf("does not open for a server that answers %s", strings.Join(not, ", "))
			}
		},
	},
	{
		id: "G03", title: "The breaker does not open for a server that refuses bad requests", rule: "G2",
		why: "NotFound, InvalidArgument and similar codes are answers: one bad caller must not block all others",
		run: func(c *cell) {
			var cut []string
			for _, code := range []codes.Code{
				codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
				codes.FailedPrecondition, codes.Aborted, codes.OutOfRange,
			} {
				r := c.rig(answering(code))
				r.unary(many)
				if !r.lets() {
					cut = append(cut, code.String())
				}
			}
			if cut != nil {
				c.failf("opens for a server that answers %s", strings.Join(cut, ", "))
			}
		},
	},
	{
		id: "G04", title: "The breaker does not open for a server that does not implement a method", rule: "G2",
		why: "Unimplemented is an answer too; clients probe for newer methods",
		run: func(c *cell) {
			r := c.rig(answering(codes.Unimplemented))
			r.unary(many)
			r.mustLet("answering Unimplemented")
		},
	},
	{
		id: "G05", title: "A server that answers ResourceExhausted gets few calls", rule: "G2",
		why: "the server reports that it is overloaded",
		run: func(c *cell) {
			r := c.rig(answering(codes.ResourceExhausted))
			r.unary(many)
			r.mustShield("ResourceExhausted")
		},
	},
	{
		id: "G06", title: "A server that is slower than its callers' deadlines gets few calls", rule: "G4",
		why: "timeouts are the most expensive failures",
		run: func(c *cell) {
			r := c.rig(hanging())
			for range 60 {
				ctx, cancel := context.WithTimeout(bg, 50*time.Millisecond)
				r.call(ctx)
				cancel()
			}
			before := r.reached()
			for range 20 {
				ctx, cancel := context.WithTimeout(bg, 50*time.Millisecond)
				r.call(ctx)
				cancel()
			}
			if r.reached()-before > 4 {
				c.failf("after 60 calls that exceeded their deadlines, the next calls still reach the server")
			}
		},
	},
	{
		id: "G07", title: "Cancelled calls do not open the breaker", rule: "G3",
		why: "users leave a page before it has loaded",
		run: func(c *cell) {
			r := c.rig(hanging())
			for range many {
				ctx, cancel := context.WithCancel(bg)
				time.AfterFunc(10*time.Millisecond, cancel)
				r.call(ctx)
			}
			r.srv.Set(testpb.Script{})
			r.mustLet("called by users who cancel")
		},
	},
	{
		id: "G08", title: "Calls whose deadline has passed before they begin do not open it either", rule: "G3, B24",
		why: "the server never saw those calls",
		run: func(c *cell) {
			r := c.rig(testpb.Script{})
			for range many {
				ctx, cancel := context.WithDeadline(bg, time.Now().Add(-time.Second))
				r.call(ctx)
				cancel()
			}
			r.mustLet("called with deadlines that were over")
		},
	},
	{
		id: "G09", title: "A request that is too large to send is not the server's fault", rule: "G5",
		why: "grpc returns that error in the client, with the code ResourceExhausted",
		run: func(c *cell) {
			r := c.rig(testpb.Script{}, grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1000)))
			for range many {
				// it fails in the client
				_, _ = r.client.Unary(bg, &testpb.Request{Payload: make([]byte, 2000)})
				c.sleep(10 * time.Millisecond)
			}
			if r.reached() > 0 {
				c.failf("the request was not too large")
			}
			r.mustLet("sent requests too large for the client")
		},
	},
	{
		id: "G10", title: "A rejection has the status Unavailable", rule: "G8",
		why: "callers, proxies and dashboards use codes; a plain error is Unknown to all of them",
		run: func(c *cell) {
			err := c.rig(answering(codes.Internal)).rejection()
			if got := status.Code(err); got != codes.Unavailable {
				c.failf("a rejection has the status %v", got)
			}
		},
	},
	{
		id: "G11", title: "A rejection carries RetryInfo", rule: "G8",
		why:   "clients of any language understand it",
		needs: []feature{hasStates},
		run: func(c *cell) {
			for _, d := range status.Convert(c.rig(answering(codes.Internal)).rejection()).Details() {
				if info, ok := d.(*errdetails.RetryInfo); ok {
					if wait := info.GetRetryDelay().AsDuration(); wait <= 0 || wait > grpcWant.openFor {
						c.failf("RetryInfo has a time other than the remaining one")
					}
					return
				}
			}
			c.failf("a rejection has no details")
		},
	},
	{
		id: "G12", title: "A dead method does not affect another method of the same server", rule: "G11",
		why: "methods fail independently",
		run: func(c *cell) {
			r := c.rig(answering(codes.Unavailable))
			r.unary(many)
			other := testpb.NewOtherClient(r.conn)
			failed := 0
			for range 100 {
				if _, err := other.Ping(bg, &testpb.Request{}); err != nil {
					failed++
				}
				c.sleep(5 * time.Millisecond)
			}
			if failed > 5 {
				c.failf("rejects calls of a healthy method because another one fails")
			}
		},
	},
	{
		id: "G13", title: "A dead server does not affect another one with the same methods", rule: "G11",
		why: "clients talk to more than one server",
		run: func(c *cell) {
			r := c.rig(answering(codes.Unavailable))
			srv := new(testpb.Server)
			well := &rig{c: c, srv: srv, backend: testpb.StartBufconn(c.tb, srv)}
			well.conn = r.dial("passthrough:///well", well.backend)
			well.client = testpb.NewTestClient(well.conn)
			for range many {
				r.call(bg)
				well.call(bg)
			}
			well.mustLet("and healthy, while another one fails")
			r.mustShield("Unavailable")
		},
	},
	{
		id: "G14", title: "An admitted call loses nothing: status, details, header, trailer", rule: "G1",
		why: "an interceptor that loses details breaks its users without an error",
		run: func(c *cell) {
			sent, err := status.New(codes.FailedPrecondition, "not now").WithDetails(durationpb.New(time.Second))
			if err != nil {
				panic(err)
			}
			r := c.rig(testpb.Script{OnUnary: func(ctx context.Context, req *testpb.Request) (*testpb.Response, error) {
				in, _ := metadata.FromIncomingContext(ctx)
				if err := errors.Join(
					grpc.SetHeader(ctx, metadata.Pairs("echo", strings.Join(in.Get("ask"), ""))),
					grpc.SetTrailer(ctx, metadata.Pairs("end", "yes")),
				); err != nil {
					return nil, err
				}
				if req.GetText() == "fail" {
					return nil, sent.Err()
				}
				return &testpb.Response{Text: req.GetText()}, nil
			}})
			ctx := metadata.AppendToOutgoingContext(bg, "ask", "this")
			var header, trailer metadata.MD
			resp, err := r.client.Unary(ctx, &testpb.Request{Text: "hello"}, grpc.Header(&header), grpc.Trailer(&trailer))
			if err != nil || resp.GetText() != "hello" {
				c.failf("the reply is not the server's")
			}
			if !slices.Equal(header.Get("echo"), []string{"this"}) || !slices.Equal(trailer.Get("end"), []string{"yes"}) {
				c.failf("header or trailer are lost")
			}
			_, err = r.client.Unary(ctx, &testpb.Request{Text: "fail"})
			if got := status.Convert(err); got.Code() != sent.Code() || got.Message() != sent.Message() ||
				len(got.Details()) != 1 {
				c.failf("the error is not the server's")
			}
		},
	},
	{
		id: "G15", title: "A retry interceptor around it does not retry rejections", rule: "G10",
		why: "each retry waits and is rejected again; the retry interceptor is set up as the library's documentation " +
			"recommends",
		run: func(c *cell) {
			r := c.rig(answering(codes.Internal))
			r.unary(many)
			opts := []retry.CallOption{retry.WithMax(5), retry.WithBackoff(retry.BackoffLinear(time.Millisecond))}
			if f := c.lib.grpc.retriable; f != nil {
				opts = append(opts, retry.WithRetriable(f))
			}
			again := retry.UnaryClientInterceptor(opts...)
			asked, rejections := 0, 0
			for range 40 {
				n := 0
				err := again(bg, testpb.Test_Unary_FullMethodName, &testpb.Request{}, &testpb.Response{}, r.conn,
					func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
						n++
						return cc.Invoke(ctx, method, req, reply, opts...)
					})
				if err != nil && c.lib.grpc.rejected(err) {
					asked += n
					rejections++
				}
			}
			if rejections == 0 {
				c.failf("rejected none of 40 calls")
			}
			if asked > rejections*3/2 {
				c.failf("a retry interceptor with its usual settings retries rejections")
			}
		},
	},
	{
		id: "G16", title: "A call that succeeds after a retry by the service config is a success", rule: "G10",
		why: "only the result that the caller sees counts",
		run: func(c *cell) {
			var n atomic.Int64
			r := c.rig(testpb.Script{OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
				if n.Add(1)%3 != 0 {
					return nil, status.Error(codes.Unavailable, "try again")
				}
				return &testpb.Response{}, nil
			}}, grpc.WithDefaultServiceConfig(retryConfig))
			for range many {
				if _, err := r.client.Unary(bg, &testpb.Request{}); err != nil {
					c.failf("a call failed that a retry by grpc would have saved")
				}
				c.sleep(10 * time.Millisecond)
			}
		},
	},
	{
		id: "G17", title: "A panic in an inner interceptor counts and reaches the caller unchanged", rule: "G1, B23",
		why: "the user's interceptors may have bugs",
		run: func(c *cell) {
			ran := 0
			r := c.rig(testpb.Script{}, grpc.WithChainUnaryInterceptor(
				func(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
					ran++
					panic(errPanic)
				}))
			for range many {
				func() {
					defer func() {
						if v := recover(); v != nil && v != errPanic {
							c.failf("the caller gets another value")
						}
					}()
					r.call(bg)
				}()
			}
			if ran > many/2 {
				c.failf("rejects none of the calls, though every one panics")
			}
		},
	},
	{
		id: "G18", title: "The breaker opens on calls that wait for a server which is gone", rule: "G14",
		why: "with wait-for-ready each call waits until its deadline",
		run: func(c *cell) {
			r := c.rig(testpb.Script{})
			r.call(bg)
			r.backend.Stop()
			call := func() (took time.Duration) {
				ctx, cancel := context.WithTimeout(bg, 100*time.Millisecond)
				defer cancel()
				begin := time.Now()
				// it fails
				_, _ = r.client.Unary(ctx, &testpb.Request{}, grpc.WaitForReady(true))
				return time.Since(begin)
			}
			for range 40 {
				call()
			}
			waited := 0
			for range 20 {
				if call() > 50*time.Millisecond {
					waited++
				}
			}
			if waited > 4 {
				c.failf("after 40 calls that waited until their deadline, the next still wait")
			}
		},
	},
	{
		id: "G19", title: "40 s after a server has recovered, 95% of the calls are admitted", rule: "G14",
		why: "here connections break, and grpc has its own back-off",
		run: func(c *cell) {
			r := c.rig(testpb.Script{})
			r.unary(50)
			r.backend.Stop()
			r.unary(10 * many)
			r.backend.Restart()
			// After exactly 30 s the result for a throttle depends on the jitter of grpc's back-off, so wait longer.
			r.unary(4000)
			r.mustLet("back for 40 s")
		},
	},
	{
		id: "G20", title: "Of 100 calls at the instant when the open period ends, one reaches the server", rule: "B19",
		why:   "callers often call at the same time",
		needs: []feature{hasStates},
		run: func(c *cell) {
			r := c.rig(answering(codes.Unavailable))
			r.unary(50)
			r.srv.Set(hanging())
			c.sleep(grpcWant.openFor)
			before := r.reached()
			ctx, cancel := context.WithTimeout(bg, time.Second)
			defer cancel()
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() {
					// most are rejected
					_, _ = r.client.Unary(ctx, &testpb.Request{})
				})
			}
			all.Wait()
			if n := r.reached() - before; n > 1 {
				c.failf("more than one of 100 reached the server")
			} else if n == 0 {
				c.failf("none of 100 reached the server")
			}
		},
	},
	{
		id: "G21", title: "A probe that hangs for ever does not keep the breaker half-open", rule: "B22",
		why:   "one call without a deadline is enough, and most programs have one",
		needs: []feature{hasStates},
		run: func(c *cell) {
			w := grpcWant
			w.hang = w.lease
			r := c.rigWant(w, answering(codes.Unavailable))
			r.unary(50)
			r.srv.Set(hanging())
			c.sleep(soon(grpcWant.openFor))
			go func() { _, _ = r.client.Unary(bg, &testpb.Request{}) }() // the probe
			c.sleep(time.Second)
			r.srv.Set(testpb.Script{})
			r.unary(20 * many)
			r.mustLet("well for a minute")
		},
	},
	{
		id: "G22", title: "A probe that its caller cancels decides nothing", rule: "B21, G3",
		why:   "it must neither close the breaker nor open it for another period",
		needs: []feature{hasStates},
		run: func(c *cell) {
			r := c.rig(answering(codes.Unavailable))
			r.unary(50)
			r.srv.Set(hanging())
			c.sleep(soon(grpcWant.openFor))
			ctx, cancel := context.WithCancel(bg)
			time.AfterFunc(10*time.Millisecond, cancel)
			r.call(ctx)
			before := r.reached()
			short, stop := context.WithTimeout(bg, time.Second)
			defer stop()
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() {
					// most are rejected
					_, _ = r.client.Unary(short, &testpb.Request{})
				})
			}
			all.Wait()
			switch n := r.reached() - before; {
			case n > 1:
				c.failf("a cancelled probe closed it")
			case n == 0:
				c.failf("all calls are rejected after a cancelled probe")
			}
		},
	},
	{
		id: "G23", title: "A server that asks for 30 s (RetryInfo) gets no calls for 30 s", rule: "G9, B18",
		why:   "the server knows best when it can answer again",
		needs: []feature{hasStates},
		run: func(c *cell) {
			wish, err := status.New(codes.Unavailable, "overloaded").
				WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(30 * time.Second)})
			if err != nil {
				panic(err)
			}
			r := c.rigWant(want{
				failures: 5, ratio: 0.5, minCalls: 20, window: 10 * time.Second, openFor: 5 * time.Second, maxOpen: time.Minute,
				probes: 1, successes: 1, lease: 5 * time.Second,
			}, testpb.Script{OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
				return nil, wish.Err()
			}})
			for range 20 {
				r.call(bg)
			}
			before := r.reached()
			c.sleep(20 * time.Second)
			r.call(bg)
			if r.reached() > before {
				c.failf("called the server again after 20 s")
			}
		},
	},
}

// many is a number of calls, 10 ms apart, that is enough for every library to open.
const many = 300

// retryConfig makes grpc itself retry up to four times.
const retryConfig = `{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":4,"initialBackoff":"0.001s",
"maxBackoff":"0.001s","backoffMultiplier":1,"retryableStatusCodes":["UNAVAILABLE"]}}],"retryThrottling":null}`

// answering returns a script that answers every call with code.
func answering(code codes.Code) testpb.Script {
	err := status.Error(code, "as the scenario requires")
	return testpb.Script{
		OnUnary:        func(context.Context, *testpb.Request) (*testpb.Response, error) { return nil, err },
		OnServerStream: func(*testpb.Request, grpc.ServerStreamingServer[testpb.Response]) error { return err },
		OnClientStream: func(grpc.ClientStreamingServer[testpb.Request, testpb.Response]) error { return err },
		OnBidi:         func(grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error { return err },
	}
}

// hanging returns a script that never answers.
func hanging() testpb.Script {
	return testpb.Script{
		OnUnary: func(ctx context.Context, _ *testpb.Request) (*testpb.Response, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
			<-s.Context().Done()
			return s.Context().Err()
		},
	}
}

// call makes a unary call, 10 ms after the previous one, and ignores the result.
func (r *rig) call(ctx context.Context) {
	// the server counts the result
	_, _ = r.client.Unary(ctx, &testpb.Request{Text: "call"})
	r.c.sleep(10 * time.Millisecond)
}

// unary makes n calls.
func (r *rig) unary(n int) {
	for range n {
		r.call(bg)
	}
}

// reached returns the number of unary calls that reached the server.
func (r *rig) reached() int { return r.srv.Received(testpb.Test_Unary_FullMethodName) }

// share returns how many of the next 100 calls reach the server. They take less time than the rest of an open period.
func (r *rig) share() int {
	before := r.reached()
	r.unary(100)
	return r.reached() - before
}

func (r *rig) shields() bool { return r.share() <= 20 }
func (r *rig) lets() bool    { return r.share() >= 95 }

func (r *rig) mustShield(what string) {
	if !r.shields() {
		r.c.failf("a server that answered %d calls with %s still gets more than a fifth of them", many, what)
	}
}

func (r *rig) mustLet(what string) {
	if !r.lets() {
		r.c.failf("a server that is %s gets less than 95%% of the calls", what)
	}
}

// rejection opens the breaker and returns the error of a call that it rejects.
func (r *rig) rejection() error {
	r.unary(many)
	for range 100 {
		before := r.reached()
		_, err := r.client.Unary(bg, &testpb.Request{})
		if r.reached() == before {
			if !r.c.lib.grpc.rejected(err) {
				r.c.failf("a rejection cannot be distinguished from a failure")
			}
			return err
		}
	}
	r.c.failf("rejected none of the 100 calls after %d had failed", many)
	return nil
}

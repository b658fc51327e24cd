//go:build !clockstep

package behaviour

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// faults holds scenarios about which failures count against the server.
var faults = []*scenario{
	{
		id: "W01", title: "A server that resets its calls gets few calls", rule: "G3",
		why: "RST_STREAM CANCEL arrives as Canceled, though the client did not cancel",
		run: func(c *cell) {
			c.rawRig(testpb.Resets(http2.ErrCodeCancel)).mustGiveUpRaw("resets every call")
		},
	},
	{
		id: "W02", title: "An HTML page instead of an answer is a failure", rule: "G5",
		why: "a proxy that finds no server answers 404, which grpc reports as Unimplemented; from a server that code is " +
			"an answer",
		run: func(c *cell) {
			c.rawRig(testpb.AnswersHTML("404")).mustGiveUpRaw("answers with HTML")
		},
	},
	{
		id: "W03", title: "A token service that fails every second time does not block calls that get a token", rule: "G5",
		why: "calls without a token never reach the server, which is healthy",
		run: func(c *cell) {
			tokens := new(halfTokens)
			r := c.rig(testpb.Script{}, grpc.WithPerRPCCredentials(tokens))
			served := 0
			for range 600 {
				if _, err := r.client.Unary(bg, &testpb.Request{}); err == nil {
					served++
				}
				c.sleep(100 * time.Millisecond)
			}
			if served < 290 {
				c.failf("of 600 calls to a healthy server, half of them without a token, fewer than 290 succeed")
			}
		},
	},
	{
		id: "W04", title: "Watches on a server that rotates its connections are not rejected", rule: "S2",
		why:   "MaxConnectionAge ends each stream with Unavailable from time to time, which is no failure",
		needs: []feature{hasStreams},
		run:   func(c *cell) { c.rotate(time.Minute) },
	},
	{
		id: "W05", title: "Watches without messages are not rejected either", rule: "S2",
		why:   "a grpc-go server sends its header with the first message, so such a stream ends without any answer",
		needs: []feature{hasStreams},
		run:   func(c *cell) { c.rotate(0) },
	},
	{
		id: "W06", title: "A fallback that calls the same method again ends", rule: "G15",
		why: "a fallback to another region uses the same guard; if that call fails too, the fallback must not call " +
			"itself for ever",
		needs: []feature{hasFallback},
		run: func(c *cell) {
			var calls, depth atomic.Int64 // depth: calls within one call
			var again func(ctx context.Context) error
			dial := c.lib.grpc.fallback(c.tb, grpcWant, func(ctx context.Context) error {
				calls.Add(1)
				if depth.Add(1) > 100 {
					c.failf("a fallback that calls the same method called itself 100 times for one call")
				}
				return again(ctx)
			})
			srv := new(testpb.Server)
			srv.Set(answering(codes.Unavailable))
			conn := dial(fmt.Sprintf("passthrough:///backend-%d", rigs.Add(1)), testpb.StartBufconn(c.tb, srv))
			again = func(ctx context.Context) error {
				_, err := testpb.NewTestClient(conn).Unary(ctx, &testpb.Request{})
				return err
			}
			for range many {
				depth.Store(0)
				if _, err := testpb.NewTestClient(conn).Unary(bg, &testpb.Request{}); err == nil {
					c.failf("a call succeeded, though the server and the fallback fail")
				}
			}
			if calls.Load() == 0 {
				c.failf("the fallback was never called")
			}
		},
	},
}

// halfTokens are credentials whose service fails every second time.
type halfTokens struct{ n atomic.Int64 }

func (h *halfTokens) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if h.n.Add(1)%2 == 0 {
		return nil, status.Error(codes.Unavailable, "the token service is down")
	}
	return nil, nil
}

func (*halfTokens) RequireTransportSecurity() bool { return false }

// rawRig dials a server that speaks HTTP/2, but not gRPC.
func (c *cell) rawRig(answer testpb.RawAnswer) *rig {
	c.tb.Helper()
	var reached atomic.Int64
	raw := testpb.StartRaw(c.tb, func(f *http2.Framer, stream uint32) error {
		reached.Add(1)
		return answer(f, stream)
	})
	r := c.rig(testpb.Script{}, grpc.WithContextDialer(raw.DialContext))
	r.rawReached = &reached
	return r
}

// mustGiveUpRaw requires that few of the last calls reach a server that fails all of them.
func (r *rig) mustGiveUpRaw(does string) {
	call := func() {
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		// it fails
		_, _ = r.client.Unary(ctx, &testpb.Request{})
		r.c.sleep(10 * time.Millisecond)
	}
	for range many {
		call()
	}
	if r.rawReached.Load() == 0 {
		panic(errHarness) // the adapter has another dialer
	}
	before := r.rawReached.Load()
	for range 50 {
		call()
	}
	if r.rawReached.Load()-before > 10 {
		r.c.failf("after %d calls to a server that %s, the next still reach it", many, does)
	}
}

// rotate watches a server with MaxConnectionAge for twelve hours. A message arrives each period, or none if period is
// 0.
func (c *cell) rotate(period time.Duration) {
	srv := new(testpb.Server)
	srv.Set(testpb.Script{OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
		for period > 0 && s.Context().Err() == nil {
			if err := s.Send(&testpb.Response{}); err != nil {
				return err
			}
			select {
			case <-time.After(period):
			case <-s.Context().Done():
			}
		}
		<-s.Context().Done()
		return s.Context().Err()
	}})
	backend := testpb.StartBufconn(c.tb, srv, grpc.KeepaliveParams(keepalive.ServerParameters{
		MaxConnectionAge: 30 * time.Minute, MaxConnectionAgeGrace: time.Second,
	}))
	conn := c.lib.grpc.dialer(c.tb, grpcWant)(fmt.Sprintf("passthrough:///backend-%d", rigs.Add(1)), backend)
	client := testpb.NewTestClient(conn)
	for range 10 { // of one client, on one connection
		go func() {
			for { // like a watcher, it opens a new stream when one ends
				s, err := client.ServerStream(bg, &testpb.Request{})
				for err == nil {
					_, err = s.Recv()
				}
				if c.lib.grpc.rejected(err) {
					c.failf("rejected a watch on a healthy server that rotates its connections")
				}
			}
		}()
	}
	c.sleep(12 * time.Hour)
}

//go:build !clockstep

package behaviour

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

var streams = []*scenario{
	{
		id: "S01", title: "The breaker opens on server streams that fail at once", rule: "S2",
		why:   "the stream is created without an error; the failure arrives with the first message",
		needs: []feature{hasStreams},
		run: func(c *cell) {
			r := c.rig(answering(codes.Unavailable))
			r.mustGiveUp(testpb.Test_ServerStream_FullMethodName, func() { r.watch(bg) })
		},
	},
	{
		id: "S02", title: "The breaker opens on server streams that break after three messages", rule: "S2",
		why:   "the end of a stream is its outcome",
		needs: []feature{hasStreams},
		run: func(c *cell) {
			r := c.rig(testpb.Script{OnServerStream: func(
				_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response],
			) error {
				return breakAfter(3, s.Send)
			}})
			r.mustGiveUp(testpb.Test_ServerStream_FullMethodName, func() { r.watch(bg) })
		},
	},
	{
		id: "S03", title: "The breaker opens on client streams that fail at CloseAndRecv", rule: "S3",
		why:   "an upload fails at its end",
		needs: []feature{hasStreams},
		run: func(c *cell) {
			r := c.rig(testpb.Script{OnClientStream: func(s grpc.ClientStreamingServer[testpb.Request, testpb.Response]) error {
				for {
					if _, err := s.Recv(); err != nil {
						return status.Error(codes.Unavailable, "not stored")
					}
				}
			}})
			r.mustGiveUp(testpb.Test_ClientStream_FullMethodName, func() {
				s, err := r.client.ClientStream(bg)
				if err != nil {
					return
				}
				// RecvMsg returns the error
				_ = s.Send(&testpb.Request{})
				// the server counts the result
				_, _ = s.CloseAndRecv()
			})
		},
	},
	{
		id: "S04", title: "The breaker opens on bidirectional streams that the server ends early", rule: "S3",
		why:   "the sender sees io.EOF, which is no outcome; the receiver gets the status",
		needs: []feature{hasStreams},
		run: func(c *cell) {
			r := c.rig(testpb.Script{OnBidi: func(s grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error {
				// the server ends the stream anyway
				_, _ = s.Recv()
				return status.Error(codes.Unavailable, "leaving")
			}})
			r.mustGiveUp(testpb.Test_Bidi_FullMethodName, func() {
				s, err := r.client.Bidi(bg)
				if err != nil {
					return
				}
				for s.Send(&testpb.Request{}) == nil {
					c.sleep(time.Millisecond)
				}
				// the server counts the result
				_, _ = s.Recv()
			})
		},
	},
	{
		id: "S05", title: "The breaker opens on streams that break after a thousand messages", rule: "S8",
		why:   "a stream is one call, no matter how many messages it has",
		needs: []feature{hasStreams},
		run: func(c *cell) {
			r := c.rig(testpb.Script{OnServerStream: func(
				_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response],
			) error {
				return breakAfter(1000, s.Send)
			}})
			r.mustGiveUp(testpb.Test_ServerStream_FullMethodName, func() { r.watch(bg) })
		},
	},
	{
		id: "S06", title: "Streams that end with io.EOF are never rejected", rule: "S2",
		why:   "io.EOF is the normal end of a stream",
		needs: []feature{hasStreams},
		run: func(c *cell) {
			r := c.rig(testpb.Script{})
			r.mustServe(testpb.Test_ServerStream_FullMethodName, "end well", func() {
				s, err := r.client.ServerStream(bg, &testpb.Request{Count: 1})
				for err == nil {
					_, err = s.Recv()
				}
				if !errors.Is(err, io.EOF) {
					c.failf("rejected or broke a stream that ends with io.EOF")
				}
			})
		},
	},
	{
		id: "S07", title: "Streams that their callers cancel after the first message do not count as failures", rule: "S6",
		why:   "this is the normal end of a watch",
		needs: []feature{hasStreams},
		run: func(c *cell) {
			r := c.rig(lively())
			r.mustServe(testpb.Test_ServerStream_FullMethodName, "are cancelled by their callers", func() {
				ctx, cancel := context.WithCancel(bg)
				s, err := r.client.ServerStream(ctx, &testpb.Request{})
				if err == nil {
					// the first message
					_, _ = s.Recv()
				}
				cancel()
				if err == nil {
					// the cancellation
					_, _ = s.Recv()
				}
			})
		},
	},
	{
		id: "S08", title: "A rejected stream is nil, and its error has the status Unavailable", rule: "G8",
		why:   "as for unary calls",
		needs: []feature{hasStreams},
		run: func(c *cell) {
			r := c.rig(answering(codes.Unavailable))
			for range many {
				s, err := r.client.ServerStream(bg, &testpb.Request{})
				if err != nil && c.lib.grpc.rejected(err) {
					if s != nil {
						c.failf("a rejected stream is not nil")
					}
					if status.Code(err) != codes.Unavailable {
						c.failf("a rejected stream has the status %v", status.Code(err))
					}
					return
				}
				if err == nil {
					// it fails
					_, _ = s.Recv()
				}
				c.sleep(10 * time.Millisecond)
			}
			c.failf("rejected no stream, though %d failed", many)
		},
	},
	{
		id: "S09", title: "A watch that lasts an hour is a successful probe from its first message on", rule: "S8",
		why:   "if its end decided, all other calls would be rejected for an hour",
		needs: []feature{hasStreams, hasStates},
		run: func(c *cell) {
			r := c.rig(answering(codes.Unavailable))
			for range 50 {
				r.watch(bg)
			}
			r.srv.Set(lively())
			c.sleep(soon(grpcWant.openFor))
			for range 5 {
				s, err := r.client.ServerStream(bg, &testpb.Request{})
				if err != nil {
					c.failf("while one healthy watch was open, rejected another")
				}
				if _, err := s.Recv(); err != nil {
					c.failf("broke a healthy watch")
				}
				c.sleep(10 * time.Millisecond)
			}
		},
	},
	{
		id: "S10", title: "A leaked probe stream does not keep the breaker half-open", rule: "S7, B22",
		why:   "the caller neither reads it to the end nor cancels it",
		needs: []feature{hasStreams, hasStates},
		run: func(c *cell) {
			r := c.rig(answering(codes.Unavailable))
			for range 50 {
				r.watch(bg)
			}
			r.srv.Set(hanging())
			c.sleep(soon(grpcWant.openFor))
			if _, err := r.client.ServerStream(bg, &testpb.Request{}); err != nil {
				c.failf("rejected the first stream after the open period")
			}
			r.srv.Set(testpb.Script{})
			for range 60 {
				c.sleep(time.Second)
				s, err := r.client.ServerStream(bg, &testpb.Request{Count: 1})
				if err == nil {
					if _, err = s.Recv(); err == nil {
						return
					}
				}
			}
			c.failf("a minute later every stream is still rejected")
		},
	},
	{
		id: "S11", title: "Streams that were open when the breaker opened continue", rule: "S11",
		why:   "they still work; only new streams fail",
		needs: []feature{hasStreams},
		run: func(c *cell) {
			r := c.rig(testpb.Script{})
			s, err := r.client.Bidi(bg)
			if err != nil {
				c.failf("rejected the first stream")
			}
			talk := func(when string) {
				if err := s.Send(&testpb.Request{Text: "still there"}); err != nil {
					c.failf("a stream from before the outage cannot send %s", when)
				}
				if _, err := s.Recv(); err != nil {
					c.failf("a stream from before the outage cannot receive %s", when)
				}
			}
			talk("before it")
			r.srv.Set(answering(codes.Unavailable))
			for range many {
				if b, err := r.client.Bidi(bg); err == nil {
					// it fails
					_, _ = b.Recv()
				}
				c.sleep(10 * time.Millisecond)
			}
			for range 20 {
				talk("during it")
			}
		},
	},
	{
		id: "S12", title: "grpc's own retries of streams still work under it", rule: "S9",
		why:   "an interceptor that uses the stream too early commits it, and grpc does not retry any more",
		needs: []feature{hasStreams},
		run: func(c *cell) {
			var n atomic.Int64
			r := c.rig(testpb.Script{OnServerStream: func(
				_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response],
			) error {
				if n.Add(1)%3 != 0 {
					return status.Error(codes.Unavailable, "try again")
				}
				return s.Send(&testpb.Response{})
			}}, grpc.WithDefaultServiceConfig(retryConfig))
			for range 100 {
				s, err := r.client.ServerStream(bg, &testpb.Request{})
				for err == nil {
					_, err = s.Recv()
				}
				if !errors.Is(err, io.EOF) {
					c.failf("a stream failed that a retry by grpc would have saved")
				}
				c.sleep(10 * time.Millisecond)
			}
		},
	},
	{
		id: "S13", title: "A thousand open streams need no additional goroutines", rule: "S12",
		why:   "a goroutine for each watch makes watches expensive",
		needs: []feature{hasStreams},
		run: func(c *cell) {
			grown := func(conn *grpc.ClientConn) int {
				client := testpb.NewTestClient(conn)
				open := func(n int) {
					for range n {
						s, err := client.ServerStream(bg, &testpb.Request{})
						if err != nil {
							c.failf("rejected a healthy stream")
						}
						if _, err := s.Recv(); err != nil {
							c.failf("broke a healthy stream")
						}
					}
					c.settle()
				}
				open(1)
				before := runtime.NumGoroutine()
				open(1000)
				return runtime.NumGoroutine() - before
			}
			r := c.rig(lively())
			bare := grown(r.backend.DialTarget(c.tb, "passthrough:///bare"))
			if grown(r.conn)-bare > 100 {
				c.failf("1000 open streams need more than 100 goroutines besides those of grpc")
			}
		},
	},
}

// lively returns a script whose streams send one message and do not end.
func lively() testpb.Script {
	return testpb.Script{OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
		if err := s.Send(&testpb.Response{}); err != nil {
			return err
		}
		<-s.Context().Done()
		return s.Context().Err()
	}}
}

// breakAfter sends n messages and then fails.
func breakAfter(n int, send func(*testpb.Response) error) error {
	for range n {
		if err := send(&testpb.Response{}); err != nil {
			return err
		}
	}
	return status.Error(codes.Unavailable, "broke")
}

// watch reads a server stream to its end.
func (r *rig) watch(ctx context.Context) {
	s, err := r.client.ServerStream(ctx, &testpb.Request{})
	for err == nil {
		_, err = s.Recv()
	}
	r.c.sleep(10 * time.Millisecond)
}

// mustGiveUp makes streams that fail, and requires that few of the last ones reach the server.
func (r *rig) mustGiveUp(method string, stream func()) {
	for range many {
		stream()
	}
	before := r.srv.Received(method)
	for range 50 {
		stream()
	}
	if r.srv.Received(method)-before > 10 {
		r.c.failf("after %d failed streams, the next still reach the server", many)
	}
}

// mustServe makes streams that do not fail, and requires that the last ones reach the server.
func (r *rig) mustServe(method, which string, stream func()) {
	for range many {
		stream()
		r.c.sleep(10 * time.Millisecond)
	}
	before := r.srv.Received(method)
	for range 50 {
		stream()
		r.c.sleep(10 * time.Millisecond)
	}
	if r.srv.Received(method)-before < 45 {
		r.c.failf("after %d streams that %s, it rejects the next", many, which)
	}
}

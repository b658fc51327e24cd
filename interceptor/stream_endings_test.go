package interceptor

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// streamEnding is one way for a stream to end. After run has returned, the caller makes no more calls on the stream.
type streamEnding struct {
	name   string
	script testpb.Script
	dial   []grpc.DialOption
	run    func(ctx context.Context, r *streamRig, cancel context.CancelFunc)
	want   tally // 60 ms after run, before the cancel or the close
	// wrapped replaces want in the arrangement "wrapped", where OnFinish during a call decides nothing. nil: no
	// difference.
	wrapped *tally
	// inside replaces want if an interceptor is between the guard and grpc. nil: no difference.
	inside *tally
	// canceled is the outcome of a stream that is in flight until it is canceled or its connection is closed.
	// canceledInside is that with an interceptor between. The guard then does not know of a header unless the caller has
	// called Header (S9).
	canceled, canceledInside breaker.Outcome
}

var (
	inFlight = tally{InFlight: 1}
	ignored  = one(breaker.Ignored)
)

// server, bidi and upload start a stream of that kind.
func (r *streamRig) server(ctx context.Context, opts ...grpc.CallOption) grpc.ServerStreamingClient[testpb.Response] {
	r.Helper()
	s, err := r.client.ServerStream(ctx, &testpb.Request{}, opts...)
	if err != nil {
		r.Fatal(err)
	}
	return s
}

func (r *streamRig) bidi(
	ctx context.Context, opts ...grpc.CallOption,
) grpc.BidiStreamingClient[testpb.Request, testpb.Response] {
	r.Helper()
	s, err := r.client.Bidi(ctx, opts...)
	if err != nil {
		r.Fatal(err)
	}
	return s
}

func (r *streamRig) upload(
	ctx context.Context, opts ...grpc.CallOption,
) grpc.ClientStreamingClient[testpb.Request, testpb.Response] {
	r.Helper()
	s, err := r.client.ClientStream(ctx, opts...)
	if err != nil {
		r.Fatal(err)
	}
	return s
}

// endsWith drains a stream and compares its status code.
func endsWith[M any](tb testing.TB, s interface{ Recv() (*M, error) }, want codes.Code) {
	tb.Helper()
	_, err := drain(s)
	wantCode(tb, "stream", err, want)
}

var streamEndings = []streamEnding{
	{
		name: "drained", script: sends(3, nil), want: one(breaker.Success),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			endsWith(r, r.server(ctx), codes.OK)
		},
	},
	{
		name: "error after messages", script: sends(3, down), want: one(breaker.Failure),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			endsWith(r, r.server(ctx), codes.Unavailable)
		},
	},
	{
		name: "messages read, EOF never", script: sends(3, nil), want: inFlight,
		canceled: breaker.Success, canceledInside: breaker.Success,
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			s := r.server(ctx)
			for range 3 {
				if _, err := s.Recv(); err != nil {
					r.Fatal(err)
				}
			}
		},
	},
	{
		name: "abandoned, server live", script: lives(0), want: inFlight,
		canceled: breaker.Ignored, canceledInside: breaker.Ignored,
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) { r.server(ctx) },
	},
	{
		name: "abandoned, server done OK", script: sends(0, nil), want: inFlight,
		canceled: breaker.Ignored, canceledInside: breaker.Ignored, // a trailers-only response has no header
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) { r.server(ctx) },
	},
	{
		name: "abandoned, server failed", script: sends(0, down), want: inFlight,
		canceled: breaker.Ignored, canceledInside: breaker.Ignored,
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) { r.server(ctx) },
	},
	{
		name: "abandoned, message not read", script: lives(1), want: inFlight,
		canceled: breaker.Success, canceledInside: breaker.Ignored,
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) { r.server(ctx) },
	},
	{
		name: "abandoned, deadline expires", script: lives(1), want: one(breaker.Failure),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			r.Cleanup(cancel)
			r.server(ctx)
			time.Sleep(time.Second)
		},
	},
	{
		name: "Recv blocked, cancel", script: lives(1), want: one(breaker.Success),
		run: func(ctx context.Context, r *streamRig, cancel context.CancelFunc) {
			s := r.server(ctx)
			time.AfterFunc(time.Second, cancel)
			endsWith(r, s, codes.Canceled)
		},
	},
	{
		name: "Recv blocked, cancel, no answer", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, r *streamRig, cancel context.CancelFunc) {
			s := r.server(ctx)
			time.AfterFunc(time.Second, cancel)
			endsWith(r, s, codes.Canceled)
		},
	},
	{
		name: "Recv blocked, deadline, old", script: lives(1), want: one(breaker.Success),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			r.Cleanup(cancel)
			endsWith(r, r.server(ctx), codes.DeadlineExceeded)
		},
	},
	{
		name: "Recv blocked, deadline, old, no answer", script: lives(0), want: one(breaker.Failure),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			r.Cleanup(cancel)
			endsWith(r, r.server(ctx), codes.DeadlineExceeded)
		},
	},
	{
		name: "Recv blocked, deadline", script: lives(1), want: one(breaker.Failure),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			r.Cleanup(cancel)
			endsWith(r, r.server(ctx), codes.DeadlineExceeded)
		},
	},
	{
		name: "Recv blocked, connection closed", script: lives(1), want: one(breaker.Success),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			s := r.server(ctx)
			time.AfterFunc(time.Second, func() { _ = r.conn.Close() })
			endsWith(r, s, codes.Canceled)
		},
	},
	{
		name: "Recv blocked, connection closed, no answer", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			s := r.server(ctx)
			time.AfterFunc(time.Second, func() { _ = r.conn.Close() })
			endsWith(r, s, codes.Canceled)
		},
	},
	{
		name: "Recv blocked, server stopped, old", script: lives(1), want: one(breaker.Success),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			s := r.server(ctx)
			time.AfterFunc(time.Minute, r.backend.Stop)
			endsWith(r, s, codes.Unavailable)
		},
	},
	{
		name: "Recv blocked, server stopped, old, no answer", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			s := r.server(ctx)
			time.AfterFunc(time.Minute, r.backend.Stop)
			endsWith(r, s, codes.Unavailable)
		},
	},
	{
		name: "Recv blocked, server stopped", script: lives(1), want: one(breaker.Failure),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			s := r.server(ctx)
			time.AfterFunc(time.Second, r.backend.Stop)
			endsWith(r, s, codes.Unavailable)
		},
	},
	{
		name: "no RecvMsg, connection closed", script: lives(1), want: one(breaker.Success), inside: &ignored,
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			r.server(ctx)
			synctest.Wait()
			_ = r.conn.Close()
		},
	},
	{
		name: "Header only, failed without one", script: sends(0, down), want: one(breaker.Failure), wrapped: &inFlight,
		canceledInside: breaker.Ignored,
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			if md, err := r.server(ctx).Header(); md != nil || err != nil {
				r.Errorf("Header: got %v, %v, want nil, nil", md, err)
			}
		},
	},
	{
		name: "Header only, done OK without one", script: sends(0, nil), want: one(breaker.Ignored), wrapped: &inFlight,
		canceledInside: breaker.Ignored,
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			_, _ = r.server(ctx).Header()
		},
	},
	{
		name: "Header, then Recv", script: sends(0, down), want: one(breaker.Failure),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			s := r.server(ctx)
			_, _ = s.Header()
			endsWith(r, s, codes.Unavailable)
		},
	},
	{
		name: "Header received, nothing else", script: lives(1), want: inFlight,
		canceled: breaker.Success, canceledInside: breaker.Success,
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			if md, err := r.bidi(ctx).Header(); md == nil || err != nil {
				r.Errorf("Header: got %v, %v, want one", md, err)
			}
		},
	},
	{
		name: "upload, answered", script: testpb.Script{}, want: one(breaker.Success),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			_, err := r.upload(ctx).CloseAndRecv()
			wantCode(r, "CloseAndRecv", err, codes.OK)
		},
	},
	{
		name: "upload, failed", script: failing(down), want: one(breaker.Failure),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			_, err := r.upload(ctx).CloseAndRecv()
			wantCode(r, "CloseAndRecv", err, codes.Unavailable)
		},
	},
	{
		name: "upload, Send has EOF, Recv never", script: failing(down), want: inFlight,
		canceled: breaker.Ignored, canceledInside: breaker.Ignored,
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			s := r.upload(ctx)
			synctest.Wait()
			if err := s.Send(&testpb.Request{}); !errors.Is(err, io.EOF) {
				r.Errorf("Send: got %v, want io.EOF", err)
			}
		},
	},
	{
		name: "upload, CloseSend only", script: testpb.Script{}, want: inFlight,
		// the response has come, and the caller does not read it
		canceled: breaker.Success, canceledInside: breaker.Ignored,
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			if err := r.upload(ctx).CloseSend(); err != nil {
				r.Error(err)
			}
		},
	},
	{
		name: "Send has EOF, then Recv", script: failing(down), want: one(breaker.Failure),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			s := r.bidi(ctx)
			synctest.Wait()
			if err := s.Send(&testpb.Request{}); !errors.Is(err, io.EOF) {
				r.Errorf("Send: got %v, want io.EOF", err)
			}
			endsWith(r, s, codes.Unavailable)
		},
	},
	{
		name: "Send too large", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			s := r.bidi(ctx, grpc.MaxCallSendMsgSize(10))
			err := s.Send(&testpb.Request{Payload: make([]byte, 100)})
			wantCode(r, "Send", err, codes.ResourceExhausted)
		},
	},
	{
		name: "Send too large, Recv blocked", script: lives(1), want: one(breaker.Ignored),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			s := r.bidi(ctx, grpc.MaxCallSendMsgSize(10))
			received := make(chan error)
			go func() {
				_, err := drain(s)
				received <- err
			}()
			synctest.Wait()
			err := s.Send(&testpb.Request{Payload: make([]byte, 100)})
			wantCode(r, "Send", err, codes.ResourceExhausted)
			if err := <-received; err == nil {
				r.Error("Recv: no error")
			}
		},
	},
	{
		name: "Send too large, server done", want: one(breaker.Ignored), // an answer of the peer does not change this (G5)
		script: pushesBack(0, down, pushbackTrailer, "30000"),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			s := r.bidi(ctx, grpc.MaxCallSendMsgSize(10))
			synctest.Wait()
			err := s.Send(&testpb.Request{Payload: make([]byte, 100)})
			wantCode(r, "Send", err, codes.ResourceExhausted)
		},
	},
	{
		name: "Send cannot marshal", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			err := r.bidi(ctx).Send(&testpb.Request{Text: "\xff"})
			wantCode(r, "Send", err, codes.Internal)
		},
	},
	{
		name: "half-closed, drained", script: testpb.Script{}, want: one(breaker.Success),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			s := r.bidi(ctx)
			for range 2 {
				if err := s.Send(&testpb.Request{}); err != nil {
					r.Fatal(err)
				}
			}
			if err := s.CloseSend(); err != nil {
				r.Fatal(err)
			}
			endsWith(r, s, codes.OK)
		},
	},
	{
		name: "Recv again after EOF", script: sends(2, nil), want: one(breaker.Success),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			s := r.bidi(ctx)
			for range 3 {
				endsWith(r, s, codes.OK)
			}
		},
	},
	{
		name: "creation, context done before", script: lives(0), want: tally{}, // B24
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			_, err := r.client.ServerStream(ctx, &testpb.Request{})
			wantCode(r, "creation", err, codes.Canceled)
		},
	},
	{
		name: "creation, refused", script: lives(0), want: one(breaker.Failure),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			r.backend.Stop()
			_, err := r.client.ServerStream(ctx, &testpb.Request{})
			wantCode(r, "creation", err, codes.Unavailable)
		},
	},
	{
		name: "creation, refused, waits for ready until canceled", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, r *streamRig, cancel context.CancelFunc) {
			r.backend.Stop()
			time.AfterFunc(time.Minute, cancel)
			_, err := r.client.ServerStream(ctx, &testpb.Request{}, grpc.WaitForReady(true))
			wantCode(r, "creation", err, codes.Canceled)
		},
	},
	{
		name: "creation, unknown compressor", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			_, err := r.client.ServerStream(ctx, &testpb.Request{}, grpc.UseCompressor("none such"))
			wantCode(r, "creation", err, codes.Internal)
		},
	},
	{
		name: "creation, bad metadata", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			ctx = metadata.AppendToOutgoingContext(ctx, "a key", "v")
			_, err := r.client.ServerStream(ctx, &testpb.Request{})
			wantCode(r, "creation", err, codes.Internal)
		},
	},
	{
		name: "creation, connection closed", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			_ = r.conn.Close()
			_, err := r.client.ServerStream(ctx, &testpb.Request{})
			wantCode(r, "creation", err, codes.Canceled)
		},
	},
	{
		name: "received too large", want: one(breaker.Success), // the peer has answered (G5)
		script: testpb.Script{OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
			return s.Send(&testpb.Response{Payload: make([]byte, 100)})
		}},
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			endsWith(r, r.server(ctx, grpc.MaxCallRecvMsgSize(10)), codes.ResourceExhausted)
		},
	},
	{
		name: "service-config retries, the third succeeds", script: sends(0, nil), want: one(breaker.Success),
		dial: []grpc.DialOption{grpc.WithDefaultServiceConfig(retryConfig)},
		run: func(ctx context.Context, r *streamRig, _ context.CancelFunc) {
			r.srv.Set(failsTimes(2))
			endsWith(r, r.server(ctx), codes.OK)
		},
	},
}

// TestS02_StreamEndings tests each way for a stream to end, in each arrangement. Each stream has one outcome, of the
// right kind, and no permit is kept (S1, S2, S3, S4, S6). If a caller abandons an open stream (S7), the stream keeps
// its permit, here for an hour. It settles within 100 ms after its context has ended or its connection was closed.
func TestS02_StreamEndings(t *testing.T) {
	for _, row := range streamEndings {
		for _, a := range streamArrangements {
			for _, fate := range []string{"cancel", "close"} {
				t.Run(row.name+"/"+a.name+"/"+fate, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { row.check(t, a, fate) })
				})
			}
		}
	}
}

func (row streamEnding) check(t *testing.T, a streamArrangement, fate string) {
	t.Helper()
	want, canceled := row.want, row.canceled
	if a.name != "bare" {
		canceled = row.canceledInside
		if row.inside != nil {
			want = *row.inside
		}
	}
	if a.wraps() && row.wrapped != nil {
		if fate == "close" {
			return // grpc has ended the stream, and the close changes nothing: only the context still ends it
		}
		want = *row.wrapped
	}
	g := newGuard(t, breaker.Config{})
	r := newStreamRig(t, g, row.script, append(append([]grpc.DialOption{}, a.dial...), row.dial...)...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	row.run(ctx, r, cancel)
	time.Sleep(60 * time.Millisecond)
	synctest.Wait()
	wantTally(t, "left alone", g, want)

	after := want
	if want.InFlight > 0 {
		time.Sleep(time.Hour)
		synctest.Wait()
		wantTally(t, "an hour later", g, want)
		after = one(canceled)
	}
	if fate == "cancel" {
		cancel()
	} else {
		_ = r.conn.Close()
	}
	time.Sleep(100 * time.Millisecond)
	synctest.Wait()
	wantTally(t, "after the "+fate, g, after)
	cancel()
	_ = r.conn.Close()
	synctest.Wait()
	wantTally(t, "in the end", g, after)
}

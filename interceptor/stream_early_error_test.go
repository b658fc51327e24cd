package interceptor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// refusing is an interceptor whose streams return an error for the first message, as one does that validates messages.
// The stream of grpc below goes on.
func refusing(
	ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer,
	opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	cs, err := streamer(ctx, desc, cc, method, opts...)
	return &refusingStream{cs}, err
}

type refusingStream struct{ grpc.ClientStream }

var errRefused = errors.New("the message is not valid")

func (s *refusingStream) RecvMsg(m any) error {
	if err := s.ClientStream.RecvMsg(m); err != nil {
		return err
	}
	time.Sleep(20 * time.Millisecond) // the trailer comes in this time
	return errRefused
}

// G5: an interceptor may return an error while the stream of grpc goes on. grpc allows to read the trailer only after
// the end, so the guard must not read it. The race detector sees it.
func TestG05_ErrorBeforeTheEndConcurrentSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, lenient, WithKey(oneKey))
		oneMessage := testpb.Script{OnServerStream: func(
			_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response],
		) error {
			s.SetTrailer(metadata.Pairs("k", "v"))
			err := s.Send(new(testpb.Response))
			time.Sleep(time.Millisecond)
			return err
		}}
		r := newStreamRig(t, g, oneMessage, grpc.WithChainStreamInterceptor(refusing))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if _, err := r.server(ctx).Recv(); !errors.Is(err, errRefused) {
			t.Fatalf("got %v, want %v", err, errRefused)
		}
		wantTally(t, "after the error", g, one(breaker.Failure))
	})
}

// impatient is an interceptor whose streams return an error if no message has come for a second. The stream of grpc
// goes on until the caller cancels its context.
func impatient(
	ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer,
	opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	cs, err := streamer(ctx, desc, cc, method, opts...)
	return &impatientStream{cs}, err
}

type impatientStream struct{ grpc.ClientStream }

func (s *impatientStream) RecvMsg(m any) error {
	ended := make(chan error, 1)
	go func() { ended <- s.ClientStream.RecvMsg(m) }()
	select {
	case err := <-ended:
		return err
	case <-time.After(time.Second):
		return errRefused
	}
}

// G5: as above, but no header has come. The guard must not wait for it.
func TestG05_ErrorBeforeTheHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, lenient, WithKey(oneKey))
		silent := testpb.Script{OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
			<-s.Context().Done()
			return nil
		}}
		r := newStreamRig(t, g, silent, grpc.WithChainStreamInterceptor(impatient))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		if _, err := r.server(ctx).Recv(); !errors.Is(err, errRefused) {
			t.Errorf("got %v, want %v", err, errRefused)
		}
		if got := time.Since(start); got != time.Second {
			t.Errorf("the caller waited %v, want 1s", got)
		}
		wantTally(t, "after the error", g, one(breaker.Failure))
	})
}

// S2: RecvMsg of a wrapped stream may return the end of the context before OnFinish is called. The header still shows
// that the stream was answered.
func TestS02_WrappedHeaderOnlyAtItsDeadlineConcurrentSafe(t *testing.T) {
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, lenient, WithKey(oneKey), WithLongStream(time.Second))
			r := newStreamRig(t, g, headerOnly(), grpc.WithChainStreamInterceptor(wrap))
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, _ = drain(r.server(ctx))
			synctest.Wait()
			wantTally(t, "long-lived, at its deadline", g, one(breaker.Success))
		})
	}
}

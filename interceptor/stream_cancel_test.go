package interceptor

import (
	"context"
	"errors"
	"io"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// S6: the guard detects the end of a stream at any time, here while RecvMsg runs. A codec blocks RecvMsg until the end
// has come.
func TestS06_EndsWhileReceiving(t *testing.T) {
	for _, fate := range []string{"cancel", "close"} {
		t.Run(fate, func(t *testing.T) {
			inEach(t, func(t arranged) {
				g := newGuard(t, breaker.Config{})
				r := newStreamRig(t, g, lives(2), t.dial...)
				codec, held, release := newHookedCodec(), make(chan struct{}), make(chan struct{})
				codec.unmarshal = func() {
					close(held)
					<-release
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := r.server(ctx, grpc.ForceCodecV2(codec))
				received := make(chan error)
				go func() {
					_, err := s.Recv()
					received <- err
				}()
				<-held
				if fate == "cancel" {
					cancel()
				} else {
					_ = r.conn.Close()
				}
				synctest.Wait() // OnFinish was called while RecvMsg was running
				close(release)
				if err := <-received; err != nil {
					t.Fatalf("Recv: %v, want a message: OnFinish must be called in a RecvMsg that succeeds", err)
				}
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				// The end came before the message. With grpc directly below, the guard knows of the header. Otherwise it waits for
				// the running call, which returns a message.
				wantTally(t, "no more calls of RecvMsg", g, one(breaker.Success))
			})
		})
	}
}

// S6: the same for SendMsg. Its io.EOF is not an outcome (S3), and the caller may make no call after it.
func TestS06_EndsWhileSending(t *testing.T) {
	for _, fate := range []string{"cancel", "close"} {
		t.Run(fate, func(t *testing.T) {
			inEach(t, func(t arranged) {
				g := newGuard(t, breaker.Config{})
				r := newStreamRig(t, g, lives(0), t.dial...)
				codec, held, release := newHookedCodec(), make(chan struct{}), make(chan struct{})
				codec.marshal = func() {
					close(held)
					<-release
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := r.bidi(ctx, grpc.ForceCodecV2(codec))
				sent := make(chan error)
				go func() { sent <- s.Send(&testpb.Request{}) }()
				<-held
				if fate == "cancel" {
					cancel()
				} else {
					_ = r.conn.Close()
				}
				synctest.Wait()
				close(release)
				if err := <-sent; !errors.Is(err, io.EOF) {
					t.Fatalf("Send: got %v, want io.EOF", err)
				}
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				wantTally(t, "no more calls", g, one(breaker.Ignored))
			})
		})
	}
}

// S6: the same while an interceptor has the stream and has not returned it yet.
func TestS06_EndsWhileOpening(t *testing.T) {
	for _, fate := range []string{"cancel", "close"} {
		t.Run(fate, func(t *testing.T) {
			inEach(t, func(t arranged) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				late := func(
					ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer,
					opts ...grpc.CallOption,
				) (grpc.ClientStream, error) {
					cs, err := streamer(ctx, desc, cc, method, opts...)
					if fate == "cancel" {
						cancel()
					} else {
						_ = cc.Close()
					}
					synctest.Wait() // OnFinish was called
					return cs, err
				}
				g := newGuard(t, breaker.Config{})
				r := newStreamRig(t, g, lives(1), append(append([]grpc.DialOption{}, t.dial...),
					grpc.WithChainStreamInterceptor(late))...)
				if _, err := r.conn.NewStream(ctx, bothStream, testpb.Test_Bidi_FullMethodName); err != nil {
					t.Fatal(err)
				}
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				wantTally(t, "no calls of RecvMsg", g, one(breaker.Ignored))
			})
		})
	}
}

// S6: an interceptor inside may end the stream by a context that it made, here by a timeout for each attempt. The
// stream is then over, and the backend did not answer in time. For a wrapped stream OnFinish does not show this,
// because there may be another attempt. RecvMsg does.
func TestS06_InnerTimeout(t *testing.T) {
	for _, a := range streamArrangements {
		synctest.Test(t, func(t *testing.T) {
			timeout := func(
				ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer,
				opts ...grpc.CallOption,
			) (grpc.ClientStream, error) {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				t.Cleanup(cancel)
				return streamer(ctx, desc, cc, method, opts...)
			}
			g := newGuard(t, breaker.Config{})
			r := newStreamRig(t, g, lives(1), append(append([]grpc.DialOption{}, a.dial...),
				grpc.WithChainStreamInterceptor(timeout))...)
			s := r.server(t.Context())
			time.Sleep(time.Second - 1)
			synctest.Wait()
			wantTally(t, a.name+", before the timeout", g, tally{InFlight: 1})
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if a.wraps() {
				wantTally(t, a.name+", after the timeout", g, tally{InFlight: 1})
				endsWith(t, s, codes.DeadlineExceeded)
			}
			wantTally(t, a.name+", after the timeout", g, one(breaker.Failure))
		})
	}
}

// S6: a closed connection with another error of grpc. Of the streams in flight when their caller closes the connection,
// one in a hundred ends with this error, because the transport was closed first.
func TestS06_TransportOfClosedConnection(t *testing.T) {
	cc, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	g := newGuard(t, breaker.Config{})
	open := func() grpc.ClientStream {
		cs, err := g.Stream(t.Context(), serverStreams, cc, fullMethod,
			func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
				return &fakeStream{recv: func(any) error { return status.Error(codes.Unavailable, "transport is closing") }}, nil
			})
		if err != nil {
			t.Fatal(err)
		}
		return cs
	}
	before, after := open(), open()
	_, _ = drainRaw(before)
	wantTally(t, "while the connection is open", g, tally{Failure: 1, InFlight: 1})
	_ = cc.Close()
	_, _ = drainRaw(after)
	wantTally(t, "once it is closed", g, tally{Failure: 1, Ignored: 1})
}

// S6: an interceptor inside may drop the guard's option, or get the stream from elsewhere. Then OnFinish is never
// called.
func TestS06_OptionsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lose := func(
			ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer,
			_ ...grpc.CallOption,
		) (grpc.ClientStream, error) {
			return streamer(ctx, desc, cc, method)
		}
		g := newGuard(t, breaker.Config{})
		r := newStreamRig(t, g, lives(1), grpc.WithChainStreamInterceptor(lose))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r.server(ctx)
		time.Sleep(time.Minute)
		wantTally(t, "abandoned", g, tally{InFlight: 1})
		cancel()
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		wantTally(t, "canceled", g, one(breaker.Ignored))
	})
}

// S7: an abandoned stream whose context has not ended costs no goroutine, however long it stays open. Its permit has no
// timer.
func TestS07_AbandonedWithLiveContext(t *testing.T) {
	inEach(t, func(t arranged) {
		g := newGuard(t, breaker.Config{})
		r := newStreamRig(t, g, lives(1), t.dial...)
		r.server(context.WithoutCancel(t.Context()))
		time.Sleep(1000 * time.Hour)
		synctest.Wait()
		wantTally(t, "after 1000 hours", g, tally{InFlight: 1})
		_ = r.conn.Close()
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		want := breaker.Ignored
		if t.name == "bare" {
			want = breaker.Success // a header has come (S2)
		}
		wantTally(t, "after the connection's end", g, one(want))
	})
}

// Streams that their callers cancel do not open a breaker, however many there are.
func TestS06_CancelsNeverOpen(t *testing.T) {
	inEach(t, func(t arranged) {
		g := newGuard(t, breaker.Config{ConsecutiveFailures: 1, MinCalls: 1, FailureRatio: math.SmallestNonzeroFloat64})
		r := newStreamRig(t, g, lives(0), t.dial...)
		for range 1000 {
			ctx, cancel := context.WithCancel(t.Context())
			r.server(ctx)
			cancel()
		}
		synctest.Wait()
		wantState(t, "after 1000 cancels", g, breaker.Closed)
		wantTally(t, "after 1000 cancels", g, tally{Ignored: 1000})
	})
}

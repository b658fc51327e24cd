package interceptor

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// S11: one goroutine sends, another receives, a third calls Header, and something ends the stream. There is no race,
// and each stream has one outcome.
func TestS11_SendAndReceiveConcurrentSafe(t *testing.T) {
	const streams = 10
	for _, fate := range []string{"none", "cancel", "deadline", "close", "stop"} {
		t.Run(fate, func(t *testing.T) {
			inEach(t, func(t arranged) {
				g := newGuard(t, breaker.Config{ConsecutiveFailures: -1, FailureRatio: -1})
				r := newStreamRig(t, g, testpb.Script{}, t.dial...)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if fate == "deadline" {
					ctx, cancel = context.WithTimeout(ctx, time.Millisecond)
					defer cancel()
				}
				var wg sync.WaitGroup
				for range streams {
					s, err := r.client.Bidi(ctx)
					if err != nil {
						t.Fatal(err)
					}
					wg.Go(func() {
						for range 1 + rand.IntN(20) {
							if s.Send(&testpb.Request{}) != nil {
								return
							}
						}
						_ = s.CloseSend()
					})
					wg.Go(func() { _, _ = drain(s) })
					wg.Go(func() { _, _ = s.Header() })
				}
				wg.Go(func() {
					switch fate {
					case "cancel":
						cancel()
					case "deadline":
						time.Sleep(time.Millisecond)
					case "close":
						_ = r.conn.Close()
					case "stop":
						r.backend.Stop()
					}
				})
				wg.Wait()
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				s := onlyBreaker(t, g).Snapshot()
				if got := s.Successes + s.Failures + s.Ignored; got != streams || s.InFlight != 0 {
					t.Errorf("%d outcomes of %d streams, %d in flight", got, streams, s.InFlight)
				}
				if fate == "none" && s.Successes != streams {
					t.Errorf("%d of %d streams succeeded", s.Successes, streams)
				}
				if fate == "cancel" && s.Failures != 0 {
					t.Errorf("%d streams failed although their callers ended them", s.Failures)
				}
			})
		})
	}
}

// S11, S6: a caller cancels a stream while another of its goroutines receives.
func TestS11_CancelWhileReceivingConcurrentSafe(t *testing.T) {
	const streams = 50
	inEach(t, func(t arranged) {
		g := newGuard(t, breaker.Config{})
		r := newStreamRig(t, g, lives(3), t.dial...)
		var wg sync.WaitGroup
		for i := range streams {
			ctx, cancel := context.WithCancel(t.Context())
			s := r.server(ctx)
			wg.Go(func() {
				for range i % 4 {
					if _, err := s.Recv(); err != nil {
						return
					}
				}
			})
			wg.Go(cancel)
		}
		wg.Wait()
		time.Sleep(100 * time.Millisecond) // a running call may delay the outcome (S6)
		synctest.Wait()
		// A stream that was answered before its caller canceled it is a success. Others are ignored (S2).
		n := onlyBreaker(t, g).Snapshot().Successes
		wantTally(t, "after all have left", g, tally{Success: n, Ignored: streams - min(n, streams)})
	})
}

// S4, S11: all possible ends of a stream at the same time, for a stream that is not grpc's own.
func TestS04_AllEndsAtOnceConcurrentSafe(t *testing.T) {
	for i := range 100 {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, probeConfig)
			if i%2 == 0 {
				halfOpen(t, g, methodKey)
			}
			messages := rand.IntN(3)
			f := &fakeStream{
				recv: func(any) error {
					if messages == 0 {
						return down
					}
					messages--
					return nil
				},
				send:      func(any) error { return statusError(codes.Internal) },
				closeSend: func() error { return io.EOF },
			}
			ctx, cancel := context.WithCancel(t.Context())
			cs, finish := openFake(ctx, t, g, bothStream, f)
			start := make(chan struct{})
			for _, act := range []func(){
				cancel,
				func() { finish(nil) },
				func() { finish(down) },
				func() { finish(statusError(codes.Canceled)) },
				func() { _, _ = drainRaw(cs) },
				func() { _, _ = cs.SendMsg(nil), cs.CloseSend() },
				func() { _, _ = cs.Header() },
			} {
				go func() {
					<-start
					act()
				}()
			}
			close(start)
			synctest.Wait()
			s := onlyBreaker(t, g).Snapshot()
			if got := s.Successes + s.Failures + s.Overloads + s.Ignored + s.Late; got != 1 || s.InFlight != 0 {
				t.Errorf("%d outcomes, want 1: %+v", got, s)
			}
		})
	}
}

// S4: an interceptor may open two streams, return one and cancel the other. OnFinish then reports the end of a stream
// that the guard does not have, while its own is about to end.
func TestS04_DroppedAttemptConcurrentSafe(t *testing.T) {
	const streams = 100
	synctest.Test(t, func(t *testing.T) {
		two := func(
			ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer,
			opts ...grpc.CallOption,
		) (grpc.ClientStream, error) {
			lost, cancel := context.WithCancel(ctx)
			if _, err := streamer(lost, desc, cc, method, opts...); err != nil {
				t.Error(err)
			}
			cs, err := streamer(ctx, desc, cc, method, opts...)
			go cancel()
			return cs, err
		}
		g := newGuard(t, breaker.Config{})
		r := newStreamRig(t, g, pushesBack(1, errNotFound, pushbackTrailer, "30000"), grpc.WithChainStreamInterceptor(two))
		for range streams {
			endsWith(t, r.server(t.Context()), codes.NotFound)
		}
		synctest.Wait()
		s := onlyBreaker(t, g).Snapshot()
		if got := s.Successes + s.Ignored; got != streams || s.InFlight != 0 {
			t.Errorf("%d outcomes of %d streams: %+v", got, streams, s)
		}
	})
}

// S11: streams that were open when the breaker tripped go on and end as usual. Their results are late (B15).
func TestS11_OpenStreamsOutliveTheTrip(t *testing.T) {
	for _, end := range []error{nil, down} {
		inEach(t, func(t arranged) {
			g := newGuard(t, breaker.Config{OpenFor: 5 * time.Second})
			r := newStreamRig(t, g, testpb.Script{
				OnBidi: func(s grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error {
					for {
						if _, err := s.Recv(); errors.Is(err, io.EOF) {
							return end
						} else if err != nil {
							return err
						}
						if err := s.Send(new(testpb.Response)); err != nil {
							return err
						}
					}
				},
			}, t.dial...)
			s := r.bidi(t.Context())
			talk := func(when string) {
				t.Helper()
				if err := s.Send(&testpb.Request{}); err != nil {
					t.Errorf("%s: Send: %v", when, err)
				}
				if _, err := s.Recv(); err != nil {
					t.Errorf("%s: Recv: %v", when, err)
				}
			}
			talk("before the trip")
			b := onlyBreaker(t, g)
			b.Trip(t.Context(), "for the test")
			talk("while open")
			if _, err := r.client.Bidi(t.Context()); !IsRejected(err) {
				t.Errorf("while open, a new stream: got %v, want a rejection", err)
			}
			before := b.Snapshot()
			if err := s.CloseSend(); err != nil {
				t.Error(err)
			}
			endsWith(t, s, codeOfEnd(end))
			wantTally(t, "at the end", g, tally{Late: 1, Rejected: 1})
			after := b.Snapshot()
			if after.State != before.State || after.Generation != before.Generation || after.RetryAfter != before.RetryAfter {
				t.Errorf("a late result changed the breaker: before %+v, after %+v", before, after)
			}
		})
	}
}

// S11: the same while the breaker is half-open. Only the probe decides.
func TestS11_OpenStreamIsNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, probeConfig)
		old, _ := openFake(t.Context(), t, g, serverStreams, new(fakeStream))
		halfOpen(t, g, methodKey)
		probe, _ := openFake(t.Context(), t, g, serverStreams, &fakeStream{recv: func(any) error { return down }})
		_, _ = drainRaw(old)
		wantState(t, "after the old stream's success", g, breaker.HalfOpen)
		wantTally(t, "after the old stream's success", g, tally{Late: 1, InFlight: 1})
		_, _ = drainRaw(probe)
		wantState(t, "after the probe", g, breaker.Open)
	})
}

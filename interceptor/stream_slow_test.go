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

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// slowConfig counts a call of more than one second as slow, and does not open for it.
var slowConfig = breaker.Config{
	SlowCall: time.Second, SlowRatio: 1, MinCalls: 1000, ConsecutiveFailures: -1, FailureRatio: -1,
}

// paced returns a script whose streams send a message at each of the given times after the call arrived, and end with
// err at the time end. For bidirectional streams the times count from the first request.
func paced(err error, end time.Duration, messages ...time.Duration) testpb.Script {
	play := func(s sender) error {
		start := time.Now()
		for _, at := range messages {
			time.Sleep(time.Until(start.Add(at)))
			if err := s.Send(new(testpb.Response)); err != nil {
				return err
			}
		}
		time.Sleep(time.Until(start.Add(end)))
		return err
	}
	return testpb.Script{
		OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error { return play(s) },
		OnBidi: func(s grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error {
			if _, err := s.Recv(); err != nil {
				return err
			}
			return play(s)
		},
		OnClientStream: func(s grpc.ClientStreamingServer[testpb.Request, testpb.Response]) error {
			time.Sleep(end)
			if err != nil {
				return err
			}
			return s.SendAndClose(new(testpb.Response))
		},
	}
}

// S10: the slow rule measures the time to the first message, and nothing else. For a bidirectional stream it starts at
// the first request.
func TestS10_TimeToFirstMessage(t *testing.T) {
	const slow = time.Second + 1
	for _, tt := range []struct {
		name   string
		script testpb.Script
		end    codes.Code
		want   uint64
	}{
		{"late first message", paced(nil, slow, slow), codes.OK, 1},
		{"late first message, then a long life", paced(nil, time.Hour, slow), codes.OK, 1},
		{"late first message, then a failure", paced(down, slow, slow), codes.Unavailable, 1},
		{"first message just in time", paced(nil, time.Hour, time.Second), codes.OK, 0},
		{"quick first message, then a long life", paced(nil, time.Hour, 0), codes.OK, 0},
		{"quick first message, late second", paced(nil, time.Hour, 0, time.Hour), codes.OK, 0},
		{"quick first message, late failure", paced(down, time.Hour, 0), codes.Unavailable, 0},
		{"no message, late end", paced(nil, time.Hour), codes.OK, 0},
		{"no message, late answer", paced(errNotFound, time.Hour), codes.NotFound, 0},
		{"no message, late failure", paced(down, 5*time.Second), codes.Unavailable, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inEach(t, func(t arranged) {
				g := newGuard(t, slowConfig)
				r := newStreamRig(t, g, tt.script, t.dial...)
				endsWith(t, r.server(t.Context()), tt.end)
				bidi := r.bidi(t.Context())
				time.Sleep(3 * time.Second)
				if err := bidi.Send(&testpb.Request{}); err != nil {
					t.Fatal(err)
				}
				endsWith(t, bidi, tt.end)
				for key, b := range g.Group().All() {
					s := b.Snapshot()
					if s.Successes+s.Failures != 1 || s.SlowCalls != tt.want {
						t.Errorf("%v: %d calls, %d of them slow, want 1 and %d", key, s.Successes+s.Failures, s.SlowCalls, tt.want)
					}
				}
			})
		})
	}
}

// S10: streams that are not read to the end, because of a deadline or a cancel.
func TestS10_NoMessageNeverSlow(t *testing.T) {
	inEach(t, func(t arranged) {
		g := newGuard(t, slowConfig)
		r := newStreamRig(t, g, lives(0), t.dial...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		r.server(ctx)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		wantTally(t, "after the deadline", g, one(breaker.Failure))
		if got := onlyBreaker(t, g).Snapshot().SlowCalls; got != 0 {
			t.Errorf("%d slow calls, want 0", got)
		}
	})
}

// S10: for a client stream, the only response is the first message, and the time starts at CloseSend. The time that the
// caller takes to send does not count.
func TestS10_OnlyResponse(t *testing.T) {
	for after, want := range map[time.Duration]uint64{time.Second: 0, time.Second + 1: 1} {
		t.Run(after.String(), func(t *testing.T) {
			inEach(t, func(t arranged) {
				g := newGuard(t, slowConfig)
				r := newStreamRig(t, g, answersAfter(after), t.dial...)
				s := r.upload(t.Context())
				for range 3 {
					time.Sleep(time.Minute)
					if err := s.Send(&testpb.Request{}); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Minute)
				if _, err := s.CloseAndRecv(); err != nil {
					t.Fatal(err)
				}
				wantTally(t, "answered", g, one(breaker.Success))
				if got := onlyBreaker(t, g).Snapshot().SlowCalls; got != want {
					t.Errorf("%d slow calls, want %d", got, want)
				}
			})
		})
	}
}

// answersAfter returns a script whose client streams answer d after their last request, and whose bidirectional streams
// answer d after each request.
func answersAfter(d time.Duration) testpb.Script {
	return testpb.Script{
		OnClientStream: func(s grpc.ClientStreamingServer[testpb.Request, testpb.Response]) error {
			for {
				if _, err := s.Recv(); errors.Is(err, io.EOF) {
					time.Sleep(d)
					return s.SendAndClose(new(testpb.Response))
				} else if err != nil {
					return err
				}
			}
		},
		OnBidi: func(s grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error {
			for {
				if _, err := s.Recv(); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				time.Sleep(d)
				if err := s.Send(new(testpb.Response)); err != nil {
					return err
				}
			}
		},
	}
}

// S10: if the user of a chat waits before the first message, the backend is not slow. Later requests do not hide a slow
// answer.
func TestS10_BidiFromTheFirstRequest(t *testing.T) {
	for after, want := range map[time.Duration]uint64{time.Second: 0, time.Second + 1: 1} {
		t.Run(after.String(), func(t *testing.T) {
			inEach(t, func(t arranged) {
				g := newGuard(t, slowConfig)
				r := newStreamRig(t, g, answersAfter(after), t.dial...)
				s := r.bidi(t.Context())
				time.Sleep(time.Minute)
				for range 3 { // the backend gets the last two while it handles the first
					if err := s.Send(&testpb.Request{}); err != nil {
						t.Fatal(err)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if err := s.CloseSend(); err != nil {
					t.Fatal(err)
				}
				endsWith(t, s, codes.OK)
				wantTally(t, "answered", g, one(breaker.Success))
				if got := onlyBreaker(t, g).Snapshot().SlowCalls; got != want {
					t.Errorf("%d slow calls, want %d", got, want)
				}
			})
		})
	}
}

// S10: a bidirectional stream that has sent nothing is not slow.
func TestS10_BidiThatSendsNothing(t *testing.T) {
	inEach(t, func(t arranged) {
		g := newGuard(t, slowConfig)
		r := newStreamRig(t, g, testpb.Script{
			OnBidi: func(s grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error {
				time.Sleep(time.Minute)
				return sendAll(s, 1, nil)
			},
		}, t.dial...)
		endsWith(t, r.bidi(t.Context()), codes.OK)
		wantTally(t, "at the end", g, one(breaker.Success))
		if got := onlyBreaker(t, g).Snapshot().SlowCalls; got != 0 {
			t.Errorf("%d slow calls, want 0", got)
		}
	})
}

// S10: a panic ends a stream too, and does not make it slow.
func TestS10_PanicIsNotSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, slowConfig)
		cs, _ := openFake(t.Context(), t, g, serverStreams, &fakeStream{recv: func(any) error { panic("broken") }})
		time.Sleep(time.Hour)
		if got := leaves(func() { _ = cs.RecvMsg(nil) }); got != "broken" {
			t.Errorf("got %v, want the panic", got)
		}
		wantTally(t, "after the panic", g, one(breaker.Failure))
		if got := onlyBreaker(t, g).Snapshot().SlowCalls; got != 0 {
			t.Errorf("%d slow calls, want 0", got)
		}
	})
}

// S10: slow streams open a breaker, and long streams do not.
func TestS10_SlowStreamsOpen(t *testing.T) {
	inEach(t, func(t arranged) {
		cfg := breaker.Config{SlowCall: time.Second, MinCalls: 2}
		g := newGuard(t, cfg)
		r := newStreamRig(t, g, paced(nil, 2*time.Second, 0), t.dial...)
		for range 10 {
			endsWith(t, r.server(t.Context()), codes.OK)
		}
		wantState(t, "after long streams", g, breaker.Closed)
		time.Sleep(time.Hour)
		r.srv.Set(paced(nil, 2*time.Second, 2*time.Second))
		for range 2 {
			endsWith(t, r.server(t.Context()), codes.OK)
		}
		wantState(t, "after slow streams", g, breaker.Open)
		if got := onlyBreaker(t, g).Snapshot().Trips; got != (breaker.RuleCounts{Slow: 1}) {
			t.Errorf("trips: got %+v, want one by the slow rule", got)
		}
	})
}

// S10, B20: a probe whose first message is slow has not succeeded.
func TestS10_SlowProbeReopens(t *testing.T) {
	for after, want := range map[time.Duration]breaker.State{time.Second: breaker.Closed, time.Second + 1: breaker.Open} {
		synctest.Test(t, func(t *testing.T) {
			cfg := probeConfig
			cfg.SlowCall = time.Second
			g := newGuard(t, cfg)
			halfOpen(t, g, methodKey)
			cs, _ := openFake(t.Context(), t, g, serverStreams, &fakeStream{recv: func(any) error { return nil }})
			time.Sleep(after)
			_ = cs.RecvMsg(nil)
			wantState(t, after.String(), g, want)
		})
	}
}

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
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// outcomeOf is rule G2, and G3 with an interceptor between the guard and grpc.
func outcomeOf(c codes.Code) breaker.Outcome {
	switch c {
	case codes.OK, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied,
		codes.Unauthenticated,
		codes.FailedPrecondition, codes.Aborted, codes.OutOfRange, codes.Unimplemented:
		return breaker.Success
	case codes.ResourceExhausted:
		return breaker.Overload
	case codes.Canceled:
		return breaker.Ignored
	default:
		return breaker.Failure
	}
}

// directOutcomeOf is outcomeOf with grpc directly below. Only the peer can have canceled the call then (G3).
func directOutcomeOf(c codes.Code) breaker.Outcome {
	if c == codes.Canceled {
		return breaker.Failure
	}
	return outcomeOf(c)
}

func allCodes() []codes.Code {
	list := []codes.Code{77}
	for c := codes.OK; c <= codes.Unauthenticated+4; c++ {
		list = append(list, c)
	}
	return list
}

// S1: one outcome, no stream, and the same error. OnFinish is called before the streamer returns, as for a refused
// connection, and nothing blocks.
func TestS01_CreationFails(t *testing.T) {
	for _, times := range []int{0, 1, 3} {
		for _, code := range allCodes()[1:] {
			want := one(outcomeOf(code))
			if code == codes.OK {
				continue // status.Error returns nil
			}
			g := newGuard(t, breaker.Config{})
			inner := status.Error(code, "no stream today")
			cs, err := g.Stream(t.Context(), serverStreams, nil, fullMethod,
				func(_ context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string,
					opts ...grpc.CallOption,
				) (grpc.ClientStream, error) {
					for range times {
						finisher(opts)(inner)
					}
					return nil, inner
				})
			if cs != nil {
				t.Errorf("%v, OnFinish x%d: got a stream %v, want nil", code, times, cs)
			}
			if err != inner { //nolint:errorlint // the same value
				t.Errorf("%v, OnFinish x%d: got error %v, want %v, the same value", code, times, err, inner)
			}
			wantTally(t, code.String(), g, want)
		}
	}
}

// S1: if a stream comes with an error, the caller does not get the stream.
func TestS01_CreationFailsWithStream(t *testing.T) {
	g := newGuard(t, breaker.Config{})
	cs, err := g.Stream(t.Context(), serverStreams, nil, fullMethod,
		func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
			return new(fakeStream), down
		})
	if cs != nil || err != down { //nolint:errorlint // the same value
		t.Errorf("got %v, %v, want nil, %v", cs, err, down)
	}
	wantTally(t, "after it", g, one(breaker.Failure))
}

// G8: a rejected stream is nil and the error. The backend gets no call, and OnFinish is called once.
func TestG08_StreamRejection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{})
		r := newStreamRig(t, g, testpb.Script{})
		if _, err := r.client.ServerStream(t.Context(), &testpb.Request{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		onlyBreaker(t, g).Trip(t.Context(), "for the test")
		desc := &testpb.Test_ServiceDesc.Streams[1]
		calls := 0
		cs, err := r.conn.NewStream(t.Context(), desc, testpb.Test_ServerStream_FullMethodName,
			grpc.OnFinish(func(error) { calls++ }))
		if cs != nil {
			t.Errorf("got a stream %v, want nil", cs)
		}
		if !errors.Is(err, breaker.ErrRejected) || !IsRejected(err) {
			t.Errorf("got error %v, want a rejection", err)
		}
		if _, ok := errors.AsType[*RejectedError](err); !ok {
			t.Errorf("got a %T, want a *RejectedError", err)
		}
		wantCode(t, "rejection", err, codes.Unavailable)
		synctest.Wait()
		if got := r.srv.Total(); got != 1 {
			t.Errorf("the server saw %d calls, want the 1 from before", got)
		}
		if calls != 1 {
			t.Errorf("OnFinish was called %d times, want 1", calls)
		}
	})
}

// S2: the status at the end decides, whatever came before.
func TestS02_StatusAtTheEnd(t *testing.T) {
	inEach(t, func(t arranged) {
		// Each status has its own breaker, so that none opens because of another.
		type call struct{ messages int }
		for _, code := range allCodes() {
			for _, c := range []call{{0}, {3}} {
				g := newGuard(t, breaker.Config{})
				r := newStreamRig(t, g, sends(c.messages, status.Error(code, "so it ends")), t.dial...)
				s, err := r.client.ServerStream(t.Context(), &testpb.Request{})
				if err != nil {
					t.Fatal(err)
				}
				n, err := drain(s)
				if n != c.messages {
					t.Errorf("%v: got %d messages, want %d", code, n, c.messages)
				}
				wantCode(t, "stream", err, code)
				want := outcomeOf(code)
				if t.name == "bare" {
					want = directOutcomeOf(code)
				}
				wantTally(t, code.String(), g, one(want))
			}
		}
	})
}

// S2: streams that open and then fail open the breaker. A first message ends the failure streak. It goes on if the
// stream then fails, unless with Unavailable (S13). In that case the ratio rule opens after its 20 calls.
func TestS02_FailuresAfterCreationOpen(t *testing.T) {
	for _, tt := range []struct {
		name     string
		messages int
		end      error
		opensAt  int
		rule     breaker.RuleCounts
	}{
		{"Unavailable without a message", 0, down, 5, breaker.RuleCounts{Consecutive: 1}},
		{"Unavailable after messages", 2, down, 20, breaker.RuleCounts{Ratio: 1}},
		{"Internal after messages", 2, statusError(codes.Internal), 5, breaker.RuleCounts{Consecutive: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inEach(t, func(t arranged) {
				g := newGuard(t, breaker.Config{ConsecutiveFailures: 5})
				r := newStreamRig(t, g, sends(tt.messages, tt.end), t.dial...)
				for i := range 100 {
					s, err := r.client.ServerStream(t.Context(), &testpb.Request{})
					if i < tt.opensAt {
						if err != nil {
							t.Fatalf("stream %d: %v", i, err)
						}
						endsWith(t, s, codeOf(tt.end))
					} else if !IsRejected(err) {
						t.Fatalf("stream %d: got %v, want a rejection", i, err)
					}
				}
				wantState(t, "after the failures", g, breaker.Open)
				failures := uint64(tt.opensAt)
				wantTally(t, "after 100 streams", g, tally{Failure: failures, Rejected: 100 - failures})
				if got := onlyBreaker(t, g).Snapshot().Trips; got != tt.rule {
					t.Errorf("trips: got %+v, want %+v", got, tt.rule)
				}
				if got := r.srv.Received(testpb.Test_ServerStream_FullMethodName); got != tt.opensAt {
					t.Errorf("the server saw %d calls, want %d", got, tt.opensAt)
				}
			})
		})
	}
}

// S2: io.EOF is a success, and is counted as one.
func TestS02_CleanStreamsSucceed(t *testing.T) {
	inEach(t, func(t arranged) {
		g := newGuard(t, breaker.Config{})
		r := newStreamRig(t, g, sends(2, nil), t.dial...)
		for range 100 {
			s, err := r.client.ServerStream(t.Context(), &testpb.Request{})
			if err != nil {
				t.Fatal(err)
			}
			if n, err := drain(s); n != 2 || err != nil {
				t.Fatalf("got %d messages and %v, want 2 and nil", n, err)
			}
		}
		wantTally(t, "after 100 clean streams", g, tally{Success: 100})
	})
}

// S2: io.EOF is the end of a stream. An error that wraps io.EOF is a failure.
func TestS02_WrappedEOFIsAnError(t *testing.T) {
	g := newGuard(t, breaker.Config{})
	cs, _ := openFake(t.Context(), t, g, serverStreams, &fakeStream{recv: func(any) error { return errors.Join(io.EOF) }})
	if err := cs.RecvMsg(nil); err == nil {
		t.Error("got no error")
	}
	wantTally(t, "after it", g, one(breaker.Failure))
}

// S3: the only response of a client stream is its success, at once.
func TestS03_OnlyResponseSettles(t *testing.T) {
	inEach(t, func(t arranged) {
		g := newGuard(t, breaker.Config{})
		r := newStreamRig(t, g, testpb.Script{}, t.dial...)
		s, err := r.client.ClientStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := s.Send(&testpb.Request{}); err != nil {
				t.Fatal(err)
			}
		}
		wantTally(t, "before the response", g, tally{InFlight: 1})
		resp, err := s.CloseAndRecv()
		if err != nil || resp.GetCount() != 3 {
			t.Fatalf("got %v, %v, want a count of 3", resp, err)
		}
		wantTally(t, "right after the response", g, one(breaker.Success))
	})
}

// S3: the same without OnFinish. Only the nil of RecvMsg shows the success.
func TestS03_OnlyResponseSettlesWithoutOnFinish(t *testing.T) {
	g := newGuard(t, breaker.Config{})
	cs, _ := openFake(t.Context(), t, g, clientStreams, &fakeStream{recv: func(any) error { return nil }})
	if err := cs.RecvMsg(nil); err != nil {
		t.Fatal(err)
	}
	wantTally(t, "right after the response", g, one(breaker.Success))
}

// S3: a message of a stream that may send more is not an outcome.
func TestS03_MessageIsNoOutcome(t *testing.T) {
	for _, desc := range []*grpc.StreamDesc{serverStreams, bothStream} {
		g := newGuard(t, breaker.Config{})
		cs, _ := openFake(t.Context(), t, g, desc, &fakeStream{recv: func(any) error { return nil }})
		for range 3 {
			if err := cs.RecvMsg(nil); err != nil {
				t.Fatal(err)
			}
		}
		wantTally(t, "after three messages", g, tally{InFlight: 1})
	}
}

// S3: io.EOF from SendMsg is not an outcome. The error that RecvMsg then returns is. stats.End would report a success.
func TestS03_SendEOFIsNoOutcome(t *testing.T) {
	inEach(t, func(t arranged) {
		g := newGuard(t, breaker.Config{}, WithLongStream(time.Hour)) // the end of an old one would be ignored (S2)
		r := newStreamRig(t, g, failing(down), t.dial...)
		s, err := r.client.Bidi(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := s.Send(&testpb.Request{}); !errors.Is(err, io.EOF) {
			t.Fatalf("Send: got %v, want io.EOF", err)
		}
		time.Sleep(time.Minute)
		wantTally(t, "after Send", g, tally{InFlight: 1})
		_, err = s.Recv()
		wantCode(t, "Recv", err, codes.Unavailable)
		wantTally(t, "after Recv", g, one(breaker.Failure))
	})
}

// S3: any other error of SendMsg ends the stream, without a call of RecvMsg. A generated stub makes none.
func TestS03_OtherSendErrorSettles(t *testing.T) {
	for _, code := range allCodes() {
		if code == codes.OK {
			continue
		}
		for name, call := range map[string]func(grpc.ClientStream) error{
			"SendMsg":   func(cs grpc.ClientStream) error { return cs.SendMsg(nil) },
			"CloseSend": func(cs grpc.ClientStream) error { return cs.CloseSend() },
		} {
			g := newGuard(t, breaker.Config{})
			inner := status.Error(code, "cannot send")
			f := &fakeStream{send: func(any) error { return inner }, closeSend: func() error { return inner }}
			cs, _ := openFake(t.Context(), t, g, bothStream, f)
			if err := call(cs); err != inner { //nolint:errorlint // the very same value
				t.Errorf("%s, %v: got %v, want %v", name, code, err, inner)
			}
			wantTally(t, name+" "+code.String(), g, one(outcomeOf(code)))
		}
	}
}

// S3: the same for io.EOF from CloseSend.
func TestS03_CloseSendEOFIsNoOutcome(t *testing.T) {
	g := newGuard(t, breaker.Config{})
	cs, _ := openFake(t.Context(), t, g, bothStream, &fakeStream{closeSend: func() error { return io.EOF }})
	if err := cs.CloseSend(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want io.EOF", err)
	}
	wantTally(t, "after CloseSend", g, tally{InFlight: 1})
}

// S4: after the end, RecvMsg may be called again. That is not a second outcome.
func TestS04_ReceiveAgain(t *testing.T) {
	for _, end := range []error{nil, down} {
		inEach(t, func(t arranged) {
			g := newGuard(t, breaker.Config{})
			r := newStreamRig(t, g, sends(1, end), t.dial...)
			s, err := r.client.Bidi(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for range 4 {
				_, err := drain(s)
				wantCode(t, "stream", err, status.Code(end))
			}
			want := one(breaker.Success)
			if end != nil {
				want = one(breaker.Failure)
			}
			wantTally(t, "after RecvMsg at the end, four times", g, want)
		})
	}
}

package interceptor

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// streamCase is one cell of the table of S2.
type streamCase struct {
	arranged

	answer string        // "", "header" or "message"
	age    time.Duration // when it ends
	end    streamEnd
}

// streamEnd is a row of the table of S2.
type streamEnd struct {
	name   string
	err    error                 // the handler's; nil: io.EOF
	by     func(*streamRig)      // ends the stream, if the handler does not
	budget bool                  // the caller's deadline ends it
	cancel bool                  // the caller cancels it
	want   [2][2]breaker.Outcome // by young or old, and by not answered or answered
}

func streamEnds() []streamEnd {
	const s, f, o, i = breaker.Success, breaker.Failure, breaker.Overload, breaker.Ignored
	always := func(o breaker.Outcome) [2][2]breaker.Outcome { return [2][2]breaker.Outcome{{o, o}, {o, o}} }
	lost := [2][2]breaker.Outcome{{f, f}, {i, s}}
	left := [2][2]breaker.Outcome{{i, s}, {i, s}}
	return []streamEnd{
		{name: "io.EOF", want: always(s)},
		{name: "NotFound", err: errNotFound, want: always(s)},
		{name: "the caller cancels", cancel: true, want: left},
		{name: "the caller closes the connection", by: func(r *streamRig) { _ = r.conn.Close() }, want: left},
		{name: "the caller's time is up", budget: true, want: [2][2]breaker.Outcome{{f, f}, {f, s}}},
		{name: "Unavailable", err: down, want: lost},
		{name: "the connection is lost", by: func(r *streamRig) { r.backend.Stop() }, want: lost},
		{name: "ResourceExhausted", err: statusError(codes.ResourceExhausted), want: always(o)},
		{name: "Internal", err: statusError(codes.Internal), want: always(f)},
		{name: "Unknown", err: statusError(codes.Unknown), want: always(f)},
		{name: "DataLoss", err: statusError(codes.DataLoss), want: always(f)},
		{name: "code 77", err: statusError(77), want: always(f)},
		{name: "DeadlineExceeded from the peer", err: statusError(codes.DeadlineExceeded), want: always(f)},
	}
}

// S2: each cell of the table, with the default of WithLongStream, which is 10 s.
func TestS02_TableOverGRPC(t *testing.T) {
	for _, end := range streamEnds() {
		for _, answer := range []string{"", "header", "message"} {
			for _, age := range []time.Duration{0, time.Second, 10*time.Second - time.Millisecond, 10 * time.Second, time.Hour} {
				t.Run(fmt.Sprintf("%s, %q after %v", end.name, answer, age), func(t *testing.T) {
					inEach(t, func(t arranged) { streamCase{t, answer, age, end}.run() })
				})
			}
		}
	}
}

func (c streamCase) run() {
	g := newGuard(c.T, lenient, WithKey(oneKey))
	ended := make(chan struct{})
	r := newStreamRig(c.T, g, testpb.Script{OnServerStream: func(
		_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response],
	) error {
		switch c.answer {
		case "header":
			if err := s.SendHeader(metadata.Pairs("k", "v")); err != nil {
				return err
			}
		case "message":
			if err := s.Send(new(testpb.Response)); err != nil {
				return err
			}
		}
		if c.end.by != nil || c.end.budget || c.end.cancel {
			<-s.Context().Done()
			return s.Context().Err()
		}
		time.Sleep(c.age)
		return c.end.err
	}}, c.dial...)
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	if c.end.budget {
		ctx, cancel = context.WithTimeout(ctx, max(1, c.age))
		defer cancel()
	}
	s := r.server(ctx)
	go func() {
		defer close(ended)
		_, _ = drain(s)
	}()
	if c.end.by != nil || c.end.cancel {
		time.Sleep(c.age)
		synctest.Wait()
		if c.end.cancel {
			cancel()
		} else {
			c.end.by(r)
		}
	}
	<-ended
	synctest.Wait()
	old, answered := 0, 0
	if c.age >= 10*time.Second {
		old = 1
	}
	if c.answer != "" {
		answered = 1
	}
	if c.age == 0 && (c.end.by != nil || c.end.budget || c.end.cancel) {
		return // the order of the answer and the end is random
	}
	wantTally(c.T, c.name, g, one(c.end.want[old][answered]))
}

// S2: the same with other ages of WithLongStream.
func TestS02_WithLongStream(t *testing.T) {
	for age, want := range map[time.Duration]breaker.Outcome{
		59 * time.Second: breaker.Failure,
		time.Minute:      breaker.Success,
	} {
		inEach(t, func(t arranged) {
			g := newGuard(t.T, lenient, WithKey(oneKey), WithLongStream(time.Minute))
			r := newStreamRig(t.T, g, paced(down, age, 0), t.dial...)
			endsWith(t.T, r.server(t.Context()), codes.Unavailable)
			synctest.Wait()
			wantTally(t.T, age.String(), g, one(want))
		})
	}
}

// S2, G3: the peer resets the stream. With an interceptor between, only grpc's text shows that.
func TestS02_Resets(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(*http2.Framer, uint32) error
		code   codes.Code
		want   breaker.Outcome
	}{
		{"CANCEL", testpb.Resets(http2.ErrCodeCancel), codes.Canceled, breaker.Failure},
		{"CANCEL after a message", testpb.ResetsAfterMessage(http2.ErrCodeCancel), codes.Canceled, breaker.Failure},
		{"INTERNAL_ERROR", testpb.Resets(http2.ErrCodeInternal), codes.Internal, breaker.Failure},
		{"REFUSED_STREAM", testpb.Resets(http2.ErrCodeRefusedStream), codes.Unavailable, breaker.Failure},
		{"ENHANCE_YOUR_CALM", testpb.Resets(http2.ErrCodeEnhanceYourCalm), codes.ResourceExhausted, breaker.Overload},
		{"HTML 404", testpb.AnswersHTML("404"), codes.Unimplemented, breaker.Failure},
		{"HTML 403", testpb.AnswersHTML("403"), codes.PermissionDenied, breaker.Failure},
	} {
		inEach(t, func(t arranged) {
			g := newGuard(t.T, lenient, WithKey(oneKey))
			cc := testpb.StartRaw(t.T, tt.answer).Dial(t.T, append(g.DialOptions(), t.dial...)...)
			s, err := testpb.NewTestClient(cc).ServerStream(t.Context(), new(testpb.Request))
			if err == nil {
				_, err = drain(s)
			}
			wantCode(t.T, tt.name, err, tt.code)
			synctest.Wait()
			wantTally(t.T, tt.name, g, one(tt.want))
		})
	}
}

// G3: streams with Canceled that their caller did not cancel. With grpc directly below, Canceled from the handler is
// the peer's. Otherwise it is not known who canceled.
func TestG03_StreamCanceledInside(t *testing.T) {
	inEach(t, func(t arranged) {
		g := newGuard(t.T, lenient, WithKey(oneKey))
		r := newStreamRig(t.T, g, sends(0, status.Error(codes.Canceled, "handler")), t.dial...)
		endsWith(t.T, r.server(t.Context()), codes.Canceled)
		synctest.Wait()
		want := breaker.Ignored
		if t.name == "bare" {
			want = breaker.Failure
		}
		wantTally(t.T, "Canceled by the handler", g, one(want))
	})
}

// G5: streams whose credentials fail, and servers that send the texts of grpc.
func TestG05_StreamErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script testpb.Script
		opts   []grpc.CallOption
		stop   bool
		want   map[string]breaker.Outcome // by arrangement; "" is for all others
	}{
		{
			name: "credentials", opts: []grpc.CallOption{grpc.PerRPCCredentials(credentialsOf{err: down})},
			want: map[string]breaker.Outcome{"bare": breaker.Ignored, "": breaker.Failure},
		},
		{
			name: "credentials answer",
			opts: []grpc.CallOption{grpc.PerRPCCredentials(credentialsOf{err: statusError(codes.PermissionDenied)})},
			want: map[string]breaker.Outcome{"bare": breaker.Ignored, "": breaker.Success},
		},
		{
			name: "no connection", stop: true,
			want: map[string]breaker.Outcome{"": breaker.Failure},
		},
		{
			name: "the server cannot marshal", script: sends(0, status.Error(codes.Internal, "grpc: error while marshaling: x")),
			want: map[string]breaker.Outcome{"": breaker.Failure},
		},
		{
			name: "the server cannot marshal, after a message", script: sends(1,
				status.Error(codes.Internal, "grpc: error while marshaling: x")),
			want: map[string]breaker.Outcome{"": breaker.Failure},
		},
		{
			name: "a message too large", script: sends(1, nil), opts: []grpc.CallOption{grpc.MaxCallRecvMsgSize(0)},
			want: map[string]breaker.Outcome{"": breaker.Success},
		},
		{
			name: "too large to send", opts: []grpc.CallOption{grpc.MaxCallSendMsgSize(1)},
			want: map[string]breaker.Outcome{"": breaker.Ignored},
		},
	} {
		inEach(t, func(t arranged) {
			g := newGuard(t.T, lenient, WithKey(oneKey))
			r := newStreamRig(t.T, g, tt.script, t.dial...)
			if tt.stop {
				r.backend.Stop()
			} else {
				_ = mustUnary(t.T, r)
			}
			before := tallyOf(g.Group().Get(breaker.Key{}).Snapshot())
			s, err := r.client.ServerStream(t.Context(), &testpb.Request{Text: "some text"}, tt.opts...)
			if err == nil {
				_, _ = drain(s)
			}
			synctest.Wait()
			want, ok := tt.want[t.name]
			if !ok {
				want = tt.want[""]
			}
			got := tallyOf(onlyBreaker(t.T, g).Snapshot())
			got.Success -= before.Success
			if got != one(want) {
				t.Errorf("%s: %+v, want %v", tt.name, got, want)
			}
		})
	}
}

// mustUnary makes a unary call that succeeds, and waits until the channel is READY. The call alone does not ensure
// that, because grpc lets calls use a new connection before it changes the state of the channel.
func mustUnary(tb testing.TB, r *streamRig) *testpb.Response {
	tb.Helper()
	resp, err := r.client.Unary(tb.Context(), new(testpb.Request))
	if err != nil {
		tb.Fatal(err)
	}
	for state := r.conn.GetState(); state != connectivity.Ready; state = r.conn.GetState() {
		if !r.conn.WaitForStateChange(tb.Context(), state) {
			tb.Fatalf("the channel is %v after a call that succeeded, want READY", state)
		}
	}
	return resp
}

// S15: the Result of a stream.
func TestS15_ResultOfAStream(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script testpb.Script
		bare   Result
		other  Result
	}{
		{
			"two messages, then down", paced(down, time.Minute, 0, time.Second),
			Result{Peer: PeerAnswered, Answered: true, Messages: 2, Duration: time.Minute, Old: true, Direct: true, Ready: true},
			Result{Peer: PeerAnswered, Answered: true, Messages: 2, Duration: time.Minute, Old: true, Ready: true},
		},
		{
			"no message, down", paced(down, time.Second),
			Result{Peer: PeerAnswered, Duration: time.Second, Direct: true, Ready: true},
			Result{Peer: PeerAnswered, Duration: time.Second, Ready: true},
		},
		{
			"three messages, io.EOF", paced(nil, time.Minute, 0, 0, 0),
			Result{Peer: PeerAnswered, Answered: true, Messages: 3, Duration: time.Minute, Old: true, Direct: true},
			Result{Peer: PeerAnswered, Answered: true, Messages: 3, Duration: time.Minute, Old: true},
		},
	} {
		inEach(t, func(t arranged) {
			var got []Result
			g := newGuard(t.T, lenient, WithKey(oneKey), WithClassifier(func(ctx context.Context, r Result) breaker.Outcome {
				got = append(got, r)
				return DefaultClassifier(ctx, r)
			}))
			r := newStreamRig(t.T, g, tt.script, t.dial...)
			_, _ = drain(r.server(t.Context()))
			synctest.Wait()
			if len(got) != 1 {
				t.Fatalf("%s: the classifier ran %d times, want once", tt.name, len(got))
			}
			want := tt.other
			if t.name == "bare" {
				want = tt.bare
			}
			have := got[0]
			have.Call, have.Err, have.Code, have.Trailer = want.Call, nil, 0, nil
			if fmt.Sprint(have) != fmt.Sprint(want) {
				t.Errorf("%s: got %+v, want %+v", tt.name, have, want)
			}
			if have.LongLived() != (have.Old && have.Answered) {
				t.Errorf("%s: LongLived is %v", tt.name, have.LongLived())
			}
		})
	}
}

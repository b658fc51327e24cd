package interceptor

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

const pushbackTrailer = "grpc-retry-pushback-ms"

// pushesBack returns a script whose streams send n messages and then fail, with a trailer.
func pushesBack(n int, err error, trailer ...string) testpb.Script {
	md := metadata.Pairs(trailer...)
	return testpb.Script{
		OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
			s.SetTrailer(md)
			return sendAll(s, n, err)
		},
		OnBidi: func(s grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error {
			s.SetTrailer(md)
			return sendAll(s, n, err)
		},
		OnClientStream: func(s grpc.ClientStreamingServer[testpb.Request, testpb.Response]) error {
			s.SetTrailer(md)
			return err
		},
	}
}

func asksFor(d time.Duration) error {
	s, err := status.New(codes.Unavailable, "later").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
	if err != nil {
		panic(err)
	}
	return s.Err()
}

// opensAfterOne opens on the first failure for five seconds. A pushback may extend that to one minute (B18).
var opensAfterOne = breaker.Config{ConsecutiveFailures: 1, OpenFor: 5 * time.Second, MaxOpenFor: 10 * time.Second}

func wantPeriod(tb testing.TB, what string, g *Guard, want time.Duration) {
	tb.Helper()
	wantState(tb, what, g, breaker.Open)
	if got := onlyBreaker(tb, g).Snapshot().RetryAfter; got != want {
		tb.Errorf("%s: the breaker is open for %v, want %v", what, got, want)
	}
}

// G9: a pushback in the trailer or the status of a stream extends the open period.
func TestG09_StreamPushback(t *testing.T) {
	for _, tt := range []struct {
		name    string
		err     error
		trailer []string
		want    time.Duration
	}{
		{"trailer", down, []string{pushbackTrailer, "30000"}, 30 * time.Second},
		{"trailer, time is up", statusError(codes.DeadlineExceeded), []string{pushbackTrailer, "30000"}, 30 * time.Second},
		{"status", asksFor(40 * time.Second), nil, 40 * time.Second},
		{"both, the longer in the trailer", asksFor(20 * time.Second), []string{pushbackTrailer, "30000"}, 30 * time.Second},
		{"both, the longer in the status", asksFor(40 * time.Second), []string{pushbackTrailer, "30000"}, 40 * time.Second},
		{"longer than a minute", down, []string{pushbackTrailer, "3600000"}, time.Minute},
		{"shorter than OpenFor", down, []string{pushbackTrailer, "1"}, 5 * time.Second},
		{"negative", down, []string{pushbackTrailer, "-1"}, 5 * time.Second},
		{"not a number", down, []string{pushbackTrailer, "soon"}, 5 * time.Second},
		{"none", down, nil, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inEach(t, func(t arranged) {
				for _, messages := range []int{0, 2} {
					g := newGuard(t, opensAfterOne)
					r := newStreamRig(t, g, pushesBack(messages, tt.err, tt.trailer...), t.dial...)
					endsWith(t, r.server(t.Context()), codeOf(tt.err))
					wantPeriod(t, "download", g, tt.want)
				}
				g := newGuard(t, opensAfterOne)
				r := newStreamRig(t, g, pushesBack(0, tt.err, tt.trailer...), t.dial...)
				_, err := r.upload(t.Context()).CloseAndRecv()
				wantCode(t, "upload", err, codeOf(tt.err))
				wantPeriod(t, "upload", g, tt.want)
			})
		})
	}
}

// G9: calls before RecvMsg, or at the same time, do not matter.
func TestG09_StreamPushbackAfterOtherCalls(t *testing.T) {
	inEach(t, func(t arranged) {
		for name, before := range map[string]func(grpc.BidiStreamingClient[testpb.Request, testpb.Response]){
			"Header": func(s grpc.BidiStreamingClient[testpb.Request, testpb.Response]) { _, _ = s.Header() },
			"Send": func(s grpc.BidiStreamingClient[testpb.Request, testpb.Response]) {
				if err := s.Send(&testpb.Request{}); !errors.Is(err, io.EOF) {
					t.Errorf("Send: got %v, want io.EOF", err)
				}
			},
			"CloseSend": func(s grpc.BidiStreamingClient[testpb.Request, testpb.Response]) { _ = s.CloseSend() },
		} {
			g := newGuard(t, opensAfterOne)
			r := newStreamRig(t, g, pushesBack(0, down, pushbackTrailer, "30000"), t.dial...)
			s := r.bidi(t.Context())
			synctest.Wait()
			before(s)
			endsWith(t, s, codes.Unavailable)
			wantPeriod(t, "after "+name, g, 30*time.Second)
		}
	})
}

// G9, B18: the pushback of a failed probe.
func TestG09_StreamProbePushback(t *testing.T) {
	inEach(t, func(t arranged) {
		r := newProbeRig(t, "ServerStream", pushesBack(0, down, pushbackTrailer, "30000"), t.streamArrangement)
		endsWith(t, r.server(t.Context()), codes.Unavailable)
		wantPeriod(t, "after the probe", r.guard, 30*time.Second)
	})
}

// G9: the pushback of a stream that succeeds has no effect.
func TestG09_StreamPushbackWithoutFailure(t *testing.T) {
	inEach(t, func(t arranged) {
		g := newGuard(t, opensAfterOne)
		r := newStreamRig(t, g, pushesBack(1, errNotFound, pushbackTrailer, "30000"), t.dial...)
		endsWith(t, r.server(t.Context()), codes.NotFound)
		wantState(t, "after an answer", g, breaker.Closed)
		r.srv.Set(sends(0, down))
		endsWith(t, r.server(t.Context()), codes.Unavailable)
		wantPeriod(t, "after a failure", g, 5*time.Second)
	})
}

// G1: the caller's own grpc.Trailer option gets the same as without the guard.
func TestG01_StreamTrailerOption(t *testing.T) {
	for _, end := range []error{nil, errNotFound, down} {
		inEach(t, func(t arranged) {
			g := newGuard(t, opensAfterOne)
			r := newStreamRig(t, g, pushesBack(1, end, "k", "v"), t.dial...)
			var got metadata.MD
			endsWith(t, r.server(t.Context(), grpc.Trailer(&got)), codeOfEnd(end))
			if v := got.Get("k"); len(v) != 1 || v[0] != "v" {
				t.Errorf("ends with %v: got trailer %v, want k=v", end, got)
			}
		})
	}
}

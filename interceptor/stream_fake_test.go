package interceptor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// S4: while the streamer runs, OnFinish may be called any number of times. It decides nothing if the streamer then
// returns a stream. It also must not block.
func TestS04_OnFinishInsideStreamer(t *testing.T) {
	for _, times := range []int{0, 1, 3} {
		for _, finishErr := range []error{nil, down, statusError(codes.Canceled)} {
			for _, end := range []error{nil, down} {
				g := newGuard(t, breaker.Config{})
				what := fmt.Sprintf("OnFinish(%v) x%d, then %v", finishErr, times, end)
				cs, err := g.Stream(t.Context(), serverStreams, nil, fullMethod,
					func(_ context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string,
						opts ...grpc.CallOption,
					) (grpc.ClientStream, error) {
						for range times {
							finisher(opts)(finishErr)
						}
						return &fakeStream{recv: func(any) error { return eofOr(end) }}, nil
					})
				if err != nil {
					t.Fatal(err)
				}
				wantTally(t, what+": open", g, tally{InFlight: 1})
				_, _ = drainRaw(cs)
				want := one(breaker.Success)
				if end != nil {
					want = one(breaker.Failure)
				}
				wantTally(t, what+": at the end", g, want)
			}
		}
	}
}

// S4: with grpc directly below, the error of the first OnFinish is the outcome.
func TestS04_OnFinishDecides(t *testing.T) {
	for _, code := range allCodes() {
		g := newGuard(t, breaker.Config{})
		finishErr := statusError(code)
		want := one(directOutcomeOf(code))
		cs, finish := openDirect(t.Context(), t, g, serverStreams,
			&fakeStream{recv: func(any) error { return eofOr(finishErr) }})
		finish(finishErr)
		wantTally(t, code.String()+": once", g, want)
		finish(down)
		finish(nil)
		_, _ = drainRaw(cs)
		wantTally(t, code.String()+": a second time", g, want)
	}
}

// S4: for a wrapped stream OnFinish decides nothing, whatever its error and however often it is called, because it may
// be that of another attempt. The result of RecvMsg or the end of the context decides.
func TestS04_OnFinishOfWrappedDecidesNothing(t *testing.T) {
	for _, code := range allCodes() {
		for _, times := range []int{1, 3} {
			synctest.Test(t, func(t *testing.T) {
				what := fmt.Sprintf("%v x%d", code, times)
				g := newGuard(t, breaker.Config{})
				busy := statusError(codes.ResourceExhausted)
				cs, finish := openFake(t.Context(), t, g, serverStreams, &fakeStream{recv: func(any) error { return busy }})
				ctx, cancel := context.WithCancel(t.Context())
				_, finishOther := openFake(ctx, t, g, serverStreams, new(fakeStream))
				for range times {
					finish(statusError(code))
					finishOther(statusError(code))
				}
				synctest.Wait()
				wantTally(t, what+": OnFinish", g, tally{InFlight: 2})
				_, _ = drainRaw(cs)
				wantTally(t, what+": RecvMsg", g, tally{Overload: 1, InFlight: 1})
				cancel()
				synctest.Wait()
				wantTally(t, what+": the end of the context", g, tally{Overload: 1, Ignored: 1})
			})
		}
	}
}

// S4, S6: if the caller has closed the connection, no attempt is left, so OnFinish ends a wrapped stream too. It ends
// at once, or when the last running call has returned.
func TestS04_OnFinishOnClosedConnection(t *testing.T) {
	for _, inside := range []bool{false, true} {
		cc, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		g := newGuard(t, breaker.Config{})
		var finish func(error)
		f := &fakeStream{send: func(any) error { finish(down); return nil }}
		cs, finish := openFakeOn(t.Context(), t, g, bothStream, cc, f)
		finish(down)
		_ = cs.SendMsg(nil)
		wantTally(t, "while the connection is open", g, tally{InFlight: 1})
		_ = cc.Close()
		if inside {
			_ = cs.SendMsg(nil)
		} else {
			finish(down)
		}
		wantTally(t, fmt.Sprintf("once it is closed, in a call: %v", inside), g, one(breaker.Ignored))
	}
}

// S4: OnFinish after the end changes nothing.
func TestS04_OnFinishLate(t *testing.T) {
	for _, times := range []int{0, 1, 3} {
		g := newGuard(t, breaker.Config{})
		cs, finish := openFake(t.Context(), t, g, serverStreams, new(fakeStream))
		if _, err := drainRaw(cs); err != nil {
			t.Fatal(err)
		}
		for range times {
			finish(down)
		}
		wantTally(t, fmt.Sprintf("OnFinish x%d", times), g, one(breaker.Success))
	}
}

// S5: for a stream that is not grpc's own, OnFinish during a call decides nothing, because an interceptor may make
// another attempt.
func TestS05_OnFinishInsideCalls(t *testing.T) {
	for _, finishErr := range []error{nil, down} {
		for name, call := range map[string]func(grpc.ClientStream) error{
			"RecvMsg":   func(cs grpc.ClientStream) error { return cs.RecvMsg(nil) },
			"SendMsg":   func(cs grpc.ClientStream) error { return cs.SendMsg(nil) },
			"CloseSend": func(cs grpc.ClientStream) error { return cs.CloseSend() },
			"Header": func(cs grpc.ClientStream) error {
				_, err := cs.Header()
				return err
			},
		} {
			g := newGuard(t, breaker.Config{})
			var finish func(error)
			over := false
			f := &fakeStream{
				send:      func(any) error { finish(finishErr); return nil },
				closeSend: func() error { finish(finishErr); return nil },
				header:    func() (metadata.MD, error) { finish(finishErr); return nil, nil },
				recv: func(any) error {
					if over {
						return statusError(codes.ResourceExhausted)
					}
					finish(finishErr)
					return nil
				},
			}
			cs, fin := openFake(t.Context(), t, g, bothStream, f)
			finish = fin
			if err := call(cs); err != nil {
				t.Fatal(err)
			}
			wantTally(t, name+": OnFinish was called in it", g, tally{InFlight: 1})
			over = true
			_ = cs.RecvMsg(nil)
			wantTally(t, name+": the status decides", g, one(breaker.Overload))
		}
	}
}

// S6: only the context shows the end of the stream. It ends after the stream was opened or while it opens, or it can
// never end.
func TestS06_ContextOfOtherStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		cs, finish := openFake(ctx, t, g, serverStreams, &fakeStream{recv: func(any) error { return nil }})
		_ = cs.RecvMsg(nil)
		time.Sleep(time.Hour)
		wantTally(t, "abandoned", g, tally{InFlight: 1})
		cancel()
		time.Sleep(100 * time.Millisecond)
		wantTally(t, "canceled after a message", g, one(breaker.Success))
		finish(down)
		wantTally(t, "canceled after a message, OnFinish after it", g, one(breaker.Success))

		g = newGuard(t, breaker.Config{})
		ctx, cancel = context.WithCancel(t.Context())
		_, finish = openFake(ctx, t, g, serverStreams, new(fakeStream))
		time.Sleep(time.Hour)
		cancel()
		time.Sleep(100 * time.Millisecond)
		wantTally(t, "canceled before a message", g, one(breaker.Ignored))
		finish(down)
		wantTally(t, "canceled before a message, OnFinish after it", g, one(breaker.Ignored))

		g = newGuard(t, breaker.Config{})
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		openFake(ctx, t, g, serverStreams, new(fakeStream))
		time.Sleep(time.Minute - 1)
		wantTally(t, "before its deadline", g, tally{InFlight: 1})
		time.Sleep(100 * time.Millisecond)
		wantTally(t, "after its deadline", g, one(breaker.Failure))

		g = newGuard(t, breaker.Config{})
		ctx, cancel = context.WithCancel(t.Context())
		_, err := g.Stream(ctx, serverStreams, nil, fullMethod,
			func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
				cancel() // after Acquire and before the guard watches the context
				return new(fakeStream), nil
			})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		wantTally(t, "canceled while it opened", g, one(breaker.Ignored))

		g = newGuard(t, breaker.Config{})
		cs, _ = openFake(context.WithoutCancel(t.Context()), t, g, serverStreams, new(fakeStream))
		time.Sleep(time.Hour)
		wantTally(t, "with a context that never ends", g, tally{InFlight: 1})
		_, _ = drainRaw(cs)
		wantTally(t, "with a context that never ends, drained", g, one(breaker.Success))
	})
}

// S6: stream types that an interceptor may make. One is a type of grpc, which does not show that grpc made the stream,
// and one is not a pointer.
func TestS06_ContextOfOddTypes(t *testing.T) {
	for _, f := range []grpc.ClientStream{
		&grpc.GenericClientStream[int, int]{ClientStream: new(fakeStream)},
		wrappedStream{new(fakeStream)},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, breaker.Config{})
			ctx, cancel := context.WithCancel(t.Context())
			openFake(ctx, t, g, serverStreams, f)
			cancel()
			time.Sleep(100 * time.Millisecond)
			wantTally(t, fmt.Sprintf("%T, canceled", f), g, one(breaker.Ignored))
		})
	}
}

// The Result of a stream that a classifier gets, and the Settlement that a hook gets.
func TestStreamResult(t *testing.T) {
	header := func() (metadata.MD, error) { return metadata.Pairs("content-type", "application/grpc"), nil }
	for _, tt := range []struct {
		name     string
		messages int
		end      error
		header   func() (metadata.MD, error)
		trailer  func() metadata.MD
		after    time.Duration
		want     Result // without what is the same for all
	}{
		{name: "io.EOF", after: time.Minute, want: Result{Code: codes.OK, Old: true}, trailer: fakeTrailer("k", "v")},
		{
			name: "status with the trailer of a gRPC server", end: down, after: time.Minute,
			trailer: fakeTrailer("content-type", "application/grpc"),
			want:    Result{Code: codes.Unavailable, Old: true, Peer: PeerAnswered},
		},
		{
			name: "status with another trailer", end: down, after: time.Minute, trailer: fakeTrailer("k", "v"),
			want: Result{Code: codes.Unavailable, Old: true},
		},
		{name: "status without", end: down, after: time.Minute, want: Result{Code: codes.Unavailable, Old: true}},
		{
			name: "status after a header", end: down, after: time.Minute, header: header,
			want: Result{Code: codes.Unavailable, Old: true, Answered: true, Peer: PeerAnswered},
		},
		{
			name: "status after messages", messages: 2, end: down, after: time.Minute,
			want: Result{Code: codes.Unavailable, Old: true, Answered: true, Messages: 2, Peer: PeerAnswered},
		},
		{name: "almost old", end: down, after: 10*time.Second - 1, want: Result{Code: codes.Unavailable}},
		{name: "just old", end: down, after: 10 * time.Second, want: Result{Code: codes.Unavailable, Old: true}},
		{
			name: "a context error", end: fmt.Errorf("gone: %w", context.Canceled), after: time.Second,
			want: Result{Code: codes.Canceled},
		},
		{name: "no status", end: errors.New("broken"), after: time.Second, want: Result{Code: codes.Unknown}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var got []Result
			rec := new(settlements)
			g := newGuard(t, breaker.Config{}, WithHooks(hooksOf(rec)),
				WithClassifier(func(_ context.Context, r Result) breaker.Outcome {
					got = append(got, r)
					return breaker.Overload
				}))
			var finish func(error)
			cs, finish := openFake(t.Context(), t, g, serverStreams, &fakeStream{
				recv: func(any) error {
					if tt.messages--; tt.messages >= 0 {
						return nil
					}
					finish(tt.end)
					return eofOr(tt.end)
				},
				header: tt.header, trailer: tt.trailer,
			})
			if err := cs.SendMsg(nil); err != nil { // earlier messages do not change the end
				t.Fatal(err)
			}
			time.Sleep(tt.after)
			_, _ = drainRaw(cs)
			if len(got) != 1 {
				t.Fatalf("%s: the classifier ran %d times, want 1", tt.name, len(got))
			}
			if got[0].Err != tt.end || got[0].Call.Method != "Method" { //nolint:errorlint // the same value
				t.Errorf("%s: the classifier got %v of %q, want %v of Method", tt.name, got[0].Err, got[0].Call.Method, tt.end)
			}
			wantResult := tt.want
			wantResult.Call, wantResult.Err, wantResult.Duration = got[0].Call, got[0].Err, tt.after
			if tt.end != nil && tt.trailer != nil {
				wantResult.Trailer = tt.trailer()
			}
			if got, want := fmt.Sprintf("%+v", got[0]), fmt.Sprintf("%+v", wantResult); got != want {
				t.Errorf("%s: the classifier got %s, want %s", tt.name, got, want)
			}
			want := Settlement{Key: methodKey, Outcome: breaker.Overload, Code: tt.want.Code, Duration: tt.after}
			if !slices.Equal(rec.settled, []Settlement{want}) {
				t.Errorf("%s: Settled got %+v, want %+v", tt.name, rec.settled, want)
			}
			wantTally(t, tt.name, g, one(breaker.Overload))
		})
	}
}

// G1: the guard does not change context, description, method, options, messages, errors and metadata. It neither writes
// to the caller's slice of options nor keeps it.
func TestG01_StreamUntouched(t *testing.T) {
	for n := range 10 { // numbers of options around the size of optsBuf
		g := newGuard(t, breaker.Config{})
		backing := make([]grpc.CallOption, n, n+3)
		for i := range backing {
			backing[i] = grpc.MaxCallRecvMsgSize(i)
		}
		md := metadata.Pairs("k", "v")
		var messages []any
		f := &fakeStream{
			recv:    func(m any) error { messages = append(messages, m); return down },
			send:    func(m any) error { messages = append(messages, m); return nil },
			header:  func() (metadata.MD, error) { return md, down },
			trailer: func() metadata.MD { return md },
			context: t.Context,
		}
		type key struct{}
		ctx := context.WithValue(t.Context(), key{}, n)
		var got []grpc.CallOption
		cs, err := g.Stream(ctx, serverStreams, nil, fullMethod,
			func(c context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, m string,
				opts ...grpc.CallOption,
			) (grpc.ClientStream, error) {
				if c != ctx || d != serverStreams || cc != nil || m != fullMethod {
					t.Errorf("the streamer got %v, %v, %v, %q", c, d, cc, m)
				}
				got = opts
				return f, nil
			}, backing...)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != n+1 || !slices.Equal(got[1:], backing) {
			t.Errorf("%d options: the streamer got %v, want one more and these", n, got)
		}
		if cap(got) != len(got) {
			t.Errorf("%d options: the streamer got room for %d more, want none", n, cap(got)-len(got))
		}
		if spare := backing[n : n+3]; !slices.Equal(spare, make([]grpc.CallOption, 3)) {
			t.Errorf("%d options: the guard wrote into the caller's slice: %v", n, spare)
		}
		in, out := new(int), new(int)
		if err := cs.SendMsg(in); err != nil {
			t.Error(err)
		}
		if h, err := cs.Header(); h.Get("k")[0] != "v" || err != down { //nolint:errorlint // the same value
			t.Errorf("Header: got %v, %v", h, err)
		}
		if err := cs.RecvMsg(out); err != down { //nolint:errorlint // the same value
			t.Errorf("RecvMsg: got %v", err)
		}
		if !slices.Equal(messages, []any{in, out}) {
			t.Errorf("messages: got %v, want %v and %v", messages, in, out)
		}
		if got := cs.Trailer(); got.Get("k")[0] != "v" {
			t.Errorf("Trailer: got %v", got)
		}
		if got := cs.Context(); got != t.Context() {
			t.Errorf("Context: got %v", got)
		}
	}
}

// G1: calls that share a slice with spare capacity, as default call options do. For the race detector.
func TestG01_SharedOptionsConcurrentSafe(t *testing.T) {
	g := newGuard(t, breaker.Config{})
	shared := make([]grpc.CallOption, 1, 8)
	shared[0] = grpc.WaitForReady(false)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				cs, err := g.Stream(t.Context(), serverStreams, nil, fullMethod,
					func(_ context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string,
						opts ...grpc.CallOption,
					) (grpc.ClientStream, error) {
						finisher(opts)(nil)
						return new(fakeStream), nil
					}, shared...)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = drainRaw(cs)
			}
		})
	}
	wg.Wait()
	wantTally(t, "after all", g, tally{Success: 800})
}

// G12: a stream that the matcher excludes, or whose key function panics, is not guarded. The caller gets it as it is.
func TestG12_UnguardedStream(t *testing.T) {
	g := newGuard(t, breaker.Config{})
	f := new(fakeStream)
	for range 2 {
		cs, err := g.Stream(t.Context(), serverStreams, nil, fullMethod,
			func(_ context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string,
				opts ...grpc.CallOption,
			) (grpc.ClientStream, error) {
				if len(opts) != 1 {
					t.Errorf("the streamer got %v, want the one option", opts)
				}
				return f, nil
			}, Bypass())
		if cs != f || err != nil {
			t.Errorf("got %v, %v, want the stream as it is", cs, err)
		}
	}
	if got := g.Group().Len(); got != 0 {
		t.Errorf("there are %d breakers, want 0", got)
	}
}

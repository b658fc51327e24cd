package interceptor

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// leaves runs f on a new goroutine. It returns the value that f panicked with, or "exited" if f exited the goroutine.
func leaves(f func()) (with any) {
	done := make(chan any)
	go func() {
		returned := false
		defer func() {
			switch r := recover(); {
			case r != nil:
				done <- r
			case returned:
				done <- nil
			default:
				done <- "exited"
			}
		}()
		f()
		returned = true
	}()
	return <-done
}

// G1: a panic or an exit in a call below the guard is one failure. The permit is settled, the watch of the context
// ends, and the panic goes on unchanged.
func TestG01_StreamPanics(t *testing.T) {
	type boom struct{ n int }
	for want, leave := range map[any]func(){
		boom{42}: func() { panic(boom{42}) },
		"exited": runtime.Goexit,
	} {
		for _, desc := range []*grpc.StreamDesc{serverStreams, clientStreams, bothStream} {
			g := newGuard(t, breaker.Config{})
			got := leaves(func() {
				_, _ = g.Stream(t.Context(), desc, nil, fullMethod,
					func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
						leave()
						return nil, nil
					})
			})
			if got != want {
				t.Errorf("streamer: got %v, want %v", got, want)
			}
			wantTally(t, fmt.Sprintf("streamer, %v", want), g, one(breaker.Failure))

			f := &fakeStream{
				recv:      func(any) error { leave(); return nil },
				send:      func(any) error { leave(); return nil },
				closeSend: func() error { leave(); return nil },
			}
			for name, call := range map[string]func(grpc.ClientStream){
				"RecvMsg":   func(cs grpc.ClientStream) { _ = cs.RecvMsg(nil) },
				"SendMsg":   func(cs grpc.ClientStream) { _ = cs.SendMsg(nil) },
				"CloseSend": func(cs grpc.ClientStream) { _ = cs.CloseSend() },
			} {
				panicsOnce(t, desc, f, fmt.Sprintf("%s, %v", name, want), call, want)
			}
		}
	}
}

// G1, S13: a panic is a failure with a code other than Unavailable, so it takes back the sign of life of the first
// message. The failure streak goes on.
func TestS13_PanicUndoesTheSignOfLife(t *testing.T) {
	for _, leave := range []func(){func() { panic("broken") }, runtime.Goexit} {
		g := newGuard(t, breaker.Config{ConsecutiveFailures: 2})
		_ = (&calls{guard: g}).call(t.Context(), down)
		messages := 1
		cs, _ := openFake(t.Context(), t, g, serverStreams, &fakeStream{recv: func(any) error {
			if messages--; messages < 0 {
				leave()
			}
			return nil
		}})
		_ = cs.RecvMsg(nil)
		wantState(t, "after the message", g, breaker.Closed)
		leaves(func() { _ = cs.RecvMsg(nil) })
		wantTally(t, "after the panic", g, tally{Failure: 2})
		wantState(t, "after the panic", g, breaker.Open)
	}
}

// G1: a panic in Header. Otherwise Header does not end the stream.
func TestG01_StreamHeaderPanics(t *testing.T) {
	for want, leave := range map[any]func(){
		"no header": func() { panic("no header") },
		"exited":    runtime.Goexit,
	} {
		f := &fakeStream{header: func() (metadata.MD, error) { leave(); return nil, nil }}
		panicsOnce(t, bothStream, f, fmt.Sprint(want), func(cs grpc.ClientStream) { _, _ = cs.Header() }, want)
	}
}

func panicsOnce(
	t *testing.T, desc *grpc.StreamDesc, f *fakeStream, what string, call func(grpc.ClientStream), want any,
) {
	t.Helper()
	g := newGuard(t, breaker.Config{})
	ctx := newWatchedContext(t.Context())
	cs, finish := openFake(ctx, t, g, desc, f)
	if got := leaves(func() { call(cs) }); got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
	wantTally(t, what, g, one(breaker.Failure))
	if got := ctx.watchers(); got != 0 {
		t.Errorf("%s: the context still has %d watches, want 0", what, got)
	}
	finish(nil)
	_ = leaves(func() { call(cs) })
	wantTally(t, what+", again", g, one(breaker.Failure))
}

// G1: Trailer of the stream below may panic too. The outcome is then decided without a trailer, and the caller gets its
// error.
func TestG01_TrailerPanics(t *testing.T) {
	for want, leave := range map[any]func(){
		nil:      func() { panic("no trailer") },
		"exited": runtime.Goexit,
	} {
		g := newGuard(t, breaker.Config{})
		var finish func(error)
		f := &fakeStream{
			recv:    func(any) error { finish(down); return down },
			trailer: func() metadata.MD { leave(); return nil },
		}
		cs, finish := openFake(context.WithoutCancel(t.Context()), t, g, serverStreams, f)
		got := leaves(func() {
			if err := cs.RecvMsg(nil); err != down { //nolint:errorlint // the same value
				t.Errorf("got %v, want %v", err, down)
			}
		})
		if got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		wantTally(t, fmt.Sprintf("left with %v", got), g, one(breaker.Failure))
	}
}

// G13: for a stream, a classifier and hooks that panic change neither the outcome nor the caller's error.
func TestG13_StreamClassifierPanics(t *testing.T) {
	for _, end := range []error{nil, down} {
		g := newGuard(t, breaker.Config{}, WithHooks(hooksOf(panickingHooks{})),
			WithClassifier(func(context.Context, Result) breaker.Outcome { panic("no outcome") }))
		cs, _ := openFake(t.Context(), t, g, serverStreams, &fakeStream{recv: func(any) error { return eofOr(end) }})
		if _, err := drainRaw(cs); err != end { //nolint:errorlint // the same value
			t.Errorf("got %v, want %v", err, end)
		}
		want := one(breaker.Success)
		if end != nil {
			want = one(breaker.Failure)
		}
		wantTally(t, fmt.Sprint(end), g, want)
	}
}

type panickingHooks struct{}

func (panickingHooks) Rejected(context.Context, *RejectedError)  { panic("rejected") }
func (panickingHooks) FellBack(context.Context, FallbackInfo)    { panic("fell back") }
func (panickingHooks) Transition(context.Context, breaker.Event) { panic("transition") }
func (panickingHooks) Settled(context.Context, Settlement)       { panic("settled") }

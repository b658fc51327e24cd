package interceptor

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// watchedContext counts its watches. It has a method AfterFunc, which package context uses if a context has one.
type watchedContext struct {
	context.Context

	done chan struct{}

	mu sync.Mutex
	// mu guards these.
	ids     int
	waiting map[int]func()
	ever    int
	err     error
}

func newWatchedContext(parent context.Context) *watchedContext {
	return &watchedContext{
		Context: context.WithoutCancel(parent), done: make(chan struct{}), waiting: make(map[int]func()),
	}
}

func (c *watchedContext) Done() <-chan struct{} { return c.done }

func (c *watchedContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ever++
	c.ids++
	id := c.ids
	c.waiting[id] = f
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, there := c.waiting[id]
		delete(c.waiting, id)
		return there
	}
}

// cancel ends the context.
func (c *watchedContext) cancel() {
	c.mu.Lock()
	c.err = context.Canceled
	waiting := c.waiting
	c.waiting = make(map[int]func())
	c.mu.Unlock()
	close(c.done)
	for _, f := range waiting {
		f()
	}
}

func (c *watchedContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *watchedContext) watchers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

// S12: while a stream that is not grpc's own is open, the guard watches its context. After the stream has settled, for
// any reason, it does not. So a context that many streams share does not grow.
func TestS12_WatchEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		desc   *grpc.StreamDesc
		f      *fakeStream
		settle func(cs grpc.ClientStream, finish func(error))
	}{
		"RecvMsg, io.EOF": {serverStreams, &fakeStream{}, func(cs grpc.ClientStream, _ func(error)) { _ = cs.RecvMsg(nil) }},
		"RecvMsg, error": {
			serverStreams, &fakeStream{recv: func(any) error { return down }},
			func(cs grpc.ClientStream, _ func(error)) { _ = cs.RecvMsg(nil) },
		},
		"RecvMsg, only message": {
			clientStreams, &fakeStream{recv: func(any) error { return nil }},
			func(cs grpc.ClientStream, _ func(error)) { _ = cs.RecvMsg(nil) },
		},
		"SendMsg, error": {
			bothStream, &fakeStream{send: func(any) error { return down }},
			func(cs grpc.ClientStream, _ func(error)) { _ = cs.SendMsg(nil) },
		},
		"CloseSend, error": {
			bothStream, &fakeStream{closeSend: func() error { return down }},
			func(cs grpc.ClientStream, _ func(error)) { _ = cs.CloseSend() },
		},
		"RecvMsg, after OnFinish": {
			serverStreams, &fakeStream{recv: func(any) error { return down }},
			func(cs grpc.ClientStream, finish func(error)) {
				finish(statusError(codes.Canceled))
				_ = cs.RecvMsg(nil)
			},
		},
		"RecvMsg, panic": {
			serverStreams, &fakeStream{recv: func(any) error { panic("broken") }},
			func(cs grpc.ClientStream, _ func(error)) { leaves(func() { _ = cs.RecvMsg(nil) }) },
		},
	} {
		g := newGuard(t, breaker.Config{ConsecutiveFailures: -1, FailureRatio: -1})
		ctx := newWatchedContext(t.Context())
		for range 100 {
			cs, finish := openFake(ctx, t, g, tt.desc, tt.f)
			if got := ctx.watchers(); got != 1 {
				t.Fatalf("%s: %d watches while the stream is open, want 1", name, got)
			}
			tt.settle(cs, finish)
			if got := ctx.watchers(); got != 0 {
				t.Fatalf("%s: %d watches after the stream has settled, want 0", name, got)
			}
		}
		s := onlyBreaker(t, g).Snapshot()
		if s.InFlight != 0 || s.Admitted != 100 {
			t.Errorf("%s: %d of %d in flight, want none of 100", name, s.InFlight, s.Admitted)
		}
	}
}

// S12, S14: a probe has settled at its first message, but may close the breaker while the stream is open. So its watch
// ends with the stream, for any end. After that, nothing closes the breaker.
func TestS12_ProbeWatchEnds(t *testing.T) {
	for name, end := range map[string]func(cs grpc.ClientStream, f *fakeStream, ctx *watchedContext){
		"io.EOF": func(cs grpc.ClientStream, f *fakeStream, _ *watchedContext) {
			f.recv = nil
			_ = cs.RecvMsg(nil)
		},
		"error": func(cs grpc.ClientStream, f *fakeStream, _ *watchedContext) {
			f.recv = func(any) error { return down }
			_ = cs.RecvMsg(nil)
		},
		"the context's end": func(_ grpc.ClientStream, _ *fakeStream, ctx *watchedContext) { ctx.cancel() },
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, breaker.Config{SuccessesToClose: 2})
			halfOpen(t, g, methodKey)
			ctx := newWatchedContext(t.Context())
			f := &fakeStream{recv: func(any) error { return nil }}
			cs, _ := openFake(ctx, t, g, serverStreams, f)
			if got := ctx.watchers(); got != 1 {
				t.Errorf("%s: %d watches before the first message, want 1", name, got)
			}
			_ = cs.RecvMsg(nil)
			wantTally(t, name+": after the first message", g, one(breaker.Success))
			if got := ctx.watchers(); got != 1 {
				t.Errorf("%s: %d watches after the first message, want 1", name, got)
			}
			end(cs, f, ctx)
			if got := ctx.watchers(); got != 0 {
				t.Errorf("%s: %d watches after the end, want 0", name, got)
			}
			time.Sleep(time.Minute)
			wantState(t, name+": long after the end", g, breaker.HalfOpen)
			wantTally(t, name+": long after the end", g, one(breaker.Success))
		})
	}
}

// S12: no watch if there is nothing to watch: the stream failed to open, it ended while it opened, or the context
// cannot end.
func TestS12_NoWatchWithoutStream(t *testing.T) {
	g := newGuard(t, breaker.Config{})
	ctx := newWatchedContext(t.Context())
	_, _ = g.Stream(ctx, serverStreams, nil, fullMethod,
		func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
			return nil, down
		})
	leaves(func() {
		_, _ = g.Stream(ctx, serverStreams, nil, fullMethod,
			func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
				panic("broken")
			})
	})
	if ctx.ever != 0 {
		t.Errorf("the context was watched %d times, want 0", ctx.ever)
	}
}

// S12, S7: a stream that grpc made needs no watch, because grpc calls OnFinish when the context ends.
func TestS12_NoWatchOnGRPCsOwn(t *testing.T) {
	g := newGuard(t, breaker.Config{})
	r := newStreamRig(t, g, lives(1))
	plain := r.backend.Dial(t)
	ctx := newWatchedContext(t.Context())
	open := func(cc grpc.ClientConnInterface) int {
		before := ctx.ever
		cs, err := cc.NewStream(ctx, serverStreams, "/grpcircuit.testpb.Test/ServerStream")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cs.CloseSend() })
		return ctx.ever - before
	}
	open(plain) // the connection watches the context once
	open(r.conn)
	without, with := open(plain), open(r.conn)
	if with != without {
		t.Errorf("a guarded stream watches its context %d times, an unguarded one %d times", with, without)
	}
}

package interceptor

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"google.golang.org/grpc"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// A guarded stream costs at most four more allocations than an unguarded one, from its creation to io.EOF, over real
// grpc.
func TestStreamAllocations(t *testing.T) {
	const budget = 4
	srv := new(testpb.Server)
	backend := testpb.StartBufconn(t, srv)
	plain := testpb.NewTestClient(backend.Dial(t))
	guarded := testpb.NewTestClient(backend.Dial(t, newGuard(t, breaker.Config{}).DialOptions()...))
	ctx, req := t.Context(), &testpb.Request{Count: 1}
	download := func(c testpb.TestClient) {
		s, err := c.ServerStream(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := drain(s); n != 1 || err != nil {
			t.Fatalf("got %d messages and %v", n, err)
		}
	}
	upload := func(c testpb.TestClient) {
		s, err := c.ClientStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(req); err != nil {
			t.Fatal(err)
		}
		if _, err := s.CloseAndRecv(); err != nil {
			t.Fatal(err)
		}
	}
	both := func(c testpb.TestClient) {
		s, err := c.Bidi(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(req); err != nil {
			t.Fatal(err)
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if n, err := drain(s); n != 1 || err != nil {
			t.Fatalf("got %d messages and %v", n, err)
		}
	}
	for name, call := range map[string]func(testpb.TestClient){"download": download, "upload": upload, "both ways": both} {
		got := extraMallocs(t, func() { call(plain) }, func() { call(guarded) })
		if got > budget+mallocNoise {
			t.Errorf("%s: a guarded stream costs %.2f allocations more than an unguarded one, want at most %d", name, got,
				budget)
		}
	}
}

// A first message costs no allocation, unless it ends a failure streak or settles a probe.
func TestFirstStreamMessageAllocatesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const runs = 100
		for name, cfg := range map[string]breaker.Config{"default": {}, "slow rule": {SlowCall: time.Hour}} {
			g := newGuard(t, cfg)
			streams := make(chan grpc.ClientStream, runs+1) // AllocsPerRun makes one run more
			for range cap(streams) {
				cs, _ := openFake(t.Context(), t, g, bothStream, &fakeStream{recv: func(any) error { return nil }})
				streams <- cs
			}
			if got := testing.AllocsPerRun(runs, func() {
				cs := <-streams
				_ = cs.SendMsg(nil)
				_ = cs.RecvMsg(nil)
			}); got != 0 {
				t.Errorf("%s: a first message costs %v allocations, want 0", name, got)
			}
			wantTally(t, name, g, tally{InFlight: runs + 1})
		}
	})
}

// A message costs no allocation: not one of a probe that has settled, nor one with hooks or the slow rule.
func TestStreamMessagesAllocateNothing(t *testing.T) {
	synctest.Test(t, testStreamMessagesAllocateNothing)
}

func testStreamMessagesAllocateNothing(t *testing.T) {
	f := &fakeStream{recv: func(any) error { return nil }}
	for name, tt := range map[string]struct {
		cfg  breaker.Config
		opts []Option
		trip bool
	}{
		"default":       {},
		"slow rule":     {cfg: breaker.Config{SlowCall: time.Hour}},
		"hooks":         {opts: []Option{WithHooks(hooksOf(new(settlements)))}},
		"peer evidence": {opts: []Option{WithPeerEvidence()}},
		"probe":         {trip: true},
	} {
		g := newGuard(t, tt.cfg, tt.opts...)
		if tt.trip {
			halfOpen(t, g, methodKey)
		}
		cs, _ := openFake(t.Context(), t, g, bothStream, f)
		if !tt.trip {
			wantTally(t, name, g, tally{InFlight: 1})
		}
		if got := testing.AllocsPerRun(100, func() {
			_ = cs.SendMsg(nil)
			_ = cs.RecvMsg(nil)
		}); got != 0 {
			t.Errorf("%s: a message costs %v allocations, want 0", name, got)
		}
	}
}

// S12, S7: open streams cost no more goroutines than without the guard. A few unguarded streams show how many that is.
func TestS12_OpenStreamsCostNoGoroutine(t *testing.T) {
	streams := 10_000
	if testing.Short() {
		streams = 1000
	}
	synctest.Test(t, func(t *testing.T) {
		srv := new(testpb.Server)
		srv.Set(lives(0))
		backend := testpb.StartBufconn(t, srv)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		open := func(cc *grpc.ClientConn, n int) (goroutines int) {
			t.Helper()
			synctest.Wait()
			before := runtime.NumGoroutine()
			for range n {
				if _, err := cc.NewStream(ctx, bothStream, testpb.Test_Bidi_FullMethodName); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait() // the server has the stream too
			return runtime.NumGoroutine() - before
		}
		g := newGuard(t, breaker.Config{})
		plain, guarded := backend.Dial(t), backend.Dial(t, g.DialOptions()...)
		open(plain, 1) // the connections' own goroutines
		open(guarded, 1)
		const few = 100
		each := (open(plain, few) + few/2) / few
		got, want := open(guarded, streams), each*streams
		if each < 2 || got > want+few/2 { // other goroutines of the process may start and end
			t.Errorf("%d open streams cost %d goroutines, want %d as without the guard", streams, got, want)
		}
		wantTally(t, "while open", g, tally{InFlight: uint64(streams) + 1})
		cancel()
		synctest.Wait()
		wantTally(t, "after the cancel", g, tally{Ignored: uint64(streams) + 1})
	})
}

// S12: for streams that are not grpc's own, the guard watches the context. The watch costs no goroutine either.
func TestS12_WatchedStreamsCostNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		g := newGuard(t, breaker.Config{})
		before := runtime.NumGoroutine()
		for range 10_000 {
			openFake(ctx, t, g, serverStreams, new(fakeStream))
		}
		if got := runtime.NumGoroutine() - before; got > 10 {
			t.Errorf("10 000 open streams cost %d goroutines, want none", got)
		}
		wantTally(t, "while open", g, tally{InFlight: 10_000})
		cancel()
		synctest.Wait()
		wantTally(t, "after the cancel", g, tally{Ignored: 10_000})
	})
}

// settledSignal has hooks that send when a call has settled.
type settledSignal chan struct{}

func (settledSignal) Rejected(context.Context, *RejectedError)  {}
func (settledSignal) FellBack(context.Context, FallbackInfo)    {}
func (settledSignal) Transition(context.Context, breaker.Event) {}
func (s settledSignal) Settled(context.Context, Settlement)     { s <- struct{}{} }

// S12: after a stream has settled and its caller has dropped it, neither the guard nor the breaker keeps its context or
// the parent of that context alive.
func TestS12_SettledStreamKeepsNoContext(t *testing.T) {
	type ballast struct{ _ [64]byte }
	type key struct{}
	g := newGuard(t, breaker.Config{OpenFor: time.Millisecond, SuccessesToClose: 1}, WithHooks(hooksOf(noopHooks{})))
	settled := make(settledSignal, 1)
	signalling, err := New(g.Group(), WithHooks(hooksOf(settled)))
	if err != nil {
		t.Fatal(err)
	}
	r := newStreamRig(t, g, sends(1, nil))
	wrapped := r.backend.Dial(t, append(g.DialOptions(), grpc.WithChainStreamInterceptor(wrap))...)
	parent, cancel := context.WithCancel(t.Context())
	defer cancel()
	for name, use := range map[string]func(context.Context){
		"grpc's own": func(ctx context.Context) { _, _ = drain(r.server(ctx)) },
		"wrapped": func(ctx context.Context) {
			s, err := testpb.NewTestClient(wrapped).ServerStream(ctx, &testpb.Request{})
			if err != nil {
				t.Fatal(err)
			}
			_, _ = drain(s)
		},
		"fake": func(ctx context.Context) {
			cs, _ := openFake(ctx, t, g, serverStreams, new(fakeStream))
			_, _ = drainRaw(cs)
		},
		"fake, by its context": func(ctx context.Context) {
			ctx, cancel := context.WithCancel(ctx)
			openFake(ctx, t, signalling, serverStreams, new(fakeStream))
			cancel()
			<-settled
		},
		"direct, by OnFinish": func(ctx context.Context) {
			_, finish := openDirect(ctx, t, g, serverStreams, new(fakeStream))
			finish(nil)
		},
		"fake, that trips the breaker": func(ctx context.Context) {
			for range 5 {
				cs, _ := openFake(ctx, t, g, serverStreams, &fakeStream{recv: func(any) error { return down }})
				_, _ = drainRaw(cs)
			}
		},
	} {
		pack := func() weak.Pointer[ballast] {
			l := new(ballast)
			use(context.WithValue(parent, key{}, l))
			return weak.Make(l)
		}
		packed := pack()
		for range 100 { // a goroutine of grpc may still use the context
			if runtime.GC(); packed.Value() == nil {
				break
			}
		}
		if packed.Value() != nil {
			t.Errorf("%s: the context is still reachable", name)
		}
		for key, b := range g.Group().All() {
			if s := b.Snapshot(); s.InFlight != 0 {
				t.Errorf("%s: %v has %d in flight", name, key, s.InFlight)
			}
			b.Reset(t.Context())
		}
	}
}

package interceptor

import (
	"context"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// S4: each cell of the table in stream_state.go has the described effect, and no other.
func TestS04_EverySignalInEveryOrigin(t *testing.T) {
	names := map[reaction]string{
		nothing: "nothing", later: "nothing", end: "over", endIfClosed: "nothing", giveUp: "over, ignored",
		fail: "over, failed", sustain: "closed",
	}
	closedNames := map[reaction]string{endIfClosed: "over, ignored", sustain: "nothing"}
	for sig := range signal(signals) {
		for from := range origin(origins) {
			for _, shut := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					g := newGuard(t, probeConfig)
					b := testpb.StartBufconn(t, new(testpb.Server))
					cc := b.Dial(t)
					if shut {
						_ = cc.Close()
					}
					br := halfOpen(t, g, methodKey)
					permit, err := br.Acquire(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					s := &stream{
						ClientStream: new(fakeStream), ctx: t.Context(), cc: cc, method: fullMethod, desc: serverStreams,
						pending: g.begin(t.Context(), br, permit, true),
					}
					s.peer.Addr = new(net.TCPAddr)
					s.inRecv.Store(1) // cc is IDLE
					s.from.Store(uint32(from))
					if from != originOpening {
						s.startAgeTimer()
						defer s.stopWatching()
					}
					s.on(sig, errNotFound)
					got := "nothing"
					snap := br.Snapshot()
					switch {
					case s.ended.Load() && snap.Ignored == 1:
						got = "over, ignored"
					case s.ended.Load() && snap.Failures == 1:
						got = "over, failed"
					case s.ended.Load():
						got = "over"
					case snap.State == breaker.Closed:
						got = "closed"
					}
					want := names[reactions[sig][from]]
					if shut && closedNames[reactions[sig][from]] != "" {
						want = closedNames[reactions[sig][from]]
					}
					if got != want {
						t.Errorf("signal %d from origin %d, closed is %v: %s, want %s", sig, from, shut, got, want)
					}
				})
			}
		}
	}
}

// The table of reactions, copied from the comment in stream_state.go, so that a change of a cell does not go unnoticed.
func TestS04_TheTable(t *testing.T) {
	want := map[signal][origins]reaction{
		received:    {nothing, end, end, end},
		returned:    {end, end, end, end},
		finished:    {later, end, end, endIfClosed},
		finishedIn:  {later, end, later, later},
		callsOver:   {nothing, nothing, end, endIfClosed},
		contextDone: {end, nothing, end, end},
		noHeader:    {nothing, giveUp, giveUp, nothing},
		panicked:    {fail, fail, fail, fail},
		probeIsOld:  {nothing, sustain, sustain, sustain},
	}
	if len(want) != signals {
		t.Fatalf("%d signals, want %d", signals, len(want))
	}
	for sig, row := range want {
		if reactions[sig] != row {
			t.Errorf("signal %d: %v, want %v", sig, reactions[sig], row)
		}
	}
}

// S4: two streams run inside one guarded stream, as with a hedging interceptor. The stream whose result is dropped ends
// first, by its context. Its OnFinish decides nothing.
func TestS04_HedgingConcurrentSafe(t *testing.T) {
	g := newGuard(t, breaker.Config{}, WithKey(oneKey))
	hedge := func(
		ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer,
		opts ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		loserCtx, cancel := context.WithCancel(ctx)
		loser, err := streamer(loserCtx, desc, cc, method, opts...)
		if err != nil {
			cancel()
			return nil, err
		}
		winner, err := streamer(ctx, desc, cc, method, opts...)
		go func() { // as a hedging interceptor does after the first answer
			cancel()
			_ = loser.RecvMsg(new(testpb.Response))
		}()
		return wrappedStream{winner}, err
	}
	r := newStreamRig(t, g, sends(3, nil), grpc.WithChainStreamInterceptor(hedge))
	for range 20 {
		if n, err := drain(r.server(t.Context())); n != 3 || err != nil {
			t.Fatalf("got %d messages and %v, want 3", n, err)
		}
	}
	wantTally(t, "streams with a dropped attempt", g, tally{Success: 20})
}

// G5: the same for unary calls with a hedging interceptor inside the guard, in each state of doubt.
func TestG05_HedgedUnaryConcurrentSafe(t *testing.T) {
	for _, doubt := range doubts {
		g := newGuard(t, lenient, WithKey(oneKey))
		hedge := func(
			ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker,
			opts ...grpc.CallOption,
		) error {
			replies, errs := [2]testpb.Response{}, make(chan error, 2)
			for i := range replies {
				go func() { errs <- invoker(ctx, method, req, &replies[i], cc, opts...) }()
			}
			err := <-errs
			if other := <-errs; err == nil {
				err = other
			}
			return err
		}
		r := newStreamRig(t, g, testpb.Script{}, grpc.WithChainUnaryInterceptor(hedge))
		doubt.set(g.Group().Get(breaker.Key{}))
		before := tallyOf(onlyBreaker(t, g).Snapshot())
		for range 20 {
			_ = mustUnary(t, r)
		}
		before.Success += 20
		wantTally(t, doubt.name, g, before)
	}
}

// S13: the first message of a stream ends the failure streak. A failure that is not a lost connection takes that back.
func TestS13_FirstMessageIsASignOfLife(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  error
		want uint64 // the streak after the stream's end, from 4 before its message
	}{
		{"Unavailable", down, 1},
		{"Internal", statusError(13), 5},
		{"DeadlineExceeded", statusError(4), 5},
		{"overload", statusError(8), 0},
		{"answer", errNotFound, 0},
		{"io.EOF", nil, 0},
	} {
		inEach(t, func(t arranged) {
			g := newGuard(t.T, breaker.Config{ConsecutiveFailures: 100, FailureRatio: -1, MinCalls: 1000}, WithKey(oneKey))
			r := newStreamRig(t.T, g, paced(tt.end, 2*time.Second, time.Second), t.dial...)
			b := g.Group().Get(breaker.Key{})
			for range 4 {
				settleOne(b, breaker.Failure)
			}
			s := r.server(t.Context())
			streak := func() uint64 { return b.Snapshot().Window.ConsecutiveFailures }
			if got := streak(); got != 4 {
				t.Errorf("%s: the streak is %d before the message, want 4", tt.name, got)
			}
			if _, err := s.Recv(); err != nil {
				t.Fatal(err)
			}
			if got := streak(); got != 0 {
				t.Errorf("%s: the streak is %d after the message, want 0", tt.name, got)
			}
			endsWith(t.T, s, codeOfEnd(tt.end))
			synctest.Wait()
			if got := streak(); got != tt.want {
				t.Errorf("%s: the streak is %d after the end, want %d", tt.name, got, tt.want)
			}
		})
	}
}

// S13: quiet watches have no message and no success. If a watch was open for a long time, its end ends the failure
// streak, unless its caller ended it.
func TestS13_QuietWatchIsASignOfLife(t *testing.T) {
	for _, tt := range []struct {
		name  string
		age   time.Duration
		close bool
		want  uint64
	}{
		{"young", 9 * time.Second, false, 4},
		{"old", 10 * time.Second, false, 0},
		{"old, and the caller closes the connection", 10 * time.Second, true, 3},
	} {
		inEach(t, func(t arranged) {
			g := newGuard(t.T, breaker.Config{ConsecutiveFailures: 100, FailureRatio: -1, MinCalls: 1000}, WithKey(oneKey))
			end, script := down, paced(down, tt.age)
			if tt.close {
				script = lives(0)
			}
			r := newStreamRig(t.T, g, script, t.dial...)
			b := g.Group().Get(breaker.Key{})
			for range 3 {
				settleOne(b, breaker.Failure)
			}
			s := r.server(t.Context())
			if tt.close {
				time.Sleep(tt.age)
				_ = r.conn.Close()
				_, _ = drain(s)
			} else {
				endsWith(t.T, s, codeOfEnd(end))
			}
			synctest.Wait()
			if got := b.Snapshot().Window.ConsecutiveFailures; got != tt.want {
				t.Errorf("%s: the streak is %d, want %d", tt.name, got, tt.want)
			}
		})
	}
}

// S14: a quiet probe closes its breaker when it is old, for any SuccessesToClose, and even if its lease has run out.
// Its timer ends with the stream.
func TestS14_QuietProbe(t *testing.T) {
	inEach(t, func(t arranged) {
		cfg := probeConfig
		cfg.SuccessesToClose, cfg.ProbeTimeout = 5, 3*time.Second
		g := newGuard(t.T, cfg, WithKey(oneKey))
		r := newStreamRig(t.T, g, lives(0), t.dial...)
		halfOpen(t.T, g, breaker.Key{})
		ctx, cancel := context.WithCancel(t.Context())
		_ = r.server(ctx)
		time.Sleep(10*time.Second - 1)
		wantState(t.T, "just before it is old", g, breaker.HalfOpen)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		wantState(t.T, "when it is old", g, breaker.Closed)
		cancel()
		synctest.Wait()
		wantTally(t.T, "after it was canceled", g, tally{Late: 1})
	})
}

// S14: probes that have had a message, and probes that end before they are old.
func TestS14_ProbesThatDoNotSustain(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script testpb.Script
		cancel time.Duration // 0: never
		want   breaker.State
	}{
		{"a message, and still open", lives(1), 0, breaker.Closed},
		{"a message, and ended", paced(down, time.Second, 0), 0, breaker.HalfOpen},
		{"a message, and canceled", lives(1), time.Second, breaker.HalfOpen},
		{"no message, and canceled", lives(0), time.Second, breaker.HalfOpen},
		{"no message, and ended", paced(down, time.Second), 0, breaker.Open},
	} {
		inEach(t, func(t arranged) {
			cfg := probeConfig
			cfg.SuccessesToClose, cfg.OpenFor, cfg.MaxOpenFor = 5, time.Hour, time.Hour
			g := newGuard(t.T, cfg, WithKey(oneKey))
			r := newStreamRig(t.T, g, tt.script, t.dial...)
			halfOpen(t.T, g, breaker.Key{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := r.server(ctx)
			go func() { _, _ = drain(s) }()
			if tt.cancel > 0 {
				time.Sleep(tt.cancel)
				cancel()
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			wantState(t.T, tt.name, g, tt.want)
		})
	}
}

// S14: while the channel has no connection, a stream that seems to be open does not close the breaker. The timer starts
// again.
func TestS14_NotWithoutAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, probeConfig, WithKey(oneKey))
		backend := testpb.StartBufconn(t, new(testpb.Server))
		cc := backend.Dial(t)
		backend.Stop()
		cc.Connect()
		time.Sleep(time.Second)
		halfOpen(t, g, breaker.Key{})
		cs, err := g.Stream(t.Context(), serverStreams, cc, fullMethod,
			func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
				return new(fakeStream), nil
			})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		wantState(t, "old, without a connection", g, breaker.HalfOpen)
		backend.Restart()
		cc.ResetConnectBackoff()
		time.Sleep(15 * time.Second)
		wantState(t, "old, with a connection", g, breaker.Closed)
		_ = cs.RecvMsg(nil)
	})
}

// S14: under ForceClosed, an old probe does not change the state. It closes the breaker after the override has ended.
func TestS14_AfterForceClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := probeConfig
		cfg.SuccessesToClose = 3
		g := newGuard(t, cfg)
		b := halfOpen(t, g, methodKey)
		cs, _ := openFake(t.Context(), t, g, serverStreams, new(fakeStream))
		if err := b.SetOverride(t.Context(), breaker.Override{
			Mode: breaker.ForceClosed, Why: "test",
			By: "test",
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		b.ClearOverride(t.Context())
		wantState(t, "under ForceClosed", g, breaker.HalfOpen)
		time.Sleep(10 * time.Second)
		wantState(t, "after it", g, breaker.Closed)
		_ = cs.RecvMsg(nil)
	})
}

// S14, S12: the timer of a probe ends with the stream, for any end, and with the half-open generation.
func TestS14_TheTimerEnds(t *testing.T) {
	for name, end := range map[string]func(cs grpc.ClientStream, cancel func(), b *breaker.Breaker){
		"RecvMsg": func(cs grpc.ClientStream, _ func(), _ *breaker.Breaker) { _ = cs.RecvMsg(nil) },
		"cancel":  func(_ grpc.ClientStream, cancel func(), _ *breaker.Breaker) { cancel() },
		"panic": func(cs grpc.ClientStream, _ func(), _ *breaker.Breaker) {
			leaves(func() { _ = cs.SendMsg(nil) })
		},
		"another generation": func(_ grpc.ClientStream, _ func(), b *breaker.Breaker) { b.Reset(t.Context()) },
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, probeConfig)
			b := halfOpen(t, g, methodKey)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cs, _ := openFake(ctx, t, g, serverStreams, &fakeStream{send: func(any) error { panic("broken") }})
			s := cs.(*stream)
			end(cs, cancel, b)
			synctest.Wait()
			if name == "another generation" {
				time.Sleep(time.Minute) // the timer may fire once more, and then stops
				synctest.Wait()
			}
			if s.ageTimer.Load().Stop() {
				t.Errorf("%s: the timer still runs", name)
			}
		})
	}
}

// S14: the timer also ends with the half-open generation if the stream has no connection.
func TestS14_TheTimerEndsWithoutAConnection(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(ctx context.Context, g *Guard, b *breaker.Breaker)
		runs bool
	}{
		{"half-open", func(context.Context, *Guard, *breaker.Breaker) {}, true},
		{"half-open under ForceClosed", func(ctx context.Context, _ *Guard, b *breaker.Breaker) {
			_ = b.SetOverride(ctx, breaker.Override{Mode: breaker.ForceClosed, Why: "test", By: "test"})
		}, true},
		{"closed", func(ctx context.Context, _ *Guard, b *breaker.Breaker) { b.Reset(ctx) }, false},
		{"open", func(ctx context.Context, _ *Guard, b *breaker.Breaker) { b.Trip(ctx, "test") }, false},
		{"removed", func(_ context.Context, g *Guard, b *breaker.Breaker) { g.Group().Remove(b.Key()) }, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, probeConfig, WithKey(oneKey))
			backend := testpb.StartBufconn(t, new(testpb.Server))
			cc := backend.Dial(t)
			backend.Stop()
			cc.Connect()
			time.Sleep(time.Second)
			b := halfOpen(t, g, breaker.Key{})
			cs, err := g.Stream(t.Context(), serverStreams, cc, fullMethod,
				func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
					return new(fakeStream), nil
				})
			if err != nil {
				t.Fatal(err)
			}
			tt.end(t.Context(), g, b)
			time.Sleep(time.Minute) // the timer fires once in any case
			synctest.Wait()
			if got := cs.(*stream).ageTimer.Load().Stop(); got != tt.runs {
				t.Errorf("%s: the timer runs: %v, want %v", tt.name, got, tt.runs)
			}
		})
	}
}

// S14: the age of a stream counts from its creation, however long that took.
func TestS14_SlowStreamer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, probeConfig)
		halfOpen(t, g, methodKey)
		_, err := g.Stream(t.Context(), serverStreams, nil, fullMethod,
			func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
				time.Sleep(time.Minute)
				return new(fakeStream), nil
			})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantState(t, "right after the creation", g, breaker.HalfOpen)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		wantState(t, "when it is old", g, breaker.Closed)
	})
}

// S10: the slow rule measures the time of the backend. For a client stream, it runs from CloseSend to the response. For
// a bidirectional stream, it runs from the first request to the first message.
func TestS10_FromTheRequest(t *testing.T) {
	for _, tt := range []struct {
		name string
		desc *grpc.StreamDesc
		do   func(cs grpc.ClientStream)
		want uint64 // slow calls
	}{
		{"an upload paced by the client", clientStreams, func(cs grpc.ClientStream) {
			for range 10 {
				_ = cs.SendMsg(nil)
				time.Sleep(time.Minute)
			}
			_ = cs.CloseSend()
			_ = cs.RecvMsg(nil)
		}, 0},
		{"an upload that is answered late", clientStreams, func(cs grpc.ClientStream) {
			_ = cs.SendMsg(nil)
			_ = cs.CloseSend()
			time.Sleep(time.Second + 1)
			_ = cs.RecvMsg(nil)
		}, 1},
		{"an upload that is answered before its end", clientStreams, func(cs grpc.ClientStream) {
			time.Sleep(time.Minute)
			_ = cs.RecvMsg(nil)
		}, 0},
		{"a chat whose user thinks", bothStream, func(cs grpc.ClientStream) {
			time.Sleep(time.Hour)
			_ = cs.SendMsg(nil)
			_ = cs.RecvMsg(nil)
		}, 0},
		{"a talkative client", bothStream, func(cs grpc.ClientStream) {
			for range 10 {
				_ = cs.SendMsg(nil)
				time.Sleep(time.Second)
			}
			_ = cs.RecvMsg(nil)
		}, 1},
		{"a chat that the server begins", bothStream, func(cs grpc.ClientStream) {
			time.Sleep(time.Hour)
			_ = cs.RecvMsg(nil)
			time.Sleep(time.Hour)
			_ = cs.SendMsg(nil)
			time.Sleep(time.Hour)
			_ = cs.RecvMsg(nil)
		}, 0},
		{"a download", serverStreams, func(cs grpc.ClientStream) {
			_ = cs.SendMsg(nil)
			_ = cs.CloseSend()
			time.Sleep(time.Second + 1)
			_ = cs.RecvMsg(nil)
		}, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, slowConfig)
			n := 0
			cs, _ := openFake(t.Context(), t, g, tt.desc, &fakeStream{recv: func(any) error {
				n++
				return nil
			}})
			tt.do(cs)
			s := cs.(*stream)
			s.on(received, nil)
			if got := onlyBreaker(t, g).Snapshot().SlowCalls; got != tt.want {
				t.Errorf("%s: %d slow calls, want %d", tt.name, got, tt.want)
			}
		})
	}
}

// G15: a fallback that makes a call through the same guard runs once for the call, and does not recurse.
func TestG15_FallbackThatCallsItself(t *testing.T) {
	g := newGuard(t, breaker.Config{}, WithKey(oneKey))
	ran := 0
	var cc *grpc.ClientConn
	region := Fallback(func(ctx context.Context, req *testpb.Request, _ error) (*testpb.Response, error) {
		ran++
		return testpb.NewTestClient(cc).Unary(ctx, req)
	})
	g, err := New(g.Group(), WithKey(oneKey), WithFallback(ForMethods(testpb.Test_Unary_FullMethodName), region,
		OnFailure()))
	if err != nil {
		t.Fatal(err)
	}
	r := newStreamRig(t, g, failing(down))
	cc = r.conn
	_, err = r.client.Unary(t.Context(), new(testpb.Request))
	if err == nil || ran != 1 {
		t.Errorf("a call that fails: %v after %d fallbacks, want the error after one", err, ran)
	}
	r.guard.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
	_, err = r.client.Unary(t.Context(), new(testpb.Request))
	if !IsRejected(err) || ran != 2 {
		t.Errorf("a call that is rejected: %v after %d fallbacks, want the rejection after two", err, ran)
	}
}

// S14: a timer that has fired when its stream ends decides nothing.
func TestS14_FiredAsTheStreamEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, probeConfig)
		halfOpen(t, g, methodKey)
		ctx, cancel := context.WithCancel(t.Context())
		cs, _ := openFake(ctx, t, g, serverStreams, new(fakeStream))
		cancel()
		synctest.Wait()
		cs.(*stream).on(probeIsOld, nil)
		wantState(t, "canceled", g, breaker.HalfOpen)
		wantTally(t, "canceled", g, one(breaker.Ignored))
	})
}

// S9: if an interceptor got the stream from elsewhere, a closed connection does not show that the stream has ended, so
// its Header might block.
func TestS09_StreamFromElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := testpb.StartBufconn(t, new(testpb.Server)).Dial(t)
		g := newGuard(t, breaker.Config{})
		elsewhere := func(
			ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, _ grpc.Streamer,
			opts ...grpc.CallOption,
		) (grpc.ClientStream, error) {
			_ = cc.Close()
			return other.NewStream(ctx, desc, method, opts...)
		}
		r := newStreamRig(t, g, testpb.Script{}, grpc.WithChainStreamInterceptor(elsewhere))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		opened := make(chan struct{})
		go func() {
			defer close(opened)
			_, _ = r.client.Bidi(ctx)
		}()
		select {
		case <-opened:
		case <-time.After(time.Hour):
			t.Error("NewStream waits for the header")
		}
	})
}

// G5: what the guard knows before it looks at the peer counts, even if that look exits the goroutine.
func TestG05_TrailerThatExits(t *testing.T) {
	g := newGuard(t, breaker.Config{})
	left := 1
	f := &fakeStream{
		recv: func(any) error {
			if left--; left >= 0 {
				return nil
			}
			return status.Error(codes.Internal, "grpc: error while marshaling: x")
		},
		trailer: func() metadata.MD { runtime.Goexit(); return nil },
	}
	cs, _ := openFake(t.Context(), t, g, serverStreams, f)
	_ = cs.RecvMsg(nil)
	leaves(func() { _ = cs.RecvMsg(nil) })
	wantTally(t, "a message, then an error with a local text", g, one(breaker.Failure))
}

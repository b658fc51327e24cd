package interceptor

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// probeConfig allows one probe at a time, and closes the breaker after one success.
var probeConfig = breaker.Config{
	OpenFor: 5 * time.Second, ProbeTimeout: 10 * time.Second, MaxProbes: 1,
	SuccessesToClose: 1,
}

// newProbeRig returns a rig whose next call of method is a probe.
func newProbeRig(tb testing.TB, method string, script testpb.Script, a streamArrangement, opts ...Option) *streamRig {
	tb.Helper()
	g := newGuard(tb, probeConfig, opts...)
	r := newStreamRig(tb, g, script, a.dial...)
	halfOpen(tb, g, breaker.Key{Target: r.conn.Target(), Service: "grpcircuit.testpb.Test", Method: method})
	return r
}

func wantProbeCounts(tb testing.TB, what string, g *Guard, want breaker.ProbeCounts) {
	tb.Helper()
	if diff := cmp.Diff(want, onlyBreaker(tb, g).Snapshot().Probes); diff != "" {
		tb.Errorf("%s: probes (-want +got):\n%s", what, diff)
	}
}

// S8: the first message is the success of a probe while the stream goes on. The end of the stream is then not an
// outcome.
func TestS08_FirstMessageSettlesProbe(t *testing.T) {
	for _, end := range []error{nil, down} {
		inEach(t, func(t arranged) {
			release := make(chan struct{})
			r := newProbeRig(t, "ServerStream", testpb.Script{
				OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
					if err := sendAll(s, 2, nil); err != nil {
						return err
					}
					<-release
					return end
				},
			}, t.streamArrangement)
			defer close(release)
			s := r.server(t.Context())
			wantTally(t, "before the first message", r.guard, tally{InFlight: 1})
			wantState(t, "before the first message", r.guard, breaker.HalfOpen)
			if _, err := s.Recv(); err != nil {
				t.Fatal(err)
			}
			wantState(t, "after the first message", r.guard, breaker.Closed)
			wantTally(t, "after the first message", r.guard, one(breaker.Success))
			wantProbeCounts(t, "after the first message", r.guard, breaker.ProbeCounts{Success: 1})
			if _, err := s.Recv(); err != nil {
				t.Errorf("the stream ended when its probe was settled: %v", err)
			}
			release <- struct{}{}
			endsWith(t, s, codeOfEnd(end))
			synctest.Wait()
			wantTally(t, "after the stream", r.guard, one(breaker.Success))
			wantState(t, "after the stream", r.guard, breaker.Closed)
		})
	}
}

// neverOld is an age that no stream of a test reaches, so that S14 closes no breaker.
var neverOld = WithLongStream(10_000 * time.Hour)

// S8, B22: a quiet watch whose first message comes after its lease closes the breaker too.
func TestS08_FirstMessageAfterTheLease(t *testing.T) {
	inEach(t, func(t arranged) {
		r := newProbeRig(t, "ServerStream", testpb.Script{
			OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
				time.Sleep(time.Minute)
				return sendAll(s, 1, nil)
			},
		}, t.streamArrangement, neverOld)
		s := r.server(t.Context())
		time.Sleep(30 * time.Second)
		wantState(t, "before the first message", r.guard, breaker.HalfOpen)
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		wantState(t, "after the first message", r.guard, breaker.Closed)
		wantProbeCounts(t, "after the first message", r.guard, breaker.ProbeCounts{Lost: 1})
		endsWith(t, s, codes.OK)
		synctest.Wait()
		wantTally(t, "after the stream", r.guard, tally{Late: 1})
	})
}

func codeOfEnd(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	return codeOf(err)
}

// S8: the end of the stream settles a probe too, without a message or with the only one.
func TestS08_EndSettlesProbe(t *testing.T) {
	for _, tt := range []struct {
		name  string
		end   error
		want  breaker.State
		count breaker.ProbeCounts
	}{
		{"done without a message", nil, breaker.Closed, breaker.ProbeCounts{Success: 1}},
		{"the peer answers with an error", errNotFound, breaker.Closed, breaker.ProbeCounts{Success: 1}},
		{"the peer is down", down, breaker.Open, breaker.ProbeCounts{Failure: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inEach(t, func(t arranged) {
				r := newProbeRig(t, "ServerStream", sends(0, tt.end), t.streamArrangement)
				endsWith(t, r.server(t.Context()), codeOfEnd(tt.end))
				wantState(t, "download", r.guard, tt.want)
				wantProbeCounts(t, "download", r.guard, tt.count)

				r = newProbeRig(t, "ClientStream", sends(0, tt.end), t.streamArrangement)
				_, err := r.upload(t.Context()).CloseAndRecv()
				wantCode(t, "upload", err, codeOfEnd(tt.end))
				wantState(t, "upload", r.guard, tt.want)
				wantProbeCounts(t, "upload", r.guard, tt.count)
			})
		})
	}
}

// S8: a probe whose stream could not be created has failed.
func TestS08_ProbeNotCreated(t *testing.T) {
	inEach(t, func(t arranged) {
		r := newProbeRig(t, "ServerStream", testpb.Script{}, t.streamArrangement)
		r.backend.Stop()
		_, err := r.client.ServerStream(t.Context(), &testpb.Request{})
		wantCode(t, "creation", err, codes.Unavailable)
		wantState(t, "after the creation", r.guard, breaker.Open)
		wantProbeCounts(t, "after the creation", r.guard, breaker.ProbeCounts{Failure: 1})
	})
}

// S8: a header is not a message, so a probe that has only a header has not succeeded yet.
func TestS08_HeaderIsNoMessage(t *testing.T) {
	inEach(t, func(t arranged) {
		r := newProbeRig(t, "Bidi", testpb.Script{
			OnBidi: func(s grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error {
				if err := s.SendHeader(nil); err != nil {
					return err
				}
				<-s.Context().Done()
				return s.Context().Err()
			},
		}, t.streamArrangement)
		if md, err := r.bidi(t.Context()).Header(); md == nil || err != nil {
			t.Fatalf("Header: got %v, %v, want one", md, err)
		}
		wantState(t, "after the header", r.guard, breaker.HalfOpen)
		wantTally(t, "after the header", r.guard, tally{InFlight: 1})
	})
}

// S8: a watch that is open for hours, through a trip and a recovery, is one call and does not hold a slot. If it ends
// with Unavailable then, that is not a failure (S2).
func TestS08_WatchLivesForHours(t *testing.T) {
	inEach(t, func(t arranged) {
		tick := testpb.Script{OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
			for range 5 * 60 {
				if err := s.Send(new(testpb.Response)); err != nil {
					return err
				}
				time.Sleep(time.Minute)
			}
			return down
		}}
		r := newProbeRig(t, "ServerStream", tick, t.streamArrangement)
		probe := r.server(t.Context())
		if _, err := probe.Recv(); err != nil {
			t.Fatal(err)
		}
		wantState(t, "after the probe's first message", r.guard, breaker.Closed)
		plain := r.server(t.Context())
		for i := range 5*60 - 1 {
			if _, err := probe.Recv(); err != nil {
				t.Fatalf("message %d of the probe: %v", i, err)
			}
			if _, err := plain.Recv(); err != nil {
				t.Fatalf("message %d of the other: %v", i, err)
			}
		}
		wantTally(t, "after five hours", r.guard, tally{Success: 1, InFlight: 1})
		endsWith(t, probe, codes.Unavailable)
		wantTally(t, "after the probe's end", r.guard, tally{Success: 1, InFlight: 1})
		endsWith(t, plain, codes.Unavailable)
		wantTally(t, "after the other's end", r.guard, tally{Success: 2})
	})
}

// S8: messages are not outcomes. Beside ten calls that failed, a stream of 100 000 messages is one call.
func TestS08_MessagesAreNotCalls(t *testing.T) {
	g := newGuard(t, breaker.Config{ConsecutiveFailures: -1, MinCalls: 100})
	c := &calls{guard: g}
	for range 10 {
		_ = c.call(t.Context(), down)
	}
	left := 100_000
	f := &fakeStream{recv: func(any) error {
		if left == 0 {
			return eofOr(nil)
		}
		left--
		return nil
	}}
	cs, _ := openFake(t.Context(), t, g, bothStream, f)
	for left > 0 {
		if err := cs.SendMsg(nil); err != nil {
			t.Fatal(err)
		}
		if err := cs.RecvMsg(nil); err != nil {
			t.Fatal(err)
		}
	}
	wantTally(t, "after 100 000 messages", g, tally{Failure: 10, InFlight: 1})
	_, _ = drainRaw(cs)
	wantTally(t, "at the end", g, tally{Failure: 10, Success: 1})
	if got, want := onlyBreaker(t, g).Snapshot().Window.FailureRatio(), 10.0/11; got != want {
		t.Errorf("the failure ratio is %v, want %v", got, want)
	}
}

// S7, B22: a probe without an answer holds its slot only for the lease, and its later result is late. Even a sequence
// of such probes does not keep the breaker half-open.
func TestS07_SilentProbeHoldsItsLease(t *testing.T) {
	inEach(t, func(t arranged) {
		r := newProbeRig(t, "ServerStream", lives(0), t.streamArrangement, neverOld)
		forever := context.WithoutCancel(t.Context())
		for i := range uint64(5) {
			r.server(forever)
			time.Sleep(probeConfig.ProbeTimeout - 1)
			if _, err := r.client.ServerStream(forever, &testpb.Request{}); !IsRejected(err) {
				t.Errorf("lease %d, 1 ns before its end: got %v, want a rejection", i, err)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			wantProbeCounts(t, fmt.Sprintf("lease %d, over", i), r.guard, breaker.ProbeCounts{Lost: i + 1})
		}
		wantTally(t, "after five silent probes", r.guard, tally{InFlight: 5, Rejected: 5})
		r.srv.Set(sends(1, nil))
		if _, err := r.server(forever).Recv(); err != nil {
			t.Fatal(err)
		}
		wantState(t, "after a probe with a message", r.guard, breaker.Closed)
		_ = r.conn.Close()
		synctest.Wait()
		wantTally(t, "after the connection's end", r.guard, tally{Success: 1, Late: 5, Rejected: 5})
		wantState(t, "after late results", r.guard, breaker.Closed)
	})
}

// S14: a probe that is still open when it is old closes the breaker, even if no message has come and its lease has run
// out. So does a probe that has settled at its first message while one success is not enough.
func TestS14_OldProbeCloses(t *testing.T) {
	for _, tt := range []struct {
		name     string
		messages int
		lease    time.Duration
		want     tally
		probes   breaker.ProbeCounts
	}{
		{"silent", 0, time.Minute, one(breaker.Success), breaker.ProbeCounts{Success: 1}},
		{"silent, its lease over", 0, time.Second, tally{Late: 1}, breaker.ProbeCounts{Lost: 1}},
		{"after a message", 1, time.Minute, one(breaker.Success), breaker.ProbeCounts{Success: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inEach(t, func(t arranged) {
				g := newGuard(t, breaker.Config{OpenFor: 5 * time.Second, ProbeTimeout: tt.lease, SuccessesToClose: 3})
				r := newStreamRig(t, g, lives(tt.messages), t.dial...)
				halfOpen(t, g, breaker.Key{Target: r.conn.Target(), Service: "grpcircuit.testpb.Test", Method: "ServerStream"})
				s := r.server(t.Context())
				for range tt.messages {
					if _, err := s.Recv(); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(10*time.Second - 1)
				synctest.Wait()
				wantState(t, "1 ns before it is old", g, breaker.HalfOpen)
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				wantState(t, "once it is old", g, breaker.Closed)
				wantTally(t, "once it is old", g, tt.want)
				wantProbeCounts(t, "once it is old", g, tt.probes)
				_ = r.conn.Close()
				synctest.Wait()
				wantTally(t, "in the end", g, tt.want)
			})
		})
	}
}

// A probe may wait for a connection for any time. After its lease there may be other probes.
func TestS08_ProbeWaitsForReady(t *testing.T) {
	inEach(t, func(t arranged) {
		r := newProbeRig(t, "ServerStream", sends(1, nil), t.streamArrangement)
		r.backend.Stop()
		ctx, cancel := context.WithCancel(t.Context())
		created := make(chan error)
		go func() {
			_, err := r.client.ServerStream(ctx, &testpb.Request{}, grpc.WaitForReady(true))
			created <- err
		}()
		time.Sleep(probeConfig.ProbeTimeout)
		synctest.Wait()
		_, err := r.client.ServerStream(t.Context(), &testpb.Request{})
		if IsRejected(err) {
			t.Errorf("after the lease: %v, want another probe", err)
		}
		wantCode(t, "after the lease", err, codes.Unavailable)
		wantProbeCounts(t, "after the lease", r.guard, breaker.ProbeCounts{Lost: 1, Failure: 1})
		cancel()
		wantCode(t, "the probe that waited", <-created, codes.Canceled)
		wantTally(t, "in the end", r.guard, tally{Failure: 1, Late: 1})
	})
}

// S6, B21: if the caller cancels a probe or closes its connection, its slot is free within 100 ms, and it decides
// nothing.
func TestS06_ProbeCanceled(t *testing.T) {
	for _, reading := range []bool{false, true} {
		inEach(t, func(t arranged) {
			r := newProbeRig(t, "ServerStream", lives(0), t.streamArrangement)
			ctx, cancel := context.WithCancel(t.Context())
			s := r.server(ctx)
			if reading {
				go func() { _, _ = drain(s) }()
			}
			time.Sleep(time.Second)
			if _, err := r.client.ServerStream(t.Context(), &testpb.Request{}); !IsRejected(err) {
				t.Errorf("while the probe is out: got %v, want a rejection", err)
			}
			cancel()
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			wantState(t, "after the cancel", r.guard, breaker.HalfOpen)
			wantProbeCounts(t, "after the cancel", r.guard, breaker.ProbeCounts{Ignored: 1})
			r.server(t.Context()) // the next probe
			_ = r.conn.Close()
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			wantState(t, "after the connection's end", r.guard, breaker.HalfOpen)
			wantProbeCounts(t, "after the connection's end", r.guard, breaker.ProbeCounts{Ignored: 2})
			wantTally(t, "after the connection's end", r.guard, tally{Ignored: 2, Rejected: 1})
		})
	}
}

// S8: the hooks get a probe once, at its first message.
func TestS08_HooksGetAProbeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := new(settlements)
		g := newGuard(t, probeConfig, WithHooks(hooksOf(rec)))
		halfOpen(t, g, methodKey)
		cs, finish := openFake(t.Context(), t, g, serverStreams, &fakeStream{recv: func(any) error { return nil }})
		time.Sleep(time.Second)
		for range 3 {
			_ = cs.RecvMsg(nil)
		}
		finish(down)
		want := []Settlement{{Key: methodKey, Outcome: breaker.Success, Duration: time.Second, Probe: true}}
		if diff := cmp.Diff(want, rec.probed); diff != "" {
			t.Errorf("probed (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, rec.settled); diff != "" {
			t.Errorf("settled (-want +got):\n%s", diff)
		}
	})
}

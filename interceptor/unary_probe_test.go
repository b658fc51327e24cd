package interceptor

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// G14: a wait-for-ready call to a dead target may wait forever. As a probe it holds its slot only for ProbeTimeout
// (B22). Over a long outage, only few such calls hang.
func TestG14_WaitForReadyProbesDoNotHoldTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			lease  = 10 * time.Second
			cycles = 1000
		)
		var s *scene
		var up atomic.Bool
		g := newGuard(t, breaker.Config{OpenFor: time.Second, ProbeTimeout: lease}, WithKey(oneKey))
		s = newScene(t, g, "", grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			if !up.Load() {
				return nil, errors.New("connection refused")
			}
			return s.backend.DialContext(ctx, addr)
		}))
		g.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
		time.Sleep(time.Second)
		ended := make(chan error, cycles)
		for i := range cycles {
			go func() {
				_, err := s.client.Unary(t.Context(), &testpb.Request{}, grpc.WaitForReady(true))
				ended <- err
			}()
			synctest.Wait()
			if got := onlyBreaker(t, g).Snapshot().InFlight; i < 8 && got != uint64(i+1) {
				t.Errorf("after %d leases %d probes are out, want %d", i, got, i+1)
			}
			if err := s.plain(); !IsRejected(err) {
				t.Errorf("lease %d: got %v while the probe holds the slot, want a rejection", i, err)
			}
			time.Sleep(lease - 1)
			if err := s.plain(); !IsRejected(err) {
				t.Errorf("lease %d: got %v a nanosecond before its end, want a rejection", i, err)
			}
			time.Sleep(time.Nanosecond)
		}
		wantState(t, "while all probes hang", g, breaker.HalfOpen)
		out := onlyBreaker(t, g).Snapshot().InFlight
		if out > 60 {
			t.Errorf("after %d leases %d probes are out, want some dozens at most", cycles, out)
		}
		if got, want := len(ended), cycles-int(out); got != want {
			t.Errorf("%d calls have ended, want the %d that were not probes", got, want)
		}

		up.Store(true)
		time.Sleep(time.Hour)
		for range cycles {
			if err := <-ended; err != nil && !IsRejected(err) {
				t.Errorf("a call ended with %v", err)
			}
		}
		for range 2 {
			wantCode(t, "a probe of a backend that is back", s.plain(), codes.OK)
		}
		wantState(t, "in the end", g, breaker.Closed)
		if got := tallyOf(onlyBreaker(t, g).Snapshot()); got.Late != out || got.Success != 2 || got.InFlight != 0 ||
			got.Failure != 0 {
			t.Errorf("got %+v, want the %d probes that hung late, and two successes", got, out)
		}
	})
}

// The same with a backend that accepts calls and never answers.
func TestG14_SilentBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{OpenFor: time.Second, ProbeTimeout: 10 * time.Second, SuccessesToClose: 1},
			WithKey(oneKey))
		s := newScene(t, g, "")
		g.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
		time.Sleep(time.Second)
		err := s.inFlight(func(cancel context.CancelFunc) {
			if err := s.plain(); !IsRejected(err) {
				t.Errorf("got %v while the probe is out, want a rejection", err)
			}
			time.Sleep(10 * time.Second)
			s.srv.Set(testpb.Script{})
			wantCode(t, "the next probe", s.plain(), codes.OK)
			wantState(t, "once it has succeeded", g, breaker.Closed)
			cancel()
		})
		wantCode(t, "the lost probe", err, codes.Canceled)
		wantTally(t, "in the end", g, tally{Success: 1, Late: 1, Rejected: 1})
	})
}

// B21: a probe that its caller cancels decides nothing, and the next call may be a probe at once.
func TestB21_CanceledProbeFreesItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{OpenFor: time.Second, SuccessesToClose: 1}, WithKey(oneKey))
		s := newScene(t, g, "")
		g.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
		time.Sleep(time.Second)
		err := s.inFlight(func(cancel context.CancelFunc) { cancel() })
		wantCode(t, "the probe", err, codes.Canceled)
		wantState(t, "after a canceled probe", g, breaker.HalfOpen)
		s.srv.Set(testpb.Script{})
		wantCode(t, "the next probe", s.plain(), codes.OK)
		wantState(t, "after the next probe", g, breaker.Closed)
	})
}

// B15: a call that was admitted before the breaker opened does not count.
func TestB15_LateResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{OpenFor: time.Second, SuccessesToClose: 1}, WithKey(oneKey))
		s := newScene(t, g, "")
		release := make(chan struct{})
		s.srv.Set(testpb.Script{OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
			<-release
			return &testpb.Response{}, nil
		}})
		ended := make(chan error, 1)
		go func() { ended <- s.plain() }()
		synctest.Wait()
		onlyBreaker(t, g).Trip(t.Context(), "test")
		time.Sleep(time.Second)
		s.srv.Set(failing(down))
		wantCode(t, "a probe that fails", s.plain(), codes.Unavailable)
		close(release)
		wantCode(t, "the call from before", <-ended, codes.OK)
		wantState(t, "after a late success", g, breaker.Open)
		wantTally(t, "in the end", g, tally{Failure: 1, Late: 1})
	})
}

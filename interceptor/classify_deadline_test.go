package interceptor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// G3: the deadline has passed, but the context is not done yet (G4). The guard passes such a call to grpc. It takes no
// probe slot and counts nothing.
func TestG03_DeadlineBeforeTheCall(t *testing.T) {
	late := status.Error(codes.DeadlineExceeded, "context deadline exceeded")
	for _, budget := range []time.Duration{0, -1, -time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, breaker.Config{ConsecutiveFailures: 1, OpenFor: time.Second}, WithKey(oneKey))
			b := g.Group().Get(breaker.Key{})
			ctx := lateTimer{t.Context(), time.Now().Add(budget)}
			runs := 0
			call := func(ctx context.Context) {
				t.Helper()
				if err := (&calls{guard: g}).call(ctx, late); err != late { //nolint:errorlint // the same value
					t.Errorf("a call: got %v, want %v", err, late)
				}
				runs++
			}
			stream := func() {
				t.Helper()
				_, err := g.Stream(ctx, serverStreams, nil, fullMethod,
					func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
						runs++
						return nil, late
					})
				if err != late { //nolint:errorlint // the same value
					t.Errorf("a stream: got %v, want %v", err, late)
				}
			}
			call(ctx)
			stream()
			wantTally(t, "late before they began", g, tally{})
			b.Trip(t.Context(), "test")
			call(ctx) // not rejected: grpc ends it
			time.Sleep(time.Second)
			ctx.deadline = time.Now()
			call(ctx)
			stream()
			if s := b.Snapshot(); s.State != breaker.Open || s.Admitted != 0 || !s.Ready {
				t.Errorf("%v, %d admitted, ready: %v; want open, 0, true: no slot is taken", s.State, s.Admitted, s.Ready)
			}
			if runs != 5 {
				t.Errorf("%d of 5 calls reached grpc, want 5", runs)
			}
			ctx.deadline = time.Now().Add(1) // time is left, so the call is guarded
			call(ctx)
			wantTally(t, "with a nanosecond left", g, one(breaker.Failure))
		})
	}
}
